/* SPDX-License-Identifier: MIT
 *
 * The reply as a state machine, on logits that are made for it: budgets cut at every token of a
 * thought, replies saved and resumed at every token, repetition, marks, stop strings.  Only nano's
 * tokenizer is used.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/hash.h"
#include "src/base/utf8.h"
#include "src/engine/generator.h"
#include "src/text/sampler.h"
#include "src/text/stream.h"
#include "tests/fg_test.h"
#include "tests/models.h"

enum { MOST = 8192 };
static const char thought[] = "First, the fox.\nThen the na\xc3\xafve caf\xc3\xa9 \xe6\x97\xa5\xe6"
                              "\x9c\xac\xe8\xaa\x9e of the old man and a line that goes on and on"
                              "\n\nAnd <b>so</b> it </ended> with </thin air.\n";
static const char answer[] = "The fox is <think> old </think> and wise.\n";

/* A reply that is asked for by its logits, and what came of it. */
typedef struct rig {
    fg_engine *e;
    const fg_tokenizer *t;
    uint32_t n_vocab;
    float *logits;
    fg_sampler *sampler;
    fg_generator *g;
    fg_reply_opts o;
    fg_ids ids; /* prompt and reply, as a session would hold them */
    size_t n_prompt;
    fg_ids before, after; /* to be sampled in the thought and after it */
    size_t at[2];
    bool closed; /* the thought, for the script */
    bool random; /* logits leave a choice */
    bool unsure; /* probabilities of 0.95 */
    uint64_t n_sampled;
    fg_buf reasoning, text, all;
    uint64_t n_tag, n_forced, n_stop, forced_pos, forced_n, n_replayed;
    fg_forced why;
    fg_end end;
} rig;

static bool hear(void *ctx, const fg_event *e)
{
    rig *r = ctx;
    CHECK(r->n_stop == 0); /* nothing comes after it */
    if (e->text != NULL) {
        CHECK(e->n > 0 && fg_utf8_valid((const uint8_t *)e->text, e->n) == e->n);
        fg_buf_put(&r->all, e->text, e->n);
        r->n_replayed += e->replayed;
    }
    switch (e->kind) {
    case FG_EVENT_TEXT: fg_buf_put(&r->text, e->text, e->n); break;
    case FG_EVENT_REASONING: fg_buf_put(&r->reasoning, e->text, e->n); break;
    case FG_EVENT_TAG:
        r->n_tag++;
        if (e->text[1] == '/') r->closed = true;
        break;
    case FG_EVENT_FORCED:
        r->n_forced++;
        r->why = e->why;
        r->forced_pos = e->pos;
        r->forced_n = e->n_id;
        break;
    case FG_EVENT_STOP:
        r->n_stop++;
        r->end = e->end;
        break;
    default: fg_test_fail(__FILE__, __LINE__, "event %d", (int)e->kind);
    }
    return true;
}

static void encode(const rig *r, const char *text, fg_ids *ids)
{
    fg_err err = {0};
    CHECK_OK(fg_tokenizer_encode(r->t, NULL, text, strlen(text), true, ids, &err), &err);
}

static bool rig_open(rig *r, fg_engine *e)
{
    fg_err err = {0};
    *r = (rig){.e = e, .o = fg_reply_opts_default()};
    r->n_vocab = fg_engine_shape(e)->n_vocab;
    r->logits = calloc(r->n_vocab, sizeof *r->logits);
    r->o.n_max = MOST;
    r->o.goes_on = true;
    r->o.event = hear;
    r->o.think_budget = 0;
    if (r->logits == NULL || fg_engine_tokenizer(e, &r->t, &err) != FG_OK) return false;
    encode(r, "Tell me of the fox.", &r->ids);
    r->n_prompt = r->ids.len;
    return true;
}

/* The sampler and the generator; temperature low enough that only equal logits leave a choice. */
static bool rig_begin(rig *r, uint64_t seed)
{
    fg_err err = {0};
    fg_sampler_opts so = fg_sampler_opts_default();
    so.temp = 0.01;
    so.top_p = 1;
    so.seed = seed;
    so.repeat = r->random ? 1.001 : 1;
    so.frequency = r->random ? 0.01 : 0;
    r->closed = false;
    CHECK_OK(fg_engine_sampler(r->e, &so, &r->sampler, &err), &err);
    r->o.sampler = r->sampler;
    r->o.ctx = r;
    CHECK_OK(fg_generator_create(&r->g, r->e, &r->o, &err), &err);
    if (r->g == NULL) return false;
    CHECK_OK(fg_generator_begin(r->g, r->ids.data, r->n_prompt, 0, &err), &err);
    return true;
}

static void rig_end(rig *r)
{
    fg_generator_destroy(&r->g);
    fg_sampler_destroy(&r->sampler);
}

static void rig_close(rig *r)
{
    rig_end(r);
    free(r->logits);
    fg_ids_fini(&r->ids);
    fg_ids_fini(&r->before);
    fg_ids_fini(&r->after);
    fg_buf_fini(&r->reasoning);
    fg_buf_fini(&r->text);
    fg_buf_fini(&r->all);
}

/* Logits that ask for the script's next id, by a probability near 1, or 0.95, or with three others
 * as likely. */
static void ask(rig *r, uint64_t pos)
{
    const fg_ids *script = r->closed ? &r->after : &r->before;
    size_t *at = &r->at[r->closed];
    uint32_t id;
    (void)fg_tokenizer_find_added(r->t, "<end_of_sentence>", &id);
    const bool any = *at < script->len;
    if (any) id = script->data[*at];
    *at += any;
    memset(r->logits, 0, r->n_vocab * sizeof *r->logits);
    r->logits[id] = r->unsure ? logf(19.0f * (float)(r->n_vocab - 1)) : 40.0f;
    if (!r->random || !any || fg_tokenizer_is_special(r->t, id)) return;
    for (uint32_t k = 1; k < 4; k++) {
        r->logits[300 + (uint32_t)((pos * 7919 + k * 104729) % 3000)] = r->logits[id];
    }
}

/* Up to `most` steps; false: it has ended. */
static bool drive(rig *r, size_t most)
{
    fg_err err = {0};
    for (fg_step step = {0}; most > 0; most--) {
        const fg_rng rng = fg_sampler_rng(r->sampler);
        const size_t at[2] = {r->at[0], r->at[1]};
        ask(r, r->ids.len);
        if (fg_generator_step(r->g, r->logits, &step, &err) != FG_OK) {
            fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
            return false;
        }
        const fg_rng now = fg_sampler_rng(r->sampler);
        const bool drew = memcmp(&rng, &now, sizeof rng) != 0;
        CHECK(drew == (step.forced == FG_FORCED_NOTHING)); /* given: no random number */
        if (drew) {
            r->n_sampled++;
        } else {
            memcpy(r->at, at, sizeof at); /* the script was not asked */
        }
        for (size_t i = 0; i < step.n; i++) CHECK(fg_ids_push(&r->ids, step.ids[i]));
        if (step.ended) return false;
    }
    return true;
}

static bool is(const fg_buf *b, const char *want)
{
    return b->len == strlen(want) && (b->len == 0 || memcmp(b->data, want, b->len) == 0);
}

/* What all ids of the reply say, put together by the reference. */
static void check_log(const rig *r)
{
    fg_buf want = {0};
    fg_detok d;
    fg_detok_init(&d, r->t, FG_DETOK_THINK);
    for (size_t i = r->n_prompt; i < r->ids.len; i++) fg_detok_feed(&d, r->ids.data[i], &want);
    fg_detok_flush(&d, &want);
    CHECK(want.len == r->all.len && memcmp(want.data, r->all.data, want.len) == 0);
    fg_buf_fini(&want);
}

typedef struct parts {
    fg_buf answer;
} parts;

static void keep_answer(void *ctx, fg_think_part part, const char *text, size_t n)
{
    parts *p = ctx;
    if (part == FG_THINK_ANSWER) fg_buf_put(&p->answer, text, n);
}

/* Control: a splitter that is not told of the given ids takes the answer for thought. */
static void check_deaf_splitter(const rig *r)
{
    parts p = {0};
    fg_detok d;
    fg_think t;
    fg_buf text = {0};
    fg_detok_init(&d, r->t, FG_DETOK_THINK);
    fg_think_init(&t, keep_answer, &p);
    for (size_t i = r->n_prompt; i < r->ids.len; i++) {
        if (i >= r->forced_pos && i < r->forced_pos + r->forced_n) continue;
        text.len = 0;
        fg_detok_feed(&d, r->ids.data[i], &text);
        fg_think_feed(&t, (const char *)text.data, text.len);
    }
    fg_think_flush(&t);
    CHECK(p.answer.len < r->text.len);
    fg_buf_fini(&p.answer);
    fg_buf_fini(&text);
}

/* A thought, the text so many times, and an answer. */
static void script(rig *r, int times)
{
    encode(r, "<think>\n", &r->before);
    fg_err err = {0};
    for (int i = 0; i < times; i++) {
        CHECK_OK(fg_tokenizer_encode(r->t, NULL, thought, strlen(thought), false, &r->before, &err),
                 &err);
    }
    encode(r, "</think>", &r->before);
    CHECK_OK(fg_tokenizer_encode(r->t, NULL, answer, strlen(answer), false, &r->after, &err), &err);
}

FG_TEST(budget_cut_at_every_token)
{
    fg_engine *e = model_open(NANO_DIR, "q4", 1, NULL);
    REQUIRE(e != NULL);
    uint64_t n_cut = 0, n_whole = 0;
    for (uint64_t cap = 1; cap < 120; cap++) {
        rig r;
        REQUIRE(rig_open(&r, e));
        script(&r, 1);
        r.o.think_budget = cap;
        r.o.think_message = cap % 2 == 0 ? "\nI have to answer now." : NULL;
        REQUIRE(rig_begin(&r, 1));
        CHECK(!drive(&r, MOST));
        CHECK(r.n_stop == 1 && r.end == FG_END_MODEL && r.n_tag == 2);
        check_log(&r);
        fg_generator_stats s = {.size = sizeof s};
        fg_generator_get_stats(r.g, &s);
        CHECK_U64(s.n_gen, s.n_forced + r.n_sampled - 1); /* the end token is not counted */
        char want_text[128];
        (void)snprintf(want_text, sizeof want_text, "%s%s", r.n_forced > 0 ? "\n\n" : "", answer);
        CHECK(is(&r.text, want_text));
        if (r.n_forced == 0) {
            n_whole++;
            CHECK(s.n_thought <= cap + 64);
        } else {
            n_cut++;
            CHECK(r.n_forced == 1 && r.why == FG_FORCED_BUDGET && s.n_forced == r.forced_n);
            check_deaf_splitter(&r);
            fg_ids want = {0};
            if (cap % 2 == 0) encode(&r, r.o.think_message, &want);
            encode(&r, "\n</think>\n\n", &want);
            CHECK(want.len == r.forced_n &&
                  memcmp(want.data, r.ids.data + r.forced_pos, want.len * sizeof *want.data) == 0);
            fg_ids_fini(&want);
            const uint64_t sampled = r.forced_pos - r.n_prompt;
            CHECK(sampled >= cap && sampled <= cap + 64 + 2);
        }
        rig_close(&r);
    }
    CHECK(n_cut > 20 && n_whole > 20);
    fg_engine_close(&e);
}

/* A thought without an end of line is cut after 64 tokens more, and one token is waited for to
 * complete a character; a message may not hold the tag; without budget nothing is cut. */
FG_TEST(budget_waits_for_a_line_and_no_longer)
{
    fg_engine *e = model_open(NANO_DIR, "q4", 1, NULL);
    REQUIRE(e != NULL);
    for (int with = 0; with < 2; with++) {
        rig r;
        REQUIRE(rig_open(&r, e));
        encode(&r, "<think>", &r.before);
        const size_t n_head = r.before.len;
        for (int i = 0; i < 300; i++) encode(&r, " and", &r.before);
        encode(&r, "Done.", &r.after);
        r.o.think_budget = with ? 100 : 0;
        r.o.n_max = 250;
        REQUIRE(rig_begin(&r, 1));
        CHECK(!drive(&r, MOST));
        if (with) {
            CHECK(r.n_forced == 1 && r.end == FG_END_MODEL);
            CHECK_U64(r.forced_pos - r.n_prompt, n_head + 100 + 64);
        } else {
            CHECK(r.n_forced == 0 && r.end == FG_END_LENGTH);
        }
        rig_close(&r);
    }
    rig r;
    fg_err err = {0};
    REQUIRE(rig_open(&r, e));
    REQUIRE(rig_begin(&r, 1));
    fg_generator *g;
    r.o.think_message = "</think>";
    CHECK(fg_generator_create(&g, e, &r.o, &err) == FG_EINVAL && g == NULL);
    r.o.think_message = NULL;
    fg_generator_stats s = {.size = sizeof s};
    r.o.think_budget = FG_THINK_BUDGET_AUTO;
    r.o.n_max = 40000;
    CHECK_OK(fg_generator_create(&g, e, &r.o, &err), &err);
    fg_generator_get_stats(g, &s);
    CHECK_U64(s.n_budget, 40000 - 4096);
    fg_generator_destroy(&g);
    rig_close(&r);
    fg_engine_close(&e);
}

FG_TEST(an_empty_thought_can_be_given)
{
    fg_engine *e = model_open(NANO_DIR, "q4", 1, NULL);
    rig r;
    REQUIRE(e != NULL && rig_open(&r, e));
    script(&r, 1);
    r.o.no_thought = true;
    REQUIRE(rig_begin(&r, 1));
    CHECK(!drive(&r, MOST));
    CHECK(r.n_forced == 1 && r.why == FG_FORCED_NO_THOUGHT && r.n_tag == 2);
    CHECK(is(&r.reasoning, "\n\n") && r.forced_pos == r.n_prompt);
    check_log(&r);
    rig_close(&r);
    fg_engine_close(&e);
}

/* ---- saving ---- */

typedef struct saved {
    uint8_t state[FG_GENERATOR_STATE];
    size_t n, at[2], n_text;
} saved;

static bool same(const rig *a, const rig *b)
{
    const fg_rng x = fg_sampler_rng(a->sampler), y = fg_sampler_rng(b->sampler);
    fg_generator_stats s = {.size = sizeof s}, t = s;
    fg_generator_get_stats(a->g, &s);
    fg_generator_get_stats(b->g, &t);
    return a->ids.len == b->ids.len && a->all.len == b->all.len && a->end == b->end &&
           memcmp(a->ids.data, b->ids.data, a->ids.len * sizeof *a->ids.data) == 0 &&
           memcmp(a->all.data, b->all.data, a->all.len) == 0 && memcmp(&x, &y, sizeof x) == 0 &&
           s.n_gen == t.n_gen && s.n_thought == t.n_thought && s.n_forced == t.n_forced &&
           memcmp(&s.logprob, &t.logprob, sizeof s.logprob) == 0;
}

/* Goes on from `from` of the whole reply in a new generator, with a sampler of another seed. */
static void resume(rig *r, const rig *whole, const saved *from, bool with_state, bool told)
{
    fg_err err = {0};
    bool ended = false;
    r->random = true;
    script(r, 3);
    r->o.stop_text = whole->o.stop_text;
    r->o.n_stop_text = whole->o.n_stop_text;
    r->o.think_budget = whole->o.think_budget;
    r->ids.len = 0;
    for (size_t i = 0; i < from->n; i++) CHECK(fg_ids_push(&r->ids, whole->ids.data[i]));
    if (!rig_begin(r, 77)) return;
    CHECK_OK(fg_generator_resume(r->g, r->ids.data, r->n_prompt, r->ids.len, 0,
                                 with_state ? from->state : NULL, sizeof from->state, told, &ended,
                                 &err),
             &err);
    memcpy(r->at, from->at, sizeof r->at);
    if (!ended) CHECK(!drive(r, MOST));
}

FG_TEST(resumed_at_every_token_it_is_the_same)
{
    static const char *const stops[] = {"and wise", "old man and the"};
    fg_engine *e = model_open(NANO_DIR, "q4", 1, NULL);
    REQUIRE(e != NULL);
    rig a;
    REQUIRE(rig_open(&a, e));
    a.random = true;
    script(&a, 3);
    a.o.stop_text = stops;
    a.o.n_stop_text = 2;
    a.o.think_budget = 12;
    REQUIRE(rig_begin(&a, 5));
    saved at[400];
    size_t n = 0;
    fg_err err = {0};
    for (bool on = true; on && n < 400; n++) {
        at[n] = (saved){.n = a.ids.len, .at = {a.at[0], a.at[1]}, .n_text = a.all.len};
        CHECK_OK(fg_generator_save(a.g, a.ids.len, at[n].state, &err), &err);
        on = drive(&a, 1);
    }
    CHECK(n > 40 && n < 400 && a.n_forced == 1);
    int n_other = 0;
    int n_all = 0;
    for (size_t i = 0; i < n; i += (size_t)fg_test_every(3, 9)) {
        n_all++;
        rig b, c;
        REQUIRE(rig_open(&b, e) && rig_open(&c, e));
        resume(&b, &a, &at[i], true, true);
        CHECK(same(&a, &b));
        CHECK(i == 0 || b.n_replayed > 0);
        resume(&c, &a, &at[i], false, true); /* control: another random state */
        n_other += !same(&a, &c);
        rig_close(&b);
        rig_close(&c);
    }
    CHECK(n_other > n_all / 2);
    rig_close(&a);
    fg_engine_close(&e);
}

static bool equals(const fg_buf *a, const fg_buf *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

static bool ends_with(const fg_buf *b, const char *end)
{
    const size_t n = strlen(end);
    return b->len >= n && memcmp(b->data + b->len - n, end, n) == 0;
}

/* Cut after every token and gone on with, a reply is shown once: also what was held back at the
 * cut, since it might have become a stop string, a tag or a character, and was told there. */
FG_TEST(cut_at_every_token_it_is_shown_once)
{
    static const char *const stops[] = {"and wisX", "old men", "\n\n\n", ". "};
    fg_engine *e = model_open(NANO_DIR, "q4", 1, NULL);
    fg_err err = {0};
    int n_held = 0, n_half = 0; /* cuts in what may be a stop string or a tag, in a character */
    REQUIRE(e != NULL);
    rig a;
    REQUIRE(rig_open(&a, e));
    script(&a, 3);
    REQUIRE(rig_begin(&a, 5) && !drive(&a, MOST));
    const size_t n = a.ids.len - a.n_prompt;
    for (size_t cut = 1; cut + 1 < n; cut++) {
        rig b, c;
        bool ended = true;
        uint8_t state[FG_GENERATOR_STATE];
        REQUIRE(rig_open(&b, e) && rig_open(&c, e));
        script(&b, 3);
        script(&c, 3);
        b.o.stop_text = c.o.stop_text = stops;
        b.o.n_stop_text = c.o.n_stop_text = 4;
        b.o.n_max = cut;
        REQUIRE(rig_begin(&b, 5) && !drive(&b, MOST));
        CHECK(b.end == FG_END_LENGTH);
        CHECK_OK(fg_generator_save(b.g, b.ids.len, state, &err), &err);
        for (size_t i = 0; i < cut; i++) CHECK(fg_ids_push(&c.ids, b.ids.data[c.n_prompt + i]));
        REQUIRE(rig_begin(&c, 77));
        CHECK_OK(fg_generator_resume(c.g, c.ids.data, c.n_prompt, c.ids.len, 0, state, sizeof state,
                                     false, &ended, &err),
                 &err);
        c.closed = b.closed;
        memcpy(c.at, b.at, sizeof c.at);
        CHECK(!ended && !drive(&c, MOST) && c.end == a.end);
        n_held += ends_with(&b.text, "and") || ends_with(&b.reasoning, "<");
        n_half += b.all.len < a.all.len && (a.all.data[b.all.len] & 0x80) != 0;
        fg_buf_put(&b.text, c.text.data, c.text.len);
        fg_buf_put(&b.reasoning, c.reasoning.data, c.reasoning.len);
        if (!equals(&a.text, &b.text) || !equals(&a.reasoning, &b.reasoning)) {
            fg_test_fail(__FILE__, __LINE__, "cut after %zu: '%.*s' '%.*s'", cut,
                         (int)b.reasoning.len, b.reasoning.data, (int)b.text.len, b.text.data);
        }
        rig_close(&b);
        rig_close(&c);
    }
    CHECK(n_held > 2 && n_half > 2); /* it was tried */
    rig_close(&a);
    fg_engine_close(&e);
}

FG_TEST(a_foreign_state_is_refused)
{
    fg_engine *e = model_open(NANO_DIR, "q4", 1, NULL);
    rig r;
    fg_err err = {0};
    uint8_t state[FG_GENERATOR_STATE], bad[FG_GENERATOR_STATE];
    REQUIRE(e != NULL && rig_open(&r, e));
    script(&r, 1);
    REQUIRE(rig_begin(&r, 1));
    CHECK(drive(&r, 9));
    const size_t n = r.ids.len, p = r.n_prompt;
    CHECK_OK(fg_generator_save(r.g, n, state, &err), &err);
    CHECK_OK(fg_generator_save(r.g, n - 1, bad, &err), &err); /* before the last step's id */
    CHECK(fg_generator_save(r.g, n - 2, bad, &err) == FG_EINVAL);
    for (size_t i = 0; i < sizeof state; i++) {
        memcpy(bad, state, sizeof bad);
        bad[i] ^= 4;
        CHECK(fg_generator_resume(r.g, r.ids.data, p, n, 0, bad, sizeof bad, false, NULL, &err) !=
              FG_OK);
        CHECK(fg_generator_resume(r.g, r.ids.data, p, n, 0, state, i, false, NULL, &err) != FG_OK);
    }
    CHECK(fg_generator_resume(r.g, r.ids.data, p, n - 1, 0, state, sizeof state, false, NULL,
                              &err) == FG_EINVAL);
    CHECK(fg_generator_resume(r.g, r.ids.data, p - 1, n, 0, state, sizeof state, false, NULL,
                              &err) == FG_EINVAL);
    for (int k = 0; k < 5; k++) { /* whole, and impossible */
        static const size_t at[] = {4, 104, 112, 128, 24}, len[] = {1, 1, 1, 1, 32};
        memcpy(bad, state, sizeof bad);
        memset(bad + at[k], k == 4 ? 0 : 99, len[k]);
        const uint64_t sum = fg_hash64(bad, sizeof bad - 8);
        memcpy(bad + sizeof bad - 8, &sum, 8);
        CHECK(fg_generator_resume(r.g, r.ids.data, p, n, 0, bad, sizeof bad, false, NULL, &err) ==
              (k == 0 ? FG_EVERSION : FG_EFORMAT));
    }
    r.ids.data[n - 1] ^= 1;
    CHECK(fg_generator_resume(r.g, r.ids.data, p, n, 0, state, sizeof state, false, NULL, &err) ==
          FG_EINVAL);
    r.ids.data[n - 1] ^= 1;
    CHECK(fg_generator_resume(r.g, r.ids.data, p, n, n - 1, state, sizeof state, false, NULL,
                              &err) != FG_OK);
    CHECK_OK(fg_generator_resume(r.g, r.ids.data, p, n, 0, state, sizeof state, false, NULL, &err),
             &err);
    CHECK(!drive(&r, MOST) && r.end == FG_END_MODEL);
    fg_step step;
    CHECK(fg_generator_step(r.g, r.logits, &step, &err) == FG_EINVAL); /* it has ended */
    rig_close(&r);
    fg_engine_close(&e);
}

/* ---- repetition ---- */

/* n ids that do not repeat any three of themselves, from `from` on. */
static void fresh(rig *r, fg_ids *out, uint32_t from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t id = 300 + (uint32_t)((from + i * i * 31 + i) % 3700);
        CHECK(fg_tokenizer_has(r->t, id));
        CHECK(fg_ids_push(out, id));
    }
}

static void put(const fg_ids *from, size_t n, fg_ids *out)
{
    for (size_t i = 0; i < n; i++) CHECK(fg_ids_push(out, from->data[i % from->len]));
}

FG_TEST(repetition_stops_and_copies_do_not)
{
    /* what the answer is made of; where 3,000 tokens have counted, 0: never */
    enum { LOOP, UNSURE, COPY, COPY_TWICE, OWN_COPY, THOUGHT_COPY, OFF, N_CASE };
    fg_engine *e = model_open(NANO_DIR, "q4", 1, NULL);
    REQUIRE(e != NULL);
    for (int c = 0; c < N_CASE; c++) {
        rig r;
        fg_ids loop = {0}, text = {0};
        REQUIRE(rig_open(&r, e));
        fresh(&r, &loop, 5, 7);
        fresh(&r, &text, 11, 3400);
        if (c == COPY || c == COPY_TWICE) put(&text, text.len, &r.ids); /* an earlier turn */
        r.n_prompt = r.ids.len;
        r.unsure = c == UNSURE;
        if (c == OFF) r.o.repeat_stop = 0;
        fg_ids *out = c == THOUGHT_COPY ? &r.before : &r.after;
        if (c == THOUGHT_COPY) {
            encode(&r, "<think>", out);
            put(&text, 2900, out);
            encode(&r, "</think>", out);
            put(&text, 2900, &r.after);
        } else {
            r.closed = true;
            put(c == LOOP || c == UNSURE || c == OFF ? &loop : &text, c == COPY ? text.len : 6500,
                out);
        }
        REQUIRE(rig_begin(&r, 1));
        r.closed = c != THOUGHT_COPY;
        CHECK(!drive(&r, MOST));
        const uint64_t n = r.ids.len - r.n_prompt;
        const bool stops = c == LOOP || c == COPY_TWICE || c == OWN_COPY;
        if (r.end != (stops ? FG_END_REPEAT : FG_END_MODEL)) {
            fg_test_fail(__FILE__, __LINE__, "case %d: %s after %llu", c, fg_end_name(r.end),
                         (unsigned long long)n);
        }
        if (c == LOOP || c == OWN_COPY) CHECK_U64(n, 3000);
        /* the first time it copies, but for the three that find the place; then it loops */
        if (c == COPY_TWICE) CHECK(n >= 6400 - 8 && n <= 6400 + 8);
        rig_close(&r);
        fg_ids_fini(&loop);
        fg_ids_fini(&text);
    }
    fg_engine_close(&e);
}

FG_TEST(a_thought_that_repeats_is_closed)
{
    fg_engine *e = model_open(NANO_DIR, "q4", 1, NULL);
    rig r;
    REQUIRE(e != NULL && rig_open(&r, e));
    encode(&r, "<think>", &r.before);
    const size_t n_head = r.before.len;
    for (int i = 0; i < 6000; i++) encode(&r, i % 9 == 8 ? "\n" : " and", &r.before);
    encode(&r, "Done.", &r.after);
    REQUIRE(rig_begin(&r, 1));
    CHECK(!drive(&r, MOST));
    CHECK(r.n_forced == 1 && r.why == FG_FORCED_REPEAT && r.end == FG_END_MODEL);
    const uint64_t n = r.forced_pos - r.n_prompt;
    CHECK(n_head <= 2 && n >= 3000 && n <= 3000 + 10); /* 3,000, then the end of a line */
    rig_close(&r);
    fg_engine_close(&e);
}

/* ---- ends ---- */

FG_TEST(every_mark_but_the_tags_ends_a_reply)
{
    static const struct {
        const char *mark;
        bool ignore, ends;
    } cases[] = {{"<end_of_sentence>", false, true},
                 {"<end_of_document>", false, true},
                 {"<beginning_of_sentence>", false, true},
                 {"<fim_prefix>", false, true},
                 {"<think>", false, false},
                 {"</think>", false, false},
                 {"<fim_prefix>", true, false}};
    fg_engine *e = model_open(NANO_DIR, "q4", 1, NULL);
    REQUIRE(e != NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rig r;
        uint32_t eos;
        REQUIRE(rig_open(&r, e));
        REQUIRE(fg_tokenizer_find_added(r.t, "<end_of_sentence>", &eos));
        encode(&r, "One", &r.after);
        encode(&r, cases[i].mark, &r.after);
        encode(&r, "two", &r.after);
        r.o.ignore_eos = cases[i].ignore;
        r.o.n_max = r.after.len;
        REQUIRE(rig_begin(&r, 1));
        r.closed = true;
        CHECK(!drive(&r, MOST));
        CHECK(r.end == (cases[i].ends ? FG_END_MODEL : FG_END_LENGTH));
        /* whichever it was, the conversation goes on after a closed turn */
        if (cases[i].ends) CHECK(is(&r.text, "One") && r.ids.data[r.ids.len - 1] == eos);
        rig_close(&r);
    }
    fg_engine_close(&e);
}

FG_TEST(stop_strings_of_the_answer)
{
    static const struct {
        const char *stop[3], *text, *want;
        bool found;
    } cases[] = {
        {{"and wise"}, "The fox is old and wise.", "The fox is old ", true},
        {{"and wisX"}, "The fox is old and wise.", "The fox is old and wise.", false},
        {{"fox", "The f"}, "The fox", "", true}, /* the first to be complete */
        {{"aab"}, "aaaab b", "aa", true},
        {{"\n\n"}, "One\n\nTwo", "One", true},
        {{"\xc3\xa9t", "zzz"}, "caf\xc3\xa9tal", "caf", true},
        {{"."}, "It is", "It is", false},
        {{"isn"}, "It is", "It is", false}, /* held back until the end */
    };
    fg_engine *e = model_open(NANO_DIR, "q4", 1, NULL);
    REQUIRE(e != NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int thinks = 0; thinks < 2; thinks++) {
            rig r;
            REQUIRE(rig_open(&r, e));
            if (thinks) { /* which may have it, and so may the space after it */
                encode(&r, "<think>", &r.before);
                encode(&r, cases[i].text, &r.before);
                encode(&r, "</think>", &r.before);
                encode(&r, "\n\n", &r.after);
            }
            for (const char *c = cases[i].text; *c != '\0';) { /* a character each */
                char one[5] = {0};
                size_t n = 1;
                while ((c[n] & 0xc0) == 0x80) n++;
                memcpy(one, c, n);
                encode(&r, one, &r.after);
                c += n;
            }
            r.o.stop_text = cases[i].stop;
            while (r.o.n_stop_text < 3 && cases[i].stop[r.o.n_stop_text] != NULL) r.o.n_stop_text++;
            REQUIRE(rig_begin(&r, 1));
            r.closed = !thinks;
            CHECK(!drive(&r, MOST));
            CHECK(r.end == (cases[i].found ? FG_END_STRING : FG_END_MODEL));
            fg_buf text = r.text;
            if (thinks) {
                CHECK(text.len >= 2 && memcmp(text.data, "\n\n", 2) == 0);
                CHECK(is(&r.reasoning, cases[i].text));
                text.data += 2;
                text.len -= 2;
            }
            if (!is(&text, cases[i].want)) {
                fg_test_fail(__FILE__, __LINE__, "case %zu: '%.*s'", i, (int)text.len, text.data);
            }
            rig_close(&r);
        }
    }
    rig r;
    fg_err err = {0};
    static const char *const bad[] = {"", "\xc3", "ok\xff"};
    REQUIRE(rig_open(&r, e) && rig_begin(&r, 1));
    for (int i = 0; i < 3; i++) {
        fg_generator *g;
        r.o.stop_text = &bad[i];
        r.o.n_stop_text = 1;
        CHECK(fg_generator_create(&g, e, &r.o, &err) == FG_EINVAL);
    }
    rig_close(&r);
    fg_engine_close(&e);
}
