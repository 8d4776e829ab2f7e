/* SPDX-License-Identifier: MIT
 *
 * What begins with a slash.  A command is a row of the table: /help, completion and the nearest
 * name of a mistyped one are made from it.
 */
#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/base/utf8.h"
#include "src/cli/conversation.h"
#include "src/cli/nearest.h"
#include "src/cli/screen.h"
#include "src/cli/size.h"

static const char *const think_names[] = {"fold", "show", "hide"};
static const char *const stats_names[] = {"none", "short", "full"};

typedef enum operand { OPERAND_NONE, OPERAND_TEXT, OPERAND_FILE, OPERAND_SETTING } operand;

/* rest: what stands behind the name, without white space around it; n bytes and a NUL. */
typedef command_result act(talk *k, const char *rest, size_t n);

typedef struct row {
    const char *name, *meta, *help;
    operand takes;
    act *fn;
} row;

/* Where commands answer: a pipe's standard output is for replies. */
static FILE *out_of(const talk *k)
{
    return k->interactive ? stdout : stderr;
}

__attribute__((format(printf, 1, 2))) static command_result fails(const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)fflush(stdout);
    fprintf(stderr, "fulgur: %s\n", text);
    return COMMAND_FAILED;
}

static command_result done(fg_status st, const fg_err *err)
{
    if (st == FG_OK) return COMMAND_DONE;
    if (st == FG_ECANCEL) {
        cli_note("(stopped; the conversation is as it was)\n");
    } else {
        (void)cli_fail(err);
    }
    return COMMAND_FAILED;
}

static void put_safe_text(const talk *k, const fg_buf *b)
{
    fg_buf safe = {0};
    screen_put_safe(&safe, (const char *)b->data, b->len);
    (void)fwrite(safe.data, 1, safe.len, out_of(k));
    fg_buf_fini(&safe);
}

/* ---- settings ---- */

enum { N_SETTING = 10 };

static void settings_of(talk *k, opt out[N_SETTING])
{
    const opt rows[N_SETTING] = {
        {"temp", 0, OPT_F64, &k->gen.sampler.temp, 0, 100, "T", "temperature"},
        {"top-p", 0, OPT_F64, &k->gen.sampler.top_p, 0, 1, "P", "nucleus size"},
        {"top-k", 0, OPT_U32, &k->gen.sampler.top_k, 0, 1e9, "K", "best tokens kept; 0: all"},
        {"min-p", 0, OPT_F64, &k->gen.sampler.min_p, 0, 1, "P", "least share of the best token"},
        {"seed", 0, OPT_U64, &k->gen.sampler.seed, 0, 9e15, "S", "random seed"},
        {"n", 0, OPT_U64, &k->gen.n_predict, 0, 1e15, "N", "tokens of a reply at most"},
        {"think", 0, OPT_CHOICE, NULL, 0, 0, "MODE", "how thoughts are shown"},
        {"budget", 0, OPT_U64, &k->gen.think_budget, 0, 1e15, "N",
         "tokens of a thought at most; 0: no limit"},
        {"stop", 0, OPT_STR, NULL, 0, 0, "TEXT",
         "ends a reply where it appears; none: forget them"},
        {"stats", 0, OPT_CHOICE, NULL, 0, 0, "MODE", "figures after a reply"},
    };
    memcpy(out, rows, sizeof rows);
}

/* The value of a setting, as text. */
static void put_setting(const talk *k, const opt *o, fg_buf *b)
{
    switch (o->kind) {
    case OPT_F64: fg_buf_printf(b, "%g", *(const double *)o->value); return;
    case OPT_U32: fg_buf_printf(b, "%u", *(const uint32_t *)o->value); return;
    case OPT_U64:
        if (*(const uint64_t *)o->value == FG_THINK_BUDGET_AUTO) {
            fg_buf_put_str(b, "n less 4096");
        } else {
            fg_buf_printf(b, "%llu", (unsigned long long)*(const uint64_t *)o->value);
        }
        return;
    default: break;
    }
    if (strcmp(o->name, "think") == 0) fg_buf_put_str(b, think_mode_name(k->think));
    if (strcmp(o->name, "stats") == 0) fg_buf_put_str(b, stats_mode_name(k->stats));
    if (strcmp(o->name, "stop") == 0 && k->gen.stop.n == 0) fg_buf_put_str(b, "none");
    for (size_t i = 0; strcmp(o->name, "stop") == 0 && i < k->gen.stop.n; i++) {
        fg_buf_printf(b, "%s", i > 0 ? ", " : "");
        fg_json_put_str(b, k->gen.stop.text[i], strlen(k->gen.stop.text[i]));
    }
}

static command_result show_settings(talk *k)
{
    opt rows[N_SETTING];
    fg_buf b = {0};
    settings_of(k, rows);
    for (size_t i = 0; i < N_SETTING; i++) {
        fg_buf value = {0};
        put_setting(k, &rows[i], &value);
        const char *text = fg_buf_str(&value);
        fg_buf_printf(&b, "  %-7s %-12s %s\n", rows[i].name, text == NULL ? "" : text,
                      rows[i].help);
        fg_buf_fini(&value);
    }
    put_safe_text(k, &b);
    fg_buf_fini(&b);
    return COMMAND_DONE;
}

static command_result set_stop(talk *k, const char *value)
{
    if (value[0] == '\0') {
        for (size_t i = 0; i < OPT_LIST_MAX; i++) {
            fg_mem_free(k->stop_own[i]);
            k->stop_own[i] = NULL;
        }
        k->gen.stop.n = 0;
        return COMMAND_DONE;
    }
    if (k->gen.stop.n == OPT_LIST_MAX) {
        return fails("/set stop: one more, expected at most %d", OPT_LIST_MAX);
    }
    char *copy = fg_mem_strndup(value, strlen(value));
    if (copy == NULL) return fails("/set stop: out of memory");
    fg_mem_free(k->stop_own[k->gen.stop.n]);
    k->stop_own[k->gen.stop.n] = copy;
    k->gen.stop.text[k->gen.stop.n++] = copy;
    return COMMAND_DONE;
}

static command_result set_choice(unsigned *to, const char *const *names, unsigned n,
                                 const char *what, const char *value)
{
    for (unsigned i = 0; i < n; i++) {
        if (strcmp(names[i], value) != 0) continue;
        *to = i;
        return COMMAND_DONE;
    }
    return fails("/set %s: %s, expected %s, %s or %s", what, value[0] == '\0' ? "nothing" : value,
                 names[0], names[1], names[2]);
}

static command_result set_value(talk *k, const opt *o, const char *value)
{
    char wanted[256];
    unsigned choice = 0;
    if (strcmp(o->name, "stop") == 0) return set_stop(k, value);
    if (o->kind == OPT_CHOICE) {
        const bool think = strcmp(o->name, "think") == 0;
        const command_result r =
            set_choice(&choice, think ? think_names : stats_names, 3, o->name, value);
        if (r != COMMAND_DONE) return r;
        if (think)
            k->think = (think_mode)choice;
        else
            k->stats = (stats_mode)choice;
        return r;
    }
    const fg_sampler_opts before = k->gen.sampler;
    if (!args_parse_value(o, value, wanted, sizeof wanted)) {
        return fails("/set %s: %s, expected %s", o->name, value[0] == '\0' ? "nothing" : value,
                     wanted);
    }
    fg_err err = {0};
    if (memcmp(&before, &k->gen.sampler, sizeof before) == 0) return COMMAND_DONE;
    const fg_status st = chat_resample(k, &err);
    if (st != FG_OK) k->gen.sampler = before;
    return done(st, &err);
}

static command_result do_system(talk *k, const char *rest, size_t n);

static command_result do_set(talk *k, const char *rest, size_t n)
{
    opt rows[N_SETTING];
    if (n == 0) return show_settings(k);
    const size_t len = strcspn(rest, " \t\n");
    const char *value = rest + len + strspn(rest + len, " \t\n");
    settings_of(k, rows);
    for (size_t i = 0; i < N_SETTING; i++) {
        if (strlen(rows[i].name) == len && memcmp(rows[i].name, rest, len) == 0) {
            return set_value(k, &rows[i], value);
        }
    }
    if (len == 6 && memcmp(rest, "system", 6) == 0) return do_system(k, value, strlen(value));
    return fails("/set: %.*s, expected a setting; /set shows them", (int)(len < 60 ? len : 60),
                 cli_shown(rest));
}

static command_result do_system(talk *k, const char *rest, size_t n)
{
    if (n == 0) {
        fprintf(out_of(k), "%s\n", k->system == NULL ? "(none)" : cli_shown(k->system));
        return COMMAND_DONE;
    }
    char *copy = fg_mem_strndup(rest, n);
    if (copy == NULL) return fails("/system: out of memory");
    fg_mem_free(k->system);
    k->system = copy;
    if (k->n_turn > 0)
        cli_note("(it stands at the head of a conversation: /reset, then it counts)\n");
    return COMMAND_DONE;
}

/* ---- the conversation ---- */

static command_result do_status(talk *k, const char *rest, size_t n)
{
    fg_buf b = {0};
    (void)rest;
    (void)n;
    const uint64_t used = k->ids.len, room = fg_session_n_ctx(k->s);
    fg_buf_printf(&b, "  model    %s, %s kernels, %u threads, %s a token\n", k->path,
                  fg_engine_cpu(k->e), fg_engine_n_thread(k->e),
                  cli_bytes((double)fg_engine_token_bytes(k->e)));
    fg_buf_printf(&b, "  context  %s of %s positions (%.0f %%), %zu turn%s, session %s\n",
                  cli_count(used), cli_count(room), 100.0 * (double)used / (double)room, k->n_turn,
                  k->n_turn == 1 ? "" : "s", cli_memory((double)fg_session_bytes(k->s)));
    if (k->saved != NULL) fg_buf_printf(&b, "  session  %s\n", fg_saved_name(k->saved));
    if (k->n_turn > 0) {
        const turn *u = &k->turn[k->n_turn - 1];
        fg_buf_printf(&b, "  reply    %s tokens, of them %s of thought; %s\n",
                      cli_count(u->stats.n_gen), cli_count(u->stats.n_thought),
                      fg_end_text(u->end));
    }
    put_safe_text(k, &b);
    fg_buf_fini(&b);
    return show_settings(k);
}

static void expand_home(const char *path, fg_buf *out)
{
    const char *home = getenv("HOME");
    if (path[0] == '~' && (path[1] == '/' || path[1] == '\0') && home != NULL) {
        fg_buf_put_str(out, home);
        path++;
    }
    fg_buf_put_str(out, path);
}

static command_result do_read(talk *k, const char *rest, size_t n)
{
    fg_err err = {0};
    fg_buf path = {0};
    fg_ids ids = {0};
    char *text = NULL, name[64];
    size_t len = 0;
    if (n == 0) return fails("/read: no file, expected one");
    expand_home(rest, &path);
    const char *p = fg_buf_str(&path);
    char what[128];
    (void)snprintf(what, sizeof what, "reading %.100s", p == NULL ? "" : cli_shown(p));
    cli_clear_interrupt();
    meters_busy(k->m, what);
    fg_status st = p == NULL ? fg_fail_nomem(&err, "/read") : read_text(p, &text, &len, &err);
    if (st == FG_OK && len == 0) {
        st = fg_fail(&err, FG_EINVAL, "%s: empty, expected a text", cli_shown(p));
    }
    const fg_status got = st;
    if (st == FG_OK) st = fg_tokenizer_encode(k->t, k->words, text, len, false, &ids, &err);
    meters_idle(k->m);
    if (got == FG_OK) cli_tell_utf8("/read", p, text, len);
    if (st == FG_OK) {
        fg_utf8_file_name(p, name, sizeof name);
        fg_buf_put(&k->attached, text, len);
        fg_buf_put_str(&k->attached, text[len - 1] == '\n' ? "\n" : "\n\n");
        fg_buf_printf(&k->attached_say, " +%s", name);
        cli_note("(%s: %s tokens go with the next message)\n", name, cli_count(ids.len));
    }
    cli_clear_interrupt();
    fg_ids_fini(&ids);
    fg_mem_free(text);
    fg_buf_fini(&path);
    return done(st, &err);
}

static command_result need_turn(const talk *k, const char *name)
{
    if (k->n_turn > 0) return COMMAND_DONE;
    return fails("/%s: nothing was said yet, expected a turn", name);
}

static command_result do_undo(talk *k, const char *rest, size_t n)
{
    enum { FEW = 256 };
    uint64_t turns = 1;
    const opt o = {"undo", 0, OPT_U64, &turns, 1, 1e9, "N", ""};
    char wanted[128];
    if (need_turn(k, "undo") != COMMAND_DONE) return COMMAND_FAILED;
    if (n > 0 && !args_parse_value(&o, rest, wanted, sizeof wanted)) {
        return fails("/undo: %s, expected %s", cli_shown(rest), wanted);
    }
    const size_t had = k->n_turn;
    chat_undo(k, turns > had ? had : (size_t)turns);
    const uint64_t cost = chat_return_cost(k);
    cli_note("(%zu turn%s forgotten, %zu left)\n", had - k->n_turn, had - k->n_turn == 1 ? "" : "s",
             k->n_turn);
    if (cost >= FEW) {
        cli_note("(%s tokens before them are evaluated again when you go on)\n", cli_count(cost));
    }
    return COMMAND_DONE;
}

void chat_put_back(talk *k, const char *text, size_t n)
{
    k->pending.len = 0;
    if (n > 0 && text[0] == '/') fg_buf_u8(&k->pending, '/');
    fg_buf_put(&k->pending, text, n);
    line_put_back(k->line, (const char *)k->pending.data, k->pending.len);
}

/* The last message, without its turn; freed by the caller. */
static char *take_last(talk *k, size_t *n)
{
    const fg_buf *user = &k->turn[k->n_turn - 1].user;
    char *copy = fg_mem_strndup((const char *)user->data, user->len);
    *n = user->len;
    if (copy != NULL) chat_undo(k, 1);
    return copy;
}

static command_result do_retry(talk *k, const char *rest, size_t n)
{
    fg_err err = {0};
    (void)rest;
    (void)n;
    if (need_turn(k, "retry") != COMMAND_DONE) return COMMAND_FAILED;
    if (k->gen.sampler.temp == 0.0) cli_note("(at temperature 0 every try is the same)\n");
    k->gen.sampler.seed++;
    fg_status st = chat_resample(k, &err);
    size_t len;
    char *text = st == FG_OK ? take_last(k, &len) : NULL;
    if (st == FG_OK && text == NULL) st = fg_fail_nomem(&err, "/retry");
    if (st == FG_OK) {
        cli_clear_interrupt();
        st = chat_turn(k, text, len, &err);
        if (st != FG_OK) chat_put_back(k, text, len);
    }
    fg_mem_free(text);
    return done(st, &err);
}

static command_result do_edit(talk *k, const char *rest, size_t n)
{
    size_t len;
    (void)rest;
    (void)n;
    if (need_turn(k, "edit") != COMMAND_DONE) return COMMAND_FAILED;
    char *text = take_last(k, &len);
    if (text == NULL) return fails("/edit: out of memory");
    chat_put_back(k, text, len);
    fg_mem_free(text);
    return COMMAND_DONE;
}

static command_result do_continue(talk *k, const char *rest, size_t n)
{
    fg_err err = {0};
    (void)rest;
    (void)n;
    if (need_turn(k, "continue") != COMMAND_DONE) return COMMAND_FAILED;
    cli_clear_interrupt();
    return done(chat_continue(k, &err), &err);
}

static command_result do_reset(talk *k, const char *rest, size_t n)
{
    (void)rest;
    (void)n;
    chat_undo(k, k->n_turn);
    if (k->saved == NULL) fg_session_reset(k->s);
    k->attached.len = k->attached_say.len = 0;
    return COMMAND_DONE;
}

static command_result do_think(talk *k, const char *rest, size_t n)
{
    (void)rest;
    (void)n;
    if (need_turn(k, "think") != COMMAND_DONE) return COMMAND_FAILED;
    const fg_buf *thought = &k->turn[k->n_turn - 1].thought;
    if (thought->len == 0) return fails("/think: the last reply has no thought, expected one");
    const bool dims = k->interactive && cli_has_style(1);
    if (dims) (void)fputs("\033[2m", stdout);
    put_safe_text(k, thought);
    fprintf(out_of(k), "%s\n", dims ? "\033[0m" : "");
    return COMMAND_DONE;
}

static command_result do_forget(talk *k, const char *rest, size_t n)
{
    fg_err err = {0};
    (void)rest;
    (void)n;
    if (need_turn(k, "forget-thinking") != COMMAND_DONE) return COMMAND_FAILED;
    cli_clear_interrupt();
    return done(chat_forget_thinking(k, &err), &err);
}

static command_result do_ctx(talk *k, const char *rest, size_t n)
{
    fg_err err = {0};
    uint64_t room = 0;
    if (n == 0 || !size_parse(rest, &room) || room == 0) {
        return fails("/ctx: %s, expected positions, such as 64K",
                     n == 0 ? "nothing" : cli_shown(rest));
    }
    const fg_status st = chat_resize(k, room, &err);
    if (st == FG_OK) cli_note("(%s positions)\n", cli_count(room));
    return done(st, &err);
}

static command_result do_export(talk *k, const char *rest, size_t n)
{
    fg_err err = {0};
    fg_buf path = {0}, text = {0};
    expand_home(rest, &path);
    const char *p = fg_buf_str(&path), *dot = p == NULL ? NULL : strrchr(p, '.');
    const bool md = dot != NULL && strcmp(dot, ".md") == 0,
               jsonl = dot != NULL && strcmp(dot, ".jsonl") == 0;
    command_result r = COMMAND_FAILED;
    if (n == 0 || (!md && !jsonl)) {
        r = fails("/export: %s, expected FILE.md or FILE.jsonl",
                  n == 0 ? "no file" : cli_shown(rest));
    } else {
        if (md)
            chat_put_markdown(k, &text);
        else
            chat_put_jsonl(k, &text);
        fg_status st = check_output(p, false, NULL, 0, &err);
        if (st == FG_OK) st = write_buf(&text, p, &err);
        r = done(st, &err);
        if (st == FG_OK) {
            cli_note("(%zu turn%s in %s)\n", k->n_turn, k->n_turn == 1 ? "" : "s", cli_shown(p));
        }
    }
    fg_buf_fini(&path);
    fg_buf_fini(&text);
    return r;
}

/* ---- sessions on disk ---- */

static command_result do_save(talk *k, const char *rest, size_t n)
{
    fg_err err = {0};
    const fg_saved_opts o = {.must_be_new = true};
    if (k->saved != NULL) { /* it is: after each turn */
        if (n == 0 || strcmp(rest, fg_saved_name(k->saved)) == 0) {
            fg_status st = chat_saved_settle(k, &err);
            if (st == FG_OK) st = fg_saved_save(k->saved, NULL, 0, &err);
            return done(st, &err);
        }
        return fails("/save: %s, expected %s, or /branch", cli_shown(rest),
                     fg_saved_name(k->saved));
    }
    if (n == 0) return fails("/save: no name, expected one");
    const fg_status st = chat_saved_open(k, rest, &o, &err);
    if (st == FG_OK) cli_note("(saved, from now on after each turn; --session %s goes on)\n", rest);
    return done(st, &err);
}

static command_result do_load(talk *k, const char *rest, size_t n)
{
    fg_err err = {0};
    if (n == 0) return fails("/load: no name, expected one; /sessions lists them");
    const fg_status st = chat_saved_load(k, rest, &err);
    if (st == FG_OK) cli_note("(%zu turn%s)\n", k->n_turn, k->n_turn == 1 ? "" : "s");
    return done(st, &err);
}

static command_result do_branch(talk *k, const char *rest, size_t n)
{
    fg_err err = {0};
    if (n == 0) return fails("/branch: no name, expected one");
    if (k->saved == NULL) return fails("/branch: nothing is saved, expected /save NAME before");
    fg_status st = fg_saved_check_name(rest, &err);
    if (st == FG_OK && k->ids.len > 0) {
        st = chat_reach(k, &k->ids, k->ids.len, NULL, 0, &err);
        meters_idle(k->m);
    }
    if (st == FG_OK) st = fg_saved_branch(k->saved, rest, NULL, 0, &err);
    if (st == FG_OK) cli_note("(goes on in %s)\n", rest);
    return done(st, &err);
}

static command_result do_sessions(talk *k, const char *rest, size_t n)
{
    fg_err err = {0};
    fg_buf b = {0};
    (void)rest;
    (void)n;
    const fg_status st = chat_saved_list(k, &b, &err);
    if (st == FG_OK) put_safe_text(k, &b);
    fg_buf_fini(&b);
    return done(st, &err);
}

static command_result do_quit(talk *k, const char *rest, size_t n)
{
    (void)k;
    (void)rest;
    (void)n;
    return COMMAND_QUIT;
}

static command_result do_help(talk *k, const char *rest, size_t n);

/* ---- the table ---- */

static const row rows[] = {
    {"help", "", "this list", OPERAND_NONE, do_help},
    {"status", "", "model, room, settings", OPERAND_NONE, do_status},
    {"set", "KEY VALUE", "a setting; alone: all of them", OPERAND_SETTING, do_set},
    {"system", "TEXT", "system text of the next conversation", OPERAND_TEXT, do_system},
    {"read", "FILE", "puts a text into the next message", OPERAND_FILE, do_read},
    {"undo", "N", "forgets the last turn, or the last N", OPERAND_TEXT, do_undo},
    {"retry", "", "another reply to the last message, with the next seed", OPERAND_NONE, do_retry},
    {"edit", "", "takes the last message back, to be changed", OPERAND_NONE, do_edit},
    {"continue", "", "goes on with a reply that was cut off", OPERAND_NONE, do_continue},
    {"think", "", "shows the last thought", OPERAND_NONE, do_think},
    {"forget-thinking", "", "makes room: only the answers stay", OPERAND_NONE, do_forget},
    {"ctx", "N", "another room, in positions", OPERAND_TEXT, do_ctx},
    {"save", "NAME", "keeps the conversation on disk, from now on", OPERAND_TEXT, do_save},
    {"load", "NAME", "another one in place of this one", OPERAND_TEXT, do_load},
    {"branch", "NAME", "goes on in a copy of it", OPERAND_TEXT, do_branch},
    {"sessions", "", "what is kept", OPERAND_NONE, do_sessions},
    {"export", "FILE", "writes the conversation here: FILE.md or FILE.jsonl", OPERAND_FILE,
     do_export},
    {"reset", "", "starts over", OPERAND_NONE, do_reset},
    {"quit", "", "leaves, as Ctrl-D does", OPERAND_NONE, do_quit},
    {"exit", NULL, NULL, OPERAND_NONE, do_quit}, /* what other programs call it */
};
enum { N_ROW = sizeof rows / sizeof rows[0] };

static command_result do_help(talk *k, const char *rest, size_t n)
{
    FILE *to = out_of(k);
    (void)rest;
    (void)n;
    for (size_t i = 0; i < N_ROW; i++) {
        if (rows[i].help == NULL) continue;
        char head[40];
        (void)snprintf(head, sizeof head, "/%s %s", rows[i].name, rows[i].meta);
        fprintf(to, "  %-18s %s\n", head, rows[i].help);
    }
    fprintf(to, "  Enter sends, Alt-Enter begins a line, \"\"\" a text of several lines;\n"
                "  // sends a slash. Ctrl-C stops a reply and keeps it; twice, it leaves.\n");
    return COMMAND_DONE;
}

const char *chat_nearest_command(const char *name)
{
    nearest best = {"help", name[0] == '\0' ? 0 : UINT_MAX}; /* nothing is near to all of them */
    for (size_t i = 0; i < N_ROW; i++) {
        if (rows[i].help != NULL) nearest_offer(&best, name, strlen(name), rows[i].name);
    }
    return best.name;
}

command_result chat_command(talk *k, const char *line, size_t n)
{
    if (n == 0 || line[0] != '/' || (n > 1 && line[1] == '/')) return COMMAND_NONE;
    const size_t len = strcspn(line + 1, " \t\n");
    const char *rest = line + 1 + len + strspn(line + 1 + len, " \t\n");
    size_t m = strlen(rest);
    while (m > 0 && strchr(" \t\n", rest[m - 1]) != NULL) m--;
    char *copy = fg_mem_strndup(rest, m), *name = fg_mem_strndup(line + 1, len);
    command_result r = COMMAND_FAILED;
    const row *found = NULL;
    for (size_t i = 0; name != NULL && i < N_ROW; i++) {
        if (strcmp(rows[i].name, name) == 0) found = &rows[i];
    }
    if (copy == NULL || name == NULL) {
        r = fails("a command: out of memory");
    } else if (found == NULL) {
        name[len < 60 ? len : 60] = '\0';
        r = fails("/%s: unknown command, expected a listed one, perhaps /%s (/help lists them, "
                  "// sends a slash)",
                  cli_shown(name), chat_nearest_command(name));
    } else if (found->takes == OPERAND_NONE && m > 0) {
        r = fails("/%s: more text, expected none (// sends a slash)", found->name);
    } else {
        r = found->fn(k, copy, m);
    }
    fg_mem_free(copy);
    fg_mem_free(name);
    return r;
}

/* ---- completion ---- */

/* Candidates that begin with what was typed: what they share beyond it, and a list of them. */
typedef struct candidates {
    const char *typed;
    size_t n_typed, n;
    fg_buf first; /* the first one, cut to what all share */
    fg_buf *list;
} candidates;

static void offer(candidates *c, const char *name, const char *tail)
{
    if (strncmp(name, c->typed, c->n_typed) != 0) return;
    fg_buf_printf(c->list, "%s%s\n", name, strcmp(tail, "/") == 0 ? tail : "");
    if (c->n++ == 0) {
        fg_buf_printf(&c->first, "%s%s", name, tail);
        return;
    }
    size_t same = 0;
    while (same < c->first.len && name[same] == (char)c->first.data[same]) same++;
    while (same > 0 && same < c->first.len && (c->first.data[same] & 0xc0) == 0x80) same--;
    c->first.len = same;
}

static bool finish(candidates *c, fg_buf *more)
{
    if (c->first.len > c->n_typed) {
        fg_buf_put(more, c->first.data + c->n_typed, c->first.len - c->n_typed);
    }
    fg_buf_fini(&c->first);
    return true;
}

static void offer_files(candidates *c, const char *path)
{
    fg_buf folder = {0};
    const char *slash = strrchr(path, '/');
    const size_t n = slash == NULL ? 0 : (size_t)(slash - path) + 1;
    c->typed = path + n;
    c->n_typed = strlen(path) - n;
    char *head = fg_mem_strndup(path, n);
    if (head != NULL) expand_home(n == 0 ? "./" : head, &folder);
    const char *where = fg_buf_str(&folder);
    DIR *d = where == NULL ? NULL : opendir(where);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        struct stat sb;
        char full[4096];
        if (e->d_name[0] == '.' && c->typed[0] != '.') continue;
        (void)snprintf(full, sizeof full, "%s%s", where, e->d_name);
        offer(c, e->d_name, stat(full, &sb) == 0 && S_ISDIR(sb.st_mode) ? "/" : "");
    }
    if (d != NULL) (void)closedir(d);
    fg_mem_free(head);
    fg_buf_fini(&folder);
}

static void offer_settings(candidates *c, talk *k, const char *rest)
{
    opt settings[N_SETTING];
    const char *space = strchr(rest, ' ');
    c->typed = space == NULL ? rest : space + 1;
    c->n_typed = strlen(c->typed);
    settings_of(k, settings);
    if (space == NULL) {
        for (size_t i = 0; i < N_SETTING; i++) offer(c, settings[i].name, " ");
        offer(c, "system", " ");
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        if (strncmp(rest, "think ", 6) == 0) offer(c, think_names[i], "");
        if (strncmp(rest, "stats ", 6) == 0) offer(c, stats_names[i], "");
    }
}

bool chat_complete(void *ctx, const char *text, size_t n, fg_buf *more, fg_buf *list)
{
    if (n == 0 || text[0] != '/' || (n > 1 && text[1] == '/')) return false;
    candidates c = {.typed = text + 1, .n_typed = n - 1, .list = list};
    const char *space = strchr(text, ' ');
    if (space == NULL) {
        for (size_t i = 0; i < N_ROW; i++) {
            if (rows[i].help != NULL) offer(&c, rows[i].name, rows[i].meta[0] != '\0' ? " " : "");
        }
        return finish(&c, more);
    }
    const size_t len = (size_t)(space - text) - 1;
    for (size_t i = 0; i < N_ROW; i++) {
        if (strlen(rows[i].name) != len || memcmp(rows[i].name, text + 1, len) != 0) continue;
        if (rows[i].takes == OPERAND_FILE) offer_files(&c, space + 1);
        if (rows[i].takes == OPERAND_SETTING) offer_settings(&c, ctx, space + 1);
    }
    return finish(&c, more);
}
