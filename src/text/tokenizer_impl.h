/* SPDX-License-Identifier: MIT
 *
 * The inside of a fg_tokenizer, shared by tokenizer.c (use) and tokenizer_load.c (tokenizer.json).
 */
#ifndef FG_SRC_TEXT_TOKENIZER_IMPL_H
#define FG_SRC_TEXT_TOKENIZER_IMPL_H

#include "src/text/bpe.h"
#include "src/text/pretoken.h"
#include "src/text/tokenizer.h"
#include "src/text/vocab.h"

/* Added tokens of one matching pass, sorted by the bytes that are looked for. */
typedef struct fg_added {
    const uint8_t *text; /* bytes looked for; in fg_tokenizer.added_text */
    uint32_t len;
    uint32_t id;
} fg_added;

typedef struct fg_added_set {
    fg_added *entry; /* [n], sorted bytewise, a prefix before what it begins */
    size_t n;
    bool first[256]; /* some entry begins with this byte */
} fg_added_set;

enum {
    FG_ADDED_RAW = 0,        /* "normalized": false; matched before normalization */
    FG_ADDED_NORMALIZED = 1, /* matched in the normalized text between the former */
    FG_ADDED_PASSES = 2,
};

struct fg_tokenizer {
    char *name;
    fg_vocab vocab;
    fg_bpe bpe;
    fg_pretok *pretok;
    fg_buf added_text;
    fg_added_set added[FG_ADDED_PASSES];
};

/* Fills a zeroed tokenizer, except name, from a document; a partly filled one is the caller's to
 * destroy. */
fg_status fg_tokenizer_load(fg_tokenizer *t, const char *json, size_t n, fg_err *err);

#endif
