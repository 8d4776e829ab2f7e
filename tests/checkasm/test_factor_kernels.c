/* SPDX-License-Identifier: MIT
 *
 * The kernels of latent factors: every level against the scalar one, bit for bit, and that against
 * a computation in double that goes entry by entry.  Controls: a copy of the kernel whose observer
 * has a sign flipped, one whose entries share a state, and one that skips the last group.
 */
#include "tests/checkasm/checkasm.h"

#include "src/factor/algorithm.h"

enum { ROWS = 40, COLS = 30, GROUPS = 12, LANES = FG_FACTOR_LANES, PASSES = 4 };

typedef struct world {
    float x[ROWS * 64], y[COLS * 64], bx[ROWS], by[COLS];
    float mx[ROWS * 136], my[COLS * 136];
    float state[GROUPS * 6 * LANES], guess[GROUPS * LANES];
} world;

/* Distinct rows and columns in a group; the last group has three entries. */
static void make_groups(fg_rng *r, fg_factor_group *g)
{
    for (int i = 0; i < GROUPS; i++) {
        const uint32_t row = (uint32_t)(fg_rng_u64(r) % ROWS),
                       col = (uint32_t)(fg_rng_u64(r) % COLS);
        for (uint32_t k = 0; k < LANES; k++) {
            const bool used = i + 1 < GROUPS || k < 3;
            g[i].row[k] = used ? (row + 3 * k) % ROWS : FG_FACTOR_NONE;
            g[i].col[k] = used ? (col + k) % COLS : FG_FACTOR_NONE;
            g[i].value[k] = used ? (float)(1 + fg_rng_u64(r) % 5) : 0.0f;
        }
    }
}

static fg_factor_job make_job(world *w, fg_factor_algo algo, uint32_t rank, bool bias)
{
    const fg_factor_opts o = fg_factor_opts_default(algo, bias);
    const fg_factor_algorithm *a = fg_factor_algorithm_get(algo);
    const size_t stride = (rank + 7) / 8 * 8;
    fg_factor_job j = {.rule = a->rule, .stride = stride, .x = w->x, .y = w->y, .mean = 3.0f};
    for (uint32_t i = FG_PARAM_GAIN; i < a->n_param; i++) {
        j.gain.v[i - FG_PARAM_GAIN] = (float)o.param[i];
    }
    if (algo == FG_ALGO_ADS) j.gain.ads.b0 = .1f;
    if (bias) j.bx = w->bx, j.by = w->by;
    if (algo == FG_ALGO_MOMENTUM || algo == FG_ALGO_ADAGRAD || algo == FG_ALGO_ADAM) {
        j.mx = w->mx, j.my = w->my;
        j.moment_stride = algo == FG_ALGO_ADAM ? 2 * stride + 8 : stride;
    }
    j.eta = .03f, j.lambda = .1f, j.keep = 1.0f - .003f;
    j.eta_bias = .02f, j.keep_bias = 1.0f - .002f;
    return j;
}

static void fill_world(fg_rng *r, world *w, uint32_t rank)
{
    const size_t stride = (rank + 7) / 8 * 8;
    memset(w, 0, sizeof *w);
    for (size_t i = 0; i < ROWS * stride; i++) {
        if (i % stride < rank) w->x[i] = (float)(.6 * fg_rng_f64(r));
    }
    for (size_t i = 0; i < COLS * stride; i++) {
        if (i % stride < rank) w->y[i] = (float)(.6 * fg_rng_f64(r));
    }
    for (size_t i = 0; i < ROWS; i++) w->bx[i] = (float)(fg_rng_f64(r) - .5);
    for (size_t i = 0; i < COLS; i++) w->by[i] = (float)(fg_rng_f64(r) - .5);
}

static void run_kernels(world *w, fg_factor_algo algo, uint32_t rank, bool bias, uint64_t seed,
                        fg_factor_pass_fn *pass, fg_factor_predict_fn *predict)
{
    fg_rng r;
    fg_factor_group g[GROUPS];
    fg_rng_init(&r, seed);
    fill_world(&r, w, rank);
    make_groups(&r, g);
    fg_factor_job j = make_job(w, algo, rank, bias);
    for (int p = 0; p < PASSES; p++) {
        j.first = p == 0;
        pass(&j, g, GROUPS, w->state);
    }
    predict(&j, g, GROUPS, w->guess);
}

FG_TEST(levels_equal)
{
    static world want, got;
    const uint32_t ranks[] = {1, 8, 20, 24, 33, 64};
    size_t n = 0;
    for (size_t v = 0; v < N_VARIANTS; v++) {
        if (strcmp(variants[v].slot, "factor_pass") != 0 || variants[v].features == 0) continue;
        if (!runnable(&variants[v])) continue;
        fg_factor_predict_fn *predict = NULL;
        for (size_t i = 0; i < N_VARIANTS; i++) {
            if (strcmp(variants[i].slot, "factor_predict") == 0 &&
                variants[i].features == variants[v].features) {
                predict = (fg_factor_predict_fn *)variants[i].fn;
            }
        }
        REQUIRE(predict != NULL);
        for (int c = 0; c < FG_ALGO_COUNT * 2 * 6; c++) {
            const fg_factor_algo algo = (fg_factor_algo)(c / 12);
            const uint32_t rank = ranks[c / 2 % 6];
            run_kernels(&want, algo, rank, c % 2 == 1, (uint64_t)c, fg_factor_pass__scalar,
                        fg_factor_predict__scalar);
            run_kernels(&got, algo, rank, c % 2 == 1, (uint64_t)c,
                        (fg_factor_pass_fn *)variants[v].fn, predict);
            if (!same_floats((float *)&want, (float *)&got, sizeof want / sizeof(float))) {
                fg_test_fail(__FILE__, __LINE__, "%s: %s, rank %u, biases %d", variants[v].name,
                             fg_factor_algo_name(algo), rank, c % 2);
            }
            n++;
        }
    }
    printf("     %zu comparisons\n", n);
    if (n == 0) fg_test_skip("no level above the scalar one here");
}

/* ---- the reference in double ---- */

typedef enum fault { NO_FAULT, FLIPPED, SHARED, DROPPED } fault;

typedef struct exact {
    double x[ROWS][64], y[COLS][64], bx[ROWS], by[COLS];
    double mx[ROWS][130], my[COLS][130]; /* adam: m, v; visits are counted beside */
    double state[GROUPS * LANES][6];
    int nx[ROWS], ny[COLS];
} exact;

static double fal(double e, double alpha, double delta)
{
    if (fabs(e) <= delta) return e / pow(delta, 1.0 - alpha);
    return copysign(pow(fabs(e), alpha), e);
}

static double sgn(double x)
{
    return (double)((x > 0.0) - (x < 0.0));
}

static double fhan(double x1, double x2, double r0, double h)
{
    const double d = r0 * h * h, a0 = h * x2, y = x1 + a0, a1 = sqrt(d * (d + 8.0 * fabs(y)));
    const double a2 = a0 + sgn(y) * (a1 - d) / 2.0;
    const double sy = (sgn(y + d) - sgn(y - d)) / 2.0, a = (a0 + y - a2) * sy + a2;
    const double sa = (sgn(a + d) - sgn(a - d)) / 2.0;
    return -r0 * (a / d - sgn(a)) * sa - r0 * sgn(a);
}

static void observe(double rh, double u, double *z, double h, const float *b, double delta,
                    double b0)
{
    const double e = z[0] - rh, z1 = z[1], z2 = z[2];
    z[0] += h * (z1 - (double)b[0] * e);
    z[1] += h * (z2 - (double)b[1] * fal(e, .5, delta) + b0 * u);
    z[2] -= h * (double)b[2] * fal(e, .25, delta);
}

static double refine(const fg_factor_job *j, double r, double rh, double *s, fault f)
{
    const double e = r - rh;
    const float *g = j->gain.v;
    double flip = f == FLIPPED ? -1.0 : 1.0;
    switch (j->rule) {
    case FG_FACTOR_PSL:
    case FG_FACTOR_NPID: {
        if (j->first) s[0] = 0.0, s[1] = e;
        s[0] += e;
        double kp = (double)g[0], ki = (double)g[1], kd = (double)g[2];
        if (j->rule == FG_FACTOR_NPID) {
            kp = (double)g[0] + (double)g[1] * (1.0 - 1.0 / cosh((double)g[2] * e));
            ki = (double)g[3] / cosh((double)g[4] * e);
            kd = (double)g[5] + (double)g[6] / (1.0 + (double)g[7] * exp((double)g[8] * e));
        }
        const double out = kp * e + flip * ki * s[0] + kd * (e - s[1]);
        s[1] = e;
        return out;
    }
    case FG_FACTOR_ADS: {
        const double h = (double)g[0], delta = (double)g[9];
        if (j->first) {
            memset(s, 0, 6 * sizeof *s);
            s[0] = s[2] = rh;
        }
        const double fh = fhan(s[0] - r, s[1], (double)g[1], h);
        s[0] += h * s[1];
        s[1] += flip * h * fh;
        observe(rh, s[5], s + 2, h, g + 2, delta, (double)g[10]);
        s[5] = (double)g[5] * fal(s[0] - s[2], (double)g[7], delta) +
               (double)g[6] * fal(s[1] - s[3], (double)g[8], delta) - (double)g[11] * s[4];
        return s[5];
    }
    case FG_FACTOR_ADS_CHEAP:
        if (j->first) s[0] = rh, s[1] = s[2] = 0.0;
        observe(rh, 0.0, s, 1.0, g + 3, (double)g[6], 0.0);
        return (double)g[0] * fal(r - s[0], .75, (double)g[6]) - flip * (double)g[1] * s[1] -
               (double)g[2] * s[2];
    default: return flip * e;
    }
}

/* m: the moments of the row's element k. */
static double moved(const fg_factor_job *j, double x, double d, double *m, int k, int visits)
{
    const double eta = (double)j->eta, b1 = (double)j->gain.moment.beta1;
    const double b2 = (double)j->gain.moment.beta2, eps = (double)j->gain.moment.eps;
    if (j->mx == NULL) return x + eta * d;
    if (j->rule == FG_FACTOR_MOMENTUM) return x + (m[k] = b1 * m[k] + eta * d);
    if (j->rule == FG_FACTOR_ADAGRAD) {
        m[k] += d * d;
        return x + eta * d / (sqrt(m[k]) + eps);
    }
    m[k] = b1 * m[k] + (1.0 - b1) * d;
    m[65 + k] = b2 * m[65 + k] + (1.0 - b2) * d * d;
    const double step = eta * sqrt(1.0 - pow(b2, visits)) / (1.0 - pow(b1, visits));
    return x + step * m[k] / (sqrt(m[65 + k]) + eps);
}

static void exact_entry(exact *w, const fg_factor_job *j, uint32_t row, uint32_t col, double r,
                        double *s, uint32_t rank, fault f)
{
    double *x = w->x[row], *y = w->y[col], rh = 0.0;
    const double lambda = (double)j->lambda;
    for (uint32_t k = 0; k < rank; k++) rh += x[k] * y[k];
    if (j->bx != NULL) rh += (double)j->mean + w->bx[row] + w->by[col];
    const double e = refine(j, r, rh, s, f);
    w->nx[row]++;
    w->ny[col]++;
    for (uint32_t k = 0; k < rank; k++) {
        const double a = x[k], b = y[k];
        x[k] = moved(j, a, e * b - lambda * a, w->mx[row], (int)k, w->nx[row]);
        y[k] = moved(j, b, e * a - lambda * b, w->my[col], (int)k, w->ny[col]);
    }
    if (j->bx == NULL) return;
    w->bx[row] = (double)j->keep_bias * w->bx[row] + (double)j->eta_bias * e;
    w->by[col] = (double)j->keep_bias * w->by[col] + (double)j->eta_bias * e;
}

/* The largest difference of a factor between the scalar kernel and the reference. */
static double distance(fg_factor_algo algo, uint32_t rank, bool bias, fault f)
{
    static world w;
    static exact x;
    fg_rng r;
    fg_factor_group g[GROUPS];
    const size_t stride = (rank + 7) / 8 * 8;
    fg_rng_init(&r, 3 + rank);
    fill_world(&r, &w, rank);
    make_groups(&r, g);
    memset(&x, 0, sizeof x);
    for (size_t i = 0; i < ROWS * rank; i++) {
        x.x[i / rank][i % rank] = (double)w.x[i / rank * stride + i % rank];
    }
    for (size_t i = 0; i < COLS * rank; i++) {
        x.y[i / rank][i % rank] = (double)w.y[i / rank * stride + i % rank];
    }
    for (size_t i = 0; i < ROWS; i++) x.bx[i] = (double)w.bx[i];
    for (size_t i = 0; i < COLS; i++) x.by[i] = (double)w.by[i];
    run_kernels(&w, algo, rank, bias, 3 + rank, fg_factor_pass__scalar, fg_factor_predict__scalar);
    fg_factor_job j = make_job(&w, algo, rank, bias);
    for (int p = 0; p < PASSES; p++) {
        j.first = p == 0;
        for (int i = 0; i < GROUPS - (f == DROPPED); i++) {
            for (int k = 0; k < LANES && g[i].row[k] != FG_FACTOR_NONE; k++) {
                exact_entry(&x, &j, g[i].row[k], g[i].col[k], (double)g[i].value[k],
                            x.state[f == SHARED ? 0 : i * LANES + k], rank, f);
            }
        }
    }
    double worst = 0.0;
    for (size_t i = 0; i < ROWS * rank; i++) {
        const double got = (double)w.x[i / rank * stride + i % rank];
        worst = fg_test_worst(worst, fabs(x.x[i / rank][i % rank] - got));
    }
    for (size_t i = 0; i < ROWS; i++) {
        if (bias) worst = fg_test_worst(worst, fabs(x.bx[i] - (double)w.bx[i]));
    }
    return worst;
}

/* Some twenty visits of a factor, each with a few roundings of numbers below 4 (2^-23) that later
 * steps shrink: 1e-5 covers them; what a control changes must be more. */
FG_TEST(scalar_against_double)
{
    const uint32_t ranks[] = {3, 20, 64};
    const double bound = 1e-5;
    double worst = 0.0, least = 1e9;
    for (int a = 0; a < FG_ALGO_COUNT; a++) {
        const fg_factor_algo algo = (fg_factor_algo)a;
        const bool has_state = fg_factor_n_state(fg_factor_algorithm_get(algo)->rule) > 0;
        for (int c = 0; c < 6; c++) {
            const double d = distance(algo, ranks[c / 2], c % 2 == 1, NO_FAULT);
            worst = fg_test_worst(worst, d);
            CHECK_NEAR(d, 0.0, bound);
            for (int f = FLIPPED; f <= DROPPED; f++) {
                if (f == SHARED && !has_state) continue;
                const double far = distance(algo, ranks[c / 2], c % 2 == 1, (fault)f);
                if (far <= bound) { /* a control that diverges is seen, too */
                    fg_test_fail(__FILE__, __LINE__, "%s, fault %d: %g, expected to be seen",
                                 fg_factor_algo_name((unsigned)a), f, far);
                }
                if (far < least) least = far;
            }
        }
    }
    printf("     worst %.2g, least of a fault %.2g\n", worst, least);
}
