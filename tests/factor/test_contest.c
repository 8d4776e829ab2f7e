/* SPDX-License-Identifier: MIT
 *
 * Tuning by swarms and comparing under equal budgets: each piece by itself, and in a long run the
 * targets on generated ratings, tuned on one set and judged on three others.
 */
#include "src/factor/contest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/factor/swarm.h"
#include "tests/factor/generated.h"
#include "tests/fg_test.h"

/* ---- on generated ratings, with the whole budget ---- */

static void print_contest(const fg_contest *c)
{
    printf("     %-18s %7s %7s %7s %6s %7s | %s\n", "", "RMSE", "MAE", "valid", "epochs", "seconds",
           "to rival: reached, epochs, worst, seconds; test RMSE less rival's, p");
    for (uint32_t i = 0; i < c->n; i++) {
        const fg_contest_mean m = fg_contest_mean_of(c, i);
        const fg_contest_pair p = fg_contest_pair_of(c, i, c->rival);
        printf("     %-18s %7.4f %7.4f %7.4f %6.0f %7.3f | %u %5.2f %5.2f %5.2f  %+.4f %.3f\n",
               c->of[i].name, m.rmse, m.mae, m.valid_rmse, m.epochs, m.seconds, p.n_reached,
               p.epochs, p.worst_epochs, p.seconds, p.difference, p.p);
    }
    const uint32_t to[] = {c->rival, c->decay, c->sgd};
    const fg_factor_algo algo[] = {FG_ALGO_ADS, FG_ALGO_ADS_CHEAP, FG_ALGO_NPID};
    for (size_t a = 0; a < 3; a++) {
        for (size_t k = 0; k < 3; k++) {
            const uint32_t i = fg_contest_best(c, algo[a], to[k]);
            const fg_contest_pair p = fg_contest_pair_of(c, i, to[k]);
            printf("     %s reaches %s in %u of %u: epochs x%.2f (worst x%.2f), seconds x%.2f\n",
                   c->of[i].name, c->of[to[k]].name, p.n_reached, p.n, p.epochs, p.worst_epochs,
                   p.seconds);
        }
    }
}

static void contest_on_generated(bool bias, uint64_t budget)
{
    enum { TUNED_ON = 100, SETS = 3 };
    fg_err err = {0};
    fg_contest *c = NULL;
    fg_factor_machine on;
    fg_hdi part[3];
    fg_factor_opts o = fg_factor_opts_default(FG_ALGO_SGD, bias);
    REQUIRE_OK(fg_factor_machine_open(&on, 1, &err), &err);
    ratings_make(TUNED_ON, part);
    CHECK_OK(fg_contest_create(&c, SETS, &part[0], &part[1], &o, budget, &on, NULL, NULL, &err),
             &err);
    ratings_free(part);
    for (uint32_t s = 0; c != NULL && s < SETS; s++) {
        ratings_make(s + 1, part);
        CHECK_OK(fg_contest_run(c, s, part, s + 1, &on, NULL, NULL, &err), &err);
        ratings_free(part);
    }
    if (c != NULL) {
        fg_contest_conclude(c);
        print_contest(c);
        for (uint32_t i = 0; i < c->n; i++) {
            const fg_factor_algorithm *a = fg_factor_algorithm_get(c->of[i].opts.algo);
            printf("     %s %d:", c->of[i].name, (int)c->of[i].tuning_passes);
            for (uint32_t k = 0; k < a->n_param; k++) {
                printf(" %s=%.4g", a->param[k].name, c->of[i].opts.param[k]);
            }
            puts("");
        }
    }
    fg_contest_destroy(&c);
    fg_factor_machine_close(&on);
}

FG_TEST(targets_under_equal_budgets)
{
    if (!fg_test_long()) {
        fg_test_skip("minutes of tuning");
        return;
    }
    const char *budget = getenv("FULGUR_TEST_BUDGET");
    for (int bias = 0; bias < 2; bias++) {
        printf("     %s\n", bias == 1 ? "with biases" : "no biases");
        contest_on_generated(bias == 1, budget == NULL ? 20000 : strtoull(budget, NULL, 10));
    }
}
