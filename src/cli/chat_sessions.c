/* SPDX-License-Identifier: MIT
 *
 * A conversation that is kept on disk (src/engine/saved.h): opened, written while it goes on, and
 * its turns made again from the log.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "src/base/mem.h"
#include "src/cli/conversation.h"
#include "src/cli/screen.h"
#include "src/cli/state_dir.h"

static fg_status need_folder(talk *k, fg_err *err)
{
    return k->folder != NULL ? FG_OK : cli_state_path(&k->folder, "sessions", err);
}

/* ---- writing ---- */

static void wrote(talk *k, fg_status st, const fg_err *err)
{
    if (st == FG_OK) {
        k->save_failed = false;
    } else if (!k->save_failed) {
        char line[sizeof err->msg + 80];
        k->save_failed = true;
        (void)snprintf(line, sizeof line,
                       "fulgur: %s (the conversation goes on, and saving is tried again)",
                       err->msg);
        /* not into the line of a reply that is on the same terminal */
        if (k->g != NULL && k->interactive && meters_line(k->m, line)) return;
        fprintf(stderr, "%s\n", line);
    }
}

void chat_saved_settings(talk *k, bool now)
{
    fg_err err = {0};
    fg_buf b = {0};
    if (k->saved == NULL) return;
    chat_settings_put(k, &b);
    const bool same =
        b.len == k->settings.len && b.len > 0 && memcmp(b.data, k->settings.data, b.len) == 0;
    fg_status st = b.failed ? fg_fail_nomem(&err, "settings") : FG_OK;
    if (st == FG_OK && !same) {
        st = fg_saved_note(k->saved, FG_SAVED_SETTINGS, b.data, b.len, &err);
    }
    if (st == FG_OK && !same) {
        fg_buf_fini(&k->settings);
        k->settings = b;
        b = (fg_buf){0};
    }
    if (st == FG_OK && now) st = fg_saved_sync(k->saved, NULL, 0, &err);
    fg_buf_fini(&b);
    wrote(k, st, &err);
}

static fg_status note_message(talk *k, uint64_t pos, fg_message_role role, const char *text,
                              size_t n, fg_err *err)
{
    const bool opens = pos == 0 && role == FG_MESSAGE_USER && k->system != NULL;
    if (opens) {
        FG_TRY(
            fg_saved_message_at(k->saved, 0, FG_MESSAGE_SYSTEM, k->system, strlen(k->system), err));
    }
    FG_TRY(fg_saved_message_at(k->saved, pos, role, text == NULL ? "" : text, n, err));
    return fg_saved_sync(k->saved, NULL, 0, err);
}

void chat_saved_message(talk *k, uint64_t pos, fg_message_role role, const char *text, size_t n)
{
    fg_err err = {0};
    if (k->saved == NULL) return;
    if (role == FG_MESSAGE_USER) chat_saved_settings(k, false);
    const fg_status st = note_message(k, pos, role, text, n, &err);
    k->half_said = role == FG_MESSAGE_USER;
    k->unsaid = false;
    wrote(k, st, &err);
}

void chat_saved_passed(talk *k, bool told)
{
    fg_err err = {0};
    wrote(k, told ? fg_saved_keep_parts(k->saved, &err) : fg_saved_keep(k->saved, NULL, 0, &err),
          &err);
}

/* What of the reply was given, as soon as it is evaluated: before that its place is not sure. */
static fg_status note_forced(talk *k, turn *u, fg_err *err)
{
    const uint64_t pos = fg_session_pos(k->s);
    for (; u->n_told < u->n_forced; u->n_told++) {
        const forced_ids *f = &u->forced[u->n_told];
        if (f->pos + f->n > pos) return FG_OK;
        FG_TRY(fg_saved_forced(k->saved, f->pos, f->why, f->n, err));
    }
    return FG_OK;
}

void chat_saved_due(talk *k)
{
    fg_err err = {0};
    uint8_t state[FG_GENERATOR_STATE];
    if (k->saved == NULL) return;
    const bool has =
        k->g != NULL && fg_generator_save(k->g, fg_session_pos(k->s), state, NULL) == FG_OK;
    fg_status st = k->n_turn == 0 ? FG_OK : note_forced(k, &k->turn[k->n_turn - 1], &err);
    if (st == FG_OK) {
        st = fg_saved_keep(k->saved, has ? state : NULL, has ? sizeof state : 0, &err);
    }
    wrote(k, st, &err);
}

void chat_saved_reply(talk *k)
{
    fg_err err = {0};
    turn *u = &k->turn[k->n_turn - 1];
    if (k->saved == NULL) return;
    fg_status st = note_forced(k, u, &err);
    if (st == FG_OK) {
        st = fg_saved_save(k->saved, u->has_state ? u->state : NULL,
                           u->has_state ? sizeof u->state : 0, &err);
    }
    wrote(k, st, &err);
}

void chat_saved_turn(talk *k, const char *end)
{
    fg_err err = {0};
    if (k->saved == NULL) return;
    fg_status st = note_forced(k, &k->turn[k->n_turn - 1], &err);
    if (st == FG_OK) st = fg_saved_note(k->saved, FG_SAVED_END, end, strlen(end), &err);
    chat_saved_settings(k, false); /* with the random state */
    if (st == FG_OK) st = fg_saved_save(k->saved, NULL, 0, &err);
    wrote(k, st, &err);
}

/* The session may hold turns that were undone, or have been stopped on the way back from them, or
 * have other ids, of thoughts that were to be forgotten.  Nothing is evaluated: that is done by who
 * goes on. */
fg_status chat_saved_settle(talk *k, fg_err *err)
{
    const uint64_t n = k->ids.len, pos = fg_session_pos(k->s), same = chat_common(k, &k->ids);
    uint64_t at;
    if (same == n && !k->unsaid && (pos == n || k->half_said)) return FG_OK;
    FG_TRY(fg_saved_back(k->saved, same, n, &at, err));
    if (k->unsaid) FG_TRY(fg_saved_retell(k->saved, n, err));
    k->unsaid = false;
    return FG_OK;
}

void chat_saved_close(talk *k)
{
    fg_err err = {0};
    const bool left = k->n_turn > 0 && k->turn[k->n_turn - 1].under_way;
    if (k->saved == NULL) return;
    meters_busy(k->m, "saving");
    if (!left) { /* no reply that is to go on */
        fg_status st = chat_saved_settle(k, &err);
        if (st == FG_OK && k->half_said) st = fg_saved_save(k->saved, NULL, 0, &err);
        wrote(k, st, &err);
        if (st == FG_OK) chat_saved_settings(k, true);
    }
    meters_idle(k->m);
    fg_saved_close(&k->saved);
    fg_buf_fini(&k->settings);
    k->half_said = k->unsaid = false;
}

/* ---- opening ---- */

fg_status chat_saved_room(talk *k, const char *name, fg_err *err)
{
    fg_saved_info *info;
    FG_TRY(fg_saved_check_name(name, err));
    FG_TRY(need_folder(k, err));
    if (fg_saved_read(&info, k->folder, name, NULL) != FG_OK) return FG_OK; /* a new one */
    if (k->so.n_ctx == 0 || k->so.n_ctx <= info->n_token) {
        const uint64_t room = chat_settings_room(info->settings, info->n_settings);
        k->so.n_ctx = room > info->n_token ? room : info->n_ctx;
    }
    if (k->so.kv == FG_KV_CHOICE_AUTO) {
        k->so.kv = info->model.kv == FG_KV_INT8  ? FG_KV_CHOICE_INT8
                   : info->model.kv == FG_KV_F16 ? FG_KV_CHOICE_F16
                                                 : FG_KV_CHOICE_F32;
    }
    fg_saved_info_free(&info);
    return FG_OK;
}

typedef struct names {
    fg_buf *out;
    talk *k;
} names;

static bool first_name(void *ctx, const char *name)
{
    char **to = ctx;
    *to = fg_mem_strndup(name, strlen(name));
    return false;
}

fg_status chat_saved_latest(talk *k, char **name, fg_err *err)
{
    *name = NULL;
    FG_TRY(need_folder(k, err));
    return fg_saved_list(k->folder, first_name, name, err);
}

/* Text of a reply's ids into the turn. */
static void hear(void *ctx, fg_think_part part, const char *text, size_t n)
{
    turn *u = ctx;
    if (part == FG_THINK_ANSWER) fg_buf_put(&u->answer, text, n);
    if (part == FG_THINK_REASONING) fg_buf_put(&u->thought, text, n);
}

/* Half a character counts where none can follow. */
static void decode_reply(const talk *k, turn *u, const uint32_t *ids, size_t n, bool whole)
{
    fg_detok d;
    fg_think think;
    fg_buf text = {0};
    fg_detok_init(&d, k->t, FG_DETOK_THINK);
    fg_think_init(&think, hear, u);
    for (size_t i = 0; i < n; i++) {
        text.len = 0;
        fg_detok_feed(&d, ids[i], &text);
        fg_think_feed(&think, (const char *)text.data, text.len);
        u->stats.n_thought += think.stage == 1;
    }
    text.len = 0;
    if (whole) fg_detok_flush(&d, &text);
    fg_think_feed(&think, (const char *)text.data, text.len);
    fg_think_flush(&think);
    fg_buf_fini(&text);
    u->stats.n_gen = n;
}

static fg_end end_of(const fg_saved_event *e)
{
    for (unsigned i = 0; i < FG_END_COUNT; i++) {
        const char *name = fg_end_name((fg_end)i);
        if (strlen(name) == e->n && memcmp(name, e->payload, e->n) == 0) return (fg_end)i;
    }
    return FG_END_MODEL;
}

static bool is_message(const fg_saved_event *e, fg_message_role role)
{
    return e->kind == FG_SAVED_MESSAGE && e->n > 0 && e->payload[0] == (uint8_t)role;
}

/* The turn that begins with event i; *i is the one behind it.  A turn whose reply did not begin
 * goes back to the editor. */
static fg_status take_turn(talk *k, const fg_saved_info *f, size_t *i, fg_err *err)
{
    const fg_saved_event *said = &f->event[(*i)++];
    const char *text = (const char *)said->payload + 1;
    const fg_saved_event *begun = NULL, *ended = NULL;
    for (; *i < f->n_event && !is_message(&f->event[*i], FG_MESSAGE_USER); ++*i) {
        if (is_message(&f->event[*i], FG_MESSAGE_ASSISTANT)) begun = &f->event[*i];
        if (f->event[*i].kind == FG_SAVED_END) ended = &f->event[*i];
    }
    k->ids.len = (size_t)said->pos; /* what stands before is that of earlier turns */
    if (begun == NULL) {
        if (*i == f->n_event) {
            chat_put_back(k, text, said->n - 1);
            k->half_said = true;
        }
        return FG_OK;
    }
    FG_TRY(chat_begin_turn(k, text, said->n - 1, begun->pos, err));
    turn *u = &k->turn[k->n_turn - 1];
    const uint64_t to = ended != NULL     ? ended->pos
                        : *i < f->n_event ? f->event[*i].pos
                                          : f->n_token;
    if (to < begun->pos || to > f->n_token)
        return fg_fail(err, FG_EFORMAT, "session: a reply at %llu, expected one within %llu tokens",
                       (unsigned long long)begun->pos, (unsigned long long)f->n_token);
    k->ids.len = (size_t)to;
    if (ended != NULL) u->end = end_of(ended);
    decode_reply(k, u, f->ids + begun->pos, (size_t)(to - begun->pos),
                 ended != NULL && !chat_can_go_on(u->end));
    for (const fg_saved_event *e = said; e < f->event + *i; e++) {
        fg_cursor c = fg_cursor_make(e->payload, e->n);
        const fg_forced why = (fg_forced)(e->kind == FG_SAVED_FORCED ? fg_cursor_u32(&c) : 0);
        if (why != FG_FORCED_NOTHING) chat_forced(u, e->pos, fg_cursor_u32(&c), why);
    }
    u->n_told = u->n_forced;
    if (ended == NULL) {
        u->cut = to;
        u->under_way = true;
        u->has_state = f->n_state == sizeof u->state && f->state_pos == to;
        if (u->has_state) memcpy(u->state, f->state, sizeof u->state);
    } else if (chat_can_go_on(u->end)) {
        u->cut = to - 1; /* the end mark was put there */
        u->can_go_on = to > begun->pos;
    }
    return FG_OK;
}

/* It goes on as it was, and says so. */
static fg_status take_settings(talk *k, const fg_saved_info *f, fg_err *err)
{
    fg_buf said = {0};
    fg_err why = {0};
    const fg_status st = chat_settings_take(k, f->settings, f->n_settings, &said, &why);
    if (st == FG_EFORMAT) {
        cli_note("(%s; the session goes on with the present ones)\n", why.msg);
    } else if (st == FG_OK && said.len > 0 && fg_buf_str(&said) != NULL) {
        cli_note("(with the session's %s; /set changes them)\n",
                 cli_shown((const char *)said.data));
    }
    fg_buf_fini(&said);
    fg_buf_put(&k->settings, f->settings, f->n_settings);
    if (st == FG_EFORMAT || st == FG_OK) return FG_OK;
    if (err != NULL) *err = why;
    return st;
}

/* The conversation as the log has it. */
static fg_status take_turns(talk *k, const char *name, fg_err *err)
{
    fg_saved_info *f;
    FG_TRY(fg_saved_read(&f, k->folder, name, err));
    k->ids.len = 0;
    fg_status st = FG_OK;
    for (uint64_t i = 0; st == FG_OK && i < f->n_token; i++) {
        if (!fg_ids_push(&k->ids, f->ids[i])) st = fg_fail_nomem(err, "conversation");
    }
    for (size_t i = 0; st == FG_OK && i < f->n_event;) {
        const fg_saved_event *e = &f->event[i];
        if (is_message(e, FG_MESSAGE_SYSTEM)) {
            fg_mem_free(k->system);
            k->system = fg_mem_strndup((const char *)e->payload + 1, e->n - 1);
        }
        if (!is_message(e, FG_MESSAGE_USER)) {
            i++;
            continue;
        }
        st = take_turn(k, f, &i, err);
    }
    if (st == FG_OK && f->settings != NULL) st = take_settings(k, f, err);
    fg_saved_info_free(&f);
    return st;
}

/* What was said in a turn, and where it ended. */
static fg_status tell_turn(talk *k, size_t i, bool message, fg_err *err)
{
    turn *u = &k->turn[i];
    const uint64_t end = i + 1 < k->n_turn ? k->turn[i + 1].head : k->ids.len;
    const char *why = fg_end_name(u->end);
    if (message) {
        FG_TRY(fg_saved_message_at(k->saved, u->head, FG_MESSAGE_USER, (const char *)u->user.data,
                                   u->user.len, err));
    }
    FG_TRY(fg_saved_message_at(k->saved, u->prompt, FG_MESSAGE_ASSISTANT, "", 0, err));
    u->n_told = 0;
    FG_TRY(note_forced(k, u, err));
    return fg_saved_note_at(k->saved, end, FG_SAVED_END, why, strlen(why), err);
}

/* A new session on disk takes the conversation. */
static fg_status tell(talk *k, fg_err *err)
{
    if (k->system != NULL && k->n_turn > 0) {
        FG_TRY(
            fg_saved_message_at(k->saved, 0, FG_MESSAGE_SYSTEM, k->system, strlen(k->system), err));
    }
    for (size_t i = 0; i < k->n_turn; i++) FG_TRY(tell_turn(k, i, true, err));
    return FG_OK;
}

void chat_saved_retell(talk *k, size_t first)
{
    fg_err err = {0};
    fg_status st = fg_saved_retell(k->saved, k->turn[first].prompt, &err);
    for (size_t i = first; st == FG_OK && i < k->n_turn; i++) {
        st = tell_turn(k, i, i > first, &err);
    }
    if (st == FG_OK) st = fg_saved_save(k->saved, NULL, 0, &err);
    wrote(k, st, &err);
}

static void say_note(void *ctx, const char *line)
{
    (void)ctx;
    cli_note("(%s)\n", line);
}

static bool show_progress(void *ctx, bool tokens, uint64_t done, uint64_t total)
{
    talk *k = ctx;
    if (tokens && done == 0) meters_prompt(k->m, 0, total);
    if (tokens) meters_progress(k->m, done);
    return !cli_interrupted();
}

fg_status chat_saved_open(talk *k, const char *name, const fg_saved_opts *given, fg_err *err)
{
    fg_saved_opts o = *given;
    o.note = say_note;
    o.progress = show_progress;
    o.ctx = k;
    FG_TRY(fg_saved_check_name(name, err));
    FG_TRY(need_folder(k, err));
    k->settings.len = 0; /* of an earlier one */
    if (k->ids.len > 0) FG_TRY(chat_reach(k, &k->ids, k->ids.len, NULL, 0, err));
    meters_busy(k->m, "opening the session");
    const bool holds = k->ids.len > 0;
    fg_status st = fg_saved_open(&k->saved, k->s, k->folder, name, &o, err);
    if (st == FG_OK && holds) {
        st = tell(k, err);
        if (st == FG_OK) chat_saved_settings(k, false);
        if (st == FG_OK) st = fg_saved_save(k->saved, NULL, 0, err);
    } else if (st == FG_OK) { /* without tokens it may have a message that was under way */
        st = take_turns(k, name, err);
    }
    meters_idle(k->m);
    if (st != FG_OK) fg_saved_close(&k->saved);
    return st;
}

/* In a session of the room that it had. */
static fg_status open_other(talk *k, const char *name, fg_err *err)
{
    const fg_saved_opts o = {.must_exist = true};
    const uint64_t room = k->so.n_ctx;
    fg_session_reset(k->s);
    fg_status st = chat_saved_room(k, name, err);
    if (st == FG_OK && k->so.n_ctx != room) {
        fg_session *s;
        st = fg_session_create(&s, k->e, &k->so, err);
        if (st == FG_OK) fg_session_destroy(&k->s);
        if (st == FG_OK) k->s = s;
        if (st != FG_OK) k->so.n_ctx = room;
    }
    return st == FG_OK ? chat_saved_open(k, name, &o, err) : st;
}

/* What was said so far is put aside, and comes back when the other cannot be opened: in use, of
 * another model, damaged. */
fg_status chat_saved_load(talk *k, const char *name, fg_err *err)
{
    fg_saved_info *info;
    char before[FG_SAVED_NAME_MAX + 1] = "";
    FG_TRY(fg_saved_check_name(name, err));
    FG_TRY(need_folder(k, err));
    FG_TRY(fg_saved_read(&info, k->folder, name, err));
    fg_saved_info_free(&info);
    if (k->saved != NULL) (void)snprintf(before, sizeof before, "%s", fg_saved_name(k->saved));
    chat_saved_close(k);
    talk had = {.ids = k->ids, .turn = k->turn, .n_turn = k->n_turn, .cap_turn = k->cap_turn};
    k->ids = (fg_ids){0};
    k->turn = NULL;
    k->n_turn = k->cap_turn = 0;
    const fg_status st = open_other(k, name, err);
    if (st == FG_OK) {
        k->attached.len = k->attached_say.len = 0;
    } else {
        const talk now = *k;
        k->ids = had.ids;
        k->turn = had.turn;
        k->n_turn = had.n_turn;
        k->cap_turn = had.cap_turn;
        had = (talk){.ids = now.ids, .turn = now.turn, .n_turn = now.n_turn};
    }
    chat_undo(&had, had.n_turn);
    fg_mem_free(had.turn);
    fg_ids_fini(&had.ids);
    if (st != FG_OK && before[0] != '\0') { /* its own files */
        const fg_saved_opts own = {0};
        fg_err why = {0};
        chat_undo(k, k->n_turn);
        k->ids.len = 0;
        fg_session_reset(k->s);
        if (chat_saved_open(k, before, &own, &why) != FG_OK) (void)cli_fail(&why);
    }
    return st;
}

static bool put_name(void *ctx, const char *name)
{
    const names *n = ctx;
    fg_saved_info *f;
    char when[32] = "";
    struct tm t;
    if (fg_saved_read(&f, n->k->folder, name, NULL) != FG_OK) {
        fg_buf_printf(n->out, "  %-20s cannot be read; fulgur session verify says why\n", name);
        return true;
    }
    const time_t at = (time_t)f->modified_s;
    if (localtime_r(&at, &t) != NULL) (void)strftime(when, sizeof when, "%Y-%m-%d %H:%M", &t);
    fg_buf_printf(n->out, "  %-20s %s  %s tokens, %s%s\n", name, when, cli_count(f->n_token),
                  cli_bytes((double)f->bytes), f->in_use ? ", in use" : "");
    fg_saved_info_free(&f);
    return true;
}

fg_status chat_saved_list(talk *k, fg_buf *out, fg_err *err)
{
    names n = {out, k};
    FG_TRY(need_folder(k, err));
    FG_TRY(fg_saved_list(k->folder, put_name, &n, err));
    if (out->len == 0) fg_buf_put_str(out, "  none\n");
    return FG_OK;
}
