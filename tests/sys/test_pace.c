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
        fg_pace_init(&p, n);
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
        fg_pace_init(&p, 2);
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
    fg_pace_init(&p, 2);
    (void)play(&p, &m, 0.5);
    const share s = play(&p, &m, 10.0);
    CHECK(s.all * 100 >= s.runs * 90);
}

FG_TEST(one_busy_core_of_many_costs_one_worker)
{
    fg_pace p;
    machine m = machine_of(16);
    m.n_busy = 3;
    m.busy_all = 4.0;
    fg_pace_init(&p, 16);
    (void)play(&p, &m, 1.0);
    CHECK_U64(p.usual, 13);
    m.n_busy = 0;
    (void)play(&p, &m, 1.6);
    CHECK_U64(p.usual, 16);
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
