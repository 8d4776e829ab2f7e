/* SPDX-License-Identifier: MIT
 *
 * The loop over a generator and a session.
 */
#include <string.h>

#include "src/base/clock.h"
#include "src/base/mem.h"
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

typedef struct loop {
    fg_generator *g;
    fg_session *s;
    const fg_reply_opts *o;
    fg_reply *out;
    fg_draft *draft; /* NULL: none */
    float *rows;     /* [FG_DRAFT_ROWS][n_vocab] logits of a pass with guesses */
    size_t n_vocab;
    uint64_t first; /* position whose logits are row 0 */
    fg_step step;   /* the ids that are to be evaluated next, if it has any */
} loop;

static void keep_row(void *ctx, uint64_t pos, const float *logits)
{
    loop *k = ctx;
    if (pos < k->first) return;
    memcpy(k->rows + (pos - k->first) * k->n_vocab, logits, k->n_vocab * sizeof *logits);
}

/* Guesses after the one id that is to be evaluated.  The batch ends in the chunk in which it
 * begins, so that going back copies nothing. */
static size_t propose(loop *k, uint32_t *out)
{
    enum { CHUNK = 64 };
    const fg_ids *ids = fg_generator_ids(k->g);
    fg_generator_stats have = {.size = sizeof have};
    if (k->draft == NULL || k->step.n != 1 || k->step.ended) return 0;
    fg_generator_get_stats(k->g, &have);
    if (!fg_draft_follow(k->draft, ids->data, ids->len)) return 0;
    const uint64_t pos = fg_session_pos(k->s), room = fg_session_n_ctx(k->s) - pos - 1;
    uint64_t most = CHUNK - pos % CHUNK - 1;
    if (most > room) most = room;
    if (most > k->o->n_max - have.n_gen) most = k->o->n_max - have.n_gen;
    return fg_draft_propose(k->draft, out, (size_t)most);
}

static double spent(const loop *k, uint64_t t0)
{
    return (double)(k->draft->clock() - t0) * 1e-9;
}

/* The step's ids, and guesses after them in one pass.  Then steps are taken on the rows of that
 * pass, as if each had been evaluated by itself, for as long as they choose what was guessed; what
 * the first other one chose is the next step. */
static fg_status pass(loop *k, fg_err *err)
{
    uint32_t ids[FG_DRAFT_ROWS];
    const uint64_t t0 = k->draft == NULL ? 0 : k->draft->clock(), pos = fg_session_pos(k->s);
    const size_t n = propose(k, ids + 1);
    k->out->n_eval += k->step.n;
    if (n == 0) {
        const bool one = k->step.n == 1;
        FG_TRY(fg_session_eval(k->s, k->step.ids, k->step.n, NULL, NULL, err));
        if (one && k->draft != NULL) fg_draft_passed(k->draft, 0, 0, spent(k, t0));
        k->step.n = 0;
        return FG_OK;
    }
    ids[0] = k->step.ids[0];
    k->first = pos;
    k->step.n = 0;
    FG_TRY(fg_session_eval(k->s, ids, n + 1, keep_row, k, err));
    const double seconds = spent(k, t0);
    size_t right = 0;
    fg_status st = FG_OK;
    while (right < n && !k->step.ended) {
        st = fg_generator_step(k->g, k->rows + right * k->n_vocab, &k->step, err);
        if (st != FG_OK || k->step.n != 1 || k->step.ids[0] != ids[right + 1]) break;
        k->step.n = 0; /* it is evaluated */
        right++;
    }
    k->out->n_eval += right;
    fg_draft_passed(k->draft, n, right, seconds);
    if (right == n) return st;
    uint64_t at;
    FG_TRY(fg_session_rewind(k->s, pos + 1 + right, &at, err));
    if (at == pos + 1 + right) fg_session_set_logits(k->s, k->rows + right * k->n_vocab);
    return st;
}

static fg_status go(loop *k, fg_err *err)
{
    for (;;) {
        if (!k->step.ended && k->o->poll != NULL && !k->o->poll(k->o->ctx)) {
            fg_generator_cancel(k->g);
            k->out->end = FG_END_CANCEL;
            /* a step that a wrong guess has left */
            if (k->step.n == 0 || !k->o->goes_on) return FG_OK;
            k->out->n_eval += k->step.n;
            return fg_session_eval(k->s, k->step.ids, k->step.n, NULL, NULL, err);
        }
        if (k->step.n == 0) {
            FG_TRY(fg_generator_step(k->g, fg_session_logits(k->s), &k->step, err));
        }
        if (k->step.n > 0) FG_TRY(pass(k, err));
        if (k->step.ended) k->out->end = k->step.end;
        if (k->step.ended && k->step.n == 0) return FG_OK;
    }
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
    loop k = {.g = g,
              .s = s,
              .o = fg_generator_opts(g),
              .out = out,
              .draft = fg_generator_draft(g),
              .n_vocab = fg_engine_shape(fg_session_engine(s))->n_vocab};
    if (k.draft != NULL) k.rows = fg_mem_zalloc_array(FG_DRAFT_ROWS * k.n_vocab, sizeof *k.rows);
    if (k.rows == NULL) k.draft = NULL; /* slower without */
    fg_generator_get_stats(g, &before);
    const fg_status st = go(&k, err);
    fg_mem_free(k.rows);
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
