/* SPDX-License-Identifier: MIT
 *
 * The taps of a session, written down.
 */
#include "src/eval/recorder.h"

#include <string.h>

#include "src/base/mem.h"
#include "src/format/write/append.h"
#include "src/engine/session.h"
#include "src/model/forward.h"
#include "src/engine/memory.h"

struct fg_recorder {
    fg_engine *e;
    fg_session *s;
    fg_trace_writer *w; /* NULL: counts only */
    uint64_t *heat;     /* [n_layer * n_expert] */
    uint32_t n_expert, n_used;
    uint64_t pos; /* of the running pass */
    bool runs;    /* there is one */
};

/* Tokens of the pass that has ended: the session knows them until the next one has. */
static void put_tokens(fg_recorder *r)
{
    if (r->runs) fg_trace_tokens(r->w, fg_session_ids(r->s) + r->pos);
    r->runs = false;
}

static void on_experts(void *ctx, uint32_t layer, uint64_t pos, uint64_t n_tok, const uint32_t *sel,
                       const float *weights)
{
    fg_recorder *r = ctx;
    (void)weights;
    for (uint64_t i = 0; i < n_tok * r->n_used; i++) {
        r->heat[(uint64_t)layer * r->n_expert + sel[i]]++;
    }
    if (r->w == NULL) return;
    if (layer == 0) {
        const fg_store_stats *store = fg_engine_store_stats(r->e); /* on or off for all the pass */
        put_tokens(r);
        fg_trace_at(r->w, pos);
        r->pos = pos;
        r->runs = true;
        fg_trace_begin(r->w, (uint32_t)n_tok, store == NULL || store->predict_on);
    }
    fg_trace_layer(r->w, layer, sel);
}

static void on_guess(void *ctx, uint32_t layer, uint64_t pos, const fg_guess *guess)
{
    fg_recorder *r = ctx;
    (void)pos;
    fg_trace_guess(r->w, layer, guess);
}

/* A trace is the whole life of its store. */
static fg_status check_fresh(const fg_session *s, const fg_store_stats *store, fg_err *err)
{
    const fg_cache_stats none = {0};
    const uint64_t pos = fg_session_pos(s);
    if (pos != 0) {
        return fg_fail(err, FG_EINVAL, "trace: a session of %llu tokens, expected a fresh one",
                       (unsigned long long)pos);
    }
    if (store == NULL || memcmp(&store->cache, &none, sizeof none) == 0) return FG_OK;
    return fg_fail(err, FG_EINVAL,
                   "trace: a store that was in use, expected an engine that nothing ran on");
}

static fg_status open_trace(fg_recorder *r, const fg_engine_opts *o, const char *path, bool text,
                            fg_err *err)
{
    const fg_model_file *f = fg_engine_file(r->e);
    const fg_shape *shape = fg_engine_shape(r->e);
    const fg_store_stats *store = fg_engine_store_stats(r->e);
    fg_heat heat;
    fg_trace_head h = {.n_layer = shape->n_layer,
                       .n_expert = shape->n_expert,
                       .n_used = shape->n_used,
                       .data_root = fg_model_file_data_root(f),
                       .dense_bytes = fg_store_dense_bytes(f),
                       .slot_bytes = fg_store_slot_bytes(f),
                       .session_bytes = fg_session_bytes(r->s),
                       .policy = FG_POLICY_LRU,
                       .predict = FG_PREDICT_NONE,
                       .ahead = o->ahead == 0 ? FG_PREDICT_DEFAULT_AHEAD : o->ahead,
                       .n_vocab = text ? shape->n_vocab : 0};
    if (store != NULL) {
        h.ram_bytes = o->ram_bytes;
        h.predict = store->predict;
        h.policy = o->policy;
    }
    FG_TRY(check_fresh(r->s, store, err));
    FG_TRY(fg_heat_load(f, &heat, err));
    const fg_status st = fg_trace_create(&r->w, path, &h, heat.use, err);
    fg_mem_free(heat.use);
    return st;
}

fg_status fg_recorder_create(fg_recorder **out, fg_engine *e, fg_session *s,
                             const fg_engine_opts *o, const char *path, bool text, fg_err *err)
{
    *out = NULL;
    const fg_shape *shape = fg_engine_shape(e);
    fg_recorder *r = fg_mem_zalloc(sizeof *r);
    if (r == NULL) return fg_fail_nomem(err, "trace");
    *r = (fg_recorder){.e = e, .s = s, .n_expert = shape->n_expert, .n_used = shape->n_used};
    r->heat = fg_mem_zalloc_array((size_t)shape->n_layer * shape->n_expert, sizeof *r->heat);
    fg_status st = r->heat == NULL ? fg_fail_nomem(err, "trace") : FG_OK;
    if (st == FG_OK && path != NULL) st = open_trace(r, o, path, text, err);
    if (st != FG_OK) {
        fg_recorder_destroy(&r);
        return st;
    }
    const fg_taps taps = {
        .experts = on_experts, .guesses = path == NULL ? NULL : on_guess, .ctx = r};
    fg_session_set_taps(s, &taps);
    *out = r;
    return FG_OK;
}

const uint64_t *fg_recorder_heat(const fg_recorder *r)
{
    return r->heat;
}

fg_status fg_recorder_finish(fg_recorder *r, fg_err *err)
{
    if (r->w == NULL) return FG_OK;
    put_tokens(r);
    fg_trace_at(r->w, fg_session_pos(r->s)); /* rows of the last pass may be gone */
    return fg_trace_finish(r->w, err);
}

void fg_recorder_destroy(fg_recorder **r)
{
    if (*r == NULL) return;
    fg_session_set_taps((*r)->s, NULL);
    fg_trace_writer_destroy(&(*r)->w);
    fg_mem_free((*r)->heat);
    fg_mem_free(*r);
    *r = NULL;
}

fg_status fg_trace_slots(const fg_trace_head *h, uint64_t ram_bytes, uint32_t *n_slot, fg_err *err)
{
    const uint64_t all = (uint64_t)h->n_layer * h->n_expert;
    const uint64_t least = fg_cache_min_slots(h->n_layer, h->n_expert, h->n_used);
    uint64_t fixed, weights;
    if (!fg_mul_u64(least, h->slot_bytes, &fixed) || !fg_add_u64(fixed, h->dense_bytes, &fixed)) {
        fixed = UINT64_MAX;
    }
    FG_TRY(fg_memory_for_weights(&weights, ram_bytes, h->session_bytes, fixed, err));
    const uint64_t n = (weights - h->dense_bytes) / h->slot_bytes;
    *n_slot = (uint32_t)(n < all ? n : all);
    return FG_OK;
}

fg_status fg_heat_store(const char *path, const fg_heat *h, fg_err *err)
{
    fg_append *a;
    fg_buf b = {0};
    FG_TRY(fg_append_open(&a, path, err));
    const fg_model_file *f = fg_append_file(a);
    fg_status st = FG_OK;
    if (fg_model_file_data_root(f) != h->data_root) {
        st = fg_fail(err, FG_EINVAL,
                     "%s: holds other weights than were traced, expected the same file; trace "
                     "again",
                     path);
    }
    if (st == FG_OK) st = fg_heat_encode(&b, h, f, err);
    if (st == FG_OK) st = fg_append_meta(a, FG_HEAT_KEY, b.data, b.len, err);
    fg_buf_fini(&b);
    fg_append_close(&a);
    return st;
}
