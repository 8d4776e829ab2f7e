/* SPDX-License-Identifier: MIT
 *
 * Each published component by itself, against its definition in double; the same comparison with a
 * sign turned round, or a state that is another entry's, must fail.  How they are put together is
 * checked in tests/checkasm/test_factor_kernels.c.
 */
#include <math.h>
#include <string.h>

#include "simd/factor_math.h"
#include "src/base/rng.h"
#include "tests/fg_test.h"

static double sgn(double x)
{
    return (double)((x > 0.0) - (x < 0.0));
}

static double fal(double e, double alpha, double delta)
{
    return fabs(e) <= delta ? e / pow(delta, 1.0 - alpha) : pow(fabs(e), alpha) * sgn(e);
}

static double fhan(double x1, double x2, double r0, double h, double turn)
{
    const double d = r0 * h * h, a0 = h * x2, y = x1 + turn * a0;
    const double a1 = sqrt(d * (d + 8.0 * fabs(y))), a2 = a0 + sgn(y) * (a1 - d) / 2.0;
    const double sy = (sgn(y + d) - sgn(y - d)) / 2.0, a = (a0 + y - a2) * sy + a2;
    const double sa = (sgn(a + d) - sgn(a - d)) / 2.0;
    return -r0 * (a / d - sgn(a)) * sa - r0 * sgn(a);
}

static void draw(fg_rng *r, float *x, double width)
{
    for (int i = 0; i < 8; i++) x[i] = (float)(width * (2.0 * fg_rng_f64(r) - 1.0));
}

/* The largest |got - want| / (1 + |want|) of 8 lanes. */
static double error_of(v8 got, const double *want)
{
    float g[8];
    double worst = 0.0;
    v8_store(g, got);
    for (int i = 0; i < 8; i++) {
        worst = fg_test_worst(worst, fabs((double)g[i] - want[i]) / (1.0 + fabs(want[i])));
    }
    return worst;
}

/* Some ten roundings each. */
static const double bound = 1e-6;

FG_TEST(fal_is_its_definition)
{
    fg_rng r;
    fg_rng_init(&r, 1);
    double worst = 0.0, roots = 0.0, turned = 0.0;
    for (int round = 0; round < 400; round++) {
        float e[8];
        double want[4][8], other[8];
        const float delta = (float)(.01 + fg_rng_f64(&r)), alpha = (float)(1.5 * fg_rng_f64(&r));
        draw(&r, e, round % 2 == 0 ? 1.0 : 20.0);
        if (round == 3) e[0] = 0.0f;
        for (int i = 0; i < 8; i++) {
            const double x = (double)e[i], d = (double)delta;
            want[0][i] = fal(x, (double)alpha, d);
            want[1][i] = fal(x, .5, d);
            want[2][i] = fal(x, .25, d);
            want[3][i] = fal(x, .75, d);
            other[i] = fal(-x, (double)alpha, d);
        }
        v8 half, quarter;
        const fg_fal_roots of_delta = fg_fal_roots_of(delta);
        float inner[8];
        v8_store(inner, fg_fal_weight(v8_set1(delta), alpha));
        const v8 got = fg_fal(v8_load(e), alpha, delta, inner[0]);
        fg_fal_half_quarter(v8_load(e), &of_delta, &half, &quarter);
        worst = fg_test_worst(worst, error_of(got, want[0]));
        roots = fg_test_worst(roots, error_of(half, want[1]));
        roots = fg_test_worst(roots, error_of(quarter, want[2]));
        roots =
            fg_test_worst(roots, error_of(fg_fal_three_quarters(v8_load(e), &of_delta), want[3]));
        turned = fg_test_worst(turned, error_of(got, other));
    }
    CHECK_NEAR(worst, 0.0, bound);
    CHECK_NEAR(roots, 0.0, bound);
    CHECK(turned > .1);
}

/* fhan jumps where y or a crosses a border; there float and double may take different sides. */
FG_TEST(fhan_is_its_definition)
{
    fg_rng r;
    fg_rng_init(&r, 2);
    int n_off = 0, n_turned = 0;
    for (int round = 0; round < 400; round++) {
        float x1[8], x2[8], got[8];
        const float r0 = (float)(.5 + 4.0 * fg_rng_f64(&r)), h = (float)(.2 + fg_rng_f64(&r));
        draw(&r, x1, 4.0);
        draw(&r, x2, 2.0);
        v8_store(got, fg_fhan(v8_load(x1), v8_load(x2), r0, h));
        for (int i = 0; i < 8; i++) {
            const double a = (double)x1[i], b = (double)x2[i];
            const double tol = 1e-5 * (double)r0;
            n_off += !(fabs(fhan(a, b, (double)r0, (double)h, 1.0) - (double)got[i]) <= tol);
            n_turned += !(fabs(fhan(a, b, (double)r0, (double)h, -1.0) - (double)got[i]) <= tol);
        }
    }
    CHECK(n_off <= 1);
    CHECK(n_turned > 1000);
}

/* A constant input: the tracked value is there in some steps and then rests. */
FG_TEST(tracking_arrives)
{
    v8 v[2] = {v8_set1(0.0f), v8_set1(0.0f)};
    for (int t = 0; t < 60; t++) fg_tracking(v8_set1(4.0f), v, 1.467f, .5f);
    const double there[8] = {4, 4, 4, 4, 4, 4, 4, 4}, rest[8] = {0};
    CHECK_NEAR(error_of(v[0], there), 0.0, 1e-4);
    CHECK_NEAR(error_of(v[1], rest), 0.0, 1e-4);
}

static double watch(double rh, double *z, const fg_eso *o, double u, double turn)
{
    const double e = z[0] - rh, h = (double)o->h, z1 = z[1], z2 = z[2];
    z[0] += h * (z1 - turn * (double)o->b01 * e);
    z[1] += h * (z2 - (double)o->b02 * fal(e, .5, (double)o->roots.delta) + (double)o->b0 * u);
    z[2] -= h * (double)o->b03 * fal(e, .25, (double)o->roots.delta);
    return z[0];
}

FG_TEST(observer_is_its_definition)
{
    const fg_eso o = {.5f, .6f, .2f, .05f, .3f, fg_fal_roots_of(.8f)};
    v8 z[3] = {v8_set1(1.0f), v8_set1(0.0f), v8_set1(0.0f)};
    double own[8][3], turned[8][3], shared[3] = {1.0, 0.0, 0.0};
    fg_rng r;
    fg_rng_init(&r, 3);
    for (int i = 0; i < 8; i++) {
        memcpy(own[i], shared, sizeof shared);
        memcpy(turned[i], shared, sizeof shared);
    }
    double good = 0.0, bad_sign = 0.0, bad_state = 0.0;
    for (int t = 0; t < 12; t++) {
        float rh[8], u[8];
        double want[3][8];
        draw(&r, rh, 3.0);
        draw(&r, u, 1.0);
        fg_observe(v8_load(rh), v8_load(u), z, &o);
        for (int i = 0; i < 8; i++) {
            want[0][i] = watch((double)rh[i], own[i], &o, (double)u[i], 1.0);
            want[1][i] = watch((double)rh[i], turned[i], &o, (double)u[i], -1.0);
            want[2][i] = watch((double)rh[i], shared, &o, (double)u[i], 1.0);
        }
        good = fg_test_worst(good, error_of(z[0], want[0]));
        bad_sign = fg_test_worst(bad_sign, error_of(z[0], want[1]));
        bad_state = fg_test_worst(bad_state, error_of(z[0], want[2]));
    }
    CHECK_NEAR(good, 0.0, 10 * bound);
    CHECK(bad_sign > .1);
    CHECK(bad_state > .1);
}

FG_TEST(gains_are_their_definition)
{
    const fg_factor_gains g = {.npid = {1.3f, .4f, .9f, .02f, 1.2f, .1f, .9f, .2f, -1.8f}};
    fg_rng r;
    fg_rng_init(&r, 4);
    double good = 0.0, turned = 0.0;
    for (int round = 0; round < 200; round++) {
        float e[8];
        double kp[8], ki[8], kd[8], other[8];
        draw(&r, e, 5.0);
        for (int i = 0; i < 8; i++) {
            const double x = (double)e[i];
            kp[i] =
                (double)g.npid.ap + (double)g.npid.bp * (1.0 - 1.0 / cosh((double)g.npid.cp * x));
            ki[i] = (double)g.npid.ai / cosh((double)g.npid.ci * x);
            kd[i] = (double)g.npid.ad +
                    (double)g.npid.bd / (1.0 + (double)g.npid.cd * exp((double)g.npid.dd * x));
            other[i] = (double)g.npid.ad +
                       (double)g.npid.bd / (1.0 + (double)g.npid.cd * exp(-(double)g.npid.dd * x));
        }
        const fg_npid_gains k = fg_npid_at(v8_load(e), &g);
        good = fg_test_worst(good, error_of(k.kp, kp));
        good = fg_test_worst(good, error_of(k.ki, ki));
        good = fg_test_worst(good, error_of(k.kd, kd));
        turned = fg_test_worst(turned, error_of(k.kd, other));
    }
    CHECK_NEAR(good, 0.0, bound);
    CHECK(turned > .1);
}
