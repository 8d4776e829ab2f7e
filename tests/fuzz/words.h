/* SPDX-License-Identifier: MIT
 *
 * Tokenizers of the fuzz targets that need one.
 */
#ifndef FG_TESTS_FUZZ_WORDS_H
#define FG_TESTS_FUZZ_WORDS_H

#include <stdlib.h>

#include "src/base/buf.h"
#include "src/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

/* That of nano, made once; a state for it in *s unless s is NULL. */
static inline const fg_tokenizer *words_of_nano(fg_tok_state **s)
{
    static fg_tokenizer *t;
    static fg_tok_state *state;
    size_t n;
    if (t == NULL) {
        uint8_t *json = fuzz_read("tests/models/m1-nano/tokenizer.json", &n);
        if (fg_tokenizer_create(&t, (const char *)json, n, "nano", NULL) != FG_OK) abort();
        if (fg_tok_state_create(&state, t, NULL) != FG_OK) abort();
        free(json);
    }
    if (s != NULL) *s = state;
    return t;
}

/* The smallest complete tokenizer.json: all bytes, three merges, added tokens of each kind. */
static inline void words_put_small(fg_buf *b, const char *normalizer, const char *merges)
{
    fg_buf_printf(
        b,
        "{\"added_tokens\":[{\"id\":259,\"content\":\"<end_of_sentence>\",\"special\":true,"
        "\"normalized\":false},{\"id\":260,\"content\":\"<think>\",\"special\":true},"
        "{\"id\":261,\"content\":\"bcd\",\"special\":false,\"normalized\":true}],"
        "\"normalizer\":%s,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{L}+|\\\\s+(?!\\\\S)|\\\\s\"},"
        "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":false,\"use_regex\":false}]},\"post_processor\":null,"
        "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\","
        "\"ignore_merges\":false,\"vocab\":{",
        normalizer);
    unsigned next = 0x100;
    for (unsigned byte = 0; byte < 256; byte++) {
        const bool own = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        fg_buf_printf(b, "\"\\u%04x\":%u,", own ? byte : next++, byte);
    }
    fg_buf_printf(b, "\"ab\":256,\"abc\":257,\"bc\":258},\"merges\":%s}}", merges);
}

#endif
