/* SPDX-License-Identifier: MIT
 *
 * Blocks that are read ahead by a thread while the ones before are hashed and written: a drive that
 * waits for SHA-256 between two reads loses a fifth of its speed and more.  Without a thread blocks
 * are read when they are asked for.
 */
#ifndef FG_SRC_CARRY_FEED_H
#define FG_SRC_CARRY_FEED_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"

typedef struct fg_feed fg_feed;

/* Block i into buf, which is aligned to 4096 and has room for FG_BLOCK_BYTES; false: unreadable.
 * Called by one thread at a time, in order. */
typedef bool fg_feed_read(void *ctx, uint32_t i, uint8_t *buf);

/* Begins with blocks 0 to n - 1; ctx is borrowed until stop.  FG_ENOMEM. */
fg_status fg_feed_start(fg_feed **out, fg_feed_read *read, void *ctx, uint32_t n, fg_err *err);
/* The next one, n times at most; borrowed until the next call. */
const uint8_t *fg_feed_next(fg_feed *f, bool *readable);
void fg_feed_stop(fg_feed **f); /* accepts NULL; may come before all were taken */

#endif
