/* SPDX-License-Identifier: MIT
 *
 * Softmax attention over a block of an int8 cache (attn_i8 of kernels.h), written once over v16 and
 * over the one thing that levels do differently, the product of 16-bit rows and int8 columns.  A
 * level's file defines FG_LEVEL(op), includes its vec_<isa>.h, defines ATTN_PRODUCTS as the name of
 *
 *   products(a, a_stride, n_row, n_k, b, line, group, n_group, c, ahead):
 *     c[r][16 g + n] = sum_k a[r][k] * b_g[k/4][n][k%4],  g < n_group, n < 16, k < n_k,
 *
 * exact in int32, and includes this.  n_row is at most ATTN_ROWS.  a: rows a_stride elements apart;
 * b_g[i] is the line of 64 bytes at b + g * group + i * line; rows of c are FG_KV_BLOCK apart.  n_k
 * is a multiple of 16. Keys: a line is 16 positions, n_k = d.  Values: a line is 16 columns, n_k
 * the positions rounded up to 64, where a is 0 behind the last one.  ahead: what is wanted next
 * from memory (fetch_ahead), to be asked for on the way, as evenly as the loops allow.
 */
#ifndef FG_SIMD_ATTN_BODY_H
#define FG_SIMD_ATTN_BODY_H

#ifndef FG_LEVEL /* alone, the header still compiles */
#define FG_LEVEL(op) fg_##op##__scalar
#include "simd/vec_scalar.h"
#include "simd/attn_scalar.h"
#define ATTN_PRODUCTS products
#endif

#include <stdbool.h>

#include "simd/kernels_decl.h"
#include "simd/v16_math.h"

enum {
    ATTN_ROWS = 32, /* that share what a level makes of keys and values */
    ATTN_GROUPS = FG_KV_BLOCK / 16,
};

typedef struct attn_work {
    _Alignas(64) int32_t dot[ATTN_ROWS][FG_KV_BLOCK]; /* scores, then results */
    _Alignas(64) int16_t u[ATTN_ROWS][FG_KV_BLOCK];
    float f[ATTN_ROWS]; /* scales of u */
} attn_work;

V16_FN v16 load_scales(const float *p, size_t n)
{
    return n >= 16 ? v16_load(p) : load_some(p, n, 0.0f);
}

/* Weights of a row, quantized, and 0 up to position `up`; their scale is returned. */
V16_FN float attn_weigh(const int32_t *dot, float q_scale, size_t n_pos, size_t up,
                        const float *k_scale, const float *v_scale, float *ml, int16_t *u,
                        attn_ahead *ahead)
{
    _Alignas(64) float w[FG_KV_BLOCK];
    for (size_t p = 0; p < n_pos; p += 16) {
        const v16 s = v16_mul(v16_load_i32(dot + p), load_scales(k_scale + p, n_pos - p));
        v16_store(w + p, v16_mul(s, v16_set1(q_scale)));
        fetch_ahead(ahead, 1);
    }
    for (size_t p = n_pos; p % 16 != 0; p++) w[p] = -INFINITY;
    weigh_scores(w, n_pos, &ml[0], &ml[1]);
    for (size_t p = 0; p < n_pos; p += 16) {
        v16_store(w + p, v16_mul(v16_load(w + p), load_scales(v_scale + p, n_pos - p)));
        fetch_ahead(ahead, 1);
    }
    const size_t n = (n_pos + 15) / 16 * 16;
    for (size_t p = n_pos; p < n; p++) w[p] = 0.0f; /* also where the sum above is NaN */
    memset(u + n, 0, (up - n) * sizeof *u);
    return quantize_row16(w, n, 32512.0f, u);
}

/* Weights of all rows, and scales of the next block asked for. */
V16_FN void attn_weigh_rows(const float *q_scale, const uint16_t *n_pos, size_t n_row, size_t up,
                            const float *k_scale, const float *v_scale, float *ml, attn_work *w,
                            attn_ahead *ahead, const fg_attn_next *next)
{
    enum { LINE = 64 / sizeof(float) }; /* of scales */
    for (size_t r = 0; r < n_row; r++) {
        w->f[r] = attn_weigh(w->dot[r], q_scale[r], n_pos[r], up, k_scale, v_scale, ml + 2 * r,
                             w->u[r], ahead);
        for (size_t i = r * LINE; next != NULL && i < FG_KV_BLOCK; i += n_row * LINE) {
            fetch_line(next->k_scale + i);
            fetch_line(next->v_scale + i);
        }
    }
}

/* At most ATTN_ROWS rows.  Lines of the next block are asked for as the time goes: 3 eighths in
 * either product, 2 between them. */
V16_FN void attn_rows(const int16_t *q, const float *q_scale, const uint16_t *n_pos, size_t n_row,
                      size_t d, const int8_t *k, const float *k_scale, const int8_t *v,
                      const float *v_scale, float *ml, float *o, attn_work *w,
                      const fg_attn_next *next)
{
    attn_ahead ahead = {0};
    if (next != NULL) ahead = (attn_ahead){next->k, next->v, FG_KV_BLOCK * d / 64, 0, 0};
    size_t most = 0;
    for (size_t r = 0; r < n_row; r++) most = n_pos[r] > most ? n_pos[r] : most;
    const size_t up = (most + 63) / 64 * 64;
    ahead.due = ahead.half * 3 / 4;
    ATTN_PRODUCTS(q, d, n_row, d, k, 64, 16 * d, (most + 15) / 16, w->dot[0], &ahead);
    ahead.due = ahead.half * 5 / 4;
    attn_weigh_rows(q_scale, n_pos, n_row, up, k_scale, v_scale, ml, w, &ahead, next);
    ahead.due = 2 * ahead.half;
    for (size_t e = 0; e < d; e += FG_KV_BLOCK) {
        const size_t left = (d - e) / 16, n = left < ATTN_GROUPS ? left : (size_t)ATTN_GROUPS;
        ATTN_PRODUCTS(w->u[0], FG_KV_BLOCK, n_row, up, v + 4 * e, 4 * d, 64, n, w->dot[0], &ahead);
        for (size_t r = 0; r < n_row; r++) {
            const v16 f = v16_set1(w->f[r]);
            for (size_t i = 0; i < 16 * n; i += 16) {
                v16_store(o + r * d + e + i, v16_mul(v16_load_i32(w->dot[r] + i), f));
            }
        }
    }
    fetch_ahead(&ahead, 2 * ahead.half);
}

void FG_LEVEL(attn_i8)(const int16_t *q, const float *q_scale, const uint16_t *n_pos, size_t n_row,
                       size_t d, const int8_t *k, const float *k_scale, const int8_t *v,
                       const float *v_scale, float *ml, float *o, const fg_attn_next *next)
{
    attn_work w;
    for (size_t r = 0, n; r < n_row; r += n) {
        n = n_row - r < ATTN_ROWS ? n_row - r : (size_t)ATTN_ROWS;
        attn_rows(q + r * d, q_scale + r, n_pos + r, n, d, k, k_scale, v, v_scale, ml + 2 * r,
                  o + r * d, &w, r == 0 ? next : NULL);
    }
}

#endif
