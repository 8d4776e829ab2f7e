/* SPDX-License-Identifier: MIT
 *
 * The tile unit: what it does on registers alone, and with loads and stores.  A weight is two bytes
 * there (panel_amx.h), hence half the products count.
 */
#if !defined(__AVX512VNNI__) || !(defined(__AMX_INT8__) || defined(__AMXINT8__))
#error "this file is built for AVX-512-VNNI and AMX-INT8"
#endif

#include "simd/kernels_decl.h"
#include "simd/x86/tile_amx.h"

static void configure(void)
{
    amx_config c = {.palette = 1};
    for (int t = 0; t < AMX_TILES; t++) {
        c.bytes[t] = AMX_BYTES;
        c.rows[t] = AMX_ROWS;
    }
    AMX_CONFIGURE(&c);
}

uint64_t fg_peak__amx(uint64_t rounds)
{
    static const uint8_t zeros[AMX_ROWS][AMX_BYTES];
    configure();
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

/* Two tiles of tokens by two planes, a load for each product, results round in 8 KiB. */
void fg_pattern__amx(const int8_t *act, size_t block, size_t row, size_t n_tok, size_t n_sb)
{
    enum { HALVES = 2, PLANES = 2, PAIR = 2 * AMX_ROWS };
    static const _Alignas(64) uint8_t plane[HALVES][PLANES][AMX_ROWS][AMX_BYTES];
    _Alignas(64) uint8_t result[2][4][AMX_ROWS][AMX_BYTES];
    configure();
    for (size_t i = 0; i < n_sb; i++) {
        for (size_t t = 0; t < n_tok; t += PAIR) {
            uint8_t(*to)[AMX_ROWS][AMX_BYTES] = result[t / PAIR % 2];
            AMX_ZERO(0);
            AMX_ZERO(1);
            AMX_ZERO(2);
            AMX_ZERO(3);
            for (size_t h = 0; h < HALVES; h++) {
                const int8_t *q = act + (HALVES * i + h) * block + t * row;
                AMX_LOAD(6, plane[h][0], AMX_BYTES);
                AMX_LOAD(4, q, row);
                AMX_DOT_SU(0, 4, 6);
                AMX_LOAD(7, plane[h][1], AMX_BYTES);
                AMX_DOT_SS(1, 4, 7);
                AMX_LOAD(5, q + AMX_ROWS * row, row);
                AMX_DOT_SU(2, 5, 6);
                AMX_DOT_SS(3, 5, 7);
            }
            AMX_STORE(0, to[0], AMX_BYTES);
            AMX_STORE(1, to[1], AMX_BYTES);
            AMX_STORE(2, to[2], AMX_BYTES);
            AMX_STORE(3, to[3], AMX_BYTES);
        }
    }
    AMX_RELEASE();
}
