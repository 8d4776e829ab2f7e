/* SPDX-License-Identifier: MIT
 *
 * The thread team: shares cover everything once, the barrier orders memory, oversubscription and
 * repeated runs work; every worker is bound where it sits, and the caller gets its binding back;
 * nodes do their own work first.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "src/sys/team.h"
#include "src/sys/topo.h"
#include "tests/fg_test.h"
#include "tests/models.h"

typedef struct job {
    uint64_t *cell; /* plain memory: the sanitizer sees a missing fence */
    uint64_t n;
    uint64_t steps;
    atomic_uint wrong;
} job;

/* Every step adds the cell's two neighbours of the step before: wrong without a working barrier. */
static void relax(fg_worker *w, void *arg)
{
    job *j = arg;
    uint64_t begin, end;
    fg_worker_range(w, j->n, &begin, &end);
    for (uint64_t s = 0; s < j->steps; s++) {
        const uint64_t *from = j->cell + (s % 2) * j->n;
        uint64_t *to = j->cell + ((s + 1) % 2) * j->n;
        for (uint64_t i = begin; i < end; i++) {
            to[i] = from[i] + from[(i + 1) % j->n] + from[(i + j->n - 1) % j->n] + i;
        }
        fg_worker_sync(w);
    }
}

static uint64_t run_relax(uint32_t n_thread, bool pin)
{
    fg_team *t;
    fg_err err = {0};
    job j = {.n = 97, .steps = 500};
    uint64_t sum = 0;
    if (fg_team_create(&t, n_thread, pin, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        return 0;
    }
    j.cell = calloc(2 * j.n, sizeof *j.cell);
    for (int i = 0; i < 3; i++) fg_team_run(t, relax, &j);
    for (uint64_t i = 0; i < 2 * j.n; i++) sum = sum * 31 + j.cell[i];
    free(j.cell);
    fg_team_destroy(&t);
    return sum;
}

FG_TEST(barrier_orders_steps)
{
    const uint64_t want = run_relax(1, false);
    CHECK_U64(run_relax(2, true), want);
    CHECK_U64(run_relax(3, true), want); /* more than this machine may have: sleeps, not spins */
    CHECK_U64(run_relax(8, false), want);
}

/* Groups of neighbours, nodes, and runs of ever other workers meet as one. */
static uint64_t run_relax_on(uint32_t n_thread, uint32_t nodes)
{
    const fg_team_opts o = {.n_thread = n_thread, .pretend_nodes = nodes};
    fg_team *t;
    fg_err err = {0};
    job j = {.n = 97, .steps = 40};
    uint64_t sum = 0;
    if (fg_team_create_with(&t, &o, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        return 0;
    }
    const uint32_t all = fg_team_size(t);
    j.cell = calloc(2 * j.n, sizeof *j.cell);
    for (uint32_t i = 0; i < 9; i++) fg_team_run_n(t, 1 + (i * 5 + all - 1) % all, relax, &j);
    for (uint64_t i = 0; i < 2 * j.n; i++) sum = sum * 31 + j.cell[i];
    free(j.cell);
    fg_team_destroy(&t);
    return sum;
}

FG_TEST(barrier_of_groups_and_nodes)
{
    const uint64_t want = run_relax_on(1, 0);
    for (uint32_t nodes = 0; nodes <= 4; nodes++) {
        for (uint32_t n = 2; n <= 20; n += 6) CHECK_U64(run_relax_on(n, nodes), want);
    }
    CHECK_U64(run_relax_on(17, 16), want); /* groups of one */
}

/* ---- no thread to be had ---- */

/* This program again, with one test and a variable; its status. */
static int run_self(const char *variables, const char *test, bool silent)
{
    char self[512], line[800];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return -1;
    self[n] = '\0';
    (void)snprintf(line, sizeof line, "%s '%s' %s%s", variables, self, test,
                   silent ? " >/dev/null" : "");
    return system(line);
}

static uint64_t vm_bytes(void)
{
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f != NULL && fscanf(f, "%llu", &pages) != 1) pages = 0;
    if (f != NULL) (void)fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Room for the stacks of a few threads; in a process of its own, since the limit stays. */
FG_TEST(fewer_threads_where_there_are_no_more)
{
    enum { WANTED = 200 };
    if (FG_TEST_SANITIZED) {
        fg_test_skip("a sanitizer takes terabytes of address space");
        return;
    }
#if defined(__clang__) && FG_OPENMP
    fg_test_skip("the OpenMP runtime of LLVM ends the process");
    return;
#endif
    if (getenv("FULGUR_TEST_FEW") == NULL) {
        CHECK(run_self("FULGUR_TEST_FEW=1", "fewer_threads", false) == 0);
        return;
    }
    const uint64_t want = run_relax(1, false);
    const rlim_t most = vm_bytes() + ((rlim_t)100 << 20);
    const struct rlimit limit = {most, most};
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
    for (int i = 0; i < 2; i++) {
        fg_team *t;
        fg_err err = {0};
        REQUIRE_OK(fg_team_create(&t, WANTED, false, &err), &err);
        printf("  %u of %d threads\n", fg_team_size(t), WANTED);
        CHECK(fg_team_size(t) >= 2 && fg_team_size(t) < WANTED);
        fg_team_destroy(&t);
    }
    CHECK_U64(run_relax(WANTED, false), want);
}

FG_TEST(shares_cover_all_items_once)
{
    for (uint32_t n = 1; n <= 17; n++) {
        for (uint64_t items = 0; items < 40; items++) {
            uint64_t next = 0;
            for (uint32_t i = 0; i < n; i++) {
                const fg_worker w = {.idx = i, .n = n};
                uint64_t begin, end;
                fg_worker_range(&w, items, &begin, &end);
                CHECK_U64(begin, next);
                CHECK(end - begin <= items / n + 1);
                next = end;
            }
            CHECK_U64(next, items);
        }
    }
}

typedef struct takes {
    atomic_uint *seen; /* [n] */
    uint64_t n;
} takes;

static void take_all(fg_worker *w, void *arg)
{
    takes *k = arg;
    uint64_t begin, end;
    for (int round = 0; round < 50; round++) {
        while (fg_worker_take_items(w, k->n, &begin, &end)) {
            for (uint64_t i = begin; i < end; i++) atomic_fetch_add(&k->seen[i], 1);
        }
        fg_worker_sync(w);
    }
}

FG_TEST(taken_parts_cover_all_items_once)
{
    for (uint32_t n = 1; n <= 3; n++) {
        fg_team *t;
        fg_err err = {0};
        takes k = {.n = 1001};
        REQUIRE_OK(fg_team_create(&t, n, false, &err), &err);
        k.seen = calloc(k.n, sizeof *k.seen);
        for (int run = 0; run < 2; run++) fg_team_run(t, take_all, &k);
        for (uint64_t i = 0; i < k.n; i++) CHECK_U64(atomic_load(&k.seen[i]), 100);
        free(k.seen);
        fg_team_destroy(&t);
    }
}

FG_TEST(auto_size_is_within_the_budget)
{
    fg_team *t;
    fg_err err = {0};
    REQUIRE_OK(fg_team_create(&t, 0, true, &err), &err);
    CHECK(fg_team_size(t) >= 1 && fg_team_size(t) <= fg_cpu_budget());
    fg_team_destroy(&t);
    CHECK(fg_team_create(&t, FG_MAX_THREAD + 1, true, &err) == FG_ELIMIT);
}

typedef struct tallies {
    atomic_uint all, paced, longer;
    atomic_uint *now;
} tallies;

static void count_me(fg_worker *w, void *arg)
{
    (void)w;
    atomic_fetch_add(((tallies *)arg)->now, 1);
}

static bool has_sizes(uint32_t n_thread, uint32_t n_long, uint32_t all, uint32_t paced,
                      uint32_t longer)
{
    const fg_team_opts o = {.n_thread = n_thread, .n_long = n_long};
    tallies s = {0};
    fg_team *t;
    fg_err err = {0};
    CHECK_OK(fg_team_create_with(&t, &o, &err), &err);
    if (t == NULL) return false;
    s.now = &s.longer;
    fg_team_run_long(t, count_me, &s);
    s.now = &s.paced;
    fg_team_run_paced(t, count_me, &s);
    s.now = &s.all;
    fg_team_run(t, count_me, &s);
    const bool told = fg_team_n_short(t) == paced && fg_team_n_long(t) == longer;
    fg_team_destroy(&t);
    return told && s.all == all && s.paced == paced && s.longer == longer;
}

FG_TEST(short_and_long_runs_have_numbers_of_their_own)
{
    CHECK(has_sizes(3, 0, 3, 3, 3));
    CHECK(has_sizes(2, 5, 5, 2, 5));
    CHECK(has_sizes(5, 2, 5, 5, 2));
    CHECK(!has_sizes(5, 2, 5, 5, 5)); /* negative control */
    fg_team *t;
    fg_err err = {0};
    const fg_team_opts o = {.n_long = FG_MAX_THREAD + 1};
    CHECK(fg_team_create_with(&t, &o, &err) == FG_ELIMIT);
}

/* ---- binding ---- */

enum { MASK_WORDS = 128 };

typedef struct mask {
    unsigned long word[MASK_WORDS]; /* 8192 CPUs */
} mask;

static mask my_mask(void)
{
    mask m = {{0}};
    (void)sched_getaffinity(0, sizeof m.word, (cpu_set_t *)(void *)m.word);
    return m;
}

static uint32_t mask_count(const mask *m)
{
    uint32_t n = 0;
    for (int i = 0; i < MASK_WORDS; i++) n += (uint32_t)__builtin_popcountl(m->word[i]);
    return n;
}

static bool mask_same(const mask *a, const mask *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static bool mask_meet(const mask *a, const mask *b)
{
    for (int i = 0; i < MASK_WORDS; i++) {
        if ((a->word[i] & b->word[i]) != 0) return true;
    }
    return false;
}

static void note_mask(fg_worker *w, void *arg)
{
    ((mask *)arg)[w->idx] = my_mask();
}

static fg_team *team(uint32_t n_thread, bool pin, uint32_t pretend_nodes)
{
    const fg_team_opts o = {.n_thread = n_thread, .pin = pin, .pretend_nodes = pretend_nodes};
    fg_team *t;
    fg_err err = {0};
    if (fg_team_create_with(&t, &o, &err) == FG_OK) return t;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return NULL;
}

static uint32_t n_core(void)
{
    fg_topo *t = fg_topo_create();
    const uint32_t n = t == NULL ? 1 : fg_topo_n_core(t);
    fg_topo_destroy(t);
    return n;
}

/* Pairs of workers that may run on one CPU. */
static uint32_t shared_cpus(const mask *m, uint32_t n)
{
    uint32_t pairs = 0;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < i; j++) pairs += mask_meet(&m[i], &m[j]);
    }
    return pairs;
}

FG_TEST(every_worker_has_its_core)
{
    const mask before = my_mask();
    const uint32_t n = n_core();
    fg_team *t = team(n, true, 0);
    mask *m = calloc(n, sizeof *m);
    REQUIRE(t != NULL && m != NULL);
    if (n < 2) fg_test_skip("one core");
    fg_team_attach(t);
    for (int run = 0; run < 2 && n > 1; run++) {
        fg_team_run(t, note_mask, m);
        CHECK_U64(shared_cpus(m, n), 0); /* the caller's among them */
        for (uint32_t i = 0; i < n; i++) CHECK(mask_count(&m[i]) < mask_count(&before));
    }
    fg_team_detach(t);
    mask now = my_mask();
    CHECK(mask_same(&now, &before));
    if (n > 1) { /* control: without attaching, the caller may be anywhere */
        fg_team_run(t, note_mask, m);
        CHECK(mask_same(&m[0], &before));
        CHECK(shared_cpus(m, n) > 0);
    }
    fg_team_attach(t);
    fg_team_destroy(&t); /* detaches */
    now = my_mask();
    CHECK(mask_same(&now, &before));
    free(m);
}

/* The variables that bind OpenMP's threads, and with them the first thread before main, take no
 * core away.  The test runs itself again under each. */
FG_TEST(variables_that_bind_threads)
{
    static const char *const set[] = {"OMP_PROC_BIND=true", "OMP_PLACES=cores",
                                      "GOMP_CPU_AFFINITY=0"};
    const char *want = getenv("FULGUR_TEST_CORES");
    if (want != NULL) {
        fg_team *t = team(0, true, 0);
        REQUIRE(t != NULL);
        const mask m = my_mask();
        printf("  %u of %s cores, bound to %u CPUs\n", fg_team_size(t), want, mask_count(&m));
        CHECK_U64(fg_team_size(t), strtoul(want, NULL, 10));
        fg_team_destroy(&t);
        return;
    }
    fg_team *t = team(0, true, 0);
    REQUIRE(t != NULL);
    for (size_t i = 0; i < sizeof set / sizeof set[0]; i++) {
        char line[200];
        (void)snprintf(line, sizeof line, "FULGUR_TEST_CORES=%u %s", fg_team_size(t), set[i]);
        CHECK(run_self(line, "variables_that_bind", false) == 0);
        (void)snprintf(line, sizeof line, "FULGUR_TEST_CORES=%u %s", fg_team_size(t) + 1, set[i]);
        CHECK(run_self(line, "variables_that_bind", true) != 0); /* control: the answer counts */
    }
    fg_team_destroy(&t);
}

FG_TEST(a_second_team_sees_the_same_cores)
{
    const mask before = my_mask();
    const uint32_t n = n_core(), budget = fg_cpu_budget();
    mask m[4], *all = calloc(n, sizeof *all);
    fg_team *t = team(n, true, 0);
    REQUIRE(t != NULL && all != NULL);
    fg_team_attach(t);
    const mask bound = my_mask();
    if (n > 1) CHECK(mask_count(&bound) < mask_count(&before)); /* control: a bound caller */
    CHECK_U64(n_core(), n);
    CHECK_U64(fg_cpu_budget(), budget);
    fg_team *second = team(0, true, 0), *floating = team(4, false, 0);
    REQUIRE(second != NULL && floating != NULL);
    CHECK_U64(fg_team_size(second), fg_team_size(t) < budget ? fg_team_size(t) : budget);
    /* its workers are started by a bound thread, or are those of the bound team */
    fg_team_run(t, note_mask, all);
    fg_team_run(floating, note_mask, m);
    for (int i = 1; i < 4; i++) CHECK(mask_same(&m[i], &before));
    fg_team_destroy(&floating);
    fg_team_destroy(&second);
    fg_team_destroy(&t);
    free(all);
}

FG_TEST(the_last_detach_gives_the_binding_back)
{
    const mask before = my_mask();
    const uint32_t n = n_core();
    fg_team *a = team(n, true, 0), *b = team(n, true, 0), *free_one = team(n, false, 0);
    REQUIRE(a != NULL && b != NULL && free_one != NULL);
    fg_team_attach(a);
    const mask bound = my_mask();
    fg_team_attach(a); /* nothing */
    fg_team_attach(free_one);
    fg_team_attach(b);
    fg_team_detach(a); /* the other order than attached */
    mask now = my_mask();
    CHECK(mask_same(&now, &bound));
    fg_team_detach(free_one);
    fg_team_detach(a);
    now = my_mask();
    CHECK(mask_same(&now, &bound));
    fg_team_detach(b);
    now = my_mask();
    CHECK(mask_same(&now, &before));
    fg_team_detach(NULL);
    fg_team_attach(NULL);
    fg_team_destroy(&a);
    fg_team_destroy(&b);
    fg_team_destroy(&free_one);
}

FG_TEST(an_engine_binds_the_caller_until_it_closes)
{
    const mask before = my_mask();
    fg_engine *e = model_open(NANO_DIR, "q4", 0, NULL);
    REQUIRE(e != NULL);
    const mask bound = my_mask();
    if (fg_engine_n_thread(e) == n_core() && n_core() > 1) {
        CHECK(mask_count(&bound) < mask_count(&before));
    }
    fg_engine_close(&e);
    const mask now = my_mask();
    CHECK(mask_same(&now, &before));
}

typedef struct other {
    fg_team *team;
    mask inherited, cleared;
} other;

static void *other_thread(void *arg)
{
    other *o = arg;
    o->inherited = my_mask();
    fg_team_detach(o->team); /* not its own: nothing */
    fg_binding_clear();
    o->cleared = my_mask();
    return NULL;
}

FG_TEST(other_threads)
{
    const mask before = my_mask();
    other o = {.team = team(n_core(), true, 0)};
    pthread_t p;
    REQUIRE(o.team != NULL);
    fg_team_attach(o.team);
    const mask bound = my_mask();
    REQUIRE(pthread_create(&p, NULL, other_thread, &o) == 0);
    (void)pthread_join(p, NULL);
    const mask now = my_mask();
    CHECK(mask_same(&now, &bound));
    CHECK(mask_same(&o.inherited, &bound)); /* control: that is why there is fg_binding_clear */
    CHECK(mask_same(&o.cleared, &before));
    fg_team_destroy(&o.team);
}

/* ---- a part of the team ---- */

typedef struct roll {
    atomic_uint runs[8], on_node[FG_MAX_NODE];
    atomic_uint wrong;
} roll;

static void call_roll(fg_worker *w, void *arg)
{
    roll *r = arg;
    atomic_fetch_add(&r->runs[w->idx], 1);
    const uint32_t number = atomic_fetch_add(&r->on_node[w->node], 1);
    fg_worker_sync(w); /* waits for those of the run only */
    if (number >= w->n_in_node || w->idx_in_node >= w->n_in_node) atomic_fetch_add(&r->wrong, 1);
    if (atomic_load(&r->on_node[w->node]) != w->n_in_node) atomic_fetch_add(&r->wrong, 1);
}

FG_TEST(a_part_of_the_team_takes_equally_from_every_node)
{
    static const uint32_t sizes[] = {6, 1, 3, 6, 5, 2, 4};
    for (uint32_t nodes = 1; nodes <= 7; nodes++) {
        fg_team *t = team(6, false, nodes);
        REQUIRE(t != NULL);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            roll r = {.wrong = 0};
            fg_team_run_n(t, sizes[i], call_roll, &r);
            CHECK_U64(fg_team_size(t), 6);
            CHECK_U64(atomic_load(&r.wrong), 0);
            uint32_t most = 0, least = UINT32_MAX;
            for (uint32_t k = 0; k < nodes; k++) {
                const uint32_t here = atomic_load(&r.on_node[k]);
                most = here > most ? here : most;
                least = here < least ? here : least;
            }
            CHECK(most - least <= 1);
            for (uint32_t k = 0; k < 8; k++) CHECK_U64(atomic_load(&r.runs[k]), k < sizes[i]);
        }
        fg_team_destroy(&t);
    }
}

/* ---- work with owners ---- */

enum { N_ROW = 3, N_ITEM = 1001, MAX_NODES = 16 };
static const uint64_t row_items[N_ROW] = {N_ITEM, 64, 7};

typedef struct owned_work {
    fg_share share[N_ROW];
    fg_work_row row[N_ROW];
    fg_work_list list;
    atomic_uint *seen[N_ROW];       /* [row_items] times taken */
    atomic_uint foreign[MAX_NODES]; /* items of a node taken by others, in all rounds */
    uint32_t n_round;
    atomic_bool first_done, hold; /* hold: worker 1 begins when worker 0 has nothing left */
} owned_work;

static void owned_init(owned_work *o, const fg_team *t, bool strict, uint32_t n_round)
{
    memset(o, 0, sizeof *o);
    for (size_t i = 0; i < N_ROW; i++) {
        fg_place_share(fg_team_place(t), row_items[i], 4, &o->share[i]);
        o->row[i] = (fg_work_row){10 + i, &o->share[i]};
        o->seen[i] = calloc(row_items[i], sizeof *o->seen[i]);
    }
    o->list = (fg_work_list){o->row, N_ROW, strict};
    o->n_round = n_round;
}

static void owned_fini(owned_work *o)
{
    for (size_t i = 0; i < N_ROW; i++) free(o->seen[i]);
}

static uint64_t owned_by(const owned_work *o, uint32_t node)
{
    uint64_t n = 0;
    for (size_t i = 0; i < N_ROW; i++) n += o->share[i].begin[node + 1] - o->share[i].begin[node];
    return n;
}

static uint32_t owner_of(const owned_work *o, const fg_work_piece *at)
{
    uint32_t k = 0;
    while (o->share[at->row].begin[k + 1] <= at->begin) k++;
    return k;
}

static void take_owned(fg_worker *w, void *arg)
{
    owned_work *o = arg;
    fg_work_piece at;
    for (uint32_t round = 0; round < o->n_round; round++) {
        while (w->idx == 1 && atomic_load(&o->hold) && !atomic_load(&o->first_done)) {
            (void)sched_yield();
        }
        while (fg_worker_take(w, &o->list, &at)) {
            const uint32_t owner = owner_of(o, &at);
            if (at.begin >= at.end || at.end > o->share[at.row].begin[owner + 1]) {
                fg_test_fail(__FILE__, __LINE__, "a piece of two nodes");
            }
            if (owner != w->node) {
                atomic_fetch_add(&o->foreign[owner], (uint32_t)(at.end - at.begin));
            }
            for (uint64_t i = at.begin; i < at.end; i++) atomic_fetch_add(&o->seen[at.row][i], 1);
        }
        if (w->idx == 0) atomic_store(&o->first_done, true);
        fg_worker_sync(w);
    }
}

/* Items not taken exactly `times` times. */
static uint64_t miscounted(const owned_work *o, uint32_t times)
{
    uint64_t n = 0;
    for (size_t i = 0; i < N_ROW; i++) {
        for (uint64_t j = 0; j < row_items[i]; j++) n += atomic_load(&o->seen[i][j]) != times;
    }
    return n;
}

static void check_owned(uint32_t n_thread, uint32_t nodes, bool strict)
{
    enum { ROUNDS = 20 };
    owned_work o;
    fg_team *t = team(n_thread, false, nodes);
    REQUIRE(t != NULL);
    owned_init(&o, t, strict, ROUNDS);
    fg_team_run(t, take_owned, &o);
    CHECK_U64(miscounted(&o, ROUNDS), 0);
    for (uint32_t k = 0; k < nodes; k++) {
        const uint64_t foreign = atomic_load(&o.foreign[k]), own = owned_by(&o, k);
        const bool manned = k < n_thread;
        if (!manned) {
            CHECK_U64(foreign, own * ROUNDS); /* by whoever is there */
        } else if (strict) {
            CHECK_U64(foreign, 0);
        } else {
            CHECK(foreign <= own / 8 * ROUNDS);
        }
    }
    owned_fini(&o);
    fg_team_destroy(&t);
}

FG_TEST(owned_items_are_taken_once)
{
    for (uint32_t nodes = 1; nodes <= MAX_NODES; nodes++) {
        for (uint32_t n_thread = 1; n_thread <= 4; n_thread++) {
            check_owned(n_thread, nodes, false);
            check_owned(n_thread, nodes, true);
        }
    }
}

/* Worker 1 waits until worker 0 has done what it may: its own items, and the last eighth of node
 * 1's. */
static uint64_t taken_from_a_late_node(bool strict)
{
    owned_work o;
    fg_team *t = team(2, false, 2);
    if (t == NULL) return UINT64_MAX;
    owned_init(&o, t, strict, 1);
    atomic_store(&o.hold, true);
    fg_team_run(t, take_owned, &o);
    CHECK_U64(miscounted(&o, 1), 0);
    CHECK_U64(atomic_load(&o.foreign[0]), 0);
    const uint64_t n = atomic_load(&o.foreign[1]);
    CHECK(strict || n == owned_by(&o, 1) / 8);
    owned_fini(&o);
    fg_team_destroy(&t);
    return n;
}

FG_TEST(the_last_eighth_and_no_more)
{
    CHECK(taken_from_a_late_node(false) > 0);
    CHECK_U64(taken_from_a_late_node(true), 0);
}

FG_TEST(count_sees_faults) /* negative control */
{
    owned_work o;
    fg_team *t = team(1, false, 2);
    REQUIRE(t != NULL);
    owned_init(&o, t, false, 1);
    o.share[0].begin[2] -= 1; /* nobody's item */
    fg_team_run(t, take_owned, &o);
    CHECK_U64(miscounted(&o, 1), 1);
    o.share[0].begin[2] += 1;
    fg_team_run(t, take_owned, &o);
    CHECK_U64(miscounted(&o, 2), 1);
    owned_fini(&o);
    fg_team_destroy(&t);
}

typedef struct parts {
    fg_work_list list;
    uint64_t end[64], n;
    bool owned;
} parts;

static void note_parts(fg_worker *w, void *arg)
{
    parts *p = arg;
    uint64_t begin, end;
    fg_work_piece at;
    while (p->owned) {
        if (!fg_worker_take(w, &p->list, &at)) return;
        p->end[p->n++] = at.end;
    }
    while (fg_worker_take_items(w, N_ITEM, &begin, &end)) p->end[p->n++] = end;
}

FG_TEST(one_node_splits_as_if_there_were_none)
{
    fg_team *t = team(1, false, 0);
    REQUIRE(t != NULL);
    fg_share s;
    fg_place_share(fg_team_place(t), N_ITEM, 8, &s);
    const fg_work_row row = {0, &s};
    parts a = {.list = {&row, 1, false}, .owned = true}, b = {.owned = false};
    fg_team_run(t, note_parts, &a);
    fg_team_run(t, note_parts, &b);
    CHECK(a.n > 5 && a.n == b.n && memcmp(a.end, b.end, sizeof a.end) == 0);
    fg_team_destroy(&t);
}
