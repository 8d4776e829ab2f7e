/* SPDX-License-Identifier: MIT
 *
 * One life of a writer on the disk of disk.h, which it may not survive: for test_journal and
 * test_split.
 */
#ifndef FG_TESTS_FORMAT_LIFE_H
#define FG_TESTS_FORMAT_LIFE_H

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/format/layout.h"
#include "src/format/write/writer_impl.h"
#include "src/format/reader.h"
#include "tests/fg_test.h"
#include "tests/format/crash_disk.h"
#include "tests/format/sample.h"

enum { GROUP = 3 };

static const char *split_dir[2];

typedef struct life {
    const char *path;
    uint64_t data_seed, identity;
    uint64_t every;     /* groups between checkpoints; 0: none */
    uint64_t stop_at;   /* ends (as by an error) before this tensor; 0: runs to the end */
    bool view;          /* looks at the file while it is written */
    bool other_plan;    /* another type for a tensor */
    bool shuffled;      /* groups in random order */
    bool in_order;      /* what is behind a damaged place is made again too */
    bool drops;         /* stops inside a group, drops it, and makes a checkpoint of the rest */
    bool again;         /* behind each checkpoint another one, of nothing */
    uint32_t n_split;   /* parts besides the main file */
    uint64_t next;      /* out: where it went on */
    uint64_t sum;       /* out: of all groups, as the caller of a real writer keeps state */
    uint64_t n_payload; /* out: payloads handed back */
    bool kept;          /* out */
    uint64_t n_damaged; /* out: bytes that were found to be others */
    bool is_written[256];
    bool is_claimed[256]; /* groups of which a payload spoke */
} life;

static fg_tensor_choice choose(void *ctx, fg_role role, uint32_t layer, uint32_t expert)
{
    const life *l = ctx;
    fg_tensor_choice c = sample_choose(NULL, role, layer, expert);
    if (l->other_plan && role == FG_ROLE_LM_HEAD) c.type = FG_TYPE_Q8;
    return c;
}

/* The groups that were written since the payload before. */
static fg_status take_payload(void *ctx, const void *bytes, uint64_t n, fg_err *err)
{
    life *l = ctx;
    fg_cursor c = fg_cursor_make(bytes, (size_t)n);
    l->n_payload++;
    while (c.left > 0) {
        const uint64_t idx = fg_cursor_u64(&c);
        if (c.bad || idx >= 256) return fg_fail(err, FG_EFORMAT, "payload of %d bytes", (int)n);
        l->is_claimed[idx] = true;
    }
    return FG_OK;
}

static void note_damage(void *ctx, uint64_t bytes, uint64_t offset)
{
    life *l = ctx;
    CHECK(bytes > 0 && offset > 0);
    l->n_damaged = bytes;
}

/* What earlier lives have done, by payloads and writer: they must agree. */
static void recall(life *l, const fg_writer *w)
{
    for (uint64_t i = 0; i < fg_file_plan_n_tensor(fg_writer_plan(w)); i++) {
        const uint32_t role = fg_file_plan_tensor(fg_writer_plan(w), i)->role;
        if (role == FG_ROLE_EXPERT_UP || role == FG_ROLE_EXPERT_DOWN) continue;
        if (!fg_writer_is_done(w, i)) continue;
        CHECK(l->is_claimed[i]);
        l->sum += fg_hash64(&i, sizeof i);
    }
}

static fg_status look(const life *l, fg_writer *w, const uint8_t *data, uint64_t idx, fg_err *err)
{
    const fg_model_file *view;
    FG_TRY(fg_writer_view(w, &view, err));
    const fg_tensor *t = fg_model_file_tensor(view, idx);
    const uint8_t *got = fg_model_file_data(view, t->offset);
    const uint64_t n = fg_writer_pos(w) - t->offset;
    CHECK(memcmp(got, data + (t->offset - fg_file_plan_data_offset(fg_writer_plan(w))),
                 (size_t)n) == 0);
    CHECK(t == fg_model_file_find(view, (fg_role)t->role, t->layer, t->expert));
    CHECK(memcmp(t, fg_file_plan_tensor(fg_writer_plan(w), idx), sizeof *t) == 0);
    const uint64_t end =
        fg_file_plan_data_offset(fg_writer_plan(w)) + fg_file_plan_data_bytes(fg_writer_plan(w));
    const volatile uint8_t *last = fg_model_file_data(view, end - 1);
    /* there to be read, written or not */
    CHECK(*last == 0 || fg_writer_pos(w) == end || l->shuffled);
    CHECK_U64(fg_model_file_size(view), fg_file_plan_file_bytes(fg_writer_plan(w)));
    return FG_OK;
}

/* Tensors idx .. idx + n - 1: their bytes, and what is measured of them. */
static fg_status write_group(life *l, fg_writer *w, const uint8_t *data, uint64_t idx, uint64_t n,
                             fg_err *err)
{
    const uint64_t from = fg_file_plan_data_offset(fg_writer_plan(w));
    uint64_t end = 0;
    for (uint64_t i = idx; i < idx + n; i++) {
        const fg_tensor *t = fg_file_plan_tensor(fg_writer_plan(w), i);
        if (fg_tensor_end(t) > end) end = fg_tensor_end(t);
        if (t->type == FG_TYPE_Q4 && i % 2 == 0) {
            fg_lut lut = fg_lut_linear;
            lut.v[15] = (int8_t)(20 + i % 10);
            FG_TRY(fg_writer_set_lut(w, i, &lut, err));
        }
        if (i % 4 == 0) continue; /* a table, no errors */
        const fg_tensor_error e = {(float)i / 64, (float)i / 32, (float)i / 128, (float)i};
        fg_writer_set_error(w, i, &e);
    }
    FG_TRY(fg_writer_pad(w, fg_tensor_begin(fg_file_plan_tensor(fg_writer_plan(w), idx)), err));
    FG_TRY(fg_writer_write(w, data + (fg_writer_pos(w) - from), end - fg_writer_pos(w), err));
    if (l->view) FG_TRY(look(l, w, data, idx, err));
    l->sum += fg_hash64(&idx, sizeof idx);
    return FG_OK;
}

/* A tensor that begins a group still to be written; n_tensor when none is. */
static uint64_t random_group(const life *l, const fg_writer *w, fg_rng *r)
{
    const uint64_t n = fg_file_plan_n_tensor(fg_writer_plan(w));
    uint64_t at = fg_rng_u64(r) % n, left = n;
    while (left > 0 && (l->is_written[at] || fg_writer_is_done(w, at))) {
        at = (at + 1) % n;
        left--;
    }
    if (left == 0) return n;
    const uint32_t role = fg_file_plan_tensor(fg_writer_plan(w), at)->role;
    return at - (role == FG_ROLE_EXPERT_UP ? 1 : role == FG_ROLE_EXPERT_DOWN ? 2 : 0);
}

/* Half of group i, which is then dropped, and a checkpoint of what is before it. */
static fg_status drop_one(fg_writer *w, const uint8_t *data, uint64_t i, const fg_buf *payload,
                          fg_err *err)
{
    FG_TRY(fg_writer_seek(w, i, err));
    const uint64_t pos = fg_writer_pos(w);
    FG_TRY(fg_writer_write(w, data, 77, err)); /* wrong ones */
    FG_TRY(fg_writer_flush(w, err));
    fg_writer_drop(w);
    CHECK_U64(fg_writer_pos(w), pos);
    return fg_writer_checkpoint(w, payload->data, payload->len, err);
}

static fg_status write_rest(life *l, fg_writer *w, const uint8_t *data, fg_err *err)
{
    uint64_t n_group = 0, i = l->next;
    fg_buf payload = {0};
    fg_rng r;
    fg_rng_init(&r, l->sum);
    memset(l->is_written, 0, sizeof l->is_written);
    fg_status st = FG_OK;
    while (st == FG_OK) {
        if (l->shuffled) i = random_group(l, w, &r);
        if (i == fg_file_plan_n_tensor(fg_writer_plan(w))) break;
        const uint64_t n =
            fg_file_plan_tensor(fg_writer_plan(w), i)->role == FG_ROLE_EXPERT_GATE ? GROUP : 1;
        if (l->stop_at != 0 && (l->shuffled ? n_group : i) >= l->stop_at) {
            st = l->drops ? drop_one(w, data, i, &payload, err) : FG_OK;
            if (st == FG_OK) st = fg_fail(err, FG_ECANCEL, "stopped");
            break;
        }
        /* what is written already, behind a damaged place, is passed over */
        if (fg_writer_is_done(w, i)) {
            i += n;
            continue;
        }
        st = fg_writer_seek(w, i, err);
        memset(l->is_written + i, 1, (size_t)n);
        if (st == FG_OK) st = write_group(l, w, data, i, n, err);
        fg_buf_u64(&payload, i);
        i += n;
        if (st != FG_OK || l->every == 0 || ++n_group % l->every != 0) continue;
        st = fg_writer_checkpoint(w, payload.data, payload.len, err);
        if (st == FG_OK && l->again) st = fg_writer_checkpoint(w, NULL, 0, err);
        payload.len = 0;
    }
    fg_buf_fini(&payload);
    return st == FG_OK ? fg_writer_set_meta(w, "sum", &l->sum, sizeof l->sum, err) : st;
}

static fg_status live(life *l, fg_err *err)
{
    fg_writer *w = NULL;
    uint8_t *data = NULL;
    const uint64_t zero = 0;
    const fg_meta meta[] = {{"sum", &zero, sizeof zero},
                            {"config.json", sample_config, sizeof sample_config - 1}};
    l->next = l->sum = l->n_payload = l->n_damaged = 0;
    memset(l->is_claimed, 0, sizeof l->is_claimed);
    const fg_resume_calls calls = {
        .damaged = note_damage, .payload = take_payload, .ctx = l, .in_order = l->in_order};
    *err = (fg_err){0};
    const fg_file_spec spec = {
        .choose = choose, .ctx = l, .meta = meta, .n_meta = 2, .n_part = l->n_split + 1};
    fg_status st = sample_writer(&w, l->path, spec, split_dir, err);
    if (st == FG_OK) {
        data = sample_data(w, l->data_seed);
        if (data == NULL) st = fg_fail_nomem(err, l->path);
    }
    if (st == FG_OK) st = fg_writer_resume(w, l->identity, &calls, &l->next, err);
    if (st == FG_OK) recall(l, w);
    if (st == FG_OK) st = write_rest(l, w, data, err);
    if (st == FG_OK) st = fg_writer_finish(w, err);
    l->kept = w != NULL && fg_writer_is_kept(w);
    fg_writer_destroy(&w);
    fg_mem_free(data);
    return st;
}

/* Files of a test, none of them there: PATH, its part and its journal; split, two more parts, and a
 * link to the one that is in another folder. */
static void use(const char *name)
{
    static char path[N_FILE][4096], dir[2][4096];
    static const char *const suffix[N_FILE] = {
        [PART] = ".part", [LOG] = ".part.journal", [OUT] = "",    [PART1] = ".1.part",
        [OUT1] = ".1",    [LINK1] = ".1",          [OUT2] = ".2", [PART2] = ".2.part"};
    const char *tmp = fg_test_tmpdir();
    (void)mallopt(M_MMAP_THRESHOLD,
                  1 << 30); /* whole files come and go: half of the time of a test */
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
    (void)snprintf(dir[0], sizeof dir[0], "%s/d", tmp);
    (void)snprintf(dir[1], sizeof dir[1], "%s", tmp);
    (void)mkdir(dir[0], 0700);
    split_dir[0] = dir[0];
    split_dir[1] = dir[1];
    for (int i = 0; i < N_FILE; i++) {
        const char *folder = i == PART1 || i == OUT1 ? "/d" : "";
        (void)snprintf(path[i], sizeof path[0], "%s%s/%s%s", tmp, folder, name, suffix[i]);
        (void)unlink(path[i]);
        free(files[i].removed);
        files[i] = (tracked){.path = path[i]};
    }
    n_op = fail_at = die_at = 0;
    liar = -1;
    free_bytes = UINT64_MAX;
}

static life plain(void)
{
    return (life){.path = files[OUT].path, .data_seed = 7, .identity = 42, .every = 4};
}

/* The bytes that every life must end with; malloc. */
static inline uint64_t reference(uint8_t **bytes)
{
    fg_err err;
    life l = plain();
    l.every = 0;
    CHECK_OK(live(&l, &err), &err);
    const uint64_t n = slurp(files[OUT].path, bytes);
    (void)unlink(files[OUT].path);
    CHECK(n > 3 << 20 && !exists(files[LOG].path) && !exists(files[PART].path));
    return n;
}

static inline bool is_complete(const uint8_t *want, uint64_t n)
{
    uint8_t *got;
    const uint64_t m = slurp(files[OUT].path, &got);
    const bool same = m == n && memcmp(got, want, (size_t)n) == 0;
    free(got);
    return same && !exists(files[PART].path) && !exists(files[LOG].path);
}

/* A life in a process of its own that dies at operation `op`; true when it died before the end. */
static bool die(life *l, int op, uint64_t seed)
{
    int status = 0;
    (void)fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0) {
        fg_err err;
        note_all();
        n_op = 0;
        die_at = op;
        die_seed = seed;
        const fg_status st = live(l, &err);
        if (st != FG_OK && st != FG_ECANCEL) fprintf(stderr, "%s\n", err.msg);
        _exit(st == FG_OK && !fg_test_failed() ? 0 : 1);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == DIED || WEXITSTATUS(status) == 0);
    return WEXITSTATUS(status) == DIED;
}

static bool verifies(const char *path)
{
    fg_err err;
    fg_model_file *f;
    fg_status st = fg_model_file_open(&f, path, &err);
    if (st == FG_OK) st = fg_model_file_verify(f, NULL, NULL, &err);
    fg_model_file_close(&f);
    CHECK(st == FG_OK || st == FG_ECHECKSUM);
    return st == FG_OK;
}

#endif
