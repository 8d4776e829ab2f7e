/* SPDX-License-Identifier: MIT
 *
 * Prototypes of all kernels in kernels.inc, from the typedefs of kernels.h, so that a definition
 * cannot drift from its contract.
 */
#ifndef FG_SIMD_KERNELS_DECL_H
#define FG_SIMD_KERNELS_DECL_H

#include "simd/kernels.h"
#include "src/sys/cpu.h"

#define FG_KERNEL(slot, type, symbol, features) fg_##type##_fn symbol;
#include "simd/kernels.inc"
#undef FG_KERNEL

#endif
