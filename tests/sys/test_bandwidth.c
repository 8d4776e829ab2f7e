/* SPDX-License-Identifier: MIT
 *
 * The read loop: every form reads all bytes, and the fastest is one of those that were asked for.
 */
#include <string.h>

#include "src/sys/bandwidth.h"
#include "tests/fg_test.h"

enum { BYTES = 4 << 20 };

FG_TEST(every_form_reads)
{
    fg_team *t;
    fg_bandwidth_buffer b = {0};
    fg_err err = {0};
    REQUIRE_OK(fg_team_create(&t, 2, false, &err), &err);
    REQUIRE_OK(fg_bandwidth_buffer_init(&b, t, BYTES, &err), &err);
    for (uint32_t streams = 1; streams <= 4; streams *= 2) {
        for (int prefetch = 0; prefetch < 2; prefetch++) {
            for (uint32_t n = 0; n <= 2; n++) {
                const fg_read_form f = {streams, prefetch == 1, n};
                fg_bandwidth r;
                /* an odd number of pages: no number of streams divides it */
                CHECK_OK(fg_bandwidth_read_as(t, &f, b.p, BYTES - 4096, 3, 0, &r, &err), &err);
                CHECK(r.median_gbs > 0.0 && r.best_gbs >= r.median_gbs);
                CHECK_U64(r.bytes, BYTES - 4096);
            }
        }
    }
    fg_bandwidth r;
    const fg_read_form bad[] = {{3, false, 0}, {0, false, 0}, {1, false, 3}};
    for (int i = 0; i < 3; i++) {
        CHECK(fg_bandwidth_read_as(t, &bad[i], b.p, BYTES, 3, 0, &r, &err) == FG_EINVAL);
    }
    fg_bandwidth_buffer_fini(&b);
    fg_team_destroy(&t);
}

FG_TEST(the_fastest_is_looked_for)
{
    fg_team *t;
    fg_bandwidth_buffer b = {0};
    fg_err err = {0};
    REQUIRE_OK(fg_team_create(&t, 2, false, &err), &err);
    REQUIRE_OK(fg_bandwidth_buffer_init(&b, t, BYTES, &err), &err);
    const fg_read_span span[] = {{b.p, BYTES}, {b.p, 4096}};
    fg_read_form f = {0};
    uint32_t which = 9;
    CHECK_OK(fg_bandwidth_fastest(t, span, 2, &f, &which, &err), &err);
    CHECK(which < 2 && (f.n_stream == 1 || f.n_stream == 2 || f.n_stream == 4) && f.n_worker <= 2);
    const fg_read_span empty = {b.p, 0};
    CHECK(fg_bandwidth_fastest(t, &empty, 1, &f, &which, &err) == FG_EINVAL);
    fg_bandwidth_buffer_fini(&b);
    fg_team_destroy(&t);
}
