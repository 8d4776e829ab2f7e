/* SPDX-License-Identifier: MIT
 *
 * Opening and closing the CUDA device, and the dense weights on it.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/device/cuda_impl.h"

/* ---- memory and errors ---- */

enum { ALIGN = 256 };

fg_status fg_cu_check(cu_device *c, int result, const char *what, fg_err *err)
{
    const fg_status st = fg_gpu_check(c->gpu, result, what, err);
    if (st == FG_EIO) c->broken = st;
    return st;
}

fg_status fg_cu_launched(cu_device *c, fg_err *err)
{
    if (c->queue.result == 0) return FG_OK;
    return fg_cu_check(c, c->queue.result, fg_cuda_kernel_name[c->queue.failed], err);
}

fg_status fg_cu_take(cu_device *c, cu_memory *m, uint64_t bytes, const char *what, fg_err *err)
{
    fg_cu_give(c, m);
    size_t free_bytes = 0, all = 0;
    (void)c->d->mem_info(&free_bytes, &all);
    const uint64_t used =
        c->stats.dense_bytes + c->stats.state_bytes + c->stats.work_bytes + c->stats.resident_bytes;
    const uint64_t room = c->limit > used ? c->limit - used : 0;
    int result = bytes > room ? FG_CU_OUT_OF_MEMORY : c->d->mem_alloc(&m->p, (size_t)bytes);
    if (result == FG_CU_OUT_OF_MEMORY) {
        return fg_fail(err, FG_ENOMEM,
                       "gpu %u: %s need %s, expected at most the %s that are free; try a smaller "
                       "context or batch, or --gpu off",
                       c->gpu->idx, what, fg_text_memory((double)bytes).s,
                       fg_text_memory((double)(free_bytes < room ? free_bytes : room)).s);
    }
    FG_TRY(fg_cu_check(c, result, what, err));
    m->bytes = bytes;
    return FG_OK;
}

fg_status fg_cu_take_first(cu_device *c, cu_memory *m, uint64_t bytes, const char *what,
                           fg_err *err)
{
    fg_err why = {0};
    const fg_device_stats *s = &c->stats;
    const uint64_t kept = s->dense_bytes + s->state_bytes + s->work_bytes;
    /* what could not be had without any resident throws none out */
    const bool yields = kept <= c->limit && bytes <= c->limit - kept;
    fg_status st;
    do {
        st = fg_cu_take(c, m, bytes, what, &why);
    } while (st == FG_ENOMEM && yields && fg_cu_experts_yield(c));
    if (st != FG_OK && err != NULL) *err = why;
    return st;
}

void fg_cu_give(cu_device *c, cu_memory *m)
{
    if (m->p != 0 && !c->gpu->hangs) (void)c->d->mem_free(m->p);
    *m = (cu_memory){0};
}

#define SECOND_NS UINT64_C(1000000000)

void fg_cu_give_up(cu_device *c)
{
    c->broken = FG_EIO;
    if (c->box != NULL) {
        atomic_store_explicit((_Atomic uint32_t *)&c->box->abort, 1, memory_order_release);
    }
    (void)fg_gpu_wait(c->gpu, c->main, 2000, "abort", NULL);
}

fg_status fg_cu_drain(cu_device *c, const char *what, fg_err *err)
{
    const fg_status st = fg_gpu_wait(c->gpu, c->main, 60000, what, err);
    if (st == FG_EIO) c->broken = st;
    return st;
}

fg_status fg_cu_wait(cu_device *c, fg_cu_event event, const char *what, fg_err *err)
{
    const uint64_t begin = fg_clock_ns();
    for (;;) {
        const int result = c->d->event_query(event);
        if (result != FG_CU_NOT_READY) return fg_cu_check(c, result, what, err);
        if (fg_clock_ns() - begin < 60 * SECOND_NS + c->patience_ns) continue;
        fg_cu_give_up(c);
        return fg_fail(err, FG_EIO, "gpu %u: %s: no answer for a minute, expected one", c->gpu->idx,
                       what);
    }
}

/* ---- dense weights ---- */

/* Goes through the dense tensors twice: measuring, and with `base` copying. */
typedef struct loader {
    cu_device *c;
    uint64_t base, used, all;
    const fg_device_opts *o;
    fg_err *err;
    fg_status st;
} loader;

static void *put(loader *y, const void *from, uint64_t bytes)
{
    const uint64_t at = y->base + y->used;
    y->used += fg_round_up(bytes, ALIGN);
    if (y->base == 0 || y->st != FG_OK) return NULL;
    const cu_device *c = y->c;
    y->st = fg_cu_check(y->c, c->d->copy_in(at, from, (size_t)bytes, c->main), "weights", y->err);
    if (y->st == FG_OK && y->o->progress != NULL &&
        !y->o->progress(y->o->progress_ctx, y->used, y->all)) {
        y->st =
            fg_fail(y->err, FG_ECANCEL, "gpu %u: cancelled, expected to be opened", c->gpu->idx);
    }
    return (void *)(uintptr_t)at;
}

static fg_cuda_matrix matrix_of(const fg_tensor *t)
{
    fg_cuda_matrix w = {.panel_stride = t->panel_stride,
                        .n_panel = (uint32_t)fg_n_panel(t->n_row),
                        .n_sb = (uint32_t)fg_n_sb(t->n_col),
                        .kind = fg_qkind_of(t->type, &t->lut),
                        .rotated = t->rotated};
    memcpy(w.lut, t->lut.v, sizeof w.lut);
    return w;
}

static fg_cuda_matrix put_matrix(loader *y, fg_role role, uint32_t layer)
{
    const fg_model_file *f = y->c->m->file;
    const fg_tensor *t = fg_model_file_find(f, role, layer, FG_NO_LAYER);
    fg_cuda_matrix w = matrix_of(t);
    const uint64_t bytes =
        (w.n_panel - 1) * w.panel_stride + fg_panel_bytes((fg_qtype)t->type, t->n_col);
    w.panels = put(y, fg_model_file_data(f, t->offset), bytes);
    if (t->scale_offset != 0) {
        w.scales = put(y, fg_model_file_data(f, t->scale_offset),
                       (uint64_t)w.n_panel * FG_PANEL_ROWS * sizeof(float));
    }
    return w;
}

static const float *put_vector(loader *y, fg_role role, uint32_t layer, uint64_t n)
{
    const fg_model_file *f = y->c->m->file;
    const fg_tensor *t = fg_model_file_find(f, role, layer, FG_NO_LAYER);
    return put(y, fg_model_file_data(f, t->offset), n * sizeof(float));
}

static void put_layer(loader *y, uint32_t l)
{
    const fg_shape *s = y->c->m->shape;
    cu_layer *to = &y->c->layer[l];
    to->attn_norm = put_vector(y, FG_ROLE_ATTN_NORM, l, s->d_model);
    to->mlp_norm = put_vector(y, FG_ROLE_MLP_NORM, l, s->d_model);
    to->router = put_matrix(y, FG_ROLE_ROUTER, l);
    if (s->attn[l] == FG_ATTN_LIGHTNING) {
        to->inner_norm = put_vector(y, FG_ROLE_LIGHT_NORM, l, (uint64_t)s->n_head * s->d_head);
        to->decay = put(y, y->c->m->layers[l].decay,
                        (uint64_t)s->n_head * (FG_LIGHT_CHUNK + 1) * sizeof(float));
        to->qkv = put_matrix(y, FG_ROLE_LIGHT_QKV, l);
        to->out_gate = put_matrix(y, FG_ROLE_LIGHT_GATE, l);
        to->out = put_matrix(y, FG_ROLE_LIGHT_OUT, l);
    } else {
        to->q = put_matrix(y, FG_ROLE_Q, l);
        to->k = put_matrix(y, FG_ROLE_K, l);
        to->v = put_matrix(y, FG_ROLE_V, l);
        to->out = put_matrix(y, FG_ROLE_O, l);
    }
}

static void put_all(loader *y)
{
    cu_device *c = y->c;
    for (uint32_t l = 0; l < c->m->shape->n_layer; l++) put_layer(y, l);
    c->head = put_matrix(y, FG_ROLE_LM_HEAD, FG_NO_LAYER);
    c->final_norm = put_vector(y, FG_ROLE_FINAL_NORM, FG_NO_LAYER, c->m->shape->d_model);
}

/* With another home the mapping was for this only. */
static void let_go(const cu_device *c)
{
    const fg_model_file *f = c->m->file;
    const fg_tensor *head = fg_model_file_find(f, FG_ROLE_LM_HEAD, FG_NO_LAYER, FG_NO_LAYER);
    for (uint32_t l = 0; l < c->m->shape->n_layer; l++) {
        const fg_extent x = fg_model_file_dense_extent(f, l);
        fg_model_file_let_go(f, x.offset, x.bytes);
    }
    fg_model_file_let_go(f, head->offset, fg_n_panel(head->n_row) * head->panel_stride);
}

fg_status fg_cu_dense_load(cu_device *c, const fg_device_opts *o, fg_err *err)
{
    FG_TRY(fg_model_file_mapped(c->m->file, err));
    c->layer = fg_mem_zalloc_array(c->m->shape->n_layer, sizeof *c->layer);
    if (c->layer == NULL) return fg_fail_nomem(err, "gpu");
    loader y = {.c = c, .o = o, .err = err};
    put_all(&y);
    y.all = y.used;
    FG_TRY(fg_cu_take(c, &c->dense, y.used, "dense weights", err));
    c->stats.dense_bytes = y.used;
    y.base = c->dense.p;
    y.used = 0;
    put_all(&y);
    FG_TRY(y.st);
    FG_TRY(fg_cu_drain(c, "weights", err));
    if (!fg_cu_mapped(c)) let_go(c);
    return FG_OK;
}

/* ---- opening ---- */

static fg_status open_queues(cu_device *c, fg_err *err)
{
    const fg_driver *d = c->d;
    FG_TRY(fg_cu_check(c, d->stream_create(&c->main, FG_CU_STREAM_NO_WAIT), "stream", err));
    FG_TRY(fg_cu_check(c, d->stream_create(&c->copy, FG_CU_STREAM_NO_WAIT), "stream", err));
    FG_TRY(fg_cu_check(c, d->event_create(&c->routed, FG_CU_EVENT_NO_TIME), "event", err));
    const unsigned seen = FG_CU_HOST_PORTABLE | FG_CU_HOST_MAPPED;
    void *p;
    FG_TRY(fg_cu_check(c, d->host_alloc(&p, sizeof *c->staged, seen), "mailbox", err));
    c->staged = p;
    FG_TRY(fg_cu_check(c, d->host_alloc(&p, sizeof *c->box, seen), "mailbox", err));
    c->box = p;
    memset(c->box, 0, sizeof *c->box);
    c->queue = (fg_gpu_queue){.gpu = c->gpu, .stream = c->main};
    c->ops = fg_gpu_queue_ops(&c->queue);
    return fg_cu_take(c, &c->block, sizeof(cu_block), "pass", err);
}

/* What is on the card.  Of one that hangs nothing is given back: each of these calls would wait. */
static void close_card(cu_device *c)
{
    const fg_driver *d = c->d;
    (void)fg_gpu_enter(c->gpu, NULL);
    if (c->main != NULL && c->broken == FG_OK) {
        (void)fg_gpu_wait(c->gpu, c->main, 60000, "closing", NULL);
    }
    fg_cu_experts_close(c);
    if (c->gpu->hangs) return;
    fg_cu_drop_graphs(c, NULL, NULL);
    cu_memory *const all[] = {&c->dense, &c->work.memory, &c->attn, &c->block};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) fg_cu_give(c, all[i]);
    if (c->staged != NULL) (void)d->host_free(c->staged);
    if (c->box != NULL) (void)d->host_free(c->box);
    if (c->routed != NULL) (void)d->event_destroy(c->routed);
    if (c->main != NULL) (void)d->stream_destroy(c->main);
    if (c->copy != NULL) (void)d->stream_destroy(c->copy);
}

static void close_device(fg_device *dev)
{
    cu_device *c = (cu_device *)dev;
    if (c == NULL) return;
    if (c->gpu != NULL) close_card(c);
    fg_gpu_close(&c->gpu);
    fg_mem_free(c->layer);
    fg_mem_free(c);
}

static fg_status open_device(fg_device **out, const fg_model *m, const fg_device_opts *o,
                             fg_err *err)
{
    *out = NULL;
    cu_device *c = fg_mem_zalloc(sizeof *c);
    if (c == NULL) return fg_fail_nomem(err, "gpu");
    c->base.ops = &fg_device_cuda;
    c->m = m;
    fg_status st = fg_gpu_open(&c->gpu, o->idx, err);
    if (st == FG_OK) {
        c->d = c->gpu->d;
        c->limit = o->bytes != 0 && o->bytes < c->gpu->info.bytes ? o->bytes : c->gpu->info.bytes;
        st = open_queues(c, err);
    }
    if (st == FG_OK) st = fg_cu_dense_load(c, o, err);
    if (st == FG_OK) st = fg_cu_experts_open(c, err);
    if (st != FG_OK) {
        close_device(&c->base);
        return st;
    }
    *out = &c->base;
    return FG_OK;
}

static void get_stats(const fg_device *dev, fg_device_stats *out)
{
    *out = ((const cu_device *)dev)->stats;
}

const fg_device_ops fg_device_cuda = {
    .name = "cuda",
    .open = open_device,
    .close = close_device,
    .attach = fg_cu_attach,
    .detach = fg_cu_detach,
    .fetch = fg_cu_fetch,
    .most_rows = fg_cu_most_rows,
    .fill = fg_cu_fill,
    .has = fg_cu_has,
    .forget = fg_cu_forget,
    .begin = fg_cu_begin,
    .routed = fg_cu_routed,
    .take = fg_cu_experts_take,
    .start = fg_cu_start,
    .done = fg_cu_done,
    .hidden = fg_cu_hidden,
    .logits = fg_cu_logits,
    .end = fg_cu_end,
    .stats = get_stats,
};
