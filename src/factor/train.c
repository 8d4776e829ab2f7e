/* SPDX-License-Identifier: MIT */
#include "src/factor/train.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/sys/cpu.h"

struct fg_factor_trainer {
    fg_factor_model *model;
    const fg_factor_algorithm *algorithm;
    fg_kernels k;
    fg_team *team;
    fg_visits grid;
    float *state; /* [n_group][n_state][8], all entries' in one array */
    size_t n_state;
    float *mx, *my;
    size_t moment_stride;
    fg_factor_job job; /* of the pass that runs */
    uint64_t n_pass;
};

fg_status fg_factor_machine_open(fg_factor_machine *m, uint32_t n_thread, fg_err *err)
{
    *m = (fg_factor_machine){0};
    fg_kernels_init(&m->k, fg_cpu_detect());
    return fg_team_create(&m->team, n_thread, false, err);
}

void fg_factor_machine_close(fg_factor_machine *m)
{
    fg_team_destroy(&m->team);
}

static size_t moment_floats(fg_factor_rule rule, size_t stride)
{
    switch (rule) {
    case FG_FACTOR_MOMENTUM:
    case FG_FACTOR_ADAGRAD: return stride;
    case FG_FACTOR_ADAM: return 2 * stride + FG_FACTOR_LANES;
    default: return 0;
    }
}

static fg_status create_state(fg_factor_trainer *t, fg_err *err)
{
    const fg_factor_rule rule = t->algorithm->rule;
    t->n_state = fg_factor_n_state(rule) * FG_FACTOR_LANES;
    t->moment_stride = moment_floats(rule, t->model->stride);
    if (t->n_state > 0) {
        uint64_t n;
        if (!fg_mul_u64(t->grid.n_group, t->n_state, &n)) return fg_fail_nomem(err, "states");
        t->state = fg_mem_zalloc_array((size_t)n + 1, sizeof *t->state);
        if (t->state == NULL) return fg_fail_nomem(err, "states of entries");
    }
    if (t->moment_stride > 0) {
        t->mx = fg_mem_zalloc_array((size_t)t->model->n_row * t->moment_stride, sizeof *t->mx);
        t->my = fg_mem_zalloc_array((size_t)t->model->n_col * t->moment_stride, sizeof *t->my);
        if (t->mx == NULL || t->my == NULL) return fg_fail_nomem(err, "moments");
    }
    return FG_OK;
}

/* taken: NULL, or train, to be used up. */
static fg_status create(fg_factor_trainer **out, const fg_hdi *train, fg_hdi *taken,
                        const fg_factor_opts *o, const fg_kernels *k, fg_team *team, fg_err *err)
{
    *out = NULL;
    FG_TRY(fg_factor_opts_check(o, err));
    fg_factor_trainer *t = fg_mem_zalloc(sizeof *t);
    if (t == NULL) return fg_fail_nomem(err, "trainer");
    *out = t;
    t->algorithm = fg_factor_algorithm_get(o->algo);
    t->k = *k;
    t->team = o->file_order ? NULL : team;
    fg_status st = fg_factor_model_create(&t->model, train, o, err);
    if (st == FG_OK && taken == NULL) {
        st = fg_visits_make(&t->grid, train, o->seed, o->file_order, err);
    } else if (st == FG_OK) {
        st = fg_visits_take(&t->grid, taken, o->seed, o->file_order, err);
    }
    if (st == FG_OK) st = create_state(t, err);
    if (st != FG_OK) fg_factor_trainer_destroy(out);
    return st;
}

fg_status fg_factor_trainer_create(fg_factor_trainer **out, const fg_hdi *train,
                                   const fg_factor_opts *o, const fg_kernels *k, fg_team *team,
                                   fg_err *err)
{
    return create(out, train, NULL, o, k, team, err);
}

void fg_factor_trainer_destroy(fg_factor_trainer **pt)
{
    fg_factor_trainer *t = *pt;
    *pt = NULL;
    if (t == NULL) return;
    fg_factor_model_destroy(&t->model);
    fg_visits_fini(&t->grid);
    fg_mem_free(t->state);
    fg_mem_free(t->mx);
    fg_mem_free(t->my);
    fg_mem_free(t);
}

const fg_factor_model *fg_factor_trainer_model(const fg_factor_trainer *t)
{
    return t->model;
}

uint64_t fg_factor_trainer_bytes(const fg_factor_trainer *t)
{
    const uint64_t moments = ((uint64_t)t->model->n_row + t->model->n_col) * t->moment_stride;
    return t->grid.n_group * (sizeof *t->grid.group + t->n_state * sizeof *t->state) +
           moments * sizeof *t->mx;
}

static void pass_block(const fg_factor_trainer *t, uint64_t b)
{
    const uint64_t at = t->grid.start[b];
    t->k.factor_pass(&t->job, t->grid.group + at, t->grid.start[b + 1] - at,
                     t->state == NULL ? NULL : t->state + at * t->n_state);
}

static void pass_on(fg_worker *w, void *arg)
{
    const fg_factor_trainer *t = arg;
    const uint32_t n = t->grid.n_strip;
    for (uint32_t round = 0; round < n; round++) {
        uint64_t begin, end;
        while (fg_worker_take_items(w, n, &begin, &end)) {
            for (uint64_t i = begin; i < end; i++) pass_block(t, round * n + i);
        }
        fg_worker_sync(w);
    }
}

void fg_factor_trainer_pass(fg_factor_trainer *t, const double *param)
{
    const double eta = param[FG_PARAM_ETA] / (1.0 + param[FG_PARAM_DECAY] * (double)t->n_pass);
    const double eta_bias =
        param[FG_PARAM_ETA_BIAS] / (1.0 + param[FG_PARAM_DECAY] * (double)t->n_pass);
    t->job = fg_factor_model_job(t->model);
    t->job.rule = t->algorithm->rule;
    for (uint32_t i = FG_PARAM_GAIN; i < t->algorithm->n_param; i++) {
        t->job.gain.v[i - FG_PARAM_GAIN] = (float)param[i];
    }
    t->job.mx = t->mx;
    t->job.my = t->my;
    t->job.moment_stride = t->moment_stride;
    t->job.eta = (float)eta;
    t->job.lambda = (float)param[FG_PARAM_LAMBDA];
    t->job.keep = (float)(1.0 - eta * param[FG_PARAM_LAMBDA]);
    t->job.eta_bias = (float)eta_bias;
    t->job.keep_bias = (float)(1.0 - eta_bias * param[FG_PARAM_LAMBDA_BIAS]);
    t->job.first = t->n_pass++ == 0;
    if (t->team != NULL && t->grid.n_strip > 1) {
        fg_team_run(t->team, pass_on, t);
        return;
    }
    for (uint64_t b = 0; b < (uint64_t)t->grid.n_strip * t->grid.n_strip; b++) pass_block(t, b);
}

/* ---- until it no longer pays ---- */

void fg_factor_run_fini(fg_factor_run *r)
{
    fg_factor_model_destroy(&r->model);
    fg_mem_free(r->curve);
    *r = (fg_factor_run){0};
}

uint32_t fg_factor_epochs_to(const fg_factor_run *r, double rmse)
{
    for (uint32_t i = 0; i < r->n_epoch; i++) {
        if (r->curve[i].rmse <= rmse) return i + 1;
    }
    return 0;
}

static double seconds_since(uint64_t ns)
{
    return 1e-9 * (double)(fg_clock_ns() - ns);
}

static int compare_doubles(const void *pa, const void *pb)
{
    const double a = *(const double *)pa, b = *(const double *)pb;
    return (a > b) - (a < b);
}

double fg_factor_pass_seconds(const fg_factor_run *r, uint32_t epochs)
{
    double *pass = fg_mem_zalloc_array((size_t)r->n_epoch + 1, sizeof *pass);
    double median = r->n_epoch == 0 ? 0.0 : r->pass_seconds / r->n_epoch;
    if (pass != NULL && r->n_epoch > 0) {
        for (uint32_t i = 0; i < r->n_epoch; i++) pass[i] = r->curve[i].pass;
        qsort(pass, r->n_epoch, sizeof *pass, compare_doubles);
        median = pass[r->n_epoch / 2];
    }
    fg_mem_free(pass);
    return median * epochs;
}

typedef struct training {
    fg_factor_run *run;
    fg_factor_trainer *t;
    fg_visits valid;
    fg_factor_opts o;
    uint64_t start; /* clock */
    uint32_t last_gain;
    double gained;
} training;

/* One epoch and its error; last_gain is the epoch of the last gain of min_gain over the one
 * before, since slow gains add up where a start is flat: with biases and small factors it is a
 * saddle. */
static fg_status run_epoch(training *c, fg_err *err)
{
    fg_factor_run *r = c->run;
    fg_factor_score s;
    const uint64_t begin = fg_clock_ns();
    fg_factor_trainer_pass(c->t, c->o.param);
    const double pass = seconds_since(begin);
    r->pass_seconds += pass;
    FG_TRY(fg_factor_judge(c->t->model, &c->valid, &c->t->k, c->t->team, &s, err));
    if (!fg_mem_grow((void **)&r->curve, &r->cap, r->n_epoch + 1, sizeof *r->curve)) {
        return fg_fail_nomem(err, "errors of epochs");
    }
    r->curve[r->n_epoch++] = (fg_factor_point){s.rmse, seconds_since(c->start), pass};
    r->diverged = !(s.rmse < 1e6);
    if (c->last_gain == 0 || s.rmse < c->gained - c->o.min_gain) {
        c->last_gain = r->n_epoch;
        c->gained = s.rmse;
    }
    if (!r->diverged && (r->best == 0 || s.rmse < r->best_rmse)) {
        r->best = r->n_epoch;
        r->best_rmse = s.rmse;
        r->best_mae = s.mae;
        fg_factor_model_copy(r->model, c->t->model);
    }
    return FG_OK;
}

static bool goes_on(const training *c, fg_factor_steer_fn *steer)
{
    const fg_factor_run *r = c->run;
    return r->n_epoch < c->o.max_epoch && !r->diverged &&
           (steer != NULL || r->n_epoch - c->last_gain < c->o.patience);
}

/* Who steers, and who watches. */
typedef struct guides {
    fg_factor_steer_fn *steer;
    void *steer_ctx;
    fg_factor_progress_fn *progress;
    void *ctx;
} guides;

static fg_status run_all(training *c, const guides *by, fg_err *err)
{
    fg_status st = FG_OK;
    c->start = fg_clock_ns();
    while (st == FG_OK && goes_on(c, by->steer)) {
        if (by->steer != NULL && !by->steer(by->steer_ctx, c->run, c->o.param)) break;
        st = run_epoch(c, err);
        if (st == FG_OK && by->progress != NULL && !by->progress(by->ctx, c->run)) {
            st = fg_fail(err, FG_ECANCEL, "training: interrupted, expected to end");
        }
    }
    if (st == FG_OK && c->run->best == 0) {
        st = fg_fail(err, FG_EINVAL, "training: errors are not finite, expected smaller steps");
    }
    return st;
}

static fg_status train_by(fg_factor_run *out, const fg_hdi *train, fg_hdi *taken,
                          const fg_hdi *valid, const fg_factor_opts *o, const fg_kernels *k,
                          fg_team *team, const guides *by, fg_err *err)
{
    training c = {.run = out, .o = *o};
    *out = (fg_factor_run){0};
    FG_TRY(fg_factor_opts_check(o, err));
    if (valid->n == 0) {
        return fg_fail(err, FG_EINVAL, "validation: no entries, expected at least one");
    }
    if (valid->n_row > train->n_row || valid->n_col > train->n_col) {
        return fg_fail(err, FG_EINVAL, "validation: %u x %u, expected at most %u x %u",
                       valid->n_row, valid->n_col, train->n_row, train->n_col);
    }
    fg_status st = fg_factor_model_create(&out->model, train, o, err);
    if (st == FG_OK) st = create(&c.t, train, taken, o, k, team, err);
    if (st == FG_OK) st = fg_visits_list(&c.valid, valid, err);
    if (st == FG_OK) st = run_all(&c, by, err);
    fg_factor_trainer_destroy(&c.t);
    fg_visits_fini(&c.valid);
    if (st != FG_OK) fg_factor_run_fini(out);
    return st;
}

fg_status fg_factor_train(fg_factor_run *out, const fg_hdi *train, const fg_hdi *valid,
                          const fg_factor_opts *o, const fg_kernels *k, fg_team *team,
                          fg_factor_progress_fn *progress, void *ctx, fg_err *err)
{
    const guides by = {NULL, NULL, progress, ctx};
    return train_by(out, train, NULL, valid, o, k, team, &by, err);
}

fg_status fg_factor_train_taking(fg_factor_run *out, fg_hdi *train, const fg_hdi *valid,
                                 const fg_factor_opts *o, const fg_kernels *k, fg_team *team,
                                 fg_factor_progress_fn *progress, void *ctx, fg_err *err)
{
    const guides by = {NULL, NULL, progress, ctx};
    return train_by(out, train, train, valid, o, k, team, &by, err);
}

fg_status fg_factor_train_steered(fg_factor_run *out, const fg_hdi *train, const fg_hdi *valid,
                                  const fg_factor_opts *o, fg_factor_steer_fn *steer,
                                  void *steer_ctx, const fg_kernels *k, fg_team *team,
                                  fg_factor_progress_fn *progress, void *ctx, fg_err *err)
{
    const guides by = {steer, steer_ctx, progress, ctx};
    return train_by(out, train, NULL, valid, o, k, team, &by, err);
}
