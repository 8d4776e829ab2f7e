/* SPDX-License-Identifier: MIT
 *
 * The rotated flag of a tensor record (FORMAT.md 6.2): stored, read, refused where it has no
 * meaning, and kept from old readers by the read version.  What the document says of the rotation
 * itself is checked by the second reader, which turns a matrix back from the document alone.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/hadamard.h"
#include "quant/panel.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/format/reader.h"
#include "tests/fg_test.h"
#include "tests/format/sample.h"

enum { SLOT_BYTES = 4096, RECORD = 96, FLAGS = 80 };

/* Roles of a mask are rotated; every matrix has the type. */
typedef struct plan {
    fg_qtype type;
    uint32_t roles;
} plan;

#define ROLE(r) ((uint32_t)1 << (r))
static const uint32_t every_role = (ROLE(FG_ROLE_COUNT) - 1) & ~ROLE(FG_ROLE_EMBED);

static fg_tensor_choice choose(void *ctx, fg_role role, uint32_t layer, uint32_t expert)
{
    const plan *p = ctx;
    (void)layer;
    (void)expert;
    return (fg_tensor_choice){
        .type = p->type,
        .lut = fg_lut_grid6,
        .rotate = (p->roles & ROLE(role)) != 0,
    };
}

/* Like the sample, but of whole blocks. */
static fg_shape block_shape(void)
{
    fg_shape s = sample_shape();
    s.d_model = 128;
    s.d_head = 64;
    s.d_ff = 256;
    return s;
}

/* W of lm_head, [n_vocab][128], and its panels at their place in the data region. */
static float *put_head(const fg_writer *w, uint8_t *data)
{
    const fg_tensor *t =
        fg_file_plan_tensor(fg_writer_plan(w), fg_file_plan_n_tensor(fg_writer_plan(w)) - 1);
    const uint64_t base = fg_file_plan_data_offset(fg_writer_plan(w));
    float *weights = fg_mem_zalloc((size_t)(16 * fg_n_panel(t->n_row) * 128) * sizeof *weights);
    fg_rng r;
    fg_rng_init(&r, 5);
    for (uint64_t i = 0; i < t->n_row * 128; i++) weights[i] = sample_float(&r);
    for (uint64_t p = 0; p < fg_n_panel(t->n_row); p++) {
        float panel[16 * 128], scale[16];
        memcpy(panel, weights + p * 16 * 128, sizeof panel);
        if (t->rotated) fg_hadamard_rotate(panel, 16 * 128);
        fg_panel_encode((fg_qtype)t->type, &t->lut, panel, 128,
                        data + (t->offset - base) + p * t->panel_stride, scale, NULL);
        memcpy(data + (t->scale_offset - base) + 64 * p, scale, sizeof scale);
    }
    return weights;
}

/* *head, where asked for, is W of lm_head; freed with fg_mem_free. */
static fg_status write_file(const char *path, plan p, float **head, fg_err *err)
{
    const fg_shape shape = block_shape();
    fg_writer *w = NULL;
    uint8_t *data = NULL;
    const fg_file_spec spec = {.shape = &shape, .choose = choose, .ctx = &p};
    fg_status st = sample_writer(&w, path, spec, NULL, err);
    if (st == FG_OK && (data = sample_data(w, 1)) == NULL) st = fg_fail_nomem(err, path);
    if (st == FG_OK && head != NULL) *head = put_head(w, data);
    if (st == FG_OK) st = fg_writer_begin(w, err);
    if (st == FG_OK) st = sample_stream(w, data, 1, err);
    if (st == FG_OK) st = fg_writer_finish(w, err);
    fg_writer_destroy(&w);
    fg_mem_free(data);
    return st;
}

static uint32_t version_of(const char *path)
{
    char *bytes = NULL;
    size_t n = 0;
    fg_err err;
    uint32_t v = 0;
    if (fg_io_read_all(path, 1 << 30, &bytes, &n, &err) == FG_OK) memcpy(&v, bytes + 8, sizeof v);
    fg_mem_free(bytes);
    return v;
}

FG_TEST(flag_and_version_round_trip)
{
    static const uint32_t masks[] = {0, ROLE(FG_ROLE_EXPERT_DOWN),
                                     ROLE(FG_ROLE_EXPERT_GATE) | ROLE(FG_ROLE_EXPERT_UP)};
    const char *path = fg_test_tmp("r.fulgur");
    for (size_t i = 0; i < 4; i++) {
        const uint32_t roles = i == 3 ? every_role : masks[i];
        fg_err err = {0};
        fg_model_file *f = NULL;
        REQUIRE_OK(write_file(path, (plan){FG_TYPE_Q4, roles}, NULL, &err), &err);
        REQUIRE_OK(fg_model_file_open(&f, path, &err), &err);
        CHECK_U64(version_of(path), roles == 0 ? 1 : 2);
        for (uint64_t k = 0; k < fg_model_file_n_tensor(f); k++) {
            const fg_tensor *t = fg_model_file_tensor(f, k);
            const bool fixed = fg_role_is_vector((fg_role)t->role) || t->role == FG_ROLE_ROUTER;
            CHECK(t->rotated == (!fixed && (roles & ROLE(t->role)) != 0));
        }
        fg_model_file_close(&f);
    }
}

FG_TEST(writer_refuses_what_cannot_be_rotated)
{
    static const struct {
        plan p;
        const char *name;
    } bad[] = {
        {{FG_TYPE_Q4, ROLE(FG_ROLE_EMBED)}, "model.embed_tokens.weight"},
        {{FG_TYPE_BF16, ROLE(FG_ROLE_LM_HEAD)}, "lm_head.weight"},
        {{FG_TYPE_F32, ROLE(FG_ROLE_EXPERT_DOWN)}, "model.layers.0.block_sparse_moe.experts.0.w2"},
        {{FG_TYPE_Q8, ROLE(FG_ROLE_EXPERT_GATE)}, "model.layers.0.block_sparse_moe.experts.0.w3"},
        {{FG_TYPE_Q8, ROLE(FG_ROLE_EXPERT_UP)}, "model.layers.0.block_sparse_moe.experts.0.w3"},
    };
    const char *path = fg_test_tmp("r.fulgur");
    fg_err err = {0};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(write_file(path, bad[i].p, NULL, &err) == FG_EINVAL);
        CHECK(strstr(err.msg, bad[i].name) != NULL && strstr(err.msg, ", expected ") != NULL);
    }
    /* 64 columns */
    const fg_shape narrow = sample_shape();
    fg_file_plan *none;
    plan p = {FG_TYPE_Q4, ROLE(FG_ROLE_LM_HEAD)};
    const fg_file_spec spec = {.shape = &narrow, .choose = choose, .ctx = &p};
    CHECK(fg_file_plan_make(&none, &spec, path, &err) == FG_EINVAL && none == NULL);
    CHECK(strstr(err.msg, "64 columns of q4") != NULL);
}

static void put_u64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(v >> (8 * i));
}

/* Writes the file with byte `at` of tensor record idx (counted from the last if negative), or, for
 * FIELD_VERSION, of the slot, set to v, all hashes right; opens it. */
enum { FIELD_VERSION = -1 };
static char bent[256];
static fg_status open_bent(const char *path, int64_t idx, int at, uint8_t v, fg_err *err)
{
    (void)snprintf(bent, sizeof bent, "%s/bent.fulgur", fg_test_tmpdir());
    char *text = NULL;
    size_t n = 0;
    FG_TRY(fg_io_read_all(path, 1 << 30, &text, &n, err));
    uint8_t *b = (uint8_t *)text;
    uint64_t dir, bytes;
    memcpy(&dir, b + 32, 8);
    memcpy(&bytes, b + 40, 8);
    const fg_shape shape = block_shape();
    const uint64_t n_tensor = 3 + shape.n_layer * (7 + 3 * (uint64_t)shape.n_expert);
    uint8_t *records = b + dir + bytes - RECORD * n_tensor;
    if (at == FIELD_VERSION) {
        b[8] = v;
    } else {
        records[RECORD * (idx < 0 ? n_tensor - (uint64_t)-idx : (uint64_t)idx) + (size_t)at] = v;
    }
    put_u64(b + 48, fg_hash64(b + dir, (size_t)bytes));
    put_u64(b + SLOT_BYTES - 8, fg_hash64(b, SLOT_BYTES - 8));
    FILE *out = fopen(bent, "wb");
    const bool ok = out != NULL && fwrite(b, 1, n, out) == n;
    if (out != NULL) (void)fclose(out);
    fg_mem_free(text);
    if (!ok) return fg_fail(err, FG_EIO, "bent.fulgur");
    fg_model_file *f = NULL;
    const fg_status st = fg_model_file_open(&f, bent, err);
    fg_model_file_close(&f);
    return st;
}

FG_TEST(reader_refuses_what_has_no_meaning)
{
    const char *path = fg_test_tmp("r.fulgur");
    fg_err err = {0};
    enum { GATE0 = 1 + 7, UP0 = GATE0 + 1, ROUTER0 = 7 };
    REQUIRE_OK(write_file(path, (plan){FG_TYPE_Q6, every_role}, NULL, &err), &err);
    CHECK_OK(open_bent(path, -1, FLAGS, 1, &err), &err); /* what it was: the bending is sound */
    CHECK_OK(open_bent(path, -1, FLAGS, 0, &err), &err);
    CHECK(open_bent(path, -1, FLAGS, 3, &err) == FG_EFORMAT);
    CHECK(open_bent(path, -1, FLAGS + 3, 0x80, &err) == FG_EFORMAT);
    CHECK(open_bent(path, -1, FLAGS + 4, 1, &err) == FG_EFORMAT); /* reserved */
    CHECK(open_bent(path, -1, FLAGS + 7, 1, &err) == FG_EFORMAT);
    CHECK(open_bent(path, 0, FLAGS, 1, &err) == FG_EFORMAT);  /* embedding */
    CHECK(open_bent(path, -2, FLAGS, 1, &err) == FG_EFORMAT); /* final norm */
    CHECK(open_bent(path, ROUTER0, FLAGS, 1, &err) == FG_EFORMAT);
    CHECK(open_bent(path, GATE0, FLAGS, 0, &err) == FG_EFORMAT);
    CHECK(strstr(err.msg, "w3.weight is rotated and its gate is not") != NULL);
    CHECK(open_bent(path, UP0, FLAGS, 0, &err) == FG_EFORMAT);
    CHECK_OK(open_bent(path, UP0 + 1, FLAGS, 0, &err), &err); /* down is its own */
    CHECK(open_bent(path, 0, FIELD_VERSION, 1, &err) == FG_EFORMAT);
    CHECK(strstr(err.msg, "read version 1") != NULL);
    REQUIRE_OK(write_file(path, (plan){FG_TYPE_Q6, 0}, NULL, &err), &err);
    CHECK_OK(open_bent(path, 0, FIELD_VERSION, 2, &err), &err); /* more than needed is allowed */
    REQUIRE_OK(write_file(path, (plan){FG_TYPE_BF16, 0}, NULL, &err), &err);
    CHECK_OK(open_bent(path, 0, FIELD_VERSION, 2, &err), &err);
    CHECK(open_bent(path, -1, FLAGS, 1, &err) == FG_EFORMAT);
}

/* Relative distance of the file's floats from want[n]. */
static double distance(const char *path, const float *want, size_t n)
{
    char *bytes = NULL;
    size_t size = 0;
    fg_err err;
    double d2 = 0.0, w2 = 0.0;
    if (fg_io_read_all(path, 1 << 30, &bytes, &size, &err) != FG_OK || size != n * sizeof *want) {
        return (double)INFINITY;
    }
    for (size_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, bytes + i * sizeof x, sizeof x);
        d2 += ((double)x - (double)want[i]) * ((double)x - (double)want[i]);
        w2 += (double)want[i] * (double)want[i];
    }
    fg_mem_free(bytes);
    return sqrt(d2 / w2);
}

static int second_reader(const char *path, const char *options)
{
    char cmd[1024];
    (void)snprintf(cmd, sizeof cmd, "python3 -B scripts/fg_read.py %s %s >/dev/null 2>&1", path,
                   options);
    return system(cmd);
}

FG_TEST(second_reader_turns_back)
{
    if (system("python3 -c '' >/dev/null 2>&1") != 0) {
        fg_test_skip("python3 is absent");
        return;
    }
    const char *path = fg_test_tmp("r.fulgur"), *out = fg_test_tmp("head.f32");
    char options[512];
    fg_err err = {0};
    float *head = NULL;
    REQUIRE_OK(write_file(path, (plan){FG_TYPE_Q8, every_role}, &head, &err), &err);
    const size_t n = (size_t)block_shape().n_vocab * 128;
    CHECK(second_reader(path, "--verify") == 0);
    (void)snprintf(options, sizeof options, "--tensor lm_head.weight --out %s --unrotate", out);
    CHECK(second_reader(path, options) == 0);
    CHECK(distance(out, head, n) < 0.01); /* q8 errs by 0.4 % */
    /* control: as stored it is another matrix */
    (void)snprintf(options, sizeof options, "--tensor lm_head.weight --out %s", out);
    CHECK(second_reader(path, options) == 0);
    CHECK(distance(out, head, n) > 1.0);
    fg_mem_free(head);
    /* it refuses what the C reader refuses */
    CHECK(open_bent(path, 0, FLAGS, 1, &err) == FG_EFORMAT);
    CHECK(second_reader(bent, "--list") != 0);
    CHECK(open_bent(path, 8, FLAGS, 0, &err) == FG_EFORMAT);
    CHECK(second_reader(bent, "--list") != 0);
    CHECK(open_bent(path, 0, FIELD_VERSION, 1, &err) == FG_EFORMAT);
    CHECK(second_reader(bent, "--list") != 0);
}
