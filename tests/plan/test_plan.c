/* SPDX-License-Identifier: MIT
 *
 * Plans: sizes equal those of real conversions to the byte, memory equals what sessions allocate,
 * the formulas equal sums done another way and a simulation, and wrong inputs are seen to be wrong.
 */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "convert/convert.h"
#include "convert/dry_run.h"
#include "convert/choose/recipe.h"
#include "convert/synth.h"
#include "src/base/clock.h"
#include "src/base/rng.h"
#include "bench/bench.h"
#include "src/plan/doctor.h"
#include "src/plan/nodes.h"
#include "src/engine/kv.h"
#include "src/model/forward.h"
#include "src/sys/cpu.h"
#include "src/sys/disk.h"
#include "tests/ckpt.h"
#include "src/model/mark.h"
#include "tests/fg_test.h"
#include "tests/models.h"
#include "src/engine/session.h"
#include "src/engine/memory.h"

/* ---- sizes ---- */

/* Of n_node equal nodes; what is asked of it later knows of one. */
static bool demand_on_nodes(fg_demand *d, const fg_file_plan *p, uint32_t n_node, fg_err *err)
{
    fg_nodes n;
    const fg_nodes_opts o = {.n_node = n_node};
    const bool ok =
        fg_nodes_open(&n, &o, err) == FG_OK && fg_demand_of_plan(d, p, n.place, err) == FG_OK;
    d->place = NULL;
    fg_nodes_close(&n);
    return ok;
}

static bool planned_demand(fg_demand *d, const char *src, const char *type, const char *recipe,
                           uint32_t n_node, bool *exact)
{
    fg_file_plan *p;
    fg_err err = {0};
    if (fg_dry_run_plan(&p, src, type, recipe, exact, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        return false;
    }
    const bool ok = demand_on_nodes(d, p, n_node, &err);
    if (!ok) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    fg_file_plan_destroy(&p);
    return ok;
}

/* Every field that comes from tensors. */
static void check_same(const fg_demand *a, const fg_demand *b)
{
    CHECK_U64(a->file_bytes, b->file_bytes);
    CHECK_U64(a->n_tensor, b->n_tensor);
    CHECK_U64(a->n_weight, b->n_weight);
    CHECK_U64(a->embed_bytes, b->embed_bytes);
    CHECK_U64(a->dense_bytes, b->dense_bytes);
    CHECK_U64(a->experts_bytes, b->experts_bytes);
    CHECK_U64(a->head_bytes, b->head_bytes);
    CHECK_U64(a->expert_bytes, b->expert_bytes);
    CHECK_U64(a->node_bytes, b->node_bytes);
    CHECK_NEAR(a->token_bytes, b->token_bytes, 0.0);
    CHECK_NEAR(a->imbalance, b->imbalance, 0.0);
    CHECK(memcmp(&a->forms, &b->forms, sizeof a->forms) == 0);
}

/* Against what the reader says about the finished file. */
static void check_file(const fg_demand *d, const char *path)
{
    fg_engine_opts eo = fg_engine_opts_default();
    fg_engine *e;
    fg_err err = {0};
    eo.n_thread = 1;
    REQUIRE_OK(fg_engine_open(&e, path, &eo, &err), &err);
    const fg_model_file *f = fg_engine_file(e);
    const fg_shape *s = fg_engine_shape(e);
    uint64_t dense = 0, experts = 0, largest = 0;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        dense += fg_model_file_dense_extent(f, l).bytes;
        for (uint32_t x = 0; x < s->n_expert; x++) {
            const uint64_t n = fg_model_file_expert_extent(f, l, x).bytes;
            experts += n;
            if (n > largest) largest = n;
        }
    }
    struct stat sb;
    CHECK(stat(path, &sb) == 0);
    CHECK_U64(d->file_bytes, (uint64_t)sb.st_size);
    CHECK_U64(d->dense_bytes, dense);
    CHECK_U64(d->experts_bytes, experts);
    CHECK_U64(d->expert_bytes, largest);
    CHECK_NEAR(d->token_bytes, (double)fg_engine_token_bytes(e), 0.0);
    fg_engine_close(&e);
}

static void check_conversion(const char *src, const char *type, const char *recipe)
{
    fg_convert_opts o = {.src_dir = src, .type = type, .recipe_path = recipe};
    fg_demand plan, file;
    fg_err err = {0};
    bool exact = false;
    o.out_path = fg_test_tmp("plan.fulgur");
    if (fg_convert(&o, NULL, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s %s: %s", src, type == NULL ? "" : type, err.msg);
        return;
    }
    if (!planned_demand(&plan, src, type, recipe, 1, &exact)) return;
    CHECK(exact);
    check_file(&plan, o.out_path);
    fg_model_file *f;
    REQUIRE_OK(fg_model_file_open(&f, o.out_path, &err), &err);
    CHECK_OK(fg_demand_of_file(&file, f, NULL, &err), &err);
    check_same(&plan, &file);
    fg_model_file_close(&f);
}

FG_TEST(plans_have_the_sizes_of_real_conversions)
{
    static const char *const oracle[] = {"hf-long", "orig-base", "orig-heads6", "orig-wide"};
    for (uint32_t i = 0; i < FG_QTYPE_COUNT; i++) {
        char src[64];
        (void)snprintf(src, sizeof src, "tests/vectors/oracle/%s", oracle[i % 4]);
        check_conversion(src, fg_qtype_at(i)->name, NULL);
    }
    check_conversion(NANO_DIR, NULL, NULL);
    check_conversion(NANO_DIR, NULL, "fast");
    check_conversion(NANO_DIR, "f32", NULL);
    FILE *f = fopen(fg_test_tmp("mixed.recipe"), "w");
    REQUIRE(f != NULL);
    fputs("*.experts.*.w2.weight q6+h\n*.layers.2.* q8\n", f);
    REQUIRE(fclose(f) == 0);
    check_conversion(NANO_DIR, "q4", fg_test_tmp("mixed.recipe"));
}

FG_TEST(plans_see_what_changes_a_size)
{
    fg_demand a, b;
    bool exact;
    REQUIRE(planned_demand(&a, NANO_DIR, "q4", NULL, 1, &exact));
    REQUIRE(planned_demand(&b, NANO_DIR, "q5", NULL, 1, &exact));
    CHECK(a.dense_bytes != b.dense_bytes && a.token_bytes != b.token_bytes);
    REQUIRE(planned_demand(&b, NANO_DIR, "q8", NULL, 1,
                           &exact)); /* layers begin at 2 MiB: q5 fits too */
    CHECK(a.file_bytes != b.file_bytes);
    /* a configuration alone: equal data, no tokenizer, not called exact */
    REQUIRE(planned_demand(&b, NANO_DIR "/config.json", "q4", NULL, 1, &exact));
    CHECK(!exact && a.file_bytes > b.file_bytes);
    CHECK_U64(a.experts_bytes, b.experts_bytes);
    CHECK_NEAR(a.token_bytes, b.token_bytes, 0.0);
}

FG_TEST(plans_refuse_what_conversions_refuse)
{
    fg_file_plan *p;
    bool exact;
    fg_err err = {0};
    CHECK(fg_dry_run_plan(&p, fg_test_tmp("nothing"), NULL, NULL, &exact, &err) == FG_EIO);
    CHECK(fg_dry_run_plan(&p, NANO_DIR, "q3", NULL, &exact, &err) == FG_EINVAL);
    CHECK(fg_dry_run_plan(&p, NANO_DIR, NULL, fg_test_tmp("nothing"), &exact, &err) == FG_EIO);
    CHECK(fg_dry_run_plan(&p, NANO_DIR "/tokenizer.json", NULL, NULL, &exact, &err) != FG_OK);
    CHECK(fg_dry_run_plan(&p, fg_test_tmpdir(), NULL, NULL, &exact, &err) == FG_EIO);
    CHECK(p == NULL);
}

/* ---- memory ---- */

static fg_rates flat_rates(double gbs, double gmacs, double disk)
{
    fg_rates r = {.n_thread = 2, .read_gbs = gbs, .attn_gmacs = gmacs, .disk_gbs = disk};
    for (uint32_t t = 0; t < FG_RATE_TYPES; t++) {
        r.gemv_gbs[t] = gbs;
        r.dense_gmacs[t] = r.expert_gmacs[t] = gmacs;
    }
    return r;
}

FG_TEST(memory_is_what_a_session_allocates)
{
    static const char *const types[] = {"q4", "f32"};
    for (int i = 0; i < 2; i++) {
        const char *path = model_file(NANO_DIR, types[i]);
        fg_model_file *f;
        fg_model *m;
        fg_scratch *s;
        fg_demand d;
        fg_forecast x;
        fg_err err = {0};
        REQUIRE(path != NULL && fg_model_file_open(&f, path, &err) == FG_OK);
        REQUIRE_OK(fg_model_create(&m, f, fg_cpu_detect(), &err), &err);
        REQUIRE_OK(fg_demand_of_file(&d, f, NULL, &err), &err);
        CHECK(d.quantized == m->quantized);
        const fg_rates r = flat_rates(50, 500, 2);
        fg_forecast_opts o = fg_forecast_opts_default();
        o.n_ctx = 3000;
        o.n_batch = 96;
        REQUIRE_OK(fg_forecast_make(&x, &d, &r, 3, &o, &err), &err);
        uint64_t state;
        const fg_kv_type kv = fg_kv_resolve(FG_KV_CHOICE_AUTO, m->quantized);
        CHECK_OK(fg_state_size(m->shape, 3000, kv, NULL, &state, &err), &err);
        CHECK_U64(x.lightning_bytes + x.kv_bytes, state);
        REQUIRE_OK(fg_scratch_create(&s, m, 3000, 96, 3, &err), &err);
        CHECK_U64(x.scratch_bytes, s->bytes);
        fg_scratch_destroy(&s);
        CHECK_U64(x.fixed_bytes, d.embed_bytes + d.dense_bytes + d.head_bytes + state +
                                     x.scratch_bytes + x.undo_bytes + FG_MEMORY_PROGRAM);
        CHECK_U64(x.undo_bytes, fg_mark_bytes(m->shape, FG_LIGHT_CHUNK - 1));
        o.n_ctx = m->shape->n_ctx_max + 1;
        CHECK(fg_forecast_make(&x, &d, &r, 3, &o, &err) == FG_ELIMIT);
        fg_model_destroy(&m);
        fg_model_file_close(&f);
    }
}

/* ---- MiniMax-M1 by its published numbers ---- */

static bool m1_demand(fg_demand *d, const char *type, uint32_t n_node)
{
    /* the shape, through a configuration that synth writes */
    const fg_synth_opts so = {.shape = "m1", .n_layer = 80};
    fg_shape s;
    fg_file_plan *p = NULL;
    fg_err err = {0};
    if (fg_synth_shape(&s, &so, &err) != FG_OK) return false;
    fg_recipe r;
    if (fg_recipe_load(&r, type, NULL, &err) != FG_OK) return false;
    const fg_file_spec spec = {.shape = &s, .choose = fg_recipe_choose, .ctx = &r};
    bool ok = fg_file_plan_make(&p, &spec, "m1", &err) == FG_OK;
    ok = ok && demand_on_nodes(d, p, n_node, &err);
    fg_file_plan_destroy(&p);
    fg_recipe_fini(&r);
    if (!ok) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return ok;
}

FG_TEST(m1_needs_what_its_dimensions_say)
{
    fg_demand d;
    REQUIRE(m1_demand(&d, "q4", 1));
    CHECK_U64(d.n_weight, 456089655296u); /* release: 912,210,767,872 bytes, router f32 */
    CHECK_U64(d.expert_bytes, FG_DOCTOR_EXPERT_BYTES);
    /* an expert: 3 x 9216 x 6144 at 1088 bytes for 2048 weights, and row scales */
    CHECK_U64(d.expert_bytes, 3ull * 9216 * 6144 * 1088 / 2048 + 4ull * (9216 + 9216 + 6144));
    CHECK_U64(d.experts_bytes, 2560 * d.expert_bytes);
    double lightning = 70.0 * (6144.0 * 24576 + 6144.0 * 8192 * 2);
    double softmax = 10.0 * (6144.0 * 8192 * 2 + 6144.0 * 1024 * 2);
    const double q6 = 1600.0 / 2048, q8 = 2112.0 / 2048;
    const double rows = 70.0 * (24576 + 8192 + 6144) + 10.0 * (8192 + 6144 + 2048) + 200064;
    const double want = 160.0 * (double)d.expert_bytes + (lightning + softmax) * q6 +
                        6144.0 * 200064 * q8 + 80.0 * 32 * 6144 * 4 + 4.0 * rows;
    CHECK_NEAR(d.token_bytes, want, 1.0);
    CHECK(d.token_bytes > 30.3e9 && d.token_bytes < 30.5e9); /* src/model/MODEL.md 8 */
}

FG_TEST(long_prompts_get_larger_batches)
{
    static const struct {
        uint64_t n, spare;
        uint32_t want;
    } row[] = {
        {1, UINT64_MAX, 512},     {512, UINT64_MAX, 512},         {513, UINT64_MAX, 513},
        {2048, UINT64_MAX, 2048}, {2049, UINT64_MAX, 1025},       {10000, UINT64_MAX, 2000},
        {2048, 0, 512},           {UINT64_MAX, UINT64_MAX, 2048},
    };
    fg_demand d;
    REQUIRE(m1_demand(&d, "q4", 1));
    const fg_memory_opts mo = {.n_ctx = 4096, .n_batch = 512, .n_thread = 16};
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        const uint32_t got = fg_memory_batch(&d.shape, &d.forms, &mo, row[i].n, row[i].spare);
        CHECK_U64(got, row[i].want);
    }
    const uint64_t more = fg_scratch_bytes(&d.shape, &d.forms, 4096, 2048, 16) -
                          fg_scratch_bytes(&d.shape, &d.forms, 4096, 512, 16);
    CHECK_U64(fg_memory_batch(&d.shape, &d.forms, &mo, 2048, more), 2048);
    CHECK_U64(fg_memory_batch(&d.shape, &d.forms, &mo, 2048, more - 1), 1024);

    /* the plan says what the session does, and counts it in no sum */
    const fg_rates r = flat_rates(100, 1000, 5);
    fg_forecast_opts o = fg_forecast_opts_default();
    fg_forecast usual, larger;
    fg_err err = {0};
    REQUIRE_OK(fg_forecast_make(&usual, &d, &r, 16, &o, &err), &err);
    o.ram_bytes = usual.all_ram_bytes + 8 * more;
    CHECK_U64(fg_forecast_batch(&d, 16, &o, 0), 2048);
    CHECK_U64(fg_forecast_batch(&d, 16, &o, 1024), 1024);
    o.n_long = 2048;
    REQUIRE_OK(fg_forecast_make(&larger, &d, &r, 16, &o, &err), &err);
    CHECK_U64(larger.long_bytes, more);
    CHECK_U64(larger.all_ram_bytes, usual.all_ram_bytes);
    o.ram_bytes -= 8;
    CHECK_U64(fg_forecast_batch(&d, 16, &o, 0), 1024);
    o.ram_bytes = usual.all_ram_bytes - 1; /* streamed */
    CHECK_U64(fg_forecast_batch(&d, 16, &o, 0), 512);
}

FG_TEST(nodes_get_equal_parts_where_panels_divide)
{
    fg_demand one, d;
    REQUIRE(m1_demand(&one, "q4", 1));
    CHECK_NEAR(one.imbalance, 1.0, 0.0);
    for (uint32_t n = 2; n <= 16; n++) {
        REQUIRE(m1_demand(&d, "q4", n));
        CHECK_NEAR(d.token_bytes, one.token_bytes, 0.0);
        CHECK(d.node_bytes * n >= one.node_bytes - n);
        CHECK(d.imbalance >= 1.0);
        if ((n & (n - 1)) == 0 && n < 8) CHECK(d.imbalance < 1.01); /* the router has two panels */
        if (n == 5 || n == 7 || n == 11) CHECK(d.imbalance > 1.01); /* FORMAT.md 7: up to 25 % */
    }
    fg_err err = {0};
    fg_nodes nodes;
    CHECK(fg_nodes_open(&nodes, &(fg_nodes_opts){.n_node = 65}, &err) == FG_EINVAL);
    CHECK(fg_nodes_open(&nodes, &(fg_nodes_opts){.n_node = 3, .topology = "node:2 core:1 pu:1"},
                        &err) == FG_EINVAL);
}

/* ---- the formulas ---- */

static fg_forecast make(const fg_demand *d, const fg_rates *r, uint64_t ram, double overlap,
                        double reuse)
{
    fg_forecast_opts o = fg_forecast_opts_default();
    fg_forecast f = {0};
    fg_err err = {0};
    o.ram_bytes = ram;
    o.fit = (fg_forecast_fit){.overlap = overlap, .reuse = reuse};
    if (fg_forecast_make(&f, d, r, 2, &o, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    return f;
}

FG_TEST(resident_speed_is_bytes_over_bandwidth)
{
    fg_demand d;
    REQUIRE(m1_demand(&d, "q4", 1));
    const fg_rates r = flat_rates(100, 1e9, 0);
    const fg_forecast f = make(&d, &r, UINT64_MAX, 1, 0);
    CHECK(f.resident && f.fits && f.n_slot == 2560 && f.misses == 0.0);
    const double light = 70.0 * 4 * 64 * 128 * (128 + 64);
    const double bytes = d.token_bytes + light + 10.0 * 8 * 2 * (128 + 4);
    CHECK_NEAR(f.decode[0].tok_s, 100e9 / bytes, 1e-6);
    /* a token that reads a fifth more is another speed: the check above can fail */
    CHECK(fabs(f.decode[0].tok_s - 100e9 / (1.2 * bytes)) > 0.1);
    CHECK(f.decode[1].tok_s < f.decode[0].tok_s);
    CHECK_U64(f.decode[1].pos, 4095);
    const double kv = 10.0 * 8 * 2 * (128 + 4) * 4096;
    CHECK_NEAR(f.decode[1].state_bytes, light + kv, 1.0);
    /* half the bandwidth, half the speed; imbalance of nodes in the same way */
    const fg_rates half = flat_rates(50, 1e9, 0);
    CHECK_NEAR(make(&d, &half, UINT64_MAX, 1, 0).decode[0].tok_s, 0.5 * f.decode[0].tok_s, 1e-6);
    /* prefill: multiply-adds of all matrices but the head, which one token of the batch meets */
    const fg_rates slow = flat_rates(1e9, 100, 0);
    const double gmac = 47.16768 - 1.229193; /* src/model/MODEL.md 8: 47.2 with lm_head */
    CHECK_NEAR(make(&d, &slow, UINT64_MAX, 1, 0).prefill[0].tok_s, 100.0 / gmac, 0.02);
}

FG_TEST(budgets_decide_what_is_resident)
{
    fg_demand d;
    REQUIRE(m1_demand(&d, "q4", 1));
    const fg_rates r = flat_rates(100, 1000, 5);
    fg_forecast f = make(&d, &r, UINT64_MAX, 1, 0);
    const uint64_t all = f.all_ram_bytes, least = f.min_ram_bytes;
    CHECK_U64(d.expert_bytes % 4096, 0);
    CHECK_U64(least, f.fixed_bytes + 3 * d.expert_bytes);
    CHECK(make(&d, &r, all, 1, 0).resident);
    CHECK(!make(&d, &r, all - 1, 1, 0).resident);
    f = make(&d, &r, least, 1, 0);
    CHECK(f.fits && f.n_slot == 3);
    f = make(&d, &r, least - 1, 1, 0);
    CHECK(!f.fits && f.n_slot == 0 && f.decode[0].tok_s == 0.0);
    double last = 0.0;
    for (uint64_t ram = least; ram < all; ram += all / 50) {
        f = make(&d, &r, ram, 1, 0);
        CHECK(f.decode[0].tok_s >= last);
        CHECK(f.decode[0].serial_tok_s <= f.decode[0].tok_s);
        CHECK(f.decode[0].tok_s <= f.decode[0].bound_tok_s);
        CHECK(f.decode[0].bound_tok_s <= f.decode[0].resident_tok_s);
        CHECK(f.prefill[0].serial_tok_s <= f.prefill[0].tok_s);
        last = f.decode[0].tok_s;
    }
    const fg_rates unknown = flat_rates(100, 1000, 0);
    CHECK(make(&d, &unknown, least, 1, 0).decode[0].tok_s == 0.0); /* no disk, no forecast */
}

/* Walks the token's layers with random misses and adds up times as the engine would spend them. */
FG_TEST(streamed_speed_equals_a_simulation)
{
    fg_demand d;
    REQUIRE(m1_demand(&d, "q4", 1));
    const fg_rates r = flat_rates(90, 1000, 7);
    static const double share[] = {0.0, 0.2, 0.5, 0.9};
    for (size_t i = 0; i < 4; i++) {
        for (int o = 0; o < 3; o++) {
            const double overlap = 0.5 * o;
            fg_forecast f = make(&d, &r, UINT64_MAX, overlap, 0);
            const uint64_t slots = (uint64_t)(share[i] * 2560.0);
            f = make(&d, &r, f.fixed_bytes + (slots < 3 ? 3 : slots) * d.expert_bytes, overlap, 0);
            const double each = (double)d.expert_bytes / 7e9;
            const double own = 2.0 * (double)d.expert_bytes / 90e9;
            const int n_token = 3000;
            double sum = 0.0, misses = 0.0;
            fg_rng rng;
            fg_rng_init(&rng, i);
            for (int t = 0; t < n_token; t++) {
                for (int l = 0; l < 80; l++) { /* as if the first h were there */
                    const double there = f.hit * 32.0;
                    const double a = fg_rng_f64(&rng) * 32.0, b = fg_rng_f64(&rng) * 32.0;
                    const int m = (a >= there) + (b >= there);
                    const double read = m * each, least = read < own ? read : own;
                    sum += read - overlap * least;
                    misses += m;
                }
            }
            const double seconds = 1.0 / f.decode[0].resident_tok_s + sum / n_token;
            CHECK_NEAR(f.misses, misses / n_token, 0.4); /* 4 standard errors: 80 p q 2 / 3000 */
            CHECK_NEAR(f.decode[0].tok_s * seconds, 1.0, 0.01);
            /* one expert more a layer would be seen */
            CHECK(fabs(f.decode[0].tok_s * (seconds + 80.0 * each) - 1.0) > 0.05);
        }
    }
}

FG_TEST(reading_ahead_is_hidden_behind_the_layers)
{
    fg_demand d;
    fg_forecast f;
    fg_err err = {0};
    REQUIRE(m1_demand(&d, "q4", 1));
    static const double disk[] = {1, 7, 400}; /* the disk binds, in between, the cores bind */
    for (int i = 0; i < 3; i++) {
        fg_rates r = flat_rates(90, 1000, disk[i]);
        fg_forecast_opts o = fg_forecast_opts_default();
        double last = 0.0;
        o.ram_bytes = make(&d, &r, UINT64_MAX, 0, 0).fixed_bytes + 512 * d.expert_bytes;
        for (int k = 0; k <= 4; k++) {
            o.fit = (fg_forecast_fit){.recall = 0.25 * k};
            REQUIRE_OK(fg_forecast_make(&f, &d, &r, 2, &o, &err), &err);
            const fg_speed *s = &f.decode[0];
            const double t = 1.0 / s->resident_tok_s;
            const double read = s->disk_bytes / (disk[i] * 1e9);
            const double late = read * (1.0 - 0.25 * k * 79.0 / 80.0);
            double head = 0.0;
            for (int y = 0; y < FG_RATE_TYPES; y++) head += d.head.bytes[y] / 90e9;
            const double layers = t - head + late > read ? t - head + late : read;
            CHECK_NEAR(s->tok_s * (head + layers), 1.0, 1e-6);
            CHECK(s->tok_s >= last && s->tok_s <= s->bound_tok_s && s->tok_s >= s->serial_tok_s);
            last = s->tok_s;
        }
        CHECK(disk[i] != 7 || last > 1.05 * f.decode[0].serial_tok_s);
    }
}

/* The share of uses that find their expert, in an LRU cache over all layers with uniform
 * routing. */
static double simulate_lru(uint64_t slots, uint64_t seed)
{
    enum { LAYERS = 80, EXPERTS = 32, N = LAYERS * EXPERTS, TOKENS = 200 };
    static uint64_t used[N]; /* when last; 0: not held */
    uint64_t clock = 0, hits = 0, uses = 0, held = 0;
    fg_rng rng;
    fg_rng_init(&rng, seed);
    memset(used, 0, sizeof used);
    for (uint64_t i = 0; i < (uint64_t)TOKENS * LAYERS; i++) {
        const uint64_t a = fg_rng_u64(&rng) % EXPERTS;
        const uint64_t b = (a + 1 + fg_rng_u64(&rng) % (EXPERTS - 1)) % EXPERTS;
        for (int k = 0; k < 2; k++) {
            const uint64_t x = i % LAYERS * EXPERTS + (k == 0 ? a : b);
            const bool counts = i >= (uint64_t)TOKENS * LAYERS / 2;
            uses += counts;
            hits += counts && used[x] != 0;
            if (used[x] == 0 && held == slots) {
                uint64_t old = N;
                for (uint64_t y = 0; y < N; y++) {
                    if (used[y] != 0 && (old == N || used[y] < used[old])) old = y;
                }
                used[old] = 0;
                held--;
            }
            held += used[x] == 0;
            used[x] = ++clock;
        }
    }
    return (double)hits / (double)uses;
}

FG_TEST(hit_rate_equals_a_simulated_cache)
{
    fg_demand d;
    REQUIRE(m1_demand(&d, "q4", 1));
    const fg_rates r = flat_rates(100, 1000, 5);
    const uint64_t fixed = make(&d, &r, UINT64_MAX, 1, 0).fixed_bytes;
    static const double share[] = {0.03, 0.17, 0.2, 0.5, 0.75, 0.9};
    double most = 0.0;
    for (size_t i = 0; i < sizeof share / sizeof share[0]; i++) {
        const uint64_t slots = (uint64_t)(share[i] * 2560.0);
        const double hit = make(&d, &r, fixed + slots * d.expert_bytes, 1, 0).hit;
        const double found = simulate_lru(slots, i);
        CHECK_NEAR(found, hit, 0.02); /* 16,000 uses: a standard error of 0.004 */
        if (fabs(found - share[i]) > most) most = fabs(found - share[i]);
    }
    CHECK(most > 0.04); /* the share itself would not do */
}

FG_TEST(reuse_lowers_misses)
{
    fg_demand d;
    REQUIRE(m1_demand(&d, "q4", 1));
    const fg_rates r = flat_rates(100, 1000, 5);
    const uint64_t ram = make(&d, &r, UINT64_MAX, 1, 0).fixed_bytes + ((uint64_t)120 << 30);
    const fg_forecast a = make(&d, &r, ram, 1, 0), b = make(&d, &r, ram, 1, 0.2);
    CHECK_NEAR(b.misses, 0.8 * a.misses, 1e-9);
    CHECK_NEAR(make(&d, &r, ram, 1, 1.0).misses, 0.0, 1e-9);
    fg_forecast_opts o = fg_forecast_opts_default();
    fg_forecast f;
    fg_err err = {0};
    o.fit.recall = -0.1;
    CHECK(fg_forecast_make(&f, &d, &r, 1, &o, &err) == FG_EINVAL);
    o.fit.recall = 0.5;
    o.fit.overlap = 1.5;
    CHECK(fg_forecast_make(&f, &d, &r, 2, &o, &err) == FG_EINVAL);
}

/* ---- measuring ---- */

FG_TEST(rates_are_measured_for_the_types_asked)
{
    fg_rates_opts o = {.n_thread = 2,
                       .decode = true,
                       .prefill = true,
                       .n_col = 300,
                       .n_batch = 33,
                       .n_few = 5,
                       .d_head = 64,
                       .group = 4};
    fg_rates r = {0};
    fg_err err = {0};
    o.type[0] = o.type[FG_RATE_TYPES - 1] = true;
    REQUIRE_OK(fg_rates_measure(&r, &o, &err), &err);
    CHECK_U64(r.n_thread, 2);
    CHECK(r.read_gbs > 0.0 && r.attn_gmacs > 0.0 && r.sync_us > 0.0);
    for (uint32_t t = 0; t < FG_RATE_TYPES; t++) {
        CHECK((r.gemv_gbs[t] > 0.0) == o.type[t]);
        CHECK((r.dense_gmacs[t] > 0.0) == o.type[t]);
        CHECK((r.expert_gmacs[t] > 0.0) == o.type[t]);
    }
    o.n_few = 34;
    CHECK(fg_rates_measure(&r, &o, &err) == FG_EINVAL);
    o.n_few = 5;
    o.cpu = FG_CPU_LEVEL_COUNT;
    CHECK(fg_rates_measure(&r, &o, &err) == FG_EINVAL);
    CHECK_STR(fg_qkinds[0].name, "q4");
    CHECK_STR(fg_qkinds[FG_RATE_TYPES - 1].name, "f32");
}

FG_TEST(disks_are_read_and_nothing_is_left)
{
    const char *dir = ckpt_dir("disk");
    fg_disk d;
    fg_err err = {0};
    double gbs;
    REQUIRE_OK(fg_disk_open_temporary(&d, dir, 24u << 20, 10000000000u, &err), &err);
    CHECK_U64(d.bytes, 24u << 20);
    CHECK(d.seconds > 0.0);
    CHECK_U64(ckpt_count_files(dir), 0); /* there while it is used: nobody else sees it */
    CHECK(fg_disk_read(&d, 1u << 20, 1, 10000000, &gbs, &err) == FG_OK && gbs > 0.0);
    CHECK(fg_disk_read(&d, 5u << 20, 6, 10000000, &gbs, &err) == FG_OK && gbs > 0.0);
    CHECK(fg_disk_read(&d, 24u << 20, 2, 1, &gbs, &err) == FG_OK && gbs > 0.0);
    CHECK(fg_disk_read(&d, 0, 1, 1, &gbs, &err) == FG_EINVAL);
    CHECK(fg_disk_read(&d, 1000, 1, 1, &gbs, &err) == FG_EINVAL);
    CHECK(fg_disk_read(&d, 25u << 20, 1, 1, &gbs, &err) == FG_EINVAL);
    CHECK(fg_disk_read(&d, 4096, 0, 1, &gbs, &err) == FG_EINVAL);
    CHECK(fg_disk_read(&d, 4096, 65, 1, &gbs, &err) == FG_EINVAL);
    d.bytes = 64u << 20; /* as if the file had shrunk */
    CHECK(fg_disk_read(&d, 64u << 20, 1, 1, &gbs, &err) == FG_EIO);
    fg_disk_close(&d);
    CHECK(d.fd == -1);
    /* a time limit of nothing: one block */
    REQUIRE_OK(fg_disk_open_temporary(&d, dir, 1u << 30, 0, &err), &err);
    CHECK_U64(d.bytes, 4u << 20);
    fg_disk_close(&d);
    CHECK_U64(ckpt_count_files(dir), 0);
    CHECK(fg_disk_open_temporary(&d, fg_test_tmp("no-folder"), 4096, 1, &err) == FG_EIO);
    CHECK(fg_disk_open(&d, fg_test_tmp("no-file"), &err) == FG_EIO);
    CHECK(fg_disk_open(&d, dir, &err) == FG_EIO);
    REQUIRE_OK(fg_disk_open(&d, NANO_DIR "/tokenizer.json", &err), &err);
    CHECK(fg_disk_read(&d, 4096, 3, 1000, &gbs, &err) == FG_OK && gbs > 0.0);
    fg_disk_close(&d);
}

/* ---- advice ---- */

static bool advises(const fg_doctor *d, const char *word)
{
    fg_advice text[FG_DOCTOR_ADVICE];
    const size_t n = fg_doctor_advise(d, text);
    for (size_t i = 0; i < n; i++) {
        if (strstr(text[i], word) != NULL) return true;
    }
    return false;
}

FG_TEST(advice_fits_what_is_wrong)
{
    fg_doctor good = {.n_thread = 8, .n_row = 2, .huge = 1.0, .anon_bytes = 1, .direct = true};
    good.machine = (fg_machine){.level = "avx2",
                                .n_cpu = 8,
                                .n_core = 8,
                                .n_budget = 8,
                                .n_node = 1,
                                .ram_bytes = 64000000000u,
                                .limit_bytes = UINT64_MAX,
                                .huge_pages = "madvise",
                                .governor = "performance"};
    good.uring = true;
    good.row[0].n_thread = 1;
    good.row[0].anon_gbs = 10.0;
    good.row[1].n_thread = 8;
    good.row[1].anon_gbs = 60.0;
    good.again_gbs = 56.0;
    fg_advice text[FG_DOCTOR_ADVICE];
    CHECK_U64(fg_doctor_advise(&good, text), 0); /* nothing wrong, nothing said */
    fg_doctor d = good;
    (void)snprintf(d.machine.governor, sizeof d.machine.governor, "powersave");
    CHECK(advises(&d, "powersave"));
    d = good, (void)snprintf(d.machine.huge_pages, sizeof d.machine.huge_pages, "never");
    CHECK(advises(&d, "huge pages are off"));
    d = good, d.huge = 0.1;
    CHECK(advises(&d, "only 10 %"));
    d = good, d.machine.limit_bytes = 16000000000u;
    CHECK(advises(&d, "limits memory to 14.9 GiB of 59.6 GiB"));
    d = good, d.n_thread = 16;
    CHECK(advises(&d, "use -t 8"));
    d = good, d.machine.n_budget = 2;
    CHECK(advises(&d, "quota leaves 2 of 8"));
    d = good, d.row[0].anon_gbs = 70.0;
    CHECK(advises(&d, "faster with 1 threads than with 8"));
    d = good, d.again_gbs = 40.0;
    CHECK(advises(&d, "60.0 GB/s, and once more at 40.0"));
    d = good, d.direct = false;
    CHECK(advises(&d, "no direct reads"));
    d = good, d.uring = false, d.uring_errno = 1;
    CHECK(advises(&d, "io_uring is refused"));
    d = good, d.queue = (fg_disk_queue){"sda", "mq-deadline"};
    CHECK(advises(&d, "echo none > /sys/block/sda/queue/scheduler"));
    d = good, d.queue = (fg_disk_queue){"sda", "none"}, d.address_bytes = UINT64_MAX;
    CHECK_U64(fg_doctor_advise(&d, text), 0);
    d.address_bytes = (uint64_t)8 << 30;
    CHECK(advises(&d, "8.00 GiB at most") && advises(&d, "ulimit -v unlimited"));
    d = good, d.machine.n_node = 2;
    CHECK(advises(&d, "2 NUMA nodes") && !advises(&d, "numa_balancing"));
    (void)snprintf(d.machine.numa_balancing, sizeof d.machine.numa_balancing, "1");
    CHECK(advises(&d, "echo 0 > /proc/sys/kernel/numa_balancing"));
    d = good, d.nodes = (fg_node_rates){.n_node = 2, .local_gbs = {100, 50}, .part = {0.5, 0.5}};
    CHECK(advises(&d, "a token 50 % longer than by what each node reads"));
    d.nodes.part[0] = 0.65, d.nodes.part[1] = 0.35; /* 5 % */
    CHECK(!advises(&d, "--measure-nodes"));
    d = good, d.turn_anon_gbs = 66.0, d.turn_map_gbs = 60.0, d.turns_won = FG_DOCTOR_TURNS;
    CHECK(advises(&d, "10 % faster than a mapped file") && advises(&d, "for long runs"));
    d.disk_gbs[1][2] = 3.0; /* 1 / 3 over 1 / 60 - 1 / 66 */
    CHECK(advises(&d, "more than 220 times the file"));
    d.turns_won--; /* not always: noise */
    CHECK(!advises(&d, "faster than a mapped file"));
    d.turn_anon_gbs = 62.0, d.turns_won++; /* 3 % */
    CHECK(!advises(&d, "faster than a mapped file"));
    d = good, d.machine.level = "scalar";
    CHECK(advises(&d, "no vector unit"));
}

FG_TEST(machine_knows_its_levels)
{
    fg_machine m;
    fg_machine_describe(&m);
    bool has, found = false, first = false;
    const char *name;
    uint32_t i = 0;
    for (; (name = fg_machine_level(i, &has)) != NULL; i++) {
        found = found || (has && strcmp(name, m.level) == 0);
        first = first || (i == 0 && has && strcmp(name, "scalar") == 0);
    }
    CHECK(i >= 1 && found && first);
    CHECK(m.n_core >= 1 && m.n_budget >= 1 && m.n_cpu >= 1 && m.n_node >= 1);
    CHECK(m.avail_bytes <= m.limit_bytes && m.page_bytes >= 4096);
}
