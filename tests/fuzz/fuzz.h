/* SPDX-License-Identifier: MIT
 *
 * Fuzz targets: one file a parser.  A target turns bytes into a call and checks what must hold
 * afterwards; whether memory is left alone is the sanitizer's to say.  It is written once and used
 * twice:
 *
 *   tests/fuzz/test_fuzz (the suite)    its seeds, the inputs of tests/vectors/fuzz that begin with
 *                                       its name, and some thousand mutations of them, always the
 *                                       same; then once more with a fault planted, which must be
 *                                       found
 *   make fuzz T=json SECONDS=600        libFuzzer, from the same seeds
 */
#ifndef FG_TESTS_FUZZ_FUZZ_H
#define FG_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "tests/fg_test.h"

typedef struct fuzz_target {
    const char *name;
    void (*one)(const uint8_t *d,
                size_t n); /* d: exactly n bytes, an inaccessible page after them */
    void (*seeds)(void);   /* calls fuzz_seed */
    unsigned rounds;       /* mutations in the suite */
} fuzz_target;

#ifdef FG_FUZZER
#define FUZZ_USE(id) const fuzz_target *const fuzz_the_target = &target;
extern const fuzz_target *const fuzz_the_target;
#else
#define FUZZ_USE(id)                                                                               \
    FG_TEST(id)                                                                                    \
    {                                                                                              \
        fuzz_replay(&target);                                                                      \
    }
#endif

/* At the head of a target's file, which then defines seeds and one. */
#define FUZZ_TARGET(id, n_round)                                                                   \
    static void seeds(void);                                                                       \
    static void one(const uint8_t *d, size_t n);                                                   \
    static const fuzz_target target = {#id, one, seeds, n_round};                                  \
    FUZZ_USE(id)

void fuzz_replay(const fuzz_target *t);

void fuzz_seed(const void *bytes, size_t n);
void fuzz_seed_text(const char *text);
/* A file of the tree; aborts when it is not there. */
void fuzz_seed_file(const char *path);
/* Its bytes, to be freed with free. */
uint8_t *fuzz_read(const char *path, size_t *n);

/* What must hold.  A target plants its fault where fuzz_planted is set, as deep as it goes, and one
 * of its checks must then report it. */
#define FUZZ_CHECK(cond)                                                                           \
    do {                                                                                           \
        if (!(cond)) fuzz_failed(__FILE__, __LINE__, #cond);                                       \
    } while (0)
void fuzz_failed(const char *file, int line, const char *what);
extern bool fuzz_planted;

/* What holds for every fallible call: success without a message, or a failure with one line that is
 * harmless on a terminal. */
void fuzz_check_status(fg_status st, fg_err *err);

/* Writes the whole file NAME in the test's folder and returns its path. */
const char *fuzz_put(const char *name, const void *bytes, size_t n);

/* The bytes at *d are taken from the front of an input; zeros at its end. */
uint64_t fuzz_take(const uint8_t **d, size_t *n, unsigned bytes);

uint64_t fuzz_get_le(const uint8_t *p, unsigned bytes);
void fuzz_put_le(uint8_t *p, unsigned bytes, uint64_t v);

#endif
