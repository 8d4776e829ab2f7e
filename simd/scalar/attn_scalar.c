/* SPDX-License-Identifier: MIT
 *
 * Attention over an int8 cache: the reference.
 */
#define FG_LEVEL(op) fg_##op##__scalar
#include "simd/vec_scalar.h"

#include "simd/attn_scalar.h"

#define ATTN_PRODUCTS products
#include "simd/attn_body.h"
