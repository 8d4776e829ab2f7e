/* SPDX-License-Identifier: MIT
 *
 * Ratings as text and a model's bytes: entries lie within the tables of ids, each pair once; what
 * was read of a model has finite factors and as many ids as rows.  The checksum of a model's bytes
 * is put right first, since no mutation would pass it.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/hash.h"
#include "src/factor/factor_file.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(factor, 2500)

static void seeds(void)
{
    fg_err err = {0};
    fg_ratings r = {0};
    fg_factor_model *m = NULL;
    static const char text[] = "u1,i1,3,7\nu2,i1,4,8\nu1,i2,5,9\nu1,i1,2\n";
    fuzz_seed_text(text);
    fuzz_seed_text("u::i::3::1\nv::i::4\n");
    fuzz_seed_text("user\titem\trating\n\"a\"\tb\t1e3\n");
    if (fg_ratings_parse(&r, text, strlen(text), "seed", false, FG_HDI_LAST, &err) != FG_OK)
        abort();
    for (int bias = 0; bias < 2; bias++) {
        fg_factor_opts o = fg_factor_opts_default(FG_ALGO_SGD, bias == 1);
        o.rank = 2;
        const char *path = fg_test_tmp("factor-seed");
        if (fg_factor_model_create(&m, &r.m, &o, &err) != FG_OK ||
            fg_factor_save(path, m, &r.user, &r.item, &err) != FG_OK) {
            abort();
        }
        size_t n;
        uint8_t *bytes = fuzz_read(path, &n);
        fuzz_seed(bytes, n);
        free(bytes);
        fg_factor_model_destroy(&m);
    }
    fg_ratings_fini(&r);
}

static void check_model(const uint8_t *d, size_t n)
{
    fg_err err = {0};
    fg_factor_model *m = NULL;
    fg_id_table row = {0}, col = {0};
    uint8_t *copy = malloc(n + 8);
    if (copy == NULL) abort();
    memcpy(copy, d, n);
    if (n > 8) fuzz_put_le(copy + n - 8, 8, fg_hash64(copy, n - 8));
    const fg_status st = fg_factor_read(copy, n, "model", &m, &row, &col, &err);
    fuzz_check_status(st, &err);
    if (st == FG_OK) {
        FUZZ_CHECK(row.n == m->n_row && col.n == m->n_col);
        for (uint32_t i = 0; i < m->n_row && m->n_col > 0; i++) {
            FUZZ_CHECK(isfinite(m->x[i * m->stride]) && !fuzz_planted);
            (void)fg_factor_predict(m, i, i);
        }
    }
    fg_factor_model_destroy(&m);
    fg_id_table_fini(&row);
    fg_id_table_fini(&col);
    free(copy);
}

static void one(const uint8_t *d, size_t n)
{
    fg_err err = {0};
    fg_ratings r = {0};
    const fg_hdi_repeats how = n % 2 == 0 ? FG_HDI_LAST : FG_HDI_MEAN;
    fg_status st = fg_ratings_parse(&r, (const char *)d, n, "text", n % 3 == 0, how, &err);
    fuzz_check_status(st, &err);
    if (st == FG_OK) {
        for (uint64_t i = 0; i < r.m.n; i++) {
            FUZZ_CHECK(r.m.entry[i].row < r.user.n && r.m.entry[i].col < r.item.n);
            FUZZ_CHECK(isfinite(r.m.entry[i].value));
        }
        const uint64_t had = r.m.n;
        uint64_t gone;
        st = fg_hdi_unite(&r.m, FG_HDI_LAST, &gone, NULL, &err);
        FUZZ_CHECK(st == FG_OK && (n % 3 == 0 || gone == 0) && r.m.n + gone == had);
    }
    fg_ratings_fini(&r);
    check_model(d, n);
}
