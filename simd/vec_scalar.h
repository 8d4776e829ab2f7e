/* SPDX-License-Identifier: MIT
 *
 * v16, sixteen f32 lanes, in plain C: the reference of the abstraction that f32_body.h is written
 * in.  A new level is a new vec_<isa>.h with these same functions.  What must hold on every level:
 *   - add, sub, mul, div, fma round once, to nearest even; no flush of subnormals;
 *   - max(a, b) is a > b ? a : b and min(a, b) is a < b ? a : b, hence b when either is NaN;
 *   - sum and hmax join lane i with i+8, then i+4, i+2, i+1, lower index as first operand.
 */
#ifndef FG_SIMD_VEC_SCALAR_H
#define FG_SIMD_VEC_SCALAR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "src/base/fp.h"

/* Not forced inline: the reference need not be fast, and gcc takes minutes over it with sanitizers
 * otherwise (clang has no __SANITIZE_ADDRESS__ and no such trouble). */
#if defined(__SANITIZE_ADDRESS__)
#define V16_FN static __attribute__((noinline, unused))
#else
#define V16_FN static inline __attribute__((unused))
#endif

enum { V16_TILE = 2 }; /* tokens, heads or rows that share a loaded vector; changes no bit */

typedef struct v16 {
    float f[16];
} v16;
typedef struct v16i {
    int32_t i[16];
} v16i;

#define V16_EACH(expr)                                                                             \
    v16 r_;                                                                                        \
    for (int i = 0; i < 16; i++) r_.f[i] = (expr);                                                 \
    return r_
#define V16I_EACH(expr)                                                                            \
    v16i r_;                                                                                       \
    for (int i = 0; i < 16; i++) r_.i[i] = (expr);                                                 \
    return r_

V16_FN uint32_t v16_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
V16_FN float v16_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* No alignment needed. */
V16_FN v16 v16_load(const float *p)
{
    v16 r;
    memcpy(r.f, p, sizeof r.f);
    return r;
}
V16_FN void v16_store(float *p, v16 a)
{
    memcpy(p, a.f, sizeof a.f);
}
V16_FN v16 v16_load_bf16(const uint16_t *p)
{
    V16_EACH(v16_from_bits((uint32_t)p[i] << 16));
}
/* Exact; subnormals included. */
V16_FN v16 v16_load_f16(const uint16_t *p)
{
    V16_EACH(fg_f16_to_f32(p[i]));
}
V16_FN v16 v16_load_i32(const int32_t *p)
{
    V16_EACH((float)p[i]);
}
V16_FN v16 v16_set1(float x)
{
    V16_EACH(x);
}
V16_FN v16 v16_zero(void)
{
    return v16_set1(0.0f);
}
V16_FN float v16_first(v16 a)
{
    return a.f[0];
}

V16_FN v16 v16_add(v16 a, v16 b)
{
    V16_EACH(a.f[i] + b.f[i]);
}
V16_FN v16 v16_sub(v16 a, v16 b)
{
    V16_EACH(a.f[i] - b.f[i]);
}
V16_FN v16 v16_mul(v16 a, v16 b)
{
    V16_EACH(a.f[i] * b.f[i]);
}
V16_FN v16 v16_div(v16 a, v16 b)
{
    V16_EACH(a.f[i] / b.f[i]);
}
/* a * b + c */
V16_FN v16 v16_fma(v16 a, v16 b, v16 c)
{
    V16_EACH(fmaf(a.f[i], b.f[i], c.f[i]));
}
V16_FN v16 v16_max(v16 a, v16 b)
{
    V16_EACH(a.f[i] > b.f[i] ? a.f[i] : b.f[i]);
}
V16_FN v16 v16_min(v16 a, v16 b)
{
    V16_EACH(a.f[i] < b.f[i] ? a.f[i] : b.f[i]);
}
/* Lane i of the result is lane i ^ d; d, a constant at each call, is 8, 4, 2 or 1. */
V16_FN v16 v16_swap(v16 a, int d)
{
    V16_EACH(a.f[i ^ d]);
}
V16_FN float v16_sum(v16 a)
{
    for (int w = 8; w > 0; w /= 2) {
        for (int i = 0; i < w; i++) a.f[i] = a.f[i] + a.f[i + w];
    }
    return a.f[0];
}
V16_FN float v16_hmax(v16 a)
{
    for (int w = 8; w > 0; w /= 2) {
        for (int i = 0; i < w; i++) a.f[i] = a.f[i] > a.f[i + w] ? a.f[i] : a.f[i + w];
    }
    return a.f[0];
}

/* t = 1.5 * 2^23 + n with integer n, -126 <= n <= 128: the float 2^(n-1), 0 for n = -126.  The
 * low nine bits of t are n, since those of 1.5 * 2^23 (0x4b400000) are zero. */
V16_FN v16 v16_pow2_below(v16 t)
{
    V16_EACH(v16_from_bits((v16_bits(t.f[i]) + 126u) << 23));
}

/* Bit pattern of |x|; ordered like |x|, with infinity and NaN on top. */
V16_FN v16i v16i_abs_bits(v16 a)
{
    V16I_EACH((int32_t)(v16_bits(a.f[i]) & 0x7fffffffu));
}
/* t = 1.5 * 2^23 + n with integer n, |n| < 2^22: n. */
V16_FN v16i v16i_from_biased(v16 t)
{
    V16I_EACH((int32_t)(v16_bits(t.f[i]) - 0x4b400000u));
}
V16_FN v16i v16i_zero(void)
{
    V16I_EACH(0);
}
V16_FN v16i v16i_add(v16i a, v16i b)
{
    V16I_EACH(a.i[i] + b.i[i]);
}
V16_FN v16i v16i_max(v16i a, v16i b)
{
    V16I_EACH(a.i[i] > b.i[i] ? a.i[i] : b.i[i]);
}
V16_FN int32_t v16i_sum(v16i a)
{
    int32_t s = 0;
    for (int i = 0; i < 16; i++) s += a.i[i];
    return s;
}
V16_FN int32_t v16i_hmax(v16i a)
{
    int32_t m = a.i[0];
    for (int i = 1; i < 16; i++) m = a.i[i] > m ? a.i[i] : m;
    return m;
}
/* Lanes within -128..127. */
V16_FN void v16i_store_i8(int8_t *p, v16i a)
{
    for (int i = 0; i < 16; i++) p[i] = (int8_t)a.i[i];
}
/* Lanes within -32768..32767. */
V16_FN void v16i_store_i16(int16_t *p, v16i a)
{
    for (int i = 0; i < 16; i++) p[i] = (int16_t)a.i[i];
}

#undef V16_EACH
#undef V16I_EACH

#endif
