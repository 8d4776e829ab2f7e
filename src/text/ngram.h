/* SPDX-License-Identifier: MIT
 *
 * Where the last three ids of a sequence have stood before, latest first.  The sequence is the
 * caller's; a position is the number of ids before it, so an entry at p says that
 * ids[p - 3 .. p - 1] are there, and ids[p] is what followed.
 *
 *     for (uint64_t *l = fg_ngram_find(x, ids, n); *l != 0; l = &x->next[*l]) ...ids[*l]...
 *
 * Entries share a chain by hash: what is found is to be compared (fg_ngram_match).  An entry is
 * taken out by *l = x->next[*l].
 */
#ifndef FG_SRC_TEXT_NGRAM_H
#define FG_SRC_TEXT_NGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FG_NGRAM = 3 };

typedef struct fg_ngram {
    uint64_t *head; /* [n_head] a power of two; 0: the end of a chain */
    uint64_t *next; /* [n] of entries; UINT64_MAX: not one */
    size_t n_head, n, cap;
} fg_ngram;

void fg_ngram_fini(fg_ngram *x);
void fg_ngram_clear(fg_ngram *x);
/* The entry at n, which is above all before; nothing below three.  False: no memory. */
bool fg_ngram_add(fg_ngram *x, const uint32_t *ids, size_t n);
/* The link to the latest entry whose ids may be those before n. */
uint64_t *fg_ngram_find(fg_ngram *x, const uint32_t *ids, size_t n);
/* Ids, at most `most`, that are the same before p and before n. */
size_t fg_ngram_match(const uint32_t *ids, uint64_t p, size_t n, size_t most);

#endif
