/* SPDX-License-Identifier: MIT
 *
 * Elementary functions in double that give the same bits on every machine: only +, -, *, / in a
 * fixed order (built with -ffp-contract=off).  libm's versions differ between C libraries and CPU
 * levels in the last bit, which the numerics contract (simd/KERNELS.md) does not allow for tables
 * of decay ratios, rotary angles and sampling probabilities.  Not for hot loops.
 *
 * Relative error is below 1e-15 over the stated ranges (tested against libm).
 */
#ifndef FG_SRC_BASE_DMATH_H
#define FG_SRC_BASE_DMATH_H

/* e^x; 0 below -708, +infinity above 709, NaN for NaN. */
double fg_exp(double x);

/* Natural logarithm, x > 0 and normal; NaN otherwise. */
double fg_log(double x);

/* sin and cos of x radians, |x| <= 2^31 (position times frequency stays below 1.1e7). */
void fg_sincos(double x, double *sin_x, double *cos_x);

#endif
