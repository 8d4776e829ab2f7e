/* SPDX-License-Identifier: MIT
 *
 * The CSV file of a sweep: a line a cell and round, and what it was measured on in every line, so
 * that a line says by itself how to repeat it.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "bench/bench.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/cli/common.h"
#include "src/cli/csv.h"
#include "src/cli/numa.h"
#include "src/sys/machine.h"

#define MAX_FILE ((uint64_t)64 << 20)

static const char own_columns[] = "date,round,nodes,threads,policy,residency,pages,context,tokens,"
                                  "runs,tok_s,tok_s_best,bytes_per_token,read_gbs,percent_of_read,"
                                  "remote";
enum { N_OWN = 16, FIELD = 512 };

/* ---- what was measured, and on what ---- */

static char *next_field(numa_where *w, const char *name)
{
    w->field[w->n].name = name;
    return w->field[w->n++].text;
}

fg_status numa_find_where(numa_where *w, const numa_opts *o, fg_err *err)
{
    fg_machine m;
    fg_model_file *f;
    struct utsname un;
    fg_buf b = {0};
    const char *slash = strrchr(o->source, '/');
    *w = (numa_where){.n = 0};
    FG_TRY(fg_model_file_open(&f, o->source, err));
    fg_machine_describe(&m);
    (void)snprintf(next_field(w, "model"), FIELD, "%s, %" PRIu64 " bytes, %016" PRIx64,
                   slash == NULL ? o->source : slash + 1, fg_model_file_size(f),
                   fg_model_file_data_root(f));
    fg_model_file_close(&f);
    (void)snprintf(next_field(w, "machine"), FIELD, "%s", m.cpu);
    fg_nodes_put_here(&b);
    (void)snprintf(next_field(w, "topology"), FIELD, "%s",
                   fg_buf_str(&b) == NULL ? "" : fg_buf_str(&b));
    fg_buf_fini(&b);
    if (uname(&un) != 0) un.release[0] = '\0';
    (void)snprintf(next_field(w, "kernel"), FIELD,
                   "Linux %s, huge pages %s, NUMA balancing %s, governor %s, pages of %" PRIu64,
                   un.release, m.huge_pages, m.numa_balancing, m.governor, m.page_bytes);
    (void)snprintf(next_field(w, "level"), FIELD, "%s",
                   o->cpu == FG_CPU_LEVEL_AUTO ? m.level : fg_cpu_level_name(o->cpu));
    (void)snprintf(next_field(w, "cache"), FIELD, "%s", fg_kv_choice_name(o->kv));
    (void)snprintf(next_field(w, "commit"), FIELD, "%s%s%s", FG_VERSION,
                   o->commit[0] == '\0' ? "" : " ", o->commit);
    (void)snprintf(next_field(w, "flags"), FIELD, "%s", o->flags);
    return FG_OK;
}

/* ---- writing ---- */

fg_status numa_rows_add(numa_rows *rows, const numa_row *row, fg_err *err)
{
    void *p = rows->row;
    if (!fg_mem_grow(&p, &rows->cap, rows->n + 1, sizeof *rows->row)) {
        return fg_fail_nomem(err, "rows of a sweep");
    }
    rows->row = p;
    rows->row[rows->n++] = *row;
    return FG_OK;
}

static void put_head(fg_buf *b, const numa_where *w)
{
    for (size_t i = 0; i < w->n; i++) fg_buf_printf(b, "%s,", w->field[i].name);
    fg_buf_printf(b, "%s\n", own_columns);
}

/* A figure as the file has it, so that what is made of it is the same after it was read. */
static double as_printed(double v)
{
    char text[64];
    (void)snprintf(text, sizeof text, "%.6g", v);
    return strtod(text, NULL);
}

static double percent_of_read(const numa_row *x)
{
    if (x->read_gbs <= 0.0) return 0.0;
    return 100e-9 * as_printed(x->tok_s) * floor(x->bytes + 0.5) / as_printed(x->read_gbs);
}

fg_status numa_rows_save(const numa_rows *rows, const char *path, const numa_where *where,
                         fg_err *err)
{
    fg_buf b = {0};
    put_head(&b, where);
    for (size_t i = 0; i < rows->n; i++) {
        const numa_row *x = &rows->row[i];
        for (size_t k = 0; k < where->n; k++) csv_put_field(&b, where->field[k].text);
        fg_buf_printf(&b, "%s,%u,%u,%u,%s,%s,%s,%" PRIu64 ",%u,%u,%.6g,%.6g,%.0f,%.6g,%.4g,%.4g\n",
                      x->date, x->round, x->nodes, x->threads, fg_numa_name(x->policy),
                      fg_residency_name(x->residency), fg_pages_name(x->pages), x->ctx, x->n_tok,
                      x->n_run, x->tok_s, x->best_tok_s, x->bytes, x->read_gbs, percent_of_read(x),
                      x->remote);
    }
    const fg_status st = write_buf(&b, path, err);
    fg_buf_fini(&b);
    return st;
}

/* ---- reading ---- */

typedef const char *name_fn(unsigned value);

static const char *policy_name(unsigned i)
{
    return fg_numa_name((fg_numa)i);
}

static const char *home_name(unsigned i)
{
    return fg_residency_name((fg_residency)i);
}

static const char *pages_name(unsigned i)
{
    return fg_pages_name((fg_pages)i);
}

static bool find_name(const char *text, name_fn *name, unsigned n, unsigned *out)
{
    for (*out = 0; *out < n; (*out)++) {
        if (name(*out) != NULL && strcmp(name(*out), text) == 0) return true;
    }
    return false;
}

static bool take_u64(const char **at, uint64_t max, uint64_t *out)
{
    char text[FIELD], *end;
    if (!csv_take_field(at, text, sizeof text) || text[0] < '0' || text[0] > '9') return false;
    *out = strtoull(text, &end, 10);
    return *end == '\0' && *out <= max;
}

static bool take_u32(const char **at, uint32_t *out)
{
    uint64_t v = 0;
    const bool ok = take_u64(at, UINT32_MAX, &v);
    *out = (uint32_t)v;
    return ok;
}

static bool take_f64(const char **at, double *out)
{
    char text[FIELD], *end;
    if (!csv_take_field(at, text, sizeof text)) return false;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && *out >= 0.0 && *out < 1e18;
}

static bool take_name(const char **at, name_fn *name, unsigned n, unsigned *out)
{
    char text[FIELD];
    return csv_take_field(at, text, sizeof text) && find_name(text, name, n, out);
}

static bool take_row(const char *at, numa_row *x)
{
    unsigned policy = 0, home = 0, pages = 0;
    double percent;
    *x = (numa_row){0};
    if (!csv_take_field(&at, x->date, sizeof x->date)) return false;
    if (!take_u32(&at, &x->round) || !take_u32(&at, &x->nodes) || !take_u32(&at, &x->threads) ||
        !take_name(&at, policy_name, FG_NUMA_COUNT, &policy) ||
        !take_name(&at, home_name, FG_RESIDENCY_COUNT, &home) ||
        !take_name(&at, pages_name, FG_PAGES_COUNT, &pages) ||
        !take_u64(&at, (uint64_t)1 << 40, &x->ctx) || !take_u32(&at, &x->n_tok) ||
        !take_u32(&at, &x->n_run) || !take_f64(&at, &x->tok_s) || !take_f64(&at, &x->best_tok_s) ||
        !take_f64(&at, &x->bytes) || !take_f64(&at, &x->read_gbs) || !take_f64(&at, &percent) ||
        !take_f64(&at, &x->remote)) {
        return false;
    }
    x->policy = (fg_numa)policy;
    x->residency = (fg_residency)home;
    x->pages = (fg_pages)pages;
    return (*at == '\n' || *at == '\0') && x->tok_s > 0.0 && x->nodes >= 1 &&
           x->nodes <= FG_MAX_NODE;
}

/* A line, from its first field.  *same: it was measured on what `where` says. */
static fg_status take_line(const char *at, const char *path, size_t line, const numa_where *where,
                           bool *same, numa_row *x, fg_err *err)
{
    char text[FIELD + 1];
    *same = true;
    for (size_t i = 0; i < where->n; i++) {
        if (!csv_take_field(&at, text, sizeof text)) {
            return fg_fail(err, FG_EFORMAT, "%s: line %zu: no %s, expected a line of fulgur numa",
                           path, line, where->field[i].name);
        }
        if (!*same || strcmp(text, where->field[i].text) == 0) continue;
        *same = false;
        (void)fg_fail(err, FG_EINVAL,
                      "%s: %s \"%.150s\", expected \"%.150s\"; a sweep starts anew with --force",
                      path, where->field[i].name, text, where->field[i].text);
    }
    if (take_row(at, x)) return FG_OK;
    return fg_fail(err, FG_EFORMAT, "%s: line %zu: bad figures, expected those of fulgur numa",
                   path, line);
}

static fg_status parse(numa_rows *rows, const char *text, const char *path, const numa_where *where,
                       fg_err *err)
{
    fg_buf head = {0};
    if (*text == '\0') return FG_OK; /* nothing was measured */
    put_head(&head, where);
    const bool ours = !head.failed && strncmp(text, (const char *)head.data, head.len) == 0;
    const char *at = text + (ours ? head.len : 0);
    fg_buf_fini(&head);
    if (!ours) {
        return fg_fail(err, FG_EFORMAT, "%s: line 1: other columns, expected those of fulgur numa",
                       path);
    }
    /* a last line without its end was cut off, and is measured again */
    for (size_t line = 2; strchr(at, '\n') != NULL; line++) {
        numa_row x;
        bool same;
        FG_TRY(take_line(at, path, line, where, &same, &x, err));
        if (!same) return FG_EINVAL;
        for (size_t i = 0; i < rows->n; i++) {
            if (rows->row[i].round != x.round || !numa_same_cell(&rows->row[i], &x)) continue;
            return fg_fail(err, FG_EFORMAT,
                           "%s: line %zu: what line %zu has already, expected it once a round",
                           path, line, i + 2);
        }
        FG_TRY(numa_rows_add(rows, &x, err));
        at += strcspn(at, "\n");
        at += *at == '\n';
    }
    return FG_OK;
}

fg_status numa_rows_load(numa_rows *rows, const char *path, const numa_where *where, bool force,
                         fg_err *err)
{
    char *text;
    size_t n;
    if (!fg_io_exists(path)) return FG_OK;
    FG_TRY(fg_io_read_all(path, MAX_FILE, &text, &n, err));
    const fg_status st = parse(rows, text, path, where, err);
    fg_mem_free(text);
    if (st == FG_OK || !force || st == FG_ENOMEM) return st;
    rows->n = 0;
    return FG_OK;
}

/* ---- cells ---- */

bool numa_same_cell(const numa_row *a, const numa_row *b)
{
    return a->nodes == b->nodes && a->threads == b->threads && a->policy == b->policy &&
           a->residency == b->residency && a->pages == b->pages && a->ctx == b->ctx &&
           a->n_tok == b->n_tok && a->n_run == b->n_run;
}

/* One figure of a cell's rows. */
static double median_of(const numa_rows *rows, const numa_row *cell, size_t field, double *v)
{
    size_t n = 0;
    for (size_t i = 0; i < rows->n; i++) {
        if (!numa_same_cell(&rows->row[i], cell)) continue;
        v[n++] = *(const double *)(const void *)((const char *)&rows->row[i] + field);
    }
    return fg_bench_median(v, n);
}

fg_status numa_cells(const numa_rows *rows, numa_row **cells, size_t *n, fg_err *err)
{
    double *v = fg_mem_zalloc_array(rows->n + 1, sizeof *v);
    numa_row *x = fg_mem_zalloc_array(rows->n + 1, sizeof *x);
    *n = 0;
    *cells = x;
    if (v == NULL || x == NULL) {
        fg_mem_free(v);
        fg_mem_free(x);
        *cells = NULL;
        return fg_fail_nomem(err, "cells of a sweep");
    }
    for (size_t i = 0; i < rows->n; i++) {
        size_t k = 0;
        while (k < *n && !numa_same_cell(&x[k], &rows->row[i])) k++;
        if (k < *n) {
            x[k].round++;
            continue;
        }
        x[k] = rows->row[i];
        x[k].round = 1;
        ++*n;
        x[k].tok_s = median_of(rows, &x[k], offsetof(numa_row, tok_s), v);
        x[k].read_gbs = median_of(rows, &x[k], offsetof(numa_row, read_gbs), v);
    }
    fg_mem_free(v);
    return FG_OK;
}
