/* SPDX-License-Identifier: MIT */
#include "src/factor/swarm.h"

#include <math.h>
#include <string.h>

static double inside(double x)
{
    return fmin(1.0, fmax(0.0, x));
}

void fg_swarm_start(fg_swarm *s, uint32_t n, uint32_t n_dim, const double *start, double spread,
                    uint64_t seed)
{
    *s = (fg_swarm){.n = n, .n_dim = n_dim, .best_fitness = -(double)INFINITY};
    fg_rng_init(&s->rng, seed);
    for (uint32_t i = 0; i < n; i++) {
        s->own_fitness[i] = -(double)INFINITY;
        for (uint32_t k = 0; k < n_dim; k++) {
            const double off = spread * (2.0 * fg_rng_f64(&s->rng) - 1.0);
            s->x[i][k] = inside(start[k] + (i == 0 ? 0.0 : off));
        }
    }
}

void fg_swarm_tell(fg_swarm *s, uint32_t at, double fitness)
{
    if (fitness > s->own_fitness[at]) {
        s->own_fitness[at] = fitness;
        memcpy(s->own[at], s->x[at], sizeof s->own[at]);
    }
    if (fitness > s->best_fitness) {
        s->best_fitness = fitness;
        memcpy(s->best, s->x[at], sizeof s->best);
    }
}

void fg_swarm_move(fg_swarm *s, uint32_t at)
{
    double *x = s->x[at], *v = s->v[at];
    const double *own = s->own_fitness[at] > -(double)INFINITY ? s->own[at] : x;
    const double *best = s->best_fitness > -(double)INFINITY ? s->best : x;
    for (uint32_t k = 0; k < s->n_dim; k++) {
        const double r1 = fg_rng_f64(&s->rng), r2 = fg_rng_f64(&s->rng);
        const double drawn =
            FG_SWARM_DRAW * r1 * (own[k] - x[k]) + FG_SWARM_DRAW * r2 * (best[k] - x[k]);
        v[k] = fmin(FG_SWARM_SPEED, fmax(-FG_SWARM_SPEED, FG_SWARM_INERTIA * v[k] + drawn));
        const double to = x[k] + v[k];
        x[k] = inside(to);
        if (x[k] != to) v[k] = 0.0;
    }
}

double fg_swarm_share(double before, double after, double round_before, double round_after)
{
    const double gain = round_after - round_before;
    return gain == 0.0 ? 0.0 : (after - before) / gain;
}
