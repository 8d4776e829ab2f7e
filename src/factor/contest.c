/* SPDX-License-Identifier: MIT */
#include "src/factor/contest.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/mem.h"

static const double cost_of[FG_CONTEST_KINDS] = {
    [FG_CONTEST_ACCURATE] = 2e-6, [FG_CONTEST_FAST] = 3e-5};
static const double near_best =
    .0005; /* validation RMSE within which the faster one is the rival */

static fg_status add(fg_contest *c, fg_contest_kind kind, const fg_factor_opts *o, uint64_t passes,
                     fg_err *err)
{
    static const char *const text[] = {
#define FG_CONTEST_TEXT(id, name) name,
        FG_CONTEST_MAP(FG_CONTEST_TEXT)
#undef FG_CONTEST_TEXT
    };
    fg_contestant *to = &c->of[c->n];
    *to = (fg_contestant){.kind = kind, .opts = *o, .tuning_passes = passes};
    to->result = fg_mem_zalloc_array((size_t)c->n_split + 1, sizeof *to->result);
    if (to->result == NULL) return fg_fail_nomem(err, "results");
    (void)snprintf(to->name, sizeof to->name, "%s%s", fg_factor_algo_name(o->algo), text[kind]);
    c->n++;
    return FG_OK;
}

static fg_factor_opts opts_of(const fg_factor_opts *like, fg_factor_algo algo)
{
    fg_factor_opts o = fg_factor_opts_default(algo, like->bias);
    o.rank = like->rank;
    o.seed = like->seed;
    o.max_epoch = like->max_epoch;
    o.patience = like->patience;
    o.min_gain = like->min_gain;
    o.file_order = like->file_order;
    return o;
}

/* Half the budget for each aim; each takes the best of all trials by its own. */
static fg_status add_tuned(fg_contest *c, const fg_hdi *train, const fg_hdi *valid,
                           const fg_factor_opts *o, uint64_t budget, const fg_factor_machine *on,
                           fg_factor_tuning_fn *progress, void *ctx, fg_err *err)
{
    static const fg_contest_kind kind[] = {FG_CONTEST_ACCURATE, FG_CONTEST_FAST};
    fg_factor_tuning t = {0};
    fg_status st = FG_OK;
    for (int i = 0; st == FG_OK && i < 2; i++) {
        st = fg_factor_tune(&t, train, valid, o, (budget - t.passes) / (2u - (unsigned)i),
                            cost_of[kind[i]], &on->k, on->team, progress, ctx, err);
    }
    for (int i = 0; st == FG_OK && i < 2; i++) {
        fg_factor_opts best = *o;
        const fg_factor_trial *trial = fg_factor_tuning_best(&t, cost_of[kind[i]]);
        memcpy(best.param, trial->param, sizeof best.param);
        st = add(c, kind[i], &best, t.passes, err);
    }
    if (st == FG_EINVAL) { /* all its runs diverged */
        *err = (fg_err){0};
        st = FG_OK;
    }
    fg_factor_tuning_fini(&t);
    return st;
}

fg_status fg_contest_create(fg_contest **out, uint32_t n_split, const fg_hdi *train,
                            const fg_hdi *valid, const fg_factor_opts *o, uint64_t budget,
                            const fg_factor_machine *on, fg_factor_tuning_fn *progress, void *ctx,
                            fg_err *err)
{
    *out = NULL;
    if (budget > 0 && budget < 2 * FG_FACTOR_LEAST_BUDGET) {
        return fg_fail(err, FG_EINVAL, "budget: %" PRIu64 " passes, expected 0 or at least %d",
                       budget, 2 * FG_FACTOR_LEAST_BUDGET);
    }
    fg_contest *c = *out = fg_mem_zalloc(sizeof *c);
    if (c == NULL) return fg_fail_nomem(err, "contest");
    c->n_split = n_split;
    c->rival = c->sgd = c->decay = UINT32_MAX;
    fg_status st = FG_OK;
    for (unsigned a = 0; st == FG_OK && a < FG_ALGO_COUNT; a++) {
        const fg_factor_opts own = opts_of(o, (fg_factor_algo)a);
        st = budget == 0 ? add(c, FG_CONTEST_DEFAULT, &own, 0, err)
                         : add_tuned(c, train, valid, &own, budget, on, progress, ctx, err);
    }
    static const fg_factor_algo swarms[] = {FG_ALGO_SGD, FG_ALGO_NPID};
    for (unsigned i = 0; st == FG_OK && budget > 0 && i < 2; i++) {
        const fg_factor_opts own = opts_of(o, swarms[i]);
        st = add(c, FG_CONTEST_SWARM, &own, 0, err);
    }
    if (st != FG_OK) fg_contest_destroy(out);
    return st;
}

void fg_contest_destroy(fg_contest **pc)
{
    fg_contest *c = *pc;
    *pc = NULL;
    if (c == NULL) return;
    for (uint32_t i = 0; i < c->n; i++) {
        for (uint32_t s = 0; s < c->n_split; s++) fg_factor_run_fini(&c->of[i].result[s].run);
        fg_mem_free(c->of[i].result);
    }
    fg_mem_free(c);
}

static fg_status run_one(const fg_contestant *of, fg_contest_result *to, const fg_hdi part[3],
                         const fg_visits *test, uint64_t seed, const fg_factor_machine *on,
                         fg_factor_progress_fn *progress, void *ctx, fg_err *err)
{
    fg_factor_run *r = &to->run;
    fg_factor_opts o = of->opts;
    o.seed = seed;
    fg_status st =
        of->kind == FG_CONTEST_SWARM
            ? fg_factor_train_swarm(r, &part[0], &part[1], &o, FG_CONTEST_PARTICLES, &on->k, NULL,
                                    progress, ctx, err)
            : fg_factor_train(r, &part[0], &part[1], &o, &on->k, NULL, progress, ctx, err);
    if (st == FG_EINVAL) { /* its steps are too large for these ratings */
        to->diverged = true;
        *err = (fg_err){0};
        return FG_OK;
    }
    FG_TRY(st);
    FG_TRY(fg_factor_judge(r->model, test, &on->k, NULL, &to->test, err));
    fg_factor_model_destroy(&r->model);
    to->valid_rmse = r->best_rmse;
    to->epochs = r->best;
    to->passes = r->n_epoch;
    to->seconds = fg_factor_pass_seconds(r, r->best);
    to->diverged = r->diverged;
    return FG_OK;
}

fg_status fg_contest_run(fg_contest *c, uint32_t at, const fg_hdi part[3], uint64_t seed,
                         const fg_factor_machine *on, fg_factor_progress_fn *progress, void *ctx,
                         fg_err *err)
{
    fg_visits test = {0};
    fg_status st = fg_visits_list(&test, &part[2], err);
    for (uint32_t i = 0; st == FG_OK && i < c->n; i++) {
        st = run_one(&c->of[i], &c->of[i].result[at], part, &test, seed, on, progress, ctx, err);
    }
    fg_visits_fini(&test);
    return st;
}

/* ---- conclusions ---- */

static double deviation(double sum, double squares, double n)
{
    return n > 1.0 ? sqrt(fmax(0.0, squares - sum * sum / n) / (n - 1.0)) : 0.0;
}

fg_contest_mean fg_contest_mean_of(const fg_contest *c, uint32_t i)
{
    fg_contest_mean m = {0};
    double rmse2 = 0.0, mae2 = 0.0;
    for (uint32_t s = 0; s < c->n_split; s++) {
        const fg_contest_result *r = &c->of[i].result[s];
        if (r->diverged) continue;
        m.n++;
        m.rmse += r->test.rmse;
        m.mae += r->test.mae;
        rmse2 += r->test.rmse * r->test.rmse;
        mae2 += r->test.mae * r->test.mae;
        m.valid_rmse += r->valid_rmse;
        m.epochs += r->epochs;
        m.passes += r->passes;
        m.seconds += r->seconds;
    }
    const double n = m.n > 0 ? m.n : 1;
    m.rmse_dev = deviation(m.rmse, rmse2, n);
    m.mae_dev = deviation(m.mae, mae2, n);
    double *const mean[] = {&m.rmse, &m.mae, &m.valid_rmse, &m.epochs, &m.passes, &m.seconds};
    for (size_t k = 0; k < sizeof mean / sizeof mean[0]; k++) *mean[k] /= n;
    return m;
}

double fg_student_p(double t, uint32_t n)
{
    /* Abramowitz and Stegun 26.7.3 and 26.7.4: finite sums for whole n. */
    const double theta = atan(fabs(t) / sqrt((double)n)), c = cos(theta);
    double sum = 0.0, term = n % 2 == 1 ? c : 1.0;
    for (uint32_t k = n % 2 == 1 ? 1 : 0; k + 2 <= n; k += 2) {
        sum += term;
        term *= c * c * (double)(k + 1) / (double)(k + 2);
    }
    const double inner = n % 2 == 1 ? (theta + sin(theta) * sum) / acos(0.0) : sin(theta) * sum;
    return fmax(0.0, 1.0 - inner);
}

fg_contest_pair fg_contest_pair_of(const fg_contest *c, uint32_t i, uint32_t to)
{
    fg_contest_pair p = {.p = (double)NAN};
    double squares = 0.0;
    for (uint32_t s = 0; s < c->n_split; s++) {
        const fg_contest_result *a = &c->of[i].result[s], *b = &c->of[to].result[s];
        if (a->diverged || b->diverged) continue;
        const double d = a->test.rmse - b->test.rmse;
        p.n++;
        p.wins += d < 0.0;
        p.difference += d;
        squares += d * d;
        const uint32_t met = fg_factor_epochs_to(&a->run, b->valid_rmse);
        if (met == 0) continue;
        const double ratio = (double)met / b->epochs;
        p.n_reached++;
        p.epochs += ratio;
        p.epochs_to += met;
        p.worst_epochs = fmax(p.worst_epochs, ratio);
        p.seconds += fg_factor_pass_seconds(&a->run, met) / b->seconds;
    }
    p.deviation = deviation(p.difference, squares, p.n);
    p.difference /= p.n > 0 ? p.n : 1;
    if (p.n > 1 && i != to) {
        const double error = p.deviation / sqrt(p.n);
        p.p = error > 0.0 ? fg_student_p(p.difference / error, p.n - 1) : p.difference == 0.0;
    }
    const double n = p.n_reached > 0 ? p.n_reached : 1;
    p.epochs /= n;
    p.epochs_to /= n;
    p.seconds /= n;
    return p;
}

/* A plain algorithm that took part in every split. */
static bool is_rival(const fg_contest *c, uint32_t i)
{
    return c->of[i].opts.algo <= FG_ALGO_ADAM && c->of[i].kind != FG_CONTEST_SWARM &&
           fg_contest_mean_of(c, i).n == c->n_split;
}

static uint32_t most_accurate(const fg_contest *c, fg_factor_algo from, fg_factor_algo to)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < c->n; i++) {
        if (!is_rival(c, i) || c->of[i].opts.algo < from || c->of[i].opts.algo > to) continue;
        if (best == UINT32_MAX ||
            fg_contest_mean_of(c, i).valid_rmse < fg_contest_mean_of(c, best).valid_rmse) {
            best = i;
        }
    }
    return best;
}

void fg_contest_conclude(fg_contest *c)
{
    c->sgd = most_accurate(c, FG_ALGO_SGD, FG_ALGO_SGD);
    c->decay = most_accurate(c, FG_ALGO_SGD_DECAY, FG_ALGO_SGD_DECAY);
    c->rival = most_accurate(c, FG_ALGO_SGD, FG_ALGO_ADAM);
    if (c->rival == UINT32_MAX) return;
    const double bound = fg_contest_mean_of(c, c->rival).valid_rmse + near_best;
    for (uint32_t i = 0; i < c->n; i++) {
        const fg_contest_mean m = fg_contest_mean_of(c, i);
        if (is_rival(c, i) && m.valid_rmse <= bound &&
            m.epochs < fg_contest_mean_of(c, c->rival).epochs) {
            c->rival = i;
        }
    }
}

uint32_t fg_contest_best(const fg_contest *c, fg_factor_algo algo, uint32_t to)
{
    uint32_t best = UINT32_MAX;
    fg_contest_pair least = {0};
    for (uint32_t i = 0; i < c->n; i++) {
        if (c->of[i].opts.algo != algo || c->of[i].kind == FG_CONTEST_SWARM) continue;
        const fg_contest_pair p = fg_contest_pair_of(c, i, to);
        if (best == UINT32_MAX || p.n_reached > least.n_reached ||
            (p.n_reached == least.n_reached && p.epochs < least.epochs)) {
            best = i;
            least = p;
        }
    }
    return best;
}
