/* SPDX-License-Identifier: MIT
 *
 * v16 for AVX-512 (F, BW, DQ, VL): one zmm register.  Rules in vec_scalar.h.
 */
#ifndef FG_SIMD_VEC_AVX512_H
#define FG_SIMD_VEC_AVX512_H

#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__) /* else empty, to compile anywhere */

#include <immintrin.h>

#define V16_FN static inline __attribute__((always_inline, unused))

enum { V16_TILE = 8 }; /* two fma a cycle of latency four keep eight accumulators busy */

typedef __m512 v16;
typedef __m512i v16i;

V16_FN v16 v16_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
V16_FN void v16_store(float *p, v16 a)
{
    _mm512_storeu_ps(p, a);
}
V16_FN v16 v16_load_bf16(const uint16_t *p)
{
    const __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
V16_FN v16 v16_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
V16_FN v16 v16_load_i32(const int32_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
}
V16_FN v16 v16_set1(float x)
{
    return _mm512_set1_ps(x);
}
V16_FN v16 v16_zero(void)
{
    return _mm512_setzero_ps();
}
V16_FN float v16_first(v16 a)
{
    return _mm512_cvtss_f32(a);
}

V16_FN v16 v16_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}
V16_FN v16 v16_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}
V16_FN v16 v16_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}
V16_FN v16 v16_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}
V16_FN v16 v16_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}
V16_FN v16 v16_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}
V16_FN v16 v16_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}
V16_FN v16 v16_swap(v16 a, int d)
{
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    switch (d) {
    case 2: return _mm512_shuffle_ps(a, a, 0x4e);
    case 1: return _mm512_shuffle_ps(a, a, 0xb1);
    default: return _mm512_permutexvar_ps(_mm512_xor_si512(lane, _mm512_set1_epi32(d)), a);
    }
}
V16_FN float v16_sum(v16 a)
{
    const __m256 x = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}
V16_FN float v16_hmax(v16 a)
{
    const __m256 x = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    s = _mm_max_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}
V16_FN v16 v16_pow2_below(v16 t)
{
    const __m512i n = _mm512_add_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(126));
    return _mm512_castsi512_ps(_mm512_slli_epi32(n, 23));
}

V16_FN v16i v16i_abs_bits(v16 a)
{
    return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff));
}
V16_FN v16i v16i_from_biased(v16 t)
{
    return _mm512_sub_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(0x4b400000));
}
V16_FN v16i v16i_zero(void)
{
    return _mm512_setzero_si512();
}
V16_FN v16i v16i_add(v16i a, v16i b)
{
    return _mm512_add_epi32(a, b);
}
V16_FN v16i v16i_max(v16i a, v16i b)
{
    return _mm512_max_epi32(a, b);
}
V16_FN int32_t v16i_sum(v16i a)
{
    return _mm512_reduce_add_epi32(a);
}
V16_FN int32_t v16i_hmax(v16i a)
{
    return _mm512_reduce_max_epi32(a);
}
V16_FN void v16i_store_i8(int8_t *p, v16i a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(a));
}
V16_FN void v16i_store_i16(int16_t *p, v16i a)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(a));
}

#endif
#endif
