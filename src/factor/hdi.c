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

fg_status fg_hdi_reserve(fg_hdi *h, uint64_t n, fg_err *err)
{
    if (n <= h->cap && h->entry != NULL) return FG_OK;
    fg_hdi_entry *to = NULL;
    uint64_t bytes;
    if (fg_mul_u64(n + 1, sizeof *to, &bytes)) to = fg_mem_alloc((size_t)bytes);
    if (to == NULL) return fg_fail_nomem(err, "entries");
    if (h->n > 0) memcpy(to, h->entry, (size_t)h->n * sizeof *to);
    fg_mem_free(h->entry);
    h->entry = to;
    h->cap = (size_t)n + 1;
    return FG_OK;
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

/* ---- repeats ---- */

enum { STRIPS = 16 }; /* indexed one after the other: an index of all takes most of the matrix */

typedef struct uniting {
    fg_hdi *h;
    fg_hdi_repeats how;
    uint64_t *start; /* [n_row + 1] entries of rows before each */
    uint64_t *at;    /* of the rows of a strip, in their order */
    uint64_t *seen;  /* [n_col] 1 + the last entry of it in this row */
    uint32_t *count;
    double *sum;
    uint8_t *keep; /* [n] */
} uniting;

/* Entries at[begin .. end) of a row, last first. */
static void mark_row(const uniting *u, const uint64_t *begin, const uint64_t *end)
{
    for (const uint64_t *i = end; i-- > begin;) {
        const uint32_t col = u->h->entry[*i].col;
        u->keep[*i] = u->seen[col] == 0;
        if (u->keep[*i] != 0) {
            u->seen[col] = *i + 1;
            u->count[col] = 0;
            u->sum[col] = 0.0;
        }
        u->count[col]++;
        u->sum[col] += (double)u->h->entry[*i].value;
    }
    for (const uint64_t *i = begin; i < end; i++) {
        fg_hdi_entry *e = &u->h->entry[*i];
        if (u->keep[*i] != 0 && u->how == FG_HDI_MEAN) {
            e->value = (float)(u->sum[e->col] / u->count[e->col]);
        }
        u->seen[e->col] = 0;
    }
}

/* Rows of about one strip of the entries, from `row` on; where the next begin. */
static uint32_t strip_end(const uniting *u, uint32_t row)
{
    const uint64_t end = u->start[row] + u->h->n / STRIPS + 1;
    do row++;
    while (row < u->h->n_row && u->start[row + 1] <= end);
    return row;
}

static fg_status mark_strip(uniting *u, uint32_t row, uint32_t end, fg_err *err)
{
    const fg_hdi *h = u->h;
    const uint64_t from = u->start[row], n = u->start[end] - from;
    u->at = fg_mem_alloc((size_t)(n + 1) * sizeof *u->at);
    if (u->at == NULL) return fg_fail_nomem(err, "repeated entries");
    for (uint64_t i = 0; i < h->n; i++) { /* start[r] runs to the end of r, and is put back */
        const uint32_t r = h->entry[i].row;
        if (r >= row && r < end) u->at[u->start[r]++ - from] = i;
    }
    for (uint32_t r = end; r > row; r--) u->start[r] = u->start[r - 1];
    u->start[row] = from;
    for (uint32_t r = row; r < end; r++) {
        mark_row(u, u->at + (u->start[r] - from), u->at + (u->start[r + 1] - from));
    }
    fg_mem_free(u->at);
    return FG_OK;
}

static fg_status mark_all(uniting *u, fg_err *err)
{
    const fg_hdi *h = u->h;
    for (uint64_t i = 0; i < h->n; i++) u->start[h->entry[i].row + 1]++;
    for (uint32_t r = 0; r < h->n_row; r++) u->start[r + 1] += u->start[r];
    for (uint32_t r = 0, end; r < h->n_row; r = end) {
        end = strip_end(u, r);
        FG_TRY(mark_strip(u, r, end, err));
    }
    return FG_OK;
}

static void drop_repeats(fg_hdi *h, const uint8_t *keep, uint64_t *n_gone)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < h->n; i++) {
        if (keep[i] != 0) h->entry[n++] = h->entry[i];
    }
    *n_gone = h->n - n;
    h->n = n;
    drop_index(h);
}

fg_status fg_hdi_unite(fg_hdi *h, fg_hdi_repeats how, uint64_t *n_gone, uint8_t *kept, fg_err *err)
{
    uniting u = {.h = h, .how = how};
    *n_gone = 0;
    u.start = fg_mem_zalloc_array((size_t)h->n_row + 2, sizeof *u.start);
    u.seen = fg_mem_zalloc_array((size_t)h->n_col + 1, sizeof *u.seen);
    u.count = fg_mem_zalloc_array((size_t)h->n_col + 1, sizeof *u.count);
    u.sum = fg_mem_zalloc_array((size_t)h->n_col + 1, sizeof *u.sum);
    u.keep = kept != NULL ? kept : fg_mem_zalloc((size_t)h->n + 1);
    fg_status st = FG_OK;
    if (u.start == NULL || u.seen == NULL || u.count == NULL || u.sum == NULL || u.keep == NULL) {
        st = fg_fail_nomem(err, "repeated entries");
    }
    if (st == FG_OK) st = mark_all(&u, err);
    if (st == FG_OK) drop_repeats(h, u.keep, n_gone);
    if (st == FG_OK && *n_gone > 0 && how == FG_HDI_REFUSE) {
        st = fg_fail(err, FG_EINVAL, "%" PRIu64 " repeated pairs, expected none", *n_gone);
    }
    fg_mem_free(u.start);
    fg_mem_free(u.seen);
    fg_mem_free(u.count);
    fg_mem_free(u.sum);
    if (kept == NULL) fg_mem_free(u.keep);
    return st;
}
