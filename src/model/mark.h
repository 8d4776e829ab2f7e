/* SPDX-License-Identifier: MIT
 *
 * Marks: what a sequence's lightning layers were at one position, to go back to.  The key-value
 * cache needs none, because its rows are indexed by position and a pass writes only rows from its
 * own position on.
 *
 * A mark is canonical, that is a function of the tokens before it: S as of the last chunk boundary,
 * folded in the copy where the state has not done so yet, and after it the keys and values of the
 * tokens since (the tail; none at a boundary).  Two states at the same position that came there in
 * different ways give the same bytes.
 */
#ifndef FG_SRC_MODEL_MARK_H
#define FG_SRC_MODEL_MARK_H

#include "src/model/model.h"
#include "src/model/state.h"
#include "src/sys/team.h"

typedef struct fg_mark {
    uint64_t pos;
    void *map; /* per lightning layer: S [n_head][d_head][d_head], then, per head, the tail's keys
                * [d_head][n_tail] and values [n_tail][d_head], f32 */
    uint64_t bytes;
} fg_mark;

/* Tokens since the boundary before pos. */
static inline uint64_t fg_mark_tail(uint64_t pos)
{
    return pos % FG_LIGHT_CHUNK;
}

/* Memory of a mark at pos. */
uint64_t fg_mark_bytes(const fg_shape *s, uint64_t pos);

/* Takes the memory of a mark at any position beforehand.  FG_ENOMEM. */
fg_status fg_mark_reserve(fg_mark *mark, const fg_shape *s, fg_err *err);

/* Takes a mark of the state.  *mark is zeroed or an earlier mark, whose memory is used again if it
 * is large enough.  FG_ENOMEM leaves it empty; others: those of fg_state_fetch. */
fg_status fg_mark_take(fg_mark *mark, fg_team *team, const fg_model *m, fg_state *st, fg_err *err);

/* Puts the state back to the mark's position.  Of the cache, rows before it must be as they
 * were. */
void fg_mark_restore(const fg_mark *mark, fg_team *team, const fg_model *m, fg_state *st);

void fg_mark_fini(fg_mark *mark); /* accepts a zeroed one */

#endif
