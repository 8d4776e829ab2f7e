/* SPDX-License-Identifier: MIT
 *
 * How many workers a run gets, where runs are short and alike, as the passes that decode a token
 * are.  On a core that another process keeps busy a worker waits a whole time slice of the
 * scheduler, milliseconds, and every barrier waits for it: with a small model all workers together
 * can be slower than one.  So when workers are found off their cores, runs with as many fewer are
 * tried, and what is faster stays; it is tried again now and then, since neighbours come and go.
 *
 * Undisturbed runs have all workers, always.  A process that finds cores taken when it begins
 * leaves them alone from its first run on: a short answer of a small model is over before anything
 * could be compared.
 *
 * How many "all" are is measured too, where nobody says: reading memory, a machine of many cores
 * has a knee, beyond which more workers are slower (64 threads 4.37 tokens/s, 48 of the same
 * machine 5.04). The runs themselves are the measurement: they do the very work in question, in
 * the memory and on the nodes where it is, and cost neither memory nor time at opening, which a
 * read loop would, since it must be larger than all caches. Results do not depend on it.
 */
#ifndef FG_SRC_SYS_PACE_H
#define FG_SRC_SYS_PACE_H

#include <stdbool.h>
#include <stdint.h>

enum { FG_KNEE_RUNGS = 12, FG_KNEE_PAIRS = 5 };

/* Numbers of workers, from all down, two neighbours of which are compared at a time. */
typedef struct fg_knee {
    uint32_t n_rung, count[FG_KNEE_RUNGS]; /* 0 rungs: nothing is measured */
    uint32_t rung, other;                  /* in use; compared with it, or the same: nothing is */
    bool down;                             /* where the next comparison goes */
    bool primed;                           /* the first window, which does not count, is over */
    uint32_t n_done, n_run;                /* windows of the comparison; runs of the present one */
    uint64_t ns;                           /* their time */
    uint64_t all_ns;                       /* of the comparison */
    double run_ns[2][FG_KNEE_PAIRS];       /* of rung and other, a run */
    uint64_t n_read;                       /* from the disk, when the window began */
    uint64_t rest_ns, pause_ns;            /* as below */
} fg_knee;

typedef struct fg_pace {
    uint32_t n;              /* workers that there are, up to the knee */
    uint32_t usual;          /* of a run, as far as is known */
    uint32_t tried;          /* of a run of the trial under way; 0: none */
    uint32_t n_run;          /* runs of the present window */
    uint64_t ns;             /* their time */
    double all_ns, fewer_ns; /* of a run, over the last windows; 0: unknown */
    uint64_t rest_ns;        /* until the next trial */
    uint64_t pause_ns;       /* between two */
    fg_knee knee;
} fg_pace;

/* n_free: cores that nobody else keeps busy at this moment, as far as is known; any number. */
void fg_pace_init(fg_pace *p, uint32_t n_worker, uint32_t n_free);
/* The knee is to be measured, if there are more than 8 workers.  n_node: nodes they are dealt to,
 * of each of which equally many take part. */
void fg_pace_measure(fg_pace *p, uint32_t n_node);

/* The next run is part of a comparison; after it comes fg_pace_measured, else
 * fg_pace_window_ends. */
bool fg_pace_measures(const fg_pace *p);
/* n_read: blocks that the process has read from disks, ever: a run that waits for a disk says
 * nothing of the memory. */
void fg_pace_measured(fg_pace *p, uint64_t ns, uint64_t n_read);

/* Workers of the next run, 1 to n. */
uint32_t fg_pace_workers(const fg_pace *p);

/* After a run with that many, and what it took: true when it is time to look who was off its core
 * since the last look, which may take another run. */
bool fg_pace_window_ends(fg_pace *p, uint64_t ns);

/* After that look: n_off workers were. */
void fg_pace_decide(fg_pace *p, uint32_t n_off);

#endif
