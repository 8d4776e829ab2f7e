/* SPDX-License-Identifier: MIT
 *
 * Mapped files, and whose a lost page is.
 *
 * A page of a mapped file can go away: the file is cut short, a block is bad, a drive is gone, a
 * disk is full under a file with holes.  The system then sends SIGBUS to whoever touches it.  This
 * module knows what is mapped and from which file, so that a program's handler can say so.
 */
#ifndef FG_SRC_BASE_MAPPING_H
#define FG_SRC_BASE_MAPPING_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"

/* Maps bytes (> 0) of fd from its start: shared, or private and then for reading only, where the
 * file system has no shared mappings (FUSE with direct I/O).  path is borrowed until the mapping is
 * closed.  NULL with errno. */
void *fg_mapping_open(int fd, uint64_t bytes, bool writable, const char *path);
void fg_mapping_close(const void *p, uint64_t bytes); /* accepts NULL */

/* Puts bytes of another file, from `offset` on, over a part of a mapping for reading.  False with
 * errno. */
bool fg_mapping_put(const void *at, uint64_t bytes, int fd, uint64_t offset);

/* Which file holds the byte at `offset` of a mapping: of those that are put together of several.
 * Async-signal-safe; ctx is borrowed until the mapping is closed. */
typedef const char *fg_mapping_path_fn(const void *ctx, uint64_t offset);
void fg_mapping_set_path(const void *p, fg_mapping_path_fn *fn, const void *ctx);

/* The file of the mapping that holds the address; NULL: none of ours.  Async-signal-safe. */
const char *fg_mapping_find(const void *address);

#endif
