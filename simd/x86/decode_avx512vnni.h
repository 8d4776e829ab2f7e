/* SPDX-License-Identifier: MIT
 *
 * How lines of a panel become unsigned bytes in zmm registers, for the AVX-512-VNNI and AMX panels.
 *
 * A line is 64 bytes: 16 rows x 4 columns.  Column quads of a group are visited as 0 4 1 5 2 6 3 7,
 * because quads c and c + 4 are the low and high nibbles of one line.
 */
#ifndef FG_SIMD_X86_DECODE_AVX512VNNI_H
#define FG_SIMD_X86_DECODE_AVX512VNNI_H

#include <stddef.h>
#include <stdint.h>

#include "quant/qtype.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)

#include <immintrin.h>

/* Loops over constant trips must dissolve, so that arrays of vectors become registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE static inline __attribute__((always_inline, unused))

enum { QUADS = FG_GROUP_COLS / 4 };

/* Codes of visit n = 0..7 of the group whose first line is p.  `table` is a constant that the type
 * keeps in a register. */
typedef __m512i quad_fn(const uint8_t *p, int n, __m512i table);

typedef struct panel_kind {
    quad_fn *quad;
    size_t group_bytes;
    int shift; /* the code of value zero is 1 << shift */
} panel_kind;

INLINE __m512i load512(const void *p)
{
    return _mm512_load_si512(p);
}

/* Byte b = 0..3 of each lane, sign-extended. */
INLINE __m512i scale_of(__m512i line, int b)
{
    return _mm512_srai_epi32(_mm512_slli_epi32(line, (unsigned)(24 - 8 * b)), 24);
}

/* Column quad of visit n. */
INLINE int quad_of(int n)
{
    return n / 2 + 4 * (n & 1);
}

/* Low (n even) or high nibbles of the line of visit n. */
INLINE __m512i nibbles(const uint8_t *p, int n)
{
    const __m512i x = load512(p + 64 * (n / 2));
    return _mm512_and_si512((n & 1) == 0 ? x : _mm512_srli_epi16(x, 4), _mm512_set1_epi8(15));
}

/* a | (b << left & mask); left may be negative.  Bits that cross bytes are masked off. */
INLINE __m512i or_moved(__m512i a, __m512i b, int left, char mask)
{
    const __m512i x =
        left >= 0 ? _mm512_slli_epi32(b, (unsigned)left) : _mm512_srli_epi32(b, (unsigned)-left);
    return _mm512_ternarylogic_epi64(a, x, _mm512_set1_epi8(mask), 0xf8);
}

/* q4 with any table: value + 32, 0..63. */
INLINE __m512i quad_q4(const uint8_t *p, int n, __m512i table)
{
    return _mm512_shuffle_epi8(table, nibbles(p, n));
}
INLINE __m512i table_q4(const fg_lut *lut)
{
    const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)lut->v);
    return _mm512_broadcast_i32x4(_mm_add_epi8(v, _mm_set1_epi8(32)));
}

/* q4 with the linear table: value + 8 is the code itself. */
INLINE __m512i quad_q4lin(const uint8_t *p, int n, __m512i table)
{
    (void)table;
    return nibbles(p, n);
}

/* q5: nibble lines, then one line with the fifth bits, bit c of a byte for quad c. */
INLINE __m512i quad_q5(const uint8_t *p, int n, __m512i table)
{
    (void)table;
    return or_moved(nibbles(p, n), load512(p + 256), 4 - quad_of(n), 16);
}

/* q6: nibble lines, then a line of upper bit pairs for the low nibbles and one for the high.  Every
 * other pair of a byte is masked off for two quads each, so that nothing stands above the wanted
 * one: the rest of a byte is the nibble, taken without a mask of its own. */
INLINE __m512i quad_q6(const uint8_t *p, int n, __m512i table)
{
    const int left = 4 - 2 * (n / 2);
    const __m512i x = load512(p + 64 * (n / 2)), upper = load512(p + 256 + 64 * (n & 1));
    const __m512i pairs = _mm512_and_si512(upper, _mm512_set1_epi8(n / 2 % 2 == 0 ? 0x33 : -0x34));
    const __m512i moved = left >= 0 ? _mm512_slli_epi32(pairs, (unsigned)left)
                                    : _mm512_srli_epi32(pairs, (unsigned)-left);
    (void)table;
    return _mm512_ternarylogic_epi64((n & 1) == 0 ? x : _mm512_srli_epi16(x, 4), moved,
                                     _mm512_set1_epi8(15), 0xe4); /* c ? a : b */
}

/* q8: the signed byte with its top bit flipped is value + 128. */
INLINE __m512i quad_q8(const uint8_t *p, int n, __m512i table)
{
    return _mm512_xor_si512(load512(p + 64 * quad_of(n)), table);
}
INLINE __m512i table_q8(const fg_lut *lut)
{
    (void)lut;
    return _mm512_set1_epi8(-128);
}

INLINE __m512i table_none(const fg_lut *lut)
{
    (void)lut;
    return _mm512_setzero_si512();
}

static const panel_kind kind_q4 = {quad_q4, 256, 5};
static const panel_kind kind_q4lin = {quad_q4lin, 256, 3};
static const panel_kind kind_q5 = {quad_q5, 256 + 64, 4};
static const panel_kind kind_q6 = {quad_q6, 256 + 128, 5};
static const panel_kind kind_q8 = {quad_q8, 512, 7};

#endif
#endif
