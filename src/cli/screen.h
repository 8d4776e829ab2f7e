/* SPDX-License-Identifier: MIT
 *
 * What a conversation looks like on a terminal, as bytes: a pure function of what was said and
 * drawn before.  A reply has rows that change in place (a bar, a thought in its window) and text
 * that stays.
 *
 * Text of a model, of files and their names never reaches the terminal as it is: what a terminal
 * would act on becomes U+FFFD.
 */
#ifndef FG_SRC_CLI_SCREEN_H
#define FG_SRC_CLI_SCREEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"

/* Rows that change in place, at most: the last ones of a thought, and one of figures. */
enum { SCREEN_ROWS = 6 };

/* Zero-initialise but for `width`; free with screen_fini. */
typedef struct screen {
    unsigned width;           /* columns of the window */
    bool dims;                /* dim text may be used */
    fg_buf thought;           /* of the reply, as it is shown */
    size_t head[SCREEN_ROWS]; /* where its last rows begin, the last one first */
    unsigned at;              /* columns of the last one */
    unsigned drawn;           /* rows in place, the cursor on the last */
    unsigned column;          /* of the text that stays */
    unsigned tail;            /* columns behind it that will go */
    bool dim;                 /* text that stays is being dimmed */
    bool spoke;               /* something of the reply has been shown */
} screen;

void screen_fini(screen *s);
/* Forgets the reply; nothing of it is in place any more. */
void screen_begin(screen *s);
/* The window has another size, or somebody else has drawn: what is in place stays there. */
void screen_moved(screen *s, unsigned width, fg_buf *out);

/* Uses UTF-8 for characters, whatever the environment says. */
void screen_use_utf8(void);

/* Appends text with what a terminal would act on as U+FFFD; line feeds and tabs stay, and line ends
 * become line feeds. */
void screen_put_safe(fg_buf *out, const char *text, size_t n);

/* Text that stays, dim or not; rows in place give way to it. */
void screen_say(screen *s, const char *text, size_t n, bool dim, fg_buf *out);
/* More of the thought; screen_rows shows it. */
void screen_think(screen *s, const char *text, size_t n);
/* Draws the rows in place: the last ones of the thought, and `figures`. */
void screen_rows(screen *s, const char *figures, fg_buf *out);
/* Nothing is in place any more, and text that stays is as usual again. */
void screen_clear(screen *s, fg_buf *out);
/* A line of its own, dim, that stays. */
void screen_line(screen *s, const char *text, fg_buf *out);
/* A sign of life behind the text that stays, which the next text replaces; where there is no room
 * for it, nothing. */
void screen_wait(screen *s, const char *text, fg_buf *out);

/* ---- texts ---- */

/* "41 s", "9 min 41 s", "3 h 05 min" */
void screen_put_time(fg_buf *out, double seconds);
/* "0", "950", "12.3K", "32K": of 1,024 */
void screen_put_size(fg_buf *out, uint64_t n);

/* "prompt 34 % [####....] 1,234 of 3,600 tokens, 12 tok/s, 3 min 12 s left"; rate 0: not known. */
void screen_put_prompt(fg_buf *out, uint64_t done, uint64_t total, double rate, double left);
/* "thinking: 1,234 tokens, 4.1 tok/s, 12 % of 35,904"; budget 0: none. */
void screen_put_thinking(fg_buf *out, uint64_t n, double rate, uint64_t budget);

#endif
