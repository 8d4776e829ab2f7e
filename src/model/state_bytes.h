/* SPDX-License-Identifier: MIT
 *
 * What a sequence remembers, as bytes for who stores them.  They depend on the tokens, the model
 * and the type of the cache only, not on where a state has its rows (state.h), so that they can be
 * put into a state of any number of nodes, threads or cards.
 *
 * Two kinds.  An image is what changes: at a position, for each lightning layer and head S as of
 * the chunk boundary, then for each the tail, that is keys [d_head][n] and values [n][d_head] of
 * the n tokens since then, f32; then for each softmax layer and head the rows of the cache since
 * the boundary, keys [n][d_head], values [n][d_head], in int8 their scales [n] and [n].  A block is
 * what no longer does: 64 positions of the cache, which lie in memory as they are stored: for each
 * softmax layer and head keys, values, in int8 their scales, in the order of state.h.
 *
 * The caller has fetched the state (fg_state_fetch) and tells it afterwards that it was written
 * (fg_state_wrote).
 */
#ifndef FG_SRC_MODEL_STATE_BYTES_H
#define FG_SRC_MODEL_STATE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "src/model/state.h"

enum { FG_STATE_BLOCK = 64 }; /* positions: those of a chunk */

uint64_t fg_state_light_bytes(const fg_shape *s);              /* S of all layers */
uint64_t fg_state_tail_bytes(const fg_shape *s);               /* a token of the tail */
uint64_t fg_state_row_bytes(const fg_shape *s, fg_kv_type kv); /* a token of the cache */

/* Of the whole image at pos. */
uint64_t fg_state_image_bytes(const fg_shape *s, fg_kv_type kv, uint64_t pos);

/* Bytes offset to offset + n - 1 of the image, which begin and end with whole elements (4 bytes of
 * S and tail).  The state's `folded` is the boundary at or before pos, and it has pos tokens or
 * more; for put it will.  Several threads may work on different bytes. */
void fg_state_image_get(const fg_state *st, const fg_shape *s, uint64_t pos, uint64_t offset,
                        void *to, size_t n);
void fg_state_image_put(fg_state *st, const fg_shape *s, uint64_t pos, uint64_t offset,
                        const void *from, size_t n);

/* A block's bytes where they lie, in order; run[fg_state_block_runs(s, kv)]. */
size_t fg_state_block_runs(const fg_shape *s, fg_kv_type kv);
void fg_state_block(const fg_state *st, const fg_shape *s, uint64_t block, struct iovec *run);

#endif
