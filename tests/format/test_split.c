/* SPDX-License-Identifier: MIT
 *
 * Files split over several drives (FORMAT.md 3.1): the same model as the one file, whatever a
 * writer lives through; parts that are missing, damaged or another's are refused in one line;
 * nothing of others is written over.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/io.h"
#include "src/format/write/append.h"
#include "src/format/write/journal.h"
#include "src/format/parts.h"
#include "tests/fg_test.h"
#include "tests/format/life.h"

enum { N_KEPT = 3 };
static const int kept[N_KEPT] = {OUT, OUT1, OUT2};

static long page_bytes; /* that the system claims to have; 0: the true ones */

long sysconf(int name)
{
    long (*real)(int) = NULL;
    void *found = dlsym(RTLD_NEXT, "sysconf");
    memcpy(&real, &found, sizeof real);
    return name == _SC_PAGESIZE && page_bytes != 0 ? page_bytes : real(name);
}

static life split(void)
{
    life l = plain();
    l.n_split = 2;
    return l;
}

typedef struct whole {
    uint8_t *bytes[N_KEPT];
    uint64_t size[N_KEPT];
} whole;

static void take(whole *w)
{
    for (int i = 0; i < N_KEPT; i++) w->size[i] = slurp(files[kept[i]].path, &w->bytes[i]);
}

static void let_go(whole *w)
{
    for (int i = 0; i < N_KEPT; i++) free(w->bytes[i]);
}

/* What every life must end with. */
static whole want_of(const char *name)
{
    whole w;
    fg_err err = {0};
    use(name);
    life l = split();
    if (live(&l, &err) != FG_OK) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    take(&w);
    CHECK(w.size[0] > 3 << 20 && w.size[1] > 3 << 20 && w.size[2] == w.size[1]);
    return w;
}

static void put(const char *path, const uint8_t *bytes, uint64_t n)
{
    (void)unlink(path);
    dump(path, bytes, n);
}

static bool is_whole(const whole *want)
{
    whole got;
    char to[4096];
    take(&got);
    bool same = !exists(files[PART].path) && !exists(files[LOG].path) &&
                !exists(files[PART1].path) && !exists(files[PART2].path);
    for (int i = 0; i < N_KEPT; i++) {
        same = same && got.size[i] == want->size[i] &&
               memcmp(got.bytes[i], want->bytes[i], (size_t)got.size[i]) == 0;
    }
    let_go(&got);
    return same && readlink(files[LINK1].path, to, sizeof to) > 0 && verifies(files[OUT].path);
}

/* --- one model --- */

static uint64_t blocks(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 ? (uint64_t)sb.st_blocks * 512 : 0;
}

FG_TEST(the_same_model)
{
    fg_model_file *a = NULL, *b = NULL;
    fg_err err;
    use("one.fulgur");
    life l = plain();
    REQUIRE_OK(live(&l, &err), &err);
    const char *one = strdup(files[OUT].path);
    whole w = want_of("m.fulgur");
    REQUIRE_OK(fg_model_file_open(&a, one, &err), &err);
    REQUIRE_OK(fg_model_file_open(&b, files[OUT].path, &err), &err);
    CHECK(fg_model_file_n_part(a) == 1 && fg_model_file_n_part(b) == 3);
    CHECK_U64(fg_model_file_data_root(b), fg_model_file_data_root(a));
    CHECK_U64(fg_model_file_size(b), fg_model_file_size(a));
    const fg_tensor *first = fg_model_file_tensor(a, 0);
    const uint64_t from = fg_tensor_begin(first), n_tensor = fg_model_file_n_tensor(a);
    const uint64_t to = fg_tensor_end(fg_model_file_tensor(a, n_tensor - 1));
    const uint8_t *x = fg_model_file_data(a, from), *y = fg_model_file_data(b, from);
    CHECK(memcmp(x, y, (size_t)(to - from)) == 0);
    for (uint64_t i = 0; i < n_tensor; i++) {
        const fg_tensor *t = fg_model_file_tensor(a, i), *u = fg_model_file_tensor(b, i);
        CHECK(t->offset == u->offset && t->scale_offset == u->scale_offset);
    }
    /* by hand from the document: which file has a byte of each expert's each page, and nobody
     * else */
    uint64_t held[3] = {0}, end;
    for (uint32_t layer = 0; layer < 3; layer++) {
        for (uint32_t e = 0; e < 3; e++) {
            const fg_extent ext = fg_model_file_expert_extent(b, layer, e);
            const uint64_t third = (ext.bytes + 2) / 3, stripe = (third + 4095) / 4096 * 4096;
            for (uint64_t at = 0; at < ext.bytes; at += 4096) {
                const uint32_t k = (uint32_t)((at / stripe + e + layer) % 3);
                CHECK_U64(fg_model_file_part_at(b, ext.offset + at, &end), k);
                CHECK(memcmp(w.bytes[k] + ext.offset + at, x + (ext.offset + at - from), 4096) ==
                      0);
                held[k] += 4096;
            }
        }
    }
    /* each file takes the room of what it holds, some blocks of the file system more at most */
    CHECK(held[1] > 0 && blocks(files[OUT1].path) >= held[1]);
    CHECK(blocks(files[OUT1].path) <= held[1] + 4096 + 65536);
    CHECK(blocks(files[OUT2].path) <= held[2] + 4096 + 65536);
    CHECK(blocks(files[OUT].path) <= blocks(one) - held[1] - held[2] + 65536);
    fg_model_file_close(&a);
    fg_model_file_close(&b);
    let_go(&w);
    free((void *)(uintptr_t)one);
}

FG_TEST(append_touches_the_main_file_only)
{
    fg_err err;
    whole w = want_of("m.fulgur"), after;
    REQUIRE_OK(fg_model_file_append_meta(files[OUT].path, "note", "later", 5, &err), &err);
    take(&after);
    CHECK(after.size[0] > w.size[0]);
    for (int i = 1; i < N_KEPT; i++) {
        CHECK(after.size[i] == w.size[i] &&
              memcmp(after.bytes[i], w.bytes[i], (size_t)w.size[i]) == 0);
    }
    CHECK(verifies(files[OUT].path));
    let_go(&w);
    let_go(&after);
}

/* Copies fill the holes, and parts may lie anywhere. */
FG_TEST(copied_and_moved)
{
    char cmd[20000];
    whole w = want_of("m.fulgur");
    const char *dir = fg_test_tmpdir();
    (void)snprintf(cmd, sizeof cmd,
                   "mkdir -p %s/e && cp --sparse=never %s %s/e/x && rm %s %s && mv %s/e/x %s && "
                   "mv %s %s/e/part && ln -s %s/e/part %s",
                   dir, files[OUT1].path, dir, files[OUT1].path, files[LINK1].path, dir,
                   files[LINK1].path, files[OUT2].path, dir, dir, files[OUT2].path);
    REQUIRE(system(cmd) == 0);
    CHECK(blocks(files[LINK1].path) >= w.size[1] && verifies(files[OUT].path));
    let_go(&w);
}

static int fg_read(const char *args)
{
    char cmd[4500];
    (void)snprintf(cmd, sizeof cmd, "python3 -B scripts/fg_read.py %s %s >/dev/null 2>&1",
                   files[OUT].path, args);
    return system(cmd);
}

/* From the document alone. */
FG_TEST(the_second_reader)
{
    whole w = want_of("r.fulgur");
    CHECK(fg_read("--verify") == 0);
    const int fd = open(files[OUT2].path, O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, "", 1, 16) == 1); /* n_part */
    (void)close(fd);
    CHECK(fg_read("") != 0);
    dump(files[OUT2].path, w.bytes[2], w.size[2]);
    CHECK(fg_read("") == 0 && unlink(files[LINK1].path) == 0 && fg_read("") != 0);
    let_go(&w);
}

/* --- lives --- */

static void power_losses(bool shuffled)
{
    fg_err err;
    whole w = want_of("p.fulgur");
    int op = 1, went_on = 0, named = 0, deaths = 0;
    /* the end is where names change */
    const int early = fg_test_every(shuffled ? 13 : 7, 25),
              late = fg_test_every(shuffled ? 3 : 1, 3);
    for (;; op += op >= 80 ? late : early) {
        use("p.fulgur");
        life l = split();
        l.view = op % 3 == 0;
        l.shuffled = shuffled;
        if (!die(&l, op, (uint64_t)op)) break;
        deaths++;
        named += exists(files[OUT1].path) && !exists(files[OUT].path);
        /* a main file has its parts */
        if (exists(files[OUT].path)) CHECK(verifies(files[OUT].path));
        if (exists(files[OUT].path) && !exists(files[PART].path)) continue;
        l = split();
        l.shuffled = shuffled;
        const fg_status st = live(&l, &err);
        if (st != FG_OK) fg_test_fail(__FILE__, __LINE__, "op %d: %s", op, err.msg);
        if (!is_whole(&w)) fg_test_fail(__FILE__, __LINE__, "op %d: other files", op);
        went_on += l.n_payload > 0;
    }
    printf("  %d operations of a life, %d went on from a checkpoint, %d had named parts\n", op - 1,
           went_on, named);
    CHECK(op > 100 && went_on > deaths / 3 && named > (late == 1 ? 2 : 0));
    CHECK(is_whole(&w));
    let_go(&w);
}

FG_TEST(power_loss_at_every_operation)
{
    power_losses(false);
}

FG_TEST(power_loss_in_any_order)
{
    power_losses(true);
}

FG_TEST(many_deaths_of_one_file)
{
    fg_rng r;
    whole w = want_of("m.fulgur");
    fg_rng_init(&r, 3);
    int deaths = 0;
    for (int round = 0; round < 4; round++) {
        use("m.fulgur");
        life l = split();
        l.shuffled = round % 2 == 0;
        while (die(&l, 2 + (int)(fg_rng_u64(&r) % 60), fg_rng_u64(&r))) {
            deaths++;
            if (exists(files[OUT].path) && !exists(files[PART].path)) break;
        }
        if (!is_whole(&w)) fg_test_fail(__FILE__, __LINE__, "round %d: other files", round);
    }
    printf("  %d deaths\n", deaths);
    CHECK(deaths > 8);
    let_go(&w);
}

/* Control: a part whose sync does nothing is found out by the read-back. */
FG_TEST(control_a_lying_drive_is_found_out)
{
    fg_err err;
    whole w = want_of("y.fulgur");
    use("y.fulgur");
    liar = PART1;
    life l = split();
    CHECK(die(&l, 90, 5));
    liar = -1;
    fg_journal *j;
    REQUIRE_OK(fg_journal_load(&j, files[LOG].path, &err), &err);
    const size_t n = fg_journal_n_record(j);
    REQUIRE(n > 3);
    const uint64_t said =
        fg_checkpoint_span(fg_journal_record(j, n - 1), fg_journal_record(j, n - 1)->n_span - 1)
            .end;
    fg_journal_close(&j);
    l = split();
    const fg_status st = live(&l, &err);
    CHECK(l.next < said);
    CHECK(st == FG_OK ? is_whole(&w) == verifies(files[OUT].path)
                      : st == FG_EIO && strstr(err.msg, "other bytes") != NULL);
    let_go(&w);
}

FG_TEST(a_failure_of_every_operation)
{
    fg_err err;
    whole w = want_of("f.fulgur");
    int op = 1;
    for (;; op += op < 80 ? fg_test_every(7, 25) : fg_test_every(1, 3)) {
        use("f.fulgur");
        life l = split();
        l.view = op % 2 == 0;
        fail_at = op;
        if (live(&l, &err) == FG_OK) {
            CHECK(exists(files[OUT].path));
            if (n_op < op) break;
            (void)unlink(files[LOG].path); /* complete is never a failure */
            continue;
        }
        CHECK(err.code == FG_EIO && strchr(err.msg, '\n') == NULL);
        CHECK(l.kept || exists(files[OUT].path) ||
              (!exists(files[PART1].path) && !exists(files[PART2].path) &&
               !exists(files[OUT1].path) && !exists(files[OUT2].path) &&
               !exists(files[LINK1].path)));
        fail_at = n_op = 0;
        CHECK(!exists(files[OUT].path));
        l = split();
        const fg_status st = live(&l, &err);
        if (st != FG_OK) fg_test_fail(__FILE__, __LINE__, "op %d: %s", op, err.msg);
        CHECK(is_whole(&w));
    }
    CHECK(op > 100);
    /* without a journal nothing is left behind */
    for (op = 1;; op++) {
        use("f.fulgur");
        fail_at = op;
        const char *const dirs[] = {split_dir[0], split_dir[1]};
        fg_writer *x = NULL;
        uint8_t *data = NULL;
        fg_status st = sample_writer(&x, files[OUT].path, (fg_file_spec){.n_part = 3}, dirs, &err);
        if (st == FG_OK) data = sample_data(x, 1);
        if (st == FG_OK) st = fg_writer_begin(x, &err);
        if (st == FG_OK) st = sample_stream(x, data, 1, &err);
        if (st == FG_OK) st = fg_writer_finish(x, &err);
        fg_writer_destroy(&x);
        fg_mem_free(data);
        if (st == FG_OK) break;
        const bool complete = exists(files[OUT].path);
        for (int i = 0; i < N_FILE && !complete; i++) CHECK(!exists(files[i].path));
        if (complete) CHECK(verifies(files[OUT].path));
    }
    CHECK(op > 20);
    let_go(&w);
}

/* --- refusals --- */

static bool stop(void)
{
    fg_err err;
    life l = split();
    l.stop_at = 30;
    return live(&l, &err) == FG_ECANCEL && l.kept && exists(files[PART1].path);
}

FG_TEST(nothing_of_others_is_written_over)
{
    fg_err err;
    life l = split();
    /* finished parts, foreign links, unfinished parts of another main file */
    static const int there[] = {OUT1, OUT2, LINK1, PART1, PART2};
    for (size_t i = 0; i < sizeof there / sizeof there[0]; i++) {
        uint8_t *now;
        use("n.fulgur");
        dump(files[there[i]].path, "mine", 4);
        l = split();
        CHECK(live(&l, &err) == FG_EINVAL && strstr(err.msg, files[there[i]].path) != NULL &&
              strstr(err.msg, "there already") != NULL);
        CHECK(slurp(files[there[i]].path, &now) == 4 && memcmp(now, "mine", 4) == 0);
        free(now);
        for (int k = 0; k < N_FILE; k++) CHECK(k == there[i] || !exists(files[k].path));
    }
    /* a conversion that is complete, once more, and its journal has come back */
    whole w = want_of("n.fulgur");
    l = split();
    CHECK(live(&l, &err) == FG_EINVAL && is_whole(&w));
    use("j.fulgur");
    REQUIRE(stop());
    uint8_t *journal;
    const uint64_t n = slurp(files[LOG].path, &journal);
    l = split();
    CHECK_OK(live(&l, &err), &err);
    dump(files[LOG].path, journal, n);
    l = split();
    CHECK(live(&l, &err) == FG_EINVAL && exists(files[OUT1].path) && verifies(files[OUT].path));
    free(journal);
    let_go(&w);
}

/* Parts that another conversion has under way stay whatever stops this one. */
FG_TEST(a_refusal_removes_nothing_of_others)
{
    enum { FINISHED, FOREIGN_LINK, LOCKED, N_CASE };
    for (int i = 0; i < N_CASE; i++) {
        char first[4200];
        uint8_t *now;
        fg_err err;
        use("r.fulgur");
        life l = split();
        (void)snprintf(first, sizeof first, "%s", files[PART1].path);
        int fd = -1;
        if (i == FINISHED) dump(files[OUT2].path, "mine", 4);
        if (i == FOREIGN_LINK) { /* with the folders the other way round */
            const char *other = split_dir[0];
            split_dir[0] = split_dir[1];
            split_dir[1] = other;
            (void)snprintf(first, sizeof first, "%s.part", files[LINK1].path);
            CHECK(symlink("/elsewhere", files[OUT2].path) == 0);
        }
        if (i == LOCKED) {
            fd = open(files[PART2].path, O_RDWR | O_CREAT, 0600);
            CHECK(fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
        }
        dump(first, "hours of work", 13);
        const fg_status st = live(&l, &err);
        CHECK(st == (i == LOCKED ? FG_EIO : FG_EINVAL));
        CHECK(strstr(err.msg, i == LOCKED ? files[PART2].path : files[OUT2].path) != NULL);
        CHECK(i == LOCKED || strstr(err.msg, first) != NULL);
        CHECK(slurp(first, &now) == 13 && memcmp(now, "hours of work", 13) == 0);
        CHECK(!exists(files[PART].path) && exists(files[PART2].path) == (i == LOCKED));
        free(now);
        if (fd >= 0) (void)close(fd);
        CHECK(unlink(first) == 0);
        (void)unlink(files[OUT2].path);
        use("r.fulgur");
        l = split();
        CHECK_OK(live(&l, &err), &err); /* control */
    }
}

/* All that is in the way is named at once, or counted. */
FG_TEST(leftovers_are_named_together)
{
    const char *dirs[15];
    char path[15][4200];
    fg_writer *w = NULL;
    fg_err err;
    use("l.fulgur");
    dump(files[PART1].path, "a", 1);
    dump(files[PART2].path, "b", 1);
    life l = split();
    CHECK(live(&l, &err) == FG_EINVAL && strstr(err.msg, files[PART1].path) != NULL &&
          strstr(err.msg, files[PART2].path) != NULL && strstr(err.msg, "delete them") != NULL);
    CHECK(exists(files[PART1].path) && exists(files[PART2].path) && !exists(files[PART].path));
    use("l.fulgur");
    for (int i = 0; i < 15; i++) {
        dirs[i] = split_dir[0];
        (void)snprintf(path[i], sizeof path[i], "%s/l.fulgur.%d.part", dirs[i], i + 1);
        dump(path[i], "a", 1);
    }
    const fg_file_spec spec = {.n_part = 16};
    REQUIRE_OK(sample_writer(&w, files[OUT].path, spec, dirs, &err), &err);
    CHECK(fg_writer_begin(w, &err) == FG_EINVAL && strstr(err.msg, path[0]) != NULL);
    CHECK(strstr(err.msg, " more: there already, expected no such files; delete them") != NULL);
    fg_writer_destroy(&w);
    for (int i = 0; i < 15; i++) CHECK(unlink(path[i]) == 0);
}

/* Nobody waits for the other end of a pipe, and it is not taken for an empty file. */
FG_TEST(pipes_are_refused)
{
    fg_err err;
    whole w = want_of("q.fulgur");
    static const int at[] = {OUT, OUT2};
    (void)alarm(60); /* a wait ends the test */
    for (int i = 0; i < 2; i++) {
        fg_model_file *f;
        CHECK(unlink(files[at[i]].path) == 0 && mkfifo(files[at[i]].path, 0600) == 0);
        CHECK(fg_model_file_open(&f, files[OUT].path, &err) == FG_EIO);
        CHECK(strncmp(err.msg, files[at[i]].path, strlen(files[at[i]].path)) == 0 &&
              strstr(err.msg, "expected a regular file") != NULL);
        put(files[at[i]].path, w.bytes[at[i] == OUT ? 0 : 2], w.size[at[i] == OUT ? 0 : 2]);
    }
    fg_file f;
    CHECK_OK(fg_file_open(&f, files[OUT].path, false, &err), &err);
    CHECK((fcntl(f.fd, F_GETFL) & O_NONBLOCK) == 0);
    fg_file_close(&f);
    use("q.fulgur");
    CHECK(mkfifo(files[PART1].path, 0600) == 0);
    life l = split();
    CHECK(live(&l, &err) == FG_EINVAL && strstr(err.msg, files[PART1].path) != NULL &&
          strstr(err.msg, "not a regular file") != NULL && exists(files[PART1].path));
    (void)alarm(0);
    let_go(&w);
}

FG_TEST(larger_pages_are_refused)
{
    fg_model_file *f;
    fg_err err;
    whole w = want_of("g.fulgur");
    page_bytes = 65536;
    REQUIRE_OK(fg_model_file_open(&f, files[OUT].path, &err), &err); /* to be read, that is */
    CHECK(fg_model_file_mapped(f, &err) == FG_ENOTSUP &&
          strstr(err.msg, "pages of 65536 bytes") != NULL);
    fg_model_file_close(&f);
    page_bytes = 0;
    CHECK(verifies(files[OUT].path));
    use("g.fulgur");
    life l = plain(); /* control: one file */
    REQUIRE_OK(live(&l, &err), &err);
    page_bytes = 65536;
    REQUIRE_OK(fg_model_file_open(&f, files[OUT].path, &err), &err);
    CHECK_OK(fg_model_file_mapped(f, &err), &err);
    page_bytes = 0;
    fg_model_file_close(&f);
    let_go(&w);
}

FG_TEST(other_folders_are_another_conversion)
{
    fg_err err;
    whole w = want_of("o.fulgur");
    for (int i = 0; i < 4; i++) {
        use("o.fulgur");
        REQUIRE(stop());
        life l = split();
        if (i == 0) split_dir[0] = split_dir[1];
        if (i == 1) CHECK(unlink(files[PART2].path) == 0);
        if (i == 2) l.n_split = 1;
        if (i == 3) l.n_split = 0;
        char gone[4200]; /* may be on a drive that is not there */
        (void)snprintf(gone, sizeof gone, "%s: missing, expected part %d of the unfinished %s; ",
                       i == 0 ? files[PART1].path : files[PART2].path, i + 1, files[OUT].path);
        if (i == 0) (void)snprintf(gone, sizeof gone, "%s.part: missing, ", files[LINK1].path);
        CHECK(live(&l, &err) == FG_EINVAL && strstr(err.msg, files[PART].path) != NULL);
        CHECK(strstr(err.msg, i < 2 ? gone : "another conversion") != NULL);
        CHECK(exists(files[PART].path) && exists(files[LOG].path) && exists(files[PART1].path));
        if (i == 1) continue;
        split_dir[0] = "";
        use("other.fulgur"); /* sets the folders */
    }
    let_go(&w);
    use("l.fulgur");
    REQUIRE(stop());
    const int fd = open(files[PART2].path, O_RDWR);
    REQUIRE(fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
    life l = split();
    CHECK(live(&l, &err) == FG_EIO && strstr(err.msg, "another process") != NULL &&
          strstr(err.msg, files[PART2].path) != NULL);
    (void)close(fd);
    CHECK(live(&l, &err) == FG_OK && l.next > 0);
}

FG_TEST(space_of_the_holes_is_not_asked_for)
{
    fg_err err;
    whole w = want_of("s.fulgur");
    use("s.fulgur");
    life l = split();
    free_bytes = w.size[0] - 1; /* all on one drive */
    CHECK(live(&l, &err) == FG_EIO && strstr(err.msg, "bytes free") != NULL);
    for (int i = 0; i < N_FILE; i++) CHECK(!exists(files[i].path));
    free_bytes = w.size[0];
    l = split();
    CHECK(live(&l, &err) == FG_OK && is_whole(&w));
    let_go(&w);
}

/* --- damaged, missing, foreign parts --- */

static bool refused(fg_status want, const char *object, const char *why)
{
    fg_model_file *f;
    fg_err err = {0};
    const fg_status st = fg_model_file_open(&f, files[OUT].path, &err);
    fg_model_file_close(&f);
    const bool good =
        st == want && strncmp(err.msg, object, strlen(object)) == 0 && strstr(err.msg, why) != NULL;
    if (!good) printf("  %d: %s\n", (int)st, err.msg);
    return good;
}

FG_TEST(bad_parts)
{
    fg_err err;
    whole w = want_of("b.fulgur");
    const char *one = files[OUT1].path, *seen = files[LINK1].path, *two = files[OUT2].path;
    CHECK(unlink(one) == 0);
    CHECK(refused(FG_EIO, seen, "missing, expected part 1 of 3 of"));
    dump(one, w.bytes[2], w.size[2]);
    CHECK(refused(FG_EFORMAT, seen, "part 2 of 3, expected part 1 of 3"));
    dump(one, w.bytes[0], w.size[0]);
    CHECK(refused(FG_EFORMAT, seen, "no part of a model, expected part 1 of 3"));
    dump(one, w.bytes[1], 4095);
    CHECK(refused(FG_EFORMAT, seen, "4095 bytes, expected part 1 of 3"));
    dump(one, w.bytes[1], w.size[1] - 1);
    CHECK(refused(FG_EFORMAT, seen, "bytes, expected"));
    dump(one, w.bytes[1], w.size[1]);
    put(two, w.bytes[1], w.size[1]);
    CHECK(refused(FG_EFORMAT, two, "part 1 of 3, expected part 2 of 3"));
    put(two, w.bytes[2], w.size[2]);
    CHECK(verifies(files[OUT].path)); /* control */

    /* every bit of the header counts */
    for (uint64_t bit = 0; bit < 8 * FG_PART_HEADER_BYTES; bit += bit < 512 ? 1 : 97) {
        fg_model_file *f;
        w.bytes[1][bit / 8] ^= (uint8_t)(1u << bit % 8);
        const int fd = open(one, O_WRONLY);
        CHECK(fd >= 0 && pwrite(fd, w.bytes[1], FG_PART_HEADER_BYTES, 0) == FG_PART_HEADER_BYTES);
        (void)close(fd);
        CHECK(fg_model_file_open(&f, files[OUT].path, &err) != FG_OK);
        fg_model_file_close(&f);
        w.bytes[1][bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    /* a part by itself is no model */
    fg_model_file *f;
    CHECK(fg_model_file_open(&f, two, &err) == FG_EFORMAT &&
          strstr(err.msg, "a part of a split model, expected its main file") != NULL);
    let_go(&w);
}

/* Of the same shape and split, with other weights: only the hash tells. */
FG_TEST(parts_of_other_weights)
{
    fg_err err;
    whole w = want_of("w.fulgur"), v;
    use("w.fulgur");
    life l = split();
    l.data_seed = 8;
    REQUIRE_OK(live(&l, &err), &err);
    take(&v);
    CHECK(v.size[1] == w.size[1]);
    dump(files[OUT1].path, w.bytes[1], w.size[1]);
    CHECK(refused(FG_EFORMAT, files[LINK1].path, "a part of other weights, expected part 1 of 3"));
    dump(files[OUT1].path, v.bytes[1], v.size[1]);
    CHECK(verifies(files[OUT].path));
    let_go(&w);
    let_go(&v);
}

FG_TEST(damage_in_a_part_is_found)
{
    whole w = want_of("d.fulgur");
    fg_model_file *f;
    fg_err err = {0};
    uint64_t end;
    REQUIRE_OK(fg_model_file_open(&f, files[OUT].path, &err), &err);
    const fg_extent x = fg_model_file_expert_extent(f, 1, 1);
    uint64_t at = x.offset;
    while (fg_model_file_part_at(f, at, &end) != 2) at = end;
    w.bytes[2][at] ^= 1;
    put(files[OUT2].path, w.bytes[2], w.size[2]);
    fg_model_file_close(&f);
    REQUIRE_OK(fg_model_file_open(&f, files[OUT].path, &err), &err);
    CHECK(fg_model_file_verify(f, NULL, NULL, &err) == FG_ECHECKSUM);
    CHECK(strstr(err.msg, "chunk") != NULL && strstr(err.msg, "model.layers.1") != NULL &&
          strstr(err.msg, " in part 0, 1, 2") != NULL);
    fg_model_file_close(&f);
    /* control: a hole of the part is nobody's */
    w.bytes[2][at] ^= 1;
    w.bytes[2][FG_PART_HEADER_BYTES + 5] ^= 1;
    put(files[OUT2].path, w.bytes[2], w.size[2]);
    CHECK(verifies(files[OUT].path));
    let_go(&w);
}

/* The slot's field, under a right hash. */
FG_TEST(number_of_parts)
{
    static const struct {
        uint32_t version, n;
        fg_status want;
    } cases[] = {{3, 3, FG_OK},
                 {3, 2, FG_EFORMAT},
                 {3, 0, FG_OK},
                 {3, 1, FG_EFORMAT},
                 {3, 17, FG_EFORMAT},
                 {2, 3, FG_EFORMAT},
                 {3, 1u << 31, FG_EFORMAT},
                 {4, 3, FG_EVERSION}};
    whole w = want_of("h.fulgur");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fg_model_file *f;
        fg_err err = {0};
        uint8_t slot[FG_SLOT_BYTES];
        memcpy(slot, w.bytes[0], sizeof slot);
        for (int k = 0; k < 4; k++) {
            slot[8 + k] = (uint8_t)(cases[i].version >> (8 * k));
            slot[12 + k] = (uint8_t)(cases[i].version >> (8 * k));
            slot[104 + k] = (uint8_t)(cases[i].n >> (8 * k));
        }
        const uint64_t h = fg_hash64(slot, FG_SLOT_BYTES - 8);
        for (int k = 0; k < 8; k++) slot[FG_SLOT_BYTES - 8 + k] = (uint8_t)(h >> (8 * k));
        const int fd = open(files[OUT].path, O_WRONLY);
        CHECK(fd >= 0 && pwrite(fd, slot, sizeof slot, 0) == (ssize_t)sizeof slot);
        (void)close(fd);
        const fg_status st = fg_model_file_open(&f, files[OUT].path, &err);
        if (st != cases[i].want) fg_test_fail(__FILE__, __LINE__, "%zu: %s", i, err.msg);
        if (st == FG_OK && cases[i].n == 0) { /* opens, as one file, and holes are no weights */
            CHECK(fg_model_file_verify(f, NULL, NULL, &err) == FG_ECHECKSUM);
        }
        fg_model_file_close(&f);
    }
    let_go(&w);
}

/* Of opening and of a whole life. */
FG_TEST(allocation_failures)
{
    fg_model_file *f = NULL;
    fg_err err;
    whole w = want_of("a.fulgur");
    for (uint64_t n = 1;; n++) {
        fg_mem_fail_after(n);
        const fg_status st = fg_model_file_open(&f, files[OUT].path, &err);
        fg_mem_fail_after(0);
        if (st == FG_OK) break;
        CHECK(st == FG_ENOMEM && f == NULL);
    }
    fg_model_file_close(&f);
    uint64_t n = 1;
    for (;; n++) {
        use("a.fulgur");
        life l = split();
        fg_mem_fail_after(n);
        const fg_status st = live(&l, &err);
        fg_mem_fail_after(0);
        if (st == FG_OK) break;
        CHECK(st == FG_ENOMEM);
        CHECK(l.kept || (!exists(files[PART1].path) && !exists(files[PART2].path)));
        if (n > 60) n += n / 4;
    }
    CHECK(n > 40 && is_whole(&w));
    let_go(&w);
}

FG_TEST(misuse)
{
    fg_err err;
    fg_writer *w;
    use("u.fulgur");
    const char *const none[] = {"/nonexistent-folder"}, *const many[] = {
                                                            ".", ".", ".", ".", ".", ".", ".", ".",
                                                            ".", ".", ".", ".", ".", ".", ".", "."};
    const char *out = files[OUT].path;
    CHECK(sample_writer(&w, out, (fg_file_spec){.n_part = 2}, none, &err) == FG_EIO);
    CHECK(w == NULL && strstr(err.msg, none[0]) != NULL);
    CHECK(sample_writer(&w, out, (fg_file_spec){.n_part = 17}, many, &err) == FG_EINVAL);
    /* folders are not used for a file of one part */
    REQUIRE_OK(sample_writer(&w, out, (fg_file_spec){0}, none, &err), &err);
    const fg_file_plan *p = fg_writer_plan(w);
    CHECK_U64(fg_file_plan_share(p, 0, 0, 1000), 1000);
    CHECK_U64(fg_file_plan_share(p, 0, 0, UINT64_MAX), UINT64_MAX);
    fg_writer_destroy(&w);
}

/* What goes to which drive, before there is a writer. */
FG_TEST(drives_share_a_plan)
{
    const fg_shape shape = sample_shape();
    const fg_file_spec spec = {.shape = &shape, .choose = sample_choose, .n_part = 3};
    const char *const none[] = {"/nonexistent-folder"};
    fg_err err;
    fg_file_plan *p;
    fg_part_drives d;
    use("d.fulgur");
    const char *out = files[OUT].path;
    REQUIRE_OK(fg_file_plan_make(&p, &spec, out, &err), &err);
    REQUIRE_OK(fg_part_drives_find(&d, out, split_dir, 2, &err), &err);
    const uint64_t all = fg_file_plan_file_bytes(p);
    uint64_t sum = 0;
    CHECK(d.n == 3 && d.drive[0] == d.drive[2]);
    for (uint32_t k = 0; k < 3; k++) {
        CHECK(fg_file_plan_share(p, k, 0, all) > 0);
        sum += fg_file_plan_share(p, k, 0, all);
    }
    CHECK_U64(sum, all);
    d.drive[1] = d.drive[0] + 1; /* as if it were another */
    CHECK_U64(fg_part_drives_share(&d, p, 1, 0, all), fg_file_plan_share(p, 1, 0, all));
    CHECK_U64(fg_part_drives_share(&d, p, 0, 0, all) + fg_part_drives_share(&d, p, 1, 0, all), all);
    CHECK(fg_part_drives_find(&d, out, none, 1, &err) == FG_EIO);
    CHECK(strstr(err.msg, none[0]) != NULL);
    CHECK(fg_part_drives_find(&d, out, split_dir, 16, &err) == FG_EINVAL);
    fg_file_plan_destroy(&p);
}
