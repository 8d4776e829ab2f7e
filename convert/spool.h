/* SPDX-License-Identifier: MIT
 *
 * A queue of bytes: appended once, then replayed once in order.  The file holds the row scales of
 * a matrix before its panels, but they are known only when the last panel is encoded, and the file
 * is written front to back.  So the panels of one tensor group wait here: in memory up to a fixed
 * limit (an expert of the release fits), beyond it (the vocabulary matrices) in an unnamed
 * temporary file beside the output.  Memory therefore does not grow with the model.
 */
#ifndef FG_CONVERT_SPOOL_H
#define FG_CONVERT_SPOOL_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

typedef struct fg_spool {
    const char *path; /* of the output: the temporary file lives in its folder; borrowed */
    uint8_t *mem;
    size_t mem_bytes, mem_used; /* mem_bytes: size of mem */
    uint64_t limit;             /* most bytes of memory */
    int fd;                     /* -1 until needed */
    uint64_t file_used;
} fg_spool;

void fg_spool_init(fg_spool *s, const char *path, uint64_t limit);
void fg_spool_fini(fg_spool *s);

/* Empties the spool and makes room for `expect` bytes (or the limit) in memory. */
fg_status fg_spool_start(fg_spool *s, uint64_t expect, fg_err *err);
fg_status fg_spool_append(fg_spool *s, const void *bytes, uint64_t n, fg_err *err);

/* Hands all bytes to `sink` in order, in pieces. */
typedef fg_status fg_spool_sink(void *ctx, const void *bytes, uint64_t n, fg_err *err);
fg_status fg_spool_replay(fg_spool *s, fg_spool_sink *sink, void *ctx, fg_err *err);

#endif
