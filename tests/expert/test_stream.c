/* SPDX-License-Identifier: MIT
 *
 * A model whose experts are read on demand gives the bits of the mapped one: for every budget,
 * policy, backend, thread count and batch, and whatever goes wrong on the way; and the counts of
 * the live run are those of a replay of its routing.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/engine/session.h"
#include "src/expert/store.h"
#include "src/model/forward.h"
#include "src/sys/cpu.h"
#include "tests/expert/faulty.h"
#include "tests/fg_test.h"
#include "tests/models.h"
#include "src/engine/memory.h"

#define TINY_DIR "tests/vectors/oracle/orig-heads6"

/* ---- a model by hand, so that the store can be anything ---- */

typedef struct rig {
    fg_model_file *file;
    fg_store *store;
    fg_model *model;
    fg_team *team;
    fg_state *state;
    fg_scratch *scratch;
} rig;

typedef struct rig_opts {
    uint32_t n_slot; /* 0: mapped */
    fg_policy policy;
    fg_predict predict;
    uint32_t ahead;
    const fg_io_ops *ops;
    uint32_t n_thread, n_batch;
    uint32_t piece;
} rig_opts;

static void rig_close(rig *r)
{
    fg_scratch_destroy(&r->scratch);
    fg_state_destroy(&r->state);
    fg_team_destroy(&r->team);
    fg_model_destroy(&r->model);
    fg_store_destroy(&r->store);
    fg_model_file_close(&r->file);
}

static bool rig_open(rig *r, const char *path, const rig_opts *o, uint64_t n_ctx)
{
    fg_err err = {0};
    memset(r, 0, sizeof *r);
    fg_status st = path == NULL ? FG_EIO : fg_model_file_open(&r->file, path, &err);
    if (st == FG_OK && o->n_slot != 0) {
        const uint64_t dense = fg_store_dense_bytes(r->file), slot = fg_store_slot_bytes(r->file);
        const fg_store_opts so = {.bytes = dense + o->n_slot * slot,
                                  .policy = o->policy,
                                  .predict = o->predict,
                                  .ahead = o->ahead,
                                  .io = {.ops = o->ops, .piece = o->piece}};
        st = fg_store_create(&r->store, r->file, &so, &err);
        if (st == FG_OK) fg_store_set_clock(r->store, NULL);
    }
    if (st == FG_OK) {
        const fg_home home = {.store = r->store};
        st = fg_model_create_on(&r->model, r->file, &home, fg_kernels_used(fg_cpu_detect()), &err);
    }
    if (st == FG_OK) st = fg_team_create(&r->team, o->n_thread, false, &err);
    if (st == FG_OK) {
        const fg_kv_type kv = r->model->quantized ? FG_KV_INT8 : FG_KV_F32;
        st = fg_state_create(&r->state, r->model->shape, n_ctx, kv, NULL, &err);
    }
    if (st == FG_OK) {
        st = fg_scratch_create(&r->scratch, r->model, n_ctx, o->n_batch, o->n_thread, &err);
    }
    if (st == FG_OK) return true;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    rig_close(r);
    return false;
}

typedef struct logit_sink {
    float *out; /* [n][n_vocab] */
    size_t n_vocab;
} logit_sink;

static void put(void *ctx, uint64_t pos, const float *logits)
{
    const logit_sink *k = ctx;
    memcpy(k->out + pos * k->n_vocab, logits, k->n_vocab * sizeof(float));
}

/* A prompt, then decoding: `n` tokens, all but the last n_decode in batches. */
static fg_status rig_run(rig *r, uint32_t n, uint32_t n_decode, const fg_taps *taps, float *out,
                         fg_err *err)
{
    fg_rng rng;
    uint32_t ids[512];
    fg_rng_init(&rng, 21);
    logit_sink sink = {out, r->model->shape->n_vocab};
    for (uint32_t i = 0; i < n; i++) ids[i] = (uint32_t)(fg_rng_u64(&rng) % sink.n_vocab);
    for (uint32_t i = 0, m; i < n; i += m) {
        const uint32_t left = i < n - n_decode ? n - n_decode - i : 1;
        m = left < r->scratch->n_batch ? left : r->scratch->n_batch;
        const fg_seq seq = {
            .st = r->state, .n = m, .on_logits = put, .on_logits_ctx = &sink, .taps = taps};
        fg_batch b = {
            .m = r->model, .s = r->scratch, .seq = &seq, .n_seq = 1, .ids = ids + i, .n_tok = m};
        FG_TRY(fg_forward(r->team, &b, err));
    }
    return FG_OK;
}

enum { N_TOK = 90, N_DECODE = 25 };

/* Logits [N_TOK][n_vocab], malloc'ed. */
static float *logits_of(const char *path, const rig_opts *o, size_t *bytes)
{
    rig r;
    fg_err err = {0};
    if (!rig_open(&r, path, o, N_TOK)) return NULL;
    *bytes = (size_t)N_TOK * r.model->shape->n_vocab * sizeof(float);
    float *out = calloc(1, *bytes);
    if (rig_run(&r, N_TOK, N_DECODE, NULL, out, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    rig_close(&r);
    return out;
}

static bool equals_mapped(const char *path, const float *want, size_t bytes, const rig_opts *o)
{
    size_t n;
    float *got = logits_of(path, o, &n);
    const bool same = got != NULL && n == bytes && memcmp(got, want, bytes) == 0;
    free(got);
    return same;
}

static void check_bits(const char *src, const char *type, const uint32_t *sizes, size_t n_size)
{
    const char *path = model_file(src, type);
    const rig_opts mapped = {.n_thread = 2, .n_batch = 64};
    size_t bytes;
    float *want = logits_of(path, &mapped, &bytes);
    static const fg_io_ops *const ops[] = {NULL, &fg_io_pread, &faulty_ops};
    static const uint32_t batches[] = {64, 3, 1};
    REQUIRE(want != NULL);
    plan = (fault_plan){
        .base = &fg_io_pread, .shuffle = true, .short_one_in = 5, .interrupt_one_in = 7};
    for (uint32_t i = 0; i < n_size; i++) {
        for (uint32_t t = 0; t < 3; t++) { /* every size with every value of each of the others */
            const rig_opts o = {.n_slot = sizes[i],
                                .policy = (i + t) % 2 == 0 ? FG_POLICY_LRU : FG_POLICY_LFU,
                                .predict = (fg_predict)((i + 3 * t + 1) % FG_PREDICT_COUNT),
                                .ahead = 1 + (i + 2 * t) % FG_PREDICT_AHEAD,
                                .ops = ops[(2 * i + t) % 3],
                                .n_thread = t + 1,
                                .n_batch = batches[(i + t) % 3],
                                .piece = t == 0 ? 0 : 8192};
            if (equals_mapped(path, want, bytes, &o)) continue;
            fg_test_fail(__FILE__, __LINE__, "%s %s: %u slots, %u threads, batch %u differ", src,
                         type, o.n_slot, o.n_thread, o.n_batch);
        }
    }
    free(want);
}

FG_TEST(nano_q4_bits)
{
    static const uint32_t sizes[] = {3, 9, 60, 256, 4, 255}; /* the last two in a long run */
    check_bits(NANO_DIR, "q4", sizes, fg_test_long() ? 6 : 4);
}

FG_TEST(nano_bf16_bits)
{
    static const uint32_t sizes[] = {3, 100};
    check_bits(NANO_DIR, "bf16", sizes, sizeof sizes / sizeof sizes[0]);
}

FG_TEST(tiny_f32_bits)
{
    static const uint32_t sizes[] = {3, 5};
    check_bits(TINY_DIR, "f32", sizes, sizeof sizes / sizeof sizes[0]);
}

FG_TEST(a_corrupted_slot_changes_logits) /* negative control */
{
    const char *path = model_file(NANO_DIR, "q4");
    const rig_opts mapped = {.n_thread = 1, .n_batch = 64};
    size_t bytes;
    float *want = logits_of(path, &mapped, &bytes);
    rig_opts o = {.n_slot = 20, .ops = &faulty_ops, .n_thread = 2, .n_batch = 64};
    plan = (fault_plan){.base = &fg_io_pread};
    CHECK(equals_mapped(path, want, bytes, &o));
    fg_model_file *f;
    fg_err err = {0};
    REQUIRE_OK(fg_model_file_open(&f, path, &err), &err);
    /* a code of the first down panel of some expert that 90 tokens are sure to meet */
    plan.flip_at = fg_model_file_find(f, FG_ROLE_EXPERT_DOWN, 0, 7)->offset + 100;
    fg_model_file_close(&f);
    CHECK(!equals_mapped(path, want, bytes, &o));
    free(want);
}

/* ---- counts ---- */

/* Replays what the live run asks for, as it asks. */
typedef struct replay {
    fg_store *live;
    fg_cache *c;
    fg_predictor *p;
    uint32_t n_expert, n_used;
    uint32_t ids[64], sel[2]; /* of a single token, until its guesses come */
} replay;

static void replay_layer(void *ctx, uint32_t layer, uint64_t pos, uint64_t n_tok,
                         const uint32_t *sel, const float *weights)
{
    replay *r = ctx;
    uint32_t *ids = r->ids, n = 0, n_load;
    const fg_cache_load *loads;
    bool in[64] = {false};
    (void)pos;
    (void)weights;
    for (uint64_t i = 0; i < n_tok * r->n_used; i++) in[sel[i]] = true;
    for (uint32_t e = 0; e < r->n_expert; e++) {
        if (in[e]) ids[n++] = e;
    }
    fg_cache_begin(r->c, layer, ids, n);
    if (layer == 0) fg_predictor_set_on(r->p, fg_store_get_stats(r->live).predict_on);
    if (n_tok == 1) { /* goes on with the guesses */
        memcpy(r->sel, sel, sizeof r->sel);
        (void)fg_cache_next(r->c, &loads, &n_load);
        return;
    }
    for (uint32_t m, done = 0; (m = fg_cache_next(r->c, &loads, &n_load)) > 0;) {
        done += m;
        fg_cache_load hints[FG_PREDICT_HINTS];
        if (done == n)
            (void)fg_predictor_hints(r->p, r->c, layer, sel, (uint32_t)n_tok, NULL, hints);
    }
}

static void replay_guess(void *ctx, uint32_t layer, uint64_t pos, const fg_guess *guess)
{
    replay *r = ctx;
    fg_cache_load hints[FG_PREDICT_HINTS];
    (void)pos;
    (void)fg_predictor_hints(r->p, r->c, layer, r->sel, 1, guess, hints);
    fg_cache_end(r->c);
}

static void check_counts(uint32_t n_slot, fg_policy policy, fg_predict predict, bool faults)
{
    rig r;
    fg_err err = {0};
    const rig_opts o = {.n_slot = n_slot,
                        .policy = policy,
                        .predict = predict,
                        .n_thread = 2,
                        .n_batch = 33,
                        .ops = faults ? &faulty_ops : NULL};
    plan = (fault_plan){.base = &fg_io_pread, .shuffle = true, .short_one_in = 2, .sleep_us = 20};
    if (!rig_open(&r, model_file(NANO_DIR, "q4"), &o, N_TOK)) return;
    const fg_shape *s = r.model->shape;
    const fg_cache_opts co = {.n_layer = s->n_layer,
                              .n_expert = s->n_expert,
                              .n_used = s->n_used,
                              .n_slot = n_slot,
                              .policy = policy,
                              .hinted = predict != FG_PREDICT_NONE};
    const fg_predict_opts po = {
        .kind = predict, .n_layer = s->n_layer, .n_expert = s->n_expert, .n_used = s->n_used};
    replay rep = {.live = r.store, .n_expert = s->n_expert, .n_used = s->n_used};
    float *out = calloc(N_TOK, s->n_vocab * sizeof(float));
    if (fg_cache_create(&rep.c, &co, &err) == FG_OK &&
        fg_predictor_create(&rep.p, &po, &err) == FG_OK) {
        const fg_taps taps = {.experts = replay_layer, .guesses = replay_guess, .ctx = &rep};
        CHECK_OK(rig_run(&r, N_TOK, N_DECODE, &taps, out, &err), &err);
        const fg_store_stats live = fg_store_get_stats(r.store);
        const fg_cache_stats want = fg_cache_get_stats(rep.c);
        CHECK_U64(live.cache.n_hit, want.n_hit);
        CHECK_U64(live.cache.n_miss, want.n_miss);
        CHECK_U64(live.cache.n_prefetch, want.n_prefetch);
        CHECK_U64(live.cache.n_prefetch_hit, want.n_prefetch_hit);
        CHECK_U64(live.cache.n_wasted, want.n_wasted);
        CHECK_U64(live.cache.n_alone, want.n_alone);
        CHECK_U64(live.cache.n_evict, want.n_evict);
        /* nothing is read that was not missed, and that once */
        const uint64_t each = fg_store_slot_bytes(r.file);
        const uint64_t least = live.dense_bytes + want.n_miss * each;
        if (want.n_prefetch == 0) CHECK_U64(live.io.bytes, least);
        CHECK(live.io.bytes >= least);
        const bool tokens = fg_predict_get(predict)->ops->begin != NULL; /* nobody names them */
        CHECK(want.n_miss > 0 &&
              (want.n_prefetch > 0 || predict == FG_PREDICT_NONE || n_slot == 256 || tokens));
    }
    fg_cache_destroy(&rep.c);
    fg_predictor_destroy(&rep.p);
    free(out);
    rig_close(&r);
}

FG_TEST(counts_are_those_of_a_replay)
{
    static const uint32_t sizes[] = {3, 10, 77, 256};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (int p = 0; p < FG_PREDICT_COUNT; p++) {
            check_counts(sizes[i], FG_POLICY_LRU, (fg_predict)p, false);
            check_counts(sizes[i], FG_POLICY_LFU, (fg_predict)p, true);
        }
    }
}

/* ---- faults in the middle of a run ---- */

FG_TEST(a_lost_expert_ends_the_evaluation)
{
    const char *path = model_file(NANO_DIR, "q4");
    const rig_opts mapped = {.n_thread = 1, .n_batch = 64};
    size_t bytes;
    float *want = logits_of(path, &mapped, &bytes);
    REQUIRE(want != NULL);
    for (uint32_t t = 1; t <= 3; t += (uint32_t)fg_test_every(1, 2)) {
        rig r;
        fg_err err = {0};
        const rig_opts o = {.n_slot = 3 + 20 * t, .ops = &faulty_ops, .n_thread = t, .n_batch = 64};
        fg_model_file *f;
        REQUIRE_OK(fg_model_file_open(&f, path, &err), &err);
        const fg_extent x = fg_model_file_expert_extent(f, 5, 0);
        plan = (fault_plan){.base = &fg_io_pread,
                            .fail_times = 40 + 8 * t,
                            .fail_from = x.offset,
                            .fail_to = x.offset + 32 * x.bytes};
        fg_model_file_close(&f);
        float *got = calloc(1, bytes);
        if (rig_open(&r, path, &o, N_TOK)) {
            CHECK(rig_run(&r, N_TOK, N_DECODE, NULL, got, &err) == FG_EIO);
            CHECK(strstr(err.msg, "Input/output error at offset") != NULL);
            for (size_t i = 0; i < bytes / sizeof(float); i++) { /* no logits at all were given */
                if (got[i] == 0.0f) continue;
                CHECK(false);
                break;
            }
            /* the disk is well again in a while, and a fresh start has the right answer */
            for (int tries = 0; tries < 20; tries++) {
                fg_state_reset(r.state);
                if (rig_run(&r, N_TOK, N_DECODE, NULL, got, &err) == FG_OK) break;
            }
            CHECK(memcmp(got, want, bytes) == 0);
            rig_close(&r);
        }
        free(got);
    }
    free(want);
}

/* ---- the engine ---- */

static fg_engine *open_engine(const char *path, uint64_t ram, fg_io io, fg_status want)
{
    fg_engine_opts o = fg_engine_opts_default();
    fg_engine *e = NULL;
    fg_err err = {0};
    o.n_thread = 2;
    o.ram_bytes = ram;
    o.io = io;
    const fg_status st = fg_engine_open(&e, path, &o, &err);
    if (st != want) fg_test_fail(__FILE__, __LINE__, "%d: %s", (int)st, err.msg);
    if (st != FG_OK) CHECK(strstr(err.msg, ", expected ") != NULL && strchr(err.msg, '\n') == NULL);
    return e;
}

FG_TEST(engine_keeps_to_the_bound)
{
    const char *path = model_file(NANO_DIR, "q4");
    REQUIRE(path != NULL);
    CHECK(open_engine(path, 1000, FG_IO_AUTO, FG_ELIMIT) == NULL);
    CHECK(open_engine(path, FG_MEMORY_PROGRAM + 1000, FG_IO_AUTO, FG_ELIMIT) == NULL);
    CHECK(open_engine(path, (uint64_t)1 << 30, FG_IO_COUNT, FG_EINVAL) == NULL);
    fg_engine *e = open_engine(path, (uint64_t)256 << 20, FG_IO_PREAD, FG_OK);
    REQUIRE(e != NULL);
    const uint32_t n_all = fg_engine_store_stats(e)->n_slot;
    CHECK_U64(n_all, 256);
    fg_session *s[40] = {NULL};
    fg_session_opts so = fg_session_opts_default();
    fg_err err = {0};
    int n = 0;
    while (n < 40 && fg_session_create(&s[n], e, &so, &err) == FG_OK) n++;
    CHECK(n > 1 && n < 40 && err.code == FG_ELIMIT); /* each takes its share, then none is left */
    CHECK(strstr(err.msg, "sessions") != NULL);
    CHECK(fg_engine_store_stats(e)->n_slot <= n_all);
    const uint32_t id = 5;
    CHECK_OK(fg_session_eval(s[0], &id, 1, NULL, NULL, &err), &err);
    for (int i = 0; i < 40; i++) fg_session_destroy(&s[i]);
    CHECK_U64(fg_engine_store_stats(e)->n_slot, n_all);
    fg_engine_close(&e);
    CHECK(e == NULL);
    e = open_engine(path, 0, FG_IO_AUTO, FG_OK);
    CHECK(e != NULL && fg_engine_store_stats(e) == NULL);
    fg_engine_close(&e);
}

enum {
    LONG = 560
}; /* a little more than the usual batch: nano's scratch is large beside its experts */

/* Bytes of experts read for a prompt of LONG tokens; logits of the last one to `last`. */
static uint64_t read_for_prompt(const char *path, uint64_t ram, uint32_t n_batch, float *last)
{
    fg_engine *e = open_engine(path, ram, FG_IO_AUTO, FG_OK);
    fg_session *s = e == NULL ? NULL : model_session(e, LONG + 1, n_batch);
    uint32_t ids[LONG];
    fg_err err = {0};
    uint64_t bytes = 0;
    const uint32_t n_slot = ram == 0 || e == NULL ? 0 : fg_engine_store_stats(e)->n_slot;
    for (uint32_t i = 0; i < LONG; i++) ids[i] = (i * 769 + 11) % 4096;
    if (s != NULL && fg_session_eval(s, ids, LONG, NULL, NULL, &err) == FG_OK) {
        memcpy(last, fg_session_logits(s), fg_engine_shape(e)->n_vocab * sizeof(float));
        bytes = ram == 0 ? 0 : fg_engine_store_stats(e)->io.bytes;
        /* the slots are there again, and what is refused takes none */
        CHECK(ram == 0 || fg_engine_store_stats(e)->n_slot == n_slot);
        const uint64_t n_evict = ram == 0 ? 0 : fg_engine_store_stats(e)->cache.n_evict;
        CHECK(fg_session_eval(s, ids, LONG, NULL, NULL, &err) == FG_ELIMIT);
        CHECK(fg_session_eval(s, ids, SIZE_MAX, NULL, NULL, &err) == FG_ELIMIT);
        CHECK(ram == 0 || fg_engine_store_stats(e)->cache.n_evict == n_evict);
        CHECK_OK(fg_session_eval(s, ids, 1, NULL, NULL, &err), &err);
    } else {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    fg_session_destroy(&s);
    fg_engine_close(&e);
    return bytes;
}

FG_TEST(a_long_prompt_is_read_in_few_batches)
{
    const char *path = model_file(NANO_DIR, "q4");
    static float want[4096], got[4096];
    REQUIRE(path != NULL);
    (void)read_for_prompt(path, 0, 0, want);
    const uint64_t ram = FG_MEMORY_PROGRAM + ((uint64_t)28 << 20);
    const uint64_t some = read_for_prompt(path, ram, FG_SESSION_BATCH, got);
    CHECK(memcmp(got, want, sizeof got) == 0);
    const uint64_t few = read_for_prompt(path, ram, 0, got);
    CHECK(memcmp(got, want, sizeof got) == 0);
    CHECK(few < some);
    printf("read for %d tokens: %llu bytes in batches of %d, %llu in the batch chosen\n", LONG,
           (unsigned long long)some, FG_SESSION_BATCH, (unsigned long long)few);
}

FG_TEST(session_is_lost_until_reset)
{
    char copy[256], cmd[600];
    (void)snprintf(copy, sizeof copy, "%s", fg_test_tmp("shrinks.fulgur"));
    (void)snprintf(cmd, sizeof cmd, "cp %s %s", model_file(NANO_DIR, "q4"), copy);
    REQUIRE(system(cmd) == 0);
    struct stat sb;
    REQUIRE(stat(copy, &sb) == 0);
    fg_engine *e = open_engine(copy, (uint64_t)1 << 30, FG_IO_AUTO, FG_OK);
    fg_session *s = e == NULL ? NULL : model_session(e, 64, 16);
    REQUIRE(s != NULL);
    const uint32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
    fg_err err = {0};
    CHECK_OK(fg_session_eval(s, ids, 2, NULL, NULL, &err), &err);
    (void)usleep(20000);
    REQUIRE(truncate(copy, sb.st_size / 2) == 0);
    CHECK(fg_session_eval(s, ids, 20, NULL, NULL, &err) == FG_EIO);
    CHECK(strstr(err.msg, "changed while in use") != NULL);
    err = (fg_err){0};
    CHECK(fg_session_eval(s, ids, 1, NULL, NULL, &err) == FG_EIO);
    CHECK(strstr(err.msg, "changed while in use") != NULL);
    fg_session_reset(s);
    CHECK_OK(fg_session_eval(s, ids, 2, NULL, NULL, &err), &err); /* its experts are in memory */
    fg_session_destroy(&s);
    fg_engine_close(&e);
}
