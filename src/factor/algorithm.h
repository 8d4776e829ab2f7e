/* SPDX-License-Identifier: MIT
 *
 * The algorithms: a rule for the error (simd/factor_math.h), its parameters with their defaults and
 * the range that a search looks in.  One table, from which options, searches, files and reports are
 * made.
 */
#ifndef FG_SRC_FACTOR_ALGORITHM_H
#define FG_SRC_FACTOR_ALGORITHM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "simd/factor_job.h"
#include "src/base/status.h"

typedef enum fg_factor_algo { /* stored in model files */
                              FG_ALGO_SGD = 0,
                              FG_ALGO_SGD_DECAY = 1,
                              FG_ALGO_MOMENTUM = 2,
                              FG_ALGO_ADAGRAD = 3,
                              FG_ALGO_ADAM = 4,
                              FG_ALGO_PSL = 5,
                              FG_ALGO_NPID = 6,
                              FG_ALGO_ADS_CHEAP = 7,
                              FG_ALGO_ADS = 8,
                              FG_ALGO_COUNT
} fg_factor_algo;

/* Steps, then the gains of the rule. */
enum {
    FG_PARAM_ETA,
    FG_PARAM_LAMBDA,
    FG_PARAM_DECAY, /* eta / (1 + decay * epochs done) */
    FG_PARAM_ETA_BIAS,
    FG_PARAM_LAMBDA_BIAS,
    FG_PARAM_GAIN, /* the first */
    FG_PARAM_MAX = FG_PARAM_GAIN + FG_FACTOR_MAX_GAIN
};

typedef struct fg_factor_param {
    const char *name;
    double value;     /* without biases: tuned on MovieLens-100K at rank 20, values 1 to 5 */
    double low, high; /* equal: not searched */
    bool log;         /* searched on a logarithmic scale */
    double with_bias; /* as value, with biases */
} fg_factor_param;

typedef struct fg_factor_algorithm {
    const char *name;
    fg_factor_rule rule;
    uint32_t n_param; /* FG_PARAM_GAIN + gains */
    fg_factor_param param[FG_PARAM_MAX];
} fg_factor_algorithm;

const fg_factor_algorithm *fg_factor_algorithm_get(fg_factor_algo algo);
const char *fg_factor_algo_name(unsigned algo); /* NULL from FG_ALGO_COUNT on */

typedef struct fg_factor_opts {
    fg_factor_algo algo;
    uint32_t rank; /* 1 to FG_FACTOR_MAX_RANK */
    bool bias;     /* mean and biases */
    double param[FG_PARAM_MAX];
    /* Start: without biases uniform in [0, init), else in [-init, init). */
    double init;
    uint64_t seed; /* of the start and of the order of visits */
    uint32_t max_epoch;
    uint32_t patience; /* epochs without a gain of min_gain in validation RMSE */
    double min_gain;
    bool file_order; /* entries one after the other as they came; on one thread */
} fg_factor_opts;

fg_factor_opts fg_factor_opts_default(fg_factor_algo algo, bool bias);
/* FG_EINVAL: what of them cannot be. */
fg_status fg_factor_opts_check(const fg_factor_opts *o, fg_err *err);
/* Sets parameters from "eta=.01,lambda=.1".  FG_EINVAL. */
fg_status fg_factor_opts_set(fg_factor_opts *o, const char *text, fg_err *err);

#endif
