/* SPDX-License-Identifier: MIT
 *
 * Attention over an int8 cache for AMX; included by one file that defines FG_LEVEL(op).  A row of
 * 16 bits is 256 high + low, both int8; each is multiplied as a tile of 16 rows with 64 elements of
 * 16 columns, which lie in the cache as the tile unit wants them.  Two tiles of rows share the
 * columns. Heads that are not whole tiles, and single rows, are left to VNNI.
 */
#ifndef FG_SIMD_X86_ATTN_AMX_H
#define FG_SIMD_X86_ATTN_AMX_H

#ifndef FG_LEVEL /* alone, the header still compiles */
#define FG_LEVEL(op) fg_##op##__amx
#endif

#include "simd/x86/attn_avx512vnni.h"
#include "simd/x86/tile_amx.h"

#if defined(__AVX512VNNI__) && defined(AMX_CONFIGURE) /* tile_amx.h knows how */

enum { AMX_MAX_K = 256, AMX_HIGH = 0, AMX_LOW = 1 };

typedef int32_t attn_dots[AMX_ROWS][16];

typedef struct attn_tiles {
    _Alignas(64) int8_t plane[2][2 * AMX_ROWS][AMX_MAX_K]; /* [high, low][row][k] */
    _Alignas(64) attn_dots dot[2][2];                      /* [tile of rows][high, low] */
} attn_tiles;

static void amx_split(attn_tiles *t, const int16_t *a, size_t a_stride, size_t n_row, size_t n_k)
{
    for (size_t r = 0; r < n_row; r++) {
        for (size_t k = 0; k < n_k; k += 32) {
            const __m512i x = _mm512_loadu_si512(a + r * a_stride + k);
            const __m512i high = _mm512_srai_epi16(_mm512_add_epi16(x, _mm512_set1_epi16(128)), 8);
            const __m256i h = _mm512_cvtepi16_epi8(high), l = _mm512_cvtepi16_epi8(x);
            _mm256_store_si256((__m256i *)(void *)&t->plane[AMX_HIGH][r][k], h);
            _mm256_store_si256((__m256i *)(void *)&t->plane[AMX_LOW][r][k], l);
        }
    }
}

/* Tiles 0 1 and 2 3 are sums (high, low) of the two tiles of rows, 4 and 5 their planes, 6 the
 * columns. */
static void amx_shapes(size_t n_row)
{
    amx_config shape = {.palette = 1};
    for (size_t i = 0; i < 7; i++) {
        const size_t second = i == 2 || i == 3 || i == 5;
        const size_t rows = second ? n_row - (n_row < AMX_ROWS ? n_row : (size_t)AMX_ROWS)
                            : n_row < AMX_ROWS ? n_row
                                               : (size_t)AMX_ROWS;
        shape.bytes[i] = rows == 0 ? 0 : AMX_BYTES;
        shape.rows[i] = (uint8_t)(i == 6 ? (size_t)AMX_ROWS : rows);
    }
    shape.bytes[6] = AMX_BYTES;
    AMX_CONFIGURE(&shape);
}

static void amx_group(attn_tiles *t, bool both, size_t n_k, const int8_t *b, size_t line,
                      attn_ahead *ahead, size_t n_ahead)
{
    AMX_ZERO(0);
    AMX_ZERO(1);
    if (both) {
        AMX_ZERO(2);
        AMX_ZERO(3);
    }
    for (size_t k = 0; k < n_k; k += AMX_BYTES, b += AMX_ROWS * line) {
        AMX_LOAD(6, b, line);
        fetch_ahead(ahead, n_ahead);
        AMX_LOAD(4, &t->plane[AMX_HIGH][0][k], AMX_MAX_K);
        AMX_DOT_SS(0, 4, 6);
        AMX_LOAD(4, &t->plane[AMX_LOW][0][k], AMX_MAX_K);
        AMX_DOT_SS(1, 4, 6);
        if (!both) continue;
        AMX_LOAD(5, &t->plane[AMX_HIGH][AMX_ROWS][k], AMX_MAX_K);
        AMX_DOT_SS(2, 5, 6);
        AMX_LOAD(5, &t->plane[AMX_LOW][AMX_ROWS][k], AMX_MAX_K);
        AMX_DOT_SS(3, 5, 6);
    }
    AMX_STORE(0, t->dot[0][AMX_HIGH], AMX_BYTES);
    AMX_STORE(1, t->dot[0][AMX_LOW], AMX_BYTES);
    if (both) {
        AMX_STORE(2, t->dot[1][AMX_HIGH], AMX_BYTES);
        AMX_STORE(3, t->dot[1][AMX_LOW], AMX_BYTES);
    }
}

static void amx_products(const int16_t *a, size_t a_stride, size_t n_row, size_t n_k,
                         const int8_t *b, size_t line, size_t group, size_t n_group, int32_t *c,
                         attn_ahead *ahead)
{
    if (n_row < 2 || n_k % AMX_BYTES != 0 || n_k > AMX_MAX_K) {
        vnni_products(a, a_stride, n_row, n_k, b, line, group, n_group, c, ahead);
        return;
    }
    attn_tiles t;
    /* half of the lines with the tiles of a group, half with its rows */
    const size_t lines = ahead_step(ahead, n_group);
    const size_t step = (lines / 2 + n_k / AMX_BYTES - 1) / (n_k / AMX_BYTES);
    const size_t row = (lines / 2 + n_row - 1) / n_row;
    amx_split(&t, a, a_stride, n_row, n_k);
    amx_shapes(n_row);
    AMX_FENCE();
    for (size_t g = 0; g < n_group; g++) {
        amx_group(&t, n_row > AMX_ROWS, n_k, b + g * group, line, ahead, step);
        AMX_FENCE();
        for (size_t r = 0; r < n_row; r++) {
            attn_dots *dot = t.dot[r / AMX_ROWS];
            const __m512i high = _mm512_load_si512(dot[AMX_HIGH][r % AMX_ROWS]);
            const __m512i low = _mm512_load_si512(dot[AMX_LOW][r % AMX_ROWS]);
            _mm512_storeu_si512(c + r * FG_KV_BLOCK + 16 * g,
                                _mm512_add_epi32(_mm512_slli_epi32(high, 8), low));
            fetch_ahead(ahead, row);
        }
        AMX_FENCE();
    }
    AMX_RELEASE();
}

#define ATTN_PRODUCTS amx_products
#include "simd/attn_body.h"

_Static_assert(ATTN_ROWS == 2 * AMX_ROWS, "two tiles of rows");

#endif
#endif
