/* SPDX-License-Identifier: MIT
 *
 * One walk over the trace for each question.
 */
#include "src/eval/replay.h"

#include <string.h>

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/expert/hot.h"

/* Rooms that every walk needs. */
typedef struct walk {
    const fg_trace *t;
    const fg_trace_head *h;
    fg_trace_pass pass;
    uint32_t *sel; /* [most tokens][n_used] */
    uint32_t *id;  /* [most tokens] */
    uint32_t *ids; /* [n_expert] the layer's experts, ascending */
    bool *in;      /* [n_expert] */
} walk;

static void walk_fini(walk *w)
{
    fg_mem_free(w->sel);
    fg_mem_free(w->id);
    fg_mem_free(w->ids);
    fg_mem_free(w->in);
}

static fg_status walk_init(walk *w, const fg_trace *t, fg_err *err)
{
    const fg_trace_head *h = fg_trace_get_head(t);
    *w = (walk){.t = t, .h = h};
    w->sel = fg_mem_zalloc_array((size_t)fg_trace_most_tok(t) * h->n_used, sizeof *w->sel);
    w->id = fg_mem_zalloc_array(fg_trace_most_tok(t), sizeof *w->id);
    w->ids = fg_mem_zalloc_array(h->n_expert, sizeof *w->ids);
    w->in = fg_mem_zalloc_array(h->n_expert, sizeof *w->in);
    if (w->sel != NULL && w->id != NULL && w->ids != NULL && w->in != NULL) return FG_OK;
    walk_fini(w);
    return fg_fail_nomem(err, "replay");
}

/* Reads a layer of the pass: sel, and the experts in it, ascending; returns how many. */
static uint32_t walk_layer(walk *w, uint32_t layer)
{
    uint32_t n = 0;
    fg_trace_sel(w->t, &w->pass, layer, w->sel);
    memset(w->in, 0, w->h->n_expert * sizeof *w->in);
    for (uint64_t i = 0; i < (uint64_t)w->pass.n_tok * w->h->n_used; i++) w->in[w->sel[i]] = true;
    for (uint32_t e = 0; e < w->h->n_expert; e++) {
        if (w->in[e]) w->ids[n++] = e;
    }
    return n;
}

/* ---- the future ---- */

#define NEVER UINT32_MAX

struct fg_future {
    uint32_t n_layer, n_expert;
    uint32_t *after; /* [n] pass in which the i-th request's expert is requested again */
    uint64_t n;
    uint32_t *first; /* [n_layer * n_expert] pass of the first request */
    /* of the running replay */
    uint32_t *next; /* [n_layer * n_expert] pass of the next request after the running layer */
    uint64_t i;     /* requests so far */
};

static uint64_t count_requests(walk *w)
{
    uint64_t n = 0;
    for (w->pass = (fg_trace_pass){0}; fg_trace_next(w->t, &w->pass);) {
        for (uint32_t l = 0; l < w->h->n_layer; l++) n += walk_layer(w, l);
    }
    return n;
}

static fg_status fill_future(fg_future *f, walk *w, fg_err *err)
{
    const size_t n_key = (size_t)f->n_layer * f->n_expert;
    f->n = count_requests(w);
    f->after = fg_mem_zalloc_array((size_t)f->n, sizeof *f->after);
    f->first = fg_mem_zalloc_array(n_key, sizeof *f->first);
    f->next = fg_mem_zalloc_array(n_key, sizeof *f->next);
    uint64_t *last = fg_mem_zalloc_array(n_key, sizeof *last); /* 1 + the last request; 0: none */
    if (f->after == NULL || f->first == NULL || f->next == NULL || last == NULL) {
        fg_mem_free(last);
        return fg_fail_nomem(err, "replay");
    }
    for (size_t k = 0; k < n_key; k++) f->first[k] = NEVER;
    uint32_t pass = 0;
    uint64_t i = 0;
    for (w->pass = (fg_trace_pass){0}; fg_trace_next(w->t, &w->pass); pass++) {
        for (uint32_t l = 0; l < f->n_layer; l++) {
            const uint32_t n = walk_layer(w, l);
            for (uint32_t k = 0; k < n; k++, i++) {
                const size_t key = (size_t)l * f->n_expert + w->ids[k];
                *(last[key] == 0 ? &f->first[key] : &f->after[last[key] - 1]) = pass;
                f->after[i] = NEVER;
                last[key] = i + 1;
            }
        }
    }
    fg_mem_free(last);
    return FG_OK;
}

fg_status fg_future_create(fg_future **out, const fg_trace *t, fg_err *err)
{
    *out = NULL;
    const fg_trace_head *h = fg_trace_get_head(t);
    if (h->n_pass >= NEVER) {
        return fg_fail(err, FG_ELIMIT, "replay: %llu passes, expected fewer than 2^32 - 1",
                       (unsigned long long)h->n_pass);
    }
    walk w;
    FG_TRY(walk_init(&w, t, err));
    fg_future *f = fg_mem_zalloc(sizeof *f);
    fg_status st = f == NULL ? fg_fail_nomem(err, "replay") : FG_OK;
    if (st == FG_OK) {
        f->n_layer = h->n_layer;
        f->n_expert = h->n_expert;
        st = fill_future(f, &w, err);
    }
    walk_fini(&w);
    if (st != FG_OK) {
        fg_future_destroy(&f);
        return st;
    }
    *out = f;
    return FG_OK;
}

void fg_future_destroy(fg_future **f)
{
    if (*f == NULL) return;
    fg_mem_free((*f)->after);
    fg_mem_free((*f)->first);
    fg_mem_free((*f)->next);
    fg_mem_free(*f);
    *f = NULL;
}

static void future_reset(fg_future *f)
{
    memcpy(f->next, f->first, (size_t)f->n_layer * f->n_expert * sizeof *f->next);
    f->i = 0;
}

/* A layer's requests are about to be made.  That they count as made already changes nothing: the
 * directory requests those that are present before it evicts for the others. */
static void future_pass(fg_future *f, uint32_t layer, const uint32_t *ids, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++)
        f->next[(size_t)layer * f->n_expert + ids[k]] = f->after[f->i++];
}

static uint64_t next_use(void *ctx, uint32_t layer, uint32_t expert)
{
    const fg_future *f = ctx;
    const uint32_t pass = f->next[(size_t)layer * f->n_expert + expert];
    return pass == NEVER ? UINT64_MAX : (uint64_t)pass * f->n_layer + layer;
}

/* ---- replay ---- */

/* As moe_streamed of src/model/moe.c. */
static void run_layer(walk *w, fg_cache *c, fg_predictor *p, fg_future *f, uint32_t layer)
{
    fg_cache_load hints[FG_PREDICT_HINTS];
    const fg_cache_load *loads;
    const uint32_t n_id = walk_layer(w, layer);
    uint32_t done = 0, n, n_load;
    if (f != NULL) future_pass(f, layer, w->ids, n_id);
    fg_cache_begin(c, layer, w->ids, n_id);
    while ((n = fg_cache_next(c, &loads, &n_load)) > 0) {
        done += n;
        if (done < n_id) continue;
        fg_guess guess;
        const bool has = fg_trace_guess_of(w->t, &w->pass, layer, &guess);
        (void)fg_predictor_hints(p, c, layer, w->sel, w->pass.n_tok, has ? &guess : NULL, hints);
    }
    fg_cache_end(c);
}

/* What the live session did before this pass: rows undone, tokens named. */
static void begin_pass(walk *w, fg_cache *c, fg_predictor *p, fg_trace_pass *last, uint32_t *sel)
{
    fg_cache_load hints[FG_PREDICT_HINTS];
    const fg_trace_head *h = w->h;
    const uint64_t pos = w->pass.pos;
    if (pos < last->pos + last->n_tok) {
        fg_predictor_forget(p, 0, pos);
        if (pos >= last->pos) {
            for (uint32_t l = 0; l < h->n_layer; l++) {
                fg_trace_sel(w->t, last, l, sel + (size_t)l * last->n_tok * h->n_used);
            }
            fg_predictor_rewind(p, sel, last->n_tok, (uint32_t)(pos - last->pos));
        }
    }
    const uint32_t *ids = fg_trace_ids(w->t, &w->pass, w->id) ? w->id : NULL;
    (void)fg_predictor_begin(p, c, 0, pos, ids, w->pass.n_tok, hints);
    *last = w->pass;
}

static fg_status run_passes(walk *w, fg_cache *c, fg_predictor *p, const fg_replay_opts *o,
                            fg_err *err)
{
    fg_future *f = o->policy == FG_POLICY_OPTIMAL ? o->future : NULL;
    uint64_t done = 0;
    fg_trace_pass last = {0};
    uint32_t *sel = fg_mem_zalloc_array((size_t)w->h->n_layer * fg_trace_most_tok(w->t),
                                        w->h->n_used * sizeof *sel);
    if (sel == NULL) return fg_fail_nomem(err, "replay");
    if (f != NULL) future_reset(f);
    fg_status st = FG_OK;
    while (st == FG_OK && fg_trace_next(w->t, &w->pass)) {
        if (done < o->from) {
            done++;
            continue;
        }
        fg_predictor_set_on(p, !o->as_recorded || w->pass.predict_on);
        begin_pass(w, c, p, &last, sel);
        for (uint32_t l = 0; l < w->h->n_layer; l++) run_layer(w, c, p, f, l);
        if (o->progress != NULL && !o->progress(o->ctx, ++done, w->h->n_pass)) {
            st = fg_fail(err, FG_ECANCEL, "replay: cancelled after %llu passes, expected %llu",
                         (unsigned long long)done, (unsigned long long)w->h->n_pass);
        }
    }
    fg_mem_free(sel);
    return st;
}

fg_status fg_replay_run(const fg_trace *t, const fg_replay_opts *o, fg_cache_stats *out,
                        fg_err *err)
{
    const fg_trace_head *h = fg_trace_get_head(t);
    const fg_cache_opts co = {.n_layer = h->n_layer,
                              .n_expert = h->n_expert,
                              .n_used = h->n_used,
                              .n_slot = o->n_slot,
                              .policy = o->policy,
                              .heat = o->heat,
                              .hinted = o->predict != FG_PREDICT_NONE,
                              .next_use = o->future == NULL ? NULL : next_use,
                              .next_use_ctx = o->future};
    const fg_predict_opts po = {.kind = o->predict,
                                .n_layer = h->n_layer,
                                .n_expert = h->n_expert,
                                .n_used = h->n_used,
                                .ahead = o->ahead,
                                .model = o->model,
                                .n_vocab = h->n_vocab,
                                .without = o->without};
    fg_cache *c = NULL;
    fg_predictor *p = NULL;
    walk w;
    FG_TRY(walk_init(&w, t, err));
    fg_status st = fg_cache_create(&c, &co, err);
    if (st == FG_OK) st = fg_predictor_create(&p, &po, err);
    if (st == FG_OK) st = run_passes(&w, c, p, o, err);
    if (st == FG_OK) *out = fg_cache_get_stats(c);
    fg_predictor_destroy(&p);
    fg_cache_destroy(&c);
    walk_fini(&w);
    return st;
}

fg_status fg_replay_heat(const fg_trace *t, uint64_t from, uint64_t to, uint64_t *heat, fg_err *err)
{
    walk w;
    FG_TRY(walk_init(&w, t, err));
    for (uint64_t i = 0; i < to && fg_trace_next(t, &w.pass); i++) {
        for (uint32_t l = 0; i >= from && l < w.h->n_layer; l++) {
            fg_trace_sel(t, &w.pass, l, w.sel);
            for (uint64_t k = 0; k < (uint64_t)w.pass.n_tok * w.h->n_used; k++) {
                heat[(uint64_t)l * w.h->n_expert + w.sel[k]]++;
            }
        }
    }
    walk_fini(&w);
    return FG_OK;
}

/* ---- a card ---- */

enum { MOVE_PASSES = 3 };

/* Counts as of the heat map, and its n_resident hottest on the card. */
static void place_hottest(fg_hot *h, const walk *w, const uint64_t *heat, uint64_t n_resident)
{
    double all = 0.0;
    for (size_t i = 0; i < h->n; i++) all += (double)heat[i];
    const double n_tok = all / (double)(w->h->n_layer * w->h->n_used);
    for (size_t i = 0; i < h->n; i++) {
        h->expert[i].use = n_tok > 0.0 ? (float)((double)heat[i] / n_tok * FG_HOT_WINDOW) : 0.0f;
        h->expert[i].place = FG_HOT_HOST;
    }
    for (uint64_t k = 0; k < n_resident; k++) {
        size_t best = h->n;
        for (size_t i = 0; i < h->n; i++) {
            if (h->expert[i].place != FG_HOT_HOST) continue;
            if (best == h->n || heat[i] > heat[best]) best = i;
        }
        h->expert[best].place = FG_HOT_CARD;
    }
}

static void replay_card(walk *w, fg_hot *h, uint32_t *n_row, const bool *first, fg_replay_card *out)
{
    size_t in, cold;
    for (uint64_t p = 1; fg_trace_next(w->t, &w->pass); p++) {
        fg_hot_fade(h, w->pass.n_tok);
        for (uint32_t l = 0; l < w->h->n_layer; l++) {
            const size_t at = (size_t)l * w->h->n_expert;
            const uint32_t n = walk_layer(w, l);
            memset(n_row, 0, w->h->n_expert * sizeof *n_row);
            for (uint64_t i = 0; i < (uint64_t)w->pass.n_tok * w->h->n_used; i++) {
                n_row[w->sel[i]]++;
            }
            out->n_read += n;
            for (uint32_t i = 0; i < n; i++) {
                out->n_heat += first[at + w->ids[i]];
                out->n_running += h->expert[at + w->ids[i]].place == FG_HOT_CARD;
            }
            fg_hot_saw(h, l, n_row, w->pass.n_tok);
        }
        if (p % MOVE_PASSES != 0 || !fg_hot_choose(h, FG_HOT_MARGIN, &in, &cold)) continue;
        h->expert[in].place = FG_HOT_CARD;
        h->expert[cold].place = FG_HOT_HOST;
        out->n_moved++;
    }
}

fg_status fg_replay_residents(const fg_trace *t, uint64_t n_resident, const uint64_t *heat,
                              fg_replay_card *out, fg_err *err)
{
    walk w;
    FG_TRY(walk_init(&w, t, err));
    *out = (fg_replay_card){.n_read = 0};
    fg_hot h = {.n = (size_t)w.h->n_layer * w.h->n_expert, .n_expert = w.h->n_expert};
    h.expert = fg_mem_zalloc_array(h.n, sizeof *h.expert);
    uint32_t *n_row = fg_mem_zalloc_array(h.n_expert, sizeof *n_row);
    bool *first = fg_mem_zalloc_array(h.n, sizeof *first);
    const bool ok = h.expert != NULL && n_row != NULL && first != NULL;
    if (ok) {
        place_hottest(&h, &w, heat, n_resident);
        for (size_t i = 0; i < h.n; i++) first[i] = h.expert[i].place == FG_HOT_CARD;
        replay_card(&w, &h, n_row, first, out);
    }
    fg_mem_free(h.expert);
    fg_mem_free(n_row);
    fg_mem_free(first);
    walk_fini(&w);
    return ok ? FG_OK : fg_fail_nomem(err, "replay");
}

/* ---- recall ---- */

const uint32_t fg_recall_top[FG_RECALL_TOPS] = {2, 3, 4, 8};
_Static_assert((int)FG_RECALL_LAST <= (int)FG_PREDICT_WIDTH, "a guess has all that is scored");

/* The running pass, and who is asked about it. */
typedef struct asking {
    walk *w;
    fg_predictor **p;
    const fg_predict_opts *who;
    size_t n;
    fg_recall_row *out;
    bool *in; /* [n_layer][n_expert] what the token's layers ask for */
} asking;

static void score(const asking *a, uint32_t layer, const uint32_t *ids, uint32_t n, fg_recall *r)
{
    const bool *in = a->in + (size_t)layer * a->w->h->n_expert;
    r->n += a->w->h->n_used;
    for (uint32_t i = 0; i < n; i++) {
        if (!in[ids[i]]) continue;
        for (uint32_t k = 0; k < FG_RECALL_TOPS; k++) r->n_found[k] += i < fg_recall_top[k];
    }
}

/* Nobody has a guess of a router before the first layer, and who has nothing else cannot say. */
static void score_next(const asking *a, size_t i)
{
    uint32_t ids[FG_RECALL_LAST];
    const fg_predict_row *row = fg_predict_get(a->who[i].kind);
    if (row->asks_routers && !row->observes) return;
    for (uint32_t l = 0; l < a->w->h->n_layer; l++) {
        const uint32_t n = fg_predictor_rank(a->p[i], l, NULL, ids, FG_RECALL_LAST);
        score(a, l, ids, n, &a->out[i].next);
    }
}

/* A layer has run. */
static void score_ahead(const asking *a, size_t i, uint32_t layer, const fg_guess *g, uint32_t d)
{
    uint32_t ids[FG_RECALL_LAST];
    const uint32_t *guess = g != NULL && d <= g->n_ahead ? g->id[d - 1] : NULL;
    if (layer + d >= a->w->h->n_layer) return;
    if (fg_predict_get(a->who[i].kind)->asks_routers && guess == NULL) return;
    const uint32_t n = fg_predictor_rank(a->p[i], layer + d, guess, ids, FG_RECALL_LAST);
    score(a, layer + d, ids, n, &a->out[i].ahead[d - 1]);
}

static void ask_token(const asking *a, const uint32_t *id)
{
    walk *w = a->w;
    fg_guess g;
    for (uint32_t l = 0; l < w->h->n_layer; l++) {
        (void)walk_layer(w, l);
        memcpy(a->in + (size_t)l * w->h->n_expert, w->in, w->h->n_expert * sizeof *w->in);
    }
    for (size_t i = 0; i < a->n; i++) {
        uint64_t t0 = fg_clock_ns();
        fg_predictor_begin(a->p[i], NULL, 0, w->pass.pos, id, 1, NULL);
        a->out[i].ns += fg_clock_ns() - t0;
        score_next(a, i);
        for (uint32_t l = 0; l < w->h->n_layer; l++) {
            const bool has = fg_trace_guess_of(w->t, &w->pass, l, &g);
            fg_trace_sel(w->t, &w->pass, l, w->sel);
            t0 = fg_clock_ns();
            fg_predictor_observe(a->p[i], l, w->sel, 1);
            score_ahead(a, i, l, has ? &g : NULL, 1);
            a->out[i].ns += fg_clock_ns() - t0;
            for (uint32_t d = 2; d <= FG_PREDICT_AHEAD; d++) {
                score_ahead(a, i, l, has ? &g : NULL, d);
            }
        }
        a->out[i].n_tok++;
    }
}

static void observe_pass(const asking *a, const uint32_t *ids)
{
    walk *w = a->w;
    for (size_t i = 0; i < a->n; i++) {
        (void)fg_predictor_begin(a->p[i], NULL, 0, w->pass.pos, ids, w->pass.n_tok, NULL);
    }
    for (uint32_t l = 0; l < w->h->n_layer; l++) {
        fg_trace_sel(w->t, &w->pass, l, w->sel);
        for (size_t i = 0; i < a->n; i++) {
            fg_predictor_observe(a->p[i], l, w->sel, w->pass.n_tok);
        }
    }
}

static void ask_all(const asking *a, uint64_t from)
{
    walk *w = a->w;
    uint64_t end = 0;
    for (uint64_t i = 0; fg_trace_next(w->t, &w->pass); i++) {
        if (i < from) continue;
        const uint32_t *ids = fg_trace_ids(w->t, &w->pass, w->id) ? w->id : NULL;
        for (size_t k = 0; w->pass.pos < end && k < a->n; k++) {
            fg_predictor_forget(a->p[k], 0, w->pass.pos);
        }
        if (w->pass.n_tok == 1) {
            ask_token(a, ids);
        } else {
            observe_pass(a, ids);
        }
        end = w->pass.pos + w->pass.n_tok;
    }
}

fg_status fg_replay_recall(const fg_trace *t, uint64_t from, const fg_predict_opts *who, size_t n,
                           fg_recall_row *out, fg_err *err)
{
    const fg_trace_head *h = fg_trace_get_head(t);
    walk w;
    FG_TRY(walk_init(&w, t, err));
    asking a = {.w = &w, .who = who, .n = n, .out = out};
    a.p = fg_mem_zalloc_array(n, sizeof *a.p);
    a.in = fg_mem_zalloc_array((size_t)h->n_layer * h->n_expert, sizeof *a.in);
    fg_status st = a.p == NULL || a.in == NULL ? fg_fail_nomem(err, "replay") : FG_OK;
    for (size_t i = 0; st == FG_OK && i < n; i++) {
        st = fg_predictor_create(&a.p[i], &who[i], err);
        if (st == FG_OK) fg_predictor_set_on(a.p[i], false); /* ranks, no hints */
    }
    memset(out, 0, n * sizeof *out);
    if (st == FG_OK) ask_all(&a, from);
    for (size_t i = 0; a.p != NULL && i < n; i++) fg_predictor_destroy(&a.p[i]);
    fg_mem_free(a.p);
    fg_mem_free(a.in);
    walk_fini(&w);
    return st;
}

/* ---- logs for training ---- */

fg_routing_shape fg_trace_shape(const fg_trace_head *h)
{
    return (fg_routing_shape){h->n_layer, h->n_expert, h->n_used, h->n_vocab, h->data_root};
}

/* Appends the first n rows of the pass. */
static fg_status log_pass(walk *w, fg_routing_log *g, uint32_t n, bool joins, fg_err *err)
{
    const fg_trace_head *h = w->h;
    const size_t at = g->n, each = (size_t)h->n_layer * h->n_used;
    FG_TRY(fg_routing_log_add(g, n, err));
    for (uint32_t l = 0; l < h->n_layer; l++) {
        fg_trace_sel(w->t, &w->pass, l, w->sel);
        for (uint32_t t = 0; t < n; t++) {
            uint16_t *sel = g->sel + (at + t) * each + (size_t)l * h->n_used;
            for (uint32_t i = 0; i < h->n_used; i++) sel[i] = (uint16_t)w->sel[t * h->n_used + i];
        }
    }
    for (uint32_t t = 0; t < n; t++) {
        g->id[at + t] = w->id[t];
        g->first[at + t] = t == 0 && !joins;
    }
    return FG_OK;
}

fg_status fg_replay_log(const fg_trace *t, uint64_t from, uint64_t to, fg_routing_log *g,
                        fg_err *err)
{
    const fg_trace_head *h = fg_trace_get_head(t);
    const fg_routing_shape of = fg_trace_shape(h);
    if (h->n_vocab == 0) {
        return fg_fail(err, FG_EINVAL,
                       "trace: without token ids, expected one with them; record "
                       "it again");
    }
    if (memcmp(&of, &g->of, sizeof of) != 0) {
        return fg_fail(err, FG_EINVAL, "trace: of another model, expected that of the first");
    }
    walk w;
    FG_TRY(walk_init(&w, t, err));
    fg_status st = FG_OK;
    const size_t first = g->n; /* of this trace; token at `start` of its timeline */
    uint64_t start = 0;
    for (uint64_t i = 0; st == FG_OK && i < to && fg_trace_next(t, &w.pass); i++) {
        if (i < from) continue;
        if (g->n == first || w.pass.pos <= start) start = w.pass.pos;
        g->n = first + (size_t)(w.pass.pos - start); /* what came later was undone */
        (void)fg_trace_ids(t, &w.pass, w.id);
        st = log_pass(&w, g, w.pass.n_kept, g->n > first, err);
    }
    walk_fini(&w);
    return st;
}
