/* SPDX-License-Identifier: MIT
 *
 * One automaton a text (Knuth, Morris, Pratt 1977): `at` bytes of it are the end of the stream so
 * far.  The largest `at` is what is held back, and since those bytes are the beginning of that
 * text, no copy of them is kept.
 */
#include "src/text/stops.h"

#include <stdint.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/utf8.h"

struct fg_stop {
    const char *text;
    size_t n, at;
    size_t *shorter; /* [n + 1] longest proper end of the first i bytes that is a beginning too */
};

static fg_status make(fg_stop *p, const char *text, fg_err *err)
{
    *p = (fg_stop){.text = text, .n = strlen(text)};
    if (p->n == 0 || fg_utf8_valid((const uint8_t *)text, p->n) != p->n) {
        return fg_fail(err, FG_EINVAL, "stop string: %s, expected a text in UTF-8",
                       p->n == 0 ? "empty" : "other bytes");
    }
    p->shorter = fg_mem_zalloc_array(p->n + 1, sizeof *p->shorter);
    if (p->shorter == NULL) return fg_fail_nomem(err, "stop string");
    for (size_t i = 1, k = 0; i < p->n; i++) {
        while (k > 0 && text[i] != text[k]) k = p->shorter[k];
        if (text[i] == text[k]) k++;
        p->shorter[i + 1] = k;
    }
    return FG_OK;
}

fg_status fg_stops_init(fg_stops *s, const char *const *text, size_t n, fg_err *err)
{
    *s = (fg_stops){0};
    if (n == 0) return FG_OK;
    s->stop = fg_mem_zalloc_array(n, sizeof *s->stop);
    if (s->stop == NULL) return fg_fail_nomem(err, "stop strings");
    fg_status st = FG_OK;
    for (; st == FG_OK && s->n < n; s->n++) st = make(&s->stop[s->n], text[s->n], err);
    if (st != FG_OK) fg_stops_fini(s);
    return st;
}

void fg_stops_fini(fg_stops *s)
{
    for (size_t i = 0; i < s->n; i++) fg_mem_free(s->stop[i].shorter);
    fg_mem_free(s->stop);
    *s = (fg_stops){0};
}

void fg_stops_reset(fg_stops *s)
{
    for (size_t i = 0; i < s->n; i++) s->stop[i].at = 0;
}

/* The longest beginning that the stream ends with. */
static size_t held(const fg_stops *s, const char **text)
{
    size_t most = 0;
    *text = NULL;
    for (size_t i = 0; i < s->n; i++) {
        if (s->stop[i].at <= most) continue;
        most = s->stop[i].at;
        *text = s->stop[i].text;
    }
    return most;
}

/* One byte; the length of the text that ends with it, 0: none does. */
static size_t advance(fg_stops *s, char c)
{
    size_t found = 0;
    for (size_t i = 0; i < s->n; i++) {
        fg_stop *p = &s->stop[i];
        while (p->at > 0 && p->text[p->at] != c) p->at = p->shorter[p->at];
        if (p->text[p->at] == c) p->at++;
        if (p->at == p->n && p->n > found) found = p->n;
    }
    return found;
}

bool fg_stops_feed(fg_stops *s, const char *text, size_t n, fg_stops_fn *emit, void *ctx)
{
    const char *old;
    const size_t n_old = held(s, &old);
    size_t found = 0, done = 0;
    while (done < n && found == 0) found = advance(s, text[done++]);
    const char *unused;
    const size_t out = n_old + done - (found > 0 ? found : held(s, &unused));
    const size_t first = out < n_old ? out : n_old;
    if (first > 0) emit(ctx, old, first);
    if (out > first) emit(ctx, text, out - first);
    return found > 0;
}

void fg_stops_flush(const fg_stops *s, fg_stops_fn *emit, void *ctx)
{
    const char *text;
    const size_t n = held(s, &text);
    if (n > 0) emit(ctx, text, n);
}
