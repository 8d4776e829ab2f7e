/* SPDX-License-Identifier: MIT
 *
 * What the machine is made of, as hwloc says (the only file that includes hwloc.h): the physical
 * cores this process may use, the NUMA nodes they belong to, and binding of threads and memory to
 * them.  Which work goes where is not decided here but in place.h.
 *
 * Limits of control groups count on both sides: CPUs that may not be used are left out, and a node
 * whose memory may not be used is none of ours; its cores then belong to the nearest that is.
 *
 * The process's CPUs are read once, before anything of ours binds a thread, so that a bound caller
 * sees the same cores as a free one.
 */
#ifndef FG_SRC_SYS_TOPO_H
#define FG_SRC_SYS_TOPO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/base/status.h"

enum { FG_MAX_NODE = 64 }; /* a set of nodes is a uint64_t, bit i for node i */

typedef struct fg_topo fg_topo;

/* This machine.  NULL when out of memory or when hwloc cannot read it, or finds more than
 * FG_MAX_NODE nodes; callers then run unpinned. */
fg_topo *fg_topo_create(void);
/* Any machine: `source` is an hwloc XML file or a synthetic description ("node:2 core:8 pu:1").
 * cpus: the CPUs that may be used, as "0-3,8"; NULL: all.  Nothing can be bound to such a machine.
 * Errors: FG_EINVAL, FG_ELIMIT, FG_ENOMEM. */
fg_status fg_topo_create_from(fg_topo **out, const char *source, const char *cpus, fg_err *err);
void fg_topo_destroy(fg_topo *t); /* accepts NULL */

/* Physical cores allowed by affinity and cpuset (CPUs where cores are not known); at least 1. */
uint32_t fg_topo_n_core(const fg_topo *t);

/* NUMA nodes that have one of these cores, and memory that may be used; at least 1.  They are
 * numbered in hwloc's order. */
uint32_t fg_topo_n_node(const fg_topo *t);

/* The node of a core, < n_node.  Where several nodes serve a core, the first; where none that may
 * be used does, the nearest. */
uint32_t fg_topo_node_of(const fg_topo *t, uint32_t core);

/* What a core can do next to the others: 1, or, where hwloc knows cores of several kinds, 2 for one
 * of the fastest kind. */
uint32_t fg_topo_worth(const fg_topo *t, uint32_t core);

/* Memory of a node, bytes; 0: unknown. */
uint64_t fg_topo_node_bytes(const fg_topo *t, uint32_t node);

/* How far the memory of node b is from the cores of node a, as the firmware says: relative times,
 * 10 for a == b.  0: unknown. */
uint32_t fg_topo_distance(const fg_topo *t, uint32_t a, uint32_t b);

typedef struct fg_topo_sum {
    uint32_t n_package, n_core, n_fast; /* n_fast: cores of the fastest kind */
    uint32_t n_cpu;                     /* hardware threads of the cores */
    uint32_t n_cache;                   /* last-level caches that they use */
    uint64_t cache_bytes;               /* of all those caches */
    uint32_t n_idle;                    /* memory nodes that are none of ours (fg_topo_put) */
} fg_topo_sum;
fg_topo_sum fg_topo_sums(const fg_topo *t);

/* One line: "2 packages, 16 cores of 2 threads, ...; node 0: 8 cores, 64 GiB; ...", with every
 * memory node that owns nothing and why.  Two machines with the same line are alike. */
void fg_topo_put(const fg_topo *t, fg_buf *b);

/* Memory nodes of the machine, those too that are none of ours; 0: it has none. */
uint32_t fg_topo_n_memory(const fg_topo *t);

/* The number of a node in the system; UINT32_MAX on a machine without. */
uint32_t fg_topo_os_node(const fg_topo *t, uint32_t node);
/* The node with this number in the system; UINT32_MAX when it has no core of ours. */
uint32_t fg_topo_node_at(const fg_topo *t, uint32_t os_idx);

/* Binds the calling thread to core i, or to all cores of a set of nodes.  False when the system
 * refuses or the topology is not this machine's. */
bool fg_topo_bind_self(const fg_topo *t, uint32_t i);
bool fg_topo_bind_self_to_nodes(const fg_topo *t, uint64_t nodes);

/* Memory p[bytes] (whole pages) is to come from these nodes, in_turn: page by page; pages that are
 * there already stay where they are.  A node that is full gives way to others, which an audit
 * shows, rather than to the kernel ending the process.  FG_ENOTSUP when the topology is not this
 * machine's, FG_EIO when the system refuses. */
fg_status fg_topo_bind_memory(const fg_topo *t, uint64_t nodes, bool in_turn, void *p, size_t bytes,
                              fg_err *err);

/* Pages that the calling thread brings in from now on, those of files too, are to come from these
 * nodes as above.  False when the system refuses. */
bool fg_topo_prefer(const fg_topo *t, uint64_t nodes, bool in_turn);

/* Where its pages come from otherwise, such as numactl said, to be given back. */
typedef struct fg_preference {
    int mode; /* -1: unknown */
    unsigned long nodes[16];
} fg_preference;
void fg_preference_save(fg_preference *p);
void fg_preference_restore(const fg_preference *p);

/* The CPUs that the calling thread is bound to, to be given back; NULL when unknown. */
typedef struct fg_binding fg_binding;
fg_binding *fg_binding_save(void);
void fg_binding_restore(fg_binding *b); /* of the calling thread; frees b; accepts NULL */

/* Lets the calling thread run on all CPUs of the process: threads inherit the binding of the one
 * that starts them. */
void fg_binding_clear(void);

/* CPUs this process may use by affinity mask and by the cgroup quota (cgroup.h),
 * whichever is less; at least 1.  Needs no topology. */
uint32_t fg_cpu_budget(void);

/* CPUs of the machine that nothing runs on at this moment but the calling thread: those online less
 * other threads that run or wait for one; at least 1; UINT32_MAX when the system does not say.  A
 * snapshot: to begin with, not to rely on. */
uint32_t fg_cpu_free(void);

#endif
