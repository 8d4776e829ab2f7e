/* SPDX-License-Identifier: MIT
 *
 * Lightning attention of one sequence, as src/model/lightning.c, light_out and light_fold have it.
 *
 * One row (light_one): a block is a head and 64 columns of its state, everything asked for from
 * memory at once; the columns' chains over the state and the keys' chains run side by side.  The
 * step that folds a chunk is one block a head: others would still read the old keys and values when
 * the new token's are stored.
 *
 * More rows: silu and the scores of all chunks at once (light_scores), then the chunks in order, a
 * block for each head and 32 columns of its state (light_walk), at last the keys and values that
 * the state keeps (light_keep), which until then is only read.
 */
#include "simd/cuda/attn_sizes.h"
#include "simd/cuda/primitives.cuh"

namespace fg_light
{

enum {
    CHUNK = FG_LIGHT_CHUNK,
    PIECE = 128, /* rows of the state, or elements of a key, at a time */
    WALK_COLS = FG_LIGHT_WALK_COLS,
    ONE_COLS = FG_LIGHT_ONE_COLS,
};

FG_DEV float4 zero4(void)
{
    return float4{0.0f, 0.0f, 0.0f, 0.0f};
}
FG_DEV float4 silu4(float4 x)
{
    return float4{silu_f32(x.x), silu_f32(x.y), silu_f32(x.z), silu_f32(x.w)};
}
FG_DEV float4 scale4(float c, float4 x)
{
    return float4{c * x.x, c * x.y, c * x.z, c * x.w};
}
/* acc = fma(c, x, acc) */
FG_DEV void add4(float acc[4], float c, float4 x)
{
    acc[0] = fma_rn(c, x.x, acc[0]);
    acc[1] = fma_rn(c, x.y, acc[1]);
    acc[2] = fma_rn(c, x.z, acc[2]);
    acc[3] = fma_rn(c, x.w, acc[3]);
}

/* Of the chunk number c of the call: tokens lo .. hi - 1 are rows of it, token i is row + i; those
 * before lo are in the state. */
struct light_chunk {
    uint32_t lo, hi;
    int64_t row;
};
FG_DEV light_chunk chunk_of(const fg_cuda_seq *s, uint32_t c)
{
    const uint32_t i0 = (uint32_t)(s->pos % CHUNK), begin = c * CHUNK, end = i0 + s->n;
    const uint32_t left = end > begin ? end - begin : 0;
    return light_chunk{c == 0 ? i0 : 0, left < CHUNK ? left : (uint32_t)CHUNK,
                       (int64_t)s->first + begin - i0};
}
FG_DEV bool is_there(light_chunk y)
{
    return y.lo < y.hi;
}
FG_DEV float *row_of(const fg_cuda_light &a, light_chunk y, uint32_t i, uint32_t h)
{
    return a.qkv + (y.row + i) * a.qkv_stride + (size_t)h * 3 * a.d;
}

/* ---- many rows ---- */

/* Elements c .. c+3 of a token's query and key, after silu, which q, k and v of the call's rows get
 * on the way. */
FG_DEV void query_and_key(const fg_cuda_light &a, light_chunk y, uint32_t h, uint32_t i, uint32_t c,
                          float4 *q, float4 *k)
{
    *q = *k = zero4();
    if (i >= y.hi) return;
    if (i < y.lo) {
        const float *kt = a.kt + ((size_t)h * a.d + c) * CHUNK + i;
        *k = float4{kt[0], kt[CHUNK], kt[2 * CHUNK], kt[3 * CHUNK]};
        return;
    }
    float *p = row_of(a, y, i, h) + c;
    *q = silu4(load_f4(p));
    *k = silu4(load_f4(p + a.d));
    store_f4(p, *q);
    store_f4(p + a.d, *k);
    store_f4(p + 2 * a.d, silu4(load_f4(p + 2 * a.d)));
}

FG_DEV void put_column(float *p, float4 x)
{
    p[0] = x.x;
    p[CHUNK] = x.y;
    p[2 * CHUNK] = x.z;
    p[3 * CHUNK] = x.w;
}

/* a_ij of a chunk and head, to work [head][chunk][j][i]: 0 where j > i.  A thread has 8 j and
 * 4 i. */
FG_KERNEL(light_scores, fg_cuda_light, 128, 3)
{
    FG_SHARED_MORE(float, qt); /* [c][i] */
    float *kt = qt + PIECE * CHUNK;
    const uint32_t tid = threadIdx.x, h = blockIdx.y, i4 = tid % 16 * 4, j8 = tid / 16 * 8;
    const light_chunk y = chunk_of(a.seq, blockIdx.x);
    if (!is_there(y)) return;
    float acc[8][4] = {};
    for (uint32_t c0 = 0; c0 < a.d; c0 += PIECE) {
        const uint32_t n = a.d - c0 < PIECE ? a.d - c0 : (uint32_t)PIECE;
        for (uint32_t k = tid; k < CHUNK * n / 4; k += 128) { /* two threads share 32 bytes */
            const uint32_t i = k / 2 % CHUNK, c = (k / 2 / CHUNK * 2 + k % 2) * 4;
            float4 q, key;
            query_and_key(a, y, h, i, c0 + c, &q, &key);
            put_column(qt + c * CHUNK + i, q);
            put_column(kt + c * CHUNK + i, key);
        }
        sync_block();
#pragma unroll 4
        for (uint32_t c = 0; c < n; c++) {
            const float4 q = load_f4(qt + c * CHUNK + i4), k0 = load_f4(kt + c * CHUNK + j8),
                         k1 = load_f4(kt + c * CHUNK + j8 + 4);
            add4(acc[0], k0.x, q);
            add4(acc[1], k0.y, q);
            add4(acc[2], k0.z, q);
            add4(acc[3], k0.w, q);
            add4(acc[4], k1.x, q);
            add4(acc[5], k1.y, q);
            add4(acc[6], k1.z, q);
            add4(acc[7], k1.w, q);
        }
        sync_block();
    }
    const float *decay = a.decay + (size_t)h * (CHUNK + 1);
    float *to = (float *)a.work + ((size_t)h * gridDim.x + blockIdx.x) * CHUNK * CHUNK + i4;
#pragma unroll
    for (uint32_t r = 0; r < 8; r++) {
        const uint32_t j = j8 + r;
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            acc[r][k] = i4 + k >= j ? decay[i4 + k - j] * acc[r][k] : 0.0f;
        }
        store_f4(to + j * CHUNK, float4{acc[r][0], acc[r][1], acc[r][2], acc[r][3]});
    }
}

/* What a block of light_walk has in shared memory. */
struct light_walk_work {
    float s[PIECE][WALK_COLS];
    float x[PIECE * CHUNK]; /* queries [c][i], or keys [j][c] */
    float at[CHUNK][CHUNK]; /* [j][i] */
    float v[2][CHUNK][WALK_COLS];
};

static_assert(sizeof(light_walk_work) == FG_LIGHT_WALK_SHARED, "");

/* Rows c0 .. c0+n-1 of the block's columns of S, from or to memory. */
FG_DEV void move_state(const fg_cuda_light &a, light_walk_work *w, uint32_t c0, uint32_t n, bool in)
{
    const uint32_t e0 = blockIdx.x * WALK_COLS;
    for (uint32_t k = threadIdx.x; k < n * (WALK_COLS / 4); k += 128) {
        const uint32_t c = k / (WALK_COLS / 4), e = k % (WALK_COLS / 4) * 4;
        if (e0 + e >= a.d) continue;
        float *p = a.s + ((size_t)blockIdx.y * a.d + c0 + c) * a.d + e0 + e;
        if (in) {
            store_f4(&w->s[c][e], load_f4(p));
        } else {
            store_f4(p, load_f4(&w->s[c][e]));
        }
    }
}

/* The block's columns of a chunk's values. */
FG_DEV void load_values(const fg_cuda_light &a, light_chunk y, float (*v)[WALK_COLS])
{
    const uint32_t e0 = blockIdx.x * WALK_COLS, h = blockIdx.y;
    for (uint32_t k = threadIdx.x; k < CHUNK * (WALK_COLS / 4); k += 128) {
        const uint32_t i = k / (WALK_COLS / 4), e = k % (WALK_COLS / 4) * 4;
        if (i >= y.hi || e0 + e >= a.d) continue;
        const float *p =
            i < y.lo ? a.v + ((size_t)h * CHUNK + i) * a.d : row_of(a, y, i, h) + 2 * (size_t)a.d;
        store_f4(&v[i][e], load_f4(p + e0 + e));
    }
}

/* Folds the chunk y, whose values are v, into rows c0 .. c0+n-1.  A thread has 8 rows and 4
 * columns. */
FG_DEV void fold(const fg_cuda_light &a, light_chunk y, light_walk_work *w,
                 const float (*v)[WALK_COLS], uint32_t c0, uint32_t n)
{
    const uint32_t tid = threadIdx.x, h = blockIdx.y, e = tid % 8 * 4, c = tid / 8 * 8;
    const float *decay = a.decay + (size_t)h * (CHUNK + 1);
    for (uint32_t k = tid; k < CHUNK * n / 4; k += 128) {
        const uint32_t j = k / (n / 4), at = k % (n / 4) * 4;
        if (j < y.lo) continue;
        const float4 key = load_f4(row_of(a, y, j, h) + a.d + c0 + at);
        store_f4(w->x + j * PIECE + at, scale4(decay[CHUNK - 1 - j], key));
    }
    for (uint32_t k = tid; k < n * y.lo; k += 128) {
        const uint32_t j = k % y.lo, at = k / y.lo;
        const float key = a.kt[((size_t)h * a.d + c0 + at) * CHUNK + j];
        w->x[j * PIECE + at] = decay[CHUNK - 1 - j] * key;
    }
    sync_block();
    if (c < n) {
        float acc[8][4];
#pragma unroll
        for (uint32_t r = 0; r < 8; r++) {
            for (uint32_t k = 0; k < 4; k++) acc[r][k] = decay[CHUNK] * w->s[c + r][e + k];
        }
#pragma unroll 4
        for (uint32_t j = 0; j < CHUNK; j++) {
            const float4 x = load_f4(&v[j][e]), k0 = load_f4(w->x + j * PIECE + c),
                         k1 = load_f4(w->x + j * PIECE + c + 4);
            add4(acc[0], k0.x, x);
            add4(acc[1], k0.y, x);
            add4(acc[2], k0.z, x);
            add4(acc[3], k0.w, x);
            add4(acc[4], k1.x, x);
            add4(acc[5], k1.y, x);
            add4(acc[6], k1.z, x);
            add4(acc[7], k1.w, x);
        }
#pragma unroll
        for (uint32_t r = 0; r < 8; r++) {
            store_f4(&w->s[c + r][e], float4{acc[r][0], acc[r][1], acc[r][2], acc[r][3]});
        }
    }
    sync_block();
}

/* acc[token][column] += q S of rows c0 .. c0+n-1, for tokens i .. i+3. */
FG_DEV void add_state(const fg_cuda_light &a, light_chunk y, light_walk_work *w, uint32_t c0,
                      uint32_t n, float acc[4][4])
{
    const uint32_t tid = threadIdx.x, e = tid % 8 * 4, i4 = tid / 8 * 4;
    for (uint32_t k = tid; k < CHUNK * n / 4; k += 128) {
        const uint32_t i = k / 2 % CHUNK, c = (k / 2 / CHUNK * 2 + k % 2) * 4;
        const bool there = i >= y.lo && i < y.hi;
        put_column(w->x + c * CHUNK + i,
                   there ? load_f4(row_of(a, y, i, blockIdx.y) + c0 + c) : zero4());
    }
    sync_block();
#pragma unroll 4
    for (uint32_t c = 0; c < n; c++) {
        const float4 q = load_f4(w->x + c * CHUNK + i4), s = load_f4(&w->s[c][e]);
        add4(acc[0], q.x, s);
        add4(acc[1], q.y, s);
        add4(acc[2], q.z, s);
        add4(acc[3], q.w, s);
    }
    sync_block();
}

/* Then the chunk's own values, and out.  Tokens of a thread differ in how many there are. */
FG_DEV void add_values(const fg_cuda_light &a, light_chunk y, const light_walk_work *w,
                       const float (*v)[WALK_COLS], float acc[4][4])
{
    const uint32_t tid = threadIdx.x, e = tid % 8 * 4, i4 = tid / 8 * 4, h = blockIdx.y;
    const uint32_t at = blockIdx.x * WALK_COLS + e;
    const float *decay = a.decay + (size_t)h * (CHUNK + 1);
    if (i4 >= y.hi || i4 + 3 < y.lo || at >= a.d) return;
#pragma unroll
    for (uint32_t t = 0; t < 4; t++) {
        for (uint32_t k = 0; k < 4; k++) acc[t][k] = decay[i4 + t + 1] * acc[t][k];
    }
#pragma unroll 4
    for (uint32_t j = 0; j <= i4; j++) {
        const float4 c = load_f4(&w->at[j][i4]), x = load_f4(&v[j][e]);
        add4(acc[0], c.x, x);
        add4(acc[1], c.y, x);
        add4(acc[2], c.z, x);
        add4(acc[3], c.w, x);
    }
#pragma unroll
    for (uint32_t t = 0; t < 4; t++) {
        const uint32_t i = i4 + t;
        if (i < y.lo || i >= y.hi) continue;
        for (uint32_t j = i4 + 1; j <= i; j++) add4(acc[t], w->at[j][i], load_f4(&v[j][e]));
        store_f4(a.u + (y.row + i) * a.u_stride + (size_t)h * a.d + at,
                 float4{acc[t][0], acc[t][1], acc[t][2], acc[t][3]});
    }
}

/* A state of one piece stays in shared memory from chunk to chunk, a larger one comes and goes. */
FG_KERNEL(light_walk, fg_cuda_light, 128, 2)
{
    FG_SHARED_MORE(light_walk_work, w);
    const uint32_t n_chunk = (a.n_most + 2 * CHUNK - 2) / CHUNK;
    const float *scores = (const float *)a.work + (size_t)blockIdx.y * n_chunk * CHUNK * CHUNK;
    const bool stays = a.d <= PIECE;
    bool folds = a.seq->pos == a.seq->folded + CHUNK, folded = false;
    light_chunk last = {CHUNK, CHUNK, 0}; /* all of it in the state */
    uint32_t turn = 0;
    if (folds) load_values(a, last, w->v[1]);
    for (uint32_t k = 0;; k++, turn ^= 1) {
        const light_chunk y = chunk_of(a.seq, k);
        if (!is_there(y)) break;
        load_values(a, y, w->v[turn]);
        for (uint32_t i = threadIdx.x; i < CHUNK * CHUNK / 4; i += 128) {
            store_f4(&w->at[0][0] + 4 * i, load_f4(scores + (size_t)k * CHUNK * CHUNK + 4 * i));
        }
        float acc[4][4] = {};
        for (uint32_t c0 = 0; c0 < a.d; c0 += PIECE) {
            const uint32_t n = a.d - c0 < PIECE ? a.d - c0 : (uint32_t)PIECE;
            if (!stays || k == 0) move_state(a, w, c0, n, true);
            if (folds) {
                fold(a, last, w, w->v[turn ^ 1], c0, n);
                if (!stays) move_state(a, w, c0, n, false);
                folded = true;
            }
            add_state(a, y, w, c0, n, acc);
        }
        add_values(a, y, w, w->v[turn], acc);
        sync_block();
        last = y;
        folds = true;
    }
    if (stays && folded) move_state(a, w, 0, a.d, false);
}

/* Slot i of the state's keys and values: that of the last token with this number in its chunk. */
FG_KERNEL(light_keep, fg_cuda_light, 256, 1)
{
    const uint32_t h = blockIdx.x, n = a.seq->n;
    const uint64_t end = a.seq->pos + n;
    for (uint32_t k = threadIdx.x; k < CHUNK * a.d; k += 256) {
        const uint32_t i = k % CHUNK, c = k / CHUNK,
                       back = (uint32_t)((end + CHUNK - 1 - i) % CHUNK);
        if (back >= n) continue;
        const float *p = a.qkv + (size_t)(a.seq->first + n - 1 - back) * a.qkv_stride;
        a.kt[((size_t)h * a.d + c) * CHUNK + i] = p[(size_t)h * 3 * a.d + a.d + c];
    }
    for (uint32_t k = threadIdx.x; k < CHUNK * a.d; k += 256) {
        const uint32_t i = k / a.d, c = k % a.d, back = (uint32_t)((end + CHUNK - 1 - i) % CHUNK);
        if (back >= n) continue;
        const float *p = a.qkv + (size_t)(a.seq->first + n - 1 - back) * a.qkv_stride;
        a.v[((size_t)h * CHUNK + i) * a.d + c] = p[(size_t)h * 3 * a.d + 2 * a.d + c];
    }
}

/* ---- one row ---- */

struct light_one_work {
    float s[PIECE][ONE_COLS];
    float kt[PIECE][CHUNK];
    float v[CHUNK][ONE_COLS];
    float a[CHUNK];
    float qk[]; /* query, key: [d] each */
};

static_assert(sizeof(light_one_work) == FG_LIGHT_ONE_SHARED, "");

/* Rows of n floats (rounded up to 4), `stride` apart in memory, ONE_COLS in shared memory. */
FG_DEV void fetch_rows(float *to, const float *from, size_t stride, uint32_t rows, uint32_t n)
{
    const uint32_t quads = (n + 3) / 4;
    for (uint32_t k = threadIdx.x; k < rows * quads; k += 256) {
        const uint32_t r = k / quads, at = k % quads * 4;
        cp16(to + r * ONE_COLS + at, from + r * stride + at);
    }
}

/* The chunk in w->kt and w->v into n rows of w->s, which go to memory as well.  A thread has 8 rows
 * and 4 columns. */
FG_DEV void fold_one(light_one_work *w, const float *decay, uint32_t n, uint32_t cols, float *s,
                     size_t stride)
{
    const uint32_t e = threadIdx.x % 16 * 4, c = threadIdx.x / 16 * 8;
    if (c >= n || e >= cols) return;
    float acc[8][4];
#pragma unroll
    for (uint32_t r = 0; r < 8; r++) {
        for (uint32_t k = 0; k < 4; k++) acc[r][k] = decay[CHUNK] * w->s[c + r][e + k];
    }
#pragma unroll 2
    for (uint32_t j = 0; j < CHUNK; j++) {
        const float f = decay[CHUNK - 1 - j];
        const float4 x = load_f4(&w->v[j][e]);
#pragma unroll
        for (uint32_t r = 0; r < 8; r++) add4(acc[r], f * w->kt[c + r][j], x);
    }
#pragma unroll
    for (uint32_t r = 0; r < 8; r++) {
        const float4 x = {acc[r][0], acc[r][1], acc[r][2], acc[r][3]};
        store_f4(&w->s[c + r][e], x);
        store_f4(s + (c + r) * stride + e, x);
    }
}

/* acc = chain over n of x[c] * y[c * stride] */
FG_DEV float chain(const float *x, const float *y, uint32_t stride, uint32_t n, float acc)
{
#pragma unroll 8
    for (uint32_t c = 0; c < n; c += 4) {
        const float4 f = load_f4(x + c);
        acc = fma_rn(f.x, y[c * stride], acc);
        acc = fma_rn(f.y, y[(c + 1) * stride], acc);
        acc = fma_rn(f.z, y[(c + 2) * stride], acc);
        acc = fma_rn(f.w, y[(c + 3) * stride], acc);
    }
    return acc;
}

/* Columns e0 .. e0+cols-1.  Threads 0 to 63 have a column, 64 to 127 an earlier token's key, 128
 * the token's own. */
FG_DEV void one_part(const fg_cuda_light &a, light_one_work *w, const float *p, uint32_t e0,
                     uint32_t i, bool folds, bool begins)
{
    const uint32_t tid = threadIdx.x, h = blockIdx.y, d = a.d;
    const uint32_t cols = d - e0 < ONE_COLS ? d - e0 : (uint32_t)ONE_COLS;
    const uint32_t old = folds ? (uint32_t)CHUNK : i, j = tid - 64;
    const float *decay = a.decay + (size_t)h * (CHUNK + 1);
    float *values = a.v + (size_t)h * CHUNK * d + e0;
    fetch_rows(w->v[0], values, d, old, cols);
    const bool scores = tid >= 64 && tid < 128 && j < i;
    const float f = decay[tid < 64 ? i + 1 : scores ? i - j : 0];
    float acc = 0.0f;
    for (uint32_t c0 = 0; c0 < d; c0 += PIECE) {
        const uint32_t n = d - c0 < PIECE ? d - c0 : (uint32_t)PIECE;
        float *s = a.s + ((size_t)h * d + c0) * d + e0;
        fetch_rows(w->s[0], s, d, n, cols);
        fetch_rows(w->kt[0], a.kt + ((size_t)h * d + c0) * CHUNK, CHUNK, n, old);
        cp_commit();
        if (begins && c0 == 0) { /* the state is on its way, which nobody in front writes */
            wait_for_earlier();
            for (uint32_t c = tid; c < 2 * d; c += 256) w->qk[c] = silu_f32(p[c]);
        }
        cp_wait<0>();
        sync_block();
        if (folds) {
            fold_one(w, decay, n, cols, s, d);
            sync_block();
        }
        if (tid < cols) acc = chain(w->qk + c0, &w->s[0][tid], ONE_COLS, n, acc);
        if (scores) acc = chain(w->qk + c0, &w->kt[0][j], CHUNK, n, acc);
        if (tid == 128) acc = chain(w->qk + c0, w->qk + d + c0, 1, n, acc);
        sync_block();
    }
    if (scores) w->a[j] = f * acc;
    if (tid == 128) w->a[i] = f * acc;
    sync_block();
    if (tid < cols) {
        const float value = silu_f32(p[2 * d + e0 + tid]);
        acc = f * acc;
#pragma unroll 8
        for (uint32_t t = 0; t < i; t++) acc = fma_rn(w->a[t], w->v[t][tid], acc);
        acc = fma_rn(w->a[i], value, acc);
        a.u[a.seq->first * (size_t)a.u_stride + (size_t)h * d + e0 + tid] = acc;
        values[(size_t)i * d + tid] = value;
    }
    sync_block();
}

FG_KERNEL(light_one, fg_cuda_light, 256, 2)
{
    FG_SHARED_MORE(light_one_work, w);
    const uint32_t tid = threadIdx.x, h = blockIdx.y, d = a.d, parts = gridDim.x;
    const uint32_t i = (uint32_t)(a.seq->pos % CHUNK);
    const bool folds = a.seq->pos == a.seq->folded + CHUNK;
    let_later_begin();
    if (a.seq->n == 0 || (folds && blockIdx.x != 0)) {
        wait_for_earlier();
        return;
    }
    const float *p = a.qkv + a.seq->first * (size_t)a.qkv_stride + (size_t)h * 3 * d;
    for (uint32_t k = blockIdx.x; k < (folds ? parts : blockIdx.x + 1); k++) {
        one_part(a, w, p, k * ONE_COLS, i, folds, k == blockIdx.x);
    }
    if (blockIdx.x != 0) return;
    for (uint32_t c = tid; c < d; c += 256) a.kt[((size_t)h * d + c) * CHUNK + i] = w->qk[d + c];
}

} // namespace fg_light
