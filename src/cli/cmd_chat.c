/* SPDX-License-Identifier: MIT
 *
 * A conversation: the session keeps everything said so far, so that each turn evaluates only what
 * is new.  Reads lines from the terminal, or from standard input when that is a pipe.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/cli/origin.h"
#include "src/cli/line.h"
#include "src/engine/session.h"

static int run(int argc, char **argv);

const command cmd_chat = {
    .name = "chat",
    .summary = "conversation in the terminal",
    .synopsis = "MODEL",
    .example = "fulgur chat m1.fulgur --system 'You are a helpful assistant.'\n"
               "fulgur chat m1.fulgur --hide-think -p 'What is 289 + 8794?'",
    .description =
        "A conversation in the terminal: the model keeps all that was said, so that each turn "
        "evaluates only what is new. Without a terminal, each line of standard input is a turn. "
        "What you type is text, never markup. `/reset` starts over, `/quit` or Ctrl-D leaves, "
        "Ctrl-C stops a reply. The model's reasoning is dimmed on a terminal; `--hide-think` "
        "prints the answer only.\n" STREAM_ABOUT NUMA_ABOUT GPU_ABOUT SIGNED_ABOUT,
    .run = run,
};

typedef struct talk {
    fg_engine *e;
    fg_session *s;
    fg_sampler *sampler;
    const fg_tokenizer *t;
    fg_tok_state *words;
    gen_opts gen;
    fg_chat_style style;
    const char *system; /* NULL: none */
    bool hide_think, tty;
    bool dims;         /* the terminal can, and may */
    bool in_reasoning; /* dim is on */
} talk;

static const char *style_name(unsigned style)
{
    return style == FG_CHAT_MINIMAX_AI ? "minimax-ai" : "official";
}

static bool emit(void *ctx, fg_think_part part, const char *text, size_t n)
{
    talk *k = ctx;
    if (part != FG_THINK_ANSWER && k->hide_think) return true;
    const bool reasons = part != FG_THINK_ANSWER;
    if (k->dims && reasons != k->in_reasoning) fputs(reasons ? "\033[2m" : "\033[0m", stdout);
    k->in_reasoning = reasons;
    return cli_write(text, n) && fflush(stdout) == 0;
}

/* Ids of the next turn.  The first one brings the opening and the system text; later ones start
 * with the newline that the template puts after a finished reply. */
static fg_status encode_turn(const talk *k, const char *text, size_t n, fg_ids *ids, fg_err *err)
{
    const bool first = fg_session_pos(k->s) == 0;
    const fg_chat_part system = {.text = k->system, .n = k->system ? strlen(k->system) : 0};
    const fg_chat_part user = {.text = text, .n = n};
    const fg_chat_message both[2] = {
        {.role = FG_CHAT_SYSTEM, .part = &system, .n_part = 1},
        {.role = FG_CHAT_USER, .part = &user, .n_part = 1},
    };
    const bool with_system = first && k->system != NULL;
    const fg_chat c = {
        .style = k->style,
        .message = with_system ? both : both + 1,
        .n_message = with_system ? 2 : 1,
        .generate = true,
    };
    if (first) return fg_chat_encode(&c, k->t, k->words, ids, err);
    fg_ids turn = {0};
    fg_status st = fg_tokenizer_encode(k->t, k->words, "\n", 1, false, ids, err);
    if (st == FG_OK) st = fg_chat_encode(&c, k->t, k->words, &turn, err);
    /* from the head of the user's message on: no second opening (or default system text) */
    size_t from = turn.len;
    for (size_t heads = 0; st == FG_OK && from > 0 && heads < 2;) {
        uint32_t head;
        from--;
        if (fg_tokenizer_find_added(k->t, "<beginning_of_sentence>", &head)) {
            heads += turn.data[from] == head;
        }
    }
    for (size_t i = from; st == FG_OK && i < turn.len; i++) {
        if (!fg_ids_push(ids, turn.data[i])) st = fg_fail_nomem(err, "chat");
    }
    fg_ids_fini(&turn);
    return st;
}

/* One turn.  When its prompt could not be evaluated as a whole (Ctrl-C), half a message would stay
 * in the state and spoil every later turn, so the session goes back to where it was. */
static fg_status turn(talk *k, const char *text, size_t n, fg_err *err)
{
    const uint64_t start = fg_session_pos(k->s);
    fg_ids ids = {0};
    gen_stats stats;
    fg_status st = encode_turn(k, text, n, &ids, err);
    (void)fg_session_mark(k->s, NULL); /* without room for it the conversation may be lost */
    if (st == FG_OK) st = generate(k->s, k->sampler, &ids, &k->gen, emit, k, &stats, err);
    if (st == FG_OK) st = check_engine(k->e, err);
    if (k->in_reasoning && k->dims) fputs("\033[0m", stdout);
    k->in_reasoning = false;
    if (st == FG_OK &&
        stats.reply.end !=
            FG_END_MODEL) { /* stopped short: close the reply, or the next turn would continue it */
        uint32_t end;
        st = fg_chat_end_id(k->t, &end, err);
        if (st == FG_OK && fg_session_pos(k->s) < fg_session_n_ctx(k->s)) {
            st = fg_session_eval(k->s, &end, 1, NULL, NULL, err);
        }
    }
    (void)putchar('\n');
    (void)fflush(stdout);
    if (st == FG_OK) {
        if (stats.reply.end == FG_END_CONTEXT) {
            cli_note("(the context of %s tokens is full; /reset starts over)\n",
                     cli_count(fg_session_n_ctx(k->s)));
        } else if (stats.reply.end == FG_END_LENGTH) {
            cli_note("(stopped after -n %s tokens)\n", cli_count(k->gen.n_predict));
        }
        print_speed(k->e, &stats);
    } else {
        uint64_t at = 0;
        if (fg_session_rewind(k->s, start, &at, NULL) != FG_OK || at != start) {
            fg_session_reset(k->s);
            cli_note("(the conversation starts over)\n");
        }
    }
    fg_ids_fini(&ids);
    return st;
}

/* Lines until the end of input.  An error in one turn is reported and, on a terminal, survived. */
static int converse(talk *k)
{
    line_reader *r = line_open("> ");
    if (r == NULL) {
        fprintf(stderr, "fulgur: terminal: cannot edit lines, expected a known TERM\n");
        return EXIT_FAILED;
    }
    int status = EXIT_OK;
    if (k->tty) cli_note("/reset starts over, /quit or Ctrl-D leaves, Ctrl-C stops a reply\n");
    const char *text;
    for (size_t n; (text = line_read(r, &n)) != NULL;) {
        fg_err err = {0};
        if (n == 0) continue;
        if (strcmp(text, "/quit") == 0) break;
        if (strcmp(text, "/reset") == 0) {
            fg_session_reset(k->s);
            continue;
        }
        cli_clear_interrupt();
        if (turn(k, text, n, &err) == FG_OK && !cli_terminated()) continue;
        if (cli_terminated()) break;
        status = cli_fail(&err);
        if (err.code == FG_ELIMIT) cli_note("(/reset starts over)\n");
        if (!k->tty) break;
        status = EXIT_OK;
    }
    if (line_failed(r)) {
        fg_err err = {0};
        (void)fg_fail_nomem(&err, "a line of the conversation");
        status = cli_fail(&err);
    }
    line_close(r);
    return status;
}

static int run(int argc, char **argv)
{
    fg_engine_opts eo = cli_engine_opts();
    fg_session_opts so = fg_session_opts_default();
    so.stops = true;
    talk k = {.gen = gen_opts_default(), .tty = isatty(0) == 1 && isatty(1) == 1};
    k.dims = cli_has_style(1);
    origin trust = {0};
    const char *prompt = NULL, *model;
    k.gen.goes_on = true;
    k.gen.n_predict = 40000; /* M1's shorter thinking budget (src/model/MODEL.md 8) */
    const opt opts[] = {
        {"prompt", 'p', OPT_STR, &prompt, 0, 0, "TEXT", "one question, then exit"},
        {"system", 0, OPT_STR, &k.system, 0, 0, "TEXT", "system text (default: none)"},
        {"style", 0, OPT_CHOICE, CHOICE(k.style, style_name, 2), 0, 0, "NAME", "markup"},
        {"hide-think", 0, OPT_FLAG, &k.hide_think, 0, 0, NULL, "print the answer only"},
        GEN_OPTS(k.gen, "40000"),
        {"ctx-size", 'c', OPT_U64, &so.n_ctx, 1, 1e10, "N", "positions (default: 32768 at most)"},
        CACHE_OPT(so.kv),
        ENGINE_OPTS(eo),
        NUMA_OPTS(eo),
        GPU_OPTS(eo),
        STREAM_OPTS(eo),
        SIGNED_OPTS(trust),
    };
    int status;
    if (!args_parse(&cmd_chat, opts, sizeof opts / sizeof opts[0], argc, argv, &model, 1,
                    &status)) {
        return status;
    }
    fg_err err = {0};
    cli_catch_interrupt();
    fg_status st = origin_require(&trust, &eo, &err);
    if (st == FG_OK) st = open_engine(&k.e, model, &eo, &err);
    if (st == FG_OK) st = fg_engine_tokenizer(k.e, &k.t, &err);
    if (st == FG_OK) st = open_encoder(k.t, &k.words, &err);
    if (st == FG_OK && so.n_ctx == 0) {
        const uint64_t most = fg_engine_shape(k.e)->n_ctx_max;
        so.n_ctx = most < 32768 ? most : 32768;
    }
    if (st == FG_OK) st = fg_session_create(&k.s, k.e, &so, &err);
    if (st == FG_OK) st = fg_engine_sampler(k.e, &k.gen.sampler, &k.sampler, &err);
    status = EXIT_OK;
    if (st == FG_OK && prompt != NULL) {
        st = turn(&k, prompt, strlen(prompt), &err);
    } else if (st == FG_OK) {
        status = converse(&k);
    }
    fg_tok_state_destroy(&k.words);
    fg_sampler_destroy(&k.sampler);
    fg_session_destroy(&k.s);
    fg_engine_close(&k.e);
    if (st != FG_OK) return cli_fail(&err);
    if (status == EXIT_OK && cli_terminated()) return EXIT_FAILED;
    return status == EXIT_OK ? cli_finish_stdout() : status;
}
