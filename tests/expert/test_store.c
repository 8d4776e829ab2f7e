/* SPDX-License-Identifier: MIT
 *
 * Reader and store: the bytes are the file's, whatever goes wrong on the way; errors end in one
 * line, and never in a hang or a wrong byte.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/expert/judge.h"
#include "src/expert/slots.h"
#include "src/expert/store.h"
#include "tests/expert/faulty.h"
#include "tests/fg_test.h"
#include "tests/models.h"

enum { FILE_BYTES = 3 << 20 };

static uint8_t byte_at(uint64_t i)
{
    return (uint8_t)((i * 2654435761u) >> 13);
}

static const char *make_file(const char *name)
{
    const char *path = fg_test_tmp(name);
    uint8_t *p = malloc(FILE_BYTES);
    for (uint64_t i = 0; i < FILE_BYTES; i++) p[i] = byte_at(i);
    FILE *f = fopen(path, "wb");
    CHECK(f != NULL && fwrite(p, 1, FILE_BYTES, f) == FILE_BYTES && fclose(f) == 0);
    free(p);
    return path;
}

static fg_fetch *open_reader(const char *path, const fg_io_ops *ops, uint32_t depth)
{
    fg_fetch *r = NULL;
    fg_err err = {0};
    const fg_fetch_opts o = {.ops = ops, .depth = depth, .piece = 16384};
    const fg_status st = fg_fetch_create(&r, path, &o, &err);
    if (st == FG_ENOTSUP) {
        fg_test_skip("%s", err.msg);
    } else if (st != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    return r;
}

static bool is_right(const uint8_t *p, uint64_t offset, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        if (p[i] != byte_at(offset + i)) return false;
    }
    return true;
}

/* Many loads at once, of odd sizes, half of them hints; true when all bytes are right.  What is
 * said to be there must be there, at every moment. */
static bool read_many(fg_fetch *r, bool check)
{
    enum { N = 24, MAX = 40 * FG_IO_ALIGN };
    fg_slots s;
    fg_load load[N];
    fg_rng rng;
    fg_err err = {0};
    uint64_t offset[N], bytes[N];
    bool ok = true;
    memset(load, 0, sizeof load);
    fg_rng_init(&rng, 11);
    if (fg_slots_init(&s, N, MAX, "slots", NULL, &err) != FG_OK) return false;
    for (int i = 0; i < N; i++) {
        bytes[i] = (1 + fg_rng_u64(&rng) % 40) * FG_IO_ALIGN;
        offset[i] = fg_rng_u64(&rng) % ((FILE_BYTES - bytes[i]) / FG_IO_ALIGN + 1) * FG_IO_ALIGN;
        ok = ok && fg_fetch_start(r, &load[i], fg_slots_at(&s, (uint64_t)i), offset[i], bytes[i],
                                  i % 2 == 0, &err) == FG_OK;
    }
    for (int i = 1; i < N; i += 4) fg_fetch_hurry(r, &load[i]);
    for (int i = 0; i < N; i++) {
        for (uint64_t k = 1; k <= bytes[i]; k += 9000) {
            ok = ok && fg_fetch_wait(r, &load[i], k);
            ok = ok && (!check || is_right(fg_slots_at(&s, (uint64_t)i), offset[i], k));
        }
        ok = ok && fg_fetch_wait(r, &load[i], bytes[i]);
        ok = ok && (!check || is_right(fg_slots_at(&s, (uint64_t)i), offset[i], bytes[i]));
    }
    for (int i = 0; i < N; i++) {
        fg_fetch_drain(r, &load[i]);
        fg_load_fini(&load[i]);
    }
    fg_slots_fini(&s);
    return ok;
}

static void check_backend(const fg_io_ops *ops)
{
    const char *path = make_file("reader.bin");
    static const uint32_t depths[] = {1, 2, 7, 64};
    for (size_t i = 0; i < sizeof depths / sizeof depths[0]; i++) {
        fg_fetch *r = open_reader(path, ops, depths[i]);
        if (r == NULL) return;
        CHECK(read_many(r, true));
        const fg_fetch_stats s = fg_fetch_get_stats(r);
        CHECK(s.bytes > 0 && s.busy_ns > 0 && s.n_retry == 0);
        fg_fetch_destroy(&r);
    }
}

FG_TEST(uring_reads)
{
    check_backend(&fg_io_uring);
}

FG_TEST(pread_reads)
{
    check_backend(&fg_io_pread);
}

FG_TEST(no_direct_reads) /* where the file system refuses them; here: /proc or tmpfs */
{
    char path[64];
    (void)snprintf(path, sizeof path, "/dev/shm/fulgur-test-%d", (int)getpid());
    FILE *f = fopen(path, "wb");
    if (f == NULL) {
        fg_test_skip("no /dev/shm");
        return;
    }
    for (uint64_t i = 0; i < FILE_BYTES; i++) (void)fputc(byte_at(i), f);
    (void)fclose(f);
    fg_fetch *r = open_reader(path, NULL, 4);
    if (r != NULL) CHECK(read_many(r, true));
    fg_fetch_destroy(&r);
    (void)unlink(path);
}

FG_TEST(bad_reads_are_continued)
{
    const char *path = make_file("bad.bin");
    const fg_io_ops *base[] = {&fg_io_pread, &fg_io_uring};
    for (int i = 0; i < 2; i++) {
        plan = (fault_plan){
            .base = base[i], .short_one_in = 2, .interrupt_one_in = 3, .shuffle = true};
        fg_fetch *r = open_reader(path, &faulty_ops, 9);
        if (r == NULL) return;
        CHECK(read_many(r, true));
        CHECK(fg_fetch_get_stats(r).n_retry > 10);
        fg_err err = {0};
        CHECK_OK(fg_fetch_take_error(r, &err), &err);
        fg_fetch_destroy(&r);
    }
}

/* Pieces that a backend never reads, however often it is asked, while pread would. */
FG_TEST(cancelled_reads_are_done_with_pread)
{
    const char *path = make_file("cancel.bin");
    const fg_io_ops *base[] = {&fg_io_pread, &fg_io_uring};
    for (int i = 0; i < 2; i++) {
        for (uint32_t one_in = 1; one_in <= 3; one_in += 2) {
            plan = (fault_plan){
                .base = base[i], .cancel_one_in = one_in, .short_one_in = 2, .shuffle = true};
            fg_fetch *r = open_reader(path, &faulty_ops, 9);
            if (r == NULL) return;
            CHECK(read_many(r, true));
            fg_err err = {0};
            CHECK_OK(fg_fetch_take_error(r, &err), &err);
            fg_fetch_destroy(&r);
        }
    }
}

FG_TEST(a_flipped_bit_is_seen) /* negative control of the comparisons above */
{
    const char *path = make_file("flip.bin");
    plan = (fault_plan){.base = &fg_io_pread, .flip_at = 1 << 20};
    fg_fetch *r = open_reader(path, &faulty_ops, 4);
    REQUIRE(r != NULL);
    CHECK(!read_many(r, true));
    fg_fetch_destroy(&r);
}

/* One load over the whole file; its status, message in *err. */
static fg_status read_all(fg_fetch *r, fg_err *err)
{
    fg_slots s;
    fg_load load;
    memset(&load, 0, sizeof load);
    fg_status st = fg_slots_init(&s, 1, FILE_BYTES, "slots", NULL, err);
    if (st == FG_OK) st = fg_fetch_start(r, &load, s.p, 0, FILE_BYTES, true, err);
    if (st == FG_OK && !fg_fetch_wait(r, &load, FILE_BYTES)) {
        st = fg_fetch_take_error(r, err);
        CHECK(st != FG_OK);
    } else if (st == FG_OK) {
        CHECK(is_right(s.p, 0, FILE_BYTES));
    }
    fg_fetch_drain(r, &load);
    fg_load_fini(&load);
    fg_slots_fini(&s);
    return st;
}

FG_TEST(read_errors)
{
    const char *path = make_file("eio.bin");
    const fg_io_ops *base[] = {&fg_io_pread, &fg_io_uring};
    for (int i = 0; i < 2; i++) {
        fg_err err = {0};
        plan = (fault_plan){
            .base = base[i], .fail_times = 2, .fail_from = 1000000, .fail_to = 1000001};
        fg_fetch *r = open_reader(path, &faulty_ops, 4); /* passes: tried again */
        if (r == NULL) return;
        CHECK_OK(read_all(r, &err), &err);
        fg_fetch_destroy(&r);
        plan.fail_times = 1000;
        r = open_reader(path, &faulty_ops, 4);
        REQUIRE(r != NULL);
        CHECK(read_all(r, &err) == FG_EIO);
        CHECK(strstr(err.msg, "Input/output error at offset 999424") != NULL);
        CHECK(read_all(r, &err) == FG_EIO); /* and the reader is usable */
        fg_fetch_destroy(&r);
    }
}

/* Interruptions and errors have a limit each. */
FG_TEST(interruptions_are_no_errors)
{
    const char *path = make_file("eintr.bin");
    static const struct {
        uint32_t interrupts, errors;
        fg_status want;
    } cases[] = {{100, 2, FG_OK}, {100, 1000, FG_EIO}, {100000000, 0, FG_EIO}};
    for (int i = 0; i < 3; i++) {
        fg_err err = {0};
        plan = (fault_plan){.base = &fg_io_pread,
                            .interrupt_times = cases[i].interrupts,
                            .fail_times = cases[i].errors,
                            .fail_from = 1000000,
                            .fail_to = 1000001};
        fg_fetch *r = open_reader(path, &faulty_ops, 4);
        REQUIRE(r != NULL);
        CHECK(read_all(r, &err) == cases[i].want);
        CHECK(i != 2 || strstr(err.msg, "Interrupted system call") != NULL);
        fg_fetch_destroy(&r);
    }
}

FG_TEST(file_that_changes)
{
    static const struct {
        const char *name, *want;
        int what;
    } cases[] = {{"shrink.bin", "changed while in use", 0},
                 {"touch.bin", "changed while in use", 1},
                 {"back.bin", "changed while in use", 2}}; /* its old time put back */
    for (int i = 0; i < 3; i++) {
        const char *path = make_file(cases[i].name);
        fg_err err = {0};
        fg_fetch *r = open_reader(path, NULL, 4);
        REQUIRE(r != NULL);
        CHECK_OK(read_all(r, &err), &err);
        (void)usleep(20000); /* the clock of file times is a coarse one */
        if (cases[i].what == 0) {
            CHECK(truncate(path, FILE_BYTES / 2) == 0);
        } else {
            struct stat was;
            const int fd = open(path, O_WRONLY);
            CHECK(fd >= 0 && fstat(fd, &was) == 0 && pwrite(fd, "x", 1, FILE_BYTES / 2) == 1);
            const struct timespec times[2] = {was.st_atim, was.st_mtim};
            CHECK(cases[i].what == 1 || futimens(fd, times) == 0);
            CHECK(close(fd) == 0);
        }
        CHECK(read_all(r, &err) == FG_EIO);
        CHECK(strstr(err.msg, cases[i].want) != NULL && strchr(err.msg, '\n') == NULL);
        fg_fetch_destroy(&r);
    }
}

/* Loads are started over while pieces of theirs are in flight, and given up. */
FG_TEST(loads_that_are_replaced)
{
    enum { N = 4, BYTES = 20 * FG_IO_ALIGN };
    const char *path = make_file("replace.bin");
    plan = (fault_plan){.base = &fg_io_pread, .shuffle = true, .short_one_in = 4, .sleep_us = 50};
    fg_fetch *r = open_reader(path, &faulty_ops, 5);
    REQUIRE(r != NULL);
    fg_slots s;
    fg_load load[N];
    fg_err err = {0};
    fg_rng rng;
    memset(load, 0, sizeof load);
    fg_rng_init(&rng, 2);
    REQUIRE_OK(fg_slots_init(&s, N, BYTES, "slots", NULL, &err), &err);
    for (int t = 0; t < 200; t++) {
        const uint64_t i = fg_rng_u64(&rng) % N,
                       offset =
                           fg_rng_u64(&rng) % ((FILE_BYTES - BYTES) / FG_IO_ALIGN) * FG_IO_ALIGN;
        uint8_t *dst = fg_slots_at(&s, i);
        CHECK_OK(fg_fetch_start(r, &load[i], dst, offset, BYTES, t % 3 != 0, &err), &err);
        if (t % 5 == 0) fg_fetch_hurry(r, &load[i]);
        if (t % 4 != 0) continue;
        const uint64_t n = 1 + fg_rng_u64(&rng) % BYTES;
        CHECK(fg_fetch_wait(r, &load[i], n) && is_right(dst, offset, n));
        if (t % 8 != 0) continue;
        fg_fetch_drain(r, &load[i]);
        memset(dst, 0x55, BYTES);
        (void)usleep(1000);
        for (uint64_t k = 0; k < BYTES; k += 512)
            CHECK(dst[k] == 0x55); /* nothing writes any more */
    }
    fg_fetch_destroy(&r); /* with reads in flight */
    for (int i = 0; i < N; i++) fg_load_fini(&load[i]);
    fg_slots_fini(&s);
}

/* ---- the store ---- */

static fg_model_file *open_nano(const char *name)
{
    static char copy[256];
    fg_model_file *f = NULL;
    fg_err err = {0};
    const char *path = model_file(NANO_DIR, "q4");
    if (path == NULL) return NULL;
    if (name != NULL) {
        char cmd[600];
        (void)snprintf(copy, sizeof copy, "%s", fg_test_tmp(name));
        (void)snprintf(cmd, sizeof cmd, "cp %s %s", path, copy);
        CHECK(system(cmd) == 0);
        path = copy;
    }
    if (fg_model_file_open(&f, path, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    return f;
}

static bool expert_is_right(fg_store *s, const fg_model_file *f, uint32_t l, uint32_t e)
{
    const fg_extent x = fg_model_file_expert_extent(f, l, e);
    return fg_store_wait(s, e, 0, (fg_reach){0, x.bytes}) &&
           memcmp(fg_store_data(s, e, 0), fg_model_file_data(f, x.offset), x.bytes) == 0;
}

/* Experts that the last wave of a layer hints about the next one. */
static fg_status use_and_hint(fg_store *s, const fg_model_file *f, uint32_t l, uint32_t *ids,
                              uint32_t n, const fg_guess *guess, fg_err *err)
{
    const uint32_t sel[] = {ids[0], ids[n - 1]};
    uint32_t m, done = 0;
    bool ok = true;
    fg_store_begin_layer(s, l, ids, n);
    while ((m = fg_store_next_wave(s)) > 0) {
        for (uint32_t i = 0; i < m; i++) ok = expert_is_right(s, f, l, ids[done + i]) && ok;
        done += m;
        if (done == n) fg_store_hint(s, sel, 1, guess);
    }
    const fg_status st = fg_store_end_layer(s, err);
    CHECK(st != FG_OK || (ok && done == n));
    CHECK(st == FG_OK || !ok);
    return st;
}

static fg_status use_layer(fg_store *s, const fg_model_file *f, uint32_t l, uint32_t *ids,
                           uint32_t n, fg_err *err)
{
    return use_and_hint(s, f, l, ids, n, NULL, err);
}

static void check_store(const fg_io_ops *ops, uint32_t n_slot)
{
    fg_model_file *f = open_nano(NULL);
    fg_store *s = NULL;
    fg_err err = {0};
    REQUIRE(f != NULL);
    const fg_shape *shape = fg_model_file_shape(f);
    const fg_store_opts o = {
        .bytes = fg_store_dense_bytes(f) + n_slot * fg_store_slot_bytes(f),
        .io = {.ops = ops, .depth = 5, .piece = 8192},
        .predict = FG_PREDICT_ROUTER,
    };
    if (fg_store_create(&s, f, &o, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        fg_model_file_close(&f);
        return;
    }
    fg_store_set_clock(s, NULL);
    const uint32_t none = FG_NO_LAYER;
    const fg_tensor *dense[] = {fg_model_file_find(f, FG_ROLE_EMBED, none, none),
                                fg_model_file_find(f, FG_ROLE_LM_HEAD, none, none),
                                fg_model_file_find(f, FG_ROLE_FINAL_NORM, none, none),
                                fg_model_file_find(f, FG_ROLE_ROUTER, 0, none),
                                fg_model_file_find(f, FG_ROLE_ROUTER, shape->n_layer - 1, none)};
    for (size_t i = 0; i < sizeof dense / sizeof dense[0]; i++) {
        const uint64_t n = fg_tensor_bytes(dense[i]), at = dense[i]->offset;
        const uint64_t bytes =
            dense[i]->scale_offset == 0 ? n : n - 64 * fg_n_panel(dense[i]->n_row);
        const uint64_t idx = (uint64_t)(dense[i] - fg_model_file_tensor(f, 0));
        CHECK(memcmp(fg_store_dense(s, 0) + fg_slices_panels(fg_store_slices(s), idx, 0),
                     fg_model_file_data(f, at), bytes) == 0);
    }
    fg_rng r;
    fg_rng_init(&r, 9);
    uint32_t ids[32];
    uint64_t n_asked = 0;
    for (uint32_t t = 0; t < 60; t++) {
        const uint32_t l = t % shape->n_layer, n = t % 9 == 8 ? 32 : 1 + t % 4;
        const uint32_t first = (uint32_t)(fg_rng_u64(&r) % 32);
        for (uint32_t i = 0; i < n; i++) ids[i] = (first + 5 * i) % 32;
        fg_guess guess = {.n_ahead = l + 2 < shape->n_layer ? 2 : 0};
        for (uint32_t i = 0; i < 4; i++) guess.id[i / 2][i % 2] = (uint32_t)(fg_rng_u64(&r) % 32);
        CHECK_OK(use_and_hint(s, f, l, ids, n, t % 3 == 2 ? NULL : &guess, &err), &err);
        n_asked += n;
        if (t == 30) CHECK_OK(fg_store_set_bytes(s, fg_store_min_bytes(f), &err), &err);
        if (t == 45) CHECK_OK(fg_store_set_bytes(s, o.bytes, &err), &err);
    }
    const fg_store_stats st = fg_store_get_stats(s);
    CHECK_U64(st.cache.n_hit + st.cache.n_miss + st.cache.n_prefetch_hit, n_asked);
    CHECK_U64(st.n_slot, n_slot);
    CHECK(st.cache.n_prefetch > 0);
    const fg_guess last = {.n_ahead = 2, .id = {{1, 2}, {3, 4}}};
    CHECK_OK(use_and_hint(s, f, 0, ids, 2, &last, &err), &err); /* in flight at the end */
    fg_store_destroy(&s);
    fg_model_file_close(&f);
}

FG_TEST(store_gives_the_files_bytes)
{
    static const uint32_t sizes[] = {3, 4, 7, 20, 100, 256};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_store(&fg_io_pread, sizes[i]);
        check_store(NULL, sizes[i]);
        plan = (fault_plan){
            .base = &fg_io_pread, .shuffle = true, .short_one_in = 3, .interrupt_one_in = 5};
        check_store(&faulty_ops, sizes[i]);
    }
}

FG_TEST(store_says_what_it_needs)
{
    fg_model_file *f = open_nano(NULL);
    fg_store *s = NULL;
    fg_err err = {0};
    REQUIRE(f != NULL);
    const fg_store_opts o = {.bytes = fg_store_min_bytes(f) - 1};
    CHECK(fg_store_create(&s, f, &o, &err) == FG_ELIMIT && s == NULL);
    char want[40];
    (void)snprintf(want, sizeof want, "expected at least %llu",
                   (unsigned long long)fg_store_min_bytes(f));
    CHECK(strstr(err.msg, want) != NULL);
    fg_model_file_close(&f);
}

FG_TEST(store_survives_a_failed_expert)
{
    fg_model_file *f = open_nano(NULL);
    fg_store *s = NULL;
    fg_err err = {0};
    REQUIRE(f != NULL);
    const fg_extent x = fg_model_file_expert_extent(f, 2, 5);
    plan = (fault_plan){.base = &fg_io_pread,
                        .fail_times = 4,
                        .fail_from = x.offset + 9000,
                        .fail_to = x.offset + 9001};
    const fg_store_opts o = {.bytes = fg_store_min_bytes(f) + 8 * fg_store_slot_bytes(f),
                             .io = {.ops = &faulty_ops, .piece = 4096},
                             .predict = FG_PREDICT_ROUTER};
    REQUIRE_OK(fg_store_create(&s, f, &o, &err), &err);
    uint32_t ids[] = {4, 5};
    const fg_guess same = {.n_ahead = 1, .id = {{4, 5}}};
    CHECK(use_layer(s, f, 2, ids, 2, &err) == FG_EIO);
    CHECK(strstr(err.msg, "Input/output error") != NULL);
    CHECK_OK(use_layer(s, f, 3, ids, 2, &err), &err);
    CHECK_OK(use_layer(s, f, 2, ids, 2, &err), &err); /* asked again */
    fg_store_destroy(&s);

    plan.fail_times = 4; /* a hint that fails is no error */
    REQUIRE_OK(fg_store_create(&s, f, &o, &err), &err);
    fg_store_set_clock(s, NULL);
    CHECK_OK(use_and_hint(s, f, 1, ids, 2, &same, &err), &err);
    (void)usleep(50000);
    CHECK_U64(fg_store_get_stats(s).cache.n_prefetch, 2);
    CHECK_OK(use_layer(s, f, 2, ids, 2, &err), &err);
    fg_store_destroy(&s);
    fg_model_file_close(&f);
}

static uint64_t made_up_ns;

static uint64_t made_up(void)
{
    return made_up_ns;
}

/* Passes of one token over a store of 17 slots, whose hints are wrong; on a made-up clock a pass
 * with hints takes 1 - gain of one without. */
static fg_store_stats judged(double gain, uint32_t n_pass)
{
    fg_store_stats st = {.n_slot = 0};
    fg_model_file *f = open_nano(NULL);
    fg_store *s = NULL;
    fg_err err = {0};
    plan = (fault_plan){.base = &fg_io_pread};
    if (f == NULL) return st;
    const uint32_t n_layer = fg_model_file_shape(f)->n_layer;
    const fg_store_opts o = {.bytes = fg_store_dense_bytes(f) + 17 * fg_store_slot_bytes(f),
                             .io = {.ops = &faulty_ops, .piece = 4096},
                             .predict = FG_PREDICT_ROUTER};
    CHECK_OK(fg_store_create(&s, f, &o, &err), &err);
    if (s != NULL) fg_store_set_clock(s, made_up);
    made_up_ns = 1;
    for (uint32_t t = 0; s != NULL && t < n_pass; t++) {
        st = fg_store_get_stats(s);
        made_up_ns += (uint64_t)(1e6 * (st.predict_on ? 1.0 - gain : 1.0));
        for (uint32_t l = 0; l < n_layer; l++) {
            uint32_t ids[2] = {1, 2};
            const fg_guess g = {.n_ahead = l + 1 < n_layer,
                                .id = {{3 + (t + l) % 29, 3 + (t + l + 1) % 29}}};
            CHECK_OK(use_and_hint(s, f, l, ids, 2, &g, &err), &err);
        }
    }
    if (s != NULL) st = fg_store_get_stats(s);
    fg_store_destroy(&s);
    fg_model_file_close(&f);
    return st;
}

FG_TEST(a_predictor_has_to_pay)
{
    enum { FIRST = FG_JUDGE_SETTLE + FG_JUDGE_BLOCK, CYCLE = 2 * FG_JUDGE_BLOCK };
    fg_store_stats st = judged(.3, FIRST); /* nothing is given before the trial */
    CHECK(st.cache.n_prefetch == 0 && st.n_hinted == 0 && st.predict_on && st.n_single == FIRST);
    CHECK(st.predict_trial && !judged(.3, FIRST - FG_JUDGE_BLOCK - 1).predict_trial);
    st = judged(.3, FG_JUDGE_SETTLE + 3 * CYCLE + 50);
    CHECK(st.predict_on && st.n_switch == 0 && st.gain > .2 && st.cache.n_prefetch > 0);
    CHECK(!st.predict_trial);
    CHECK_U64(st.n_hinted, 3 * FG_JUDGE_BLOCK + 50);
    st = judged(-.1, FG_JUDGE_SETTLE + 3 * CYCLE); /* off, and off is off */
    const uint64_t n_hint = st.cache.n_prefetch;
    CHECK(!st.predict_on && st.n_switch == 1 && st.gain < -.05 && n_hint > 0);
    st = judged(-.1, FG_JUDGE_SETTLE + 3 * CYCLE + FG_JUDGE_PAUSE - 1);
    CHECK(!st.predict_on && st.cache.n_prefetch == n_hint);
    st = judged(-.1, FG_JUDGE_SETTLE + 3 * CYCLE + FG_JUDGE_PAUSE + CYCLE); /* another trial */
    CHECK(st.cache.n_prefetch > n_hint);
    st = judged(0.0, FG_JUDGE_SETTLE + FG_JUDGE_CYCLES * CYCLE); /* on needs evidence */
    CHECK(!st.predict_on && st.n_switch == 1);
}

/* Waits until `bytes` of the load are there, without asking for them. */
static void await(const fg_load *l, uint64_t bytes)
{
    for (int i = 0; i < 2000 && atomic_load(&l->ready) < bytes; i++) (void)usleep(500);
}

/* A piece at a time, 50 ms each: what nobody waits for comes after all that somebody waits for, to
 * its last byte. */
FG_TEST(urgent_reads_have_the_drive)
{
    fg_model_file *f = open_nano(NULL);
    fg_err err = {0};
    fg_fetch *r = NULL;
    REQUIRE(f != NULL);
    uint8_t *dst = aligned_alloc(4096, 4 * 16384);
    const uint64_t at = fg_model_file_expert_extent(f, 0, 0).offset;
    plan = (fault_plan){.base = &fg_io_pread, .sleep_us = 50000};
    const fg_fetch_opts o = {.ops = &faulty_ops, .depth = 2, .piece = 4096};
    REQUIRE(dst != NULL && fg_fetch_create(&r, fg_model_file_path(f), &o, &err) == FG_OK);
    fg_load l[4] = {0};
    for (int i = 0; i < 4; i++) { /* 0: wrong; 1: hurried; 2: cancelled early; 3: urgent */
        const bool urgent = i == 3;
        if (i == 3) {
            CHECK(fg_fetch_hurry(r, &l[1]));
            fg_fetch_cancel(r, &l[2]);
            CHECK(atomic_load(&l[2].ready) == FG_LOAD_FAILED && !fg_fetch_hurry(r, &l[2]));
        }
        CHECK_OK(fg_fetch_start(r, &l[i], dst + i * 16384, at + (uint64_t)i * 16384, 16384, urgent,
                                &err),
                 &err);
        if (i == 0) await(&l[0], 4096); /* its second piece is on its way, alone */
    }
    CHECK(fg_fetch_wait(r, &l[3], 16384) && fg_fetch_wait(r, &l[1], 16384));
    CHECK_U64(atomic_load(&l[0].ready), 2 * 4096); /* it had what was on its way, and waited */
    CHECK(fg_fetch_wait(r, &l[0], 16384));         /* and goes on */
    /* cancelled, then wanted after all: read whole */
    CHECK_OK(fg_fetch_start(r, &l[2], dst + 2 * 16384, at + 2 * 16384, 16384, true, &err), &err);
    CHECK(fg_fetch_wait(r, &l[2], 16384));
    CHECK(memcmp(dst + 2 * 16384, fg_model_file_data(f, at + 2 * 16384), 16384) == 0);
    fg_fetch_destroy(&r);
    for (int i = 0; i < 4; i++) fg_load_fini(&l[i]);
    free(dst);
    fg_model_file_close(&f);
}

FG_TEST(store_refuses_another_file)
{
    fg_model_file *f = open_nano("swapped.fulgur");
    fg_store *s = NULL;
    fg_err err = {0};
    REQUIRE(f != NULL);
    char cmd[600];
    const char *other = model_file(NANO_DIR, "q6");
    (void)snprintf(cmd, sizeof cmd, "cp %s %s.new && mv %s.new %s", other, fg_model_file_path(f),
                   fg_model_file_path(f), fg_model_file_path(f));
    CHECK(system(cmd) == 0);
    const fg_store_opts o = {.bytes = (uint64_t)1 << 30};
    CHECK(fg_store_create(&s, f, &o, &err) != FG_OK && s == NULL);
    fg_model_file_close(&f);
}

FG_TEST(every_allocation_may_fail)
{
    fg_model_file *f = open_nano(NULL);
    REQUIRE(f != NULL);
    const fg_store_opts o = {.bytes = (uint64_t)1 << 30, .io = {.ops = &fg_io_pread}};
    bool whole = false;
    for (uint64_t k = 1; k < 100 && !whole; k++) {
        fg_store *s = NULL;
        fg_err err = {0};
        fg_mem_fail_after(k);
        const fg_status st = fg_store_create(&s, f, &o, &err);
        fg_mem_fail_after(0);
        CHECK(st == FG_OK || (s == NULL && err.msg[0] != '\0'));
        whole = st == FG_OK;
        fg_store_destroy(&s);
    }
    CHECK(whole);
    fg_model_file_close(&f);
}
