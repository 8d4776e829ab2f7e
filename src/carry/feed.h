/* SPDX-License-Identifier: MIT
 *
 * Blocks that are read ahead and hashed by threads of their own, while the ones before are written
 * or compared: a drive that waits for SHA-256 between two reads loses a fifth of its speed and
 * more, and so does one that has a single request at a time.  Without threads blocks are read when
 * they are asked for.
 */
#ifndef FG_SRC_CARRY_FEED_H
#define FG_SRC_CARRY_FEED_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/crypto.h"
#include "src/base/status.h"

typedef struct fg_feed fg_feed;

/* Block i into buf, which is aligned to 4096 and has room for FG_BLOCK_BYTES; *n: its bytes, 0 for
 * one that nobody wants.  Called by several threads at once, for each block once, about in order.
 */
typedef fg_status fg_feed_read(void *ctx, uint32_t i, uint8_t *buf, size_t *n, fg_err *err);

typedef struct fg_feed_block {
    const uint8_t *p;
    size_t n;
    uint8_t sha[FG_SHA256_BYTES]; /* of its bytes; not when there are none */
    fg_status st;                 /* else: why it could not be read, in err */
    fg_err err;
} fg_feed_block;

/* Begins with blocks 0 to n - 1; ctx is borrowed until stop.  FG_ENOMEM. */
fg_status fg_feed_start(fg_feed **out, fg_feed_read *read, void *ctx, uint32_t n, fg_err *err);
/* The next one in order, n times at most; borrowed until the next call. */
const fg_feed_block *fg_feed_next(fg_feed *f);
void fg_feed_stop(fg_feed **f); /* accepts NULL; may come before all were taken */

#endif
