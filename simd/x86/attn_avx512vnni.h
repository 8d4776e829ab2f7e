/* SPDX-License-Identifier: MIT
 *
 * The product of attn_body.h for AVX-512-VNNI: 16 columns, or twice as many, are widened to 16 bits
 * once, as pairs of k, for all rows, then multiplied in tiles of eight rows by dpwssd.
 */
#ifndef FG_SIMD_X86_ATTN_AVX512VNNI_H
#define FG_SIMD_X86_ATTN_AVX512VNNI_H

#include <string.h>

#include "simd/kernels.h"
#include "simd/vec_avx512.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) /* else empty, to compile anywhere */

#include "simd/v16_math.h"

enum { VNNI_MAX_K = 1024 }; /* elements of a head, or positions of a block */

typedef struct vnni_wide {
    __m512i pair[VNNI_MAX_K / 2][2]; /* of k; of two groups of columns */
} vnni_wide;

static void vnni_widen(vnni_wide *w, size_t g, size_t n_k, const int8_t *b, size_t line)
{
    const __m512i even =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    for (size_t i = 0; i < n_k / 4; i++, b += line) {
        const __m256i *p = (const __m256i *)(const void *)b;
        const __m512i lo = _mm512_cvtepi8_epi16(_mm256_loadu_si256(p));
        const __m512i hi = _mm512_cvtepi8_epi16(_mm256_loadu_si256(p + 1));
        w->pair[2 * i][g] = _mm512_permutex2var_epi32(lo, even, hi);
        w->pair[2 * i + 1][g] = _mm512_permutex2var_epi32(lo, odd, hi);
    }
}

enum { VNNI_FETCH_K = 16 }; /* elements between two fetches */

/* nr rows and ng groups, both constants at each call; n_ahead lines are asked for every
 * VNNI_FETCH_K. */
V16_FN void vnni_tile(size_t nr, size_t ng, const int16_t *a, size_t a_stride, size_t n_k,
                      const vnni_wide *w, int32_t *c, attn_ahead *ahead, size_t n_ahead)
{
    __m512i acc[8][2];
    for (size_t r = 0; r < nr; r++) acc[r][0] = acc[r][1] = _mm512_setzero_si512();
    for (size_t i = 0; i < n_k / 2;) {
        fetch_ahead(ahead, n_ahead);
        for (const size_t end = i + VNNI_FETCH_K / 2; i < end; i++) {
            const __m512i x0 = w->pair[i][0], x1 = ng > 1 ? w->pair[i][1] : x0;
            for (size_t r = 0; r < nr; r++) {
                int32_t pair;
                memcpy(&pair, a + r * a_stride + 2 * i, sizeof pair);
                const __m512i y = _mm512_set1_epi32(pair);
                acc[r][0] = _mm512_dpwssd_epi32(acc[r][0], x0, y);
                if (ng > 1) acc[r][1] = _mm512_dpwssd_epi32(acc[r][1], x1, y);
            }
        }
    }
    for (size_t r = 0; r < nr; r++) {
        _mm512_storeu_si512(c + r * FG_KV_BLOCK, acc[r][0]);
        if (ng > 1) _mm512_storeu_si512(c + r * FG_KV_BLOCK + 16, acc[r][1]);
    }
}

static void vnni_products(const int16_t *a, size_t a_stride, size_t n_row, size_t n_k,
                          const int8_t *b, size_t line, size_t group, size_t n_group, int32_t *c,
                          attn_ahead *ahead)
{
    vnni_wide w;
    const size_t n_tile = n_row < 8 ? (n_row < 4 ? n_row : 1) : n_row / 8;
    const size_t step = ahead_step(ahead, (n_group + 1) / 2 * n_tile * (n_k / VNNI_FETCH_K));
    for (size_t g = 0, n; g < n_group; g += n) {
        n = n_group - g < 2 ? 1 : 2;
        for (size_t i = 0; i < n; i++) vnni_widen(&w, i, n_k, b + (g + i) * group, line);
        for (size_t r = 0, m; r < n_row; r += m) {
            const int16_t *x = a + r * a_stride;
            int32_t *y = c + r * FG_KV_BLOCK + 16 * g;
            const size_t left = n_row - r;
            m = left >= 8 ? 8 : left >= 4 ? 4 : 1;
            if (m == 8 && n == 2) vnni_tile(8, 2, x, a_stride, n_k, &w, y, ahead, step);
            if (m == 4 && n == 2) vnni_tile(4, 2, x, a_stride, n_k, &w, y, ahead, step);
            if (m == 1 && n == 2) vnni_tile(1, 2, x, a_stride, n_k, &w, y, ahead, step);
            if (m == 8 && n == 1) vnni_tile(8, 1, x, a_stride, n_k, &w, y, ahead, step);
            if (m == 4 && n == 1) vnni_tile(4, 1, x, a_stride, n_k, &w, y, ahead, step);
            if (m == 1 && n == 1) vnni_tile(1, 1, x, a_stride, n_k, &w, y, ahead, step);
        }
    }
}

#endif
#endif
