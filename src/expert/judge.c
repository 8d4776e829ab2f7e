/* SPDX-License-Identifier: MIT */
#include "src/expert/judge.h"

#include <math.h>
#include <stdlib.h>

enum {
    LEAST = 3,           /* counted passes of each side, or there is nothing to say */
    FULL = 3,            /* cycles after which a look may end a trial in the usual way */
    TRIM = 6,            /* 1 / TRIM of the passes go on each end */
    MAX_PAUSE = 1 << 16, /* passes */
    MAX_KEEP = 1 << 10,
};

/* Of a gain in units of its error.  Few passes say little of their own spread, hence the floor. */
static const double sure_on = 3.0, sure_off = -1.5, likely_on = 1.0, error_floor = 0.005;
/* Before FULL cycles only what is this bad. */
static const double bad = -0.2, sure_bad = -3.0;
/* Passes that a trial may lose, as far as it knows: doubt is no reason to pay more. */
static const double most_lost = 2.0;
/* A pass that took so many times the median was interrupted. */
static const double outlier = 3.0;

void fg_judge_init(fg_judge *j)
{
    *j = (fg_judge){.n = FG_JUDGE_SETTLE};
}

bool fg_judge_is_on(const fg_judge *j)
{
    return j->trial ? j->n / FG_JUDGE_BLOCK % 2 == 1 : j->on;
}

/* ---- a look at the trial ---- */

static int compare_doubles(const void *pa, const void *pb)
{
    const double a = *(const double *)pa, b = *(const double *)pb;
    return (a > b) - (a < b);
}

static double median_ns(const fg_judge *j)
{
    double ns[FG_JUDGE_SAMPLES];
    for (uint32_t i = 0; i < j->n_sample; i++) ns[i] = j->sample[i].ns;
    qsort(ns, j->n_sample, sizeof *ns, compare_doubles);
    return j->n_sample == 0 ? 0.0 : ns[j->n_sample / 2];
}

/* Passes with hints (side 1) and without. */
typedef struct side {
    uint32_t n;
    double ns[FG_JUDGE_SAMPLES], n_read[FG_JUDGE_SAMPLES];
    double mean_ns, mean_read;
} side;

static void collect(const fg_judge *j, side s[2])
{
    const double most = outlier * median_ns(j);
    for (uint32_t i = 0; i < j->n_sample; i++) {
        side *k = &s[j->sample[i].on];
        if (j->sample[i].ns > most) continue;
        k->ns[k->n] = j->sample[i].ns;
        k->n_read[k->n++] = j->sample[i].n_read;
    }
    for (int i = 0; i < 2; i++) {
        for (uint32_t k = 0; k < s[i].n; k++) {
            s[i].mean_ns += s[i].ns[k] / s[i].n;
            s[i].mean_read += s[i].n_read[k] / s[i].n;
        }
    }
}

/* Time of a read, by least squares within both sides. */
static double price_of_read(const side s[2])
{
    double xy = 0.0, xx = 0.0;
    for (int i = 0; i < 2; i++) {
        for (uint32_t k = 0; k < s[i].n; k++) {
            const double x = s[i].n_read[k] - s[i].mean_read;
            xy += x * (s[i].ns[k] - s[i].mean_ns);
            xx += x * x;
        }
    }
    /* reads are whole numbers: less is rounding */
    return xx > .1 && xy > 0.0 ? xy / xx : 0.0;
}

/* Trimmed mean of ns, and the variance of that mean (of winsorized values). */
static double middle(double *ns, uint32_t n, double *variance)
{
    const uint32_t cut = n / TRIM, kept = n - 2 * cut;
    double sum = 0.0, all = 0.0, square = 0.0;
    qsort(ns, n, sizeof *ns, compare_doubles);
    for (uint32_t i = cut; i < n - cut; i++) sum += ns[i];
    for (uint32_t i = 0; i < n; i++) {
        const double x = ns[i < cut ? cut : i >= n - cut ? n - cut - 1 : i];
        all += x;
        square += x * x;
    }
    const double spread = fmax(0.0, (square - all * all / n) / (n - 1));
    const double share = (double)kept / n;
    *variance = spread / (n * share * share);
    return sum / kept;
}

/* Share of a pass that hints save, and its error; false: too few passes. */
static bool look(const fg_judge *j, double *gain, double *error)
{
    side s[2] = {{.n = 0}};
    double mean[2], variance[2];
    collect(j, s);
    if (s[0].n < LEAST || s[1].n < LEAST) return false;
    const double price = price_of_read(s);
    for (int i = 0; i < 2; i++) {
        for (uint32_t k = 0; k < s[i].n; k++) s[i].ns[k] -= price * s[i].n_read[k];
        mean[i] = middle(s[i].ns, s[i].n, &variance[i]);
    }
    const double without = mean[0] + price * s[0].mean_read;
    if (!(without > 0.0)) return false;
    /* all passes with hints made the late reads, those that are not counted as well */
    const double saved = mean[0] - mean[1] - price * j->n_late / (j->n / 2.0);
    *gain = saved / without;
    *error = sqrt(variance[0] + variance[1]) / without + error_floor;
    return true;
}

/* ---- verdicts ---- */

static void end_trial(fg_judge *j, bool on)
{
    const double lost = j->gain < 0.0 ? -j->gain * j->n / 2 : 0.0; /* passes */
    const bool again = on == j->on && j->n_pause > 0;
    uint32_t n = on ? FG_JUDGE_KEEP : FG_JUDGE_PAUSE;
    if (again) n = 2 * j->n_pause;
    if (!on && lost / FG_JUDGE_PRICE > n) n = (uint32_t)fmin(lost / FG_JUDGE_PRICE, MAX_PAUSE);
    const uint32_t most = on ? MAX_KEEP : MAX_PAUSE;
    j->n_pause = n < most ? n : most;
    j->n = j->n_pause;
    j->n_off += !on;
    j->on = on;
    j->trial = false;
}

static void decide(fg_judge *j)
{
    double gain, error;
    const uint32_t cycles = j->n / (2 * FG_JUDGE_BLOCK);
    const bool last = cycles == FG_JUDGE_CYCLES;
    if (!look(j, &gain, &error)) {
        if (last) end_trial(j, false);
        return;
    }
    const double sure = gain / error;
    j->gain = gain;
    if (cycles < FULL) {
        if (gain < bad && sure < sure_bad) end_trial(j, false);
    } else if (sure < sure_off || -gain * j->n / 2 > most_lost) {
        end_trial(j, false);
    } else if (sure > sure_on || last) {
        end_trial(j, sure > likely_on);
    }
}

static void take(fg_judge *j, const fg_judge_pass *p)
{
    const bool on = fg_judge_is_on(j);
    if (!on) j->n_late += (int32_t)p->n_read - (int32_t)p->n_alone;
    if (j->n % FG_JUDGE_BLOCK == 0 || p->ns == 0) return;
    /* with hints the reads that they caused are their cost; without, those of the block before */
    j->sample[j->n_sample].ns = (double)p->ns;
    j->sample[j->n_sample].n_read = on ? p->n_alone : p->n_read;
    j->sample[j->n_sample++].on = on;
}

void fg_judge_tell(fg_judge *j, const fg_judge_pass *p)
{
    if (!j->trial) {
        if (--j->n > 0) return;
        j->trial = true;
        j->n_sample = 0;
        j->n_late = 0;
        return;
    }
    take(j, p);
    j->n++;
    if (j->n % (2 * FG_JUDGE_BLOCK) == 0) decide(j);
}
