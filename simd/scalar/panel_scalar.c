/* SPDX-License-Identifier: MIT
 *
 * Integer panels, scalar level: the readable statement of what the SIMD kernels compute.  Every
 * weight is taken at its signed value, so that neither code offsets nor act.sum are used here: a
 * wrong correction in a SIMD kernel, or a wrong sum in a block, shows as a difference.
 */
#include <math.h>

#include "simd/kernels_decl.h"

#if defined(__AVX__)
#error "the scalar level must be built for the baseline"
#endif

/* Value of weight (row r, column k of group g); sb is the superblock. */
typedef int32_t weight_fn(const uint8_t *sb, const fg_lut *lut, size_t g, size_t k, size_t r);

static uint32_t nibble(const uint8_t *group, size_t k, size_t r)
{
    const uint32_t byte = group[64 * (k % 16 / 4) + 4 * r + k % 4];
    return k < 16 ? byte & 15u : byte >> 4;
}

static int32_t weight_q4(const uint8_t *sb, const fg_lut *lut, size_t g, size_t k, size_t r)
{
    return lut->v[nibble(sb + 64 + 256 * g, k, r)];
}

static int32_t weight_q5(const uint8_t *sb, const fg_lut *lut, size_t g, size_t k, size_t r)
{
    (void)lut;
    const uint8_t *group = sb + 64 + 320 * g;
    const uint32_t top = (uint32_t)group[256 + 4 * r + k % 4] >> (k / 4) & 1u;
    return (int32_t)(nibble(group, k, r) | top << 4) - 16;
}

static int32_t weight_q6(const uint8_t *sb, const fg_lut *lut, size_t g, size_t k, size_t r)
{
    (void)lut;
    const uint8_t *group = sb + 64 + 384 * g;
    const uint32_t byte = group[256 + 64 * (k / 16) + 4 * r + k % 4];
    const uint32_t top = byte >> (2 * (k % 16 / 4)) & 3u;
    return (int32_t)(nibble(group, k, r) | top << 4) - 32;
}

static int32_t weight_q8(const uint8_t *sb, const fg_lut *lut, size_t g, size_t k, size_t r)
{
    (void)lut;
    return (int8_t)sb[64 + 512 * g + 64 * (k / 4) + 4 * r + k % 4];
}

static inline __attribute__((always_inline)) void
panel_int(weight_fn *weight, size_t sb_bytes, const uint8_t *panel, const float *row_scale,
          const fg_lut *lut, const void *act, size_t act_stride, size_t n_tok, size_t n_sb,
          float *y, size_t y_stride)
{
    for (size_t t = 0; t < n_tok; t++, y += y_stride) {
        const fg_act128 *x = (const void *)((const uint8_t *)act + t * act_stride);
        for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
            float acc = 0.0f;
            for (size_t i = 0; i < n_sb; i++) {
                const uint8_t *sb = panel + i * sb_bytes;
                int32_t isum = 0;
                for (size_t g = 0; g < FG_SB_GROUPS; g++) {
                    int32_t dot = 0;
                    for (size_t k = 0; k < FG_GROUP_COLS; k++) {
                        dot += weight(sb, lut, g, k, r) * x[i].q[FG_GROUP_COLS * g + k];
                    }
                    isum += dot * (int8_t)sb[4 * r + g];
                }
                acc = fmaf((float)isum, x[i].d, acc);
            }
            y[r] = acc * row_scale[r];
        }
    }
}

#define PANEL(op, weight, sb_bytes, lut_used)                                                      \
    void op(const uint8_t *panel, const float *row_scale, const fg_lut *lut, const void *act,      \
            size_t act_stride, size_t n_tok, size_t n_sb, float *y, size_t y_stride)               \
    {                                                                                              \
        (void)lut;                                                                                 \
        panel_int(weight, sb_bytes, panel, row_scale, lut_used, act, act_stride, n_tok, n_sb, y,   \
                  y_stride);                                                                       \
    }

PANEL(fg_panel_q4__scalar, weight_q4, 64 + 4 * 256, lut)
PANEL(fg_panel_q4lin__scalar, weight_q4, 64 + 4 * 256, &fg_lut_linear)
PANEL(fg_panel_q5__scalar, weight_q5, 64 + 4 * 320, lut)
PANEL(fg_panel_q6__scalar, weight_q6, 64 + 4 * 384, lut)
PANEL(fg_panel_q8__scalar, weight_q8, 64 + 4 * 512, lut)
