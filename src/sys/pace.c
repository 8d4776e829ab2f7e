/* SPDX-License-Identifier: MIT
 *
 * Time goes by in windows of a few time slices each: of the usual number of workers, or a trial of
 * the other one.  What a window takes is mostly luck, hence the means, and the bias: workers that
 * are off their cores count against all of them unless these are clearly faster.  Trials that
 * change nothing become rare, and take a sixteenth of the time at most.
 *
 * The knee is found rung by rung: five windows of each of two numbers of workers, in the order
 * ABBA, since the first tokens are slower whoever computes them; the medians decide.  From all down
 * as long as fewer are faster by 3 %, later now and then up or down by one, since a context grows
 * and neighbours come and go.
 */
#include "src/sys/pace.h"

#include <stdlib.h>

enum { MIN_RUN = 2, NS_PER_MS = 1000000, TRIAL_SHARE = 16 };
#define WINDOW_NS   ((uint64_t)12 * NS_PER_MS)
#define FIRST_PAUSE (2 * WINDOW_NS)
#define BUSY_PAUSE  (16 * WINDOW_NS) /* of one that begins on busy cores */
#define LONG_PAUSE  ((uint64_t)1000 * NS_PER_MS)

/* Times of a run, at most, for a change. */
#define FEWER_WITHIN 1.1  /* of all workers' */
#define ALL_WITHIN   0.75 /* of fewer workers' */

enum { FEW = 8, RUNG_LEAST = 4 }; /* workers that any machine's memory can serve */
#define KNEE_WINDOW_NS  ((uint64_t)20 * NS_PER_MS)
#define KNEE_PAUSE      ((uint64_t)2000 * NS_PER_MS)
#define KNEE_LONG_PAUSE ((uint64_t)64000 * NS_PER_MS)
#define FEWER_GAIN      0.97 /* of more workers' time, at most, for fewer */

void fg_pace_init(fg_pace *p, uint32_t n_worker, uint32_t n_free)
{
    *p = (fg_pace){.n = n_worker, .usual = n_worker, .pause_ns = FIRST_PAUSE};
    if (n_free >= n_worker) return;
    p->usual = n_free > 1 ? n_free : 1;
    p->rest_ns = BUSY_PAUSE;
}

/* ---- the knee ---- */

void fg_pace_measure(fg_pace *p, uint32_t n_node)
{
    fg_knee *k = &p->knee;
    *k = (fg_knee){.down = true, .pause_ns = KNEE_PAUSE};
    if (p->n <= FEW) return;
    k->count[k->n_rung++] = p->n;
    for (uint32_t whole = p->n, i = 0; k->n_rung < FG_KNEE_RUNGS; i++) { /* 3/4, 1/2, 3/8, ... */
        const uint32_t n = i % 2 == 0 ? (3 * whole + 3) / 4 : (whole /= 2);
        const uint32_t even = (n + n_node - 1) / n_node * n_node;
        if (even < RUNG_LEAST) break;
        if (even < k->count[k->n_rung - 1]) k->count[k->n_rung++] = even;
        if (even <= n_node) break;
    }
}

bool fg_pace_measures(const fg_pace *p)
{
    return p->knee.other != p->knee.rung;
}

static bool is_others_turn(const fg_knee *k)
{
    return (k->n_done + 1) / 2 % 2 == 1;
}

static void next_window(fg_knee *k, uint64_t n_read)
{
    k->n_run = 0;
    k->ns = 0;
    k->n_read = n_read;
}

/* A comparison with the neighbour below, or above; false: there is none. */
static bool compare(fg_knee *k, bool down)
{
    if (down ? k->rung + 1 >= k->n_rung : k->rung == 0) return false;
    k->other = down ? k->rung + 1 : k->rung - 1;
    k->n_done = 0;
    k->primed = false;
    next_window(k, 0);
    k->all_ns = 0;
    return true;
}

static void end_comparison(fg_knee *k)
{
    k->other = k->rung;
    k->down = !k->down;
    k->rest_ns = k->pause_ns;
    if (k->rest_ns < TRIAL_SHARE * k->all_ns) k->rest_ns = TRIAL_SHARE * k->all_ns;
    if (k->pause_ns < KNEE_LONG_PAUSE) k->pause_ns *= 2;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v)
{
    qsort(v, FG_KNEE_PAIRS, sizeof *v, by_value);
    return v[FG_KNEE_PAIRS / 2];
}

static void end_pairs(fg_pace *p)
{
    fg_knee *k = &p->knee;
    const bool down = k->other > k->rung;
    const double mine = median(k->run_ns[0]), others = median(k->run_ns[1]);
    if (down ? others >= FEWER_GAIN * mine : mine < FEWER_GAIN * others) {
        end_comparison(k);
        return;
    }
    k->rung = k->other;
    *p = (fg_pace){.n = k->count[k->rung], .knee = *k};
    p->usual = p->n;
    p->pause_ns = FIRST_PAUSE;
    k->pause_ns = KNEE_PAUSE;
    if (!compare(k, down)) end_comparison(k);
}

void fg_pace_measured(fg_pace *p, uint64_t ns, uint64_t n_read)
{
    fg_knee *k = &p->knee;
    k->n_run++;
    k->ns += ns;
    k->all_ns += ns;
    if (k->ns < KNEE_WINDOW_NS) return;
    if (k->primed && n_read != k->n_read) {
        end_comparison(k);
        return;
    }
    if (k->primed) {
        k->run_ns[is_others_turn(k)][k->n_done / 2] = (double)k->ns / k->n_run;
        k->n_done++;
    }
    k->primed = true;
    next_window(k, n_read);
    if (k->n_done == 2 * FG_KNEE_PAIRS) end_pairs(p);
}

/* After a run that was no part of one: whether it is time for one. */
static bool begins(fg_pace *p, uint64_t ns)
{
    fg_knee *k = &p->knee;
    k->rest_ns = k->rest_ns > ns ? k->rest_ns - ns : 0;
    if (k->n_rung < 2 || k->rest_ns != 0 || p->tried != 0 || p->usual != p->n) return false;
    return compare(k, k->down) || compare(k, !k->down);
}

/* ---- neighbours ---- */

uint32_t fg_pace_workers(const fg_pace *p)
{
    const fg_knee *k = &p->knee;
    if (fg_pace_measures(p)) return k->count[is_others_turn(k) ? k->other : k->rung];
    return p->tried != 0 ? p->tried : p->usual;
}

bool fg_pace_window_ends(fg_pace *p, uint64_t ns)
{
    if (begins(p, ns)) {
        p->n_run = 0;
        p->ns = 0;
        return false;
    }
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
    } else if (all && p->n > n_off + p->usual) { /* too few: a neighbour has gone, another not */
        p->usual = p->n - n_off;
        p->fewer_ns = 0.0; /* of another number */
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
