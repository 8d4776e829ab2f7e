/* SPDX-License-Identifier: MIT
 *
 * The experts [MODEL.md (22), (23)]:  y_e = W2 (silu(W1 m) * (W3 m)).  Rows lie sorted by expert
 * (router.c); a single decoded token is the same path with one row for each expert.
 */
#include <stdatomic.h>
#include <string.h>

#include "src/model/stages.h"

/* In waves: all of the layer's experts at once where they are in memory, a few at a time where they
 * are read on demand.  A wave is ids[0 .. n-1]; each expert has its own rows, so the order of
 * experts changes nothing. */
typedef struct wave {
    const uint32_t *ids;
    uint32_t n;
    bool shown; /* somebody will look at the rows of h */
} wave;

/* Panels that make a superblock of the next product. */
enum { BLOCK = FG_SB_COLS / FG_PANEL_ROWS };

/* Panels p .. last-1, all of one block, of expert e's h are there: who has made the last of a block
 * quantizes it, while it is in the cache, so that nobody waits for whole rows. */
static void quantize_done(const fg_batch *b, const wave *v, const fg_work_piece *at, uint64_t p,
                          uint64_t last)
{
    const fg_scratch *s = b->s;
    const uint32_t e = v->ids[at->row];
    const uint64_t n_panel = fg_n_panel(b->m->shape->d_ff), i = p / BLOCK;
    const uint64_t end = (i + 1) * BLOCK, all = (end < n_panel ? end : n_panel) - i * BLOCK;
    const uint32_t n = (uint32_t)(last - p);
    _Atomic uint32_t *done = &s->h_done[at->row * s->h.q_stride + i];
    if (atomic_fetch_add_explicit(done, n, memory_order_acq_rel) + n != all) return;
    const uint64_t r0 = s->first[e], n_row = s->first[e + 1] - r0;
    for (uint64_t r = r0; r < r0 + n_row; r++) {
        fg_acts_quantize_block(&b->m->k, &s->h, r, i, s->h.f + r * s->h.f_stride + i * FG_SB_COLS,
                               n_row);
    }
}

/* h = silu(W1 x) * (W3 x) for some panels of an expert, a block at a time: what is made of it is in
 * the cache still when it is wanted, and gate and up never leave that of this worker. */
static void gate_up_panels(const fg_worker *w, fg_batch *b, uint32_t l, const wave *v,
                           const fg_work_piece *at)
{
    const uint32_t e = v->ids[at->row];
    const uint64_t end = at->end;
    fg_scratch *s = b->s;
    const fg_weights *weights = b->m->weights;
    const fg_expert *x = &b->m->layers[l].experts[e];
    const uint32_t node = fg_weights_from(weights, at->node, w->node);
    const fg_panel_run gate = fg_weights_run(weights, &x->gate, e, node);
    const fg_panel_run up = fg_weights_run(weights, &x->up, e, node);
    const uint64_t r0 = s->first[e], n = s->first[e + 1] - r0;
    float *g = s->gate_up + w->idx * s->gate_up_stride, *u = g + s->gate_up_stride / 2;
    /* gate and up panels alternate in the file: a single token reads them as one stream */
    const uint64_t step = n < 4 ? 1 : BLOCK;
    for (uint64_t p = at->begin, last; p < end && !fg_stopped(w, b); p = last) {
        last = (p / step + 1) * step < end ? (p / step + 1) * step : end;
        const size_t col = (size_t)p * FG_PANEL_ROWS, width = (size_t)(last - p) * FG_PANEL_ROWS;
        if (!fg_weights_wait(weights, &x->up, e, node, last))
            return; /* the pass ends with this layer */
        fg_multiply_panels(&x->gate, &gate, &s->xs, r0, n, g, FG_SB_COLS, p, last);
        fg_multiply_panels(&x->up, &up, &s->xs, r0, n, u, FG_SB_COLS, p, last);
        const bool whole = width == FG_SB_COLS && x->down.quantized && !v->shown;
        for (uint64_t r = 0; r < n; r++) {
            float *gr = g + r * FG_SB_COLS, *h = s->h.f + (r0 + r) * s->h.f_stride + col;
            b->m->k.silu_mul(gr, u + r * FG_SB_COLS, width, whole ? gr : h);
            if (whole) fg_acts_quantize_block(&b->m->k, &s->h, r0 + r, p / BLOCK, gr, n);
        }
        if (b->m->quantized && !whole) quantize_done(b, v, at, p, last);
    }
}

/* Panels begin .. end-1 of expert e's y. */
static void down_panels(const fg_worker *w, fg_batch *b, uint32_t l, const wave *v,
                        const fg_work_piece *at)
{
    const uint32_t e = v->ids[at->row];
    const uint64_t begin = at->begin, end = at->end;
    fg_scratch *s = b->s;
    const fg_weights *weights = b->m->weights;
    const fg_matrix *down = &b->m->layers[l].experts[e].down;
    const uint32_t node = fg_weights_from(weights, at->node, w->node);
    const fg_panel_run run = fg_weights_run(weights, down, e, node);
    const uint64_t r0 = s->first[e], n = s->first[e + 1] - r0;
    const uint64_t step = fg_stop_step(b, n, fg_weights_step(weights, end - begin));
    for (uint64_t p = begin; p < end && !fg_stopped(w, b); p += step) {
        const uint64_t last = end - p < step ? end : p + step;
        if (!fg_weights_wait(weights, down, e, node, last)) return;
        fg_multiply_panels(down, &run, &s->h, r0, n,
                           s->y.f + r0 * s->y.f_stride + p * FG_PANEL_ROWS, s->y.f_stride, p, last);
    }
}

typedef void panels_fn(const fg_worker *w, fg_batch *b, uint32_t l, const wave *v,
                       const fg_work_piece *at);

static const fg_matrix *gate_of(const fg_expert *x)
{
    return &x->gate;
}

static const fg_matrix *down_of(const fg_expert *x)
{
    return &x->down;
}

/* Panels of the wave's experts, each worker those that its node owns.  of: the matrix that is
 * cut. */
static void share_out(fg_worker *w, fg_batch *b, uint32_t l, const wave *v,
                      const fg_matrix *of(const fg_expert *), panels_fn *fn)
{
    fg_work_row row[FG_MAX_EXPERT];
    fg_share even;
    fg_work_piece at;
    const fg_work_list list = {row, v->n, false};
    for (uint32_t i = 0; i < v->n; i++) {
        const fg_matrix *m = of(&b->m->layers[l].experts[v->ids[i]]);
        row[i] = (fg_work_row){v->ids[i], fg_weights_share(b->m->weights, m)};
        if (row[i].share != NULL) continue;
        if (i == 0) {
            fg_place_share(fg_team_place(w->team), m->n_panel, fg_panel_group(m->panel_stride),
                           &even);
        }
        row[i].share = &even;
    }
    while (fg_worker_take(w, &list, &at)) fn(w, b, l, v, &at);
    fg_worker_sync(w);
}

static void wave_hidden(fg_worker *w, fg_batch *b, uint32_t l, const wave *v)
{
    fg_scratch *s = b->s;
    share_out(w, b, l, v, gate_of, gate_up_panels);
    /* for the next wave, who is behind the barrier that ends this one */
    if (w->idx == 0) memset((void *)s->h_done, 0, v->n * s->h.q_stride * sizeof *s->h_done);
}

static void wave_down(fg_worker *w, fg_batch *b, uint32_t l, const wave *v)
{
    share_out(w, b, l, v, down_of, down_panels);
}

void fg_moe_hidden(fg_worker *w, fg_batch *b, uint32_t l)
{
    const wave all = {b->s->active, b->s->n_active, true};
    wave_hidden(w, b, l, &all);
    fg_mark_phase(w, b, FG_PHASE_EXPERTS);
}

void fg_moe_down(fg_worker *w, fg_batch *b, uint32_t l)
{
    const wave all = {b->s->active, b->s->n_active, true};
    wave_down(w, b, l, &all);
    fg_mark_phase(w, b, FG_PHASE_EXPERTS);
}

static void end_layer(const fg_worker *w, fg_batch *b)
{
    const fg_status st = fg_weights_end(b->m->weights, b->err);
    if (st != FG_OK) b->status = st;
    fg_poll(w, b);
}

/* Worker 0 speaks to the weights; s->n_wave is read by the others after a barrier: that of
 * fg_route, which began the first wave, or the one below. */
void fg_moe(fg_worker *w, fg_batch *b, uint32_t l)
{
    fg_scratch *s = b->s;
    fg_weights *weights = b->m->weights;
    const uint32_t n_active = s->n_active; /* after the last barrier worker 0 may write it */
    uint32_t done = 0;
    for (;;) {
        const wave v = {s->active + done, s->n_wave, false};
        if (v.n == 0) break; /* stopped */
        done += v.n;
        if (w->idx == 0 && done == n_active) fg_look_ahead(b, l);
        wave_hidden(w, b, l, &v);
        wave_down(w, b, l, &v);
        if (done == n_active) break;
        if (w->idx == 0) {
            fg_poll(w, b);
            s->n_wave = b->status == FG_OK ? fg_weights_wave(weights) : 0;
        }
        fg_worker_sync(w);
    }
    if (w->idx == 0) end_layer(w, b);
    fg_mark_phase(w, b, FG_PHASE_EXPERTS);
}

void fg_moe_none(const fg_worker *w, fg_batch *b, uint32_t l)
{
    fg_look_ahead(b, l);
    end_layer(w, b);
}
