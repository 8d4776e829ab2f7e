/* SPDX-License-Identifier: MIT
 *
 * A model's reply, which may be any ids: whole characters come out, and cutting it into reasoning
 * and answer loses nothing.  Input: 1 byte of flags, ids of 2 bytes each.
 */
#include <string.h>

#include "src/base/utf8.h"
#include "src/text/stream.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/words.h"

FUZZ_TARGET(stream, 3000)

static void seeds(void)
{
    fg_ids ids = {0};
    static const char text[] =
        "<think>reasons \xe4\xb8\xad</think>answer <think></think> \xf0\x9f\x99\x82";
    if (fg_tokenizer_encode(words_of_nano(NULL), NULL, text, sizeof text - 1, false, &ids, NULL) !=
        FG_OK)
        return;
    uint8_t seed[1 + 2 * 256] = {0};
    for (size_t i = 0; i < ids.len && i < 256; i++) fuzz_put_le(seed + 1 + 2 * i, 2, ids.data[i]);
    for (unsigned flags = 0; flags < 12; flags++) {
        seed[0] = (uint8_t)flags;
        fuzz_seed(seed, 1 + 2 * (ids.len < 256 ? ids.len : 256));
    }
    fg_ids_fini(&ids);
}

static void emit(void *ctx, fg_think_part part, const char *text, size_t n)
{
    (void)part;
    FUZZ_CHECK(n > 0);
    fg_buf_put(ctx, text, fuzz_planted ? n - 1 : n);
}

static bool same(const fg_buf *a, const fg_buf *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

static void one(const uint8_t *d, size_t n)
{
    const fg_tokenizer *t = words_of_nano(NULL);
    const uint64_t flags = fuzz_take(&d, &n, 1);
    const fg_detok_special special = (fg_detok_special)(flags % 3);
    fg_buf out = {0}, raw = {0}, want = {0}, got = {0};
    fg_detok k;
    fg_think think;
    size_t fed = 0;
    fg_detok_init(&k, t, special);
    fg_think_init(&think, emit, &got);
    if ((flags & 8) != 0) fg_think_enter(&think);
    for (bool last = false; !last;) {
        last = n < 2;
        if (last) {
            fg_detok_flush(&k, &out);
        } else {
            uint32_t id = (uint32_t)fuzz_take(&d, &n, 2);
            if ((id & 0xff) == 0xff) id = UINT32_MAX - (id >> 8);
            fg_detok_feed(&k, id, &out);
            const uint8_t *bytes;
            size_t m;
            if (fg_tokenizer_token(t, id, &bytes, &m)) fg_buf_put(&raw, bytes, m);
        }
        FUZZ_CHECK(k.n_held <= 3);
        if (out.len > fed) fg_think_feed(&think, (const char *)out.data + fed, out.len - fed);
        fed = out.len;
    }
    fg_think_flush(&think);
    FUZZ_CHECK(fg_utf8_valid(out.data, out.len) == out.len);
    FUZZ_CHECK(same(&got, &out));
    if (special == FG_DETOK_PRINT) {
        fg_utf8_repair(&want, raw.data, raw.len);
        FUZZ_CHECK(same(&want, &out));
    }
    fg_buf_fini(&out);
    fg_buf_fini(&raw);
    fg_buf_fini(&want);
    fg_buf_fini(&got);
}
