/* SPDX-License-Identifier: MIT
 *
 * The large files of a saved session (saved.h): blocks of the key-value cache, and snapshots.  They
 * are written straight from a state's memory and read into it, by as many workers as a disk has a
 * use for, and leave the page cache to the model.  Private to this folder.
 *
 *   kv     block b, positions 64b to 64b + 63 (state_bytes.h), at offset b * its size; their hashes
 *          are in the log
 *   s.N    header of a page: magic[8], u32 version, u32 kv_type, u64 pos, u64 n, u64 hash of the
 *          table, zeros, u64 hash of the bytes before; the image of that position (state_bytes.h),
 *          n bytes; table: an XXH3-64 for each MiB of it
 */
#ifndef FG_SRC_ENGINE_SESSION_PARTS_H
#define FG_SRC_ENGINE_SESSION_PARTS_H

#include "src/engine/session_log.h"
#include "src/model/state_bytes.h"
#include "src/sys/team.h"

enum { FG_SNAPSHOT_HEAD = 4096, FG_SNAPSHOT_PIECE = 1 << 20 };

/* Of a snapshot's file whose image has n bytes. */
uint64_t fg_snapshot_bytes(uint64_t n);

/* Whose state it is, and who works on it. */
typedef struct fg_bulk {
    fg_team *team;
    const fg_shape *shape;
    fg_state *state;
    bool (*progress)(void *ctx, uint64_t done, uint64_t total); /* bytes; may be NULL */
    void *ctx;
} fg_bulk;

/* Writes blocks first to end - 1 and syncs; hash[end - first]. */
fg_status fg_bulk_write_blocks(const fg_bulk *p, int fd, const char *path, uint64_t first,
                               uint64_t end, uint64_t *hash, fg_err *err);
/* Reads blocks 0 to n - 1.  *good: how many of the first ones are whole; when not all are, err says
 * what is wrong with the next, and the result is still FG_OK.  FG_ECANCEL, FG_ENOMEM. */
fg_status fg_bulk_read_blocks(const fg_bulk *p, int fd, const char *path, uint64_t n,
                              const uint64_t *hash, uint64_t *good, fg_err *err);

/* Writes and syncs the file `path`, which is removed when that fails; *root: hash of its header. */
fg_status fg_bulk_write_snapshot(const fg_bulk *p, const char *path, uint64_t pos, uint64_t *root,
                                 fg_err *err);
/* Into the state, whose lightning layers are of no use after a failure: FG_ECHECKSUM, FG_EFORMAT,
 * FG_EIO, FG_ENOMEM; FG_ECANCEL. */
fg_status fg_bulk_read_snapshot(const fg_bulk *p, const char *path, uint64_t pos, uint64_t root,
                                fg_err *err);

/* Without a state: whether the file is whole; buf [FG_SNAPSHOT_PIECE].  Errors: the same. */
fg_status fg_bulk_check_snapshot(const char *path, uint64_t root, uint8_t *buf,
                                 bool (*progress)(void *ctx, uint64_t bytes), void *ctx,
                                 fg_err *err);
/* The same of block b; buf [bytes]. */
fg_status fg_bulk_check_block(int fd, const char *path, uint64_t b, uint64_t bytes, uint64_t hash,
                              uint8_t *buf, fg_err *err);

#endif
