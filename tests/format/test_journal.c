/* SPDX-License-Identifier: MIT
 *
 * A writer that dies and goes on: the finished file has the bytes of one uninterrupted life,
 * wherever the power went or the system refused.
 *
 * The disk that does this is in crash_disk.h, the writer in life.h.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/format/write/journal.h"
#include "src/format/layout.h"
#include "src/format/reader.h"
#include "tests/fg_test.h"
#include "tests/format/life.h"

/* The tensor behind the last span of a record; written in file order, the next one to be
 * written. */
static uint64_t end_of(const fg_checkpoint *c)
{
    return fg_checkpoint_span(c, c->n_span - 1).end;
}

/* --- power loss --- */

FG_TEST(power_loss_at_every_operation)
{
    uint8_t *want;
    fg_err err;
    use("p.fulgur");
    const uint64_t n = reference(&want);
    int op = 1, resumed = 0, deaths = 0;
    for (;; op += fg_test_every(3, 9)) {
        use("p.fulgur");
        life l = plain();
        l.view = op % 2 == 0;
        if (!die(&l, op, (uint64_t)op)) break;
        deaths++;
        if (exists(files[OUT].path)) CHECK(op > 20); /* never before the end */
        l = plain();
        const fg_status st = live(&l, &err);
        if (st != FG_OK) fg_test_fail(__FILE__, __LINE__, "op %d: %s", op, err.msg);
        if (!is_complete(want, n)) fg_test_fail(__FILE__, __LINE__, "op %d: another file", op);
        resumed += l.next > 0;
    }
    printf("  %d operations of a life, %d later lives went on from a checkpoint\n", op - 1,
           resumed);
    CHECK(op > 40 && resumed > deaths / 2);
    free(want);
}

/* Groups in any order: the same file, wherever the power goes. */
FG_TEST(power_loss_in_any_order)
{
    uint8_t *want;
    fg_err err;
    use("q.fulgur");
    const uint64_t n = reference(&want);
    int op = 1, refused = 0, deaths = 0;
    for (;; op += fg_test_every(4, 11)) {
        use("q.fulgur");
        life l = plain();
        l.shuffled = true;
        l.view = op % 3 == 0;
        if (!die(&l, op, (uint64_t)op)) break;
        deaths++;
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
    CHECK(op > 60 && refused > deaths / 2);
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

/* The model of a disk has teeth: when fdatasync lies, work is lost, and made again. */
FG_TEST(control_a_lying_disk_is_found_out)
{
    uint8_t *want;
    fg_err err;
    use("y.fulgur");
    const uint64_t n = reference(&want);
    for (int lies = 0; lies < 2; lies++) {
        use("y.fulgur");
        liar = lies == 1 ? PART : -1;
        life l = plain();
        CHECK(die(&l, 40, 5));
        fg_journal *j;
        REQUIRE_OK(fg_journal_load(&j, files[LOG].path, &err), &err);
        REQUIRE(fg_journal_n_record(j) > 3);
        const uint64_t said = end_of(fg_journal_record(j, fg_journal_n_record(j) - 1));
        fg_journal_close(&j);
        liar = -1;
        l = plain();
        const fg_status st = live(&l, &err);
        /* where nothing at all came true, not even the mark, it cannot be told from another's */
        const bool strange = lies == 1 && st == FG_EINVAL && strstr(err.msg, "not a file") != NULL;
        CHECK(strange || (st == FG_OK && is_complete(want, n)));
        CHECK(lies == 1 ? l.next < said && (strange || l.n_damaged > 0)
                        : l.next == said && l.n_damaged == 0);
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
    int op = 1, kept = 0, failures = 0, after_rename = 0;
    for (;; op += fg_test_every(1, 3)) {
        use("f.fulgur");
        life l = plain();
        l.view = op % 2 == 0;
        fail_at = op;
        const fg_status st = live(&l, &err);
        if (st == FG_OK && n_op < op) break;
        kept += l.kept;
        failures++;
        fail_at = n_op = 0;
        CHECK((st == FG_OK) == exists(files[OUT].path)); /* complete is never a failure */
        if (st == FG_OK) {
            after_rename++;
            CHECK(verifies(files[OUT].path) && !exists(files[PART].path) && !l.kept);
            (void)unlink(files[OUT].path); /* a journal may be left: it is void */
        } else {
            CHECK(st == FG_EIO && strchr(err.msg, '\n') == NULL &&
                  strstr(err.msg, fg_test_tmpdir()) != NULL);
            CHECK(l.kept == exists(files[PART].path) && l.kept == exists(files[LOG].path));
        }
        l = plain();
        CHECK(live(&l, &err) == FG_OK && is_complete(want, n));
    }
    CHECK(op > 40 && kept > failures / 2 && after_rename > 0);
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
        uint8_t payload[1024];
        REQUIRE(c.n_payload <= sizeof payload);
        memcpy(payload, c.payload, (size_t)c.n_payload);
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

/* True for the second and third tensor of a group. */
static bool is_third(uint64_t idx)
{
    const fg_shape shape = sample_shape();
    const fg_file_spec spec = {.shape = &shape, .choose = sample_choose};
    fg_err err;
    fg_file_plan *p;
    if (fg_file_plan_make(&p, &spec, "sample", &err) != FG_OK) return false;
    const uint32_t role = fg_file_plan_tensor(p, idx)->role;
    fg_file_plan_destroy(&p);
    return role == FG_ROLE_EXPERT_UP || role == FG_ROLE_EXPERT_DOWN;
}

/* Where the part of tensor idx begins in the file. */
static uint64_t place_of(uint64_t idx)
{
    const fg_shape shape = sample_shape();
    const fg_file_spec spec = {.shape = &shape, .choose = sample_choose};
    fg_err err;
    fg_file_plan *p;
    if (fg_file_plan_make(&p, &spec, "sample", &err) != FG_OK) return 0;
    const uint64_t at = fg_file_plan_place(p, idx);
    fg_file_plan_destroy(&p);
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
        CHECK_OK(fg_journal_keep(j, last + 1, &err), &err);
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
    for (int bad = 0; bad < 2; bad++) {
        REQUIRE(interrupted("g.fulgur", &j));
        fg_journal_close(&j);
        if (bad == 0) CHECK(unlink(files[LOG].path) == 0);
        if (bad == 1) dump(files[LOG].path, "", 0);
        l = plain();
        CHECK(live(&l, &err) == FG_OK && l.next == 0 && is_complete(want, n));
    }
    /* one that was ours and is damaged where it says whose: the work is not thrown away */
    for (int bad = 0; bad < 2; bad++) {
        REQUIRE(interrupted("g.fulgur", &j));
        fg_journal_close(&j);
        flip(files[LOG].path, bad == 0 ? 17 : 8);
        l = plain();
        CHECK(live(&l, &err) == (bad == 0 ? FG_ECHECKSUM : FG_EVERSION));
        flip(files[LOG].path, bad == 0 ? 17 : 8);
        CHECK(live(&l, &err) == FG_OK && l.next > 0 && is_complete(want, n));
    }
    free(want);
}

/* Any byte of what was written: its span is written again, and no other. */
FG_TEST(damage_anywhere_is_noticed)
{
    uint8_t *want;
    fg_err err;
    fg_journal *j;
    use("z.fulgur");
    const uint64_t n = reference(&want);
    for (size_t at = 0; at < 4; at++) {
        REQUIRE(interrupted("z.fulgur", &j));
        const size_t m = fg_journal_n_record(j), k = at * (m - 1) / 3;
        const fg_span s = fg_checkpoint_span(fg_journal_record(j, k), 0);
        const uint64_t end = end_of(fg_journal_record(j, m - 1));
        fg_journal_close(&j);
        flip(files[PART].path, at % 2 == 0 ? place_of(s.first) : place_of(s.end) - 1);
        life l = plain();
        l.stop_at = end + 1; /* the span and one group more, not in a checkpoint */
        l.every = 0;
        const fg_status st = live(&l, &err);
        CHECK(st == FG_ECANCEL && l.next == s.first && l.n_payload == m);
        CHECK_U64(l.n_damaged, place_of(s.end) - place_of(s.first));
        for (uint64_t i = 0; i < end; i++) CHECK(!l.is_written[i] || (i >= s.first && i < s.end));
        l = plain();
        CHECK(live(&l, &err) == FG_OK && is_complete(want, n));
        /* what is written in between was made good without a word in the journal */
        CHECK(at == 3 || (l.n_damaged == 0 && l.next == end));
    }
    /* work in order starts over from there */
    REQUIRE(interrupted("z.fulgur", &j));
    const fg_span s = fg_checkpoint_span(fg_journal_record(j, 1), 0);
    fg_journal_close(&j);
    flip(files[PART].path, place_of(s.first));
    life l = plain();
    l.in_order = true;
    CHECK(live(&l, &err) == FG_OK && l.next == s.first && is_complete(want, n));
    for (uint64_t i = s.first; i < 40; i++) CHECK(l.is_written[i] || is_third(i));
    free(want);
}

/* Files of the user's, and other things, under our names. */
FG_TEST(other_peoples_files_are_left_alone)
{
    static const uint64_t sizes[] = {1, 7, 8, 9, 32, 33, 4096, (uint64_t)3 << 20};
    fg_err err;
    uint8_t *text = malloc((size_t)3 << 20), *got;
    REQUIRE(text != NULL);
    memset(text, 'x', (size_t)3 << 20);
    for (int which = PART; which <= LOG; which++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            use("u.fulgur");
            dump(files[which].path, text, sizes[i]);
            life l = plain();
            CHECK(live(&l, &err) == FG_EINVAL && strstr(err.msg, files[which].path) != NULL);
            CHECK_U64(slurp(files[which].path, &got), sizes[i]);
            CHECK(memcmp(got, text, (size_t)sizes[i]) == 0);
            free(got);
            CHECK(!exists(files[OUT].path) && !exists(files[which == PART ? LOG : PART].path));
            if (which == PART) { /* and by a writer without a journal */
                CHECK(sample_write(files[OUT].path, 1, NULL, &err) == FG_EINVAL);
                CHECK_U64(slurp(files[PART].path, &got), sizes[i]);
                free(got);
            }
        }
        for (int kind = 0; kind < 5; kind++) {
            const char *victim = fg_test_tmp("victim");
            use("u.fulgur");
            dump(victim, "mine", 4);
            const char *path = files[which].path;
            if (kind == 0) CHECK(symlink(victim, path) == 0);
            if (kind == 1) CHECK(symlink("/nowhere/at/all", path) == 0);
            if (kind == 2) CHECK(symlink(fg_test_tmpdir(), path) == 0);
            if (kind == 3) CHECK(mkfifo(path, 0600) == 0);
            if (kind == 4) CHECK(mkdir(path, 0700) == 0);
            life l = plain();
            CHECK(live(&l, &err) == FG_EINVAL && strstr(err.msg, path) != NULL);
            CHECK(exists(path) && slurp(victim, &got) == 4 && memcmp(got, "mine", 4) == 0);
            free(got);
            (void)remove(path);
        }
    }
    /* controls: a finished model of the user's is one too; what we left is not */
    use("u.fulgur");
    REQUIRE_OK(sample_write(files[OUT].path, 1, NULL, &err), &err);
    CHECK(rename(files[OUT].path, files[PART].path) == 0);
    life l = plain();
    CHECK(live(&l, &err) == FG_EINVAL && verifies(files[PART].path));
    use("u.fulgur");
    CHECK(die(&l, 30, 1) && live(&l, &err) == FG_OK);
    free(text);
}

/* Stopped inside a group: what is before it can be made durable. */
FG_TEST(a_group_can_be_dropped)
{
    uint8_t *want;
    fg_err err;
    use("k.fulgur");
    const uint64_t n = reference(&want);
    for (int after = 0; after < 3; after++) {
        use("k.fulgur");
        life l = plain();
        l.every = after == 0 ? 4 : 0;
        l.stop_at = 23;
        l.drops = true;
        CHECK(live(&l, &err) == FG_ECANCEL && l.kept);
        l = plain();
        l.shuffled = after == 2;
        CHECK(live(&l, &err) == FG_OK && l.next >= 21 && l.n_damaged == 0);
        CHECK(is_complete(want, n));
    }
    free(want);
}

/* A last record without data: the one before it is read back all the same. */
FG_TEST(an_empty_record_hides_nothing)
{
    uint8_t *want;
    fg_err err;
    fg_journal *j;
    use("e.fulgur");
    const uint64_t n = reference(&want);
    for (int damaged = 0; damaged < 2; damaged++) {
        use("e.fulgur");
        life l = plain();
        l.again = true;
        l.stop_at = 40;
        CHECK(live(&l, &err) == FG_ECANCEL && l.kept);
        REQUIRE_OK(fg_journal_load(&j, files[LOG].path, &err), &err);
        const size_t m = fg_journal_n_record(j);
        REQUIRE(m > 3 && fg_journal_record(j, m - 1)->n_span == 0);
        REQUIRE(fg_journal_record(j, m - 2)->n_span == 1);
        const fg_span s = fg_checkpoint_span(fg_journal_record(j, m - 2), 0);
        fg_journal_close(&j);
        if (damaged == 1) flip(files[PART].path, place_of(s.end) - 1);
        l = plain();
        CHECK(live(&l, &err) == FG_OK && is_complete(want, n));
        CHECK_U64(l.next, damaged == 1 ? s.first : s.end);
        CHECK_U64(l.n_payload, m);
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
    REQUIRE_OK(sample_writer(&w, files[OUT].path, (fg_file_spec){0}, NULL, &err), &err);
    CHECK(fg_writer_view(w, &v, &err) == FG_EINVAL && v == NULL);
    CHECK(fg_writer_checkpoint(w, NULL, 0, &err) == FG_EINVAL);
    CHECK(fg_writer_seek(w, 1, &err) == FG_EINVAL && !fg_writer_is_done(w, 0));
    uint8_t *data = sample_data(w, 1);
    REQUIRE(data != NULL && fg_writer_resume(w, 1, NULL, &next, &err) == FG_OK);
    CHECK(fg_writer_resume(w, 1, NULL, &next, &err) == FG_EINVAL);
    REQUIRE_OK(fg_writer_view(w, &v, &err), &err);
    uint64_t q4 = 0;
    while (fg_file_plan_tensor(fg_writer_plan(w), q4)->type != FG_TYPE_Q4) q4++;
    fg_lut lut = fg_lut_linear, bad = fg_lut_linear;
    lut.v[0] = -30;
    bad.v[3] = bad.v[2];
    CHECK(fg_writer_set_lut(w, q4, &bad, &err) == FG_EINVAL);
    CHECK(fg_writer_set_lut(w, q4 + 1, &lut, &err) == FG_EINVAL); /* of another type */
    CHECK_OK(fg_writer_set_lut(w, q4, &lut, &err), &err);
    CHECK_U64(fg_model_file_tensor(v, q4)->lut.v[0], (uint64_t)-30);
    CHECK(isnan(fg_model_file_tensor(v, q4)->err_rms) && fg_model_file_n_meta(v) == 0);
    CHECK(memcmp(fg_model_file_shape(v), &shape, sizeof shape) == 0);
    /* what is written is seen after the next call, whatever its size */
    const fg_tensor *t = fg_file_plan_tensor(fg_writer_plan(w), 0);
    CHECK_OK(fg_writer_write(w, data, 100, &err), &err);
    CHECK(fg_writer_view(w, &again, &err) == FG_OK && again == v);
    CHECK(memcmp(fg_model_file_data(v, fg_file_plan_data_offset(fg_writer_plan(w))), data, 100) ==
          0);
    CHECK(fg_writer_checkpoint(w, NULL, 0, &err) == FG_EINVAL); /* inside tensor 0 */
    CHECK(fg_writer_seek(w, 5, &err) == FG_EINVAL);
    CHECK_OK(fg_writer_write(w, data + 100, fg_tensor_end(t) - fg_writer_pos(w), &err), &err);
    CHECK(!fg_writer_checkpoint_due(w) && !fg_writer_is_kept(w));
    fg_writer_checkpoint_every(w, 1, UINT64_MAX);
    CHECK(fg_writer_checkpoint_due(w));
    CHECK_OK(fg_writer_checkpoint(w, NULL, 0, &err), &err);
    CHECK(fg_writer_is_done(w, 0) && !fg_writer_is_done(w, 1));
    CHECK(!fg_writer_checkpoint_due(w) && fg_writer_is_kept(w));
    fg_writer_destroy(&w);
    CHECK(exists(files[PART].path) && exists(files[LOG].path));
    /* a writer without a journal takes no checkpoints */
    use("v.fulgur");
    REQUIRE_OK(sample_writer(&w, files[OUT].path, (fg_file_spec){0}, NULL, &err), &err);
    REQUIRE_OK(fg_writer_begin(w, &err), &err);
    fg_writer_checkpoint_every(w, 0, 0);
    CHECK(!fg_writer_checkpoint_due(w) && fg_writer_checkpoint(w, NULL, 0, &err) == FG_OK);
    fg_writer_destroy(&w);
    CHECK(!exists(files[PART].path) && !exists(files[LOG].path));
    fg_mem_free(data);
}
