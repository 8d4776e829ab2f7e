/* SPDX-License-Identifier: MIT
 *
 * Second moments of a matrix's inputs, H = sum x x^T over the calibration tokens, and the
 * triangular factor of their inverse that error feedback needs (quant/feedback.h).
 *
 * Work is cut into fixed tiles of 256 columns and fixed blocks of tokens, each done by one worker
 * in one order, so the result does not depend on the number of threads.  Memory: two k x k matrices
 * of f32 (K = 9216: 2 x 340 MB).
 */
#ifndef FG_CONVERT_CALIB_HESSIAN_H
#define FG_CONVERT_CALIB_HESSIAN_H

#include <stdbool.h>
#include <stdint.h>

#include "quant/feedback.h"
#include "src/base/status.h"
#include "src/sys/team.h"

typedef struct fg_hessian {
    uint64_t k_max, k; /* columns, multiples of 128 */
    uint64_t n_row;    /* tokens added */
    float *h; /* [k][k], lower triangle of H; after fg_hessian_factor U; NULL: diagonal only */
    float *l; /* [k][k] */
    uint32_t *order; /* [k] */
    float *weight;   /* [k] */
    float *sample;   /* [n_sample][k], tokens at equal distances */
    uint64_t n_sample, n_expect;
    double *diag; /* [k] of H, after fg_hessian_factor of H / n_row */
} fg_hessian;

/* Zero-initialise *h; free with fg_hessian_fini.  full: all of H, else its diagonal. */
fg_status fg_hessian_init(fg_hessian *h, uint64_t k_max, bool full, fg_err *err);
void fg_hessian_fini(fg_hessian *h);

/* Empties it for n_row inputs of k columns (<= k_max, a multiple of 128). */
void fg_hessian_start(fg_hessian *h, uint64_t k, uint64_t n_row);

/* Adds n rows x[n][k], `stride` elements apart.  Called by every worker of the team between two
 * barriers; calls follow each other in a fixed order of rows. */
void fg_hessian_add(fg_worker *w, fg_hessian *h, const float *x, size_t stride, uint64_t n);

/* Fills order, weight and U (weight alone when only the diagonal is known); *f borrows them until
 * the next start.  *zero: all inputs were zero, and *f is not set.  FG_EDATA: inputs that are not
 * finite, or moments beyond f32. */
fg_status fg_hessian_factor(fg_hessian *h, fg_team *team, fg_feedback *f, bool *zero, fg_err *err);

#endif
