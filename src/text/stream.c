/* SPDX-License-Identifier: MIT */
#include "src/text/stream.h"

#include <string.h>

#include "src/base/utf8.h"

static const char *const tags[2] = {"<think>", "</think>"};

void fg_detok_init(fg_detok *d, const fg_tokenizer *t, fg_detok_special special)
{
    *d = (fg_detok){.t = t, .special = special};
}

static bool is_tag(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < 2; i++) {
        if (n == strlen(tags[i]) && memcmp(bytes, tags[i], n) == 0) return true;
    }
    return false;
}

void fg_detok_feed(fg_detok *d, uint32_t id, fg_buf *out)
{
    const uint8_t *p;
    size_t n;
    if (!fg_tokenizer_token(d->t, id, &p, &n)) return;
    if (fg_tokenizer_is_special(d->t, id) && d->special != FG_DETOK_PRINT &&
        (d->special == FG_DETOK_SKIP || !is_tag(p, n))) {
        return;
    }
    /* Complete the held character byte by byte: fg_utf8_next says whether it is still open. */
    while (d->n_held > 0 && n > 0) {
        d->held[d->n_held] = *p;
        uint32_t cp;
        const size_t len = fg_utf8_next(d->held, d->n_held + 1, &cp);
        if (cp == FG_UTF8_CUT) {
            d->n_held++;
        } else if (cp == FG_UTF8_BAD) { /* the new byte does not belong to it */
            fg_utf8_put(out, FG_UTF8_REPLACEMENT);
            d->n_held = 0;
            break;
        } else {
            fg_buf_put(out, d->held, len);
            d->n_held = 0;
        }
        p++;
        n--;
    }
    while (n > 0) {
        const size_t good = fg_utf8_valid(p, n);
        fg_buf_put(out, p, good);
        p += good;
        n -= good;
        if (n == 0) break;
        uint32_t cp;
        const size_t len = fg_utf8_next(p, n, &cp);
        if (cp == FG_UTF8_CUT) {
            memcpy(d->held, p, n);
            d->n_held = n;
            break;
        }
        fg_utf8_put(out, FG_UTF8_REPLACEMENT);
        p += len;
        n -= len;
    }
}

void fg_detok_flush(fg_detok *d, fg_buf *out)
{
    if (d->n_held > 0) fg_utf8_put(out, FG_UTF8_REPLACEMENT);
    d->n_held = 0;
}

void fg_think_init(fg_think *s, fg_think_fn *emit, void *ctx)
{
    *s = (fg_think){.emit = emit, .ctx = ctx};
}

void fg_think_enter(fg_think *s)
{
    s->stage = 1;
}

static fg_think_part part_of(const fg_think *s)
{
    return s->stage == 1 ? FG_THINK_REASONING : FG_THINK_ANSWER;
}

void fg_think_feed(fg_think *s, const char *text, size_t n)
{
    size_t done = 0; /* bytes given out, or counted in n_held */
    for (size_t i = 0; i < n && s->stage < 2; i++) {
        const char *tag = tags[s->stage];
        if (s->n_held > 0 && text[i] != tag[s->n_held]) {
            /* Not the tag.  What was held is text; '<' occurs in a tag only at its start, so
             * nothing inside can begin another one. */
            s->emit(s->ctx, part_of(s), tag, s->n_held);
            s->n_held = 0;
            done = i;
            if (s->stage == 0) { /* the answer has begun without reasoning */
                s->stage = 2;
                break;
            }
        }
        if (text[i] != tag[s->n_held]) {
            if (s->stage == 0 && memchr(" \t\r\n", text[i], 4) == NULL) s->stage = 2;
            continue;
        }
        if (s->n_held == 0 && i > done) s->emit(s->ctx, part_of(s), text + done, i - done);
        s->n_held++;
        done = i + 1;
        if (tag[s->n_held] != '\0') continue;
        s->emit(s->ctx, FG_THINK_TAG, tag, s->n_held);
        s->n_held = 0;
        s->stage++;
    }
    if (n > done) s->emit(s->ctx, part_of(s), text + done, n - done);
}

void fg_think_flush(fg_think *s)
{
    if (s->n_held > 0) s->emit(s->ctx, part_of(s), tags[s->stage], s->n_held);
    s->n_held = 0;
}
