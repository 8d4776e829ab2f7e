/* SPDX-License-Identifier: MIT
 *
 * Attention over an int8 cache for NEON with dot products: a row of 16 bits is 256 high + low, both
 * int8, and each is multiplied by four elements of a column at a time (sdot).
 */
#if !defined(__ARM_FEATURE_DOTPROD)
#error "this file is built for the dot product extension"
#endif

#define FG_LEVEL(op) fg_##op##__dotprod
#include "simd/kernels.h"
#include "simd/vec_neon.h"

#include "simd/v16_math.h"

enum { DOT_MAX_K = 1024, DOT_ROWS = 2 }; /* elements of a head, or positions; rows of a tile */

typedef struct dot_planes {
    int8_t high[DOT_ROWS][DOT_MAX_K], low[DOT_ROWS][DOT_MAX_K];
} dot_planes;

V16_FN void dot_split(dot_planes *p, size_t r, const int16_t *a, size_t n_k)
{
    for (size_t k = 0; k < n_k; k += 8) { /* rounds, without overflow */
        const int16x8_t x = vld1q_s16(a + k);
        vst1_s8(&p->high[r][k], vrshrn_n_s16(x, 8));
        vst1_s8(&p->low[r][k], vmovn_s16(x));
    }
}

#define DOT_LINE(i)                                                                                \
    do {                                                                                           \
        const int8_t *q = b + (size_t)(i)*line;                                                    \
        const int8x16_t x[4] = {vld1q_s8(q), vld1q_s8(q + 16), vld1q_s8(q + 32),                   \
                                vld1q_s8(q + 48)};                                                 \
        for (size_t r = 0; r < nr; r++) {                                                          \
            for (size_t j = 0; j < 4; j++) {                                                       \
                high[r][j] = vdotq_laneq_s32(high[r][j], x[j], h[r], i);                           \
                low[r][j] = vdotq_laneq_s32(low[r][j], x[j], l[r], i);                             \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* nr (a constant at each call) rows. */
V16_FN void dot_tile(size_t nr, const dot_planes *p, size_t n_k, const int8_t *b, size_t line,
                     int32_t *c)
{
    int32x4_t high[DOT_ROWS][4], low[DOT_ROWS][4];
    for (size_t r = 0; r < nr; r++) {
        for (size_t j = 0; j < 4; j++) high[r][j] = low[r][j] = vdupq_n_s32(0);
    }
    for (size_t k = 0; k < n_k; k += 16, b += 4 * line) {
        int8x16_t h[DOT_ROWS], l[DOT_ROWS];
        for (size_t r = 0; r < nr; r++) {
            h[r] = vld1q_s8(&p->high[r][k]);
            l[r] = vld1q_s8(&p->low[r][k]);
        }
        DOT_LINE(0);
        DOT_LINE(1);
        DOT_LINE(2);
        DOT_LINE(3);
    }
    for (size_t r = 0; r < nr; r++) {
        for (size_t j = 0; j < 4; j++) {
            vst1q_s32(c + r * FG_KV_BLOCK + 4 * j,
                      vaddq_s32(vshlq_n_s32(high[r][j], 8), low[r][j]));
        }
    }
}

static void dot_products(const int16_t *a, size_t a_stride, size_t n_row, size_t n_k,
                         const int8_t *b, size_t line, size_t group, size_t n_group, int32_t *c,
                         attn_ahead *ahead)
{
    dot_planes p;
    const size_t step = ahead_step(ahead, n_group * ((n_row + DOT_ROWS - 1) / DOT_ROWS));
    for (size_t r = 0, n; r < n_row; r += n) {
        n = n_row - r < DOT_ROWS ? 1 : (size_t)DOT_ROWS;
        for (size_t i = 0; i < n; i++) dot_split(&p, i, a + (r + i) * a_stride, n_k);
        for (size_t g = 0; g < n_group; g++) {
            int32_t *y = c + r * FG_KV_BLOCK + 16 * g;
            fetch_ahead(ahead, step);
            if (n == DOT_ROWS) dot_tile(DOT_ROWS, &p, n_k, b + g * group, line, y);
            if (n != DOT_ROWS) dot_tile(1, &p, n_k, b + g * group, line, y);
        }
    }
}

#define ATTN_PRODUCTS dot_products
#include "simd/attn_body.h"
