/* SPDX-License-Identifier: MIT
 *
 * The only place where weights meet activations.  One panel of 16 output rows is the unit of work:
 * a worker takes a contiguous range of panels and streams them once, for all tokens.
 */
#include "src/model/forward.h"

void fg_acts_quantize(const fg_kernels *k, const fg_acts *x, uint64_t row)
{
    k->quantize_act(x->f + row * x->f_stride, x->f_stride, x->q + row * x->q_stride);
}

void fg_matmul(const fg_worker *w, const fg_matrix *m, const fg_acts *x, uint64_t row0,
               uint64_t n_tok, fg_acts *y)
{
    uint64_t begin, end;
    fg_worker_range(w, m->n_panel, &begin, &end);
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
