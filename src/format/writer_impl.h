/* SPDX-License-Identifier: MIT
 *
 * The writer's insides, shared by writer.c (plan, data, end) and resume.c (begin, checkpoints).
 */
#ifndef FG_SRC_FORMAT_WRITER_IMPL_H
#define FG_SRC_FORMAT_WRITER_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/hash.h"
#include "src/format/journal.h"
#include "src/format/layout.h"
#include "src/format/writer.h"

typedef unsigned long long ull; /* for %llu */

enum {
    FG_WRITER_BUFFER = 4 << 20, /* bytes */
};

typedef struct fg_blob {
    char *key;
    uint8_t *data;
    uint64_t bytes;
} fg_blob;

typedef enum fg_writer_state {
    FG_WRITER_OPEN,
    FG_WRITER_PLANNED,
    FG_WRITER_BEGUN,
    FG_WRITER_BROKEN,
    FG_WRITER_DONE
} fg_writer_state;

struct fg_writer {
    char *path, *part, *log; /* log: of the journal */
    fg_writer_state state;
    fg_shape shape;
    fg_blob *blob; /* [n_blob], sorted by key once planned */
    size_t n_blob, cap_blob;
    fg_directory dir;
    fg_slot slot;
    uint64_t pos;      /* of the next byte of the data region, absolute */
    uint64_t flushed;  /* everything of the data region before this offset is with the kernel */
    uint8_t *buf;      /* FG_WRITER_BUFFER: bytes [flushed, pos) */
    uint64_t *chunk;   /* [n_chunk] hashes */
    fg_hasher *hasher; /* of the chunk that holds pos */
    int fd;            /* PATH.part, -1 before begin */
    uint64_t reserve_bytes; /* free space to ask for besides the file */
    fg_model_file *view;    /* NULL until asked for */
    fg_journal *journal;    /* NULL before begin, and for a writer that keeps none */
    bool kept;              /* the journal holds a checkpoint: both files outlive this writer */
    uint8_t *changed;       /* [n_tensor] results set since the last checkpoint */
    uint64_t saved_pos, saved_ns;   /* of the last checkpoint, or of begin */
    uint64_t every_bytes, every_ns; /* when the next is due */
};

static inline uint64_t fg_writer_data_end(const fg_writer *w)
{
    return w->slot.data_offset + w->slot.data_bytes;
}

/* FG_EINVAL: the caller did things in the wrong order. */
fg_status fg_writer_misuse(const fg_writer *w, const char *got, const char *wanted, fg_err *err);
/* FG_EIO with errno's text for PATH.part. */
fg_status fg_writer_fail_io(const fg_writer *w, const char *wanted, fg_err *err);
/* Hands the buffer to the kernel. */
fg_status fg_writer_flush(fg_writer *w, fg_err *err);

#endif
