/* SPDX-License-Identifier: MIT
 *
 * The machine's limits: read bandwidth (src/sys/bandwidth.h) and the rate of the panel kernels from
 * the second-level cache, alone and on all cores.
 */
#include "bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "bench/bench_impl.h"
#include "src/engine/session.h"
#include "src/sys/machine.h"
#include "src/sys/room.h"
#include "src/sys/topo.h"
#include "src/sys/cpu.h"

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double fg_bench_median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return n % 2 == 1 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

bool fg_bench_unsteady(double before_gbs, double after_gbs)
{
    const double less = before_gbs < after_gbs ? before_gbs : after_gbs;
    const double more = before_gbs < after_gbs ? after_gbs : before_gbs;
    return more > 1.1 * less;
}

void fg_bench_fill(void *p, uint64_t bytes, uint64_t seed)
{
    fg_rng r;
    fg_rng_init(&r, seed);
    uint8_t *dst = p;
    for (uint64_t i = 0; i < bytes; i += 8) {
        const uint64_t w = (fg_rng_u64(&r) & 0x807f807f807f807fu) | 0x3f003f003f003f00u;
        memcpy(dst + i, &w, bytes - i < 8 ? (size_t)(bytes - i) : 8);
    }
}

/* ---- bandwidth for the line after a run ---- */

fg_status fg_engine_read_bandwidth(const fg_engine *e, double *gbs, fg_err *err)
{
    fg_team *team;
    fg_bandwidth_buffer buffer = {0};
    fg_bandwidth r = {0};
    *gbs = 0.0;
    if (fg_engine_token_bytes(e) <= fg_llc_bytes()) return FG_OK;
    /* Below 8 times the last-level cache part of the buffer stays in it: the figure is too high. */
    uint64_t bytes = (uint64_t)64 << 20;
    if (bytes < 8 * fg_llc_bytes()) bytes = 8 * fg_llc_bytes();
    bytes = fg_room_share(bytes, 8);
    FG_TRY(fg_team_create(&team, fg_engine_n_thread(e), true, err));
    fg_status st = fg_bandwidth_buffer_init(&buffer, team, bytes, err);
    if (st == FG_OK) st = fg_bandwidth_read(team, buffer.p, buffer.bytes, 101, 50000000, &r, err);
    fg_bandwidth_buffer_fini(&buffer);
    fg_team_destroy(&team);
    *gbs = r.median_gbs;
    return st;
}

/* ---- the bench ---- */

fg_status fg_bench_create(fg_bench **out, fg_engine *e, fg_err *err)
{
    *out = NULL;
    fg_bench *b = fg_mem_zalloc(sizeof *b);
    if (b == NULL) return fg_fail_nomem(err, "bench");
    b->e = e;
    b->cpu_flags = fg_engine_cpu_flags(e);
    b->team = fg_engine_team(e);
    const fg_home home = fg_engine_home(e);
    const fg_status st = fg_model_create_on(&b->model, fg_engine_file(e), &home, b->cpu_flags, err);
    if (st != FG_OK) {
        fg_bench_destroy(&b);
        return st;
    }
    *out = b;
    return FG_OK;
}

void fg_bench_set_cache(fg_bench *b, fg_kv_choice kv)
{
    b->kv = kv;
}

void fg_bench_destroy(fg_bench **b)
{
    if (*b == NULL) return;
    fg_bandwidth_buffer_fini(&(*b)->buffer);
    fg_model_destroy(&(*b)->model);
    fg_mem_free(*b);
    *b = NULL;
}

fg_status fg_bench_read(fg_bench *b, uint32_t n_pass, fg_bandwidth *out, fg_err *err)
{
    if (b->buffer.p == NULL) {
        FG_TRY(fg_bandwidth_buffer_init(&b->buffer, b->team, fg_bandwidth_default_bytes(), err));
    }
    return fg_bandwidth_read(b->team, b->buffer.p, b->buffer.bytes, n_pass, 0, out, err);
}

/* ---- the barrier ---- */

enum { SYNC_RUNS = 21, SYNCS = 500 };

/* A run is a mean of many, since one is shorter than the clock; only what comes between two runs of
 * a step is small against it. */
static void sync_run(fg_worker *w, void *arg)
{
    double *us = arg;
    for (int i = 0; i < SYNCS; i++) fg_worker_sync(w);
    for (int r = 0; r < SYNC_RUNS; r++) {
        const uint64_t t0 = fg_clock_ns();
        for (int i = 0; i < SYNCS; i++) fg_worker_sync(w);
        if (w->idx == 0) us[r] = (double)(fg_clock_ns() - t0) * 1e-3 / SYNCS;
    }
}

uint32_t fg_bench_measure_sync(fg_team *t, fg_bench_sync out[FG_BENCH_SYNCS])
{
    const uint32_t all = fg_team_size(t);
    uint32_t n_row = 0;
    for (uint32_t n = 2; n_row < FG_BENCH_SYNCS && n <= all; n_row++) {
        double us[SYNC_RUNS];
        fg_team_run_n(t, n, sync_run, us);
        out[n_row].n_thread = n;
        out[n_row].median_us = fg_bench_median(us, SYNC_RUNS);
        out[n_row].best_us = us[0]; /* sorted now */
        n = n < all && 2 * n > all ? all : 2 * n;
    }
    return n_row;
}

/* ---- integer peak ---- */

/* Two panels of 2,048 columns and 64 tokens: 0.2 MiB with the largest type, in every second-level
 * cache; the panel kernel's own blocking sees enough tokens and columns to reach its full rate. */
enum { GEMM_SB = 16, GEMM_TOK = 64, GEMM_PANEL = 2, GEMM_RUNS = 9, PEAK_ROUNDS = 256 };
#define GEMM_NS 2000000u /* of a run, about */

typedef struct gemm_job {
    const fg_bench *b;
    const fg_qkind_info *type; /* NULL: the unit alone, or */
    bool attn;                 /* attention */
    bool all;                  /* every worker, else worker 0 alone */
    uint64_t rounds;           /* of a run */
    uint8_t *buf;              /* [n_thread][buf_stride] panels, activations, results */
    size_t buf_stride;
    double *run_ns; /* [n_thread][GEMM_RUNS], each worker's own */
} gemm_job;

enum {
    GEMM_ACT_BYTES = GEMM_TOK * GEMM_SB * (int)sizeof(fg_act128),
    GEMM_Y_BYTES = GEMM_TOK * GEMM_PANEL * FG_PANEL_ROWS * (int)sizeof(float),
};

/* A block of the cache and the rows of 16 tokens of a key-value head of M1. */
enum { ATTN_ROWS = 128, ATTN_KV_BYTES = FG_KV_BLOCK * (int)sizeof(float) };

static size_t attn_bytes(size_t d)
{
    return ATTN_ROWS * (d * (sizeof(int16_t) + sizeof(float)) + 2 * sizeof(float)) +
           2 * (FG_KV_BLOCK * d + ATTN_KV_BYTES);
}

static void attn_once(const gemm_job *j, uint8_t *buf, uint64_t rounds)
{
    const size_t d = j->b->model->shape->d_head;
    uint8_t *q = buf, *k = q + ATTN_ROWS * d * sizeof(int16_t), *v = k + FG_KV_BLOCK * d;
    const float *scales = (const float *)(void *)(v + FG_KV_BLOCK * d);
    float *ml = (float *)(void *)(v + FG_KV_BLOCK * d + 2 * ATTN_KV_BYTES);
    float q_scale[ATTN_ROWS];
    uint16_t n_pos[ATTN_ROWS];
    for (int r = 0; r < ATTN_ROWS; r++) {
        q_scale[r] = 0x1p-30f;
        n_pos[r] = FG_KV_BLOCK;
    }
    for (uint64_t i = 0; i < rounds; i++) {
        j->b->model->k.attn_i8((const int16_t *)(void *)q, q_scale, n_pos, ATTN_ROWS, d,
                               (const int8_t *)k, scales, (const int8_t *)v, scales + FG_KV_BLOCK,
                               ml, ml + 2 * ATTN_ROWS, NULL);
    }
}

static void gemm_once(const gemm_job *j, uint8_t *buf, uint64_t rounds)
{
    if (j->attn) {
        attn_once(j, buf, rounds);
        return;
    }
    if (j->type == NULL) {
        (void)j->b->model->k.peak(rounds * PEAK_ROUNDS);
        return;
    }
    fg_panel_fn *fn = fg_kernels_panel(&j->b->model->k, j->type->type, j->type->lut);
    fg_tiles_fn *tiles_fn = fg_kernels_tiles(&j->b->model->k, j->type->type, j->type->lut);
    const size_t bytes = (size_t)fg_panel_bytes(j->type->type, (uint64_t)GEMM_SB * FG_SB_COLS);
    static const _Alignas(64) float scale[FG_PANEL_ROWS] = {1.0f};
    uint8_t *act = buf + GEMM_PANEL * bytes;
    float *y = (float *)(void *)(act + GEMM_ACT_BYTES);
    const fg_act_tiles tiles = {
        /* the same bytes */
        .q = (int8_t *)act,
        .d = (float *)(void *)(act + GEMM_TOK * GEMM_SB * FG_SB_COLS),
        .rows = GEMM_TOK,
    };
    for (uint64_t i = 0; i < rounds; i++) {
        for (size_t p = 0; p < GEMM_PANEL; p++) {
            if (tiles_fn != NULL) {
                tiles_fn(buf + p * bytes, 1, bytes, scale, j->type->lut, &tiles, 0, GEMM_TOK,
                         GEMM_SB, y + p * FG_PANEL_ROWS, GEMM_PANEL * FG_PANEL_ROWS);
                continue;
            }
            fn(buf + p * bytes, scale, j->type->lut, act, GEMM_SB * sizeof(fg_act128), GEMM_TOK,
               GEMM_SB, y + p * FG_PANEL_ROWS, GEMM_PANEL * FG_PANEL_ROWS);
        }
    }
}

static void gemm_run(fg_worker *w, void *arg)
{
    gemm_job *j = arg;
    uint8_t *buf = j->buf + w->idx * j->buf_stride;
    double *run_ns = j->run_ns + w->idx * GEMM_RUNS;
    if (w->idx != 0 && !j->all) return;
    fg_bench_fill(buf, j->buf_stride, w->idx + 1);
    gemm_once(j, buf, 1);
    if (!j->all) { /* decides the length of all runs of this type */
        uint64_t t0 = fg_clock_ns();
        gemm_once(j, buf, 2);
        const uint64_t each = (fg_clock_ns() - t0) / 2 + 1;
        j->rounds = GEMM_NS / each + 1;
        for (int i = 0; i < GEMM_RUNS; i++) {
            t0 = fg_clock_ns();
            gemm_once(j, buf, j->rounds);
            run_ns[i] = (double)(fg_clock_ns() - t0);
        }
        return;
    }
    for (int i = 0; i < GEMM_RUNS; i++) {
        fg_worker_sync(w);
        const uint64_t t0 = fg_clock_ns();
        gemm_once(j, buf, j->rounds);
        run_ns[i] = (double)(fg_clock_ns() - t0);
        fg_worker_sync(w);
    }
}

/* GMAC/s of runs of `macs` a round: what the workers reach, each by its own clock, all together.
 * Where they share out work, as a model's do, one that a neighbour slows down does not hold up the
 * others, so it must not here. */
static double gemm_rate(gemm_job *j, bool all, double macs)
{
    const uint32_t n = all ? fg_team_size(j->b->team) : 1;
    double sum = 0.0;
    j->all = all;
    fg_team_run(j->b->team, gemm_run, j);
    for (uint32_t i = 0; i < n; i++) {
        sum += macs * (double)j->rounds / fg_bench_median(j->run_ns + i * GEMM_RUNS, GEMM_RUNS);
    }
    return sum;
}

fg_status fg_bench_gemm(fg_bench *b, fg_bench_rates *out, fg_err *err)
{
    *out = (fg_bench_rates){0};
    const uint32_t n = fg_team_size(b->team);
    gemm_job j = {.b = b};
    uint64_t panel = 0; /* the largest one */
    for (uint32_t i = 0; i < FG_BENCH_TYPES; i++) {
        const uint64_t bytes = fg_panel_bytes(fg_qkinds[i].type, GEMM_SB * FG_SB_COLS);
        if (bytes > panel) panel = bytes;
    }
    const size_t panels = GEMM_PANEL * (size_t)panel;
    const size_t d = b->model->shape->d_head, gemm = panels + GEMM_ACT_BYTES + GEMM_Y_BYTES;
    j.buf_stride = fg_round_up(gemm > attn_bytes(d) ? gemm : attn_bytes(d), FG_PAGE_BYTES);
    j.buf = fg_mem_zalloc_array(n, j.buf_stride);
    j.run_ns = fg_mem_zalloc_array(n, GEMM_RUNS * sizeof *j.run_ns);
    if (j.buf == NULL || j.run_ns == NULL) {
        fg_mem_free(j.run_ns);
        fg_mem_free(j.buf);
        return fg_fail_nomem(err, "bench");
    }
    for (uint32_t i = 0; i < FG_BENCH_TYPES; i++) {
        j.type = &fg_qkinds[i];
        out->type[i].name = j.type->name;
        const double macs = GEMM_PANEL * GEMM_TOK * GEMM_SB * FG_SB_COLS * FG_PANEL_ROWS;
        out->type[i].core_gmacs = gemm_rate(&j, false, macs);
        out->type[i].all_gmacs = gemm_rate(&j, true, macs);
        if (out->type[i].core_gmacs > out->type[out->best].core_gmacs) out->best = i;
    }
    const double peak = (double)b->model->k.peak(PEAK_ROUNDS);
    j.type = NULL;
    if (peak > 0.0) {
        out->unit_core_gmacs = gemm_rate(&j, false, peak);
        out->unit_all_gmacs = gemm_rate(&j, true, peak);
    }
    j.attn = true;
    const double macs = 2.0 * ATTN_ROWS * FG_KV_BLOCK * (double)d;
    (void)gemm_rate(&j, false, macs); /* decides the length of runs */
    out->attn_gmacs = gemm_rate(&j, true, macs);
    fg_mem_free(j.run_ns);
    fg_mem_free(j.buf);
    return FG_OK;
}

/* ---- the machine ---- */

/* The model's mapping, if it is what the model uses, at most half of memory of it. */
static fg_read_span mapping_of(const fg_bench *b)
{
    const fg_model_file *f = fg_engine_file(b->e);
    const uint64_t from = fg_model_file_dense_extent(f, 0).offset;
    if (fg_engine_store(b->e) != NULL) return (fg_read_span){NULL, 0};
    const uint64_t bytes = fg_room_share(fg_model_file_size(f) - from, 2);
    return (fg_read_span){fg_model_file_data(f, from), bytes / FG_PAGE_BYTES * FG_PAGE_BYTES};
}

static bool stays_in_cache(uint64_t bytes, uint64_t llc_bytes)
{
    return bytes < 4 * llc_bytes || bytes < (uint64_t)64 << 20;
}

fg_status fg_bench_limit(fg_bench *b, uint32_t n_pass, fg_bandwidth *out, fg_err *err)
{
    if (b->form.n_stream == 0) {
        fg_bandwidth r;
        FG_TRY(fg_bench_read(b, 3, &r, err)); /* makes the buffer */
        fg_read_span span[2] = {{b->buffer.p, b->buffer.bytes}, mapping_of(b)};
        uint32_t which;
        if (span[1].bytes > b->buffer.bytes) span[1].bytes = b->buffer.bytes;
        const uint32_t n = stays_in_cache(span[1].bytes, fg_llc_bytes()) ? 1 : 2;
        FG_TRY(fg_bandwidth_fastest(b->team, span, n, &b->form, &which, err));
        b->limit = span[which];
        b->limit_is_map = which == 1;
    }
    return fg_bandwidth_read_as(b->team, &b->form, b->limit.p, b->limit.bytes, n_pass, 0, out, err);
}

/* Reads it as decode does: all workers, 4 KiB pages. */
static fg_status measure_mapping(fg_bench *b, fg_bench_machine *out, fg_err *err)
{
    const fg_read_span span = mapping_of(b);
    const uint64_t bytes = span.bytes;
    if (bytes == 0) return FG_OK;
    out->map.bytes = bytes;
    out->map_in_cache = stays_in_cache(bytes, out->llc_bytes);
    fg_bandwidth r;
    const uint32_t n_pass = bytes > (uint64_t)4 << 30 ? 3 : bytes > (uint64_t)1 << 26 ? 7 : 101;
    FG_TRY(fg_bandwidth_read(b->team, span.p, bytes, n_pass, 0, &r, err));
    out->map.median_gbs = r.median_gbs;
    out->map.best_gbs = r.best_gbs;
    return FG_OK;
}

fg_status fg_bench_measure_machine(fg_bench *b, fg_bench_machine *out, fg_err *err)
{
    fg_room room;
    fg_room_read(&room, "");
    *out = (fg_bench_machine){
        .n_thread = fg_team_size(b->team),
        .llc_bytes = fg_llc_bytes(),
        .ram_bytes = room.total,
    };
    fg_machine_cpu_name(out->cpu, sizeof out->cpu);
    fg_topo *topo = fg_topo_create();
    if (topo != NULL) {
        const fg_topo_sum sum = fg_topo_sums(topo);
        out->n_core = sum.n_core;
        out->n_cpu = sum.n_cpu;
    }
    fg_topo_destroy(topo);
    FG_TRY(measure_mapping(b, out, err)); /* first: brings the file into memory */
    fg_bandwidth r;
    FG_TRY(fg_bench_read(b, 11, &r, err));
    out->anon.median_gbs = r.median_gbs;
    out->anon.best_gbs = r.best_gbs;
    out->anon.bytes = r.bytes;
    out->anon.huge = fg_bandwidth_buffer_huge(&b->buffer);
    FG_TRY(fg_bench_limit(b, 11, &r, err));
    out->limit_gbs = r.median_gbs;
    (void)snprintf(out->limit_form, sizeof out->limit_form, "%s, %u stream%s%s, %u threads",
                   b->limit_is_map ? "mapping" : "anonymous", b->form.n_stream,
                   b->form.n_stream == 1 ? "" : "s", b->form.prefetch ? ", prefetch" : "",
                   b->form.n_worker == 0 ? out->n_thread : b->form.n_worker);
    out->n_sync = fg_bench_measure_sync(b->team, out->sync);
    return fg_bench_gemm(b, &out->gemm, err);
}
