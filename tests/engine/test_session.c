/* SPDX-License-Identifier: MIT
 *
 * A session's timeline: whatever was rewound, marked, forked, stopped or evaluated in company, the
 * logits of a token are those of a plain run, bit for bit.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/hash.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/engine/engine_impl.h"
#include "src/engine/memory.h"
#include "src/engine/session.h"
#include "src/model/forward.h"
#include "src/model/mark.h"
#include "src/sys/cpu.h"
#include "tests/fg_test.h"
#include "tests/models.h"

#define TINY_DIR "tests/vectors/oracle/orig-wide"
enum { N = 640, MAX_SEQ = 8 };

static void prompt(uint32_t *ids, size_t n, uint32_t n_vocab, uint64_t seed)
{
    fg_rng r;
    fg_rng_init(&r, seed);
    for (size_t i = 0; i < n; i++) ids[i] = (uint32_t)(fg_rng_u64(&r) % n_vocab);
}

/* An engine, a text, and the logits of a plain run over its first n tokens. */
typedef struct rig {
    fg_engine *e;
    size_t n;
    uint32_t ids[N];
    uint32_t n_vocab;
    float *want; /* [n][n_vocab] */
} rig;

static bool rig_open_n(rig *r, const char *src, uint32_t n_thread, uint64_t seed, size_t n)
{
    *r = (rig){.e = model_open(src, "q4", n_thread, NULL), .n = n};
    if (r->e == NULL) return false;
    r->n_vocab = fg_engine_shape(r->e)->n_vocab;
    prompt(r->ids, N, r->n_vocab, seed);
    fg_session *s = model_session(r->e, N, 100);
    r->want = s == NULL ? NULL : model_logits(s, r->e, r->ids, n, 0);
    fg_session_destroy(&s);
    return r->want != NULL;
}

static bool rig_open(rig *r, const char *src, uint32_t n_thread, uint64_t seed)
{
    return rig_open_n(r, src, n_thread, seed, N);
}

static void rig_close(rig *r)
{
    free(r->want);
    fg_engine_close(&r->e);
}

/* The session's logits are those of the plain run. */
static bool is_plain(const rig *r, const fg_session *s)
{
    const uint64_t pos = fg_session_pos(s);
    const float *got = fg_session_logits(s);
    const size_t bytes = r->n_vocab * sizeof(float);
    return got != NULL && pos > 0 && pos <= r->n &&
           memcmp(got, r->want + (pos - 1) * r->n_vocab, bytes) == 0;
}

/* Evaluates the text up to position `to`, some tokens at a time. */
static bool go_to(const rig *r, fg_session *s, uint64_t to, size_t step)
{
    fg_err err = {0};
    while (fg_session_pos(s) < to) {
        const uint64_t pos = fg_session_pos(s), left = to - pos;
        const size_t n = left < step ? (size_t)left : step;
        if (fg_session_eval(s, r->ids + pos, n, NULL, NULL, &err) != FG_OK) {
            fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
            return false;
        }
    }
    return true;
}

/* Tokens that are not the text's. */
static bool stray(const rig *r, fg_session *s, size_t n)
{
    uint32_t ids[MAX_SEQ];
    fg_err err = {0};
    const uint64_t room = fg_session_n_ctx(s) - fg_session_pos(s);
    n = n < room ? n : (size_t)room;
    for (size_t i = 0; i < n; i++) {
        ids[i] = (r->ids[(fg_session_pos(s) + i) % N] + 1) % r->n_vocab;
    }
    return n == 0 || fg_session_eval(s, ids, n, NULL, NULL, &err) == FG_OK;
}

static uint64_t back_to(fg_session *s, uint64_t pos)
{
    uint64_t at = UINT64_MAX;
    fg_err err = {0};
    CHECK_OK(fg_session_rewind(s, pos, &at, &err), &err);
    CHECK(at <= pos && fg_session_pos(s) == at);
    return at;
}

static void random_rewinds(const char *src, uint32_t n_thread, int n_rewind)
{
    rig r;
    fg_rng rng;
    fg_rng_init(&rng, 3);
    REQUIRE(rig_open(&r, src, n_thread, 11));
    fg_session *s = model_session(r.e, N, 100);
    REQUIRE(s != NULL && go_to(&r, s, 300, 100));
    for (int i = 0; i < n_rewind; i++) {
        REQUIRE(stray(&r, s, fg_rng_u64(&rng) % (MAX_SEQ + 1)));
        const uint64_t pos = fg_rng_u64(&rng) % (fg_session_pos(s) + 1);
        if (i % 7 == 0) CHECK(fg_session_mark(s, NULL) == FG_OK);
        (void)back_to(s, pos < 300 ? pos : 300); /* what is after 300 may be stray */
        REQUIRE(go_to(&r, s, pos + 1 < 301 ? pos + 1 : 301, 1 + (size_t)i % 5));
        CHECK(is_plain(&r, s));
        REQUIRE(go_to(&r, s, 300 + (uint64_t)i % 9, 64));
        CHECK(is_plain(&r, s));
        (void)back_to(s, 300);
    }
    fg_session_destroy(&s);
    rig_close(&r);
}

FG_TEST(rewinds_to_215_random_positions)
{
    random_rewinds(TINY_DIR, 2, 215);
    random_rewinds(NANO_DIR, 2, 12);
}

FG_TEST(rewinds_around_every_boundary)
{
    rig r;
    REQUIRE(rig_open(&r, TINY_DIR, 2, 12));
    fg_session *s = model_session(r.e, N, 100);
    for (uint64_t k = 1; k < 8; k++) {
        for (uint64_t after = 0; after < 2; after++) { /* before and after token 64k */
            for (uint64_t to = 64 * k - 1; to <= 64 * k + 1; to++) {
                fg_session_reset(s);
                REQUIRE(go_to(&r, s, 64 * k + after, 77));
                if (to > fg_session_pos(s)) REQUIRE(stray(&r, s, to - fg_session_pos(s)));
                const uint64_t at = back_to(s, to < 64 * k + after ? to : 64 * k + after);
                /* S of the chunk before is gone once the first token of the next one is in */
                CHECK(at == (after == 1 && to < 64 * k ? 0
                             : to < 64 * k + after     ? to
                                                       : 64 * k + after));
                REQUIRE(go_to(&r, s, to + 1, 1));
                CHECK(is_plain(&r, s));
                REQUIRE(go_to(&r, s, to + 70, 50));
                CHECK(is_plain(&r, s));
            }
        }
    }
    fg_session_destroy(&s);
    rig_close(&r);
}

/* ---- below the session ---- */

typedef struct raw {
    fg_model *m;
    fg_team *team;
    fg_state *st;
    fg_scratch *s;
    float *logits;
} raw;

static void take(void *ctx, uint64_t pos, const float *logits)
{
    const raw *w = ctx;
    (void)pos;
    memcpy(w->logits, logits, w->m->shape->n_vocab * sizeof(float));
}

static void raw_eval(raw *w, const uint32_t *ids, uint32_t n)
{
    const fg_seq seq = {
        .st = w->st, .n = n, .logits_from = n - 1, .on_logits = take, .on_logits_ctx = w};
    fg_batch b = {.m = w->m, .s = w->s, .seq = &seq, .n_seq = 1, .ids = ids, .n_tok = n};
    fg_err err = {0};
    CHECK_OK(fg_forward(w->team, &b, &err), &err);
}

static bool raw_open(raw *w, fg_engine *e)
{
    fg_err err = {0};
    *w = (raw){0};
    bool ok = fg_model_create(&w->m, fg_engine_file(e), fg_cpu_detect(), &err) == FG_OK;
    ok = ok && fg_team_create(&w->team, 2, false, &err) == FG_OK;
    ok = ok && fg_state_create(&w->st, w->m->shape, N, FG_KV_INT8, NULL, &err) == FG_OK;
    ok = ok && fg_scratch_create(&w->s, w->m, N, 100, 2, &err) == FG_OK;
    w->logits = malloc(fg_engine_shape(e)->n_vocab * sizeof(float));
    return ok && w->logits != NULL;
}

static void raw_close(raw *w)
{
    free(w->logits);
    fg_scratch_destroy(&w->s);
    fg_state_destroy(&w->st);
    fg_team_destroy(&w->team);
    fg_model_destroy(&w->m);
}

/* Rewound to 128 with S folded there; `wrong`: as if the fold were decided by the position
 * alone. */
static bool after_boundary(const rig *r, raw *w, bool wrong)
{
    fg_state_reset(w->st);
    raw_eval(w, r->ids, 100);
    raw_eval(w, r->ids + 100, 29);
    CHECK_U64(w->st->folded, 128);
    CHECK(fg_state_rewind(w->st, 128));
    if (wrong) w->st->folded = w->st->pos - 64;
    raw_eval(w, r->ids + 128, 1);
    return memcmp(w->logits, r->want + (size_t)128 * r->n_vocab, r->n_vocab * sizeof(float)) == 0;
}

FG_TEST(a_fold_by_position_alone_is_wrong) /* negative control */
{
    rig r;
    raw w;
    REQUIRE(rig_open(&r, TINY_DIR, 2, 13) && raw_open(&w, r.e));
    CHECK(after_boundary(&r, &w, false));
    CHECK(!after_boundary(&r, &w, true));
    raw_close(&w);
    rig_close(&r);
}

FG_TEST(a_rewind_inside_a_chunk_copies_nothing)
{
    rig r;
    raw w;
    REQUIRE(rig_open(&r, TINY_DIR, 2, 14) && raw_open(&w, r.e));
    raw_eval(&w, r.ids, 100);
    const uint64_t before = fg_hash64(w.st->map, (size_t)w.st->bytes), n = fg_mem_count();
    CHECK(fg_state_rewind(w.st, 77));
    CHECK_U64(w.st->pos, 77);
    CHECK(!fg_state_rewind(w.st, 63) && !fg_state_rewind(w.st, 78)); /* beyond S; not there */
    CHECK(fg_hash64(w.st->map, (size_t)w.st->bytes) == before);
    CHECK_U64(fg_mem_count(), n);
    raw_eval(&w, r.ids + 77, 1);
    CHECK(fg_hash64(w.st->map, (size_t)w.st->bytes) == before); /* the same token, the same bytes */
    const uint32_t other = (r.ids[78] + 1) % r.n_vocab;
    raw_eval(&w, &other, 1); /* negative control */
    CHECK(fg_hash64(w.st->map, (size_t)w.st->bytes) != before);
    raw_close(&w);
    rig_close(&r);
}

static uint64_t hash_of_mark(const raw *w, uint64_t pos)
{
    fg_mark mark = {0};
    fg_err err = {0};
    CHECK_OK(fg_mark_take(&mark, w->team, w->m, w->st, &err), &err);
    CHECK_U64(mark.pos, pos);
    const uint64_t h = fg_hash64(mark.map, (size_t)fg_mark_bytes(w->m->shape, pos));
    fg_mark_fini(&mark);
    return h;
}

FG_TEST(marks_are_canonical)
{
    rig r;
    raw w;
    REQUIRE(rig_open(&r, TINY_DIR, 2, 15) && raw_open(&w, r.e));
    raw_eval(&w, r.ids, 64);
    CHECK_U64(w.st->folded, 0);
    const uint64_t unfolded = hash_of_mark(&w, 64);
    raw_eval(&w, r.ids + 64, 1);
    CHECK_U64(w.st->folded, 64);
    CHECK(hash_of_mark(&w, 65) != unfolded); /* negative control */
    CHECK(fg_state_rewind(w.st, 64));
    CHECK(hash_of_mark(&w, 64) == unfolded);
    raw_close(&w);
    rig_close(&r);
}

/* ---- marks, forks, common prefixes ---- */

FG_TEST(marks_across_chunks)
{
    static const uint64_t at[] = {30, 64, 130, 191, 192, 193, 256, 300};
    rig r;
    REQUIRE(rig_open(&r, TINY_DIR, 2, 16));
    fg_session *s = model_session(r.e, N, 100);
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        REQUIRE(go_to(&r, s, at[i], 37));
        CHECK(fg_session_mark(s, NULL) == FG_OK);
    }
    REQUIRE(go_to(&r, s, 420, 100) && stray(&r, s, 3));
    /* four are kept, the farther apart the farther back: 130, 193, 256, 300 */
    CHECK_U64(back_to(s, 310), 300);
    REQUIRE(go_to(&r, s, 311, 100));
    CHECK(is_plain(&r, s));
    CHECK_U64(back_to(s, 255), 193);
    REQUIRE(go_to(&r, s, 400, 100));
    CHECK(is_plain(&r, s));
    CHECK_U64(back_to(s, 380), 193); /* later marks went with what they marked */
    REQUIRE(go_to(&r, s, 260, 1));
    CHECK(is_plain(&r, s));
    CHECK_U64(back_to(s, 192), 130);
    REQUIRE(go_to(&r, s, 500, 100));
    CHECK_U64(back_to(s, 191), 130);
    CHECK_U64(back_to(s, 129), 129); /* free */
    REQUIRE(go_to(&r, s, 200, 100));
    CHECK_U64(back_to(s, 127), 0); /* nothing before 130 is left */
    CHECK(fg_session_logits(s) == NULL);
    REQUIRE(go_to(&r, s, 192, 100));
    CHECK(is_plain(&r, s));
    uint64_t where;
    fg_err err = {0};
    CHECK(fg_session_rewind(s, 193, &where, &err) == FG_EINVAL);
    fg_session_destroy(&s);
    rig_close(&r);
}

FG_TEST(forks_go_their_own_way)
{
    rig r;
    fg_err err = {0};
    REQUIRE(rig_open(&r, TINY_DIR, 2, 17));
    fg_session *a = model_session(r.e, N, 100), *b = NULL;
    static const uint64_t at[] = {1, 63, 64, 65, 200, 256};
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        fg_session_reset(a);
        REQUIRE(go_to(&r, a, at[i], 90));
        REQUIRE_OK(fg_session_fork(&b, a, &err), &err);
        CHECK(is_plain(&r, b));
        CHECK(memcmp(fg_session_ids(a), fg_session_ids(b), at[i] * sizeof(uint32_t)) == 0);
        REQUIRE(stray(&r, a, 5));
        REQUIRE(go_to(&r, b, at[i] + 80, 33));
        CHECK(is_plain(&r, b));
        fg_session_destroy(&b);
    }
    fg_session_destroy(&a);
    rig_close(&r);
}

FG_TEST(sync_keeps_the_common_prefix)
{
    rig r;
    fg_err err = {0};
    size_t kept;
    REQUIRE(rig_open(&r, TINY_DIR, 2, 18));
    fg_session *s = model_session(r.e, N, 100);
    CHECK_OK(fg_session_sync(s, r.ids, 100, &kept, &err), &err);
    CHECK(kept == 0 && is_plain(&r, s));
    CHECK_OK(fg_session_sync(s, r.ids, 120, &kept, &err), &err);
    CHECK(kept == 100 && is_plain(&r, s));
    CHECK_OK(fg_session_sync(s, r.ids, 120, &kept, &err), &err); /* nothing to do */
    CHECK(kept == 120 && is_plain(&r, s));
    CHECK_OK(fg_session_sync(s, r.ids, 90, &kept, &err), &err); /* the last one's logits */
    CHECK(kept == 89 && is_plain(&r, s));
    uint32_t other[110];
    memcpy(other, r.ids, sizeof other);
    other[70] = (other[70] + 1) % r.n_vocab;
    CHECK_OK(fg_session_sync(s, other, 110, &kept, &err), &err);
    CHECK(kept == 70 && fg_session_pos(s) == 110);
    CHECK(!is_plain(&r, s)); /* negative control */
    CHECK_OK(fg_session_sync(s, r.ids, 300, &kept, &err), &err);
    CHECK(kept == 70 && is_plain(&r, s));
    CHECK(fg_session_sync(s, r.ids, 0, &kept, &err) == FG_EINVAL);
    fg_session_destroy(&s);
    rig_close(&r);
}

/* ---- nodes ---- */

static fg_engine *open_nodes(uint32_t n_thread, uint32_t nodes)
{
    const char *path = model_file(NANO_DIR, "q4");
    fg_engine_opts o = fg_engine_opts_default();
    fg_engine *e = NULL;
    fg_err err = {0};
    o.n_thread = n_thread;
    o.pretend_nodes = nodes;
    if (path != NULL) CHECK_OK(fg_engine_open(&e, path, &o, &err), &err);
    return e;
}

/* The same act on a session of one node and on one of several. */
typedef struct pair {
    fg_session *one, *many;
    uint32_t n_vocab;
    fg_rng rng;
} pair;

static bool pair_same(const pair *p)
{
    const float *a = fg_session_logits(p->one), *b = fg_session_logits(p->many);
    return fg_session_pos(p->one) == fg_session_pos(p->many) && (a == NULL) == (b == NULL) &&
           (a == NULL || memcmp(a, b, p->n_vocab * sizeof(float)) == 0);
}

static void pair_eval(pair *p, size_t n)
{
    enum { MOST = 600 };
    uint32_t ids[MOST];
    fg_err err = {0};
    prompt(ids, n, p->n_vocab, fg_rng_u64(&p->rng));
    CHECK_OK(fg_session_eval(p->one, ids, n, NULL, NULL, &err), &err);
    CHECK_OK(fg_session_eval(p->many, ids, n, NULL, NULL, &err), &err);
}

static void pair_fork(pair *p)
{
    fg_session *one, *many;
    fg_err err = {0};
    CHECK_OK(fg_session_fork(&one, p->one, &err), &err);
    CHECK_OK(fg_session_fork(&many, p->many, &err), &err);
    fg_session_destroy(&p->one);
    fg_session_destroy(&p->many);
    p->one = one;
    p->many = many;
}

static void play_pair(pair *p, uint32_t nodes, int n_act)
{
    for (int i = 0; i < n_act; i++) {
        const uint64_t r = fg_rng_u64(&p->rng), pos = fg_session_pos(p->one);
        if (pos < 1500 && r % 3 != 0) {
            pair_eval(p, 100 + (size_t)(r >> 8) % 500);
        } else if (r % 5 == 0) {
            pair_fork(p);
        } else if (r % 5 == 1 && pos > 0) {
            const uint64_t to = (r >> 8) % pos;
            CHECK_U64(back_to(p->one, to), back_to(p->many, to));
        } else if (r % 5 == 2) {
            const uint64_t bytes = fg_session_bytes(p->one), more = fg_session_bytes(p->many);
            CHECK(fg_session_mark(p->one, NULL) == FG_OK &&
                  fg_session_mark(p->many, NULL) == FG_OK);
            CHECK_U64(fg_session_bytes(p->many) - more, fg_session_bytes(p->one) - bytes);
        }
        if (fg_session_pos(p->one) < 2800) pair_eval(p, 1 + (size_t)(r >> 40) % 2 * 40);
        if (pair_same(p)) continue;
        fg_test_fail(__FILE__, __LINE__, "%u nodes, act %d: other logits", nodes, i);
        return;
    }
}

/* Contexts of up to three spans. */
FG_TEST(marks_forks_and_rewinds_across_nodes)
{
    static const uint32_t nodes[] = {3, 16, 2, 8};
    const uint32_t n = fg_test_long() ? 4 : 2;
    fg_engine *e = open_nodes(2, 0);
    REQUIRE(e != NULL);
    for (uint32_t i = 0; i < n; i++) {
        fg_engine *m = open_nodes(1 + i, nodes[i]);
        pair p = {model_session(e, 3000, 256),
                  model_session(m, 3000, 256),
                  fg_engine_shape(e)->n_vocab,
                  {{0}}};
        fg_rng_init(&p.rng, i);
        play_pair(&p, nodes[i], 72 / fg_test_every(3, 9));
        fg_session_reset(p.one);
        pair_eval(&p, 1);
        CHECK(!pair_same(&p)); /* negative control */
        fg_session_destroy(&p.one);
        fg_session_destroy(&p.many);
        fg_engine_close(&m);
    }
    fg_engine_close(&e);
}

/* ---- company ---- */

/* Several texts at once, each some tokens further a call, in lengths of their own. */
static void company(const char *src, uint32_t n_thread, size_t n_seq, size_t n_tok)
{
    rig r[MAX_SEQ];
    fg_session *s[MAX_SEQ];
    fg_rng rng;
    fg_err err = {0};
    fg_rng_init(&rng, n_seq);
    for (size_t i = 0; i < n_seq; i++) {
        REQUIRE(rig_open_n(&r[i], src, n_thread, 100 + i, n_tok));
        s[i] = model_session(r[0].e, N, 40 + (uint32_t)i);
        REQUIRE(s[i] != NULL);
    }
    for (int round = 0;; round++) {
        fg_eval_item item[MAX_SEQ];
        size_t n = 0;
        for (size_t i = 0; i < n_seq; i++) {
            const uint64_t pos = fg_session_pos(s[i]), left = n_tok - pos;
            const size_t want = round % 3 == 2 ? 1 : 1 + (size_t)(fg_rng_u64(&rng) % 70);
            if (left == 0) continue;
            item[n++] =
                (fg_eval_item){s[i], r[i].ids + pos, left < want ? (size_t)left : want, NULL, NULL};
        }
        if (n == 0) break;
        REQUIRE_OK(fg_session_eval_many(item, n, &err), &err);
        for (size_t i = 0; i < n_seq; i++) CHECK(is_plain(&r[i], s[i]));
    }
    for (size_t i = 0; i < n_seq; i++) {
        CHECK(!is_plain(&r[(i + 1) % n_seq], s[i])); /* negative control */
        fg_session_destroy(&s[i]);
    }
    for (size_t i = 0; i < n_seq; i++) rig_close(&r[i]);
}

FG_TEST(two_to_eight_sequences_in_one_batch)
{
    for (size_t n = 2; n <= MAX_SEQ; n++) company(TINY_DIR, 1 + (uint32_t)n % 3, n, 150);
    company(NANO_DIR, 2, 3, 80);
}

FG_TEST(company_is_checked_before_anything_runs)
{
    rig r;
    fg_err err = {0};
    REQUIRE(rig_open(&r, TINY_DIR, 2, 19));
    fg_session *a = model_session(r.e, 64, 32), *b = model_session(r.e, 64, 32);
    fg_eval_item item[2] = {{a, r.ids, 10, NULL, NULL}, {a, r.ids, 10, NULL, NULL}};
    CHECK(fg_session_eval_many(item, 2, &err) == FG_EINVAL); /* twice */
    item[1] = (fg_eval_item){b, r.ids, 65, NULL, NULL};
    CHECK(fg_session_eval_many(item, 2, &err) == FG_ELIMIT);
    CHECK(fg_session_pos(a) == 0 && fg_session_pos(b) == 0);
    item[1].n = 64;
    CHECK_OK(fg_session_eval_many(item, 2, &err), &err); /* negative control */
    CHECK(fg_session_pos(a) == 10 && fg_session_pos(b) == 64);
    CHECK(fg_session_eval_many(item, 0, &err) == FG_EINVAL);
    fg_session_destroy(&a);
    fg_session_destroy(&b);
    rig_close(&r);
}

/* ---- stopping ---- */

typedef struct brake {
    int left; /* questions that are answered yes */
    int asked;
} brake;

static bool ask(void *ctx, size_t done, size_t total)
{
    brake *b = ctx;
    CHECK(done <= total);
    return b->asked++ < b->left;
}

/* Stops a pass of 200 tokens from position `at` after `left` questions, then goes on; true when it
 * was stopped inside the pass. */
static bool stop_at(const rig *r, uint64_t at, int left, bool always)
{
    fg_session_opts o = fg_session_opts_default();
    fg_session *s;
    fg_err err = {0};
    o.n_ctx = N;
    o.n_batch = 200;
    o.stops = true;
    CHECK_OK(fg_session_create(&s, r->e, &o, &err), &err);
    if (s == NULL) return false;
    CHECK(at == 0 || go_to(r, s, at, 50));
    if (always) fg_session_ask_always(s);
    brake b = {.left = left};
    fg_session_set_progress(s, ask, &b);
    const fg_status st = fg_session_eval(s, r->ids + at, 200, NULL, NULL, &err);
    if (st != FG_OK) {
        CHECK(st == FG_ECANCEL);
        CHECK_U64(fg_session_pos(s), at);
        CHECK(at == 0 ? fg_session_logits(s) == NULL : is_plain(r, s));
    }
    fg_session_set_progress(s, NULL, NULL);
    CHECK(go_to(r, s, at + 201, 201));
    CHECK(is_plain(r, s));
    fg_session_destroy(&s);
    return st != FG_OK && b.asked > 1;
}

FG_TEST(a_stopped_pass_leaves_no_trace)
{
    rig r;
    fg_err err = {0};
    REQUIRE(rig_open(&r, TINY_DIR, 2, 20));
    static const uint64_t at[] = {0, 63, 64, 10, 65, 200};
    const size_t n_at = FG_TEST_SANITIZED ? 3 : sizeof at / sizeof at[0];
    int n_between = 0, n_within = 0;
    for (size_t i = 0; i < n_at; i++) {
        for (int left = 0; left < 12; left += 1 + left / (FG_TEST_SANITIZED ? 1 : 4)) {
            n_between += stop_at(&r, at[i], left, false);
        }
        for (int left = 1; left < 600; left += 1 + left / (FG_TEST_SANITIZED ? 1 : 2)) {
            n_within += stop_at(&r, at[i], left, true);
        }
    }
    printf("stopped %d times between sub-layers, %d times anywhere\n", n_between, n_within);
    /* how often a pass asks within depends on how much of it worker 0 happens to do: 60 to 64 */
    CHECK(n_between > (FG_TEST_SANITIZED ? 5 : 30) && n_within > (FG_TEST_SANITIZED ? 12 : 45));
    fg_session_opts o = fg_session_opts_default(); /* negative control: only between passes */
    o.n_ctx = N;
    o.n_batch = 200;
    fg_session *s;
    REQUIRE_OK(fg_session_create(&s, r.e, &o, &err), &err);
    brake b = {.left = 1};
    fg_session_set_progress(s, ask, &b);
    CHECK(fg_session_eval(s, r.ids, 200, NULL, NULL, &err) == FG_OK && b.asked == 2);
    fg_session_destroy(&s);
    rig_close(&r);
}

/* The same where experts are read while they are used, and read ahead by what was observed. */
FG_TEST(a_stopped_pass_on_a_store)
{
    const char *path = model_file(NANO_DIR, "q4");
    fg_engine_opts o = fg_engine_opts_default();
    fg_err err = {0};
    rig r;
    int n_stopped = 0;
    REQUIRE(rig_open_n(&r, NANO_DIR, 2, 20, 280));
    fg_engine_close(&r.e);
    o.n_thread = 2;
    o.ram_bytes = FG_MEMORY_PROGRAM + ((uint64_t)40 << 20); /* not all experts */
    for (o.predict = FG_PREDICT_NONE; o.predict < FG_PREDICT_COUNT; o.predict++) {
        REQUIRE_OK(fg_engine_open(&r.e, path, &o, &err), &err);
        fg_store_set_clock(r.e->store, NULL);
        for (int left = 1; left < 2000; left *= 3) n_stopped += stop_at(&r, 65, left, true);
        fg_engine_close(&r.e);
    }
    printf("stopped %d times\n", n_stopped);
    CHECK(n_stopped > 10);
    rig_close(&r);
}

/* ---- observers ---- */

typedef struct notes {
    uint32_t n_used;
    uint32_t sel[N][4]; /* of layer 1 */
    uint64_t n_told, n_live;
    uint64_t pos; /* rows before it were told and not taken back */
} notes;

static void on_routed(void *ctx, uint32_t layer, uint64_t pos, uint64_t n_tok, const uint32_t *sel,
                      const float *weights)
{
    notes *k = ctx;
    CHECK(weights[0] > 0.0f);
    if (layer != 1) return;
    CHECK_U64(pos, k->pos); /* in order, without gaps */
    for (uint64_t t = 0; t < n_tok; t++) {
        memcpy(k->sel[pos + t], sel + t * k->n_used, k->n_used * sizeof *sel);
    }
    k->n_told += n_tok;
    k->pos = pos + n_tok;
}

static void on_rewound(void *ctx, uint64_t pos)
{
    notes *k = ctx;
    CHECK(pos < k->pos);
    k->pos = pos;
}

static void on_live(void *ctx, uint32_t layer, uint64_t pos, uint64_t n_tok, const uint32_t *sel,
                    const float *weights)
{
    notes *k = ctx;
    (void)pos;
    (void)sel;
    (void)weights;
    if (layer == 1) k->n_live += n_tok;
}

FG_TEST(observers_hear_of_kept_rows_only)
{
    static notes plain, spec; /* large */
    rig r;
    fg_err err = {0};
    REQUIRE(rig_open(&r, TINY_DIR, 2, 21));
    const uint32_t n_used = fg_engine_shape(r.e)->n_used;
    plain = spec = (notes){.n_used = n_used};
    REQUIRE(n_used <= 4);
    fg_session *a = model_session(r.e, N, 100), *b = model_session(r.e, N, 100);
    const fg_observer oa = {on_routed, on_rewound, &plain}, ob = {on_routed, on_rewound, &spec};
    const fg_taps live = {.experts = on_live, .ctx = &spec};
    fg_session_set_observer(a, &oa);
    fg_session_set_observer(b, &ob);
    fg_session_set_taps(b, &live);
    REQUIRE(go_to(&r, a, 200, 100));
    fg_session_flush(a);
    REQUIRE(go_to(&r, b, 40, 40));
    for (uint64_t pos = 40; pos < 200;) { /* drafts, of which the first `ok` rows are right */
        uint32_t draft[8];
        const uint64_t chunk = 64 - pos % 64, n = chunk < 8 ? chunk : 8, ok = 1 + pos % n;
        memcpy(draft, r.ids + pos, sizeof draft);
        for (uint64_t i = ok; i < n; i++) draft[i] = (draft[i] + 1) % r.n_vocab;
        REQUIRE_OK(fg_session_eval(b, draft, n, NULL, NULL, &err), &err);
        pos = back_to(b, pos + ok < 200 ? pos + ok : 200);
    }
    fg_session_flush(b);
    CHECK_U64(spec.n_told, 200);
    CHECK(spec.n_live > 200); /* negative control: taps see every row */
    CHECK(memcmp(plain.sel, spec.sel, sizeof plain.sel) == 0);
    const uint64_t at = back_to(b, 150); /* what was told is taken back */
    CHECK_U64(spec.pos, at);
    fg_session_destroy(&a);
    fg_session_destroy(&b);
    rig_close(&r);
}

/* ---- the ledger ---- */

FG_TEST(nodes_take_what_the_ledger_says)
{
    fg_err err = {0};
    for (uint32_t nodes = 1; nodes <= 16; nodes += 14) {
        fg_engine *e = open_nodes(2, nodes);
        REQUIRE(e != NULL);
        fg_session *s = model_session(e, 3000, 40);
        fg_memory m;
        const fg_memory_opts mo = {3000, 40, 2, FG_KV_INT8, false, .place = fg_team_place(e->team)};
        CHECK_OK(fg_memory_of_session(&m, fg_engine_shape(e), &e->model->forms, &mo, &err), &err);
        CHECK_U64(fg_session_bytes(s), m.session);
        CHECK_U64(m.lightning + m.kv + m.scratch, m.session);
        fg_session_destroy(&s);
        fg_engine_close(&e);
    }
}

FG_TEST(a_session_takes_what_the_ledger_says)
{
    rig r;
    raw w;
    fg_err err = {0};
    REQUIRE(rig_open_n(&r, TINY_DIR, 2, 22, 8) && raw_open(&w, r.e));
    for (int stops = 0; stops < 2; stops++) {
        fg_session_opts o = fg_session_opts_default();
        fg_session *s;
        fg_memory m;
        o.n_ctx = 300;
        o.n_batch = 40;
        o.stops = stops == 1;
        const fg_memory_opts mo = {300, 40, 2, FG_KV_INT8, o.stops, .place = NULL};
        CHECK_OK(fg_memory_of_session(&m, w.m->shape, &w.m->forms, &mo, &err), &err);
        REQUIRE(fg_session_create(&s, r.e, &o, &err) == FG_OK);
        CHECK_U64(fg_session_bytes(s), m.session);
        CHECK((m.undo > 0) == o.stops);
        REQUIRE(go_to(&r, s, 100, 40));
        CHECK_OK(fg_session_mark(s, &err), &err);
        CHECK_U64(fg_session_bytes(s), m.session + fg_mark_bytes(w.m->shape, 100));
        CHECK(fg_mark_bytes(w.m->shape, 100) <= m.mark);
        fg_session_reset(s); /* marks go, and their memory */
        CHECK_U64(fg_session_bytes(s), m.session);
        fg_session_destroy(&s);
    }
    raw_close(&w);
    rig_close(&r);
}

typedef struct steps {
    size_t n, done[8];
} steps;

static bool note_step(void *ctx, size_t done, size_t total)
{
    steps *s = ctx;
    (void)total;
    if (s->n < 8) s->done[s->n++] = done;
    return true;
}

/* Without `stops` progress is asked between passes only. */
FG_TEST(a_long_prompt_is_one_pass)
{
    rig r;
    raw w;
    fg_err err = {0};
    REQUIRE(rig_open_n(&r, TINY_DIR, 2, 22, 8) && raw_open(&w, r.e));
    uint32_t ids[700];
    for (int i = 0; i < 700; i++) ids[i] = (uint32_t)i % 64;
    for (uint32_t n_batch = 0; n_batch <= 512; n_batch += 512) { /* chosen; given, which holds */
        fg_session_opts o = fg_session_opts_default();
        fg_session *s;
        steps seen = {0};
        o.n_ctx = 700;
        o.n_batch = n_batch;
        REQUIRE(fg_session_create(&s, r.e, &o, &err) == FG_OK);
        const uint64_t bytes = fg_session_bytes(s);
        fg_session_set_progress(s, note_step, &seen);
        CHECK_OK(fg_session_eval(s, ids, 700, NULL, NULL, &err), &err);
        CHECK_U64(seen.n, n_batch == 0 ? 2 : 3);
        if (n_batch == 0) CHECK_U64(seen.done[1], 700);
        CHECK_U64(fg_session_bytes(s), bytes); /* and is given back */
        fg_session_destroy(&s);
    }
    raw_close(&w);
    rig_close(&r);
}
