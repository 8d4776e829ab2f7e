/* SPDX-License-Identifier: MIT
 *
 * The reply loop against a loop written out by hand, and every reason for which it ends.
 */
#include <string.h>

#include "src/engine/session.h"
#include "tests/fg_test.h"
#include "tests/models.h"

enum { N_MAX = 40 };
static const char question[] = "Once upon a time";

typedef struct rig {
    fg_engine *e;
    fg_session *s;
    const fg_tokenizer *t;
    fg_sampler *sampler;
    fg_ids ids;
    fg_buf text;
    uint64_t n_poll, n_emit;
    uint64_t most_poll, most_emit; /* answered yes */
} rig;

static bool emit(void *ctx, fg_think_part part, const char *text, size_t n)
{
    rig *r = ctx;
    (void)part;
    fg_buf_put(&r->text, text, n);
    return ++r->n_emit < r->most_emit;
}

static bool poll(void *ctx)
{
    rig *r = ctx;
    return r->n_poll++ < r->most_poll;
}

static bool rig_open(rig *r, uint64_t n_ctx)
{
    fg_err err = {0};
    fg_sampler_opts o = fg_sampler_opts_default();
    o.temp = 0;
    *r = (rig){.e = model_open(NANO_DIR, "q4", 2, NULL), .most_poll = 1000, .most_emit = 1000};
    if (r->e == NULL) return false;
    r->s = model_session(r->e, n_ctx, 64);
    return fg_engine_tokenizer(r->e, &r->t, &err) == FG_OK &&
           fg_engine_sampler(r->e, &o, &r->sampler, &err) == FG_OK &&
           fg_tokenizer_encode(r->t, NULL, question, sizeof question - 1, false, &r->ids, &err) ==
               FG_OK &&
           fg_session_eval(r->s, r->ids.data, r->ids.len, NULL, NULL, &err) == FG_OK;
}

static void rig_close(rig *r)
{
    fg_buf_fini(&r->text);
    fg_ids_fini(&r->ids);
    fg_sampler_destroy(&r->sampler);
    fg_session_destroy(&r->s);
    fg_engine_close(&r->e);
}

static fg_reply_opts opts_of(rig *r)
{
    fg_reply_opts o = fg_reply_opts_default();
    o.sampler = r->sampler;
    o.n_max = N_MAX;
    o.emit = emit;
    o.poll = poll;
    o.ctx = r;
    return o;
}

/* Greedy ids by hand. */
static void by_hand(rig *r, uint32_t *out)
{
    fg_err err = {0};
    for (int i = 0; i < N_MAX; i++) {
        REQUIRE_OK(fg_sampler_pick(r->sampler, fg_session_logits(r->s), &out[i], NULL, &err), &err);
        REQUIRE_OK(fg_session_eval(r->s, &out[i], 1, NULL, NULL, &err), &err);
    }
}

FG_TEST(equals_a_loop_by_hand)
{
    rig a, b;
    uint32_t want[N_MAX];
    fg_err err = {0};
    fg_reply reply;
    REQUIRE(rig_open(&a, 256) && rig_open(&b, 256));
    by_hand(&a, want);
    fg_reply_opts o = opts_of(&b);
    REQUIRE_OK(fg_reply_run(b.s, &o, &reply, &err), &err);
    CHECK(reply.end == FG_END_LENGTH && reply.n_gen == N_MAX && reply.n_eval == N_MAX - 1);
    CHECK_U64(fg_session_pos(b.s), b.ids.len + N_MAX - 1);
    CHECK(memcmp(fg_session_ids(b.s) + b.ids.len, want, (N_MAX - 1) * sizeof *want) == 0);
    o.goes_on = true; /* the token that the first reply left out comes first, then it goes on */
    CHECK_OK(fg_session_rewind(b.s, b.ids.len, &(uint64_t){0}, &err), &err);
    CHECK(fg_reply_run(b.s, &o, &reply, &err) == FG_EINVAL); /* no logits after a rewind */
    CHECK(b.text.len > 0);
    rig_close(&a);
    rig_close(&b);
}

FG_TEST(every_reason_to_end)
{
    rig a, r;
    uint32_t want[N_MAX];
    fg_err err = {0};
    fg_reply reply;
    REQUIRE(rig_open(&a, 256));
    by_hand(&a, want);
    bool seen[FG_END_COUNT] = {false};

    REQUIRE(rig_open(&r, 256));
    fg_reply_opts o = opts_of(&r);
    const uint32_t stop = want[5];
    uint64_t first = 0;
    while (want[first] != stop) first++;
    o.stop = &stop;
    o.n_stop = 1;
    CHECK(fg_reply_run(r.s, &o, &reply, &err) == FG_OK && reply.n_gen == first);
    seen[reply.end] = reply.end == FG_END_MODEL;
    rig_close(&r);

    REQUIRE(rig_open(&r, 256));
    r.most_poll = 7;
    o = opts_of(&r);
    CHECK(fg_reply_run(r.s, &o, &reply, &err) == FG_OK && reply.n_gen == 7);
    seen[reply.end] = seen[reply.end] || reply.end == FG_END_CANCEL;
    rig_close(&r);

    REQUIRE(rig_open(&r, 256));
    r.most_emit = 3;
    o = opts_of(&r);
    CHECK(fg_reply_run(r.s, &o, &reply, &err) == FG_OK && reply.end == FG_END_CANCEL);
    CHECK(r.n_emit == 3);
    rig_close(&r);

    REQUIRE(rig_open(&r, a.ids.len + 9));
    o = opts_of(&r);
    CHECK(fg_reply_run(r.s, &o, &reply, &err) == FG_OK && reply.n_eval == 9);
    seen[reply.end] = seen[reply.end] || reply.end == FG_END_CONTEXT;
    rig_close(&r);

    REQUIRE(rig_open(&r, 256));
    o = opts_of(&r);
    o.n_max = 2;
    CHECK(fg_reply_run(r.s, &o, &reply, &err) == FG_OK && reply.n_gen == 2);
    seen[reply.end] = seen[reply.end] || reply.end == FG_END_LENGTH;
    rig_close(&r);

    /* by a text that the reply has */
    REQUIRE(rig_open(&r, 256));
    o = opts_of(&r);
    o.n_max = 20;
    REQUIRE(fg_reply_run(r.s, &o, &reply, &err) == FG_OK && r.text.len > 12);
    char part[8] = {0};
    memcpy(part, r.text.data + 5, 6);
    const char *const text = part;
    rig_close(&r);
    REQUIRE(rig_open(&r, 256));
    o = opts_of(&r);
    o.stop_text = &text;
    o.n_stop_text = 1;
    CHECK(fg_reply_run(r.s, &o, &reply, &err) == FG_OK);
    CHECK(r.text.len <= 5);
    seen[reply.end] = seen[reply.end] || reply.end == FG_END_STRING;
    rig_close(&r);

    seen[FG_END_REPEAT] = true; /* nano is never that sure: test_generator */
    for (int i = 0; i < FG_END_COUNT; i++) {
        CHECK(seen[i]); /* a reason that is added must be shown here */
        CHECK(fg_end_name((fg_end)i) != NULL && fg_end_text((fg_end)i) != NULL);
    }
    rig_close(&a);
}
