/* SPDX-License-Identifier: MIT
 *
 * What happens to text before BPE: Unicode normalization (NFC) and splitting into words by the
 * tokenizer's regular expressions.  The only user of PCRE2 and utf8proc.
 *
 * fg_pretok is immutable once its patterns are added and is shared by threads; each thread has a
 * fg_pretok_state.  Time is linear in the text, also for megabytes of one character class: a
 * pattern that would take longer is stopped, and so is one that takes much memory (FG_ELIMIT); any
 * failure inside PCRE2 is reported, never taken for "no match".
 */
#ifndef FG_SRC_TEXT_PRETOKEN_H
#define FG_SRC_TEXT_PRETOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/base/status.h"

typedef struct fg_pretok fg_pretok;
typedef struct fg_pretok_state fg_pretok_state;

typedef enum fg_cut {
    FG_CUT_ISOLATED, /* matches and the text between them are pieces */
    FG_CUT_MATCHES,  /* matches are pieces, the text between them is dropped */
} fg_cut;

enum { FG_PRETOK_MAX_SPLIT = 16 };

fg_status fg_pretok_create(fg_pretok **out, bool nfc, fg_err *err);
void fg_pretok_destroy(fg_pretok **p); /* accepts NULL; *p becomes NULL */

/* Appends a split, applied to the pieces of the ones before.  literal: the pattern is plain text.
 * name: object of messages.  Errors: FG_EFORMAT, FG_ENOTSUP, FG_ELIMIT, FG_ENOMEM. */
fg_status fg_pretok_add(fg_pretok *p, const char *pattern, size_t n, bool literal, fg_cut kind,
                        const char *name, fg_err *err);

fg_status fg_pretok_state_create(fg_pretok_state **out, fg_err *err);
void fg_pretok_state_destroy(fg_pretok_state **s);
/* Called now and then while text is split; false stops it with FG_ECANCEL.  NULL: never. */
typedef bool fg_pretok_poll(void *ctx);
void fg_pretok_state_set_poll(fg_pretok_state *s, fg_pretok_poll *poll, void *ctx);

/* Normal form of valid UTF-8: *out is `text` itself where nothing changes (the usual case), else
 * *scratch->data, which is overwritten. */
fg_status fg_pretok_normalize(const fg_pretok *p, const uint8_t *text, size_t n, fg_buf *scratch,
                              const uint8_t **out, size_t *n_out, fg_err *err);

/* Calls emit for each word (not empty) of valid UTF-8, in order; stops at the first failure.
 * Errors: those of emit, FG_ELIMIT, FG_ECANCEL, FG_ENOMEM. */
typedef fg_status fg_word_fn(void *ctx, const uint8_t *word, size_t n, fg_err *err);
fg_status fg_pretok_run(const fg_pretok *p, fg_pretok_state *s, const uint8_t *text, size_t n,
                        fg_word_fn *emit, void *ctx, fg_err *err);

#endif
