/* SPDX-License-Identifier: MIT
 *
 * Softmax attention with grouped queries [MODEL.md (14) to (19)]: query head h uses key-value
 * head h / (n_head / n_kv_head); the first d_rotary dimensions of q and k are rotated (pairs j,
 * j + d_rotary/2); scale 1/sqrt(d_head); causal.
 *
 * The context is walked in blocks of FG_KV_BLOCK absolute positions; each block gives (max, sum,
 * weighted values); the blocks of a span of FG_ATTN_SPAN positions are merged in order, then the
 * spans, so that the result for a token depends on its position only, not on who computed what.
 */
#include <math.h>
#include <string.h>

#include "src/base/fp.h"
#include "src/model/stages.h"

/* q[d] = x / scale rounded to nearest even, scale = max|x| / 127.  A non-finite row gets a NaN
 * scale and zeros, on every machine alike. */
static float quantize_row(const float *x, size_t d, int8_t *q, size_t q_step)
{
    uint32_t max = 0;
    for (size_t i = 0; i < d; i++) {
        const uint32_t u = fg_f32_bits(x[i]) & 0x7fffffffu;
        if (u > max) max = u;
    }
    const float amax = fg_f32_from_bits(max);
    const float inverse = 127.0f / amax;
    const bool finite = max < 0x7f800000u, nonzero = max != 0 && isfinite(inverse);
    for (size_t i = 0; i < d; i++) {
        q[i * q_step] = finite && nonzero ? (int8_t)lrintf(x[i] * inverse) : 0;
    }
    return !finite ? (float)NAN : nonzero ? amax / 127.0f : 0.0f;
}

/* Rotates the heads of KV group g of token t, scales q, and stores k and v at position pos. */
static void store(const fg_batch *b, uint32_t l, uint64_t t, uint64_t g)
{
    const fg_shape *s = b->m->shape;
    const fg_kernels *k = &b->m->k;
    const size_t d = s->d_head, half = s->d_rotary / 2, group = s->n_head / s->n_kv_head;
    uint64_t pos;
    const fg_state *seq = fg_batch_seq(b, t, &pos)->st;
    const fg_state_cache to = fg_state_rows(seq, l, g, pos);
    float *row = b->s->qkv.f + t * b->s->qkv.f_stride;
    float *q = row + g * group * d;
    float *key = row + (s->n_head + g) * d, *val = row + (s->n_head + s->n_kv_head + g) * d;
    const float *cos_t = b->s->cos + t * half, *sin_t = b->s->sin + t * half;
    const float scale = 1.0f / sqrtf((float)d);
    for (size_t h = 0; h < group; h++) k->rope(q + h * d, cos_t, sin_t, half);
    for (size_t i = 0; i < group * d; i++) q[i] *= scale;
    k->rope(key, cos_t, sin_t, half);

    switch (seq->kv_type) {
    case FG_KV_INT8:
        *to.k_scale = quantize_row(key, d, to.k, 16);
        *to.v_scale = quantize_row(val, d, to.v, 1);
        break;
    case FG_KV_F16:
        for (size_t i = 0; i < d; i++) {
            ((uint16_t *)to.k)[i * 16] = fg_f32_to_f16(key[i]);
            ((uint16_t *)to.v)[i] = fg_f32_to_f16(val[i]);
        }
        break;
    case FG_KV_F32:
        for (size_t i = 0; i < d; i++) ((float *)to.k)[i * 16] = key[i];
        memcpy(to.v, val, d * sizeof(float));
        break;
    }
}

/* One span's result: (max, sum) of each head at ml, weighted values [group][d] at o. */
typedef struct partial {
    float *ml, *o;
} partial;

static partial partial_at(const fg_batch *b, float *p)
{
    const size_t group = b->m->shape->n_head / b->m->shape->n_kv_head;
    return (partial){p, p + b->s->span_stride - group * b->m->shape->d_head};
}

/* One head of the group. */
static void merge_head(const fg_batch *b, partial into, partial next, size_t h)
{
    const size_t d = b->m->shape->d_head;
    b->m->k.attn_merge(into.ml + 2 * h, into.o + h * d, next.ml + 2 * h, next.o + h * d, d);
}

static void merge(const fg_batch *b, partial into, partial next)
{
    const size_t group = b->m->shape->n_head / b->m->shape->n_kv_head;
    for (size_t h = 0; h < group; h++) merge_head(b, into, next, h);
}

/* Positions begin .. end-1 (one span) for the query heads of KV group g of token t, block by block
 * in order. */
static void fold_span(const fg_batch *b, const fg_state *seq, uint32_t l, uint64_t t, uint64_t g,
                      uint64_t begin, uint64_t end, partial out, partial block)
{
    const fg_shape *s = b->m->shape;
    const fg_kernels *k = &b->m->k;
    const size_t d = s->d_head, group = s->n_head / s->n_kv_head;
    const float *q = b->s->qkv.f + t * b->s->qkv.f_stride + g * group * d;
    for (uint64_t p = begin; p < end; p += FG_KV_BLOCK) {
        const size_t m = end - p < FG_KV_BLOCK ? (size_t)(end - p) : FG_KV_BLOCK;
        const fg_state_cache c = fg_state_rows(seq, l, g, p);
        const partial to = p == begin ? out : block;
        switch (seq->kv_type) {
        case FG_KV_INT8:
            k->attn_i8(q, group, d, m, c.k, c.k_scale, c.v, c.v_scale, to.ml, to.o);
            break;
        case FG_KV_F16: k->attn_f16(q, group, d, m, c.k, c.v, to.ml, to.o); break;
        case FG_KV_F32: k->attn_f32(q, group, d, m, c.k, c.v, to.ml, to.o); break;
        }
        if (p != begin) merge(b, out, block);
    }
}

/* u = values / sum of the weights, for one head of the group. */
static void finish_head(const fg_batch *b, uint64_t t, uint64_t g, partial p, size_t h)
{
    const fg_shape *s = b->m->shape;
    const size_t d = s->d_head, group = s->n_head / s->n_kv_head;
    float *u = b->s->u.f + t * b->s->u.f_stride + (g * group + h) * d;
    const float sum = p.ml[2 * h + 1];
    for (size_t i = 0; i < d; i++) u[i] = p.o[h * d + i] / sum;
}

static void finish(const fg_batch *b, uint64_t t, uint64_t g, partial p)
{
    const size_t group = b->m->shape->n_head / b->m->shape->n_kv_head;
    for (size_t h = 0; h < group; h++) finish_head(b, t, g, p, h);
}

/* All spans of one (token, KV group), merged in order, by one worker. */
static void attend(const fg_batch *b, uint32_t l, uint64_t t, uint64_t g, float *scratch)
{
    const size_t stride = b->s->span_stride;
    const partial all = partial_at(b, scratch), span = partial_at(b, scratch + stride),
                  block = partial_at(b, scratch + 2 * stride);
    uint64_t pos;
    const fg_state *seq = fg_batch_seq(b, t, &pos)->st;
    const uint64_t n = pos + 1;
    for (uint64_t p = 0; p < n; p += FG_ATTN_SPAN) {
        const uint64_t end = n - p < FG_ATTN_SPAN ? n : p + FG_ATTN_SPAN;
        fold_span(b, seq, l, t, g, p, end, p == 0 ? all : span, block);
        if (p != 0) merge(b, all, span);
    }
    finish(b, t, g, all);
}

/* A single token with a long context: the spans are shared out, each to the node that has it, then
 * the heads, whose spans are merged in the same order. */
static void attend_split(fg_worker *w, const fg_batch *b, uint32_t l, float *scratch)
{
    const fg_shape *s = b->m->shape;
    const fg_place *place = fg_team_place(w->team);
    const size_t stride = b->s->span_stride, group = s->n_head / s->n_kv_head;
    const fg_state *seq = b->seq[0].st;
    const uint64_t n = seq->pos + 1, n_span = (n + FG_ATTN_SPAN - 1) / FG_ATTN_SPAN;
    const partial block = partial_at(b, scratch);
    fg_share share; /* of (span, head)s, those of a node one after another */
    fg_place_share_dealt(place, n_span * s->n_kv_head, &share);
    const fg_work_row row = {0, &share};
    const fg_work_list list = {&row, 1, false};
    fg_work_piece at;
    while (fg_worker_take(w, &list, &at)) {
        for (uint64_t i = at.begin; i < at.end; i++) {
            const uint64_t item = fg_place_dealt(place, at.node, i - share.begin[at.node]);
            const uint64_t g = item % s->n_kv_head, p = item / s->n_kv_head * FG_ATTN_SPAN;
            float *to = b->s->spans + (g * n_span + item / s->n_kv_head) * stride;
            fold_span(b, seq, l, 0, g, p, n - p < FG_ATTN_SPAN ? n : p + FG_ATTN_SPAN,
                      partial_at(b, to), block);
        }
    }
    fg_worker_sync(w);
    uint64_t begin, end;
    fg_worker_range(w, s->n_head, &begin, &end);
    for (uint64_t i = begin; i < end; i++) {
        const uint64_t g = i / group, h = i % group;
        float *first = b->s->spans + g * n_span * stride;
        for (uint64_t k = 1; k < n_span; k++) {
            merge_head(b, partial_at(b, first), partial_at(b, first + k * stride), h);
        }
        finish_head(b, 0, g, partial_at(b, first), h);
    }
}

void fg_softmax(fg_worker *w, fg_batch *b, uint32_t l)
{
    const fg_layer *y = &b->m->layers[l];
    const fg_shape *shape = b->m->shape;
    fg_scratch *s = b->s;
    fg_product in[] = {{&y->q, &s->n, s->qkv}, {&y->k, &s->n, s->qkv}, {&y->v, &s->n, s->qkv}};
    in[1].y.f += (size_t)shape->n_head * shape->d_head; /* columns after q */
    in[2].y.f = in[1].y.f + (size_t)shape->n_kv_head * shape->d_head;

    fg_multiply(w, b->m->weights, b, in, 3, b->n_tok);
    fg_worker_sync(w);
    fg_mark_phase(w, b, FG_PHASE_ATTN_MATMUL);

    const uint64_t items = (uint64_t)b->n_tok * shape->n_kv_head;
    uint64_t begin, end;
    fg_worker_range(w, items, &begin, &end);
    for (uint64_t i = begin; i < end; i++) store(b, l, i / shape->n_kv_head, i % shape->n_kv_head);
    fg_worker_sync(w);

    float *scratch = s->attn + w->idx * s->attn_stride;
    if (b->n_tok == 1 && w->n > 1) {
        attend_split(w, b, l, scratch);
    } else {
        while (fg_worker_take_items(w, items, &begin, &end)) {
            for (uint64_t i = begin; i < end && !fg_stopped(w, b); i++) {
                attend(b, l, i / shape->n_kv_head, i % shape->n_kv_head, scratch);
            }
        }
    }
    fg_worker_sync(w);
    fg_mark_phase(w, b, FG_PHASE_SOFTMAX);
}
