/* SPDX-License-Identifier: MIT
 *
 * Rows of activations times panels of codes, on tensor units.  A warp has one panel and N tiles of
 * 8 rows, a block FG_GEMM_WARPS panels of the same rows.  A group of 32 columns is one product of
 * mma.m16n8k32: lane (g = lane / 4, t = lane % 4) reads panel rows 2g and 2g + 1 of line t, which
 * stand for rows g and g + 8 of the fragment, so that a group comes in one piece of 256 bytes.
 * Activations come in fragment order (fg_pack_args) through a ring in shared memory.  Group scales
 * are multiplied in integers; per superblock one fma, in order.
 */
#ifndef FG_SIMD_CUDA_GEMM_CUH
#define FG_SIMD_CUDA_GEMM_CUH

#include "simd/cuda/panel_codes.cuh"

enum { GEMM_STAGES = 3 };

/* The fragment of group g. */
template <int K>
FG_DEV void gemm_decode(uint32_t out[4], const lane_sb<K> &f, int g, const uint4 &table)
{
    const uint32_t t = threadIdx.x & 3;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint32_t lo, hi;
        if constexpr (K == FG_KIND_Q8) {
            lo = word(f.w[2 * g], r);
            hi = word(f.w[2 * g + 1], r);
        } else if constexpr (K == FG_KIND_Q4) {
            uint32_t x, y;
            look_up(word(f.w[g], r), table, x, y);
            lo = prmt(x, y, 0x6420);
            hi = prmt(x, y, 0x7531);
        } else {
            const uint32_t t0 = K == FG_KIND_Q6   ? word(f.t[2 * g], r)
                                : K == FG_KIND_Q5 ? word(f.t[g], r)
                                                  : 0;
            codes<K>(word(f.w[g], r), t0, K == FG_KIND_Q6 ? word(f.t[2 * g + 1], r) : 0, t, lo, hi);
            lo = signed_codes<K>(lo);
            hi = signed_codes<K>(hi);
        }
        out[r] = lo;
        out[2 + r] = hi;
    }
}

/* Products of two groups with a tile of 8 rows, times the groups' scales, onto sum. */
FG_DEV void gemm_groups(int32_t sum[4], const uint32_t w0[4], const uint32_t w1[4], const uint2 &s,
                        unsigned pair, const uint4 &x)
{
    int32_t d0[4], d1[4];
    imma(d0, w0, x.x, x.y);
    imma(d1, w1, x.z, x.w);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t of = i < 2 ? s.x : s.y;
        sum[i] += d0[i] * byte_of(of, 2 * pair) + d1[i] * byte_of(of, 2 * pair + 1);
    }
}

template <int N> struct gemm_ring {
    uint4 x[GEMM_STAGES][N * 64];
    float d[GEMM_STAGES][N * 8];
};

template <int N>
FG_DEV void gemm_stage(gemm_ring<N> &ring, const fg_gemm_args &a, uint32_t sb, uint32_t row0)
{
    if (sb < a.n_sb) {
        const uint32_t s = sb % GEMM_STAGES;
        const uint8_t *f = a.f + (uint64_t)(row0 / 8) * a.n_sb * 1024;
        for (uint32_t i = threadIdx.x; i < N * 64; i += 32 * FG_GEMM_WARPS) {
            cp16(&ring.x[s][i], f + ((uint64_t)(i >> 6) * a.n_sb + sb) * 1024 + 16 * (i & 63));
        }
        if (threadIdx.x < 2 * N) {
            cp16(&ring.d[s][4 * threadIdx.x],
                 a.d + (uint64_t)sb * a.n_row + row0 + 4 * threadIdx.x);
        }
    }
    cp_commit();
}

template <int N>
FG_DEV void gemm_store(const fg_gemm_args &a, const fg_card_matrix *m, uint32_t p, uint32_t row0,
                       const float acc[N][4])
{
    const uint32_t lane = threadIdx.x & 31, row = 16 * p + 2 * (lane >> 2);
    const float s0 = m->scales[row], s1 = m->scales[row + 1];
#pragma unroll
    for (uint32_t n = 0; n < N; n++) {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t t = row0 + 8 * n + 2 * (lane & 3) + i;
            if (t >= a.n_tok) continue;
            float2 v;
            v.x = acc[n][i] * s0;
            v.y = acc[n][2 + i] * s1;
            *(float2 *)(void *)(m->y + (uint64_t)t * m->y_stride + row) = v;
        }
    }
}

template <int K, int N> FG_DEV void gemm(const fg_gemm_args &a, gemm_ring<N> &ring)
{
    const uint32_t n_tile = a.n_row / (8 * N), row0 = blockIdx.x % n_tile * (8 * N);
    const uint32_t panel = blockIdx.x / n_tile * FG_GEMM_WARPS + threadIdx.x / 32;
    uint32_t p = panel < a.n_panel ? panel : a.n_panel - 1; /* one more goes along, unstored */
    const fg_card_matrix *m = find_panel(a.m, &p);
    const uint8_t *w = m->panels + p * m->panel_stride;
    uint4 table;
    memcpy(&table, a.lut, sizeof table);
    float acc[N][4];
#pragma unroll
    for (int n = 0; n < N; n++) acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.0f;
    lane_sb<K> next;
    for (uint32_t s = 0; s < GEMM_STAGES - 1; s++) gemm_stage<N>(ring, a, s, row0);
    load_sb<K, false>(next, w);
    for (uint32_t sb = 0; sb < a.n_sb; sb++) {
        cp_wait<GEMM_STAGES - 2>();
        sync_block(); /* stage sb is there, and everybody is done with sb - 1 */
        gemm_stage<N>(ring, a, sb + GEMM_STAGES - 1, row0);
        uint32_t c[4][4];
#pragma unroll
        for (int g = 0; g < 4; g++) gemm_decode<K>(c[g], next, g, table);
        const uint2 s = next.s;
        if (sb + 1 < a.n_sb) load_sb<K, false>(next, w + (uint64_t)(sb + 1) * sb_bytes<K>());
        const uint4 *x = ring.x[sb % GEMM_STAGES] + (threadIdx.x & 31);
        const float *d = ring.d[sb % GEMM_STAGES] + 2 * (threadIdx.x & 3);
#pragma unroll
        for (int n = 0; n < N; n++) {
            int32_t sum[4] = {0, 0, 0, 0};
            gemm_groups(sum, c[0], c[1], s, 0, x[64 * n]);
            gemm_groups(sum, c[2], c[3], s, 1, x[64 * n + 32]);
#pragma unroll
            for (int i = 0; i < 4; i++)
                acc[n][i] = fma_rn(i2f(sum[i]), d[8 * n + i % 2], acc[n][i]);
        }
    }
    if (panel < a.n_panel) gemm_store<N>(a, m, p, row0, acc);
}

#endif
