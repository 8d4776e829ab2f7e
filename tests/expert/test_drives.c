/* SPDX-License-Identifier: MIT
 *
 * Experts of a split file are read from all its drives at once: the bytes of the one file, whatever
 * goes wrong on one of them, and in less time.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/convert.h"
#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/expert/drives.h"
#include "src/expert/slots.h"
#include "src/expert/store.h"
#include "tests/expert/faulty.h"
#include "tests/fg_test.h"
#include "tests/models.h"

/* The nano model in n files; "" when that fails. */
static const char *split_model(uint32_t n)
{
    static char path[4][512];
    char dir[3][400];
    const char *const dirs[] = {dir[0], dir[1], dir[2]};
    fg_err err = {0};
    if (path[n - 1][0] != '\0') return path[n - 1];
    (void)snprintf(path[n - 1], sizeof path[0], "%s/nano%u.fulgur", fg_test_tmpdir(), n);
    for (int i = 0; i < 3; i++) {
        (void)snprintf(dir[i], sizeof dir[i], "%s/drive%d", fg_test_tmpdir(), i + 1);
        (void)mkdir(dir[i], 0700);
    }
    const fg_convert_opts o = {
        .src_dir = NANO_DIR, .out_path = path[n - 1], .split_dir = dirs, .n_split = n - 1};
    if (fg_convert(&o, NULL, &err) != FG_OK) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return path[n - 1];
}

static fg_model_file *open_model(uint32_t n)
{
    fg_model_file *f = NULL;
    fg_err err = {0};
    if (fg_model_file_open(&f, split_model(n), &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        exit(1);
    }
    return f;
}

static fg_drives *open_drives(const fg_model_file *f, const fg_io_ops *ops, uint32_t depth,
                              uint32_t piece)
{
    fg_drives *d = NULL;
    fg_err err = {0};
    const fg_fetch_opts o = {.ops = ops, .depth = depth, .piece = piece};
    const fg_status st = fg_drives_create(&d, f, &o, &err);
    if (st == FG_ENOTSUP) {
        fg_test_skip("%s", err.msg);
    } else if (st != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    return d;
}

static fg_extent random_expert(const fg_model_file *f, fg_rng *r)
{
    const fg_shape *s = fg_model_file_shape(f);
    return fg_model_file_expert_extent(f, (uint32_t)(fg_rng_u64(r) % s->n_layer),
                                       (uint32_t)(fg_rng_u64(r) % s->n_expert));
}

/* Ranges of f started, hurried, given up for others while in flight, and waited for bit by bit:
 * what is said to be there is there, as it is in `one`, the model that is not split. */
static bool read_many(const fg_model_file *f, const fg_model_file *one, fg_drives *d)
{
    enum { N = 5, ROUNDS = 200 };
    fg_range range[N] = {0};
    fg_extent of[N];
    fg_slots s;
    fg_rng r;
    fg_err err = {0};
    bool ok = fg_slots_init(&s, N, fg_store_slot_bytes(f), "slots", NULL, &err) == FG_OK;
    fg_rng_init(&r, 7);
    for (int i = 0; ok && i < ROUNDS; i++) {
        const uint64_t k = fg_rng_u64(&r) % N;
        of[k] = random_expert(f, &r);
        const bool urgent = fg_rng_u64(&r) % 2 == 0;
        ok = fg_drives_start(d, &range[k], fg_slots_at(&s, k), of[k].offset, of[k].bytes, urgent,
                             &err) == FG_OK;
        if (fg_rng_u64(&r) % 4 == 0) fg_drives_cancel(d, &range[k]);
        if (fg_rng_u64(&r) % 3 != 0) continue; /* left in flight */
        if (!fg_drives_hurry(d, &range[k])) {
            ok = ok && fg_drives_start(d, &range[k], fg_slots_at(&s, k), of[k].offset, of[k].bytes,
                                       true, &err) == FG_OK;
        }
        const uint8_t *want = fg_model_file_data(one, of[k].offset);
        for (uint64_t n = 1; ok && n <= of[k].bytes; n += 5000) {
            ok = fg_drives_wait(d, &range[k], n) && memcmp(range[k].dst, want, (size_t)n) == 0;
        }
        ok = ok && fg_drives_wait(d, &range[k], of[k].bytes) &&
             memcmp(range[k].dst, want, (size_t)of[k].bytes) == 0;
    }
    for (int k = 0; k < N; k++) {
        fg_drives_drain(d, &range[k]);
        fg_range_fini(&range[k]);
    }
    fg_slots_fini(&s);
    return ok;
}

/* Flips a bit of every expert in what part 1 holds of it. */
static void flip_in_part(const fg_model_file *f)
{
    const fg_shape *s = fg_model_file_shape(f);
    const int fd = open(fg_model_file_part_path(f, 1), O_RDWR);
    CHECK(fd >= 0);
    for (uint32_t i = 0; i < s->n_layer * s->n_expert; i++) {
        uint64_t at = fg_model_file_expert_extent(f, i / s->n_expert, i % s->n_expert).offset, end;
        uint8_t byte;
        while (fg_model_file_part_at(f, at, &end) != 1) at = end;
        CHECK(pread(fd, &byte, 1, (off_t)at) == 1);
        byte ^= 1;
        CHECK(pwrite(fd, &byte, 1, (off_t)at) == 1);
    }
    (void)close(fd);
}

FG_TEST(bytes_of_the_file)
{
    fg_model_file *one = open_model(1);
    static const fg_io_ops *const ops[] = {&fg_io_uring, &fg_io_pread, &faulty_ops};
    plan = (fault_plan){
        .base = &fg_io_pread, .shuffle = true, .short_one_in = 5, .interrupt_one_in = 7};
    for (uint32_t n = 1; n <= 3; n++) {
        fg_model_file *f = open_model(n);
        for (int i = 0; i < 3; i++) {
            fg_drives *d = open_drives(f, ops[i], 8, 8192);
            if (d == NULL) continue;
            CHECK(read_many(f, one, d));
            const fg_fetch_stats s = fg_drives_get_stats(d);
            CHECK(s.bytes > 0 && s.busy_ns > 0 && (s.n_retry > 0) == (i == 2));
            fg_drives_destroy(&d);
        }
        fg_model_file_close(&f);
    }
    plan = (fault_plan){.base = &fg_io_pread};
    /* control: wrong bytes in one part are seen, and are gone when they are right again */
    for (int wrong = 1; wrong >= 0; wrong--) {
        fg_model_file *f = open_model(2);
        flip_in_part(f);
        fg_drives *d = open_drives(f, &fg_io_pread, 8, 8192);
        REQUIRE(d != NULL);
        CHECK(read_many(f, one, d) == (wrong == 0));
        fg_drives_destroy(&d);
        fg_model_file_close(&f);
    }
    fg_model_file_close(&one);
}

/* --- a slow drive --- */

/* Reads only when asked for the result, and every second reader late. */
typedef struct late {
    int fd;
    bool slow;
    uint32_t n;
    fg_io_piece *piece[FG_IO_MAX_DEPTH];
} late;

static fg_status late_open(void **ctx, int fd, uint32_t depth, fg_err *err)
{
    static uint32_t n_open;
    late *l = calloc(1, sizeof *l);
    (void)depth;
    *ctx = l;
    if (l == NULL) return fg_fail_nomem(err, "late");
    l->fd = fd;
    l->slow = n_open++ % 2 == 1;
    return FG_OK;
}

static void late_submit(void *ctx, fg_io_piece *p)
{
    late *l = ctx;
    l->piece[l->n++] = p;
}

static uint32_t late_reap(void *ctx, fg_io_piece **done, uint32_t max)
{
    late *l = ctx;
    const uint32_t n = l->n < max ? l->n : max;
    if (l->slow) (void)usleep(30000);
    for (uint32_t i = 0; i < n; i++) {
        done[i] = l->piece[--l->n];
        done[i]->result =
            (int32_t)pread(l->fd, done[i]->dst, done[i]->bytes, (off_t)done[i]->offset);
    }
    return n;
}

static const fg_io_ops late_ops = {"late", late_open, free, late_submit, late_reap};

/* Memory that is given to another expert while a slow drive still writes to it: the stripes of the
 * other one lie elsewhere, and must not be written over by what comes late. */
FG_TEST(what_comes_late_does_no_harm)
{
    fg_model_file *f = open_model(2);
    fg_drives *d = open_drives(f, &late_ops, 16, 16384);
    uint8_t *dst = fg_mem_map(fg_store_slot_bytes(f));
    fg_range range = {0};
    fg_err err;
    for (uint32_t e = 0; e < 8; e++) {
        const fg_extent old = fg_model_file_expert_extent(f, 3, e);
        const fg_extent x = fg_model_file_expert_extent(f, 3, e + 1);
        CHECK_OK(fg_drives_start(d, &range, dst, old.offset, old.bytes, true, &err), &err);
        (void)usleep(5000); /* now it is in flight */
        CHECK_OK(fg_drives_start(d, &range, dst, x.offset, x.bytes, true, &err), &err);
        CHECK(fg_drives_wait(d, &range, x.bytes));
        CHECK(memcmp(dst, fg_model_file_data(f, x.offset), (size_t)x.bytes) == 0);
    }
    fg_drives_destroy(&d);
    fg_range_fini(&range);
    fg_mem_unmap(dst, fg_store_slot_bytes(f));
    fg_model_file_close(&f);
}

/* --- time --- */

enum { PIECE = 4096, PIECE_US = 1500, EXPERTS = 6, REPEATS = 4 };

/* Seconds that some experts take, one after the other, on drives that give a piece each 1.5 ms. */
static double read_time(uint32_t n_part)
{
    fg_model_file *f = open_model(n_part);
    plan = (fault_plan){.base = &fg_io_pread, .sleep_us = PIECE_US};
    fg_drives *d = open_drives(f, &faulty_ops, 1, PIECE);
    uint8_t *dst = fg_mem_map(fg_store_slot_bytes(f));
    fg_range range = {0};
    fg_err err;
    const uint64_t t0 = fg_clock_ns();
    for (uint32_t e = 0; e < EXPERTS; e++) {
        const fg_extent x = fg_model_file_expert_extent(f, 1, e);
        CHECK(fg_drives_start(d, &range, dst, x.offset, x.bytes, true, &err) == FG_OK &&
              fg_drives_wait(d, &range, x.bytes));
    }
    const double seconds = (double)(fg_clock_ns() - t0) * 1e-9;
    const fg_fetch_stats s = fg_drives_get_stats(d);
    CHECK((double)s.busy_ns * 1e-9 <= 1.01 * seconds && s.busy_ns > 0); /* of one drive, no sum */
    fg_drives_destroy(&d);
    fg_range_fini(&range);
    fg_mem_unmap(dst, fg_store_slot_bytes(f));
    fg_model_file_close(&f);
    return seconds;
}

/* Control: the two stripes as loads of one reader. */
static double read_time_on_one(void)
{
    fg_model_file *f = open_model(1);
    fg_fetch *r = NULL;
    fg_load load[2];
    fg_err err = {0};
    memset(load, 0, sizeof load);
    plan = (fault_plan){.base = &fg_io_pread, .sleep_us = PIECE_US};
    const fg_fetch_opts o = {.ops = &faulty_ops, .depth = 1, .piece = PIECE};
    CHECK_OK(fg_fetch_create(&r, split_model(1), &o, &err), &err);
    uint8_t *dst = fg_mem_map(fg_store_slot_bytes(f));
    const uint64_t t0 = fg_clock_ns();
    for (uint32_t e = 0; e < EXPERTS; e++) {
        const fg_extent x = fg_model_file_expert_extent(f, 1, e);
        const uint64_t half = fg_round_up(x.bytes / 2, 4096), rest = x.bytes - half;
        CHECK_OK(fg_fetch_start(r, &load[0], dst, x.offset, half, true, &err), &err);
        CHECK_OK(fg_fetch_start(r, &load[1], dst + half, x.offset + half, rest, true, &err), &err);
        CHECK(fg_fetch_wait(r, &load[0], half) && fg_fetch_wait(r, &load[1], rest));
    }
    const double seconds = (double)(fg_clock_ns() - t0) * 1e-9;
    fg_fetch_destroy(&r);
    fg_load_fini(&load[0]);
    fg_load_fini(&load[1]);
    fg_mem_unmap(dst, fg_store_slot_bytes(f));
    fg_model_file_close(&f);
    return seconds;
}

static double least(double a, double b)
{
    return a < b ? a : b;
}

FG_TEST(drives_work_together)
{
    double one = 1e9, two = 1e9, three = 1e9,
           control = 1e9; /* the best of some: machines are busy */
    for (int i = 0; i < REPEATS; i++) {
        one = least(one, read_time(1));
        two = least(two, read_time(2));
        three = least(three, read_time(3));
        control = least(control, read_time_on_one());
    }
    printf("  ms of an expert: %.1f from one drive, %.1f from two, %.1f from three; both halves "
           "from one "
           "%.1f\n",
           1e3 * one / EXPERTS, 1e3 * two / EXPERTS, 1e3 * three / EXPERTS,
           1e3 * control / EXPERTS);
    CHECK(two < 0.7 * one && three < 0.5 * one && control > 0.8 * one);
}

/* --- a store on them --- */

static fg_store *open_store(const fg_model_file *f, uint32_t n_slot, const fg_io_ops *ops)
{
    fg_store *s = NULL;
    fg_err err = {0};
    const fg_store_opts o = {.bytes = fg_store_dense_bytes(f) + n_slot * fg_store_slot_bytes(f),
                             .predict = FG_PREDICT_PREVIOUS,
                             .io = {.ops = ops, .piece = 8192}};
    if (fg_store_create(&s, f, &o, &err) != FG_OK) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    if (s != NULL) fg_store_set_clock(s, NULL);
    return s;
}

/* One layer; whether all bytes came and were right. */
static bool read_layer(const fg_model_file *f, fg_store *s, uint32_t layer, const uint32_t *sel,
                       uint32_t n, fg_err *err)
{
    uint32_t ids[8], m, at = 0;
    bool ok = true;
    memcpy(ids, sel, n * sizeof *ids);
    fg_store_begin_layer(s, layer, ids, n);
    while ((m = fg_store_next_wave(s)) > 0) {
        for (uint32_t i = 0; i < m; i++, at++) {
            const fg_extent x = fg_model_file_expert_extent(f, layer, ids[at]);
            ok = fg_store_wait(s, ids[at], 0, (fg_reach){0, x.bytes}) &&
                 memcmp(fg_store_data(s, ids[at], 0), fg_model_file_data(f, x.offset),
                        (size_t)x.bytes) == 0 &&
                 ok;
        }
    }
    if (n == fg_model_file_shape(f)->n_used) fg_store_hint(s, sel, 1, NULL);
    return fg_store_end_layer(s, err) == FG_OK && ok;
}

FG_TEST(store_of_a_split_file)
{
    static const fg_io_ops *const ops[] = {NULL, &fg_io_pread, &faulty_ops};
    plan = (fault_plan){
        .base = &fg_io_pread, .shuffle = true, .short_one_in = 5, .interrupt_one_in = 7};
    for (uint32_t n = 2; n <= 3; n++) {
        fg_model_file *f = open_model(n);
        const fg_shape *shape = fg_model_file_shape(f);
        for (int k = 0; k < 3; k++) {
            fg_store *s = open_store(f, 20, ops[k]);
            fg_rng r;
            fg_err err = {0};
            fg_rng_init(&r, 3);
            REQUIRE(s != NULL);
            const fg_extent dense = fg_model_file_dense_extent(f, 2);
            const fg_tensor *norm = fg_model_file_find(f, FG_ROLE_ATTN_NORM, 2, FG_NO_LAYER);
            const uint64_t at = fg_slices_panels(fg_store_slices(s),
                                                 (uint64_t)(norm - fg_model_file_tensor(f, 0)), 0);
            CHECK(norm->offset == dense.offset);
            CHECK(memcmp(fg_store_dense(s, 0) + at, fg_model_file_data(f, dense.offset),
                         (size_t)dense.bytes) == 0);
            for (uint32_t i = 0; i < 10 * shape->n_layer; i++) {
                const uint32_t a = (uint32_t)(fg_rng_u64(&r) % 6);
                const uint32_t sel[] = {a, a + 1 + (uint32_t)(fg_rng_u64(&r) % 6)};
                CHECK(read_layer(f, s, i % shape->n_layer, sel, 2, &err));
            }
            CHECK(fg_store_get_stats(s).io.bytes > fg_store_dense_bytes(f));
            fg_store_destroy(&s);
        }
        fg_model_file_close(&f);
    }
}

/* A drive that fails where it holds a stripe: the error names its part, and the rest goes on. */
FG_TEST(a_failing_drive)
{
    fg_model_file *f = open_model(2);
    const fg_extent x = fg_model_file_expert_extent(f, 2, 3);
    uint64_t at = x.offset, end;
    while (fg_model_file_part_at(f, at, &end) != 1) at = end;
    plan = (fault_plan){.base = &fg_io_pread, .fail_times = 4, .fail_from = at, .fail_to = at + 1};
    fg_store *s = open_store(f, 20, &faulty_ops);
    REQUIRE(s != NULL);
    fg_err err = {0};
    const uint32_t bad[] = {3, 5}, good[] = {6, 7};
    CHECK(read_layer(f, s, 2, good, 2, &err));
    CHECK(!read_layer(f, s, 2, bad, 2, &err) && err.code == FG_EIO);
    CHECK(strstr(err.msg, fg_model_file_part_path(f, 1)) != NULL &&
          strstr(err.msg, "Input/output error") != NULL);
    CHECK(read_layer(f, s, 2, bad, 2, &err)); /* asked again */
    fg_store_destroy(&s);
    fg_model_file_close(&f);
}

/* Flips a bit of a byte of `part` that expert `e` of a layer has there. */
static void damage(const fg_model_file *f, uint32_t layer, uint32_t e, uint32_t part)
{
    const fg_extent x = fg_model_file_expert_extent(f, layer, e);
    uint64_t at = x.offset, end;
    uint8_t byte;
    while (fg_model_file_part_at(f, at, &end) != part) at = end;
    REQUIRE(at < x.offset + x.bytes);
    const int fd = open(fg_model_file_part_path(f, part), O_RDWR);
    CHECK(pread(fd, &byte, 1, (off_t)at) == 1);
    byte ^= 1;
    CHECK(pwrite(fd, &byte, 1, (off_t)at) == 1 && close(fd) == 0);
}

/* A part that is touched, changed, or replaced, while the model is open. */
FG_TEST(a_part_that_changes)
{
    fg_model_file *f = open_model(3);
    fg_store *s = open_store(f, 20, &fg_io_pread);
    fg_err err = {0};
    const char *part = fg_model_file_part_path(f, 2);
    const uint32_t sel[] = {3, 5};
    REQUIRE(s != NULL);
    CHECK(read_layer(f, s, 0, sel, 2, &err));
    const struct timespec now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
    (void)usleep(20000);
    CHECK(utimensat(AT_FDCWD, part, now, 0) == 0);
    CHECK_OK(read_layer(f, s, 1, sel, 2, &err) ? FG_OK : err.code, &err); /* its bytes are right */
    damage(f, 2, 3, 2);
    CHECK(!read_layer(f, s, 2, sel, 2, &err) && strstr(err.msg, part) != NULL &&
          strstr(err.msg, "changed while in use") != NULL);
    damage(f, 2, 3, 2); /* back as it was */
    CHECK(read_layer(f, s, 2, sel, 2, &err));
    fg_store_destroy(&s);
    char cmd[2000];
    (void)snprintf(cmd, sizeof cmd, "mv %s %s.away && cp %s %s", part, part,
                   fg_model_file_part_path(f, 1), part);
    CHECK(system(cmd) == 0);
    const fg_store_opts o = {.bytes = fg_store_min_bytes(f), .io = {.ops = &fg_io_pread}};
    CHECK(fg_store_create(&s, f, &o, &err) == FG_EFORMAT && strstr(err.msg, part) != NULL);
    (void)snprintf(cmd, sizeof cmd, "mv %s.away %s", part, part);
    CHECK(system(cmd) == 0);
    fg_model_file_close(&f);
}
