/* SPDX-License-Identifier: MIT
 *
 * Only cores are kept: caches, I/O and groups would cost start-up time and nobody
 * here asks for them.
 */
#include "src/sys/topo.h"

#include <hwloc.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

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

uint32_t fg_topo_n_node(const fg_topo *t)
{
    uint32_t n = 0;
    const int all = hwloc_get_nbobjs_by_type(t->topology, HWLOC_OBJ_NUMANODE);
    for (int i = 0; i < all; i++) {
        hwloc_obj_t node = hwloc_get_obj_by_type(t->topology, HWLOC_OBJ_NUMANODE, (unsigned)i);
        n += node != NULL && !hwloc_bitmap_iszero(node->cpuset); /* memory alone has no cores */
    }
    return n < 1 ? 1 : n;
}

bool fg_topo_bind_self(const fg_topo *t, uint32_t i)
{
    hwloc_obj_t core = hwloc_get_obj_by_type(t->topology, HWLOC_OBJ_CORE, i % t->n_core);
    if (core == NULL) return false;
    return hwloc_set_cpubind(t->topology, core->cpuset, HWLOC_CPUBIND_THREAD) == 0;
}

/* Calls fn with the path of `name` in this process's cgroup and in each one above it.  key: how the
 * hierarchy's line in /proc/self/cgroup goes on behind its number (":" is version 2); root: where it is
 * mounted.  In a container the last one called is the container's own. */
static void walk_cgroup(const char *key, const char *root, const char *name,
                        void (*fn)(const char *path, void *arg), void *arg)
{
    char line[512], at[512] = "", path[640];
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        const char *p = strchr(line, ':');
        line[strcspn(line, "\n")] = '\0';
        if (p == NULL || strncmp(p + 1, key, strlen(key)) != 0) continue;
        (void)snprintf(at, sizeof at, "%s", p + 1 + strlen(key));
    }
    if (f != NULL) (void)fclose(f);
    for (;;) {
        if (strcmp(at, "/") == 0) at[0] = '\0';
        (void)snprintf(path, sizeof path, "%s%s/%s", root, at, name);
        fn(path, arg);
        char *slash = strrchr(at, '/');
        if (slash == NULL) return;
        *slash = '\0';
    }
}

/* "quota period" in microseconds; "max" means unlimited. */
static void least_quota(const char *path, void *arg)
{
    uint32_t *least = arg;
    FILE *f = fopen(path, "re");
    if (f == NULL) return;
    unsigned long long quota, period;
    const int n = fscanf(f, "%llu %llu", &quota, &period);
    (void)fclose(f);
    if (n != 2 || period == 0) return;
    const unsigned long long cpus = (quota + period - 1) / period;
    if (cpus < *least) *least = (uint32_t)cpus;
}

static uint32_t cgroup_quota(void)
{
    uint32_t least = UINT32_MAX;
    walk_cgroup(":", "/sys/fs/cgroup", "cpu.max", least_quota, &least);
    return least;
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

static void least_u64(const char *path, void *arg)
{
    uint64_t *least = arg;
    unsigned long long v;
    FILE *f = fopen(path, "re");
    if (f == NULL) return;
    if (fscanf(f, "%llu", &v) == 1 && v < *least) *least = v; /* else "max" */
    (void)fclose(f);
}

uint64_t fg_memory_limit(void)
{
    uint64_t least = UINT64_MAX;
    walk_cgroup(":", "/sys/fs/cgroup", "memory.max", least_u64, &least);
    walk_cgroup("memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", least_u64, &least);
    return least > INT64_MAX / 2 ? UINT64_MAX : least; /* version 1 says 2^63 for none */
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
    const uint64_t max = fg_memory_limit();
    if (max < bytes) bytes = max;
    return bytes;
}
