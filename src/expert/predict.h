/* SPDX-License-Identifier: MIT
 *
 * Which experts the layers ahead will want: predictors of routing, and the hints they give to the
 * directory (cache.h).  A hint moves a read forward in time and changes no result.
 *
 * Pure, as the directory is: a live run and a replay of its trace that make the same calls get the
 * same hints.  Only whether hints are given (fg_predictor_set_on) may go by a clock, see judge.h.
 * The guesses of the routers are computed by the caller (src/model/moe.c) and, for a replay,
 * recorded with the routing.
 *
 * Once in each layer, when its last wave has begun, so that its own reads stand in front:
 *
 *     n = fg_predictor_hints(p, cache, layer, sel, n_tok, guess, loads);
 *     read loads[0 .. n-1] when nothing that is needed now is left to read
 */
#ifndef FG_SRC_EXPERT_PREDICT_H
#define FG_SRC_EXPERT_PREDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/expert/cache.h"
#include "src/factor/routing_row.h"
#include "src/fulgur.h"

enum {
    FG_PREDICT_AHEAD = 8, /* layers, at most */
    FG_PREDICT_WIDTH = 8, /* experts of a layer, at most */
    FG_PREDICT_HINTS = FG_PREDICT_AHEAD * FG_PREDICT_WIDTH,
};

/* What the routers of layers l + 1 .. l + n_ahead rank first on the state of layer l, best first;
 * id[d - 1] is about layer l + d and has the min(FG_PREDICT_WIDTH, n_expert) best, of an old trace
 * fewer, then FG_NOT_STORED. */
typedef struct fg_guess {
    uint32_t n_ahead; /* at most FG_PREDICT_AHEAD; fewer at the last layers */
    uint32_t id[FG_PREDICT_AHEAD][FG_PREDICT_WIDTH];
} fg_guess;

typedef struct fg_predict_opts {
    fg_predict kind;
    uint32_t n_layer, n_expert, n_used;
    uint32_t ahead; /* layers hinted, 1 .. FG_PREDICT_AHEAD; 0: FG_PREDICT_DEFAULT_AHEAD */
    /* FACTOR and BOTH: what they begin with, copied, of these sizes; NULL: nothing learned, and
     * token ids less than n_vocab (0: 1). */
    const fg_routing_model *model;
    uint32_t n_vocab;
    unsigned without; /* FG_ROUTING_PREVIOUS, _LATENT: parts that are left out, to compare */
} fg_predict_opts;
enum { FG_PREDICT_DEFAULT_AHEAD = 2 };

/* What a predictor does; create makes its state, which it alone knows.  All may be NULL: NONE. */
typedef struct fg_predict_ops {
    /* o has been checked.  FG_ENOMEM leaves *state NULL. */
    fg_status (*create)(void **state, const fg_predict_opts *o, fg_err *err);
    /* As fg_predictor_observe, when it observes. */
    void (*observe)(void *state, uint32_t layer, const uint32_t *sel, uint32_t n_tok);
    /* As fg_predictor_rank; guess: NULL unless it asks the routers. */
    uint32_t (*rank)(const void *state, uint32_t layer, const uint32_t *guess, uint32_t *ids,
                     uint32_t most);
    void (*destroy)(void *state); /* accepts NULL */
    /* *to, made by create with the same options, becomes what *from is; NULL for who never
     * observes, or has forget. */
    void (*copy)(void *to, const void *from);
    /* For who knows tokens, else NULL.  As fg_predictor_begin, fg_predictor_forget; likely: as
     * rank, but only what is worth reading. */
    void (*begin)(void *state, uint64_t who, uint64_t pos, const uint32_t *ids, uint32_t n);
    void (*forget)(void *state, uint64_t who, uint64_t pos);
    uint32_t (*likely)(const void *state, uint32_t layer, const uint32_t *guess, uint32_t *ids,
                       uint32_t most);
} fg_predict_ops;

/* The predictors: enumerator (src/fulgur.h says what each does), name, stored number, observes
 * (the routing so far), asks routers (for their guesses, which cost their products), functions.
 * The stored number is the one in routing traces: never changed, never used again. */
#define FG_PREDICT_MAP(X)                                                                          \
    X(FG_PREDICT_NONE, "none", 0, false, false, fg_predict_none)                                   \
    X(FG_PREDICT_FREQUENCY, "frequency", 1, true, false, fg_predict_frequency)                     \
    X(FG_PREDICT_PREVIOUS, "previous", 2, true, false, fg_predict_previous)                        \
    X(FG_PREDICT_ROUTER, "router", 3, false, true, fg_predict_router)                              \
    X(FG_PREDICT_FACTOR, "factor", 4, true, false, fg_predict_factor)                              \
    X(FG_PREDICT_BOTH, "router+factor", 5, true, true, fg_predict_both)

#define FG_PREDICT_OPS(id, name, stored, observes, asks_routers, ops)                              \
    extern const fg_predict_ops ops;
FG_PREDICT_MAP(FG_PREDICT_OPS)
#undef FG_PREDICT_OPS

typedef struct fg_predict_row {
    const char *name;
    uint32_t stored;
    bool observes, asks_routers;
    const fg_predict_ops *ops;
} fg_predict_row;

/* NULL: no such predictor. */
const fg_predict_row *fg_predict_get(fg_predict kind);

typedef struct fg_predictor fg_predictor;

/* Errors: FG_EINVAL (kind, ahead), FG_ENOMEM. */
fg_status fg_predictor_create(fg_predictor **out, const fg_predict_opts *opts, fg_err *err);
void fg_predictor_destroy(fg_predictor **p); /* accepts NULL */

/* A pass of n tokens begins, from position pos on of the timeline `who`; ids NULL: nobody knows
 * them.  Offers the cache what the first layers will want when that is one token; loads and result
 * as of fg_predictor_hints. */
uint32_t fg_predictor_begin(fg_predictor *p, fg_cache *c, uint64_t who, uint64_t pos,
                            const uint32_t *ids, uint32_t n, fg_cache_load *loads);

/* Tokens of `who` from pos on were undone.  Only for who knows tokens; the others have
 * fg_predictor_rewind. */
void fg_predictor_forget(fg_predictor *p, uint64_t who, uint64_t pos);

/* What FACTOR or BOTH learned so far, the last pass included; borrowed.  NULL: of another kind. */
const fg_routing_model *fg_predictor_learned(fg_predictor *p);

/* Ranks the experts of `layer`, the likeliest first; writes at most `most` ids and returns how
 * many, 0: nothing is known.  guess: what the layer's router ranked first, a row of fg_guess, or
 * NULL. */
uint32_t fg_predictor_rank(const fg_predictor *p, uint32_t layer, const uint32_t *guess,
                           uint32_t *ids, uint32_t most);

/* The routing of one layer: sel[n_tok][n_used], tokens in order. */
void fg_predictor_observe(fg_predictor *p, uint32_t layer, const uint32_t *sel, uint32_t n_tok);

/* As if the pass that was observed last, sel[n_layer][n_row][n_used], had had n_kept (<= n_row)
 * rows: the rest was undone.  sel may be NULL when n_kept is 0.  Without effect on who knows
 * tokens. */
void fg_predictor_rewind(fg_predictor *p, const uint32_t *sel, uint64_t n_row, uint32_t n_kept);

/* Off: hints of the kind are no longer given, only observed; see store.h for who decides. */
void fg_predictor_set_on(fg_predictor *p, bool on);
bool fg_predictor_is_on(const fg_predictor *p);

/* Observes a layer, and offers the cache what the next ones will want.  loads has room for
 * FG_PREDICT_HINTS; returns how many are to be read, the most urgent first.
 *   One token: the n_used (at most FG_PREDICT_WIDTH) likeliest of each of the `ahead` layers; after
 *   the last layer come the first ones of the next token, which a router cannot know; who knows
 *   tokens waits for it.  guess: NULL, or of this layer, for who asks the routers.
 *   More tokens, when they used every expert of this layer: they will use every one of the next:
 *   fg_cache_prefetch_scan, whatever the kind, on or off. */
uint32_t fg_predictor_hints(fg_predictor *p, fg_cache *c, uint32_t layer, const uint32_t *sel,
                            uint32_t n_tok, const fg_guess *guess, fg_cache_load *loads);

#endif
