/* SPDX-License-Identifier: MIT
 *
 * The network, top to bottom [reference minimax-m1 2.1]:
 *
 *     x = embed[token]
 *     for each layer:   n = RMSNorm(x)      h = alpha_attn r + beta_attn Attention(n)
 *                       m = RMSNorm(h)      x = alpha_mlp  r + beta_mlp  MoE(m)
 *     logits = lm_head RMSNorm(x)
 *
 * where the residual r is the normed input n (or m) when postnorm is set, as in the release, and
 * the un-normed x (or h) otherwise.
 */
#include "src/model/forward.h"

#include <string.h>

#include "src/base/clock.h"
#include "src/base/dmath.h"
#include "src/base/mem.h"

/* ---- scratch ---- */

/* Takes [n_row][width] rows from the mapping, or only measures when base is NULL. */
static fg_acts take_acts(uint8_t *base, uint64_t *used, uint64_t n_row, uint64_t width,
                         fg_forms forms)
{
    const uint64_t stride = fg_round_up(width, FG_SB_COLS);
    fg_acts a = {.f_stride = (size_t)stride, .q_stride = (size_t)(stride / FG_SB_COLS)};
    if (base != NULL) a.f = (float *)(void *)(base + *used);
    *used += fg_round_up(n_row * stride * sizeof(float), FG_PAGE_BYTES);
    const uint64_t q_bytes = fg_round_up(n_row * a.q_stride * sizeof(fg_act128), FG_PAGE_BYTES);
    if (forms.plain) {
        if (base != NULL) a.q = (fg_act128 *)(void *)(base + *used);
        *used += q_bytes;
    }
    if (forms.rotated) {
        if (base != NULL) a.rot = (fg_act128 *)(void *)(base + *used);
        *used += q_bytes;
    }
    return a;
}

static void *take_array(uint8_t *base, uint64_t *used, uint64_t n, uint64_t size)
{
    void *p = base == NULL ? NULL : base + *used;
    *used += fg_round_up(n * size, FG_PAGE_BYTES);
    return p;
}

static void lay_out(fg_scratch *s, const fg_model *m, uint64_t n_ctx, uint32_t n_thread,
                    uint8_t *base)
{
    const fg_shape *p = m->shape;
    const uint64_t T = s->n_batch, R = T * p->n_used, d = p->d_model;
    const uint64_t width = (uint64_t)p->n_head * p->d_head;
    const uint64_t group = p->n_head / p->n_kv_head;
    const fg_forms f32_only = {false, false};
    uint64_t used = 0;
    s->x = take_acts(base, &used, T, d, f32_only);
    s->n = take_acts(base, &used, T, d, m->in);
    s->u = take_acts(base, &used, T, width, m->attn_out);
    s->a = take_acts(base, &used, T, d, f32_only);
    s->qkv = take_acts(base, &used, T, 3 * width, f32_only);
    s->gate = take_acts(base, &used, T, width, f32_only);
    s->router = take_acts(base, &used, T, p->n_expert, f32_only);
    s->xs = take_acts(base, &used, R, d, m->expert_in);
    s->g = take_acts(base, &used, R, p->d_ff, f32_only);
    s->up = take_acts(base, &used, R, p->d_ff, f32_only);
    s->h = take_acts(base, &used, R, p->d_ff, m->hidden);
    s->y = take_acts(base, &used, R, d, f32_only);
    s->logits = take_acts(base, &used, FG_LOGIT_ROWS, p->n_vocab, f32_only);
    s->cos = take_array(base, &used, T * (p->d_rotary / 2), sizeof(float));
    s->sin = take_array(base, &used, T * (p->d_rotary / 2), sizeof(float));
    s->sel = take_array(base, &used, R, sizeof *s->sel);
    s->sel_w = take_array(base, &used, R, sizeof *s->sel_w);
    s->row_of = take_array(base, &used, R, sizeof *s->row_of);
    s->first = take_array(base, &used, (uint64_t)p->n_expert + 1, sizeof *s->first);
    s->active = take_array(base, &used, p->n_expert, sizeof *s->active);
    const uint64_t router = fg_n_panel(p->n_expert) * fg_n_sb(d) * FG_PANEL_ROWS;
    s->ahead = take_acts(base, &used, 2, d, f32_only);
    s->chains = take_array(base, &used, FG_FEW_TOKENS * router, sizeof(float));
    s->span_stride = (size_t)(fg_round_up(2 * group, 16) + group * p->d_head);
    s->attn_stride = 3 * s->span_stride; /* result, span, block */
    s->attn = take_array(base, &used, n_thread * s->attn_stride, sizeof(float));
    const uint64_t n_span = (n_ctx + FG_ATTN_SPAN - 1) / FG_ATTN_SPAN;
    s->spans = take_array(base, &used, p->n_kv_head * n_span * s->span_stride, sizeof(float));
    s->bytes = used;
}

uint64_t fg_scratch_bytes(const fg_model *m, uint64_t n_ctx, uint32_t n_batch, uint32_t n_thread)
{
    fg_scratch s = {.n_batch = n_batch};
    lay_out(&s, m, n_ctx, n_thread, NULL);
    return s.bytes;
}

fg_status fg_scratch_create(fg_scratch **out, const fg_model *m, uint64_t n_ctx, uint32_t n_batch,
                            uint32_t n_thread, fg_err *err)
{
    *out = NULL;
    if (n_batch < 1 || n_batch > FG_BATCH_MAX) {
        return fg_fail(err, FG_EINVAL, "batch: %u tokens, expected 1 to %d", n_batch, FG_BATCH_MAX);
    }
    fg_scratch *s = fg_mem_zalloc(sizeof *s);
    if (s == NULL) return fg_fail_nomem(err, "scratch");
    s->n_batch = n_batch;
    lay_out(s, m, n_ctx, n_thread, NULL);
    s->map = fg_mem_map((size_t)s->bytes);
    if (s->map == NULL) {
        const unsigned long long bytes = s->bytes;
        fg_scratch_destroy(&s);
        return fg_fail(err, FG_ENOMEM,
                       "scratch: no %llu bytes, expected memory; try a smaller batch", bytes);
    }
    lay_out(s, m, n_ctx, n_thread, s->map);
    *out = s;
    return FG_OK;
}

void fg_scratch_destroy(fg_scratch **s)
{
    if (*s == NULL) return;
    fg_mem_unmap((*s)->map, (size_t)(*s)->bytes);
    fg_mem_free(*s);
    *s = NULL;
}

/* ---- the pass ---- */

void fg_embed(const fg_worker *w, const fg_batch *b)
{
    const fg_model *m = b->m;
    const size_t half = m->shape->d_rotary / 2;
    uint64_t begin, end;
    fg_worker_range(w, b->n_tok, &begin, &end);
    for (uint64_t t = begin; t < end; t++) {
        fg_model_embed(m, b->ids[t], b->s->x.f + t * b->s->x.f_stride);
        for (size_t j = 0; j < half; j++) { /* angles in double: positions reach 10 M */
            double sin_x, cos_x;
            fg_sincos((double)(b->st->pos + t) * m->rope_freq[j], &sin_x, &cos_x);
            b->s->cos[t * half + j] = (float)cos_x;
            b->s->sin[t * half + j] = (float)sin_x;
        }
    }
}

void fg_norm_row(const fg_batch *b, const float *weight, uint64_t from, uint64_t to)
{
    const fg_shape *shape = b->m->shape;
    fg_scratch *s = b->s;
    b->m->k.rmsnorm(s->x.f + from * s->x.f_stride, weight, shape->d_model, (float)shape->norm_eps,
                    s->n.f + to * s->n.f_stride);
    fg_acts_quantize(&b->m->k, &s->n, to);
}

void fg_residual(const fg_batch *b, uint64_t t, float alpha, float beta)
{
    fg_scratch *s = b->s;
    float *x = s->x.f + t * s->x.f_stride;
    const float *r = b->m->shape->postnorm ? s->n.f + t * s->n.f_stride : x;
    b->m->k.axpby(alpha, r, beta, s->a.f + t * s->a.f_stride, b->m->shape->d_model, x);
}

/* a = sum of the experts' outputs of token t, best expert first. */
static void combine_experts(const fg_batch *b, uint64_t t)
{
    const fg_shape *shape = b->m->shape;
    fg_scratch *s = b->s;
    float *a = s->a.f + t * s->a.f_stride;
    memset(a, 0, shape->d_model * sizeof(float));
    for (uint64_t i = t * shape->n_used; i < (t + 1) * shape->n_used; i++) {
        b->m->k.axpy(s->sel_w[i], s->y.f + s->row_of[i] * s->y.f_stride, shape->d_model, a);
    }
}

/* Shows rows 0..n_tok-1 of x, tokens first.. of the batch, to the observer. */
static void tap_hidden(const fg_worker *w, const fg_batch *b, int32_t layer, uint64_t first,
                       uint64_t n_tok, const fg_acts *x)
{
    if (w->idx != 0 || b->taps == NULL || b->taps->hidden == NULL) return;
    b->taps->hidden(b->taps->ctx, layer, b->st->pos + first, n_tok, x->f, x->f_stride);
}

void fg_mark(const fg_worker *w, fg_batch *b, fg_phase phase)
{
    if (w->idx != 0 || b->profile == NULL) return;
    const uint64_t now = fg_clock_ns();
    b->profile->ns[phase] += now - b->profile->last_ns;
    b->profile->last_ns = now;
}

void fg_forward_layer(fg_worker *w, fg_batch *b, uint32_t l)
{
    const fg_layer *y = &b->m->layers[l];
    uint64_t begin, end;
    fg_worker_range(w, b->n_tok, &begin, &end);
    for (uint64_t t = begin; t < end; t++) fg_norm_row(b, y->attn_norm, t, t);
    fg_worker_sync(w);
    fg_mark(w, b, FG_PHASE_NORM);

    if (y->kind == FG_ATTN_LIGHTNING) {
        fg_lightning(w, b, l);
    } else {
        fg_softmax(w, b, l);
    }
    fg_attention_out(w, b, l);

    for (uint64_t t = begin; t < end; t++) {
        fg_residual(b, t, y->alpha_attn, y->beta_attn);
        fg_norm_row(b, y->mlp_norm, t, t);
    }
    fg_mark(w, b, FG_PHASE_NORM);
    fg_route(w, b, l);
    fg_moe(w, b, l);

    for (uint64_t t = begin; t < end; t++) {
        combine_experts(b, t);
        fg_residual(b, t, b->m->alpha_mlp, b->m->beta_mlp);
    }
}

/* Logits of tokens logits_from .. n_tok-1, FG_LOGIT_ROWS at a time. */
static void logits(fg_worker *w, fg_batch *b)
{
    fg_scratch *s = b->s;
    for (uint64_t t0 = b->logits_from; t0 < b->n_tok; t0 += FG_LOGIT_ROWS) {
        const uint64_t n = b->n_tok - t0 < FG_LOGIT_ROWS ? b->n_tok - t0 : FG_LOGIT_ROWS;
        uint64_t begin, end;
        fg_worker_range(w, n, &begin, &end);
        for (uint64_t i = begin; i < end; i++) fg_norm_row(b, b->m->final_norm, t0 + i, i);
        fg_worker_sync(w);
        const fg_product head = {&b->m->lm_head, &s->n, s->logits};
        fg_multiply(w, &head, 1, n);
        fg_worker_sync(w);
        if (w->idx == 0) {
            tap_hidden(w, b, (int32_t)b->m->shape->n_layer, t0, n, &s->n);
            for (uint64_t i = 0; b->on_logits != NULL && i < n; i++) {
                b->on_logits(b->on_logits_ctx, b->st->pos + t0 + i,
                             s->logits.f + i * s->logits.f_stride);
            }
        }
        fg_worker_sync(w);
        fg_mark(w, b, FG_PHASE_HEAD);
    }
}

static void pass(fg_worker *w, void *arg)
{
    fg_batch *b = arg;
    if (w->idx == 0 && b->profile != NULL) b->profile->last_ns = fg_clock_ns();
    fg_embed(w, b);
    fg_worker_sync(w);
    fg_mark(w, b, FG_PHASE_EMBED);
    tap_hidden(w, b, -1, 0, b->n_tok, &b->s->x);
    for (uint32_t l = 0; l < b->m->shape->n_layer; l++) {
        fg_forward_layer(w, b, l);
        fg_worker_sync(w);
        if (b->status != FG_OK) return; /* all workers see the same */
        tap_hidden(w, b, (int32_t)l, 0, b->n_tok, &b->s->x);
        /* the next layer only reads x until its first barrier */
    }
    logits(w, b);
}

fg_status fg_forward(fg_team *team, fg_batch *b, fg_err *err)
{
    b->status = FG_OK;
    b->err = err;
    fg_team_run(team, pass, b);
    b->st->pos += b->n_tok;
    return b->status;
}
