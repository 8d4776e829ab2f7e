/* SPDX-License-Identifier: MIT
 *
 * The line that says every ten minutes how far a command is, with a clock of the test's own.
 */
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/cli/common.h"
#include "tests/fg_test.h"

#define MINUTE ((uint64_t)60 * 1000000000)

FG_TEST(a_line_every_ten_minutes)
{
    progress p;
    char text[256];
    int n = 0;
    (void)setenv("TZ", "UTC", 1);
    tzset();
    progress_start(&p, "convert", "B");
    const uint64_t t0 = p.start_ns, total = (uint64_t)912 * 1000000000;
    for (uint64_t s = 0; s <= 3600; s++) { /* 55 MB/s, asked every second */
        if (!progress_log(&p, t0 + s * 1000000000, (time_t)s, s * 55000000, total, text,
                          sizeof text)) {
            continue;
        }
        n++;
        CHECK_U64(s % 600, 0);
        if (s == 600) {
            CHECK_STR(text, "convert: 1970-01-01 00:10  3.6 %  33.0 GB of 912 GB  55.0 MB/s  "
                            "ETA 4:26 h");
        }
    }
    CHECK_U64(n, 6); /* not at the start */
}

FG_TEST(what_earlier_lives_did_is_no_rate)
{
    progress p;
    char text[256];
    progress_start(&p, "convert", "B");
    const uint64_t t0 = p.start_ns;
    p.from = 500000000000;
    (void)strcpy(p.note, "waiting for shard 7");
    /* nothing has come yet */
    CHECK(progress_log(&p, t0 + 10 * MINUTE, 0, p.from, 2 * p.from, text, sizeof text));
    CHECK(strstr(text, "ETA unknown  waiting for shard 7") != NULL);
    CHECK(!progress_log(&p, t0 + 20 * MINUTE - 1, 0, p.from, 2 * p.from, text, sizeof text));
    p.note[0] = '\0';
    CHECK(progress_log(&p, t0 + 20 * MINUTE, 0, p.from + 120000000000, 2 * p.from, text,
                       sizeof text));
    CHECK(strstr(text, "62.0 %  620 GB of 1.00 TB  100 MB/s  ETA 1:03 h") != NULL);
    /* counts, for commands that count */
    progress_start(&p, "score", "token");
    CHECK(progress_log(&p, p.start_ns + 11 * MINUTE, 0, 6600, 13200, text, sizeof text));
    CHECK(strstr(text, "50.0 %  6,600 of 13,200  10 token/s  ETA 0:11 h") != NULL);
}
