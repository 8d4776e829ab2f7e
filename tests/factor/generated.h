/* SPDX-License-Identifier: MIT
 *
 * Ratings that may be given away: 900 users and 1600 items, popularity by Pareto (1.3, 1.1), eight
 * true factors N(0, .45^2), biases .4 and .5, noise .85 and 3 % outliers N(0, 2^2), rounded to
 * 1..5.
 */
#ifndef FG_TESTS_FACTOR_GENERATED_H
#define FG_TESTS_FACTOR_GENERATED_H

#include <math.h>
#include <stdlib.h>

#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/factor/hdi.h"

enum { RATINGS_USERS = 900, RATINGS_ITEMS = 1600, RATINGS_RANK = 8 };

static inline double ratings_normal(fg_rng *r)
{
    const double u = 1.0 - fg_rng_f64(r), v = fg_rng_f64(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

/* Adds entries of part i (0: 70 % to train, 1: 10 % valid, 2: 20 % test) of the ratings of a seed.
 * */
static inline void ratings_make(uint64_t seed, fg_hdi part[3])
{
    enum { USERS = RATINGS_USERS, ITEMS = RATINGS_ITEMS, F = RATINGS_RANK };
    static double p[USERS][F], q[ITEMS][F], bu[USERS], bi[ITEMS], wu[USERS], wi[ITEMS];
    fg_rng r;
    fg_rng_init(&r, seed);
    double su = 0.0, si = 0.0;
    for (int u = 0; u < USERS; u++) {
        for (int k = 0; k < F; k++) p[u][k] = .45 * ratings_normal(&r);
        bu[u] = .4 * ratings_normal(&r);
        su += wu[u] = fmin(pow(1.0 - fg_rng_f64(&r), -1.0 / 1.3), 60.0);
    }
    for (int i = 0; i < ITEMS; i++) {
        for (int k = 0; k < F; k++) q[i][k] = .45 * ratings_normal(&r);
        bi[i] = .5 * ratings_normal(&r);
        si += wi[i] = fmin(pow(1.0 - fg_rng_f64(&r), -1.0 / 1.1), 60.0);
    }
    fg_err err = {0};
    for (int h = 0; h < 3; h++) {
        part[h] = (fg_hdi){.n_row = USERS, .n_col = ITEMS};
    }
    for (int u = 0; u < USERS; u++) {
        for (int i = 0; i < ITEMS; i++) {
            if (fg_rng_f64(&r) >= 60000.0 * wu[u] / su * wi[i] / si) continue;
            double v = 3.5 + bu[u] + bi[i] + .85 * ratings_normal(&r);
            for (int k = 0; k < F; k++) v += p[u][k] * q[i][k];
            if (fg_rng_f64(&r) < .03) v += 2.0 * ratings_normal(&r);
            v = fmin(5.0, fmax(1.0, floor(v + .5)));
            const double to = fg_rng_f64(&r);
            fg_hdi *h = &part[to < .7 ? 0 : to < .8 ? 1 : 2];
            if (fg_hdi_add(h, (uint32_t)u, (uint32_t)i, (float)v, &err) != FG_OK) abort();
        }
    }
}

static inline void ratings_free(fg_hdi part[3])
{
    for (int h = 0; h < 3; h++) fg_hdi_fini(&part[h]);
}

#endif
