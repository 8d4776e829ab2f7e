/* SPDX-License-Identifier: MIT
 *
 * Softmax attention: what comes before it, and few rows over an int8 cache with heads of 128.
 */
#include "simd/cuda/attention.cuh"

namespace fg_attn
{

/* ---- store ---- */

FG_DEV uint32_t half_of(float x) /* as fg_f32_to_f16 */
{
    const uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000u;
    uint32_t m = u & 0x7fffffffu;
    if (m > 0x7f800000u) return sign | 0x7e00u | ((m >> 13) & 0x3ffu);
    if (m >= 0x47800000u) return sign | 0x7c00u;
    if (m < 0x38800000u) return sign | (bits_of(f_of(m) + 0.5f) - 0x3f000000u);
    m -= 112u << 23;
    return sign | ((m + 0xfffu + ((m >> 13) & 1u)) >> 13);
}

/* One warp: x, rotated and scaled, to shared memory. */
FG_DEV void rope(const fg_cuda_softmax &a, const float *x, size_t row, float scale, float *to)
{
    const float *cosines = a.cos + row * a.half, *sines = a.sin + row * a.half;
    for (uint32_t i = threadIdx.x % 32; i < a.half; i += 32) {
        const float p = x[i], q = x[a.half + i], c = cosines[i], s = sines[i];
        to[i] = (p * c - q * s) * scale;
        to[a.half + i] = (q * c + p * s) * scale;
    }
    for (uint32_t i = 2 * a.half + threadIdx.x % 32; i < a.d; i += 32) to[i] = x[i] * scale;
}

FG_DEV uint32_t largest(const float *x, uint32_t d)
{
    uint32_t m = 0;
    for (uint32_t i = threadIdx.x % 32; i < d; i += 32) m = max_u(m, abs_bits(x[i]));
    return warp_max(m);
}

FG_DEV void store_query(const fg_cuda_softmax &a, const float *x, float *to)
{
    const uint32_t lane = threadIdx.x % 32;
    if (a.kv_type != FG_CUDA_KV_INT8) {
        for (uint32_t i = lane; i < a.d; i += 32) to[i] = x[i];
        return;
    }
    const float top = a.d <= 512 ? 32512.0f : 16256.0f;
    const uint32_t bits = largest(x, a.d);
    const float inverse = inverse_of(bits, top);
    uint32_t *high = (uint32_t *)(void *)to, *low = high + a.d / 4;
    for (uint32_t i = lane; i < a.d / 4; i += 32) {
        uint32_t q[4];
        for (uint32_t k = 0; k < 4; k++) {
            q[k] = inverse == 0.0f ? 0 : rounded(x[4 * i + k] * inverse);
        }
        high[i] = high_bytes(q[0], q[1], q[2], q[3]);
        low[i] = low_bytes(q[0], q[1], q[2], q[3]);
    }
    if (lane == 0) to[a.d / 2] = scale_of(bits, top);
}

/* A key (or value) of a position of the cache; i8 as quantize_row of softmax.c. */
FG_DEV void store_row(const fg_cuda_softmax &a, const float *x, size_t at, bool key)
{
    const uint32_t lane = threadIdx.x % 32, d = a.d;
    void *cache = key ? a.k_cache : a.v_cache;
    if (a.kv_type == FG_CUDA_KV_INT8) {
        const uint32_t bits = largest(x, d);
        const float inverse = 127.0f / f_of(bits);
        const bool finite = bits < 0x7f800000u, some = bits != 0 && abs_bits(inverse) < 0x7f800000u;
        uint8_t *to = (uint8_t *)cache +
                      (key ? at / 16 * 16 * d + at % 16 * 4 : at / 4 * 4 * (size_t)d + at % 4);
        for (uint32_t i = lane; i < d; i += 32) {
            const int32_t q = finite && some ? f2i_rn(x[i] * inverse) : 0;
            to[key ? i / 4 * 64 + i % 4 : 4 * i] = (uint8_t)q;
        }
        if (lane != 0) return;
        (key ? a.k_scale : a.v_scale)[at] = !finite ? f_of(NAN_BITS)
                                            : some  ? f_of(bits) / 127.0f
                                                    : 0.0f;
        return;
    }
    const size_t base = key ? at / 16 * 16 * d + at % 16 : at * d;
    for (uint32_t i = lane; i < d; i += 32) {
        const size_t e = base + (key ? 16 * i : i);
        if (a.kv_type == FG_CUDA_KV_F16) {
            ((uint16_t *)cache)[e] = (uint16_t)half_of(x[i]);
        } else {
            ((float *)cache)[e] = x[i];
        }
    }
}

/* blockIdx.x: row of the call, .y: KV head; a warp of the blocks of .z: a head at a time. */
FG_KERNEL(attn_store, fg_cuda_softmax, 256, 2)
{
    FG_SHARED(float[WARPS][FG_CUDA_MAX_HEAD], rows);
    const uint32_t t = blockIdx.x, g = blockIdx.y, group = a.n_head / a.n_kv_head, d = a.d;
    if (t >= a.seq->n) return;
    const size_t row = (size_t)a.seq->first + t, at = (size_t)(g * a.n_pos + a.seq->pos + t);
    float *p = a.qkv + row * a.qkv_stride, *x = rows[threadIdx.x / 32];
    const float scale = 1.0f / sqrt_rn(i2f((int32_t)d));
    for (uint32_t k = blockIdx.z * WARPS + threadIdx.x / 32; k < group + 2;
         k += WARPS * gridDim.z) {
        if (k < group) {
            float *q = p + (size_t)(g * group + k) * d;
            rope(a, q, row, scale, x);
            sync_warp();
            store_query(a, x, q);
        } else if (k == group) {
            rope(a, p + (size_t)(a.n_head + g) * d, row, 1.0f, x);
            sync_warp();
            store_row(a, x, at, true);
        } else {
            const float *v = p + (size_t)(a.n_head + a.n_kv_head + g) * d;
            for (uint32_t i = threadIdx.x % 32; i < d; i += 32) x[i] = v[i];
            sync_warp();
            store_row(a, x, at, false);
        }
        sync_warp();
    }
}

/* ---- few rows ---- */

struct split_work {
    float s[8][BLOCK + 16];    /* scores; rows 16 banks apart */
    uint8_t u[16][BLOCK + 16]; /* weights: high bytes of 8 rows, low ones; 4 banks apart */
    int32_t o[8][D + 8];       /* of the upper half of the block */
    float scale[8];
};

/* Keys that warp w takes: 32 positions.  Values: 128 positions of 32 columns. */
FG_DEV void load_keys(const fg_cuda_softmax &a, uint32_t g, uint64_t p, uint64_t seen,
                      uint4 k[STEPS][2])
{
    p += threadIdx.x / 32 * 32;
    if (p >= seen) return;
#pragma unroll
    for (uint32_t i = 0; i < STEPS; i++) {
        k[i][0] = ld16(keys_at(a, g, p, 2 * i));
        k[i][1] = ld16(keys_at(a, g, p, 2 * i + 1));
    }
}
FG_DEV void load_values(const fg_cuda_softmax &a, uint32_t g, uint64_t p, uint64_t seen,
                        uint4 v[4][2])
{
    const uint32_t w = threadIdx.x / 32;
    p += w / 4 * 128;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        if (p + 32 * i >= seen) return;
        v[i][0] = ld16(values_at(a, g, p + 32 * i, w % 4));
        v[i][1] = ld16(values_at(a, g, p + 32 * i + 16, w % 4));
    }
}

/* Scores of the warp's 32 positions of the block at p, row by row. */
FG_DEV void split_scores(const fg_cuda_softmax &a, uint32_t g, uint64_t p, uint32_t n,
                         float q_scale, const uint32_t q[STEPS][4], const uint4 k[STEPS][2],
                         split_work *w)
{
    const uint32_t lane = threadIdx.x % 32, row = lane / 4;
    const uint32_t at = threadIdx.x / 32 * 32 + lane % 4 * 4;
    int32_t d[4][4] = {};
#pragma unroll
    for (uint32_t i = 0; i < STEPS; i++) multiply4(d, q[i], k[i][0], k[i][1]);
    const uint64_t from = g * a.n_pos + p + at;
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const float4 scale = scales_at(a.k_scale, from + 16 * i, at + 16 * i < n);
        store_f4(&w->s[row][at + 16 * i], scores4(joined4(d, i), scale, q_scale, at + 16 * i, n));
    }
}

/* Weights of row w (of the warp), n of them visible. */
FG_DEV void split_weights(const fg_cuda_softmax &a, uint32_t g, uint64_t p, uint32_t n, float *ml,
                          split_work *w)
{
    const uint32_t lane = threadIdx.x % 32, row = threadIdx.x / 32;
    float s[8], m = MINUS_INFINITY, sum = 0.0f;
#pragma unroll
    for (uint32_t k = 0; k < 8; k++) {
        s[k] = w->s[row][32 * k + lane];
        m = max_of(s[k], m);
    }
#pragma unroll
    for (uint32_t by = 16; by > 0; by /= 2) m = max_of(m, shfl_xor_f(m, by));
    uint32_t bits = 0;
#pragma unroll
    for (uint32_t k = 0; k < 8; k++) {
        s[k] = exp_f32(s[k] - m);
        sum = sum + s[k]; /* good in lanes 0 to 15 */
        sum = sum + shfl_down_f(s[k], 16);
        const uint32_t at = 32 * k + lane;
        s[k] = at < n ? s[k] * a.v_scale[g * a.n_pos + p + at] : 0.0f;
        bits = max_u(bits, abs_bits(s[k]));
    }
    sum = sum_lanes(sum);
    bits = warp_max(bits);
    const float inverse = inverse_of(bits, TOP_WEIGHT);
#pragma unroll
    for (uint32_t k = 0; k < 8; k++) {
        const uint32_t at = 32 * k + lane;
        const uint32_t u = inverse == 0.0f || at >= n ? 0 : rounded(s[k] * inverse);
        w->u[row][at] = (uint8_t)((u + 128) >> 8);
        w->u[8 + row][at] = (uint8_t)u;
    }
    if (lane != 0) return;
    w->scale[row] = scale_of(bits, TOP_WEIGHT);
    if (n == 0) return;
    ml[0] = m;
    ml[1] = sum;
}

/* Weighted values of the warp's half of the block and 32 columns. */
FG_DEV void split_values(const split_work *w, uint64_t left, const uint4 v[4][2], int32_t d[4][4])
{
    const uint32_t lane = threadIdx.x % 32, half = threadIdx.x / 128, row = lane / 4;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t at = 128 * half + 32 * i + lane % 4 * 4;
        if (128 * half + 32 * i >= left) break;
        uint32_t u[4];
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            memcpy(&u[k], &w->u[row + k % 2 * 8][at + k / 2 * 16], 4);
        }
        multiply4(d, u, v[i][0], v[i][1]);
    }
}

/* The sums of the block's two halves; row lane / 4 of the tile goes to o. */
FG_DEV void split_result(const int32_t d[4][4], bool there, float *o, split_work *w)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4;
    const uint32_t e = warp % 4 * 32 + lane % 4 * 8;
    if (warp >= 4) {
#pragma unroll
        for (uint32_t x = 0; x < 4; x++) {
            w->o[row][e + x] = (int32_t)(256u * (uint32_t)d[x][0] + (uint32_t)d[x][2]);
            w->o[row][e + 4 + x] = (int32_t)(256u * (uint32_t)d[x][1] + (uint32_t)d[x][3]);
        }
    }
    sync_block();
    if (warp >= 4 || !there) return;
    const float f = w->scale[row];
    float y[8];
#pragma unroll
    for (uint32_t x = 0; x < 8; x++) {
        const int32_t *s = d[x % 4];
        const uint32_t own = 256u * (uint32_t)s[x / 4] + (uint32_t)s[2 + x / 4];
        y[x] = i2f((int32_t)(own + (uint32_t)w->o[row][e + x])) * f;
    }
    store_f4(o + e, float4{y[0], y[1], y[2], y[3]});
    store_f4(o + e + 4, float4{y[4], y[5], y[6], y[7]});
}

/* blockIdx.x: tile of 8 rows, .y: which blocks of positions, in turn, .z: KV head.  The next keys
 * are on their way while weights are made, the next values while partial results are stored. */
FG_KERNEL(attn_split_i8, fg_cuda_softmax, 256, 2)
{
    FG_SHARED(split_work, w);
    const uint32_t g = blockIdx.z, warp = threadIdx.x / 32;
    const uint32_t r0 = blockIdx.x * FG_ATTN_SPLIT_ROWS;
    const attn_row mine = row_at(a, g, r0 + threadIdx.x % 32 / 4),
                   weighed = row_at(a, g, r0 + warp);
    const uint64_t seen = most_seen(a, r0, FG_ATTN_SPLIT_ROWS);
    uint64_t p = (uint64_t)blockIdx.y * BLOCK;
    if (p >= seen) return;
    uint32_t q[STEPS][4];
    uint4 k[STEPS][2] = {}, v[4][2] = {};
    load_keys(a, g, p, seen, k);
    load_values(a, g, p, seen, v);
    const float q_scale = load_query(a, mine, q);
    for (; p < seen; p += (uint64_t)gridDim.y * BLOCK) {
        const uint64_t next = p + (uint64_t)gridDim.y * BLOCK;
        split_scores(a, g, p, seen_of_block(mine.seen, p), q_scale, q, k, &w);
        load_keys(a, g, next, seen, k);
        sync_block();
        split_weights(a, g, p, seen_of_block(weighed.seen, p), partial_at(a, p / BLOCK, weighed),
                      &w);
        sync_block();
        int32_t d[4][4] = {};
        split_values(&w, seen - p, v, d);
        load_values(a, g, next, seen, v);
        split_result(d, seen_of_block(mine.seen, p) != 0,
                     partial_at(a, p / BLOCK, mine) + FG_ATTN_PARTIAL, &w);
    }
}

/* ---- join ---- */

enum {
    JOIN_SPANS = 64,
    JOIN_BLOCKS = JOIN_SPANS * SPAN_BLOCKS,
    JOIN_COLS = FG_ATTN_JOIN_COLS,
    JOIN_WAYS = 4
};

struct join_work {
    float m[JOIN_BLOCKS], l[JOIN_BLOCKS];
    attn_factors f[JOIN_BLOCKS]; /* of block k within its span, k % SPAN_BLOCKS != 0 */
    attn_factors g[JOIN_SPANS];  /* of span s with all before it */
    float span_m[JOIN_SPANS], span_l[JOIN_SPANS];
    float o[JOIN_SPANS][JOIN_COLS];
};

/* Factors of n blocks, whose spans come after what has maximum m. */
FG_DEV void join_factors(join_work *w, uint32_t n, bool begins, float m)
{
    const uint32_t tid = threadIdx.x, n_span = (n + SPAN_BLOCKS - 1) / SPAN_BLOCKS;
    if (tid < n_span) {
        const uint32_t b = tid * SPAN_BLOCKS;
        float top = w->m[b], sum = w->l[b];
        for (uint32_t k = b + 1; k < b + SPAN_BLOCKS && k < n; k++) {
            w->f[k] = merge_ml(&top, &sum, w->m[k], w->l[k]);
        }
        w->span_m[tid] = top;
        w->span_l[tid] = sum;
    }
    sync_block();
    if (tid < n_span && !(begins && tid == 0)) {
        float before = begins ? w->span_m[0] : m, unused = 0.0f;
        for (uint32_t s = begins ? 1 : 0; s < tid; s++) before = max_of(before, w->span_m[s]);
        w->g[tid] = merge_ml(&before, &unused, w->span_m[tid], 0.0f);
    }
}

/* The blocks of the thread's spans, some spans at a time, so that many loads are on their way. */
FG_DEV void join_blocks(join_work *w, const float *o, size_t stride, uint32_t n)
{
    enum { STEP = 4 };
    const uint32_t e = threadIdx.x % JOIN_COLS;
    for (uint32_t s0 = threadIdx.x / JOIN_COLS; s0 * SPAN_BLOCKS < n; s0 += STEP * JOIN_WAYS) {
        float x[STEP][SPAN_BLOCKS];
#pragma unroll
        for (uint32_t i = 0; i < STEP; i++) {
#pragma unroll
            for (uint32_t k = 0; k < SPAN_BLOCKS; k++) {
                const uint32_t b = (s0 + i * JOIN_WAYS) * SPAN_BLOCKS + k;
                x[i][k] = b < n ? o[b * stride] : 0.0f;
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < STEP; i++) {
            const uint32_t s = s0 + i * JOIN_WAYS, b = s * SPAN_BLOCKS;
            float y = x[i][0];
            for (uint32_t k = 1; k < SPAN_BLOCKS; k++) {
                if (b + k < n) y = fma_rn(x[i][k], w->f[b + k].next, y * w->f[b + k].was);
            }
            if (b < n) w->o[s][e] = y;
        }
    }
}

/* blockIdx.x: head, .y: 128 columns, .z: row of the call.  Four threads a column share the spans,
 * the first of them merges these in order. */
FG_KERNEL(attn_join, fg_cuda_softmax, JOIN_COLS *JOIN_WAYS, 1)
{
    FG_SHARED(join_work, w);
    const uint32_t tid = threadIdx.x, e = tid % JOIN_COLS, way = tid / JOIN_COLS;
    if (blockIdx.z >= a.seq->n) return;
    const attn_row r = {blockIdx.z, blockIdx.x, a.seq->pos + blockIdx.z + 1};
    const uint32_t column = blockIdx.y * JOIN_COLS + e;
    const bool there = column < a.d;
    const uint64_t n_block = (r.seen + BLOCK - 1) / BLOCK;
    const size_t stride = (size_t)a.n_most * a.n_head * (a.d + FG_ATTN_PARTIAL); /* of a block */
    const float *ml = partial_at(a, 0, r), *o = ml + FG_ATTN_PARTIAL + column;
    float m = 0.0f, l = 0.0f, y = 0.0f;
    for (uint64_t b0 = 0; b0 < n_block; b0 += JOIN_BLOCKS) {
        const uint32_t n =
            n_block - b0 < JOIN_BLOCKS ? (uint32_t)(n_block - b0) : (uint32_t)JOIN_BLOCKS;
        const uint32_t n_span = (n + SPAN_BLOCKS - 1) / SPAN_BLOCKS;
        for (uint32_t k = tid; k < n; k += JOIN_COLS * JOIN_WAYS) {
            w.m[k] = ml[(b0 + k) * stride];
            w.l[k] = ml[(b0 + k) * stride + 1];
        }
        sync_block();
        join_factors(&w, n, b0 == 0, m);
        if (there) join_blocks(&w, o + b0 * stride, stride, n);
        sync_block();
        for (uint32_t s = 0; s < n_span; s++) {
            const bool first = b0 == 0 && s == 0;
            m = first ? w.span_m[s] : max_of(m, w.span_m[s]);
            if (way != 0) continue;
            const attn_factors f = first ? attn_factors{0.0f, 0.0f} : w.g[s];
            l = first ? w.span_l[s] : fma_rn(w.span_l[s], f.next, l * f.was);
            y = first ? w.o[s][e] : fma_rn(w.o[s][e], f.next, y * f.was);
        }
        sync_block();
    }
    if (way == 0 && there) result_of(a, r)[column] = y / l;
}

} // namespace fg_attn
