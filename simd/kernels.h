/* SPDX-License-Identifier: MIT
 *
 * The kernel table: one function pointer a slot, filled once for the CPU level in use
 * (fg_kernels_init), from the list in kernels.inc.  Every level gives the same bits (KERNELS.md):
 *   - int8 products are exact int32 sums inside a superblock of 128 columns; across superblocks
 *     acc = fmaf((float)isum, act.d, acc) in order; y = acc * row_scale;
 *   - f32 sums run in a stated order: a "chain" is fmaf in index order; a "16-lane sum" keeps lane
 *     i % 16 and joins lanes as l[i] + l[i+8], then +4, +2, +1;
 *   - exp, sigmoid and silu are the polynomials of simd/v16_math.h and f32_body.h, one body for all
 *     levels.
 *
 * Contract of all kernels: no allocation, no threads, no CPU-flag reads, void.  Pointers do not
 * alias unless said.  f32 vectors are 64-byte aligned and their length n is a multiple of 16
 * unless said.  Inputs may be NaN or infinite: results are then NaN or infinite, never a fault.
 */
#ifndef FG_SIMD_KERNELS_H
#define FG_SIMD_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/qtype.h"
#include "simd/factor_job.h"

enum {
    FG_LIGHT_CHUNK = 64, /* tokens of a lightning chunk, aligned to absolute positions */
    FG_KV_BLOCK = 256,   /* positions of a softmax-attention block */
};

/* 128 activations, quantised: x[k] ~ d * q[k].  sum[g] = sum of q over group g (exact). */
typedef struct fg_act128 {
    float d; /* max|x| / 127, 0 for a zero block, NaN when a value was NaN or infinite (q = 0) */
    int16_t sum[4];
    int8_t q[128];
    uint8_t pad[4];
} fg_act128;
_Static_assert(sizeof(fg_act128) == 144, "activation block is 144 bytes");

/* One panel of 16 rows times n_tok activation rows:
 *   y[t * y_stride + r] = sum_k w[r][k] * x_t[k],  r = 0..15, t = 0..n_tok-1.
 * panel: n_sb superblocks, 64-byte aligned, never over-read.
 * row_scale: f32[16] (quantized types), unused for f32 and bf16.
 * lut: table of a type that has one, unused by the others.
 * act: first activation row; rows are act_stride bytes apart, 16-byte aligned.  Quantized types:
 *      fg_act128[n_sb] a row; f32 and bf16: float[128 * n_sb] a row.
 * y: f32, 64-byte aligned rows, written for all 16 r.  y_stride in elements.
 * f32/bf16: per superblock a chain over its 128 columns from 0, then acc = acc + chain. */
typedef void fg_panel_fn(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                         const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                         size_t y_stride);

/* Quantised rows once more, in the order of a tile unit:
 *   q[64-column block][row][64], d[superblock][row],
 * so that any 16 successive rows of a block are 1 KiB in one piece.  rows: from block to block, 16
 * times an odd number where speed matters (a power of two puts all blocks of a row into few sets of
 * the caches). */
typedef struct fg_act_tiles {
    int8_t *q; /* 64-byte aligned; NULL: not kept */
    float *d;
    size_t rows;
} fg_act_tiles;

/* `rows` for n of them. */
static inline size_t fg_tile_rows(size_t n)
{
    return ((n + 15) / 16 | 1) * 16;
}

enum {
    FG_TILE_TOKENS = 12, /* fewer are left to the plain panels, which are faster then */
    FG_TILE_PASS = 160,  /* tokens that share the unpacking of a panel */
    FG_TILE_PANELS = 4,  /* that share the loads of activations: calls of whole fours are faster */
};

/* As fg_panel_fn, of n_panel panels, panel_stride bytes apart, and rows first .. first + n_tok - 1
 * of act; any n_tok > 0.  row_scale and the columns of y go on from panel to panel. */
typedef void fg_tiles_fn(const uint8_t *panel, size_t n_panel, size_t panel_stride,
                         const float *row_scale, const fg_lut *lut, const fg_act_tiles *act,
                         size_t first, size_t n_tok, size_t n_sb, float *y, size_t y_stride);

/* out[i] for n/128 blocks of x[n], n a multiple of 128.  q = round-to-nearest-even(x * (127/max)),
 * max over |x| compared as integers, so that NaN and infinity are found on every level alike. */
typedef void fg_quantize_act_fn(const float *x, size_t n, fg_act128 *out);

/* The same of the rotated blocks R^T x (quant/hadamard.h), for rotated matrices; x is left
 * alone. */
typedef fg_quantize_act_fn fg_quantize_act_rot_fn;

/* y[i] = (x[i] * s) * w[i], s = 1 / sqrt(mean of squares + eps); 16-lane sum.  y may be x. */
typedef void fg_rmsnorm_fn(const float *x, const float *w, size_t n, float eps, float *y);

/* y[i] = fmaf(alpha, r[i], beta * a[i]).  y may be r or a. */
typedef void fg_axpby_fn(float alpha, const float *r, float beta, const float *a, size_t n,
                         float *y);

/* y[i] = fmaf(c, a[i], y[i]). */
typedef void fg_axpy_fn(float c, const float *a, size_t n, float *y);

/* x[i] = silu(x[i]) = x[i] / (1 + exp(-x[i])), in place. */
typedef void fg_silu_fn(float *x, size_t n);

/* h[i] = silu(g[i]) * u[i].  h may be g or u. */
typedef void fg_silu_mul_fn(const float *g, const float *u, size_t n, float *h);

/* x[i] = x[i] * sigmoid(g[i]). */
typedef void fg_sigmoid_mul_fn(float *x, const float *g, size_t n);

/* Rotates pairs (x[i], x[i + half]) by angle i: x[i]*cos - x[i+half]*sin, x[i+half]*cos + x[i]*sin
 * (two products, one rounding each, then the sum).  half may be any number; no alignment. */
typedef void fg_rope_fn(float *x, const float *cos_t, const float *sin_t, size_t half);

/* x[i] = exp(x[i] - max) in place with max = maximum of x; returns the 16-lane sum of the results.
 * Used for the router; any n. */
typedef float fg_softmax_num_fn(float *x, size_t n);

/* Lightning attention, one head, tokens i0 .. i0+n-1 of a chunk (i0 + n <= FG_LIGHT_CHUNK).
 *   o_i[e] = decay[i+1] * chain_d(q_i[d] * s[d][e]);
 *   then for j = 0..i in order: o_i[e] = fmaf(a_ij, v[j][e], o_i[e]),
 *   a_ij = decay[i-j] * chain_d(q_i[d] * kt[d][j]).
 * q: rows of d floats, q_stride elements apart.  kt: [d][64] keys of the chunk, transposed.
 * v: [64][d].  s: [d][d], state at the start of the chunk, s[d_k][d_v].
 * decay: [65], decay[i] = lambda^i.  o: rows of d floats, o_stride apart.  d a multiple of 16. */
typedef void fg_light_out_fn(const float *q, size_t q_stride, size_t i0, size_t n, size_t d,
                             const float *kt, const float *v, const float *s, const float *decay,
                             float *o, size_t o_stride);

/* End of a full chunk: s[d][e] = decay[64] * s[d][e], then for j = 0..63 in order
 *   s[d][e] = fmaf(decay[63-j] * kt[d][j], v[j][e], s[d][e]). */
typedef void fg_light_fold_fn(size_t d, const float *kt, const float *v, const float *decay,
                              float *s);

/* Softmax attention of n_q query heads (one KV head) over one block of n_pos <= FG_KV_BLOCK
 * positions; partial results to be merged in block order.
 *   s[p] = chain_d(q[d] * K[p][d])
 *   ml[2h] = m = max s,  ml[2h+1] = 16-lane sum of w[p] = exp(s[p] - m)
 *   o_h[e] = chain_p(w[p] * V[p][e])
 * f16: the same as f32 on the numbers that the IEEE halves in k and v stand for.
 * q: [n_q][d], already multiplied by 1/sqrt(d).  k: [n_pos/16 rounded up][d][16] (16 positions
 * interleaved); positions beyond n_pos may hold anything finite.  v: [n_pos][d].
 * o: [n_q][d].  d a multiple of 16. */
typedef void fg_attn_f32_fn(const float *q, size_t n_q, size_t d, size_t n_pos, const float *k,
                            const float *v, float *ml, float *o);
typedef void fg_attn_f16_fn(const float *q, size_t n_q, size_t d, size_t n_pos, const uint16_t *k,
                            const uint16_t *v, float *ml, float *o);

/* q[i] = x[i] * (top / max|x|) rounded to nearest even, returns max|x| / top; top is 32512 for
 * n <= 512, else 16256 (n at most 1024), so that a product with int8 fits an int32 sum, and so that
 * q = 256 high + low with high in -127..127 whether low is signed or not.  The maximum is found as
 * in quantize_act; a row below 2^-112 counts as zero, with 0 returned, and one with NaN or infinity
 * becomes zeros, with NaN returned. */
typedef float fg_quantize_i16_fn(const float *x, size_t n, int16_t *q);

/* A whole block that will be wanted next: it is asked for, from memory, while another is worked on,
 * and never read. */
typedef struct fg_attn_next {
    const int8_t *k, *v;
    const float *k_scale, *v_scale;
} fg_attn_next;

/* Softmax attention over one block of an int8 cache, in integers, of n_row query rows (any heads of
 * one KV head, any tokens); row r sees the first n_pos[r] positions, 1 to FG_KV_BLOCK.  For each
 * row by itself:
 *   S[p] = sum_d q[d] * K[p][d], exact int32;  s[p] = ((float)S[p] * k_scale[p]) * q_scale
 *   ml[2r] = m = max s,  ml[2r+1] = 16-lane sum of w[p] = exp(s[p] - m)
 *   U, f = quantize_i16 of w[p] * v_scale[p]
 *   o_r[e] = (float)(sum_p U[p] * V[p][e], exact int32) * f
 * q: [n_row][d], of quantize_i16, as q_scale: [n_row].  o: [n_row][d].  d a multiple of 16, at most
 * 1024.  All but k, v and o are aligned as their types only.
 * k: [positions/16][d/4][16][4], 16 positions of 4 elements a line of 64 bytes.
 * v: [positions/4][d][4].  Both are readable up to the largest n_pos rounded up to 64, and may hold
 * anything beyond it.  k_scale, v_scale: [largest n_pos].  next: may be NULL. */
typedef void fg_attn_i8_fn(const int16_t *q, const float *q_scale, const uint16_t *n_pos,
                           size_t n_row, size_t d, const int8_t *k, const float *k_scale,
                           const int8_t *v, const float *v_scale, float *ml, float *o,
                           const fg_attn_next *next);

/* Merges block partials in order: given (m, l, o) and the next block's (ml, ob), d elements:
 *   m' = max(m, mb); o = o * exp(m - m') + ob * exp(mb - m') (product, then fmaf); l alike.
 * The first block is copied by the caller. */
typedef void fg_attn_merge_fn(float *ml, float *o, const float *ml_b, const float *o_b, size_t d);

/* `rounds` of int8 products as the panels of the level need them, on registers alone: what its unit
 * could do.  Returns how many multiply-adds of a weight those were, a few hundred to
 * some ten thousand a round; 0: not written for this level. */
typedef uint64_t fg_peak_fn(uint64_t rounds);

/* What the panels of a tile unit come to without unpacking and sums: n_tok activation rows, a
 * multiple of 32, times the 16 rows of n_sb superblocks, in two planes that stay in the first-level
 * cache; every result is stored.  Row t of 64-column block b is at act + b * block + t * row. */
typedef void fg_pattern_fn(const int8_t *act, size_t block, size_t row, size_t n_tok, size_t n_sb);

/* One pass over groups of entries, in order: for each the prediction r^ of its entries, their
 * refined errors by the job's rule from their states ([group][state][lane] from `state` on;
 * factor_math.h has the formulas), then the step of both factors and biases from their old values.
 * A dot product is a chain of fma over vectors of 8 lanes, joined +4 +2 +1.  Nothing is written for
 * lanes without an entry but their states. */
typedef void fg_factor_pass_fn(const fg_factor_job *j, const fg_factor_group *g, size_t n_group,
                               float *state);

/* out[8 * group + lane] = r^ of the entry; lanes without one are written, too. */
typedef void fg_factor_predict_fn(const fg_factor_job *j, const fg_factor_group *g, size_t n_group,
                                  float *out);

typedef struct fg_kernels {
    union { /* by kind, and as panel_<name>; panel_q4lin: the bits of panel_q4 with its table */
        fg_panel_fn *panel[FG_KIND_COUNT];
        struct {
#define FG_QTYPE(id, name, ...) fg_panel_fn *panel_##name;
#define FG_QKIND(id, name, ...) fg_panel_fn *panel_##name;
#include "quant/types.inc"
        };
    };
    fg_quantize_act_fn *quantize_act;
    fg_quantize_act_rot_fn *quantize_act_rot;
    fg_rmsnorm_fn *rmsnorm;
    fg_axpby_fn *axpby;
    fg_axpy_fn *axpy;
    fg_silu_fn *silu;
    fg_silu_mul_fn *silu_mul;
    fg_sigmoid_mul_fn *sigmoid_mul;
    fg_rope_fn *rope;
    fg_softmax_num_fn *softmax_num;
    fg_light_out_fn *light_out;
    fg_light_fold_fn *light_fold;
    fg_attn_f32_fn *attn_f32;
    fg_attn_f16_fn *attn_f16;
    fg_quantize_i16_fn *quantize_i16;
    fg_attn_i8_fn *attn_i8;
    fg_attn_merge_fn *attn_merge;
    fg_factor_pass_fn *factor_pass;
    fg_factor_predict_fn *factor_predict;
    fg_peak_fn *peak;
    union { /* by kind, quantized ones only; all NULL on a level without a tile unit */
        fg_tiles_fn *tiles[FG_KIND_QUANTIZED];
        struct {
            fg_tiles_fn *tiles_q4, *tiles_q4lin, *tiles_q5, *tiles_q6, *tiles_q8;
        };
    };
    fg_pattern_fn *pattern; /* NULL on such a level */
} fg_kernels;
#define FG_QTYPE(id, name, ...)                                                                    \
    _Static_assert(offsetof(fg_kernels, panel_##name) == FG_KIND_##id * sizeof(fg_panel_fn *), "");
#define FG_QKIND(id, name, ...) FG_QTYPE(id, name, )
#include "quant/types.inc"

/* CPU level as a set of features (src/sys/cpu.h); fills every slot with the best variant whose
 * features are all in cpu_flags.  FG_CPU_SCALAR (0) gives the reference. */
void fg_kernels_init(fg_kernels *k, uint32_t cpu_flags);

/* Features that the kernels chosen for cpu_flags use: what a report should name as the level. */
uint32_t fg_kernels_used(uint32_t cpu_flags);

/* There is a tile unit, whose order of activations is wanted. */
bool fg_kernels_tiled(uint32_t cpu_flags);

/* Panel kernel for a weight type and table; NULL for an unknown type or a missing table. */
fg_panel_fn *fg_kernels_panel(const fg_kernels *k, fg_qtype type, const fg_lut *lut);
/* That of the tile unit; NULL where there is none, and for floats. */
fg_tiles_fn *fg_kernels_tiles(const fg_kernels *k, fg_qtype type, const fg_lut *lut);

#endif
