/* SPDX-License-Identifier: MIT
 *
 * The forward pass over one batch of rows, run by all workers of a team at once.  Reading order:
 * stages.c (the layer), then lightning.c, softmax.c, router.c, moe.c (the blocks), matmul.c.
 */
#ifndef FG_SRC_MODEL_FORWARD_H
#define FG_SRC_MODEL_FORWARD_H

#include "src/model/stages.h"

/* Evaluates the batch on the team and advances each state by its rows.  Room must have been
 * checked. Errors, with *err set: those of fg_weights_end (no further logits are given, and the
 * states are good for nothing but fg_state_reset or a mark), FG_ECANCEL (go_on; the states are as
 * before but for what a mark restores: folds, which happened only if fg_forward_folds says so). */
fg_status fg_forward(fg_team *team, fg_batch *b, fg_err *err);

/* True when n more rows make the state fold: then a stopped pass is undone from a mark, else it is
 * undone by not having moved the position. */
bool fg_forward_folds(const fg_state *st, uint64_t n);

#endif
