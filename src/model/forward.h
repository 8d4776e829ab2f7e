/* SPDX-License-Identifier: MIT
 *
 * The forward pass over one batch of tokens, run by all workers of a team at once.  Reading order:
 * forward.c (the layer loop), then lightning.c, softmax.c, moe.c (the three blocks), matmul.c.
 *
 * Conventions inside: T tokens of the batch; every activation row is padded with zeros to a
 * multiple of 128 and 64-byte aligned; a step writes what the next one reads, with fg_worker_sync
 * between; work is split by output ranges, never by summation order.
 */
#ifndef FG_SRC_MODEL_FORWARD_H
#define FG_SRC_MODEL_FORWARD_H

#include "src/model/model.h"
#include "src/model/state.h"
#include "src/sys/team.h"

/* Activation rows: f32, and the same quantised for int8 products, as they are (q) and rotated (rot),
 * where the model has matrices that want them; else NULL.  Both are valid only after
 * fg_acts_quantize of that row. */
typedef struct fg_acts {
    float *f;
    fg_act128 *q, *rot;
    size_t f_stride; /* elements, multiple of 128 */
    size_t q_stride; /* blocks, f_stride / 128; also of rot */
} fg_acts;

/* Buffers for up to n_batch tokens, in one mapping. */
typedef struct fg_scratch {
    uint32_t n_batch;
    fg_acts x;        /* [T][d_model] stream between layers (f only) */
    fg_acts n;        /* [T][d_model] normed input of the current sub-layer */
    fg_acts u;        /* [T][n_head * d_head] attention output before out_proj */
    fg_acts a;        /* [T][d_model] sub-layer output (f only) */
    fg_acts qkv;      /* [T][3 * n_head * d_head] (f only); softmax: q, then k, v behind it */
    fg_acts gate;     /* [T][n_head * d_head] output gate (f only) */
    fg_acts router;   /* [T][n_expert] (f only) */
    fg_acts xs;       /* [T * n_used][d_model] inputs sorted by expert */
    fg_acts g, up;    /* [T * n_used][d_ff] (f only) */
    fg_acts h;        /* [T * n_used][d_ff] silu(g) * up */
    fg_acts y;        /* [T * n_used][d_model] expert outputs, sorted by expert (f only) */
    fg_acts logits;   /* [FG_LOGIT_ROWS][n_vocab] (f only) */
    float *cos, *sin; /* [T][d_rotary / 2] */
    uint32_t *sel;    /* [T][n_used] selected experts, best first */
    float *sel_w;     /* [T][n_used] their weights */
    uint32_t *row_of; /* [T][n_used] row in the sorted order */
    uint32_t *first;  /* [n_expert + 1] first sorted row of each expert */
    uint32_t *active; /* [n_expert] experts with rows, ascending */
    uint32_t n_active;
    uint32_t n_wave; /* experts worked on at a time; see moe.c */
    float *chains;   /* [FG_FEW_TOKENS][router panels][router superblocks][16] */
    fg_acts ahead;   /* [2][d_model] input of another layer's router; state behind it (f only) */
    float *attn;     /* [n_thread][attn_stride] per-worker block results */
    size_t attn_stride;
    float *spans;       /* [n_kv_head][spans of n_ctx][span_stride] results of one token */
    size_t span_stride; /* (max, sum) of each head, padded, then [group][d_head] */
    void *map;
    uint64_t bytes;
} fg_scratch;

enum {
    FG_LOGIT_ROWS = 16, /* tokens whose logits are computed together; bounds the buffer */
    FG_BATCH_MAX = 4096,
    FG_FEW_TOKENS = 8,              /* below it a token's router is split over the workers */
    FG_ATTN_SPAN = 4 * FG_KV_BLOCK, /* positions folded by one worker; part of the numerics */
};

/* Where the time of a forward pass goes, as seen by worker 0 (waiting included). */
#define FG_PHASE_MAP(X)                                                                            \
    X(EMBED, "embedding")                                                                          \
    X(NORM, "norms, residuals, quantization")                                                      \
    X(ATTN_MATMUL, "attention matrices")                                                           \
    X(LIGHTNING, "lightning attention")                                                            \
    X(SOFTMAX, "softmax attention")                                                                \
    X(ROUTER, "router")                                                                            \
    X(EXPERTS, "experts")                                                                          \
    X(HEAD, "lm_head")
typedef enum fg_phase {
#define FG_PHASE_ENUM(name, text) FG_PHASE_##name,
    FG_PHASE_MAP(FG_PHASE_ENUM)
#undef FG_PHASE_ENUM
        FG_PHASE_COUNT
} fg_phase;

typedef struct fg_profile {
    uint64_t ns[FG_PHASE_COUNT];
    uint64_t last_ns; /* clock at the last mark; internal */
} fg_profile;

/* n_ctx: positions of the session's state. */
fg_status fg_scratch_create(fg_scratch **out, const fg_model *m, uint64_t n_ctx, uint32_t n_batch,
                            uint32_t n_thread, fg_err *err);
void fg_scratch_destroy(fg_scratch **s); /* accepts NULL */
/* What one would take.  Of the model only the shape and the forms of activations count. */
uint64_t fg_scratch_bytes(const fg_model *m, uint64_t n_ctx, uint32_t n_batch, uint32_t n_thread);

/* Observers, called by worker 0 while the others wait; NULL members are not called.
 * hidden: after each layer l, x[T][d_model] rows `stride` elements apart; l = -1: embedding;
 *         l = n_layer: final norm (only rows whose logits were wanted).
 * experts: selected experts of layer l, [T][n_used], with weights.
 * guesses: behind it, when T = 1: what the routers of the layers ahead make of this layer's state. */
typedef struct fg_taps {
    void (*hidden)(void *ctx, int32_t layer, uint64_t pos, uint64_t n_tok, const float *x,
                   size_t stride);
    void (*experts)(void *ctx, uint32_t layer, uint64_t pos, uint64_t n_tok, const uint32_t *sel,
                    const float *weights);
    void (*guesses)(void *ctx, uint32_t layer, uint64_t pos, const fg_guess *guess);
    void *ctx;
} fg_taps;

/* logits[n_vocab] of the token at absolute position pos; valid during the call. */
typedef void fg_logits_fn(void *ctx, uint64_t pos, const float *logits);

/* One batch: everything a worker needs. */
typedef struct fg_batch {
    const fg_model *m;
    fg_state *st;
    fg_scratch *s;
    const uint32_t *ids;  /* [n_tok], all < n_vocab */
    uint32_t n_tok;       /* T, 1 .. n_batch */
    uint32_t logits_from; /* first token of the batch whose logits are wanted; n_tok: none */
    fg_logits_fn *on_logits;
    void *on_logits_ctx;
    const fg_taps *taps; /* may be NULL */
    fg_profile *profile; /* may be NULL; times are added */
    /* of fg_forward: set by worker 0 at the end of a layer, read by all behind the next barrier */
    fg_status status;
    fg_err *err;
} fg_batch;

/* Evaluates the batch on the team and advances st->pos by n_tok.  Room must have been checked.
 * Fails, with *err set, only when the model has a store that could not read an expert: then no
 * further logits are given, and the state is good for nothing but fg_state_reset. */
fg_status fg_forward(fg_team *team, fg_batch *b, fg_err *err);

/* ---- the blocks; called by every worker with the same arguments ---- */

/* One product y[t] = W x[t] for rows row0 .. row0+n_tok-1 of x and y. */
typedef struct fg_product {
    const fg_matrix *m;
    const fg_acts *x;
    fg_acts y;
} fg_product;

/* Panels begin .. end-1 of one product. */
void fg_multiply_panels(const fg_matrix *m, const fg_acts *x, uint64_t row0, uint64_t n_tok,
                        const fg_acts *y, uint64_t begin, uint64_t end);
/* All panels of n products over rows 0 .. n_tok-1, shared out among the workers. */
void fg_multiply(fg_worker *w, const fg_product *p, size_t n, uint64_t n_tok);
/* Fills q and rot of a row, as far as they are there. */
void fg_acts_quantize(const fg_kernels *k, const fg_acts *x, uint64_t row);

/* x = rows of the embedding, and the rotary angles of the batch's positions. */
void fg_embed(const fg_worker *w, const fg_batch *b);
/* Row `to` of n = RMSNorm of row `from` of x, quantised too when the model is. */
void fg_norm_row(const fg_batch *b, const float *weight, uint64_t from, uint64_t to);
/* x = alpha r + beta a for token t, r the residual. */
void fg_residual(const fg_batch *b, uint64_t t, float alpha, float beta);

/* From n (normed input) to u, then the output projection from u to a (sub-layer output). */
void fg_lightning(fg_worker *w, fg_batch *b, uint32_t l);
void fg_softmax(fg_worker *w, fg_batch *b, uint32_t l);
void fg_attention_out(fg_worker *w, fg_batch *b, uint32_t l);
/* Router and gathering: from n to sel, sel_w, the sorted order and xs. */
void fg_route(fg_worker *w, fg_batch *b, uint32_t l);
/* The experts: from xs to h, from h to y; weights from the mapping. */
void fg_moe_hidden(fg_worker *w, fg_batch *b, uint32_t l);
void fg_moe_down(fg_worker *w, fg_batch *b, uint32_t l);
/* Both; weights from the mapping or the store, which reads while they are used. */
void fg_moe(fg_worker *w, fg_batch *b, uint32_t l);

/* One whole layer on x, in place; each worker reads and writes its share of fg_worker_range(n_tok).
 * cos and sin must be there. */
void fg_forward_layer(fg_worker *w, fg_batch *b, uint32_t l);

/* Adds the time since the last mark to a phase (worker 0, when a profile is wanted). */
void fg_mark(const fg_worker *w, fg_batch *b, fg_phase phase);

#endif
