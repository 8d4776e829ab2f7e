/* SPDX-License-Identifier: MIT */
#include "src/factor/ranking.h"

#include <math.h>
#include <stdlib.h>

#include "src/base/mem.h"

static bool is_better(const fg_ranked *a, const fg_ranked *b)
{
    return a->value > b->value || (a->value == b->value && a->col < b->col);
}

static int compare_ranked(const void *pa, const void *pb)
{
    return is_better(pa, pb) ? -1 : is_better(pb, pa);
}

/* h: a heap with the worst at its root, so that most candidates cost one comparison. */
static void offer(fg_ranked *h, uint32_t *n, uint32_t top, fg_ranked c)
{
    uint32_t at;
    if (*n < top) {
        for (at = (*n)++; at > 0 && is_better(&h[(at - 1) / 2], &c); at = (at - 1) / 2) {
            h[at] = h[(at - 1) / 2];
        }
        h[at] = c;
        return;
    }
    if (!is_better(&c, &h[0])) return;
    for (at = 0; 2 * (uint64_t)at + 1 < *n;) {
        uint32_t worse = 2 * at + 1;
        if (worse + 1 < *n && is_better(&h[worse], &h[worse + 1])) worse++;
        if (!is_better(&c, &h[worse])) break;
        h[at] = h[worse];
        at = worse;
    }
    h[at] = c;
}

/* omit: [n_col] zeros, and zeros again when it is done. */
static uint32_t list_of(const fg_factor_model *m, uint32_t row, const fg_hdi *rated, uint8_t *omit,
                        uint32_t top, fg_ranked *out)
{
    const fg_hdi_index *by = &rated->by_row;
    const uint64_t begin = row < rated->n_row ? by->start[row] : 0;
    const uint64_t end = row < rated->n_row ? by->start[row + 1] : 0;
    uint32_t n = 0;
    for (uint64_t i = begin; i < end; i++) omit[rated->entry[by->at[i]].col] = 1;
    for (uint32_t c = 0; c < m->n_col; c++) {
        if (omit[c] != 0 || m->col_met[c] == 0) continue;
        offer(out, &n, top, (fg_ranked){fg_factor_predict(m, row, c), c});
    }
    for (uint64_t i = begin; i < end; i++) omit[rated->entry[by->at[i]].col] = 0;
    qsort(out, n, sizeof *out, compare_ranked);
    return n;
}

static size_t omit_size(const fg_factor_model *m, const fg_hdi *rated)
{
    return (size_t)(m->n_col > rated->n_col ? m->n_col : rated->n_col) + 1;
}

fg_status fg_factor_top(const fg_factor_model *m, uint32_t row, fg_hdi *rated, uint32_t top,
                        fg_ranked *out, uint32_t *n, fg_err *err)
{
    FG_TRY(fg_hdi_make_index(rated, err));
    uint8_t *omit = fg_mem_zalloc(omit_size(m, rated));
    if (omit == NULL) return fg_fail_nomem(err, "items");
    *n = list_of(m, row, rated, omit, top, out);
    fg_mem_free(omit);
    return FG_OK;
}

typedef struct ranking {
    const fg_factor_model *m;
    const fg_hdi *rated, *test;
    uint32_t top;
    double relevant;
    uint8_t *omit, *wanted; /* [columns] */
    fg_ranked *list;        /* [top] */
    fg_ranking sum;
} ranking;

static void rank_user(ranking *r, uint32_t row)
{
    const fg_hdi_index *by = &r->test->by_row, *had = &r->rated->by_row;
    uint64_t n_wanted = 0;
    double gain = 0.0, most = 0.0, hits = 0.0;
    if (row >= r->m->n_row || r->m->row_met[row] == 0) return;
    for (uint64_t i = by->start[row]; i < by->start[row + 1]; i++) {
        const fg_hdi_entry *e = &r->test->entry[by->at[i]];
        r->wanted[e->col] = (double)e->value >= r->relevant;
    }
    for (uint64_t i = 0; row < r->rated->n_row && i < had->start[row + 1] - had->start[row]; i++) {
        r->wanted[r->rated->entry[had->at[had->start[row] + i]].col] = 0;
    }
    for (uint64_t i = by->start[row]; i < by->start[row + 1]; i++) {
        n_wanted += r->wanted[r->test->entry[by->at[i]].col];
    }
    const uint32_t n = n_wanted == 0 ? 0 : list_of(r->m, row, r->rated, r->omit, r->top, r->list);
    for (uint32_t i = 0; i < n; i++) {
        const double hit = r->wanted[r->list[i].col];
        hits += hit;
        gain += hit / log2(i + 2.0);
    }
    for (uint32_t i = 0; i < r->top && i < n_wanted; i++) most += 1.0 / log2(i + 2.0);
    for (uint64_t i = by->start[row]; i < by->start[row + 1]; i++) {
        r->wanted[r->test->entry[by->at[i]].col] = 0;
    }
    if (n_wanted == 0) return;
    r->sum.n_user++;
    r->sum.precision += hits / r->top;
    r->sum.recall += hits / (double)n_wanted;
    r->sum.ndcg += gain / most;
}

fg_status fg_factor_rank(const fg_factor_model *m, fg_hdi *rated, fg_hdi *test, uint32_t row,
                         uint32_t top, double relevant, fg_ranking *out, fg_err *err)
{
    ranking r = {.m = m, .rated = rated, .test = test, .top = top, .relevant = relevant};
    *out = (fg_ranking){0};
    FG_TRY(fg_hdi_make_index(rated, err));
    FG_TRY(fg_hdi_make_index(test, err));
    const size_t n = omit_size(m, rated) + test->n_col;
    r.omit = fg_mem_zalloc(n);
    r.wanted = fg_mem_zalloc(n);
    r.list = fg_mem_zalloc_array((size_t)top + 1, sizeof *r.list);
    if (r.omit == NULL || r.wanted == NULL || r.list == NULL) {
        fg_mem_free(r.omit);
        fg_mem_free(r.wanted);
        fg_mem_free(r.list);
        return fg_fail_nomem(err, "lists of items");
    }
    for (uint32_t u = 0; u < test->n_row; u++) {
        if (row == UINT32_MAX || u == row) rank_user(&r, u);
    }
    const double users = r.sum.n_user > 0 ? (double)r.sum.n_user : 1.0;
    *out = (fg_ranking){r.sum.n_user, r.sum.precision / users, r.sum.recall / users,
                        r.sum.ndcg / users};
    fg_mem_free(r.omit);
    fg_mem_free(r.wanted);
    fg_mem_free(r.list);
    return FG_OK;
}
