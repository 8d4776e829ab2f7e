/* SPDX-License-Identifier: MIT
 *
 * The forecast with a card: descriptions of cards, the formulas by hand, and what must hold of them
 * whatever the card is.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "convert/choose/recipe.h"
#include "convert/synth.h"
#include "src/plan/card.h"
#include "tests/fg_test.h"
#include "tests/models.h"

FG_TEST(descriptions)
{
    static const char *const bad[] = {"",
                                      "80GB",
                                      "80GB,3.3TB/s",
                                      "80GB,3.3TB/s,55GB",
                                      "80,3.3,55",
                                      "-80GB,1TB/s,1GB/s",
                                      "0GB,1TB/s,1GB/s",
                                      "80GB,3.3TB/s,55GB/s,",
                                      "80GB;3.3TB/s;55GB/s",
                                      "80GB,nanTB/s,55GB/s",
                                      "80GB,infTB/s,55GB/s",
                                      "80MB,1TB/s,1GB/s"};
    fg_gpu_card c;
    fg_err err = {0};
    CHECK(fg_gpu_card_parse(&c, "80GB,3.3TB/s,55GB/s", &err) == FG_OK);
    CHECK(c.bytes == 80000000000 && c.read_gbs == 3300.0 && c.copy_gbs == 55.0);
    CHECK(c.gemm_gmacs == 120000.0 && c.fma_gmacs == 22000.0 && c.unpack_gws == 5800.0);
    CHECK(fg_gpu_card_parse(&c, "0.5TB,900GB/s,6.4GB/s", &err) == FG_OK && c.bytes == 500000000000);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(fg_gpu_card_parse(&c, bad[i], &err) == FG_EINVAL &&
              strstr(err.msg, "expected") != NULL);
    }
}

/* Parts of two nodes one after another: 1 GB at 50 and 1 GB at 25 GB/s are 2 GB in 60 ms. */
FG_TEST(a_copy_of_which_every_node_has_its_part)
{
    static const uint32_t equal[] = {1, 1, 0}, unequal[] = {3, 1, 0};
    const double gbs[] = {50.0, 25.0, 0.0}, none[] = {50.0, 0.0, 25.0};
    fg_place *p = NULL;
    fg_err err = {0};
    fg_place_opts o = {.n_worker = 3, .pretend_nodes = 3, .weight = equal};
    CHECK(fg_place_make(&p, NULL, &o, &err) == FG_OK);
    CHECK(fabs(fg_gpu_card_copy_of_all(p, gbs) - 2.0 / 0.06) < 1e-9);
    CHECK(fg_gpu_card_copy_of_all(p, none) == 0.0);
    fg_place_destroy(&p);
    o.weight = unequal;
    CHECK(fg_place_make(&p, NULL, &o, &err) == FG_OK);
    CHECK(fabs(fg_gpu_card_copy_of_all(p, gbs) - 4.0 / 0.1) < 1e-9);
    fg_place_destroy(&p);
}

typedef struct rig {
    fg_model_file *file;
    fg_demand d;
    fg_rates r;
    fg_forecast f;
    fg_forecast_opts o;
    fg_gpu_card c;
    fg_gpu_card_fit fit;
} rig;

/* Nano on a host of 10 GB/s and 100 GMAC/s. */
static bool open_rig(rig *y)
{
    fg_err err = {0};
    *y = (rig){.o = fg_forecast_opts_default(), .fit = fg_gpu_card_fit_default()};
    const char *path = model_file(NANO_DIR, "q4");
    if (path == NULL || fg_model_file_open(&y->file, path, &err) != FG_OK) return false;
    CHECK(fg_demand_of_file(&y->d, y->file, NULL, &err) == FG_OK);
    fg_rates_assume(&y->r, 10.0, 100.0);
    y->r.n_thread = 1;
    y->o.n_ctx = 256;
    CHECK(fg_forecast_make(&y->f, &y->d, &y->r, 1, &y->o, &err) == FG_OK);
    CHECK(fg_gpu_card_parse(&y->c, "8GB,1TB/s,20GB/s", &err) == FG_OK);
    return !fg_test_failed();
}

static fg_gpu_card_forecast make(const rig *y, uint32_t n_batch)
{
    fg_gpu_card_forecast g;
    fg_err err = {0};
    CHECK(fg_gpu_card_forecast_make(&g, &y->c, &y->fit, fg_model_file_plan(y->file), &y->d, &y->r,
                                    &y->f, &y->o, n_batch, &err) == FG_OK);
    return g;
}

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-9 * fabs(b);
}

/* Products of a token: the longer of reading and unpacking. */
static double products(const fg_part *p, double gbs)
{
    double t = 0.0;
    for (uint32_t i = 0; i < FG_RATE_TYPES; i++) {
        const double read = p->bytes[i] / (0.96e9 * gbs);
        const double unpack = p->gmac[i] / (i < FG_KIND_QUANTIZED ? 5800.0 : 1200.0);
        t += read > unpack ? read : unpack;
    }
    return t;
}

FG_TEST(a_token_by_hand)
{
    rig y;
    if (!open_rig(&y)) return;
    const fg_gpu_card_forecast g = make(&y, 64);
    const fg_shape *s = &y.d.shape;
    const fg_gpu_card_speed *x = &g.decode[0];
    const double dense = products(&y.d.dense, 1e3) + products(&y.d.head, 1e3);
    double macs = 0.0;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        macs += s->attn[l] == FG_ATTN_SOFTMAX ? 2.0 * s->n_head * s->d_head : 0.0;
    }
    const double kv = fg_balance_cache_bytes(s, 0, FG_KV_INT8) / 0.63e12, attn = macs / 22e12;
    const double state = fg_balance_heads_bytes(s) / 1e12 + (kv > attn ? kv : attn) + 240e-6;
    const double layers = s->n_layer * 38.9e-6;
    double experts = 0.0;
    for (uint32_t i = 0; i < FG_RATE_TYPES; i++) experts += y.d.experts.bytes[i] / 9.5e9 * 1.04;
    CHECK(near(x->card_s, dense + state) && near(x->experts_s, experts));
    CHECK(near(x->layers_s, layers));
    CHECK(near(1.0 / x->tok_s, dense + state + experts + layers));
    CHECK(!near(1.0 / x->tok_s, dense + state + experts)); /* control */
    /* all of nano's experts fit */
    CHECK(g.memory.n_resident == g.memory.n_expert);
    CHECK(near(1.0 / x->resident_tok_s,
               dense + state + layers + s->n_layer * 14e-6 + products(&y.d.experts, 1e3)));
    fg_model_file_close(&y.file);
}

/* ---- what an H200 was measured to take (bench/baselines) ---- */

typedef struct measured {
    fg_demand d;
    fg_gpu_card_forecast g;
} measured;

/* Layers of M1 in q4 on its host, whose products reach 109 GB/s, behind 4,095 tokens. */
static bool forecast_m1(measured *x, uint32_t n_layer, const char *card, uint32_t n_batch)
{
    const fg_synth_opts so = {.shape = "m1", .n_layer = n_layer};
    const fg_gpu_card_fit fit = fg_gpu_card_fit_default();
    fg_forecast_opts o = fg_forecast_opts_default();
    fg_shape s;
    fg_recipe r;
    fg_rates rates = {.n_thread = 16};
    fg_forecast f;
    fg_gpu_card c;
    fg_file_plan *p = NULL;
    fg_err err = {0};
    bool ok =
        fg_synth_shape(&s, &so, &err) == FG_OK && fg_recipe_load(&r, "q4", NULL, &err) == FG_OK;
    if (!ok) return false;
    const fg_file_spec spec = {.shape = &s, .choose = fg_recipe_choose, .ctx = &r};
    fg_rates_assume(&rates, 109.0 / 0.95, 2000.0);
    o.n_ctx = 4096;
    o.ram_bytes = UINT64_MAX;
    ok = fg_file_plan_make(&p, &spec, "m1", &err) == FG_OK &&
         fg_demand_of_plan(&x->d, p, NULL, &err) == FG_OK &&
         fg_gpu_card_parse(&c, card, &err) == FG_OK &&
         fg_forecast_make(&f, &x->d, &rates, 16, &o, &err) == FG_OK &&
         fg_gpu_card_forecast_make(&x->g, &c, &fit, p, &x->d, &rates, &f, &o, n_batch, &err) ==
             FG_OK;
    fg_file_plan_destroy(&p);
    fg_recipe_fini(&r);
    return ok;
}

static void is_about(const char *what, double got, double want, double share)
{
    if (fabs(got - want) <= share * want) return;
    fg_test_fail(__FILE__, __LINE__, "%s: %g, expected %g give or take %g %%", what, got, want,
                 100.0 * share);
}

FG_TEST(an_h200_as_it_was_measured)
{
    static const char card[] = "141GB,4.503TB/s,55GB/s";
    const fg_gpu_card_fit fit = fg_gpu_card_fit_default();
    measured x;
    REQUIRE(forecast_m1(&x, 80, card, 512));
    const fg_gpu_card_speed *d = &x.g.decode[1];
    const double alone = d->card_s - fit.token_us * 1e-6, box = 80 * fit.box_us * 1e-6;
    is_about("dense part, ms", 1e3 * (alone + d->layers_s - box), 6.599, 0.02);
    is_about("with the mailbox, ms", 1e3 * (alone + d->layers_s), 6.949, 0.02);
    CHECK(1e3 * alone < 0.8 * 6.599); /* control: without its launches it is another figure */
    REQUIRE(forecast_m1(&x, 10, card, 4096));
    is_about("without the card, tok/s", x.g.decode[1].host_tok_s, 21.0, 0.02);
    is_about("experts on the host, tok/s", x.g.decode[1].tok_s, 57.4, 0.08);
    is_about("all on the card, tok/s", x.g.decode[1].resident_tok_s, 469.1, 0.05);
    is_about("prefill, all on the card", x.g.prefill[0].shared_tok_s, 15900.0, 0.08);
    REQUIRE(forecast_m1(&x, 10, "7GB,4.503TB/s,55GB/s", 4096));
    is_about("prefill, most copied", x.g.prefill[0].shared_tok_s, 7950.0, 0.10);
}

FG_TEST(more_is_never_slower)
{
    rig y;
    double before[3] = {0};
    if (!open_rig(&y)) return;
    y.fit.few_us = 0.0; /* nano's experts take less than their launches */
    const uint64_t all = make(&y, 64).memory.needed + FG_GPU_RESERVE_BYTES;
    for (uint32_t step = 0; step <= 40; step++) {
        y.c.bytes = all + step * (make(&y, 64).memory.expert * 8);
        const fg_gpu_card_forecast g = make(&y, 64);
        const fg_gpu_card_speed *d = &g.decode[1], *p = &g.prefill[1];
        CHECK(g.memory.fits && d->resident_tok_s >= d->tok_s * 0.999999);
        /* what is on the card stays with it, even where the host has time left */
        CHECK(d->resident_tok_s >= before[0] && p->shared_tok_s >= before[1] * 0.99);
        CHECK(p->shared_tok_s >= p->tok_s * 0.999999 &&
              p->shared_tok_s >= p->copied_tok_s * 0.999999);
        CHECK(p->n_copied >= 0.0 && p->n_copied <= y.d.shape.n_expert);
        before[0] = d->resident_tok_s;
        before[1] = p->shared_tok_s;
    }
    y.c.bytes = make(&y, 64).memory.needed - 1;
    const fg_gpu_card_forecast g = make(&y, 64);
    CHECK(!g.memory.fits && g.decode[0].tok_s == 0.0 && g.prefill[0].shared_tok_s == 0.0);
    /* a slow bus copies nothing that the host does as fast */
    y.c.bytes = all;
    y.c.copy_gbs = 1e-3;
    CHECK(make(&y, 64).prefill[0].n_copied < 0.1);
    y.c.copy_gbs = 1e6;
    y.c.gemm_gmacs = 1e9;
    CHECK(make(&y, 64).prefill[0].n_copied > 0.9 * (1 - pow(0.5, 64)));
    fg_model_file_close(&y.file);
}

/* Slots in memory for a third of the experts, the others on a disk. */
FG_TEST(with_ram_what_is_nowhere_is_read)
{
    rig y;
    fg_err err = {0};
    if (!open_rig(&y)) return;
    y.fit.few_us = 0.0;
    y.o.ram_bytes = y.f.fixed_bytes + y.f.n_expert / 3 * y.d.expert_bytes;
    y.r.disk_gbs = 0.5;
    REQUIRE_OK(fg_forecast_make(&y.f, &y.d, &y.r, 1, &y.o, &err), &err);
    CHECK(y.f.fits && !y.f.resident);
    const uint64_t all = make(&y, 64).memory.needed + FG_GPU_RESERVE_BYTES;
    double before = 0.0;
    for (uint32_t k = 0; k <= 300; k += 20) { /* experts on the card, and its slots */
        y.c.bytes = all + (k + FG_GPU_SLOTS) * make(&y, 64).memory.expert;
        const fg_gpu_card_forecast g = make(&y, 64);
        const fg_gpu_card_speed *x = &g.decode[0];
        CHECK(x->streamed_tok_s > before * 0.999999 && x->streamed_tok_s <= x->resident_tok_s);
        CHECK(g.prefill[0].n_copied <= 0.0 && g.prefill[0].copied_tok_s <= 0.0);
        before = x->streamed_tok_s;
        if (g.memory.n_resident == 0) { /* by hand: reads hide behind other experts, or do not */
            const double q = (double)y.d.shape.n_used / y.d.shape.n_expert;
            const uint64_t freed = g.memory.attention + g.memory.head;
            const uint64_t slots = y.f.n_slot + freed / y.d.expert_bytes;
            const double lru = fg_forecast_lru((double)slots / (double)y.f.n_expert, q);
            const double hit = lru + y.o.fit.reuse * (1.0 - lru);
            const double uses = y.d.shape.n_layer * 2.0;
            CHECK(hit > y.f.hit && slots > y.f.n_slot); /* dense matrices make room */
            const double read = (1.0 - hit) * uses * (double)y.d.expert_bytes / 0.5e9;
            const double unknown = 1.0 - 0.7 * (y.d.shape.n_layer - 1.0) / y.d.shape.n_layer;
            const double hidden = read < x->experts_s ? read : x->experts_s;
            const double t = 1.0 / x->resident_tok_s + unknown * (read - hidden);
            CHECK(near(1.0 / x->streamed_tok_s, t > read ? t : read));
            CHECK(read > hidden); /* or it shows nothing */
        }
    }
    const fg_gpu_card_forecast g = make(&y, 64);
    CHECK(g.memory.n_resident == g.memory.n_expert);
    CHECK(near(g.decode[0].streamed_tok_s, g.decode[0].resident_tok_s));
    /* with all in memory nothing is said of reads */
    y.o.ram_bytes = UINT64_MAX;
    REQUIRE_OK(fg_forecast_make(&y.f, &y.d, &y.r, 1, &y.o, &err), &err);
    CHECK(make(&y, 64).decode[0].streamed_tok_s <= 0.0);
    fg_model_file_close(&y.file);
}
