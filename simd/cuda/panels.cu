/* SPDX-License-Identifier: MIT
 *
 * Products: kernels of each kind.
 */
#include "simd/cuda/floats.cuh"
#include "simd/cuda/gemm.cuh"
#include "simd/cuda/gemv.cuh"

/* depth: superblocks of a warp's ring. */
#define GEMV(name, K, warps, depth)                                                                \
    FG_KERNEL(gemv_##name, fg_gemv_args, 32 * warps, 1)                                            \
    {                                                                                              \
        FG_SHARED_MORE(uint8_t, shared);                                                           \
        let_later_begin();                                                                         \
        gemv<K, depth>(a.m, blockIdx.x, gridDim.x, a.n_panel, a.n_sb, a.split, a.lut, a.x,         \
                       shared);                                                                    \
    }
GEMV(q4, FG_KIND_Q4, FG_GEMV_WARPS_Q4, FG_GEMV_DEPTH_Q4)
GEMV(q4lin, FG_KIND_Q4LIN, FG_GEMV_WARPS_Q4, FG_GEMV_DEPTH_Q4)
GEMV(q5, FG_KIND_Q5, FG_GEMV_WARPS, FG_GEMV_DEPTH_Q5)
GEMV(q6, FG_KIND_Q6, FG_GEMV_WARPS, FG_GEMV_DEPTH_Q6)
GEMV(q8, FG_KIND_Q8, FG_GEMV_WARPS, FG_GEMV_DEPTH_Q8)

FG_KERNEL(pack, fg_pack_args, 256, 1)
{
    const uint64_t i = (uint64_t)blockIdx.x * 256 + threadIdx.x;
    const uint64_t n = (uint64_t)a.n_row / 8 * a.n_sb * 64;
    if (i >= n) return;
    const uint32_t lane = (uint32_t)i & 31, pair = (uint32_t)(i >> 5) & 1, t = lane & 3;
    const uint32_t sb = (uint32_t)((i >> 6) % a.n_sb), tile = (uint32_t)((i >> 6) / a.n_sb);
    const uint32_t row = 8 * tile + (lane >> 2);
    uint4 v = {0, 0, 0, 0};
    float d = 0.0f;
    if (row < a.n_tok) {
        const fg_act128 *x = a.x + (uint64_t)row * a.q_stride + sb;
        const uint32_t *q = (const uint32_t *)(const void *)x->q + 16 * pair;
        v = {q[t], q[4 + t], q[8 + t], q[12 + t]};
        d = x->d;
    }
    *(uint4 *)(void *)(a.f + 16 * i) = v;
    if (pair == 0 && t == 0) a.d[(uint64_t)sb * a.n_row + row] = d;
}

/* Blocks a multiprocessor: as many as leave the registers that are needed. */
#define GEMM(name, K, n, blocks)                                                                   \
    FG_KERNEL(gemm##n##_##name, fg_gemm_args, 32 * FG_GEMM_WARPS, blocks)                          \
    {                                                                                              \
        FG_SHARED(gemm_ring<n>, ring);                                                             \
        gemm<K, n>(a, ring);                                                                       \
    }
#define GEMMS(name, K)                                                                             \
    GEMM(name, K, 1, 3)                                                                            \
    GEMM(name, K, 4, 2)                                                                            \
    GEMM(name, K, 8, 2)
GEMMS(q4, FG_KIND_Q4)
GEMMS(q4lin, FG_KIND_Q4LIN)
GEMMS(q5, FG_KIND_Q5)
GEMMS(q6, FG_KIND_Q6)
GEMMS(q8, FG_KIND_Q8)

/* ---- float kinds ----
 * Models as they were published, and routers: per superblock a chain over its columns, the chains
 * added in order.  Half a warp is a panel's rows. */

/* One row: a block a panel, its half warps take superblocks in turn. */
enum { FLOAT_HALVES = FG_FLOAT_THREADS / 16, FLOAT_PIECE = 512 };
template <class T>
FG_DEV void gemv_floats(const fg_card_matrix *m, uint32_t p, const float *x, uint32_t n_sb,
                        float (*part)[16])
{
    const uint32_t r = threadIdx.x % 16, half = threadIdx.x / 16;
    m = find_panel(m, &p);
    const T *w = (const T *)(const void *)(m->panels + p * m->panel_stride);
    float acc = 0.0f;
    for (uint32_t sb0 = 0; sb0 < n_sb; sb0 += FLOAT_PIECE) {
        const uint32_t n = n_sb - sb0 < FLOAT_PIECE ? n_sb - sb0 : (uint32_t)FLOAT_PIECE;
        for (uint32_t sb = half; sb < n; sb += FLOAT_HALVES) {
            part[sb][r] = chain128<32>(w + (uint64_t)(sb0 + sb) * 2048, x + 128 * (sb0 + sb), r);
        }
        sync_block();
        for (uint32_t sb = 0; half == 0 && sb < n; sb++) acc = acc + part[sb][r];
        sync_block();
    }
    if (half == 0) m->y[16 * p + r] = acc;
}

/* FG_FLOAT_TOKENS rows of activations: a thread has row r of a panel and one of them. */
template <class T> FG_DEV void gemm_floats(const fg_floats_args &a, float (*x)[132])
{
    const uint32_t n_tile = (a.n_tok + FG_FLOAT_TOKENS - 1) / FG_FLOAT_TOKENS;
    const uint32_t t0 = blockIdx.x % n_tile * FG_FLOAT_TOKENS;
    const uint32_t r = threadIdx.x % 16, t = threadIdx.x / 16;
    const uint32_t n = a.n_tok - t0 < FG_FLOAT_TOKENS ? a.n_tok - t0 : (uint32_t)FG_FLOAT_TOKENS;
    uint32_t p = blockIdx.x / n_tile;
    const fg_card_matrix *m = find_panel(a.m, &p);
    const T *w = (const T *)(const void *)(m->panels + p * m->panel_stride);
    float acc = 0.0f;
    for (uint32_t sb = 0; sb < a.n_sb; sb++) {
        sync_block();
        for (uint32_t i = threadIdx.x; i < 128 * n; i += FG_FLOAT_THREADS) {
            x[i / 128][i % 128] =
                a.x[(uint64_t)(t0 + i / 128) * a.x_stride + 128 * (uint64_t)sb + i % 128];
        }
        sync_block();
        if (t < n) acc = acc + chain128<32>(w + (uint64_t)sb * 2048, x[t], r);
    }
    if (t < n) m->y[(uint64_t)(t0 + t) * m->y_stride + 16 * p + r] = acc;
}

typedef float float_part[FLOAT_PIECE][16];
typedef float float_rows[FG_FLOAT_TOKENS][132];
FG_KERNEL(gemv_bf16, fg_floats_args, FG_FLOAT_THREADS, 2)
{
    FG_SHARED(float_part, part);
    gemv_floats<uint16_t>(a.m, blockIdx.x, a.x, a.n_sb, part);
}
FG_KERNEL(gemv_f32, fg_floats_args, FG_FLOAT_THREADS, 2)
{
    FG_SHARED(float_part, part);
    gemv_floats<float>(a.m, blockIdx.x, a.x, a.n_sb, part);
}
FG_KERNEL(gemm_bf16, fg_floats_args, FG_FLOAT_THREADS, 2)
{
    FG_SHARED(float_rows, x);
    gemm_floats<uint16_t>(a, x);
}
FG_KERNEL(gemm_f32, fg_floats_args, FG_FLOAT_THREADS, 2)
{
    FG_SHARED(float_rows, x);
    gemm_floats<float>(a, x);
}

/* ---- the experts that are on the card ----
 * A slot is a row and one of its experts.  Which slots count is known on the card alone: blocks are
 * shared out among them, a block to one of them at a time. */

/* Slots whose expert is here, in order, by the first warp. */
struct expert_slots {
    uint32_t n;
    uint16_t slot[FG_CUDA_FEW * 64];
};
FG_DEV void find_slots(const fg_experts_args &a, expert_slots &s)
{
    if (threadIdx.x < 32) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < a.n_slot; i += 32) {
            const uint32_t slot = i + threadIdx.x;
            const bool here = slot < a.n_slot && a.table[a.sel[slot]].gate != NULL;
            const uint32_t all = warp_ballot(here);
            if (here) {
                s.slot[n + count_bits(all & ((1u << threadIdx.x) - 1))] = (uint16_t)slot;
            }
            n += count_bits(all);
        }
        if (threadIdx.x == 0) s.n = n;
    }
    sync_block();
}

/* The matrices of a slot's expert, by one thread. */
struct expert_list {
    fg_card_matrix m[2];
};
FG_DEV void list_expert(const fg_experts_args &a, uint32_t slot, expert_list &l)
{
    const fg_cuda_expert &e = a.table[a.sel[slot]];
    for (uint32_t i = 0; i < a.n_matrix; i++) {
        fg_card_matrix m = a.m[i];
        const uint32_t part = a.part[i];
        m.panels = part == FG_EXPERT_GATE ? e.gate : part == FG_EXPERT_UP ? e.up : e.down;
        m.scales = part == FG_EXPERT_GATE ? e.gate_scale
                   : part == FG_EXPERT_UP ? e.up_scale
                                          : e.down_scale;
        m.y += (uint64_t)slot * m.y_stride;
        l.m[i] = m;
    }
}

/* Calls f(list, row of x, first panel, step) for what this block has to do. */
template <class F>
FG_DEV void for_slots(const fg_experts_args &a, expert_slots &s, expert_list &l, F f)
{
    find_slots(a, s);
    const uint32_t n = s.n, n_block = gridDim.x;
    for (uint32_t i = n == 0 || n_block < n ? blockIdx.x : blockIdx.x % n; i < n; i += n_block) {
        const uint32_t slot = s.slot[i];
        if (threadIdx.x == 0) list_expert(a, slot, l);
        sync_block();
        const uint32_t first = n_block < n ? 0 : blockIdx.x / n;
        f(l.m, a.row_of_slot != 0 ? slot : slot / a.n_used, first,
          n_block < n ? 1 : (n_block - i + n - 1) / n);
        sync_block();
    }
}

#define EXPERTS(name, K, warps, depth)                                                             \
    FG_KERNEL(experts_##name, fg_experts_args, 32 * warps, 1)                                      \
    {                                                                                              \
        FG_SHARED_MORE(uint8_t, shared);                                                           \
        FG_SHARED(expert_slots, slots);                                                            \
        FG_SHARED(expert_list, list);                                                              \
        let_later_begin();                                                                         \
        wait_for_earlier(); /* which experts, the card itself has found out */                     \
        for_slots(a, slots, list,                                                                  \
                  [&](const fg_card_matrix *m, uint32_t row, uint32_t first, uint32_t step) {      \
                      gemv<K, depth>(m, first, step, a.n_panel, a.n_sb, a.split, a.lut,            \
                                     a.x + (uint64_t)row * a.x_stride, shared);                    \
                  });                                                                              \
    }
EXPERTS(q4, FG_KIND_Q4, FG_GEMV_WARPS_Q4, FG_GEMV_DEPTH_Q4)
EXPERTS(q4lin, FG_KIND_Q4LIN, FG_GEMV_WARPS_Q4, FG_GEMV_DEPTH_Q4)
EXPERTS(q5, FG_KIND_Q5, FG_GEMV_WARPS, FG_GEMV_DEPTH_Q5)
EXPERTS(q6, FG_KIND_Q6, FG_GEMV_WARPS, FG_GEMV_DEPTH_Q6)
EXPERTS(q8, FG_KIND_Q8, FG_GEMV_WARPS, FG_GEMV_DEPTH_Q8)

#define EXPERTS_OF_FLOATS(name, T)                                                                 \
    FG_KERNEL(experts_##name, fg_experts_args, FG_FLOAT_THREADS, 2)                                \
    {                                                                                              \
        FG_SHARED(float_part, part);                                                               \
        FG_SHARED(expert_slots, slots);                                                            \
        FG_SHARED(expert_list, list);                                                              \
        for_slots(a, slots, list,                                                                  \
                  [&](const fg_card_matrix *m, uint32_t row, uint32_t first, uint32_t step) {      \
                      for (uint32_t p = first; p < a.n_panel; p += step) {                         \
                          gemv_floats<T>(m, p, a.x_f + (uint64_t)row * a.x_stride, a.n_sb, part);  \
                      }                                                                            \
                  });                                                                              \
    }
EXPERTS_OF_FLOATS(bf16, uint16_t)
EXPERTS_OF_FLOATS(f32, float)
