/* SPDX-License-Identifier: MIT
 *
 * Text to ids and back: the same ids with a used and a new state, and the text again (its UTF-8
 * repaired), whole or streamed.  Input: 1 byte (markup counts), the text.
 */
#include <string.h>

#include "src/base/utf8.h"
#include "src/text/stream.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/words.h"

FUZZ_TARGET(encode, 2500)

static void seeds(void)
{
    size_t n;
    uint8_t *text = fuzz_read("tests/vectors/text/mixed.txt", &n);
    for (size_t at = 0; at + 400 < n && at < 8 * 9001; at += 9001) fuzz_seed(text + at, 400);
    free(text);
    fuzz_seed_text("\x01<beginning_of_sentence>user name=user\n<think>\xff\xc3<end_of_sentence>");
}

static bool same(const void *a, size_t n, const void *b, size_t m)
{
    return n == m && (n == 0 || memcmp(a, b, n) == 0);
}

static void one(const uint8_t *d, size_t n)
{
    static unsigned turn;
    fg_err err = {0};
    fg_tok_state *s;
    const fg_tokenizer *t = words_of_nano(&s);
    const bool markup = fuzz_take(&d, &n, 1) % 2 != 0;
    fg_ids ids = {0}, again = {0};
    fg_buf out = {0}, want = {0}, streamed = {0};
    FUZZ_CHECK(fg_tokenizer_encode(t, s, (const char *)d, n, markup, &ids, &err) == FG_OK);
    const bool fresh = turn++ % 32 == 0;
    FUZZ_CHECK(fg_tokenizer_encode(t, fresh ? NULL : s, (const char *)d, n, markup, &again, &err) ==
               FG_OK);
    FUZZ_CHECK(same(ids.data, 4 * ids.len, again.data, 4 * again.len));
    if (fuzz_planted && ids.len > 0) ids.data[ids.len / 2] ^= 1;
    FUZZ_CHECK(fg_tokenizer_decode(t, ids.data, ids.len, false, &out, &err) == FG_OK);
    fg_utf8_repair(&want, d, n);
    FUZZ_CHECK(same(out.data, out.len, want.data, want.len));
    fg_detok k;
    fg_detok_init(&k, t, FG_DETOK_PRINT);
    for (size_t i = 0; i < ids.len; i++) fg_detok_feed(&k, ids.data[i], &streamed);
    fg_detok_flush(&k, &streamed);
    FUZZ_CHECK(same(out.data, out.len, streamed.data, streamed.len));
    fg_ids_fini(&ids);
    fg_ids_fini(&again);
    fg_buf_fini(&out);
    fg_buf_fini(&want);
    fg_buf_fini(&streamed);
}
