/* SPDX-License-Identifier: MIT
 *
 * Directory (cache.c), memory (slots.c) and reads (drives.c) put together.
 */
#include "src/expert/store.h"

#include <assert.h>
#include <string.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/expert/drives.h"
#include "src/expert/slots.h"
#include "src/format/layout.h"

typedef unsigned long long ull; /* for %llu */

enum { MAX_PAUSE = 1 << 16 };

/* What the predictor gained in the running trial; see store.h. */
typedef struct trial {
    uint32_t n_pass;               /* so far */
    uint32_t n_off, pause;         /* passes that it stays off; length of the next pause */
    int64_t gain_bytes, sum_bytes; /* of this trial; of all that are over */
    uint64_t regret_seen;          /* at the last pass */
    uint32_t n_switch;
} trial;

/* A dense part in the file and in memory. */
typedef struct part {
    uint64_t offset, bytes, at; /* at: in the dense region */
} part;

struct fg_store {
    const fg_model_file *file;
    fg_drives *drives;
    fg_cache *cache;
    fg_slots dense; /* one slot */
    part *parts;    /* [n_part], ascending */
    fg_range *part_read;
    uint32_t n_part;
    fg_slots slots;
    fg_range *range; /* [slots.n] */
    fg_range **used; /* [n_expert] ranges of the running layer's requested experts */
    uint64_t most_bytes;
    fg_predictor *predictor;
    uint64_t n_pass; /* that hinted */
    fg_predict predict;
    uint32_t ahead;
    uint32_t *hint; /* [slots.n] 1 + layer of a hint for one token that has had no use; else 0 */
    trial trial;
    /* the running layer */
    uint32_t layer, n_id, n_seen;
    bool one_token;
    const uint32_t *ids;
    atomic_bool lost; /* a wait failed */
    fg_err err;       /* a read could not even be started */
};

/* ---- sizes ---- */

/* Part 0: embedding; 1 .. n_layer: layers; n_layer + 1: final norm and lm_head. */
static part dense_part(const fg_model_file *f, uint32_t idx)
{
    const uint32_t n_layer = fg_model_file_shape(f)->n_layer, none = FG_NO_LAYER;
    if (idx >= 1 && idx <= n_layer) {
        const fg_extent x = fg_model_file_dense_extent(f, idx - 1);
        return (part){x.offset, x.bytes, 0};
    }
    const fg_tensor *first = fg_model_file_find(f, FG_ROLE_EMBED, none, none), *last = first;
    if (idx != 0) {
        first = fg_model_file_find(f, FG_ROLE_FINAL_NORM, none, none);
        last = fg_model_file_find(f, FG_ROLE_LM_HEAD, none, none);
    }
    const uint64_t from = first->scale_offset != 0 ? first->scale_offset : first->offset;
    return (part){from, fg_round_up(fg_tensor_end(last) - from, FG_IO_ALIGN), 0};
}

uint64_t fg_store_dense_bytes(const fg_model_file *f)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < fg_model_file_shape(f)->n_layer + 2; i++) {
        sum += dense_part(f, i).bytes;
    }
    return sum;
}

uint64_t fg_store_slot_bytes(const fg_model_file *f)
{
    const fg_shape *s = fg_model_file_shape(f);
    uint64_t most = 0;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        for (uint32_t e = 0; e < s->n_expert; e++) {
            const uint64_t n = fg_model_file_expert_extent(f, l, e).bytes;
            if (n > most) most = n;
        }
    }
    return most;
}

static uint64_t min_slots(const fg_shape *s)
{
    return fg_cache_min_slots(s->n_layer, s->n_expert, s->n_used);
}

uint64_t fg_store_min_bytes(const fg_model_file *f)
{
    return fg_store_dense_bytes(f) + min_slots(fg_model_file_shape(f)) * fg_store_slot_bytes(f);
}

uint64_t fg_store_most_bytes(const fg_model_file *f)
{
    const fg_shape *s = fg_model_file_shape(f);
    return fg_store_dense_bytes(f) + (uint64_t)s->n_layer * s->n_expert * fg_store_slot_bytes(f);
}

static uint32_t slots_in(const fg_store *s, uint64_t bytes)
{
    const fg_shape *shape = fg_model_file_shape(s->file);
    const uint64_t all = (uint64_t)shape->n_layer * shape->n_expert;
    const uint64_t n = (bytes - s->dense.slot_bytes) / s->slots.slot_bytes;
    return (uint32_t)(n < all ? n : all);
}

static fg_status check_bytes(const fg_model_file *f, uint64_t bytes, fg_err *err)
{
    const uint64_t least = fg_store_min_bytes(f);
    if (bytes >= least) return FG_OK;
    return fg_fail(err, FG_ELIMIT,
                   "memory for weights: %s, expected at least %llu bytes (%s): dense parts %s, "
                   "%llu experts of %s",
                   fg_text_memory((double)bytes).s, (ull)least, fg_text_memory((double)least).s,
                   fg_text_memory((double)fg_store_dense_bytes(f)).s,
                   (ull)min_slots(fg_model_file_shape(f)),
                   fg_text_memory((double)fg_store_slot_bytes(f)).s);
}

/* ---- creation ---- */

static fg_status read_dense(fg_store *s, fg_err *err)
{
    const fg_model_file *f = s->file;
    s->n_part = fg_model_file_shape(f)->n_layer + 2;
    s->parts = fg_mem_zalloc_array(s->n_part, sizeof *s->parts);
    s->part_read = fg_mem_zalloc_array(s->n_part, sizeof *s->part_read);
    if (s->parts == NULL || s->part_read == NULL) return fg_fail_nomem(err, "dense parts");
    FG_TRY(fg_slots_init(&s->dense, 1, fg_store_dense_bytes(f), "dense parts", err));
    uint64_t at = 0;
    for (uint32_t i = 0; i < s->n_part; i++) {
        part *p = &s->parts[i];
        *p = dense_part(f, i);
        p->at = at;
        at += p->bytes;
        FG_TRY(fg_drives_start(s->drives, &s->part_read[i], s->dense.p + p->at, p->offset, p->bytes,
                               true, err));
    }
    for (uint32_t i = 0; i < s->n_part; i++) {
        if (fg_drives_wait(s->drives, &s->part_read[i], s->parts[i].bytes)) continue;
        const fg_status st = fg_drives_take_error(s->drives, err);
        return st != FG_OK ? st : fg_fail(err, FG_EIO, "dense parts: not read, expected to be");
    }
    return FG_OK;
}

static fg_status create_slots(fg_store *s, const fg_store_opts *o, fg_err *err)
{
    const fg_shape *shape = fg_model_file_shape(s->file);
    s->slots.slot_bytes = fg_store_slot_bytes(s->file);
    const uint32_t n = slots_in(s, o->bytes);
    FG_TRY(fg_slots_init(&s->slots, n, s->slots.slot_bytes, "expert slots", err));
    s->range = fg_mem_zalloc_array(n, sizeof *s->range);
    s->used = fg_mem_zalloc_array(shape->n_expert, sizeof(fg_range *));
    s->hint = fg_mem_zalloc_array(n, sizeof *s->hint);
    if (s->range == NULL || s->used == NULL || s->hint == NULL) {
        return fg_fail_nomem(err, "expert slots");
    }
    const fg_cache_opts co = {.n_layer = shape->n_layer,
                              .n_expert = shape->n_expert,
                              .n_used = shape->n_used,
                              .n_slot = n,
                              .policy = o->policy,
                              .heat = o->heat};
    const fg_predict_opts po = {.kind = o->predict,
                                .n_layer = shape->n_layer,
                                .n_expert = shape->n_expert,
                                .n_used = shape->n_used,
                                .ahead = o->ahead};
    s->predict = o->predict;
    s->ahead = o->ahead == 0 ? FG_PREDICT_DEFAULT_AHEAD : o->ahead;
    s->trial.pause = FG_STORE_PAUSE;
    FG_TRY(fg_predictor_create(&s->predictor, &po, err));
    return fg_cache_create(&s->cache, &co, err);
}

fg_status fg_store_create(fg_store **out, const fg_model_file *file, const fg_store_opts *o,
                          fg_err *err)
{
    *out = NULL;
    FG_TRY(check_bytes(file, o->bytes, err));
    fg_store *s = fg_mem_zalloc(sizeof *s);
    if (s == NULL) return fg_fail_nomem(err, "expert store");
    s->file = file;
    s->most_bytes = o->bytes;
    fg_status st = fg_drives_create(&s->drives, file, &o->io, err);
    if (st == FG_OK) st = read_dense(s, err);
    if (st == FG_OK) st = create_slots(s, o, err);
    if (st != FG_OK) {
        fg_store_destroy(&s);
        return st;
    }
    *out = s;
    return FG_OK;
}

void fg_store_destroy(fg_store **store)
{
    fg_store *s = *store;
    if (s == NULL) return;
    fg_drives_destroy(&s->drives); /* first: reads in flight write into the memory below */
    fg_cache_destroy(&s->cache);
    fg_predictor_destroy(&s->predictor);
    for (uint32_t i = 0; s->part_read != NULL && i < s->n_part; i++) {
        fg_range_fini(&s->part_read[i]);
    }
    for (uint64_t i = 0; s->range != NULL && i < s->slots.n; i++) fg_range_fini(&s->range[i]);
    fg_mem_free(s->parts);
    fg_mem_free(s->part_read);
    fg_mem_free(s->range);
    fg_mem_free(s->used);
    fg_mem_free(s->hint);
    fg_slots_fini(&s->dense);
    fg_slots_fini(&s->slots);
    fg_mem_free(s);
    *store = NULL;
}

/* The slot's expert is gone: so is its memory, once no read writes into it any more. */
static void empty_slot(void *ctx, uint32_t slot)
{
    fg_store *s = ctx;
    s->hint[slot] = 0;
    fg_drives_drain(s->drives, &s->range[slot]);
    fg_slots_discard(&s->slots, slot);
}

fg_status fg_store_set_bytes(fg_store *s, uint64_t bytes, fg_err *err)
{
    FG_TRY(check_bytes(s->file, bytes, err));
    if (bytes > s->most_bytes) bytes = s->most_bytes;
    fg_cache_set_limit(s->cache, slots_in(s, bytes), empty_slot, s);
    return FG_OK;
}

const uint8_t *fg_store_dense(const fg_store *s, uint64_t offset)
{
    uint32_t lo = 0, hi = s->n_part;
    while (hi - lo > 1) {
        const uint32_t mid = lo + (hi - lo) / 2;
        if (offset < s->parts[mid].offset) {
            hi = mid;
        } else {
            lo = mid;
        }
    }
    const part *p = &s->parts[lo];
    assert(offset >= p->offset && offset - p->offset < p->bytes);
    return s->dense.p + p->at + (offset - p->offset);
}

/* ---- a layer ---- */

static void start(fg_store *s, uint32_t layer, uint32_t expert, uint32_t slot, bool urgent)
{
    const fg_extent x = fg_model_file_expert_extent(s->file, layer, expert);
    s->hint[slot] = 0;
    fg_err *err = s->err.code == FG_OK ? &s->err : NULL;
    fg_slots_use(&s->slots, slot);
    (void)fg_drives_start(s->drives, &s->range[slot], fg_slots_at(&s->slots, slot), x.offset,
                          x.bytes, urgent, urgent ? err : NULL);
}

void fg_store_begin_layer(fg_store *s, uint32_t layer, uint32_t *ids, uint32_t n)
{
    s->layer = layer;
    s->ids = ids;
    s->n_id = n;
    s->n_seen = 0;
    s->one_token = false;
    fg_cache_begin(s->cache, layer, ids, n);
}

uint32_t fg_store_next_wave(fg_store *s)
{
    const fg_cache_load *loads;
    uint32_t n_load, k = 0;
    const uint32_t n = fg_cache_next(s->cache, &loads, &n_load);
    const uint32_t n_requested = n == 0 ? s->n_id : fg_cache_n_requested(s->cache);
    for (; s->n_seen < n_requested; s->n_seen++) {
        const uint32_t e = s->ids[s->n_seen], slot = fg_cache_slot(s->cache, s->layer, e);
        fg_range *range = s->used[e] = &s->range[slot];
        const bool miss = k < n_load && loads[k].expert == e; /* loads are in the order of ids */
        k += miss;
        if (s->hint[slot] != 0 && !miss) { /* its first use */
            s->trial.gain_bytes += (int64_t)fg_drives_arrived(range);
            s->hint[slot] = 0;
        }
        /* a hit may be one that its prefetch, or an earlier request, could not read */
        if (miss || !fg_drives_hurry(s->drives, range)) start(s, s->layer, e, slot, true);
    }
    return n;
}

const uint8_t *fg_store_data(const fg_store *s, uint32_t expert)
{
    return s->used[expert]->dst;
}

bool fg_store_wait(fg_store *s, uint32_t expert, uint64_t bytes)
{
    if (fg_drives_wait(s->drives, s->used[expert], bytes)) return true;
    atomic_store(&s->lost, true);
    return false;
}

/* ---- reading ahead ---- */

uint32_t fg_store_guess_layers(const fg_store *s)
{
    const fg_shape *shape = fg_model_file_shape(s->file);
    const bool wanted = fg_predict_get(s->predict)->asks_routers &&
                        fg_predictor_is_on(s->predictor) &&
                        fg_cache_n_present(s->cache) < shape->n_layer * shape->n_expert;
    return wanted ? s->ahead : 0;
}

/* What was hinted about this layer and is not part of it need not be read any further. */
static void drop_wrong_hints(fg_store *s)
{
    for (uint64_t i = 0; i < s->slots.n; i++) {
        if (s->hint[i] != s->layer + 1) continue;
        s->trial.gain_bytes -= (int64_t)fg_drives_delay(s->drives, &s->range[i]);
        fg_drives_cancel(s->drives, &s->range[i]);
        s->hint[i] = 0;
    }
}

void fg_store_hint(fg_store *s, const uint32_t *sel, uint32_t n_tok, const fg_guess *guess)
{
    fg_cache_load loads[FG_PREDICT_HINTS];
    s->one_token = n_tok == 1;
    s->n_pass += s->layer == 0;
    drop_wrong_hints(s);
    const uint32_t n =
        fg_predictor_hints(s->predictor, s->cache, s->layer, sel, n_tok, guess, loads);
    for (uint32_t i = 0; i < n; i++) {
        start(s, loads[i].layer, loads[i].expert, loads[i].slot, false);
        if (s->one_token) s->hint[loads[i].slot] = 1 + loads[i].layer;
    }
}

uint64_t fg_store_pass(const fg_store *s)
{
    return s->n_pass;
}

void fg_store_rewind(fg_store *s, uint64_t pass, const uint32_t *sel, uint64_t n_row,
                     uint32_t n_kept)
{
    if (pass == s->n_pass) fg_predictor_rewind(s->predictor, sel, n_row, n_kept);
}

/* At the end of a pass: does the predictor pay? */
static void judge(fg_store *s)
{
    trial *t = &s->trial;
    const uint64_t regret = fg_cache_get_stats(s->cache).n_regret;
    const uint64_t cost = (regret - t->regret_seen) * s->slots.slot_bytes;
    t->regret_seen = regret;
    if (!s->one_token || s->predict == FG_PREDICT_NONE) return;
    if (t->n_off > 0) {
        if (--t->n_off == 0) fg_predictor_set_on(s->predictor, true);
        t->gain_bytes = 0; /* of hints from before */
        return;
    }
    t->gain_bytes -= (int64_t)cost;
    if (++t->n_pass < FG_STORE_TRIAL) return;
    if (t->gain_bytes < 0) {
        fg_predictor_set_on(s->predictor, false);
        t->n_switch++;
        t->n_off = t->pause;
        if (t->pause < MAX_PAUSE) t->pause *= 2;
    }
    FG_LOG(1, "predictor %s: gain %lld bytes in %d passes, now %s", fg_predict_name(s->predict),
           (long long)t->gain_bytes, FG_STORE_TRIAL, t->n_off == 0 ? "on" : "off");
    t->sum_bytes += t->gain_bytes;
    t->gain_bytes = 0;
    t->n_pass = 0;
}

fg_status fg_store_end_layer(fg_store *s, fg_err *err)
{
    fg_cache_end(s->cache);
    if (s->layer + 1 == fg_model_file_shape(s->file)->n_layer) judge(s);
    if (!atomic_load(&s->lost)) return FG_OK;
    atomic_store(&s->lost, false);
    fg_err first = s->err;
    s->err.code = FG_OK;
    if (fg_drives_take_error(s->drives, &first) == FG_OK && first.code == FG_OK) {
        return fg_fail(err, FG_EIO, "%s: an expert of layer %u was not read, expected to be",
                       fg_model_file_path(s->file), s->layer);
    }
    if (err != NULL) *err = first;
    return first.code;
}

fg_store_stats fg_store_get_stats(fg_store *s)
{
    const fg_shape *shape = fg_model_file_shape(s->file);
    return (fg_store_stats){.cache = fg_cache_get_stats(s->cache),
                            .io = fg_drives_get_stats(s->drives),
                            .dense_bytes = s->dense.slot_bytes,
                            .slot_bytes = s->slots.slot_bytes,
                            .n_slot = fg_cache_limit(s->cache),
                            .n_total = shape->n_layer * shape->n_expert,
                            .predict = s->predict,
                            .predict_on = fg_predictor_is_on(s->predictor),
                            .n_switch = s->trial.n_switch,
                            .gain_bytes = s->trial.sum_bytes + s->trial.gain_bytes};
}
