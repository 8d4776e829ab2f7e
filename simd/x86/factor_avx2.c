/* SPDX-License-Identifier: MIT
 *
 * The kernels of latent factors, for AVX2 + FMA.
 */
#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "this file is built for AVX2 and FMA, no more and no less"
#endif

#define FG_LEVEL(op) fg_##op##__avx2
#include "simd/factor_body.h"
