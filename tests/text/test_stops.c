/* SPDX-License-Identifier: MIT
 *
 * Stop strings against a search of the whole text, for every way to cut it in two and in single
 * bytes; and the sources of copies.
 */
#include <string.h>

#include "src/base/buf.h"
#include "src/base/rng.h"
#include "src/text/repeat.h"
#include "src/text/stops.h"
#include "tests/fg_test.h"

enum { N_TEXT = 40, N_STOP = 3 };

static void keep(void *ctx, const char *text, size_t n)
{
    CHECK(n > 0);
    fg_buf_put(ctx, text, n);
}

/* Where the first one to be complete begins; n: there is none. */
static size_t plain(const char *text, size_t n, const char *const *stop)
{
    for (size_t end = 1; end <= n; end++) {
        size_t longest = 0;
        for (int k = 0; k < N_STOP; k++) {
            const size_t len = strlen(stop[k]);
            if (len <= end && len > longest && memcmp(text + end - len, stop[k], len) == 0) {
                longest = len;
            }
        }
        if (longest > 0) return end - longest;
    }
    return n;
}

/* The same, piece by piece; forgets: what was held back is forgotten between pieces (control). */
static size_t by_pieces(fg_stops *s, const char *text, size_t n, size_t first, size_t step,
                        bool forgets)
{
    fg_buf out = {0};
    bool found = false;
    fg_stops_reset(s);
    for (size_t at = 0; at < n && !found;) {
        const size_t left = n - at, want = at < first ? first - at : step;
        const size_t len = want < left ? want : left;
        found = fg_stops_feed(s, text + at, len, keep, &out);
        at += len;
        if (forgets && !found) {
            fg_stops_flush(s, keep, &out);
            fg_stops_reset(s);
        }
    }
    if (!found) fg_stops_flush(s, keep, &out);
    CHECK(memcmp(out.data == NULL ? (const void *)"" : out.data, text, out.len) == 0);
    const size_t len = out.len;
    fg_buf_fini(&out);
    return len;
}

FG_TEST(found_however_the_text_is_cut)
{
    fg_rng rng;
    fg_rng_init(&rng, 3);
    uint64_t n_missed = 0, n_found = 0;
    for (int round = 0; round < 300; round++) {
        char text[N_TEXT + 1], words[N_STOP][8];
        const char *stop[N_STOP];
        for (int i = 0; i < N_TEXT; i++) text[i] = (char)('a' + fg_rng_u64(&rng) % 3);
        text[N_TEXT] = '\0';
        for (int k = 0; k < N_STOP; k++) {
            const size_t len = 2 + fg_rng_u64(&rng) % 5;
            for (size_t i = 0; i < len; i++) words[k][i] = (char)('a' + fg_rng_u64(&rng) % 3);
            words[k][len] = '\0';
            stop[k] = words[k];
        }
        fg_stops s;
        fg_err err = {0};
        REQUIRE_OK(fg_stops_init(&s, stop, N_STOP, &err), &err);
        const size_t want = plain(text, N_TEXT, stop);
        n_found += want < N_TEXT;
        for (size_t first = 0; first <= N_TEXT; first++) {
            CHECK_U64(by_pieces(&s, text, N_TEXT, first, N_TEXT, false), want);
            n_missed += by_pieces(&s, text, N_TEXT, first, N_TEXT, true) != want;
        }
        CHECK_U64(by_pieces(&s, text, N_TEXT, 0, 1, false), want);
        fg_stops_fini(&s);
    }
    CHECK(n_found > 100 && n_missed > 100);
}

/* An earlier part may be copied from once, in any order; the present one never. */
FG_TEST(each_place_is_copied_from_once)
{
    uint32_t ids[600];
    fg_repeat r = {0};
    size_t n = 0;
    for (; n < 100; n++) ids[n] = 1000 + (uint32_t)(n * n % 997);
    REQUIRE(fg_repeat_part(&r, ids, n));
    for (int times = 0; times < 3; times++) {
        int copied = 0;
        for (size_t i = 0; i < 100; i++) {
            const uint32_t id = ids[(i + 50) % 100]; /* the second half first */
            copied += fg_repeat_copies(&r, ids, n, id);
            ids[n++] = id;
        }
        /* three ids find each beginning */
        if (times == 0) CHECK(copied >= 100 - 6 && copied <= 100 - 3);
        if (times == 1) CHECK(copied <= 6);
        if (times == 2) CHECK(copied == 0);
    }
    REQUIRE(fg_repeat_part(&r, ids, n)); /* now all of it is an earlier part */
    int copied = 0;
    for (size_t i = 0; i < 100; i++) {
        copied += fg_repeat_copies(&r, ids, n, ids[i]);
        ids[n++] = ids[i];
    }
    CHECK(copied >= 90);
    fg_repeat_clear(&r);
    CHECK(!fg_repeat_copies(&r, ids, n, ids[3]));
    fg_repeat_fini(&r);
}
