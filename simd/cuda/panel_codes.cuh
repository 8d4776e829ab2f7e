/* SPDX-License-Identifier: MIT
 *
 * Weights of a superblock (src/format/FORMAT.md 6), for the kinds that have codes: where a warp
 * loads them, and what they are as bytes.
 */
#ifndef FG_SIMD_CUDA_PANEL_CODES_CUH
#define FG_SIMD_CUDA_PANEL_CODES_CUH

#include "simd/cuda/panel_args.h"
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

/* Panel p of a list of matrices. */
FG_DEV const fg_card_matrix *find_panel(const fg_card_matrix *m, uint32_t *p)
{
    while (*p >= m->n_panel) *p -= (m++)->n_panel;
    return m;
}

/* A superblock as a lane of a warp has it: lane (g = lane / 4, t = lane % 4) has rows 2g and 2g + 1
 * of line t of each group, which stand for rows g and g + 8 of a fragment of mma.m16n8k32; so a
 * group comes in one piece of 256 bytes.  s: scales of the rows, w and t: per group its words. */
template <int K> struct lane_sb {
    uint2 s, w[K == FG_KIND_Q8 ? 8 : 4], t[K == FG_KIND_Q6 ? 8 : K == FG_KIND_Q5 ? 4 : 1];
};

/* Eight bytes of weights: of global memory, or of a copy in shared memory. */
template <bool SHARED> FG_DEV uint2 get8(const uint8_t *p)
{
    if (SHARED) return *(const uint2 *)(const void *)p;
    return ld8(p);
}

template <int K, bool SHARED> FG_DEV void load_sb(lane_sb<K> &f, const uint8_t *sb)
{
    const uint32_t lane = threadIdx.x & 31, row = 8 * (lane >> 2), t = lane & 3;
    f.s = get8<SHARED>(sb + row);
#pragma unroll
    for (int g = 0; g < 4; g++) {
        const uint8_t *p = sb + 64 + group_bytes<K>() * g + row;
        if constexpr (K == FG_KIND_Q8) {
            f.w[2 * g] = get8<SHARED>(p + 64 * t);
            f.w[2 * g + 1] = get8<SHARED>(p + 256 + 64 * t);
        } else {
            f.w[g] = get8<SHARED>(p + 64 * t);
            if constexpr (K == FG_KIND_Q5) f.t[g] = get8<SHARED>(p + 256);
            if constexpr (K == FG_KIND_Q6) {
                f.t[2 * g] = get8<SHARED>(p + 256);
                f.t[2 * g + 1] = get8<SHARED>(p + 320);
            }
        }
    }
}

/* Entries of a table of 16 bytes for the codes in a word: a those of nibbles 0..3, b of 4..7. */
FG_DEV void look_up(uint32_t w, const uint4 &t, uint32_t &a, uint32_t &b)
{
    const uint32_t s = w & 0x77777777u, m = (w >> 1 & 0x44444444u) | 0x32103210u;
    a = prmt(prmt(t.x, t.y, s), prmt(t.z, t.w, s), m);
    b = prmt(prmt(t.x, t.y, s >> 16), prmt(t.z, t.w, s >> 16), m >> 16);
}

FG_DEV uint32_t turn_left(uint32_t v, unsigned n)
{
    return v << (n & 31) | v >> ((0 - n) & 31);
}

/* Unsigned codes of kinds without a table: lo of columns 4j.., hi of 16 + 4j.. of a group; t0, t1:
 * its upper bits. */
template <int K>
FG_DEV void codes(uint32_t w, uint32_t t0, uint32_t t1, unsigned j, uint32_t &lo, uint32_t &hi)
{
    lo = w & 0x0f0f0f0fu;
    hi = w >> 4 & 0x0f0f0f0fu;
    if (K == FG_KIND_Q5) {
        lo |= turn_left(t0, 4 - j) & 0x10101010u;
        hi |= turn_left(t0, 0 - j) & 0x10101010u;
    }
    if (K == FG_KIND_Q6) {
        lo |= turn_left(t0, 4 - 2 * j) & 0x30303030u;
        hi |= turn_left(t1, 4 - 2 * j) & 0x30303030u;
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
