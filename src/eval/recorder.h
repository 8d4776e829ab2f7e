/* SPDX-License-Identifier: MIT
 *
 * Records the routing of a session as it runs: a trace file for fulgur trace replay, and the counts
 * of a heat map.  Recording changes no result; it costs the routers' guesses, for each token eight
 * small products in each layer.
 */
#ifndef FG_SRC_EVAL_RECORDER_H
#define FG_SRC_EVAL_RECORDER_H

#include <stdint.h>

#include "src/engine/session.h"
#include "src/eval/replay.h"
#include "src/eval/routing_trace.h"
#include "src/expert/heat.h"

typedef struct fg_recorder fg_recorder;

/* Takes the session's taps; e is the session's engine, opts what it was opened with.  path: of the
 * trace, or NULL; text: with tokens (version 2).  For a trace to repeat the store's counts, nothing
 * may have been evaluated on the engine before (FG_EINVAL), and the session's batch must be given,
 * which is not checked: one that grows would take memory from the store on the way.  Errors: those
 * of fg_trace_create and fg_heat_load. */
fg_status fg_recorder_create(fg_recorder **out, fg_engine *e, fg_session *s,
                             const fg_engine_opts *opts, const char *path, bool text, fg_err *err);

/* Tokens that used each expert so far, [n_layer * n_expert]; borrowed. */
const uint64_t *fg_recorder_heat(const fg_recorder *r);

/* Completes the trace file, see fg_trace_finish; the last evaluation must have succeeded. */
fg_status fg_recorder_finish(fg_recorder *r, fg_err *err);

/* Gives the taps back, and removes a trace that was not finished; before the session is destroyed.
 * Accepts NULL. */
void fg_recorder_destroy(fg_recorder **r);

/* Experts that a run like the recorded one would hold within ram_bytes.  FG_ELIMIT: too little. */
fg_status fg_trace_slots(const fg_trace_head *h, uint64_t ram_bytes, uint32_t *n_slot, fg_err *err);

/* Puts the map into the file at `path`, see fg_append_open for errors and cost.  FG_EINVAL when the
 * file now holds other weights than h->data_root names, or a count is 2^53 or more. */
fg_status fg_heat_store(const char *path, const fg_heat *h, fg_err *err);

#endif
