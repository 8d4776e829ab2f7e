/* SPDX-License-Identifier: MIT
 *
 * Small checkpoints for tests, built in memory, bent as a test likes, and written as Hugging Face
 * folders: one file or shards with an index, per-expert or fused experts, any mix of dtypes.
 *
 * Every weight is k * 2^-9 with integer |k| <= 127, which f32, bf16 and f16 hold exactly, so that
 * what a converter stores can be compared without tolerance.  The value is a function of the
 * original tensor name and the index in it.
 */
#ifndef FG_TESTS_CKPT_H
#define FG_TESTS_CKPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/format/format.h"

enum {
    CKPT_MAX_TENSOR = 256,
    CKPT_MAX_CONFIG = 8192,
};

typedef struct ckpt_tensor {
    char name[160];
    char dtype[12];
    uint32_t n_dim;
    uint64_t dim[8];
    uint8_t *data; /* owned */
    uint64_t bytes;
    uint32_t shard;
    bool unlisted;   /* not in the index */
    bool index_only; /* in the index, in no shard */
} ckpt_tensor;

typedef struct ckpt {
    fg_shape shape;
    char config[CKPT_MAX_CONFIG];
    size_t n_tensor;
    ckpt_tensor tensor[CKPT_MAX_TENSOR];
    uint32_t n_shard;         /* 0: model.safetensors without index */
    const char *shard_format; /* printf format of a shard's name with one %u; the default is odd on
                                 purpose */
} ckpt;

/* 2 layers (lightning, softmax), 3 experts, rows and columns that are no multiples of 16 and 128;
 * bf16, original names and configuration, one file.  Free with ckpt_fini. */
void ckpt_init(ckpt *c);
/* The same with matrices that are large enough for several threads: 2 experts of 1040, width
 * 272. */
void ckpt_init_large(ckpt *c);
void ckpt_fini(ckpt *c);

/* Weight i of the tensor with this original name. */
float ckpt_value(const char *name, uint64_t i);

/* Configuration text of c->shape; hf: the transformers dialect. */
void ckpt_config(ckpt *c, bool hf);
/* Replaces the first `from` in the configuration; false when it is not there. */
bool ckpt_edit_config(ckpt *c, const char *from, const char *to);

/* The tensor of that name; aborts when absent. */
ckpt_tensor *ckpt_get(ckpt *c, const char *name);
/* Appends a tensor of zeros; `elem` bytes an element. */
ckpt_tensor *ckpt_add(ckpt *c, const char *name, const char *dtype, uint32_t elem, uint32_t n_dim,
                      const uint64_t *dim);
void ckpt_remove(ckpt *c, const char *name);
/* Rewrites the data of t as dtype ("F32", "BF16", "F16"). */
void ckpt_recode(ckpt_tensor *t, const char *dtype);
/* Stores one value in the tensor's dtype (bits are cut, so that NaN and infinity survive). */
void ckpt_set(ckpt_tensor *t, uint64_t i, float v);
/* Replaces the experts of all layers by the fused tensors of transformers. */
void ckpt_fuse(ckpt *c);
/* Adds the four decay buffers of transformers to lightning layers. */
void ckpt_add_buffers(ckpt *c);
/* Spreads the tensors over n shards. */
void ckpt_spread(ckpt *c, uint32_t n);

/* Writes config.json, shards and index into the existing folder. */
void ckpt_write(const ckpt *c, const char *dir);
/* File name of a shard. */
void ckpt_shard_name(const ckpt *c, uint32_t shard, char *buf, size_t size);

/* tokenizer.json of the 256 bytes and nothing else; the vocabulary must have so many rows. */
void ckpt_put_tokenizer(const char *dir);

/* Bytes to DIR/NAME; aborts on failure. */
void ckpt_put_file(const char *dir, const char *name, const void *bytes, size_t n);
/* An 8-byte length (as given, true or not), the text, n_data zero bytes. */
void ckpt_put_shard(const char *path, uint64_t length, const char *header, size_t n_header,
                    size_t n_data);
/* Creates an empty folder below the test's temporary folder and returns its path, valid to the end
 * of the program; files of an earlier use are removed. */
const char *ckpt_dir(const char *name);
/* Number of entries of a folder. */
size_t ckpt_count_files(const char *dir);

/* Folder with the configuration and the index of the MiniMax-M1 release, no shard: the shared one,
 * or one that scripts/synth_checkpoint.py makes, whose index is the same (tests/e2e/scale.py).
 * NULL: skipped, neither that folder nor python3. */
const char *ckpt_release(void);

#endif
