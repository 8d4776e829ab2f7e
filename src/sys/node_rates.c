/* SPDX-License-Identifier: MIT
 *
 * A buffer a node, bound to it and written by its workers.  Everybody reads at once, as in a token;
 * a node is through when its slowest worker is.
 */
#include "src/sys/node_rates.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/sys/bandwidth.h"
#include "src/sys/room.h"
#include "src/sys/team.h"

enum { N_PASS = 9 };
#define NODE_BYTES ((uint64_t)256 << 20)

typedef struct reading {
    fg_team *team;
    uint8_t *buf[FG_MAX_NODE];
    uint64_t bytes;         /* of each */
    uint32_t n_node, shift; /* node k reads what node k + shift has */
    uint64_t *ns;           /* [n_thread] of this pass */
    double gbs[FG_MAX_NODE][N_PASS];
    atomic_ullong sink; /* keeps the sums alive */
} reading;

static uint8_t *part_of(const reading *r, const fg_worker *w, uint32_t node, uint64_t *bytes)
{
    const uint64_t page = r->bytes / FG_PAGE_BYTES;
    const uint64_t begin = page * w->idx_in_node / w->n_in_node;
    *bytes = (page * (w->idx_in_node + 1) / w->n_in_node - begin) * FG_PAGE_BYTES;
    return r->buf[node] + begin * FG_PAGE_BYTES;
}

static void touch(fg_worker *w, void *arg)
{
    uint64_t bytes;
    uint8_t *p = part_of(arg, w, w->node, &bytes);
    memset(p, 1, (size_t)bytes);
}

/* By worker 0 between two barriers: each node's rate in pass i. */
static void note(reading *r, uint32_t i)
{
    uint64_t slowest[FG_MAX_NODE] = {0};
    const fg_place *p = fg_team_place(r->team);
    for (uint32_t k = 0; k < p->n_worker; k++) {
        uint64_t *s = &slowest[p->seat[k].node];
        if (r->ns[k] > *s) *s = r->ns[k];
    }
    for (uint32_t k = 0; k < r->n_node; k++) {
        r->gbs[k][i] = slowest[k] == 0 ? 0.0 : (double)r->bytes / (double)slowest[k];
    }
}

static void read_all(fg_worker *w, void *arg)
{
    reading *r = arg;
    uint64_t bytes, sum = 0;
    const uint8_t *p = part_of(r, w, (w->node + r->shift) % r->n_node, &bytes);
    for (uint32_t i = 0; i <= N_PASS; i++) { /* the first does not count */
        fg_worker_sync(w);
        const uint64_t t0 = fg_clock_ns();
        sum += fg_bandwidth_sum(p, bytes);
        r->ns[w->idx] = fg_clock_ns() - t0 + 1;
        fg_worker_sync(w);
        if (w->idx == 0 && i > 0) note(r, i - 1);
    }
    atomic_fetch_add(&r->sink, sum);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void read_with(reading *r, uint32_t shift, double *gbs)
{
    r->shift = shift;
    fg_team_run(r->team, read_all, r);
    for (uint32_t k = 0; k < r->n_node; k++) {
        qsort(r->gbs[k], N_PASS, sizeof r->gbs[k][0], by_value);
        gbs[k] = r->gbs[k][N_PASS / 2];
    }
}

static fg_status allocate(reading *r, fg_err *err)
{
    const fg_place *p = fg_team_place(r->team);
    r->n_node = p->n_node;
    r->bytes = NODE_BYTES;
    if (r->bytes * r->n_node < 8 * fg_llc_bytes()) r->bytes = 8 * fg_llc_bytes() / r->n_node;
    r->bytes = fg_room_share(r->bytes, 8 * r->n_node) / FG_HUGE_PAGE_BYTES * FG_HUGE_PAGE_BYTES;
    if (r->bytes < FG_HUGE_PAGE_BYTES) r->bytes = FG_HUGE_PAGE_BYTES;
    r->ns = fg_mem_zalloc_array(p->n_worker, sizeof *r->ns);
    if (r->ns == NULL) return fg_fail_nomem(err, "rates of nodes");
    for (uint32_t k = 0; k < r->n_node; k++) {
        r->buf[k] = fg_mem_map((size_t)r->bytes);
        if (r->buf[k] == NULL) return fg_fail_nomem(err, "rates of nodes");
        const fg_owned all = {0, r->bytes, k};
        if (r->n_node > 1 && p->topo != NULL) FG_TRY(fg_place_bind(p, r->buf[k], &all, 1, err));
    }
    return FG_OK;
}

fg_status fg_node_rates_measure(fg_node_rates *out, uint32_t n_thread, uint32_t n_node, fg_err *err)
{
    reading r = {.team = NULL};
    const fg_team_opts o = {.n_thread = n_thread, .pin = true, .n_node = n_node};
    *out = (fg_node_rates){0};
    FG_TRY(fg_team_create_with(&r.team, &o, err));
    fg_team_attach(r.team);
    const fg_status st = allocate(&r, err);
    if (st == FG_OK) {
        double local = 0.0, away = 0.0;
        out->n_node = r.n_node;
        out->n_thread = fg_team_size(r.team);
        fg_team_run(r.team, touch, &r);
        read_with(&r, 0, out->local_gbs);
        if (r.n_node > 1) read_with(&r, 1, out->away_gbs);
        for (uint32_t k = 0; k < r.n_node; k++) {
            const fg_place *p = fg_team_place(r.team);
            out->part[k] = (double)p->node[k].weight / (double)p->weight;
            local += out->local_gbs[k];
            away += out->away_gbs[k];
        }
        if (local > 0.0) out->remote = away / local;
    }
    for (uint32_t k = 0; k < r.n_node; k++) {
        if (r.buf[k] != NULL) fg_mem_unmap(r.buf[k], (size_t)r.bytes);
    }
    fg_mem_free(r.ns);
    fg_team_detach(r.team);
    fg_team_destroy(&r.team);
    return st;
}
