/* SPDX-License-Identifier: MIT
 *
 * Which experts the layers ahead will want: predictors of routing, and the hints they give to the
 * directory (cache.h).  A hint moves a read forward in time and changes no result.
 *
 * Pure, as the directory is: a live run and a replay of its trace that make the same calls get the
 * same hints.  The guesses of the routers are computed by the caller (src/model/moe.c) and, for a
 * replay, recorded with the routing.
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

typedef enum fg_predict {
    FG_PREDICT_NONE,
    FG_PREDICT_FREQUENCY, /* the layer's most requested so far; counts halve now and then */
    FG_PREDICT_PREVIOUS,  /* those of the token before, then of the one before that, ... */
    FG_PREDICT_ROUTER,    /* the best of that layer's router on the state of this layer */
    FG_PREDICT_COUNT,
} fg_predict;

/* "none", "frequency", "previous", "router"; false when text is none of them. */
bool fg_predict_parse(const char *text, fg_predict *out);
const char *fg_predict_name(fg_predict kind);

enum {
    FG_PREDICT_AHEAD = 4, /* layers, at most */
    FG_PREDICT_WIDTH = 4, /* experts of a layer, at most */
    FG_PREDICT_HINTS = FG_PREDICT_AHEAD * FG_PREDICT_WIDTH,
};

/* What the routers of layers l + 1 .. l + n_ahead rank first on the state of layer l, best first;
 * id[d - 1] is about layer l + d and has the min(FG_PREDICT_WIDTH, n_expert) best. */
typedef struct fg_guess {
    uint32_t n_ahead; /* at most FG_PREDICT_AHEAD; fewer at the last layers */
    uint32_t id[FG_PREDICT_AHEAD][FG_PREDICT_WIDTH];
} fg_guess;

typedef struct fg_predict_opts {
    fg_predict kind;
    uint32_t n_layer, n_expert, n_used;
    uint32_t ahead; /* layers hinted, 1 .. FG_PREDICT_AHEAD; 0: FG_PREDICT_DEFAULT_AHEAD */
} fg_predict_opts;
enum { FG_PREDICT_DEFAULT_AHEAD = 2 };

typedef struct fg_predictor fg_predictor;

/* Errors: FG_EINVAL (ahead), FG_ENOMEM. */
fg_status fg_predictor_create(fg_predictor **out, const fg_predict_opts *opts, fg_err *err);
void fg_predictor_destroy(fg_predictor **p); /* accepts NULL */

/* Ranks the experts of `layer`, the likeliest first, from what was observed; writes at most `most`
 * ids and returns how many (PREVIOUS knows none at first; NONE and ROUTER never any). */
uint32_t fg_predictor_rank(const fg_predictor *p, uint32_t layer, uint32_t *ids, uint32_t most);

/* The routing of one layer: sel[n_tok][n_used], tokens in order. */
void fg_predictor_observe(fg_predictor *p, uint32_t layer, const uint32_t *sel, uint32_t n_tok);

/* Off: hints of the kind are no longer given, only observed; see store.h for who decides. */
void fg_predictor_set_on(fg_predictor *p, bool on);
bool fg_predictor_is_on(const fg_predictor *p);

/* Observes a layer, and offers the cache what the next ones will want.  loads has room for
 * FG_PREDICT_HINTS; returns how many are to be read, the most urgent first.
 *   One token: the n_used (at most FG_PREDICT_WIDTH) likeliest of each of the `ahead` layers; behind
 *   the last layer come the first ones of the next token, which a router cannot know.  guess: NULL,
 *   or of this layer (ROUTER).
 *   More tokens, when they used every expert of this layer: they will use every one of the next, of
 *   which the first FG_CACHE_WAVE absent ones are hinted, whatever the kind, on or off. */
uint32_t fg_predictor_hints(fg_predictor *p, fg_cache *c, uint32_t layer, const uint32_t *sel,
                            uint32_t n_tok, const fg_guess *guess, fg_cache_load *loads);

#endif
