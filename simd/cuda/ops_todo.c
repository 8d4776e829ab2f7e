/* SPDX-License-Identifier: MIT
 *
 * Operations that are not written yet, so that what calls them links; weak, and to be deleted.
 */
#include "simd/cuda/ops.h"

#define WEAK __attribute__((weak))
#define TODO(name, ...)                                                                            \
    WEAK void name(const fg_cuda_queue *q, __VA_ARGS__);                                           \
    WEAK void name(const fg_cuda_queue *q, __VA_ARGS__)

WEAK uint64_t fg_cuda_light_bytes(uint32_t n_most, uint32_t n_head)
{
    return (uint64_t)n_most * n_head;
}
WEAK uint64_t fg_cuda_softmax_bytes(const fg_cuda_softmax *a)
{
    return a->n_most;
}
TODO(fg_cuda_lightning, const fg_cuda_light *j)
{
    (void)q, (void)j;
}
TODO(fg_cuda_attention, const fg_cuda_softmax *j)
{
    (void)q, (void)j;
}
