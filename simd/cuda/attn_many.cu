/* SPDX-License-Identifier: MIT
 *
 * Softmax attention: many rows over an int8 cache with heads of 128.
 */
#include "simd/cuda/attention.cuh"

namespace fg_attn
{

enum { TILE_ROWS = FG_ATTN_TILE_ROWS, PARTS = BLOCK / 32 }; /* parts of a block: 32 positions */

/* Keys and values in the order of the products' fragments: [part][piece][lane], a piece being 16
 * elements of the keys, of the values 16 positions of 32 columns. */
struct tile_work {
    uint4 k[PARTS][8][32], v[PARTS][8][32];
    float4 o[8][256]; /* of the span: a thread's own columns of its row */
};
static_assert(sizeof(tile_work) == FG_ATTN_TILE_SHARED && TILE_ROWS == 8 * WARPS, "");

/* Of a thread's row. */
struct tile_state {
    attn_row row;
    uint32_t q[STEPS][4];
    float q_scale, m, l, all_m, all_l; /* of the span, of all before it */
};

FG_DEV void fetch_keys(const fg_cuda_softmax &a, uint32_t g, uint64_t p, uint32_t n, tile_work *w)
{
    const uint32_t lane = threadIdx.x % 32, piece = threadIdx.x / 32;
    for (uint32_t k = 0; 32 * k < n; k++) {
        cp16(&w->k[k][piece][lane], keys_at(a, g, p + 32 * k, piece));
    }
}
FG_DEV void fetch_values(const fg_cuda_softmax &a, uint32_t g, uint64_t p, uint32_t n, tile_work *w)
{
    const uint32_t lane = threadIdx.x % 32, piece = threadIdx.x / 32;
    for (uint32_t k = 0; 32 * k < n; k++) {
        const uint64_t at = p + 32 * k + piece % 2 * 16;
        cp16(&w->v[k][piece][lane], values_at(a, g, at, piece / 2));
    }
}

/* Scores of a thread's row: of part k positions 4t .. 4t+3 of both groups of 16.  n_warp: what the
 * warp's rows see at most. */
FG_DEV void tile_scores(const fg_cuda_softmax &a, const tile_state &r, const tile_work *w,
                        uint64_t from, uint32_t n, uint32_t n_warp, float4 s[PARTS][2])
{
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (uint32_t k = 0; k < PARTS; k++) {
        int32_t d[4][4] = {};
        if (32 * k < n_warp) {
#pragma unroll
            for (uint32_t i = 0; i < STEPS; i++) {
                multiply4(d, r.q[i], w->k[k][2 * i][lane], w->k[k][2 * i + 1][lane]);
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t at = 32 * k + 16 * i + lane % 4 * 4;
            const float4 scale = scales_at(a.k_scale, from + at, at < n);
            s[k][i] = scores4(joined4(d, i), scale, r.q_scale, at, n);
        }
    }
}

FG_DEV float4 weigh4(float4 s, float m, float4 *sum)
{
    const float4 e = {exp_f32(s.x - m), exp_f32(s.y - m), exp_f32(s.z - m), exp_f32(s.w - m)};
    *sum = float4{sum->x + e.x, sum->y + e.y, sum->z + e.z, sum->w + e.w};
    return e;
}
/* The first n - at of e * v_scale, then zeros. */
FG_DEV float4 valued4(float4 e, float4 v_scale, uint32_t at, uint32_t n)
{
    return float4{at < n ? e.x * v_scale.x : 0.0f, at + 1 < n ? e.y * v_scale.y : 0.0f,
                  at + 2 < n ? e.z * v_scale.z : 0.0f, at + 3 < n ? e.w * v_scale.w : 0.0f};
}
FG_DEV uint32_t most4(uint32_t bits, float4 x)
{
    return max_u(max_u(max_u(bits, abs_bits(x.x)), max_u(abs_bits(x.y), abs_bits(x.z))),
                 abs_bits(x.w));
}

/* From scores to weights in the order of the next product's fragments; the row's maximum, sum and
 * scale of weights.  A lane of the contract's sum is one of a thread's four running sums. */
FG_DEV void tile_weights(const float *v_scale, uint32_t n, float4 s[PARTS][2], uint32_t u[PARTS][4],
                         float *max, float *sum, float *scale)
{
    const uint32_t lane = threadIdx.x % 32;
    float m = MINUS_INFINITY;
#pragma unroll
    for (uint32_t k = 0; k < 2 * PARTS; k++) {
        const float4 x = s[k / 2][k % 2];
        m = max_of(x.w, max_of(x.z, max_of(x.y, max_of(x.x, m))));
    }
    m = max_of(m, shfl_xor_f(m, 1));
    m = max_of(m, shfl_xor_f(m, 2));
    float4 lanes = {0.0f, 0.0f, 0.0f, 0.0f};
    uint32_t bits = 0;
#pragma unroll
    for (uint32_t k = 0; k < 2 * PARTS; k++) {
        const uint32_t at = 16 * k + lane % 4 * 4;
        const float4 e = weigh4(s[k / 2][k % 2], m, &lanes);
        s[k / 2][k % 2] = valued4(e, scales_at(v_scale, at, at < n), at, n);
        bits = most4(bits, s[k / 2][k % 2]);
    }
    bits = max_u(bits, shfl_xor(bits, 1));
    bits = max_u(bits, shfl_xor(bits, 2));
    const float inverse = inverse_of(bits, TOP_WEIGHT);
#pragma unroll
    for (uint32_t k = 0; k < 2 * PARTS; k++) {
        const float4 x = s[k / 2][k % 2];
        const uint32_t y0 = rounded(x.x * inverse), y1 = rounded(x.y * inverse),
                       y2 = rounded(x.z * inverse), y3 = rounded(x.w * inverse);
        u[k / 2][k % 2 * 2] = inverse == 0.0f ? 0 : high_bytes(y0, y1, y2, y3);
        u[k / 2][k % 2 * 2 + 1] = inverse == 0.0f ? 0 : low_bytes(y0, y1, y2, y3);
    }
    lanes = float4{lanes.x + shfl_down_f(lanes.x, 2), lanes.y + shfl_down_f(lanes.y, 2),
                   lanes.z + shfl_down_f(lanes.z, 2), lanes.w + shfl_down_f(lanes.w, 2)};
    lanes = float4{lanes.x + shfl_down_f(lanes.x, 1), lanes.y + shfl_down_f(lanes.y, 1),
                   lanes.z + shfl_down_f(lanes.z, 1), lanes.w + shfl_down_f(lanes.w, 1)};
    *max = m;
    *sum = shfl_f((lanes.x + lanes.z) + (lanes.y + lanes.w), lane & ~3u);
    *scale = scale_of(bits, TOP_WEIGHT);
}

/* Weighted values of the block, into those of the span: columns 32 c + 8 t of a thread's row. */
FG_DEV void tile_values(tile_work *w, const uint32_t u[PARTS][4], uint32_t n_warp, float scale,
                        bool there, bool first, attn_factors f)
{
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (uint32_t c = 0; c < 4; c++) {
        int32_t d[4][4] = {};
#pragma unroll
        for (uint32_t k = 0; k < PARTS; k++) {
            if (32 * k < n_warp) multiply4(d, u[k], w->v[k][2 * c][lane], w->v[k][2 * c + 1][lane]);
        }
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            float4 *o = &w->o[2 * c + i][threadIdx.x];
            const float4 x = times4(joined4(d, i), scale);
            if (there) *o = first ? x : merge4(*o, x, f);
        }
    }
}

/* The span that began at p, into what comes out, at last divided by the sum of weights. */
FG_DEV void tile_span(const fg_cuda_softmax &a, tile_state *r, const tile_work *w, uint64_t p)
{
    if (p >= r->row.seen) return;
    attn_factors f = {0.0f, 0.0f};
    if (p == 0) {
        r->all_m = r->m;
        r->all_l = r->l;
    } else {
        f = merge_ml(&r->all_m, &r->all_l, r->m, r->l);
    }
    const bool last = r->row.seen - p <= SPAN;
    const float l = r->all_l;
    float *u = result_of(a, r->row) + threadIdx.x % 4 * 8;
#pragma unroll
    for (uint32_t k = 0; k < 8; k++) {
        float *to = u + k / 2 * 32 + k % 2 * 4;
        float4 x = w->o[k][threadIdx.x];
        if (p != 0) x = merge4(load_f4(to), x, f);
        if (last) x = float4{x.x / l, x.y / l, x.z / l, x.w / l};
        store_f4(to, x);
    }
}

/* blockIdx.x: tile of 64 rows, the last (longest) ones first, .y: KV head.  A warp has 8 rows and
 * keeps their scores and weights in registers.  A block's values come in while its scores are made,
 * the next block's keys while it is weighed. */
FG_KERNEL(attn_tile_i8, fg_cuda_softmax, 256, 2)
{
    FG_SHARED_MORE(tile_work, w);
    const uint32_t g = blockIdx.y, lane = threadIdx.x % 32;
    const uint32_t n_row = a.seq->n * (a.n_head / a.n_kv_head);
    const uint32_t n_tile = (n_row + TILE_ROWS - 1) / TILE_ROWS;
    if (blockIdx.x >= n_tile) return;
    const uint32_t first = (n_tile - 1 - blockIdx.x) * TILE_ROWS;
    const uint64_t seen = most_seen(a, first, TILE_ROWS);
    tile_state r;
    r.row = row_at(a, g, first + threadIdx.x / 32 * 8 + lane / 4);
    r.q_scale = load_query(a, r.row, r.q);
    r.m = r.l = r.all_m = r.all_l = 0.0f;
    fetch_keys(a, g, 0, seen_of_block(seen, 0), w);
    cp_commit();
    for (uint64_t p = 0; p < seen; p += BLOCK) {
        const uint32_t n = seen_of_block(r.row.seen, p), n_warp = warp_max(n);
        const bool full = warp_max(BLOCK - n) == 0; /* most are: nothing to leave out */
        const uint64_t from = g * a.n_pos + p;
        float4 s[PARTS][2];
        uint32_t u[PARTS][4];
        float m, l, scale;
        cp_wait<0>();
        sync_block(); /* the keys are there, and nobody reads values any more */
        fetch_values(a, g, p, seen_of_block(seen, p), w);
        cp_commit();
        if (full) {
            tile_scores(a, r, w, from, BLOCK, BLOCK, s);
        } else {
            tile_scores(a, r, w, from, n, n_warp, s);
        }
        sync_block();
        fetch_keys(a, g, p + BLOCK, seen_of_block(seen, p + BLOCK), w);
        cp_commit();
        if (full) {
            tile_weights(a.v_scale + from, BLOCK, s, u, &m, &l, &scale);
        } else {
            tile_weights(a.v_scale + from, n, s, u, &m, &l, &scale);
        }
        const bool begins = p % SPAN == 0;
        attn_factors f = {0.0f, 0.0f};
        if (begins) {
            r.m = m;
            r.l = l;
        } else if (n != 0) {
            f = merge_ml(&r.m, &r.l, m, l);
        }
        cp_wait<1>();
        sync_block();
        tile_values(w, u, n_warp, scale, n != 0, begins, f);
        const uint64_t span = p / SPAN * SPAN;
        if (p + BLOCK == span + SPAN || p + BLOCK >= seen) tile_span(a, &r, w, span);
    }
}

} // namespace fg_attn
