/* SPDX-License-Identifier: MIT
 *
 * The training loop that all algorithms share: passes over the grid, until the error on held-back
 * entries no longer falls.
 */
#ifndef FG_SRC_FACTOR_TRAIN_H
#define FG_SRC_FACTOR_TRAIN_H

#include "src/factor/factor_model.h"

/* The best kernels of this machine and a team; n_thread 0: one a core. */
typedef struct fg_factor_machine {
    fg_kernels k;
    fg_team *team;
} fg_factor_machine;
fg_status fg_factor_machine_open(fg_factor_machine *m, uint32_t n_thread, fg_err *err);
void fg_factor_machine_close(fg_factor_machine *m);

typedef struct fg_factor_trainer fg_factor_trainer;

/* Copies what it needs of train.  team, borrowed, may be NULL; the result does not depend on it,
 * nor on the kernels' level.  Errors: FG_ENOMEM, FG_EINVAL (options, no entries). */
fg_status fg_factor_trainer_create(fg_factor_trainer **out, const fg_hdi *train,
                                   const fg_factor_opts *o, const fg_kernels *k, fg_team *team,
                                   fg_err *err);
void fg_factor_trainer_destroy(fg_factor_trainer **t); /* accepts NULL */

/* One pass over all entries, with the parameters given (o->param's form). */
void fg_factor_trainer_pass(fg_factor_trainer *t, const double *param);
/* Its model, for reading; changes with each pass. */
const fg_factor_model *fg_factor_trainer_model(const fg_factor_trainer *t);
/* Bytes that entries in their order, states and moments take. */
uint64_t fg_factor_trainer_bytes(const fg_factor_trainer *t);

/* What happened. */
typedef struct fg_factor_point {
    double rmse;    /* on the held-back entries, after so many epochs */
    double seconds; /* of passes and of judging, until then */
    double pass;    /* seconds of this pass alone */
} fg_factor_point;

typedef struct fg_factor_run {
    fg_factor_model *model; /* as of the best epoch */
    fg_factor_point *curve; /* [n_epoch] */
    size_t cap;
    uint32_t n_epoch, best; /* passes; epochs until the best one */
    double best_rmse, best_mae;
    double pass_seconds; /* of passes alone */
    bool diverged;       /* stopped since errors grew beyond all bounds */
} fg_factor_run;
void fg_factor_run_fini(fg_factor_run *r);

/* After each epoch; false stops with FG_ECANCEL. */
typedef bool fg_factor_progress_fn(void *ctx, const fg_factor_run *r);

/* Trains until opts.patience epochs brought no gain of opts.min_gain, or opts.max_epoch.  Errors as
 * of fg_factor_trainer_create; FG_EINVAL when errors were not finite from the first epoch on. */
fg_status fg_factor_train(fg_factor_run *out, const fg_hdi *train, const fg_hdi *valid,
                          const fg_factor_opts *o, const fg_kernels *k, fg_team *team,
                          fg_factor_progress_fn *progress, void *ctx, fg_err *err);

/* The same; the memory of train's entries becomes that of their order, and train is empty after. */
fg_status fg_factor_train_taking(fg_factor_run *out, fg_hdi *train, const fg_hdi *valid,
                                 const fg_factor_opts *o, const fg_kernels *k, fg_team *team,
                                 fg_factor_progress_fn *progress, void *ctx, fg_err *err);

/* Before each pass: may set the parameters; false: enough. */
typedef bool fg_factor_steer_fn(void *ctx, const fg_factor_run *r, double *param);
/* The same with parameters that change; who steers decides when it ends, or opts.max_epoch. */
fg_status fg_factor_train_steered(fg_factor_run *out, const fg_hdi *train, const fg_hdi *valid,
                                  const fg_factor_opts *o, fg_factor_steer_fn *steer,
                                  void *steer_ctx, const fg_kernels *k, fg_team *team,
                                  fg_factor_progress_fn *progress, void *ctx, fg_err *err);

/* Epochs until the held-back error was at most rmse; 0: never. */
uint32_t fg_factor_epochs_to(const fg_factor_run *r, double rmse);
/* Seconds of so many passes, each as long as the median one: neighbours on the machine disturb
 * some. */
double fg_factor_pass_seconds(const fg_factor_run *r, uint32_t epochs);

#endif
