/* SPDX-License-Identifier: MIT
 *
 * q4 with any table: codes go through pshufb to value + 32, 0..63.
 */
#include "simd/x86/panel_avx2.h"

#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "this file is built for AVX2 and FMA, no more and no less"
#endif

INLINE __m256i quad(const uint8_t *p, int n, int h, __m256i table)
{
    return _mm256_shuffle_epi8(table, nibbles(p, n, h));
}

static const panel_kind kind = {quad, 256, 2, 5, 2};

void fg_panel_q4__avx2(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                       const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                       size_t y_stride)
{
    const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)lut->v);
    const __m256i table = _mm256_broadcastsi128_si256(_mm_add_epi8(v, _mm_set1_epi8(32)));
    panel_run(kind, table, panel, row_scale, act, act_stride, n_tok, n_sb, y, y_stride);
}
