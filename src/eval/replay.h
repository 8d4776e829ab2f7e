/* SPDX-License-Identifier: MIT
 *
 * What a routing trace would have cost: the directory (cache.h) and a predictor (predict.h) are
 * driven through it exactly as a live store and src/model/moe.c drive them, so that the counts of a
 * live run come out again, and those of every other choice with them.  No model, no time.
 */
#ifndef FG_SRC_EVAL_REPLAY_H
#define FG_SRC_EVAL_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/eval/routing_trace.h"
#include "src/factor/routing_train.h"

/* What the optimal policy knows: when each request of a trace comes again. */
typedef struct fg_future fg_future;

/* 4 bytes for each request of the trace.  Errors: FG_ENOMEM, FG_ELIMIT (2^32 passes). */
fg_status fg_future_create(fg_future **out, const fg_trace *t, fg_err *err);
void fg_future_destroy(fg_future **f); /* accepts NULL */

typedef struct fg_replay_opts {
    uint32_t n_slot; /* experts in memory; limits as fg_cache_opts */
    fg_policy policy;
    const uint64_t *heat; /* [n_layer * n_expert], as fg_cache_opts; may be NULL */
    fg_predict predict;
    uint32_t ahead;    /* layers; 0: the default */
    bool as_recorded;  /* the predictor was off when it was so in the recorded run */
    fg_future *future; /* of the trace; OPTIMAL needs it, the others may have it */
    bool (*progress)(void *ctx, uint64_t done,
                     uint64_t total); /* passes; may be NULL; false ends */
    void *ctx;
    uint64_t from;                 /* pass that it begins with, 0: the first */
    const fg_routing_model *model; /* as fg_predict_opts, as the next */
    unsigned without;
} fg_replay_opts;

/* Errors: FG_EINVAL, FG_ENOMEM, FG_ECANCEL. */
fg_status fg_replay_run(const fg_trace *t, const fg_replay_opts *opts, fg_cache_stats *out,
                        fg_err *err);

/* Adds to heat[n_layer * n_expert] how many tokens used each expert in passes from .. to - 1. */
fg_status fg_replay_heat(const fg_trace *t, uint64_t from, uint64_t to, uint64_t *heat,
                         fg_err *err);

/* Experts that stay on a card, of an expert's reads that passes ask for: those of the heat map, and
 * from them on those of running counts (src/expert/hot.h), a move every third pass at most.  A card
 * that held the same share of each expert's rows instead would serve that share of every read. */
typedef struct fg_replay_card {
    uint64_t n_read, n_heat, n_running, n_moved;
} fg_replay_card;

/* heat [n_layer * n_expert]; n_resident: at most as many.  Errors: FG_ENOMEM. */
fg_status fg_replay_residents(const fg_trace *t, uint64_t n_resident, const uint64_t *heat,
                              fg_replay_card *out, fg_err *err);

/* Passes of one token: of the experts that layers asked for, how many were among the 2, 3, 4 and 8
 * that a predictor ranked first. */
enum { FG_RECALL_TOPS = 4, FG_RECALL_LAST = 8 };
extern const uint32_t fg_recall_top[FG_RECALL_TOPS];

typedef struct fg_recall {
    uint64_t n; /* asked for; 0: the trace cannot say */
    uint64_t n_found[FG_RECALL_TOPS];
} fg_recall;

typedef struct fg_recall_row {
    fg_recall ahead[FG_PREDICT_AHEAD]; /* [d - 1] when the layer d before had just run */
    fg_recall next;                    /* before the token's first layer */
    uint64_t n_tok, ns;                /* tokens; time for them: observing, and ranks one ahead */
} fg_recall_row;

/* who[n]: predictors, of the trace's sizes; passes from `from` on.  NONE finds nothing of all that
 * was asked for.  Errors: FG_EINVAL, FG_ENOMEM. */
fg_status fg_replay_recall(const fg_trace *t, uint64_t from, const fg_predict_opts *who, size_t n,
                           fg_recall_row *out, fg_err *err);

/* Appends to a log of the trace's sizes (FG_EINVAL: of others, or a trace without tokens) what
 * passes from .. to - 1 made of the timeline: tokens that were undone in between are not there. */
fg_status fg_replay_log(const fg_trace *t, uint64_t from, uint64_t to, fg_routing_log *log,
                        fg_err *err);

/* Sizes for fg_routing_log and fg_routing_check. */
fg_routing_shape fg_trace_shape(const fg_trace_head *h);

#endif
