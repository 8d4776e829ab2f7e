/* SPDX-License-Identifier: MIT
 *
 * The thread team.  One function runs on all workers at once (single program, multiple data) and
 * stays there for a whole token or prefill chunk; its steps are separated by fg_worker_sync, a
 * barrier that spins briefly and then sleeps, so that a busy neighbour costs time, not a collapse.
 *
 * Backend: OpenMP (libgomp keeps its threads between regions) or, in builds with OPENMP=0 such as
 * the ThreadSanitizer build, plain pthreads.  The result of a job must not depend on n_thread:
 * split by output ranges, never by summation order.
 */
#ifndef FG_SRC_SYS_TEAM_H
#define FG_SRC_SYS_TEAM_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"

enum { FG_MAX_THREAD = 1024 };

typedef struct fg_team fg_team;

typedef struct fg_worker {
    fg_team *team;
    uint32_t idx; /* 0 .. n-1; 0 is the calling thread */
    uint32_t n;
} fg_worker;

/* n_thread 0: one per allowed physical core, at most the CPU budget.  pin: bind worker i to core i
 * on its first run (worker 0, the caller, is left free), if there is one worker for each allowed
 * core.  Errors: FG_ENOMEM, FG_ELIMIT, FG_EIO (thread creation). */
fg_status fg_team_create(fg_team **out, uint32_t n_thread, bool pin, fg_err *err);
void fg_team_destroy(fg_team **t); /* accepts NULL */

uint32_t fg_team_size(const fg_team *t);
const char *fg_team_backend(void); /* "openmp" or "pthread" */

/* Runs fn(worker, arg) once on every worker and returns when all have returned.  One run at a
 * time, always from the same thread. */
void fg_team_run(fg_team *t, void (*fn)(fg_worker *w, void *arg), void *arg);

/* Barrier over all workers of the run; also a memory fence. */
void fg_worker_sync(fg_worker *w);

/* This worker's contiguous share of items 0..n-1; shares differ by at most one item. */
void fg_worker_range(const fg_worker *w, uint64_t n, uint64_t *begin, uint64_t *end);

/* Takes the next part [*begin, *end) of items 0..n-1 that no worker has taken yet; false when none
 * is left.  Parts shrink from a share of what is left down to one item, so that a worker slowed by
 * a neighbour takes less.  At most one such loop (same n on all workers) between two barriers. */
bool fg_worker_take(fg_worker *w, uint64_t n, uint64_t *begin, uint64_t *end);

#endif
