/* SPDX-License-Identifier: MIT
 *
 * The model as a whole: decode and prefill after a context of any length, and the start.  Token ids
 * are random, so that routing is: a repeated token would meet experts that are still in the cache.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "bench/bench_impl.h"
#include "src/engine/kv.h"
#include "src/engine/session.h"

enum { MAX_RUN = 101, START_TOKENS = 9 };

/* ---- synthetic context ---- */

/* Fills an array, split over the workers, each of which is likely to use that part. */
static void fill_array(const fg_worker *w, void *p, uint64_t bytes, uint64_t seed)
{
    uint64_t begin, end;
    if (p == NULL) return;
    fg_worker_range(w, (bytes + FG_PAGE_BYTES - 1) / FG_PAGE_BYTES, &begin, &end);
    begin *= FG_PAGE_BYTES;
    end = end * FG_PAGE_BYTES < bytes ? end * FG_PAGE_BYTES : bytes;
    if (begin < end)
        fg_bench_fill((uint8_t *)p + begin, end - begin, seed * FG_MAX_THREAD + w->idx);
}

/* Scales of int8 rows such that scores stay within a softmax's range. */
static void fill_scales(const fg_worker *w, float *p, uint64_t n)
{
    uint64_t begin, end;
    fg_worker_range(w, p == NULL ? 0 : n, &begin, &end);
    for (uint64_t i = begin; i < end; i++) p[i] = 0.005f;
}

typedef struct fill_job {
    const fg_shape *shape;
    fg_state *st;
    uint64_t ctx;
} fill_job;

static void fill_state(fg_worker *w, void *arg)
{
    const fill_job *j = arg;
    const uint64_t d = j->shape->d_head, size = fg_kv_bytes(j->st->kv_type);
    const size_t n_part = (size_t)j->shape->n_layer * j->st->place.n_node;
    for (size_t i = 0; i < n_part; i++) {
        const fg_layer_part *y = &j->st->part[i];
        fill_array(w, y->s, y->n_head * d * d * sizeof(float), 8 * i);
        fill_array(w, y->kt, y->n_head * d * FG_LIGHT_CHUNK * sizeof(float), 8 * i + 1);
        fill_array(w, y->v, y->n_head * d * FG_LIGHT_CHUNK * sizeof(float), 8 * i + 2);
        fill_array(w, y->k_cache, y->n_row * d * size, 8 * i + 3);
        fill_array(w, y->v_cache, y->n_row * d * size, 8 * i + 4);
        fill_scales(w, y->k_scale, y->n_row);
        fill_scales(w, y->v_scale, y->n_row);
    }
}

/* A state of ctx random positions with room for n_tok more. */
static fg_status open_state(fg_bench *b, uint64_t ctx, uint64_t n_tok, fg_state **st,
                            fg_scratch **scratch, uint32_t n_batch, fg_err *err)
{
    const fg_shape *s = b->model->shape;
    const fg_kv_type kv = fg_kv_resolve(b->kv, b->model->quantized);
    FG_TRY(fg_state_create(st, s, ctx + n_tok, kv, fg_team_place(b->team), err));
    FG_TRY(fg_scratch_create(scratch, b->model, ctx + n_tok, n_batch, fg_team_size(b->team), err));
    FG_TRY(fg_engine_charge(b->e, (*st)->bytes + (*scratch)->bytes, 0, err));
    fill_job j = {s, *st, ctx};
    if (ctx > 0) fg_team_run(b->team, fill_state, &j);
    FG_TRY(fg_engine_attach_state(b->e, *st, *scratch, err)); /* a card's cache stays zeros */
    fg_device *d = (*st)->device;
    return d == NULL ? FG_OK : d->ops->fill(d, err);
}

/* ---- what a token costs ---- */

static void count(const fg_matrix *m, double times, fg_bench_run *out)
{
    const double gmac = times * (double)m->n_row * (double)m->n_col * 1e-9;
    out->gmac += gmac;
    const uint32_t kind = (uint32_t)fg_qkind_of((uint32_t)m->type, m->lut);
    out->gmac_type[kind < FG_BENCH_TYPES ? kind : FG_BENCH_TYPES] += gmac;
}

/* Multiply-adds of one token of n_tok whose last one gets logits, and weight bytes of the whole
 * batch. */
static void count_weights(const fg_bench *b, uint32_t n_tok, fg_bench_run *out)
{
    const fg_model *m = b->model;
    const fg_shape *s = m->shape;
    double miss = 1.0; /* chance that random tokens all leave an expert out */
    for (uint32_t i = 0; i < n_tok; i++) miss *= 1.0 - (double)s->n_used / (double)s->n_expert;
    const double met = (1.0 - miss) * (double)s->n_expert;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        const fg_layer *y = &m->layers[l];
        const fg_expert *x = &y->experts[0];
        const fg_matrix *dense[] = {&y->qkv, &y->out_gate, &y->q,     &y->k,
                                    &y->v,   &y->out,      &y->router};
        for (size_t i = 0; i < sizeof dense / sizeof dense[0]; i++) {
            if (dense[i]->panels == NULL) continue;
            count(dense[i], 1.0, out);
            out->weight_bytes += (double)dense[i]->bytes;
        }
        const fg_matrix *part[] = {&x->gate, &x->up, &x->down};
        for (size_t i = 0; i < 3; i++) {
            count(part[i], (double)s->n_used, out);
            out->expert_gmac +=
                (double)s->n_used * (double)part[i]->n_row * (double)part[i]->n_col * 1e-9;
            out->weight_bytes += met * (double)part[i]->bytes;
        }
    }
    count(&m->lm_head, 1.0 / (double)n_tok, out);
    out->weight_bytes += (double)m->lm_head.bytes;
}

/* Bytes of state that one token at position `pos` reads: lightning states and half a chunk of keys
 * and values, and the key-value rows before it. */
static double state_bytes(const fg_bench *b, const fg_state *st, uint64_t pos)
{
    const fg_shape *s = b->model->shape;
    const double d = s->d_head, head = s->n_head;
    const double scale = st->kv_type == FG_KV_INT8 ? sizeof(float) : 0.0;
    const double row = 2.0 * (fg_kv_bytes(st->kv_type) * d + scale);
    double bytes = 0.0;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        bytes += s->attn[l] == FG_ATTN_LIGHTNING ? 4.0 * head * d * (d + FG_LIGHT_CHUNK)
                                                 : (double)(pos + 1) * s->n_kv_head * row;
    }
    return bytes;
}

/* Of a token that sees n positions. */
static double attn_gmac(const fg_shape *s, double n)
{
    double layers = 0.0;
    for (uint32_t l = 0; l < s->n_layer; l++) layers += s->attn[l] == FG_ATTN_SOFTMAX;
    return layers * 2.0 * n * s->n_head * s->d_head * 1e-9;
}

/* ---- runs ---- */

typedef struct bench_seq {
    fg_bench *b;
    fg_state *st;
    fg_scratch *scratch;
    fg_profile profile;
    fg_rng rng;
    uint32_t *ids; /* [n_tok] */
    uint32_t n_tok, n_batch;
} bench_seq;

/* All n_tok tokens after position ctx, logits of the last one of a batch of one, or of all; in
 * *seconds. */
static fg_status run_once(bench_seq *q, uint64_t ctx, double *seconds, fg_err *err)
{
    for (uint32_t i = 0; i < q->n_tok; i++) {
        q->ids[i] = (uint32_t)(fg_rng_u64(&q->rng) % q->b->model->shape->n_vocab);
    }
    fg_state_reset_to(q->st, ctx);
    const uint64_t t0 = fg_clock_ns();
    for (uint32_t i = 0; i < q->n_tok; i += q->n_batch) {
        const uint32_t n = q->n_tok - i < q->n_batch ? q->n_tok - i : q->n_batch;
        const bool ends = i + n == q->n_tok;
        const fg_seq seq = {
            .st = q->st, .n = n, .logits_from = ends || q->n_batch == 1 ? n - 1 : n};
        fg_batch batch = {
            .m = q->b->model,
            .s = q->scratch,
            .seq = &seq,
            .n_seq = 1,
            .ids = q->ids + i,
            .n_tok = n,
            .device = q->st->device,
            .profile = &q->profile,
        };
        FG_TRY(fg_forward(q->b->team, &batch, err));
    }
    *seconds = (double)(fg_clock_ns() - t0) * 1e-9;
    return FG_OK;
}

static void fill_phases(const fg_profile *p, fg_bench_run *out)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < FG_PHASE_COUNT; i++) sum += (double)p->ns[i];
    for (uint32_t i = 0; i < FG_PHASE_COUNT && i < FG_BENCH_PHASES && sum > 0.0; i++) {
        out->phase[i].name = fg_phase_name((fg_phase)i);
        out->phase[i].share = (double)p->ns[i] / sum;
        out->n_phase = i + 1;
    }
}

/* What the machine gave before the runs, between and after them. */
typedef struct limits {
    uint32_t n_run;
    double read[MAX_RUN + 1];
    fg_bench_rates rates[MAX_RUN + 1];
} limits;

static fg_status measure_limits(limits *l, fg_bench *b, bool decode, fg_err *err)
{
    const uint32_t i = l->n_run++;
    if (!decode) return fg_bench_gemm(b, &l->rates[i], err);
    fg_bandwidth r;
    FG_TRY(fg_bench_limit(b, 5, &r, err));
    l->read[i] = r.median_gbs;
    return FG_OK;
}

static void fill_limits(limits *l, bool decode, fg_bench_run *out)
{
    if (decode) {
        out->before_gbs = l->read[0];
        out->after_gbs = l->read[l->n_run - 1];
        out->read_gbs = fg_bench_median(l->read, l->n_run); /* sorts them */
        return;
    }
    out->gemm = l->rates[0]; /* names */
    double attn[MAX_RUN + 1];
    for (uint32_t i = 0; i < l->n_run; i++) attn[i] = l->rates[i].attn_gmacs;
    out->gemm.attn_gmacs = fg_bench_median(attn, l->n_run);
    for (int t = 0; t < FG_BENCH_TYPES; t++) {
        double core[MAX_RUN + 1], all[MAX_RUN + 1];
        for (uint32_t i = 0; i < l->n_run; i++) {
            core[i] = l->rates[i].type[t].core_gmacs;
            all[i] = l->rates[i].type[t].all_gmacs;
        }
        out->gemm.type[t].core_gmacs = fg_bench_median(core, l->n_run);
        out->gemm.type[t].all_gmacs = fg_bench_median(all, l->n_run);
        if (out->gemm.type[t].core_gmacs > out->gemm.type[out->gemm.best].core_gmacs) {
            out->gemm.best = (uint32_t)t;
        }
    }
}

static fg_status measure(fg_bench *b, uint64_t ctx, uint32_t n_tok, uint32_t n_run, bool decode,
                         fg_bench_run *out, fg_err *err)
{
    *out = (fg_bench_run){.ctx = ctx, .n_tok = n_tok, .n_run = n_run};
    if (n_tok < 1 || n_run < 1 || n_run > MAX_RUN) {
        return fg_fail(err, FG_EINVAL, "bench: %u tokens %u times, expected 1 or more, 1 to %d",
                       n_tok, n_run, MAX_RUN);
    }
    bench_seq q = {.b = b, .n_tok = n_tok, .n_batch = 1};
    fg_device *d = fg_engine_device(b->e);
    const uint32_t most = d == NULL ? 0 : d->ops->most_rows(d);
    const uint32_t usual = most > FG_SESSION_LONG_BATCH ? most : (uint32_t)FG_SESSION_LONG_BATCH;
    if (!decode) q.n_batch = n_tok < usual ? n_tok : usual;
    fg_rng_init(&q.rng, ctx + n_tok);
    double seconds[MAX_RUN];
    limits lim = {.n_run = 0};
    uint64_t charged = 0;
    fg_status st = open_state(b, ctx, n_tok, &q.st, &q.scratch, q.n_batch, err);
    if (st != FG_OK) goto done;
    charged = q.st->bytes + q.scratch->bytes;
    q.ids = fg_mem_alloc(n_tok * sizeof *q.ids);
    if (q.ids == NULL) {
        st = fg_fail_nomem(err, "bench");
        goto done;
    }
    st = run_once(&q, ctx, &seconds[0], err); /* pages of state and scratch, branch predictors */
    memset(&q.profile, 0, sizeof q.profile);
    if (st == FG_OK) st = measure_limits(&lim, b, decode, err);
    for (uint32_t i = 0; i < n_run && st == FG_OK; i++) {
        st = run_once(&q, ctx, &seconds[i], err);
        if (st == FG_OK) st = measure_limits(&lim, b, decode, err);
    }
    if (st != FG_OK) goto done;
    const double median = fg_bench_median(seconds, n_run);
    out->tok_s = (double)n_tok / median;
    out->best_tok_s = (double)n_tok / seconds[0];
    count_weights(b, decode ? 1 : n_tok, out);
    out->state_bytes = state_bytes(b, q.st, decode ? ctx + n_tok / 2 : ctx + n_tok - 1);
    out->attn_gmac = attn_gmac(b->model->shape, (double)ctx + 0.5 * (n_tok + 1.0));
    fill_phases(&q.profile, out);
    fill_limits(&lim, decode, out);
done:
    (void)fg_engine_charge(b->e, 0, charged, NULL); /* less always fits */
    fg_mem_free(q.ids);
    fg_scratch_destroy(&q.scratch);
    fg_state_destroy(&q.st);
    return st;
}

fg_status fg_bench_decode(fg_bench *b, uint64_t ctx, uint32_t n_tok, uint32_t n_run,
                          fg_bench_run *out, fg_err *err)
{
    return measure(b, ctx, n_tok, n_run, true, out, err);
}

fg_status fg_bench_prefill(fg_bench *b, uint64_t ctx, uint32_t n_tok, uint32_t n_run,
                           fg_bench_run *out, fg_err *err)
{
    return measure(b, ctx, n_tok, n_run, false, out, err);
}

/* ---- start ---- */

/* Share of the file's data that is in memory; 1 when the system does not say. */
static double resident_share(const fg_model_file *f)
{
    const uint64_t from = fg_model_file_dense_extent(f, 0).offset;
    const uint64_t n = (fg_model_file_size(f) - from) / FG_PAGE_BYTES;
    uint8_t *there = fg_mem_alloc((size_t)n + 1);
    uint64_t sum = 0;
    if (there == NULL || n == 0 ||
        mincore((void *)(uintptr_t)fg_model_file_data(f, from), (size_t)(n * FG_PAGE_BYTES),
                there) != 0) {
        sum = n;
    } else {
        for (uint64_t i = 0; i < n; i++) sum += there[i] & 1u;
    }
    fg_mem_free(there);
    return n == 0 ? 1.0 : (double)sum / (double)n;
}

static uint64_t rss_bytes(void)
{
    unsigned long long size, rss = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f == NULL) return 0;
    if (fscanf(f, "%llu %llu", &size, &rss) != 2) rss = 0;
    (void)fclose(f);
    return rss * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* All files of a split model.  The share that is resident then tells whether it worked; what cannot
 * be opened here is reported by who opens it next. */
static void drop_from_memory(const char *path)
{
    enum { MAX_FILE = 64 };
    int fd[MAX_FILE];
    uint32_t n = 0;
    fg_model_file *f = NULL;
    if (fg_model_file_open(&f, path, NULL) != FG_OK) return;
    for (uint32_t k = 0; k < fg_model_file_n_part(f) && n < MAX_FILE; k++) {
        fd[n] = open(fg_model_file_part_path(f, k), O_RDONLY | O_CLOEXEC);
        if (fd[n] >= 0) n++;
    }
    fg_model_file_close(&f); /* what is mapped stays in memory */
    for (uint32_t i = 0; i < n; i++) {
        (void)posix_fadvise(fd[i], 0, 0, POSIX_FADV_DONTNEED);
        (void)close(fd[i]);
    }
}

fg_status fg_bench_measure_start(const char *path, const fg_engine_opts *opts, bool cold,
                                 fg_bench_start *out, fg_err *err)
{
    *out = (fg_bench_start){0};
    if (cold) drop_from_memory(path);
    fg_engine *e = NULL;
    fg_session *s = NULL;
    fg_session_opts so = fg_session_opts_default();
    uint32_t ids[START_TOKENS];
    fg_rng rng;
    fg_rng_init(&rng, 1);
    const uint64_t t0 = fg_clock_ns();
    fg_status st = fg_engine_open(&e, path, opts, err);
    if (st == FG_OK) st = fg_session_create(&s, e, &so, err);
    const uint64_t t1 = fg_clock_ns();
    if (st == FG_OK) {
        out->resident = resident_share(fg_engine_file(e));
        const uint32_t n_vocab = fg_engine_shape(e)->n_vocab;
        for (int i = 0; i < START_TOKENS; i++) ids[i] = (uint32_t)(fg_rng_u64(&rng) % n_vocab);
    }
    const uint64_t t2 = fg_clock_ns();
    if (st == FG_OK) st = fg_session_eval(s, ids, START_TOKENS, NULL, NULL, err);
    out->open_s = (double)(t1 - t0) * 1e-9;
    out->first_s = out->open_s + (double)(fg_clock_ns() - t2) * 1e-9;
    out->rss_bytes = rss_bytes();
    fg_session_destroy(&s);
    fg_engine_close(&e);
    return st;
}
