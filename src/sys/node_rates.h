/* SPDX-License-Identifier: MIT
 *
 * What the cores of each NUMA node read of its own memory, and of another node's: for shares by
 * weight (fg_place_weigh) and for forecasts.  Worth its half second where there are several nodes;
 * with one it says what src/sys/bandwidth.h does.
 */
#ifndef FG_SRC_SYS_NODE_RATES_H
#define FG_SRC_SYS_NODE_RATES_H

#include <stdint.h>

#include "src/base/status.h"
#include "src/sys/topo.h"

typedef struct fg_node_rates {
    uint32_t n_node, n_thread;
    double local_gbs[FG_MAX_NODE]; /* all nodes at once, each its own; GB/s, 1e9 */
    double away_gbs[FG_MAX_NODE];  /* each the next one's; 0 with one node */
    double part[FG_MAX_NODE];      /* of every matrix that each has by its cores; sum 1 */
    double remote;                 /* sum of the latter over that of the former; 0 with one node */
} fg_node_rates;

/* n_thread, n_node: as in fg_team_opts.  Errors: FG_ENOMEM, FG_ELIMIT, FG_EIO. */
fg_status fg_node_rates_measure(fg_node_rates *r, uint32_t n_thread, uint32_t n_node, fg_err *err);

#endif
