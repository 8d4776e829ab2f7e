/* SPDX-License-Identifier: MIT */
#include "src/factor/visits.h"

#include <math.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/rng.h"

enum {
    STRIP_KEYS = 16,      /* rows and columns of a strip at least, so that groups fill */
    BLOCK_ENTRIES = 4096, /* of a block, if there are enough */
    WAITING = 64,         /* entries put off since their row or column was taken */
};

static uint32_t count_strips(const fg_hdi *h)
{
    const uint32_t keys = h->n_row < h->n_col ? h->n_row : h->n_col;
    uint32_t n = (uint32_t)fmin(FG_VISITS_MAX, sqrt((double)h->n / BLOCK_ENTRIES));
    if (n > keys / STRIP_KEYS) n = keys / STRIP_KEYS;
    return n < 1 ? 1 : n;
}

/* Dealt, not cut: what is popular often stands together. */
static uint32_t strip_of(uint32_t key, uint64_t seed, uint32_t n_strip)
{
    uint64_t z = (key + seed) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 31)) * 0xbf58476d1ce4e5b9u;
    return (uint32_t)((z >> 32) * n_strip >> 32);
}

static uint32_t block_of(const fg_hdi_entry *e, uint64_t seed, uint32_t n)
{
    const uint32_t r = strip_of(e->row, seed, n), c = strip_of(e->col, seed + 1, n);
    return (c + n - r) % n * n + r;
}

typedef struct grouping {
    fg_visits *g;
    uint32_t *row_at, *col_at; /* number of the group that has the row, the column */
    uint32_t now;              /* the group being filled; from 1 */
    uint32_t used;
    fg_hdi_entry waiting[WAITING];
    size_t n_waiting, most_waiting;
} grouping;

static bool take(grouping *p, const fg_hdi_entry *e)
{
    if (p->row_at[e->row] == p->now || p->col_at[e->col] == p->now) return false;
    fg_factor_group *g = &p->g->group[p->g->n_group];
    p->row_at[e->row] = p->col_at[e->col] = p->now;
    g->row[p->used] = e->row;
    g->col[p->used] = e->col;
    g->value[p->used] = e->value;
    p->used++;
    return true;
}

static fg_status begin_group(fg_visits *g, fg_err *err)
{
    if (!fg_mem_grow((void **)&g->group, &g->cap, g->n_group + 1, sizeof *g->group)) {
        return fg_fail_nomem(err, "groups of entries");
    }
    fg_factor_group *to = &g->group[g->n_group];
    memset(to, 0xff, sizeof *to);
    memset(to->value, 0, sizeof to->value);
    return FG_OK;
}

/* First those that wait, in their order, then new ones. */
static fg_status group_block(grouping *p, const fg_hdi_entry *e, uint64_t n, fg_err *err)
{
    uint64_t next = 0;
    while (next < n || p->n_waiting > 0) {
        FG_TRY(begin_group(p->g, err));
        p->used = 0;
        if (++p->now == 0) return fg_fail(err, FG_ELIMIT, "more than 2^32 groups, expected less");
        size_t left = 0;
        for (size_t i = 0; i < p->n_waiting; i++) {
            if (p->used == FG_FACTOR_LANES || !take(p, &p->waiting[i])) {
                p->waiting[left++] = p->waiting[i];
            }
        }
        p->n_waiting = left;
        while (next < n && p->used < FG_FACTOR_LANES) {
            if (!take(p, &e[next])) {
                if (p->n_waiting == p->most_waiting) break;
                p->waiting[p->n_waiting++] = e[next];
            }
            next++;
        }
        p->g->n_group++;
    }
    return FG_OK;
}

/* Entries by block, each block shuffled; start: [blocks + 1], of entries. */
static fg_status deal(const fg_hdi *h, uint32_t n_strip, uint64_t seed, fg_hdi_entry *to,
                      uint64_t *start)
{
    const uint32_t n_block = n_strip * n_strip;
    uint64_t next[FG_VISITS_MAX * FG_VISITS_MAX];
    memset(start, 0, (n_block + 1) * sizeof *start);
    for (uint64_t i = 0; i < h->n; i++) start[1 + block_of(&h->entry[i], seed, n_strip)]++;
    for (uint32_t b = 0; b < n_block; b++) start[b + 1] += start[b];
    memcpy(next, start, n_block * sizeof *next);
    for (uint64_t i = 0; i < h->n; i++) {
        to[next[block_of(&h->entry[i], seed, n_strip)]++] = h->entry[i];
    }
    fg_rng rng;
    fg_rng_init(&rng, seed);
    for (uint32_t b = 0; b < n_block; b++) {
        for (uint64_t n = start[b + 1] - start[b]; n > 1; n--) {
            fg_hdi_entry *e = to + start[b], swap = e[n - 1];
            const uint64_t at = (uint64_t)(fg_rng_f64(&rng) * (double)n);
            e[n - 1] = e[at];
            e[at] = swap;
        }
    }
    return FG_OK;
}

fg_status fg_visits_make(fg_visits *g, const fg_hdi *h, uint64_t seed, bool file_order, fg_err *err)
{
    uint64_t start[FG_VISITS_MAX * FG_VISITS_MAX + 1] = {0, h->n};
    grouping p = {.g = g, .most_waiting = file_order ? 0 : WAITING};
    *g = (fg_visits){.n_strip = file_order ? 1 : count_strips(h)};
    p.row_at = fg_mem_zalloc_array((size_t)h->n_row + 1, sizeof *p.row_at);
    p.col_at = fg_mem_zalloc_array((size_t)h->n_col + 1, sizeof *p.col_at);
    fg_hdi_entry *dealt = file_order ? NULL : fg_mem_zalloc_array((size_t)h->n + 1, sizeof *dealt);
    fg_status st = FG_OK;
    if (p.row_at == NULL || p.col_at == NULL || (dealt == NULL && !file_order)) {
        st = fg_fail_nomem(err, "order of entries");
    }
    if (st == FG_OK && !file_order) st = deal(h, g->n_strip, seed, dealt, start);
    const fg_hdi_entry *e = file_order ? h->entry : dealt;
    for (uint32_t b = 0; st == FG_OK && b < g->n_strip * g->n_strip; b++) {
        g->start[b] = g->n_group;
        st = group_block(&p, e + start[b], start[b + 1] - start[b], err);
        g->start[b + 1] = g->n_group;
    }
    fg_mem_free(p.row_at);
    fg_mem_free(p.col_at);
    fg_mem_free(dealt);
    if (st != FG_OK) fg_visits_fini(g);
    return st;
}

fg_status fg_visits_list(fg_visits *g, const fg_hdi *h, fg_err *err)
{
    *g = (fg_visits){.n_strip = 1};
    for (uint64_t i = 0; i < h->n; i++) {
        const size_t lane = i % FG_FACTOR_LANES;
        if (lane == 0 && begin_group(g, err) != FG_OK) {
            fg_visits_fini(g);
            return FG_ENOMEM;
        }
        fg_factor_group *to = &g->group[i / FG_FACTOR_LANES];
        to->row[lane] = h->entry[i].row;
        to->col[lane] = h->entry[i].col;
        to->value[lane] = h->entry[i].value;
        g->n_group = i / FG_FACTOR_LANES + 1;
    }
    g->start[1] = g->n_group;
    return FG_OK;
}

void fg_visits_fini(fg_visits *g)
{
    fg_mem_free(g->group);
    g->group = NULL;
    g->n_group = 0;
    g->cap = 0;
}
