/* SPDX-License-Identifier: MIT
 *
 * Reading a line from the user: edited with history on a terminal, plain otherwise.  The only user
 * of libedit.
 */
#ifndef FG_SRC_CLI_LINE_H
#define FG_SRC_CLI_LINE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct line_reader line_reader;

line_reader *line_open(const char *prompt); /* NULL when out of memory */
void line_close(line_reader *r);            /* accepts NULL */

/* Next line without its newline, of any length; borrowed until the next call.  NULL at the end of
 * input, and when there was no memory for it (line_failed).  A line that
 * ends in a backslash goes on in the next one. */
const char *line_read(line_reader *r, size_t *n);
bool line_failed(const line_reader *r);

#endif
