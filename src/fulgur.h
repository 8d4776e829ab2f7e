/* SPDX-License-Identifier: MIT
 *
 * Fulgur's public interface.
 */
#ifndef FG_SRC_FULGUR_H
#define FG_SRC_FULGUR_H

#ifdef __cplusplus
extern "C" {
#endif

#define FG_VERSION_MAJOR 0
#define FG_VERSION_MINOR 1
#define FG_VERSION_PATCH 0
#define FG_VERSION       "0.1.0"

/* What the library exports. */
#ifndef FG_API
#if defined(__GNUC__)
#define FG_API __attribute__((visibility("default")))
#else
#define FG_API
#endif
#endif

/* Version of the library that is linked, "MAJOR.MINOR.PATCH"; FG_VERSION is the header's. */
FG_API const char *fg_version(void);

/* ---- status ---- */

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
FG_API const char *fg_status_text(fg_status code);

#ifdef __cplusplus
}
#endif

#endif
