/* SPDX-License-Identifier: MIT
 *
 * Softmax attention of one sequence over its cache, as src/model/softmax.c has it: what its kernels
 * share.
 *
 * attn_store ropes and scales the queries, where they stand, and puts keys and values into the
 * cache; over an int8 cache a query row of d floats becomes its two planes of bytes, [d] high and
 * [d] low, and its scale.  Then a row is a token and a head, row R of a KV head is token R / group,
 * head R % group, and rows are independent.  Few rows are split: a block is 256 positions and 8
 * rows, partial results go to memory (attn_split_i8, or attn_rows_*) and attn_join merges them,
 * blocks within a span, then spans.  Many rows walk their positions in order (attn_tile_i8, or
 * attn_rows_* without memory for partial results).
 *
 * attn_split_i8 and attn_tile_i8 are for heads of 128: products of bytes on the tensor cores, S and
 * O exact.  The fragment of 16 rows is 8 rows' high bytes above their low bytes, so that a thread
 * has both sums of a row and column.  Positions and columns of a product are dealt to fragments so
 * that a thread's part of the cache is 16 bytes as it lies there: lane 4g + t has, of 32 positions,
 * group g % 2 of 16, quad g / 2, and gets the scores of positions 4t .. 4t+3 of both groups for row
 * g; these are just what it needs of the weights as the other product's fragment.
 */
#ifndef FG_SIMD_CUDA_ATTENTION_CUH
#define FG_SIMD_CUDA_ATTENTION_CUH

#include "simd/cuda/attn_sizes.h"
#include "simd/cuda/primitives.cuh"

namespace fg_attn
{

enum {
    BLOCK = FG_KV_BLOCK,
    SPAN = 4 * BLOCK,
    SPAN_BLOCKS = SPAN / BLOCK,
    WARPS = 8,
};

#define TOP_WEIGHT     32512.0f
#define NAN_BITS       0x7fc00000u
#define MINUS_INFINITY f_of(0xff800000u)

FG_DEV uint32_t abs_bits(float x)
{
    return bits_of(x) & 0x7fffffffu;
}
FG_DEV uint32_t max_u(uint32_t x, uint32_t y)
{
    return x > y ? x : y;
}
/* Of a row whose largest |x| has these bits, as quantize_i16: to multiply with (0: all zero), and
 * its scale. */
FG_DEV float inverse_of(uint32_t bits, float top)
{
    return bits < 0x07800000u || bits >= 0x7f800000u ? 0.0f : top / f_of(bits);
}
FG_DEV float scale_of(uint32_t bits, float top)
{
    return bits < 0x07800000u ? 0.0f : bits >= 0x7f800000u ? f_of(NAN_BITS) : f_of(bits) / top;
}
/* x rounded, in the lower 16 bits: those of the bias are zero. */
FG_DEV uint32_t rounded(float x)
{
    return bits_of(x + FG_ROUND_BIAS);
}
/* Byte 0 of four words, and their high bytes when the low ones are signed. */
FG_DEV uint32_t low_bytes(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return prmt(prmt(x, y, 0x0040u), prmt(z, w, 0x0040u), 0x5410u);
}
FG_DEV uint32_t high_bytes(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return prmt(prmt(x + 128, y + 128, 0x0051u), prmt(z + 128, w + 128, 0x0051u), 0x5410u);
}
/* high and low sums of a row and column */
FG_DEV float joined(int32_t high, int32_t low)
{
    return i2f((int32_t)(256u * (uint32_t)high + (uint32_t)low));
}

/* ---- rows ---- */

/* Row R of KV head g. */
struct attn_row {
    uint32_t token, head; /* of the call, of all */
    uint64_t seen;        /* positions; 0: no such row */
};
FG_DEV attn_row row_at(const fg_cuda_softmax &a, uint32_t g, uint32_t r)
{
    const uint32_t group = a.n_head / a.n_kv_head, token = r / group;
    if (token >= a.seq->n) return attn_row{0, 0, 0};
    return attn_row{token, g * group + r % group, a.seq->pos + token + 1};
}
/* What rows first .. first+n-1 see at most. */
FG_DEV uint64_t most_seen(const fg_cuda_softmax &a, uint32_t first, uint32_t n)
{
    const uint32_t all = a.seq->n * (a.n_head / a.n_kv_head);
    return first >= all ? 0 : row_at(a, 0, (all - first < n ? all : first + n) - 1).seen;
}
FG_DEV float *query_of(const fg_cuda_softmax &a, attn_row r)
{
    return a.qkv + (size_t)(a.seq->first + r.token) * a.qkv_stride + (size_t)r.head * a.d;
}
FG_DEV float *result_of(const fg_cuda_softmax &a, attn_row r)
{
    return a.u + (size_t)(a.seq->first + r.token) * a.u_stride + (size_t)r.head * a.d;
}
/* Partial results of a block of positions: (max, sum), and behind FG_ATTN_PARTIAL floats weighted
 * values [d]. */
FG_DEV float *partial_at(const fg_cuda_softmax &a, uint64_t block, attn_row r)
{
    return (float *)a.work +
           ((block * a.n_most + r.token) * a.n_head + r.head) * (a.d + FG_ATTN_PARTIAL);
}
/* Visible positions of the block at p. */
FG_DEV uint32_t seen_of_block(uint64_t seen, uint64_t p)
{
    return seen <= p ? 0 : seen - p < BLOCK ? (uint32_t)(seen - p) : (uint32_t)BLOCK;
}

/* What attn_merge does to a row: factors of what was and of what comes; (m, l) move on. */
struct attn_factors {
    float was, next;
};
FG_DEV attn_factors merge_ml(float *m, float *l, float m_next, float l_next)
{
    const float top = max_of(*m, m_next);
    const attn_factors f = {exp_f32(*m - top), exp_f32(m_next - top)};
    *l = fma_rn(l_next, f.next, *l * f.was);
    *m = top;
    return f;
}
FG_DEV float4 merge4(float4 o, float4 next, attn_factors f)
{
    return float4{fma_rn(next.x, f.next, o.x * f.was), fma_rn(next.y, f.next, o.y * f.was),
                  fma_rn(next.z, f.next, o.z * f.was), fma_rn(next.w, f.next, o.w * f.was)};
}

/* ---- heads of 128 over an int8 cache ---- */

enum { D = FG_ATTN_FAST_D, STEPS = D / 32 };

/* High and low words of row r as fragments over 128 elements; the row's scale. */
FG_DEV float load_query(const fg_cuda_softmax &a, attn_row r, uint32_t q[STEPS][4])
{
    const uint32_t t = threadIdx.x % 4;
    const uint32_t *p = (const uint32_t *)(const void *)query_of(a, r);
#pragma unroll
    for (uint32_t k = 0; k < STEPS; k++) {
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            q[k][i] = r.seen == 0 ? 0 : p[i % 2 * (D / 4) + 8 * k + i / 2 * 4 + t];
        }
    }
    return r.seen == 0 ? 0.0f : f_of(p[D / 2]);
}

/* Where this lane's 16 bytes are, of keys of 32 positions from p on and 16 elements from 16 e on;
 * of values of 16 positions from p on and 32 columns from 32 e on. */
FG_DEV const uint8_t *keys_at(const fg_cuda_softmax &a, uint32_t g, uint64_t p, uint32_t e)
{
    const uint32_t lane = threadIdx.x % 32, r = lane / 4;
    const size_t at = (size_t)(g * a.n_pos + p) * D + r % 2 * (16 * D);
    return (const uint8_t *)a.k_cache + at + (4 * e + lane % 4) * 64 + r / 2 * 16;
}
FG_DEV const uint8_t *values_at(const fg_cuda_softmax &a, uint32_t g, uint64_t p, uint32_t e)
{
    const uint32_t lane = threadIdx.x % 32, r = lane / 4;
    const size_t at = (size_t)(g * a.n_pos + p) * D + lane % 4 * (4 * D);
    return (const uint8_t *)a.v_cache + at + e * 128 + r * 16;
}

/* d[x] += q * b for the four positions (columns) of the lane. */
FG_DEV void multiply4(int32_t d[4][4], const uint32_t q[4], uint4 b0, uint4 b1)
{
    imma_add(d[0], q, b0.x, b1.x);
    imma_add(d[1], q, b0.y, b1.y);
    imma_add(d[2], q, b0.z, b1.z);
    imma_add(d[3], q, b0.w, b1.w);
}
/* Of the sums at i = 0 (group or quad of columns 2t) or 1 (2t + 1). */
FG_DEV float4 joined4(const int32_t d[4][4], uint32_t i)
{
    return float4{joined(d[0][i], d[0][2 + i]), joined(d[1][i], d[1][2 + i]),
                  joined(d[2][i], d[2][2 + i]), joined(d[3][i], d[3][2 + i])};
}
FG_DEV float4 scores4(float4 s, float4 k_scale, float q_scale, uint32_t at, uint32_t n)
{
    return float4{at < n ? (s.x * k_scale.x) * q_scale : MINUS_INFINITY,
                  at + 1 < n ? (s.y * k_scale.y) * q_scale : MINUS_INFINITY,
                  at + 2 < n ? (s.z * k_scale.z) * q_scale : MINUS_INFINITY,
                  at + 3 < n ? (s.w * k_scale.w) * q_scale : MINUS_INFINITY};
}
FG_DEV float4 times4(float4 x, float f)
{
    return float4{x.x * f, x.y * f, x.z * f, x.w * f};
}
FG_DEV float4 scales_at(const float *p, uint64_t at, bool there)
{
    return there ? load_f4(p + at) : float4{0.0f, 0.0f, 0.0f, 0.0f};
}

} // namespace fg_attn

#endif
