/* SPDX-License-Identifier: MIT */
#include "src/engine/session.h"

#include "src/base/clock.h"
#include "src/base/opts.h"
#include "src/text/chat.h"
#include "src/text/sampler.h"
#include "src/text/stream.h"

static const struct {
    const char *name, *text;
} ends[FG_END_COUNT] = {
#define FG_END_ROW(id, name, text) [id] = {name, text},
    FG_END_MAP(FG_END_ROW)
#undef FG_END_ROW
};

const char *fg_end_name(fg_end end)
{
    return ends[end].name;
}

const char *fg_end_text(fg_end end)
{
    return ends[end].text;
}

fg_status fg_engine_sampler(fg_engine *e, const fg_sampler_opts *o, fg_sampler **out, fg_err *err)
{
    const uint64_t *mask;
    fg_sampler_opts opts = fg_sampler_opts_default();
    *out = NULL;
    FG_TRY(fg_opts_take(&opts, sizeof opts, o, "sampler options", err));
    FG_TRY(fg_engine_sample_mask(e, &mask, err));
    return fg_sampler_create(out, &opts, fg_engine_shape(e)->n_vocab, mask, err);
}

void fg_reply_opts_init(fg_reply_opts *o, size_t size)
{
    const fg_reply_opts d = {.size = size, .n_max = 256};
    fg_opts_init(o, size, &d, sizeof d);
}

/* From ids to text in its parts, and to the caller. */
typedef struct speaker {
    const fg_reply_opts *o;
    fg_detok detok;
    fg_think think;
    fg_buf text;
    bool stopped; /* by emit */
} speaker;

static void say_part(void *ctx, fg_think_part part, const char *text, size_t n)
{
    speaker *k = ctx;
    if (!k->stopped && !k->o->emit(k->o->ctx, part, text, n)) k->stopped = true;
}

static void say(speaker *k, uint32_t id)
{
    k->text.len = 0;
    fg_detok_feed(&k->detok, id, &k->text);
    fg_think_feed(&k->think, (const char *)k->text.data, k->text.len);
}

static fg_status finish(speaker *k, fg_status st, fg_err *err)
{
    k->text.len = 0;
    fg_detok_flush(&k->detok, &k->text);
    fg_think_feed(&k->think, (const char *)k->text.data, k->text.len);
    fg_think_flush(&k->think);
    const bool failed = k->text.failed;
    fg_buf_fini(&k->text);
    return st == FG_OK && failed ? fg_fail_nomem(err, "reply") : st;
}

/* Ids that end a reply; a tokenizer without markup has none. */
typedef struct ends_at {
    uint32_t eos, eod; /* the second one is a guard (src/model/MODEL.md 8) */
} ends_at;

static bool is_end(const fg_reply_opts *o, const ends_at *e, uint32_t id)
{
    if (!o->ignore_eos && (id == e->eos || id == e->eod)) return true;
    for (size_t i = 0; i < o->n_stop; i++) {
        if (o->stop[i] == id) return true;
    }
    return false;
}

/* One token.  *on: the reply goes on. */
static fg_status step(fg_session *s, speaker *k, const ends_at *e, fg_reply *out, bool *on,
                      fg_err *err)
{
    const fg_reply_opts *o = k->o;
    uint32_t id;
    *on = false;
    FG_TRY(fg_sampler_pick(o->sampler, fg_session_logits(s), &id, NULL, err));
    const bool end = is_end(o, e, id);
    if (!end) {
        out->n_gen++;
        say(k, id);
        if (k->text.failed) return fg_fail_nomem(err, "reply");
        if (k->stopped) {
            out->end = FG_END_CANCEL;
            return FG_OK;
        }
    }
    const bool full = fg_session_pos(s) == fg_session_n_ctx(s), last = out->n_gen == o->n_max;
    if (end) {
        out->end = FG_END_MODEL;
    } else if (full) {
        out->end = FG_END_CONTEXT;
    } else if (last) {
        out->end = FG_END_LENGTH;
    }
    if (full || (!o->goes_on && (end || last))) return FG_OK;
    FG_TRY(fg_session_eval(s, &id, 1, NULL, NULL, err));
    out->n_eval++;
    *on = !end && !last;
    return FG_OK;
}

fg_status fg_reply_run(fg_session *s, const fg_reply_opts *given, fg_reply *out, fg_err *err)
{
    const uint64_t t0 = fg_clock_ns();
    ends_at e = {UINT32_MAX, UINT32_MAX};
    const fg_tokenizer *t;
    fg_status st = FG_OK;
    *out = (fg_reply){.end = FG_END_LENGTH};
    fg_reply_opts opts = fg_reply_opts_default();
    FG_TRY(fg_opts_take(&opts, sizeof opts, given, "reply options", err));
    FG_TRY(fg_engine_tokenizer(fg_session_engine(s), &t, err));
    const fg_reply_opts *o = &opts;
    speaker k = {.o = o};
    if (o->sampler == NULL || o->emit == NULL) {
        return fg_fail(err, FG_EINVAL, "reply: no %s, expected one",
                       o->sampler == NULL ? "sampler" : "emit");
    }
    if (fg_session_logits(s) == NULL) {
        return fg_fail(err, FG_EINVAL, "reply: a session without logits, expected a prompt in it");
    }
    (void)fg_chat_end_id(t, &e.eos, NULL);
    (void)fg_tokenizer_find_added(t, "<end_of_document>", &e.eod);
    fg_detok_init(&k.detok, t, o->special ? FG_DETOK_PRINT : FG_DETOK_THINK);
    fg_think_init(&k.think, say_part, &k);
    for (bool on = o->n_max > 0; on && st == FG_OK;) {
        if (o->poll != NULL && !o->poll(o->ctx)) {
            out->end = FG_END_CANCEL;
            break;
        }
        st = step(s, &k, &e, out, &on, err);
    }
    out->seconds = (double)(fg_clock_ns() - t0) * 1e-9;
    return finish(&k, st, err);
}
