/* SPDX-License-Identifier: MIT
 *
 * The f32 kernels for the AVX-512-VNNI level.
 */
#if !defined(__AVX512VNNI__) || defined(__AVX512VBMI__) || defined(__AVX512BF16__)
#error "this file is built for AVX-512 F, BW, DQ, VL and VNNI, no more and no less"
#endif

#define FG_LEVEL(op) fg_##op##__avx512vnni
#include "simd/vec_avx512.h"

#include "simd/f32_body.h"
