/* SPDX-License-Identifier: MIT
 *
 * Lists of traces on the command line, and what trace replay says of predictors on held-back text.
 */
#ifndef FG_SRC_CLI_HELD_BACK_H
#define FG_SRC_CLI_HELD_BACK_H

#include "src/eval/replay.h"

enum { TRACES_MOST = 32, MODELS_MOST = 4 };

typedef struct traces {
    fg_trace *t[TRACES_MOST];
    size_t n;
    const char *out;
} traces;

/* From "FILE,FILE,...".  Errors: those of fg_trace_open, FG_EINVAL (too many; one of them is `out`,
 * which will be written, NULL: nothing will; one is there twice, of another model than the first,
 * or without text). */
fg_status traces_open(traces *t, const char *list, const char *out, fg_err *err);
void traces_close(traces *t);

/* Who is compared, and what came out. */
enum { HELD_ROWS = 6 + MODELS_MOST, HELD_SIZES = 3 };
typedef struct held {
    fg_routing_model *model[MODELS_MOST]; /* given, or trained on the trace's first half */
    size_t n_model;
    bool given;
    uint64_t from; /* passes from here on are judged */
    size_t n;
    char name[HELD_ROWS][40];
    fg_predict_opts who[HELD_ROWS];
    fg_recall_row recall[HELD_ROWS];
    fg_cache_stats cache[HELD_ROWS]
                        [HELD_SIZES]; /* the default policy, room for .3, .5, .7 of experts */
} held;

/* list: "FILE,...", models of this trace's weights; NULL: trained on its first half, where it has
 * tokens. */
fg_status held_open(held *h, const fg_trace *t, const char *list, fg_err *err);
fg_status held_fill(held *h, const fg_trace *t, uint32_t ahead, fg_err *err);
void held_print(const held *h, const fg_trace *t);
void held_print_json(const held *h, const fg_trace *t);
void held_close(held *h);

#endif
