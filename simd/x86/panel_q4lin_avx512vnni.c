/* SPDX-License-Identifier: MIT
 *
 * q4 with the linear table.
 */
#include "simd/x86/panel_avx512vnni.h"

#if !defined(__AVX512VNNI__) || defined(__AVX512VBMI__) || defined(__AVX512BF16__)
#error "this file is built for AVX-512 F, BW, DQ, VL and VNNI, no more and no less"
#endif

TILE_FNS(kind_q4lin)

void fg_panel_q4lin__avx512vnni(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                                const void *act, size_t act_stride, size_t n_tok, size_t n_sb,
                                float *y, size_t y_stride)
{
    panel_run(tiles, table_none(lut), panel, row_scale, act, act_stride, n_tok, n_sb, y, y_stride);
}
