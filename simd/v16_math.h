/* SPDX-License-Identifier: MIT
 *
 * What several bodies of kernels share, over v16: included after a vec_<isa>.h.
 */
#ifndef FG_SIMD_V16_MATH_H
#define FG_SIMD_V16_MATH_H

#ifndef V16_FN /* alone, the header still compiles */
#include "simd/vec_scalar.h"
#endif

#include <math.h>
#include <string.h>

static const float v16_bias = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, RNE */

/* Asks for lines into the second-level cache; they need not be there. */
V16_FN void fetch_line(const void *p)
{
    __builtin_prefetch(p, 0, 2);
}

/* Keys, then values, of a block of attention, as lines: `half` of each; `at`: the next one to be
 * asked for, of the first `due`, which is as many as are wanted up to the end of what is done
 * now. */
typedef struct attn_ahead {
    const int8_t *k, *v;
    size_t half, at, due;
} attn_ahead;

/* At most n more of those due: all of them at once would stall, for a fifth of the time of what
 * comes from memory. */
V16_FN void fetch_ahead(attn_ahead *x, size_t n)
{
    for (; n > 0 && x->at < x->due; n--, x->at++) {
        fetch_line(x->at < x->half ? x->k + 64 * x->at : x->v + 64 * (x->at - x->half));
    }
}

/* Of those due, for each of n_step steps. */
V16_FN size_t ahead_step(const attn_ahead *x, size_t n_step)
{
    return n_step == 0 ? 0 : (x->due - x->at + n_step - 1) / n_step;
}

/* The first n < 16 floats at p, other lanes `fill`. */
V16_FN v16 load_some(const float *p, size_t n, float fill)
{
    float lane[16];
    for (size_t i = 0; i < 16; i++) lane[i] = fill;
    memcpy(lane, p, n * sizeof *p);
    return v16_load(lane);
}

V16_FN void store_some(float *p, size_t n, v16 a)
{
    float lane[16];
    v16_store(lane, a);
    memcpy(p, lane, n * sizeof *p);
}

/* e^x.  n = RNE(x / ln 2), r = x - n ln 2 in two steps (the first product is exact: the high part
 * has 15 bits), degree-6 minimax polynomial of e^r on |r| <= 0.3475 (relative error 3.2e-9), times
 * 2^n as 2 * 2^(n-1), so that n = 128 overflows only where it should.
 * 0 for x < -86.99 (n <= -126): results are never subnormal.  +infinity above 88.7228; NaN for
 * NaN, which the operand order of the clamps lets through.  Error below 1 ulp (tested). */
V16_FN v16 v16_exp(v16 x)
{
    x = v16_max(v16_set1(-87.25f), x);
    x = v16_min(v16_set1(89.0f), x);
    const v16 t = v16_fma(x, v16_set1(0x1.715476p+0f), v16_set1(v16_bias));
    const v16 n = v16_sub(t, v16_set1(v16_bias));
    v16 r = v16_fma(n, v16_set1(-0x1.62e4p-1f), x);
    r = v16_fma(n, v16_set1(-0x1.7f7d1cp-20f), r);
    v16 p = v16_set1(0x1.6a3fb8p-10f);
    p = v16_fma(p, r, v16_set1(0x1.1239e0p-7f));
    p = v16_fma(p, r, v16_set1(0x1.5558bep-5f));
    p = v16_fma(p, r, v16_set1(0x1.555492p-3f));
    p = v16_fma(p, r, v16_set1(0x1.fffffcp-2f));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_fma(p, r, v16_set1(1.0f));
    return v16_mul(v16_add(p, p), v16_pow2_below(t));
}

/* Maximum and weights of n scores; x is readable and writable up to n rounded up to 16, and lanes
 * beyond n hold -infinity, whose weight is 0.  A NaN score is skipped by max(x, m) and then makes
 * the sum NaN. */
V16_FN void weigh_scores(float *x, size_t n, float *max, float *sum)
{
    v16 m = v16_set1(-INFINITY), acc = v16_zero();
    for (size_t i = 0; i < n; i += 16) m = v16_max(v16_load(x + i), m);
    *max = v16_hmax(m);
    m = v16_set1(*max);
    for (size_t i = 0; i < n; i += 16) {
        const v16 e = v16_exp(v16_sub(v16_load(x + i), m));
        v16_store(x + i, e);
        acc = v16_add(acc, e);
    }
    *sum = v16_sum(acc);
}

/* q[i] = x[i] * (top / max|x|) rounded to nearest even, for n / 16 vectors; returns max|x| / top.
 * A row below 2^-112, where top / max could overflow, counts as zero; one with NaN or infinity
 * becomes zeros with a NaN scale. */
V16_FN float quantize_row16(const float *x, size_t n, float top, int16_t *q)
{
    v16i m = v16i_zero();
    for (size_t i = 0; i < n; i += 16) m = v16i_max(m, v16i_abs_bits(v16_load(x + i)));
    const uint32_t bits = (uint32_t)v16i_hmax(m);
    if (bits < 0x07800000u || bits >= 0x7f800000u) {
        memset(q, 0, n * sizeof *q);
        return bits < 0x07800000u ? 0.0f : (float)NAN;
    }
    float max;
    memcpy(&max, &bits, sizeof max);
    const v16 inv = v16_set1(top / max), bias = v16_set1(v16_bias);
    for (size_t i = 0; i < n; i += 16) {
        v16i_store_i16(q + i, v16i_from_biased(v16_add(v16_mul(v16_load(x + i), inv), bias)));
    }
    return max / top;
}

#endif
