/* SPDX-License-Identifier: MIT
 *
 * The AMX kernels over a tile unit in plain C, as shim_<slot>: any AVX-512-VNNI machine can
 * check them.  Listed as variants by checkasm.h.
 */
#if defined(__x86_64__)

#define FG_AMX_SHIM

#include "simd/kernels.h"

fg_tiles_fn shim_tiles_q4, shim_tiles_q4lin, shim_tiles_q5, shim_tiles_q6, shim_tiles_q8;
fg_attn_i8_fn shim_attn_i8;

#define FG_LEVEL(op) shim_##op
#include "simd/x86/panel_amx.h"

#include "simd/x86/attn_amx.h"

#else
typedef int amx_shim_needs_x86; /* an empty file is not C */
#endif
