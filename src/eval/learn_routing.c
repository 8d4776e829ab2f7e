/* SPDX-License-Identifier: MIT */
#include "src/eval/learn_routing.h"

/* Recall@4 of the routers' guesses, for who weighs them against the scores. */
static fg_status measure_routers(fg_routing_model *m, const fg_trace *t, fg_err *err)
{
    const fg_trace_head *h = fg_trace_get_head(t);
    const fg_predict_opts who = {.kind = FG_PREDICT_ROUTER,
                                 .n_layer = h->n_layer,
                                 .n_expert = h->n_expert,
                                 .n_used = h->n_used};
    fg_recall_row row;
    FG_TRY(fg_replay_recall(t, 0, &who, 1, &row, err));
    for (int d = 0; d < FG_ROUTING_AHEAD; d++) {
        const fg_recall *r = &row.ahead[d];
        m->router_recall[d] = r->n == 0 ? 0.0f : (float)((double)r->n_found[2] / (double)r->n);
    }
    return FG_OK;
}

fg_status fg_learn_routing(fg_routing_model **out, const fg_trace *const *t, size_t n, uint64_t to,
                           const fg_routing_opts *o, const fg_factor_machine *machine,
                           fg_routing_report *report, fg_err *err)
{
    fg_routing_log log = {.of = fg_trace_shape(fg_trace_get_head(t[0]))};
    fg_status st = FG_OK;
    *out = NULL;
    for (size_t i = 0; i < n && st == FG_OK; i++) st = fg_replay_log(t[i], 0, to, &log, err);
    if (st == FG_OK) st = fg_routing_train(out, &log, o, machine, report, err);
    if (st == FG_OK) st = measure_routers(*out, t[n - 1], err);
    if (st != FG_OK) fg_routing_destroy(out);
    fg_routing_log_fini(&log);
    return st;
}
