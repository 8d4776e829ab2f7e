/* SPDX-License-Identifier: MIT
 *
 * The items that a model expects a user to like best, and how good such lists are.
 */
#ifndef FG_SRC_FACTOR_RANKING_H
#define FG_SRC_FACTOR_RANKING_H

#include "src/factor/factor_model.h"

typedef struct fg_ranked {
    float value; /* expected, not clipped */
    uint32_t col;
} fg_ranked;

/* The `top` best columns for a row that training met, but those in `rated` (entries in the model's
 * numbers; its index by row is made); best first, ties in the order of columns.  out: [top]; *n is
 * how many there are.  FG_ENOMEM. */
fg_status fg_factor_top(const fg_factor_model *m, uint32_t row, fg_hdi *rated, uint32_t top,
                        fg_ranked *out, uint32_t *n, fg_err *err);

/* Means over users that training met and that have an item in `test` of at least `relevant`. */
typedef struct fg_ranking {
    uint64_t n_user;
    double precision; /* share of the list that is relevant */
    double recall;    /* share of what is relevant that is in the list */
    double ndcg;      /* discounted by position, against the best list possible; gains 0 or 1 */
} fg_ranking;

/* row: one user, or UINT32_MAX for all.  Relevant items that are in `rated` do not count.
 * FG_ENOMEM. */
fg_status fg_factor_rank(const fg_factor_model *m, fg_hdi *rated, fg_hdi *test, uint32_t row,
                         uint32_t top, double relevant, fg_ranking *out, fg_err *err);

#endif
