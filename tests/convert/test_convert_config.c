/* SPDX-License-Identifier: MIT
 *
 * config.json -> fg_shape: both dialects, the release, the tiny reference models, and everything
 * that must be refused by name.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/source/hf_config.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "tests/ckpt.h"
#include "tests/fg_test.h"

/* As transformers 5 saves a tiny model: rope_parameters, no rotary_dim, no postnorm. */
static const char hf_tiny[] =
    "{\"architectures\": [\"MiniMaxForCausalLM\"], \"attention_dropout\": 0.0, \"block_size\": 64,"
    "\"bos_token_id\": 1, \"dtype\": \"bfloat16\", \"eos_token_id\": 2,"
    "\"full_attn_alpha_factor\": 1.7, \"full_attn_beta_factor\": 0.9, \"head_dim\": 32,"
    "\"hidden_act\": \"silu\", \"hidden_size\": 64, \"intermediate_size\": 96,"
    "\"layer_types\": [\"linear_attention\", \"full_attention\", \"linear_attention\"],"
    "\"linear_attn_alpha_factor\": 2.1, \"linear_attn_beta_factor\": 1.1,"
    "\"max_position_embeddings\": 2048, \"mlp_alpha_factor\": 1.9, \"mlp_beta_factor\": 0.8,"
    "\"model_type\": \"minimax\", \"num_attention_heads\": 4, \"num_experts_per_tok\": 2,"
    "\"num_hidden_layers\": 3, \"num_key_value_heads\": 2, \"num_local_experts\": 8,"
    "\"rms_norm_eps\": 1e-05,"
    "\"rope_parameters\": {\"rope_theta\": 50000.0, \"rope_type\": \"default\"},"
    "\"rope_theta\": 10000000, \"sliding_window\": null, \"tie_word_embeddings\": false,"
    "\"vocab_size\": 197}";

static fg_status parse(const char *text, fg_shape *s, fg_err *err)
{
    return fg_hf_config_parse(s, text, strlen(text), "x/config.json", err);
}

static void check_tiny(const fg_shape *s)
{
    CHECK_U64(s->n_layer, 3);
    CHECK_U64(s->d_model, 64);
    CHECK_U64(s->n_head, 4);
    CHECK_U64(s->n_kv_head, 2);
    CHECK_U64(s->d_head, 32);
    CHECK_U64(s->d_rotary, 32); /* the class of transformers rotates the whole head */
    CHECK_U64(s->n_expert, 8);
    CHECK_U64(s->n_used, 2);
    CHECK_U64(s->d_ff, 96);
    CHECK_U64(s->n_vocab, 197);
    CHECK_U64(s->n_ctx_max, 2048);
    CHECK(s->rope_theta == 50000.0); /* not the stray one of the top level */
    CHECK(s->norm_eps == 1e-5 && s->inner_norm_eps == 1e-6);
    CHECK(s->alpha_softmax == 1.7 && s->beta_softmax == 0.9);
    CHECK(s->alpha_lightning == 2.1 && s->beta_lightning == 1.1);
    CHECK(s->alpha_mlp == 1.9 && s->beta_mlp == 0.8);
    CHECK_U64(s->postnorm, 1);
    CHECK_U64(s->slope_form, FG_SLOPE_TRANSFORMERS);
    CHECK(s->attn[0] == FG_ATTN_LIGHTNING && s->attn[1] == FG_ATTN_SOFTMAX &&
          s->attn[2] == FG_ATTN_LIGHTNING);
}

FG_TEST(transformers_dialect)
{
    fg_shape s;
    fg_err err = {0};
    REQUIRE_OK(parse(hf_tiny, &s, &err), &err);
    check_tiny(&s);
}

FG_TEST(own_dialect)
{
    static ckpt c;
    fg_shape s;
    fg_err err = {0};
    ckpt_init(&c);
    REQUIRE_OK(parse(c.config, &s, &err), &err);
    CHECK(memcmp(&s, &c.shape, sizeof s) == 0);
    ckpt_config(&c, true);
    REQUIRE_OK(parse(c.config, &s, &err), &err);
    c.shape.slope_form = FG_SLOPE_TRANSFORMERS;
    CHECK(memcmp(&s, &c.shape, sizeof s) == 0);
    ckpt_fini(&c);
}

typedef struct edit {
    const char *from, *to;
    uint32_t d_rotary;
    double theta;
} edit;

FG_TEST(rotary_width_and_theta_have_an_order)
{
    static const edit edits[] = {
        {"\"rope_type\": \"default\"", "\"partial_rotary_factor\": 0.5", 16, 50000},
        {"\"vocab_size\"", "\"partial_rotary_factor\": 0.25, \"vocab_size\"", 8, 50000},
        {"\"vocab_size\"", "\"rotary_dim\": 4, \"partial_rotary_factor\": 0.25, \"vocab_size\"", 4,
         50000},
        {"\"rope_theta\": 50000.0, ", "", 32, 1e7},
        {"\"rope_parameters\": {\"rope_theta\": 50000.0, \"rope_type\": \"default\"},", "", 32,
         1e7},
    };
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        static ckpt c;
        fg_shape s;
        fg_err err = {0};
        (void)snprintf(c.config, sizeof c.config, "%s", hf_tiny);
        REQUIRE(ckpt_edit_config(&c, edits[i].from, edits[i].to));
        CHECK_OK(parse(c.config, &s, &err), &err);
        CHECK_U64(s.d_rotary, edits[i].d_rotary);
        CHECK(s.rope_theta == edits[i].theta);
    }
}

FG_TEST(both_names_of_a_key_may_stand_together)
{
    static ckpt c;
    fg_shape s;
    fg_err err = {0};
    (void)snprintf(c.config, sizeof c.config, "%s", hf_tiny);
    REQUIRE(ckpt_edit_config(&c, "\"vocab_size\"",
                             "\"layernorm_mlp_beta\": 0.8, \"attn_type_list\": [0, 1, 0], "
                             "\"vocab_size\""));
    CHECK_OK(parse(c.config, &s, &err), &err);
    check_tiny(&s);
}

typedef struct refusal {
    const char *from, *to;
    fg_status status;
    const char *what;
} refusal;

static const refusal refusals[] = {
    /* other models and settings */
    {"MiniMaxForCausalLM", "MiniMaxM2ForCausalLM", FG_ENOTSUP, "MiniMax-M2"},
    {"\"minimax\"", "\"minimax_m2\"", FG_ENOTSUP, "MiniMax-M2"},
    {"\"vocab_size\"", "\"use_qk_norm\": true, \"vocab_size\"", FG_ENOTSUP, "use_qk_norm"},
    {"\"vocab_size\"", "\"scoring_func\": \"sigmoid\", \"vocab_size\"", FG_ENOTSUP, "scoring_func"},
    {"MiniMaxForCausalLM", "MiniMaxVL01ForConditionalGeneration", FG_ENOTSUP, "vision"},
    {"MiniMaxForCausalLM", "LlamaForCausalLM", FG_ENOTSUP, "LlamaForCausalLM"},
    {"\"minimax\"", "\"minimax_m1\"", FG_EFORMAT, "model_type"},
    {"[\"MiniMaxForCausalLM\"]", "[\"MiniMaxForCausalLM\", \"MiniMaxForCausalLM\"]", FG_EFORMAT,
     "architectures"},
    {"\"vocab_size\"", "\"vision_config\": {}, \"vocab_size\"", FG_ENOTSUP, "vision_config"},
    {"\"vocab_size\"", "\"shared_intermediate_size\": 9216, \"vocab_size\"", FG_ENOTSUP,
     "shared_intermediate_size = 9216"},
    {"\"sliding_window\": null", "\"sliding_window\": 4096", FG_ENOTSUP, "sliding_window"},
    {"\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true", FG_ENOTSUP,
     "tie_word_embeddings"},
    {"\"silu\"", "\"gelu\"", FG_ENOTSUP, "hidden_act is \"gelu\""},
    {"\"vocab_size\"", "\"attention_bias\": true, \"vocab_size\"", FG_ENOTSUP, "attention_bias"},
    {"\"default\"", "\"yarn\"", FG_ENOTSUP, "yarn"},
    {"\"vocab_size\"", "\"rope_scaling\": {\"factor\": 4}, \"vocab_size\"", FG_ENOTSUP,
     "rope_scaling"},
    {"\"vocab_size\"", "\"quantization_config\": {\"bits\": 8}, \"vocab_size\"", FG_ENOTSUP,
     "quantization_config"},
    /* missing keys */
    {"\"architectures\": [\"MiniMaxForCausalLM\"],", "", FG_OK, ""}, /* model_type is enough */
    {"\"hidden_size\": 64,", "", FG_EFORMAT, "hidden_size missing"},
    {"\"head_dim\": 32,", "", FG_EFORMAT, "head_dim missing"},
    {"\"hidden_act\": \"silu\",", "", FG_EFORMAT, "hidden_act missing"},
    {"\"num_hidden_layers\": 3,", "", FG_EFORMAT, "num_hidden_layers missing"},
    {"\"mlp_beta_factor\": 0.8,", "", FG_EFORMAT, "mlp_beta_factor missing"},
    {"\"rms_norm_eps\": 1e-05,", "", FG_EFORMAT, "rms_norm_eps missing"},
    {"\"layer_types\"", "\"layer_typos\"", FG_EFORMAT, "layer_types missing"},
    /* wrong values */
    {"\"hidden_size\": 64", "\"hidden_size\": \"64\"", FG_EFORMAT, "hidden_size = \"64\", exp"},
    {"\"hidden_size\": 64", "\"hidden_size\": -64", FG_EFORMAT, "hidden_size = -64, exp"},
    {"\"hidden_size\": 64", "\"hidden_size\": 64.5", FG_EFORMAT, "hidden_size = 64.5, exp"},
    {"\"hidden_size\": 64", "\"hidden_size\": 1e300", FG_EFORMAT, "hidden_size = 1e+300, exp"},
    {"\"hidden_size\": 64", "\"hidden_size\": 4294967360", FG_ESHAPE, "hidden_size = 4294967360"},
    {"\"hidden_size\": 64", "\"hidden_size\": null", FG_EFORMAT, "hidden_size = null, exp"},
    {"\"hidden_size\": 64", "\"hidden_size\": 65", FG_ENOTSUP, "multiple of 16"},
    {"\"num_hidden_layers\": 3", "\"num_hidden_layers\": 1000000", FG_ESHAPE,
     "num_hidden_layers = 1000000"},
    {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", FG_ESHAPE, "attention heads"},
    {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 0", FG_ESHAPE, "key-value heads"},
    {"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": NaN", FG_EFORMAT, "JSON"},
    {"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 1e999", FG_EFORMAT, "rms_norm_eps"},
    {"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1", FG_ESHAPE, "epsilon"},
    {"\"mlp_alpha_factor\": 1.9", "\"mlp_alpha_factor\": \"big\"", FG_EFORMAT,
     "mlp_alpha_factor = \"big\""},
    {"\"rope_theta\": 50000.0", "\"rope_theta\": \"x\"", FG_EFORMAT, "rope_theta = \"x\""},
    {"\"rope_theta\": 50000.0", "\"rope_theta\": 0.5", FG_ESHAPE, "rope theta"},
    {"{\"rope_theta\": 50000.0, \"rope_type\": \"default\"}", "7", FG_EFORMAT,
     "rope_parameters = 7"},
    {"\"vocab_size\"", "\"rotary_dim\": 33, \"vocab_size\"", FG_ESHAPE, "rotary"},
    {"\"vocab_size\"", "\"rotary_dim\": 64, \"vocab_size\"", FG_ESHAPE, "rotary"},
    {"\"vocab_size\"", "\"partial_rotary_factor\": 1.5, \"vocab_size\"", FG_EFORMAT,
     "partial_rotary_factor = 1.5"},
    {"\"vocab_size\"", "\"postnorm\": 1, \"vocab_size\"", FG_EFORMAT, "postnorm = 1, expected"},
    {"[\"linear_attention\", ", "[", FG_EFORMAT, "2 entries, expected 3"},
    {"[\"linear_attention\", ", "[0, 0, ", FG_EFORMAT, "4 entries, expected 3"},
    {"\"full_attention\"", "\"flash_attention\"", FG_EFORMAT, "layer 1 is \"flash_attention\""},
    {"\"full_attention\"", "2", FG_EFORMAT, "layer 1 is 2"},
    {"[\"linear_attention\", \"full_attention\", \"linear_attention\"]", "\"all\"", FG_EFORMAT,
     "layer_types = \"all\""},
    /* contradictions */
    {"\"vocab_size\"", "\"attn_type_list\": [0, 1, 1], \"vocab_size\"", FG_EFORMAT, "layer 2"},
    {"\"vocab_size\"", "\"layernorm_mlp_beta\": 0.9, \"vocab_size\"", FG_EFORMAT,
     "mlp_beta_factor = 0.8, expected 0.9"},
    {"\"vocab_size\"", "\"head_dim\": 64, \"vocab_size\"", FG_EFORMAT, "head_dim twice"},
    {"\"vocab_size\": 197}", "\"vocab_size\": 197} x", FG_EFORMAT, "one JSON document"},
};

FG_TEST(everything_else_is_refused_by_name)
{
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        static ckpt c;
        const refusal *r = &refusals[i];
        fg_shape s;
        fg_err err = {0};
        (void)snprintf(c.config, sizeof c.config, "%s", hf_tiny);
        REQUIRE(ckpt_edit_config(&c, r->from, r->to));
        const fg_status st = parse(c.config, &s, &err);
        if (st == r->status && (st == FG_OK || (strstr(err.msg, r->what) != NULL &&
                                                strncmp(err.msg, "x/config.json: ", 15) == 0))) {
            continue;
        }
        fg_test_fail(__FILE__, __LINE__, "%s: status %d, expected %d, message \"%s\"", r->to, st,
                     r->status, err.msg);
    }
}

FG_TEST(own_dialect_needs_rotary_dim_and_postnorm)
{
    static const char *const keys[] = {"rotary_dim", "postnorm", "attn_type_list",
                                       "layernorm_full_attention_alpha", "rope_theta"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        static ckpt c;
        fg_shape s;
        fg_err err = {0};
        char from[64];
        ckpt_init(&c);
        (void)snprintf(from, sizeof from, "\"%s\"", keys[i]);
        REQUIRE(ckpt_edit_config(&c, from, "\"unrelated\""));
        CHECK(parse(c.config, &s, &err) == FG_EFORMAT);
        CHECK(strstr(err.msg, keys[i]) != NULL && strstr(err.msg, "missing") != NULL);
        ckpt_fini(&c);
    }
}

/* Every prefix and every single changed byte of a configuration: no crash, and no message
 * without a failure. */
FG_TEST(mutilated_text_never_crashes)
{
    char text[sizeof hf_tiny];
    const size_t n = sizeof hf_tiny - 1;
    fg_shape s;
    for (size_t i = 0; i < n; i++) CHECK(fg_hf_config_parse(&s, hf_tiny, i, "p", NULL) != FG_OK);
    for (size_t i = 0; i < n; i++) {
        static const char bytes[] = {0, '9', '"', '-', '{', ']', (char)0xff};
        for (size_t k = 0; k < sizeof bytes; k++) {
            fg_err err = {0};
            memcpy(text, hf_tiny, n);
            text[i] = bytes[k];
            const fg_status st = fg_hf_config_parse(&s, text, n, "m", &err);
            CHECK((st == FG_OK) == (err.msg[0] == '\0'));
        }
    }
}

static bool read_shape(const char *dir, fg_shape *s)
{
    char path[512], *text = NULL;
    size_t n = 0;
    fg_err err = {0};
    (void)snprintf(path, sizeof path, "%s/config.json", dir);
    bool ok = fg_io_read_all(path, 1 << 20, &text, &n, &err) == FG_OK &&
              fg_hf_config_parse(s, text, n, path, &err) == FG_OK;
    if (!ok) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    fg_mem_free(text);
    return ok;
}

FG_TEST(nano)
{
    fg_shape s;
    REQUIRE(read_shape("tests/models/m1-nano", &s));
    CHECK_U64(s.n_layer, 8);
    CHECK_U64(s.d_model, 256);
    CHECK_U64(s.d_rotary, 32);
    CHECK_U64(s.n_expert, 32);
    CHECK_U64(s.d_ff, 128);
    CHECK_U64(s.attn[6], FG_ATTN_LIGHTNING);
    CHECK_U64(s.attn[7], FG_ATTN_SOFTMAX);
    CHECK_U64(s.slope_form, FG_SLOPE_MINIMAX);
}

FG_TEST(release)
{
    const char *dir = ckpt_release();
    fg_shape s;
    if (dir == NULL) return;
    REQUIRE(read_shape(dir, &s));
    CHECK_U64(s.n_layer, 80);
    CHECK_U64(s.d_model, 6144);
    CHECK_U64(s.n_head, 64);
    CHECK_U64(s.n_kv_head, 8);
    CHECK_U64(s.d_head, 128);
    CHECK_U64(s.d_rotary, 64);
    CHECK_U64(s.n_expert, 32);
    CHECK_U64(s.n_used, 2);
    CHECK_U64(s.d_ff, 9216);
    CHECK_U64(s.n_vocab, 200064);
    CHECK_U64(s.n_ctx_max, 10240000);
    CHECK(s.rope_theta == 1e7 && s.alpha_mlp == 3.5565588200778455 && s.beta_mlp == 1.0);
    for (uint32_t l = 0; l < 80; l++) CHECK_U64(s.attn[l], l % 8 == 7);
}

typedef struct known {
    const char *dir;
    uint32_t n_layer, d_model, n_head, n_kv_head, d_head, d_rotary, n_used, postnorm;
    const char *kinds;
} known;

FG_TEST(reference_models)
{
    static const known models[] = {
        {"hf-base", 4, 64, 4, 2, 32, 32, 2, 1, "0101"},
        {"hf-fp32-sharded", 4, 64, 4, 2, 32, 32, 2, 1, "0101"},
        {"hf-long", 2, 64, 4, 2, 32, 32, 2, 1, "01"},
        {"hf-wide", 4, 96, 8, 4, 16, 16, 2, 1, "0001"},
        {"orig-base", 4, 64, 4, 2, 32, 16, 2, 1, "0101"},
        {"orig-heads6", 4, 96, 6, 3, 32, 16, 2, 1, "0101"},
        {"orig-prenorm", 4, 64, 4, 2, 32, 16, 2, 0, "0101"},
        {"orig-top1", 2, 64, 4, 2, 32, 16, 1, 1, "10"},
        {"orig-wide", 4, 64, 8, 1, 32, 16, 2, 1, "0001"},
    };
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        const known *m = &models[i];
        char path[128];
        (void)snprintf(path, sizeof path, "tests/vectors/oracle/%s", m->dir);
        const char *dir = path;
        fg_shape s;
        if (!fg_io_is_dir(path)) dir = fg_test_beside(strstr(path, "oracle"));
        if (dir == NULL) continue; /* three of nine are in the shared folder only */
        REQUIRE(read_shape(dir, &s));
        CHECK(s.n_layer == m->n_layer && s.d_model == m->d_model && s.n_head == m->n_head &&
              s.n_kv_head == m->n_kv_head && s.d_head == m->d_head && s.d_rotary == m->d_rotary &&
              s.n_used == m->n_used && s.postnorm == m->postnorm);
        for (uint32_t l = 0; l < s.n_layer; l++) CHECK_U64(s.attn[l] + (uint32_t)'0', m->kinds[l]);
        const bool hf = m->dir[0] == 'h';
        CHECK_U64(s.slope_form, hf ? FG_SLOPE_TRANSFORMERS : FG_SLOPE_MINIMAX);
        CHECK(s.rope_theta == (hf ? 50000.0 : 10000.0));
    }
}
