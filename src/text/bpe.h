/* SPDX-License-Identifier: MIT
 *
 * Byte-pair encoding of one word: starting from its bytes, the adjacent pair with the lowest merge
 * rank is joined, the leftmost of equals first, until no pair has a rank.
 *
 * fg_bpe is immutable once built.  A fg_bpe_state belongs to one thread: a cache of whole words
 * (bounded, a result never depends on it) and the work arrays of long words.
 */
#ifndef FG_SRC_TEXT_BPE_H
#define FG_SRC_TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/text/tokenizer.h"
#include "src/text/vocab.h"

#define FG_NO_RANK UINT32_MAX

typedef struct fg_merge {
    uint32_t left, right; /* token ids; left FG_NO_TOKEN: empty slot */
    uint32_t rank;
} fg_merge;

typedef struct fg_bpe {
    uint32_t byte_id[256];
    fg_merge *slot; /* [1 << bits], open addressing */
    uint32_t bits;
    uint32_t *result;      /* [n_merge] id that a rank makes */
    uint32_t n_merge;      /* ranks */
    const fg_vocab *vocab; /* borrowed; for whole_words */
    bool whole_words;      /* ignore_merges: a word that is a token is that token */
} fg_bpe;

typedef struct fg_bpe_state fg_bpe_state;

/* Empty table for n merges; byte_id and vocab are the caller's to fill. */
bool fg_bpe_init(fg_bpe *b, uint32_t n_merge);
void fg_bpe_fini(fg_bpe *b);

/* The rank-th merge (in order, each rank once).  A pair given twice keeps the later rank, as in the
 * reference. */
void fg_bpe_add(fg_bpe *b, uint32_t rank, uint32_t left, uint32_t right, uint32_t result);

bool fg_bpe_state_create(fg_bpe_state **out);
void fg_bpe_state_destroy(fg_bpe_state **s); /* accepts NULL; *s becomes NULL */

/* Appends the ids of a word of n > 0 bytes.  Errors: FG_ENOMEM, FG_ELIMIT (2^31 bytes). */
fg_status fg_bpe_word(const fg_bpe *b, fg_bpe_state *s, const uint8_t *word, size_t n, fg_ids *ids,
                      fg_err *err);

#endif
