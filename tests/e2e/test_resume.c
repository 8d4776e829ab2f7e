/* SPDX-License-Identifier: MIT
 *
 * Conversions killed at random moments: SIGKILL, then what a loss of power may have done to everything
 * that was not on the disk for certain, then the same conversion again, until it is through.  The file
 * must be that of one uninterrupted run.  Each conversion is a process of its own.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "convert/convert.h"
#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/format/journal.h"
#include "tests/ckpt.h"
#include "tests/fg_test.h"
#include "tests/models.h"

enum { DATA_OFFSET_AT = 72 }; /* in the header slot */

static char out[512], part[600], log_path[600];
static uint64_t last_resumed; /* of a conversion that ran in this process */

static void resumed(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    last_resumed = done < total ? done : 0;
}

static bool stop_late(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    return done < total / 2;
}

static void use_output(const char *dir)
{
    (void)snprintf(out, sizeof out, "%s/m.fulgur", dir);
    (void)snprintf(part, sizeof part, "%s.part", out);
    (void)snprintf(log_path, sizeof log_path, "%s.part.journal", out);
}

static fg_convert_opts options(const char *src, const char *calib)
{
    return (fg_convert_opts){.src_dir = src,
                             .out_path = out,
                             .calib_path = calib,
                             .resumed = resumed,
                             .n_thread = 1,
                             .checkpoint_bytes = 200000};
}

static pid_t start(const fg_convert_opts *o)
{
    (void)fflush(stdout);
    const pid_t pid = fork();
    if (pid != 0) return pid;
    fg_err err = {0};
    if (fg_convert(o, NULL, &err) != FG_OK) printf("  convert: %s\n", err.msg);
    (void)fflush(stdout);
    _exit(err.code == FG_OK ? 0 : 1);
}

/* True when the process came to its end; false when it was killed. */
static bool ended(pid_t pid)
{
    int status = 0;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    return WIFEXITED(status);
}

static void garble(int fd, uint64_t from, uint64_t to, fg_rng *r)
{
    static uint8_t junk[4096];
    for (uint64_t at = from; at < to; at += sizeof junk) {
        if (fg_rng_u64(r) % 4 == 0) continue; /* this page was written */
        for (size_t i = 0; i < sizeof junk; i++) junk[i] = (uint8_t)fg_rng_u64(r);
        const uint64_t n = to - at < sizeof junk ? to - at : sizeof junk;
        CHECK(pwrite(fd, junk, (size_t)n, (off_t)at) == (ssize_t)n);
    }
}

/* The power goes: the last record may be torn; of PATH.part only what the record before it, or it
 * itself when it is whole, says is on the disk.  Returns whether there is a record to go on from. */
static bool lose_power(uint64_t data_offset, fg_rng *r)
{
    fg_journal *j;
    fg_err err;
    struct stat sb;
    if (stat(part, &sb) != 0) return false;
    if (fg_journal_load(&j, log_path, &err) != FG_OK) {
        CHECK(false);
        return false;
    }
    const size_t n = fg_journal_n_record(j);
    const uint64_t pos = n == 0 ? 0 : fg_journal_record(j, n - 1)->pos;
    const uint64_t from = n < 2 ? 32 : fg_journal_record(j, n - 2)->end;
    const uint64_t to = n == 0 ? 32 : fg_journal_record(j, n - 1)->end;
    fg_journal_close(&j);
    const int fd = open(part, O_RDWR);
    CHECK(fd >= 0);
    const uint64_t size = (uint64_t)sb.st_size, cut = pos + fg_rng_u64(r) % (size - pos + 1);
    if (fg_rng_u64(r) % 2 == 0) CHECK(ftruncate(fd, (off_t)cut) == 0);
    garble(fd, pos, cut, r);
    garble(fd, 0, data_offset < cut ? data_offset : cut, r);
    (void)close(fd);
    const uint64_t tear = fg_rng_u64(r) % 3;
    if (n == 0 || tear == 0) return n > 0;
    const uint64_t at = from + fg_rng_u64(r) % (to - from);
    const int log = open(log_path, O_RDWR);
    if (tear == 1) CHECK(ftruncate(log, (off_t)at) == 0);
    if (tear == 2) garble(log, at, to, r);
    (void)close(log);
    return n > 1;
}

static uint64_t read_u64(const char *bytes, size_t at)
{
    uint64_t v = 0;
    for (size_t i = 0; i < 8; i++) v |= (uint64_t)(uint8_t)bytes[at + i] << (8 * i);
    return v;
}

static bool is_same(const char *want, size_t n)
{
    char *got = NULL;
    size_t m = 0;
    const bool same = fg_io_read_all(out, 1u << 30, &got, &m, NULL) == FG_OK && m == n &&
                      memcmp(got, want, n) == 0;
    fg_mem_free(got);
    return same && !fg_io_exists(part) && !fg_io_exists(log_path);
}

/* Kills until at least `want_kills` lives ended so and the last conversion came through. */
static void kill_and_compare(const char *src, const char *calib, int want_kills, uint64_t share)
{
    fg_rng r;
    char *want = NULL;
    size_t n = 0;
    fg_convert_opts o = options(src, calib);
    fg_rng_init(&r, 11);
    o.checkpoint_bytes = 0;
    const uint64_t t0 = fg_clock_ns();
    CHECK(ended(start(&o)));
    const uint64_t whole_us = (fg_clock_ns() - t0) / 1000;
    REQUIRE(fg_io_read_all(out, 1u << 30, &want, &n, NULL) == FG_OK && remove(out) == 0);
    o.checkpoint_bytes = 200000;
    int kills = 0, files = 0, went_on = 0;
    while (kills < want_kills || files == 0) {
        o.n_thread = 1 + (uint32_t)(fg_rng_u64(&r) % 3);
        const pid_t pid = start(&o);
        (void)usleep((useconds_t)(fg_rng_u64(&r) % (whole_us / share + 1)));
        (void)kill(pid, SIGKILL);
        if (!ended(pid)) {
            kills++;
            went_on += lose_power(read_u64(want, DATA_OFFSET_AT), &r);
            if (kills % 30 != 0) continue;
            CHECK(ended(start(&o))); /* a slow machine gets to the end too */
        }
        files++;
        CHECK(is_same(want, n));
        CHECK(remove(out) == 0);
    }
    if (fg_io_exists(part)) {
        CHECK(ended(start(&o)) && is_same(want, n));
        files++;
    }
    printf("  %d kills, %d with a checkpoint, %d files compared\n", kills, went_on, files);
    CHECK(went_on > kills / 3);
    fg_mem_free(want);
}

FG_TEST(killed_at_random_nano)
{
    use_output(ckpt_dir("nano_out"));
    kill_and_compare(NANO_DIR, NULL, 24, 2);
}

FG_TEST(killed_at_random_calibrated)
{
    const char *dir = ckpt_dir("calib_out"), *text = fg_test_tmp("calib.txt");
    FILE *f = fopen(text, "w");
    REQUIRE(f != NULL);
    for (int i = 0; i < 40; i++)
        (void)fprintf(f, "A fox met %d crows, and one said: it is late.\n", i);
    (void)fclose(f);
    char copy[512];
    (void)snprintf(copy, sizeof copy, "%s", text);
    use_output(dir);
    kill_and_compare(NANO_DIR, copy, 12, 2);
}

/* Errors and cancelling keep what is done, say so, and do not let others in. */
FG_TEST(an_error_keeps_the_work)
{
    static ckpt c;
    fg_err err = {0};
    char *want = NULL;
    size_t n = 0;
    ckpt_init_large(&c);
    ckpt_spread(&c, 3);
    const char *src = ckpt_dir("source");
    ckpt_write(&c, src);
    use_output(ckpt_dir("error_out"));
    fg_convert_opts o = options(src, NULL);
    CHECK(fg_convert(&o, NULL, &err) == FG_OK && last_resumed == 0);
    REQUIRE(fg_io_read_all(out, 1u << 30, &want, &n, NULL) == FG_OK && remove(out) == 0);
    o.progress = stop_late;
    CHECK(fg_convert(&o, NULL, &err) == FG_ECANCEL);
    CHECK(strstr(err.msg, "the same command continues") != NULL && strstr(err.msg, part) != NULL);
    CHECK(fg_io_exists(part) && fg_io_exists(log_path) && !fg_io_exists(out));
    o.progress = NULL;
    o.type = "q8";
    CHECK(fg_convert(&o, NULL, &err) == FG_EINVAL && strstr(err.msg, part) != NULL &&
          strstr(err.msg, "continues") == NULL);
    o.type = "q4"; /* the same as none */
    ckpt_spread(&c, 2);
    const char *other = ckpt_dir("other");
    ckpt_write(&c, other);
    o.src_dir = other;
    CHECK(fg_convert(&o, NULL, &err) == FG_EINVAL && fg_io_exists(part) && fg_io_exists(log_path));
    o.src_dir = src;
    fg_convert_report report;
    CHECK(fg_convert(&o, &report, &err) == FG_OK && is_same(want, n));
    CHECK(last_resumed > 0 && report.resumed_bytes == last_resumed &&
          last_resumed < report.source_bytes);
    fg_mem_free(want);
    ckpt_fini(&c);
}
