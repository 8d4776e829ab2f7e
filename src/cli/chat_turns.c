/* SPDX-License-Identifier: MIT
 *
 * talk.ids says what the conversation is; the session is brought there before each reply (reach).
 * So undoing costs nothing until somebody speaks again, and a prompt that was stopped goes on where
 * it stood when the same message comes again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "src/base/clock.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/cli/conversation.h"
#include "src/cli/screen.h"

bool chat_can_go_on(fg_end end)
{
    return end == FG_END_LENGTH || end == FG_END_CONTEXT || end == FG_END_CANCEL;
}

static void turn_fini(turn *u)
{
    fg_buf_fini(&u->user);
    fg_buf_fini(&u->thought);
    fg_buf_fini(&u->answer);
}

void chat_undo(talk *k, size_t n)
{
    for (; n > 0 && k->n_turn > 0; n--) {
        turn *u = &k->turn[--k->n_turn];
        k->ids.len = (size_t)u->head;
        turn_fini(u);
        k->half_said = false;
    }
}

void talk_fini(talk *k)
{
    chat_saved_close(k);
    chat_undo(k, k->n_turn);
    fg_mem_free(k->folder);
    fg_mem_free(k->turn);
    for (size_t i = 0; i < OPT_LIST_MAX; i++) fg_mem_free(k->stop_own[i]);
    for (size_t i = 0; i < OPT_LIST_MAX; i++) fg_mem_free(k->bias_own[i]);
    fg_mem_free(k->own_message);
    fg_mem_free(k->system);
    fg_ids_fini(&k->ids);
    fg_buf_fini(&k->attached);
    fg_buf_fini(&k->attached_say);
    fg_buf_fini(&k->pending);
    fg_buf_fini(&k->settings);
    fg_generator_destroy(&k->g);
    fg_tok_state_destroy(&k->words);
    fg_sampler_destroy(&k->sampler);
    fg_session_destroy(&k->s);
    fg_engine_close(&k->e);
}

fg_status chat_resample(talk *k, fg_err *err)
{
    fg_sampler *s;
    FG_TRY(gen_sampler(k->e, &k->gen, &s, err));
    fg_sampler_destroy(&k->sampler);
    k->sampler = s;
    return FG_OK;
}

/* ---- ids ---- */

/* The first turn brings the opening and the system text; later ones start with the
 * newline that the template puts after a finished reply. */
static fg_status encode_turn(const talk *k, bool first, const char *text, size_t n, fg_ids *ids,
                             fg_err *err)
{
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
    fg_ids all = {0};
    fg_status st = fg_tokenizer_encode(k->t, k->words, "\n", 1, false, ids, err);
    if (st == FG_OK) st = fg_chat_encode(&c, k->t, k->words, &all, err);
    /* from the head of the user's message on: no second opening (or default system text) */
    size_t from = all.len;
    for (size_t heads = 0; st == FG_OK && from > 0 && heads < 2;) {
        uint32_t head;
        from--;
        if (fg_tokenizer_find_added(k->t, "<beginning_of_sentence>", &head)) {
            heads += all.data[from] == head;
        }
    }
    for (size_t i = from; st == FG_OK && i < all.len; i++) {
        if (!fg_ids_push(ids, all.data[i])) st = fg_fail_nomem(err, "chat");
    }
    fg_ids_fini(&all);
    return st;
}

static fg_status append(fg_ids *to, const uint32_t *ids, size_t n, fg_err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (!fg_ids_push(to, ids[i])) return fg_fail_nomem(err, "conversation");
    }
    return FG_OK;
}

/* The conversation's ids are those of the session now. */
static fg_status take_ids(talk *k, fg_err *err)
{
    k->ids.len = 0;
    return append(&k->ids, fg_session_ids(k->s), (size_t)fg_session_pos(k->s), err);
}

/* ---- evaluation ---- */

typedef struct advance {
    talk *k;
    uint64_t from; /* position at which this call began */
} advance;

static bool on_progress(void *ctx, size_t done, size_t total)
{
    const advance *a = ctx;
    (void)total;
    meters_progress(a->k->m, a->from + done);
    line_soak(a->k->line);
    return !cli_interrupted();
}

/* Where a pass reads experts from the disk, the larger the better. */
static bool streams(fg_engine *e)
{
    const fg_store_stats *st = fg_engine_store_stats(e);
    return st != NULL && st->n_slot < st->n_total;
}

/* Long ones in slices, between which is kept what was evaluated: on the disk, else every 8,192
 * tokens as a mark, so that whoever changes the end of a long message does not evaluate all of it
 * again. told: the saved session's log has these ids. */
static fg_status evaluate(talk *k, const uint32_t *ids, uint64_t to, bool told, fg_err *err)
{
    enum { FAR = 8192 };
    for (uint64_t at; (at = fg_session_pos(k->s)) < to;) {
        advance a = {k, at};
        const uint64_t left = to - at, far = FAR - at % FAR;
        const bool cuts = k->saved == NULL && !streams(k->e) && far < left;
        const uint64_t n = k->saved != NULL ? fg_saved_slice(k->saved, left) : cuts ? far : left;
        fg_session_set_progress(k->s, on_progress, &a);
        const fg_status st = fg_session_eval(k->s, ids + at, (size_t)n, NULL, NULL, err);
        fg_session_set_progress(k->s, NULL, NULL);
        if (st != FG_OK) return st;
        if (k->saved != NULL) chat_saved_passed(k, told);
        if (cuts) (void)fg_session_mark(k->s, NULL);
    }
    return FG_OK;
}

uint64_t chat_common(const talk *k, const fg_ids *ids)
{
    const uint64_t pos = fg_session_pos(k->s), n = ids->len;
    uint64_t same = 0;
    const uint32_t *had = fg_session_ids(k->s);
    while (same < n && same < pos && ids->data[same] == had[same]) same++;
    if (n > 0 && same == n && (pos > n || fg_session_logits(k->s) == NULL)) same = n - 1;
    return same;
}

uint64_t chat_return_cost(const talk *k)
{
    const uint64_t n = k->ids.len, same = n == 0 ? 0 : chat_common(k, &k->ids);
    const uint64_t at = same == 0          ? 0
                        : k->saved != NULL ? fg_saved_reach(k->saved, same)
                                           : fg_session_reach(k->s, same);
    return n - at;
}

/* Marks, for going back later, are made at `head` and before the last id of a long prompt: its
 * logits cannot be kept, so it is evaluated again whenever somebody returns there. */
fg_status chat_reach(talk *k, const fg_ids *ids, uint64_t head, const char *said, size_t n_said,
                     fg_err *err)
{
    enum { LONG = 256 };
    const uint64_t n = ids->len, same = chat_common(k, ids);
    uint64_t at;
    FG_TRY(k->saved == NULL ? fg_session_rewind(k->s, same, &at, err)
                            : fg_saved_back(k->saved, same, head, &at, err));
    meters_prompt(k->m, at, n);
    if (at <= head) {
        FG_TRY(evaluate(k, ids->data, head, true, err));
        (void)fg_session_mark(k->s, NULL); /* without room for it, going back takes longer */
    }
    if (said != NULL) chat_saved_message(k, head, FG_MESSAGE_USER, said, n_said);
    if (n > head + LONG && fg_session_pos(k->s) < n) {
        FG_TRY(evaluate(k, ids->data, n - 1, false, err));
        (void)fg_session_mark(k->s, NULL);
    }
    FG_TRY(evaluate(k, ids->data, n, false, err));
    if (said != NULL) chat_saved_message(k, n, FG_MESSAGE_ASSISTANT, NULL, 0);
    return FG_OK;
}

/* ---- the reply ---- */

static turn *last(talk *k)
{
    return &k->turn[k->n_turn - 1];
}

static void say_thought(talk *k)
{
    fg_buf b = {0};
    const uint64_t n = last(k)->stats.n_thought;
    if (k->think != THINK_FOLD || !meters_can_fold(k->m) || last(k)->thought.len == 0) return;
    last(k)->thought_s = meters_thought_seconds(k->m);
    fg_buf_printf(&b, "thought %s token%s, ", cli_count(n), n == 1 ? "" : "s");
    screen_put_time(&b, last(k)->thought_s);
    fg_buf_put_str(&b, k->interactive ? " (/think shows it)" : "");
    const char *text = fg_buf_str(&b);
    if (text != NULL) (void)meters_line(k->m, text);
    fg_buf_fini(&b);
}

static void say_notice(talk *k, const char *text)
{
    char line[256];
    if (k->json) return;
    (void)snprintf(line, sizeof line, "(%s)", text);
    if (!meters_line(k->m, line)) k->notice = text; /* not into the text of a pipe: behind it */
}

static bool on_text(talk *k, const fg_event *e)
{
    static const char closing[] = "</think>";
    const fg_think_part part = e->kind == FG_EVENT_TEXT        ? FG_THINK_ANSWER
                               : e->kind == FG_EVENT_REASONING ? FG_THINK_REASONING
                                                               : FG_THINK_TAG;
    turn *u = last(k);
    if (part == FG_THINK_ANSWER) fg_buf_put(&u->answer, e->text, e->n);
    if (part == FG_THINK_REASONING) fg_buf_put(&u->thought, e->text, e->n);
    if (k->json) return true;
    const bool good = meters_text(k->m, part, e->text, e->n, &u->stats);
    const bool ends =
        part == FG_THINK_TAG && e->n == sizeof closing - 1 && memcmp(e->text, closing, e->n) == 0;
    if (ends) say_thought(k);
    return good;
}

static bool on_event(void *ctx, const fg_event *e)
{
    talk *k = ctx;
    fg_generator_get_stats(k->g, &last(k)->stats);
    switch (e->kind) {
    case FG_EVENT_TEXT:
    case FG_EVENT_REASONING:
    case FG_EVENT_TAG: return on_text(k, e);
    case FG_EVENT_FORCED:
        chat_forced(last(k), e->pos, e->n_id, e->why);
        __attribute__((fallthrough));
    case FG_EVENT_STOP:
        if (gen_notice(e) != NULL) say_notice(k, gen_notice(e));
        return true;
    case FG_EVENT_TOOL: break;
    }
    return true;
}

static bool on_poll(void *ctx)
{
    talk *k = ctx;
    line_soak(k->line);
    if (k->saved != NULL && fg_saved_due(k->saved)) chat_saved_due(k);
    return !cli_interrupted();
}

static fg_status make_generator(talk *k, uint64_t n_max, fg_err *err)
{
    fg_reply_opts o = gen_reply_opts(&k->gen, k->sampler);
    o.n_max = n_max;
    o.goes_on = true;
    o.event = on_event;
    o.poll = on_poll;
    o.ctx = k;
    fg_generator_destroy(&k->g);
    return fg_generator_create(&k->g, k->e, &o, err);
}

static void begin_reply(talk *k)
{
    last(k)->thought_s = 0.0;
    k->notice = NULL;
    meters_reply(k->m, k->think);
}

void chat_forced(turn *u, uint64_t pos, uint64_t n, fg_forced why)
{
    if (u->n_forced == MAX_FORCED) return; /* a thought is closed once */
    u->forced[u->n_forced++] = (forced_ids){pos, n, why};
}

/* A reply that was stopped short is closed, or the next turn would continue it.  What is saved ends
 * where its session is. */
static fg_status close_short(talk *k, turn *u, fg_err *err)
{
    uint32_t end;
    uint64_t at = fg_session_pos(k->s);
    FG_TRY(fg_chat_end_id(k->t, &end, err));
    if (u->end == FG_END_STRING) FG_TRY(chat_cut_stop(k, u, err));
    FG_TRY(append(&k->ids, &end, 1, err));
    if (u->end == FG_END_STRING && k->saved == NULL) return FG_OK; /* when somebody speaks again */
    if (u->end == FG_END_STRING) {
        FG_TRY(fg_saved_back(k->saved, chat_common(k, &k->ids), 0, &at, err));
    }
    if (at >= k->ids.len || k->ids.len > fg_session_n_ctx(k->s)) return FG_OK;
    return fg_session_eval(k->s, k->ids.data + at, k->ids.len - (size_t)at, NULL, NULL, err);
}

/* Runs the generator, keeps what is needed to go on, and closes the reply. */
static fg_status run_reply(talk *k, fg_reply *r, fg_err *err)
{
    turn *u = last(k);
    u->under_way = false;
    fg_status st = fg_generator_run(k->g, k->s, r, err);
    if (u->thought_s == 0.0 && u->answer.len == 0 && !k->json) say_thought(k);
    u->thought_s = meters_thought_seconds(k->m);
    meters_idle(k->m);
    fg_generator_get_stats(k->g, &u->stats);
    if (st == FG_OK) st = check_engine(k->e, err);
    if (st == FG_OK && (u->thought.failed || u->answer.failed)) st = fg_fail_nomem(err, "reply");
    if (st != FG_OK) return st;
    u->end = r->end;
    u->cut = fg_session_pos(k->s);
    u->can_go_on = chat_can_go_on(r->end);
    u->has_state = fg_generator_save(k->g, u->cut, u->state, NULL) == FG_OK;
    FG_TRY(take_ids(k, err));
    if (k->saved != NULL && r->end == FG_END_CANCEL && cli_terminated()) {
        u->under_way = true;
        chat_saved_reply(k);
        return FG_OK;
    }
    if (r->end != FG_END_MODEL) FG_TRY(close_short(k, u, err));
    chat_saved_turn(k, fg_end_name(r->end));
    return FG_OK;
}

/* ---- figures ---- */

/* What reading memory reaches, measured once there was a reply long enough to compare with it. */
static double read_bandwidth(talk *k, const fg_reply *r)
{
    enum { FEW = 32 };
    /* whoever stops a reply wants the prompt at once */
    if (k->read_gbs != 0.0 || r->n_eval < FEW || r->end == FG_END_CANCEL) return k->read_gbs;
    meters_busy(k->m, "measuring memory");
    if (fg_engine_store_stats(k->e) != NULL ||
        fg_engine_read_bandwidth(k->e, &k->read_gbs, NULL) != FG_OK || k->read_gbs == 0.0) {
        k->read_gbs = -1.0; /* never asked again */
    }
    meters_idle(k->m);
    return k->read_gbs;
}

static void put_load(fg_buf *b)
{
    double load;
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    if (n <= 0 || getloadavg(&load, 1) != 1 || load < 1.25 * (double)n + 0.5) return;
    fg_buf_printf(b, "; load %.0f on %ld CPUs", load, n);
}

/* "prompt 12 tokens, 118 tokens, 4.1 tok/s, 38 %": the last is the share of what reading memory
 * reaches. */
static void print_short(talk *k, const gen_stats *g)
{
    fg_buf b = {0};
    const fg_reply *r = &g->reply;
    const double rate = r->n_eval == 0 ? 0.0 : (double)r->n_eval / r->seconds;
    if (g->n_prompt > 0) fg_buf_printf(&b, "prompt %s tokens, ", cli_count(g->n_prompt));
    fg_buf_printf(&b, "%s tokens, %.*f tok/s", cli_count(r->n_gen), rate < 99.5 ? 1 : 0, rate);
    const double read = k->interactive ? read_bandwidth(k, r) : 0.0;
    if (read > 0.0) {
        const double gbs = rate * (double)fg_engine_token_bytes(k->e) * 1e-9;
        fg_buf_printf(&b, ", %.0f %%", 100.0 * gbs / read);
    }
    put_load(&b);
    const char *text = fg_buf_str(&b);
    const bool dims = text != NULL && cli_has_style(2);
    if (text != NULL)
        fprintf(stderr, "%s%s%s\n", dims ? "\033[2m" : "", text, dims ? "\033[0m" : "");
    fg_buf_fini(&b);
}

static void print_full(talk *k, const gen_stats *g)
{
    fg_buf b = {0};
    const fg_generator_stats *s = &last(k)->stats;
    print_speed(k->e, g);
    if (s->n_drafted > 0) {
        fprintf(stderr, "drafted %s, accepted %s (%.0f %%), gain %.2f\n", cli_count(s->n_drafted),
                cli_count(s->n_accepted), 100.0 * (double)s->n_accepted / (double)s->n_drafted,
                s->gain);
    }
    if (s->n_thought > 0 || s->n_forced > 0) {
        fprintf(stderr, "thought %s tokens, given %s\n", cli_count(s->n_thought),
                cli_count(s->n_forced));
    }
    put_load(&b);
    if (b.len > 2 && fg_buf_str(&b) != NULL) fprintf(stderr, "%s\n", (const char *)b.data + 2);
    fg_buf_fini(&b);
}

static void print_figures(talk *k, const gen_stats *g)
{
    if (args_quiet() || k->json || !cli_flush()) return;
    if (k->notice != NULL) cli_note("(%s)\n", k->notice);
    switch (g->reply.end) {
    case FG_END_CONTEXT:
        cli_note("(the context of %s tokens is full; %s)\n", cli_count(fg_session_n_ctx(k->s)),
                 k->interactive ? "/ctx N, then /continue" : "-c makes it larger");
        break;
    case FG_END_LENGTH:
        cli_note("(stopped after -n %s tokens%s)\n", cli_count(k->gen.n_predict),
                 k->interactive ? "; /continue goes on" : "");
        break;
    case FG_END_CANCEL:
        if (k->interactive) cli_note("(stopped; /continue goes on)\n");
        break;
    case FG_END_REPEAT:
    case FG_END_MODEL:
    case FG_END_STRING:
    case FG_END_COUNT: break;
    }
    if (k->stats == STATS_SHORT) print_short(k, g);
    if (k->stats == STATS_FULL) print_full(k, g);
}

/* ---- a turn ---- */

fg_status chat_begin_turn(talk *k, const char *text, size_t n, uint64_t n_prompt, fg_err *err)
{
    void *list = k->turn;
    if (!fg_mem_grow(&list, &k->cap_turn, k->n_turn + 1, sizeof *k->turn)) {
        return fg_fail_nomem(err, "conversation");
    }
    k->turn = list;
    turn *u = &k->turn[k->n_turn++];
    *u = (turn){.head = k->ids.len, .prompt = n_prompt};
    u->stats.size = sizeof u->stats;
    fg_buf_put(&u->user, text, n);
    return u->user.failed ? fg_fail_nomem(err, "conversation") : FG_OK;
}

/* Said before anything is evaluated, since that may take hours. */
static fg_status check_room(const talk *k, uint64_t n_more, fg_err *err)
{
    const uint64_t room = fg_session_n_ctx(k->s), used = k->ids.len;
    if (used + n_more < room) return FG_OK;
    return fg_fail(err, FG_ELIMIT,
                   "context: %s tokens of this message after %s, expected less than %s in all",
                   cli_count(n_more), cli_count(used), cli_count(room));
}

static void print_json(const talk *k, const gen_stats *g)
{
    fg_buf b = {0};
    const turn *u = &k->turn[k->n_turn - 1];
    fg_buf_put_str(&b, "{\"text\": ");
    fg_json_put_str(&b, (const char *)u->answer.data, u->answer.len);
    fg_buf_put_str(&b, ", \"reasoning\": ");
    fg_json_put_str(&b, (const char *)u->thought.data, u->thought.len);
    fg_buf_printf(&b,
                  ", \"prompt_tokens\": %llu, \"generated_tokens\": %llu, "
                  "\"reasoning_tokens\": %llu, ",
                  (unsigned long long)g->n_prompt, (unsigned long long)g->reply.n_gen,
                  (unsigned long long)u->stats.n_thought);
    fg_buf_printf(&b,
                  "\"ended_by_model\": %s, \"end\": \"%s\", \"prompt_seconds\": %.6f, "
                  "\"generation_seconds\": %.6f}\n",
                  g->reply.end == FG_END_MODEL ? "true" : "false", fg_end_name(g->reply.end),
                  g->prompt_s, g->reply.seconds);
    fg_err err = {0};
    if (print_buf(&b, &err) != FG_OK) (void)cli_fail(&err);
    (void)fflush(stdout);
}

static void show_end(talk *k, const gen_stats *g)
{
    if (k->json) {
        print_json(k, g);
        return;
    }
    meters_end(k->m);
    print_figures(k, g);
}

/* The message with the texts that were attached to it. */
static void compose(const talk *k, const char *text, size_t n, fg_buf *out)
{
    fg_buf_put(out, k->attached.data, k->attached.len);
    fg_buf_put(out, text, n);
}

/* From the message to the end of its reply; the turn has begun. */
static fg_status answer(talk *k, const fg_ids *prompt, gen_stats *g, fg_err *err)
{
    const uint64_t t0 = fg_clock_ns(), head = last(k)->head;
    fg_ids want = {0};
    g->n_prompt = prompt->len;
    fg_status st = append(&want, k->ids.data, (size_t)head, err);
    if (st == FG_OK) st = append(&want, prompt->data, prompt->len, err);
    if (st == FG_OK) {
        const fg_buf *user = &last(k)->user;
        st = chat_reach(k, &want, head, (const char *)user->data, user->len, err);
    }
    fg_ids_fini(&want);
    meters_idle(k->m);
    g->prompt_s = (double)(fg_clock_ns() - t0) * 1e-9;
    if (st == FG_OK) st = make_generator(k, k->gen.n_predict, err);
    if (st == FG_OK) {
        st = fg_generator_begin(k->g, fg_session_ids(k->s), (size_t)fg_session_pos(k->s),
                                fg_session_n_ctx(k->s), err);
    }
    if (st != FG_OK) return st;
    begin_reply(k);
    return run_reply(k, &g->reply, err);
}

fg_status chat_turn(talk *k, const char *text, size_t n, fg_err *err)
{
    fg_ids ids = {0};
    fg_buf message = {0};
    gen_stats g = {0};
    const size_t before = k->n_turn;
    const uint64_t head = k->ids.len;
    compose(k, text, n, &message);
    fg_status st = message.failed ? fg_fail_nomem(err, "message") : FG_OK;
    if (st == FG_OK) {
        st = encode_turn(k, head == 0, (const char *)message.data, message.len, &ids, err);
    }
    if (st == FG_OK) st = check_room(k, ids.len, err);
    if (st == FG_OK) {
        st = chat_begin_turn(k, (const char *)message.data, message.len, head + ids.len, err);
    }
    if (st == FG_OK) st = answer(k, &ids, &g, err);
    if (st == FG_OK) {
        show_end(k, &g);
        k->attached.len = k->attached_say.len = 0;
    } else if (k->n_turn > before) {
        const bool half = k->half_said;
        chat_undo(k, 1);
        k->half_said = half;
    }
    fg_ids_fini(&ids);
    fg_buf_fini(&message);
    fg_generator_destroy(&k->g);
    if (st != FG_OK || !k->forget_thinking) return st;
    cli_clear_interrupt();
    return chat_forget_thinking(k, err);
}

fg_status chat_resume(talk *k, fg_err *err)
{
    gen_stats g = {0};
    bool ended = true;
    turn *u = k->n_turn == 0 ? NULL : last(k);
    if (u == NULL || !u->under_way) {
        return fg_fail(err, FG_EINVAL, "session: no reply under way, expected one");
    }
    fg_status st = chat_reach(k, &k->ids, k->ids.len, NULL, 0, err);
    meters_idle(k->m);
    if (st == FG_OK) st = make_generator(k, k->gen.n_predict, err);
    u->thought.len = u->answer.len = 0; /* all of it is told again */
    begin_reply(k);
    if (st == FG_OK) {
        st = fg_generator_resume(k->g, k->ids.data, (size_t)u->prompt, k->ids.len,
                                 fg_session_n_ctx(k->s), u->has_state ? u->state : NULL,
                                 u->has_state ? sizeof u->state : 0, true, &ended, err);
    }
    if (st == FG_OK) {
        fg_reply r = {0};
        st = run_reply(k, &r, err);
        g.reply = r;
    }
    if (st == FG_OK) show_end(k, &g);
    fg_generator_destroy(&k->g);
    return st;
}

fg_status chat_continue(talk *k, fg_err *err)
{
    gen_stats g = {0};
    bool ended = true;
    if (k->n_turn == 0 || !last(k)->can_go_on) {
        return fg_fail(err, FG_EINVAL,
                       "/continue: the last reply is whole, expected one that was "
                       "cut off");
    }
    turn *u = last(k);
    const uint64_t t0 = fg_clock_ns();
    if (u->cut >= fg_session_n_ctx(k->s)) {
        return fg_fail(err, FG_ELIMIT, "context: %s tokens, expected room for more; /ctx N",
                       cli_count(u->cut));
    }
    k->ids.len = (size_t)u->cut;
    fg_status st = chat_reach(k, &k->ids, u->cut, NULL, 0, err);
    meters_idle(k->m);
    g.prompt_s = (double)(fg_clock_ns() - t0) * 1e-9;
    if (st == FG_OK) st = make_generator(k, u->stats.n_gen + k->gen.n_predict, err);
    if (st == FG_OK) {
        st = fg_generator_resume(k->g, k->ids.data, (size_t)u->prompt, k->ids.len,
                                 fg_session_n_ctx(k->s), u->has_state ? u->state : NULL,
                                 u->has_state ? sizeof u->state : 0, false, &ended, err);
    }
    if (st == FG_OK && !ended) {
        begin_reply(k);
        st = run_reply(k, &g.reply, err);
    }
    if (st == FG_OK) {
        show_end(k, &g);
    } else { /* closed, as it was */
        uint32_t end;
        k->ids.len = (size_t)u->cut;
        if (fg_chat_end_id(k->t, &end, NULL) == FG_OK) (void)append(&k->ids, &end, 1, NULL);
    }
    fg_generator_destroy(&k->g);
    return st;
}

/* ---- other rooms, other pasts ---- */

/* Bytes of line ends before the answer. */
static size_t empty_lines(const turn *u)
{
    size_t n = 0;
    while (n < u->answer.len && (u->answer.data[n] == '\n' || u->answer.data[n] == '\r')) n++;
    return n;
}

/* ids without the thoughts; where[2 * i] and the next are the head of turn i in them and where its
 * reply begins. */
static fg_status without_thoughts(const talk *k, fg_ids *ids, uint64_t *where, fg_err *err)
{
    uint32_t end;
    FG_TRY(fg_chat_end_id(k->t, &end, err));
    for (size_t i = 0; i < k->n_turn; i++) {
        const turn *u = &k->turn[i];
        const uint64_t next = i + 1 < k->n_turn ? k->turn[i + 1].head : k->ids.len;
        const bool thought = u->thought.len > 0;
        where[2 * i] = ids->len;
        where[2 * i + 1] = ids->len + u->prompt - u->head;
        FG_TRY(append(ids, k->ids.data + u->head, (size_t)((thought ? u->prompt : next) - u->head),
                      err));
        if (!thought) continue;
        const size_t skip = empty_lines(u), n = u->answer.len - skip;
        const char *text = n == 0 ? NULL : (const char *)u->answer.data + skip;
        if (n > 0) FG_TRY(fg_tokenizer_encode(k->t, k->words, text, n, false, ids, err));
        FG_TRY(append(ids, &end, 1, err));
    }
    return FG_OK;
}

/* What is saved changes when the other conversation is there in whole, at once: until then the disk
 * has this one. */
static fg_status reach_beside(talk *k, const fg_ids *ids, fg_err *err)
{
    fg_saved *saved = k->saved;
    uint64_t at;
    if (saved != NULL) FG_TRY(fg_saved_back(saved, chat_common(k, ids), 0, &at, err));
    k->saved = NULL;
    const fg_status st = chat_reach(k, ids, ids->len, NULL, 0, err);
    k->saved = saved;
    meters_idle(k->m);
    return st;
}

fg_status chat_forget_thinking(talk *k, fg_err *err)
{
    fg_ids ids = {0};
    const size_t before = k->ids.len;
    size_t first = 0;
    while (first < k->n_turn && k->turn[first].thought.len == 0) first++;
    if (first == k->n_turn) return FG_OK;
    uint64_t *where = fg_mem_zalloc_array(2 * k->n_turn + 1, sizeof *where);
    if (where == NULL) return fg_fail_nomem(err, "conversation");
    fg_status st = without_thoughts(k, &ids, where, err);
    if (st == FG_OK && k->saved != NULL) st = reach_beside(k, &ids, err);
    for (size_t i = 0; st == FG_OK && i < k->n_turn; i++) {
        turn *u = &k->turn[i];
        u->head = where[2 * i];
        u->prompt = where[2 * i + 1];
        if (u->thought.len > 0) { /* as its ids have it now: without the empty lines before it */
            u->can_go_on = false;
            const size_t skip = empty_lines(u);
            u->answer.len -= skip;
            if (skip > 0) memmove(u->answer.data, u->answer.data + skip, u->answer.len);
        }
        u->thought.len = 0;
        u->n_forced = 0; /* they closed it */
    }
    fg_mem_free(where);
    if (st != FG_OK) {
        fg_ids_fini(&ids);
        return st;
    }
    fg_ids_fini(&k->ids);
    k->ids = ids;
    if (k->saved != NULL) {
        chat_saved_retell(k, first);
    } else {
        st = reach_beside(k, &k->ids, err);
        if (st == FG_ECANCEL) st = FG_OK; /* the rest when somebody speaks again */
    }
    if (st == FG_OK && before > ids.len) {
        cli_note("(%s tokens of thoughts are forgotten)\n", cli_count(before - ids.len));
    }
    return st;
}

fg_status chat_resize(talk *k, uint64_t n_ctx, fg_err *err)
{
    fg_session *s;
    if (n_ctx < k->ids.len + 1) {
        return fg_fail(err, FG_EINVAL, "/ctx: %s positions, expected more than the %s in use",
                       cli_count(n_ctx), cli_count(k->ids.len));
    }
    const bool fits = fg_session_pos(k->s) <= n_ctx; /* with an undone past, or half a message */
    if (k->saved == NULL && !fits) fg_session_reset(k->s);
    k->unsaid = k->unsaid || (k->half_said && !fits);
    k->half_said = k->half_said && fits;
    if (k->saved != NULL) FG_TRY(chat_saved_settle(k, err));
    FG_TRY(fg_session_fork_into(&s, k->s, n_ctx, err));
    if (k->saved != NULL) fg_saved_move(k->saved, s);
    fg_session_destroy(&k->s);
    k->s = s;
    k->so.n_ctx = n_ctx;
    chat_saved_settings(k, true);
    return FG_OK;
}

/* ---- export ---- */

void chat_put_markdown(const talk *k, fg_buf *out)
{
    if (k->system != NULL) fg_buf_printf(out, "## System\n\n%s\n\n", k->system);
    for (size_t i = 0; i < k->n_turn; i++) {
        const turn *u = &k->turn[i];
        fg_buf_put_str(out, "## You\n\n");
        fg_buf_put(out, u->user.data, u->user.len);
        fg_buf_put_str(out, "\n\n## Model\n\n");
        if (u->thought.len > 0) {
            fg_buf_put_str(out, "<details><summary>thought</summary>\n\n");
            fg_buf_put(out, u->thought.data, u->thought.len);
            fg_buf_put_str(out, "\n\n</details>\n\n");
        }
        const uint8_t *text = u->answer.data;
        size_t n = u->answer.len;
        for (; n > 0 && *text == '\n'; n--) text++;
        fg_buf_put(out, text, n);
        fg_buf_put_str(out, "\n\n");
    }
}

static void put_message(fg_buf *out, const char *role, const char *text, size_t n,
                        const fg_buf *thought)
{
    fg_buf_printf(out, "{\"role\": \"%s\", \"content\": ", role);
    fg_json_put_str(out, text, n);
    if (thought != NULL && thought->len > 0) {
        fg_buf_put_str(out, ", \"reasoning_content\": ");
        fg_json_put_str(out, (const char *)thought->data, thought->len);
    }
    fg_buf_put_str(out, "}\n");
}

void chat_put_jsonl(const talk *k, fg_buf *out)
{
    if (k->system != NULL) put_message(out, "system", k->system, strlen(k->system), NULL);
    for (size_t i = 0; i < k->n_turn; i++) {
        const turn *u = &k->turn[i];
        put_message(out, "user", (const char *)u->user.data, u->user.len, NULL);
        put_message(out, "assistant", (const char *)u->answer.data, u->answer.len, &u->thought);
    }
}
