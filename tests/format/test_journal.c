/* SPDX-License-Identifier: MIT
 *
 * A writer that dies and goes on: the finished file has the bytes of one uninterrupted life, wherever
 * the power went or the system refused.
 *
 * The disk that does this is in disk.h.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/format/journal.h"
#include "src/format/layout.h"
#include "src/format/reader.h"
#include "tests/fg_test.h"
#include "tests/format/disk.h"
#include "tests/format/sample.h"

enum { GROUP = 3 };

/* --- one life of a writer --- */

typedef struct life {
    const char *path;
    uint64_t data_seed, identity;
    uint64_t every;     /* groups between checkpoints; 0: none */
    uint64_t stop_at;   /* ends (as by an error) before this tensor; 0: runs to the end */
    bool view;          /* looks at the file while it is written */
    bool other_plan;    /* another type for a tensor */
    bool shuffled;      /* groups in random order */
    uint64_t next;      /* out: where it went on */
    uint64_t sum;       /* out: of the payloads, as the caller of a real writer keeps state */
    uint64_t n_payload; /* out: payloads handed back */
    bool kept;          /* out */
    bool is_written[256];
} life;

static fg_tensor_choice choose(void *ctx, fg_role role, uint32_t layer, uint32_t expert)
{
    const life *l = ctx;
    fg_tensor_choice c = sample_choose(NULL, role, layer, expert);
    if (l->other_plan && role == FG_ROLE_LM_HEAD) c.type = FG_TYPE_Q8;
    return c;
}

static fg_status take_payload(void *ctx, const void *bytes, uint64_t n, fg_err *err)
{
    life *l = ctx;
    fg_cursor c = fg_cursor_make(bytes, (size_t)n);
    l->n_payload++;
    if (n != 8) return fg_fail(err, FG_EFORMAT, "payload: %llu bytes", (unsigned long long)n);
    l->sum += fg_cursor_u64(&c);
    return FG_OK;
}

static fg_status look(const life *l, fg_writer *w, const uint8_t *data, uint64_t idx, fg_err *err)
{
    const fg_model_file *view;
    FG_TRY(fg_writer_view(w, &view, err));
    const fg_tensor *t = fg_model_file_tensor(view, idx);
    const uint8_t *got = fg_model_file_data(view, t->offset);
    const uint64_t n = fg_writer_pos(w) - t->offset;
    CHECK(memcmp(got, data + (t->offset - fg_writer_data_offset(w)), (size_t)n) == 0);
    CHECK(t == fg_model_file_find(view, (fg_role)t->role, t->layer, t->expert));
    CHECK(memcmp(t, fg_writer_tensor(w, idx), sizeof *t) == 0);
    const uint64_t end = fg_writer_data_offset(w) + fg_writer_data_bytes(w);
    const volatile uint8_t *last = fg_model_file_data(view, end - 1);
    /* there to be read, written or not */
    CHECK(*last == 0 || fg_writer_pos(w) == end || l->shuffled);
    CHECK_U64(fg_model_file_size(view), fg_writer_file_bytes(w));
    return FG_OK;
}

/* Tensors idx .. idx + n - 1: their bytes, and what is measured of them. */
static fg_status write_group(life *l, fg_writer *w, const uint8_t *data, uint64_t idx, uint64_t n,
                             fg_err *err)
{
    const uint64_t from = fg_writer_data_offset(w);
    uint64_t end = 0;
    for (uint64_t i = idx; i < idx + n; i++) {
        const fg_tensor *t = fg_writer_tensor(w, i);
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
    FG_TRY(fg_writer_pad(w, fg_tensor_begin(fg_writer_tensor(w, idx)), err));
    FG_TRY(fg_writer_write(w, data + (fg_writer_pos(w) - from), end - fg_writer_pos(w), err));
    if (l->view) FG_TRY(look(l, w, data, idx, err));
    l->sum += fg_hash64(&idx, sizeof idx);
    return FG_OK;
}

/* A tensor that begins a group still to be written; n_tensor when none is. */
static uint64_t random_group(const life *l, const fg_writer *w, fg_rng *r)
{
    const uint64_t n = fg_writer_n_tensor(w);
    uint64_t at = fg_rng_u64(r) % n, left = n;
    while (left > 0 && (l->is_written[at] || fg_writer_is_done(w, at))) {
        at = (at + 1) % n;
        left--;
    }
    if (left == 0) return n;
    const uint32_t role = fg_writer_tensor(w, at)->role;
    return at - (role == FG_ROLE_EXPERT_UP ? 1 : role == FG_ROLE_EXPERT_DOWN ? 2 : 0);
}

static fg_status write_rest(life *l, fg_writer *w, const uint8_t *data, fg_err *err)
{
    uint64_t n_group = 0, saved = l->sum, i = l->next;
    fg_rng r;
    fg_rng_init(&r, l->sum);
    memset(l->is_written, 0, sizeof l->is_written);
    for (;;) {
        if (l->shuffled) i = random_group(l, w, &r);
        if (i == fg_writer_n_tensor(w)) break;
        const uint64_t n = fg_writer_tensor(w, i)->role == FG_ROLE_EXPERT_GATE ? GROUP : 1;
        if (l->stop_at != 0 && (l->shuffled ? n_group : i) >= l->stop_at)
            return fg_fail(err, FG_ECANCEL, "stopped");
        if (l->shuffled) FG_TRY(fg_writer_seek(w, i, err));
        memset(l->is_written + i, 1, (size_t)n);
        FG_TRY(write_group(l, w, data, i, n, err));
        i += n;
        if (l->every == 0 || ++n_group % l->every != 0) continue;
        uint8_t payload[8];
        const uint64_t v = l->sum - saved;
        for (int k = 0; k < 8; k++) payload[k] = (uint8_t)(v >> (8 * k));
        FG_TRY(fg_writer_checkpoint(w, payload, 8, err));
        saved = l->sum;
    }
    return fg_writer_set_meta(w, "sum", &l->sum, sizeof l->sum, err);
}

static fg_status live(life *l, fg_err *err)
{
    const fg_shape shape = sample_shape();
    fg_writer *w = NULL;
    uint8_t *data = NULL;
    const uint64_t zero = 0;
    l->next = l->sum = l->n_payload = 0;
    *err = (fg_err){0};
    fg_status st = fg_writer_create(&w, l->path, &shape, err);
    if (st == FG_OK) st = fg_writer_add_meta(w, "sum", &zero, sizeof zero, err);
    if (st == FG_OK) {
        st = fg_writer_add_meta(w, "config.json", sample_config, sizeof sample_config - 1, err);
    }
    if (st == FG_OK) st = fg_writer_plan(w, choose, l, err);
    if (st == FG_OK) {
        data = sample_data(w, l->data_seed);
        if (data == NULL) st = fg_fail_nomem(err, l->path);
    }
    if (st == FG_OK) st = fg_writer_resume(w, l->identity, take_payload, l, &l->next, err);
    if (st == FG_OK) st = write_rest(l, w, data, err);
    if (st == FG_OK) st = fg_writer_finish(w, err);
    l->kept = w != NULL && fg_writer_is_kept(w);
    fg_writer_destroy(&w);
    fg_mem_free(data);
    return st;
}

/* Files of a test: PATH, its part and its journal, none of them there. */
static void use(const char *name)
{
    static char path[3][4096];
    const char *dir = fg_test_tmpdir();
    (void)snprintf(path[OUT], sizeof path[0], "%s/%s", dir, name);
    (void)snprintf(path[PART], sizeof path[0], "%s/%s.part", dir, name);
    (void)snprintf(path[LOG], sizeof path[0], "%s/%s.part.journal", dir, name);
    for (int i = 0; i < N_FILE; i++) {
        free(files[i].durable);
        files[i] = (tracked){.path = path[i]};
        (void)unlink(path[i]);
    }
    n_op = fail_at = die_at = 0;
    sync_lies = false;
    free_bytes = UINT64_MAX;
}

static life plain(void)
{
    return (life){.path = files[OUT].path, .data_seed = 7, .identity = 42, .every = 4};
}

/* The bytes that every life must end with; malloc. */
static uint64_t reference(uint8_t **bytes)
{
    fg_err err;
    life l = plain();
    l.every = 0;
    CHECK(live(&l, &err) == FG_OK);
    const uint64_t n = slurp(files[OUT].path, bytes);
    (void)unlink(files[OUT].path);
    CHECK(n > 3 << 20 && !exists(files[LOG].path) && !exists(files[PART].path));
    return n;
}

static bool is_complete(const uint8_t *want, uint64_t n)
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
        for (int i = PART; i <= LOG; i++) {
            if (exists(files[i].path)) note_content(i);
        }
        note_names();
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

/* The tensor behind the last span of a record; written in file order, the next one to be written. */
static uint64_t end_of(const fg_checkpoint *c)
{
    return fg_checkpoint_span(c, c->n_span - 1).end;
}

/* --- power loss --- */

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

FG_TEST(power_loss_at_every_operation)
{
    uint8_t *want;
    fg_err err;
    use("p.fulgur");
    const uint64_t n = reference(&want);
    int op = 1, resumed = 0;
    for (;; op++) {
        use("p.fulgur");
        life l = plain();
        l.view = op % 2 == 0;
        if (!die(&l, op, (uint64_t)op)) break;
        if (exists(files[OUT].path)) CHECK(op > 20); /* never before the end */
        l = plain();
        const fg_status st = live(&l, &err);
        if (st != FG_OK) fg_test_fail(__FILE__, __LINE__, "op %d: %s", op, err.msg);
        if (!is_complete(want, n)) fg_test_fail(__FILE__, __LINE__, "op %d: another file", op);
        resumed += l.next > 0;
    }
    printf("  %d operations of a life, %d later lives went on from a checkpoint\n", op - 1,
           resumed);
    CHECK(op > 40 && resumed > op / 2);
    free(want);
}

/* Groups in any order: the same file, wherever the power goes. */
FG_TEST(power_loss_in_any_order)
{
    uint8_t *want;
    fg_err err;
    use("q.fulgur");
    const uint64_t n = reference(&want);
    int op = 1, refused = 0;
    for (;; op++) {
        use("q.fulgur");
        life l = plain();
        l.shuffled = true;
        l.view = op % 3 == 0;
        if (!die(&l, op, (uint64_t)op)) break;
        l = plain();
        l.shuffled = true;
        l.stop_at = 5; /* and once more */
        const fg_status half = live(&l, &err);
        refused += half == FG_ECANCEL;
        l.stop_at = 0;
        const fg_status st = half == FG_OK ? half : live(&l, &err);
        if (st != FG_OK) fg_test_fail(__FILE__, __LINE__, "op %d: %s", op, err.msg);
        if (!is_complete(want, n)) fg_test_fail(__FILE__, __LINE__, "op %d: another file", op);
    }
    printf("  %d operations of a life, %d stopped again\n", op - 1, refused);
    CHECK(op > 60 && refused > op / 2);
    CHECK(is_complete(want, n) && verifies(files[OUT].path));
    /* control: a written place is written once */
    use("q.fulgur");
    life l = plain();
    l.shuffled = true;
    l.stop_at = 1000;
    CHECK(live(&l, &err) == FG_OK && is_complete(want, n));
    free(want);
}

FG_TEST(many_deaths_of_one_file)
{
    uint8_t *want;
    fg_rng r;
    use("m.fulgur");
    const uint64_t n = reference(&want);
    fg_rng_init(&r, 3);
    int deaths = 0;
    for (int round = 0; round < 8; round++) {
        use("m.fulgur");
        life l = plain();
        do {
            l = plain();
            l.every = 1 + fg_rng_u64(&r) % 5;
            l.view = fg_rng_u64(&r) % 2 == 0;
            deaths++;
        } while (die(&l, 1 + (int)(fg_rng_u64(&r) % 40), fg_rng_u64(&r)));
        CHECK(is_complete(want, n));
    }
    printf("  %d deaths\n", deaths - 8);
    CHECK(deaths > 24);
    free(want);
}

/* The model of a disk has teeth: when fdatasync lies, work is lost.  The read-back sees it where it
 * looks, and chunk hashes, which are of what was written, where it does not. */
FG_TEST(control_a_lying_disk_is_found_out)
{
    uint8_t *want;
    fg_err err;
    use("y.fulgur");
    const uint64_t n = reference(&want);
    for (int lies = 0; lies < 2; lies++) {
        use("y.fulgur");
        sync_lies = lies == 1;
        life l = plain();
        CHECK(die(&l, 40, 5));
        fg_journal *j;
        REQUIRE(fg_journal_load(&j, files[LOG].path, &err) == FG_OK);
        REQUIRE(fg_journal_n_record(j) > 3);
        const uint64_t said = end_of(fg_journal_record(j, fg_journal_n_record(j) - 1));
        fg_journal_close(&j);
        sync_lies = false;
        l = plain();
        const fg_status st = live(&l, &err); /* refused when an end of a span is gone */
        CHECK(st == FG_OK ? is_complete(want, n) == verifies(files[OUT].path)
                          : lies == 1 && st == FG_EIO && strstr(err.msg, "other bytes") != NULL);
        CHECK(lies == 1 ? l.next < said : l.next == said);
        CHECK(lies == 1 || is_complete(want, n));
    }
    free(want);
}

/* --- refusals of the system --- */

FG_TEST(a_failure_of_every_operation)
{
    uint8_t *want;
    fg_err err;
    use("f.fulgur");
    const uint64_t n = reference(&want);
    int op = 1, kept = 0;
    for (;; op++) {
        use("f.fulgur");
        life l = plain();
        l.view = op % 2 == 0;
        fail_at = op;
        const fg_status st = live(&l, &err);
        if (st == FG_OK) break;
        CHECK(st == FG_EIO && strchr(err.msg, '\n') == NULL &&
              strstr(err.msg, fg_test_tmpdir()) != NULL);
        CHECK(l.kept == exists(files[PART].path) && l.kept == exists(files[LOG].path));
        kept += l.kept;
        fail_at = n_op = 0;
        const bool complete = exists(files[OUT].path); /* the folder's sync failed */
        CHECK(complete == (is_complete(want, n) && !l.kept));
        l = plain();
        CHECK(live(&l, &err) == FG_OK && is_complete(want, n));
    }
    CHECK(op > 40 && kept > op / 2);
    free(want);
    /* and with a journal to go on from */
    for (op = 1;; op++) {
        use("f.fulgur");
        life l = plain();
        l.stop_at = 30;
        CHECK(live(&l, &err) == FG_ECANCEL && l.kept);
        l.stop_at = 0;
        n_op = 0;
        fail_at = op;
        if (live(&l, &err) == FG_OK) break;
        CHECK(exists(files[OUT].path) || exists(files[PART].path));
    }
    CHECK(op > 20);
}

FG_TEST(allocation_failures_when_resuming)
{
    uint8_t *want;
    fg_err err;
    use("a.fulgur");
    const uint64_t n = reference(&want);
    life l = plain();
    l.stop_at = 30;
    CHECK(live(&l, &err) == FG_ECANCEL);
    uint64_t k = 1;
    for (;; k++) {
        l = plain();
        fg_mem_fail_after(k);
        const fg_status st = live(&l, &err);
        fg_mem_fail_after(0);
        if (st == FG_OK) break;
        CHECK(st == FG_ENOMEM);
        if (exists(files[OUT].path)) break; /* at the sync of the folder */
        REQUIRE(exists(files[PART].path) && exists(files[LOG].path)); /* no work is lost */
    }
    CHECK(k > 20 && is_complete(want, n));
    free(want);
}

/* --- what is trusted, what is refused --- */

/* An interrupted life with several checkpoints; *j is its journal. */
static bool interrupted(const char *name, fg_journal **j)
{
    fg_err err;
    use(name);
    life l = plain();
    l.stop_at = 30;
    const bool good = live(&l, &err) == FG_ECANCEL && l.kept &&
                      fg_journal_load(j, files[LOG].path, &err) == FG_OK &&
                      fg_journal_n_record(*j) > 3;
    CHECK(good);
    return good;
}

static void flip(const char *path, uint64_t at)
{
    uint8_t b = 0;
    const int fd = open(path, O_RDWR);
    CHECK(fd >= 0 && pread(fd, &b, 1, (off_t)at) == 1);
    b ^= 0x10;
    CHECK(pwrite(fd, &b, 1, (off_t)at) == 1);
    (void)close(fd);
}

FG_TEST(a_damaged_record_is_not_trusted)
{
    uint8_t *want;
    fg_err err;
    fg_journal *j;
    use("d.fulgur");
    const uint64_t n = reference(&want);
    for (size_t cut = 0; cut < 12; cut++) {
        REQUIRE(interrupted("d.fulgur", &j));
        const size_t last = fg_journal_n_record(j) - 1;
        const fg_checkpoint *a = fg_journal_record(j, last - 1), *b = fg_journal_record(j, last);
        const uint64_t from = a->end, to = b->end, at = from + cut * (to - from - 1) / 11;
        const uint64_t next = end_of(a), full = end_of(b);
        fg_journal_close(&j);
        if (cut % 2 == 0) flip(files[LOG].path, at);
        if (cut % 2 == 1) CHECK(truncate(files[LOG].path, (off_t)at) == 0);
        life l = plain();
        CHECK(live(&l, &err) == FG_OK && is_complete(want, n));
        CHECK(l.next == next && next < full);
    }
    /* control: undamaged, with junk behind it, the last is used */
    REQUIRE(interrupted("d.fulgur", &j));
    const uint64_t full = end_of(fg_journal_record(j, fg_journal_n_record(j) - 1));
    fg_journal_close(&j);
    const int fd = open(files[LOG].path, O_WRONLY | O_APPEND);
    CHECK(write(fd, sample_config, sizeof sample_config) > 0);
    (void)close(fd);
    life l = plain();
    CHECK(live(&l, &err) == FG_OK && is_complete(want, n) && l.next == full);
    free(want);
}

/* A well-formed record that says what is not so. */
FG_TEST(a_wrong_record_is_not_trusted)
{
    uint8_t *want;
    fg_err err;
    fg_journal *j;
    use("w.fulgur");
    const uint64_t n = reference(&want);
    for (int wrong = 0; wrong < 8; wrong++) {
        REQUIRE(interrupted("w.fulgur", &j));
        const size_t last = fg_journal_n_record(j) - 1;
        const uint64_t full = end_of(fg_journal_record(j, last));
        const uint64_t earlier = end_of(fg_journal_record(j, last - 1));
        fg_checkpoint c = *fg_journal_record(j, last);
        uint8_t bytes[4096], hashes[4096] = {0}, span[2 * FG_SPAN_BYTES];
        REQUIRE(FG_RESULT_BYTES * c.n_result <= sizeof bytes && 8 * c.n_hash < sizeof hashes - 8 &&
                c.n_span == 1);
        memcpy(bytes, c.result, (size_t)(FG_RESULT_BYTES * c.n_result));
        memcpy(hashes, c.hash, (size_t)(8 * c.n_hash));
        memcpy(span, c.span, FG_SPAN_BYTES);
        memcpy(span + FG_SPAN_BYTES, c.span, FG_SPAN_BYTES);
        c.result = bytes;
        c.hash = hashes;
        c.span = span;
        const uint8_t payload[8] = {0};
        c.payload = payload;
        if (wrong == 1) span[8]++; /* more than is in the file, or than was written */
        if (wrong == 2) span[8]--;
        if (wrong == 3) span[0]--; /* what an earlier record has */
        if (wrong == 4) hashes[8 * (c.n_hash - 1)] ^= 1;
        if (wrong == 5) c.n_hash++;
        if (wrong == 6) memset(span + 8, 0xff, 8);
        if (wrong == 7) c.n_span++, c.n_hash *= 2; /* twice the same */
        CHECK(fg_journal_keep(j, last, &err) == FG_OK && fg_journal_append(j, &c, &err) == FG_OK);
        fg_journal_close(&j);
        life l = plain();
        l.stop_at = 40; /* its place in the journal is taken: the life after does not meet it */
        CHECK(live(&l, &err) == FG_ECANCEL);
        /* control: as it was, it is used */
        CHECK(wrong == 0 ? l.next == full : l.next == earlier);
        l.stop_at = 0;
        const fg_status st = live(&l, &err);
        CHECK(l.next > full);
        CHECK(st == FG_OK && (wrong == 0 || is_complete(want, n)));
    }
    free(want);
}

/* Where the part of tensor idx begins in the file. */
static uint64_t place_of(uint64_t idx)
{
    const fg_shape shape = sample_shape();
    fg_err err;
    fg_writer *w;
    uint64_t at = 0;
    if (fg_writer_create(&w, files[OUT].path, &shape, &err) == FG_OK &&
        fg_writer_plan(w, sample_choose, NULL, &err) == FG_OK) {
        at = fg_writer_place(w, idx);
    }
    fg_writer_destroy(&w);
    return at;
}

FG_TEST(data_that_is_gone_is_noticed)
{
    uint8_t *want;
    fg_err err;
    fg_journal *j;
    use("g.fulgur");
    const uint64_t n = reference(&want);
    life l = plain();
    for (int behind = 0; behind < 2; behind++) { /* the last whole chunk, and what follows it */
        REQUIRE(interrupted("g.fulgur", &j));
        size_t last = fg_journal_n_record(j) - 1;
        while (last > 1 && fg_journal_record(j, last)->n_hash < 2) last--;
        const fg_span s = fg_checkpoint_span(fg_journal_record(j, last), 0);
        CHECK(fg_journal_keep(j, last + 1, &err) == FG_OK);
        fg_journal_close(&j);
        const uint64_t from = place_of(s.first), to = place_of(s.end);
        const uint64_t chunk_end = (from / FG_FILE_CHUNK + 1) * FG_FILE_CHUNK;
        REQUIRE(last > 1 && chunk_end < to);
        flip(files[PART].path, behind == 1 ? to - 1 : chunk_end - 1);
        CHECK(live(&l, &err) == FG_OK && l.next == s.first && is_complete(want, n));
    }
    /* a file that is too short, or gone */
    for (int gone = 0; gone < 2; gone++) {
        REQUIRE(interrupted("g.fulgur", &j));
        fg_journal_close(&j);
        if (gone == 0) CHECK(truncate(files[PART].path, 1000) == 0);
        if (gone == 1) CHECK(unlink(files[PART].path) == 0);
        l = plain();
        l.identity = 43; /* nothing is left that could be somebody else's */
        CHECK(live(&l, &err) == FG_OK && l.next == 0 && is_complete(want, n));
    }
    /* no journal, or one that is none */
    for (int bad = 0; bad < 3; bad++) {
        REQUIRE(interrupted("g.fulgur", &j));
        fg_journal_close(&j);
        if (bad == 0) CHECK(unlink(files[LOG].path) == 0);
        if (bad == 1) flip(files[LOG].path, 17);
        if (bad == 2) dump(files[LOG].path, "", 0);
        l = plain();
        CHECK(live(&l, &err) == FG_OK && l.next == 0 && is_complete(want, n));
    }
    free(want);
}

FG_TEST(another_conversion_is_refused)
{
    uint8_t *want;
    fg_err err;
    fg_journal *j;
    use("o.fulgur");
    const uint64_t n = reference(&want);
    REQUIRE(interrupted("o.fulgur", &j));
    fg_journal_close(&j);
    uint8_t *before[2], *after[2];
    uint64_t size[2];
    for (int i = PART; i <= LOG; i++) size[i] = slurp(files[i].path, &before[i]);
    for (int other = 0; other < 3; other++) {
        life l = plain();
        if (other == 0) l.identity = 43;
        if (other == 1) l.other_plan = true;
        fg_status st;
        if (other < 2) {
            st = live(&l, &err);
            CHECK(!l.kept);
        } else { /* a writer without a journal */
            err = (fg_err){0};
            st = sample_write(files[OUT].path, 1, NULL, &err);
        }
        CHECK(st == FG_EINVAL && strstr(err.msg, files[PART].path) != NULL &&
              strstr(err.msg, "delete it or choose another name") != NULL);
        for (int i = PART; i <= LOG; i++) {
            CHECK_U64(slurp(files[i].path, &after[i]), size[i]);
            CHECK(memcmp(before[i], after[i], (size_t)size[i]) == 0);
            free(after[i]);
        }
    }
    free(before[PART]);
    free(before[LOG]);
    life l = plain();
    CHECK(live(&l, &err) == FG_OK && l.next > 0 && is_complete(want, n));
    /* without a checkpoint there is nothing to protect */
    use("o.fulgur");
    l = plain();
    CHECK(die(&l, 7, 1) && exists(files[PART].path));
    CHECK(sample_write(files[OUT].path, 1, NULL, &err) == FG_OK && !exists(files[LOG].path));
    free(want);
}

FG_TEST(two_writers_do_not_meet)
{
    fg_err err;
    fg_journal *j;
    REQUIRE(interrupted("l.fulgur", &j));
    fg_journal_close(&j);
    const int fd = open(files[PART].path, O_RDWR);
    REQUIRE(fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
    life l = plain();
    CHECK(live(&l, &err) == FG_EIO && strstr(err.msg, "another process") != NULL);
    CHECK(exists(files[PART].path) && exists(files[LOG].path));
    (void)close(fd);
    CHECK(live(&l, &err) == FG_OK && l.next > 0);
}

FG_TEST(space_is_asked_for_the_rest_only)
{
    uint8_t *want;
    fg_err err;
    fg_journal *j;
    use("s.fulgur");
    const uint64_t n = reference(&want);
    REQUIRE(interrupted("s.fulgur", &j));
    const uint64_t pos = place_of(end_of(fg_journal_record(j, fg_journal_n_record(j) - 1)));
    fg_journal_close(&j);
    const uint64_t rest = n - pos + (2 << 20); /* data begins at 2 MiB */
    life l = plain();
    free_bytes = rest - 1;
    CHECK(live(&l, &err) == FG_EIO && strstr(err.msg, "bytes free") != NULL);
    CHECK(exists(files[PART].path) && exists(files[LOG].path));
    free_bytes = rest;
    CHECK(live(&l, &err) == FG_OK && l.next > 0 && is_complete(want, n));
    free_bytes = n - 1; /* anew, all of it is needed */
    CHECK(live(&l, &err) == FG_EIO && !exists(files[PART].path) && !exists(files[LOG].path));
    free(want);
}

/* --- view, code tables, misuse --- */

FG_TEST(view_and_misuse)
{
    const fg_shape shape = sample_shape();
    fg_err err;
    fg_writer *w;
    const fg_model_file *v, *again;
    uint64_t next;
    use("v.fulgur");
    REQUIRE(fg_writer_create(&w, files[OUT].path, &shape, &err) == FG_OK);
    REQUIRE(fg_writer_plan(w, sample_choose, NULL, &err) == FG_OK);
    CHECK(fg_writer_view(w, &v, &err) == FG_EINVAL && v == NULL);
    CHECK(fg_writer_checkpoint(w, NULL, 0, &err) == FG_EINVAL);
    CHECK(fg_writer_seek(w, 1, &err) == FG_EINVAL && !fg_writer_is_done(w, 0));
    uint8_t *data = sample_data(w, 1);
    REQUIRE(data != NULL && fg_writer_resume(w, 1, NULL, NULL, &next, &err) == FG_OK);
    CHECK(fg_writer_resume(w, 1, NULL, NULL, &next, &err) == FG_EINVAL);
    REQUIRE(fg_writer_view(w, &v, &err) == FG_OK);
    uint64_t q4 = 0;
    while (fg_writer_tensor(w, q4)->type != FG_TYPE_Q4) q4++;
    fg_lut lut = fg_lut_linear, bad = fg_lut_linear;
    lut.v[0] = -30;
    bad.v[3] = bad.v[2];
    CHECK(fg_writer_set_lut(w, q4, &bad, &err) == FG_EINVAL);
    CHECK(fg_writer_set_lut(w, q4 + 1, &lut, &err) == FG_EINVAL); /* of another type */
    CHECK(fg_writer_set_lut(w, q4, &lut, &err) == FG_OK);
    CHECK_U64(fg_model_file_tensor(v, q4)->lut.v[0], (uint64_t)-30);
    CHECK(isnan(fg_model_file_tensor(v, q4)->err_rms) && fg_model_file_n_meta(v) == 0);
    CHECK(memcmp(fg_model_file_shape(v), &shape, sizeof shape) == 0);
    /* what is written is seen after the next call, whatever its size */
    const fg_tensor *t = fg_writer_tensor(w, 0);
    CHECK(fg_writer_write(w, data, 100, &err) == FG_OK);
    CHECK(fg_writer_view(w, &again, &err) == FG_OK && again == v);
    CHECK(memcmp(fg_model_file_data(v, fg_writer_data_offset(w)), data, 100) == 0);
    CHECK(fg_writer_checkpoint(w, NULL, 0, &err) == FG_EINVAL); /* inside tensor 0 */
    CHECK(fg_writer_seek(w, 5, &err) == FG_EINVAL);
    CHECK(fg_writer_write(w, data + 100, fg_tensor_end(t) - fg_writer_pos(w), &err) == FG_OK);
    CHECK(!fg_writer_checkpoint_due(w) && !fg_writer_is_kept(w));
    fg_writer_checkpoint_every(w, 1, UINT64_MAX);
    CHECK(fg_writer_checkpoint_due(w));
    CHECK(fg_writer_checkpoint(w, NULL, 0, &err) == FG_OK);
    CHECK(fg_writer_is_done(w, 0) && !fg_writer_is_done(w, 1));
    CHECK(!fg_writer_checkpoint_due(w) && fg_writer_is_kept(w));
    fg_writer_destroy(&w);
    CHECK(exists(files[PART].path) && exists(files[LOG].path));
    /* a writer without a journal takes no checkpoints */
    use("v.fulgur");
    REQUIRE(fg_writer_create(&w, files[OUT].path, &shape, &err) == FG_OK);
    REQUIRE(fg_writer_plan(w, sample_choose, NULL, &err) == FG_OK);
    REQUIRE(fg_writer_begin(w, &err) == FG_OK);
    fg_writer_checkpoint_every(w, 0, 0);
    CHECK(!fg_writer_checkpoint_due(w) && fg_writer_checkpoint(w, NULL, 0, &err) == FG_OK);
    fg_writer_destroy(&w);
    CHECK(!exists(files[PART].path) && !exists(files[LOG].path));
    fg_mem_free(data);
}
