/* SPDX-License-Identifier: MIT
 *
 * The predictor of latent factors in a live run with drafts, undone text and a second timeline: its
 * replay has the same counts, it is told of kept tokens only, and what it was taught is kept where
 * it was asked to be.
 */
#include <stdlib.h>
#include <string.h>

#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/engine/engine_impl.h"
#include "src/engine/memory.h"
#include "src/eval/learn_routing.h"
#include "src/eval/recorder.h"
#include "tests/eval/traces.h"
#include "tests/models.h"

enum { N_CTX = 600, N_SLOT = 60 };

/* Few different tokens, so that tables have something to say. */
static uint32_t token_at(uint64_t i, uint32_t turn)
{
    const uint64_t z = (i * 2654435761u + turn * 40503u) >> 7;
    return 300 + (uint32_t)(z % 40) * 7;
}

typedef struct run {
    fg_engine *e;
    fg_session *s;
    fg_engine_opts o;
} run;

static bool run_open(run *r, fg_predict predict, const char *from, const char *save)
{
    fg_err err = {0};
    const char *path = model_file(NANO_DIR, "q4");
    fg_engine *e = model_open_file(path, 1, NULL);
    fg_session *s = e == NULL ? NULL : model_session(e, N_CTX, 8);
    if (s == NULL) return false;
    const fg_model_file *f = fg_engine_file(e);
    r->o = fg_engine_opts_default();
    r->o.n_thread = 1;
    r->o.ram_bytes = FG_MEMORY_PROGRAM + fg_session_bytes(s) + fg_store_dense_bytes(f) +
                     N_SLOT * fg_store_slot_bytes(f) + 5;
    r->o.predict = predict;
    r->o.predict_model = from;
    r->o.predict_save = save;
    fg_session_destroy(&s);
    fg_engine_close(&e);
    r->s = NULL;
    const fg_status st = fg_engine_open(&r->e, path, &r->o, &err);
    if (st == FG_OK) r->s = model_session(r->e, N_CTX, 8);
    if (st != FG_OK) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return r->s != NULL;
}

static void run_close(run *r)
{
    fg_session_destroy(&r->s);
    fg_engine_close(&r->e);
}

/* n tokens, a draft of three before every fifth, of which one is kept; now and then more is taken
 * back, as a user does who edits a turn. */
static bool play(run *r, uint32_t n, bool undoes)
{
    fg_err err = {0};
    uint64_t at;
    bool ok = true;
    for (uint32_t i = 0, turn = 0; ok && i < n; i++) {
        const uint64_t pos = fg_session_pos(r->s);
        uint32_t ids[3];
        for (uint32_t k = 0; k < 3; k++) ids[k] = token_at(pos + k, turn);
        const bool draft = undoes && i % 5 == 4;
        ok = fg_session_eval(r->s, ids, draft ? 3 : 1, NULL, NULL, &err) == FG_OK;
        if (draft) ok = ok && fg_session_rewind(r->s, pos + 1, &at, &err) == FG_OK && at == pos + 1;
        if (undoes && i % 37 == 36) {
            turn++;
            ok = ok && fg_session_rewind(r->s, pos > 9 ? pos - 9 : 0, &at, &err) == FG_OK;
        }
    }
    if (!ok) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return ok;
}

/* Records a run from `from` on, may be NULL, whose predictor is always on. */
static bool record(const char *trace, fg_predict predict, const char *from, const char *save,
                   bool undoes, fg_store_stats *out)
{
    run r;
    fg_recorder *rec = NULL;
    fg_err err = {0};
    if (!run_open(&r, predict, from, save)) return false;
    fg_store_set_clock(r.e->store, NULL);
    bool ok = trace == NULL || fg_recorder_create(&rec, r.e, r.s, &r.o, trace, true, &err) == FG_OK;
    ok = ok && play(&r, 200, undoes);
    if (ok && rec != NULL) ok = fg_recorder_finish(rec, &err) == FG_OK;
    if (ok && out != NULL) *out = *fg_engine_store_stats(r.e);
    fg_recorder_destroy(&rec);
    run_close(&r);
    return ok;
}

static fg_routing_model *train_on(const char *trace, fg_factor_algo algo)
{
    fg_trace *t;
    fg_err err = {0};
    fg_routing_model *m = NULL;
    fg_factor_machine on;
    fg_routing_report rep;
    const fg_routing_opts o = {.algo = algo, .rank = 8, .seed = 3};
    if (fg_trace_open(&t, trace, &err) != FG_OK) return NULL;
    if (fg_factor_machine_open(&on, 1, &err) == FG_OK) {
        const fg_trace *list[] = {t};
        if (fg_learn_routing(&m, list, 1, UINT64_MAX, &o, &on, &rep, &err) != FG_OK) {
            fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        }
        fg_factor_machine_close(&on);
    }
    fg_trace_close(&t);
    return m;
}

static fg_cache_stats replay(const char *trace, fg_predict predict, const fg_routing_model *m,
                             unsigned without)
{
    fg_trace *t;
    fg_err err = {0};
    fg_cache_stats s = {0};
    const fg_replay_opts o = {.n_slot = N_SLOT,
                              .policy = fg_engine_opts_default().policy,
                              .predict = predict,
                              .as_recorded = true,
                              .model = m,
                              .without = without};
    CHECK_OK(fg_trace_open(&t, trace, &err), &err);
    if (t == NULL) return s;
    CHECK_OK(fg_replay_run(t, &o, &s, &err), &err);
    fg_trace_close(&t);
    return s;
}

static bool same(const fg_cache_stats *a, const fg_cache_stats *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* Adds to m what the tokens used that stand in the timeline at the end, or all that ever did. */
static void count_trace(fg_routing_model *m, const char *trace, bool kept)
{
    fg_trace *t;
    fg_err err = {0};
    fg_routing_log log = {.of = m->of};
    const size_t each = (size_t)m->of.n_layer * m->of.n_used;
    REQUIRE_OK(fg_trace_open(&t, trace, &err), &err);
    if (kept) CHECK_OK(fg_replay_log(t, 0, UINT64_MAX, &log, &err), &err);
    fg_trace_pass p = {0};
    for (uint64_t i = 0; !kept && fg_trace_next(t, &p); i++) { /* a pass alone has no past */
        CHECK_OK(fg_replay_log(t, i, i + 1, &log, &err), &err);
    }
    for (size_t i = 0; i < log.n; i++) {
        (void)fg_routing_count(m, log.id[i], log.sel + i * each, 1);
    }
    fg_routing_log_fini(&log);
    fg_trace_close(&t);
}

/* Counts of an id, whatever row it has. */
static bool same_counts(const fg_routing_model *a, const fg_routing_model *b)
{
    const size_t n_col = fg_routing_n_col(&a->of);
    bool ok = a->n_tok == b->n_tok && memcmp(a->use, b->use, n_col * sizeof *a->use) == 0;
    for (uint32_t id = 0; ok && id < a->of.n_vocab; id++) {
        const uint32_t i = a->row_of[id], k = b->row_of[id];
        const bool in_a = i != FG_ROUTING_NO_ROW && a->seen[i] > 0;
        const bool in_b = k != FG_ROUTING_NO_ROW && b->seen[k] > 0;
        ok = in_a == in_b;
        if (in_a && in_b) {
            ok = a->seen[i] == b->seen[k] &&
                 memcmp(a->count + i * n_col, b->count + k * n_col, n_col * sizeof *a->count) == 0;
        }
    }
    return ok;
}

FG_TEST(replay_is_the_live_run_with_what_was_undone)
{
    const path_text first = tmp_path("first.trace"), live = tmp_path("live.trace");
    const path_text file = tmp_path("m.predict"), save = tmp_path("after.predict");
    fg_err err = {0};
    REQUIRE(record(first.s, FG_PREDICT_NONE, NULL, NULL, false, NULL));
    fg_routing_model *m = train_on(first.s, FG_ALGO_ADS_CHEAP);
    REQUIRE(m != NULL);
    REQUIRE_OK(fg_routing_save(file.s, m, &err), &err);
    char *before, *after;
    size_t n_before, n_after;
    REQUIRE_OK(fg_io_read_all(file.s, 1 << 28, &before, &n_before, &err), &err);
    uint32_t n_hint = 0;
    for (int kind = FG_PREDICT_FACTOR; kind <= FG_PREDICT_BOTH; kind++) {
        fg_store_stats s, bare;
        const fg_predict predict = (fg_predict)kind;
        REQUIRE(record(live.s, predict, file.s, save.s, true, &s));
        REQUIRE(record(NULL, predict, file.s, NULL, true, &bare));
        fg_cache_stats again = replay(live.s, predict, m, 0);
        CHECK(same(&again, &s.cache));
        CHECK(same(&again, &bare.cache)); /* nobody observed it */
        n_hint += again.n_prefetch > 0;
        /* negative controls: nothing learned, and without factors */
        again = replay(live.s, predict, NULL, 0);
        CHECK(!same(&again, &s.cache));
        again = replay(live.s, predict, m, FG_ROUTING_LATENT);
        CHECK(predict == FG_PREDICT_BOTH || !same(&again, &s.cache));
        /* what it was taught: the tokens that stand at the end, as if no other had ever been */
        fg_routing_model *got, *want, *all;
        REQUIRE_OK(fg_routing_load(save.s, &got, &err), &err);
        REQUIRE(fg_routing_clone(&want, m, &err) == FG_OK &&
                fg_routing_clone(&all, m, &err) == FG_OK);
        count_trace(want, live.s, true);
        count_trace(all, live.s, false);
        CHECK(same_counts(got, want));
        CHECK(!same_counts(got, all) && !same_counts(got, m)); /* negative controls */
        CHECK(memcmp(got->y, m->y, fg_routing_n_col(&m->of) * m->rank * sizeof *m->y) == 0);
        fg_routing_destroy(&got);
        fg_routing_destroy(&want);
        fg_routing_destroy(&all);
    }
    CHECK_U64(n_hint, 2);
    /* the model that it began with is as it was */
    REQUIRE_OK(fg_io_read_all(file.s, 1 << 28, &after, &n_after, &err), &err);
    CHECK(n_before == n_after && memcmp(before, after, n_before) == 0);
    fg_mem_free(before);
    fg_mem_free(after);
    fg_routing_destroy(&m);
}

/* Clocks on which hints seem to help, and to cost, from the first trial on. */
static uint64_t now_ns;
static run *timed;

static uint64_t clock_of(double gain)
{
    const bool on = fg_store_get_stats(timed->e->store).predict_on;
    return now_ns += (uint64_t)(1e6 * (on ? 1.0 - gain : 1.0));
}

static uint64_t fast_with_hints(void)
{
    return clock_of(.5);
}

static uint64_t slow_with_hints(void)
{
    return clock_of(-.5);
}

/* What is learned goes by tokens: a run whose clock turns hints off learns what one learns that has
 * them all the time, and the replay of either, told when they were on, is that run. */
FG_TEST(clocks_decide_on_hints_and_teach_nothing)
{
    static uint64_t (*const clocks[])(void) = {fast_with_hints, slow_with_hints, NULL};
    const path_text trace = tmp_path("clock.trace");
    fg_cache_stats counts[3];
    fg_routing_model *learned[3] = {NULL};
    fg_err err = {0};
    for (int i = 0; i < 3; i++) {
        const path_text save = tmp_path("clock.predict");
        fg_store_stats s;
        run r;
        fg_recorder *rec = NULL;
        (void)remove(save.s);
        REQUIRE(run_open(&r, FG_PREDICT_FACTOR, NULL, save.s));
        timed = &r;
        fg_store_set_clock(r.e->store, clocks[i]);
        REQUIRE_OK(fg_recorder_create(&rec, r.e, r.s, &r.o, trace.s, true, &err), &err);
        CHECK(play(&r, 200, false));
        CHECK_OK(fg_recorder_finish(rec, &err), &err);
        s = *fg_engine_store_stats(r.e);
        CHECK(s.predict_on == (i != 1) && s.n_switch == (i == 1));
        fg_recorder_destroy(&rec);
        run_close(&r);
        const fg_cache_stats again = replay(trace.s, FG_PREDICT_FACTOR, NULL, 0);
        CHECK(same(&again, &s.cache));
        counts[i] = s.cache;
        REQUIRE_OK(fg_routing_load(save.s, &learned[i], &err), &err);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(!same(&counts[i], &counts[2])); /* negative control: the clocks did something */
        CHECK(same_counts(learned[i], learned[2]));
    }
    CHECK(counts[1].n_prefetch < counts[0].n_prefetch);
    CHECK(learned[0]->n_tok > 100);
    const fg_routing_model *m = learned[0];
    CHECK(m->use[0] + m->use[1] + m->use[2] > 0);
    learned[0]->use[0]++; /* negative control */
    CHECK(!same_counts(learned[0], learned[2]));
    for (int i = 0; i < 3; i++) fg_routing_destroy(&learned[i]);
}

FG_TEST(only_a_model_of_these_weights)
{
    const path_text file = tmp_path("other.predict"), text = tmp_path("text.predict");
    fg_err err = {0};
    fg_engine *e = model_open_file(model_file(NANO_DIR, "q4"), 1, NULL);
    REQUIRE(e != NULL);
    const fg_shape *s = fg_engine_shape(e);
    const uint64_t root = fg_model_file_data_root(fg_engine_file(e));
    fg_routing_shape of = {s->n_layer, s->n_expert, s->n_used, s->n_vocab, root ^ 1};
    fg_routing_model *m;
    fg_engine_opts o = fg_engine_opts_default();
    fg_engine_close(&e);
    o.n_thread = 1;
    o.ram_bytes = (uint64_t)256 << 20;
    o.predict = FG_PREDICT_FACTOR;
    o.predict_model = file.s;
    for (int i = 0; i < 3; i++) {
        of.data_root = i == 0 ? root ^ 1 : root;
        of.n_used = i == 1 ? 3 : 2;
        REQUIRE_OK(fg_routing_create(&m, &of, 0, &err), &err);
        REQUIRE_OK(fg_routing_save(file.s, m, &err), &err);
        fg_routing_destroy(&m);
        const fg_status st = fg_engine_open(&e, model_file(NANO_DIR, "q4"), &o, &err);
        CHECK(st == (i < 2 ? FG_EINVAL : FG_OK)); /* negative control: these weights */
        CHECK(i == 2 || (is_line(&err) && strstr(err.msg, "other.predict: ") != NULL));
        fg_engine_close(&e);
    }
    /* what is there and is no such model is not written over, nor is a wrong option ignored */
    FILE *f = fopen(text.s, "w");
    REQUIRE(f != NULL && fputs("a text", f) >= 0 && fclose(f) == 0);
    o.predict_save = text.s;
    CHECK(fg_engine_open(&e, model_file(NANO_DIR, "q4"), &o, &err) == FG_EFORMAT && is_line(&err));
    o.predict_save = NULL;
    o.predict = FG_PREDICT_ROUTER;
    CHECK(fg_engine_open(&e, model_file(NANO_DIR, "q4"), &o, &err) == FG_EINVAL && is_line(&err));
}
