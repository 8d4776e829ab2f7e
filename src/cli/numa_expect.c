/* SPDX-License-Identifier: MIT
 *
 * What the forecast of src/plan says of each policy, with its arithmetic; measured rows beside it;
 * and how even the nodes' parts are.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/cli/common.h"
#include "src/cli/numa.h"
#include "src/cli/planned.h"

/* What is assumed where nothing is given or measured. */
#define SYNC_US 6.0 /* what bench/baselines have of a 64-core host, at most */

/* Rates of the machine that is asked about. */
typedef struct machine {
    double node_gbs[FG_MAX_NODE]; /* each of its own memory */
    bool by_cores;                /* not measured: in proportion to their cores, as their parts */
    double remote, sync_us, attn_gmacs;
    const char *read_by, *remote_by, *sync_by; /* how they are known */
} machine;

typedef struct expectation {
    uint32_t n_node;
    fg_numa policy;
    fg_speed speed;
    double token_bytes, imbalance, heads_bytes, heads, cache_bytes, cache, away;
    double read_gbs, gemv_gbs;        /* all nodes together */
    double syncs, times;              /* times: of one node's speed */
    uint64_t node_bytes, node_memory; /* memory of the smallest; 0: unknown */
} expectation;

/* ---- the machine ---- */

/* Barriers and attention of this machine, as plan measures them. */
static fg_status measure_small(machine *m, const numa_opts *o, const fg_shape *s, fg_err *err)
{
    fg_rates r = {0};
    const fg_rates_opts ro = {
        .cpu = o->cpu,
        .n_col = s->d_model,
        .n_batch = 1,
        .n_few = 1,
        .d_head = s->d_head,
        .group = s->n_head / s->n_kv_head,
        .kv = o->kv,
    };
    FG_TRY(fg_rates_measure(&r, &ro, err));
    m->sync_us = r.sync_us;
    m->attn_gmacs = r.attn_gmacs;
    m->sync_by = "measured";
    return FG_OK;
}

static fg_status find_machine(machine *m, const numa_opts *o, const fg_shape *s, fg_err *err)
{
    fg_nodes n;
    *m = (machine){.by_cores = true,
                   .remote = FG_NODES_REMOTE,
                   .sync_us = SYNC_US,
                   .attn_gmacs = (double)INFINITY,
                   .read_by = "given",
                   .remote_by = "assumed",
                   .sync_by = "assumed"};
    const fg_nodes_opts no = {.topology = o->topology, .here = true};
    FG_TRY(fg_nodes_open(&n, &no, err));
    if (n.remote > 0.0) {
        m->remote = n.remote;
        m->remote_by = "distances";
    }
    uint32_t most = 1;
    for (uint32_t k = 0; k < n.place->n_home; k++) {
        const uint32_t weight = n.place->node[k].weight;
        most = weight > most ? weight : most;
    }
    for (uint32_t k = 0; k < n.place->n_home; k++) { /* --read is of one with all its cores */
        m->node_gbs[k] = o->read_gbs * n.place->node[k].weight / most;
    }
    fg_nodes_close(&n);
    if (o->topology == NULL && o->read_gbs <= 0.0) {
        fg_node_rates r;
        FG_TRY(fg_node_rates_measure(&r, 0, 0, err));
        FG_TRY(measure_small(m, o, s, err));
        memcpy(m->node_gbs, r.local_gbs, sizeof m->node_gbs);
        m->by_cores = false;
        m->read_by = "measured";
        if (r.remote > 0.0) {
            m->remote = r.remote;
            m->remote_by = "measured";
        }
    }
    if (o->remote > 0.0) {
        m->remote = o->remote;
        m->remote_by = "given";
    }
    if (o->sync_us > 0.0) {
        m->sync_us = o->sync_us;
        m->sync_by = "given";
    }
    return FG_OK;
}

static double read_of(const machine *m, uint32_t n_node)
{
    double sum = 0.0;
    for (uint32_t k = 0; k < n_node; k++) sum += m->node_gbs[k];
    return sum;
}

/* ---- one figure ---- */

/* Everything that is asked for together. */
typedef struct question {
    const numa_opts *o;
    const planned *p;
    machine m;
    numa_row *cell; /* [n_cell] what was measured */
    size_t n_cell;
} question;

/* read_gbs: of all n_node nodes together; 0: as the machine says. */
static fg_status expect_one(const question *q, uint32_t n_node, fg_numa policy, uint64_t pos,
                            double read_gbs, expectation *out, fg_err *err)
{
    const numa_opts *o = q->o;
    fg_nodes n;
    fg_demand d;
    fg_forecast f;
    fg_rates r = {.sync_us = q->m.sync_us, .remote = q->m.remote, .attn_gmacs = q->m.attn_gmacs};
    fg_forecast_opts fo = fg_forecast_opts_default();
    const fg_nodes_opts no = {.topology = o->topology,
                              .here = true,
                              .n_node = n_node,
                              .numa = policy,
                              .node_gbs = q->m.by_cores ? NULL : q->m.node_gbs};
    fo.n_ctx = pos + 1;
    fo.kv = o->kv;
    fg_rates_assume(&r, read_gbs > 0.0 ? read_gbs : read_of(&q->m, n_node), 0.0);
    FG_TRY(fg_nodes_open(&n, &no, err));
    fg_status st = fg_demand_of_plan(&d, q->p->plan, n.place, err);
    if (st == FG_OK) st = fg_forecast_make(&f, &d, &r, 1, &fo, err);
    if (st == FG_OK) {
        const fg_shape *s = &d.shape;
        *out = (expectation){
            .n_node = n_node,
            .policy = policy,
            .speed = f.decode[pos == 0 ? 0 : 1],
            .token_bytes = d.token_bytes,
            .imbalance = d.imbalance,
            .heads_bytes = fg_balance_heads_bytes(s),
            .heads = fg_balance_of_heads(n.place, s),
            .cache = fg_balance_of_cache(n.place, s, pos),
            .away = fg_forecast_away(&d, &r),
            .read_gbs = r.read_gbs,
            .gemv_gbs = r.gemv_gbs[0],
            .syncs = fg_forecast_syncs(s),
            .node_bytes = d.node_bytes,
            .node_memory = n.least_bytes,
        };
        out->cache_bytes = out->speed.state_bytes - out->heads_bytes;
    }
    fg_nodes_close(&n);
    return st;
}

/* ---- policies ---- */

static const fg_numa usual[] = {FG_NUMA_SLICE, FG_NUMA_INTERLEAVE, FG_NUMA_FIRST_TOUCH,
                                FG_NUMA_EXPERT, FG_NUMA_MIRROR};

/* Lists that were not given: all nodes of the machine, every policy, the beginning and 32,768;
 * those that were are refused here, before anything is measured or printed. */
static fg_status fill_lists(numa_opts *o, uint64_t n_ctx_max, fg_err *err)
{
    static const uint64_t ctx[] = {0, 32768};
    uint64_t most = 0;
    fg_nodes n;
    const fg_nodes_opts all = {.topology = o->topology, .here = true};
    FG_TRY(fg_nodes_open(&n, &all, err));
    if (o->nodes.n == 0) o->nodes = (numa_list){.v = {n.place->n_home}, .n = 1};
    fg_nodes_close(&n);
    for (size_t i = 0; i < o->nodes.n; i++) most = o->nodes.v[i] > most ? o->nodes.v[i] : most;
    const fg_nodes_opts some = {.topology = o->topology, .here = true, .n_node = (uint32_t)most};
    FG_TRY(fg_nodes_open(&n, &some, err));
    fg_nodes_close(&n);
    for (size_t i = 0; i < o->ctx.n; i++) {
        if (o->ctx.v[i] < n_ctx_max) continue;
        return fg_fail(err, FG_EINVAL,
                       "ctx: %" PRIu64 ", expected less than %" PRIu64 ", where the model ends",
                       o->ctx.v[i], n_ctx_max);
    }
    if (o->policy.n == 0) {
        for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++) {
            o->policy.v[o->policy.n++] = (uint64_t)usual[i];
        }
    }
    for (size_t i = 0; o->ctx.n < 2 && i < 2 && ctx[i] < n_ctx_max && o->ctx.n == i; i++) {
        o->ctx.v[o->ctx.n++] = ctx[i];
    }
    return FG_OK;
}

static void print_one(const expectation *e)
{
    const fg_speed *s = &e->speed;
    printf("  %-12s %8.2f tok/s, %.2f x one node: %s x %.3f", fg_numa_name(e->policy), s->tok_s,
           e->times, cli_bytes(e->token_bytes), e->imbalance);
    if (e->away > 1.0) printf(" x %.3f", e->away);
    printf(" / %.1f GB/s = %.2f ms weights, (%s x %.3f", e->gemv_gbs, 1e3 * s->weights_s,
           cli_bytes(e->heads_bytes), e->heads);
    printf(" + %s x %.3f)", cli_bytes(e->cache_bytes), e->cache);
    if (e->away > 1.0) printf(" x %.3f", e->away);
    printf(" / %.1f GB/s = %.2f ms state, %.2f ms other, %.0f barriers = %.2f ms; %s a node%s\n",
           e->read_gbs, 1e3 * s->state_s, 1e3 * s->other_s, e->syncs, 1e3 * s->sync_s,
           cli_bytes((double)e->node_bytes),
           e->node_memory != 0 && e->node_bytes > e->node_memory ? ", WHICH HAS NO ROOM" : "");
}

static void put_one(fg_buf *b, const expectation *e)
{
    const fg_speed *s = &e->speed;
    fg_buf_printf(
        b,
        "{\"nodes\": %u, \"policy\": \"%s\", \"position\": %" PRIu64
        ", \"tokens_per_second\": %.6g, \"times_one_node\": %.6g, \"weight_bytes\": %.0f, "
        "\"imbalance\": %.6f, \"away\": %.6f, \"token_gbs\": %.3f, \"read_gbs\": %.3f",
        e->n_node, fg_numa_name(e->policy), s->pos, s->tok_s, e->times, e->token_bytes,
        e->imbalance, e->away, e->gemv_gbs, e->read_gbs);
    fg_buf_printf(b,
                  ", \"lightning_bytes\": %.0f, \"lightning_imbalance\": %.6f, \"cache_bytes\": "
                  "%.0f, \"cache_imbalance\": %.6f, \"barriers\": %.0f, \"weights_s\": %.9f, "
                  "\"state_s\": %.9f, \"other_s\": %.9f, \"barriers_s\": %.9f, \"node_bytes\": "
                  "%" PRIu64 ", \"fits\": %s}",
                  e->heads_bytes, e->heads, e->cache_bytes, e->cache, e->syncs, s->weights_s,
                  s->state_s, s->other_s, s->sync_s, e->node_bytes,
                  e->node_memory != 0 && e->node_bytes > e->node_memory ? "false" : "true");
}

static fg_status put_machine(fg_buf *b, const question *q, fg_err *err)
{
    const numa_opts *o = q->o;
    const machine *m = &q->m;
    fg_nodes n;
    fg_buf text = {0};
    const fg_nodes_opts no = {.topology = o->topology, .here = true};
    FG_TRY(fg_nodes_open(&n, &no, err));
    fg_nodes_put(&n, &text);
    const uint32_t n_node = n.place->n_home;
    fg_nodes_close(&n);
    const char *line = fg_buf_str(&text) == NULL ? "" : fg_buf_str(&text);
    if (o->json) {
        fg_buf_put_str(b, "{\"model\": ");
        fg_json_put_str(b, o->source, strlen(o->source));
        fg_buf_put_str(b, ", \"topology\": ");
        fg_json_put_str(b, line, strlen(line));
        fg_buf_printf(b,
                      ", \"read_gbs\": %.3f, \"read_by\": \"%s\", \"remote\": %.4f, \"remote_by\": "
                      "\"%s\", \"sync_us\": %.3f, \"sync_by\": \"%s\", \"expected\": [",
                      read_of(m, n_node), m->read_by, m->remote, m->remote_by, m->sync_us,
                      m->sync_by);
    } else {
        printf("topology    %s\n", line);
        printf(
            "machine     %.1f GB/s of all %u node%s together (%s); another node's memory at %.3f "
            "of that (%s); %.2f us a barrier (%s)\n",
            read_of(m, n_node), n_node, n_node == 1 ? "" : "s", m->read_by, m->remote, m->remote_by,
            m->sync_us, m->sync_by);
        printf("assumed     products at 95 %% of reading, 4 %% for what is neither weights nor "
               "state%s; experts chosen uniformly; nothing taken from other nodes\n",
               isinf(m->attn_gmacs) ? ", arithmetic that keeps up" : "");
    }
    fg_buf_fini(&text);
    return FG_OK;
}

static fg_status expect_policies(const question *q, fg_buf *b, fg_err *err)
{
    const numa_opts *o = q->o;
    bool first = true;
    for (size_t c = 0; c < o->ctx.n; c++) {
        expectation one, e;
        FG_TRY(expect_one(q, 1, FG_NUMA_SLICE, o->ctx.v[c], 0.0, &one, err));
        for (size_t n = 0; n < o->nodes.n; n++) {
            const uint32_t n_node = (uint32_t)o->nodes.v[n];
            if (!o->json) {
                printf("\n%u node%s, behind %s positions\n", n_node, n_node == 1 ? "" : "s",
                       cli_count(o->ctx.v[c]));
            }
            for (size_t i = 0; i < o->policy.n; i++) {
                if (n_node == 1 && i > 0) break; /* all are the same there */
                FG_TRY(expect_one(q, n_node, (fg_numa)o->policy.v[i], o->ctx.v[c], 0.0, &e, err));
                e.times = e.speed.tok_s / one.speed.tok_s;
                if (!o->json) print_one(&e);
                if (o->json && !first) fg_buf_put_str(b, ", ");
                if (o->json) put_one(b, &e);
                first = false;
            }
        }
    }
    return FG_OK;
}

/* ---- beside what was measured ---- */

/* What --csv has, read before anything is measured or printed. */
static fg_status load_cells(question *q, fg_err *err)
{
    const numa_opts *o = q->o;
    numa_where w;
    numa_rows rows = {0};
    if (o->csv == NULL) return FG_OK;
    if (!planned_is_model(o->source)) {
        return fg_fail(err, FG_EINVAL, "%s: not a model file, expected the one that %s is about",
                       o->source, o->csv);
    }
    if (!fg_io_exists(o->csv)) {
        return fg_fail(err, FG_EIO, "%s: no such file, expected one that fulgur numa has written",
                       o->csv);
    }
    fg_status st = numa_find_where(&w, o, err);
    if (st == FG_OK) st = numa_rows_load(&rows, o->csv, &w, false, err);
    if (st == FG_OK) st = numa_cells(&rows, &q->cell, &q->n_cell, err);
    fg_mem_free(rows.row);
    return st;
}

static fg_status expect_cells(const question *q, fg_buf *b, fg_err *err)
{
    const numa_opts *o = q->o;
    if (q->n_cell > 0 && !o->json) {
        printf("\n%6s %8s %-12s %-6s %9s %10s %10s %9s\n", "nodes", "threads", "policy", "pages",
               "context", "measured", "expected", "ratio");
    }
    for (size_t i = 0; i < q->n_cell; i++) {
        const numa_row *x = &q->cell[i];
        question own = *q;
        expectation e;
        if (x->remote > 0.0 && o->remote <= 0.0) own.m.remote = x->remote;
        FG_TRY(expect_one(&own, x->nodes, x->policy, x->ctx, x->read_gbs, &e, err));
        if (o->json) {
            fg_buf_printf(b,
                          "%s{\"nodes\": %u, \"threads\": %u, \"policy\": \"%s\", \"pages\": "
                          "\"%s\", \"context\": %" PRIu64
                          ", \"measured\": %.6g, \"expected\": %.6g}",
                          i == 0 ? "" : ", ", x->nodes, x->threads, fg_numa_name(x->policy),
                          fg_pages_name(x->pages), x->ctx, x->tok_s, e.speed.tok_s);
        } else {
            printf("%6u %8u %-12s %-6s %9s %10.2f %10.2f %9.3f\n", x->nodes, x->threads,
                   fg_numa_name(x->policy), fg_pages_name(x->pages), cli_count(x->ctx), x->tok_s,
                   e.speed.tok_s, x->tok_s / e.speed.tok_s);
        }
    }
    return FG_OK;
}

fg_status numa_expect(const numa_opts *given, fg_err *err)
{
    numa_opts o = *given;
    planned p;
    fg_buf b = {0};
    question q = {.o = &o, .p = &p};
    FG_TRY(planned_open(&p, o.source, o.type, o.recipe, err));
    const fg_shape *s = fg_file_plan_shape(p.plan);
    fg_status st = fill_lists(&o, s->n_ctx_max, err);
    if (st == FG_OK) st = load_cells(&q, err);
    if (st == FG_OK) st = find_machine(&q.m, &o, s, err);
    if (st == FG_OK) st = put_machine(&b, &q, err);
    if (st == FG_OK) st = expect_policies(&q, &b, err);
    if (st == FG_OK) fg_buf_put_str(&b, "], \"measured\": [");
    if (st == FG_OK) st = expect_cells(&q, &b, err);
    if (st == FG_OK) fg_buf_put_str(&b, "]}\n");
    if (st == FG_OK && o.json) st = print_buf(&b, err);
    fg_buf_fini(&b);
    fg_mem_free(q.cell);
    planned_close(&p);
    return st;
}
