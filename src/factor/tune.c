/* SPDX-License-Identifier: MIT */
#include "src/factor/tune.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/factor/swarm.h"

enum {
    PARTICLES = 10,
    RUNS = 25,                                      /* a run gets 1 / RUNS of the budget at most */
    LEAST_RUN = FG_FACTOR_LEAST_BUDGET / PARTICLES, /* epochs; with less there is nothing to see */
};

/* ---- places of the cube as parameters ---- */

typedef struct space {
    const fg_factor_algorithm *algorithm;
    uint32_t n;
    uint32_t param[FG_SWARM_DIMS]; /* that a dimension stands for */
    double low[FG_SWARM_DIMS], high[FG_SWARM_DIMS];
} space;

_Static_assert((int)FG_PARAM_MAX <= (int)FG_SWARM_DIMS, "a dimension a parameter");

/* narrow: the published swarm's bounds of steps. */
static space space_of(const fg_factor_opts *o, bool narrow)
{
    space s = {.algorithm = fg_factor_algorithm_get(o->algo)};
    for (uint32_t i = 0; i < s.algorithm->n_param; i++) {
        const fg_factor_param *p = &s.algorithm->param[i];
        const bool of_bias = i == FG_PARAM_ETA_BIAS || i == FG_PARAM_LAMBDA_BIAS;
        double low = p->low, high = p->high;
        if (!(low < high) || (of_bias && !o->bias) || (narrow && i == FG_PARAM_DECAY)) continue;
        if (narrow && (i == FG_PARAM_ETA || i == FG_PARAM_ETA_BIAS)) low = 0x1p-10, high = 0x1p-8;
        if (narrow && i == FG_PARAM_LAMBDA) low = .05, high = .15;
        if (narrow && (strcmp(p->name, "ai") == 0 || strcmp(p->name, "ki") == 0)) high = 5e-3;
        s.param[s.n] = i;
        s.low[s.n] = low;
        s.high[s.n++] = high;
    }
    return s;
}

static void place_of(const space *s, const double *param, double *x)
{
    for (uint32_t d = 0; d < s->n; d++) {
        const double v = param[s->param[d]];
        const bool log_scale = s->algorithm->param[s->param[d]].log;
        const double t = log_scale
                             ? log(fmax(v, s->low[d]) / s->low[d]) / log(s->high[d] / s->low[d])
                             : (v - s->low[d]) / (s->high[d] - s->low[d]);
        x[d] = fmin(1.0, fmax(0.0, t));
    }
}

static void params_at(const space *s, const double *x, double *param)
{
    for (uint32_t d = 0; d < s->n; d++) {
        const bool log_scale = s->algorithm->param[s->param[d]].log;
        param[s->param[d]] = log_scale ? s->low[d] * pow(s->high[d] / s->low[d], x[d])
                                       : s->low[d] + (s->high[d] - s->low[d]) * x[d];
    }
}

/* ---- offline ---- */

void fg_factor_tuning_fini(fg_factor_tuning *t)
{
    fg_mem_free(t->trial);
    *t = (fg_factor_tuning){0};
}

const fg_factor_trial *fg_factor_tuning_best(const fg_factor_tuning *t, double cost)
{
    const fg_factor_trial *best = NULL;
    double least = (double)INFINITY;
    for (uint32_t i = 0; i < t->n; i++) {
        const double worth = t->trial[i].rmse + cost * t->trial[i].epochs;
        if (worth < least) { /* not for NaN */
            least = worth;
            best = &t->trial[i];
        }
    }
    return best;
}

typedef struct generation {
    const fg_hdi *train, *valid;
    const fg_kernels *k;
    fg_factor_opts o[PARTICLES];
    fg_factor_trial trial[PARTICLES];
    fg_status st[PARTICLES];
    fg_err err[PARTICLES];
    uint32_t n;
    uint64_t passes; /* before it */
    fg_factor_tuning_fn *progress;
    void *ctx;
    atomic_bool stop;
} generation;

typedef struct watch {
    generation *g;
    bool calls; /* on the calling thread */
} watch;

static bool watch_run(void *ctx, const fg_factor_run *r)
{
    const watch *w = ctx;
    generation *g = w->g;
    if (w->calls && g->progress != NULL && !g->progress(g->ctx, g->passes + r->n_epoch)) {
        atomic_store(&g->stop, true);
    }
    return !atomic_load(&g->stop);
}

static void run_particle(generation *g, uint32_t i, bool calls)
{
    fg_factor_run r = {0};
    watch w = {g, calls};
    fg_factor_trial *t = &g->trial[i];
    memcpy(t->param, g->o[i].param, sizeof t->param);
    g->st[i] =
        fg_factor_train(&r, g->train, g->valid, &g->o[i], g->k, NULL, watch_run, &w, &g->err[i]);
    t->rmse = (double)NAN;
    t->passes = r.n_epoch;
    if (g->st[i] == FG_EINVAL) { /* it diverged at once */
        g->st[i] = FG_OK;
        t->passes = 1;
    } else if (g->st[i] == FG_OK && !r.diverged) {
        t->rmse = r.best_rmse;
        t->epochs = r.best;
    }
    fg_factor_run_fini(&r);
}

static void run_particles(fg_worker *w, void *arg)
{
    generation *g = arg;
    uint64_t begin, end;
    while (fg_worker_take_items(w, g->n, &begin, &end)) {
        for (uint64_t i = begin; i < end; i++) run_particle(g, (uint32_t)i, w->idx == 0);
    }
}

/* One run of each particle, added to t. */
static fg_status run_generation(generation *g, fg_factor_tuning *t, fg_team *team, fg_err *err)
{
    g->passes = t->passes;
    if (team != NULL) {
        fg_team_run(team, run_particles, g);
    } else {
        for (uint32_t i = 0; i < g->n; i++) run_particle(g, i, true);
    }
    for (uint32_t i = 0; i < g->n; i++) {
        if (g->st[i] != FG_OK) {
            *err = g->err[i];
            return g->st[i];
        }
    }
    if (!fg_mem_grow((void **)&t->trial, &t->cap, (size_t)t->n + g->n, sizeof *t->trial)) {
        return fg_fail_nomem(err, "trials");
    }
    for (uint32_t i = 0; i < g->n; i++) {
        t->trial[t->n++] = g->trial[i];
        t->passes += g->trial[i].passes;
    }
    return FG_OK;
}

fg_status fg_factor_tune(fg_factor_tuning *t, const fg_hdi *train, const fg_hdi *valid,
                         const fg_factor_opts *o, uint64_t budget, double cost, const fg_kernels *k,
                         fg_team *team, fg_factor_tuning_fn *progress, void *ctx, fg_err *err)
{
    FG_TRY(fg_factor_opts_check(o, err));
    if (budget < FG_FACTOR_LEAST_BUDGET) {
        return fg_fail(err, FG_EINVAL, "budget: %" PRIu64 " passes, expected at least %d", budget,
                       FG_FACTOR_LEAST_BUDGET);
    }
    const space s = space_of(o, false);
    const fg_factor_trial *best = fg_factor_tuning_best(t, cost);
    const uint64_t end = t->passes + budget;
    generation *g = fg_mem_zalloc(sizeof *g);
    fg_swarm *swarm = fg_mem_zalloc(sizeof *swarm);
    fg_status st = g == NULL || swarm == NULL ? fg_fail_nomem(err, "swarm") : FG_OK;
    if (st == FG_OK) {
        double start[FG_SWARM_DIMS];
        *g = (generation){.train = train, .valid = valid, .k = k, .n = PARTICLES};
        g->progress = progress;
        g->ctx = ctx;
        place_of(&s, best == NULL ? o->param : best->param, start);
        fg_swarm_start(swarm, PARTICLES, s.n, start, best == NULL ? .5 : .15, o->seed + t->n);
    }
    while (st == FG_OK) {
        uint64_t most = (end - t->passes) / PARTICLES;
        if (most > budget / RUNS && budget / RUNS >= LEAST_RUN) most = budget / RUNS;
        if (most < LEAST_RUN) break;
        for (uint32_t i = 0; i < g->n; i++) {
            g->o[i] = *o;
            if (g->o[i].max_epoch > most) g->o[i].max_epoch = (uint32_t)most;
            params_at(&s, swarm->x[i], g->o[i].param);
        }
        st = run_generation(g, t, team, err);
        for (uint32_t i = 0; st == FG_OK && i < g->n; i++) {
            const fg_factor_trial *r = &g->trial[i];
            if (r->rmse > 0.0) fg_swarm_tell(swarm, i, -(r->rmse + cost * r->epochs));
        }
        for (uint32_t i = 0; i < g->n; i++) fg_swarm_move(swarm, i);
    }
    fg_mem_free(g);
    fg_mem_free(swarm);
    if (st == FG_OK && fg_factor_tuning_best(t, cost) == NULL) {
        st = fg_fail(err, FG_EINVAL,
                     "tuning: %" PRIu64 " passes without a run that converged, "
                     "expected a larger budget",
                     t->passes);
    }
    return st;
}

/* ---- sequential ---- */

typedef struct sequence {
    space s;
    fg_swarm swarm;
    double round_before; /* G_0 of the round that runs */
    uint32_t quiet;      /* rounds in turn that brought nothing */
    double min_gain, best;
} sequence;

/* The round is over: what each particle was worth. */
static void judge_round(sequence *q, const fg_factor_point *g)
{
    const uint32_t n = q->swarm.n;
    const double last = g[n - 1].rmse;
    for (uint32_t j = 0; j < n; j++) {
        const double before = j == 0 ? q->round_before : g[j - 1].rmse;
        fg_swarm_tell(&q->swarm, j, fg_swarm_share(before, g[j].rmse, q->round_before, last));
    }
    for (uint32_t j = 0; j < n; j++) fg_swarm_move(&q->swarm, j);
    q->quiet = last > q->best - q->min_gain ? q->quiet + 1 : 0;
    q->best = fmin(q->best, last);
    q->round_before = last;
}

static bool next_particle(void *ctx, const fg_factor_run *r, double *param)
{
    sequence *q = ctx;
    const uint32_t n = q->swarm.n, j = r->n_epoch % n;
    if (j == 0 && r->n_epoch == n) { /* the first round has no G_0 but the first pass's error */
        q->round_before = r->curve[0].rmse;
        q->best = (double)INFINITY;
    }
    if (j == 0 && r->n_epoch > 0) judge_round(q, r->curve + r->n_epoch - n);
    if (q->quiet == 2) return false;
    params_at(&q->s, q->swarm.x[j], param);
    return true;
}

fg_status fg_factor_train_swarm(fg_factor_run *out, const fg_hdi *train, const fg_hdi *valid,
                                const fg_factor_opts *o, uint32_t particles, const fg_kernels *k,
                                fg_team *team, fg_factor_progress_fn *progress, void *ctx,
                                fg_err *err)
{
    *out = (fg_factor_run){0};
    FG_TRY(fg_factor_opts_check(o, err));
    if (particles < 1 || particles > FG_SWARM_MAX) {
        return fg_fail(err, FG_EINVAL, "particles %u, expected 1 to %d", particles, FG_SWARM_MAX);
    }
    sequence *q = fg_mem_zalloc(sizeof *q);
    if (q == NULL) return fg_fail_nomem(err, "swarm");
    double start[FG_SWARM_DIMS];
    q->s = space_of(o, true);
    q->min_gain = o->min_gain;
    place_of(&q->s, o->param, start);
    fg_swarm_start(&q->swarm, particles, q->s.n, start, 1.0, o->seed);
    const fg_status st = fg_factor_train_steered(out, train, valid, o, next_particle, q, k, team,
                                                 progress, ctx, err);
    fg_mem_free(q);
    return st;
}
