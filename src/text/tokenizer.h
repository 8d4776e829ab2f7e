/* SPDX-License-Identifier: MIT
 *
 * Text <-> token ids for any byte-level BPE tokenizer in Hugging Face's tokenizer.json form, equal
 * id for id to the reference implementation (Python package "tokenizers" 0.23, Unicode 16
 * character classes):
 *
 *     text -> added tokens cut out (leftmost, longest) -> NFC if the file asks for it
 *          -> regular expressions of the file split it into words -> BPE on the bytes of each word.
 *
 * Text that is not valid UTF-8 is read as the reference's Python binding would receive it after
 * bytes.decode("utf-8", "replace"): each ill-formed maximal subpart becomes one U+FFFD.
 *
 * Supported: normalizer null, NFC; pre_tokenizer ByteLevel (without prefix space), alone or after
 * any number of Split in a Sequence, Split being "Isolated" or inverted "Removed"; BPE without
 * unk, dropout, prefix, suffix, byte fallback; ignore_merges either way; post_processor null or
 * ByteLevel; decoder ByteLevel; added tokens without single_word, lstrip, rstrip.  Everything else
 * is refused by name (FG_ENOTSUP); truncation and padding settings are ignored.
 *
 * NFC is that of the reference, which knows the characters of Unicode 10 and leaves later ones as
 * they are.
 *
 * An added token has the id that the file gives it; the reference numbers those that are not in the
 * model's vocabulary from its size on, which is the same for files that it wrote itself.
 *
 * A fg_tokenizer is immutable after creation and may be used from many threads; what a call writes
 * is in a fg_tok_state, one for each thread.
 */
#ifndef FG_SRC_TEXT_TOKENIZER_H
#define FG_SRC_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/base/status.h"

typedef struct fg_tokenizer fg_tokenizer;

/* Scratch memory and word cache of one thread (about 2 MiB).  Changes speed, never a result. */
typedef struct fg_tok_state fg_tok_state;

/* Growable token ids.  Zero-initialise; free with fg_ids_fini.  `data` may be NULL at len 0. */
typedef struct fg_ids {
    uint32_t *data;
    size_t len;
    size_t cap;
} fg_ids;

void fg_ids_fini(fg_ids *ids);
/* False when out of memory (ids unchanged). */
bool fg_ids_push(fg_ids *ids, uint32_t id);

/* json: the n bytes of a tokenizer.json, not needed after the call.  name: for messages, copied.
 * Errors: FG_EFORMAT, FG_ENOTSUP, FG_ELIMIT, FG_ENOMEM. */
fg_status fg_tokenizer_create(fg_tokenizer **out, const char *json, size_t n, const char *name,
                              fg_err *err);
/* Accepts NULL; *t becomes NULL. */
void fg_tokenizer_destroy(fg_tokenizer **t);

fg_status fg_tok_state_create(fg_tok_state **out, const fg_tokenizer *t, fg_err *err);
/* Accepts NULL; *s becomes NULL. */
void fg_tok_state_destroy(fg_tok_state **s);
/* Called now and then while a text is encoded; false stops it with FG_ECANCEL.  NULL: never. */
void fg_tok_state_set_poll(fg_tok_state *s, bool (*poll)(void *ctx), void *ctx);

/* Appends the ids of n bytes of text to *ids (unchanged on failure).  parse_special: special tokens
 * written in the text become their ids; otherwise they are plain text, while added tokens that are
 * not special are found either way (the reference's encode_special_tokens).  s: state made for t,
 * or NULL to make one for this call.  Nothing is added before or after it.
 * Errors: FG_ELIMIT (the file's pattern would take too long), FG_ECANCEL, FG_ENOMEM. */
fg_status fg_tokenizer_encode(const fg_tokenizer *t, fg_tok_state *s, const char *text, size_t n,
                              bool parse_special, fg_ids *ids, fg_err *err);

/* Appends the bytes of n ids to *out; the bytes of one id need not be whole characters (see
 * fg_detok).  skip_special: special tokens give nothing.  An id without a token is FG_EINVAL. */
fg_status fg_tokenizer_decode(const fg_tokenizer *t, const uint32_t *ids, size_t n,
                              bool skip_special, fg_buf *out, fg_err *err);

const char *fg_tokenizer_name(const fg_tokenizer *t);
/* Largest id + 1; ids below it need not all have a token. */
uint32_t fg_tokenizer_n_id(const fg_tokenizer *t);
/* Number of ids that have a token. */
uint32_t fg_tokenizer_n_token(const fg_tokenizer *t);

/* Whether the id has a token; any value may be asked. */
bool fg_tokenizer_has(const fg_tokenizer *t, uint32_t id);
bool fg_tokenizer_is_special(const fg_tokenizer *t, uint32_t id);

/* The bytes that a token stands for; borrowed until destroy; false (NULL, 0) when it has none. */
bool fg_tokenizer_token(const fg_tokenizer *t, uint32_t id, const uint8_t **bytes, size_t *n);

/* The added token with exactly this content. */
bool fg_tokenizer_find_added(const fg_tokenizer *t, const char *content, uint32_t *id);

/* First special token in the text: its id, where it starts and how long it is.  False: none. */
bool fg_tokenizer_find_special(const fg_tokenizer *t, const char *text, size_t n, uint32_t *id,
                               size_t *begin, size_t *len);

/* Sets bit i % 64 of mask[i / 64] for each id i < n_vocab that has a token and clears the others;
 * mask holds (n_vocab + 63) / 64 words.  For fg_sampler_create. */
void fg_tokenizer_mask(const fg_tokenizer *t, uint64_t *mask, uint32_t n_vocab);

#endif
