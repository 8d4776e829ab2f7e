/* SPDX-License-Identifier: MIT
 *
 * The routing of a session's last pass, held back from its observer until it is sure that the rows
 * are kept.
 */
#ifndef FG_SRC_ENGINE_ROUTE_LOG_H
#define FG_SRC_ENGINE_ROUTE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/format/shape.h"

/* Zero-initialise; free with fg_route_log_fini. */
typedef struct fg_route_log {
    uint64_t pos;   /* of the first row */
    uint64_t told;  /* rows before this position were handed on, or never held */
    uint64_t n;     /* rows held that count; 0: none */
    uint64_t n_row; /* rows of the pass */
    uint32_t n_layer, n_used;
    uint32_t *sel; /* [n_layer][n_row][n_used] */
    float *weight; /* the same */
    size_t cap;    /* elements of each */
} fg_route_log;

/* A pass of n rows from pos on; what is held must have been handed on.  FG_ENOMEM. */
fg_status fg_route_log_begin(fg_route_log *g, const fg_shape *s, uint64_t pos, uint64_t n,
                             fg_err *err);
/* All rows of one layer. */
void fg_route_log_put(fg_route_log *g, uint32_t layer, const uint32_t *sel, const float *weight);
/* Rows from pos on are gone.  True when some of them were handed on already. */
bool fg_route_log_cut(fg_route_log *g, uint64_t pos);
void fg_route_log_fini(fg_route_log *g);

#endif
