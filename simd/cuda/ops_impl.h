/* SPDX-License-Identifier: MIT
 *
 * How operations are launched: for the C files of this folder.
 */
#ifndef FG_SIMD_CUDA_OPS_IMPL_H
#define FG_SIMD_CUDA_OPS_IMPL_H

#include "simd/cuda/ops.h"

/* grid: FG_GRID(...), up to three numbers; args: an lvalue of the kernel's parameter type. */
#define FG_GRID(...)                                                                               \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define FG_LAUNCH_KERNEL(q, kernel, grid_, block_, shared_, args_)                                 \
    fg_cuda_launch_args((q), (kernel), (const uint32_t[3])grid_, (block_), (shared_), &(args_),    \
                        sizeof(args_), false)
#define FG_LAUNCH(q, name, grid_, block_, shared_, args_)                                          \
    fg_cuda_launch_args((q), FG_CUDA_##name, (const uint32_t[3])grid_, (block_), (shared_),        \
                        &(args_), sizeof(args_), false)
/* Of a kernel that calls wait_for_earlier. */
#define FG_LAUNCH_EARLY(q, kernel, grid_, block_, shared_, args_)                                  \
    fg_cuda_launch_args((q), (kernel), (const uint32_t[3])grid_, (block_), (shared_), &(args_),    \
                        sizeof(args_), true)

/* Zeros of the grid count as 1. */
static inline void fg_cuda_launch_args(const fg_cuda_queue *q, fg_cuda_kernel kernel,
                                       const uint32_t grid[3], uint32_t block, uint32_t shared,
                                       const void *args, size_t n_args, bool early)
{
    const fg_cuda_launch l = {
        .kernel = kernel,
        .grid = {grid[0], grid[1] == 0 ? 1 : grid[1], grid[2] == 0 ? 1 : grid[2]},
        .block = block,
        .shared = shared,
        .args = args,
        .n_args = n_args,
        .early = early,
    };
    q->launch(q->ctx, &l);
}

/* fg_cuda_hidden_rows of the rows whose expert is on the card. */
void fg_cuda_hidden_of_experts(const fg_cuda_queue *q, const fg_cuda_hidden *h,
                               const fg_cuda_expert *table, const uint32_t *sel);

#endif
