/* SPDX-License-Identifier: MIT
 *
 * Scores of the routing model, and beside them the routers' guesses where those were better.
 */
#include "src/expert/predict_factor.h"

#include "src/base/mem.h"
#include "src/expert/predict.h"
#include "src/factor/routing_train.h"

/* A hint that comes true saves at most the wait for one read, one that does not makes others wait
 * for a part of one: less likely than this it is not worth its read. */
static const float worth = 0.4f;

typedef struct factor {
    fg_routing_row *row;
    unsigned with;
    uint32_t n_expert, n_known; /* layers of the running token */
    bool single;                /* the running pass is of one token, which is known */
    float *score;               /* [n_expert] */
} factor;

static void factor_destroy(void *state)
{
    factor *f = state;
    if (f == NULL) return;
    fg_routing_row_destroy(&f->row);
    fg_mem_free(f->score);
    fg_mem_free(f);
}

static fg_status make_row(factor *f, const fg_predict_opts *o, fg_err *err)
{
    const fg_routing_shape of = {o->n_layer, o->n_expert, o->n_used,
                                 o->n_vocab == 0 ? 1 : o->n_vocab, 0};
    if (o->model != NULL) return fg_routing_row_create(&f->row, o->model, err);
    fg_routing_model *m;
    FG_TRY(fg_routing_create(&m, &of, 0, err));
    const fg_status st = fg_routing_row_create(&f->row, m, err);
    fg_routing_destroy(&m);
    return st;
}

static fg_status factor_create(void **state, const fg_predict_opts *o, fg_err *err)
{
    *state = NULL;
    factor *f = fg_mem_zalloc(sizeof *f);
    if (f == NULL) return fg_fail_nomem(err, "prediction");
    f->n_expert = o->n_expert;
    f->with = FG_ROUTING_ALL & ~o->without;
    f->score = fg_mem_zalloc_array(o->n_expert, sizeof *f->score);
    fg_status st = f->score == NULL ? fg_fail_nomem(err, "prediction") : make_row(f, o, err);
    if (st != FG_OK) {
        factor_destroy(f);
        return st;
    }
    *state = f;
    return FG_OK;
}

static void factor_begin(void *state, uint64_t who, uint64_t pos, const uint32_t *ids, uint32_t n)
{
    factor *f = state;
    fg_routing_row_begin(f->row, who, pos, ids, n);
    f->n_known = 0;
    f->single = n == 1;
}

static void factor_observe(void *state, uint32_t layer, const uint32_t *sel, uint32_t n_tok)
{
    factor *f = state;
    (void)n_tok;
    fg_routing_row_layer(f->row, layer, sel);
    f->n_known = layer + 1;
}

static void factor_forget(void *state, uint64_t who, uint64_t pos)
{
    factor *f = state;
    fg_routing_row_forget(f->row, who, pos);
    f->single = false;
}

static uint32_t factor_rank(const void *state, uint32_t layer, const uint32_t *guess, uint32_t *ids,
                            uint32_t most)
{
    const factor *f = state;
    (void)guess;
    if (!f->single || !fg_routing_row_score(f->row, layer, f->with, f->score)) return 0;
    const uint32_t n = most < f->n_expert ? most : f->n_expert;
    fg_routing_best(f->score, f->n_expert, ids, n);
    return n;
}

static uint32_t factor_likely(const void *state, uint32_t layer, const uint32_t *guess,
                              uint32_t *ids, uint32_t most)
{
    const factor *f = state;
    const fg_routing_model *m = fg_routing_row_model(f->row);
    const uint32_t n = factor_rank(state, layer, guess, ids, most);
    uint32_t k = 0;
    while (k < n && fg_routing_chance(m, f->score[ids[k]]) >= worth) k++;
    return k;
}

/* Whether the guess of a layer was the better one in training; without training it is. */
static bool router_wins(const factor *f, uint32_t layer, const uint32_t *guess)
{
    const fg_routing_model *m = fg_routing_row_model(f->row);
    const uint32_t d = layer - f->n_known; /* one less than the distance */
    return guess != NULL && d < FG_ROUTING_AHEAD && m->router_recall[d] >= m->recall[d];
}

static uint32_t take_guess(const factor *f, const uint32_t *guess, uint32_t *ids, uint32_t most)
{
    const uint32_t width = f->n_expert < FG_PREDICT_WIDTH ? f->n_expert : FG_PREDICT_WIDTH;
    uint32_t n = 0;
    for (; n < width && n < most && guess[n] < f->n_expert; n++) ids[n] = guess[n];
    return n;
}

static uint32_t both_rank(const void *state, uint32_t layer, const uint32_t *guess, uint32_t *ids,
                          uint32_t most)
{
    if (!router_wins(state, layer, guess)) return factor_rank(state, layer, guess, ids, most);
    return take_guess(state, guess, ids, most);
}

static uint32_t both_likely(const void *state, uint32_t layer, const uint32_t *guess, uint32_t *ids,
                            uint32_t most)
{
    if (!router_wins(state, layer, guess)) return factor_likely(state, layer, guess, ids, most);
    return take_guess(state, guess, ids, most);
}

const fg_routing_model *fg_factor_learned(void *state)
{
    factor *f = state;
    fg_routing_row_settle(f->row);
    f->single = false;
    return fg_routing_row_model(f->row);
}

const fg_predict_ops fg_predict_factor = {.create = factor_create,
                                          .observe = factor_observe,
                                          .rank = factor_rank,
                                          .destroy = factor_destroy,
                                          .begin = factor_begin,
                                          .forget = factor_forget,
                                          .likely = factor_likely};
const fg_predict_ops fg_predict_both = {.create = factor_create,
                                        .observe = factor_observe,
                                        .rank = both_rank,
                                        .destroy = factor_destroy,
                                        .begin = factor_begin,
                                        .forget = factor_forget,
                                        .likely = both_likely};
