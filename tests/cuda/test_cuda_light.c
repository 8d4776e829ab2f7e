/* SPDX-License-Identifier: MIT
 *
 * Lightning attention on the emulated card against the scalar kernels, driven as
 * src/model/lightning.c drives them: results and the state's bytes, for any split into calls.
 */
#include "src/model/state.h"
#include "tests/cuda/cuda_check.h"

enum { C = FG_LIGHT_CHUNK, MARK = 0x7f };

/* A state, rows, and what comes of them.  Buffers end at unreadable pages. */
typedef struct light {
    uint32_t n_head, d, n_row, stride, u_stride;
    uint64_t pos, folded;
    guarded s, kt, v, decay, qkv, u;
} light;

static float *floats(const guarded *g)
{
    return (float *)(void *)g->p;
}

static light light_new(fg_rng *r, uint32_t n_head, uint32_t d, uint32_t n_row)
{
    light y = {.n_head = n_head,
               .d = d,
               .n_row = n_row,
               .stride = (n_head * 3 * d + 127) / 128 * 128,
               .u_stride = (n_head * d + 127) / 128 * 128};
    const size_t n = n_head * (size_t)d;
    y.s = guard_alloc(4 * n * d);
    y.kt = guard_alloc(4 * n * C);
    y.v = guard_alloc(4 * n * C);
    y.decay = guard_alloc((4 * n_head * (C + 1) + 63) / 64 * 64);
    y.qkv = guard_alloc(4 * (size_t)n_row * y.stride);
    y.u = guard_alloc(4 * (size_t)n_row * y.u_stride);
    fill_floats(r, IN_NORMAL, floats(&y.s), n * d);
    fill_floats(r, IN_NORMAL, floats(&y.kt), n * C);
    fill_floats(r, IN_NORMAL, floats(&y.v), n * C);
    fill_floats(r, IN_NORMAL, floats(&y.qkv), (size_t)n_row * y.stride);
    for (uint32_t h = 0; h < n_head; h++) {
        for (int i = 0; i <= C; i++) {
            floats(&y.decay)[h * (C + 1) + (size_t)i] = (float)exp(-i / (8.0 + 40.0 * h));
        }
    }
    return y;
}

static void copy(const guarded *to, const guarded *from, size_t bytes)
{
    memcpy(to->p, from->p, bytes);
}

/* Of the same numbers; results marked as not written. */
static light light_copy(const light *from)
{
    fg_rng r;
    fg_rng_init(&r, 1);
    light y = light_new(&r, from->n_head, from->d, from->n_row);
    const size_t n = from->n_head * (size_t)from->d;
    copy(&y.s, &from->s, 4 * n * from->d);
    copy(&y.kt, &from->kt, 4 * n * C);
    copy(&y.v, &from->v, 4 * n * C);
    copy(&y.decay, &from->decay, 4 * from->n_head * (C + 1));
    copy(&y.qkv, &from->qkv, 4 * (size_t)y.n_row * y.stride);
    memset(y.u.p, MARK, 4 * (size_t)y.n_row * y.u_stride);
    y.pos = from->pos;
    y.folded = from->folded;
    return y;
}

static void light_free(light *y)
{
    guarded *all[] = {&y->s, &y->kt, &y->v, &y->decay, &y->qkv, &y->u};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) guard_free(all[i]);
}

static void advance(light *y, uint64_t n)
{
    fg_state st = {.pos = y->pos, .folded = y->folded};
    fg_state_advance(&st, n);
    y->pos = st.pos;
    y->folded = st.folded;
}

/* ---- the reference ---- */

typedef enum fault { NONE, UNFUSED, REVERSED, NO_FOLD, OLD_KEY } fault;

/* light_out of one token with a fault: other orders and roundings must show. */
static void broken_out(fault f, const float *q, size_t i, size_t d, const float *kt, const float *v,
                       const float *s, const float *decay, float *o)
{
    for (size_t e = 0; e < d; e++) {
        float acc = 0.0f;
        for (size_t k = 0; k < d; k++) {
            const size_t c = f == REVERSED ? d - 1 - k : k;
            const float x = q[c] * s[c * d + e];
            acc = f == UNFUSED ? acc + x : fmaf(q[c], s[c * d + e], acc);
        }
        acc = decay[i + 1] * acc;
        for (size_t j = 0; j <= i; j++) {
            float a = 0.0f;
            for (size_t c = 0; c < d; c++) a = fmaf(q[c], kt[c * C + j], a);
            acc = fmaf(decay[i - j] * a, v[j * d + e], acc);
        }
        o[e] = acc;
    }
}

static void reference(light *y, fault f)
{
    fg_kernels k;
    fg_kernels_init(&k, 0);
    const size_t d = y->d;
    for (uint32_t h = 0; h < y->n_head; h++) {
        float *s = floats(&y->s) + h * d * d, *kt = floats(&y->kt) + h * d * C;
        float *v = floats(&y->v) + h * d * C;
        const float *decay = floats(&y->decay) + h * (size_t)(C + 1);
        uint64_t folded = y->folded;
        for (uint32_t t = 0; t < y->n_row; t++) {
            const size_t i = (y->pos + t) % C;
            float *p = floats(&y->qkv) + (size_t)t * y->stride + h * 3 * d;
            float *o = floats(&y->u) + (size_t)t * y->u_stride + h * d;
            if (y->pos + t == folded + C) {
                if (f == OLD_KEY) { /* the race: stored before it was folded */
                    for (size_t e = 0; e < d; e++) kt[e * C] = p[d + e];
                }
                if (f != NO_FOLD) k.light_fold(d, kt, v, decay, s);
                folded += C;
            }
            k.silu(p, 3 * d);
            for (size_t e = 0; e < d; e++) kt[e * C + i] = p[d + e];
            memcpy(v + i * d, p + 2 * d, d * sizeof(float));
            if (f == UNFUSED || f == REVERSED) {
                broken_out(f, p, i, d, kt, v, s, decay, o);
            } else {
                k.light_out(p, y->stride, i, 1, d, kt, v, s, decay, o, y->u_stride);
            }
        }
    }
    advance(y, y->n_row);
}

/* ---- the card ---- */

/* Calls of `split` rows at most; a call is told of `spare` rows more than it has. */
static void card(light *y, uint32_t split, uint32_t spare)
{
    fg_emu_log log;
    const fg_cuda_queue q = fg_emu_queue(&log);
    guarded decay = guard_alloc(4 * y->n_head * (C + 1)), seq = guard_alloc(sizeof(fg_cuda_seq));
    copy(&decay, &y->decay, 4 * y->n_head * (C + 1));
    for (uint32_t t = 0; t < y->n_row;) {
        const uint32_t n = y->n_row - t < split ? y->n_row - t : split;
        guarded work = guard_alloc(fg_cuda_light_bytes(n + spare, y->n_head));
        *(fg_cuda_seq *)(void *)seq.p = (fg_cuda_seq){y->pos, y->folded, t, n};
        fg_cuda_lightning(&q, &(fg_cuda_light){.seq = (const fg_cuda_seq *)(const void *)seq.p,
                                               .n_most = n + spare,
                                               .n_head = y->n_head,
                                               .d = y->d,
                                               .qkv = floats(&y->qkv),
                                               .qkv_stride = y->stride,
                                               .s = floats(&y->s),
                                               .kt = floats(&y->kt),
                                               .v = floats(&y->v),
                                               .decay = floats(&decay),
                                               .u = floats(&y->u),
                                               .u_stride = y->u_stride,
                                               .work = work.p});
        CHECK(log.result == 0);
        advance(y, n);
        t += n;
        guard_free(&work);
    }
    guard_free(&decay);
    guard_free(&seq);
}

static bool same(const light *x, const light *y)
{
    const size_t n = x->n_head * (size_t)x->d;
    bool rows = true;
    for (uint32_t t = 0; t < x->n_row; t++) {
        rows = rows && memcmp(floats(&x->u) + (size_t)t * x->u_stride,
                              floats(&y->u) + (size_t)t * y->u_stride, 4 * n) == 0;
    }
    return rows && memcmp(x->s.p, y->s.p, 4 * n * x->d) == 0 &&
           memcmp(x->kt.p, y->kt.p, 4 * n * C) == 0 && memcmp(x->v.p, y->v.p, 4 * n * C) == 0 &&
           x->pos == y->pos && x->folded == y->folded;
}

static bool equal(uint32_t n_head, uint32_t d, uint64_t pos, uint64_t folded, uint32_t n,
                  uint32_t split, uint32_t spare, fault f)
{
    fg_rng r;
    fg_rng_init(&r, pos * 1000 + n + d);
    light from = light_new(&r, n_head, d, n);
    from.pos = pos;
    from.folded = folded;
    light x = light_copy(&from), y = light_copy(&from);
    reference(&x, f);
    card(&y, split, spare);
    const bool ok = same(&x, &y);
    light_free(&from);
    light_free(&x);
    light_free(&y);
    return ok;
}

/* Where calls begin: chunks not begun, begun, full, folded already. */
static const struct {
    uint64_t pos, folded;
} starts[] = {{0, 0}, {63, 0}, {64, 0}, {64, 64}, {1000, 960}, {1024, 960}, {2059, 2048}};
enum { N_STARTS = sizeof starts / sizeof starts[0] };

FG_TEST(one_row)
{
    for (size_t i = 0; i < N_STARTS; i++) {
        const uint64_t pos = starts[i].pos, folded = starts[i].folded;
        CHECK(equal(2, 128, pos, folded, 1, 1, 0, NONE));
        CHECK(equal(3, 16, pos, folded, 1, 1, 0, NONE));
        CHECK(equal(1, 80, pos, folded, 1, 1, 0, NONE));
        CHECK(equal(1, 208, pos, folded, 1, 1, 0, NONE));
    }
    CHECK(equal(1, 1024, 64, 0, 1, 1, 0, NONE));
}

FG_TEST(rows_at_any_start)
{
    for (size_t i = 0; i < N_STARTS; i++) {
        const uint64_t pos = starts[i].pos, folded = starts[i].folded;
        CHECK(equal(2, 128, pos, folded, 3, 3, 0, NONE));
        CHECK(equal(1, 80, pos, folded, 70, 70, 0, NONE));
        CHECK(equal(3, 16, pos, folded, 3, 3, 5, NONE)); /* fewer than the graph is for */
        CHECK(equal(1, 16, pos, folded, 140, 140, 60, NONE));
        if (i % 3 != 0 && !fg_test_long()) continue;
        CHECK(equal(1, 128, pos, folded, 70, 70, 0, NONE));
        CHECK(equal(1, 208, pos, folded, 66, 66, 0, NONE));
    }
    CHECK(equal(1, 1024, 63, 0, 2, 2, 0, NONE));
}

FG_TEST(any_split_gives_the_same)
{
    const uint32_t splits[] = {1, 3, 64, 511}, n = fg_test_long() ? 600 : 130;
    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
        CHECK(equal(1, 128, 1000, 960, n, splits[i], 0, NONE));
        CHECK(equal(2, 48, 64, 0, n, splits[i], 0, NONE));
    }
}

FG_TEST(threads_in_random_order)
{
    for (uint64_t seed = 1; seed <= (fg_test_long() ? 20 : 2); seed++) {
        fg_emu_order(seed);
        CHECK(equal(1, 128, 64, 0, 1, 1, 0, NONE));
        CHECK(equal(1, 128, 60, 0, 70, 70, 0, NONE));
        CHECK(equal(2, 16, 128, 64, 140, 5, 0, NONE));
    }
    fg_emu_order(0);
}

/* What is compared tells these from the contract. */
FG_TEST(faults_are_found)
{
    for (uint32_t split = 1; split <= 70; split += 69) {
        CHECK(!equal(1, 128, 60, 0, 70, split, 0, UNFUSED));
        CHECK(!equal(1, 128, 60, 0, 70, split, 0, REVERSED));
        CHECK(!equal(1, 128, 60, 0, 70, split, 0, NO_FOLD));
        CHECK(!equal(1, 128, 60, 0, 70, split, 0, OLD_KEY));
    }
    if (check_on_card()) return; /* it cannot be told to be wrong */
    fg_emu_break(FG_EMU_UNFUSED);
    CHECK(!equal(1, 128, 60, 0, 1, 1, 0, NONE));
    CHECK(!equal(1, 128, 60, 0, 3, 3, 0, NONE));
    fg_emu_break(0);
}
