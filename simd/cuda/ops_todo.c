/* SPDX-License-Identifier: MIT
 *
 * Operations that are not written yet, so that what calls them links; weak, and to be deleted.
 */
#include "simd/cuda/ops.h"

#define WEAK __attribute__((weak))
#define TODO(name, ...)                                                                            \
    WEAK void name(const fg_cuda_queue *q, __VA_ARGS__);                                           \
    WEAK void name(const fg_cuda_queue *q, __VA_ARGS__)

WEAK uint64_t fg_cuda_multiply_bytes(uint32_t n_tok, uint32_t n_sb)
{
    return (uint64_t)n_tok * n_sb;
}
WEAK uint64_t fg_cuda_light_bytes(uint32_t n_most, uint32_t n_head)
{
    return (uint64_t)n_most * n_head;
}
WEAK uint64_t fg_cuda_softmax_bytes(const fg_cuda_softmax *a)
{
    return a->n_most;
}
TODO(fg_cuda_multiply, const fg_cuda_product *p, size_t n, uint32_t n_tok, void *work)
{
    (void)q, (void)p, (void)n, (void)n_tok, (void)work;
}
TODO(fg_cuda_join_rows, const fg_cuda_join *j)
{
    (void)q, (void)j;
}
TODO(fg_cuda_gate_rows, const fg_cuda_gate *j)
{
    (void)q, (void)j;
}
TODO(fg_cuda_hidden_rows, const fg_cuda_hidden *j)
{
    (void)q, (void)j;
}
TODO(fg_cuda_gather_rows, const fg_cuda_gather *j)
{
    (void)q, (void)j;
}
TODO(fg_cuda_route, const fg_cuda_router *j)
{
    (void)q, (void)j;
}
TODO(fg_cuda_lightning, const fg_cuda_light *j)
{
    (void)q, (void)j;
}
TODO(fg_cuda_attention, const fg_cuda_softmax *j)
{
    (void)q, (void)j;
}
TODO(fg_cuda_post_layer, const fg_cuda_post *j)
{
    (void)q, (void)j;
}
TODO(fg_cuda_await_layer, const fg_cuda_await *j)
{
    (void)q, (void)j;
}
TODO(fg_cuda_few_experts, const fg_cuda_experts *j)
{
    (void)q, (void)j;
}
TODO(fg_cuda_read_rate, const fg_cuda_read *j)
{
    (void)q, (void)j;
}
