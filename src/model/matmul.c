/* SPDX-License-Identifier: MIT
 *
 * The only place where weights meet activations.  One panel of 16 output rows is the unit of work:
 * a worker takes contiguous runs of panels and streams each once, for all tokens.
 */
#include "src/model/stages.h"

#include <assert.h>
#include <string.h>

/* Are rows of a product of n_row taken from t? */
static bool takes_tiles(const fg_act_tiles *t, uint64_t n_row)
{
    return t->q != NULL && n_row >= FG_TILE_TOKENS;
}

/* Superblocks i .. i + n - 1 of row `row` of t. */
static void put_tiles(const fg_act_tiles *t, uint64_t row, const fg_act128 *q, size_t i, size_t n)
{
    const size_t half = FG_SB_COLS / 2;
    for (const size_t end = i + n; i < end; i++, q++) {
        memcpy(t->q + (2 * i * t->rows + row) * half, q->q, half);
        memcpy(t->q + ((2 * i + 1) * t->rows + row) * half, q->q + half, half);
        t->d[i * t->rows + row] = q->d;
    }
}

void fg_acts_quantize(const fg_kernels *k, const fg_acts *x, uint64_t row, uint64_t n_row)
{
    const float *f = x->f + row * x->f_stride;
    fg_act128 *q = x->q == NULL ? NULL : x->q + row * x->q_stride;
    fg_act128 *rot = x->rot == NULL ? NULL : x->rot + row * x->q_stride;
    if (q != NULL) {
        k->quantize_act(f, x->f_stride, q);
        if (takes_tiles(&x->q_tiles, n_row)) put_tiles(&x->q_tiles, row, q, 0, x->q_stride);
    }
    if (rot != NULL) {
        k->quantize_act_rot(f, x->f_stride, rot);
        if (takes_tiles(&x->rot_tiles, n_row)) put_tiles(&x->rot_tiles, row, rot, 0, x->q_stride);
    }
}

/* One superblock of a row, in the one form that the product takes. */
static void quantize_block(fg_quantize_act_fn *fn, const float *f, const fg_act_tiles *t,
                           fg_act128 *q, uint64_t row, uint64_t block, uint64_t n_row)
{
    fg_act128 one;
    if (takes_tiles(t, n_row)) {
        fn(f, FG_SB_COLS, &one);
        put_tiles(t, row, &one, (size_t)block, 1);
    } else {
        fn(f, FG_SB_COLS, q + block);
    }
}

void fg_acts_quantize_block(const fg_kernels *k, const fg_acts *x, uint64_t row, uint64_t block,
                            const float *f, uint64_t n_row)
{
    const uint64_t at = row * x->q_stride;
    if (x->q != NULL) {
        quantize_block(k->quantize_act, f, &x->q_tiles, x->q + at, row, block, n_row);
    }
    if (x->rot != NULL) {
        quantize_block(k->quantize_act_rot, f, &x->rot_tiles, x->rot + at, row, block, n_row);
    }
}

void fg_acts_copy(const fg_acts *x, uint64_t to, const fg_acts *y, uint64_t from, bool rotated,
                  uint64_t n_row)
{
    const fg_act_tiles *t = rotated ? &x->rot_tiles : &x->q_tiles;
    const fg_act128 *q = (rotated ? y->rot : y->q) + from * y->q_stride;
    if (takes_tiles(t, n_row)) {
        put_tiles(t, to, q, 0, x->q_stride);
    } else {
        memcpy((rotated ? x->rot : x->q) + to * x->q_stride, q, x->q_stride * sizeof *q);
    }
}

/* Cache blocking for many tokens: a block of activation rows and a group of panels are kept in the
 * second-level cache (512 KiB on the smallest CPUs in view, 2 MiB on those with a tile unit) and
 * every pair of them is multiplied before moving on.  Without it each panel would fetch all
 * activations from the third level, which took as long as the arithmetic (512 tokens of 6144: 3.5
 * MB a panel).  48 tokens are a multiple of every kernel's tile; the tile unit's own step is a
 * pass, since a pass unpacks the panel, and two threads may share its cache: 6 to 8 panels are
 * as fast as 16 with 512 tokens, 4 % faster with 2048, and 8 are faster than 6, which are one pass
 * of FG_TILE_PANELS and half of one. */
enum {
    ACT_BLOCK_BYTES = 256 << 10,
    PANEL_GROUP_BYTES = 160 << 10,
    TILE_GROUP_BYTES = 400 << 10,
    TOKEN_STEP = 48,
};

static uint64_t tokens_per_block(size_t act_stride)
{
    const uint64_t n = ACT_BLOCK_BYTES / act_stride / TOKEN_STEP * TOKEN_STEP;
    return n < TOKEN_STEP ? TOKEN_STEP : n;
}

/* One panel times rows row .. row + n_tok - 1 of x. */
static void multiply_panel(const fg_matrix *m, const uint8_t *panel, const float *scales,
                           const fg_acts *x, uint64_t row, uint64_t n_tok, float *y,
                           size_t y_stride)
{
    if (m->quantized) {
        m->panel_fn(panel, scales, m->lut, (m->rotated ? x->rot : x->q) + row * x->q_stride,
                    x->q_stride * sizeof(fg_act128), (size_t)n_tok, (size_t)m->n_sb, y, y_stride);
    } else {
        m->panel_fn(panel, scales, m->lut, x->f + row * x->f_stride, x->f_stride * sizeof(float),
                    (size_t)n_tok, (size_t)m->n_sb, y, y_stride);
    }
}

void fg_multiply_panels(const fg_matrix *m, const fg_panel_run *run, const fg_acts *x,
                        uint64_t row0, uint64_t n_tok, float *y, size_t y_stride, uint64_t begin,
                        uint64_t end)
{
    const fg_act_tiles *t = m->rotated ? &x->rot_tiles : &x->q_tiles;
    const fg_act_tiles *tiles =
        m->tiles_fn != NULL && t->q != NULL && n_tok >= FG_TILE_TOKENS ? t : NULL;
    const size_t act_stride =
        m->quantized ? x->q_stride * sizeof(fg_act128) : x->f_stride * sizeof(float);
    const uint64_t most = tiles != NULL ? FG_TILE_PASS : tokens_per_block(act_stride);
    const uint64_t panel_bytes = fg_panel_bytes(m->type, m->n_col);
    const uint64_t group = tiles != NULL
                               ? fg_round_up(1 + TILE_GROUP_BYTES / panel_bytes, FG_TILE_PANELS)
                               : 1 + PANEL_GROUP_BYTES / panel_bytes;
    /* passes of the tile unit as equal as possible: all are large enough for it */
    const uint64_t n_block = (n_tok + most - 1) / most;
    const uint64_t block = tiles != NULL ? (n_tok + n_block - 1) / n_block : most;
    for (uint64_t p0 = begin; p0 < end; p0 += group) {
        const uint64_t p1 = end - p0 < group ? end : p0 + group;
        for (uint64_t r = 0; r < n_tok; r += block) {
            const uint64_t n = n_tok - r < block ? n_tok - r : block;
            float *to = y + r * y_stride + (p0 - begin) * FG_PANEL_ROWS;
            if (tiles != NULL) {
                const uint64_t at = p0 - run->first;
                m->tiles_fn(run->panels + at * m->panel_stride, (size_t)(p1 - p0),
                            (size_t)m->panel_stride, run->scales + at * FG_PANEL_ROWS, m->lut,
                            tiles, (size_t)(row0 + r), (size_t)n, (size_t)m->n_sb, to, y_stride);
                continue;
            }
            for (uint64_t p = p0; p < p1; p++, to += FG_PANEL_ROWS) {
                const uint64_t at = p - run->first;
                multiply_panel(m, run->panels + at * m->panel_stride,
                               run->scales == NULL ? NULL : run->scales + at * FG_PANEL_ROWS, x,
                               row0 + r, n, to, y_stride);
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
            fg_multiply_panels(q->m, &run, q->x, 0, n_tok, q->y.f + i * FG_PANEL_ROWS,
                               q->y.f_stride, i, last);
        }
    }
}
