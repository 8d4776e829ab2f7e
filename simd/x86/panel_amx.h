/* SPDX-License-Identifier: MIT
 *
 * AMX-INT8 panels for many tokens, all quantized types; included by one file that defines
 * FG_LEVEL(op).  Few tokens are left to the AVX-512-VNNI panels (FG_TILE_TOKENS).
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
 * The four tiles of a superblock's planes stay in registers while all tokens of a pass go by, 16 at
 * a time: two tile loads, four products, two stores.  The results are added up two tiles of tokens
 * later, four tokens after each product, so that neither the vector nor the tile unit waits for the
 * other.  What is stored goes round in 8 KiB: with more of it, or with strided activations, the
 * first-level cache is what limits (KERNELS.md has the figures).
 *
 * All tiles of a pass are as high as each other, 33 tokens three of 11, since everything that a
 * tile costs grows with its rows.  What is left over is covered by moving the last one back over
 * tokens that are done already.
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
    PASS_TILES = FG_TILE_PASS / AMX_ROWS, /* tiles of tokens that share an unpacking */
    HALVES = 2,                           /* 64 columns each: what a tile holds */
    PLANES = 2,                           /* low, high */
    RING = 4,                             /* results kept, of 2 KiB each */
    LAG = 2,                              /* tiles between a product and its sum; below RING */
    TILE_AHEAD = 4096,                    /* bytes of the panel asked for ahead of their use */
    STEPS = 4,                            /* products of a tile; sums are made between them */
};

typedef struct amx_dots {
    _Alignas(64) int32_t of[PLANES][AMX_ROWS][FG_PANEL_ROWS];
} amx_dots;

/* Where the results of a tile of tokens belong. */
typedef struct amx_sums {
    __m512 *acc;    /* one for each token */
    const float *d; /* their scales in this superblock */
} amx_sums;

typedef struct amx_work {
    _Alignas(64) uint8_t plane[HALVES][PLANES][AMX_ROWS][AMX_BYTES]; /* [column quad][row, byte] */
    amx_dots dot[RING];
    amx_sums to[RING];
    __m512 acc[PASS_TILES][AMX_ROWS];
} amx_work;

/* One pass: at most FG_TILE_PASS tokens. */
typedef struct amx_job {
    const uint8_t *panel;
    const float *row_scale;
    const fg_act_tiles *act;
    size_t first, n_tok, n_sb; /* first: row of act */
    float *y;
    size_t y_stride;
} amx_job;

/* ---- planes ---- */

/* Byte g of each lane, and nothing, and the same again. */
INLINE __m512i even_bytes(__m512i x, int g)
{
    const char a = (char)g, b = (char)(4 + g), c = (char)(8 + g), d = (char)(12 + g);
    return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                      a, -1, a, -1, b, -1, b, -1, c, -1, c, -1, d, -1, d, -1)));
}

/* Four times byte g of each lane. */
INLINE __m512i all_bytes(__m512i x, int g)
{
    const char a = (char)g, b = (char)(4 + g), c = (char)(8 + g), d = (char)(12 + g);
    return _mm512_shuffle_epi8(
        x, _mm512_broadcast_i32x4(_mm_setr_epi8(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d)));
}

/* Products of even and odd columns, 16 bits each, as the planes' row of visit n of group g. */
INLINE void put_products(__m512i even, __m512i odd, int g, int n, amx_work *w)
{
    const __mmask64 low_half = 0x5555555555555555ull;
    const __m512i pairs = _mm512_broadcast_i32x4(
        _mm_setr_epi8(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)); /* swapped */
    const int row = 8 * (g & 1) + quad_of(n);
    _mm512_store_si512(w->plane[g / 2][0][row],
                       _mm512_mask_shuffle_epi8(even, ~low_half, odd, pairs));
    _mm512_store_si512(w->plane[g / 2][1][row],
                       _mm512_mask_shuffle_epi8(odd, low_half, even, pairs));
}

/* Group g of a superblock whose scales are `line` and whose codes begin at p. */
typedef void amx_group_fn(const uint8_t *p, int g, __m512i line, __m512i table, amx_work *w);

typedef struct amx_kind {
    amx_group_fn *group;
    size_t group_bytes;
} amx_kind;

/* Unsigned codes times signed scales, less the offset of the codes. */
INLINE void amx_group_q8(const uint8_t *p, int g, __m512i line, __m512i table, amx_work *w)
{
    const __m512i s = even_bytes(line, g), s_odd = _mm512_slli_epi16(s, 8);
    const __m512i zero = _mm512_srai_epi16(s_odd, 1); /* 128 s */
    UNROLL
    for (int n = 0; n < QUADS; n++) {
        const __m512i c = quad_q8(p, n, table);
        put_products(_mm512_sub_epi16(_mm512_maddubs_epi16(c, s), zero),
                     _mm512_sub_epi16(_mm512_maddubs_epi16(c, s_odd), zero), g, n, w);
    }
}

/* The others: |s| unsigned times the value, or where s is negative times its opposite, which needs
 * no correction.  Of q4 the table has both. */
INLINE void amx_group_q4(const uint8_t *p, int g, __m512i line, __m512i table, amx_work *w)
{
    const __m512i negative =
        _mm512_and_si512(_mm512_srli_epi16(line, 3), _mm512_set1_epi8(16)); /* 16 or 0 */
    const __m512i second = all_bytes(negative, g);
    const __m512i s = even_bytes(_mm512_abs_epi8(line), g), s_odd = _mm512_slli_epi16(s, 8);
    UNROLL
    for (int n = 0; n < QUADS; n++) {
        const __m512i x = load512(p + 64 * (n / 2));
        const __m512i code = (n & 1) == 0 ? x : _mm512_srli_epi16(x, 4);
        const __m512i v = AMX_LOOK_UP(
            _mm512_ternarylogic_epi64(code, _mm512_set1_epi8(15), second, 0xea), /* (a & b) | c */
            table);
        put_products(_mm512_maddubs_epi16(s, v), _mm512_maddubs_epi16(s_odd, v), g, n, w);
    }
}
INLINE __m512i amx_table_q4(const fg_lut *lut)
{
    const __m512i v =
        _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)lut->v));
    const __mmask64 second = 0xffff0000ffff0000ull; /* every other 16 */
    return _mm512_mask_sub_epi8(v, second, _mm512_setzero_si512(), v);
}

/* Values from codes whose bits are all flipped where s is negative: code - 2^shift, or its opposite
 * ~code - (2^shift - 1). */
typedef __m512i amx_quad_fn(const uint8_t *p, int n, __m512i negative);

INLINE void amx_group_linear(amx_quad_fn *quad, int shift, const uint8_t *p, int g, __m512i line,
                             amx_work *w)
{
    const __m512i negative = _mm512_srai_epi16(all_bytes(line, g), 15); /* 255 or 0 */
    const __m512i zero = _mm512_add_epi8(_mm512_set1_epi8((char)(1 << shift)), negative);
    const __m512i s = even_bytes(_mm512_abs_epi8(line), g), s_odd = _mm512_slli_epi16(s, 8);
    UNROLL
    for (int n = 0; n < QUADS; n++) {
        const __m512i v = _mm512_sub_epi8(quad(p, n, negative), zero);
        put_products(_mm512_maddubs_epi16(s, v), _mm512_maddubs_epi16(s_odd, v), g, n, w);
    }
}

/* Low or high nibbles of the line of visit n, flipped. */
INLINE __m512i flipped_nibbles(const uint8_t *p, int n, __m512i negative)
{
    const __m512i x = load512(p + 64 * (n / 2));
    return _mm512_ternarylogic_epi64((n & 1) == 0 ? x : _mm512_srli_epi16(x, 4),
                                     _mm512_set1_epi8(15), negative, 0x48); /* (a ^ c) & b */
}

INLINE __m512i amx_quad_q5(const uint8_t *p, int n, __m512i negative)
{
    const __m512i upper = _mm512_xor_si512(load512(p + 256), negative);
    return or_moved(flipped_nibbles(p, n, negative), upper, 4 - quad_of(n), 16);
}
INLINE void amx_group_q5(const uint8_t *p, int g, __m512i line, __m512i table, amx_work *w)
{
    (void)table;
    amx_group_linear(amx_quad_q5, 4, p, g, line, w);
}

INLINE __m512i amx_quad_q6(const uint8_t *p, int n, __m512i negative)
{
    const __m512i upper = _mm512_xor_si512(load512(p + 256 + 64 * (n & 1)), negative);
    return or_moved(flipped_nibbles(p, n, negative), upper, 4 - 2 * (n / 2), 48);
}
INLINE void amx_group_q6(const uint8_t *p, int g, __m512i line, __m512i table, amx_work *w)
{
    (void)table;
    amx_group_linear(amx_quad_q6, 5, p, g, line, w);
}

INLINE __m512i amx_quad_q4lin(const uint8_t *p, int n, __m512i negative)
{
    return flipped_nibbles(p, n, negative);
}
INLINE void amx_group_q4lin(const uint8_t *p, int g, __m512i line, __m512i table, amx_work *w)
{
    (void)table;
    amx_group_linear(amx_quad_q4lin, 3, p, g, line, w);
}

static const amx_kind amx_q4 = {amx_group_q4, 256};
static const amx_kind amx_q4lin = {amx_group_q4lin, 256};
static const amx_kind amx_q5 = {amx_group_q5, 256 + 64};
static const amx_kind amx_q6 = {amx_group_q6, 256 + 128};
static const amx_kind amx_q8 = {amx_group_q8, 512};

INLINE void amx_unpack(amx_kind kind, __m512i table, const uint8_t *sb, amx_work *w)
{
    const __m512i line = load512(sb);
    for (size_t k = 0; k <= FG_SB_GROUPS * kind.group_bytes / 64; k++) {
        _mm_prefetch((const char *)sb + TILE_AHEAD + 64 * k, _MM_HINT_T0);
    }
    sb += 64;
    UNROLL
    for (int g = 0; g < FG_SB_GROUPS; g++, sb += kind.group_bytes) {
        kind.group(sb, g, line, table, w);
    }
}

/* ---- products and sums ---- */

/* Tokens from .. from + n - 1 of a tile. */
INLINE void amx_add(const amx_sums *to, const amx_dots *dot, size_t from, size_t n)
{
    __m512 *acc = to->acc + from; /* not read again behind each store */
    const float *d = to->d + from;
    for (size_t t = 0; t < n; t++) {
        const __m512i high = _mm512_slli_epi32(load512(dot->of[1][from + t]), 8);
        const __m512i isum = _mm512_add_epi32(load512(dot->of[0][from + t]), high);
        acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(isum), _mm512_set1_ps(d[t]), acc[t]);
    }
}

/* Tiles 4 to 7: low and high plane of the first 64 columns, then of the others. */
INLINE void amx_load_planes(const amx_work *w)
{
    AMX_FENCE();
    AMX_LOAD(4, w->plane[0][0], AMX_BYTES);
    AMX_LOAD(5, w->plane[0][1], AMX_BYTES);
    AMX_LOAD(6, w->plane[1][0], AMX_BYTES);
    AMX_LOAD(7, w->plane[1][1], AMX_BYTES);
    AMX_FENCE();
}

/* A quarter of the sums of an earlier tile; to NULL: there is none. */
INLINE void amx_step(const amx_sums *to, const amx_dots *done, size_t k, size_t rows)
{
    const size_t from = k * rows / STEPS;
    AMX_FENCE();
    if (to == NULL) {
    } else if (rows == AMX_ROWS) { /* without a loop */
        amx_add(to, done, k * AMX_ROWS / STEPS, AMX_ROWS / STEPS);
    } else {
        amx_add(to, done, from, (k + 1) * rows / STEPS - from);
    }
    AMX_FENCE();
}

/* Tiles 0 and 1 are C (low, high), 2 and 3 the two halves of the activations. */
INLINE void amx_tile(const int8_t *q, size_t half, size_t rows, amx_dots *dot, const amx_sums *to,
                     const amx_dots *done)
{
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_LOAD(2, q, AMX_BYTES);
    AMX_LOAD(3, q + half, AMX_BYTES);
    AMX_DOT_SU(0, 2, 4);
    amx_step(to, done, 0, rows);
    AMX_DOT_SS(1, 2, 5);
    amx_step(to, done, 1, rows);
    AMX_DOT_SU(0, 3, 6);
    amx_step(to, done, 2, rows);
    AMX_DOT_SS(1, 3, 7);
    amx_step(to, done, 3, rows);
    AMX_STORE(0, dot->of[0], AMX_BYTES);
    AMX_STORE(1, dot->of[1], AMX_BYTES);
    AMX_FENCE();
}

/* Rows of each of n_tile tiles. */
INLINE size_t tile_rows(size_t n_tile, size_t n_tok)
{
    return (n_tok + n_tile - 1) / n_tile;
}

/* First token of tile k: the last tile ends with the last token. */
INLINE size_t tile_start(size_t k, size_t rows, size_t n_tok)
{
    return (k + 1) * rows <= n_tok ? k * rows : n_tok - rows;
}

INLINE void amx_multiply(amx_kind kind, __m512i table, const amx_job *j, amx_work *w, size_t rows,
                         size_t n_tile)
{
    const uint8_t *panel = j->panel;
    const size_t half = j->act->rows * AMX_BYTES, total = n_tile * j->n_sb;
    size_t at = 0; /* tiles started */
    for (size_t i = 0; i < j->n_sb; i++) {
        const int8_t *q = j->act->q + 2 * i * half + j->first * AMX_BYTES;
        const float *d = j->act->d + i * j->act->rows + j->first;
        amx_unpack(kind, table, panel, w);
        panel += 64 + FG_SB_GROUPS * kind.group_bytes;
        amx_load_planes(w);
        for (size_t k = 0; k < n_tile; k++, at++) {
            const size_t t = tile_start(k, rows, j->n_tok), now = at % RING,
                         before = (at - LAG) % RING;
            w->to[now] = (amx_sums){w->acc[k], d + t};
            amx_tile(q + t * AMX_BYTES, half, rows, &w->dot[now], at >= LAG ? &w->to[before] : NULL,
                     &w->dot[before]);
        }
    }
    for (size_t k = total < LAG ? 0 : total - LAG; k < total; k++) {
        amx_add(&w->to[k % RING], &w->dot[k % RING], 0, rows);
    }
}

INLINE void amx_pass(amx_kind kind, __m512i table, const amx_job *j)
{
    amx_work w;
    const size_t n_tile = (j->n_tok + AMX_ROWS - 1) / AMX_ROWS;
    const size_t rows = tile_rows(n_tile, j->n_tok);
    for (size_t k = 0; k < n_tile; k++) {
        for (size_t t = 0; t < rows; t++) w.acc[k][t] = _mm512_setzero_ps();
    }
    amx_multiply(kind, table, j, &w, rows, n_tile);
    const __m512 scale = _mm512_loadu_ps(j->row_scale);
    for (size_t k = 0; k < n_tile; k++) {
        float *row = j->y + tile_start(k, rows, j->n_tok) * j->y_stride;
        for (size_t t = 0; t < rows; t++) {
            _mm512_storeu_ps(row + t * j->y_stride, _mm512_mul_ps(w.acc[k][t], scale));
        }
    }
}

/* Passes as equal as possible. */
INLINE void amx_run(amx_kind kind, __m512i table, amx_job j)
{
    size_t left = j.n_tok;
    for (size_t pass = (left + FG_TILE_PASS - 1) / FG_TILE_PASS; pass > 0; pass--) {
        j.n_tok = (left + pass - 1) / pass;
        amx_config c = {.palette = 1};
        for (int t = 0; t < AMX_TILES; t++) {
            const size_t n_tile = (j.n_tok + AMX_ROWS - 1) / AMX_ROWS;
            c.bytes[t] = AMX_BYTES;
            c.rows[t] = t < 4 ? (uint8_t)tile_rows(n_tile, j.n_tok) : AMX_ROWS;
        }
        AMX_CONFIGURE(&c);
        amx_pass(kind, table, &j);
        left -= j.n_tok;
        j.first += j.n_tok;
        j.y += j.n_tok * j.y_stride;
    }
    AMX_RELEASE();
}

#define TILES_FN(name, table)                                                                      \
    void FG_LEVEL(tiles_##name)(const uint8_t *panel, const float *row_scale, const fg_lut *lut,   \
                                const fg_act_tiles *act, size_t first, size_t n_tok, size_t n_sb,  \
                                float *y, size_t y_stride)                                         \
    {                                                                                              \
        amx_run(amx_##name, table(lut),                                                            \
                (amx_job){panel, row_scale, act, first, n_tok, n_sb, y, y_stride});                \
    }
TILES_FN(q4, amx_table_q4)
TILES_FN(q4lin, table_none)
TILES_FN(q5, table_none)
TILES_FN(q6, table_none)
TILES_FN(q8, table_q8)

#endif
#endif
