/* SPDX-License-Identifier: MIT
 *
 * The 16 rows of a panel are the lanes of every loop: weights lie transposed, [position][16], in
 * units of their row scale.  When the order reaches a group, its scale is chosen among some
 * candidates by rounding the group with each, feedback inside the group included; the columns after
 * it learn of the error group by group inside a block of 128 and by one matrix product beyond.
 */
#include "quant/feedback.h"

#include <math.h>
#include <string.h>

#include "quant/codes.h"
#include "quant/linalg.h"
#include "quant/search.h"

enum { R = FG_PANEL_ROWS, G = FG_GROUP_COLS, BLOCK = FG_SB_COLS };

/* Feedback makes late groups grow: leave their scales some room below 127. */
static const double scale_room = 1.06;

/* Tried around the scale that is best without feedback.  nano, mean KL divergence of two held-back
 * texts: this scale alone 0.0241, these three 0.0232, twelve of them, either sign, 0.0231. */
static const float try_factor[] = {1.0f, 0.96f, 1.04f};
enum { N_TRY = sizeof try_factor / sizeof try_factor[0] };

/* One way to round a group. */
typedef struct rounding {
    float s[R];             /* int8 scale of each row */
    float loss[R];          /* sum of e^2 */
    float q[G][R], e[G][R]; /* grid values; error of a position / U[p][p] */
} rounding;

size_t fg_feedback_scratch(size_t n_col)
{
    return ((size_t)fg_n_sb(n_col) * FG_SB_COLS + BLOCK) * R;
}

static inline float nearest(const fg_grid *g, float u)
{
    const float bias = 12582912.0f; /* search.c */
    if (g->table) {
        u = u * 2.0f + 64.0f;
        u = u > 0.0f ? u : 0.0f;
        u = u < 127.0f ? u : 127.0f;
        return g->nearest[(int32_t)u];
    }
    u = u > g->lo ? u : g->lo;
    u = u < g->hi ? u : g->hi;
    return (u + bias) - bias;
}

/* Rounds x[G][R] with the scales c->s; u: the group's block on the diagonal of U. */
static void round_group(const fg_grid *g, const float *x, const float *u, size_t ldu, rounding *c)
{
    float t[G][R], inv[R];
    memcpy(t, x, sizeof t);
    for (size_t r = 0; r < R; r++) {
        inv[r] = c->s[r] == 0.0f ? 0.0f : 1.0f / c->s[r];
        c->loss[r] = 0.0f;
    }
    for (size_t j = 0; j < G; j++) {
        const float over = 1.0f / u[j * ldu + j];
        float *e = c->e[j], *q = c->q[j];
        for (size_t r = 0; r < R; r++) q[r] = nearest(g, t[j][r] * inv[r]);
        for (size_t r = 0; r < R; r++) {
            e[r] = (t[j][r] - c->s[r] * q[r]) * over;
            c->loss[r] += e[r] * e[r];
        }
        for (size_t i = j + 1; i < G; i++) {
            const float f = u[j * ldu + i];
            for (size_t r = 0; r < R; r++) t[i][r] -= e[r] * f;
        }
    }
}

static float int_scale(float s)
{
    s = s < 127.0f ? s : 127.0f;
    s = s > -127.0f ? s : -127.0f;
    return (float)(int)(s + (s < 0.0f ? -0.5f : 0.5f));
}

/* Best scale without feedback, per row. */
static void start_scales(const fg_grid *g, const float *x, const float *weight, float *s)
{
    for (size_t r = 0; r < R; r++) {
        float v[G], extreme = 0.0f;
        for (size_t j = 0; j < G; j++) {
            v[j] = x[j * R + r];
            if (fabsf(v[j]) > fabsf(extreme)) extreme = v[j];
        }
        const float size = fabsf(extreme);
        s[r] = 0.0f;
        if (size == 0.0f) continue;
        for (size_t j = 0; j < G; j++) v[j] = v[j] / size;
        s[r] = fg_search_scale(g, v, weight, extreme < 0.0f ? -1.0f : 1.0f) * size;
    }
}

/* Chooses the scales of a group and rounds it into *best. */
static void encode_group(const fg_grid *g, const float *x, const float *weight, const float *u,
                         size_t ldu, rounding *best)
{
    float start[R];
    rounding c;
    start_scales(g, x, weight, start);
    for (size_t i = 0; i < N_TRY; i++) {
        for (size_t r = 0; r < R; r++) c.s[r] = int_scale(start[r] * try_factor[i]);
        round_group(g, x, u, ldu, &c);
        if (i == 0) *best = c;
        for (size_t r = 0; r < R && i > 0; r++) {
            if (!(c.loss[r] < best->loss[r])) continue;
            best->s[r] = c.s[r];
            best->loss[r] = c.loss[r];
            for (size_t j = 0; j < G; j++) {
                best->q[j][r] = c.q[j][r];
                best->e[j][r] = c.e[j][r];
            }
        }
    }
}

static void store_group(fg_qtype type, const fg_code_map *map, const rounding *c,
                        const uint32_t *order, uint8_t *panel)
{
    const size_t g = order[0] / G;
    for (size_t r = 0; r < R; r++) {
        uint8_t code[G];
        for (size_t j = 0; j < G; j++) {
            const float q = c->s[r] == 0.0f ? 0.0f : c->q[j][r];
            code[order[j] % G] = map->code[(int)q + 128];
        }
        fg_put_codes(type, fg_group_at(type, panel, g), r, code);
        *fg_group_scale_at(type, panel, g, r) = (uint8_t)(int)c->s[r];
    }
}

/* x[position][R] in units of the row scales; zero rows stay zero. */
static void load_rows(const float *w, const fg_feedback *f, size_t k, const float *row_scale,
                      float *x)
{
    for (size_t r = 0; r < R; r++) {
        const double inv = row_scale[r] > 0.0f ? 1.0 / (double)row_scale[r] : 0.0;
        for (size_t p = 0; p < k; p++) x[p * R + r] = (float)((double)w[r * k + f->order[p]] * inv);
    }
}

/* Energy of the rows' outputs over the sample inputs: what it is, and what it loses. */
static void measure_outputs(fg_qtype type, const fg_lut *lut, const float *w, const fg_feedback *f,
                            size_t n_col, size_t k, const uint8_t *panel, const float *row_scale,
                            float *v, fg_panel_error *error)
{
    float y[R * FG_FEEDBACK_SAMPLES];
    fg_gemm g = {.b_t = true,
                 .m = R,
                 .n = f->n_sample,
                 .k = k,
                 .alpha = 1.0f,
                 .a = w,
                 .b = f->sample,
                 .lda = k,
                 .ldb = k,
                 .c = y,
                 .ldc = f->n_sample};
    fg_panel_decode(type, lut, panel, row_scale, n_col, v);
    for (size_t i = 0; i < R * k; i++) v[i] = w[i] - v[i];
    error->out_err2 = error->out_ref2 = 0.0;
    fg_linalg_gemm(&g);
    for (size_t i = 0; i < R * f->n_sample; i++) error->out_ref2 += (double)y[i] * (double)y[i];
    g.a = v;
    fg_linalg_gemm(&g);
    for (size_t i = 0; i < R * f->n_sample; i++) error->out_err2 += (double)y[i] * (double)y[i];
}

/* x, e: [k][R] and [BLOCK][R] of scratch. */
static void encode(fg_qtype type, const fg_lut *lut, const fg_feedback *f, size_t k, uint8_t *panel,
                   float *x, float *e)
{
    fg_grid grid;
    fg_code_map map;
    fg_grid_init(&grid, type, lut);
    fg_code_map_init(&map, type, lut);
    for (size_t b = 0; b < k; b += BLOCK) {
        for (size_t p = b; p < b + BLOCK; p += G) {
            float weight[G];
            rounding c;
            for (size_t j = 0; j < G; j++) weight[j] = f->weight[f->order[p + j]];
            encode_group(&grid, x + p * R, weight, f->u + p * k + p, k, &c);
            store_group(type, &map, &c, f->order + p, panel);
            memcpy(e + (p - b) * R, c.e, sizeof c.e);
            const fg_gemm near = {true,
                                  false,
                                  b + BLOCK - p - G,
                                  R,
                                  G,
                                  -1.0f,
                                  1.0f,
                                  f->u + p * k + p + G,
                                  e + (p - b) * R,
                                  k,
                                  R,
                                  x + (p + G) * R,
                                  R};
            if (near.m > 0) fg_linalg_gemm(&near);
        }
        const size_t rest = b + BLOCK;
        const fg_gemm far = {
            true, false, k - rest,     R, BLOCK, -1.0f, 1.0f, f->u + b * k + rest, e,
            k,    R,     x + rest * R, R};
        if (far.m > 0) fg_linalg_gemm(&far);
    }
}

void fg_panel_encode_feedback(fg_qtype type, const fg_lut *lut, const float *w,
                              const fg_feedback *f, size_t n_col, uint8_t *panel, float *row_scale,
                              float *scratch, fg_panel_error *error)
{
    const size_t k = (size_t)fg_n_sb(n_col) * FG_SB_COLS;
    fg_panel_encode_weighted(type, lut, w, f->weight, n_col, panel, row_scale, NULL);
    if (f->u != NULL) {
        for (size_t r = 0; r < R; r++) {
            const double room = (double)row_scale[r] * scale_room;
            row_scale[r] = (float)(room < FG_ROW_SCALE_MAX ? room : FG_ROW_SCALE_MAX);
        }
        load_rows(w, f, k, row_scale, scratch);
        encode(type, lut, f, k, panel, scratch, scratch + k * R);
    }
    fg_panel_measure(type, lut, panel, row_scale, w, n_col, error);
    measure_outputs(type, lut, w, f, n_col, k, panel, row_scale, scratch, error);
}
