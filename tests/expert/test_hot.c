/* SPDX-License-Identifier: MIT
 *
 * Which experts get a place on the card (src/expert/hot.h): by hand; that what is used equally
 * often stays where it is; that what is not ends on the card and does not go to and fro.
 */
#include <string.h>

#include "src/base/rng.h"
#include "src/expert/hot.h"
#include "tests/fg_test.h"

enum { LAYERS = 10, EXPERTS = 16, N = LAYERS * EXPERTS, USED = 2 };

typedef struct rig {
    fg_hot h;
    fg_hot_expert x[N];
    fg_rng g;
} rig;

/* The first n_card of each layer are on the card. */
static void rig_init(rig *r, uint32_t n_card)
{
    memset(r, 0, sizeof *r);
    r->h = (fg_hot){.expert = r->x, .n = N, .n_expert = EXPERTS};
    for (size_t i = 0; i < N; i++) {
        r->x[i].bytes = 100;
        r->x[i].place = i % EXPERTS < n_card ? FG_HOT_CARD : FG_HOT_HOST;
    }
    fg_rng_init(&r->g, 5);
}

static void swap(rig *r, size_t in, size_t out)
{
    r->x[in].place = FG_HOT_CARD;
    r->x[out].place = FG_HOT_HOST;
}

FG_TEST(by_hand)
{
    rig r;
    size_t in, out;
    rig_init(&r, 0);
    CHECK(!fg_hot_choose(&r.h, -1.0f, &in, &out)); /* nothing is there */
    CHECK_U64(fg_hot_coldest(&r.h), N);
    rig_init(&r, EXPERTS);
    CHECK(!fg_hot_choose(&r.h, -1.0f, &in, &out)); /* everything is */
    rig_init(&r, 4);
    CHECK(!fg_hot_choose(&r.h, FG_HOT_MARGIN, &in, &out)); /* no counts */
    CHECK_U64(fg_hot_coldest(&r.h), N - EXPERTS + 3);      /* the last that was put there */
    r.x[20].use = 25.0f; /* 25 = 5 sqrt(25 + 0): not more than the margin */
    CHECK(!fg_hot_choose(&r.h, FG_HOT_MARGIN, &in, &out));
    r.x[20].use = 26.0f;
    CHECK(fg_hot_choose(&r.h, FG_HOT_MARGIN, &in, &out) && in == 20 && out == N - EXPERTS + 3);
    r.x[20].bytes = 101; /* it does not fit there */
    CHECK(!fg_hot_choose(&r.h, FG_HOT_MARGIN, &in, &out));
    r.x[20].bytes = 100;
    r.x[20].place = FG_HOT_NEVER;
    CHECK(!fg_hot_choose(&r.h, FG_HOT_MARGIN, &in, &out));
    r.x[20].place = FG_HOT_CARD; /* what is hot and there is not the coldest */
    CHECK(fg_hot_choose(&r.h, -1.0f, &in, &out) && in == 4 && out == N - EXPERTS + 3);
}

FG_TEST(counts_fade)
{
    rig r;
    uint32_t rows[EXPERTS] = {8};
    rig_init(&r, 4);
    fg_hot_saw(&r.h, 1, rows, 8);
    CHECK_NEAR(r.x[EXPERTS].use, 8.0, 0.0);
    CHECK_NEAR(r.x[0].use, 0.0, 0.0);
    fg_hot_fade(&r.h, FG_HOT_WINDOW - 1);
    CHECK_NEAR(r.x[EXPERTS].use, 8.0, 0.0);
    fg_hot_fade(&r.h, 1);
    CHECK_NEAR(r.x[EXPERTS].use, 4.0, 0.0);
    /* a long prompt is one window, not sixteen */
    rows[0] = 16 * FG_HOT_WINDOW;
    fg_hot_fade(&r.h, 16 * FG_HOT_WINDOW);
    fg_hot_saw(&r.h, 1, rows, 16 * FG_HOT_WINDOW);
    CHECK_NEAR(r.x[EXPERTS].use, 2.0 + FG_HOT_WINDOW, 0.0);
}

/* A token: in each layer USED experts, of which number e is chosen with a weight of w[e]. */
static void token(rig *r, const double *w)
{
    fg_hot_fade(&r->h, 1);
    for (uint32_t l = 0; l < LAYERS; l++) {
        uint32_t rows[EXPERTS] = {0};
        for (int k = 0; k < USED;) {
            const uint32_t e = (uint32_t)(fg_rng_u64(&r->g) % EXPERTS);
            if (rows[e] > 0 || fg_rng_f64(&r->g) >= w[e]) continue;
            rows[e] = 1;
            k++;
        }
        fg_hot_saw(&r->h, l, rows, 1);
    }
}

/* Moves in n tokens, a choice after every one. */
static uint32_t play(rig *r, const double *w, uint32_t n, float margin)
{
    uint32_t moves = 0;
    for (uint32_t t = 0; t < n; t++) {
        size_t in, out;
        token(r, w);
        if (!fg_hot_choose(&r->h, margin, &in, &out)) continue;
        swap(r, in, out);
        moves++;
    }
    return moves;
}

FG_TEST(equal_ones_stay)
{
    rig r;
    double w[EXPERTS];
    for (size_t e = 0; e < EXPERTS; e++) w[e] = 1.0;
    rig_init(&r, 4);
    CHECK_U64(play(&r, w, 20000, FG_HOT_MARGIN), 0);
    rig_init(&r, 4);
    CHECK(play(&r, w, 20000, 0.0f) > 1000); /* negative control: without the margin they do not */
}

FG_TEST(hot_ones_come_and_stay)
{
    rig r;
    double w[EXPERTS];
    for (size_t e = 0; e < EXPERTS; e++) w[e] = e >= 12 ? 1.0 : 0.2;
    rig_init(&r, 4);
    const uint32_t first = play(&r, w, 3000, FG_HOT_MARGIN);
    CHECK_U64(first, 4 * LAYERS); /* each of them once, and none of the others */
    for (size_t i = 0; i < N; i++) {
        CHECK((r.x[i].place == FG_HOT_CARD) == (i % EXPERTS >= 12));
    }
    CHECK_U64(play(&r, w, 20000, FG_HOT_MARGIN), 0);
    /* another text, other experts */
    for (size_t e = 0; e < EXPERTS; e++) w[e] = e >= 4 && e < 8 ? 1.0 : 0.2;
    CHECK_U64(play(&r, w, 6000, FG_HOT_MARGIN), 4 * LAYERS);
}
