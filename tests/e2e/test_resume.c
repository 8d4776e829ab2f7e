/* SPDX-License-Identifier: MIT
 *
 * Conversions killed at random moments: SIGKILL, then what a loss of power may have done to
 * everything that was not on the disk for certain, then the same conversion again, until it is
 * through.  The file must be that of one uninterrupted run.  Each conversion is a process of its
 * own.
 */
#include <dirent.h>
#include <limits.h>

#include "tests/e2e/power.h"

static bool stop_late(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    return done < total / 2;
}

/* The name of the folder whose shards somebody writes to meanwhile. */
static bool touch_late(void *ctx, uint64_t done, uint64_t total)
{
    static const struct timespec then[2] = {{2000000000, 0}, {2000000000, 0}};
    char name[PATH_MAX];
    DIR *d = done < total / 2 ? NULL : opendir(ctx);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        (void)snprintf(name, sizeof name, "%s/%s", (const char *)ctx, e->d_name);
        if (strstr(name, ".safetensors") != NULL) (void)utimensat(AT_FDCWD, name, then, 0);
    }
    if (d != NULL) (void)closedir(d);
    return true;
}

/* Another last byte of the first shard. */
static bool flip(const ckpt *c, const char *dir)
{
    char name[64], path[PATH_MAX];
    ckpt_shard_name(c, 0, name, sizeof name);
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "r+b");
    if (f == NULL || fseek(f, -1, SEEK_END) != 0) return false;
    const int last = fgetc(f);
    return fseek(f, -1, SEEK_END) == 0 && fputc(last ^ 1, f) != EOF && fclose(f) == 0;
}

/* The parts of a split file, one behind the other; malloc. */
static char *read_parts(size_t *n)
{
    char *all = NULL, *one;
    size_t m;
    *n = 0;
    for (uint32_t i = 0; i < n_split; i++) {
        if (fg_io_read_all(split_out[i], 1u << 30, &one, &m, NULL) != FG_OK) continue;
        all = realloc(all, *n + m);
        memcpy(all + *n, one, m);
        *n += m;
        fg_mem_free(one);
    }
    return all;
}

static bool are_same_parts(const char *want, size_t n)
{
    size_t m;
    char *got = read_parts(&m);
    bool same = m == n && (n == 0 || memcmp(got, want, n) == 0);
    for (uint32_t i = 0; i < n_split; i++) same = same && !fg_io_exists(split_part[i]);
    free(got);
    return same;
}

/* Kills until at least `want_kills` lives ended so and the last conversion came through. */
static void kill_and_compare(const char *src, const char *calib, int want_kills, uint64_t share)
{
    fg_rng r;
    char *want = NULL;
    size_t n = 0;
    fg_convert_opts o = options(src, calib);
    if (!fg_test_long()) want_kills /= 4; /* test_journal has every operation */
    fg_rng_init(&r, 11);
    o.checkpoint_bytes = 0;
    const uint64_t t0 = fg_clock_ns();
    CHECK(ended(start(&o)));
    uint64_t most_us = (fg_clock_ns() - t0) / 1000 / share;
    learn_places();
    size_t n_parts;
    char *parts = read_parts(&n_parts);
    CHECK((n_parts > 0) == (n_split > 0));
    REQUIRE(fg_io_read_all(out, 1u << 30, &want, &n, NULL) == FG_OK && remove_output());
    o.checkpoint_bytes = 200000;
    int kills = 0, files = 0, went_on = 0;
    while (kills < want_kills || files == 0) {
        o.n_thread = 1 + (uint32_t)(fg_rng_u64(&r) % 3);
        const pid_t pid = start(&o);
        (void)usleep((useconds_t)(fg_rng_u64(&r) % (most_us + 1)));
        (void)kill(pid, SIGKILL);
        if (!ended(pid)) {
            kills++;
            went_on += lose_power(true, &r);
            if (went_on <= kills / 2) most_us += most_us / 8; /* its first checkpoint comes late */
            if (kills % 30 != 0) continue;
            CHECK(ended(start(&o))); /* a slow machine gets to the end too */
        }
        files++;
        CHECK(is_same(want, n) && are_same_parts(parts, n_parts));
        CHECK(remove_output());
    }
    if (fg_io_exists(part)) {
        CHECK(ended(start(&o)) && is_same(want, n) && are_same_parts(parts, n_parts));
        files++;
    }
    printf("  %d kills, %d with a checkpoint, %d files compared\n", kills, went_on, files);
    CHECK(went_on > kills / 3);
    fg_mem_free(want);
    free(parts);
}

FG_TEST(killed_at_random_nano)
{
    use_output(ckpt_dir("nano_out"));
    kill_and_compare(NANO_DIR, NULL, 24, 2);
}

FG_TEST(killed_at_random_split)
{
    n_split = 2;
    use_output(ckpt_dir("split_out"));
    kill_and_compare(NANO_DIR, NULL, 16, 2);
    n_split = 0;
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
    o.progress = touch_late; /* goes on from there, and ends at the next shard */
    o.ctx = (void *)(uintptr_t)src;
    CHECK(fg_convert(&o, NULL, &err) == FG_EIO && fg_io_exists(part));
    CHECK(strstr(err.msg, "written to") != NULL && strstr(err.msg, "continues") != NULL);
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
    CHECK(flip(&c, src)); /* of a shard that has been read: the header is the same */
    CHECK(fg_convert(&o, NULL, &err) == FG_EINVAL && strstr(err.msg, "another file") != NULL);
    CHECK(flip(&c, src) && fg_io_exists(part) && fg_io_exists(log_path));
    fg_convert_report report;
    CHECK(fg_convert(&o, &report, &err) == FG_OK && is_same(want, n));
    CHECK(last_resumed > 0 && report.resumed_bytes == last_resumed &&
          last_resumed < report.source_bytes);
    fg_mem_free(want);
    ckpt_fini(&c);
}
