/* SPDX-License-Identifier: MIT
 *
 * What the card and the host say to each other, and whether it runs at all.
 */
#include "simd/cuda/primitives.cuh"

FG_KERNEL(probe, fg_cuda_probe, 256, 1)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < a.n) a.out[i] = 2 * a.in[i] + 1;
}

/* Four words at a time where both ends allow it. */
FG_DEV void copy_piece(const void *from, void *to, uint64_t bytes)
{
    const bool wide = ((uintptr_t)from & 15) == 0;
    const uint64_t n_wide = wide ? bytes / 16 : 0;
    for (uint64_t i = threadIdx.x; i < n_wide; i += blockDim.x) {
        ((uint4 *)to)[i] = ((const uint4 *)from)[i];
    }
    for (uint64_t i = 4 * n_wide + threadIdx.x; i < bytes / 4; i += blockDim.x) {
        ((uint32_t *)to)[i] = ((const uint32_t *)from)[i];
    }
}

/* One block: the ticket is behind the pieces for every observer. */
FG_KERNEL(post, fg_cuda_post, 1024, 1)
{
    for (uint32_t i = 0; i < a.n; i++) copy_piece(a.piece[i].from, a.piece[i].to, a.piece[i].bytes);
    fence_system();
    sync_block();
    if (threadIdx.x == 0) st_system(&a.box->routed, a.pass->ticket + a.layer + 1);
}

/* A ticket that is behind this one counts as well: the host is then further. */
FG_KERNEL(await, fg_cuda_await, 32, 1)
{
    if (threadIdx.x != 0) return;
    const uint32_t ticket = a.pass->ticket + a.layer + 1;
    while ((int32_t)(ld_system(&a.box->done) - ticket) < 0 && ld_system(&a.box->abort) == 0) {
        pause_thread();
    }
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
