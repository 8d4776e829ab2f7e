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
#include "src/engine/session_log.h"
#include "tests/fg_test.h"

static char folder[512], file[600];

static void put_note(fg_log *g, fg_record type, uint64_t pos, const char *text, size_t n)
{
    uint8_t le[8];
    for (int i = 0; i < 8; i++) le[i] = (uint8_t)(pos >> (8 * i));
    fg_log_put(g, type, le, sizeof le, text, n);
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
