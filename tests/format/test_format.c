/* SPDX-License-Identifier: MIT
 *
 * The container as it should be: layout, round trip, verification, the second reader, and the
 * writer's behaviour when the machine refuses.  More than 800 lines: one sample file and its writer
 * are behind all of it.
 */
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include "convert/synth.h"
#include "quant/panel.h"
#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/format/layout.h"
#include "src/format/reader.h"
#include "tests/fg_test.h"
#include "tests/format/sample.h"

static const fg_qtype all_types[] = {
#define FG_QTYPE(id, ...) FG_TYPE_##id,
#include "quant/types.inc"
};

static fg_shape m1_shape(void)
{
    const fg_synth_opts o = {.n_layer = 80};
    fg_shape s = {0};
    fg_err err = {0};
    CHECK_OK(fg_synth_shape(&s, &o, &err), &err);
    return s;
}

static fg_tensor_choice m1_choose(void *ctx, fg_role role, uint32_t layer, uint32_t expert)
{
    (void)ctx, (void)layer, (void)expert;
    const fg_qtype type = role >= FG_ROLE_EXPERT_GATE ? FG_TYPE_Q4
                          : role <= FG_ROLE_LM_HEAD   ? FG_TYPE_Q8
                                                      : FG_TYPE_Q6;
    return (fg_tensor_choice){type, fg_lut_grid6, false};
}

/* --- panels and nodes --- */

FG_TEST(panel_group_is_the_smallest)
{
    for (uint64_t stride = 64; stride <= 3 * 4096; stride += 64) {
        uint64_t g = 1;
        while (g * stride % 4096 != 0) g++;
        CHECK_U64(fg_panel_group(stride), g);
    }
    CHECK_U64(fg_panel_group(52224), 4);  /* q4, K = 6144 */
    CHECK_U64(fg_panel_group(104448), 2); /* a gate/up pair of them */
    CHECK_U64(fg_panel_group(78336), 8);  /* q4, K = 9216 */
}

/* Splits one matrix into n parts; returns the largest part over the equal share. */
static double check_split(uint64_t n_panel, uint64_t stride, uint32_t n)
{
    const uint64_t group = fg_panel_group(stride);
    const uint64_t n_group = (n_panel + group - 1) / group;
    uint64_t next = 0, most = 0, last_page = UINT64_MAX;
    for (uint32_t p = 0; p < n; p++) {
        uint64_t b, e;
        fg_panel_split(n_panel, group, n, p, &b, &e);
        CHECK_U64(b, next);
        CHECK(e >= b && e <= n_panel);
        next = e;
        if (e - b > most) most = e - b;
        if (b == e) continue;
        CHECK(last_page == UINT64_MAX || b * stride / 4096 > last_page);
        last_page = (e * stride - 1) / 4096;
    }
    CHECK_U64(next, n_panel);
    CHECK(most <= (n_group + n - 1) / n * group); /* balanced to a group */
    return n_panel == 0 ? 1.0 : (double)most * n / (double)n_panel;
}

FG_TEST(no_page_is_shared_between_nodes)
{
    static const uint64_t rows[] = {1024, 6144, 8192, 9216, 24576, 200064};
    static const uint64_t cols[] = {6144, 8192, 9216};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (size_t k = 0; k < sizeof cols / sizeof cols[0]; k++) {
            for (size_t t = 0; t < sizeof all_types / sizeof all_types[0]; t++) {
                const uint64_t stride = fg_panel_bytes(all_types[t], cols[k]);
                for (uint32_t n = 1; n <= 16; n++) {
                    (void)check_split(fg_n_panel(rows[i]), stride, n);
                    (void)check_split(fg_n_panel(rows[i]), 2 * stride, n);
                }
            }
        }
    }
    /* odd sizes: fewer groups than parts, a short last group, none at all */
    for (uint64_t n = 0; n < 40; n++) (void)check_split(n, 78336, 1 + (uint32_t)n % 16);
    /* control: half the group does share a page */
    uint64_t b, e;
    fg_panel_split(8, fg_panel_group(78336) / 2, 2, 0, &b, &e);
    CHECK(e == 4 && e * 78336 % 4096 != 0);
}

/* How uneven the page rule makes the shares of the release's own matrices. */
FG_TEST(shares_of_the_release_are_even)
{
    static const struct {
        uint64_t n_row, n_col, n_matrix; /* 2 matrices: gate and up panels interleaved */
    } m[] = {{24576, 6144, 1}, {8192, 6144, 1}, {6144, 8192, 1},  {1024, 6144, 1},
             {9216, 6144, 2},  {6144, 9216, 1}, {200064, 6144, 1}};
    double power = 1.0, any = 1.0, kv = 1.0; /* 1, 2, 4, 8, 16 parts; 1-16; 1-16 for K and V */
    for (size_t i = 0; i < sizeof m / sizeof m[0]; i++) {
        for (size_t t = 0; t < sizeof all_types / sizeof all_types[0]; t++) {
            const uint64_t stride = m[i].n_matrix * fg_panel_bytes(all_types[t], m[i].n_col);
            for (uint32_t n = 1; n <= 16; n++) {
                const double x = check_split(fg_n_panel(m[i].n_row), stride, n);
                if ((n & (n - 1)) == 0) power = fmax(power, x);
                if (m[i].n_row == 1024) {
                    kv = fmax(kv, x);
                } else {
                    any = fmax(any, x);
                }
            }
        }
    }
    printf("  largest part over equal share: 1/2/4/8/16 nodes %.4f, any 1-16 %.3f, K and V %.3f\n",
           power, any, kv);
    CHECK(power < 1.01 && any <= 1.25 && kv < 2.0);
}

/* --- names, order, placement --- */

FG_TEST(names_and_dimensions)
{
    const fg_shape s = m1_shape();
    char name[96];
    uint64_t r, c;
    fg_role_name(FG_ROLE_EXPERT_GATE, 3, 7, name);
    CHECK_STR(name, "model.layers.3.block_sparse_moe.experts.7.w1.weight");
    fg_role_name(FG_ROLE_EXPERT_DOWN, 79, 31, name);
    CHECK_STR(name, "model.layers.79.block_sparse_moe.experts.31.w2.weight");
    fg_role_name(FG_ROLE_LIGHT_QKV, 0, FG_NO_LAYER, name);
    CHECK_STR(name, "model.layers.0.self_attn.qkv_proj.weight");
    fg_role_name(FG_ROLE_LM_HEAD, FG_NO_LAYER, FG_NO_LAYER, name);
    CHECK_STR(name, "lm_head.weight");
    fg_role_name((fg_role)99, UINT32_MAX, UINT32_MAX, name);
    CHECK_STR(name, "role 99");
    fg_role_dims(FG_ROLE_LIGHT_QKV, &s, &r, &c);
    CHECK(r == 24576 && c == 6144);
    fg_role_dims(FG_ROLE_K, &s, &r, &c);
    CHECK(r == 1024 && c == 6144);
    fg_role_dims(FG_ROLE_O, &s, &r, &c);
    CHECK(r == 6144 && c == 8192);
    fg_role_dims(FG_ROLE_LIGHT_NORM, &s, &r, &c);
    CHECK(r == 1 && c == 8192);
    fg_role_dims(FG_ROLE_EXPERT_DOWN, &s, &r, &c);
    CHECK(r == 6144 && c == 9216);
}

FG_TEST(order_is_a_bijection)
{
    const fg_shape s = m1_shape();
    CHECK_U64(fg_order_count(&s), 8243); /* as many as the checkpoint has */
    for (uint64_t i = 0; i < fg_order_count(&s); i++) {
        fg_tensor t = {0};
        fg_order_at(&s, i, &t);
        CHECK_U64(fg_order_index(&s, (fg_role)t.role, t.layer, t.expert), i);
    }
    CHECK(fg_order_index(&s, FG_ROLE_Q, 0, FG_NO_LAYER) == UINT64_MAX);
    CHECK(fg_order_index(&s, FG_ROLE_LIGHT_QKV, 7, FG_NO_LAYER) == UINT64_MAX);
    CHECK(fg_order_index(&s, FG_ROLE_EXPERT_UP, 0, 32) == UINT64_MAX);
    CHECK(fg_order_index(&s, FG_ROLE_EXPERT_UP, 80, 0) == UINT64_MAX);
    CHECK(fg_order_index(&s, FG_ROLE_ROUTER, 0, 0) == UINT64_MAX);
    CHECK(fg_order_index(&s, FG_ROLE_EMBED, 0, FG_NO_LAYER) == UINT64_MAX);
    CHECK(fg_order_index(&s, FG_ROLE_COUNT, 0, 0) == UINT64_MAX);
}

FG_TEST(layout_of_the_release)
{
    const fg_shape s = m1_shape();
    const fg_file_spec spec = {.shape = &s, .choose = m1_choose};
    fg_file_plan *p = NULL;
    fg_err err = {0};
    REQUIRE_OK(fg_file_plan_make(&p, &spec, "m1", &err), &err);
    const fg_tensor *t = fg_file_plan_tensor(p, fg_order_index(&s, FG_ROLE_EXPERT_GATE, 5, 3));
    CHECK_U64(t[0].panel_stride, 104448);
    CHECK_U64(t[1].panel_stride, 104448);
    CHECK_U64(t[2].panel_stride, 78336);
    CHECK_U64(t[1].scale_offset - t[0].scale_offset, 9 * 4096);
    CHECK_U64(t[2].scale_offset - t[1].scale_offset, 9 * 4096);
    CHECK_U64(t[0].offset - t[2].scale_offset, 6 * 4096);
    CHECK_U64(t[2].offset - t[0].offset, 2 * 30081024);
    CHECK_U64(t[3].scale_offset - t[0].scale_offset, 90341376); /* the next expert */
    printf("  q4 experts, q6 attention, q8 embedding and head: %.3f GB, expert %d pages\n",
           (double)fg_file_plan_file_bytes(p) / 1e9, 90341376 / 4096);
    fg_file_plan_destroy(&p);
    CHECK(p == NULL);
}

/* The release opens in milliseconds: real directory, sparse data. */
FG_TEST(release_opens_fast)
{
    const fg_shape s = m1_shape();
    const char *path = fg_test_tmp("m1.fulgur");
    const fg_file_spec spec = {.shape = &s, .choose = m1_choose};
    fg_file_plan *p = NULL;
    fg_directory d = {0};
    fg_buf dir = {0};
    fg_err err = {0};
    REQUIRE_OK(fg_file_plan_make(&p, &spec, path, &err), &err);
    REQUIRE_OK(fg_directory_init(&d, &s, 0, path, &err), &err);
    memcpy(d.tensor, fg_file_plan_tensor(p, 0), d.n_tensor * sizeof *d.tensor);
    fg_slot slot = {.read_version = 1, .write_version = 1, .generation = 1};
    uint64_t end;
    slot.data_offset = fg_file_plan_data_offset(p);
    REQUIRE(fg_directory_place(&d, slot.data_offset, &end));
    fg_directory_encode(&d, &dir);
    slot.data_bytes = end - slot.data_offset;
    slot.n_chunk = fg_round_up(slot.data_bytes, FG_FILE_CHUNK) / FG_FILE_CHUNK;
    slot.table_offset = end;
    slot.dir_offset = fg_round_up(end + 8 * slot.n_chunk, 64);
    slot.dir_bytes = dir.len;
    slot.dir_hash = fg_hash64(dir.data, dir.len);
    slot.file_bytes = slot.dir_offset + slot.dir_bytes;
    CHECK_U64(slot.file_bytes, fg_file_plan_file_bytes(p));
    uint8_t bytes[FG_SLOT_BYTES];
    fg_slot_encode(&slot, bytes);
    const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (ftruncate(fd, (off_t)slot.file_bytes) != 0) {
        fg_test_skip("no sparse file of %llu bytes here", (unsigned long long)slot.file_bytes);
    } else if (fg_io_pwrite(fd, bytes, sizeof bytes, 0, path, &err) == FG_OK &&
               fg_io_pwrite(fd, dir.data, dir.len, slot.dir_offset, path, &err) == FG_OK) {
        fg_model_file *f = NULL;
        uint64_t best = UINT64_MAX;
        for (int i = 0; i < 5; i++) {
            const uint64_t t0 = fg_clock_ns();
            CHECK_OK(fg_model_file_open(&f, path, &err), &err);
            const uint64_t ns = fg_clock_ns() - t0;
            if (ns < best) best = ns;
            fg_model_file_close(&f);
        }
        printf("  %llu tensors, directory %llu bytes, best of 5: %.2f ms\n",
               (unsigned long long)d.n_tensor, (unsigned long long)slot.dir_bytes,
               (double)best / 1e6);
        CHECK(best < 100000000); /* a slow machine under sanitizers; quadratic would be seconds */
    } else {
        CHECK(false);
    }
    (void)close(fd);
    (void)unlink(path);
    fg_buf_fini(&dir);
    fg_directory_fini(&d);
    fg_file_plan_destroy(&p);
}

/* --- round trip --- */

static void check_tensors(const fg_model_file *f, const uint8_t *data, uint64_t data_offset)
{
    const fg_shape *s = fg_model_file_shape(f);
    uint64_t pos = data_offset; /* independent of fg_directory_place: order and alignment only */
    CHECK_U64(fg_model_file_n_tensor(f), 3 + 3 * (7 + 9));
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        const fg_tensor *t = fg_model_file_tensor(f, i);
        const fg_role role = (fg_role)t->role;
        CHECK(fg_model_file_find(f, role, t->layer, t->expert) == t);
        CHECK(t->offset % (role == FG_ROLE_EXPERT_UP ? 64 : 4096) == 0);
        CHECK(t->scale_offset % 4096 == 0);
        const bool fixed = fg_role_is_vector(role) || role == FG_ROLE_ROUTER;
        const fg_tensor_choice c = sample_choose(NULL, role, t->layer, t->expert);
        CHECK_U64(t->type, fixed ? FG_TYPE_F32 : c.type);
        if (fg_qtype_has_table(t->type)) CHECK(memcmp(&t->lut, &c.lut, sizeof c.lut) == 0);
        CHECK((t->scale_offset != 0) == fg_qtype_get(t->type)->quantized);
        if (t->expert == FG_NO_LAYER) {
            CHECK(fg_tensor_begin(t) >= pos);
            pos = fg_tensor_end(t);
        } else {
            const fg_extent x = fg_model_file_expert_extent(f, t->layer, t->expert);
            CHECK(fg_tensor_begin(t) >= x.offset && fg_tensor_end(t) <= x.offset + x.bytes);
        }
        CHECK(memcmp(fg_model_file_data(f, t->offset), data + (t->offset - data_offset), 64) == 0);
    }
    for (uint32_t l = 0; l < s->n_layer; l++) {
        const fg_extent x = fg_model_file_dense_extent(f, l);
        CHECK(x.offset % ((uint64_t)2 << 20) == 0 && x.bytes % 4096 == 0);
        uint64_t next = x.offset + x.bytes;
        for (uint32_t e = 0; e < s->n_expert; e++) {
            const fg_extent y = fg_model_file_expert_extent(f, l, e);
            CHECK(y.offset == next && y.bytes % 4096 == 0);
            next = y.offset + y.bytes;
        }
    }
    const fg_tensor *gate = fg_model_file_find(f, FG_ROLE_EXPERT_GATE, 1, 2), *up = gate + 1;
    CHECK(gate->type != up->type);
    CHECK_U64(gate->panel_stride, up->panel_stride);
    CHECK_U64(up->offset, gate->offset + fg_panel_bytes((fg_qtype)gate->type, gate->n_col));
    CHECK(fg_model_file_find(f, FG_ROLE_Q, 0, FG_NO_LAYER) == NULL);
}

static void check_meta(const fg_model_file *f)
{
    static const char *const keys[] = {"config.json", "empty", "recipe"};
    fg_err err = {0};
    const char *bytes, *key;
    size_t n;
    uint64_t len;
    CHECK_U64(fg_model_file_n_meta(f), 3);
    for (uint64_t i = 0; i < 3; i++) {
        fg_model_file_meta_at(f, i, &key, &len);
        CHECK_STR(key, keys[i]);
    }
    CHECK_OK(fg_model_file_meta(f, "config.json", &bytes, &n, &err), &err);
    CHECK(n == sizeof sample_config - 1 && memcmp(bytes, sample_config, n) == 0);
    CHECK(((uintptr_t)bytes & 63) == 0);
    CHECK_OK(fg_model_file_meta(f, "recipe", &bytes, &n, &err), &err);
    CHECK(n == 10 && memcmp(bytes, "experts q6", n) == 0); /* as replaced before the end */
    CHECK_OK(fg_model_file_meta(f, "empty", &bytes, &n, &err), &err);
    CHECK(n == 0 && bytes != NULL);
    CHECK_OK(fg_model_file_meta(f, "tokenizer.json", &bytes, &n, &err), &err);
    CHECK(bytes == NULL);
}

static bool count_progress(void *ctx, uint64_t done, uint64_t total)
{
    uint64_t *last = ctx;
    CHECK(done > *last && done <= total);
    *last = done;
    return done != 4 << 20 || total == 0; /* cancels at the first call */
}

static bool all_progress(void *ctx, uint64_t done, uint64_t total)
{
    *(uint64_t *)ctx = done == total ? total : 0;
    return true;
}

FG_TEST(round_trip)
{
    const char *path = fg_test_tmp("a.fulgur");
    fg_err err = {0};
    uint8_t *data = NULL;
    fg_model_file *f = NULL;
    REQUIRE_OK(sample_write(path, 1, &data, &err), &err);
    CHECK(!fg_io_exists(fg_test_tmp("a.fulgur.part")));
    if (fg_model_file_open(&f, path, &err) == FG_OK) {
        const fg_shape s = sample_shape(), *got = fg_model_file_shape(f);
        CHECK(memcmp(&s, got, sizeof s) == 0); /* both zeroed before they were filled */
        CHECK_STR(fg_model_file_path(f), path);
        const fg_tensor *embed = fg_model_file_tensor(f, 0);
        CHECK(embed->err_rms == 0.0625f && embed->err_max_row == 0.125f && embed->peak == 7.5f &&
              embed->err_out == 0.03125f);
        CHECK(fg_model_file_find(f, FG_ROLE_LIGHT_GATE, 0, FG_NO_LAYER)->peak == 0.0f);
        CHECK(isnan(fg_model_file_find(f, FG_ROLE_LIGHT_GATE, 0, FG_NO_LAYER)->err_rms)); /* q4 */
        CHECK(fg_model_file_find(f, FG_ROLE_ROUTER, 0, FG_NO_LAYER)->err_rms == 0.0f);
        const uint64_t data_offset = fg_tensor_begin(embed);
        CHECK_U64(data_offset, 2 << 20);
        check_tensors(f, data, data_offset);
        check_meta(f);
        uint64_t done = 0;
        CHECK_OK(fg_model_file_verify(f, all_progress, &done, &err), &err);
        CHECK(done > 8 << 20 && done < fg_model_file_size(f));
        CHECK(memcmp(fg_model_file_data(f, data_offset), data, done) == 0);
        done = 0;
        CHECK(fg_model_file_verify(f, count_progress, &done, &err) == FG_ECANCEL);
        CHECK(fg_model_file_verify(f, NULL, NULL, NULL) == FG_OK);
        fg_model_file_close(&f);
    } else {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    fg_model_file_close(&f); /* accepts NULL */
    fg_mem_free(data);
}

FG_TEST(same_input_gives_same_bytes)
{
    fg_err err = {0};
    char *a = NULL, *b = NULL;
    size_t n, m;
    CHECK_OK(sample_write(fg_test_tmp("a.fulgur"), 1, NULL, &err), &err);
    CHECK_OK(sample_write(fg_test_tmp("b.fulgur"), 1, NULL, &err), &err);
    CHECK_OK(fg_io_read_all(fg_test_tmp("a.fulgur"), 1 << 26, &a, &n, &err), &err);
    CHECK_OK(fg_io_read_all(fg_test_tmp("b.fulgur"), 1 << 26, &b, &m, &err), &err);
    CHECK(n == m && n > 0 && memcmp(a, b, n) == 0);
    fg_mem_free(a);
    fg_mem_free(b);
}

/* --- the document and the second reader --- */

static float *decode_tensor(const fg_model_file *f, const fg_tensor *t, uint64_t *n)
{
    const size_t k = (size_t)(128 * fg_n_sb(t->n_col));
    float panel[16 * 256];
    *n = t->n_row * t->n_col;
    float *out = fg_mem_zalloc((size_t)*n * sizeof *out);
    if (out == NULL || 16 * k > sizeof panel / sizeof panel[0]) return out;
    if (fg_role_is_vector((fg_role)t->role)) {
        memcpy(out, fg_model_file_data(f, t->offset), (size_t)*n * sizeof *out);
        return out;
    }
    for (uint64_t row = 0; row < t->n_row; row++) {
        const uint64_t p = row / 16;
        const float *scale = NULL;
        if (t->scale_offset != 0) {
            scale = (const float *)(const void *)fg_model_file_data(f, t->scale_offset + 64 * p);
        }
        if (row % 16 == 0) {
            fg_panel_decode((fg_qtype)t->type, &t->lut,
                            fg_model_file_data(f, t->offset + p * t->panel_stride), scale,
                            (size_t)t->n_col, panel);
        }
        memcpy(out + row * t->n_col, panel + row % 16 * k, (size_t)t->n_col * sizeof *out);
    }
    return out;
}

static bool have_python(void)
{
    if (system("python3 -c '' >/dev/null 2>&1") == 0) return true;
    fg_test_skip("python3 is absent");
    return false;
}

static int fg_read(const char *args)
{
    char cmd[1024];
    (void)snprintf(cmd, sizeof cmd, "python3 -B scripts/fg_read.py %s >/dev/null 2>&1", args);
    return system(cmd);
}

FG_TEST(second_reader_verifies)
{
    if (!have_python()) return;
    const char *path = fg_test_tmp("a.fulgur");
    char args[512];
    fg_err err = {0};
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    (void)snprintf(args, sizeof args, "%s --verify", path);
    CHECK(fg_read(args) == 0);
    (void)snprintf(args, sizeof args, "%s --list", path);
    CHECK(fg_read(args) == 0);
    CHECK(fg_read(path) == 0);
    /* control: one bit of data */
    const int fd = open(path, O_RDWR);
    const uint8_t bad = 0x5a;
    CHECK_OK(fg_io_pwrite(fd, &bad, 1, (5 << 20) + 77, path, &err), &err);
    (void)close(fd);
    (void)snprintf(args, sizeof args, "%s --verify", path);
    CHECK(fg_read(args) != 0);
    (void)snprintf(args, sizeof args, "%s --verify --chunks 1", path); /* samples chunk 0 alone */
    CHECK(fg_read(args) == 0);
}

static void check_second_reader(const char *path, const char *out, const fg_model_file *f,
                                const fg_tensor *t)
{
    char name[96], args[512], *got = NULL;
    uint64_t n;
    size_t got_n;
    fg_err err = {0};
    fg_role_name((fg_role)t->role, t->layer, t->expert, name);
    (void)snprintf(args, sizeof args, "%s --tensor %s --out %s", path, name, out);
    CHECK(fg_read(args) == 0);
    float *want = decode_tensor(f, t, &n);
    CHECK_OK(fg_io_read_all(out, 1 << 26, &got, &got_n, &err), &err);
    CHECK_U64(got_n, n * sizeof *want);
    if (got_n != n * sizeof *want || memcmp(got, want, got_n) != 0) {
        fg_test_fail(__FILE__, __LINE__, "%s (%s) differs", name, fg_qtype_get(t->type)->name);
    }
    fg_mem_free(want);
    fg_mem_free(got);
}

static fg_tensor_choice choose_one(void *ctx, fg_role role, uint32_t layer, uint32_t expert)
{
    (void)role, (void)layer, (void)expert;
    return (fg_tensor_choice){.type = *(const fg_qtype *)ctx, .lut = fg_lut_grid6};
}

FG_TEST(second_reader_decodes_the_same_bits)
{
    if (!have_python()) return;
    const char *path = fg_test_tmp("a.fulgur"), *out = fg_test_tmp("t.f32");
    fg_err err = {0};
    for (size_t i = 0; i < sizeof all_types / sizeof all_types[0] && !fg_test_failed(); i++) {
        fg_qtype type = all_types[i];
        fg_model_file *f = NULL;
        REQUIRE_OK(sample_write_as(path, 3, choose_one, &type, NULL, &err), &err);
        REQUIRE_OK(fg_model_file_open(&f, path, &err), &err);
        const fg_tensor *t = fg_model_file_find(f, FG_ROLE_LIGHT_OUT, 0, FG_NO_LAYER);
        CHECK(t->type == (uint32_t)type);
        check_second_reader(path, out, f, t);
        const fg_tensor *vector = fg_model_file_find(f, FG_ROLE_LIGHT_NORM, 0, FG_NO_LAYER);
        if (i == 0) check_second_reader(path, out, f, vector);
        fg_model_file_close(&f);
    }
}

/* FORMAT.md shows a q4 superblock in hex and what it means; this reads both from there. */
FG_TEST(worked_example_of_the_document)
{
    static uint8_t block[1088];
    static float w[16 * 128], scale[16];
    char *text = NULL;
    size_t n;
    fg_err err = {0};
    int n_line = 0, n_value = 0;
    REQUIRE_OK(fg_io_read_all("src/format/FORMAT.md", 1 << 20, &text, &n, &err), &err);
    for (int pass = 0; pass < 2; pass++) {
        for (const char *p = text; p != NULL && *p != '\0'; p = strchr(p, '\n'), p += p != NULL) {
            unsigned line, byte, x[4], row, k;
            float v;
            if (pass == 0 && sscanf(p, "line %u, byte %u: %x %x %x %x", &line, &byte, &x[0], &x[1],
                                    &x[2], &x[3]) == 6) {
                for (unsigned i = 0; line < 17 && byte < 61 && i < 4; i++) {
                    block[64 * line + byte + i] = (uint8_t)x[i];
                }
                n_line++;
            } else if (pass == 0 && sscanf(p, "row scale %u: %f", &row, &v) == 2 && row < 16) {
                scale[row] = v;
            } else if (pass == 1 && sscanf(p, "W[%u][%u] = %f", &row, &k, &v) == 3 && row < 16) {
                if (w[row * 128 + k] != v) {
                    fg_test_fail(__FILE__, __LINE__, "W[%u][%u] = %g, FORMAT.md says %g", row, k,
                                 (double)w[row * 128 + k], (double)v);
                }
                w[row * 128 + k] = 0.0f;
                n_value++;
            }
        }
        if (pass == 0) fg_panel_decode(FG_TYPE_Q4, &fg_lut_linear, block, scale, 128, w);
    }
    CHECK(n_line == 9 && n_value == 5);
    for (int i = 0; i < 16 * 128; i++)
        CHECK(w[i] == 0.0f); /* the document says: all others are 0 */
    fg_mem_free(text);
}

/* --- the writer when things go wrong --- */

FG_TEST(part_is_locked)
{
    const char *path = fg_test_tmp("l.fulgur"), *part = fg_test_tmp("l.fulgur.part");
    fg_writer *w = NULL;
    fg_err err = {0};
    const int fd = open(part, O_RDWR | O_CREAT, 0600);
    REQUIRE(fd >= 0 && flock(fd, LOCK_EX) == 0 && write(fd, "busy", 4) == 4);
    REQUIRE_OK(sample_writer(&w, path, (fg_file_spec){0}, NULL, &err), &err);
    CHECK(fg_writer_begin(w, &err) == FG_EIO);
    CHECK(strstr(err.msg, "another process") != NULL);
    char *text = NULL;
    size_t n;
    CHECK(fg_io_read_all(part, 100, &text, &n, &err) == FG_OK && n == 4); /* left alone */
    fg_mem_free(text);
    CHECK(fg_writer_begin(w, &err) == FG_EIO);
    CHECK(flock(fd, LOCK_UN) == 0 && fg_writer_begin(w, &err) == FG_EINVAL); /* not a writer's */
    fg_writer_destroy(&w);
    REQUIRE_OK(sample_writer(&w, path, (fg_file_spec){0}, NULL, &err), &err);
    CHECK(pwrite(fd, fg_unfinished_mark, 8, 0) == 8 && close(fd) == 0);
    CHECK_OK(fg_writer_begin(w, &err), &err); /* a leftover is taken over */
    CHECK(fg_io_exists(part));
    fg_writer_destroy(&w);
    CHECK(!fg_io_exists(part)); /* and removed when unfinished */
    CHECK(!fg_io_exists(path));
}

/* Another file takes a name that the writer uses: that file stays, and is never the model. */
FG_TEST(names_that_others_take_meanwhile)
{
    enum { PART, OUT, NOBODY, WAYS };
    for (int way = 0; way < WAYS; way++) {
        const char *path = fg_test_tmp("taken.fulgur"), *part = fg_test_tmp("taken.fulgur.part"),
                   *other = fg_test_tmp("other");
        fg_writer *w = NULL;
        fg_model_file *f = NULL;
        fg_err err = {0};
        REQUIRE_OK(sample_writer(&w, path, (fg_file_spec){0}, NULL, &err), &err);
        uint8_t *data = sample_data(w, 1);
        REQUIRE_OK(fg_writer_begin(w, &err), &err);
        REQUIRE_OK(sample_stream(w, data, 2, &err), &err);
        REQUIRE_OK(fg_writer_checkpoint(w, NULL, 0, &err), &err);
        CHECK(fg_model_file_open(&f, part, &err) == FG_EFORMAT);
        CHECK(strstr(err.msg, "unfinished") != NULL);
        fg_test_put(other, "mine");
        if (way != NOBODY) REQUIRE(rename(other, way == PART ? part : path) == 0);
        const fg_status st = fg_writer_finish(w, &err);
        CHECK(st == (way == PART ? FG_EIO : way == OUT ? FG_EINVAL : FG_OK));
        if (way == PART) CHECK(strstr(err.msg, "another file") != NULL && !fg_io_exists(path));
        fg_writer_destroy(&w);
        CHECK(way == NOBODY || fg_test_has(way == PART ? part : path, "mine"));
        (void)remove(part);
        (void)remove(path);
        fg_mem_free(data);
    }
}

FG_TEST(bad_places_are_refused)
{
    const fg_file_spec spec = {0};
    fg_writer *w = NULL;
    fg_err err = {0};
    REQUIRE_OK(sample_writer(&w, fg_test_tmp("no/such/x.fulgur"), spec, NULL, &err), &err);
    CHECK(fg_writer_begin(w, &err) == FG_EIO);
    CHECK(strstr(err.msg, "No such file") != NULL);
    fg_writer_destroy(&w);
    fg_writer_destroy(&w);
    if (geteuid() == 0) return; /* root writes everywhere */
    REQUIRE_OK(sample_writer(&w, "/proc/x.fulgur", spec, NULL, &err), &err);
    CHECK(fg_writer_begin(w, &err) == FG_EIO);
    fg_writer_destroy(&w);
}

static fg_tensor_choice choose_f32(void *ctx, fg_role role, uint32_t layer, uint32_t expert)
{
    (void)ctx, (void)role, (void)layer, (void)expert;
    return (fg_tensor_choice){.type = FG_TYPE_F32};
}

static fg_tensor_choice choose_bad(void *ctx, fg_role role, uint32_t layer, uint32_t expert)
{
    (void)role, (void)layer, (void)expert;
    return (fg_tensor_choice){.type = *(const fg_qtype *)ctx}; /* a zero table is no q4 table */
}

FG_TEST(a_full_disk_is_known_before)
{
    fg_shape s = m1_shape();
    s.n_expert = 1024; /* 56 TB of f32 */
    const fg_file_spec spec = {.shape = &s, .choose = choose_f32};
    fg_writer *w = NULL;
    fg_err err = {0};
    const char *path = fg_test_tmp("big.fulgur"), *part = fg_test_tmp("big.fulgur.part");
    REQUIRE_OK(sample_writer(&w, path, spec, NULL, &err), &err);
    CHECK(fg_file_plan_file_bytes(fg_writer_plan(w)) > (uint64_t)50 << 40);
    CHECK(fg_writer_begin(w, &err) == FG_EIO);
    CHECK(strstr(err.msg, "free") != NULL);
    fg_writer_destroy(&w);
    CHECK(!fg_io_exists(part));
    /* and what no file can hold is refused by the plan */
    s.d_model = s.d_ff = FG_MAX_D;
    CHECK(sample_writer(&w, path, spec, NULL, &err) == FG_ELIMIT && w == NULL);
}

/* One entry of metadata, or the same twice. */
static fg_status plan_meta(const char *key, size_t n, fg_err *err)
{
    const fg_shape s = sample_shape();
    const fg_meta meta[] = {{key, "x", 1}, {"between", "x", 1}, {key, "x", 1}};
    const fg_file_spec spec = {
        .shape = &s, .choose = sample_choose, .meta = meta, .n_meta = 2 * n - 1};
    fg_file_plan *p;
    const fg_status st = fg_file_plan_make(&p, &spec, "sample", err);
    CHECK((p == NULL) == (st != FG_OK));
    fg_file_plan_destroy(&p);
    return st;
}

FG_TEST(bad_plans_are_refused)
{
    fg_shape s = sample_shape();
    fg_file_plan *p;
    fg_err err = {0};
    fg_qtype bad = (fg_qtype)3;
    fg_file_spec spec = {.shape = &s, .choose = sample_choose};
    char key[257];
    memset(key, 'k', sizeof key);
    key[256] = '\0';
    s.n_layer = 0;
    CHECK(fg_file_plan_make(&p, &spec, "sample", &err) == FG_ESHAPE && p == NULL);
    s.n_layer = 3;
    CHECK(plan_meta("", 1, &err) == FG_EINVAL);
    CHECK(plan_meta(key, 1, &err) == FG_EINVAL);
    CHECK(plan_meta("a\nb", 1, &err) == FG_EINVAL);
    CHECK_OK(plan_meta(key + 1, 1, &err), &err); /* 255 bytes */
    CHECK(plan_meta(key + 1, 2, &err) == FG_EINVAL);
    CHECK(plan_meta("late", 2, &err) == FG_EINVAL && strstr(err.msg, "late twice") != NULL);
    const fg_meta vast[] = {{"a", NULL, (uint64_t)1 << 59}, {"b", NULL, UINT64_MAX}};
    spec.meta = vast;
    spec.n_meta = 2;
    CHECK(fg_file_plan_make(&p, &spec, "sample", &err) == FG_ELIMIT);
    spec.n_meta = FG_MAX_META + 1;
    CHECK(fg_file_plan_make(&p, &spec, "sample", &err) == FG_ELIMIT);
    spec.n_meta = 0;
    spec.choose = choose_bad;
    spec.ctx = &bad;
    CHECK(fg_file_plan_make(&p, &spec, "sample", &err) == FG_EINVAL);
    bad = FG_TYPE_Q4;
    CHECK(fg_file_plan_make(&p, &spec, "sample", &err) == FG_EINVAL);
    bad = FG_TYPE_Q8; /* the control: it was the type */
    CHECK_OK(fg_file_plan_make(&p, &spec, "sample", &err), &err);
    fg_file_plan_destroy(&p);
}

FG_TEST(misuse_is_an_error)
{
    const char *path = fg_test_tmp("u.fulgur");
    const fg_shape shape = sample_shape();
    const fg_meta meta[] = {{"kk", "x", 1}, {"other", "x", 1}};
    const fg_file_spec spec = {.shape = &shape, .choose = sample_choose, .meta = meta, .n_meta = 1};
    fg_file_plan *plan;
    fg_writer *w = NULL;
    fg_err err = {0};
    REQUIRE_OK(fg_file_plan_make(&plan, &spec, path, &err), &err);
    /* entries must be those of the plan */
    CHECK(fg_writer_create(&w, path, plan, meta, 0, NULL, &err) == FG_EINVAL && w == NULL);
    CHECK(fg_writer_create(&w, path, plan, meta, 2, NULL, &err) == FG_EINVAL && w == NULL);
    CHECK(fg_writer_create(&w, path, plan, meta + 1, 1, NULL, &err) == FG_EINVAL && w == NULL);
    REQUIRE_OK(fg_writer_create(&w, path, plan, meta, 1, NULL, &err), &err);
    fg_file_plan_destroy(&plan); /* the writer has its own */
    CHECK(fg_writer_set_meta(w, "none", "x", 1, &err) == FG_EINVAL);
    CHECK(fg_writer_set_meta(w, "kk", "xy", 2, &err) == FG_EINVAL);
    CHECK(fg_writer_write(w, "x", 1, &err) == FG_EINVAL);
    CHECK_OK(fg_writer_begin(w, &err), &err);
    CHECK(fg_writer_finish(w, &err) == FG_EINVAL); /* no data yet */
    CHECK(fg_writer_pad(w, 0, &err) == FG_EINVAL);
    CHECK(fg_writer_pad(w, UINT64_MAX, &err) != FG_OK);
    CHECK(fg_writer_finish(w, &err) == FG_EINVAL || !fg_io_exists(path));
    fg_writer_destroy(&w);
    CHECK(!fg_io_exists(path) && !fg_io_exists(fg_test_tmp("u.fulgur.part")));
}

/* A limit on the file size stands in for a full disk: the same path through pwrite. */
FG_TEST(write_errors_leave_nothing)
{
    const char *path = fg_test_tmp("e.fulgur"), *part = fg_test_tmp("e.fulgur.part");
    struct rlimit old, small;
    fg_err err = {0};
    fg_model_file *f = NULL;
    uint64_t size = 0;
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    if (fg_model_file_open(&f, path, &err) == FG_OK) size = fg_model_file_size(f);
    fg_model_file_close(&f);
    REQUIRE(size > 3 << 20 && unlink(path) == 0 && getrlimit(RLIMIT_FSIZE, &old) == 0);
    (void)signal(SIGXFSZ, SIG_IGN);
    const uint64_t limits[] = {0, 4096, 3 << 20, size - 8000, size - 1};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        small = old;
        small.rlim_cur = limits[i];
        err = (fg_err){0};
        CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
        const fg_status st = sample_write(path, 1, NULL, &err);
        CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
        CHECK_U64((unsigned)-st, (unsigned)-FG_EIO);
        CHECK(strstr(err.msg, "File too large") != NULL && strstr(err.msg, part) != NULL);
        CHECK(!fg_io_exists(part) && !fg_io_exists(path));
    }
    CHECK_OK(sample_write(path, 1, NULL, &err), &err);
}

FG_TEST(an_old_file_survives_a_failed_write)
{
    const char *path = fg_test_tmp("s.fulgur");
    struct rlimit old, small;
    fg_err err = {0};
    fg_model_file *f = NULL;
    REQUIRE(sample_write(path, 1, NULL, &err) == FG_OK && getrlimit(RLIMIT_FSIZE, &old) == 0);
    (void)signal(SIGXFSZ, SIG_IGN);
    small = old;
    small.rlim_cur = 5 << 20;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK(sample_write(path, 2, NULL, &err) == FG_EIO);
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    CHECK_OK(fg_model_file_open(&f, path, &err), &err);
    if (f != NULL) CHECK_OK(fg_model_file_verify(f, NULL, NULL, &err), &err);
    fg_model_file_close(&f);
}

FG_TEST(allocation_failures_on_write)
{
    const char *path = fg_test_tmp("n.fulgur"), *part = fg_test_tmp("n.fulgur.part");
    fg_err err = {0};
    uint64_t n = 1;
    for (;; n++) {
        err = (fg_err){0};
        fg_mem_fail_after(n);
        const fg_status st = sample_write(path, 1, NULL, &err);
        fg_mem_fail_after(0);
        if (st == FG_OK) break;
        CHECK_U64((unsigned)-st, (unsigned)-FG_ENOMEM);
        CHECK(err.msg[0] != '\0');
        CHECK(!fg_io_exists(part));
        if (fg_io_exists(path)) (void)unlink(path); /* only the sync of the folder failed */
        if (n > 1000 || fg_test_failed()) break;
    }
    CHECK(n > 15 && n < 1000); /* it did fail that often before it succeeded */
}

FG_TEST(allocation_failures_on_open_and_verify)
{
    const char *path = fg_test_tmp("o.fulgur");
    fg_err err = {0};
    uint64_t n = 1;
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    for (;; n++) {
        fg_model_file *f = NULL;
        err = (fg_err){0};
        fg_mem_fail_after(n);
        fg_status st = fg_model_file_open(&f, path, &err);
        if (st == FG_OK) st = fg_model_file_verify(f, NULL, NULL, &err);
        fg_mem_fail_after(0);
        fg_model_file_close(&f);
        if (st == FG_OK) break;
        CHECK_U64((unsigned)-st, (unsigned)-FG_ENOMEM);
        CHECK(strstr(err.msg, "memory") != NULL);
        if (n > 100) break;
    }
    CHECK(n > 9 && n < 100);
}
