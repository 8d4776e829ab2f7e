/* SPDX-License-Identifier: MIT
 *
 * Which experts are worth a place on the card: counts of the running session, which fade, and a
 * choice that is a pure function of them.  It changes time only, never a bit.
 *
 * Counts are noisy.  Experts that are used equally often differ by some multiple of the square root
 * of their counts, and of thousands the luckiest and the unluckiest by most; only what differs by
 * more than FG_HOT_MARGIN such roots changes places, so that nothing goes to and fro.
 */
#ifndef FG_SRC_EXPERT_HOT_H
#define FG_SRC_EXPERT_HOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FG_HOT_WINDOW = 1024 }; /* tokens after which counts are halved */
#define FG_HOT_MARGIN 5.0f

typedef enum fg_hot_place { FG_HOT_NEVER, FG_HOT_HOST, FG_HOT_CARD } fg_hot_place;
typedef struct fg_hot_expert {
    float use;          /* of the last FG_HOT_WINDOW tokens or so, by how many */
    fg_hot_place place; /* NEVER: it cannot be on the card */
    uint64_t bytes;     /* its own; of one that is there, of its place */
} fg_hot_expert;

typedef struct fg_hot {
    fg_hot_expert *expert; /* [n], layer after layer */
    size_t n;
    uint32_t n_expert; /* of a layer */
    uint64_t n_tok;    /* since the last halving */
} fg_hot;

/* Counts a layer's rows in a pass of n_tok tokens; one of more than the window counts as one. */
void fg_hot_saw(fg_hot *h, uint32_t layer, const uint32_t *n_row, uint32_t n_tok);
/* A pass of n_tok tokens begins: counts fade. */
void fg_hot_fade(fg_hot *h, uint32_t n_tok);

/* The least used one that is on the card, n: none.  Ties: the higher number in its layer, as those
 * were put there last. */
size_t fg_hot_coldest(const fg_hot *h);
/* `in` is to have out's place; false: nothing is worth it.  margin: FG_HOT_MARGIN; below 0 the two
 * are chosen whatever they are worth. */
bool fg_hot_choose(const fg_hot *h, float margin, size_t *in, size_t *out);

#endif
