/* SPDX-License-Identifier: MIT
 *
 * Integer panels with smmla (ARMv8.6 i8mm) from two tokens on; one token is dotprod's, since smmla
 * would compute the second column of each 2 x 2 product for nothing.
 */
#include "simd/arm/panel_neon.h"

#if !defined(__ARM_FEATURE_MATMUL_INT8)
#error "this file is built for ARMv8.2 with dotprod and i8mm"
#endif

void fg_panel_q4__i8mm(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                       const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                       size_t y_stride)
{
    mm_run(kind_q4, fg_panel_q4__dotprod, vld1q_s8(lut->v), panel, row_scale, lut, act, act_stride,
           n_tok, n_sb, y, y_stride);
}

void fg_panel_q4lin__i8mm(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                          const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                          size_t y_stride)
{
    mm_run(kind_q4lin, fg_panel_q4lin__dotprod, vdupq_n_s8(0), panel, row_scale, lut, act,
           act_stride, n_tok, n_sb, y, y_stride);
}

void fg_panel_q5__i8mm(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                       const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                       size_t y_stride)
{
    mm_run(kind_q5, fg_panel_q5__dotprod, vdupq_n_s8(0), panel, row_scale, lut, act, act_stride,
           n_tok, n_sb, y, y_stride);
}

void fg_panel_q6__i8mm(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                       const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                       size_t y_stride)
{
    mm_run(kind_q6, fg_panel_q6__dotprod, vdupq_n_s8(0), panel, row_scale, lut, act, act_stride,
           n_tok, n_sb, y, y_stride);
}

void fg_panel_q8__i8mm(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                       const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                       size_t y_stride)
{
    mm_run(kind_q8, fg_panel_q8__dotprod, vdupq_n_s8(0), panel, row_scale, lut, act, act_stride,
           n_tok, n_sb, y, y_stride);
}
