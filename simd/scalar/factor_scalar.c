/* SPDX-License-Identifier: MIT
 *
 * The kernels of latent factors, scalar level: the reference that every other level must equal bit for bit.
 */
#if defined(__AVX__)
#error "the scalar level must be built for the baseline"
#endif

#define FG_LEVEL(op) fg_##op##__scalar
#include "simd/factor_body.h"
