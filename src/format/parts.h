/* SPDX-License-Identifier: MIT
 *
 * Split files (FORMAT.md 3.1): which part holds which byte, and reading, writing and mapping as if
 * the parts were one file.  Offsets are those of the whole; a part has holes where others have the
 * data. Private to this folder; everything here also does for a file that is not split, which has
 * one part.
 */
#ifndef FG_SRC_FORMAT_PARTS_H
#define FG_SRC_FORMAT_PARTS_H

#include "src/format/layout.h"

enum {
    FG_PART_HEADER_BYTES = 4096,
    FG_SPLIT_READ_VERSION = 3, /* of a split file */
};

typedef struct fg_parts {
    uint32_t n;              /* 1: not split */
    const fg_directory *dir; /* placed; borrowed, not used when n is 1 */
    int fd[FG_MAX_PART];     /* -1: closed; fd[0] is borrowed */
    char *path[FG_MAX_PART]; /* for messages; path[0] is borrowed */
} fg_parts;

/* One part, nothing open. */
void fg_parts_init(fg_parts *p);

/* Opens and checks the parts beside the main file, which fd[0] and path[0] are.  On failure what is
 * open is left to fg_parts_close.  Errors: FG_EIO (missing), FG_EFORMAT, FG_ECHECKSUM,
 * FG_ENOMEM. */
fg_status fg_parts_open(fg_parts *p, const fg_slot *slot, fg_err *err);

/* Closes all but the main file; leaves *p as after init. */
void fg_parts_close(fg_parts *p);

/* The part that holds the byte at `offset`; *end: where the run of bytes ends that it holds from
 * there on, UINT64_MAX when it has the rest. */
uint32_t fg_parts_at(const fg_parts *p, uint64_t offset, uint64_t *end);

/* Bytes of [from, to) in one part. */
uint64_t fg_parts_share(const fg_parts *p, uint32_t part, uint64_t from, uint64_t to);

/* Exactly n bytes at `offset`.  FG_EIO names the part. */
fg_status fg_parts_read(const fg_parts *p, void *dst, size_t n, uint64_t offset, fg_err *err);
fg_status fg_parts_write(const fg_parts *p, const void *src, size_t n, uint64_t offset,
                         fg_err *err);

/* Over `base`, a mapping of the main file as long as the whole, maps what other parts hold.
 * FG_ENOTSUP when the system's pages are larger than the multiples that stripes begin at. */
fg_status fg_parts_map(const fg_parts *p, const uint8_t *base, fg_err *err);

/* A fg_mapping_path_fn: the file of the part (src/base/mapping.h). */
const char *fg_parts_path_at(const void *parts, uint64_t offset);

/* --- header of a part --- */

/* out: FG_PART_HEADER_BYTES. */
void fg_part_encode(const fg_slot *slot, uint32_t part, uint8_t *out);

/* Whether a file with this header (FG_PART_HEADER_BYTES) is the part that the main file's slot
 * wants. FG_EFORMAT, FG_EVERSION, FG_ECHECKSUM. */
fg_status fg_part_check(const uint8_t *header, const fg_slot *slot, uint32_t part, const char *path,
                        const char *main_path, fg_err *err);

/* True for the first bytes (8 at least) of a part. */
bool fg_part_has_magic(const uint8_t *header);

#endif
