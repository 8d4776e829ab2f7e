/* SPDX-License-Identifier: MIT
 *
 * dmath against the C library in long double (64 bits of mantissa), over the stated ranges, and
 * its special values.
 */
#include "src/base/dmath.h"

#include <math.h>

#include "src/base/rng.h"
#include "tests/fg_test.h"

static double relative(double got, long double want)
{
    return (double)(fabsl((long double)got - want) / fabsl(want));
}

FG_TEST(exp_relative_error)
{
    fg_rng r;
    fg_rng_init(&r, 1);
    double worst = 0.0;
    for (int i = 0; i < 200000; i++) {
        const double span = i % 3 == 0 ? 1.0 : i % 3 == 1 ? 50.0 : 708.0;
        const double x = (2.0 * fg_rng_f64(&r) - 1.0) * span;
        worst = fg_test_worst(worst, relative(fg_exp(x), expl((long double)x)));
    }
    CHECK(worst < 1e-15);
    CHECK(worst > 1e-17); /* something was measured */
}

FG_TEST(exp_special_values)
{
    CHECK(fg_exp(0.0) == 1.0 && fg_exp(-0.0) == 1.0);
    CHECK(fg_exp(-709.0) == 0.0 && fg_exp(-(double)INFINITY) == 0.0);
    CHECK(isinf(fg_exp(709.5)) && isinf(fg_exp((double)INFINITY)));
    CHECK(isnan(fg_exp((double)NAN)));
    CHECK(fg_exp(-708.0) > 0.0 && isfinite(fg_exp(709.0)));
}

FG_TEST(log_relative_error)
{
    fg_rng r;
    fg_rng_init(&r, 2);
    double worst = 0.0;
    for (int i = 0; i < 200000; i++) {
        const double e = i % 2 == 0 ? 2.0 : 1000.0;
        const double x = ldexp(0.5 + fg_rng_f64(&r), (int)((2.0 * fg_rng_f64(&r) - 1.0) * e));
        if (x == 1.0) continue;
        worst = fg_test_worst(worst, relative(fg_log(x), logl((long double)x)));
    }
    CHECK(worst < 1e-15);
    CHECK(worst > 1e-17);
}

FG_TEST(log_special_values)
{
    CHECK(fg_log(1.0) == 0.0);
    CHECK(isnan(fg_log(0.0)) && isnan(fg_log(-1.0)) && isnan(fg_log((double)NAN)));
    CHECK(isnan(fg_log((double)INFINITY)));
    CHECK_NEAR(fg_log(0x1p-1022), -708.3964185322641, 1e-12);
    CHECK_NEAR(fg_log(0x1.fffffffffffffp1023), 709.782712893384, 1e-12);
}

FG_TEST(sincos_absolute_error)
{
    static const struct {
        double span, tol;
    } range[] = {{1.0, 4e-16}, {100.0, 4e-16}, {1.1e7, 1e-15}, {0x1p31, 1e-15}};
    fg_rng r;
    fg_rng_init(&r, 3);
    for (int k = 0; k < 4; k++) {
        double worst = 0.0;
        for (int i = 0; i < 200000; i++) {
            double x = (2.0 * fg_rng_f64(&r) - 1.0) * range[k].span, s, c;
            if (i % 4 == 0) x = floor(x / 1.5707963267948966) * 1.5707963267948966; /* near zeros */
            fg_sincos(x, &s, &c);
            worst = fg_test_worst(worst, (double)fabsl((long double)s - sinl((long double)x)));
            worst = fg_test_worst(worst, (double)fabsl((long double)c - cosl((long double)x)));
        }
        if (worst > range[k].tol) {
            fg_test_fail(__FILE__, __LINE__, "span %g: error %g", range[k].span, worst);
        }
        CHECK(worst > 1e-18);
    }
}

FG_TEST(sincos_values)
{
    double s, c;
    fg_sincos(0.0, &s, &c);
    CHECK(s == 0.0 && c == 1.0);
    fg_sincos(-1.0, &s, &c);
    CHECK_NEAR(s, -0.8414709848078965, 2e-16);
    CHECK_NEAR(c, 0.5403023058681398, 2e-16);
}
