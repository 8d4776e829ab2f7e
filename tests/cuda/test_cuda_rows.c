/* SPDX-License-Identifier: MIT
 *
 * Rows between the products, in the emulator, against the scalar level's kernels, bit for bit.
 */
#include "tests/cuda/cuda_check.h"

enum { ROWS = 5 };

static uint32_t padded(uint32_t d)
{
    return (d + 127) / 128 * 128;
}

static float *floats(const guarded *g)
{
    return (float *)(void *)g->p;
}
static fg_act128 *blocks(const guarded *g)
{
    return (fg_act128 *)(void *)g->p;
}

/* Forms of ROWS rows, each in memory that ends with its last row. */
typedef struct rows {
    guarded f, q, rot;
    fg_cuda_acts x;
} rows;

static rows make_rows(fg_rng *r, uint32_t d, int input)
{
    const uint32_t n = padded(d) / 128, f_stride = padded(d) + 128, q_stride = n + 1;
    const size_t n_f = (size_t)(ROWS - 1) * f_stride + padded(d);
    const size_t n_q = (size_t)(ROWS - 1) * q_stride + n;
    rows x = {guard_alloc(4 * n_f), guard_alloc(144 * n_q), guard_alloc(144 * n_q), {0}};
    for (size_t t = 0; t < ROWS; t++) fill_floats(r, input, floats(&x.f) + t * f_stride, d);
    x.x = (fg_cuda_acts){floats(&x.f), blocks(&x.q), blocks(&x.rot), f_stride, q_stride};
    return x;
}
static void free_rows(rows *x)
{
    guard_free(&x->f);
    guard_free(&x->q);
    guard_free(&x->rot);
}

/* A row of floats of the host, padded with zeros. */
static float *row_of(uint32_t d)
{
    float *x = aligned_alloc(64, 4 * (size_t)padded(d));
    if (x == NULL) abort();
    memset(x, 0, 4 * (size_t)padded(d));
    return x;
}

static bool same_blocks(const fg_act128 *a, const fg_act128 *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!same_floats(&a[i].d, &b[i].d, 1)) return false;
        if (memcmp((const uint8_t *)&a[i] + 4, (const uint8_t *)&b[i] + 4, 140) != 0) return false;
    }
    return true;
}

/* Row t of x is `want`, in all its forms. */
static bool same_forms(const fg_cuda_acts *x, uint32_t t, const float *want, uint32_t d)
{
    fg_kernels k;
    fg_kernels_init(&k, 0);
    const uint32_t n = padded(d) / 128;
    fg_act128 *q = calloc(n, sizeof *q);
    if (q == NULL) abort();
    bool ok = same_floats(want, x->f + (size_t)t * x->f_stride, padded(d));
    k.quantize_act(want, padded(d), q);
    ok = ok && same_blocks(q, x->q + (size_t)t * x->q_stride, n);
    k.quantize_act_rot(want, padded(d), q);
    ok = ok && same_blocks(q, x->rot + (size_t)t * x->q_stride, n);
    free(q);
    return ok;
}

static bool launched(const fg_emu_log *log, bool faulted)
{
    if (!faulted && log->result == 0) return true;
    fg_test_fail(__FILE__, __LINE__, "%s: %s", fg_cuda_kernel_name[log->failed],
                 faulted ? "fault" : "launch");
    return false;
}

/* ---- join ---- */

typedef struct join_case {
    uint32_t d, n_used; /* n_used 0: no combination */
    bool residual, postnorm;
    int input;
} join_case;

/* What the contract says of row t, into x and n; before: the rows as they were. */
static void join_reference(const fg_cuda_join *j, uint32_t t, const float *x0, const float *n0,
                           float *x, float *n)
{
    fg_kernels k;
    fg_kernels_init(&k, 0);
    float *a = row_of(j->d);
    memcpy(x, x0, 4 * (size_t)j->d);
    for (uint32_t i = 0; i < j->n_used; i++) {
        const uint32_t at = j->row_of[t * j->n_used + i];
        const float *y = (at & FG_CUDA_ON_CARD) != 0 ? j->y_card : j->y_host;
        k.axpy(j->sel_w[t * j->n_used + i], y + (size_t)(at & ~FG_CUDA_ON_CARD) * j->y_stride, j->d,
               a);
    }
    if (j->n_used == 0 && j->a != NULL) memcpy(a, j->a + (size_t)t * j->a_stride, 4 * (size_t)j->d);
    if (j->residual) k.axpby(j->alpha, j->postnorm ? n0 : x0, j->beta, a, j->d, x);
    k.rmsnorm(x, j->w, j->d, j->eps, n);
    free(a);
}

static bool join_agrees(const join_case *c)
{
    const uint32_t d = c->d;
    fg_rng r;
    fg_rng_init(&r, d + c->n_used);
    rows x = make_rows(&r, d, c->input), n = make_rows(&r, d, IN_NORMAL);
    rows y = make_rows(&r, d, IN_NORMAL), z = make_rows(&r, d, c->input);
    guarded w = guard_alloc(4 * (size_t)d), rows_used = guard_alloc(4 * ROWS * (size_t)c->n_used);
    guarded sel_w = guard_alloc(4 * ROWS * (size_t)c->n_used);
    fill_floats(&r, IN_NORMAL, floats(&w), d);
    fill_floats(&r, IN_UNIFORM, floats(&sel_w), ROWS * c->n_used);
    uint32_t *row = (uint32_t *)(void *)rows_used.p;
    for (uint32_t i = 0; i < ROWS * c->n_used; i++) {
        row[i] = i * 7 % ROWS | (i % 3 == 1 ? FG_CUDA_ON_CARD : 0);
    }
    const fg_cuda_join j = {
        .n_row = ROWS,
        .d = d,
        .x = x.x.f,
        .x_stride = x.x.f_stride,
        .row_of = c->n_used != 0 ? row : NULL,
        .sel_w = floats(&sel_w),
        .y_host = y.x.f,
        .y_card = z.x.f,
        .n_used = c->n_used,
        .y_stride = y.x.f_stride,
        .a = c->residual && c->n_used == 0 ? y.x.f : NULL,
        .a_stride = y.x.f_stride,
        .residual = c->residual,
        .postnorm = c->postnorm,
        .alpha = 3.556f,
        .beta = 1.25f,
        .eps = 1e-5f,
        .w = floats(&w),
        .n = n.x,
    };
    float *want_x[ROWS], *want_n[ROWS];
    for (uint32_t t = 0; t < ROWS; t++) {
        want_x[t] = row_of(d);
        want_n[t] = row_of(d);
        join_reference(&j, t, x.x.f + (size_t)t * x.x.f_stride, n.x.f + (size_t)t * n.x.f_stride,
                       want_x[t], want_n[t]);
    }
    fg_emu_log log;
    const fg_cuda_queue q = fg_emu_queue(&log);
    bool faulted;
    RUN_CAUGHT(faulted, fg_cuda_join_rows(&q, &j));
    bool ok = launched(&log, faulted);
    for (uint32_t t = 0; t < ROWS; t++) {
        ok = ok && same_floats(want_x[t], x.x.f + (size_t)t * x.x.f_stride, d) &&
             same_forms(&n.x, t, want_n[t], d);
        free(want_x[t]);
        free(want_n[t]);
    }
    free_rows(&x);
    free_rows(&n);
    free_rows(&y);
    free_rows(&z);
    guard_free(&w);
    guard_free(&rows_used);
    guard_free(&sel_w);
    return ok;
}

FG_TEST(join)
{
    static const join_case cases[] = {
        {16, 0, false, false, IN_NORMAL},   {256, 0, true, true, IN_NORMAL},
        {256, 0, true, false, IN_OUTLIER},  {272, 2, true, true, IN_NORMAL},
        {6144, 2, true, true, IN_OUTLIER},  {1040, 9, true, false, IN_UNIFORM},
        {384, 1, true, true, IN_SUBNORMAL}, {528, 2, true, true, IN_NAN},
        {512, 2, true, false, IN_INF},      {512, 0, false, false, IN_ZERO},
        {25600, 2, true, true, IN_NORMAL}, /* more than shared memory holds */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fg_emu_order(i % 2);
        if (!join_agrees(&cases[i])) fg_test_fail(__FILE__, __LINE__, "case %zu", i);
    }
    fg_emu_order(0);
}

FG_TEST(join_controls)
{
    CONTROLS_OF_THE_EMULATOR;
    for (unsigned what = 1; what <= 4; what *= 2) {
        bool seen = false;
        for (uint32_t d = 512; d < 1024;
             d += 64) { /* one rounding may hide it in all rows of one */
            const join_case c = {d, 2, true, true, IN_NORMAL};
            CHECK(join_agrees(&c));
            fg_emu_break(what);
            seen = seen || !join_agrees(&c);
            fg_emu_break(0);
        }
        CHECK(seen);
    }
}

/* The rows that are asked for, and no others. */
FG_TEST(join_of_some_rows)
{
    const uint32_t d = 208, n_from = 3;
    fg_rng r;
    fg_rng_init(&r, 5);
    rows x = make_rows(&r, d, IN_NORMAL), n = make_rows(&r, d, IN_NORMAL);
    guarded w = guard_alloc(4 * d), from = guard_alloc(4 * n_from);
    fill_floats(&r, IN_NORMAL, floats(&w), d);
    memcpy(from.p, (const uint32_t[3]){4, 0, 3}, 12);
    const fg_cuda_join j = {.n_row = n_from,
                            .d = d,
                            .x = x.x.f,
                            .x_stride = x.x.f_stride,
                            .eps = 1e-6f,
                            .w = floats(&w),
                            .from = (const uint32_t *)(void *)from.p,
                            .n = n.x};
    fg_emu_log log;
    const fg_cuda_queue q = fg_emu_queue(&log);
    bool faulted;
    float *want_x = row_of(d), *want = row_of(d);
    RUN_CAUGHT(faulted, fg_cuda_join_rows(&q, &j));
    CHECK(launched(&log, faulted));
    for (uint32_t t = 0; t < n_from; t++) {
        join_reference(&j, 0, x.x.f + (size_t)j.from[t] * x.x.f_stride, NULL, want_x, want);
        CHECK(same_forms(&n.x, t, want, d));
    }
    free(want_x);
    free(want);
    free_rows(&x);
    free_rows(&n);
    guard_free(&w);
    guard_free(&from);
}

/* ---- gate, hidden, gather ---- */

static bool gate_agrees(uint32_t d, int input, bool gated)
{
    fg_kernels k;
    fg_kernels_init(&k, 0);
    fg_rng r;
    fg_rng_init(&r, d);
    rows u = make_rows(&r, d, input), g = make_rows(&r, d, input);
    guarded w = guard_alloc(4 * (size_t)d);
    fill_floats(&r, IN_NORMAL, floats(&w), d);
    float *want[ROWS];
    for (uint32_t t = 0; t < ROWS; t++) {
        want[t] = row_of(d);
        memcpy(want[t], u.x.f + (size_t)t * u.x.f_stride, 4 * (size_t)d);
        if (!gated) continue;
        k.rmsnorm(want[t], floats(&w), d, 1e-6f, want[t]);
        k.sigmoid_mul(want[t], g.x.f + (size_t)t * g.x.f_stride, d);
    }
    const fg_cuda_gate a = {ROWS, d, u.x, floats(&w), gated ? g.x.f : NULL, g.x.f_stride, 1e-6f};
    fg_emu_log log;
    const fg_cuda_queue q = fg_emu_queue(&log);
    bool faulted;
    RUN_CAUGHT(faulted, fg_cuda_gate_rows(&q, &a));
    bool ok = launched(&log, faulted);
    for (uint32_t t = 0; t < ROWS; t++) {
        ok = ok && same_forms(&u.x, t, want[t], d);
        free(want[t]);
    }
    free_rows(&u);
    free_rows(&g);
    guard_free(&w);
    return ok;
}

static bool hidden_agrees(uint32_t d, int input)
{
    fg_kernels k;
    fg_kernels_init(&k, 0);
    fg_rng r;
    fg_rng_init(&r, d);
    rows g = make_rows(&r, d, input), up = make_rows(&r, d, IN_NORMAL),
         h = make_rows(&r, d, IN_ZERO);
    const fg_cuda_hidden a = {ROWS, d, g.x.f, up.x.f, g.x.f_stride, h.x};
    fg_emu_log log;
    const fg_cuda_queue q = fg_emu_queue(&log);
    bool faulted;
    RUN_CAUGHT(faulted, fg_cuda_hidden_rows(&q, &a));
    bool ok = launched(&log, faulted);
    float *want = row_of(d);
    for (uint32_t t = 0; t < ROWS; t++) {
        const size_t at = (size_t)t * g.x.f_stride;
        k.silu_mul(g.x.f + at, up.x.f + at, d, want);
        ok = ok && same_forms(&h.x, t, want, d);
    }
    free(want);
    free_rows(&g);
    free_rows(&up);
    free_rows(&h);
    return ok;
}

FG_TEST(gate_and_hidden)
{
    static const uint32_t d[] = {16, 128, 256, 1040, 8192};
    for (size_t i = 0; i < sizeof d / sizeof *d; i++) {
        for (int input = 0; input < N_INPUTS; input++) {
            if (d[i] == 8192 && input != IN_OUTLIER) continue;
            CHECK(gate_agrees(d[i], input, true));
            CHECK(gate_agrees(d[i], input, false));
            CHECK(hidden_agrees(d[i], input));
        }
    }
    CHECK(gate_agrees(25600, IN_NORMAL, true));
}

FG_TEST(gate_and_hidden_controls)
{
    CONTROLS_OF_THE_EMULATOR;
    for (unsigned what = 1; what <= 4; what *= 2) {
        bool seen = false;
        fg_emu_break(what);
        for (uint32_t d = 512; d < 1024; d += 64) seen = seen || !gate_agrees(d, IN_NORMAL, true);
        CHECK(seen);
        if (what == FG_EMU_UNFUSED) CHECK(!hidden_agrees(1024, IN_NORMAL));
        fg_emu_break(0);
    }
}

FG_TEST(gather)
{
    const uint32_t d = 208;
    guarded rows_from = guard_alloc(16);
    memcpy(rows_from.p, (const uint32_t[4]){3, 3, 0, 4}, 16);
    const uint32_t *from = (const uint32_t *)(void *)rows_from.p;
    fg_rng r;
    fg_rng_init(&r, 9);
    for (int forms = 0; forms < 3; forms++) {
        rows x = make_rows(&r, d, IN_NORMAL), y = make_rows(&r, d, IN_ZERO);
        const uint32_t n = padded(d) / 128;
        const size_t n_q = ROWS * n * sizeof(fg_act128);
        for (size_t i = 0; i < n_q; i++) {
            x.q.p[i] = (uint8_t)fg_rng_u64(&r);
            x.rot.p[i] = (uint8_t)fg_rng_u64(&r);
        }
        fg_cuda_gather g = {4, from, x.x, y.x};
        g.x.q_stride = g.y.q_stride = n; /* strides are copied whole */
        g.x.f_stride = g.y.f_stride = padded(d);
        if (forms != 0) g.x.rot = NULL;
        if (forms == 2) g.y.q = NULL;
        fg_emu_log log;
        const fg_cuda_queue q = fg_emu_queue(&log);
        fg_cuda_gather_rows(&q, &g);
        CHECK(log.result == 0);
        for (uint32_t t = 0; t < 4; t++) {
            const size_t at = (size_t)t * n, of = (size_t)from[t] * n;
            const bool same_q = memcmp(y.x.q + at, x.x.q + of, n * sizeof(fg_act128)) == 0;
            const bool same_rot = memcmp(y.x.rot + at, x.x.rot + of, n * sizeof(fg_act128)) == 0;
            const bool same_f = memcmp(y.x.f + (size_t)t * padded(d),
                                       x.x.f + (size_t)from[t] * padded(d), 4 * d) == 0;
            CHECK(same_q == (forms < 2) && same_rot == (forms == 0) && same_f == (forms == 2));
        }
        free_rows(&x);
        free_rows(&y);
    }
    guard_free(&rows_from);
}

/* ---- router ---- */

/* As src/model/router.c. */
static void route_reference(const fg_cuda_router *r, uint32_t t, uint32_t *sel, float *weight)
{
    fg_kernels k;
    fg_kernels_init(&k, 0);
    float *p = row_of(16 * r->m.n_panel), sum = 0.0f;
    for (uint32_t i = 0; i < r->m.n_panel; i++) {
        k.panel[r->m.kind](r->m.panels + i * r->m.panel_stride, NULL, NULL,
                           r->n + (size_t)t * r->n_stride, 0, 1, r->m.n_sb, p + 16 * (size_t)i, 16);
    }
    (void)k.softmax_num(p, r->n_expert);
    for (uint32_t i = 0; i < r->n_used; i++) {
        uint32_t best = 0;
        float most = -INFINITY;
        for (uint32_t e = 0; e < r->n_expert; e++) {
            if (p[e] > most) {
                most = p[e];
                best = e;
            }
        }
        sel[i] = best;
        weight[i] = p[best];
        sum += p[best];
        p[best] = -INFINITY;
    }
    for (uint32_t i = 0; i < r->n_used; i++) weight[i] /= sum;
    free(p);
}

static bool route_agrees(uint32_t n_tok, uint32_t n_expert, uint32_t n_used, uint32_t d, int input,
                         bool bf16)
{
    fg_rng r;
    fg_rng_init(&r, n_expert + n_tok);
    const uint32_t n_sb = padded(d) / 128, n_panel = (n_expert + 15) / 16;
    const size_t n_w = 2048 * (size_t)n_panel * n_sb, bytes = bf16 ? 2 : 4;
    guarded w = guard_alloc(n_w * bytes), sel = guard_alloc(4 * (size_t)n_tok * n_used);
    guarded sel_w = guard_alloc(4 * (size_t)n_tok * n_used);
    guarded n = guard_alloc(4 * (size_t)n_tok * padded(d));
    guarded work = guard_alloc((size_t)fg_cuda_route_bytes(n_tok, n_expert, n_sb));
    for (size_t i = 0; i < n_w; i++) {
        /* experts in pairs of equal rows: ties */
        const float v = i % 2 == 1 && input == IN_UNIFORM ? 0.25f : (float)normal_of(&r);
        const uint32_t u = bits_of_float(v);
        memcpy(w.p + bytes * i, (const uint8_t *)&u + 4 - bytes, bytes);
    }
    for (uint32_t t = 0; t < n_tok; t++) {
        fill_floats(&r, t % 2 == 0 ? input : IN_NORMAL, floats(&n) + (size_t)t * padded(d), d);
        for (uint32_t i = 0; i < d; i++) floats(&n)[(size_t)t * padded(d) + i] *= 0.1f;
    }
    const fg_cuda_router a = {
        .n_tok = n_tok,
        .n_expert = n_expert,
        .n_used = n_used,
        .m = {w.p,
              NULL,
              2048 * bytes * n_sb,
              n_panel,
              n_sb,
              bf16 ? FG_KIND_BF16 : FG_KIND_F32,
              false,
              {0}},
        .n = floats(&n),
        .n_stride = padded(d),
        .sel = (uint32_t *)(void *)sel.p,
        .sel_w = floats(&sel_w),
        .work = floats(&work),
    };
    fg_emu_log log;
    const fg_cuda_queue q = fg_emu_queue(&log);
    bool faulted;
    memset(work.p, 0, (size_t)fg_cuda_route_bytes(n_tok, n_expert, n_sb));
    RUN_CAUGHT(faulted, fg_cuda_route(&q, &a, NULL));
    bool ok = launched(&log, faulted);
    for (uint32_t t = 0; t < n_tok; t++) {
        uint32_t want[64];
        float weight[64];
        route_reference(&a, t, want, weight);
        ok = ok && memcmp(want, a.sel + (size_t)t * n_used, 4 * n_used) == 0 &&
             same_floats(weight, a.sel_w + (size_t)t * n_used, n_used);
    }
    guard_free(&w);
    guard_free(&sel);
    guard_free(&sel_w);
    guard_free(&n);
    guard_free(&work);
    return ok;
}

FG_TEST(router)
{
    CHECK(route_agrees(1, 32, 2, 256, IN_NORMAL, false));
    CHECK(route_agrees(3, 32, 2, 1040, IN_OUTLIER, true));
    CHECK(route_agrees(8, 5, 5, 16, IN_NORMAL, false));
    CHECK(route_agrees(19, 40, 3, 384, IN_UNIFORM, false));
    CHECK(route_agrees(2, 1024, 64, 128, IN_NORMAL, false));
    CHECK(route_agrees(9, 1000, 17, 128, IN_UNIFORM, true));
    fg_emu_order(11);
    for (int input = 0; input < N_INPUTS; input++) {
        CHECK(route_agrees(2, 33, 4, 256, input, false));
        CHECK(route_agrees(1, 32, 32, 256, input, false));
    }
    fg_emu_order(0);
}

FG_TEST(router_controls)
{
    CONTROLS_OF_THE_EMULATOR;
    for (unsigned what = 1; what <= 2; what *= 2) {
        fg_emu_break(what);
        CHECK(!route_agrees(4, 32, 32, 1024, IN_UNIFORM, false));
    }
    fg_emu_break(0);
}
