/* SPDX-License-Identifier: MIT
 *
 * One buffer of random bytes, larger than the caches, serves as the matrices of all types: any
 * bytes are valid codes and scales.  A batch walks through it, so that no pass meets weights of the
 * one before.
 */
#include "src/plan/rates.h"

#include <string.h>

#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "bench/bench.h"
#include "src/engine/kv.h"
#include "src/expert/drives.h"
#include "src/expert/slots.h"
#include "src/expert/store.h"
#include "src/model/forward.h"
#include "src/sys/bandwidth.h"
#include "src/sys/cpu.h"
#include "src/sys/disk.h"
#include "src/sys/room.h"
#include "src/sys/team.h"

enum {
    MAX_PASS = 9,
    MIN_PASS = 3,
    BATCH_PANELS =
        512, /* rows / 16 of a pass with many tokens: 8192 rows, as Q or the output gate */
    ATTN_ROUNDS = 20,
    SYNCS = 500,
};
#define PASS_NS       50000000u /* about, of a pass, at most: a busy neighbour takes milliseconds */
#define MEASURE_NS    300000000u /* of the passes of one figure, when they are longer */
#define BUFFER_BYTES  ((uint64_t)1 << 29)
#define DISK_BYTES    ((uint64_t)1 << 30)
#define DISK_WRITE_NS ((uint64_t)3000000000)
#define DISK_NS       2000000000u

typedef struct meter {
    const fg_rates_opts *o;
    fg_kernels k;
    fg_team *team;
    fg_bandwidth_buffer buffer;
    float *scales;
    fg_acts x;
    float *y;
    uint64_t y_floats;
    uint64_t sync_ns;
    double attn_macs; /* done in attn_ns, all workers */
    uint64_t attn_ns;
} meter;

static void fill(fg_worker *w, void *arg)
{
    const meter *m = arg;
    uint64_t begin, end;
    fg_worker_range(w, m->buffer.bytes / FG_PAGE_BYTES, &begin, &end);
    uint8_t *p = (uint8_t *)m->buffer.map + (m->buffer.p - (const uint8_t *)m->buffer.map);
    fg_bench_fill(p + begin * FG_PAGE_BYTES, (end - begin) * FG_PAGE_BYTES, w->idx + 1);
}

/* ---- products ---- */

/* Passes over n_panel panels of a type with n_tok tokens, each further on in the buffer. */
typedef struct passes {
    meter *m;
    const fg_qkind_info *type;
    uint64_t n_panel, n_tok;
    uint64_t start_ns;
    bool stop; /* set by worker 0 between two barriers */
    size_t n;  /* passes done */
    double seconds[MAX_PASS];
} passes;

/* The matrix of pass i: the buffer cut into pieces that begin on a page. */
static fg_matrix matrix_of(const passes *p, uint64_t i)
{
    const uint64_t k = fg_round_up(p->m->o->n_col, FG_SB_COLS);
    const bool quantized = fg_qtype_get((uint32_t)p->type->type)->quantized;
    const uint64_t stride = fg_panel_bytes(p->type->type, k);
    const uint64_t piece = fg_round_up(p->n_panel * stride, FG_PAGE_BYTES);
    const uint64_t n_piece = p->m->buffer.bytes / piece;
    return (fg_matrix){
        .panels = p->m->buffer.p + (n_piece == 0 ? 0 : i % n_piece * piece),
        .scales = quantized ? p->m->scales : NULL,
        .lut = p->type->lut,
        .panel_fn = fg_kernels_panel(&p->m->k, p->type->type, p->type->lut),
        .tiles_fn = fg_kernels_tiles(&p->m->k, p->type->type, p->type->lut),
        .panel_stride = stride,
        .n_row = p->n_panel * FG_PANEL_ROWS,
        .n_col = k,
        .n_panel = p->n_panel,
        .n_sb = fg_n_sb(k),
        .type = p->type->type,
        .quantized = quantized,
    };
}

/* All passes within one run of the team: waking it takes as long as a short one.  The first pass
 * does not count. */
static void multiply(fg_worker *w, void *arg)
{
    passes *p = arg;
    for (uint64_t i = 0; i < MAX_PASS + 1; i++) {
        const fg_matrix a = matrix_of(p, i);
        const fg_acts y = {.f = p->m->y, .f_stride = (size_t)a.n_row};
        const fg_product product = {&a, &p->m->x, y};
        fg_worker_sync(w);
        if (p->stop) return;
        const uint64_t t0 = fg_clock_ns();
        fg_multiply(w, NULL, NULL, &product, 1, p->n_tok);
        fg_worker_sync(w);
        if (w->idx != 0) continue;
        const uint64_t t1 = fg_clock_ns();
        if (i == 0) p->start_ns = t1;
        if (i > 0) p->seconds[p->n++] = (double)(t1 - t0 + 1) * 1e-9;
        p->stop = p->n >= MIN_PASS && t1 - p->start_ns > MEASURE_NS;
    }
}

/* Median seconds of a pass over *n_panel panels, which is lowered to what takes about PASS_NS. */
static double time_passes(meter *m, const fg_qkind_info *type, uint64_t *n_panel, uint32_t n_tok)
{
    const uint64_t least = 16 * (uint64_t)fg_team_size(m->team);
    passes p = {.m = m, .type = type, .n_panel = least, .n_tok = n_tok};
    if (*n_panel > least) {
        fg_team_run(m->team, multiply, &p);
        (void)fg_bench_median(p.seconds, p.n); /* sorts */
        const double fit =
            PASS_NS * 1e-9 / p.seconds[0] * (double)least; /* a disturbed one is longer */
        if (fit < (double)*n_panel) *n_panel = fit < (double)least ? least : (uint64_t)fit;
    }
    p = (passes){.m = m, .type = type, .n_panel = *n_panel, .n_tok = n_tok};
    fg_team_run(m->team, multiply, &p);
    return fg_bench_median(p.seconds, p.n);
}

static void measure_type(meter *m, fg_rates *r, uint32_t t)
{
    const fg_qkind_info *type = &fg_qkinds[t];
    const uint64_t k = fg_round_up(m->o->n_col, FG_SB_COLS);
    const uint64_t panel = fg_panel_bytes(type->type, k), all = m->buffer.bytes / panel;
    const uint64_t scales = fg_qtype_get((uint32_t)type->type)->quantized ? 64 : 0;
    if (m->o->decode) {
        uint64_t n = all;
        const double s = time_passes(m, type, &n, 1);
        r->gemv_gbs[t] = (double)(n * (panel + scales)) / s * 1e-9;
    }
    for (int few = 0; m->o->prefill && few < 2; few++) {
        const uint32_t n_tok = few ? m->o->n_few : m->o->n_batch;
        uint64_t n = all < BATCH_PANELS ? all : BATCH_PANELS;
        const double s = time_passes(m, type, &n, n_tok);
        *(few ? &r->expert_gmacs[t] : &r->dense_gmacs[t]) =
            (double)n * FG_PANEL_ROWS * (double)k * n_tok / s * 1e-9;
    }
}

/* ---- attention and barriers ---- */

static void attend(const meter *m, fg_kv_type kv, float *buf)
{
    const size_t d = m->o->d_head, g = m->o->group, n = FG_KV_BLOCK;
    float *ml = buf, *o = ml + 64 + 2 * g, *q = o + g * d;
    const float *k = q + g * d, *v = k + n * d, *scale = v + n * d;
    if (kv == FG_KV_INT8) {
        float *q_scale = q + g * d / 2; /* behind the rows in 16 bits */
        uint16_t *n_pos = (uint16_t *)(void *)(q_scale + g);
        for (size_t i = 0; i < g; i++) q_scale[i] = 1e-6f, n_pos[i] = FG_KV_BLOCK;
        m->k.attn_i8((const int16_t *)(const void *)q, q_scale, n_pos, g, d, (const int8_t *)k,
                     scale, (const int8_t *)v, scale + n, ml, o, NULL);
    } else if (kv == FG_KV_F16) {
        m->k.attn_f16(q, g, d, n, (const uint16_t *)k, (const uint16_t *)v, ml, o);
    } else {
        m->k.attn_f32(q, g, d, n, k, v, ml, o);
    }
}

static void attend_all(fg_worker *w, void *arg)
{
    meter *m = arg;
    const size_t d = m->o->d_head, g = m->o->group;
    const fg_kv_type kv = fg_kv_resolve(m->o->kv, true);
    const size_t bytes = (64 + 2 * g + 2 * g * d + 2 * FG_KV_BLOCK * (d + 1)) * sizeof(float);
    uint8_t *p = (uint8_t *)m->y + w->idx * fg_round_up(bytes, FG_PAGE_BYTES);
    fg_bench_fill(p, bytes, w->idx + 1);
    attend(m, kv, (float *)(void *)p);
    fg_worker_sync(w);
    const uint64_t t0 = fg_clock_ns();
    for (int i = 0; i < ATTN_ROUNDS; i++) attend(m, kv, (float *)(void *)p);
    fg_worker_sync(w);
    if (w->idx != 0) return;
    m->attn_ns = fg_clock_ns() - t0 + 1;
    m->attn_macs = 2.0 * ATTN_ROUNDS * FG_KV_BLOCK * (double)(g * d) * w->n;
}

static void sync_all(fg_worker *w, void *arg)
{
    meter *m = arg;
    fg_worker_sync(w);
    const uint64_t t0 = fg_clock_ns();
    for (int i = 0; i < SYNCS; i++) fg_worker_sync(w);
    if (w->idx == 0) m->sync_ns = fg_clock_ns() - t0;
}

static void measure_small(meter *m, fg_rates *r)
{
    double attn[MIN_PASS], sync[MIN_PASS];
    for (int i = 0; i < MIN_PASS; i++) {
        fg_team_run(m->team, attend_all, m);
        attn[i] = m->attn_macs / (double)m->attn_ns;
        fg_team_run(m->team, sync_all, m);
        sync[i] = (double)m->sync_ns / SYNCS * 1e-3;
    }
    r->attn_gmacs = fg_bench_median(attn, MIN_PASS);
    r->sync_us = fg_bench_median(sync, MIN_PASS);
}

/* ---- the whole ---- */

static fg_status allocate(meter *m, fg_err *err)
{
    const fg_rates_opts *o = m->o;
    const uint32_t n_thread = fg_team_size(m->team);
    const uint64_t k = fg_round_up(o->n_col, FG_SB_COLS);
    uint64_t bytes = BUFFER_BYTES;
    if (bytes < 8 * fg_llc_bytes()) bytes = 8 * fg_llc_bytes();
    bytes = fg_room_share(bytes, 4);
    const uint64_t least = 16 * (uint64_t)n_thread; /* panels of the shortest pass */
    if (bytes < least * fg_panel_bytes_most(k)) bytes = least * fg_panel_bytes_most(k);
    FG_TRY(fg_bandwidth_buffer_init(&m->buffer, m->team, bytes, err));
    const uint64_t panels = m->buffer.bytes / fg_panel_bytes_least(k) + 1;
    const uint64_t rows = FG_PANEL_ROWS * (panels > BATCH_PANELS ? panels : BATCH_PANELS);
    const uint64_t n_tok = o->prefill ? o->n_batch : 1;
    const uint64_t widest = FG_PANEL_ROWS * (BATCH_PANELS > least ? BATCH_PANELS : least) * n_tok;
    const uint64_t attn = fg_round_up((64 + 2 * o->group + 2 * (uint64_t)o->group * o->d_head +
                                       2 * (uint64_t)FG_KV_BLOCK * (o->d_head + 1)) *
                                          sizeof(float),
                                      FG_PAGE_BYTES);
    m->y_floats = rows > widest ? rows : widest;
    if (m->y_floats < attn / sizeof(float) * n_thread) {
        m->y_floats = attn / sizeof(float) * n_thread;
    }
    m->x.f_stride = (size_t)k;
    m->x.q_stride = (size_t)(k / FG_SB_COLS);
    m->x.f = fg_mem_zalloc_array((size_t)n_tok, (size_t)k * sizeof(float));
    m->x.q = fg_mem_zalloc_array((size_t)n_tok, m->x.q_stride * sizeof *m->x.q);
    if (m->k.tiles[0] != NULL) {
        fg_act_tiles *t = &m->x.q_tiles;
        t->rows = fg_tile_rows((size_t)n_tok);
        t->q = fg_mem_zalloc_array(t->rows, (size_t)k);
        t->d = fg_mem_zalloc_array(t->rows, m->x.q_stride * sizeof *t->d);
        if (t->q == NULL || t->d == NULL) return fg_fail_nomem(err, "rates");
    }
    m->scales = fg_mem_zalloc_array((size_t)rows, sizeof *m->scales);
    m->y = fg_mem_zalloc_array((size_t)m->y_floats, sizeof *m->y);
    if (m->x.f == NULL || m->x.q == NULL || m->scales == NULL || m->y == NULL) {
        return fg_fail_nomem(err, "rates");
    }
    fg_bench_fill(m->x.f, n_tok * k * sizeof(float), 1);
    for (uint64_t t = 0; t < n_tok; t++) fg_acts_quantize(&m->k, &m->x, t, n_tok);
    return FG_OK;
}

static fg_status measure(meter *m, fg_rates *r, fg_err *err)
{
    fg_bandwidth read;
    FG_TRY(allocate(m, err));
    fg_team_run(m->team, fill, m);
    r->n_thread = fg_team_size(m->team);
    if (m->o->decode) {
        FG_TRY(fg_bandwidth_read(m->team, m->buffer.p, m->buffer.bytes, MAX_PASS, MEASURE_NS, &read,
                                 err));
        r->read_gbs = read.median_gbs;
    }
    for (uint32_t t = 0; t < FG_RATE_TYPES; t++) {
        if (m->o->type[t]) measure_type(m, r, t);
    }
    measure_small(m, r);
    return FG_OK;
}

fg_status fg_rates_measure(fg_rates *r, const fg_rates_opts *o, fg_err *err)
{
    meter m = {.o = o};
    uint32_t flags;
    FG_TRY(fg_cpu_level_flags(o->cpu, &flags, err));
    if (o->n_col < 1 || o->n_batch < 1 || o->n_few < 1 || o->n_few > o->n_batch || o->group < 1 ||
        o->d_head < 16 || o->d_head % 16 != 0) {
        return fg_fail(
            err, FG_EINVAL,
            "rates: %u columns, batch %u with %u, heads %u of %u, expected 1 or more, the "
            "second at most the first, a multiple of 16",
            o->n_col, o->n_batch, o->n_few, o->group, o->d_head);
    }
    fg_kernels_init(&m.k, flags);
    fg_status st = fg_team_create(&m.team, o->n_thread, true, err);
    if (st == FG_OK) fg_team_attach(m.team);
    if (st == FG_OK) st = measure(&m, r, err);
    fg_mem_free(m.x.f);
    fg_mem_free(m.x.q);
    fg_mem_free(m.x.q_tiles.q);
    fg_mem_free(m.x.q_tiles.d);
    fg_mem_free(m.scales);
    fg_mem_free(m.y);
    fg_bandwidth_buffer_fini(&m.buffer);
    fg_team_destroy(&m.team);
    return st;
}

/* Experts of the file at random, two at a time, as the expert store reads them. */
static fg_status read_experts(const fg_model_file *f, uint64_t slot_bytes, double *gbs, fg_err *err)
{
    const fg_shape *s = fg_model_file_shape(f);
    const fg_fetch_opts as_store = {.ops = NULL};
    fg_slots slots;
    fg_drives *drives = NULL;
    fg_range range[2] = {0};
    fg_rng rng;
    fg_rng_init(&rng, 1);
    FG_TRY(fg_slots_init(&slots, 2, slot_bytes, "disk measurement", NULL, err));
    for (uint64_t i = 0; i < 2; i++) memset(fg_slots_at(&slots, i), 1, (size_t)slot_bytes);
    fg_status st = fg_drives_create(&drives, f, &as_store, err);
    const uint64_t start = fg_clock_ns(); /* page faults were before it */
    uint64_t done = 0, bytes[2];
    for (uint64_t i = 0; st == FG_OK; i++) {
        fg_range *r = &range[i % 2];
        if (i >= 2) {
            if (!fg_drives_wait(drives, r, bytes[i % 2])) {
                st = fg_drives_take_error(drives, err);
                break;
            }
            done += bytes[i % 2];
            if (fg_clock_ns() - start > DISK_NS) break;
        }
        const uint32_t l = (uint32_t)(fg_rng_u64(&rng) % s->n_layer),
                       e = (uint32_t)(fg_rng_u64(&rng) % s->n_expert);
        const fg_extent x = fg_model_file_expert_extent(f, l, e);
        bytes[i % 2] = x.bytes;
        st = fg_drives_start(drives, r, fg_slots_at(&slots, i % 2), x.offset, x.bytes, true, err);
    }
    *gbs = (double)done / (double)(fg_clock_ns() - start + 1);
    fg_drives_destroy(&drives);
    fg_range_fini(&range[0]);
    fg_range_fini(&range[1]);
    fg_slots_fini(&slots);
    return st;
}

fg_status fg_rates_measure_disk(fg_rates *r, const char *path, fg_err *err)
{
    if (fg_io_is_dir(path)) {
        fg_disk d = FG_DISK_INIT;
        fg_status st = fg_disk_open_temporary(&d, path, DISK_BYTES, DISK_WRITE_NS, err);
        const uint64_t piece = d.bytes < FG_IO_PIECE ? d.bytes : FG_IO_PIECE;
        if (st == FG_OK) st = fg_disk_read(&d, piece, FG_IO_DEPTH, DISK_NS, &r->disk_gbs, err);
        fg_disk_close(&d);
        return st;
    }
    fg_model_file *f;
    FG_TRY(fg_model_file_open(&f, path, err));
    const fg_status st = read_experts(f, fg_store_slot_bytes(f), &r->disk_gbs, err);
    fg_model_file_close(&f);
    return st;
}

void fg_rates_assume(fg_rates *r, double read_gbs, double peak_gmacs)
{
    for (uint32_t t = 0; t < FG_RATE_TYPES; t++) {
        if (read_gbs > 0.0) r->gemv_gbs[t] = 0.95 * read_gbs;
        if (peak_gmacs > 0.0) {
            r->dense_gmacs[t] = 0.85 * peak_gmacs;
            r->expert_gmacs[t] = 0.65 * peak_gmacs;
        }
    }
    if (read_gbs > 0.0) r->read_gbs = read_gbs;
    /* 8 multiply-adds in f32 in the time of 32 of int8 */
    if (peak_gmacs > 0.0) r->attn_gmacs = 0.5 * peak_gmacs;
}
