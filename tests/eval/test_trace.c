/* SPDX-License-Identifier: MIT
 *
 * The trace file: what is written is read; what is damaged, foreign or forbidden is refused with
 * one line; what cannot be written, or memory for, leaves nothing behind, and nothing else is
 * touched. What a recorder, and a heat map, do not take.  More than 800 lines: both versions of the
 * file are damaged by the same hands.
 */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/expert/heat.h"
#include "src/eval/recorder.h"
#include "src/eval/replay.h"
#include "src/format/write/append.h"
#include "tests/eval/traces.h"
#include "tests/models.h"
#include "src/engine/session.h"

enum { N_PASS = 12, MOST_TOK = 5 };

static uint32_t tokens_of(uint32_t pass)
{
    return pass % 4 == 1 ? MOST_TOK : pass % 4 == 2 ? 2 : 1;
}

/* What write_small wrote, drawn again. */
static fg_status write_small(const char *path, bool heat)
{
    fg_rng r;
    fg_trace_writer *w;
    fg_err err = {0};
    uint64_t h[N_LAYER * N_EXPERT];
    for (uint64_t i = 0; i < N_LAYER * N_EXPERT; i++) h[i] = i << 33;
    fg_rng_init(&r, 4);
    if (fg_trace_create(&w, path, &small, heat ? h : NULL, &err) != FG_OK) return err.code;
    for (uint32_t p = 0; p < N_PASS; p++) {
        fg_trace_begin(w, tokens_of(p), p % 3 == 0);
        for (uint32_t l = 0; l < N_LAYER; l++) {
            uint32_t sel[MOST_TOK * N_USED];
            fg_guess g;
            for (uint32_t t = 0; t < tokens_of(p); t++) draw(&r, &small, sel + t * N_USED);
            draw_guess(&r, &small, l, &g);
            fg_trace_layer(w, l, sel);
            if (p % 5 != 0) fg_trace_guess(w, l, &g);
        }
    }
    const fg_status st = fg_trace_finish(w, &err);
    fg_trace_writer_destroy(&w);
    return st;
}

/* True when the pass is what write_small wrote. */
static bool pass_is_right(const fg_trace *t, const fg_trace_pass *pass, uint32_t p, fg_rng *r)
{
    bool ok = pass->n_tok == tokens_of(p) && pass->predict_on == (p % 3 == 0);
    for (uint32_t l = 0; ok && l < N_LAYER; l++) {
        uint32_t want[MOST_TOK * N_USED], got[MOST_TOK * N_USED];
        fg_guess g, have;
        const size_t bytes = pass->n_tok * N_USED * sizeof *want;
        for (uint32_t k = 0; k < pass->n_tok; k++) draw(r, &small, want + k * N_USED);
        draw_guess(r, &small, l, &g);
        fg_trace_sel(t, pass, l, got);
        ok = memcmp(got, want, bytes) == 0;
        if (fg_trace_guess_of(t, pass, l, &have) != (pass->n_tok == 1)) ok = false;
        if (pass->n_tok != 1) continue;
        if (p % 5 == 0) g.n_ahead = 0;
        ok = ok && have.n_ahead == g.n_ahead;
        for (uint32_t d = 0; ok && d < g.n_ahead; d++) {
            ok = memcmp(have.id[d], g.id[d], 4 * sizeof g.id[0][0]) == 0;
        }
    }
    return ok;
}

/* Files in the temporary folder whose names begin so. */
static int n_named(const char *prefix)
{
    int n = 0;
    DIR *d = opendir(fg_test_tmpdir());
    if (d == NULL) return -1;
    for (const struct dirent *e; (e = readdir(d)) != NULL;) {
        n += strncmp(e->d_name, prefix, strlen(prefix)) == 0;
    }
    (void)closedir(d);
    return n;
}

FG_TEST(trace_round_trip)
{
    const path_text path = tmp_path("round.trace");
    for (int heat = 0; heat < 2; heat++) {
        fg_trace *t;
        fg_err err = {0};
        fg_rng r;
        fg_trace_pass pass = {0};
        uint64_t have[N_LAYER * N_EXPERT];
        uint32_t n = 0;
        REQUIRE(write_small(path.s, heat == 1) == FG_OK);
        CHECK_U64(n_named("round."), 1);
        REQUIRE_OK(fg_trace_open(&t, path.s, &err), &err);
        fg_trace_head want = small;
        want.n_pass = N_PASS;
        want.n_tok = 3 * MOST_TOK + 3 * 2 + 6;
        const fg_trace_head *h = fg_trace_get_head(t);
        CHECK(h->n_layer == want.n_layer && h->n_expert == want.n_expert && h->n_used == N_USED);
        CHECK(h->data_root == want.data_root && h->dense_bytes == 1000 && h->slot_bytes == 100);
        CHECK(h->session_bytes == 500 && h->ram_bytes == 77 && h->policy == FG_POLICY_LFU);
        CHECK(h->predict == FG_PREDICT_PREVIOUS && h->ahead == 3);
        CHECK_U64(h->n_pass, want.n_pass);
        CHECK_U64(h->n_tok, want.n_tok);
        CHECK_U64(fg_trace_most_tok(t), MOST_TOK);
        CHECK(fg_trace_get_heat(t, have) == (heat == 1));
        CHECK(heat == 0 || have[7] == 7ull << 33);
        fg_rng_init(&r, 4);
        while (fg_trace_next(t, &pass)) CHECK(pass_is_right(t, &pass, n++, &r));
        CHECK_U64(n, N_PASS);
        pass = (fg_trace_pass){0}; /* negative control: another sequence is not found right */
        CHECK(fg_trace_next(t, &pass) && !pass_is_right(t, &pass, 0, &r));
        fg_trace_close(&t);
    }
}

static bool write_bytes(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    return f != NULL && fwrite(p, 1, n, f) == n && fclose(f) == 0;
}

static fg_status open_bytes(const void *p, size_t n, fg_err *err)
{
    const path_text path = tmp_path("damaged.trace");
    fg_trace *t;
    if (!write_bytes(path.s, p, n)) return FG_EIO;
    const fg_status st = fg_trace_open(&t, path.s, err);
    fg_trace_close(&t);
    return st;
}

FG_TEST(damage_is_refused)
{
    const path_text path = tmp_path("whole.trace");
    char *p;
    size_t n;
    fg_err err = {0};
    REQUIRE(write_small(path.s, true) == FG_OK);
    REQUIRE_OK(fg_io_read_all(path.s, 1 << 20, &p, &n, &err), &err);
    CHECK_OK(open_bytes(p, n, &err), &err); /* the same way, undamaged */
    for (size_t i = 0; i < n; i++) {
        for (int bit = 0; bit < 8; bit += 3) {
            p[i] = (char)(p[i] ^ 1 << bit);
            err = (fg_err){0};
            const fg_status st = open_bytes(p, n, &err);
            if (st == FG_OK || !is_line(&err)) {
                fg_test_fail(__FILE__, __LINE__, "byte %zu bit %d: %d %s", i, bit, st, err.msg);
            }
            p[i] = (char)(p[i] ^ 1 << bit);
        }
    }
    for (size_t i = 0; i < n; i++) {
        err = (fg_err){0};
        CHECK(open_bytes(p, i, &err) != FG_OK && is_line(&err));
    }
    char *longer = calloc(1, n + 1);
    memcpy(longer, p, n);
    CHECK(open_bytes(longer, n + 1, &err) == FG_EFORMAT);
    CHECK(open_bytes("GGUF, or anything else", 22, &err) == FG_EFORMAT);
    CHECK(strstr(err.msg, "no routing trace") != NULL);
    free(longer);
    fg_mem_free(p);
    fg_trace *t;
    CHECK(fg_trace_open(&t, "/nonexistent/t", &err) == FG_EIO && t == NULL);
    CHECK(fg_trace_open(&t, "/tmp", &err) == FG_EIO && t == NULL);
}

/* Writes the hashes that belong to the bytes: what is wrong must then be found by looking. */
static void seal(uint8_t *p, size_t n)
{
    const uint64_t body = fg_hash64(p + 128, n - 128);
    for (int i = 0; i < 8; i++) p[104 + i] = (uint8_t)(body >> 8 * i);
    const uint64_t head = fg_hash64(p, 120);
    for (int i = 0; i < 8; i++) p[120 + i] = (uint8_t)(head >> 8 * i);
}

FG_TEST(hostile_traces_do_no_harm) /* with right hashes; what opens must replay */
{
    const path_text path = tmp_path("hostile.trace");
    uint8_t *p;
    char *text;
    size_t n;
    fg_err err = {0};
    fg_rng r;
    int n_bad = 0, n_good = 0;
    fg_rng_init(&r, 9);
    REQUIRE(write_small(path.s, false) == FG_OK);
    REQUIRE_OK(fg_io_read_all(path.s, 1 << 20, &text, &n, &err), &err);
    p = malloc(n);
    for (int round = 0; round < 3000; round++) {
        memcpy(p, text, n);
        const size_t at = round % 2 == 0 ? below(&r, 120) : below(&r, (uint32_t)n);
        p[at] = (uint8_t)(round % 3 == 0 ? 0xff : round % 3 == 1 ? 0 : below(&r, 256));
        seal(p, n);
        REQUIRE(write_bytes(path.s, p, n));
        fg_trace *t;
        err = (fg_err){0};
        if (fg_trace_open(&t, path.s, &err) != FG_OK) {
            CHECK(is_line(&err));
            n_bad++;
            continue;
        }
        fg_recall_row recall[FG_PREDICT_COUNT];
        fg_cache_stats s;
        fg_future *f = NULL;
        CHECK_OK(fg_future_create(&f, t, &err), &err);
        const fg_replay_opts o = {.n_slot = 5,
                                  .policy = round % 2 == 0 ? FG_POLICY_OPTIMAL : FG_POLICY_LRU,
                                  .predict = FG_PREDICT_ROUTER,
                                  .ahead = 4,
                                  .future = f};
        CHECK_OK(fg_replay_run(t, &o, &s, &err), &err);
        CHECK_OK(recall_of_all(t, recall, &err), &err);
        fg_future_destroy(&f);
        fg_trace_close(&t);
        n_good++;
    }
    CHECK(n_bad > 500 && n_good > 500); /* both happened */
    free(p);
    fg_mem_free(text);
}

/* Where a pass of write_small begins, in a file without a heat map. */
static size_t pass_begins(uint32_t pass)
{
    size_t at = 128;
    for (uint32_t p = 0; p < pass; p++) {
        const size_t guess = tokens_of(p) == 1 ? 4 * 4 : 0;
        at += 8 + N_LAYER * 2 * (tokens_of(p) * N_USED + guess);
    }
    return at;
}

/* What stands in traces, for ever: a new policy or predictor adds a row here. */
static const struct {
    const char *name;
    uint32_t stored;
} pinned_policies[] = {{"lru", 0}, {"lfu", 1}, {"pin", 2}},
  pinned_predictors[] = {{"none", 0},   {"frequency", 1}, {"previous", 2},
                         {"router", 3}, {"factor", 4},    {"router+factor", 5}};

enum {
    N_POLICY = sizeof pinned_policies / sizeof pinned_policies[0],
    N_PREDICTOR = sizeof pinned_predictors / sizeof pinned_predictors[0],
};

/* Live policies whose stored number is not the pinned one. */
static uint32_t n_wrong_numbers(const fg_policy_row *rows, uint32_t n)
{
    uint32_t n_live = 0, n_right = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!rows[i].live) continue;
        n_live++;
        for (uint32_t k = 0; k < N_POLICY; k++) {
            n_right += strcmp(rows[i].name, pinned_policies[k].name) == 0 &&
                       rows[i].stored == pinned_policies[k].stored;
        }
    }
    return (n_live > N_POLICY ? n_live : N_POLICY) - n_right;
}

static uint32_t n_wrong_predictors(const fg_predict_row *rows, uint32_t n)
{
    uint32_t n_right = 0;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < N_PREDICTOR; k++) {
            n_right += strcmp(rows[i].name, pinned_predictors[k].name) == 0 &&
                       rows[i].stored == pinned_predictors[k].stored;
        }
    }
    return (n > N_PREDICTOR ? n : N_PREDICTOR) - n_right;
}

FG_TEST(stored_numbers_are_pinned)
{
    fg_policy_row p[FG_POLICY_COUNT];
    fg_predict_row q[FG_PREDICT_COUNT];
    for (uint32_t i = 0; i < FG_POLICY_COUNT; i++) p[i] = *fg_policy_get((fg_policy)i);
    for (uint32_t i = 0; i < FG_PREDICT_COUNT; i++) q[i] = *fg_predict_get((fg_predict)i);
    CHECK_U64(n_wrong_numbers(p, FG_POLICY_COUNT), 0);
    CHECK_U64(n_wrong_predictors(q, FG_PREDICT_COUNT), 0);
    /* negative controls: renumbered lists, and lists with a row less or more */
    p[0].stored = 1;
    p[1].stored = 0;
    CHECK_U64(n_wrong_numbers(p, FG_POLICY_COUNT), 2);
    p[2].live = false;
    CHECK_U64(n_wrong_numbers(p, FG_POLICY_COUNT), 3);
    q[3].stored = 6;
    CHECK_U64(n_wrong_predictors(q, FG_PREDICT_COUNT), 1);
    CHECK_U64(n_wrong_predictors(q, 4), 3);
}

/* 2 layers of 3 experts, 1 used, recorded with lfu and the router's predictor, 2 ahead: a pass of 2
 * tokens with the predictor off, and one of 1 token with guesses. */
static const uint8_t golden[] = {
    0x89, 0x46, 0x47, 0x54, 0x52, 0x0d, 0x0a, 0x1a, /* magic */
    0x01, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, /* version, n_layer */
    0x03, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, /* n_expert, n_used */
    0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, /* data_root */
    0xe8, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* dense_bytes */
    0x64, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* slot_bytes */
    0xf4, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* session_bytes */
    0x4d, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* ram_bytes */
    0x01, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, /* policy, predict */
    0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* ahead, has_heat */
    0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* n_pass */
    0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* n_tok */
    0x4c, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* body_bytes */
    0xc4, 0x21, 0xa1, 0x63, 0x22, 0xce, 0x24, 0xac, /* body_hash */
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* reserved */
    0x6e, 0x0d, 0x2f, 0x09, 0x5d, 0x19, 0xff, 0x40, /* head_hash */
    0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* 2 tokens, off */
    0x02, 0x00, 0x01, 0x00,                         /* layer 0 */
    0x00, 0x00, 0x00, 0x00,                         /* layer 1 */
    0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, /* 1 token, on */
    0x01, 0x00,                                     /* layer 0 */
    0x02, 0x00, 0x00, 0x00, 0x01, 0x00,             /* what the router of layer 1 says */
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, /* further rows */
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x00,                         /* layer 1 */
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, /* no guess */
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
};

/* The file with these numbers. */
static void write_golden(const char *path, fg_policy policy, fg_predict predict)
{
    const fg_trace_head h = {.n_layer = 2,
                             .n_expert = 3,
                             .n_used = 1,
                             .data_root = 0x0123456789abcdef,
                             .dense_bytes = 1000,
                             .slot_bytes = 100,
                             .session_bytes = 500,
                             .ram_bytes = 77,
                             .policy = policy,
                             .predict = predict,
                             .ahead = 2};
    const fg_guess g = {.n_ahead = 1, .id = {{2, 0, 1}}}, none = {.n_ahead = 0};
    fg_trace_writer *w;
    fg_err err = {0};
    REQUIRE_OK(fg_trace_create(&w, path, &h, NULL, &err), &err);
    fg_trace_begin(w, 2, false);
    fg_trace_layer(w, 0, (const uint32_t[]){2, 1});
    fg_trace_layer(w, 1, (const uint32_t[]){0, 0});
    fg_trace_begin(w, 1, true);
    fg_trace_layer(w, 0, (const uint32_t[]){1});
    fg_trace_guess(w, 0, &g);
    fg_trace_layer(w, 1, (const uint32_t[]){2});
    fg_trace_guess(w, 1, &none);
    CHECK_OK(fg_trace_finish(w, &err), &err);
    fg_trace_writer_destroy(&w);
}

FG_TEST(golden_trace)
{
    const path_text path = tmp_path("golden.trace");
    fg_err err = {0};
    for (uint32_t i = 0; i < FG_POLICY_COUNT * FG_PREDICT_COUNT; i++) {
        const fg_policy policy = (fg_policy)(i / FG_PREDICT_COUNT);
        const fg_predict predict = (fg_predict)(i % FG_PREDICT_COUNT);
        uint8_t want[sizeof golden];
        char *text;
        size_t n;
        fg_trace *t;
        if (!fg_policy_is_live(policy)) continue;
        write_golden(path.s, policy, predict);
        REQUIRE_OK(fg_io_read_all(path.s, 1 << 20, &text, &n, &err), &err);
        memcpy(want, golden,
               sizeof golden); /* another one differs in the two numbers and the hash */
        want[64] = want[68] = 0xff;
        for (uint32_t k = 0; k < N_POLICY; k++) {
            if (strcmp(fg_policy_name(policy), pinned_policies[k].name) != 0) continue;
            want[64] = (uint8_t)pinned_policies[k].stored;
        }
        for (uint32_t k = 0; k < N_PREDICTOR; k++) {
            if (strcmp(fg_predict_name(predict), pinned_predictors[k].name) != 0) continue;
            want[68] = (uint8_t)pinned_predictors[k].stored;
        }
        CHECK(n == sizeof want && memcmp(text, want, 120) == 0);
        CHECK(n == sizeof want && memcmp(text + 128, want + 128, sizeof want - 128) == 0);
        const bool is_golden = policy == FG_POLICY_LFU && predict == FG_PREDICT_ROUTER;
        CHECK((n == sizeof golden && memcmp(text, golden, n) == 0) == is_golden); /* control */
        REQUIRE_OK(fg_trace_open(&t, path.s, &err), &err);
        CHECK(fg_trace_get_head(t)->policy == policy && fg_trace_get_head(t)->predict == predict);
        fg_trace_close(&t);
        fg_mem_free(text);
    }
}

/* ---- version 2: tokens, positions, what was kept ---- */

enum { VOCAB = 70000, N_TOLD = 9 };

/* Passes of 3 tokens, every third one of a single one; the fourth and the eighth undo some of what
 * was before. */
static uint64_t told_pos(uint32_t p)
{
    static const uint64_t pos[N_TOLD + 1] = {0, 3, 6, 5, 8, 11, 12, 2, 5, 6};
    return pos[p];
}

static uint32_t told_tok(uint32_t p)
{
    return p % 3 == 2 ? 1 : 3;
}

static void write_told(const char *path, fg_status *st)
{
    fg_trace_head h = small;
    fg_trace_writer *w;
    fg_err err = {0};
    fg_rng r;
    fg_rng_init(&r, 9);
    h.n_vocab = VOCAB;
    h.ahead = 7;
    REQUIRE_OK(fg_trace_create(&w, path, &h, NULL, &err), &err);
    for (uint32_t p = 0; p < N_TOLD; p++) {
        const uint32_t ids[3] = {p, 66000 + p, VOCAB - 1};
        if (p != 1) fg_trace_at(w, told_pos(p)); /* the usual place needs not be said */
        fg_trace_begin(w, told_tok(p), true);
        for (uint32_t l = 0; l < N_LAYER; l++) {
            uint32_t sel[3 * N_USED];
            const fg_guess g = {.n_ahead = l < 2 ? 2 : 0,
                                .id = {{8, 7, 6, 5, 4, 3, 2, 1}, {0, 1, 2, 3, 4, 5, 6, 7}}};
            for (uint32_t k = 0; k < told_tok(p); k++) draw(&r, &h, sel + k * N_USED);
            fg_trace_layer(w, l, sel);
            fg_trace_guess(w, l, &g);
        }
        if (p != 4) fg_trace_tokens(w, ids);
    }
    *st = fg_trace_finish(w, &err);
    fg_trace_writer_destroy(&w);
}

FG_TEST(trace_with_tokens)
{
    const path_text path = tmp_path("told.trace");
    fg_status st = FG_EIO;
    fg_trace *t;
    fg_err err = {0};
    fg_trace_pass pass = {0};
    uint32_t p = 0, ids[3];
    write_told(path.s, &st);
    REQUIRE(st == FG_OK);
    REQUIRE_OK(fg_trace_open(&t, path.s, &err), &err);
    CHECK(fg_trace_get_head(t)->n_vocab == VOCAB && fg_trace_get_head(t)->ahead == 7);
    for (; fg_trace_next(t, &pass); p++) {
        fg_guess g;
        REQUIRE(p < N_TOLD && fg_trace_ids(t, &pass, ids));
        CHECK(pass.n_tok == told_tok(p) && pass.pos == told_pos(p));
        const uint64_t next = p + 1 < N_TOLD ? told_pos(p + 1) : pass.pos + pass.n_tok;
        CHECK_U64(pass.n_kept, next > pass.pos ? next - pass.pos : 0);
        CHECK(ids[0] == (p == 4 ? 0 : p) && (pass.n_tok == 1 || p == 4 || ids[1] == 66000 + p));
        if (pass.n_tok != 1) continue;
        CHECK(fg_trace_guess_of(t, &pass, 1, &g) && g.n_ahead == 2 && g.id[0][7] == 1);
        CHECK(fg_trace_guess_of(t, &pass, 2, &g) && g.n_ahead == 0);
    }
    CHECK_U64(p, N_TOLD);
    /* who logs them has the timeline as it is at the end */
    fg_routing_log log = {.of = fg_trace_shape(fg_trace_get_head(t))};
    CHECK_OK(fg_replay_log(t, 0, UINT64_MAX, &log, &err), &err);
    CHECK(log.n == 6 && log.first[0] && !log.first[1]); /* positions 0 .. 5 */
    CHECK(log.id[0] == 0 && log.id[1] == 66000 && log.id[2] == 7 && log.id[5] == 8);
    fg_routing_log_fini(&log);
    fg_trace_close(&t);
    log = (fg_routing_log){.of = fg_trace_shape(&small)};
    REQUIRE(write_small(path.s, false) == FG_OK);
    REQUIRE_OK(fg_trace_open(&t, path.s, &err), &err);
    CHECK(fg_replay_log(t, 0, UINT64_MAX, &log, &err) == FG_EINVAL && is_line(&err));
    CHECK(fg_trace_next(t, &(fg_trace_pass){0}) && !fg_trace_ids(t, &pass, ids));
    fg_trace_close(&t);
}

/* Each with right hashes; at 0 the first pass begins at byte 128. */
FG_TEST(what_version_2_forbids_is_refused)
{
    enum { FIRST = 128, LAYERS = FIRST + 20 + 4 * 3, SECOND = LAYERS + N_LAYER * 2 * 3 * N_USED };
    static const struct {
        size_t at, n;
        uint8_t bytes[8];
        bool good; /* controls: what may stand there */
    } cases[] = {
        {8, 4, {3}, false},                         /* a version to come */
        {8, 4, {1}, false},                         /* one that has no tokens */
        {112, 4, {0}, false},                       /* no vocabulary */
        {116, 4, {1}, false},                       /* reserved */
        {72, 4, {9}, false},                        /* layers ahead */
        {FIRST + 8, 1, {1}, false},                 /* begins elsewhere than kept rows say */
        {FIRST + 16, 4, {2}, false},                /* kept fewer */
        {FIRST + 16, 4, {4}, false},                /* more than there are */
        {FIRST + 20, 4, {0x70, 0x11, 1, 0}, false}, /* token 70000 of 70000 */
        {FIRST + 20, 4, {0x6f, 0x11, 1, 0}, true},  /* the last one */
        {SECOND + 8, 8, {4}, false},                /* behind the end of the one before */
        {SECOND + 8, 8, {0, 0, 0, 0, 0, 0, 0, 0x40}, false}, /* 2^62 */
        {LAYERS, 2, {N_EXPERT}, false},
        {LAYERS, 2, {1}, true},
    };
    const path_text path = tmp_path("forbid.trace");
    fg_status st = FG_EIO;
    fg_err err = {0};
    char *text;
    size_t n;
    write_told(path.s, &st);
    REQUIRE(st == FG_OK);
    REQUIRE_OK(fg_io_read_all(path.s, 1 << 20, &text, &n, &err), &err);
    uint8_t *p = malloc(n);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fg_trace *t;
        memcpy(p, text, n);
        memcpy(p + cases[i].at, cases[i].bytes, cases[i].n);
        seal(p, n);
        REQUIRE(write_bytes(path.s, p, n));
        err = (fg_err){0};
        st = fg_trace_open(&t, path.s, &err);
        if ((st == FG_OK) != cases[i].good) fg_test_fail(__FILE__, __LINE__, "case %zu", i);
        CHECK(st == FG_OK || is_line(&err));
        fg_trace_close(&t);
    }
    for (size_t at = 0; at < n; at += at < LAYERS ? 1 : 7) { /* without, any flipped bit */
        fg_trace *t;
        memcpy(p, text, n);
        p[at] ^= (uint8_t)(1u << at % 8);
        REQUIRE(write_bytes(path.s, p, n));
        if (fg_trace_open(&t, path.s, &err) == FG_OK) {
            fg_test_fail(__FILE__, __LINE__, "byte %zu", at);
            fg_trace_close(&t);
        }
    }
    free(p);
    fg_mem_free(text);
    fg_trace_writer *w;
    fg_trace_head h = small;
    h.n_vocab = 5;
    REQUIRE_OK(fg_trace_create(&w, path.s, &h, NULL, &err), &err);
    fg_trace_begin(w, 1, true);
    fg_trace_tokens(w, (const uint32_t[]){5});
    CHECK(fg_trace_finish(w, &err) == FG_EINVAL && strstr(err.msg, "token 5") != NULL);
    fg_trace_writer_destroy(&w);
    REQUIRE_OK(fg_trace_create(&w, path.s, &h, NULL, &err), &err);
    fg_trace_begin(w, 1, true);
    fg_trace_at(w, 2); /* a hole */
    for (uint32_t l = 0; l < N_LAYER; l++) fg_trace_layer(w, l, (const uint32_t[]){0, 1});
    fg_trace_begin(w, 1, true);
    CHECK(fg_trace_finish(w, &err) == FG_EINVAL && strstr(err.msg, "position 2") != NULL);
    fg_trace_writer_destroy(&w);
}

FG_TEST(what_the_format_forbids_is_refused) /* with right hashes */
{
    enum { LAYER = 2 * (N_USED + 16) }; /* bytes of a layer in a pass of one token */
    const size_t last = pass_begins(N_PASS - 1), sel = last + 8, guess = sel + 2 * N_USED;
    const struct {
        size_t at, n;
        uint8_t bytes[8];
    } cases[] = {
        {last, 4, {0, 0, 0x10, 0}},                 /* 2^20 tokens, far behind the end */
        {last, 4, {0, 0, 0, 0}},                    /* none */
        {last, 4, {1, 0, 0x10, 0}},                 /* more than 2^20 */
        {last + 4, 1, {2}},                         /* a flag that is reserved */
        {sel, 2, {N_EXPERT, 0}},                    /* an expert that the layer lacks */
        {guess + 4 * LAYER, 8, {0}},                /* a guess behind the last layer */
        {guess + 3 * LAYER, 8, {0, 0, 0xff, 0xff}}, /* half a row */
        {guess + 3 * LAYER, 8, {N_EXPERT, 0}},
        {guess + 3 * LAYER + 8, 8, {0}}, /* two layers ahead, from the one before the last */
        {80, 1, {N_PASS + 1}},
        {88, 1, {99}},                     /* tokens */
        {76, 1, {1}},                      /* the passes as a heat map: they are no passes then */
        {12, 8, {0, 4, 0, 0, 0, 4, 0, 0}}, /* 2^20 experts, fewer bytes */
        {12, 4, {1, 4, 0, 0}},             /* 1025 layers */
        {20, 4, {10, 0, 0, 0}},            /* more used than there are */
        {64, 4, {0xff, 0xff, 0xff, 0xff}}, /* policies of replays are no policies of runs */
        {64, 4, {0, 1, 0, 0}},             /* a policy to come */
        {68, 4, {0, 1, 0, 0}},             /* a predictor to come */
        {72, 4, {0, 0, 0, 0}},             /* no layers ahead */
        {40, 8, {0}},                      /* experts without bytes */
        {39, 1, {0x40}},                   /* 2^62 bytes */
        {112, 1, {1}},                     /* reserved */
    };
    const path_text path = tmp_path("forbidden.trace");
    char *text;
    size_t n;
    fg_err err = {0};
    REQUIRE(write_small(path.s, false) == FG_OK);
    REQUIRE_OK(fg_io_read_all(path.s, 1 << 20, &text, &n, &err), &err);
    CHECK_U64(n, pass_begins(N_PASS));
    uint8_t *p = malloc(n);
    for (size_t i = 0; i <= sizeof cases / sizeof cases[0]; i++) {
        memcpy(p, text, n);
        const bool control = i == sizeof cases / sizeof cases[0];
        if (!control) memcpy(p + cases[i].at, cases[i].bytes, cases[i].n);
        seal(p, n);
        err = (fg_err){0};
        const fg_status st = open_bytes(p, n, &err);
        if (st == (control ? FG_OK : FG_EFORMAT) && (control || is_line(&err))) continue;
        fg_test_fail(__FILE__, __LINE__, "case %zu: %d %s", i, st, err.msg);
    }
    memcpy(p, text, n); /* a heat map larger than the file */
    p[76] = 1;
    p[12] = p[16] = 0;
    p[13] = p[17] = 4;
    seal(p, n);
    CHECK(open_bytes(p, n, &err) == FG_EFORMAT && strstr(err.msg, "heat map") != NULL);
    free(p);
    fg_mem_free(text);
}

FG_TEST(a_pass_ends_in_the_file) /* though all that could be read behind it would be experts */
{
    const path_text path = tmp_path("ends.trace");
    const uint32_t sel[2 * N_USED] = {0};
    fg_trace_writer *w;
    char *p;
    size_t n;
    fg_err err = {0};
    REQUIRE_OK(fg_trace_create(&w, path.s, &small, NULL, &err), &err);
    fg_trace_begin(w, 2, true);
    for (uint32_t l = 0; l < N_LAYER; l++) fg_trace_layer(w, l, sel);
    CHECK_OK(fg_trace_finish(w, &err), &err);
    fg_trace_writer_destroy(&w);
    REQUIRE_OK(fg_io_read_all(path.s, 1 << 20, &p, &n, &err), &err);
    CHECK_OK(open_bytes(p, n, &err), &err);
    for (uint32_t n_tok = 3; n_tok <= 1 << 20; n_tok *= 2) {
        for (int i = 0; i < 4; i++) p[88 + i] = p[128 + i] = (char)(n_tok >> 8 * i);
        seal((uint8_t *)p, n);
        CHECK(open_bytes(p, n, &err) == FG_EFORMAT);
    }
    fg_mem_free(p);
}

FG_TEST(writing_fails_clean)
{
    const path_text path = tmp_path("fails.trace");
    const uint32_t sel[N_USED] = {0, 1};
    fg_trace_writer *w;
    fg_err err = {0};
    CHECK(fg_trace_create(&w, "/nonexistent/t", &small, NULL, &err) == FG_EIO && w == NULL);
    CHECK(fg_trace_create(&w, fg_test_tmpdir(), &small, NULL, &err) == FG_EINVAL && w == NULL);
    CHECK(fg_trace_create(&w, "/dev/null", &small, NULL, &err) == FG_EINVAL && w == NULL);
    fg_trace_head bad = small;
    bad.n_used = 33;
    CHECK(fg_trace_create(&w, path.s, &bad, NULL, &err) == FG_EINVAL && is_line(&err));
    for (int way = 0; way < 4; way++) {
        err = (fg_err){0};
        REQUIRE_OK(fg_trace_create(&w, path.s, &small, NULL, &err), &err);
        if (way == 1) fg_trace_begin(w, 0, true);
        if (way >= 2) fg_trace_begin(w, 1, true);
        if (way == 2) fg_trace_layer(w, 0, sel); /* and no more */
        if (way == 3) fg_trace_layer(w, 1, sel); /* the first is missing */
        CHECK_U64(n_named("fails."), 1);
        CHECK(!fg_io_exists(path.s)); /* under another name */
        CHECK(fg_trace_finish(w, &err) == FG_EINVAL && is_line(&err));
        fg_trace_writer_destroy(&w);
        CHECK_U64(n_named("fails."), 0);
    }
}

FG_TEST(what_lies_beside_is_left_alone) /* such as an unfinished conversion to the same name */
{
    static const char *const name[] = {"mine.trace.part", "mine.trace.tmp",
                                       "mine.trace.tmp00000000"};
    const path_text path = tmp_path("mine.trace");
    const size_t n = sizeof name / sizeof name[0];
    fg_trace_writer *w[2];
    fg_err err = {0};
    for (size_t i = 0; i < n; i++) REQUIRE(write_bytes(tmp_path(name[i]).s, name[i], 9));
    REQUIRE_OK(fg_trace_create(&w[0], path.s, &small, NULL, &err), &err);
    REQUIRE_OK(fg_trace_create(&w[1], path.s, &small, NULL, &err), &err); /* each has its own */
    CHECK_U64(n_named("mine."), n + 2);
    fg_trace_writer_destroy(&w[0]);
    fg_trace_writer_destroy(&w[1]);
    CHECK(write_small(path.s, false) == FG_OK);
    CHECK_U64(n_named("mine."), n + 1);
    for (size_t i = 0; i < n; i++) {
        char *p = NULL;
        size_t len = 0;
        CHECK_OK(fg_io_read_all(tmp_path(name[i]).s, 100, &p, &len, &err), &err);
        CHECK(len == 9 && memcmp(p, name[i], 9) == 0);
        fg_mem_free(p);
    }
}

FG_TEST(memory_runs_out) /* at every allocation: an error, and nothing is left */
{
    const path_text path = tmp_path("memory.trace");
    uint64_t n_failed = 0;
    for (uint64_t n = 1; n < 200; n++) {
        fg_recall_row recall[FG_PREDICT_COUNT];
        fg_cache_stats s;
        fg_future *f = NULL;
        fg_trace *t = NULL;
        fg_err err = {0};
        fg_mem_fail_after(n);
        fg_status st = write_small(path.s, true);
        if (st == FG_OK) st = fg_trace_open(&t, path.s, &err);
        if (st == FG_OK) st = fg_future_create(&f, t, &err);
        const fg_replay_opts o = {
            .n_slot = 9, .policy = FG_POLICY_OPTIMAL, .predict = FG_PREDICT_ROUTER, .future = f};
        if (st == FG_OK) st = fg_replay_run(t, &o, &s, &err);
        if (st == FG_OK) st = recall_of_all(t, recall, &err);
        fg_mem_fail_after(0);
        fg_future_destroy(&f);
        fg_trace_close(&t);
        CHECK(n_named("memory.") == fg_io_exists(path.s));
        if (st == FG_OK) break;
        CHECK(st == FG_ENOMEM);
        n_failed++;
    }
    CHECK(n_failed > 20 && n_failed < 198);
}

/* ---- recorder, heat map ---- */

static fg_status record(fg_engine *e, fg_session *s, const fg_engine_opts *o, const char *path,
                        fg_err *err)
{
    fg_recorder *r = NULL;
    *err = (fg_err){0};
    const fg_status st = fg_recorder_create(&r, e, s, o, path, true, err);
    fg_recorder_destroy(&r);
    return st;
}

FG_TEST(a_recorder_wants_a_fresh_store)
{
    const path_text path = tmp_path("fresh.trace");
    const uint32_t ids[] = {5, 6, 7};
    for (int streams = 0; streams < 2; streams++) {
        fg_engine_opts o = fg_engine_opts_default();
        fg_engine *e = NULL;
        fg_err err = {0};
        o.n_thread = 1;
        o.ram_bytes = streams == 1 ? (uint64_t)256 << 20 : 0;
        REQUIRE_OK(fg_engine_open(&e, model_file(NANO_DIR, "q4"), &o, &err), &err);
        fg_session *s = model_session(e, 16, 4);
        REQUIRE(s != NULL);
        CHECK_OK(record(e, s, &o, path.s, &err), &err);
        REQUIRE_OK(fg_session_eval(s, ids, 3, NULL, NULL, &err), &err);
        CHECK(record(e, s, &o, path.s, &err) == FG_EINVAL && is_line(&err));
        CHECK(strstr(err.msg, "3 tokens") != NULL);
        fg_session_reset(s); /* the store remembers */
        CHECK(record(e, s, &o, path.s, &err) == (streams == 1 ? FG_EINVAL : FG_OK));
        CHECK(streams == 0 || (is_line(&err) && strstr(err.msg, "store") != NULL));
        CHECK_OK(record(e, s, &o, NULL, &err), &err); /* counts are of what is seen */
        CHECK_U64(n_named("fresh."), 0);
        fg_session_destroy(&s);
        fg_engine_close(&e);
    }
}

/* What the file's heat map makes of `from` written as `to`, of as many characters. */
static fg_status load_changed(const char *path, const char *from, const char *to, fg_err *err)
{
    fg_model_file *f;
    fg_heat h;
    fg_buf b = {0};
    const char *json;
    size_t n;
    FG_TRY(fg_model_file_open(&f, path, err));
    fg_status st = fg_model_file_meta(f, "heat", &json, &n, err);
    if (st == FG_OK) fg_buf_put(&b, json, n);
    fg_model_file_close(&f);
    char *at = st == FG_OK ? strstr(fg_buf_str(&b), from) : NULL;
    if (at == NULL) return FG_EIO;
    memcpy(at, to, strlen(to));
    st = fg_model_file_append_meta(path, "heat", b.data, b.len, err);
    fg_buf_fini(&b);
    FG_TRY(st);
    FG_TRY(fg_model_file_open(&f, path, err));
    st = fg_heat_load(f, &h, err);
    fg_mem_free(h.use);
    fg_model_file_close(&f);
    return st;
}

FG_TEST(a_count_of_a_heat_map_is_exact)
{
    const path_text path = tmp_path("heat.fulgur");
    char cmd[600];
    uint64_t use[256] = {0};
    fg_heat put = {.text = "t", .n_tok = 1, .use = use};
    fg_model_file *f;
    fg_err err = {0};
    (void)snprintf(cmd, sizeof cmd, "cp %s %s", model_file(NANO_DIR, "q4"), path.s);
    REQUIRE(system(cmd) == 0);
    REQUIRE_OK(fg_model_file_open(&f, path.s, &err), &err);
    put.data_root = fg_model_file_data_root(f);
    fg_model_file_close(&f);
    use[77] = (uint64_t)1 << 53;
    CHECK(fg_heat_store(path.s, &put, &err) == FG_EINVAL && is_line(&err));
    use[77]--;
    CHECK_OK(fg_heat_store(path.s, &put, &err), &err);
    const char *const most = "9007199254740991";
    CHECK_OK(load_changed(path.s, most, most, &err), &err);
    CHECK(load_changed(path.s, most, "9007199254740993", &err) == FG_EFORMAT && is_line(&err));
    CHECK(load_changed(path.s, "9007199254740993", "9007199254740992", &err) == FG_EFORMAT);
    CHECK_OK(load_changed(path.s, "9007199254740992", most, &err), &err);
}
