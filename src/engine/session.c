/* SPDX-License-Identifier: MIT
 *
 * Reading order: fg_session_eval_many, which makes passes of what is left; one_pass; then
 * rewinding.
 */
#include "src/engine/session.h"

#include <string.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/opts.h"
#include "src/engine/engine_impl.h"
#include "src/engine/kv.h"
#include "src/engine/memory.h"
#include "src/engine/route_log.h"
#include "src/model/mark.h"
#include "src/sys/room.h"

struct fg_session {
    fg_engine *e;
    fg_state *state;
    fg_scratch *scratch;
    uint32_t *ids;               /* [n_ctx] those of state->pos are the timeline */
    float *logits;               /* [n_vocab] of the last token */
    bool has_logits, had_logits; /* now; before the pass */
    uint64_t bytes;              /* counted in e->session_bytes */
    uint32_t n_batch;            /* usual one */
    bool grows;                  /* it may be enlarged for a long prompt */
    fg_kv_choice kv;
    bool stops;
    fg_mark undo;  /* of a pass that folds and may be stopped */
    fg_mark *mark; /* [n_mark], positions ascending */
    uint32_t n_mark, max_mark;
    fg_err lost; /* code not FG_OK: an eval failed half-way, the state is of no use */
    fg_taps taps;
    fg_observer observer;
    fg_route_log log; /* of the last pass, while somebody observes or a predictor does */
    uint64_t pass;    /* the store's number of that pass; 0: it was shared with other sessions */
    uint64_t who;     /* number of the timeline, for the predictor */
    fg_profile *profile;
    bool (*progress)(void *ctx, size_t done, size_t total);
    void *progress_ctx;
    uint64_t ask_ns; /* between two of its questions within a sub-layer, at least */
};

void fg_session_opts_init(fg_session_opts *o, size_t size)
{
    const fg_session_opts d = {.size = size, .kv = FG_KV_CHOICE_AUTO};
    fg_opts_init(o, size, &d, sizeof d);
}

fg_engine *fg_session_engine(const fg_session *s)
{
    return s->e;
}

enum {
    ASK_NS = 50000000
}; /* a keystroke's answer is felt as immediate within a tenth of a second */

void fg_session_ask_always(fg_session *s)
{
    s->ask_ns = 0;
}

static fg_status allocate(fg_session *s, uint64_t n_ctx, fg_err *err)
{
    const fg_model *m = s->e->model;
    const fg_shape *shape = m->shape;
    const uint32_t n_thread = fg_team_size(s->e->team);
    const fg_memory_opts o = {.n_ctx = n_ctx,
                              .n_batch = s->n_batch,
                              .n_thread = n_thread,
                              .kv = fg_kv_resolve(s->kv, m->quantized),
                              .stops = s->stops,
                              .place = fg_team_place(s->e->team)};
    fg_memory memory;
    FG_TRY(fg_state_create(&s->state, shape, n_ctx, o.kv, o.place, err));
    FG_TRY(fg_scratch_create(&s->scratch, m, n_ctx, s->n_batch, n_thread, err));
    FG_TRY(fg_engine_attach_state(s->e, s->state, s->scratch, err));
    if (s->stops) FG_TRY(fg_mark_reserve(&s->undo, shape, err));
    FG_TRY(fg_memory_of_session(&memory, shape, &m->forms, &o, err));
    s->logits = fg_mem_zalloc_array(shape->n_vocab, sizeof *s->logits);
    s->ids = fg_mem_zalloc_array((size_t)n_ctx, sizeof *s->ids);
    s->mark = fg_mem_zalloc_array(s->max_mark, sizeof *s->mark);
    const bool ok = s->logits != NULL && s->ids != NULL && s->mark != NULL;
    if (!ok) return fg_fail_nomem(err, "session");
    FG_TRY(fg_engine_charge(s->e, memory.session, 0, err));
    s->bytes = memory.session;
    return FG_OK;
}

fg_status fg_session_create(fg_session **out, fg_engine *e, const fg_session_opts *given,
                            fg_err *err)
{
    *out = NULL;
    fg_session_opts o = fg_session_opts_default();
    FG_TRY(fg_opts_take(&o, sizeof o, given, "session options", err));
    const fg_session_opts *opts = &o;
    if ((uint32_t)opts->kv >= FG_KV_CHOICE_COUNT) {
        return fg_fail(err, FG_EINVAL, "key-value cache: %u, expected less than %d",
                       (uint32_t)opts->kv, FG_KV_CHOICE_COUNT);
    }
    fg_session *s = fg_mem_zalloc(sizeof *s);
    if (s == NULL) return fg_fail_nomem(err, "session");
    const uint64_t room = e->model->shape->n_ctx_max, most = room < 4096 ? room : 4096;
    s->e = e;
    s->who = ++e->n_timeline;
    s->kv = opts->kv;
    s->stops = opts->stops;
    s->ask_ns = ASK_NS;
    s->grows = opts->n_batch == 0;
    s->n_batch = s->grows ? FG_SESSION_BATCH : opts->n_batch;
    s->max_mark = opts->n_mark == 0 ? FG_SESSION_MARKS : opts->n_mark;
    const fg_status st = allocate(s, opts->n_ctx == 0 ? most : opts->n_ctx, err);
    if (st != FG_OK) {
        fg_session_destroy(&s);
        return st;
    }
    *out = s;
    return FG_OK;
}

/* Gives up the newest marks until n are left. */
static void drop_marks(fg_session *s, uint32_t n)
{
    while (s->n_mark > n) {
        fg_mark *m = &s->mark[--s->n_mark];
        (void)fg_engine_charge(s->e, 0, m->bytes, NULL); /* less always fits */
        s->bytes -= m->bytes;
        fg_mark_fini(m);
    }
}

void fg_session_destroy(fg_session **out)
{
    fg_session *s = *out;
    if (s == NULL) return;
    drop_marks(s, 0);
    (void)fg_engine_charge(s->e, 0, s->bytes, NULL);
    fg_mark_fini(&s->undo);
    fg_route_log_fini(&s->log);
    fg_mem_free(s->mark);
    fg_mem_free(s->ids);
    fg_mem_free(s->logits);
    fg_scratch_destroy(&s->scratch);
    fg_state_destroy(&s->state);
    fg_mem_free(s);
    *out = NULL;
}

uint64_t fg_session_pos(const fg_session *s)
{
    return s->state->pos;
}

uint64_t fg_session_bytes(const fg_session *s)
{
    return s->bytes;
}

uint64_t fg_session_n_ctx(const fg_session *s)
{
    return s->state->n_ctx;
}

const uint32_t *fg_session_ids(const fg_session *s)
{
    return s->ids;
}

const float *fg_session_logits(const fg_session *s)
{
    return s->has_logits ? s->logits : NULL;
}

void fg_session_set_progress(fg_session *s, bool (*fn)(void *ctx, size_t done, size_t total),
                             void *ctx)
{
    s->progress = fn;
    s->progress_ctx = ctx;
}

void fg_session_set_taps(fg_session *s, const fg_taps *taps)
{
    s->taps = taps == NULL ? (fg_taps){0} : *taps;
}

void fg_session_set_observer(fg_session *s, const fg_observer *o)
{
    fg_session_flush(s);
    s->observer = o == NULL ? (fg_observer){0} : *o;
}

void fg_session_set_profile(fg_session *s, fg_profile *profile)
{
    s->profile = profile;
}

/* ---- observers ---- */

void fg_session_flush(fg_session *s)
{
    const fg_route_log *g = &s->log;
    for (uint32_t l = 0; s->observer.routed != NULL && g->n > 0 && l < g->n_layer; l++) {
        const size_t row = (size_t)l * g->n_row * g->n_used;
        s->observer.routed(s->observer.ctx, l, g->pos, g->n, g->sel + row, g->weight + row);
    }
    if (g->n > 0) s->log.told = g->pos + g->n;
    s->log.n = 0;
}

/* Whether rows that go are to be forgotten by somebody. */
static bool logs(const fg_session *s)
{
    return s->observer.routed != NULL || s->e->store != NULL;
}

static void on_hidden(void *ctx, int32_t layer, uint64_t pos, uint64_t n_tok, const float *x,
                      size_t stride)
{
    const fg_session *s = ctx;
    s->taps.hidden(s->taps.ctx, layer, pos, n_tok, x, stride);
}

static void on_experts(void *ctx, uint32_t layer, uint64_t pos, uint64_t n_tok, const uint32_t *sel,
                       const float *weights)
{
    fg_session *s = ctx;
    if (logs(s)) fg_route_log_put(&s->log, layer, sel, weights);
    if (s->taps.experts != NULL) s->taps.experts(s->taps.ctx, layer, pos, n_tok, sel, weights);
}

static void on_guesses(void *ctx, uint32_t layer, uint64_t pos, const fg_guess *guess)
{
    const fg_session *s = ctx;
    s->taps.guesses(s->taps.ctx, layer, pos, guess);
}

static fg_taps taps_of(fg_session *s)
{
    return (fg_taps){
        .hidden = s->taps.hidden == NULL ? NULL : on_hidden,
        .experts = s->taps.experts == NULL && !logs(s) ? NULL : on_experts,
        .guesses = s->taps.guesses == NULL ? NULL : on_guesses,
        .ctx = s,
    };
}

/* ---- size of the batch ---- */

/* Of n_item sessions that are evaluated together.  What a mapped file has of the free memory, as
 * the page cache, is not free for this. */
static uint32_t long_batch(const fg_session *s, uint64_t n, size_t n_item)
{
    const fg_model *m = s->e->model;
    fg_device *d = s->state->device;
    const fg_memory_opts o = {.n_ctx = s->state->n_ctx,
                              .n_batch = s->scratch->n_batch,
                              .n_long = d == NULL ? 0 : d->ops->most_rows(d),
                              .n_thread = fg_team_size(s->e->team)};
    const fg_home home = fg_engine_home(s->e);
    const bool mapped = home.store == NULL && home.copy == NULL;
    const uint64_t file = mapped ? fg_model_file_size(fg_engine_file(s->e)) : 0;
    const uint64_t bound = fg_engine_spare(s->e), free_bytes = fg_room_share(UINT64_MAX, 1);
    const uint64_t room = free_bytes > file ? (free_bytes - file) / FG_MEMORY_SPARE_SHARE : 0;
    return fg_memory_batch(m->shape, &m->forms, &o, n, (bound < room ? bound : room) / n_item);
}

/* Batch that reads the fewest experts for n tokens.  Each batch is taken to read what is not in
 * memory; a larger one has fewer of them, but its scratch takes slots. */
static uint32_t best_batch(const fg_session *s, uint64_t n, size_t n_item)
{
    const uint32_t base = s->scratch->n_batch;
    fg_device *d = s->state->device;
    const fg_store_stats *st = fg_engine_store_stats(s->e);
    if (!s->grows || n <= base) return base;
    if (st == NULL || st->n_slot == st->n_total) return long_batch(s, n, n_item);
    const fg_model *m = s->e->model;
    const fg_shape *shape = m->shape;
    const uint64_t least = fg_cache_min_slots(shape->n_layer, shape->n_expert, shape->n_used);
    uint64_t best_reads = (n + base - 1) / base * (st->n_total - st->n_slot);
    uint32_t best = base;
    for (uint64_t k = (n + FG_BATCH_MAX - 1) / FG_BATCH_MAX; (n + k - 1) / k > base; k++) {
        const uint32_t batch = (uint32_t)((n + k - 1) / k);
        if (d != NULL && batch > d->ops->most_rows(d)) continue;
        const uint64_t more =
            fg_scratch_bytes(shape, &m->forms, s->state->n_ctx, batch, fg_team_size(s->e->team)) -
            s->scratch->bytes;
        const uint64_t lost = (more + st->slot_bytes - 1) / st->slot_bytes;
        const uint64_t reads = k * (st->n_total - st->n_slot + lost);
        if (lost + least > st->n_slot || reads >= best_reads) continue;
        best = batch;
        best_reads = reads;
    }
    return best;
}

/* Another batch, with memory from or for the slots.  On failure nothing has changed. */
static fg_status resize_batch(fg_session *s, uint32_t n_batch, fg_err *err)
{
    fg_scratch *other;
    fg_engine *e = s->e;
    if (n_batch == s->scratch->n_batch) return FG_OK;
    FG_TRY(
        fg_scratch_create(&other, e->model, s->state->n_ctx, n_batch, fg_team_size(e->team), err));
    const fg_status st = fg_engine_charge(e, other->bytes, s->scratch->bytes, err);
    if (st != FG_OK) {
        fg_scratch_destroy(&other);
        return st;
    }
    s->bytes = s->bytes + other->bytes - s->scratch->bytes;
    fg_scratch_destroy(&s->scratch);
    s->scratch = other;
    return FG_OK;
}

/* ---- evaluation ---- */

static fg_status check_item(const fg_eval_item *it, const fg_engine *e, fg_err *err)
{
    const fg_session *s = it->session;
    const uint32_t n_vocab = e->model->shape->n_vocab;
    const uint64_t room = s->state->n_ctx - s->state->pos;
    if (s->e != e) return fg_fail(err, FG_EINVAL, "session: of another engine, expected the same");
    if (s->lost.code != FG_OK) {
        if (err != NULL) *err = s->lost;
        return s->lost.code;
    }
    if (it->n == 0) return fg_fail(err, FG_EINVAL, "tokens: none, expected at least one");
    if (it->n > room) {
        return fg_fail(err, FG_ELIMIT,
                       "context: %llu tokens after %llu, expected at most %llu in all; "
                       "raise it with -c",
                       (unsigned long long)it->n, (unsigned long long)s->state->pos,
                       (unsigned long long)s->state->n_ctx);
    }
    for (size_t i = 0; i < it->n; i++) {
        if (it->ids[i] >= n_vocab) {
            return fg_fail(err, FG_EINVAL, "token %zu: id %u, expected less than %u", i, it->ids[i],
                           n_vocab);
        }
    }
    return FG_OK;
}

static fg_status check_items(const fg_eval_item *items, size_t n, fg_err *err)
{
    if (n == 0) return fg_fail(err, FG_EINVAL, "sessions: none, expected at least one");
    for (size_t i = 0; i < n; i++) {
        FG_TRY(check_item(&items[i], items[0].session->e, err));
        for (size_t k = 0; k < i; k++) {
            if (items[k].session != items[i].session) continue;
            return fg_fail(err, FG_EINVAL, "session %zu: given twice, expected once", i);
        }
    }
    return FG_OK;
}

/* Keeps the last token's logits, and passes all of them on when somebody listens. */
typedef struct logits_sink {
    const fg_eval_item *item;
    uint64_t last;
} logits_sink;

/* What is kept for each item, and for each sequence of a pass. */
typedef struct part {
    size_t done; /* tokens of the item that are in */
    logits_sink sink;
    size_t owner; /* item of the sequence */
    fg_taps taps; /* of the sequence */
} part;

/* A call of fg_session_eval_many. */
typedef struct work {
    const fg_eval_item *item; /* [n] */
    size_t n;
    size_t total, in; /* tokens of all items; those that are in */
    part *part;       /* [n] */
    fg_seq *seq;      /* [n] of the pass */
    uint32_t *ids;    /* [n_batch] rows of several items; NULL for one item */
    uint32_t n_seq, n_row;
    fg_session *lead; /* whose scratch and progress are used */
} work;

static void take_logits(void *ctx, uint64_t pos, const float *logits)
{
    const logits_sink *k = ctx;
    fg_session *s = k->item->session;
    if (k->item->on_logits != NULL) k->item->on_logits(k->item->ctx, pos, logits);
    if (pos != k->last) return;
    memcpy(s->logits, logits, s->e->model->shape->n_vocab * sizeof(float));
    s->has_logits = true;
}

static bool ask(const work *k, size_t done)
{
    const fg_session *s = k->lead;
    return s->progress == NULL || s->progress(s->progress_ctx, done, k->total);
}

/* Between layers: the pass's tokens count as far as its layers are through. */
static bool go_on(void *ctx, uint32_t layer)
{
    const work *k = ctx;
    return ask(k, k->in + (size_t)k->n_row * layer / k->lead->e->model->shape->n_layer);
}

/* Rows of the next pass: what is left, shared out evenly when it is too much. */
static void plan_pass(work *k)
{
    k->n_seq = k->n_row = 0;
    uint32_t left = 0; /* items */
    k->lead = NULL;
    for (size_t i = 0; i < k->n; i++) {
        if (k->part[i].done == k->item[i].n) continue;
        if (k->lead == NULL) k->lead = k->item[i].session;
        left++;
    }
    uint32_t room = k->lead->scratch->n_batch;
    for (size_t i = 0; i < k->n && room > 0; i++) {
        const fg_eval_item *it = &k->item[i];
        const size_t rest = it->n - k->part[i].done;
        if (rest == 0) continue;
        const uint32_t share = room / left > 0 ? room / left : 1;
        const uint32_t n = rest < share ? (uint32_t)rest : share;
        const bool ends = n == rest;
        k->part[i].sink = (logits_sink){it, it->session->state->pos + rest - 1};
        k->part[k->n_seq].taps = taps_of(it->session);
        k->part[k->n_seq].owner = i;
        k->seq[k->n_seq] = (fg_seq){.st = it->session->state,
                                    .first = k->n_row,
                                    .n = n,
                                    .logits_from = it->on_logits != NULL ? 0
                                                   : ends                ? n - 1
                                                                         : n,
                                    .on_logits = take_logits,
                                    .on_logits_ctx = &k->part[i].sink,
                                    .taps = &k->part[k->n_seq].taps};
        if (k->ids != NULL) {
            memcpy(k->ids + k->n_row, it->ids + k->part[i].done, n * sizeof *k->ids);
        }
        k->n_seq++;
        k->n_row += n;
        room -= n;
        left--;
    }
}

/* Readies a session for n rows; false: the pass must not be stopped. */
static bool prepare(fg_session *s, uint32_t n, bool stops)
{
    fg_session_flush(s);
    s->had_logits = s->has_logits;
    s->has_logits = false;
    if (logs(s) &&
        fg_route_log_begin(&s->log, s->e->model->shape, s->state->pos, n, NULL) != FG_OK) {
        s->log.n = 0; /* without memory the observer misses this pass */
    }
    if (!stops || !s->stops) return false;
    if (!fg_forward_folds(s->state, n)) return true;
    return fg_mark_take(&s->undo, s->e->team, s->e->model, s->state, NULL) == FG_OK;
}

static void undo(fg_session *s, uint32_t n)
{
    s->log.n = 0;
    s->has_logits = s->had_logits;
    if (fg_forward_folds(s->state, n)) {
        fg_mark_restore(&s->undo, s->e->team, s->e->model, s->state);
    }
    if (s->e->store != NULL) fg_store_forget(s->e->store, s->who, s->state->pos);
}

/* The predictor is told which tokens come, when they are those of one timeline. */
static void tell_store(const work *k, const uint32_t *ids)
{
    const fg_session *s = k->item[k->part[0].owner].session;
    if (s->e->store == NULL) return;
    fg_store_begin_pass(s->e->store, s->who, s->state->pos, k->n_seq > 1 ? NULL : ids, k->n_row);
}

static fg_status one_pass(work *k, fg_err *err)
{
    fg_engine *e = k->lead->e;
    bool stops = k->lead->progress != NULL && k->n_row > FG_FEW_TOKENS;
    for (uint32_t i = 0; i < k->n_seq; i++) {
        stops = prepare(k->item[k->part[i].owner].session, k->seq[i].n, stops) && stops;
    }
    fg_err failed = {0};
    fg_batch b = {
        .m = e->model,
        .s = k->lead->scratch,
        .seq = k->seq,
        .n_seq = k->n_seq,
        .ids = k->ids != NULL ? k->ids : k->item[0].ids + k->part[0].done,
        .n_tok = k->n_row,
        .device = e->device,
        .profile = k->lead->profile,
        .go_on = stops ? go_on : NULL,
        .go_on_ctx = k,
        .ask_ns = k->lead->ask_ns,
    };
    for (uint32_t i = 0; i < k->n_seq; i++) {
        if (k->seq[i].st->device == NULL) b.device = NULL;
    }
    FG_LOG(2, "pass: %u rows of %u sequences%s", k->n_row, k->n_seq, stops ? ", may stop" : "");
    const uint64_t pass = e->store == NULL ? 0 : fg_store_pass(e->store);
    tell_store(k, b.ids);
    const fg_status st = fg_forward(e->team, &b, &failed);
    /* a pass that was stopped before it hinted has nothing to forget */
    if (st == FG_ECANCEL && e->store != NULL && fg_store_pass(e->store) != pass) {
        fg_store_rewind(e->store, pass + 1, NULL, 0, 0);
    }
    for (uint32_t i = 0; i < k->n_seq; i++) {
        const size_t at = k->part[i].owner;
        fg_session *s = k->item[at].session;
        const uint32_t n = k->seq[i].n;
        if (st == FG_ECANCEL) {
            undo(s, n);
        } else if (st != FG_OK) {
            s->lost = failed;
        } else {
            memcpy(s->ids + s->state->pos - n, k->item[at].ids + k->part[at].done,
                   n * sizeof *s->ids);
            k->part[at].done += n;
            s->pass = e->store == NULL || k->n_seq > 1 ? 0 : fg_store_pass(e->store);
        }
    }
    if (st == FG_ECANCEL) {
        return fg_fail(err, FG_ECANCEL, "evaluation: cancelled after %zu tokens, expected %zu",
                       k->in, k->total);
    }
    if (st != FG_OK && err != NULL) *err = failed;
    k->in += k->n_row;
    return st;
}

static fg_status run_passes(work *k, fg_err *err)
{
    while (k->in < k->total) {
        plan_pass(k);
        if (!ask(k, k->in)) {
            return fg_fail(err, FG_ECANCEL, "evaluation: cancelled after %zu tokens, expected %zu",
                           k->in, k->total);
        }
        FG_TRY(one_pass(k, err));
    }
    (void)ask(k, k->total);
    return FG_OK;
}

fg_status fg_session_eval_many(const fg_eval_item *items, size_t n, fg_err *err)
{
    FG_TRY(check_items(items, n, err));
    part one_part = {0}; /* a single session's calls allocate nothing */
    fg_seq one_seq;
    work k = {.item = items, .n = n, .part = &one_part, .seq = &one_seq};
    uint32_t most = 0; /* rows of a pass */
    for (size_t i = 0; i < n; i++) {
        fg_session *s = items[i].session;
        k.total += items[i].n;
        (void)resize_batch(s, best_batch(s, items[i].n, n), NULL); /* without it, more is read */
        if (s->scratch->n_batch > most) most = s->scratch->n_batch;
    }
    if (n > 1) {
        k.part = fg_mem_zalloc_array(n, sizeof *k.part);
        k.seq = fg_mem_zalloc_array(n, sizeof *k.seq);
        k.ids = fg_mem_zalloc_array(most, sizeof *k.ids);
    }
    const bool ok = n == 1 || (k.part != NULL && k.seq != NULL && k.ids != NULL);
    const fg_status st = ok ? run_passes(&k, err) : fg_fail_nomem(err, "evaluation");
    if (n > 1) {
        fg_mem_free(k.part);
        fg_mem_free(k.seq);
        fg_mem_free(k.ids);
    }
    for (size_t i = 0; i < n; i++) { /* fails for want of memory only: it stays large */
        (void)resize_batch(items[i].session, items[i].session->n_batch, NULL);
    }
    return st;
}

fg_status fg_session_eval(fg_session *s, const uint32_t *ids, size_t n,
                          fg_session_logits_fn *on_logits, void *ctx, fg_err *err)
{
    const fg_eval_item item = {s, ids, n, on_logits, ctx};
    return fg_session_eval_many(&item, 1, err);
}

/* ---- the timeline ---- */

/* The session is at `pos` now, wherever it was: what is later is forgotten. */
static void forget(fg_session *s, uint64_t pos)
{
    uint32_t n = 0;
    while (n < s->n_mark && s->mark[n].pos <= pos) n++;
    drop_marks(s, n);
    s->has_logits = false;
    const fg_route_log *g = &s->log;
    if (s->e->store != NULL) fg_store_forget(s->e->store, s->who, pos);
    if (s->pass != 0 && pos >= g->pos && pos < g->pos + g->n) {
        fg_store_rewind(s->e->store, s->pass, g->sel, g->n_row, (uint32_t)(pos - g->pos));
    }
    if (fg_route_log_cut(&s->log, pos) && s->observer.rewound != NULL) {
        s->observer.rewound(s->observer.ctx, pos);
    }
}

void fg_session_reset(fg_session *s)
{
    s->lost.code = FG_OK;
    fg_state_reset(s->state);
    forget(s, 0);
}

fg_status fg_session_rewind(fg_session *s, uint64_t pos, uint64_t *at, fg_err *err)
{
    const uint64_t now = s->state->pos;
    if (pos > now) {
        return fg_fail(err, FG_EINVAL, "rewind: position %llu, expected at most %llu",
                       (unsigned long long)pos, (unsigned long long)now);
    }
    if (s->lost.code != FG_OK || !fg_state_rewind(s->state, pos)) {
        uint32_t n = s->n_mark;
        while (n > 0 && s->mark[n - 1].pos > pos) n--;
        if (n == 0) {
            fg_state_reset(s->state);
        } else {
            fg_mark_restore(&s->mark[n - 1], s->e->team, s->e->model, s->state);
        }
        s->lost.code = FG_OK;
    }
    *at = s->state->pos;
    if (*at < now) forget(s, *at);
    return FG_OK;
}

void fg_session_set_logits(fg_session *s, const float *logits)
{
    memcpy(s->logits, logits, s->e->model->shape->n_vocab * sizeof *logits);
    s->has_logits = true;
}

uint64_t fg_session_reach(const fg_session *s, uint64_t pos)
{
    uint32_t n = s->n_mark;
    if (s->lost.code == FG_OK && pos >= s->state->folded && pos <= s->state->pos) return pos;
    while (n > 0 && s->mark[n - 1].pos > pos) n--;
    return n == 0 ? 0 : s->mark[n - 1].pos;
}

fg_status fg_session_state(fg_session *s, fg_state **out, fg_err *err)
{
    *out = s->state;
    if (s->lost.code != FG_OK && err != NULL) *err = s->lost;
    return s->lost.code;
}

void fg_session_put(fg_session *s, const uint32_t *ids, uint64_t pos, uint64_t from)
{
    s->lost.code = FG_OK;
    if (ids != s->ids) memcpy(s->ids, ids, (size_t)pos * sizeof *ids);
    s->state->pos = pos;
    s->state->folded = pos - pos % FG_LIGHT_CHUNK;
    fg_state_wrote(s->state, from);
    forget(s, pos);
}

void fg_session_lose(fg_session *s, const fg_err *why)
{
    s->lost = *why;
    s->has_logits = false;
}

/* The mark whose absence is felt least when there is one at pos too: the distance between its
 * neighbours, as a share of how far back it is.  Distances thereby double on the way back. */
static uint32_t dispensable(const fg_session *s, uint64_t pos)
{
    uint32_t best = 0;
    double least = 0;
    for (uint32_t i = 0; i < s->n_mark; i++) {
        const uint64_t before = i == 0 ? 0 : s->mark[i - 1].pos;
        const uint64_t after = i + 1 < s->n_mark ? s->mark[i + 1].pos : pos;
        const double felt = (double)(after - before) / (double)(pos - s->mark[i].pos + 1);
        if (i > 0 && felt >= least) continue;
        best = i;
        least = felt;
    }
    return best;
}

fg_status fg_session_mark(fg_session *s, fg_err *err)
{
    const uint64_t pos = s->state->pos, bytes = fg_mark_bytes(s->e->model->shape, pos);
    if (s->lost.code != FG_OK) {
        if (err != NULL) *err = s->lost;
        return s->lost.code;
    }
    if (s->n_mark > 0 && s->mark[s->n_mark - 1].pos == pos) return FG_OK;
    if (s->n_mark == s->max_mark) {
        const uint32_t i = dispensable(s, pos);
        const fg_mark gone = s->mark[i];
        memmove(s->mark + i, s->mark + i + 1, (s->n_mark - 1 - i) * sizeof *s->mark);
        s->mark[s->n_mark - 1] = gone;
        drop_marks(s, s->n_mark - 1);
    }
    FG_TRY(fg_engine_charge(s->e, bytes, 0, err));
    fg_mark *m = &s->mark[s->n_mark];
    *m = (fg_mark){0};
    const fg_status st = fg_mark_take(m, s->e->team, s->e->model, s->state, err);
    if (st != FG_OK) {
        (void)fg_engine_charge(s->e, 0, bytes, NULL);
        return st;
    }
    s->n_mark++;
    s->bytes += bytes;
    return FG_OK;
}

fg_status fg_session_sync(fg_session *s, const uint32_t *ids, size_t n, size_t *kept, fg_err *err)
{
    uint64_t same = 0, at;
    const uint64_t pos = s->state->pos;
    if (kept != NULL) *kept = 0;
    if (n == 0) return fg_fail(err, FG_EINVAL, "tokens: none, expected at least one");
    while (same < n && same < pos && ids[same] == s->ids[same]) same++;
    if (same == n && (pos > n || !s->has_logits))
        same = n - 1; /* the last one's logits are wanted */
    FG_TRY(fg_session_rewind(s, same, &at, err));
    if (kept != NULL) *kept = (size_t)at;
    return at == n ? FG_OK : fg_session_eval(s, ids + at, n - (size_t)at, NULL, NULL, err);
}

fg_status fg_session_fork(fg_session **out, const fg_session *s, fg_err *err)
{
    return fg_session_fork_into(out, s, s->state->n_ctx, err);
}

fg_status fg_session_fork_into(fg_session **out, const fg_session *s, uint64_t n_ctx, fg_err *err)
{
    *out = NULL;
    if (n_ctx < s->state->pos) {
        return fg_fail(err, FG_EINVAL, "context: %llu positions, expected at least the %llu in use",
                       (unsigned long long)n_ctx, (unsigned long long)s->state->pos);
    }
    if (s->lost.code != FG_OK) {
        if (err != NULL) *err = s->lost;
        return s->lost.code;
    }
    fg_session *f;
    fg_mark mark = {0};
    const fg_model *m = s->e->model;
    const uint64_t pos = s->state->pos;
    const fg_session_opts o = {.size = sizeof o,
                               .n_ctx = n_ctx,
                               .n_batch = s->grows ? 0 : s->n_batch,
                               .kv = s->kv,
                               .n_mark = s->max_mark,
                               .stops = s->stops};
    FG_TRY(fg_session_create(&f, s->e, &o, err));
    const fg_status st = fg_mark_take(&mark, s->e->team, m, s->state, err);
    if (st == FG_OK) {
        fg_mark_restore(&mark, s->e->team, m, f->state);
        fg_state_copy_cache(f->state, s->state, m->shape, pos);
        memcpy(f->ids, s->ids, (size_t)pos * sizeof *f->ids);
        memcpy(f->logits, s->logits, m->shape->n_vocab * sizeof *f->logits);
        f->has_logits = s->has_logits;
        *out = f;
    } else {
        fg_session_destroy(&f);
    }
    fg_mark_fini(&mark);
    return st;
}
