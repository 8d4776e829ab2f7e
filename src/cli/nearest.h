/* SPDX-License-Identifier: MIT
 *
 * Which of the names that there are somebody may have meant who typed one that there is not: for
 * commands, options and the commands of a conversation.
 */
#ifndef FG_SRC_CLI_NEAREST_H
#define FG_SRC_CLI_NEAREST_H

#include <limits.h>
#include <stddef.h>

/* The best so far; begin with {.least = UINT_MAX}. */
typedef struct nearest {
    const char *name; /* NULL: none; one of those offered */
    unsigned least;   /* edits to it */
} nearest;

/* Offers a name for what was typed, n bytes; of equally near ones the first stays, and one that
 * begins with it is nearest.  Letters beyond the 24th do not count. */
void nearest_offer(nearest *best, const char *typed, size_t n, const char *name);

/* The best when it may be a slip of what was typed: a third of its letters at the most; else
 * NULL. */
const char *nearest_likely(const nearest *best, size_t n);

#endif
