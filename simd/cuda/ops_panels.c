/* SPDX-License-Identifier: MIT
 *
 * Launches of panels.cu: products that may run together, do.
 */
#include <string.h>

#include "simd/cuda/ops_impl.h"
#include "simd/cuda/panel_args.h"

typedef struct kind_kernels {
    fg_cuda_kernel gemv, gemm1, gemm4, gemm8, experts;
    uint32_t warps, ring; /* of a GEMV's block, at most, and bytes of a warp's ring */
} kind_kernels;

#define KIND(name, warps, depth, bytes)                                                            \
    {                                                                                              \
        FG_CUDA_gemv_##name, FG_CUDA_gemm1_##name, FG_CUDA_gemm4_##name, FG_CUDA_gemm8_##name,     \
            FG_CUDA_experts_##name, (warps), (depth) * (bytes)                                     \
    }
static const kind_kernels kinds[FG_KIND_QUANTIZED] = {
    [FG_KIND_Q4] = KIND(q4, FG_GEMV_WARPS_Q4, FG_GEMV_DEPTH_Q4, 1088),
    [FG_KIND_Q4LIN] = KIND(q4lin, FG_GEMV_WARPS_Q4, FG_GEMV_DEPTH_Q4, 1088),
    [FG_KIND_Q5] = KIND(q5, FG_GEMV_WARPS, FG_GEMV_DEPTH_Q5, 1344),
    [FG_KIND_Q6] = KIND(q6, FG_GEMV_WARPS, FG_GEMV_DEPTH_Q6, 1600),
    [FG_KIND_Q8] = KIND(q8, FG_GEMV_WARPS, FG_GEMV_DEPTH_Q8, 2112),
};

static uint32_t up_div(uint64_t a, uint64_t b)
{
    return (uint32_t)((a + b - 1) / b);
}

/* ---- the division of a GEMV ---- */

/* Bytes of dynamic shared memory (gemv.cuh), the rings not counted.  The last array is of floats,
 * which ptxas reads four at a time where it knows of one: what is behind its end must be there. */
static uint32_t gemv_shared(fg_card_split s)
{
    enum { ACTS = 128, SHIFTS = 16, BEHIND = 16 };
    return s.piece * (ACTS + SHIFTS + (uint32_t)sizeof(float) + s.turns * s.round * 64) + BEHIND;
}

typedef struct gemv_plan {
    fg_card_split split;
    uint32_t grid, warps, shared;
} gemv_plan;

/* n_panel panels of n_sb superblocks among n_block blocks or more.  A block does its panels all in
 * one round if there is room; else in rounds as large as two have room for, or shorter pieces.
 * Rings so large that a multiprocessor has room for one block: with room for two, products behind
 * each other are up to 8 % faster (16 warps of 3 superblocks, 39 MB on an H200), but a token, which
 * has small kernels between them, takes half as long again. */
static gemv_plan plan_gemv(const fg_cuda_queue *q, const kind_kernels *k, uint32_t n_panel,
                           uint32_t n_sb, uint32_t n_block)
{
    gemv_plan g = {.grid = n_panel < n_block ? n_panel : n_block, .warps = k->warps};
    const uint32_t own = up_div(n_panel, g.grid); /* panels of a block */
    const uint64_t items = (uint64_t)own * n_sb;
    if (items < g.warps) g.warps = items < 4 ? 4 : (uint32_t)items;
    g.split = (fg_card_split){.piece = n_sb < 128 ? n_sb : 128, .round = own, .turns = 1};
    const uint32_t most = q->max_shared - 2048; /* kernels have a little of their own */
    while (g.warps > 4 && g.warps * k->ring > most / 8 * 7) g.warps--; /* a small card */
    const uint32_t rings = g.warps * k->ring;
    while (rings + gemv_shared(g.split) > most) {
        if (g.split.turns == 1) {
            g.split.turns = 2;
            g.split.round = up_div(own, 2);
        } else if (g.split.round > 1) {
            g.split.round--;
        } else {
            g.split.piece = up_div(g.split.piece, 2);
        }
    }
    g.shared = rings + gemv_shared(g.split);
    return g;
}

/* ---- products ---- */

static const fg_act128 *quantized(const fg_cuda_product *p)
{
    return p->m->rotated ? p->x.rot : p->x.q;
}

/* b may run in a's launch. */
static bool together(const fg_cuda_product *a, const fg_cuda_product *b)
{
    return a->m->kind == b->m->kind && a->m->n_sb == b->m->n_sb && a->m->rotated == b->m->rotated &&
           a->x.f == b->x.f && a->x.q == b->x.q && a->x.rot == b->x.rot &&
           (a->m->kind != FG_KIND_Q4 || memcmp(a->m->lut, b->m->lut, sizeof a->m->lut) == 0);
}

static uint32_t list_matrices(fg_card_matrix *to, const fg_cuda_product *p, size_t n)
{
    uint32_t n_panel = 0;
    for (size_t i = 0; i < n; i++) {
        const fg_cuda_matrix *m = p[i].m;
        to[i] = (fg_card_matrix){m->panels,       m->scales,  p[i].y,
                                 m->panel_stride, m->n_panel, p[i].y_stride};
        n_panel += m->n_panel;
    }
    return n_panel;
}

static void multiply_floats(const fg_cuda_queue *q, const fg_cuda_product *p, size_t n,
                            uint32_t n_tok)
{
    fg_floats_args a = {.n_matrix = (uint32_t)n,
                        .n_sb = p->m->n_sb,
                        .n_tok = n_tok,
                        .x = p->x.f,
                        .x_stride = p->x.f_stride};
    const bool bf16 = p->m->kind == FG_KIND_BF16;
    a.n_panel = list_matrices(a.m, p, n);
    if (n_tok == 1) {
        const fg_cuda_kernel k = bf16 ? FG_CUDA_gemv_bf16 : FG_CUDA_gemv_f32;
        FG_LAUNCH_KERNEL(q, k, FG_GRID(a.n_panel), FG_FLOAT_THREADS, 0, a);
    } else {
        const fg_cuda_kernel k = bf16 ? FG_CUDA_gemm_bf16 : FG_CUDA_gemm_f32;
        const uint32_t n_tile = up_div(n_tok, FG_FLOAT_TOKENS);
        FG_LAUNCH_KERNEL(q, k, FG_GRID(a.n_panel * n_tile), FG_FLOAT_THREADS, 0, a);
    }
}

static void multiply_row(const fg_cuda_queue *q, const fg_cuda_product *p, size_t n)
{
    const kind_kernels *k = &kinds[p->m->kind];
    fg_gemv_args a = {.n_matrix = (uint32_t)n, .n_sb = p->m->n_sb, .x = quantized(p)};
    a.n_panel = list_matrices(a.m, p, n);
    memcpy(a.lut, p->m->lut, sizeof a.lut);
    const gemv_plan g = plan_gemv(q, k, a.n_panel, a.n_sb, q->n_sm);
    a.split = g.split;
    FG_LAUNCH_EARLY(q, k->gemv, FG_GRID(g.grid), 32 * g.warps, g.shared, a);
}

/* Rows in tiles of 8, and in whole blocks of them. */
static uint32_t tiles_of(uint32_t n_tok)
{
    return n_tok <= 8 ? 1 : n_tok <= 32 ? 4 : 8;
}
static uint32_t packed_rows(uint32_t n_tok)
{
    const uint32_t block = 8 * tiles_of(n_tok);
    return (n_tok + block - 1) / block * block;
}

uint64_t fg_cuda_multiply_bytes(uint32_t n_tok, uint32_t n_sb)
{
    return (uint64_t)packed_rows(n_tok) * n_sb * (FG_SB_COLS + sizeof(float));
}

static void multiply_rows(const fg_cuda_queue *q, const fg_cuda_product *p, size_t n,
                          uint32_t n_tok, const fg_pack_args *x)
{
    const kind_kernels *k = &kinds[p->m->kind];
    const uint32_t n_tile = tiles_of(n_tok);
    fg_gemm_args a = {.n_matrix = (uint32_t)n,
                      .n_sb = x->n_sb,
                      .n_tok = n_tok,
                      .n_row = x->n_row,
                      .f = x->f,
                      .d = x->d};
    a.n_panel = list_matrices(a.m, p, n);
    memcpy(a.lut, p->m->lut, sizeof a.lut);
    const uint32_t grid = up_div(a.n_panel, FG_GEMM_WARPS) * (x->n_row / (8 * n_tile));
    const fg_cuda_kernel kernel = n_tile == 1 ? k->gemm1 : n_tile == 4 ? k->gemm4 : k->gemm8;
    FG_LAUNCH_KERNEL(q, kernel, FG_GRID(grid), 32 * FG_GEMM_WARPS, 0, a);
}

/* Activations of p as the tensor units take them, in work, unless x says that they are there. */
static void pack(const fg_cuda_queue *q, const fg_cuda_product *p, uint32_t n_tok, void *work,
                 fg_pack_args *x)
{
    const uint32_t n_sb = p->m->n_sb, n_row = packed_rows(n_tok);
    if (x->x == quantized(p) && x->n_sb == n_sb) return;
    *x = (fg_pack_args){.x = quantized(p),
                        .q_stride = p->x.q_stride,
                        .n_tok = n_tok,
                        .n_row = n_row,
                        .n_sb = n_sb,
                        .f = work,
                        .d = (float *)(void *)((uint8_t *)work + (uint64_t)n_row * n_sb * 128)};
    FG_LAUNCH(q, pack, FG_GRID(up_div((uint64_t)n_row / 8 * n_sb * 64, 256)), 256, 0, *x);
}

void fg_cuda_multiply(const fg_cuda_queue *q, const fg_cuda_product *p, size_t n, uint32_t n_tok,
                      void *work)
{
    fg_pack_args x = {0};
    for (size_t i = 0, m; n_tok > 0 && i < n; i += m) {
        for (m = 1; m < FG_CARD_PRODUCTS && i + m < n && together(&p[i], &p[i + m]); m++) continue;
        if ((uint32_t)p[i].m->kind >= (uint32_t)FG_KIND_QUANTIZED) {
            multiply_floats(q, p + i, m, n_tok);
        } else if (n_tok == 1) {
            multiply_row(q, p + i, m);
        } else {
            pack(q, &p[i], n_tok, work, &x);
            multiply_rows(q, p + i, m, n_tok, &x);
        }
    }
}

/* ---- experts on the card ---- */

/* The matrices parts[0 .. n-1] of every slot times its input, in one launch; they are of one kind
 * and width. */
typedef struct expert_call {
    const fg_cuda_matrix *m[2];
    uint32_t part[2], n;
    float *y[2];
    uint32_t y_stride;
    const fg_cuda_acts *x;
    bool row_of_slot;
} expert_call;

static void multiply_experts(const fg_cuda_queue *q, const fg_cuda_experts *e, const expert_call *c)
{
    const fg_cuda_matrix *m = c->m[0];
    fg_experts_args a = {.table = e->table,
                         .sel = e->sel,
                         .n_matrix = c->n,
                         .n_sb = m->n_sb,
                         .n_slot = e->n_tok * e->n_used,
                         .n_used = e->n_used,
                         .row_of_slot = c->row_of_slot,
                         .x = m->rotated ? c->x->rot : c->x->q,
                         .x_f = c->x->f};
    for (uint32_t i = 0; i < c->n; i++) {
        a.m[i] = (fg_card_matrix){.y = c->y[i],
                                  .panel_stride = c->m[i]->panel_stride,
                                  .n_panel = c->m[i]->n_panel,
                                  .y_stride = c->y_stride};
        a.part[i] = c->part[i];
        a.n_panel += c->m[i]->n_panel;
    }
    memcpy(a.lut, m->lut, sizeof a.lut);
    if ((uint32_t)m->kind >= (uint32_t)FG_KIND_QUANTIZED) {
        const fg_cuda_kernel k =
            m->kind == FG_KIND_BF16 ? FG_CUDA_experts_bf16 : FG_CUDA_experts_f32;
        a.x_stride = c->x->f_stride;
        FG_LAUNCH_KERNEL(q, k, FG_GRID(2 * q->n_sm), FG_FLOAT_THREADS, 0, a);
        return;
    }
    const kind_kernels *k = &kinds[m->kind];
    /* an expert has at least these blocks, if all are here */
    const uint32_t n_block = a.n_slot < q->n_sm ? q->n_sm / a.n_slot : 1;
    const gemv_plan g = plan_gemv(q, k, a.n_panel, a.n_sb, n_block);
    a.x_stride = c->x->q_stride;
    a.split = g.split;
    FG_LAUNCH_EARLY(q, k->experts, FG_GRID(q->n_sm), 32 * g.warps, g.shared, a);
}

void fg_cuda_few_experts(const fg_cuda_queue *q, const fg_cuda_experts *e)
{
    if (e->n_tok == 0) return;
    expert_call gate = {.m = {&e->gate, &e->up},
                        .part = {FG_EXPERT_GATE, FG_EXPERT_UP},
                        .n = 2,
                        .y = {e->g, e->up_y},
                        .y_stride = e->g_stride,
                        .x = &e->x};
    const fg_cuda_product both[2] = {{&e->gate, e->x, NULL, 0}, {&e->up, e->x, NULL, 0}};
    if (!together(&both[0], &both[1])) {
        gate.n = 1;
        const expert_call up = {.m = {&e->up},
                                .part = {FG_EXPERT_UP},
                                .n = 1,
                                .y = {e->up_y},
                                .y_stride = e->g_stride,
                                .x = &e->x};
        multiply_experts(q, e, &up);
    }
    multiply_experts(q, e, &gate);
    const fg_cuda_hidden h = {.n_row = e->n_tok * e->n_used,
                              .d = e->gate.n_panel * FG_PANEL_ROWS,
                              .g = e->g,
                              .up = e->up_y,
                              .g_stride = e->g_stride,
                              .h = e->h};
    fg_cuda_hidden_of_experts(q, &h, e->table, e->sel);
    const expert_call down = {.m = {&e->down},
                              .part = {FG_EXPERT_DOWN},
                              .n = 1,
                              .y = {e->y},
                              .y_stride = e->y_stride,
                              .x = &e->h,
                              .row_of_slot = true};
    multiply_experts(q, e, &down);
}
