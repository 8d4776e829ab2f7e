/* SPDX-License-Identifier: MIT
 *
 * Trains the model of routing_model.h on recorded routing.  Counts and weights come from the first
 * nine tenths, each token judged without itself; what they leave over, for the experts chosen and a
 * sample of others, is a matrix of tokens by columns whose factors an algorithm of algorithm.h
 * learns.  The last tenth says how strong the prior should be, how scores become chances, and how
 * good all is; it is counted at the end.
 */
#ifndef FG_SRC_FACTOR_ROUTING_TRAIN_H
#define FG_SRC_FACTOR_ROUTING_TRAIN_H

#include "src/factor/routing_row.h"
#include "src/factor/train.h"

/* Tokens that were kept, in order.  Zero-initialise but `of`; free with fg_routing_log_fini. */
typedef struct fg_routing_log {
    fg_routing_shape of;
    size_t n, id_cap, first_cap, sel_cap;
    uint32_t *id;  /* [n] */
    bool *first;   /* [n] it does not come after the one before */
    uint16_t *sel; /* [n][n_layer][n_used] */
} fg_routing_log;
void fg_routing_log_fini(fg_routing_log *g);
/* Room for n more tokens, which the caller fills in; FG_ENOMEM. */
fg_status fg_routing_log_add(fg_routing_log *g, size_t n, fg_err *err);

typedef struct fg_routing_opts {
    fg_factor_algo algo;
    uint32_t rank; /* 0: tables only */
    uint64_t seed;
    uint32_t max_epoch;              /* 0: as usual */
    fg_factor_progress_fn *progress; /* of the factors' epochs; may be NULL */
    void *ctx;
} fg_routing_opts;

/* What came out, on the held-back tenth: recall@4 one layer ahead and before the first layer. */
typedef struct fg_routing_report {
    uint64_t n_fit, n_held;
    uint32_t n_epoch;
    double near, next, table_near, table_next; /* table_: without the latent part */
} fg_routing_report;

/* Errors: FG_EINVAL (fewer than 100 tokens, sizes), FG_ENOMEM, FG_ECANCEL. */
fg_status fg_routing_train(fg_routing_model **out, const fg_routing_log *g,
                           const fg_routing_opts *o, const fg_factor_machine *machine,
                           fg_routing_report *report, fg_err *err);

/* The n best of score[n_expert], best first; ties go to the lower expert. */
void fg_routing_best(const float *score, uint32_t n_expert, uint32_t *ids, uint32_t n);

#endif
