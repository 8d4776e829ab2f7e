/* SPDX-License-Identifier: MIT
 *
 * The writer's insides, shared by writer.c (data, end), resume.c (begin, checkpoints) and
 * writer_parts.c (a split file's other parts).
 *
 * A span is a run of tensors written in one go, with the padding after each of them: the spans of a
 * finished file tile its data region.  Where the file's chunks begin, a span is cut into pieces,
 * each with its XXH3-64.  A piece that is a whole chunk has the chunk's hash; the others, at the
 * ends of spans, are kept as edges until the end, when their chunks are read back, the pieces
 * compared, and the chunks hashed.  A checkpoint ends a span.
 */
#ifndef FG_SRC_FORMAT_WRITE_WRITER_IMPL_H
#define FG_SRC_FORMAT_WRITE_WRITER_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "src/base/buf.h"
#include "src/base/crypto.h"
#include "src/base/hash.h"
#include "src/format/write/journal.h"
#include "src/format/parts.h"
#include "src/format/write/writer.h"

typedef unsigned long long ull; /* for %llu */

enum {
    FG_WRITER_BUFFER = 4 << 20, /* bytes */
};

/* A piece that is no whole chunk. */
typedef struct fg_edge {
    uint64_t offset, bytes, hash;
} fg_edge;

/* Where a part of a split file goes; its name until then is in fg_parts. */
typedef struct fg_part_file {
    char *path;
    char *link, *target;      /* beside the main file, and what it says; NULL: none needed */
    bool is_named, is_linked; /* the part has its name, the link was made by this writer */
    bool is_ours; /* nobody else's bytes are in it: to be removed if this writer fails */
} fg_part_file;

typedef enum fg_writer_state {
    FG_WRITER_NEW,
    FG_WRITER_BEGUN,
    FG_WRITER_BROKEN,
    FG_WRITER_DONE
} fg_writer_state;

struct fg_writer {
    char *path, *part, *log; /* log: of the journal */
    fg_writer_state state;
    fg_file_plan plan; /* own; results go into its tensors, hashes into directory and slot */
    uint8_t **blob;    /* [plan.dir.n_meta] contents of the metadata */
    uint64_t pos;      /* of the next byte of the data region, absolute */
    uint64_t flushed;  /* everything of the data region before this offset is with the kernel */
    uint8_t *buf;      /* FG_WRITER_BUFFER: bytes [flushed, pos) */
    uint64_t limit;    /* pos may not pass it: where a tensor begins that is done, or the end */
    fg_span span;      /* being written: from its first tensor to pos */
    fg_buf piece;      /* u64 hashes of its pieces before pos */
    fg_hasher *hasher; /* of the piece that holds pos */
    /* where fg_writer_drop goes back to: pos, hasher and piece.len then */
    uint64_t mark;
    fg_hasher *mark_hasher;
    size_t mark_piece;
    uint8_t *done;   /* [n_tensor] in a span that has ended */
    uint64_t *chunk; /* [n_chunk] hashes */
    uint8_t *known;  /* [n_chunk] chunk[i] is set */
    fg_edge *edge;   /* [n_edge] */
    size_t n_edge, cap_edge;
    bool fresh;     /* nothing had the name PATH when the writer was made */
    int fd;         /* PATH.part, -1 before begin */
    fg_parts parts; /* of them it is the first */
    fg_part_file split[FG_MAX_PART];
    fg_err note;               /* msg: of fg_writer_note */
    uint64_t reserve_bytes;    /* free space to ask for besides the file */
    fg_model_file *view;       /* NULL until asked for */
    fg_journal *journal;       /* NULL before begin, and for a writer that keeps none */
    bool kept;                 /* the journal holds a checkpoint: both files outlive this writer */
    bool stranger;             /* PATH.part does not begin as one that a writer left */
    bool is_model;             /* but as a finished file */
    uint8_t *changed;          /* [n_tensor] results set since the last checkpoint */
    fg_buf new_span, new_hash; /* since the last checkpoint, as in a record */
    uint64_t n_new_span;
    uint64_t n_written, saved_written, saved_ns; /* bytes; at the last checkpoint, or at begin */
    uint64_t every_bytes, every_ns;              /* when the next is due */
    /* of a plan with the key "sha256", else NULL: the hasher of the piece that holds pos, where
     * drop goes back to, and [n_chunk] hashes.  That of a chunk which is no one piece is void till
     * the end. */
    fg_sha *sha, *mark_sha;
    uint8_t *chunk_sha;
    uint32_t seal; /* its entry of metadata */
};

static inline uint64_t fg_writer_data_end(const fg_writer *w)
{
    return w->plan.slot.data_offset + w->plan.slot.data_bytes;
}

/* FG_EINVAL: the caller did things in the wrong order. */
fg_status fg_writer_misuse(const fg_writer *w, const char *got, const char *wanted, fg_err *err);
/* FG_EIO with errno's text for PATH.part. */
fg_status fg_writer_fail_io(const fg_writer *w, const char *wanted, fg_err *err);
/* Opens `path`, creating it, for reading and writing, and locks it (flock); links are not followed.
 * *is_empty: there was nothing in it, or it is new. */
fg_status fg_writer_lock(const char *path, int *fd, bool *is_empty, fg_err *err);
/* fdatasync, or fsync, of all parts. */
fg_status fg_writer_sync(fg_writer *w, bool data_only, fg_err *err);
/* Hands the buffer to the kernel. */
fg_status fg_writer_flush(fg_writer *w, fg_err *err);
/* End of the piece that begins at pos, in a span that ends at `to` (> pos). */
uint64_t fg_writer_cut(const fg_writer *w, uint64_t pos, uint64_t to);
/* SHA-256 of bytes that are chunk `idx` whole, where it is wanted. */
fg_status fg_writer_hash_chunk(fg_writer *w, uint64_t idx, const uint8_t *bytes, size_t n,
                               fg_err *err);
/* Takes a whole span as written: its pieces' hashes, u64 little-endian in turn. */
fg_status fg_writer_take_span(fg_writer *w, fg_span s, const uint8_t *hash, fg_err *err);
/* Ends the span that is being written, if it has begun; pads after its last tensor. */
fg_status fg_writer_end_span(fg_writer *w, fg_err *err);
/* Begins a span at tensor `first`, not done; or at the end of the data. */
void fg_writer_start_span(fg_writer *w, uint64_t first);

/* --- writer_parts.c: all do nothing for a file that is not split, but cut, which is for the main
 * file too --- */

/* Names of the parts (fg_writer_create). */
fg_status fg_writer_name_split(fg_writer *w, const char *const *dir, fg_err *err);

/* Opens the parts; go_on: those of an earlier life, under either name, else new ones.  One that is
 * not there stays closed when going on. */
fg_status fg_writer_open_parts(fg_writer *w, bool go_on, fg_err *err);
/* Appends what tells these files from others. */
void fg_writer_identify_parts(const fg_writer *w, fg_buf *b);
/* Refuses parts that were not empty, unless they are this conversion's. */
fg_status fg_writer_check_parts(fg_writer *w, bool ours, fg_err *err);
/* The first part that is not open, 0: all are. */
uint32_t fg_writer_missing_part(const fg_writer *w);
/* Parts that have their final name already get back that of unfinished ones. */
fg_status fg_writer_unname_parts(fg_writer *w, fg_err *err);
fg_status fg_writer_cut_parts(const fg_writer *w, uint64_t bytes, fg_err *err);
fg_status fg_writer_sync_names(const fg_writer *w, fg_err *err);
/* Writes the headers. */
fg_status fg_writer_seal_parts(fg_writer *w, fg_err *err);
/* Gives the parts their names, and makes the links; durable. */
fg_status fg_writer_name_parts(fg_writer *w, fg_err *err);
/* Removes those of the unfinished parts that are this conversion's. */
void fg_writer_drop_parts(fg_writer *w);
void fg_writer_close_parts(fg_writer *w);

#endif
