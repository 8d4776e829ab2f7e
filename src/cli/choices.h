/* SPDX-License-Identifier: MIT
 *
 * Options that name one of a list: the lists of the public interface, walked for parsing, for help
 * and for errors.  No other part of the program parses such a name.
 */
#ifndef FG_SRC_CLI_CHOICES_H
#define FG_SRC_CLI_CHOICES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/cli/args.h"

/* True when options of this kind have a name of a list as their value. */
bool choice_is_kind(opt_kind kind);

/* Sets *value to what text names; false, with *value untouched, when it names nothing. */
bool choice_parse(opt_kind kind, const char *text, uint32_t *value);

/* "lru (default), lfu or pin" in text[n], cut when it does not fit; standard: the default value,
 * UINT32_MAX to mark none. */
void choice_list(opt_kind kind, uint32_t standard, char *text, size_t n);

#endif
