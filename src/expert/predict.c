/* SPDX-License-Identifier: MIT
 *
 * The baselines.  Everything is a function of the observed routing, in integers.
 */
#include "src/expert/predict.h"

#include <assert.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/expert/predict_factor.h"

enum { DECAY_TOKENS = 512 }; /* FREQUENCY: counts of a layer halve after so many */

_Static_assert((int)FG_CACHE_WAVE <= (int)FG_PREDICT_HINTS,
               "hints of a scan fit as those of a token");

struct fg_predictor {
    fg_predict_opts o;
    const fg_predict_row *row;
    void *state;  /* of row->ops */
    void *before; /* the same, as of the beginning of the last pass; NULL: it never observes */
    bool on;
    bool *used; /* [n_expert] of the layer at hand */
};

/* ---- the list ---- */

static const fg_predict_row predictors[FG_PREDICT_COUNT] = {
#define PREDICT_ROW(id, name, stored, observes, asks, ops)                                         \
    [id] = {name, stored, observes, asks, &(ops)},
    FG_PREDICT_MAP(PREDICT_ROW)
#undef PREDICT_ROW
};
#define PREDICT_ONE(id, name, stored, observes, asks, ops) +1
_Static_assert(0 FG_PREDICT_MAP(PREDICT_ONE) == FG_PREDICT_COUNT, "a row a predictor");
#undef PREDICT_ONE

const fg_predict_row *fg_predict_get(fg_predict kind)
{
    return (uint32_t)kind < FG_PREDICT_COUNT ? &predictors[kind] : NULL;
}

const char *fg_predict_name(fg_predict predict)
{
    const fg_predict_row *row = fg_predict_get(predict);
    return row == NULL ? NULL : row->name;
}

/* ---- none ---- */

const fg_predict_ops fg_predict_none = {.create = NULL};

/* ---- frequency and previous: a score of each expert ---- */

typedef struct scores {
    uint32_t n_layer, n_expert, n_used;
    uint64_t *of;       /* [n_layer][n_expert] what an expert is ranked by; 0: not at all */
    uint64_t *n_seen;   /* [n_layer] tokens */
    uint64_t n_request; /* uses so far */
} scores;

static void scores_destroy(void *state)
{
    scores *s = state;
    if (s == NULL) return;
    fg_mem_free(s->of);
    fg_mem_free(s->n_seen);
    fg_mem_free(s);
}

static fg_status scores_create(void **state, const fg_predict_opts *o, fg_err *err)
{
    *state = NULL;
    scores *s = fg_mem_zalloc(sizeof *s);
    if (s == NULL) return fg_fail_nomem(err, "prediction");
    s->n_layer = o->n_layer;
    s->n_expert = o->n_expert;
    s->n_used = o->n_used;
    s->of = fg_mem_zalloc_array((size_t)o->n_layer * o->n_expert, sizeof *s->of);
    s->n_seen = fg_mem_zalloc_array(o->n_layer, sizeof *s->n_seen);
    if (s->of == NULL || s->n_seen == NULL) {
        scores_destroy(s);
        return fg_fail_nomem(err, "prediction");
    }
    *state = s;
    return FG_OK;
}

static void scores_copy(void *to, const void *from)
{
    scores *a = to;
    const scores *b = from;
    memcpy(a->of, b->of, (size_t)b->n_layer * b->n_expert * sizeof *b->of);
    memcpy(a->n_seen, b->n_seen, b->n_layer * sizeof *b->n_seen);
    a->n_request = b->n_request;
}

static uint32_t scores_rank(const void *state, uint32_t layer, const uint32_t *guess, uint32_t *ids,
                            uint32_t most)
{
    const scores *s = state;
    const uint64_t *of = s->of + (size_t)layer * s->n_expert;
    uint32_t n = 0;
    (void)guess;
    for (uint32_t e = 0; e < s->n_expert; e++) { /* insertion; ties go to the lower expert */
        if (of[e] == 0) continue;
        uint32_t at = n;
        while (at > 0 && of[ids[at - 1]] < of[e]) at--;
        if (at >= most) continue;
        if (n < most) n++;
        memmove(ids + at + 1, ids + at, (n - 1 - at) * sizeof *ids);
        ids[at] = e;
    }
    return n;
}

static void frequency_observe(void *state, uint32_t layer, const uint32_t *sel, uint32_t n_tok)
{
    scores *s = state;
    uint64_t *of = s->of + (size_t)layer * s->n_expert;
    for (uint32_t t = 0; t < n_tok; t++, sel += s->n_used) {
        for (uint32_t i = 0; i < s->n_used; i++) of[sel[i]]++;
        if (++s->n_seen[layer] % DECAY_TOKENS != 0) continue;
        for (uint32_t e = 0; e < s->n_expert; e++) of[e] /= 2;
    }
}

static void previous_observe(void *state, uint32_t layer, const uint32_t *sel, uint32_t n_tok)
{
    scores *s = state;
    uint64_t *of = s->of + (size_t)layer * s->n_expert;
    for (uint32_t t = 0; t < n_tok; t++, sel += s->n_used) {
        /* the best of a token is the latest, so that it ranks first */
        for (uint32_t i = s->n_used; i-- > 0;) of[sel[i]] = ++s->n_request;
    }
}

const fg_predict_ops fg_predict_frequency = {.create = scores_create,
                                             .observe = frequency_observe,
                                             .rank = scores_rank,
                                             .destroy = scores_destroy,
                                             .copy = scores_copy};
const fg_predict_ops fg_predict_previous = {.create = scores_create,
                                            .observe = previous_observe,
                                            .rank = scores_rank,
                                            .destroy = scores_destroy,
                                            .copy = scores_copy};

/* ---- router: the guesses as they are ---- */

typedef struct router {
    uint32_t width, n_expert; /* ids of a guess, those less than n_expert */
} router;

static fg_status router_create(void **state, const fg_predict_opts *o, fg_err *err)
{
    router *r = fg_mem_zalloc(sizeof *r);
    *state = r;
    if (r == NULL) return fg_fail_nomem(err, "prediction");
    r->n_expert = o->n_expert;
    r->width = o->n_expert < FG_PREDICT_WIDTH ? o->n_expert : FG_PREDICT_WIDTH;
    return FG_OK;
}

static uint32_t router_rank(const void *state, uint32_t layer, const uint32_t *guess, uint32_t *ids,
                            uint32_t most)
{
    const router *r = state;
    (void)layer;
    if (guess == NULL) return 0;
    uint32_t n = 0;
    for (; n < r->width && n < most && guess[n] < r->n_expert; n++) ids[n] = guess[n];
    return n;
}

static void router_destroy(void *state)
{
    fg_mem_free(state);
}

const fg_predict_ops fg_predict_router = {
    .create = router_create, .rank = router_rank, .destroy = router_destroy};

/* ---- any of them ---- */

fg_status fg_predictor_create(fg_predictor **out, const fg_predict_opts *o, fg_err *err)
{
    *out = NULL;
    const fg_predict_row *row = fg_predict_get(o->kind);
    if (row == NULL) {
        return fg_fail(err, FG_EINVAL, "prediction: predictor %u, expected less than %d",
                       (uint32_t)o->kind, FG_PREDICT_COUNT);
    }
    if (o->ahead > FG_PREDICT_AHEAD) {
        return fg_fail(err, FG_EINVAL, "prediction: %u layers ahead, expected 1 to %d", o->ahead,
                       FG_PREDICT_AHEAD);
    }
    fg_predictor *p = fg_mem_zalloc(sizeof *p);
    if (p == NULL) return fg_fail_nomem(err, "prediction");
    p->o = *o;
    if (p->o.ahead == 0) p->o.ahead = FG_PREDICT_DEFAULT_AHEAD;
    p->row = row;
    p->on = true;
    p->used = fg_mem_zalloc_array(o->n_expert, sizeof *p->used);
    fg_status st = p->used == NULL ? fg_fail_nomem(err, "prediction") : FG_OK;
    if (st == FG_OK && row->ops->create != NULL) st = row->ops->create(&p->state, &p->o, err);
    if (st == FG_OK && row->ops->copy != NULL) st = row->ops->create(&p->before, &p->o, err);
    p->o.model = NULL; /* was copied */
    if (st != FG_OK) {
        fg_predictor_destroy(&p);
        return st;
    }
    *out = p;
    return FG_OK;
}

void fg_predictor_destroy(fg_predictor **p)
{
    if (*p == NULL) return;
    if ((*p)->row->ops->destroy != NULL) {
        (*p)->row->ops->destroy((*p)->state);
        (*p)->row->ops->destroy((*p)->before);
    }
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

uint32_t fg_predictor_rank(const fg_predictor *p, uint32_t layer, const uint32_t *guess,
                           uint32_t *ids, uint32_t most)
{
    const fg_predict_row *row = p->row;
    if (row->ops->rank == NULL) return 0;
    return row->ops->rank(p->state, layer, row->asks_routers ? guess : NULL, ids, most);
}

void fg_predictor_observe(fg_predictor *p, uint32_t layer, const uint32_t *sel, uint32_t n_tok)
{
    if (!p->row->observes) return;
    if (layer == 0 && p->before != NULL) p->row->ops->copy(p->before, p->state); /* a pass begins */
    p->row->ops->observe(p->state, layer, sel, n_tok);
}

void fg_predictor_rewind(fg_predictor *p, const uint32_t *sel, uint64_t n_row, uint32_t n_kept)
{
    if (p->before == NULL) return;
    p->row->ops->copy(p->state, p->before);
    for (uint32_t l = 0; n_kept > 0 && l < p->o.n_layer; l++) {
        p->row->ops->observe(p->state, l, sel + l * n_row * p->o.n_used, n_kept);
    }
}

void fg_predictor_forget(fg_predictor *p, uint64_t who, uint64_t pos)
{
    if (p->row->ops->forget != NULL) p->row->ops->forget(p->state, who, pos);
}

const fg_routing_model *fg_predictor_learned(fg_predictor *p)
{
    return p->row->ops->begin == NULL ? NULL : fg_factor_learned(p->state);
}

/* ---- hints ---- */

/* What of a layer is worth reading. */
static uint32_t likely(const fg_predictor *p, uint32_t layer, const uint32_t *guess, uint32_t *ids)
{
    const fg_predict_row *row = p->row;
    const uint32_t most = p->o.n_used < FG_PREDICT_WIDTH ? p->o.n_used : FG_PREDICT_WIDTH;
    if (row->ops->likely == NULL) return fg_predictor_rank(p, layer, guess, ids, most);
    return row->ops->likely(p->state, layer, row->asks_routers ? guess : NULL, ids, most);
}

uint32_t fg_predictor_begin(fg_predictor *p, fg_cache *c, uint64_t who, uint64_t pos,
                            const uint32_t *ids, uint32_t n_tok, fg_cache_load *loads)
{
    uint32_t n = 0;
    if (p->row->ops->begin == NULL) return 0;
    p->row->ops->begin(p->state, who, pos, ids, ids == NULL ? 0 : n_tok);
    if (ids == NULL || n_tok != 1 || !p->on) return 0;
    for (uint32_t l = 0; l < p->o.ahead && l < p->o.n_layer; l++) {
        uint32_t best[FG_PREDICT_WIDTH];
        const uint32_t k = likely(p, l, NULL, best);
        for (uint32_t i = 0; i < k; i++) {
            if (fg_cache_prefetch(c, l, best[i], &loads[n])) n++;
        }
    }
    return n;
}

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

static uint32_t hint_token(const fg_predictor *p, fg_cache *c, uint32_t layer,
                           const fg_guess *guess, fg_cache_load *loads)
{
    const bool wraps = p->row->ops->begin == NULL;
    uint32_t n = 0;
    for (uint32_t d = 1; d <= p->o.ahead && d < p->o.n_layer; d++) {
        if (!wraps && layer + d >= p->o.n_layer) break;
        uint32_t ids[FG_PREDICT_WIDTH];
        const uint32_t to = (layer + d) % p->o.n_layer;
        const uint32_t *of_router = guess != NULL && d <= guess->n_ahead ? guess->id[d - 1] : NULL;
        const uint32_t k = likely(p, to, of_router, ids);
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
        return more && used_all(p, sel, n_tok) ? fg_cache_prefetch_scan(c, layer + 1, loads) : 0;
    }
    if (!p->on) return 0;
    return hint_token(p, c, layer, guess, loads);
}
