/* SPDX-License-Identifier: MIT
 *
 * Routing traces made by hand, for test_trace.c, test_replay.c and fuzz_trace.c.
 */
#ifndef FG_TESTS_EVAL_TRACES_H
#define FG_TESTS_EVAL_TRACES_H

#include <stdio.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/eval/replay.h"
#include "src/eval/routing_trace.h"
#include "tests/fg_test.h"

typedef struct path_text {
    char s[256];
} path_text;

static inline path_text tmp_path(const char *name)
{
    path_text p;
    (void)snprintf(p.s, sizeof p.s, "%s", fg_test_tmp(name));
    return p;
}

/* True when the message is one line of the usual form. */
static inline bool is_line(const fg_err *err)
{
    return strstr(err->msg, ", expected ") != NULL && strchr(err->msg, '\n') == NULL;
}

/* ---- traces made by hand ---- */

enum { N_LAYER = 5, N_EXPERT = 9, N_USED = 2 };

static const fg_trace_head small = {.n_layer = N_LAYER,
                                    .n_expert = N_EXPERT,
                                    .n_used = N_USED,
                                    .data_root = 0x0123456789abcdef,
                                    .dense_bytes = 1000,
                                    .slot_bytes = 100,
                                    .session_bytes = 500,
                                    .ram_bytes = 77,
                                    .policy = FG_POLICY_LFU,
                                    .predict = FG_PREDICT_PREVIOUS,
                                    .ahead = 3};

static inline uint32_t below(fg_rng *r, uint32_t n)
{
    return (uint32_t)(fg_rng_u64(r) % n);
}

/* n_used different experts. */
static inline void draw(fg_rng *r, const fg_trace_head *h, uint32_t *sel)
{
    for (uint32_t i = 0; i < h->n_used; i++) {
        bool again;
        do {
            again = false;
            sel[i] = below(r, h->n_expert);
            for (uint32_t k = 0; k < i; k++) again = again || sel[k] == sel[i];
        } while (again);
    }
}

static inline void draw_guess(fg_rng *r, const fg_trace_head *h, uint32_t layer, fg_guess *g)
{
    const uint32_t left = h->n_layer - 1 - layer;
    g->n_ahead = below(r, (left < FG_PREDICT_AHEAD ? left : FG_PREDICT_AHEAD) + 1);
    for (uint32_t d = 0; d < g->n_ahead; d++) {
        for (uint32_t i = 0; i < FG_PREDICT_WIDTH; i++) g->id[d][i] = below(r, h->n_expert);
    }
}

/* Of all predictors, with nothing learned. */
static inline fg_status recall_of_all(const fg_trace *t, fg_recall_row *out, fg_err *err)
{
    const fg_trace_head *h = fg_trace_get_head(t);
    fg_predict_opts who[FG_PREDICT_COUNT];
    for (int i = 0; i < FG_PREDICT_COUNT; i++) {
        who[i] = (fg_predict_opts){.kind = (fg_predict)i,
                                   .n_layer = h->n_layer,
                                   .n_expert = h->n_expert,
                                   .n_used = h->n_used,
                                   .n_vocab = h->n_vocab};
    }
    return fg_replay_recall(t, 0, who, FG_PREDICT_COUNT, out, err);
}

#endif
