/* SPDX-License-Identifier: MIT
 *
 * Fulgur's public interface.
 *
 * An engine is one opened model: mapping, kernels, tables, thread team.  It is immutable while in
 * use and shared by its sessions.  A session is one timeline of tokens: it owns state, key-value
 * cache and scratch.  The caller owns token arrays and text buffers.
 *
 *     fg_err err = {0};
 *     fg_engine *e;
 *     fg_session *s;
 *     fg_engine_opts eo = fg_engine_opts_default();
 *     fg_session_opts so = fg_session_opts_default();
 *     if (fg_engine_open(&e, "m1.fulgur", &eo, &err) != FG_OK) ...err.msg...
 *     if (fg_session_create(&s, e, &so, &err) != FG_OK) ...
 *     if (fg_session_eval(s, ids, n, NULL, NULL, &err) != FG_OK) ...
 *     next = argmax(fg_session_logits(s)) ...
 *     fg_session_destroy(&s);
 *     fg_engine_close(&e);
 *
 * Threads: calls on one engine or its sessions must not overlap; the engine uses its own team
 * inside.  Numbers: the same file and tokens give the same logits, bit for bit, for any thread
 * count, CPU level and split of the tokens into calls.
 *
 * The library prints nothing, never exits, and reads no environment.
 */
#ifndef FG_SRC_ENGINE_ENGINE_H
#define FG_SRC_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/expert/store.h"
#include "src/format/reader.h"
#include "src/text/chat.h"
#include "src/text/sampler.h"
#include "src/text/stream.h"
#include "src/text/tokenizer.h"
#include "src/fulgur.h"

typedef struct fg_engine fg_engine;
typedef struct fg_session fg_session;

typedef struct fg_engine_opts {
    uint32_t n_thread; /* 0: one per physical core, within affinity and cgroup quota */
    fg_cpu_level cpu;  /* highest kernel level to use */
    bool pin;          /* true: workers are bound to cores */
    /* Memory in bytes for weights, sessions and a fixed FG_ENGINE_OVERHEAD; 0: the file is mapped
     * and the system decides.  With a bound, dense parts are read into memory and experts on
     * demand: src/expert/store.h.  Changes time only, never a bit. */
    uint64_t ram_bytes;
    fg_policy policy;   /* which experts stay */
    fg_io io;           /* how they are read */
    fg_predict predict; /* what is read ahead of need */
    uint32_t ahead;     /* for how many layers, 1 to 4; 0: the default */
} fg_engine_opts;
/* Program, tables, tokenizer: 60 MiB were measured with M1's tokenizer of 200,000 tokens, most of it
 * while that is being built; the rest is for threads, and for what the allocator keeps. */
#define FG_ENGINE_OVERHEAD ((uint64_t)96 << 20)
/* LRU, the router's predictions, everything else 0 or automatic. */
fg_engine_opts fg_engine_opts_default(void);

/* Opens a model file: validates header and directory, maps the data (touching none of it), starts
 * the team.  With ram_bytes the dense parts are read.  Errors: those of fg_model_file_open and
 * fg_store_create; FG_EINVAL (a choice that is none), FG_ENOTSUP (cpu level absent, policy without its
 * heat map), FG_ELIMIT (ram_bytes too small).
 * *out must be closed after all its sessions. */
fg_status fg_engine_open(fg_engine **out, const char *path, const fg_engine_opts *opts,
                         fg_err *err);
void fg_engine_close(fg_engine **e); /* accepts NULL */

const fg_model_file *fg_engine_file(const fg_engine *e);
const fg_shape *fg_engine_shape(const fg_engine *e);
uint32_t fg_engine_n_thread(const fg_engine *e);
const char *fg_engine_cpu(const fg_engine *e);     /* kernel level in use */
const char *fg_engine_threads(const fg_engine *e); /* thread backend: "openmp" or "pthread" */
/* Weight bytes that one decoded token reads. */
uint64_t fg_engine_token_bytes(const fg_engine *e);

/* What the store did so far; NULL without ram_bytes.  Borrowed until the next call. */
const struct fg_store_stats *fg_engine_store_stats(fg_engine *e);

/* The tokenizer inside the file, built at the first call; borrowed.  FG_ENOTSUP when the file has
 * none. */
fg_status fg_engine_tokenizer(fg_engine *e, const fg_tokenizer **out, fg_err *err);

/* Bitmap of the ids that may be sampled (bit id % 64 of word id / 64): those with a token whose
 * lm_head row is not all zero.  Borrowed; built at the first call.  Without a tokenizer in the file
 * every id counts as having one. */
fg_status fg_engine_sample_mask(fg_engine *e, const uint64_t **mask, fg_err *err);

typedef struct fg_session_opts {
    uint64_t n_ctx;   /* positions; 0: the model's maximum, at most 4096 */
    uint32_t n_batch; /* tokens evaluated together in prefill; 0: FG_SESSION_BATCH, and when not all
                       * experts are in memory as many as make the fewest reads, within the bound.
                       * Never changes the result */
    fg_kv_choice kv;
} fg_session_opts;
enum { FG_SESSION_BATCH = 512 };
fg_session_opts fg_session_opts_default(void);

fg_status fg_session_create(fg_session **out, fg_engine *e, const fg_session_opts *opts,
                            fg_err *err);
void fg_session_destroy(fg_session **s); /* accepts NULL */

uint64_t fg_session_pos(const fg_session *s);   /* tokens evaluated so far */
uint64_t fg_session_n_ctx(const fg_session *s); /* room in tokens */
uint64_t fg_session_bytes(const fg_session *s); /* memory of it that counts against ram_bytes */
void fg_session_reset(fg_session *s);           /* empty sequence, same room */

/* logits[n_vocab] of the token at absolute position pos; valid during the call only. */
typedef void fg_session_logits_fn(void *ctx, uint64_t pos, const float *logits);

/* Evaluates n tokens (n >= 1, ids < n_vocab) behind what the session holds.  on_logits, when not
 * NULL, sees every token's logits in order.  Errors: FG_EINVAL (an id), FG_ELIMIT (no room; nothing
 * was evaluated), FG_ECANCEL (progress callback; the batches before it are in), FG_EIO (an expert
 * could not be read: the session answers the same until fg_session_reset). */
fg_status fg_session_eval(fg_session *s, const uint32_t *ids, size_t n,
                          fg_session_logits_fn *on_logits, void *ctx, fg_err *err);

/* Logits [n_vocab] of the last evaluated token; valid until the next eval or reset. */
const float *fg_session_logits(const fg_session *s);

/* Called between batches of fg_session_eval with tokens done and total; false cancels.  NULL: off. */
void fg_session_set_progress(fg_session *s, bool (*fn)(void *ctx, size_t done, size_t total),
                             void *ctx);

/* Observers of hidden states and routing, for tests and traces; see src/model/forward.h.  The
 * struct is copied; NULL switches off. */
struct fg_taps;
void fg_session_set_taps(fg_session *s, const struct fg_taps *taps);

/* Where the time goes, added up by phase; see src/model/forward.h.  Borrowed; NULL switches off. */
struct fg_profile;
void fg_session_set_profile(fg_session *s, struct fg_profile *profile);

/* ---- for the rooms above: eval, plan, bench ---- */

/* Features that the engine's kernels use, as src/sys/cpu.h has them. */
uint32_t fg_engine_cpu_flags(const fg_engine *e);

/* The expert store; NULL when the engine has no bound of memory. */
fg_store *fg_engine_store(fg_engine *e);

/* Tells the engine that memory besides weights grows by `more` and shrinks by `less` bytes: its store
 * gives up, or gets, as much.  FG_ELIMIT: the bound does not allow it; nothing changes.  Between
 * evaluations only. */
fg_status fg_engine_charge(fg_engine *e, uint64_t more, uint64_t less, fg_err *err);

#endif
