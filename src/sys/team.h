/* SPDX-License-Identifier: MIT
 *
 * The thread team.  One function runs on all workers at once (single program, multiple data) and
 * stays there for a whole token or prefill chunk; its steps are separated by fg_worker_sync, a
 * barrier that spins briefly and then sleeps, so that a busy neighbour costs time, not a collapse.
 *
 * A worker sits on a NUMA node (place.h) and takes its node's part of each matrix.
 *
 * Backend: OpenMP (libgomp keeps its threads between regions) or, in builds with OPENMP=0 such as
 * the ThreadSanitizer build, plain pthreads.  The result of a job must not depend on n_thread or on
 * the nodes: split by output ranges, never by summation order.
 */
#ifndef FG_SRC_SYS_TEAM_H
#define FG_SRC_SYS_TEAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/sys/place.h"

enum { FG_MAX_THREAD = 1024 };

typedef struct fg_team fg_team;

typedef struct fg_worker {
    fg_team *team;
    uint32_t idx; /* 0 .. n-1; 0 is the calling thread */
    uint32_t n;   /* workers of this run */
    uint32_t node, idx_in_node, n_in_node;
    struct { /* taken from this node but not handed out yet: fg_worker_take's own */
        uint32_t node;
        uint64_t begin, end;
    } rest;
} fg_worker;

typedef struct fg_team_opts {
    /* Workers; 0: one per allowed physical core of the nodes, at most the CPU budget, and for short
     * runs (fg_team_run_paced) as many of them as turn out to be fastest. */
    uint32_t n_thread;
    uint32_t n_long;        /* of long runs; 0: all.  The team has the larger number */
    bool pin;               /* workers are bound to the cores and nodes that place.h gives them */
    uint32_t pretend_nodes; /* for tests: as in fg_place_opts, as are the next */
    uint32_t n_node;
    fg_numa numa;
    const uint32_t *weight;
} fg_team_opts;

/* Workers 1 .. n-1 are bound on their first run, the caller by fg_team_attach.  Without pin all are
 * free, and there is one node unless others are pretended.  Where fewer threads are to be had, the
 * team is smaller.  Errors: FG_ENOMEM, FG_ELIMIT. */
fg_status fg_team_create_with(fg_team **out, const fg_team_opts *o, fg_err *err);
fg_status fg_team_create(fg_team **out, uint32_t n_thread, bool pin, fg_err *err);
void fg_team_destroy(fg_team **t); /* accepts NULL */

uint32_t fg_team_size(const fg_team *t);
uint32_t fg_team_n_short(const fg_team *t); /* of short runs, as far as is known */
uint32_t fg_team_n_long(const fg_team *t);
const fg_place *fg_team_place(const fg_team *t); /* where its workers sit */
const char *fg_team_backend(void);               /* "openmp" or "pthread" */

/* Binds the calling thread as worker 0 until it detaches the team, which gives it back the binding
 * it had before the first of the teams it is attached to.  One thread at a time: a second attach
 * does nothing, and neither does a detach by another thread than the one that attached.  Both
 * accept a team that is not pinned (nothing to do) and NULL. */
void fg_team_attach(fg_team *t);
void fg_team_detach(fg_team *t);

/* Runs fn(worker, arg) once on every worker and returns when all have returned.  One run at a
 * time, always from the same thread. */
void fg_team_run(fg_team *t, void (*fn)(fg_worker *w, void *arg), void *arg);
/* The same on the first n workers (1 to the team's size), which are equally many of each node as
 * far as it has them; the others sleep, and no barrier waits for them.  The team keeps its size. */
void fg_team_run_n(fg_team *t, uint32_t n, void (*fn)(fg_worker *w, void *arg), void *arg);

/* For long runs, as the passes over a prompt are: on opts.n_long workers. */
void fg_team_run_long(fg_team *t, void (*fn)(fg_worker *w, void *arg), void *arg);
/* For runs that are short and alike, as the passes that decode a token are: on opts.n_thread
 * workers, or on as many as are fastest, and on fewer as long as that is faster, because other
 * processes keep cores busy (pace.h). */
void fg_team_run_paced(fg_team *t, void (*fn)(fg_worker *w, void *arg), void *arg);

/* Barrier over all workers of the run; also a memory fence. */
void fg_worker_sync(fg_worker *w);
/* The same where one of them waits for a device, a few hundred us: who comes first spins that long
 * before it sleeps, since being woken costs as much as the wait, 80 times a token. */
void fg_worker_sync_patient(fg_worker *w);

/* This worker's contiguous share of items 0..n-1; shares differ by at most one item. */
void fg_worker_range(const fg_worker *w, uint64_t n, uint64_t *begin, uint64_t *end);

/* ---- work that is taken: at most one such loop (same arguments on all workers) between two
 * barriers.  Parts shrink from a share of what is left down to one item, so that a worker slowed by
 * a neighbour takes less. ---- */

/* Items of no node, such as heads or files: takes the next part [*begin, *end) of items 0..n-1 that
 * no worker has taken yet; false when none is left. */
bool fg_worker_take_items(fg_worker *w, uint64_t n, uint64_t *begin, uint64_t *end);

/* Items with owners: rows, each a matrix or an expert, of which every node owns a share
 * (place.h). */
typedef struct fg_work_row {
    uint64_t id; /* the caller's own */
    const fg_share *share;
} fg_work_row;

typedef struct fg_work_list {
    const fg_work_row *row; /* [n_row] */
    size_t n_row;
    bool strict; /* no worker takes what another node's workers can do */
} fg_work_list;

typedef struct fg_work_piece {
    size_t row;          /* index into the list */
    uint64_t begin, end; /* items of that row */
    uint32_t node;       /* that owns them */
} fg_work_piece;

/* Takes the next piece: of the worker's node as long as there is any, row by row; then of nodes
 * that have no worker in this run; then, unless strict, of the node with most left, but at most the
 * last eighth of what a node owns goes to others.  False when nothing is left for this worker.  A
 * node may own at most 2^32 - 1 items of a list. */
bool fg_worker_take(fg_worker *w, const fg_work_list *l, fg_work_piece *out);

#endif
