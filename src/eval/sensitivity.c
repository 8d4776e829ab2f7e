/* SPDX-License-Identifier: MIT
 *
 * Reading order: fg_sensitivity_run at the end; run_layers and run_head above it; above those one
 * window of one stream on the team.
 *
 * BASE may take f32 activations and LOW takes int8: the replaced unit then carries the error of its
 * quantized inputs too, as it will at run time.
 */
#include "src/eval/sensitivity.h"

#include <math.h>
#include <string.h>

#include "src/base/dmath.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mapping.h"
#include "src/base/mem.h"
#include "src/eval/quality.h"
#include "src/model/stages.h"
#include "src/sys/cpu.h"
#include "src/sys/team.h"

enum {
    BASE_STREAM = 0, /* stream of unit u: 1 + u; the head has none, its input is the base stream */
    LANES = 8, /* of a sum over the vocabulary: one chain of additions would wait for itself */
};
/* Logits of a part of a window, base's and a stream's, take at most so much each. */
#define LOGIT_BYTES ((uint64_t)256 << 20)

typedef struct run {
    const fg_sensitivity_opts *opts;
    fg_model *base, *low; /* of our own: units are swapped between them */
    fg_team *team;
    fg_state *st;
    fg_scratch *s;
    uint32_t *ids; /* [n_token], windows one behind the other */
    uint32_t n_unit, window;
    uint64_t n_window, n_token;
    float *x; /* [stream][n_token][stride], mapped */
    size_t x_bytes;
    uint32_t part;       /* tokens whose logits are held */
    fg_acts logits[2];   /* [part] base's, a stream's (f only) */
    float *e;            /* [part][n_vocab] exp(logit - best) of base */
    double *log_z, *sum; /* [part] ln of the sum of exp(logits) of base; sum of e */
    float *scratch;      /* [worker][n_vocab] */
    double *kld;         /* [part] of the current stream */
    size_t logit_bytes, e_bytes;
    uint64_t done, total;
} run;

/* ---- units ---- */

static void swap(fg_matrix *a, fg_matrix *b)
{
    const fg_matrix t = *a;
    *a = *b;
    *b = t;
}

/* Exchanges the unit's matrices between the models; a second call undoes it. */
static void swap_unit(run *r, fg_quant_unit u)
{
    if (u.class == FG_QUANT_UNIT_EMBED) swap(&r->base->embed, &r->low->embed);
    if (u.class == FG_QUANT_UNIT_LM_HEAD) swap(&r->base->lm_head, &r->low->lm_head);
    if (u.layer == FG_NO_LAYER) return;
    fg_layer *a = &r->base->layers[u.layer], *b = &r->low->layers[u.layer];
    if (u.class == FG_QUANT_UNIT_ATTN_IN) {
        swap(&a->qkv, &b->qkv);
        swap(&a->out_gate, &b->out_gate);
        swap(&a->q, &b->q);
        swap(&a->k, &b->k);
        swap(&a->v, &b->v);
    }
    if (u.class == FG_QUANT_UNIT_ATTN_OUT) swap(&a->out, &b->out);
    for (uint32_t e = 0; e < r->base->shape->n_expert; e++) {
        fg_expert *x = &a->experts[e], *y = &b->experts[e];
        if (u.class == FG_QUANT_UNIT_EXPERT_DOWN) swap(&x->down, &y->down);
        if (u.class != FG_QUANT_UNIT_EXPERT_IN) continue;
        swap(&x->gate, &y->gate);
        swap(&x->up, &y->up);
    }
}

/* Units of the directory of LOW. */
static fg_status describe_units(fg_sensitivity *out, const fg_model_file *f, fg_err *err)
{
    const fg_shape *s = fg_model_file_shape(f);
    out->n_unit = fg_quant_unit_count(s);
    out->unit = fg_mem_zalloc_array(out->n_unit, sizeof *out->unit);
    if (out->unit == NULL) return fg_fail_nomem(err, "sensitivity");
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        const fg_tensor *t = fg_model_file_tensor(f, i);
        uint32_t idx;
        if (!fg_quant_unit_of(s, (fg_role)t->role, t->layer, &idx)) continue;
        fg_sensitivity_unit *u = &out->unit[idx];
        const bool quantized = fg_qtype_get(t->type)->quantized;
        if (!quantized || (u->n_weight != 0 && u->type != (fg_qtype)t->type)) {
            char name[96];
            fg_role_name((fg_role)t->role, t->layer, t->expert, name);
            return fg_fail(err, FG_EINVAL, "%s: %s is %s, expected %s", fg_model_file_path(f), name,
                           fg_qtype_get(t->type)->name,
                           quantized ? "one type for all matrices of a unit"
                                     : "quantized matrices in LOW");
        }
        const double n = (double)(t->n_row * t->n_col), rms = (double)t->err_rms;
        u->type = (fg_qtype)t->type;
        u->n_weight += t->n_row * t->n_col;
        u->err2 += n * rms * rms;
        u->bits += 8.0 * (double)fg_tensor_bytes(t);
    }
    for (uint32_t i = 0; i < out->n_unit; i++) {
        out->unit[i].err2 /= (double)out->unit[i].n_weight;
        out->unit[i].bits /= (double)out->unit[i].n_weight;
    }
    return FG_OK;
}

/* ---- checks ---- */

static bool same_shape(const fg_shape *a, const fg_shape *b)
{
    return a->n_layer == b->n_layer && a->d_model == b->d_model && a->n_head == b->n_head &&
           a->n_kv_head == b->n_kv_head && a->d_head == b->d_head && a->n_expert == b->n_expert &&
           a->n_used == b->n_used && a->d_ff == b->d_ff && a->n_vocab == b->n_vocab &&
           memcmp(a->attn, b->attn, a->n_layer) == 0;
}

/* Norms are stored alike in every file of a checkpoint. */
static bool same_norms(const fg_model_file *a, const fg_model_file *b)
{
    for (uint64_t i = 0; i < fg_model_file_n_tensor(a); i++) {
        const fg_tensor *t = fg_model_file_tensor(a, i), *u = fg_model_file_tensor(b, i);
        if (!fg_role_is_vector((fg_role)t->role)) continue;
        const uint8_t *p = fg_model_file_data(a, t->offset), *q = fg_model_file_data(b, u->offset);
        if (memcmp(p, q, (size_t)t->n_col * sizeof(float)) != 0) return false;
    }
    return true;
}

static fg_status check(const fg_model_file *base, const fg_model_file *low, const uint32_t *ids,
                       size_t n, fg_err *err)
{
    const fg_shape *s = fg_model_file_shape(base);
    const char *path = fg_model_file_path(low), *base_path = fg_model_file_path(base);
    if (!same_shape(s, fg_model_file_shape(low))) {
        return fg_fail(err, FG_EINVAL, "%s: another shape than %s, expected the same checkpoint",
                       path, base_path);
    }
    if (fg_model_file_data_root(base) == fg_model_file_data_root(low)) {
        return fg_fail(err, FG_EINVAL, "%s: the same weights as %s, expected coarser ones", path,
                       base_path);
    }
    if (!same_norms(base, low)) {
        return fg_fail(err, FG_EINVAL, "%s: other norms than %s, expected the same checkpoint",
                       path, base_path);
    }
    if (n == 0) return fg_fail(err, FG_EINVAL, "text: no tokens, expected some");
    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= s->n_vocab) {
            return fg_fail(err, FG_EINVAL, "token %zu: id %u, expected less than %u", i, ids[i],
                           s->n_vocab);
        }
    }
    return FG_OK;
}

/* ---- one window of one stream ---- */

typedef struct job job;
typedef void stage_fn(fg_worker *w, job *j);
struct job {
    run *r;
    stage_fn *stage;
    fg_batch b;
    fg_seq seq;
    uint32_t layer;
    uint64_t from, to; /* streams */
    uint64_t first, n; /* tokens of the sample */
    const fg_matrix *head;
};

static void run_stage(fg_worker *w, void *arg)
{
    job *j = arg;
    j->stage(w, j);
}

static bool run_job(job *j)
{
    run *r = j->r;
    const uint32_t n = (uint32_t)j->n;
    j->seq = (fg_seq){.st = r->st, .n = n, .logits_from = n};
    j->b = (fg_batch){
        .m = r->base, .s = r->s, .seq = &j->seq, .n_seq = 1, .ids = r->ids + j->first, .n_tok = n};
    fg_state_reset(r->st);
    fg_team_run(r->team, run_stage, j);
    r->done++;
    return r->opts->progress == NULL || r->opts->progress(r->opts->ctx, r->done, r->total);
}

static void copy_rows(fg_worker *w, const job *j, uint64_t stream, bool load)
{
    const run *r = j->r;
    const size_t stride = r->s->x.f_stride;
    uint64_t begin, end;
    fg_worker_range(w, j->n, &begin, &end);
    float *kept = r->x + (stream * r->n_token + j->first + begin) * stride;
    float *row = r->s->x.f + begin * stride;
    const size_t bytes = (size_t)(end - begin) * stride * sizeof(float);
    memcpy(load ? row : kept, load ? kept : row, bytes);
}

static void stage_embed(fg_worker *w, job *j)
{
    fg_embed(w, &j->b);
    copy_rows(w, j, j->to, false);
}

static void stage_layer(fg_worker *w, job *j)
{
    fg_embed(w, &j->b); /* for the rotary angles */
    copy_rows(w, j, j->from, true);
    fg_stages(w, &j->b, j->layer, FG_STAGE_ATTN_NORM, FG_STAGE_MLP_OUT);
    copy_rows(w, j, j->to, false);
}

/* Sum in double of n terms a[i], or a[i] * (b[i] - c[i]): every 8th in one lane, lanes in order. */
static double sum_lanes(const float *a, const float *b, const float *c, uint32_t n)
{
    double lane[LANES] = {0}, sum = 0.0;
    const uint32_t whole = n - n % LANES;
    for (uint32_t i = 0; i < whole; i += LANES) {
        for (uint32_t k = 0; k < LANES; k++) {
            const double d = b == NULL ? 1.0 : (double)b[i + k] - (double)c[i + k];
            lane[k] += (double)a[i + k] * d;
        }
    }
    for (uint32_t i = whole; i < n; i++) {
        lane[i - whole] += (double)a[i] * (b == NULL ? 1.0 : (double)b[i] - (double)c[i]);
    }
    for (uint32_t k = 0; k < LANES; k++) sum += lane[k];
    return sum;
}

/* e[i] = exp(x[i] - best); the sum of e, which is 1 at least, in *sum; returns ln of the sum of
 * exp(x). Sums are in double: a unit's divergence may be a thousandth of what f32 sums would
 * add. */
static double softmax(const run *r, const float *x, float *e, double *sum)
{
    const uint32_t n = r->base->shape->n_vocab;
    float best = x[0];
    for (uint32_t i = 1; i < n; i++) best = x[i] > best ? x[i] : best;
    memcpy(e, x, n * sizeof(float));
    (void)r->base->k.softmax_num(e, n);
    *sum = sum_lanes(e, NULL, NULL, n);
    return (double)best + fg_log(*sum);
}

/* Logits of the window's part, then the base distribution kept or a stream compared with it. */
static void stage_head(fg_worker *w, job *j)
{
    run *r = j->r;
    const uint32_t n_vocab = r->base->shape->n_vocab;
    const bool keep = j->head == NULL;
    const fg_product head = {keep ? &r->base->lm_head : j->head, &r->s->n, r->logits[!keep]};
    uint64_t begin, end;
    copy_rows(w, j, j->from, true);
    fg_worker_range(w, j->n, &begin, &end);
    for (uint64_t t = begin; t < end; t++) fg_norm_row(w, &j->b, r->base->final_norm, t, t);
    fg_worker_sync(w);
    fg_multiply(w, r->base->weights, NULL, &head, 1, j->n);
    fg_worker_sync(w);
    float *scratch = r->scratch + (size_t)w->idx * n_vocab;
    for (uint64_t t = begin; t < end; t++) {
        const float *b = r->logits[0].f + t * r->logits[0].f_stride;
        const float *a = r->logits[1].f + t * r->logits[1].f_stride;
        float *e = r->e + t * n_vocab;
        double sum;
        if (keep) {
            r->log_z[t] = softmax(r, b, e, &r->sum[t]);
            continue;
        }
        const double log_z = softmax(r, a, scratch, &sum);
        r->kld[t] = sum_lanes(e, b, a, n_vocab) / r->sum[t] + log_z - r->log_z[t];
    }
}

/* ---- the pass ---- */

static fg_status cancelled(const run *r, fg_err *err)
{
    return fg_fail(err, FG_ECANCEL,
                   "sensitivity: cancelled after %llu of %llu passes, expected all",
                   (unsigned long long)r->done, (unsigned long long)r->total);
}

/* Stream `from` through the stage into stream `to`, all windows, with the unit replaced. */
static fg_status run_stream(run *r, stage_fn *stage, uint32_t layer, uint64_t from, uint64_t to,
                            const fg_quant_unit *replaced, fg_err *err)
{
    bool go_on = true;
    if (replaced != NULL) swap_unit(r, *replaced);
    for (uint64_t i = 0; i < r->n_window && go_on; i++) {
        job j = {.r = r, .stage = stage, .layer = layer, .from = from, .to = to};
        j.first = i * r->window;
        j.n = r->window;
        go_on = run_job(&j);
    }
    if (replaced != NULL) swap_unit(r, *replaced);
    return go_on ? FG_OK : cancelled(r, err);
}

/* Layer after layer; the streams of units of earlier layers are 0 .. n_stream - 1. */
static fg_status run_layers(run *r, fg_err *err)
{
    const fg_shape *s = r->base->shape;
    const fg_quant_unit embed = fg_quant_unit_at(s, 0);
    uint64_t n_stream = 2;
    FG_TRY(run_stream(r, stage_embed, 0, 0, BASE_STREAM, NULL, err));
    FG_TRY(run_stream(r, stage_embed, 0, 0, 1, &embed, err));
    for (uint32_t l = 0; l < s->n_layer; l++) {
        for (uint64_t c = 0; c < FG_QUANT_UNIT_LAYER_CLASSES; c++) {
            const fg_quant_unit u = fg_quant_unit_at(s, (uint32_t)(n_stream + c - 1));
            FG_TRY(run_stream(r, stage_layer, l, BASE_STREAM, n_stream + c, &u, err));
        }
        for (uint64_t i = 0; i < n_stream; i++) {
            FG_TRY(run_stream(r, stage_layer, l, i, i, NULL, err));
        }
        n_stream += FG_QUANT_UNIT_LAYER_CLASSES;
    }
    return FG_OK;
}

/* Divergence of a stream, added up over the part. */
static fg_status compare(run *r, job j, uint64_t stream, const fg_matrix *head, double *sum,
                         fg_err *err)
{
    j.from = stream;
    j.head = head;
    if (!run_job(&j)) return cancelled(r, err);
    for (uint64_t t = 0; t < j.n; t++) {
        if (!isfinite(r->kld[t])) {
            return fg_fail(err, FG_EDATA,
                           "logits of token %llu: not finite, expected finite; run fulgur verify",
                           (unsigned long long)(j.first + t));
        }
        *sum += r->kld[t];
    }
    return FG_OK;
}

static fg_status run_head(run *r, fg_sensitivity *out, fg_err *err)
{
    for (uint64_t at = 0; at < r->n_token; at += r->part) {
        job j = {.r = r, .stage = stage_head, .from = BASE_STREAM, .first = at};
        j.n = r->n_token - at < r->part ? r->n_token - at : r->part;
        if (!run_job(&j)) return cancelled(r, err);
        for (uint32_t u = 0; u + 1 < r->n_unit; u++) {
            FG_TRY(compare(r, j, 1 + u, &r->base->lm_head, &out->unit[u].kld, err));
        }
        FG_TRY(compare(r, j, BASE_STREAM, &r->low->lm_head, &out->unit[r->n_unit - 1].kld, err));
    }
    for (uint32_t u = 0; u < r->n_unit; u++) {
        const double mean = out->unit[u].kld / (double)r->n_token;
        out->unit[u].kld = mean > 0.0 ? mean : 0.0; /* rounding */
    }
    return FG_OK;
}

/* ---- the whole ---- */

/* Whole windows spread evenly over the text. */
static fg_status take_windows(run *r, const uint32_t *ids, size_t n, fg_err *err)
{
    const uint64_t room = r->base->shape->n_ctx_max;
    uint64_t window = n < FG_SENSITIVITY_WINDOW ? n : FG_SENSITIVITY_WINDOW;
    window = window < room ? window : room;
    r->window = (uint32_t)window;
    r->n_window = (r->opts->n_token < n ? r->opts->n_token : n) / window;
    if (r->n_window == 0) r->n_window = 1;
    r->n_token = r->n_window * window;
    r->ids = fg_mem_zalloc_array((size_t)r->n_token, sizeof *r->ids);
    if (r->ids == NULL) return fg_fail_nomem(err, "sensitivity");
    for (uint64_t i = 0; i < r->n_window; i++) {
        memcpy(r->ids + i * window, ids + i * (n / r->n_window), (size_t)window * sizeof *r->ids);
    }
    return FG_OK;
}

static fg_forms either(fg_forms a, fg_forms b)
{
    return (fg_forms){a.plain || b.plain, a.rotated || b.rotated};
}

/* BASE's model prepares its activations for LOW's matrices as well. */
static void join_forms(fg_model *m, const fg_model *low)
{
    fg_model_forms *f = &m->forms;
    f->in = either(f->in, low->forms.in);
    f->attn_out = either(f->attn_out, low->forms.attn_out);
    f->expert_in = either(f->expert_in, low->forms.expert_in);
    f->hidden = either(f->hidden, low->forms.hidden);
    m->quantized = m->quantized || low->quantized;
}

static fg_status map_streams(run *r, fg_err *err)
{
    void *p;
    r->x_bytes = (size_t)(r->n_unit * r->n_token * r->s->x.f_stride) * sizeof(float);
    FG_TRY(fg_io_map_unnamed(&p, r->x_bytes, r->opts->beside, err));
    r->x = p;
    return FG_OK;
}

static fg_status allocate_head(run *r, fg_err *err)
{
    const uint64_t n_vocab = r->base->shape->n_vocab, stride = fg_round_up(n_vocab, FG_SB_COLS);
    uint64_t part = LOGIT_BYTES / sizeof(float) / stride;
    part = part < 1 ? 1 : part > r->window ? r->window : part;
    r->part = (uint32_t)part;
    r->logit_bytes = (size_t)(part * stride * sizeof(float));
    r->e_bytes = (size_t)(part * n_vocab * sizeof(float));
    for (int i = 0; i < 2; i++) {
        r->logits[i] = (fg_acts){.f = fg_mem_map(r->logit_bytes), .f_stride = (size_t)stride};
        if (r->logits[i].f == NULL) return fg_fail_nomem(err, "logits");
    }
    r->e = fg_mem_map(r->e_bytes);
    r->log_z = fg_mem_zalloc_array(part, sizeof *r->log_z);
    r->sum = fg_mem_zalloc_array(part, sizeof *r->sum);
    r->kld = fg_mem_zalloc_array(part, sizeof *r->kld);
    r->scratch = fg_mem_zalloc_array((size_t)fg_team_size(r->team) * n_vocab, sizeof(float));
    const bool ok = r->e && r->log_z && r->sum && r->kld && r->scratch;
    return ok ? FG_OK : fg_fail_nomem(err, "logits");
}

static fg_status prepare(run *r, fg_engine *base, fg_engine *low, const uint32_t *ids, size_t n,
                         fg_err *err)
{
    const uint32_t flags = fg_engine_cpu_flags(base);
    FG_TRY(fg_model_create(&r->base, fg_engine_file(base), flags, err));
    FG_TRY(fg_model_create(&r->low, fg_engine_file(low), flags, err));
    const fg_kv_type kv = r->base->quantized ? FG_KV_INT8 : FG_KV_F32;
    join_forms(r->base, r->low);
    FG_TRY(take_windows(r, ids, n, err));
    /* not bound to cores: the engines' teams are, and the backend may give them the same threads */
    FG_TRY(fg_team_create(&r->team, fg_engine_n_thread(base), false, err));
    FG_TRY(fg_state_create(&r->st, r->base->shape, r->window, kv, NULL, err));
    FG_TRY(fg_scratch_create(&r->s, r->base, r->window, r->window, fg_team_size(r->team), err));
    FG_TRY(map_streams(r, err));
    FG_TRY(allocate_head(r, err));
    const uint64_t n_layer = r->base->shape->n_layer;
    const uint64_t n_part = (r->n_token + r->part - 1) / r->part;
    r->total = r->n_window * (2 + n_layer * (4 + 2 * n_layer)) + n_part * (1 + r->n_unit);
    return FG_OK;
}

static void run_fini(run *r)
{
    fg_mapping_close(r->x, r->x_bytes);
    for (int i = 0; i < 2; i++) fg_mem_unmap(r->logits[i].f, r->logit_bytes);
    fg_mem_unmap(r->e, r->e_bytes);
    fg_mem_free(r->log_z);
    fg_mem_free(r->sum);
    fg_mem_free(r->kld);
    fg_mem_free(r->scratch);
    fg_mem_free(r->ids);
    fg_scratch_destroy(&r->s);
    fg_state_destroy(&r->st);
    fg_team_destroy(&r->team);
    fg_model_destroy(&r->low);
    fg_model_destroy(&r->base);
}

fg_status fg_sensitivity_run(fg_sensitivity *out, fg_engine *base, fg_engine *low,
                             const uint32_t *ids, size_t n, const fg_sensitivity_opts *opts,
                             fg_err *err)
{
    *out = (fg_sensitivity){0};
    FG_TRY(check(fg_engine_file(base), fg_engine_file(low), ids, n, err));
    run r = {.opts = opts, .n_unit = fg_quant_unit_count(fg_engine_shape(base))};
    fg_status st = describe_units(out, fg_engine_file(low), err);
    if (st == FG_OK) st = prepare(&r, base, low, ids, n, err);
    if (st == FG_OK) st = run_layers(&r, err);
    if (st == FG_OK) st = run_head(&r, out, err);
    out->window = r.window;
    out->n_token = r.n_token;
    run_fini(&r);
    if (st != FG_OK) fg_sensitivity_fini(out);
    return st;
}

void fg_sensitivity_fini(fg_sensitivity *s)
{
    fg_mem_free(s->unit);
    *s = (fg_sensitivity){0};
}

static void put_model(fg_buf *b, const char *key, const fg_engine *e)
{
    const fg_card_model m = fg_card_model_of(fg_engine_file(e));
    fg_buf_printf(b, "\"%s\": {\"data_root\": \"0x%016llx\", \"type\": \"%s\", \"bits\": %.6f},\n",
                  key, (unsigned long long)m.data_root, m.type, m.bits);
}

void fg_sensitivity_put_json(fg_buf *b, const fg_sensitivity *s, const fg_engine *base,
                             const fg_engine *low, uint64_t text_hash, uint64_t text_bytes)
{
    fg_buf_printf(b, "{\"version\": 1, \"fulgur\": \"%s\",\n", FG_VERSION);
    put_model(b, "base", base);
    put_model(b, "low", low);
    fg_buf_printf(b, "\"text_xxh3\": \"0x%016llx\", \"text_bytes\": %llu,\n",
                  (unsigned long long)text_hash, (unsigned long long)text_bytes);
    fg_buf_printf(b, "\"window\": %u, \"tokens\": %llu,\n\"units\": [\n", s->window,
                  (unsigned long long)s->n_token);
    for (uint32_t i = 0; i < s->n_unit; i++) {
        const fg_sensitivity_unit *u = &s->unit[i];
        const fg_quant_unit at = fg_quant_unit_at(fg_engine_shape(base), i);
        fg_buf_put_str(b, "{");
        if (at.layer != FG_NO_LAYER) fg_buf_printf(b, "\"layer\": %u, ", at.layer);
        fg_buf_printf(b, "\"class\": \"%s\", \"kld\": %.9g, \"weights\": %llu, \"type\": \"%s\"",
                      fg_quant_unit_class_name(at.class), u->kld, (unsigned long long)u->n_weight,
                      fg_qtype_get(u->type)->name);
        fg_buf_printf(b, ", \"bits\": %.6f, \"err2\": ", u->bits);
        if (isfinite(u->err2)) {
            fg_buf_printf(b, "%.9g", u->err2);
        } else {
            fg_buf_put_str(b, "null");
        }
        fg_buf_put_str(b, i + 1 < s->n_unit ? "},\n" : "}\n");
    }
    fg_buf_put_str(b, "]}\n");
}
