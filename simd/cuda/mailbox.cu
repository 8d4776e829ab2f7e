/* SPDX-License-Identifier: MIT
 *
 * Whether the card runs at all, and how fast it reads.
 */
#include "simd/cuda/primitives.cuh"

FG_KERNEL(probe, fg_cuda_probe, 256, 1)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < a.n) a.out[i] = 2 * a.in[i] + 1;
}

FG_KERNEL(read, fg_cuda_read, 1024, 1)
{
    const uint64_t n = a.bytes / 16, step = (uint64_t)gridDim.x * blockDim.x;
    const uint8_t *p = (const uint8_t *)a.p;
    uint32_t sum = 0;
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 7 * step < n; i += 8 * step) {
        uint4 v[8];
#pragma unroll
        for (int u = 0; u < 8; u++) v[u] = ld16(p + 16 * (i + (uint64_t)u * step));
#pragma unroll
        for (int u = 0; u < 8; u++) sum += v[u].x + v[u].y + v[u].z + v[u].w;
    }
    for (; i < n; i += step) {
        const uint4 v = ld16(p + 16 * i);
        sum += v.x + v.y + v.z + v.w;
    }
    sum = (uint32_t)warp_sum((int32_t)sum);
    if (threadIdx.x % 32 == 0) atomic_add(a.sum, sum);
}
