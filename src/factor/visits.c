/* SPDX-License-Identifier: MIT */
#include "src/factor/visits.h"

#include <math.h>
#include <stdlib.h>
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

/* Groups are made in the memory of the entries: those not read yet stand at its end, groups grow
 * from its beginning, and eight entries are as long as a group. */
typedef struct grouping {
    fg_visits *g;
    uint32_t *row_at, *col_at; /* number of the group that has the row, the column */
    uint32_t now;              /* the group being filled; from 1 */
    uint32_t used;
    uint64_t left; /* entries not read yet */
    fg_hdi_entry waiting[WAITING];
    size_t n_waiting, most_waiting;
} grouping;

_Static_assert(sizeof(fg_factor_group) == FG_FACTOR_LANES * sizeof(fg_hdi_entry), "one for eight");

static fg_hdi_entry *unread(const grouping *p)
{
    return (fg_hdi_entry *)(void *)(p->g->group + p->g->cap) - p->left;
}

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

static void clear_group(fg_factor_group *to)
{
    memset(to, 0xff, sizeof *to);
    memset(to->value, 0, sizeof to->value);
}

/* Memory of `cap` groups with the groups at its beginning and `left` entries, which stand at
 * `from`, at its end. */
static fg_status move_to(fg_visits *g, uint64_t cap, const fg_hdi_entry *from, uint64_t left,
                         fg_err *err)
{
    uint64_t bytes;
    fg_factor_group *to = NULL;
    if (fg_mul_u64(cap, sizeof *to, &bytes)) to = fg_mem_alloc((size_t)bytes);
    if (to == NULL) return fg_fail_nomem(err, "groups of entries");
    if (g->n_group > 0) memcpy(to, g->group, (size_t)g->n_group * sizeof *to);
    memcpy((fg_hdi_entry *)(void *)(to + cap) - left, from, (size_t)left * sizeof *from);
    fg_mem_free(g->group);
    g->group = to;
    g->cap = (size_t)cap;
    return FG_OK;
}

static fg_status begin_group(grouping *p, fg_err *err)
{
    fg_visits *g = p->g;
    if ((const void *)(g->group + g->n_group + 1) > (const void *)unread(p)) {
        const uint64_t more = g->cap + g->cap / 4 + 64;
        FG_TRY(move_to(g, more, unread(p), p->left, err));
    }
    clear_group(&g->group[g->n_group]);
    p->used = 0;
    if (++p->now == 0) return fg_fail(err, FG_ELIMIT, "more than 2^32 groups, expected less");
    return FG_OK;
}

/* The next n entries: first those that wait, in their order, then new ones. */
static fg_status group_block(grouping *p, uint64_t n, fg_err *err)
{
    const uint64_t end = p->left - n;
    while (p->left > end || p->n_waiting > 0) {
        FG_TRY(begin_group(p, err));
        size_t left = 0;
        for (size_t i = 0; i < p->n_waiting; i++) {
            if (p->used == FG_FACTOR_LANES || !take(p, &p->waiting[i])) {
                p->waiting[left++] = p->waiting[i];
            }
        }
        p->n_waiting = left;
        while (p->left > end && p->used < FG_FACTOR_LANES) {
            const fg_hdi_entry *e = unread(p);
            if (!take(p, e)) {
                if (p->n_waiting == p->most_waiting) break;
                p->waiting[p->n_waiting++] = *e;
            }
            p->left--;
        }
        p->g->n_group++;
    }
    return FG_OK;
}

static int compare_entries(const void *pa, const void *pb)
{
    const fg_hdi_entry *a = pa, *b = pb;
    if (a->row != b->row) return a->row < b->row ? -1 : 1;
    if (a->col != b->col) return a->col < b->col ? -1 : 1;
    return (a->value > b->value) - (a->value < b->value);
}

/* Entries by block, in place, each block sorted and then shuffled, so that the order in which they
 * came does not matter; start: [blocks + 1]. */
static void deal(fg_hdi_entry *e, uint64_t n, uint32_t n_strip, uint64_t seed, uint64_t *start)
{
    const uint32_t n_block = n_strip * n_strip;
    uint64_t next[FG_VISITS_MAX * FG_VISITS_MAX];
    memset(start, 0, (n_block + 1) * sizeof *start);
    for (uint64_t i = 0; i < n; i++) start[1 + block_of(&e[i], seed, n_strip)]++;
    for (uint32_t b = 0; b < n_block; b++) start[b + 1] += start[b];
    memcpy(next, start, n_block * sizeof *next);
    for (uint32_t b = 0; b < n_block; b++) {
        while (next[b] < start[b + 1]) {
            const uint32_t to = block_of(&e[next[b]], seed, n_strip);
            const fg_hdi_entry swap = e[next[to]];
            e[next[to]] = e[next[b]];
            e[next[b]] = swap;
            next[to]++;
        }
    }
    fg_rng rng;
    fg_rng_init(&rng, seed);
    for (uint32_t b = 0; b < n_block; b++) {
        fg_hdi_entry *of = e + start[b];
        uint64_t left = start[b + 1] - start[b];
        qsort(of, (size_t)left, sizeof *of, compare_entries);
        for (; left > 1; left--) {
            const uint64_t at = (uint64_t)(fg_rng_f64(&rng) * (double)left);
            const fg_hdi_entry swap = of[left - 1];
            of[left - 1] = of[at];
            of[at] = swap;
        }
    }
}

/* Groups of the entries at the end of g's memory. */
static fg_status group_all(fg_visits *g, const fg_hdi *dim, uint64_t n, uint64_t seed,
                           bool file_order, fg_err *err)
{
    uint64_t start[FG_VISITS_MAX * FG_VISITS_MAX + 1] = {0, n};
    grouping p = {.g = g, .left = n, .most_waiting = file_order ? 0 : WAITING};
    p.row_at = fg_mem_zalloc_array((size_t)dim->n_row + 1, sizeof *p.row_at);
    p.col_at = fg_mem_zalloc_array((size_t)dim->n_col + 1, sizeof *p.col_at);
    fg_status st = FG_OK;
    if (p.row_at == NULL || p.col_at == NULL) st = fg_fail_nomem(err, "order of entries");
    if (st == FG_OK && !file_order) deal(unread(&p), n, g->n_strip, seed, start);
    for (uint32_t b = 0; st == FG_OK && b < g->n_strip * g->n_strip; b++) {
        g->start[b] = g->n_group;
        st = group_block(&p, start[b + 1] - start[b], err);
        g->start[b + 1] = g->n_group;
    }
    fg_mem_free(p.row_at);
    fg_mem_free(p.col_at);
    if (st != FG_OK) fg_visits_fini(g);
    return st;
}

/* Room for entries and for groups that are not full; mostly one in some dozens. */
static uint64_t groups_for(uint64_t n)
{
    return n / FG_FACTOR_LANES + n / 128 + 64;
}

fg_status fg_visits_make(fg_visits *g, const fg_hdi *h, uint64_t seed, bool file_order, fg_err *err)
{
    *g = (fg_visits){.n_strip = file_order ? 1 : count_strips(h)};
    FG_TRY(move_to(g, groups_for(h->n), h->entry, h->n, err));
    return group_all(g, h, h->n, seed, file_order, err);
}

fg_status fg_visits_take(fg_visits *g, fg_hdi *h, uint64_t seed, bool file_order, fg_err *err)
{
    const uint64_t n = h->n, cap = h->cap / FG_FACTOR_LANES;
    if (cap < groups_for(n)) {
        const fg_status st = fg_visits_make(g, h, seed, file_order, err);
        if (st == FG_OK) fg_hdi_fini(h);
        return st;
    }
    *g = (fg_visits){.n_strip = file_order ? 1 : count_strips(h), .cap = (size_t)cap};
    g->group = (fg_factor_group *)(void *)h->entry;
    h->entry = NULL;
    h->n = 0;
    memmove((fg_hdi_entry *)(void *)(g->group + cap) - n, g->group, (size_t)n * sizeof *h->entry);
    const fg_status st = group_all(g, h, n, seed, file_order, err);
    fg_hdi_fini(h);
    return st;
}

fg_status fg_visits_list(fg_visits *g, const fg_hdi *h, fg_err *err)
{
    *g = (fg_visits){.n_strip = 1, .cap = (size_t)(h->n / FG_FACTOR_LANES) + 1};
    g->group = fg_mem_zalloc_array(g->cap, sizeof *g->group);
    if (g->group == NULL) return fg_fail_nomem(err, "groups of entries");
    for (uint64_t i = 0; i < h->n; i++) {
        const size_t lane = i % FG_FACTOR_LANES;
        fg_factor_group *to = &g->group[i / FG_FACTOR_LANES];
        if (lane == 0) clear_group(to);
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
