/* SPDX-License-Identifier: MIT
 *
 * tokenizer.json: one that was accepted takes any text apart into ids that it has.
 */
#include <string.h>

#include "src/text/chat.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/words.h"

FUZZ_TARGET(tokenizer, 1500)

static void seed_small(const char *normalizer, const char *merges)
{
    fg_buf b = {0};
    words_put_small(&b, normalizer, merges);
    fuzz_seed(b.data, b.len);
    fg_buf_fini(&b);
}

static void seeds(void)
{
    seed_small("null", "[\"a b\",\"ab c\",\"b c\"]");
    seed_small("{\"type\":\"NFC\"}", "[[\"a\",\"b\"],[\"ab\",\"c\"],[\"b\",\"c\"]]");
}

static void one(const uint8_t *d, size_t n)
{
    static const char text[] =
        "abc  w\xc3\xb6rld<think> 12 \n\n \xe4\xb8\xad\xff e\xcc\x81 <end_of_sentence>bcd";
    fg_err err = {0};
    fg_tokenizer *t;
    fg_status st = fg_tokenizer_create(&t, (const char *)d, n, "t", &err);
    fuzz_check_status(st, &err);
    FUZZ_CHECK((t != NULL) == (st == FG_OK));
    if (st != FG_OK) return;
    fg_ids ids = {0};
    fg_buf out = {0};
    for (int markup = 0; markup < 2; markup++) {
        ids.len = out.len = 0;
        st = fg_tokenizer_encode(t, NULL, text, sizeof text - 1, markup != 0, &ids, &err);
        fuzz_check_status(st, &err);
        for (size_t i = 0; i < ids.len; i++) {
            FUZZ_CHECK(fg_tokenizer_has(t, ids.data[i] + (fuzz_planted ? 1u << 25 : 0)));
        }
        FUZZ_CHECK(fg_tokenizer_decode(t, ids.data, ids.len, false, &out, &err) == FG_OK);
    }
    uint32_t id;
    st = fg_chat_end_id(t, &id, &err);
    fuzz_check_status(st, &err);
    FUZZ_CHECK(fg_tokenizer_n_token(t) <= fg_tokenizer_n_id(t));
    fg_ids_fini(&ids);
    fg_buf_fini(&out);
    fg_tokenizer_destroy(&t);
}
