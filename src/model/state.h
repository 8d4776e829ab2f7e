/* SPDX-License-Identifier: MIT
 *
 * What one sequence remembers: for each lightning layer the recurrent state and the keys and
 * values of the unfinished chunk, for each softmax layer the key-value cache.  One zero-on-touch
 * mapping, sized up front.
 *
 * What belongs to a NUMA node (place.h) lies together in the mapping, one run of bytes a node,
 * bound to it.  Lightning layers are split by heads, the cache by head and span of FG_ATTN_SPAN
 * positions: number span * n_kv_head + head goes to the node that fg_place_deal names, so that a
 * span keeps its node as the context grows, and contexts of any length are spread evenly.  Where a
 * row lies only this file knows: others ask fg_state_head and fg_state_rows.
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

#include "simd/kernels.h"
#include "src/base/status.h"
#include "src/format/shape.h"
#include "src/sys/team.h"

enum { FG_ATTN_SPAN = 4 * FG_KV_BLOCK }; /* positions folded by one worker; part of the numerics */

typedef enum fg_kv_type { FG_KV_F32 = 0, FG_KV_INT8 = 1, FG_KV_F16 = 2 } fg_kv_type;

/* Version of the numerics of a run with this cache (simd/KERNELS.md): logits under another one are
 * other bits.  int8: 1 summed attention in f32, 2 sums integers. */
static inline uint32_t fg_kv_numerics(fg_kv_type kv)
{
    return kv == FG_KV_INT8 ? 2 : 1;
}

/* Bytes of a key or value element. */
static inline uint32_t fg_kv_bytes(fg_kv_type kv)
{
    return kv == FG_KV_INT8 ? 1 : kv == FG_KV_F16 ? 2 : 4;
}

/* What a node has of a layer. */
typedef struct fg_layer_part {
    /* lightning: its heads */
    uint64_t n_head;
    float *s;  /* [n_head][d_head][d_head], S[h][d_k][d_v] at the chunk start */
    float *kt; /* [n_head][d_head][FG_LIGHT_CHUNK], keys of the chunk, transposed */
    float *v;  /* [n_head][FG_LIGHT_CHUNK][d_head] */
    /* softmax: its (span, head)s, span after span; together n_row positions, a multiple of 64 */
    uint64_t n_row;
    void *k_cache;  /* after rotation; f32, f16: [n_row/16][d_head][16],
                     * int8: [n_row/16][d_head/4][16][4] */
    void *v_cache;  /* f32, f16: [n_row][d_head], int8: [n_row/4][d_head][4] */
    float *k_scale; /* int8: [n_row] */
    float *v_scale;
} fg_layer_part;

struct fg_device;

typedef struct fg_state {
    uint64_t pos;    /* tokens evaluated so far */
    uint64_t folded; /* multiple of FG_LIGHT_CHUNK: tokens that S stands for */
    uint64_t n_ctx;  /* positions there is room for */
    uint64_t n_pos;  /* n_ctx rounded up to 64 */
    fg_kv_type kv_type;
    uint32_t d_head, n_kv_head;
    uint64_t span; /* positions of a head that lie together: FG_ATTN_SPAN, or with one
                                    * node all n_pos */
    uint64_t n_whole[FG_MAX_NODE]; /* (span, head)s of a node before the last span, which may be
                                    * shorter */
    fg_share heads;                /* of a lightning layer, by node */
    fg_place place;                /* a copy, without its seats */
    fg_layer_part *part;           /* [n_layer][place.n_node] */
    void *map;
    uint64_t bytes;
    uint64_t end[FG_MAX_NODE]; /* of the mapping: where node k's bytes end, and k + 1's begin */
    struct fg_device *device;  /* NULL: the host's alone */
    void *card;                /* the device's own: its copy */
    /* With a device: which side has the newest lightning state, and up to which position each has
     * the cache. */
    bool light_here, light_there;
    uint64_t rows_here, rows_there;
} fg_state;

/* Memory that a state takes when fully used; FG_ELIMIT when it does not fit 63 bits.  place NULL,
 * as below: one node. */
fg_status fg_state_size(const fg_shape *s, uint64_t n_ctx, fg_kv_type kv, const fg_place *place,
                        uint64_t *bytes, fg_err *err);
/* place: whose nodes it is for; only its topology is borrowed.  Where the system refuses to bind
 * memory, who touches it first decides; with FG_NUMA_STRICT that is an error (FG_EIO). */
fg_status fg_state_create(fg_state **out, const fg_shape *s, uint64_t n_ctx, fg_kv_type kv,
                          const fg_place *place, fg_err *err);
void fg_state_destroy(fg_state **st); /* accepts NULL */

/* One head of lightning layer l, as in fg_layer_part. */
typedef struct fg_state_light {
    float *s, *kt, *v;
} fg_state_light;
fg_state_light fg_state_head(const fg_state *st, uint32_t l, uint64_t head);

/* The cache of one key-value head of softmax layer l from position pos on; they lie together to the
 * end of pos's span of FG_ATTN_SPAN at least, and what is read with them to a multiple of 64
 * positions.  Of position pos itself, element e is fg_state_key_at behind k and fg_state_value_at
 * behind v (elements). */
typedef struct fg_state_cache {
    void *k, *v;
    float *k_scale, *v_scale; /* int8, else NULL */
} fg_state_cache;
static inline uint64_t fg_state_key_at(fg_kv_type kv, uint64_t e)
{
    return kv == FG_KV_INT8 ? e / 4 * 64 + e % 4 : 16 * e;
}
static inline uint64_t fg_state_value_at(fg_kv_type kv, uint64_t e)
{
    return kv == FG_KV_INT8 ? 4 * e : e;
}
fg_state_cache fg_state_rows(const fg_state *st, uint32_t l, uint64_t head, uint64_t pos);

/* Work on all n_head heads, `times` over (layers, sequences), taken by the nodes that have them: in
 * turn number i / n_head, begin <= i < end, head first + i % n_head.  False when none is left. */
typedef struct fg_heads {
    uint64_t begin, end, first, n_head; /* first, n_head: what the node has */
} fg_heads;
bool fg_take_heads(fg_worker *w, uint32_t n_head, uint64_t times, fg_heads *out);

/* Where the pages of what a node has are; those that nothing was written to yet are absent.
 * Errors: those of fg_place_audit. */
fg_status fg_state_audit(const fg_state *st, uint32_t node, fg_audit *out, fg_err *err);

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

/* What is newer on a device comes to memory; done already where there is none.  Errors: those of
 * fg_device_ops. */
fg_status fg_state_fetch(fg_state *st, fg_err *err);
/* The host has written lightning state, and rows of the cache from position `from` up to the
 * present one: a device's are stale. */
void fg_state_wrote(fg_state *st, uint64_t from);

/* Copies the first `pos` rows of the key-value cache into another state of the same shape and type,
 * of any number of nodes. */
void fg_state_copy_cache(fg_state *to, const fg_state *from, const fg_shape *s, uint64_t pos);

#endif
