/* SPDX-License-Identifier: MIT
 *
 * Rows of f32 and their quantized forms: pieces of rows.cu.
 */
#ifndef FG_SIMD_CUDA_ROWS_CUH
#define FG_SIMD_CUDA_ROWS_CUH

#include "simd/cuda/primitives.cuh"

enum { ROW_THREADS = 512 };

/* 1 / sqrt(mean of squares + eps) of row[n], by the first warp, into *scale.  Sixteen chains of n /
 * 16 dependent fma are all that this takes: the row is in shared memory where it fits. */
FG_DEV void norm_scale(const float *row, uint32_t n, float eps, float *scale)
{
    if (threadIdx.x >= 32) return;
    enum { BATCH = 16 };
    const uint32_t steps = n / 16, whole = steps / BATCH * BATCH, lane = threadIdx.x % 16;
    float acc = 0.0f, v[BATCH], next[BATCH];
#pragma unroll
    for (uint32_t u = 0; u < BATCH; u++) {
        if (whole > 0) v[u] = row[16 * FG_ORDER(u, steps) + lane];
    }
#pragma unroll 2
    for (uint32_t i = 0; i < whole; i += BATCH) { /* the next batch is read meanwhile */
        const uint32_t at = i + BATCH < whole ? i + BATCH : i;
#pragma unroll
        for (uint32_t u = 0; u < BATCH; u++) next[u] = row[16 * FG_ORDER(at + u, steps) + lane];
#pragma unroll
        for (uint32_t u = 0; u < BATCH; u++) acc = fma_rn(v[u], v[u], acc);
#pragma unroll
        for (uint32_t u = 0; u < BATCH; u++) v[u] = next[u];
    }
    for (uint32_t i = whole; i < steps; i++) {
        const float x = row[16 * FG_ORDER(i, steps) + lane];
        acc = fma_rn(x, x, acc);
    }
    acc = sum_lanes(acc);
    if (threadIdx.x == 0) *scale = 1.0f / sqrt_rn(acc / (float)n + eps);
}

/* quantize_act of the block whose elements 4 l .. 4 l + 3 lane l has. */
FG_DEV void quantize_block(const float4 &v, fg_act128 *o)
{
    const uint32_t lane = threadIdx.x & 31;
    uint32_t bits = 0;
    const float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t u = bits_of(x[i]) & 0x7fffffffu;
        bits = u > bits ? u : bits;
    }
    bits = warp_max(bits);
    const bool zero = bits < 0x03000000u, bad = bits >= 0x7f800000u;
    const float max = f_of(bits), inv = zero || bad ? 0.0f : 127.0f / max;
    uint32_t q = 0;
    int32_t sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int32_t n = (int32_t)(bits_of(x[i] * inv + FG_ROUND_BIAS) - 0x4b400000u);
        if (zero || bad) n = 0;
        q |= ((uint32_t)n & 255u) << 8 * i;
        sum += n;
    }
    for (unsigned d = 1; d < 8; d *= 2) sum += (int32_t)shfl_xor((uint32_t)sum, d);
    ((uint32_t *)(void *)o->q)[lane] = q;
    if (lane % 8 == 0) o->sum[lane / 8] = (int16_t)sum;
    if (lane == 0) o->d = zero ? 0.0f : bad ? f_of(0x7fc00000u) : max / 127.0f;
    if (lane == 31) *(uint32_t *)(void *)o->pad = 0;
}

/* A step of the butterfly between lanes. */
FG_DEV float butterfly(float x, unsigned lane_bit)
{
    const float o = shfl_xor_f(x, lane_bit);
    return (threadIdx.x & lane_bit) == 0 ? x + o : o - x;
}

/* Entries 4 l .. 4 l + 3 of fg_hadamard_diag: bits are signs. */
FG_DEV float4 hadamard_diag(uint32_t lane)
{
    const uint32_t sign = lane < 8    ? 0x2b3039acu
                          : lane < 16 ? 0xdae7acadu
                          : lane < 24 ? 0xca7e02d6u
                                      : 0xe89424d9u;
    const uint32_t s = sign >> (4 * lane & 31), one = 0x3db504f3u; /* f32(1 / sqrt(128)) */
    return {f_of(one | (s & 1u) << 31), f_of(one | (s & 2u) << 30), f_of(one | (s & 4u) << 29),
            f_of(one | (s & 8u) << 28)};
}

/* R^T of the block (quant/hadamard.h): distances 64 .. 4 between lanes, 2 and 1 within one. */
FG_DEV float4 rotate_block(float4 v)
{
    const float4 d = hadamard_diag(threadIdx.x & 31);
    v = {v.x * d.x, v.y * d.y, v.z * d.z, v.w * d.w};
    for (unsigned b = 16; b > 0; b /= 2) {
        v = {butterfly(v.x, b), butterfly(v.y, b), butterfly(v.z, b), butterfly(v.w, b)};
    }
    v = {v.x + v.z, v.y + v.w, v.x - v.z, v.y - v.w};
    return {v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w};
}

/* Elements i .. i + 3 of row t, which are in block b, in all forms that are kept. */
FG_DEV void store_forms(const fg_cuda_acts &x, uint32_t t, uint32_t b, uint32_t i, const float4 &v)
{
    const uint64_t at = (uint64_t)t * x.q_stride + b;
    if (x.f != NULL) *(float4 *)(void *)(x.f + (uint64_t)t * x.f_stride + i) = v;
    if (x.q != NULL) quantize_block(v, x.q + at);
    if (x.rot != NULL) quantize_block(rotate_block(v), x.rot + at);
}

#endif
