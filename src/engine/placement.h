/* SPDX-License-Identifier: MIT
 *
 * Where the weights of an engine are, as the kernel says: on the node whose workers read them, or
 * not.
 */
#ifndef FG_SRC_ENGINE_PLACEMENT_H
#define FG_SRC_ENGINE_PLACEMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/fulgur.h"
#include "src/sys/place.h"

/* Pages of 4 KiB; `local` those on memory of the node, `other` those elsewhere, `absent` those not
 * in memory; `moved` were elsewhere before. */
typedef struct fg_placement_node {
    uint32_t n_worker;
    uint64_t bytes; /* of weights that it owns */
    uint64_t local, other, absent, moved;
    uint64_t card; /* in none of them: a card has it, and it is not brought to the node */
    uint64_t on_real[FG_MAX_NODE]; /* by node of the machine */
} fg_placement_node;

typedef struct fg_placement {
    bool asked; /* the machine has several memory nodes, and the kernel was asked */
    fg_numa numa;
    uint32_t n_node, n_real; /* of the placement, of the machine */
    fg_placement_node node[FG_MAX_NODE];
} fg_placement;

/* Of the weights of an opened engine, when it was opened; borrowed. */
const fg_placement *fg_engine_placement(const fg_engine *e);

/* "node 0: 100.0 % local, node 1: 100.0 % local"; of policies that say nothing of nodes, the share
 * that each has. */
void fg_placement_put(const fg_placement *p, fg_buf *b);

/* What an engine with these options would own where, and what of it is in the page cache now and
 * where; nothing is read or moved.  Errors: those of fg_engine_open. */
fg_status fg_placement_look(fg_placement *out, const char *path, const fg_engine_opts *o,
                            fg_err *err);

#endif
