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

void fg_route(const fg_batch *b, const fg_layer *y, uint64_t t)
{
    const fg_shape *shape = b->m->shape;
    const fg_matrix *r = &y->router;
    fg_scratch *s = b->s;
    float *p = s->router.f + t * s->router.f_stride;
    for (uint64_t i = 0; i < r->n_panel; i++) {
        r->panel_fn(r->panels + i * r->panel_stride, NULL, NULL, s->n.f + t * s->n.f_stride, 0, 1,
                    (size_t)r->n_sb, p + i * FG_PANEL_ROWS, 0);
    }
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
    for (uint32_t e = 0; e < shape->n_expert; e++) s->first[e + 1] += s->first[e];
    for (uint64_t i = 0; i < n; i++) s->row_of[i] = s->first[s->sel[i]]++;
    for (uint32_t e = shape->n_expert; e > 0; e--) s->first[e] = s->first[e - 1];
    s->first[0] = 0;
}

static void copy_row(const fg_acts *from, uint64_t i, fg_acts *to, uint64_t j, bool quantized)
{
    if (quantized) {
        memcpy(to->q + j * to->q_stride, from->q + i * from->q_stride,
               from->q_stride * sizeof(fg_act128));
    } else {
        memcpy(to->f + j * to->f_stride, from->f + i * from->f_stride,
               from->f_stride * sizeof(float));
    }
}

void fg_moe(fg_worker *w, fg_batch *b, uint32_t l)
{
    const fg_layer *y = &b->m->layers[l];
    const fg_shape *shape = b->m->shape;
    const fg_kernels *k = &b->m->k;
    fg_scratch *s = b->s;
    const uint64_t n_row = (uint64_t)b->n_tok * shape->n_used;
    uint64_t begin, end;

    if (w->idx == 0) sort_by_expert(b);
    fg_worker_sync(w);
    fg_worker_range(w, n_row, &begin, &end);
    for (uint64_t i = begin; i < end; i++) {
        const fg_expert *x = &y->experts[s->sel[i]];
        if (x->gate.quantized || x->up.quantized) {
            copy_row(&s->n, i / shape->n_used, &s->xs, s->row_of[i], true);
        }
        if (!x->gate.quantized || !x->up.quantized) {
            copy_row(&s->n, i / shape->n_used, &s->xs, s->row_of[i], false);
        }
    }
    fg_worker_sync(w);

    for (uint32_t e = 0; e < shape->n_expert; e++) {
        const uint64_t r0 = s->first[e], n = s->first[e + 1] - r0;
        if (n == 0) continue;
        const fg_expert *x = &y->experts[e];
        fg_matmul(w, &x->gate, &s->xs, r0, n, &s->g);
        fg_matmul(w, &x->up, &s->xs, r0, n, &s->up);
        /* the columns that this worker has just written, still in its cache */
        fg_worker_range(w, x->gate.n_panel, &begin, &end);
        const size_t from = (size_t)begin * FG_PANEL_ROWS;
        const size_t to =
            end * FG_PANEL_ROWS < shape->d_ff ? (size_t)end * FG_PANEL_ROWS : shape->d_ff;
        for (uint64_t r = r0; from < to && r < r0 + n; r++) {
            k->silu_mul(s->g.f + r * s->g.f_stride + from, s->up.f + r * s->up.f_stride + from,
                        to - from, s->h.f + r * s->h.f_stride + from);
        }
    }
    fg_worker_sync(w);

    if (b->m->quantized) {
        fg_worker_range(w, n_row, &begin, &end);
        for (uint64_t r = begin; r < end; r++) fg_acts_quantize(k, &s->h, r);
        fg_worker_sync(w);
    }
    for (uint32_t e = 0; e < shape->n_expert; e++) {
        const uint64_t r0 = s->first[e], n = s->first[e + 1] - r0;
        if (n != 0) fg_matmul(w, &y->experts[e].down, &s->h, r0, n, &s->y);
    }
    fg_worker_sync(w);
}
