/* SPDX-License-Identifier: MIT
 *
 * The router [MODEL.md (20), (21); looking ahead (24)]: p = softmax(W_r m) over all experts; the
 * n_used best, divided by their sum, are the weights of the experts' outputs.  Rows are gathered by
 * expert here, so that an expert's weights are read once for all its rows.
 */
#include <math.h>
#include <string.h>

#include "src/model/stages.h"

/* Router logits of token t by one worker, from what its node has. */
static void router_logits(const fg_batch *b, const fg_matrix *r, uint64_t t, uint32_t node)
{
    const fg_panel_run run = fg_weights_run(b->m->weights, r, FG_NO_LAYER, node);
    fg_multiply_panels(r, &run, &b->s->n, t, 1, b->s->router.f + t * b->s->router.f_stride,
                       b->s->router.f_stride, 0, r->n_panel);
}

/* The same split over the workers: each superblock's chain alone, then the sum in order, which is
 * what the panel kernel does (kernels.h), so the bits are equal. */
static void router_logits_split(fg_worker *w, const fg_batch *b, const fg_matrix *r)
{
    fg_scratch *s = b->s;
    const fg_acts *in = &fg_own_rows(w, b)->n;
    const uint64_t n = r->n_panel * r->n_sb, sb_bytes = fg_qtype_get(r->type)->sb_bytes;
    uint64_t begin, end;
    const fg_panel_run run = fg_weights_run(b->m->weights, r, FG_NO_LAYER, w->node);
    fg_worker_range(w, n, &begin, &end);
    for (uint64_t t = 0; t < b->n_tok; t++) {
        for (uint64_t i = begin; i < end; i++) {
            const uint64_t p = i / r->n_sb, k = i % r->n_sb;
            r->panel_fn(run.panels + p * r->panel_stride + k * sb_bytes, NULL, NULL,
                        in->f + t * in->f_stride + k * FG_SB_COLS, 0, 1, 1,
                        s->chains + (t * n + i) * FG_PANEL_ROWS, 0);
        }
    }
    fg_worker_sync(w);
    if (w->idx != 0) return;
    for (uint64_t i = 0; i < b->n_tok * r->n_panel; i++) {
        float acc[FG_PANEL_ROWS] = {0}; /* rows side by side: a chain alone waits for itself */
        for (uint64_t k = 0; k < r->n_sb; k++) {
            const float *c = s->chains + (i * r->n_sb + k) * FG_PANEL_ROWS;
            for (int row = 0; row < FG_PANEL_ROWS; row++) acc[row] = acc[row] + c[row];
        }
        const uint64_t t = i / r->n_panel, p = i % r->n_panel;
        memcpy(s->router.f + t * s->router.f_stride + p * FG_PANEL_ROWS, acc, sizeof acc);
    }
}

/* The n_used best experts of token t and their weights, from its router logits. */
static void select_experts(const fg_batch *b, uint64_t t)
{
    const fg_shape *shape = b->m->shape;
    fg_scratch *s = b->s;
    float *p = s->router.f + t * s->router.f_stride;
    (void)b->m->k.softmax_num(p, shape->n_expert); /* the denominator cancels below */
    uint32_t *sel = s->sel + t * shape->n_used;
    float *weight = s->sel_w + t * shape->n_used, sum = 0.0f;
    for (uint32_t i = 0; i < shape->n_used; i++) {
        uint32_t best = 0;
        float most = -INFINITY; /* below every probability; taken experts are set to it */
        for (uint32_t e = 0; e < shape->n_expert; e++) {
            if (p[e] > most) { /* ties go to the lower index [MODEL.md (21)] */
                most = p[e];
                best = e;
            }
        }
        sel[i] = best; /* NaN everywhere: expert 0, and the NaN weight shows in the logits */
        weight[i] = p[best];
        sum += p[best];
        p[best] = -INFINITY;
    }
    for (uint32_t i = 0; i < shape->n_used; i++) weight[i] /= sum;
}

/* Counting sort of (token, slot) by expert; stable, so the order is a function of the routing. */
static void sort_by_expert(const fg_batch *b, const bool *mine)
{
    const fg_shape *shape = b->m->shape;
    fg_scratch *s = b->s;
    const uint64_t n = (uint64_t)b->n_tok * shape->n_used;
    memset(s->first, 0, ((size_t)shape->n_expert + 1) * sizeof *s->first);
    for (uint64_t i = 0; i < n; i++) s->first[s->sel[i] + 1]++;
    s->n_active = 0;
    for (uint32_t e = 0; e < shape->n_expert; e++) {
        if (s->first[e + 1] != 0 && (mine == NULL || !mine[e])) s->active[s->n_active++] = e;
        s->first[e + 1] += s->first[e];
    }
    for (uint64_t i = 0; i < n; i++) {
        s->row_of[i] = s->first[s->sel[i]]++;
        if (mine != NULL && mine[s->sel[i]]) s->row_of[i] |= FG_ROW_ELSEWHERE;
    }
    for (uint32_t e = shape->n_expert; e > 0; e--) s->first[e] = s->first[e - 1];
    s->first[0] = 0;
}

void fg_route_gather(const fg_batch *b, uint32_t l, uint64_t begin, uint64_t end)
{
    const fg_layer *y = &b->m->layers[l];
    fg_scratch *s = b->s;
    const fg_acts *n = &s->n;
    for (uint64_t i = begin; i < end; i++) {
        if ((s->row_of[i] & FG_ROW_ELSEWHERE) != 0) continue;
        const fg_expert *x = &y->experts[s->sel[i]];
        const uint64_t t = i / b->m->shape->n_used, row = s->row_of[i];
        const uint64_t n_row = s->first[s->sel[i] + 1] - s->first[s->sel[i]];
        if (x->gate.rotated) { /* and up, as the file format demands */
            fg_acts_copy(&s->xs, row, n, t, true, n_row);
            continue;
        }
        if (x->gate.quantized || x->up.quantized) fg_acts_copy(&s->xs, row, n, t, false, n_row);
        if (!x->gate.quantized || !x->up.quantized) {
            memcpy(s->xs.f + row * s->xs.f_stride, n->f + t * n->f_stride,
                   n->f_stride * sizeof(float));
        }
    }
}

/* Shows each sequence's rows to its observer. */
static void tap_experts(const fg_batch *b, uint32_t l)
{
    const uint32_t n_used = b->m->shape->n_used;
    for (uint32_t i = 0; i < b->n_seq; i++) {
        const fg_seq *q = &b->seq[i];
        if (q->taps == NULL || q->taps->experts == NULL) continue;
        const size_t at = (size_t)q->first * n_used;
        q->taps->experts(q->taps->ctx, l, q->st->pos, q->n, b->s->sel + at, b->s->sel_w + at);
    }
}

void fg_route_begin(fg_batch *b, uint32_t l, const bool *mine)
{
    const uint64_t n_row = (uint64_t)b->n_tok * b->m->shape->n_used;
    tap_experts(b, l);
    sort_by_expert(b, mine);
    fg_weights_begin(b->m->weights, l, b->s->active, b->s->n_active);
    b->s->n_wave = fg_weights_wave(b->m->weights);
    if (n_row <= FG_FEW_TOKENS) fg_route_gather(b, l, 0, n_row);
}

void fg_route(fg_worker *w, fg_batch *b, uint32_t l)
{
    const fg_layer *y = &b->m->layers[l];
    const uint64_t n_row = (uint64_t)b->n_tok * b->m->shape->n_used;
    uint64_t begin, end;
    if (w->n > 1 && b->n_tok < w->n && b->n_tok <= FG_FEW_TOKENS) {
        if (!fg_each(w, b)) fg_worker_sync(w); /* n is complete */
        router_logits_split(w, b, &y->router);
        for (uint64_t t = 0; w->idx == 0 && t < b->n_tok; t++) select_experts(b, t);
    } else {
        fg_worker_range(w, b->n_tok, &begin, &end);
        for (uint64_t t = begin; t < end; t++) {
            router_logits(b, &y->router, t, w->node);
            select_experts(b, t);
        }
        if (b->n_tok > 1) fg_worker_sync(w);
    }
    if (w->idx == 0) fg_route_begin(b, l, NULL);
    fg_worker_sync(w);
    if (n_row > FG_FEW_TOKENS) {
        fg_worker_range(w, n_row, &begin, &end);
        fg_route_gather(b, l, begin, end);
        fg_worker_sync(w);
    }
    fg_mark_phase(w, b, FG_PHASE_ROUTER);
}

/* ---- looking ahead ---- */

/* The k best of n, best first; ties go to the lower index. */
static void best_of(const float *p, uint32_t n, uint32_t *ids, uint32_t k)
{
    uint32_t m = 0;
    for (uint32_t e = 0; e < n; e++) {
        uint32_t at = m;
        while (at > 0 && p[ids[at - 1]] < p[e]) at--;
        if (at >= k) continue;
        if (m < k) m++;
        memmove(ids + at + 1, ids + at, (m - 1 - at) * sizeof *ids);
        ids[at] = e;
    }
}

/* What the routers of the next `most` layers make of the single token's state, as if the layers
 * between added nothing to it: with postnorm the residual is normed by each sub-layer. */
static void guess_ahead(const fg_batch *b, uint32_t l, uint32_t most, fg_guess *g)
{
    const fg_shape *shape = b->m->shape;
    fg_scratch *s = b->s;
    const uint32_t width = shape->n_expert < FG_PREDICT_WIDTH ? shape->n_expert : FG_PREDICT_WIDTH;
    const size_t d = shape->d_model;
    float *in = s->ahead.f, *state = s->ahead.f + s->ahead.f_stride;
    memcpy(state, shape->postnorm ? s->n.f : s->x.f, d * sizeof *state);
    for (g->n_ahead = 0; g->n_ahead < most; g->n_ahead++) {
        const uint32_t to = l + 1 + g->n_ahead;
        if (to >= shape->n_layer) return;
        const fg_layer *y = &b->m->layers[to];
        if (shape->postnorm) {
            b->m->k.rmsnorm(state, y->attn_norm, d, (float)shape->norm_eps, state);
        }
        b->m->k.rmsnorm(state, y->mlp_norm, d, (float)shape->norm_eps, in);
        if (shape->postnorm) memcpy(state, in, d * sizeof *state);
        const fg_panel_run run = fg_weights_run(b->m->weights, &y->router, FG_NO_LAYER, 0);
        fg_multiply_panels(&y->router, &run, &s->ahead, 0, 1, s->router.f, s->router.f_stride, 0,
                           y->router.n_panel);
        best_of(s->router.f, shape->n_expert, g->id[g->n_ahead], width);
    }
}

void fg_look_ahead(const fg_batch *b, uint32_t l)
{
    const fg_taps *taps = b->seq[0].taps;
    const bool tap = taps != NULL && taps->guesses != NULL;
    uint32_t most = 0;
    if (b->n_tok == 1) most = tap ? FG_PREDICT_AHEAD : fg_weights_guess_layers(b->m->weights);
    fg_guess g;
    const fg_guess *guess = most == 0 ? NULL : &g;
    if (guess != NULL) guess_ahead(b, l, most, &g);
    if (tap && guess != NULL) taps->guesses(taps->ctx, l, b->seq[0].st->pos, guess);
    fg_weights_hint(b->m->weights, b->s->sel, b->n_tok, guess);
}
