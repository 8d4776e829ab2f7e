/* SPDX-License-Identifier: MIT
 *
 * What the loop (src/engine/reply.c) sees of a generator besides the public interface.
 */
#ifndef FG_SRC_ENGINE_GENERATOR_H
#define FG_SRC_ENGINE_GENERATOR_H

#include "src/engine/draft.h"
#include "src/engine/session.h"
#include "src/text/tokenizer.h"

/* The options, with defaults filled in. */
const fg_reply_opts *fg_generator_opts(const fg_generator *g);

/* Ids before the reply and in it, those of the last step included; borrowed until the next call. */
const fg_ids *fg_generator_ids(const fg_generator *g);

/* Its guesses, which live on from reply to reply; NULL: no memory, or none are wanted. */
fg_draft *fg_generator_draft(fg_generator *g);

#endif
