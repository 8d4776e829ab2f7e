/* SPDX-License-Identifier: MIT
 *
 * Matrices, texts of ratings, their parts, and models as files.
 */
#include "src/factor/ratings.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/factor/factor_file.h"
#include "src/factor/ranking.h"
#include "tests/fg_test.h"

static fg_status parse(fg_ratings *r, const char *text, fg_hdi_repeats how, fg_err *err)
{
    *r = (fg_ratings){0};
    *err = (fg_err){0};
    return fg_ratings_parse(r, text, strlen(text), "text", false, how, err);
}

FG_TEST(forms)
{
    static const char *const text[] = {
        "u1 i1 3\nu2 i1 4\nu1 i2 5\n",
        "u1\ti1\t3\t881250949\nu2\ti1\t4\t881250950\r\n\nu1\ti2\t5\t1",
        "u1::i1::3::978300760\nu2::i1::4::978302109\nu1::i2::5::978301968\n",
        "user,item,rating\n\"u1\",i1,3.0\nu2,i1,4\nu1,\"i2\",5\n",
        "\xef\xbb\xbfu1;i1;3\nu2;i1;4\nu1;i2;5\n",
        "  u1   i1 3 9\nu2 i1\t4 \nu1 i2 5 7 8 9\n",
        "u1, \"i1\" ,3\n\"u2\",i1,\"4\"\nu1,i2,5,\"\n",
        "u1\ti1\t3\t2001::5\r\nu2\ti1\t4\r\nu1\ti2\t5",
    };
    for (size_t i = 0; i < sizeof text / sizeof text[0]; i++) {
        fg_ratings r;
        fg_err err;
        CHECK_OK(parse(&r, text[i], FG_HDI_REFUSE, &err), &err);
        REQUIRE(r.m.n == 3 && r.user.n == 2 && r.item.n == 2);
        CHECK_STR(fg_id_text(&r.user, 1), "u2");
        CHECK_STR(fg_id_text(&r.item, 1), "i2");
        CHECK(r.m.entry[2].row == 0 && r.m.entry[2].col == 1);
        CHECK_NEAR(r.m.entry[2].value, 5.0, 0.0);
        fg_ratings_fini(&r);
    }
}

/* Quotes around a field hold it together; others are part of it. */
FG_TEST(quotes)
{
    static const char *const text[][2] = {
        {"\"a, b\",i,3\n", "a, b"},
        {"7\" single,i,3\n", "7\" single"},
        {"\"7\" single,i,3\n", "\"7\" single"},
        {"\"a \"\"b\"\", c\", i, 3\n", "a \"\"b\"\", c"},
        {"\"a b\" i 3\n", "a b"},
        {"\"a\tb\"\ti\t3\n", "a\tb"},
    };
    for (size_t i = 0; i < sizeof text / sizeof text[0]; i++) {
        fg_ratings r;
        fg_err err;
        CHECK_OK(parse(&r, text[i][0], FG_HDI_LAST, &err), &err);
        REQUIRE(r.m.n == 1 && r.m.entry[0].value == 3.0f);
        CHECK_STR(fg_id_text(&r.user, 0), text[i][1]);
        CHECK_STR(fg_id_text(&r.item, 0), "i");
        fg_ratings_fini(&r);
    }
}

FG_TEST(bad_lines_are_named)
{
    static const char *const text[][2] = {
        {"a b 3\nc d x\n", "text: line 2: rating x, expected a number within 1e30"},
        {"a b 3\nc d nan\n", "text: line 2: rating nan, expected a number within 1e30"},
        {"a b 3\n\nc\n", "text: line 3: one field, expected user, item and rating"},
        {"a,b,3\n,d,3\n", "text: line 2: an empty id, expected user, item and rating"},
        {"a b 3\rc d 4\r",
         "text: line 1: a carriage return, expected lines that end with a newline"},
        {"a b 3,5\n", "text: line 1: rating 3,5, expected a number within 1e30"},
        {"u,i,r\nu,i,r\n", "text: line 2: rating r, expected a number within 1e30"},
    };
    for (size_t i = 0; i < sizeof text / sizeof text[0]; i++) {
        fg_ratings r;
        fg_err err;
        CHECK(parse(&r, text[i][0], FG_HDI_LAST, &err) == FG_EFORMAT);
        CHECK_STR(err.msg, text[i][1]);
        fg_ratings_fini(&r);
    }
}

/* Read from a file in pieces as from memory; what is no explicit rating is refused in words. */
FG_TEST(files_and_implicit_feedback)
{
    const char *path = fg_test_tmp("ratings");
    fg_ratings r, whole;
    fg_err err = {0};
    fg_buf b = {0};
    FILE *f = fopen(path, "wb");
    REQUIRE(f != NULL);
    for (int i = 0; i < 150000; i++) { /* more than is read at once */
        fg_buf_printf(&b, "user%d item%d %d\n", i % 997, i / 7, 1 + i % 5);
    }
    fg_buf_put_str(&b, "last line 4");
    REQUIRE(fwrite(fg_buf_str(&b), 1, b.len, f) == b.len && fclose(f) == 0);
    CHECK_OK(parse(&whole, fg_buf_str(&b), FG_HDI_LAST, &err), &err);
    r = (fg_ratings){0};
    CHECK_OK(fg_ratings_read(&r, path, false, FG_HDI_LAST, &err), &err);
    REQUIRE(r.m.n == whole.m.n && r.m.n == 150001 && r.user.n == whole.user.n);
    CHECK(memcmp(r.m.entry, whole.m.entry, r.m.n * sizeof *r.m.entry) == 0);
    CHECK_OK(fg_ratings_explicit(&r.m, "text", &err), &err);
    fg_ratings_fini(&r);
    fg_ratings_fini(&whole);
    fg_buf_fini(&b);
    r = (fg_ratings){0};
    CHECK(fg_ratings_read(&r, fg_test_tmp("none"), false, FG_HDI_LAST, &err) == FG_EIO);
    CHECK_OK(parse(&r, "a x 1\nb x 1\na y 1\n", FG_HDI_LAST, &err), &err);
    CHECK(fg_ratings_explicit(&r.m, "text", &err) == FG_EINVAL);
    CHECK(strstr(err.msg, "implicit feedback") != NULL);
    fg_ratings_fini(&r);
}

/* What never ends is not read to its end; a line as long as text may have is. */
FG_TEST(lines_without_end)
{
    enum { LONG = 1 << 24 };
    fg_ratings r = {0};
    fg_err err = {0};
    CHECK(fg_ratings_read(&r, "/dev/zero", false, FG_HDI_LAST, &err) == FG_EFORMAT);
    CHECK(strstr(err.msg, "/dev/zero: line 1: ") != NULL);
    fg_ratings_fini(&r);
    char *text = fg_mem_alloc(LONG);
    REQUIRE(text != NULL);
    memset(text, ',', LONG);
    memcpy(text, "u1,i1,3", 7);
    CHECK_OK(fg_ratings_parse(&r, text, LONG - 1, "text", false, FG_HDI_LAST, &err), &err);
    CHECK(r.m.n == 1 && r.m.entry[0].value == 3.0f);
    fg_ratings_fini(&r);
    CHECK(fg_ratings_parse(&r, text, LONG, "text", false, FG_HDI_LAST, &err) == FG_EFORMAT);
    fg_ratings_fini(&r);
    fg_mem_free(text);
}

FG_TEST(repeats)
{
    static const char text[] = "a x 1 10\nb x 2 20\na x 3 30\na y 4 40\na x 5 50\n";
    fg_ratings r;
    fg_err err;
    CHECK_OK(parse(&r, text, FG_HDI_LAST, &err), &err);
    CHECK(r.m.n == 3 && r.n_repeat == 2);
    CHECK_NEAR(r.m.entry[2].value, 5.0, 0.0);
    CHECK_NEAR(r.time[2], 50.0, 0.0);
    fg_ratings_fini(&r);
    CHECK_OK(parse(&r, text, FG_HDI_MEAN, &err), &err);
    CHECK_NEAR(r.m.entry[2].value, 3.0, 1e-6);
    fg_ratings_fini(&r);
    CHECK(parse(&r, text, FG_HDI_REFUSE, &err) == FG_EINVAL);
    CHECK_STR(err.msg, "text: 2 repeated pairs, expected none");
    fg_ratings_fini(&r);
}

static void make_ratings(fg_ratings *r)
{
    char line[64];
    fg_err err = {0};
    fg_buf b = {0};
    for (int u = 0; u < 40; u++) {
        for (int i = u % 3; i < 50; i += 3) {
            (void)snprintf(line, sizeof line, "u%d i%d %d %d\n", u, i, 1 + (u + i) % 5, 50 * u + i);
            fg_buf_put_str(&b, line);
        }
    }
    CHECK_OK(parse(r, fg_buf_str(&b), FG_HDI_REFUSE, &err), &err);
    fg_buf_fini(&b);
}

FG_TEST(index_and_parts)
{
    fg_ratings r;
    fg_err err = {0};
    fg_hdi part[3];
    make_ratings(&r);
    REQUIRE_OK(fg_hdi_make_index(&r.m, &err), &err);
    for (int side = 0; side < 2; side++) {
        const fg_hdi_index *x = side == 0 ? &r.m.by_row : &r.m.by_col;
        uint64_t n = 0;
        for (uint32_t k = 0; k < (side == 0 ? r.m.n_row : r.m.n_col); k++) {
            for (uint64_t i = x->start[k]; i < x->start[k + 1]; i++, n++) {
                const fg_hdi_entry *e = &r.m.entry[x->at[i]];
                CHECK((side == 0 ? e->row : e->col) == k);
                CHECK(i == x->start[k] || x->at[i] > x->at[i - 1]);
            }
        }
        CHECK_U64(n, r.m.n);
    }
    uint8_t *to = fg_mem_zalloc((size_t)r.m.n + 1);
    for (int by_time = 0; by_time < 2; by_time++) {
        const fg_ratings_cut cut = {.share = {70, 10, 20}, .seed = 5, .by_time = by_time == 1};
        REQUIRE_OK(fg_ratings_deal(&r, &cut, to, &err), &err);
        REQUIRE_OK(fg_ratings_parts(&r, to, false, part, &err), &err);
        CHECK_U64(part[0].n + part[1].n + part[2].n, r.m.n);
        CHECK_U64(part[2].n, (r.m.n * 2 + 5) / 10);
        /* by time the first users train, the last ones test */
        CHECK((part[2].entry[0].row > part[0].entry[part[0].n - 1].row) == (by_time == 1));
        for (int k = 0; k < 3; k++) fg_hdi_fini(&part[k]);
    }
    /* each entry is tested in one fold, and so are all */
    uint8_t *tested = fg_mem_zalloc((size_t)r.m.n + 1);
    for (uint32_t fold = 0; fold < 5; fold++) {
        const fg_ratings_cut cut = {.share = {70, 10, 20}, .seed = 5, .n_fold = 5, .fold = fold};
        uint64_t n[3] = {0};
        REQUIRE_OK(fg_ratings_deal(&r, &cut, to, &err), &err);
        for (uint64_t i = 0; i < r.m.n; i++) {
            n[to[i]]++;
            if (to[i] == 2) tested[i]++;
        }
        CHECK(n[2] == r.m.n / 5 || n[2] == r.m.n / 5 + 1);
        CHECK(n[1] >= (r.m.n - n[2]) / 8 - 1 && n[1] <= (r.m.n - n[2]) / 8 + 1);
    }
    for (uint64_t i = 0; i < r.m.n; i++) CHECK(tested[i] == 1);
    const uint64_t n = r.m.n; /* taken: in place */
    REQUIRE_OK(fg_ratings_parts(&r, to, true, part, &err), &err);
    CHECK(r.m.n == 0 && part[0].n + part[1].n + part[2].n == n);
    for (int k = 0; k < 3; k++) fg_hdi_fini(&part[k]);
    fg_mem_free(to);
    fg_mem_free(tested);
    fg_ratings_fini(&r);
}

/* Lists by brute force; without leaving out what was rated they are others. */
FG_TEST(lists_of_items)
{
    fg_ratings r;
    fg_err err = {0};
    fg_factor_model *m = NULL;
    fg_hdi test = {0}, none = {0};
    enum { TOP = 4, USER = 7 };
    fg_ranked got[TOP];
    uint32_t n = 0;
    make_ratings(&r);
    fg_factor_opts o = fg_factor_opts_default(FG_ALGO_SGD, false);
    o.init = 1.0;
    REQUIRE_OK(fg_factor_model_create(&m, &r.m, &o, &err), &err);
    REQUIRE_OK(fg_factor_top(m, USER, &r.m, TOP, got, &n, &err), &err);
    CHECK_U64(n, TOP);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t above = 0;
        for (uint32_t c = 0; c < m->n_col; c++) {
            bool rated = false;
            for (uint64_t k = 0; k < r.m.n; k++) {
                rated = rated || (r.m.entry[k].row == USER && r.m.entry[k].col == c);
            }
            CHECK(!rated || got[i].col != c);
            above += !rated && fg_factor_predict(m, USER, c) > got[i].value;
        }
        CHECK_U64(above, i);
    }
    /* wanted: the first and third of the list, and one that was rated and does not count */
    REQUIRE_OK(fg_hdi_add(&test, USER, got[0].col, 5.0f, &err), &err);
    REQUIRE_OK(fg_hdi_add(&test, USER, got[1].col, 2.0f, &err), &err);
    REQUIRE_OK(fg_hdi_add(&test, USER, got[2].col, 4.0f, &err), &err);
    for (uint64_t k = 0; k < r.m.n; k++) {
        if (r.m.entry[k].row != USER) continue;
        REQUIRE_OK(fg_hdi_add(&test, USER, r.m.entry[k].col, 5.0f, &err), &err);
        break;
    }
    fg_ranking k[2];
    REQUIRE_OK(fg_factor_rank(m, &r.m, &test, UINT32_MAX, TOP, 4.0, &k[0], &err), &err);
    REQUIRE_OK(fg_factor_rank(m, &none, &test, USER, TOP, 4.0, &k[1], &err), &err);
    CHECK_U64(k[0].n_user, 1);
    CHECK_NEAR(k[0].precision, 2.0 / TOP, 1e-12);
    CHECK_NEAR(k[0].recall, 1.0, 1e-12);
    CHECK_NEAR(k[0].ndcg, (1.0 + .5) / (1.0 + 1.0 / log2(3.0)), 1e-12);
    CHECK(k[1].ndcg < k[0].ndcg);
    fg_hdi_fini(&test);
    fg_hdi_fini(&none);
    fg_factor_model_destroy(&m);
    fg_ratings_fini(&r);
}

/* Any byte changed, any length: refused.  The file as it was: the same model. */
FG_TEST(model_file)
{
    fg_ratings r;
    fg_err err = {0};
    fg_factor_model *m = NULL, *back = NULL;
    fg_id_table row, col;
    make_ratings(&r);
    for (int bias = 0; bias < 2; bias++) {
        fg_factor_opts o = fg_factor_opts_default(FG_ALGO_ADS, bias == 1);
        o.rank = 5;
        REQUIRE_OK(fg_factor_model_create(&m, &r.m, &o, &err), &err);
        const char *path = fg_test_tmp("model");
        REQUIRE_OK(fg_factor_save(path, m, &r.user, &r.item, &err), &err);
        REQUIRE_OK(fg_factor_load(path, &back, &row, &col, &err), &err);
        CHECK(back->algo == FG_ALGO_ADS && back->rank == 5 && (back->bx != NULL) == (bias == 1));
        CHECK(memcmp(back->x, m->x, m->n_row * m->stride * sizeof *m->x) == 0);
        CHECK(memcmp(back->y, m->y, m->n_col * m->stride * sizeof *m->y) == 0);
        CHECK_STR(fg_id_text(&col, col.n - 1), fg_id_text(&r.item, r.item.n - 1));
        CHECK_NEAR(fg_factor_predict(back, 3, 4), fg_factor_predict(m, 3, 4), 0.0);
        CHECK_NEAR(fg_factor_predict(back, 3, 4000), m->mean, 0.0);
        fg_factor_model_destroy(&back);
        fg_id_table_fini(&row);
        fg_id_table_fini(&col);
        char *bytes = NULL;
        size_t n = 0;
        REQUIRE_OK(fg_io_read_all(path, 1 << 20, &bytes, &n, &err), &err);
        for (size_t i = 0; i < n; i += (size_t)fg_test_every(7, 31)) {
            const bool version = i >= 8 && i < 12;
            bytes[i] ^= 4;
            CHECK(fg_factor_read(bytes, n, "m", &back, &row, &col, &err) ==
                  (version ? FG_EVERSION : FG_EFORMAT));
            bytes[i] ^= 4;
            CHECK(fg_factor_read(bytes, i, "m", &back, &row, &col, &err) == FG_EFORMAT);
        }
        bytes[8]++;
        CHECK(fg_factor_read(bytes, n, "m", &back, &row, &col, &err) == FG_EVERSION);
        CHECK_STR(err.msg, "m: version 2, expected 1");
        fg_mem_free(bytes);
        fg_factor_model_destroy(&m);
    }
    fg_ratings_fini(&r);
}
