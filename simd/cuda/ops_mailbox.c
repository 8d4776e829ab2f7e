/* SPDX-License-Identifier: MIT
 *
 * Launches of mailbox.cu.
 */
#include "simd/cuda/ops_impl.h"

const char *const fg_cuda_kernel_name[FG_CUDA_KERNEL_COUNT] = {
#define FG_CUDA_KERNEL(name) "fg_card_" #name,
#include "simd/cuda/cuda_kernels.inc"
};

void fg_cuda_probe_card(const fg_cuda_queue *q, const fg_cuda_probe *p)
{
    FG_LAUNCH(q, probe, FG_GRID((p->n + 255) / 256), 256, 0, *p);
}
