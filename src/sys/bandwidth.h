/* SPDX-License-Identifier: MIT
 *
 * What this machine's memory can deliver: a plain read loop on all workers of a team, the yardstick
 * that decode speed is compared with.  Workers stream contiguous parts, which they take as those of
 * a matrix product do, with 128-bit loads into eight sums; from the first-level cache the loop does
 * several times what memory gives one core, so the loads are never the limit.  What is fastest, one
 * place of a part or several in turns, with or without asking ahead, with how many workers, differs
 * from machine to machine: a limit is the best of them.
 */
#ifndef FG_SRC_SYS_BANDWIDTH_H
#define FG_SRC_SYS_BANDWIDTH_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/sys/team.h"

typedef struct fg_bandwidth {
    double median_gbs, best_gbs; /* GB/s (1e9) over the timed passes, all workers together */
    uint64_t bytes;              /* read in a pass */
    uint32_t n_pass;             /* timed passes */
} fg_bandwidth;

/* Last-level cache of all CPUs together, bytes; 0 when the system does not say. */
uint64_t fg_llc_bytes(void);

/* Buffer for a full measurement: 1 GiB, at most 1/8 of the memory that can be had, but 8 times the
 * last-level cache as long as that is at most half of it. */
uint64_t fg_bandwidth_default_bytes(void);

/* Anonymous memory on huge pages, where the system grants them, that every worker of the team has
 * written its part of. */
typedef struct fg_bandwidth_buffer {
    const uint8_t *p; /* 2 MiB aligned */
    uint64_t bytes;
    void *map; /* of map_bytes */
    uint64_t map_bytes;
} fg_bandwidth_buffer;

/* bytes is rounded up to 2 MiB for each worker.  Errors: FG_ENOMEM, FG_EINVAL, FG_ELIMIT
 * (room.h).  Zero-initialise; fini accepts that. */
fg_status fg_bandwidth_buffer_init(fg_bandwidth_buffer *b, fg_team *team, uint64_t bytes,
                                   fg_err *err);
void fg_bandwidth_buffer_fini(fg_bandwidth_buffer *b);
double fg_bandwidth_buffer_huge(const fg_bandwidth_buffer *b); /* share on huge pages */

/* Reads p[bytes] n_pass times (3 to 1001) after one pass that does not count; stops early, after 3,
 * when max_ns (0: no limit) of reading are over.  p may be any memory, such as a mapped file, which
 * the pass that does not count brings in.  Errors: FG_ENOMEM, FG_EINVAL. */
fg_status fg_bandwidth_read(fg_team *team, const void *p, uint64_t bytes, uint32_t n_pass,
                            uint64_t max_ns, fg_bandwidth *out, fg_err *err);

/* How the loop reads. */
typedef struct fg_read_form {
    uint32_t n_stream; /* places of its part that a worker reads in turns: 1, 2 or 4 */
    bool prefetch;     /* each asks for its lines FG_READ_AHEAD bytes before it reads them */
    uint32_t n_worker; /* the first so many of the team, which share all bytes; 0: all */
} fg_read_form;
enum { FG_READ_AHEAD = 2048 };

/* The same with that form; fg_bandwidth_read's is one stream of all workers, no prefetch. */
fg_status fg_bandwidth_read_as(fg_team *team, const fg_read_form *form, const void *p,
                               uint64_t bytes, uint32_t n_pass, uint64_t max_ns, fg_bandwidth *out,
                               fg_err *err);

/* Memory to read, as above. */
typedef struct fg_read_span {
    const void *p;
    uint64_t bytes;
} fg_read_span;

/* The fastest of all forms over all n spans with all workers (*which: number of the span), and then
 * whether three quarters or half of the workers are faster with that form: a median of 3 passes
 * each, some fourteen in all. */
fg_status fg_bandwidth_fastest(fg_team *team, const fg_read_span *span, uint32_t n,
                               fg_read_form *form, uint32_t *which, fg_err *err);

/* Reads p[bytes] (p: 16-byte aligned, bytes: whole 128) with that loop; the sum is of no use but to
 * keep it alive. */
uint64_t fg_bandwidth_sum(const uint8_t *p, uint64_t bytes);

#endif
