/* SPDX-License-Identifier: MIT
 *
 * Models with rotated matrices (FORMAT.md 6.2), end to end: the same network to within rounding,
 * the same bits however they are computed, no cost where no matrix is rotated; and that rotation
 * does what it is for, on matrices with planted outliers.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/convert.h"
#include "quant/hadamard.h"
#include "quant/panel.h"
#include "simd/kernels.h"
#include "src/base/hash.h"
#include "src/base/rng.h"
#include "src/model/forward.h"
#include "src/sys/cpu.h"
#include "tests/fg_test.h"
#include "tests/models.h"
#include "src/engine/session.h"

enum { N_TOK = 130 };

/* Recipes behind the built-in one of the type.  `mixed`: of what reads one input some is rotated
 * and some not: qkv and its gate, experts of one layer, layers, types. */
static const char all_q8[] = "*_proj.weight q8+h\n*.output_gate.weight q8+h\n"
                             "*.experts.*.weight q8+h\nlm_head.weight q8+h\n";
static const char mixed_q4[] = "*.qkv_proj.weight q6+h\n*.k_proj.weight q5+h\n"
                               "*.[1357].self_attn.out_proj.weight q4lin+h\n"
                               "*.experts.[0-9].w[13].weight q4+h\n*.experts.1?.w2.weight q4lin+h\n"
                               "*.experts.2?.w[13].weight bf16\n*.layers.2.*.w2.weight q4+h\n";

/* Path of nano converted so; made once. */
static const char *convert(const char *name, const char *type, const char *recipe)
{
    static char path[4][256];
    static int turn;
    char *out = path[turn = (turn + 1) % 4], text[300];
    (void)snprintf(out, sizeof path[0], "%s/%s.fulgur", fg_test_tmpdir(), name);
    if (access(out, R_OK) == 0) return out;
    (void)snprintf(text, sizeof text, "%s.recipe", out);
    FILE *f = fopen(text, "w");
    if (f == NULL || fputs(recipe, f) < 0 || fclose(f) != 0) abort();
    const fg_convert_opts o = {
        .src_dir = NANO_DIR, .out_path = out, .type = type, .recipe_path = text};
    fg_err err = {0};
    if (fg_convert(&o, NULL, &err) == FG_OK) return out;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return NULL;
}

/* Logits of N_TOK tokens, [N_TOK][n_vocab], malloc'ed. */
static float *logits_of(const char *path, uint32_t n_thread, const char *cpu, uint32_t n_batch,
                        size_t step, size_t *n_float)
{
    fg_engine_opts o = fg_engine_opts_default();
    fg_engine *e = NULL;
    fg_err err = {0};
    float *logits = NULL;
    uint32_t ids[N_TOK];
    fg_rng r;
    o.n_thread = n_thread;
    o.cpu = model_level(cpu);
    if (path == NULL || fg_engine_open(&e, path, &o, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        return NULL;
    }
    const uint32_t n_vocab = fg_engine_shape(e)->n_vocab;
    fg_rng_init(&r, 7);
    for (size_t i = 0; i < N_TOK; i++) ids[i] = (uint32_t)(fg_rng_u64(&r) % n_vocab);
    fg_session *s = model_session(e, N_TOK, n_batch);
    if (s != NULL) logits = model_logits(s, e, ids, N_TOK, step);
    fg_session_destroy(&s);
    fg_engine_close(&e);
    *n_float = (size_t)N_TOK * n_vocab;
    return logits;
}

static uint64_t hash(const char *path, uint32_t n_thread, const char *cpu, uint32_t n_batch,
                     size_t step)
{
    size_t n;
    float *logits = logits_of(path, n_thread, cpu, n_batch, step, &n);
    const uint64_t h = logits == NULL ? 0 : fg_hash64(logits, n * sizeof *logits);
    free(logits);
    return h;
}

static void check_all(const char *path)
{
    const uint64_t want = hash(path, 1, NULL, 512, 0);
    CHECK(want != 0);
    CHECK(hash(path, 2, NULL, 512, 0) == want);
    CHECK(hash(path, 3, NULL, 33, 0) == want);
    CHECK(hash(path, 2, NULL, 512, 17) == want);
    CHECK(hash(path, 2, NULL, 512, 1) == want); /* decode */
    CHECK(hash(path, 1, NULL, 1, 0) == want);
    for (uint32_t i = FG_CPU_LEVEL_SCALAR; i < FG_CPU_LEVEL_COUNT; i++) {
        uint32_t flags;
        if (fg_cpu_level_flags((fg_cpu_level)i, &flags, NULL) != FG_OK) continue;
        CHECK(hash(path, 2, fg_cpu_level_name((fg_cpu_level)i), 512, 0) == want);
    }
}

FG_TEST(same_bits_all_rotated)
{
    check_all(convert("all", "q8", all_q8));
}

FG_TEST(same_bits_mixed)
{
    check_all(convert("mixed", "q4", mixed_q4));
}

/* Relative distance of a file's logits from those of the f32 file. */
static double distance(const char *path)
{
    size_t n = 0;
    float *a = logits_of(path, 2, NULL, 512, 0, &n);
    float *b = logits_of(model_file(NANO_DIR, "f32"), 2, NULL, 512, 0, &n);
    double d2 = 0.0, b2 = 0.0;
    for (size_t i = 0; a != NULL && b != NULL && i < n; i++) {
        const double d = (double)a[i] - (double)b[i];
        d2 += d * d;
        b2 += (double)b[i] * (double)b[i];
    }
    free(a);
    free(b);
    return b2 > 0.0 ? sqrt(d2 / b2) : (double)INFINITY;
}

/* A copy of the file in which no matrix is marked as rotated, all hashes right. */
static const char *without_flags(const char *path)
{
    enum { RECORD = 96, FLAGS = 80, SLOT = 4096 };
    const char *out = fg_test_tmp("unmarked.fulgur");
    FILE *f = fopen(path, "rb");
    if (f == NULL || fseek(f, 0, SEEK_END) != 0) abort();
    const size_t n = (size_t)ftell(f);
    uint8_t *b = malloc(n);
    rewind(f);
    if (b == NULL || fread(b, 1, n, f) != n) abort();
    (void)fclose(f);
    uint64_t dir, bytes, n_tensor;
    memcpy(&dir, b + 32, 8);
    memcpy(&bytes, b + 40, 8);
    memcpy(&n_tensor, b + dir + 136, 8);
    for (uint64_t i = 1; i <= n_tensor; i++) b[dir + bytes - RECORD * i + FLAGS] = 0;
    const uint64_t dir_hash = fg_hash64(b + dir, (size_t)bytes);
    memcpy(b + 48, &dir_hash, 8);
    const uint64_t slot_hash = fg_hash64(b, SLOT - 8);
    memcpy(b + SLOT - 8, &slot_hash, 8);
    f = fopen(out, "wb");
    if (f == NULL || fwrite(b, 1, n, f) != n || fclose(f) != 0) abort();
    free(b);
    return out;
}

FG_TEST(a_rotated_model_is_the_same_network)
{
    const char *all = convert("all", "q8", all_q8);
    const double off_q8 = distance(model_file(NANO_DIR, "q8")), off_all = distance(all);
    const double off_q4 = distance(model_file(NANO_DIR, "q4"));
    const double off_mixed = distance(convert("mixed", "q4", mixed_q4));
    const double off_unmarked = distance(without_flags(all));
    printf("  logits off f32: q8 %.4f, rotated %.4f; q4 %.4f, mixed %.4f; flags lost %.3f\n",
           off_q8, off_all, off_q4, off_mixed, off_unmarked);
    CHECK(off_all < 1.3 * off_q8);
    CHECK(off_mixed < 1.3 * off_q4);
    CHECK(off_unmarked > 0.5); /* control: the flag is what makes it right */
}

FG_TEST(recipes_without_meaning_are_refused)
{
    static const struct {
        const char *recipe, *what;
    } bad[] = {
        {"lm_head.weight bf16+h\n", "type \"bf16+h\""},
        {"lm_head.weight +h\n", "type \"+h\""},
        {"lm_head.weight q8+h+h\n", "type \"q8+h+h\""},
        {"model.embed_tokens.weight q8+h\n", "rotation chosen for model.embed_tokens.weight"},
        {"*.w1.weight q4+h\n", "w1.weight and its w3"},
    };
    const char *text = fg_test_tmp("bad.recipe"), *out = fg_test_tmp("bad.fulgur");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const fg_convert_opts o = {.src_dir = NANO_DIR, .out_path = out, .recipe_path = text};
        fg_err err = {0};
        FILE *f = fopen(text, "w");
        if (f == NULL || fputs(bad[i].recipe, f) < 0 || fclose(f) != 0) abort();
        CHECK(fg_convert(&o, NULL, &err) != FG_OK);
        if (strstr(err.msg, bad[i].what) == NULL) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
}

/* What a model without rotated matrices, or with some, keeps in its buffers. */
FG_TEST(forms_are_kept_where_needed)
{
    static const struct {
        const char *name, *type, *recipe;
        bool in, attn_out, expert_in, hidden; /* rotated */
    } want[] = {
        {"default", "q4", "", false, false, false, true},
        {"plain", "q8", "", false, false, false, false},
        {"down", "q8", "*.w2.weight q4+h\n", false, false, false, true},
        {"out", "q8", "*.out_proj.weight q6+h\n", false, true, false, false},
        {"up", "q8", "*.w[13].weight q4+h\n", true, false, true, false},
        {"head", "q8", "lm_head.weight q8+h\n", true, false, false, false},
        {"all", "q8", all_q8, true, true, true, true},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        fg_model_file *f = NULL;
        fg_model *m = NULL;
        fg_scratch *s = NULL;
        fg_err err = {0};
        const char *path = convert(want[i].name, want[i].type, want[i].recipe);
        REQUIRE(path != NULL && fg_model_file_open(&f, path, &err) == FG_OK);
        REQUIRE_OK(fg_model_create(&m, f, 0, &err), &err);
        REQUIRE_OK(fg_scratch_create(&s, m, 64, 4, 1, &err), &err);
        CHECK((s->n.rot != NULL) == want[i].in && (s->u.rot != NULL) == want[i].attn_out);
        CHECK((s->xs.rot != NULL) == want[i].expert_in && (s->h.rot != NULL) == want[i].hidden);
        CHECK((s->h.q != NULL) == !want[i].hidden);
        CHECK((s->n.q != NULL) == (strcmp(want[i].name, "all") != 0));
        CHECK(m->quantized && s->x.rot == NULL && s->y.rot == NULL && s->x.q == NULL);
        fg_scratch_destroy(&s);
        fg_model_destroy(&m);
        fg_model_file_close(&f);
    }
}

/* ---- planted outliers
 * --------------------------------------------------------------------------- */

enum { ROWS = 64, COLS = 512, VECTORS = 16 };

static double normal(fg_rng *r)
{
    const double u = 1.0 - fg_rng_f64(r), v = fg_rng_f64(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

/* Relative error of W x, weights of the type and int8 activations, against double. */
static double product_error(const float *w, const float *x, const fg_lut *lut, bool rotate)
{
    static float panel[16 * COLS];
    static uint8_t bytes[COLS / 128 * 1088] __attribute__((aligned(64)));
    static fg_act128 act[VECTORS][COLS / 128];
    static float y[VECTORS][16] __attribute__((aligned(64)));
    float scale[16] __attribute__((aligned(64)));
    fg_kernels k;
    double d2 = 0.0, y2 = 0.0;
    fg_kernels_init(&k, 0);
    for (size_t t = 0; t < VECTORS; t++) {
        (rotate ? k.quantize_act_rot : k.quantize_act)(x + t * COLS, COLS, act[t]);
    }
    for (size_t p = 0; p < ROWS; p += 16) {
        memcpy(panel, w + p * COLS, sizeof panel);
        if (rotate) fg_hadamard_rotate(panel, 16 * COLS);
        fg_panel_encode(FG_TYPE_Q4, lut, panel, COLS, bytes, scale, NULL);
        fg_kernels_panel(&k, FG_TYPE_Q4, lut)(bytes, scale, lut, act, sizeof act[0], VECTORS,
                                              COLS / 128, y[0], 16);
        for (size_t t = 0; t < VECTORS; t++) {
            for (size_t r = 0; r < 16; r++) {
                double want = 0.0;
                for (size_t c = 0; c < COLS; c++) {
                    want += (double)w[(p + r) * COLS + c] * (double)x[t * COLS + c];
                }
                d2 += ((double)y[t][r] - want) * ((double)y[t][r] - want);
                y2 += want * want;
            }
        }
    }
    return sqrt(d2 / y2);
}

/* Ratio of the error with rotation to that without.  Every 37th column of W is `weight` times
 * larger, every 53rd of x `act` times. */
static double gain(const fg_lut *lut, double weight, double act)
{
    static float w[ROWS * COLS], x[VECTORS * COLS];
    fg_rng r;
    fg_rng_init(&r, 9);
    for (size_t i = 0; i < ROWS * COLS; i++) {
        w[i] = (float)(normal(&r) * (i % COLS % 37 == 5 ? weight : 1.0));
    }
    for (size_t i = 0; i < VECTORS * COLS; i++) {
        x[i] = (float)(normal(&r) * (i % COLS % 53 == 7 ? act : 1.0));
    }
    return product_error(w, x, lut, true) / product_error(w, x, lut, false);
}

FG_TEST(planted_outliers)
{
    const fg_lut *const luts[] = {&fg_lut_linear, &fg_lut_grid6};
    for (size_t i = 0; i < 2; i++) {
        const double plain = gain(luts[i], 1.0, 1.0), weight = gain(luts[i], 8.0, 1.0),
                     both = gain(luts[i], 8.0, 60.0);
        printf("  q4 %s: error ratio: Gaussian %.3f, outliers in W %.3f, in both %.3f\n",
               i == 0 ? "linear" : "grid6", plain, weight, both);
        CHECK(plain > 0.9 && plain < 1.1); /* control: nothing to gain */
        CHECK(weight < 0.7 && both < 0.8);
    }
}
