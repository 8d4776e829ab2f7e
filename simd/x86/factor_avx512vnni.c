/* SPDX-License-Identifier: MIT
 *
 * The kernels of latent factors, for AVX-512: eight lanes too, with twice the registers.
 */
#if !defined(__AVX512F__) || !defined(__AVX512VL__)
#error "this file is built for AVX-512 with VL"
#endif

#define FG_LEVEL(op) fg_##op##__avx512vnni
#include "simd/factor_body.h"
