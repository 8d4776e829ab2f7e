/* SPDX-License-Identifier: MIT
 *
 * One layer, spelled once, as stages between which a caller may look at the rows or change them.
 * The forward pass runs all stages of all layers; calibration and sensitivity run ranges of them on
 * rows that they keep themselves.
 *
 * Conventions: T rows of the batch; every activation row is padded with zeros to a multiple of 128
 * and 64-byte aligned; work is split by output ranges, never by summation order.  A stage may be
 * entered when each worker's own rows (fg_worker_range over T) of what it reads are there, and
 * leaves its own rows of what it wrote; a stage that needs the rows of others begins with a
 * barrier.
 *
 * The row of a pass that decodes one token is every worker's own (fg_own_rows): what stands between
 * two products is computed by each of them from what all can read, with the same bits, so that
 * nobody waits for it: a barrier and a row handed round take longer.
 */
#ifndef FG_SRC_MODEL_STAGES_H
#define FG_SRC_MODEL_STAGES_H

#include "src/model/model.h"
#include "src/model/scratch.h"
#include "src/model/state.h"
#include "src/sys/team.h"

/* Stages of a layer, in order; the formulas are numbered in MODEL.md. */
typedef enum fg_stage {
    FG_STAGE_ATTN_NORM, /* x -> n */
    FG_STAGE_ATTN,      /* n -> u */
    FG_STAGE_ATTN_OUT,  /* u -> a; x = alpha r + beta a */
    FG_STAGE_MLP_NORM,  /* x -> n */
    FG_STAGE_ROUTE,     /* n -> sel, sel_w, the sorted order, xs */
    FG_STAGE_HIDDEN,    /* xs -> h */
    FG_STAGE_DOWN,      /* h -> y */
    FG_STAGE_COMBINE,   /* y -> a */
    FG_STAGE_MLP_OUT,   /* x = alpha r + beta a */
    FG_STAGE_COUNT
} fg_stage;

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
const char *fg_phase_name(fg_phase phase); /* below FG_PHASE_COUNT */

typedef struct fg_profile {
    uint64_t ns[FG_PHASE_COUNT];
    uint64_t last_ns; /* clock at the last mark; internal */
} fg_profile;

/* Observers, called by worker 0 while the others leave alone what is shown; NULL members are not
 * called.
 * hidden: after each layer l, x[T][d_model] rows `stride` elements apart; l = -1: embedding;
 *         l = n_layer: final norm (only rows whose logits were wanted).
 * experts: selected experts of layer l, [T][n_used], with weights.
 * guesses: after it, when T = 1: what the routers of the layers ahead make of this layer's
 * state. */
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

/* Rows first .. first+n-1 of a batch: the tokens of one sequence that follow st->pos. */
typedef struct fg_seq {
    fg_state *st;
    uint32_t first, n;       /* n >= 1 */
    uint32_t logits_from;    /* first of its rows, 0 .. n, whose logits are wanted; n: none */
    fg_logits_fn *on_logits; /* may be NULL */
    void *on_logits_ctx;
    const fg_taps *taps; /* may be NULL */
} fg_seq;

/* One batch: everything a worker needs.  A row's sums keep their order whoever else is in it. */
typedef struct fg_batch {
    const fg_model *m;
    fg_scratch *s;
    const fg_seq *seq; /* [n_seq] of different states, covering the rows in order */
    uint32_t n_seq;
    const uint32_t *ids;      /* [n_tok], all < n_vocab */
    uint32_t n_tok;           /* T, 1 .. n_batch */
    bool each;                /* decoding one token here: its row is each worker's own */
    struct fg_device *device; /* that the states are attached to; NULL: all is done here */
    bool begun;               /* by the device: else a failed pass has computed nothing */
    bool shown;               /* the observers have had the embedding */
    fg_profile *profile;      /* may be NULL; times are added */
    /* Asked by worker 0 after each sub-layer, and some times a second within one, with the layers
     * done; false stops the pass.  NULL: it cannot be stopped. */
    bool (*go_on)(void *ctx, uint32_t layer);
    void *go_on_ctx;
    uint64_t ask_ns;      /* between two questions within a sub-layer, at least */
    uint32_t layer;       /* worker 0's: the one that is being computed */
    uint64_t asked_ns;    /* worker 0's: clock at the last question */
    _Atomic bool stopped; /* go_on said false: what is left of the sub-layer is omitted */
    /* set by worker 0, read by all after the next barrier; FG_ECANCEL when go_on said so */
    fg_status status;
    fg_err *err;
} fg_batch;

/* Sequence of row t, and its absolute position. */
static inline const fg_seq *fg_batch_seq(const fg_batch *b, uint64_t t, uint64_t *pos)
{
    const fg_seq *q = b->seq;
    while (t - q->first >= q->n) q++;
    *pos = q->st->pos + (t - q->first);
    return q;
}

/* Every worker computes the row by itself. */
static inline bool fg_each(const fg_worker *w, const fg_batch *b)
{
    return b->each && w->n > 1;
}

/* The rows that this worker's steps between products read and write. */
static inline const fg_rows *fg_own_rows(const fg_worker *w, const fg_batch *b)
{
    return &b->s->rows[fg_each(w, b) ? 1 + w->idx : 0];
}

/* Which of them: its share of T, or the only one. */
static inline void fg_own_range(const fg_worker *w, const fg_batch *b, uint64_t *begin,
                                uint64_t *end)
{
    fg_worker_range(w, b->n_tok, begin, end);
    if (fg_each(w, b)) *begin = 0, *end = 1;
}

/* Stages from .. last of one layer, by all workers.  Returns early, with false, when b->status is
 * not FG_OK, as all workers see it alike; that of the last stages is seen by the next call. */
bool fg_stages(fg_worker *w, fg_batch *b, uint32_t layer, fg_stage from, fg_stage last);

/* x = rows of the embedding, and the rotary angles of the rows' positions. */
void fg_embed(const fg_worker *w, const fg_batch *b);
/* Logits of all rows that want them, each sequence's to its own function, unless the pass
 * failed. */
void fg_head(fg_worker *w, fg_batch *b);
/* The first `most` rows from *t on that want logits; *t is after the last one looked at. */
uint64_t fg_wanted_rows(const fg_batch *b, uint64_t *t, uint32_t *rows, uint64_t most);
/* The n rows of s->logits go to who wants them. */
void fg_give_logits(const fg_batch *b, const uint32_t *rows, uint64_t n);
/* Shows rows of x to each sequence's observer. */
void fg_tap_hidden(const fg_worker *w, const fg_batch *b, int32_t layer);

/* ---- what stages are made of ---- */

/* One product y[t] = W x[t] for rows row0 .. row0+n_tok-1 of x and y. */
typedef struct fg_product {
    const fg_matrix *m;
    const fg_acts *x;
    fg_acts y;
} fg_product;

/* Panels begin .. end-1 of a matrix, which `run` has, times rows row0 .. row0+n_tok-1 of x: to
 * y [n_tok][y_stride], from its first column on. */
void fg_multiply_panels(const fg_matrix *m, const fg_panel_run *run, const fg_acts *x,
                        uint64_t row0, uint64_t n_tok, float *y, size_t y_stride, uint64_t begin,
                        uint64_t end);
/* All panels of n dense products over rows 0 .. n_tok-1, shared out among the workers.  weights
 * NULL: they are where the matrices say.  b: the batch that may stop it; NULL: nobody may. */
void fg_multiply(fg_worker *w, const fg_weights *weights, fg_batch *b, const fg_product *p,
                 size_t n, uint64_t n_tok);
/* Fills q and rot of a row, as far as they are there.  n_row: rows of the largest product that will
 * take this one; what few rows do not need is left out. */
void fg_acts_quantize(const fg_kernels *k, const fg_acts *x, uint64_t row, uint64_t n_row);
/* Superblock `block` of a row, from f[128], only in the form that a product of n_row rows takes. */
void fg_acts_quantize_block(const fg_kernels *k, const fg_acts *x, uint64_t row, uint64_t block,
                            const float *f, uint64_t n_row);
/* Row `to` of x's q (rotated: rot) becomes a copy of row `from` of y's, in the form alone that a
 * product of n_row rows takes. */
void fg_acts_copy(const fg_acts *x, uint64_t to, const fg_acts *y, uint64_t from, bool rotated,
                  uint64_t n_row);
/* Row `to` of n = RMSNorm of row `from` of x, quantised too when the model is. */
void fg_norm_row(const fg_worker *w, const fg_batch *b, const float *weight, uint64_t from,
                 uint64_t to);

void fg_lightning(fg_worker *w, fg_batch *b, uint32_t l);
void fg_softmax(fg_worker *w, fg_batch *b, uint32_t l);
void fg_route(fg_worker *w, fg_batch *b, uint32_t l);
/* Its second half, when sel and sel_w are there: by worker 0, who shows them to the observers,
 * sorts the rows by expert and begins the host's; mine [n_expert]: the device's, whose rows get
 * FG_ROW_ELSEWHERE in row_of and are not among s->active; NULL: none. */
#define FG_ROW_ELSEWHERE 0x80000000u
void fg_route_begin(fg_batch *b, uint32_t l, const bool *mine);
/* Copies the inputs of (token, slot) pairs begin .. end-1 to their places in the sorted order. */
void fg_route_gather(const fg_batch *b, uint32_t l, uint64_t begin, uint64_t end);
/* HIDDEN and DOWN together, wave by wave: weights from anywhere, which are read while they are
 * used. */
void fg_moe(fg_worker *w, fg_batch *b, uint32_t l);
/* Worker 0, in its place: the layer has no experts left for the host. */
void fg_moe_none(const fg_worker *w, fg_batch *b, uint32_t l);
/* Each alone, for experts s->active whose weights are all in the mapping. */
void fg_moe_hidden(fg_worker *w, fg_batch *b, uint32_t l);
void fg_moe_down(fg_worker *w, fg_batch *b, uint32_t l);

/* What the routers of the layers after l make of this layer's state, for the observers and for
 * the weights' hints; worker 0, while the others work on the last experts. */
void fg_look_ahead(const fg_batch *b, uint32_t l);

/* Worker 0, before a barrier: asks go_on, and sets b->status, which all see after the barrier. */
void fg_poll(const fg_worker *w, fg_batch *b);
/* Within a sub-layer, by any worker before its next bit of work: is the rest to be omitted?  What
 * was to be computed is then worth nothing, the barriers still come, and fg_poll ends the pass. */
bool fg_stopped(const fg_worker *w, fg_batch *b);
/* Panels between two such questions: a few hundredths of a second for `rows` rows. */
uint64_t fg_stop_step(const fg_batch *b, uint64_t rows, uint64_t n_panel);

/* Adds the time since the last mark to a phase (worker 0, when a profile is wanted). */
void fg_mark_phase(const fg_worker *w, fg_batch *b, fg_phase phase);

#endif
