/* SPDX-License-Identifier: MIT */
#include "src/factor/hdi.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "src/base/mem.h"

static void drop_index(fg_hdi *h)
{
    fg_hdi_index *const both[] = {&h->by_row, &h->by_col};
    for (size_t i = 0; i < 2; i++) {
        fg_mem_free(both[i]->start);
        fg_mem_free(both[i]->at);
        *both[i] = (fg_hdi_index){0};
    }
}

void fg_hdi_fini(fg_hdi *h)
{
    drop_index(h);
    fg_mem_free(h->entry);
    *h = (fg_hdi){0};
}

fg_status fg_hdi_add(fg_hdi *h, uint32_t row, uint32_t col, float value, fg_err *err)
{
    if (!isfinite(value)) {
        return fg_fail(err, FG_EINVAL, "entry %" PRIu64 ": %f, expected a finite value", h->n,
                       (double)value);
    }
    if (row == UINT32_MAX || col == UINT32_MAX) {
        return fg_fail(err, FG_ELIMIT, "entry %" PRIu64 ": row %u, column %u, expected less", h->n,
                       row, col);
    }
    if (h->by_row.start != NULL) drop_index(h);
    if (!fg_mem_grow((void **)&h->entry, &h->cap, h->n + 1, sizeof *h->entry)) {
        return fg_fail_nomem(err, "entries");
    }
    h->entry[h->n++] = (fg_hdi_entry){row, col, value};
    if (row >= h->n_row) h->n_row = row + 1;
    if (col >= h->n_col) h->n_col = col + 1;
    return FG_OK;
}

/* Counting sort, so that the order within a key is the matrix's. */
static fg_status make_one(const fg_hdi *h, bool rows, fg_hdi_index *out, fg_err *err)
{
    const size_t n_key = rows ? h->n_row : h->n_col;
    out->start = fg_mem_zalloc_array(n_key + 2, sizeof *out->start);
    out->at = fg_mem_zalloc_array(h->n + 1, sizeof *out->at);
    if (out->start == NULL || out->at == NULL) return fg_fail_nomem(err, "index of a matrix");
    uint64_t *next = out->start + 1; /* of key k at next[k]; behind its last entry at the end */
    for (uint64_t i = 0; i < h->n; i++) next[1 + (rows ? h->entry[i].row : h->entry[i].col)]++;
    for (size_t k = 1; k <= n_key; k++) next[k] += next[k - 1];
    for (uint64_t i = 0; i < h->n; i++) {
        out->at[next[rows ? h->entry[i].row : h->entry[i].col]++] = i;
    }
    return FG_OK;
}

fg_status fg_hdi_make_index(fg_hdi *h, fg_err *err)
{
    if (h->by_row.start != NULL) return FG_OK;
    fg_status st = make_one(h, true, &h->by_row, err);
    if (st == FG_OK) st = make_one(h, false, &h->by_col, err);
    if (st != FG_OK) drop_index(h);
    return st;
}

const char *fg_hdi_repeats_name(unsigned value)
{
    static const char *const name[] = {
#define FG_HDI_REPEATS_NAME(id, text) text,
        FG_HDI_REPEATS_MAP(FG_HDI_REPEATS_NAME)
#undef FG_HDI_REPEATS_NAME
    };
    return value < FG_HDI_REPEATS_COUNT ? name[value] : NULL;
}

/* Entries of a row, last first; seen[col] is 1 + the last entry of it in this row, of tag `row`. */
static void mark_row(fg_hdi *h, uint32_t row, fg_hdi_repeats how, uint64_t *seen, uint32_t *count,
                     double *sum, uint8_t *keep)
{
    const uint64_t begin = h->by_row.start[row], end = h->by_row.start[row + 1];
    for (uint64_t i = end; i-- > begin;) {
        const uint64_t at = h->by_row.at[i];
        const uint32_t col = h->entry[at].col;
        keep[at] = seen[col] == 0;
        if (keep[at]) {
            seen[col] = at + 1;
            count[col] = 0;
            sum[col] = 0.0;
        }
        count[col]++;
        sum[col] += (double)h->entry[at].value;
    }
    for (uint64_t i = begin; i < end; i++) {
        const uint64_t at = h->by_row.at[i];
        const uint32_t col = h->entry[at].col;
        if (keep[at] && how == FG_HDI_MEAN) h->entry[at].value = (float)(sum[col] / count[col]);
        seen[col] = 0;
    }
}

fg_status fg_hdi_unite(fg_hdi *h, fg_hdi_repeats how, uint64_t *n_gone, uint8_t *kept, fg_err *err)
{
    *n_gone = 0;
    FG_TRY(fg_hdi_make_index(h, err));
    uint64_t *seen = fg_mem_zalloc_array((size_t)h->n_col + 1, sizeof *seen);
    uint32_t *count = fg_mem_zalloc_array((size_t)h->n_col + 1, sizeof *count);
    double *sum = fg_mem_zalloc_array((size_t)h->n_col + 1, sizeof *sum);
    uint8_t *keep = kept != NULL ? kept : fg_mem_zalloc((size_t)h->n + 1);
    fg_status st = FG_OK;
    if (seen == NULL || count == NULL || sum == NULL || keep == NULL) {
        st = fg_fail_nomem(err, "repeated entries");
    }
    for (uint32_t r = 0; st == FG_OK && r < h->n_row; r++) {
        mark_row(h, r, how, seen, count, sum, keep);
    }
    if (st == FG_OK) {
        uint64_t n = 0;
        for (uint64_t i = 0; i < h->n; i++) {
            if (keep[i] != 0) h->entry[n++] = h->entry[i];
        }
        *n_gone = h->n - n;
        h->n = n;
        drop_index(h);
        if (*n_gone > 0 && how == FG_HDI_REFUSE) {
            st = fg_fail(err, FG_EINVAL, "%" PRIu64 " repeated pairs, expected none", *n_gone);
        }
    }
    fg_mem_free(seen);
    fg_mem_free(count);
    fg_mem_free(sum);
    if (kept == NULL) fg_mem_free(keep);
    return st;
}
