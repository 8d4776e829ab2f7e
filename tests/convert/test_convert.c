/* SPDX-License-Identifier: MIT
 *
 * Conversion end to end: every source form gives the same file, stored values are the source's
 * (f32, bf16) or exactly what the panel encoder makes of them (quantized), and the file does not
 * depend on the thread count.  Damaged input: test_convert_damage.c.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/convert.h"
#include "quant/panel.h"
#include "src/base/fp.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/format/reader.h"
#include "tests/ckpt.h"
#include "tests/fg_test.h"

static fg_status convert(const char *dir, const char *out, const char *type, const char *recipe,
                         uint32_t n_thread, fg_convert_report *report)
{
    fg_err err = {0};
    const fg_convert_opts o = {
        .src_dir = dir, .out_path = out, .type = type, .recipe_path = recipe, .n_thread = n_thread};
    const fg_status st = fg_convert(&o, report, &err);
    if (st != FG_OK) printf("  convert: %s\n", err.msg);
    return st;
}

static bool same_files(const char *a, const char *b)
{
    char *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    const bool ok = fg_io_read_all(a, 1u << 30, &x, &n, NULL) == FG_OK &&
                    fg_io_read_all(b, 1u << 30, &y, &m, NULL) == FG_OK && n == m &&
                    memcmp(x, y, n) == 0;
    fg_mem_free(x);
    fg_mem_free(y);
    return ok;
}

/* Like same_files, but only the data region. */
static bool same_data(const char *a, const char *b)
{
    fg_model_file *f = NULL, *g = NULL;
    bool ok = fg_model_file_open(&f, a, NULL) == FG_OK && fg_model_file_open(&g, b, NULL) == FG_OK;
    ok = ok && fg_model_file_n_tensor(f) == fg_model_file_n_tensor(g);
    for (uint64_t i = 0; ok && i < fg_model_file_n_tensor(f); i++) {
        const fg_tensor *t = fg_model_file_tensor(f, i), *u = fg_model_file_tensor(g, i);
        ok = t->type == u->type && t->err_rms == u->err_rms;
        const bool vector = fg_role_is_vector((fg_role)t->role);
        const uint64_t n = vector ? 1 : fg_n_panel(t->n_row);
        const uint64_t bytes = vector ? 4 * t->n_col : fg_panel_bytes((fg_qtype)t->type, t->n_col);
        for (uint64_t p = 0; ok && p < n; p++) {
            ok = memcmp(fg_model_file_data(f, t->offset + p * t->panel_stride),
                        fg_model_file_data(g, u->offset + p * u->panel_stride), bytes) == 0;
        }
        if (ok && t->scale_offset != 0) {
            ok = memcmp(fg_model_file_data(f, t->scale_offset),
                        fg_model_file_data(g, u->scale_offset), 64 * n) == 0;
        }
    }
    fg_model_file_close(&f);
    fg_model_file_close(&g);
    return ok;
}

/* One panel of the fixture's tensor, as the encoder gets it. */
static void expected_panel(const fg_tensor *t, uint64_t p, float *w)
{
    char name[96];
    fg_role_name((fg_role)t->role, t->layer, t->expert, name);
    const uint64_t k = fg_n_sb(t->n_col) * FG_SB_COLS;
    memset(w, 0, FG_PANEL_ROWS * k * sizeof *w);
    for (uint64_t r = 0; r < FG_PANEL_ROWS && p * FG_PANEL_ROWS + r < t->n_row; r++) {
        for (uint64_t c = 0; c < t->n_col; c++) {
            w[r * k + c] = ckpt_value(name, (p * FG_PANEL_ROWS + r) * t->n_col + c);
        }
    }
}

static void check_matrix(const fg_model_file *f, const fg_tensor *t)
{
    enum { MAX_K = 1152 };
    static float want[FG_PANEL_ROWS * MAX_K], got[FG_PANEL_ROWS * MAX_K];
    static uint8_t bytes[FG_PANEL_ROWS * MAX_K * 4];
    float scale[FG_PANEL_ROWS] = {0};
    const fg_qtype type = (fg_qtype)t->type;
    const bool quantized = fg_qtype_get(t->type)->quantized;
    const uint64_t k = fg_n_sb(t->n_col) * FG_SB_COLS;
    double err2 = 0, ref2 = 0, worst = 0;
    REQUIRE(k <= MAX_K);
    for (uint64_t p = 0; p < fg_n_panel(t->n_row); p++) {
        const uint8_t *panel = fg_model_file_data(f, t->offset + p * t->panel_stride);
        expected_panel(t, p, want);
        fg_panel_error e;
        fg_panel_encode(type, &t->lut, want, (size_t)t->n_col, bytes, scale, &e);
        for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
            err2 += e.err2[r];
            ref2 += e.ref2[r];
            if (e.ref2[r] > 0 && e.err2[r] / e.ref2[r] > worst) worst = e.err2[r] / e.ref2[r];
        }
        CHECK(memcmp(panel, bytes, fg_panel_bytes(type, t->n_col)) == 0);
        if (quantized) {
            CHECK(memcmp(fg_model_file_data(f, t->scale_offset + 64 * p), scale, 64) == 0);
            continue;
        }
        CHECK(t->err_rms == 0 && t->err_max_row == 0);
        fg_panel_decode(type, &t->lut, panel, scale, (size_t)t->n_col, got);
        CHECK(memcmp(got, want, FG_PANEL_ROWS * k * sizeof *got) == 0);
    }
    /* the same sums, rounded once to f32 */
    CHECK_NEAR(t->err_rms, sqrt(err2 / ref2), 1e-7);
    CHECK_NEAR(t->err_max_row, sqrt(worst), 1e-7);
    if (quantized) CHECK(t->err_rms > 0 && t->err_rms < 0.2f && t->err_max_row >= t->err_rms);
}

static void check_values(const char *path)
{
    fg_model_file *f = NULL;
    fg_err err = {0};
    if (fg_model_file_open(&f, path, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        return;
    }
    CHECK_OK(fg_model_file_verify(f, NULL, NULL, &err), &err);
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        const fg_tensor *t = fg_model_file_tensor(f, i);
        if (!fg_role_is_vector((fg_role)t->role)) {
            check_matrix(f, t);
            continue;
        }
        char name[96];
        fg_role_name((fg_role)t->role, t->layer, t->expert, name);
        for (uint64_t c = 0; c < t->n_col; c++) {
            float v;
            memcpy(&v, fg_model_file_data(f, t->offset + 4 * c), 4);
            CHECK(v == ckpt_value(name, c));
        }
    }
    fg_model_file_close(&f);
}

FG_TEST(every_type_stores_the_source_values)
{
    static ckpt c;
    ckpt_init(&c);
    const char *dir = ckpt_dir("types");
    ckpt_write(&c, dir);
    for (uint32_t i = 0; i < FG_QTYPE_COUNT; i++) {
        const fg_qtype_info *type = fg_qtype_at(i);
        fg_convert_report report = {0};
        const char *out = fg_test_tmp("types.fulgur");
        REQUIRE(convert(dir, out, type->name, NULL, 2, &report) == FG_OK);
        check_values(out);
        CHECK_U64(report.n_tensor, 3 + 2 * (7 + 3 * 3));
        struct stat sb;
        CHECK(stat(out, &sb) == 0 && (uint64_t)sb.st_size == report.file_bytes);
        CHECK((report.worst_rms > 0) == type->quantized);
        CHECK((report.worst_name[0] != '\0') == type->quantized);
    }
    ckpt_fini(&c);
}

FG_TEST(negative_control_a_changed_weight_is_seen)
{
    static ckpt c;
    ckpt_init(&c);
    const char *dir = ckpt_dir("control"), *a = fg_test_tmp("a.fulgur"),
               *b = fg_test_tmp("b.fulgur");
    ckpt_write(&c, dir);
    REQUIRE(convert(dir, a, "f32", NULL, 1, NULL) == FG_OK);
    ckpt_tensor *t = ckpt_get(&c, "model.layers.1.block_sparse_moe.experts.2.w2.weight");
    ckpt_set(t, t->bytes / 2 - 1, 0.25f);
    ckpt_write(&c, dir);
    REQUIRE(convert(dir, b, "f32", NULL, 1, NULL) == FG_OK);
    CHECK(!same_data(a, b));
    CHECK(same_data(a, a));
    ckpt_fini(&c);
}

FG_TEST(types_of_the_default_recipe)
{
    static ckpt c;
    ckpt_init(&c);
    const char *dir = ckpt_dir("recipe"), *out = fg_test_tmp("recipe.fulgur");
    ckpt_write(&c, dir);
    REQUIRE(convert(dir, out, NULL, NULL, 1, NULL) == FG_OK);
    fg_model_file *f = NULL;
    REQUIRE(fg_model_file_open(&f, out, NULL) == FG_OK);
    const uint32_t none = FG_NO_LAYER;
    CHECK_U64(fg_model_file_find(f, FG_ROLE_EXPERT_GATE, 0, 0)->type, FG_TYPE_Q4);
    CHECK(memcmp(&fg_model_file_find(f, FG_ROLE_EXPERT_DOWN, 1, 2)->lut, &fg_lut_grid6,
                 sizeof fg_lut_grid6) == 0);
    CHECK_U64(fg_model_file_find(f, FG_ROLE_LIGHT_QKV, 0, none)->type, FG_TYPE_Q6);
    CHECK_U64(fg_model_file_find(f, FG_ROLE_O, 1, none)->type, FG_TYPE_Q6);
    CHECK_U64(fg_model_file_find(f, FG_ROLE_EMBED, none, none)->type, FG_TYPE_Q8);
    CHECK_U64(fg_model_file_find(f, FG_ROLE_LM_HEAD, none, none)->type, FG_TYPE_Q8);
    CHECK_U64(fg_model_file_find(f, FG_ROLE_ROUTER, 0, none)->type, FG_TYPE_F32);
    fg_model_file_close(&f);
    ckpt_fini(&c);
}

FG_TEST(recipe_file_overrides_and_is_stored)
{
    static ckpt c;
    ckpt_init(&c);
    const char *dir = ckpt_dir("recipe2"), *out = fg_test_tmp("recipe2.fulgur");
    static const char text[] = "# comment\n\n*.w2.weight\tq8   # down\r\n*.1.*.w2.weight q4lin\n"
                               "*.q_proj.weight bf16";
    ckpt_write(&c, dir);
    ckpt_put_file(dir, "my.recipe", text, sizeof text - 1);
    char recipe[512];
    (void)snprintf(recipe, sizeof recipe, "%s/my.recipe", dir);
    REQUIRE(convert(dir, out, "q5", recipe, 1, NULL) == FG_OK);
    check_values(out);
    fg_model_file *f = NULL;
    REQUIRE(fg_model_file_open(&f, out, NULL) == FG_OK);
    CHECK_U64(fg_model_file_find(f, FG_ROLE_EXPERT_DOWN, 0, 0)->type, FG_TYPE_Q8);
    CHECK_U64(fg_model_file_find(f, FG_ROLE_EXPERT_DOWN, 0, 1)->type, FG_TYPE_Q8);
    const fg_tensor *t = fg_model_file_find(f, FG_ROLE_EXPERT_DOWN, 1, 2);
    CHECK(t->type == FG_TYPE_Q4 && fg_lut_is_linear(&t->lut));
    CHECK_U64(fg_model_file_find(f, FG_ROLE_Q, 1, FG_NO_LAYER)->type, FG_TYPE_BF16);
    CHECK_U64(fg_model_file_find(f, FG_ROLE_EXPERT_UP, 1, 2)->type, FG_TYPE_Q5);
    const char *stored = NULL;
    size_t n = 0;
    REQUIRE(fg_model_file_meta(f, "recipe", &stored, &n, NULL) == FG_OK && stored != NULL);
    CHECK(n > sizeof text && memcmp(stored, "* q5\n", 5) == 0);
    CHECK(memcmp(stored + n - sizeof text, text, sizeof text - 1) == 0);
    fg_model_file_close(&f);
    ckpt_fini(&c);
}

FG_TEST(every_source_form_gives_the_same_data)
{
    static ckpt c;
    const char *base = fg_test_tmp("form0.fulgur"), *out = fg_test_tmp("form1.fulgur");
    for (int form = 0; form < 6; form++) {
        ckpt_init(&c);
        if (form == 1) ckpt_spread(&c, 5);
        if (form == 2 || form == 3) ckpt_fuse(&c);
        if (form >= 3) ckpt_add_buffers(&c);
        if (form == 3) ckpt_spread(&c, 3);
        if (form == 4) ckpt_config(&c, true);
        if (form == 5) { /* one dtype after another */
            static const char *const dtypes[] = {"F32", "BF16", "F16"};
            for (size_t i = 0; i < c.n_tensor; i++) ckpt_recode(&c.tensor[i], dtypes[i % 3]);
            c.shard_format = "%u";
            ckpt_spread(&c, 100);
        }
        const char *dir = ckpt_dir("forms");
        ckpt_write(&c, dir);
        fg_convert_report report = {0};
        REQUIRE(convert(dir, form == 0 ? base : out, "q6", NULL, 2, &report) == FG_OK);
        CHECK_U64(report.n_skipped, form >= 3 ? 4 : 0);
        if (form > 0) CHECK(same_data(base, out));
        ckpt_fini(&c);
    }
}

FG_TEST(thread_count_does_not_show)
{
    static ckpt c;
    ckpt_init_large(&c);
    const char *dir = ckpt_dir("threads"), *one = fg_test_tmp("t1.fulgur");
    ckpt_write(&c, dir);
    REQUIRE(convert(dir, one, "q4", NULL, 1, NULL) == FG_OK);
    for (uint32_t n = 2; n <= 5; n++) {
        const char *out = fg_test_tmp("tn.fulgur");
        REQUIRE(convert(dir, out, "q4", NULL, n, NULL) == FG_OK);
        CHECK(same_files(one, out));
    }
    check_values(one);
    ckpt_fini(&c);
}

FG_TEST(nano_converts_alike_on_any_threads)
{
    const char *dir = "tests/models/m1-nano";
    REQUIRE(access(dir, R_OK) == 0);
    const char *out[3] = {fg_test_tmp("n1.fulgur"), fg_test_tmp("n2.fulgur"),
                          fg_test_tmp("n3.fulgur")};
    const uint32_t step = (uint32_t)fg_test_every(2, 2); /* 1 and 3 */
    for (uint32_t i = 0; i < 3; i += step) {
        fg_convert_report report = {0};
        REQUIRE(convert(dir, out[i], "q4", NULL, i + 1, &report) == FG_OK);
        CHECK_U64(report.n_weight, 29825024);
    }
    for (uint32_t i = step; i < 3; i += step) CHECK(same_files(out[0], out[i]));
    fg_model_file *f = NULL;
    REQUIRE(fg_model_file_open(&f, out[0], NULL) == FG_OK);
    CHECK(fg_model_file_verify(f, NULL, NULL, NULL) == FG_OK);
    char *text = NULL;
    size_t n = 0, m = 0;
    const char *stored = NULL;
    REQUIRE(fg_io_read_all("tests/models/m1-nano/tokenizer.json", 1 << 24, &text, &n, NULL) ==
            FG_OK);
    CHECK(fg_model_file_meta(f, "tokenizer.json", &stored, &m, NULL) == FG_OK);
    CHECK(m == n && stored != NULL && memcmp(stored, text, n) == 0);
    fg_mem_free(text);
    fg_model_file_close(&f);
}

/* The hash of convert.h, computed from the file by other means. */
static uint64_t file_hash(const char *path, uint64_t *bytes)
{
    char *data = NULL;
    size_t n = 0;
    fg_json *root = NULL;
    if (fg_io_read_all(path, 1 << 24, &data, &n, NULL) != FG_OK) return 0;
    uint64_t len = 0;
    for (int i = 7; i >= 0; i--) len = len << 8 | (uint8_t)data[i];
    if (fg_json_parse(&root, data + 8, (size_t)len, path, NULL) != FG_OK) return 0;
    fg_hasher *h = fg_hasher_create();
    fg_hasher_add(h, data, (size_t)len + 8);
    for (const fg_json *t = fg_json_first(root); t != NULL; t = fg_json_next(t)) {
        const fg_json *range = fg_json_first(fg_json_get(t, "data_offsets"));
        uint64_t begin, end; /* the fixture writes its header in the order of offsets */
        if (range == NULL || strstr(fg_json_name(t), "decay") || strstr(fg_json_name(t), "slope")) {
            continue;
        }
        (void)fg_json_u64(range, &begin);
        (void)fg_json_u64(fg_json_next(range), &end);
        const uint64_t v = fg_hash64(data + 8 + len + begin, (size_t)(end - begin));
        uint8_t le[8];
        for (int i = 0; i < 8; i++) le[i] = (uint8_t)(v >> (8 * i));
        fg_hasher_add(h, le, 8);
    }
    const uint64_t digest = fg_hasher_digest(h);
    fg_hasher_destroy(h);
    fg_json_free(root);
    fg_mem_free(data);
    *bytes = n;
    return digest;
}

FG_TEST(provenance_names_files_and_hashes)
{
    static ckpt c;
    ckpt_init(&c);
    ckpt_add_buffers(&c);
    ckpt_spread(&c, 2);
    const char *dir = ckpt_dir("provenance"), *out = fg_test_tmp("p.fulgur");
    ckpt_write(&c, dir);
    REQUIRE(convert(dir, out, "q8", NULL, 1, NULL) == FG_OK);
    fg_model_file *f = NULL;
    REQUIRE(fg_model_file_open(&f, out, NULL) == FG_OK);
    char want[1024], path[512], name[64];
    size_t n = 0, at = (size_t)snprintf(want, sizeof want,
                                        "{\"converter\": \"fulgur\", \"version\": 1, \"type\": "
                                        "\"q8\", \"files\": [");
    for (uint32_t s = 0; s < 2; s++) {
        uint64_t bytes = 0;
        ckpt_shard_name(&c, s, name, sizeof name);
        (void)snprintf(path, sizeof path, "%s/%s", dir, name);
        const uint64_t h = file_hash(path, &bytes);
        at += (size_t)snprintf(want + at, sizeof want - at,
                               "%s{\"name\": \"%s\", \"bytes\": %19llu, \"xxh3\": \"%016llx\"}",
                               s == 0 ? "" : ", ", name, (unsigned long long)bytes,
                               (unsigned long long)h);
    }
    (void)snprintf(want + at, sizeof want - at, "]}\n");
    const char *got = NULL;
    CHECK(fg_model_file_meta(f, "provenance", &got, &n, NULL) == FG_OK);
    CHECK(n == strlen(want) && got != NULL && memcmp(got, want, n) == 0);
    CHECK(fg_model_file_meta(f, "config.json", &got, &n, NULL) == FG_OK);
    CHECK(n == strlen(c.config) && got != NULL && memcmp(got, c.config, n) == 0);
    fg_model_file_close(&f);
    ckpt_fini(&c);
}

FG_TEST(existing_output_is_replaced)
{
    static ckpt c;
    ckpt_init(&c);
    const char *dir = ckpt_dir("replace"), *out_dir = ckpt_dir("replaced");
    char out[512];
    (void)snprintf(out, sizeof out, "%s/m.fulgur", out_dir);
    ckpt_write(&c, dir);
    ckpt_put_file(out_dir, "m.fulgur", "old", 3);
    REQUIRE(convert(dir, out, "q8", NULL, 1, NULL) == FG_OK);
    check_values(out);
    CHECK_U64(ckpt_count_files(out_dir), 1);
    ckpt_fini(&c);
}

/* f32 weights that are not exact in 16 bits. */
FG_TEST(f32_source_to_f32_is_exact_and_to_bf16_rounds)
{
    static ckpt c;
    ckpt_init(&c);
    const char *dir = ckpt_dir("exact"), *out = fg_test_tmp("exact.fulgur");
    ckpt_tensor *t = ckpt_get(&c, "lm_head.weight");
    ckpt_recode(t, "F32");
    const float odd[] = {0.1f, -1e-40f, 3.3e38f, -0.0f, 1.0f + 0x1p-8f};
    for (uint64_t i = 0; i < 5; i++) ckpt_set(t, i, odd[i]);
    ckpt_write(&c, dir);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        fg_model_file *f = NULL;
        REQUIRE(convert(dir, out, bf16 ? "bf16" : "f32", NULL, 1, NULL) == FG_OK);
        REQUIRE(fg_model_file_open(&f, out, NULL) == FG_OK);
        const fg_tensor *h = fg_model_file_find(f, FG_ROLE_LM_HEAD, FG_NO_LAYER, FG_NO_LAYER);
        float w[FG_SB_COLS];
        fg_panel_decode_row((fg_qtype)h->type, &h->lut, fg_model_file_data(f, h->offset), NULL,
                            (size_t)h->n_col, 0, w);
        for (size_t i = 0; i < 5; i++) {
            const float want = bf16 ? fg_bf16_to_f32(fg_f32_to_bf16(odd[i])) : odd[i];
            CHECK_U64(fg_f32_bits(w[i]), fg_f32_bits(want));
        }
        fg_model_file_close(&f);
    }
    ckpt_fini(&c);
}

typedef struct counter {
    uint64_t calls, last, total, stop_at;
} counter;

static bool count_progress(void *ctx, uint64_t done, uint64_t total)
{
    counter *n = ctx;
    if (done <= n->last) n->total = UINT64_MAX; /* must rise */
    n->last = done;
    n->total = n->total == UINT64_MAX ? n->total : total;
    return ++n->calls != n->stop_at;
}

FG_TEST(progress_reaches_the_end_and_cancels_anywhere)
{
    static ckpt c;
    ckpt_init(&c);
    const char *dir = ckpt_dir("progress");
    ckpt_write(&c, dir);
    counter n = {0};
    const char *out_dir = ckpt_dir("progress_out");
    char out[512];
    (void)snprintf(out, sizeof out, "%s/m.fulgur", out_dir);
    fg_convert_opts o = {.src_dir = dir, .out_path = out, .n_thread = 1};
    o.progress = count_progress;
    o.ctx = &n;
    REQUIRE(fg_convert(&o, NULL, NULL) == FG_OK);
    CHECK_U64(n.last, n.total);
    const uint64_t calls = n.calls;
    CHECK(remove(out) == 0);
    for (uint64_t stop = 1; stop <= calls; stop += 5) {
        fg_err err = {0};
        n = (counter){.stop_at = stop};
        CHECK(fg_convert(&o, NULL, &err) == FG_ECANCEL);
        CHECK(strstr(err.msg, out) != NULL);
        CHECK_U64(ckpt_count_files(out_dir), 0);
    }
    ckpt_fini(&c);
}

/* The n-th allocation fails, for every n: an error, nothing left, no leak (under ASan). */
FG_TEST(every_failing_allocation_is_reported)
{
    static ckpt c;
    ckpt_init(&c);
    ckpt_spread(&c, 2);
    const char *dir = ckpt_dir("alloc"), *out_dir = ckpt_dir("alloc_out");
    char out[512];
    (void)snprintf(out, sizeof out, "%s/m.fulgur", out_dir);
    ckpt_write(&c, dir);
    const fg_convert_opts o = {.src_dir = dir, .out_path = out, .type = "q8", .n_thread = 1};
    const uint64_t before = fg_mem_count();
    REQUIRE(fg_convert(&o, NULL, NULL) == FG_OK);
    const uint64_t n = fg_mem_count() - before;
    CHECK(remove(out) == 0);
    uint64_t n_failed = 0;
    for (uint64_t i = 1; i <= n; i += i + 8 < n ? 1 + i / 64 : 1) {
        fg_err err = {0};
        fg_mem_fail_after(i);
        const fg_status st = fg_convert(&o, NULL, &err);
        fg_mem_fail_after(0);
        n_failed += st != FG_OK;
        CHECK(st == FG_OK || (st == FG_ENOMEM && err.msg[0] != '\0'));
        if (ckpt_count_files(out_dir) == 0) continue;
        /* success, or only the sync of the folder behind the rename failed: a whole file */
        fg_model_file *f = NULL;
        CHECK(fg_model_file_open(&f, out, NULL) == FG_OK);
        CHECK(st == FG_OK || i + 1 >= n);
        fg_model_file_close(&f);
        CHECK(remove(out) == 0);
        CHECK_U64(ckpt_count_files(out_dir), 0);
    }
    CHECK(n_failed > 50);
    ckpt_fini(&c);
}
