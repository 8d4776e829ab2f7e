/* SPDX-License-Identifier: MIT
 *
 * Shards that go when they are consumed and come while the conversion runs: the file is that of one
 * conversion with everything there, wherever the process dies, and no shard is deleted before what
 * was made from it is safe.
 */
#include <time.h>

#include "convert/dry_run.h"
#include "tests/e2e/power.h"

enum { N_SHARD = 5 };

static ckpt model;
static char src[512];
static char *want;
static size_t n_want;
static char waited_for[128];
static int waits;

static void waiting(void *ctx, const char *shard)
{
    (void)ctx;
    if (shard == NULL) return;
    waits++;
    (void)snprintf(waited_for, sizeof waited_for, "%s", shard);
}

static const char *shard_path(uint32_t s)
{
    static char path[N_SHARD][800];
    char name[256];
    ckpt_shard_name(&model, s, name, sizeof name);
    (void)snprintf(path[s], sizeof path[s], "%s/%s", src, name);
    return path[s];
}

static int n_here(void)
{
    int n = 0;
    for (uint32_t s = 0; s < N_SHARD; s++) n += fg_io_exists(shard_path(s));
    return n;
}

static fg_convert_opts deleting(void)
{
    fg_convert_opts o = options(src, NULL);
    o.delete_consumed = true;
    o.settle_ns = 50000000;
    o.waiting = waiting;
    return o;
}

/* The folder, and what its conversion must give. */
static bool prepare(const char *name)
{
    char out_name[64];
    fg_err err;
    free(want); /* of the test before */
    want = NULL;
    ckpt_init_large(&model);
    ckpt_spread(&model, N_SHARD);
    (void)snprintf(src, sizeof src, "%s", ckpt_dir(name));
    ckpt_write(&model, src);
    ckpt_put_tokenizer(src);
    (void)snprintf(out_name, sizeof out_name, "%s_out", name);
    use_output(ckpt_dir(out_name));
    fg_convert_opts o = options(src, NULL);
    o.checkpoint_bytes = 0;
    char *text = NULL;
    const bool ok = fg_convert(&o, NULL, &err) == FG_OK &&
                    fg_io_read_all(out, 1u << 30, &text, &n_want, NULL) == FG_OK;
    CHECK(ok);
    if (!ok) return false;
    learn_places();
    want = malloc(n_want);
    if (want != NULL) memcpy(want, text, n_want);
    fg_mem_free(text);
    CHECK(want != NULL && remove(out) == 0);
    return want != NULL;
}

static void nap_us(unsigned us)
{
    const struct timespec t = {0, (long)us * 1000};
    (void)nanosleep(&t, NULL);
}

/* True when a killed process had come as far as the rename: then there is nothing to go on with. */
static bool is_complete(void)
{
    const bool complete = fg_io_exists(out) && !fg_io_exists(part);
    if (complete) (void)remove(log_path);
    return complete;
}

/* --- deleting --- */

FG_TEST(consumed_shards_are_deleted)
{
    fg_err err;
    fg_convert_report r;
    REQUIRE(prepare("deleting"));
    uint64_t bytes = 0;
    struct stat sb;
    for (uint32_t s = 0; s < N_SHARD; s++) {
        REQUIRE(stat(shard_path(s), &sb) == 0);
        bytes += (uint64_t)sb.st_size;
    }
    fg_convert_opts o = deleting();
    o.delete_consumed = false; /* control */
    CHECK(fg_convert(&o, &r, &err) == FG_OK && n_here() == N_SHARD && r.n_deleted == 0);
    CHECK(is_same(want, n_want) && remove(out) == 0);
    o.delete_consumed = true;
    CHECK(fg_convert(&o, &r, &err) == FG_OK && n_here() == 0);
    CHECK(is_same(want, n_want));
    CHECK_U64(r.n_deleted, N_SHARD);
    CHECK_U64(r.deleted_bytes, bytes);
    CHECK_U64(r.n_left_alone, 0);
    ckpt_fini(&model);
}

FG_TEST(links_are_left_alone)
{
    fg_err err;
    fg_convert_report r;
    char elsewhere[1000];
    REQUIRE(prepare("links"));
    const char *cache = ckpt_dir("links_cache");
    (void)snprintf(elsewhere, sizeof elsewhere, "%s/blob", cache);
    REQUIRE(rename(shard_path(1), elsewhere) == 0 && symlink(elsewhere, shard_path(1)) == 0);
    (void)snprintf(elsewhere, sizeof elsewhere, "%s/second", cache);
    REQUIRE(link(shard_path(3), elsewhere) == 0);
    const fg_convert_opts o = deleting();
    CHECK(fg_convert(&o, &r, &err) == FG_OK && is_same(want, n_want));
    CHECK(r.n_deleted == N_SHARD - 2 && r.n_left_alone == 2 && n_here() == 2);
    CHECK(fg_io_exists(shard_path(1)) && fg_io_exists(shard_path(3)));
    ckpt_fini(&model);
}

static bool stop_late(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    return done < total * 3 / 4;
}

/* What is gone is not asked for again, what is needed is; a changed shard is noticed. */
FG_TEST(a_later_life_knows_what_is_gone)
{
    fg_err err;
    fg_convert_report r;
    char name[256], kept[1000];
    REQUIRE(prepare("later"));
    fg_convert_opts o = deleting();
    o.progress = stop_late;
    CHECK(fg_convert(&o, NULL, &err) == FG_ECANCEL);
    const int left = n_here();
    CHECK(left > 0 && left < N_SHARD);
    o.progress = NULL;
    /* the last one is needed */
    (void)snprintf(kept, sizeof kept, "%s.kept", out);
    REQUIRE(rename(shard_path(N_SHARD - 1), kept) == 0);
    ckpt_shard_name(&model, N_SHARD - 1, name, sizeof name);
    CHECK(fg_convert(&o, NULL, &err) == FG_EIO && strstr(err.msg, name) != NULL &&
          strstr(err.msg, "No such file") != NULL && fg_io_exists(part));
    /* another file in its place: as long, with the same tensors in another order */
    char *bytes = NULL;
    size_t n = 0;
    REQUIRE(fg_io_read_all(kept, 1u << 30, &bytes, &n, NULL) == FG_OK);
    char *pt = memchr(bytes, 'p', n); /* of the format in its metadata */
    REQUIRE(pt != NULL && memcmp(pt, "pt\"", 3) == 0);
    *pt = 'q';
    ckpt_put_file(src, name, bytes, n);
    CHECK(fg_convert(&o, NULL, &err) == FG_EINVAL && strstr(err.msg, name) != NULL &&
          strstr(err.msg, "another file") != NULL && fg_io_exists(part));
    fg_mem_free(bytes);
    REQUIRE(rename(kept, shard_path(N_SHARD - 1)) == 0);
    last_resumed = 0;
    CHECK(fg_convert(&o, &r, &err) == FG_OK && is_same(want, n_want) && n_here() == 0);
    CHECK(last_resumed > 0 && r.n_deleted == (uint64_t)left);
    ckpt_fini(&model);
}

/* Comes back after a random part of `most_us`, or, every other time, a moment after another shard
 * is gone: how much of a conversion is spent so differs from machine to machine. */
static void wait_for_a_moment(int turn, uint64_t most_us, fg_rng *r)
{
    if (turn % 2 == 0) {
        nap_us((unsigned)(fg_rng_u64(r) % (most_us + 1)));
        return;
    }
    const int here = n_here();
    const uint64_t end = fg_clock_ns() + 2000 * (most_us + 1);
    while (n_here() == here && fg_clock_ns() < end) nap_us(50);
    nap_us((unsigned)(fg_rng_u64(r) % 1000));
}

/* Killed anywhere, with what was not synced lost. */
FG_TEST(killed_while_deleting)
{
    fg_rng r;
    REQUIRE(prepare("killed"));
    fg_rng_init(&r, 5);
    fg_convert_opts o = deleting();
    const uint64_t t0 = fg_clock_ns();
    CHECK(ended(start(&o)) && is_same(want, n_want) && remove(out) == 0);
    const uint64_t whole_us = (fg_clock_ns() - t0) / 1000;
    ckpt_write(&model, src);
    int kills = 0, files = 0, part_gone = 0;
    while (kills < 30 || files == 0) {
        const pid_t pid = start(&o);
        wait_for_a_moment(kills, whole_us / 2, &r);
        (void)kill(pid, SIGKILL);
        if (!ended(pid) && !is_complete()) {
            kills++;
            (void)lose_power(false, &r);
            part_gone += n_here() > 0 && n_here() < N_SHARD;
            if (kills % 20 != 0) continue;
            CHECK(ended(start(&o)));
        }
        files++;
        CHECK(is_same(want, n_want) && n_here() == 0);
        CHECK(remove(out) == 0);
        ckpt_write(&model, src);
    }
    if (fg_io_exists(part)) CHECK(ended(start(&o)) && is_same(want, n_want) && n_here() == 0);
    printf("  %d kills, %d with some of the shards gone, %d files compared\n", kills, part_gone,
           files);
    CHECK(part_gone > 2);
    ckpt_fini(&model);
}

/* --- waiting --- */

/* Copies shards from `from` to the folder in random order and in pieces, now and then as space set
 * aside that is filled later, the header last. */
static void download(const char *from, uint64_t seed)
{
    fg_rng r;
    bool sent[N_SHARD] = {false};
    fg_rng_init(&r, seed);
    for (int n = 0; n < N_SHARD; n++) {
        uint32_t s = (uint32_t)(fg_rng_u64(&r) % N_SHARD);
        char path[800], name[256], *bytes = NULL;
        size_t size = 0;
        while (sent[s]) s = (s + 1) % N_SHARD;
        sent[s] = true;
        ckpt_shard_name(&model, s, name, sizeof name);
        (void)snprintf(path, sizeof path, "%s/%s", from, name);
        if (fg_io_read_all(path, 1u << 30, &bytes, &size, NULL) != FG_OK) _exit(3);
        const int fd = open(shard_path(s), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        const bool aside = n % 2 == 1;
        if (aside && ftruncate(fd, (off_t)size) != 0) _exit(3);
        const size_t step = size / 3 + 1, start = aside ? 4096 : 0;
        for (size_t at = start; at < size; at += step) {
            const size_t m = size - at < step ? size - at : step;
            if (pwrite(fd, bytes + at, m, (off_t)at) != (ssize_t)m) _exit(3);
            nap_us(10000);
        }
        if (aside && pwrite(fd, bytes, start, 0) != (ssize_t)start) _exit(3);
        (void)close(fd);
        fg_mem_free(bytes);
    }
    _exit(0);
}

/* Moves the shards to a folder of their own; returns it. */
static const char *take_away(const char *name)
{
    const char *dir = ckpt_dir(name);
    for (uint32_t s = 0; s < N_SHARD; s++) {
        char to[1100], file[256];
        ckpt_shard_name(&model, s, file, sizeof file);
        (void)snprintf(to, sizeof to, "%s/%s", dir, file);
        CHECK(rename(shard_path(s), to) == 0);
    }
    return dir;
}

static pid_t start_download(const char *from, uint64_t seed)
{
    (void)fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0) download(from, seed);
    return pid;
}

FG_TEST(shards_arrive_while_it_runs)
{
    fg_err err;
    fg_convert_report r;
    REQUIRE(prepare("waiting"));
    const char *from = take_away("waiting_from");
    fg_convert_opts o = deleting();
    o.wait_for_shards = true;
    for (uint64_t seed = 0; seed < 4; seed++) {
        o.delete_consumed = seed % 2 == 0;
        waits = 0;
        const pid_t pid = start_download(from, seed);
        const fg_status st = fg_convert(&o, &r, &err);
        if (st != FG_OK) fg_test_fail(__FILE__, __LINE__, "seed %d: %s", (int)seed, err.msg);
        CHECK(is_same(want, n_want) && waits > 0);
        CHECK(ended(pid));
        CHECK(n_here() == (o.delete_consumed ? 0 : N_SHARD));
        (void)remove(out);
        for (uint32_t s = 0; s < N_SHARD; s++) (void)remove(shard_path(s));
    }
    /* control: without waiting it is an error */
    o.wait_for_shards = false;
    CHECK(fg_convert(&o, NULL, &err) == FG_EIO && strstr(err.msg, "No such file") != NULL);
    CHECK(!fg_io_exists(part));
    ckpt_fini(&model);
}

static char *stalled; /* the true bytes of shard 0 */
static size_t n_stalled;
static char sign_path[900];

static void download_goes_on(void *ctx, const char *shard)
{
    const bool *stays = ctx;
    if (shard == NULL || *stays) return;
    waits++;
    const int fd = open(shard_path(0), O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, stalled, n_stalled, 0) == (ssize_t)n_stalled && close(fd) == 0);
    CHECK(remove(sign_path) == 0);
}

/* Whole length, header there, no data yet, at rest: only the file beside it tells. */
FG_TEST(a_downloaders_file_is_respected)
{
    static const char *const sign[] = {".aria2", ".incomplete", ".part", ".crdownload", ".other"};
    fg_err err;
    char name[256];
    REQUIRE(prepare("stalled"));
    fg_convert_opts o = deleting();
    o.delete_consumed = false;
    o.wait_for_shards = true;
    bool control = false;
    o.waiting = download_goes_on;
    o.ctx = &control;
    ckpt_shard_name(&model, 0, name, sizeof name);
    REQUIRE_OK(fg_io_read_all(shard_path(0), 1u << 30, &stalled, &n_stalled, &err), &err);
    for (int i = 0; i < 5; i++) {
        char leaf[300];
        const int fd = open(shard_path(0), O_WRONLY);
        uint64_t header;
        memcpy(&header, stalled, sizeof header);
        CHECK(fd >= 0 && ftruncate(fd, (off_t)(8 + header)) == 0);
        CHECK(ftruncate(fd, (off_t)n_stalled) == 0 && close(fd) == 0);
        (void)snprintf(leaf, sizeof leaf, "%s%s", name, sign[i]);
        (void)snprintf(sign_path, sizeof sign_path, "%s%s", shard_path(0), sign[i]);
        ckpt_put_file(src, leaf, "x", 1);
        nap_us((unsigned)(o.settle_ns / 1000) + 20000); /* at rest before anybody looks */
        waits = 0;
        control = i == 4; /* nothing tells: the zeros are read, and give themselves away */
        const fg_status st = fg_convert(&o, NULL, &err);
        CHECK(st == (control ? FG_EDATA : FG_OK) && waits == !control);
        CHECK(control ? strstr(err.msg, "zero throughout") != NULL : is_same(want, n_want));
        (void)remove(out);
    }
    fg_mem_free(stalled);
    ckpt_fini(&model);
}

FG_TEST(killed_while_waiting_and_deleting)
{
    fg_rng r;
    REQUIRE(prepare("both"));
    const char *from = take_away("both_from");
    fg_rng_init(&r, 8);
    fg_convert_opts o = deleting();
    o.wait_for_shards = true;
    int kills = 0;
    for (uint64_t seed = 10; seed < 14; seed++) {
        const pid_t loader = start_download(from, seed);
        for (int life = 1;; life++) {
            const pid_t pid = start(&o);
            nap_us((unsigned)(fg_rng_u64(&r) % 60000));
            if (life % 10 != 0) (void)kill(pid, SIGKILL);
            if (ended(pid) || is_complete()) break;
            kills++;
            (void)lose_power(false, &r);
        }
        CHECK(ended(loader) && is_same(want, n_want) && n_here() == 0);
        CHECK(remove(out) == 0);
    }
    printf("  %d kills\n", kills);
    CHECK(kills > 5);
    ckpt_fini(&model);
}

static int calls;

static bool stop_waiting(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    (void)total;
    return done > 0 || ++calls < 3;
}

FG_TEST(waiting_can_be_interrupted)
{
    fg_err err;
    char name[256];
    REQUIRE(prepare("interrupt"));
    (void)take_away("interrupt_from");
    fg_convert_opts o = deleting();
    o.wait_for_shards = true;
    o.progress = stop_waiting;
    calls = waits = 0;
    CHECK(fg_convert(&o, NULL, &err) == FG_ECANCEL && strchr(err.msg, '\n') == NULL);
    ckpt_shard_name(&model, 0, name, sizeof name);
    /* twice asked, cancelled, and asked whether that is so */
    CHECK(waits == 1 && strcmp(waited_for, name) == 0 && calls >= 3);
    CHECK(fg_io_exists(part) && fg_io_exists(log_path)); /* who cancels goes on later */
    /* a shard that will never be one is no reason to wait */
    ckpt_put_file(src, name, "\5\0\0\0\0\0\0\0[1,2]", 13);
    nap_us(100000);
    o.progress = NULL;
    CHECK(fg_convert(&o, NULL, &err) == FG_EFORMAT && strstr(err.msg, name) != NULL);
    ckpt_fini(&model);
}

/* --- dry run --- */

FG_TEST(a_dry_run_says_what_happens)
{
    fg_err err;
    fg_convert_report r;
    static fg_dry_run f, none;
    REQUIRE(prepare("dry"));
    const size_t n_file = ckpt_count_files(src);
    fg_convert_opts o = deleting();
    CHECK_OK(fg_convert_dry_run(&o, &f, &err), &err);
    CHECK(ckpt_count_files(src) == n_file && !fg_io_exists(part) && !fg_io_exists(out));
    o.delete_consumed = false;
    CHECK(fg_convert_dry_run(&o, &none, &err) == FG_OK && none.need_bytes >= none.file_bytes);
    CHECK(f.need_bytes < none.need_bytes); /* deleting gives space back */
    CHECK(f.n_shard == N_SHARD && f.n_here == N_SHARD);
    CHECK_OK(fg_convert(&o, &r, &err), &err);
    CHECK_U64(f.file_bytes, r.file_bytes);
    CHECK_U64(f.source_bytes, r.source_bytes);
    CHECK_U64(f.n_tensor, r.n_tensor);
    CHECK_U64(f.n_weight, r.n_weight);
    uint64_t n_tensor = 0, n_weight = 0;
    for (size_t i = 0; i < f.n_sum; i++) {
        n_tensor += f.sum[i].n_tensor;
        n_weight += f.sum[i].n_weight;
        CHECK(i == 0 || f.sum[i].role > f.sum[i - 1].role);
    }
    CHECK(n_tensor == f.n_tensor && n_weight == f.n_weight);
    /* all refusals of a conversion before its first byte */
    o.type = "q3";
    CHECK(fg_convert_dry_run(&o, &f, &err) == FG_EINVAL);
    o.type = NULL;
    o.out_path = "/nowhere/x.fulgur";
    CHECK(fg_convert_dry_run(&o, &f, &err) == FG_EIO);
    /* without any shard the sizes are the same, as all is bf16 but the routers */
    o.out_path = out;
    for (int l = 0; l < 2; l++) {
        char name[96];
        (void)snprintf(name, sizeof name, "model.layers.%d.block_sparse_moe.gate.weight", l);
        ckpt_recode(ckpt_get(&model, name), "F32");
    }
    ckpt_write(&model, src);
    CHECK_OK(fg_convert_dry_run(&o, &f, &err), &err);
    (void)take_away("dry_away");
    CHECK(fg_convert_dry_run(&o, &none, &err) == FG_OK && none.n_here == 0);
    CHECK(none.source_bytes == f.source_bytes && none.file_bytes == f.file_bytes);
    ckpt_fini(&model);
}

/* What a small disk needs for the release: two or three shards, or calibrated a group of layers. */
FG_TEST(overlap_of_the_release)
{
    fg_err err;
    static fg_dry_run f;
    const char *dir = ckpt_release();
    if (dir == NULL) return;
    char text[512];
    (void)snprintf(text, sizeof text, "%s", fg_test_tmp("overlap.txt"));
    FILE *t = fopen(text, "w");
    REQUIRE(t != NULL && fputs("A fox met a crow.", t) >= 0 && fclose(t) == 0);
    use_output(ckpt_dir("overlap"));
    fg_convert_opts o = options(dir, NULL);
    CHECK_OK(fg_convert_dry_run(&o, &f, &err), &err);
    const uint64_t plain = f.overlap_bytes;
    o.calib_path = text;
    CHECK_OK(fg_convert_dry_run(&o, &f, &err), &err);
    printf("  plain %.2f GB, calibrated %.1f GB of %.1f GB; file %.1f GB\n", (double)plain / 1e9,
           (double)f.overlap_bytes / 1e9, (double)f.source_bytes / 1e9, (double)f.file_bytes / 1e9);
    CHECK(plain < 7000000000 && f.overlap_bytes > 200000000000 && f.n_shard == 413);
    CHECK_U64(f.source_bytes, 912210767872);
}
