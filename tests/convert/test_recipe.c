/* SPDX-License-Identifier: MIT
 *
 * The named recipes: what they say, and what they cost to read for a token of the release.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "convert/source/names.h"
#include "convert/choose/recipe.h"
#include "convert/synth.h"
#include "tests/fg_test.h"

/* Weight bytes that one decoded token of the 456 B release reads: head, attention and routers, and
 * n_used of n_expert experts. */
static double gb_per_token(fg_recipe *r)
{
    fg_shape s;
    const fg_synth_opts o = {.n_layer = 80};
    double bytes = 0.0;
    if (fg_synth_shape(&s, &o, NULL) != FG_OK || s.n_vocab != 200064) return 0.0;
    for (uint64_t i = 0; i < fg_weight_count(&s); i++) {
        const fg_name t = fg_weight_at(&s, i);
        const bool expert = t.role >= FG_ROLE_EXPERT_GATE;
        uint64_t n_row, n_col;
        if (fg_role_is_vector(t.role) || t.role == FG_ROLE_EMBED) continue;
        fg_role_dims(t.role, &s, &n_row, &n_col);
        const fg_qtype type = fg_recipe_choose(r, t.role, t.layer, t.expert).type;
        const bool scaled = fg_qtype_get((uint32_t)type)->quantized;
        const double one =
            (double)(fg_n_panel(n_row) * (fg_panel_bytes(type, n_col) + (scaled ? 64 : 0)));
        bytes += expert ? one * s.n_used / s.n_expert : one;
    }
    return bytes * 1e-9;
}

static double gb_of(const char *type, const char *recipe)
{
    fg_recipe r;
    if (fg_recipe_load(&r, type, recipe, NULL) != FG_OK) return 0.0;
    const double gb = gb_per_token(&r);
    printf("  %s: %.2f GB per token\n", recipe == NULL ? type : recipe, gb);
    fg_recipe_fini(&r);
    return gb;
}

FG_TEST(gigabytes_per_token_of_the_release)
{
    const double fast = gb_of(NULL, "fast"), balanced = gb_of(NULL, "balanced");
    CHECK(fast >= 25.0 && fast <= 26.0);
    CHECK_NEAR(balanced, 30.0, 0.5);
    CHECK_NEAR(gb_of(NULL, "faithful"), 48.9, 0.5);
    /* the default of q4 is balanced; q5, the nearest other type, is in neither class */
    CHECK(gb_of("q4", NULL) == balanced);
    const double q5 = gb_of("q5", NULL);
    CHECK(q5 > 31.0);
}

FG_TEST(what_the_named_recipes_say)
{
    static const struct {
        const char *name;
        fg_qtype expert, attn, head, embed;
    } want[] = {
        {"fast", FG_TYPE_Q4, FG_TYPE_Q4, FG_TYPE_Q6, FG_TYPE_Q8},
        {"balanced", FG_TYPE_Q4, FG_TYPE_Q6, FG_TYPE_Q8, FG_TYPE_Q8},
        {"faithful", FG_TYPE_Q8, FG_TYPE_Q8, FG_TYPE_Q8, FG_TYPE_Q8},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        fg_recipe r;
        REQUIRE(fg_recipe_load(&r, NULL, want[i].name, NULL) == FG_OK);
        CHECK_U64(fg_recipe_choose(&r, FG_ROLE_EXPERT_UP, 1, 2).type, want[i].expert);
        CHECK_U64(fg_recipe_choose(&r, FG_ROLE_LIGHT_GATE, 0, FG_NO_LAYER).type, want[i].attn);
        CHECK_U64(fg_recipe_choose(&r, FG_ROLE_O, 7, FG_NO_LAYER).type, want[i].attn);
        CHECK_U64(fg_recipe_choose(&r, FG_ROLE_LM_HEAD, FG_NO_LAYER, FG_NO_LAYER).type,
                  want[i].head);
        CHECK_U64(fg_recipe_choose(&r, FG_ROLE_EMBED, FG_NO_LAYER, FG_NO_LAYER).type,
                  want[i].embed);
        fg_recipe_fini(&r);
    }
}

/* A file called like a recipe is taken only by a path, and a name stands for all types. */
FG_TEST(names_before_files)
{
    char here[512];
    REQUIRE(getcwd(here, sizeof here) != NULL);
    REQUIRE(chdir(fg_test_tmpdir()) == 0);
    FILE *f = fopen("fast", "w");
    if (f != NULL) {
        fputs("* q8\n", f);
        fclose(f);
    }
    fg_recipe named = {0}, file = {0}, both = {0};
    fg_err err = {0};
    const fg_status a = fg_recipe_load(&named, NULL, "fast", &err);
    const fg_status b = fg_recipe_load(&file, NULL, "./fast", &err);
    const fg_status c = fg_recipe_load(&both, "q8", "fast", &err);
    REQUIRE(chdir(here) == 0);
    REQUIRE(a == FG_OK && b == FG_OK);
    CHECK_U64(fg_recipe_choose(&named, FG_ROLE_K, 7, FG_NO_LAYER).type, FG_TYPE_Q4);
    CHECK_U64(fg_recipe_choose(&file, FG_ROLE_K, 7, FG_NO_LAYER).type, FG_TYPE_Q8);
    CHECK(c == FG_EINVAL && strstr(err.msg, "./fast") != NULL);
    CHECK(fg_recipe_is_name("faithful") && !fg_recipe_is_name("./fast") &&
          !fg_recipe_is_name(NULL));
    fg_recipe_fini(&named);
    fg_recipe_fini(&file);
    fg_recipe_fini(&both);
}
