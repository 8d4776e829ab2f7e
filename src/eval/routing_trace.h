/* SPDX-License-Identifier: MIT
 *
 * Routing traces: which experts every layer asked for, pass by pass, in a file of their own.  What
 * a replay (replay.h) needs to repeat the live run without the model is inside: the sizes that
 * decide how many experts fit, the heat map that the policies were given, and the routers' guesses.
 *
 * A trace of version 2 says which token each row was, and so contains the text; one of version 1
 * does not.  Both are written and read.
 *
 * The file.  Little-endian; a reader refuses what it is told to compare, and anything after the
 * last pass.
 *
 *   offset size  name           meaning                                          reader must
 *   0      8     magic          89 46 47 54 52 0d 0a 1a                          compare
 *   8      4     version        1 or 2                                           refuse others
 *   12     4     n_layer        1 to 1024                                        refuse others
 *   16     4     n_expert       of a layer, 1 to 1024                            refuse others
 *   20     4     n_used         experts of a token, 1 to min(32, n_expert)       refuse others
 *   24     8     data_root      of the model file (FORMAT.md 3)
 *   32     8     dense_bytes    memory of the dense parts, less than 2^62        refuse others
 *   40     8     slot_bytes     of an expert, 1 to 2^62                          refuse others
 *   48     8     session_bytes  of the recording session, less than 2^62         refuse others
 *   56     8     ram_bytes      bound of the recording run; 0: it was mapped
 *   64     4     policy         of that run, stored number in cache.h            refuse others
 *   68     4     predict        of that run, stored number in predict.h          refuse others
 *   72     4     ahead          layers that it hinted, 1 to 8; in version 1 to 4 refuse others
 *   76     4     has_heat       0 or 1                                           refuse others
 *   80     8     n_pass         passes; at least 1                               compare
 *   88     8     n_tok          tokens of all passes                             compare
 *   96     8     body_bytes     bytes after the header                          compare
 *   104    8     body_hash      XXH3-64 of them                                  compare
 *   112    4     n_vocab        version 2: of the model, 1 to 2^24; else 0       refuse others
 *   116    4                    reserved                                         refuse non-zero
 *   120    8     head_hash      XXH3-64 of bytes 0 to 119                        compare
 *
 * The body: when has_heat, u64 heat[n_layer][n_expert]; then the passes, each
 *   u32 n_tok          1 to 2^20
 *   u32 flags          bit 0: the predictor was on; the others reserved, refuse non-zero
 *   version 2:
 *     u64 pos            of the first row in its timeline, less than 2^62.  At most where the pass
 *                        before ended; less: the rows from there on were undone in between
 *     u32 n_kept         rows that the next pass comes after: min(n_tok, next pos - pos), 0 when
 *                        that is earlier; of the last pass those left at the end; refuse others
 *     u32 id[n_tok]      tokens, each less than n_vocab
 *   for each layer:
 *     u16 sel[n_tok][n_used]      best first, each less than n_expert
 *     when n_tok is 1, with w = 4, in version 2 w = 8:
 *     u16 guess[w][min(w, n_expert)]   row d - 1: what the router of layer + d ranks first on this
 *                                 layer's state, less than n_expert; rows that nobody computed, all
 *                                 after those that somebody did, and after the last layer: ffff
 */
#ifndef FG_SRC_EVAL_ROUTING_TRACE_H
#define FG_SRC_EVAL_ROUTING_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/expert/cache.h"
#include "src/expert/predict.h"

enum { FG_TRACE_MAX_TOK = 1 << 20 }; /* of a pass */

typedef struct fg_trace_head {
    uint32_t n_layer, n_expert, n_used;
    uint64_t data_root;
    uint64_t dense_bytes, slot_bytes, session_bytes;
    uint64_t ram_bytes; /* 0: recorded from a mapped model */
    fg_policy policy;   /* of the recording run, as the three below; LRU, NONE when mapped */
    fg_predict predict;
    uint32_t ahead;
    uint64_t n_pass, n_tok; /* the writer counts them itself */
    uint32_t n_vocab;       /* 0: version 1, without the text */
} fg_trace_head;

/* ---- writing ---- */

typedef struct fg_trace_writer fg_trace_writer;

/* Writes under a name of its own beside path until it is finished (fg_new_file).  heat: [n_layer *
 * n_expert], copied; NULL: none.  Memory does not grow with the trace.  Errors: FG_EIO, FG_EINVAL
 * (path is no place for a file), FG_ENOMEM. */
fg_status fg_trace_create(fg_trace_writer **out, const char *path, const fg_trace_head *head,
                          const uint64_t *heat, fg_err *err);

/* One pass: begin, then sel[n_tok][n_used] of every layer, each followed by its guess when there is
 * one; it is complete when the next one begins, or the file is finished.  The first error, a pass
 * that lacks a layer among them, is kept for fg_trace_finish.  predict_on: of the live store during
 * the pass. */
void fg_trace_begin(fg_trace_writer *w, uint32_t n_tok, bool predict_on);
void fg_trace_layer(fg_trace_writer *w, uint32_t layer, const uint32_t *sel);
/* Before begin, or finish: where the pass's first row stands, at most where the pass before ended,
 * which is the usual place.  Without effect in version 1, as fg_trace_tokens. */
void fg_trace_at(fg_trace_writer *w, uint64_t pos);
/* Tokens of the running pass, ids[n_tok], at any time before the next begins; without: all 0. */
void fg_trace_tokens(fg_trace_writer *w, const uint32_t *ids);
void fg_trace_guess(fg_trace_writer *w, uint32_t layer, const fg_guess *guess);

/* Completes the file and gives it its name; at most once.  FG_EIO; FG_EINVAL: nothing recorded. */
fg_status fg_trace_finish(fg_trace_writer *w, fg_err *err);

/* Removes what was not finished.  Accepts NULL. */
void fg_trace_writer_destroy(fg_trace_writer **w);

/* ---- reading ---- */

typedef struct fg_trace fg_trace;

/* Maps the file and checks all of it.  Errors: FG_EIO, FG_EFORMAT, FG_EVERSION, FG_ECHECKSUM. */
fg_status fg_trace_open(fg_trace **out, const char *path, fg_err *err);
void fg_trace_close(fg_trace **t); /* accepts NULL */

const fg_trace_head *fg_trace_get_head(const fg_trace *t);
/* Byte for byte, as far as their heads' hashes of the rest tell. */
bool fg_trace_is_same(const fg_trace *a, const fg_trace *b);
/* Copies the heat map to heat[n_layer * n_expert]; false when there is none. */
bool fg_trace_get_heat(const fg_trace *t, uint64_t *heat);
/* Most tokens of a pass: room for what fg_trace_sel writes. */
uint32_t fg_trace_most_tok(const fg_trace *t);

/* A pass; zero-initialised it stands before the first. */
typedef struct fg_trace_pass {
    uint64_t at, end; /* in the file; internal */
    uint32_t n_tok;
    bool predict_on;
    uint32_t n_kept; /* rows that were not undone right after it; version 1: all */
    uint64_t pos;    /* of its first row; version 1: where the pass before ended */
} fg_trace_pass;

/* The next pass; false after the last. */
bool fg_trace_next(const fg_trace *t, fg_trace_pass *p);
/* Writes the tokens, ids[n_tok]; false: version 1 does not know them. */
bool fg_trace_ids(const fg_trace *t, const fg_trace_pass *p, uint32_t *ids);
/* Writes sel[n_tok][n_used] of a layer. */
void fg_trace_sel(const fg_trace *t, const fg_trace_pass *p, uint32_t layer, uint32_t *sel);
/* The guess of a layer; false when the pass has more than one token.  n_ahead may be 0. */
bool fg_trace_guess_of(const fg_trace *t, const fg_trace_pass *p, uint32_t layer, fg_guess *guess);

#endif
