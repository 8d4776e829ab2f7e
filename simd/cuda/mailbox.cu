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
