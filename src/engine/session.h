/* SPDX-License-Identifier: MIT
 *
 * A session: one timeline of tokens that it remembers, and the state they led to.
 *
 * Lightning state cannot be cut back: within the present chunk of 64 tokens a session rewinds for
 * nothing, further back to the nearest of its marks, else to the start.  Whatever is rewound and
 * evaluated again, in whatever company, the logits are those of a plain run, bit for bit.
 */
#ifndef FG_SRC_ENGINE_SESSION_H
#define FG_SRC_ENGINE_SESSION_H

#include "src/engine/engine.h"
#include "src/model/stages.h"

typedef struct fg_session_opts {
    uint64_t n_ctx;   /* positions; 0: the model's maximum, at most 4096 */
    uint32_t n_batch; /* tokens evaluated together in prefill; 0: FG_SESSION_BATCH, and when not all
                       * experts are in memory as many as make the fewest reads, within the bound.
                       * Never changes the result */
    fg_kv_choice kv;
    uint32_t n_mark; /* marks kept at most; 0: FG_SESSION_MARKS */
    bool stops;      /* progress may stop a pass between layers, not only between passes; costs the
                      * memory of one mark */
} fg_session_opts;
enum { FG_SESSION_BATCH = 512, FG_SESSION_MARKS = 4 };
fg_session_opts fg_session_opts_default(void);

/* Errors: FG_ELIMIT (context beyond the model's, or memory beyond ram_bytes or what is there),
 * FG_EINVAL, FG_ENOMEM. */
fg_status fg_session_create(fg_session **out, fg_engine *e, const fg_session_opts *opts,
                            fg_err *err);
void fg_session_destroy(fg_session **s); /* accepts NULL */

uint64_t fg_session_pos(const fg_session *s);   /* tokens evaluated so far */
uint64_t fg_session_n_ctx(const fg_session *s); /* room in tokens */
uint64_t fg_session_bytes(const fg_session *s); /* memory of it that counts against ram_bytes */
const uint32_t *
fg_session_ids(const fg_session *s);  /* [pos] the tokens; borrowed until the next call */
void fg_session_reset(fg_session *s); /* empty sequence, same room, no marks */

/* logits[n_vocab] of the token at absolute position pos; valid during the call only. */
typedef void fg_session_logits_fn(void *ctx, uint64_t pos, const float *logits);

/* Evaluates n tokens (n >= 1, ids < n_vocab) after what the session holds.  on_logits, when not
 * NULL, sees every token's logits in order.  Errors: FG_EINVAL (an id), FG_ELIMIT (no room; nothing
 * was evaluated), FG_ECANCEL (progress; the batches before it are in, and the session is as after the
 * last of them), FG_EIO (an expert could not be read: the session answers the same until it is reset
 * or rewound to a mark). */
fg_status fg_session_eval(fg_session *s, const uint32_t *ids, size_t n,
                          fg_session_logits_fn *on_logits, void *ctx, fg_err *err);

/* The same for several sessions of one engine, whose tokens share passes: weights are read once for
 * all of them.  Progress is that of the first one. */
typedef struct fg_eval_item {
    fg_session *session; /* each at most once */
    const uint32_t *ids; /* [n], n >= 1 */
    size_t n;
    fg_session_logits_fn *on_logits; /* may be NULL */
    void *ctx;
} fg_eval_item;
fg_status fg_session_eval_many(const fg_eval_item *items, size_t n_item, fg_err *err);

/* Logits [n_vocab] of the last evaluated token; valid until the session changes.  NULL when there are
 * none: nothing was evaluated since the start, a reset or a rewind. */
const float *fg_session_logits(const fg_session *s);

/* Goes back to pos (at most the present one), or as near before it as is possible: *at.  Tokens from
 * *at on are forgotten, and so are marks after it.  Within the chunk nothing is copied. */
fg_status fg_session_rewind(fg_session *s, uint64_t pos, uint64_t *at, fg_err *err);

/* Remembers the state at the present position, to rewind to; the oldest mark goes when there are more
 * than n_mark.  Costs memory (fg_mark_bytes).  FG_ELIMIT (ram_bytes), FG_ENOMEM: no mark was made. */
fg_status fg_session_mark(fg_session *s, fg_err *err);

/* Makes the session hold exactly ids[n] (n >= 1), with the logits of the last one: goes back to the
 * common prefix and evaluates the rest.  *kept (may be NULL): tokens that were not evaluated again.
 * Errors: those of fg_session_eval. */
fg_status fg_session_sync(fg_session *s, const uint32_t *ids, size_t n, size_t *kept, fg_err *err);

/* A second session with the same tokens, state and room, without marks and observers.  Errors: those
 * of fg_session_create. */
fg_status fg_session_fork(fg_session **out, const fg_session *s, fg_err *err);

/* Called between batches of fg_session_eval, and with opts.stops between layers, with tokens done and
 * total; false stops.  NULL: off. */
void fg_session_set_progress(fg_session *s, bool (*fn)(void *ctx, size_t done, size_t total),
                             void *ctx);

/* Observers of hidden states and routing as they are computed, for tests and traces; see
 * src/model/stages.h.  The struct is copied; NULL switches off. */
void fg_session_set_taps(fg_session *s, const fg_taps *taps);

/* An observer of the rows that the session keeps: it is not told of a pass that was stopped, nor of
 * rows that are rewound before the next evaluation.  routed: selected experts of a layer,
 * sel[n_tok][n_used] with weights, layer by layer for each pass.  rewound: rows from pos on, of which it
 * was told, are gone.  NULL members are not called; the struct is copied, NULL switches off. */
typedef struct fg_observer {
    void (*routed)(void *ctx, uint32_t layer, uint64_t pos, uint64_t n_tok, const uint32_t *sel,
                   const float *weights);
    void (*rewound)(void *ctx, uint64_t pos);
    void *ctx;
} fg_observer;
void fg_session_set_observer(fg_session *s, const fg_observer *o);
/* Tells the observer of what is held back till the next evaluation. */
void fg_session_flush(fg_session *s);

/* Where the time goes, added up by phase; see src/model/stages.h.  Borrowed; NULL switches off. */
void fg_session_set_profile(fg_session *s, fg_profile *profile);

#endif
