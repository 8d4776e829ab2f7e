/* SPDX-License-Identifier: MIT
 *
 * The tile unit.  A weight is two bytes there (panel_amx.h), hence half the products count.
 */
#if !defined(__AVX512VNNI__) || !(defined(__AMX_INT8__) || defined(__AMXINT8__))
#error "this file is built for AVX-512-VNNI and AMX-INT8"
#endif

#include "simd/kernels_decl.h"
#include "simd/x86/tile_amx.h"

uint64_t fg_peak__amx(uint64_t rounds)
{
    static const uint8_t zeros[AMX_ROWS][AMX_BYTES];
    amx_config c = {.palette = 1};
    for (int t = 0; t < AMX_TILES; t++) {
        c.bytes[t] = AMX_BYTES;
        c.rows[t] = AMX_ROWS;
    }
    AMX_CONFIGURE(&c);
    AMX_LOAD(4, zeros, AMX_BYTES);
    AMX_LOAD(5, zeros, AMX_BYTES);
    AMX_LOAD(6, zeros, AMX_BYTES);
    AMX_LOAD(7, zeros, AMX_BYTES);
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_ZERO(2);
    AMX_ZERO(3);
    for (uint64_t r = 0; r < rounds; r++) {
        AMX_DOT_SU(0, 4, 6);
        AMX_DOT_SS(1, 4, 7);
        AMX_DOT_SU(2, 5, 6);
        AMX_DOT_SS(3, 5, 7);
    }
    AMX_RELEASE();
    return rounds * 4 * AMX_ROWS * AMX_ROWS * AMX_BYTES / 2;
}
