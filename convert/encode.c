/* SPDX-License-Identifier: MIT
 *
 * The unit of work is an item: one panel of one job.  Items of a band are numbered in file order
 * (g0 u0 g1 u1 ... for a pair), so that encoded panels land where the file wants them and a band is
 * written with one call.  Conversion to f32 happens panel by panel in the worker's own scratch: a
 * whole band in f32 would double the memory for nothing.
 */
#include "convert/encode.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "convert/ahead.h"
#include "quant/hadamard.h"
#include "quant/panel.h"
#include "src/base/fp.h"
#include "src/base/hash.h"
#include "src/base/mem.h"

enum {
    MAX_JOB = 2,
    BAND_BYTES = 16 << 20,      /* of source and of output: large reads, yet a small resident set */
    PANELS_A_THREAD = 4,        /* at least, so that an uneven split costs little */
    MAX_BAND_BYTES = 256 << 20, /* with many threads: three bands stay below 1 GiB */
    MAX_ITEM = 4096,
    /* Below this many weights (some 8 ms of work) the caller's thread encodes alone: waking a team
     * on a busy machine costs a time slice, which tripled the time of a model of small matrices. */
    ALONE_WEIGHTS = 1 << 18,
};

/* First value of a worker that cannot be stored. */
typedef struct bad_value {
    bool found;
    uint64_t item, row, col; /* row of the matrix */
    float value;
} bad_value;

struct fg_encoder {
    fg_team *team;
    fg_shards *source;
    size_t src_cap, out_cap, scratch_stride; /* bytes, bytes, floats */
    uint8_t *src[2];                         /* of the band that is encoded, and of the next */
    uint8_t *out;
    fg_ahead *ahead;       /* reads the next */
    float *scratch;        /* a panel [16][k] a worker */
    fg_panel_error *error; /* [MAX_ITEM] */
    bad_value *bad;        /* a worker */
    fg_hasher *hasher[MAX_JOB];
};

/* One band as the workers see it.  Item i is panel first + i / n_job of job i % n_job. */
typedef struct band {
    fg_encoder *e;
    fg_encode_job *job;
    size_t n_job;
    uint64_t first, n_panel; /* panels of each job */
    const uint8_t *src;      /* one of e->src */
    size_t src_at[MAX_JOB];  /* band of each job in it */
    size_t out_at[MAX_JOB];  /* first panel of each job in e->out */
    size_t out_stride;       /* bytes of one panel of all jobs */
} band;

void fg_encoder_destroy(fg_encoder **e)
{
    if (*e == NULL) return;
    fg_ahead_destroy(&(*e)->ahead);
    for (size_t i = 0; i < MAX_JOB; i++) fg_hasher_destroy((*e)->hasher[i]);
    fg_mem_free((*e)->src[0]);
    fg_mem_free((*e)->src[1]);
    fg_mem_free((*e)->out);
    fg_mem_free((*e)->scratch);
    fg_mem_free((*e)->error);
    fg_mem_free((*e)->bad);
    fg_mem_free(*e);
    *e = NULL;
}

/* Of the source or the output of a band. */
static size_t band_bytes(uint32_t n_thread, uint64_t max_cols)
{
    const size_t k = (size_t)(fg_n_sb(max_cols) * FG_SB_COLS);
    const size_t panel = FG_PANEL_ROWS * k * sizeof(float); /* no type is larger */
    const size_t want = n_thread * PANELS_A_THREAD * MAX_JOB * panel;
    const size_t least = MAX_JOB * panel;
    if (want < BAND_BYTES) return BAND_BYTES;
    if (want > MAX_BAND_BYTES) return least > MAX_BAND_BYTES ? least : MAX_BAND_BYTES;
    return want;
}

/* Of a worker: a panel, and room to work. */
static size_t scratch_floats(uint64_t max_cols)
{
    return 2 * fg_feedback_scratch((size_t)max_cols);
}

uint64_t fg_encoder_bytes(uint32_t n_thread, uint64_t max_cols)
{
    return 3 * (uint64_t)band_bytes(n_thread, max_cols) +
           n_thread * scratch_floats(max_cols) * sizeof(float) + MAX_ITEM * sizeof(fg_panel_error);
}

fg_status fg_encoder_create(fg_encoder **out, fg_team *team, fg_shards *source, uint64_t max_cols,
                            fg_err *err)
{
    const uint32_t n_thread = fg_team_size(team);
    fg_encoder *e = fg_mem_zalloc(sizeof *e);
    *out = e;
    if (e == NULL) return fg_fail_nomem(err, "encoder");
    e->team = team;
    e->source = source;
    e->src_cap = e->out_cap = band_bytes(n_thread, max_cols);
    e->scratch_stride = scratch_floats(max_cols);
    e->src[0] = fg_mem_alloc(e->src_cap);
    e->src[1] = fg_mem_alloc(e->src_cap);
    e->out = fg_mem_alloc(e->out_cap);
    e->scratch = fg_mem_alloc(n_thread * e->scratch_stride * sizeof(float));
    e->error = fg_mem_zalloc_array(MAX_ITEM, sizeof *e->error);
    e->bad = fg_mem_zalloc_array(n_thread, sizeof *e->bad);
    bool ok = e->src[0] && e->src[1] && e->out && e->scratch && e->error && e->bad;
    for (size_t i = 0; i < MAX_JOB; i++) {
        e->hasher[i] = fg_hasher_create();
        ok = ok && e->hasher[i] != NULL;
    }
    const fg_status st = ok ? fg_ahead_create(&e->ahead, err) : fg_fail_nomem(err, "encoder");
    if (st != FG_OK) fg_encoder_destroy(out);
    return st;
}

/* --- values --- */

void fg_encode_to_f32(fg_st_dtype dtype, const uint8_t *src, size_t n, float *dst)
{
    if (dtype == FG_ST_F32) {
        for (size_t i = 0; i < n; i++) {
            const uint8_t *p = src + 4 * i;
            dst[i] = fg_f32_from_bits((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                                      (uint32_t)p[3] << 24);
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const uint16_t h = (uint16_t)(src[2 * i] | src[2 * i + 1] << 8);
        dst[i] = dtype == FG_ST_BF16 ? fg_bf16_to_f32(h) : fg_f16_to_f32(h);
    }
}

/* Index of the first refused value, or n. */
static size_t find_refused(const float *v, size_t n, uint32_t limit)
{
    uint32_t worst = 0; /* branch-free, so that the usual case vectorises */
    for (size_t i = 0; i < n; i++) {
        const uint32_t magnitude = fg_f32_bits(v[i]) & 0x7fffffffu;
        worst = magnitude > worst ? magnitude : worst;
    }
    if (worst < limit) return n;
    size_t i = 0;
    while ((fg_f32_bits(v[i]) & 0x7fffffffu) < limit) i++;
    return i;
}

static fg_status fail_value(const fg_tensor *t, float v, uint64_t row, uint64_t col, fg_err *err)
{
    char name[96], range[48];
    fg_role_name((fg_role)t->role, t->layer, t->expert, name);
    (void)snprintf(range, sizeof range, "a magnitude within the range of %s",
                   fg_qtype_get(t->type)->name);
    return fg_fail(err, FG_EDATA, "%s: %s%g at row %llu column %llu, expected %s", name,
                   signbit(v) ? "-" : "", (double)fabsf(v), (unsigned long long)row,
                   (unsigned long long)col, isfinite(v) ? range : "finite weights");
}

/* Rows of one panel into w [16][k], padding zero.  False: a value is refused, *bad filled. */
static bool load_panel(const band *b, uint64_t item, float *w, bad_value *bad)
{
    const fg_encode_job *j = &b->job[item % b->n_job];
    const fg_tensor *t = j->tensor;
    const fg_st_dtype dtype = (fg_st_dtype)j->piece->dtype;
    const size_t n_col = (size_t)t->n_col, k = (size_t)(fg_n_sb(t->n_col) * FG_SB_COLS);
    const size_t row_bytes = n_col * fg_st_dtype_bytes(dtype);
    const uint64_t p = item / b->n_job;
    const uint8_t *src = b->src + b->src_at[item % b->n_job] + p * FG_PANEL_ROWS * row_bytes;
    for (uint64_t r = 0; r < FG_PANEL_ROWS; r++, w += k) {
        const uint64_t row = (b->first + p) * FG_PANEL_ROWS + r;
        if (row >= t->n_row) {
            memset(w, 0, k * sizeof *w);
            continue;
        }
        fg_encode_to_f32(dtype, src + r * row_bytes, n_col, w);
        memset(w + n_col, 0, (k - n_col) * sizeof *w);
        size_t at = find_refused(w, n_col, fg_panel_first_refused((fg_qtype)t->type));
        if (at == n_col && t->rotated) { /* which may leave the range of f32 */
            fg_hadamard_rotate(w, k);
            at = find_refused(w, n_col, fg_panel_first_refused((fg_qtype)t->type));
        }
        if (at == n_col) continue;
        *bad = (bad_value){true, item, row, at, w[at]};
        return false;
    }
    return true;
}

/* Items begin .. end - 1 by one worker; false when a value is refused. */
static bool encode_range(const band *b, uint32_t worker, uint64_t begin, uint64_t end)
{
    fg_encoder *e = b->e;
    float *w = e->scratch + worker * e->scratch_stride;
    for (uint64_t i = begin; i < end; i++) {
        if (!load_panel(b, i, w, &e->bad[worker])) return false;
        const size_t m = (size_t)(i % b->n_job);
        const uint64_t p = i / b->n_job;
        const fg_encode_job *j = &b->job[m];
        const fg_qtype type = (fg_qtype)j->tensor->type;
        uint8_t *panel = e->out + b->out_at[m] + p * b->out_stride;
        float *row_scale = j->row_scale + (b->first + p) * FG_PANEL_ROWS;
        const size_t n_col = (size_t)j->tensor->n_col;
        if (j->feedback != NULL && fg_qtype_get(j->tensor->type)->quantized) {
            fg_panel_encode_feedback(type, &j->tensor->lut, w, j->feedback, n_col, panel, row_scale,
                                     w + e->scratch_stride / 2, &e->error[i]);
        } else {
            fg_panel_encode(type, &j->tensor->lut, w, n_col, panel, row_scale, &e->error[i]);
        }
    }
    return true;
}

/* Items are given out in order, so that all before a refused one were taken: the first is found.
 * In small parts, because the reader takes a core now and then. */
static void encode_items(fg_worker *worker, void *arg)
{
    const band *b = arg;
    const uint64_t n = b->n_panel * b->n_job;
    uint64_t begin, end;
    while (fg_worker_take_items(worker, n, &begin, &end)) {
        if (!encode_range(b, worker->idx, begin, end)) return;
    }
}

/* Into src, one of e->src. */
static fg_status read_band(band *b, uint8_t *src, fg_err *err)
{
    fg_encoder *e = b->e;
    size_t at = 0;
    b->src = src;
    for (size_t m = 0; m < b->n_job; m++) {
        const fg_piece *piece = b->job[m].piece;
        const fg_tensor *t = b->job[m].tensor;
        const uint64_t panel = FG_PANEL_ROWS * t->n_col * fg_st_dtype_bytes(piece->dtype);
        const uint64_t from = b->first * panel, left = piece->bytes - from;
        const uint64_t want = b->n_panel * panel, n = want < left ? want : left;
        b->src_at[m] = at;
        FG_TRY(fg_shards_read(e->source, piece->shard, src + at, (size_t)n, piece->offset + from,
                              err));
        fg_hasher_add(e->hasher[m], src + at, (size_t)n);
        /* the next band of this matrix arrives while this one is encoded */
        if (left > n) {
            fg_shards_prefetch(e->source, piece->shard, piece->offset + from + n,
                               left - n < want ? left - n : want);
        }
        at += (size_t)want;
    }
    return FG_OK;
}

typedef struct error_sum {
    double err2, ref2, worst; /* worst: squared ratio of a row */
    double out_err2, out_ref2;
    float top; /* largest |w| */
} error_sum;

static void add_errors(const band *b, error_sum *sum)
{
    for (uint64_t i = 0; i < b->n_panel * b->n_job; i++) {
        error_sum *s = &sum[i % b->n_job];
        const fg_panel_error *e = &b->e->error[i];
        s->out_err2 += e->out_err2;
        s->out_ref2 += e->out_ref2;
        for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
            s->err2 += e->err2[r];
            s->ref2 += e->ref2[r];
            const double ratio = e->ref2[r] > 0 ? e->err2[r] / e->ref2[r] : 0;
            if (ratio > s->worst) s->worst = ratio;
            if (e->top[r] > s->top) s->top = e->top[r];
        }
    }
}

/* Encodes the band that read_band read. */
static fg_status encode_band(band *b, fg_err *err)
{
    fg_encoder *e = b->e;
    const uint32_t n_worker = fg_team_size(e->team);
    const uint64_t rows = b->n_panel * b->n_job * FG_PANEL_ROWS;
    for (uint32_t i = 0; i < n_worker; i++) e->bad[i].found = false;
    if (rows * b->job[0].tensor->n_col < ALONE_WEIGHTS) {
        (void)encode_range(b, 0, 0, b->n_panel * b->n_job);
    } else {
        fg_team_run(e->team, encode_items, b);
    }
    const bad_value *bad = NULL;
    for (uint32_t i = 0; i < n_worker; i++) {
        const bad_value *v = &e->bad[i];
        if (v->found && (bad == NULL || v->item < bad->item)) bad = v;
    }
    if (bad == NULL) return FG_OK;
    return fail_value(b->job[bad->item % b->n_job].tensor, bad->value, bad->row, bad->col, err);
}

/* A band on its way from the disk. */
typedef struct coming {
    band b;
    uint8_t *src;
    fg_status st;
    fg_err err;
} coming;

static void read_coming(void *arg)
{
    coming *c = arg;
    c->st = read_band(&c->b, c->src, &c->err);
}

/* A band that was read: encodes it and hands it on. */
static fg_status run_band(band *b, error_sum *sum, const fg_encode_io *io, fg_err *err)
{
    fg_encoder *e = b->e;
    FG_TRY(encode_band(b, err));
    add_errors(b, sum);
    const fg_tensor *t = b->job[0].tensor;
    FG_TRY(io->put(io->put_ctx, t->offset + b->first * t->panel_stride, e->out,
                   b->n_panel * b->out_stride, err));
    uint64_t n_source = 0;
    for (size_t m = 0; m < b->n_job; m++) {
        const fg_tensor *x = b->job[m].tensor;
        const uint64_t row = b->first * FG_PANEL_ROWS, n = b->n_panel * FG_PANEL_ROWS;
        n_source += (row + n > x->n_row ? x->n_row - row : n) * x->n_col *
                    fg_st_dtype_bytes(b->job[m].piece->dtype);
    }
    return io->tick(io->tick_ctx, n_source, err);
}

/* All panels, `step` a band; each band is read while the one before is encoded. */
static fg_status run_bands(const band *all, uint64_t n_panel, uint64_t step, error_sum *sum,
                           const fg_encode_io *io, fg_err *err)
{
    fg_encoder *e = all->e;
    coming c = {.b = *all, .src = e->src[0]};
    c.b.n_panel = n_panel < step ? n_panel : step;
    read_coming(&c);
    for (;;) {
        band now = c.b;
        const uint64_t next = now.first + now.n_panel, left = n_panel - next;
        if (c.st != FG_OK) return fg_fail(err, c.st, "%s", c.err.msg);
        if (left > 0) {
            c.b.first = next;
            c.b.n_panel = left < step ? left : step;
            c.src = c.src == e->src[0] ? e->src[1] : e->src[0];
            fg_ahead_start(e->ahead, read_coming, &c);
        }
        const fg_status st = run_band(&now, sum, io, err);
        fg_ahead_wait(e->ahead);
        if (st != FG_OK || left == 0) return st;
    }
}

fg_status fg_encode(fg_encoder *e, fg_encode_job *job, size_t n_job, const fg_encode_io *io,
                    fg_err *err)
{
    band b = {.e = e, .job = job, .n_job = n_job};
    error_sum sum[MAX_JOB] = {{0}};
    size_t src_panel = 0;
    assert(n_job >= 1 && n_job <= MAX_JOB);
    for (size_t m = 0; m < n_job; m++) {
        const fg_tensor *t = job[m].tensor;
        b.out_at[m] = b.out_stride;
        b.out_stride += (size_t)fg_panel_bytes((fg_qtype)t->type, t->n_col);
        src_panel += FG_PANEL_ROWS * (size_t)t->n_col * fg_st_dtype_bytes(job[m].piece->dtype);
        assert(t->n_row == job[0].tensor->n_row &&
               t->offset == job[0].tensor->offset + b.out_at[m]);
        fg_hasher_reset(e->hasher[m]);
    }
    assert(job[0].tensor->panel_stride == b.out_stride);
    const uint64_t n_panel = fg_n_panel(job[0].tensor->n_row);
    uint64_t step = e->src_cap / src_panel;
    if (step > e->out_cap / b.out_stride) step = e->out_cap / b.out_stride;
    if (step > MAX_ITEM / MAX_JOB) step = MAX_ITEM / MAX_JOB;
    assert(step > 0);
    FG_TRY(run_bands(&b, n_panel, step, sum, io, err));
    for (size_t m = 0; m < n_job; m++) {
        const error_sum *s = &sum[m];
        job[m].hash = fg_hasher_digest(e->hasher[m]);
        job[m].err_rms = s->ref2 > 0 ? (float)sqrt(s->err2 / s->ref2) : 0;
        job[m].err_max_row = (float)sqrt(s->worst);
        job[m].err_out = s->out_ref2 > 0 ? (float)sqrt(s->out_err2 / s->out_ref2) : 0;
        const double n_weight = (double)job[m].tensor->n_row * (double)job[m].tensor->n_col;
        job[m].peak = s->ref2 > 0 ? (float)((double)s->top / sqrt(s->ref2 / n_weight)) : 0;
    }
    return FG_OK;
}

fg_status fg_encode_vector(fg_encoder *e, fg_encode_job *job, const fg_encode_io *io, fg_err *err)
{
    const fg_tensor *t = job->tensor;
    const fg_piece *p = job->piece;
    const size_t n = (size_t)t->n_col;
    uint8_t *bytes = fg_mem_alloc(n * sizeof(float)); /* of the source, then of the file */
    float *v = fg_mem_alloc(n * sizeof *v);
    fg_status st = bytes == NULL || v == NULL ? fg_fail_nomem(err, "vector") : FG_OK;
    if (st == FG_OK) {
        st = fg_shards_read(e->source, p->shard, bytes, (size_t)p->bytes, p->offset, err);
    }
    if (st == FG_OK) {
        job->hash = fg_hash64(bytes, (size_t)p->bytes);
        fg_encode_to_f32((fg_st_dtype)p->dtype, bytes, n, v);
        const size_t at = find_refused(v, n, fg_panel_first_refused((fg_qtype)t->type));
        if (at < n) st = fail_value(t, v[at], 0, at, err);
        job->peak = 0.0f;
        for (size_t i = 0; i < n; i++)
            job->peak = fabsf(v[i]) > job->peak ? fabsf(v[i]) : job->peak;
    }
    if (st == FG_OK) {
        fg_f32_put_le(bytes, v, n);
        st = io->put(io->put_ctx, t->offset, bytes, n * sizeof(float), err);
    }
    if (st == FG_OK) st = io->tick(io->tick_ctx, p->bytes, err);
    fg_mem_free(bytes);
    fg_mem_free(v);
    return st;
}
