/* SPDX-License-Identifier: MIT
 *
 * Softmax attention with grouped queries [reference minimax-m1 2.2]: query head h uses key-value
 * head h / (n_head / n_kv_head); the first d_rotary dimensions of q and k are rotated (pairs j,
 * j + d_rotary/2); scale 1/sqrt(d_head); causal.
 *
 * The context is walked in blocks of FG_KV_BLOCK absolute positions; each block gives (max, sum,
 * weighted values) and the blocks are merged in order, so that the result for a token depends on
 * its position only, not on who computed which block.
 */
#include <math.h>
#include <string.h>

#include "src/base/fp.h"
#include "src/model/forward.h"

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
    const fg_layer_state *st = &b->st->layers[l];
    const uint64_t pos = b->st->pos + t, n_pos = b->st->n_pos;
    float *row = b->s->qkv.f + t * b->s->qkv.f_stride;
    float *q = row + g * group * d;
    float *key = row + (s->n_head + g) * d, *val = row + (s->n_head + s->n_kv_head + g) * d;
    const float *cos_t = b->s->cos + t * half, *sin_t = b->s->sin + t * half;
    const float scale = 1.0f / sqrtf((float)d);
    for (size_t h = 0; h < group; h++) k->rope(q + h * d, cos_t, sin_t, half);
    for (size_t i = 0; i < group * d; i++) q[i] *= scale;
    k->rope(key, cos_t, sin_t, half);

    const uint64_t k_at = (g * n_pos + pos / 16 * 16) * d + pos % 16;
    const uint64_t v_at = (g * n_pos + pos) * d;
    if (b->st->kv_type == FG_KV_INT8) {
        st->k_scale[g * n_pos + pos] = quantize_row(key, d, (int8_t *)st->k_cache + k_at, 16);
        st->v_scale[g * n_pos + pos] = quantize_row(val, d, (int8_t *)st->v_cache + v_at, 1);
    } else {
        for (size_t i = 0; i < d; i++) ((float *)st->k_cache)[k_at + i * 16] = key[i];
        memcpy((float *)st->v_cache + v_at, val, d * sizeof(float));
    }
}

/* All query heads of KV group g for token t. */
static void attend(const fg_batch *b, uint32_t l, uint64_t t, uint64_t g, float *scratch)
{
    const fg_shape *s = b->m->shape;
    const fg_kernels *k = &b->m->k;
    const size_t d = s->d_head, group = s->n_head / s->n_kv_head;
    const fg_layer_state *st = &b->st->layers[l];
    const uint64_t n = b->st->pos + t + 1, n_pos = b->st->n_pos;
    const float *q = b->s->qkv.f + t * b->s->qkv.f_stride + g * group * d;
    float *o = b->s->u.f + t * b->s->u.f_stride + g * group * d;
    const size_t ml_size = (2 * group + 15) / 16 * 16;
    float *ml = scratch, *ml_b = ml + ml_size, *o_b = ml_b + ml_size, *tmp = o_b + group * d;
    for (uint64_t p = 0; p < n; p += FG_KV_BLOCK) {
        const size_t m = n - p < FG_KV_BLOCK ? (size_t)(n - p) : FG_KV_BLOCK;
        const uint64_t at = (g * n_pos + p) * d, scale_at = g * n_pos + p;
        float *ml_p = p == 0 ? ml : ml_b, *o_p = p == 0 ? o : o_b;
        if (b->st->kv_type == FG_KV_INT8) {
            k->attn_i8(q, group, d, m, (const int8_t *)st->k_cache + at, st->k_scale + scale_at,
                       (const int8_t *)st->v_cache + at, st->v_scale + scale_at, ml_p, o_p, tmp);
        } else {
            k->attn_f32(q, group, d, m, (const float *)st->k_cache + at,
                        (const float *)st->v_cache + at, ml_p, o_p, tmp);
        }
        for (size_t h = 0; p > 0 && h < group; h++) {
            k->attn_merge(ml + 2 * h, o + h * d, ml_b + 2 * h, o_b + h * d, d);
        }
    }
    for (size_t h = 0; h < group; h++) {
        const float sum = ml[2 * h + 1];
        for (size_t i = 0; i < d; i++) o[h * d + i] /= sum;
    }
}

void fg_softmax(fg_worker *w, fg_batch *b, uint32_t l)
{
    const fg_layer *y = &b->m->layers[l];
    const fg_shape *shape = b->m->shape;
    fg_scratch *s = b->s;
    fg_acts key = s->qkv, val = s->qkv; /* columns behind q */
    key.f += (size_t)shape->n_head * shape->d_head;
    val.f = key.f + (size_t)shape->n_kv_head * shape->d_head;

    fg_matmul(w, &y->q, &s->n, 0, b->n_tok, &s->qkv);
    fg_matmul(w, &y->k, &s->n, 0, b->n_tok, &key);
    fg_matmul(w, &y->v, &s->n, 0, b->n_tok, &val);
    fg_worker_sync(w);

    const uint64_t items = (uint64_t)b->n_tok * shape->n_kv_head;
    uint64_t begin, end;
    fg_worker_range(w, items, &begin, &end);
    for (uint64_t i = begin; i < end; i++) store(b, l, i / shape->n_kv_head, i % shape->n_kv_head);
    fg_worker_sync(w);

    /* Later tokens see more context: deal the items out round robin. */
    float *scratch = s->attn + w->idx * s->attn_stride;
    for (uint64_t i = w->idx; i < items; i += w->n) {
        attend(b, l, i / shape->n_kv_head, i % shape->n_kv_head, scratch);
    }
    fg_worker_sync(w);

    if (y->out.quantized) {
        fg_worker_range(w, b->n_tok, &begin, &end);
        for (uint64_t t = begin; t < end; t++) fg_acts_quantize(&b->m->k, &s->u, t);
        fg_worker_sync(w);
    }
    fg_matmul(w, &y->out, &s->u, 0, b->n_tok, &s->a);
    fg_worker_sync(w);
}
