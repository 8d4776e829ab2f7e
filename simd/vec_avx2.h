/* SPDX-License-Identifier: MIT
 *
 * v16 for AVX2 + FMA + F16C: two ymm registers.  Rules in vec_scalar.h.
 */
#ifndef FG_SIMD_VEC_AVX2_H
#define FG_SIMD_VEC_AVX2_H

#include <stddef.h>
#include <stdint.h>

/* Else empty, so that the header compiles anywhere. */
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

#define V16_FN static inline __attribute__((always_inline, unused))

enum { V16_TILE = 4 }; /* 8 accumulators, 2 vectors, 1 broadcast of 16 registers */

typedef struct v16 {
    __m256 lo, hi; /* lanes 0-7, 8-15 */
} v16;
typedef struct v16i {
    __m256i lo, hi;
} v16i;

V16_FN v16 v16_load(const float *p)
{
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
V16_FN void v16_store(float *p, v16 a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
V16_FN v16 v16_load_bf16(const uint16_t *p)
{
    const __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)p);
    const __m256i lo = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(x));
    const __m256i hi = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1));
    return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}
V16_FN v16 v16_load_f16(const uint16_t *p)
{
    const __m128i *x = (const __m128i *)(const void *)p;
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128(x)), _mm256_cvtph_ps(_mm_loadu_si128(x + 1))};
}
V16_FN v16 v16_load_i32(const int32_t *p)
{
    const __m256i *x = (const __m256i *)(const void *)p;
    return (v16){_mm256_cvtepi32_ps(_mm256_loadu_si256(x)),
                 _mm256_cvtepi32_ps(_mm256_loadu_si256(x + 1))};
}
V16_FN v16 v16_set1(float x)
{
    return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
V16_FN v16 v16_zero(void)
{
    return (v16){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
V16_FN float v16_first(v16 a)
{
    return _mm256_cvtss_f32(a.lo);
}

V16_FN v16 v16_add(v16 a, v16 b)
{
    return (v16){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
V16_FN v16 v16_sub(v16 a, v16 b)
{
    return (v16){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
V16_FN v16 v16_mul(v16 a, v16 b)
{
    return (v16){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
V16_FN v16 v16_div(v16 a, v16 b)
{
    return (v16){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
V16_FN v16 v16_fma(v16 a, v16 b, v16 c)
{
    return (v16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
V16_FN v16 v16_max(v16 a, v16 b)
{
    return (v16){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
V16_FN v16 v16_min(v16 a, v16 b)
{
    return (v16){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
V16_FN v16 v16_swap(v16 a, int d)
{
    switch (d) {
    case 8: return (v16){a.hi, a.lo};
    case 4:
        return (v16){_mm256_permute2f128_ps(a.lo, a.lo, 1), _mm256_permute2f128_ps(a.hi, a.hi, 1)};
    case 2: return (v16){_mm256_permute_ps(a.lo, 0x4e), _mm256_permute_ps(a.hi, 0x4e)};
    default: return (v16){_mm256_permute_ps(a.lo, 0xb1), _mm256_permute_ps(a.hi, 0xb1)};
    }
}
V16_FN float v16_sum(v16 a)
{
    const __m256 x = _mm256_add_ps(a.lo, a.hi);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}
V16_FN float v16_hmax(v16 a)
{
    const __m256 x = _mm256_max_ps(a.lo, a.hi);
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    s = _mm_max_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}
V16_FN v16 v16_pow2_below(v16 t)
{
    const __m256i k = _mm256_set1_epi32(126);
    const __m256i lo = _mm256_add_epi32(_mm256_castps_si256(t.lo), k);
    const __m256i hi = _mm256_add_epi32(_mm256_castps_si256(t.hi), k);
    return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 23)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(hi, 23))};
}

V16_FN v16i v16i_abs_bits(v16 a)
{
    const __m256i m = _mm256_set1_epi32(0x7fffffff);
    return (v16i){_mm256_and_si256(_mm256_castps_si256(a.lo), m),
                  _mm256_and_si256(_mm256_castps_si256(a.hi), m)};
}
V16_FN v16i v16i_from_biased(v16 t)
{
    const __m256i b = _mm256_set1_epi32(0x4b400000);
    return (v16i){_mm256_sub_epi32(_mm256_castps_si256(t.lo), b),
                  _mm256_sub_epi32(_mm256_castps_si256(t.hi), b)};
}
V16_FN v16i v16i_zero(void)
{
    return (v16i){_mm256_setzero_si256(), _mm256_setzero_si256()};
}
V16_FN v16i v16i_add(v16i a, v16i b)
{
    return (v16i){_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
V16_FN v16i v16i_max(v16i a, v16i b)
{
    return (v16i){_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)};
}
V16_FN int32_t v16i_sum(v16i a)
{
    const __m256i x = _mm256_add_epi32(a.lo, a.hi);
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}
V16_FN int32_t v16i_hmax(v16i a)
{
    const __m256i x = _mm256_max_epi32(a.lo, a.hi);
    __m128i s = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    s = _mm_max_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_max_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}
V16_FN void v16i_store_i8(int8_t *p, v16i a)
{
    const __m256i x = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
    const __m128i y = _mm_packs_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storeu_si128((__m128i *)(void *)p, y);
}
V16_FN void v16i_store_i16(int16_t *p, v16i a)
{
    const __m256i x = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
    _mm256_storeu_si256((__m256i *)(void *)p, x);
}

#endif
#endif
