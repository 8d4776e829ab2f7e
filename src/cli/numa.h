/* SPDX-License-Identifier: MIT
 *
 * What the files of `fulgur numa` share: its options, the rows that a sweep stores, and its three
 * acts: expect (--predict), imbalance, sweep.
 */
#ifndef FG_SRC_CLI_NUMA_H
#define FG_SRC_CLI_NUMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/engine/session.h"
#include "src/plan/nodes.h"

enum { NUMA_LIST = 16, NUMA_WHERE = 8 };

typedef struct numa_list {
    uint64_t v[NUMA_LIST];
    size_t n;
} numa_list;

typedef struct numa_opts {
    const char *source, *type, *recipe, *topology, *csv, *svg, *commit, *flags;
    numa_list nodes, threads, policy, pages, ctx; /* n 0: not given */
    fg_residency residency;
    fg_kv_choice kv;
    fg_cpu_level cpu;
    double read_gbs, remote, sync_us; /* 0: measured or assumed */
    uint32_t n_tok, n_run, n_round;
    bool json, force;
} numa_opts;

/* One cell of a sweep in one round, as a line of the CSV has it. */
typedef struct numa_row {
    uint32_t nodes, threads, round; /* round: from 1 */
    fg_numa policy;
    fg_residency residency;
    fg_pages pages;
    uint64_t ctx;
    uint32_t n_tok, n_run;
    double tok_s, best_tok_s; /* median and best of the runs */
    double bytes;             /* read for one token */
    double read_gbs; /* plain reads by the same threads of the same nodes, between the runs */
    double remote;   /* rate of another node's memory next to one's own; 0: one node */
    char date[24];
} numa_row;

typedef struct numa_rows {
    numa_row *row;
    size_t n, cap;
} numa_rows;

/* What a row was measured on: every row of a file has the same.  `name` is the column. */
typedef struct numa_where {
    struct {
        const char *name;
        char text[512];
    } field[NUMA_WHERE];
    size_t n;
} numa_where;

/* Figures of the cells: medians over the rounds, in the order of their first rows; nodes to ctx are
 * the key, round is how many there were.  Freed with fg_mem_free. */
fg_status numa_cells(const numa_rows *rows, numa_row **cells, size_t *n, fg_err *err);

/* Rows of a file whose columns of `where` say the same; a file that does not exist has none.
 * FG_EINVAL: they say something else (with force: as if it did not exist).  FG_EFORMAT: no such
 * file. */
fg_status numa_rows_load(numa_rows *rows, const char *path, const numa_where *where, bool force,
                         fg_err *err);
/* Writes all rows through a temporary file. */
fg_status numa_rows_save(const numa_rows *rows, const char *path, const numa_where *where,
                         fg_err *err);
/* The same combination and length of runs. */
bool numa_same_cell(const numa_row *a, const numa_row *b);
/* Appends a row; FG_ENOMEM. */
fg_status numa_rows_add(numa_rows *rows, const numa_row *row, fg_err *err);

/* Model, machine, topology, kernel and its settings, level, commit and flags. */
fg_status numa_find_where(numa_where *w, const numa_opts *o, fg_err *err);

fg_status numa_expect(const numa_opts *o, fg_err *err);
fg_status numa_imbalance(const numa_opts *o, fg_err *err);
fg_status numa_sweep(const numa_opts *o, fg_err *err);

/* Speed-up and share of the nodes' bandwidth as a drawing, written through a temporary file. */
fg_status numa_plot(const numa_opts *o, const numa_rows *rows, const numa_where *where,
                    fg_err *err);

#endif
