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
 * Where this was measured two virtual CPUs share a core, its tile unit and its first-level cache
 * (KERNELS.md has the figures): one's waiting is the other's time, so that what counts is how much
 * of each there is, and how little memory.  A tile product is 16 cycles, a tile load 8 from the
 * first-level cache, a tile store 16; the vector units are busier than the tile unit with two tiles
 * of tokens, and less busy with eight.  Hence two ways:
 *   - one or two tiles of tokens: their activations stay in registers while the same superblock of
 *     several panels goes by;
 *   - more: the four tiles of a superblock's planes stay in registers while the tokens go by, whose
 *     activations are loaded right behind the last use of those before, past the first-level cache.
 * The next planes are made between the products.  Results are stored in a few KiB that go round,
 * and added up later, a few tokens behind each product.
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

#include <stdbool.h>

#include "simd/kernels_decl.h"
#include "simd/x86/decode_avx512vnni.h"
#include "simd/x86/tile_amx.h"

#if defined(__AVX512VNNI__) && defined(AMX_CONFIGURE) /* tile_amx.h knows how */

enum {
    PASS_TILES = FG_TILE_PASS / AMX_ROWS, /* tiles of tokens that share an unpacking */
    HALVES = 2,                           /* 64 columns each: what a tile holds */
    PLANES = 2,                           /* low, high */
    FEW_TILES = 2,                        /* whose activations stay in registers */
    MOST_PANELS = FG_TILE_PANELS,         /* that are multiplied together */
    NEAR_TILES = 16,                      /* whose sums, 1 KiB each, the first-level cache holds */
    STRETCH = 16,                         /* superblocks of a panel before the next panel */
    TILE_AHEAD = 4096,                    /* bytes of a panel asked for ahead of their use */
    FEW_RING = 2 * FEW_TILES,             /* results kept, of 2 KiB each */
    MORE_RING = 2,                        /* those of a tile and of the one before */
    STEPS = 4,                            /* products of a tile; other work is done between them */
};

typedef struct amx_dots {
    _Alignas(64) int32_t of[PLANES][AMX_ROWS][FG_PANEL_ROWS];
} amx_dots;

/* Where the results of a tile of tokens belong. */
typedef struct amx_sums {
    __m512 *acc;    /* one for each token */
    const float *d; /* their scales in this superblock */
    size_t rows;    /* 0: no tile */
} amx_sums;

/* A superblock, unpacked: [column quad][row, byte]. */
typedef struct amx_planes {
    _Alignas(64) uint8_t of[HALVES][PLANES][AMX_ROWS][AMX_BYTES];
} amx_planes;

typedef struct amx_work {
    amx_planes planes[2]; /* those in use and those of the next superblock */
    amx_dots dot[FEW_RING];
    amx_sums to[FEW_RING];
    __m512 acc[MOST_PANELS * PASS_TILES][AMX_ROWS];
} amx_work;

/* One pass: at most FG_TILE_PASS tokens. */
typedef struct amx_job {
    const uint8_t *panel;
    size_t n_panel, panel_stride;
    const float *row_scale;
    const fg_act_tiles *act;
    size_t first, n_tok, n_sb; /* first: row of act */
    float *y;
    size_t y_stride;
} amx_job;

/* Asks for the line TILE_AHEAD behind p; the first-level cache is full of other things. */
INLINE void amx_ask(const uint8_t *p)
{
    _mm_prefetch((const char *)p + TILE_AHEAD, _MM_HINT_T1);
}

/* ---- planes ---- */

/* Shuffles of the scales: byte g of each lane, nothing, the same again; or four times byte g. */
typedef struct amx_spread {
    _Alignas(16) int8_t even[FG_SB_GROUPS][16], all[FG_SB_GROUPS][16];
} amx_spread;
#define AMX_EVEN(g)                                                                                \
    {                                                                                              \
        g, -1, g, -1, 4 + g, -1, 4 + g, -1, 8 + g, -1, 8 + g, -1, 12 + g, -1, 12 + g, -1           \
    }
#define AMX_ALL(g)                                                                                 \
    {                                                                                              \
        g, g, g, g, 4 + g, 4 + g, 4 + g, 4 + g, 8 + g, 8 + g, 8 + g, 8 + g, 12 + g, 12 + g,        \
            12 + g, 12 + g                                                                         \
    }
static const amx_spread spread = {
    {AMX_EVEN(0), AMX_EVEN(1), AMX_EVEN(2), AMX_EVEN(3)},
    {AMX_ALL(0), AMX_ALL(1), AMX_ALL(2), AMX_ALL(3)},
};

INLINE __m512i shuffle_lanes(__m512i x, const int8_t *order)
{
    const __m128i o = _mm_load_si128((const __m128i *)(const void *)order);
    return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(o));
}

/* A group whose lines are being unpacked. */
typedef struct amx_lines {
    __m512i s, s_odd;   /* scale in the even, in the odd byte of each pair; unsigned but for q8 */
    __m512i flip, zero; /* what the type makes of the scales' signs */
    const uint8_t *lines;
    uint8_t *low; /* the planes' row of its first quad */
} amx_lines;

/* From the line of scales; from the lines, those of visit n as 16-bit products of even and odd
 * columns. */
typedef void amx_begin_fn(amx_lines *c, __m512i scales, int g);
typedef void amx_line_fn(const amx_lines *c, int n, __m512i table, __m512i *even, __m512i *odd);

typedef void amx_unpack_fn(__m512i table, const uint8_t *sb, amx_planes *to);

typedef struct amx_kind {
    amx_begin_fn *begin;
    amx_line_fn *line;
    amx_unpack_fn *unpack; /* a whole superblock */
    size_t group_bytes;
} amx_kind;

/* Unsigned codes times signed scales, less the offset of the codes. */
INLINE void amx_begin_q8(amx_lines *c, __m512i scales, int g)
{
    c->s = shuffle_lanes(scales, spread.even[g]);
    c->s_odd = _mm512_slli_epi16(c->s, 8);
    c->zero = _mm512_srai_epi16(c->s_odd, 1); /* 128 s */
}
INLINE void amx_line_q8(const amx_lines *c, int n, __m512i table, __m512i *even, __m512i *odd)
{
    const __m512i code = quad_q8(c->lines, n, table);
    *even = _mm512_sub_epi16(_mm512_maddubs_epi16(code, c->s), c->zero);
    *odd = _mm512_sub_epi16(_mm512_maddubs_epi16(code, c->s_odd), c->zero);
}

/* The others: |s| unsigned times the value, or where s is negative times its opposite, which needs
 * no correction.  Of q4 the table has both: its second half where the flip is 16. */
INLINE void amx_begin_q4(amx_lines *c, __m512i scales, int g)
{
    const __m512i negative = _mm512_and_si512(_mm512_srli_epi16(scales, 3), _mm512_set1_epi8(16));
    c->flip = shuffle_lanes(negative, spread.all[g]);
    c->s = shuffle_lanes(_mm512_abs_epi8(scales), spread.even[g]);
    c->s_odd = _mm512_slli_epi16(c->s, 8);
}
INLINE void amx_line_q4(const amx_lines *c, int n, __m512i table, __m512i *even, __m512i *odd)
{
    const __m512i x = load512(c->lines + 64 * (n / 2));
    const __m512i code = (n & 1) == 0 ? x : _mm512_srli_epi16(x, 4);
    const __m512i v = AMX_LOOK_UP(
        _mm512_ternarylogic_epi64(code, _mm512_set1_epi8(15), c->flip, 0xea), /* (a & b) | c */
        table);
    *even = _mm512_maddubs_epi16(c->s, v);
    *odd = _mm512_maddubs_epi16(c->s_odd, v);
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
INLINE void amx_begin_linear(amx_lines *c, __m512i scales, int g, int shift)
{
    c->flip = _mm512_srai_epi16(shuffle_lanes(scales, spread.all[g]), 15); /* 255 or 0 */
    c->zero = _mm512_add_epi8(_mm512_set1_epi8((char)(1 << shift)), c->flip);
    c->s = shuffle_lanes(_mm512_abs_epi8(scales), spread.even[g]);
    c->s_odd = _mm512_slli_epi16(c->s, 8);
}
INLINE void amx_linear(const amx_lines *c, __m512i code, __m512i *even, __m512i *odd)
{
    const __m512i v = _mm512_sub_epi8(code, c->zero);
    *even = _mm512_maddubs_epi16(c->s, v);
    *odd = _mm512_maddubs_epi16(c->s_odd, v);
}

/* Low or high nibbles of the line of visit n, flipped. */
INLINE __m512i flipped_nibbles(const amx_lines *c, int n)
{
    const __m512i x = load512(c->lines + 64 * (n / 2));
    return _mm512_ternarylogic_epi64((n & 1) == 0 ? x : _mm512_srli_epi16(x, 4),
                                     _mm512_set1_epi8(15), c->flip, 0x48); /* (a ^ c) & b */
}

INLINE void amx_begin_q5(amx_lines *c, __m512i scales, int g)
{
    amx_begin_linear(c, scales, g, 4);
}
INLINE void amx_line_q5(const amx_lines *c, int n, __m512i table, __m512i *even, __m512i *odd)
{
    const __m512i upper = _mm512_xor_si512(load512(c->lines + 256), c->flip);
    (void)table;
    amx_linear(c, or_moved(flipped_nibbles(c, n), upper, 4 - quad_of(n), 16), even, odd);
}

INLINE void amx_begin_q6(amx_lines *c, __m512i scales, int g)
{
    amx_begin_linear(c, scales, g, 5);
}
INLINE void amx_line_q6(const amx_lines *c, int n, __m512i table, __m512i *even, __m512i *odd)
{
    const __m512i upper = _mm512_xor_si512(load512(c->lines + 256 + 64 * (n & 1)), c->flip);
    (void)table;
    amx_linear(c, or_moved(flipped_nibbles(c, n), upper, 4 - 2 * (n / 2), 48), even, odd);
}

INLINE void amx_begin_q4lin(amx_lines *c, __m512i scales, int g)
{
    amx_begin_linear(c, scales, g, 3);
}
INLINE void amx_line_q4lin(const amx_lines *c, int n, __m512i table, __m512i *even, __m512i *odd)
{
    (void)table;
    amx_linear(c, flipped_nibbles(c, n), even, odd);
}

/* Visit n of a group: products of 16 bits become a row of each plane. */
INLINE void amx_line(amx_kind kind, const amx_lines *c, int n, __m512i table)
{
    const __mmask64 low_half = 0x5555555555555555ull;
    const __m512i pairs = _mm512_broadcast_i32x4(
        _mm_setr_epi8(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)); /* swapped */
    __m512i even, odd;
    uint8_t *low = c->low + AMX_BYTES * quad_of(n), *high = low + AMX_ROWS * AMX_BYTES;
    if (n < (int)kind.group_bytes / 64) {
        amx_ask(c->lines + 64 * n);
    }
    kind.line(c, n, table, &even, &odd);
    _mm512_store_si512(low, _mm512_mask_shuffle_epi8(even, ~low_half, odd, pairs));
    _mm512_store_si512(high, _mm512_mask_shuffle_epi8(odd, low_half, even, pairs));
}

/* Visits n .. n + n_line - 1, constants, of group g of the superblock at sb; c is kept from the
 * group's first to its last. */
INLINE void amx_unpack(amx_kind kind, __m512i table, const uint8_t *sb, amx_planes *to, int g,
                       int n, int n_line, amx_lines *c)
{
    if (n == 0) {
        if (g == 0) amx_ask(sb);
        kind.begin(c, load512(sb), g);
        c->lines = sb + 64 + (size_t)g * kind.group_bytes;
        c->low = to->of[g / 2][0][QUADS * (g & 1)];
    }
    UNROLL
    for (int i = 0; i < n_line; i++) amx_line(kind, c, n + i, table);
}

/* A function of its own: what is unpacked with nothing between is not worth copies. */
#define AMX_KIND(name, bytes)                                                                      \
    static amx_unpack_fn amx_unpack_##name;                                                        \
    static const amx_kind amx_##name = {amx_begin_##name, amx_line_##name, amx_unpack_##name,      \
                                        bytes};                                                    \
    __attribute__((noinline)) static void amx_unpack_##name(__m512i table, const uint8_t *sb,      \
                                                            amx_planes *to)                        \
    {                                                                                              \
        amx_lines c;                                                                               \
        UNROLL                                                                                     \
        for (int g = 0; g < FG_SB_GROUPS; g++) {                                                   \
            amx_unpack(amx_##name, table, sb, to, g, 0, QUADS, &c);                                \
        }                                                                                          \
    }
AMX_KIND(q4, 256)
AMX_KIND(q4lin, 256)
AMX_KIND(q5, 256 + 64)
AMX_KIND(q6, 256 + 128)
AMX_KIND(q8, 512)

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

/* A quarter of the sums of an earlier tile. */
INLINE void amx_sum(const amx_sums *to, const amx_dots *done, size_t k)
{
    if (to->rows == AMX_ROWS) { /* without a loop */
        amx_add(to, done, k * AMX_ROWS / STEPS, AMX_ROWS / STEPS);
    } else {
        const size_t from = k * to->rows / STEPS;
        amx_add(to, done, from, (k + 1) * to->rows / STEPS - from);
    }
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

/* Asks for rows from .. to of both halves of a superblock's activations, of which the first is at
 * q, for the first-level cache: a tile load that waits for the second holds up everything. */
INLINE void amx_ask_rows(const int8_t *q, size_t half, size_t from, size_t to)
{
    for (size_t r = from; r < to; r++) {
        _mm_prefetch((const char *)q + r * AMX_BYTES, _MM_HINT_T0);
        _mm_prefetch((const char *)q + half + r * AMX_BYTES, _MM_HINT_T0);
    }
}

/* ---- few tokens: one or two tiles, activations in registers ---- */

/* The superblock that is unpacked meanwhile. */
typedef struct amx_next {
    const uint8_t *sb;
    amx_planes *to;
    const int8_t *q; /* activations of the next superblock, of which rows are asked for */
    size_t half, from, rows;
} amx_next;

enum {
    FEW_STEPS = FEW_TILES * STEPS,
    FEW_PARTS = FEW_STEPS / FG_SB_GROUPS, /* of a group */
    LINES = QUADS / FEW_PARTS,            /* of a part */
};

/* What is done behind product k of a unit. */
INLINE void few_step(amx_kind kind, __m512i table, const amx_sums *before, const amx_dots *done,
                     const amx_next *next, int k, amx_lines *c)
{
    const size_t step = (size_t)k;
    AMX_FENCE();
    amx_sum(&before[k / STEPS], &done[k / STEPS], step % STEPS);
    amx_unpack(kind, table, next->sb, next->to, k / FEW_PARTS, k % FEW_PARTS * LINES, LINES, c);
    amx_ask_rows(next->q, next->half, next->from + step * next->rows / FEW_STEPS,
                 next->from + (step + 1) * next->rows / FEW_STEPS);
    AMX_FENCE();
}

/* A panel's superblock times all tokens.  Tiles 4 and 5 are the halves of the first tile of tokens,
 * 6 and 7 of the second; 0 and 1 are C, first of the low plane, then of the high one, whose halves
 * go through 2 and 3. */
INLINE void few_unit(amx_kind kind, __m512i table, amx_work *w, const amx_planes *b, size_t now,
                     const amx_next *next, bool two)
{
    const amx_sums before[FEW_TILES] = {w->to[now ^ 2], w->to[(now ^ 2) + 1]};
    amx_dots *dot = &w->dot[now], *done = &w->dot[now ^ 2];
    amx_lines c;
#define AMX_STEP(k) few_step(kind, table, before, done, next, k, &c)
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_LOAD(2, b->of[0][0], AMX_BYTES);
    AMX_LOAD(3, b->of[1][0], AMX_BYTES);
    AMX_DOT_SU(0, 4, 2);
    AMX_STEP(0);
    if (two) AMX_DOT_SU(1, 6, 2);
    AMX_STEP(1);
    AMX_LOAD(2, b->of[0][1], AMX_BYTES);
    AMX_DOT_SU(0, 5, 3);
    AMX_STEP(2);
    if (two) AMX_DOT_SU(1, 7, 3);
    AMX_STEP(3);
    AMX_LOAD(3, b->of[1][1], AMX_BYTES);
    AMX_STORE(0, dot[0].of[0], AMX_BYTES);
    if (two) AMX_STORE(1, dot[1].of[0], AMX_BYTES);
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_DOT_SS(0, 4, 2);
    AMX_STEP(4);
    if (two) AMX_DOT_SS(1, 6, 2);
    AMX_STEP(5);
    AMX_DOT_SS(0, 5, 3);
    AMX_STEP(6);
    if (two) AMX_DOT_SS(1, 7, 3);
    AMX_STEP(7);
    AMX_STORE(0, dot[0].of[1], AMX_BYTES);
    if (two) AMX_STORE(1, dot[1].of[1], AMX_BYTES);
    AMX_FENCE();
#undef AMX_STEP
}

/* Panels of one call, at most MOST_PANELS. */
INLINE void few_multiply(amx_kind kind, __m512i table, const amx_job *j, amx_work *w, size_t rows,
                         bool two)
{
    const size_t half = j->act->rows * AMX_BYTES, bytes = 64 + FG_SB_GROUPS * kind.group_bytes;
    const size_t second = j->n_tok - rows; /* its first token */
    size_t now = 0, at = 0;                /* units so far */
    kind.unpack(table, j->panel, &w->planes[0]);
    for (size_t i = 0; i < j->n_sb; i++) {
        const int8_t *q = j->act->q + 2 * i * half + j->first * AMX_BYTES;
        const float *d = j->act->d + i * j->act->rows + j->first;
        AMX_LOAD(4, q, AMX_BYTES);
        AMX_LOAD(5, q + half, AMX_BYTES);
        if (two) AMX_LOAD(6, q + second * AMX_BYTES, AMX_BYTES);
        if (two) AMX_LOAD(7, q + half + second * AMX_BYTES, AMX_BYTES);
        for (size_t p = 0; p < j->n_panel; p++, at++, now ^= 2) {
            const bool last = p + 1 == j->n_panel, end = i + 1 == j->n_sb;
            const size_t from = p * j->n_tok / j->n_panel, to = (p + 1) * j->n_tok / j->n_panel;
            const size_t sb = last ? (end ? i : i + 1) : i; /* at the very end again, for nobody */
            const amx_next next = {j->panel + (last ? 0 : p + 1) * j->panel_stride + sb * bytes,
                                   &w->planes[(at + 1) & 1],
                                   end ? q : q + 2 * half,
                                   half,
                                   from,
                                   to - from};
            w->to[now] = (amx_sums){w->acc[FEW_TILES * p], d, rows};
            w->to[now + 1] = (amx_sums){w->acc[FEW_TILES * p + 1], d + second, two ? rows : 0};
            few_unit(kind, table, w, &w->planes[at & 1], now, &next, two);
        }
    }
    for (size_t k = 0; k < FEW_STEPS; k++) {
        const size_t t = (now ^ 2) + k / STEPS;
        amx_sum(&w->to[t], &w->dot[t], k % STEPS);
    }
}

/* ---- more tokens: planes in registers ---- */

/* Tiles 4 to 7: low and high plane of the first 64 columns, then of the others. */
INLINE void amx_load_planes(const amx_planes *b)
{
    AMX_FENCE();
    AMX_LOAD(4, b->of[0][0], AMX_BYTES);
    AMX_LOAD(5, b->of[0][1], AMX_BYTES);
    AMX_LOAD(6, b->of[1][0], AMX_BYTES);
    AMX_LOAD(7, b->of[1][1], AMX_BYTES);
    AMX_FENCE();
}

/* What is done behind a tile's products. */
typedef struct amx_behind {
    const uint8_t *sb; /* the next superblock */
    amx_planes *to;    /* free: tiles hold the planes in use */
    int group;         /* to unpack; negative: none */
    amx_sums before;   /* the sums of the tile before */
    const amx_dots *done;
} amx_behind;

/* Behind product k. */
INLINE void more_step(amx_kind kind, __m512i table, const amx_behind *b, int k, amx_lines *c)
{
    const int lines = QUADS / STEPS;
    AMX_FENCE();
    amx_sum(&b->before, b->done, (size_t)k);
    if (b->group >= 0) amx_unpack(kind, table, b->sb, b->to, b->group, lines * k, lines, c);
    AMX_FENCE();
}

/* Tiles 0 and 1 are C (low, high), 2 and 3 the two halves of the activations: first those of this
 * tile, then those at next. */
INLINE void more_tile(amx_kind kind, __m512i table, const int8_t *next, size_t half, amx_dots *dot,
                      const amx_behind *b, amx_lines *c)
{
    AMX_ZERO(0);
    AMX_DOT_SU(0, 2, 4);
    more_step(kind, table, b, 0, c);
    AMX_DOT_SU(0, 3, 6);
    more_step(kind, table, b, 1, c);
    AMX_ZERO(1);
    AMX_DOT_SS(1, 2, 5);
    AMX_LOAD_ONCE(2, next, AMX_BYTES);
    AMX_STORE(0, dot->of[0], AMX_BYTES);
    more_step(kind, table, b, 2, c);
    AMX_DOT_SS(1, 3, 7);
    AMX_LOAD_ONCE(3, next + half, AMX_BYTES);
    more_step(kind, table, b, 3, c);
    AMX_STORE(1, dot->of[1], AMX_BYTES);
    AMX_FENCE();
}

/* A panel's superblock times all tokens, whose activations begin at q, scales at d and sums at acc.
 * sb and q_next are the next superblock's; at counts tiles. */
INLINE void more_unit(amx_kind kind, __m512i table, const amx_job *j, amx_work *w, size_t rows,
                      size_t n_tile, const int8_t *q, const float *d, __m512 (*acc)[AMX_ROWS],
                      const uint8_t *sb, const int8_t *q_next, size_t *at)
{
    amx_lines c = {0}; /* which step 0 fills: compilers do not see that it comes first */
    int g = 0;         /* groups of sb unpacked so far */
    amx_load_planes(&w->planes[0]);
    for (size_t k = 0; k < n_tile; k++, ++*at) {
        const size_t now = *at % MORE_RING, then = (*at + 1) % MORE_RING;
        const bool due = (k + 1) * FG_SB_GROUPS / n_tile > (size_t)g;
        const amx_behind b = {sb, &w->planes[0], due ? g : -1, w->to[then], &w->dot[then]};
        w->to[now] = (amx_sums){acc[k], d + tile_start(k, rows, j->n_tok), rows};
        more_tile(kind, table,
                  k + 1 == n_tile ? q_next : q + tile_start(k + 1, rows, j->n_tok) * AMX_BYTES,
                  j->act->rows * AMX_BYTES, &w->dot[now], &b, &c);
        g += due;
    }
    for (; g < FG_SB_GROUPS; g++) { /* fewer tiles than groups */
        amx_unpack(kind, table, sb, &w->planes[0], g, 0, QUADS, &c);
    }
    AMX_FENCE();
}

/* Panels of one call, at most MOST_PANELS.  With few tiles each superblock goes by all of them;
 * else a stretch of superblocks for each panel before the next, so that the sums of one are near
 * and the stretch's activations stay in the second-level cache, where those of all would not. */
INLINE void more_multiply(amx_kind kind, __m512i table, const amx_job *j, amx_work *w, size_t rows,
                          size_t n_tile)
{
    const size_t half = j->act->rows * AMX_BYTES, bytes = 64 + FG_SB_GROUPS * kind.group_bytes;
    const int8_t *first = j->act->q + j->first * AMX_BYTES;
    const size_t stretch = n_tile * MOST_PANELS <= NEAR_TILES ? 1 : STRETCH;
    size_t at = 0; /* tiles started */
    kind.unpack(table, j->panel, &w->planes[0]);
    AMX_LOAD(2, first, AMX_BYTES);
    AMX_LOAD(3, first + half, AMX_BYTES);
    for (size_t begin = 0, end; begin < j->n_sb; begin = end) {
        end = j->n_sb - begin < stretch ? j->n_sb : begin + stretch;
        for (size_t p = 0; p < j->n_panel; p++) {
            for (size_t i = begin; i < end; i++) {
                size_t np = p, ni = i + 1; /* next panel and superblock */
                if (ni == end && p + 1 < j->n_panel) {
                    np = p + 1;
                    ni = begin;
                } else if (ni == end) {
                    np = 0;
                    if (ni == j->n_sb) ni = 0; /* for nobody */
                }
                more_unit(kind, table, j, w, rows, n_tile, first + 2 * i * half,
                          j->act->d + i * j->act->rows + j->first, &w->acc[n_tile * p],
                          j->panel + np * j->panel_stride + ni * bytes, first + 2 * ni * half, &at);
            }
        }
    }
    for (size_t part = 0; part < STEPS; part++) {
        amx_sum(&w->to[(at - 1) % MORE_RING], &w->dot[(at - 1) % MORE_RING], part);
    }
}

/* ---- calls ---- */

/* The results of n_tile tiles of each panel. */
INLINE void amx_finish(const amx_job *j, const amx_work *w, size_t rows, size_t n_tile,
                       size_t stride)
{
    for (size_t p = 0; p < j->n_panel; p++) {
        const __m512 scale = _mm512_loadu_ps(j->row_scale + FG_PANEL_ROWS * p);
        for (size_t k = 0; k < n_tile; k++) {
            float *row = j->y + FG_PANEL_ROWS * p + tile_start(k, rows, j->n_tok) * j->y_stride;
            for (size_t t = 0; t < rows; t++) {
                _mm512_storeu_ps(row + t * j->y_stride,
                                 _mm512_mul_ps(w->acc[stride * p + k][t], scale));
            }
        }
    }
}

/* A pass over the panels of *j that go together. */
INLINE void amx_pass(amx_kind kind, __m512i table, const amx_job *j, size_t n_tile)
{
    amx_work w;
    const size_t rows = tile_rows(n_tile, j->n_tok);
    const bool few = n_tile <= FEW_TILES;
    const size_t stride = few ? FEW_TILES : n_tile;
    for (size_t k = 0; k < stride * j->n_panel; k++) {
        for (size_t t = 0; t < rows; t++) w.acc[k][t] = _mm512_setzero_ps();
    }
    for (size_t i = 0; i < FEW_RING; i++) w.to[i].rows = 0; /* nothing is done yet */
    if (n_tile == 1) {
        few_multiply(kind, table, j, &w, rows, false);
    } else if (few) {
        few_multiply(kind, table, j, &w, rows, true);
    } else {
        more_multiply(kind, table, j, &w, rows, n_tile);
    }
    amx_finish(j, &w, rows, n_tile, stride);
}

/* Passes as equal as possible. */
INLINE void amx_run(amx_kind kind, __m512i table, const amx_job *call)
{
    amx_job j = *call;
    size_t left = call->n_tok;
    for (size_t pass = (left + FG_TILE_PASS - 1) / FG_TILE_PASS; pass > 0; pass--) {
        j.n_tok = (left + pass - 1) / pass;
        const size_t n_tile = (j.n_tok + AMX_ROWS - 1) / AMX_ROWS;
        const bool few = n_tile <= FEW_TILES;
        amx_config c = {.palette = 1};
        for (int t = 0; t < AMX_TILES; t++) {
            const bool planes = few ? t == 2 || t == 3 : t >= 4;
            c.bytes[t] = AMX_BYTES;
            c.rows[t] = planes ? AMX_ROWS : (uint8_t)tile_rows(n_tile, j.n_tok);
        }
        AMX_CONFIGURE(&c);
        for (size_t p = 0; p < call->n_panel; p += MOST_PANELS) {
            amx_job part = j;
            part.n_panel = call->n_panel - p < MOST_PANELS ? call->n_panel - p : MOST_PANELS;
            part.panel += p * j.panel_stride;
            part.row_scale += p * FG_PANEL_ROWS;
            part.y += p * FG_PANEL_ROWS;
            amx_pass(kind, table, &part, n_tile);
        }
        left -= j.n_tok;
        j.first += j.n_tok;
        j.y += j.n_tok * j.y_stride;
    }
    AMX_RELEASE();
}

#define TILES_FN(name, table)                                                                      \
    void FG_LEVEL(tiles_##name)(const uint8_t *panel, size_t n_panel, size_t panel_stride,         \
                                const float *row_scale, const fg_lut *lut,                         \
                                const fg_act_tiles *act, size_t first, size_t n_tok, size_t n_sb,  \
                                float *y, size_t y_stride)                                         \
    {                                                                                              \
        const amx_job j = {panel, n_panel, panel_stride, row_scale, act,                           \
                           first, n_tok,   n_sb,         y,         y_stride};                     \
        amx_run(amx_##name, table(lut), &j);                                                       \
    }
TILES_FN(q4, amx_table_q4)
TILES_FN(q4lin, table_none)
TILES_FN(q5, table_none)
TILES_FN(q6, table_none)
TILES_FN(q8, table_q8)

#endif
#endif
