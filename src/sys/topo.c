/* SPDX-License-Identifier: MIT
 *
 * Only cores and nodes are kept: caches and I/O would cost start-up time and nobody here asks for
 * them.
 */
#include "src/sys/topo.h"

#include <errno.h>
#include <hwloc.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/sys/cgroup.h"

/* ---- the process's CPUs ---- */

enum { MASK_CPUS = 8192, MASK_WORD_BITS = 8 * sizeof(unsigned long) }; /* Linux knows no more */

typedef struct cpu_mask {
    size_t bytes; /* as the kernel has it; 0: refused */
    unsigned long word[MASK_CPUS / MASK_WORD_BITS];
} cpu_mask;

/* Runs before a sanitizer is ready. */
#define FG_BARE __attribute__((no_sanitize("address", "thread", "undefined")))

/* The system call, as the C library's function takes masks of a fixed 1024 CPUs. */
FG_BARE static void mask_read(cpu_mask *m)
{
    const long n = syscall(SYS_sched_getaffinity, 0, sizeof m->word, m->word);
    m->bytes = n > 0 ? (size_t)n : 0;
}

static bool mask_same(const cpu_mask *a, const cpu_mask *b)
{
    return a->bytes == b->bytes && memcmp(a->word, b->word, a->bytes) == 0;
}

/* With OMP_PROC_BIND and its like, libgomp binds the first thread to one core when it is loaded.
 * So the mask is read before any library is started, and again after all were: if a library has
 * changed it, the earlier one tells what the process may use; if the program has changed it since,
 * that was meant. */
static cpu_mask at_start, at_main;

FG_BARE static void read_at_start(void)
{
    mask_read(&at_start);
}
#if !defined(__PIC__) || defined(__PIE__) /* a shared library has no such section */
__attribute__((section(".preinit_array"),
               used)) static void (*const before_libraries)(void) = read_at_start;
#else
__attribute__((constructor(101))) static void read_when_loaded(void)
{
    read_at_start();
}
#endif

__attribute__((constructor)) static void read_at_main(void)
{
    mask_read(&at_main);
}

static cpu_mask allowed; /* set once */

static void find_allowed(void)
{
    mask_read(&allowed);
    if (at_start.bytes != 0 && mask_same(&allowed, &at_main)) allowed = at_start;
}

static const cpu_mask *allowed_cpus(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, find_allowed);
    return &allowed;
}

static uint32_t mask_count(const cpu_mask *m)
{
    uint32_t n = 0;
    for (size_t i = 0; i < m->bytes / sizeof m->word[0]; i++) {
        n += (uint32_t)__builtin_popcountl(m->word[i]);
    }
    return n;
}

struct fg_binding {
    cpu_mask mask;
};

fg_binding *fg_binding_save(void)
{
    (void)allowed_cpus(); /* whoever saves is about to bind */
    fg_binding *b = fg_mem_alloc(sizeof *b);
    if (b == NULL) return NULL;
    mask_read(&b->mask);
    if (b->mask.bytes != 0) return b;
    fg_mem_free(b);
    return NULL;
}

static void mask_set(const cpu_mask *m)
{
    /* refused: stays bound, only slower */
    if (m->bytes != 0) (void)syscall(SYS_sched_setaffinity, 0, m->bytes, m->word);
}

void fg_binding_restore(fg_binding *b)
{
    if (b == NULL) return;
    mask_set(&b->mask);
    fg_mem_free(b);
}

void fg_binding_clear(void)
{
    mask_set(allowed_cpus());
}

/* ---- cores and nodes ---- */

struct fg_topo {
    hwloc_topology_t topology;
    hwloc_obj_type_t core_type; /* HWLOC_OBJ_PU where cores are not known */
    uint32_t n_core, n_node;
    uint32_t *node_of;             /* [n_core] */
    hwloc_obj_t node[FG_MAX_NODE]; /* NULL: a machine without NUMA nodes */
};

static hwloc_obj_t core_at(const fg_topo *t, uint32_t i)
{
    return hwloc_get_obj_by_type(t->topology, t->core_type, i);
}

/* Nodes in hwloc's order, without those that have memory only.  A core belongs to the first node
 * that serves it; cores that no node serves count with the first. */
static bool find_nodes(fg_topo *t)
{
    hwloc_obj_t node = NULL;
    for (uint32_t i = 0; i < t->n_core; i++) t->node_of[i] = UINT32_MAX;
    while ((node = hwloc_get_next_obj_by_type(t->topology, HWLOC_OBJ_NUMANODE, node)) != NULL) {
        bool used = false;
        for (uint32_t i = 0; i < t->n_core; i++) {
            if (t->node_of[i] != UINT32_MAX) continue;
            if (!hwloc_bitmap_intersects(node->cpuset, core_at(t, i)->cpuset)) continue;
            t->node_of[i] = t->n_node;
            used = true;
        }
        if (!used) continue;
        if (t->n_node == FG_MAX_NODE) return false;
        t->node[t->n_node++] = node;
    }
    for (uint32_t i = 0; i < t->n_core; i++) {
        if (t->node_of[i] == UINT32_MAX) t->node_of[i] = 0;
    }
    if (t->n_node == 0) t->n_node = 1;
    return true;
}

static fg_status start(fg_topo **out, fg_err *err)
{
    *out = fg_mem_zalloc(sizeof **out);
    if (*out == NULL || hwloc_topology_init(&(*out)->topology) != 0) {
        fg_mem_free(*out);
        *out = NULL;
        return fg_fail_nomem(err, "topology");
    }
    hwloc_topology_t topology = (*out)->topology;
    (void)hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE);
    (void)hwloc_topology_set_type_filter(topology, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
    /* what holds a node's cores together: without it every node would count as serving them all */
    (void)hwloc_topology_set_type_filter(topology, HWLOC_OBJ_GROUP,
                                         HWLOC_TYPE_FILTER_KEEP_STRUCTURE);
    return FG_OK;
}

/* Reads the machine that start's caller chose, and leaves only these CPUs of it (NULL: all). */
static fg_status load(fg_topo *t, const char *name, hwloc_const_bitmap_t cpus, fg_err *err)
{
    if (hwloc_topology_load(t->topology) != 0) {
        return fg_fail(err, FG_EINVAL, "topology: %s, expected a machine that hwloc can read",
                       name);
    }
    if (cpus != NULL && hwloc_topology_restrict(t->topology, cpus, 0) != 0) {
        return fg_fail(err, FG_EINVAL, "topology: none of its CPUs may be used, expected some");
    }
    t->core_type = HWLOC_OBJ_CORE;
    int n = hwloc_get_nbobjs_by_type(t->topology, HWLOC_OBJ_CORE);
    if (n <= 0) {
        t->core_type = HWLOC_OBJ_PU;
        n = hwloc_get_nbobjs_by_type(t->topology, HWLOC_OBJ_PU);
    }
    t->n_core = (uint32_t)n; /* a loaded topology has a PU */
    t->node_of = fg_mem_zalloc_array(t->n_core, sizeof *t->node_of);
    if (t->node_of == NULL) return fg_fail_nomem(err, "topology");
    if (find_nodes(t)) return FG_OK;
    return fg_fail(err, FG_ELIMIT, "topology: more NUMA nodes, expected at most %d", FG_MAX_NODE);
}

fg_topo *fg_topo_create(void)
{
    fg_topo *t;
    const cpu_mask *m = allowed_cpus();
    if (m->bytes == 0) return NULL; /* hwloc would ask for ever */
    if (start(&t, NULL) != FG_OK) return NULL;
    hwloc_bitmap_t cpus = hwloc_bitmap_alloc();
    const bool ok =
        cpus != NULL &&
        hwloc_bitmap_from_ulongs(cpus, (unsigned)(m->bytes / sizeof m->word[0]), m->word) == 0 &&
        load(t, "this machine", cpus, NULL) == FG_OK;
    hwloc_bitmap_free(cpus);
    if (ok) return t;
    fg_topo_destroy(t);
    return NULL;
}

fg_status fg_topo_create_from(fg_topo **out, const char *source, const char *cpus, fg_err *err)
{
    FG_TRY(start(out, err));
    fg_status st = FG_OK;
    hwloc_bitmap_t set = NULL;
    const bool known = access(source, R_OK) == 0
                           ? hwloc_topology_set_xml((*out)->topology, source) == 0
                           : hwloc_topology_set_synthetic((*out)->topology, source) == 0;
    if (!known) {
        st = fg_fail(err, FG_EINVAL,
                     "topology: %s, expected an hwloc XML file or a description such as "
                     "\"node:2 core:8 pu:1\"",
                     source);
    }
    if (st == FG_OK && cpus != NULL) {
        set = hwloc_bitmap_alloc();
        if (set == NULL) {
            st = fg_fail_nomem(err, "topology");
        } else if (hwloc_bitmap_list_sscanf(set, cpus) != 0) {
            st = fg_fail(err, FG_EINVAL, "cpus: %s, expected a list such as 0-3,8", cpus);
        }
    }
    if (st == FG_OK) st = load(*out, source, set, err);
    hwloc_bitmap_free(set);
    if (st == FG_OK) return FG_OK;
    fg_topo_destroy(*out);
    *out = NULL;
    return st;
}

void fg_topo_destroy(fg_topo *t)
{
    if (t == NULL) return;
    hwloc_topology_destroy(t->topology);
    fg_mem_free(t->node_of);
    fg_mem_free(t);
}

uint32_t fg_topo_n_core(const fg_topo *t)
{
    return t->n_core;
}

uint32_t fg_topo_n_node(const fg_topo *t)
{
    return t->n_node;
}

uint32_t fg_topo_node_of(const fg_topo *t, uint32_t core)
{
    return t->node_of[core];
}

uint32_t fg_topo_node_at(const fg_topo *t, uint32_t os_idx)
{
    for (uint32_t i = 0; i < t->n_node; i++) {
        if (t->node[i] == NULL ? os_idx == 0 : t->node[i]->os_index == os_idx) return i;
    }
    return UINT32_MAX;
}

/* ---- binding ---- */

static bool is_here(const fg_topo *t)
{
    return hwloc_topology_is_thissystem(t->topology) != 0;
}

bool fg_topo_bind_self(const fg_topo *t, uint32_t i)
{
    if (i >= t->n_core || !is_here(t)) return false;
    return hwloc_set_cpubind(t->topology, core_at(t, i)->cpuset, HWLOC_CPUBIND_THREAD) == 0;
}

bool fg_topo_bind_self_to_nodes(const fg_topo *t, uint64_t nodes)
{
    if (!is_here(t)) return false;
    hwloc_bitmap_t cpus = hwloc_bitmap_alloc();
    bool ok = cpus != NULL;
    for (uint32_t i = 0; i < t->n_core && ok; i++) {
        if ((nodes >> t->node_of[i] & 1) == 0) continue;
        ok = hwloc_bitmap_or(cpus, cpus, core_at(t, i)->cpuset) == 0;
    }
    ok = ok && hwloc_set_cpubind(t->topology, cpus, HWLOC_CPUBIND_THREAD) == 0;
    hwloc_bitmap_free(cpus);
    return ok;
}

fg_status fg_topo_bind_memory(const fg_topo *t, uint64_t nodes, bool in_turn, void *p, size_t bytes,
                              fg_err *err)
{
    if (!is_here(t)) {
        return fg_fail(err, FG_ENOTSUP,
                       "topology: a described one, expected this machine's to "
                       "bind memory");
    }
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    bool ok = set != NULL;
    for (uint32_t i = 0; i < t->n_node && ok; i++) {
        if ((nodes >> i & 1) == 0 || t->node[i] == NULL) continue;
        ok = hwloc_bitmap_or(set, set, t->node[i]->nodeset) == 0;
    }
    if (!ok) {
        hwloc_bitmap_free(set);
        return fg_fail_nomem(err, "topology");
    }
    ok = hwloc_bitmap_iszero(set) || /* a machine without nodes: nothing to choose */
         hwloc_set_area_membind(t->topology, p, bytes, set,
                                in_turn ? HWLOC_MEMBIND_INTERLEAVE : HWLOC_MEMBIND_BIND,
                                HWLOC_MEMBIND_BYNODESET) == 0;
    const int e = errno;
    hwloc_bitmap_free(set);
    if (ok) return FG_OK;
    return fg_fail(err, FG_EIO, "memory: binding to a node: %s, expected to be allowed",
                   strerror(e));
}

/* ---- limits ---- */

uint32_t fg_cpu_budget(void)
{
    uint32_t n = mask_count(allowed_cpus());
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    if (n == 0 && online > 0) n = (uint32_t)online; /* the system does not say which are ours */
    const uint32_t quota = fg_cgroup_cpus("");
    if (quota < n) n = quota;
    return n < 1 ? 1 : n;
}
