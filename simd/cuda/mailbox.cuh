/* SPDX-License-Identifier: MIT
 *
 * What the card and the host say to each other, as parts of kernels that stand before and after.
 */
#ifndef FG_SIMD_CUDA_MAILBOX_CUH
#define FG_SIMD_CUDA_MAILBOX_CUH

#include "simd/cuda/primitives.cuh"

/* Four words at a time where both ends allow it; thread i of n. */
FG_DEV void copy_piece(const void *from, void *to, uint64_t bytes, uint32_t i0, uint32_t n)
{
    const bool wide = ((uintptr_t)from & 15) == 0;
    const uint64_t n_wide = wide ? bytes / 16 : 0;
    for (uint64_t i = i0; i < n_wide; i += n) ((uint4 *)to)[i] = ((const uint4 *)from)[i];
    for (uint64_t i = 4 * n_wide + i0; i < bytes / 4; i += n) {
        ((uint32_t *)to)[i] = ((const uint32_t *)from)[i];
    }
}

/* The pieces of a post, by all blocks together; each thread's fence stands behind its part. */
FG_DEV void post_pieces(const fg_cuda_post &p)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
    for (uint32_t k = 0; k < p.n; k++) {
        copy_piece(p.piece[k].from, p.piece[k].to, p.piece[k].bytes, i, n);
    }
}

/* By one warp, when all pieces are there; sel, sel_w: what it selected. */
FG_DEV void post_ticket(const fg_cuda_post &p, const uint32_t *sel, const float *sel_w,
                        uint32_t n_used)
{
    for (uint32_t i = threadIdx.x; i < n_used; i += 32) {
        p.sel[i] = sel[i];
        p.sel_w[i] = sel_w[i];
    }
    fence_system();
    sync_warp();
    if (threadIdx.x == 0) st_system(&p.box->routed, p.pass->ticket + p.layer + 1);
}

/* By all threads of a block.  A ticket that is behind this one counts as well: the host is then
 * further. */
FG_DEV void await_host(const fg_cuda_await &a)
{
    if (threadIdx.x == 0) {
        const uint32_t ticket = a.pass->ticket + a.layer + 1;
        while ((int32_t)(ld_system(&a.box->done) - ticket) < 0 && ld_system(&a.box->abort) == 0) {
            pause_thread();
        }
    }
    sync_block();
}

#endif
