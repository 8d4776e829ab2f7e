/* SPDX-License-Identifier: MIT
 *
 * The nodes that a forecast is made for: a described machine, this one, or a number of equal nodes
 * of no machine; and what each policy of src/sys/place.h makes of a token there.  `plan` and `numa
 * --predict` both ask here, so that they have one model.
 */
#ifndef FG_SRC_PLAN_NODES_H
#define FG_SRC_PLAN_NODES_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/plan/forecast.h"
#include "src/sys/node_rates.h"

/* The rate of another node's memory next to one's own where nobody tells: of two sockets about half
 * (distances 10 and 21). */
#define FG_NODES_REMOTE 0.5

typedef struct fg_nodes_opts {
    const char *topology; /* hwloc XML file or synthetic description; NULL: see here */
    bool here;            /* without topology: this machine, else n_node equal nodes */
    uint32_t n_node;      /* 0: all (one, of no machine); at most FG_MAX_NODE */
    fg_numa numa;
    const double *node_gbs; /* [nodes of the topology] what each reads of its own memory; NULL:
                             * parts follow the cores */
} fg_nodes_opts;

typedef struct fg_nodes {
    fg_topo *topo; /* NULL: of no machine */
    fg_place *place;
    uint32_t n_core;      /* of the nodes that are used; 0: of no machine */
    uint64_t bytes;       /* memory of those nodes; 0: unknown */
    uint64_t least_bytes; /* of the smallest */
    /* 10 over the mean distance to the other nodes: the rate of their memory as far as the firmware
     * tells; 0: unknown, or one node. */
    double remote;
} fg_nodes;

/* Errors: those of fg_topo_create_from and fg_place_make; FG_EINVAL: more nodes than there are. */
fg_status fg_nodes_open(fg_nodes *n, const fg_nodes_opts *o, fg_err *err);
void fg_nodes_close(fg_nodes *n); /* accepts a zeroed one */

/* The machine in a line, as fg_topo_put, or "n equal nodes". */
void fg_nodes_put(const fg_nodes *n, fg_buf *b);

/* This machine in a line; nothing where hwloc cannot read it. */
void fg_nodes_put_here(fg_buf *b);

/* Nodes of this machine; 1 where hwloc cannot read it. */
uint32_t fg_nodes_here(void);

#endif
