/* SPDX-License-Identifier: MIT
 *
 * The log of a saved session, without a model: what is said twice, and what must not be cut off.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/engine/session_log.h"
#include "tests/fg_test.h"

static char folder[512], file[600];

static void put_note(fg_log *g, fg_record type, uint64_t pos, const char *text, size_t n)
{
    CHECK(fg_log_put_at(g, type, pos, text, n));
}

static void put_ids(fg_log *g, uint64_t first, uint32_t n)
{
    uint8_t b[8 + 4 * 64] = {0};
    for (int i = 0; i < 8; i++) b[i] = (uint8_t)(first >> (8 * i));
    fg_log_put(g, FG_RECORD_IDS, b, 8 + 4 * (size_t)n, NULL, 0);
}

/* A log with its first group, in a folder that fg_saved_read finds as "t". */
static bool begin(fg_log *g, fg_err *err)
{
    const fg_history none = {0};
    const fg_log_open o = {.id = 1, .row_bytes = 64, .n_ctx = 4096};
    (void)snprintf(folder, sizeof folder, "%s/t.fgs", fg_test_tmpdir());
    (void)snprintf(file, sizeof file, "%s/log", folder);
    (void)mkdir(folder, 0700);
    (void)unlink(file);
    const int fd = open(file, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || fg_log_start(g, fd, file, &none, err) != FG_OK) return false;
    fg_log_put_open(g, &o);
    return fg_log_commit(g, err) == FG_OK;
}

FG_TEST(a_message_is_said_in_place_of_one_that_came_to_nothing)
{
    fg_log g;
    fg_err err = {0};
    fg_saved_info *info;
    REQUIRE(begin(&g, &err));
    put_note(&g, FG_RECORD_MESSAGE, 0, "\0be kind", 8);
    put_note(&g, FG_RECORD_MESSAGE, 0, "\1first", 6);
    put_note(&g, FG_RECORD_TITLE, 0, "a talk", 6);
    CHECK_OK(fg_log_commit(&g, &err), &err);
    put_note(&g, FG_RECORD_MESSAGE, 0, "\1second", 7); /* the first one's prompt was stopped */
    put_ids(&g, 0, 9);
    put_note(&g, FG_RECORD_MESSAGE, 9, "\2", 1);
    put_note(&g, FG_RECORD_END, 9, "cancel", 6);
    put_note(&g, FG_RECORD_MESSAGE, 9, "\2", 1); /* the reply once more */
    put_ids(&g, 9, 5);
    put_note(&g, FG_RECORD_END, 14, "model", 5);
    put_note(&g, FG_RECORD_MESSAGE, 14, "\1third", 6); /* another role, another place: all stay */
    CHECK_OK(fg_log_commit(&g, &err), &err);
    fg_log_fini(&g);
    REQUIRE_OK(fg_saved_read(&info, fg_test_tmpdir(), "t", &err), &err);
    static const struct {
        fg_saved_kind kind;
        uint64_t pos;
        const char *text;
    } want[] = {{FG_SAVED_MESSAGE, 0, "be kind"}, {FG_SAVED_TITLE, 0, " talk"},
                {FG_SAVED_MESSAGE, 0, "second"},  {FG_SAVED_MESSAGE, 9, ""},
                {FG_SAVED_END, 14, "odel"},       {FG_SAVED_MESSAGE, 14, "third"}};
    CHECK_U64(info->n_event, sizeof want / sizeof want[0]);
    for (size_t i = 0; i < info->n_event && i < sizeof want / sizeof want[0]; i++) {
        const fg_saved_event *e = &info->event[i];
        CHECK(e->kind == want[i].kind && e->pos == want[i].pos);
        CHECK(e->n == strlen(want[i].text) + 1 &&
              memcmp(e->payload + 1, want[i].text, e->n - 1) == 0);
    }
    fg_saved_info_free(&info);
}

FG_TEST(strip_cuts_nothing_off)
{
    fg_log g;
    fg_err err = {0};
    struct stat before, after;
    uint64_t bytes;
    REQUIRE(begin(&g, &err));
    for (uint32_t i = 0; i < 4; i++) {
        put_ids(&g, (uint64_t)i * 8, 8);
        REQUIRE_OK(fg_log_commit(&g, &err), &err);
    }
    CHECK_OK(fg_saved_strip(fg_test_tmpdir(), "t", &bytes, &err), &err); /* a whole one */
    REQUIRE(pwrite(g.fd, "x", 1, 2 * FG_LOG_PAGE + 30) == 1);
    fg_log_fini(&g);
    REQUIRE(stat(file, &before) == 0);
    CHECK(fg_saved_strip(fg_test_tmpdir(), "t", &bytes, &err) == FG_ECHECKSUM);
    CHECK(strstr(err.msg, "is damaged") != NULL);
    CHECK(stat(file, &after) == 0 && after.st_size == before.st_size);
}

/* ---- settings, and what was given ---- */

static size_t events(fg_saved_kind kind)
{
    fg_saved_info *info;
    fg_err err = {0};
    size_t n = 0;
    if (fg_saved_read(&info, fg_test_tmpdir(), "t", &err) != FG_OK) return SIZE_MAX;
    for (size_t i = 0; i < info->n_event; i++) n += info->event[i].kind == kind;
    fg_saved_info_free(&info);
    return n;
}

FG_TEST(settings_do_not_come_between_a_message_and_itself)
{
    fg_log g;
    fg_err err = {0};
    REQUIRE(begin(&g, &err));
    put_ids(&g, 0, 20);
    put_note(&g, FG_RECORD_MESSAGE, 5, "\1first", 6);
    put_note(&g, FG_RECORD_SETTINGS, 20, "{}", 2);
    put_note(&g, FG_RECORD_MESSAGE, 5, "\1again", 6); /* at its place, 15 of its ids stay */
    put_note(&g, FG_RECORD_MESSAGE, 20, "\2", 1);
    CHECK_OK(fg_log_commit(&g, &err), &err);
    CHECK_U64(events(FG_SAVED_MESSAGE), 2);
    CHECK_U64(events(FG_SAVED_SETTINGS), 1);
    put_note(&g, FG_RECORD_MESSAGE, 5, "\1late", 5); /* control: something was said behind it */
    CHECK_OK(fg_log_commit(&g, &err), &err);
    CHECK_U64(events(FG_SAVED_MESSAGE), 3);
    fg_log_fini(&g);
}

static void keep_line(void *ctx, const char *line)
{
    (void)snprintf(ctx, 600, "%s", line);
}

/* Each bit of these records: the one that has it is named, and what is before it stays. */
FG_TEST(a_flipped_bit_of_settings_and_given_tokens_is_named)
{
    static const uint8_t forced[8] = {FG_FORCED_BUDGET, 0, 0, 0, 4};
    fg_log g;
    fg_err err = {0};
    uint8_t whole[FG_LOG_PAGE];
    REQUIRE(begin(&g, &err));
    put_ids(&g, 0, 20);
    put_note(&g, FG_RECORD_SETTINGS, 20, "{\"temp\": 1}", 11);
    const size_t from = g.group.len - 32 - 8 - 11, to = g.group.len + 32 + 8 + 8;
    put_note(&g, FG_RECORD_FORCED, 9, (const char *)forced, 8);
    CHECK_OK(fg_log_commit(&g, &err), &err);
    REQUIRE(pread(g.fd, whole, sizeof whole, FG_LOG_PAGE) == (ssize_t)sizeof whole);
    CHECK_OK(fg_saved_verify(fg_test_tmpdir(), "t", NULL, NULL, NULL, &err), &err);
    for (size_t bit = from * 8; bit < to * 8; bit++) {
        char said[600] = "";
        whole[bit / 8] ^= (uint8_t)(1u << bit % 8);
        REQUIRE(pwrite(g.fd, whole, sizeof whole, FG_LOG_PAGE) == (ssize_t)sizeof whole);
        whole[bit / 8] ^= (uint8_t)(1u << bit % 8);
        const fg_status st = fg_saved_verify(fg_test_tmpdir(), "t", NULL, keep_line, said, &err);
        if (st != FG_ECHECKSUM || strstr(said, "log: record ") == NULL) {
            fg_test_fail(__FILE__, __LINE__, "bit %zu: %d, \"%s\"", bit, (int)st, said);
        }
    }
    fg_log_fini(&g);
}

FG_TEST(a_note_of_given_tokens_has_a_reason_and_a_number)
{
    static const struct {
        uint8_t bytes[9];
        size_t n;
    } bad[] = {{{1, 0, 0, 0, 4, 0, 0, 0}, 7}, {{0, 0, 0, 0, 4}, 8}, {{9, 0, 0, 0, 4}, 8},
               {{1, 0, 0, 0, 0}, 8},          {{1, 0, 0, 0, 4}, 9}, {{1}, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fg_log g;
        fg_err err = {0};
        fg_saved_info *info;
        REQUIRE(begin(&g, &err));
        put_ids(&g, 0, 20);
        put_note(&g, FG_RECORD_FORCED, 9, (const char *)bad[i].bytes, bad[i].n);
        CHECK_OK(fg_log_commit(&g, &err), &err);
        fg_log_fini(&g);
        CHECK(fg_saved_read(&info, fg_test_tmpdir(), "t", &err) == FG_EFORMAT);
        CHECK(strstr(err.msg, "a reason and a number") != NULL);
    }
}

/* Without memory a record is not there, and those that are reach the disk later. */
FG_TEST(a_failed_allocation_leaves_the_group_whole)
{
    char text[3000];
    size_t lost = 0, whole = 0;
    memset(text, 'x', sizeof text);
    for (uint64_t n = 1; n < 40; n++) {
        fg_log g;
        fg_err err = {0};
        size_t put = 0;
        REQUIRE(begin(&g, &err));
        put_ids(&g, 0, 20);
        fg_mem_fail_after(n);
        for (int i = 0; i < 6; i++) { /* in two groups, of which the first may fail */
            put += fg_log_put_at(&g, FG_RECORD_SETTINGS, 20, text, sizeof text);
            if (i != 2) continue;
            const fg_status st = fg_log_commit(&g, &err);
            CHECK(st == FG_OK || st == FG_ENOMEM);
            lost += st != FG_OK;
        }
        fg_mem_fail_after(0);
        whole += put == 6;
        CHECK(put >= 5);
        CHECK_OK(fg_log_commit(&g, &err), &err);
        fg_log_fini(&g);
        CHECK_U64(events(FG_SAVED_SETTINGS), put);
        CHECK_OK(fg_saved_verify(fg_test_tmpdir(), "t", NULL, NULL, NULL, &err), &err);
    }
    CHECK(whole > 0 && whole < 39); /* both happened */
    printf("  %zu of 39 with all records, %zu commits failed\n", whole, lost);
}
