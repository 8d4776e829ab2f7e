/* SPDX-License-Identifier: MIT
 *
 * Experts that the card holds, the mailbox and the read rate, in the emulator.
 */
#include "tests/cuda/cuda_check.h"

#include <pthread.h>

enum { D = 256, N_EXPERT = 6, ABSENT = 2 };

typedef struct model {
    fg_qkind gate, up, down;
    uint32_t d_ff, n_tok, n_used;
} model;

/* Memory that the card sees, given back all at once. */
static guarded pool[24];
static size_t n_pool;
static void *take(size_t bytes)
{
    pool[n_pool] = guard_alloc((bytes + 63) / 64 * 64);
    return pool[n_pool++].p;
}
static void give_back(void)
{
    while (n_pool > 0) guard_free(&pool[--n_pool]);
}

/* A matrix for each expert. */
static uint8_t *make_matrices(fg_rng *r, fg_cuda_matrix *m, fg_qkind kind, uint32_t n_row,
                              uint32_t n_col, bool rotated, float **scales)
{
    const uint64_t stride = fg_panel_bytes(fg_qkinds[kind].type, n_col);
    *m = (fg_cuda_matrix){.panel_stride = stride,
                          .n_panel = (n_row + 15) / 16,
                          .n_sb = (n_col + 127) / 128,
                          .kind = kind,
                          .rotated = rotated};
    memcpy(m->lut, fg_lut_grid6.v, 16);
    const size_t n = (size_t)N_EXPERT * m->n_panel * stride;
    uint8_t *p = take(n);
    *scales = take(64 * (size_t)N_EXPERT * m->n_panel);
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(fg_rng_u64(r) % 128);
    for (size_t i = 0; kind == FG_KIND_F32 && i < n / 4; i++) {
        const float v = (float)normal_of(r);
        memcpy(p + 4 * i, &v, 4);
    }
    for (size_t i = 0; kind == FG_KIND_BF16 && i < n / 2; i++) {
        const uint32_t u = bits_of_float((float)normal_of(r));
        memcpy(p + 2 * i, (const uint8_t *)&u + 2, 2);
    }
    for (size_t i = 0; i < 16 * (size_t)N_EXPERT * m->n_panel; i++) {
        (*scales)[i] = (float)(fg_rng_f64(r) * 1e-4);
    }
    return p;
}

/* y = W_e x by the scalar level. */
static void multiply(const fg_cuda_matrix *m, const uint8_t *panels, const float *scales,
                     const float *f, const fg_act128 *q, const fg_act128 *rot, float *y)
{
    fg_kernels k;
    fg_kernels_init(&k, 0);
    const void *x = (unsigned)m->kind >= FG_KIND_QUANTIZED ? (const void *)f : m->rotated ? rot : q;
    for (uint32_t p = 0; p < m->n_panel; p++) {
        k.panel[m->kind](panels + p * m->panel_stride, scales + 16 * p, &fg_lut_grid6, x, 0, 1,
                         m->n_sb, y + 16 * (size_t)p, 16);
    }
}

static float *new_floats(size_t n)
{
    return take(4 * n);
}

static bool experts_agree(const model *c)
{
    fg_kernels k;
    fg_kernels_init(&k, 0);
    fg_rng r;
    fg_rng_init(&r, c->d_ff + c->n_tok);
    const uint32_t ff = (c->d_ff + 127) / 128 * 128, n_slot = c->n_tok * c->n_used;
    fg_cuda_experts e = {
        .n_tok = c->n_tok, .n_used = c->n_used, .g_stride = ff, .y_stride = D + 16};
    float *gs, *us, *ds;
    uint8_t *gate = make_matrices(&r, &e.gate, c->gate, c->d_ff, D, true, &gs);
    uint8_t *up = make_matrices(&r, &e.up, c->up, c->d_ff, D, c->up == c->gate, &us);
    uint8_t *down = make_matrices(&r, &e.down, c->down, D, c->d_ff, false, &ds);
    fg_cuda_expert *table = take(N_EXPERT * sizeof *table);
    for (uint32_t i = 0; i < N_EXPERT; i++) {
        table[i] = (fg_cuda_expert){gate + i * e.gate.n_panel * e.gate.panel_stride,
                                    up + i * e.up.n_panel * e.up.panel_stride,
                                    down + i * e.down.n_panel * e.down.panel_stride,
                                    gs + 16 * (size_t)i * e.gate.n_panel,
                                    us + 16 * (size_t)i * e.up.n_panel,
                                    ds + 16 * (size_t)i * e.down.n_panel};
    }
    table[ABSENT] = (fg_cuda_expert){0};
    uint32_t *sel = take(n_slot * sizeof *sel);
    for (uint32_t i = 0; i < n_slot; i++) sel[i] = (i * 5 + i / c->n_used) % N_EXPERT;
    fg_act128 *q = take(c->n_tok * 2 * sizeof *q), *rot = take(c->n_tok * 2 * sizeof *q);
    fg_act128 *hq = take(n_slot * (ff / 128) * sizeof *q);
    fg_act128 *hrot = take(n_slot * (ff / 128) * sizeof *q);
    float *x = new_floats((size_t)c->n_tok * D), *h = new_floats((size_t)n_slot * ff);
    fill_floats(&r, IN_NORMAL, x, (size_t)c->n_tok * D);
    k.quantize_act(x, (size_t)c->n_tok * D, q);
    k.quantize_act_rot(x, (size_t)c->n_tok * D, rot);
    e.table = table;
    e.sel = sel;
    e.x = (fg_cuda_acts){x, q, rot, D, 2};
    e.h = (fg_cuda_acts){h, hq, hrot, ff, ff / 128};
    e.g = new_floats((size_t)n_slot * ff);
    e.up_y = new_floats((size_t)n_slot * ff);
    e.y = new_floats((size_t)n_slot * e.y_stride);
    fg_emu_log log;
    const fg_cuda_queue queue = fg_emu_queue(&log);
    bool faulted, ok = true;
    RUN_CAUGHT(faulted, fg_cuda_few_experts(&queue, &e));
    if (faulted || log.result != 0) fg_test_fail(__FILE__, __LINE__, "fault or launch");
    float *g = new_floats(ff), *u = new_floats(ff), *y = new_floats(D);
    for (uint32_t i = 0; i < n_slot; i++) {
        const fg_cuda_expert *w = &table[sel[i]];
        const float *got = e.y + (size_t)i * e.y_stride;
        memset(y, 0, 4 * D);
        if (w->gate != NULL) {
            const size_t t = i / c->n_used;
            multiply(&e.gate, w->gate, w->gate_scale, x + t * D, q + 2 * t, rot + 2 * t, g);
            multiply(&e.up, w->up, w->up_scale, x + t * D, q + 2 * t, rot + 2 * t, u);
            k.silu_mul(g, u, ff, g);
            k.quantize_act(g, ff, hq);
            multiply(&e.down, w->down, w->down_scale, g, hq, NULL, y);
        }
        ok = ok && same_floats(y, got, D);
    }
    give_back();
    return ok;
}

FG_TEST(experts)
{
    for (unsigned kind = 0; kind < FG_KIND_COUNT; kind++) {
        const fg_qkind a = (fg_qkind)kind;
        if (a == FG_KIND_Q4LIN) continue; /* a table goes with all of a test */
        CHECK(experts_agree(&(model){a, a, FG_KIND_Q6, 128, 1, 2}));
        CHECK(experts_agree(&(model){FG_KIND_Q4, FG_KIND_Q4, a, 384, 3, 2}));
    }
    fg_emu_order(5);
    CHECK(experts_agree(&(model){FG_KIND_Q4, FG_KIND_Q5, FG_KIND_Q8, 272, 8, 3}));
    CHECK(experts_agree(&(model){FG_KIND_Q4, FG_KIND_Q4, FG_KIND_Q4, 128, 8, 6}));
    fg_emu_order(0);
}

FG_TEST(experts_controls)
{
    CONTROLS_OF_THE_EMULATOR;
    const model c = {FG_KIND_Q4, FG_KIND_Q4, FG_KIND_Q6, 384, 1, 2};
    for (unsigned what = 1; what <= 2; what *= 2) {
        fg_emu_break(what);
        CHECK(!experts_agree(&c));
    }
    fg_emu_break(0);
}

/* ---- the mailbox ---- */

/* A host on its own thread: sees tickets in order, with the pieces and the selection that were
 * posted before them, and answers with an expert's output. */
enum { WIDTH = 384 };
typedef struct host {
    fg_cuda_mailbox box;
    _Alignas(16) uint32_t posted[64];
    uint32_t sel, row_of;
    float sel_w;
    _Alignas(16) float y[WIDTH];
    uint32_t n_layer, first;
    bool answer, torn;
} host;

static void *be_host(void *p)
{
    host *h = p;
    for (uint32_t l = 0; l < h->n_layer; l++) {
        while (__atomic_load_n(&h->box.routed, __ATOMIC_ACQUIRE) != h->first + l + 1) continue;
        for (size_t i = 0; i < 61; i++) h->torn = h->torn || h->posted[i] != l * 64 + i;
        h->torn = h->torn || h->sel != l % 16 || h->sel_w != 1.0f;
        for (size_t i = 0; i < WIDTH; i++) h->y[i] = (float)(l + i);
        if (h->answer) __atomic_store_n(&h->box.done, h->first + l + 1, __ATOMIC_RELEASE);
    }
    if (!h->answer) __atomic_store_n(&h->box.abort, 1u, __ATOMIC_RELEASE);
    return NULL;
}

static void converse(bool answer, uint32_t n_layer)
{
    host *h = take(sizeof *h);
    fg_cuda_pass *pass = take(sizeof *pass);
    uint32_t *from = take(64 * sizeof *from);
    float *w = take(3 * 2048 * sizeof *w), *n = take(WIDTH * sizeof *n);
    float *x = take(WIDTH * sizeof *x), *sel_w = take(sizeof *sel_w);
    uint32_t *sel = take(sizeof *sel);
    float *work = take((size_t)fg_cuda_route_bytes(1, 16, 3));
    memset(work, 0, (size_t)fg_cuda_route_bytes(1, 16, 3));
    for (size_t i = 0; i < 3 * 2048; i++) w[i] = i / 16 == i % 16 ? 1.0f : 0.0f;
    *h = (host){.n_layer = n_layer, .first = 0xfffffff0u, .answer = answer}; /* tickets wrap */
    h->box.routed = h->box.done = h->first;
    *pass = (fg_cuda_pass){h->first, 1};
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, be_host, h) == 0);
    fg_emu_log log;
    const fg_cuda_queue q = fg_emu_queue(&log);
    for (uint32_t l = 0; l < n_layer; l++) {
        for (uint32_t i = 0; i < 64; i++) from[i] = l * 64 + i;
        for (uint32_t i = 0; i < WIDTH; i++) n[i] = i == l % 16 ? 1.0f : 0.0f;
        memset(x, 0, WIDTH * sizeof *x);
        const fg_cuda_post post = {
            .pass = pass,
            .layer = l,
            .n = 2,
            .piece = {{from, h->posted, 40 * 4}, {from + 40, h->posted + 40, 21 * 4}},
            .sel = &h->sel,
            .sel_w = &h->sel_w,
            .box = &h->box};
        const fg_cuda_matrix m = {(uint8_t *)(void *)w, NULL,  3 * 8192, 1, 3,
                                  FG_KIND_F32,          false, {0}};
        fg_cuda_route(&q, &(fg_cuda_router){1, 16, 1, m, n, WIDTH, sel, sel_w, work}, &post);
        fg_cuda_join_rows(&q, &(fg_cuda_join){.n_row = 1,
                                              .d = WIDTH,
                                              .x = x,
                                              .a = x,
                                              .row_of = &h->row_of,
                                              .sel_w = sel_w,
                                              .y_host = h->y,
                                              .n_used = 1,
                                              .residual = true,
                                              .beta = 1.0f,
                                              .await = {pass, l, &h->box}});
        CHECK(log.result == 0);
        for (uint32_t i = 0; answer && i < WIDTH; i++) h->torn = h->torn || x[i] != (float)(l + i);
        if (answer) CHECK(h->box.done == h->first + l + 1);
    }
    (void)pthread_join(thread, NULL);
    CHECK(!h->torn && h->posted[61] == 0);
    give_back();
}

FG_TEST(mailbox)
{
    converse(true, 40);
}

FG_TEST(mailbox_aborts)
{
    converse(false, 1);
}

FG_TEST(read_rate)
{
    enum { N = 100003 * 4 };
    uint32_t *p = take(4 * N), *sum = take(4), want = 5;
    *sum = 5;
    for (uint32_t i = 0; i < N; i++) want += p[i] = i * 2654435761u;
    fg_emu_log log;
    const fg_cuda_queue q = fg_emu_queue(&log);
    fg_cuda_read_rate(&q, &(fg_cuda_read){p, 4 * N, sum});
    CHECK(log.result == 0 && *sum == want);
    give_back();
}
