/* SPDX-License-Identifier: MIT
 *
 * What this machine says about itself: nothing here is measured.  Texts that the system does not
 * tell are empty.
 */
#ifndef FG_SRC_SYS_MACHINE_H
#define FG_SRC_SYS_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fg_machine {
    char cpu[96];         /* name of the processor; "unknown" */
    const char *level;    /* best kernel level, static text */
    uint32_t n_cpu;       /* logical CPUs switched on */
    uint32_t n_core;      /* physical cores that this process may use */
    uint32_t n_budget;    /* CPUs that it may use by affinity and cgroup quota */
    uint32_t n_node;      /* NUMA nodes of these cores */
    uint64_t llc_bytes;   /* last-level caches together; 0: unknown */
    uint64_t ram_bytes;   /* physical memory; UINT64_MAX: unknown, as below */
    uint64_t avail_bytes; /* that this process can still have (src/sys/room.h) */
    uint64_t limit_bytes; /* of the cgroup; UINT64_MAX: none */
    uint64_t page_bytes, huge_page_bytes;
    char huge_pages[16];     /* transparent huge pages: "always", "madvise", "never" */
    char governor[32];       /* of CPU 0's frequency, "performance" and others */
    char numa_balancing[16]; /* whether the kernel moves pages by itself: "0", "1", "2" */
} fg_machine;

void fg_machine_describe(fg_machine *m);

/* Name of the processor, as in fg_machine; name[n]. */
void fg_machine_cpu_name(char *name, size_t n);

/* Kernel level number i of this build, from the lowest; NULL after the last one.  *has: this
 * machine can use it. */
const char *fg_machine_level(uint32_t i, bool *has);

#endif
