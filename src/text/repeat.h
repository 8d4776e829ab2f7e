/* SPDX-License-Identifier: MIT
 *
 * Whether the ids of a reply are copied from an earlier part: the prompt with earlier turns, and in
 * an answer its thought.  A loop of a part copies from itself, which is no copying here; and each
 * place is copied from once, so that a loop over a quotation is found out.
 */
#ifndef FG_SRC_TEXT_REPEAT_H
#define FG_SRC_TEXT_REPEAT_H

#include "src/text/ngram.h"

typedef struct fg_repeat {
    fg_ngram grams; /* of earlier parts, without what was copied */
    uint64_t *used; /* [cap] bits: copied */
    size_t cap;
    uint64_t n;    /* ids of earlier parts */
    uint64_t next; /* where the last copy goes on */
} fg_repeat;

void fg_repeat_fini(fg_repeat *r);
void fg_repeat_clear(fg_repeat *r);
/* A part begins after the n ids: all of them are earlier ones.  False: no memory. */
bool fg_repeat_part(fg_repeat *r, const uint32_t *ids, size_t n);
/* Whether id, after the n ids, goes on with a copy or begins one. */
bool fg_repeat_copies(fg_repeat *r, const uint32_t *ids, size_t n, uint32_t id);

#endif
