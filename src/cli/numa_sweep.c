/* SPDX-License-Identifier: MIT
 *
 * The sweep: rounds over all combinations, each measured by bench/bench.h, each written to the CSV
 * file as soon as it is known.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "bench/bench.h"
#include "src/base/buf.h"
#include "src/base/mem.h"
#include "src/base/io.h"
#include "src/cli/common.h"
#include "src/cli/csv.h"
#include "src/cli/numa.h"
#include "src/cli/svg.h"

typedef struct sweep {
    const numa_opts *o;
    numa_where where;
    numa_rows rows;
    uint32_t cores[FG_MAX_NODE + 1]; /* of the first n nodes */
    double remote;                   /* 0: one node */
    uint64_t n_ctx_max;
    uint64_t n_done, n_left_out, n_all;
    progress p;
} sweep;

/* ---- axes ---- */

/* 1, 2, 4, ... and all nodes of this machine. */
static void all_nodes(numa_list *l)
{
    const uint32_t most = fg_nodes_here();
    for (uint32_t n = 1; n < most; n *= 2) l->v[l->n++] = n;
    l->v[l->n++] = most;
}

static fg_status fill_axes(numa_opts *o, fg_err *err)
{
    const uint32_t most = fg_nodes_here();
    if (o->nodes.n == 0) all_nodes(&o->nodes);
    for (size_t i = 0; i < o->nodes.n; i++) {
        if (o->nodes.v[i] <= most) continue;
        return fg_fail(err, FG_EINVAL,
                       "nodes: %" PRIu64 ", expected at most %u, which the machine "
                       "has",
                       o->nodes.v[i], most);
    }
    if (o->policy.n == 0) { /* with one node all are the same */
        o->policy = (numa_list){.v = {FG_NUMA_SLICE, FG_NUMA_INTERLEAVE}, .n = most > 1 ? 2 : 1};
    }
    if (o->pages.n == 0) o->pages = (numa_list){.v = {FG_PAGES_SMALL, FG_PAGES_HUGE}, .n = 2};
    if (o->residency == FG_RESIDENCY_MAP) o->pages = (numa_list){.v = {FG_PAGES_AUTO}, .n = 1};
    if (o->ctx.n == 0) o->ctx = (numa_list){.v = {0}, .n = 1};
    return FG_OK;
}

/* What is asked of n nodes: as given, or half their cores and all. */
static numa_list threads_of(const sweep *s, uint32_t n_node)
{
    const uint32_t all = s->cores[n_node];
    if (s->o->threads.n != 0) return s->o->threads;
    if (all < 2) return (numa_list){.v = {1}, .n = 1};
    return (numa_list){.v = {all / 2, all}, .n = 2};
}

/* Calls fn for every combination but context; stops at the first that fails. */
static fg_status each_setting(sweep *s, uint32_t round,
                              fg_status (*fn)(sweep *s, const numa_row *x, fg_err *err),
                              fg_err *err)
{
    const numa_opts *o = s->o;
    numa_row x = {.round = round, .residency = o->residency, .n_tok = o->n_tok, .n_run = o->n_run};
    for (size_t n = 0; n < o->nodes.n; n++) {
        const numa_list threads = threads_of(s, (uint32_t)o->nodes.v[n]);
        x.nodes = (uint32_t)o->nodes.v[n];
        for (size_t t = 0; t < threads.n; t++) {
            x.threads = (uint32_t)threads.v[t];
            for (size_t i = 0; i < o->policy.n * o->pages.n; i++) {
                x.policy = (fg_numa)o->policy.v[i / o->pages.n];
                x.pages = (fg_pages)o->pages.v[i % o->pages.n];
                FG_TRY(fn(s, &x, err));
            }
        }
    }
    return FG_OK;
}

static bool is_there(const sweep *s, const numa_row *x)
{
    for (size_t i = 0; i < s->rows.n; i++) {
        if (s->rows.row[i].round == x->round && numa_same_cell(&s->rows.row[i], x)) return true;
    }
    return false;
}

static bool has_room(const sweep *s, uint64_t ctx)
{
    return ctx + s->o->n_tok <= s->n_ctx_max;
}

static fg_status count_setting(sweep *s, const numa_row *x, fg_err *err)
{
    numa_row y = *x;
    (void)err;
    for (size_t c = 0; c < s->o->ctx.n; c++) {
        y.ctx = s->o->ctx.v[c];
        if (!has_room(s, y.ctx)) continue;
        s->n_all++;
        s->n_done += is_there(s, &y);
    }
    return FG_OK;
}

/* ---- measuring ---- */

static fg_status measure(fg_bench *b, numa_row *x, fg_err *err)
{
    fg_bench_run run;
    FG_TRY(fg_bench_decode(b, x->ctx, x->n_tok, x->n_run, &run, err));
    x->tok_s = run.tok_s;
    x->best_tok_s = run.best_tok_s;
    x->bytes = run.weight_bytes + run.state_bytes;
    x->read_gbs = run.read_gbs;
    (void)snprintf(x->date, sizeof x->date, "%s", csv_now().s);
    return FG_OK;
}

/* All contexts of a combination that are not there yet, with one engine. */
static fg_status measure_contexts(sweep *s, numa_row *x, fg_engine *e, fg_bench *b, fg_err *err)
{
    for (size_t c = 0; c < s->o->ctx.n; c++) {
        x->ctx = s->o->ctx.v[c];
        if (!has_room(s, x->ctx) || is_there(s, x)) continue;
        if (cli_interrupted()) return FG_OK; /* the caller says so */
        FG_TRY(measure(b, x, err));
        FG_TRY(check_engine(e, err));
        FG_TRY(numa_rows_add(&s->rows, x, err));
        FG_TRY(numa_rows_save(&s->rows, s->o->csv, &s->where, err));
        s->n_done++;
        (void)progress_show(&s->p, s->n_done, s->n_all);
    }
    return FG_OK;
}

static uint64_t missing(const sweep *s, const numa_row *x)
{
    numa_row y = *x;
    uint64_t n = 0;
    for (size_t c = 0; c < s->o->ctx.n; c++) {
        y.ctx = s->o->ctx.v[c];
        n += has_room(s, y.ctx) && !is_there(s, &y);
    }
    return n;
}

static fg_status run_setting(sweep *s, const numa_row *setting, fg_err *err)
{
    numa_row x = *setting;
    fg_engine_opts eo = fg_engine_opts_default();
    fg_engine *e = NULL;
    fg_bench *b = NULL;
    fg_err why = {0};
    if (cli_interrupted()) {
        return fg_fail(err, FG_ECANCEL, "numa: stopped, %" PRIu64 " of %" PRIu64 " are in %s",
                       s->n_done, s->n_all, s->o->csv);
    }
    if (missing(s, &x) == 0) return FG_OK;
    (void)snprintf(s->p.note, sizeof s->p.note, "%u node%s, %u threads, %s, %s", x.nodes,
                   x.nodes == 1 ? "" : "s", x.threads, fg_numa_name(x.policy),
                   fg_pages_name(x.pages));
    (void)progress_show(&s->p, s->n_done, s->n_all);
    x.remote = x.nodes > 1 ? s->remote : 0.0;
    eo.cpu = s->o->cpu;
    eo.n_thread = x.threads;
    eo.n_node = x.nodes;
    eo.numa = x.policy;
    eo.residency = x.residency;
    eo.pages = x.pages;
    fg_status st = open_engine(&e, s->o->source, &eo, &why);
    if (st == FG_OK) st = fg_bench_create(&b, e, &why);
    if (st == FG_OK) fg_bench_set_cache(b, s->o->kv);
    if (st != FG_OK && st != FG_ECANCEL) { /* not to be had here: the others are */
        progress_end(&s->p);
        cli_note("numa: %s: left out: %s\n", s->p.note, why.msg);
        s->n_left_out += missing(s, &x);
        st = FG_OK;
    } else if (st == FG_OK) {
        st = measure_contexts(s, &x, e, b, err);
    } else if (err != NULL) {
        *err = why;
    }
    fg_bench_destroy(&b);
    fg_engine_close(&e);
    return st;
}

/* ---- the whole ---- */

static fg_status prepare(sweep *s, fg_err *err)
{
    const numa_opts *o = s->o;
    fg_model_file *f;
    FG_TRY(fg_model_file_open(&f, o->source, err));
    s->n_ctx_max = fg_model_file_shape(f)->n_ctx_max;
    fg_model_file_close(&f);
    FG_TRY(numa_find_where(&s->where, o, err));
    FG_TRY(numa_rows_load(&s->rows, o->csv, &s->where, o->force, err));
    for (size_t i = 0; i < o->nodes.n; i++) {
        fg_nodes n;
        const uint32_t k = (uint32_t)o->nodes.v[i];
        const fg_nodes_opts no = {.here = true, .n_node = k};
        FG_TRY(fg_nodes_open(&n, &no, err));
        s->cores[k] = n.n_core == 0 ? 1 : n.n_core;
        fg_nodes_close(&n);
    }
    for (size_t i = 0; i < o->ctx.n; i++) {
        if (has_room(s, o->ctx.v[i])) continue;
        cli_note("numa: context %" PRIu64 ": left out, the model ends at %" PRIu64 "\n",
                 o->ctx.v[i], s->n_ctx_max);
    }
    for (uint32_t r = 1; r <= o->n_round; r++) FG_TRY(each_setting(s, r, count_setting, err));
    if (s->n_done == s->n_all) return FG_OK;
    FG_TRY(numa_rows_save(&s->rows, o->csv, &s->where, err)); /* can it be written? */
    say_memory_limit();
    if (fg_nodes_here() == 1) return FG_OK;
    fg_node_rates rates;
    FG_TRY(fg_node_rates_measure(&rates, 0, 0, err));
    s->remote = rates.remote;
    return FG_OK;
}

static fg_status print_cells(const sweep *s, fg_err *err)
{
    numa_row *cells;
    size_t n;
    fg_buf b = {0};
    FG_TRY(numa_cells(&s->rows, &cells, &n, err));
    if (s->o->json) fg_buf_put_str(&b, "{\"cells\": [");
    if (!s->o->json) {
        fg_buf_printf(&b, "%6s %8s %-12s %-6s %-6s %9s %7s %9s %9s %9s\n", "nodes", "threads",
                      "policy", "home", "pages", "context", "rounds", "tok/s", "read GB/s",
                      "% of read");
    }
    for (size_t i = 0; i < n; i++) {
        const numa_row *x = &cells[i];
        const double of = x->read_gbs > 0.0 ? 100e-9 * x->tok_s * x->bytes / x->read_gbs : 0.0;
        fg_buf_printf(&b,
                      s->o->json ? "%s{\"nodes\": %u, \"threads\": %u, \"policy\": \"%s\", "
                                   "\"residency\": \"%s\", \"pages\": \"%s\", \"context\": %" PRIu64
                                   ", \"rounds\": %u, \"tokens_per_second\": %.6g, \"read_gbs\": "
                                   "%.4g, \"percent_of_read\": %.4g}"
                                 : "%s%6u %8u %-12s %-6s %-6s %9" PRIu64 " %7u %9.2f %9.1f %9.1f\n",
                      s->o->json && i > 0 ? ", " : "", x->nodes, x->threads,
                      fg_numa_name(x->policy), fg_residency_name(x->residency),
                      fg_pages_name(x->pages), x->ctx, x->round, x->tok_s, x->read_gbs, of);
    }
    if (s->o->json) fg_buf_put_str(&b, "]}\n");
    fg_mem_free(cells);
    return print_buf(&b, err);
}

/* The drawing is not to replace what it draws. */
static fg_status apart(const char *svg, const char *csv, fg_err *err)
{
    if (strcmp(svg, csv) == 0) {
        return fg_fail(err, FG_EINVAL, "%s: for the CSV file and the drawing, expected two files",
                       svg);
    }
    return fg_io_refuse_input(svg, csv, err);
}

fg_status numa_sweep(const numa_opts *given, fg_err *err)
{
    numa_opts o = *given;
    sweep s = {.o = &o};
    const char *const in[] = {o.source};
    if (o.csv == NULL) o.csv = "numa.csv";
    fg_status st = check_output(o.csv, true, in, 1, err);
    if (st == FG_OK) st = check_output(o.svg, true, in, 1, err);
    if (st == FG_OK && o.svg != NULL) st = apart(o.svg, o.csv, err);
    if (st == FG_OK) st = fill_axes(&o, err);
    if (st == FG_OK) st = prepare(&s, err);
    progress_start(&s.p, "numa", "cell");
    s.p.from = s.n_done;
    for (uint32_t r = 1; r <= o.n_round && st == FG_OK; r++) {
        st = each_setting(&s, r, run_setting, err);
    }
    progress_end(&s.p);
    if (st == FG_OK && cli_interrupted()) {
        st = fg_fail(err, FG_ECANCEL, "numa: stopped, %" PRIu64 " of %" PRIu64 " are in %s",
                     s.n_done, s.n_all, o.csv);
    }
    if (st == FG_OK) st = print_cells(&s, err);
    if (st == FG_OK && o.svg != NULL) st = apart(o.svg, o.csv, err); /* by then there is one */
    if (st == FG_OK && o.svg != NULL && s.rows.n > 0) st = numa_plot(&o, &s.rows, &s.where, err);
    if (st == FG_OK && s.n_left_out > 0) {
        st = fg_fail(err, FG_ENOTSUP, "numa: %" PRIu64 " of %" PRIu64 " left out, expected all",
                     s.n_left_out, s.n_all);
    }
    fg_mem_free(s.rows.row);
    return st;
}
