/* SPDX-License-Identifier: MIT
 *
 * Buffers of a pass on the card, and the host's scratch as the card sees it.
 */
#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/device/cuda_impl.h"

enum { ALIGN = 256 };

typedef struct arena {
    uint64_t base, used;
} arena;

static void *take(arena *a, uint64_t bytes)
{
    const uint64_t at = a->base + a->used;
    a->used += fg_round_up(bytes, ALIGN);
    return a->base == 0 ? NULL : (void *)(uintptr_t)at;
}

static fg_cuda_acts take_acts(arena *a, uint64_t n_row, uint64_t width, fg_forms forms)
{
    const uint64_t stride = fg_round_up(width, FG_SB_COLS);
    fg_cuda_acts x = {.f_stride = (uint32_t)stride, .q_stride = (uint32_t)(stride / FG_SB_COLS)};
    const uint64_t bytes = n_row * x.q_stride * sizeof(fg_act128);
    x.f = take(a, n_row * stride * sizeof(float));
    if (forms.plain) x.q = take(a, bytes);
    if (forms.rotated) x.rot = take(a, bytes);
    return x;
}

/* Columns of the widest product. */
static uint32_t most_sb(const fg_shape *s)
{
    const uint64_t width = (uint64_t)s->n_head * s->d_head;
    uint64_t n = s->d_model > s->d_ff ? s->d_model : s->d_ff;
    if (width > n) n = width;
    return (uint32_t)fg_n_sb(n);
}

/* experts: with buffers for experts of many rows, each at most n_row. */
static void lay_out(cu_work *w, const fg_model *m, bool experts, arena *a)
{
    const fg_shape *s = m->shape;
    const fg_model_forms *forms = &m->forms;
    const fg_forms none = {false, false};
    const uint64_t T = w->n_row, R = T * s->n_used, width = (uint64_t)s->n_head * s->d_head;
    const uint64_t few = T < FG_CUDA_FEW ? T * s->n_used : (uint64_t)FG_CUDA_FEW * s->n_used;
    const uint64_t E = !experts ? 0 : T > few ? T : few;
    w->x = take_acts(a, T, s->d_model, none);
    w->n = take_acts(a, T > FG_LOGIT_ROWS ? T : (uint64_t)FG_LOGIT_ROWS, s->d_model, forms->in);
    w->u = take_acts(a, T, width, forms->attn_out);
    w->a = take_acts(a, T, s->d_model, none);
    w->qkv = take_acts(a, T, 3 * width, none);
    w->gate = take_acts(a, T, width, none);
    w->xs = take_acts(a, E, s->d_model, forms->expert_in);
    w->g = take_acts(a, E, s->d_ff, none);
    w->up = take_acts(a, E, s->d_ff, none);
    w->h = take_acts(a, E, s->d_ff, forms->hidden);
    w->y = take_acts(a, R, s->d_model, none);
    w->logits = take_acts(a, FG_LOGIT_ROWS, s->n_vocab, none);
    w->cos = take(a, T * (s->d_rotary / 2) * sizeof(float));
    w->sin = take(a, T * (s->d_rotary / 2) * sizeof(float));
    w->sel_w = take(a, R * sizeof(float));
    w->sel = take(a, R * sizeof(uint32_t));
    w->row_of = take(a, R * sizeof(uint32_t));
    w->from = take(a, (R > FG_LOGIT_ROWS ? R : (uint64_t)FG_LOGIT_ROWS) * sizeof(uint32_t));
    const uint32_t rows = w->n_row > FG_LOGIT_ROWS ? w->n_row : (uint32_t)FG_LOGIT_ROWS;
    w->multiply = take(a, fg_cuda_multiply_bytes(rows, most_sb(s)));
    w->route = take(a, fg_cuda_route_bytes(w->n_row, s->n_expert, (uint32_t)fg_n_sb(s->d_model)));
    w->light = take(a, fg_cuda_light_bytes(w->n_row, s->n_head));
}

fg_status fg_cu_work_reserve(cu_device *c, uint32_t n_row, fg_err *err)
{
    const bool experts = c->slots.p != 0 || c->stats.n_resident > 0;
    cu_work *w = &c->work;
    if (n_row <= w->n_row && (!experts || w->g.f != w->h.f)) return FG_OK;
    if (n_row < w->n_row) n_row = w->n_row;
    fg_cu_drop_graphs(c, NULL, NULL);
    c->stats.work_bytes -= w->memory.bytes;
    cu_memory memory = w->memory;
    *w = (cu_work){.n_row = n_row};
    arena a = {0};
    lay_out(w, c->m, experts, &a);
    /* a resident expert saves less than a pass that is not cut saves */
    const fg_status st = fg_cu_take_first(c, &memory, a.used, "activations", err);
    w->memory = memory;
    c->stats.work_bytes += memory.bytes;
    if (st != FG_OK) {
        w->n_row = 0;
        return st;
    }
    a = (arena){.base = memory.p};
    lay_out(w, c->m, experts, &a);
    /* padding of rows is read by products */
    return fg_cu_check(c, c->d->fill(memory.p, 0, (size_t)memory.bytes, c->main), "activations",
                       err);
}

/* What passes may take in the end: all but what others have, residents not counted. */
static uint64_t room_for_work(const cu_device *c)
{
    size_t free_bytes = 0, all = 0;
    (void)c->d->mem_info(&free_bytes, &all);
    const fg_device_stats *s = &c->stats;
    const uint64_t had = c->work.memory.bytes, others = s->work_bytes - had;
    const uint64_t fixed = s->dense_bytes + s->state_bytes + others;
    const uint64_t allowed = c->limit > fixed ? c->limit - fixed : 0;
    const uint64_t there = free_bytes + had + s->resident_bytes;
    return allowed < there ? allowed : there;
}

uint32_t fg_cu_most_rows(fg_device *dev)
{
    cu_device *c = (cu_device *)dev;
    uint32_t n = FG_BATCH_MAX;
    (void)fg_gpu_enter(c->gpu, NULL);
    const uint64_t room = room_for_work(c);
    for (; n > 1; n /= 2) { /* a sixteenth for attention's own, and for what lies between */
        cu_work w = {.n_row = n};
        arena a = {0};
        lay_out(&w, c->m, true, &a);
        if (a.used <= room - room / 16) break;
    }
    return n;
}

/* ---- the host's scratch ---- */

fg_status fg_cu_see_scratch(cu_device *c, fg_scratch *s, fg_err *err)
{
    if (s->device != &c->base) {
        FG_TRY(fg_gpu_check(/* what it refuses is no fault of the card */
                            c->gpu,
                            c->d->host_register(s->map, (size_t)s->bytes,
                                                FG_CU_HOST_PORTABLE | FG_CU_HOST_MAPPED),
                            "scratch", err));
        s->device = &c->base;
    }
    if (c->host == s) return FG_OK;
    c->host = s;
    return fg_cu_check(c, c->d->host_pointer(&c->host_base, s->map, 0), "scratch", err);
}

void fg_cu_forget(fg_device *dev, fg_scratch *s)
{
    cu_device *c = (cu_device *)dev;
    (void)fg_gpu_enter(c->gpu, NULL);
    fg_cu_drop_graphs(c, NULL, s);
    if (c->host == s) c->host = NULL;
    if (!c->gpu->hangs) (void)c->d->host_unregister(s->map);
    s->device = NULL;
}

void *fg_cu_host(const cu_device *c, const void *p)
{
    const uint64_t at = (uint64_t)((const uint8_t *)p - (const uint8_t *)c->host->map);
    return (void *)(uintptr_t)(c->host_base + at);
}
