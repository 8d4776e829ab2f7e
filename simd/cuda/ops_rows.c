/* SPDX-License-Identifier: MIT
 *
 * Launches of rows.cu.
 */
#include "simd/cuda/ops_impl.h"
#include "simd/cuda/rows_args.h"

static uint32_t up_div(uint64_t a, uint64_t b)
{
    return (uint32_t)((a + b - 1) / b);
}

/* Threads for a row of d: four elements each, as far as a block goes. */
static uint32_t row_threads(uint32_t d)
{
    const uint32_t warps = up_div(d, 128);
    return 32 * (warps < 16 ? warps : 16);
}

/* Bytes of n rows that are kept in shared memory; 0: they do not fit. */
static uint32_t row_shared(const fg_cuda_queue *q, uint32_t d, uint32_t n)
{
    const uint64_t bytes = n * 4 * (uint64_t)d;
    return bytes + 1024 <= q->max_shared ? (uint32_t)bytes : 0;
}

void fg_cuda_join_rows(const fg_cuda_queue *q, const fg_cuda_join *j)
{
    if (j->n_row == 0) return;
    const fg_join_args a = {*j, row_shared(q, j->d, 2)};
    FG_LAUNCH_EARLY(q, FG_CUDA_join, FG_GRID(j->n_row), row_threads(j->d), a.in_shared, a);
}

static void launch_hidden(const fg_cuda_queue *q, const fg_hidden_args *a)
{
    const uint64_t n = (uint64_t)a->h.n_row * up_div(a->h.d, 128);
    const uint32_t warps = n < 8 ? (uint32_t)n : 8;
    if (n == 0) return;
    FG_LAUNCH_EARLY(q, FG_CUDA_hidden, FG_GRID(up_div(n, warps)), 32 * warps, 0, *a);
}

void fg_cuda_gate_rows(const fg_cuda_queue *q, const fg_cuda_gate *g)
{
    if (g->n_row == 0) return;
    if (g->gate == NULL) {
        const fg_hidden_args h = {.h = {.n_row = g->n_row, .d = g->d, .h = g->u}};
        launch_hidden(q, &h);
        return;
    }
    const fg_gate_args a = {*g, row_shared(q, g->d, 3)};
    FG_LAUNCH_EARLY(q, FG_CUDA_gate, FG_GRID(g->n_row), row_threads(g->d), a.in_shared, a);
}

void fg_cuda_hidden_rows(const fg_cuda_queue *q, const fg_cuda_hidden *h)
{
    const fg_hidden_args a = {.h = *h};
    launch_hidden(q, &a);
}

void fg_cuda_hidden_of_experts(const fg_cuda_queue *q, const fg_cuda_hidden *h,
                               const fg_cuda_expert *table, const uint32_t *sel)
{
    const fg_hidden_args a = {*h, table, sel};
    launch_hidden(q, &a);
}

void fg_cuda_gather_rows(const fg_cuda_queue *q, const fg_cuda_gather *g)
{
    if (g->n_row != 0) FG_LAUNCH(q, gather, FG_GRID(g->n_row), 256, 0, *g);
}

uint64_t fg_cuda_route_bytes(uint32_t n_tok, uint32_t n_expert, uint32_t n_sb)
{
    const uint64_t row = (uint64_t)up_div(n_expert, FG_PANEL_ROWS) * FG_PANEL_ROWS * sizeof(float);
    const uint32_t few = n_tok < FG_ROUTE_FEW ? n_tok : FG_ROUTE_FEW;
    const uint64_t chains = few * n_sb * row, all = n_tok * row;
    return FG_ROUTE_FEW * sizeof(uint32_t) + (chains > all ? chains : all);
}

/* The counts of blocks stand in front, since where the rest ends depends on the rows. */
void fg_cuda_route(const fg_cuda_queue *q, const fg_cuda_router *r, const fg_cuda_post *post)
{
    if (r->n_tok == 0) return;
    const uint32_t n = FG_PANEL_ROWS * r->m.n_panel;
    fg_route_args a = {.r = *r, .count = (uint32_t *)(void *)r->work};
    a.r.work = r->work + FG_ROUTE_FEW;
    if (post != NULL) a.post = *post;
    if (r->n_tok <= FG_ROUTE_FEW) {
        const uint32_t threads = n < 256 ? 32 * up_div(n, 32) : 256;
        const fg_cuda_kernel k =
            r->m.kind == FG_KIND_BF16 ? FG_CUDA_router_bf16 : FG_CUDA_router_f32;
        FG_LAUNCH_EARLY(q, k, FG_GRID(r->m.n_sb, r->n_tok), threads, 0, a);
        return;
    }
    const fg_cuda_acts x = {.f = (float *)(uintptr_t)r->n, .f_stride = r->n_stride};
    const fg_cuda_product p = {&r->m, x, a.r.work, n};
    fg_cuda_multiply(q, &p, 1, r->n_tok, NULL);
    FG_LAUNCH(q, select, FG_GRID(r->n_tok), 32 * up_div(n, 32), 0, a);
}
