/* SPDX-License-Identifier: MIT
 *
 * Only packages, last-level caches, cores and nodes are kept: the rest would cost start-up time and
 * nobody here asks for it.  hwloc is told to list what may not be used as well, so that a node
 * without allowed memory can be named rather than be missing.
 */
#include "src/sys/topo.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <hwloc.h>
#include <linux/mempolicy.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/base/units.h"
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

/* Why a memory node is none of ours. */
typedef enum fate {
    OWNS,      /* it is one */
    NO_CPU,    /* memory alone */
    NOT_OURS,  /* none of its CPUs may be used */
    CLOSED,    /* its memory may not be used */
    NO_MEMORY, /* CPUs alone */
    SECOND,    /* another node of the same CPUs comes before it */
} fate;

typedef struct memory {
    hwloc_obj_t obj;
    uint64_t bytes;
    uint32_t node; /* number among ours, when it OWNS */
    fate fate;
    bool has_cpu; /* of the machine, may it be used or not */
} memory;

struct fg_topo {
    hwloc_topology_t topology;
    hwloc_obj_type_t core_type; /* HWLOC_OBJ_PU where cores are not known */
    uint32_t n_core, n_node, n_memory;
    uint32_t *node_of; /* [n_core] */
    uint8_t *worth;    /* [n_core] */
    memory *memory;    /* [n_memory] all memory nodes in hwloc's order; none on a machine without */
    uint32_t *distance;          /* [n_memory][n_memory]; NULL: unknown */
    uint32_t owner[FG_MAX_NODE]; /* the memory node of each of ours */
};

static hwloc_obj_t core_at(const fg_topo *t, uint32_t i)
{
    return hwloc_get_obj_by_type(t->topology, t->core_type, i);
}

static const memory *memory_of(const fg_topo *t, uint32_t node)
{
    return &t->memory[t->owner[node]];
}

static uint32_t count(const fg_topo *t, hwloc_obj_type_t type)
{
    const int n = hwloc_get_nbobjs_by_type(t->topology, type);
    return n < 0 ? 0 : (uint32_t)n;
}

/* Before CPUs that are not ours are taken out: which memory has CPUs at all. */
static fg_status list_memory(fg_topo *t, fg_err *err)
{
    t->n_memory = count(t, HWLOC_OBJ_NUMANODE);
    t->memory = fg_mem_zalloc_array(t->n_memory, sizeof *t->memory);
    if (t->memory == NULL && t->n_memory != 0) return fg_fail_nomem(err, "topology");
    for (uint32_t i = 0; i < t->n_memory; i++) {
        const hwloc_obj_t o = hwloc_get_obj_by_type(t->topology, HWLOC_OBJ_NUMANODE, i);
        t->memory[i].has_cpu = !hwloc_bitmap_iszero(o->cpuset);
    }
    return FG_OK;
}

static fg_status find_distances(fg_topo *t, fg_err *err)
{
    struct hwloc_distances_s *d = NULL;
    unsigned n = 1;
    if (hwloc_distances_get_by_type(t->topology, HWLOC_OBJ_NUMANODE, &n, &d,
                                    HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0) != 0 ||
        n == 0) {
        return FG_OK;
    }
    t->distance = fg_mem_zalloc_array((size_t)t->n_memory * t->n_memory, sizeof *t->distance);
    for (unsigned i = 0; i < d->nbobjs && t->distance != NULL; i++) {
        for (unsigned j = 0; j < d->nbobjs; j++) {
            if (d->objs[i] == NULL || d->objs[j] == NULL) continue;
            const uint64_t v = d->values[i * d->nbobjs + j];
            t->distance[d->objs[i]->logical_index * t->n_memory + d->objs[j]->logical_index] =
                v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
        }
    }
    hwloc_distances_release(t->topology, d);
    return t->distance == NULL ? fg_fail_nomem(err, "topology") : FG_OK;
}

/* Cores that nobody serves who may be used: to the nearest node that owns something. */
static void give_to_nearest(fg_topo *t)
{
    for (uint32_t c = 0; c < t->n_core; c++) {
        uint32_t home = 0, best = 0, least = UINT32_MAX;
        if (t->node_of[c] != UINT32_MAX) continue;
        while (home < t->n_memory &&
               !hwloc_bitmap_intersects(t->memory[home].obj->cpuset, core_at(t, c)->cpuset)) {
            home++;
        }
        for (uint32_t k = 0; k < t->n_node && home < t->n_memory && t->distance != NULL; k++) {
            const uint32_t d = t->distance[home * t->n_memory + t->owner[k]];
            if (d >= least) continue;
            best = k;
            least = d;
        }
        t->node_of[c] = best;
    }
}

/* Of no node's CPUs in particular, as memory on a bus is: hwloc has it near all of them. */
static bool is_far(const fg_topo *t, const memory *m)
{
    uint32_t of = UINT32_MAX;
    for (uint32_t c = 0; c < t->n_core; c++) {
        if (!hwloc_bitmap_intersects(m->obj->cpuset, core_at(t, c)->cpuset)) continue;
        if (of != UINT32_MAX && t->node_of[c] != of) return true;
        of = t->node_of[c];
    }
    return false;
}

static void judge(fg_topo *t)
{
    const hwloc_const_bitmap_t may = hwloc_topology_get_allowed_nodeset(t->topology);
    uint64_t all_bytes = 0;
    for (uint32_t i = 0; i < t->n_memory; i++) {
        t->memory[i].obj = hwloc_get_obj_by_type(t->topology, HWLOC_OBJ_NUMANODE, i);
        t->memory[i].bytes = t->memory[i].obj->attr->numanode.local_memory;
        all_bytes += t->memory[i].bytes;
    }
    for (uint32_t i = 0; i < t->n_memory; i++) {
        memory *m = &t->memory[i];
        m->fate = SECOND;
        /* where nobody says how much there is, that it is none is not known either */
        if (m->bytes == 0 && all_bytes != 0) m->fate = NO_MEMORY;
        if (!hwloc_bitmap_isset(may, m->obj->os_index)) m->fate = CLOSED;
        if (hwloc_bitmap_iszero(m->obj->cpuset)) m->fate = m->has_cpu ? NOT_OURS : NO_CPU;
    }
}

/* A core belongs to the node that serves the fewest others beside it, the first of those; nodes are
 * numbered in hwloc's order. */
static bool find_nodes(fg_topo *t)
{
    judge(t);
    for (uint32_t c = 0; c < t->n_core; c++) {
        int least = INT_MAX;
        t->node_of[c] = UINT32_MAX; /* till they are numbered: the memory node */
        for (uint32_t i = 0; i < t->n_memory; i++) {
            const memory *m = &t->memory[i];
            if (m->fate != SECOND && m->fate != OWNS) continue;
            if (!hwloc_bitmap_intersects(m->obj->cpuset, core_at(t, c)->cpuset)) continue;
            if (hwloc_bitmap_weight(m->obj->cpuset) >= least) continue;
            least = hwloc_bitmap_weight(m->obj->cpuset);
            t->node_of[c] = i;
        }
        if (t->node_of[c] != UINT32_MAX) t->memory[t->node_of[c]].fate = OWNS;
    }
    for (uint32_t i = 0; i < t->n_memory; i++) {
        memory *m = &t->memory[i];
        if (m->fate == SECOND && is_far(t, m)) m->fate = NO_CPU;
        if (m->fate != OWNS) continue;
        if (t->n_node == FG_MAX_NODE) return false;
        m->node = t->n_node;
        t->owner[t->n_node++] = i;
    }
    for (uint32_t c = 0; c < t->n_core; c++) {
        if (t->node_of[c] != UINT32_MAX) t->node_of[c] = t->memory[t->node_of[c]].node;
    }
    give_to_nearest(t);
    if (t->n_node == 0) { /* no node at all, or none that may be used: as if there were one */
        t->n_memory = 0;
        t->n_node = 1;
    }
    return true;
}

static void find_kinds(fg_topo *t)
{
    hwloc_bitmap_t fast = hwloc_bitmap_alloc(), set = hwloc_bitmap_alloc();
    uint32_t n_fast = 0;
    int most = -1;
    const int n = fast == NULL || set == NULL ? 0 : hwloc_cpukinds_get_nr(t->topology, 0);
    for (int i = 0; i < n; i++) {
        int efficiency = -1; /* hwloc's word for speed; -1: it does not know which is faster */
        if (hwloc_cpukinds_get_info(t->topology, (unsigned)i, set, &efficiency, NULL, NULL, 0) !=
                0 ||
            efficiency <= most) {
            continue;
        }
        most = efficiency;
        (void)hwloc_bitmap_copy(fast, set);
    }
    for (uint32_t c = 0; c < t->n_core; c++) {
        const bool is = most >= 0 && hwloc_bitmap_intersects(fast, core_at(t, c)->cpuset);
        t->worth[c] = is ? 2 : 1;
        n_fast += is;
    }
    if (n_fast == t->n_core) memset(t->worth, 1, t->n_core);
    hwloc_bitmap_free(fast);
    hwloc_bitmap_free(set);
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
    (void)hwloc_topology_set_flags(topology, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
    (void)hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE);
    (void)hwloc_topology_set_type_filter(topology, HWLOC_OBJ_PACKAGE, HWLOC_TYPE_FILTER_KEEP_ALL);
    (void)hwloc_topology_set_type_filter(topology, HWLOC_OBJ_L3CACHE, HWLOC_TYPE_FILTER_KEEP_ALL);
    (void)hwloc_topology_set_type_filter(topology, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
    (void)hwloc_topology_set_type_filter(topology, HWLOC_OBJ_GROUP,
                                         HWLOC_TYPE_FILTER_KEEP_STRUCTURE);
    return FG_OK;
}

/* Leaves the CPUs that control groups allow, and of those only these (NULL: all). */
static fg_status restrict_to(const fg_topo *t, hwloc_const_bitmap_t cpus, fg_err *err)
{
    hwloc_bitmap_t set = hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(t->topology));
    bool ok = set != NULL;
    if (ok && cpus != NULL) ok = hwloc_bitmap_and(set, set, cpus) == 0;
    ok = ok && hwloc_topology_restrict(t->topology, set, 0) == 0;
    hwloc_bitmap_free(set);
    if (ok) return FG_OK;
    return fg_fail(err, FG_EINVAL, "topology: none of its CPUs may be used, expected some");
}

/* Reads the machine that start's caller chose. */
static fg_status load(fg_topo *t, const char *name, hwloc_const_bitmap_t cpus, fg_err *err)
{
    if (hwloc_topology_load(t->topology) != 0) {
        return fg_fail(err, FG_EINVAL, "topology: %s, expected a machine that hwloc %u can read",
                       name, hwloc_get_api_version() >> 16); /* files of a later one differ */
    }
    FG_TRY(list_memory(t, err));
    FG_TRY(restrict_to(t, cpus, err));
    t->core_type = HWLOC_OBJ_CORE;
    if ((t->n_core = count(t, HWLOC_OBJ_CORE)) == 0) {
        t->core_type = HWLOC_OBJ_PU;
        t->n_core = count(t, HWLOC_OBJ_PU); /* a loaded topology has one */
    }
    t->node_of = fg_mem_zalloc_array(t->n_core, sizeof *t->node_of);
    t->worth = fg_mem_zalloc_array(t->n_core, sizeof *t->worth);
    if (t->node_of == NULL || t->worth == NULL) return fg_fail_nomem(err, "topology");
    FG_TRY(find_distances(t, err));
    find_kinds(t);
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

enum { SIDE_BY_SIDE = 64 };

/* Of what is a product, the largest factor up to its root. */
static uint64_t factor_of(uint64_t n)
{
    uint64_t best = 1;
    for (uint64_t i = 2; i * i <= n; i++) best = n % i == 0 ? i : best;
    return best;
}

/* The type of a level, "core" of "core:8(memory=1GB)"; 0: it has none. */
static size_t type_length(const char *text, size_t len)
{
    const size_t n = strcspn(text, ":([");
    return n < len && text[n] == ':' ? n : 0;
}

/* One level of a description, text[len]: "core:8", "8", with attributes behind it.  *n: CPUs of the
 * levels so far.  May it be put into groups? */
static void put_level(fg_buf *b, const char *text, size_t len, bool grouped, uint64_t *n)
{
    const size_t type = type_length(text, len);
    const char *count = type != 0 ? text + type + 1 : text;
    char *end;
    uint64_t v = strtoull(count, &end, 0); /* any base, as hwloc has it */
    if (end > text + len) {                /* "core: 8" */
        end = (char *)(uintptr_t)count;
        v = 0;
    }
    const uint64_t groups = !grouped || v <= SIDE_BY_SIDE || v > MASK_CPUS ? 1 : factor_of(v);
    if (end != count) *n = v > MASK_CPUS ? (uint64_t)MASK_CPUS + 1 : *n * (v == 0 ? 1 : v);
    if (groups == 1) {
        fg_buf_put(b, text, len);
    } else {
        fg_buf_printf(b, "group:%llu %.*s%llu%.*s", (unsigned long long)groups, (int)(count - text),
                      text, (unsigned long long)(v / groups), (int)(text + len - end), end);
    }
}

static size_t level_length(const char *s)
{
    size_t len = 0;
    uint32_t inside = 0; /* attributes, which may have spaces */
    for (; s[len] != '\0' && (inside > 0 || !isspace((unsigned char)s[len])); len++) {
        inside += s[len] == '(' || s[len] == '[';
        inside -= inside > 0 && (s[len] == ')' || s[len] == ']');
    }
    return len;
}

/* hwloc compares each object with all that it has put beside it, so that thousands would take it
 * minutes: many side by side are put into groups, which nothing else here looks at.  And it would
 * take hours, and memory, for what somebody mistyped: the counts of a description multiply.  Where
 * a level has no type, hwloc gives it one by its place, which a group would change. */
static fg_status describe(const char *text, fg_buf *b, fg_err *err)
{
    uint64_t n = 1;
    bool typed = true;
    for (const char *s = text; *s != '\0'; s += level_length(s) + (s[level_length(s)] != '\0')) {
        typed = typed && (level_length(s) == 0 || type_length(s, level_length(s)) != 0);
    }
    for (const char *s = text; *s != '\0';) {
        const size_t len = level_length(s);
        if (len > 0) put_level(b, s, len, typed, &n);
        if (n > MASK_CPUS) {
            return fg_fail(err, FG_ELIMIT, "topology: %s: too many CPUs, expected at most %d", text,
                           MASK_CPUS);
        }
        if (s[len] != '\0') fg_buf_put_str(b, " ");
        s += len + (s[len] != '\0');
    }
    return fg_buf_str(b) == NULL ? fg_fail_nomem(err, "topology") : FG_OK;
}

/* Tells hwloc what to read. */
static fg_status choose(const fg_topo *t, const char *source, bool is_file, fg_err *err)
{
    fg_buf text = {0};
    fg_status st = is_file ? FG_OK : describe(source, &text, err);
    if (st == FG_OK &&
        (is_file ? hwloc_topology_set_xml(t->topology, source)
                 : hwloc_topology_set_synthetic(t->topology, fg_buf_str(&text))) != 0) {
        st = fg_fail(err, FG_EINVAL,
                     "topology: %s, expected an hwloc XML file or a description such as "
                     "\"node:2 core:8 pu:1\"",
                     source);
    }
    fg_buf_fini(&text);
    return st;
}

fg_status fg_topo_create_from(fg_topo **out, const char *source, const char *cpus, fg_err *err)
{
    struct stat sb;
    *out = NULL;
    const bool there = stat(source, &sb) == 0;
    if (there && !S_ISREG(sb.st_mode)) {
        return fg_fail(err, FG_EINVAL, "topology: %s: no plain file, expected an hwloc XML file",
                       source);
    }
    FG_TRY(start(out, err));
    hwloc_bitmap_t set = NULL;
    fg_status st = choose(*out, source, there, err);
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
    fg_mem_free(t->worth);
    fg_mem_free(t->memory);
    fg_mem_free(t->distance);
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

uint32_t fg_topo_worth(const fg_topo *t, uint32_t core)
{
    return t->worth[core];
}

uint64_t fg_topo_node_bytes(const fg_topo *t, uint32_t node)
{
    return t->n_memory == 0 ? 0 : memory_of(t, node)->bytes;
}

uint32_t fg_topo_distance(const fg_topo *t, uint32_t a, uint32_t b)
{
    if (t->distance == NULL || t->n_memory == 0) return 0;
    return t->distance[t->owner[a] * t->n_memory + t->owner[b]];
}

uint32_t fg_topo_n_memory(const fg_topo *t)
{
    return t->n_memory;
}

uint32_t fg_topo_os_node(const fg_topo *t, uint32_t node)
{
    return t->n_memory == 0 ? UINT32_MAX : (uint32_t)memory_of(t, node)->obj->os_index;
}

uint32_t fg_topo_node_at(const fg_topo *t, uint32_t os_idx)
{
    for (uint32_t k = 0; k < t->n_node; k++) {
        if (t->n_memory == 0 ? os_idx == 0 : memory_of(t, k)->obj->os_index == os_idx) return k;
    }
    return UINT32_MAX;
}

/* ---- in words ---- */

fg_topo_sum fg_topo_sums(const fg_topo *t)
{
    fg_topo_sum s = {
        .n_core = t->n_core,
        .n_cpu = count(t, HWLOC_OBJ_PU),
        .n_cache = count(t, HWLOC_OBJ_L3CACHE),
    };
    uint32_t n_best = 0;
    for (uint32_t i = 0; i < count(t, HWLOC_OBJ_PACKAGE); i++) {
        const hwloc_obj_t o = hwloc_get_obj_by_type(t->topology, HWLOC_OBJ_PACKAGE, i);
        s.n_package += !hwloc_bitmap_iszero(o->cpuset); /* else only its memory is left */
    }
    for (uint32_t i = 0; i < s.n_cache; i++) {
        s.cache_bytes += hwloc_get_obj_by_type(t->topology, HWLOC_OBJ_L3CACHE, i)->attr->cache.size;
    }
    for (uint32_t i = 0; i < t->n_core; i++) n_best += t->worth[i] > 1;
    s.n_fast = n_best == 0 ? t->n_core : n_best;
    for (uint32_t i = 0; i < t->n_memory; i++) s.n_idle += t->memory[i].fate != OWNS;
    return s;
}

static void put_node(const fg_topo *t, const memory *m, fg_buf *b)
{
    static const char *const why[] = {
        [NO_CPU] = "memory only",        [NOT_OURS] = "no CPU that may be used",
        [CLOSED] = "memory not allowed", [NO_MEMORY] = "no memory",
        [SECOND] = "second of its CPUs",
    };
    uint32_t n = 0;
    fg_buf_printf(b, "; node %u:", m->obj->os_index);
    for (uint32_t c = 0; c < t->n_core && m->fate == OWNS; c++) n += t->node_of[c] == m->node;
    if (m->fate == OWNS) fg_buf_printf(b, " %u core%s", n, n == 1 ? "" : "s");
    if (m->bytes != 0) {
        fg_buf_printf(b, "%s %s", m->fate == OWNS ? "," : "", fg_text_memory((double)m->bytes).s);
    }
    if (m->fate != OWNS) {
        fg_buf_printf(b, "%s owns nothing (%s)", m->bytes != 0 ? "," : "", why[m->fate]);
        return;
    }
    if (t->distance == NULL || t->n_node == 1) return;
    for (uint32_t k = 0; k < t->n_node; k++) {
        fg_buf_printf(b, "%s%u", k == 0 ? ", distances " : " ", fg_topo_distance(t, m->node, k));
    }
}

void fg_topo_put(const fg_topo *t, fg_buf *b)
{
    const fg_topo_sum s = fg_topo_sums(t);
    if (s.n_package != 0) {
        fg_buf_printf(b, "%u package%s, ", s.n_package, s.n_package == 1 ? "" : "s");
    }
    fg_buf_printf(b, "%u core%s", s.n_core, s.n_core == 1 ? "" : "s");
    if (s.n_fast != s.n_core) fg_buf_printf(b, " (%u fast)", s.n_fast);
    if (s.n_cpu != s.n_core) fg_buf_printf(b, " with %u threads", s.n_cpu);
    if (s.n_cache != 0) {
        fg_buf_printf(b, ", %u last-level cache%s of %s in all", s.n_cache,
                      s.n_cache == 1 ? "" : "s", fg_text_memory((double)s.cache_bytes).s);
    }
    for (uint32_t i = 0; i < t->n_memory; i++) put_node(t, &t->memory[i], b);
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

/* NULL: out of memory. */
static hwloc_bitmap_t memory_set(const fg_topo *t, uint64_t nodes)
{
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    bool ok = set != NULL;
    for (uint32_t i = 0; i < t->n_node && ok; i++) {
        if ((nodes >> i & 1) == 0 || t->n_memory == 0) continue;
        ok = hwloc_bitmap_or(set, set, memory_of(t, i)->obj->nodeset) == 0;
    }
    if (ok) return set;
    hwloc_bitmap_free(set);
    return NULL;
}

bool fg_topo_prefer(const fg_topo *t, uint64_t nodes, bool in_turn)
{
    if (!is_here(t) || t->n_memory == 0) return false;
    hwloc_bitmap_t set = memory_set(t, nodes);
    const bool ok =
        set != NULL &&
        hwloc_set_membind(t->topology, set, in_turn ? HWLOC_MEMBIND_INTERLEAVE : HWLOC_MEMBIND_BIND,
                          HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET) == 0;
    hwloc_bitmap_free(set);
    return ok;
}

void fg_preference_save(fg_preference *p)
{
    const unsigned long bits = 8 * sizeof p->nodes;
    if (syscall(SYS_get_mempolicy, &p->mode, p->nodes, bits, NULL, 0) != 0) p->mode = -1;
}

void fg_preference_restore(const fg_preference *p)
{
    if (p->mode == MPOL_DEFAULT) {
        (void)syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
    } else if (p->mode > 0) {
        (void)syscall(SYS_set_mempolicy, p->mode, p->nodes, 8 * sizeof p->nodes);
    }
}

fg_status fg_topo_bind_memory(const fg_topo *t, uint64_t nodes, bool in_turn, void *p, size_t bytes,
                              fg_err *err)
{
    if (!is_here(t)) {
        return fg_fail(err, FG_ENOTSUP,
                       "topology: a described one, expected this machine's to "
                       "bind memory");
    }
    hwloc_bitmap_t set = memory_set(t, nodes);
    if (set == NULL) return fg_fail_nomem(err, "topology");
    const bool ok = hwloc_bitmap_iszero(set) || /* a machine without nodes: nothing to choose */
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

uint32_t fg_cpu_free(void)
{
    char text[96];
    unsigned long running = 0;
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    const int fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return UINT32_MAX;
    const ssize_t n = read(fd, text, sizeof text - 1); /* "0.20 0.18 0.12 3/80 11206" */
    (void)close(fd);
    text[n > 0 ? n : 0] = '\0';
    if (sscanf(text, "%*s %*s %*s %lu/", &running) != 1 || running == 0 || online < 1) {
        return UINT32_MAX;
    }
    const unsigned long others = running - 1, all = (unsigned long)online;
    return others < all ? (uint32_t)(all - others) : 1;
}
