/* SPDX-License-Identifier: MIT */
#include "src/expert/hot.h"

#include <math.h>

void fg_hot_saw(fg_hot *h, uint32_t layer, const uint32_t *n_row, uint32_t n_tok)
{
    const float weight = n_tok > FG_HOT_WINDOW ? (float)FG_HOT_WINDOW / (float)n_tok : 1.0f;
    fg_hot_expert *x = h->expert + (size_t)layer * h->n_expert;
    for (uint32_t e = 0; e < h->n_expert; e++) x[e].use += weight * (float)n_row[e];
}

void fg_hot_fade(fg_hot *h, uint32_t n_tok)
{
    h->n_tok += n_tok;
    if (h->n_tok < FG_HOT_WINDOW) return;
    h->n_tok = 0;
    for (size_t i = 0; i < h->n; i++) h->expert[i].use *= 0.5f;
}

size_t fg_hot_coldest(const fg_hot *h)
{
    size_t best = h->n;
    for (size_t i = 0; i < h->n; i++) {
        const fg_hot_expert *x = &h->expert[i];
        if (x->place != FG_HOT_CARD) continue;
        const bool less = best == h->n || x->use < h->expert[best].use;
        const bool tie = !less && x->use <= h->expert[best].use;
        if (less || (tie && i % h->n_expert >= best % h->n_expert)) best = i;
    }
    return best;
}

bool fg_hot_choose(const fg_hot *h, float margin, size_t *in, size_t *out)
{
    *in = h->n;
    *out = fg_hot_coldest(h);
    if (*out == h->n) return false;
    const fg_hot_expert *cold = &h->expert[*out];
    for (size_t i = 0; i < h->n; i++) { /* ties: the first */
        const fg_hot_expert *x = &h->expert[i];
        if (x->place != FG_HOT_HOST || x->bytes > cold->bytes) continue;
        if (*in == h->n || x->use > h->expert[*in].use) *in = i;
    }
    if (*in == h->n) return false;
    const float hot = h->expert[*in].use;
    return margin < 0.0f || hot - cold->use > margin * sqrtf(hot + cold->use);
}
