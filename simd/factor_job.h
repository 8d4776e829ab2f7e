/* SPDX-License-Identifier: MIT
 *
 * What the kernels of latent factors work on (slots factor_pass and factor_predict of kernels.h).
 * r^ = mean + bx[row] + by[col] + x_row . y_col; without biases (bx, by NULL) x_row . y_col alone.
 */
#ifndef FG_SIMD_FACTOR_JOB_H
#define FG_SIMD_FACTOR_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FG_FACTOR_LANES = 8,     /* entries of a group */
    FG_FACTOR_MAX_RANK = 64, /* after rounding up to FG_FACTOR_LANES */
    FG_FACTOR_MAX_GAIN = 12,
};
#define FG_FACTOR_NONE UINT32_MAX /* row and column of a lane without an entry */

/* Up to eight entries that are learned at once.  No two have the same row or the same column, so
 * that the result is that of one after the other.  Lanes in use come first. */
typedef struct fg_factor_group {
    uint32_t row[FG_FACTOR_LANES], col[FG_FACTOR_LANES];
    float value[FG_FACTOR_LANES]; /* 0 without an entry */
} fg_factor_group;

/* How the error of an entry becomes a step. */
typedef enum fg_factor_rule {
    FG_FACTOR_SGD,
    FG_FACTOR_PSL,
    FG_FACTOR_NPID,
    FG_FACTOR_ADS,
    FG_FACTOR_ADS_CHEAP,
    FG_FACTOR_MOMENTUM,
    FG_FACTOR_ADAGRAD,
    FG_FACTOR_ADAM,
    FG_FACTOR_RULES
} fg_factor_rule;

/* Gains of each rule; src/factor/algorithm.c has the formulas' names and ranges in this order. */
typedef union fg_factor_gains {
    float v[FG_FACTOR_MAX_GAIN];
    struct {
        float kp, ki, kd;
    } psl;
    struct {
        float ap, bp, cp, ai, ci, ad, bd, cd, dd;
    } npid;
    struct { /* h r0 beta01 beta02 beta03 beta1 beta2 alpha1 alpha2 delta b0 k3 */
        float h, r0, b01, b02, b03, k1, k2, a1, a2, delta, b0, k3;
    } ads;
    struct {
        float k1, k2, k3, b01, b02, b03, delta;
    } cheap;
    struct {
        float beta1, beta2, eps;
    } moment;
} fg_factor_gains;

typedef struct fg_factor_job {
    fg_factor_rule rule;
    fg_factor_gains gain;
    size_t stride; /* floats of a row of x or y: the rank rounded up to 8; what is over is 0 */
    float *x, *y;  /* 32-byte aligned */
    float *bx, *by;
    float mean;
    /* Moments of the rows of x and y, moment_stride floats each: momentum and adagrad `stride`,
     * adam 2 * stride + 8.  NULL for other rules. */
    float *mx, *my;
    size_t moment_stride;
    float eta, lambda, keep; /* keep = 1 - eta lambda */
    float eta_bias, keep_bias;
    bool first; /* no state yet: this pass makes it */
} fg_factor_job;

/* State values of an entry: 0, 2, 2, 6, 3, 0, 0, 0. */
static inline size_t fg_factor_n_state(fg_factor_rule rule)
{
    switch (rule) {
    case FG_FACTOR_PSL:
    case FG_FACTOR_NPID: return 2;
    case FG_FACTOR_ADS: return 6;
    case FG_FACTOR_ADS_CHEAP: return 3;
    default: return 0;
    }
}

#endif
