/* SPDX-License-Identifier: MIT
 *
 * Attention over an int8 cache for AMX.
 */
#define FG_LEVEL(op) fg_##op##__amx

#include "simd/x86/attn_amx.h"
