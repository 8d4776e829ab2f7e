/* SPDX-License-Identifier: MIT
 *
 * Fields of CSV files: in quotes, quotes inside doubled; numbers may stand bare.
 */
#ifndef FG_SRC_CLI_CSV_H
#define FG_SRC_CLI_CSV_H

#include <stdbool.h>
#include <stddef.h>

#include "src/base/buf.h"

/* A field in quotes and a comma. */
void csv_put_field(fg_buf *b, const char *s);

/* The date of a line: "2026-01-31T12:00Z". */
typedef struct csv_date {
    char s[24];
} csv_date;
csv_date csv_now(void);

/* Takes the next field of a line that ends at NUL or a newline; *at is then behind its comma, or at
 * that end.  False: no field left, no closing quote, or longer than size. */
bool csv_take_field(const char **at, char *field, size_t size);

#endif
