/* SPDX-License-Identifier: MIT
 *
 * The kernels of latent factors, written once over v8 and compiled by one tiny file a level, which
 * defines FG_LEVEL(op) first.  Eight entries go together: their eight dot products are joined by
 * one transposing sum, and the controllers of factor_math.h have a lane for each.  With entries one
 * by one the full ADS would take four times as long as SGD, since each waits for the last one's
 * chain of roots and quotients.
 */
#ifndef FG_SIMD_FACTOR_BODY_H
#define FG_SIMD_FACTOR_BODY_H

#ifndef FG_LEVEL /* alone, the header still compiles */
#define FG_LEVEL(op) fg_##op##__scalar
#endif

#include "simd/factor_math.h"
#include "simd/kernels_decl.h"

V8_FN size_t factor_used(const fg_factor_group *g)
{
    size_t n = FG_FACTOR_LANES;
    while (n > 0 && g->row[n - 1] == FG_FACTOR_NONE) n--;
    return n;
}

V8_FN void factor_fetch(const fg_factor_job *j, const fg_factor_group *g, size_t nv)
{
    for (size_t i = 0; i < FG_FACTOR_LANES; i++) {
        if (g->row[i] == FG_FACTOR_NONE) return;
        const float *x = j->x + g->row[i] * j->stride, *y = j->y + g->col[i] * j->stride;
        for (size_t k = 0; k < 8 * nv; k += 16) {
            __builtin_prefetch(x + k, 1, 3);
            __builtin_prefetch(y + k, 1, 3);
        }
    }
}

/* r^ of the group's entries; 0, or the mean, where there is none. */
V8_FN v8 factor_guess(const fg_factor_job *j, const fg_factor_group *g, size_t n, size_t nv)
{
    v8 acc[FG_FACTOR_LANES];
    float b[FG_FACTOR_LANES] = {0};
    for (size_t i = 0; i < FG_FACTOR_LANES; i++) {
        if (i >= n) {
            acc[i] = v8_set1(0.0f);
            continue;
        }
        const float *x = j->x + g->row[i] * j->stride, *y = j->y + g->col[i] * j->stride;
        v8 a = v8_mul(v8_load(x), v8_load(y));
        for (size_t k = 1; k < nv; k++) a = v8_fma(v8_load(x + 8 * k), v8_load(y + 8 * k), a);
        acc[i] = a;
        if (j->bx != NULL) b[i] = j->bx[g->row[i]] + j->by[g->col[i]];
    }
    const v8 p = v8_sums(acc);
    return j->bx == NULL ? p : v8_add(v8_add(v8_set1(j->mean), v8_load(b)), p);
}

V8_FN v8 factor_refine(const fg_factor_job *j, const fg_factor_fixed *f, const fg_factor_group *g,
                       v8 rh, float *state)
{
    const v8 r = v8_load(g->value), e = v8_sub(r, rh);
    switch (j->rule) {
    case FG_FACTOR_PSL: return fg_refine_psl(e, state, j);
    case FG_FACTOR_NPID: return fg_refine_npid(e, state, j);
    case FG_FACTOR_ADS: return fg_refine_ads(r, rh, state, j, f);
    case FG_FACTOR_ADS_CHEAP: return fg_refine_cheap(r, rh, state, j, f);
    default: return e;
    }
}

/* x += eta (e y - lambda x) and the same of y, from the old values of both. */
V8_FN void factor_step(const fg_factor_job *j, float *x, float *y, float ge, size_t nv)
{
    const v8 g = v8_set1(ge), keep = v8_set1(j->keep);
    for (size_t k = 0; k < 8 * nv; k += 8) {
        const v8 a = v8_load(x + k), b = v8_load(y + k);
        v8_store(x + k, v8_fma(g, b, v8_mul(keep, a)));
        v8_store(y + k, v8_fma(g, a, v8_mul(keep, b)));
    }
}

/* One vector of a row with moments: d is its gradient, step adam's corrected step. */
V8_FN v8 factor_moment(const fg_factor_job *j, v8 x, v8 d, float *m, float step)
{
    const v8 eta = v8_set1(j->eta), eps = v8_set1(j->gain.moment.eps);
    const v8 b1 = v8_set1(j->gain.moment.beta1), b2 = v8_set1(j->gain.moment.beta2);
    if (j->rule == FG_FACTOR_MOMENTUM) {
        const v8 v = v8_fma(eta, d, v8_mul(b1, v8_load(m)));
        v8_store(m, v);
        return v8_add(x, v);
    }
    if (j->rule == FG_FACTOR_ADAGRAD) {
        const v8 v = v8_fma(d, d, v8_load(m));
        v8_store(m, v);
        return v8_add(x, v8_div(v8_mul(eta, d), v8_add(v8_sqrt(v), eps)));
    }
    const v8 one = v8_set1(1.0f);
    const v8 a = v8_fma(v8_sub(one, b1), d, v8_mul(b1, v8_load(m)));
    const v8 q = v8_mul(v8_sub(one, b2), v8_mul(d, d));
    const v8 v = v8_fma(b2, v8_load(m + j->stride), q);
    v8_store(m, a);
    v8_store(m + j->stride, v);
    return v8_add(x, v8_div(v8_mul(v8_set1(step), a), v8_add(v8_sqrt(v), eps)));
}

/* Adam's step for a row: both moments start at 0, and how often it was visited stands behind
 * them as beta1^visits and beta2^visits. */
V8_FN float factor_adam_step(const fg_factor_job *j, float *m)
{
    if (j->rule != FG_FACTOR_ADAM) return 0.0f;
    float *p = m + 2 * j->stride;
    if (p[2] == 0.0f) {
        p[0] = p[1] = p[2] = 1.0f;
    }
    p[0] = p[0] * j->gain.moment.beta1;
    p[1] = p[1] * j->gain.moment.beta2;
    return j->eta * sqrtf(1.0f - p[1]) / (1.0f - p[0]);
}

V8_FN void factor_step_moments(const fg_factor_job *j, uint32_t row, uint32_t col, float e,
                               size_t nv)
{
    float *x = j->x + row * j->stride, *y = j->y + col * j->stride;
    float *mx = j->mx + row * j->moment_stride, *my = j->my + col * j->moment_stride;
    const float sx = factor_adam_step(j, mx), sy = factor_adam_step(j, my);
    const v8 ve = v8_set1(e), lambda = v8_set1(-j->lambda);
    for (size_t k = 0; k < 8 * nv; k += 8) {
        const v8 a = v8_load(x + k), b = v8_load(y + k);
        const v8 da = v8_fma(ve, b, v8_mul(lambda, a)), db = v8_fma(ve, a, v8_mul(lambda, b));
        v8_store(x + k, factor_moment(j, a, da, mx + k, sx));
        v8_store(y + k, factor_moment(j, b, db, my + k, sy));
    }
}

/* nv and n are constants where it matters. */
V8_FN void factor_learn(const fg_factor_job *j, const fg_factor_fixed *f, const fg_factor_group *g,
                        float *state, size_t n, size_t nv)
{
    float e[FG_FACTOR_LANES] = {0}, gb[FG_FACTOR_LANES] = {0}, ge[FG_FACTOR_LANES];
    const v8 refined = factor_refine(j, f, g, factor_guess(j, g, n, nv), state);
    if (j->mx != NULL) v8_store(e, refined);
    if (j->bx != NULL) v8_store(gb, v8_mul(v8_set1(j->eta_bias), refined));
    v8_store(ge, v8_mul(v8_set1(j->eta), refined));
    for (size_t i = 0; i < n; i++) {
        const uint32_t row = g->row[i], col = g->col[i];
        if (j->mx != NULL) {
            factor_step_moments(j, row, col, e[i], nv);
        } else {
            factor_step(j, j->x + row * j->stride, j->y + col * j->stride, ge[i], nv);
        }
        if (j->bx == NULL) continue;
        j->bx[row] = j->keep_bias * j->bx[row] + gb[i];
        j->by[col] = j->keep_bias * j->by[col] + gb[i];
    }
}

/* A group that is not full, as few are: once for all ranks. */
static __attribute__((noinline, unused)) void factor_learn_some(const fg_factor_job *j,
                                                                const fg_factor_fixed *f,
                                                                const fg_factor_group *g,
                                                                float *state)
{
    factor_learn(j, f, g, state, factor_used(g), j->stride / 8);
}

V8_FN void factor_pass_of(const fg_factor_job *j, const fg_factor_group *g, size_t n_group,
                          float *state, size_t nv)
{
    const size_t n_state = FG_FACTOR_LANES * fg_factor_n_state(j->rule);
    const fg_factor_fixed fixed = fg_factor_fixed_of(j);
    for (size_t i = 0; i < n_group; i++, state += n_state) {
        if (i + 1 < n_group) factor_fetch(j, g + i + 1, nv);
        if (g[i].row[FG_FACTOR_LANES - 1] != FG_FACTOR_NONE) {
            factor_learn(j, &fixed, g + i, state, FG_FACTOR_LANES, nv);
        } else {
            factor_learn_some(j, &fixed, g + i, state);
        }
    }
}

/* A function a number of vectors, so that loops over a row dissolve. */
#define FACTOR_EACH(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
_Static_assert(FG_FACTOR_MAX_RANK == 8 * 8, "a case a number of vectors");

void FG_LEVEL(factor_pass)(const fg_factor_job *j, const fg_factor_group *g, size_t n_group,
                           float *state)
{
    switch (j->stride / 8) {
#define FACTOR_CASE(nv)                                                                            \
    case nv: factor_pass_of(j, g, n_group, state, nv); break;
        FACTOR_EACH(FACTOR_CASE)
#undef FACTOR_CASE
    default: break;
    }
}

void FG_LEVEL(factor_predict)(const fg_factor_job *j, const fg_factor_group *g, size_t n_group,
                              float *out)
{
    const size_t nv = j->stride / 8;
    for (size_t i = 0; i < n_group; i++) {
        if (i + 1 < n_group) factor_fetch(j, g + i + 1, nv);
        v8_store(out + FG_FACTOR_LANES * i, factor_guess(j, g + i, factor_used(g + i), nv));
    }
}

#endif
