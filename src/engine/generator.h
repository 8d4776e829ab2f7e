/* SPDX-License-Identifier: MIT
 *
 * What the loop (src/engine/reply.c) sees of a generator besides the public interface.
 */
#ifndef FG_SRC_ENGINE_GENERATOR_H
#define FG_SRC_ENGINE_GENERATOR_H

#include "src/engine/session.h"
#include "src/text/tokenizer.h"

/* The options, with defaults filled in. */
const fg_reply_opts *fg_generator_opts(const fg_generator *g);

/* Ids before the reply and in it, those of the last step included; borrowed until the next call. */
const fg_ids *fg_generator_ids(const fg_generator *g);

/* How far the loop came with guessing, for the statistics. */
void fg_generator_note_drafts(fg_generator *g, uint64_t drafted, uint64_t accepted, double gain);

#endif
