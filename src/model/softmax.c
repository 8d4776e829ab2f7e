/* SPDX-License-Identifier: MIT
 *
 * Softmax attention with grouped queries [MODEL.md (14) to (19)]: query head h uses key-value
 * head h / (n_head / n_kv_head); the first d_rotary dimensions of q and k are rotated (pairs j,
 * j + d_rotary/2); scale 1/sqrt(d_head); causal.
 *
 * The context is walked in blocks of FG_KV_BLOCK absolute positions; each block gives (max, sum,
 * weighted values); the blocks of a span of FG_ATTN_SPAN positions are merged in order, then the
 * spans, so that the result for a token depends on its position only, not on who computed what.
 *
 * What is walked at a time is a tile: some tokens of a sequence with the query heads of one KV
 * head, so that a block's keys and values are used by many rows.  A row is a token and a head, and
 * nothing of it depends on the others of its tile.
 */
#include <math.h>
#include <string.h>

#include "src/base/fp.h"
#include "src/model/stages.h"

/* q of d = x / scale rounded to nearest even, scale = max|x| / 127.  A non-finite row gets a NaN
 * scale and zeros, on every machine alike.  at: where element i goes. */
static float quantize_row(const float *x, size_t d, int8_t *q,
                          uint64_t (*at)(fg_kv_type kv, uint64_t i))
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
        q[at(FG_KV_INT8, i)] = finite && nonzero ? (int8_t)lrintf(x[i] * inverse) : 0;
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
        *to.k_scale = quantize_row(key, d, to.k, fg_state_key_at);
        *to.v_scale = quantize_row(val, d, to.v, fg_state_value_at);
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

/* Results of rows: (max, sum) of each at ml, weighted values [row][d] at o. */
typedef struct partial {
    float *ml, *o;
} partial;

static partial partial_at(float *p, size_t n_row, size_t d)
{
    return (partial){p, p + fg_rows_floats(n_row, d) - n_row * d};
}

/* Tokens t .. t + n_tok - 1 of the batch, at positions from pos on of one sequence, and KV head g;
 * row i is token t + i / group, head i % group of the KV head's. */
typedef struct tile {
    fg_batch *b;
    const fg_state *seq;
    uint32_t l;
    size_t group, d, n_tok;
    uint64_t g, t, pos;
    int16_t *q; /* [row][d] */
    float *q_scale;
    uint16_t *n_pos; /* of a block */
    partial all, span, block;
} tile;

/* In a worker's scratch; the queries are made ready. */
static tile tile_of(fg_batch *b, uint32_t l, uint64_t g, const fg_seq *seq, uint64_t first,
                    size_t n_tok, float *scratch)
{
    const fg_shape *s = b->m->shape;
    const size_t group = s->n_head / s->n_kv_head, d = s->d_head, n = n_tok * group;
    const size_t stride = fg_rows_floats(n, d);
    tile y = {b,
              seq->st,
              l,
              group,
              d,
              n_tok,
              g,
              seq->first + first,
              seq->st->pos + first,
              .all = partial_at(scratch, n, d),
              .span = partial_at(scratch + stride, n, d),
              .block = partial_at(scratch + 2 * stride, n, d),
              .q_scale = scratch + 3 * stride};
    y.n_pos = (uint16_t *)(void *)(y.q_scale + fg_round_up(n, 16));
    y.q = (int16_t *)(void *)(y.q_scale + 2 * fg_round_up(n, 16));
    if (seq->st->kv_type != FG_KV_INT8) return y;
    for (size_t i = 0; i < n; i++) {
        const float *q = b->s->qkv.f + (y.t + i / group) * b->s->qkv.f_stride;
        y.q_scale[i] = b->m->k.quantize_i16(q + (g * group + i % group) * d, d, y.q + i * d);
    }
    return y;
}

/* Tokens before this one see nothing of position p and behind. */
static size_t first_at(const tile *y, uint64_t p)
{
    return p > y->pos ? (size_t)(p - y->pos) : 0;
}

static void merge(const tile *y, partial into, partial next, size_t first)
{
    for (size_t i = first * y->group; i < y->n_tok * y->group; i++) {
        y->b->m->k.attn_merge(into.ml + 2 * i, into.o + i * y->d, next.ml + 2 * i,
                              next.o + i * y->d, y->d);
    }
}

/* The block at position p, for all tokens that see some of it; next: what is wanted after it, k
 * NULL: nothing. */
static void fold_block(const tile *y, uint64_t p, partial to, const fg_state_cache *next)
{
    const fg_kernels *k = &y->b->m->k;
    const fg_state_cache c = fg_state_rows(y->seq, y->l, y->g, p);
    const size_t first = first_at(y, p), d = y->d, group = y->group;
    for (size_t t = first; t < y->n_tok; t++) {
        const uint64_t seen = y->pos + t + 1 - p;
        const size_t n = seen < FG_KV_BLOCK ? (size_t)seen : FG_KV_BLOCK, row = t * group;
        const float *q = y->b->s->qkv.f + (y->t + t) * y->b->s->qkv.f_stride + y->g * group * d;
        float *ml = to.ml + 2 * row, *o = to.o + row * d;
        switch (y->seq->kv_type) {
        case FG_KV_INT8:
            for (size_t i = 0; i < group; i++) y->n_pos[row + i] = (uint16_t)n;
            break;
        case FG_KV_F16: k->attn_f16(q, group, d, n, c.k, c.v, ml, o); break;
        case FG_KV_F32: k->attn_f32(q, group, d, n, c.k, c.v, ml, o); break;
        }
    }
    if (y->seq->kv_type != FG_KV_INT8) return;
    const size_t row = first * group;
    const fg_attn_next ahead = {next->k, next->v, next->k_scale, next->v_scale};
    k->attn_i8(y->q + row * d, y->q_scale + row, y->n_pos + row, y->n_tok * group - row, d, c.k,
               c.k_scale, c.v, c.v_scale, to.ml + 2 * row, to.o + row * d,
               next->k == NULL ? NULL : &ahead);
}

/* The span at position p, block by block in order; next: as above, after the span. */
static void fold_span(const tile *y, uint64_t p, partial out, const fg_state_cache *next)
{
    const uint64_t first = p, seen = y->pos + y->n_tok, end = p + FG_ATTN_SPAN;
    for (; p < end && p < seen; p += FG_KV_BLOCK) {
        const uint64_t then = p + FG_KV_BLOCK;
        fg_state_cache ahead = *next;
        if (then < end && then < seen) ahead = fg_state_rows(y->seq, y->l, y->g, then);
        fold_block(y, p, p == first ? out : y->block, &ahead);
        if (p != first) merge(y, out, y->block, first_at(y, p));
    }
}

/* u = values / sum of the weights, for head h of KV head g. */
static void finish_head(const fg_batch *b, uint64_t t, uint64_t g, const float *ml, const float *o,
                        size_t h)
{
    const fg_shape *s = b->m->shape;
    const size_t d = s->d_head, group = s->n_head / s->n_kv_head;
    float *u = b->s->u.f + t * b->s->u.f_stride + (g * group + h) * d;
    for (size_t i = 0; i < d; i++) u[i] = o[i] / ml[1];
}

/* All spans of a tile, merged in order, by one worker. */
static void attend(fg_worker *w, const tile *y)
{
    const uint64_t seen = y->pos + y->n_tok;
    for (uint64_t p = 0; p < seen; p += FG_ATTN_SPAN) {
        fg_state_cache next = {0};
        if (fg_stopped(w, y->b)) return;
        if (p + FG_ATTN_SPAN < seen) next = fg_state_rows(y->seq, y->l, y->g, p + FG_ATTN_SPAN);
        fold_span(y, p, p == 0 ? y->all : y->span, &next);
        if (p != 0) merge(y, y->all, y->span, first_at(y, p));
    }
    for (size_t i = 0; i < y->n_tok * y->group; i++) {
        finish_head(y->b, y->t + i / y->group, y->g, y->all.ml + 2 * i, y->all.o + i * y->d,
                    i % y->group);
    }
}

/* The (span, head)s of a piece. */
static void attend_piece(fg_batch *b, uint32_t l, float *scratch, const fg_place *place,
                         const fg_share *share, const fg_work_piece *at, uint64_t n_span)
{
    const fg_shape *s = b->m->shape;
    const fg_seq *seq = &b->seq[0];
    const size_t group = s->n_head / s->n_kv_head;
    uint64_t item = fg_place_dealt(place, at->node, at->begin - share->begin[at->node]);
    for (uint64_t i = at->begin; i < at->end; i++) {
        const uint64_t g = item % s->n_kv_head, span = item / s->n_kv_head;
        fg_state_cache next = {0};
        if (i + 1 < at->end) {
            item = fg_place_dealt(place, at->node, i + 1 - share->begin[at->node]);
            next =
                fg_state_rows(seq->st, l, item % s->n_kv_head, item / s->n_kv_head * FG_ATTN_SPAN);
        }
        const tile y = tile_of(b, l, g, seq, 0, 1, scratch);
        float *to = b->s->spans + (g * n_span + span) * b->s->span_stride;
        fold_span(&y, span * FG_ATTN_SPAN, partial_at(to, group, s->d_head), &next);
    }
}

/* A single token with a long context: the spans are shared out, each to the node that has it, then
 * the heads, whose spans are merged in the same order. */
static void attend_split(fg_worker *w, fg_batch *b, uint32_t l, float *scratch)
{
    const fg_shape *s = b->m->shape;
    const fg_place *place = fg_team_place(w->team);
    const size_t stride = b->s->span_stride, group = s->n_head / s->n_kv_head, d = s->d_head;
    const uint64_t n = b->seq[0].st->pos + 1, n_span = (n + FG_ATTN_SPAN - 1) / FG_ATTN_SPAN;
    fg_share share; /* of (span, head)s, those of a node one after another */
    fg_place_share_dealt(place, n_span * s->n_kv_head, &share);
    const fg_work_row row = {0, &share};
    const fg_work_list list = {&row, 1, false};
    fg_work_piece at;
    while (fg_worker_take(w, &list, &at)) attend_piece(b, l, scratch, place, &share, &at, n_span);
    fg_worker_sync(w);
    uint64_t begin, end;
    fg_worker_range(w, s->n_head, &begin, &end);
    for (uint64_t i = begin; i < end; i++) {
        const size_t g = i / group, h = i % group;
        float *first = b->s->spans + g * n_span * stride;
        const partial into = partial_at(first, group, d);
        for (uint64_t k = 1; k < n_span; k++) {
            const partial next = partial_at(first + k * stride, group, d);
            b->m->k.attn_merge(into.ml + 2 * h, into.o + h * d, next.ml + 2 * h, next.o + h * d, d);
        }
        finish_head(b, 0, g, into.ml + 2 * h, into.o + h * d, h);
    }
}

/* Tokens of a tile: fewer than there is room for when workers would go without. */
static uint32_t tile_tokens(const fg_worker *w, const fg_batch *b)
{
    uint32_t n = FG_ATTN_TOKENS;
    while (n > 1 && (uint64_t)b->n_tok * b->m->shape->n_kv_head < (uint64_t)n * 4 * w->n) n /= 2;
    return n;
}

/* All tokens of the batch, tile by tile: item g * n_tile + i is tile i of KV head g. */
static void attend_tiles(fg_worker *w, fg_batch *b, uint32_t l, float *scratch)
{
    const uint32_t n = tile_tokens(w, b);
    uint64_t n_tile = 0, begin, end;
    for (uint32_t i = 0; i < b->n_seq; i++) n_tile += (b->seq[i].n + n - 1) / n;
    while (fg_worker_take_items(w, n_tile * b->m->shape->n_kv_head, &begin, &end)) {
        for (uint64_t i = begin; i < end; i++) {
            const fg_seq *seq = b->seq;
            uint64_t at = i % n_tile;
            for (; at >= (seq->n + n - 1) / n; seq++) at -= (seq->n + n - 1) / n;
            const uint64_t first = at * n, left = seq->n - first;
            const tile y = tile_of(b, l, i / n_tile, seq, first, left < n ? left : n, scratch);
            attend(w, &y);
        }
    }
}

void fg_softmax(fg_worker *w, fg_batch *b, uint32_t l)
{
    const fg_layer *y = &b->m->layers[l];
    const fg_shape *shape = b->m->shape;
    fg_scratch *s = b->s;
    const fg_acts *n = &fg_own_rows(w, b)->n;
    fg_product in[] = {{&y->q, n, s->qkv}, {&y->k, n, s->qkv}, {&y->v, n, s->qkv}};
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
        attend_tiles(w, b, l, scratch);
    }
    fg_worker_sync(w);
    fg_mark_phase(w, b, FG_PHASE_SOFTMAX);
}
