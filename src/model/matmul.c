/* SPDX-License-Identifier: MIT
 *
 * The only place where weights meet activations.  One panel of 16 output rows is the unit of work:
 * a worker takes contiguous runs of panels and streams each once, for all tokens.
 */
#include "src/model/stages.h"

#include <assert.h>

void fg_acts_quantize(const fg_kernels *k, const fg_acts *x, uint64_t row)
{
    const float *f = x->f + row * x->f_stride;
    if (x->q != NULL) k->quantize_act(f, x->f_stride, x->q + row * x->q_stride);
    if (x->rot != NULL) k->quantize_act_rot(f, x->f_stride, x->rot + row * x->q_stride);
}

/* Cache blocking for many tokens: a block of activation rows and a group of panels are kept in the
 * second-level cache (512 KiB on the smallest CPUs in view) and every pair of them is multiplied
 * before moving on.  Without it each panel would fetch all activations from the third level, which
 * took as long as the arithmetic (512 tokens of 6144: 3.5 MB a panel).  48 tokens are a multiple of
 * every kernel's tile. */
enum { ACT_BLOCK_BYTES = 256 << 10, PANEL_GROUP_BYTES = 160 << 10, TOKEN_STEP = 48 };

static uint64_t tokens_per_block(size_t act_stride)
{
    const uint64_t n = ACT_BLOCK_BYTES / act_stride / TOKEN_STEP * TOKEN_STEP;
    return n < TOKEN_STEP ? TOKEN_STEP : n;
}

void fg_multiply_panels(const fg_matrix *m, const fg_panel_run *run, const fg_acts *x,
                        uint64_t row0, uint64_t n_tok, const fg_acts *y, uint64_t begin,
                        uint64_t end)
{
    const fg_act128 *q = m->rotated ? x->rot : x->q;
    const uint8_t *act = m->quantized ? (const uint8_t *)(const void *)(q + row0 * x->q_stride)
                                      : (const uint8_t *)(const void *)(x->f + row0 * x->f_stride);
    const size_t act_stride =
        m->quantized ? x->q_stride * sizeof(fg_act128) : x->f_stride * sizeof(float);
    const uint64_t block = tokens_per_block(act_stride);
    const uint64_t panel_bytes = fg_panel_bytes(m->type, m->n_col);
    const uint64_t group = 1 + PANEL_GROUP_BYTES / panel_bytes;
    for (uint64_t p0 = begin; p0 < end; p0 += group) {
        const uint64_t p1 = end - p0 < group ? end : p0 + group;
        for (uint64_t t = 0; t < n_tok; t += block) {
            const uint64_t n = n_tok - t < block ? n_tok - t : block;
            for (uint64_t p = p0; p < p1; p++) {
                const uint64_t at = p - run->first;
                m->panel_fn(run->panels + at * m->panel_stride,
                            run->scales == NULL ? NULL : run->scales + at * FG_PANEL_ROWS, m->lut,
                            act + t * act_stride, act_stride, (size_t)n, (size_t)m->n_sb,
                            y->f + (row0 + t) * y->f_stride + p * FG_PANEL_ROWS, y->f_stride);
            }
        }
    }
}

enum { MAX_PRODUCTS = 4 }; /* of one step: q, k and v */

void fg_multiply(fg_worker *w, const fg_weights *weights, fg_batch *b, const fg_product *p,
                 size_t n, uint64_t n_tok)
{
    fg_share share[MAX_PRODUCTS];
    fg_work_row row[MAX_PRODUCTS];
    const fg_work_list list = {row, n, false};
    fg_work_piece at;
    uint32_t turn = 0; /* panel groups left over go round the nodes */
    assert(n <= MAX_PRODUCTS);
    for (size_t i = 0; i < n; i++) {
        row[i] = (fg_work_row){i, weights == NULL ? NULL : fg_weights_share(weights, p[i].m)};
        if (row[i].share != NULL) continue;
        fg_place_share_in_turn(fg_team_place(w->team), p[i].m->n_panel,
                               fg_panel_group(p[i].m->panel_stride), &turn, &share[i]);
        row[i].share = &share[i];
    }
    while (fg_worker_take(w, &list, &at)) {
        const fg_product *q = &p[at.row];
        const fg_panel_run run = weights == NULL
                                     ? fg_matrix_run(q->m)
                                     : fg_weights_run(weights, q->m, FG_NO_LAYER,
                                                      fg_weights_from(weights, at.node, w->node));
        const uint64_t step = fg_stop_step(b, n_tok, at.end - at.begin);
        for (uint64_t i = at.begin; i < at.end && !fg_stopped(w, b); i += step) {
            const uint64_t last = at.end - i < step ? at.end : i + step;
            fg_multiply_panels(q->m, &run, q->x, 0, n_tok, &q->y, i, last);
        }
    }
}
