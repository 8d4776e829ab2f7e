/* SPDX-License-Identifier: MIT
 *
 * The card's logits are the host's, bit for bit: for every type of weights, cache, home and number
 * of nodes, and however many tokens are evaluated together.  The card is the emulator, which takes
 * its time: the usual run has as many tokens as show it, a long one the whole golden hash.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/convert.h"
#include "src/base/hash.h"
#include "src/device/gpu_memory.h"
#include "tests/device/fake_card.h"
#include "tests/fg_test.h"
#include "tests/golden.h"
#include "tests/hybrid/card_rig.h"
#include "tests/models.h"

/* As tests/model/test_invariance.c has it. */
static const uint64_t golden_q4 = 0xe3200b7576863a8b;
static const char golden_tokens[] = "tests/vectors/nano/golden_q4.txt";
enum { GOLDEN_TOK = 300 };

/* Who did some of the experts, if nobody else. */
enum { BY_HOST, BY_RESIDENTS, BY_COPIES };

/* What the next process is to do: tokens, in splits of n tokens each, 0 at the end. */
static struct job {
    int by;
    bool ahead; /* some experts were to be copied before they were asked for */
    char path[PATH_MAX];
    fg_kv_choice kv;
    fg_engine_opts o;
    struct {
        size_t n_tok, step;
    } split[5];
} job;

static const char *the_src, *the_type;

static void convert(void)
{
    CHECK(model_file(the_src, the_type) != NULL);
}

/* A model to be compared on; false with a test failure. */
static bool set_path(const char *path)
{
    job = (struct job){.by = BY_RESIDENTS, .kv = FG_KV_CHOICE_AUTO, .o = fg_engine_opts_default()};
    job.o.n_thread = 1;
    if (path != NULL) (void)snprintf(job.path, sizeof job.path, "%s", path);
    return path != NULL;
}

static bool set_job(const char *src, const char *type)
{
    the_src = src;
    the_type = type;
    (void)fg_test_tmpdir(); /* of this process */
    CHECK(fake_card_run(NULL, convert) == 0);
    return !fg_test_failed() && access(fake_card_driver(), R_OK) == 0 &&
           set_path(model_file(src, type));
}

static void split(size_t n_tok, size_t step)
{
    size_t i = 0;
    while (job.split[i].n_tok != 0) i++;
    job.split[i].n_tok = n_tok;
    job.split[i].step = step;
}

static void equals_the_host(void)
{
    card_rig r;
    size_t most = 0;
    for (size_t i = 0; job.split[i].n_tok != 0; i++) {
        if (job.split[i].n_tok > most) most = job.split[i].n_tok;
    }
    REQUIRE(most > 0 && card_rig_open(&r, job.path, most, job.kv, &job.o));
    fg_session *s = card_session(&r, 512);
    for (size_t i = 0; s != NULL && job.split[i].n_tok != 0; i++) {
        fg_session_reset(s);
        if (!card_go_to(&r, s, job.split[i].n_tok, job.split[i].step)) break;
    }
    fg_device_stats st;
    CHECK(fg_engine_device_stats(r.e, &st) && st.n_expert_rows[job.by] > 0);
    CHECK(!job.ahead || st.n_ahead > 0);
    fg_session_destroy(&s);
    card_rig_close(&r);
}

static void same(void)
{
    CHECK(fake_card_run("devices=1", equals_the_host) == 0);
}

/* ---- the golden hash ---- */

static void is_golden(void)
{
    static uint64_t got[GOLDEN_TOK], want[GOLDEN_TOK];
    const size_t n = job.split[0].n_tok, step = job.split[0].step;
    fg_err err = {0};
    fg_engine *e = NULL;
    uint32_t ids[GOLDEN_TOK];
    job.o.gpu = 0;
    REQUIRE(golden_hashes_load(want, GOLDEN_TOK, golden_tokens));
    REQUIRE_OK(fg_engine_open(&e, job.path, &job.o, &err), &err);
    const size_t n_vocab = fg_engine_shape(e)->n_vocab;
    card_prompt(ids, GOLDEN_TOK, (uint32_t)n_vocab);
    fg_session *s = model_session(e, GOLDEN_TOK, 512);
    float *logits = s == NULL ? NULL : model_logits(s, e, ids, n, step);
    REQUIRE(logits != NULL);
    golden_hash_tokens(got, logits, n, n_vocab);
    CHECK_U64(golden_first_other(got, want, n), n);
    if (n == GOLDEN_TOK) CHECK(fg_hash64(logits, n * n_vocab * sizeof *logits) == golden_q4);
    free(logits);
    fg_session_destroy(&s);
    fg_engine_close(&e);
}

FG_TEST(golden_hash)
{
    static const struct {
        size_t step, usual;
    } splits[] = {{511, 0}, {64, 20}, {3, 4}, {1, 2}};
    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
        if (splits[i].usual == 0 && !fg_test_long()) continue;
        if (!set_job(NANO_DIR, "q4")) return;
        split(fg_test_long() ? GOLDEN_TOK : splits[i].usual, splits[i].step);
        CHECK(fake_card_run("devices=1", is_golden) == 0);
    }
}

/* ---- types ---- */

/* Some tokens together, and some one by one. */
static void check_type(const char *type)
{
    if (!set_job(NANO_DIR, type)) return;
    split(fg_test_long() ? 130 : 3, 0);
    split(fg_test_long() ? 130 : 1, 1);
    if (fg_test_long()) split(130, 17);
    same();
}

FG_TEST(nano_q5)
{
    if (fg_test_long()) check_type("q5");
}
FG_TEST(nano_q6)
{
    check_type("q6");
}
FG_TEST(nano_q8)
{
    check_type("q8");
}
FG_TEST(nano_bf16)
{
    check_type("bf16");
}

/* Rotated and not in one file, as tests/model/test_rotated.c has it. */
static void convert_mixed(void)
{
    static const char recipe[] = "*.qkv_proj.weight q6+h\n*.k_proj.weight q5+h\n"
                                 "*.[1357].self_attn.out_proj.weight q4lin+h\n"
                                 "*.experts.[0-9].w[13].weight q4+h\n*.experts.1?.w2.weight "
                                 "q4lin+h\n*.experts.2?.w[13].weight bf16\n"
                                 "*.layers.2.*.w2.weight q4+h\n";
    const char *text = fg_test_tmp("mixed.recipe"), *out = fg_test_tmp("mixed.fulgur");
    const fg_convert_opts o = {
        .src_dir = NANO_DIR, .out_path = out, .type = "q4", .recipe_path = text};
    fg_err err = {0};
    FILE *f = fopen(text, "w");
    if (f == NULL || fputs(recipe, f) < 0 || fclose(f) != 0) abort();
    CHECK_OK(fg_convert(&o, NULL, &err), &err);
}

/* Its layers' experts are not of one make, so that none of them stays on the card. */
FG_TEST(rotated)
{
    (void)fg_test_tmpdir();
    CHECK(fake_card_run(NULL, convert_mixed) == 0);
    if (!set_path(fg_test_tmp("mixed.fulgur"))) return;
    job.by = BY_COPIES;
    split(fg_test_long() ? 130 : 9, 0);
    split(fg_test_long() ? 130 : 1, 1);
    same();
}

/* A card that has no room for experts that stay. */
FG_TEST(copied_experts)
{
    if (!set_job(TINY_DIR, "q4")) return;
    job.by = BY_COPIES;
    job.ahead = true;
    job.o.gpu_bytes = (uint64_t)1 << 30;
    split(fg_test_long() ? 300 : 30, 0);
    split(fg_test_long() ? 300 : 17, 9);
    same();
}

FG_TEST(oracle_models)
{
    static const char *const names[] = {"orig-heads6",  "hf-long",   "orig-top1",
                                        "orig-prenorm", "orig-base", "orig-wide"};
    const size_t n = fg_test_long() ? sizeof names / sizeof names[0] : 2;
    for (size_t i = 0; i < n; i++) {
        char dir[128];
        (void)snprintf(dir, sizeof dir, "tests/vectors/oracle/%s", names[i]);
        if (!set_job(dir, "f32")) return;
        split(fg_test_long() ? 600 : 9, 0);
        split(fg_test_long() ? 70 : 2, 1);
        same();
    }
}

FG_TEST(caches)
{
    static const fg_kv_choice kinds[] = {FG_KV_CHOICE_INT8, FG_KV_CHOICE_F16, FG_KV_CHOICE_F32};
    for (size_t i = 0; i < 3; i++) {
        if (!set_job(TINY_DIR, "q4")) return;
        job.kv = kinds[i];
        split(fg_test_long() ? 1100 : 20, 0);
        split(fg_test_long() ? 300 : 3, 1);
        same();
    }
}

/* ---- experts that change places ---- */

/* What passes take is then little against what experts do. */
enum { FEW_ROWS = 32 };

/* Memory of the card for a third of the experts. */
static uint64_t a_third(void)
{
    card_rig r;
    fg_device_stats st = {.dense_bytes = 0};
    if (!card_rig_open(&r, job.path, 2, job.kv, &job.o)) return 0;
    fg_session *s = card_session(&r, FEW_ROWS);
    CHECK(s != NULL && card_go_to(&r, s, 2, 0) && fg_engine_device_stats(r.e, &st));
    fg_session_destroy(&s);
    card_rig_close(&r);
    return FG_GPU_RESERVE_BYTES + st.dense_bytes + st.state_bytes + st.work_bytes +
           st.resident_bytes / 3;
}

static void changes_places(void)
{
    static const struct {
        uint64_t to;
        size_t step;
    } parts[] = {{9, 1}, {24, 3}, {50, 0}, {53, 1}};
    card_rig r;
    fg_device_stats st;
    uint64_t passes = 0;
    job.o.gpu_bytes = a_third();
    REQUIRE(card_rig_open(&r, job.path, 53, job.kv, &job.o));
    fg_session *s = card_session(&r, FEW_ROWS);
    REQUIRE(s != NULL);
    fg_device_cuda_restless(fg_engine_device(r.e));
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const uint64_t n = parts[i].to - fg_session_pos(s);
        passes += parts[i].step == 0 ? 1 : n / parts[i].step;
        if (!card_go_to(&r, s, parts[i].to, parts[i].step)) break;
    }
    const fg_shape *y = fg_engine_shape(r.e);
    CHECK(fg_engine_device_stats(r.e, &st));
    CHECK_U64(st.n_moved, passes - 1); /* the last one is on its way */
    CHECK(st.n_resident > 0 && st.n_resident < (uint64_t)y->n_layer * y->n_expert);
    CHECK(st.n_expert_rows[BY_HOST] > 0 && st.n_expert_rows[BY_RESIDENTS] > 0);
    CHECK(st.n_expert_rows[BY_COPIES] > 0);
    fg_session_destroy(&s);
    card_rig_close(&r);
}

FG_TEST(experts_change_places_at_every_token)
{
    if (!set_job(TINY_DIR, "q4")) return;
    CHECK(fake_card_run("devices=1", changes_places) == 0);
}

/* ---- the same token again and again ---- */

enum { AGAIN_FROM = 70 }; /* within a chunk, so that a session can go back */

static void says_the_same(void)
{
    card_rig r;
    fg_err err = {0};
    uint64_t at = AGAIN_FROM;
    REQUIRE(card_rig_open(&r, job.path, AGAIN_FROM + 2, job.kv, &job.o));
    fg_session *s = card_session(&r, 512);
    REQUIRE(s != NULL && card_go_to(&r, s, AGAIN_FROM, 0));
    for (int n = fg_test_long() ? 1000 : 5; n > 0 && at == AGAIN_FROM; n--) {
        if (!card_go_to(&r, s, AGAIN_FROM + 1, 1)) break;
        CHECK_OK(fg_session_rewind(s, AGAIN_FROM, &at, &err), &err);
    }
    const uint32_t other = (r.ids[AGAIN_FROM] + 1) % r.n_vocab;
    CHECK_OK(fg_session_eval(s, &other, 1, NULL, NULL, &err), &err);
    CHECK(!card_is_plain(&r, s)); /* a comparison that sees another token */
    CHECK_OK(fg_session_rewind(s, AGAIN_FROM, &at, &err), &err);
    CHECK(at == AGAIN_FROM && card_go_to(&r, s, AGAIN_FROM + 2, 1));
    fg_session_destroy(&s);
    card_rig_close(&r);
}

FG_TEST(a_token_is_the_same_every_time)
{
    if (!set_job(TINY_DIR, "q4")) return;
    CHECK(fake_card_run("devices=1", says_the_same) == 0);
}

/* ---- a file of whoever asks ---- */

/* FULGUR_TEST_MODEL=PATH, such as layers of MiniMax-M1 (`fulgur synth`), on a card: all experts
 * there, and as few as 6 GiB leave room for. */
FG_TEST(a_model_of_yours)
{
    const char *path = getenv("FULGUR_TEST_MODEL");
    if (path == NULL) {
        fg_test_skip("FULGUR_TEST_MODEL: not set");
        return;
    }
    for (uint64_t gib = 0; gib <= 6; gib += 6) {
        (void)set_path(path);
        job.o.n_thread = 0;
        job.o.gpu_bytes = gib << 30;
        if (gib > 0) job.by = BY_COPIES;
        static const size_t steps[] = {511, 64, 3, 1};
        for (size_t i = 0; i < 4; i++) split(511, steps[i]);
        same();
        CHECK(fake_card_run("devices=1", says_the_same) == 0);
    }
}

/* ---- homes and nodes ---- */

FG_TEST(homes)
{
    static const struct {
        uint32_t nodes;
        fg_residency residency;
        uint64_t ram;
    } homes[] = {{3, FG_RESIDENCY_COPY, 0}, {1, FG_RESIDENCY_AUTO, 110 << 20}};
    for (size_t i = 0; i < sizeof homes / sizeof homes[0]; i++) {
        if (!set_job(TINY_DIR, "q4")) return;
        job.o.n_thread = 2;
        job.o.pretend_nodes = homes[i].nodes;
        job.o.residency = homes[i].residency;
        job.o.ram_bytes = homes[i].ram;
        split(30, 0);
        split(4, 1);
        same();
    }
}

/* ---- negative controls ---- */

static void differs(void)
{
    card_rig r;
    REQUIRE(card_rig_open(&r, job.path, 5, FG_KV_CHOICE_AUTO, &job.o));
    fg_session *s = card_session(&r, 512);
    REQUIRE(s != NULL);
    CHECK(card_first_other(&r, s, 5, 3) < 5); /* what is kept of a pass is seen in the next */
    fg_session_destroy(&s);
    card_rig_close(&r);
}

/* Each kernel of a pass matters; the first is that of the probe. */
FG_TEST(a_kernel_that_does_nothing_is_seen)
{
    if (!set_job(TINY_DIR, "q4")) return;
    for (int n = 2; n <= 40; n += fg_test_every(9, 19)) {
        char settings[32];
        (void)snprintf(settings, sizeof settings, "wrong=%d", n);
        CHECK(fake_card_run(settings, differs) == 0);
    }
}
