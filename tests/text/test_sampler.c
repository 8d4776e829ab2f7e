/* SPDX-License-Identifier: MIT
 *
 * The sampler against a plain one that sorts everything, against distributions, and on bad input.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/text/sampler.h"
#include "tests/fg_test.h"

#define OPTS(temp, top_k, top_p, min_p, seed)                                                      \
    {                                                                                              \
        sizeof(fg_sampler_opts), temp, top_p, min_p, seed, top_k, 1, 0, 0, NULL, 0                 \
    }

static fg_sampler *make(double temp, uint32_t top_k, double top_p, double min_p, uint64_t seed,
                        uint32_t n, const uint64_t *mask)
{
    const fg_sampler_opts o = {sizeof o, temp, top_p, min_p, seed, top_k, 1, 0, 0, NULL, 0};
    fg_sampler *s = NULL;
    fg_err err = {0};
    if (fg_sampler_create(&s, &o, n, mask, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    return s;
}

static uint32_t pick(fg_sampler *s, const float *logits, double *logprob)
{
    uint32_t id = UINT32_MAX;
    fg_err err = {0};
    if (fg_sampler_pick(s, logits, &id, logprob, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    return id;
}

FG_TEST(greedy_takes_the_largest_and_the_lower_id)
{
    const float logits[] = {-1, 3, 5, 5, -0.0f, 5};
    fg_sampler *s = make(0, 0, 1, 0, 1, 6, NULL);
    const fg_rng before = fg_sampler_rng(s);
    double logprob = 0;
    CHECK_U64(pick(s, logits, &logprob), 2);
    double sum = 0;
    for (int i = 0; i < 6; i++) sum += exp((double)logits[i] - 5);
    CHECK_NEAR(logprob, -log(sum), 1e-14);
    const fg_rng after = fg_sampler_rng(s);
    CHECK(memcmp(&before, &after, sizeof before) == 0); /* no random number used */
    fg_sampler_destroy(&s);
    const float zeros[] = {-0.0f, 0.0f};
    s = make(0, 0, 1, 0, 1, 2, NULL);
    CHECK_U64(pick(s, zeros, NULL), 0);
    fg_sampler_destroy(&s);
}

FG_TEST(ids_without_a_token_are_never_chosen)
{
    float logits[130];
    for (int i = 0; i < 130; i++) logits[i] = (float)(i % 7);
    logits[0] = logits[63] = logits[64] = logits[129] = 50; /* all masked */
    const uint64_t mask[3] = {~UINT64_C(0) << 1 >> 2 << 1, ~UINT64_C(1), 1};
    const double temps[] = {0, 1, 3};
    for (int k = 0; k < 9; k++) {
        fg_sampler *s = make(temps[k % 3], k < 3 ? 0 : 9, k < 6 ? 1 : 0.9, 0, 4, 130, mask);
        for (int i = 0; i < 300; i++) {
            const uint32_t id = pick(s, logits, NULL);
            CHECK(id < 130 && (mask[id / 64] >> (id % 64) & 1) == 1);
        }
        fg_sampler_destroy(&s);
    }
}

/* The definition of the header, with libm's exponential: sort all, cut, draw. */
typedef struct ranked {
    float logit;
    uint32_t id;
} ranked;

static int by_rank(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static uint32_t plain_pick(const float *logits, uint32_t n, const fg_sampler_opts *o, fg_rng *rng)
{
    ranked *list = fg_mem_alloc(n * sizeof *list);
    double *w = fg_mem_alloc(n * sizeof *w);
    for (uint32_t i = 0; i < n; i++) list[i] = (ranked){logits[i], i};
    qsort(list, n, sizeof *list, by_rank);
    for (uint32_t i = 0; i < n; i++) {
        w[i] = exp(((double)list[i].logit - (double)list[0].logit) / o->temp);
    }
    uint32_t kept = o->top_k > 0 && o->top_k < n ? o->top_k : n;
    double sum = 0, have = 0;
    for (uint32_t i = 0; i < kept; i++) sum += w[i];
    for (uint32_t i = 0; i < kept && o->top_p < 1; i++) {
        have += w[i];
        if (have >= o->top_p * sum) kept = i + 1;
    }
    uint32_t n_min = 1;
    while (n_min < kept && w[n_min] >= o->min_p) n_min++;
    sum = 0;
    for (uint32_t i = 0; i < n_min; i++) sum += w[i];
    const double point = fg_rng_f64(rng) * sum;
    have = 0;
    uint32_t id = list[0].id;
    for (uint32_t i = 0; i < n_min; i++) {
        have += w[i];
        id = list[i].id;
        if (have > point) break;
    }
    fg_mem_free(list);
    fg_mem_free(w);
    return id;
}

/* Equal choices in 1500 draws: a borderline, where the two exponentials round apart, has a chance
 * of about 1e-12 each. */
FG_TEST(selection_equals_full_sorting)
{
    enum { N = 3000 };
    static float logits[N];
    static const fg_sampler_opts options[] = {
        OPTS(1.0, 0, 0.95, 0, 5), OPTS(0.7, 40, 1, 0, 6),      OPTS(1.3, 0, 0.5, 0, 7),
        OPTS(1.0, 1, 0.9, 0, 8),  OPTS(2.0, 100, 0.9, 0.1, 9), OPTS(0.1, 0, 0.999999, 0, 1),
        OPTS(5.0, 0, 0.95, 0, 2), OPTS(1.0, 0, 1, 0.05, 3),    OPTS(1.0, 2999, 1, 1e-3, 4),
        OPTS(1.0, 0, 1e-9, 0, 4),
    };
    fg_rng r;
    fg_rng_init(&r, 17);
    size_t n_other = 0;
    for (size_t k = 0; k < sizeof options / sizeof options[0]; k++) {
        const fg_sampler_opts *o = &options[k];
        fg_sampler *s = make(o->temp, o->top_k, o->top_p, o->min_p, o->seed, N, NULL);
        fg_rng plain;
        fg_rng_init(&plain, o->seed);
        for (int round = 0; round < 150; round++) {
            const double spread = (double)(1 + round % 12);
            for (int i = 0; i < N; i++) {
                const double g = fg_rng_f64(&r) + fg_rng_f64(&r) + fg_rng_f64(&r) - 1.5;
                /* every third round in steps of 1/4: many ties */
                logits[i] = (float)(round % 3 == 0 ? floor(g * spread * 4) / 4 : g * spread);
            }
            const uint32_t got = pick(s, logits, NULL), want = plain_pick(logits, N, o, &plain);
            if (got != want) {
                fg_test_fail(__FILE__, __LINE__, "setting %zu round %d: id %u, expected %u", k,
                             round, (unsigned)got, (unsigned)want);
                break;
            }
            n_other += got != 0;
        }
        fg_sampler_destroy(&s);
    }
    CHECK(n_other > 1000); /* the draws are not all alike */
}

/* Without cuts, the frequencies are the probabilities: each count within 5 standard deviations. */
FG_TEST(draws_follow_the_distribution)
{
    enum { N = 2500, DRAWS = 50000 };
    static float logits[N];
    static unsigned count[N];
    const double temps[] = {1.0, 0.5};
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < N; i++) logits[i] = (float)(i % 500 == 3 ? 6 + i % 3 : -1 - i % 5);
        memset(count, 0, sizeof count);
        fg_sampler *s = make(temps[k], 0, 1, 0, 31, N, NULL);
        double sum = 0;
        for (int i = 0; i < N; i++) sum += exp((double)logits[i] / temps[k]);
        for (int d = 0; d < DRAWS; d++) {
            double logprob;
            const uint32_t id = pick(s, logits, d < 50 ? &logprob : NULL);
            count[id < N ? id : 0]++;
            if (d >= 50) continue;
            double sum_1 = 0;
            for (int i = 0; i < N; i++) sum_1 += exp((double)logits[i]);
            CHECK_NEAR(logprob, (double)logits[id] - log(sum_1), 1e-12);
        }
        double rest = 0, n_rest = 0;
        for (int i = 0; i < N; i++) {
            const double p = exp((double)logits[i] / temps[k]) / sum;
            if (p * DRAWS < 25) {
                rest += p;
                n_rest += count[i];
                continue;
            }
            CHECK_NEAR(count[i], p * DRAWS, 5 * sqrt(p * (1 - p) * DRAWS));
        }
        CHECK_NEAR(n_rest, rest * DRAWS, 5 * sqrt(rest * DRAWS) + 1);
        fg_sampler_destroy(&s);
    }
}

/* The sequence is part of the contract: the same on every machine and in every later version. */
FG_TEST(the_same_seed_gives_this_sequence)
{
    enum { N = 5000 };
    static float logits[N];
    fg_rng r;
    fg_rng_init(&r, 1234);
    for (int i = 0; i < N; i++) logits[i] = (float)(fg_rng_f64(&r) * 12.0);
    static const uint32_t want[3][6] = {{941, 2706, 292, 3759, 2289, 3423},
                                        {2956, 3622, 748, 4329, 564, 4002},
                                        {380, 1887, 3412, 4619, 4979, 3809}};
    const fg_sampler_opts options[3] = {OPTS(1.0, 0, 0.95, 0, 42), OPTS(0.8, 50, 0.9, 0.02, 42),
                                        OPTS(1.0, 0, 1, 0, 42)};
    for (int k = 0; k < 3; k++) {
        const fg_sampler_opts *o = &options[k];
        fg_sampler *s = make(o->temp, o->top_k, o->top_p, o->min_p, o->seed, N, NULL);
        for (int i = 0; i < 6; i++) CHECK_U64(pick(s, logits, NULL), want[k][i]);
        const fg_rng saved = fg_sampler_rng(s);
        const uint32_t a = pick(s, logits, NULL), b = pick(s, logits, NULL);
        fg_sampler_set_rng(s, saved);
        CHECK_U64(pick(s, logits, NULL), a);
        CHECK_U64(pick(s, logits, NULL), b);
        fg_sampler_destroy(&s);
    }
}

FG_TEST(release_sized_and_extreme_logits)
{
    enum { N = 200064 };
    float *logits = fg_mem_zalloc_array(N, sizeof *logits);
    REQUIRE(logits != NULL);
    const double top_ps[] = {0.95, 1.0};
    for (int k = 0; k < 2; k++) {
        fg_sampler *s = make(1, 0, top_ps[k], 0, 3, N, NULL);
        double logprob = 0;
        for (int i = 0; i < N; i++) logits[i] = 2.5f; /* all equal */
        CHECK(pick(s, logits, &logprob) < N * 0.95 + 2 || k == 1);
        CHECK_NEAR(logprob, -log((double)N), 1e-9);
        for (int i = 0; i < N; i++) logits[i] = -3.0e38f;
        logits[777] = 3.0e38f; /* the difference is infinite in f32, not in double */
        CHECK_U64(pick(s, logits, &logprob), 777);
        CHECK_NEAR(logprob, 0, 1e-12);
        for (int i = 0; i < N; i++) logits[i] = -INFINITY;
        logits[N - 1] = -5;
        CHECK_U64(pick(s, logits, &logprob), N - 1);
        CHECK_NEAR(logprob, 0, 0);
        fg_sampler_destroy(&s);
    }
    fg_mem_free(logits);
}

FG_TEST(bad_logits_are_named)
{
    float logits[100] = {0};
    const double temps[] = {0, 1};
    for (int k = 0; k < 2; k++) {
        fg_sampler *s = make(temps[k], 0, 0.95, 0, 3, 100, NULL);
        const fg_rng before = fg_sampler_rng(s);
        uint32_t id;
        fg_err err = {0};
        logits[71] = NAN;
        CHECK(fg_sampler_pick(s, logits, &id, NULL, &err) == FG_EDATA);
        CHECK_STR(err.msg, "logits: NaN at id 71, expected a number");
        logits[71] = INFINITY;
        CHECK(fg_sampler_pick(s, logits, &id, NULL, &err) == FG_EDATA);
        CHECK_STR(err.msg, "logits: infinity at id 71, expected a number");
        for (int i = 0; i < 100; i++) logits[i] = -INFINITY;
        CHECK(fg_sampler_pick(s, logits, &id, NULL, &err) == FG_EDATA);
        const fg_rng after = fg_sampler_rng(s);
        CHECK(memcmp(&before, &after, sizeof before) == 0);
        memset(logits, 0, sizeof logits);
        CHECK(pick(s, logits, NULL) < 100);
        fg_sampler_destroy(&s);
    }
}

FG_TEST(bad_settings_are_named)
{
    static const fg_sampler_opts bad[] = {
        OPTS(-1, 0, 1, 0, 0), OPTS(1e-9, 0, 1, 0, 0), OPTS((double)NAN, 0, 1, 0, 0),
        OPTS(1, 0, 0, 0, 0),  OPTS(1, 0, 1.01, 0, 0), OPTS(1, 0, (double)NAN, 0, 0),
        OPTS(1, 0, 1, -1, 0), OPTS(1, 0, 1, 2, 0)};
    fg_sampler *s;
    fg_err err = {0};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(fg_sampler_create(&s, &bad[i], 10, NULL, &err) == FG_EINVAL && s == NULL);
    }
    const fg_sampler_opts good = fg_sampler_opts_default();
    const uint64_t none = UINT64_C(1) << 10; /* beyond the vocabulary */
    CHECK(fg_sampler_create(&s, &good, 10, &none, &err) == FG_EINVAL);
    CHECK(fg_sampler_create(&s, &good, 0, NULL, &err) == FG_EINVAL);
    for (uint64_t k = 1; k <= 5; k++) {
        const uint64_t mask = 3;
        fg_mem_fail_after(k);
        CHECK(fg_sampler_create(&s, &good, 10, &mask, &err) == FG_ENOMEM && s == NULL);
        fg_mem_fail_after(0);
    }
}

/* Logits with penalties, by the definition. */
static void by_hand(float *logits, uint32_t n, const fg_sampler_opts *o, const uint32_t *prompt,
                    size_t n_prompt, const uint32_t *reply, size_t n_reply)
{
    for (uint32_t id = 0; id < n; id++) {
        uint64_t times = 0;
        bool seen = false;
        for (size_t i = 0; i < n_prompt; i++) seen = seen || prompt[i] == id;
        for (size_t i = 0; i < n_reply; i++) times += reply[i] == id;
        double x = (double)logits[id];
        if (seen || times > 0) x = x > 0 ? x / o->repeat : x * o->repeat;
        if (times > 0) x -= o->presence + (double)times * o->frequency;
        logits[id] = (float)x;
        for (size_t i = 0; i < o->n_bias; i++) {
            if (o->bias[i].id == id) logits[id] += o->bias[i].add;
        }
    }
}

FG_TEST(penalties_and_bias_bend_the_choice_alone)
{
    enum { N = 200, N_REPLY = 40 };
    static const uint32_t prompt[] = {5, 9, 9, 180};
    const fg_logit_bias bias[] = {{3, 2.5f}, {9, -INFINITY}, {199, -1}};
    fg_sampler_opts o = OPTS(1, 0, 1, 0, 4);
    o.repeat = 1.3;
    o.presence = 0.4;
    o.frequency = 0.25;
    o.bias = bias;
    o.n_bias = 3;
    fg_sampler *s, *plain = make(1, 0, 1, 0, 4, N, NULL), *other = make(1, 0, 1, 0, 4, N, NULL);
    fg_err err = {0};
    uint32_t reply[N_REPLY];
    int n_other = 0;
    REQUIRE_OK(fg_sampler_create(&s, &o, N, NULL, &err), &err);
    for (int round = 0; round < 2; round++) { /* begun anew, nothing of before counts */
        CHECK_OK(fg_sampler_begin(s, prompt, 4, &err), &err);
        for (size_t i = 0; i < N_REPLY; i++) {
            float logits[N], bent[N];
            for (uint32_t id = 0; id < N; id++) {
                logits[id] = bent[id] = (float)((id * 37 + i * 11) % 83) / 12.0f - 3.0f;
            }
            by_hand(bent, N, &o, prompt, 4, reply, i);
            double got = 0, want = 0, sum = 0;
            const uint32_t id = pick(s, logits, &got);
            CHECK_U64(id, pick(plain, bent, NULL));
            n_other += id != pick(other, logits, NULL); /* control: without them */
            for (uint32_t k = 0; k < N; k++) sum += exp((double)logits[k]);
            want = (double)logits[id] - log(sum);
            CHECK_NEAR(got, want, 1e-9); /* the model's, not the bent ones */
            CHECK(id != 9);
            reply[i] = id;
            fg_sampler_note(s, id);
        }
    }
    CHECK(n_other > 20);
    CHECK(fg_sampler_begin(s, (const uint32_t[]){N}, 1, &err) == FG_EINVAL);
    fg_sampler_destroy(&s);
    fg_sampler_destroy(&plain);
    fg_sampler_destroy(&other);
    for (int i = 0; i < 6; i++) {
        fg_logit_bias wrong = {i == 4 ? N : 0, i == 5 ? NAN : 0};
        fg_sampler_opts bad = OPTS(1, 0, 1, 0, 0);
        if (i == 0) bad.repeat = -1;
        if (i == 1) bad.repeat = (double)NAN;
        if (i == 2) bad.presence = 2.5;
        if (i == 3) bad.frequency = -3;
        bad.bias = &wrong;
        bad.n_bias = i >= 4;
        CHECK(fg_sampler_create(&s, &bad, N, NULL, &err) == FG_EINVAL && s == NULL);
    }
}
