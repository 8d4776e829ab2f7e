/* SPDX-License-Identifier: MIT
 *
 * Tensor names, the dry run over the release's index, and recipes without data.
 */
#include <stdio.h>
#include <string.h>

#include "convert/source/names.h"
#include "convert/source/catalog.h"
#include "convert/choose/recipe.h"
#include "tests/ckpt.h"
#include "tests/fg_test.h"

static fg_shape tiny_shape(void)
{
    static ckpt c;
    ckpt_init(&c);
    const fg_shape s = c.shape;
    ckpt_fini(&c);
    return s;
}

FG_TEST(index_and_name_are_inverse)
{
    const fg_shape s = tiny_shape();
    const uint64_t n = fg_weight_count(&s);
    CHECK_U64(n, 3 + 2 * (7 + 3 * 3));
    for (uint64_t i = 0; i < n; i++) {
        const fg_name a = fg_weight_at(&s, i);
        char text[96];
        CHECK_U64(fg_weight_index(&s, a.role, a.layer, a.expert), i);
        fg_role_name(a.role, a.layer, a.expert, text);
        const fg_name b = fg_name_parse(text);
        CHECK(b.kind == FG_NAME_ONE && b.role == a.role && b.layer == a.layer &&
              b.expert == a.expert);
    }
}

typedef struct spelling {
    const char *text;
    fg_name_kind kind;
    fg_role role;
    uint32_t layer, expert;
} spelling;

FG_TEST(spellings)
{
    const uint32_t none = FG_NO_LAYER;
    const spelling list[] = {
        {"lm_head.weight", FG_NAME_ONE, FG_ROLE_LM_HEAD, none, none},
        {"model.layers.79.self_attn.qkv_proj.weight", FG_NAME_ONE, FG_ROLE_LIGHT_QKV, 79, none},
        {"model.layers.7.mlp.gate.weight", FG_NAME_ONE, FG_ROLE_ROUTER, 7, none},
        {"model.layers.7.block_sparse_moe.experts.31.w3.weight", FG_NAME_ONE, FG_ROLE_EXPERT_UP, 7,
         31},
        {"model.layers.0.mlp.experts.5.w1.weight", FG_NAME_ONE, FG_ROLE_EXPERT_GATE, 0, 5},
        {"model.layers.12.mlp.experts.gate_up_proj", FG_NAME_GATE_UP, FG_ROLE_EXPERT_GATE, 12,
         none},
        {"model.layers.12.mlp.experts.down_proj", FG_NAME_DOWN, FG_ROLE_EXPERT_DOWN, 12, none},
        {"model.layers.3.self_attn.slope_rate", FG_NAME_SKIP, FG_ROLE_COUNT, 3, none},
        {"model.layers.3.self_attn.diagonal_decay", FG_NAME_SKIP, FG_ROLE_COUNT, 3, none},
        {"model.layers.999999999.self_attn.key_decay", FG_NAME_SKIP, FG_ROLE_COUNT, 999999999,
         none},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        const fg_name n = fg_name_parse(list[i].text);
        if (n.kind == list[i].kind && n.role == list[i].role && n.layer == list[i].layer &&
            n.expert == list[i].expert) {
            continue;
        }
        fg_test_fail(__FILE__, __LINE__, "%s", list[i].text);
    }
}

FG_TEST(other_names_are_unknown)
{
    static const char *const list[] = {
        "",
        "model",
        "lm_head.weight2",
        "lm_head.bias",
        "model.layers.",
        "model.layers.x.input_layernorm.weight",
        "model.layers.-1.input_layernorm.weight",
        "model.layers.01.input_layernorm.weight",
        "model.layers.1000000000.input_layernorm.weight",
        "model.layers.18446744073709551617.input_layernorm.weight",
        "model.layers.1input_layernorm.weight",
        "model.layers.1.input_layernorm.bias",
        "model.layers.1.self_attn.q_proj.bias",
        "model.layers.1.self_attn.q_norm.weight",
        "model.layers.1.self_attn.rotary_emb.inv_freq",
        "model.layers.1.block_sparse_moe.experts.w1.weight",
        "model.layers.1.block_sparse_moe.experts.1.w4.weight",
        "model.layers.1.block_sparse_moe.e_score_correction_bias",
        "model.layers.1.shared_mlp.gate_proj.weight",
        "language_model.model.norm.weight",
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        if (fg_name_parse(list[i]).kind == FG_NAME_UNKNOWN) continue;
        fg_test_fail(__FILE__, __LINE__, "%s is known", list[i]);
    }
}

FG_TEST(the_release_plans_from_names_alone)
{
    const char *dir = ckpt_release();
    if (dir == NULL) return;
    fg_shape s;
    fg_err err = {0};
    uint64_t n_tensor = 0, n_shard = 0, n_skipped = 1;
    const fg_status st = fg_catalog_check_names(dir, &s, &n_tensor, &n_shard, &n_skipped, &err);
    if (st != FG_OK) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    CHECK_U64(n_tensor, 8243);
    CHECK_U64(n_shard, 413);
    CHECK_U64(n_skipped, 0);
    CHECK_U64(fg_weight_count(&s), 8243);
}

FG_TEST(a_dry_run_reports_what_is_missing)
{
    static ckpt c;
    fg_shape s;
    fg_err err = {0};
    ckpt_init(&c);
    ckpt_spread(&c, 4);
    const char *dir = ckpt_dir("dry");
    ckpt_write(&c, dir);
    uint64_t n_tensor = 0;
    CHECK_OK(fg_catalog_check_names(dir, &s, &n_tensor, NULL, NULL, &err), &err);
    CHECK_U64(n_tensor, c.n_tensor);
    ckpt_get(&c, "model.layers.1.self_attn.o_proj.weight")->unlisted = true;
    ckpt_write(&c, dir);
    CHECK(fg_catalog_check_names(dir, &s, NULL, NULL, NULL, &err) == FG_EFORMAT);
    CHECK(strstr(err.msg, "model.layers.1.self_attn.o_proj.weight") != NULL);
    ckpt_fini(&c);
}

FG_TEST(plan_places_fused_experts)
{
    static ckpt c;
    fg_catalog p;
    fg_err err = {0};
    ckpt_init(&c);
    ckpt_fuse(&c);
    const char *dir = ckpt_dir("fused");
    ckpt_write(&c, dir);
    REQUIRE_OK(fg_catalog_open(&p, dir, FG_HF_ALL, &err), &err);
    const fg_shape *s = &p.shape;
    const uint64_t matrix = 2ull * s->d_ff * s->d_model;
    const fg_piece *g0 = &p.piece[fg_weight_index(s, FG_ROLE_EXPERT_GATE, 1, 0)];
    const fg_piece *u0 = &p.piece[fg_weight_index(s, FG_ROLE_EXPERT_UP, 1, 0)];
    const fg_piece *g2 = &p.piece[fg_weight_index(s, FG_ROLE_EXPERT_GATE, 1, 2)];
    CHECK_U64(g0->bytes, matrix);
    CHECK_U64(u0->offset - g0->offset, matrix);
    CHECK_U64(g2->offset - g0->offset, 4 * matrix);
    fg_catalog_fini(&p);
    ckpt_fini(&c);
}

FG_TEST(built_in_recipes)
{
    static const struct {
        const char *type;
        fg_qtype expert, attn, head, embed;
    } want[] = {
        {NULL, FG_TYPE_Q4, FG_TYPE_Q6, FG_TYPE_Q8, FG_TYPE_Q8},
        {"q4", FG_TYPE_Q4, FG_TYPE_Q6, FG_TYPE_Q8, FG_TYPE_Q8},
        {"q5", FG_TYPE_Q5, FG_TYPE_Q5, FG_TYPE_Q8, FG_TYPE_Q8},
        {"q6", FG_TYPE_Q6, FG_TYPE_Q6, FG_TYPE_Q8, FG_TYPE_Q8},
        {"q8", FG_TYPE_Q8, FG_TYPE_Q8, FG_TYPE_Q8, FG_TYPE_Q8},
        {"bf16", FG_TYPE_BF16, FG_TYPE_BF16, FG_TYPE_BF16, FG_TYPE_BF16},
        {"f32", FG_TYPE_F32, FG_TYPE_F32, FG_TYPE_F32, FG_TYPE_F32},
    };
    _Static_assert(sizeof want / sizeof want[0] == 1 + FG_QTYPE_COUNT, "one of each type");
    const fg_shape s = tiny_shape();
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        fg_recipe r;
        fg_err err = {0};
        REQUIRE_OK(fg_recipe_load(&r, want[i].type, NULL, &err), &err);
        CHECK_OK(fg_recipe_check(&r, &s, NULL, &err), &err);
        CHECK_U64(fg_recipe_choose(&r, FG_ROLE_EXPERT_DOWN, 1, 2).type, want[i].expert);
        CHECK_U64(fg_recipe_choose(&r, FG_ROLE_LIGHT_OUT, 0, FG_NO_LAYER).type, want[i].attn);
        CHECK_U64(fg_recipe_choose(&r, FG_ROLE_K, 1, FG_NO_LAYER).type, want[i].attn);
        CHECK_U64(fg_recipe_choose(&r, FG_ROLE_LM_HEAD, FG_NO_LAYER, FG_NO_LAYER).type,
                  want[i].head);
        CHECK_U64(fg_recipe_choose(&r, FG_ROLE_EMBED, FG_NO_LAYER, FG_NO_LAYER).type,
                  want[i].embed);
        CHECK_U64(fg_recipe_choose(&r, FG_ROLE_ROUTER, 0, FG_NO_LAYER).type, FG_TYPE_F32);
        CHECK_U64(fg_recipe_choose(&r, FG_ROLE_LIGHT_NORM, 0, FG_NO_LAYER).type, FG_TYPE_F32);
        fg_recipe_fini(&r);
    }
}
