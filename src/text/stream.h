/* SPDX-License-Identifier: MIT
 *
 * From generated ids to what a reader sees, piece by piece: fg_detok turns ids into whole UTF-8
 * characters, fg_think tells the reasoning from the answer.  Both are small values without heap
 * memory, one for each reply.
 */
#ifndef FG_SRC_TEXT_STREAM_H
#define FG_SRC_TEXT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/fulgur.h"
#include "src/text/tokenizer.h"

typedef enum fg_detok_special {
    FG_DETOK_SKIP,  /* special tokens give nothing */
    FG_DETOK_THINK, /* only <think> and </think> are printed: special in some models */
    FG_DETOK_PRINT, /* special tokens give their text */
} fg_detok_special;

/* A character may be spread over several tokens; the bytes of an unfinished one (at most 3) are
 * held back.  Everything fed and flushed, put together, is what the reference's decode gives for
 * all ids at once: bytes that are not UTF-8 become one U+FFFD for each maximal subpart. */
typedef struct fg_detok {
    const fg_tokenizer *t;
    fg_detok_special special;
    uint8_t held[4];
    size_t n_held;
} fg_detok;

void fg_detok_init(fg_detok *d, const fg_tokenizer *t, fg_detok_special special);
/* Appends whole characters to *out; an id without a token gives nothing. */
void fg_detok_feed(fg_detok *d, uint32_t id, fg_buf *out);
/* End of the reply: an unfinished character becomes U+FFFD. */
void fg_detok_flush(fg_detok *d, fg_buf *out);

typedef void fg_think_fn(void *ctx, fg_think_part part, const char *text, size_t n);

/* Finds the tags as text, since in the released tokenizer they are ordinary words whose ids depend
 * on what follows.  "<think>" counts where a reply begins with it, white space aside, and the first
 * "</think>" after it; an answer may speak of either.  All text goes to emit in order, in pieces of
 * at least one byte. */
typedef struct fg_think {
    fg_think_fn *emit;
    void *ctx;
    int stage;     /* 0 white space only so far, 1 reasoning, 2 answer */
    size_t n_held; /* bytes of the tag seen at the end of the text so far */
} fg_think;

void fg_think_init(fg_think *s, fg_think_fn *emit, void *ctx);
/* As if the model had already written "<think>" (a prompt that ends with it). */
void fg_think_enter(fg_think *s);
void fg_think_feed(fg_think *s, const char *text, size_t n);
/* End of the reply: what looked like the start of a tag is text after all. */
void fg_think_flush(fg_think *s);

#endif
