/* SPDX-License-Identifier: MIT
 *
 * Writes a .fulgur file as planned (file_plan.h): data in file order, then the header, so that an
 * unfinished file never validates.  The file grows as PATH.part and is renamed to PATH when
 * complete and synced.
 *
 * Use:  fg_file_plan_make -> fg_writer_create -> fg_writer_begin
 *       -> fg_writer_write* (the data region, exactly) -> fg_writer_set_error*
 *       -> fg_writer_finish; fg_writer_destroy at any time removes an unfinished PATH.part.
 *
 * Data is written in file order from the start, or, with fg_writer_seek, in any order of the
 * tensors (an expert's three together): every place is known from the plan.  The file is the same.
 * Chunks that were not written in one go are read back at the end, and compared with what was
 * written.
 *
 * A writer begun by fg_writer_resume instead survives its process: it keeps PATH.part.journal
 * beside PATH.part, and fg_writer_checkpoint makes what was written so far durable.  Killed at any
 * moment, by the machine's loss of power too, a second life with the same plan goes on from the
 * last checkpoint, and the finished file has the bytes that one life would have given it.  From the
 * first checkpoint on, destroy leaves both files where they are.
 */
#ifndef FG_SRC_FORMAT_WRITE_WRITER_H
#define FG_SRC_FORMAT_WRITE_WRITER_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/format/file_plan.h"
#include "src/format/format.h"
#include "src/format/reader.h"

typedef struct fg_writer fg_writer;

/* plan: of the file at `path`; copied, as are the entries meta[n_meta], which must be those that
 * the plan was made with (their order is free; what is known only at the end is replaced by
 * fg_writer_set_meta). split_dir: part k = 1 .. n_part - 1 of a split plan goes to the folder
 * split_dir[k - 1], as NAME.k, and where that is not PATH's own folder, a link PATH.k beside PATH
 * names it; other than PATH, files that are there already are refused.  Not used when the plan is
 * not split. *out is destroyed by fg_writer_destroy.  Errors: FG_EINVAL, FG_EIO (no such folder),
 * FG_ENOMEM. */
fg_status fg_writer_create(fg_writer **out, const char *path, const fg_file_plan *plan,
                           const fg_meta *meta, size_t n_meta, const char *const *split_dir,
                           fg_err *err);

/* The writer's copy of the plan, in whose tensors stands what was measured so far; borrowed. */
const fg_file_plan *fg_writer_plan(const fg_writer *w);

/* Which drives the parts of a split file go to: known before there is a writer. */
typedef struct fg_part_drives {
    uint32_t n;                  /* parts, the main file among them; 1: not split */
    uint64_t drive[FG_MAX_PART]; /* of part k's folder: equal numbers, one file system */
} fg_part_drives;

/* Of a file at `path` whose parts 1 .. n_dir go to the folders dir[n_dir].  FG_EINVAL, FG_EIO (no
 * folder), FG_ENOMEM. */
fg_status fg_part_drives_find(fg_part_drives *d, const char *path, const char *const *dir,
                              uint32_t n_dir, fg_err *err);
/* Bytes of [from, to) that go to the drive of part k (0: PATH), all parts on it together. */
uint64_t fg_part_drives_share(const fg_part_drives *d, const fg_file_plan *plan, uint32_t part,
                              uint64_t from, uint64_t to);

/* Before begin: bytes that the caller will need on the same file system for temporary files.
 * UINT64_MAX: the caller looks after free space there itself. */
void fg_writer_reserve(fg_writer *w, uint64_t bytes);

/* Creates PATH.part, without a journal.  Refuses when PATH.part exists and is locked by another
 * process (flock), holds the checkpoint of an interrupted one, or is none of a writer's (it begins
 * otherwise, or is a link or no regular file: left untouched), or when the file system has fewer
 * free bytes than the file and the reserve need. */
fg_status fg_writer_begin(fg_writer *w, fg_err *err);

/* What a resume asks and tells, in this order, all before anything is changed; a failure of one
 * ends it.  Any may be NULL. */
typedef struct fg_resume_calls {
    /* How much of what earlier lives wrote was read back, and of how much; false cancels. */
    bool (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    /* So many bytes, the first at `offset` of the file, are not what was written there: their
     * tensors are to be written again. */
    void (*damaged)(void *ctx, uint64_t bytes, uint64_t offset);
    /* The payloads of all checkpoints in turn, also of those whose tensors are to be written
     * again. */
    fg_status (*payload)(void *ctx, const void *bytes, uint64_t n, fg_err *err);
    /* fg_writer_is_done is known: whether the rest can be done. */
    fg_status (*check)(void *ctx, fg_err *err);
    void *ctx;
    bool in_order; /* what stands behind a tensor that is to be written again is so too */
} fg_resume_calls;

/* As fg_writer_begin, with a journal, and going on from the last checkpoint of an interrupted life
 * if there is one.  identity: hash of all that determines the data and is not in the plan (the
 * source); plan and metadata are under the journal's own hash.  *next_tensor is the first tensor
 * still to be written (0 when starting anew, all of them when none is), and the position is there;
 * others are asked of fg_writer_is_done.  All that the journal says was written is read back, at
 * the speed of the disk, and compared with its hashes: where it differs, or cannot be read, it
 * counts as not written.  Metadata set by fg_writer_set_meta is not remembered.  Errors: FG_EINVAL
 * when PATH.part belongs to another plan or identity, or is none of a writer's, FG_ECHECKSUM,
 * FG_EVERSION (the journal), FG_EIO, FG_ENOMEM; then nothing has changed. */
fg_status fg_writer_resume(fg_writer *w, uint64_t identity, const fg_resume_calls *calls,
                           uint64_t *next_tensor, fg_err *err);

/* True from the first checkpoint to the end of finish: destroy will leave PATH.part and its
 * journal, and the same writer can be resumed later. */
bool fg_writer_is_kept(const fg_writer *w);
/* Makes it so without a checkpoint too, for a writer that keeps a journal. */
void fg_writer_keep(fg_writer *w);

/* Position of the next byte that fg_writer_write expects, absolute. */
uint64_t fg_writer_pos(const fg_writer *w);

/* Pads after the tensors written so far, and goes on at tensor idx, which must not be written yet
 * (the gate, for an expert).  Going on where the position is costs nothing.  FG_EINVAL also inside
 * a tensor. */
fg_status fg_writer_seek(fg_writer *w, uint64_t idx, fg_err *err);

/* Forgets what was written since the last seek, or since begin: the position is there again. */
void fg_writer_drop(fg_writer *w);

/* True when tensor idx is written, as of the last checkpoint or seek away from it. */
bool fg_writer_is_done(const fg_writer *w, uint64_t idx);

/* Appends n bytes at the current position; chunk hashes are taken on the way. */
fg_status fg_writer_write(fg_writer *w, const void *bytes, uint64_t n, fg_err *err);

/* Appends zeros up to the absolute position `to` (>= current). */
fg_status fg_writer_pad(fg_writer *w, uint64_t to, fg_err *err);

/* Records what was measured of tensor idx (before finish); fields as in fg_tensor. */
typedef struct fg_tensor_error {
    float err_rms, err_max_row, err_out, peak;
} fg_tensor_error;
void fg_writer_set_error(fg_writer *w, uint64_t idx, const fg_tensor_error *e);

/* Replaces the code table of q4 tensor idx: a table may be fitted when the weights are read,
 * placement does not depend on it.  Between plan and finish. */
fg_status fg_writer_set_lut(fg_writer *w, uint64_t idx, const fg_lut *lut, fg_err *err);

/* What was written so far, as a model file: planned shape, places and types, current code tables
 * and errors, no metadata.  Only data already written may be read (the rest is zero or undefined,
 * never a fault).  *out is borrowed until the writer is destroyed; each call flushes, so that data
 * written before it can be read, and gives the same view.  After begin.  Errors: FG_EINVAL, FG_EIO,
 * FG_ENOMEM. */
fg_status fg_writer_view(fg_writer *w, const fg_model_file **out, fg_err *err);

/* Replaces the contents of a metadata entry by others of the same size (provenance, which is
 * known only when all input was read).  Before finish. */
fg_status fg_writer_set_meta(fg_writer *w, const char *key, const void *bytes, uint64_t n,
                             fg_err *err);

/* Makes everything written so far durable (fdatasync), then appends to the journal which tensors
 * are complete, with n bytes of the caller's own (what it must know to go on, since the checkpoint
 * before). Only between tensors, and not inside an expert.  Without a journal: no effect. Errors:
 * FG_EINVAL, FG_EIO, FG_ENOMEM; after the last two the writer can only be destroyed. */
fg_status fg_writer_checkpoint(fg_writer *w, const void *payload, uint64_t n, fg_err *err);

/* True when 4 GiB were written or 30 s have passed since the last one; other limits for tests. */
bool fg_writer_checkpoint_due(const fg_writer *w);
void fg_writer_checkpoint_every(fg_writer *w, uint64_t bytes, uint64_t ns);

/* Writes metadata, hash table, directory and header; syncs; renames over PATH.  After the rename
 * nothing is an error; what went wrong is a note. */
fg_status fg_writer_finish(fg_writer *w, fg_err *err);
/* That note, after finish; "" when there is none. */
const char *fg_writer_note(const fg_writer *w);

/* Accepts NULL; *w becomes NULL. */
void fg_writer_destroy(fg_writer **w);

#endif
