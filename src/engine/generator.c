/* SPDX-License-Identifier: MIT
 *
 * Reading order: fg_generator_step; say, which takes an id through the filters (characters, tags,
 * stop strings) to the caller; force; saving and resuming.
 *
 * The thought:  WATCH, until "<think>" was seen -> COUNT -> at the budget CLOSE, which waits for
 * the end of a line -> ANSWER.  The text decides, through fg_think, which sees sampled and forced
 * ids alike, so that what a reader is shown and what the generator believes cannot part.
 *
 * What ids alone tell (held bytes, tags, penalties, copies) is never saved: resuming feeds the ids
 * to the same functions again.  The rest is `counters`, of which two are kept: now, and before the
 * ids that the last step returned, which may or may not be evaluated when somebody saves.
 */
#include "src/engine/generator.h"

#include <string.h>

#include "src/base/hash.h"
#include "src/base/mem.h"
#include "src/base/opts.h"
#include "src/base/utf8.h"
#include "src/text/chat.h"
#include "src/text/repeat.h"
#include "src/text/sampler.h"
#include "src/text/stops.h"
#include "src/text/stream.h"

enum {
    LINE_WAIT = 64,     /* tokens that a line may still take after the budget */
    ANSWER_ROOM = 4096, /* what the usual budget leaves for the answer */
    REPEAT_STOP = 3000, /* of the paper, as the next */
};
#define SURE (-0.010050335853501441) /* ln 0.99 */

#define MAGIC   0x4e454746u /* "FGEN" */
#define VERSION 1u

typedef struct counters {
    fg_rng rng;
    uint64_t n_ids; /* evaluated with it */
    uint64_t n_gen, n_thought, n_forced;
    uint64_t n_sure;   /* consecutive ones above 0.99 */
    uint64_t n_wait;   /* since the thought is to be closed */
    uint64_t closing;  /* fg_forced; why, when it is */
    uint64_t at_start; /* an empty thought is still to be given: 1, 0 */
    double logprob;    /* sum over the sampled ones */
    uint64_t final;    /* end + 1 of a reply that cannot go on; 0: it can */
} counters;

struct fg_generator {
    fg_reply_opts o;
    const fg_tokenizer *t;
    uint32_t eos;               /* closes a reply; UINT32_MAX: a tokenizer without markup */
    fg_ids closing, no_thought; /* what is forced */
    fg_stops stops;
    fg_repeat repeat;
    uint64_t budget; /* 0: none */
    /* the reply */
    fg_ids ids;              /* all of them */
    size_t n_prompt, n_last; /* before it; returned by the last step */
    uint64_t n_ctx;
    counters now, before;
    fg_detok detok;
    fg_think think;
    fg_buf text;
    char last;      /* byte of the text so far */
    size_t n_shown; /* bytes that are held back and were shown when the reply was cut */
    bool searching; /* stop strings: the answer's text has begun */
    bool begun, ended, found, stopped, forced, replayed, mute;
    fg_end end;
    fg_draft draft;
};

void fg_reply_opts_init(fg_reply_opts *o, size_t size)
{
    const fg_reply_opts d = {.size = size,
                             .n_max = 256,
                             .think_budget = FG_THINK_BUDGET_AUTO,
                             .repeat_stop = REPEAT_STOP,
                             .draft = FG_DRAFT_AUTO};
    fg_opts_init(o, size, &d, sizeof d);
}

const fg_reply_opts *fg_generator_opts(const fg_generator *g)
{
    return &g->o;
}

const fg_ids *fg_generator_ids(const fg_generator *g)
{
    return &g->ids;
}

fg_draft *fg_generator_draft(fg_generator *g)
{
    return g->draft.width == FG_DRAFT_OFF ? NULL : &g->draft;
}

/* ---- making one ---- */

/* The caller's message as plain text, our tags as markup where they are such in this model. */
static fg_status encode_forced(fg_generator *g, fg_err *err)
{
    static const char closing[] = "\n</think>\n\n", none[] = "<think>\n\n</think>\n\n";
    const char *m = g->o.think_message;
    if (m != NULL && strstr(m, "</think>") != NULL) {
        return fg_fail(err, FG_EINVAL, "message of the budget: has </think>, expected text alone");
    }
    if (m != NULL && *m != '\0') {
        FG_TRY(fg_tokenizer_encode(g->t, NULL, m, strlen(m), false, &g->closing, err));
    }
    FG_TRY(fg_tokenizer_encode(g->t, NULL, closing, sizeof closing - 1, true, &g->closing, err));
    return fg_tokenizer_encode(g->t, NULL, none, sizeof none - 1, true, &g->no_thought, err);
}

static fg_status check_options(const fg_reply_opts *o, fg_err *err)
{
    if (o->sampler == NULL || (o->emit == NULL && o->event == NULL)) {
        return fg_fail(err, FG_EINVAL, "reply: no %s, expected one",
                       o->sampler == NULL ? "sampler" : "emit");
    }
    if (o->draft < FG_DRAFT_AUTO || o->draft > FG_DRAFT_MAX) {
        return fg_fail(err, FG_EINVAL, "draft: %d tokens, expected -1 to %d", o->draft,
                       FG_DRAFT_MAX);
    }
    return FG_OK;
}

static fg_status make(fg_generator *g, fg_engine *e, const fg_reply_opts *given, fg_err *err)
{
    fg_reply_opts_init(&g->o, sizeof g->o);
    FG_TRY(fg_opts_take(&g->o, sizeof g->o, given, "reply options", err));
    FG_TRY(check_options(&g->o, err));
    FG_TRY(fg_engine_tokenizer(e, &g->t, err));
    const uint64_t n = g->o.n_max;
    g->budget = g->o.think_budget != FG_THINK_BUDGET_AUTO ? g->o.think_budget
                : n > ANSWER_ROOM                         ? n - ANSWER_ROOM
                                                          : 0;
    g->eos = UINT32_MAX;
    (void)fg_chat_end_id(g->t, &g->eos, NULL);
    const fg_store_stats *store = fg_engine_store_stats(e);
    const bool streams = store != NULL && store->n_slot < store->n_total;
    if (!fg_draft_init(&g->draft, g->o.draft, streams, g->o.attached, g->o.n_attached)) {
        return fg_fail_nomem(err, "text for guesses");
    }
    FG_TRY(fg_stops_init(&g->stops, g->o.stop_text, g->o.n_stop_text, err));
    return encode_forced(g, err);
}

fg_status fg_generator_create(fg_generator **out, fg_engine *e, const fg_reply_opts *o, fg_err *err)
{
    *out = NULL;
    fg_generator *g = fg_mem_zalloc(sizeof *g);
    if (g == NULL) return fg_fail_nomem(err, "reply");
    const fg_status st = make(g, e, o, err);
    if (st != FG_OK) {
        fg_generator_destroy(&g);
        return st;
    }
    *out = g;
    return FG_OK;
}

void fg_generator_destroy(fg_generator **g)
{
    if (*g == NULL) return;
    fg_ids_fini(&(*g)->closing);
    fg_ids_fini(&(*g)->no_thought);
    fg_ids_fini(&(*g)->ids);
    fg_stops_fini(&(*g)->stops);
    fg_repeat_fini(&(*g)->repeat);
    fg_draft_fini(&(*g)->draft);
    fg_buf_fini(&(*g)->text);
    fg_mem_free(*g);
    *g = NULL;
}

/* ---- from ids to events ---- */

static void send(fg_generator *g, const fg_event *e)
{
    static const fg_think_part part_of[] = {[FG_EVENT_TEXT] = FG_THINK_ANSWER,
                                            [FG_EVENT_REASONING] = FG_THINK_REASONING,
                                            [FG_EVENT_TAG] = FG_THINK_TAG};
    if (g->stopped && e->kind != FG_EVENT_STOP) return;
    bool on = true;
    if (g->o.event != NULL) {
        on = g->o.event(g->o.ctx, e);
    } else if (e->text != NULL) {
        on = g->o.emit(g->o.ctx, part_of[e->kind], e->text, e->n);
    }
    if (!on) g->stopped = true;
}

static void tell(fg_generator *g, fg_event_kind kind, const char *text, size_t n)
{
    const size_t shown = kind == FG_EVENT_TAG || g->n_shown < n ? g->n_shown : n,
                 skip = kind == FG_EVENT_TAG ? 0 : shown;
    const fg_event e = {.kind = kind,
                        .text = text + skip,
                        .n = n - skip,
                        .forced = g->forced,
                        .replayed = g->replayed};
    if (g->mute) return;
    g->n_shown -= shown;
    if (e.n > 0) send(g, &e);
}

static void tell_answer(void *ctx, const char *text, size_t n)
{
    tell(ctx, FG_EVENT_TEXT, text, n);
}

/* White space between the thought and the answer is markup, and no stop string is looked for. */
static void say_answer(fg_generator *g, const char *text, size_t n)
{
    size_t skip = 0;
    while (!g->searching && skip < n && memchr(" \t\r\n", text[skip], 4) != NULL) skip++;
    if (skip > 0) tell(g, FG_EVENT_TEXT, text, skip);
    if (skip == n) return;
    g->searching = true;
    g->found = fg_stops_feed(&g->stops, text + skip, n - skip, tell_answer, g);
    if (g->found && g->mute) { /* asked for since this was shown: of what follows */
        fg_stops_reset(&g->stops);
        g->found = false;
    }
}

static void say_part(void *ctx, fg_think_part part, const char *text, size_t n)
{
    fg_generator *g = ctx;
    g->last = text[n - 1];
    if (g->found) return;
    if (part == FG_THINK_ANSWER) {
        say_answer(g, text, n);
    } else {
        if (part == FG_THINK_TAG) g->searching = false; /* after the thought */
        tell(g, part == FG_THINK_TAG ? FG_EVENT_TAG : FG_EVENT_REASONING, text, n);
    }
}

enum { THOUGHT = 1 }; /* fg_think's stage */

/* An id that does not end the reply, sampled, given, or of before.  *copied: it goes on with a
 * copy of an earlier part. */
static fg_status say(fg_generator *g, uint32_t id, bool *copied, fg_err *err)
{
    const bool watches = g->o.repeat_stop > 0, inside = g->think.stage == THOUGHT;
    *copied = watches && fg_repeat_copies(&g->repeat, g->ids.data, g->ids.len, id);
    fg_sampler_note(g->o.sampler, id);
    g->text.len = 0;
    fg_detok_feed(&g->detok, id, &g->text);
    if (g->text.failed || !fg_ids_push(&g->ids, id)) return fg_fail_nomem(err, "reply");
    fg_think_feed(&g->think, (const char *)g->text.data, g->text.len);
    g->now.n_gen++;
    if (inside) g->now.n_thought++;
    if (inside && g->think.stage != THOUGHT) { /* closed, by the model or by us */
        g->now.closing = FG_FORCED_NOTHING;
        g->now.n_sure = 0;
        if (watches && !fg_repeat_part(&g->repeat, g->ids.data, g->ids.len)) {
            return fg_fail_nomem(err, "reply");
        }
    }
    return FG_OK;
}

static bool is_final(fg_end end)
{
    return end == FG_END_MODEL || end == FG_END_STRING || end == FG_END_REPEAT;
}

/* What is held back is text after all; half a character only where none can follow.  The filters
 * themselves stay as they are: the reply may be saved, and go on where it would have. */
static void finish(fg_generator *g, fg_end end)
{
    g->ended = true;
    g->end = end;
    if (!g->found && !g->stopped) {
        fg_detok detok = g->detok;
        fg_think think = g->think;
        g->text.len = 0;
        if (is_final(end) || !g->o.goes_on) fg_detok_flush(&detok, &g->text);
        fg_think_feed(&think, (const char *)g->text.data, g->text.len);
        fg_think_flush(&think);
        fg_stops_flush(&g->stops, tell_answer, g);
    }
    send(g, &(fg_event){.kind = FG_EVENT_STOP, .end = end});
}

static void count(void *ctx, const char *text, size_t n)
{
    (void)text;
    *(size_t *)ctx += n;
}

/* Bytes of text that finish would tell of a reply that can go on. */
static size_t n_held(const fg_generator *g)
{
    size_t n = g->think.n_held;
    fg_stops_flush(&g->stops, count, &n);
    return n;
}

void fg_generator_cancel(fg_generator *g)
{
    if (g->begun && !g->ended) finish(g, FG_END_CANCEL);
}

/* ---- ends ---- */

static bool is_think_tag(const fg_generator *g, uint32_t id)
{
    static const char *const tags[] = {"<think>", "</think>"};
    const uint8_t *p;
    size_t n;
    if (!fg_tokenizer_token(g->t, id, &p, &n)) return false;
    for (int i = 0; i < 2; i++) {
        if (n == strlen(tags[i]) && memcmp(p, tags[i], n) == 0) return true;
    }
    return false;
}

static bool is_mark(const fg_generator *g, uint32_t id)
{
    return fg_tokenizer_is_special(g->t, id) && !is_think_tag(g, id);
}

static bool is_end(const fg_generator *g, uint32_t id)
{
    if (!g->o.ignore_eos && is_mark(g, id)) return true;
    for (size_t i = 0; i < g->o.n_stop; i++) {
        if (g->o.stop[i] == id) return true;
    }
    return false;
}

static bool is_full(const fg_generator *g, size_t n)
{
    return g->n_ctx > 0 && g->ids.len + n > g->n_ctx;
}

/* The last n ids are those of this step, to be evaluated. */
static fg_status give(fg_generator *g, size_t n, fg_step *out)
{
    g->n_last = n;
    g->now.n_ids = g->ids.len;
    out->ids = g->ids.data + g->ids.len - n;
    out->n = n;
    return FG_OK;
}

/* The last n ids are told, and not evaluated. */
static fg_status drop(fg_generator *g, size_t n)
{
    g->ids.len -= n;
    return FG_OK;
}

static fg_status close_reply(fg_generator *g, fg_end end, fg_step *out)
{
    g->now.final = is_final(end) ? (uint64_t)end + 1 : 0;
    out->ended = true;
    out->end = end;
    finish(g, end);
    return g->text.failed ? FG_ENOMEM : FG_OK;
}

/* ---- a step ---- */

static bool must_close(fg_generator *g)
{
    counters *c = &g->now;
    if (g->think.stage != THOUGHT) return false;
    if (c->closing == FG_FORCED_NOTHING) {
        if (g->budget == 0 || c->n_thought < g->budget) return false;
        c->closing = FG_FORCED_BUDGET;
        c->n_wait = 0;
    }
    const bool line = g->last == '\n' && g->think.n_held == 0 && g->detok.n_held == 0;
    return line || c->n_wait++ >= LINE_WAIT;
}

/* Ids that are given: nothing is sampled, no random number is used. */
static fg_status force(fg_generator *g, const fg_ids *ids, fg_forced why, fg_step *out, fg_err *err)
{
    if (is_full(g, ids->len)) return close_reply(g, FG_END_CONTEXT, out);
    if (g->now.n_gen + ids->len > g->o.n_max) return close_reply(g, FG_END_LENGTH, out);
    out->forced = why;
    g->forced = true;
    send(g, &(fg_event){.kind = FG_EVENT_FORCED, .why = why, .pos = g->ids.len, .n_id = ids->len});
    for (size_t i = 0; i < ids->len; i++) FG_TRY(say(g, ids->data[i], &(bool){0}, err));
    g->forced = false;
    g->now.n_forced += ids->len;
    const bool last = g->now.n_gen == g->o.n_max;
    if (g->stopped || last) {
        FG_TRY(close_reply(g, g->stopped ? FG_END_CANCEL : FG_END_LENGTH, out));
    }
    const bool dropped = g->stopped || (last && !g->o.goes_on);
    return dropped ? drop(g, ids->len) : give(g, ids->len, out);
}

/* Counts tokens that the model was sure of; true: too many. */
static bool repeats(fg_generator *g, double logprob, bool copied)
{
    counters *c = &g->now;
    if (logprob <= SURE) c->n_sure = 0;
    if (logprob > SURE && !copied) c->n_sure++;
    if (g->o.repeat_stop == 0 || c->n_sure < g->o.repeat_stop) return false;
    if (g->think.stage != THOUGHT) return true;
    if (c->closing == FG_FORCED_NOTHING) {
        c->closing = FG_FORCED_REPEAT;
        c->n_wait = 0;
    }
    return false;
}

/* Why the reply ends with this id, if it does (*over). */
static fg_end end_of(const fg_generator *g, bool mark, bool full, bool again, bool *over)
{
    const bool last = g->now.n_gen == g->o.n_max;
    *over = g->stopped || mark || g->found || full || again || last;
    return g->stopped ? FG_END_CANCEL
           : mark     ? FG_END_MODEL
           : g->found ? FG_END_STRING
           : full     ? FG_END_CONTEXT
           : again    ? FG_END_REPEAT
                      : FG_END_LENGTH;
}

static fg_status sample(fg_generator *g, const float *logits, fg_step *out, fg_err *err)
{
    uint32_t id;
    double logprob = 0;
    FG_TRY(fg_sampler_pick(g->o.sampler, logits, &id, g->o.repeat_stop > 0 ? &logprob : NULL, err));
    g->now.rng = fg_sampler_rng(g->o.sampler);
    g->now.logprob += logprob;
    const bool mark = is_end(g, id), full = is_full(g, 1);
    bool copied = false, over;
    if (!mark) {
        FG_TRY(say(g, id, &copied, err));
    } else {
        /* whatever mark it was, the conversation goes on after a closed reply */
        if (is_mark(g, id) && g->eos != UINT32_MAX) id = g->eos;
        if (!fg_ids_push(&g->ids, id)) return fg_fail_nomem(err, "reply");
    }
    const fg_end end = end_of(g, mark, full, !mark && repeats(g, logprob, copied), &over);
    if (over) FG_TRY(close_reply(g, end, out));
    if (full || g->stopped || (over && !g->o.goes_on)) return drop(g, 1);
    return give(g, 1, out);
}

fg_status fg_generator_step(fg_generator *g, const float *logits, fg_step *out, fg_err *err)
{
    *out = (fg_step){0};
    if (!g->begun || g->ended) {
        return fg_fail(err, FG_EINVAL, "reply: %s, expected one that goes on",
                       g->ended ? "ended" : "not begun");
    }
    g->before = g->now;
    g->n_last = 0;
    fg_status st;
    if (g->now.n_gen >= g->o.n_max) {
        st = close_reply(g, FG_END_LENGTH, out);
    } else if (g->now.at_start > 0) {
        g->now.at_start = 0;
        st = force(g, &g->no_thought, FG_FORCED_NO_THOUGHT, out, err);
    } else if (must_close(g)) {
        st = force(g, &g->closing, (fg_forced)g->now.closing, out, err);
    } else {
        st = sample(g, logits, out, err);
    }
    if (st == FG_EDATA) g->now = g->before;
    return st == FG_ENOMEM ? fg_fail_nomem(err, "reply") : st;
}

/* ---- begin, save, resume ---- */

fg_status fg_generator_begin(fg_generator *g, const uint32_t *ids, size_t n, uint64_t n_ctx,
                             fg_err *err)
{
    g->begun = g->ended = g->found = g->stopped = g->forced = false;
    g->ids.len = 0;
    for (size_t i = 0; i < n; i++) {
        if (!fg_ids_push(&g->ids, ids[i])) return fg_fail_nomem(err, "reply");
    }
    if (n_ctx > 0 && n > n_ctx) {
        return fg_fail(err, FG_ELIMIT, "context: %zu tokens, expected at most %llu", n,
                       (unsigned long long)n_ctx);
    }
    FG_TRY(fg_sampler_begin(g->o.sampler, ids, n, err));
    g->n_ctx = n_ctx;
    g->n_prompt = n;
    g->n_last = 0;
    g->now = (counters){.rng = fg_sampler_rng(g->o.sampler), .n_ids = n};
    g->now.at_start = g->o.no_thought && !g->o.in_thought;
    g->before = g->now;
    fg_detok_init(&g->detok, g->t, g->o.special ? FG_DETOK_PRINT : FG_DETOK_THINK);
    fg_think_init(&g->think, say_part, g);
    if (g->o.in_thought) fg_think_enter(&g->think);
    fg_stops_reset(&g->stops);
    g->n_shown = 0;
    g->searching = true;
    g->last = '\n';
    fg_repeat_clear(&g->repeat);
    if (g->o.repeat_stop > 0 && !fg_repeat_part(&g->repeat, g->ids.data, n)) {
        return fg_fail_nomem(err, "reply");
    }
    g->begun = true;
    return FG_OK;
}

/* All u64, as they are written. */
enum { N_COUNTER = sizeof(counters) / sizeof(uint64_t) };
_Static_assert(sizeof(counters) % sizeof(uint64_t) == 0, "counters are u64");
_Static_assert(4 * sizeof(uint64_t) + sizeof(counters) <= FG_GENERATOR_STATE, "room in a state");

fg_status fg_generator_save(const fg_generator *g, uint64_t pos, uint8_t state[FG_GENERATOR_STATE],
                            fg_err *err)
{
    const counters *c = pos == g->before.n_ids ? &g->before : &g->now;
    if (!g->begun || pos != c->n_ids) {
        return fg_fail(err, FG_EINVAL, "reply: saved at position %llu, expected %llu or %llu",
                       (unsigned long long)pos, (unsigned long long)g->before.n_ids,
                       (unsigned long long)g->now.n_ids);
    }
    uint64_t v[N_COUNTER];
    memcpy(v, c, sizeof v);
    fg_buf b = {.data = state, .cap = FG_GENERATOR_STATE};
    fg_buf_u32(&b, MAGIC);
    fg_buf_u32(&b, VERSION);
    fg_buf_u64(&b, g->n_prompt);
    fg_buf_u64(&b, fg_hash64(g->ids.data, (size_t)pos * sizeof *g->ids.data));
    for (int i = 0; i < N_COUNTER; i++) fg_buf_u64(&b, v[i]);
    memset(state + b.len, 0, FG_GENERATOR_STATE - b.len);
    b.len = FG_GENERATOR_STATE - sizeof(uint64_t);
    fg_buf_u64(&b, fg_hash64(state, b.len));
    return FG_OK;
}

static fg_status read_state(const uint8_t *state, size_t n_state, const uint32_t *ids,
                            size_t n_prompt, size_t n, counters *out, fg_err *err)
{
    if (n_state < 8)
        return fg_fail(err, FG_EFORMAT, "reply: state of %zu bytes, expected %d", n_state,
                       FG_GENERATOR_STATE);
    fg_cursor c = fg_cursor_make(state, n_state);
    const uint32_t magic = fg_cursor_u32(&c), version = fg_cursor_u32(&c);
    if (magic != MAGIC) return fg_fail(err, FG_EFORMAT, "reply: other bytes, expected a state");
    if (version != VERSION) {
        return fg_fail(err, FG_EVERSION, "reply: state of version %u, expected %u", version,
                       VERSION);
    }
    if (n_state != FG_GENERATOR_STATE) {
        return fg_fail(err, FG_EFORMAT, "reply: state of %zu bytes, expected %d", n_state,
                       FG_GENERATOR_STATE);
    }
    fg_cursor sum = fg_cursor_make(state + n_state - 8, 8);
    if (fg_cursor_u64(&sum) != fg_hash64(state, n_state - 8)) {
        return fg_fail(err, FG_ECHECKSUM, "reply: state is damaged, expected its checksum");
    }
    const uint64_t prompt = fg_cursor_u64(&c), hash = fg_cursor_u64(&c);
    uint64_t v[N_COUNTER];
    for (int i = 0; i < N_COUNTER; i++) v[i] = fg_cursor_u64(&c);
    memcpy(out, v, sizeof v);
    if (out->n_ids != n || prompt != n_prompt) {
        return fg_fail(err, FG_EINVAL, "reply: %zu ids after %zu, expected %llu after %llu", n,
                       n_prompt, (unsigned long long)out->n_ids, (unsigned long long)prompt);
    }
    if (hash != fg_hash64(ids, n * sizeof *ids)) {
        return fg_fail(err, FG_EINVAL, "reply: other ids, expected those it was saved with");
    }
    const fg_rng r = out->rng;
    const bool ok = (r.s[0] | r.s[1] | r.s[2] | r.s[3]) != 0 && out->at_start <= 1 &&
                    out->closing <= FG_FORCED_NO_THOUGHT && out->final <= FG_END_COUNT;
    return ok ? FG_OK : fg_fail(err, FG_EFORMAT, "reply: impossible figures, expected a state");
}

fg_status fg_generator_resume(fg_generator *g, const uint32_t *ids, size_t n_prompt, size_t n,
                              uint64_t n_ctx, const uint8_t *state, size_t n_state, bool told,
                              bool *ended, fg_err *err)
{
    counters saved = {0};
    if (ended != NULL) *ended = false;
    if (n_prompt > n) {
        return fg_fail(err, FG_EINVAL, "reply: %zu ids before it, expected at most %zu", n_prompt,
                       n);
    }
    if (n_ctx > 0 && n > n_ctx) {
        return fg_fail(err, FG_ELIMIT, "context: %zu tokens, expected at most %llu", n,
                       (unsigned long long)n_ctx);
    }
    if (state != NULL) FG_TRY(read_state(state, n_state, ids, n_prompt, n, &saved, err));
    FG_TRY(fg_generator_begin(g, ids, n_prompt, n_ctx, err));
    g->replayed = true;
    g->mute = !told;
    fg_status st = FG_OK;
    for (size_t i = n_prompt; st == FG_OK && i < n; i++) {
        if (!is_end(g, ids[i])) {
            st = say(g, ids[i], &(bool){0}, err);
        } else if (!fg_ids_push(&g->ids, ids[i])) {
            st = fg_fail_nomem(err, "reply");
        }
    }
    g->replayed = g->mute = false;
    if (!told) g->n_shown = n_held(g);
    if (st != FG_OK) {
        g->begun = false;
        return st;
    }
    if (state != NULL) {
        g->now = saved;
        fg_sampler_set_rng(g->o.sampler, saved.rng);
    }
    g->now.n_ids = n;
    if (n > n_prompt) g->now.at_start = 0;
    g->before = g->now;
    if (g->now.final > 0 || g->found) {
        g->ended = true;
        g->end = g->now.final > 0 ? (fg_end)(g->now.final - 1) : FG_END_STRING;
    }
    if (ended != NULL) *ended = g->ended;
    return FG_OK;
}

void fg_generator_get_stats(const fg_generator *g, fg_generator_stats *out)
{
    const fg_generator_stats all = {.size = out->size,
                                    .n_gen = g->now.n_gen,
                                    .n_thought = g->now.n_thought,
                                    .n_forced = g->now.n_forced,
                                    .n_budget = g->budget,
                                    .logprob = g->now.logprob,
                                    .n_drafted = g->draft.drafted,
                                    .n_accepted = g->draft.accepted,
                                    .gain = fg_draft_gain(&g->draft)};
    memcpy(out, &all, out->size < sizeof all ? out->size : sizeof all);
}
