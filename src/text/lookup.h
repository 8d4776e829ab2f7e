/* SPDX-License-Identifier: MIT
 *
 * Guesses what follows, from what followed before: the longest earlier match of the last ids, at
 * least three, of equal ones the latest, in the sequence itself and in a text beside it.
 */
#ifndef FG_SRC_TEXT_LOOKUP_H
#define FG_SRC_TEXT_LOOKUP_H

#include "src/text/ngram.h"

enum { FG_LOOKUP_LONGEST = 64 }; /* matches are compared up to here */

typedef struct fg_lookup {
    uint32_t *ids; /* [n] the text beside, a border, the sequence */
    size_t n, cap;
    size_t n_beside; /* with the border */
    fg_ngram grams;
    uint64_t at;  /* what followed the match; 0: there is none */
    size_t match; /* its length, counted on while it goes on being right */
} fg_lookup;

/* False: no memory.  A zeroed fg_lookup is one without a text beside. */
bool fg_lookup_init(fg_lookup *x, const uint32_t *beside, size_t n);
void fg_lookup_fini(fg_lookup *x);
/* An empty sequence, the same text beside.  False: no memory. */
bool fg_lookup_restart(fg_lookup *x);

/* Up to FG_LOOKUP_LONGEST of the ids after the match: out [most]; how many. */
size_t fg_lookup_next(const fg_lookup *x, uint32_t *out, size_t most);

/* The sequence's next id.  False: no memory; nothing is guessed from then on. */
bool fg_lookup_add(fg_lookup *x, uint32_t id);

#endif
