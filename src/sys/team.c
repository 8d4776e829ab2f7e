/* SPDX-License-Identifier: MIT
 *
 * Barrier: the workers of a node meet in groups of at most 8, the last one of each group meets the
 * last ones of the others, and the very last one releases all groups, so that a cache line is
 * fought for by a few neighbours: arrivals are counted on one line a group and one for the groups,
 * release is a generation number on another line a group.  8: cores that share a cache are often
 * that many, and seats of a node are dealt in the order of its cores.
 *
 * Waiters spin on the generation for some 20 us (a step of a small model), then sleep on it with
 * futex.  A worker that spun in vain, because somebody it waits for is off its core, spins half as
 * long the next time, down to a few us: what it waits for may need the very core.  When there are
 * more workers than CPUs, they sleep at once.
 *
 * Both ways to have threads, OpenMP's and our own, are here (hence 800 lines): all else is theirs
 * in common.
 *
 * What is taken of a node's items is one counter: those taken from the front, by its own workers,
 * in the lower half, and those taken from the back, by others, in the upper.
 */
#include "src/sys/team.h"

#include <assert.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#if FG_OPENMP
#include <omp.h>
#endif

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/sys/pace.h"
#include "src/sys/topo.h"

enum { SPIN_ROUNDS = 4000, SPIN_LEAST = 400 }; /* pause instructions: 4000 are 10 to 50 us */
enum { PATIENCE = 16 };                        /* of them, where a device is waited for */
enum { GROUP = 8 };

typedef struct counter {
    _Alignas(FG_CACHE_LINE) atomic_ullong taken; /* since the last barrier */
} counter;

/* Where n wait for each other: workers of a group, or groups. */
typedef struct meeting {
    _Alignas(FG_CACHE_LINE) atomic_uint arrived;
    uint32_t n; /* in this run */
    /* of the one that everybody comes through, and that changes hands last: */
    atomic_uint sleepers;
    uint32_t generation; /* the latest */
} meeting;

typedef struct group {
    meeting in;
    _Alignas(FG_CACHE_LINE) atomic_uint generation; /* futex word */
} group;

/* What a worker knows of itself. */
typedef struct self {
    _Alignas(FG_CACHE_LINE) uint32_t spin_rounds; /* of its next wait */
    uint32_t group;
    uint64_t off_ns; /* that its thread has waited for a core, ever, when it last looked */
    bool off;        /* it has waited much since it looked before */
} self;

struct fg_team {
    meeting root; /* of the groups, if there are several */
    _Alignas(FG_CACHE_LINE) uint32_t n;
    uint32_t n_run; /* workers of this run */
    uint32_t n_long;
    uint32_t spin_most, spin_least;
    uint32_t n_node;
    fg_topo *topo; /* NULL: not pinned */
    fg_place *place;
    counter *counters; /* [n_node]; items of no node: [0] */
    self *self;        /* [n] */
    group *group;      /* [n_group] */
    uint32_t n_group;
    uint32_t *met; /* [n_met] groups that have a worker in this run */
    uint32_t n_met;
    meeting *last; /* the root, or the only group's */
    fg_pace pace;
    bool look;                    /* this run looks who has waited for a core, */
    uint64_t looked_ns;           /* since then */
    uint32_t n_here[FG_MAX_NODE]; /* workers of this run on each node */
    bool owner_bound;             /* the thread that runs is attached to some team */
    bool attached;
    pthread_t attached_by;
    void (*fn)(fg_worker *w, void *arg);
    void *arg;
#if !FG_OPENMP
    pthread_t *threads; /* [n - 1], workers 1 .. n-1 */
    uint32_t n_started;
    pthread_mutex_t lock; /* protects run_no, n_run and stop */
    pthread_cond_t wake;
    uint64_t run_no;
    bool stop;
#endif
};

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(atomic_uint *word, unsigned value)
{
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake_all(atomic_uint *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 0x7fffffff, NULL, NULL, 0);
}

/* Nothing is taken at the beginning of a step. */
static void reset_counters(fg_team *t)
{
    for (uint32_t k = 0; k < t->n_node; k++) {
        atomic_store_explicit(&t->counters[k].taken, 0, memory_order_relaxed);
    }
}

/* True for the last one, who finds what all the others wrote.  For the others the next run may have
 * begun as soon as they are counted. */
static bool is_last(meeting *m)
{
    const uint32_t n = m->n;
    if (n == 1) return true;
    if (atomic_fetch_add_explicit(&m->arrived, 1, memory_order_acq_rel) + 1 != n) return false;
    atomic_store_explicit(&m->arrived, 0, memory_order_relaxed); /* nobody comes before release */
    return true;
}

/* The group of worker 0, met[0], goes last: once it is free the next run may begin, and may have
 * other groups that meet. */
static void release(fg_team *t, meeting *last)
{
    const unsigned gen = ++last->generation;
    reset_counters(t);
    for (uint32_t i = t->n_met; i-- > 0;) {
        atomic_store_explicit(&t->group[t->met[i]].generation, gen, memory_order_release);
    }
    /* Of two changes of `sleepers` one comes first: either this one sees the sleeper, or the
     * sleeper, who comes after it, sees the generation. */
    if (atomic_fetch_add(&last->sleepers, 0) == 0) return;
    for (uint32_t i = 0; i < t->n_group; i++) futex_wake_all(&t->group[i].generation);
}

static void sync_workers(fg_worker *w, uint32_t patience)
{
    fg_team *t = w->team;
    w->rest.begin = w->rest.end = 0;
    if (w->n == 1) {
        reset_counters(t);
        return;
    }
    self *me = &t->self[w->idx];
    group *g = &t->group[me->group];
    meeting *last = t->last; /* the next run, which may begin before all are awake, has its own */
    const unsigned gen = atomic_load_explicit(&g->generation, memory_order_relaxed);
    if (is_last(&g->in) && (last == &g->in || is_last(last))) {
        release(t, last);
        return;
    }
    for (uint64_t i = 0; i < (uint64_t)me->spin_rounds * patience; i++) {
        if (atomic_load_explicit(&g->generation, memory_order_acquire) != gen) {
            if (me->spin_rounds < t->spin_most) me->spin_rounds *= 2;
            return;
        }
        cpu_relax();
    }
    if (me->spin_rounds > t->spin_least) me->spin_rounds /= 2;
    atomic_fetch_add(&last->sleepers, 1);
    while (atomic_load(&g->generation) == gen) futex_wait(&g->generation, gen);
    atomic_fetch_sub(&last->sleepers, 1);
}

void fg_worker_sync(fg_worker *w)
{
    sync_workers(w, 1);
}

void fg_worker_sync_patient(fg_worker *w)
{
    sync_workers(w, PATIENCE);
}

/* ---- sharing out ---- */

void fg_worker_range(const fg_worker *w, uint64_t n, uint64_t *begin, uint64_t *end)
{
    const uint64_t each = n / w->n, more = n % w->n, i = w->idx;
    *begin = each * i + (i < more ? i : more);
    *end = *begin + each + (i < more ? 1 : 0);
}

bool fg_worker_take_items(fg_worker *w, uint64_t n, uint64_t *begin, uint64_t *end)
{
    atomic_ullong *taken = &w->team->counters[0].taken;
    unsigned long long at = atomic_load_explicit(taken, memory_order_relaxed), part;
    do {
        if (at >= n) return false;
        part = (n - at) / (2 * (unsigned long long)w->n);
        if (part < 1) part = 1;
    } while (!atomic_compare_exchange_weak_explicit(taken, &at, at + part, memory_order_relaxed,
                                                    memory_order_relaxed));
    *begin = at;
    *end = at + part;
    return true;
}

enum { BACK_SHIFT = 32 };
#define FRONT_MASK 0xffffffffull

static uint64_t items_of(const fg_work_list *l, uint32_t node)
{
    uint64_t n = 0;
    for (size_t i = 0; i < l->n_row; i++) {
        n += l->row[i].share->begin[node + 1] - l->row[i].share->begin[node];
    }
    assert(n <= FRONT_MASK);
    return n;
}

static uint64_t left_of(unsigned long long taken, uint64_t n)
{
    return n - (taken & FRONT_MASK) - (taken >> BACK_SHIFT);
}

/* From the front of a node's items; n_sharing: workers among whom what is left is split. */
static bool take_front(fg_worker *w, const fg_work_list *l, uint32_t node, uint64_t n_sharing)
{
    atomic_ullong *taken = &w->team->counters[node].taken;
    const uint64_t n = items_of(l, node);
    unsigned long long at = atomic_load_explicit(taken, memory_order_relaxed);
    uint64_t part;
    do {
        const uint64_t left = left_of(at, n);
        if (left == 0) return false;
        part = left / (2 * n_sharing);
        if (part < 1) part = 1;
    } while (!atomic_compare_exchange_weak_explicit(taken, &at, at + part, memory_order_relaxed,
                                                    memory_order_relaxed));
    w->rest.node = node;
    w->rest.begin = at & FRONT_MASK;
    w->rest.end = w->rest.begin + part;
    return true;
}

/* Items at the back that others may still take: of the last eighth, and not taken. */
static uint64_t open_to_others(unsigned long long taken, uint64_t n)
{
    const uint64_t eighth = n / 8 - (taken >> BACK_SHIFT), left = left_of(taken, n);
    return left < eighth ? left : eighth;
}

static bool take_back(fg_worker *w, const fg_work_list *l, uint32_t node)
{
    atomic_ullong *taken = &w->team->counters[node].taken;
    const uint64_t n = items_of(l, node);
    unsigned long long at = atomic_load_explicit(taken, memory_order_relaxed);
    uint64_t part;
    do {
        const uint64_t open = open_to_others(at, n);
        if (open == 0) return false;
        part = open / (2 * (uint64_t)w->n);
        if (part < 1) part = 1;
    } while (!atomic_compare_exchange_weak_explicit(taken, &at, at + (part << BACK_SHIFT),
                                                    memory_order_relaxed, memory_order_relaxed));
    w->rest.node = node;
    w->rest.end = n - (at >> BACK_SHIFT);
    w->rest.begin = w->rest.end - part;
    return true;
}

/* The node with most left among those without a worker in this run, or among the others with
 * something for us; UINT32_MAX when there is none. */
static uint32_t most_left(const fg_worker *w, const fg_work_list *l, bool manned)
{
    const fg_team *t = w->team;
    uint32_t best = UINT32_MAX;
    uint64_t most = 0;
    for (uint32_t k = 0; k < t->n_node; k++) {
        if (k == w->node || (t->n_here[k] != 0) != manned) continue;
        const unsigned long long at =
            atomic_load_explicit(&t->counters[k].taken, memory_order_relaxed);
        const uint64_t n = items_of(l, k), left = left_of(at, n);
        if (left <= most || (manned && open_to_others(at, n) == 0)) continue;
        most = left;
        best = k;
    }
    return best;
}

static bool take_elsewhere(fg_worker *w, const fg_work_list *l)
{
    uint32_t k;
    while ((k = most_left(w, l, false)) != UINT32_MAX) {
        if (take_front(w, l, k, w->n)) return true;
    }
    while (!l->strict && (k = most_left(w, l, true)) != UINT32_MAX) {
        if (take_back(w, l, k)) return true;
    }
    return false;
}

bool fg_worker_take(fg_worker *w, const fg_work_list *l, fg_work_piece *out)
{
    if (w->rest.begin == w->rest.end && !take_front(w, l, w->node, w->n_in_node) &&
        !(w->team->n_node > 1 && take_elsewhere(w, l))) {
        return false;
    }
    uint64_t first = 0; /* number, among the node's items, of the row's first */
    for (size_t i = 0;; i++) {
        const uint64_t *own = &l->row[i].share->begin[w->rest.node];
        const uint64_t n = own[1] - own[0];
        if (w->rest.begin < first + n) {
            const uint64_t last = w->rest.end < first + n ? w->rest.end : first + n;
            *out = (fg_work_piece){i, own[0] + w->rest.begin - first, own[0] + last - first,
                                   w->rest.node};
            w->rest.begin = last;
            return true;
        }
        first += n;
    }
}

/* ---- binding ---- */

/* Where a thread has been bound by a team. */
typedef struct post {
    enum { AS_IT_CAME, FREE, ON_CORE, ON_NODES } kind;
    uint64_t at; /* core, or nodes */
} post;

/* The backend may give several teams the same threads, and replace a team's, so that each thread
 * knows for itself. */
static _Thread_local post here;

static void bind_to(const fg_team *t, post p)
{
    /* refused: runs unpinned, only slower */
    switch (p.kind) {
    case AS_IT_CAME: break;
    case FREE: fg_binding_clear(); break;
    case ON_CORE: (void)fg_topo_bind_self(t->topo, (uint32_t)p.at); break;
    case ON_NODES: (void)fg_topo_bind_self_to_nodes(t->topo, p.at); break;
    }
}

static post post_of(const fg_team *t, uint32_t idx)
{
    const fg_seat *s = &t->place->seat[idx];
    if (t->topo == NULL) return (post){FREE, 0};
    if (s->alone) return (post){ON_CORE, s->core};
    return (post){ON_NODES, t->place->node[s->node].real};
}

/* A worker that no team has bound is left as it came where it need not be on a core, unless it was
 * started by a bound thread, whose binding it then has. */
static void take_post(const fg_team *t, uint32_t idx)
{
    const post p = post_of(t, idx);
    if (p.kind == here.kind && p.at == here.at) return;
    if (p.kind == FREE && here.kind == AS_IT_CAME && !t->owner_bound) return;
    bind_to(t, p);
    here = p;
}

/* Of a thread that is attached: to how many teams, and how it was bound before the first. */
static _Thread_local uint32_t n_attached;
static _Thread_local fg_binding *before;

void fg_team_attach(fg_team *t)
{
    if (t == NULL || t->topo == NULL || t->attached) return;
    if (n_attached++ == 0) before = fg_binding_save();
    bind_to(t, post_of(t, 0));
    t->attached = true;
    t->attached_by = pthread_self();
}

void fg_team_detach(fg_team *t)
{
    if (t == NULL || !t->attached || !pthread_equal(t->attached_by, pthread_self())) return;
    t->attached = false;
    if (--n_attached != 0) return;
    fg_binding_restore(before);
    before = NULL;
}

/* ---- running ---- */

/* How long the calling thread has been ready to run without a core, ever; 0: the system does not
 * say. */
static uint64_t waited_ns(void)
{
    char text[96];
    unsigned long long waited = 0;
    const int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    const ssize_t n = read(fd, text, sizeof text - 1); /* "1234 567 8": ran, waited, times */
    (void)close(fd);
    text[n > 0 ? n : 0] = '\0';
    return sscanf(text, "%*u %llu", &waited) == 1 ? waited : 0;
}

static void look(fg_team *t, uint32_t idx, uint64_t since_ns)
{
    self *me = &t->self[idx];
    const uint64_t was = me->off_ns;
    me->off_ns = waited_ns();
    me->off = me->off_ns > was && me->off_ns - was > since_ns / 8;
}

static void work(fg_team *t, uint32_t idx)
{
    if (idx >= t->n_run) return;
    if (idx != 0) take_post(t, idx); /* worker 0 is the caller: fg_team_attach */
    const fg_seat *s = &t->place->seat[idx];
    fg_worker w = {.team = t,
                   .idx = idx,
                   .n = t->n_run,
                   .node = s->node,
                   .idx_in_node = s->idx_in_node,
                   .n_in_node = t->n_here[s->node]};
    t->fn(&w, t->arg);
    if (t->look) look(t, idx, fg_clock_ns() - t->looked_ns);
    fg_worker_sync(&w); /* the end of the run; starts the next one with nothing taken */
}

/* The first n workers: how many of each node, and who meets whom. */
static void seat_run(fg_team *t, uint32_t n)
{
    const unsigned gen = t->last->generation;
    t->n_run = n;
    t->n_met = 0;
    for (uint32_t k = 0; k < t->n_node; k++) t->n_here[k] = 0;
    for (uint32_t g = 0; g < t->n_group; g++) {
        t->group[g].in.n = 0;
        atomic_store_explicit(&t->group[g].generation, gen, memory_order_relaxed);
    }
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t g = t->self[i].group;
        t->n_here[t->place->seat[i].node]++;
        if (t->group[g].in.n++ == 0) t->met[t->n_met++] = g;
    }
    t->root.n = t->n_met;
    t->last = t->n_met == 1 ? &t->group[t->met[0]].in : &t->root;
    t->last->generation = gen;
}

/* What a run is; before any worker wakes. */
static void set_run(fg_team *t, uint32_t n, void (*fn)(fg_worker *w, void *arg), void *arg)
{
    assert(n >= 1 && n <= t->n);
    t->fn = fn;
    t->arg = arg;
    t->owner_bound = n_attached != 0;
    if (n != t->n_run) seat_run(t, n);
}

void fg_team_run(fg_team *t, void (*fn)(fg_worker *w, void *arg), void *arg)
{
    fg_team_run_n(t, t->n, fn, arg);
}

#if FG_OPENMP

/* libgomp ends the process when it cannot start a thread.  So it is asked only for those that could
 * be had a moment ago. */

typedef struct trial {
    pthread_mutex_t hold; /* until all that can be are there */
} trial;

static void *wait_for_end(void *arg)
{
    trial *t = arg;
    (void)pthread_mutex_lock(&t->hold);
    (void)pthread_mutex_unlock(&t->hold);
    return NULL;
}

/* Threads of this process, those among them that have been joined but are not quite gone. */
static uint64_t count_threads(void)
{
    struct stat s;
    return stat("/proc/self/task", &s) == 0 && s.st_nlink > 2 ? s.st_nlink - 2 : 0;
}

/* How many of n threads can be started now, besides those that are there. */
static uint32_t try_threads(uint32_t n)
{
    trial t = {.hold = PTHREAD_MUTEX_INITIALIZER};
    const uint64_t others = count_threads();
    pthread_t *thread = fg_mem_zalloc_array(n, sizeof *thread);
    uint32_t k = 0;
    if (thread == NULL) return 0;
    (void)pthread_mutex_lock(&t.hold);
    while (k < n && pthread_create(&thread[k], NULL, wait_for_end, &t) == 0) k++;
    (void)pthread_mutex_unlock(&t.hold);
    for (uint32_t i = 0; i < k; i++) (void)pthread_join(thread[i], NULL);
    /* a limit on threads still counts one that has just been joined */
    for (int i = 0; i < 1000 && count_threads() > others; i++) (void)usleep(100);
    fg_mem_free(thread);
    return k;
}

/* Threads that libgomp keeps for the calling one, which is among them: it ends those that a smaller
 * region leaves out. */
static _Thread_local uint32_t n_kept = 1;

/* Of n threads, those that the next region may have. */
static uint32_t n_possible(uint32_t n)
{
    if (n > n_kept) n = n_kept + try_threads(n - n_kept);
    if (n > 1) n_kept = n; /* a region of one leaves the others alone */
    return n;
}

/* Starts the threads, and learns how many there will be: OMP_THREAD_LIMIT may allow fewer than
 * asked, and the barrier must know. */
static fg_status start(fg_team *t, fg_err *err)
{
    (void)err;
    int n = (int)n_possible(t->n);
    omp_set_dynamic(0);
#pragma omp parallel num_threads(n)
    {
#pragma omp master
        n = omp_get_num_threads();
    }
    t->n = (uint32_t)n;
    return FG_OK;
}

static void stop(fg_team *t)
{
    (void)t;
}

/* Always all threads: libgomp would end those that a smaller region leaves out.  Another thread
 * than the last one that ran the team may get fewer. */
void fg_team_run_n(fg_team *t, uint32_t n, void (*fn)(fg_worker *w, void *arg), void *arg)
{
    const uint32_t all = n_possible(t->n);
    set_run(t, n < all ? n : all, fn, arg);
#pragma omp parallel num_threads((int)all)
    work(t, (uint32_t)omp_get_thread_num());
}

/* Without those that take no part: to leave a region they would need their busy cores. */
static void run_only(fg_team *t, uint32_t n, void (*fn)(fg_worker *w, void *arg), void *arg)
{
    n = n_possible(n);
    set_run(t, n, fn, arg);
    if (n == 1) { /* a region of one costs more */
        work(t, 0);
        return;
    }
#pragma omp parallel num_threads((int)n)
    work(t, (uint32_t)omp_get_thread_num());
}

const char *fg_team_backend(void)
{
    return "openmp";
}

#else

typedef struct thread_arg {
    fg_team *team;
    uint32_t idx;
} thread_arg;

static void *thread_main(void *p)
{
    const thread_arg a = *(thread_arg *)p;
    fg_mem_free(p);
    fg_team *t = a.team;
    uint64_t seen = 0;
    for (;;) {
        (void)pthread_mutex_lock(&t->lock);
        while ((t->run_no == seen || a.idx >= t->n_run) && !t->stop) {
            (void)pthread_cond_wait(&t->wake, &t->lock);
        }
        seen = t->run_no;
        const bool leave = t->stop;
        (void)pthread_mutex_unlock(&t->lock);
        if (leave) return NULL;
        work(t, a.idx);
    }
}

static fg_status start(fg_team *t, fg_err *err)
{
    (void)pthread_mutex_init(&t->lock, NULL);
    (void)pthread_cond_init(&t->wake, NULL);
    t->threads = fg_mem_zalloc_array(t->n, sizeof *t->threads);
    if (t->threads == NULL) return fg_fail_nomem(err, "thread team");
    for (uint32_t i = 1; i < t->n; i++) {
        thread_arg *a = fg_mem_alloc(sizeof *a);
        if (a == NULL) return fg_fail_nomem(err, "thread team");
        *a = (thread_arg){t, i};
        if (pthread_create(&t->threads[i - 1], NULL, thread_main, a) != 0) {
            fg_mem_free(a);
            t->n = i; /* no more to be had */
            break;
        }
        t->n_started++;
    }
    return FG_OK;
}

static void stop(fg_team *t)
{
    (void)pthread_mutex_lock(&t->lock);
    t->stop = true;
    (void)pthread_cond_broadcast(&t->wake);
    (void)pthread_mutex_unlock(&t->lock);
    for (uint32_t i = 0; i < t->n_started; i++) (void)pthread_join(t->threads[i], NULL);
    (void)pthread_cond_destroy(&t->wake);
    (void)pthread_mutex_destroy(&t->lock);
    fg_mem_free(t->threads);
}

void fg_team_run_n(fg_team *t, uint32_t n, void (*fn)(fg_worker *w, void *arg), void *arg)
{
    (void)pthread_mutex_lock(&t->lock);
    set_run(t, n, fn, arg);
    t->run_no++;
    (void)pthread_cond_broadcast(&t->wake);
    (void)pthread_mutex_unlock(&t->lock);
    work(t, 0);
}

static void run_only(fg_team *t, uint32_t n, void (*fn)(fg_worker *w, void *arg), void *arg)
{
    fg_team_run_n(t, n, fn, arg);
}

const char *fg_team_backend(void)
{
    return "pthread";
}

#endif

/* Blocks that this process has read from disks, by whatever way. */
static uint64_t blocks_read(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (uint64_t)u.ru_inblock : 0;
}

void fg_team_run_long(fg_team *t, void (*fn)(fg_worker *w, void *arg), void *arg)
{
    fg_team_run_n(t, t->n_long, fn, arg);
}

void fg_team_run_paced(fg_team *t, void (*fn)(fg_worker *w, void *arg), void *arg)
{
    const uint32_t n = fg_pace_workers(&t->pace);
    const uint64_t start = fg_clock_ns();
    const bool looks = t->look, measures = fg_pace_measures(&t->pace);
    /* those beyond the knee, unlike those on busy cores, may stay in the region */
    (measures || n == t->pace.n ? fg_team_run_n : run_only)(t, n, fn, arg);
    const uint64_t end = fg_clock_ns();
    if (measures) {
        fg_pace_measured(&t->pace, end - start, blocks_read());
        return;
    }
    t->look = fg_pace_window_ends(&t->pace, end - start) && !looks; /* the next run, then */
    if (!looks) return;
    uint32_t n_off = 0;
    for (uint32_t i = 0; i < n; i++) n_off += t->self[i].off;
    t->looked_ns = end;
    fg_pace_decide(&t->pace, n_off);
}

static fg_status seat_workers(fg_team *t, const fg_team_opts *team, fg_err *err)
{
    const fg_place_opts o = {.n_worker = t->n,
                             .pretend_nodes = team->pretend_nodes,
                             .n_node = team->n_node,
                             .numa = team->numa,
                             .weight = team->weight};
    FG_TRY(fg_place_make(&t->place, t->topo, &o, err));
    t->n_node = t->place->n_node;
    t->counters = fg_mem_zalloc_array(t->n_node, sizeof *t->counters);
    uint32_t first[FG_MAX_NODE]; /* group of each node */
    for (uint32_t k = 0; k < t->n_node; k++) {
        first[k] = t->n_group;
        t->n_group += (t->place->node[k].n_worker + GROUP - 1) / GROUP;
    }
    t->group = fg_mem_zalloc_array(t->n_group, sizeof *t->group);
    t->met = fg_mem_zalloc_array(t->n_group, sizeof *t->met);
    for (uint32_t i = 0; i < t->n; i++) {
        const fg_seat *s = &t->place->seat[i];
        t->self[i].group = first[s->node] + s->idx_in_node / GROUP;
    }
    t->last = &t->root;
    const bool ok = t->counters != NULL && t->group != NULL && t->met != NULL;
    return ok ? FG_OK : fg_fail_nomem(err, "thread team");
}

static void set_pace(fg_team *t, const fg_team_opts *o, uint32_t n_core, uint32_t n_cpu,
                     uint32_t n_free)
{
    const uint32_t n_short = o->n_thread != 0 ? o->n_thread : n_core;
    t->n_long = o->n_long != 0 && o->n_long < t->n ? o->n_long : t->n;
    if (t->n <= n_cpu) {
        t->spin_most = SPIN_ROUNDS;
        t->spin_least = SPIN_LEAST;
    }
    for (uint32_t i = 0; i < t->n; i++) t->self[i].spin_rounds = t->spin_most;
    fg_pace_init(&t->pace, n_short < t->n ? n_short : t->n, n_free);
    if (o->n_thread == 0) fg_pace_measure(&t->pace, t->n_node);
    t->looked_ns = fg_clock_ns();
}

/* Physical cores of the nodes that are used, at most the CPUs that may be. */
static uint32_t count_cores(const fg_topo *t, uint32_t n_node, uint32_t budget)
{
    uint32_t cores = 0;
    if (t == NULL) return budget;
    for (uint32_t c = 0; c < fg_topo_n_core(t); c++) {
        cores += n_node == 0 || fg_topo_node_of(t, c) < n_node;
    }
    return cores < budget ? cores : budget;
}

fg_status fg_team_create_with(fg_team **out, const fg_team_opts *o, fg_err *err)
{
    *out = NULL;
    const uint32_t most = o->n_thread > o->n_long ? o->n_thread : o->n_long;
    if (most > FG_MAX_THREAD) {
        return fg_fail(err, FG_ELIMIT, "threads: %u, expected at most %d", most, FG_MAX_THREAD);
    }
    fg_team *t = fg_mem_zalloc(sizeof *t);
    if (t == NULL) return fg_fail_nomem(err, "thread team");
    const uint32_t budget = fg_cpu_budget();
    /* before workers start; those that are not bound go where there is room */
    const uint32_t n_free = o->pin ? fg_cpu_free() : UINT32_MAX;
    t->topo = o->pin || o->n_thread == 0 ? fg_topo_create() : NULL;
    const uint32_t cores = count_cores(t->topo, o->n_node, budget);
    t->n = o->n_thread == 0 && cores > most ? cores : most;
    if (t->n > FG_MAX_THREAD) t->n = FG_MAX_THREAD;
    if (!o->pin) {
        fg_topo_destroy(t->topo);
        t->topo = NULL;
    }
    t->self = fg_mem_zalloc_array(t->n, sizeof *t->self);
    fg_status st = t->self == NULL ? fg_fail_nomem(err, "thread team") : start(t, err);
    if (st == FG_OK) st = seat_workers(t, o, err); /* start says how many there are, if fewer */
    if (st == FG_OK) set_pace(t, o, cores, budget, n_free);
    if (st != FG_OK) {
        fg_team_destroy(&t);
        return st;
    }
    *out = t;
    return FG_OK;
}

fg_status fg_team_create(fg_team **out, uint32_t n_thread, bool pin, fg_err *err)
{
    const fg_team_opts o = {.n_thread = n_thread, .pin = pin};
    return fg_team_create_with(out, &o, err);
}

void fg_team_destroy(fg_team **t)
{
    if (*t == NULL) return;
    fg_team_detach(*t);
    stop(*t);
    fg_place_destroy(&(*t)->place);
    fg_topo_destroy((*t)->topo);
    fg_mem_free((*t)->counters);
    fg_mem_free((*t)->group);
    fg_mem_free((*t)->met);
    fg_mem_free((*t)->self);
    fg_mem_free(*t);
    *t = NULL;
}

uint32_t fg_team_size(const fg_team *t)
{
    return t->n;
}

uint32_t fg_team_n_short(const fg_team *t)
{
    return t->pace.n;
}

uint32_t fg_team_n_long(const fg_team *t)
{
    return t->n_long;
}

const fg_place *fg_team_place(const fg_team *t)
{
    return t->place;
}
