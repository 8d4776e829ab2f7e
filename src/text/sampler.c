/* SPDX-License-Identifier: MIT
 *
 * A vocabulary of 200,000 must cost about a millisecond, so nothing is sorted as a whole.  One pass
 * over the logits computes the weights' sum and a histogram over distance from the largest logit
 * (count and weight per bucket); it tells which buckets can hold the wanted candidates, and only
 * those are gathered and sorted.  The histogram merely preselects: the cut itself is made on the
 * sorted candidates with sums in their order, so that it does not depend on the buckets.
 *
 * Without top-k and top-p there is no order to establish; the draw walks sums of blocks of ids.
 *
 * The exponential is a table of 2^(j/64) with a polynomial of degree 5 (relative error below 1e-15
 * on [-700, 0]): fg_exp would take 16 ms for one token.
 */
#include "src/text/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/dmath.h"
#include "src/base/fp.h"
#include "src/base/mem.h"
#include "src/base/opts.h"

enum {
    BLOCK = 1024, /* ids whose weights are summed together */
    N_LANE = 8,   /* partial sums inside a block: id % 8 */
    N_BUCKET = 1024,
    PER_UNIT = 16, /* buckets in a factor of e; the last bucket takes all below e^-64 */
    N_TABLE = 64,
};

#define MAX_VOCAB ((uint32_t)1 << 24)

typedef struct candidate {
    float logit;
    uint32_t id;
    double weight;
} candidate;

struct fg_sampler {
    fg_sampler_opts opt;
    fg_rng rng;
    uint32_t n_vocab;
    uint64_t *mask; /* [(n_vocab + 63) / 64] or NULL */
    float *logit;   /* [n_vocab] of the token at hand; -infinity where not allowed */
    double *block;  /* [n_block] sums of weights */
    uint32_t n_block;
    candidate *list;       /* [n_vocab] */
    double table[N_TABLE]; /* e^(j ln 2 / 64) */
    double bucket_weight[N_BUCKET];
    uint32_t bucket_count[N_BUCKET];
    /* Of penalties; NULL: there are none. */
    uint64_t *n_reply;     /* [n_vocab] times in the reply */
    uint64_t *seen;        /* [(n_vocab + 63) / 64] bits: in the prompt or the reply */
    fg_logit_bias *bias;   /* [opt.n_bias] */
    bool penalizes, bends; /* by repetition; at all */
};

void fg_sampler_opts_init(fg_sampler_opts *o, size_t size)
{
    const fg_sampler_opts d = {.size = size, .temp = 1.0, .top_p = 0.95, .repeat = 1.0};
    fg_opts_init(o, size, &d, sizeof d);
}

static fg_status check_options(const fg_sampler_opts *o, fg_err *err)
{
    if (!(o->temp == 0 || (o->temp >= 1e-6 && o->temp <= 1e6))) {
        return fg_fail(err, FG_EINVAL, "temperature: %g, expected 0 or 1e-6 to 1e6", o->temp);
    }
    if (!(o->top_p > 0 && o->top_p <= 1)) {
        return fg_fail(err, FG_EINVAL, "top-p: %g, expected above 0 and at most 1", o->top_p);
    }
    if (!(o->min_p >= 0 && o->min_p <= 1)) {
        return fg_fail(err, FG_EINVAL, "min-p: %g, expected 0 to 1", o->min_p);
    }
    if (!(o->repeat == 0 || (o->repeat >= 0.01 && o->repeat <= 100))) {
        return fg_fail(err, FG_EINVAL, "repetition penalty: %g, expected 0.01 to 100", o->repeat);
    }
    if (!(fabs(o->presence) <= 2 && fabs(o->frequency) <= 2)) {
        const bool first = !(fabs(o->presence) <= 2);
        return fg_fail(err, FG_EINVAL, "%s penalty: %g, expected -2 to 2",
                       first ? "presence" : "frequency", first ? o->presence : o->frequency);
    }
    return FG_OK;
}

static bool is_allowed(const fg_sampler *s, uint32_t id)
{
    return s->mask == NULL || (s->mask[id / 64] >> (id % 64) & 1) != 0;
}

static fg_status take_bends(fg_sampler *s, fg_err *err)
{
    fg_sampler_opts *o = &s->opt;
    if (o->repeat == 0) o->repeat = 1;
    s->penalizes = o->repeat != 1 || o->presence != 0 || o->frequency != 0;
    s->bends = s->penalizes || o->n_bias > 0;
    if (s->penalizes) {
        s->n_reply = fg_mem_zalloc_array(s->n_vocab, sizeof *s->n_reply);
        s->seen = fg_mem_zalloc_array(((size_t)s->n_vocab + 63) / 64, sizeof *s->seen);
        if (s->n_reply == NULL || s->seen == NULL) return fg_fail_nomem(err, "penalties");
    }
    if (o->n_bias == 0) return FG_OK;
    s->bias = fg_mem_zalloc_array(o->n_bias, sizeof *s->bias);
    if (s->bias == NULL) return fg_fail_nomem(err, "a logit bias");
    for (size_t i = 0; i < o->n_bias; i++) {
        s->bias[i] = o->bias[i];
        const fg_logit_bias b = s->bias[i];
        if (b.id >= s->n_vocab) {
            return fg_fail(err, FG_EINVAL, "logit bias: id %u, expected less than %u", b.id,
                           s->n_vocab);
        }
        if (!(b.add <= 1e6f)) {
            return fg_fail(err, FG_EINVAL, "logit bias: %g for id %u, expected at most 1e6",
                           (double)b.add, b.id);
        }
    }
    o->bias = NULL; /* the caller's */
    return FG_OK;
}

fg_status fg_sampler_create(fg_sampler **out, const fg_sampler_opts *options, uint32_t n_vocab,
                            const uint64_t *mask, fg_err *err)
{
    *out = NULL;
    FG_TRY(check_options(options, err));
    if (n_vocab == 0 || n_vocab > MAX_VOCAB) {
        return fg_fail(err, FG_EINVAL, "vocabulary: %u ids, expected 1 to %u", (unsigned)n_vocab,
                       (unsigned)MAX_VOCAB);
    }
    fg_sampler *s = fg_mem_zalloc(sizeof *s);
    if (s == NULL) return fg_fail_nomem(err, "a sampler");
    const size_t n_word = ((size_t)n_vocab + 63) / 64;
    s->opt = *options;
    s->n_vocab = n_vocab;
    s->n_block = (n_vocab + BLOCK - 1) / BLOCK;
    s->logit = fg_mem_zalloc_array(n_vocab, sizeof *s->logit);
    s->block = fg_mem_zalloc_array(s->n_block, sizeof *s->block);
    s->list = fg_mem_alloc((size_t)n_vocab * sizeof *s->list);
    if (mask != NULL) s->mask = fg_mem_zalloc_array(n_word, sizeof *s->mask);
    fg_status st = FG_OK;
    if (s->logit == NULL || s->block == NULL || s->list == NULL ||
        (mask != NULL && s->mask == NULL)) {
        st = fg_fail_nomem(err, "a sampler");
        goto fail;
    }
    st = take_bends(s, err);
    if (st != FG_OK) goto fail;
    if (mask != NULL) memcpy(s->mask, mask, n_word * sizeof *mask);
    uint32_t n_allowed = 0;
    for (uint32_t id = 0; id < n_vocab; id++) n_allowed += is_allowed(s, id);
    if (n_allowed == 0) {
        st = fg_fail(err, FG_EINVAL, "vocabulary: no id is allowed, expected at least one");
        goto fail;
    }
    for (int j = 0; j < N_TABLE; j++) {
        s->table[j] = fg_exp((double)j * (0.6931471805599453 / N_TABLE));
    }
    fg_rng_init(&s->rng, options->seed);
    *out = s;
    return FG_OK;
fail:
    fg_sampler_destroy(&s);
    return st;
}

void fg_sampler_destroy(fg_sampler **s)
{
    if (*s == NULL) return;
    fg_mem_free((*s)->mask);
    fg_mem_free((*s)->logit);
    fg_mem_free((*s)->block);
    fg_mem_free((*s)->list);
    fg_mem_free((*s)->n_reply);
    fg_mem_free((*s)->seen);
    fg_mem_free((*s)->bias);
    fg_mem_free(*s);
    *s = NULL;
}

fg_status fg_sampler_begin(fg_sampler *s, const uint32_t *ids, size_t n, fg_err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= s->n_vocab) {
            return fg_fail(err, FG_EINVAL, "token %zu: id %u, expected less than %u", i, ids[i],
                           s->n_vocab);
        }
    }
    if (!s->penalizes) return FG_OK;
    memset(s->n_reply, 0, s->n_vocab * sizeof *s->n_reply);
    memset(s->seen, 0, ((size_t)s->n_vocab + 63) / 64 * sizeof *s->seen);
    for (size_t i = 0; i < n; i++) s->seen[ids[i] / 64] |= (uint64_t)1 << (ids[i] % 64);
    return FG_OK;
}

void fg_sampler_note(fg_sampler *s, uint32_t id)
{
    if (!s->penalizes || id >= s->n_vocab) return;
    s->seen[id / 64] |= (uint64_t)1 << (id % 64);
    s->n_reply[id]++;
}

/* Penalties and bias on s->logit. */
static void bend(fg_sampler *s)
{
    const fg_sampler_opts *o = &s->opt;
    for (uint32_t i = 0; s->penalizes && i < s->n_vocab; i++) {
        if ((s->seen[i / 64] >> (i % 64) & 1) == 0 || s->logit[i] == -INFINITY) continue;
        double x = (double)s->logit[i];
        x = x > 0 ? x / o->repeat : x * o->repeat;
        if (s->n_reply[i] > 0) x -= o->presence + (double)s->n_reply[i] * o->frequency;
        s->logit[i] = (float)x;
    }
    for (size_t i = 0; i < o->n_bias; i++) s->logit[s->bias[i].id] += s->bias[i].add;
}

fg_rng fg_sampler_rng(const fg_sampler *s)
{
    return s->rng;
}

void fg_sampler_set_rng(fg_sampler *s, fg_rng rng)
{
    s->rng = rng;
}

/* e^x for x <= 0; 0 below -700. */
static inline double weight_of(const double *table, double x)
{
    if (!(x >= -700.0)) return 0.0;
    /* x = (64 m + j) ln 2 / 64 + r: adding 1.5 * 2^52 rounds to an integer, which then stands in
     * the low bits of the double. */
    const double magic = 0x1.8p52;
    const double t = x * 0x1.71547652b82fep+6 + magic, n = t - magic;
    const double r = (x - n * 0x1.62e42fefp-7) - n * 0x1.473de6af278edp-40;
    uint64_t k, bits, base;
    memcpy(&k, &t, sizeof k);
    memcpy(&base, &magic, sizeof base);
    k -= base;
    const double p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6 + r * (1.0 / 24 + r * (1.0 / 120)))));
    memcpy(&bits, &table[k % N_TABLE], sizeof bits);
    bits += (k / N_TABLE) << 52; /* times 2^m, modulo 2^64; the result is normal */
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale * p;
}

/* Copies the logits with those that are not allowed at -infinity. */
static void take_allowed(fg_sampler *s, const float *logits)
{
    memcpy(s->logit, logits, s->n_vocab * sizeof *logits);
    for (uint32_t w = 0; s->mask != NULL && w < (s->n_vocab + 63) / 64; w++) {
        if (s->mask[w] == UINT64_MAX) continue;
        for (uint32_t i = w * 64; i < w * 64 + 64 && i < s->n_vocab; i++) {
            if (!is_allowed(s, i)) s->logit[i] = -INFINITY;
        }
    }
}

static uint32_t best_of(const fg_sampler *s)
{
    uint32_t at = 0;
    for (uint32_t i = 1; i < s->n_vocab; i++) {
        if (s->logit[i] > s->logit[at]) at = i; /* strict: ties go to the lower id */
    }
    return at;
}

/* What the choice is made of; *best is the largest. */
static fg_status take_logits(fg_sampler *s, const float *logits, uint32_t *best, fg_err *err)
{
    uint32_t bad = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        const uint32_t u = fg_f32_bits(logits[i]);
        bad |= (uint32_t)(u == 0x7f800000u) | (uint32_t)((u & 0x7fffffffu) > 0x7f800000u);
    }
    for (uint32_t i = 0; bad != 0 && i < s->n_vocab; i++) {
        if (logits[i] < INFINITY) continue;
        return fg_fail(err, FG_EDATA, "logits: %s at id %u, expected a number",
                       logits[i] > 0 ? "infinity" : "NaN", (unsigned)i);
    }
    take_allowed(s, logits);
    if (s->bends) bend(s);
    const uint32_t at = best_of(s);
    if (s->logit[at] == -INFINITY) {
        return fg_fail(err, FG_EDATA, "logits: -infinity for every allowed id, expected a number");
    }
    *best = at;
    return FG_OK;
}

static uint32_t bucket_of(double x)
{
    const double at = -x * PER_UNIT;
    return at < N_BUCKET - 1 ? (uint32_t)at : N_BUCKET - 1;
}

/* Sum of the weights at 1/T = scale, by block, each block by lanes; with `buckets` also the
 * histogram. */
static double weigh(fg_sampler *s, float top, double scale, bool buckets)
{
    if (buckets) {
        memset(s->bucket_weight, 0, sizeof s->bucket_weight);
        memset(s->bucket_count, 0, sizeof s->bucket_count);
    }
    double sum = 0;
    for (uint32_t b = 0; b < s->n_block; b++) {
        const uint32_t begin = b * BLOCK;
        const uint32_t end = begin + BLOCK < s->n_vocab ? begin + BLOCK : s->n_vocab;
        double lane[N_LANE] = {0};
        for (uint32_t i = begin; i < end; i++) {
            const double x = ((double)s->logit[i] - (double)top) * scale;
            const double w = weight_of(s->table, x);
            lane[i % N_LANE] += w;
            if (buckets && s->logit[i] > -INFINITY) {
                const uint32_t k = bucket_of(x);
                s->bucket_weight[k] += w;
                s->bucket_count[k]++;
            }
        }
        s->block[b] = ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
                      ((lane[1] + lane[5]) + (lane[3] + lane[7]));
        sum += s->block[b];
    }
    return sum;
}

static int by_rank(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Gathers the allowed ids of buckets 0..last, sorted. */
static uint32_t gather(fg_sampler *s, float top, double scale, uint32_t last)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        if (s->logit[i] == -INFINITY) continue;
        const double x = ((double)s->logit[i] - (double)top) * scale;
        if (bucket_of(x) > last) continue;
        s->list[n++] = (candidate){s->logit[i], i, weight_of(s->table, x)};
    }
    qsort(s->list, n, sizeof *s->list, by_rank);
    return n;
}

/* Number of the n first candidates that top-p keeps, given the sum over all that compete; *reached
 * is false when even all n stay below. */
static uint32_t cut_top_p(const fg_sampler *s, uint32_t n, double sum, bool *reached)
{
    const double wanted = s->opt.top_p * sum;
    double have = 0;
    for (uint32_t i = 0; i < n; i++) {
        have += s->list[i].weight;
        *reached = have >= wanted;
        if (*reached) return i + 1;
    }
    return n;
}

static uint32_t select_top_k(fg_sampler *s, float top, double scale)
{
    uint32_t last = 0, count = s->bucket_count[0];
    while (count < s->opt.top_k && last + 1 < N_BUCKET) count += s->bucket_count[++last];
    uint32_t n = gather(s, top, scale, last);
    if (n > s->opt.top_k) n = s->opt.top_k;
    if (s->opt.top_p >= 1) return n;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += s->list[i].weight;
    bool reached = true;
    return cut_top_p(s, n, sum, &reached);
}

static uint32_t select_top_p(fg_sampler *s, float top, double scale, double sum)
{
    double have = s->bucket_weight[0];
    for (uint32_t last = 0;; have += s->bucket_weight[++last]) {
        if (have < s->opt.top_p * sum && last + 1 < N_BUCKET) continue;
        const uint32_t n = gather(s, top, scale, last);
        bool reached = false;
        const uint32_t kept = cut_top_p(s, n, sum, &reached);
        /* The sum in candidate order may fall short of that of the buckets by a rounding. */
        if (reached || last + 1 == N_BUCKET) return kept;
    }
}

static uint32_t draw_from_list(fg_sampler *s, uint32_t n)
{
    uint32_t kept = 1;
    while (kept < n && s->list[kept].weight >= s->opt.min_p) kept++; /* the first weighs 1 */
    double sum = 0;
    for (uint32_t i = 0; i < kept; i++) sum += s->list[i].weight;
    const double point = fg_rng_f64(&s->rng) * sum;
    double have = 0;
    for (uint32_t i = 0; i < kept; i++) {
        have += s->list[i].weight;
        if (have > point) return s->list[i].id;
    }
    return s->list[0].id;
}

static uint32_t draw_from_all(fg_sampler *s, uint32_t best, double scale, double sum)
{
    const double point = fg_rng_f64(&s->rng) * sum;
    double have = 0;
    uint32_t b = 0;
    while (b + 1 < s->n_block && have + s->block[b] <= point) have += s->block[b++];
    for (uint32_t i = b * BLOCK; i < s->n_vocab; i++) {
        have += weight_of(s->table, ((double)s->logit[i] - (double)s->logit[best]) * scale);
        if (have > point) return i;
    }
    return best; /* only when rounding leaves the point after the last weight */
}

fg_status fg_sampler_pick(fg_sampler *s, const float *logits, uint32_t *id, double *logprob,
                          fg_err *err)
{
    uint32_t best = 0;
    FG_TRY(take_logits(s, logits, &best, err));
    const float top = s->logit[best];
    *id = best;
    double sum_at_1 = 0; /* 0: not known yet */
    if (s->opt.temp > 0) {
        const double scale = 1.0 / s->opt.temp;
        const bool top_k = s->opt.top_k > 0 && s->opt.top_k < s->n_vocab;
        const bool top_p = s->opt.top_p < 1;
        const double sum = weigh(s, top, scale, top_k || top_p);
        if (s->opt.temp == 1.0) sum_at_1 = sum;
        if (top_k || top_p) {
            const uint32_t n =
                top_k ? select_top_k(s, top, scale) : select_top_p(s, top, scale, sum);
            *id = draw_from_list(s, n);
        } else if (s->opt.min_p > 0) {
            /* every candidate with that weight lies in these buckets; one more for rounding */
            const uint32_t last = bucket_of(fg_log(s->opt.min_p < 1e-300 ? 1e-300 : s->opt.min_p));
            *id = draw_from_list(s, gather(s, top, scale, last + 1));
        } else {
            *id = draw_from_all(s, best, scale, sum);
        }
    }
    if (logprob == NULL) return FG_OK;
    if (s->bends) { /* the model's own probabilities */
        take_allowed(s, logits);
        const float raw = s->logit[best_of(s)];
        *logprob = (double)s->logit[*id] - (double)raw - fg_log(weigh(s, raw, 1.0, false));
        return FG_OK;
    }
    if (sum_at_1 == 0) sum_at_1 = weigh(s, top, 1.0, false);
    *logprob = (double)s->logit[*id] - (double)top - fg_log(sum_at_1);
    return FG_OK;
}
