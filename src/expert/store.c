/* SPDX-License-Identifier: MIT
 *
 * Directory (cache.c), memory (slots.c) and reads (drives.c) put together.
 */
#include "src/expert/store.h"

#include <assert.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/expert/drives.h"
#include "src/expert/judge.h"
#include "src/expert/slots.h"
#include "src/format/layout.h"

typedef unsigned long long ull; /* for %llu */

/* A dense part in the file. */
typedef struct part {
    uint64_t offset, bytes;
} part;

struct fg_store {
    const fg_model_file *file;
    const fg_slices *slices;
    fg_place *own_place; /* where none was given */
    fg_slices *own_slices;
    uint32_t n_node;
    fg_drives *drives;
    fg_gate *gate; /* may be NULL */
    fg_cache *cache;
    fg_slots dense[FG_MAX_NODE];      /* of one slot each */
    fg_slots slots[FG_MAX_NODE];      /* a slot is the same number of all of them */
    uint64_t dense_bytes, slot_bytes; /* of all nodes */
    uint64_t bytes;                   /* the bound now */
    uint64_t left_out;                /* of dense_bytes: products that do not count */
    bool later;                       /* dense parts are to be read yet */
    bool kept;                        /* they are without products */
    uint32_t n_slot;
    fg_range *range; /* [n_slot][n_node][FG_EXPERT_PIECES] */
    uint32_t *used;  /* [n_expert] slots of the running layer's requested experts */
    uint64_t most_bytes;
    fg_predictor *predictor;
    uint64_t n_pass; /* that hinted */
    fg_predict predict;
    uint32_t ahead;
    uint32_t *hint; /* [n_slot] 1 + layer of a hint for one token that has had no use; else 0 */
    fg_judge judge;
    uint64_t (*clock)(void); /* nanoseconds; NULL: not judged */
    uint64_t last_ns;        /* when the last pass of one token ended; 0: another pass followed */
    fg_cache_stats seen;     /* as of then */
    uint64_t n_single, n_hinted;
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
        return (part){x.offset, x.bytes};
    }
    const fg_tensor *first = fg_model_file_find(f, FG_ROLE_EMBED, none, none), *last = first;
    if (idx != 0) {
        first = fg_model_file_find(f, FG_ROLE_FINAL_NORM, none, none);
        last = fg_model_file_find(f, FG_ROLE_LM_HEAD, none, none);
    }
    const uint64_t from = first->scale_offset != 0 ? first->scale_offset : first->offset;
    return (part){from, fg_round_up(fg_tensor_end(last) - from, FG_IO_ALIGN)};
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

/* Bytes of all nodes. */
static uint64_t dense_of(const fg_slices *s)
{
    uint64_t sum = 0;
    for (uint32_t k = 0; k < fg_slices_n_node(s); k++) {
        sum += fg_slices_bytes(s, FG_NO_LAYER, FG_NO_LAYER, k);
    }
    return sum;
}

static uint64_t slot_of(const fg_slices *s)
{
    uint64_t sum = 0;
    for (uint32_t k = 0; k < fg_slices_n_node(s); k++) sum += fg_slices_slot(s, k);
    return sum;
}

uint64_t fg_store_least_of(const fg_model_file *f, const fg_slices *s)
{
    return dense_of(s) + min_slots(fg_model_file_shape(f)) * slot_of(s);
}

uint64_t fg_store_most_of(const fg_model_file *f, const fg_slices *s)
{
    const fg_shape *shape = fg_model_file_shape(f);
    return dense_of(s) + (uint64_t)shape->n_layer * shape->n_expert * slot_of(s);
}

static uint32_t slots_in(const fg_store *s, uint64_t bytes)
{
    const fg_shape *shape = fg_model_file_shape(s->file);
    const uint64_t all = (uint64_t)shape->n_layer * shape->n_expert;
    const uint64_t n = (bytes - (s->dense_bytes - s->left_out)) / s->slot_bytes;
    return (uint32_t)(n < all ? n : all);
}

static fg_status check_bytes(const fg_store *s, uint64_t bytes, fg_err *err)
{
    const uint64_t n = min_slots(fg_model_file_shape(s->file));
    const uint64_t least = s->dense_bytes + n * s->slot_bytes;
    if (bytes >= least) return FG_OK;
    return fg_fail(err, FG_ELIMIT,
                   "memory for weights: %s, expected at least %llu bytes (%s): dense parts %s, "
                   "%llu experts of %s",
                   fg_text_memory((double)bytes).s, (ull)least, fg_text_memory((double)least).s,
                   fg_text_memory((double)s->dense_bytes).s, (ull)n,
                   fg_text_memory((double)s->slot_bytes).s);
}

/* ---- creation ---- */

static fg_status take_slices(fg_store *s, const fg_store_opts *o, fg_err *err)
{
    s->slices = o->slices;
    if (s->slices == NULL) {
        const fg_place_opts one = {.n_worker = 1};
        FG_TRY(fg_place_make(&s->own_place, NULL, &one, err));
        FG_TRY(fg_slices_create(&s->own_slices, fg_model_file_plan(s->file), s->own_place, err));
        s->slices = s->own_slices;
    }
    s->n_node = fg_slices_n_node(s->slices);
    s->dense_bytes = dense_of(s->slices);
    s->slot_bytes = slot_of(s->slices);
    return check_bytes(s, o->bytes, err);
}

static fg_status read_pieces(fg_store *s, const fg_slice *piece, fg_range *range, size_t n,
                             fg_err *err)
{
    for (size_t i = 0; i < n; i++) {
        FG_TRY(fg_drives_start(s->drives, &range[i], s->dense[piece[i].node].p + piece[i].at,
                               piece[i].offset, piece[i].bytes, true, err));
    }
    for (size_t i = 0; i < n; i++) {
        if (fg_drives_wait(s->drives, &range[i], piece[i].bytes)) continue;
        const fg_status st = fg_drives_take_error(s->drives, err);
        return st != FG_OK ? st : fg_fail(err, FG_EIO, "dense parts: not read, expected to be");
    }
    return FG_OK;
}

/* The pieces of a node's dense part; out may be NULL. */
static size_t dense_pieces(const fg_store *s, uint32_t node, fg_slice *out)
{
    return s->kept ? fg_slices_pieces_kept(s->slices, node, out)
                   : fg_slices_pieces(s->slices, FG_NO_LAYER, FG_NO_LAYER, node, out);
}

static fg_status read_dense(fg_store *s, uint32_t node, fg_err *err)
{
    const size_t n = dense_pieces(s, node, NULL);
    fg_slice *piece = fg_mem_zalloc_array(n, sizeof *piece);
    fg_range *range = fg_mem_zalloc_array(n, sizeof *range);
    fg_status st = FG_OK;
    if (piece == NULL || range == NULL) st = fg_fail_nomem(err, "dense parts");
    if (st == FG_OK) {
        (void)dense_pieces(s, node, piece);
        st = read_pieces(s, piece, range, n, err);
        for (size_t i = 0; i < n; i++) { /* after a failure some are on their way still */
            fg_drives_drain(s->drives, &range[i]);
            fg_range_fini(&range[i]);
        }
    }
    fg_mem_free(piece);
    fg_mem_free(range);
    return st;
}

static uint64_t products_of(const fg_slices *s)
{
    uint64_t sum = 0;
    for (uint32_t k = 0; k < fg_slices_n_node(s); k++) sum += fg_slices_products(s, k);
    return sum;
}

/* As many slots as there can be: with o->later without the products. */
static fg_status create_slots(fg_store *s, const fg_store_opts *o, fg_err *err)
{
    s->later = o->later;
    s->left_out = o->later ? products_of(s->slices) : 0;
    const fg_shape *shape = fg_model_file_shape(s->file);
    const uint32_t n = slots_in(s, o->bytes);
    for (uint32_t k = 0; k < s->n_node; k++) {
        const fg_slots_opts so = {.place = fg_slices_place(s->slices), .node = k};
        FG_TRY(
            fg_slots_init(&s->slots[k], n, fg_slices_slot(s->slices, k), "expert slots", &so, err));
    }
    s->n_slot = n;
    s->range = fg_mem_zalloc_array((size_t)n * s->n_node * FG_EXPERT_PIECES, sizeof *s->range);
    s->used = fg_mem_zalloc_array(shape->n_expert, sizeof *s->used);
    s->hint = fg_mem_zalloc_array(n, sizeof *s->hint);
    if (s->range == NULL || s->used == NULL || s->hint == NULL) {
        return fg_fail_nomem(err, "expert slots");
    }
    const fg_cache_opts co = {.n_layer = shape->n_layer,
                              .n_expert = shape->n_expert,
                              .n_used = shape->n_used,
                              .n_slot = n,
                              .policy = o->policy,
                              .heat = o->heat,
                              .hinted = o->predict != FG_PREDICT_NONE};
    const fg_predict_opts po = {.kind = o->predict,
                                .n_layer = shape->n_layer,
                                .n_expert = shape->n_expert,
                                .n_used = shape->n_used,
                                .ahead = o->ahead,
                                .model = o->model,
                                .n_vocab = shape->n_vocab};
    s->predict = o->predict;
    s->ahead = o->ahead == 0 ? FG_PREDICT_DEFAULT_AHEAD : o->ahead;
    fg_judge_init(&s->judge);
    s->clock = fg_clock_ns;
    FG_TRY(fg_predictor_create(&s->predictor, &po, err));
    fg_predictor_set_on(s->predictor, fg_judge_is_on(&s->judge));
    return fg_cache_create(&s->cache, &co, err);
}

fg_status fg_store_create(fg_store **out, const fg_model_file *file, const fg_store_opts *o,
                          fg_err *err)
{
    *out = NULL;
    fg_store *s = fg_mem_zalloc(sizeof *s);
    if (s == NULL) return fg_fail_nomem(err, "expert store");
    s->file = file;
    s->gate = o->gate;
    s->most_bytes = s->bytes = o->bytes;
    fg_status st = take_slices(s, o, err);
    if (st == FG_OK) st = fg_drives_create(&s->drives, file, &o->io, err);
    for (uint32_t k = 0; k < s->n_node && st == FG_OK; k++) {
        const fg_slots_opts so = {.place = fg_slices_place(s->slices), .node = k};
        const uint64_t bytes = fg_slices_bytes(s->slices, FG_NO_LAYER, FG_NO_LAYER, k);
        st = fg_slots_init(&s->dense[k], 1, bytes, "dense parts", &so, err);
        if (st == FG_OK && !o->later) st = read_dense(s, k, err);
    }
    if (st == FG_OK) st = create_slots(s, o, err);
    if (st != FG_OK) {
        fg_store_destroy(&s);
        return st;
    }
    *out = s;
    return FG_OK;
}

fg_status fg_store_fill(fg_store *s, bool kept, fg_err *err)
{
    if (!s->later) return FG_OK;
    s->later = false;
    s->kept = kept;
    if (!kept) fg_store_count_products(s);
    for (uint32_t k = 0; k < s->n_node; k++) FG_TRY(read_dense(s, k, err));
    return FG_OK;
}

bool fg_store_has_products(const fg_store *s)
{
    return !s->kept;
}

void fg_store_destroy(fg_store **store)
{
    fg_store *s = *store;
    if (s == NULL) return;
    fg_drives_destroy(&s->drives); /* first: reads in flight write into the memory below */
    fg_cache_destroy(&s->cache);
    fg_predictor_destroy(&s->predictor);
    const size_t n_range = (size_t)s->n_slot * s->n_node * FG_EXPERT_PIECES;
    for (size_t i = 0; s->range != NULL && i < n_range; i++) fg_range_fini(&s->range[i]);
    fg_mem_free(s->range);
    fg_mem_free(s->used);
    fg_mem_free(s->hint);
    for (uint32_t k = 0; k < s->n_node; k++) {
        fg_slots_fini(&s->dense[k]);
        fg_slots_fini(&s->slots[k]);
    }
    fg_slices_destroy(&s->own_slices);
    fg_place_destroy(&s->own_place);
    fg_mem_free(s);
    *store = NULL;
}

/* ---- a slot: the pieces of its expert, as one ---- */

static fg_range *piece_of(const fg_store *s, uint32_t slot, uint32_t node, uint32_t piece)
{
    return &s->range[((size_t)slot * s->n_node + node) * FG_EXPERT_PIECES + piece];
}

static fg_range *first_piece(const fg_store *s, uint32_t slot)
{
    return piece_of(s, slot, 0, 0);
}

static uint32_t n_piece(const fg_store *s)
{
    return s->n_node * FG_EXPERT_PIECES;
}

static bool hurry(fg_store *s, uint32_t slot)
{
    bool ok = true, some = false;
    for (uint32_t i = 0; i < n_piece(s); i++) {
        fg_range *r = first_piece(s, slot) + i;
        if (r->dst == NULL) continue;
        some = true;
        ok = fg_drives_hurry(s->drives, r) && ok;
    }
    return ok && some;
}

/* All nodes' first pieces, then their second ones: what is wanted first comes first. */
static void start(fg_store *s, uint32_t layer, uint32_t expert, uint32_t slot, bool urgent)
{
    fg_slice piece[FG_MAX_NODE][FG_EXPERT_PIECES];
    uint32_t n[FG_MAX_NODE];
    fg_err *err = s->err.code == FG_OK ? &s->err : NULL;
    s->hint[slot] = 0;
    for (uint32_t k = 0; k < s->n_node; k++) {
        n[k] = (uint32_t)fg_slices_pieces(s->slices, layer, expert, k, piece[k]);
        fg_slots_use(&s->slots[k], slot);
        for (uint32_t i = 0; i < FG_EXPERT_PIECES && s->n_node > 1; i++) {
            /* pieces of the slot's last expert lay elsewhere: what is on its way would land on
             * these; a slot of one node has one piece, which waits for itself */
            fg_drives_drain(s->drives, piece_of(s, slot, k, i));
            if (i >= n[k]) piece_of(s, slot, k, i)->dst = NULL;
        }
    }
    for (uint32_t i = 0; i < FG_EXPERT_PIECES; i++) {
        for (uint32_t k = 0; k < s->n_node; k++) {
            if (i >= n[k]) continue;
            (void)fg_drives_start(s->drives, piece_of(s, slot, k, i),
                                  fg_slots_at(&s->slots[k], slot) + piece[k][i].at,
                                  piece[k][i].offset, piece[k][i].bytes, urgent,
                                  urgent ? err : NULL);
        }
    }
}

/* The slot's expert is gone: so is its memory, once no read writes into it any more. */
static void empty_slot(void *ctx, uint32_t slot)
{
    fg_store *s = ctx;
    s->hint[slot] = 0;
    for (uint32_t i = 0; i < n_piece(s); i++) {
        fg_drives_drain(s->drives, first_piece(s, slot) + i);
    }
    for (uint32_t k = 0; k < s->n_node; k++) fg_slots_discard(&s->slots[k], slot);
}

fg_status fg_store_set_bytes(fg_store *s, uint64_t bytes, fg_err *err)
{
    FG_TRY(check_bytes(s, bytes, err));
    s->bytes = bytes > s->most_bytes ? s->most_bytes : bytes;
    fg_cache_set_limit(s->cache, slots_in(s, s->bytes), empty_slot, s);
    return FG_OK;
}

void fg_store_count_products(fg_store *s)
{
    if (s->left_out == 0) return;
    s->left_out = 0;
    fg_cache_set_limit(s->cache, slots_in(s, s->bytes), empty_slot, s);
}

const fg_slices *fg_store_slices(const fg_store *s)
{
    return s->slices;
}

const uint8_t *fg_store_dense(const fg_store *s, uint32_t node)
{
    return s->dense[node].p;
}

/* ---- a layer ---- */

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
        s->used[e] = slot;
        const bool miss = k < n_load && loads[k].expert == e; /* loads are in the order of ids */
        k += miss;
        s->hint[slot] = 0;
        /* a hit may be one that its prefetch, or an earlier request, could not read */
        if (miss || !hurry(s, slot)) start(s, s->layer, e, slot, true);
    }
    return n;
}

const uint8_t *fg_store_data(const fg_store *s, uint32_t expert, uint32_t node)
{
    return fg_slots_at(&s->slots[node], s->used[expert]);
}

/* At its first use all of a piece is waited for, and whoever waits compares some chunks of it. */
static bool pass_gate(fg_store *s, uint32_t expert, uint32_t node, uint32_t n)
{
    bool ok = true;
    if (s->gate == NULL || fg_gate_has(s->gate, s->layer, expert)) return true;
    for (uint32_t i = 0; i < n && ok; i++) {
        fg_range *r = piece_of(s, s->used[expert], node, i);
        ok = fg_drives_wait(s->drives, r, UINT64_MAX) &&
             fg_gate_pass(s->gate, r->offset, r->bytes, r->dst);
    }
    return ok;
}

bool fg_store_wait(fg_store *s, uint32_t expert, uint32_t node, fg_reach reach)
{
    bool ok = true;
    for (uint32_t i = 0; i < reach.piece && ok; i++) {
        fg_range *r = piece_of(s, s->used[expert], node, i);
        ok = fg_drives_wait(s->drives, r, UINT64_MAX);
    }
    ok = ok &&
         fg_drives_wait(s->drives, piece_of(s, s->used[expert], node, reach.piece), reach.bytes);
    ok = ok && pass_gate(s, expert, node, reach.piece + 1);
    if (!ok) atomic_store(&s->lost, true);
    return ok;
}

void fg_store_elsewhere(fg_store *s, uint32_t layer, uint32_t expert, bool elsewhere)
{
    fg_cache_elsewhere(s->cache, layer, expert, elsewhere);
}

fg_region fg_store_slots(const fg_store *s, uint32_t node)
{
    const fg_slots *slots = &s->slots[node];
    return (fg_region){slots->p, slots->n * slots->slot_bytes, node, true, 0};
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
    for (uint32_t slot = 0; slot < s->n_slot; slot++) {
        if (s->hint[slot] != s->layer + 1) continue;
        for (uint32_t i = 0; i < n_piece(s); i++) {
            fg_range *r = first_piece(s, slot) + i;
            if (r->dst != NULL) fg_drives_cancel(s->drives, r);
        }
        s->hint[slot] = 0;
    }
}

static void start_hints(fg_store *s, const fg_cache_load *loads, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        start(s, loads[i].layer, loads[i].expert, loads[i].slot, false);
        if (s->one_token) s->hint[loads[i].slot] = 1 + loads[i].layer;
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
    start_hints(s, loads, n);
}

void fg_store_begin_pass(fg_store *s, uint64_t who, uint64_t pos, const uint32_t *ids, uint32_t n)
{
    fg_cache_load loads[FG_PREDICT_HINTS];
    s->one_token = n == 1;
    start_hints(s, loads, fg_predictor_begin(s->predictor, s->cache, who, pos, ids, n, loads));
}

void fg_store_forget(fg_store *s, uint64_t who, uint64_t pos)
{
    fg_predictor_forget(s->predictor, who, pos);
}

const fg_routing_model *fg_store_learned(fg_store *s)
{
    return fg_predictor_learned(s->predictor);
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

void fg_store_set_clock(fg_store *s, uint64_t (*clock)(void))
{
    s->clock = clock;
    s->last_ns = 0;
    fg_predictor_set_on(s->predictor, clock == NULL || fg_judge_is_on(&s->judge));
}

/* At the end of a pass: does the predictor pay? */
static void judge(fg_store *s)
{
    const fg_cache_stats now = fg_cache_get_stats(s->cache), was = s->seen;
    const uint64_t ns = s->clock == NULL ? 0 : s->clock(), last = s->last_ns;
    s->seen = now;
    s->last_ns = s->one_token ? ns : 0;
    if (!s->one_token || s->predict == FG_PREDICT_NONE) return;
    s->n_single++;
    s->n_hinted += fg_predictor_is_on(s->predictor);
    if (s->clock == NULL) return;
    const uint64_t n_read = now.n_miss - was.n_miss + now.n_prefetch_hit - was.n_prefetch_hit;
    const fg_judge_pass pass = {last == 0 ? 0 : ns - last, (uint32_t)n_read,
                                (uint32_t)(now.n_alone - was.n_alone)};
    const bool trial = s->judge.trial;
    fg_judge_tell(&s->judge, &pass);
    fg_predictor_set_on(s->predictor, fg_judge_is_on(&s->judge));
    if (trial && !s->judge.trial) {
        FG_LOG(1, "predictor %s: gain %.2f %% of a token, now %s for %u tokens",
               fg_predict_name(s->predict), 100.0 * s->judge.gain, s->judge.on ? "on" : "off",
               s->judge.n);
    }
}

fg_status fg_store_end_layer(fg_store *s, fg_err *err)
{
    fg_cache_end(s->cache);
    if (s->layer + 1 == fg_model_file_shape(s->file)->n_layer) judge(s);
    if (!atomic_load(&s->lost)) return FG_OK;
    atomic_store(&s->lost, false);
    if (s->gate != NULL) FG_TRY(fg_gate_error(s->gate, err));
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
                            .dense_bytes = s->dense_bytes - s->left_out,
                            .slot_bytes = s->slot_bytes,
                            .n_slot = fg_cache_limit(s->cache),
                            .n_total = shape->n_layer * shape->n_expert,
                            .predict = s->predict,
                            .predict_on = fg_predictor_is_on(s->predictor),
                            .predict_trial = s->judge.trial,
                            .n_switch = s->judge.n_off,
                            .gain = s->judge.gain,
                            .n_single = s->n_single,
                            .n_hinted = s->n_hinted};
}
