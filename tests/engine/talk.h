/* SPDX-License-Identifier: MIT
 *
 * Three turns of a conversation through src/engine/saved.h, as chat has them: prompts that are
 * made up, replies that are sampled.  A later call goes on where the files say that the earlier
 * one was.
 */
#ifndef FG_TESTS_ENGINE_TALK_H
#define FG_TESTS_ENGINE_TALK_H

#include <stdio.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/engine/saved.h"
#include "src/engine/session.h"
#include "tests/fg_test.h"
#include "tests/models.h"

#define TINY_DIR "tests/vectors/oracle/orig-wide"

enum { N_TURN = 3, ROOM = 1024, MAX_LOG_TOKENS = 64 };
static const uint64_t n_prompt[N_TURN] = {40, 210, 23}, n_answer[N_TURN] = {150, 60, 131};

typedef struct talk {
    fg_engine *e;
    const char *dir, *name;
    fg_saved_opts o;
    uint64_t stop_at;        /* returns when the session has so many tokens; 0: at the end */
    volatile uint64_t *seen; /* [2] told of every position, and whether it is in a prompt; NULL:
                              * nobody */
    uint64_t from;           /* out: position at opening */
    uint64_t again;          /* out: tokens that opening evaluated */
    uint64_t n_failed;       /* out: writes that failed */
    fg_err failed;           /* out: the first of them */
    uint32_t ids[ROOM];      /* out */
    uint64_t n_id;
    char notes[2048]; /* out: what was said at opening */
} talk;

static inline uint64_t turn_end(uint32_t turn)
{
    uint64_t n = 0;
    for (uint32_t t = 0; t <= turn; t++) n += n_prompt[t] + n_answer[t];
    return n;
}

static inline void talk_note(void *ctx, const char *line)
{
    talk *k = ctx;
    const size_t n = strlen(k->notes);
    (void)snprintf(k->notes + n, sizeof k->notes - n, "%s\n", line);
}

static inline bool talk_progress(void *ctx, bool tokens, uint64_t done, uint64_t total)
{
    talk *k = ctx;
    (void)done;
    if (tokens) k->again = total;
    return true;
}

/* A write that failed is told; the talk goes on. */
static inline void talk_wrote(talk *k, fg_status st, const fg_err *err)
{
    if (st == FG_OK) return;
    if (k->n_failed++ == 0) k->failed = *err;
}

typedef struct talk_watch {
    talk *k;
    fg_session *s;
} talk_watch;

static inline bool talk_seen(void *ctx, size_t done, size_t total)
{
    const talk_watch *w = ctx;
    (void)done;
    (void)total;
    w->k->seen[0] = fg_session_pos(w->s);
    w->k->seen[1] = 1;
    return true;
}

static inline fg_status talk_prompt(talk *k, fg_saved *v, fg_session *s, uint32_t t, fg_err *err)
{
    uint32_t ids[256];
    fg_rng r;
    fg_err bad = {0};
    talk_watch w = {k, s};
    const uint64_t end = turn_end(t) - n_answer[t], begin = end - n_prompt[t];
    fg_rng_init(&r, 100 + t);
    for (uint64_t i = 0; i < n_prompt[t]; i++) {
        ids[i] = (uint32_t)(fg_rng_u64(&r) % fg_engine_shape(k->e)->n_vocab);
    }
    const uint64_t at = fg_session_pos(s);
    if (at >= end) return FG_OK;
    if (k->seen != NULL) fg_session_set_progress(s, talk_seen, &w);
    const fg_status st = fg_saved_eval(v, ids + (at - begin), (size_t)(end - at), &bad);
    fg_session_set_progress(s, NULL, NULL);
    if (st == FG_EIO) { /* a write: all is evaluated */
        talk_wrote(k, st, &bad);
        return FG_OK;
    }
    if (st != FG_OK) *err = bad;
    return st;
}

static inline fg_status talk_answer(talk *k, fg_saved *v, fg_session *s, fg_sampler *sampler,
                                    uint32_t t, fg_err *err)
{
    while (fg_session_pos(s) < turn_end(t)) {
        fg_rng rng = fg_sampler_rng(sampler);
        fg_err bad = {0};
        if (k->seen != NULL) k->seen[0] = fg_session_pos(s), k->seen[1] = 0;
        if (k->stop_at != 0 && fg_session_pos(s) >= k->stop_at) return FG_OK;
        if (fg_saved_due(v)) talk_wrote(k, fg_saved_keep(v, &rng, sizeof rng, &bad), &bad);
        uint32_t id;
        FG_TRY(fg_sampler_pick(sampler, fg_session_logits(s), &id, NULL, err));
        FG_TRY(fg_session_eval(s, &id, 1, NULL, NULL, err));
    }
    return FG_OK;
}

/* What the log has by now. */
typedef struct talk_state {
    uint32_t n_user, n_assistant, n_end, n_forced, n_settings;
    fg_rng rng;
    bool has_rng;
} talk_state;

static inline talk_state talk_look(const talk *k)
{
    talk_state y = {0};
    fg_saved_info *info;
    if (fg_saved_read(&info, k->dir, k->name, NULL) != FG_OK) return y;
    for (size_t i = 0; i < info->n_event; i++) {
        const fg_saved_event *e = &info->event[i];
        y.n_end += e->kind == FG_SAVED_END;
        y.n_forced += e->kind == FG_SAVED_FORCED;
        y.n_settings += e->kind == FG_SAVED_SETTINGS;
        if (e->kind != FG_SAVED_MESSAGE) continue;
        y.n_user += e->payload[0] == FG_MESSAGE_USER;
        y.n_assistant += e->payload[0] == FG_MESSAGE_ASSISTANT;
    }
    y.has_rng = info->n_state == sizeof y.rng;
    if (y.has_rng) memcpy(&y.rng, info->state, sizeof y.rng);
    CHECK(!info->in_reply || info->state_pos == info->n_token);
    fg_saved_info_free(&info);
    return y;
}

static inline fg_status talk_turn(talk *k, fg_saved *v, fg_session *s, fg_sampler *sampler,
                                  const talk_state *y, uint32_t t, fg_err *err)
{
    fg_err bad = {0};
    if (y->n_assistant <= t) { /* whatever of it is evaluated, it is said again, at its place */
        const uint64_t head = turn_end(t) - n_answer[t] - n_prompt[t];
        FG_TRY(fg_saved_message_at(v, head, FG_MESSAGE_USER, "hello", 5, err));
        talk_wrote(k, fg_saved_sync(v, NULL, 0, &bad), &bad);
    }
    FG_TRY(talk_prompt(k, v, s, t, err));
    fg_rng rng = fg_sampler_rng(sampler);
    if (y->n_assistant <= t) {
        FG_TRY(fg_saved_message(v, FG_MESSAGE_ASSISTANT, "", 0, err));
        talk_wrote(k, fg_saved_sync(v, &rng, sizeof rng, &bad), &bad);
    }
    FG_TRY(talk_answer(k, v, s, sampler, t, err));
    rng = fg_sampler_rng(sampler);
    if (k->stop_at != 0 && fg_session_pos(s) >= k->stop_at) {
        return fg_saved_save(v, &rng, sizeof rng, err); /* as by SIGTERM */
    }
    if (t == 1) FG_TRY(fg_saved_forced(v, turn_end(t) - 9, FG_FORCED_BUDGET, 4, err));
    FG_TRY(fg_saved_note(v, FG_SAVED_END, "stop", 4, err));
    FG_TRY(fg_saved_note(v, FG_SAVED_SETTINGS, "warm", 4, err));
    talk_wrote(k, fg_saved_save(v, &rng, sizeof rng, &bad), &bad);
    return FG_OK;
}

/* Opens the session and goes on to the end. */
static inline fg_status talk_live(talk *k, fg_err *err)
{
    fg_saved *v = NULL;
    fg_sampler *sampler = NULL;
    const fg_sampler_opts so = {.size = sizeof so, .temp = 1, .top_p = 0.95, .seed = 5};
    fg_session *s = model_session(k->e, ROOM, 64);
    if (s == NULL) return FG_ENOMEM;
    k->again = k->n_failed = 0;
    k->notes[0] = '\0';
    k->o.note = talk_note;
    k->o.progress = talk_progress;
    k->o.ctx = k;
    fg_status st = fg_saved_open(&v, s, k->dir, k->name, &k->o, err);
    const talk_state y = talk_look(k);
    k->from = fg_session_pos(s);
    if (st == FG_OK) st = fg_engine_sampler(k->e, &so, &sampler, err);
    if (st == FG_OK && y.has_rng) fg_sampler_set_rng(sampler, y.rng);
    for (uint32_t t = y.n_end; t < N_TURN && st == FG_OK; t++) {
        if (k->stop_at != 0 && fg_session_pos(s) >= k->stop_at) break;
        st = talk_turn(k, v, s, sampler, &y, t, err);
    }
    k->n_id = fg_session_pos(s);
    memcpy(k->ids, fg_session_ids(s), (size_t)k->n_id * sizeof *k->ids);
    fg_sampler_destroy(&sampler);
    fg_saved_close(&v);
    fg_session_destroy(&s);
    return st;
}

#endif
