/* SPDX-License-Identifier: MIT
 *
 * The routing model: scores against the formulas of routing_model.h in double, learning and
 * forgetting, training on planted routing, the file.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/factor/routing_train.h"
#include "tests/fg_test.h"

enum { L = 5, E = 12, U = 2, V = 50, R = 6, COLS = L * E };
static const fg_routing_shape shape = {L, E, U, V, 0x1234};

static uint32_t below(fg_rng *r, uint32_t n)
{
    return (uint32_t)(fg_rng_u64(r) % n);
}

static double normal(fg_rng *r) /* nearly */
{
    double s = -6.0;
    for (int i = 0; i < 12; i++) s += fg_rng_f64(r);
    return s;
}

static void draw(fg_rng *r, uint32_t *sel, uint32_t n_tok)
{
    for (uint32_t i = 0; i < n_tok; i++) {
        sel[2 * i] = below(r, E);
        sel[2 * i + 1] = (sel[2 * i] + 1 + below(r, E - 1)) % E;
    }
}

static fg_routing_model *random_model(uint64_t seed)
{
    fg_routing_model *m;
    fg_err err = {0};
    fg_rng r;
    fg_rng_init(&r, seed);
    if (fg_routing_create(&m, &shape, R, &err) != FG_OK) return NULL;
    for (int i = 0; i < COLS * R; i++) m->y[i] = (float)(0.3 * normal(&r));
    for (int i = 0; i < R; i++) {
        for (int k = 0; k <= i; k++) {
            m->prior[i * R + k] = m->prior[k * R + i] = i == k ? 2.0f : 0.1f * (float)normal(&r);
        }
    }
    m->carry = 0.4f;
    for (int t = 0; t < 60; t++) {
        uint32_t sel[L * U];
        uint16_t s[L * U];
        draw(&r, sel, L);
        for (int i = 0; i < L * U; i++) s[i] = (uint16_t)sel[i];
        (void)fg_routing_count(m, below(&r, 20), s, 1);
    }
    if (fg_routing_prepare(m, &err) != FG_OK) fg_routing_destroy(&m);
    return m;
}

/* ---- scores ---- */

typedef struct past {
    uint32_t sel[L * U];
    double x[R];
    bool is;
} past;

/* The formulas' score of column (l, e) without the latent part. */
static double base_of(const fg_routing_model *m, uint32_t id, const past *p, uint32_t l, uint32_t e,
                      bool with_prev)
{
    const uint32_t c = l * E + e, row = m->row_of[id];
    const double g = (double)m->use[c] / (double)m->n_tok;
    double s = g;
    if (row != FG_ROUTING_NO_ROW) {
        const double share = (m->count[row * COLS + c] + 2.0 * g) / (m->seen[row] + 2.0);
        s += (double)m->w_id[l] * (share - g);
    }
    if (!p->is || !with_prev) return s;
    const bool was = p->sel[l * U] == e || p->sel[l * U + 1] == e;
    return s + (double)m->w_prev[l] * ((was ? 1.0 : 0.0) - g);
}

/* Solves (P + sum y y') d = sum y left over the first `known` layers, by elimination. */
static void fold(const fg_routing_model *m, uint32_t id, const past *p, const uint32_t *sel,
                 uint32_t known, double *x)
{
    double a[R][R + 1];
    double m0[R];
    for (int i = 0; i < R; i++) {
        m0[i] = p->is ? (double)m->carry * p->x[i] : 0.0;
        for (int k = 0; k < R; k++) a[i][k] = (double)m->prior[i * R + k];
        a[i][R] = 0.0;
    }
    for (uint32_t c = 0; c < known * E; c++) {
        const float *y = m->y + c * R;
        const uint32_t l = c / E, e = c % E;
        double left =
            (sel[l * U] == e || sel[l * U + 1] == e ? 1.0 : 0.0) - base_of(m, id, p, l, e, true);
        for (int i = 0; i < R; i++) left -= m0[i] * (double)y[i];
        for (int i = 0; i < R; i++) {
            for (int k = 0; k < R; k++) a[i][k] += (double)y[i] * (double)y[k];
            a[i][R] += (double)y[i] * left;
        }
    }
    for (int i = 0; i < R; i++) {
        for (int k = 0; k < R; k++) {
            if (k == i) continue;
            const double f = a[k][i] / a[i][i];
            for (int j = i; j <= R; j++) a[k][j] -= f * a[i][j];
        }
    }
    for (int i = 0; i < R; i++) x[i] = m0[i] + a[i][R] / a[i][i];
}

/* Largest distance of scores over some tokens from the formulas; with_prev false: from others. */
static double worst_distance(bool with_prev)
{
    fg_routing_model *m = random_model(3);
    fg_routing_row *r = NULL;
    fg_err err = {0};
    fg_rng rng;
    past p = {.is = false};
    double worst = 0.0;
    fg_rng_init(&rng, 11);
    if (m == NULL || fg_routing_row_create(&r, m, &err) != FG_OK) return 1e9;
    for (uint64_t t = 0; t < 30; t++) {
        const uint32_t id = below(&rng, 25);
        uint32_t sel[L * U];
        double x[R];
        float score[E];
        draw(&rng, sel, L);
        fg_routing_row_begin(r, 7, t, &id, 1);
        const fg_routing_model *now = fg_routing_row_model(r);
        for (uint32_t known = 0; known <= L; known++) {
            fold(now, id, &p, sel, known, x);
            for (uint32_t l = known; l < L; l++) {
                if (!fg_routing_row_score(r, l, FG_ROUTING_ALL, score)) return 1e9;
                for (uint32_t e = 0; e < E; e++) {
                    double want = base_of(now, id, &p, l, e, with_prev);
                    for (uint32_t i = 0; i < R; i++)
                        want += x[i] * (double)now->y[(l * E + e) * R + i];
                    worst = fmax(worst, fabs(want - (double)score[e]));
                }
            }
            if (known < L) fg_routing_row_layer(r, known, sel + known * U);
        }
        p.is = true;
        memcpy(p.sel, sel, sizeof sel);
        memcpy(p.x, x, sizeof x);
    }
    fg_routing_row_destroy(&r);
    fg_routing_destroy(&m);
    return worst;
}

FG_TEST(scores_are_those_of_the_formulas)
{
    CHECK(worst_distance(true) < 2e-5);
    CHECK(worst_distance(false) > 1e-2); /* negative control: without the previous token */
}

/* ---- learning and forgetting ---- */

typedef struct bytes {
    uint8_t *p;
    char *text;
    size_t n;
} bytes;

/* What the row learned, as a file. */
static bytes file_of(fg_routing_row *r)
{
    fg_err err = {0};
    bytes b = {0};
    const char *path = fg_test_tmp("row.predict");
    fg_routing_row_settle(r);
    if (fg_routing_save(path, fg_routing_row_model(r), &err) != FG_OK ||
        fg_io_read_all(path, 1 << 24, &b.text, &b.n, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    return b;
}

/* Evaluates n tokens at pos; what they use follows from id, position and salt. */
static void eval(fg_routing_row *r, uint64_t who, uint64_t pos, uint32_t n, uint32_t salt)
{
    uint32_t ids[8], sel[8 * U];
    for (uint32_t i = 0; i < n; i++) ids[i] = (uint32_t)((pos + i) * 7 + salt) % V;
    fg_routing_row_begin(r, who, pos, ids, n);
    for (uint32_t l = 0; l < L; l++) {
        fg_rng g;
        fg_rng_init(&g, ids[0] * 31u + l);
        draw(&g, sel, n);
        fg_routing_row_layer(r, l, sel);
    }
}

/* 40 tokens, one at a time; undo: with drafts, a branch and another timeline, all taken back. */
static bytes text(bool undo, bool forgets)
{
    fg_routing_model *m = random_model(5);
    fg_routing_row *r = NULL;
    fg_err err = {0};
    bytes b = {0};
    if (m == NULL || fg_routing_row_create(&r, m, &err) != FG_OK) return b;
    for (uint64_t pos = 0; pos < 40; pos++) {
        if (undo && pos % 6 == 5) { /* a draft of which nothing is kept */
            eval(r, 1, pos, 4, 17);
            if (forgets) fg_routing_row_forget(r, 1, pos);
        }
        if (undo && pos == 30) { /* ten tokens of another answer */
            for (uint64_t k = 0; k < 10; k++) eval(r, 1, pos + k, 1, 23);
            for (uint64_t k = 0; k < 3; k++) eval(r, 2, k, 2, 29);
            if (forgets) fg_routing_row_forget(r, 1, pos);
            if (forgets) fg_routing_row_forget(r, 2, 0);
        }
        eval(r, 1, pos, 1, 0);
    }
    b = file_of(r);
    fg_routing_row_destroy(&r);
    fg_routing_destroy(&m);
    return b;
}

FG_TEST(what_is_undone_leaves_no_trace)
{
    const bytes plain = text(false, false), undone = text(true, true), kept = text(true, false);
    CHECK(plain.n > 0 && plain.n == undone.n && memcmp(plain.text, undone.text, plain.n) == 0);
    CHECK(plain.n != kept.n || memcmp(plain.text, kept.text, plain.n) != 0); /* negative control */
    fg_mem_free(plain.text);
    fg_mem_free(undone.text);
    fg_mem_free(kept.text);
}

FG_TEST(only_whole_passes_of_known_tokens_are_learned)
{
    fg_routing_model *m = random_model(5);
    fg_routing_row *r = NULL;
    fg_err err = {0};
    float score[E];
    uint32_t sel[8 * U] = {1, 0, 1, 0, 1, 0};
    const uint32_t ids[3] = {1, 2, 3}, foreign[1] = {V};
    REQUIRE(m != NULL && fg_routing_row_create(&r, m, &err) == FG_OK);
    const uint64_t before = m->n_tok;
    fg_routing_row_begin(r, 1, 0, ids, 3);
    CHECK(!fg_routing_row_score(r, 0, FG_ROUTING_ALL, score));            /* which of them? */
    for (uint32_t l = 0; l + 1 < L; l++) fg_routing_row_layer(r, l, sel); /* stopped */
    fg_routing_row_begin(r, 1, 0, foreign, 1);
    CHECK(!fg_routing_row_score(r, 0, FG_ROUTING_ALL, score));
    for (uint32_t l = 0; l < L; l++) fg_routing_row_layer(r, l, sel);
    fg_routing_row_begin(r, 1, 0, NULL, 0);
    for (uint32_t l = 0; l < L; l++) fg_routing_row_layer(r, l, sel);
    fg_routing_row_settle(r);
    CHECK_U64(fg_routing_row_model(r)->n_tok, before);
    fg_routing_row_begin(r, 1, 0, ids, 3);
    for (uint32_t l = 0; l < L; l++) fg_routing_row_layer(r, l, sel);
    fg_routing_row_forget(r, 1, 2); /* the third goes */
    fg_routing_row_settle(r);
    CHECK_U64(fg_routing_row_model(r)->n_tok, before + 2);
    /* more than can be forgotten: what is older stays */
    for (uint64_t pos = 0; pos < FG_ROUTING_HISTORY + 500; pos++) eval(r, 3, pos, 1, 0);
    fg_routing_row_settle(r);
    const uint64_t most = fg_routing_row_model(r)->n_tok;
    CHECK_U64(most, before + 2 + FG_ROUTING_HISTORY + 500);
    fg_routing_row_forget(r, 3, 0);
    CHECK(fg_routing_row_model(r)->n_tok < most - FG_ROUTING_HISTORY / 2 + 1 &&
          fg_routing_row_model(r)->n_tok > before + 2);
    fg_routing_row_destroy(&r);
    fg_routing_destroy(&m);
}

/* ---- training ---- */

/* Tokens have favourites, and a topic, which lasts for some tokens, moves one of their experts. */
static void plant(fg_routing_log *g, size_t n, uint64_t seed)
{
    fg_err err = {0};
    fg_rng r;
    fg_rng_init(&r, seed);
    REQUIRE_OK(fg_routing_log_add(g, n, &err), &err);
    uint32_t topic = 0;
    for (size_t t = 0; t < n; t++) {
        if (below(&r, 8) == 0) topic = below(&r, 6);
        const uint32_t id = below(&r, V) * below(&r, V) / V;
        g->id[t] = id;
        g->first[t] = t == 0;
        for (uint32_t l = 0; l < L; l++) {
            const uint32_t a = (id * 5 + l * 3) % E, b = (id + topic * 2 + l) % E;
            uint16_t *s = g->sel + (t * L + l) * U;
            s[0] = (uint16_t)(below(&r, 10) == 0 ? below(&r, E) : a);
            const bool other = below(&r, 10) == 0 || b == s[0];
            s[1] = (uint16_t)(other ? ((uint32_t)s[0] + 1 + below(&r, E - 1)) % E : b);
        }
    }
}

static fg_routing_model *learn(const fg_routing_log *g, fg_factor_algo algo, uint32_t n_thread,
                               fg_routing_report *rep)
{
    fg_factor_machine on;
    fg_routing_model *m = NULL;
    fg_err err = {0};
    const fg_routing_opts o = {.algo = algo, .rank = 8, .seed = 1};
    if (fg_factor_machine_open(&on, n_thread, &err) != FG_OK) return NULL;
    if (fg_routing_train(&m, g, &o, &on, rep, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    fg_factor_machine_close(&on);
    return m;
}

FG_TEST(training_finds_what_was_planted)
{
    static const fg_factor_algo algo[] = {FG_ALGO_ADS_CHEAP, FG_ALGO_ADS, FG_ALGO_NPID};
    fg_routing_log g = {.of = shape}, few = {.of = shape};
    plant(&g, 2000, 2);
    for (size_t i = 0; i < 3; i++) {
        fg_routing_report one, two;
        fg_routing_model *a = learn(&g, algo[i], 1, &one);
        fg_routing_model *b = i > 0 ? NULL : learn(&g, algo[i], 2, &two);
        REQUIRE(a != NULL && (b != NULL || i > 0));
        CHECK(one.n_held == 200 && one.n_fit == 1800 && a->n_tok == 2000);
        if (b != NULL) CHECK(memcmp(a->y, b->y, COLS * 8 * sizeof *a->y) == 0); /* any threads */
        /* layers before tell the topic; the table cannot, and four of twelve are a third */
        CHECK(one.table_near > 0.6 && one.near > one.table_near + 0.05);
        CHECK(one.next > one.table_next - 0.01);
        for (int k = 1; k < FG_ROUTING_BINS; k++) CHECK(a->chance[k] >= a->chance[k - 1]);
        CHECK(fg_routing_chance(a, 0.9f) > 0.7f && fg_routing_chance(a, 0.02f) < 0.2f);
        fg_routing_destroy(&a);
        fg_routing_destroy(&b);
    }
    /* negative control: with layers of other tokens nothing is left to be found */
    for (uint32_t l = 1; l < L; l++) {
        for (size_t t = 0; t + 31 * l < g.n; t++) {
            memcpy(g.sel + (t * L + l) * U, g.sel + ((t + 31 * l) * L + l) * U, U * sizeof *g.sel);
        }
    }
    fg_routing_report rep;
    fg_routing_model *m = learn(&g, FG_ALGO_ADS_CHEAP, 1, &rep);
    CHECK(rep.near < rep.table_near + 0.02);
    fg_routing_destroy(&m);
    fg_err err = {0};
    fg_factor_machine on;
    const fg_routing_opts o = {.algo = FG_ALGO_SGD, .rank = 4};
    plant(&few, 50, 1);
    REQUIRE_OK(fg_factor_machine_open(&on, 1, &err), &err);
    CHECK(fg_routing_train(&m, &few, &o, &on, &rep, &err) == FG_EINVAL && m == NULL);
    fg_factor_machine_close(&on);
    fg_routing_log_fini(&g);
    fg_routing_log_fini(&few);
}

/* ---- the file ---- */

static void seal(uint8_t *p, size_t n)
{
    const uint64_t h = fg_hash64(p, n - 8);
    for (int i = 0; i < 8; i++) p[n - 8 + (size_t)i] = (uint8_t)(h >> (8 * i));
}

FG_TEST(file_round_trip_and_damage)
{
    fg_routing_model *m = random_model(8), *got = NULL;
    const char *path = fg_test_tmp("m.predict");
    fg_err err = {0};
    char *text;
    size_t n;
    REQUIRE(m != NULL);
    m->recall[0] = 0.5f;
    REQUIRE_OK(fg_routing_save(path, m, &err), &err);
    REQUIRE_OK(fg_routing_load(path, &got, &err), &err);
    CHECK(got->n_tok == 60 && got->n_id == m->n_id && got->of.data_root == 0x1234);
    CHECK(memcmp(got->count, m->count, m->n_id * COLS * sizeof *m->count) == 0);
    CHECK(memcmp(got->solve, m->solve, (L + 1) * R * R * sizeof *m->solve) == 0);
    CHECK(memcmp(got->chance, m->chance, sizeof m->chance) == 0 && got->recall[0] == 0.5f);
    CHECK_OK(fg_routing_check(got, "m", &shape, &err), &err);
    fg_routing_shape other = shape;
    other.data_root++;
    CHECK(fg_routing_check(got, "m.predict", &other, &err) == FG_EINVAL);
    CHECK(strstr(err.msg, "m.predict: ") != NULL && strstr(err.msg, ", expected ") != NULL);
    other = shape;
    other.n_used = 1;
    CHECK(fg_routing_check(got, "m.predict", &other, &err) == FG_EINVAL);
    fg_routing_destroy(&got);
    REQUIRE_OK(fg_io_read_all(path, 1 << 24, &text, &n, &err), &err);
    uint8_t *p = malloc(n);
    uint32_t n_good = 0, n_bad = 0;
    fg_rng r;
    fg_rng_init(&r, 1);
    for (int i = 0; i < 4000;
         i++) { /* without right hashes never; with them it must hold or not open */
        const bool sealed = i % 4 != 0;
        memcpy(p, text, n);
        const size_t at = i % 2 == 0 ? below(&r, 60) : below(&r, (uint32_t)n);
        p[at] ^= (uint8_t)(1u << below(&r, 8));
        const size_t len = i % 16 == 5 ? n - 1 - below(&r, 40) : n;
        if (sealed) seal(p, len);
        const fg_status st = fg_routing_read(p, len, "x.predict", &got, &err);
        if (!sealed) CHECK(st != FG_OK || (at >= n - 8 && len == n && false));
        n_good += st == FG_OK;
        n_bad += st != FG_OK;
        if (st != FG_OK) CHECK(got == NULL && strstr(err.msg, ", expected ") != NULL);
        fg_routing_destroy(&got);
    }
    CHECK(n_good > 300 && n_bad > 1000);
    free(p);
    fg_mem_free(text);
    fg_routing_destroy(&m);
}
