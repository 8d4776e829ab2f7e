/* SPDX-License-Identifier: MIT
 *
 * The vocabulary: bytes and flags of each id, and a hash from bytes to id for the tokens of the
 * BPE model.  Also the byte <-> character alphabet of byte-level BPE: tokenizer.json writes each
 * byte of a token as one printable character (bytes that are printable in Latin-1 as themselves,
 * the 68 others as U+0100 + their order).
 */
#ifndef FG_SRC_TEXT_VOCAB_H
#define FG_SRC_TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/base/status.h"

enum {
    FG_TOKEN_PRESENT = 1,
    FG_TOKEN_ADDED = 2,
    FG_TOKEN_SPECIAL = 4,
    FG_TOKEN_MAX_ID = (1 << 24) - 1, /* more than any vocabulary; bounds the tables of a bad file */
};
#define FG_NO_TOKEN UINT32_MAX

typedef struct fg_token {
    uint32_t begin; /* of its bytes in fg_vocab.bytes */
    uint32_t len;
    uint32_t flags;
} fg_token;

typedef struct fg_vocab {
    fg_buf bytes;     /* of all tokens, one after another */
    fg_token *token;  /* [n_id] */
    uint32_t n_id;    /* largest id + 1 */
    uint32_t n_token; /* ids present */
    size_t cap;       /* of token */
    uint32_t *slot;   /* [n_slot] open addressing, FG_NO_TOKEN = empty; NULL before index */
    size_t n_slot;    /* power of two */
} fg_vocab;

void fg_vocab_fini(fg_vocab *v);

/* Appends the bytes of a token written in the alphabet; false when a character is outside of it
 * (*out then holds a part). */
bool fg_bytes_of_token(const char *text, size_t n, fg_buf *out);

/* Gives id the bytes; it must not be present yet.  False when out of memory or past 4 GiB. */
bool fg_vocab_set(fg_vocab *v, uint32_t id, const uint8_t *bytes, size_t n, uint32_t flags);

/* Empty hash for n tokens. */
bool fg_vocab_index(fg_vocab *v, size_t n);
/* Enters id under its bytes; false when these bytes are there already (*other: under which id). */
bool fg_vocab_enter(fg_vocab *v, uint32_t id, uint32_t *other);
/* FG_NO_TOKEN when absent. */
uint32_t fg_vocab_find(const fg_vocab *v, const uint8_t *bytes, size_t n);

#endif
