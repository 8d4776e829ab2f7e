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
        if (x->gate.rotated) { /* and up, as the file format demands */
            memcpy(s->xs.rot + row * s->xs.q_stride, n->rot + t * n->q_stride,
                   n->q_stride * sizeof(fg_act128));
            continue;
        }
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

/* ---- the experts ----
 *
 * In waves: all of the layer's at once from the mapping, a few at a time from a store.  A wave is
 * ids[0 .. n-1]; each expert has its own rows, so the order of experts changes nothing. */

typedef struct wave {
    const uint32_t *ids;
    uint32_t n;
    fg_store *store; /* NULL: the mapping */
} wave;

static void rebase(fg_matrix *m, const uint8_t *from, const uint8_t *to)
{
    m->panels = to + (m->panels - from);
    if (m->scales != NULL) {
        const uint8_t *scales = (const uint8_t *)(const void *)m->scales;
        m->scales = (const float *)(const void *)(to + (scales - from));
    }
}

/* The expert with its weights where they are now.  *base: first byte of its extent. */
static fg_expert expert_at(const fg_batch *b, const wave *v, uint32_t l, uint32_t e,
                           const uint8_t **base)
{
    fg_expert x = b->m->layers[l].experts[e];
    if (v->store != NULL) {
        const uint8_t *from =
            fg_model_file_data(b->m->file, fg_model_file_expert_extent(b->m->file, l, e).offset);
        *base = fg_store_data(v->store, e);
        rebase(&x.gate, from, *base);
        rebase(&x.up, from, *base);
        rebase(&x.down, from, *base);
    }
    return x;
}

/* False when panels .. last-1 of m, and what the file has before them, could not be read. */
static bool arrived(const wave *v, uint32_t e, const fg_matrix *m, const uint8_t *base,
                    uint64_t last)
{
    if (v->store == NULL) return true;
    const uint8_t *end =
        m->panels + (last - 1) * m->panel_stride + fg_panel_bytes(m->type, m->n_col);
    return fg_store_wait(v->store, e, (uint64_t)(end - base));
}

/* h = silu(W1 x) * (W3 x) for panels begin .. end-1 of expert e, some at a time: enough columns
 * for silu to run at speed, few enough to be in the cache still. */
static void gate_up_panels(const fg_batch *b, const wave *v, uint32_t l, uint32_t e, uint64_t begin,
                           uint64_t end)
{
    fg_scratch *s = b->s;
    const uint8_t *base = NULL;
    const fg_expert x = expert_at(b, v, l, e, &base);
    const uint64_t r0 = s->first[e], n = s->first[e + 1] - r0;
    /* gate and up panels alternate in the file: a single token reads them as one stream */
    const uint64_t step = n < 4 ? 1 : 4;
    for (uint64_t p = begin; p < end; p += step) {
        const uint64_t last = end - p < step ? end : p + step;
        const size_t col = (size_t)p * FG_PANEL_ROWS, width = (size_t)(last - p) * FG_PANEL_ROWS;
        if (!arrived(v, e, &x.up, base, last)) return; /* the pass ends with this layer */
        fg_multiply_panels(&x.gate, &s->xs, r0, n, &s->g, p, last);
        fg_multiply_panels(&x.up, &s->xs, r0, n, &s->up, p, last);
        for (uint64_t r = r0; r < r0 + n; r++) {
            b->m->k.silu_mul(s->g.f + r * s->g.f_stride + col, s->up.f + r * s->up.f_stride + col,
                             width, s->h.f + r * s->h.f_stride + col);
        }
    }
}

/* Panels begin .. end-1 of expert e's y; from a store, what is there is not kept waiting for the
 * rest. */
static void down_panels(const fg_batch *b, const wave *v, uint32_t l, uint32_t e, uint64_t begin,
                        uint64_t end)
{
    fg_scratch *s = b->s;
    const uint8_t *base = NULL;
    const fg_expert x = expert_at(b, v, l, e, &base);
    const uint64_t r0 = s->first[e], n = s->first[e + 1] - r0;
    const uint64_t step = v->store == NULL ? end - begin : 8;
    for (uint64_t p = begin; p < end; p += step) {
        const uint64_t last = end - p < step ? end : p + step;
        if (!arrived(v, e, &x.down, base, last)) return;
        fg_multiply_panels(&x.down, &s->h, r0, n, &s->y, p, last);
    }
}

/* Cuts taken items (expert-major panels) into runs of one expert. */
static uint64_t run_end(uint64_t i, uint64_t end, uint64_t n_panel)
{
    const uint64_t next = (i / n_panel + 1) * n_panel;
    return next < end ? next : end;
}

/* This worker's share of the wave's rows of h. */
static void quantize_hidden(const fg_worker *w, const fg_batch *b, const wave *v)
{
    const fg_scratch *s = b->s;
    uint64_t n_row = 0, begin, end, row = 0; /* row: number within the wave */
    for (uint32_t i = 0; i < v->n; i++) n_row += s->first[v->ids[i] + 1] - s->first[v->ids[i]];
    fg_worker_range(w, n_row, &begin, &end);
    for (uint32_t i = 0; i < v->n; i++) {
        for (uint64_t r = s->first[v->ids[i]]; r < s->first[v->ids[i] + 1]; r++, row++) {
            if (row >= begin && row < end) fg_acts_quantize(&b->m->k, &s->h, r);
        }
    }
}

static void wave_hidden(fg_worker *w, const fg_batch *b, uint32_t l, const wave *v)
{
    const uint64_t n_up = fg_n_panel(b->m->shape->d_ff);
    uint64_t begin, end;
    while (fg_worker_take_items(w, v->n * n_up, &begin, &end)) {
        for (uint64_t i = begin, next; i < end; i = next) {
            next = run_end(i, end, n_up);
            gate_up_panels(b, v, l, v->ids[i / n_up], i % n_up, i % n_up + next - i);
        }
    }
    fg_worker_sync(w);
    if (b->m->quantized) {
        quantize_hidden(w, b, v);
        fg_worker_sync(w);
    }
}

static void wave_down(fg_worker *w, const fg_batch *b, uint32_t l, const wave *v)
{
    const uint64_t n_down = fg_n_panel(b->m->shape->d_model);
    uint64_t begin, end;
    while (fg_worker_take_items(w, v->n * n_down, &begin, &end)) {
        for (uint64_t i = begin, next; i < end; i = next) {
            next = run_end(i, end, n_down);
            down_panels(b, v, l, v->ids[i / n_down], i % n_down, i % n_down + next - i);
        }
    }
    fg_worker_sync(w);
}

void fg_moe_hidden(fg_worker *w, fg_batch *b, uint32_t l)
{
    const wave all = {b->s->active, b->s->n_active, NULL};
    wave_hidden(w, b, l, &all);
    fg_mark(w, b, FG_PHASE_EXPERTS);
}

void fg_moe_down(fg_worker *w, fg_batch *b, uint32_t l)
{
    const wave all = {b->s->active, b->s->n_active, NULL};
    wave_down(w, b, l, &all);
    fg_mark(w, b, FG_PHASE_EXPERTS);
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
        fg_multiply_panels(&y->router, &s->ahead, 0, 1, &s->router, 0, y->router.n_panel);
        best_of(s->router.f, shape->n_expert, g->id[g->n_ahead], width);
    }
}

/* Worker 0, while the others work on the last experts of layer l. */
static void look_ahead(const fg_batch *b, uint32_t l)
{
    fg_store *store = b->m->store;
    const bool tap = b->taps != NULL && b->taps->guesses != NULL;
    uint32_t most = 0;
    if (b->n_tok == 1 && tap) {
        most = FG_PREDICT_AHEAD;
    } else if (b->n_tok == 1 && store != NULL) {
        most = fg_store_guess_layers(store);
    }
    fg_guess g;
    const fg_guess *guess = most == 0 ? NULL : &g;
    if (guess != NULL) guess_ahead(b, l, most, &g);
    if (tap && guess != NULL) b->taps->guesses(b->taps->ctx, l, b->st->pos, guess);
    if (store != NULL) fg_store_hint(store, b->s->sel, b->n_tok, guess);
}

/* Worker 0 speaks to the store; s->n_wave is read by the others between two barriers. */
static void moe_streamed(fg_worker *w, fg_batch *b, uint32_t l)
{
    fg_scratch *s = b->s;
    fg_store *store = b->m->store;
    uint32_t done = 0;
    for (;;) {
        if (w->idx == 0) {
            if (done == 0) fg_store_begin_layer(store, l, s->active, s->n_active);
            s->n_wave = fg_store_next_wave(store);
        }
        fg_worker_sync(w);
        const wave v = {s->active + done, s->n_wave, store};
        if (v.n == 0) break;
        if (w->idx == 0 && done + v.n == s->n_active) look_ahead(b, l);
        wave_hidden(w, b, l, &v);
        wave_down(w, b, l, &v);
        done += v.n;
    }
    if (w->idx == 0) b->status = fg_store_end_layer(store, b->err);
    fg_mark(w, b, FG_PHASE_EXPERTS);
}

void fg_moe(fg_worker *w, fg_batch *b, uint32_t l)
{
    if (b->m->store != NULL) {
        moe_streamed(w, b, l);
        return;
    }
    if (w->idx == 0) look_ahead(b, l);
    fg_moe_hidden(w, b, l);
    fg_moe_down(w, b, l);
}
