/* SPDX-License-Identifier: MIT
 *
 * Softmax attention: any head, any cache.
 */
#include "simd/cuda/attention.cuh"

namespace fg_attn
{

struct rows_work {
    float s[8][BLOCK];           /* scores, then weights of a float cache */
    uint32_t u[8][2][BLOCK / 4]; /* weights of an int8 cache: high bytes, low bytes */
    float m[8], l[8], all_m[8], all_l[8], q_scale[8], scale[8];
    attn_factors f[8], f_all[8];
    uint64_t seen[8];
    float more[]; /* queries [d][8], int8: [d/4][8][high, low]; then the span's values [8][d] */
};

static_assert(sizeof(rows_work) == FG_ATTN_ROWS_SHARED, "");

template <int KV> FG_DEV float cached(const void *p, size_t at)
{
    return KV == FG_CUDA_KV_F16 ? f_of_half(((const uint16_t *)p)[at]) : ((const float *)p)[at];
}

/* Scores of position p + threadIdx.x. */
template <int KV>
FG_DEV void rows_scores(const fg_cuda_softmax &a, uint32_t g, uint64_t p, rows_work *w)
{
    const uint32_t d = a.d;
    const size_t at = (size_t)(g * a.n_pos + p + threadIdx.x);
    float s[8] = {};
    if constexpr (KV == FG_CUDA_KV_INT8) {
        const uint32_t *k = (const uint32_t *)a.k_cache + at / 16 * 4 * d + at % 16;
        const uint32_t *q = (const uint32_t *)(const void *)w->more;
        int32_t high[8] = {}, low[8] = {};
        for (uint32_t c = 0; c < d / 4; c++) {
            const uint32_t x = k[16 * c];
#pragma unroll
            for (uint32_t r = 0; r < 8; r++) {
                high[r] = dp4a(q[(8 * c + r) * 2], x, high[r]);
                low[r] = dp4a(q[(8 * c + r) * 2 + 1], x, low[r]);
            }
        }
#pragma unroll
        for (uint32_t r = 0; r < 8; r++) {
            s[r] = (joined(high[r], low[r]) * a.k_scale[at]) * w->q_scale[r];
        }
    } else {
        const size_t from = at / 16 * 16 * d + at % 16;
        for (uint32_t c = 0; c < d; c++) {
            const float x = cached<KV>(a.k_cache, from + 16 * c);
#pragma unroll
            for (uint32_t r = 0; r < 8; r++) s[r] = fma_rn(w->more[8 * c + r], x, s[r]);
        }
    }
    for (uint32_t r = 0; r < 8; r++) w->s[r][threadIdx.x] = s[r];
}

/* Weights of a warp's row; the row's (max, sum) to m and l. */
template <int KV>
FG_DEV void rows_weights(const float *v_scale, uint32_t n, rows_work *w, float *max, float *total)
{
    const uint32_t lane = threadIdx.x % 32, row = threadIdx.x / 32;
    float s[8], m = MINUS_INFINITY, sum = 0.0f;
#pragma unroll
    for (uint32_t k = 0; k < 8; k++) {
        s[k] = 32 * k + lane < n ? w->s[row][32 * k + lane] : MINUS_INFINITY;
        m = max_of(s[k], m);
    }
#pragma unroll
    for (uint32_t by = 16; by > 0; by /= 2) m = max_of(m, shfl_xor_f(m, by));
    uint32_t bits = 0;
#pragma unroll
    for (uint32_t k = 0; k < 8; k++) {
        const uint32_t at = 32 * k + lane;
        s[k] = exp_f32(s[k] - m);
        sum = sum + s[k]; /* good in lanes 0 to 15 */
        sum = sum + shfl_down_f(s[k], 16);
        if (KV != FG_CUDA_KV_INT8) {
            w->s[row][at] = s[k];
            continue;
        }
        s[k] = at < n ? s[k] * v_scale[at] : 0.0f;
        bits = max_u(bits, abs_bits(s[k]));
    }
    *max = m;
    *total = sum_lanes(sum);
    if (KV != FG_CUDA_KV_INT8) return;
    bits = warp_max(bits);
    const float inverse = inverse_of(bits, TOP_WEIGHT);
    uint8_t *high = (uint8_t *)w->u[row][0], *low = (uint8_t *)w->u[row][1];
#pragma unroll
    for (uint32_t k = 0; k < 8; k++) {
        const uint32_t u = inverse == 0.0f ? 0 : rounded(s[k] * inverse);
        high[32 * k + lane] = (uint8_t)((u + 128) >> 8);
        low[32 * k + lane] = (uint8_t)u;
    }
    if (lane == 0) w->scale[row] = scale_of(bits, TOP_WEIGHT);
}

/* Weighted values of column e for rows r .. r+3 of the tile, the block at p. */
template <int KV>
FG_DEV void rows_values(const fg_cuda_softmax &a, uint32_t g, uint64_t p, const rows_work *w,
                        uint32_t e, uint32_t r, float o[4])
{
    const size_t d = a.d, at = (size_t)(g * a.n_pos + p);
    uint32_t n[4], most = 0;
    for (uint32_t k = 0; k < 4; k++) {
        n[k] = seen_of_block(w->seen[r + k], p);
        most = max_u(most, n[k]);
        o[k] = 0.0f;
    }
    if constexpr (KV == FG_CUDA_KV_INT8) {
        const uint32_t *v = (const uint32_t *)a.v_cache + at / 4 * d + e;
        int32_t high[4] = {}, low[4] = {};
        for (uint32_t i = 0; 4 * i < most; i++) {
            const uint32_t x = v[i * d];
#pragma unroll
            for (uint32_t k = 0; k < 4; k++) {
                high[k] = dp4a(w->u[r + k][0][i], x, high[k]);
                low[k] = dp4a(w->u[r + k][1][i], x, low[k]);
            }
        }
        for (uint32_t k = 0; k < 4; k++) o[k] = joined(high[k], low[k]) * w->scale[r + k];
    } else {
        for (uint32_t i = 0; i < most; i++) {
            const float x = cached<KV>(a.v_cache, (at + i) * d + e);
#pragma unroll
            for (uint32_t k = 0; k < 4; k++) {
                o[k] = i < n[k] ? fma_rn(w->s[r + k][i], x, o[k]) : o[k];
            }
        }
    }
}

template <int KV>
FG_DEV void rows_queries(const fg_cuda_softmax &a, uint32_t g, uint32_t r0, rows_work *w)
{
    const uint32_t d = a.d, words = KV == FG_CUDA_KV_INT8 ? d / 2 : d;
    uint32_t *q = (uint32_t *)(void *)w->more;
    for (uint32_t k = threadIdx.x; k < 8 * words; k += 256) {
        const uint32_t r = k / words, i = k % words;
        const attn_row y = row_at(a, g, r0 + r);
        const uint32_t x = y.seen == 0 ? 0 : ((const uint32_t *)(const void *)query_of(a, y))[i];
        q[KV == FG_CUDA_KV_INT8 ? (i % (d / 4) * 8 + r) * 2 + i / (d / 4) : 8 * i + r] = x;
    }
    if (threadIdx.x >= 8) return;
    const attn_row y = row_at(a, g, r0 + threadIdx.x);
    w->seen[threadIdx.x] = y.seen;
    if (KV == FG_CUDA_KV_INT8) w->q_scale[threadIdx.x] = y.seen == 0 ? 0.0f : query_of(a, y)[d / 2];
}

/* The span that began at p: (max, sum) by the row's warp, then columns by those who have them. */
FG_DEV void rows_span(const fg_cuda_softmax &a, uint32_t g, uint32_t r0, uint64_t p, rows_work *w)
{
    const uint32_t row = threadIdx.x / 32, d = a.d;
    const float *o = w->more + 8 * d;
    if (threadIdx.x % 32 == 0 && p < w->seen[row]) {
        if (p == 0) {
            w->all_m[row] = w->m[row];
            w->all_l[row] = w->l[row];
        } else {
            w->f_all[row] = merge_ml(&w->all_m[row], &w->all_l[row], w->m[row], w->l[row]);
        }
    }
    sync_block();
    for (uint32_t k = threadIdx.x; k < 2 * d; k += 256) {
        const uint32_t e = k % d;
        for (uint32_t r = k / d * 4; r < k / d * 4 + 4; r++) {
            if (p >= w->seen[r]) continue;
            float *u = result_of(a, row_at(a, g, r0 + r)) + e, x = o[r * d + e];
            if (p != 0) x = fma_rn(x, w->f_all[r].next, *u * w->f_all[r].was);
            *u = w->seen[r] - p <= SPAN ? x / w->all_l[r] : x;
        }
    }
}

/* blockIdx.x: tile of 8 rows, .y: of gridDim.y > 1 which blocks of positions, in turn, .z: KV head.
 * A thread has a position, then, of columns e, e + 256 .., four rows. */
template <int KV> FG_DEV void attn_rows(const fg_cuda_softmax &a, rows_work *w)
{
    const uint32_t g = blockIdx.z, row = threadIdx.x / 32, d = a.d;
    const uint32_t r0 = blockIdx.x * FG_ATTN_SPLIT_ROWS;
    const bool split = a.work != NULL;
    float *o = w->more + 8 * d;
    const uint64_t seen = most_seen(a, r0, FG_ATTN_SPLIT_ROWS);
    rows_queries<KV>(a, g, r0, w);
    sync_block();
    for (uint64_t p = (uint64_t)blockIdx.y * BLOCK; p < seen; p += (uint64_t)gridDim.y * BLOCK) {
        const bool begins = split || p % SPAN == 0;
        const uint32_t n = seen_of_block(w->seen[row], p);
        if (threadIdx.x / 16 * 16 < seen - p) rows_scores<KV>(a, g, p, w);
        sync_block();
        float m, l;
        rows_weights<KV>(a.v_scale + g * a.n_pos + p, n, w, &m, &l);
        if (threadIdx.x % 32 == 0 && n != 0) {
            float *to = split ? partial_at(a, p / BLOCK, row_at(a, g, r0 + row)) : NULL;
            if (begins) {
                *(split ? &to[0] : &w->m[row]) = m;
                *(split ? &to[1] : &w->l[row]) = l;
            } else {
                w->f[row] = merge_ml(&w->m[row], &w->l[row], m, l);
            }
        }
        sync_block();
        for (uint32_t k = threadIdx.x; k < 2 * d; k += 256) {
            const uint32_t e = k % d, r4 = k / d * 4;
            float y[4];
            rows_values<KV>(a, g, p, w, e, r4, y);
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t r = r4 + i;
                if (p >= w->seen[r]) continue;
                float *to =
                    split ? partial_at(a, p / BLOCK, row_at(a, g, r0 + r)) + FG_ATTN_PARTIAL + e
                          : &o[r * d + e];
                *to = begins ? y[i] : fma_rn(y[i], w->f[r].next, *to * w->f[r].was);
            }
        }
        const uint64_t span = p / SPAN * SPAN;
        if (!split && (p + BLOCK == span + SPAN || p + BLOCK >= seen)) rows_span(a, g, r0, span, w);
        sync_block();
    }
}

FG_KERNEL(attn_rows_f32, fg_cuda_softmax, 256, 2)
{
    FG_SHARED_MORE(rows_work, w);
    attn_rows<FG_CUDA_KV_F32>(a, w);
}
FG_KERNEL(attn_rows_f16, fg_cuda_softmax, 256, 2)
{
    FG_SHARED_MORE(rows_work, w);
    attn_rows<FG_CUDA_KV_F16>(a, w);
}
FG_KERNEL(attn_rows_i8, fg_cuda_softmax, 256, 2)
{
    FG_SHARED_MORE(rows_work, w);
    attn_rows<FG_CUDA_KV_INT8>(a, w);
}

} // namespace fg_attn
