/* SPDX-License-Identifier: MIT
 *
 * What the AArch64 integer panels share: how lines of each weight type become signed bytes, the
 * frame of the dotprod kernels (one token, and tiles of tokens), and that of the i8mm kernels.
 *
 * A line (64 bytes: 16 rows x 4 columns) is four q registers h = 0..3 of four rows.  Column quad
 * c = 0..7 of a group is columns 4c..4c+3.  A type gives quads j and j + 4 (j = 0..3) together,
 * since they are the low and high nibbles of one line.  Codes stay unsigned (0..63 fit int8); their
 * offset enters as the start value of the dot product:
 *   dot  = -(act.sum_g << shift), then sdot or smmla over the group     int32
 *   isum = isum + dot * s_g                                             int32
 *   acc  = fma((float)isum, act.d, acc)                                 f32
 * so that a group costs one multiply-add a register beside its dot products.
 *
 *   one token       decodes in registers, 2 chains a register of rows
 *   dotprod tile    8 rows x 4 tokens: 8 dot + 8 isum registers, 2 weight, 4 activation of 32
 *   i8mm tile       8 rows x 4 tokens: 4 row pairs x 2 token pairs of 2 x 2, the same count
 * Tiles run over a superblock that is unpacked once into L1 (2 KiB) for up to PASS_TOKENS tokens.
 * The sums are the same integers on every path, so the bits are too.
 */
#ifndef FG_SIMD_ARM_PANEL_NEON_H
#define FG_SIMD_ARM_PANEL_NEON_H

#include "simd/kernels_decl.h"

#if defined(__ARM_FEATURE_DOTPROD)

#include <arm_neon.h>

/* Loops over constant trips must dissolve, so that arrays of vectors become registers. */
#if defined(__clang__)
#define UNROLL    _Pragma("clang loop unroll(full)")
#define NO_UNROLL _Pragma("clang loop unroll(disable)")
#else
#define UNROLL    _Pragma("GCC unroll 8")
#define NO_UNROLL _Pragma("GCC unroll 1")
#endif
#define INLINE static inline __attribute__((always_inline, unused))

enum {
    PASS_TOKENS = 64, /* tokens that share an unpacking; their f32 accumulators are 4 KiB */
    TILE_TOKENS = 4,
    QUADS = FG_GROUP_COLS / 4,
    QUARTERS = FG_PANEL_ROWS / 4,
    SIGNED = -1, /* panel_kind.shift of types whose quads are signed values */
};

typedef struct quad_pair {
    int8x16_t lo, hi; /* quads j and j + 4, rows 4h..4h+3 */
} quad_pair;

/* p: first line of the group.  `table` is a constant that the type keeps in a register. */
typedef quad_pair pair_fn(const uint8_t *p, int j, int h, int8x16_t table);

typedef struct panel_kind {
    pair_fn *pair;
    size_t group_bytes;
    int shift; /* the code of value zero is 1 << shift, or SIGNED */
} panel_kind;

/* ---- types -------------------------------------------------------------------------------- */

INLINE quad_pair pair_of(uint8x16_t lo, uint8x16_t hi)
{
    return (quad_pair){vreinterpretq_s8_u8(lo), vreinterpretq_s8_u8(hi)};
}

INLINE quad_pair pair_q4lin(const uint8_t *p, int j, int h, int8x16_t table)
{
    const uint8x16_t x = vld1q_u8(p + 64 * j + 16 * h);
    (void)table;
    return pair_of(vandq_u8(x, vdupq_n_u8(15)), vshrq_n_u8(x, 4));
}

INLINE quad_pair pair_q4(const uint8_t *p, int j, int h, int8x16_t table)
{
    const uint8x16_t x = vld1q_u8(p + 64 * j + 16 * h);
    return (quad_pair){vqtbl1q_s8(table, vandq_u8(x, vdupq_n_u8(15))),
                       vqtbl1q_s8(table, vshrq_n_u8(x, 4))};
}

/* Bits `mask` << from of x, moved to bit 4 (mask: 0x10 one bit, 0x30 two). */
INLINE uint8x16_t top_bits(uint8x16_t x, int from, uint8_t mask)
{
    return vandq_u8(vshlq_u8(x, vdupq_n_s8((int8_t)(4 - from))), vdupq_n_u8(mask));
}

/* Nibble lines, then one line with the fifth bits, bit c of a byte for quad c. */
INLINE quad_pair pair_q5(const uint8_t *p, int j, int h, int8x16_t table)
{
    const uint8x16_t x = vld1q_u8(p + 64 * j + 16 * h), top = vld1q_u8(p + 256 + 16 * h);
    (void)table;
    return pair_of(vorrq_u8(vandq_u8(x, vdupq_n_u8(15)), top_bits(top, j, 0x10)),
                   vorrq_u8(vshrq_n_u8(x, 4), top_bits(top, j + 4, 0x10)));
}

/* Nibble lines, then a line of upper bit pairs for the low nibbles and one for the high ones. */
INLINE quad_pair pair_q6(const uint8_t *p, int j, int h, int8x16_t table)
{
    const uint8x16_t x = vld1q_u8(p + 64 * j + 16 * h);
    const uint8x16_t lo = vld1q_u8(p + 256 + 16 * h), hi = vld1q_u8(p + 320 + 16 * h);
    (void)table;
    return pair_of(vorrq_u8(vandq_u8(x, vdupq_n_u8(15)), top_bits(lo, 2 * j, 0x30)),
                   vorrq_u8(vshrq_n_u8(x, 4), top_bits(hi, 2 * j, 0x30)));
}

INLINE quad_pair pair_q8(const uint8_t *p, int j, int h, int8x16_t table)
{
    (void)table;
    return pair_of(vld1q_u8(p + 64 * j + 16 * h), vld1q_u8(p + 64 * (j + 4) + 16 * h));
}

static const panel_kind kind_q4 __attribute__((unused)) = {pair_q4, 256, SIGNED};
static const panel_kind kind_q4lin __attribute__((unused)) = {pair_q4lin, 256, 3};
static const panel_kind kind_q5 __attribute__((unused)) = {pair_q5, 320, 4};
static const panel_kind kind_q6 __attribute__((unused)) = {pair_q6, 384, 5};
static const panel_kind kind_q8 __attribute__((unused)) = {pair_q8, 512, SIGNED};

/* ---- common steps ------------------------------------------------------------------------- */

/* Scales of group g, rows 4h..4h+3, as int32. */
INLINE int32x4_t scale_of(const uint8_t *sb, int g, int h)
{
    const int32x4_t x = vreinterpretq_s32_u8(vld1q_u8(sb + 16 * h));
    return vshrq_n_s32(vshlq_s32(x, vdupq_n_s32(24 - 8 * g)), 24);
}

/* Start value of the dot products of group g. */
INLINE int32_t dot_start(panel_kind kind, const fg_act128 *a, int g)
{
    return kind.shift == SIGNED ? 0 : -a->sum[g] * (1 << kind.shift);
}

/* The lane is an immediate; j is a constant once the loop around is unrolled. */
INLINE int32x4_t dot_lane(int32x4_t acc, int8x16_t w, int8x16_t x, int j)
{
    switch (j) {
    case 0: return vdotq_laneq_s32(acc, w, x, 0);
    case 1: return vdotq_laneq_s32(acc, w, x, 1);
    case 2: return vdotq_laneq_s32(acc, w, x, 2);
    default: return vdotq_laneq_s32(acc, w, x, 3);
    }
}

/* ---- dotprod ------------------------------------------------------------------------------ */

/* One superblock, unpacked. */
typedef struct dot_work {
    int8x16_t code[FG_SB_GROUPS][QUADS][QUARTERS];
    int32x4_t scale[FG_SB_GROUPS][QUARTERS];
} dot_work;

INLINE void dot_gemv(panel_kind kind, int8x16_t table, const uint8_t *panel, const float *row_scale,
                     const fg_act128 *act, size_t n_sb, float *y)
{
    float32x4_t acc[QUARTERS];
    UNROLL
    for (int h = 0; h < QUARTERS; h++) acc[h] = vdupq_n_f32(0.0f);
    for (size_t i = 0; i < n_sb; i++) {
        const fg_act128 *a = &act[i];
        const uint8_t *sb = panel, *group = panel + 64;
        int32x4_t isum[QUARTERS];
        UNROLL
        for (int h = 0; h < QUARTERS; h++) isum[h] = vdupq_n_s32(0);
        NO_UNROLL
        for (int g = 0; g < FG_SB_GROUPS; g++, group += kind.group_bytes) {
            const int8x16_t x0 = vld1q_s8(a->q + FG_GROUP_COLS * g);
            const int8x16_t x1 = vld1q_s8(a->q + FG_GROUP_COLS * g + 16);
            const int32x4_t start = vdupq_n_s32(dot_start(kind, a, g));
            UNROLL
            for (int h = 0; h < QUARTERS; h++) {
                int32x4_t d0 = start, d1 = vdupq_n_s32(0);
                UNROLL
                for (int j = 0; j < QUADS / 2; j++) {
                    const quad_pair w = kind.pair(group, j, h, table);
                    d0 = dot_lane(d0, w.lo, x0, j);
                    d1 = dot_lane(d1, w.hi, x1, j);
                }
                isum[h] = vmlaq_s32(isum[h], vaddq_s32(d0, d1), scale_of(sb, g, h));
            }
        }
        UNROLL
        for (int h = 0; h < QUARTERS; h++) {
            acc[h] = vfmaq_n_f32(acc[h], vcvtq_f32_s32(isum[h]), a->d);
        }
        panel = group;
    }
    UNROLL
    for (int h = 0; h < QUARTERS; h++) {
        vst1q_f32(y + 4 * h, vmulq_f32(acc[h], vld1q_f32(row_scale + 4 * h)));
    }
}

INLINE void dot_unpack(panel_kind kind, int8x16_t table, const uint8_t *sb, dot_work *w)
{
    for (int g = 0; g < FG_SB_GROUPS; g++) {
        const uint8_t *group = sb + 64 + (size_t)g * kind.group_bytes;
        UNROLL
        for (int h = 0; h < QUARTERS; h++) {
            w->scale[g][h] = scale_of(sb, g, h);
            UNROLL
            for (int j = 0; j < QUADS / 2; j++) {
                const quad_pair q = kind.pair(group, j, h, table);
                w->code[g][j][h] = q.lo;
                w->code[g][j + QUADS / 2][h] = q.hi;
            }
        }
    }
}

/* Row quarters h0 and h0 + 1 of one superblock times nt (a constant at each call) tokens whose
 * blocks are `stride` bytes apart. */
INLINE void dot_tile(panel_kind kind, int nt, int h0, const dot_work *w, const uint8_t *act,
                     size_t stride, float32x4_t (*acc)[QUARTERS])
{
    const fg_act128 *a[TILE_TOKENS];
    int32x4_t isum[TILE_TOKENS][2];
    UNROLL
    for (int t = 0; t < nt; t++) {
        a[t] = (const void *)(act + (size_t)t * stride);
        isum[t][0] = isum[t][1] = vdupq_n_s32(0);
    }
    NO_UNROLL
    for (int g = 0; g < FG_SB_GROUPS; g++) {
        int32x4_t dot[TILE_TOKENS][2];
        UNROLL
        for (int t = 0; t < nt; t++) dot[t][0] = dot[t][1] = vdupq_n_s32(dot_start(kind, a[t], g));
        UNROLL
        for (int part = 0; part < 2; part++) {
            int8x16_t x[TILE_TOKENS];
            UNROLL
            for (int t = 0; t < nt; t++) x[t] = vld1q_s8(a[t]->q + FG_GROUP_COLS * g + 16 * part);
            UNROLL
            for (int j = 0; j < 4; j++) {
                const int8x16_t w0 = w->code[g][4 * part + j][h0];
                const int8x16_t w1 = w->code[g][4 * part + j][h0 + 1];
                UNROLL
                for (int t = 0; t < nt; t++) {
                    dot[t][0] = dot_lane(dot[t][0], w0, x[t], j);
                    dot[t][1] = dot_lane(dot[t][1], w1, x[t], j);
                }
            }
        }
        UNROLL
        for (int t = 0; t < nt; t++) {
            isum[t][0] = vmlaq_s32(isum[t][0], dot[t][0], w->scale[g][h0]);
            isum[t][1] = vmlaq_s32(isum[t][1], dot[t][1], w->scale[g][h0 + 1]);
        }
    }
    UNROLL
    for (int t = 0; t < nt; t++) {
        acc[t][h0] = vfmaq_n_f32(acc[t][h0], vcvtq_f32_s32(isum[t][0]), a[t]->d);
        acc[t][h0 + 1] = vfmaq_n_f32(acc[t][h0 + 1], vcvtq_f32_s32(isum[t][1]), a[t]->d);
    }
}

INLINE void dot_gemm(panel_kind kind, int8x16_t table, const uint8_t *panel, const float *row_scale,
                     const uint8_t *act, size_t stride, size_t n_tok, size_t n_sb, float *y,
                     size_t y_stride)
{
    dot_work w;
    float32x4_t acc[PASS_TOKENS][QUARTERS];
    for (size_t t = 0; t < n_tok; t++) {
        for (int h = 0; h < QUARTERS; h++) acc[t][h] = vdupq_n_f32(0.0f);
    }
    for (size_t i = 0; i < n_sb; i++, act += sizeof(fg_act128)) {
        dot_unpack(kind, table, panel, &w);
        panel += 64 + FG_SB_GROUPS * kind.group_bytes;
        for (int h0 = 0; h0 < QUARTERS; h0 += 2) {
            size_t t = 0;
            for (; t + TILE_TOKENS <= n_tok; t += TILE_TOKENS) {
                dot_tile(kind, TILE_TOKENS, h0, &w, act + t * stride, stride, acc + t);
            }
            for (; t < n_tok; t++) dot_tile(kind, 1, h0, &w, act + t * stride, stride, acc + t);
        }
    }
    for (size_t t = 0; t < n_tok; t++) {
        for (int h = 0; h < QUARTERS; h++) {
            vst1q_f32(y + t * y_stride + (size_t)(4 * h),
                      vmulq_f32(acc[t][h], vld1q_f32(row_scale + 4 * h)));
        }
    }
}

INLINE void dot_run(panel_kind kind, int8x16_t table, const uint8_t *panel, const float *row_scale,
                    const void *act, size_t stride, size_t n_tok, size_t n_sb, float *y,
                    size_t y_stride)
{
    const uint8_t *a = act;
    while (n_tok > 1) {
        const size_t n = n_tok < PASS_TOKENS ? n_tok : PASS_TOKENS;
        dot_gemm(kind, table, panel, row_scale, a, stride, n, n_sb, y, y_stride);
        n_tok -= n;
        a += n * stride;
        y += n * y_stride;
    }
    if (n_tok == 1) dot_gemv(kind, table, panel, row_scale, (const void *)a, n_sb, y);
}

/* ---- i8mm --------------------------------------------------------------------------------- */

#if defined(__ARM_FEATURE_MATMUL_INT8)

enum {
    OCTETS = FG_GROUP_COLS / 8,
    ROW_PAIRS = FG_PANEL_ROWS / 2,
    PAIR_TILE = TILE_TOKENS / 2, /* token pairs of a tile */
};

/* One superblock, unpacked: eight columns of two rows a register, (row 0 | row 1), as smmla takes
 * them; scales (s0 s0 s1 s1), since smmla gives (r0t0 r0t1 r1t0 r1t1). */
typedef struct mm_work {
    int8x16_t code[FG_SB_GROUPS][OCTETS][ROW_PAIRS];
    int32x4_t scale[FG_SB_GROUPS][ROW_PAIRS];
} mm_work;

INLINE int8x16_t zip_rows(int8x16_t a, int8x16_t b, bool upper)
{
    const int32x4_t x = vreinterpretq_s32_s8(a), y = vreinterpretq_s32_s8(b);
    return vreinterpretq_s8_s32(upper ? vzip2q_s32(x, y) : vzip1q_s32(x, y));
}

INLINE void mm_unpack(panel_kind kind, int8x16_t table, const uint8_t *sb, mm_work *w)
{
    for (int g = 0; g < FG_SB_GROUPS; g++) {
        const uint8_t *group = sb + 64 + (size_t)g * kind.group_bytes;
        UNROLL
        for (int h = 0; h < QUARTERS; h++) {
            const int32x4_t s = scale_of(sb, g, h);
            w->scale[g][2 * h] = vzip1q_s32(s, s);
            w->scale[g][2 * h + 1] = vzip2q_s32(s, s);
            UNROLL
            for (int j = 0; j < QUADS / 2; j += 2) {
                const quad_pair p = kind.pair(group, j, h, table);
                const quad_pair q = kind.pair(group, j + 1, h, table);
                UNROLL
                for (int up = 0; up < 2; up++) {
                    w->code[g][j / 2][2 * h + up] = zip_rows(p.lo, q.lo, up != 0);
                    w->code[g][j / 2 + OCTETS / 2][2 * h + up] = zip_rows(p.hi, q.hi, up != 0);
                }
            }
        }
    }
}

/* Eight columns of two tokens a register, (token 0 | token 1). */
INLINE void mm_pack_acts(const fg_act128 *a, const fg_act128 *b, int8x16_t *out)
{
    UNROLL
    for (int k = 0; k < FG_SB_COLS / 16; k++) {
        const int64x2_t x = vreinterpretq_s64_s8(vld1q_s8(a->q + 16 * k));
        const int64x2_t y = vreinterpretq_s64_s8(vld1q_s8(b->q + 16 * k));
        out[2 * k] = vreinterpretq_s8_s64(vzip1q_s64(x, y));
        out[2 * k + 1] = vreinterpretq_s8_s64(vzip2q_s64(x, y));
    }
}

/* (a b a b) */
INLINE int32x4_t mm_start(panel_kind kind, const fg_act128 *a, const fg_act128 *b, int g)
{
    const int32x2_t v = {dot_start(kind, a, g), dot_start(kind, b, g)};
    return vcombine_s32(v, v);
}

/* One superblock times np (a constant at each call) token pairs; a: their 2 np blocks. */
INLINE void mm_tile(panel_kind kind, int np, const mm_work *w, const fg_act128 *const *a,
                    float32x4_t (*acc)[ROW_PAIRS])
{
    int8x16_t x[PAIR_TILE][FG_SB_COLS / 8];
    float32x4_t d[PAIR_TILE];
    UNROLL
    for (int p = 0; p < np; p++) {
        const float32x2_t v = {a[2 * p]->d, a[2 * p + 1]->d};
        d[p] = vcombine_f32(v, v);
        mm_pack_acts(a[2 * p], a[2 * p + 1], x[p]);
    }
    NO_UNROLL
    for (int r0 = 0; r0 < ROW_PAIRS; r0 += 4) {
        int32x4_t isum[PAIR_TILE][4];
        UNROLL
        for (int p = 0; p < np; p++) {
            UNROLL
            for (int r = 0; r < 4; r++) isum[p][r] = vdupq_n_s32(0);
        }
        NO_UNROLL
        for (int g = 0; g < FG_SB_GROUPS; g++) {
            int32x4_t dot[PAIR_TILE][4];
            UNROLL
            for (int p = 0; p < np; p++) {
                const int32x4_t start = mm_start(kind, a[2 * p], a[2 * p + 1], g);
                UNROLL
                for (int r = 0; r < 4; r++) dot[p][r] = start;
            }
            UNROLL
            for (int m = 0; m < OCTETS; m++) {
                UNROLL
                for (int r = 0; r < 4; r++) {
                    const int8x16_t c = w->code[g][m][r0 + r];
                    UNROLL
                    for (int p = 0; p < np; p++) {
                        dot[p][r] = vmmlaq_s32(dot[p][r], c, x[p][OCTETS * g + m]);
                    }
                }
            }
            UNROLL
            for (int r = 0; r < 4; r++) {
                UNROLL
                for (int p = 0; p < np; p++) {
                    isum[p][r] = vmlaq_s32(isum[p][r], dot[p][r], w->scale[g][r0 + r]);
                }
            }
        }
        UNROLL
        for (int p = 0; p < np; p++) {
            UNROLL
            for (int r = 0; r < 4; r++) {
                acc[p][r0 + r] = vfmaq_f32(acc[p][r0 + r], vcvtq_f32_s32(isum[p][r]), d[p]);
            }
        }
    }
}

/* Rows of token 0 (even) or 1 of a pair. */
INLINE void mm_store(const float32x4_t *acc, int which, const float *row_scale, float *y)
{
    for (int h = 0; h < QUARTERS; h++) {
        const float32x4_t v = which == 0 ? vuzp1q_f32(acc[2 * h], acc[2 * h + 1])
                                         : vuzp2q_f32(acc[2 * h], acc[2 * h + 1]);
        vst1q_f32(y + 4 * h, vmulq_f32(v, vld1q_f32(row_scale + 4 * h)));
    }
}

/* An odd last token is paired with itself, and the copy is dropped. */
INLINE void mm_gemm(panel_kind kind, int8x16_t table, const uint8_t *panel, const float *row_scale,
                    const uint8_t *act, size_t stride, size_t n_tok, size_t n_sb, float *y,
                    size_t y_stride)
{
    mm_work w;
    float32x4_t acc[PASS_TOKENS / 2][ROW_PAIRS];
    const size_t n_pair = (n_tok + 1) / 2;
    for (size_t p = 0; p < n_pair; p++) {
        for (int r = 0; r < ROW_PAIRS; r++) acc[p][r] = vdupq_n_f32(0.0f);
    }
    for (size_t i = 0; i < n_sb; i++, act += sizeof(fg_act128)) {
        mm_unpack(kind, table, panel, &w);
        panel += 64 + FG_SB_GROUPS * kind.group_bytes;
        for (size_t p = 0; p < n_pair; p += PAIR_TILE) {
            const fg_act128 *a[TILE_TOKENS];
            for (size_t t = 0; t < TILE_TOKENS; t++) {
                const size_t at = 2 * p + t < n_tok ? 2 * p + t : n_tok - 1;
                a[t] = (const void *)(act + at * stride);
            }
            if (p + PAIR_TILE <= n_pair) {
                mm_tile(kind, PAIR_TILE, &w, a, acc + p);
            } else {
                mm_tile(kind, 1, &w, a, acc + p);
            }
        }
    }
    for (size_t t = 0; t < n_tok; t++) mm_store(acc[t / 2], t % 2, row_scale, y + t * y_stride);
}

/* Two tokens and more; one goes to `gemv`. */
INLINE void mm_run(panel_kind kind, fg_panel_fn *gemv, int8x16_t table, const uint8_t *panel,
                   const float *row_scale, const fg_lut *lut, const void *act, size_t stride,
                   size_t n_tok, size_t n_sb, float *y, size_t y_stride)
{
    const uint8_t *a = act;
    while (n_tok > 1) {
        const size_t n = n_tok < PASS_TOKENS ? n_tok : PASS_TOKENS;
        mm_gemm(kind, table, panel, row_scale, a, stride, n, n_sb, y, y_stride);
        n_tok -= n;
        a += n * stride;
        y += n * y_stride;
    }
    if (n_tok == 1) gemv(panel, row_scale, lut, a, stride, 1, n_sb, y, y_stride);
}

#endif
#endif
#endif
