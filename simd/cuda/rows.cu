/* SPDX-License-Identifier: MIT
 *
 * What stands between the products, a row a block: norms, residuals, gates, quantization.
 */
#include "simd/cuda/floats.cuh"
#include "simd/cuda/mailbox.cuh"
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
 * blocks of 128.  BATCH of them are on their way from memory at a time.  Loops over a row stay
 * loops: a kernel of one block waits for its instructions as for anything else. */
enum { BATCH = 4 };
FG_DEV uint32_t element(uint32_t u)
{
    return 4 * (threadIdx.x + u * blockDim.x);
}
FG_DEV void load_batch(float4 v[BATCH], const float *p, uint32_t u0, uint32_t d)
{
#pragma unroll
    for (uint32_t u = 0; u < BATCH; u++) {
        v[u] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (element(u0 + u) < d) v[u] = load4(p + element(u0 + u));
    }
}
FG_DEV void store_batch(float *p, const float4 v[BATCH], uint32_t u0, uint32_t d)
{
#pragma unroll
    for (uint32_t u = 0; u < BATCH; u++) {
        if (element(u0 + u) < d) store4(p + element(u0 + u), v[u]);
    }
}
/* f(u) for the first of each batch. */
template <class F> FG_DEV void for_batches(uint32_t d, F f)
{
#pragma unroll 1
    for (uint32_t u = 0; element(u) < d; u += BATCH) f(u);
}
/* f(i) for all of a thread's elements, and beyond d to the end of a block. */
template <class F> FG_DEV void for_elements(uint32_t d, F f)
{
#pragma unroll 1
    for (uint32_t u = 0; element(u) / 128 < (d + 127) / 128; u++) f(element(u));
}

/* A row on its way to shared memory. */
FG_DEV void fetch_row(float *to, const float *from, uint32_t d)
{
    for (uint32_t i = 4 * threadIdx.x; i < d; i += 4 * blockDim.x) cp16(to + i, from + i);
    cp_commit();
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
FG_DEV void combine(float4 sum[BATCH], const fg_cuda_join &j, uint32_t t, uint32_t u0)
{
#pragma unroll
    for (uint32_t u = 0; u < BATCH; u++) sum[u] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint32_t k = 0; k < j.n_used; k += 2) {
        float w0, w1 = 0.0f;
        float4 y0[BATCH], y1[BATCH];
        const float *p0 = output_of(j, t, k, &w0);
        const float *p1 = k + 1 < j.n_used ? output_of(j, t, k + 1, &w1) : p0;
        load_batch(y0, p0, u0, j.d);
        load_batch(y1, p1, u0, j.d);
#pragma unroll
        for (uint32_t u = 0; u < BATCH; u++) {
            axpy4(sum[u], w0, y0[u]);
            if (k + 1 < j.n_used) axpy4(sum[u], w1, y1[u]);
        }
    }
}

/* Row t of x with what the sub-layer adds to it, into x and row. */
FG_DEV void add_residual(const fg_cuda_join &j, uint32_t t, float *x, float *row)
{
    const float *r = j.postnorm ? j.n.f + (uint64_t)t * j.n.f_stride : x;
    const float *a = j.a + (uint64_t)t * j.a_stride;
    if (j.await.box != NULL) await_host(j.await);
    for_batches(j.d, [&](uint32_t u0) {
        float4 old[BATCH], v[BATCH];
        load_batch(old, r, u0, j.d);
        if (j.row_of != NULL) {
            combine(v, j, t, u0);
        } else {
            load_batch(v, a, u0, j.d);
        }
#pragma unroll
        for (uint32_t u = 0; u < BATCH; u++) v[u] = axpby4(j.alpha, old[u], j.beta, v[u]);
        store_batch(x, v, u0, j.d);
        if (row != x) store_batch(row, v, u0, j.d);
    });
}

/* The scale of the row's norm, for all threads of the block; what was copied is there then, too. */
FG_DEV float scale_of(const float *row, const float *shared, uint32_t d, float eps, float *scale)
{
    cp_wait<0>();
    sync_block();
    if (row == shared) { /* said twice, so that each knows which memory it reads */
        norm_scale(shared, d, eps, scale);
    } else {
        norm_scale(row, d, eps, scale);
    }
    sync_block();
    return *scale; /* NaN perhaps, which must not get into what fills up a row */
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
    const bool fits = a.in_shared != 0;
    if (j.w != NULL && fits) fetch_row(shared + j.d, j.w, j.d);
    wait_for_earlier();
    const uint32_t t = blockIdx.x, from = j.from != NULL ? j.from[t] : t;
    float *x = j.x + (uint64_t)from * j.x_stride, *row = fits ? shared : x;
    if (j.residual && j.from == NULL) {
        add_residual(j, t, x, row);
    } else if (j.w != NULL && fits) {
        fetch_row(shared, x, j.d);
    }
    if (j.w == NULL) return; /* all of the block */
    const float s = scale_of(row, shared, j.d, j.eps, &scale), *w = fits ? shared + j.d : j.w;
    for_elements(j.d, [&](uint32_t i) {
        float4 o = {0.0f, 0.0f, 0.0f, 0.0f};
        if (i < j.d) o = normed(load4(row + i), s, load4(w + i));
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
    const bool fits = a.in_shared != 0;
    if (fits) fetch_row(shared + g.d, g.w, g.d);
    wait_for_earlier();
    const uint32_t t = blockIdx.x;
    const float *row = g.u.f + (uint64_t)t * g.u.f_stride, *w = g.w;
    const float *c = g.gate + (uint64_t)t * g.gate_stride;
    if (fits) {
        fetch_row(shared, row, g.d);
        fetch_row(shared + 2 * g.d, c, g.d);
        row = shared;
        w = shared + g.d;
        c = shared + 2 * g.d;
    }
    const float s = scale_of(row, shared, g.d, g.eps, &scale);
    for_elements(g.d, [&](uint32_t i) {
        float4 o = {0.0f, 0.0f, 0.0f, 0.0f};
        if (i < g.d) o = gated(normed(load4(row + i), s, load4(w + i)), load4(c + i));
        store_forms(g.u, t, i / 128, i, o);
    });
}

/* A warp a block of a row. */
FG_KERNEL(hidden, fg_hidden_args, 256, 1)
{
    let_later_begin();
    wait_for_earlier();
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

/* Logits of row t from its chains, superblocks in order.  That many are on their way at a time. */
typedef float floats1024[1024];
FG_DEV void add_chains(const fg_cuda_router &r, uint32_t t, float *p)
{
    enum { BATCH = 48 };
    const uint32_t n = 16 * r.m.n_panel, n_sb = r.m.n_sb;
    const float *chain = r.work + (uint64_t)t * n_sb * n;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        float acc = 0.0f;
        for (uint32_t k = 0; k < n_sb; k += BATCH) {
            float v[BATCH];
#pragma unroll
            for (uint32_t u = 0; u < BATCH; u++) {
                if (k + u < n_sb) v[u] = chain[(uint64_t)FG_ORDER(k + u, n_sb) * n + i];
            }
#pragma unroll
            for (uint32_t u = 0; u < BATCH; u++) {
                if (k + u < n_sb) acc = acc + v[u];
            }
        }
        p[i] = acc;
    }
    sync_block();
}

/* A block a superblock of a row: chains of all the matrix's rows.  A thread's first weights are
 * asked for before the kernels in front are done.  The block that is the last of its row selects,
 * and tells the host; the pieces that the host gets were sent by all blocks meanwhile. */
typedef float floats128[128];
template <class T> FG_DEV void route_few(const fg_route_args &a, float *x, float *p, uint32_t *turn)
{
    let_later_begin();
    const fg_cuda_router &r = a.r;
    const uint32_t sb = blockIdx.x, t = blockIdx.y, n = 16 * r.m.n_panel, tid = threadIdx.x;
    const T *m = (const T *)(const void *)r.m.panels;
    const uint64_t panel = r.m.panel_stride / sizeof(T);
    T v[128];
    if (tid < n) load128(v, m + tid / 16 * panel + (uint64_t)sb * 2048, tid % 16);
    wait_for_earlier();
    for (uint32_t i = tid; i < 32; i += blockDim.x) {
        store4(x + 4 * i, load4(r.n + (uint64_t)t * r.n_stride + 128 * (uint64_t)sb + 4 * i));
    }
    if (a.post.box != NULL) post_pieces(a.post);
    sync_block();
    float *to = r.work + ((uint64_t)t * r.m.n_sb + sb) * n;
    if (tid < n) to[tid] = chain_of(v, x);
    for (uint32_t i = tid + blockDim.x; i < n; i += blockDim.x) {
        to[i] = chain128<32>(m + i / 16 * panel + (uint64_t)sb * 2048, x, i % 16);
    }
    if (a.post.box != NULL) fence_system();
    fence_card();
    sync_block();
    if (tid == 0) *turn = atomic_add(a.count + t, 1);
    sync_block();
    if (*turn + 1 != gridDim.x) return; /* all of the block */
    fence_card();
    if (tid == 0) a.count[t] = 0;
    add_chains(r, t, p);
    if (tid >= 32) return;
    select_best(r, p, t);
    sync_warp();
    if (a.post.box != NULL) post_ticket(a.post, r.sel, r.sel_w, r.n_used);
}
FG_KERNEL(router_f32, fg_route_args, 256, 1)
{
    FG_SHARED(floats128, x);
    FG_SHARED(floats1024, p);
    FG_SHARED(uint32_t, turn);
    route_few<float>(a, x, p, &turn);
}
FG_KERNEL(router_bf16, fg_route_args, 256, 1)
{
    FG_SHARED(floats128, x);
    FG_SHARED(floats1024, p);
    FG_SHARED(uint32_t, turn);
    route_few<uint16_t>(a, x, p, &turn);
}

/* Many rows: from their logits. */
FG_KERNEL(select, fg_route_args, 1024, 1)
{
    FG_SHARED(floats1024, p);
    const uint32_t n = 16 * a.r.m.n_panel, t = blockIdx.x;
    const float *logits = a.r.work + (uint64_t)t * n;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) p[i] = logits[i];
    sync_block();
    if (threadIdx.x < 32) select_best(a.r, p, t);
}
