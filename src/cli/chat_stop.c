/* SPDX-License-Identifier: MIT
 *
 * A reply that a stop string has ended: which of its ids stay.
 */
#include <string.h>

#include "src/base/mem.h"
#include "src/cli/conversation.h"

/* The text of a reply as its ids have it, and of that the answer. */
typedef struct spelt {
    fg_buf text, answer;
    size_t from, at; /* where the answer begins in the text; bytes that were sorted */
} spelt;

static void sort_text(void *ctx, fg_think_part part, const char *text, size_t n)
{
    spelt *y = ctx;
    if (part != FG_THINK_ANSWER) y->answer.len = 0;
    if (part == FG_THINK_ANSWER && y->answer.len == 0) y->from = y->at;
    if (part == FG_THINK_ANSWER) fg_buf_put(&y->answer, text, n);
    y->at += n;
}

/* Where in the text the first stop string begins; its end: nowhere. */
static size_t find_stop(const talk *k, spelt *y)
{
    const char *a = fg_buf_str(&y->answer);
    size_t best = y->answer.len;
    if (a == NULL) return y->text.len;
    const size_t skip = strspn(a, " \t\r\n");
    for (size_t i = 0; i < k->gen.stop.n; i++) {
        const char *found = strstr(a + skip, k->gen.stop.text[i]);
        if (found != NULL && (size_t)(found - a) < best) best = (size_t)(found - a);
    }
    return y->from + best;
}

fg_status chat_cut_stop(talk *k, turn *u, fg_err *err)
{
    fg_detok d;
    fg_think think;
    spelt y = {0};
    const uint64_t n = k->ids.len;
    size_t *len = fg_mem_zalloc_array((size_t)(n - u->prompt) + 1, sizeof *len), whole = 0;
    if (len == NULL) return fg_fail_nomem(err, "reply");
    fg_detok_init(&d, k->t, FG_DETOK_THINK);
    for (uint64_t i = u->prompt; i < n; i++) { /* bytes before id i; SIZE_MAX: in a character */
        len[i - u->prompt] = d.n_held > 0 ? SIZE_MAX : y.text.len;
        fg_detok_feed(&d, k->ids.data[i], &y.text);
    }
    fg_detok_flush(&d, &y.text);
    fg_think_init(&think, sort_text, &y);
    fg_think_feed(&think, (const char *)y.text.data, y.text.len);
    fg_think_flush(&think);
    const size_t end = find_stop(k, &y);
    for (uint64_t i = u->prompt; end < y.text.len && i < n; i++) {
        if (len[i - u->prompt] > end) continue;
        k->ids.len = (size_t)i;
        whole = len[i - u->prompt];
    }
    fg_status st = y.text.failed || y.answer.failed ? fg_fail_nomem(err, "reply") : FG_OK;
    if (st == FG_OK && end < y.text.len && whole < end) {
        st = fg_tokenizer_encode(k->t, k->words, (const char *)y.text.data + whole, end - whole,
                                 false, &k->ids, err);
    }
    if (end >= y.from && u->answer.len > end - y.from) u->answer.len = end - y.from;
    fg_mem_free(len);
    fg_buf_fini(&y.text);
    fg_buf_fini(&y.answer);
    return st;
}
