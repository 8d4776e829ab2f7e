/* SPDX-License-Identifier: MIT
 *
 * Saved sessions (src/engine/saved.h), without the model but for export.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/conversation.h"
#include "src/cli/state_dir.h"
#include "src/engine/kv.h"
#include "src/engine/saved.h"

static int run(int argc, char **argv);
static int run_list(int argc, char **argv);
static int run_rm(int argc, char **argv);
static int run_export(int argc, char **argv);
static int run_verify(int argc, char **argv);
static int run_strip(int argc, char **argv);

static const command cmd_strip = {
    .name = "session strip",
    .summary = "delete the large files of a saved session",
    .synopsis = "NAME",
    .example = "fulgur session strip plan",
    .description =
        "Deletes snapshots and key-value blocks, and keeps the log: what was said and its tokens. "
        "Whoever opens the session then evaluates them all again.",
    .run = run_strip,
};

static const command cmd_verify_session = {
    .name = "session verify",
    .summary = "check every byte of a saved session against its hashes",
    .synopsis = "NAME",
    .example = "fulgur session verify plan",
    .description = "Reads log, key-value blocks and snapshots of a session and names each part "
                   "that is damaged. A session that is in use is refused.",
    .sub = &cmd_strip,
    .run = run_verify,
};

static const command cmd_export_session = {
    .name = "session export",
    .summary = "a saved conversation as Markdown or JSON lines",
    .synopsis = "MODEL NAME",
    .example = "fulgur session export m1.fulgur plan -o plan.md\n"
               "fulgur session export m1.fulgur plan --json >plan.jsonl",
    .description =
        "Writes the messages of a session, without those that were undone. The model is "
        "opened for its tokenizer only. With `--json` each message is a line with "
        "`role`, `content` and `position`, and with `given` where tokens of a reply were "
        "not sampled.",
    .sub = &cmd_verify_session,
    .run = run_export,
};

static const command cmd_rm = {
    .name = "session rm",
    .summary = "remove a saved session",
    .synopsis = "NAME",
    .example = "fulgur session rm plan",
    .description = "Removes a session. One that is in use is refused. Branches of it stay whole.",
    .sub = &cmd_export_session,
    .run = run_rm,
};

static const command cmd_list = {
    .name = "session list",
    .summary = "the saved sessions, the latest first",
    .synopsis = "",
    .example = "fulgur session list\nfulgur session list --json",
    .description = "Lists sessions with time of the last change, tokens, size of their files, "
                   "model and title, with `--json` also their settings.",
    .sub = &cmd_rm,
    .run = run_list,
};

const command cmd_session = {
    .name = "session",
    .summary = "saved conversations: list, rm, export, verify, strip",
    .synopsis = "",
    .example = "fulgur session list\nfulgur session export m1.fulgur plan",
    .description =
        "Conversations that `fulgur chat --session NAME` keeps, each in a folder `NAME.fgs` below "
        "`$XDG_STATE_HOME/fulgur/sessions` (`~/.local/state/fulgur/sessions`) that only its owner "
        "can read: a log of what was said, and the state of the model, so that opening it takes "
        "seconds. See `fulgur session list`, `fulgur session rm`, `fulgur session export`, "
        "`fulgur session verify` and `fulgur session strip`.",
    .sub = &cmd_list,
    .run = run,
};

static int run(int argc, char **argv)
{
    static const char wanted[] = "expected list, rm, export, verify or strip";
    char text[160];
    int status;
    const bool named = argc > 1 && argv[1][0] != '-';
    if (!named && !args_parse_table(&cmd_session, NULL, 0, argc, argv, NULL, 0, &status)) {
        return status;
    }
    (void)snprintf(text, sizeof text, "%.60s, %s", named ? cli_shown(argv[1]) : "nothing to do",
                   wanted);
    return args_usage(&cmd_session, "%s", text);
}

/* ---- shared ---- */

typedef struct request {
    const char *dir, *out;
    char *usual; /* the folder when none is given */
    bool json, force;
} request;

#define DIR_OPT(q)                                                                                 \
    {                                                                                              \
        "dir", 0, OPT_STR, &(q).dir, 0, 0, "DIR",                                                  \
            "folder of sessions (default: $XDG_STATE_HOME/fulgur/sessions)"                        \
    }

static fg_status find_dir(request *q, fg_err *err)
{
    if (q->dir != NULL) return FG_OK;
    FG_TRY(cli_state_path(&q->usual, "sessions", err));
    q->dir = q->usual;
    return FG_OK;
}

static int finish(request *q, fg_status st, const fg_err *err)
{
    fg_mem_free(q->usual);
    if (st != FG_OK) return cli_fail(err);
    return cli_finish_stdout();
}

/* ---- list ---- */

typedef struct listing {
    const request *q;
    fg_buf b;
    uint64_t n;
    bool bad; /* some could not be read */
} listing;

static void list_text(listing *l, const char *name, const fg_saved_info *o)
{
    char when[32] = "";
    const time_t t = (time_t)o->modified_s;
    struct tm tm;
    if (localtime_r(&t, &tm) != NULL) (void)strftime(when, sizeof when, "%Y-%m-%d %H:%M", &tm);
    fg_buf_printf(&l->b, "%-20s %s %10s tokens %10s  %s%s%s%s", name, when, cli_count(o->n_token),
                  cli_bytes((double)o->bytes), cli_shown(o->model.name),
                  o->in_use ? ", in use" : "", o->in_reply ? ", in a reply" : "",
                  o->stripped && o->n_token > 0 ? ", stripped" : "");
    if (o->title != NULL) fg_buf_printf(&l->b, "  %s", cli_shown(o->title));
    fg_buf_put_str(&l->b, "\n");
}

static void list_json(listing *l, const char *name, const fg_saved_info *o)
{
    fg_buf *b = &l->b;
    fg_buf_printf(b,
                  "%s\n  {\"name\": \"%s\", \"modified\": %" PRId64 ", \"tokens\": %" PRIu64
                  ", \"messages\": %" PRIu64 ", \"context\": %" PRIu64 ", \"bytes\": %" PRIu64
                  ", \"model\": ",
                  l->n == 0 ? "" : ",", name, o->modified_s, o->n_token, o->n_message, o->n_ctx,
                  o->bytes);
    fg_json_put_str(b, o->model.name, strlen(o->model.name));
    fg_buf_printf(b,
                  ", \"data_root\": \"%016" PRIx64 "\", \"cache\": \"%s\", \"in_use\": %s, "
                  "\"in_reply\": %s, \"stripped\": %s, \"title\": ",
                  o->model.data_root, fg_kv_type_name(o->model.kv), o->in_use ? "true" : "false",
                  o->in_reply ? "true" : "false", o->stripped ? "true" : "false");
    if (o->title == NULL) {
        fg_buf_put_str(b, "null");
    } else {
        fg_json_put_str(b, o->title, strlen(o->title));
    }
    fg_buf_put_str(b, ", \"settings\": ");
    fg_json *root = NULL;
    if (o->settings == NULL ||
        fg_json_parse(&root, (const char *)o->settings, o->n_settings, name, NULL) != FG_OK) {
        fg_buf_put_str(b, "null");
    } else {
        fg_json_put_node(b, root);
    }
    fg_json_free(root);
    fg_buf_put_str(b, "}");
}

static bool list_one(void *ctx, const char *name)
{
    listing *l = ctx;
    fg_saved_info *info;
    fg_err err = {0};
    if (fg_saved_read(&info, l->q->dir, name, &err) != FG_OK) {
        (void)cli_fail(&err);
        l->bad = true;
        return true;
    }
    if (l->q->json) {
        list_json(l, name, info);
    } else {
        list_text(l, name, info);
    }
    l->n++;
    fg_saved_info_free(&info);
    return true;
}

static int run_list(int argc, char **argv)
{
    request q = {0};
    const opt opts[] = {DIR_OPT(q),
                        {"json", 0, OPT_FLAG, &q.json, 0, 0, NULL, "the list as JSON on stdout"}};
    int status;
    fg_err err = {0};
    if (!args_parse(&cmd_list, opts, 2, argc, argv, NULL, 0, &status)) return status;
    fg_status st = find_dir(&q, &err);
    listing l = {.q = &q};
    if (q.json) fg_buf_put_str(&l.b, "[");
    if (st == FG_OK) st = fg_saved_list(q.dir, list_one, &l, &err);
    if (q.json) fg_buf_put_str(&l.b, "\n]\n");
    if (st == FG_OK && l.n == 0 && !l.bad && !q.json) {
        cli_note("session list: none in %s\n", cli_shown(q.dir));
    }
    if (st == FG_OK) st = print_buf(&l.b, &err);
    fg_buf_fini(&l.b);
    status = finish(&q, st, &err);
    return status == EXIT_OK && l.bad ? EXIT_FAILED : status;
}

/* ---- rm, strip, verify ---- */

static int run_rm(int argc, char **argv)
{
    request q = {0};
    const opt opts[] = {DIR_OPT(q)};
    const char *name;
    int status;
    fg_err err = {0};
    if (!args_parse(&cmd_rm, opts, 1, argc, argv, &name, 1, &status)) return status;
    fg_status st = find_dir(&q, &err);
    if (st == FG_OK) st = fg_saved_remove(q.dir, name, &err);
    return finish(&q, st, &err);
}

static int run_strip(int argc, char **argv)
{
    request q = {0};
    const opt opts[] = {DIR_OPT(q)};
    const char *name;
    uint64_t bytes = 0;
    int status;
    fg_err err = {0};
    if (!args_parse(&cmd_strip, opts, 1, argc, argv, &name, 1, &status)) return status;
    fg_status st = find_dir(&q, &err);
    if (st == FG_OK) st = fg_saved_strip(q.dir, name, &bytes, &err);
    if (st == FG_OK) printf("%s: %s freed\n", name, cli_bytes((double)bytes));
    return finish(&q, st, &err);
}

/* Lines of damage cross that of the progress. */
typedef struct watch {
    progress p;
    uint64_t bytes;
    uint64_t n; /* damaged parts; the first is told when the command fails */
} watch;

static bool watch_show(void *ctx, uint64_t done, uint64_t total)
{
    watch *w = ctx;
    w->bytes = done;
    return progress_show(&w->p, done, total);
}

static void watch_damage(void *ctx, const char *line)
{
    watch *w = ctx;
    if (w->n++ == 0) return;
    progress_end(&w->p);
    fprintf(stderr, "fulgur: %s\n", cli_shown(line));
}

/* What of the log only we can read. */
static fg_status check_settings(const char *dir, const char *name, fg_err *err)
{
    fg_saved_info *info;
    char what[160];
    FG_TRY(fg_saved_read(&info, dir, name, err));
    (void)snprintf(what, sizeof what, "session %s: settings", name);
    const fg_status st = info->settings == NULL
                             ? FG_OK
                             : chat_settings_check(info->settings, info->n_settings, what, err);
    fg_saved_info_free(&info);
    return st;
}

static int run_verify(int argc, char **argv)
{
    request q = {0};
    const opt opts[] = {DIR_OPT(q),
                        {"json", 0, OPT_FLAG, &q.json, 0, 0, NULL, "report as JSON on stdout"}};
    const char *name;
    int status;
    fg_err err = {0};
    watch w = {.n = 0};
    if (!args_parse(&cmd_verify_session, opts, 2, argc, argv, &name, 1, &status)) return status;
    cli_catch_interrupt();
    fg_status st = find_dir(&q, &err);
    progress_start(&w.p, "verify", "B");
    if (st == FG_OK) st = fg_saved_verify(q.dir, name, watch_show, watch_damage, &w, &err);
    progress_end(&w.p);
    if (st == FG_OK) st = check_settings(q.dir, name, &err);
    if (st == FG_OK && q.json) printf("{\"ok\": true, \"bytes\": %" PRIu64 "}\n", w.bytes);
    if (st == FG_OK && !q.json) printf("%s: good, %s\n", name, cli_bytes((double)w.bytes));
    return finish(&q, st, &err);
}

/* ---- export ---- */

/* Text of ids first to end - 1, as a reply is shown. */
static void put_reply(fg_buf *text, const fg_tokenizer *t, const fg_saved_info *o, uint64_t first,
                      uint64_t end)
{
    fg_detok d;
    fg_detok_init(&d, t, FG_DETOK_THINK);
    for (uint64_t i = first; i < end; i++) fg_detok_feed(&d, o->ids[i], text);
    fg_detok_flush(&d, text);
}

/* ", "given": [{"position": 812, "tokens": 4, "why": "budget"}]" of positions first to end - 1. */
static void put_given(fg_buf *b, const fg_saved_info *o, uint64_t first, uint64_t end)
{
    static const char *const why[] = {"nothing", "budget", "repetition", "no_thought"};
    bool any = false;
    for (size_t i = 0; i < o->n_event; i++) {
        const fg_saved_event *e = &o->event[i];
        if (e->kind != FG_SAVED_FORCED || e->pos < first || e->pos >= end) continue;
        fg_cursor c = fg_cursor_make(e->payload, e->n);
        const uint32_t reason = fg_cursor_u32(&c), n = fg_cursor_u32(&c);
        fg_buf_printf(b, "%s{\"position\": %" PRIu64 ", \"tokens\": %u, \"why\": \"%s\"}",
                      any ? ", " : ", \"given\": [", e->pos, n, reason < 4 ? why[reason] : "");
        any = true;
    }
    if (any) fg_buf_put_str(b, "]");
}

static void put_message(fg_buf *b, bool json, const fg_saved_info *o, const fg_saved_event *e,
                        uint64_t end, const fg_buf *text)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    const char *role = roles[e->payload[0]];
    if (json) {
        fg_buf_printf(b, "{\"role\": \"%s\", \"position\": %" PRIu64 ", \"content\": ", role,
                      e->pos);
        fg_json_put_str(b, (const char *)text->data, text->len);
        if (e->payload[0] == FG_MESSAGE_ASSISTANT) put_given(b, o, e->pos, end);
        fg_buf_put_str(b, "}\n");
        return;
    }
    fg_buf_printf(b, "%s## %s\n\n", b->len == 0 ? "" : "\n", role);
    fg_buf_put(b, text->data, text->len);
    if (text->len == 0 || text->data[text->len - 1] != '\n') fg_buf_put_str(b, "\n");
}

static void put_messages(fg_buf *b, bool json, const fg_tokenizer *t, const fg_saved_info *o)
{
    for (size_t i = 0; i < o->n_event; i++) {
        const fg_saved_event *e = &o->event[i];
        uint64_t end = o->n_token;
        fg_buf text = {0};
        if (e->kind != FG_SAVED_MESSAGE) continue;
        for (size_t k = o->n_event; k > i + 1; k--) {
            const fg_saved_kind next = o->event[k - 1].kind;
            if (next == FG_SAVED_MESSAGE || next == FG_SAVED_END) end = o->event[k - 1].pos;
        }
        if (end < e->pos) end = e->pos;
        fg_buf_put(&text, e->payload + 1, e->n - 1);
        if (e->n == 1 && e->payload[0] == FG_MESSAGE_ASSISTANT) put_reply(&text, t, o, e->pos, end);
        put_message(b, json, o, e, end, &text);
        b->failed = b->failed || text.failed;
        fg_buf_fini(&text);
    }
}

/* Ids of another vocabulary would be another text. */
static fg_status check_tokenizer(const char *path, const char *name, const fg_saved_info *o,
                                 fg_err *err)
{
    fg_model_file *f;
    const char *text;
    size_t n;
    if (fg_io_is_dir(path)) return FG_OK; /* of whom somebody says that it is the model's */
    FG_TRY(fg_model_file_open(&f, path, err));
    fg_status st = fg_model_file_meta(f, "tokenizer.json", &text, &n, err);
    if (st == FG_OK && (text == NULL ? 0 : fg_hash64(text, n)) != o->model.tokenizer) {
        st = fg_fail(err, FG_ENOTSUP,
                     "session %s: of the model %s with another tokenizer, "
                     "expected that of %s",
                     name, o->model.name, path);
    }
    fg_model_file_close(&f);
    return st;
}

static int run_export(int argc, char **argv)
{
    request q = {0};
    const opt opts[] = {
        DIR_OPT(q),
        {"output", 'o', OPT_STR, &q.out, 0, 0, "FILE", "write there (default: -, standard output)"},
        FORCE_OPT(q.force),
        {"json", 0, OPT_FLAG, &q.json, 0, 0, NULL, "a JSON object for each message"},
    };
    const char *operand[2];
    int status;
    fg_err err = {0};
    fg_saved_info *info = NULL;
    fg_tokenizer *t = NULL;
    fg_buf b = {0};
    if (!args_parse(&cmd_export_session, opts, 4, argc, argv, operand, 2, &status)) return status;
    if (q.out != NULL && strcmp(q.out, "-") == 0) q.out = NULL;
    const char *const in[] = {operand[0]};
    fg_status st = find_dir(&q, &err);
    if (st == FG_OK && q.out != NULL) st = check_output(q.out, q.force, in, 1, &err);
    if (st == FG_OK) st = fg_saved_read(&info, q.dir, operand[1], &err);
    if (st == FG_OK) st = check_tokenizer(operand[0], operand[1], info, &err);
    if (st == FG_OK) st = open_tokenizer(operand[0], &t, &err);
    if (st == FG_OK) {
        put_messages(&b, q.json, t, info);
        st = q.out != NULL ? write_buf(&b, q.out, &err)
             : b.failed    ? fg_fail_nomem(&err, "text to print")
                           : FG_OK;
        if (st == FG_OK && q.out == NULL) (void)cli_write((const char *)b.data, b.len);
    }
    fg_buf_fini(&b);
    fg_tokenizer_destroy(&t);
    fg_saved_info_free(&info);
    return finish(&q, st, &err);
}
