/* SPDX-License-Identifier: MIT
 *
 * Only cores are kept: caches, I/O and groups would cost start-up time and nobody
 * here asks for them.
 */
#include "src/sys/topo.h"

#include <hwloc.h>
#include <sched.h>
#include <stdio.h>

#include "src/base/mem.h"

struct fg_topo {
    hwloc_topology_t topology;
    uint32_t n_core;
};

fg_topo *fg_topo_create(void)
{
    fg_topo *t = fg_mem_zalloc(sizeof *t);
    if (t == NULL) return NULL;
    if (hwloc_topology_init(&t->topology) != 0) {
        fg_mem_free(t);
        return NULL;
    }
    (void)hwloc_topology_set_all_types_filter(t->topology, HWLOC_TYPE_FILTER_KEEP_NONE);
    (void)hwloc_topology_set_type_filter(t->topology, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
    if (hwloc_topology_load(t->topology) != 0) {
        fg_topo_destroy(t);
        return NULL;
    }
    /* Leave only what this thread is bound to (taskset, cpuset). */
    hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
    const bool known = allowed != NULL &&
                       hwloc_get_cpubind(t->topology, allowed, HWLOC_CPUBIND_THREAD) == 0 &&
                       hwloc_topology_restrict(t->topology, allowed, 0) == 0;
    hwloc_bitmap_free(allowed);
    if (!known) {
        fg_topo_destroy(t);
        return NULL;
    }
    const int cores = hwloc_get_nbobjs_by_type(t->topology, HWLOC_OBJ_CORE);
    t->n_core = cores > 0 ? (uint32_t)cores : 1;
    return t;
}

void fg_topo_destroy(fg_topo *t)
{
    if (t == NULL) return;
    hwloc_topology_destroy(t->topology);
    fg_mem_free(t);
}

uint32_t fg_topo_n_core(const fg_topo *t)
{
    return t->n_core;
}

bool fg_topo_bind_self(const fg_topo *t, uint32_t i)
{
    hwloc_obj_t core = hwloc_get_obj_by_type(t->topology, HWLOC_OBJ_CORE, i % t->n_core);
    if (core == NULL) return false;
    return hwloc_set_cpubind(t->topology, core->cpuset, HWLOC_CPUBIND_THREAD) == 0;
}

/* cgroup v2 "quota period" in microseconds; "max" means unlimited. */
static uint32_t cgroup_quota(void)
{
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (f == NULL) return UINT32_MAX;
    unsigned long long quota, period;
    const int n = fscanf(f, "%llu %llu", &quota, &period);
    (void)fclose(f);
    if (n != 2 || period == 0) return UINT32_MAX;
    const unsigned long long cpus = (quota + period - 1) / period;
    return cpus > UINT32_MAX ? UINT32_MAX : (uint32_t)cpus;
}

uint32_t fg_cpu_budget(void)
{
    cpu_set_t set;
    uint32_t n = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = (uint32_t)CPU_COUNT(&set);
    const uint32_t quota = cgroup_quota();
    if (quota < n) n = quota;
    return n < 1 ? 1 : n;
}

static uint64_t read_u64(const char *path)
{
    unsigned long long v = UINT64_MAX;
    FILE *f = fopen(path, "r");
    if (f == NULL) return UINT64_MAX;
    if (fscanf(f, "%llu", &v) != 1) v = UINT64_MAX; /* "max" */
    (void)fclose(f);
    return v;
}

uint64_t fg_memory_available(void)
{
    uint64_t bytes = UINT64_MAX;
    char line[128];
    unsigned long long kb;
    FILE *f = fopen("/proc/meminfo", "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "MemAvailable: %llu kB", &kb) == 1) bytes = kb * 1024;
    }
    if (f != NULL) (void)fclose(f);
    /* memory.current would count the page cache, which gives way: only the ceiling is certain */
    const uint64_t max = read_u64("/sys/fs/cgroup/memory.max");
    if (max < bytes) bytes = max;
    return bytes;
}
