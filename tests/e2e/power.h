/* SPDX-License-Identifier: MIT
 *
 * Conversions as processes of their own, for test_resume and test_shards: starting one, and what a
 * loss of power may do to what it leaves behind.
 */
#ifndef FG_TESTS_E2E_POWER_H
#define FG_TESTS_E2E_POWER_H

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
#include "src/format/write/journal.h"
#include "src/format/layout.h"
#include "src/format/reader.h"
#include "tests/ckpt.h"
#include "tests/fg_test.h"
#include "tests/models.h"

static char out[512], part[600], log_path[600];
/* Of split conversions: folders, and what is made there, under its names of now and later. */
static uint32_t n_split; /* 0: one file */
static char split_dir[2][600], split_out[2][1300], split_part[2][2700];
static uint64_t last_resumed; /* of a conversion that ran in this process */

static void resumed(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    last_resumed = done < total ? done : 0;
}

static inline void use_output(const char *dir)
{
    (void)snprintf(out, sizeof out, "%s/m.fulgur", dir);
    (void)snprintf(part, sizeof part, "%s.part", out);
    (void)snprintf(log_path, sizeof log_path, "%s.part.journal", out);
    for (int i = 0; i < 2; i++) {
        (void)snprintf(split_dir[i], sizeof split_dir[i], "%s/drive%d", dir, i + 1);
        (void)mkdir(split_dir[i], 0700);
        (void)snprintf(split_out[i], sizeof split_out[i], "%s/m.fulgur.%d", split_dir[i], i + 1);
        (void)snprintf(split_part[i], sizeof split_part[i], "%s.part", split_out[i]);
    }
}

/* Removes OUT and its parts. */
static inline bool remove_output(void)
{
    bool good = remove(out) == 0;
    for (uint32_t i = 0; i < n_split; i++) {
        char link[640];
        (void)snprintf(link, sizeof link, "%s.%u", out, i + 1);
        good = remove(split_out[i]) == 0 && remove(link) == 0 && good;
    }
    return good;
}

static inline fg_convert_opts options(const char *src, const char *calib)
{
    static const char *const dirs[] = {split_dir[0], split_dir[1]};
    return (fg_convert_opts){.src_dir = src,
                             .split_dir = dirs,
                             .n_split = n_split,
                             .out_path = out,
                             .calib_path = calib,
                             .resumed = resumed,
                             .n_thread = 1,
                             .checkpoint_bytes = 200000};
}

static inline pid_t start(const fg_convert_opts *o)
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

/* Where the parts of the file are that are written as a whole, from a finished one: of tensor i the
 * bytes [place[i], place[i + 1]), an expert's all at its first. */
static uint64_t place[1024], n_place;
static uint8_t owner[1 << 16]; /* part that a page is in */

static void learn_places(void)
{
    fg_model_file *f;
    fg_err err;
    if (fg_model_file_open(&f, out, &err) != FG_OK) {
        CHECK(false);
        return;
    }
    n_place = fg_model_file_n_tensor(f);
    if (n_place + 1 > sizeof place / sizeof place[0]) abort();
    for (uint64_t i = 0; i < n_place; i++) {
        const fg_tensor *t = fg_model_file_tensor(f, i);
        place[i] = t->expert == FG_NO_LAYER
                       ? fg_tensor_begin(t)
                       : fg_model_file_expert_extent(f, t->layer, t->expert).offset;
    }
    const fg_tensor *last = fg_model_file_tensor(f, n_place - 1);
    place[n_place] = fg_round_up(fg_tensor_end(last), FG_PAGE_BYTES);
    for (uint64_t p = 0, end; p < fg_model_file_size(f) / FG_PAGE_BYTES && p < sizeof owner; p++) {
        owner[p] = (uint8_t)fg_model_file_part_at(f, p * FG_PAGE_BYTES, &end);
    }
    fg_model_file_close(&f);
}

/* Everything in a part that no page of safe[] covers may be lost. */
static void garble_rest(int fd, uint32_t k, const uint8_t *safe, uint64_t n_page, fg_rng *r)
{
    for (uint64_t p = 0; p < n_page; p++) {
        const uint32_t of = p < sizeof owner ? owner[p] : 0;
        if (safe[p] == 0 && of == k) garble(fd, p * FG_PAGE_BYTES, (p + 1) * FG_PAGE_BYTES, r);
    }
}

/* Marks what a record says is on the disk; returns where the last of it ends. */
static uint64_t mark_safe(const fg_checkpoint *c, uint8_t *safe, uint64_t n_page)
{
    uint64_t end = 0;
    for (uint64_t i = 0; i < c->n_span; i++) {
        const fg_span s = fg_checkpoint_span(c, i);
        CHECK(s.first < s.end && s.end <= n_place);
        for (uint64_t at = place[s.first]; at < place[s.end]; at += FG_PAGE_BYTES) {
            CHECK(at / FG_PAGE_BYTES < n_page);
            if (at / FG_PAGE_BYTES < n_page) safe[at / FG_PAGE_BYTES] = 1;
        }
        if (place[s.end] > end) end = place[s.end];
    }
    return end;
}

/* Of the parts of a split file likewise; n_page are known to be safe or not. */
static void lose_parts(const uint8_t *safe, uint64_t n_page, fg_rng *r)
{
    for (uint32_t i = 0; i < n_split; i++) {
        struct stat sb;
        const int fd = open(split_part[i], O_RDWR);
        if (fd < 0) continue; /* has its name, was synced as a whole */
        CHECK(fstat(fd, &sb) == 0);
        const uint64_t n = (uint64_t)sb.st_size / FG_PAGE_BYTES;
        garble_rest(fd, i + 1, safe, n < n_page ? n : n_page, r);
        (void)close(fd);
    }
}

/* The power goes: of PATH.part only what the records say is on the disk; the last record may be
 * torn, when `tear` says so.  Returns whether there is a record to go on from. */
static bool lose_power(bool tear, fg_rng *r)
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
    const uint64_t size = (uint64_t)sb.st_size;
    uint64_t n_page = (size + FG_PAGE_BYTES - 1) / FG_PAGE_BYTES;
    const uint64_t n_main = n_page; /* parts may be longer */
    if (n_split > 0 && n_page < place[n_place] / FG_PAGE_BYTES)
        n_page = place[n_place] / FG_PAGE_BYTES;
    uint8_t *safe = fg_mem_zalloc((size_t)n_page);
    uint64_t end = size < 8 ? size : 8; /* the mark is there before anything else is */
    if (n_page > 0) safe[0] = 1;
    for (size_t i = 0; i < n; i++) {
        const uint64_t e = mark_safe(fg_journal_record(j, i), safe, n_page);
        if (e > end) end = e;
    }
    const uint64_t from = n < 2 ? 32 : fg_journal_record(j, n - 2)->end;
    const uint64_t to = n == 0 ? 32 : fg_journal_record(j, n - 1)->end;
    fg_journal_close(&j);
    const int fd = open(part, O_RDWR);
    CHECK(fd >= 0 && (end <= size || n_split > 0));
    const uint64_t cut = end >= size ? size : end + fg_rng_u64(r) % (size - end + 1);
    garble_rest(fd, 0, safe, n_main, r);
    lose_parts(safe, n_page, r);
    CHECK(ftruncate(fd, (off_t)(fg_rng_u64(r) % 2 == 0 ? cut : size)) == 0);
    (void)close(fd);
    fg_mem_free(safe);
    const uint64_t how = tear ? fg_rng_u64(r) % 3 : 0;
    if (n == 0 || how == 0) return n > 0;
    const uint64_t at = from + fg_rng_u64(r) % (to - from);
    const int log = open(log_path, O_RDWR);
    if (how == 1) CHECK(ftruncate(log, (off_t)at) == 0);
    if (how == 2) garble(log, at, to, r);
    (void)close(log);
    return n > 1;
}

static inline bool is_same(const char *want, size_t n)
{
    char *got = NULL;
    size_t m = 0;
    const bool same = fg_io_read_all(out, 1u << 30, &got, &m, NULL) == FG_OK && m == n &&
                      memcmp(got, want, n) == 0;
    fg_mem_free(got);
    return same && !fg_io_exists(part) && !fg_io_exists(log_path);
}

#endif
