/* SPDX-License-Identifier: MIT */
#include "src/factor/routing_train.h"

#include <math.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/rng.h"

enum {
    LEAST = 100,        /* tokens */
    MAX_ROWS = 1 << 15, /* tokens whose factors are learned, the last ones */
    OTHERS = 3,         /* sampled for each expert chosen */
    HELD_ENTRY = 32,    /* one entry in so many tells when to stop */
    TOP = 4,            /* recall@4 */
};
/* Entries are spread like the ratings that the defaults of algorithm.h were tuned on. */
static const float scale = 4.0f;

/* ---- logs ---- */

void fg_routing_log_fini(fg_routing_log *g)
{
    fg_mem_free(g->id);
    fg_mem_free(g->first);
    fg_mem_free(g->sel);
    *g = (fg_routing_log){.of = g->of};
}

static size_t row_of(const fg_routing_shape *s)
{
    return (size_t)s->n_layer * s->n_used;
}

fg_status fg_routing_log_add(fg_routing_log *g, size_t n, fg_err *err)
{
    const size_t all = g->n + n;
    if (!fg_mem_grow((void **)&g->id, &g->id_cap, all, sizeof *g->id) ||
        !fg_mem_grow((void **)&g->first, &g->first_cap, all, sizeof *g->first) ||
        !fg_mem_grow((void **)&g->sel, &g->sel_cap, all * row_of(&g->of), sizeof *g->sel)) {
        return fg_fail_nomem(err, "routing");
    }
    g->n = all;
    return FG_OK;
}

/* ---- weights ---- */

static bool is_in(const uint16_t *sel, uint32_t n, uint32_t e)
{
    for (uint32_t i = 0; i < n; i++) {
        if (sel[i] == e) return true;
    }
    return false;
}

/* Terms of a token's columns in a layer: what id and previous token add to g, without the token
 * itself; and r - g. */
typedef struct terms {
    float id, prev, left;
} terms;

static void terms_of(const fg_routing_model *m, const fg_routing_log *g, size_t t, uint32_t layer,
                     terms *out)
{
    const fg_routing_shape *s = &m->of;
    const size_t col = (size_t)layer * s->n_expert, at = (size_t)layer * s->n_used;
    const uint16_t *sel = g->sel + t * row_of(s) + at;
    const uint16_t *prev = g->first[t] ? NULL : sel - row_of(s);
    const uint32_t row = m->row_of[g->id[t]];
    const uint16_t *count =
        row == FG_ROUTING_NO_ROW ? NULL : m->count + row * fg_routing_n_col(s) + col;
    for (uint32_t e = 0; e < s->n_expert; e++) {
        const float share = (float)m->use[col + e] / (float)m->n_tok;
        const float r = is_in(sel, s->n_used, e) ? 1.0f : 0.0f;
        out[e] = (terms){.left = r - share};
        if (prev != NULL) out[e].prev = (is_in(prev, s->n_used, e) ? 1.0f : 0.0f) - share;
        if (count == NULL) continue;
        const float seen = (float)m->seen[row] - 1.0f + FG_ROUTING_SMOOTH;
        out[e].id = ((float)count[e] - r + FG_ROUTING_SMOOTH * share) / seen - share;
    }
}

/* Least squares of a layer. */
static void fit_weights(fg_routing_model *m, const fg_routing_log *g, size_t n, uint32_t layer,
                        terms *x)
{
    double aa = 1e-9, ab = 0.0, bb = 1e-9, ar = 0.0, br = 0.0;
    for (size_t t = 0; t < n; t++) {
        terms_of(m, g, t, layer, x);
        for (uint32_t e = 0; e < m->of.n_expert; e++) {
            const double a = (double)x[e].id, b = (double)x[e].prev, r = (double)x[e].left;
            aa += a * a;
            ab += a * b;
            bb += b * b;
            ar += a * r;
            br += b * r;
        }
    }
    const double det = aa * bb - ab * ab;
    m->w_id[layer] = (float)((ar * bb - br * ab) / det);
    m->w_prev[layer] = (float)((br * aa - ar * ab) / det);
}

/* ---- factors ---- */

typedef struct entries {
    fg_hdi train, held;
    double noise; /* mean square of what is left over, of all columns */
} entries;

static fg_status put_entry(entries *x, fg_rng *rng, size_t row, size_t col, float left, fg_err *err)
{
    fg_hdi *to = fg_rng_u64(rng) % HELD_ENTRY == 0 ? &x->held : &x->train;
    return fg_hdi_add(to, (uint32_t)row, (uint32_t)col, scale * left, err);
}

static fg_status put_layer(entries *x, fg_rng *rng, const fg_routing_model *m, const uint16_t *sel,
                           size_t row, uint32_t layer, const terms *of, fg_err *err)
{
    const fg_routing_shape *s = &m->of;
    const size_t first = (size_t)layer * s->n_expert;
    const float a = m->w_id[layer], b = m->w_prev[layer];
    for (uint32_t i = 0; i < s->n_used * (1 + OTHERS); i++) {
        uint32_t e = i < s->n_used ? sel[i] : (uint32_t)(fg_rng_u64(rng) % s->n_expert);
        if (i >= s->n_used && is_in(sel, s->n_used, e)) continue;
        const float left = of[e].left - a * of[e].id - b * of[e].prev;
        FG_TRY(put_entry(x, rng, row, first + e, left, err));
    }
    for (uint32_t e = 0; e < s->n_expert; e++) {
        const double left = (double)(of[e].left - a * of[e].id - b * of[e].prev);
        x->noise += left * left;
    }
    return FG_OK;
}

static fg_status make_entries(entries *x, const fg_routing_model *m, const fg_routing_log *g,
                              size_t from, size_t to, uint64_t seed, terms *room, fg_err *err)
{
    const fg_routing_shape *s = &m->of;
    fg_rng rng;
    fg_rng_init(&rng, seed);
    for (size_t t = from; t < to; t++) {
        for (uint32_t l = 0; l < s->n_layer; l++) {
            terms_of(m, g, t, l, room);
            const uint16_t *sel = g->sel + t * row_of(s) + (size_t)l * s->n_used;
            FG_TRY(put_layer(x, &rng, m, sel, t - from, l, room, err));
        }
    }
    x->noise /= (double)((to - from) * fg_routing_n_col(s));
    if (x->held.n == 0 || x->train.n == 0) {
        return fg_fail(err, FG_EINVAL, "routing: too few entries, expected a longer trace");
    }
    x->train.n_row = x->held.n_row = (uint32_t)(to - from);
    x->train.n_col = x->held.n_col = (uint32_t)fg_routing_n_col(s);
    /* a sampled expert may have been drawn twice */
    return fg_hdi_unite(&x->train, FG_HDI_LAST, &(uint64_t){0}, NULL, err);
}

/* y, how much of a row goes over to the next, and the precision of rows: noise / second moments. */
static void take_factors(fg_routing_model *m, const fg_factor_model *f, const fg_routing_log *g,
                         size_t from, double noise, double *moment)
{
    const uint32_t n = m->rank;
    for (size_t c = 0; c < fg_routing_n_col(&m->of); c++) {
        for (uint32_t i = 0; i < n; i++) m->y[c * n + i] = f->y[c * f->stride + i] / scale;
    }
    double along = 0.0, all = 1e-12;
    memset(moment, 0, (size_t)n * n * sizeof *moment);
    for (size_t t = 0; t < f->n_row; t++) {
        const float *x = f->x + t * f->stride;
        const bool joins = t > 0 && !g->first[from + t];
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t j = 0; j < n; j++) moment[i * n + j] += (double)x[i] * (double)x[j];
            if (!joins) continue;
            along += (double)x[i] * (double)x[i - (ptrdiff_t)f->stride];
            all += (double)x[i - (ptrdiff_t)f->stride] * (double)x[i - (ptrdiff_t)f->stride];
        }
    }
    double trace = 0.0;
    for (uint32_t i = 0; i < n; i++) trace += moment[i * n + i];
    for (uint32_t i = 0; i < n; i++) moment[i * n + i] += 1e-3 * trace / n + 1e-9;
    for (size_t i = 0; i < (size_t)n * n; i++) moment[i] /= noise * (double)f->n_row;
    const double carry = along / all;
    m->carry = (float)(carry < 0.0 ? 0.0 : carry > 1.0 ? 1.0 : carry);
}

/* ---- the held-back tenth ---- */

void fg_routing_best(const float *score, uint32_t n_expert, uint32_t *ids, uint32_t n)
{
    uint32_t k = 0;
    for (uint32_t e = 0; e < n_expert; e++) { /* insertion */
        uint32_t at = k;
        while (at > 0 && score[ids[at - 1]] < score[e]) at--;
        if (at >= n) continue;
        if (k < n) k++;
        memmove(ids + at + 1, ids + at, (k - 1 - at) * sizeof *ids);
        ids[at] = e;
    }
}

typedef struct bins {
    double n[FG_ROUTING_BINS], hit[FG_ROUTING_BINS];
} bins;

static uint32_t count_best(const float *score, const fg_routing_shape *s, const uint16_t *sel,
                           bins *b)
{
    uint32_t ids[TOP], n = 0;
    const uint32_t top = s->n_expert < TOP ? s->n_expert : TOP;
    fg_routing_best(score, s->n_expert, ids, top);
    for (uint32_t i = 0; i < top; i++) n += is_in(sel, s->n_used, ids[i]);
    for (uint32_t e = 0; b != NULL && e < s->n_expert; e++) {
        const float at = (score[e] - FG_ROUTING_LOW) * (FG_ROUTING_BINS / 2.0f);
        const int i = !(at > 0.0f) ? 0 : at >= FG_ROUTING_BINS ? FG_ROUTING_BINS - 1 : (int)at;
        b->n[i] += 1.0;
        b->hit[i] += is_in(sel, s->n_used, e) ? 1.0 : 0.0;
    }
    return n;
}

/* Recall@4 on a log's tokens from n_fit on: when the layer d before had run [d - 1], and before the
 * first layer. */
typedef struct verdict {
    double ahead[FG_ROUTING_AHEAD], next;
} verdict;

/* b, and all distances but 1: only when b is not NULL. */
static void judge_token(fg_routing_row *r, const fg_routing_log *g, size_t t, unsigned with,
                        float *score, verdict *v, bins *b)
{
    const fg_routing_shape *s = &g->of;
    const uint16_t *row = g->sel + t * row_of(s);
    uint32_t sel[FG_FACTOR_MAX_RANK];
    for (uint32_t l = 0; l < s->n_layer; l++) { /* nothing known yet */
        (void)fg_routing_row_score(r, l, with, score);
        v->next += (double)count_best(score, s, row + (size_t)l * s->n_used, b);
    }
    for (uint32_t l = 0; l < s->n_layer; l++) {
        for (uint32_t i = 0; i < s->n_used; i++) sel[i] = row[(size_t)l * s->n_used + i];
        fg_routing_row_layer(r, l, sel);
        for (uint32_t d = 0; d < (b == NULL ? 1 : FG_ROUTING_AHEAD); d++) {
            const uint32_t to = l + 1 + d;
            if (to >= s->n_layer) break;
            (void)fg_routing_row_score(r, to, with, score);
            const uint16_t *at = row + (size_t)to * s->n_used;
            v->ahead[d] += (double)count_best(score, s, at, d == 0 ? b : NULL);
        }
    }
}

/* m is what was learned before them. */
static fg_status judge(const fg_routing_model *m, const fg_routing_log *g, size_t n_fit,
                       unsigned with, verdict *v, bins *b, fg_err *err)
{
    const fg_routing_shape *s = &m->of;
    const double each = (double)(g->n - n_fit) * s->n_used;
    fg_routing_row *r;
    *v = (verdict){.next = 0.0};
    FG_TRY(fg_routing_row_create(&r, m, err));
    float *score = fg_mem_zalloc_array(s->n_expert, sizeof *score);
    for (size_t t = n_fit, pos = 0; score != NULL && t < g->n; t++, pos++) {
        pos += g->first[t];
        fg_routing_row_begin(r, 0, pos, &g->id[t], 1);
        judge_token(r, g, t, with, score, v, b);
    }
    v->next /= each * s->n_layer;
    for (uint32_t d = 0; d < FG_ROUTING_AHEAD && d + 1 < s->n_layer; d++) {
        v->ahead[d] /= each * (s->n_layer - 1 - d);
    }
    fg_routing_row_destroy(&r);
    if (score == NULL) return fg_fail_nomem(err, "routing");
    fg_mem_free(score);
    return FG_OK;
}

/* Tries strengths of the prior and keeps the best. */
static fg_status choose_prior(fg_routing_model *m, const fg_routing_log *g, size_t n_fit,
                              const double *inverse, verdict *best, fg_err *err)
{
    static const double strength[] = {0.5, 1.0, 2.0, 4.0, 8.0, 16.0};
    const size_t n = (size_t)m->rank * m->rank;
    size_t at = 0;
    *best = (verdict){.next = -2.0};
    const size_t n_try = sizeof strength / sizeof strength[0];
    for (size_t i = 0; i <= n_try; i++) {
        verdict v;
        const double by = strength[i < n_try ? i : at];
        for (size_t k = 0; k < n; k++) m->prior[k] = (float)(by * inverse[k]);
        FG_TRY(fg_routing_prepare(m, err));
        if (i == n_try) break;
        FG_TRY(judge(m, g, n_fit, FG_ROUTING_ALL, &v, NULL, err));
        if (v.ahead[0] + v.next <= best->ahead[0] + best->next) continue;
        *best = v;
        at = i;
    }
    return FG_OK;
}

/* Shares of use by score, made rising by pooling neighbours that fall. */
static void calibrate(fg_routing_model *m, bins *b)
{
    int last[FG_ROUTING_BINS], k = 0; /* pools: the last bin of each */
    for (int i = 0; i < FG_ROUTING_BINS; i++) {
        b->n[i] += 1e-3; /* nobody was there: as the score says */
        b->hit[i] += 1e-3 * (double)m->chance[i];
        double n = b->n[i], hit = b->hit[i];
        while (k > 0 && b->hit[last[k - 1]] * n >= hit * b->n[last[k - 1]]) {
            k--;
            n += b->n[last[k]];
            hit += b->hit[last[k]];
        }
        b->n[i] = n;
        b->hit[i] = hit;
        last[k++] = i;
    }
    for (int i = 0, p = 0; i < FG_ROUTING_BINS; i++) {
        if (i > last[p]) p++;
        const float c = (float)(b->hit[last[p]] / b->n[last[p]]);
        m->chance[i] = c < 0.0f ? 0.0f : c > 1.0f ? 1.0f : c;
    }
}

/* ---- all of it ---- */

static fg_status learn_factors(fg_routing_model *m, const fg_routing_log *g, size_t n_fit,
                               const fg_routing_opts *o, const fg_factor_machine *machine,
                               terms *room, fg_routing_report *report, fg_err *err)
{
    const size_t from = n_fit > MAX_ROWS ? n_fit - MAX_ROWS : 0;
    entries x = {0};
    fg_factor_run run = {0};
    fg_factor_opts fo = fg_factor_opts_default(o->algo, false);
    verdict v = {.next = 0.0};
    fo.rank = m->rank;
    fo.seed = o->seed;
    if (o->max_epoch > 0) fo.max_epoch = o->max_epoch;
    double *moment = fg_mem_zalloc_array((size_t)m->rank * m->rank, sizeof *moment);
    fg_status st = moment == NULL ? fg_fail_nomem(err, "routing") : FG_OK;
    if (st == FG_OK) st = make_entries(&x, m, g, from, n_fit, o->seed, room, err);
    if (st == FG_OK) {
        st = fg_factor_train(&run, &x.train, &x.held, &fo, &machine->k, machine->team, o->progress,
                             o->ctx, err);
    }
    if (st == FG_OK) {
        report->n_epoch = run.n_epoch;
        take_factors(m, run.model, g, from, x.noise, moment);
        if (!fg_routing_invert(moment, m->rank)) {
            st = fg_fail(err, FG_EINVAL, "routing: factors without variance, expected some");
        }
    }
    if (st == FG_OK) st = choose_prior(m, g, n_fit, moment, &v, err);
    fg_factor_run_fini(&run);
    fg_hdi_fini(&x.train);
    fg_hdi_fini(&x.held);
    fg_mem_free(moment);
    return st;
}

static fg_status train(fg_routing_model *m, const fg_routing_log *g, const fg_routing_opts *o,
                       const fg_factor_machine *machine, fg_routing_report *report, fg_err *err)
{
    const size_t n_fit = g->n - g->n / 10;
    bins b = {{0.0}, {0.0}};
    verdict v;
    *report = (fg_routing_report){.n_fit = n_fit, .n_held = g->n - n_fit};
    for (size_t t = 0; t < n_fit; t++) {
        (void)fg_routing_count(m, g->id[t], g->sel + t * row_of(&g->of), 1);
    }
    terms *room = fg_mem_zalloc_array(m->of.n_expert, sizeof *room);
    if (room == NULL) return fg_fail_nomem(err, "routing");
    for (uint32_t l = 0; l < m->of.n_layer; l++) fit_weights(m, g, n_fit, l, room);
    fg_status st = judge(m, g, n_fit, FG_ROUTING_PREVIOUS, &v, NULL, err);
    report->table_near = v.ahead[0];
    report->table_next = v.next;
    if (st == FG_OK && m->rank > 0) {
        st = learn_factors(m, g, n_fit, o, machine, room, report, err);
    }
    if (st == FG_OK) st = judge(m, g, n_fit, FG_ROUTING_ALL, &v, &b, err);
    fg_mem_free(room);
    FG_TRY(st);
    report->near = v.ahead[0];
    report->next = v.next;
    for (int d = 0; d < FG_ROUTING_AHEAD; d++) m->recall[d] = (float)v.ahead[d];
    calibrate(m, &b);
    for (size_t t = n_fit; t < g->n; t++) {
        (void)fg_routing_count(m, g->id[t], g->sel + t * row_of(&g->of), 1);
    }
    return FG_OK;
}

fg_status fg_routing_train(fg_routing_model **out, const fg_routing_log *g,
                           const fg_routing_opts *o, const fg_factor_machine *machine,
                           fg_routing_report *report, fg_err *err)
{
    *out = NULL;
    if (g->n < LEAST) {
        return fg_fail(err, FG_EINVAL, "routing: %zu tokens, expected at least %d", g->n, LEAST);
    }
    fg_routing_model *m;
    FG_TRY(fg_routing_create(&m, &g->of, o->rank, err));
    m->algo = o->algo;
    const fg_status st = train(m, g, o, machine, report, err);
    if (st != FG_OK) {
        fg_routing_destroy(&m);
        return st;
    }
    *out = m;
    return FG_OK;
}
