/* SPDX-License-Identifier: MIT
 *
 * Integer panels with sdot (ARMv8.2 dotprod): the five types over the frame of panel_neon.h.
 */
#include "simd/arm/panel_neon.h"

#if !defined(__ARM_FEATURE_DOTPROD) || defined(__ARM_FEATURE_MATMUL_INT8)
#error "this file is built for ARMv8.2 with dotprod, no more and no less"
#endif

void fg_panel_q4__dotprod(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                          const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                          size_t y_stride)
{
    dot_run(kind_q4, vld1q_s8(lut->v), panel, row_scale, act, act_stride, n_tok, n_sb, y, y_stride);
}

void fg_panel_q4lin__dotprod(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                             const void *act, size_t act_stride, size_t n_tok, size_t n_sb,
                             float *y, size_t y_stride)
{
    (void)lut;
    dot_run(kind_q4lin, vdupq_n_s8(0), panel, row_scale, act, act_stride, n_tok, n_sb, y, y_stride);
}

void fg_panel_q5__dotprod(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                          const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                          size_t y_stride)
{
    (void)lut;
    dot_run(kind_q5, vdupq_n_s8(0), panel, row_scale, act, act_stride, n_tok, n_sb, y, y_stride);
}

void fg_panel_q6__dotprod(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                          const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                          size_t y_stride)
{
    (void)lut;
    dot_run(kind_q6, vdupq_n_s8(0), panel, row_scale, act, act_stride, n_tok, n_sb, y, y_stride);
}

void fg_panel_q8__dotprod(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                          const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                          size_t y_stride)
{
    (void)lut;
    dot_run(kind_q8, vdupq_n_s8(0), panel, row_scale, act, act_stride, n_tok, n_sb, y, y_stride);
}
