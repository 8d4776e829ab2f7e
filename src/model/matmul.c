/* SPDX-License-Identifier: MIT
 *
 * The only place where weights meet activations.  One panel of 16 output rows is the unit of work:
 * a worker takes contiguous runs of panels and streams each once, for all tokens.
 */
#include "src/model/forward.h"

void fg_acts_quantize(const fg_kernels *k, const fg_acts *x, uint64_t row)
{
    k->quantize_act(x->f + row * x->f_stride, x->f_stride, x->q + row * x->q_stride);
}

void fg_multiply_panels(const fg_matrix *m, const fg_acts *x, uint64_t row0, uint64_t n_tok,
                        const fg_acts *y, uint64_t begin, uint64_t end)
{
    const void *act = m->quantized ? (const void *)(x->q + row0 * x->q_stride)
                                   : (const void *)(x->f + row0 * x->f_stride);
    const size_t act_stride =
        m->quantized ? x->q_stride * sizeof(fg_act128) : x->f_stride * sizeof(float);
    for (uint64_t p = begin; p < end; p++) {
        m->panel_fn(m->panels + p * m->panel_stride,
                    m->scales == NULL ? NULL : m->scales + p * FG_PANEL_ROWS, m->lut, act,
                    act_stride, (size_t)n_tok, (size_t)m->n_sb,
                    y->f + row0 * y->f_stride + p * FG_PANEL_ROWS, y->f_stride);
    }
}

void fg_multiply(fg_worker *w, const fg_product *p, size_t n, uint64_t n_tok)
{
    uint64_t total = 0, begin, end;
    for (size_t i = 0; i < n; i++) total += p[i].m->n_panel;
    while (fg_worker_take(w, total, &begin, &end)) {
        uint64_t first = 0; /* panel number of product i's first panel */
        for (size_t i = 0; i < n; first += p[i++].m->n_panel) {
            const uint64_t last = first + p[i].m->n_panel;
            const uint64_t from = begin > first ? begin : first, to = end < last ? end : last;
            if (from >= to) continue;
            fg_multiply_panels(p[i].m, p[i].x, 0, n_tok, &p[i].y, from - first, to - first);
        }
    }
}
