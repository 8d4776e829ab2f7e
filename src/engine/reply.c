/* SPDX-License-Identifier: MIT
 *
 * The loop over a generator and a session.
 */
#include "src/base/clock.h"
#include "src/base/opts.h"
#include "src/engine/generator.h"
#include "src/engine/session.h"
#include "src/text/sampler.h"

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

static fg_status go(fg_generator *g, fg_session *s, fg_reply *out, fg_err *err)
{
    const fg_reply_opts *o = fg_generator_opts(g);
    for (fg_step step = {0}; !step.ended;) {
        if (o->poll != NULL && !o->poll(o->ctx)) {
            fg_generator_cancel(g);
            out->end = FG_END_CANCEL;
            return FG_OK;
        }
        FG_TRY(fg_generator_step(g, fg_session_logits(s), &step, err));
        if (step.ended) out->end = step.end;
        if (step.n == 0) continue;
        FG_TRY(fg_session_eval(s, step.ids, step.n, NULL, NULL, err));
        out->n_eval += step.n;
    }
    return FG_OK;
}

static fg_status check(const fg_generator *g, const fg_session *s, fg_err *err)
{
    const fg_ids *ids = fg_generator_ids(g);
    if (fg_session_logits(s) == NULL) {
        return fg_fail(err, FG_EINVAL, "reply: a session without logits, expected a prompt in it");
    }
    if (ids->len != fg_session_pos(s)) {
        return fg_fail(err, FG_EINVAL, "reply: a session of %llu tokens, expected %zu",
                       (unsigned long long)fg_session_pos(s), ids->len);
    }
    return FG_OK;
}

fg_status fg_generator_run(fg_generator *g, fg_session *s, fg_reply *out, fg_err *err)
{
    const uint64_t t0 = fg_clock_ns();
    fg_generator_stats before = {.size = sizeof before}, after = before;
    *out = (fg_reply){.end = FG_END_LENGTH};
    FG_TRY(check(g, s, err));
    fg_generator_get_stats(g, &before);
    const fg_status st = go(g, s, out, err);
    fg_generator_get_stats(g, &after);
    out->n_gen = after.n_gen - before.n_gen;
    out->seconds = (double)(fg_clock_ns() - t0) * 1e-9;
    return st;
}

fg_status fg_reply_run(fg_session *s, const fg_reply_opts *o, fg_reply *out, fg_err *err)
{
    fg_generator *g;
    *out = (fg_reply){.end = FG_END_LENGTH};
    FG_TRY(fg_generator_create(&g, fg_session_engine(s), o, err));
    fg_status st = fg_generator_begin(g, fg_session_ids(s), (size_t)fg_session_pos(s),
                                      fg_session_n_ctx(s), err);
    if (st == FG_OK) st = fg_generator_run(g, s, out, err);
    fg_generator_destroy(&g);
    return st;
}
