/* SPDX-License-Identifier: MIT
 *
 * How many tokens to guess ahead.  A pass of w rows, one known token and w - 1 guesses, takes c(w)
 * seconds and gives one token and the guesses before the first wrong one; so guessing pays where
 *
 *     (1 + right guesses expected) / c(w)  >  1.05 / c(1).
 *
 * Both sides are measured: seconds by width as passes come; how often a guess is right, by the
 * length of its match, on every token, whether it was used or not, which costs nothing.  Before a
 * width was tried a prior stands for it.
 *
 * Guesses go off after 64 losing passes, for 256 tokens, doubling; and never are more seconds
 * risked than 1.2 in a hundred of the reply's, and those of most of a token.
 *
 * It decides on time alone; what a reply says does not depend on it (src/engine/reply.c).
 */
#ifndef FG_SRC_ENGINE_DRAFT_H
#define FG_SRC_ENGINE_DRAFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/fulgur.h"
#include "src/text/lookup.h"

enum { FG_DRAFT_ROWS = FG_DRAFT_MAX + 1, FG_DRAFT_CLASSES = 8 };

typedef struct fg_draft {
    int32_t width; /* FG_DRAFT_AUTO, or the guesses in every pass; 0: none */
    bool streams;  /* experts are read on demand: rows are dear */
    fg_lookup guess;
    /* For tests: the guesses; how many, at most `most`. */
    size_t (*script)(void *ctx, const uint32_t *ids, size_t n, uint32_t *out, size_t most);
    void *script_ctx;
    uint64_t (*clock)(void); /* nanoseconds; for tests another one */
    struct {
        double value;
        uint64_t n;                 /* measured so often */
    } right[FG_DRAFT_CLASSES],      /* share of right guesses by length of the match */
        seconds[FG_DRAFT_ROWS + 1]; /* [w] of a pass */
    uint64_t age;                   /* passes since one of one row was measured */
    uint64_t idle;                  /* passes since the last one with guesses */
    /* the ledger */
    uint64_t n_token, n_losing, n_off; /* tokens; losing passes; times it went off */
    uint64_t off_until;                /* of n_token */
    double saved, spent;               /* seconds: against passes of one row; of all passes */
    uint64_t drafted, accepted;
} fg_draft;

/* What follows may quote beside[n].  False: no memory. */
bool fg_draft_init(fg_draft *d, int32_t width, bool streams, const uint32_t *beside, size_t n);
void fg_draft_fini(fg_draft *d);

/* The sequence has these n ids now; most of the first ones were there before, or another one has
 * begun.  False: no memory, and nothing is guessed. */
bool fg_draft_follow(fg_draft *d, const uint32_t *ids, size_t n);

/* Guesses to try after them, at most `most` (<= FG_DRAFT_MAX): out; how many. */
size_t fg_draft_propose(fg_draft *d, uint32_t *out, size_t most);

/* A pass with n guesses, of which n_right were right, took so long. */
void fg_draft_passed(fg_draft *d, size_t n, size_t n_right, double seconds);

/* Seconds without guesses by seconds with them. */
double fg_draft_gain(const fg_draft *d);

#endif
