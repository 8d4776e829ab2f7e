/* SPDX-License-Identifier: MIT
 *
 * A layer, top to bottom [MODEL.md (2) to (5)]:
 *
 *     n = RMSNorm(x)      h = alpha_attn r + beta_attn Attention(n)
 *     m = RMSNorm(h)      x = alpha_mlp  r + beta_mlp  MoE(m)
 *
 * where the residual r is the normed input n (or m) when postnorm is set, as in the release, and
 * the un-normed x (or h) otherwise; before the layers  x = embed[token],  after them
 * logits = lm_head RMSNorm(x).
 */
#include "src/model/stages.h"

#include <string.h>

#include "src/base/clock.h"
#include "src/base/dmath.h"

void fg_embed(const fg_worker *w, const fg_batch *b)
{
    const fg_model *m = b->m;
    const size_t half = m->shape->d_rotary / 2;
    const fg_acts *x = &fg_own_rows(w, b)->x;
    uint64_t begin, end;
    fg_own_range(w, b, &begin, &end);
    for (uint64_t t = begin; t < end; t++) {
        uint64_t pos;
        (void)fg_batch_seq(b, t, &pos);
        fg_model_embed(m, b->ids[t], x->f + t * x->f_stride);
        if (fg_each(w, b) && w->idx != 0) return; /* angles are for all */
        for (size_t j = 0; j < half; j++) {       /* angles in double: positions reach 10 M */
            double sin_x, cos_x;
            fg_sincos((double)pos * m->rope_freq[j], &sin_x, &cos_x);
            b->s->cos[t * half + j] = (float)cos_x;
            b->s->sin[t * half + j] = (float)sin_x;
        }
    }
}

void fg_norm_row(const fg_worker *w, const fg_batch *b, const float *weight, uint64_t from,
                 uint64_t to)
{
    const fg_rows *rows = fg_own_rows(w, b);
    const fg_shape *shape = b->m->shape;
    b->m->k.rmsnorm(rows->x.f + from * rows->x.f_stride, weight, shape->d_model,
                    (float)shape->norm_eps, rows->n.f + to * rows->n.f_stride);
    fg_acts_quantize(&b->m->k, &rows->n, to, b->n_tok);
}

static void norm_rows(const fg_worker *w, fg_batch *b, const float *weight)
{
    uint64_t begin, end;
    fg_own_range(w, b, &begin, &end);
    for (uint64_t t = begin; t < end; t++) fg_norm_row(w, b, weight, t, t);
    fg_mark_phase(w, b, FG_PHASE_NORM);
}

/* x = alpha r + beta a. */
static void residual_rows(const fg_worker *w, const fg_batch *b, float alpha, float beta,
                          const fg_acts *a)
{
    const fg_rows *rows = fg_own_rows(w, b);
    uint64_t begin, end;
    fg_own_range(w, b, &begin, &end);
    for (uint64_t t = begin; t < end; t++) {
        float *x = rows->x.f + t * rows->x.f_stride;
        const float *r = b->m->shape->postnorm ? rows->n.f + t * rows->n.f_stride : x;
        b->m->k.axpby(alpha, r, beta, a->f + t * a->f_stride, b->m->shape->d_model, x);
    }
}

static void attention(fg_worker *w, fg_batch *b, uint32_t l)
{
    if (!fg_each(w, b)) fg_worker_sync(w);
    fg_mark_phase(w, b, FG_PHASE_NORM);
    switch (b->m->layers[l].kind) {
    case FG_ATTN_LIGHTNING: fg_lightning(w, b, l); break;
    case FG_ATTN_SOFTMAX: fg_softmax(w, b, l); break;
    }
}

static void attention_out(fg_worker *w, fg_batch *b, uint32_t l)
{
    const fg_layer *y = &b->m->layers[l];
    fg_acts u = fg_own_rows(w, b)->u;
    uint64_t begin, end;
    if (y->kind == FG_ATTN_SOFTMAX) u.f = b->s->u.f; /* as all of them left it */
    fg_own_range(w, b, &begin, &end);
    for (uint64_t t = begin; t < end; t++) fg_acts_quantize(&b->m->k, &u, t, b->n_tok);
    if (!fg_each(w, b)) fg_worker_sync(w);
    fg_mark_phase(w, b, FG_PHASE_NORM);
    const fg_product out = {&y->out, &u, b->s->a};
    fg_multiply(w, b->m->weights, b, &out, 1, b->n_tok);
    fg_poll(w, b);
    fg_worker_sync(w);
    fg_mark_phase(w, b, FG_PHASE_ATTN_MATMUL);
    residual_rows(w, b, y->alpha_attn, y->beta_attn, &b->s->a);
}

/* a = sum of the experts' outputs of each row, best expert first. */
static void combine(const fg_worker *w, const fg_batch *b)
{
    const fg_shape *shape = b->m->shape;
    const fg_scratch *s = b->s;
    const fg_acts *to = &fg_own_rows(w, b)->a;
    uint64_t begin, end;
    fg_own_range(w, b, &begin, &end);
    for (uint64_t t = begin; t < end; t++) {
        float *a = to->f + t * to->f_stride;
        memset(a, 0, shape->d_model * sizeof(float));
        for (uint64_t i = t * shape->n_used; i < (t + 1) * shape->n_used; i++) {
            b->m->k.axpy(s->sel_w[i], s->y.f + s->row_of[i] * s->y.f_stride, shape->d_model, a);
        }
    }
}

bool fg_stages(fg_worker *w, fg_batch *b, uint32_t l, fg_stage from, fg_stage last)
{
    const fg_model *m = b->m;
    if (w->idx == 0) b->layer = l;
    for (fg_stage s = from; s <= last; s++) {
        switch (s) {
        case FG_STAGE_ATTN_NORM: norm_rows(w, b, m->layers[l].attn_norm); break;
        case FG_STAGE_ATTN: attention(w, b, l); break;
        case FG_STAGE_ATTN_OUT:
            attention_out(w, b, l);
            if (b->status != FG_OK) return false; /* later worker 0 may write it again */
            break;
        case FG_STAGE_MLP_NORM: norm_rows(w, b, m->layers[l].mlp_norm); break;
        case FG_STAGE_ROUTE: fg_route(w, b, l); break;
        case FG_STAGE_HIDDEN:
            if (last > FG_STAGE_HIDDEN) {
                fg_moe(w, b, l);
                s = FG_STAGE_DOWN;
            } else {
                fg_moe_hidden(w, b, l);
            }
            break;
        case FG_STAGE_DOWN: fg_moe_down(w, b, l); break;
        case FG_STAGE_COMBINE: combine(w, b); break;
        case FG_STAGE_MLP_OUT:
            residual_rows(w, b, m->alpha_mlp, m->beta_mlp, &fg_own_rows(w, b)->a);
            break;
        case FG_STAGE_COUNT: break;
        }
    }
    return true;
}

uint64_t fg_wanted_rows(const fg_batch *b, uint64_t *t, uint32_t *rows, uint64_t most)
{
    uint64_t n = 0;
    for (; *t < b->n_tok && n < most; (*t)++) {
        uint64_t pos;
        const fg_seq *q = fg_batch_seq(b, *t, &pos);
        if (*t - q->first >= q->logits_from) rows[n++] = (uint32_t)*t;
    }
    return n;
}

void fg_give_logits(const fg_batch *b, const uint32_t *rows, uint64_t n)
{
    const fg_scratch *s = b->s;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t pos;
        const fg_seq *q = fg_batch_seq(b, rows[i], &pos);
        if (q->taps != NULL && q->taps->hidden != NULL) {
            q->taps->hidden(q->taps->ctx, (int32_t)b->m->shape->n_layer, pos, 1,
                            s->n.f + i * s->n.f_stride, s->n.f_stride);
        }
        if (q->on_logits != NULL) {
            q->on_logits(q->on_logits_ctx, pos, s->logits.f + i * s->logits.f_stride);
        }
    }
}

void fg_head(fg_worker *w, fg_batch *b)
{
    fg_scratch *s = b->s;
    uint32_t rows[FG_LOGIT_ROWS];
    uint64_t t = 0, begin, end;
    for (uint64_t n; (n = fg_wanted_rows(b, &t, rows, FG_LOGIT_ROWS)) > 0;) {
        fg_worker_range(w, n, &begin, &end);
        if (fg_each(w, b)) begin = 0, end = 1;
        for (uint64_t i = begin; i < end; i++) fg_norm_row(w, b, b->m->final_norm, rows[i], i);
        if (!fg_each(w, b)) fg_worker_sync(w);
        const fg_product head = {&b->m->lm_head, &fg_own_rows(w, b)->n, s->logits};
        fg_multiply(w, b->m->weights, NULL, &head, 1, n); /* rows may be given out */
        fg_worker_sync(w);
        if (w->idx == 0 && b->status == FG_OK) fg_give_logits(b, rows, n);
        fg_worker_sync(w);
        fg_mark_phase(w, b, FG_PHASE_HEAD);
    }
}

static void ask(fg_batch *b, uint64_t now)
{
    b->asked_ns = now;
    if (!b->go_on(b->go_on_ctx, b->layer)) b->stopped = true;
}

void fg_poll(const fg_worker *w, fg_batch *b)
{
    if (w->idx != 0 || b->go_on == NULL || b->status != FG_OK) return;
    if (!b->stopped) ask(b, fg_clock_ns());
    if (b->stopped) {
        b->status = fg_fail(b->err, FG_ECANCEL, "evaluation: stopped in layer %u, expected all %u",
                            b->layer, b->m->shape->n_layer);
    }
}

bool fg_stopped(const fg_worker *w, fg_batch *b)
{
    if (b == NULL || b->go_on == NULL) return false;
    if (w->idx == 0 && !b->stopped) {
        const uint64_t now = fg_clock_ns();
        if (now - b->asked_ns >= b->ask_ns) ask(b, now);
    }
    return b->stopped;
}

/* Whole groups of fg_multiply_panels at M1's widths, which are 2 or 3 panels, or 16 with a tile
 * unit. */
enum { STOP_PANELS = 16, FEW_ROWS = 16 };

uint64_t fg_stop_step(const fg_batch *b, uint64_t rows, uint64_t n_panel)
{
    const bool asks = b != NULL && b->go_on != NULL && rows > FEW_ROWS;
    return asks && n_panel > STOP_PANELS ? STOP_PANELS : n_panel;
}

const char *fg_phase_name(fg_phase phase)
{
    static const char *const name[] = {
#define PHASE_NAME(id, text) text,
        FG_PHASE_MAP(PHASE_NAME)
#undef PHASE_NAME
    };
    return name[phase];
}

void fg_mark_phase(const fg_worker *w, fg_batch *b, fg_phase phase)
{
    if (w->idx != 0 || b->profile == NULL) return;
    const uint64_t now = fg_clock_ns();
    b->profile->ns[phase] += now - b->profile->last_ns;
    b->profile->last_ns = now;
}
