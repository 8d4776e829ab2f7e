/* SPDX-License-Identifier: MIT
 *
 * The pass of a batch whose dense parts a device does (device.h): worker 0 speaks to it, all
 * workers do the experts that it leaves to the host.  What a layer is says stages.c; here is who
 * does which of it.
 */
#include "src/base/clock.h"
#include "src/model/device.h"

/* Rows that each expert of a layer has. */
static void count_rows(const fg_batch *b, uint32_t *n_row)
{
    const uint64_t n = (uint64_t)b->n_tok * b->m->shape->n_used;
    for (uint32_t e = 0; e < b->m->shape->n_expert; e++) n_row[e] = 0;
    for (uint64_t i = 0; i < n; i++) n_row[b->s->sel[i]]++;
}

/* Worker 0: waits for the routing, and shares the experts out between the device and the host. */
static void await_routing(const fg_worker *w, fg_batch *b, uint32_t l)
{
    uint32_t n_row[FG_MAX_EXPERT];
    bool mine[FG_MAX_EXPERT];
    fg_device *d = b->device;
    b->layer = l;
    fg_mark_phase(w, b, FG_PHASE_NORM);
    b->status = d->ops->routed(d, l, b->err);
    fg_mark_phase(w, b, FG_PHASE_ATTN_MATMUL);
    fg_poll(w, b);
    if (b->status != FG_OK) return;
    count_rows(b, n_row);
    d->ops->take(d, l, n_row, mine);
    fg_route_begin(b, l, mine);
}

/* The experts of the host, and worker 0 hands their outputs over.  b->status is read after the
 * first barrier and written, by worker 0, after a later one. */
static bool layer(fg_worker *w, fg_batch *b, uint32_t l)
{
    fg_device *d = b->device;
    const uint64_t n_row = (uint64_t)b->n_tok * b->m->shape->n_used;
    if (w->idx == 0 && b->status == FG_OK) await_routing(w, b, l);
    (b->n_tok <= FG_FEW_TOKENS ? fg_worker_sync_patient : fg_worker_sync)(w);
    if (b->status != FG_OK) return false;
    const uint32_t n_active = b->s->n_active; /* the next layer's from the next barrier on */
    const fg_status started = w->idx == 0 ? d->ops->start(d, l, b->err) : FG_OK;
    if (n_active > 0 && n_row > FG_FEW_TOKENS) {
        uint64_t begin, end;
        fg_worker_range(w, n_row, &begin, &end);
        fg_route_gather(b, l, begin, end);
    }
    fg_worker_sync(w);
    fg_mark_phase(w, b, FG_PHASE_ROUTER);
    if (n_active > 0) fg_moe(w, b, l);
    if (w->idx != 0) return true;
    if (n_active == 0) fg_moe_none(w, b, l);
    if (b->status == FG_OK) b->status = started;
    const fg_status done = d->ops->done(d, l, b->status, b->err);
    if (b->status == FG_OK) b->status = done;
    return true;
}

static bool wants_hidden(const fg_batch *b)
{
    for (uint32_t i = 0; i < b->n_seq; i++) {
        const fg_taps *t = b->seq[i].taps;
        if (t != NULL && t->hidden != NULL) return true;
    }
    return false;
}

/* Worker 0: logits of all rows that want them. */
static void head(const fg_worker *w, fg_batch *b)
{
    fg_device *d = b->device;
    uint32_t rows[FG_LOGIT_ROWS];
    uint64_t t = 0;
    for (uint64_t n; (n = fg_wanted_rows(b, &t, rows, FG_LOGIT_ROWS)) > 0;) {
        b->status = d->ops->logits(d, rows, (uint32_t)n, b->err);
        if (b->status != FG_OK) return;
        fg_give_logits(b, rows, n);
    }
    fg_mark_phase(w, b, FG_PHASE_HEAD);
}

void fg_hybrid_pass(fg_worker *w, void *batch)
{
    fg_batch *b = batch;
    fg_device *d = b->device;
    if (w->idx == 0 && b->profile != NULL) b->profile->last_ns = fg_clock_ns();
    fg_embed(w, b);
    fg_worker_sync(w);
    fg_mark_phase(w, b, FG_PHASE_EMBED);
    fg_tap_hidden(w, b, -1);
    if (w->idx == 0) {
        b->shown = true;
        b->status = d->ops->begin(d, b, b->err);
        b->begun = b->status == FG_OK;
    }
    const bool shows = w->idx == 0 && wants_hidden(b);
    bool whole = true; /* no layer was left out */
    for (uint32_t l = 0; l < b->m->shape->n_layer && whole; l++) {
        whole = layer(w, b, l);
        if (!shows || !whole || b->status != FG_OK) continue;
        b->status = d->ops->hidden(d, b->err);
        if (b->status == FG_OK) fg_tap_hidden(w, b, (int32_t)l);
    }
    if (w->idx != 0) return;
    if (b->status == FG_OK) head(w, b);
    const fg_status ended = d->ops->end(d, b->status == FG_OK ? b->err : NULL);
    if (b->status == FG_OK) b->status = ended;
}
