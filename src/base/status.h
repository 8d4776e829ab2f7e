/* SPDX-License-Identifier: MIT
 *
 * Status codes and error messages: every fallible function returns fg_status and takes an fg_err
 * as its last parameter.  Only src/cli prints; the library fills messages.
 *
 * Message form (style B5): "<object>: <got>, expected <wanted>[; <what to do>]", one line, no
 * trailing period.  The command line puts "fulgur: " in front.
 */
#ifndef FG_SRC_BASE_STATUS_H
#define FG_SRC_BASE_STATUS_H

#include "src/fulgur.h"

/* Stores code and message in *err (err may be NULL) and returns code.  Control characters and
 * what is no UTF-8 in the formatted text, which may come from a hostile file or name, are replaced
 * by '?' so that the message stays one line. */
fg_status fg_fail(fg_err *err, fg_status code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Shorthand for a failed allocation of `what`. */
fg_status fg_fail_nomem(fg_err *err, const char *what);

#define FG_TRY(expr)                                                                               \
    do {                                                                                           \
        const fg_status fg_try_ = (expr);                                                          \
        if (fg_try_ != FG_OK) return fg_try_;                                                      \
    } while (0)

#endif
