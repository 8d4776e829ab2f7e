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
#ifndef FG_CONVERT_SOURCE_HF_INDEX_H
#define FG_CONVERT_SOURCE_HF_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "convert/source/safetensors.h"

#define FG_HF_INDEX_NAME  "model.safetensors.index.json"
#define FG_HF_SINGLE_NAME "model.safetensors" /* the one file of a folder without an index */

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

/* A folder with the headers of its shards.  Zero-initialise; free with fg_hf_fini. */
typedef struct fg_hf_checkpoint {
    fg_hf_index index; /* of a folder without one, what its file holds */
    size_t n_shard;
    char *const *shard_name; /* of the index */
    fg_st_shard *shard;      /* path is always set; the rest is zero until the header is known */
    size_t n_tensor;         /* over all shards; names are unique */
} fg_hf_checkpoint;

typedef enum fg_hf_presence {
    FG_HF_ALL,   /* every shard must be there */
    FG_HF_SOME,  /* a shard of the index may be missing */
    FG_HF_LATER, /* none is opened */
} fg_hf_presence;

/* Opens shards once and checks their headers against the index.  On failure *c is empty.  Errors:
 * FG_EIO, FG_EFORMAT, FG_ELIMIT, FG_ENOMEM. */
fg_status fg_hf_open(fg_hf_checkpoint *c, const char *dir, fg_hf_presence presence, fg_err *err);
void fg_hf_fini(fg_hf_checkpoint *c);

/* True when the header of shard s is known. */
bool fg_hf_is_known(const fg_hf_checkpoint *c, size_t s);

/* Takes what *shard holds as shard s, whose header is not known yet, when it is what the index
 * says; *shard is empty afterwards in any case. */
fg_status fg_hf_take(fg_hf_checkpoint *c, size_t s, fg_st_shard *shard, fg_err *err);

#endif
