/* SPDX-License-Identifier: MIT
 *
 * Does reading ahead pay?  Judged by time, since nothing else sees all that it costs: bytes of
 * wrong hints, but also the cores and the memory that a read takes from those who compute.
 *
 * This is the only place of the expert store where a clock decides something, and all it decides is
 * whether the next pass of one token gives hints.  No bit of a result depends on that, nor does
 * what a predictor learns, which goes by tokens (predict.h).  Hits and reads do: a trace has the
 * decision of each pass, so that a replay of it meets the counts of the live run.
 *
 * A trial takes turns: blocks of FG_JUDGE_BLOCK passes without hints and with them, the first of a
 * block not timed, since what the block before began is still on its way.  Passes differ by how
 * many experts they have to read far more than by hints, so what is compared is the time left over
 * by a common price for each read that would have been needed without hints (n_alone of cache.h).
 * What passes without them read beyond that, because hints drove it out before, the hints pay.
 * Off is where it starts and what it falls back to: staying on needs evidence.  It is looked at
 * after each two blocks, so that what costs much goes off after four passes with hints, what seems
 * to have cost two passes however unsure after twelve or later, and what costs little after 48 at
 * most; a failed trial is repeated after a pause that is longer each time, and at least so long
 * that the time lost was less than FG_JUDGE_PRICE of it.
 */
#ifndef FG_SRC_EXPERT_JUDGE_H
#define FG_SRC_EXPERT_JUDGE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    FG_JUDGE_SETTLE = 16, /* passes before the first trial: slots fill up meanwhile */
    FG_JUDGE_BLOCK = 4,
    FG_JUDGE_CYCLES = 12, /* of two blocks, at most */
    FG_JUDGE_PAUSE = 256, /* passes before the next trial when off, the first time */
    FG_JUDGE_KEEP = 128,  /* the same when on */
    FG_JUDGE_SAMPLES = 2 * FG_JUDGE_CYCLES * (FG_JUDGE_BLOCK - 1),
};
#define FG_JUDGE_PRICE (1.0 / 200.0)

/* A pass of one token. */
typedef struct fg_judge_pass {
    uint64_t ns;      /* since the pass before it ended; 0: that was not one of one token */
    uint32_t n_read;  /* experts that it used and that were not there, or only by a hint */
    uint32_t n_alone; /* that would not have been there had there never been hints */
} fg_judge_pass;

typedef struct fg_judge {
    bool trial, on;   /* on: hints, when there is no trial */
    uint32_t n;       /* passes of the trial so far; else those that are left until the next */
    uint32_t n_pause; /* of the last verdict, passes */
    uint32_t n_off;   /* verdicts that it costs */
    double gain;      /* of the last look at a trial: share of a pass that hints saved */
    uint32_t n_sample;
    struct {
        double ns, n_read;
        bool on;
    } sample[FG_JUDGE_SAMPLES];
    /* Reads beyond n_alone in passes without hints, the first of a block included. */
    int32_t n_late;
} fg_judge;

void fg_judge_init(fg_judge *j);
/* Does the next pass give hints? */
bool fg_judge_is_on(const fg_judge *j);
/* The pass has ended. */
void fg_judge_tell(fg_judge *j, const fg_judge_pass *p);

#endif
