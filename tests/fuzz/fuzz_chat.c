/* SPDX-License-Identifier: MIT
 *
 * A conversation: its text and its ids can be made or neither can, and the ids are those of the
 * text. Input: flags; then messages with 0x01 between, each a byte of role and flags and its parts,
 * 0x02 between.  A message that begins with '[' is the list of tools.
 */
#include <string.h>

#include "src/base/utf8.h"
#include "src/text/chat.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/words.h"

FUZZ_TARGET(chat, 2000)

enum { MAX_MESSAGE = 16, MAX_PART = 64, NAMED = 4, MARKUP = 8, CALLS = 16 };

static void seeds(void)
{
    fuzz_seed_text(
        "\x02\x04You are\x01\x05hello\x01\x06hi <think>\x01\x0dx\x02y\x01\x0fres\x02r2\x01"
        "[{\"name\":\"f\",\"p\":{\"a\":[1,2.5,null]}}]");
    fuzz_seed_text("\x03\x04  sys \x01\x12[{\"name\":\"f\",\"arguments\":{\"x\":1}}]\x01\x07res");
    fuzz_seed_text("\x02\x01<end_of_sentence>\x01\x09<end_of_sentence>");
}

typedef struct talk {
    fg_chat c;
    fg_chat_message message[MAX_MESSAGE];
    fg_chat_part part[MAX_PART];
    size_t n_part;
    fg_json *tools, *calls[MAX_MESSAGE];
} talk;

static void add_message(talk *k, const char *p, size_t n)
{
    if (n > 0 && p[0] == '[' && k->tools == NULL) {
        if (fg_json_parse(&k->tools, p, n, "tools", NULL) != FG_OK) k->tools = NULL;
        return;
    }
    if (n == 0 || k->c.n_message == MAX_MESSAGE) return;
    fg_json **calls = &k->calls[k->c.n_message];
    fg_chat_message *m = &k->message[k->c.n_message++];
    const int flags = p[0];
    m->role = (fg_chat_role)(flags & 3);
    m->part = &k->part[k->n_part];
    if ((flags & CALLS) != 0 && fg_json_parse(calls, p + 1, n - 1, "calls", NULL) == FG_OK) {
        m->tool_calls = *calls;
        return;
    }
    for (const char *at = p + 1, *end = p + n; at <= end && k->n_part < MAX_PART;) {
        const char *stop = at < end ? memchr(at, 2, (size_t)(end - at)) : NULL;
        const size_t len = (size_t)((stop == NULL ? end : stop) - at);
        k->part[k->n_part++] =
            (fg_chat_part){at, len, (flags & NAMED) != 0 ? "tool" : NULL, (flags & MARKUP) != 0};
        m->n_part++;
        at += len + 1;
    }
}

static void one(const uint8_t *d, size_t n)
{
    talk k = {0};
    fg_err err = {0};
    fg_tok_state *s;
    const fg_tokenizer *t = words_of_nano(&s);
    const uint64_t flags = fuzz_take(&d, &n, 1);
    k.c.style = (flags & 1) != 0 ? FG_CHAT_MINIMAX_AI : FG_CHAT_OFFICIAL;
    k.c.generate = (flags & 2) != 0;
    k.c.message = k.message;
    while (n > 0) {
        const uint8_t *stop = memchr(d, 1, n);
        const size_t len = stop == NULL ? n : (size_t)(stop - d);
        add_message(&k, (const char *)d, len);
        d += stop == NULL ? len : len + 1;
        n -= stop == NULL ? len : len + 1;
    }
    k.c.tools = k.tools;
    fg_buf text = {0}, back = {0};
    fg_ids ids = {0};
    const fg_status st = fg_chat_render(&k.c, &text, &err);
    fuzz_check_status(st, &err);
    const fg_status as_ids = fg_chat_encode(&k.c, t, s, &ids, &err);
    fuzz_check_status(as_ids, &err);
    FUZZ_CHECK((st == FG_OK) == (as_ids == FG_OK));
    if (fuzz_planted && ids.len > 0) ids.len--;
    if (as_ids == FG_OK) {
        fg_buf want = {0};
        FUZZ_CHECK(fg_tokenizer_decode(t, ids.data, ids.len, false, &back, &err) == FG_OK);
        fg_utf8_repair(&want, text.data, text.len);
        FUZZ_CHECK(back.len == want.len &&
                   (back.len == 0 || memcmp(back.data, want.data, back.len) == 0));
        fg_buf_fini(&want);
    } else {
        FUZZ_CHECK(ids.len == 0);
    }
    fg_buf_fini(&text);
    fg_buf_fini(&back);
    fg_ids_fini(&ids);
    fg_json_free(k.tools);
    for (int i = 0; i < MAX_MESSAGE; i++) fg_json_free(k.calls[i]);
}
