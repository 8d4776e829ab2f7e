/* SPDX-License-Identifier: MIT
 *
 * Rewrites the regular expression of a tokenizer.json, which is written for Oniguruma (Ruby syntax,
 * Unicode 16 in the reference), into one that PCRE2 with UTF and UCP matches in the same way.
 *
 * A white list: literals, classes, groups (plain, ?:, ?=, ?!, ?<=, ?<!, ?>, ?i:, ?-i:; (?i) at the
 * start), | . * + ? {n} {n,} {n,m}, lazy and possessive forms that mean the same in both, \s \S \d
 * \D, \p{..} \P{..} of a general category, \x{..}, \uHHHH and escaped punctuation.  What the two
 * engines read differently, or what is not known to be the same, is refused: a pattern that
 * silently splits otherwise would give a model wrong text.  Differences that are ironed out:
 *
 *   \s    PCRE2 also takes U+180E: replaced by the explicit list of White_Space
 *   \p{L} PCRE2 10.42 knows Unicode 14: the characters assigned since are added
 *   \v    a single vertical tab in Oniguruma, a class in PCRE2
 */
#ifndef FG_SRC_TEXT_REGEX_H
#define FG_SRC_TEXT_REGEX_H

#include <stddef.h>

#include "src/base/buf.h"
#include "src/base/status.h"

/* Appends the PCRE2 pattern to *out.  `name` is the object of messages.  Errors: FG_EFORMAT (not a
 * pattern), FG_ENOTSUP (outside the list above). */
fg_status fg_regex_translate(const char *pattern, size_t n, fg_buf *out, const char *name,
                             fg_err *err);

#endif
