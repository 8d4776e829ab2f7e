/* SPDX-License-Identifier: MIT
 *
 * States on the card: the layout of a state of one node (src/model/state.h), whatever nodes the
 * host's has, so that what moves is bytes.  Of the key-value cache only rows move that are newer on
 * one side; keys lie in blocks of 16 positions, so whole blocks do.
 */
#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/device/cuda_impl.h"

enum { ALIGN = 256, ROW_BLOCK = 16 };

static void *take(uint64_t base, uint64_t *used, uint64_t bytes)
{
    const uint64_t at = base + *used;
    *used += fg_round_up(bytes, ALIGN);
    return base == 0 ? NULL : (void *)(uintptr_t)at;
}

/* Lays the state out at base, or only measures when base is 0. */
static uint64_t lay_out(cu_state *y, const fg_state *st, const fg_shape *s, uint64_t base)
{
    const uint64_t d = s->d_head, heads = s->n_head, rows = s->n_kv_head * st->n_pos;
    uint64_t used = 0;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        if (s->attn[l] == FG_ATTN_LIGHTNING) {
            y->layer[l].s = take(base, &used, heads * d * d * sizeof(float));
            y->layer[l].kt = take(base, &used, heads * d * FG_LIGHT_CHUNK * sizeof(float));
            y->layer[l].v = take(base, &used, heads * d * FG_LIGHT_CHUNK * sizeof(float));
            continue;
        }
        y->layer[l].k_cache = take(base, &used, rows * d * fg_kv_bytes(st->kv_type));
        y->layer[l].v_cache = take(base, &used, rows * d * fg_kv_bytes(st->kv_type));
        if (st->kv_type != FG_KV_INT8) continue;
        y->layer[l].k_scale = take(base, &used, rows * sizeof(float));
        y->layer[l].v_scale = take(base, &used, rows * sizeof(float));
    }
    return used;
}

static fg_status make_copy(cu_device *c, fg_state *st, fg_err *err)
{
    const fg_shape *s = c->m->shape;
    cu_state *y = fg_mem_zalloc(sizeof *y);
    if (y == NULL) return fg_fail_nomem(err, "gpu");
    y->layer = fg_mem_zalloc_array(s->n_layer, sizeof *y->layer);
    fg_status code = y->layer == NULL ? fg_fail_nomem(err, "gpu") : FG_OK;
    if (code == FG_OK) {
        code =
            fg_cu_take_first(c, &y->memory, lay_out(y, st, s, 0), "state and key-value cache", err);
    }
    if (code == FG_OK) { /* what was never written must at least be finite */
        (void)lay_out(y, st, s, y->memory.p);
        code = fg_cu_check(c, c->d->fill(y->memory.p, 0, (size_t)y->memory.bytes, c->main), "state",
                           err);
    }
    if (code != FG_OK) {
        fg_cu_give(c, &y->memory);
        fg_mem_free(y->layer);
        fg_mem_free(y);
        return code;
    }
    c->stats.state_bytes += y->memory.bytes;
    st->device = &c->base;
    st->card = y;
    st->light_there = false;
    st->rows_there = 0;
    return FG_OK;
}

fg_status fg_cu_attach(fg_device *dev, fg_state *st, fg_scratch *s, fg_err *err)
{
    cu_device *c = (cu_device *)dev;
    if (c->broken != FG_OK) {
        return fg_fail(err, c->broken, "gpu %u: broken by an earlier fault, expected a working one",
                       c->gpu->idx);
    }
    FG_TRY(fg_gpu_enter(c->gpu, err));
    FG_TRY(make_copy(c, st, err));
    fg_status code = fg_cu_see_scratch(c, s, err);
    if (code == FG_OK) code = fg_cu_work_reserve(c, s->n_batch, err);
    if (code != FG_OK) fg_cu_detach(dev, st);
    return code;
}

void fg_cu_detach(fg_device *dev, fg_state *st)
{
    cu_device *c = (cu_device *)dev;
    cu_state *y = st->card;
    (void)fg_gpu_enter(c->gpu, NULL);
    fg_cu_drop_graphs(c, st, NULL);
    c->stats.state_bytes -= y->memory.bytes;
    fg_cu_give(c, &y->memory);
    fg_mem_free(y->layer);
    fg_mem_free(y);
    st->device = NULL;
    st->card = NULL;
}

/* ---- moving ---- */

/* One direction of copying on a stream; the first error stays. */
typedef struct mover {
    const cu_device *c;
    bool in;
    int result;
} mover;

static void move(mover *m, void *there, void *here, uint64_t bytes)
{
    const fg_driver *d = m->c->d;
    const uint64_t p = (uint64_t)(uintptr_t)there;
    if (m->result != 0) return;
    m->result = m->in ? d->copy_in(p, here, (size_t)bytes, m->c->main)
                      : d->copy_out(here, p, (size_t)bytes, m->c->main);
}

static void move_light(mover *m, const fg_state *st)
{
    const fg_shape *s = m->c->m->shape;
    const cu_state *y = st->card;
    const uint64_t d = s->d_head, c = FG_LIGHT_CHUNK;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        for (uint64_t h = 0; s->attn[l] == FG_ATTN_LIGHTNING && h < s->n_head; h++) {
            const fg_state_light at = fg_state_head(st, l, h);
            move(m, y->layer[l].s + h * d * d, at.s, d * d * sizeof(float));
            move(m, y->layer[l].kt + h * d * c, at.kt, d * c * sizeof(float));
            move(m, y->layer[l].v + h * d * c, at.v, d * c * sizeof(float));
        }
    }
}

/* Positions from .. to - 1, widened to whole blocks. */
static void move_rows(mover *m, const fg_state *st, uint64_t from, uint64_t to)
{
    const fg_shape *s = m->c->m->shape;
    const cu_state *y = st->card;
    const uint64_t row = (uint64_t)s->d_head * fg_kv_bytes(st->kv_type);
    from = from / ROW_BLOCK * ROW_BLOCK;
    to = fg_round_up(to, ROW_BLOCK);
    for (uint32_t l = 0; l < s->n_layer; l++) {
        for (uint64_t g = 0; s->attn[l] == FG_ATTN_SOFTMAX && g < s->n_kv_head; g++) {
            for (uint64_t p = from, n; p < to; p += n) { /* a span lies together */
                const uint64_t end = (p / st->span + 1) * st->span, at = g * st->n_pos + p;
                n = (end < to ? end : to) - p;
                const fg_state_cache here = fg_state_rows(st, l, g, p);
                move(m, (uint8_t *)y->layer[l].k_cache + at * row, here.k, n * row);
                move(m, (uint8_t *)y->layer[l].v_cache + at * row, here.v, n * row);
                if (here.k_scale == NULL) continue;
                move(m, y->layer[l].k_scale + at, here.k_scale, n * sizeof(float));
                move(m, y->layer[l].v_scale + at, here.v_scale, n * sizeof(float));
            }
        }
    }
}

fg_status fg_cu_fetch(fg_device *dev, fg_state *st, fg_err *err)
{
    cu_device *c = (cu_device *)dev;
    mover m = {.c = c, .in = false};
    if (st->light_here && st->rows_here >= st->pos) return FG_OK;
    if (c->broken != FG_OK) {
        return fg_fail(err, c->broken, "gpu %u: broken, expected the state that is on it",
                       c->gpu->idx);
    }
    FG_TRY(fg_gpu_enter(c->gpu, err));
    if (!st->light_here) move_light(&m, st);
    if (st->rows_here < st->pos) move_rows(&m, st, st->rows_here, st->pos);
    FG_TRY(fg_cu_check(c, m.result, "state", err));
    FG_TRY(fg_cu_drain(c, "state", err));
    st->light_here = true;
    st->rows_here = UINT64_MAX;
    return FG_OK;
}

fg_status fg_cu_bring(cu_device *c, fg_state *st, fg_err *err)
{
    mover m = {.c = c, .in = true};
    if (!st->light_there) move_light(&m, st);
    if (st->rows_there < st->pos) move_rows(&m, st, st->rows_there, st->pos);
    FG_TRY(fg_cu_check(c, m.result, "state", err));
    st->light_there = true;
    st->rows_there = UINT64_MAX;
    return FG_OK;
}
