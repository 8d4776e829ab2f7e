/* SPDX-License-Identifier: MIT
 *
 * A Hugging Face checkpoint folder as one list of tensors.
 *
 * Shards come from model.safetensors.index.json when it exists, else from model.safetensors.  The
 * index decides which files belong to the checkpoint; their number and names are free (the release
 * counts from zero, a mirror has one file more), and so is the order of its keys.  Index and shard
 * headers must agree in both directions: a tensor that only one of them knows, or that two shards
 * hold, is an error, because a half-updated folder would otherwise convert into a wrong model.
 */
#ifndef FG_CONVERT_HF_INDEX_H
#define FG_CONVERT_HF_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "convert/safetensors.h"

/* The index alone: what a folder claims to hold.  Zero-initialise; free with fg_hf_index_fini. */
typedef struct fg_hf_entry {
    char *name;     /* tensor; owned */
    uint32_t shard; /* into shard_name */
} fg_hf_entry;

typedef struct fg_hf_index {
    size_t n_entry;
    fg_hf_entry *entry; /* sorted by name, unique */
    size_t n_shard;
    char **shard_name; /* file names inside the folder, sorted, unique; owned */
} fg_hf_index;

/* Reads DIR/model.safetensors.index.json; no shard is opened.  Refuses shard names that could leave
 * the folder.  On failure *x is empty. */
fg_status fg_hf_index_read(fg_hf_index *x, const char *dir, fg_err *err);
void fg_hf_index_fini(fg_hf_index *x);

/* A folder with all shard headers read.  Zero-initialise; free with fg_hf_fini. */
typedef struct fg_hf_checkpoint {
    size_t n_shard;
    char **shard_name; /* as in fg_hf_index */
    fg_st_shard *shard;
    size_t n_tensor; /* over all shards; names are unique */
} fg_hf_checkpoint;

/* Opens every shard once and checks headers against the index.  On failure *c is empty.  Errors:
 * FG_EIO, FG_EFORMAT, FG_ELIMIT, FG_ENOMEM. */
fg_status fg_hf_open(fg_hf_checkpoint *c, const char *dir, fg_err *err);
void fg_hf_fini(fg_hf_checkpoint *c);

#endif
