/* SPDX-License-Identifier: MIT */
#include "src/engine/route_log.h"

#include <string.h>

#include "src/base/mem.h"

fg_status fg_route_log_begin(fg_route_log *g, const fg_shape *s, uint64_t pos, uint64_t n,
                             fg_err *err)
{
    const size_t need = (size_t)(s->n_layer * n * s->n_used);
    if (need > g->cap) {
        fg_route_log_fini(g);
        g->sel = fg_mem_zalloc_array(need, sizeof *g->sel);
        g->weight = fg_mem_zalloc_array(need, sizeof *g->weight);
        if (g->sel == NULL || g->weight == NULL) {
            fg_route_log_fini(g);
            return fg_fail_nomem(err, "routing");
        }
        g->cap = need;
    }
    g->pos = g->told = pos;
    g->n = g->n_row = n;
    g->n_layer = s->n_layer;
    g->n_used = s->n_used;
    return FG_OK;
}

void fg_route_log_put(fg_route_log *g, uint32_t layer, const uint32_t *sel, const float *weight)
{
    if (g->n == 0) return;
    const size_t n = (size_t)(g->n_row * g->n_used), at = (size_t)layer * n;
    memcpy(g->sel + at, sel, n * sizeof *sel);
    memcpy(g->weight + at, weight, n * sizeof *weight);
}

bool fg_route_log_cut(fg_route_log *g, uint64_t pos)
{
    const uint64_t end = g->pos + g->n;
    if (pos < end) g->n = pos > g->pos ? pos - g->pos : 0;
    const bool told = pos < g->told;
    if (told) g->told = pos;
    return told;
}

void fg_route_log_fini(fg_route_log *g)
{
    fg_mem_free(g->sel);
    fg_mem_free(g->weight);
    *g = (fg_route_log){0};
}
