/* SPDX-License-Identifier: MIT
 *
 * The f32 kernels, scalar level: the reference that every other level must equal bit for bit.
 */
#if defined(__AVX__)
#error "the scalar level must be built for the baseline"
#endif

#define FG_LEVEL(op) fg_##op##__scalar
#include "simd/vec_scalar.h"

#include "simd/f32_body.h"
