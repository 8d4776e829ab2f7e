/* SPDX-License-Identifier: MIT
 *
 * Lightning attention [MODEL.md (7) to (13)].  Per head, with
 * p = silu(W_qkv n) split into q, k, v:
 *
 *     S_t = lambda S_{t-1} + k_t v_t^T          o_t = S_t^T q_t
 *
 * evaluated relative to the last chunk boundary (state.h), with S the state there and i the
 * token's index in the chunk:
 *
 *     o_i = lambda^(i+1) S^T q_i + sum_{j<=i} lambda^(i-j) (q_i . k_j) v_j
 *     S  <- lambda^64 S + sum_j lambda^(63-j) k_j v_j^T               when the token after 63 comes
 *
 * then u = RMSNorm(o over all heads) * sigmoid(W_gate n), a = W_out u.
 */
#include <string.h>

#include "src/model/stages.h"

/* One head over the rows of one sequence, chunk by chunk.
 *
 * The fold is lazy: S stands as of st->folded until the first token of the next chunk comes, so
 * that going back to any position from `folded` on is a matter of the position alone.  It is
 * decided by `folded`, not by the position: after going back to a boundary S is folded already. */
static void head(const fg_batch *b, const fg_seq *q, uint32_t l, uint64_t h)
{
    const fg_kernels *k = &b->m->k;
    const fg_state_light st = fg_state_head(q->st, l, h);
    fg_scratch *s = b->s;
    const size_t d = b->m->shape->d_head, c = FG_LIGHT_CHUNK;
    const float *decay = b->m->layers[l].decay + h * (c + 1);
    float *state = st.s, *kt = st.kt, *v = st.v;
    uint64_t folded = q->st->folded;
    for (uint64_t t = 0; t < q->n;) {
        const uint64_t pos = q->st->pos + t, row = q->first + t;
        const size_t i0 = (size_t)(pos % c);
        const size_t n = c - i0 < q->n - t ? c - i0 : (size_t)(q->n - t);
        if (pos == folded + c) {
            k->light_fold(d, kt, v, decay, state);
            folded += c;
        }
        for (size_t i = 0; i < n; i++) { /* rows q, k, v of this head lie side by side */
            float *p = s->qkv.f + (row + i) * s->qkv.f_stride + h * 3 * d;
            k->silu(p, 3 * d);
            for (size_t e = 0; e < d; e++) kt[e * c + i0 + i] = p[d + e];
            memcpy(v + (i0 + i) * d, p + 2 * d, d * sizeof(float));
        }
        k->light_out(s->qkv.f + row * s->qkv.f_stride + h * 3 * d, s->qkv.f_stride, i0, n, d, kt, v,
                     state, decay, s->u.f + row * s->u.f_stride + h * d, s->u.f_stride);
        t += n;
    }
}

/* x = sigmoid(x), as sigmoid_mul has it. */
static void sigmoid(const fg_kernels *k, float *x, size_t n)
{
    enum { STEP = 64 };
    for (size_t i = 0; i < n; i += STEP) {
        const size_t m = n - i < STEP ? n - i : STEP;
        _Alignas(64) float g[STEP];
        memcpy(g, x + i, m * sizeof *g);
        for (size_t j = 0; j < m; j++) x[i + j] = 1.0f;
        k->sigmoid_mul(x + i, g, m);
    }
}

/* x *= g; n is a multiple of 16. */
static void multiply(float *restrict x, const float *restrict g, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        for (size_t j = 0; j < 16; j++) x[i + j] *= g[i + j];
    }
}

/* u = RMSNorm(u) * sigmoid(gate) of this worker's rows; of the only row, if it is each worker's,
 * the sigmoid was shared out with the heads. */
static void gate_rows(const fg_worker *w, const fg_batch *b, uint32_t l)
{
    const fg_shape *shape = b->m->shape;
    const fg_kernels *k = &b->m->k;
    const fg_scratch *s = b->s;
    const fg_acts *to = &fg_own_rows(w, b)->u;
    const size_t width = (size_t)shape->n_head * shape->d_head;
    uint64_t begin, end;
    fg_own_range(w, b, &begin, &end);
    for (uint64_t t = begin; t < end; t++) {
        float *u = to->f + t * to->f_stride;
        const float *gate = s->gate.f + t * s->gate.f_stride;
        k->rmsnorm(s->u.f + t * s->u.f_stride, b->m->layers[l].inner_norm, width,
                   (float)shape->inner_norm_eps, u);
        if (fg_each(w, b)) {
            multiply(u, gate, width);
        } else {
            k->sigmoid_mul(u, gate, width);
        }
    }
}

void fg_lightning(fg_worker *w, fg_batch *b, uint32_t l)
{
    const fg_layer *y = &b->m->layers[l];
    const fg_shape *shape = b->m->shape;
    fg_scratch *s = b->s;
    const fg_acts *n = &fg_own_rows(w, b)->n;

    const fg_product in[] = {{&y->qkv, n, s->qkv}, {&y->out_gate, n, s->gate}};
    fg_multiply(w, b->m->weights, b, in, 2, b->n_tok);
    fg_worker_sync(w);
    fg_mark_phase(w, b, FG_PHASE_ATTN_MATMUL);

    fg_heads at;
    while (fg_take_heads(w, shape->n_head, b->n_seq, &at)) {
        for (uint64_t i = at.begin; i < at.end && !fg_stopped(w, b); i++) {
            const uint64_t h = at.first + i % at.n_head;
            head(b, &b->seq[i / at.n_head], l, h);
            if (fg_each(w, b)) sigmoid(&b->m->k, s->gate.f + h * shape->d_head, shape->d_head);
        }
    }
    fg_worker_sync(w);
    fg_mark_phase(w, b, FG_PHASE_LIGHTNING);
    gate_rows(w, b, l);
}
