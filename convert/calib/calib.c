/* SPDX-License-Identifier: MIT
 *
 * Reading order: fg_calib_inputs at the end, which knows the stages; above it one function a stage.
 * A stage goes over all windows; each window is one run of the team.  Stages of layer l:
 *
 *   attention in    x -> n                             moments of n       (qkv, gate; q, k, v)
 *   attention out   x -> n -> u, u kept                moments of u       (out)
 *   route           x, u -> h, h kept; router          experts' tokens
 *   expert e in     h -> n of its tokens               moments of n       (gate, up)
 *   expert e down   n -> hidden, kept                  moments of hidden  (down)
 *   expert e out    hidden -> y, added up by token
 *   layer end       h, sum of y -> x
 */
#include "convert/calib/calib.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/calib/hessian.h"
#include "quant/hadamard.h"
#include "quant/linalg.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mapping.h"
#include "src/base/mem.h"
#include "src/model/stages.h"
#include "src/sys/cpu.h"

#define MAX_TEXT_BYTES ((uint64_t)1 << 28)

/* Rows [n][stride] of f32 in a mapped file without a name: the kernel writes them out when memory
 * is short, and reads them back. */
typedef struct spill {
    float *f;
    size_t stride;
    size_t bytes;
} spill;

struct fg_calib {
    fg_team *team;  /* borrowed */
    fg_team *alone; /* of the caller only, for small models */
    fg_calib_poll *poll;
    void *poll_ctx;
    uint64_t k; /* columns of the current stage's matrix */
    fg_model *m;
    fg_state *st;
    fg_scratch *s;
    fg_hessian h;
    uint32_t window;
    uint64_t n_window, n_token;
    uint32_t *ids;        /* [n_token] */
    spill x, mid, u, sum; /* [n_token] rows: x at the layer's start; h; u; sum of y */
    spill hidden;         /* [rows of the largest expert] */
    uint32_t *sel;        /* [n_token][n_used] */
    float *sel_w;         /* [n_token][n_used] */
    float *gate_p;        /* [n_token][n_expert] router weight relative to the best */
    uint32_t *row;        /* [n_token] tokens of the current expert */
    float *row_w;         /* [n_token] their weights, 0 for those added */
    uint64_t n_row;
    bool embedded;
    bool wanted;          /* the stage's moments are */
    bool rotated;         /* and are those of rotated inputs */
    bool factored;        /* `feedback` is made of them */
    fg_feedback feedback; /* of the current stage */
    fg_calib_report report;
};

static fg_status spill_open(spill *s, uint64_t n_row, uint64_t width, const char *beside,
                            fg_err *err)
{
    void *p;
    s->stride = (size_t)fg_round_up(width, FG_SB_COLS);
    s->bytes = (size_t)n_row * s->stride * sizeof(float);
    FG_TRY(fg_io_map_unnamed(&p, s->bytes, beside, err));
    s->f = p;
    return FG_OK;
}

static void spill_close(spill *s)
{
    fg_mapping_close(s->f, s->bytes);
    *s = (spill){0};
}

void fg_calib_destroy(fg_calib **out)
{
    fg_calib *c = *out;
    if (c == NULL) return;
    spill *const all[] = {&c->x, &c->mid, &c->u, &c->sum, &c->hidden};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) spill_close(all[i]);
    fg_hessian_fini(&c->h);
    fg_team_destroy(&c->alone);
    fg_scratch_destroy(&c->s);
    fg_state_destroy(&c->st);
    fg_model_destroy(&c->m);
    fg_mem_free(c->ids);
    fg_mem_free(c->sel);
    fg_mem_free(c->sel_w);
    fg_mem_free(c->gate_p);
    fg_mem_free(c->row);
    fg_mem_free(c->row_w);
    fg_mem_free(c);
    *out = NULL;
}

static fg_status check_utf8(const char *text, size_t n, const char *path, fg_utf8_flaws *flaws,
                            fg_err *err)
{
    char what[160];
    fg_utf8_judge((const uint8_t *)text, n, flaws);
    if (!fg_utf8_is_other(flaws) || !fg_utf8_describe(flaws, what, sizeof what)) return FG_OK;
    return fg_fail(err, FG_EFORMAT,
                   "%s: %s, expected text in UTF-8 (1 %% at most of anything else)", path, what);
}

fg_status fg_calib_read_text(fg_ids *ids, uint64_t *hash, fg_utf8_flaws *flaws, const char *dir,
                             const char *path, fg_err *err)
{
    char *json = NULL, *text = NULL, *name = fg_io_join(dir, "tokenizer.json");
    size_t n_json, n_text;
    fg_tokenizer *t = NULL;
    *ids = (fg_ids){0};
    if (name == NULL) return fg_fail_nomem(err, dir);
    fg_status st = fg_io_read_all(name, MAX_TEXT_BYTES, &json, &n_json, err);
    if (st == FG_OK) st = fg_tokenizer_create(&t, json, n_json, name, err);
    if (st == FG_OK) st = fg_io_read_all(path, MAX_TEXT_BYTES, &text, &n_text, err);
    if (st == FG_OK) st = check_utf8(text, n_text, path, flaws, err);
    if (st == FG_OK) st = fg_tokenizer_encode(t, NULL, text, n_text, true, ids, err);
    if (st == FG_OK && ids->len == 0) {
        st = fg_fail(err, FG_EINVAL, "%s: an empty text, expected one to calibrate with", path);
    }
    if (st == FG_OK) *hash = fg_hash64(text, n_text);
    fg_tokenizer_destroy(&t);
    fg_mem_free(json);
    fg_mem_free(text);
    fg_mem_free(name);
    return st;
}

uint64_t fg_calib_disk_bytes(const fg_shape *p, uint64_t n_token)
{
    const uint64_t width[] = {p->d_model, p->d_model, p->d_model, (uint64_t)p->n_head * p->d_head,
                              p->d_ff};
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof width / sizeof width[0]; i++) {
        sum += fg_round_up(width[i], FG_SB_COLS) * sizeof(float);
    }
    return sum * n_token;
}

static fg_status take_ids(fg_calib *c, const uint32_t *ids, size_t n, const fg_shape *p,
                          fg_err *err)
{
    c->window = n < FG_CALIB_WINDOW ? (uint32_t)n : FG_CALIB_WINDOW;
    if (c->window > p->n_ctx_max) c->window = (uint32_t)p->n_ctx_max;
    if (n == 0) return fg_fail(err, FG_EINVAL, "calibration text: no tokens, expected some");
    c->n_window = n / c->window;
    c->n_token = c->n_window * c->window;
    c->ids = fg_mem_zalloc_array((size_t)c->n_token, sizeof *c->ids);
    if (c->ids == NULL) return fg_fail_nomem(err, "calibration");
    for (size_t i = 0; i < c->n_token; i++) {
        if (ids[i] >= p->n_vocab) {
            return fg_fail(err, FG_EINVAL, "calibration text: id %u, expected less than %u", ids[i],
                           p->n_vocab);
        }
        c->ids[i] = ids[i];
    }
    return FG_OK;
}

static fg_status allocate(fg_calib *c, bool full, const char *beside, fg_err *err)
{
    const fg_shape *p = c->m->shape;
    const uint64_t width = (uint64_t)p->n_head * p->d_head, n = c->n_token;
    uint64_t k = width > p->d_model ? width : p->d_model;
    k = p->d_ff > k ? p->d_ff : k;
    const fg_kv_type kv = c->m->quantized ? FG_KV_INT8 : FG_KV_F32;
    FG_TRY(fg_team_create(&c->alone, 1, false, err));
    FG_TRY(fg_state_create(&c->st, p, c->window, kv, NULL, err));
    FG_TRY(fg_scratch_create(&c->s, c->m, c->window, c->window, fg_team_size(c->team), err));
    FG_TRY(fg_linalg_init(fg_team_size(c->team), err));
    FG_TRY(fg_hessian_init(&c->h, fg_round_up(k, FG_SB_COLS), full, err));
    FG_TRY(spill_open(&c->x, n, p->d_model, beside, err));
    FG_TRY(spill_open(&c->mid, n, p->d_model, beside, err));
    FG_TRY(spill_open(&c->u, n, width, beside, err));
    FG_TRY(spill_open(&c->sum, n, p->d_model, beside, err));
    FG_TRY(spill_open(&c->hidden, n, p->d_ff, beside, err)); /* one expert may get all tokens */
    c->sel = fg_mem_zalloc_array((size_t)(n * p->n_used), sizeof *c->sel);
    c->sel_w = fg_mem_zalloc_array((size_t)(n * p->n_used), sizeof *c->sel_w);
    c->gate_p = fg_mem_zalloc_array((size_t)(n * p->n_expert), sizeof *c->gate_p);
    c->row = fg_mem_zalloc_array((size_t)n, sizeof *c->row);
    c->row_w = fg_mem_zalloc_array((size_t)n, sizeof *c->row_w);
    const bool ok = c->sel && c->sel_w && c->gate_p && c->row && c->row_w;
    return ok ? FG_OK : fg_fail_nomem(err, "calibration");
}

fg_status fg_calib_create(fg_calib **out, const fg_model_file *file, fg_team *team,
                          const uint32_t *ids, size_t n, const fg_calib_opts *o, fg_err *err)
{
    fg_calib *c = *out = fg_mem_zalloc(sizeof *c);
    if (c == NULL) return fg_fail_nomem(err, "calibration");
    c->team = team;
    c->poll = o->poll;
    c->poll_ctx = o->ctx;
    fg_status st = take_ids(c, ids, n, fg_model_file_shape(file), err);
    if (st == FG_OK) st = fg_model_create(&c->m, file, fg_cpu_detect(), err);
    if (st == FG_OK) st = allocate(c, o->full, o->beside, err);
    if (st != FG_OK) fg_calib_destroy(out);
    if (st == FG_OK)
        c->report = (fg_calib_report){
            .n_token = c->n_token, .min_routed = UINT64_MAX, .min_used = UINT64_MAX};
    return st;
}

/* ---- one window or one run of rows on the team ---- */

typedef struct job job;
typedef void stage_fn(fg_worker *w, job *j);
struct job {
    fg_calib *c;
    stage_fn *stage;
    fg_batch b;
    fg_seq seq;
    uint32_t layer;
    uint64_t first; /* token of the window, or row of the expert */
    uint64_t n;     /* rows */
    uint32_t expert;
};

static void run_stage(fg_worker *w, void *arg)
{
    job *j = arg;
    j->stage(w, j);
}

/* Below this many multiplications of a stage (some 5 ms) the caller works alone: a barrier on a
 * busy machine costs a time slice, which made nano ten times slower with two threads than with
 * one. */
#define ALONE_WORK ((double)(1 << 27))

static void run_job(fg_calib *c, job *j)
{
    const uint32_t n = (uint32_t)j->n;
    j->seq = (fg_seq){.st = c->st, .n = n, .logits_from = n};
    j->b = (fg_batch){
        .m = c->m, .s = c->s, .seq = &j->seq, .n_seq = 1, .ids = c->ids + j->first, .n_tok = n};
    const double k = (double)c->k;
    fg_team_run((double)j->n * k * k < ALONE_WORK ? c->alone : c->team, run_stage, j);
}

static fg_status poll(fg_calib *c, fg_err *err)
{
    return c->poll == NULL ? FG_OK : c->poll(c->poll_ctx, err);
}

/* The stage over all windows in order. */
static fg_status for_windows(fg_calib *c, stage_fn *stage, uint32_t layer, fg_err *err)
{
    for (uint64_t i = 0; i < c->n_window; i++) {
        job j = {.c = c, .stage = stage, .layer = layer, .first = i * c->window, .n = c->window};
        fg_state_reset(c->st);
        run_job(c, &j);
        FG_TRY(poll(c, err));
    }
    return FG_OK;
}

/* Rows of a mapped file <-> rows of the batch, this worker's share. */
static void copy_rows(fg_worker *w, const job *j, const spill *file, const fg_acts *a, bool load)
{
    uint64_t begin, end;
    fg_worker_range(w, j->n, &begin, &end);
    for (uint64_t t = begin; t < end; t++) {
        float *disk = file->f + (j->first + t) * file->stride, *row = a->f + t * a->f_stride;
        memcpy(load ? row : disk, load ? disk : row, file->stride * sizeof(float));
    }
}

/* Stages of the layer at hand, on the rows of the batch. */
static void stages(fg_worker *w, job *j, fg_stage from, fg_stage last)
{
    fg_stages(w, &j->b, j->layer, from, last);
}

/* Adds rows to the moments, rotated as the matrix will see them; they are not kept. */
static void add_moments(fg_worker *w, const job *j, const fg_acts *a)
{
    uint64_t begin, end;
    if (!j->c->wanted) return;
    fg_worker_range(w, j->n, &begin, &end);
    for (uint64_t r = begin; j->c->rotated && r < end; r++) {
        fg_hadamard_rotate(a->f + r * a->f_stride, a->f_stride);
    }
    fg_worker_sync(w);
    fg_hessian_add(w, &j->c->h, a->f, a->f_stride, j->n);
}

static void stage_embed(fg_worker *w, job *j)
{
    fg_embed(w, &j->b);
    copy_rows(w, j, &j->c->x, &j->c->s->x, false);
}

static void stage_attention_in(fg_worker *w, job *j)
{
    fg_calib *c = j->c;
    copy_rows(w, j, &c->x, &c->s->x, true);
    stages(w, j, FG_STAGE_ATTN_NORM, FG_STAGE_ATTN_NORM);
    add_moments(w, j, &c->s->n);
}

static void stage_attention(fg_worker *w, job *j)
{
    fg_calib *c = j->c;
    fg_embed(w, &j->b); /* for the rotary angles */
    copy_rows(w, j, &c->x, &c->s->x, true);
    stages(w, j, FG_STAGE_ATTN_NORM, FG_STAGE_ATTN);
    copy_rows(w, j, &c->u, &c->s->u, false);
    add_moments(w, j, &c->s->u);
}

/* Keeps what the router made of the window. */
static void keep_routes(fg_worker *w, const job *j)
{
    fg_calib *c = j->c;
    const fg_shape *p = c->m->shape;
    uint64_t begin, end;
    fg_worker_range(w, j->n, &begin, &end);
    for (uint64_t t = begin; t < end; t++) {
        const uint64_t at = j->first + t;
        memcpy(c->sel + at * p->n_used, c->s->sel + t * p->n_used, p->n_used * sizeof *c->sel);
        memcpy(c->sel_w + at * p->n_used, c->s->sel_w + t * p->n_used, p->n_used * sizeof(float));
        /* the chosen ones are -inf here, the others relative to the best one's 1 */
        memcpy(c->gate_p + at * p->n_expert, c->s->router.f + t * c->s->router.f_stride,
               p->n_expert * sizeof(float));
        memset(c->sum.f + at * c->sum.stride, 0, c->sum.stride * sizeof(float));
    }
}

static void stage_route(fg_worker *w, job *j)
{
    fg_calib *c = j->c;
    copy_rows(w, j, &c->x, &c->s->x, true);
    copy_rows(w, j, &c->u, &c->s->u, true);
    stages(w, j, FG_STAGE_ATTN_NORM, FG_STAGE_ATTN_NORM); /* the residual may be n */
    stages(w, j, FG_STAGE_ATTN_OUT, FG_STAGE_ATTN_OUT);
    copy_rows(w, j, &c->mid, &c->s->x, false);
    stages(w, j, FG_STAGE_MLP_NORM, FG_STAGE_ROUTE);
    keep_routes(w, j);
}

static void stage_layer_end(fg_worker *w, job *j)
{
    fg_calib *c = j->c;
    copy_rows(w, j, &c->mid, &c->s->x, true);
    copy_rows(w, j, &c->sum, &c->s->a, true);
    stages(w, j, FG_STAGE_MLP_NORM, FG_STAGE_MLP_NORM); /* the residual may be n */
    stages(w, j, FG_STAGE_MLP_OUT, FG_STAGE_MLP_OUT);
    copy_rows(w, j, &c->x, &c->s->x, false);
}

static void stage_head(fg_worker *w, job *j)
{
    fg_calib *c = j->c;
    uint64_t begin, end;
    copy_rows(w, j, &c->x, &c->s->x, true);
    fg_worker_range(w, j->n, &begin, &end);
    for (uint64_t t = begin; t < end; t++) fg_norm_row(w, &j->b, c->m->final_norm, t, t);
    add_moments(w, j, &c->s->n);
}

/* ---- one expert ---- */

/* The stage over the rows of the current expert, as many at a time as the buffers hold. */
static fg_status for_rows(fg_calib *c, stage_fn *stage, uint32_t layer, uint32_t expert,
                          fg_err *err)
{
    for (uint64_t i = 0; i < c->n_row; i += c->window) {
        const uint64_t n = c->n_row - i < c->window ? c->n_row - i : c->window;
        job j = {.c = c, .stage = stage, .layer = layer, .first = i, .n = n, .expert = expert};
        const uint32_t n_expert = c->m->shape->n_expert;
        for (uint32_t e = 0; e <= n_expert; e++) c->s->first[e] = e <= expert ? 0 : (uint32_t)n;
        c->s->active[0] = expert;
        c->s->n_active = 1;
        run_job(c, &j);
        FG_TRY(poll(c, err));
    }
    return FG_OK;
}

/* xs = normed inputs of the expert's rows. */
static void gather_rows(fg_worker *w, const job *j)
{
    const fg_calib *c = j->c;
    const fg_shape *p = c->m->shape;
    uint64_t begin, end;
    fg_worker_range(w, j->n, &begin, &end);
    for (uint64_t r = begin; r < end; r++) {
        const float *mid = c->mid.f + c->row[j->first + r] * c->mid.stride;
        c->m->k.rmsnorm(mid, c->m->layers[j->layer].mlp_norm, p->d_model, (float)p->norm_eps,
                        c->s->xs.f + r * c->s->xs.f_stride);
        if (c->m->quantized) fg_acts_quantize(&c->m->k, &c->s->xs, r, j->n);
    }
    fg_worker_sync(w);
}

static void stage_expert_in(fg_worker *w, job *j)
{
    gather_rows(w, j);
    add_moments(w, j, &j->c->s->xs);
}

static void stage_expert_hidden(fg_worker *w, job *j)
{
    fg_calib *c = j->c;
    gather_rows(w, j);
    stages(w, j, FG_STAGE_HIDDEN, FG_STAGE_HIDDEN);
    copy_rows(w, j, &c->hidden, &c->s->h, false);
    add_moments(w, j, &c->s->h);
}

static void stage_expert_out(fg_worker *w, job *j)
{
    fg_calib *c = j->c;
    uint64_t begin, end;
    copy_rows(w, j, &c->hidden, &c->s->h, true);
    fg_worker_range(w, j->n, &begin, &end);
    for (uint64_t r = begin; c->m->quantized && r < end; r++) {
        fg_acts_quantize(&c->m->k, &c->s->h, r, j->n);
    }
    fg_worker_sync(w);
    stages(w, j, FG_STAGE_DOWN, FG_STAGE_DOWN);
    for (uint64_t r = begin; r < end; r++) { /* a token has one row of an expert */
        const float weight = c->row_w[j->first + r];
        if (weight == 0.0f) continue;
        c->m->k.axpy(weight, c->s->y.f + r * c->s->y.f_stride, c->m->shape->d_model,
                     c->sum.f + c->row[j->first + r] * c->sum.stride);
    }
}

typedef struct candidate {
    float p;
    uint32_t token;
} candidate;

static int by_probability(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

/* Adds the tokens most likely to be sent to the expert of those that were not. */
static fg_status top_up(fg_calib *c, uint32_t expert, uint64_t want, fg_err *err)
{
    const fg_shape *p = c->m->shape;
    candidate *list = fg_mem_zalloc_array((size_t)c->n_token, sizeof *list);
    size_t n = 0;
    if (list == NULL) return fg_fail_nomem(err, "calibration");
    for (uint64_t t = 0; t < c->n_token; t++) {
        const float v = c->gate_p[t * p->n_expert + expert];
        if (v >= 0.0f) list[n++] = (candidate){v, (uint32_t)t};
    }
    qsort(list, n, sizeof *list, by_probability);
    for (size_t i = 0; i < n && c->n_row < want; i++) {
        c->row[c->n_row] = list[i].token;
        c->row_w[c->n_row++] = 0.0f;
    }
    fg_mem_free(list);
    return FG_OK;
}

static fg_status choose_rows(fg_calib *c, uint32_t layer, uint32_t expert, fg_err *err)
{
    const fg_shape *p = c->m->shape;
    c->n_row = 0;
    for (uint64_t i = 0; i < c->n_token * p->n_used; i++) {
        if (c->sel[i] != expert) continue;
        if (!isfinite(c->sel_w[i])) { /* then one expert may be chosen twice for a token */
            return fg_fail(err, FG_EDATA,
                           "layer %u: router weight %g for token %llu of the calibration text, "
                           "expected a number",
                           layer, (double)c->sel_w[i], (unsigned long long)(i / p->n_used));
        }
        c->row[c->n_row] = (uint32_t)(i / p->n_used);
        c->row_w[c->n_row++] = c->sel_w[i];
    }
    fg_calib_report *r = &c->report;
    r->n_expert++;
    if (c->n_row < r->min_routed) r->min_routed = c->n_row;
    const uint64_t want = c->n_token < FG_CALIB_MIN_TOKENS ? c->n_token : FG_CALIB_MIN_TOKENS;
    if (c->n_row < want) {
        r->n_topped++;
        FG_TRY(top_up(c, expert, want, err));
    }
    if (c->n_row < r->min_used) r->min_used = c->n_row;
    return FG_OK;
}

void fg_calib_bind_pair(fg_calib *c, const fg_tensor *gate, const fg_tensor *up,
                        const uint8_t *panels, const float *gate_scale, const float *up_scale)
{
    fg_expert *x = &c->m->layers[gate->layer].experts[gate->expert];
    x->gate.panels = panels;
    x->up.panels = panels + (up->offset - gate->offset);
    x->gate.scales = x->gate.scales == NULL ? NULL : gate_scale;
    x->up.scales = x->up.scales == NULL ? NULL : up_scale;
}

/* ---- the stages in the order of the file ---- */

static bool has_no_inputs(const fg_tensor *t)
{
    return t->role == FG_ROLE_EMBED || t->role == FG_ROLE_ROUTER ||
           fg_role_is_vector((fg_role)t->role);
}

static void start_moments(fg_calib *c, const fg_tensor *t, uint64_t n_row)
{
    if (c->wanted) fg_hessian_start(&c->h, fg_n_sb(t->n_col) * FG_SB_COLS, n_row);
}

static fg_status expert_stages(fg_calib *c, const fg_tensor *t, fg_err *err)
{
    if (t->expert == 0) FG_TRY(for_windows(c, stage_route, t->layer, err));
    FG_TRY(choose_rows(c, t->layer, t->expert, err));
    start_moments(c, t, c->n_row);
    return c->wanted ? for_rows(c, stage_expert_in, t->layer, t->expert, err) : FG_OK;
}

/* What stands between the tensor before t and the inputs of t. */
static fg_status run_stages(fg_calib *c, const fg_tensor *t, fg_err *err)
{
    c->k = fg_n_sb(t->n_col) * FG_SB_COLS;
    switch ((fg_role)t->role) {
    case FG_ROLE_EXPERT_GATE: return expert_stages(c, t, err);
    case FG_ROLE_EXPERT_UP: return FG_OK; /* the gate's */
    case FG_ROLE_EXPERT_DOWN:
        start_moments(c, t, c->n_row);
        return for_rows(c, stage_expert_hidden, t->layer, t->expert, err);
    case FG_ROLE_LIGHT_OUT:
    case FG_ROLE_O:
        start_moments(c, t, c->n_token);
        return for_windows(c, stage_attention, t->layer, err);
    case FG_ROLE_LM_HEAD:
        start_moments(c, t, c->n_token);
        return c->wanted ? for_windows(c, stage_head, 0, err) : FG_OK;
    default:
        if (!c->embedded) FG_TRY(for_windows(c, stage_embed, 0, err));
        c->embedded = true;
        start_moments(c, t, c->n_token);
        return c->wanted ? for_windows(c, stage_attention_in, t->layer, err) : FG_OK;
    }
}

/* The factor of what run_stages added up; *has becomes false for inputs that are all zero. */
static fg_status factor(fg_calib *c, const fg_tensor *t, bool *has, fg_err *err)
{
    const double k = (double)c->k;
    bool zero;
    const fg_status st = fg_hessian_factor(&c->h, k * k * k < 4 * ALONE_WORK ? c->alone : c->team,
                                           &c->feedback, &zero, err);
    if (st != FG_OK && err != NULL) {
        char name[96], why[sizeof err->msg];
        fg_role_name((fg_role)t->role, t->layer, t->expert, name);
        memcpy(why, err->msg, sizeof why);
        return fg_fail(err, st, "%s: %.*s", name, (int)(sizeof why - sizeof name), why);
    }
    if (zero) c->report.n_dead++;
    *has = !zero;
    return st;
}

fg_status fg_calib_inputs(fg_calib *c, const fg_tensor *t, bool *has, fg_feedback *f, fg_err *err)
{
    *has = !has_no_inputs(t) && fg_qtype_get(t->type)->quantized;
    if (has_no_inputs(t)) return FG_OK;
    const bool again = t->role == FG_ROLE_LIGHT_GATE || t->role == FG_ROLE_K ||
                       t->role == FG_ROLE_V || t->role == FG_ROLE_EXPERT_UP;
    if (!again || !c->factored || c->rotated != t->rotated) {
        c->wanted = *has;
        c->rotated = t->rotated;
        c->factored = false;
        FG_TRY(run_stages(c, t, err));
        if (*has) FG_TRY(factor(c, t, has, err));
        c->factored = *has;
    }
    *f = c->feedback;
    return FG_OK;
}

fg_status fg_calib_wrote(fg_calib *c, const fg_tensor *t, fg_err *err)
{
    if (t->role != FG_ROLE_EXPERT_DOWN) return FG_OK;
    c->k = fg_n_sb(t->n_col) * FG_SB_COLS;
    FG_TRY(for_rows(c, stage_expert_out, t->layer, t->expert, err));
    if (t->expert + 1 < c->m->shape->n_expert) return FG_OK;
    return for_windows(c, stage_layer_end, t->layer, err);
}

fg_status fg_calib_skip(fg_calib *c, const fg_tensor *t, fg_err *err)
{
    c->wanted = c->factored = false;
    if (has_no_inputs(t)) return FG_OK;
    FG_TRY(run_stages(c, t, err));
    return fg_calib_wrote(c, t, err);
}

const float *fg_calib_activations(const fg_calib *c, uint64_t token)
{
    return c->x.f + token * c->x.stride;
}

fg_calib_report fg_calib_get_report(const fg_calib *c)
{
    return c->report;
}
