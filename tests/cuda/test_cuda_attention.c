/* SPDX-License-Identifier: MIT
 *
 * Softmax attention on the emulated card against the scalar kernels, driven as src/model/softmax.c
 * drives them: results and the cache's bytes, for any split into calls.
 */
#include "src/base/fp.h"
#include "src/model/state.h"
#include "tests/cuda/cuda_check.h"

_Static_assert((int)FG_CUDA_KV_F32 == (int)FG_KV_F32 && (int)FG_CUDA_KV_F16 == (int)FG_KV_F16 &&
                   (int)FG_CUDA_KV_INT8 == (int)FG_KV_INT8 && FG_ATTN_SPAN == 1024,
               "attention.cuh has them too");

enum { MARK = 0x7f };

typedef struct shape {
    fg_kv_type kv;
    uint32_t n_head, n_kv_head, d, half;
} shape;

/* A cache, rows, and what comes of them.  Buffers end at unreadable pages. */
typedef struct attention {
    shape s;
    uint32_t n_row, stride, u_stride;
    uint64_t pos, n_pos;
    guarded k, v, k_scale, v_scale, qkv, cos, sin, u;
} attention;

static float *floats(const guarded *g)
{
    return (float *)(void *)g->p;
}

static size_t cache_bytes(const attention *y)
{
    return (size_t)(y->s.n_kv_head * y->n_pos * y->s.d * fg_kv_bytes(y->s.kv));
}

static void fill_cache(fg_rng *r, const shape *s, uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) p[i] = (uint8_t)fg_rng_u64(r);
    if (s->kv == FG_KV_F32) fill_floats(r, IN_NORMAL, (float *)(void *)p, bytes / 4);
    for (size_t i = 0; s->kv == FG_KV_F16 && i < bytes / 2; i++) {
        ((uint16_t *)(void *)p)[i] = fg_f32_to_f16((float)normal_of(r) * 0.3f);
    }
}

/* Positions from pos on hold what was there before, NaNs among it. */
static attention attention_new(fg_rng *r, shape s, uint64_t pos, uint32_t n_row)
{
    attention y = {.s = s,
                   .n_row = n_row,
                   .stride = ((s.n_head + 2 * s.n_kv_head) * s.d + 127) / 128 * 128,
                   .u_stride = (s.n_head * s.d + 127) / 128 * 128,
                   .pos = pos,
                   .n_pos = (pos + n_row + 63) / 64 * 64};
    const size_t rows = (size_t)(s.n_kv_head * y.n_pos);
    y.k = guard_alloc(cache_bytes(&y));
    y.v = guard_alloc(cache_bytes(&y));
    y.k_scale = guard_alloc(4 * rows);
    y.v_scale = guard_alloc(4 * rows);
    y.qkv = guard_alloc(4 * (size_t)n_row * y.stride);
    y.cos = guard_alloc(4 * (size_t)n_row * s.half);
    y.sin = guard_alloc(4 * (size_t)n_row * s.half);
    y.u = guard_alloc(4 * (size_t)n_row * y.u_stride);
    fill_cache(r, &s, y.k.p, cache_bytes(&y));
    fill_cache(r, &s, y.v.p, cache_bytes(&y));
    for (size_t i = 0; i < rows; i++) {
        const bool there = i % y.n_pos < pos;
        floats(&y.k_scale)[i] = there ? (float)(0.002 + 0.03 * fg_rng_f64(r)) : NAN;
        floats(&y.v_scale)[i] = there ? (float)(0.002 + 0.03 * fg_rng_f64(r)) : INFINITY;
    }
    fill_floats(r, IN_NORMAL, floats(&y.qkv), (size_t)n_row * y.stride);
    for (size_t i = 0; i < (size_t)n_row * s.half; i++) {
        floats(&y.cos)[i] = (float)cos((double)i);
        floats(&y.sin)[i] = (float)sin((double)i);
    }
    memset(y.u.p, MARK, 4 * (size_t)n_row * y.u_stride);
    return y;
}

static attention attention_copy(const attention *from)
{
    fg_rng r;
    fg_rng_init(&r, 1);
    attention y = attention_new(&r, from->s, from->pos, from->n_row);
    const size_t scales = 4 * (size_t)(y.s.n_kv_head * y.n_pos),
                 cos = 4 * y.n_row * (size_t)y.s.half;
    memcpy(y.k.p, from->k.p, cache_bytes(&y));
    memcpy(y.v.p, from->v.p, cache_bytes(&y));
    memcpy(y.k_scale.p, from->k_scale.p, scales);
    memcpy(y.v_scale.p, from->v_scale.p, scales);
    memcpy(y.qkv.p, from->qkv.p, 4 * (size_t)y.n_row * y.stride);
    memcpy(y.cos.p, from->cos.p, cos);
    memcpy(y.sin.p, from->sin.p, cos);
    return y;
}

static void attention_free(attention *y)
{
    guarded *all[] = {&y->k, &y->v, &y->k_scale, &y->v_scale, &y->qkv, &y->cos, &y->sin, &y->u};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) guard_free(all[i]);
}

/* ---- the reference ---- */

typedef enum fault { NONE, SPLIT_SUM, ONE_SPAN, FEWER_BITS, NO_ROPE } fault;

static float quantize_row(const float *x, size_t d, uint8_t *q, bool key)
{
    uint32_t max = 0;
    for (size_t i = 0; i < d; i++) {
        const uint32_t u = fg_f32_bits(x[i]) & 0x7fffffffu;
        if (u > max) max = u;
    }
    const float amax = fg_f32_from_bits(max), inverse = 127.0f / amax;
    const bool finite = max < 0x7f800000u, some = max != 0 && isfinite(inverse);
    for (size_t i = 0; i < d; i++) {
        const uint64_t at = key ? fg_state_key_at(FG_KV_INT8, i) : fg_state_value_at(FG_KV_INT8, i);
        q[at] = finite && some ? (uint8_t)(int8_t)lrintf(x[i] * inverse) : 0;
    }
    return !finite ? (float)NAN : some ? amax / 127.0f : 0.0f;
}

/* KV head g from position p on, as fg_state_rows has it for one node. */
static fg_state_cache rows_at(const attention *y, uint64_t g, uint64_t p)
{
    const uint64_t row = g * y->n_pos + p, d = y->s.d, size = fg_kv_bytes(y->s.kv);
    const bool i8 = y->s.kv == FG_KV_INT8;
    const uint64_t key = row / 16 * 16 * d + row % 16 * (i8 ? 4 : 1);
    const uint64_t value = i8 ? row / 4 * 4 * d + row % 4 : row * d;
    return (fg_state_cache){y->k.p + key * size, y->v.p + value * size, floats(&y->k_scale) + row,
                            floats(&y->v_scale) + row};
}

static void store(const attention *y, const fg_kernels *k, uint32_t t, uint64_t g, fault f)
{
    const size_t d = y->s.d, half = y->s.half, group = y->s.n_head / y->s.n_kv_head;
    const fg_state_cache to = rows_at(y, g, y->pos + t);
    float *row = floats(&y->qkv) + (size_t)t * y->stride, *q = row + g * group * d;
    float *key = row + (y->s.n_head + g) * d, *val = row + (y->s.n_head + y->s.n_kv_head + g) * d;
    const float *cos_t = floats(&y->cos) + t * half, *sin_t = floats(&y->sin) + t * half;
    const float scale = 1.0f / sqrtf((float)d);
    for (size_t h = 0; h < group && f != NO_ROPE; h++) k->rope(q + h * d, cos_t, sin_t, half);
    for (size_t i = 0; i < group * d; i++) q[i] *= scale;
    k->rope(key, cos_t, sin_t, half);
    switch (y->s.kv) {
    case FG_KV_INT8:
        *to.k_scale = quantize_row(key, d, to.k, true);
        *to.v_scale = quantize_row(val, d, to.v, false);
        break;
    case FG_KV_F16:
        for (size_t i = 0; i < d; i++) {
            ((uint16_t *)to.k)[i * 16] = fg_f32_to_f16(key[i]);
            ((uint16_t *)to.v)[i] = fg_f32_to_f16(val[i]);
        }
        break;
    case FG_KV_F32:
        for (size_t i = 0; i < d; i++) ((float *)to.k)[i * 16] = key[i];
        memcpy(to.v, val, d * sizeof(float));
        break;
    }
}

/* One block of one row: head h of KV head g. */
static void block(const attention *y, const fg_kernels *k, const float *q, uint64_t g, uint64_t p,
                  uint64_t seen, float *ml, float *o, fault f)
{
    const fg_state_cache c = rows_at(y, g, p);
    const uint16_t n = (uint16_t)(seen - p < FG_KV_BLOCK ? seen - p : FG_KV_BLOCK);
    const size_t d = y->s.d;
    if (y->s.kv == FG_KV_INT8) {
        int16_t q16[FG_CUDA_MAX_HEAD];
        const float scale = k->quantize_i16(q, d, q16);
        for (size_t i = 0; f == FEWER_BITS && i < d; i++) q16[i] = (int16_t)(q16[i] / 2 * 2);
        k->attn_i8(q16, &scale, &n, 1, d, c.k, c.k_scale, c.v, c.v_scale, ml, o, NULL);
    } else if (y->s.kv == FG_KV_F16) {
        k->attn_f16(q, 1, d, n, c.k, c.v, ml, o);
    } else {
        k->attn_f32(q, 1, d, n, c.k, c.v, ml, o);
    }
    if (f == SPLIT_SUM && n > 200) { /* as if two warps had each a half of the weights' sum */
        float half[2][2], unused[FG_CUDA_MAX_HEAD];
        const fg_state_cache up = rows_at(y, g, p + 128);
        if (y->s.kv != FG_KV_F32) return;
        k->attn_f32(q, 1, d, 128, c.k, c.v, half[0], unused);
        k->attn_f32(q, 1, d, n - 128u, up.k, up.v, half[1], unused);
        ml[1] = half[0][1] * expf(half[0][0] - ml[0]) + half[1][1] * expf(half[1][0] - ml[0]);
    }
}

static void attend(const attention *y, const fg_kernels *k, uint32_t t, uint64_t h, fault f)
{
    enum { N = FG_CUDA_MAX_HEAD };
    _Alignas(64) float q[N], ml[3][2], all[N], span[N], one[N];
    const size_t d = y->s.d;
    const uint64_t g = h / (y->s.n_head / y->s.n_kv_head), seen = y->pos + t + 1;
    memcpy(q, floats(&y->qkv) + (size_t)t * y->stride + h * d, 4 * d);
    for (uint64_t p = 0; p < seen; p += FG_ATTN_SPAN) {
        const bool first = p == 0;
        float *o = first ? all : span, *m = first ? ml[0] : ml[1];
        for (uint64_t b = p; b < p + FG_ATTN_SPAN && b < seen; b += FG_KV_BLOCK) {
            if (f == ONE_SPAN && !first) { /* blocks one after another, without spans */
                block(y, k, q, g, b, seen, ml[2], one, f);
                k->attn_merge(ml[0], all, ml[2], one, d);
                continue;
            }
            block(y, k, q, g, b, seen, b == p ? m : ml[2], b == p ? o : one, f);
            if (b != p) k->attn_merge(m, o, ml[2], one, d);
        }
        if (!first && f != ONE_SPAN) k->attn_merge(ml[0], all, ml[1], span, d);
    }
    float *u = floats(&y->u) + (size_t)t * y->u_stride + h * d;
    for (size_t i = 0; i < d; i++) u[i] = all[i] / ml[0][1];
}

static void reference(attention *y, fault f)
{
    fg_kernels k;
    fg_kernels_init(&k, 0);
    for (uint32_t t = 0; t < y->n_row; t++) {
        for (uint64_t g = 0; g < y->s.n_kv_head; g++) store(y, &k, t, g, f);
    }
    for (uint32_t t = 0; t < y->n_row; t++) {
        for (uint64_t h = 0; h < y->s.n_head; h++) attend(y, &k, t, h, f);
    }
}

/* ---- the card ---- */

/* Calls of `split` rows at most; a call is told of `spare` rows and positions more than it has. */
static void card(attention *y, uint32_t split, uint32_t spare)
{
    fg_emu_log log;
    const fg_cuda_queue q = fg_emu_queue(&log);
    guarded seq = guard_alloc(sizeof(fg_cuda_seq));
    for (uint32_t t = 0; t < y->n_row;) {
        const uint32_t n = y->n_row - t < split ? y->n_row - t : split;
        fg_cuda_softmax a = {.seq = (const fg_cuda_seq *)(const void *)seq.p,
                             .n_most = n + spare,
                             .pos_most = y->pos + t + n + 300 * spare,
                             .n_pos = y->n_pos,
                             .n_head = y->s.n_head,
                             .n_kv_head = y->s.n_kv_head,
                             .d = y->s.d,
                             .half = y->s.half,
                             .kv_type = (uint32_t)y->s.kv,
                             .k_cache = y->k.p,
                             .v_cache = y->v.p,
                             .k_scale = floats(&y->k_scale),
                             .v_scale = floats(&y->v_scale),
                             .qkv = floats(&y->qkv),
                             .qkv_stride = y->stride,
                             .cos = floats(&y->cos),
                             .sin = floats(&y->sin),
                             .u = floats(&y->u),
                             .u_stride = y->u_stride};
        guarded work = guard_alloc(fg_cuda_softmax_bytes(&a));
        a.work = work.p;
        *(fg_cuda_seq *)(void *)seq.p = (fg_cuda_seq){y->pos + t, 0, t, n};
        fg_cuda_attention(&q, &a);
        CHECK(log.result == 0);
        guard_free(&work);
        t += n;
    }
    guard_free(&seq);
}

static bool same(const attention *x, const attention *y)
{
    const size_t scales = 4 * (size_t)(x->s.n_kv_head * x->n_pos);
    bool rows = true;
    for (uint32_t t = 0; t < x->n_row; t++) {
        rows = rows && memcmp(floats(&x->u) + (size_t)t * x->u_stride,
                              floats(&y->u) + (size_t)t * y->u_stride,
                              4 * (size_t)x->s.n_head * x->s.d) == 0;
    }
    return rows && memcmp(x->k.p, y->k.p, cache_bytes(x)) == 0 &&
           memcmp(x->v.p, y->v.p, cache_bytes(x)) == 0 &&
           memcmp(x->k_scale.p, y->k_scale.p, scales) == 0 &&
           memcmp(x->v_scale.p, y->v_scale.p, scales) == 0;
}

static bool equal(shape s, uint64_t pos, uint32_t n, uint32_t split, uint32_t spare, fault f)
{
    fg_rng r;
    fg_rng_init(&r, pos * 1000 + n + s.d);
    attention from = attention_new(&r, s, pos, n);
    attention x = attention_copy(&from), y = attention_copy(&from);
    reference(&x, f);
    card(&y, split, spare);
    const bool ok = same(&x, &y);
    attention_free(&from);
    attention_free(&x);
    attention_free(&y);
    return ok;
}

static const uint64_t starts[] = {0, 63, 64, 255, 256, 1023, 1024, 2059};
enum { N_STARTS = sizeof starts / sizeof starts[0] };
static const fg_kv_type kinds[] = {FG_KV_INT8, FG_KV_F16, FG_KV_F32};

FG_TEST(one_row)
{
    for (size_t i = 0; i < N_STARTS; i++) {
        for (size_t k = 0; k < 3; k++) {
            CHECK(equal((shape){kinds[k], 8, 1, 128, 64}, starts[i], 1, 1, 0, NONE));
            CHECK(equal((shape){kinds[k], 6, 2, 16, 4}, starts[i], 1, 1, 0, NONE));
        }
        CHECK(equal((shape){FG_KV_INT8, 22, 2, 128, 32}, starts[i], 1, 1, 0, NONE));
    }
}

FG_TEST(few_and_many_rows)
{
    for (size_t i = 0; i < N_STARTS; i++) {
        CHECK(equal((shape){FG_KV_INT8, 8, 1, 128, 64}, starts[i], 12, 12, 0, NONE));
        CHECK(equal((shape){FG_KV_INT8, 6, 2, 128, 32}, starts[i], 3, 3, 0, NONE));
        if (i % 2 == 1 || fg_test_long()) {
            CHECK(equal((shape){FG_KV_INT8, 3, 1, 128, 32}, starts[i], 23, 23, 4, NONE));
        }
        for (size_t k = 0; k < 3; k++) {
            CHECK(equal((shape){kinds[k], 10, 2, 16, 8}, starts[i], 10, 10, 0, NONE));
            CHECK(equal((shape){kinds[k], 2, 1, 48, 5}, starts[i], 3, 3, 2, NONE));
        }
    }
}

FG_TEST(odd_heads)
{
    for (size_t k = 0; k < 3; k++) {
        CHECK(equal((shape){kinds[k], 3, 1, 144, 0}, 250, 9, 9, 0, NONE));
        CHECK(equal((shape){kinds[k], 1, 1, 528, 264}, 300, 1, 1, 0, NONE));
        CHECK(equal((shape){kinds[k], 2, 1, 1024, 512}, 260, 1, 1, 0, NONE));
        CHECK(equal((shape){kinds[k], 1, 1, 1024, 100}, 250, 10, 10, 0, NONE));
    }
}

FG_TEST(any_split_gives_the_same)
{
    const uint32_t splits[] = {1, 3, 64, 511}, n = fg_test_long() ? 600 : 44;
    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
        CHECK(equal((shape){FG_KV_INT8, 2, 1, 128, 64}, 1000, n, splits[i], 0, NONE));
        CHECK(equal((shape){FG_KV_INT8, 3, 1, 32, 8}, 1000, n, splits[i], 0, NONE));
        CHECK(equal((shape){FG_KV_F32, 2, 2, 16, 8}, 230, n, splits[i], 0, NONE));
    }
}

FG_TEST(values_out_of_range)
{
    const float odd[] = {NAN, INFINITY, 3e38f, 1e-38f, 0.0f};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        for (uint32_t n = 1; n <= 10; n += 9) { /* of the first row: only its own u may be NaN */
            fg_rng r;
            fg_rng_init(&r, i);
            attention from = attention_new(&r, (shape){FG_KV_INT8, 2, 1, 128, 64}, 260, n);
            float *row = floats(&from.qkv) + (n - 1) * (size_t)from.stride;
            for (size_t e = 0; e < 4 * 128; e++) row[e] = e % 2 == 0 && i < 3 ? row[e] : odd[i];
            attention x = attention_copy(&from), y = attention_copy(&from);
            reference(&x, NONE);
            card(&y, n, 0);
            CHECK(same_floats(floats(&x.u), floats(&y.u), (size_t)n * x.u_stride));
            CHECK(memcmp(x.k.p, y.k.p, cache_bytes(&x)) == 0);
            CHECK(same_floats(floats(&x.k_scale), floats(&y.k_scale), x.n_pos));
            attention_free(&from);
            attention_free(&x);
            attention_free(&y);
        }
    }
}

FG_TEST(threads_in_random_order)
{
    for (uint64_t seed = 1; seed <= (fg_test_long() ? 20 : 2); seed++) {
        fg_emu_order(seed);
        CHECK(equal((shape){FG_KV_INT8, 4, 1, 128, 64}, 1100, 1, 1, 0, NONE));
        CHECK(equal((shape){FG_KV_INT8, 4, 1, 128, 64}, 1020, 16, 16, 0, NONE));
        CHECK(equal((shape){FG_KV_INT8, 4, 1, 32, 16}, 1020, 10, 10, 0, NONE));
        CHECK(equal((shape){FG_KV_F16, 4, 1, 32, 16}, 300, 1, 1, 0, NONE));
    }
    fg_emu_order(0);
}

/* Memory for some rows and positions is enough for fewer of either. */
FG_TEST(work_grows)
{
    fg_cuda_softmax a = {.n_head = 64, .n_kv_head = 8, .d = 128};
    uint64_t wider = 0;
    for (a.n_most = 1; a.n_most < 20; a.n_most++) {
        uint64_t last = 0;
        for (a.pos_most = 1; a.pos_most < 2000000; a.pos_most += 1 + a.pos_most / 7) {
            const uint64_t bytes = fg_cuda_softmax_bytes(&a), rows = a.n_most < 8 ? a.n_most : 8;
            const uint64_t block = (a.pos_most + 255) / 256;
            CHECK(bytes >= last && bytes >= block * 64 * 144 * 4);
            if (rows * block <= 1024) CHECK(bytes >= rows * block * 64 * 144 * 4);
            last = bytes;
        }
        CHECK(last >= wider);
        wider = last;
    }
}

/* What is compared tells these from the contract. */
FG_TEST(faults_are_found)
{
    for (uint32_t n = 1; n <= 12; n += 11) {
        CHECK(!equal((shape){FG_KV_F32, 4, 1, 32, 16}, 2059, n, n, 0, SPLIT_SUM));
        CHECK(!equal((shape){FG_KV_INT8, 4, 1, 128, 16}, 2059, n, n, 0, ONE_SPAN));
        CHECK(!equal((shape){FG_KV_INT8, 4, 1, 128, 16}, 300, n, n, 0, FEWER_BITS));
        CHECK(!equal((shape){FG_KV_INT8, 4, 1, 128, 16}, 300, n, n, 0, NO_ROPE));
    }
    if (check_on_card()) return; /* it cannot be told to be wrong */
    fg_emu_break(FG_EMU_UNFUSED);
    CHECK(!equal((shape){FG_KV_F32, 4, 1, 32, 16}, 300, 1, 1, 0, NONE));
    fg_emu_break(FG_EMU_OTHER_TREE);
    CHECK(!equal((shape){FG_KV_INT8, 4, 1, 128, 16}, 300, 1, 1, 0, NONE));
    CHECK(!equal((shape){FG_KV_INT8, 4, 1, 128, 16}, 300, 12, 12, 0, NONE));
    fg_emu_break(0);
}
