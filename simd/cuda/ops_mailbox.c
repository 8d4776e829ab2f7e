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

void fg_cuda_read_rate(const fg_cuda_queue *q, const fg_cuda_read *r)
{
    FG_LAUNCH(q, read, FG_GRID(2 * q->n_sm), 1024, 0, *r);
}
