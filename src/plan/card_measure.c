/* SPDX-License-Identifier: MIT
 *
 * Rates of a card that is here.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/plan/card.h"

enum { TIMES = 5, PATIENCE_MS = 10000 };
#define COPY_BYTES  ((uint64_t)256 << 20)
#define READ_BYTES  ((uint64_t)2 << 30)
#define PIECE_BYTES ((uint64_t)1 << 20)
#define WHOLE       ((uint64_t)64 << 10) /* pages of every system */

typedef struct rig {
    fg_gpu *g;
    const fg_driver *d;
    fg_cu_stream stream;
    fg_cu_event from, to;
    void *host;
    uint64_t card, sum; /* addresses */
    uint64_t n_copy, n_read;
} rig;

typedef enum what { COPY_IN, COPY_PIECES, COPY_OUT, READ } what;

static int put_work(rig *r, what w)
{
    const fg_driver *d = r->d;
    int result = 0;
    fg_gpu_queue q = {.gpu = r->g, .stream = r->stream};
    const fg_cuda_queue ops = fg_gpu_queue_ops(&q);
    const fg_cuda_read read = {.p = (const void *)(uintptr_t)r->card,
                               .bytes = r->n_read,
                               .sum = (uint32_t *)(uintptr_t)r->sum};
    switch (w) {
    case COPY_IN: return d->copy_in(r->card, r->host, (size_t)r->n_copy, r->stream);
    case COPY_PIECES:
        for (uint64_t at = 0; at < r->n_copy && result == 0; at += PIECE_BYTES) {
            const uint64_t left = r->n_copy - at, n = left < PIECE_BYTES ? left : PIECE_BYTES;
            result = d->copy_in(r->card + at, (uint8_t *)r->host + at, (size_t)n, r->stream);
        }
        return result;
    case COPY_OUT: return d->copy_out(r->host, r->card, (size_t)r->n_copy, r->stream);
    case READ: fg_cuda_read_rate(&ops, &read); return q.result;
    }
    return result;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* *gbs: the median; the first time, which may wake the card up, does not count. */
static fg_status measure(rig *r, what w, const char *name, double *gbs, fg_err *err)
{
    const fg_driver *d = r->d;
    double s[TIMES];
    for (int i = -1; i < TIMES; i++) {
        float ms = 0.0f;
        int result = d->event_record(r->from, r->stream);
        if (result == 0) result = put_work(r, w);
        if (result == 0) result = d->event_record(r->to, r->stream);
        FG_TRY(fg_gpu_check(r->g, result, name, err));
        FG_TRY(fg_gpu_wait(r->g, r->stream, PATIENCE_MS, name, err));
        FG_TRY(fg_gpu_check(r->g, d->event_time(&ms, r->from, r->to), name, err));
        if (i >= 0) s[i] = (double)ms * 1e-3;
    }
    qsort(s, TIMES, sizeof s[0], compare);
    const uint64_t bytes = w == READ ? r->n_read : r->n_copy;
    *gbs = s[TIMES / 2] > 0.0 ? (double)bytes / s[TIMES / 2] * 1e-9 : 0.0;
    return FG_OK;
}

/* Copies of memory of one node.  *gbs stays 0 where it cannot be bound or registered: containers
 * may refuse either. */
static fg_status measure_node(rig *r, const fg_place *place, uint32_t node, double *gbs,
                              fg_err *err)
{
    void *pinned = r->host, *own = fg_mem_map((size_t)r->n_copy);
    const fg_owned all = {0, r->n_copy, node};
    fg_status st = FG_OK;
    if (own == NULL) return fg_fail_nomem(err, "memory to measure");
    if (fg_place_bind(place, own, &all, 1, NULL) == FG_OK) {
        memset(own, 1, (size_t)r->n_copy);
        if (r->d->host_register(own, (size_t)r->n_copy, FG_CU_HOST_PORTABLE) == 0) {
            r->host = own;
            st = measure(r, COPY_IN, "copies to it", gbs, err);
            r->host = pinned;
            if (!r->g->hangs) (void)r->d->host_unregister(own);
        }
    }
    if (!r->g->hangs) fg_mem_unmap(own, (size_t)r->n_copy);
    return st;
}

double fg_gpu_card_copy_of_all(const fg_place *place, const double *node_gbs)
{
    double s = 0.0; /* of as many GB as all weights together */
    for (uint32_t k = 0; k < place->n_node; k++) {
        const double part = place->node[k].weight;
        if (part == 0.0) continue;
        if (!(node_gbs[k] > 0.0)) return 0.0;
        s += part / node_gbs[k];
    }
    return s > 0.0 ? (double)place->weight / s : 0.0;
}

static fg_status measure_nodes(rig *r, const fg_place *place, fg_gpu_card *out,
                               fg_gpu_card_measured *more, fg_err *err)
{
    more->n_node = place->n_node;
    for (uint32_t k = 0; k < place->n_node; k++) {
        FG_TRY(measure_node(r, place, k, &more->node_gbs[k], err));
    }
    const double all = fg_gpu_card_copy_of_all(place, more->node_gbs);
    if (all > 0.0) out->copy_gbs = all;
    return FG_OK;
}

static fg_status prepare(rig *r, uint64_t *free_bytes, fg_err *err)
{
    const fg_driver *d = r->d;
    size_t left = 0, all = 0;
    int result = d->mem_info(&left, &all);
    *free_bytes = left;
    const uint64_t part = left / 4 / WHOLE * WHOLE + WHOLE;
    r->n_copy = part < COPY_BYTES ? part : COPY_BYTES;
    r->n_read = part < READ_BYTES ? part : READ_BYTES;
    if (result == 0) result = d->stream_create(&r->stream, FG_CU_STREAM_NO_WAIT);
    if (result == 0) result = d->event_create(&r->from, 0);
    if (result == 0) result = d->event_create(&r->to, 0);
    if (result == 0) result = d->mem_alloc(&r->card, (size_t)r->n_read);
    if (result == 0) result = d->mem_alloc(&r->sum, 256);
    if (result == 0) result = d->host_alloc(&r->host, (size_t)r->n_copy, FG_CU_HOST_PORTABLE);
    if (result == 0) result = d->fill(r->card, 1, (size_t)r->n_read, r->stream);
    if (result == 0) result = d->fill(r->sum, 0, 256, r->stream);
    FG_TRY(fg_gpu_check(r->g, result, "memory to measure", err));
    memset(r->host, 1, (size_t)r->n_copy);
    return FG_OK;
}

static void clean_up(rig *r)
{
    const fg_driver *d = r->d;
    if (r->g->hangs) return;
    if (r->host != NULL) (void)d->host_free(r->host);
    if (r->card != 0) (void)d->mem_free(r->card);
    if (r->sum != 0) (void)d->mem_free(r->sum);
    if (r->from != NULL) (void)d->event_destroy(r->from);
    if (r->to != NULL) (void)d->event_destroy(r->to);
    if (r->stream != NULL) (void)d->stream_destroy(r->stream);
}

fg_status fg_gpu_card_measure(fg_gpu_card *out, fg_gpu_card_measured *more, uint32_t idx,
                              const fg_place *place, fg_err *err)
{
    rig r = {0};
    *out = (fg_gpu_card){0};
    *more = (fg_gpu_card_measured){0};
    FG_TRY(fg_gpu_open(&r.g, idx, err));
    r.d = r.g->d;
    fg_status st = prepare(&r, &more->free_bytes, err);
    if (st == FG_OK) st = measure(&r, COPY_IN, "copies to it", &out->copy_gbs, err);
    if (st == FG_OK) st = measure(&r, COPY_PIECES, "copies to it", &more->piece_gbs, err);
    if (st == FG_OK && place != NULL && place->n_node > 1) {
        st = measure_nodes(&r, place, out, more, err);
    }
    if (st == FG_OK) st = measure(&r, COPY_OUT, "copies from it", &out->back_gbs, err);
    /* an idle card may have slowed its bus down: it is asked while it is awake */
    if (st == FG_OK) st = fg_gpu_describe(idx, &more->info, err);
    if (st == FG_OK) st = measure(&r, READ, "reads of its memory", &out->read_gbs, err);
    more->driver = r.d->version;
    clean_up(&r);
    fg_gpu_close(&r.g);
    (void)snprintf(out->name, sizeof out->name, "%s", more->info.name);
    out->bytes = more->info.bytes;
    fg_gpu_card_assume(out, more->info.n_sm);
    return st;
}
