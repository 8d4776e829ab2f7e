/* SPDX-License-Identifier: MIT */
#include "src/text/repeat.h"

#include <string.h>

#include "src/base/mem.h"

enum { MOST_TRIES = 1024 }; /* places looked at for one id */

void fg_repeat_fini(fg_repeat *r)
{
    fg_ngram_fini(&r->grams);
    fg_mem_free(r->used);
    *r = (fg_repeat){0};
}

void fg_repeat_clear(fg_repeat *r)
{
    fg_ngram_clear(&r->grams);
    r->n = r->next = 0;
}

bool fg_repeat_part(fg_repeat *r, const uint32_t *ids, size_t n)
{
    void *used = r->used;
    const bool ok = fg_mem_grow(&used, &r->cap, n / 64 + 1, sizeof *r->used);
    r->used = used;
    if (!ok) return false;
    const uint64_t from = r->n == 0 ? 0 : r->n / 64 + 1;
    for (uint64_t w = from; w <= n / 64; w++) r->used[w] = 0;
    for (uint64_t p = r->n < FG_NGRAM ? FG_NGRAM : r->n; p < n; p++) {
        if (!fg_ngram_add(&r->grams, ids, p)) return false;
    }
    r->n = n;
    r->next = 0;
    return true;
}

static bool is_free(const fg_repeat *r, uint64_t p)
{
    return (r->used[p / 64] >> (p % 64) & 1) == 0;
}

static bool use(fg_repeat *r, uint64_t p)
{
    r->used[p / 64] |= (uint64_t)1 << (p % 64);
    r->next = p + 1;
    return true;
}

bool fg_repeat_copies(fg_repeat *r, const uint32_t *ids, size_t n, uint32_t id)
{
    const uint64_t next = r->next;
    if (next > 0 && next < r->n && ids[next] == id && is_free(r, next)) return use(r, next);
    r->next = 0;
    uint64_t *link = fg_ngram_find(&r->grams, ids, n);
    for (int i = 0; *link != 0 && i < MOST_TRIES;) {
        const uint64_t p = *link;
        if (!is_free(r, p)) {
            *link = r->grams.next[p];
            continue;
        }
        if (ids[p] == id && fg_ngram_match(ids, p, n, FG_NGRAM) == FG_NGRAM) return use(r, p);
        link = &r->grams.next[p];
        i++;
    }
    return false;
}
