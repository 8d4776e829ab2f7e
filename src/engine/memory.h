/* SPDX-License-Identifier: MIT
 *
 * The ledger: how much memory a run takes, from shape, forms and options, before anything is
 * allocated.  Engine and sessions take what it says, `plan` prints it, a replay of a trace divides
 * by it; there is no second sum.
 */
#ifndef FG_SRC_ENGINE_MEMORY_H
#define FG_SRC_ENGINE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/model/model.h"
#include "src/model/state.h"
#include "src/sys/room.h"

/* Program, tables, tokenizer: 60 MiB were measured with M1's tokenizer of 200,000 tokens, most of
 * it while that is being built; the rest is for threads, and for what the allocator keeps. */
#define FG_MEMORY_PROGRAM ((uint64_t)96 << 20)

typedef struct fg_memory_opts {
    uint64_t n_ctx;             /* positions */
    uint32_t n_batch, n_thread; /* rows of a pass; workers */
    fg_kv_type kv;
    bool stops;            /* a pass can be undone: one mark */
    const fg_place *place; /* as in fg_state_size; NULL: one node */
    uint32_t n_long;       /* rows of a long prompt's passes at most; 0: FG_SESSION_LONG_BATCH */
} fg_memory_opts;

/* Bytes of one session. */
typedef struct fg_memory {
    uint64_t lightning; /* recurrent states and chunks */
    uint64_t kv;        /* key-value cache */
    uint64_t scratch;   /* activations */
    uint64_t undo;      /* the mark that a stopped pass is undone from */
    uint64_t session;   /* all of them: what a session takes of the bound when it is created */
    uint64_t mark;      /* another mark, at most */
} fg_memory;

/* FG_ELIMIT when the context is beyond the model's or does not fit 63 bits. */
fg_status fg_memory_of_session(fg_memory *out, const fg_shape *shape, const fg_model_forms *forms,
                               const fg_memory_opts *o, fg_err *err);

/* Of the memory that is left, the share that larger passes may take. */
enum { FG_MEMORY_SPARE_SHARE = 8 };

/* Rows of a pass for a prompt of n tokens while all weights are in memory: equal passes of up to
 * o->n_long, so that an expert that has been read (or copied to a card) serves many rows, or up to
 * a half, a quarter, ... of it when they would take more than `spare` bytes above o->n_batch rows,
 * which it is when n is not more or nothing else fits. */
uint32_t fg_memory_batch(const fg_shape *shape, const fg_model_forms *forms,
                         const fg_memory_opts *o, uint64_t n, uint64_t spare);

/* The bound for a run that may take `ram` bytes and has a use for `most` of them, where `room` can
 * be had (src/sys/room.h): `ram`, or when that is more than is there, what is there less a 32nd,
 * for page tables and others that no ledger knows. */
uint64_t fg_memory_bound(uint64_t ram, uint64_t most, uint64_t room);
/* What to say of a bound that is not `ram`, line[n]. */
void fg_memory_bound_text(char *line, size_t n, uint64_t ram, uint64_t bound, const fg_room *room);

/* What a bound of `ram` bytes leaves for weights, of which `least` are needed, when all sessions
 * take `sessions`.  FG_ELIMIT says how much is needed. */
fg_status fg_memory_for_weights(uint64_t *out, uint64_t ram, uint64_t sessions, uint64_t least,
                                fg_err *err);

#endif
