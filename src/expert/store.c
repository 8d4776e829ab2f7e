/* SPDX-License-Identifier: MIT
 *
 * Directory (policy.c), memory (slots.c) and reads (reader_io.c) put together.
 */
#include "src/expert/store.h"

#include <assert.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/expert/slots.h"
#include "src/format/layout.h"

typedef unsigned long long ull; /* for %llu */

/* A dense part in the file and in memory. */
typedef struct part {
    uint64_t offset, bytes, at; /* at: in the dense region */
} part;

struct fg_store {
    const fg_model_file *file;
    fg_reader *reader;
    fg_cache *cache;
    fg_slots dense; /* one slot */
    part *parts;    /* [n_part], ascending */
    fg_load *part_load;
    uint32_t n_part;
    fg_slots slots;
    fg_load *load;  /* [slots.n] */
    fg_load **used; /* [n_expert] loads of the running layer's requested experts */
    uint64_t most_bytes;
    /* the running layer */
    uint32_t layer, n_id, n_seen;
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
                   "memory for weights: %llu bytes, expected at least %llu: dense parts %llu, %llu "
                   "experts of %llu",
                   (ull)bytes, (ull)least, (ull)fg_store_dense_bytes(f),
                   (ull)min_slots(fg_model_file_shape(f)), (ull)fg_store_slot_bytes(f));
}

/* ---- creation ---- */

/* The reader opened the path anew: it must have found the file whose directory we hold. */
static fg_status check_same_file(fg_store *s, fg_err *err)
{
    uint8_t slots[FG_N_SLOT * FG_SLOT_BYTES];
    fg_slot slot;
    const char *path = fg_model_file_path(s->file);
    FG_TRY(fg_reader_peek(s->reader, slots, sizeof slots, 0, err));
    FG_TRY(fg_slot_read(&slot, slots, fg_model_file_size(s->file), path, err));
    if (slot.data_root == fg_model_file_data_root(s->file)) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: changed while being opened, expected one file", path);
}

static fg_status read_dense(fg_store *s, fg_err *err)
{
    const fg_model_file *f = s->file;
    s->n_part = fg_model_file_shape(f)->n_layer + 2;
    s->parts = fg_mem_zalloc_array(s->n_part, sizeof *s->parts);
    s->part_load = fg_mem_zalloc_array(s->n_part, sizeof *s->part_load);
    if (s->parts == NULL || s->part_load == NULL) return fg_fail_nomem(err, "dense parts");
    FG_TRY(fg_slots_init(&s->dense, 1, fg_store_dense_bytes(f), "dense parts", err));
    uint64_t at = 0;
    for (uint32_t i = 0; i < s->n_part; i++) {
        part *p = &s->parts[i];
        *p = dense_part(f, i);
        p->at = at;
        at += p->bytes;
        FG_TRY(fg_reader_start(s->reader, &s->part_load[i], s->dense.p + p->at, p->offset, p->bytes,
                               true, err));
    }
    for (uint32_t i = 0; i < s->n_part; i++) {
        if (fg_reader_wait(s->reader, &s->part_load[i], s->parts[i].bytes)) continue;
        const fg_status st = fg_reader_take_error(s->reader, err);
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
    s->load = fg_mem_zalloc_array(n, sizeof *s->load);
    s->used = fg_mem_zalloc_array(shape->n_expert, sizeof(fg_load *));
    if (s->load == NULL || s->used == NULL) return fg_fail_nomem(err, "expert slots");
    const fg_cache_opts co = {.n_layer = shape->n_layer,
                              .n_expert = shape->n_expert,
                              .n_used = shape->n_used,
                              .n_slot = n,
                              .policy = o->policy,
                              .heat = o->heat};
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
    fg_status st = fg_reader_create(&s->reader, fg_model_file_path(file), &o->io, err);
    if (st == FG_OK) st = check_same_file(s, err);
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
    fg_reader_destroy(&s->reader); /* first: reads in flight write into the memory below */
    fg_cache_destroy(&s->cache);
    for (uint32_t i = 0; s->part_load != NULL && i < s->n_part; i++) fg_load_fini(&s->part_load[i]);
    for (uint64_t i = 0; s->load != NULL && i < s->slots.n; i++) fg_load_fini(&s->load[i]);
    fg_mem_free(s->parts);
    fg_mem_free(s->part_load);
    fg_mem_free(s->load);
    fg_mem_free(s->used);
    fg_slots_fini(&s->dense);
    fg_slots_fini(&s->slots);
    fg_mem_free(s);
    *store = NULL;
}

/* The slot's expert is gone: so is its memory, once no read writes into it any more. */
static void empty_slot(void *ctx, uint32_t slot)
{
    fg_store *s = ctx;
    fg_reader_drain(s->reader, &s->load[slot]);
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
    fg_err *err = s->err.code == FG_OK ? &s->err : NULL;
    (void)fg_reader_start(s->reader, &s->load[slot], fg_slots_at(&s->slots, slot), x.offset,
                          x.bytes, urgent, urgent ? err : NULL);
}

void fg_store_begin_layer(fg_store *s, uint32_t layer, uint32_t *ids, uint32_t n)
{
    s->layer = layer;
    s->ids = ids;
    s->n_id = n;
    s->n_seen = 0;
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
        fg_load *load = s->used[e] = &s->load[slot];
        const bool miss = k < n_load && loads[k].expert == e; /* loads are in the order of ids */
        k += miss;
        /* a hit may be one that its prefetch, or an earlier request, could not read */
        if (miss || !fg_reader_hurry(s->reader, load)) start(s, s->layer, e, slot, true);
    }
    return n;
}

const uint8_t *fg_store_data(const fg_store *s, uint32_t expert)
{
    return s->used[expert]->dst;
}

bool fg_store_wait(fg_store *s, uint32_t expert, uint64_t bytes)
{
    if (fg_reader_wait(s->reader, s->used[expert], bytes)) return true;
    atomic_store(&s->lost, true);
    return false;
}

fg_status fg_store_end_layer(fg_store *s, fg_err *err)
{
    fg_cache_end(s->cache);
    if (!atomic_load(&s->lost)) return FG_OK;
    atomic_store(&s->lost, false);
    fg_err first = s->err;
    s->err.code = FG_OK;
    if (fg_reader_take_error(s->reader, &first) == FG_OK && first.code == FG_OK) {
        return fg_fail(err, FG_EIO, "%s: an expert of layer %u was not read, expected to be",
                       fg_model_file_path(s->file), s->layer);
    }
    if (err != NULL) *err = first;
    return first.code;
}

void fg_store_prefetch(fg_store *s, uint32_t layer, const uint32_t *ids, uint32_t n)
{
    fg_cache_load load;
    for (uint32_t i = 0; i < n; i++) {
        if (!fg_cache_prefetch(s->cache, layer, ids[i], &load)) continue;
        start(s, load.layer, load.expert, load.slot, false);
    }
}

fg_store_stats fg_store_get_stats(fg_store *s)
{
    const fg_shape *shape = fg_model_file_shape(s->file);
    return (fg_store_stats){.cache = fg_cache_get_stats(s->cache),
                            .io = fg_reader_get_stats(s->reader),
                            .dense_bytes = s->dense.slot_bytes,
                            .slot_bytes = s->slots.slot_bytes,
                            .n_slot = fg_cache_limit(s->cache),
                            .n_total = shape->n_layer * shape->n_expert};
}
