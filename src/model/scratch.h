/* SPDX-License-Identifier: MIT
 *
 * Buffers of a pass: activation rows between its steps, the routing of its tokens, what a worker
 * needs for itself.  One mapping, sized by the shape, the batch and the threads.
 */
#ifndef FG_SRC_MODEL_SCRATCH_H
#define FG_SRC_MODEL_SCRATCH_H

#include "src/base/mem.h"
#include "src/model/model.h"
#include "src/model/state.h"

/* Activation rows: f32, and the same quantised for int8 products, as they are (q) and rotated
 * (rot), where the model has matrices that want them; else NULL.  Both are valid only after
 * fg_acts_quantize of that row; on a level with a tile unit they are kept in its order, too, for
 * products of FG_TILE_TOKENS rows or more. */
typedef struct fg_acts {
    float *f;
    fg_act128 *q, *rot;
    size_t f_stride; /* elements, multiple of 128 */
    size_t q_stride; /* blocks, f_stride / 128; also of rot */
    fg_act_tiles q_tiles, rot_tiles;
} fg_acts;

/* What the steps between products make of rows. */
typedef struct fg_rows {
    fg_acts x, n, u, a; /* as below; of u, f may be that of all where nothing is done to it */
} fg_rows;

/* Buffers for up to n_batch tokens, in one mapping. */
typedef struct fg_scratch {
    uint32_t n_batch;
    /* [0]: the rows of all; [1 + i]: one row of worker i's, which may be the only one it computes
     * with.  Worker 0's x and n are those of all. */
    fg_rows *rows;
    fg_acts x;      /* [T][d_model] stream between layers (f only) */
    fg_acts n;      /* [T][d_model] normed input of the current sub-layer */
    fg_acts u;      /* [T][n_head * d_head] attention output before out_proj */
    fg_acts a;      /* [T][d_model] sub-layer output (f only) */
    fg_acts qkv;    /* [T][3 * n_head * d_head] (f only); softmax: q, then k, v after it */
    fg_acts gate;   /* [T][n_head * d_head] output gate (f only) */
    fg_acts router; /* [T][n_expert] (f only) */
    fg_acts xs;     /* [T * n_used][d_model] inputs sorted by expert */
    float *gate_up; /* [n_thread][gate_up_stride] what a worker needs for a block of moe.c */
    size_t gate_up_stride;
    fg_acts h;                /* [T * n_used][d_ff] silu(g) * up */
    _Atomic uint32_t *h_done; /* [n_expert][blocks of h] panels that are there; moe.c */
    fg_acts y;                /* [T * n_used][d_model] expert outputs, sorted by expert (f only) */
    fg_acts logits;           /* [FG_LOGIT_ROWS][n_vocab] (f only) */
    float *cos, *sin;         /* [T][d_rotary / 2] */
    uint32_t *sel;            /* [T][n_used] selected experts, best first */
    float *sel_w;             /* [T][n_used] their weights */
    uint32_t *row_of;         /* [T][n_used] row in the sorted order */
    uint32_t *first;          /* [n_expert + 1] first sorted row of each expert */
    uint32_t *active;         /* [n_expert] experts with rows, ascending */
    uint32_t n_active;
    uint32_t n_wave; /* experts worked on at a time; see moe.c */
    float *chains;   /* [FG_FEW_TOKENS][router panels][router superblocks][16] */
    fg_acts ahead;   /* [2][d_model] input of another layer's router; state after it (f only) */
    float *attn;     /* [n_thread][attn_stride] what a worker needs for a tile of softmax.c */
    size_t attn_stride;
    float *spans;       /* [n_kv_head][spans of n_ctx][span_stride] results of one token */
    size_t span_stride; /* fg_rows_floats of a group of heads */
    void *map;
    uint64_t bytes;
    struct fg_device *device; /* that has seen it, and is told when it goes */
} fg_scratch;

enum {
    FG_LOGIT_ROWS = 16, /* tokens whose logits are computed together; bounds the buffer */
    FG_BATCH_MAX = 16384,
    FG_FEW_TOKENS = 8,   /* below it a token's router is split over the workers */
    FG_ATTN_TOKENS = 16, /* of a sequence, that softmax attention walks the cache with at a time */
};

/* Results of n rows of attention: (max, sum) of each, padded, then [n][d]. */
static inline size_t fg_rows_floats(size_t n, size_t d)
{
    return (size_t)fg_round_up(2 * (uint64_t)n, 16) + n * d;
}

/* n_ctx: positions of the session's state. */
fg_status fg_scratch_create(fg_scratch **out, const fg_model *m, uint64_t n_ctx, uint32_t n_batch,
                            uint32_t n_thread, fg_err *err);
void fg_scratch_destroy(fg_scratch **s); /* accepts NULL */
/* What one would take. */
uint64_t fg_scratch_bytes(const fg_shape *shape, const fg_model_forms *forms, uint64_t n_ctx,
                          uint32_t n_batch, uint32_t n_thread);

#endif
