/* SPDX-License-Identifier: MIT
 *
 * The thread team: shares cover everything once, the barrier orders memory, oversubscription and
 * repeated runs work.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "src/sys/team.h"
#include "src/sys/topo.h"
#include "tests/fg_test.h"

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

FG_TEST(shares_cover_all_items_once)
{
    for (uint32_t n = 1; n <= 17; n++) {
        for (uint64_t items = 0; items < 40; items++) {
            uint64_t next = 0;
            for (uint32_t i = 0; i < n; i++) {
                const fg_worker w = {NULL, i, n};
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
        while (fg_worker_take(w, k->n, &begin, &end)) {
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

FG_TEST(pinning_leaves_the_caller_unbound)
{
    const uint32_t before = fg_cpu_budget();
    (void)run_relax(2, true);
    CHECK_U64(fg_cpu_budget(), before);
}
