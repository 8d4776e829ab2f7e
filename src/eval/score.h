/* SPDX-License-Identifier: MIT
 *
 * How well a model predicts a text, and how far it is from a reference: negative log likelihood,
 * perplexity, KL divergence, with confidence intervals.
 */
#ifndef FG_SRC_EVAL_SCORE_H
#define FG_SRC_EVAL_SCORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/engine/session.h"

typedef struct fg_score fg_score;

typedef struct fg_score_opts {
    uint32_t window;     /* tokens of a window, each evaluated from an empty state; 512.  Every
                          * token predicts the next one, the last of a window the first after it */
    fg_kv_choice kv;     /* of the scored model; the reference has AUTO */
    uint64_t max_window; /* windows at most; 0: all, the last one may be shorter */
    /* After each part of a window, with tokens and the estimate so far (kld_p99 and its interval
     * are
     * 0 until the end); false cancels.  May be NULL. */
    bool (*progress)(void *ctx, uint64_t done, uint64_t total, const fg_score *so_far);
    void *ctx;
    void (*on_nll)(void *ctx, uint64_t token, double nll); /* each scored token; may be NULL */
} fg_score_opts;

/* A standard error is the larger of two: tokens taken as independent, windows taken as independent.
 * Those of a perplexity and of the ratio are exp(mean) times that of the mean (delta method).  A
 * 95 % interval is +- FG_SCORE_Z95 standard errors, of these two on the scale of their logarithms;
 * below some ten windows it is a rough one. */
#define FG_SCORE_Z95 1.959963985
struct fg_score {
    uint64_t n_token;       /* tokens scored */
    double nll, nll_stderr; /* mean -ln p of the scored tokens */
    double ppl, ppl_stderr; /* exp(nll) */
    /* against a reference, over the scored positions; valid when `against` was given */
    double ref_nll, ref_ppl, ref_ppl_stderr;
    double ppl_ratio, ppl_ratio_stderr; /* ppl / ref_ppl, from each token's difference of nll */
    double kld_mean, kld_stderr;        /* KL(reference || model), nats */
    double kld_p99, kld_p99_ci95[2];    /* by rank; interval: ranks, independent tokens */
    double kld_max;
    double top1, top1_stderr; /* share of positions with the same best token */
};

/* The interval of a perplexity or a ratio of two from its standard error: both ends are above 0,
 * the upper one may be infinite. */
void fg_score_interval(double value, double value_stderr, double out[2]);

/* Scores ids[n]; `against` may be NULL or an engine with the same vocabulary (FG_EINVAL).  The same
 * files and ids give the same figures, bit for bit, for any thread count and CPU level.  Memory
 * besides two sessions: logits of at most 512 tokens and 256 MiB for each model. */
fg_status fg_score_run(fg_engine *e, fg_engine *against, const uint32_t *ids, size_t n,
                       const fg_score_opts *opts, fg_score *out, fg_err *err);

#endif
