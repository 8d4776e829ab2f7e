/* SPDX-License-Identifier: MIT
 *
 * The directory of experts against plain models of what it should do.
 */
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/expert/cache.h"
#include "tests/fg_test.h"

enum { N_LAYER = 6, N_EXPERT = 32, N_USED = 2, N_KEY = N_LAYER * N_EXPERT };

static fg_cache *open_hinted(uint32_t n_slot, fg_policy policy, const uint64_t *heat, bool hinted)
{
    const fg_cache_opts o = {.n_layer = N_LAYER,
                             .n_expert = N_EXPERT,
                             .n_used = N_USED,
                             .n_slot = n_slot,
                             .policy = policy,
                             .heat = heat,
                             .hinted = hinted};
    fg_cache *c = NULL;
    fg_err err = {0};
    if (fg_cache_create(&c, &o, &err) != FG_OK) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return c;
}

static fg_cache *open_cache(uint32_t n_slot, fg_policy policy, const uint64_t *heat)
{
    return open_hinted(n_slot, policy, heat, false);
}

/* n different experts, ascending; skewed, so that policies differ. */
static uint32_t draw(fg_rng *r, uint32_t *ids, uint32_t n)
{
    bool in[N_EXPERT] = {false};
    for (uint32_t k = 0; k < n;) {
        const uint32_t a = (uint32_t)(fg_rng_u64(r) % N_EXPERT),
                       b = (uint32_t)(fg_rng_u64(r) % N_EXPERT), e = a < b ? a : b;
        if (in[e]) continue;
        in[e] = true;
        k++;
    }
    uint32_t m = 0;
    for (uint32_t e = 0; e < N_EXPERT; e++) {
        if (in[e]) ids[m++] = e;
    }
    return m;
}

/* Runs one layer and checks what any policy must keep to; *n_load: experts to be read. */
static void layer(fg_cache *c, uint32_t l, uint32_t *ids, uint32_t n, uint64_t *n_load)
{
    const fg_cache_load *loads;
    uint32_t k, m, done = 0;
    bool seen[N_EXPERT] = {false};
    fg_cache_begin(c, l, ids, n);
    while ((m = fg_cache_next(c, &loads, &k)) > 0) {
        *n_load += k;
        for (uint32_t i = 0; i < k; i++) {
            CHECK(loads[i].layer == l && fg_cache_slot(c, l, loads[i].expert) == loads[i].slot);
        }
        const uint32_t n_pinned = fg_cache_n_requested(c) - done;
        CHECK(m <= n_pinned && n_pinned <= fg_cache_limit(c));
        for (uint32_t i = 0; i < n_pinned; i++) { /* in memory, each in a slot of its own */
            const uint32_t slot = fg_cache_slot(c, l, ids[done + i]);
            CHECK(slot != FG_CACHE_NO_SLOT);
            for (uint32_t j = 0; j < i; j++) CHECK(slot != fg_cache_slot(c, l, ids[done + j]));
        }
        for (uint32_t i = 0; i < m; i++) {
            CHECK(!seen[ids[done + i]]);
            seen[ids[done + i]] = true;
        }
        done += m;
    }
    CHECK_U64(done, n);
}

/* ---- least recently used, as a list ---- */

typedef struct list {
    uint32_t key[N_KEY]; /* most recent first */
    uint32_t n;
} list;

static bool list_touch(list *l, uint32_t key, uint32_t cap)
{
    uint32_t i = 0;
    while (i < l->n && l->key[i] != key) i++;
    const bool hit = i < l->n;
    if (!hit) i = l->n < cap ? l->n++ : cap - 1;
    memmove(l->key + 1, l->key, i * sizeof l->key[0]);
    l->key[0] = key;
    return hit;
}

/* The experts of a token are asked for together: first those that are there, and these must not
 * make room for the others, which holds as soon as there are slots for all. */
static uint64_t list_layer(list *l, uint32_t layer_idx, const uint32_t *ids, uint32_t n,
                           uint32_t cap)
{
    uint64_t hits = 0;
    bool there[N_EXPERT] = {false};
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < l->n; k++) {
            there[i] = there[i] || l->key[k] == layer_idx * N_EXPERT + ids[i];
        }
    }
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < n; i++) {
            if (there[i] == (pass == 0)) {
                hits += list_touch(l, layer_idx * N_EXPERT + ids[i], cap);
            }
        }
    }
    return hits;
}

static uint64_t lru_mismatch(uint32_t n_slot, fg_policy policy)
{
    fg_cache *c = open_cache(n_slot, policy, NULL);
    list l = {.n = 0};
    fg_rng r;
    uint32_t ids[N_EXPERT];
    uint64_t hits = 0, loads = 0, bad = 0;
    fg_rng_init(&r, n_slot);
    for (uint32_t t = 0; c != NULL && t < 400; t++) {
        for (uint32_t y = 0; y < N_LAYER; y++) {
            const uint32_t n = draw(&r, ids, N_USED);
            hits += list_layer(&l, y, ids, n, n_slot);
            layer(c, y, ids, n, &loads);
            bad += fg_cache_get_stats(c).n_hit != hits;
        }
    }
    const fg_cache_stats s = fg_cache_get_stats(c);
    CHECK_U64(s.n_hit + s.n_miss, 400 * N_LAYER * N_USED);
    CHECK_U64(s.n_miss, loads);
    CHECK_U64(s.n_prefetch_hit + s.n_prefetch + s.n_wasted, 0);
    fg_cache_destroy(&c);
    return bad;
}

FG_TEST(lru_is_a_list)
{
    static const uint32_t sizes[] = {3, 4, 7, 12, 13, 50, 100, 191, 192};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        CHECK_U64(lru_mismatch(sizes[i], FG_POLICY_LRU), 0);
    }
    CHECK(lru_mismatch(50, FG_POLICY_LFU) > 0); /* negative control */
}

/* ---- what the other policies are for ---- */

/* Hits when a hot set is asked for now and then among many others. */
static uint64_t hot_hits(fg_policy policy, const uint64_t *heat)
{
    fg_cache *c = open_cache(20, policy, heat);
    fg_rng r;
    uint32_t ids[N_EXPERT];
    uint64_t loads = 0;
    fg_rng_init(&r, 3);
    for (uint32_t t = 0; c != NULL && t < 600; t++) {
        for (uint32_t y = 0; y < N_LAYER; y++) layer(c, y, ids, draw(&r, ids, N_USED), &loads);
    }
    const uint64_t hits = fg_cache_get_stats(c).n_hit;
    fg_cache_destroy(&c);
    return hits;
}

FG_TEST(frequent_experts_stay)
{
    uint64_t heat[N_KEY], cold[N_KEY];
    for (uint32_t i = 0; i < N_KEY; i++) { /* draw() prefers low numbers */
        heat[i] = N_EXPERT - i % N_EXPERT;
        cold[i] = i % N_EXPERT;
    }
    const uint64_t lru = hot_hits(FG_POLICY_LRU, NULL), lfu = hot_hits(FG_POLICY_LFU, NULL),
                   pin = hot_hits(FG_POLICY_PIN, heat), bad = hot_hits(FG_POLICY_PIN, cold);
    CHECK(lfu > lru);
    CHECK(pin > lru);
    CHECK(bad < lru); /* negative control: the heat map matters */
    CHECK_U64(hot_hits(FG_POLICY_PIN, NULL), lru);
}

/* Loads in the tokens after the subject changed, which turns around what is frequent. */
static uint64_t loads_after_change(fg_policy policy, const uint64_t *heat)
{
    enum { BEFORE = 2000, AFTER = 500 };
    fg_cache *c = open_cache(N_KEY / 2, policy, heat);
    fg_rng r;
    uint32_t ids[N_EXPERT], other[N_EXPERT];
    uint64_t loads = 0, before = 0;
    fg_rng_init(&r, 5);
    for (uint32_t t = 0; c != NULL && t < BEFORE + AFTER; t++) {
        if (t == BEFORE) before = loads;
        for (uint32_t y = 0; y < N_LAYER; y++) {
            const uint32_t n = draw(&r, ids, N_USED);
            for (uint32_t i = 0; i < n; i++) {
                other[i] = t < BEFORE ? ids[i] : N_EXPERT - 1 - ids[n - 1 - i];
            }
            layer(c, y, other, n, &loads);
        }
    }
    fg_cache_destroy(&c);
    return loads - before;
}

FG_TEST(old_subjects_fade)
{
    uint64_t heat[N_KEY];
    for (uint32_t i = 0; i < N_KEY; i++) heat[i] = N_EXPERT - i % N_EXPERT; /* of the first */
    const uint64_t lru = loads_after_change(FG_POLICY_LRU, NULL);
    CHECK(loads_after_change(FG_POLICY_LFU, NULL) < lru);
    CHECK(loads_after_change(FG_POLICY_PIN, heat) > lru); /* negative control: what does not */
}

/* A prompt passes over all experts of all layers again and again. */
FG_TEST(scan_keeps_what_it_finds)
{
    static const uint32_t sizes[] = {3, 4, 5, 9, 40, 96, 180, 192};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (int policy = FG_POLICY_LRU; policy <= FG_POLICY_LFU; policy++) {
            fg_cache *c = open_cache(sizes[i], (fg_policy)policy, NULL);
            uint32_t ids[N_EXPERT];
            uint64_t loads = 0;
            REQUIRE(c != NULL);
            for (uint32_t chunk = 0; chunk < 5; chunk++) {
                const uint64_t before = loads;
                for (uint32_t y = 0; y < N_LAYER; y++) {
                    for (uint32_t e = 0; e < N_EXPERT; e++) ids[e] = e;
                    layer(c, y, ids, N_EXPERT, &loads);
                }
                CHECK(loads - before <= N_KEY); /* each expert at most once */
                const uint32_t lost = 2 * FG_CACHE_WAVE, n = sizes[i];
                const uint64_t kept = n > lost ? n - lost : 0;
                if (chunk > 0) CHECK(loads - before <= N_KEY - kept);
                if (chunk > 0 && n == N_KEY) CHECK_U64(loads - before, 0);
            }
            fg_cache_destroy(&c);
        }
    }
}

/* ---- hints ---- */

FG_TEST(prefetch_takes_nothing_that_is_needed)
{
    fg_cache *c = open_cache(5, FG_POLICY_LRU, NULL);
    REQUIRE(c != NULL);
    uint32_t ids[N_EXPERT] = {1, 2}, k;
    const fg_cache_load *loads;
    fg_cache_load got;
    fg_cache_begin(c, 0, ids, 2);
    CHECK_U64(fg_cache_next(c, &loads, &k), 2);
    for (uint32_t e = 0; e < 20; e++) { /* 3 slots are free; a hint takes none from another */
        CHECK(fg_cache_prefetch(c, 1, e, &got) == (e < 3));
    }
    CHECK(fg_cache_slot(c, 0, 1) != FG_CACHE_NO_SLOT && fg_cache_slot(c, 0, 2) != FG_CACHE_NO_SLOT);
    CHECK_U64(fg_cache_next(c, &loads, &k), 0);
    uint32_t next[2] = {3, 2}; /* 2 is there */
    fg_cache_begin(c, 1, next, 2);
    CHECK(next[0] == 2 && next[1] == 3);
    CHECK_U64(fg_cache_next(c, &loads, &k), 2);
    CHECK(k == 1 && loads[0].expert == 3);
    fg_cache_stats s = fg_cache_get_stats(c);
    CHECK_U64(s.n_prefetch_hit, 1);
    CHECK_U64(s.n_miss, 3);
    CHECK_U64(s.n_wasted, 0); /* this layer's wrong hints may still be read into */
    fg_cache_end(c);
    fg_cache_begin(c, 1, next, 2);
    CHECK_U64(fg_cache_next(c, &loads, &k), 2);
    CHECK_U64(fg_cache_get_stats(c).n_hit, 2);
    fg_cache_end(c);
    uint32_t more[2] = {7, 8}; /* then they go before what was used */
    fg_cache_begin(c, 2, more, 2);
    CHECK_U64(fg_cache_next(c, &loads, &k), 2);
    CHECK_U64(fg_cache_get_stats(c).n_wasted, 2);
    CHECK(fg_cache_slot(c, 1, 2) != FG_CACHE_NO_SLOT && fg_cache_slot(c, 1, 3) != FG_CACHE_NO_SLOT);
    fg_cache_destroy(&c);

    c = open_cache(3, FG_POLICY_LRU, NULL); /* all pinned: no room for a hint */
    REQUIRE(c != NULL);
    uint32_t three[3] = {1, 2, 3};
    fg_cache_begin(c, 0, three, 3);
    CHECK_U64(fg_cache_next(c, &loads, &k), 3);
    CHECK(!fg_cache_prefetch(c, 1, 0, &got));
    fg_cache_destroy(&c);
}

/* Experts of layer 0 in, then a hint about layer 1 at the cost of the oldest of them. */
static fg_cache *evicted_for_a_hint(void)
{
    fg_cache *c = open_hinted(4, FG_POLICY_LRU, NULL, true);
    uint32_t ids[4] = {1, 2, 3, 4};
    uint64_t n = 0;
    fg_cache_load got;
    if (c == NULL) return NULL;
    layer(c, 0, ids, 4, &n);
    CHECK(fg_cache_prefetch(c, 1, 9, &got) && fg_cache_slot(c, 0, 1) == FG_CACHE_NO_SLOT);
    return c;
}

static int64_t extra(const fg_cache *c)
{
    const fg_cache_stats s = fg_cache_get_stats(c);
    return fg_cache_extra(&s);
}

FG_TEST(what_hints_cost_others)
{
    uint32_t one[1] = {1}, two[1] = {2}, nine[1] = {9}, other[1] = {8};
    uint64_t n = 0;
    fg_cache *c = evicted_for_a_hint();
    REQUIRE(c != NULL);
    layer(c, 0, two, 1, &n);
    CHECK(extra(c) == 0);
    layer(c, 0, one, 1, &n); /* it takes the place of the hint that took its own */
    CHECK(extra(c) == 1 && fg_cache_get_stats(c).n_lost == 1);
    CHECK(fg_cache_slot(c, 1, 9) == FG_CACHE_NO_SLOT && fg_cache_slot(c, 0, 3) != FG_CACHE_NO_SLOT);
    fg_cache_destroy(&c);

    c = evicted_for_a_hint(); /* the hint was right: its expert would have come in anyway */
    REQUIRE(c != NULL);
    layer(c, 1, nine, 1, &n);
    layer(c, 0, one, 1, &n);
    CHECK(extra(c) == 0 && fg_cache_get_stats(c).n_lost == 0);
    fg_cache_destroy(&c);

    c = evicted_for_a_hint(); /* wrong, and nobody asks again for what went: it would have gone */
    REQUIRE(c != NULL);
    layer(c, 1, other, 1, &n);
    CHECK(fg_cache_slot(c, 1, 9) != FG_CACHE_NO_SLOT && fg_cache_slot(c, 0, 2) == FG_CACHE_NO_SLOT);
    layer(c, 2, other, 1, &n); /* the hint's layer has passed: it goes first, nobody with it */
    CHECK(fg_cache_slot(c, 1, 9) == FG_CACHE_NO_SLOT && fg_cache_slot(c, 0, 3) != FG_CACHE_NO_SLOT);
    layer(c, 0, one, 1, &n);
    CHECK(extra(c) == 0);
    fg_cache_destroy(&c);
}

/* Twelve experts, one after the other, in twelve slots, and a hint for the last layer that is
 * always wrong. */
static void go_round(fg_cache *c)
{
    fg_cache_load got;
    uint64_t n = 0;
    for (uint32_t pass = 0; pass < 20; pass++) {
        for (uint32_t l = 0; l < N_LAYER; l++) {
            uint32_t ids[2] = {0, 1};
            layer(c, l, ids, 2, &n);
            if (l == 0 && pass > 0) CHECK(fg_cache_prefetch(c, N_LAYER - 1, 2 + pass, &got));
        }
    }
}

FG_TEST(a_hint_costs_one_expert_at_most)
{
    fg_cache *c = open_hinted(12, FG_POLICY_LRU, NULL, true);
    REQUIRE(c != NULL);
    go_round(c);
    const fg_cache_stats s = fg_cache_get_stats(c);
    CHECK_U64(s.n_alone, 12);
    CHECK_U64(s.n_prefetch, 19);
    CHECK(s.n_lost > 0 && s.n_lost <= s.n_prefetch && s.n_miss == 12 + s.n_lost);
    fg_cache_destroy(&c);
    c = open_cache(12, FG_POLICY_LRU, NULL); /* negative control: hints keep their places */
    REQUIRE(c != NULL);
    go_round(c);
    CHECK(fg_cache_get_stats(c).n_miss > 12 + 3 * 19);
    fg_cache_destroy(&c);
}

/* Tokens, hints of any quality for any layer, slots that come and go, experts that a card takes:
 * the directory knows what it would have read without hints, and reads one more a hint at most.
 * Returns what hints made it read. */
static int64_t hint_at_random(uint32_t n_slot, fg_policy policy, const uint64_t *heat,
                              uint64_t seed)
{
    fg_cache *c = open_hinted(n_slot, policy, heat, true);
    fg_cache *without = open_cache(n_slot, policy, heat);
    fg_rng r;
    uint64_t n = 0;
    if (c == NULL || without == NULL) return 0;
    fg_rng_init(&r, seed);
    for (uint32_t i = 0; i < 300 * N_LAYER; i++) {
        const uint32_t l = i % N_LAYER;
        uint32_t ids[N_USED], same[N_USED];
        draw(&r, ids, N_USED);
        memcpy(same, ids, sizeof ids);
        layer(c, l, ids, N_USED, &n);
        layer(without, l, same, N_USED, &n);
        for (uint64_t k = fg_rng_u64(&r) % 4; k > 0; k--) {
            fg_cache_load got;
            const uint32_t to = (l + 1 + (uint32_t)(fg_rng_u64(&r) % 4)) % N_LAYER;
            draw(&r, same, N_USED);
            (void)fg_cache_prefetch(c, to, same[0], &got);
        }
        if (i % 101 == 100) {
            const uint32_t limit = n_slot - (uint32_t)(fg_rng_u64(&r) % 3);
            fg_cache_set_limit(c, limit, NULL, NULL);
            fg_cache_set_limit(without, limit, NULL, NULL);
        }
        if (i % 53 == 52) {
            const uint32_t e = (uint32_t)(fg_rng_u64(&r) % N_EXPERT);
            fg_cache_elsewhere(c, l, e, i % 2 == 0);
            fg_cache_elsewhere(without, l, e, i % 2 == 0);
        }
        const fg_cache_stats a = fg_cache_get_stats(c), b = fg_cache_get_stats(without);
        CHECK_U64(a.n_alone, b.n_miss);
        CHECK(a.n_lost <= a.n_prefetch);
    }
    const int64_t cost = extra(c);
    fg_cache_destroy(&c);
    fg_cache_destroy(&without);
    return cost;
}

FG_TEST(hints_are_known_by_what_is_without)
{
    uint64_t heat[N_KEY];
    int64_t cost = 0;
    for (uint32_t i = 0; i < N_KEY; i++) heat[i] = i * 37 % 100;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        const uint32_t n_slot = 5 + (uint32_t)seed * 13;
        cost += hint_at_random(n_slot, FG_POLICY_LRU, NULL, seed);
        cost += hint_at_random(n_slot, FG_POLICY_LFU, NULL, seed);
        cost += hint_at_random(n_slot, FG_POLICY_PIN, heat, seed);
    }
    CHECK(cost > 0);
}

FG_TEST(hints_spare_the_hottest)
{
    uint64_t heat[N_KEY] = {0}, n = 0;
    for (uint32_t e = 0; e < 3; e++) heat[e] = 100 - e; /* 3 of 4 slots are for them */
    for (int policy = 0; policy < 2; policy++) {
        fg_cache *c = open_cache(4, policy == 0 ? FG_POLICY_PIN : FG_POLICY_LRU, heat);
        REQUIRE(c != NULL);
        uint32_t ids[3] = {0, 1, 2}, last[1] = {7};
        fg_cache_load got;
        layer(c, 0, ids, 3, &n);
        layer(c, 1, last, 1, &n);
        CHECK(fg_cache_prefetch(c, 2, 9, &got));
        CHECK((fg_cache_slot(c, 0, 0) != FG_CACHE_NO_SLOT) == (policy == 0)); /* control: LRU */
        fg_cache_destroy(&c);
    }
}

static uint32_t n_emptied;
static void emptied(void *ctx, uint32_t slot)
{
    (void)ctx;
    (void)slot;
    n_emptied++;
}

FG_TEST(limit_can_change)
{
    fg_cache *c = open_cache(60, FG_POLICY_LRU, NULL);
    fg_rng r;
    uint32_t ids[N_EXPERT];
    uint64_t loads = 0;
    REQUIRE(c != NULL);
    fg_rng_init(&r, 1);
    for (uint32_t t = 0; t < 100; t++) layer(c, t % N_LAYER, ids, draw(&r, ids, N_USED), &loads);
    fg_cache_set_limit(c, 3, emptied, NULL);
    CHECK_U64(n_emptied, 57);
    CHECK_U64(fg_cache_limit(c), 3);
    for (uint32_t t = 0; t < 100; t++) {
        layer(c, t % N_LAYER, ids, draw(&r, ids, t % 7 == 0 ? 30 : N_USED), &loads);
    }
    fg_cache_set_limit(c, 60, NULL, NULL);
    for (uint32_t t = 0; t < 100; t++) layer(c, t % N_LAYER, ids, draw(&r, ids, N_USED), &loads);
    fg_cache_destroy(&c);
}

/* What a device has is not read ahead, and a slot with it is the first to go, whatever the policy
 * made of it; a layer that asks for nothing is one all the same. */
FG_TEST(experts_elsewhere)
{
    static const fg_policy policies[] = {FG_POLICY_LRU, FG_POLICY_PIN};
    uint64_t heat[N_KEY], n_load = 0;
    for (uint32_t i = 0; i < N_KEY; i++) heat[i] = N_KEY - i; /* layer 0's first ones stay */
    for (size_t p = 0; p < 2; p++) {
        enum { SLOTS = 12 };
        fg_cache *c = open_cache(SLOTS, policies[p], policies[p] == FG_POLICY_PIN ? heat : NULL);
        fg_cache_load got;
        REQUIRE(c != NULL);
        for (uint32_t e = 0; e < SLOTS; e++) layer(c, e % 2, (uint32_t[]){e / 2}, 1, &n_load);
        fg_cache_elsewhere(c, 1, 30, true);
        CHECK(!fg_cache_prefetch(c, 1, 30, &got));
        fg_cache_elsewhere(c, 1, 30, false);
        CHECK(fg_cache_prefetch(c, 1, 30, &got)); /* control: it was for that alone */
        layer(c, 1, (uint32_t[]){30}, 1, &n_load);
        const uint32_t kept = fg_cache_slot(c, 0, 2); /* hot, and not the longest unused */
        REQUIRE(kept != FG_CACHE_NO_SLOT);
        fg_cache_elsewhere(c, 0, 2, true);
        layer(c, 2, (uint32_t[]){31}, 1, &n_load);
        CHECK(fg_cache_slot(c, 0, 2) == FG_CACHE_NO_SLOT && fg_cache_slot(c, 2, 31) == kept);
        /* a hint that an empty layer passes without goes first as well */
        CHECK(fg_cache_prefetch(c, 3, 7, &got));
        layer(c, 3, (uint32_t[]){0}, 0, &n_load);
        layer(c, 4, (uint32_t[]){5}, 1, &n_load);
        CHECK(fg_cache_slot(c, 3, 7) == FG_CACHE_NO_SLOT);
        fg_cache_destroy(&c);
    }
}

FG_TEST(creation_is_checked)
{
    fg_err err = {0};
    fg_cache *c;
    fg_cache_opts o = {.n_layer = N_LAYER, .n_expert = N_EXPERT, .n_used = N_USED, .n_slot = 2};
    CHECK(fg_cache_create(&c, &o, &err) == FG_EINVAL && c == NULL);
    CHECK(strstr(err.msg, "2 slots, expected 3 to 192") != NULL);
    o.n_slot = N_KEY + 1;
    CHECK(fg_cache_create(&c, &o, &err) == FG_EINVAL);
    o.n_slot = 10;
    o.n_used = 33;
    CHECK(fg_cache_create(&c, &o, &err) == FG_EINVAL);
    /* no more than a token needs */
    o = (fg_cache_opts){.n_layer = 1, .n_expert = 2, .n_used = 2, .n_slot = 2};
    CHECK_OK(fg_cache_create(&c, &o, &err), &err);
    fg_cache_destroy(&c);
    o = (fg_cache_opts){.n_layer = 4, .n_expert = 8, .n_used = 2, .n_slot = 9};
    o.policy = FG_POLICY_COUNT;
    CHECK(fg_cache_create(&c, &o, &err) == FG_EINVAL);
}

/* Rows that have no name, or the name or stored number of another one. */
static uint32_t n_bad_rows(const fg_policy_row *rows, uint32_t n)
{
    uint32_t n_bad = 0;
    for (uint32_t i = 0; i < n; i++) {
        n_bad += rows[i].name == NULL || rows[i].live != (rows[i].stored != FG_NOT_STORED);
        for (uint32_t k = 0; k < i; k++) {
            n_bad += rows[i].name != NULL && strcmp(rows[i].name, rows[k].name) == 0;
            n_bad += rows[i].live && rows[i].stored == rows[k].stored;
        }
    }
    return n_bad;
}

FG_TEST(list_of_policies)
{
    fg_policy_row rows[FG_POLICY_COUNT];
    for (uint32_t i = 0; i < FG_POLICY_COUNT; i++) {
        rows[i] = *fg_policy_get((fg_policy)i);
        CHECK_STR(fg_policy_name((fg_policy)i), rows[i].name);
        CHECK(fg_policy_is_live((fg_policy)i) == rows[i].live);
    }
    CHECK_U64(n_bad_rows(rows, FG_POLICY_COUNT), 0);
    CHECK(fg_policy_get(FG_POLICY_COUNT) == NULL && fg_policy_name(FG_POLICY_COUNT) == NULL);
    CHECK(!fg_policy_is_live(FG_POLICY_RANDOM) && !fg_policy_is_live(FG_POLICY_COUNT));
    rows[1].stored = rows[0].stored; /* negative controls */
    CHECK_U64(n_bad_rows(rows, FG_POLICY_COUNT), 1);
    rows[2].name = rows[0].name;
    CHECK_U64(n_bad_rows(rows, FG_POLICY_COUNT), 2);
}
