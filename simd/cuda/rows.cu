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

/* A thread has elements i .. i + 3, i = 4 (thread + u * threads), of a row, and so a warp whole
 * blocks of 128.  The first ROW_KEPT of them stay in registers while the norm is found, and what
 * they are multiplied by is on its way meanwhile; the rest of a long row is read again. */
enum { ROW_KEPT = 4 };
FG_DEV uint32_t element(uint32_t u)
{
    return 4 * (threadIdx.x + u * blockDim.x);
}
FG_DEV void load_kept(float4 v[ROW_KEPT], const float *p, uint32_t d)
{
#pragma unroll
    for (uint32_t u = 0; u < ROW_KEPT; u++) {
        v[u] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (element(u) < d) v[u] = load4(p + element(u));
    }
}
FG_DEV void store_kept(float *p, const float4 v[ROW_KEPT], uint32_t d)
{
#pragma unroll
    for (uint32_t u = 0; u < ROW_KEPT; u++) {
        if (element(u) < d) store4(p + element(u), v[u]);
    }
}

/* f(u, i) for all of a thread's elements; beyond d too, to the end of a block. */
template <class F> FG_DEV void for_kept(uint32_t d, F f)
{
#pragma unroll
    for (uint32_t u = 0; u < ROW_KEPT; u++) {
        if (element(u) / 128 < (d + 127) / 128) f(u, element(u));
    }
}
template <class F> FG_DEV void for_rest(uint32_t d, F f)
{
    for (uint32_t u = ROW_KEPT; element(u) / 128 < (d + 127) / 128; u++) f(element(u));
}

/* a = fma(c, y, a) in each. */
FG_DEV void axpy4(float4 &a, float c, const float4 &y)
{
    a.x = fma_rn(c, y.x, a.x);
    a.y = fma_rn(c, y.y, a.y);
    a.z = fma_rn(c, y.z, a.z);
    a.w = fma_rn(c, y.w, a.w);
}

/* fma(alpha, r, beta * a) */
FG_DEV float4 axpby4(float alpha, const float4 &r, float beta, const float4 &a)
{
    return {fma_rn(alpha, r.x, beta * a.x), fma_rn(alpha, r.y, beta * a.y),
            fma_rn(alpha, r.z, beta * a.z), fma_rn(alpha, r.w, beta * a.w)};
}

/* The weighted output of the k-th expert of row t. */
FG_DEV const float *output_of(const fg_cuda_join &j, uint32_t t, uint32_t k, float *weight)
{
    const uint64_t at = (uint64_t)t * j.n_used + k;
    const uint32_t row = j.row_of[at];
    *weight = j.sel_w[at];
    const float *y = (row & FG_CUDA_ON_CARD) != 0 ? j.y_card : j.y_host;
    return y + (uint64_t)(row & ~FG_CUDA_ON_CARD) * j.y_stride;
}

/* Outputs of row t's experts, best first, added up; two of them are on their way at a time, from
 * the host's memory perhaps. */
FG_DEV void combine_kept(float4 sum[ROW_KEPT], const fg_cuda_join &j, uint32_t t)
{
#pragma unroll
    for (uint32_t u = 0; u < ROW_KEPT; u++) sum[u] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint32_t k = 0; k < j.n_used; k += 2) {
        float w0, w1 = 0.0f;
        float4 y0[ROW_KEPT], y1[ROW_KEPT];
        const float *p0 = output_of(j, t, k, &w0);
        const float *p1 = k + 1 < j.n_used ? output_of(j, t, k + 1, &w1) : p0;
        load_kept(y0, p0, j.d);
        load_kept(y1, p1, j.d);
#pragma unroll
        for (uint32_t u = 0; u < ROW_KEPT; u++) {
            axpy4(sum[u], w0, y0[u]);
            if (k + 1 < j.n_used) axpy4(sum[u], w1, y1[u]);
        }
    }
}
FG_DEV float4 combine(const fg_cuda_join &j, uint32_t t, uint32_t i)
{
    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint32_t k = 0; k < j.n_used; k++) {
        float w;
        const float *y = output_of(j, t, k, &w);
        axpy4(sum, w, load4(y + i));
    }
    return sum;
}

/* Row t of x with what the sub-layer adds to it: what is kept into v, the rest into x alone. */
FG_DEV void add_residual(float4 v[ROW_KEPT], const fg_cuda_join &j, uint32_t t, float *x)
{
    const float *r = j.postnorm ? j.n.f + (uint64_t)t * j.n.f_stride : x;
    const float *a = j.a + (uint64_t)t * j.a_stride;
    float4 old[ROW_KEPT];
    load_kept(old, r, j.d);
    if (j.row_of != NULL) {
        combine_kept(v, j, t);
    } else {
        load_kept(v, a, j.d);
    }
#pragma unroll
    for (uint32_t u = 0; u < ROW_KEPT; u++) v[u] = axpby4(j.alpha, old[u], j.beta, v[u]);
    store_kept(x, v, j.d);
    for_rest(j.d, [&](uint32_t i) {
        if (i >= j.d) return;
        const float4 add = j.row_of != NULL ? combine(j, t, i) : load4(a + i);
        store4(x + i, axpby4(j.alpha, load4(r + i), j.beta, add));
    });
}

/* The row that norm_scale reads: all of v and the rest of x, in shared memory where it fits. */
FG_DEV const float *lay_row(float *shared, uint32_t in_shared, const float4 v[ROW_KEPT],
                            const float *x, uint32_t d)
{
    if (in_shared == 0) return x;
    store_kept(shared, v, d);
    for_rest(d, [&](uint32_t i) {
        if (i < d) store4(shared + i, load4(x + i));
    });
    return shared;
}

FG_DEV float4 normed(const float4 &x, float s, const float4 &w)
{
    return {(x.x * s) * w.x, (x.y * s) * w.y, (x.z * s) * w.z, (x.w * s) * w.w};
}

FG_KERNEL(join, fg_join_args, ROW_THREADS, 1)
{
    let_later_begin();
    FG_SHARED_MORE(float, shared);
    FG_SHARED(float, scale);
    const fg_cuda_join &j = a.j;
    const uint32_t t = blockIdx.x, from = j.from != NULL ? j.from[t] : t;
    float *x = j.x + (uint64_t)from * j.x_stride;
    float4 v[ROW_KEPT], w[ROW_KEPT];
    if (j.w != NULL) load_kept(w, j.w, j.d);
    if (j.residual && j.from == NULL) {
        add_residual(v, j, t, x);
    } else {
        load_kept(v, x, j.d);
    }
    if (j.w == NULL) return; /* all of the block */
    const float *row = lay_row(shared, a.in_shared, v, x, j.d);
    sync_block();
    norm_scale(row, j.d, j.eps, &scale);
    sync_block();
    const float s = scale; /* NaN perhaps, which must not get into what fills up a row */
    const float4 zero = {0.0f, 0.0f, 0.0f, 0.0f};
    for_kept(j.d, [&](uint32_t u, uint32_t i) {
        const float4 o = normed(v[u], s, w[u]);
        store_forms(j.n, t, i / 128, i, i < j.d ? o : zero);
    });
    for_rest(j.d, [&](uint32_t i) {
        float4 o = zero;
        if (i < j.d) o = normed(load4(row + i), s, load4(j.w + i));
        store_forms(j.n, t, i / 128, i, o);
    });
}

/* u = ((u * s) * w) * sigmoid(gate). */
FG_DEV float4 gated(const float4 &n, const float4 &g)
{
    return {n.x * sigmoid_f32(g.x), n.y * sigmoid_f32(g.y), n.z * sigmoid_f32(g.z),
            n.w * sigmoid_f32(g.w)};
}

FG_KERNEL(gate, fg_gate_args, ROW_THREADS, 1)
{
    let_later_begin();
    FG_SHARED_MORE(float, shared);
    FG_SHARED(float, scale);
    const fg_cuda_gate &g = a.g;
    const uint32_t t = blockIdx.x;
    const float *x = g.u.f + (uint64_t)t * g.u.f_stride;
    const float *gate = g.gate + (uint64_t)t * g.gate_stride;
    float4 v[ROW_KEPT], w[ROW_KEPT], c[ROW_KEPT];
    load_kept(v, x, g.d);
    load_kept(w, g.w, g.d);
    load_kept(c, gate, g.d);
    const float *row = lay_row(shared, a.in_shared, v, x, g.d);
    sync_block();
    norm_scale(row, g.d, g.eps, &scale);
    sync_block();
    const float s = scale; /* NaN perhaps, which must not get into what fills up a row */
    const float4 zero = {0.0f, 0.0f, 0.0f, 0.0f};
    for_kept(g.d, [&](uint32_t u, uint32_t i) {
        const float4 o = gated(normed(v[u], s, w[u]), c[u]);
        store_forms(g.u, t, i / 128, i, i < g.d ? o : zero);
    });
    for_rest(g.d, [&](uint32_t i) {
        float4 o = zero;
        if (i < g.d) o = gated(normed(load4(row + i), s, load4(g.w + i)), load4(gate + i));
        store_forms(g.u, t, i / 128, i, o);
    });
}

/* A warp a block of a row. */
FG_KERNEL(hidden, fg_hidden_args, 256, 1)
{
    let_later_begin();
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

/* Chains are read into shared memory at once, where they fit. */
typedef float floats1024[1024];
typedef float route_stage[FG_ROUTE_STAGE];
FG_KERNEL(select, fg_route_args, 1024, 1)
{
    FG_SHARED(floats1024, p);
    FG_SHARED(route_stage, stage);
    const uint32_t n = 16 * a.r.m.n_panel, t = blockIdx.x;
    const float *chain = a.r.work + (uint64_t)t * a.n_chain * n;
    if (a.n_chain > 1 && (uint64_t)a.n_chain * n <= FG_ROUTE_STAGE) {
        for (uint32_t i = threadIdx.x; i < a.n_chain * n; i += blockDim.x) stage[i] = chain[i];
        chain = stage;
        sync_block();
    }
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
