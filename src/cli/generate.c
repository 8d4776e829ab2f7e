/* SPDX-License-Identifier: MIT
 *
 * From the options of run and chat to a reply.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/base/clock.h"
#include "src/cli/common.h"
#include "src/engine/session.h"

gen_opts gen_opts_default(void)
{
    return (gen_opts){.n_predict = 256,
                      .sampler = fg_sampler_opts_default(),
                      .think_budget = FG_THINK_BUDGET_AUTO,
                      .draft = FG_DRAFT_AUTO};
}

fg_reply_opts gen_reply_opts(const gen_opts *o, fg_sampler *sampler)
{
    fg_reply_opts ro = fg_reply_opts_default();
    ro.sampler = sampler;
    ro.n_max = o->n_predict;
    ro.special = o->special;
    ro.ignore_eos = o->ignore_eos;
    ro.goes_on = o->goes_on;
    ro.stop_text = o->stop.text;
    ro.n_stop_text = o->stop.n;
    ro.think_budget = o->think_budget;
    ro.think_message = o->think_message;
    if (o->no_repeat_stop) ro.repeat_stop = 0;
    ro.draft = o->draft;
    return ro;
}

/* "ID=X" */
static fg_status parse_bias(const char *text, fg_logit_bias *out, fg_err *err)
{
    char *end = NULL, *last = NULL;
    const unsigned long long id = text[0] >= '0' && text[0] <= '9' ? strtoull(text, &end, 10) : 0;
    const double add = end != NULL && *end == '=' ? strtod(end + 1, &last) : 0;
    if (last == NULL || last == end + 1 || *last != '\0' || id >= UINT32_MAX || !(add <= 1e6)) {
        return fg_fail(err, FG_EINVAL,
                       "logit-bias: %s, expected ID=X with a token's id and a number", text);
    }
    *out = (fg_logit_bias){(uint32_t)id, (float)add};
    return FG_OK;
}

fg_status gen_sampler(fg_engine *e, const gen_opts *o, fg_sampler **out, fg_err *err)
{
    fg_logit_bias bias[OPT_LIST_MAX];
    fg_sampler_opts so = o->sampler;
    *out = NULL;
    for (size_t i = 0; i < o->bias.n; i++) FG_TRY(parse_bias(o->bias.text[i], &bias[i], err));
    so.bias = bias;
    so.n_bias = o->bias.n;
    return fg_engine_sampler(e, &so, out, err);
}

const char *gen_notice(const fg_event *e)
{
    if (e->kind == FG_EVENT_FORCED && e->why == FG_FORCED_BUDGET) {
        return "the thought has used up its budget and is closed; --think-budget makes it larger";
    }
    if (e->kind == FG_EVENT_FORCED && e->why == FG_FORCED_REPEAT) {
        return "the thought repeats itself and is closed; --no-repeat-stop lets it";
    }
    if (e->kind == FG_EVENT_STOP && e->end == FG_END_REPEAT) {
        return "the reply repeats itself and is ended; --no-repeat-stop lets it";
    }
    return NULL;
}

typedef struct listener {
    emit_fn *emit;
    void *ctx;
    const char *notice; /* told at the end, when it does not cut the text in two */
} listener;

static bool hear(void *ctx, const fg_event *e)
{
    static const fg_think_part part_of[] = {[FG_EVENT_TEXT] = FG_THINK_ANSWER,
                                            [FG_EVENT_REASONING] = FG_THINK_REASONING,
                                            [FG_EVENT_TAG] = FG_THINK_TAG};
    listener *k = ctx;
    const char *notice = gen_notice(e);
    if (notice != NULL) k->notice = notice;
    return e->text == NULL || k->emit(k->ctx, part_of[e->kind], e->text, e->n);
}

fg_status generate(fg_session *s, fg_sampler *sampler, const fg_ids *prompt, const gen_opts *o,
                   emit_fn *emit, void *ctx, gen_stats *stats, fg_err *err)
{
    fg_generator *g;
    listener k = {emit, ctx, NULL};
    fg_reply_opts ro = gen_reply_opts(o, sampler);
    ro.event = hear;
    ro.ctx = &k;
    ro.poll = cli_goes_on;
    *stats = (gen_stats){.n_prompt = prompt->len, .more.size = sizeof stats->more};
    FG_TRY(fg_generator_create(&g, fg_session_engine(s), &ro, err));
    const uint64_t t0 = fg_clock_ns();
    fg_status st = eval_prompt(s, prompt, err);
    stats->prompt_s = (double)(fg_clock_ns() - t0) * 1e-9;
    if (st == FG_OK) {
        st = fg_generator_begin(g, fg_session_ids(s), (size_t)fg_session_pos(s),
                                fg_session_n_ctx(s), err);
    }
    if (st == FG_OK) st = fg_generator_run(g, s, &stats->reply, err);
    fg_generator_get_stats(g, &stats->more);
    fg_generator_destroy(&g);
    if (k.notice != NULL) cli_note("\n(%s)\n", k.notice);
    return st;
}
