/* SPDX-License-Identifier: MIT
 *
 * A model's file while an engine has it open: whose mapping an address is in, file systems without
 * shared mappings or without any, and files that are touched, moved, appended to or written to.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/base/io.h"
#include "src/base/mapping.h"
#include "src/engine/engine.h"
#include "src/engine/memory.h"
#include "src/format/layout.h"
#include "src/format/write/append.h"
#include "tests/fg_test.h"
#include "tests/models.h"

#define TINY_DIR "tests/vectors/oracle/orig-heads6"

/* What the file system refuses. */
static enum { ALL_MAPS, PRIVATE_MAPS, NO_MAPS } gives;
static int n_refused;

void *mmap(void *addr, size_t n, int prot, int flags, int fd, off_t offset)
{
    const bool refused =
        fd >= 0 && (gives == NO_MAPS || (gives == PRIVATE_MAPS && (flags & MAP_SHARED) != 0));
    if (refused) {
        n_refused++;
        errno = ENODEV;
        return MAP_FAILED;
    }
    const long p = syscall(SYS_mmap, addr, n, prot, flags, fd, offset);
    return (void *)p; /* NOLINT */
}

/* A copy of the model for a test to bend. */
static const char *copy_of_model(const char *name)
{
    char cmd[1200];
    const char *path = fg_test_tmp(name), *from = model_file(TINY_DIR, "q4");
    (void)snprintf(cmd, sizeof cmd, "cp %s %s", from, path);
    CHECK(system(cmd) == 0);
    return path;
}

static fg_engine *open_with(const char *path, uint64_t ram, fg_status want, fg_err *err)
{
    fg_engine *e = NULL;
    fg_engine_opts o = fg_engine_opts_default();
    o.n_thread = 1;
    o.pin = false;
    o.ram_bytes = ram;
    *err = (fg_err){0};
    const fg_status st = fg_engine_open(&e, path, &o, err);
    if (st != want) fg_test_fail(__FILE__, __LINE__, "status %d: %s", (int)st, err->msg);
    return e;
}

static float *logits_of(fg_engine *e)
{
    static const uint32_t ids[] = {3, 1, 4, 1, 5, 9, 2, 6};
    fg_session *s = model_session(e, 16, 8);
    float *x = s == NULL ? NULL : model_logits(s, e, ids, 8, 0);
    fg_session_destroy(&s);
    return x;
}

static bool same_logits(const float *x, const float *y, const fg_engine *e)
{
    return x != NULL && y != NULL && memcmp(x, y, 8 * fg_engine_shape(e)->n_vocab * sizeof *x) == 0;
}

FG_TEST(whose_an_address_is)
{
    fg_file f[2];
    fg_err err;
    const char *a = copy_of_model("a.fulgur"), *b = copy_of_model("b.fulgur");
    REQUIRE_OK(fg_file_open(&f[0], a, true, &err), &err);
    REQUIRE_OK(fg_file_open(&f[1], b, true, &err), &err);
    for (int i = 0; i < 2; i++) {
        const uint8_t *p = f[i].data, *end = p + f[i].size;
        CHECK_STR(fg_mapped_file(p), i == 0 ? a : b);
        CHECK_STR(fg_mapped_file(end - 1), i == 0 ? a : b);
    }
    CHECK(fg_mapped_file(&err) == NULL && fg_mapped_file(NULL) == NULL);
    const uint8_t *gone = f[0].data;
    fg_file_close(&f[0]);
    CHECK(fg_mapped_file(gone) == NULL);
    CHECK_STR(fg_mapped_file(f[1].data), b);
    fg_file_close(&f[1]);
}

FG_TEST(temporary_files_go_in_a_handler)
{
    fg_new_file n[2];
    fg_err err;
    for (int i = 0; i < 2; i++) {
        REQUIRE_OK(fg_new_file_open(&n[i], fg_test_tmp(i == 0 ? "done" : "not"), &err), &err);
    }
    CHECK_OK(fg_new_file_commit(&n[0], &err), &err);
    CHECK(fg_io_exists(n[1].part));
    fg_new_file_drop_all();
    CHECK(!fg_io_exists(n[1].part) && fg_io_exists(n[0].path) && !fg_io_exists(n[1].path));
    fg_new_file_close(&n[0]);
    fg_new_file_close(&n[1]);
}

FG_TEST(a_name_that_was_taken_meanwhile)
{
    fg_new_file n;
    fg_err err = {0};
    const char *path = fg_test_tmp("taken");
    for (int taken = 0; taken < 2; taken++) {
        fg_test_put(path, "old");
        REQUIRE_OK(fg_new_file_open(&n, path, &err), &err);
        CHECK(fputs("new", n.f) >= 0);
        if (taken) REQUIRE(remove(n.part) == 0);
        if (taken) fg_test_put(n.part, "other");
        CHECK(fg_new_file_commit(&n, &err) == (taken ? FG_EIO : FG_OK));
        CHECK(fg_test_has(path, taken ? "old" : "new"));
        CHECK(!taken || fg_test_has(n.part, "other"));
        fg_new_file_close(&n);
    }
}

FG_TEST(file_systems_without_shared_mappings)
{
    fg_err err;
    const uint64_t ram = FG_MEMORY_PROGRAM + ((uint64_t)64 << 20);
    fg_engine *e = open_with(copy_of_model("fuse.fulgur"), 0, FG_OK, &err);
    REQUIRE(e != NULL);
    float *want = logits_of(e);
    const char *path = fg_model_file_path(fg_engine_file(e));
    gives = PRIVATE_MAPS;
    n_refused = 0;
    fg_engine *p = open_with(path, 0, FG_OK, &err);
    CHECK(n_refused > 0); /* control: it was asked for */
    gives = NO_MAPS;
    fg_engine *none = open_with(path, 0, FG_EIO, &err);
    CHECK(none == NULL && strstr(err.msg, "No such device, expected to map") != NULL);
    fg_engine *r = open_with(path, ram, FG_OK, &err);
    gives = ALL_MAPS;
    REQUIRE(p != NULL && r != NULL);
    float *private = logits_of(p), *read = logits_of(r);
    CHECK(same_logits(private, want, e) && same_logits(read, want, e));
    free(want);
    free(private);
    free(read);
    fg_engine_close(&r);
    fg_engine_close(&p);
    fg_engine_close(&e);
}

static bool no_progress(void *ctx, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    (*(int *)ctx)++;
    return *(int *)ctx < 1000;
}

/* Flips a bit in the middle of the weights; with the times put back when told so. */
static void damage(const char *path, bool times_back)
{
    struct stat was;
    uint8_t byte;
    const int fd = open(path, O_RDWR);
    REQUIRE(fd >= 0 && fstat(fd, &was) == 0);
    const off_t at = was.st_size / 2;
    CHECK(pread(fd, &byte, 1, at) == 1);
    byte ^= 1;
    CHECK(pwrite(fd, &byte, 1, at) == 1);
    const struct timespec times[2] = {was.st_atim, was.st_mtim};
    CHECK(!times_back || futimens(fd, times) == 0);
    CHECK(close(fd) == 0);
}

FG_TEST(a_mapped_file_that_changes)
{
    fg_err err;
    int asked = 0;
    char other[600];
    const char *path = copy_of_model("used.fulgur");
    fg_engine *e = open_with(path, 0, FG_OK, &err);
    REQUIRE(e != NULL);
    CHECK_OK(fg_engine_check(e, no_progress, &asked, &err), &err);
    CHECK(asked == 0);   /* nothing had to be read */
    (void)usleep(20000); /* the clock of file times is a coarse one */
    (void)snprintf(other, sizeof other, "%s.link", path);
    CHECK(link(path, other) == 0);
    CHECK_OK(fg_engine_check(e, no_progress, &asked, &err), &err);
    CHECK(asked > 0);
    asked = 0;
    CHECK_OK(fg_engine_check(e, no_progress, &asked, &err), &err);
    CHECK(asked == 0); /* not read twice for the same link */
    fg_append *a;      /* metadata that another program appends */
    REQUIRE_OK(fg_append_open(&a, path, &err), &err);
    CHECK_OK(fg_append_meta(a, "notes", "text", 4, &err), &err);
    fg_append_close(&a);
    CHECK_OK(fg_engine_check(e, NULL, NULL, &err), &err);
    CHECK(rename(path, other) == 0 && chmod(other, 0640) == 0 && unlink(other) == 0);
    CHECK_OK(fg_engine_check(e, NULL, NULL, &err), &err);
    fg_engine_close(&e);
    for (int back = 0; back < 2; back++) {
        path = copy_of_model("written.fulgur");
        e = open_with(path, 0, FG_OK, &err);
        REQUIRE(e != NULL);
        (void)usleep(20000);
        damage(path, back == 1);
        CHECK(fg_engine_check(e, NULL, NULL, &err) == FG_EIO);
        CHECK(strstr(err.msg, "changed while in use") != NULL && strstr(err.msg, path) == err.msg);
        damage(path, false); /* as it was */
        CHECK_OK(fg_engine_check(e, NULL, NULL, &err), &err);
        CHECK(truncate(path, 10000) == 0);
        CHECK(fg_engine_check(e, NULL, NULL, &err) == FG_EIO);
        fg_engine_close(&e);
    }
}

/* With a bound each read is looked at: parts of chunks, whole ones, the last one. */
FG_TEST(bytes_are_checked_against_hashes)
{
    fg_err err;
    fg_model_file *f;
    const char *path = copy_of_model("bytes.fulgur");
    REQUIRE_OK(fg_model_file_open(&f, path, &err), &err);
    const fg_slot *s = &fg_model_file_plan(f)->slot;
    uint8_t *all = malloc((size_t)s->data_bytes);
    const int fd = open(path, O_RDONLY);
    CHECK(pread(fd, all, (size_t)s->data_bytes, (off_t)s->data_offset) == (ssize_t)s->data_bytes);
    (void)close(fd);
    const uint64_t from[] = {0, 4096, FG_FILE_CHUNK - 4096, s->data_bytes - 4096};
    for (size_t i = 0; i < 4; i++) {
        for (uint64_t n = 4096; n <= s->data_bytes - from[i]; n = n * 5 + 4096) {
            const uint64_t at = s->data_offset + from[i];
            CHECK_OK(fg_model_file_check_bytes(f, all + from[i], n, at, &err), &err);
            all[from[i] + n - 1] ^= 4; /* control */
            CHECK(fg_model_file_check_bytes(f, all + from[i], n, at, &err) == FG_EIO);
            all[from[i] + n - 1] ^= 4;
        }
    }
    free(all);
    fg_model_file_close(&f);
}

/* ---- memory ---- */

static char noted[256];

static void note(void *ctx, const char *line)
{
    (void)ctx;
    (void)snprintf(noted, sizeof noted, "%s", line);
}

FG_TEST(a_bound_beyond_what_is_there)
{
    const uint64_t G = (uint64_t)1 << 30, none = UINT64_MAX;
    CHECK_U64(fg_memory_bound(4 * G, none, none), 4 * G);
    CHECK_U64(fg_memory_bound(4 * G, none, 64 * G), 4 * G);
    CHECK_U64(fg_memory_bound(64 * G, none, 32 * G), 31 * G);
    CHECK_U64(fg_memory_bound(32 * G, none, 32 * G), 31 * G);
    CHECK_U64(fg_memory_bound(64 * G, 20 * G, 32 * G), 64 * G); /* it will not take so much */
    CHECK_U64(fg_memory_bound(64 * G, 20 * G, 0), 0);
    char line[256];
    const fg_room room = {.bytes = 4 * G, .by = "the control group's limit"};
    fg_memory_bound_text(line, sizeof line, 64 * G, fg_memory_bound(64 * G, none, 4 * G), &room);
    CHECK(strstr(line, "within the control group's limit; using") != NULL);
    fg_engine_opts o = fg_engine_opts_default(); /* enough for this one: nothing to be noted */
    fg_engine *e;
    fg_err err;
    o.ram_bytes = 1024 * G;
    o.note = note;
    REQUIRE_OK(fg_engine_open(&e, model_file(TINY_DIR, "q4"), &o, &err), &err);
    CHECK_STR(noted, "");
    fg_engine_close(&e);
}
