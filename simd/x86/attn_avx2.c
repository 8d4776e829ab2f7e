/* SPDX-License-Identifier: MIT
 *
 * Attention over an int8 cache for AVX2: 16 columns are widened to 16 bits once, as pairs of k, for
 * all rows, then multiplied in tiles of four rows by pairs (madd).
 */
#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "this file is built for AVX2 and FMA, no more and no less"
#endif

#define FG_LEVEL(op) fg_##op##__avx2
#include <stdbool.h>
#include <string.h>

#include "simd/kernels.h"
#include "simd/vec_avx2.h"

#include "simd/v16_math.h"

enum { MAX_K = 1024 }; /* elements of a head, or positions of a block */

/* 16 columns: of each pair of k, columns 0 1 4 5 2 3 6 7 of either half. */
typedef struct attn_wide {
    __m256i pair[MAX_K / 2][2];
} attn_wide;

V16_FN __m256i widen(const int8_t *p)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
}

V16_FN __m256i pairs(__m256i a, __m256i b, int odd)
{
    const __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
    return _mm256_castps_si256(odd ? _mm256_shuffle_ps(x, y, 0xdd) : _mm256_shuffle_ps(x, y, 0x88));
}

static void widen_columns(attn_wide *w, size_t n_k, const int8_t *b, size_t line)
{
    for (size_t i = 0; i < n_k / 4; i++, b += line) {
        const __m256i x0 = widen(b), x1 = widen(b + 16), x2 = widen(b + 32), x3 = widen(b + 48);
        w->pair[2 * i][0] = pairs(x0, x1, 0);
        w->pair[2 * i][1] = pairs(x2, x3, 0);
        w->pair[2 * i + 1][0] = pairs(x0, x1, 1);
        w->pair[2 * i + 1][1] = pairs(x2, x3, 1);
    }
}

enum { FETCH_K = 32 }; /* elements between two fetches */

/* nr (a constant at each call) rows; n_ahead lines are asked for every FETCH_K. */
V16_FN void product_tile(size_t nr, const int16_t *a, size_t a_stride, size_t n_k,
                         const attn_wide *w, int32_t *c, attn_ahead *ahead, size_t n_ahead)
{
    __m256i acc[4][2];
    for (size_t r = 0; r < nr; r++) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    for (size_t i = 0; i < n_k / 2;) {
        const size_t left = n_k / 2 - i;
        fetch_ahead(ahead, n_ahead);
        for (const size_t end = i + (left < FETCH_K / 2 ? left : FETCH_K / 2); i < end; i++) {
            const __m256i x0 = w->pair[i][0], x1 = w->pair[i][1];
            for (size_t r = 0; r < nr; r++) {
                int32_t pair;
                memcpy(&pair, a + r * a_stride + 2 * i, sizeof pair);
                const __m256i y = _mm256_set1_epi32(pair);
                acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(x0, y));
                acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(x1, y));
            }
        }
    }
    for (size_t r = 0; r < nr; r++) {
        __m256i *y = (__m256i *)(void *)(c + r * FG_KV_BLOCK);
        _mm256_storeu_si256(y, _mm256_permute4x64_epi64(acc[r][0], 0xd8));
        _mm256_storeu_si256(y + 1, _mm256_permute4x64_epi64(acc[r][1], 0xd8));
    }
}

static void products(const int16_t *a, size_t a_stride, size_t n_row, size_t n_k, const int8_t *b,
                     size_t line, size_t group, size_t n_group, int32_t *c, attn_ahead *ahead)
{
    attn_wide w;
    const size_t n_tile = n_row < 4 ? n_row : n_row / 4;
    const size_t step = ahead_step(ahead, n_group * n_tile * ((n_k + FETCH_K - 1) / FETCH_K));
    for (size_t g = 0; g < n_group; g++, b += group, c += 16) {
        widen_columns(&w, n_k, b, line);
        size_t r = 0;
        for (; r + 4 <= n_row; r += 4) {
            product_tile(4, a + r * a_stride, a_stride, n_k, &w, c + r * FG_KV_BLOCK, ahead, step);
        }
        for (; r < n_row; r++) {
            product_tile(1, a + r * a_stride, a_stride, n_k, &w, c + r * FG_KV_BLOCK, ahead, step);
        }
    }
}

#define ATTN_PRODUCTS products
#include "simd/attn_body.h"
