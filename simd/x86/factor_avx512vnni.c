/* SPDX-License-Identifier: MIT
 *
 * The kernels of latent factors, for AVX-512: eight lanes too, with twice the registers.
 */
#if !defined(__AVX512VNNI__) || defined(__AVX512VBMI__) || defined(__AVX512BF16__)
#error "this file is built for AVX-512 F, BW, DQ, VL and VNNI, no more and no less"
#endif

#define FG_LEVEL(op) fg_##op##__avx512vnni
#include "simd/factor_body.h"
