/* SPDX-License-Identifier: MIT
 *
 * Particle swarms: points that move through a unit cube, each drawn to the best place it has met
 * and to the best that any has met.  Positions have no meaning here (tune.c gives them one).
 *
 * Kennedy and Eberhart 1995 with inertia; weights are Clerc's and Kennedy's of 2002.
 */
#ifndef FG_SRC_FACTOR_SWARM_H
#define FG_SRC_FACTOR_SWARM_H

#include <stdint.h>

#include "src/base/rng.h"

enum { FG_SWARM_MAX = 16, FG_SWARM_DIMS = 24 };

#define FG_SWARM_INERTIA 0.729
#define FG_SWARM_DRAW    1.49445
#define FG_SWARM_SPEED   0.2 /* of the range, a move at most */

typedef struct fg_swarm {
    uint32_t n, n_dim;                       /* at most FG_SWARM_MAX, FG_SWARM_DIMS */
    double x[FG_SWARM_MAX][FG_SWARM_DIMS];   /* positions, 0 to 1 */
    double v[FG_SWARM_MAX][FG_SWARM_DIMS];   /* speeds */
    double own[FG_SWARM_MAX][FG_SWARM_DIMS]; /* where each was best */
    double own_fitness[FG_SWARM_MAX];
    double best[FG_SWARM_DIMS]; /* where any was best */
    double best_fitness;
    fg_rng rng;
} fg_swarm;

/* Particle 0 stands at `start`, the others around it, uniformly within `spread` (1: anywhere). */
void fg_swarm_start(fg_swarm *s, uint32_t n, uint32_t n_dim, const double *start, double spread,
                    uint64_t seed);
/* What place x[at] is worth; more is better. */
void fg_swarm_tell(fg_swarm *s, uint32_t at, double fitness);
/* Moves a particle: v = w v + c r1 (own - x) + c r2 (best - x), r1 and r2 new in each dimension;
 * then x = x + v, kept inside, where it comes to rest. */
void fg_swarm_move(fg_swarm *s, uint32_t at);

/* Fitness of the sequential swarm as the group publishes it (NPALF, arXiv 2208.02513; from memory
 * of related papers, the text could not be had): particles train one model in turn, and particle j
 * is worth its share of what the round gained, (G_j - G_j-1) / (G_q - G_0), where G_j is the
 * validation error after it and G_0 that before the round.  0 where the round changed nothing. */
double fg_swarm_share(double before, double after, double round_before, double round_after);

#endif
