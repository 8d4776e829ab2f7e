/* SPDX-License-Identifier: MIT
 *
 * AVX-512 for a machine without it: SIMDe's emulation over AVX2, under the intrinsics' own names.
 * Compile a *_avx512vnni.c with `-include` this file; its own <immintrin.h> is then in already, and
 * the feature macros it checks are set here, after SIMDe has seen that they are not.
 *
 * SIMDe 0.7.4 (Debian 12) lacks what the second half adds, in plain loops, and its alias of
 * _mm512_madd_epi16 has four arguments.  Left out on purpose: _mm512_reduce_add_ps (its order is
 * the compiler's choice) and the approximate reciprocals (their bits are the CPU's choice).
 */
#ifndef FG_TESTS_EMULATE_SIMDE_EXTRA_H
#define FG_TESTS_EMULATE_SIMDE_EXTRA_H

#if defined(__AVX512F__) || !defined(__AVX2__) || !defined(__FMA__)
#error "compile with -mavx2 -mfma -mf16c -mbmi2 and nothing newer"
#endif

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <string.h>

#define __AVX512F__    1
#define __AVX512BW__   1
#define __AVX512DQ__   1
#define __AVX512VL__   1
#define __AVX512VNNI__ 1

#define EXTRA static inline __attribute__((unused))

#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)

/* out lane = expr of input lane x (and index i), through arrays. */
#define EXTRA_MAP(name, out_type, out_lane, in_type, in_lane, n, expr)                             \
    EXTRA out_type name(in_type a)                                                                 \
    {                                                                                              \
        in_lane in[sizeof a / sizeof(in_lane)];                                                    \
        out_lane out[n];                                                                           \
        out_type r;                                                                                \
        memcpy(in, &a, sizeof a);                                                                  \
        for (int i = 0; i < (n); i++) {                                                            \
            const in_lane x = in[i];                                                               \
            out[i] = (expr);                                                                       \
        }                                                                                          \
        memcpy(&r, out, sizeof r);                                                                 \
        return r;                                                                                  \
    }

EXTRA_MAP(extra_cvtepi8_epi32, __m512i, int32_t, __m128i, int8_t, 16, x)
EXTRA_MAP(extra_cvtepu8_epi32, __m512i, int32_t, __m128i, uint8_t, 16, x)
EXTRA_MAP(extra_cvtepi16_epi32, __m512i, int32_t, __m256i, int16_t, 16, x)
EXTRA_MAP(extra_cvtepu16_epi32, __m512i, int32_t, __m256i, uint16_t, 16, x)
EXTRA_MAP(extra_cvtepu8_epi16, __m512i, int16_t, __m256i, uint8_t, 32, x)
EXTRA_MAP(extra_cvtepi32_epi8, __m128i, int8_t, __m512i, int32_t, 16, (int8_t)x)
EXTRA_MAP(extra_cvtepi32_epi16, __m256i, int16_t, __m512i, int32_t, 16, (int16_t)x)
EXTRA_MAP(extra_cvtepi32_ps, __m512, float, __m512i, int32_t, 16, (float)x)

#define _mm512_cvtepi8_epi32(a)  extra_cvtepi8_epi32(a)
#define _mm512_cvtepu8_epi32(a)  extra_cvtepu8_epi32(a)
#define _mm512_cvtepi16_epi32(a) extra_cvtepi16_epi32(a)
#define _mm512_cvtepu16_epi32(a) extra_cvtepu16_epi32(a)
#define _mm512_cvtepu8_epi16(a)  extra_cvtepu8_epi16(a)
#define _mm512_cvtepi32_epi8(a)  extra_cvtepi32_epi8(a)
#define _mm512_cvtepi32_epi16(a) extra_cvtepi32_epi16(a)
#define _mm512_cvtepi32_ps(a)    extra_cvtepi32_ps(a)

/* Its two halves, by the machine's own F16C. */
EXTRA __m512 extra_cvtph_ps(__m256i a)
{
    __m128i half[2];
    __m256 out[2];
    __m512 r;
    memcpy(half, &a, sizeof a);
    for (int i = 0; i < 2; i++) out[i] = _mm256_cvtph_ps(half[i]);
    memcpy(&r, out, sizeof r);
    return r;
}
#define _mm512_cvtph_ps(a) extra_cvtph_ps(a)

EXTRA __m512i extra_srav_epi32(__m512i a, __m512i n)
{
    int32_t x[16], by[16];
    memcpy(x, &a, sizeof a);
    memcpy(by, &n, sizeof n);
    for (int i = 0; i < 16; i++) x[i] >>= (uint32_t)by[i] > 31u ? 31 : by[i];
    memcpy(&a, x, sizeof a);
    return a;
}
#define _mm512_srav_epi32(a, n) extra_srav_epi32(a, n)
#define _mm512_srai_epi32(a, n) extra_srav_epi32(a, _mm512_set1_epi32((int32_t)(n)))

EXTRA __m512i extra_shuffle_epi32(__m512i a, int how)
{
    int32_t x[16], y[16];
    memcpy(x, &a, sizeof a);
    for (int i = 0; i < 16; i++) y[i] = x[(i & 12) + (how >> (2 * (i & 3)) & 3)];
    memcpy(&a, y, sizeof a);
    return a;
}
#define _mm512_shuffle_epi32(a, how) extra_shuffle_epi32(a, (int)(how))

EXTRA __m512i extra_alignr_epi8(__m512i a, __m512i b, int n)
{
    uint8_t x[64], y[64], out[64];
    memcpy(x, &a, sizeof x);
    memcpy(y, &b, sizeof y);
    for (int i = 0; i < 64; i++) {
        const int at = (i & 15) + n, base = i & 48;
        out[i] = at < 16 ? y[base + at] : at < 32 ? x[base + at - 16] : 0;
    }
    memcpy(&a, out, sizeof out);
    return a;
}
#define _mm512_alignr_epi8(a, b, n) extra_alignr_epi8(a, b, n)

EXTRA __m256 extra_extractf32x8_ps(__m512 a, int half)
{
    __m256 r;
    memcpy(&r, (const uint8_t *)&a + 32 * half, sizeof r);
    return r;
}
EXTRA __m256i extra_extracti32x8_epi32(__m512i a, int half)
{
    __m256i r;
    memcpy(&r, (const uint8_t *)&a + 32 * half, sizeof r);
    return r;
}
EXTRA __m512i extra_broadcast_i32x8(__m256i a)
{
    __m512i r;
    memcpy(&r, &a, sizeof a);
    memcpy((uint8_t *)&r + 32, &a, sizeof a);
    return r;
}
#define _mm512_extractf32x8_ps(a, half)    extra_extractf32x8_ps(a, half)
#define _mm512_extracti32x8_epi32(a, half) extra_extracti32x8_epi32(a, half)
#define _mm512_broadcast_i32x8(a)          extra_broadcast_i32x8(a)

/* Memory beyond the mask is not touched, as in the instruction. */
EXTRA __m512 extra_mask_loadu_ps(__m512 src, uint16_t mask, const void *p)
{
    float x[16];
    memcpy(x, &src, sizeof x);
    for (int i = 0; i < 16; i++) {
        if ((mask >> i & 1) != 0) memcpy(&x[i], (const float *)p + i, sizeof x[i]);
    }
    memcpy(&src, x, sizeof x);
    return src;
}
EXTRA void extra_mask_storeu_ps(void *p, uint16_t mask, __m512 a)
{
    float x[16];
    memcpy(x, &a, sizeof x);
    for (int i = 0; i < 16; i++) {
        if ((mask >> i & 1) != 0) memcpy((float *)p + i, &x[i], sizeof x[i]);
    }
}
EXTRA __m512i extra_maskz_loadu_epi8(uint64_t mask, const void *p)
{
    uint8_t x[64] = {0};
    __m512i r;
    for (int i = 0; i < 64; i++) {
        if ((mask >> i & 1) != 0) x[i] = ((const uint8_t *)p)[i];
    }
    memcpy(&r, x, sizeof x);
    return r;
}
EXTRA void extra_mask_storeu_epi8(void *p, uint64_t mask, __m512i a)
{
    uint8_t x[64];
    memcpy(x, &a, sizeof x);
    for (int i = 0; i < 64; i++) {
        if ((mask >> i & 1) != 0) ((uint8_t *)p)[i] = x[i];
    }
}
#define _mm512_mask_loadu_ps(src, m, p)  extra_mask_loadu_ps(src, m, p)
#define _mm512_maskz_loadu_ps(m, p)      extra_mask_loadu_ps(_mm512_setzero_ps(), m, p)
#define _mm512_mask_storeu_ps(p, m, a)   extra_mask_storeu_ps(p, m, a)
#define _mm512_maskz_loadu_epi8(m, p)    extra_maskz_loadu_epi8(m, p)
#define _mm512_mask_storeu_epi8(p, m, a) extra_mask_storeu_epi8(p, m, a)

EXTRA float extra_cvtss_f32(__m512 a)
{
    float x;
    memcpy(&x, &a, sizeof x);
    return x;
}
EXTRA int32_t extra_cvtsi512_si32(__m512i a)
{
    int32_t x;
    memcpy(&x, &a, sizeof x);
    return x;
}
EXTRA int32_t extra_reduce_add_epi32(__m512i a)
{
    uint32_t x[16], s = 0;
    memcpy(x, &a, sizeof x);
    for (int i = 0; i < 16; i++) s += x[i];
    return (int32_t)s;
}
EXTRA int32_t extra_reduce_max_epi32(__m512i a)
{
    int32_t x[16], m;
    memcpy(x, &a, sizeof x);
    m = x[0];
    for (int i = 1; i < 16; i++) m = x[i] > m ? x[i] : m;
    return m;
}
#define _mm512_cvtss_f32(a)        extra_cvtss_f32(a)
#define _mm512_cvtsi512_si32(a)    extra_cvtsi512_si32(a)
#define _mm512_reduce_add_epi32(a) extra_reduce_add_epi32(a)
#define _mm512_reduce_max_epi32(a) extra_reduce_max_epi32(a)
#define _mm512_undefined_ps()      _mm512_setzero_ps()
#define _mm512_undefined_epi32()   _mm512_setzero_si512()

#undef EXTRA_MAP
#undef EXTRA

#endif
