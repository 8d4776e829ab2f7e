/* SPDX-License-Identifier: MIT
 *
 * Test harness.  A test program is any tests/<area>/test_<name>.c that uses FG_TEST; it is linked
 * with fg_test.c (main) and the library.  Programs run from the root of the tree.
 *
 *     FG_TEST(adds_two_numbers) { CHECK(1 + 1 == 2); }
 *
 * Output is one line a test ("ok", "FAIL", "skip") and a closing count; zero tests run is a
 * failure.  `test_x PATTERN` runs the tests whose name contains PATTERN; with FULGUR_TEST_TIMES=1
 * it prints the processor time of each.
 */
#ifndef FG_TESTS_FG_TEST_H
#define FG_TESTS_FG_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fg_test_case {
    const char *name;
    void (*run)(void);
    struct fg_test_case *next;
} fg_test_case;

void fg_test_register(fg_test_case *t);
/* Marks the running test failed and prints why. */
void fg_test_fail(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Marks the running test skipped; the test should then return. */
void fg_test_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
bool fg_test_failed(void);

/* True in `scripts/test.sh long` (FULGUR_TEST_LONG=1): sweeps are whole and campaigns as long as
 * they are before a release. */
bool fg_test_long(void);
/* Step of a sweep over states that resemble their neighbours: 1 in a long run, else `usual`, under
 * a sanitizer, which looks for other faults, `sanitized`.  Odd numbers keep what goes by parity. */
int fg_test_every(int usual, int sanitized);

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FG_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FG_TEST_SANITIZED 1
#endif
#endif
#ifndef FG_TEST_SANITIZED
#define FG_TEST_SANITIZED 0
#endif

/* Path below the shared folder (FULGUR_SHARED, default ../shared) in a static buffer, or NULL when
 * it is absent; skips the running test then. */
const char *fg_test_shared(const char *path);
/* The same without skipping: for a test that does with less. */
const char *fg_test_beside(const char *path);

/* A fresh empty folder for this process, removed at exit. */
const char *fg_test_tmpdir(void);
/* Path in that folder, in one of 8 rotating static buffers. */
const char *fg_test_tmp(const char *name);
/* Writes a file of this text; whether there is one. */
void fg_test_put(const char *path, const char *text);
bool fg_test_has(const char *path, const char *text);

/* The larger of the two, NaN once anything was NaN (fmax would forget it). */
static inline double fg_test_worst(double worst, double d)
{
    return d > worst || d != d ? d : worst;
}

#define FG_TEST(id)                                                                                \
    static void test_##id(void);                                                                   \
    static fg_test_case case_##id = {#id, test_##id, NULL};                                        \
    __attribute__((constructor)) static void register_##id(void)                                   \
    {                                                                                              \
        fg_test_register(&case_##id);                                                              \
    }                                                                                              \
    static void test_##id(void)

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) fg_test_fail(__FILE__, __LINE__, "%s", #cond);                                \
    } while (0)

/* Stops the test on failure. */
#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fg_test_fail(__FILE__, __LINE__, "%s", #cond);                                         \
            return;                                                                                \
        }                                                                                          \
    } while (0)

/* A call that must give FG_OK; prints the error's text when it does not. */
#define CHECK_OK(call, err)                                                                        \
    do {                                                                                           \
        const int st_ = (int)(call);                                                               \
        if (st_ != 0) {                                                                            \
            fg_test_fail(__FILE__, __LINE__, "%s: status %d: %s", #call, st_, (err)->msg);         \
        }                                                                                          \
    } while (0)

/* The same, and stops the test on failure. */
#define REQUIRE_OK(call, err)                                                                      \
    do {                                                                                           \
        const int st_ = (int)(call);                                                               \
        if (st_ != 0) {                                                                            \
            fg_test_fail(__FILE__, __LINE__, "%s: status %d: %s", #call, st_, (err)->msg);         \
            return;                                                                                \
        }                                                                                          \
    } while (0)

#define CHECK_U64(got, want)                                                                       \
    do {                                                                                           \
        const unsigned long long g_ = (unsigned long long)(got), w_ = (unsigned long long)(want);  \
        if (g_ != w_) {                                                                            \
            fg_test_fail(__FILE__, __LINE__, "%s = %llu, expected %llu", #got, g_, w_);            \
        }                                                                                          \
    } while (0)

/* |got - want| <= tol; false for NaN. */
#define CHECK_NEAR(got, want, tol)                                                                 \
    do {                                                                                           \
        const double g_ = (double)(got), w_ = (double)(want), t_ = (double)(tol);                  \
        if (!(g_ - w_ <= t_ && w_ - g_ <= t_)) {                                                   \
            fg_test_fail(__FILE__, __LINE__, "%s = %.9g, expected %.9g +- %.3g", #got, g_, w_,     \
                         t_);                                                                      \
        }                                                                                          \
    } while (0)

#define CHECK_STR(got, want)                                                                       \
    do {                                                                                           \
        const char *g_ = (got), *w_ = (want);                                                      \
        if (g_ == NULL || __builtin_strcmp(g_, w_) != 0) {                                         \
            fg_test_fail(__FILE__, __LINE__, "%s = \"%s\", expected \"%s\"", #got,                 \
                         g_ == NULL ? "(null)" : g_, w_);                                          \
        }                                                                                          \
    } while (0)

#endif
