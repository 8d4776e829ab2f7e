/* SPDX-License-Identifier: MIT
 *
 * Sessions on a disk that loses power or refuses: whatever happened, the session opens, little is
 * lost, little is evaluated again, and what follows is what would have followed.
 */
#include <sys/mman.h>
#include <sys/wait.h>

#include "tests/engine/lossy_disk.h"
#include "tests/engine/talk.h"

enum { SAVE = 96 };

static volatile uint64_t *seen; /* [2] of the process that dies: position, whether in a prompt */

static talk start(fg_engine *e)
{
    return (talk){.e = e,
                  .dir = disk_root,
                  .name = "t",
                  .o = {.log_tokens = 16, .save_tokens = SAVE, .bytes = 1}};
}

static bool rig(fg_engine **e)
{
    static char root[MAX_NAME];
    if (seen == NULL) {
        seen = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    }
    (void)snprintf(root, sizeof root, "%s", fg_test_tmpdir());
    disk_root = root;
    *e = model_open(TINY_DIR, "q4", 1, NULL);
    return *e != NULL && seen != MAP_FAILED;
}

static void clear(const char *name)
{
    fg_err err;
    const fg_status st = fg_saved_remove(disk_root, name, &err);
    CHECK(st == FG_OK || st == FG_EINVAL);
    disk_note_all(disk_root);
    n_op = fail_at = die_at = fail_from = 0;
}

/* The ids that everybody must end with. */
static bool reference(fg_engine *e, talk *want)
{
    fg_err err = {0};
    *want = start(e);
    clear("t");
    CHECK_OK(talk_live(want, &err), &err);
    clear("t");
    return want->n_id == turn_end(N_TURN - 1) && want->n_failed == 0;
}

static bool is_same(const talk *a, const talk *b)
{
    return a->n_id == b->n_id && memcmp(a->ids, b->ids, (size_t)a->n_id * sizeof *a->ids) == 0;
}

/* A life in a process of its own that dies at this operation; true: it did. */
static bool die_of(const talk *life, int op, uint64_t seed)
{
    int status = 0;
    (void)fflush(stdout);
    seen[0] = seen[1] = 0;
    const pid_t pid = fork();
    if (pid == 0) {
        fg_err err = {0};
        talk k = *life;
        k.seen = seen;
        disk_note_all(disk_root);
        n_op = 0;
        die_at = op;
        die_seed = seed;
        const fg_status st = talk_live(&k, &err);
        if (st != FG_OK) fprintf(stderr, "%s\n", err.msg);
        _exit(st == FG_OK && !fg_test_failed() ? 0 : 1);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == DIED || WEXITSTATUS(status) == 0);
    return WEXITSTATUS(status) == DIED;
}

static bool die(fg_engine *e, int op, uint64_t seed)
{
    const talk k = start(e);
    return die_of(&k, op, seed);
}

/* A life after a death: what was lost, what was done again, what became of it. */
static void live_on(fg_engine *e, const talk *want, int op, uint64_t *lost, uint64_t *again)
{
    fg_err err = {0};
    talk k = start(e);
    const fg_status st = talk_live(&k, &err);
    if (st != FG_OK) fg_test_fail(__FILE__, __LINE__, "operation %d: %s", op, err.msg);
    if (!is_same(&k, want)) fg_test_fail(__FILE__, __LINE__, "operation %d: other text", op);
    const talk_state y = talk_look(&k);
    if (y.n_user != N_TURN || y.n_assistant != N_TURN || y.n_end != N_TURN || y.n_forced != 1) {
        fg_test_fail(__FILE__, __LINE__, "operation %d: other messages", op);
    }
    /* of the reply; a prompt is in the message, and what it led to is evaluated again */
    const uint64_t behind = *seen > k.from ? *seen - k.from : 0, gone = seen[1] ? 0 : behind;
    if (seen[1]) k.again += behind;
    if (gone > 16) fg_test_fail(__FILE__, __LINE__, "operation %d: %d tokens lost", op, (int)gone);
    if (k.again > SAVE) {
        fg_test_fail(__FILE__, __LINE__, "operation %d: %d evaluated again", op, (int)k.again);
    }
    if (gone > *lost) *lost = gone;
    if (k.again > *again) *again = k.again;
}

static void power_loss(int usual, int sanitized)
{
    fg_engine *e;
    talk want;
    uint64_t lost = 0, again = 0;
    int op = 1, deaths = 0;
    REQUIRE(rig(&e) && reference(e, &want));
    for (;; op += fg_test_every(usual, sanitized)) {
        clear("t");
        if (!die(e, op, (uint64_t)op)) break;
        deaths++;
        live_on(e, &want, op, &lost, &again);
    }
    printf("  %d operations, %d deaths, at most %d tokens lost, %d evaluated again\n", op - 1,
           deaths, (int)lost, (int)again);
    /* of the deaths of a sample none need be in a reply */
    CHECK(op > 100 && again > 0 && (lost > 0 || !fg_test_long()));
    fg_engine_close(&e);
}

FG_TEST(power_loss_at_every_operation)
{
    drops_all = false;
    power_loss(17, 67);
}

FG_TEST(unsynced_writes_are_dropped)
{
    drops_all = true;
    power_loss(19, 67);
    drops_all = false;
}

/* Where prompts are not saved within, more is evaluated again than may be: the count has teeth. */
FG_TEST(control_prompts_that_are_not_saved)
{
    fg_engine *e;
    talk want;
    uint64_t most = 0;
    REQUIRE(rig(&e) && reference(e, &want));
    for (int op = 15; most <= SAVE; op++) {
        fg_err err = {0};
        clear("t");
        talk k = start(e);
        k.o.save_tokens = 100000;
        if (!die_of(&k, op, 1)) break;
        talk later = start(e);
        if (seen[1] == 0) continue;
        CHECK_OK(talk_live(&later, &err), &err);
        const uint64_t again = later.again + (*seen > later.from ? *seen - later.from : 0);
        if (again > most) most = again;
    }
    CHECK(most > SAVE);
    fg_engine_close(&e);
}

/* Several deaths of one session, each wherever. */
FG_TEST(many_deaths_of_one_session)
{
    fg_engine *e;
    talk want;
    fg_rng r;
    uint64_t lost = 0, again = 0;
    int deaths = 0;
    fg_rng_init(&r, 4);
    REQUIRE(rig(&e) && reference(e, &want));
    for (int round = 0; round < (fg_test_long() ? 6 : 2); round++) {
        clear("t");
        while (die(e, 1 + (int)(fg_rng_u64(&r) % 60), fg_rng_u64(&r))) {
            deaths++;
            fg_err err = {0};
            fg_saved_info *info;
            const fg_status st = fg_saved_read(&info, disk_root, "t", &err);
            if (st == FG_OK) CHECK(info->n_token + (seen[1] ? SAVE : 16) >= *seen);
            if (st == FG_OK) fg_saved_info_free(&info);
        }
        live_on(e, &want, round, &lost, &again);
    }
    CHECK(deaths > 4);
    fg_engine_close(&e);
}

/* The disk has teeth: where syncs lie, more is lost than may be. */
FG_TEST(control_a_lying_disk_is_found_out)
{
    fg_engine *e;
    talk want;
    REQUIRE(rig(&e) && reference(e, &want));
    uint64_t most = 0;
    drops_all = true;
    for (int lies = 0; lies < 2; lies++) {
        clear("t");
        disk_lies = lies == 1;
        REQUIRE(die(e, 60, 1));
        disk_lies = false;
        fg_err err = {0};
        talk k = start(e);
        CHECK_OK(talk_live(&k, &err), &err);
        CHECK(is_same(&k, &want)); /* even so */
        most = *seen > k.from ? *seen - k.from : 0;
        CHECK(lies == 1 ? most > 64 : most <= 16);
    }
    drops_all = false;
    fg_engine_close(&e);
}

/* A refusal at any operation is told once, costs nothing, and the next write makes up for it. */
FG_TEST(a_failure_of_every_operation)
{
    fg_engine *e;
    talk want;
    int op = 1, told = 0, refused = 0;
    REQUIRE(rig(&e) && reference(e, &want));
    for (;; op += fg_test_every(19, 67)) {
        fg_err err = {0};
        clear("t");
        talk k = start(e);
        disk_note_all(disk_root);
        n_op = 0;
        fail_at = op;
        const fg_status st = talk_live(&k, &err);
        fail_at = 0;
        if (n_op < op) break;
        if (st != FG_OK) { /* at the start, where nothing is begun */
            refused++;
            CHECK(st == FG_EIO && k.n_id == 0 && strstr(err.msg, disk_root) != NULL);
            continue;
        }
        told += k.n_failed > 0;
        CHECK(k.n_failed <= 1 && is_same(&k, &want)); /* an unlink is nobody's loss */
        if (k.n_failed > 0) CHECK(strstr(k.failed.msg, disk_root) != NULL);
        talk later = start(e);
        CHECK_OK(talk_live(&later, &err), &err);
        /* but what failed at the end */
        CHECK(is_same(&later, &want) && later.from + 16 >= want.n_id);
        CHECK_OK(fg_saved_verify(disk_root, "t", NULL, NULL, NULL, &err), &err);
    }
    printf("  %d operations, %d failures told, %d at the start\n", op - 1, told, refused);
    CHECK(op > 100 && told > op / fg_test_every(19, 67) / 2);
    fg_engine_close(&e);
}

/* ---- another room, another past ---- */

enum { SAID = 200, ANSWERED = 60, OTHER = 30, OTHER_ROOM = 700 };

/* What chat does for /forget-thinking, from a session that is opened: the reply becomes another one
 * beside the log, which is told of it in one group; and for /ctx. */
static fg_status change(fg_engine *e, fg_err *err)
{
    fg_saved *v = NULL;
    fg_session *s = model_session(e, ROOM, 64), *other = NULL;
    const fg_saved_opts o = {.log_tokens = 16, .save_tokens = SAVE, .bytes = 1};
    uint32_t ids[OTHER];
    uint64_t at;
    for (uint32_t i = 0; i < OTHER; i++) ids[i] = 7 + i;
    fg_status st = s == NULL ? FG_ENOMEM : fg_saved_open(&v, s, disk_root, "t", &o, err);
    if (st == FG_OK) st = fg_saved_back(v, SAID, 0, &at, err);
    if (st == FG_OK && at < SAID) {
        fg_saved_info *f;
        st = fg_saved_read(&f, disk_root, "t", err);
        if (st == FG_OK) st = fg_session_eval(s, f->ids + at, SAID - at, NULL, NULL, err);
        if (st == FG_OK) fg_saved_info_free(&f);
    }
    if (st == FG_OK) st = fg_session_eval(s, ids, OTHER, NULL, NULL, err);
    if (st == FG_OK) st = fg_saved_retell(v, SAID, err);
    if (st == FG_OK) st = fg_saved_message_at(v, SAID, FG_MESSAGE_ASSISTANT, "", 0, err);
    if (st == FG_OK) st = fg_saved_note_at(v, SAID + OTHER, FG_SAVED_END, "other", 5, err);
    if (st == FG_OK) st = fg_saved_save(v, NULL, 0, err);
    if (st == FG_OK) st = fg_session_fork_into(&other, s, OTHER_ROOM, err);
    if (st == FG_OK) fg_saved_move(v, other);
    if (st == FG_OK) st = fg_saved_note(v, FG_SAVED_SETTINGS, "room", 4, err);
    if (st == FG_OK) st = fg_saved_sync(v, NULL, 0, err);
    fg_saved_close(&v);
    fg_session_destroy(&other);
    fg_session_destroy(&s);
    return st;
}

/* Two messages and an answer. */
static fg_status begin(fg_engine *e, fg_err *err)
{
    fg_saved *v = NULL;
    fg_session *s = model_session(e, ROOM, 64);
    const fg_saved_opts o = {.log_tokens = 16, .save_tokens = SAVE, .bytes = 1};
    uint32_t ids[SAID + ANSWERED];
    for (uint32_t i = 0; i < SAID + ANSWERED; i++) ids[i] = 1 + i % 200;
    fg_status st = s == NULL ? FG_ENOMEM : fg_saved_open(&v, s, disk_root, "t", &o, err);
    if (st == FG_OK) st = fg_saved_message(v, FG_MESSAGE_USER, "hello", 5, err);
    if (st == FG_OK) st = fg_saved_eval(v, ids, SAID, err);
    if (st == FG_OK) st = fg_saved_message(v, FG_MESSAGE_ASSISTANT, "", 0, err);
    if (st == FG_OK) st = fg_saved_eval(v, ids + SAID, ANSWERED, err);
    if (st == FG_OK) st = fg_saved_note(v, FG_SAVED_END, "first", 5, err);
    if (st == FG_OK) st = fg_saved_note(v, FG_SAVED_SETTINGS, "none", 4, err);
    if (st == FG_OK) st = fg_saved_save(v, NULL, 0, err);
    fg_saved_close(&v);
    fg_session_destroy(&s);
    return st;
}

/* Which of the pasts the log has, in whole: 0 the first, 1 the other, 2 with the other room; 3:
 * something between. */
static int which(void)
{
    fg_saved_info *f;
    fg_err err = {0};
    int found = 3;
    if (fg_saved_read(&f, disk_root, "t", &err) != FG_OK) return 3;
    const uint64_t other[] = {SAID + ANSWERED, SAID + OTHER, SAID + OTHER};
    static const char *const end[] = {"first", "other", "other"}, *set[] = {"none", "none", "room"};
    for (int i = 0; i < 3; i++) {
        bool ok = f->n_token == other[i] && f->n_settings == 4 && f->n_message == 2 &&
                  memcmp(f->settings, set[i], 4) == 0;
        int n_end = 0;
        for (size_t k = 0; k < f->n_event; k++) {
            if (f->event[k].kind != FG_SAVED_END) continue;
            n_end++;
            ok = ok && f->event[k].pos == other[i] && memcmp(f->event[k].payload, end[i], 5) == 0;
        }
        for (uint32_t k = SAID; ok && k < f->n_token; k++) {
            ok = f->ids[k] == (i == 0 ? 1 + k % 200 : 7 + k - SAID);
        }
        if (ok && n_end == 1) found = i;
    }
    fg_saved_info_free(&f);
    return found;
}

/* Power lost while the past or the room changes: the disk has the old or the new in whole. */
FG_TEST(a_change_of_the_past_is_there_or_not)
{
    fg_engine *e;
    fg_err err = {0};
    int n_found[4] = {0};
    REQUIRE(rig(&e));
    for (int op = 1;; op += fg_test_every(1, 3)) {
        int status = 0;
        drops_all = op % 2 == 1;
        clear("t");
        REQUIRE_OK(begin(e, &err), &err);
        CHECK(which() == 0);
        disk_note_all(disk_root);
        (void)fflush(stdout);
        const pid_t pid = fork();
        if (pid == 0) {
            n_op = 0;
            die_at = op;
            die_seed = (uint64_t)op;
            const fg_status st = change(e, &err);
            if (st != FG_OK) fprintf(stderr, "%s\n", err.msg);
            _exit(st == FG_OK ? 0 : 1);
        }
        CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
        const int is = which();
        n_found[is]++;
        if (is == 3) fg_test_fail(__FILE__, __LINE__, "operation %d: neither past", op);
        if (WEXITSTATUS(status) != DIED) {
            CHECK(WEXITSTATUS(status) == 0 && is == 2);
            break;
        }
        fg_saved *v = NULL; /* and it opens */
        fg_session *s = model_session(e, ROOM, 64);
        REQUIRE(s != NULL);
        REQUIRE_OK(fg_saved_open(&v, s, disk_root, "t", &(fg_saved_opts){0}, &err), &err);
        CHECK(fg_session_logits(s) != NULL && which() == is);
        fg_saved_close(&v);
        fg_session_destroy(&s);
    }
    drops_all = false;
    printf("  the first %d times, the other %d, with the other room %d\n", n_found[0], n_found[1],
           n_found[2]);
    CHECK(n_found[0] > 0 && n_found[1] > 1);
    fg_engine_close(&e);
}

/* A disk that is full from some operation on, and then has room again. */
FG_TEST(a_full_disk)
{
    fg_engine *e;
    talk want;
    REQUIRE(rig(&e) && reference(e, &want));
    for (int op = 20; op < 100; op += 40) {
        fg_err err = {0};
        clear("t");
        talk k = start(e);
        disk_note_all(disk_root);
        n_op = 0;
        fail_from = op;
        CHECK_OK(talk_live(&k, &err), &err);
        fail_from = 0;
        CHECK(k.n_failed > 0 && is_same(&k, &want));
        CHECK(strstr(k.failed.msg, "No space left") != NULL ||
              strstr(k.failed.msg, "Input/output") != NULL);
        talk later = start(e);
        CHECK_OK(talk_live(&later, &err), &err);
        CHECK(is_same(&later, &want) && later.from < want.n_id);
        CHECK_OK(fg_saved_verify(disk_root, "t", NULL, NULL, NULL, &err), &err);
    }
    fg_engine_close(&e);
}

/* SIGTERM in an answer: all is saved, and the answer goes on with the same random numbers. */
FG_TEST(stopped_in_the_middle_of_an_answer)
{
    fg_engine *e;
    talk want;
    REQUIRE(rig(&e) && reference(e, &want));
    for (uint64_t at = 120; at < 131; at += 5) {
        fg_err err = {0};
        talk k = start(e), later = start(e);
        k.stop_at = at;
        CHECK_OK(talk_live(&k, &err), &err);
        CHECK_OK(talk_live(&later, &err), &err);
        CHECK(later.from == at && later.again == 1 && is_same(&later, &want));
        clear("t");
    }
    fg_engine_close(&e);
}
