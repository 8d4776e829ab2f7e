/* SPDX-License-Identifier: MIT
 *
 * Conversions between f32 and the 16-bit floating formats, bit-exact and branch-light.
 */
#ifndef FG_SRC_BASE_FP_H
#define FG_SRC_BASE_FP_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t fg_f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float fg_f32_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* n floats, little-endian: dst[4 * n]. */
static inline void fg_f32_put_le(uint8_t *dst, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t u = fg_f32_bits(v[i]);
        for (size_t k = 0; k < 4; k++) dst[4 * i + k] = (uint8_t)(u >> (8 * k));
    }
}

static inline float fg_bf16_to_f32(uint16_t h)
{
    return fg_f32_from_bits((uint32_t)h << 16);
}

/* Round to nearest even; a NaN stays a (quiet) NaN. */
static inline uint16_t fg_f32_to_bf16(float x)
{
    const uint32_t u = fg_f32_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline float fg_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 31u;
    uint32_t fraction = h & 0x3ffu;
    if (exponent == 31) return fg_f32_from_bits(sign | 0x7f800000u | (fraction << 13));
    if (exponent != 0) return fg_f32_from_bits(sign | ((exponent + 112u) << 23) | (fraction << 13));
    /* subnormal: fraction * 2^-24 is exact in f32 */
    const float magnitude = (float)fraction * 0x1p-24f;
    return fg_f32_from_bits(sign | fg_f32_bits(magnitude));
}

/* Round to nearest even, from 65520 on to infinity; a NaN stays a (quiet) NaN. */
static inline uint16_t fg_f32_to_f16(float x)
{
    const uint32_t u = fg_f32_bits(x), sign = (u >> 16) & 0x8000u;
    uint32_t m = u & 0x7fffffffu;
    if (m > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((m >> 13) & 0x3ffu));
    if (m >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* 65536 */
    if (m < 0x38800000u) {                                   /* below 2^-14, subnormal in f16 */
        m = fg_f32_bits(fg_f32_from_bits(m) + 0.5f);         /* rounds at 2^-24 */
        return (uint16_t)(sign | (m - 0x3f000000u));
    }
    m -= 112u << 23; /* difference of the exponent biases */
    return (uint16_t)(sign | ((m + 0xfffu + ((m >> 13) & 1u)) >> 13));
}

#endif
