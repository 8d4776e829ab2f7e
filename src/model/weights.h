/* SPDX-License-Identifier: MIT
 *
 * Homes of weights: where the bytes of a matrix are at the moment.  The pass asks here and nowhere
 * else, so that residency changes time only, never a bit.  A home is a table of functions:
 *
 *   map      everything is in the mapping of the file; a layer is one wave, waiting is free
 *   copy     the same in memory of the nodes (src/expert/copy.h)
 *   stream   dense parts in memory, experts on demand from a store (src/expert/store.h)
 *
 * Of the last two, dense products that a device has are where they are mapped; so they are whatever
 * the device does, and take none of the memory that the homes do.
 *
 * A matrix is one run of panels a node, as src/expert/slices.h cuts it; what is no product is whole
 * on one of them.  One layer, as src/model/moe.c has it; worker 0 calls
 * begin, wave, hint and end, all workers the others, after a barrier:
 *
 *     fg_weights_begin(w, layer, ids, n);
 *     while ((m = fg_weights_wave(w)) > 0) {     the next m of ids
 *         run = fg_weights_run(w, matrix, expert, node);
 *         if (fg_weights_wait(w, matrix, expert, node, last)) ...use the panels before `last`
 *     }
 *     fg_weights_hint(w, sel, n_tok, guess);     once, when the last wave has begun
 *     status = fg_weights_end(w, &err);
 */
#ifndef FG_SRC_MODEL_WEIGHTS_H
#define FG_SRC_MODEL_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/expert/copy.h"
#include "src/expert/store.h"
#include "src/format/reader.h"
#include "src/model/matrix.h"

typedef struct fg_weights fg_weights;

/* The homes that a caller can ask for: enumerator (src/fulgur.h says what each is), name. */
#define FG_RESIDENCY_MAP_OF(X)                                                                     \
    X(FG_RESIDENCY_AUTO, "auto")                                                                   \
    X(FG_RESIDENCY_MAP, "map")                                                                     \
    X(FG_RESIDENCY_COPY, "copy")                                                                   \
    X(FG_RESIDENCY_SHARED, "shared")

/* Panels first .. first+n-1 of a matrix: panel p is at panels + (p - first) * panel_stride, its 16
 * row scales at scales + (p - first) * 16 (NULL for f32 and bf16). */
typedef struct fg_panel_run {
    const uint8_t *panels;
    const float *scales;
    uint64_t first, n;
} fg_panel_run;

/* All of a matrix where its own pointers say. */
static inline fg_panel_run fg_matrix_run(const fg_matrix *m)
{
    return (fg_panel_run){m->panels, m->scales, 0, m->n_panel};
}

/* Where weights are, all borrowed: in a store, or a copy, or with both NULL the mapping. */
typedef struct fg_home {
    fg_store *store;
    fg_copy *copy;
    /* Which node has what.  NULL, for a mapping only: split evenly over the nodes of whoever
     * asks. */
    const fg_slices *slices;
    /* Experts pass it before they are used: those of the mapping here, a store has its own.  May be
     * NULL. */
    fg_gate *gate;
} fg_home;

/* `file` is borrowed too.  FG_ENOMEM. */
fg_status fg_weights_create(fg_weights **out, const fg_model_file *file, const fg_home *at,
                            fg_err *err);
void fg_weights_destroy(fg_weights **w); /* accepts NULL */

/* "map", "copy" or "stream". */
const char *fg_weights_name(const fg_weights *w);

/* Vector, router or embedding number `tensor` of the file, whole, and its row scales; borrowed
 * until the weights are destroyed. */
const uint8_t *fg_weights_whole(const fg_weights *w, uint64_t tensor, const float **scales);

/* Which panels of a matrix each node has; NULL: no node has any of its own. */
const fg_share *fg_weights_share(const fg_weights *w, const fg_matrix *m);

/* Whose panels a worker reads that works for `owner`: the owner's, or its own where each has
 * all. */
uint32_t fg_weights_from(const fg_weights *w, uint32_t owner, uint32_t worker);

/* What `node` has of matrix m.  expert: FG_NO_LAYER for a dense matrix, else an expert of this
 * layer's wave, of whose panels only those that were waited for are valid. */
fg_panel_run fg_weights_run(const fg_weights *w, const fg_matrix *m, uint32_t expert,
                            uint32_t node);

/* The memory that all of it is in, each node's part apart; *out is freed with fg_mem_free.  Not for
 * weights without slices.  FG_ENOMEM. */
fg_status fg_weights_regions(const fg_weights *w, fg_region **out, size_t *n, fg_err *err);

/* Begins a layer with its n (0 .. n_expert) different experts; ids is borrowed until the layer
 * ends, and may be reordered. */
void fg_weights_begin(fg_weights *w, uint32_t layer, uint32_t *ids, uint32_t n);

/* How many of ids come next, 0 at the end.  Their memory stays until the next call. */
uint32_t fg_weights_wave(fg_weights *w);

/* Panels that are worth waiting for at a time, of n. */
uint64_t fg_weights_step(const fg_weights *w, uint64_t n);

/* Waits until the panels before `last` that a node has of an expert's matrix are there, and what of
 * it stands before them.  False: they could not be read, or are not what was signed; the caller
 * goes on without, and fg_weights_end has the reason. */
bool fg_weights_wait(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint32_t node,
                     uint64_t last);

/* Ends the layer, finished or not.  Errors: those of fg_store_end_layer. */
fg_status fg_weights_end(fg_weights *w, fg_err *err);

/* Before an expert is copied from the mapping to somewhere else: FG_ECHECKSUM when it is not what
 * was signed. */
fg_status fg_weights_check(fg_weights *w, uint32_t layer, uint32_t expert, fg_err *err);

/* A device has this expert, or has it no longer: a store does not read it ahead, a copy gives its
 * memory back, pages of a mapping go to their nodes.  Between passes. */
void fg_weights_elsewhere(fg_weights *w, uint32_t layer, uint32_t expert, bool elsewhere);

/* The host does a pass alone: what a device computes with otherwise counts here from now on.
 * Before the pass. */
void fg_weights_host(fg_weights *w);

/* For how many layers fg_weights_hint wants the routers' guesses, in a pass of one token. */
uint32_t fg_weights_guess_layers(const fg_weights *w);

/* The running layer's routing sel[n_tok][n_used], and the guesses after it (may be NULL). */
void fg_weights_hint(fg_weights *w, const uint32_t *sel, uint32_t n_tok, const fg_guess *guess);

#endif
