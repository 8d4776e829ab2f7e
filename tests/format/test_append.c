/* SPDX-License-Identifier: MIT
 *
 * Metadata appended to a finished file: what it writes, what it keeps, what it refuses, and that no
 * crash takes the file away.
 *
 * Crashes: this program defines pwrite and fsync itself, records what an append asks of the system,
 * and then builds every file that the disk may hold when the power goes at any point: what was
 * written before the last sync is there, of later writes any part may be, in sectors of 512 bytes
 * and in any order.  The control forgets the syncs and must find a file that does not open.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/format/write/append.h"
#include "src/format/layout.h"
#include "tests/fg_test.h"
#include "tests/format/sample.h"

enum { MAX_OP = 16, SECTOR = 512, SLOTS = FG_N_SLOT * FG_SLOT_BYTES };

/* --- what the append asks of the system --- */

typedef struct op {
    bool sync;
    uint64_t at, n;
    uint8_t *data; /* [n], malloc */
} op;

static bool recording, disk_is_full;
static op ops[MAX_OP];
static int n_op;

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    if (recording && n_op < MAX_OP) {
        uint8_t *copy = malloc(n);
        if (copy != NULL) memcpy(copy, p, n);
        ops[n_op++] = (op){false, (uint64_t)at, n, copy};
    }
    return (ssize_t)syscall(SYS_pwrite64, fd, p, n, at);
}

int fsync(int fd)
{
    if (recording && n_op < MAX_OP) ops[n_op++] = (op){.sync = true};
    return (int)syscall(SYS_fsync, fd);
}

int fstatvfs(int fd, struct statvfs *v)
{
    (void)fd;
    *v = (struct statvfs){.f_bavail = disk_is_full ? 1 : 1 << 20, .f_frsize = 4096};
    return 0;
}

static void forget(void)
{
    for (int i = 0; i < n_op; i++) free(ops[i].data);
    n_op = 0;
}

/* --- looking at files --- */

static fg_status append(const char *path, const char *key, const char *text, fg_err *err)
{
    *err = (fg_err){0};
    return fg_model_file_append_meta(path, key, text, strlen(text), err);
}

/* The entry's text in a static buffer, "" when there is none, NULL when the file does not open. */
static const char *meta_of(const char *path, const char *key, bool verify)
{
    static char text[4096];
    fg_err err = {0};
    fg_model_file *f = NULL;
    const char *bytes = NULL;
    size_t n = 0;
    fg_status st = fg_model_file_open(&f, path, &err);
    if (st == FG_OK) st = fg_model_file_meta(f, key, &bytes, &n, &err);
    if (st == FG_OK && verify) st = fg_model_file_verify(f, NULL, NULL, &err);
    if (st == FG_OK) (void)snprintf(text, sizeof text, "%.*s", (int)n, bytes == NULL ? "" : bytes);
    fg_model_file_close(&f);
    return st == FG_OK ? text : NULL;
}

static uint64_t read_whole(const char *path, uint8_t **bytes)
{
    char *p = NULL;
    size_t n = 0;
    fg_err err = {0};
    if (fg_io_read_all(path, 1 << 26, &p, &n, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    *bytes = (uint8_t *)p;
    return n;
}

static uint64_t get(const uint8_t *p, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static void set(uint8_t *p, int n, uint64_t v)
{
    for (int i = 0; i < n; i++) p[i] = (uint8_t)(v >> (8 * i));
}

static void put(const char *path, const void *bytes, uint64_t n, uint64_t at)
{
    fg_err err = {0};
    const int fd = open(path, O_RDWR);
    if (fd < 0 || fg_io_pwrite(fd, bytes, (size_t)n, at, path, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s: %s", path, err.msg);
    }
    (void)close(fd);
}

/* --- what it writes --- */

FG_TEST(entries_are_added_and_replaced)
{
    const char *path = fg_test_tmp("a.fulgur");
    fg_err err = {0};
    uint8_t *before, *after;
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    const uint64_t size = read_whole(path, &before);
    CHECK_OK(append(path, "quality", "one", &err), &err);
    CHECK_STR(meta_of(path, "quality", true), "one");
    CHECK_OK(append(path, "quality", "the second", &err), &err); /* replaced */
    CHECK_OK(append(path, "a first key", "x", &err), &err);      /* in front of all others */
    CHECK_OK(append(path, "zz", "", &err), &err);                /* behind, and empty */
    CHECK_OK(append(path, "recipe", "experts q2", &err), &err);  /* one of the writer's */
    CHECK_STR(meta_of(path, "quality", true), "the second");
    CHECK_STR(meta_of(path, "a first key", false), "x");
    CHECK_STR(meta_of(path, "recipe", false), "experts q2");
    CHECK_STR(meta_of(path, "config.json", false), sample_config);
    const uint64_t now = read_whole(path, &after);
    REQUIRE(now > size && before != NULL && after != NULL);
    /* nothing but the slots was touched, they took turns, and the last one ends at the end */
    CHECK(memcmp(before + SLOTS, after + SLOTS, size - SLOTS) == 0);
    CHECK_U64(get(after + 16, 8), 5);
    CHECK_U64(get(after + FG_SLOT_BYTES + 16, 8), 6);
    CHECK_U64(get(after + FG_SLOT_BYTES + 24, 8), now);
    CHECK_U64(get(after + FG_SLOT_BYTES + 88, 8), get(before + 88, 8)); /* data_root */
    fg_mem_free(before);
    fg_mem_free(after);
}

FG_TEST(second_reader_reads_an_appended_file)
{
    const char *path = fg_test_tmp("p.fulgur");
    char command[512];
    fg_err err = {0};
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    CHECK(append(path, "quality", "{}", &err) == FG_OK && append(path, "b", "", &err) == FG_OK);
    (void)snprintf(command, sizeof command,
                   "python3 scripts/fg_read.py %s | grep 'metadata quality: 2 bytes' >/dev/null && "
                   "python3 scripts/fg_read.py %s --verify >/dev/null",
                   path, path);
    CHECK(system(command) == 0);
}

FG_TEST(unknown_fields_of_a_newer_writer_survive)
{
    const char *path = fg_test_tmp("u.fulgur");
    uint8_t *file, *dir;
    fg_err err = {0};
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    REQUIRE(read_whole(path, &file) > SLOTS);
    const uint64_t at = get(file + 32, 8), n = get(file + 40, 8);
    dir = file + at;
    set(file + 12, 4, 7);           /* write_version */
    set(file + 300, 8, 0x11223344); /* unused of the slot, */
    set(dir + 152, 8, 0x55667788);  /* of the directory's head */
    set(file + 48, 8, fg_hash64(dir, (size_t)n));
    set(file + 4088, 8, fg_hash64(file, 4088));
    put(path, dir, n, at);
    put(path, file, FG_SLOT_BYTES, 0);
    fg_mem_free(file);
    CHECK_OK(append(path, "quality", "x", &err), &err);
    REQUIRE(read_whole(path, &file) > SLOTS);
    const uint8_t *slot = file + FG_SLOT_BYTES;
    dir = file + get(slot + 32, 8);
    CHECK_U64(get(slot + 40, 8), n + 288);
    CHECK_U64(get(slot + 12, 4), 7);
    CHECK_U64(get(slot + 300, 8), 0x11223344);
    CHECK_U64(get(dir + 152, 8), 0x55667788);
    CHECK_STR(meta_of(path, "quality", true), "x");
    fg_mem_free(file);
}

FG_TEST(an_interrupted_tail_is_written_over)
{
    const char *path = fg_test_tmp("t.fulgur");
    static const char junk[100000] = "half an append";
    uint8_t *file;
    fg_err err = {0};
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    const uint64_t size = read_whole(path, &file);
    fg_mem_free(file);
    put(path, junk, sizeof junk, size);
    CHECK_OK(append(path, "quality", "x", &err), &err);
    CHECK_STR(meta_of(path, "quality", true), "x");
    CHECK_U64(read_whole(path, &file),
              size + sizeof junk); /* the new part fits into the old tail */
    fg_mem_free(file);
}

/* --- crashes --- */

typedef struct crash {
    const char *path;
    uint64_t size; /* before the append */
    uint8_t slots[SLOTS];
    const char *old_text, *new_text;
    int n_old, n_new, n_refused;
} crash;

static void restore(const crash *c)
{
    put(c->path, c->slots, sizeof c->slots, 0);
    if (truncate(c->path, (off_t)c->size) != 0) fg_test_fail(__FILE__, __LINE__, "truncate");
}

static void judge(crash *c)
{
    const char *text = meta_of(c->path, "quality", false);
    const char *config = text == NULL ? NULL : meta_of(c->path, "config.json", false);
    if (config == NULL || strcmp(config, sample_config) != 0) {
        c->n_refused++;
        return;
    }
    text = meta_of(c->path, "quality", false);
    if (strcmp(text, c->old_text) == 0) {
        c->n_old++;
    } else if (strcmp(text, c->new_text) == 0) {
        c->n_new++;
    } else {
        fg_test_fail(__FILE__, __LINE__, "neither old nor new: %s", text);
    }
}

/* Writes those sectors of the write whose bit (sector % 8, then the next 8, ...) is set. */
static void put_sectors(const crash *c, const op *o, unsigned mask)
{
    for (uint64_t i = 0; i < o->n; i += SECTOR) {
        if ((mask >> (i / SECTOR % 8) & 1) == 0) continue;
        const uint64_t n = o->n - i < SECTOR ? o->n - i : SECTOR;
        put(c->path, o->data + i, n, o->at + i);
    }
}

static void put_prefix(const crash *c, const op *o, uint64_t n)
{
    put(c->path, o->data, n < o->n ? n : o->n, o->at);
}

/* The power goes behind operation `end`; with_sync false: as if no sync had been asked for. */
static void crash_behind(crash *c, int end, bool with_sync)
{
    int durable = 0;
    for (int i = 0; with_sync && i < end; i++) durable = ops[i].sync ? i : durable;
    for (int v = durable; v <= end; v++) { /* v: the write of which only a part arrived */
        for (unsigned mask = 0; mask < 256; mask++) {
            if (v < end && ops[v].sync && mask > 0) break;
            restore(c);
            for (int i = 0; i < durable; i++) {
                if (!ops[i].sync) put_prefix(c, &ops[i], UINT64_MAX);
            }
            if (v < end && !ops[v].sync) put_sectors(c, &ops[v], mask);
            judge(c);
        }
        for (uint64_t n = 1; v < end && !ops[v].sync && n < ops[v].n; n += 997) {
            restore(c);
            for (int i = 0; i < v; i++) {
                if (!ops[i].sync) put_prefix(c, &ops[i], UINT64_MAX);
            }
            put_prefix(c, &ops[v], n);
            judge(c);
        }
    }
}

static void append_and_crash(crash *c, bool with_sync)
{
    uint8_t *file;
    fg_err err = {0};
    c->n_old = c->n_new = c->n_refused = 0;
    c->size = read_whole(c->path, &file);
    memcpy(c->slots, file, sizeof c->slots);
    fg_mem_free(file);
    recording = true;
    CHECK_OK(append(c->path, "quality", c->new_text, &err), &err);
    recording = false;
    CHECK(n_op == 4 && !ops[0].sync && ops[1].sync && !ops[2].sync && ops[3].sync);
    CHECK_STR(meta_of(c->path, "quality", false), c->new_text);
    for (int end = 0; end <= n_op; end++) crash_behind(c, end, with_sync);
    restore(c);
    for (int i = 0; i < n_op; i++) {
        if (!ops[i].sync) put_prefix(c, &ops[i], UINT64_MAX);
    }
    CHECK_STR(meta_of(c->path, "quality", true), c->new_text);
    forget();
}

FG_TEST(no_crash_takes_the_file_away)
{
    fg_err err = {0};
    crash c = {.path = fg_test_tmp("c.fulgur"), .old_text = "", .new_text = "first card"};
    REQUIRE_OK(sample_write(c.path, 1, NULL, &err), &err);
    append_and_crash(&c, true); /* into the blank slot */
    printf("  first append: %d states old, %d new, %d refused\n", c.n_old, c.n_new, c.n_refused);
    CHECK(c.n_refused == 0 && c.n_old > 500 && c.n_new > 0);
    c.old_text = "first card";
    c.new_text = "second card";
    append_and_crash(&c, true); /* over generation 1 */
    CHECK(c.n_refused == 0 && c.n_old > 500 && c.n_new > 0);
    c.old_text = "second card";
    c.new_text = "third card";
    append_and_crash(&c, false); /* control: without the syncs some state must fail */
    printf("  without syncs: %d states old, %d new, %d refused\n", c.n_old, c.n_new, c.n_refused);
    CHECK(c.n_refused > 0);
}

/* --- what it refuses --- */

static void check_untouched(const char *path, const uint8_t *before, uint64_t size,
                            const char *what)
{
    uint8_t *now;
    if (read_whole(path, &now) != size || memcmp(now, before, (size_t)size) != 0) {
        fg_test_fail(__FILE__, __LINE__, "%s: the file was changed", what);
    }
    fg_mem_free(now);
}

FG_TEST(a_damaged_file_is_left_alone)
{
    const char *path = fg_test_tmp("d.fulgur");
    uint8_t *good, *bad;
    fg_err err = {0};
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    const uint64_t size = read_whole(path, &good);
    const uint64_t places[] = {600, get(good + 32, 8) + 40, get(good + 56, 8) + 3, SLOTS + 2};
    static const char *const what[] = {"header", "directory", "chunk table", "metadata"};
    for (size_t i = 0; i < 4; i++) {
        const uint8_t flipped = (uint8_t)(good[places[i]] ^ 4);
        put(path, &flipped, 1, places[i]);
        CHECK(read_whole(path, &bad) == size);
        CHECK(append(path, "quality", "x", &err) == FG_ECHECKSUM);
        CHECK(strstr(err.msg, path) != NULL && strstr(err.msg, "expected") != NULL);
        check_untouched(path, bad, size, what[i]);
        fg_mem_free(bad);
        put(path, &good[places[i]], 1, places[i]);
    }
    REQUIRE(truncate(path, (off_t)size - 1) == 0);
    CHECK(append(path, "quality", "x", &err) == FG_EFORMAT);
    CHECK(append(fg_test_tmp("none.fulgur"), "quality", "x", &err) == FG_EIO);
    CHECK(append(fg_test_tmpdir(), "quality", "x", &err) == FG_EIO);
    put(path, &good[size - 1], 1, size - 1);
    CHECK_OK(append(path, "quality", "x", &err), &err); /* control: whole again */
    fg_mem_free(good);
}

FG_TEST(one_writer_at_a_time)
{
    const char *path = fg_test_tmp("l.fulgur");
    fg_append *a = NULL;
    fg_err err = {0};
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    REQUIRE_OK(fg_append_open(&a, path, &err), &err);
    CHECK(append(path, "quality", "y", &err) == FG_EIO);
    CHECK(strstr(err.msg, "another process") != NULL);
    CHECK_OK(fg_append_meta(a, "quality", "x", 1, &err), &err);
    CHECK(fg_append_meta(a, "quality", "z", 1, &err) == FG_EINVAL); /* one for each open */
    fg_append_close(&a);
    CHECK(append(path, "", "x", &err) == FG_EINVAL && append(path, "a\n", "x", &err) == FG_EINVAL);
    CHECK_STR(meta_of(path, "quality", true), "x");
}

FG_TEST(a_full_disk_changes_nothing)
{
    const char *path = fg_test_tmp("f.fulgur");
    struct rlimit old, small;
    uint8_t *before;
    fg_err err = {0};
    REQUIRE(sample_write(path, 1, NULL, &err) == FG_OK && getrlimit(RLIMIT_FSIZE, &old) == 0);
    const uint64_t size = read_whole(path, &before);
    disk_is_full = true;
    CHECK(append(path, "quality", "x", &err) == FG_EIO && strstr(err.msg, "free") != NULL);
    disk_is_full = false;
    check_untouched(path, before, size, "no space");
    (void)signal(SIGXFSZ, SIG_IGN);
    for (uint64_t more = 0; more < 5000; more += 1237) { /* the disk fills while it writes */
        small = old;
        small.rlim_cur = size + more;
        CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
        const fg_status st = append(path, "quality", "x", &err);
        CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
        CHECK_U64((unsigned)-st, (unsigned)-FG_EIO);
        check_untouched(path, before, size, "a write that failed");
    }
    CHECK_OK(append(path, "quality", "x", &err), &err);
    fg_mem_free(before);
}

FG_TEST(entries_are_limited)
{
    const char *path = fg_test_tmp("m.fulgur");
    static char key[FG_MAX_META][16];
    static fg_meta meta[FG_MAX_META];
    fg_writer *w = NULL;
    uint8_t *data = NULL;
    fg_err err = {0};
    for (int i = 0; i < FG_MAX_META; i++) {
        (void)snprintf(key[i], sizeof key[i], "key %04d", i);
        meta[i] = (fg_meta){key[i], "x", 1};
    }
    const fg_file_spec spec = {.meta = meta, .n_meta = FG_MAX_META};
    REQUIRE_OK(sample_writer(&w, path, spec, NULL, &err), &err);
    data = sample_data(w, 1);
    CHECK(data != NULL && fg_writer_begin(w, &err) == FG_OK);
    CHECK(sample_stream(w, data, 1, &err) == FG_OK && fg_writer_finish(w, &err) == FG_OK);
    fg_writer_destroy(&w);
    fg_mem_free(data);
    CHECK(append(path, "one more", "x", &err) == FG_ELIMIT);
    CHECK_OK(append(path, "key 0500", "other", &err), &err); /* replacing needs no room */
    CHECK_STR(meta_of(path, "key 0500", true), "other");
    CHECK_STR(meta_of(path, "key 1023", false), "x");
}

FG_TEST(allocation_failures)
{
    const char *path = fg_test_tmp("n.fulgur");
    uint8_t *before;
    fg_err err = {0};
    uint64_t n = 1;
    REQUIRE_OK(sample_write(path, 1, NULL, &err), &err);
    const uint64_t size = read_whole(path, &before);
    for (; n < 200; n++) {
        fg_mem_fail_after(n);
        const fg_status st = append(path, "quality", "x", &err);
        fg_mem_fail_after(0);
        if (st == FG_OK) break;
        CHECK_U64((unsigned)-st, (unsigned)-FG_ENOMEM);
        check_untouched(path, before, size, "no memory");
    }
    CHECK(n > 10 && n < 200);
    fg_mem_free(before);
}
