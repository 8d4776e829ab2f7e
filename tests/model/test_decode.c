/* SPDX-License-Identifier: MIT
 *
 * What decode must not do: allocate, or fault pages of the heap in; and what lightning must do over
 * a long text: stay with a double-precision recurrence.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "simd/kernels.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/model/model.h"
#include "src/model/state.h"
#include "src/sys/cpu.h"
#include "tests/fg_test.h"
#include "tests/models.h"
#include "src/engine/session.h"

static long minor_faults(void)
{
    struct rusage u;
    (void)getrusage(RUSAGE_SELF, &u);
    return u.ru_minflt;
}

/* 64 tokens after a prompt of 65, whose last one folds, so that S is in memory; the same ids each
 * time, so that the second run finds all its weights mapped.  Reports what the decode part did. */
static void decode(fg_engine *e, bool leak, uint64_t *n_alloc, long *n_fault)
{
    fg_session *s = model_session(e, 256, 64);
    fg_err err = {0};
    uint32_t ids[129];
    for (uint32_t i = 0; i < 129; i++) ids[i] = (i * 37) % 4000;
    REQUIRE(s != NULL && fg_session_eval(s, ids, 65, NULL, NULL, &err) == FG_OK);
    const uint64_t alloc = fg_mem_count();
    const long fault = minor_faults();
    for (int i = 65; i < 129; i++) {
        REQUIRE_OK(fg_session_eval(s, ids + i, 1, NULL, NULL, &err), &err);
        if (leak) {
            char *p = fg_mem_zalloc(64 * 4096);
            fg_mem_free(p);
        }
    }
    *n_alloc = fg_mem_count() - alloc;
    *n_fault = minor_faults() - fault;
    fg_session_destroy(&s);
}

FG_TEST(decode_allocates_nothing)
{
    uint64_t n_alloc = 1;
    long n_fault = 0;
    fg_engine *e = model_open(NANO_DIR, "q4", 2, NULL);
    REQUIRE(e != NULL);
    decode(e, false, &n_alloc, &n_fault);
    decode(e, false, &n_alloc, &n_fault);
    printf("  64 tokens: %llu allocations, %ld minor faults\n", (unsigned long long)n_alloc,
           n_fault);
    CHECK_U64(n_alloc, 0);
    /* new positions touch new pages of the key-value cache: nano has one softmax layer with two
     * heads, a page holds 64 positions of one, for K and V, and their scales */
    CHECK(n_fault <= 12);
    decode(e, true, &n_alloc, &n_fault); /* negative control */
    CHECK_U64(n_alloc, 64);
    fg_engine_close(&e);
}

FG_TEST(context_that_cannot_fit_is_refused)
{
    fg_shape m1 = {.n_layer = 80, .d_model = 6144, .n_head = 64, .n_kv_head = 8, .d_head = 128};
    m1.n_ctx_max = 10240000;
    for (uint32_t l = 0; l < 80; l++) m1.attn[l] = l % 8 == 7;
    uint64_t bytes = 0;
    fg_err err = {0};
    fg_state *st = NULL;
    /* 1M positions: 10 layers x 2 x 8 rows of 128 + 4 bytes, and 8 MiB for each lightning layer */
    REQUIRE_OK(fg_state_size(&m1, 1 << 20, FG_KV_INT8, NULL, &bytes, &err), &err);
    CHECK_NEAR((double)bytes * 1e-9, 22.146 + 0.587, 0.001);
    CHECK(fg_state_create(&st, &m1, 10240000, FG_KV_F32, NULL, &err) == FG_ELIMIT); /* 839 GB */
    CHECK(st == NULL && strstr(err.msg, "memory available") != NULL);
    CHECK(fg_state_size(&m1, 10240001, FG_KV_INT8, NULL, &bytes, &err) == FG_ELIMIT);
    CHECK_OK(fg_state_create(&st, &m1, 4096, FG_KV_INT8, NULL, &err), &err); /* negative control */
    fg_state_destroy(&st);
}

/* ---- lightning over 20,000 tokens ---- */

enum { D = 32, LONG = 20000 };

static float silu(double x)
{
    return (float)(x / (1.0 + exp(-x)));
}

static double rel_error(const float *got, const double *want, size_t n)
{
    double err2 = 0.0, ref2 = 0.0;
    for (size_t i = 0; i < n; i++) {
        err2 += pow((double)got[i] - want[i], 2.0);
        ref2 += want[i] * want[i];
    }
    return sqrt(err2 / ref2);
}

typedef struct seq {
    double lambda;
    float decay[FG_LIGHT_CHUNK + 1];
    _Alignas(64) float s[D * D], kt[D * FG_LIGHT_CHUNK], v[FG_LIGHT_CHUNK * D];
    double ref[D * D];
} seq;

/* One token through the kernels (as lightning.c does) and through the recurrence in double.
 * Returns the worse relative error of output and state. */
static double step(const fg_kernels *k, seq *q, uint64_t t, fg_rng *rng)
{
    _Alignas(64) float x[3 * D], o[D];
    double want[D];
    const size_t i = (size_t)(t % FG_LIGHT_CHUNK);
    for (size_t e = 0; e < 3 * D; e++) x[e] = silu(4.0 * fg_rng_f64(rng) - 2.0);
    for (size_t e = 0; e < D; e++) q->kt[e * FG_LIGHT_CHUNK + i] = x[D + e];
    memcpy(q->v + i * D, x + 2 * D, D * sizeof(float));
    k->light_out(x, D, i, 1, D, q->kt, q->v, q->s, q->decay, o, D);
    for (size_t e = 0; e < D; e++) want[e] = 0.0;
    for (size_t d = 0; d < D; d++) {
        for (size_t e = 0; e < D; e++) {
            double *s = &q->ref[d * D + e];
            *s = q->lambda * *s + (double)x[D + d] * (double)x[2 * D + e];
            want[e] += *s * (double)x[d];
        }
    }
    double worst = rel_error(o, want, D);
    if (i + 1 == FG_LIGHT_CHUNK) { /* the state itself */
        k->light_fold(D, q->kt, q->v, q->decay, q->s);
        worst = fg_test_worst(worst, rel_error(q->s, q->ref, (size_t)D * D));
    }
    return worst;
}

/* Worst relative error over LONG tokens of one head of the release. */
static double run_long(uint32_t layer, uint32_t head, double wrong)
{
    fg_kernels k;
    fg_kernels_init(&k, fg_cpu_detect());
    fg_shape shape = {.n_layer = 80, .n_head = 64, .slope_form = FG_SLOPE_MINIMAX};
    static seq q;
    memset(&q, 0, sizeof q);
    const double slope = fg_lightning_slope(&shape, layer, head);
    q.lambda = exp(-slope) * wrong;
    for (int i = 0; i <= FG_LIGHT_CHUNK; i++) q.decay[i] = (float)exp(-slope * (double)i);
    fg_rng rng;
    fg_rng_init(&rng, 11);
    double worst = 0.0;
    for (uint64_t t = 0; t < LONG; t++) {
        const double e = step(&k, &q, t, &rng);
        /* chunk boundaries and the far end, where the chunked form could part from the
         * recurrence */
        if (t <= 257 || t == 10000 || t + 128 >= LONG) worst = fg_test_worst(worst, e);
    }
    return worst;
}

FG_TEST(lightning_stays_with_the_recurrence)
{
    /* slowest head of the release (half-life 14,008 tokens), a middle one, the fastest */
    static const uint32_t at[3][2] = {{78, 63}, {40, 31}, {0, 0}};
    for (int i = 0; i < 3; i++) {
        const double worst = run_long(at[i][0], at[i][1], 1.0);
        printf("  layer %u head %u: worst relative error %.2e\n", at[i][0], at[i][1], worst);
        CHECK(worst <= 1e-4);
    }
    CHECK(run_long(78, 63, 1.0 - 1e-5) > 1e-4); /* negative control: a slightly faster decay */
}
