/* SPDX-License-Identifier: MIT */
#include "src/factor/factor_model.h"

#include <math.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/rng.h"

fg_status fg_factor_model_alloc(fg_factor_model **out, uint32_t n_row, uint32_t n_col,
                                uint32_t rank, bool bias, fg_err *err)
{
    fg_factor_model *m = fg_mem_zalloc(sizeof *m);
    *out = m;
    if (m == NULL) return fg_fail_nomem(err, "model");
    *m = (fg_factor_model){.rank = rank, .n_row = n_row, .n_col = n_col};
    m->stride = (rank + FG_FACTOR_LANES - 1) / FG_FACTOR_LANES * FG_FACTOR_LANES;
    m->x = fg_mem_zalloc_array((size_t)n_row * m->stride + 1, sizeof *m->x);
    m->y = fg_mem_zalloc_array((size_t)n_col * m->stride + 1, sizeof *m->y);
    m->row_met = fg_mem_zalloc((size_t)n_row + 1);
    m->col_met = fg_mem_zalloc((size_t)n_col + 1);
    bool ok = m->x != NULL && m->y != NULL && m->row_met != NULL && m->col_met != NULL;
    if (bias) {
        m->bx = fg_mem_zalloc_array((size_t)n_row + 1, sizeof *m->bx);
        m->by = fg_mem_zalloc_array((size_t)n_col + 1, sizeof *m->by);
        ok = ok && m->bx != NULL && m->by != NULL;
    }
    if (ok) return FG_OK;
    fg_factor_model_destroy(out);
    return fg_fail_nomem(err, "model");
}

void fg_factor_model_destroy(fg_factor_model **pm)
{
    fg_factor_model *m = *pm;
    *pm = NULL;
    if (m == NULL) return;
    fg_mem_free(m->x);
    fg_mem_free(m->y);
    fg_mem_free(m->bx);
    fg_mem_free(m->by);
    fg_mem_free(m->row_met);
    fg_mem_free(m->col_met);
    fg_mem_free(m);
}

static void fill(fg_rng *rng, float *p, size_t n, uint32_t rank, size_t stride, double low,
                 double high)
{
    for (size_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < rank; k++) {
            p[i * stride + k] = (float)(low + (high - low) * fg_rng_f64(rng));
        }
    }
}

fg_status fg_factor_model_create(fg_factor_model **out, const fg_hdi *train,
                                 const fg_factor_opts *o, fg_err *err)
{
    *out = NULL;
    if (train->n == 0) {
        return fg_fail(err, FG_EINVAL, "training: no entries, expected at least one");
    }
    FG_TRY(fg_factor_model_alloc(out, train->n_row, train->n_col, o->rank, o->bias, err));
    fg_factor_model *m = *out;
    m->algo = o->algo;
    double sum = 0.0;
    m->low = m->high = train->entry[0].value;
    for (uint64_t i = 0; i < train->n; i++) {
        const fg_hdi_entry *e = &train->entry[i];
        m->row_met[e->row] = m->col_met[e->col] = 1;
        m->low = fminf(m->low, e->value);
        m->high = fmaxf(m->high, e->value);
        sum += (double)e->value;
    }
    m->mean = (float)(sum / (double)train->n);
    fg_rng rng;
    fg_rng_init(&rng, o->seed);
    const double low = o->bias ? -o->init : 0.0;
    fill(&rng, m->x, m->n_row, m->rank, m->stride, low, o->init);
    fill(&rng, m->y, m->n_col, m->rank, m->stride, low, o->init);
    return FG_OK;
}

void fg_factor_model_copy(fg_factor_model *to, const fg_factor_model *from)
{
    memcpy(to->x, from->x, (size_t)from->n_row * from->stride * sizeof *to->x);
    memcpy(to->y, from->y, (size_t)from->n_col * from->stride * sizeof *to->y);
    if (from->bx == NULL) return;
    memcpy(to->bx, from->bx, from->n_row * sizeof *to->bx);
    memcpy(to->by, from->by, from->n_col * sizeof *to->by);
}

fg_factor_job fg_factor_model_job(const fg_factor_model *m)
{
    return (fg_factor_job){
        .stride = m->stride, .x = m->x, .y = m->y, .bx = m->bx, .by = m->by, .mean = m->mean};
}

/* ---- judging ---- */

enum { RUN = 512 }; /* groups of a sum */

typedef struct sums {
    double sq, abs, sq_clipped, sq_met;
    uint64_t n, n_unmet;
} sums;

typedef struct judging {
    const fg_factor_model *m;
    const fg_visits *list;
    const fg_kernels *k;
    fg_factor_job job;
    sums *run; /* [runs] */
    uint64_t n_run;
} judging;

static bool is_met(const fg_factor_model *m, uint32_t row, uint32_t col)
{
    return row < m->n_row && col < m->n_col && m->row_met[row] != 0 && m->col_met[col] != 0;
}

static void judge_run(const judging *c, uint64_t at)
{
    const fg_factor_model *m = c->m;
    const fg_factor_group *g = c->list->group + at * RUN;
    const uint64_t left = c->list->n_group - at * RUN, n = left < RUN ? left : RUN;
    float out[RUN * FG_FACTOR_LANES];
    sums s = {0};
    c->k->factor_predict(&c->job, g, n, out);
    for (uint64_t i = 0; i < n * FG_FACTOR_LANES; i++) {
        const uint64_t lane = i % FG_FACTOR_LANES;
        const fg_factor_group *of = g + i / FG_FACTOR_LANES;
        if (of->row[lane] == FG_FACTOR_NONE) continue;
        const bool met = is_met(m, of->row[lane], of->col[lane]);
        const float p = met ? out[i] : m->mean;
        const float clipped = p < m->low ? m->low : p > m->high ? m->high : p;
        const double e = (double)of->value[lane] - (double)p;
        const double ec = (double)of->value[lane] - (double)clipped;
        s.sq += e * e;
        s.abs += fabs(e);
        s.sq_clipped += ec * ec;
        s.sq_met += met ? e * e : 0.0;
        s.n_unmet += !met;
        s.n++;
    }
    c->run[at] = s;
}

static void judge_on(fg_worker *w, void *arg)
{
    const judging *c = arg;
    uint64_t begin, end;
    while (fg_worker_take_items(w, c->n_run, &begin, &end)) {
        for (uint64_t i = begin; i < end; i++) judge_run(c, i);
    }
}

fg_status fg_factor_judge(const fg_factor_model *m, const fg_visits *list, const fg_kernels *k,
                          fg_team *team, fg_factor_score *out, fg_err *err)
{
    judging c = {.m = m, .list = list, .k = k, .job = fg_factor_model_job(m)};
    c.n_run = (list->n_group + RUN - 1) / RUN;
    c.run = fg_mem_zalloc_array((size_t)c.n_run + 1, sizeof *c.run);
    *out = (fg_factor_score){0};
    if (c.run == NULL) return fg_fail_nomem(err, "errors");
    if (team != NULL && c.n_run > 1) {
        fg_team_run(team, judge_on, &c);
    } else {
        for (uint64_t i = 0; i < c.n_run; i++) judge_run(&c, i);
    }
    sums s = {0};
    for (uint64_t i = 0; i < c.n_run; i++) {
        s.sq += c.run[i].sq;
        s.abs += c.run[i].abs;
        s.sq_clipped += c.run[i].sq_clipped;
        s.sq_met += c.run[i].sq_met;
        s.n += c.run[i].n;
        s.n_unmet += c.run[i].n_unmet;
    }
    fg_mem_free(c.run);
    const double n = (double)s.n, n_met = (double)(s.n - s.n_unmet);
    *out = (fg_factor_score){sqrt(s.sq / n),         s.abs / n, sqrt(s.sq_clipped / n),
                             sqrt(s.sq_met / n_met), s.n,       s.n_unmet};
    return FG_OK;
}

float fg_factor_predict(const fg_factor_model *m, uint32_t row, uint32_t col)
{
    if (!is_met(m, row, col)) return m->mean;
    const float *x = m->x + row * m->stride, *y = m->y + col * m->stride;
    float sum = m->bx == NULL ? 0.0f : m->mean + m->bx[row] + m->by[col];
    for (uint32_t k = 0; k < m->rank; k++) sum += x[k] * y[k];
    return sum;
}
