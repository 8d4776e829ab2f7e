/* SPDX-License-Identifier: MIT
 *
 * What one sequence remembers: for each lightning layer the recurrent state and the keys and
 * values of the unfinished chunk, for each softmax layer the key-value cache.  One zero-on-touch
 * mapping, sized up front; first touch is by the worker that owns a head.
 *
 * A lightning layer keeps S as of a chunk boundary (absolute position a multiple of FG_LIGHT_CHUNK)
 * and adds the tokens since then from `kt` and `v`.  Prefill and decode thereby compute the same
 * expression for a token, whatever was evaluated in one call: the logits are a function of the text
 * only (simd/KERNELS.md, numerics contract), and a decode step reads the state instead of rewriting
 * it.
 *
 * `folded` is that boundary.  S is folded when the first token of the next chunk is evaluated, not
 * before: folded <= pos <= folded + FG_LIGHT_CHUNK, and going back to any position from `folded` on
 * is setting `pos`.  Rows of the cache are indexed by position, and so are cut back by it too.
 */
#ifndef FG_SRC_MODEL_STATE_H
#define FG_SRC_MODEL_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/format/shape.h"

typedef enum fg_kv_type { FG_KV_F32 = 0, FG_KV_INT8 = 1, FG_KV_F16 = 2 } fg_kv_type;

/* Bytes of a key or value element. */
static inline uint32_t fg_kv_bytes(fg_kv_type kv)
{
    return kv == FG_KV_INT8 ? 1 : kv == FG_KV_F16 ? 2 : 4;
}

typedef struct fg_layer_state {
    /* lightning */
    float *s;  /* [n_head][d_head][d_head], S[h][d_k][d_v] at the chunk start */
    float *kt; /* [n_head][d_head][FG_LIGHT_CHUNK], keys of the chunk, transposed */
    float *v;  /* [n_head][FG_LIGHT_CHUNK][d_head] */
    /* softmax; n_pos = n_ctx rounded up to 16 */
    void *k_cache;  /* f32, f16 or int8 [n_kv_head][n_pos/16][d_head][16], after rotation */
    void *v_cache;  /* f32, f16 or int8 [n_kv_head][n_pos][d_head] */
    float *k_scale; /* int8: [n_kv_head][n_pos] */
    float *v_scale;
} fg_layer_state;

typedef struct fg_state {
    uint64_t pos;    /* tokens evaluated so far */
    uint64_t folded; /* multiple of FG_LIGHT_CHUNK: tokens that S stands for */
    uint64_t n_ctx;  /* positions there is room for */
    uint64_t n_pos;  /* n_ctx rounded up to 16 */
    fg_kv_type kv_type;
    fg_layer_state *layers; /* [n_layer] */
    void *map;
    uint64_t bytes;
} fg_state;

/* Memory that a state takes when fully used; FG_ELIMIT when it does not fit 63 bits. */
fg_status fg_state_size(const fg_shape *s, uint64_t n_ctx, fg_kv_type kv, uint64_t *bytes,
                        fg_err *err);
fg_status fg_state_create(fg_state **out, const fg_shape *s, uint64_t n_ctx, fg_kv_type kv,
                          fg_err *err);
void fg_state_destroy(fg_state **st); /* accepts NULL */

/* Back to an empty sequence; memory goes back to the system. */
void fg_state_reset(fg_state *st);

/* As if pos tokens had been evaluated, of whatever the state holds: for measuring after a context
 * that nobody wants to compute. */
void fg_state_reset_to(fg_state *st, uint64_t pos);

/* n tokens were evaluated: moves pos and, with it, folded. */
void fg_state_advance(fg_state *st, uint64_t n);

/* Goes back to pos (at most the present one) if that is free; false, and nothing has changed, when
 * S is beyond it. */
bool fg_state_rewind(fg_state *st, uint64_t pos);

/* Copies the first `pos` rows of the key-value cache into another state of the same shape, room and
 * type. */
void fg_state_copy_cache(fg_state *to, const fg_state *from, const fg_shape *s, uint64_t pos);

#endif
