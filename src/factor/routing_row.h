/* SPDX-License-Identifier: MIT
 *
 * The model of routing_model.h at work: the token that is on its way, and what its text teaches.
 * Counts go on with each token that was kept, at the next pass, and are integers, so that what is
 * undone leaves no trace: forgetting takes away exactly what keeping had added.  No clock, no
 * threads: the same calls give the same scores.
 */
#ifndef FG_SRC_FACTOR_ROUTING_ROW_H
#define FG_SRC_FACTOR_ROUTING_ROW_H

#include "src/factor/routing_model.h"

enum { FG_ROUTING_HISTORY = 16384 }; /* tokens that can be forgotten; what is older stays learned */

typedef struct fg_routing_row fg_routing_row;

/* With a copy of the model.  FG_ENOMEM. */
fg_status fg_routing_row_create(fg_routing_row **out, const fg_routing_model *m, fg_err *err);
void fg_routing_row_destroy(fg_routing_row **r); /* accepts NULL */

/* A pass of n tokens from `pos` on in timeline `who` begins; the one before is learned, as far as
 * it was not forgotten.  n 0: of tokens that nobody names; nothing is learned.  Without memory the
 * pass is not learned. */
void fg_routing_row_begin(fg_routing_row *r, uint64_t who, uint64_t pos, const uint32_t *ids,
                          uint32_t n);
/* The routing of its next layer, sel[n][n_used]. */
void fg_routing_row_layer(fg_routing_row *r, uint32_t layer, const uint32_t *sel);
/* Tokens of `who` from pos on are undone. */
void fg_routing_row_forget(fg_routing_row *r, uint64_t who, uint64_t pos);
/* The last pass is learned as well: for who saves the model. */
void fg_routing_row_settle(fg_routing_row *r);

/* What may be left out of scores, to compare. */
enum { FG_ROUTING_PREVIOUS = 1, FG_ROUTING_LATENT = 2, FG_ROUTING_ALL = 3 };

/* score[n_expert] of a layer for the running token, a pass of one, with the layers known so far.
 * False: the running pass has not one token.  What is asked changes how well the next token's
 * latent row begins, and nothing that is learned. */
bool fg_routing_row_score(fg_routing_row *r, uint32_t layer, unsigned with, float *score);

/* Its model, as learned until the last begin or settle; borrowed. */
const fg_routing_model *fg_routing_row_model(const fg_routing_row *r);

#endif
