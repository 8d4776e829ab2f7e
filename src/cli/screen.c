/* SPDX-License-Identifier: MIT */
#include "src/cli/screen.h"

#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "src/base/units.h"
#include "src/base/utf8.h"

void screen_use_utf8(void)
{
    (void)setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") == 0) return;
    if (setlocale(LC_CTYPE, "C.UTF-8") == NULL) (void)setlocale(LC_CTYPE, "en_US.UTF-8");
}

void screen_fini(screen *s)
{
    fg_buf_fini(&s->thought);
}

void screen_begin(screen *s)
{
    s->thought.len = 0;
    memset(s->head, 0, sizeof s->head);
    s->at = s->drawn = s->column = s->tail = 0;
    s->dim = s->spoke = false;
}

/* ---- characters ---- */

static unsigned width_of(uint32_t cp)
{
    if (cp < 0x7f) return 1;
    const int w = wcwidth((wchar_t)cp);
    return w < 0 ? 1 : (unsigned)w; /* one that the locale lacks */
}

void screen_put_safe(fg_buf *out, const char *text, size_t n)
{
    const uint8_t *p = (const uint8_t *)text;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        const size_t len = fg_utf8_next(p + i, n - i, &cp);
        const bool ends = cp == '\r' && i + 1 < n && p[i + 1] == '\n';
        i += len;
        if (ends) continue;
        const bool bad = cp == FG_UTF8_BAD || cp == FG_UTF8_CUT ||
                         (fg_utf8_is_control(cp) && cp != '\n' && cp != '\t');
        fg_utf8_put(out, bad ? (uint32_t)FG_UTF8_REPLACEMENT : cp);
    }
}

/* ---- text that stays ---- */

static void wipe_tail(screen *s, fg_buf *out)
{
    if (s->tail > 0) fg_buf_put_str(out, "\033[K");
    s->tail = 0;
}

/* Rows in place are gone, the cursor at the left where the first one was. */
static void wipe_rows(screen *s, fg_buf *out)
{
    if (s->drawn == 0) return;
    fg_buf_u8(out, '\r');
    if (s->drawn > 1) fg_buf_printf(out, "\033[%uA", s->drawn - 1);
    fg_buf_put_str(out, s->drawn > 1 ? "\033[J" : "\033[K");
    s->drawn = 0;
}

static void set_dim(screen *s, bool dim, fg_buf *out)
{
    if (s->dims && dim != s->dim) fg_buf_put_str(out, dim ? "\033[2m" : "\033[0m");
    s->dim = dim;
}

static void advance(screen *s, uint32_t cp)
{
    const unsigned width = s->width > 1 ? s->width : 80;
    if (cp == '\n') {
        s->column = 0;
    } else if (cp == '\t') {
        s->column = (s->column / 8 + 1) * 8;
        if (s->column >= width) s->column = width - 1;
    } else {
        const unsigned w = width_of(cp);
        s->column = s->column + w > width ? w : s->column + w;
    }
}

void screen_say(screen *s, const char *text, size_t n, bool dim, fg_buf *out)
{
    fg_buf safe = {0};
    wipe_rows(s, out);
    wipe_tail(s, out);
    set_dim(s, dim, out);
    screen_put_safe(&safe, text, n);
    for (size_t i = 0; i < safe.len;) {
        uint32_t cp;
        i += fg_utf8_next(safe.data + i, safe.len - i, &cp);
        advance(s, cp);
    }
    fg_buf_put(out, safe.data, safe.len);
    out->failed = out->failed || safe.failed;
    fg_buf_fini(&safe);
    if (n > 0) s->spoke = true;
}

void screen_clear(screen *s, fg_buf *out)
{
    wipe_rows(s, out);
    wipe_tail(s, out);
    set_dim(s, false, out);
}

void screen_line(screen *s, const char *text, fg_buf *out)
{
    screen_clear(s, out);
    if (s->column > 0) fg_buf_u8(out, '\n');
    set_dim(s, true, out);
    screen_put_safe(out, text, strlen(text));
    set_dim(s, false, out);
    fg_buf_u8(out, '\n');
    s->column = 0;
}

void screen_wait(screen *s, const char *text, fg_buf *out)
{
    const unsigned n = (unsigned)strlen(text);
    if (s->drawn > 0 || s->column + n >= s->width) return;
    wipe_tail(s, out);
    const bool was = s->dim;
    set_dim(s, true, out);
    fg_buf_printf(out, "%s\033[%uD", text, n);
    set_dim(s, was, out);
    s->tail = n;
}

void screen_moved(screen *s, unsigned width, fg_buf *out)
{
    if (s->drawn > 0) fg_buf_u8(out, '\n'); /* where they are now, nobody knows */
    s->drawn = s->tail = 0;
    s->width = width;
    const size_t last = 4096, from = s->thought.len > last ? s->thought.len - last : 0;
    const size_t n = s->thought.len - from;
    char *copy = malloc(n + 1); /* its rows are other ones now */
    if (copy == NULL) return;
    if (n > 0) memcpy(copy, s->thought.data + from, n);
    s->thought.len = from;
    for (unsigned i = 0; i < SCREEN_ROWS; i++) s->head[i] = from;
    s->at = 0;
    screen_think(s, copy, n);
    free(copy);
}

/* ---- the thought ---- */

static void begin_row(screen *s, size_t at)
{
    memmove(s->head + 1, s->head, (SCREEN_ROWS - 1) * sizeof s->head[0]);
    s->head[0] = at;
    s->at = 0;
}

void screen_think(screen *s, const char *text, size_t n)
{
    const unsigned width = s->width > 2 ? s->width - 1 : 79;
    const size_t from = s->thought.len;
    screen_put_safe(&s->thought, text, n);
    for (size_t i = from; i < s->thought.len;) {
        uint32_t cp;
        const size_t at = i;
        i += fg_utf8_next(s->thought.data + i, s->thought.len - i, &cp);
        if (cp == '\n') {
            if (s->at > 0)
                begin_row(s, i); /* rows without text would take the others' place */
            else
                s->head[0] = i;
            continue;
        }
        const unsigned w = cp == '\t' ? 8 - s->at % 8 : width_of(cp);
        if (s->at + w > width) begin_row(s, at);
        s->at += w;
    }
}

/* A row of the thought without its line ends. */
static void put_row(const screen *s, size_t from, size_t to, fg_buf *out)
{
    unsigned column = 0;
    while (from < to && s->thought.data[from] == '\n') from++;
    for (; from < to; from++) {
        const uint8_t c = s->thought.data[from];
        if (c == '\n') break;
        if (c == '\t') {
            for (unsigned stop = (column / 8 + 1) * 8; column < stop; column++) {
                fg_buf_u8(out, ' ');
            }
            continue;
        }
        fg_buf_u8(out, c);
        column += (c & 0xc0) != 0x80;
    }
}

/* As much of a text as fits into a row. */
static void put_cut(const screen *s, const char *text, fg_buf *out)
{
    const unsigned width = s->width > 2 ? s->width - 1 : 79;
    const size_t n = strlen(text);
    unsigned at = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        const size_t len = fg_utf8_next((const uint8_t *)text + i, n - i, &cp);
        at += width_of(cp);
        if (at > width) return;
        fg_buf_put(out, text + i, len);
        i += len;
    }
}

void screen_rows(screen *s, const char *figures, fg_buf *out)
{
    unsigned n = 0;
    wipe_tail(s, out);
    if (s->column > 0) { /* behind text that stays they get rows of their own */
        set_dim(s, false, out);
        fg_buf_u8(out, '\n');
        s->column = 0;
    }
    wipe_rows(s, out);
    set_dim(s, true, out);
    /* a row that has only just begun takes no place */
    const bool begun = s->thought.len > s->head[0];
    for (unsigned i = begun ? SCREEN_ROWS - 1 : SCREEN_ROWS; i-- > 0;) {
        const size_t from = s->head[i], to = i == 0 ? s->thought.len : s->head[i - 1];
        if (from >= to) continue;
        put_row(s, from, to, out);
        fg_buf_u8(out, '\n');
        n++;
    }
    put_cut(s, figures, out);
    set_dim(s, false, out);
    s->drawn = n + 1;
}

/* ---- texts ---- */

void screen_put_time(fg_buf *out, double seconds)
{
    const uint64_t s = seconds > 0.0 && seconds < 1e15 ? (uint64_t)(seconds + 0.5) : 0;
    if (s < 60) {
        fg_buf_printf(out, "%u s", (unsigned)s);
    } else if (s < 3600) {
        fg_buf_printf(out, "%u min %u s", (unsigned)(s / 60), (unsigned)(s % 60));
    } else {
        fg_buf_printf(out, "%llu h %02u min", (unsigned long long)(s / 3600),
                      (unsigned)(s / 60 % 60));
    }
}

/* "[######......]" of `cells` cells */
static void put_bar(fg_buf *out, double share, unsigned cells)
{
    const double full = share < 0.0 ? 0.0 : share > 1.0 ? 1.0 : share;
    const unsigned n = (unsigned)(full * cells + 0.5);
    fg_buf_u8(out, '[');
    for (unsigned i = 0; i < cells; i++) fg_buf_u8(out, i < n ? '#' : '.');
    fg_buf_u8(out, ']');
}

void screen_put_size(fg_buf *out, uint64_t n)
{
    const double k = (double)n / 1024.0;
    if (n < 1000) {
        fg_buf_printf(out, "%u", (unsigned)n);
    } else if (n % 1024 == 0 || k >= 99.95) {
        fg_buf_printf(out, "%.0fK", k);
    } else {
        fg_buf_printf(out, "%.1fK", k);
    }
}

static void put_rate(fg_buf *out, double rate)
{
    if (rate > 0.0) fg_buf_printf(out, ", %.*f tok/s", rate < 9.95 ? 1 : 0, rate);
}

void screen_put_prompt(fg_buf *out, uint64_t done, uint64_t total, double rate, double left)
{
    const double share = total == 0 ? 1.0 : (double)done / (double)total;
    fg_buf_printf(out, "prompt %.0f %% ", 100.0 * share);
    put_bar(out, share, 10);
    fg_buf_printf(out, " %s of", fg_text_count(done).s);
    fg_buf_printf(out, " %s tokens", fg_text_count(total).s);
    put_rate(out, rate);
    if (rate <= 0.0) return;
    fg_buf_put_str(out, ", ");
    screen_put_time(out, left);
    fg_buf_put_str(out, " left");
}

void screen_put_thinking(fg_buf *out, uint64_t n, double rate, uint64_t budget)
{
    fg_buf_printf(out, "thinking: %s token%s", fg_text_count(n).s, n == 1 ? "" : "s");
    put_rate(out, rate);
    if (budget == 0) return;
    fg_buf_printf(out, ", %.0f %% of %s", 100.0 * (double)n / (double)budget,
                  fg_text_count(budget).s);
}
