/* SPDX-License-Identifier: MIT
 *
 * All f32 kernels, written once over v16 (sixteen lanes) and compiled by one tiny file a level,
 * which includes its vec_<isa>.h and defines FG_LEVEL(op) first.  Since each v16 operation gives
 * the same bits on every level and the order is fixed here, so do the kernels: there is no second
 * implementation that could drift.  Contracts are in kernels.h.
 *
 * V16_TILE (how many tokens, heads or rows share a loaded vector) differs between levels and must
 * not change a result: every output element has its own chain.
 */
#ifndef FG_SIMD_F32_BODY_H
#define FG_SIMD_F32_BODY_H

#ifndef FG_LEVEL /* alone, the header still compiles */
#define FG_LEVEL(op) fg_##op##__scalar
#include "simd/vec_scalar.h"
#endif

#include <math.h>
#include <string.h>

#include "quant/hadamard.h"
#include "simd/kernels_decl.h"
#include "simd/v16_math.h"

/* Items that V16_TILE leaves over go in tiles of these sizes (at least 2), then one by one. */
enum { V16_HALF = V16_TILE < 4 ? 2 : V16_TILE / 2, V16_QUARTER = V16_TILE < 8 ? 2 : V16_TILE / 4 };

V16_FN v16 one_plus_exp_neg(v16 x)
{
    return v16_add(v16_set1(1.0f), v16_exp(v16_sub(v16_zero(), x)));
}

/* ---- elementwise -------------------------------------------------------------------------- */

/* One block of 128. */
V16_FN void quantize_block(const float *x, fg_act128 *o)
{
    v16i m = v16i_zero();
    for (size_t i = 0; i < FG_SB_COLS; i += 16) {
        m = v16i_max(m, v16i_abs_bits(v16_load(x + i)));
    }
    const uint32_t bits = (uint32_t)v16i_hmax(m);
    /* Below 2^-121 the inverse 127 / max could overflow; such a block counts as zero. */
    if (bits < 0x03000000u || bits >= 0x7f800000u) {
        const uint32_t d_bits = bits < 0x03000000u ? 0u : 0x7fc00000u;
        memset(o, 0, sizeof *o);
        memcpy(&o->d, &d_bits, sizeof o->d);
        return;
    }
    float max;
    memcpy(&max, &bits, sizeof max);
    o->d = max / 127.0f;
    /* |x * inv| <= 127 (1 + 2^-23) after both roundings, so |q| <= 127 needs no clamp. */
    const v16 inv = v16_set1(127.0f / max), bias = v16_set1(v16_bias);
    for (size_t g = 0; g < FG_SB_GROUPS; g++) {
        v16i sum = v16i_zero();
        for (size_t i = g * FG_GROUP_COLS; i < (g + 1) * FG_GROUP_COLS; i += 16) {
            const v16i q = v16i_from_biased(v16_add(v16_mul(v16_load(x + i), inv), bias));
            v16i_store_i8(o->q + i, q);
            sum = v16i_add(sum, q);
        }
        o->sum[g] = (int16_t)v16i_sum(sum);
    }
    memset(o->pad, 0, sizeof o->pad);
}

void FG_LEVEL(quantize_act)(const float *x, size_t n, fg_act128 *out)
{
    for (size_t b = 0; b < n / FG_SB_COLS; b++) quantize_block(x + b * FG_SB_COLS, &out[b]);
}

/* Butterfly within a vector: lane i becomes a[i] + a[i + d], or a[i - d] - a[i] where i & d.  The
 * fma is exact in its product, so it rounds like the sum or difference that it is. */
V16_FN v16 butterfly(v16 a, int d)
{
    float sign[16];
    for (int i = 0; i < 16; i++) sign[i] = (i & d) != 0 ? -1.0f : 1.0f;
    return v16_fma(v16_load(sign), a, v16_swap(a, d));
}

/* y = R^T x for one block of 128, in the order of quant/hadamard.h. */
V16_FN void rotate_block(const float *x, float *y)
{
    enum { N = FG_SB_COLS / 16 };
    v16 a[N];
    for (size_t i = 0; i < N; i++) {
        a[i] = v16_mul(v16_load(x + 16 * i), v16_load(fg_hadamard_diag + 16 * i));
    }
    for (size_t d = N / 2; d > 0; d /= 2) {
        for (size_t i = 0; i < N; i++) {
            if ((i & d) != 0) continue;
            const v16 lo = a[i], hi = a[i + d];
            a[i] = v16_add(lo, hi);
            a[i + d] = v16_sub(lo, hi);
        }
    }
    for (size_t i = 0; i < N; i++) {
        v16_store(y + 16 * i, butterfly(butterfly(butterfly(butterfly(a[i], 8), 4), 2), 1));
    }
}

/* Some blocks at a time: a block is not read again before its stores are through (up to 13 % faster
 * than one by one), and no row-sized buffer is needed. */
void FG_LEVEL(quantize_act_rot)(const float *x, size_t n, fg_act128 *out)
{
    enum { STEP = 4 };
    float y[STEP * FG_SB_COLS];
    for (size_t b = 0, m; b < n / FG_SB_COLS; b += m) {
        const size_t left = n / FG_SB_COLS - b;
        m = left < STEP ? left : STEP;
        for (size_t i = 0; i < m; i++) {
            rotate_block(x + (b + i) * FG_SB_COLS, y + i * FG_SB_COLS);
        }
        for (size_t i = 0; i < m; i++) quantize_block(y + i * FG_SB_COLS, &out[b + i]);
    }
}

void FG_LEVEL(rmsnorm)(const float *x, const float *w, size_t n, float eps, float *y)
{
    v16 acc = v16_zero();
    for (size_t i = 0; i < n; i += 16) {
        const v16 a = v16_load(x + i);
        acc = v16_fma(a, a, acc);
    }
    const float s = 1.0f / sqrtf(v16_sum(acc) / (float)n + eps);
    for (size_t i = 0; i < n; i += 16) {
        v16_store(y + i, v16_mul(v16_mul(v16_load(x + i), v16_set1(s)), v16_load(w + i)));
    }
}

void FG_LEVEL(axpby)(float alpha, const float *r, float beta, const float *a, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 16) {
        const v16 b = v16_mul(v16_set1(beta), v16_load(a + i));
        v16_store(y + i, v16_fma(v16_set1(alpha), v16_load(r + i), b));
    }
}

void FG_LEVEL(axpy)(float c, const float *a, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 16) {
        v16_store(y + i, v16_fma(v16_set1(c), v16_load(a + i), v16_load(y + i)));
    }
}

void FG_LEVEL(silu)(float *x, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        const v16 a = v16_load(x + i);
        v16_store(x + i, v16_div(a, one_plus_exp_neg(a)));
    }
}

void FG_LEVEL(silu_mul)(const float *g, const float *u, size_t n, float *h)
{
    for (size_t i = 0; i < n; i += 16) {
        const v16 a = v16_load(g + i);
        v16_store(h + i, v16_mul(v16_div(a, one_plus_exp_neg(a)), v16_load(u + i)));
    }
}

void FG_LEVEL(sigmoid_mul)(float *x, const float *g, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        const v16 s = v16_div(v16_set1(1.0f), one_plus_exp_neg(v16_load(g + i)));
        v16_store(x + i, v16_mul(v16_load(x + i), s));
    }
}

void FG_LEVEL(rope)(float *x, const float *cos_t, const float *sin_t, size_t half)
{
    for (size_t i = 0; i < half; i += 16) {
        const size_t m = half - i;
        v16 a, b, c, s;
        if (m >= 16) {
            a = v16_load(x + i);
            b = v16_load(x + half + i);
            c = v16_load(cos_t + i);
            s = v16_load(sin_t + i);
        } else {
            a = load_some(x + i, m, 0.0f);
            b = load_some(x + half + i, m, 0.0f);
            c = load_some(cos_t + i, m, 0.0f);
            s = load_some(sin_t + i, m, 0.0f);
        }
        const v16 y0 = v16_sub(v16_mul(a, c), v16_mul(b, s));
        const v16 y1 = v16_add(v16_mul(b, c), v16_mul(a, s));
        if (m >= 16) {
            v16_store(x + i, y0);
            v16_store(x + half + i, y1);
        } else {
            store_some(x + i, m, y0);
            store_some(x + half + i, m, y1);
        }
    }
}

float FG_LEVEL(softmax_num)(float *x, size_t n)
{
    const size_t whole = n & ~(size_t)15, rest = n - whole;
    v16 m = v16_set1(-INFINITY), acc = v16_zero();
    for (size_t i = 0; i < whole; i += 16) m = v16_max(v16_load(x + i), m);
    if (rest != 0) m = v16_max(load_some(x + whole, rest, -INFINITY), m);
    m = v16_set1(v16_hmax(m));
    for (size_t i = 0; i < whole; i += 16) {
        const v16 e = v16_exp(v16_sub(v16_load(x + i), m));
        v16_store(x + i, e);
        acc = v16_add(acc, e);
    }
    if (rest != 0) {
        const v16 e = v16_exp(v16_sub(load_some(x + whole, rest, -INFINITY), m));
        store_some(x + whole, rest, e);
        acc = v16_add(acc, e);
    }
    return v16_sum(acc);
}

/* ---- f32 and bf16 panels ------------------------------------------------------------------ */

V16_FN v16 load_weights(const uint8_t *p, bool bf16, size_t column)
{
    return bf16 ? v16_load_bf16((const uint16_t *)(const void *)p + 16 * column)
                : v16_load((const float *)(const void *)p + 16 * column);
}

/* nt (a constant at each call) tokens; the weights are read once for all of them. */
V16_FN void panel_tile(const uint8_t *panel, bool bf16, const uint8_t *act, size_t act_stride,
                       size_t nt, size_t n_sb, float *y, size_t y_stride)
{
    const size_t sb_bytes = (size_t)FG_SB_COLS * FG_PANEL_ROWS * (bf16 ? 2 : 4);
    v16 acc[V16_TILE];
    for (size_t t = 0; t < nt; t++) acc[t] = v16_zero();
    for (size_t i = 0; i < n_sb; i++, panel += sb_bytes, act += FG_SB_COLS * sizeof(float)) {
        v16 chain[V16_TILE];
        for (size_t t = 0; t < nt; t++) chain[t] = v16_zero();
        for (size_t k = 0; k < FG_SB_COLS; k++) {
            const v16 w = load_weights(panel, bf16, k);
            for (size_t t = 0; t < nt; t++) {
                const float *x = (const float *)(const void *)(act + t * act_stride);
                chain[t] = v16_fma(w, v16_set1(x[k]), chain[t]);
            }
        }
        for (size_t t = 0; t < nt; t++) acc[t] = v16_add(acc[t], chain[t]);
    }
    for (size_t t = 0; t < nt; t++) v16_store(y + t * y_stride, acc[t]);
}

/* One token, f32: the chains of V16_TILE superblocks at a time, since one alone waits for itself.
 * Not for bf16: large matrices come from memory, which dislikes streams 4 KiB apart (-30 %). */
V16_FN void panel_row(const float *panel, const float *x, size_t n_sb, float *y)
{
    const size_t sb_cols = FG_SB_COLS, sb_size = sb_cols * FG_PANEL_ROWS;
    v16 acc = v16_zero();
    size_t i = 0;
    for (; i + V16_TILE <= n_sb; i += V16_TILE) {
        v16 chain[V16_TILE];
        for (size_t b = 0; b < V16_TILE; b++) chain[b] = v16_zero();
        for (size_t k = 0; k < sb_cols; k++) {
            for (size_t b = 0; b < V16_TILE; b++) {
                const v16 w = v16_load(panel + b * sb_size + 16 * k);
                chain[b] = v16_fma(w, v16_set1(x[b * sb_cols + k]), chain[b]);
            }
        }
        for (size_t b = 0; b < V16_TILE; b++) acc = v16_add(acc, chain[b]);
        panel += V16_TILE * sb_size;
        x += V16_TILE * sb_cols;
    }
    for (; i < n_sb; i++, panel += sb_size, x += sb_cols) {
        v16 chain = v16_zero();
        for (size_t k = 0; k < sb_cols; k++) {
            chain = v16_fma(v16_load(panel + 16 * k), v16_set1(x[k]), chain);
        }
        acc = v16_add(acc, chain);
    }
    v16_store(y, acc);
}

V16_FN void panel_float(const uint8_t *panel, bool bf16, const uint8_t *act, size_t act_stride,
                        size_t n_tok, size_t n_sb, float *y, size_t y_stride)
{
    size_t t = 0;
    for (; t + V16_TILE <= n_tok; t += V16_TILE) {
        panel_tile(panel, bf16, act + t * act_stride, act_stride, V16_TILE, n_sb, y + t * y_stride,
                   y_stride);
    }
    for (; t + V16_HALF <= n_tok; t += V16_HALF) {
        panel_tile(panel, bf16, act + t * act_stride, act_stride, V16_HALF, n_sb, y + t * y_stride,
                   y_stride);
    }
    for (; t + V16_QUARTER <= n_tok; t += V16_QUARTER) {
        panel_tile(panel, bf16, act + t * act_stride, act_stride, V16_QUARTER, n_sb,
                   y + t * y_stride, y_stride);
    }
    for (; t < n_tok; t++) {
        const uint8_t *x = act + t * act_stride;
        if (bf16) {
            panel_tile(panel, bf16, x, act_stride, 1, n_sb, y + t * y_stride, y_stride);
        } else {
            panel_row((const float *)(const void *)panel, (const float *)(const void *)x, n_sb,
                      y + t * y_stride);
        }
    }
}

void FG_LEVEL(panel_f32)(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                         const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                         size_t y_stride)
{
    (void)row_scale;
    (void)lut;
    panel_float(panel, false, act, act_stride, n_tok, n_sb, y, y_stride);
}

void FG_LEVEL(panel_bf16)(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                          const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                          size_t y_stride)
{
    (void)row_scale;
    (void)lut;
    panel_float(panel, true, act, act_stride, n_tok, n_sb, y, y_stride);
}

/* ---- lightning attention ------------------------------------------------------------------ */

/* nt tokens i0 .. i0+nt-1.  Scores first (all of a vector of 16 keys, those beyond i are never
 * used), then the columns of o, 16 at a time. */
V16_FN void light_tile(const float *q, size_t q_stride, size_t i0, size_t nt, size_t d,
                       const float *kt, const float *v, const float *s, const float *decay,
                       float *o, size_t o_stride)
{
    float a[V16_TILE][FG_LIGHT_CHUNK];
    for (size_t j = 0; j < i0 + nt; j += 16) {
        v16 acc[V16_TILE];
        for (size_t t = 0; t < nt; t++) acc[t] = v16_zero();
        for (size_t c = 0; c < d; c++) {
            const v16 k = v16_load(kt + c * FG_LIGHT_CHUNK + j);
            for (size_t t = 0; t < nt; t++) {
                acc[t] = v16_fma(v16_set1(q[t * q_stride + c]), k, acc[t]);
            }
        }
        for (size_t t = 0; t < nt; t++) v16_store(&a[t][j], acc[t]);
    }
    for (size_t t = 0; t < nt; t++) {
        for (size_t j = 0; j <= i0 + t; j++) a[t][j] = decay[i0 + t - j] * a[t][j];
    }
    for (size_t e = 0; e < d; e += 16) {
        v16 acc[V16_TILE];
        for (size_t t = 0; t < nt; t++) acc[t] = v16_zero();
        for (size_t c = 0; c < d; c++) {
            const v16 w = v16_load(s + c * d + e);
            for (size_t t = 0; t < nt; t++) {
                acc[t] = v16_fma(v16_set1(q[t * q_stride + c]), w, acc[t]);
            }
        }
        for (size_t t = 0; t < nt; t++) {
            acc[t] = v16_mul(v16_set1(decay[i0 + t + 1]), acc[t]);
        }
        for (size_t j = 0; j <= i0; j++) {
            const v16 w = v16_load(v + j * d + e);
            for (size_t t = 0; t < nt; t++) acc[t] = v16_fma(v16_set1(a[t][j]), w, acc[t]);
        }
        for (size_t t = 0; t < nt; t++) { /* keys between the first and the own token */
            for (size_t j = i0 + 1; j <= i0 + t; j++) {
                acc[t] = v16_fma(v16_set1(a[t][j]), v16_load(v + j * d + e), acc[t]);
            }
            v16_store(o + t * o_stride + e, acc[t]);
        }
    }
}

/* o[e] = chain over nr rows (a constant at each call) of c[r] * rows[r][e], from o[e]. */
V16_FN void add_rows(size_t nr, const float *c, const float *rows, size_t d, float *o)
{
    for (size_t e = 0; e < d; e += 16) {
        v16 acc = v16_load(o + e);
        for (size_t r = 0; r < nr; r++) {
            acc = v16_fma(v16_set1(c[r]), v16_load(rows + r * d + e), acc);
        }
        v16_store(o + e, acc);
    }
}

/* One token, i: the decode step.  Whole rows of the state in order, for it comes from memory. */
V16_FN void light_one(const float *q, size_t i, size_t d, const float *kt, const float *v,
                      const float *s, const float *decay, float *o)
{
    enum { VECTORS = FG_LIGHT_CHUNK / 16, ROWS = 8 };
    float a[FG_LIGHT_CHUNK];
    v16 acc[VECTORS];
    for (size_t b = 0; b < VECTORS; b++) acc[b] = v16_zero();
    for (size_t c = 0; c < d; c++) {
        for (size_t b = 0; b < VECTORS; b++) {
            acc[b] = v16_fma(v16_set1(q[c]), v16_load(kt + c * FG_LIGHT_CHUNK + 16 * b), acc[b]);
        }
    }
    for (size_t b = 0; b < VECTORS; b++) v16_store(&a[16 * b], acc[b]);
    for (size_t j = 0; j <= i; j++) a[j] = decay[i - j] * a[j];
    for (size_t e = 0; e < d; e += 16) v16_store(o + e, v16_zero());
    for (size_t c = 0; c < d; c += ROWS) add_rows(ROWS, q + c, s + c * d, d, o);
    for (size_t e = 0; e < d; e += 16) {
        v16_store(o + e, v16_mul(v16_set1(decay[i + 1]), v16_load(o + e)));
    }
    size_t j = 0;
    for (; j + ROWS <= i + 1; j += ROWS) add_rows(ROWS, a + j, v + j * d, d, o);
    for (; j <= i; j++) add_rows(1, a + j, v + j * d, d, o);
}

void FG_LEVEL(light_out)(const float *q, size_t q_stride, size_t i0, size_t n, size_t d,
                         const float *kt, const float *v, const float *s, const float *decay,
                         float *o, size_t o_stride)
{
    size_t t = 0;
    for (; t + V16_TILE <= n; t += V16_TILE) {
        light_tile(q + t * q_stride, q_stride, i0 + t, V16_TILE, d, kt, v, s, decay,
                   o + t * o_stride, o_stride);
    }
    for (; t + V16_HALF <= n; t += V16_HALF) {
        light_tile(q + t * q_stride, q_stride, i0 + t, V16_HALF, d, kt, v, s, decay,
                   o + t * o_stride, o_stride);
    }
    for (; t + V16_QUARTER <= n; t += V16_QUARTER) {
        light_tile(q + t * q_stride, q_stride, i0 + t, V16_QUARTER, d, kt, v, s, decay,
                   o + t * o_stride, o_stride);
    }
    for (; t < n; t++) {
        light_one(q + t * q_stride, i0 + t, d, kt, v, s, decay, o + t * o_stride);
    }
}

/* nt rows of the state. */
V16_FN void fold_tile(size_t nt, size_t d, const float *kt, const float *v, const float *decay,
                      float *s)
{
    float c[V16_TILE][FG_LIGHT_CHUNK];
    for (size_t t = 0; t < nt; t++) {
        for (size_t j = 0; j < FG_LIGHT_CHUNK; j++) {
            c[t][j] = decay[FG_LIGHT_CHUNK - 1 - j] * kt[t * FG_LIGHT_CHUNK + j];
        }
    }
    for (size_t e = 0; e < d; e += 16) {
        v16 acc[V16_TILE];
        for (size_t t = 0; t < nt; t++) {
            acc[t] = v16_mul(v16_set1(decay[FG_LIGHT_CHUNK]), v16_load(s + t * d + e));
        }
        for (size_t j = 0; j < FG_LIGHT_CHUNK; j++) {
            const v16 w = v16_load(v + j * d + e);
            for (size_t t = 0; t < nt; t++) acc[t] = v16_fma(v16_set1(c[t][j]), w, acc[t]);
        }
        for (size_t t = 0; t < nt; t++) v16_store(s + t * d + e, acc[t]);
    }
}

void FG_LEVEL(light_fold)(size_t d, const float *kt, const float *v, const float *decay, float *s)
{
    _Static_assert(16 % V16_TILE == 0, "d is a multiple of 16, so tiles leave no rest");
    for (size_t c = 0; c < d; c += V16_TILE) {
        fold_tile(V16_TILE, d, kt + c * FG_LIGHT_CHUNK, v, decay, s + c * d);
    }
}

/* ---- softmax attention -------------------------------------------------------------------- */

/* How keys and values are stored; a constant at each call.  int8: attn_body.h. */
typedef enum kv_kind { KV_F32, KV_F16 } kv_kind;

V16_FN v16 load_kv(const void *p, kv_kind kv, size_t at)
{
    return kv == KV_F16 ? v16_load_f16((const uint16_t *)p + at) : v16_load((const float *)p + at);
}

/* nt query heads. */
V16_FN void attn_tile(const float *q, size_t nt, size_t d, size_t n_pos, kv_kind kv, const void *k,
                      const void *v, float *ml, float *o)
{
    float w[V16_TILE][FG_KV_BLOCK];
    for (size_t p = 0; p < n_pos; p += 16) {
        v16 acc[V16_TILE];
        for (size_t t = 0; t < nt; t++) acc[t] = v16_zero();
        for (size_t c = 0; c < d; c++) {
            const v16 x = load_kv(k, kv, (p * d) + 16 * c);
            for (size_t t = 0; t < nt; t++) acc[t] = v16_fma(v16_set1(q[t * d + c]), x, acc[t]);
        }
        for (size_t t = 0; t < nt; t++) v16_store(&w[t][p], acc[t]);
    }
    for (size_t t = 0; t < nt; t++) {
        for (size_t p = n_pos; p % 16 != 0; p++) w[t][p] = -INFINITY;
        weigh_scores(w[t], n_pos, &ml[2 * t], &ml[2 * t + 1]);
    }
    for (size_t e = 0; e < d; e += 16) {
        v16 acc[V16_TILE];
        for (size_t t = 0; t < nt; t++) acc[t] = v16_zero();
        for (size_t p = 0; p < n_pos; p++) {
            const v16 x = load_kv(v, kv, p * d + e);
            for (size_t t = 0; t < nt; t++) acc[t] = v16_fma(v16_set1(w[t][p]), x, acc[t]);
        }
        for (size_t t = 0; t < nt; t++) v16_store(o + t * d + e, acc[t]);
    }
}

V16_FN void attn_block(const float *q, size_t n_q, size_t d, size_t n_pos, kv_kind kv,
                       const void *k, const void *v, float *ml, float *o)
{
    size_t h = 0;
    for (; h + V16_TILE <= n_q; h += V16_TILE) {
        attn_tile(q + h * d, V16_TILE, d, n_pos, kv, k, v, ml + 2 * h, o + h * d);
    }
    for (; h + V16_HALF <= n_q; h += V16_HALF) {
        attn_tile(q + h * d, V16_HALF, d, n_pos, kv, k, v, ml + 2 * h, o + h * d);
    }
    for (; h + V16_QUARTER <= n_q; h += V16_QUARTER) {
        attn_tile(q + h * d, V16_QUARTER, d, n_pos, kv, k, v, ml + 2 * h, o + h * d);
    }
    for (; h < n_q; h++) attn_tile(q + h * d, 1, d, n_pos, kv, k, v, ml + 2 * h, o + h * d);
}

void FG_LEVEL(attn_f32)(const float *q, size_t n_q, size_t d, size_t n_pos, const float *k,
                        const float *v, float *ml, float *o)
{
    attn_block(q, n_q, d, n_pos, KV_F32, k, v, ml, o);
}

void FG_LEVEL(attn_f16)(const float *q, size_t n_q, size_t d, size_t n_pos, const uint16_t *k,
                        const uint16_t *v, float *ml, float *o)
{
    attn_block(q, n_q, d, n_pos, KV_F16, k, v, ml, o);
}

float FG_LEVEL(quantize_i16)(const float *x, size_t n, int16_t *q)
{
    return quantize_row16(x, n, n <= 512 ? 32512.0f : 16256.0f, q);
}

void FG_LEVEL(attn_merge)(float *ml, float *o, const float *ml_b, const float *o_b, size_t d)
{
    const float m = ml[0] > ml_b[0] ? ml[0] : ml_b[0];
    const v16 ca = v16_exp(v16_set1(ml[0] - m)), cb = v16_exp(v16_set1(ml_b[0] - m));
    const v16 l = v16_fma(v16_set1(ml_b[1]), cb, v16_mul(v16_set1(ml[1]), ca));
    ml[0] = m;
    ml[1] = v16_first(l);
    for (size_t i = 0; i < d; i += 16) {
        v16_store(o + i, v16_fma(v16_load(o_b + i), cb, v16_mul(v16_load(o + i), ca)));
    }
}

#endif
