/* SPDX-License-Identifier: MIT
 *
 * Guesses: what they are, when they are made, what they gain, and that a reply is the same with
 * and without them.  FULGUR_TEST_SYNTH=FILE measures the gain on that model, resident in memory
 * (fulgur synth FILE --shape m1 --layers 4); with FULGUR_TEST_RAM=BYTES too, experts read on demand
 * within that bound.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "src/engine/draft.h"
#include "src/engine/generator.h"
#include "src/text/sampler.h"
#include "tests/fg_test.h"
#include "tests/models.h"

/* ---- what is guessed ---- */

FG_TEST(the_longest_match_is_taken_and_goes_on)
{
    /* 5 6 7 is there three times; the one whose match is longer wins over the latest */
    static const uint32_t beside[] = {9, 5, 6, 7, 1, 2, 3},
                          text[] = {8, 5, 6, 7, 20, 21, 4, 5, 6, 7, 30, 31, 8, 5, 6, 7};
    fg_lookup x;
    uint32_t out[8];
    REQUIRE(fg_lookup_init(&x, beside, 7));
    for (size_t i = 0; i < 16; i++) CHECK(fg_lookup_add(&x, text[i]));
    CHECK_U64(fg_lookup_next(&x, out, 2), 2);
    CHECK(x.match == 4 && out[0] == 20 && out[1] == 21);
    CHECK(fg_lookup_add(&x, 20)); /* right: it goes on */
    CHECK(fg_lookup_next(&x, out, 1) == 1 && out[0] == 21 && x.match == 5);
    CHECK(fg_lookup_add(&x, 77)); /* wrong: nothing ends so */
    CHECK_U64(fg_lookup_next(&x, out, 4), 0);
    CHECK(fg_lookup_add(&x, 9) && fg_lookup_add(&x, 5) && fg_lookup_add(&x, 6));
    CHECK_U64(fg_lookup_next(&x, out, 8), 4); /* of the text beside, up to its end */
    CHECK(out[0] == 7 && out[3] == 3);
    CHECK(fg_lookup_restart(&x));
    CHECK_U64(fg_lookup_next(&x, out, 8), 0);
    for (int i = 0; i < 9; i++) CHECK(fg_lookup_add(&x, 40 + (uint32_t)(i % 2)));
    CHECK_U64(fg_lookup_next(&x, out, 8), 8); /* a period goes round */
    for (uint32_t i = 0; i < 8; i++) CHECK_U64(out[i], 41 - i % 2);
    fg_lookup_fini(&x);
}

/* ---- the controller, on a clock that is made up ---- */

typedef struct world {
    const double *cost; /* [w] seconds */
    double right;       /* share of right guesses */
    uint64_t salt;
} world;

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint32_t truth(const world *w, size_t n)
{
    return (uint32_t)(mix(n * 3 + w->salt) % 100000);
}

static size_t guess(void *ctx, const uint32_t *ids, size_t n, uint32_t *out, size_t most)
{
    const world *w = ctx;
    (void)ids;
    for (size_t i = 0; i < most; i++) {
        const bool good = (double)(mix(n + i + 1000000 + w->salt) >> 11) * 0x1p-53 < w->right;
        out[i] = truth(w, n + i) + !good;
    }
    return most;
}

typedef struct outcome {
    double gain, width; /* against passes of one row; mean rows of passes with guesses */
} outcome;

/* busy: others have the machine too; some passes take three times as long. */
static outcome simulate(const world *w, size_t n_token, bool streams, bool busy, bool heeds)
{
    fg_draft d;
    outcome o = {0};
    uint32_t *ids = calloc(n_token + 8, sizeof *ids), out[FG_DRAFT_MAX];
    if (ids == NULL || !fg_draft_init(&d, FG_DRAFT_AUTO, streams, NULL, 0)) return o;
    d.script = guess;
    d.script_ctx = (void *)w;
    double spent = 0;
    size_t n = 4, n_pass = 0, n_row = 0;
    for (size_t i = 0; i < n; i++) ids[i] = truth(w, i);
    while (n < n_token) {
        ids[n] = truth(w, n);
        n++;
        if (!fg_draft_follow(&d, ids, n)) break;
        const size_t k = heeds ? fg_draft_propose(&d, out, FG_DRAFT_MAX)
                               : guess((void *)w, ids, n, out, FG_DRAFT_MAX);
        size_t right = 0;
        while (right < k && out[right] == truth(w, n + right)) right++;
        const double jitter = (double)(mix(n * 77 + w->salt) >> 11) * 0x1p-53 - 0.5;
        const double held_up = busy && mix(n * 91 + w->salt) % 10 == 0 ? 3 : 1;
        const double seconds = w->cost[k + 1] * held_up * (1 + (busy ? 0.6 : 0.1) * jitter);
        fg_draft_passed(&d, k, right, seconds);
        spent += w->cost[k + 1]; /* the others' share is nobody's gain or loss */
        for (size_t i = 0; i < right && n < n_token; i++, n++) ids[n] = truth(w, n);
        n_pass += k > 0;
        n_row += k > 0 ? k + 1 : 0;
    }
    o.gain = (double)(n - 4) * w->cost[1] / spent;
    o.width = n_pass == 0 ? 1 : (double)n_row / (double)n_pass;
    fg_draft_fini(&d);
    free(ids);
    return o;
}

/* Section 5's formula: tokens of a pass by its cost. */
static double formula(const world *w, size_t rows)
{
    double tokens = 1, p = 1;
    for (size_t k = 1; k < rows; k++) tokens += p *= w->right;
    return tokens * w->cost[1] / w->cost[rows];
}

static double best_formula(const world *w)
{
    double best = 1;
    for (size_t rows = 2; rows <= FG_DRAFT_ROWS; rows++) {
        if (formula(w, rows) > best) best = formula(w, rows);
    }
    return best;
}

FG_TEST(guesses_gain_where_they_can_and_never_lose)
{
    /* seconds of 1 to 8 rows: bandwidth-bound; compute-bound from the third on; from a disk */
    static const double costs[][FG_DRAFT_ROWS + 1] = {
        {0, 1, 1.44, 1.86, 2.24, 2.60, 2.95, 3.27, 3.57},
        {0, .02, .028, .0375, .05, .062, .074, .087, .1},
        {0, 3, 5.8, 8.4, 10.9, 13.5, 15.4, 17.8, 19.9}};
    static const double rights[] = {0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1};
    for (size_t c = 0; c < 3; c++) {
        for (size_t a = 0; a < sizeof rights / sizeof rights[0]; a++) {
            for (uint64_t salt = 1; salt <= 3; salt++) {
                const world w = {costs[c], rights[a], salt * 1000003};
                const outcome brief = simulate(&w, 256, c == 2, false, true),
                              full = simulate(&w, 8000, c == 2, false, true),
                              busy = simulate(&w, 8000, c == 2, true, true);
                const double best = best_formula(&w);
                const double want = best > 1.1 ? 0.9 * best : 0.97;
                if (full.gain >= want && full.gain >= 0.97 && brief.gain >= 0.97 &&
                    busy.gain >= (best > 1.2 ? 0.85 * best : 0.97)) {
                    continue;
                }
                fg_test_fail(
                    __FILE__, __LINE__,
                    "costs %zu, %g right: gain %.3f, of 256 tokens %.3f, busy %.3f, formula "
                    "%.3f, %.1f rows",
                    c, rights[a], full.gain, brief.gain, busy.gain, best, full.width);
            }
        }
    }
    const world w = {costs[0], 0.1, 1}; /* control: who guesses whatever it costs loses */
    CHECK(simulate(&w, 2000, false, false, false).gain < 0.5);
}

/* ---- the same reply ---- */

enum { N_TOKEN = 40 };
static const char prompt[] =
    "The fox and the grapes. The fox saw the grapes and the fox wanted the grapes. \"The grapes\", "
    "said the fox, \"are sour.\" The fox and the grapes. The fox saw the grapes and the fox "
    "wanted ";

typedef struct reply {
    fg_session *s; /* borrowed */
    fg_sampler *sampler;
    fg_buf text;
    fg_reply r;
    fg_generator_stats stats;
    uint64_t n_poll;
    double cpu; /* seconds of processor time, which others on the machine leave alone */
    /* for the script */
    const fg_ids *known;
    uint64_t salt;
    double right;
    bool waits; /* time is the wall's: the disk's counts */
} reply;

static bool hear(void *ctx, const fg_event *e)
{
    reply *r = ctx;
    if (e->text != NULL) fg_buf_put(&r->text, e->text, e->n);
    return true;
}

static bool poll(void *ctx)
{
    reply *r = ctx;
    r->n_poll++;
    return fg_session_logits(r->s) != NULL; /* it is settled */
}

/* What came without guesses, with faults. */
static size_t recall(void *ctx, const uint32_t *ids, size_t n, uint32_t *out, size_t most)
{
    const reply *r = ctx;
    (void)ids;
    size_t k = 0;
    for (; k < most && n + k < r->known->len; k++) {
        const bool good = (double)(mix(n + k + r->salt) >> 11) * 0x1p-53 < r->right;
        out[k] = good ? r->known->data[n + k] : (r->known->data[n + k] + 1) % 1000;
    }
    return k;
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static double cpu_seconds(void)
{
    return (double)cpu_ns() * 1e-9;
}

/* The session holds ids and nothing else; a mark before the last one saves evaluating the others.
 * */
static fg_status ready(fg_session *s, const fg_ids *ids, fg_err *err)
{
    uint64_t at = 0;
    const uint64_t wanted = ids->len - 1;
    if (fg_session_pos(s) > 0) FG_TRY(fg_session_rewind(s, wanted, &at, err));
    if (at < wanted) {
        FG_TRY(fg_session_eval(s, ids->data + at, wanted - at, NULL, NULL, err));
        FG_TRY(fg_session_mark(s, err));
    }
    return fg_session_eval(s, ids->data + wanted, 1, NULL, NULL, err);
}

static bool run(reply *r, fg_session *s, const fg_ids *ids, fg_reply_opts o, double temp,
                uint64_t seed, int n_waste)
{
    fg_engine *e = fg_session_engine(s);
    fg_err err = {0};
    fg_generator *g = NULL;
    fg_sampler_opts so = fg_sampler_opts_default();
    so.temp = temp;
    so.seed = seed;
    r->s = s;
    o.event = hear;
    o.poll = poll;
    o.ctx = r;
    fg_status st = fg_engine_sampler(e, &so, &r->sampler, &err);
    o.sampler = r->sampler;
    if (st == FG_OK) st = ready(s, ids, &err);
    for (uint32_t id; st == FG_OK && n_waste > 0; n_waste--) {
        st = fg_sampler_pick(r->sampler, fg_session_logits(r->s), &id, NULL, &err);
    }
    if (st == FG_OK) st = fg_generator_create(&g, e, &o, &err);
    if (st == FG_OK) st = fg_generator_begin(g, ids->data, ids->len, 2048, &err);
    if (st == FG_OK && r->known != NULL && fg_generator_draft(g) != NULL) {
        fg_generator_draft(g)->script = recall;
        fg_generator_draft(g)->script_ctx = r;
        if (!r->waits) fg_generator_draft(g)->clock = cpu_ns;
    }
    const double begun = cpu_seconds();
    if (st == FG_OK) st = fg_generator_run(g, r->s, &r->r, &err);
    r->cpu = cpu_seconds() - begun;
    r->stats.size = sizeof r->stats;
    if (g != NULL) fg_generator_get_stats(g, &r->stats);
    fg_generator_destroy(&g);
    if (st != FG_OK) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return st == FG_OK;
}

static void reply_close(reply *r)
{
    fg_sampler_destroy(&r->sampler);
    fg_buf_fini(&r->text);
}

static bool same(const reply *a, const reply *b)
{
    const fg_rng x = fg_sampler_rng(a->sampler), y = fg_sampler_rng(b->sampler);
    const uint64_t pos = fg_session_pos(a->s);
    const float *p = fg_session_logits(a->s), *q = fg_session_logits(b->s);
    const size_t n_vocab = fg_engine_shape(fg_session_engine(a->s))->n_vocab;
    return pos == fg_session_pos(b->s) && p != NULL && q != NULL &&
           memcmp(fg_session_ids(a->s), fg_session_ids(b->s), pos * sizeof(uint32_t)) == 0 &&
           memcmp(p, q, n_vocab * sizeof *p) == 0 && memcmp(&x, &y, sizeof x) == 0 &&
           a->text.len == b->text.len && memcmp(a->text.data, b->text.data, a->text.len) == 0 &&
           a->r.end == b->r.end && a->r.n_gen == b->r.n_gen && a->r.n_eval == b->r.n_eval &&
           memcmp(&a->stats.logprob, &b->stats.logprob, sizeof(double)) == 0;
}

FG_TEST(a_reply_is_the_same_with_guesses)
{
    static const double temps[] = {0, 0.7, 1};
    fg_engine *e = model_open(NANO_DIR, "q4", 1, NULL);
    const fg_tokenizer *t;
    fg_err err = {0};
    fg_ids ids = {0};
    REQUIRE(e != NULL && fg_engine_tokenizer(e, &t, &err) == FG_OK);
    REQUIRE_OK(fg_tokenizer_encode(t, NULL, prompt, sizeof prompt - 1, false, &ids, &err), &err);
    fg_session *s[3];
    for (int i = 0; i < 3; i++) s[i] = model_session(e, 2048, 64);
    const int n_seed = fg_test_long() ? 1000 : 8;
    uint64_t drafted = 0, accepted = 0, n_other = 0, n_stop = 0;
    for (int seed = 0; seed < n_seed; seed++) {
        static const char *const stops[] = {" the", "said", ". "};
        for (int k = 0; k < 3; k++) {
            fg_reply_opts o = fg_reply_opts_default();
            o.n_max = N_TOKEN;
            o.goes_on = seed % 3 != 1;
            o.ignore_eos = true;
            o.stop_text = &stops[seed % 3];
            o.n_stop_text = seed % 4 == 3;
            reply plain = {0}, quick = {0}, other = {0};
            o.draft = FG_DRAFT_OFF;
            REQUIRE(run(&plain, s[0], &ids, o, temps[k], (uint64_t)seed, 0));
            CHECK(plain.stats.n_drafted == 0);
            fg_ids known = {0};
            const uint32_t *all = fg_session_ids(plain.s);
            for (uint64_t i = 0; i < fg_session_pos(plain.s); i++) {
                CHECK(fg_ids_push(&known, all[i]));
            }
            quick = (reply){.known = seed % 2 == 0 ? &known : NULL,
                            .salt = (uint64_t)seed * 131,
                            .right = 0.5 + 0.1 * (seed % 5)};
            o.draft = seed % 5 == 4 ? FG_DRAFT_AUTO : 1 + (seed + k) % FG_DRAFT_MAX;
            REQUIRE(run(&quick, s[1], &ids, o, temps[k], (uint64_t)seed, 0));
            if (!same(&plain, &quick)) {
                fg_test_fail(__FILE__, __LINE__, "seed %d, temperature %g", seed, temps[k]);
            }
            drafted += quick.stats.n_drafted;
            accepted += quick.stats.n_accepted;
            n_stop += quick.r.end == FG_END_STRING;
            if (k == 2 && seed < 8) { /* control: one random number more is seen */
                REQUIRE(run(&other, s[2], &ids, o, temps[k], (uint64_t)seed, 1));
                n_other += !same(&plain, &other);
            }
            reply_close(&plain);
            reply_close(&quick);
            reply_close(&other);
            fg_ids_fini(&known);
        }
    }
    CHECK_U64(n_other, 8);
    CHECK(n_stop > 0);
    CHECK(accepted > 0 && drafted > accepted); /* both ways were gone */
    for (int i = 0; i < 3; i++) fg_session_destroy(&s[i]);
    printf("  %llu guessed, %llu right\n", (unsigned long long)drafted,
           (unsigned long long)accepted);
    fg_ids_fini(&ids);
    fg_engine_close(&e);
}

/* Control for going back: wrong rows that stay in, or that are taken back over the border of a
 * chunk by moving the position, are seen in the logits; within the chunk they leave nothing. */
FG_TEST(rows_that_stay_are_seen)
{
    fg_engine *e = model_open(NANO_DIR, "q4", 1, NULL);
    const fg_tokenizer *t;
    fg_err err = {0};
    fg_ids ids = {0};
    REQUIRE(e != NULL && fg_engine_tokenizer(e, &t, &err) == FG_OK);
    for (int i = 0; i < 4; i++) {
        REQUIRE_OK(fg_tokenizer_encode(t, NULL, prompt, sizeof prompt - 1, false, &ids, &err),
                   &err);
    }
    const size_t n_vocab = fg_engine_shape(e)->n_vocab, n = 100;
    REQUIRE(ids.len > n + 20);
    for (uint64_t at = 58; at <= 62; at++) {
        static const uint32_t wrong[4] = {1000, 1001, 1002, 1003};
        fg_session *a = model_session(e, 256, 64), *b = model_session(e, 256, 64);
        uint64_t back;
        CHECK_OK(fg_session_eval(a, ids.data, at, NULL, NULL, &err), &err);
        CHECK_OK(fg_session_eval(b, ids.data, at, NULL, NULL, &err), &err);
        CHECK_OK(fg_session_eval(b, wrong, 4, NULL, NULL, &err), &err);
        /* the first row of the next chunk folds this one */
        CHECK_OK(fg_session_rewind(b, at, &back, &err), &err);
        CHECK(at + 4 <= 64 ? back == at : back == 0);
        CHECK_OK(fg_session_eval(a, ids.data + at, n - at, NULL, NULL, &err), &err);
        CHECK_OK(fg_session_eval(b, ids.data + back, n - back, NULL, NULL, &err), &err);
        const float *p = fg_session_logits(a), *q = fg_session_logits(b);
        CHECK(memcmp(p, q, n_vocab * sizeof *p) == 0);
        fg_session_reset(b);
        CHECK_OK(fg_session_eval(b, ids.data, at, NULL, NULL, &err), &err);
        CHECK_OK(fg_session_eval(b, wrong, 1, NULL, NULL, &err), &err);
        CHECK_OK(fg_session_eval(b, ids.data + at, n - at, NULL, NULL, &err), &err);
        CHECK(memcmp(p, fg_session_logits(b), n_vocab * sizeof *p) != 0);
        fg_session_destroy(&a);
        fg_session_destroy(&b);
    }
    fg_ids_fini(&ids);
    fg_engine_close(&e);
}

/* ---- measured ---- */

static void look_away(void *ctx, uint64_t pos, const float *logits)
{
    (void)ctx;
    (void)pos;
    (void)logits;
}

/* A pass of so many rows with the logits of all of them, as guesses need. */
static double plain_seconds(fg_session *s, const fg_ids *ids, uint64_t at, size_t rows)
{
    fg_err err = {0};
    uint64_t back;
    const double begun = cpu_seconds();
    (void)fg_session_eval(s, ids->data + at, rows, look_away, NULL, &err);
    const double seconds = cpu_seconds() - begun;
    (void)fg_session_rewind(s, at, &back, &err);
    return seconds;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

enum { N_MEASURED = 96, TIMES = 3 };

/* Seconds of passes of 1 to FG_DRAFT_ROWS rows behind the first 70 ids: medians. */
static void row_costs(fg_session *s, const fg_ids *known, double cost[FG_DRAFT_ROWS + 1])
{
    double t[FG_DRAFT_ROWS + 1][TIMES];
    fg_err err = {0};
    CHECK_OK(fg_session_eval(s, known->data, 70, NULL, NULL, &err), &err);
    for (size_t i = 0; i < TIMES; i++) {
        for (size_t w = 1; w <= FG_DRAFT_ROWS; w++) t[w][i] = plain_seconds(s, known, 70, w);
    }
    for (size_t w = 1; w <= FG_DRAFT_ROWS; w++) {
        qsort(t[w], TIMES, sizeof(double), by_value);
        cost[w] = t[w][TIMES / 2];
        printf("  %zu rows: %.4f s, %.2f\n", w, cost[w], cost[w] / cost[1]);
    }
    fg_session_reset(s);
}

/* Replies without and with guesses in turns, since the machine is not the same for long. */
static void gain_of(fg_session *s[2], const fg_ids *ids, const fg_ids *known, fg_reply_opts o,
                    const world *w)
{
    double gain[TIMES];
    uint64_t drafted = 0, accepted = 0, n_pass = 0;
    for (size_t i = 0; i < TIMES; i++) {
        reply plain = {0}, quick = {.known = known, .right = w->right, .salt = w->salt + 97 * i};
        o.draft = FG_DRAFT_OFF;
        REQUIRE(run(&plain, s[0], ids, o, 0, 0, 0));
        o.draft = FG_DRAFT_AUTO;
        REQUIRE(run(&quick, s[1], ids, o, 0, 0, 0));
        CHECK(same(&plain, &quick));
        gain[i] = plain.cpu / quick.cpu;
        drafted += quick.stats.n_drafted;
        accepted += quick.stats.n_accepted;
        n_pass += quick.r.n_eval - quick.stats.n_accepted;
        reply_close(&plain);
        reply_close(&quick);
    }
    const double width = 1 + (double)drafted / (double)n_pass;
    const double promised = formula(w, (size_t)(width + 0.5));
    qsort(gain, TIMES, sizeof(double), by_value);
    printf("  %.1f right: gain %.3f (%.3f to %.3f); %.2f rows a pass, of %llu guesses %llu right; "
           "formula %.3f, best %.3f\n",
           w->right, gain[TIMES / 2], gain[0], gain[TIMES - 1], width, (unsigned long long)drafted,
           (unsigned long long)accepted, promised, best_formula(w));
    (void)fflush(stdout);
    CHECK(gain[TIMES / 2] >= 0.97 && gain[TIMES / 2] >= 0.9 * promised);
}

/* In processor time on one thread (FULGUR_TEST_THREADS: so many), since others may be at work. */
FG_TEST(measured_on_a_large_model)
{
    static const double rights[] = {0.3, 0, 0.6, 0.8, 1};
    const char *path = getenv("FULGUR_TEST_SYNTH"), *n = getenv("FULGUR_TEST_THREADS");
    fg_ids ids = {0}, known = {0};
    if (path == NULL) {
        fg_test_skip("FULGUR_TEST_SYNTH is not set");
        return;
    }
    fg_engine *e = model_open_file(path, n != NULL ? (uint32_t)atoi(n) : 1, NULL);
    REQUIRE(e != NULL);
    for (uint32_t i = 0; i < 64; i++) CHECK(fg_ids_push(&ids, (i * 7919 + 5) % 100000));
    fg_reply_opts o = fg_reply_opts_default();
    o.n_max = N_MEASURED;
    o.ignore_eos = o.goes_on = true;
    o.repeat_stop = 0;
    fg_session *s[2] = {model_session(e, 2048, 64), model_session(e, 2048, 64)};
    reply first = {0};
    o.draft = FG_DRAFT_OFF;
    REQUIRE(run(&first, s[0], &ids, o, 0, 0, 0));
    for (uint64_t i = 0; i < fg_session_pos(first.s); i++) {
        CHECK(fg_ids_push(&known, fg_session_ids(first.s)[i]));
    }
    double cost[FG_DRAFT_ROWS + 1] = {0};
    row_costs(s[1], &known, cost);
    for (size_t i = 0; i < sizeof rights / sizeof rights[0]; i++) {
        const world w = {cost, rights[i], 17 + i};
        gain_of(s, &ids, &known, o, &w);
    }
    reply_close(&first);
    fg_session_destroy(&s[0]);
    fg_session_destroy(&s[1]);
    fg_ids_fini(&ids);
    fg_ids_fini(&known);
    fg_engine_close(&e);
}

/* Experts are read on demand, and those of a wrong guess push out others: what that costs is in no
 * single pass, so whole replies are compared, in turns. */
FG_TEST(measured_within_a_bound)
{
    static const double rights[] = {0, 0.6, 1};
    const char *path = getenv("FULGUR_TEST_SYNTH"), *ram = getenv("FULGUR_TEST_RAM");
    fg_err err = {0};
    fg_engine *e;
    fg_ids ids = {0};
    if (path == NULL || ram == NULL) {
        fg_test_skip("FULGUR_TEST_SYNTH or FULGUR_TEST_RAM is not set");
        return;
    }
    fg_engine_opts eo = fg_engine_opts_default();
    eo.n_thread = 1;
    eo.ram_bytes = strtoull(ram, NULL, 10);
    REQUIRE_OK(fg_engine_open(&e, path, &eo, &err), &err);
    const uint32_t n_vocab = fg_engine_shape(e)->n_vocab;
    const fg_store_stats *st = fg_engine_store_stats(e);
    REQUIRE(st != NULL && st->n_slot < st->n_total);
    for (uint32_t i = 0; i < 64; i++) CHECK(fg_ids_push(&ids, (i * 7919 + 5) % n_vocab));
    fg_reply_opts o = fg_reply_opts_default();
    o.n_max = N_MEASURED;
    o.ignore_eos = o.goes_on = true;
    o.repeat_stop = 0;
    fg_session *s = model_session(e, 512, 64);
    reply first = {.waits = true};
    fg_ids known = {0};
    o.draft = FG_DRAFT_OFF;
    REQUIRE(run(&first, s, &ids, o, 0, 0, 0)); /* also fills the slots */
    for (uint64_t i = 0; i < fg_session_pos(s); i++)
        CHECK(fg_ids_push(&known, fg_session_ids(s)[i]));
    printf("  %u of %u experts in memory\n", st->n_slot, st->n_total);
    for (size_t a = 0; a < sizeof rights / sizeof rights[0]; a++) {
        for (int width = FG_DRAFT_AUTO; width <= 3; width += 4) { /* chosen; three in each pass */
            double gain[TIMES];
            uint64_t drafted = 0, accepted = 0;
            for (int i = 0; i < TIMES; i++) {
                reply r[2];
                for (int k = 0; k < 2; k++) { /* in turns */
                    const int q = (i + k) % 2;
                    r[q] = (reply){.waits = true, .known = &known, .right = rights[a], .salt = 3};
                    o.draft = q == 0 ? FG_DRAFT_OFF : width;
                    REQUIRE(run(&r[q], s, &ids, o, 0, 0, 0));
                }
                gain[i] = r[0].r.seconds / r[1].r.seconds;
                drafted += r[1].stats.n_drafted;
                accepted += r[1].stats.n_accepted;
                CHECK(r[0].text.len == r[1].text.len &&
                      memcmp(r[0].text.data, r[1].text.data, r[0].text.len) == 0);
                reply_close(&r[0]);
                reply_close(&r[1]);
            }
            qsort(gain, TIMES, sizeof(double), by_value);
            printf("  %.1f right, %s: gain %.3f (%.3f to %.3f); %llu guesses, %llu right\n",
                   rights[a], width < 0 ? "auto" : "three", gain[1], gain[0], gain[TIMES - 1],
                   (unsigned long long)drafted, (unsigned long long)accepted);
            (void)fflush(stdout);
            if (width < 0) CHECK(gain[1] >= 0.97);
        }
    }
    reply_close(&first);
    fg_session_destroy(&s);
    fg_ids_fini(&ids);
    fg_ids_fini(&known);
    fg_engine_close(&e);
}
