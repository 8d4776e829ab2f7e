/* SPDX-License-Identifier: MIT
 *
 * AMX-INT8 panels for many tokens, all quantized types; included by one file that defines
 * FG_LEVEL(op).  Few tokens go to the AVX-512-VNNI panels.
 *
 * The group scales stand in the way of tiles: they would allow only 32 columns a tile, with a
 * multiplication after each.  So they are multiplied in before: value * scale fits int16 (at most
 * 128 * 128), hence is exactly 256 * high + low with high in int8 and low in uint8.  Two planes of
 * bytes, two tile products over the whole superblock:
 *   low  = sum over 128 columns of act.q * plane 0    signed x unsigned, < 2^22
 *   high = sum over 128 columns of act.q * plane 1    signed x signed
 *   isum = low + (high << 8);  acc = fma((float)isum, act.d, acc)
 * The integers are those of the other levels, so the bits are too.
 *
 * A tile of C is 16 tokens x 16 rows; two tiles of tokens share the weights.  Tokens that do not
 * fill the last tile are covered by moving it back over tokens that are done already; fewer than
 * 16 tokens use shorter tiles.  The results of a pair of tiles are added up after the next pair
 * has been started, so that the vector and the tile unit work side by side.
 */
#ifndef FG_SIMD_X86_PANEL_AMX_H
#define FG_SIMD_X86_PANEL_AMX_H

#ifndef FG_LEVEL /* alone, the header still compiles */
#define FG_LEVEL(op) fg_##op##__amx
#endif

#include "simd/kernels_decl.h"
#include "simd/x86/decode_avx512vnni.h"
#include "simd/x86/tile_amx.h"

#if defined(__AVX512VNNI__) && defined(AMX_CONFIGURE) /* tile_amx.h knows how */

enum {
    FEWEST_TOKENS = 12, /* below, a call is left to VNNI */
    PASS_TOKENS = 128,  /* tokens that share an unpacking */
    PASS_TILES = PASS_TOKENS / AMX_ROWS,
    HALVES = 2, /* 64 columns each: what a tile holds */
    PLANES = 2, /* low, high */
};

typedef int32_t amx_dots[AMX_ROWS][FG_PANEL_ROWS];

typedef struct amx_work {
    _Alignas(64) uint8_t plane[HALVES][PLANES][AMX_ROWS][AMX_BYTES]; /* [column quad][row, byte] */
    _Alignas(64) amx_dots dot[2][2][PLANES]; /* [pair, alternating][tile of the pair] */
} amx_work;

/* A pair of token tiles, or one. */
typedef struct amx_pair {
    const uint8_t *act[2]; /* activation block of the first token */
    __m512 *acc[2];        /* one for each token */
    int n;
} amx_pair;

/* Scale g as bytes (s, 0, s, 0) of each lane. */
INLINE __m512i scale_bytes(__m512i line, int g)
{
    const __m512i s = _mm512_and_si512(scale_of(line, g), _mm512_set1_epi32(255));
    return _mm512_or_si512(s, _mm512_slli_epi32(s, 16));
}

INLINE void amx_unpack(panel_kind kind, __m512i table, const uint8_t *sb, amx_work *w)
{
    const __m512i line = load512(sb);
    const __mmask64 odd = 0xaaaaaaaaaaaaaaaaull;
    sb += 64;
    UNROLL
    for (int g = 0; g < FG_SB_GROUPS; g++, sb += kind.group_bytes) {
        const __m512i s = scale_bytes(line, g), s_odd = _mm512_slli_epi16(s, 8);
        const __m512i both = _mm512_srai_epi16(s_odd, 8); /* as int16 */
        const __m512i zero = _mm512_mullo_epi16(both, _mm512_set1_epi16((short)(1 << kind.shift)));
        UNROLL
        for (int n = 0; n < QUADS; n++) {
            const __m512i c = kind.quad(sb, n, table);
            const __m512i p = _mm512_sub_epi16(_mm512_maddubs_epi16(c, s), zero);
            const __m512i q = _mm512_sub_epi16(_mm512_maddubs_epi16(c, s_odd), zero);
            const int row = 8 * (g & 1) + quad_of(n);
            _mm512_store_si512(w->plane[g / 2][0][row],
                               _mm512_mask_blend_epi8(odd, p, _mm512_slli_epi16(q, 8)));
            _mm512_store_si512(w->plane[g / 2][1][row],
                               _mm512_mask_blend_epi8(odd, _mm512_srli_epi16(p, 8), q));
        }
    }
}

/* Tiles: 0 1 and 2 3 are C (low, high) of the two token tiles, 4 and 5 their activations, 6 and 7
 * the planes. */
INLINE void amx_multiply(const amx_work *w, const amx_pair *p, size_t stride,
                         amx_dots (*dot)[PLANES])
{
    const size_t q = offsetof(fg_act128, q);
    AMX_ZERO(0);
    AMX_ZERO(1);
    if (p->n == 2) {
        AMX_ZERO(2);
        AMX_ZERO(3);
    }
    for (int h = 0; h < HALVES; h++) {
        AMX_LOAD(6, w->plane[h][0], AMX_BYTES);
        AMX_LOAD(4, p->act[0] + q + (size_t)h * AMX_BYTES, stride);
        AMX_DOT_SU(0, 4, 6);
        AMX_LOAD(7, w->plane[h][1], AMX_BYTES);
        AMX_DOT_SS(1, 4, 7);
        if (p->n != 2) continue;
        AMX_LOAD(5, p->act[1] + q + (size_t)h * AMX_BYTES, stride);
        AMX_DOT_SU(2, 5, 6);
        AMX_DOT_SS(3, 5, 7);
    }
    AMX_STORE(0, dot[0][0], AMX_BYTES);
    AMX_STORE(1, dot[0][1], AMX_BYTES);
    if (p->n == 2) {
        AMX_STORE(2, dot[1][0], AMX_BYTES);
        AMX_STORE(3, dot[1][1], AMX_BYTES);
    }
}

INLINE void amx_add(const amx_pair *p, size_t stride, size_t rows, amx_dots (*dot)[PLANES])
{
    for (int k = 0; k < p->n; k++) {
        for (size_t t = 0; t < rows; t++) {
            const fg_act128 *a = (const void *)(p->act[k] + t * stride);
            const __m512i high = _mm512_slli_epi32(load512(dot[k][1][t]), 8);
            const __m512i isum = _mm512_add_epi32(load512(dot[k][0][t]), high);
            const __m512 d = _mm512_set1_ps(a->d);
            p->acc[k][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(isum), d, p->acc[k][t]);
        }
    }
}

/* First token of tile k: the last tile ends with the last token. */
INLINE size_t tile_start(size_t k, size_t rows, size_t n_tok)
{
    return k * AMX_ROWS + rows <= n_tok ? k * AMX_ROWS : n_tok - rows;
}

INLINE void amx_pass(panel_kind kind, __m512i table, const uint8_t *panel, const float *row_scale,
                     const uint8_t *act, size_t stride, size_t n_tok, size_t n_sb, float *y,
                     size_t y_stride)
{
    amx_work w;
    __m512 acc[PASS_TILES][AMX_ROWS];
    amx_pair before = {.n = 0}; /* started, not yet added */
    unsigned parity = 0;
    const size_t rows = n_tok < AMX_ROWS ? n_tok : AMX_ROWS;
    const size_t n_tile = (n_tok + AMX_ROWS - 1) / AMX_ROWS;
    for (size_t k = 0; k < n_tile; k++) {
        for (size_t t = 0; t < rows; t++) acc[k][t] = _mm512_setzero_ps();
    }
    for (size_t i = 0; i < n_sb; i++, act += sizeof(fg_act128)) {
        amx_unpack(kind, table, panel, &w);
        panel += 64 + FG_SB_GROUPS * kind.group_bytes;
        for (size_t k = 0; k < n_tile; k += 2) {
            amx_pair p = {.n = k + 1 < n_tile ? 2 : 1};
            for (int j = 0; j < p.n; j++) {
                p.act[j] = act + tile_start(k + (size_t)j, rows, n_tok) * stride;
                p.acc[j] = acc[k + (size_t)j];
            }
            AMX_FENCE();
            amx_multiply(&w, &p, stride, w.dot[parity]);
            AMX_FENCE();
            amx_add(&before, stride, rows, w.dot[parity ^ 1u]);
            before = p;
            parity ^= 1u;
        }
    }
    amx_add(&before, stride, rows, w.dot[parity ^ 1u]);
    const __m512 scale = _mm512_loadu_ps(row_scale);
    for (size_t k = 0; k < n_tile; k++) {
        float *row = y + tile_start(k, rows, n_tok) * y_stride;
        for (size_t t = 0; t < rows; t++) {
            _mm512_storeu_ps(row + t * y_stride, _mm512_mul_ps(acc[k][t], scale));
        }
    }
}

/* Passes as equal as possible. */
INLINE void amx_run(panel_kind kind, __m512i table, const uint8_t *panel, const float *row_scale,
                    const void *act, size_t stride, size_t n_tok, size_t n_sb, float *y,
                    size_t y_stride)
{
    const uint8_t *a = act;
    size_t rows = 0; /* configured */
    for (size_t pass = (n_tok + PASS_TOKENS - 1) / PASS_TOKENS; pass > 0; pass--) {
        const size_t n = (n_tok + pass - 1) / pass;
        if (rows == 0) {
            amx_config c = {.palette = 1};
            rows = n < AMX_ROWS ? n : AMX_ROWS;
            for (int t = 0; t < AMX_TILES; t++) {
                c.bytes[t] = AMX_BYTES;
                c.rows[t] = t < 6 ? (uint8_t)rows : AMX_ROWS;
            }
            AMX_CONFIGURE(&c);
        }
        amx_pass(kind, table, panel, row_scale, a, stride, n, n_sb, y, y_stride);
        n_tok -= n;
        a += n * stride;
        y += n * y_stride;
    }
    AMX_RELEASE();
}

void FG_LEVEL(panel_q4)(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                        const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                        size_t y_stride)
{
    if (n_tok < FEWEST_TOKENS) {
        fg_panel_q4__avx512vnni(panel, row_scale, lut, act, act_stride, n_tok, n_sb, y, y_stride);
        return;
    }
    amx_run(kind_q4, table_q4(lut), panel, row_scale, act, act_stride, n_tok, n_sb, y, y_stride);
}

void FG_LEVEL(panel_q4lin)(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                           const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                           size_t y_stride)
{
    if (n_tok < FEWEST_TOKENS) {
        fg_panel_q4lin__avx512vnni(panel, row_scale, lut, act, act_stride, n_tok, n_sb, y,
                                   y_stride);
        return;
    }
    amx_run(kind_q4lin, table_none(lut), panel, row_scale, act, act_stride, n_tok, n_sb, y,
            y_stride);
}

void FG_LEVEL(panel_q5)(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                        const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                        size_t y_stride)
{
    if (n_tok < FEWEST_TOKENS) {
        fg_panel_q5__avx512vnni(panel, row_scale, lut, act, act_stride, n_tok, n_sb, y, y_stride);
        return;
    }
    amx_run(kind_q5, table_none(lut), panel, row_scale, act, act_stride, n_tok, n_sb, y, y_stride);
}

void FG_LEVEL(panel_q6)(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                        const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                        size_t y_stride)
{
    if (n_tok < FEWEST_TOKENS) {
        fg_panel_q6__avx512vnni(panel, row_scale, lut, act, act_stride, n_tok, n_sb, y, y_stride);
        return;
    }
    amx_run(kind_q6, table_none(lut), panel, row_scale, act, act_stride, n_tok, n_sb, y, y_stride);
}

void FG_LEVEL(panel_q8)(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                        const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                        size_t y_stride)
{
    if (n_tok < FEWEST_TOKENS) {
        fg_panel_q8__avx512vnni(panel, row_scale, lut, act, act_stride, n_tok, n_sb, y, y_stride);
        return;
    }
    amx_run(kind_q8, table_q8(lut), panel, row_scale, act, act_stride, n_tok, n_sb, y, y_stride);
}

#endif
#endif
