/* SPDX-License-Identifier: MIT
 *
 * Products of the card, in the emulator, against the panels of the scalar level, bit for bit.
 */
#include "tests/cuda/cuda_check.h"

static const char *name_of(fg_qkind kind)
{
    return fg_qkinds[kind].name;
}

/* n blocks of mixed magnitudes, so that the order of sums shows; some 0, some of them (bad_blocks)
 * no numbers. */
static bool bad_blocks;
static void fill_blocks(fg_rng *r, fg_act128 *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        memset(&x[i], 0, sizeof x[i]);
        x[i].d =
            i % 13 == 5 ? 0.0f : ldexpf((float)(fg_rng_f64(r) - 0.5), (int)(fg_rng_u64(r) % 20));
        if (bad_blocks && i == 2) x[i].d = NAN;
        if (bad_blocks && i == 9) x[i].d = INFINITY;
        for (size_t k = 0; k < 128; k++) {
            const int v = (int)(fg_rng_u64(r) % 255) - 127;
            x[i].q[k] = (int8_t)(i % 7 == 3 ? (v < 0 ? -127 : 127) : v);
            x[i].sum[k / 32] = (int16_t)(x[i].sum[k / 32] + x[i].q[k]);
        }
    }
}

typedef struct panels {
    fg_cuda_matrix m;
    guarded w, scales;
    fg_lut lut;
} panels;

/* Any bytes are panels, but for -128 of q8; one panel in four is of extremes. */
static void make_panels(panels *p, fg_rng *r, fg_qkind kind, uint32_t n_panel, uint32_t n_sb)
{
    const uint64_t stride = fg_panel_bytes(fg_qkinds[kind].type, 128 * (uint64_t)n_sb);
    *p = (panels){.w = guard_alloc(n_panel * stride), .scales = guard_alloc(64 * (size_t)n_panel)};
    const bool is_float = (unsigned)kind >= FG_KIND_QUANTIZED;
    for (size_t i = 0; i < n_panel * stride; i++) {
        static const uint8_t ends[4] = {0x00, 0xff, 0x80, 0x7f};
        uint8_t b = (uint8_t)fg_rng_u64(r);
        if (i / stride % 4 == 1) b = ends[b % 4];
        if (kind == FG_KIND_Q8 && b == 0x80 && i % 2112 >= 64) b = 0x81;
        p->w.p[i] = b;
    }
    float *s = (float *)(void *)p->scales.p;
    for (size_t i = 0; i < 16 * (size_t)n_panel; i++) s[i] = (float)(0.01 + fg_rng_f64(r));
    for (size_t i = 0; is_float && i < n_panel * stride / (kind == FG_KIND_F32 ? 4 : 2); i++) {
        const float v = ldexpf((float)normal_of(r), (int)(fg_rng_u64(r) % 12));
        const uint32_t u = bits_of_float(v);
        if (kind == FG_KIND_F32) memcpy(p->w.p + 4 * i, &u, 4);
        if (kind == FG_KIND_BF16) memcpy(p->w.p + 2 * i, (const uint8_t *)&u + 2, 2);
    }
    static const fg_lut wide = {{-32, -31, -30, -20, -12, -9, -6, -3, 0, 3, 6, 9, 13, 17, 30, 31}};
    p->lut = kind == FG_KIND_Q4 ? (n_panel % 2 == 0 ? fg_lut_grid6 : wide) : fg_lut_linear;
    p->m = (fg_cuda_matrix){p->w.p, s, stride, n_panel, n_sb, kind, false, {0}};
    memcpy(p->m.lut, p->lut.v, 16);
}

static void free_panels(panels *p)
{
    guard_free(&p->w);
    guard_free(&p->scales);
}

/* Does the card give what the scalar level gives, of matrices of these numbers of panels? */
typedef struct job {
    fg_qkind kind;
    uint32_t n_sb, n_tok, n_product, n_panel[6];
} job;

static bool split_sums;  /* control: two halves of a row added up by themselves */
static uint32_t a_block; /* bytes of shared memory that it may have; 0: as on an H100 */
static bool product_agrees(const fg_cuda_product *p, const panels *w, uint32_t n_tok)
{
    fg_kernels k;
    fg_kernels_init(&k, 0);
    const bool is_float = (unsigned)p->m->kind >= FG_KIND_QUANTIZED;
    const void *x = is_float ? (const void *)p->x.f : p->m->rotated ? p->x.rot : p->x.q;
    const size_t stride = is_float ? 4 * p->x.f_stride : sizeof(fg_act128) * p->x.q_stride;
    float *want = calloc(16 * (size_t)n_tok, sizeof *want);
    if (want == NULL) abort();
    float *rest = calloc(16 * (size_t)n_tok, sizeof *rest);
    if (rest == NULL) abort();
    const size_t half = split_sums ? p->m->n_sb / 2 : 0, of = is_float ? 512 : sizeof(fg_act128);
    bool ok = true;
    for (size_t i = 0; ok && i < p->m->n_panel; i++) {
        const uint8_t *panel = p->m->panels + i * p->m->panel_stride;
        fg_panel_fn *fn = k.panel[p->m->kind];
        fn(panel + half * (p->m->panel_stride / p->m->n_sb), p->m->scales + 16 * i, &w->lut,
           (const uint8_t *)x + half * of, stride, n_tok, p->m->n_sb - half, want, 16);
        if (half != 0) {
            fn(panel, p->m->scales + 16 * i, &w->lut, x, stride, n_tok, half, rest, 16);
            for (size_t j = 0; j < 16 * (size_t)n_tok; j++) want[j] += rest[j];
        }
        for (size_t t = 0; t < n_tok; t++) {
            ok = ok && same_floats(want + 16 * t, p->y + t * p->y_stride + 16 * i, 16);
        }
    }
    free(want);
    free(rest);
    return ok;
}

static bool agrees(const job *j)
{
    enum { MOST = 6 };
    fg_rng r;
    fg_rng_init(&r, 1 + j->n_sb + 100 * j->n_tok);
    const uint32_t q_stride = j->n_sb + 1, f_stride = 128 * q_stride;
    const size_t n_block = (size_t)(j->n_tok - 1) * q_stride + j->n_sb;
    guarded q = guard_alloc(n_block * sizeof(fg_act128)), f = guard_alloc(n_block * 512);
    guarded rot = guard_alloc(n_block * sizeof(fg_act128));
    guarded work = guard_alloc((size_t)fg_cuda_multiply_bytes(j->n_tok, j->n_sb)), y[MOST];
    fill_blocks(&r, (fg_act128 *)(void *)q.p, n_block);
    fill_blocks(&r, (fg_act128 *)(void *)rot.p, n_block);
    fill_floats(&r, IN_OUTLIER, (float *)(void *)f.p, n_block * 128);
    panels w[MOST];
    fg_cuda_product p[MOST];
    for (uint32_t i = 0; i < j->n_product; i++) {
        make_panels(&w[i], &r, j->kind, j->n_panel[i], j->n_sb);
        w[i].m.rotated = i == 3;
        const uint32_t y_stride = 16 * (j->n_panel[i] + i);
        y[i] = guard_alloc(4 * ((size_t)(j->n_tok - 1) * y_stride + 16 * j->n_panel[i]));
        p[i] = (fg_cuda_product){&w[i].m,
                                 {(float *)(void *)f.p, (fg_act128 *)(void *)q.p,
                                  (fg_act128 *)(void *)rot.p, f_stride, q_stride},
                                 (float *)(void *)y[i].p,
                                 y_stride};
    }
    fg_emu_log log;
    fg_cuda_queue queue = fg_emu_queue(&log);
    if (a_block != 0) queue.max_shared = a_block;
    bool faulted;
    RUN_CAUGHT(faulted, fg_cuda_multiply(&queue, p, j->n_product, j->n_tok, work.p));
    bool ok = !faulted && log.result == 0;
    if (!ok)
        fg_test_fail(__FILE__, __LINE__, "%s: %s", name_of(j->kind), faulted ? "fault" : "launch");
    for (uint32_t i = 0; i < j->n_product; i++) ok = ok && product_agrees(&p[i], &w[i], j->n_tok);
    for (uint32_t i = 0; i < j->n_product; i++) {
        free_panels(&w[i]);
        guard_free(&y[i]);
    }
    guard_free(&q);
    guard_free(&f);
    guard_free(&rot);
    guard_free(&work);
    return ok;
}

static const job shapes[] = {
    {0, 1, 1, 1, {1}},     {0, 2, 1, 3, {16, 5, 5}},
    {0, 3, 2, 1, {2}},     {0, 5, 1, 5, {9, 1, 2, 3, 4}},
    {0, 48, 1, 2, {7, 4}}, {0, 5, 8, 4, {3, 9, 1, 2}},
    {0, 2, 9, 2, {17, 3}}, {0, 3, 33, 1, {9}},
    {0, 2, 70, 2, {3, 8}}, {0, 150, 1, 1, {5}},
    {0, 1, 130, 1, {1}},
};

FG_TEST(every_kind_and_shape)
{
    for (unsigned kind = 0; kind < FG_KIND_COUNT; kind++) {
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            job j = shapes[i];
            j.kind = (fg_qkind)kind;
            if (!agrees(&j)) {
                fg_test_fail(__FILE__, __LINE__, "%s: n_sb %u, n_tok %u: other bits",
                             name_of(j.kind), j.n_sb, j.n_tok);
            }
        }
    }
}

FG_TEST(threads_in_any_order)
{
    for (unsigned kind = 0; kind < FG_KIND_COUNT; kind++) {
        fg_emu_order(3 + kind);
        CHECK(agrees(&(job){(fg_qkind)kind, 5, 1, 3, {9, 2, 1}}));
        CHECK(agrees(&(job){(fg_qkind)kind, 4, 9, 1, {9}}));
    }
    fg_emu_order(0);
}

/* Shared memory that is not enough for all at once: pieces of the rows, fewer warps. */
FG_TEST(long_rows)
{
    CHECK(agrees(&(job){FG_KIND_Q6, fg_test_long() ? 8192 : 300, 1, 2, {5, 1}}));
    CHECK(agrees(&(job){FG_KIND_BF16, 1100, 1, 1, {1}}));
}

/* Fewer warps, and rounds of few panels. */
FG_TEST(little_shared_memory)
{
    for (unsigned kind = 0; kind < FG_KIND_QUANTIZED; kind++) {
        a_block = 99 * 1024; /* sm_86 */
        CHECK(agrees(&(job){(fg_qkind)kind, 60, 1, 1, {23}}));
        a_block = 48 * 1024;
        CHECK(agrees(&(job){(fg_qkind)kind, 5, 1, 2, {9, 4}}));
    }
    a_block = 0;
}

/* A block that was NaN or infinite makes its row NaN, and no other. */
FG_TEST(rows_that_are_no_numbers)
{
    bad_blocks = true;
    CHECK(agrees(&(job){FG_KIND_Q6, 3, 12, 2, {3, 1}}));
    CHECK(agrees(&(job){FG_KIND_Q4, 5, 1, 1, {3}}));
    bad_blocks = false;
}

FG_TEST(split_sums_are_seen)
{
    for (unsigned kind = 0; kind < FG_KIND_COUNT; kind++) {
        for (uint32_t n_tok = 1; n_tok < 10; n_tok += 8) {
            const job j = {(fg_qkind)kind, 24, n_tok, 1, {4}};
            split_sums = true;
            CHECK(!agrees(&j));
            split_sums = false;
        }
    }
}

FG_TEST(controls)
{
    CONTROLS_OF_THE_EMULATOR;
    static const fg_qkind seen[] = {FG_KIND_Q6, FG_KIND_BF16, FG_KIND_F32};
    for (size_t i = 0; i < sizeof seen / sizeof *seen; i++) {
        for (uint32_t n_tok = 1; n_tok < 10; n_tok += 8) {
            const job j = {seen[i], 24, n_tok, 1, {4}};
            CHECK(agrees(&j));
            fg_emu_break(FG_EMU_UNFUSED);
            CHECK(!agrees(&j));
            if (n_tok == 1) fg_emu_break(FG_EMU_REVERSED);
            CHECK(!agrees(&j));
            fg_emu_break(0);
        }
    }
}
