/* SPDX-License-Identifier: MIT
 *
 * What stands between the products, a row a block: norms, residuals, gates, quantization.
 */
#include "simd/cuda/floats.cuh"
#include "simd/cuda/rows.cuh"
#include "simd/cuda/rows_args.h"

FG_DEV float4 load4(const float *p)
{
    return *(const float4 *)(const void *)p;
}
FG_DEV void store4(float *p, const float4 &v)
{
    *(float4 *)(void *)p = v;
}

/* a = fma(c, y, a) in each. */
FG_DEV void axpy4(float4 &a, float c, const float4 &y)
{
    a.x = fma_rn(c, y.x, a.x);
    a.y = fma_rn(c, y.y, a.y);
    a.z = fma_rn(c, y.z, a.z);
    a.w = fma_rn(c, y.w, a.w);
}

/* Elements i .. i+3 of the experts' outputs of row t, best first. */
FG_DEV float4 combine(const fg_cuda_join &j, uint32_t t, uint32_t i)
{
    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint32_t k = 0; k < j.n_used; k++) {
        const uint32_t at = j.row_of[(uint64_t)t * j.n_used + k];
        const float *y = (at & FG_CUDA_ON_CARD) != 0 ? j.y_card : j.y_host;
        y += (uint64_t)(at & ~FG_CUDA_ON_CARD) * j.y_stride;
        axpy4(sum, j.sel_w[(uint64_t)t * j.n_used + k], load4(y + i));
    }
    return sum;
}

/* Row t of x with what the sub-layer adds to it, elements i .. i+3. */
FG_DEV float4 residual4(const fg_cuda_join &j, uint32_t t, uint32_t i)
{
    const float *r = j.postnorm ? j.n.f + (uint64_t)t * j.n.f_stride
                                : (const float *)j.x + (uint64_t)t * j.x_stride;
    float4 v = j.row_of != NULL ? combine(j, t, i) : load4(j.a + (uint64_t)t * j.a_stride + i);
    const float4 o = load4(r + i);
    v.x = fma_rn(j.alpha, o.x, j.beta * v.x);
    v.y = fma_rn(j.alpha, o.y, j.beta * v.y);
    v.z = fma_rn(j.alpha, o.z, j.beta * v.z);
    v.w = fma_rn(j.alpha, o.w, j.beta * v.w);
    return v;
}

FG_KERNEL(join, fg_join_args, ROW_THREADS, 1)
{
    FG_SHARED_MORE(float, shared);
    FG_SHARED(float, scale);
    const fg_cuda_join &j = a.j;
    const uint32_t t = blockIdx.x, from = j.from != NULL ? j.from[t] : t;
    float *x = j.x + (uint64_t)from * j.x_stride, *row = a.in_shared != 0 ? shared : x;
    for (uint32_t i = 4 * threadIdx.x; i < j.d; i += 4 * blockDim.x) {
        float4 v;
        if (j.residual && j.from == NULL) {
            v = residual4(j, t, i);
            store4(x + i, v);
        } else {
            v = load4(x + i);
        }
        if (a.in_shared != 0) store4(row + i, v);
    }
    if (j.w == NULL) return; /* all of the block */
    sync_block();
    norm_scale(row, j.d, j.eps, &scale);
    sync_block();
    const float s = scale;
    for_blocks(j.d, [&](uint32_t b, uint32_t i) {
        float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
        if (i < j.d) {
            const float4 o = load4(row + i), w = load4(j.w + i);
            v = {(o.x * s) * w.x, (o.y * s) * w.y, (o.z * s) * w.z, (o.w * s) * w.w};
        }
        store_forms(j.n, t, b, i, v);
    });
}

/* u = ((u * s) * w) * sigmoid(gate). */
FG_KERNEL(gate, fg_gate_args, ROW_THREADS, 1)
{
    FG_SHARED_MORE(float, shared);
    FG_SHARED(float, scale);
    const fg_cuda_gate &g = a.g;
    const uint32_t t = blockIdx.x;
    float *u = g.u.f + (uint64_t)t * g.u.f_stride, *row = a.in_shared != 0 ? shared : u;
    for (uint32_t i = 4 * threadIdx.x; a.in_shared != 0 && i < g.d; i += 4 * blockDim.x) {
        store4(row + i, load4(u + i));
    }
    sync_block();
    norm_scale(row, g.d, g.eps, &scale);
    sync_block();
    const float s = scale, *gate = g.gate + (uint64_t)t * g.gate_stride;
    for_blocks(g.d, [&](uint32_t b, uint32_t i) {
        float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
        if (i < g.d) {
            const float4 o = load4(row + i), w = load4(g.w + i), c = load4(gate + i);
            v = {((o.x * s) * w.x) * sigmoid_f32(c.x), ((o.y * s) * w.y) * sigmoid_f32(c.y),
                 ((o.z * s) * w.z) * sigmoid_f32(c.z), ((o.w * s) * w.w) * sigmoid_f32(c.w)};
        }
        store_forms(g.u, t, b, i, v);
    });
}

/* A warp a block of a row. */
FG_KERNEL(hidden, fg_hidden_args, 256, 1)
{
    const fg_cuda_hidden &h = a.h;
    const uint32_t n_block = (h.d + 127) / 128;
    const uint64_t at = (uint64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (at >= (uint64_t)h.n_row * n_block) return; /* all of the warp */
    const uint32_t t = (uint32_t)(at / n_block), b = (uint32_t)(at % n_block);
    const uint32_t i = 128 * b + 4 * (threadIdx.x & 31);
    if (a.table != NULL && a.table[a.sel[t]].gate == NULL) return;
    float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
    if (i < h.d && h.g == NULL) v = load4(h.h.f + (uint64_t)t * h.h.f_stride + i);
    if (i < h.d && h.g != NULL) {
        const float4 g = load4(h.g + (uint64_t)t * h.g_stride + i);
        const float4 u = load4(h.up + (uint64_t)t * h.g_stride + i);
        v = {silu_f32(g.x) * u.x, silu_f32(g.y) * u.y, silu_f32(g.z) * u.z, silu_f32(g.w) * u.w};
    }
    store_forms(h.h, t, b, i, v);
}

/* ---- copies ---- */

FG_DEV void copy16(void *to, const void *from, uint64_t bytes)
{
    for (uint64_t i = threadIdx.x; i < bytes / 16; i += blockDim.x) {
        ((uint4 *)to)[i] = ((const uint4 *)from)[i];
    }
}

FG_KERNEL(gather, fg_cuda_gather, 256, 1)
{
    const uint32_t t = blockIdx.x, from = a.from[t];
    const uint32_t q = a.x.q_stride < a.y.q_stride ? a.x.q_stride : a.y.q_stride;
    const uint32_t f = a.x.f_stride < a.y.f_stride ? a.x.f_stride : a.y.f_stride;
    const uint64_t to_q = (uint64_t)t * a.y.q_stride, from_q = (uint64_t)from * a.x.q_stride;
    const bool has_q = a.x.q != NULL && a.y.q != NULL, has_rot = a.x.rot != NULL && a.y.rot != NULL;
    if (has_q) copy16(a.y.q + to_q, a.x.q + from_q, (uint64_t)q * sizeof(fg_act128));
    if (has_rot) copy16(a.y.rot + to_q, a.x.rot + from_q, (uint64_t)q * sizeof(fg_act128));
    if (!has_q && !has_rot) {
        copy16(a.y.f + (uint64_t)t * a.y.f_stride, a.x.f + (uint64_t)from * a.x.f_stride,
               4 * (uint64_t)f);
    }
}

/* ---- router ---- */

/* A block a superblock of a row: chains of all the matrix's rows. */
template <class T> FG_DEV void router_chains(const fg_cuda_router &r, float *x)
{
    const uint32_t sb = blockIdx.x, t = blockIdx.y, n = 16 * r.m.n_panel;
    for (uint32_t i = threadIdx.x; i < 128; i += blockDim.x) {
        x[i] = r.n[(uint64_t)t * r.n_stride + 128 * (uint64_t)sb + i];
    }
    sync_block();
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        const T *w = (const T *)(const void *)(r.m.panels + i / 16 * r.m.panel_stride);
        r.work[((uint64_t)t * r.m.n_sb + sb) * n + i] =
            chain128<128>(w + (uint64_t)sb * 2048, x, i % 16);
    }
}
typedef float floats128[128];
FG_KERNEL(router_f32, fg_route_args, 256, 1)
{
    FG_SHARED(floats128, x);
    router_chains<float>(a.r, x);
}
FG_KERNEL(router_bf16, fg_route_args, 256, 1)
{
    FG_SHARED(floats128, x);
    router_chains<uint16_t>(a.r, x);
}

struct choice {
    float p;
    uint32_t e;
};
FG_DEV choice better(choice x, choice y)
{
    return y.p > x.p || (y.p == x.p && y.e < x.e) ? y : x;
}

/* The best of p by one warp; NaN never, ties to the lower index.  None: expert 0. */
FG_DEV uint32_t best_of(const float *p, uint32_t n)
{
    choice c = {f_of(0xff800000u), 0xffffffffu}; /* below every probability, as taken ones are */
    for (uint32_t e = threadIdx.x; e < n; e += 32) {
        if (p[e] > c.p) c = {p[e], e};
    }
    for (unsigned d = 16; d > 0; d /= 2) c = better(c, {shfl_xor_f(c.p, d), shfl_xor(c.e, d)});
    return c.e == 0xffffffffu ? 0 : c.e;
}

/* p = exp(p - max), then the n_used best; one warp. */
FG_DEV void select_best(const fg_cuda_router &r, float *p, uint32_t t)
{
    const uint32_t n = r.n_expert, lane = threadIdx.x;
    float m = f_of(0xff800000u), sum = 0.0f;
    for (uint32_t e = lane; e < n; e += 32) m = max_of(p[e], m);
    for (unsigned d = 16; d > 0; d /= 2) m = max_of(m, shfl_xor_f(m, d));
    for (uint32_t e = lane; e < n; e += 32) p[e] = exp_f32(p[e] - m);
    float *weight = r.sel_w + (uint64_t)t * r.n_used;
    for (uint32_t i = 0; i < r.n_used; i++) {
        sync_warp();
        const uint32_t best = best_of(p, n);
        const float w = p[best];
        sum += w;
        sync_warp();
        if (lane == 0) {
            r.sel[(uint64_t)t * r.n_used + i] = best;
            weight[i] = w;
            p[best] = f_of(0xff800000u);
        }
    }
    sync_warp();
    for (uint32_t i = lane; i < r.n_used; i += 32) weight[i] = weight[i] / sum;
}

typedef float floats1024[1024];
FG_KERNEL(select, fg_route_args, 1024, 1)
{
    FG_SHARED(floats1024, p);
    const uint32_t n = 16 * a.r.m.n_panel, t = blockIdx.x;
    const float *chain = a.r.work + (uint64_t)t * a.n_chain * n;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        float acc = 0.0f;
#pragma unroll 8
        for (uint32_t k = 0; k < a.n_chain; k++) {
            acc = acc + chain[(uint64_t)FG_ORDER(k, a.n_chain) * n + i];
        }
        p[i] = acc;
    }
    sync_block();
    if (threadIdx.x < 32) select_best(a.r, p, t);
}
