/* SPDX-License-Identifier: MIT */
#include "src/engine/draft.h"

#include <string.h>

#include "src/base/clock.h"

enum {
    TIRED = 64,      /* losing passes until it goes off */
    PAUSE = 256,     /* tokens that it is off at first */
    MOST_PAUSE = 10, /* doublings */
    REFRESH = 64,    /* passes with guesses until one without is measured again */
    FORGET = 128,    /* passes without until the others may be tried again */
};
#define WORTH 1.05 /* what guessing must promise */
/* Seconds that may be lost in all: a share of those spent, and some passes of one row. */
#define MAY_LOSE   0.012
#define LOSE_FIRST 0.8

/* c(w) / c(1) before it was measured: bytes of the dense part and of the experts that w rows of a
 * text ask for, at M1's dimensions; and where experts are read from a disk, which then is all that
 * takes time. */
static const double resident[FG_DRAFT_ROWS + 1] = {0, 1, 1.42, 1.81, 2.17, 2.50, 2.81, 3.10, 3.38};
static const double streamed[FG_DRAFT_ROWS + 1] = {0, 1, 1.90, 2.78, 3.63, 4.47, 5.29, 6.08, 6.85};

static const size_t longest[FG_DRAFT_CLASSES - 1] = {3, 4, 6, 9, 15, 23, 39};
static const double usual[FG_DRAFT_CLASSES] = {0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.80, 0.85};

static int class_of(const fg_draft *d, size_t match)
{
    if (d->script != NULL) return FG_DRAFT_CLASSES - 1;
    int c = 0;
    while (c < FG_DRAFT_CLASSES - 1 && match > longest[c]) c++;
    return c;
}

bool fg_draft_init(fg_draft *d, int32_t width, bool streams, const uint32_t *beside, size_t n)
{
    *d = (fg_draft){.width = width, .streams = streams, .clock = fg_clock_ns};
    for (int c = 0; c < FG_DRAFT_CLASSES; c++) {
        d->right[c].value = usual[c];
        d->right[c].n = 8; /* as if seen so often */
    }
    if (width != FG_DRAFT_OFF && fg_lookup_init(&d->guess, beside, n)) return true;
    d->width = FG_DRAFT_OFF;
    return width == FG_DRAFT_OFF;
}

void fg_draft_fini(fg_draft *d)
{
    fg_lookup_fini(&d->guess);
}

/* The mean of a few, then one that forgets. */
static void learn(double *value, uint64_t *n, double x, uint64_t memory)
{
    if (*n < memory) ++*n;
    *value += (x - *value) / (double)*n;
}

/* Was the guess for the next id right?  Asked for each one, tried or not. */
static void judge(fg_draft *d, const uint32_t *ids, size_t n, uint32_t id)
{
    uint32_t said;
    const size_t match = d->guess.match;
    const bool any = d->script != NULL ? d->script(d->script_ctx, ids, n, &said, 1) > 0
                                       : fg_lookup_next(&d->guess, &said, 1) > 0;
    if (!any) return;
    const int c = class_of(d, match);
    learn(&d->right[c].value, &d->right[c].n, said == id, 48);
}

bool fg_draft_follow(fg_draft *d, const uint32_t *ids, size_t n)
{
    if (d->width == FG_DRAFT_OFF) return true;
    fg_lookup *g = &d->guess;
    size_t have = g->n - g->n_beside;
    bool ok = true;
    if (have > n || memcmp(g->ids + g->n_beside, ids, have * sizeof *ids) != 0) {
        ok = fg_lookup_restart(g);
        have = 0;
    }
    const bool judges = n - have <= FG_DRAFT_ROWS; /* the prompt is not what is to be guessed */
    d->n_token += judges ? n - have : 0;
    for (; ok && have < n; have++) {
        if (judges) judge(d, ids, have, ids[have]);
        ok = fg_lookup_add(g, ids[have]);
    }
    if (!ok) {
        fg_lookup_fini(g);
        d->width = FG_DRAFT_OFF;
    }
    return ok;
}

/* Seconds of a pass of w rows: measured, or the prior, bent as the nearest measured one bends it.
 * */
static double seconds_of(const fg_draft *d, size_t w)
{
    const double *prior = d->streams ? streamed : resident;
    if (d->seconds[w].n > 0) return d->seconds[w].value;
    size_t near = 1;
    for (size_t i = 2; i <= FG_DRAFT_ROWS; i++) {
        const size_t far = i > w ? i - w : w - i, best = near > w ? near - w : w - near;
        if (d->seconds[i].n > 0 && (near == 1 || far < best)) near = i;
    }
    const double one = d->seconds[1].value;
    if (near == 1) return one * prior[w];
    const double more = (d->seconds[near].value / one - 1) / (prior[near] - 1);
    return one * (1 + (more > 0 ? more : 0) * (prior[w] - 1));
}

/* The width that promises most, of those that could lose no more than may be lost. */
static size_t best_width(const fg_draft *d, size_t most)
{
    const double one = d->seconds[1].value,
                 risk = LOSE_FIRST * one + MAY_LOSE * d->spent + d->saved;
    size_t best = 0;
    double tokens = 1, p = 1, rate = WORTH / one;
    for (size_t k = 1; k <= most; k++) {
        p *= d->right[class_of(d, d->guess.match + k - 1)].value;
        tokens += p;
        const double seconds = seconds_of(d, k + 1), r = tokens / seconds;
        if (r <= rate || seconds - one > risk) continue;
        rate = r;
        best = k;
    }
    return best;
}

size_t fg_draft_propose(fg_draft *d, uint32_t *out, size_t most)
{
    if (d->width == FG_DRAFT_OFF) return 0;
    if (d->width > 0 && most > (size_t)d->width) most = (size_t)d->width;
    if (most > FG_DRAFT_MAX) most = FG_DRAFT_MAX;
    const size_t n = d->script != NULL ? d->script(d->script_ctx, d->guess.ids + d->guess.n_beside,
                                                   d->guess.n - d->guess.n_beside, out, most)
                                       : fg_lookup_next(&d->guess, out, most);
    if (d->width > 0 || n == 0) return n;
    const bool blind = d->seconds[1].n == 0 || d->age >= REFRESH;
    return blind || d->n_token < d->off_until ? 0 : best_width(d, n);
}

/* Perhaps they were unlucky. */
static void forget(fg_draft *d)
{
    for (size_t w = 2; w <= FG_DRAFT_ROWS; w++) d->seconds[w].n = 0;
    d->idle = 0;
}

static void go_off(fg_draft *d)
{
    d->off_until = d->n_token + ((uint64_t)PAUSE << d->n_off);
    if (d->n_off < MOST_PAUSE) d->n_off++;
    d->n_losing = 0;
    forget(d);
}

void fg_draft_passed(fg_draft *d, size_t n, size_t n_right, double seconds)
{
    double *value = &d->seconds[n + 1].value;
    uint64_t *count = &d->seconds[n + 1].n;
    const bool known = *count > 0 || d->seconds[1].n > 0;
    /* a pass that something else held up says little */
    const double most = known ? 2 * seconds_of(d, n + 1) : seconds;
    if (*count == 0) *value = 0;
    if (*count == 0 && known) { /* the first one counts no more than what was expected */
        *value = seconds_of(d, n + 1);
        *count = 1;
    }
    learn(value, count, seconds < most ? seconds : most, 8);
    d->age = n == 0 ? 0 : d->age + 1;
    d->spent += *value;
    d->idle = n == 0 ? d->idle + 1 : 0;
    if (d->idle >= FORGET) forget(d);
    if (n == 0) return;
    d->drafted += n;
    d->accepted += n_right;
    if (d->seconds[1].n == 0) return;
    /* by what such passes take, so that no single one decides */
    const double one = d->seconds[1].value, gained = (double)(n_right + 1) * one - *value;
    d->saved += gained;
    if (gained < 0) {
        d->n_losing++;
    } else if (d->n_losing > 0) {
        d->n_losing--;
    }
    if (gained > 0 && d->n_losing == 0) d->n_off = 0;
    if (d->n_losing >= TIRED) go_off(d);
}

double fg_draft_gain(const fg_draft *d)
{
    return d->spent <= 0 ? 1 : (d->spent + d->saved) / d->spent;
}
