/* SPDX-License-Identifier: MIT
 *
 * The judge of reading ahead on made-up runs whose every pass has a known cost: what it lets a bad
 * predictor cost, what it gets out of a good one, and that it sees what a read or an eviction
 * hides.  At last with a directory and hints, whose reads are counted.
 */
#include "src/expert/judge.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/expert/predict.h"
#include "tests/fg_test.h"

enum { N_PASS = 500, N_SEED = 60 };

/* A run: a pass takes 100 ms and 30 ms more for each of up to four reads, one in two. */
typedef struct world {
    double gain;   /* share of a pass that hints save */
    double noise;  /* of a pass, standard deviation */
    double regret; /* reads that a pass with hints adds to itself and to the next, each */
    bool untold;   /* control: the judge hears nothing of them */
    bool always;   /* control: nobody judges */
} world;

static double normal(fg_rng *r)
{
    double sum = -6.0;
    for (int i = 0; i < 12; i++) sum += fg_rng_f64(r);
    return sum;
}

/* Time of the passes without hints over that with the judge's. */
static double speed(const world *w, uint64_t seed, fg_judge *j)
{
    fg_rng r;
    double judged = 0.0, none = 0.0;
    bool was_on = false;
    fg_rng_init(&r, seed);
    fg_judge_init(j);
    for (uint32_t i = 0; i < N_PASS; i++) {
        const bool on = w->always || fg_judge_is_on(j);
        uint32_t n_read = 0, n_regret = 0;
        for (int k = 0; k < 4; k++) n_read += fg_rng_f64(&r) < .5;
        for (int k = 0; k < 2; k++) {
            n_regret += fg_rng_f64(&r) < w->regret && (k == 0 ? on : was_on);
        }
        double factor = 1.0 + w->noise * normal(&r);
        if (fg_rng_f64(&r) < .01) factor *= 8.0; /* somebody types, or the machine is busy */
        const double plain = (.1 + .03 * n_read) * factor;
        const double took = (.1 * (1.0 - (on ? w->gain : 0.0)) +
                             .03 * (n_read * (1.0 - (on ? w->gain : 0.0)) + n_regret)) *
                            factor;
        none += plain;
        judged += took;
        was_on = on;
        const fg_judge_pass p = {i == 0 ? 0 : (uint64_t)(1e9 * took), n_read + n_regret,
                                 w->untold ? n_read + n_regret : n_read};
        fg_judge_tell(j, &p);
    }
    return none / judged;
}

/* Mean and least over seeds. */
static double mean_speed(const world *w, double *least)
{
    double sum = 0.0;
    fg_judge j;
    *least = 1e9;
    for (uint64_t seed = 1; seed <= N_SEED; seed++) {
        const double s = speed(w, seed, &j);
        sum += s / N_SEED;
        *least = fmin(*least, s);
    }
    return sum;
}

FG_TEST(no_predictor_costs)
{
    static const double gain[] = {-1.0, -.5, -.2, -.08, -.04, -.02, 0.0, .02};
    double least, control = 1.0;
    for (size_t i = 0; i < sizeof gain / sizeof gain[0]; i++) {
        for (int noisy = 0; noisy < 2; noisy++) {
            world w = {.gain = gain[i], .noise = noisy ? .1 : .03};
            const double mean = mean_speed(&w, &least);
            printf("     gain %+.2f, noise %.2f: %.4f, least %.4f\n", w.gain, w.noise, mean, least);
            /* The first trial of what doubles a pass is four of 500, .8 %, and small losses cost
             * no more.  An accident in one of them loses seven passes, 1.4 %; two may meet. */
            CHECK(mean > .985 && least > .96);
            w.always = true;
            control = fmin(control, mean_speed(&w, &least));
        }
    }
    CHECK(control < .7); /* negative control */
    /* passes that differ much, as of a small model: doubt must not make a trial longer */
    const world unsteady = {.gain = -.17, .noise = .5};
    const double mean = mean_speed(&unsteady, &least);
    printf("     gain -0.17, noise 0.50: %.4f, least %.4f\n", mean, least);
    CHECK(mean > .99);
}

FG_TEST(good_ones_stay_on)
{
    static const double gain[] = {.08, .15, .3};
    double least;
    for (size_t i = 0; i < sizeof gain / sizeof gain[0]; i++) {
        const world w = {.gain = gain[i], .noise = .05};
        const double mean = mean_speed(&w, &least);
        printf("     gain %+.2f: %.4f, least %.4f\n", w.gain, mean, least);
        CHECK(mean > 1.0 + .6 * gain[i]);
    }
}

/* Hints that save as much time as their evictions cost later are no gain. */
FG_TEST(evictions_are_a_cost)
{
    world w = {.gain = .03, .noise = .02, .regret = .15};
    double least;
    const double told = mean_speed(&w, &least);
    w.untold = true;
    const double untold = mean_speed(&w, &least);
    printf("     %.4f, and %.4f when it hears nothing of them\n", told, untold);
    CHECK(told > .99 && told > untold + .005); /* negative control */
}

/* Hints that save 4 of 130 ms, and make the first pass without them, which is not timed, read late
 * more: 30 ms each. */
static bool stays_on(uint32_t late, bool anyway)
{
    fg_judge j;
    bool was_on = false;
    fg_judge_init(&j);
    for (uint32_t i = 0; i < 150; i++) {
        const bool on = fg_judge_is_on(&j);
        const uint32_t n = i % 3, more = was_on && !on ? late : 0;
        const uint64_t ms = 100 + 30 * (n + more) - (on ? 4 : 0);
        const fg_judge_pass p = {i == 0 ? 0 : 1000000 * ms, n + more, anyway ? n + more : n};
        fg_judge_tell(&j, &p);
        was_on = on;
    }
    return j.on;
}

FG_TEST(first_passes_pay_as_well)
{
    CHECK(stays_on(0, false) && !stays_on(1, false));
    CHECK(stays_on(1, true)); /* what would have been read without hints is not theirs to pay */
}

/* ---- with a directory ---- */

enum { N_LAYER = 4, N_EXPERT = 32, N_USED = 2 };

/* Tokens of a text whose experts are drawn, and a router that knows them with some probability. */
typedef struct drive {
    double right;  /* share of the guesses */
    double hidden; /* share of a hint's read that nobody waits for; 0: the drive is busy anyway */
    uint32_t n_slot;
    bool always; /* control: nobody judges */
} drive;

static uint32_t any(fg_rng *r)
{
    return (uint32_t)(fg_rng_f64(r) * fg_rng_f64(r) * N_EXPERT);
}

static void two(fg_rng *r, uint32_t *id)
{
    id[0] = any(r);
    do {
        id[1] = any(r);
    } while (id[1] == id[0]);
}

static void guess_of(fg_rng *r, const drive *d, uint32_t sel[][N_USED], uint32_t layer, fg_guess *g)
{
    g->n_ahead = 0;
    for (uint32_t l = layer + 1; l < N_LAYER && g->n_ahead < FG_PREDICT_DEFAULT_AHEAD; l++) {
        uint32_t *id = g->id[g->n_ahead++];
        two(r, id);
        if (fg_rng_f64(r) < d->right) memcpy(id, sel[l], sizeof sel[l]);
    }
}

static void run_token(fg_cache *c, fg_predictor *p, const drive *d, fg_rng *r)
{
    uint32_t sel[N_LAYER][N_USED], n;
    for (uint32_t l = 0; l < N_LAYER; l++) two(r, sel[l]);
    for (uint32_t l = 0; l < N_LAYER; l++) {
        const fg_cache_load *loads;
        fg_cache_load hints[FG_PREDICT_HINTS];
        fg_guess g = {0};
        uint32_t ids[N_USED] = {sel[l][0], sel[l][1]};
        guess_of(r, d, sel, l, &g);
        fg_cache_begin(c, l, ids, N_USED);
        while (fg_cache_next(c, &loads, &n) > 0) {
            (void)fg_predictor_hints(p, c, l, sel[l], 1, &g, hints);
        }
    }
}

/* Time of the tokens without hints over that with them, in reads: a token computes for N_LAYER. */
static double drive_speed(const drive *d, uint64_t seed)
{
    const fg_cache_opts co = {.n_layer = N_LAYER,
                              .n_expert = N_EXPERT,
                              .n_used = N_USED,
                              .n_slot = d->n_slot,
                              .policy = FG_POLICY_LFU,
                              .hinted = true};
    const fg_predict_opts po = {
        .kind = FG_PREDICT_ROUTER, .n_layer = N_LAYER, .n_expert = N_EXPERT, .n_used = N_USED};
    fg_cache *c = NULL;
    fg_predictor *p = NULL;
    fg_err err = {0};
    fg_judge j;
    fg_rng r;
    double judged = 0.0, none = 0.0;
    CHECK_OK(fg_cache_create(&c, &co, &err), &err);
    CHECK_OK(fg_predictor_create(&p, &po, &err), &err);
    fg_judge_init(&j);
    fg_rng_init(&r, seed);
    fg_cache_stats was = {0};
    for (uint32_t i = 0; i < N_PASS + FG_JUDGE_SETTLE; i++) {
        fg_predictor_set_on(p, d->always || fg_judge_is_on(&j));
        run_token(c, p, d, &r);
        const fg_cache_stats s = fg_cache_get_stats(c);
        const double factor = 1.0 + .03 * normal(&r);
        const uint64_t n_hint = s.n_prefetch - was.n_prefetch, n_miss = s.n_miss - was.n_miss;
        const uint64_t n_alone = s.n_alone - was.n_alone;
        const double took =
            (N_LAYER + (double)n_miss + (1.0 - d->hidden) * (double)n_hint) * factor;
        const fg_judge_pass pass = {i == 0 ? 0 : (uint64_t)(1e7 * took),
                                    (uint32_t)(n_miss + s.n_prefetch_hit - was.n_prefetch_hit),
                                    (uint32_t)n_alone};
        fg_judge_tell(&j, &pass);
        if (i >= FG_JUDGE_SETTLE) {
            judged += took;
            none += (N_LAYER + (double)n_alone) * factor;
        }
        was = s;
    }
    fg_predictor_destroy(&p);
    fg_cache_destroy(&c);
    return none / judged;
}

static double mean_drive(const drive *d, double *least)
{
    double sum = 0.0;
    *least = 1e9;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        const double s = drive_speed(d, seed);
        sum += s / 12;
        *least = fmin(*least, s);
    }
    return sum;
}

FG_TEST(hints_on_a_drive_that_is_busy)
{
    static const double share[] = {.3, .5, .7}, right[] = {0.0, .3, .6, .9};
    double least, control = 1.0;
    for (int s = 0; s < 3; s++) {
        for (int k = 0; k < 4; k++) {
            drive d = {.right = right[k], .n_slot = (uint32_t)(share[s] * N_LAYER * N_EXPERT)};
            const double mean = mean_drive(&d, &least);
            printf("     %.0f %%, %.1f right: %.4f, least %.4f\n", 100 * share[s], d.right, mean,
                   least);
            CHECK(mean > .985 && least > .97);
            d.always = true;
            control = fmin(control, mean_drive(&d, &least));
        }
        /* a good one whose reads are half hidden stays on, though it drives experts out */
        const drive good = {
            .right = .9, .hidden = .6, .n_slot = (uint32_t)(share[s] * N_LAYER * N_EXPERT)};
        const drive on = {.right = .9, .hidden = .6, .n_slot = good.n_slot, .always = true};
        const double mean = mean_drive(&good, &least), most = mean_drive(&on, &least);
        printf("     %.0f %%, good: %.4f of %.4f\n", 100 * share[s], mean, most);
        CHECK(mean - 1.0 > .5 * (most - 1.0));
    }
    CHECK(control < .8); /* negative control */
}

/* Passes with hints, in a run where every pass takes as long; what follows a prompt is not timed.
 * */
FG_TEST(turns_and_pauses)
{
    fg_judge j;
    uint32_t n_on = 0, last = 0;
    fg_judge_init(&j);
    const fg_judge_pass same = {1000000, 2, 2};
    for (uint32_t i = 0; i < 100000; i++) {
        const bool on = fg_judge_is_on(&j);
        n_on += on;
        if (i < FG_JUDGE_SETTLE + FG_JUDGE_BLOCK) CHECK(!on);
        if (i >= FG_JUDGE_SETTLE + FG_JUDGE_BLOCK && i < FG_JUDGE_SETTLE + 2 * FG_JUDGE_BLOCK) {
            CHECK(on);
        }
        if (on) last = i;
        fg_judge_tell(&j, &same);
    }
    CHECK(n_on >= 8 * FG_JUDGE_CYCLES * FG_JUDGE_BLOCK / 2 && n_on < 1000 && last > 30000);
    CHECK_U64(j.n_off, n_on / (FG_JUDGE_CYCLES * FG_JUDGE_BLOCK));
    /* nothing to compare: it stays off */
    fg_judge_init(&j);
    const fg_judge_pass untimed = {0, 2, 2};
    for (uint32_t i = 0; i < 1000; i++) fg_judge_tell(&j, &untimed);
    CHECK(!j.on && j.n_off > 0 && j.n_sample == 0);
}
