/* SPDX-License-Identifier: MIT
 *
 * Positional reads from the shards of a checkpoint.  A layer of the release lies in some 36 of its
 * 413 files, so a small least-recently-used set of open files serves a conversion in layer order
 * without touching the limit of open files.  What was read is dropped from the page cache: a
 * checkpoint is read once, and 900 GB of it would push out everything else.
 *
 * Not for use from several threads.
 */
#ifndef FG_CONVERT_SOURCE_SHARDS_H
#define FG_CONVERT_SOURCE_SHARDS_H

#include <stddef.h>
#include <stdint.h>

#include "convert/source/hf_index.h"
#include "src/base/io.h"

enum {
    FG_SHARDS_MAX_OPEN = 64,
};

/* Zero-initialise through fg_shards_init; free with fg_shards_fini. */
typedef struct fg_shards {
    const fg_hf_checkpoint *ckpt; /* borrowed */
    size_t n_open;
    uint64_t clock;
    struct {
        fg_file file;
        uint32_t shard;
        uint64_t used; /* clock at the last use */
    } open[FG_SHARDS_MAX_OPEN];
} fg_shards;

void fg_shards_init(fg_shards *s, const fg_hf_checkpoint *ckpt);
void fg_shards_fini(fg_shards *s);

/* Reads n bytes at `offset` of a shard.  FG_EIO also when the shard was written to, or
 * replaced, since its header was read. */
fg_status fg_shards_read(fg_shards *s, uint32_t shard, void *dst, size_t n, uint64_t offset,
                         fg_err *err);

/* Closes a shard that will not be read any more, so that its space is free when it is deleted. */
void fg_shards_forget(fg_shards *s, uint32_t shard);

/* Asks the kernel to read ahead; failures are of no consequence. */
void fg_shards_prefetch(fg_shards *s, uint32_t shard, uint64_t offset, uint64_t n);

#endif
