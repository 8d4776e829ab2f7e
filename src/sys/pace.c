/* SPDX-License-Identifier: MIT
 *
 * Time goes by in windows of a few time slices each: of the usual number of workers, or a trial of
 * the other one.  What a window takes is mostly luck, hence the means, and the bias: workers that
 * are off their cores count against all of them unless these are clearly faster.  Trials that
 * change nothing become rare, and take a sixteenth of the time at most.
 */
#include "src/sys/pace.h"

enum { MIN_RUN = 2, NS_PER_MS = 1000000, TRIAL_SHARE = 16 };
#define WINDOW_NS   ((uint64_t)12 * NS_PER_MS)
#define FIRST_PAUSE (2 * WINDOW_NS)
#define LONG_PAUSE  ((uint64_t)1000 * NS_PER_MS)

/* Times of a run, at most, for a change. */
#define FEWER_WITHIN 1.1  /* of all workers' */
#define ALL_WITHIN   0.75 /* of fewer workers' */

void fg_pace_init(fg_pace *p, uint32_t n_worker)
{
    *p = (fg_pace){.n = n_worker, .usual = n_worker, .pause_ns = FIRST_PAUSE};
}

uint32_t fg_pace_workers(const fg_pace *p)
{
    return p->tried != 0 ? p->tried : p->usual;
}

bool fg_pace_window_ends(fg_pace *p, uint64_t ns)
{
    p->n_run++;
    p->ns += ns;
    return p->n > 1 && p->n_run >= MIN_RUN && p->ns >= WINDOW_NS;
}

static void end_trial(fg_pace *p, uint32_t n_off)
{
    const bool all = p->tried == p->n;
    const bool change = all ? n_off == 0 || p->all_ns < ALL_WITHIN * p->fewer_ns
                            : p->fewer_ns < FEWER_WITHIN * p->all_ns;
    if (change) {
        p->usual = p->tried;
        p->pause_ns = FIRST_PAUSE;
    } else {
        if (p->pause_ns < LONG_PAUSE) p->pause_ns *= 2;
        if (p->pause_ns < TRIAL_SHARE * p->ns) p->pause_ns = TRIAL_SHARE * p->ns;
    }
    p->rest_ns = p->pause_ns;
    p->tried = 0;
}

static void end_usual(fg_pace *p, uint32_t n_off)
{
    const uint32_t all = p->n;
    p->rest_ns = p->rest_ns > p->ns ? p->rest_ns - p->ns : 0;
    if (p->usual == all && n_off == 0) { /* quiet: the next neighbour is met at once */
        p->rest_ns = 0;
        p->pause_ns = FIRST_PAUSE;
        p->fewer_ns = 0.0;
        return;
    }
    if (p->rest_ns == 0) p->tried = p->usual < all ? all : n_off < all ? all - n_off : 1;
}

void fg_pace_decide(fg_pace *p, uint32_t n_off)
{
    const double run_ns = (double)p->ns / p->n_run;
    double *mean = fg_pace_workers(p) == p->n ? &p->all_ns : &p->fewer_ns;
    *mean = *mean == 0.0 ? run_ns : 0.5 * (*mean + run_ns);
    if (p->tried != 0) {
        end_trial(p, n_off);
    } else {
        end_usual(p, n_off);
    }
    p->ns = 0;
    p->n_run = 0;
}
