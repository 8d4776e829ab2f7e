/* SPDX-License-Identifier: MIT
 *
 * Each function reduces its argument with constants split into a part of few bits (so that the
 * product with an integer is exact) and a remainder, then sums the Taylor series.  Speed does not
 * matter: these fill tables.
 */
#include "src/base/dmath.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* ln 2: the high part has 32 significant bits, n up to 2^20 keeps n * hi exact. */
static const double ln2_hi = 0x1.62e42fefp-1;
static const double ln2_lo = 0x1.473de6af278edp-34;

static double scale_pow2(double x, int n) /* x * 2^n, result normal or handled in two steps */
{
    while (n > 1000) {
        x *= 0x1p1000;
        n -= 1000;
    }
    while (n < -1000) {
        x *= 0x1p-1000;
        n += 1000;
    }
    const uint64_t bits = (uint64_t)(1023 + n) << 52;
    double p;
    memcpy(&p, &bits, sizeof p);
    return x * p;
}

double fg_exp(double x)
{
    if (x != x) return x;
    if (x > 709.0) return (double)INFINITY;
    if (x < -708.0) return 0.0;
    const double n = floor(x / (ln2_hi + ln2_lo) + 0.5);
    const double r = (x - n * ln2_hi) - n * ln2_lo; /* |r| <= 0.35 */
    double sum = 1.0; /* Horner form of sum r^k/k!, k <= 16: remainder below 1e-22 */
    for (int k = 16; k >= 1; k--) sum = 1.0 + r / (double)k * sum;
    return scale_pow2(sum, (int)n);
}

double fg_log(double x)
{
    if (!(x >= 0x1p-1022) || x > 0x1.fffffffffffffp1023) return (double)NAN;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffu) | ((uint64_t)1023 << 52);
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e += 1;
    }
    /* ln m = 2 atanh(t), t = (m-1)/(m+1), |t| <= 0.172: sum t^(2k+1)/(2k+1) */
    const double t = (m - 1.0) / (m + 1.0), t2 = t * t;
    double sum = 0.0;
    for (int k = 12; k >= 1; k--) sum = (sum + 1.0 / (double)(2 * k + 1)) * t2;
    return (double)e * ln2_hi + (2.0 * (t + t * sum) + (double)e * ln2_lo);
}

void fg_sincos(double x, double *sin_x, double *cos_x)
{
    /* pi/2 in three parts of 33, 33 and 53 bits: n up to 2^31 does not fit exactly in 53 - 33 bits
     * above 2^20, so the first two products are split once more by halving n into 2^16 steps. */
    static const double p1 = 0x1.921fb544p+0, p2 = 0x1.0b4611a6p-34, p3 = 0x1.3198a2e037073p-69;
    const double n = floor(x / (p1 + p2) + 0.5);
    /* Towards zero: x and nh * p1 then have one sign, and their difference is exact. */
    const double nh = trunc(n / 65536.0) * 65536.0, nl = n - nh;
    double r = ((x - nh * p1) - nl * p1);
    r = ((r - nh * p2) - nl * p2) - n * p3;
    const double r2 = r * r;
    double s = 1.0, c = 1.0; /* |r| <= pi/4: terms up to r^19 and r^18 */
    for (int k = 9; k >= 1; k--) {
        s = 1.0 - r2 / (double)(2 * k * (2 * k + 1)) * s;
        c = 1.0 - r2 / (double)((2 * k - 1) * 2 * k) * c;
    }
    s *= r;
    const double q = n - floor(n / 4.0) * 4.0;
    if (q == 0.0) {
        *sin_x = s;
        *cos_x = c;
    } else if (q == 1.0) {
        *sin_x = c;
        *cos_x = -s;
    } else if (q == 2.0) {
        *sin_x = -s;
        *cos_x = -c;
    } else {
        *sin_x = -c;
        *cos_x = s;
    }
}
