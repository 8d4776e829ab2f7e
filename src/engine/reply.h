/* SPDX-License-Identifier: MIT
 *
 * A reply: the sampling loop.  Everything it needs is passed in; it handles no signals and writes to
 * nobody but its caller.
 */
#ifndef FG_SRC_ENGINE_REPLY_H
#define FG_SRC_ENGINE_REPLY_H

#include "src/engine/session.h"
#include "src/text/sampler.h"
#include "src/text/stream.h"

/* Why a reply ended: enumerator, name for machines, text for people. */
#define FG_END_MAP(X)                                                                              \
    X(FG_END_MODEL, "stop", "the model ended it")                                                  \
    X(FG_END_LENGTH, "length", "the most tokens that were asked for")                              \
    X(FG_END_CONTEXT, "context", "the context is full")                                            \
    X(FG_END_CANCEL, "cancel", "the caller stopped it")
typedef enum fg_end {
#define FG_END_ENUM(id, name, text) id,
    FG_END_MAP(FG_END_ENUM)
#undef FG_END_ENUM
        FG_END_COUNT
} fg_end;
const char *fg_end_name(fg_end end);
const char *fg_end_text(fg_end end);

typedef struct fg_reply_opts {
    fg_sampler *sampler;   /* borrowed; its random state moves on */
    const fg_tokenizer *t; /* borrowed */
    uint64_t n_max;        /* tokens at most */
    const uint32_t *stop;  /* [n_stop] more ids that end the reply; they are not given to emit */
    size_t n_stop;
    bool special;    /* markup tokens are given as text */
    bool ignore_eos; /* go on after the model's end tokens (stop ids still end it) */
    bool goes_on;    /* the last token, the end token included, is evaluated too: the conversation
                      * continues after it */
    /* Whole UTF-8 characters as they come, with the part of the reply that they belong to; false ends
     * the reply. */
    bool (*emit)(void *ctx, fg_think_part part, const char *text, size_t n);
    /* Before each token; false ends the reply.  May be NULL. */
    bool (*poll)(void *ctx);
    void *ctx;
} fg_reply_opts;

typedef struct fg_reply {
    fg_end end;
    uint64_t n_gen;  /* tokens generated, without the one that ended it */
    uint64_t n_eval; /* tokens evaluated, within `seconds` */
    double seconds;
} fg_reply;

/* Generates after what the session holds, which must have logits.  The session then holds what was
 * evaluated.  Errors: FG_EINVAL (no logits), FG_EDATA (logits that are not numbers), those of
 * fg_session_eval; *out tells how far it came. */
fg_status fg_reply_run(fg_session *s, const fg_reply_opts *o, fg_reply *out, fg_err *err);

/* A sampler for this engine's vocabulary, which never chooses an id without a token. */
fg_status fg_engine_sampler(fg_engine *e, const fg_sampler_options *o, fg_sampler **out,
                            fg_err *err);

#endif
