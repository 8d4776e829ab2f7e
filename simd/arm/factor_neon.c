/* SPDX-License-Identifier: MIT
 *
 * The kernels of latent factors, for AArch64 NEON.
 */
#if !defined(__aarch64__) || defined(__ARM_FEATURE_DOTPROD)
#error "this file is built for the ARMv8 baseline, no more and no less"
#endif

#define FG_LEVEL(op) fg_##op##__neon
#include "simd/factor_body.h"
