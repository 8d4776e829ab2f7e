/* SPDX-License-Identifier: MIT
 *
 * Opens, validates and maps a .fulgur file.  Everything reachable through this header after a
 * successful open has been checked: every tensor of the shape is present once with the right
 * dimensions, lies inside the file and inside its extent, and overlaps no other.  Tensor data is
 * not read at opening; fg_model_file_verify checks it against the chunk hashes.
 *
 * Immutable after opening; may be used from any thread.
 */
#ifndef FG_SRC_FORMAT_READER_H
#define FG_SRC_FORMAT_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/format/file_plan.h"
#include "src/format/format.h"

typedef struct fg_model_file fg_model_file;

enum { FG_FILE_HEAD = 8192 };

/* *out is closed by fg_model_file_close.  Errors: FG_EIO, FG_EFORMAT, FG_EVERSION, FG_ECHECKSUM,
 * FG_ESHAPE, FG_ENOMEM; the message starts with the path. */
fg_status fg_model_file_open(fg_model_file **out, const char *path, fg_err *err);

/* Accepts NULL; *f becomes NULL. */
void fg_model_file_close(fg_model_file **f);

const char *fg_model_file_path(const fg_model_file *f);
uint64_t fg_model_file_size(const fg_model_file *f);
/* Its layout, with what was measured of each tensor; borrowed. */
const fg_file_plan *fg_model_file_plan(const fg_model_file *f);
const fg_shape *fg_model_file_shape(const fg_model_file *f);
/* Hash over the chunk table, hence over all tensor data: what a quality card names the weights
 * by. */
uint64_t fg_model_file_data_root(const fg_model_file *f);

/* Split files (FORMAT.md 3.1).  The parts, 1 when it is not split; where part k was opened,
 * borrowed. */
uint32_t fg_model_file_n_part(const fg_model_file *f);
const char *fg_model_file_part_path(const fg_model_file *f, uint32_t part);
/* The part that holds the byte at `offset`; *end: where the run of bytes ends that it holds from
 * there on, UINT64_MAX when it has the rest. */
uint32_t fg_model_file_part_at(const fg_model_file *f, uint64_t offset, uint64_t *end);
/* Whether the first FG_FILE_HEAD bytes of a file are those of part k of this model.  Errors: FG_EIO
 * (another model), and those of opening. */
fg_status fg_model_file_check_head(const fg_model_file *f, uint32_t part, const uint8_t *head,
                                   fg_err *err);

/* Tensors in file order; borrowed. */
uint64_t fg_model_file_n_tensor(const fg_model_file *f);
const fg_tensor *fg_model_file_tensor(const fg_model_file *f, uint64_t idx);

/* The tensor with this role; layer/expert FG_NO_LAYER where the role has none.  Never NULL for a
 * role, layer and expert that the shape has.  O(1). */
const fg_tensor *fg_model_file_find(const fg_model_file *f, fg_role role, uint32_t layer,
                                    uint32_t expert);

/* Extents. */
fg_extent fg_model_file_dense_extent(const fg_model_file *f, uint32_t layer);
fg_extent fg_model_file_expert_extent(const fg_model_file *f, uint32_t layer, uint32_t expert);

/* Pointer into the read-only mapping at an absolute file offset inside the data region; borrowed
 * until close.  Touching it faults pages in.  Without a mapping (fg_model_file_mapped) it must not
 * be touched. */
const uint8_t *fg_model_file_data(const fg_model_file *f, uint64_t offset);

/* FG_OK: the weights are mapped.  Else why not (the file system has no mappings, or there is no
 * address space), which is no failure of opening: who reads the file needs none. */
fg_status fg_model_file_mapped(const fg_model_file *f, fg_err *err);

/* Who has read these bytes there and needs them no more: their pages are no memory of this process
 * any longer.  They are in the page cache, and come back when they are touched. */
void fg_model_file_let_go(const fg_model_file *f, uint64_t offset, uint64_t bytes);

/* Metadata blobs by key ("config.json", "tokenizer.json", "recipe", ...).  *bytes, with a NUL after
 * them, is borrowed until close; it is read at the first call, and its hash checked: FG_ECHECKSUM,
 * FG_EIO, FG_ENOMEM.  A missing key gives FG_OK and *bytes = NULL. */
fg_status fg_model_file_meta(const fg_model_file *f, const char *key, const char **bytes, size_t *n,
                             fg_err *err);
uint64_t fg_model_file_n_meta(const fg_model_file *f);
void fg_model_file_meta_at(const fg_model_file *f, uint64_t idx, const char **key, uint64_t *n);

/* Reads all tensor data and checks every chunk hash and metadata hash.  progress may be NULL; it is
 * called with bytes done and total, and returns false to cancel (FG_ECANCEL).  The first damaged
 * chunk is reported with its number and a tensor that it holds: FG_ECHECKSUM. */
fg_status fg_model_file_verify(const fg_model_file *f,
                               bool (*progress)(void *ctx, uint64_t done, uint64_t total),
                               void *ctx, fg_err *err);

/* Whether the weights are still those that were opened: at once yes when sizes and times are, else
 * (a touch, a link, another name, metadata that was appended) all are read and compared with their
 * hashes.  FG_EIO names the file that has changed; FG_ECANCEL, as above; FG_ENOMEM.  Not while
 * another thread uses the file. */
fg_status fg_model_file_check_use(fg_model_file *f,
                                  bool (*progress)(void *ctx, uint64_t done, uint64_t total),
                                  void *ctx, fg_err *err);

/* Whether bytes[n], read at `offset` of the data region, are the file's: the chunks that they lie
 * in are hashed, which reads the rest of the first and the last one.  FG_EIO, FG_ENOMEM. */
fg_status fg_model_file_check_bytes(const fg_model_file *f, const uint8_t *bytes, uint64_t n,
                                    uint64_t offset, fg_err *err);

/* Reads chunk `idx` of the data region into buf (FG_FILE_CHUNK bytes), *n of them, and compares it
 * with its hash: FG_ECHECKSUM, FG_EIO, FG_ENOMEM. */
fg_status fg_model_file_read_chunk(const fg_model_file *f, uint64_t idx, uint8_t *buf, size_t *n,
                                   fg_err *err);
/* A tensor in it, how many more, and in which parts, for messages. */
void fg_model_file_name_chunk(const fg_model_file *f, uint64_t idx, char *buf, size_t n);

#endif
