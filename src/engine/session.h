/* SPDX-License-Identifier: MIT
 *
 * What the rooms above see of a session besides the public interface (src/fulgur.h).
 */
#ifndef FG_SRC_ENGINE_SESSION_H
#define FG_SRC_ENGINE_SESSION_H

#include "src/engine/engine.h"
#include "src/model/stages.h"

fg_engine *fg_session_engine(const fg_session *s);

/* Observers of hidden states and routing as they are computed, for tests and traces; see
 * src/model/stages.h.  The struct is copied; NULL switches off. */
void fg_session_set_taps(fg_session *s, const fg_taps *taps);

/* After a rewind: the logits [n_vocab] of what is the last token now, which the caller has kept. */
void fg_session_set_logits(fg_session *s, const float *logits);

/* Where the time goes, added up by phase; see src/model/stages.h.  Borrowed; NULL switches off. */
void fg_session_set_profile(fg_session *s, fg_profile *profile);

/* For tests: a pass asks `progress` before every bit of work, not some times a second. */
void fg_session_ask_always(fg_session *s);

#endif
