/* SPDX-License-Identifier: MIT
 *
 * The AMX level: integer panels on tiles; the rest is that of AVX-512-VNNI.
 */
#if !defined(__AVX512VNNI__) || !(defined(__AMX_INT8__) || defined(__AMXINT8__))
#error "this file is built for AVX-512-VNNI and AMX-INT8"
#endif

#define FG_LEVEL(op) fg_##op##__amx
#include "simd/x86/panel_amx.h"
