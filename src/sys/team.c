/* SPDX-License-Identifier: MIT
 *
 * Barrier: arrivals are counted on one cache line, release is a generation number on another.
 * Waiters spin on the generation for about 20 us (a step of a small model), then sleep on it with
 * futex.  When there are more workers than CPUs, spinning only keeps the others from running, so
 * they sleep at once.
 */
#include "src/sys/team.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>
#if FG_OPENMP
#include <omp.h>
#endif

#include "src/base/mem.h"
#include "src/sys/topo.h"

enum { SPIN_ROUNDS = 4000 }; /* pause instructions: 10 to 50 us on current CPUs */

struct fg_team {
    _Alignas(FG_CACHE_LINE) atomic_uint arrived;
    _Alignas(FG_CACHE_LINE) atomic_uint generation; /* futex word */
    atomic_uint sleepers;
    _Alignas(FG_CACHE_LINE) atomic_ullong taken; /* items given out since the last barrier */
    _Alignas(FG_CACHE_LINE) uint32_t n;
    uint32_t spin_rounds;
    fg_topo *topo; /* NULL: not pinned */
    bool *bound;   /* [n] worker i has bound itself; never worker 0 */
    void (*fn)(fg_worker *w, void *arg);
    void *arg;
#if !FG_OPENMP
    pthread_t *threads; /* [n - 1], workers 1 .. n-1 */
    uint32_t n_started;
    pthread_mutex_t lock; /* protects run_no and stop */
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

void fg_worker_sync(fg_worker *w)
{
    fg_team *t = w->team;
    if (t->n == 1) {
        atomic_store_explicit(&t->taken, 0, memory_order_relaxed);
        return;
    }
    const unsigned gen = atomic_load_explicit(&t->generation, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) + 1 == t->n) {
        atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&t->taken, 0, memory_order_relaxed);
        /* seq_cst: either this thread sees the sleeper, or the sleeper's futex sees the change */
        atomic_store(&t->generation, gen + 1);
        if (atomic_load(&t->sleepers) != 0) futex_wake_all(&t->generation);
        return;
    }
    for (uint32_t i = 0; i < t->spin_rounds; i++) {
        if (atomic_load_explicit(&t->generation, memory_order_acquire) != gen) return;
        cpu_relax();
    }
    atomic_fetch_add(&t->sleepers, 1);
    while (atomic_load(&t->generation) == gen) futex_wait(&t->generation, gen);
    atomic_fetch_sub(&t->sleepers, 1);
}

void fg_worker_range(const fg_worker *w, uint64_t n, uint64_t *begin, uint64_t *end)
{
    const uint64_t each = n / w->n, more = n % w->n, i = w->idx;
    *begin = each * i + (i < more ? i : more);
    *end = *begin + each + (i < more ? 1 : 0);
}

bool fg_worker_take(fg_worker *w, uint64_t n, uint64_t *begin, uint64_t *end)
{
    atomic_ullong *taken = &w->team->taken;
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

static void work(fg_team *t, uint32_t idx)
{
    /* Worker 0 is the caller's thread, which is not ours to bind: another team may count its cores,
     * and binding and releasing it for every token cost more than it gained.  With the others in
     * their places the scheduler has one core left for it. */
    if (t->topo != NULL && idx != 0 && !t->bound[idx]) {
        (void)fg_topo_bind_self(t->topo, idx); /* refused: runs unpinned, only slower */
        t->bound[idx] = true;
    }
    fg_worker w = {t, idx, t->n};
    t->fn(&w, t->arg);
    fg_worker_sync(&w); /* the end of the run; starts the next one with nothing taken */
}

#if FG_OPENMP

/* Starts the threads, and learns how many there will be: OMP_THREAD_LIMIT may allow fewer than
 * asked, and the barrier must know. */
static fg_status start(fg_team *t, fg_err *err)
{
    (void)err;
    int n = 1;
    omp_set_dynamic(0);
#pragma omp parallel num_threads((int)t->n)
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

void fg_team_run(fg_team *t, void (*fn)(fg_worker *w, void *arg), void *arg)
{
    t->fn = fn;
    t->arg = arg;
#pragma omp parallel num_threads((int)t->n)
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
        while (t->run_no == seen && !t->stop) (void)pthread_cond_wait(&t->wake, &t->lock);
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
            return fg_fail(err, FG_EIO, "thread team: could not start thread %u, expected %u", i,
                           t->n);
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

void fg_team_run(fg_team *t, void (*fn)(fg_worker *w, void *arg), void *arg)
{
    (void)pthread_mutex_lock(&t->lock);
    t->fn = fn;
    t->arg = arg;
    t->run_no++;
    (void)pthread_cond_broadcast(&t->wake);
    (void)pthread_mutex_unlock(&t->lock);
    work(t, 0);
}

const char *fg_team_backend(void)
{
    return "pthread";
}

#endif

fg_status fg_team_create(fg_team **out, uint32_t n_thread, bool pin, fg_err *err)
{
    *out = NULL;
    if (n_thread > FG_MAX_THREAD) {
        return fg_fail(err, FG_ELIMIT, "threads: %u, expected at most %d", n_thread, FG_MAX_THREAD);
    }
    fg_team *t = fg_mem_zalloc(sizeof *t);
    if (t == NULL) return fg_fail_nomem(err, "thread team");
    const uint32_t budget = fg_cpu_budget();
    t->topo = pin || n_thread == 0 ? fg_topo_create() : NULL;
    uint32_t cores = t->topo == NULL ? budget : fg_topo_n_core(t->topo);
    if (cores > budget) cores = budget;
    t->n = n_thread == 0 ? cores : n_thread;
    /* Pinning more workers than cores would stack them; pinning fewer would put the workers of two
     * processes on the same cores while others idle. */
    if (t->topo != NULL && (!pin || t->n != fg_topo_n_core(t->topo))) {
        fg_topo_destroy(t->topo);
        t->topo = NULL;
    }
    t->spin_rounds = t->n <= budget ? SPIN_ROUNDS : 0;
    t->bound = fg_mem_zalloc_array(t->n, sizeof *t->bound);
    fg_status st = t->bound == NULL ? fg_fail_nomem(err, "thread team") : start(t, err);
    if (st != FG_OK) {
        fg_team_destroy(&t);
        return st;
    }
    *out = t;
    return FG_OK;
}

void fg_team_destroy(fg_team **t)
{
    if (*t == NULL) return;
    if ((*t)->bound != NULL) stop(*t);
    fg_topo_destroy((*t)->topo);
    fg_mem_free((*t)->bound);
    fg_mem_free(*t);
    *t = NULL;
}

uint32_t fg_team_size(const fg_team *t)
{
    return t->n;
}
