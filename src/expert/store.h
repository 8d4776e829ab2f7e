/* SPDX-License-Identifier: MIT
 *
 * The weights of a model within a bound of memory.  Dense parts (embedding, attention, norms,
 * routers, lm_head) are read once and stay; experts are read on demand, whole, into as many slots
 * as the bound leaves, and evicted as the policy says (cache.h).  Nothing is touched in the file's
 * mapping, and the page cache keeps none of it.
 *
 * Where a device has the dense products (slices.h), they are not among those parts: experts have
 * their memory as well, until the host has to compute with them after all.  It then does so where
 * they are mapped, and as many slots are given up.  The least bound is the same with a device as
 * without, so that the host can always go on within it.
 *
 * What the store does changes time only: bytes are the file's whatever the bound, policy or order.
 *
 * One layer, as src/model/moe.c has it; `worker 0` calls everything but data and wait:
 *
 *     fg_store_begin_layer(s, layer, ids, n);           decides hits, in the order of ids
 *     while ((m = fg_store_next_wave(s)) > 0) {         starts the reads of this wave and the next
 *         all workers, after a barrier, for the m experts of the wave, in the order of ids:
 *             p = fg_store_data(s, expert, node);
 *             if (fg_store_wait(s, expert, node, reach)) ...use p as far as that
 *     }
 *     fg_store_hint(s, sel, n_tok, guess);              once, when the last wave has begun
 *     status = fg_store_end_layer(s, &err);
 *
 * An expert arrives from its first byte to its last: row scales, gate and up panels, down panels.
 */
#ifndef FG_SRC_EXPERT_STORE_H
#define FG_SRC_EXPERT_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/expert/cache.h"
#include "src/expert/predict.h"
#include "src/expert/fetch.h"
#include "src/expert/settle.h"
#include "src/expert/slices.h"
#include "src/format/gate.h"
#include "src/format/reader.h"

typedef struct fg_store fg_store;

typedef struct fg_store_opts {
    uint64_t bytes; /* of memory for dense parts and slots together, at most */
    fg_policy policy;
    const uint64_t *heat; /* [n_layer * n_expert], see cache.h; may be NULL */
    fg_predict predict;
    uint32_t ahead; /* layers, see predict.h; 0: the default */
    fg_fetch_opts io;
    /* Which node has what, borrowed as is its placement: each has its part of every slot in its own
     * memory.  NULL: one node, whose memory is not bound. */
    const fg_slices *slices;
    bool later;                    /* fg_store_fill is to read the dense parts */
    const fg_routing_model *model; /* see predict.h; copied; may be NULL */
    fg_gate *gate;                 /* what is not signed is not used; borrowed; may be NULL */
} fg_store_opts;

/* Bytes of the dense parts, of a slot (the largest expert of the file), and the least bound, all
 * with one node. */
uint64_t fg_store_dense_bytes(const fg_model_file *file);
uint64_t fg_store_slot_bytes(const fg_model_file *file);
uint64_t fg_store_min_bytes(const fg_model_file *file);
/* With a slot for every expert: more is of no use. */
uint64_t fg_store_most_bytes(const fg_model_file *file);
/* The least and the most with these slices. */
uint64_t fg_store_least_of(const fg_model_file *file, const fg_slices *slices);
uint64_t fg_store_most_of(const fg_model_file *file, const fg_slices *slices);

/* Reads the dense parts, unless that is for later.  `file` is borrowed; the file under its path
 * must still be the same.  Errors: FG_ELIMIT (bytes below the least bound), FG_EIO, FG_ENOMEM,
 * FG_ENOTSUP (io). */
fg_status fg_store_create(fg_store **out, const fg_model_file *file, const fg_store_opts *opts,
                          fg_err *err);
/* After fg_store_create with o->later (else nothing), before the first layer: the dense parts,
 * `kept`: but for the products, whose memory goes to slots.  Errors: those of fg_store_create. */
fg_status fg_store_fill(fg_store *s, bool kept, fg_err *err);
bool fg_store_has_products(const fg_store *s);
/* The host needs the products: from now on they count within the bound, mapped.  Between layers.
 */
void fg_store_count_products(fg_store *s);
/* Waits for reads in flight.  Accepts NULL. */
void fg_store_destroy(fg_store **s);

/* A new bound, at most that of creation; between layers.  Memory of evicted experts is given back.
 * FG_ELIMIT: below the least bound; nothing changes. */
fg_status fg_store_set_bytes(fg_store *s, uint64_t bytes, fg_err *err);

/* Which node has what of it. */
const fg_slices *fg_store_slices(const fg_store *s);

/* A node's part of everything dense (slices.h); borrowed until fg_store_destroy. */
const uint8_t *fg_store_dense(const fg_store *s, uint32_t node);

/* ids (0 .. n_expert different experts) is borrowed until the layer ends, and reordered: those in
 * memory first. */
void fg_store_begin_layer(fg_store *s, uint32_t layer, uint32_t *ids, uint32_t n);

/* How many of ids come next, 0 at the end.  Their memory stays until the next call. */
uint32_t fg_store_next_wave(fg_store *s);

/* A node's part of an expert of this wave; only bytes that were waited for are valid. */
const uint8_t *fg_store_data(const fg_store *s, uint32_t expert, uint32_t node);

/* Waits until so much of a node's part is there, and with a gate compared.  False: it could not be
 * read, or is not what was signed; the caller goes on without, and fg_store_end_layer has the
 * reason.  Any thread, any number of them. */
bool fg_store_wait(fg_store *s, uint32_t expert, uint32_t node, fg_reach reach);

/* Where a node's slots are; they are fresh: to be asked for before the first layer. */
fg_region fg_store_slots(const fg_store *s, uint32_t node);

/* A device has this expert, or has it no longer; between layers (cache.h). */
void fg_store_elsewhere(fg_store *s, uint32_t layer, uint32_t expert, bool elsewhere);

/* Ends the layer, finished or not.  FG_EIO and others when a wait of it failed; the store is usable
 * afterwards, and asks the disk again. */
fg_status fg_store_end_layer(fg_store *s, fg_err *err);

/* For how many layers fg_store_hint wants the routers' guesses, in a pass of one token. */
uint32_t fg_store_guess_layers(const fg_store *s);

/* Reads ahead what the predictor makes of the running layer's routing sel[n_tok][n_used]: reads
 * that wait for all others, into slots that nobody needs now.  guess may be NULL.
 *
 * A predictor has to pay: judge.h says when it is on, in passes of one token. */
void fg_store_hint(fg_store *s, const uint32_t *sel, uint32_t n_tok, const fg_guess *guess);

/* For tests: another clock, in nanoseconds; NULL: nobody judges, every pass gives hints. */
void fg_store_set_clock(fg_store *s, uint64_t (*clock)(void));

/* A pass of n tokens begins, before its first layer, and what its predictor may forget; see
 * predict.h.  ids: borrowed for the call. */
void fg_store_begin_pass(fg_store *s, uint64_t who, uint64_t pos, const uint32_t *ids, uint32_t n);
void fg_store_forget(fg_store *s, uint64_t who, uint64_t pos);
const fg_routing_model *fg_store_learned(fg_store *s);

/* Number of the last pass that hinted; what fg_store_rewind goes by. */
uint64_t fg_store_pass(const fg_store *s);

/* Pass number `pass` had n_kept of its n_row rows only, the others were undone: its predictor
 * forgets them.  sel[n_layer][n_row][n_used] is what the pass was; without effect when another one
 * followed. */
void fg_store_rewind(fg_store *s, uint64_t pass, const uint32_t *sel, uint64_t n_row,
                     uint32_t n_kept);

typedef struct fg_store_stats {
    fg_cache_stats cache;
    fg_fetch_stats io; /* of all drives, see drives.h; wait_ns: of all workers together */
    uint64_t dense_bytes, slot_bytes; /* dense: that count within the bound */
    uint32_t n_slot, n_total;         /* slots in use at most; experts of the model */
    fg_predict predict;
    bool predict_on;    /* the next pass of one token gives hints; changes between passes only */
    bool predict_trial; /* it is being tried: on and off in turns (judge.h) */
    uint32_t n_switch;  /* verdicts that the predictor costs (judge.h) */
    double gain;        /* of the last trial: share of a token's time that it saved */
    uint64_t n_single, n_hinted; /* passes of one token; of them with hints */
} fg_store_stats;
fg_store_stats fg_store_get_stats(fg_store *s);

#endif
