/* SPDX-License-Identifier: MIT */
#include "src/text/ngram.h"

#include <string.h>

#include "src/base/mem.h"

enum { LEAST = 1024 };

static uint64_t none; /* where a search begins that cannot find */

void fg_ngram_fini(fg_ngram *x)
{
    fg_mem_free(x->head);
    fg_mem_free(x->next);
    *x = (fg_ngram){0};
}

void fg_ngram_clear(fg_ngram *x)
{
    if (x->head != NULL) memset(x->head, 0, x->n_head * sizeof *x->head);
    x->n = 0;
}

static uint64_t *slot(fg_ngram *x, const uint32_t *last)
{
    const uint64_t a = ((uint64_t)last[0] << 32 | last[1]) * 0x9e3779b97f4a7c15u;
    const uint64_t b = (a ^ (a >> 29) ^ last[2]) * 0xbf58476d1ce4e5b9u;
    return &x->head[(b ^ (b >> 32)) & (x->n_head - 1)];
}

static void link_in(fg_ngram *x, const uint32_t *ids, size_t n)
{
    uint64_t *h = slot(x, ids + n - FG_NGRAM);
    x->next[n] = *h;
    *h = n;
}

/* Chains stay short: as many heads as positions, at least. */
static bool make_room(fg_ngram *x, const uint32_t *ids, size_t n)
{
    void *next = x->next;
    const bool ok = fg_mem_grow(&next, &x->cap, n + 1, sizeof *x->next);
    x->next = next;
    if (!ok) return false;
    for (; x->n <= n; x->n++) x->next[x->n] = UINT64_MAX;
    if (x->n_head >= n) return true;
    size_t n_head = x->n_head < LEAST ? LEAST : x->n_head;
    while (n_head < n) n_head *= 2;
    uint64_t *head = fg_mem_zalloc_array(n_head, sizeof *head);
    if (head == NULL) return false;
    fg_mem_free(x->head);
    x->head = head;
    x->n_head = n_head;
    for (size_t p = FG_NGRAM; p < n; p++) {
        if (x->next[p] != UINT64_MAX) link_in(x, ids, p);
    }
    return true;
}

bool fg_ngram_add(fg_ngram *x, const uint32_t *ids, size_t n)
{
    if (n < FG_NGRAM) return true;
    if (!make_room(x, ids, n)) return false;
    link_in(x, ids, n);
    return true;
}

uint64_t *fg_ngram_find(fg_ngram *x, const uint32_t *ids, size_t n)
{
    if (n < FG_NGRAM || x->head == NULL) return &none;
    return slot(x, ids + n - FG_NGRAM);
}

size_t fg_ngram_match(const uint32_t *ids, uint64_t p, size_t n, size_t most)
{
    size_t same = 0;
    while (same < most && same < p && ids[p - 1 - same] == ids[n - 1 - same]) same++;
    return same;
}
