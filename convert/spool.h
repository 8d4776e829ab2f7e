/* SPDX-License-Identifier: MIT
 *
 * What stands between encoder and writer.  It is a queue of bytes: appended once, then replayed
 * once in order.  The file holds the row scales of a matrix before its panels, but they are known
 * only when the last panel is encoded, and the file is written front to back.  So the panels of one
 * tensor group wait here: in memory up to a fixed limit (an expert of the release fits), beyond it
 * (the vocabulary matrices) in an unnamed temporary file beside the output.  Memory therefore does
 * not grow with the model.
 */
#ifndef FG_CONVERT_SPOOL_H
#define FG_CONVERT_SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/format/write/writer.h"

typedef struct fg_spool {
    const char *path; /* of the output: the temporary file lives in its folder; borrowed */
    uint8_t *mem;
    size_t mem_bytes, mem_used; /* mem_bytes: size of mem */
    uint64_t limit;             /* most bytes of memory */
    int fd;                     /* -1 until needed */
    uint64_t file_used;
    fg_writer *writer; /* of the unit that is under way; borrowed */
    bool holding;      /* its panels wait */
    uint64_t pos;      /* file position of the next byte that waits */
} fg_spool;

void fg_spool_init(fg_spool *s, const char *path, uint64_t limit);
void fg_spool_fini(fg_spool *s);

/* Empties the spool and makes room for `expect` bytes (or the limit) in memory. */
fg_status fg_spool_start(fg_spool *s, uint64_t expect, fg_err *err);
fg_status fg_spool_append(fg_spool *s, const void *bytes, uint64_t n, fg_err *err);

/* Hands all bytes to `sink` in order, in pieces. */
typedef fg_status fg_spool_sink(void *ctx, const void *bytes, uint64_t n, fg_err *err);
fg_status fg_spool_replay(fg_spool *s, fg_spool_sink *sink, void *ctx, fg_err *err);

/* --- a unit on its way to the writer: one matrix or vector, or gate, up and down of an expert
 * --- */

/* What must wait for row scales. */
typedef struct fg_spool_hold {
    uint64_t first;         /* file position of the first panel */
    uint64_t expect, limit; /* bytes of panels, and most of them in memory */
} fg_spool_hold;

/* hold NULL: nothing waits, the bytes go to the writer as they come. */
fg_status fg_spool_begin(fg_spool *s, fg_writer *w, const fg_spool_hold *hold, fg_err *err);

/* n bytes for the file position pos, positions ascending, gaps padded with zeros: as fg_encode_io
 * has it. */
fg_status fg_spool_put(void *spool, uint64_t pos, const void *bytes, uint64_t n, fg_err *err);

/* Row scales of one tensor. */
typedef struct fg_spool_scales {
    uint64_t offset; /* in the file */
    const float *v;  /* [n]; n = 0: the tensor has none */
    size_t n;
} fg_spool_scales;

/* Writes the scales, in the order of their places, and after them what waited, from the position
 * `first` on; nothing when nothing waited. */
fg_status fg_spool_end(fg_spool *s, const fg_spool_scales *scales, size_t n, uint64_t first,
                       fg_err *err);

#endif
