/* SPDX-License-Identifier: MIT
 *
 * One row of activations times panels of codes.  A block takes panels first, first + step, ..;
 * their superblocks, one behind the other, go to its warps in turn.  Each warp has FG_GEMV_STAGES
 * of its superblocks on their way into shared memory (cp.async), from panel to panel without a
 * break, which is what keeps the memory busy.  Integer sums are exact, so any order will do; as
 * floats they meet in shared memory, and after a round of panels half a warp a panel runs the chain
 * over them, in order, while the others are in the next round.
 *
 * A lane has rows 4q .. 4q+3 (q = lane % 4) of line lane / 4 of a superblock, 16 bytes a load.
 */
#ifndef FG_SIMD_CUDA_GEMV_CUH
#define FG_SIMD_CUDA_GEMV_CUH

#include "simd/cuda/panel_codes.cuh"
#include "simd/cuda/panel_args.h"

/* Panel p of a list of matrices. */
FG_DEV const fg_card_matrix *find_panel(const fg_card_matrix *m, uint32_t *p)
{
    while (*p >= m->n_panel) *p -= (m++)->n_panel;
    return m;
}

/* The four words of activations that go with a lane's codes of each of its groups; those of a table
 * in the order of look_up. */
template <int K> FG_DEV uint4 act_words(const fg_act128 *x, uint32_t line)
{
    const uint32_t *q = (const uint32_t *)(const void *)x->q;
    const uint32_t g = line >> 2, j = line & 3;
    if (K == FG_KIND_Q8) return {q[line], q[8 + line], q[16 + line], q[24 + line]};
    const uint4 v = {q[8 * g + j], q[8 * g + 4 + j], q[8 * g + 16 + j], q[8 * g + 20 + j]};
    if (K != FG_KIND_Q4) return v;
    return {prmt(v.x, v.y, 0x5140), prmt(v.x, v.y, 0x7362), prmt(v.z, v.w, 0x5140),
            prmt(v.z, v.w, 0x7362)};
}

/* This lane's part of the integer sums of its four rows.  sb: behind the scales s. */
FG_DEV void sums_of_bytes(int32_t sum[4], const uint8_t *sb, const uint4 &s, const uint4 &x)
{
#pragma unroll
    for (int g = 0; g < 4; g++) {
        const uint4 w = *(const uint4 *)(const void *)(sb + 512 * g + 16 * (threadIdx.x & 31));
#pragma unroll
        for (int r = 0; r < 4; r++) {
            sum[r] += dp4a(word(w, r), word(x, g), 0) * byte_of(word(s, r), (unsigned)g);
        }
    }
}
template <int K>
FG_DEV void sums_of_codes(int32_t sum[4], const uint8_t *sb, const uint4 &s, const uint4 &x,
                          const uint4 &table)
{
    const uint32_t lane = threadIdx.x & 31, q = lane & 3, line = lane >> 2, j = line & 3;
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        const uint32_t group = (line >> 2) + 2 * h;
        const uint8_t *g = sb + group_bytes<K>() * group;
        const uint4 w = *(const uint4 *)(const void *)(g + 64 * j + 16 * q);
        const uint32_t x0 = h == 0 ? x.x : x.z, x1 = h == 0 ? x.y : x.w;
        uint4 t0 = w, t1 = w;
        if (K == FG_KIND_Q5 || K == FG_KIND_Q6) {
            t0 = *(const uint4 *)(const void *)(g + 256 + 16 * q);
        }
        if (K == FG_KIND_Q6) t1 = *(const uint4 *)(const void *)(g + 320 + 16 * q);
        int32_t shift = 0; /* what codes count less than they say */
        if (K != FG_KIND_Q4) shift = dp4a(lowest<K>(), x0, dp4a(lowest<K>(), x1, 0));
#pragma unroll
        for (int r = 0; r < 4; r++) {
            uint32_t lo, hi;
            if (K == FG_KIND_Q4) {
                look_up(word(w, r), table, lo, hi);
            } else {
                codes<K>(word(w, r), word(t0, r), word(t1, r), j, lo, hi);
            }
            sum[r] += dp4a(lo, x0, dp4a(hi, x1, shift)) * byte_of(word(s, r), group);
        }
    }
}
template <int K>
FG_DEV void gemv_sums(int32_t sum[4], const uint8_t *sb, const uint4 &x, const uint4 &table)
{
    const uint4 s = *(const uint4 *)(const void *)(sb + 16 * (threadIdx.x & 3));
    sum[0] = sum[1] = sum[2] = sum[3] = 0;
    if constexpr (K == FG_KIND_Q8) {
        sums_of_bytes(sum, sb + 64, s, x);
    } else {
        sums_of_codes<K>(sum, sb + 64, s, x, table);
    }
}

/* Sums over the 8 lanes of equal q; lanes with bit 2 clear then hold a row each: 4 q + which. */
FG_DEV int32_t join_sums(const int32_t v[4], uint32_t *which)
{
    const uint32_t lane = threadIdx.x & 31;
    const bool b4 = (lane & 16) != 0, b3 = (lane & 8) != 0;
    int32_t k0 = b4 ? v[2] : v[0], k1 = b4 ? v[3] : v[1];
    k0 += (int32_t)shfl_xor((uint32_t)(b4 ? v[0] : v[2]), 16);
    k1 += (int32_t)shfl_xor((uint32_t)(b4 ? v[1] : v[3]), 16);
    int32_t k = (b3 ? k1 : k0) + (int32_t)shfl_xor((uint32_t)(b3 ? k0 : k1), 8);
    k += (int32_t)shfl_xor((uint32_t)k, 4);
    *which = 4 * (lane & 3) + (b4 ? 2 : 0) + (b3 ? 1 : 0);
    return k;
}

/* Where a warp is in the block's superblocks: panel j of the block, superblock sb of the piece. */
struct gemv_place {
    uint32_t j, sb;
};
FG_DEV void settle(gemv_place &at, uint32_t n)
{
    while (at.sb >= n) {
        at.sb -= n;
        at.j++;
    }
}

/* What all warps of the block share. */
struct gemv_work {
    const fg_card_matrix *m;
    uint32_t first, step, n_own; /* panels of the block */
    uint32_t sb0, n, n_sb;       /* superblocks sb0 .. sb0 + n - 1 of n_sb */
    fg_card_split split;
    uint4 table;
    uint8_t *ring; /* of the warp */
    uint4 *x;      /* [n][8] */
    float *d;      /* [n] */
    float *part;   /* [2][split.round][split.piece][16] */
};

template <int K> FG_DEV void gemv_fetch(const gemv_work &w, gemv_place at, uint32_t stage)
{
    if (at.j < w.n_own) {
        uint32_t p = w.first + at.j * w.step;
        const fg_card_matrix *m = find_panel(w.m, &p);
        const uint8_t *from =
            m->panels + p * m->panel_stride + (uint64_t)(w.sb0 + at.sb) * sb_bytes<K>();
        uint8_t *to = w.ring + stage * sb_bytes<K>();
#pragma unroll
        for (uint32_t i = threadIdx.x & 31; i < sb_bytes<K>() / 16; i += 32) {
            cp16(to + 16 * i, from + 16 * i);
        }
    }
    cp_commit();
}

/* The chain over the superblocks of panel j, row `r` of it. */
FG_DEV void gemv_chain(const gemv_work &w, uint32_t j, uint32_t r, const float *part)
{
    uint32_t p = w.first + j * w.step;
    const fg_card_matrix *m = find_panel(w.m, &p);
    float *y = m->y + 16 * p + r, acc = w.sb0 == 0 ? 0.0f : *y;
#pragma unroll 8
    for (uint32_t sb = 0; sb < w.n; sb++) {
        const uint32_t at = FG_ORDER(sb, w.n);
        acc = fma_rn(part[16 * at + r], w.d[at], acc);
    }
    *y = w.sb0 + w.n == w.n_sb ? acc * m->scales[16 * p + r] : acc;
}

template <int K> FG_DEV void gemv_piece(const gemv_work &w, const fg_act128 *act)
{
    const uint32_t n_warp = blockDim.x / 32, warp = threadIdx.x / 32, n_half = 2 * n_warp;
    gemv_place at = {0, warp};
    settle(at, w.n);
    gemv_place ahead = at;
    for (uint32_t s = 0; s < FG_GEMV_STAGES - 1; s++) {
        gemv_fetch<K>(w, ahead, s);
        ahead.sb += n_warp;
        settle(ahead, w.n);
    }
    for (uint32_t i = threadIdx.x; i < 8 * w.n; i += blockDim.x) {
        w.x[i] = act_words<K>(act + w.sb0 + i / 8, i % 8);
    }
    for (uint32_t i = threadIdx.x; i < w.n; i += blockDim.x) w.d[i] = act[w.sb0 + i].d;
    sync_block();
    uint32_t stage = 0, turn = 0;
    for (uint32_t j0 = 0; j0 < w.n_own; j0 += w.split.round, turn ^= 1) {
        const uint32_t left = w.n_own - j0, j1 = j0 + (left < w.split.round ? left : w.split.round);
        float *part = w.part + turn * w.split.round * w.split.piece * 16;
        while (at.j < j1) {
            cp_wait<FG_GEMV_STAGES - 2>();
            sync_warp(); /* this stage is there, and the last one read by all */
            gemv_fetch<K>(w, ahead, (stage + FG_GEMV_STAGES - 1) % FG_GEMV_STAGES);
            ahead.sb += n_warp;
            settle(ahead, w.n);
            int32_t sum[4];
            uint32_t which;
            gemv_sums<K>(sum, w.ring + stage * sb_bytes<K>(),
                         w.x[8 * at.sb + (threadIdx.x & 31) / 4], w.table);
            const int32_t k = join_sums(sum, &which);
            if ((threadIdx.x & 4) == 0) {
                part[((at.j - j0) * w.split.piece + at.sb) * 16 + which] = i2f(k);
            }
            at.sb += n_warp;
            settle(at, w.n);
            stage = (stage + 1) % FG_GEMV_STAGES;
        }
        sync_block();
        /* half warps in turn, so that none has all the chains */
        for (uint32_t j = j0 + (threadIdx.x / 16 + n_half - j0 % n_half) % n_half; j < j1;
             j += n_half) {
            gemv_chain(w, j, threadIdx.x % 16, part + (j - j0) * w.split.piece * 16);
        }
    }
    cp_wait<0>();
    sync_block(); /* before anything of this is used again */
}

/* Panels first, first + step, .. below n_panel of the matrices m, times x.  shared: as
 * fg_gemv_shared of ops_panels.c counts it. */
template <int K>
FG_DEV void gemv(const fg_card_matrix *m, uint32_t first, uint32_t step, uint32_t n_panel,
                 uint32_t n_sb, fg_card_split split, const uint8_t *lut, const fg_act128 *act,
                 uint8_t *shared)
{
    const uint32_t n_warp = blockDim.x / 32;
    gemv_work w = {};
    w.m = m;
    w.first = first;
    w.step = step;
    w.n_own = first < n_panel ? (n_panel - first + step - 1) / step : 0;
    w.n_sb = n_sb;
    w.split = split;
    memcpy(&w.table, lut, sizeof w.table);
    w.ring = shared + threadIdx.x / 32 * (FG_GEMV_STAGES * sb_bytes<K>());
    shared += n_warp * (FG_GEMV_STAGES * sb_bytes<K>());
    w.x = (uint4 *)(void *)shared;
    w.part = (float *)(void *)(w.x + 8 * split.piece);
    w.d = w.part + 2 * split.round * split.piece * 16;
    for (w.sb0 = 0; w.sb0 < n_sb; w.sb0 += split.piece) {
        w.n = n_sb - w.sb0 < split.piece ? n_sb - w.sb0 : split.piece;
        gemv_piece<K>(w, act);
    }
}

#endif
