/* SPDX-License-Identifier: MIT
 *
 * What the card's kernels reach at the sizes of MiniMax-M1, as share of the rate of its memory: on
 * a card only (FULGUR_TEST_CARD=N).  Launches follow each other in a stream, each on other bytes,
 * so that no matrix is in the second-level cache.
 */
#include "tests/cuda/cuda_check.h"

#include <inttypes.h>
#include <stdlib.h>

#include "src/base/mem.h"
#include "tests/cuda/cuda_card.h"

static const uint64_t POOL = 1ull << 30; /* bytes of weights; several times the cache */
enum { REPEATS = 30, TIMES = 9, N_SB_MOST = 128, TOKENS = 512 };

/* All on the card; x, y and so on hold zeros. */
typedef struct card {
    const fg_gpu *gpu;
    fg_gpu_queue queue;
    fg_cuda_queue ops;
    uint64_t pool, x, y, work, scales;
    uint64_t seq, rows, u, attn; /* of attention */
    fg_cu_event begin, end;
    double read; /* bytes a second */
} card;

static uint64_t take(const card *c, uint64_t bytes)
{
    uint64_t p = 0;
    if (c->gpu->d->mem_alloc(&p, (size_t)bytes) != 0) abort();
    (void)c->gpu->d->fill(p, 0, (size_t)bytes, c->queue.stream);
    return p;
}

static int by_size(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

typedef void call_fn(const card *c, const void *what, uint32_t i);

/* Seconds of one call, the median of TIMES. */
static double seconds(const card *c, call_fn *call, const void *what)
{
    const fg_driver *d = c->gpu->d;
    float ms[TIMES];
    for (int k = 0; k < TIMES; k++) {
        (void)d->event_record(c->begin, c->queue.stream);
        for (uint32_t i = 0; i < REPEATS; i++) call(c, what, i);
        (void)d->event_record(c->end, c->queue.stream);
        CHECK(d->event_sync(c->end) == 0 && c->queue.result == 0);
        (void)d->event_time(&ms[k], c->begin, c->end);
    }
    qsort(ms, TIMES, sizeof *ms, by_size);
    return (double)ms[TIMES / 2] * 1e-3 / REPEATS;
}

static void *at(uint64_t p)
{
    return (void *)(uintptr_t)p;
}

/* ---- products ---- */

typedef struct product {
    fg_qkind kind;
    uint32_t n_panel, n_sb, n_tok;
} product;

static uint64_t matrix_bytes(const product *p)
{
    return p->n_panel * fg_panel_bytes(fg_qkinds[p->kind].type, 128 * (uint64_t)p->n_sb);
}

static void multiply(const card *c, const void *what, uint32_t i)
{
    const product *p = what;
    const uint64_t bytes = matrix_bytes(p), n = POOL / bytes;
    const fg_cuda_matrix m = {.panels = (const uint8_t *)at(c->pool + i % n * bytes),
                              .scales = at(c->scales),
                              .panel_stride = bytes / p->n_panel,
                              .n_panel = p->n_panel,
                              .n_sb = p->n_sb,
                              .kind = p->kind};
    const fg_cuda_acts x = {at(c->x), at(c->x), at(c->x), 128 * p->n_sb, p->n_sb};
    const fg_cuda_product one = {&m, x, at(c->y), 16 * p->n_panel};
    fg_cuda_multiply(&c->ops, &one, 1, p->n_tok, at(c->work));
}

static void show_products(const card *c)
{
    static const product all[] = {
        {FG_KIND_Q6, 2048, 48, 1},     {FG_KIND_Q6, 384, 64, 1},    {FG_KIND_Q4, 3006, 48, 1},
        {FG_KIND_Q4, 384, 64, 1},      {FG_KIND_Q4LIN, 384, 64, 1}, {FG_KIND_Q5, 384, 64, 1},
        {FG_KIND_Q8, 384, 64, 1},      {FG_KIND_Q8, 8192, 48, 1},   {FG_KIND_Q4, 1152, 48, 1},
        {FG_KIND_Q4, 384, 72, 1},      {FG_KIND_F32, 2, 48, 1},     {FG_KIND_BF16, 384, 64, 1},
        {FG_KIND_Q6, 2048, 48, 4},     {FG_KIND_Q6, 384, 64, 8},    {FG_KIND_Q4, 3006, 48, 2},
        {FG_KIND_Q6, 2048, 48, 512},   {FG_KIND_Q4, 1152, 48, 512}, {FG_KIND_Q4, 384, 72, 512},
        {FG_KIND_Q4LIN, 384, 64, 512}, {FG_KIND_Q8, 384, 64, 512},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const product *p = &all[i];
        const double s = seconds(c, multiply, p), bytes = (double)matrix_bytes(p);
        const double macs = 2048.0 * p->n_panel * p->n_sb * p->n_tok;
        printf(
            "%-6s %6u x %5u, %3u rows, %6.1f MB: %8.2f us, %5.0f GB/s (%3.0f %%), %6.2f TMAC/s\n",
            fg_qkinds[p->kind].name, 16 * p->n_panel, 128 * p->n_sb, p->n_tok, bytes * 1e-6,
            s * 1e6, bytes / s * 1e-9, 100.0 * bytes / s / c->read, macs / s * 1e-12);
    }
}

/* ---- rows ---- */

static void join(const card *c, const void *what, uint32_t i)
{
    const fg_cuda_acts n = {at(c->y), at(c->work), NULL, 6144, 48};
    (void)what, (void)i;
    fg_cuda_join_rows(&c->ops, &(fg_cuda_join){.n_row = 1,
                                               .d = 6144,
                                               .x = at(c->x),
                                               .x_stride = 6144,
                                               .a = at(c->x),
                                               .a_stride = 6144,
                                               .residual = true,
                                               .postnorm = true,
                                               .w = at(c->scales),
                                               .n = n});
}
static void gate(const card *c, const void *what, uint32_t i)
{
    const fg_cuda_acts u = {at(c->y), at(c->work), NULL, 8192, 64};
    (void)what, (void)i;
    fg_cuda_gate_rows(&c->ops, &(fg_cuda_gate){1, 8192, u, at(c->scales), at(c->x), 8192, 1e-6f});
}
static void hidden(const card *c, const void *what, uint32_t i)
{
    const fg_cuda_acts h = {at(c->y), at(c->work), NULL, 9216, 72};
    (void)what, (void)i;
    fg_cuda_hidden_rows(&c->ops, &(fg_cuda_hidden){2, 9216, at(c->x), at(c->x), 9216, h});
}
static void route(const card *c, const void *what, uint32_t i)
{
    const fg_cuda_matrix m = {.panels = (const uint8_t *)at(c->pool + i * 786432ull),
                              .panel_stride = 48 * 8192,
                              .n_panel = 2,
                              .n_sb = 48,
                              .kind = FG_KIND_F32};
    (void)what;
    fg_cuda_route(
        &c->ops,
        &(fg_cuda_router){1, 32, 2, m, at(c->x), 6144, at(c->y), at(c->y + 4096), at(c->work)},
        NULL);
}

static void show_rows(const card *c)
{
    static const struct {
        const char *name;
        call_fn *call;
    } all[] = {{"join", join}, {"gate", gate}, {"hidden, 2 rows", hidden}, {"router", route}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        printf("%s: %.2f us\n", all[i].name, seconds(c, all[i].call, NULL) * 1e6);
    }
}

/* ---- attention, one layer of M1; states and caches are taken from the pool ---- */

typedef struct rows {
    uint64_t pos;
    uint32_t n;
} rows;

static void lightning(const card *c, const void *what, uint32_t i)
{
    enum { H = 64, D = 128, BYTES = 4 * H * (D * D + 2 * 64 * D) };
    const rows *r = what;
    const uint64_t s = c->pool + i % (POOL / BYTES) * BYTES, kt = s + 4ull * H * D * D;
    fg_cuda_lightning(&c->ops, &(fg_cuda_light){.seq = at(c->seq),
                                                .n_most = r->n,
                                                .n_head = H,
                                                .d = D,
                                                .qkv = at(c->rows),
                                                .qkv_stride = 3 * H * D,
                                                .s = at(s),
                                                .kt = at(kt),
                                                .v = at(kt + 4ull * H * D * 64),
                                                .decay = at(c->scales),
                                                .u = at(c->u),
                                                .u_stride = H * D,
                                                .work = at(c->attn)});
}

static fg_cuda_softmax softmax_of(const card *c, const rows *r, uint64_t cache)
{
    const uint64_t n_pos = fg_round_up(r->pos + r->n, 64), bytes = 8 * n_pos * 128;
    return (fg_cuda_softmax){.seq = at(c->seq),
                             .n_most = r->n,
                             .pos_most = r->pos + r->n,
                             .n_pos = n_pos,
                             .n_head = 64,
                             .n_kv_head = 8,
                             .d = 128,
                             .half = 32,
                             .kv_type = FG_CUDA_KV_INT8,
                             .k_cache = at(cache),
                             .v_cache = at(cache + bytes),
                             .k_scale = at(cache + 2 * bytes),
                             .v_scale = at(cache + 2 * bytes + 32 * n_pos),
                             .qkv = at(c->rows),
                             .qkv_stride = 80 * 128,
                             .cos = at(c->scales),
                             .sin = at(c->scales),
                             .u = at(c->u),
                             .u_stride = 64 * 128,
                             .work = at(c->attn)};
}

static void softmax(const card *c, const void *what, uint32_t i)
{
    const rows *r = what;
    const uint64_t bytes = 8 * fg_round_up(r->pos + r->n, 64) * (2 * 128 + 8);
    const fg_cuda_softmax a = softmax_of(c, r, c->pool + i % (POOL / bytes) * bytes);
    fg_cuda_attention(&c->ops, &a);
}

/* Zeros are as good as anything: no path depends on values.  folded: of lightning. */
static void show_attention(card *c)
{
    static const rows light[] = {{63, 1}, {64, 1}, {0, 512}, {0, 2048}};
    static const rows kv[] = {{4095, 1}, {32767, 1},    {131071, 1},   {0, 512},
                              {0, 2048}, {30720, 2048}, {131072, 2048}};
    const fg_driver *d = c->gpu->d;
    const uint64_t light_work = fg_cuda_light_bytes(2048, 64);
    const fg_cuda_softmax most = softmax_of(c, &(rows){131072, 2048}, 0);
    const uint64_t work = fg_cuda_softmax_bytes(&most);
    c->seq = take(c, sizeof(fg_cuda_seq));
    c->rows = take(c, 4ull * 2048 * 3 * 64 * 128);
    c->u = take(c, 4ull * 2048 * 64 * 128);
    c->attn = take(c, work > light_work ? work : light_work);
    for (size_t i = 0; i < sizeof light / sizeof *light; i++) {
        const fg_cuda_seq seq = {light[i].pos, 0, 0, light[i].n};
        REQUIRE(d->copy_in(c->seq, &seq, sizeof seq, c->queue.stream) == 0);
        const double s = seconds(c, lightning, &light[i]);
        printf("lightning at %" PRIu64 ", %u rows: %.1f us\n", light[i].pos, light[i].n, s * 1e6);
    }
    for (size_t i = 0; i < sizeof kv / sizeof *kv; i++) {
        const fg_cuda_seq seq = {kv[i].pos, 0, 0, kv[i].n};
        REQUIRE(d->copy_in(c->seq, &seq, sizeof seq, c->queue.stream) == 0);
        const double s = seconds(c, softmax, &kv[i]), n = kv[i].n;
        const double seen = n * ((double)kv[i].pos + (n + 1) / 2);
        printf("softmax at %" PRIu64 ", %u rows: %.1f us, %.0f GB/s of the cache, %.1f TMAC/s\n",
               kv[i].pos, kv[i].n, s * 1e6, 2112.0 * ((double)kv[i].pos + n) / s * 1e-9,
               seen * 64 * 256 / s * 1e-12);
    }
}

static void read_pool(const card *c, const void *what, uint32_t i)
{
    (void)what, (void)i;
    fg_cuda_read_rate(&c->ops, &(fg_cuda_read){at(c->pool), POOL, at(c->y)});
}

FG_TEST(rates)
{
    if (!check_on_card()) {
        fg_test_skip("no card is asked for (FULGUR_TEST_CARD=N)");
        return;
    }
    card c = {.gpu = check_gpu()};
    const fg_driver *d = c.gpu->d;
    REQUIRE(d->stream_create(&c.queue.stream, 1) == 0);
    REQUIRE(d->event_create(&c.begin, 0) == 0 && d->event_create(&c.end, 0) == 0);
    c.queue.gpu = c.gpu;
    c.ops = fg_gpu_queue_ops(&c.queue);
    c.pool = take(&c, POOL);
    c.x = take(&c, 512ull * TOKENS * N_SB_MOST);
    c.y = take(&c, 4ull * TOKENS * 200064);
    c.work = take(&c, fg_cuda_multiply_bytes(TOKENS, N_SB_MOST));
    c.scales = take(&c, 4ull * 200064);
    c.read = (double)POOL / seconds(&c, read_pool, NULL);
    printf("%s, %u multiprocessors: reads %.0f GB/s\n", c.gpu->info.name, c.gpu->info.n_sm,
           c.read * 1e-9);
    show_products(&c);
    show_rows(&c);
    show_attention(&c);
}
