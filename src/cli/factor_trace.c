/* SPDX-License-Identifier: MIT
 *
 * factor train --trace: a model of routing, from which experts are predicted.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/cli/common.h"
#include "src/cli/factor.h"
#include "src/cli/held_back.h"
#include "src/eval/learn_routing.h"

static bool show(void *ctx, const fg_factor_run *r)
{
    (void)r;
    return progress_show(ctx, r->n_epoch, 0);
}

static void report(const factor_request *q, const fg_routing_model *m, const fg_routing_report *r)
{
    if (q->json) {
        printf("{\"algorithm\": \"%s\", \"rank\": %u, \"tokens\": %" PRIu64
               ", \"held_back\": %" PRIu64
               ", \"ids\": %u, \"epochs\": %u, \"model\": \"0x%016" PRIx64 "\"",
               fg_factor_algo_name(m->algo), m->rank, r->n_fit + r->n_held, r->n_held, m->n_id,
               r->n_epoch, m->of.data_root);
        printf(", \"recall@4\": {\"ahead_1\": %.6f, \"next\": %.6f, \"table_ahead_1\": %.6f, "
               "\"table_next\": %.6f, \"router_ahead_1\": %.6f}}\n",
               r->near, r->next, r->table_near, r->table_next, (double)m->router_recall[0]);
        return;
    }
    printf("%s, rank %u: %s tokens, %s different; %u epochs\n", fg_factor_algo_name(m->algo),
           m->rank, cli_count(r->n_fit + r->n_held), cli_count(m->n_id), r->n_epoch);
    printf("the last %s, which it had not seen, recall@4: one layer ahead %.1f %% (tables alone "
           "%.1f, routers %.1f), before the first layer %.1f %% (%.1f)\n",
           cli_count(r->n_held), 100.0 * r->near, 100.0 * r->table_near,
           100.0 * (double)m->router_recall[0], 100.0 * r->next, 100.0 * r->table_next);
    if (q->out != NULL) {
        printf("%s holds which experts the text's tokens used\n", cli_shown(q->out));
    }
}

fg_status factor_train_trace(const factor_request *q, fg_err *err)
{
    fg_factor_machine on = {0};
    fg_routing_model *m = NULL;
    fg_routing_report r = {0};
    progress p;
    traces t;
    const fg_routing_opts o = {.algo = q->algo,
                               .rank = q->rank,
                               .seed = q->seed,
                               .max_epoch = q->max_epoch,
                               .progress = show,
                               .ctx = &p};
    FG_TRY(traces_open(&t, q->ratings, q->out, err));
    fg_status st = fg_factor_machine_open(&on, q->n_thread, err);
    if (st == FG_OK) {
        progress_start(&p, "train", "epoch");
        st = fg_learn_routing(&m, (const fg_trace *const *)t.t, t.n, UINT64_MAX, &o, &on, &r, err);
        progress_end(&p);
    }
    if (st == FG_OK && q->out != NULL) st = fg_routing_save(q->out, m, err);
    if (st == FG_OK) report(q, m, &r);
    fg_routing_destroy(&m);
    fg_factor_machine_close(&on);
    traces_close(&t);
    return st;
}
