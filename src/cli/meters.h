/* SPDX-License-Identifier: MIT
 *
 * What a conversation shows while it works: the text of a reply, a thought in its window, and, by a
 * thread of its own, that it is alive: whenever nothing has been shown for two seconds, something
 * moves.  How it looks is screen.h's.
 */
#ifndef FG_SRC_CLI_METERS_H
#define FG_SRC_CLI_METERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/fulgur.h"

/* How the thought of a reply is shown. */
typedef enum think_mode {
    THINK_FOLD = 0, /* in a window, of which a line remains */
    THINK_SHOW = 1, /* as text, dim */
    THINK_HIDE = 2,
    THINK_COUNT
} think_mode;
const char *think_mode_name(unsigned mode);

typedef struct meters meters;

/* silent: nothing but replies is shown.  NULL: no memory, or no thread. */
meters *meters_open(bool silent);
void meters_close(meters *m); /* accepts NULL */

/* Whether thoughts can be folded here: escape sequences may be used. */
bool meters_can_fold(const meters *m);

/* From now on it is busy with this ("opening m1.fulgur"). */
void meters_busy(meters *m, const char *what);
/* The same with a prompt of `total` tokens, of which `done` were there before. */
void meters_prompt(meters *m, uint64_t done, uint64_t total);
void meters_progress(meters *m, uint64_t done);
/* The same with a reply. */
void meters_reply(meters *m, think_mode mode);
/* Text of the reply, with the tokens that it and its thought have by now, and the thought's budget
 * (0: none).  False: it could not be written. */
bool meters_text(meters *m, fg_think_part part, const char *text, size_t n,
                 const fg_generator_stats *stats);
/* A line about the reply, which goes on behind it.  False: replies do not go to a terminal, or
 * nothing else is to be shown. */
bool meters_line(meters *m, const char *line);
/* What it was busy with is over: nothing is in place any more. */
void meters_idle(meters *m);
/* The same, and what was said ends with its line. */
void meters_end(meters *m);

/* Seconds that the last thought took so far. */
double meters_thought_seconds(const meters *m);

#endif
