/* SPDX-License-Identifier: MIT
 *
 * The network, top to bottom (MODEL.md (1) to (5), (25)): embedding, layers, head.
 */
#include "src/model/forward.h"

#include "src/base/clock.h"
#include "src/model/device.h"

void fg_tap_hidden(const fg_worker *w, const fg_batch *b, int32_t layer)
{
    if (w->idx != 0 || b->status != FG_OK) return;
    const fg_acts *x = &b->s->x;
    for (uint32_t i = 0; i < b->n_seq; i++) {
        const fg_seq *q = &b->seq[i];
        if (q->taps == NULL || q->taps->hidden == NULL) continue;
        q->taps->hidden(q->taps->ctx, layer, q->st->pos, q->n, x->f + q->first * x->f_stride,
                        x->f_stride);
    }
}

static void pass(fg_worker *w, void *arg)
{
    fg_batch *b = arg;
    if (w->idx == 0 && b->profile != NULL) b->profile->last_ns = fg_clock_ns();
    fg_embed(w, b);
    if (!fg_each(w, b)) fg_worker_sync(w);
    fg_mark_phase(w, b, FG_PHASE_EMBED);
    if (!b->shown) fg_tap_hidden(w, b, -1);
    for (uint32_t l = 0; l < b->m->shape->n_layer; l++) {
        if (!fg_stages(w, b, l, FG_STAGE_ATTN_NORM, FG_STAGE_MLP_OUT)) return;
        if (!fg_each(w, b)) {
            fg_worker_sync(w);
            if (b->status != FG_OK) return; /* all workers see the same */
        } /* else they see it in the next layer, and worker 0 before it gives logits */
        fg_tap_hidden(w, b, (int32_t)l);
        /* the next layer only reads x until its first barrier */
    }
    fg_head(w, b);
}

bool fg_forward_folds(const fg_state *st, uint64_t n)
{
    return st->pos + n > st->folded + FG_LIGHT_CHUNK;
}

static void run(fg_team *team, fg_batch *b, void (*fn)(fg_worker *w, void *arg), fg_err *err)
{
    b->status = FG_OK;
    b->stopped = false;
    b->begun = false;
    b->each = b->n_tok == 1 && b->device == NULL;
    b->err = err;
    (b->n_tok == 1 ? fg_team_run_paced : fg_team_run_long)(team, fn, b);
}

/* On the host, which gets the states back if a device has them. */
static fg_status run_here(fg_team *team, fg_batch *b, fg_err *err)
{
    b->device = NULL;
    fg_weights_host(b->m->weights);
    for (uint32_t i = 0; i < b->n_seq; i++) {
        FG_TRY(fg_state_fetch(b->seq[i].st, err));
        fg_state_wrote(b->seq[i].st, b->seq[i].st->pos);
    }
    run(team, b, pass, err);
    return b->status;
}

/* On its device, or here when that cannot begin with it, for want of memory or whatever else: a
 * failure before anything was computed is no reason to lose a session. */
static fg_status run_there(fg_team *team, fg_batch *b, fg_err *err)
{
    fg_err why = {0}, here = {0};
    run(team, b, fg_hybrid_pass, &why);
    const fg_status there = b->status;
    if (there != FG_OK && !b->begun) {
        const fg_status st = run_here(team, b, &here);
        if (st == FG_OK || st == FG_ECANCEL) {
            if (err != NULL && st != FG_OK) *err = here;
            return st;
        }
    }
    if (err != NULL && there != FG_OK) *err = why;
    return there;
}

fg_status fg_forward(fg_team *team, fg_batch *b, fg_err *err)
{
    b->shown = false;
    const fg_status st = b->device == NULL ? run_here(team, b, err) : run_there(team, b, err);
    if (st == FG_ECANCEL) return st;
    for (uint32_t i = 0; i < b->n_seq; i++) fg_state_advance(b->seq[i].st, b->seq[i].n);
    return st;
}
