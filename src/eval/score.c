/* SPDX-License-Identifier: MIT
 *
 * Perplexity and KL divergence over consecutive windows, each from an empty state.  Exponentials
 * are the f32 kernel's (two roundings on values of order 1, far below what is reported); sums over
 * tokens are in double.
 *
 * A window is taken in parts: both models evaluate the part and leave its logits, then the team
 * compares them, each token wholly by one worker, and the caller adds the results up in the order
 * of the text, so that the number of threads does not show.  A part is as long as its logits fit
 * LOGIT_BYTES (a whole window of 512 but for the release's vocabulary, where it is half of one),
 * because each change of model may have to read 250 GB of weights again.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "simd/kernels.h"
#include "src/base/dmath.h"
#include "src/base/mem.h"
#include "src/engine/session.h"
#include "src/eval/score.h"
#include "src/sys/cpu.h"
#include "src/sys/team.h"

enum {
    PART_TOKENS = 512, /* the batch of a session: longer parts would not run faster */
    LOGIT_BYTES = 256 << 20,
    LANES = 8, /* of the KLD sum: one chain of additions would wait for itself */
};

typedef struct token_score {
    double nll, ref_nll, kld; /* not finite where logits are not */
    bool same;                /* both have the same best token */
} token_score;

/* A mean with its standard error.  Neighbouring tokens are alike (a hard passage, the cold start of
 * a window), so besides the error of independent tokens that of independent windows is taken, and
 * the larger counts: on the nano model it is 1.2 times as large for the nll, 2.0 for the KLD. */
typedef struct moments {
    double sum, sum2;
    double window;            /* sum within the window that is not complete */
    double window2, window_n; /* over complete windows: their sum squared, times their tokens */
} moments;

typedef struct run {
    const fg_score_opts *opts;
    fg_kernels k;
    fg_team *team;
    uint32_t n_vocab, part;
    const uint32_t *ids;  /* of the text */
    uint64_t base, first; /* text index of the window's and of the part's first token */
    uint64_t n;           /* tokens of the part */
    float *logits[2];     /* [part][n_vocab] of the model and of the reference, or NULL */
    float *scratch;       /* [worker][n_vocab] */
    token_score *token;   /* [part] */
    float *kld;           /* one per scored token */
    size_t kld_cap;
    uint64_t n_token;
    uint64_t n_window;            /* complete ones */
    double in_window, in_window2; /* tokens of the one that is not; sum of squares of the others' */
    double kld_max;
    moments nll, ref, diff, kld_sum, same;
} run;

/* ---- one token ---- */

static uint32_t argmax(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (x[i] > x[best]) best = i;
    }
    return best;
}

/* e[i] = exp(x[i] - max) with max = x[best]; returns max + ln of the sum of e. */
static double softmax(const run *r, const float *x, uint32_t best, float *e)
{
    memcpy(e, x, r->n_vocab * sizeof(float));
    return (double)x[best] + fg_log((double)r->k.softmax_num(e, r->n_vocab));
}

/* KL(reference || model) = sum q ((b - log_b) - (a - log_a)) with q = e / sum of e, e of the
 * reference.  8 sums of every 8th term, added in order. */
static double divergence(const run *r, const float *a, double log_a, const float *b, double log_b,
                         float best_b, const float *e)
{
    double lane[LANES] = {0}, sum = 0.0;
    const double shift = log_a - log_b;
    const uint32_t n = r->n_vocab, whole = n - n % LANES;
    for (uint32_t i = 0; i < whole; i += LANES) {
        for (uint32_t j = 0; j < LANES; j++) {
            lane[j] += (double)e[i + j] * ((double)b[i + j] - (double)a[i + j] + shift);
        }
    }
    for (uint32_t i = whole; i < n; i++) {
        lane[i - whole] += (double)e[i] * ((double)b[i] - (double)a[i] + shift);
    }
    for (uint32_t j = 0; j < LANES; j++) sum += lane[j];
    const double kld = sum * fg_exp((double)best_b - log_b);
    return kld < 0.0 ? 0.0 : kld; /* equal distributions, rounding */
}

static void score_token(const run *r, uint64_t t, float *e)
{
    token_score *s = &r->token[t];
    const uint32_t next = r->ids[r->first + t + 1];
    const float *a = r->logits[0] + t * r->n_vocab;
    const uint32_t best_a = argmax(a, r->n_vocab);
    const double log_a = softmax(r, a, best_a, e);
    s->nll = log_a - (double)a[next];
    if (r->logits[1] == NULL) return;
    const float *b = r->logits[1] + t * r->n_vocab;
    const uint32_t best_b = argmax(b, r->n_vocab);
    const double log_b = softmax(r, b, best_b, e);
    s->ref_nll = log_b - (double)b[next];
    s->kld = divergence(r, a, log_a, b, log_b, b[best_b], e);
    s->same = best_a == best_b;
}

static void score_part(fg_worker *w, void *arg)
{
    const run *r = arg;
    float *e = r->scratch + (size_t)w->idx * r->n_vocab;
    uint64_t begin, end;
    while (fg_worker_take_items(w, r->n, &begin, &end)) {
        for (uint64_t t = begin; t < end; t++) score_token(r, t, e);
    }
}

/* ---- sums ---- */

static void add(moments *m, double x)
{
    m->sum += x;
    m->sum2 += x * x;
    m->window += x;
}

static double mean_stderr(const run *r, const moments *m)
{
    const double n = (double)r->n_token, mean = m->sum / n, var = m->sum2 / n - mean * mean;
    if (n < 2.0) return 0.0;
    const double tokens = var / (n - 1.0);
    const double w = (double)r->n_window + (r->in_window > 0.0 ? 1.0 : 0.0);
    if (w < 2.0) return tokens < 0.0 ? 0.0 : sqrt(tokens);
    /* sum over windows of (sum of the window - mean * tokens of the window)^2 */
    const double spread = m->window2 + m->window * m->window -
                          2.0 * mean * (m->window_n + m->window * r->in_window) +
                          mean * mean * (r->in_window2 + r->in_window * r->in_window);
    const double windows = spread * w / (w - 1.0) / (n * n);
    const double most = windows > tokens ? windows : tokens;
    return most < 0.0 ? 0.0 : sqrt(most);
}

static void end_window(run *r)
{
    moments *const all[] = {&r->nll, &r->ref, &r->diff, &r->kld_sum, &r->same};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        all[i]->window2 += all[i]->window * all[i]->window;
        all[i]->window_n += all[i]->window * r->in_window;
        all[i]->window = 0.0;
    }
    r->in_window2 += r->in_window * r->in_window;
    r->in_window = 0.0;
    r->n_window++;
}

static fg_status add_part(run *r, fg_err *err)
{
    const bool against = r->logits[1] != NULL;
    void *p = r->kld;
    if (against && !fg_mem_grow(&p, &r->kld_cap, (size_t)(r->n_token + r->n), sizeof(float))) {
        return fg_fail_nomem(err, "score");
    }
    r->kld = p;
    for (uint64_t t = 0; t < r->n; t++) {
        const token_score *s = &r->token[t];
        if (!isfinite(s->nll) || (against && !(isfinite(s->kld) && isfinite(s->ref_nll)))) {
            return fg_fail(err, FG_EDATA,
                           "logits of token %llu%s: not finite, expected finite; run fulgur verify",
                           (unsigned long long)(r->first + t),
                           against ? " (model or reference)" : "");
        }
        add(&r->nll, s->nll);
        if (r->opts->on_nll != NULL) r->opts->on_nll(r->opts->ctx, r->first + t + 1, s->nll);
        if (against) {
            add(&r->ref, s->ref_nll);
            add(&r->diff, s->nll - s->ref_nll);
            add(&r->kld_sum, s->kld);
            if (s->kld > r->kld_max) r->kld_max = s->kld;
            r->kld[r->n_token] = (float)s->kld;
            add(&r->same, s->same ? 1.0 : 0.0);
        }
        r->n_token++;
        r->in_window += 1.0;
    }
    return FG_OK;
}

static void summarize(const run *r, fg_score *out)
{
    const double n = (double)r->n_token;
    *out = (fg_score){.n_token = r->n_token, .nll = r->nll.sum / n};
    out->nll_stderr = mean_stderr(r, &r->nll);
    out->ppl = fg_exp(out->nll);
    out->ppl_stderr = out->ppl * out->nll_stderr;
    if (r->logits[1] == NULL) return;
    out->ref_nll = r->ref.sum / n;
    out->ref_ppl = fg_exp(out->ref_nll);
    out->ref_ppl_stderr = out->ref_ppl * mean_stderr(r, &r->ref);
    out->ppl_ratio = fg_exp(r->diff.sum / n);
    out->ppl_ratio_stderr = out->ppl_ratio * mean_stderr(r, &r->diff);
    out->kld_mean = r->kld_sum.sum / n;
    out->kld_stderr = mean_stderr(r, &r->kld_sum);
    out->kld_max = r->kld_max;
    out->top1 = r->same.sum / n;
    out->top1_stderr = mean_stderr(r, &r->same);
}

void fg_score_interval(double value, double value_stderr, double out[2])
{
    /* exp(-600) still is a number that can be printed, and its reciprocal too */
    double spread = value > 0.0 && value_stderr > 0.0 ? FG_SCORE_Z95 * value_stderr / value : 0.0;
    if (!(spread < 600.0)) spread = 600.0;
    out[0] = value * fg_exp(-spread);
    out[1] = value * fg_exp(spread);
    if (value > 0.0 && out[0] <= 0.0) out[0] = 0x1p-1022;
}

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* The value of 1-based rank `at`, pulled into 1..n, of the sorted divergences. */
static double ranked(const run *r, double at)
{
    const double n = (double)r->n_token;
    return (double)r->kld[(size_t)(at < 1.0 ? 1.0 : at > n ? n : at) - 1];
}

/* p99 by nearest rank; the number of tokens above the true quantile is binomial, which gives the
 * ranks that enclose it. */
static void find_p99(run *r, fg_score *out)
{
    const double n = (double)r->n_token, spread = FG_SCORE_Z95 * sqrt(n * 0.99 * 0.01);
    qsort(r->kld, (size_t)r->n_token, sizeof *r->kld, by_value);
    out->kld_p99 = (double)r->kld[(r->n_token * 99 + 99) / 100 - 1];
    out->kld_p99_ci95[0] = ranked(r, floor(n * 0.99 - spread));
    out->kld_p99_ci95[1] = ranked(r, ceil(n * 0.99 + spread) + 1.0);
}

/* ---- windows ---- */

typedef struct keep {
    const run *r;
    float *logits;
} keep;

static void keep_logits(void *ctx, uint64_t pos, const float *logits)
{
    const keep *k = ctx;
    memcpy(k->logits + (k->r->base + pos - k->r->first) * k->r->n_vocab, logits,
           k->r->n_vocab * sizeof(float));
}

/* Tokens [base, base + n) of the text as one window. */
static fg_status score_window(run *r, fg_session *const s[2], uint64_t n, uint64_t total,
                              fg_score *out, fg_err *err)
{
    for (int i = 0; i < 2 && s[i] != NULL; i++) fg_session_reset(s[i]);
    for (r->first = r->base; r->first < r->base + n; r->first += r->n) {
        const uint64_t left = r->base + n - r->first;
        r->n = left < r->part ? left : r->part;
        for (int i = 1; i >= 0; i--) { /* the reference first */
            keep k = {r, r->logits[i]};
            if (s[i] == NULL) continue;
            FG_TRY(fg_session_eval(s[i], r->ids + r->first, (size_t)r->n, keep_logits, &k, err));
        }
        fg_team_run(r->team, score_part, r);
        FG_TRY(add_part(r, err));
        if (r->opts->progress == NULL) continue;
        summarize(r, out);
        if (!r->opts->progress(r->opts->ctx, r->n_token, total, out)) {
            return fg_fail(err, FG_ECANCEL, "score: cancelled after %llu tokens, expected %llu",
                           (unsigned long long)r->n_token, (unsigned long long)total);
        }
    }
    return FG_OK;
}

static fg_status run_windows(run *r, fg_session *const s[2], size_t n, fg_score *out, fg_err *err)
{
    const fg_score_opts *o = r->opts;
    if (n < 2) {
        return fg_fail(err, FG_EINVAL, "text: %zu tokens, expected at least 2 to score", n);
    }
    uint64_t total = n - 1; /* the last token is only predicted */
    if (o->max_window != 0 && o->max_window < n / o->window) total = o->max_window * o->window;
    for (r->base = 0; r->base < total; r->base += o->window) {
        const uint64_t m = total - r->base < o->window ? total - r->base : o->window;
        FG_TRY(score_window(r, s, m, total, out, err));
        end_window(r);
    }
    summarize(r, out);
    if (r->logits[1] != NULL) find_p99(r, out);
    return FG_OK;
}

/* Tokens of a part: those that fit, in equal parts of a window. */
static uint32_t part_tokens(uint32_t window, uint32_t n_vocab)
{
    uint32_t most = (uint32_t)(LOGIT_BYTES / sizeof(float) / n_vocab);
    most = most < 1 ? 1 : most > PART_TOKENS ? PART_TOKENS : most;
    const uint32_t n_part = (window + most - 1) / most;
    return (window + n_part - 1) / n_part;
}

static fg_status check(fg_engine *e, fg_engine *against, const fg_score_opts *opts, fg_err *err)
{
    const fg_shape *shape = fg_engine_shape(e);
    if (opts->window < 2 || opts->window > shape->n_ctx_max) {
        return fg_fail(err, FG_EINVAL, "window: %u tokens, expected 2 to %llu", opts->window,
                       (unsigned long long)shape->n_ctx_max);
    }
    if (against != NULL && fg_engine_shape(against)->n_vocab != shape->n_vocab) {
        return fg_fail(err, FG_EINVAL, "%s: vocabulary of %u, expected %u as in %s",
                       fg_model_file_path(fg_engine_file(against)),
                       fg_engine_shape(against)->n_vocab, shape->n_vocab,
                       fg_model_file_path(fg_engine_file(e)));
    }
    return FG_OK;
}

/* Buffers, the team, and a session for each model. */
static fg_status prepare(run *r, fg_session *s[2], fg_engine *const e[2], size_t logit_bytes,
                         fg_err *err)
{
    fg_session_opts so = fg_session_opts_default();
    so.n_ctx = r->opts->window;
    so.n_batch = r->part;
    /* not bound to cores: the engine's team is, and the backend may give both the same threads */
    FG_TRY(fg_team_create(&r->team, fg_engine_n_thread(e[0]), false, err));
    r->token = fg_mem_zalloc_array(r->part, sizeof *r->token);
    r->scratch = fg_mem_zalloc_array((size_t)fg_team_size(r->team) * r->n_vocab, sizeof(float));
    if (r->token == NULL || r->scratch == NULL) return fg_fail_nomem(err, "score");
    for (int i = 0; i < 2 && e[i] != NULL; i++) {
        r->logits[i] = fg_mem_map(logit_bytes);
        if (r->logits[i] == NULL) return fg_fail_nomem(err, "logits of a window");
        so.kv = i == 0 ? r->opts->kv : FG_KV_CHOICE_AUTO;
        FG_TRY(fg_session_create(&s[i], e[i], &so, err));
    }
    return FG_OK;
}

fg_status fg_score_run(fg_engine *e, fg_engine *against, const uint32_t *ids, size_t n,
                       const fg_score_opts *opts, fg_score *out, fg_err *err)
{
    *out = (fg_score){0};
    FG_TRY(check(e, against, opts, err));
    run r = {.n_vocab = fg_engine_shape(e)->n_vocab, .opts = opts, .ids = ids};
    r.part = part_tokens(opts->window, r.n_vocab);
    const size_t logit_bytes = (size_t)r.part * r.n_vocab * sizeof(float);
    fg_engine *const engine[2] = {e, against};
    fg_session *s[2] = {NULL, NULL};
    const uint32_t flags = fg_engine_cpu_flags(e);
    fg_kernels_init(&r.k, flags);
    fg_status st = prepare(&r, s, engine, logit_bytes, err);
    if (st == FG_OK) st = run_windows(&r, s, n, out, err);
    for (int i = 0; i < 2; i++) {
        fg_session_destroy(&s[i]);
        fg_mem_unmap(r.logits[i], logit_bytes);
    }
    fg_team_destroy(&r.team);
    fg_mem_free(r.scratch);
    fg_mem_free(r.token);
    fg_mem_free(r.kld);
    return st;
}
