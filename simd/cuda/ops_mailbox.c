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

void fg_cuda_post_layer(const fg_cuda_queue *q, const fg_cuda_post *p)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        if (p->piece[i].bytes > most) most = p->piece[i].bytes;
    }
    const uint32_t warps = most / 16 / 32 < 31 ? (uint32_t)(most / 16 / 32) + 1 : 32;
    FG_LAUNCH(q, post, FG_GRID(1), 32 * warps, 0, *p);
}

void fg_cuda_await_layer(const fg_cuda_queue *q, const fg_cuda_await *a)
{
    FG_LAUNCH(q, await, FG_GRID(1), 32, 0, *a);
}

void fg_cuda_read_rate(const fg_cuda_queue *q, const fg_cuda_read *r)
{
    FG_LAUNCH(q, read, FG_GRID(2 * q->n_sm), 1024, 0, *r);
}
