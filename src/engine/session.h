/* SPDX-License-Identifier: MIT
 *
 * What the rooms above see of a session besides the public interface (src/fulgur.h).
 */
#ifndef FG_SRC_ENGINE_SESSION_H
#define FG_SRC_ENGINE_SESSION_H

#include "src/engine/engine.h"
#include "src/model/stages.h"
#include "src/model/state.h"

fg_engine *fg_session_engine(const fg_session *s);

/* fg_session_fork with another room; FG_EINVAL: less than is in use. */
fg_status fg_session_fork_into(fg_session **out, const fg_session *s, uint64_t n_ctx, fg_err *err);

/* Observers of hidden states and routing as they are computed, for tests and traces; see
 * src/model/stages.h.  The struct is copied; NULL switches off. */
void fg_session_set_taps(fg_session *s, const fg_taps *taps);

/* After a rewind: the logits [n_vocab] of what is the last token now, which the caller has kept. */
void fg_session_set_logits(fg_session *s, const float *logits);

/* Where the time goes, added up by phase; see src/model/stages.h.  Borrowed; NULL switches off. */
void fg_session_set_profile(fg_session *s, fg_profile *profile);

/* For who stores sessions (saved.h).  The state, whose payload the caller may read and write;
 * FG_EIO and the like: an evaluation failed, and it is of no use. */
fg_status fg_session_state(fg_session *s, fg_state **out, fg_err *err);
/* The state is the one that ids[pos] lead to, put there by the caller: rows of the cache from
 * `from` on were written.  Later marks are forgotten; there are no logits.  ids may be the
 * session's own. */
void fg_session_put(fg_session *s, const uint32_t *ids, uint64_t pos, uint64_t from);
/* The state was written to, but not whole: the session answers *why until it is reset, rewound to a
 * mark or put. */
void fg_session_lose(fg_session *s, const fg_err *why);
/* Where fg_session_rewind to pos would go. */
uint64_t fg_session_reach(const fg_session *s, uint64_t pos);

/* For tests: a pass asks `progress` before every bit of work, not some times a second. */
void fg_session_ask_always(fg_session *s);

#endif
