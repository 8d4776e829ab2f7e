/* SPDX-License-Identifier: MIT
 *
 * Algorithms against each other: each tuned with the same number of passes on one split, then
 * trained on several others with the parameters found, from the same starts.
 */
#ifndef FG_SRC_FACTOR_CONTEST_H
#define FG_SRC_FACTOR_CONTEST_H

#include "src/factor/tune.h"

/* What a configuration was chosen for. */
#define FG_CONTEST_MAP(X)                                                                          \
    X(FG_CONTEST_DEFAULT, "")           /* the algorithm's defaults */                             \
    X(FG_CONTEST_ACCURATE, " accurate") /* least RMSE + 2e-6 epochs */                             \
    X(FG_CONTEST_FAST, " fast")         /* least RMSE + 3e-5 epochs */                             \
    X(FG_CONTEST_SWARM, " swarm")       /* untuned: a sequential swarm adapts it as it learns */
typedef enum fg_contest_kind {
#define FG_CONTEST_ENUM(id, text) id,
    FG_CONTEST_MAP(FG_CONTEST_ENUM)
#undef FG_CONTEST_ENUM
        FG_CONTEST_KINDS
} fg_contest_kind;

enum { FG_CONTEST_MAX = 2 * FG_ALGO_COUNT + 2, FG_CONTEST_PARTICLES = 5 };

typedef struct fg_contest_result {
    fg_factor_score test;
    double valid_rmse;
    uint32_t epochs, passes; /* until the best one; all */
    double seconds;          /* of passes on one thread until the best one */
    bool diverged;           /* the rest is 0 */
    fg_factor_run run;       /* its curve; the model is gone */
} fg_contest_result;

typedef struct fg_contestant {
    fg_contest_kind kind;
    fg_factor_opts opts;
    uint64_t tuning_passes;
    char name[24];
    fg_contest_result *result; /* [n_split] */
} fg_contestant;

typedef struct fg_contest {
    fg_contestant of[FG_CONTEST_MAX];
    uint32_t n, n_split;
    /* By mean validation RMSE, never the test part.  rival: the fewest epochs among sgd, sgd-decay,
     * momentum, adagrad and adam within .0005 of the best of them; sgd: the most accurate plain
     * SGD; decay: that of SGD with decay.  UINT32_MAX: all diverged. */
    uint32_t rival, sgd, decay;
} fg_contest;

/* Contestants for n_split splits: with a budget each algorithm's two configurations, half of it
 * spent on each, and the swarms of sgd and npid; with none (0) the defaults.  o: rank, biases,
 * order, bounds.  Errors as of fg_factor_tune, where an algorithm that never converges is left out;
 * FG_EINVAL with a budget above 0 and below 2 * FG_FACTOR_LEAST_BUDGET. */
fg_status fg_contest_create(fg_contest **out, uint32_t n_split, const fg_hdi *train,
                            const fg_hdi *valid, const fg_factor_opts *o, uint64_t budget,
                            const fg_factor_machine *on, fg_factor_tuning_fn *progress, void *ctx,
                            fg_err *err);
void fg_contest_destroy(fg_contest **c); /* accepts NULL */

/* Trains and tests all of them on the parts of split `at`, one after the other on one thread, so
 * that times can be compared. */
fg_status fg_contest_run(fg_contest *c, uint32_t at, const fg_hdi part[3], uint64_t seed,
                         const fg_factor_machine *on, fg_factor_progress_fn *progress, void *ctx,
                         fg_err *err);
/* After all splits: who is the rival. */
void fg_contest_conclude(fg_contest *c);

/* One contestant over its splits, leaving out those in which it, or whom it is paired with,
 * diverged. */
typedef struct fg_contest_mean {
    uint32_t n;
    double rmse, rmse_dev, mae, mae_dev, valid_rmse, epochs, passes,
        seconds; /* means, deviations */
} fg_contest_mean;
fg_contest_mean fg_contest_mean_of(const fg_contest *c, uint32_t i);

typedef struct fg_contest_pair {
    uint32_t n, n_reached;  /* splits; those in which i met the validation RMSE of `to` */
    double difference;      /* mean of test RMSE less that of `to` */
    double deviation;       /* of the differences */
    double p;               /* two-sided t test that there is none; NaN: fewer than two splits */
    double wins;            /* splits in which it is lower */
    double epochs, seconds; /* mean over reached splits: until then, over those of `to` */
    double worst_epochs;    /* the largest of the ratios */
    double epochs_to;       /* mean epochs until then */
} fg_contest_pair;
fg_contest_pair fg_contest_pair_of(const fg_contest *c, uint32_t i, uint32_t to);

/* Of an algorithm's configurations the one that meets the validation RMSE of `to` in most splits,
 * and of those that do the one with the least ratio of epochs; UINT32_MAX: none took part. */
uint32_t fg_contest_best(const fg_contest *c, fg_factor_algo algo, uint32_t to);

/* Two-sided p of Student's t with n degrees of freedom, n >= 1. */
double fg_student_p(double t, uint32_t n);

#endif
