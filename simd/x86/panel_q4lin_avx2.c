/* SPDX-License-Identifier: MIT
 *
 * q4 with the linear table: the code itself is the byte, value = code - 8.
 */
#include "simd/x86/panel_avx2.h"

#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "this file is built for AVX2 and FMA, no more and no less"
#endif

INLINE __m256i quad(const uint8_t *p, int n, int h, __m256i table)
{
    (void)table;
    return nibbles(p, n, h);
}

static const panel_kind kind = {quad, 256, 8, 3, 4};

void fg_panel_q4lin__avx2(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                          const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                          size_t y_stride)
{
    const __m256i table = _mm256_setzero_si256();
    (void)lut;
    panel_run(kind, table, panel, row_scale, act, act_stride, n_tok, n_sb, y, y_stride);
}
