/* SPDX-License-Identifier: MIT
 *
 * Weights of a superblock (src/format/FORMAT.md 6) as signed bytes, for the kinds that have codes.
 */
#ifndef FG_SIMD_CUDA_PANEL_CODES_CUH
#define FG_SIMD_CUDA_PANEL_CODES_CUH

#include "simd/cuda/primitives.cuh"

template <int K> FG_DEV constexpr uint32_t group_bytes(void)
{
    return K == FG_KIND_Q4 || K == FG_KIND_Q4LIN ? 256
           : K == FG_KIND_Q5                     ? 320
           : K == FG_KIND_Q6                     ? 384
                                                 : 512;
}
template <int K> FG_DEV constexpr uint32_t sb_bytes(void)
{
    return 64 + 4 * group_bytes<K>();
}

/* Word r of four. */
FG_DEV uint32_t word(const uint4 &v, int r)
{
    return r == 0 ? v.x : r == 1 ? v.y : r == 2 ? v.z : v.w;
}
FG_DEV uint32_t word(const uint2 &v, int r)
{
    return r == 0 ? v.x : v.y;
}

/* Entries of a table of 16 bytes for the codes in a word: a those of nibbles 0..3, b of 4..7. */
FG_DEV void look_up(uint32_t w, const uint4 &t, uint32_t &a, uint32_t &b)
{
    const uint32_t s = w & 0x77777777u, m = (w >> 1 & 0x44444444u) | 0x32103210u;
    a = prmt(prmt(t.x, t.y, s), prmt(t.z, t.w, s), m);
    b = prmt(prmt(t.x, t.y, s >> 16), prmt(t.z, t.w, s >> 16), m >> 16);
}

/* Unsigned codes of kinds without a table: lo of columns 4j.., hi of 16 + 4j.. of a group; t0, t1:
 * its upper bits. */
template <int K>
FG_DEV void codes(uint32_t w, uint32_t t0, uint32_t t1, unsigned j, uint32_t &lo, uint32_t &hi)
{
    lo = w & 0x0f0f0f0fu;
    hi = w >> 4 & 0x0f0f0f0fu;
    if (K == FG_KIND_Q5) {
        lo |= (t0 >> j & 0x01010101u) << 4;
        hi |= (t0 >> (4 + j) & 0x01010101u) << 4;
    }
    if (K == FG_KIND_Q6) {
        lo |= (t0 >> 2 * j & 0x03030303u) << 4;
        hi |= (t1 >> 2 * j & 0x03030303u) << 4;
    }
}

/* What a code of zero stands for, four times. */
template <int K> FG_DEV constexpr uint32_t lowest(void)
{
    return K == FG_KIND_Q4LIN ? 0xf8f8f8f8u : K == FG_KIND_Q5 ? 0xf0f0f0f0u : 0xe0e0e0e0u;
}

/* code + lowest in each byte: no borrow crosses a byte while its top bit is set. */
template <int K> FG_DEV uint32_t signed_codes(uint32_t c)
{
    return ((c | 0x80808080u) - (~lowest<K>() + 0x01010101u)) ^ 0x80808080u;
}

#endif
