/* SPDX-License-Identifier: MIT
 *
 * A conversation: the session keeps everything said so far, so that each turn evaluates only what
 * is new.  Messages come from the terminal, from lines of a pipe, or one from the command line.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/base/utf8.h"
#include "src/cli/conversation.h"
#include "src/cli/commands.h"
#include "src/cli/origin.h"
#include "src/cli/screen.h"
#include "src/cli/state_dir.h"

static int run(int argc, char **argv);

const command cmd_chat = {
    .name = "chat",
    .summary = "conversation in the terminal",
    .synopsis = "MODEL",
    .example = "fulgur chat m1.fulgur --system 'You are a helpful assistant.'\n"
               "fulgur chat m1.fulgur --think hide -p 'What is 289 + 8794?'\n"
               "fulgur chat m1.fulgur --system-file rules.txt -f question.txt --json",
    .description =
        "A conversation: each turn evaluates only what is new. What you type is text, never "
        "markup. Without a terminal, each line of standard input is a turn.\n"
        "Enter sends; Alt-Enter, or a backslash at the end, begins a new line, `\"\"\"` begins and "
        "ends a longer text, and pasted text stays together. Lines with a slash in front are "
        "commands (`/help`, Tab); `//` sends one.\n"
        "Ctrl-C stops a reply, which stays as far as it came; `/continue` goes on with it. While "
        "a message is evaluated it takes it back: sent again, it goes on where it stood. At the "
        "prompt it drops the line, and twice within a second it leaves, as Ctrl-D and `/quit` "
        "do.\n"
        "On a terminal thoughts pass by in a few dim rows; without escape sequences (`NO_COLOR`, "
        "`TERM=dumb`) they are shown.\n"
        "Nothing is written unless asked for: `--history` keeps 1,000 messages in "
        "`$XDG_STATE_HOME/fulgur/history`, `--session` and `/save` keep the conversation below "
        "`sessions` there as it goes: a loss of power costs at most 64 tokens or 30 seconds. "
        "`--resume` goes on, with its settings.\n" STREAM_ABOUT GEN_ABOUT NUMA_ABOUT GPU_ABOUT
            SIGNED_ABOUT,
    .run = run,
};

const char *stats_mode_name(unsigned mode)
{
    static const char *const names[STATS_COUNT] = {"none", "short", "full"};
    return names[mode];
}

/* What was asked for besides what the conversation keeps. */
typedef struct request {
    fg_engine_opts eo;
    origin trust;
    const char *prompt, *file, *system, *system_file;
    const char *session;
    char *latest; /* name of --resume */
    bool hide_think, history, resume, rebuild;
} request;

/* ---- opening ---- */

/* Positions that hold a reply as long as it may be, and what is said before it. */
static uint64_t usual_room(const talk *k, uint64_t n_prompt)
{
    enum { SAID = 8192, STEP = 1024 };
    const uint64_t most = fg_engine_shape(k->e)->n_ctx_max,
                   said = n_prompt > SAID ? n_prompt : SAID;
    if (k->gen.n_predict >= most || said >= most - k->gen.n_predict) return most;
    const uint64_t room = fg_round_up(k->gen.n_predict + said, STEP);
    return room < most ? room : most;
}

/* Without a wish, as much of the usual room as there is memory for. */
static fg_status open_session(talk *k, uint64_t n_prompt, fg_err *err)
{
    enum { LEAST = 4096 };
    const bool wished = k->so.n_ctx != 0;
    if (!wished) k->so.n_ctx = usual_room(k, n_prompt);
    const uint64_t usual = k->so.n_ctx;
    fg_status st = fg_session_create(&k->s, k->e, &k->so, err);
    while (!wished && (st == FG_ENOMEM || st == FG_ELIMIT) && k->so.n_ctx / 2 >= LEAST) {
        k->so.n_ctx /= 2;
        st = fg_session_create(&k->s, k->e, &k->so, err);
    }
    if (st == FG_OK && k->so.n_ctx < usual) {
        cli_note("(room for %s tokens: there is no memory for the usual %s)\n",
                 cli_count(k->so.n_ctx), cli_count(usual));
    }
    return st;
}

static fg_status open_talk(talk *k, request *q, size_t n_text, fg_err *err)
{
    char what[160], name[96];
    fg_utf8_file_name(k->path, name, sizeof name);
    (void)snprintf(what, sizeof what, "opening %s", name);
    meters_busy(k->m, what);
    fg_status st = origin_require(&q->trust, &q->eo, err);
    if (st == FG_OK) st = open_engine(&k->e, k->path, &q->eo, err);
    if (st == FG_OK) st = fg_engine_tokenizer(k->e, &k->t, err);
    if (st == FG_OK) st = open_encoder(k->t, &k->words, err);
    if (st == FG_OK && q->resume && q->session == NULL) {
        st = chat_saved_latest(k, &q->latest, err);
        q->session = q->latest;
        if (st == FG_OK && q->session == NULL) {
            st = fg_fail(err, FG_EINVAL, "--resume: no session, expected a saved one");
        }
    }
    if (st == FG_OK && q->session != NULL) st = chat_saved_room(k, q->session, err);
    if (st == FG_OK) st = open_session(k, n_text, err); /* a token is a byte at least */
    if (st == FG_OK) st = chat_resample(k, err);
    meters_idle(k->m);
    if (st == FG_OK && cli_interrupted()) st = fg_fail(err, FG_ECANCEL, "chat: cancelled");
    return st;
}

/* ---- the conversation ---- */

static void put_prompt(const talk *k, fg_buf *b)
{
    const uint64_t room = fg_session_n_ctx(k->s);
    b->len = 0;
    /* the mark that closes a reply may have no room any more */
    screen_put_size(b, k->ids.len < room ? k->ids.len : room);
    fg_buf_u8(b, '/');
    screen_put_size(b, room);
    fg_buf_put(b, k->attached_say.data, k->attached_say.len);
    fg_buf_put_str(b, "> ");
}

/* A turn that was not to be: the message goes back to where it was typed. */
static int survive(talk *k, const char *text, size_t n, const fg_err *err)
{
    if (!k->interactive) return cli_fail(err);
    chat_put_back(k, text, n);
    if (cli_terminated()) return EXIT_OK; /* nobody is there to send it again */
    if (err->code == FG_ECANCEL) {
        const uint64_t at = fg_session_pos(k->s), head = k->ids.len;
        if (at <= head) {
            cli_note("(stopped; the message is in the editor)\n");
        } else {
            cli_note("(stopped; %s tokens of it are evaluated and stay: sent again, it goes on "
                     "there)\n",
                     cli_count(at - head));
        }
        return EXIT_OK;
    }
    (void)cli_fail(err);
    if (err->code == FG_ELIMIT) {
        cli_note("(the message is in the editor, and comes back when /undo, /forget-thinking or "
                 "/ctx N has made room)\n");
    }
    return EXIT_OK;
}

/* One line of input; *leaves: it was the last one. */
static int take_line(talk *k, const char *text, size_t n, bool *leaves)
{
    fg_err err = {0};
    const command_result r = chat_command(k, text, n);
    *leaves = r == COMMAND_QUIT;
    if (r == COMMAND_DONE && k->pending.len > 0) {
        line_put_back(k->line, (const char *)k->pending.data, k->pending.len);
    }
    if (r == COMMAND_DONE || r == COMMAND_QUIT) return EXIT_OK;
    if (r == COMMAND_FAILED) {
        if (!k->interactive) return EXIT_FAILED;
        line_put_back(k->line, text, n);
        return EXIT_OK;
    }
    if (text[0] == '/') { /* of two slashes one is sent */
        text++;
        n--;
    }
    cli_clear_interrupt();
    const fg_status st = chat_turn(k, text, n, &err);
    if (st != FG_OK) return survive(k, text, n, &err);
    k->pending.len = 0;
    return EXIT_OK;
}

/* Messages until the end of input.  An error in one turn is reported and, on a terminal,
 * survived. */
static int converse(talk *k)
{
    int status = EXIT_OK;
    fg_buf prompt = {0};
    const char *text;
    size_t n;
    for (bool leaves = false; !leaves && status == EXIT_OK && !cli_terminated();) {
        const uint64_t used = k->ids.len, room = fg_session_n_ctx(k->s);
        put_prompt(k, &prompt);
        const char *shown = fg_buf_str(&prompt);
        const bool warns = cli_has_style(1) && used >= room / 5 * 4;
        const line_result r = line_read(k->line, shown == NULL ? "> " : shown, warns, &text, &n);
        if (r == LINE_FAILED) {
            fg_err err = {0};
            (void)fg_fail_nomem(&err, "a line of the conversation");
            status = cli_fail(&err);
        } else if (r == LINE_DROPPED) {
            k->pending.len = 0;
            k->unsaid = k->unsaid || k->half_said;
            k->half_said = false;
            if (k->interactive) cli_note("(Ctrl-C again, or Ctrl-D, leaves)\n");
        } else if (r == LINE_LEFT) {
            leaves = true;
        } else if (n > 0) {
            status = take_line(k, text, n, &leaves);
            cli_clear_interrupt(); /* it was heard */
        }
        if (ferror(stdout) && status == EXIT_OK) status = cli_finish_stdout();
    }
    fg_buf_fini(&prompt);
    return status;
}

/* A reply that was left in its middle goes on before anything is asked. */
static int open_saved(talk *k, const request *q)
{
    fg_err err = {0};
    const fg_saved_opts o = {.rebuild = q->rebuild, .must_exist = q->resume};
    fg_status st = chat_saved_open(k, q->session, &o, &err);
    if (st != FG_OK) return cli_fail(&err);
    if (k->n_turn > 0) {
        cli_note("(session %s: %zu turn%s)\n", q->session, k->n_turn, k->n_turn == 1 ? "" : "s");
    }
    if (k->half_said) {
        cli_note(
            "(a message was being evaluated: %s tokens of it are; it is in the editor, and sent "
            "again it goes on there)\n",
            cli_count(fg_session_pos(k->s) - k->ids.len));
    }
    if (k->n_turn == 0 || !k->turn[k->n_turn - 1].under_way) return EXIT_OK;
    cli_note("(the last reply goes on)\n");
    st = chat_resume(k, &err);
    cli_clear_interrupt();
    return st == FG_OK || k->interactive ? EXIT_OK : cli_fail(&err);
}

static int talk_to_user(talk *k, const request *q)
{
    fg_err err = {0};
    k->line = line_open(chat_complete, k);
    if (k->line == NULL) {
        fprintf(stderr, "fulgur: terminal: cannot edit lines, expected a known TERM\n");
        return EXIT_FAILED;
    }
    int status = EXIT_OK;
    if (q->history || q->session != NULL) {
        char *path;
        fg_status st = cli_state_path(&path, "history", &err);
        if (st == FG_OK) st = line_keep(k->line, path, &err);
        fg_mem_free(path);
        if (st != FG_OK) status = cli_fail(&err);
    }
    if (k->interactive) {
        cli_note("/help lists the commands, Ctrl-C stops a reply, Ctrl-D leaves\n");
        cli_keep_interrupt(true);
    }
    if (status == EXIT_OK && q->session != NULL) status = open_saved(k, q);
    if (status == EXIT_OK) status = converse(k);
    cli_keep_interrupt(false);
    line_close(k->line);
    k->line = NULL;
    return status;
}

/* What is to be said or told comes from files, if it is to. */
static fg_status read_texts(talk *k, const request *q, char **text, size_t *n, fg_err *err)
{
    if (q->system != NULL || q->system_file != NULL) {
        size_t m = 0;
        if (q->system_file != NULL) {
            FG_TRY(read_text(q->system_file, &k->system, &m, err));
        } else {
            k->system = fg_mem_strndup(q->system, strlen(q->system));
        }
        if (k->system == NULL) return fg_fail_nomem(err, "system text");
        for (; m > 0 && k->system[m - 1] == '\n'; m--) k->system[m - 1] = '\0';
    }
    if (q->file != NULL) FG_TRY(read_text(q->file, text, n, err));
    if (q->prompt != NULL) {
        *text = fg_mem_strndup(q->prompt, strlen(q->prompt));
        *n = strlen(q->prompt);
        if (*text == NULL) return fg_fail_nomem(err, "message");
    }
    while (q->file != NULL && *n > 0 && (*text)[*n - 1] == '\n')
        --*n; /* the file's last line end */
    return FG_OK;
}

static int work(talk *k, request *q)
{
    fg_err err = {0};
    char *text = NULL;
    size_t n = 0;
    int status = EXIT_OK;
    const bool one = q->prompt != NULL || q->file != NULL;
    fg_status st = read_texts(k, q, &text, &n, &err);
    k->interactive = !one && isatty(0) == 1 && isatty(1) == 1;
    k->m = meters_open(args_quiet() || k->json);
    if (st == FG_OK && k->m == NULL) st = fg_fail_nomem(&err, "chat");
    if (st == FG_OK) st = open_talk(k, q, n, &err);
    if (st == FG_OK && one) {
        st = chat_turn(k, text, n, &err);
    } else if (st == FG_OK) {
        status = talk_to_user(k, q);
    }
    meters_close(k->m);
    talk_fini(k);
    fg_mem_free(q->latest);
    fg_mem_free(text);
    if (st != FG_OK) return cli_fail(&err);
    if (status == EXIT_OK && cli_terminated()) return EXIT_FAILED;
    return status == EXIT_OK ? cli_finish_stdout() : status;
}

static int run(int argc, char **argv)
{
    request q = {.eo = cli_engine_opts()};
    talk k = {.gen = gen_opts_default(), .so = fg_session_opts_default(), .stats = STATS_SHORT};
    k.so.stops = true;
    k.gen.n_predict = 40000; /* M1's shorter thinking budget (src/model/MODEL.md 8) */
    const opt opts[] = {
        {"prompt", 'p', OPT_STR, &q.prompt, 0, 0, "TEXT", "one message, then exit"},
        {"file", 'f', OPT_STR, &q.file, 0, 0, "FILE", "the same, read from FILE; - for stdin"},
        {"system", 0, OPT_STR, &q.system, 0, 0, "TEXT", "system text (default: none)"},
        {"system-file", 0, OPT_STR, &q.system_file, 0, 0, "FILE", "the same, read from FILE"},
        {"style", 0, OPT_CHOICE, CHOICE(k.style, chat_style_name, 2), 0, 0, "NAME", "markup"},
        {"think", 0, OPT_CHOICE, CHOICE(k.think, think_mode_name, THINK_COUNT), 0, 0, "MODE",
         "thoughts of the model"},
        {"hide-think", 0, OPT_FLAG, &q.hide_think, 0, 0, NULL, "the same as --think hide"},
        {"forget-thinking", 0, OPT_FLAG, &k.forget_thinking, 0, 0, NULL,
         "after each reply, evaluate the answer again without its thought"},
        {"stats", 0, OPT_CHOICE, CHOICE(k.stats, stats_mode_name, STATS_COUNT), 0, 0, "MODE",
         "figures after a reply"},
        {"json", 0, OPT_FLAG, &k.json, 0, 0, NULL, "with -p or -f, reply and figures as JSON"},
        {"session", 0, OPT_STR, &q.session, 0, 0, "NAME",
         "keep the conversation on disk, or go on with the one of this name"},
        {"resume", 0, OPT_FLAG, &q.resume, 0, 0, NULL,
         "go on with the latest one, or with --session's"},
        {"rebuild", 0, OPT_FLAG, &q.rebuild, 0, 0, NULL,
         "with --session of another model or cache type, evaluate all of it again"},
        {"history", 0, OPT_FLAG, &q.history, 0, 0, NULL, "keep what is typed for later runs"},
        GEN_OPTS(k.gen, "40000"),
        {"ctx-size", 'c', OPT_U64, &k.so.n_ctx, 1, 1e10, "N",
         "positions (default: room for -n and 8192 more)"},
        CACHE_OPT(k.so.kv),
        ENGINE_OPTS(q.eo),
        NUMA_OPTS(q.eo),
        GPU_OPTS(q.eo),
        STREAM_OPTS(q.eo),
        SIGNED_OPTS(q.trust),
    };
    int status;
    if (!args_parse(&cmd_chat, opts, sizeof opts / sizeof opts[0], argc, argv, &k.path, 1,
                    &status)) {
        return status;
    }
    if (q.prompt != NULL && q.file != NULL) {
        return args_usage(&cmd_chat, "both -p and -f, expected one of them");
    }
    if (q.system != NULL && q.system_file != NULL) {
        return args_usage(&cmd_chat, "both --system and --system-file, expected one of them");
    }
    if (q.session != NULL && (q.prompt != NULL || q.file != NULL)) {
        return args_usage(&cmd_chat, "--session with -p or -f, expected a conversation");
    }
    if (q.rebuild && q.session == NULL && !q.resume) {
        return args_usage(&cmd_chat, "--rebuild without a session, expected --session or --resume");
    }
    if (k.json && q.prompt == NULL && q.file == NULL) {
        return args_usage(&cmd_chat, "--json without a message, expected -p or -f");
    }
    if (q.hide_think) k.think = THINK_HIDE;
    k.think_given = q.hide_think;
    if (k.json) cli_gpu_silent(&q.eo);
    screen_use_utf8();
    cli_catch_interrupt();
    return work(&k, &q);
}
