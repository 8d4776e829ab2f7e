/* SPDX-License-Identifier: MIT
 *
 * The choice of how many workers take part, against machines that are made up: quiet ones, ones
 * whose neighbours come and go, with luck from run to run.
 */
#include "src/base/rng.h"
#include "src/sys/pace.h"
#include "src/sys/team.h"
#include "tests/fg_test.h"

typedef struct machine {
    uint32_t n_core, n_busy; /* busy: the last ones, and the first when all are */
    double busy_all;         /* times longer that a run takes with a worker on a busy core */
    double luck;             /* a run takes up to so many times its mean */
    fg_rng rng;
} machine;

#define TOKEN_NS 300000.0 /* of one worker alone */

static double run_ns(machine *m, uint32_t n)
{
    double ns = TOKEN_NS / (0.1 + 0.9 * n);
    const uint32_t quiet = m->n_core - m->n_busy;
    if (n > quiet) ns *= n == 1 ? 2.0 : m->busy_all;
    const double r = (double)(fg_rng_u64(&m->rng) >> 11) / 9007199254740992.0;
    return ns * (1.0 + (m->luck - 1.0) * (2.0 * r - 1.0));
}

typedef struct share {
    uint64_t runs, all, alone; /* runs, those of all workers, those of one */
    double ns;
} share;

static share play(fg_pace *p, machine *m, double seconds)
{
    share s = {0};
    bool look = false;
    while (s.ns < seconds * 1e9) {
        const uint32_t n = fg_pace_workers(p), quiet = m->n_core - m->n_busy;
        const double ns = run_ns(m, n);
        CHECK(n >= 1 && n <= m->n_core);
        s.runs++;
        s.all += n == m->n_core;
        s.alone += n == 1;
        s.ns += ns;
        const bool looked = look;
        look = fg_pace_window_ends(p, (uint64_t)ns) && !looked;
        if (looked) fg_pace_decide(p, n > quiet ? n - quiet : 0);
    }
    return s;
}

static machine machine_of(uint32_t n_core)
{
    machine m = {.n_core = n_core, .busy_all = 1.0, .luck = 1.0};
    fg_rng_init(&m.rng, n_core);
    return m;
}

FG_TEST(a_quiet_machine_always_runs_with_all)
{
    for (uint32_t n = 1; n <= 64; n *= 2) {
        fg_pace p;
        machine m = machine_of(n);
        m.luck = 1.9;
        fg_pace_init(&p, n, UINT32_MAX);
        const share s = play(&p, &m, 3.0);
        CHECK_U64(s.all, s.runs);
    }
}

FG_TEST(slower_with_all_than_alone)
{
    static const double luck[] = {1.0, 1.5, 2.0};
    for (int i = 0; i < 3; i++) {
        fg_pace p;
        machine m = machine_of(2);
        m.n_busy = 2;
        m.busy_all = 10.0; /* two threads: 5 times slower than one */
        m.luck = luck[i];
        fg_pace_init(&p, 2, UINT32_MAX);
        (void)play(&p, &m, 0.1);
        const share s = play(&p, &m, 10.0);
        CHECK(s.alone * 100 >= s.runs * 95);
        /* trials included, within a tenth of one thread's time */
        CHECK(s.ns < 1.1 * 2.0 * TOKEN_NS * (double)s.runs);
        m.n_busy = 0; /* and back when they go */
        (void)play(&p, &m, 1.6);
        const share back = play(&p, &m, 1.0);
        CHECK_U64(back.all, back.runs);
    }
}

FG_TEST(faster_with_all_although_busy)
{
    fg_pace p;
    machine m = machine_of(2);
    m.n_busy = 2;
    m.busy_all = 1.1; /* a scheduler that runs both at once */
    fg_pace_init(&p, 2, UINT32_MAX);
    (void)play(&p, &m, 0.5);
    const share s = play(&p, &m, 10.0);
    CHECK(s.all * 100 >= s.runs * 90);
}

/* A short answer: 60 tokens, over before two numbers of workers could be compared. */
FG_TEST(cores_taken_at_the_beginning_are_left_alone)
{
    static const uint32_t n_free[] = {0, 1, 2};
    for (int i = 0; i < 3; i++) {
        fg_pace p;
        machine m = machine_of(2);
        m.n_busy = 2;
        m.busy_all = 10.0;
        fg_pace_init(&p, 2, n_free[i]);
        const share s = play(&p, &m, 60 * 2.0 * TOKEN_NS * 1e-9);
        if (i < 2) CHECK_U64(s.alone, s.runs);
        if (i == 2) CHECK(s.all > 5); /* control: it learns too late */
        m.n_busy = 0;
        (void)play(&p, &m, 0.5); /* and back, soon, when it was a mistake */
        const share back = play(&p, &m, 1.0);
        CHECK_U64(back.all, back.runs);
    }
}

FG_TEST(one_busy_core_of_many_costs_one_worker)
{
    fg_pace p;
    machine m = machine_of(16);
    m.n_busy = 3;
    m.busy_all = 4.0;
    fg_pace_init(&p, 16, UINT32_MAX);
    (void)play(&p, &m, 1.0);
    CHECK_U64(p.usual, 13);
    m.n_busy = 0;
    (void)play(&p, &m, 1.6);
    CHECK_U64(p.usual, 16);
}

/* Seven cores were taken at the beginning, later one is. */
FG_TEST(one_busy_core_is_no_reason_to_leave_others_alone)
{
    fg_pace p;
    machine m = machine_of(16);
    m.n_busy = 1;
    m.busy_all = 4.0;
    fg_pace_init(&p, 16, 9);
    (void)play(&p, &m, 1.0);
    CHECK_U64(p.usual, 15);
}

/* ---- the knee ---- */

/* A machine whose memory serves `knee` workers; each more costs `beyond` of a run. */
typedef struct memory {
    uint32_t n_core, knee;
    double token_ns, beyond, luck; /* of one worker */
    uint64_t n_read;               /* that grows when a run reads from the disk */
    double disk;                   /* share of such runs, which take up to ten times as long */
    fg_rng rng;
} memory;

static double chance(memory *m)
{
    return (double)(fg_rng_u64(&m->rng) >> 11) / 9007199254740992.0;
}

static double memory_ns(memory *m, uint32_t n)
{
    const uint32_t served = n < m->knee ? n : m->knee;
    double ns = m->token_ns / served;
    if (n > m->knee) ns *= 1.0 + m->beyond * (n - m->knee);
    if (chance(m) < m->disk) {
        m->n_read++;
        ns *= 1.0 + 9.0 * chance(m);
    }
    return ns * (1.0 + m->luck * (2.0 * chance(m) - 1.0));
}

/* Runs for a time; workers of a run in the mean. */
static double play_memory(fg_pace *p, memory *m, double seconds)
{
    double ns = 0.0, sum = 0.0;
    uint64_t runs = 0;
    bool look = false;
    for (; ns < seconds * 1e9; runs++) {
        const uint32_t n = fg_pace_workers(p);
        const bool measures = fg_pace_measures(p), looked = look;
        const double run = memory_ns(m, n);
        CHECK(n >= 1 && n <= m->n_core);
        ns += run;
        sum += n;
        if (measures) {
            fg_pace_measured(p, (uint64_t)run, m->n_read);
            continue;
        }
        look = fg_pace_window_ends(p, (uint64_t)run) && !looked;
        if (looked) fg_pace_decide(p, 0);
    }
    return sum / (double)runs;
}

static uint32_t knee_of(memory *m, uint32_t n_node, double seconds)
{
    fg_pace p;
    fg_rng_init(&m->rng, m->n_core + m->knee);
    fg_pace_init(&p, m->n_core, UINT32_MAX);
    fg_pace_measure(&p, n_node);
    (void)play_memory(&p, m, seconds);
    return p.n;
}

FG_TEST(the_knee_is_found)
{
    static const double token_ns[] = {2e5, 1e9, 12e9}; /* a small model, a layer, M1: one worker */
    for (int i = 0; i < 3; i++) {
        /* as measured: 64 workers 15 % slower than 48 */
        memory m = {64, 48, token_ns[i], 0.15 / 16, 0.01, 0, 0.0, {{0}}};
        CHECK_U64(knee_of(&m, 1, i == 2 ? 8.0 : 2.0), 48);
        m.knee = 32; /* two rungs down */
        CHECK_U64(knee_of(&m, 1, i == 2 ? 20.0 : 3.0), 32);
        m.knee = 64; /* none: all stay */
        CHECK_U64(knee_of(&m, 1, 8.0), 64);
        memory few = {16, 16, token_ns[i], 0.0, 0.02, 0, 0.0, {{0}}};
        CHECK_U64(knee_of(&few, 1, 8.0), 16);
        few = (memory){16, 6, token_ns[i], 0.01, 0.0, 0, 0.0, {{0}}};
        CHECK(knee_of(&few, 1, i == 2 ? 200.0 : 5.0) <= 8);
    }
}

FG_TEST(the_knee_takes_equally_of_every_node)
{
    for (uint32_t n_node = 1; n_node <= 16; n_node++) {
        fg_pace p;
        fg_pace_init(&p, 8 * n_node, UINT32_MAX);
        fg_pace_measure(&p, n_node);
        CHECK((p.knee.n_rung > 1) == (8 * n_node > 8));
        for (uint32_t i = 0; i < p.knee.n_rung; i++) {
            CHECK_U64(p.knee.count[i] % n_node, 0);
            CHECK(i == 0 || p.knee.count[i] < p.knee.count[i - 1]);
        }
    }
}

FG_TEST(few_workers_and_a_given_number_are_not_measured)
{
    fg_pace p;
    fg_pace_init(&p, 64, UINT32_MAX); /* given */
    CHECK_U64(p.knee.n_rung, 0);
    memory m = {64, 48, 2e5, 0.15 / 16, 0.0, 0, 0.0, {{0}}};
    CHECK(play_memory(&p, &m, 3.0) == 64.0);
    m = (memory){8, 4, 2e5, 0.1, 0.0, 0, 0.0, {{0}}};
    CHECK_U64(knee_of(&m, 1, 3.0), 8);
}

/* Runs that wait for a disk take any time: nothing is concluded from them. */
FG_TEST(a_disk_is_not_taken_for_memory)
{
    memory m = {64, 64, 2e9, 0.0, 0.02, 0, 1.0, {{0}}};
    CHECK_U64(knee_of(&m, 1, 120.0), 64);
    m.disk = 0.3; /* now and then */
    CHECK_U64(knee_of(&m, 1, 120.0), 64);
}

/* Comparisons become rare; and what was wrong, or has changed, is found out. */
FG_TEST(the_knee_moves)
{
    memory m = {64, 48, 1e9, 0.15 / 16, 0.01, 0, 0.0, {{0}}};
    fg_pace p;
    fg_rng_init(&m.rng, 1);
    fg_pace_init(&p, 64, UINT32_MAX);
    fg_pace_measure(&p, 2);
    (void)play_memory(&p, &m, 5.0);
    CHECK_U64(p.n, 48);
    const double mean = play_memory(&p, &m, 60.0);
    CHECK(mean > 46.0 && mean < 50.0);
    m.knee = 64;
    (void)play_memory(&p, &m, 300.0);
    CHECK_U64(p.n, 64);
}

/* ---- in a team ---- */

static void count_workers(fg_worker *w, void *arg)
{
    if (w->idx == 0) *(uint32_t *)arg = w->n;
}

FG_TEST(a_team_keeps_its_size)
{
    fg_team *t;
    fg_err err = {0};
    REQUIRE_OK(fg_team_create(&t, 3, false, &err), &err);
    for (int i = 0; i < 100; i++) {
        uint32_t n = 0;
        fg_team_run_paced(t, count_workers, &n);
        CHECK(n >= 1 && n <= 3);
        fg_team_run(t, count_workers, &n);
        CHECK_U64(n, 3);
    }
    CHECK_U64(fg_team_size(t), 3);
    fg_team_destroy(&t);
}
