/* SPDX-License-Identifier: MIT
 *
 * Replays have the live store's counts exactly, the optimal policy is that of a search over
 * everything, recalls are those of sequences that were made for it, and heat maps travel in the
 * file.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/expert/heat.h"
#include "src/engine/engine_impl.h"
#include "src/engine/session.h"
#include "src/eval/recorder.h"
#include "src/format/write/append.h"
#include "tests/eval/traces.h"
#include "tests/models.h"
#include "src/engine/memory.h"

/* ---- the optimum ---- */

typedef struct tiny {
    fg_trace_head h;
    uint32_t n_slot, n_pass;
    uint32_t n_tok; /* of a pass; 0: 1 or 2 */
} tiny;

static fg_trace *make_tiny(const tiny *x, uint64_t seed)
{
    const path_text path = tmp_path("tiny.trace");
    fg_rng r;
    fg_trace_writer *w;
    fg_trace *t = NULL;
    fg_err err = {0};
    uint32_t sel[64];
    fg_rng_init(&r, seed);
    if (fg_trace_create(&w, path.s, &x->h, NULL, &err) != FG_OK) return NULL;
    for (uint32_t p = 0; p < x->n_pass; p++) {
        const uint32_t n_tok = x->n_tok != 0 ? x->n_tok : 1 + below(&r, 2);
        fg_trace_begin(w, n_tok, true);
        for (uint32_t l = 0; l < x->h.n_layer; l++) {
            fg_guess g;
            for (uint32_t k = 0; k < n_tok; k++) draw(&r, &x->h, sel + k * x->h.n_used);
            draw_guess(&r, &x->h, l, &g);
            fg_trace_layer(w, l, sel);
            fg_trace_guess(w, l, &g);
        }
    }
    if (fg_trace_finish(w, &err) == FG_OK) (void)fg_trace_open(&t, path.s, &err);
    fg_trace_writer_destroy(&w);
    return t;
}

/* Fewest reads of any way of keeping experts: every set that may be in memory after a layer, with
 * the fewest reads that lead to it.  Sets are bits of layer * n_expert + expert. */
static uint64_t fewest_reads(const fg_trace *t, uint32_t n_slot)
{
    enum { MANY = 1 << 30 };
    const fg_trace_head *h = fg_trace_get_head(t);
    const uint32_t n_set = 1u << (h->n_layer * h->n_expert);
    int *cost = malloc(n_set * sizeof *cost), *next = malloc(n_set * sizeof *next);
    uint32_t sel[64];
    for (uint32_t s = 0; s < n_set; s++) cost[s] = s == 0 ? 0 : MANY;
    fg_trace_pass p = {0};
    while (fg_trace_next(t, &p)) {
        for (uint32_t l = 0; l < h->n_layer; l++) {
            uint32_t want = 0;
            fg_trace_sel(t, &p, l, sel);
            for (uint32_t i = 0; i < p.n_tok * h->n_used; i++) {
                want |= 1u << (l * h->n_expert + sel[i]);
            }
            for (uint32_t s = 0; s < n_set; s++) next[s] = MANY;
            for (uint32_t s = 0; s < n_set; s++) {
                if (cost[s] == MANY) continue;
                const int c = cost[s] + __builtin_popcount(want & ~s);
                const uint32_t rest = s & ~want; /* of it, any part may stay */
                for (uint32_t keep = rest;; keep = (keep - 1) & rest) {
                    const uint32_t to = keep | want;
                    if (__builtin_popcount(to) <= (int)n_slot && c < next[to]) next[to] = c;
                    if (keep == 0) break;
                }
            }
            int *swap = cost;
            cost = next;
            next = swap;
        }
    }
    int best = MANY;
    for (uint32_t s = 0; s < n_set; s++) best = cost[s] < best ? cost[s] : best;
    free(cost);
    free(next);
    return (uint64_t)best;
}

static fg_cache_stats replay(const fg_trace *t, uint32_t n_slot, fg_policy policy,
                             fg_predict predict, fg_future *f)
{
    const fg_replay_opts o = {
        .n_slot = n_slot, .policy = policy, .predict = predict, .ahead = 2, .future = f};
    fg_cache_stats s = {0};
    fg_err err = {0};
    if (fg_replay_run(t, &o, &s, &err) != FG_OK) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return s;
}

FG_TEST(optimal_is_optimal)
{
    static const tiny cases[] = {
        {{.n_layer = 1, .n_expert = 7, .n_used = 1, .slot_bytes = 1, .ahead = 1}, 3, 40, 1},
        {{.n_layer = 2, .n_expert = 5, .n_used = 1, .slot_bytes = 1, .ahead = 1}, 4, 30, 1},
        {{.n_layer = 2, .n_expert = 5, .n_used = 2, .slot_bytes = 1, .ahead = 1}, 5, 20, 1},
        {{.n_layer = 3, .n_expert = 3, .n_used = 2, .slot_bytes = 1, .ahead = 1}, 5, 20, 1},
        {{.n_layer = 2, .n_expert = 5, .n_used = 2, .slot_bytes = 1, .ahead = 1}, 6, 20, 0},
    };
    uint32_t n_worse = 0, n_hinted = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (uint64_t seed = 0; seed < 12; seed++) {
            fg_trace *t = make_tiny(&cases[i], seed);
            fg_future *f = NULL;
            fg_err err = {0};
            REQUIRE(t != NULL && fg_future_create(&f, t, &err) == FG_OK);
            const uint64_t best = fewest_reads(t, cases[i].n_slot);
            CHECK_U64(replay(t, cases[i].n_slot, FG_POLICY_OPTIMAL, FG_PREDICT_NONE, f).n_miss,
                      best);
            for (int policy = 0; policy < FG_POLICY_COUNT; policy++) {
                for (int predict = 0; predict < FG_PREDICT_COUNT; predict++) {
                    const fg_cache_stats s =
                        replay(t, cases[i].n_slot, (fg_policy)policy, (fg_predict)predict, f);
                    CHECK(s.n_miss + s.n_prefetch >= best); /* none has less */
                    n_worse +=
                        policy == FG_POLICY_LRU && predict == FG_PREDICT_NONE && s.n_miss > best;
                    n_hinted += s.n_prefetch > 0;
                }
            }
            fg_future_destroy(&f);
            fg_trace_close(&t);
        }
    }
    CHECK(n_worse > 40 && n_hinted > 100); /* negative control: LRU is seen not to be optimal */
}

FG_TEST(optimal_knows_first_uses)
{
    /* a hint about an expert that was never there is taken at the cost of one that never comes */
    const path_text path = tmp_path("first.trace");
    const fg_trace_head h = {.n_layer = 2, .n_expert = 6, .n_used = 1, .slot_bytes = 1, .ahead = 1};
    static const uint32_t sel[2][2] = {{0, 0}, {1, 3}};
    const fg_guess guess = {.n_ahead = 1, .id = {{3, 4, 5, 0}}};
    fg_trace_writer *w;
    fg_trace *t;
    fg_future *f = NULL;
    fg_err err = {0};
    REQUIRE_OK(fg_trace_create(&w, path.s, &h, NULL, &err), &err);
    for (uint32_t p = 0; p < 2; p++) {
        fg_trace_begin(w, 1, true);
        for (uint32_t l = 0; l < 2; l++) {
            fg_trace_layer(w, l, &sel[p][l]);
            if (p == 1 && l == 0) fg_trace_guess(w, l, &guess);
        }
    }
    CHECK_OK(fg_trace_finish(w, &err), &err);
    fg_trace_writer_destroy(&w);
    REQUIRE(fg_trace_open(&t, path.s, &err) == FG_OK && fg_future_create(&f, t, &err) == FG_OK);
    const fg_cache_stats s = replay(t, 2, FG_POLICY_OPTIMAL, FG_PREDICT_ROUTER, f);
    CHECK(s.n_prefetch_hit == 1 && s.n_miss == 3 && s.n_wasted == 0);
    fg_future_destroy(&f);
    fg_trace_close(&t);
}

static uint64_t by_number(void *ctx, uint32_t layer, uint32_t expert)
{
    (void)ctx;
    (void)layer;
    return expert;
}

FG_TEST(optimal_asks_for_nothing_else) /* not even whether a hint was wrong */
{
    const fg_cache_opts o = {.n_layer = 2,
                             .n_expert = 9,
                             .n_used = 1,
                             .n_slot = 2,
                             .policy = FG_POLICY_OPTIMAL,
                             .next_use = by_number};
    fg_cache *c;
    fg_err err = {0};
    fg_cache_load load;
    const fg_cache_load *loads;
    uint32_t id = 7, n;
    REQUIRE_OK(fg_cache_create(&c, &o, &err), &err);
    fg_cache_begin(c, 0, &id, 1);
    while (fg_cache_next(c, &loads, &n) > 0) CHECK(fg_cache_prefetch(c, 1, 2, &load));
    id = 5;
    fg_cache_begin(c, 1, &id, 1); /* 2 was wrong, and comes before 7 */
    while (fg_cache_next(c, &loads, &n) > 0) continue;
    CHECK(fg_cache_slot(c, 1, 2) != FG_CACHE_NO_SLOT && fg_cache_slot(c, 0, 7) == FG_CACHE_NO_SLOT);
    fg_cache_destroy(&c);
}

FG_TEST(random_takes_all_alike)
{
    enum { N = 8, ROUNDS = 8000 };
    uint32_t gone[N] = {0}, n;
    for (uint64_t seed = 0; seed < ROUNDS; seed++) {
        const fg_cache_opts o = {.n_layer = 1,
                                 .n_expert = N + 1,
                                 .n_used = 1,
                                 .n_slot = N,
                                 .policy = FG_POLICY_RANDOM,
                                 .seed = seed};
        fg_cache *c;
        fg_err err = {0};
        const fg_cache_load *loads;
        REQUIRE_OK(fg_cache_create(&c, &o, &err), &err);
        for (uint32_t e = 0; e <= N; e++) {
            uint32_t id = e;
            fg_cache_begin(c, 0, &id, 1);
            while (fg_cache_next(c, &loads, &n) > 0) continue;
        }
        for (uint32_t e = 0; e < N; e++) gone[e] += fg_cache_slot(c, 0, e) == FG_CACHE_NO_SLOT;
        fg_cache_destroy(&c);
    }
    for (uint32_t e = 0; e < N; e++) CHECK_NEAR(gone[e], ROUNDS / N, 5.0 * 29.6); /* five sigma */
}

FG_TEST(random_is_random)
{
    /* uniform requests of one expert: any policy but the optimal one hits with n_slot / n_expert */
    const tiny x = {
        {.n_layer = 1, .n_expert = 40, .n_used = 1, .slot_bytes = 1, .ahead = 1}, 10, 6000, 1};
    fg_trace *t = make_tiny(&x, 3);
    fg_future *f = NULL;
    fg_err err = {0};
    REQUIRE(t != NULL && fg_future_create(&f, t, &err) == FG_OK);
    const fg_cache_stats a = replay(t, 10, FG_POLICY_RANDOM, FG_PREDICT_NONE, f),
                         b = replay(t, 10, FG_POLICY_RANDOM, FG_PREDICT_NONE, f),
                         best = replay(t, 10, FG_POLICY_OPTIMAL, FG_PREDICT_NONE, f);
    CHECK_U64(a.n_hit, b.n_hit);
    CHECK_NEAR((double)a.n_hit / 6000.0, 0.25, 4.0 * 0.0056); /* four sigma */
    CHECK((double)best.n_hit / 6000.0 > 0.35);
    fg_future_destroy(&f);
    fg_trace_close(&t);
    CHECK(!fg_policy_is_live(FG_POLICY_RANDOM) && !fg_policy_is_live(FG_POLICY_OPTIMAL));
    CHECK_STR(fg_policy_name(FG_POLICY_OPTIMAL), "optimal");
    const fg_cache_opts o = {
        .n_layer = 1, .n_expert = 4, .n_used = 1, .n_slot = 2, .policy = FG_POLICY_OPTIMAL};
    fg_cache *c;
    CHECK(fg_cache_create(&c, &o, &err) == FG_EINVAL && c == NULL && is_line(&err));
}

/* ---- recall ---- */

/* Tokens alternate between two routings; the guesses of 1 ahead are right, of 2 ahead the second
 * choice only, at rank 3, of 3 ahead wrong; nobody makes those of 4 ahead. */
static fg_trace *make_planted(uint32_t n_tok)
{
    const path_text path = tmp_path("planted.trace");
    fg_trace_writer *w;
    fg_trace *t = NULL;
    fg_err err = {0};
    if (fg_trace_create(&w, path.s, &small, NULL, &err) != FG_OK) return NULL;
    for (uint32_t p = 0; p < n_tok; p++) {
        const uint32_t first = p % 2 * 4;
        fg_trace_begin(w, 1, true);
        for (uint32_t l = 0; l < N_LAYER; l++) {
            const uint32_t sel[N_USED] = {first, first + 1};
            fg_guess g = {.n_ahead = N_LAYER - 1 - l < 3 ? N_LAYER - 1 - l : 3,
                          .id = {{first, first + 1, 8, 7}, {8, 7, first + 1, 6}, {8, 7, 6, 3}}};
            fg_trace_layer(w, l, sel);
            fg_trace_guess(w, l, &g);
        }
    }
    const uint32_t many[2 * N_USED] = {7, 8, 7, 8}; /* no part of a recall */
    fg_trace_begin(w, 2, true);
    for (uint32_t l = 0; l < N_LAYER; l++) fg_trace_layer(w, l, many);
    if (fg_trace_finish(w, &err) == FG_OK) (void)fg_trace_open(&t, path.s, &err);
    fg_trace_writer_destroy(&w);
    return t;
}

FG_TEST(recall_of_planted_sequences)
{
    enum { N = 100 };
    fg_trace *t = make_planted(N);
    fg_recall_row r[FG_PREDICT_COUNT];
    fg_err err = {0};
    REQUIRE(t != NULL && recall_of_all(t, r, &err) == FG_OK);
    for (uint32_t d = 1; d <= 4; d++) {
        const uint64_t n = (uint64_t)N * N_USED * (N_LAYER - d);
        const fg_recall *router = &r[FG_PREDICT_ROUTER].ahead[d - 1];
        CHECK_U64(router->n, d == 4 ? 0 : n);
        CHECK_U64(router->n_found[0], d == 1 ? n : 0);
        CHECK_U64(router->n_found[1], d == 1 ? n : d == 2 ? n / 2 : 0);
        CHECK_U64(router->n_found[2], d == 1 ? n : d == 2 ? n / 2 : 0);
        /* the token before is always wrong, the one before that always right, at ranks 3 and 4 */
        const fg_recall *previous = &r[FG_PREDICT_PREVIOUS].ahead[d - 1];
        const uint64_t each = (uint64_t)(N - 2) * (N_LAYER - d);
        CHECK_U64(previous->n, n);
        CHECK_U64(previous->n_found[0], 0);
        CHECK_U64(previous->n_found[1], each);
        CHECK_U64(previous->n_found[2], 2 * each);
        /* even tokens find both counts equal, and ties go to the lower; odd ones are one behind */
        const fg_recall *frequency = &r[FG_PREDICT_FREQUENCY].ahead[d - 1];
        CHECK_U64(frequency->n_found[0], 2 * (uint64_t)(N / 2 - 1) * (N_LAYER - d));
        CHECK_U64(frequency->n_found[2], 2 * each);
        CHECK_U64(r[FG_PREDICT_NONE].ahead[d - 1].n, previous->n);
        CHECK_U64(r[FG_PREDICT_NONE].ahead[d - 1].n_found[2], 0);
        /* without tokens nothing is known */
        CHECK_U64(r[FG_PREDICT_FACTOR].ahead[d - 1].n_found[3], 0);
    }
    /* before the first layer the same is known of all layers, and of routers nothing */
    CHECK_U64(r[FG_PREDICT_PREVIOUS].next.n, (uint64_t)N * N_USED * N_LAYER);
    CHECK_U64(r[FG_PREDICT_PREVIOUS].next.n_found[2], 2 * (uint64_t)(N - 2) * N_LAYER);
    CHECK_U64(r[FG_PREDICT_ROUTER].next.n, 0);
    CHECK(r[FG_PREDICT_ROUTER].ahead[7].n == 0 && r[FG_PREDICT_ROUTER].n_tok == N);
    uint64_t heat[N_LAYER * N_EXPERT] = {0};
    CHECK_OK(fg_replay_heat(t, 0, 3, heat, &err), &err); /* two even tokens, one odd */
    CHECK(heat[0] == 2 && heat[1] == 2 && heat[4] == 1 && heat[7] == 0);
    CHECK_OK(fg_replay_heat(t, N, N + 5, heat, &err), &err); /* the pass of two tokens; added */
    CHECK(heat[0] == 2 && heat[7] == 2 && heat[N_EXPERT + 8] == 2);
    fg_trace_close(&t);
}

/* ---- the live store ---- */

typedef struct live_case {
    uint32_t n_slot;
    fg_policy policy;
    fg_predict predict;
    uint32_t ahead;
    uint32_t n_decode; /* of the tokens, behind those in batches */
    uint32_t n_batch;
} live_case;

enum { N_TOK = 320 };

static fg_engine *open_live(const char *path, const fg_engine_opts *o)
{
    fg_engine *e = NULL;
    fg_err err = {0};
    if (fg_engine_open(&e, path, o, &err) != FG_OK) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return e;
}

/* The bound that leaves n_slot experts. */
static uint64_t ram_for(const char *path, uint32_t n_slot, uint32_t n_batch)
{
    fg_engine *e = model_open_file(path, 1, NULL);
    fg_session *s = e == NULL ? NULL : model_session(e, N_TOK, n_batch);
    if (s == NULL) return 0;
    const fg_model_file *f = fg_engine_file(e);
    const uint64_t bytes = FG_MEMORY_PROGRAM + fg_session_bytes(s) + fg_store_dense_bytes(f) +
                           n_slot * fg_store_slot_bytes(f) + 5;
    fg_session_destroy(&s);
    fg_engine_close(&e);
    return bytes;
}

/* Every pass takes as long, so that a predictor is tried and goes off, at the same tokens. */
static uint64_t even_clock(void)
{
    static uint64_t ns;
    return ns += 1000000;
}

/* Runs a prompt in batches of several sizes and decoded tokens, and records them unless trace is
 * NULL: nobody observes the session then.  clock: of the store.  False on failure. */
static bool run_live(const char *path, const live_case *x, uint64_t (*clock)(void),
                     const char *trace, fg_store_stats *out)
{
    fg_engine_opts o = fg_engine_opts_default();
    const uint32_t n_batch = x->n_batch;
    o.n_thread = 1;
    o.ram_bytes = ram_for(path, x->n_slot, x->n_batch);
    o.policy = x->policy;
    o.predict = x->predict;
    o.ahead = x->ahead;
    fg_engine *e = open_live(path, &o);
    if (e != NULL) fg_store_set_clock(e->store, clock);
    fg_session *s = e == NULL ? NULL : model_session(e, N_TOK, n_batch);
    fg_recorder *r = NULL;
    fg_err err = {0};
    uint32_t ids[N_TOK];
    fg_rng rng;
    fg_rng_init(&rng, 5);
    for (uint32_t i = 0; i < N_TOK; i++) ids[i] = below(&rng, 4096);
    bool ok = s != NULL;
    if (trace != NULL) ok = ok && fg_recorder_create(&r, e, s, &o, trace, true, &err) == FG_OK;
    for (uint32_t i = 0, m; ok && i < N_TOK; i += m) {
        const uint32_t left = i < N_TOK - x->n_decode ? N_TOK - x->n_decode - i : 1;
        m = 1 + below(&rng, 2 * n_batch); /* a call may be several passes */
        m = left < m ? left : m;
        ok = fg_session_eval(s, ids + i, m, NULL, NULL, &err) == FG_OK;
    }
    if (trace != NULL) ok = ok && fg_recorder_finish(r, &err) == FG_OK;
    if (ok) *out = *fg_engine_store_stats(e);
    if (!ok) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    fg_recorder_destroy(&r);
    fg_session_destroy(&s);
    fg_engine_close(&e);
    return ok;
}

static bool same_counts(const fg_cache_stats *a, const fg_cache_stats *b)
{
    return a->n_hit == b->n_hit && a->n_prefetch_hit == b->n_prefetch_hit &&
           a->n_miss == b->n_miss && a->n_prefetch == b->n_prefetch && a->n_wasted == b->n_wasted &&
           a->n_alone == b->n_alone && a->n_lost == b->n_lost && a->n_evict == b->n_evict;
}

typedef struct sights {
    uint32_t n_switch, n_prefetch, n_always_on_differs, n_other_differs;
} sights;

static void check_live(const char *path, const live_case *x, sights *seen)
{
    const path_text trace = tmp_path("live.trace");
    fg_store_stats live;
    fg_trace *t;
    fg_err err = {0};
    uint64_t heat[256];
    uint32_t n_slot;
    if (!run_live(path, x, even_clock, trace.s, &live)) return;
    REQUIRE_OK(fg_trace_open(&t, trace.s, &err), &err);
    const fg_trace_head *h = fg_trace_get_head(t);
    CHECK_U64(h->n_tok, N_TOK);
    CHECK_OK(fg_trace_slots(h, h->ram_bytes, &n_slot, &err), &err);
    CHECK_U64(n_slot, live.n_slot);
    CHECK_U64(n_slot, x->n_slot);
    const bool hot = fg_trace_get_heat(t, heat);
    fg_replay_opts o = {.n_slot = n_slot,
                        .policy = h->policy,
                        .heat = hot && fg_policy_get(h->policy)->heat != FG_POLICY_HEAT_NONE ? heat
                                                                                             : NULL,
                        .predict = h->predict,
                        .ahead = h->ahead,
                        .as_recorded = true};
    fg_cache_stats s;
    CHECK_OK(fg_replay_run(t, &o, &s, &err), &err);
    if (!same_counts(&s, &live.cache)) {
        fg_test_fail(__FILE__, __LINE__,
                     "%u slots, %s, %s %u ahead, %u decoded: %llu %llu %llu, "
                     "live %llu %llu %llu",
                     x->n_slot, fg_policy_name(x->policy), fg_predict_name(x->predict), x->ahead,
                     x->n_decode, (unsigned long long)s.n_hit, (unsigned long long)s.n_miss,
                     (unsigned long long)s.n_prefetch, (unsigned long long)live.cache.n_hit,
                     (unsigned long long)live.cache.n_miss,
                     (unsigned long long)live.cache.n_prefetch);
    }
    seen->n_switch += live.n_switch;
    seen->n_prefetch += s.n_prefetch > 0;
    o.predict = FG_PREDICT_NONE; /* prompts, their scans and all: what it would have been */
    CHECK_OK(fg_replay_run(t, &o, &s, &err), &err);
    CHECK_U64(live.cache.n_alone, s.n_miss + s.n_prefetch_hit);
    o.predict = h->predict;
    o.as_recorded = false;
    CHECK_OK(fg_replay_run(t, &o, &s, &err), &err);
    seen->n_always_on_differs += !same_counts(&s, &live.cache);
    o.n_slot = n_slot > 3 ? n_slot - 1 : n_slot + 1;
    CHECK_OK(fg_replay_run(t, &o, &s, &err), &err);
    seen->n_other_differs += !same_counts(&s, &live.cache);
    fg_trace_close(&t);
}

FG_TEST(replay_is_the_live_run)
{
    static const live_case cases[] = {
        {3, FG_POLICY_LRU, FG_PREDICT_NONE, 0, 20, 33},
        {20, FG_POLICY_LRU, FG_PREDICT_ROUTER, 1, 200, 7},
        {70, FG_POLICY_LFU, FG_PREDICT_ROUTER, 4, 320, 1},
        {64, FG_POLICY_LRU, FG_PREDICT_FREQUENCY, 2, 320, 1},
        {90, FG_POLICY_LFU, FG_PREDICT_PREVIOUS, 3, 320, 1},
        {40, FG_POLICY_LFU, FG_PREDICT_FREQUENCY, 0, 150, 33},
        {128, FG_POLICY_LRU, FG_PREDICT_ROUTER, 2, 300, 5},
        {10, FG_POLICY_LRU, FG_PREDICT_PREVIOUS, 4, 250, 33},
        {200, FG_POLICY_LRU, FG_PREDICT_ROUTER, 3, 0, 33},
        {150, FG_POLICY_LRU, FG_PREDICT_ROUTER, 2, 40, 140},
        {60, FG_POLICY_LFU, FG_PREDICT_NONE, 2, 40,
         200}, /* long batches use all experts, which is hinted */
    };
    sights seen = {0};
    const char *path = model_file(NANO_DIR, "q4");
    REQUIRE(path != NULL);
    const size_t n = sizeof cases / sizeof cases[0];
    for (size_t i = 0; i < n; i++) check_live(path, &cases[i], &seen);
    /* negative controls: a predictor has switched itself off, and that is seen in the counts; so is
     * one slot more or less */
    CHECK(seen.n_switch > 0 && seen.n_always_on_differs > 0 && seen.n_prefetch >= 5);
    CHECK(seen.n_other_differs >= n - 1);
}

/* Writes the trace again, without the routers' guesses. */
static void strip_guesses(const fg_trace *t, const char *path)
{
    const fg_trace_head *h = fg_trace_get_head(t);
    fg_trace_writer *w;
    fg_trace_pass pass = {0};
    fg_err err = {0};
    uint32_t *sel = calloc((size_t)fg_trace_most_tok(t) * h->n_used, sizeof *sel);
    REQUIRE(sel != NULL && fg_trace_create(&w, path, h, NULL, &err) == FG_OK);
    while (fg_trace_next(t, &pass)) {
        fg_trace_begin(w, pass.n_tok, pass.predict_on);
        for (uint32_t l = 0; l < h->n_layer; l++) {
            fg_trace_sel(t, &pass, l, sel);
            fg_trace_layer(w, l, sel);
        }
    }
    CHECK_OK(fg_trace_finish(w, &err), &err);
    fg_trace_writer_destroy(&w);
    free(sel);
}

static fg_cache_stats replay_file(const char *path, bool strip, const live_case *x)
{
    const path_text bare = tmp_path("stripped.trace");
    fg_cache_stats s = {0};
    fg_trace *t;
    fg_err err = {0};
    if (fg_trace_open(&t, path, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        return s;
    }
    if (strip) {
        strip_guesses(t, bare.s);
        fg_trace_close(&t);
        return replay_file(bare.s, false, x);
    }
    const fg_replay_opts o = {
        .n_slot = x->n_slot, .policy = x->policy, .predict = x->predict, .ahead = x->ahead};
    CHECK_OK(fg_replay_run(t, &o, &s, &err), &err);
    fg_trace_close(&t);
    return s;
}

/* Taps make the pass compute the routers' guesses, and might hide that nobody asks for them. */
FG_TEST(replay_is_the_live_run_that_nobody_observes)
{
    const char *path = model_file(NANO_DIR, "q4");
    const path_text trace = tmp_path("observed.trace");
    fg_cache_stats of[FG_PREDICT_COUNT];
    REQUIRE(path != NULL);
    for (uint32_t i = 0; i < FG_POLICY_COUNT * FG_PREDICT_COUNT; i++) {
        const uint32_t k = i % FG_PREDICT_COUNT;
        /* too few passes of one token for a predictor to be judged */
        const live_case x = {60, (fg_policy)(i / FG_PREDICT_COUNT), (fg_predict)k, 2, 24, 33};
        const fg_policy_row *policy = fg_policy_get(x.policy);
        if (!policy->live || policy->heat == FG_POLICY_HEAT_NEEDED) continue;
        fg_store_stats bare, observed;
        REQUIRE(run_live(path, &x, NULL, NULL, &bare) &&
                run_live(path, &x, NULL, trace.s, &observed));
        CHECK(bare.n_slot == x.n_slot && bare.n_switch == 0 && bare.predict_on);
        const fg_cache_stats want = replay_file(trace.s, false, &x);
        of[k] = bare.cache;
        if (!same_counts(&bare.cache, &want) || !same_counts(&observed.cache, &want)) {
            fg_test_fail(
                __FILE__, __LINE__, "%s, %s: %llu misses, observed %llu, replay %llu", policy->name,
                fg_predict_name(x.predict), (unsigned long long)bare.cache.n_miss,
                (unsigned long long)observed.cache.n_miss, (unsigned long long)want.n_miss);
        }
        if (fg_predict_get(x.predict)->ops->begin != NULL) continue; /* test_live_factors.c */
        /* negative controls: without guesses those who ask for them do something else, and no
         * predictor's counts are another one's */
        const fg_cache_stats blind = replay_file(trace.s, true, &x);
        CHECK(same_counts(&bare.cache, &blind) == !fg_predict_get(x.predict)->asks_routers);
        for (uint32_t j = 0; j < k; j++) CHECK(!same_counts(&of[j], &of[k]));
    }
}

/* ---- heat maps ---- */

static path_text copy_nano(const char *name)
{
    const path_text p = tmp_path(name);
    char cmd[600];
    (void)snprintf(cmd, sizeof cmd, "cp %s %s", model_file(NANO_DIR, "q4"), p.s);
    CHECK(system(cmd) == 0);
    return p;
}

static fg_status open_with(const char *path, fg_policy policy, fg_err *err)
{
    fg_engine_opts o = fg_engine_opts_default();
    fg_engine *e = NULL;
    o.ram_bytes = (uint64_t)256 << 20;
    o.policy = policy;
    o.n_thread = 1;
    *err = (fg_err){0};
    const fg_status st = fg_engine_open(&e, path, &o, err);
    fg_engine_close(&e);
    return st;
}

static fg_status load_heat(const char *path, fg_heat *h, fg_err *err)
{
    fg_model_file *f;
    FG_TRY(fg_model_file_open(&f, path, err));
    const fg_status st = fg_heat_load(f, h, err);
    fg_model_file_close(&f);
    return st;
}

FG_TEST(heat_map_in_the_file)
{
    const path_text path = copy_nano("heat.fulgur");
    fg_err err = {0};
    fg_heat h;
    CHECK(load_heat(path.s, &h, &err) == FG_OK && h.use == NULL);
    CHECK(open_with(path.s, FG_POLICY_PIN, &err) == FG_ENOTSUP && is_line(&err));
    CHECK(strstr(err.msg, "no heat map") != NULL);
    CHECK(open_with(path.s, FG_POLICY_RANDOM, &err) == FG_EINVAL && is_line(&err));
    uint64_t use[256];
    for (uint64_t i = 0; i < 256; i++) use[i] = i * i << 20;
    fg_heat put = {.text = "a \"text\"", .n_tok = 77, .data_root = h.data_root, .use = use};
    put.data_root ^= 1;
    CHECK(fg_heat_store(path.s, &put, &err) == FG_EINVAL && is_line(&err)); /* other weights */
    put.data_root ^= 1;
    CHECK_OK(fg_heat_store(path.s, &put, &err), &err);
    CHECK(load_heat(path.s, &h, &err) == FG_OK && h.use != NULL);
    CHECK(h.use != NULL && memcmp(h.use, use, sizeof use) == 0);
    CHECK_U64(h.n_tok, 77);
    CHECK_STR(h.text, put.text);
    fg_mem_free(h.use);
    CHECK_OK(open_with(path.s, FG_POLICY_PIN, &err), &err);
    use[3] = 5; /* a second map takes the place of the first */
    CHECK_OK(fg_heat_store(path.s, &put, &err), &err);
    CHECK(load_heat(path.s, &h, &err) == FG_OK && h.use != NULL && h.use[3] == 5);
    fg_mem_free(h.use);
    sights seen = {0};
    check_live(path.s, &(live_case){48, FG_POLICY_PIN, FG_PREDICT_ROUTER, 2, 200, 33}, &seen);
    check_live(path.s, &(live_case){48, FG_POLICY_LFU, FG_PREDICT_NONE, 2, 200, 33}, &seen);
    CHECK_U64(seen.n_other_differs, 2);
    static const char *const bad[] = {"", "{", "[]", "{\"version\": 2}",
                                      "{\"version\": 1, \"data_root\": \"0x0\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_OK(fg_model_file_append_meta(path.s, "heat", bad[i], strlen(bad[i]), &err), &err);
        CHECK(open_with(path.s, FG_POLICY_PIN, &err) == FG_EFORMAT && is_line(&err));
        CHECK_OK(open_with(path.s, FG_POLICY_LRU, &err), &err);
    }
}

FG_TEST(slots_of_a_bound)
{
    fg_trace_head h = small;
    fg_err err = {0};
    uint32_t n;
    const uint64_t fixed = FG_MEMORY_PROGRAM + 1500;
    CHECK(fg_trace_slots(&h, fixed + 1234, &n, &err) == FG_OK && n == 12);
    CHECK(fg_trace_slots(&h, UINT64_MAX, &n, &err) == FG_OK && n == N_LAYER * N_EXPERT);
    CHECK(fg_trace_slots(&h, fixed + 300, &n, &err) == FG_OK && n == 3);
    CHECK(fg_trace_slots(&h, fixed + 299, &n, &err) == FG_ELIMIT && is_line(&err));
    CHECK(fg_trace_slots(&h, 10, &n, &err) == FG_ELIMIT && is_line(&err));
    h.slot_bytes = h.dense_bytes = (uint64_t)1 << 61; /* sums that do not fit */
    CHECK(fg_trace_slots(&h, UINT64_MAX, &n, &err) == FG_OK && n == 6);
    h.slot_bytes = (uint64_t)1 << 62;
    CHECK(fg_trace_slots(&h, UINT64_MAX, &n, &err) == FG_OK && n == 3);
}

/* ---- a card ---- */

/* Experts 0 and 1 in every layer, whatever the heat map says. */
FG_TEST(residents_of_a_card)
{
    enum { PASSES = 6000 };
    const path_text path = tmp_path("card.trace");
    fg_err err = {0};
    fg_trace_writer *w;
    fg_trace *t = NULL;
    fg_replay_card got;
    REQUIRE_OK(fg_trace_create(&w, path.s, &small, NULL, &err), &err);
    for (uint32_t p = 0; p < PASSES; p++) {
        const uint32_t sel[N_USED] = {p % 4 == 0 ? 5 : 0, 1};
        fg_guess g = {0};
        fg_trace_begin(w, 1, true);
        for (uint32_t l = 0; l < N_LAYER; l++) {
            fg_trace_layer(w, l, sel);
            fg_trace_guess(w, l, &g);
        }
    }
    REQUIRE_OK(fg_trace_finish(w, &err), &err);
    fg_trace_writer_destroy(&w);
    REQUIRE_OK(fg_trace_open(&t, path.s, &err), &err);
    uint64_t heat[N_LAYER * N_EXPERT] = {0};
    CHECK_OK(fg_replay_heat(t, 0, PASSES, heat, &err), &err);
    CHECK_OK(fg_replay_residents(t, N_LAYER, heat, &got, &err), &err); /* one a layer: number 1 */
    CHECK_U64(got.n_read, (uint64_t)PASSES * N_LAYER * N_USED);
    CHECK_U64(got.n_heat, got.n_read / 2);
    CHECK_U64(got.n_running, got.n_read / 2);
    CHECK_U64(got.n_moved, 0);
    CHECK_OK(fg_replay_residents(t, 0, heat, &got, &err), &err);
    CHECK(got.n_heat == 0 && got.n_running == 0);
    CHECK_OK(fg_replay_residents(t, N_LAYER * N_EXPERT, heat, &got, &err), &err);
    CHECK(got.n_heat == got.n_read && got.n_running == got.n_read);
    /* a heat map of another text: running counts find out */
    memset(heat, 0, sizeof heat);
    for (uint32_t l = 0; l < N_LAYER; l++) heat[l * N_EXPERT + 8] = 10;
    CHECK_OK(fg_replay_residents(t, N_LAYER, heat, &got, &err), &err);
    CHECK_U64(got.n_heat, 0);
    CHECK(got.n_running > got.n_read / 3);
    CHECK_U64(got.n_moved, N_LAYER);
    fg_trace_close(&t);
}
