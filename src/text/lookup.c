/* SPDX-License-Identifier: MIT */
#include "src/text/lookup.h"

#include "src/base/mem.h"

#define BORDER UINT32_MAX /* no id: matches end there */

enum { MOST_TRIES = 64 };

static bool push(fg_lookup *x, uint32_t id)
{
    void *ids = x->ids;
    const bool ok = fg_mem_grow(&ids, &x->cap, x->n + 1, sizeof *x->ids);
    x->ids = ids;
    if (ok) x->ids[x->n++] = id;
    return ok;
}

bool fg_lookup_restart(fg_lookup *x)
{
    bool ok = true;
    fg_ngram_clear(&x->grams);
    x->n = x->n_beside;
    x->at = 0;
    x->match = 0;
    for (size_t p = FG_NGRAM; ok && p + 1 < x->n_beside; p++) {
        ok = fg_ngram_add(&x->grams, x->ids, p);
    }
    return ok;
}

bool fg_lookup_init(fg_lookup *x, const uint32_t *beside, size_t n)
{
    *x = (fg_lookup){0};
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) ok = push(x, beside[i]);
    if (n > 0) ok = ok && push(x, BORDER);
    x->n_beside = x->n;
    ok = ok && fg_lookup_restart(x);
    if (!ok) fg_lookup_fini(x);
    return ok;
}

void fg_lookup_fini(fg_lookup *x)
{
    fg_mem_free(x->ids);
    fg_ngram_fini(&x->grams);
    *x = (fg_lookup){0};
}

static void search(fg_lookup *x)
{
    x->at = 0;
    x->match = 0;
    const uint64_t *link = fg_ngram_find(&x->grams, x->ids, x->n);
    for (int i = 0; *link != 0 && i < MOST_TRIES; i++, link = &x->grams.next[*link]) {
        const size_t same = fg_ngram_match(x->ids, *link, x->n, FG_LOOKUP_LONGEST);
        if (same < FG_NGRAM || same <= x->match) continue;
        x->match = same;
        x->at = *link;
    }
}

size_t fg_lookup_next(const fg_lookup *x, uint32_t *out, size_t most)
{
    if (x->at == 0) return 0;
    const uint64_t period = x->n - x->at;
    size_t k = 0;
    for (; k < most && k < FG_LOOKUP_LONGEST; k++) {
        /* what overlaps its own end goes round */
        const uint32_t id = k < period ? x->ids[x->at + k] : out[k - period];
        if (id == BORDER) break;
        out[k] = id;
    }
    return k;
}

bool fg_lookup_add(fg_lookup *x, uint32_t id)
{
    const bool right = x->at > 0 && x->ids[x->at] == id;
    if (!push(x, id)) return false;
    /* the entry of the place before the id, now that it is known what follows there */
    if (x->n - x->n_beside > FG_NGRAM && !fg_ngram_add(&x->grams, x->ids, x->n - 1)) {
        fg_lookup_fini(x);
        return false;
    }
    if (right) {
        x->at++;
        x->match++;
    } else {
        search(x);
    }
    return true;
}
