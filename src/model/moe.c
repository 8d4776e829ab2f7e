/* SPDX-License-Identifier: MIT
 *
 * Mixture of experts [reference minimax-m1 2.4]: p = softmax(W_r m) over all experts; the n_used
 * best, divided by their sum, weigh  y_e = W2 (silu(W1 m) * (W3 m)).
 *
 * Tokens are gathered by expert, so that an expert's weights are read once for all its tokens; a
 * single decoded token is the same path with one row for each expert.
 */
#include <math.h>
#include <string.h>

#include "src/model/forward.h"

/* Router logits of token t by one worker. */
static void router_logits(const fg_batch *b, const fg_matrix *r, uint64_t t)
{
    fg_multiply_panels(r, &b->s->n, t, 1, &b->s->router, 0, r->n_panel);
}

/* The same split over the workers: each superblock's chain alone, then the sum in order, which is
 * what the panel kernel does (kernels.h), so the bits are equal. */
static void router_logits_split(fg_worker *w, const fg_batch *b, const fg_matrix *r)
{
    fg_scratch *s = b->s;
    const uint64_t n = r->n_panel * r->n_sb, sb_bytes = fg_qtype_get(r->type)->sb_bytes;
    uint64_t begin, end;
    fg_worker_range(w, n, &begin, &end);
    for (uint64_t t = 0; t < b->n_tok; t++) {
        for (uint64_t i = begin; i < end; i++) {
            const uint64_t p = i / r->n_sb, k = i % r->n_sb;
            r->panel_fn(r->panels + p * r->panel_stride + k * sb_bytes, NULL, NULL,
                        s->n.f + t * s->n.f_stride + k * FG_SB_COLS, 0, 1, 1,
                        s->chains + (t * n + i) * FG_PANEL_ROWS, 0);
        }
    }
    fg_worker_sync(w);
    if (w->idx != 0) return;
    for (uint64_t t = 0; t < b->n_tok; t++) {
        for (uint64_t row = 0; row < r->n_panel * FG_PANEL_ROWS; row++) {
            const float *c = s->chains + (t * n + row / FG_PANEL_ROWS * r->n_sb) * FG_PANEL_ROWS +
                             row % FG_PANEL_ROWS;
            float acc = 0.0f;
            for (uint64_t k = 0; k < r->n_sb; k++) acc = acc + c[k * FG_PANEL_ROWS];
            s->router.f[t * s->router.f_stride + row] = acc;
        }
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
            if (p[e] > most) { /* ties go to the lower index; the reference leaves them open */
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
static void sort_by_expert(const fg_batch *b)
{
    const fg_shape *shape = b->m->shape;
    fg_scratch *s = b->s;
    const uint64_t n = (uint64_t)b->n_tok * shape->n_used;
    memset(s->first, 0, ((size_t)shape->n_expert + 1) * sizeof *s->first);
    for (uint64_t i = 0; i < n; i++) s->first[s->sel[i] + 1]++;
    s->n_active = 0;
    for (uint32_t e = 0; e < shape->n_expert; e++) {
        if (s->first[e + 1] != 0) s->active[s->n_active++] = e;
        s->first[e + 1] += s->first[e];
    }
    for (uint64_t i = 0; i < n; i++) s->row_of[i] = s->first[s->sel[i]]++;
    for (uint32_t e = shape->n_expert; e > 0; e--) s->first[e] = s->first[e - 1];
    s->first[0] = 0;
}

/* Copies the inputs of (token, slot) pairs begin .. end-1 to their places in the sorted order. */
static void gather(const fg_batch *b, const fg_layer *y, uint64_t begin, uint64_t end)
{
    fg_scratch *s = b->s;
    const fg_acts *n = &s->n;
    for (uint64_t i = begin; i < end; i++) {
        const fg_expert *x = &y->experts[s->sel[i]];
        const uint64_t t = i / b->m->shape->n_used, row = s->row_of[i];
        if (x->gate.quantized || x->up.quantized) {
            memcpy(s->xs.q + row * s->xs.q_stride, n->q + t * n->q_stride,
                   n->q_stride * sizeof(fg_act128));
        }
        if (!x->gate.quantized || !x->up.quantized) {
            memcpy(s->xs.f + row * s->xs.f_stride, n->f + t * n->f_stride,
                   n->f_stride * sizeof(float));
        }
    }
}

void fg_route(fg_worker *w, fg_batch *b, uint32_t l)
{
    const fg_layer *y = &b->m->layers[l];
    const uint64_t n_row = (uint64_t)b->n_tok * b->m->shape->n_used;
    uint64_t begin, end;
    if (w->n > 1 && b->n_tok < w->n && b->n_tok <= FG_FEW_TOKENS) {
        fg_worker_sync(w); /* n is complete */
        router_logits_split(w, b, &y->router);
        for (uint64_t t = 0; w->idx == 0 && t < b->n_tok; t++) select_experts(b, t);
    } else {
        fg_worker_range(w, b->n_tok, &begin, &end);
        for (uint64_t t = begin; t < end; t++) {
            router_logits(b, &y->router, t);
            select_experts(b, t);
        }
        if (b->n_tok > 1) fg_worker_sync(w);
    }
    if (w->idx == 0) {
        if (b->taps != NULL && b->taps->experts != NULL) {
            b->taps->experts(b->taps->ctx, l, b->st->pos, b->n_tok, b->s->sel, b->s->sel_w);
        }
        sort_by_expert(b);
        if (n_row <= FG_FEW_TOKENS) gather(b, y, 0, n_row);
    }
    fg_worker_sync(w);
    if (n_row > FG_FEW_TOKENS) {
        fg_worker_range(w, n_row, &begin, &end);
        gather(b, y, begin, end);
        fg_worker_sync(w);
    }
    fg_mark(w, b, FG_PHASE_ROUTER);
}

/* h = silu(W1 x) * (W3 x) for panels begin .. end-1 of expert e, some at a time: enough columns
 * for silu to run at speed, few enough to be in the cache still. */
static void gate_up_panels(const fg_batch *b, const fg_expert *x, uint32_t e, uint64_t begin,
                           uint64_t end)
{
    fg_scratch *s = b->s;
    const uint64_t r0 = s->first[e], n = s->first[e + 1] - r0;
    /* gate and up panels alternate in the file: a single token reads them as one stream */
    const uint64_t step = n < 4 ? 1 : 4;
    for (uint64_t p = begin; p < end; p += step) {
        const uint64_t last = end - p < step ? end : p + step;
        const size_t col = (size_t)p * FG_PANEL_ROWS, width = (size_t)(last - p) * FG_PANEL_ROWS;
        fg_multiply_panels(&x->gate, &s->xs, r0, n, &s->g, p, last);
        fg_multiply_panels(&x->up, &s->xs, r0, n, &s->up, p, last);
        for (uint64_t r = r0; r < r0 + n; r++) {
            b->m->k.silu_mul(s->g.f + r * s->g.f_stride + col, s->up.f + r * s->up.f_stride + col,
                             width, s->h.f + r * s->h.f_stride + col);
        }
    }
}

/* Cuts taken items (expert-major panels) into runs of one expert. */
static uint64_t run_end(uint64_t i, uint64_t end, uint64_t n_panel)
{
    const uint64_t next = (i / n_panel + 1) * n_panel;
    return next < end ? next : end;
}

void fg_moe(fg_worker *w, fg_batch *b, uint32_t l)
{
    const fg_layer *y = &b->m->layers[l];
    const fg_shape *shape = b->m->shape;
    fg_scratch *s = b->s;
    const uint64_t n_row = (uint64_t)b->n_tok * shape->n_used;
    const uint64_t n_up = fg_n_panel(shape->d_ff), n_down = fg_n_panel(shape->d_model);
    uint64_t begin, end;

    while (fg_worker_take(w, s->n_active * n_up, &begin, &end)) {
        for (uint64_t i = begin, next; i < end; i = next) {
            const uint32_t e = s->active[i / n_up];
            next = run_end(i, end, n_up);
            gate_up_panels(b, &y->experts[e], e, i % n_up, i % n_up + next - i);
        }
    }
    fg_worker_sync(w);

    if (b->m->quantized) {
        fg_worker_range(w, n_row, &begin, &end);
        for (uint64_t r = begin; r < end; r++) fg_acts_quantize(&b->m->k, &s->h, r);
        fg_worker_sync(w);
    }
    while (fg_worker_take(w, s->n_active * n_down, &begin, &end)) {
        for (uint64_t i = begin, next; i < end; i = next) {
            const uint32_t e = s->active[i / n_down];
            const uint64_t p = i % n_down, r0 = s->first[e];
            next = run_end(i, end, n_down);
            fg_multiply_panels(&y->experts[e].down, &s->h, r0, s->first[e + 1] - r0, &s->y, p,
                               p + next - i);
        }
    }
    fg_worker_sync(w);
    fg_mark(w, b, FG_PHASE_EXPERTS);
}
