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

/* Append only; the values are stable and may be logged. */
#define FG_STATUS_MAP(X)                                                                           \
    X(FG_OK, 0, "success")                                                                         \
    X(FG_ENOMEM, -1, "out of memory")                                                              \
    X(FG_EIO, -2, "input/output error")                                                            \
    X(FG_EFORMAT, -3, "malformed file")                                                            \
    X(FG_EVERSION, -4, "unsupported version")                                                      \
    X(FG_ECHECKSUM, -5, "checksum mismatch")                                                       \
    X(FG_ESHAPE, -6, "tensor does not fit the model")                                              \
    X(FG_EINVAL, -7, "invalid argument")                                                           \
    X(FG_ENOTSUP, -8, "not supported")                                                             \
    X(FG_ELIMIT, -9, "limit exceeded")                                                             \
    X(FG_EDATA, -10, "invalid numeric data")                                                       \
    X(FG_ECANCEL, -11, "cancelled")

typedef enum fg_status {
#define FG_STATUS_ENUM(name, value, text) name = (value),
    FG_STATUS_MAP(FG_STATUS_ENUM)
#undef FG_STATUS_ENUM
} fg_status;

typedef struct fg_err {
    fg_status code; /* FG_OK until fg_fail wrote here */
    char msg[512];  /* one line, NUL-terminated; over-long messages are cut */
} fg_err;

/* Static text of a status code; never NULL. */
const char *fg_status_text(fg_status code);

/* Stores code and message in *err (err may be NULL) and returns code.  Control characters in the
 * formatted text, which may come from a hostile file, are replaced by '?' so that the message
 * stays one line. */
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
