/* SPDX-License-Identifier: MIT
 *
 * The f32 kernels for AVX2 + FMA.
 */
#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "this file is built for AVX2 and FMA, no more and no less"
#endif

#define FG_LEVEL(op) fg_##op##__avx2
#include "simd/vec_avx2.h"

#include "simd/f32_body.h"
