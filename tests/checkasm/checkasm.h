/* SPDX-License-Identifier: MIT
 *
 * Tools of the kernel tests: the list of all variants, buffers that end at an unreadable page,
 * faults caught and reported, and comparison of bits.
 *
 * A variant is compared with the scalar reference only, never with another variant, and the
 * reference with a computation of the test's own.
 */
#ifndef FG_TESTS_CHECKASM_CHECKASM_H
#define FG_TESTS_CHECKASM_CHECKASM_H

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "simd/kernels_decl.h"
#include "src/base/rng.h"
#include "tests/fg_test.h"

#define UNUSED_OK __attribute__((unused))

typedef void any_fn(void);

typedef struct variant {
    const char *slot, *type, *name;
    uint32_t features;
    any_fn *fn;
} variant;

#if defined(__x86_64__) /* tests/amx_shim.c */
#define SHIM_VARIANTS(X)                                                                           \
    X(tiles, tiles_q4)                                                                             \
    X(tiles, tiles_q4lin)                                                                          \
    X(tiles, tiles_q5) X(tiles, tiles_q6) X(tiles, tiles_q8) X(attn_i8, attn_i8)
#else
#define SHIM_VARIANTS(X)
#endif
#define DECLARE(type, slot) fg_##type##_fn shim_##slot;
SHIM_VARIANTS(DECLARE)
#undef DECLARE

static const variant variants[] = {
#define FG_KERNEL(slot, type, symbol, features) {#slot, #type, #symbol, features, (any_fn *)symbol},
#include "simd/kernels.inc"
#undef FG_KERNEL
#define SHIM(type, slot) {#slot, #type, "shim_" #slot, FG_CPU_AVX512VNNI, (any_fn *)shim_##slot},
    SHIM_VARIANTS(SHIM)
#undef SHIM
};
enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

UNUSED_OK static const variant *reference_of(const char *slot)
{
    for (size_t i = 0; i < N_VARIANTS; i++) {
        if (strcmp(variants[i].slot, slot) == 0 && variants[i].features == 0) return &variants[i];
    }
    return NULL;
}

/* This machine can run it. */
UNUSED_OK static bool runnable(const variant *v)
{
    return (v->features & ~fg_cpu_detect()) == 0;
}

/* Memory whose last byte is followed by an unreadable page. */
typedef struct guarded {
    uint8_t *map, *p;
    size_t map_bytes;
} guarded;

UNUSED_OK static guarded guard_alloc(size_t bytes)
{
    const size_t page = 4096, body = (bytes + page - 1) / page * page;
    guarded g = {.map_bytes = body + page};
    void *m = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED || mprotect((uint8_t *)m + body, page, PROT_NONE) != 0) abort();
    g.map = m;
    g.p = g.map + body - bytes;
    return g;
}

UNUSED_OK static void guard_free(guarded *g)
{
    (void)munmap(g->map, g->map_bytes);
}

static sigjmp_buf fault_return;
UNUSED_OK static void on_fault(int sig)
{
    siglongjmp(fault_return, sig);
}

UNUSED_OK static void catch_faults(bool on)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on ? on_fault : SIG_DFL;
    (void)sigemptyset(&a.sa_mask);
    (void)sigaction(SIGSEGV, &a, NULL);
    (void)sigaction(SIGBUS, &a, NULL);
    (void)sigaction(SIGILL, &a, NULL);
}

/* Runs `call`; `faulted` is true when it raised SIGSEGV, SIGBUS or SIGILL. */
#define RUN_CAUGHT(faulted, call)                                                                  \
    do {                                                                                           \
        catch_faults(true);                                                                        \
        if (sigsetjmp(fault_return, 1) == 0) {                                                     \
            call;                                                                                  \
            (faulted) = false;                                                                     \
        } else {                                                                                   \
            (faulted) = true;                                                                      \
        }                                                                                          \
        catch_faults(false);                                                                       \
    } while (0)

/* Equal bits; any NaN equals any NaN (sign and payload of a NaN are no part of the contract). */
UNUSED_OK static bool same_floats(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (a[i] != a[i] && b[i] != b[i]) continue;
        if (memcmp(&a[i], &b[i], sizeof a[i]) != 0) return false;
    }
    return true;
}

/* Rounding unit and the usual bound of n roundings. */
static const double unit = 0x1p-24;
UNUSED_OK static double gamma_of(double n)
{
    return n * unit / (1.0 - n * unit);
}

/* Bell-shaped, mean 0, variance 1, within 3.5: a sum of four, since a logarithm and a cosine for
 * each would take most of the time under an emulator. */
UNUSED_OK static double normal_of(fg_rng *r)
{
    const uint64_t a = fg_rng_u64(r), b = fg_rng_u64(r);
    const uint64_t sum = (a >> 32) + (a & 0xffffffffu) + (b >> 32) + (b & 0xffffffffu);
    return ((double)sum - 0x1p33) * (1.7320508075688772 * 0x1p-32);
}

/* Float inputs. */
enum {
    IN_ZERO,
    IN_MAX,
    IN_MIN,
    IN_ALTERNATE,
    IN_ONE_HOT,
    IN_UNIFORM,
    IN_NORMAL,
    IN_OUTLIER,
    IN_SUBNORMAL,
    N_FINITE, /* the kinds above keep all results finite */
    IN_NAN = N_FINITE,
    IN_INF,
    N_INPUTS
};

UNUSED_OK static void fill_floats(fg_rng *r, int kind, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const double u = fg_rng_f64(r);
        switch (kind) {
        case IN_ZERO: x[i] = 0.0f; break;
        case IN_MAX: x[i] = 40.0f; break;
        case IN_MIN: x[i] = -40.0f; break;
        case IN_ALTERNATE: x[i] = i % 2 == 0 ? 17.25f : -17.5f; break;
        case IN_ONE_HOT: x[i] = 0.0f; break;
        case IN_UNIFORM: x[i] = (float)(2.0 * u - 1.0); break;
        case IN_OUTLIER: x[i] = (float)(normal_of(r) * (i % 97 == 5 ? 60.0 : 0.5)); break;
        case IN_SUBNORMAL: x[i] = (float)((2.0 * u - 1.0) * 0x1p-127); break;
        default: x[i] = (float)normal_of(r); break;
        }
    }
    if (n == 0) return;
    const size_t at = (size_t)(fg_rng_u64(r) % n);
    if (kind == IN_ONE_HOT) x[at] = 3.0f;
    if (kind == IN_NAN) x[at] = NAN;
    if (kind == IN_INF) x[at] = INFINITY;
}

#endif
