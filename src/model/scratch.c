/* SPDX-License-Identifier: MIT */
#include "src/model/scratch.h"

#include <sys/mman.h>

#include "src/model/device.h"

#define HUGE_PAGES_FROM ((uint64_t)256 << 20) /* bytes of scratch */

static fg_act_tiles take_tiles(uint8_t *base, uint64_t *used, uint64_t n_row, uint64_t n_sb)
{
    const uint64_t rows = fg_tile_rows((size_t)n_row);
    fg_act_tiles t = {.rows = (size_t)rows};
    if (base != NULL) t.q = (int8_t *)(base + *used);
    *used += fg_round_up(rows * n_sb * FG_SB_COLS, FG_PAGE_BYTES);
    if (base != NULL) t.d = (float *)(void *)(base + *used);
    *used += fg_round_up(rows * n_sb * sizeof(float), FG_PAGE_BYTES);
    return t;
}

/* Takes [n_row][width] rows from the mapping, or only measures when base is NULL. */
static fg_acts take_acts(uint8_t *base, uint64_t *used, uint64_t n_row, uint64_t width,
                         fg_forms forms, bool tiles)
{
    const uint64_t stride = fg_round_up(width, FG_SB_COLS);
    fg_acts a = {.f_stride = (size_t)stride, .q_stride = (size_t)(stride / FG_SB_COLS)};
    if (base != NULL) a.f = (float *)(void *)(base + *used);
    *used += fg_round_up(n_row * stride * sizeof(float), FG_PAGE_BYTES);
    const uint64_t q_bytes = fg_round_up(n_row * a.q_stride * sizeof(fg_act128), FG_PAGE_BYTES);
    if (forms.plain) {
        if (base != NULL) a.q = (fg_act128 *)(void *)(base + *used);
        *used += q_bytes;
        if (tiles) a.q_tiles = take_tiles(base, used, n_row, a.q_stride);
    }
    if (forms.rotated) {
        if (base != NULL) a.rot = (fg_act128 *)(void *)(base + *used);
        *used += q_bytes;
        if (tiles) a.rot_tiles = take_tiles(base, used, n_row, a.q_stride);
    }
    return a;
}

static void *take_array(uint8_t *base, uint64_t *used, uint64_t n, uint64_t size)
{
    void *p = base == NULL ? NULL : base + *used;
    *used += fg_round_up(n * size, FG_PAGE_BYTES);
    return p;
}

static void lay_out(fg_scratch *s, const fg_shape *p, const fg_model_forms *forms, uint64_t n_ctx,
                    uint32_t n_thread, uint8_t *base)
{
    const uint64_t T = s->n_batch, R = T * p->n_used, d = p->d_model;
    const uint64_t width = (uint64_t)p->n_head * p->d_head;
    const uint64_t group = p->n_head / p->n_kv_head;
    const fg_forms f32_only = {false, false};
    uint64_t used = 0;
    s->x = take_acts(base, &used, T, d, f32_only, false);
    s->n = take_acts(base, &used, T, d, forms->in, forms->tiles);
    s->u = take_acts(base, &used, T, width, forms->attn_out, forms->tiles);
    s->a = take_acts(base, &used, T, d, f32_only, false);
    s->qkv = take_acts(base, &used, T, 3 * width, f32_only, false);
    s->gate = take_acts(base, &used, T, width, f32_only, false);
    s->router = take_acts(base, &used, T, p->n_expert, f32_only, false);
    s->xs = take_acts(base, &used, R, d, forms->expert_in, forms->tiles);
    s->gate_up_stride = (size_t)T * 2 * FG_SB_COLS;
    s->gate_up = take_array(base, &used, n_thread * s->gate_up_stride, sizeof(float));
    s->h = take_acts(base, &used, R, p->d_ff, forms->hidden, forms->tiles);
    s->y = take_acts(base, &used, R, d, f32_only, false);
    s->logits = take_acts(base, &used, FG_LOGIT_ROWS, p->n_vocab, f32_only, false);
    s->cos = take_array(base, &used, T * (p->d_rotary / 2), sizeof(float));
    s->sin = take_array(base, &used, T * (p->d_rotary / 2), sizeof(float));
    s->sel = take_array(base, &used, R, sizeof *s->sel);
    s->sel_w = take_array(base, &used, R, sizeof *s->sel_w);
    s->row_of = take_array(base, &used, R, sizeof *s->row_of);
    s->first = take_array(base, &used, (uint64_t)p->n_expert + 1, sizeof *s->first);
    s->active = take_array(base, &used, p->n_expert, sizeof *s->active);
    const uint64_t router = fg_n_panel(p->n_expert) * fg_n_sb(d) * FG_PANEL_ROWS;
    s->ahead = take_acts(base, &used, 2, d, f32_only, false);
    s->chains = take_array(base, &used, FG_FEW_TOKENS * router, sizeof(float));
    const size_t rows = (size_t)(FG_ATTN_TOKENS * group);
    s->span_stride = fg_rows_floats((size_t)group, p->d_head);
    /* result, span, block; queries in 16 bits, their scales and numbers of positions */
    s->attn_stride = 3 * fg_rows_floats(rows, p->d_head) + (size_t)fg_round_up(rows, 16) * 2 +
                     (size_t)fg_round_up(rows * p->d_head / 2, 16);
    s->attn = take_array(base, &used, n_thread * s->attn_stride, sizeof(float));
    const uint64_t n_span = (n_ctx + FG_ATTN_SPAN - 1) / FG_ATTN_SPAN;
    s->h_done = take_array(base, &used, p->n_expert * s->h.q_stride, sizeof *s->h_done);
    for (uint32_t i = 0; i <= n_thread; i++) {
        fg_rows own = {s->x, s->n, s->u, s->a};
        if (i > 1) own.x = take_acts(base, &used, 1, d, f32_only, false);
        if (i > 1) own.n = take_acts(base, &used, 1, d, forms->in, false);
        if (i > 0) own.u = take_acts(base, &used, 1, width, forms->attn_out, false);
        if (i > 0) own.a = take_acts(base, &used, 1, d, f32_only, false);
        if (s->rows != NULL) s->rows[i] = own;
    }
    s->spans = take_array(base, &used, p->n_kv_head * n_span * s->span_stride, sizeof(float));
    s->bytes = used;
}

uint64_t fg_scratch_bytes(const fg_shape *shape, const fg_model_forms *forms, uint64_t n_ctx,
                          uint32_t n_batch, uint32_t n_thread)
{
    fg_scratch s = {.n_batch = n_batch};
    lay_out(&s, shape, forms, n_ctx, n_thread, NULL);
    return s.bytes;
}

fg_status fg_scratch_create(fg_scratch **out, const fg_model *m, uint64_t n_ctx, uint32_t n_batch,
                            uint32_t n_thread, fg_err *err)
{
    *out = NULL;
    if (n_batch < 1 || n_batch > FG_BATCH_MAX) {
        return fg_fail(err, FG_EINVAL, "batch: %u tokens, expected 1 to %d", n_batch, FG_BATCH_MAX);
    }
    fg_scratch *s = fg_mem_zalloc(sizeof *s);
    if (s == NULL) return fg_fail_nomem(err, "scratch");
    s->n_batch = n_batch;
    s->rows = fg_mem_zalloc_array((size_t)n_thread + 1, sizeof *s->rows);
    if (s->rows == NULL) {
        fg_scratch_destroy(&s);
        return fg_fail_nomem(err, "scratch");
    }
    lay_out(s, m->shape, &m->forms, n_ctx, n_thread, NULL);
    s->map = fg_mem_map((size_t)s->bytes);
    if (s->map == NULL) {
        const unsigned long long bytes = s->bytes;
        fg_scratch_destroy(&s);
        return fg_fail(err, FG_ENOMEM,
                       "scratch: no %llu bytes, expected memory; try a smaller batch", bytes);
    }
    lay_out(s, m->shape, &m->forms, n_ctx, n_thread, s->map);
#ifdef MADV_HUGEPAGE
    /* A product reads rows and writes results all over it; not where all is small, since each of
     * its arrays may take a page more. */
    if (s->bytes >= HUGE_PAGES_FROM) (void)madvise(s->map, (size_t)s->bytes, MADV_HUGEPAGE);
#endif
    *out = s;
    return FG_OK;
}

void fg_scratch_destroy(fg_scratch **s)
{
    if (*s == NULL) return;
    if ((*s)->device != NULL) (*s)->device->ops->forget((*s)->device, *s);
    fg_mem_unmap((*s)->map, (size_t)(*s)->bytes);
    fg_mem_free((*s)->rows);
    fg_mem_free(*s);
    *s = NULL;
}
