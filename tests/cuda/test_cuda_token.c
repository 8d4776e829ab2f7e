/* SPDX-License-Identifier: MIT
 *
 * Where the time of a decoded token goes: the dense part of MiniMax-M1's 80 layers behind 4095
 * tokens as one graph, as src/device/cuda_pass.c records it, with q6 in attention and q8 in the
 * head; then the same with one sort of kernel left out, whose share is what that saves.  The
 * mailbox is answered at once.  On a card only (FULGUR_TEST_CARD=N), with 17 GB free.
 */
#include "tests/cuda/cuda_check.h"

#include <inttypes.h>
#include <stdlib.h>

#include "src/base/clock.h"
#include "tests/cuda/cuda_card.h"

enum { LAYERS = 80, D = 6144, H = 64, HD = 128, W = H * HD, VOCAB = 200064, POS = 4095, USED = 2 };
enum { TIMES = 15, NOTHING = FG_CUDA_KERNEL_COUNT };

typedef struct block {
    fg_cuda_pass pass;
    fg_cuda_seq seq;
} block;

typedef struct card {
    const fg_gpu *gpu;
    const fg_driver *d;
    fg_gpu_queue queue;
    fg_cuda_queue real;
    uint64_t pool, used, bytes;
    /* activations, on the card */
    uint64_t block, x, n, u, a, qkv, gate, sel, work, attn, logits, ones;
    /* pinned, as both sides see it */
    block *staged;
    fg_cuda_mailbox *box;
    uint8_t *host;
    uint32_t n_launch;
    int left_out; /* a kernel, or NOTHING */
    bool mailbox;
} card;

static void *at(uint64_t p)
{
    return (void *)(uintptr_t)p;
}

static uint64_t take(card *c, uint64_t bytes)
{
    const uint64_t p = c->pool + c->used;
    c->used += (bytes + 255) / 256 * 256;
    if (c->used > c->bytes) abort();
    return p;
}

/* Launches all but what is left out. */
static void launch(void *ctx, const fg_cuda_launch *l)
{
    card *c = ctx;
    if ((int)l->kernel == c->left_out) return;
    c->n_launch++;
    c->real.launch(c->real.ctx, l);
}

/* ---- the network ---- */

static fg_cuda_matrix matrix(card *c, fg_qkind kind, uint32_t n_row, uint32_t n_col)
{
    const uint64_t stride = fg_panel_bytes(fg_qkinds[kind].type, n_col);
    return (fg_cuda_matrix){.panels = at(take(c, n_row / 16 * stride)),
                            .scales = at(c->ones),
                            .panel_stride = stride,
                            .n_panel = n_row / 16,
                            .n_sb = n_col / 128,
                            .kind = kind};
}

static void lightning(card *c, const fg_cuda_queue *q, fg_cuda_acts n, fg_cuda_acts u)
{
    const fg_cuda_matrix qkv = matrix(c, FG_KIND_Q6, 3 * W, D), gate = matrix(c, FG_KIND_Q6, W, D);
    const fg_cuda_product in[] = {{&qkv, n, at(c->qkv), 3 * W}, {&gate, n, at(c->gate), W}};
    fg_cuda_multiply(q, in, 2, 1, NULL);
    fg_cuda_lightning(q, &(fg_cuda_light){.seq = &((block *)at(c->block))->seq,
                                          .n_most = 1,
                                          .n_head = H,
                                          .d = HD,
                                          .qkv = at(c->qkv),
                                          .qkv_stride = 3 * W,
                                          .s = at(take(c, 4ull * H * HD * HD)),
                                          .kt = at(take(c, 4ull * H * HD * 64)),
                                          .v = at(take(c, 4ull * H * HD * 64)),
                                          .decay = at(c->ones),
                                          .u = u.f,
                                          .u_stride = W});
    fg_cuda_gate_rows(q, &(fg_cuda_gate){1, W, u, at(c->ones), at(c->gate), W, 1e-6f});
}

static void softmax(card *c, const fg_cuda_queue *q, fg_cuda_acts n, fg_cuda_acts u)
{
    const fg_cuda_matrix m[] = {matrix(c, FG_KIND_Q6, W, D), matrix(c, FG_KIND_Q6, 1024, D),
                                matrix(c, FG_KIND_Q6, 1024, D)};
    float *to = at(c->qkv);
    const fg_cuda_product in[] = {
        {&m[0], n, to, 3 * W}, {&m[1], n, to + W, 3 * W}, {&m[2], n, to + W + 1024, 3 * W}};
    fg_cuda_multiply(q, in, 3, 1, NULL);
    const uint64_t n_pos = POS + 1, cache = 8 * n_pos * HD;
    fg_cuda_softmax a = {.seq = &((block *)at(c->block))->seq,
                         .n_most = 1,
                         .pos_most = n_pos,
                         .n_pos = n_pos,
                         .n_head = H,
                         .n_kv_head = 8,
                         .d = HD,
                         .half = 32,
                         .kv_type = FG_CUDA_KV_INT8,
                         .k_cache = at(take(c, cache)),
                         .v_cache = at(take(c, cache)),
                         .k_scale = at(take(c, 32 * n_pos)),
                         .v_scale = at(take(c, 32 * n_pos)),
                         .qkv = to,
                         .qkv_stride = 3 * W,
                         .cos = at(c->ones),
                         .sin = at(c->ones),
                         .u = u.f,
                         .u_stride = W,
                         .work = at(c->attn)};
    fg_cuda_attention(q, &a);
    fg_cuda_gate_rows(q, &(fg_cuda_gate){.n_row = 1, .d = W, .u = u});
}

static fg_cuda_post post_of(const card *c, uint32_t l, fg_cuda_acts n)
{
    return (fg_cuda_post){.pass = &((block *)at(c->block))->pass,
                          .layer = l,
                          .n = 3,
                          .piece = {{n.q, c->host, D / 128 * sizeof(fg_act128)},
                                    {n.f, c->host + (1 << 16), 4 * D},
                                    {at(c->x), c->host + (2 << 16), 4 * D}},
                          .sel = (uint32_t *)(void *)(c->host + (3 << 16)),
                          .sel_w = (float *)(void *)(c->host + (3 << 16) + 256),
                          .box = c->box};
}

static void record(card *c, const fg_cuda_queue *q)
{
    const fg_cuda_acts n = {at(c->n), at(c->n + 4 * D), NULL, D, D / 128};
    const fg_cuda_acts u = {at(c->u), at(c->u + 4 * W), NULL, W, W / 128};
    fg_cuda_join j = {.n_row = 1,
                      .d = D,
                      .x = at(c->x),
                      .x_stride = D,
                      .a = at(c->a),
                      .a_stride = D,
                      .postnorm = true,
                      .alpha = 1.0f,
                      .beta = 1.0f,
                      .eps = 1e-6f,
                      .w = at(c->ones),
                      .n = n};
    c->used = c->attn + 4096ull * 2048 - c->pool;
    fg_cuda_join_rows(q, &j);
    j.residual = true;
    for (uint32_t l = 0; l < LAYERS; l++) {
        (l % 8 == 7 ? softmax : lightning)(c, q, n, u);
        const fg_cuda_matrix out = matrix(c, FG_KIND_Q6, D, W),
                             router = matrix(c, FG_KIND_F32, 32, D);
        fg_cuda_multiply(q, &(fg_cuda_product){&out, u, at(c->a), D}, 1, 1, NULL);
        j.row_of = NULL;
        j.await.box = NULL;
        fg_cuda_join_rows(q, &j);
        const fg_cuda_post post = post_of(c, l, n);
        const fg_cuda_router r = {
            1, 32, USED, router, n.f, D, at(c->sel), at(c->sel + 256), at(c->work)};
        fg_cuda_route(q, &r, c->mailbox ? &post : NULL);
        j.row_of = (const uint32_t *)(const void *)(c->host + (3 << 16) + 512);
        j.sel_w = r.sel_w;
        j.y_host = (const float *)(const void *)(c->host + (4 << 16));
        j.y_stride = D;
        j.n_used = USED;
        if (c->mailbox) j.await = (fg_cuda_await){post.pass, l, c->box};
        fg_cuda_join_rows(q, &j);
    }
    const fg_cuda_matrix head = matrix(c, FG_KIND_Q8, VOCAB, D);
    fg_cuda_multiply(q, &(fg_cuda_product){&head, n, at(c->logits), VOCAB}, 1, 1, NULL);
}

/* ---- its time ---- */

static fg_cu_graph_exec graph_of(card *c)
{
    const fg_cuda_queue q = {launch, c, c->real.n_sm, c->real.max_shared};
    fg_cu_graph graph;
    fg_cu_graph_exec exec = NULL;
    c->n_launch = 0;
    CHECK(c->d->capture_begin(c->queue.stream, FG_CU_CAPTURE_THREAD) == 0);
    CHECK(c->d->copy_in(c->block, c->staged, sizeof *c->staged, c->queue.stream) == 0);
    record(c, &q);
    CHECK(c->d->copy_out(c->host + (8 << 16), c->logits, 4 * VOCAB, c->queue.stream) == 0);
    if (!(c->d->capture_end(c->queue.stream, &graph) == 0 && c->queue.result == 0)) abort();
    if (!(c->d->graph_make(&exec, graph, 0) == 0)) abort();
    (void)c->d->graph_destroy(graph);
    return exec;
}

/* The host's part of a token: every layer is answered at once. */
static void answer(const card *c)
{
    for (uint32_t l = 0; l < LAYERS; l++) {
        const uint32_t ticket = c->staged->pass.ticket + l + 1;
        const uint64_t begin = fg_clock_ns();
        while (__atomic_load_n(&c->box->routed, __ATOMIC_ACQUIRE) != ticket) {
            if (fg_clock_ns() - begin > 2000000000) abort();
        }
        __atomic_store_n(&c->box->done, ticket, __ATOMIC_RELEASE);
    }
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Microseconds of a token from launch to logits, the median of TIMES. */
static double measure(card *c, int left_out, bool mailbox)
{
    double us[TIMES];
    c->left_out = left_out;
    c->mailbox = mailbox;
    fg_cu_graph_exec exec = graph_of(c);
    for (int k = -3; k < TIMES; k++) {
        c->staged->pass = (fg_cuda_pass){c->staged->pass.ticket + LAYERS + 1, 1};
        c->staged->seq = (fg_cuda_seq){POS, POS / 64 * 64, 0, 1};
        const uint64_t begin = fg_clock_ns();
        CHECK(c->d->graph_launch(exec, c->queue.stream) == 0);
        if (mailbox) answer(c);
        CHECK(c->d->stream_sync(c->queue.stream) == 0);
        if (k >= 0) us[k] = (double)(fg_clock_ns() - begin) * 1e-3;
    }
    (void)c->d->graph_exec_destroy(exec);
    qsort(us, TIMES, sizeof *us, by_size);
    return us[TIMES / 2];
}

static void show(card *c)
{
    static const int parts[] = {FG_CUDA_join,          FG_CUDA_gemv_q6,    FG_CUDA_light_one,
                                FG_CUDA_gate,          FG_CUDA_router_f32, FG_CUDA_attn_store,
                                FG_CUDA_attn_split_i8, FG_CUDA_attn_join,  FG_CUDA_hidden,
                                FG_CUDA_gemv_q8};
    const double whole = measure(c, NOTHING, false);
    printf("%d layers at %d: %.0f us a token, %u launches\n", LAYERS, POS, whole, c->n_launch);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const uint32_t all = c->n_launch;
        const double less = whole - measure(c, parts[i], false);
        const uint32_t n = all - c->n_launch;
        printf("  %-22s %4u launches, %7.0f us, %6.2f each\n", fg_cuda_kernel_name[parts[i]], n,
               less, n == 0 ? 0.0 : less / n);
        c->n_launch = all;
    }
    const double with = measure(c, NOTHING, true);
    printf("with the mailbox: %.0f us, %.2f us a layer more\n", with, (with - whole) / LAYERS);
}

FG_TEST(token)
{
    if (!check_on_card()) {
        fg_test_skip("no card is asked for (FULGUR_TEST_CARD=N)");
        return;
    }
    card c = {.gpu = check_gpu(), .bytes = 17ull << 30};
    c.d = c.gpu->d;
    size_t there = 0, all;
    if (c.d->mem_info(&there, &all) != 0 || there < c.bytes + (1 << 28)) {
        fg_test_skip("the card has less than 17 GB free");
        return;
    }
    REQUIRE(c.d->stream_create(&c.queue.stream, 1) == 0 && c.d->mem_alloc(&c.pool, c.bytes) == 0);
    REQUIRE(c.d->fill(c.pool, 0, c.bytes, c.queue.stream) == 0);
    c.queue.gpu = c.gpu;
    c.real = fg_gpu_queue_ops(&c.queue);
    void *p[3];
    REQUIRE(c.d->host_alloc(&p[0], sizeof *c.staged, 3) == 0);
    REQUIRE(c.d->host_alloc(&p[1], sizeof *c.box, 3) == 0);
    REQUIRE(c.d->host_alloc(&p[2], 32 << 16, 3) == 0);
    c.staged = p[0];
    c.box = p[1];
    c.host = p[2];
    memset(c.box, 0, sizeof *c.box);
    memset(c.host, 0, 32 << 16);
    c.host[(3 << 16) + 512 + 4] = 1; /* the second expert's output is in the second row */
    uint64_t *const room[] = {&c.block, &c.x,   &c.n,    &c.u,      &c.a,    &c.qkv,
                              &c.gate,  &c.sel, &c.work, &c.logits, &c.ones, &c.attn};
    for (size_t i = 0; i < sizeof room / sizeof *room; i++) *room[i] = take(&c, 4096ull * 2048);
    show(&c);
    (void)c.d->mem_free(c.pool);
    for (int i = 0; i < 3; i++) (void)c.d->host_free(p[i]);
}
