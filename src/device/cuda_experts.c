/* SPDX-License-Identifier: MIT
 *
 * Experts on the card: those that stay (residents), and in passes of many rows those that are
 * copied to it for one layer of one pass, through slots, so that a copy runs while the
 * products of the one before do.
 */
#include <string.h>

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/device/cuda_impl.h"
#include "src/expert/heat.h"
#include "src/sys/room.h"

static size_t index_of(const cu_device *c, uint32_t layer, uint32_t expert)
{
    return (size_t)layer * c->m->shape->n_expert + expert;
}

/* An expert's bytes, all of it in one piece. */
static const uint8_t *bytes_of(const cu_device *c, uint32_t l, uint32_t e, uint64_t *n)
{
    const fg_extent x = fg_model_file_expert_extent(c->m->file, l, e);
    *n = x.bytes;
    return fg_model_file_data(c->m->file, x.offset);
}

/* Where its matrices are once those bytes are at p. */
static fg_cuda_expert expert_at(const cu_device *c, uint32_t l, uint32_t e, uint64_t p)
{
    uint64_t n;
    const uint8_t *base = bytes_of(c, l, e, &n);
    const fg_expert *x = &c->m->layers[l].experts[e];
#define AT(q)                                                                                      \
    ((q) == NULL ? NULL : (const void *)(uintptr_t)(p + (uint64_t)((const uint8_t *)(q)-base)))
    return (fg_cuda_expert){.gate = AT(x->gate.panels),
                            .up = AT(x->up.panels),
                            .down = AT(x->down.panels),
                            .gate_scale = AT(x->gate.scales),
                            .up_scale = AT(x->up.scales),
                            .down_scale = AT(x->down.scales)};
#undef AT
}

static fg_cuda_matrix shape_of(const fg_matrix *m)
{
    fg_cuda_matrix w = {.panel_stride = m->panel_stride,
                        .n_panel = (uint32_t)m->n_panel,
                        .n_sb = (uint32_t)m->n_sb,
                        .kind = fg_qkind_of((uint32_t)m->type, m->lut),
                        .rotated = m->rotated};
    if (m->lut != NULL) memcpy(w.lut, m->lut->v, sizeof w.lut);
    return w;
}

static bool alike(const fg_cuda_matrix *a, const fg_cuda_matrix *b)
{
    return a->panel_stride == b->panel_stride && a->kind == b->kind && a->rotated == b->rotated &&
           memcmp(a->lut, b->lut, sizeof a->lut) == 0;
}

/* One launch does all experts of a token that are there, so they must be of one make. */
static void look_at_layer(cu_device *c, uint32_t l)
{
    const fg_expert *x = c->m->layers[l].experts;
    cu_layer *y = &c->layer[l];
    y->gate = shape_of(&x[0].gate);
    y->up = shape_of(&x[0].up);
    y->down = shape_of(&x[0].down);
    y->alike = true;
    for (uint32_t e = 0; e < c->m->shape->n_expert; e++) {
        const fg_cuda_matrix g = shape_of(&x[e].gate), u = shape_of(&x[e].up),
                             d = shape_of(&x[e].down);
        uint64_t n;
        (void)bytes_of(c, l, e, &n);
        if (n > c->most_bytes) c->most_bytes = n;
        y->alike = y->alike && alike(&g, &y->gate) && alike(&u, &y->up) && alike(&d, &y->down);
        c->floats = c->floats || !x[e].gate.quantized || !x[e].up.quantized;
    }
}

/* ---- who comes first ---- */

/* Counts to start from: those of the file's heat map. */
static void start_counts(cu_device *c)
{
    const uint32_t n = c->m->shape->n_expert;
    fg_heat heat = {.use = NULL};
    const bool has = fg_heat_load(c->m->file, &heat, NULL) == FG_OK && heat.use != NULL;
    for (size_t i = 0; i < c->hot.n; i++) {
        fg_hot_expert *x = &c->hot.expert[i];
        (void)bytes_of(c, (uint32_t)(i / n), (uint32_t)(i % n), &x->bytes);
        x->place = c->layer[i / n].alike ? FG_HOT_HOST : FG_HOT_NEVER;
        if (!has || heat.n_tok == 0) continue;
        x->use = (float)((double)heat.use[i] / (double)heat.n_tok * FG_HOT_WINDOW);
    }
    fg_mem_free(heat.use);
}

/* The most used expert that is not there; without counts equally many of each layer. */
static size_t next_expert(const cu_device *c)
{
    const uint32_t n = c->hot.n_expert;
    size_t best = c->hot.n;
    for (size_t i = 0; i < c->hot.n; i++) {
        const fg_hot_expert *x = &c->hot.expert[i];
        if (x->place != FG_HOT_HOST) continue;
        const bool more = best == c->hot.n || x->use > c->hot.expert[best].use;
        const bool tie = !more && x->use >= c->hot.expert[best].use;
        if (more || (tie && i % n < best % n)) best = i;
    }
    return best;
}

bool fg_cu_mapped(const cu_device *c)
{
    return strcmp(fg_weights_name(c->m->weights), "map") == 0;
}

/* Copies are made of the mapping: with another home that would be the file once more. */
static bool streams(const cu_device *c)
{
    return fg_cu_mapped(c);
}

/* Who will be there once the passes have filled the card: the same order and the same bounds. */
static void choose(cu_device *c)
{
    enum { PIECE = 2 << 20 }; /* that a driver gives memory in */
    size_t free_bytes = 0, all = 0;
    (void)c->d->mem_info(&free_bytes, &all);
    const uint64_t slots = streams(c) ? CU_SLOTS * fg_round_up(c->most_bytes, 256) : 0;
    uint64_t left = free_bytes, used = c->stats.dense_bytes + slots;
    left -= slots < left ? slots : left;
    for (size_t i = next_expert(c); i < c->hot.n; i = next_expert(c)) {
        const uint64_t n = c->hot.expert[i].bytes, takes = fg_round_up(n, PIECE);
        if (left < takes + FG_GPU_RESERVE_BYTES || used + n + FG_GPU_RESERVE_BYTES > c->limit)
            break;
        c->chosen[i] = true;
        c->hot.expert[i].place = FG_HOT_CARD; /* for next_expert */
        left -= takes;
        used += n;
    }
    for (size_t i = 0; i < c->hot.n; i++) {
        if (c->chosen[i]) c->hot.expert[i].place = FG_HOT_HOST;
    }
}

bool fg_cu_has(const fg_device *dev, uint32_t layer, uint32_t expert)
{
    const cu_device *c = (const cu_device *)dev;
    const size_t i = index_of(c, layer, expert);
    return c->resident[i].p != 0 || (!c->filled && c->chosen[i]);
}

fg_status fg_cu_experts_open(cu_device *c, fg_err *err)
{
    const fg_shape *s = c->m->shape;
    const size_t n = (size_t)s->n_layer * s->n_expert;
    /* the copy is measured once, the host as layers go by; a row on the card stays this guess */
    c->rates =
        (fg_share_rates){.copy = 0.01, .card_row = 1.5e-6, .host_read = 1e-3, .host_row = 1e-4};
    c->resident = fg_mem_zalloc_array(n, sizeof *c->resident);
    c->pinned = fg_mem_zalloc_array(n, sizeof *c->pinned);
    c->chosen = fg_mem_zalloc_array(n, sizeof *c->chosen);
    c->mine = fg_mem_zalloc_array(s->n_expert, sizeof *c->mine);
    c->hot = (fg_hot){.n = n, .n_expert = s->n_expert};
    c->hot.expert = fg_mem_zalloc_array(n, sizeof *c->hot.expert);
    if (c->hot.expert == NULL || c->resident == NULL || c->pinned == NULL || c->mine == NULL ||
        c->chosen == NULL) {
        return fg_fail_nomem(err, "gpu");
    }
    for (uint32_t l = 0; l < s->n_layer; l++) look_at_layer(c, l);
    FG_TRY(fg_cu_take(c, &c->table, n * sizeof(fg_cuda_expert), "table of experts", err));
    start_counts(c);
    choose(c);
    return fg_cu_check(c, c->d->fill(c->table.p, 0, (size_t)c->table.bytes, c->main), "experts",
                       err);
}

void fg_cu_experts_close(cu_device *c)
{
    const fg_shape *s = c->m->shape;
    for (uint32_t l = 0; l < s->n_layer && c->resident != NULL; l++) {
        for (uint32_t e = 0; e < s->n_expert; e++) {
            uint64_t n;
            const size_t i = index_of(c, l, e);
            fg_cu_give(c, &c->resident[i]);
            if (c->pinned == NULL || !c->pinned[i] || c->gpu->hangs) continue;
            (void)c->d->host_unregister((void *)(uintptr_t)bytes_of(c, l, e, &n));
        }
    }
    fg_cu_give(c, &c->move.memory);
    if (c->move.copied != NULL && !c->gpu->hangs) (void)c->d->event_destroy(c->move.copied);
    if (c->rows != NULL && !c->gpu->hangs) (void)c->d->event_destroy(c->rows);
    for (uint32_t k = 0; k < CU_SLOTS && !c->gpu->hangs; k++) {
        if (c->slot[k].filled != NULL) (void)c->d->event_destroy(c->slot[k].filled);
        if (c->slot[k].free != NULL) (void)c->d->event_destroy(c->slot[k].free);
    }
    fg_cu_give(c, &c->slots);
    fg_cu_give(c, &c->table);
    fg_mem_free(c->resident);
    fg_mem_free(c->hot.expert);
    fg_mem_free(c->pinned);
    fg_mem_free(c->chosen);
    fg_mem_free(c->mine);
    fg_mem_free(c->from);
    c->resident = NULL;
}

/* ---- copying ---- */

/* Registers the bytes where that is possible and allowed: the card then reads them at the rate of
 * its bus, and the copy does not keep this thread. */
static void pin(cu_device *c, uint32_t l, uint32_t e)
{
    uint64_t n;
    const size_t i = index_of(c, l, e);
    const uint8_t *p = bytes_of(c, l, e, &n);
    if (c->pinned[i] || n > c->pin_left) return;
    if (c->d->host_register((void *)(uintptr_t)p, (size_t)n,
                            FG_CU_HOST_PORTABLE | FG_CU_HOST_READ_ONLY) != 0) {
        c->pin_left = 0; /* this memory cannot be */
        return;
    }
    c->pinned[i] = true;
    c->pin_left -= n;
}

static fg_status copy_expert(cu_device *c, uint32_t l, uint32_t e, uint64_t to, fg_cu_stream on,
                             fg_err *err)
{
    uint64_t n;
    const uint8_t *p = bytes_of(c, l, e, &n);
    FG_TRY(fg_weights_check(c->m->weights, l, e, err));
    FG_TRY(fg_cu_check(c, c->d->copy_in(to, p, (size_t)n, on), "expert", err));
    if (!fg_cu_mapped(c) && !c->pinned[index_of(c, l, e)]) { /* the driver has read it */
        fg_model_file_let_go(c->m->file, fg_model_file_expert_extent(c->m->file, l, e).offset, n);
    }
    return FG_OK;
}

static fg_status make_slots(cu_device *c, fg_err *err)
{
    fg_err why = {0};
    const uint64_t each = fg_round_up(c->most_bytes, 256);
    if (!streams(c)) return FG_OK;
    if (fg_cu_take(c, &c->slots, CU_SLOTS * each, "slots", &why) != FG_OK) return FG_OK;
    c->stats.work_bytes += c->slots.bytes;
    for (uint32_t k = 0; k < CU_SLOTS; k++) {
        c->slot[k].p = c->slots.p + k * each;
        FG_TRY(fg_cu_check(c, c->d->event_create(&c->slot[k].filled, FG_CU_EVENT_NO_TIME), "event",
                           err));
        FG_TRY(fg_cu_check(c, c->d->event_create(&c->slot[k].free, FG_CU_EVENT_NO_TIME), "event",
                           err));
    }
    c->pin_left = fg_room_share(UINT64_MAX, 2);
    pin(c, 0, 0);
    for (uint32_t i = 0; i < 2; i++) { /* the first may read the file */
        const uint64_t begin = fg_clock_ns();
        FG_TRY(copy_expert(c, 0, 0, c->slots.p, c->copy, err));
        FG_TRY(fg_gpu_wait(c->gpu, c->copy, 60000, "expert", err));
        c->rates.copy = (double)(fg_clock_ns() - begin) * 1e-9;
    }
    return FG_OK;
}

/* ---- residents ---- */

static void tell_host(cu_device *c, size_t i, bool elsewhere)
{
    const uint32_t n = c->m->shape->n_expert;
    fg_weights_elsewhere(c->m->weights, (uint32_t)(i / n), (uint32_t)(i % n), elsewhere);
}

/* Expert i is at *to from now on: the card finds it by the table. */
static fg_status set_resident(cu_device *c, size_t i, cu_memory to, fg_err *err)
{
    const uint32_t n = c->m->shape->n_expert;
    const fg_cuda_expert x = expert_at(c, (uint32_t)(i / n), (uint32_t)(i % n), to.p);
    c->resident[i] = to;
    c->hot.expert[i].place = FG_HOT_CARD;
    c->hot.expert[i].bytes = to.bytes;
    tell_host(c, i, true);
    return fg_cu_check(c, c->d->copy_in(c->table.p + i * sizeof x, &x, sizeof x, c->main), "expert",
                       err);
}

/* It is there no more; its place is the caller's. */
static fg_status unset_resident(cu_device *c, size_t i, cu_memory *was, fg_err *err)
{
    const uint32_t n = c->m->shape->n_expert;
    *was = c->resident[i];
    c->resident[i] = (cu_memory){0};
    c->hot.expert[i].place = FG_HOT_HOST;
    tell_host(c, i, false);
    (void)bytes_of(c, (uint32_t)(i / n), (uint32_t)(i % n), &c->hot.expert[i].bytes);
    return fg_cu_check(
        c, c->d->fill(c->table.p + i * sizeof(fg_cuda_expert), 0, sizeof(fg_cuda_expert), c->main),
        "expert", err);
}

static fg_status add_resident(cu_device *c, size_t i, bool *full, fg_err *err)
{
    const uint32_t l = (uint32_t)(i / c->m->shape->n_expert),
                   e = (uint32_t)(i % c->m->shape->n_expert);
    uint64_t n;
    size_t free_bytes = 0, all = 0;
    fg_err why = {0};
    cu_memory to = {0};
    (void)bytes_of(c, l, e, &n);
    (void)c->d->mem_info(&free_bytes, &all);
    const uint64_t used =
        c->stats.dense_bytes + c->stats.state_bytes + c->stats.work_bytes + c->stats.resident_bytes;
    *full = free_bytes < n + FG_GPU_RESERVE_BYTES || used + n + FG_GPU_RESERVE_BYTES > c->limit ||
            fg_cu_take(c, &to, n, "expert", &why) != FG_OK;
    if (*full) return FG_OK;
    c->stats.n_resident++;
    c->stats.resident_bytes += n;
    FG_TRY(set_resident(c, i, to, err));
    return copy_expert(c, l, e, to.p, c->main, err);
}

/* Slots are a convenience: where a pass's own buffers need their memory, they go. */
static fg_status reserve_with_experts(cu_device *c, fg_err *err)
{
    fg_err why = {0};
    const uint32_t n_row = c->work.n_row;
    fg_status st = fg_cu_work_reserve(c, n_row, &why);
    if (st == FG_ENOMEM && c->slots.p != 0) {
        c->stats.work_bytes -= c->slots.bytes;
        fg_cu_give(c, &c->slots);
        st = fg_cu_work_reserve(c, n_row, &why);
    }
    if (st != FG_OK && err != NULL) *err = why;
    return st;
}

static fg_status begin_filling(cu_device *c, fg_err *err)
{
    if (c->filled) return FG_OK;
    c->filled = true;
    FG_TRY(make_slots(c, err));
    FG_TRY(fg_cu_check(c, c->d->event_create(&c->rows, FG_CU_EVENT_NO_TIME), "event", err));
    return fg_cu_check(c, c->d->event_create(&c->move.copied, FG_CU_EVENT_NO_TIME), "event", err);
}

/* All residents of a large card are read for some ten seconds, from a disk for a minute.  The first
 * token does not wait for that: a second, then a tenth in four while tokens go by. */
enum { FIRST_FILL_MS = 1000, FILL_MS = 100, FILL_SHARE = 4 };
#define MS_NS UINT64_C(1000000)

static fg_status fill(cu_device *c, uint64_t most, fg_err *err)
{
    const uint64_t begin = fg_clock_ns();
    bool full = false;
    uint64_t took = 0;
    FG_TRY(begin_filling(c, err));
    while (!full && took < most) {
        const size_t i = next_expert(c);
        if (i == c->hot.n) break;
        FG_TRY(add_resident(c, i, &full, err));
        took = fg_clock_ns() - begin;
    }
    /* with nothing more to do, it is looked at again now and then: room may come back */
    const uint64_t rest = took < most ? 10 * FIRST_FILL_MS * MS_NS : (FILL_SHARE - 1) * took;
    c->fill_ns = begin + took + rest;
    return reserve_with_experts(c, err);
}

fg_status fg_cu_experts_fill(cu_device *c, fg_err *err)
{
    if (fg_clock_ns() < c->fill_ns) return FG_OK;
    /* a copy was read without them, and would have to be completed first */
    const bool at_once = !c->filled && strcmp(fg_weights_name(c->m->weights), "copy") == 0;
    if (at_once) return fill(c, UINT64_MAX, err);
    return fill(c, (c->fill_ns == 0 ? FIRST_FILL_MS : FILL_MS) * MS_NS, err);
}

fg_status fg_cu_fill(fg_device *dev, fg_err *err)
{
    cu_device *c = (cu_device *)dev;
    FG_TRY(fg_gpu_enter(c->gpu, err));
    return fill(c, UINT64_MAX, err);
}

/* ---- moving ---- */

/* A move costs some milliseconds of the bus, and of this thread where memory cannot be registered:
 * a few a second at most, and a fiftieth of the time. */
enum { MOVE_NS = 200000000, MOVE_SHARE = 50 };

/* What has come is resident. */
static fg_status finish_move(cu_device *c, bool wait, fg_err *err)
{
    cu_move *v = &c->move;
    if (!v->busy) return FG_OK;
    if (wait) FG_TRY(fg_cu_wait(c, v->copied, "expert", err));
    const int result = c->d->event_query(v->copied);
    if (result == FG_CU_NOT_READY) return FG_OK;
    FG_TRY(fg_cu_check(c, result, "expert", err));
    v->busy = false;
    const cu_memory to = v->memory;
    v->memory = (cu_memory){0};
    c->stats.n_moved++;
    return set_resident(c, v->in, to, err);
}

fg_status fg_cu_experts_move(cu_device *c, fg_err *err)
{
    cu_move *v = &c->move;
    const fg_driver *d = c->d;
    size_t out;
    FG_TRY(finish_move(c, c->restless, err));
    const uint64_t now = fg_clock_ns();
    if (v->busy || (now < v->next_ns && !c->restless)) return FG_OK;
    v->next_ns = now + MOVE_NS;
    if (!fg_hot_choose(&c->hot, c->restless ? -1.0f : FG_HOT_MARGIN, &v->in, &out)) return FG_OK;
    FG_TRY(unset_resident(c, out, &v->memory, err));
    /* what was launched before may read the place still */
    FG_TRY(fg_cu_check(c, d->event_record(v->copied, c->main), "expert", err));
    FG_TRY(fg_cu_check(c, d->stream_wait(c->copy, v->copied, 0), "expert", err));
    const uint32_t l = (uint32_t)(v->in / c->hot.n_expert), e = (uint32_t)(v->in % c->hot.n_expert);
    pin(c, l, e);
    fg_status st = copy_expert(c, l, e, v->memory.p, c->copy, err);
    if (st == FG_OK) st = fg_cu_check(c, d->event_record(v->copied, c->copy), "expert", err);
    v->busy = st == FG_OK;
    if (!v->busy) {
        c->stats.n_resident--;
        c->stats.resident_bytes -= v->memory.bytes;
        fg_cu_give(c, &v->memory);
        return st;
    }
    const uint64_t took = fg_clock_ns() - now;
    if (took > MOVE_NS / MOVE_SHARE) v->next_ns = now + MOVE_SHARE * took;
    return FG_OK;
}

void fg_device_cuda_restless(fg_device *d)
{
    ((cu_device *)d)->restless = true;
}

bool fg_cu_experts_yield(cu_device *c)
{
    cu_memory was;
    if (finish_move(c, true, NULL) != FG_OK) return false;
    const size_t i = fg_hot_coldest(&c->hot);
    if (i == c->hot.n) return false;
    (void)unset_resident(c, i, &was, NULL);
    c->stats.n_resident--;
    c->stats.resident_bytes -= was.bytes;
    fg_cu_give(c, &was);
    return true;
}

/* ---- a layer ---- */

void fg_cu_experts_begin(cu_device *c)
{
    for (uint32_t k = 0; k < CU_SLOTS; k++) c->slot[k].ahead = CU_NONE;
}

/* The slot that expert i was copied to ahead of its layer; NULL: none. */
static cu_slot *slot_ahead(cu_device *c, size_t i)
{
    for (uint32_t k = 0; k < CU_SLOTS; k++) {
        if (c->slot[k].ahead == i) return &c->slot[k];
    }
    return NULL;
}

void fg_cu_experts_take(fg_device *dev, uint32_t l, const uint32_t *n_row, bool *mine)
{
    cu_device *c = (cu_device *)dev;
    const uint32_t n = c->m->shape->n_expert;
    bool there[FG_MAX_EXPERT] = {false};
    uint64_t rows[3] = {0};
    if (l == 0) fg_hot_fade(&c->hot, c->b->n_tok);
    fg_hot_saw(&c->hot, l, n_row, c->b->n_tok);
    for (uint32_t e = 0; e < n; e++) {
        const size_t i = index_of(c, l, e);
        there[e] = c->resident[i].p != 0 || (!c->few && slot_ahead(c, i) != NULL);
    }
    const bool copies = !c->few && c->slots.p != 0;
    (void)fg_device_share(n_row, n, there, copies, &c->rates, mine);
    for (uint32_t e = 0; e < n; e++) { /* a token of NaN has the same expert several times */
        if (!c->few && n_row[e] > c->work.n_row) mine[e] = false;
    }
    for (uint32_t e = 0; e < n; e++) {
        rows[!mine[e] ? 0 : c->resident[index_of(c, l, e)].p != 0 ? 1 : 2] += n_row[e];
    }
    for (size_t k = 0; k < 3; k++) c->stats.n_expert_rows[k] += rows[k];
    memcpy(c->mine, mine, n * sizeof *mine);
}

void fg_cu_experts_few(cu_device *c, uint32_t l)
{
    const cu_work *w = &c->work;
    const cu_layer *y = &c->layer[l];
    const fg_shape *s = c->m->shape;
    if (!y->alike) return;
    fg_cuda_few_experts(
        &c->ops, &(fg_cuda_experts){
                     .n_tok = c->b->n_tok,
                     .n_used = s->n_used,
                     .table = (const fg_cuda_expert *)(uintptr_t)c->table.p + index_of(c, l, 0),
                     .sel = w->sel,
                     .gate = y->gate,
                     .up = y->up,
                     .down = y->down,
                     .x = w->n,
                     .g = w->g.f,
                     .up_y = w->up.f,
                     .g_stride = w->g.f_stride,
                     .h = w->h,
                     .y = w->y.f,
                     .y_stride = w->y.f_stride,
                 });
}

/* The card puts the output of a token's i-th expert into row token * n_used + i. */
void fg_cu_experts_order(cu_device *c)
{
    const uint64_t n = (uint64_t)c->b->n_tok * c->m->shape->n_used;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t *row = &c->b->s->row_of[i];
        if ((*row & FG_ROW_ELSEWHERE) != 0) *row = FG_ROW_ELSEWHERE | (uint32_t)i;
    }
}

static fg_status send_order(cu_device *c, fg_err *err)
{
    const fg_scratch *s = c->b->s;
    const cu_work *w = &c->work;
    const uint32_t used = c->m->shape->n_used;
    const uint64_t n = (uint64_t)c->b->n_tok * used;
    if (n > c->from_room) {
        fg_mem_free(c->from);
        c->from_room = 0;
        c->from = fg_mem_zalloc_array((size_t)n, sizeof *c->from);
        if (c->from == NULL) return fg_fail_nomem(err, "gpu");
        c->from_room = n;
    }
    for (uint64_t i = 0; i < n; i++) {
        c->from[s->row_of[i] & ~FG_ROW_ELSEWHERE] = (uint32_t)(i / used);
    }
    const uint64_t bytes = n * sizeof *c->from;
    FG_TRY(fg_cu_check(c,
                       c->d->copy_in((uint64_t)(uintptr_t)w->from, c->from, (size_t)bytes, c->main),
                       "copy", err));
    return fg_cu_check(
        c, c->d->copy_in((uint64_t)(uintptr_t)w->row_of, s->row_of, (size_t)bytes, c->main), "copy",
        err);
}

/* All rows of one expert, which is at x. */
static void run_expert(cu_device *c, uint32_t l, uint32_t e, const fg_cuda_expert *x)
{
    const cu_work *w = &c->work;
    const fg_expert *m = &c->m->layers[l].experts[e];
    const uint32_t r0 = c->b->s->first[e], n = c->b->s->first[e + 1] - r0;
    fg_cuda_matrix gate = shape_of(&m->gate), up = shape_of(&m->up), down = shape_of(&m->down);
    gate.panels = x->gate;
    gate.scales = x->gate_scale;
    up.panels = x->up;
    up.scales = x->up_scale;
    down.panels = x->down;
    down.scales = x->down_scale;
    fg_cuda_gather rows = {.n_row = n, .from = w->from + r0, .x = w->n, .y = w->xs};
    fg_cuda_gather_rows(&c->ops, &rows);
    if ((w->xs.q != NULL || w->xs.rot != NULL) && (!m->gate.quantized || !m->up.quantized)) {
        rows.x.q = rows.x.rot = NULL; /* an expert among quantized ones that takes floats */
        fg_cuda_gather_rows(&c->ops, &rows);
    }
    const fg_cuda_product in[] = {{&gate, w->xs, w->g.f, w->g.f_stride},
                                  {&up, w->xs, w->up.f, w->up.f_stride}};
    fg_cuda_multiply(&c->ops, in, 2, n, w->multiply);
    fg_cuda_hidden_rows(&c->ops, &(fg_cuda_hidden){.n_row = n,
                                                   .d = c->m->shape->d_ff,
                                                   .g = w->g.f,
                                                   .up = w->up.f,
                                                   .g_stride = w->g.f_stride,
                                                   .h = w->h});
    const fg_cuda_product out = {&down, w->h, w->y.f + (size_t)r0 * w->y.f_stride, w->y.f_stride};
    fg_cuda_multiply(&c->ops, &out, 1, n, w->multiply);
}

/* Expert e sets out for the next slot, as soon as that is free. */
static fg_status fill_slot(cu_device *c, uint32_t l, uint32_t e, cu_slot **out, fg_err *err)
{
    const fg_driver *d = c->d;
    cu_slot *slot = *out = &c->slot[c->turn++ % CU_SLOTS];
    pin(c, l, e);
    FG_TRY(fg_cu_check(c, d->stream_wait(c->copy, slot->free, 0), "slot", err));
    FG_TRY(copy_expert(c, l, e, slot->p, c->copy, err));
    return fg_cu_check(c, d->event_record(slot->filled, c->copy), "slot", err);
}

static fg_status run_in_slot(cu_device *c, uint32_t l, uint32_t e, cu_slot *slot, fg_err *err)
{
    FG_TRY(fg_cu_check(c, c->d->stream_wait(c->main, slot->filled, 0), "slot", err));
    const fg_cuda_expert x = expert_at(c, l, e, slot->p);
    run_expert(c, l, e, &x);
    slot->ahead = CU_NONE;
    return fg_cu_check(c, c->d->event_record(slot->free, c->main), "slot", err);
}

/* The bus has nothing to do while a layer's attention runs, and in a pass that copies experts
 * nearly all of them are met: those of layer l that were used most set out before its routing is
 * known, and count as being there.  They wait for the host's rows of the layer before, which would
 * stand behind them, and so would the attention.  Not where a copy would keep this thread. */
static fg_status fetch_ahead(cu_device *c, uint32_t l, fg_err *err)
{
    const fg_driver *d = c->d;
    const uint32_t n = c->m->shape->n_expert;
    FG_TRY(fg_cu_check(c, d->event_record(c->rows, c->main), "rows", err));
    FG_TRY(fg_cu_check(c, d->stream_wait(c->copy, c->rows, 0), "rows", err));
    for (uint32_t k = 0; k < CU_SLOTS; k++) {
        uint32_t best = n;
        for (uint32_t e = 0; e < n; e++) {
            const size_t i = index_of(c, l, e);
            if (c->resident[i].p != 0 || slot_ahead(c, i) != NULL) continue;
            const bool more =
                best == n || c->hot.expert[i].use > c->hot.expert[index_of(c, l, best)].use;
            if (more) best = e;
        }
        if (best == n) return FG_OK;
        pin(c, l, best);
        if (!c->pinned[index_of(c, l, best)]) return FG_OK;
        cu_slot *slot;
        FG_TRY(fill_slot(c, l, best, &slot, err));
        slot->ahead = index_of(c, l, best);
        c->stats.n_ahead++;
    }
    return FG_OK;
}

/* Those that are there first, then those that are or will be in slots. */
static fg_status start_many(cu_device *c, uint32_t l, fg_err *err)
{
    const uint32_t n = c->m->shape->n_expert;
    c->n_copied = 0;
    for (uint32_t e = 0; e < n; e++) {
        const cu_memory *there = &c->resident[index_of(c, l, e)];
        if (!c->mine[e] || there->p == 0) continue;
        const fg_cuda_expert x = expert_at(c, l, e, there->p);
        run_expert(c, l, e, &x);
    }
    for (uint32_t e = 0; e < n; e++) {
        cu_slot *slot = slot_ahead(c, index_of(c, l, e));
        if (slot == NULL) continue;
        c->n_copied++;
        if (c->mine[e]) FG_TRY(run_in_slot(c, l, e, slot, err));
        slot->ahead = CU_NONE; /* nobody else may overwrite it before */
        c->mine[e] = false;
    }
    for (uint32_t e = 0; e < n; e++) {
        cu_slot *slot;
        if (!c->mine[e] || c->resident[index_of(c, l, e)].p != 0) continue;
        FG_TRY(fill_slot(c, l, e, &slot, err));
        FG_TRY(run_in_slot(c, l, e, slot, err));
        c->n_copied++;
    }
    return FG_OK;
}

fg_status fg_cu_experts_start(cu_device *c, uint32_t l, fg_err *err)
{
    if (c->few) {
        if (c->stats.n_resident > 0) fg_cu_experts_few(c, l);
        return fg_cu_launched(c, err);
    }
    FG_TRY(send_order(c, err));
    FG_TRY(start_many(c, l, err));
    return fg_cu_launched(c, err);
}

/* What the host needed, against what was expected of it: the next layer is shared by it. */
static void learn(cu_device *c)
{
    const fg_scratch *s = c->b->s;
    double expected = 0.0;
    for (uint32_t i = 0; i < s->n_active; i++) {
        const uint32_t e = s->active[i], n = s->first[e + 1] - s->first[e];
        const double row = n * c->rates.host_row;
        expected += row > c->rates.host_read ? row : c->rates.host_read;
    }
    if (expected <= 0.0) return;
    const double ratio = (double)(fg_clock_ns() - c->started_ns) * 1e-9 / expected;
    const double step = ratio > 4.0 ? 4.0 : ratio < 0.25 ? 0.25 : ratio;
    c->rates.host_row *= (1.0 + step) / 2.0;
    c->rates.host_read *= (1.0 + step) / 2.0;
}

fg_status fg_cu_experts_done(cu_device *c, uint32_t l, fg_err *err)
{
    const fg_scratch *s = c->b->s;
    const cu_work *w = &c->work;
    if (c->few) return FG_OK;
    learn(c);
    for (uint32_t i = 0; i < s->n_active; i++) { /* ascending: neighbours go together */
        const uint32_t from = s->first[s->active[i]];
        while (i + 1 < s->n_active && s->first[s->active[i] + 1] == s->first[s->active[i + 1]]) i++;
        const uint64_t n = s->first[s->active[i] + 1] - from, stride = s->y.f_stride;
        FG_TRY(fg_cu_check(c,
                           c->d->copy_in((uint64_t)(uintptr_t)(w->y.f + from * stride),
                                         s->y.f + from * stride,
                                         (size_t)(n * stride * sizeof(float)), c->main),
                           "copy", err));
    }
    const bool last = l + 1 == c->m->shape->n_layer;
    return c->n_copied < CU_SLOTS || last ? FG_OK : fetch_ahead(c, l + 1, err);
}
