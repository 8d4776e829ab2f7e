/* SPDX-License-Identifier: MIT
 *
 * Which experts a token will use, as an incomplete matrix: columns are (layer, expert), a row is a
 * token on its way through the layers, of which the columns of the layers behind it are known.  The
 * score of column c for token t,
 *
 *     s_c = g_c + w_id (r~_vc - g_c) + w_prev (1[c used by token t - 1] - g_c) + x_t . y_c
 *
 * is the expected use: g the share of all tokens, r~_vc = (n_vc + K g_c) / (n_v + K) that of the
 * token id v, weights by least squares for each layer, y learned by an algorithm of algorithm.h
 * from what the rest leaves over, and x_t folded in from the layers known so far (routing_row.h):
 *
 *     x_t = m + (P + sum y_c y_c')^-1 sum y_c (r_c - s_c(m)),   m = carry * x_(t - 1)
 *
 * over the columns of those layers, with P the prior's precision.  Counts go on while it runs, y, P
 * and weights are as trained.
 */
#ifndef FG_SRC_FACTOR_ROUTING_MODEL_H
#define FG_SRC_FACTOR_ROUTING_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/base/status.h"
#include "src/factor/algorithm.h"

enum {
    FG_ROUTING_IDS = 4096, /* token ids that have counts, the first that came */
    FG_ROUTING_RANK = 32,  /* usual */
    FG_ROUTING_BINS = 64,  /* of the calibration, over scores FG_ROUTING_LOW .. + 2 */
    FG_ROUTING_AHEAD = 8,  /* horizons whose recall is stored */
};
#define FG_ROUTING_LOW    (-0.5f)
#define FG_ROUTING_SMOOTH 2.0f /* K */

/* Of whose routing.  Sizes are limited as those of traces. */
typedef struct fg_routing_shape {
    uint32_t n_layer, n_expert, n_used, n_vocab;
    uint64_t data_root; /* of the weights */
} fg_routing_shape;

typedef struct fg_routing_model {
    fg_routing_shape of;
    fg_factor_algo algo;
    uint32_t rank;  /* 0: tables only */
    uint64_t n_tok; /* counted */
    uint64_t *use;  /* [n_col] tokens */
    uint32_t n_id;
    uint32_t *id;         /* [n_id] */
    uint32_t *seen;       /* [n_id] tokens, less than 2^16 */
    uint16_t *count;      /* [n_id][n_col] */
    float *w_id, *w_prev; /* [n_layer] */
    float *y;             /* [n_col][rank] */
    float *prior;         /* [rank][rank] P, symmetric */
    float carry;
    float chance[FG_ROUTING_BINS]; /* of use, by score; never falls */
    /* Recall@4 on held-back tokens: of the scores, and of the routers' guesses, when the layer so
     * many before was running; 0: not measured. */
    float recall[FG_ROUTING_AHEAD], router_recall[FG_ROUTING_AHEAD];
    /* made from these */
    uint32_t *row_of; /* [n_vocab] row of an id's counts, or FG_ROUTING_NO_ROW */
    float *solve;     /* [n_layer + 1][rank][rank] with so many layers known; [0] is not used */
} fg_routing_model;
#define FG_ROUTING_NO_ROW UINT32_MAX

static inline size_t fg_routing_n_col(const fg_routing_shape *s)
{
    return (size_t)s->n_layer * s->n_expert;
}

/* Without anything learned.  FG_EINVAL: sizes that no trace has, rank; FG_ENOMEM. */
fg_status fg_routing_create(fg_routing_model **out, const fg_routing_shape *s, uint32_t rank,
                            fg_err *err);
void fg_routing_destroy(fg_routing_model **m); /* accepts NULL */
fg_status fg_routing_clone(fg_routing_model **out, const fg_routing_model *m, fg_err *err);
/* Computes `solve` from y and prior.  FG_EINVAL: prior is not positive definite. */
fg_status fg_routing_prepare(fg_routing_model *m, fg_err *err);

/* a[n][n], symmetric, becomes its inverse; false: it is not positive definite. */
bool fg_routing_invert(double *a, uint32_t n);

/* Row of an id's counts, made when it is new; FG_ROUTING_NO_ROW: there is no room. */
uint32_t fg_routing_row_for(fg_routing_model *m, uint32_t id);
/* Adds (by 1) or takes away (by -1) a token: sel[n_layer][n_used], a layer every `stride` ids.
 * False, and nothing is done: its counts are full. */
bool fg_routing_count(fg_routing_model *m, uint32_t id, const uint16_t *sel, int by);
float fg_routing_chance(const fg_routing_model *m, float score);

/* The file, little-endian: "FGROUTE1", u32 version 1, u32 n_layer, n_expert, n_used, n_vocab,
 * algorithm, rank, n_id, u64 data_root, n_tok, f32 carry, chance[64], recall[8], router_recall[8],
 * w_id, w_prev [n_layer], u64 use[n_col], u32 id[n_id], seen[n_id], u16 count[n_id][n_col],
 * f32 y [n_col][rank], prior [rank][rank]; u64 XXH3-64 of all before.
 *
 * Through a temporary file and a rename.  FG_EIO, FG_ENOMEM. */
fg_status fg_routing_save(const char *path, const fg_routing_model *m, fg_err *err);
/* FG_EFORMAT: another file, damaged, values that cannot be; FG_EVERSION; FG_EIO, FG_ENOMEM. */
fg_status fg_routing_load(const char *path, fg_routing_model **m, fg_err *err);
fg_status fg_routing_read(const void *bytes, size_t n, const char *name, fg_routing_model **m,
                          fg_err *err);
/* FG_EINVAL, by name: the model was trained on other weights, or another shape. */
fg_status fg_routing_check(const fg_routing_model *m, const char *name, const fg_routing_shape *of,
                           fg_err *err);

#endif
