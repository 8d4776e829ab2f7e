/* SPDX-License-Identifier: MIT
 *
 * A latent-factor model: r^ = x_row . y_col, or mean + bx[row] + by[col] + x_row . y_col.
 */
#ifndef FG_SRC_FACTOR_FACTOR_MODEL_H
#define FG_SRC_FACTOR_FACTOR_MODEL_H

#include "simd/kernels.h"
#include "src/factor/algorithm.h"
#include "src/factor/visits.h"
#include "src/sys/team.h"

typedef struct fg_factor_model {
    fg_factor_algo algo; /* that made it */
    uint32_t rank, n_row, n_col;
    size_t stride;              /* floats of a row of x and y: rank rounded up to 8, the rest 0 */
    float *x, *y;               /* [n_row][stride], [n_col][stride] */
    float *bx, *by;             /* [n_row], [n_col]; NULL without biases */
    float mean, low, high;      /* of the training values */
    uint8_t *row_met, *col_met; /* 1: has entries in training; others get the mean */
} fg_factor_model;

/* At its start (opts.seed), with mean, range and what is met from the training entries; dimensions
 * as those of the matrix.  FG_ENOMEM; FG_EINVAL without entries. */
fg_status fg_factor_model_create(fg_factor_model **out, const fg_hdi *train,
                                 const fg_factor_opts *o, fg_err *err);
/* All zero, of these dimensions: for who reads one from a file. */
fg_status fg_factor_model_alloc(fg_factor_model **out, uint32_t n_row, uint32_t n_col,
                                uint32_t rank, bool bias, fg_err *err);
void fg_factor_model_destroy(fg_factor_model **m); /* accepts NULL */
/* Factors and biases of a model of the same dimensions. */
void fg_factor_model_copy(fg_factor_model *to, const fg_factor_model *from);

/* A job over the model's arrays; steps are the caller's. */
fg_factor_job fg_factor_model_job(const fg_factor_model *m);

/* Errors over a list of entries (fg_visits_list). */
typedef struct fg_factor_score {
    double rmse, mae;
    double rmse_clipped; /* predictions kept within low .. high */
    double rmse_met;     /* without entries whose row or column has not been met; NaN: none */
    uint64_t n, n_unmet;
} fg_factor_score;

/* Sums in double, of fixed runs of entries in their order, whatever the team; NULL: this thread.
 * FG_ENOMEM. */
fg_status fg_factor_judge(const fg_factor_model *m, const fg_visits *list, const fg_kernels *k,
                          fg_team *team, fg_factor_score *out, fg_err *err);

/* r^ of one pair; any row and column, beyond the model's they are not met. */
float fg_factor_predict(const fg_factor_model *m, uint32_t row, uint32_t col);

#endif
