/* SPDX-License-Identifier: MIT
 *
 * Finds texts in a stream of pieces.  What may be the beginning of one is held back; what is given
 * out is the stream up to where the first one begins.  Of two that end at the same byte the longer
 * one counts.
 */
#ifndef FG_SRC_TEXT_STOPS_H
#define FG_SRC_TEXT_STOPS_H

#include <stdbool.h>
#include <stddef.h>

#include "src/base/status.h"

typedef struct fg_stop fg_stop;
typedef struct fg_stops {
    fg_stop *stop; /* [n] */
    size_t n;
} fg_stops;

/* text: [n] borrowed until fini.  FG_EINVAL (empty, not UTF-8), FG_ENOMEM. */
fg_status fg_stops_init(fg_stops *s, const char *const *text, size_t n, fg_err *err);
void fg_stops_fini(fg_stops *s);
void fg_stops_reset(fg_stops *s); /* nothing held back */

/* n bytes of whole characters.  Pieces that are given out go to emit, none empty.  True: one was
 * found; nothing may be fed until a reset. */
typedef void fg_stops_fn(void *ctx, const char *text, size_t n);
bool fg_stops_feed(fg_stops *s, const char *text, size_t n, fg_stops_fn *emit, void *ctx);
/* The end of the stream: what was held back; it stays held. */
void fg_stops_flush(const fg_stops *s, fg_stops_fn *emit, void *ctx);

#endif
