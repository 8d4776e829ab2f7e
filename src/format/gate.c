/* SPDX-License-Identifier: MIT */
#include "src/format/gate.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/format/layout.h"

/* States of a chunk. */
enum { NEW, BUSY /* a thread is at it */, RIGHT, WRONG };

struct fg_gate {
    fg_seal *seal;
    const fg_model_file *f;
    uint64_t n_chunk, data_offset, data_bytes;
    atomic_uchar *chunk;  /* [n_chunk] */
    atomic_uchar *expert; /* [n_layer * n_expert] 1: all of its chunks are RIGHT */
    pthread_mutex_t lock; /* of changes of `chunk`, and of err */
    pthread_cond_t moved; /* a chunk is BUSY no more */
    fg_err err;
    _Atomic uint64_t opened, later, later_ns;
};

typedef struct span {
    uint64_t first, end; /* chunks */
} span;

static span chunks_of(const fg_gate *g, uint64_t offset, uint64_t n)
{
    const uint64_t from = offset - g->data_offset;
    return (span){from / FG_FILE_CHUNK, (from + n + FG_FILE_CHUNK - 1) / FG_FILE_CHUNK};
}

static uint64_t bytes_of(const fg_gate *g, uint64_t chunk)
{
    const uint64_t left = g->data_bytes - chunk * FG_FILE_CHUNK;
    return left < FG_FILE_CHUNK ? left : FG_FILE_CHUNK;
}

/* ---- opening ---- */

/* Chunks that a token needs whatever its experts are: 1. */
static uint8_t *mark_dense(const fg_gate *g)
{
    uint8_t *only = fg_mem_zalloc((size_t)g->n_chunk + 1);
    for (uint64_t i = 0; only != NULL && i < fg_model_file_n_tensor(g->f); i++) {
        const fg_tensor *t = fg_model_file_tensor(g->f, i);
        if (t->expert != FG_NO_LAYER) continue;
        const uint64_t from = t->scale_offset != 0 ? t->scale_offset : t->offset;
        const span s = chunks_of(g, from, fg_tensor_end(t) - from);
        memset(only + s.first, 1, (size_t)(s.end - s.first));
    }
    return only;
}

static fg_status compare_first(fg_gate *g, bool all, const fg_seal_pass *pass, fg_err *err)
{
    fg_seal_pass some = *pass;
    uint8_t *only = all ? NULL : mark_dense(g);
    if (!all && only == NULL) return fg_fail_nomem(err, fg_model_file_path(g->f));
    some.only = only;
    const fg_status st = fg_seal_check_data(g->seal, &some, err);
    for (uint64_t i = 0; st == FG_OK && i < g->n_chunk; i++) {
        if (!all && only[i] == 0) continue;
        atomic_store(&g->chunk[i], RIGHT);
        g->opened += bytes_of(g, i);
    }
    fg_mem_free(only);
    return st;
}

fg_status fg_gate_open(fg_gate **out, fg_seal *seal, const fg_model_file *f, bool all,
                       const fg_seal_pass *pass, fg_err *err)
{
    const fg_slot *slot = &fg_model_file_plan(f)->slot;
    const fg_shape *shape = fg_model_file_shape(f);
    fg_gate *g = *out = fg_mem_zalloc(sizeof *g);
    if (g == NULL) {
        fg_seal_close(&seal);
        return fg_fail_nomem(err, fg_model_file_path(f));
    }
    g->seal = seal;
    g->f = f;
    g->n_chunk = slot->n_chunk;
    g->data_offset = slot->data_offset;
    g->data_bytes = slot->data_bytes;
    (void)pthread_mutex_init(&g->lock, NULL);
    (void)pthread_cond_init(&g->moved, NULL);
    g->chunk = fg_mem_zalloc_array((size_t)g->n_chunk + 1, sizeof *g->chunk);
    g->expert =
        fg_mem_zalloc_array((size_t)shape->n_layer * shape->n_expert + 1, sizeof *g->expert);
    const fg_status st = g->chunk == NULL || g->expert == NULL
                             ? fg_fail_nomem(err, fg_model_file_path(f))
                             : compare_first(g, all, pass, err);
    if (st != FG_OK) fg_gate_close(out);
    return st;
}

void fg_gate_close(fg_gate **gate)
{
    fg_gate *g = *gate;
    if (g == NULL) return;
    (void)pthread_cond_destroy(&g->moved);
    (void)pthread_mutex_destroy(&g->lock);
    fg_seal_close(&g->seal);
    fg_mem_free((void *)g->chunk);
    fg_mem_free((void *)g->expert);
    fg_mem_free(g);
    *gate = NULL;
}

/* ---- use ---- */

static bool take(fg_gate *g, uint64_t chunk)
{
    if (atomic_load_explicit(&g->chunk[chunk], memory_order_acquire) != NEW) return false;
    (void)pthread_mutex_lock(&g->lock);
    const bool mine = atomic_load(&g->chunk[chunk]) == NEW;
    if (mine) atomic_store(&g->chunk[chunk], BUSY);
    (void)pthread_mutex_unlock(&g->lock);
    return mine;
}

/* What is no fault of the bytes (no memory, a read that failed) does not make the chunk a wrong
 * one: with --ram an evaluation after that one may come to it again. */
static void give(fg_gate *g, uint64_t chunk, fg_status st, const fg_err *why)
{
    (void)pthread_mutex_lock(&g->lock);
    atomic_store(&g->chunk[chunk], st == FG_OK ? RIGHT : st == FG_ECHECKSUM ? WRONG : NEW);
    if (st != FG_OK && g->err.code == FG_OK) g->err = *why;
    (void)pthread_cond_broadcast(&g->moved);
    (void)pthread_mutex_unlock(&g->lock);
}

/* Whether it is right, after whoever is at it. */
static bool await(fg_gate *g, uint64_t chunk)
{
    if (atomic_load_explicit(&g->chunk[chunk], memory_order_acquire) == RIGHT) return true;
    (void)pthread_mutex_lock(&g->lock);
    while (atomic_load(&g->chunk[chunk]) == BUSY) (void)pthread_cond_wait(&g->moved, &g->lock);
    const bool right = atomic_load(&g->chunk[chunk]) == RIGHT;
    (void)pthread_mutex_unlock(&g->lock);
    return right;
}

/* buf has room for a chunk. */
static fg_status compare(const fg_gate *g, uint64_t chunk, uint64_t offset, uint64_t n,
                         const uint8_t *bytes, uint8_t *buf, fg_err *err)
{
    const uint64_t begin = g->data_offset + chunk * FG_FILE_CHUNK, size = bytes_of(g, chunk);
    const uint64_t end = begin + size, from = offset > begin ? offset : begin,
                   to = offset + n < end ? offset + n : end;
    size_t got;
    if (bytes != NULL && from == begin && to == end)
        return fg_seal_check_chunk(g->seal, chunk, bytes + (begin - offset), (size_t)size, err);
    FG_TRY(fg_model_file_read_chunk(g->f, chunk, buf, &got, err));
    if (bytes != NULL) memcpy(buf + (from - begin), bytes + (from - offset), (size_t)(to - from));
    return fg_seal_check_chunk(g->seal, chunk, buf, got, err);
}

bool fg_gate_pass(fg_gate *g, uint64_t offset, uint64_t n, const uint8_t *bytes)
{
    const span s = chunks_of(g, offset, n);
    const uint64_t start = fg_clock_ns();
    uint8_t *buf = NULL;
    bool good = true;
    for (uint64_t c = s.first; c < s.end; c++) {
        fg_err why = {0};
        if (!take(g, c)) continue;
        if (buf == NULL) buf = fg_mem_alloc((size_t)FG_FILE_CHUNK);
        const fg_status st = buf == NULL ? fg_fail_nomem(&why, fg_model_file_path(g->f))
                                         : compare(g, c, offset, n, bytes, buf, &why);
        give(g, c, st, &why);
        if (st == FG_OK) atomic_fetch_add(&g->later, bytes_of(g, c));
    }
    fg_mem_free(buf);
    for (uint64_t c = s.first; good && c < s.end; c++) good = await(g, c);
    atomic_fetch_add(&g->later_ns, fg_clock_ns() - start);
    return good;
}

bool fg_gate_has(fg_gate *g, uint32_t layer, uint32_t expert)
{
    atomic_uchar *known = &g->expert[(size_t)layer * fg_model_file_shape(g->f)->n_expert + expert];
    if (atomic_load_explicit(known, memory_order_acquire) != 0) return true;
    const fg_extent x = fg_model_file_expert_extent(g->f, layer, expert);
    const span s = chunks_of(g, x.offset, x.bytes);
    for (uint64_t c = s.first; c < s.end; c++)
        if (atomic_load_explicit(&g->chunk[c], memory_order_acquire) != RIGHT) return false;
    atomic_store_explicit(known, 1, memory_order_release);
    return true;
}

bool fg_gate_expert(fg_gate *g, uint32_t layer, uint32_t expert)
{
    if (fg_gate_has(g, layer, expert)) return true;
    const fg_extent x = fg_model_file_expert_extent(g->f, layer, expert);
    return fg_gate_pass(g, x.offset, x.bytes, NULL);
}

fg_status fg_gate_error(fg_gate *g, fg_err *err)
{
    (void)pthread_mutex_lock(&g->lock);
    const fg_err first = g->err;
    (void)pthread_mutex_unlock(&g->lock);
    if (first.code != FG_OK && err != NULL) *err = first;
    return first.code;
}

fg_gate_stats fg_gate_get_stats(fg_gate *g)
{
    return (fg_gate_stats){g->opened, g->later, g->later_ns};
}
