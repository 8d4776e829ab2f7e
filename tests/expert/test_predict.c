/* SPDX-License-Identifier: MIT
 *
 * Predictors of routing on sequences whose right answer is known.
 */
#include <string.h>

#include "src/expert/predict.h"
#include "tests/fg_test.h"

enum { N_LAYER = 5, N_EXPERT = 16, N_USED = 2 };

static fg_predictor *open_predictor(fg_predict kind, uint32_t ahead)
{
    const fg_predict_opts o = {
        .kind = kind, .n_layer = N_LAYER, .n_expert = N_EXPERT, .n_used = N_USED, .ahead = ahead};
    fg_predictor *p = NULL;
    fg_err err = {0};
    if (fg_predictor_create(&p, &o, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    return p;
}

static fg_cache *open_cache(uint32_t n_slot)
{
    const fg_cache_opts o = {.n_layer = N_LAYER,
                             .n_expert = N_EXPERT,
                             .n_used = N_USED,
                             .n_slot = n_slot,
                             .policy = FG_POLICY_LRU};
    fg_cache *c = NULL;
    fg_err err = {0};
    if (fg_cache_create(&c, &o, &err) != FG_OK) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return c;
}

static bool ranks(const fg_predictor *p, uint32_t layer, uint32_t n, const uint32_t *want)
{
    uint32_t ids[N_EXPERT];
    const uint32_t got = fg_predictor_rank(p, layer, NULL, ids, N_EXPERT);
    return got == n && (n == 0 || memcmp(ids, want, n * sizeof *ids) == 0);
}

static const uint32_t tokens[] = {3, 9, 3, 1, 3, 9, 5, 1}; /* 4 tokens; counts: 3 of 3; 2 of 1, 9 */

/* A pass of three tokens of which one is kept, against a predictor that saw that one only. */
FG_TEST(undone_rows_are_forgotten)
{
    static const fg_predict kinds[] = {FG_PREDICT_FREQUENCY, FG_PREDICT_PREVIOUS};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        fg_predictor *a = open_predictor(kinds[k], 1), *b = open_predictor(kinds[k], 1);
        uint32_t sel[N_LAYER][3][N_USED], want[N_EXPERT], got[N_EXPERT];
        for (uint32_t l = 0; l < N_LAYER; l++) {
            for (uint32_t t = 0; t < 3; t++) {
                sel[l][t][0] = (l + 5 * t) % N_EXPERT;
                sel[l][t][1] = (l + 5 * t + 1) % N_EXPERT;
            }
            fg_predictor_observe(a, l, tokens, 1);
            fg_predictor_observe(b, l, tokens, 1);
        }
        for (uint32_t l = 0; l < N_LAYER; l++) {
            fg_predictor_observe(a, l, sel[l][0], 3);
            fg_predictor_observe(b, l, sel[l][0], 1);
        }
        const uint32_t n = fg_predictor_rank(b, 2, NULL, want, N_EXPERT);
        CHECK(!ranks(a, 2, n, want)); /* negative control */
        fg_predictor_rewind(a, &sel[0][0][0], 3, 1);
        CHECK(ranks(a, 2, n, want));
        fg_predictor_rewind(a, NULL, 0, 0); /* all of it */
        CHECK(fg_predictor_rank(a, 2, NULL, got, N_EXPERT) == 2 && got[0] == tokens[0]);
        fg_predictor_destroy(&a);
        fg_predictor_destroy(&b);
    }
}

FG_TEST(ranking)
{
    fg_predictor *f = open_predictor(FG_PREDICT_FREQUENCY, 1),
                 *q = open_predictor(FG_PREDICT_PREVIOUS, 1),
                 *r = open_predictor(FG_PREDICT_ROUTER, 1);
    REQUIRE(f != NULL && q != NULL && r != NULL);
    CHECK(ranks(f, 2, 0, NULL) && ranks(q, 2, 0, NULL));
    fg_predictor_observe(f, 2, tokens, 4);
    fg_predictor_observe(q, 2, tokens, 4);
    fg_predictor_observe(r, 2, tokens, 4);
    CHECK(ranks(f, 2, 4, (const uint32_t[]){3, 1, 9, 5}));
    CHECK(ranks(q, 2, 4, (const uint32_t[]){5, 1, 3, 9})); /* the best of the last token first */
    CHECK(ranks(f, 1, 0, NULL) && ranks(q, 3, 0, NULL));   /* layers know nothing of each other */
    CHECK(ranks(r, 2, 0, NULL));
    const uint32_t guess[FG_PREDICT_WIDTH] = {8, 2, 0, 11};
    uint32_t four[N_EXPERT];
    CHECK_U64(fg_predictor_rank(r, 2, guess, four, N_EXPERT), FG_PREDICT_WIDTH);
    CHECK(memcmp(four, guess, sizeof guess) == 0);
    CHECK(fg_predictor_rank(q, 2, guess, four, 1) == 1 && four[0] == 5); /* who does not ask */
    uint32_t two[2];
    CHECK(fg_predictor_rank(f, 2, NULL, two, 2) == 2 && two[0] == 3 && two[1] == 1);
    /* what was frequent long ago is forgotten: 600 tokens of others against 512 of 7 and 8 */
    const uint32_t old[] = {7, 8}, young[] = {4, 6};
    for (int i = 0; i < 512; i++) fg_predictor_observe(f, 0, old, 1);
    for (int i = 0; i < 300; i++) fg_predictor_observe(f, 0, young, 1);
    CHECK(fg_predictor_rank(f, 0, NULL, two, 2) == 2 && two[0] == 4 && two[1] == 6);
    fg_predictor_destroy(&f);
    fg_predictor_destroy(&q);
    fg_predictor_destroy(&r);
    CHECK(f == NULL);
    fg_predictor_destroy(&f);
}

/* Hints of a pass of one token; the layer's experts are in and unpinned before. */
static uint32_t hints(fg_predictor *p, fg_cache *c, uint32_t layer, const fg_guess *g,
                      fg_cache_load *loads)
{
    uint32_t ids[] = {0, 1}, k;
    const uint32_t sel[] = {1, 0};
    const fg_cache_load *urgent;
    fg_cache_begin(c, layer, ids, 2);
    CHECK_U64(fg_cache_next(c, &urgent, &k), 2);
    const uint32_t n = fg_predictor_hints(p, c, layer, sel, 1, g, loads);
    fg_cache_end(c);
    return n;
}

FG_TEST(hints_of_the_router)
{
    fg_predictor *p = open_predictor(FG_PREDICT_ROUTER, 2);
    fg_cache *c = open_cache(40);
    REQUIRE(p != NULL && c != NULL);
    const fg_guess g = {.n_ahead = 3, .id = {{5, 6, 7, 8}, {9, 10, 11, 12}, {13, 14, 15, 0}}};
    fg_cache_load l[FG_PREDICT_HINTS];
    CHECK_U64(hints(p, c, 0, NULL, l), 0);
    CHECK_U64(hints(p, c, 0, &g, l), 4); /* n_used each, for 2 layers, the nearest first */
    CHECK(l[0].layer == 1 && l[0].expert == 5 && l[1].layer == 1 && l[1].expert == 6);
    CHECK(l[2].layer == 2 && l[2].expert == 9 && l[3].layer == 2 && l[3].expert == 10);
    CHECK_U64(hints(p, c, 0, &g, l), 0); /* on their way */
    const fg_guess last = {.n_ahead = 1, .id = {{5, 6, 7, 8}}};
    CHECK_U64(hints(p, c, 3, &last, l), 2);
    CHECK(l[0].layer == 4 && l[1].layer == 4);
    fg_predictor_set_on(p, false);
    CHECK(!fg_predictor_is_on(p));
    const fg_guess other = {.n_ahead = 1, .id = {{1, 2, 3, 4}}};
    CHECK_U64(hints(p, c, 1, &other, l), 0);
    fg_predictor_set_on(p, true);
    CHECK_U64(hints(p, c, 1, &other, l), 2);
    fg_cache_destroy(&c);
    fg_predictor_destroy(&p);
}

FG_TEST(hints_from_what_was)
{
    fg_predictor *p = open_predictor(FG_PREDICT_PREVIOUS, 2);
    fg_cache *c = open_cache(40);
    REQUIRE(p != NULL && c != NULL);
    fg_cache_load l[FG_PREDICT_HINTS];
    const uint32_t first[] = {7, 4}, second[] = {2, 9};
    fg_predictor_observe(p, 0, first, 1);
    fg_predictor_observe(p, 1, second, 1);
    CHECK_U64(hints(p, c, 4, NULL, l), 4); /* behind the last layer comes the next token's first */
    CHECK(l[0].layer == 0 && l[0].expert == 7 && l[1].layer == 0 && l[1].expert == 4);
    CHECK(l[2].layer == 1 && l[2].expert == 2 && l[3].layer == 1 && l[3].expert == 9);
    fg_cache_destroy(&c);
    fg_predictor_destroy(&p);
    p = open_predictor(FG_PREDICT_NONE, 2);
    c = open_cache(40);
    fg_predictor_observe(p, 0, first, 1);
    CHECK_U64(hints(p, c, 4, NULL, l), 0);
    fg_cache_destroy(&c);
    fg_predictor_destroy(&p);
}

FG_TEST(hints_of_a_prompt)
{
    fg_predictor *p = open_predictor(FG_PREDICT_NONE, 1);
    fg_cache *c = open_cache(12);
    REQUIRE(p != NULL && c != NULL);
    fg_cache_load l[FG_PREDICT_HINTS], got;
    uint32_t sel[2 * N_USED * N_EXPERT];
    for (uint32_t i = 0; i < N_EXPERT; i++) sel[i] = (i * 3) % N_EXPERT;
    CHECK(fg_cache_prefetch(c, 1, 1, &got));
    /* all experts were used: the first absent ones of the next layer, also with no predictor */
    CHECK_U64(fg_predictor_hints(p, c, 0, sel, N_EXPERT / N_USED, NULL, l), FG_CACHE_WAVE);
    CHECK(l[0].layer == 1 && l[0].expert == 0 && l[1].expert == 2 && l[3].expert == 4);
    sel[0] = sel[1]; /* all but one */
    CHECK_U64(fg_predictor_hints(p, c, 2, sel, N_EXPERT / N_USED, NULL, l), 0);
    for (uint32_t i = 0; i < N_EXPERT; i++) sel[i] = i;
    CHECK_U64(fg_predictor_hints(p, c, N_LAYER - 1, sel, N_EXPERT / N_USED, NULL, l), 0);
    fg_cache_destroy(&c);
    fg_predictor_destroy(&p);
}

/* Rows that lack a name or a function that they say they have, or have what another one has. */
static uint32_t n_bad_rows(const fg_predict_row *rows, uint32_t n)
{
    uint32_t n_bad = 0;
    for (uint32_t i = 0; i < n; i++) {
        const fg_predict_ops *ops = rows[i].ops;
        n_bad += rows[i].name == NULL || rows[i].observes != (ops->observe != NULL);
        n_bad += (ops->create != NULL) != (ops->destroy != NULL);
        n_bad += (ops->rank != NULL) != (rows[i].observes || rows[i].asks_routers);
        for (uint32_t k = 0; k < i; k++) {
            n_bad += strcmp(rows[i].name, rows[k].name) == 0;
            n_bad += rows[i].stored == rows[k].stored;
        }
    }
    return n_bad;
}

FG_TEST(list_of_predictors)
{
    fg_predict_row rows[FG_PREDICT_COUNT];
    for (uint32_t i = 0; i < FG_PREDICT_COUNT; i++) {
        rows[i] = *fg_predict_get((fg_predict)i);
        CHECK_STR(fg_predict_name((fg_predict)i), rows[i].name);
    }
    CHECK_U64(n_bad_rows(rows, FG_PREDICT_COUNT), 0);
    CHECK(fg_predict_get(FG_PREDICT_COUNT) == NULL && fg_predict_name(FG_PREDICT_COUNT) == NULL);
    rows[1].stored = rows[0].stored; /* negative controls */
    CHECK_U64(n_bad_rows(rows, FG_PREDICT_COUNT), 1);
    rows[2].observes = false;
    CHECK_U64(n_bad_rows(rows, FG_PREDICT_COUNT), 3); /* and ranks by nothing */
}

FG_TEST(limits)
{
    fg_predict_opts o = {.kind = FG_PREDICT_ROUTER,
                         .n_layer = N_LAYER,
                         .n_expert = N_EXPERT,
                         .n_used = N_USED,
                         .ahead = FG_PREDICT_AHEAD + 1};
    fg_predictor *p;
    fg_err err = {0};
    CHECK(fg_predictor_create(&p, &o, &err) == FG_EINVAL && p == NULL);
    CHECK(strstr(err.msg, "expected 1 to 8") != NULL);
    o.ahead = 1;
    o.kind = FG_PREDICT_COUNT;
    CHECK(fg_predictor_create(&p, &o, &err) == FG_EINVAL && p == NULL);
}
