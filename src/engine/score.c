/* SPDX-License-Identifier: MIT
 *
 * Perplexity and KL divergence over consecutive windows, each from an empty state.  Exponentials
 * are the f32 kernel's (two roundings on values of order 1, far below what is reported); sums over
 * tokens are in double.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "simd/kernels.h"
#include "src/base/dmath.h"
#include "src/base/mem.h"
#include "src/engine/fulgur.h"
#include "src/sys/cpu.h"

typedef struct run {
    fg_kernels k;
    uint32_t n_vocab;
    const uint32_t *ids; /* the window's first token */
    uint64_t base;       /* index of its first token in the text */
    float *ref;          /* [window][n_vocab] reference logits of the window; NULL: none */
    float *p, *q;        /* [n_vocab] exponentials of model and reference */
    float *kld;          /* one per scored token */
    size_t kld_cap;
    uint64_t n_token, n_same;
    double sum, sum2, ref_sum, kld_sum;
    const fg_score_opts *opts;
    bool failed;  /* out of memory in a callback */
    uint64_t bad; /* 1 + text index of the first token with non-finite logits; 0: none */
} run;

static uint32_t argmax(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (x[i] > x[best]) best = i;
    }
    return best;
}

/* e[i] = exp(x[i] - max); returns max, and ln of the sum of e in *log_sum. */
static double softmax(run *r, const float *x, float *e, double *log_sum)
{
    memcpy(e, x, r->n_vocab * sizeof(float));
    const float max = x[argmax(x, r->n_vocab)];
    *log_sum = fg_log((double)r->k.softmax_num(e, r->n_vocab));
    return (double)max;
}

static void keep_reference(void *ctx, uint64_t pos, const float *logits)
{
    run *r = ctx;
    memcpy(r->ref + pos * r->n_vocab, logits, r->n_vocab * sizeof(float));
}

/* KL(reference || model) = sum q ((b - mb - ln sb) - (a - ma - ln sa)), q = e_b / sb. */
static void compare(run *r, uint64_t pos, const float *a, double ma, double log_sa, uint32_t next)
{
    const float *b = r->ref + pos * r->n_vocab;
    double log_sb, sum = 0.0;
    const double mb = softmax(r, b, r->q, &log_sb);
    const double shift = (ma + log_sa) - (mb + log_sb);
    for (uint32_t i = 0; i < r->n_vocab; i++) {
        sum += (double)r->q[i] * ((double)b[i] - (double)a[i] + shift);
    }
    double kld = sum * fg_exp(-log_sb);
    if (!isfinite(kld) && r->bad == 0) r->bad = r->base + pos + 1;
    if (kld < 0.0) kld = 0.0; /* equal distributions, rounding */
    void *p = r->kld;
    if (!fg_mem_grow(&p, &r->kld_cap, (size_t)r->n_token + 1, sizeof(float))) {
        r->failed = true;
        return;
    }
    r->kld = p;
    r->kld[r->n_token] = (float)kld;
    r->kld_sum += kld;
    r->ref_sum += (mb + log_sb) - (double)b[next];
    r->n_same += argmax(a, r->n_vocab) == argmax(b, r->n_vocab);
}

static void score_token(void *ctx, uint64_t pos, const float *logits)
{
    run *r = ctx;
    if (r->failed) return;
    const uint32_t next = r->ids[pos + 1];
    double log_sum;
    const double max = softmax(r, logits, r->p, &log_sum);
    const double nll = (max + log_sum) - (double)logits[next];
    if (!isfinite(nll) && r->bad == 0) r->bad = r->base + pos + 1;
    if (r->ref != NULL) compare(r, pos, logits, max, log_sum, next);
    r->sum += nll;
    r->sum2 += nll * nll;
    r->n_token++;
    if (r->opts->on_nll != NULL) r->opts->on_nll(r->opts->ctx, r->base + pos + 1, nll);
}

static fg_status score_window(run *r, fg_session *s, fg_session *ref, uint64_t n, fg_err *err)
{
    if (ref != NULL) {
        fg_session_reset(ref);
        FG_TRY(fg_session_eval(ref, r->ids, (size_t)n, keep_reference, r, err));
    }
    fg_session_reset(s);
    FG_TRY(fg_session_eval(s, r->ids, (size_t)n, score_token, r, err));
    if (r->failed) return fg_fail_nomem(err, "score");
    if (r->bad != 0) {
        return fg_fail(
            err, FG_EDATA, "logits of token %llu%s: not finite, expected finite; run fulgur verify",
            (unsigned long long)(r->bad - 1), ref == NULL ? "" : " (model or reference)");
    }
    return FG_OK;
}

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static void summarize(run *r, fg_score *out)
{
    const double n = (double)r->n_token;
    out->n_token = r->n_token;
    out->nll = r->sum / n;
    out->ppl = fg_exp(out->nll);
    const double var = r->sum2 / n - out->nll * out->nll;
    out->nll_stderr = r->n_token < 2 || var < 0 ? 0.0 : sqrt(var / (n - 1.0));
    if (r->ref == NULL) return;
    qsort(r->kld, (size_t)r->n_token, sizeof *r->kld, by_value);
    out->ref_nll = r->ref_sum / n;
    out->ref_ppl = fg_exp(out->ref_nll);
    out->kld_mean = r->kld_sum / n;
    out->kld_p99 = (double)r->kld[(r->n_token * 99 + 99) / 100 - 1]; /* nearest rank */
    out->kld_max = (double)r->kld[r->n_token - 1];
    out->top1 = (double)r->n_same / n;
}

static fg_status run_windows(run *r, fg_session *s, fg_session *ref, const uint32_t *ids, size_t n,
                             fg_score *out, fg_err *err)
{
    const fg_score_opts *o = r->opts;
    if (n < 2) {
        return fg_fail(err, FG_EINVAL, "text: %zu tokens, expected at least 2 to score", n);
    }
    uint64_t total = n - 1; /* the last token is only predicted */
    if (o->max_window != 0 && o->max_window < n / o->window) total = o->max_window * o->window;
    for (uint64_t i = 0; i < total; i += o->window) {
        r->ids = ids + i;
        r->base = i;
        const uint64_t m = total - i < o->window ? total - i : o->window;
        FG_TRY(score_window(r, s, ref, m, err));
        if (o->progress != NULL &&
            !o->progress(o->ctx, i + m, total, fg_exp(r->sum / (double)r->n_token))) {
            return fg_fail(err, FG_ECANCEL, "score: cancelled after %llu tokens, expected %llu",
                           (unsigned long long)(i + m), (unsigned long long)total);
        }
    }
    summarize(r, out);
    return FG_OK;
}

fg_status fg_score_run(fg_engine *e, fg_engine *against, const uint32_t *ids, size_t n,
                       const fg_score_opts *opts, fg_score *out, fg_err *err)
{
    *out = (fg_score){0};
    const fg_shape *shape = fg_engine_shape(e);
    run r = {.n_vocab = shape->n_vocab, .opts = opts};
    fg_session *s = NULL, *ref = NULL;
    fg_session_opts so = fg_session_opts_default();
    so.n_ctx = opts->window;
    if (opts->window < 2 || opts->window > shape->n_ctx_max) {
        return fg_fail(err, FG_EINVAL, "window: %u tokens, expected 2 to %llu", opts->window,
                       (unsigned long long)shape->n_ctx_max);
    }
    if (against != NULL && fg_engine_shape(against)->n_vocab != r.n_vocab) {
        return fg_fail(err, FG_EINVAL, "%s: vocabulary of %u, expected %u as in %s",
                       fg_model_file_path(fg_engine_file(against)),
                       fg_engine_shape(against)->n_vocab, r.n_vocab,
                       fg_model_file_path(fg_engine_file(e)));
    }
    uint32_t flags;
    bool missing;
    (void)fg_cpu_level_parse(fg_engine_cpu(e), &flags, &missing);
    fg_kernels_init(&r.k, flags);
    r.p = fg_mem_zalloc_array(r.n_vocab, sizeof(float));
    r.q = fg_mem_zalloc_array(r.n_vocab, sizeof(float));
    fg_status st = r.p == NULL || r.q == NULL ? fg_fail_nomem(err, "score") : FG_OK;
    const size_t ref_bytes = (size_t)r.n_vocab * opts->window * sizeof(float);
    if (st == FG_OK && against != NULL) {
        r.ref = fg_mem_map(ref_bytes);
        if (r.ref == NULL) st = fg_fail_nomem(err, "reference logits");
        if (st == FG_OK) st = fg_session_create(&ref, against, &so, err);
    }
    so.kv = opts->kv;
    if (st == FG_OK) st = fg_session_create(&s, e, &so, err);
    if (st == FG_OK) st = run_windows(&r, s, ref, ids, n, out, err);
    fg_session_destroy(&s);
    fg_session_destroy(&ref);
    fg_mem_unmap(r.ref, ref_bytes);
    fg_mem_free(r.p);
    fg_mem_free(r.q);
    fg_mem_free(r.kld);
    return st;
}
