/* SPDX-License-Identifier: MIT
 *
 * Importance and error feedback on synthetic inputs: correlated channels, some of them planted
 * outliers.  The yardstick is the output error e H e^T over tokens that the encoder has seen,
 * computed here in double; the negative control is an importance that belongs to other columns.
 */
#include "quant/feedback.h"
#include "quant/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/calib/hessian.h"
#include "src/base/rng.h"
#include "tests/fg_test.h"

enum { K = 384, N_TOKEN = 1500, R = FG_PANEL_ROWS, N_HIDDEN = 96 };

static double normal(fg_rng *r)
{
    double s = 0;
    for (int i = 0; i < 12; i++) s += fg_rng_f64(r);
    return s - 6.0;
}

/* x = mixture of N_HIDDEN factors and noise; every 37th channel is `outlier` times as large. */
static float *make_inputs(uint64_t seed, double outlier)
{
    fg_rng r;
    fg_rng_init(&r, seed);
    float *x = malloc(sizeof(float) * K * N_TOKEN), *mix = malloc(sizeof(float) * K * N_HIDDEN);
    for (size_t i = 0; i < K * N_HIDDEN; i++) mix[i] = (float)(normal(&r) / sqrt(N_HIDDEN));
    for (size_t t = 0; t < N_TOKEN; t++) {
        double z[N_HIDDEN];
        for (size_t j = 0; j < N_HIDDEN; j++) z[j] = normal(&r);
        for (size_t c = 0; c < K; c++) {
            double v = 0.3 * normal(&r);
            for (size_t j = 0; j < N_HIDDEN; j++) v += z[j] * (double)mix[c * N_HIDDEN + j];
            x[t * K + c] = (float)(c % 37 == 5 ? v * outlier : v);
        }
    }
    free(mix);
    return x;
}

typedef struct add_job {
    fg_hessian *h;
    const float *x;
} add_job;

static void add_all(fg_worker *w, void *arg)
{
    const add_job *j = arg;
    for (uint64_t t = 0; t < N_TOKEN; t += 500) {
        fg_hessian_add(w, j->h, j->x + t * K, K, 500);
        fg_worker_sync(w);
    }
}

static fg_status factor(fg_hessian *h, const float *x, uint32_t n_thread, fg_feedback *f)
{
    fg_err err = {0};
    fg_team *team;
    bool zero = false;
    fg_status st = fg_team_create(&team, n_thread, false, &err);
    if (st == FG_OK) st = fg_linalg_init(n_thread, &err);
    if (st == FG_OK) st = fg_hessian_init(h, K, true, &err);
    if (st == FG_OK) {
        add_job j = {h, x};
        fg_hessian_start(h, K, N_TOKEN);
        fg_team_run(team, add_all, &j);
        st = fg_hessian_factor(h, team, f, &zero, &err);
    }
    fg_team_destroy(&team);
    return st == FG_OK && zero ? FG_EINVAL : st;
}

static void make_weights(uint64_t seed, float *w)
{
    fg_rng r;
    fg_rng_init(&r, seed);
    for (size_t i = 0; i < R * K; i++) w[i] = (float)(0.02 * normal(&r));
}

/* Mean over tokens of |W x - stored x|^2 relative to that of |W x|^2. */
static double output_error(fg_qtype type, const fg_lut *lut, const uint8_t *panel,
                           const float *row_scale, const float *w, const float *x)
{
    static float v[R * K];
    double err2 = 0, ref2 = 0;
    fg_panel_decode(type, lut, panel, row_scale, K, v);
    for (size_t t = 0; t < N_TOKEN; t++) {
        for (size_t r = 0; r < R; r++) {
            double d = 0, y = 0;
            for (size_t c = 0; c < K; c++) {
                y += (double)w[r * K + c] * (double)x[t * K + c];
                d += ((double)w[r * K + c] - (double)v[r * K + c]) * (double)x[t * K + c];
            }
            err2 += d * d;
            ref2 += y * y;
        }
    }
    return err2 / ref2;
}

typedef struct outcome {
    double plain, weighted, wrong, feedback, sampled;
} outcome;

/* Errors of every way to encode one panel. */
static outcome compare(fg_qtype type, const fg_lut *lut, double outlier)
{
    static float w[R * K], rs[R], weight[K], wrong[K];
    static uint8_t panel[R * K * 2];
    outcome o = {0};
    fg_panel_error e;
    fg_hessian h = {0};
    fg_feedback f;
    float *x = make_inputs(7, outlier), *scratch = malloc(sizeof(float) * fg_feedback_scratch(K));
    make_weights(8, w);
    if (factor(&h, x, 2, &f) == FG_OK) {
        for (size_t c = 0; c < K; c++) weight[c] = (float)h.diag[c];
        for (size_t c = 0; c < K; c++) wrong[c] = weight[(c + 5) % K];
        fg_panel_encode(type, lut, w, K, panel, rs, NULL);
        o.plain = output_error(type, lut, panel, rs, w, x);
        fg_panel_encode_weighted(type, lut, w, weight, K, panel, rs, NULL);
        o.weighted = output_error(type, lut, panel, rs, w, x);
        fg_panel_encode_weighted(type, lut, w, wrong, K, panel, rs, NULL);
        o.wrong = output_error(type, lut, panel, rs, w, x);
        fg_panel_encode_feedback(type, lut, w, &f, K, panel, rs, scratch, &e);
        o.feedback = output_error(type, lut, panel, rs, w, x);
        o.sampled = e.out_err2 / e.out_ref2;
    }
    fg_hessian_fini(&h);
    free(scratch);
    free(x);
    return o;
}

FG_TEST(planted_outliers_are_protected)
{
    const outcome o = compare(FG_TYPE_Q4, &fg_lut_grid6, 20.0);
    CHECK(o.plain > 0.0);
    CHECK(o.weighted < 0.7 * o.plain);
    CHECK(o.feedback < 0.5 * o.weighted);
    CHECK(o.wrong > 1.1 * o.plain); /* control: importance of other columns does harm */
}

FG_TEST(correlated_inputs_feed_back)
{
    for (size_t i = 0; i < FG_KIND_QUANTIZED; i++) {
        const outcome o = compare(fg_qkinds[i].type, fg_qkinds[i].lut, 1.0);
        CHECK(o.plain > 0.0);
        CHECK(o.feedback < 0.6 * o.plain);
        CHECK_NEAR(o.sampled, o.feedback, 0.3 * o.feedback); /* 64 of 1500 tokens */
    }
}

/* U^T U (H / n + damping) = 1, in rounding order. */
FG_TEST(factor_inverts)
{
    fg_hessian h = {0};
    fg_feedback f;
    float *x = make_inputs(3, 4.0);
    REQUIRE(factor(&h, x, 2, &f) == FG_OK);
    double *m = calloc((size_t)K * K, sizeof *m), mean = 0, worst = 0;
    for (size_t t = 0; t < N_TOKEN; t++) {
        for (size_t i = 0; i < K; i++) {
            for (size_t j = 0; j < K; j++) {
                m[i * K + j] += (double)x[t * K + f.order[i]] * (double)x[t * K + f.order[j]];
            }
        }
    }
    for (size_t i = 0; i < K; i++) mean += m[i * K + i] / K;
    for (size_t i = 0; i < K; i++) m[i * K + i] += 0.05 * mean;
    for (size_t i = 0; i < K; i += 7) { /* row i of U M U^T, which is the identity */
        for (size_t j = 0; j < K; j += 5) {
            double sum = 0;
            for (size_t a = i; a < K; a++) {
                double part = 0;
                for (size_t b = j; b < K; b++) part += m[a * K + b] * (double)f.u[j * K + b];
                sum += (double)f.u[i * K + a] * part;
            }
            worst = fg_test_worst(worst, fabs(sum / N_TOKEN - (i == j ? 1.0 : 0.0)));
        }
    }
    CHECK(worst < 2e-3);
    for (size_t i = 1; i < K; i++) CHECK(f.u[i * K + i - 1] == 0.0f);
    bool seen[K] = {false};
    for (size_t i = 0; i < K; i++) {
        CHECK(f.order[i] < K && !seen[f.order[i]]);
        seen[f.order[i]] = true;
        CHECK(f.order[i] / 32 == f.order[i / 32 * 32] / 32); /* groups stay together */
    }
    free(m);
    free(x);
    fg_hessian_fini(&h);
}

FG_TEST(threads_do_not_show)
{
    float *x = make_inputs(5, 2.0);
    fg_hessian one = {0}, three = {0};
    fg_feedback a, b;
    REQUIRE(factor(&one, x, 1, &a) == FG_OK);
    REQUIRE(factor(&three, x, 3, &b) == FG_OK);
    CHECK(memcmp(a.u, b.u, sizeof(float) * K * K) == 0);
    CHECK(memcmp(a.order, b.order, sizeof(uint32_t) * K) == 0);
    CHECK(memcmp(a.weight, b.weight, sizeof(float) * K) == 0);
    x[K * 700] += 0.01f; /* control */
    fg_hessian_fini(&three);
    REQUIRE(factor(&three, x, 3, &b) == FG_OK);
    CHECK(memcmp(a.u, b.u, sizeof(float) * K * K) != 0);
    fg_hessian_fini(&one);
    fg_hessian_fini(&three);
    free(x);
}

FG_TEST(useless_inputs_are_refused)
{
    fg_hessian h = {0};
    fg_feedback f;
    float *x = calloc((size_t)K * N_TOKEN, sizeof *x);
    CHECK(factor(&h, x, 1, &f) == FG_EINVAL); /* all zero */
    fg_hessian_fini(&h);
    x[5] = NAN;
    CHECK(factor(&h, x, 1, &f) == FG_EDATA);
    fg_hessian_fini(&h);
    free(x);
}
