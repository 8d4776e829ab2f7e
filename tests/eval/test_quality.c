/* SPDX-License-Identifier: MIT
 *
 * Quality cards in a file: kept, replaced, bounded, told apart by weights, and refused when their
 * JSON is not what it should be.  The figures themselves are checked in e2e/evidence.py.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/eval/quality.h"
#include "src/format/write/append.h"
#include "tests/fg_test.h"
#include "tests/format/sample.h"
#include "src/base/utf8.h"

static uint64_t root_of(const char *path)
{
    fg_model_file *f = NULL;
    fg_err err = {0};
    uint64_t root = 0;
    if (fg_model_file_open(&f, path, &err) == FG_OK) root = fg_model_file_data_root(f);
    fg_model_file_close(&f);
    return root;
}

static fg_card make_card(const char *path, uint64_t hash, uint32_t window, double ppl)
{
    fg_card c = {.text = "B\u00fccher \"1\".txt",
                 .text_hash = hash,
                 .text_bytes = (uint64_t)1 << 40,
                 .window = window,
                 .special = true,
                 .cache = "int8",
                 .numerics = 7,
                 .version = "0.1.0",
                 .model = {root_of(path), 4.9375, "q4"},
                 .reference = {UINT64_MAX, 16.0, "bf16"}};
    double *figure = &c.score.nll;
    for (size_t i = 0; i < (sizeof c.score - sizeof c.score.n_token) / sizeof *figure; i++) {
        figure[i] = 1.0 / (double)(3 + i);
    }
    c.score.n_token = ((uint64_t)1 << 53) - 1;
    c.score.ppl = ppl;
    return c;
}

/* Number of cards, or -1; *cards is freed by the caller. */
static int list(const char *path, fg_card **cards, fg_err *err)
{
    fg_model_file *f = NULL;
    size_t n = 0;
    *cards = NULL;
    *err = (fg_err){0};
    fg_status st = fg_model_file_open(&f, path, err);
    if (st == FG_OK) st = fg_card_list(f, cards, &n, err);
    fg_model_file_close(&f);
    return st == FG_OK ? (int)n : -1;
}

FG_TEST(a_card_comes_back_as_it_was)
{
    const char *path = fg_test_tmp("a.fulgur");
    fg_err err = {0};
    fg_card *got;
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    CHECK(list(path, &got, &err) == 0 && got == NULL);
    const fg_card c = make_card(path, 0x0123456789abcdefu, 512, 12.5);
    REQUIRE_OK(fg_card_store(path, &c, &err), &err);
    REQUIRE(list(path, &got, &err) == 1);
    CHECK_STR(got->text, c.text);
    CHECK_STR(got->cache, "int8");
    CHECK(got->numerics == 7 && fg_card_numerics(got) == fg_kv_numerics(FG_KV_INT8));
    CHECK_STR(got->version, "0.1.0");
    CHECK_STR(got->reference.type, "bf16");
    CHECK_U64(got->text_hash, c.text_hash);
    CHECK_U64(got->text_bytes, c.text_bytes);
    CHECK_U64(got->model.data_root, root_of(path));
    CHECK_U64(got->reference.data_root, UINT64_MAX);
    CHECK_U64(got->score.n_token, c.score.n_token);
    CHECK(got->special && got->window == 512);
    const double *a = &got->score.nll, *b = &c.score.nll;
    for (size_t i = 0; i < (sizeof c.score - sizeof c.score.n_token) / sizeof *a; i++) {
        CHECK_NEAR(a[i], b[i], 1e-8 * b[i]);
    }
    fg_mem_free(got);
}

FG_TEST(measured_again_replaces)
{
    const char *path = fg_test_tmp("r.fulgur");
    fg_err err = {0};
    fg_card *got;
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    const fg_card c[] = {make_card(path, 1, 512, 10.0), make_card(path, 2, 512, 20.0),
                         make_card(path, 1, 256, 30.0), make_card(path, 1, 512, 40.0)};
    for (size_t i = 0; i < 4; i++) CHECK_OK(fg_card_store(path, &c[i], &err), &err);
    REQUIRE(list(path, &got, &err) == 3); /* the newest is last */
    CHECK(got[0].score.ppl == 20.0 && got[1].score.ppl == 30.0 && got[2].score.ppl == 40.0);
    fg_mem_free(got);
}

FG_TEST(cards_are_bounded)
{
    const char *path = fg_test_tmp("b.fulgur");
    fg_err err = {0};
    fg_card *got;
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    for (uint32_t i = 0; i < FG_MAX_CARD + 3; i++) {
        const fg_card c = make_card(path, i, 512, i);
        CHECK_OK(fg_card_store(path, &c, &err), &err);
    }
    REQUIRE(list(path, &got, &err) == FG_MAX_CARD);
    CHECK(got[0].text_hash == 3 && got[FG_MAX_CARD - 1].text_hash == FG_MAX_CARD + 2);
    fg_mem_free(got);
}

FG_TEST(other_weights_take_no_card)
{
    const char *path = fg_test_tmp("o.fulgur");
    fg_err err = {0};
    fg_card *got;
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    const fg_card c = make_card(path, 1, 512, 10.0);
    REQUIRE_OK(sample_write(path, 2, NULL, &err), &err); /* converted again in between */
    CHECK(root_of(path) != c.model.data_root);
    CHECK(fg_card_store(path, &c, &err) == FG_EINVAL);
    CHECK(strstr(err.msg, "other weights") != NULL);
    CHECK(list(path, &got, &err) == 0);
}

#define HEAD                                                                                       \
    "\"text\": \"t\", \"text_xxh3\": \"0x0000000000000001\", \"text_bytes\": 1, \"window\": 2, "   \
    "\"tokens\": 3, \"special\": false, \"cache\": \"f32\", \"fulgur\": \"1\""
#define MODELS                                                                                     \
    "\"model\": {\"data_root\": \"0x0000000000000002\", \"type\": \"q4\", \"bits\": 4.5}, "        \
    "\"reference\": {\"data_root\": \"0x0000000000000003\", \"type\": \"f32\", \"bits\": 32}"
#define FIGURES                                                                                    \
    "\"nll\": 1, \"nll_stderr\": 1, \"ppl\": 1, \"ppl_stderr\": 1, \"ref_nll\": 1, "               \
    "\"ref_ppl\": 1, \"ref_ppl_stderr\": 1, \"ppl_ratio\": 1, \"ppl_ratio_stderr\": 1, "           \
    "\"kld_mean\": 1, \"kld_stderr\": 1, \"kld_p99\": 1, \"kld_p99_low\": 1, "                     \
    "\"kld_p99_high\": 1, \"kld_max\": 1, \"top1\": 1"
#define LIST(card) "{\"version\": 1, \"cards\": [{" card "}]}"

FG_TEST(bad_lists_are_refused_and_kept)
{
    static const char good[] = LIST(HEAD ", " MODELS ", " FIGURES ", \"top1_stderr\": 1");
    static const char *const bad[] = {
        "",
        "x",
        "[]",
        "{}",
        "{\"version\": 2, \"cards\": []}",
        "{\"version\": 1, \"cards\": {}}",
        "{\"version\": 1, \"cards\": [1]}",
        LIST(HEAD ", " MODELS ", " FIGURES), /* one figure missing */
        LIST(HEAD ", " MODELS ", " FIGURES ", \"top1_stderr\": \"1\""),
        LIST(HEAD ", " MODELS ", " FIGURES ", \"top1_stderr\": 1e999"),
        LIST(HEAD ", " FIGURES ", \"top1_stderr\": 1"),
        LIST("\"numerics\": \"2\", " HEAD ", " MODELS ", " FIGURES ", \"top1_stderr\": 1"),
        LIST(MODELS ", " FIGURES ", \"top1_stderr\": 1"),
        /* of two members of a name the last one counts */
        LIST(HEAD ", " MODELS ", " FIGURES ", \"top1_stderr\": 1, \"text_xxh3\": \"0x1\""),
    };
    const char *path = fg_test_tmp("j.fulgur");
    fg_err err = {0};
    fg_card *got;
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    const fg_card c = make_card(path, 1, 512, 10.0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_OK(fg_model_file_append_meta(path, "quality", bad[i], strlen(bad[i]), &err), &err);
        if (list(path, &got, &err) != -1) fg_test_fail(__FILE__, __LINE__, "taken: %s", bad[i]);
        CHECK(err.code == FG_EFORMAT && strstr(err.msg, "expected") != NULL);
        CHECK(fg_card_store(path, &c, &err) == FG_EFORMAT); /* nothing is thrown away */
        fg_mem_free(got);
    }
    CHECK_OK(fg_model_file_append_meta(path, "quality", good, sizeof good - 1, &err), &err);
    CHECK(list(path, &got, &err) == 1);                      /* control */
    CHECK(got->numerics == 1 && fg_card_numerics(got) == 1); /* an f32 cache has not changed */
    (void)snprintf(got->cache, sizeof got->cache, "int8");
    CHECK(got->numerics != fg_card_numerics(got)); /* older cards of int8 are of another version */
    fg_mem_free(got);
    CHECK(fg_card_store(path, &c, &err) == FG_OK && list(path, &got, &err) == 2);
    fg_mem_free(got);
}

FG_TEST(too_many_cards_are_refused)
{
    const char *path = fg_test_tmp("m.fulgur");
    fg_err err = {0};
    fg_card *got;
    fg_buf b = {0};
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    for (int extra = 0; extra < 2; extra++) {
        b.len = 0;
        fg_buf_put_str(&b, "{\"version\": 1, \"cards\": [");
        for (int i = 0; i < FG_MAX_CARD + extra; i++) {
            fg_buf_printf(&b, "%s{" HEAD ", " MODELS ", " FIGURES ", \"top1_stderr\": 1}",
                          i == 0 ? "" : ",");
        }
        fg_buf_put_str(&b, "]}");
        CHECK_OK(fg_model_file_append_meta(path, "quality", b.data, b.len, &err), &err);
        CHECK(list(path, &got, &err) == (extra == 0 ? FG_MAX_CARD : -1));
        fg_mem_free(got);
    }
    fg_buf_fini(&b);
}

FG_TEST(text_names)
{
    char name[16];
    fg_utf8_file_name("/home/some body/t.txt", name, sizeof name);
    CHECK_STR(name, "t.txt");
    fg_utf8_file_name("-", name, sizeof name);
    CHECK_STR(name, "(stdin)");
    fg_utf8_file_name("a\nb\x7f\xc2\x85\xff.txt", name, sizeof name);
    CHECK_STR(name, "a?b???.txt");
    fg_utf8_file_name("0123456789abcd\u00fc", name, sizeof name); /* no half characters */
    CHECK_STR(name, "0123456789abcd");
    fg_utf8_file_name("dir/", name, sizeof name);
    CHECK_STR(name, "");
}

FG_TEST(allocation_failures)
{
    const char *path = fg_test_tmp("n.fulgur");
    fg_err err = {0};
    fg_card *got;
    uint64_t n = 1;
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    const fg_card c = make_card(path, 1, 512, 10.0), d = make_card(path, 2, 512, 10.0);
    CHECK_OK(fg_card_store(path, &c, &err), &err);
    for (; n < 300; n++) {
        fg_mem_fail_after(n);
        const fg_status st = fg_card_store(path, &d, &err);
        fg_mem_fail_after(0);
        if (st == FG_OK) break;
        CHECK(list(path, &got, &err) == 1);
        fg_mem_free(got);
    }
    CHECK(n > 10 && n < 300 && list(path, &got, &err) == 2);
    fg_mem_free(got);
}

/* Both ends are above 0 and symmetric on the scale of logarithms, however wide. */
FG_TEST(intervals_of_perplexities)
{
    static const double cases[][2] = {{17.2, 0.5},   {17.2, 40.0},  {1.0, 1e9},
                                      {1e-300, 1.0}, {1087.0, 0.0}, {1e300, 1e305}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double ci[2];
        const double v = cases[i][0], se = cases[i][1];
        fg_score_interval(v, se, ci);
        CHECK(ci[0] > 0.0 && ci[0] <= v && ci[1] >= v && ci[1] > 0.0);
        const double spread = FG_SCORE_Z95 * se / v;
        if (spread < 500.0) CHECK_NEAR(log(ci[1]) - log(v), spread, 1e-9 * (1.0 + spread));
        if (spread < 500.0) CHECK_NEAR(log(v) - log(ci[0]), spread, 1e-9 * (1.0 + spread));
        if (se < 0.1 * v) CHECK_NEAR(ci[0], v - FG_SCORE_Z95 * se, 0.01 * v); /* as before */
    }
    double ci[2];
    fg_score_interval(HUGE_VAL, HUGE_VAL, ci); /* a text that could not be foreseen */
    CHECK(ci[0] > 0.0 && ci[1] > 0.0);
}
