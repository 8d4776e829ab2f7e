/* SPDX-License-Identifier: MIT
 *
 * Calibration: the staged pass over a half-written file sees what the engine computes; every expert
 * gets its tokens; the bytes do not depend on threads; bad texts are refused.  What it is worth in
 * perplexity and KL divergence is in test_nano.c.
 */
#include "convert/calib/calib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/convert.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/model/forward.h"
#include "tests/ckpt.h"
#include "tests/fg_test.h"
#include "tests/models.h"
#include "src/engine/session.h"

enum { N_TOKEN = 2 * FG_CALIB_WINDOW };

static void make_ids(uint32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) ids[i] = 256 + (uint32_t)(i * 7919 % 3500);
}

/* The calibration of a complete file, taken to its end without encoding anything. */
static fg_calib *pass_through(const fg_model_file *f, fg_team *team, const uint32_t *ids, size_t n)
{
    fg_err err = {0};
    fg_calib *c;
    const fg_calib_opts o = {.full = true, .beside = fg_test_tmp("pass.fulgur")};
    fg_status st = fg_calib_create(&c, f, team, ids, n, &o, &err);
    for (uint64_t i = 0; st == FG_OK && i < fg_model_file_n_tensor(f); i++) {
        st = fg_calib_skip(c, fg_model_file_tensor(f, i), &err);
    }
    if (st != FG_OK) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return c;
}

typedef struct last_hidden {
    int32_t layer;
    uint64_t base; /* first token of the window */
    const fg_calib *c;
    size_t width;
    double worst, scale;
} last_hidden;

static void compare_hidden(void *ctx, int32_t layer, uint64_t pos, uint64_t n_tok, const float *x,
                           size_t stride)
{
    last_hidden *h = ctx;
    if (layer != h->layer) return;
    for (uint64_t t = 0; t < n_tok; t++) {
        const float *y = fg_calib_activations(h->c, h->base + pos + t);
        for (size_t i = 0; i < h->width; i++) {
            const double d = fabs((double)x[t * stride + i] - (double)y[i]);
            h->worst = fg_test_worst(h->worst, d);
            h->scale = fmax(h->scale, fabs((double)y[i]));
        }
    }
}

FG_TEST(stages_are_the_forward_pass)
{
    fg_err err = {0};
    fg_team *team;
    fg_engine *e = model_open(NANO_DIR, "f32", 2, NULL);
    fg_session *s = e == NULL ? NULL : model_session(e, FG_CALIB_WINDOW, FG_CALIB_WINDOW);
    REQUIRE(s != NULL && fg_team_create(&team, 2, false, &err) == FG_OK);
    uint32_t ids[N_TOKEN];
    make_ids(ids, N_TOKEN);
    fg_calib *c = pass_through(fg_engine_file(e), team, ids, N_TOKEN);
    REQUIRE(c != NULL);
    const fg_shape *shape = fg_engine_shape(e);
    last_hidden h = {.layer = (int32_t)shape->n_layer - 1, .c = c, .width = shape->d_model};
    const fg_taps taps = {.hidden = compare_hidden, .ctx = &h};
    fg_session_set_taps(s, &taps);
    for (h.base = 0; h.base < N_TOKEN; h.base += FG_CALIB_WINDOW) {
        fg_session_reset(s);
        CHECK_OK(fg_session_eval(s, ids + h.base, FG_CALIB_WINDOW, NULL, NULL, &err), &err);
    }
    printf("  hidden state after the last layer: %.2e of %.2e\n", h.worst, h.scale);
    CHECK(h.scale > 0.1);
    CHECK(h.worst < 2e-5 * h.scale); /* experts are added in another order */

    h.worst = 0; /* control: the other window's tokens */
    h.base = FG_CALIB_WINDOW;
    fg_session_reset(s);
    CHECK_OK(fg_session_eval(s, ids, FG_CALIB_WINDOW, NULL, NULL, &err), &err);
    CHECK(h.worst > 0.01 * h.scale);
    fg_calib_destroy(&c);
    fg_team_destroy(&team);
    fg_session_destroy(&s);
    fg_engine_close(&e);
}

FG_TEST(every_expert_gets_tokens)
{
    fg_err err = {0};
    fg_team *team;
    fg_engine *e = model_open(NANO_DIR, "f32", 1, NULL);
    REQUIRE(e != NULL && fg_team_create(&team, 1, false, &err) == FG_OK);
    uint32_t ids[N_TOKEN];
    make_ids(ids, N_TOKEN);
    fg_calib *c = pass_through(fg_engine_file(e), team, ids, N_TOKEN);
    REQUIRE(c != NULL);
    const fg_calib_report r = fg_calib_get_report(c);
    const fg_shape *s = fg_engine_shape(e);
    CHECK_U64(r.n_token, N_TOKEN);
    CHECK_U64(r.n_expert, (uint64_t)s->n_layer * s->n_expert);
    CHECK(r.n_topped > r.n_expert / 2); /* 2 * 1024 choices of 32 experts: 64 each */
    CHECK(r.min_routed < 64);
    CHECK_U64(r.min_used, FG_CALIB_MIN_TOKENS);
    fg_calib_destroy(&c);
    fg_team_destroy(&team);
    fg_engine_close(&e);
}

/* ---- on tiny checkpoints, straight through the interface ---- */

typedef struct tiny {
    fg_model_file *f;
    fg_team *team;
    fg_calib *c;
} tiny;

static bool tiny_open(tiny *t, const ckpt *k, const char *name, uint32_t n_thread,
                      fg_calib_poll *poll)
{
    fg_err err = {0};
    uint32_t ids[1500];
    const char *dir = ckpt_dir(name);
    char path[512];
    (void)snprintf(path, sizeof path, "%s.fulgur", dir);
    *t = (tiny){0};
    ckpt_write(k, dir);
    const fg_convert_opts o = {.src_dir = dir, .out_path = path, .type = "q8"};
    const fg_calib_opts co = {.full = true, .beside = path, .poll = poll};
    for (size_t i = 0; i < 1500; i++) ids[i] = (uint32_t)(i * 31 % k->shape.n_vocab);
    const bool ok = fg_convert(&o, NULL, &err) == FG_OK &&
                    fg_model_file_open(&t->f, path, &err) == FG_OK &&
                    fg_team_create(&t->team, n_thread, false, &err) == FG_OK &&
                    fg_calib_create(&t->c, t->f, t->team, ids, 1500, &co, &err) == FG_OK;
    if (!ok) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return ok;
}

static void tiny_close(tiny *t)
{
    fg_calib_destroy(&t->c);
    fg_team_destroy(&t->team);
    fg_model_file_close(&t->f);
}

/* Inputs of every tensor in turn; stops at the first failure.  A sum over the factors in *sum. */
static fg_status tiny_run(tiny *t, double *sum, fg_err *err)
{
    *sum = 0;
    for (uint64_t i = 0; i < fg_model_file_n_tensor(t->f); i++) {
        const fg_tensor *x = fg_model_file_tensor(t->f, i);
        fg_feedback f;
        bool has;
        if (x->role == FG_ROLE_EXPERT_UP) continue;
        FG_TRY(fg_calib_inputs(t->c, x, &has, &f, err));
        const size_t k = (size_t)fg_n_sb(x->n_col) * FG_SB_COLS;
        for (size_t j = 0; has && j < k * k; j++) *sum += (double)f.u[j] * (double)(1 + j % 97);
        FG_TRY(fg_calib_wrote(t->c, x, err));
    }
    return FG_OK;
}

/* Matrices large enough for the team in every stage, unlike nano's. */
FG_TEST(workers_do_not_show)
{
    double sum[2];
    fg_err err = {0};
    ckpt k;
    ckpt_init_large(&k);
    for (uint32_t i = 0; i < 2; i++) {
        tiny t;
        REQUIRE(tiny_open(&t, &k, i == 0 ? "one-worker" : "three-workers", 1 + 2 * i, NULL));
        CHECK_OK(tiny_run(&t, &sum[i], &err), &err);
        tiny_close(&t);
    }
    CHECK(memcmp(&sum[0], &sum[1], sizeof sum[0]) == 0 && fabs(sum[0]) > 1.0);
    ckpt_fini(&k);
}

FG_TEST(broken_activations_are_named)
{
    static const struct {
        const char *tensor, *part;
        float value;
    } cases[] = {
        {"model.layers.1.post_attention_layernorm.weight", "router weight", 3e38f},
        {"model.layers.0.input_layernorm.weight",
         "model.layers.0.self_attn.qkv_proj.weight: ", 3e38f},
    };
    for (size_t i = 0; i < 2; i++) {
        ckpt k;
        tiny t;
        double sum;
        fg_err err = {0};
        ckpt_init(&k);
        ckpt_tensor *x = ckpt_get(&k, cases[i].tensor);
        for (uint64_t j = 0; j < x->dim[0]; j++) ckpt_set(x, j, cases[i].value);
        REQUIRE(tiny_open(&t, &k, "broken", 1, NULL));
        CHECK(tiny_run(&t, &sum, &err) == FG_EDATA);
        if (strstr(err.msg, cases[i].part) == NULL) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        tiny_close(&t);
        ckpt_fini(&k);
    }
}

/* An expert that computes nothing must not stop a conversion. */
FG_TEST(dead_inputs_are_passed_by)
{
    ckpt k;
    tiny t;
    double sum;
    fg_err err = {0};
    ckpt_init(&k);
    ckpt_tensor *x = ckpt_get(&k, "model.layers.0.block_sparse_moe.experts.1.w1.weight");
    memset(x->data, 0, (size_t)x->bytes);
    REQUIRE(tiny_open(&t, &k, "dead", 1, NULL));
    CHECK_OK(tiny_run(&t, &sum, &err), &err);
    CHECK_U64(fg_calib_get_report(t.c).n_dead, 1);
    tiny_close(&t);
    ckpt_fini(&k);
}

static fg_status refuse(void *ctx, fg_err *err)
{
    (void)ctx;
    return fg_fail(err, FG_ECANCEL, "enough");
}

FG_TEST(polling_ends_it)
{
    ckpt k;
    tiny t;
    double sum;
    fg_err err = {0};
    ckpt_init(&k);
    REQUIRE(tiny_open(&t, &k, "polled", 1, refuse));
    CHECK(tiny_run(&t, &sum, &err) == FG_ECANCEL);
    tiny_close(&t);
    ckpt_fini(&k);
}

/* ---- whole conversions ---- */

static bool convert(const char *out, const char *text, uint32_t n_thread, bool diagonal)
{
    fg_err err = {0};
    fg_convert_opts o = {.src_dir = NANO_DIR,
                         .out_path = out,
                         .calib_path = text,
                         .calib_diagonal = diagonal,
                         .n_thread = n_thread};
    const bool ok = fg_convert(&o, NULL, &err) == FG_OK;
    if (!ok) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return ok;
}

static bool same_file(const char *a, const char *b)
{
    fg_err err = {0};
    char *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    const bool ok = fg_io_read_all(a, 1 << 30, &x, &n, &err) == FG_OK &&
                    fg_io_read_all(b, 1 << 30, &y, &m, &err) == FG_OK;
    const bool same = ok && n == m && memcmp(x, y, n) == 0;
    fg_mem_free(x);
    fg_mem_free(y);
    return same;
}

FG_TEST(threads_do_not_show)
{
    const char *text = fg_test_tmp("calib.txt"), *one = fg_test_tmp("one.fulgur"),
               *three = fg_test_tmp("three.fulgur"), *plain = fg_test_tmp("plain.fulgur"),
               *other = fg_test_tmp("other.fulgur");
    char *doc;
    size_t n;
    fg_err err = {0};
    REQUIRE_OK(fg_io_read_all("src/format/FORMAT.md", 1 << 20, &doc, &n, &err), &err);
    ckpt_put_file(fg_test_tmpdir(), "calib.txt", doc, 4000);
    fg_mem_free(doc);
    /* test_resume compares whole calibrations; here those with importances only */
    const bool diagonal = !fg_test_long();
    REQUIRE(convert(one, text, 1, diagonal) && convert(three, text, 3, diagonal));
    CHECK(same_file(one, three));
    REQUIRE(convert(plain, NULL, 2, false));
    CHECK(!same_file(one, plain)); /* controls */
    if (!fg_test_long()) return;
    REQUIRE(convert(other, text, 2, true));
    CHECK(!same_file(one, other));
    CHECK(!same_file(plain, other));
}

static void refused(const char *dir, const char *text, const char *part)
{
    fg_err err = {0};
    const char *out = fg_test_tmp("refused.fulgur");
    fg_convert_opts o = {.src_dir = dir, .out_path = out, .calib_path = text};
    CHECK(fg_convert(&o, NULL, &err) != FG_OK);
    if (strstr(err.msg, part) == NULL) {
        fg_test_fail(__FILE__, __LINE__, "\"%s\", expected \"%s\" in it", err.msg, part);
    }
    CHECK(!fg_io_exists(out));
}

FG_TEST(bad_texts_are_refused)
{
    ckpt_put_file(fg_test_tmpdir(), "empty.txt", "", 0);
    refused(NANO_DIR, fg_test_tmp("empty.txt"), "an empty text");
    refused(NANO_DIR, fg_test_tmp("absent.txt"), "absent.txt");
    ckpt c; /* a checkpoint without a tokenizer */
    ckpt_init(&c);
    const char *dir = ckpt_dir("no-tokenizer");
    ckpt_write(&c, dir);
    ckpt_put_file(fg_test_tmpdir(), "word.txt", "word", 4);
    refused(dir, fg_test_tmp("word.txt"), "tokenizer.json");
    /* the text itself as output, and a recipe that calibration has no say in */
    fg_err err = {0};
    fg_convert_opts o = {.src_dir = NANO_DIR,
                         .out_path = fg_test_tmp("word.txt"),
                         .calib_path = fg_test_tmp("word.txt")};
    CHECK(fg_convert(&o, NULL, &err) == FG_EINVAL && strstr(err.msg, "the same file") != NULL);
    o.out_path = fg_test_tmp("b.fulgur");
    o.type = "bf16";
    CHECK(fg_convert(&o, NULL, &err) == FG_EINVAL && strstr(err.msg, "no quantized") != NULL);
    ckpt_fini(&c);
}
