/* SPDX-License-Identifier: MIT
 *
 * The power goes before each shard that --delete-consumed deletes: what was made from the shards
 * that are gone must be there, though nothing that was not synced is.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "convert/convert.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "tests/ckpt.h"
#include "tests/fg_test.h"
#include "tests/format/crash_disk.h"

enum { N_SHARD = 5 };

static ckpt model;
static char src[512], path[N_FILE][700];
static char *want;
static size_t n_want;

static int n_here(void)
{
    int n = 0;
    for (uint32_t s = 0; s < N_SHARD; s++) {
        char name[256], full[1024];
        ckpt_shard_name(&model, s, name, sizeof name);
        (void)snprintf(full, sizeof full, "%s/%s", src, name);
        n += exists(full);
    }
    return n;
}

static void use_files(void)
{
    static const char *const suffix[N_FILE] = {
        [PART] = ".part", [LOG] = ".part.journal", [OUT] = "",          [PART1] = ".1.part",
        [OUT1] = ".1",    [LINK1] = ".1",          [PART2] = ".2.part", [OUT2] = ".2"};
    for (int i = 0; i < N_FILE; i++) {
        (void)snprintf(path[i], sizeof path[i], "%s%s", fg_test_tmp("power.fulgur"), suffix[i]);
        free(files[i].durable);
        free(files[i].removed);
        files[i] = (tracked){.path = path[i]};
        (void)remove(path[i]);
    }
    n_op = fail_at = die_at = n_unlink = die_at_unlink = 0;
    liar = -1;
    ckpt_write(&model, src);
}

static fg_status convert(fg_err *err)
{
    const fg_convert_opts o = {.src_dir = src,
                               .out_path = path[OUT],
                               .n_thread = 1,
                               .delete_consumed = true,
                               .checkpoint_bytes = 100000};
    *err = (fg_err){0};
    return fg_convert(&o, NULL, err);
}

/* A conversion that loses power before its k-th deletion. */
static bool lose_power(int k, uint64_t seed, int lies)
{
    int status = 0;
    (void)fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0) {
        fg_err err;
        note_all();
        die_at_unlink = k;
        die_seed = seed;
        drops_all = seed == 0;
        liar = lies;
        (void)convert(&err);
        _exit(0);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    return WEXITSTATUS(status) == DIED;
}

static bool is_same(void)
{
    char *got = NULL;
    size_t n;
    const bool same = fg_io_read_all(path[OUT], 1u << 30, &got, &n, NULL) == FG_OK && n == n_want &&
                      memcmp(got, want, n) == 0;
    fg_mem_free(got);
    return same && !exists(path[PART]) && !exists(path[LOG]);
}

static bool prepare(const char *name)
{
    fg_err err;
    ckpt_init_large(&model);
    ckpt_spread(&model, N_SHARD);
    (void)snprintf(src, sizeof src, "%s", ckpt_dir(name));
    ckpt_put_tokenizer(src);
    use_files();
    const bool good = convert(&err) == FG_OK && n_here() == 0 &&
                      fg_io_read_all(path[OUT], 1u << 30, &want, &n_want, &err) == FG_OK;
    CHECK(good);
    CHECK_U64(n_unlink, N_SHARD);
    return good;
}

FG_TEST(nothing_is_deleted_before_what_was_made_of_it_is_safe)
{
    fg_err err;
    REQUIRE(prepare("power"));
    const uint64_t seeds = fg_test_long() ? 12 : 2;
    for (int k = 1; k <= N_SHARD; k++) {
        for (uint64_t seed = 0; seed < seeds; seed++) {
            use_files();
            REQUIRE(lose_power(k, seed, -1));
            CHECK_U64(n_here(), N_SHARD - (k - 1));
            const fg_status st = convert(&err);
            if (st != FG_OK || !is_same() || n_here() != 0) {
                fg_test_fail(__FILE__, __LINE__, "before deletion %d, seed %d: %s", k, (int)seed,
                             err.msg);
            }
        }
    }
    fg_mem_free(want);
    ckpt_fini(&model);
}

/* Control: on a disk that does not do what it is told, the work is lost, and that is seen: no model
 * comes of it, and nothing that is still there is thrown away. */
FG_TEST(control_a_disk_that_does_not_sync)
{
    fg_err err;
    REQUIRE(prepare("lies"));
    for (int lies = PART; lies <= LOG; lies++) {
        use_files();
        REQUIRE(lose_power(3, 0, lies));
        CHECK_U64(n_here(), N_SHARD - 2);
        CHECK(convert(&err) != FG_OK && !exists(path[OUT]));
        CHECK_U64(n_here(), N_SHARD - 2);
    }
    fg_mem_free(want);
    ckpt_fini(&model);
}

static uint64_t size_of(const char *name)
{
    struct stat sb;
    return stat(name, &sb) == 0 ? (uint64_t)sb.st_size : 0;
}

/* Damage where the shard is gone: refused with nothing changed; with the shard back, made again. */
FG_TEST(damage_without_its_shard)
{
    fg_err err;
    REQUIRE(prepare("damage"));
    use_files();
    REQUIRE(lose_power(4, 1, -1));
    const uint64_t part = size_of(path[PART]), log = size_of(path[LOG]);
    uint8_t *before, *after;
    REQUIRE(part > (3 << 20) && log > 100);
    const int fd = open(path[PART], O_RDWR);
    for (uint64_t at = (2 << 20) + 100; at < part; at += 16 << 10) { /* some of every tensor */
        uint8_t b = 0;
        CHECK(pread(fd, &b, 1, (off_t)at) == 1);
        b ^= 1;
        CHECK(syscall(SYS_pwrite64, fd, &b, 1, at) == 1);
    }
    (void)close(fd);
    const uint64_t n = slurp(path[PART], &before);
    CHECK(convert(&err) == FG_EIO && strstr(err.msg, "No such file") != NULL);
    CHECK_U64(n_here(), N_SHARD - 3);
    CHECK(slurp(path[PART], &after) == n && memcmp(before, after, (size_t)n) == 0);
    CHECK_U64(size_of(path[LOG]), log);
    free(after);
    ckpt_write(&model, src); /* all of them again */
    CHECK_OK(convert(&err), &err);
    CHECK(is_same() && n_here() == 0);
    free(before);
    fg_mem_free(want);
    ckpt_fini(&model);
}

/* --- a full disk --- */

static int n_full, n_tick;
static bool gives_up, cancelled;

static bool wait_for_room(void *ctx, const char *name, uint64_t need, uint64_t have)
{
    (void)ctx, (void)have;
    n_full++;
    CHECK(strncmp(name, path[OUT], strlen(path[OUT])) == 0 && need > 0);
    cancelled = gives_up;
    return !gives_up;
}

static bool go_on(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx, (void)done, (void)total;
    n_tick++;
    return !cancelled;
}

FG_TEST(a_full_disk_is_waited_for)
{
    fg_err err;
    REQUIRE(prepare("full"));
    fg_convert_opts o = {.src_dir = src,
                         .out_path = path[OUT],
                         .n_thread = 1,
                         .full = wait_for_room,
                         .progress = go_on,
                         .checkpoint_bytes = 100000};
    int waited = 0, stopped = 0, kept = 0;
    for (int op = 4;; op += fg_test_every(7, 21)) {
        use_files();
        n_full = 0;
        gives_up = op % 2 == 0;
        cancelled = false;
        fail_at = op;
        const fg_status st = fg_convert(&o, NULL, &err);
        const bool reached = n_op >= op;
        n_op = fail_at = 0;
        cancelled = false;
        if (n_full == 0) { /* another call failed, or none */
            if (reached) continue;
            CHECK(st == FG_OK && is_same());
            break;
        }
        waited += !gives_up;
        if (!gives_up) CHECK(st == FG_OK && is_same() && n_full == 1);
        if (!gives_up) continue;
        stopped++;
        CHECK(st == FG_EIO && strstr(err.msg, "No space left") != NULL && !exists(path[OUT]));
        kept += exists(path[PART]) && exists(path[LOG]);
        CHECK(strstr(err.msg, "the same command continues") != NULL || !exists(path[PART]));
        CHECK(fg_convert(&o, NULL, &err) == FG_OK && is_same());
    }
    printf("  waited %d times, stopped %d times, %d kept\n", waited, stopped, kept);
    CHECK(waited > 0 && stopped > 0 && kept == stopped && n_tick > 0);
    fg_mem_free(want);
    ckpt_fini(&model);
}
