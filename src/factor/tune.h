/* SPDX-License-Identifier: MIT
 *
 * Finding an algorithm's parameters by particle swarms, in both forms: offline, where a particle is
 * one run of its own and the best of all is kept, and the sequential swarm as published, where all
 * particles train one model in turn and the parameters change while it learns.  What is counted is
 * passes over the training entries.
 */
#ifndef FG_SRC_FACTOR_TUNE_H
#define FG_SRC_FACTOR_TUNE_H

#include "src/factor/train.h"

typedef struct fg_factor_trial {
    double param[FG_PARAM_MAX];
    double rmse; /* the best validation error; NaN: it diverged */
    uint32_t epochs, passes;
} fg_factor_trial;

/* Zero-initialise; free with fg_factor_tuning_fini. */
typedef struct fg_factor_tuning {
    fg_factor_trial *trial; /* [n], in order */
    uint32_t n;
    size_t cap;
    uint64_t passes; /* of all */
} fg_factor_tuning;
void fg_factor_tuning_fini(fg_factor_tuning *t);

/* Now and then, always from the calling thread; false stops with FG_ECANCEL. */
typedef bool fg_factor_tuning_fn(void *ctx, uint64_t passes);

enum { FG_FACTOR_LEAST_BUDGET = 100 };

/* Adds runs of at most `budget` passes together that look for the least  validation RMSE + cost *
 * epochs, beginning at the best trial so far, or at o->param.  Runs of a generation go side by side
 * over the team (may be NULL); what is found does not depend on it.  o->max_epoch bounds a run.
 * Errors as of fg_factor_train; FG_EINVAL when every run diverged, or
 * with a budget below FG_FACTOR_LEAST_BUDGET. */
fg_status fg_factor_tune(fg_factor_tuning *t, const fg_hdi *train, const fg_hdi *valid,
                         const fg_factor_opts *o, uint64_t budget, double cost, const fg_kernels *k,
                         fg_team *team, fg_factor_tuning_fn *progress, void *ctx, fg_err *err);
/* NULL: none that did not diverge. */
const fg_factor_trial *fg_factor_tuning_best(const fg_factor_tuning *t, double cost);

/* The sequential swarm: out's epochs are passes, `particles` of them a round (1 to FG_SWARM_MAX).
 * Ends when two rounds together changed the validation error by less than o->min_gain each, or
 * brought no gain, or with o->max_epoch.  Bounds of the steps are narrow: fitness looks one pass
 * ahead, and pays for large steps. */
fg_status fg_factor_train_swarm(fg_factor_run *out, const fg_hdi *train, const fg_hdi *valid,
                                const fg_factor_opts *o, uint32_t particles, const fg_kernels *k,
                                fg_team *team, fg_factor_progress_fn *progress, void *ctx,
                                fg_err *err);

#endif
