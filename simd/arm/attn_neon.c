/* SPDX-License-Identifier: MIT
 *
 * Attention over an int8 cache for NEON without dot products: columns are widened to 16 bits, one k
 * a register, and multiplied by an element of four rows each (smlal).
 */
#define FG_LEVEL(op) fg_##op##__neon
#include "simd/kernels.h"
#include "simd/vec_neon.h"

#include "simd/v16_math.h"

typedef struct neon_acc {
    int32x4_t c[4]; /* 16 columns */
} neon_acc;

#define NEON_STEP(i)                                                                               \
    do {                                                                                           \
        const int16x8_t lo = vmovl_s8(vget_low_s8(x.val[i])), hi = vmovl_high_s8(x.val[i]);        \
        for (size_t r = 0; r < nr; r++) {                                                          \
            acc[r].c[0] = vmlal_lane_s16(acc[r].c[0], vget_low_s16(lo), y[r], i);                  \
            acc[r].c[1] = vmlal_high_lane_s16(acc[r].c[1], lo, y[r], i);                           \
            acc[r].c[2] = vmlal_lane_s16(acc[r].c[2], vget_low_s16(hi), y[r], i);                  \
            acc[r].c[3] = vmlal_high_lane_s16(acc[r].c[3], hi, y[r], i);                           \
        }                                                                                          \
    } while (0)

/* nr (a constant at each call) rows. */
V16_FN void neon_tile(size_t nr, const int16_t *a, size_t a_stride, size_t n_k, const int8_t *b,
                      size_t line, int32_t *c)
{
    neon_acc acc[4];
    for (size_t r = 0; r < nr; r++) {
        for (size_t j = 0; j < 4; j++) acc[r].c[j] = vdupq_n_s32(0);
    }
    for (size_t k = 0; k < n_k; k += 4, b += line) {
        const int8x16x4_t x = vld4q_s8(b);
        int16x4_t y[4];
        for (size_t r = 0; r < nr; r++) y[r] = vld1_s16(a + r * a_stride + k);
        NEON_STEP(0);
        NEON_STEP(1);
        NEON_STEP(2);
        NEON_STEP(3);
    }
    for (size_t r = 0; r < nr; r++) {
        for (size_t j = 0; j < 4; j++) vst1q_s32(c + r * FG_KV_BLOCK + 4 * j, acc[r].c[j]);
    }
}

static void neon_products(const int16_t *a, size_t a_stride, size_t n_row, size_t n_k,
                          const int8_t *b, size_t line, size_t group, size_t n_group, int32_t *c,
                          attn_ahead *ahead)
{
    const size_t step = ahead_step(ahead, n_group * ((n_row + 3) / 4));
    for (size_t g = 0; g < n_group; g++, b += group, c += 16) {
        size_t r = 0;
        for (; r + 4 <= n_row; r += 4) {
            fetch_ahead(ahead, step);
            neon_tile(4, a + r * a_stride, a_stride, n_k, b, line, c + r * FG_KV_BLOCK);
        }
        for (; r < n_row; r++) {
            neon_tile(1, a + r * a_stride, a_stride, n_k, b, line, c + r * FG_KV_BLOCK);
        }
    }
}

#define ATTN_PRODUCTS neon_products
#include "simd/attn_body.h"
