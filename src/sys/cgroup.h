/* SPDX-License-Identifier: MIT
 *
 * What the control groups of this process leave to it, of both versions of cgroups.  The tightest
 * of its own group and of all above it counts, as far as they can be seen: in a container often
 * only its own, at the root of the mount.
 *
 * root stands before every path that is read: "" for this machine, a folder with proc and sys in it
 * for a described one.  What cannot be read or does not look like a limit is none.
 */
#ifndef FG_SRC_SYS_CGROUP_H
#define FG_SRC_SYS_CGROUP_H

#include <stdint.h>

/* CPUs by quota (cpu.max; cpu.cfs_quota_us and cpu.cfs_period_us), rounded up, at least 1;
 * UINT32_MAX: no quota. */
uint32_t fg_cgroup_cpus(const char *root);

/* Bytes of memory (memory.max, and memory.high, above which a group is throttled until it stands
 * still; memory.limit_in_bytes); UINT64_MAX: no limit. */
uint64_t fg_cgroup_memory(const char *root);

/* Bytes that these limits leave: each less what its group uses now, but for the page cache and
 * others that give way.  UINT64_MAX: no limit. */
uint64_t fg_cgroup_memory_left(const char *root);

#endif
