/* SPDX-License-Identifier: MIT
 *
 * Measures a machine for `fulgur doctor`: memory by thread count, a disk by block size and reads in
 * flight, what the kernel offers; and says what stands in the way of speed.  Needs no model and no
 * rights; leaves nothing behind.  About 15 seconds, most of them for the disk.
 */
#ifndef FG_SRC_PLAN_DOCTOR_H
#define FG_SRC_PLAN_DOCTOR_H

#include "src/base/status.h"
#include "src/sys/disk.h"
#include "src/sys/machine.h"
#include "src/sys/node_rates.h"

enum {
    FG_DOCTOR_ROWS = 16,  /* thread counts: 1, 2, 4, ... and all */
    FG_DOCTOR_BLOCKS = 4, /* 1, 4, 16 MiB and an expert */
    FG_DOCTOR_FLIGHTS = 3,
    FG_DOCTOR_TURNS = 7,
    FG_DOCTOR_ADVICE = 16,
};

/* One expert of MiniMax-M1 in a q4 file. */
#define FG_DOCTOR_EXPERT_BYTES ((uint64_t)90341376)

typedef struct fg_doctor {
    fg_machine machine;
    uint32_t n_thread; /* that commands would use: the largest count measured */
    uint32_t n_row;
    struct {
        uint32_t n_thread;
        double anon_gbs,
            map_gbs;    /* anonymous memory on huge pages; a mapped file.  0: not measured */
        double sync_us; /* so many wait for each other; 0: not measured */
    } row[FG_DOCTOR_ROWS];
    /* All threads, in turns, so that a busy moment hits both: a copy on huge pages and the mapped
     * file, GB/s; 0: not measured. */
    double turn_anon_gbs, turn_map_gbs;
    uint32_t turns_won;  /* of FG_DOCTOR_TURNS, by the copy */
    fg_node_rates nodes; /* n_node 0: one node, not measured */
    double again_gbs; /* anonymous memory, all threads, once more after the rows; 0: not measured */
    double huge;      /* share of the anonymous memory that is on huge pages */
    uint64_t anon_bytes; /* of the buffers */
    uint64_t map_bytes;
    uint64_t free_bytes; /* of the file system */
    uint64_t disk_bytes; /* of the file read; 0: no disk measured */
    double write_gbs;    /* of the temporary file, synced; 0: none was written */
    bool direct, uring;
    int uring_errno; /* why not */
    uint64_t block[FG_DOCTOR_BLOCKS];
    uint32_t flight[FG_DOCTOR_FLIGHTS];
    double disk_gbs[FG_DOCTOR_BLOCKS][FG_DOCTOR_FLIGHTS]; /* 0: file or memory too small */
    char disk_error[160];   /* why no disk was measured; empty: it was */
    fg_disk_queue queue;    /* of the drive; empty: not known */
    uint64_t address_bytes; /* that the process may map; UINT64_MAX: no limit, 0: not asked */
} fg_doctor;

/* n_thread 0: as commands take by default.  path: a folder, where a temporary file of up to 1 GiB
 * is written, or a file to read.  step (may be NULL) is called before each measurement; false
 * cancels.  That the disk cannot be measured is reported in *d, not an error.  Errors: FG_ENOMEM,
 * FG_ELIMIT, FG_EIO, FG_ECANCEL. */
fg_status fg_doctor_run(fg_doctor *d, uint32_t n_thread, const char *path,
                        bool (*step)(void *ctx, const char *what, uint32_t done, uint32_t total),
                        void *ctx, fg_err *err);

/* What is wrong and what to do, one line each, most important first; static or in text[][].
 * Returns the number of lines.  A function of *d. */
typedef char fg_advice[200];
size_t fg_doctor_advise(const fg_doctor *d, fg_advice text[FG_DOCTOR_ADVICE]);

#endif
