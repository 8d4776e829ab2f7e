/* SPDX-License-Identifier: MIT
 *
 * Every kernel on one core, at real row lengths.  All kernels are sampled once in each of
 * FG_BENCH_ROUNDS rounds, so that a disturbance of the machine hits all alike; the scalar reference
 * takes part in every fourth round.
 *
 * "Cache": weights of a few panels and the activations together fit a second-level cache of 512 KiB
 * up to 16 tokens; with 64 the activations of long rows alone are larger, as in a prefill.
 * "Memory": panels are taken from a buffer that the last-level cache cannot hold, each once.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "bench/bench_impl.h"
#include "src/sys/bandwidth.h"
#include "src/sys/room.h"

enum {
    MAX_TOK = 64,
    MAX_ROWS = 128, /* of attn_i8 */
    N_SCALAR = (FG_BENCH_ROUNDS + 3) / 4,
    WARM_BYTES = 192 << 10, /* of panels */
    MAX_COLS = 1 << 16,
};
#define SAMPLE_NS       60000u /* a sample repeats the call for about so long */
#define COLD_BYTES      ((uint64_t)2 << 20)
#define MAX_SHAPE_BYTES ((uint64_t)1 << 20)

typedef enum op {
    OP_PANEL,
    OP_QUANTIZE_ACT,
    OP_QUANTIZE_ACT_ROT,
    OP_RMSNORM,
    OP_AXPBY,
    OP_AXPY,
    OP_SILU,
    OP_SILU_MUL,
    OP_SIGMOID_MUL,
    OP_ROPE,
    OP_SOFTMAX_NUM,
    OP_LIGHT_OUT,
    OP_LIGHT_FOLD,
    OP_ATTN_F32,
    OP_ATTN_F16,
    OP_ATTN_I8,
    OP_QUANTIZE_I16,
    OP_ATTN_MERGE,
} op;

typedef struct item {
    fg_bench_kernel row;
    op op;
    fg_qtype type; /* OP_PANEL */
    const fg_lut *lut;
    size_t panel_bytes, n_panel; /* of a call's walk */
    uint64_t calls;              /* of a sample */
    double ns[FG_BENCH_ROUNDS], scalar_ns[N_SCALAR];
} item;

typedef struct kernel_job {
    const fg_shape *shape;
    const fg_kernels *k;
    fg_kernels scalar;
    item *item;
    size_t n_item;
    uint8_t *warm; /* WARM_BYTES and one panel */
    uint8_t *cold; /* cold_bytes */
    uint64_t cold_bytes, cold_at;
    fg_act128 *q;            /* [MAX_TOK] rows of the longest row */
    fg_act_tiles t;          /* as many for a tile unit, if there is one; any numbers */
    float *x, *y;            /* [MAX_TOK] rows, and outputs */
    uint64_t x_bytes;        /* of each of the two */
    float q_scale[MAX_ROWS]; /* of attn_i8: rows that see a whole block */
    uint16_t n_pos[MAX_ROWS];
    float *gate; /* as many numbers whose sigmoid is 1: sigmoid_mul works in place */
} kernel_job;

/* ---- one call ---- */

static const uint8_t *next_panel(kernel_job *j, const item *it, size_t i)
{
    if (!it->row.cold) return j->warm + i * it->panel_bytes;
    if (j->cold_at + it->panel_bytes > j->cold_bytes) j->cold_at = 0;
    const uint8_t *p = j->cold + j->cold_at;
    j->cold_at += it->panel_bytes;
    return p;
}

static void call_panels(kernel_job *j, const item *it, const fg_kernels *k, size_t n_panel)
{
    static const _Alignas(64) float scale[FG_PANEL_ROWS] = {1.0f};
    const bool quantized = fg_qtype_get((uint32_t)it->type)->quantized;
    const size_t n_sb = it->row.n / FG_SB_COLS;
    const size_t stride = quantized ? n_sb * sizeof(fg_act128) : it->row.n * sizeof(float);
    fg_panel_fn *fn = fg_kernels_panel(k, it->type, it->lut);
    fg_tiles_fn *tiles_fn =
        it->row.n_tok >= FG_TILE_TOKENS ? fg_kernels_tiles(k, it->type, it->lut) : NULL;
    for (size_t i = 0; i < n_panel; i++) {
        if (tiles_fn != NULL) {
            tiles_fn(next_panel(j, it, i), 1, 0, scale, it->lut, &j->t, 0, it->row.n_tok, n_sb,
                     j->y, FG_PANEL_ROWS);
            continue;
        }
        fn(next_panel(j, it, i), scale, it->lut, quantized ? (const void *)j->q : j->x, stride,
           it->row.n_tok, n_sb, j->y, FG_PANEL_ROWS);
    }
}

/* Operands of the attention kernels are laid out in x (reads) and y (writes). */
static void call_attention(const kernel_job *j, const item *it, const fg_kernels *k)
{
    const size_t d = j->shape->d_head, c = FG_LIGHT_CHUNK,
                 group = j->shape->n_head / j->shape->n_kv_head;
    const size_t n = it->row.n_tok, m = FG_KV_BLOCK;
    const float *q = j->x, *kt = q + c * d, *v = kt + c * d, *decay = v + c * d, *s = decay + 2 * c;
    float *ml = j->y, *o = ml + 2 * c * 16;
    if (it->op == OP_LIGHT_OUT) k->light_out(q, d, c - n, n, d, kt, v, s, decay, o, d);
    if (it->op == OP_LIGHT_FOLD) k->light_fold(d, kt, v, decay, o);
    const float *qa = j->x, *ka = qa + (group + MAX_ROWS) * d, *va = ka + m * d, *sa = va + m * d;
    if (it->op == OP_ATTN_F32) k->attn_f32(qa, group, d, m, ka, va, ml, o);
    if (it->op == OP_ATTN_F16) {
        k->attn_f16(qa, group, d, m, (const uint16_t *)ka, (const uint16_t *)va, ml, o);
    }
    if (it->op == OP_ATTN_I8) {
        k->attn_i8((const int16_t *)(const void *)qa, j->q_scale, j->n_pos, n, d,
                   (const int8_t *)ka, sa, (const int8_t *)va, sa + m, ml, o, NULL);
    }
    if (it->op == OP_QUANTIZE_I16) (void)k->quantize_i16(qa, d, (int16_t *)(void *)o);
    if (it->op == OP_ATTN_MERGE) k->attn_merge(ml, o, ml + 2, o + d, d);
}

static void call(kernel_job *j, const item *it, const fg_kernels *k)
{
    const size_t n = it->row.n;
    switch (it->op) {
    case OP_PANEL: call_panels(j, it, k, it->n_panel); break;
    case OP_QUANTIZE_ACT: k->quantize_act(j->x, n, (fg_act128 *)(void *)j->y); break;
    case OP_QUANTIZE_ACT_ROT: k->quantize_act_rot(j->x, n, (fg_act128 *)(void *)j->y); break;
    case OP_RMSNORM: k->rmsnorm(j->x, j->x + n, n, 1e-5f, j->y); break;
    case OP_AXPBY: k->axpby(3.5f, j->x, 1.0f, j->x + n, n, j->y); break;
    case OP_AXPY: k->axpy(1e-3f, j->x, n, j->y); break;
    case OP_SILU: k->silu(j->y, n); break;
    case OP_SILU_MUL: k->silu_mul(j->x, j->x + n, n, j->y); break;
    case OP_SIGMOID_MUL: k->sigmoid_mul(j->y, j->gate, n); break;
    case OP_ROPE: k->rope(j->y, j->x, j->x + n, n); break;
    case OP_SOFTMAX_NUM:
        memcpy(j->y, j->x, n * sizeof(float));
        (void)k->softmax_num(j->y, n);
        break;
    case OP_LIGHT_OUT:
    case OP_LIGHT_FOLD:
    case OP_ATTN_F32:
    case OP_ATTN_F16:
    case OP_ATTN_I8:
    case OP_QUANTIZE_I16:
    case OP_ATTN_MERGE: call_attention(j, it, k); break;
    }
}

/* ---- samples ---- */

/* y starts from the same numbers each time: kernels that work in place would drift. */
static double sample(kernel_job *j, const item *it, const fg_kernels *k, uint64_t calls)
{
    if (it->op != OP_PANEL) memcpy(j->y, j->x, (size_t)j->x_bytes);
    const uint64_t t0 = fg_clock_ns();
    for (uint64_t i = 0; i < calls; i++) call(j, it, k);
    return (double)(fg_clock_ns() - t0) / (double)calls;
}

static void run_all(fg_worker *w, void *arg)
{
    kernel_job *j = arg;
    if (w->idx != 0) return;
    for (size_t i = 0; i < j->n_item; i++) { /* how many calls make a sample; warms up */
        item *it = &j->item[i];
        (void)sample(j, it, j->k, 1);
        const double ns = sample(j, it, j->k, 1);
        it->calls = ns > SAMPLE_NS ? 1 : (uint64_t)(SAMPLE_NS / (ns + 1.0)) + 1;
        if (it->row.cold) it->calls = 1;
    }
    for (size_t round = 0; round < FG_BENCH_ROUNDS; round++) {
        for (size_t i = 0; i < j->n_item; i++) {
            item *it = &j->item[i];
            it->ns[round] = sample(j, it, j->k, it->calls);
            if (round % 4 == 0 && !it->row.cold) {
                it->scalar_ns[round / 4] = sample(j, it, &j->scalar, 1 + it->calls / 16);
            }
        }
    }
}

/* ---- the list ---- */

typedef struct list {
    item *item;
    size_t n, cap;
    bool failed;
} list;

static item *add(list *l, const char *slot, op o, uint32_t n, uint32_t n_tok)
{
    static item none;
    void *p = l->item;
    if (l->failed || !fg_mem_grow(&p, &l->cap, l->n + 1, sizeof *l->item)) {
        l->failed = true;
        return &none;
    }
    l->item = p;
    item *it = &l->item[l->n++];
    memset(it, 0, sizeof *it);
    it->row.slot = slot;
    it->row.n = n;
    it->row.n_tok = n_tok;
    it->op = o;
    return it;
}

static void add_panel(list *l, const char *slot, fg_qtype type, const fg_lut *lut, uint32_t n_col,
                      uint32_t n_tok, bool cold)
{
    item *it = add(l, slot, OP_PANEL, n_col, n_tok);
    it->type = type;
    it->lut = lut;
    it->panel_bytes = (size_t)fg_panel_bytes(type, n_col);
    const size_t fit = (cold ? COLD_BYTES : WARM_BYTES) / it->panel_bytes;
    it->n_panel = fit < 1 ? 1 : fit;
    it->row.cold = cold;
    it->row.bytes = (double)it->panel_bytes;
    it->row.macs = (double)FG_PANEL_ROWS * n_col * n_tok;
}

static void add_panels(list *l, uint32_t n_col)
{
    static const uint32_t n_tok[] = {1, 2, 4, 8, 16, MAX_TOK};
    for (size_t i = 0; i < FG_KIND_COUNT; i++) {
        const fg_qkind_info *t = &fg_qkinds[i];
        add_panel(l, t->slot, t->type, t->lut, n_col, 1, true);
        for (size_t k = 0; k < sizeof n_tok / sizeof n_tok[0]; k++) {
            add_panel(l, t->slot, t->type, t->lut, n_col, n_tok[k], false);
        }
    }
}

static void add_vector(list *l, const char *slot, op o, uint32_t n, double bytes_each, double macs)
{
    item *it = add(l, slot, o, n, 1);
    it->row.bytes = bytes_each * n;
    it->row.macs = macs;
}

/* The other kernels, at the model's dimensions. */
static void add_others(list *l, const fg_shape *s)
{
    const double d = s->d_head, group = (double)(s->n_head / s->n_kv_head), c = FG_LIGHT_CHUNK;
    const double block = FG_KV_BLOCK;
    const uint32_t model = (uint32_t)fg_round_up(s->d_model, FG_SB_COLS);
    add_vector(l, "quantize_act", OP_QUANTIZE_ACT, model, 4.0 + 144.0 / 128.0, 0.0);
    const uint32_t ff = (uint32_t)fg_round_up(s->d_ff, FG_SB_COLS); /* of the down projection */
    add_vector(l, "quantize_act_rot", OP_QUANTIZE_ACT_ROT, ff, 4.0 + 144.0 / 128.0, 0.0);
    add_vector(l, "rmsnorm", OP_RMSNORM, s->d_model, 12.0, 0.0);
    add_vector(l, "axpby", OP_AXPBY, s->d_model, 12.0, 0.0);
    add_vector(l, "axpy", OP_AXPY, s->d_model, 12.0, 0.0);
    add_vector(l, "silu", OP_SILU, 3 * s->d_head, 8.0, 0.0);
    add_vector(l, "silu_mul", OP_SILU_MUL, s->d_ff, 12.0, 0.0);
    add_vector(l, "sigmoid_mul", OP_SIGMOID_MUL, s->n_head * s->d_head, 12.0, 0.0);
    add_vector(l, "rope", OP_ROPE, s->d_rotary / 2, 24.0, 0.0);
    add_vector(l, "softmax_num", OP_SOFTMAX_NUM, s->n_expert, 8.0, 0.0);
    static const uint32_t n_tok[] = {1, FG_LIGHT_CHUNK};
    for (size_t i = 0; i < 2; i++) {
        item *it = add(l, "light_out", OP_LIGHT_OUT, s->d_head, n_tok[i]);
        const double n = n_tok[i], pairs = n * (c - (n - 1.0) / 2.0); /* causal */
        it->row.bytes = 4.0 * (d * d + 2.0 * c * d + 2.0 * n * d);
        it->row.macs = n * d * d + 2.0 * d * pairs;
    }
    add_vector(l, "light_fold", OP_LIGHT_FOLD, s->d_head, 4.0 * (2.0 * d + 2.0 * c), c * d * d);
    add_vector(l, "attn_f32", OP_ATTN_F32, s->d_head, 8.0 * block, 2.0 * group * block * d);
    add_vector(l, "attn_f16", OP_ATTN_F16, s->d_head, 4.0 * block, 2.0 * group * block * d);
    static const uint32_t n_row[] = {8, 64, MAX_ROWS};
    for (size_t i = 0; i < 3; i++) {
        item *it = add(l, "attn_i8", OP_ATTN_I8, s->d_head, n_row[i]);
        it->row.bytes = 2.0 * block * d + 8.0 * block;
        it->row.macs = 2.0 * n_row[i] * block * d;
    }
    add_vector(l, "quantize_i16", OP_QUANTIZE_I16, s->d_head, 6.0, 0.0);
    add_vector(l, "attn_merge", OP_ATTN_MERGE, s->d_head, 12.0, 0.0);
}

/* ---- the whole ---- */

static fg_status allocate(kernel_job *j, uint32_t max_cols, fg_err *err)
{
    const fg_shape *s = j->shape;
    /* attention operands: see call_attention */
    const uint64_t attn = (uint64_t)s->d_head * (s->d_head + 4 * FG_LIGHT_CHUNK + s->n_head +
                                                 2 * FG_KV_BLOCK + MAX_ROWS) +
                          8 * FG_KV_BLOCK + 64 * FG_LIGHT_CHUNK;
    uint64_t n = (uint64_t)MAX_TOK * max_cols;
    const uint64_t widths[] = {4 * (uint64_t)s->d_model + 512, 4 * (uint64_t)s->d_ff,
                               4 * (uint64_t)s->n_head * s->d_head, 4 * (uint64_t)s->n_expert,
                               attn};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        if (widths[i] > n) n = widths[i];
    }
    j->x_bytes = n * sizeof(float);
    j->cold_bytes = 8 * fg_llc_bytes();
    if (j->cold_bytes < (uint64_t)64 << 20) j->cold_bytes = (uint64_t)64 << 20;
    j->cold_bytes = fg_room_share(j->cold_bytes, 8);
    const uint64_t longest = fg_panel_bytes_most(max_cols);
    if (j->cold_bytes < longest) j->cold_bytes = longest;
    j->x = fg_mem_alloc((size_t)j->x_bytes);
    j->y = fg_mem_zalloc((size_t)j->x_bytes);
    j->gate = fg_mem_alloc((size_t)j->x_bytes);
    j->q = fg_mem_alloc((size_t)(n / FG_SB_COLS * sizeof(fg_act128)));
    j->warm = fg_mem_alloc((size_t)(WARM_BYTES + longest));
    j->cold = fg_mem_map((size_t)j->cold_bytes);
    if (j->k->tiles[0] != NULL) {
        j->t.rows = fg_tile_rows(MAX_TOK);
        j->t.q = fg_mem_zalloc_array(j->t.rows, max_cols);
        j->t.d = fg_mem_zalloc_array(j->t.rows, max_cols / FG_SB_COLS * sizeof *j->t.d);
        if (j->t.q == NULL || j->t.d == NULL) return fg_fail_nomem(err, "kernel bench");
        fg_bench_fill(j->t.q, j->t.rows * max_cols, 4);
        fg_bench_fill(j->t.d, j->t.rows * (max_cols / FG_SB_COLS) * sizeof *j->t.d, 5);
    }
    if (j->x == NULL || j->y == NULL || j->gate == NULL || j->q == NULL || j->warm == NULL ||
        j->cold == NULL) {
        return fg_fail_nomem(err, "kernel bench");
    }
    fg_bench_fill(j->x, j->x_bytes, 1);
    for (uint64_t i = 0; i < n; i++) j->gate[i] = 30.0f;
    fg_bench_fill(j->warm, WARM_BYTES + longest, 2);
    fg_bench_fill(j->cold, j->cold_bytes, 3);
    for (size_t i = 0; i < MAX_ROWS; i++) j->q_scale[i] = 1e-6f, j->n_pos[i] = FG_KV_BLOCK;
    j->k->quantize_act(j->x, (size_t)(n / FG_SB_COLS * FG_SB_COLS), j->q);
    return FG_OK;
}

static void finish_row(item *it)
{
    fg_bench_kernel *r = &it->row;
    const double per_call = it->op == OP_PANEL ? (double)it->n_panel : 1.0;
    r->median_ns = fg_bench_median(it->ns, FG_BENCH_ROUNDS) / per_call; /* sorts */
    r->min_ns = it->ns[0] / per_call;
    if (r->cold) return;
    r->vs_scalar = fg_bench_median(it->scalar_ns, N_SCALAR) / per_call / r->median_ns;
}

fg_status fg_bench_measure_kernels(fg_bench *b, const uint32_t *n_col, size_t n_shape,
                                   fg_bench_kernel **rows, size_t *n, fg_err *err)
{
    *rows = NULL;
    *n = 0;
    kernel_job j = {.shape = b->model->shape, .k = &b->model->k};
    list l = {0};
    uint32_t max_cols = FG_SB_COLS;
    fg_status st = FG_OK;
    fg_kernels_init(&j.scalar, 0);
    for (size_t i = 0; i < n_shape; i++) {
        if (n_col[i] < FG_SB_COLS || n_col[i] % FG_SB_COLS != 0 || n_col[i] > MAX_COLS) {
            st = fg_fail(err, FG_EINVAL, "shape: %u columns, expected a multiple of %d up to %d",
                         n_col[i], FG_SB_COLS, MAX_COLS);
            goto done;
        }
        if (n_col[i] > max_cols) max_cols = n_col[i];
        add_panels(&l, n_col[i]);
    }
    add_others(&l, b->model->shape);
    if (l.failed) st = fg_fail_nomem(err, "kernel bench");
    if (st == FG_OK) st = allocate(&j, max_cols, err);
    if (st != FG_OK) goto done;
    j.item = l.item;
    j.n_item = l.n;
    fg_team_run(b->team, run_all, &j);
    *rows = fg_mem_zalloc_array(l.n, sizeof **rows);
    if (*rows == NULL) {
        st = fg_fail_nomem(err, "kernel bench");
        goto done;
    }
    for (size_t i = 0; i < l.n; i++) {
        finish_row(&l.item[i]);
        (*rows)[i] = l.item[i].row;
    }
    *n = l.n;
done:
    fg_mem_free(l.item);
    fg_mem_free(j.x);
    fg_mem_free(j.y);
    fg_mem_free(j.gate);
    fg_mem_free(j.q);
    fg_mem_free(j.t.q);
    fg_mem_free(j.t.d);
    fg_mem_free(j.warm);
    fg_mem_unmap(j.cold, (size_t)j.cold_bytes);
    return st;
}

fg_status fg_bench_read_shapes(const char *path, uint32_t *n_col, size_t max, size_t *n,
                               fg_err *err)
{
    char *text, *save = NULL;
    size_t len;
    *n = 0;
    FG_TRY(fg_io_read_all(path, MAX_SHAPE_BYTES, &text, &len, err));
    fg_status st = FG_OK;
    unsigned line = 0;
    for (char *s = strtok_r(text, "\n", &save); s != NULL && st == FG_OK;
         s = strtok_r(NULL, "\n", &save)) {
        char name[64];
        unsigned rows, cols;
        line++;
        if (s[strspn(s, " \t\r")] == '\0' || s[0] == '#') continue;
        if (sscanf(s, "%63s %u %u", name, &rows, &cols) != 3) {
            st = fg_fail(err, FG_EFORMAT, "%s: entry %u is \"%.40s\", expected name, rows, columns",
                         path, line, s);
            break;
        }
        bool known = false;
        for (size_t i = 0; i < *n; i++) known = known || n_col[i] == cols;
        if (!known && *n < max) n_col[(*n)++] = cols;
    }
    fg_mem_free(text);
    return st;
}
