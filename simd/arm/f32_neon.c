/* SPDX-License-Identifier: MIT
 *
 * The f32 kernels for AArch64 NEON, which every ARMv8 core has.
 */
#if !defined(__aarch64__) || defined(__ARM_FEATURE_DOTPROD)
#error "this file is built for the ARMv8 baseline, no more and no less"
#endif

#define FG_LEVEL(op) fg_##op##__neon
#include "simd/vec_neon.h"

#include "simd/f32_body.h"
