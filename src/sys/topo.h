/* SPDX-License-Identifier: MIT
 *
 * What the machine is made of, read once through hwloc (the only file that includes hwloc.h):
 * the physical cores this process may use, and binding of a thread to one of them.
 */
#ifndef FG_SRC_SYS_TOPO_H
#define FG_SRC_SYS_TOPO_H

#include <stdbool.h>
#include <stdint.h>

typedef struct fg_topo fg_topo;

/* NULL when out of memory or when hwloc cannot read the machine; callers then run unpinned. */
fg_topo *fg_topo_create(void);
void fg_topo_destroy(fg_topo *t); /* accepts NULL */

/* Physical cores allowed by affinity and cpuset; at least 1. */
uint32_t fg_topo_n_core(const fg_topo *t);

/* NUMA nodes that have one of these cores; at least 1. */
uint32_t fg_topo_n_node(const fg_topo *t);

/* Binds the calling thread to core i % n_core.  False when the system refuses. */
bool fg_topo_bind_self(const fg_topo *t, uint32_t i);

/* CPUs this process may use by affinity mask and by the cgroup quota (cpu.max, rounded up),
 * whichever is less; at least 1.  Needs no topology. */
uint32_t fg_cpu_budget(void);

/* The least memory limit of this process's cgroup (either version) and those above it, bytes;
 * UINT64_MAX when there is none. */
uint64_t fg_memory_limit(void);

/* Bytes that can be had without swapping: MemAvailable, or fg_memory_limit if that is less.
 * UINT64_MAX when unknown. */
uint64_t fg_memory_available(void);

#endif
