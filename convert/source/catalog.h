/* SPDX-License-Identifier: MIT
 *
 * What a conversion will read: configuration, shard headers, and for every weight of the model the
 * place of its bytes.  Built before any tensor data is touched, so that a folder which cannot be
 * converted is refused within a second.
 *
 * The room convert/source says what is read and where it lies, from safetensors.h (one file) over
 * hf_index.h (a folder) and names.h (what a name means) to this list, and shards.h reads it.  It
 * knows shapes and roles, but no weight types and nothing of the file to be written.
 */
#ifndef FG_CONVERT_SOURCE_CATALOG_H
#define FG_CONVERT_SOURCE_CATALOG_H

#include <stddef.h>
#include <stdint.h>

#include "convert/source/hf_index.h"
#include "convert/source/names.h"

/* One weight: a matrix [n_row][n_col] or a vector, row-major and contiguous.  An expert of a fused
 * tensor is a slice of it.  Until the shard's header is known, offset is 0, and bytes those of bf16
 * (of f32 for a router). */
typedef struct fg_piece {
    uint64_t offset; /* absolute in the shard */
    uint64_t bytes;
    uint32_t shard;
    uint8_t dtype; /* fg_st_dtype, never FG_ST_OTHER */
} fg_piece;

/* Zero-initialise; free with fg_catalog_fini. */
typedef struct fg_catalog {
    fg_shape shape;
    fg_hf_checkpoint ckpt;
    uint64_t n_weight;
    fg_piece *piece;       /* [n_weight], by fg_weight_index */
    uint64_t source_bytes; /* sum of the pieces */
    uint64_t n_skipped;    /* buffers that are not needed */
} fg_catalog;

/* Reads config.json, index and shard headers of `dir`; every weight must be in the index.  On
 * failure *p is empty.  Errors: FG_EIO, FG_EFORMAT, FG_ESHAPE (a tensor of another shape),
 * FG_ENOTSUP, FG_ELIMIT, FG_ENOMEM. */
fg_status fg_catalog_open(fg_catalog *p, const char *dir, fg_hf_presence presence, fg_err *err);

/* Takes *shard as shard s (fg_hf_take) and fills the pieces in it. */
fg_status fg_catalog_take(fg_catalog *p, size_t s, fg_st_shard *shard, fg_err *err);
void fg_catalog_fini(fg_catalog *p);

/* Dry run on names: configuration and index only, no shard needs to exist.  Fills *shape, and the
 * number of tensors, shards and skipped buffers where the pointer is not NULL. */
fg_status fg_catalog_check_names(const char *dir, fg_shape *shape, uint64_t *n_tensor,
                                 uint64_t *n_shard, uint64_t *n_skipped, fg_err *err);

#endif
