/* SPDX-License-Identifier: MIT
 *
 * q5: nibble lines, then one line with the fifth bits, bit c of a byte for quad c.
 */
#include "simd/x86/panel_avx2.h"

#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "this file is built for AVX2 and FMA, no more and no less"
#endif

INLINE __m256i quad(const uint8_t *p, int n, int h, __m256i table)
{
    const __m256i x = load256(p + 256 + 32 * h);
    const int bit = n / 2 + 4 * (n & 1);
    const __m256i top = bit < 4 ? _mm256_slli_epi16(x, 4 - bit) : _mm256_srli_epi16(x, bit - 4);
    (void)table;
    return _mm256_or_si256(nibbles(p, n, h), _mm256_and_si256(top, _mm256_set1_epi8(16)));
}

static const panel_kind kind = {quad, 256 + 64, 4, 4, 2};

void fg_panel_q5__avx2(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                       const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                       size_t y_stride)
{
    const __m256i table = _mm256_setzero_si256();
    (void)lut;
    panel_run(kind, table, panel, row_scale, act, act_stride, n_tok, n_sb, y, y_stride);
}
