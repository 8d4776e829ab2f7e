/* SPDX-License-Identifier: MIT
 *
 * Which experts of a pass the card does (src/device/share.h): by hand, and for random counts and
 * rates that nobody has an advantage left on the table: the card takes what it has, and of the
 * rest the largest, and is never predicted to end after what either side alone would need.
 */
#include <string.h>

#include "src/base/rng.h"
#include "src/device/share.h"
#include "tests/fg_test.h"

enum { N = 8 };

/* A row takes the host 1, reading an expert 4, the card 0.1 a row and 10 a copy. */
static const fg_share_rates usual = {
    .copy = 10.0, .card_row = 0.1, .host_read = 4.0, .host_row = 1.0};

static bool is(const bool *mine, const char *want)
{
    for (size_t e = 0; e < N; e++) {
        if (mine[e] != (want[e] == 'c')) return false;
    }
    return true;
}

FG_TEST(by_hand)
{
    bool mine[N];
    const bool none[N] = {false}, all[N] = {1, 1, 1, 1, 1, 1, 1, 1};
    const uint32_t rows[N] = {1, 0, 30, 2, 0, 30, 1, 3};
    /* all there: everything that has rows, and nothing is copied */
    CHECK_U64(fg_device_share(rows, N, all, true, &usual, mine), 0);
    CHECK(is(mine, "c.cc.ccc"));
    /* none: the two large ones; a third copy would end at 30, the host without it at 16 */
    CHECK_U64(fg_device_share(rows, N, none, true, &usual, mine), 2);
    CHECK(is(mine, "..c..c.."));
    /* nothing is copied */
    CHECK_U64(fg_device_share(rows, N, none, false, &usual, mine), 0);
    CHECK(is(mine, "........"));
    /* some are there */
    const bool some[N] = {1, 1, 0, 0, 0, 1, 0, 0};
    CHECK_U64(fg_device_share(rows, N, some, true, &usual, mine), 1);
    CHECK(is(mine, "c.c..c.."));
    /* no rows at all */
    const uint32_t empty[N] = {0};
    CHECK_U64(fg_device_share(empty, N, all, true, &usual, mine), 0);
    CHECK(is(mine, "........"));
}

FG_TEST(ties_go_to_the_lower_number)
{
    bool mine[N];
    const bool none[N] = {false};
    const uint32_t rows[N] = {20, 20, 20, 20, 20, 20, 20, 20};
    const fg_share_rates r = {.copy = 60.0, .card_row = 0.0, .host_read = 0.0, .host_row = 1.0};
    /* 60 a copy against 20 on the host: two copies (120) while the host does six (120) */
    CHECK_U64(fg_device_share(rows, N, none, true, &r, mine), 2);
    CHECK(is(mine, "cc......"));
}

FG_TEST(extreme_rates)
{
    bool mine[N];
    const bool none[N] = {false};
    const uint32_t rows[N] = {1, 2, 3, 4, 5, 6, 7, 8};
    fg_share_rates r = usual;
    r.copy = 1e30; /* as good as none */
    CHECK_U64(fg_device_share(rows, N, none, true, &r, mine), 0);
    r = usual;
    r.copy = 0.0; /* for nothing: all but what the host does meanwhile */
    r.card_row = 0.0;
    CHECK_U64(fg_device_share(rows, N, none, true, &r, mine), N);
    r = usual;
    r.host_read = r.host_row = 0.0; /* a host that takes no time keeps everything */
    CHECK_U64(fg_device_share(rows, N, none, true, &r, mine), 0);
    r = usual;
    r.host_row = 1e30;
    CHECK_U64(fg_device_share(rows, N, none, true, &r, mine), N);
    const uint32_t most[N] = {UINT32_MAX, UINT32_MAX, 1};
    r = usual;
    CHECK(fg_device_share(most, N, none, true, &r, mine) >= 1 && mine[0]);
}

/* What both sides are predicted to need. */
typedef struct cost {
    double card, host;
} cost;

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static cost cost_of(const uint32_t *rows, const bool *there, const fg_share_rates *r,
                    const bool *mine)
{
    double copies = 0.0, work = 0.0, host = 0.0;
    for (size_t e = 0; e < N; e++) {
        if (rows[e] == 0) continue;
        if (!mine[e]) host += larger(r->host_read, rows[e] * r->host_row);
        if (mine[e]) work += rows[e] * r->card_row;
        if (mine[e] && !there[e]) copies += r->copy;
    }
    return (cost){larger(copies, work), host};
}

static double random_rate(fg_rng *g)
{
    const double scale[] = {0.0, 1e-6, 1e-3, 1.0, 1e3};
    return fg_rng_f64(g) * scale[fg_rng_u64(g) % 5];
}

static void check_random(fg_rng *g)
{
    uint32_t rows[N];
    bool there[N], mine[N], plain[N];
    for (size_t e = 0; e < N; e++) {
        rows[e] = fg_rng_u64(g) % 3 == 0 ? 0 : (uint32_t)(fg_rng_u64(g) % 100);
        there[e] = fg_rng_u64(g) % 4 == 0;
        plain[e] = there[e] && rows[e] > 0;
    }
    const fg_share_rates r = {random_rate(g), random_rate(g), random_rate(g), random_rate(g)};
    const uint32_t n = fg_device_share(rows, N, there, true, &r, mine);
    const cost without = cost_of(rows, there, &r, plain), with = cost_of(rows, there, &r, mine);
    const double slack = 1.0 + 1e-9;
    /* never later than with what is there only */
    CHECK(larger(with.card, with.host) <= larger(without.card, without.host) * slack);
    uint32_t copied = 0, least = UINT32_MAX, kept = 0;
    for (size_t e = 0; e < N; e++) {
        CHECK(!mine[e] || rows[e] > 0);
        CHECK(!plain[e] || mine[e]);
        if (mine[e] && !there[e]) copied++;
        if (mine[e] && !there[e] && rows[e] < least) least = rows[e];
        if (!mine[e] && rows[e] > kept) kept = rows[e];
    }
    CHECK_U64(n, copied);
    CHECK(n == 0 || kept <= least); /* the largest are the card's */
}

FG_TEST(random_ones_are_never_worse_for_it)
{
    fg_rng g;
    fg_rng_init(&g, 21);
    for (int i = 0; i < 20000 && !fg_test_failed(); i++) check_random(&g);
}
