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
