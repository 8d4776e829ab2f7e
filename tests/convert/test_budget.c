/* SPDX-License-Identifier: MIT
 *
 * The choice of types under a budget: the solver against all choices of small instances, and the
 * whole on a small checkpoint: the converted file is within its budget and says what was chosen.
 */
#include "convert/choose/budget.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/convert.h"
#include "convert/source/names.h"
#include "convert/choose/recipe.h"
#include "convert/synth.h"
#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/format/reader.h"
#include "src/model/quant_unit.h"
#include "tests/ckpt.h"
#include "tests/convert/measured.h"
#include "tests/fg_test.h"

enum { N_UNIT = 6, T = FG_BUDGET_TYPES };

typedef struct instance {
    fg_budget_unit unit[N_UNIT];
    uint64_t budget;
    uint8_t refused[N_UNIT];  /* first choice that did not fit */
    uint8_t accepted[N_UNIT]; /* the last one before it that did */
    bool any_refused;
} instance;

static uint64_t bytes_of(const instance *x, const uint8_t *choice)
{
    uint64_t n = 0;
    for (int u = 0; u < N_UNIT; u++) n += x->unit[u].at[choice[u]].bytes;
    return n;
}

static double kld_of(const instance *x, const uint8_t *choice)
{
    double n = 0.0;
    for (int u = 0; u < N_UNIT; u++) n += x->unit[u].at[choice[u]].kld;
    return n;
}

static bool within(void *ctx, const uint8_t *choice)
{
    instance *x = ctx;
    const bool ok = bytes_of(x, choice) <= x->budget;
    if (!ok && !x->any_refused) {
        x->any_refused = true;
        memcpy(x->refused, choice, sizeof x->refused);
    }
    if (ok && !x->any_refused) memcpy(x->accepted, choice, sizeof x->accepted);
    return ok;
}

/* Least divergence of all choices within the budget. */
static double brute_force(const instance *x)
{
    double best = 1e300;
    uint8_t choice[N_UNIT];
    for (uint32_t code = 0; code < 1u << (2 * N_UNIT); code++) {
        for (int u = 0; u < N_UNIT; u++) choice[u] = (uint8_t)(code >> (2 * u) & 3);
        if (bytes_of(x, choice) > x->budget) continue;
        const double k = kld_of(x, choice);
        if (k < best) best = k;
    }
    return best;
}

/* Falling divergences; convex: in the type's order of bytes as well. */
static void draw(instance *x, fg_rng *r, bool convex)
{
    *x = (instance){.budget = 0};
    uint64_t least = 0, most = 0;
    for (int u = 0; u < N_UNIT; u++) {
        const uint64_t unit = 1 + fg_rng_u64(r) % 40;
        double k = 0.001 + fg_rng_f64(r);
        for (int t = 0; t < T; t++) {
            static const uint64_t bits[T] = {17, 21, 25, 33};
            x->unit[u].at[t] = (fg_budget_point){unit * bits[t], k};
            k *= convex ? 0.3 : 0.05 + 0.9 * fg_rng_f64(r);
        }
        least += x->unit[u].at[0].bytes;
        most += x->unit[u].at[T - 1].bytes;
    }
    x->budget = least + fg_rng_u64(r) % (most - least + 1);
}

/* What is promised: no better than the optimum by more than the first refused step would have
 * saved. step: that saving. */
static bool promise_holds(instance *x, const uint8_t *choice, double step)
{
    const double best = brute_force(x), got = kld_of(x, choice);
    return bytes_of(x, choice) <= x->budget && got >= best - 1e-12 && got <= best + step + 1e-12;
}

/* Saving of the first refused step over the choice before it. */
static double refused_step(const instance *x)
{
    return x->any_refused ? kld_of(x, x->accepted) - kld_of(x, x->refused) : 0.0;
}

FG_TEST(solver_against_all_choices)
{
    fg_rng r;
    fg_rng_init(&r, 11);
    double gap = 0.0;
    uint32_t n_exact = 0;
    for (int i = 0; i < 300; i++) {
        instance x;
        draw(&x, &r, i % 2 == 0);
        uint8_t choice[N_UNIT] = {0};
        fg_budget_solve(x.unit, N_UNIT, within, &x, choice);
        CHECK(promise_holds(&x, choice, refused_step(&x)));
        const double d = kld_of(&x, choice) - brute_force(&x);
        if (d < 1e-12) n_exact++;
        if (d > gap) gap = d;
    }
    printf("  exact in %u of 300, largest gap %.4f\n", n_exact, gap);
    CHECK(n_exact > 100);
}

/* A budget that is exactly the size of a prefix of the greedy order leaves nothing to do better. */
FG_TEST(solver_is_exact_between_steps)
{
    fg_rng r;
    fg_rng_init(&r, 12);
    for (int i = 0; i < 100; i++) {
        instance x;
        uint8_t choice[N_UNIT] = {0}, again[N_UNIT] = {0};
        draw(&x, &r, true);
        fg_budget_solve(x.unit, N_UNIT, within, &x, choice);
        if (!x.any_refused) continue;
        instance y = x;
        y.any_refused = false;
        y.budget = bytes_of(&x, x.refused);
        fg_budget_solve(y.unit, N_UNIT, within, &y, again);
        CHECK(bytes_of(&y, again) == y.budget);
        CHECK_NEAR(kld_of(&y, again), brute_force(&y), 1e-12);
    }
}

/* Negative control: a choice by other reasons (cheapest step first) breaks the promise. */
FG_TEST(a_worse_choice_is_told)
{
    fg_rng r;
    fg_rng_init(&r, 13);
    int told = 0;
    for (int i = 0; i < 100; i++) {
        instance x;
        draw(&x, &r, true);
        uint8_t choice[N_UNIT] = {0};
        for (int u = 0; u < N_UNIT; u++) {
            while (choice[u] + 1 < T) {
                choice[u]++;
                if (within(&x, choice)) continue;
                choice[u]--;
                break;
            }
        }
        double largest = 0.0;
        for (int u = 0; u < N_UNIT; u++) {
            const double d = x.unit[u].at[0].kld - x.unit[u].at[1].kld;
            if (d > largest) largest = d;
        }
        const double d = kld_of(&x, choice) - brute_force(&x);
        if (d > largest) told++;
    }
    printf("  told in %d of 100\n", told);
    CHECK(told > 10);
}

/* ---- on a checkpoint ---- */

static fg_status convert(const char *dir, const char *out, const char *sensitivity, double bpw,
                         uint64_t bytes, fg_convert_report *report, fg_err *err)
{
    const fg_convert_opts o = {.src_dir = dir,
                               .out_path = out,
                               .sensitivity_path = sensitivity,
                               .target_bpw = bpw,
                               .target_bytes = bytes,
                               .n_thread = 1};
    return fg_convert(&o, report, err);
}

/* The release: a choice in seconds, and a recipe that meets the budget. */
FG_TEST(the_release)
{
    fg_shape s;
    fg_recipe r;
    fg_buf b = {0};
    fg_err err = {0};
    const fg_synth_opts so = {.n_layer = 80};
    REQUIRE_OK(fg_synth_shape(&s, &so, &err), &err);
    const fg_budget_opts o = {sensitivity_file(&s, 7, NULL, NULL), 4.5, 0, 10 << 20, 8};
    const uint64_t start = fg_clock_ns();
    REQUIRE_OK(fg_budget_choose(&b, &s, &o, &err), &err);
    printf("  %.2f s, recipe of %zu bytes\n", (double)(fg_clock_ns() - start) * 1e-9, b.len);
    REQUIRE_OK(fg_recipe_load_text(&r, (const char *)b.data, b.len, "release", &err), &err);
    const fg_file_spec spec = {.shape = &s, .choose = fg_recipe_choose, .ctx = &r};
    fg_file_plan *p;
    REQUIRE_OK(fg_file_plan_make(&p, &spec, "release", &err), &err);
    uint64_t n_weight, bytes;
    fg_file_plan_sums(p, &n_weight, &bytes);
    const double bits = 8.0 * (double)bytes, n = (double)n_weight;
    printf("  %.4f bits per weight, %.1f GB\n", bits / n,
           (double)fg_file_plan_file_bytes(p) * 1e-9);
    CHECK(bits / n <= 4.5 && bits / n > 4.49);
    fg_file_plan_destroy(&p);
    fg_recipe_fini(&r);
    /* by the size of the file: the same shape, some GB less */
    const fg_budget_opts o2 = {o.sensitivity_path, 0.0, 250000000000, 10 << 20, 8};
    b.len = 0;
    CHECK_OK(fg_budget_choose(&b, &s, &o2, &err), &err);
    const fg_budget_opts o3 = {o.sensitivity_path, 0.0, 240000000000, 10 << 20, 8};
    CHECK(fg_budget_choose(&b, &s, &o3, &err) == FG_ELIMIT);
    printf("  %s\n", err.msg);
    fg_buf_fini(&b);
}

typedef struct fixture {
    ckpt c;
    const char *dir;
    char out[512];           /* of what a test converts */
    fg_model_file *f;        /* of type q4 throughout */
    fg_convert_report least; /* all q4 */
} fixture;

static bool set_up(fixture *x)
{
    fg_err err = {0};
    *x = (fixture){.dir = ckpt_dir("budget")};
    (void)snprintf(x->out, sizeof x->out, "%s/out.fulgur", fg_test_tmpdir());
    ckpt_init(&x->c);
    ckpt_write(&x->c, x->dir);
    ckpt_put_file(x->dir, "q4.recipe", "* q4\n", 5);
    char recipe[512];
    (void)snprintf(recipe, sizeof recipe, "%s/q4.recipe", x->dir);
    const char *out = fg_test_tmp("budget-q4.fulgur");
    const fg_convert_opts o = {
        .src_dir = x->dir, .out_path = out, .recipe_path = recipe, .n_thread = 1};
    if (fg_convert(&o, &x->least, &err) != FG_OK) return false;
    return fg_model_file_open(&x->f, out, &err) == FG_OK;
}

static void tear_down(fixture *x)
{
    fg_model_file_close(&x->f);
    ckpt_fini(&x->c);
}

static fg_qtype type_of(const char *path, fg_role role, uint32_t layer, uint32_t expert)
{
    fg_model_file *f;
    if (fg_model_file_open(&f, path, NULL) != FG_OK) return FG_TYPE_F32;
    const fg_qtype type = (fg_qtype)fg_model_file_find(f, role, layer, expert)->type;
    fg_model_file_close(&f);
    return type;
}

FG_TEST(files_are_within_their_budget)
{
    fixture x;
    REQUIRE(set_up(&x));
    const char *s = sensitivity_file(&x.c.shape, 9, NULL, NULL);
    fg_convert_report r;
    fg_err err = {0};
    double before = 0.0;
    const double most = 2.0 * x.least.bits_per_weight; /* over all q8: 8.25 bits for 4.25 */
    const double step = fg_test_long() ? 0.07 : 0.15;
    for (double bpw = x.least.bits_per_weight; bpw < most; bpw += step * most) {
        REQUIRE_OK(convert(x.dir, x.out, s, bpw, 0, &r, &err), &err);
        CHECK(r.bits_per_weight <= bpw);
        CHECK(r.bits_per_weight >= before); /* more room is used */
        before = r.bits_per_weight;
    }
    REQUIRE_OK(convert(x.dir, x.out, s, most, 0, &r, &err), &err);
    CHECK_U64(type_of(x.out, FG_ROLE_LM_HEAD, FG_NO_LAYER, FG_NO_LAYER), FG_TYPE_Q8);
    CHECK_U64(type_of(x.out, FG_ROLE_EXPERT_UP, 0, 2), FG_TYPE_Q8);
    for (uint64_t more = 0; more < 40000; more += 7000) {
        /* metadata is counted with a margin of some hundred bytes, which may cost a step of 2
         * MiB */
        const uint64_t bytes = x.least.file_bytes + ((uint64_t)2 << 20) + more;
        REQUIRE_OK(convert(x.dir, x.out, s, 0.0, bytes, &r, &err), &err);
        CHECK(r.file_bytes <= bytes);
    }
    tear_down(&x);
}

/* The dear unit gets the bytes, whichever it is; the file's recipe says so and gives the same
 * file. */
FG_TEST(bytes_go_where_they_help)
{
    fixture x;
    REQUIRE(set_up(&x));
    fg_convert_report r;
    fg_err err = {0};
    for (uint32_t dear = 0; dear < fg_quant_unit_count(&x.c.shape);
         dear += (uint32_t)fg_test_every(3, 7)) {
        const char *s = sensitivity_file(&x.c.shape, dear, NULL, NULL);
        REQUIRE_OK(convert(x.dir, x.out, s, x.least.bits_per_weight + 2.0, 0, &r, &err), &err);
        fg_model_file *f;
        REQUIRE_OK(fg_model_file_open(&f, x.out, &err), &err);
        for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
            const fg_tensor *t = fg_model_file_tensor(f, i);
            uint32_t idx;
            if (!fg_quant_unit_of(&x.c.shape, (fg_role)t->role, t->layer, &idx)) {
                CHECK_U64(t->type, FG_TYPE_F32);
            } else if (idx == dear) {
                CHECK(t->type > FG_TYPE_Q4);
            }
        }
        const char *text;
        size_t n;
        fg_recipe again;
        REQUIRE(fg_model_file_meta(f, "recipe", &text, &n, &err) == FG_OK && text != NULL);
        CHECK(strncmp(text, "# chosen for at most ", 21) == 0);
        REQUIRE_OK(fg_recipe_load_text(&again, text, n, "again", &err), &err);
        for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
            const fg_tensor *t = fg_model_file_tensor(f, i);
            CHECK_U64(fg_recipe_choose(&again, (fg_role)t->role, t->layer, t->expert).type,
                      t->type);
        }
        fg_recipe_fini(&again);
        fg_model_file_close(&f);
    }
    tear_down(&x);
}

FG_TEST(refusals)
{
    static const struct {
        const char *from, *to, *message;
        fg_status status;
    } bad[] = {
        {"\"version\": 1", "\"version\": 2", "expected one", FG_EFORMAT},
        {"{\"class\": \"embed\"", "{\"class\": \"lm_head\"", "expected embed", FG_ESHAPE},
        {"\"weights\": ", "\"weights\": 1", "expected embed of", FG_ESHAPE},
        {"\"layer\": 1", "\"layer\": 0", "unit 5", FG_ESHAPE},
        {"\"kld\": ", "\"kld\": -", "expected kld", FG_EFORMAT},
        {"\"type\": \"q4\"", "\"type\": \"f32\"", "expected type", FG_EFORMAT},
        {"},\n{\"layer\": 0, \"class\": \"attn_in\"",
         "}, null, {\"layer\": 0, \"class\": \"attn_in\"", "11 units, expected 10", FG_ESHAPE},
        {"]}", "]", "", FG_EFORMAT},
    };
    fixture x;
    REQUIRE(set_up(&x));
    (void)remove(x.out);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fg_err err = {0};
        const char *s = sensitivity_file(&x.c.shape, 0, bad[i].from, bad[i].to);
        CHECK(convert(x.dir, x.out, s, 6.0, 0, NULL, &err) == bad[i].status);
        CHECK(strstr(err.msg, "s.json") != NULL && strstr(err.msg, bad[i].message) != NULL);
        if (fg_test_failed()) printf("  %zu: %s\n", i, err.msg);
    }
    fg_err err = {0};
    const char *s = sensitivity_file(&x.c.shape, 0, NULL, NULL);
    CHECK(convert(x.dir, x.out, s, x.least.bits_per_weight - 0.01, 0, NULL, &err) == FG_ELIMIT);
    CHECK(strstr(err.msg, "(all q4)") != NULL);
    CHECK(convert(x.dir, x.out, s, 0.0, x.least.file_bytes / 2, NULL, &err) == FG_ELIMIT);
    CHECK(strstr(err.msg, "(all q4)") != NULL);
    CHECK(convert(x.dir, x.out, s, 0.0, 0, NULL, &err) == FG_EINVAL);
    CHECK(convert(x.dir, x.out, NULL, 6.0, 0, NULL, &err) == FG_EINVAL);
    CHECK(!fg_io_exists(x.out));
    tear_down(&x);
}

FG_TEST(every_failed_allocation_is_an_error)
{
    fixture x;
    REQUIRE(set_up(&x));
    const char *s = sensitivity_file(&x.c.shape, 3, NULL, NULL);
    const fg_budget_opts o = {s, x.least.bits_per_weight + 0.4, 0, 1000, 8};
    bool done = false;
    for (uint64_t i = 1; i < 100000 && !done; i += 1 + i / 7) {
        fg_buf b = {0};
        fg_mem_fail_after(i);
        const fg_status st = fg_budget_choose(&b, &x.c.shape, &o, NULL);
        fg_mem_fail_after(0);
        CHECK(st == FG_OK || st == FG_ENOMEM || st == FG_EFORMAT);
        done = st == FG_OK;
        fg_buf_fini(&b);
    }
    CHECK(done);
    tear_down(&x);
}
