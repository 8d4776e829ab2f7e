/* SPDX-License-Identifier: MIT
 *
 * Synthetic models: the file opens and verifies, does not depend on the thread count, holds weights
 * of the intended size, and routes random tokens to all experts alike.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/source/hf_config.h"
#include "convert/synth.h"
#include "quant/panel.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "bench/bench.h"
#include "src/model/forward.h"
#include "src/sys/bandwidth.h"
#include "tests/fg_test.h"
#include "tests/models.h"
#include "src/engine/session.h"

static fg_status synth(const char *out, fg_synth_opts o, fg_synth_report *r)
{
    fg_err err = {0};
    o.out_path = out;
    const fg_status st = fg_synth(&o, r, &err);
    if (st != FG_OK) printf("  synth: %s\n", err.msg);
    return st;
}

static uint64_t file_hash(const char *path)
{
    char *p = NULL;
    size_t n = 0;
    if (fg_io_read_all(path, 1u << 30, &p, &n, NULL) != FG_OK) return 0;
    const uint64_t h = fg_hash64(p, n);
    fg_mem_free(p);
    return h;
}

/* A configuration with row lengths that need padding: 48 = 32 + 16, 80 = 64 + 16, 176 = 128 +
 * 48. */
static const char *odd_config(void)
{
    const char *path = fg_test_tmp("odd.json");
    FILE *f = fopen(path, "w");
    if (f == NULL) return NULL;
    fputs("{\"architectures\": [\"MiniMaxForCausalLM\"], \"model_type\": \"minimax\","
          "\"layer_types\": [\"linear_attention\", \"full_attention\", \"linear_attention\"],"
          "\"num_hidden_layers\": 3, \"hidden_size\": 176, \"num_attention_heads\": 3,"
          "\"num_key_value_heads\": 1, \"head_dim\": 16, \"rotary_dim\": 8, \"rope_theta\": 1e4,"
          "\"num_local_experts\": 5, \"num_experts_per_tok\": 2, \"intermediate_size\": 80,"
          "\"vocab_size\": 333, \"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-5,"
          "\"full_attn_alpha_factor\": 1.5, \"full_attn_beta_factor\": 1,"
          "\"linear_attn_alpha_factor\": 1.25, \"linear_attn_beta_factor\": 0.5,"
          "\"mlp_alpha_factor\": 3, \"mlp_beta_factor\": 1, \"hidden_act\": \"silu\"}",
          f);
    fclose(f);
    return path;
}

/* Every weight lies in the stated range, padding is zero, and the deviation is the intended one. */
static void check_tensor(const fg_model_file *f, const fg_tensor *t)
{
    enum { MAX_K = 256 };
    static float w[FG_PANEL_ROWS * MAX_K];
    const uint64_t k = fg_n_sb(t->n_col) * FG_SB_COLS;
    const float *scale = t->scale_offset == 0
                             ? NULL
                             : (const float *)(const void *)fg_model_file_data(f, t->scale_offset);
    double sum = 0, sum2 = 0;
    REQUIRE(k <= MAX_K);
    for (uint64_t p = 0; p < fg_n_panel(t->n_row); p++) {
        const uint8_t *panel = fg_model_file_data(f, t->offset + p * t->panel_stride);
        fg_panel_decode((fg_qtype)t->type, &t->lut, panel,
                        scale == NULL ? NULL : scale + p * FG_PANEL_ROWS, (size_t)t->n_col, w);
        for (uint64_t i = 0; i < FG_PANEL_ROWS * k; i++) {
            const bool inside = p * FG_PANEL_ROWS + i / k < t->n_row && i % k < t->n_col;
            if (!inside) REQUIRE(w[i] == 0.0f);
            sum += (double)w[i];
            sum2 += (double)w[i] * (double)w[i];
        }
    }
    const double n = (double)(t->n_row * t->n_col), rms = sqrt(sum2 / n);
    const double want = t->role == FG_ROLE_EMBED       ? 1.0
                        : t->role == FG_ROLE_LIGHT_QKV ? 0.25 / sqrt((double)t->n_col)
                        : t->role == FG_ROLE_LM_HEAD   ? 2.0 / sqrt((double)t->n_col)
                                                       : 1.0 / sqrt((double)t->n_col);
    CHECK_NEAR(rms / want, 1.0, 0.02 + 3.0 / sqrt(n));
    CHECK_NEAR(sum / n / want, 0.0, 6.0 / sqrt(n / 32)); /* codes of a group share a sign */
}

FG_TEST(weights_have_the_stated_size_and_zero_padding)
{
    const char *shape = odd_config();
    REQUIRE(shape != NULL);
    for (uint32_t i = 0; i < FG_QTYPE_COUNT; i++) {
        const char *type = fg_qtype_at(i)->name;
        const char *out = fg_test_tmp("odd.fulgur");
        fg_model_file *f;
        fg_err err = {0};
        REQUIRE(synth(out, (fg_synth_opts){.shape = shape, .type = type}, NULL) == FG_OK);
        REQUIRE_OK(fg_model_file_open(&f, out, &err), &err);
        CHECK_OK(fg_model_file_verify(f, NULL, NULL, &err), &err);
        for (uint64_t t = 0; t < fg_model_file_n_tensor(f); t++) {
            const fg_tensor *x = fg_model_file_tensor(f, t);
            if (!fg_role_is_vector((fg_role)x->role)) check_tensor(f, x);
        }
        fg_model_file_close(&f);
    }
}

FG_TEST(q8_has_no_minus_128)
{
    const char *out = fg_test_tmp("q8.fulgur");
    fg_model_file *f;
    fg_err err = {0};
    REQUIRE(synth(out, (fg_synth_opts){.shape = NANO_DIR "/config.json", .type = "q8"}, NULL) ==
            FG_OK);
    REQUIRE_OK(fg_model_file_open(&f, out, &err), &err);
    const fg_tensor *t = fg_model_file_find(f, FG_ROLE_LM_HEAD, FG_NO_LAYER, FG_NO_LAYER);
    const uint8_t *p = fg_model_file_data(f, t->offset);
    uint64_t bad = 0;
    for (uint64_t i = 0; i < fg_n_panel(t->n_row) * t->panel_stride; i++) bad += p[i] == 0x80;
    CHECK_U64(bad, 0);
    fg_model_file_close(&f);
}

FG_TEST(bytes_depend_on_shape_type_and_seed_only)
{
    const char *a = fg_test_tmp("a.fulgur"), *b = fg_test_tmp("b.fulgur");
    const fg_synth_opts base = {.shape = NANO_DIR "/config.json", .n_thread = 1};
    fg_synth_opts o = base;
    fg_synth_report r;
    REQUIRE(synth(a, o, &r) == FG_OK);
    const uint64_t want = file_hash(a);
    CHECK(want != 0 && r.shape.n_layer == 8 && r.n_weight > 29000000);
    o.n_thread = 3;
    REQUIRE(synth(b, o, NULL) == FG_OK);
    CHECK(file_hash(b) == want);
    o.seed = 1;
    REQUIRE(synth(b, o, NULL) == FG_OK);
    CHECK(file_hash(b) != want);
    o = base;
    o.n_layer = 7;
    REQUIRE(synth(b, o, NULL) == FG_OK);
    CHECK(file_hash(b) != want);
}

FG_TEST(layer_kinds_follow_the_pattern)
{
    fg_shape s;
    fg_err err = {0};
    fg_synth_opts o = {0};
    REQUIRE_OK(fg_synth_shape(&s, &o, &err), &err);
    CHECK(s.n_layer == 4 && s.d_model == 6144 && s.n_vocab == 200064);
    CHECK(!s.attn[0] && !s.attn[1] && !s.attn[2] && s.attn[3]);
    o.n_layer = 1;
    REQUIRE_OK(fg_synth_shape(&s, &o, &err), &err);
    CHECK(s.n_layer == 1 && s.attn[0] == FG_ATTN_LIGHTNING);
    o.n_layer = 96;
    REQUIRE_OK(fg_synth_shape(&s, &o, &err), &err);
    for (uint32_t l = 0; l < 96; l++) CHECK(s.attn[l] == (l % 8 == 7));
    o.n_layer = 2000;
    CHECK(fg_synth_shape(&s, &o, &err) == FG_EINVAL);
}

/* The stored configuration describes the stored shape. */
FG_TEST(configuration_reads_back)
{
    const char *const shapes[] = {NANO_DIR "/config.json", odd_config()};
    for (size_t i = 0; i < 2; i++) {
        const char *out = fg_test_tmp("config.fulgur"), *text;
        size_t n;
        fg_model_file *f;
        fg_shape s;
        fg_err err = {0};
        REQUIRE(synth(out, (fg_synth_opts){.shape = shapes[i]}, NULL) == FG_OK);
        REQUIRE_OK(fg_model_file_open(&f, out, &err), &err);
        REQUIRE(fg_model_file_meta(f, "config.json", &text, &n, &err) == FG_OK && text != NULL);
        REQUIRE_OK(fg_hf_config_parse(&s, text, n, "stored", &err), &err);
        CHECK(memcmp(&s, fg_model_file_shape(f), sizeof s) == 0);
        fg_model_file_close(&f);
    }
}

typedef struct routing {
    uint64_t n[8][32];
    double x2[9]; /* mean square of the hidden states */
} routing;

static void count_experts(void *ctx, uint32_t layer, uint64_t pos, uint64_t n_tok,
                          const uint32_t *sel, const float *weights)
{
    routing *r = ctx;
    (void)pos;
    (void)weights;
    for (uint64_t i = 0; i < 2 * n_tok; i++) r->n[layer][sel[i]]++;
}

FG_TEST(random_tokens_meet_all_experts_and_logits_stay_sane)
{
    enum { N = 4096, V = 4096 };
    const char *out = fg_test_tmp("route.fulgur");
    static uint32_t ids[N];
    static routing r;
    fg_engine *e;
    fg_err err = {0};
    fg_rng rng;
    fg_engine_opts eo = fg_engine_opts_default();
    REQUIRE(synth(out, (fg_synth_opts){.shape = NANO_DIR "/config.json"}, NULL) == FG_OK);
    REQUIRE_OK(fg_engine_open(&e, out, &eo, &err), &err);
    fg_session *s = model_session(e, N, 512);
    REQUIRE(s != NULL);
    fg_rng_init(&rng, 5);
    for (int i = 0; i < N; i++) ids[i] = (uint32_t)(fg_rng_u64(&rng) % V);
    const fg_taps taps = {.experts = count_experts, .ctx = &r};
    fg_session_set_taps(s, &taps);
    CHECK_OK(fg_session_eval(s, ids, N, NULL, NULL, &err), &err);
    double most = 0, least = 1e9, sum = 0, sum2 = 0;
    for (int l = 0; l < 8; l++) {
        for (int x = 0; x < 32; x++) {
            const double share = (double)r.n[l][x] * 32 / (2.0 * N);
            most = share > most ? share : most;
            least = share < least ? share : least;
        }
    }
    printf("  an expert's share, times 32: %.2f to %.2f\n", least, most);
    CHECK(most < 2.2 && least > 0.4);
    const float *logits = fg_session_logits(s);
    for (int i = 0; i < V; i++) {
        sum += (double)logits[i] / V;
        sum2 += (double)logits[i] * (double)logits[i] / V;
    }
    printf("  logits: mean %.3f, deviation %.3f\n", sum, sqrt(sum2 - sum * sum));
    CHECK_NEAR(sqrt(sum2 - sum * sum), 2.0, 0.5);
    fg_session_destroy(&s);
    fg_engine_close(&e);
}

FG_TEST(mistakes_leave_nothing_behind)
{
    fg_err err = {0};
    const char *out = fg_test_tmp("none.fulgur");
    fg_synth_opts o = {.out_path = out, .shape = "no-such.json"};
    CHECK(fg_synth(&o, NULL, &err) == FG_EIO);
    o.shape = NANO_DIR "/config.json";
    o.type = "q3";
    CHECK(fg_synth(&o, NULL, &err) == FG_EINVAL);
    o.type = NULL;
    o.tokenizer_dir = "tests/unit";
    CHECK(fg_synth(&o, NULL, &err) == FG_EIO);
    o.tokenizer_dir = NULL;
    o.out_path = fg_test_tmpdir();
    CHECK(fg_synth(&o, NULL, &err) == FG_EINVAL);
    CHECK(!fg_io_exists(out) && !fg_io_exists(fg_test_tmp("none.fulgur.part")));
}

/* The measuring itself, on a model of no size: figures are there and finite. */
FG_TEST(bench_figures_are_numbers)
{
    const char *out = fg_test_tmp("bench.fulgur");
    fg_engine *e;
    fg_bench *b;
    fg_err err = {0};
    fg_engine_opts eo = fg_engine_opts_default();
    fg_bench_run d, p;
    fg_bench_start start;
    double gbs = 0;
    REQUIRE(synth(out, (fg_synth_opts){.shape = odd_config()}, NULL) == FG_OK);
    REQUIRE_OK(fg_engine_open(&e, out, &eo, &err), &err);
    REQUIRE_OK(fg_bench_create(&b, e, &err), &err);
    CHECK_OK(fg_bench_decode(b, 130, 3, 3, &d, &err), &err);
    CHECK(isfinite(d.tok_s) && d.tok_s > 0 && d.best_tok_s >= d.tok_s && d.weight_bytes > 0);
    CHECK_U64((uint64_t)d.weight_bytes, fg_engine_token_bytes(e)); /* two ways to count */
    CHECK_OK(fg_bench_prefill(b, 0, 40, 3, &p, &err), &err);
    CHECK(p.tok_s > 0 && p.weight_bytes > d.weight_bytes && p.gmac < d.gmac);
    CHECK(fg_bench_decode(b, 512, 1, 3, &d, &err) == FG_ELIMIT);
    CHECK(fg_bench_decode(b, 0, 0, 3, &d, &err) == FG_EINVAL);
    CHECK_OK(fg_engine_read_bandwidth(e, &gbs, &err), &err);
    const bool cached = fg_engine_token_bytes(e) <= fg_llc_bytes(); /* no matter of memory then */
    CHECK(cached ? gbs == 0.0 : gbs > 0.05 && isfinite(gbs));
    fg_bench_destroy(&b);
    fg_engine_close(&e);
    CHECK_OK(fg_bench_measure_start(out, &eo, false, &start, &err), &err);
    CHECK(start.first_s >= start.open_s && start.resident > 0);
}
