/* SPDX-License-Identifier: MIT
 *
 * Sensitivities of the nano model: equal to what a file with one quantized unit scores against the
 * reference, the same bits for any number of threads and CPU level, refused where they would mean
 * nothing.
 */
#include "src/eval/sensitivity.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "convert/choose/budget.h"
#include "convert/convert.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "tests/ckpt.h"
#include "tests/fg_test.h"
#include "tests/models.h"
#include "src/eval/score.h"
#include "src/engine/session.h"

/* Nano's f32 file with these recipe lines. */
static bool open_with(fg_engine **e, const char *lines, uint32_t n_thread, const char *cpu)
{
    char recipe[512], out[512];
    (void)snprintf(recipe, sizeof recipe, "%s/unit.recipe", fg_test_tmpdir());
    (void)snprintf(out, sizeof out, "%s/unit.fulgur", fg_test_tmpdir());
    ckpt_put_file(fg_test_tmpdir(), "unit.recipe", lines, strlen(lines));
    const fg_convert_opts o = {
        .src_dir = NANO_DIR, .out_path = out, .type = "f32", .recipe_path = recipe};
    fg_engine_opts eo = fg_engine_opts_default();
    fg_err err = {0};
    eo.n_thread = n_thread;
    eo.cpu = model_level(cpu);
    const bool ok =
        fg_convert(&o, NULL, &err) == FG_OK && fg_engine_open(e, out, &eo, &err) == FG_OK;
    if (!ok) printf("  %s: %s\n", lines, err.msg);
    return ok; /* the file stays mapped when the next one replaces it */
}

/* Noise: every token is a surprise, so every unit makes a difference.  Behind the ids stands the
 * one that only a score needs. */
static bool draw_ids(fg_ids *ids)
{
    fg_rng r;
    bool ok = true;
    fg_rng_init(&r, 7);
    *ids = (fg_ids){0};
    for (int i = 0; i < 81 && ok; i++) ok = fg_ids_push(ids, (uint32_t)(fg_rng_u64(&r) % 4096));
    if (ok) ids->len--;
    return ok;
}

static fg_status measure(fg_sensitivity *s, fg_engine *base, fg_engine *low, const fg_ids *ids,
                         fg_err *err)
{
    const fg_sensitivity_opts o = {.n_token = FG_SENSITIVITY_TOKENS,
                                   .beside = fg_test_tmp("streams")};
    *err = (fg_err){0};
    const fg_status st = fg_sensitivity_run(s, base, low, ids->data, ids->len, &o, err);
    if (st != FG_OK) printf("  %s\n", err->msg);
    return st;
}

static double kld_of_file(fg_engine *e, fg_engine *ref, const fg_ids *ids)
{
    const fg_score_opts o = {.window = (uint32_t)ids->len, .kv = FG_KV_CHOICE_F32, .max_window = 1};
    fg_score score;
    fg_err err = {0};
    if (fg_score_run(e, ref, ids->data, ids->len + 1, &o, &score, &err) == FG_OK)
        return score.kld_mean;
    printf("  score: %s\n", err.msg);
    return -1.0;
}

FG_TEST(a_unit_costs_what_a_file_with_it_scores)
{
    static const struct {
        const char *lines;
        uint32_t unit; /* 0 embed, 1 + 4 layer + class, 33 head */
    } files[] = {
        {"model.embed_tokens.weight q4", 0},
        {"model.layers.0.self_attn.* q4\n*.self_attn.out_proj.weight f32", 1},
        {"model.layers.0.self_attn.out_proj.weight q4", 2},
        {"model.layers.3.*.w[13].weight q4", 15},
        {"model.layers.6.*.w2.weight q4", 28},
        {"model.layers.7.self_attn.[qkv]_proj.weight q4", 29},
        {"model.layers.7.self_attn.o_proj.weight q4", 30},
        {"lm_head.weight q4", 33},
    };
    fg_engine *base = model_open(NANO_DIR, "f32", 2, NULL), *low, *e;
    fg_ids ids;
    fg_sensitivity s;
    fg_err err = {0};
    REQUIRE(base != NULL && draw_ids(&ids));
    REQUIRE(open_with(&low, "* q4", 2, NULL));
    REQUIRE_OK(measure(&s, base, low, &ids, &err), &err);
    CHECK_U64(s.n_unit, 34);
    CHECK_U64(s.n_token, ids.len);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        REQUIRE(open_with(&e, files[i].lines, 2, NULL));
        const double want = kld_of_file(e, base, &ids), got = s.unit[files[i].unit].kld;
        printf("  unit %2u: %.6f, scored %.6f\n", files[i].unit, got, want);
        CHECK(want > 1e-4);
        CHECK_NEAR(got, want, 2e-6 + 1e-5 * want); /* score sums in f32 */
        /* negative control: the neighbours are told apart */
        const uint32_t other = files[i].unit == 0 ? 1 : files[i].unit - 1;
        CHECK(fabs(s.unit[other].kld - want) > 1e-2 * want);
        fg_engine_close(&e);
    }
    fg_sensitivity_fini(&s);
    fg_ids_fini(&ids);
    fg_engine_close(&low);
    fg_engine_close(&base);
}

FG_TEST(units_add_up_and_files_say_so)
{
    const char *path = nano_text(3, 1, FG_SENSITIVITY_WINDOW + 64);
    REQUIRE(path != NULL);
    fg_engine *base = model_open(NANO_DIR, "f32", 2, NULL), *low;
    const fg_tokenizer *t;
    char *text;
    size_t n;
    fg_ids ids = {0};
    fg_sensitivity s;
    fg_buf json = {0}, recipe = {0};
    fg_err err = {0};
    REQUIRE(base != NULL && fg_engine_tokenizer(base, &t, &err) == FG_OK);
    REQUIRE_OK(fg_io_read_all(path, 1 << 20, &text, &n, &err), &err);
    REQUIRE_OK(fg_tokenizer_encode(t, NULL, text, n, false, &ids, &err), &err);
    fg_mem_free(text);
    REQUIRE(ids.len >= FG_SENSITIVITY_WINDOW);
    ids.len = FG_SENSITIVITY_WINDOW;
    REQUIRE(open_with(&low, "* q4", 2, NULL));
    REQUIRE_OK(measure(&s, base, low, &ids, &err), &err);
    CHECK_U64(s.n_token, FG_SENSITIVITY_WINDOW);
    double sum = 0.0;
    uint64_t n_weight = 0;
    for (uint32_t i = 0; i < s.n_unit; i++) {
        sum += s.unit[i].kld;
        n_weight += s.unit[i].n_weight;
        CHECK(s.unit[i].type == FG_TYPE_Q4 && s.unit[i].bits > 4.25 && s.unit[i].bits < 4.6);
        CHECK_NEAR(s.unit[i].err2, 0.0055, 0.001);
    }
    const double whole = kld_of_file(low, base, &ids);
    printf("  sum %.4f, all at once %.4f\n", sum, whole);
    /* That units add up at all; what one costs is compared exactly above.  Few tokens carry most of
     * the divergence, so a window is a small sample: of five that nano wrote the sum was 1.48 to
     * 2.27 times the whole, 1.75 on average with a deviation of 0.35, three and a half of which are
     * allowed. */
    CHECK(sum > 0.5 * whole && sum < 3.0 * whole);
    CHECK(n_weight > 29000000 && n_weight < 31000000);
    /* the budget reads what was written */
    fg_sensitivity_put_json(&json, &s, base, low, 1, 2);
    ckpt_put_file(fg_test_tmpdir(), "s.json", json.data, json.len);
    const fg_budget_opts o = {fg_test_tmp("s.json"), 5.0, 0, 0, 8};
    CHECK_OK(fg_budget_choose(&recipe, fg_engine_shape(base), &o, &err), &err);
    CHECK(recipe.len > 100);
    fg_buf_fini(&json);
    fg_buf_fini(&recipe);
    fg_sensitivity_fini(&s);
    fg_ids_fini(&ids);
    fg_engine_close(&low);
    fg_engine_close(&base);
}

FG_TEST(same_bits_for_threads_and_levels)
{
    static const struct {
        uint32_t n_thread;
        const char *cpu;
    } run[] = {{1, NULL}, {3, "scalar"}, {2, NULL}, {3, NULL}};
    const size_t n_run = fg_test_long() ? sizeof run / sizeof run[0] : 2;
    fg_sensitivity first = {0};
    for (size_t i = 0; i < n_run; i++) {
        fg_engine *base = model_open(NANO_DIR, "f32", run[i].n_thread, run[i].cpu), *low;
        fg_ids ids;
        fg_sensitivity s;
        fg_err err = {0};
        REQUIRE(base != NULL && draw_ids(&ids));
        ids.len = fg_test_long() ? 20 : 4;
        REQUIRE(open_with(&low, "* q4", run[i].n_thread, run[i].cpu));
        REQUIRE_OK(measure(&s, base, low, &ids, &err), &err);
        CHECK_U64(s.n_token, ids.len);
        if (i == 0) first = s;
        for (uint32_t u = 0; u < s.n_unit; u++) {
            CHECK(memcmp(&s.unit[u].kld, &first.unit[u].kld, sizeof(double)) == 0);
        }
        if (i != 0) fg_sensitivity_fini(&s);
        fg_ids_fini(&ids);
        fg_engine_close(&low);
        fg_engine_close(&base);
    }
    fg_sensitivity_fini(&first);
}

static bool never(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    return done < 20 || done > total;
}

FG_TEST(refusals)
{
    fg_engine *base = model_open(NANO_DIR, "f32", 1, NULL), *low, *mixed;
    fg_ids ids;
    fg_sensitivity s;
    fg_err err = {0};
    REQUIRE(base != NULL && draw_ids(&ids));
    ids.len = 40;
    REQUIRE(open_with(&low, "* q4", 1, NULL));
    REQUIRE(open_with(&mixed, "*.w2.weight q4", 1, NULL));
    CHECK(measure(&s, base, base, &ids, &err) == FG_EINVAL);
    CHECK(strstr(err.msg, "the same weights") != NULL);
    CHECK(measure(&s, base, mixed, &ids, &err) == FG_EINVAL);
    CHECK(strstr(err.msg, "model.embed_tokens.weight is f32") != NULL);
    ids.data[7] = 1u << 30;
    CHECK(measure(&s, base, low, &ids, &err) == FG_EINVAL);
    ids.data[7] = 7;
    ids.len = 0;
    CHECK(measure(&s, base, low, &ids, &err) == FG_EINVAL);
    ids.len = 40;
    const fg_sensitivity_opts cancel = {
        .n_token = 1, .beside = fg_test_tmp("streams"), .progress = never};
    CHECK(fg_sensitivity_run(&s, base, low, ids.data, ids.len, &cancel, &err) == FG_ECANCEL);
    const fg_sensitivity_opts nowhere = {.n_token = 1, .beside = "/nonexistent/x"};
    CHECK(fg_sensitivity_run(&s, base, low, ids.data, ids.len, &nowhere, &err) == FG_EIO);
    CHECK(s.unit == NULL);
    ckpt c;
    ckpt_init(&c);
    const char *dir = ckpt_dir("tiny");
    ckpt_write(&c, dir);
    fg_engine *tiny = model_open(dir, "q4", 1, NULL);
    REQUIRE(tiny != NULL);
    CHECK(measure(&s, base, tiny, &ids, &err) == FG_EINVAL);
    CHECK(strstr(err.msg, "another shape") != NULL);
    fg_engine_close(&tiny);
    ckpt_fini(&c);
    fg_ids_fini(&ids);
    fg_engine_close(&mixed);
    fg_engine_close(&low);
    fg_engine_close(&base);
}
