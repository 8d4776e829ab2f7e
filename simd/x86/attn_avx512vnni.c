/* SPDX-License-Identifier: MIT
 *
 * Attention over an int8 cache for AVX-512-VNNI.
 */
#if !defined(__AVX512VNNI__)
#error "this file is built for AVX-512-VNNI"
#endif

#define FG_LEVEL(op) fg_##op##__avx512vnni
#include "simd/x86/attn_avx512vnni.h"

#define ATTN_PRODUCTS vnni_products
#include "simd/attn_body.h"
