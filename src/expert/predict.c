/* SPDX-License-Identifier: MIT
 *
 * The baselines.  Everything is a function of the observed routing, in integers.
 */
#include "src/expert/predict.h"

#include <assert.h>
#include <string.h>

#include "src/base/mem.h"

enum { DECAY_TOKENS = 512 }; /* FREQUENCY: counts of a layer halve after so many */

struct fg_predictor {
    fg_predict_opts o;
    bool on;
    uint32_t *count;    /* [n_layer][n_expert] FREQUENCY */
    uint64_t *last;     /* [n_layer][n_expert] PREVIOUS: number of the last use, 0: none */
    uint64_t *n_seen;   /* [n_layer] tokens */
    uint64_t n_request; /* uses so far */
    bool *used;         /* [n_expert] of the layer at hand */
};

static const char *const kind_name[FG_PREDICT_COUNT] = {[FG_PREDICT_NONE] = "none",
                                                        [FG_PREDICT_FREQUENCY] = "frequency",
                                                        [FG_PREDICT_PREVIOUS] = "previous",
                                                        [FG_PREDICT_ROUTER] = "router"};

bool fg_predict_parse(const char *text, fg_predict *out)
{
    for (int i = 0; i < FG_PREDICT_COUNT; i++) {
        if (strcmp(text, kind_name[i]) != 0) continue;
        *out = (fg_predict)i;
        return true;
    }
    return false;
}

const char *fg_predict_name(fg_predict kind)
{
    return kind_name[kind];
}

fg_status fg_predictor_create(fg_predictor **out, const fg_predict_opts *o, fg_err *err)
{
    *out = NULL;
    if (o->ahead > FG_PREDICT_AHEAD) {
        return fg_fail(err, FG_EINVAL, "prediction: %u layers ahead, expected 1 to %d", o->ahead,
                       FG_PREDICT_AHEAD);
    }
    fg_predictor *p = fg_mem_zalloc(sizeof *p);
    if (p == NULL) return fg_fail_nomem(err, "prediction");
    p->o = *o;
    if (p->o.ahead == 0) p->o.ahead = FG_PREDICT_DEFAULT_AHEAD;
    p->on = true;
    const size_t n = (size_t)o->n_layer * o->n_expert;
    p->count = fg_mem_zalloc_array(n, sizeof *p->count);
    p->last = fg_mem_zalloc_array(n, sizeof *p->last);
    p->n_seen = fg_mem_zalloc_array(o->n_layer, sizeof *p->n_seen);
    p->used = fg_mem_zalloc_array(o->n_expert, sizeof *p->used);
    if (p->count == NULL || p->last == NULL || p->n_seen == NULL || p->used == NULL) {
        fg_predictor_destroy(&p);
        return fg_fail_nomem(err, "prediction");
    }
    *out = p;
    return FG_OK;
}

void fg_predictor_destroy(fg_predictor **p)
{
    if (*p == NULL) return;
    fg_mem_free((*p)->count);
    fg_mem_free((*p)->last);
    fg_mem_free((*p)->n_seen);
    fg_mem_free((*p)->used);
    fg_mem_free(*p);
    *p = NULL;
}

void fg_predictor_set_on(fg_predictor *p, bool on)
{
    p->on = on;
}

bool fg_predictor_is_on(const fg_predictor *p)
{
    return p->on;
}

/* ---- ranking ---- */

/* What an expert is ranked by; 0: not at all. */
static uint64_t score(const fg_predictor *p, size_t i)
{
    if (p->o.kind == FG_PREDICT_FREQUENCY) return p->count[i];
    return p->o.kind == FG_PREDICT_PREVIOUS ? p->last[i] : 0;
}

uint32_t fg_predictor_rank(const fg_predictor *p, uint32_t layer, uint32_t *ids, uint32_t most)
{
    const size_t row = (size_t)layer * p->o.n_expert;
    uint32_t n = 0;
    for (uint32_t e = 0; e < p->o.n_expert; e++) { /* insertion; ties go to the lower expert */
        const uint64_t s = score(p, row + e);
        if (s == 0) continue;
        uint32_t at = n;
        while (at > 0 && score(p, row + ids[at - 1]) < s) at--;
        if (at >= most) continue;
        if (n < most) n++;
        memmove(ids + at + 1, ids + at, (n - 1 - at) * sizeof *ids);
        ids[at] = e;
    }
    return n;
}

void fg_predictor_observe(fg_predictor *p, uint32_t layer, const uint32_t *sel, uint32_t n_tok)
{
    const size_t row = (size_t)layer * p->o.n_expert;
    const uint32_t n_used = p->o.n_used;
    for (uint32_t t = 0; t < n_tok; t++, sel += n_used) {
        for (uint32_t i = 0; i < n_used; i++) p->count[row + sel[i]]++;
        /* the best of a token is the latest, so that it ranks first */
        for (uint32_t i = n_used; i-- > 0;) p->last[row + sel[i]] = ++p->n_request;
        if (++p->n_seen[layer] % DECAY_TOKENS != 0) continue;
        for (uint32_t e = 0; e < p->o.n_expert; e++) p->count[row + e] /= 2;
    }
}

/* ---- hints ---- */

static bool used_all(fg_predictor *p, const uint32_t *sel, uint32_t n_tok)
{
    uint32_t n = 0;
    memset(p->used, 0, p->o.n_expert * sizeof *p->used);
    for (uint64_t i = 0; i < (uint64_t)n_tok * p->o.n_used; i++) {
        n += !p->used[sel[i]];
        p->used[sel[i]] = true;
    }
    return n == p->o.n_expert;
}

static uint32_t hint_scan(const fg_predictor *p, fg_cache *c, uint32_t layer, fg_cache_load *loads)
{
    uint32_t n = 0;
    for (uint32_t e = 0; e < p->o.n_expert && n < FG_CACHE_WAVE; e++) {
        if (fg_cache_prefetch(c, layer, e, &loads[n])) n++;
    }
    return n;
}

static uint32_t hint_token(const fg_predictor *p, fg_cache *c, uint32_t layer,
                           const fg_guess *guess, fg_cache_load *loads)
{
    uint32_t n = 0, most = p->o.n_used < FG_PREDICT_WIDTH ? p->o.n_used : FG_PREDICT_WIDTH;
    for (uint32_t d = 1; d <= p->o.ahead && d < p->o.n_layer; d++) {
        uint32_t ids[FG_PREDICT_WIDTH], k = most;
        const uint32_t to = (layer + d) % p->o.n_layer;
        if (p->o.kind != FG_PREDICT_ROUTER) {
            k = fg_predictor_rank(p, to, ids, most);
        } else if (guess != NULL && d <= guess->n_ahead) {
            memcpy(ids, guess->id[d - 1], most * sizeof *ids);
        } else {
            break;
        }
        for (uint32_t i = 0; i < k; i++) {
            if (fg_cache_prefetch(c, to, ids[i], &loads[n])) n++;
        }
    }
    return n;
}

uint32_t fg_predictor_hints(fg_predictor *p, fg_cache *c, uint32_t layer, const uint32_t *sel,
                            uint32_t n_tok, const fg_guess *guess, fg_cache_load *loads)
{
    assert(layer < p->o.n_layer && n_tok >= 1);
    fg_predictor_observe(p, layer, sel, n_tok);
    if (n_tok > 1) {
        const bool more = layer + 1 < p->o.n_layer;
        return more && used_all(p, sel, n_tok) ? hint_scan(p, c, layer + 1, loads) : 0;
    }
    if (!p->on || p->o.kind == FG_PREDICT_NONE) return 0;
    return hint_token(p, c, layer, guess, loads);
}
