/* SPDX-License-Identifier: MIT
 *
 * How many workers a run gets, where runs are short and alike, as the passes that decode a token
 * are.  On a core that another process keeps busy a worker waits a whole time slice of the
 * scheduler, milliseconds, and every barrier waits for it: with a small model all workers together
 * can be slower than one.  So when workers are found off their cores, runs with as many fewer are
 * tried, and what is faster stays; it is tried again now and then, since neighbours come and go.
 *
 * Undisturbed runs have all workers, always.
 */
#ifndef FG_SRC_SYS_PACE_H
#define FG_SRC_SYS_PACE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct fg_pace {
    uint32_t n;              /* workers that there are */
    uint32_t usual;          /* of a run, as far as is known */
    uint32_t tried;          /* of a run of the trial under way; 0: none */
    uint32_t n_run;          /* runs of the present window */
    uint64_t ns;             /* their time */
    double all_ns, fewer_ns; /* of a run, over the last windows; 0: unknown */
    uint64_t rest_ns;        /* until the next trial */
    uint64_t pause_ns;       /* between two */
} fg_pace;

void fg_pace_init(fg_pace *p, uint32_t n_worker);

/* Workers of the next run, 1 to n. */
uint32_t fg_pace_workers(const fg_pace *p);

/* After a run with that many, and what it took: true when it is time to look who was off its core
 * since the last look, which may take another run. */
bool fg_pace_window_ends(fg_pace *p, uint64_t ns);

/* After that look: n_off workers were. */
void fg_pace_decide(fg_pace *p, uint32_t n_off);

#endif
