/* SPDX-License-Identifier: MIT
 *
 * Writes a .fulgur file: plan first, then data in file order, then the header, so that an
 * unfinished file never validates.  The file grows as PATH.part and is renamed to PATH when
 * complete and synced.
 *
 * Use:  fg_writer_create -> fg_writer_add_meta* -> fg_writer_plan -> fg_writer_begin
 *       -> fg_writer_write* (the data region, in order, exactly) -> fg_writer_set_error*
 *       -> fg_writer_finish; fg_writer_destroy at any time removes an unfinished PATH.part.
 */
#ifndef FG_SRC_FORMAT_WRITER_H
#define FG_SRC_FORMAT_WRITER_H

#include "src/base/status.h"
#include "src/format/format.h"

typedef struct fg_writer fg_writer;

/* Type of each tensor, decided by the caller (recipe). */
typedef struct fg_tensor_choice {
    fg_qtype type;
    fg_lut lut; /* for q4 */
} fg_tensor_choice;
typedef fg_tensor_choice fg_choose_fn(void *ctx, fg_role role, uint32_t layer, uint32_t expert);

fg_status fg_writer_create(fg_writer **out, const char *path, const fg_shape *shape, fg_err *err);

/* Copies the blob.  Keys are unique, 1-255 bytes.  Before fg_writer_plan. */
fg_status fg_writer_add_meta(fg_writer *w, const char *key, const void *bytes, uint64_t n,
                             fg_err *err);

/* Lays out all tensors of the shape (FORMAT.md 5): fixes every offset. */
fg_status fg_writer_plan(fg_writer *w, fg_choose_fn *choose, void *ctx, fg_err *err);

/* After the plan.  Tensors in file order. */
uint64_t fg_writer_n_tensor(const fg_writer *w);
const fg_tensor *fg_writer_tensor(const fg_writer *w, uint64_t idx);
uint64_t fg_writer_data_offset(const fg_writer *w);
uint64_t fg_writer_data_bytes(const fg_writer *w);
uint64_t fg_writer_file_bytes(const fg_writer *w);

/* Before begin: bytes that the caller will need on the same file system for temporary files. */
void fg_writer_reserve(fg_writer *w, uint64_t bytes);

/* Creates PATH.part.  Refuses when PATH.part exists and is locked by another process (flock), or
 * when the file system has fewer free bytes than the file and the reserve need. */
fg_status fg_writer_begin(fg_writer *w, fg_err *err);

/* Position of the next byte that fg_writer_write expects, absolute. */
uint64_t fg_writer_pos(const fg_writer *w);

/* Appends n bytes at the current position; chunk hashes are taken on the way. */
fg_status fg_writer_write(fg_writer *w, const void *bytes, uint64_t n, fg_err *err);

/* Appends zeros up to the absolute position `to` (>= current). */
fg_status fg_writer_pad(fg_writer *w, uint64_t to, fg_err *err);

/* Records the measured quantization error of tensor idx (before finish). */
void fg_writer_set_error(fg_writer *w, uint64_t idx, float rms, float max_row);

/* Replaces the contents of a metadata blob that was added with the same size (provenance, which is
 * known only when all input was read).  Before finish. */
fg_status fg_writer_set_meta(fg_writer *w, const char *key, const void *bytes, uint64_t n,
                             fg_err *err);

/* Writes metadata, hash table, directory and header; syncs; renames over PATH. */
fg_status fg_writer_finish(fg_writer *w, fg_err *err);

/* Accepts NULL; *w becomes NULL. */
void fg_writer_destroy(fg_writer **w);

#endif
