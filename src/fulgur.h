/* SPDX-License-Identifier: MIT
 *
 * Fulgur's public interface.
 */
#ifndef FG_SRC_FULGUR_H
#define FG_SRC_FULGUR_H

#include <stdbool.h>

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

/* ---- choices ----
 *
 * Values are append only.  COUNT, the number of values, is no value.  A name is static text, as the
 * command line has it; NULL: no such value in this build. */

/* Highest level of CPU features that kernels may use. */
typedef enum fg_cpu_level {
    FG_CPU_LEVEL_AUTO = 0, /* the highest that this machine has */
    FG_CPU_LEVEL_SCALAR = 1,
    FG_CPU_LEVEL_AVX2 = 2,
    FG_CPU_LEVEL_AVX512VNNI = 3,
    FG_CPU_LEVEL_AMX = 4,
    FG_CPU_LEVEL_NEON = 5,
    FG_CPU_LEVEL_DOTPROD = 6,
    FG_CPU_LEVEL_I8MM = 7,
    FG_CPU_LEVEL_COUNT
} fg_cpu_level;
FG_API const char *fg_cpu_level_name(fg_cpu_level level);

/* Which experts stay in memory; changes time only. */
typedef enum fg_policy {
    FG_POLICY_LRU = 0, /* evicts the least recently requested */
    FG_POLICY_LFU = 1, /* the least frequently requested, counts halve now and then; ties as LRU */
    FG_POLICY_PIN =
        2, /* the hottest of the file's heat map stay once they are in; the rest as LRU */
    /* not live, only of a replay, to compare with: */
    FG_POLICY_RANDOM = 3,  /* evicts any */
    FG_POLICY_OPTIMAL = 4, /* the one whose next request is farthest away (Belady 1966): no choice
                            * has fewer misses, as long as the experts of each layer are one wave */
    FG_POLICY_COUNT
} fg_policy;
FG_API const char *fg_policy_name(fg_policy policy);
FG_API bool fg_policy_is_live(fg_policy policy); /* an engine may have it */

/* By what experts are read ahead of need; changes time only. */
typedef enum fg_predict {
    FG_PREDICT_NONE = 0,
    FG_PREDICT_FREQUENCY = 1, /* the layer's most requested so far; counts halve now and then */
    FG_PREDICT_PREVIOUS = 2,  /* those of the token before, then of the one before that, ... */
    FG_PREDICT_ROUTER = 3,    /* the best of that layer's router on the state of this layer */
    FG_PREDICT_COUNT
} fg_predict;
FG_API const char *fg_predict_name(fg_predict predict);

/* How experts are read. */
typedef enum fg_io {
    FG_IO_AUTO = 0, /* io_uring, or pread where that is refused */
    FG_IO_URING = 1,
    FG_IO_PREAD = 2, /* a few threads */
    FG_IO_COUNT
} fg_io;
FG_API const char *fg_io_name(fg_io io);

/* Elements of the key-value cache.  f16 halves the f32 cache: 11 bits of precision, rounded to
 * nearest even; a key or value beyond 65504 becomes infinite. */
typedef enum fg_kv_choice {
    FG_KV_CHOICE_AUTO = 0, /* int8 for quantized files, f32 for f32 and bf16 files */
    FG_KV_CHOICE_F32 = 1,
    FG_KV_CHOICE_F16 = 2,
    FG_KV_CHOICE_INT8 = 3,
    FG_KV_CHOICE_COUNT
} fg_kv_choice;
FG_API const char *fg_kv_choice_name(fg_kv_choice kv);

#ifdef __cplusplus
}
#endif

#endif
