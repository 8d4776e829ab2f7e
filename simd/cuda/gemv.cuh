/* SPDX-License-Identifier: MIT
 *
 * One row of activations times panels of codes.  A block takes panels first, first + step, ..;
 * their superblocks, one behind the other, go to its warps in turn, each of which has D of its own
 * on their way from memory into a ring in shared memory, from panel to panel without a break: that
 * is what keeps the memory busy.  Those copies need nothing of other kernels, so a launch may begin
 * before the one in front of it is done (fg_cuda_launch.early), and waits for it with its rings
 * full or on their way.
 * Products are those of tensor units, of whose eight columns four count: column n of the second
 * factor is group n, so that of the products with the four groups of a superblock each gives one
 * column of sums that group scales can be multiplied onto.  Integer sums are exact, so any order
 * will do; as floats they meet in shared memory, and after a round of panels half a warp a panel
 * runs the chain over them, in order.
 */
#ifndef FG_SIMD_CUDA_GEMV_CUH
#define FG_SIMD_CUDA_GEMV_CUH

#include "simd/cuda/panel_codes.cuh"

template <int K> FG_DEV constexpr bool has_offset(void)
{
    return K == FG_KIND_Q4LIN || K == FG_KIND_Q5 || K == FG_KIND_Q6;
}

/* The two words of activations of group n that lane t of a quad has; those of a table in the order
 * of look_up. */
template <int K> FG_DEV uint2 act_words(const fg_act128 *x, uint32_t n, uint32_t t)
{
    const uint32_t *q = (const uint32_t *)(const void *)x->q + 8 * n;
    const uint2 v = {q[t], q[4 + t]};
    if (K != FG_KIND_Q4) return v;
    return {prmt(v.x, v.y, 0x5140), prmt(v.x, v.y, 0x7362)};
}

/* The fragment of group g, codes as they are stored. */
template <int K>
FG_DEV void gemv_decode(uint32_t out[4], const lane_sb<K> &f, int g, const uint4 &table)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if constexpr (K == FG_KIND_Q8) {
            out[r] = word(f.w[2 * g], r);
            out[2 + r] = word(f.w[2 * g + 1], r);
        } else if constexpr (K == FG_KIND_Q4) {
            look_up(word(f.w[g], r), table, out[r], out[2 + r]);
        } else {
            const uint32_t t0 = K == FG_KIND_Q6   ? word(f.t[2 * g], r)
                                : K == FG_KIND_Q5 ? word(f.t[g], r)
                                                  : 0;
            const uint32_t t1 = K == FG_KIND_Q6 ? word(f.t[2 * g + 1], r) : 0;
            codes<K>(word(f.w[g], r), t0, t1, threadIdx.x & 3, out[r], out[2 + r]);
        }
    }
}

/* Sums of rows 2g and 2g + 1 over a superblock, the same in all lanes of a quad.  x: its words of
 * activations; shift: what codes count less than they say, times the sums of groups. */
template <int K>
FG_DEV void gemv_sums(int32_t sum[2], const lane_sb<K> &f, const uint2 *x, const uint2 *shift,
                      const uint4 &table)
{
    const uint32_t lane = threadIdx.x & 31, t = lane & 3;
    const bool odd = (t & 1) != 0; /* this lane has the columns of groups 2 and 3, else 0 and 1 */
    const uint2 b = x[4 * ((lane >> 2) & 3) + t];
    uint2 c = {0, 0};
    if (has_offset<K>()) c = shift[t & 1];
    int32_t d[4][4];
#pragma unroll
    for (int g = 0; g < 4; g++) {
        uint32_t w[4];
        gemv_decode<K>(w, f, g, table);
        if (has_offset<K>()) {
            imma_codes(d[g], w, b.x, b.y, (int32_t)c.x, (int32_t)c.y);
        } else {
            imma(d[g], w, b.x, b.y);
        }
    }
    const uint32_t s0 = f.s.x >> (odd ? 16 : 0), s1 = f.s.y >> (odd ? 16 : 0);
    sum[0] =
        (odd ? d[2][0] : d[0][0]) * byte_of(s0, 0) + (odd ? d[3][1] : d[1][1]) * byte_of(s0, 1);
    sum[1] =
        (odd ? d[2][2] : d[0][2]) * byte_of(s1, 0) + (odd ? d[3][3] : d[1][3]) * byte_of(s1, 1);
    sum[0] += (int32_t)shfl_xor((uint32_t)sum[0], 1);
    sum[1] += (int32_t)shfl_xor((uint32_t)sum[1], 1);
}

/* Where a warp is in the block's superblocks: panel j of the block, superblock sb of the piece. */
struct gemv_place {
    uint32_t j, sb;
};
FG_DEV void settle(gemv_place &at, uint32_t n)
{
    while (at.sb >= n) {
        at.sb -= n;
        at.j++;
    }
}

/* What all warps of the block share. */
struct gemv_work {
    const fg_card_matrix *m;
    uint32_t first, step, n_own; /* panels of the block */
    uint32_t sb0, n, n_sb;       /* superblocks sb0 .. sb0 + n - 1 of n_sb */
    fg_card_split split;
    uint4 table;
    uint8_t *ring; /* [warp][D] superblocks */
    uint2 *x;      /* [n][16] */
    uint2 *shift;  /* [n][2] */
    float *part;   /* [split.turns][split.round][split.piece][16] */
    float *d;      /* [n] */
};

template <int K> FG_DEV const uint8_t *place_of(const gemv_work &w, gemv_place at)
{
    uint32_t p = w.first + at.j * w.step;
    const fg_card_matrix *m = find_panel(w.m, &p);
    return m->panels + p * m->panel_stride + (uint64_t)(w.sb0 + at.sb) * sb_bytes<K>();
}

/* The piece's activations come to shared memory: all loads are on their way before the first is
 * stored, since nothing else is to be done meanwhile. */
template <int K> FG_DEV void gemv_fill(const gemv_work &w, const fg_act128 *act)
{
    enum { EACH = 2 }; /* as many as a thread of the usual block has */
    const uint32_t id = threadIdx.x, n_thread = blockDim.x, n_word = 16 * w.n;
    float d = 0.0f;
    uint2 s = {0, 0};
    if (id < w.n) { /* a block has more threads than a piece superblocks */
        const uint32_t *b = (const uint32_t *)(const void *)&act[w.sb0 + id];
        d = f_of(b[0]);
        if (has_offset<K>()) s = {b[1], b[2]};
    }
    for (uint32_t i0 = id; i0 < n_word; i0 += EACH * n_thread) {
        uint2 v[EACH];
#pragma unroll
        for (uint32_t k = 0; k < EACH; k++) {
            const uint32_t i = i0 + k * n_thread;
            if (i < n_word) v[k] = act_words<K>(act + w.sb0 + i / 16, i / 4 % 4, i % 4);
        }
#pragma unroll
        for (uint32_t k = 0; k < EACH; k++) {
            if (i0 + k * n_thread < n_word) w.x[i0 + k * n_thread] = v[k];
        }
    }
    if (id < w.n) {
        w.d[id] = d;
        if (has_offset<K>()) { /* sums are int16, two in a word */
            const int32_t of = byte_of(lowest<K>(), 0);
            const int32_t s0 = (int16_t)s.x, s1 = (int32_t)s.x >> 16;
            const int32_t s2 = (int16_t)s.y, s3 = (int32_t)s.y >> 16;
            w.shift[2 * id] = {(uint32_t)(of * s0), (uint32_t)(of * s1)};
            w.shift[2 * id + 1] = {(uint32_t)(of * s2), (uint32_t)(of * s3)};
        }
    }
    sync_block();
}

/* The scale of row r of panel j, asked for before the chain that it is multiplied onto. */
FG_DEV float row_scale(const gemv_work &w, uint32_t j, uint32_t r)
{
    uint32_t p = w.first + j * w.step;
    const fg_card_matrix *m = find_panel(w.m, &p);
    return f_of(ld4(m->scales + 16 * p + r));
}

/* The chain over the superblocks of panel j, row r of it. */
FG_DEV void gemv_chain(const gemv_work &w, uint32_t j, uint32_t r, const float *part, float scale)
{
    uint32_t p = w.first + j * w.step;
    const fg_card_matrix *m = find_panel(w.m, &p);
    float *y = m->y + 16 * p + r, acc = w.sb0 == 0 ? 0.0f : *y;
#pragma unroll 8
    for (uint32_t sb = 0; sb < w.n; sb++) {
        const uint32_t at = FG_ORDER(sb, w.n);
        acc = fma_rn(part[16 * at + r], w.d[at], acc);
    }
    *y = w.sb0 + w.n == w.n_sb ? acc * scale : acc;
}

/* A round of panels, j0 .. j0 + n - 1 of the block: its sums, and then its chains. */
struct gemv_round {
    uint32_t j0, n, turn;
};
FG_DEV float *parts_of(const gemv_work &w, const gemv_round &o)
{
    return w.part + o.turn * w.split.round * w.split.piece * 16;
}
FG_DEV void end_round(const gemv_work &w, gemv_round &o)
{
    const uint32_t n_half = blockDim.x / 16, r = threadIdx.x % 16, end = o.j0 + o.n;
    /* half warps in turn, so that none has all the chains */
    uint32_t j = o.j0 + (threadIdx.x / 16 + n_half - o.j0 % n_half) % n_half;
    float scale = j < end ? row_scale(w, j, r) : 0.0f;
    sync_block();
    while (j < end) {
        gemv_chain(w, j, r, parts_of(w, o) + (j - o.j0) * w.split.piece * 16, scale);
        j += n_half;
        if (j < end) scale = row_scale(w, j, r);
    }
    o.turn = o.turn + 1 == w.split.turns ? 0 : o.turn + 1;
    o.j0 = end;
    o.n = w.n_own - end < w.split.round ? w.n_own - end : w.split.round;
}

/* The warp's next superblock, if there is one, into its place of the ring; a group either way. */
template <int K> FG_DEV void fetch_sb(const gemv_work &w, gemv_place &ahead, uint8_t *to)
{
    if (ahead.j < w.n_own) {
        const uint8_t *from = place_of<K>(w, ahead);
#pragma unroll
        for (uint32_t i = 0; i < sb_bytes<K>(); i += 512) {
            const uint32_t at = i + 16 * (threadIdx.x & 31);
            if (i + 512 <= sb_bytes<K>() || at < sb_bytes<K>()) cp16(to + at, from + at);
        }
    }
    cp_commit();
    ahead.sb += blockDim.x / 32;
    settle(ahead, w.n);
}

template <int K, int D> FG_DEV void gemv_piece(const gemv_work &w, const fg_act128 *act)
{
    const uint32_t n_warp = blockDim.x / 32, lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    uint8_t *const ring = w.ring + warp * D * sb_bytes<K>();
    gemv_place at = {0, warp};
    settle(at, w.n);
    gemv_place ahead = at;
    for (uint32_t s = 0; s < D; s++) fetch_sb<K>(w, ahead, ring + s * sb_bytes<K>());
    if (w.sb0 == 0) wait_for_earlier();
    gemv_fill<K>(w, act);
    gemv_round o = {0, w.n_own < w.split.round ? w.n_own : w.split.round, 0};
    uint32_t s = 0;
    while (at.j < w.n_own) {
        while (at.j >= o.j0 + o.n) end_round(w, o);
        cp_wait<D - 1>();
        sync_warp(); /* the copies of all lanes are there */
        lane_sb<K> f;
        load_sb<K, true>(f, ring + s * sb_bytes<K>());
        sync_warp(); /* and read */
        fetch_sb<K>(w, ahead, ring + s * sb_bytes<K>());
        s = s + 1 == D ? 0 : s + 1;
        int32_t sum[2];
        gemv_sums<K>(sum, f, w.x + 16 * at.sb, w.shift + 2 * at.sb, w.table);
        if ((lane & 3) == 0) {
            float2 v;
            v.x = i2f(sum[0]);
            v.y = i2f(sum[1]);
            float *to = parts_of(w, o) + ((at.j - o.j0) * w.split.piece + at.sb) * 16;
            *(float2 *)(void *)(to + lane / 2) = v;
        }
        at.sb += n_warp;
        settle(at, w.n);
    }
    while (o.n > 0) end_round(w, o);
    sync_block(); /* before anything of this is used again */
}

/* Panels first, first + step, .. below n_panel of the matrices m, times x.  shared: as gemv_shared
 * of ops_panels.c counts it. */
template <int K, int D>
FG_DEV void gemv(const fg_card_matrix *m, uint32_t first, uint32_t step, uint32_t n_panel,
                 uint32_t n_sb, fg_card_split split, const uint8_t *lut, const fg_act128 *act,
                 uint8_t *shared)
{
    gemv_work w = {};
    w.ring = shared;
    w.m = m;
    w.first = first;
    w.step = step;
    w.n_own = first < n_panel ? (n_panel - first + step - 1) / step : 0;
    w.n_sb = n_sb;
    w.split = split;
    memcpy(&w.table, lut, sizeof w.table);
    w.x = (uint2 *)(void *)(shared + blockDim.x / 32 * D * sb_bytes<K>());
    w.shift = w.x + 16 * split.piece;
    w.part = (float *)(void *)(w.shift + 2 * split.piece);
    w.d = w.part + split.turns * split.round * split.piece * 16;
    for (w.sb0 = 0; w.sb0 < n_sb; w.sb0 += split.piece) {
        w.n = n_sb - w.sb0 < split.piece ? n_sb - w.sb0 : split.piece;
        gemv_piece<K, D>(w, act);
    }
}

#endif
