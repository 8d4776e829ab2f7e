/* SPDX-License-Identifier: MIT
 *
 * Reading a message from the user: edited, with history, on a terminal; plain otherwise.  The only
 * user of libedit.
 */
#ifndef FG_SRC_CLI_LINE_H
#define FG_SRC_CLI_LINE_H

#include <stdbool.h>
#include <stddef.h>

#include "src/base/buf.h"
#include "src/base/status.h"

typedef struct line_reader line_reader;

/* What stands before the cursor, when Tab is pressed: appends to *more what is to be typed behind
 * it, and to *list, a line each, what it could be.  False: a tab is meant as such. */
typedef bool line_complete_fn(void *ctx, const char *text, size_t n, fg_buf *more, fg_buf *list);

/* NULL when out of memory. */
line_reader *line_open(line_complete_fn *complete, void *ctx);
void line_close(line_reader *r); /* accepts NULL */

/* Keeps what is entered in a file of at most LINE_HISTORY entries, which only its owner may read,
 * and offers what it has; the file and its folder are made where they are not there. */
enum { LINE_HISTORY = 1000 };
fg_status line_keep(line_reader *r, const char *path, fg_err *err);

typedef enum line_result {
    LINE_TEXT,
    LINE_DROPPED, /* Ctrl-C: nothing was entered */
    LINE_LEFT,    /* the end of input, Ctrl-C twice within a second, SIGTERM or SIGHUP */
    LINE_FAILED,  /* out of memory */
} line_result;

/* The next message without its last newline, of any length; borrowed until the next call.  A line
 * that ends in a backslash goes on in the next one, and one that begins with three quotation marks
 * up to one that ends with them.  `prompt` is shown on a terminal, in bold red when it `warns`. */
line_result line_read(line_reader *r, const char *prompt, bool warns, const char **text, size_t *n);

/* The next line_read begins with this text, to be edited; on a pipe it is lost. */
void line_put_back(line_reader *r, const char *text, size_t n);

/* While the model speaks: takes the keys that were typed, so that none is lost. */
void line_soak(line_reader *r);

#endif
