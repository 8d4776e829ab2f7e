/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/carry/carry.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"

static int run_status(int argc, char **argv);
static int run_pack(int argc, char **argv);
static int run_unpack(int argc, char **argv);

static const command cmd_carry_status = {
    .name = "carry status",
    .summary = "what of a model is on the way",
    .synopsis = "MODEL|STICK",
    .example = "fulgur carry status m1.fulgur\n"
               "fulgur carry status /media/stick",
    .description = "Says what of a model that is being carried is still to be sent, on the way and "
                   "there; of a stick, what it has. Nothing is changed.",
    .run = run_status,
};

static const command cmd_carry_unpack = {
    .name = "carry unpack",
    .summary = "take over a model that comes on sticks",
    .synopsis = "STICK",
    .example = "fulgur carry unpack /media/stick -o /models/m1.fulgur\n"
               "fulgur carry unpack - -o m1.fulgur </dev/ttyS0",
    .description =
        "Compares every MiB of the pieces on STICK with its SHA-256, puts it into its place, and "
        "reads it back from the disk. It leaves `carry.received` on the stick: take the stick back "
        "to `fulgur carry pack`, which then replaces what arrived and sends damaged ranges again. "
        "When all is there the model gets its name; until then OUT.carry keeps what is known, and "
        "the command may be killed and run again at any time.\n"
        "Nothing on the stick is removed; with `--move` each piece is, once it is on the disk and "
        "was read back. A hash in a piece finds damage, and proves nothing about who made it: "
        "`fulgur verify OUT --key FILE` does, with the signature that was carried along.\n"
        "`-` reads what `fulgur carry pack MODEL -` writes. What is lost on the way is found and "
        "left out; sending everything once more fills the gaps.",
    .sub = &cmd_carry_status,
    .run = run_unpack,
};

static const command cmd_carry_pack = {
    .name = "carry pack",
    .summary = "fill a stick with the next pieces of a model",
    .synopsis = "MODEL STICK",
    .example = "fulgur carry pack m1.fulgur /media/stick\n"
               "fulgur carry pack m1.fulgur /media/stick --move\n"
               "fulgur carry pack m1.fulgur - >/dev/ttyS0",
    .description =
        "Fills the folder STICK with pieces of MODEL, of its parts and of its signature, syncs, "
        "and "
        "reads all of it back past the page cache: a medium that loses data, or is smaller than it "
        "says, is found out here. Then it says how many more sticks of this size it takes. "
        "MODEL.carry keeps what is where; the command may be killed and run again at any time.\n"
        "A stick that comes back with `carry.received` says what has arrived: these pieces make "
        "room for the next, and damaged ranges are sent again. What was on a stick that is lost is "
        "sent again with `--again`. An answer that is to an earlier transfer of the same model, or "
        "of another receiver than the first that answered, is refused: what one machine has the "
        "other has not. For a second receiver delete MODEL.carry and the answers first.\n"
        "Pieces are at most 4,095 MiB, which FAT can hold, or `--piece`. Nothing is removed. With "
        "`--move` ranges of MODEL that have arrived are given back to the file system (holes are "
        "punched; where it has none the model is sent from its end, and cut), so that sender and "
        "receiver together need room for one copy: from then on MODEL cannot be used.\n"
        "`-` writes everything to standard output, for a line that goes one way.",
    .sub = &cmd_carry_unpack,
    .run = run_pack,
};

const command cmd_carry = {
    .name = "carry",
    .summary = "carry a model on sticks that are smaller than it",
    .synopsis = "MODEL|STICK",
    .example = "fulgur carry pack m1.fulgur /media/stick\n"
               "fulgur carry unpack /media/stick -o m1.fulgur\n"
               "fulgur carry status m1.fulgur",
    .description = "`fulgur carry pack` fills sticks with pieces of a model, `fulgur carry unpack` "
                   "puts them together on the other machine, as often as it takes, and each stick "
                   "brings back the answer. Without either word it is `fulgur carry status`.",
    .sub = &cmd_carry_pack,
    .run = run_status,
};

/* ---- what is shown meanwhile ---- */

/* What it is at, and a thread that says so when nothing moves: a disk may keep a call for minutes,
 * which no progress of ours interrupts. */
typedef struct telling {
    const char *phase[3]; /* of fg_carry_phase */
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t end;
    pthread_t thread;
    bool threaded, ends;
    progress p;
    uint64_t done, moved_ns, said_ns;
    uint32_t n_told; /* lines about what a stick has: somebody may have put thousands there */
} telling;

enum { MOST_TOLD = 20 };
enum { TICK_MS = 500, QUIET_S = 2, QUIET_LINE_S = 30, QUIET_AGAIN_S = 600 };
#define SECOND ((uint64_t)1000000000)

static const char *for_whom(void)
{
    return cli_interrupted() ? "stops when the disk answers (once more stops at once)"
                             : "waiting for the disk or line";
}

/* Nothing has moved for a while: a row on a terminal, else a line now and then. */
static void look(telling *t)
{
    const uint64_t now = fg_clock_ns(), quiet = (now - t->moved_ns) / SECOND;
    if (args_quiet() || quiet < QUIET_S) return;
    if (t->p.on) {
        fprintf(stderr, "\r%s: %s, %llu s\033[K", t->p.what, for_whom(), (unsigned long long)quiet);
        (void)fflush(stderr);
        t->p.drawn = true;
        return;
    }
    const uint64_t since = t->said_ns > t->moved_ns ? t->said_ns : t->moved_ns;
    const uint64_t patience = t->said_ns > t->moved_ns ? QUIET_AGAIN_S : QUIET_LINE_S;
    if (now - since < patience * SECOND) return;
    fprintf(stderr, "%s: %s, %llu s\n", t->p.what, for_whom(), (unsigned long long)quiet);
    t->said_ns = now;
}

static void *watch(void *ctx)
{
    telling *t = ctx;
    (void)pthread_mutex_lock(&t->lock);
    while (!t->ends) {
        struct timespec until;
        (void)clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += TICK_MS * 1000000L;
        until.tv_sec += until.tv_nsec / (long)SECOND;
        until.tv_nsec %= (long)SECOND;
        (void)pthread_cond_timedwait(&t->end, &t->lock, &until);
        if (!t->ends) look(t);
    }
    (void)pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void begin_telling(telling *t, const char *look, const char *copy, const char *check)
{
    *t = (telling){.phase = {look, copy, check}};
    progress_start(&t->p, look, "B");
    t->moved_ns = fg_clock_ns();
    (void)pthread_mutex_init(&t->lock, NULL);
    (void)pthread_cond_init(&t->end, NULL);
    t->threaded = pthread_create(&t->thread, NULL, watch, t) == 0; /* else nobody says it */
}

static void end_telling(telling *t)
{
    (void)pthread_mutex_lock(&t->lock);
    t->ends = true;
    (void)pthread_cond_signal(&t->end);
    (void)pthread_mutex_unlock(&t->lock);
    if (t->threaded) (void)pthread_join(t->thread, NULL);
    (void)pthread_cond_destroy(&t->end);
    (void)pthread_mutex_destroy(&t->lock);
    progress_end(&t->p);
}

/* Rates are those of the phase. */
static bool show(void *ctx, fg_carry_phase phase, uint64_t done, uint64_t total)
{
    telling *t = ctx;
    (void)pthread_mutex_lock(&t->lock);
    const bool begins = t->p.what != t->phase[phase];
    if (begins || done != t->done) t->moved_ns = fg_clock_ns();
    if (begins) {
        t->p.what = t->phase[phase];
        t->p.unit = phase == FG_CARRY_LOOK ? "pieces" : "B";
        t->p.start_ns = t->moved_ns;
        t->p.from = done;
    }
    if (total > 0 && (begins || done != t->done)) (void)progress_show(&t->p, done, total);
    t->done = done;
    (void)pthread_mutex_unlock(&t->lock);
    return !cli_interrupted();
}

static void tell(void *ctx, const char *line)
{
    telling *t = ctx;
    (void)pthread_mutex_lock(&t->lock);
    progress_end(&t->p);
    t->p.drawn = false;
    if (t->n_told < MOST_TOLD) cli_note("fulgur: %s\n", line);
    if (t->n_told++ == MOST_TOLD) cli_note("fulgur: ... more of the kind\n");
    (void)pthread_mutex_unlock(&t->lock);
}

/* ---- the commands ---- */

#define PIECE_OPT(o)                                                                               \
    {                                                                                              \
        "piece", 0, OPT_SIZE, &(o).piece_bytes, 0, 0, "SIZE",                                      \
            "bytes of a piece at most (default: 4095M, through a pipe 16M)"                        \
    }

static void print_state(const char *path, const fg_carry_report *r)
{
    printf("%s: %s, %s arrived", cli_shown(path), cli_bytes((double)r->total),
           cli_bytes((double)r->arrived));
    if (r->sent > 0) printf(", %s on the way", cli_bytes((double)r->sent));
    if (r->bad > 0) printf(", %s damaged", cli_bytes((double)r->bad));
    if (r->left > 0) printf(", %s to come", cli_bytes((double)r->left));
    printf("\n");
}

static int run_status(int argc, char **argv)
{
    const char *path;
    int status;
    const bool named = strcmp(argv[0], "carry") != 0;
    if (!args_parse(named ? &cmd_carry_status : &cmd_carry, NULL, 0, argc, argv, &path, 1, &status))
        return status;
    fg_err err = {0};
    fg_carry_report r;
    telling t;
    begin_telling(&t, "status", "status", "status");
    const fg_status st = fg_carry_status(path, &r, &err);
    end_telling(&t);
    if (st != FG_OK) return cli_fail(&err);
    print_state(path, &r);
    if (r.now > 0) printf("here        pieces with %s\n", cli_bytes((double)r.now));
    return cli_finish_stdout();
}

static void print_packed(const char *model, const char *stick, const fg_carry_report *r)
{
    if (r->bad > 0)
        printf("%s: %s arrived damaged, sent again\n", cli_shown(stick), cli_bytes((double)r->bad));
    if (r->trip > 0) {
        printf("%s: %llu of %llu full, %s%s\n", cli_shown(stick), (unsigned long long)r->trip,
               (unsigned long long)r->trips, cli_bytes((double)r->now),
               r->left > 0 ? ": next stick" : ": the last one");
    } else if (r->left > 0) {
        printf("%s: full: next stick\n", cli_shown(stick));
    } else if (r->sent > 0) {
        printf("%s: nothing left to send, %s not confirmed: the stick that had them brings the "
               "answer; if it is lost, --again sends them once more\n",
               cli_shown(stick), cli_bytes((double)r->sent));
    } else {
        printf("%s: all of it has arrived\n", cli_shown(model));
    }
}

static int run_pack(int argc, char **argv)
{
    telling t;
    fg_carry_opts o = {.progress = show, .ctx = &t, .note = tell};
    const opt opts[] = {
        PIECE_OPT(o),
        {"move", 0, OPT_FLAG, &o.move, 0, 0, NULL, "free ranges of MODEL that have arrived"},
        {"again", 0, OPT_FLAG, &o.again, 0, 0, NULL, "send again what was not confirmed"},
    };
    const char *operand[2];
    int status;
    if (!args_parse(&cmd_carry_pack, opts, 3, argc, argv, operand, 2, &status)) return status;
    if (o.piece_bytes != 0 && (o.piece_bytes < 2 << 20 || o.piece_bytes > FG_CARRY_PIECE)) {
        return args_usage(&cmd_carry_pack, "--piece: %llu bytes, expected 2 MiB to 4095 MiB",
                          (unsigned long long)o.piece_bytes);
    }
    const bool pipe = strcmp(operand[1], "-") == 0;
    fg_err err = {0};
    fg_carry_report r;
    cli_catch_interrupt();
    begin_telling(&t, "pack: looking at the stick", "pack", "pack: reading back");
    const fg_status st = pipe ? fg_carry_send(operand[0], STDOUT_FILENO, &o, &r, &err)
                              : fg_carry_pack(operand[0], operand[1], &o, &r, &err);
    end_telling(&t);
    if (st != FG_OK) return cli_fail(&err);
    if (pipe) return EXIT_OK;
    print_packed(operand[0], operand[1], &r);
    return cli_finish_stdout();
}

static int run_unpack(int argc, char **argv)
{
    telling t;
    const char *stick, *out = NULL;
    fg_carry_opts o = {.progress = show, .ctx = &t, .note = tell};
    const opt opts[] = {
        {"out", 'o', OPT_STR, &out, 0, 0, "FILE",
         "the model, or a folder for it (default: here, under its name)"},
        {"move", 0, OPT_FLAG, &o.move, 0, 0, NULL, "remove pieces of the stick that are safe here"},
    };
    int status;
    if (!args_parse(&cmd_carry_unpack, opts, 2, argc, argv, &stick, 1, &status)) return status;
    fg_err err = {0};
    fg_carry_report r;
    cli_catch_interrupt();
    begin_telling(&t, "unpack: looking at the stick", "unpack", "unpack: reading back");
    const fg_status st = strcmp(stick, "-") == 0 ? fg_carry_receive(STDIN_FILENO, out, &o, &r, &err)
                                                 : fg_carry_unpack(stick, out, &o, &r, &err);
    end_telling(&t);
    if (st != FG_OK) return cli_fail(&err);
    if (r.complete) {
        printf("%s: complete, %s\n", cli_shown(r.out), cli_bytes((double)r.total));
    } else {
        print_state(r.out, &r);
    }
    return cli_finish_stdout();
}
