/* SPDX-License-Identifier: MIT
 *
 * A recipe file: what was accepted gives every tensor of a shape a type.
 */
#include "convert/choose/recipe.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(recipe, 2500)

static void seeds(void)
{
    fuzz_seed_text("# comment\n*.experts.*.w2.weight q5\n*lm_head* q8\n*.self_attn.* q4+h\n"
                   "*.w1.weight bf16\n*.w3.weight bf16\n*embed* f32\n");
    fuzz_seed_text("* q4\n");
}

static void one(const uint8_t *d, size_t n)
{
    fg_err err = {0};
    fg_recipe r = {0};
    const fg_shape s = {.n_layer = 2,
                        .d_model = 32,
                        .n_head = 2,
                        .n_kv_head = 1,
                        .d_head = 16,
                        .d_rotary = 8,
                        .n_expert = 3,
                        .n_used = 2,
                        .d_ff = 48,
                        .n_vocab = 50,
                        .n_ctx_max = 64,
                        .attn = {0, 1}};
    const char *path = fuzz_put("recipe", d, n);
    fg_status st = fg_recipe_load(&r, "q4", path, &err);
    fuzz_check_status(st, &err);
    if (st == FG_OK) {
        st = fg_recipe_check(&r, &s, path, &err);
        fuzz_check_status(st, &err);
        for (size_t i = 0; i < r.n_rule; i++) {
            FUZZ_CHECK(fg_qtype_get(r.rule[i].choice.type + (fuzz_planted ? 99 : 0)) != NULL);
        }
    }
    fg_recipe_fini(&r);
    st = fg_recipe_load_text(&r, (const char *)d, n, "text", &err);
    fuzz_check_status(st, &err);
    fg_recipe_fini(&r);
}
