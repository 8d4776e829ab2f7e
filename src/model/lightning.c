/* SPDX-License-Identifier: MIT
 *
 * Lightning attention [MiniMax-01, lightning attention; reference minimax-m1 2.3].  Per head, with
 * p = silu(W_qkv n) split into q, k, v:
 *
 *     S_t = lambda S_{t-1} + k_t v_t^T          o_t = S_t^T q_t
 *
 * evaluated relative to the last chunk boundary (state.h), with S the state there and i the
 * token's index in the chunk:
 *
 *     o_i = lambda^(i+1) S^T q_i + sum_{j<=i} lambda^(i-j) (q_i . k_j) v_j
 *     S  <- lambda^64 S + sum_j lambda^(63-j) k_j v_j^T                     after token 63
 *
 * then u = RMSNorm(o over all heads) * sigmoid(W_gate n), a = W_out u.
 */
#include <string.h>

#include "src/model/forward.h"

/* One head over all tokens of the batch, chunk by chunk. */
static void head(const fg_batch *b, uint32_t l, uint64_t h)
{
    const fg_kernels *k = &b->m->k;
    const fg_layer_state *st = &b->st->layers[l];
    fg_scratch *s = b->s;
    const size_t d = b->m->shape->d_head, c = FG_LIGHT_CHUNK;
    const float *decay = b->m->layers[l].decay + h * (c + 1);
    float *state = st->s + h * d * d;
    float *kt = st->kt + h * d * c, *v = st->v + h * c * d;
    for (uint64_t t = 0; t < b->n_tok;) {
        const size_t i0 = (size_t)((b->st->pos + t) % c);
        const size_t n = c - i0 < b->n_tok - t ? c - i0 : (size_t)(b->n_tok - t);
        for (size_t i = 0; i < n; i++) { /* rows q, k, v of this head lie side by side */
            float *p = s->qkv.f + (t + i) * s->qkv.f_stride + h * 3 * d;
            k->silu(p, 3 * d);
            for (size_t e = 0; e < d; e++) kt[e * c + i0 + i] = p[d + e];
            memcpy(v + (i0 + i) * d, p + 2 * d, d * sizeof(float));
        }
        k->light_out(s->qkv.f + t * s->qkv.f_stride + h * 3 * d, s->qkv.f_stride, i0, n, d, kt, v,
                     state, decay, s->u.f + t * s->u.f_stride + h * d, s->u.f_stride);
        if (i0 + n == c) k->light_fold(d, kt, v, decay, state);
        t += n;
    }
}

void fg_lightning(fg_worker *w, fg_batch *b, uint32_t l)
{
    const fg_layer *y = &b->m->layers[l];
    const fg_shape *shape = b->m->shape;
    const fg_kernels *k = &b->m->k;
    fg_scratch *s = b->s;
    uint64_t begin, end;

    const fg_product in[] = {{&y->qkv, &s->n, s->qkv}, {&y->out_gate, &s->n, s->gate}};
    fg_multiply(w, in, 2, b->n_tok);
    fg_worker_sync(w);
    fg_mark(w, b, FG_PHASE_ATTN_MATMUL);

    while (fg_worker_take_items(w, shape->n_head, &begin, &end)) {
        for (uint64_t h = begin; h < end; h++) head(b, l, h);
    }
    fg_worker_sync(w);
    fg_mark(w, b, FG_PHASE_LIGHTNING);

    const size_t width = (size_t)shape->n_head * shape->d_head;
    fg_worker_range(w, b->n_tok, &begin, &end);
    for (uint64_t t = begin; t < end; t++) {
        float *u = s->u.f + t * s->u.f_stride;
        k->rmsnorm(u, y->inner_norm, width, (float)shape->inner_norm_eps, u);
        k->sigmoid_mul(u, s->gate.f + t * s->gate.f_stride, width);
        fg_acts_quantize(k, &s->u, t);
    }
    fg_worker_sync(w);
    fg_mark(w, b, FG_PHASE_NORM);
}
