/* SPDX-License-Identifier: MIT */
#include "src/plan/nodes.h"

/* Cores and memory of the nodes that the placement uses. */
static void count(fg_nodes *n)
{
    const uint32_t n_node = n->place->n_home;
    double sum = 0.0;
    uint32_t n_pair = 0;
    n->least_bytes = UINT64_MAX;
    for (uint32_t c = 0; c < fg_topo_n_core(n->topo); c++) {
        n->n_core += fg_topo_node_of(n->topo, c) < n_node;
    }
    for (uint32_t k = 0; k < n_node; k++) {
        const uint64_t bytes = fg_topo_node_bytes(n->topo, k);
        n->bytes += bytes;
        if (bytes < n->least_bytes) n->least_bytes = bytes;
        for (uint32_t j = 0; j < n_node; j++) {
            if (j == k || fg_topo_distance(n->topo, k, j) == 0) continue;
            sum += fg_topo_distance(n->topo, k, j) / (double)fg_topo_distance(n->topo, k, k);
            n_pair++;
        }
    }
    if (n_pair > 0) n->remote = n_pair / sum;
}

fg_status fg_nodes_open(fg_nodes *n, const fg_nodes_opts *o, fg_err *err)
{
    uint32_t weight[FG_MAX_NODE];
    fg_place_opts po = {.n_worker = 1, .numa = o->numa, .n_node = o->n_node};
    *n = (fg_nodes){0};
    if (o->topology != NULL) FG_TRY(fg_topo_create_from(&n->topo, o->topology, NULL, err));
    if (o->topology == NULL && o->here) n->topo = fg_topo_create();
    const uint32_t most = n->topo == NULL ? FG_MAX_NODE : fg_topo_n_node(n->topo);
    fg_status st = FG_OK;
    if (o->n_node > most) {
        st = fg_fail(err, FG_EINVAL, "nodes: %u, expected at most %u%s", o->n_node, most,
                     n->topo == NULL ? "" : ", which the machine has");
    }
    if (n->topo == NULL) { /* so many equal ones */
        po.pretend_nodes = o->n_node == 0 ? 1 : o->n_node;
        po.n_node = 0;
    }
    if (n->topo != NULL) po.n_worker = fg_topo_n_core(n->topo);
    if (n->topo != NULL && o->node_gbs != NULL) {
        fg_place_weigh(o->node_gbs, most, weight);
        po.weight = weight;
    }
    if (st == FG_OK) st = fg_place_make(&n->place, n->topo, &po, err);
    if (st == FG_OK && n->topo != NULL) count(n);
    if (st != FG_OK) fg_nodes_close(n);
    return st;
}

void fg_nodes_close(fg_nodes *n)
{
    fg_place_destroy(&n->place);
    fg_topo_destroy(n->topo);
    *n = (fg_nodes){0};
}

void fg_nodes_put(const fg_nodes *n, fg_buf *b)
{
    if (n->topo != NULL) {
        fg_topo_put(n->topo, b);
    } else {
        fg_buf_printf(b, "%u equal node%s", n->place->n_home, n->place->n_home == 1 ? "" : "s");
    }
}

void fg_nodes_put_here(fg_buf *b)
{
    fg_topo *t = fg_topo_create();
    if (t != NULL) fg_topo_put(t, b);
    fg_topo_destroy(t);
}

uint32_t fg_nodes_here(void)
{
    fg_topo *t = fg_topo_create();
    const uint32_t n = t == NULL ? 1 : fg_topo_n_node(t);
    fg_topo_destroy(t);
    return n;
}
