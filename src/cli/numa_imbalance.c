/* SPDX-License-Identifier: MIT
 *
 * How even the nodes' parts are, phase by phase (src/plan/balance.h), for many counts of nodes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/cli/common.h"
#include "src/cli/numa.h"
#include "src/cli/planned.h"
#include "src/engine/kv.h"

#define MUCH 1.02 /* an imbalance that is named */

typedef struct table {
    const numa_opts *o;
    const planned *p;
    fg_kv_type kv;
    fg_numa policy;
    numa_list nodes, ctx;
    fg_balance *cell; /* [nodes.n][ctx.n] */
} table;

static const fg_balance *at(const table *t, size_t n, size_t c)
{
    return &t->cell[n * t->ctx.n + c];
}

static double sum_of(const fg_balance *b, bool slowest)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < FG_BALANCE_PHASES; i++) {
        sum += slowest ? b->phase[i].slowest : b->phase[i].bytes;
    }
    return sum;
}

static double imbalance(const fg_balance *b, uint32_t i)
{
    return b->phase[i].bytes > 0.0 ? b->phase[i].slowest / b->phase[i].bytes : 1.0;
}

static fg_status fill(table *t, fg_err *err)
{
    fg_demand d;
    FG_TRY(fg_demand_of_plan(&d, t->p->plan, NULL, err));
    t->kv = fg_kv_resolve(t->o->kv, d.quantized);
    t->cell = fg_mem_zalloc_array(t->nodes.n * t->ctx.n, sizeof *t->cell);
    if (t->cell == NULL) return fg_fail_nomem(err, "imbalance");
    for (size_t n = 0; n < t->nodes.n; n++) {
        fg_nodes nodes;
        const fg_nodes_opts no = {
            .topology = t->o->topology, .n_node = (uint32_t)t->nodes.v[n], .numa = t->policy};
        FG_TRY(fg_nodes_open(&nodes, &no, err));
        if (t->nodes.v[n] == 0) t->nodes.v[n] = nodes.place->n_home;
        fg_status st = FG_OK;
        for (size_t c = 0; c < t->ctx.n && st == FG_OK; c++) {
            st = fg_balance_make(&t->cell[n * t->ctx.n + c], t->p->plan, nodes.place, t->ctx.v[c],
                                 t->kv, err);
        }
        fg_nodes_close(&nodes);
        FG_TRY(st);
    }
    return FG_OK;
}

/* ---- text ---- */

static void print_line(const table *t, const char *name, size_t c, uint32_t phase)
{
    const fg_balance *b = at(t, 0, c);
    printf("%-34s %6.2f ", name, 100.0 * b->phase[phase].bytes / sum_of(b, false));
    for (size_t n = 0; n < t->nodes.n; n++) {
        printf(" %7.2f", 100.0 * (imbalance(at(t, n, c), phase) - 1.0));
    }
    printf("\n");
}

/* Phases that are over 2 %, and what that is of a token at the first context they have it at. */
static void print_uneven(const table *t)
{
    bool any = false;
    for (uint32_t i = 0; i < FG_BALANCE_PHASES; i++) {
        for (size_t c = 0; c < (i == FG_BALANCE_CACHE ? t->ctx.n : 1); c++) {
            for (size_t n = 0; n < t->nodes.n; n++) {
                const fg_balance *b = at(t, n, c);
                const double more = b->phase[i].slowest - b->phase[i].bytes, all = sum_of(b, false);
                if (imbalance(b, i) <= MUCH) continue;
                if (!any)
                    printf("\nover %.0f %%, and what it makes a token longer:\n",
                           100.0 * (MUCH - 1.0));
                any = true;
                printf("  %2" PRIu64 " nodes: %s", t->nodes.v[n],
                       fg_balance_name((fg_balance_phase)i));
                if (i == FG_BALANCE_CACHE) printf(" at %s", cli_count(t->ctx.v[c]));
                printf(": %.1f %% of %.2f %% of a token, %.3f %%\n",
                       100.0 * (imbalance(b, i) - 1.0), 100.0 * b->phase[i].bytes / all,
                       100.0 * more / all);
            }
        }
    }
}

static void print_table(const table *t)
{
    uint64_t n_shared = 0;
    char name[64];
    printf("%s, %s: by how many percent the slowest node is behind an equal part\n\n", t->o->source,
           fg_numa_name(t->policy));
    printf("%-34s %6s  nodes", "phase", "% of");
    printf("\n%-34s %6s ", "", "token");
    for (size_t n = 0; n < t->nodes.n; n++) printf(" %7" PRIu64, t->nodes.v[n]);
    printf("\n");
    for (uint32_t i = 0; i < FG_BALANCE_PHASES; i++) {
        for (size_t c = 0; c < (i == FG_BALANCE_CACHE ? t->ctx.n : 1); c++) {
            const char *phase = fg_balance_name((fg_balance_phase)i);
            (void)snprintf(name, sizeof name, "%s", phase);
            if (i == FG_BALANCE_CACHE) {
                (void)snprintf(name, sizeof name, "%s at %s", phase, cli_count(t->ctx.v[c]));
            }
            print_line(t, name, c, i);
        }
    }
    for (size_t c = 0; c < t->ctx.n; c++) {
        (void)snprintf(name, sizeof name, "a token at %s", cli_count(t->ctx.v[c]));
        printf("%-34s %6.2f ", name, 100.0);
        for (size_t n = 0; n < t->nodes.n; n++) {
            const fg_balance *b = at(t, n, c);
            printf(" %7.2f", 100.0 * (sum_of(b, true) / sum_of(b, false) - 1.0));
            n_shared += b->n_shared;
        }
        printf("\n");
    }
    print_uneven(t);
    printf("\npages of panels that two nodes share: %" PRIu64 "\n", n_shared);
}

/* ---- JSON ---- */

static fg_status print_json(const table *t, fg_err *err)
{
    fg_buf b = {0};
    fg_buf_put_str(&b, "{\"model\": ");
    fg_json_put_str(&b, t->o->source, strlen(t->o->source));
    fg_buf_printf(&b, ", \"policy\": \"%s\", \"cells\": [", fg_numa_name(t->policy));
    for (size_t n = 0; n < t->nodes.n; n++) {
        for (size_t c = 0; c < t->ctx.n; c++) {
            const fg_balance *x = at(t, n, c);
            fg_buf_printf(&b,
                          "%s{\"nodes\": %" PRIu64 ", \"context\": %" PRIu64
                          ", \"shared_pages\": %" PRIu64 ", \"imbalance\": %.6f, \"phases\": [",
                          n + c == 0 ? "" : ", ", t->nodes.v[n], t->ctx.v[c], x->n_shared,
                          sum_of(x, true) / sum_of(x, false));
            for (uint32_t i = 0; i < FG_BALANCE_PHASES; i++) {
                fg_buf_printf(&b,
                              "%s{\"phase\": \"%s\", \"bytes\": %.0f, \"share\": %.6f, "
                              "\"imbalance\": %.6f}",
                              i == 0 ? "" : ", ", fg_balance_name((fg_balance_phase)i),
                              x->phase[i].bytes, x->phase[i].bytes / sum_of(x, false),
                              imbalance(x, i));
            }
            fg_buf_put_str(&b, "]}");
        }
    }
    fg_buf_put_str(&b, "]}\n");
    return print_buf(&b, err);
}

fg_status numa_imbalance(const numa_opts *o, fg_err *err)
{
    planned p;
    table t = {.o = o, .p = &p, .nodes = o->nodes, .ctx = o->ctx};
    FG_TRY(planned_open(&p, o->source, o->type, o->recipe, err));
    const uint64_t most = fg_file_plan_shape(p.plan)->n_ctx_max;
    if (t.nodes.n == 0 && o->topology == NULL) {
        t.nodes = (numa_list){.v = {2, 3, 4, 6, 8, 12, 16}, .n = 7};
    } else if (t.nodes.n == 0) {
        t.nodes = (numa_list){.v = {0}, .n = 1}; /* the topology's */
    }
    if (t.ctx.n == 0) t.ctx = (numa_list){.v = {0, 32768, 131072, 1048576}, .n = 4};
    while (o->ctx.n == 0 && t.ctx.n > 1 && t.ctx.v[t.ctx.n - 1] > most) t.ctx.n--;
    for (size_t i = 0; i < t.ctx.n; i++) {
        if (t.ctx.v[i] <= most) continue;
        planned_close(&p);
        return fg_fail(err, FG_EINVAL,
                       "ctx: %" PRIu64 ", expected at most %" PRIu64 ", where the model ends",
                       t.ctx.v[i], most);
    }
    t.policy = o->policy.n == 0 ? FG_NUMA_SLICE : (fg_numa)o->policy.v[0];
    fg_status st = fill(&t, err);
    if (st == FG_OK && o->json) st = print_json(&t, err);
    if (st == FG_OK && !o->json) print_table(&t);
    fg_mem_free(t.cell);
    planned_close(&p);
    return st;
}
