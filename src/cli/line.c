/* SPDX-License-Identifier: MIT
 *
 * libedit gets its characters from here (read_key), as keys.c made them: its own reading knows
 * neither pasted text nor what locale a terminal really has, and types what is left of sequences
 * that it does not know.  Keys that it has no character for are C1 controls, which nobody types.
 */
#include "src/cli/line.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/utf8.h"
#include "src/cli/common.h"
#include "src/cli/keys.h"
#include "src/cli/state_dir.h"
#include "src/cli/tty.h"

/* What is pasted beyond this is shown as a mark of one line: libedit draws all that it holds at
 * every key. */
enum { PASTE_SHOWN_BYTES = 4096, PASTE_SHOWN_LINES = 12 };

typedef struct pasted {
    char mark[64]; /* "[paste 1: 812 lines, 34,567 bytes]" */
    char *text;
    size_t n;
} pasted;

struct line_reader {
    EditLine *el; /* NULL: plain reading */
    HistoryW *history;
    bool asks; /* plain, but of a terminal: the prompt is shown */
    char shown[160];
    line_complete_fn *complete;
    void *ctx;
    keys keys;
    uint8_t in[4096]; /* bytes that were read; those from `at` on are to be fed */
    size_t at, n_in;
    fg_buf ahead;   /* typed while the model spoke */
    size_t n_ahead; /* of it used */
    fg_buf insert;  /* to be put in as soon as libedit asks for a key */
    bool dropped, left, ended;
    uint64_t dropped_ns;
    pasted *paste;
    size_t n_paste, cap_paste;
    char *plain; /* getline's buffer */
    size_t plain_cap;
    fg_buf text; /* the message handed out */
    FILE *file;  /* of the history; NULL: none */
    bool failed;
};

/* Characters that stand for keys; each is bound to the function behind it. */
#define CODES(X)                                                                                   \
    X(CODE_UP, 0x91, L"fulgur-line-up")                                                            \
    X(CODE_DOWN, 0x92, L"fulgur-line-down")                                                        \
    X(CODE_NEWLINE, 0x93, L"fulgur-newline")                                                       \
    X(CODE_INSERT, 0x94, L"fulgur-insert")                                                         \
    X(CODE_WORD_LEFT, 0x95, L"ed-prev-word")                                                       \
    X(CODE_WORD_RIGHT, 0x96, L"em-next-word")                                                      \
    X(CODE_DELETE, 0x97, L"ed-delete-next-char")                                                   \
    X(CODE_DELETE_WORD, 0x98, L"em-delete-next-word")                                              \
    X(CODE_TAB, 0x09, L"fulgur-complete")
enum {
#define CODE_ENUM(id, code, name) id = (code),
    CODES(CODE_ENUM)
#undef CODE_ENUM
};

static line_reader *reader_of(EditLine *el)
{
    line_reader *r;
    (void)el_wget(el, EL_CLIENTDATA, &r);
    return r;
}

/* ---- text in and out of libedit ---- */

static wchar_t *widen(const char *text, size_t n)
{
    wchar_t *w = fg_mem_zalloc_array(n + 1, sizeof *w);
    size_t len = 0;
    for (size_t i = 0; w != NULL && i < n;) {
        uint32_t cp;
        i += fg_utf8_next((const uint8_t *)text + i, n - i, &cp);
        const bool bad = cp == FG_UTF8_BAD || cp == FG_UTF8_CUT || cp == 0;
        w[len++] = (wchar_t)(bad ? (uint32_t)FG_UTF8_REPLACEMENT : cp);
    }
    return w;
}

static void narrow(const wchar_t *w, size_t n, fg_buf *out)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t cp = (uint32_t)w[i];
        const bool good = cp <= 0x10ffff && (cp < 0xd800 || cp > 0xdfff);
        fg_utf8_put(out, good ? cp : (uint32_t)FG_UTF8_REPLACEMENT);
    }
}

static size_t n_lines(const char *text, size_t n)
{
    size_t lines = 1;
    for (size_t i = 0; i + 1 < n; i++) lines += text[i] == '\n';
    return lines;
}

/* The mark under which a long text is kept; NULL: no memory. */
static const char *keep_paste(line_reader *r, const char *text, size_t n)
{
    void *list = r->paste;
    char *copy = fg_mem_strndup(text, n);
    if (copy == NULL || !fg_mem_grow(&list, &r->cap_paste, r->n_paste + 1, sizeof *r->paste)) {
        fg_mem_free(copy);
        return NULL;
    }
    r->paste = list;
    pasted *p = &r->paste[r->n_paste++];
    *p = (pasted){.text = copy, .n = n};
    const size_t lines = n_lines(text, n);
    (void)snprintf(p->mark, sizeof p->mark, "[paste %zu: %s line%s, %s bytes]", r->n_paste,
                   cli_count(lines), lines == 1 ? "" : "s", cli_count(n));
    return p->mark;
}

/* Puts text in at the cursor. */
static void insert(EditLine *el, const char *text, size_t n)
{
    line_reader *r = reader_of(el);
    if (n == 0) return;
    if (n > PASTE_SHOWN_BYTES || n_lines(text, n) > PASTE_SHOWN_LINES) {
        text = keep_paste(r, text, n);
        n = text == NULL ? 0 : strlen(text);
    }
    wchar_t *w = text == NULL ? NULL : widen(text, n);
    if (w == NULL || el_winsertstr(el, w) != 0) r->failed = true;
    fg_mem_free(w);
}

/* The message as it was meant: marks give way to what they stand for. */
static void expand(line_reader *r, const char *line, size_t n, fg_buf *out)
{
    for (size_t i = 0; i < n;) {
        const pasted *found = NULL;
        for (size_t k = 0; line[i] == '[' && k < r->n_paste && found == NULL; k++) {
            const size_t m = strlen(r->paste[k].mark);
            if (n - i >= m && memcmp(line + i, r->paste[k].mark, m) == 0) found = &r->paste[k];
        }
        if (found != NULL) {
            fg_buf_put(out, found->text, found->n);
            i += strlen(found->mark);
        } else {
            fg_buf_u8(out, (uint8_t)line[i++]);
        }
    }
}

/* ---- keys ---- */

static size_t rows_above(const line_reader *r, const LineInfoW *l, unsigned width)
{
    size_t rows = 0, at = strlen(r->shown);
    for (const wchar_t *p = l->buffer; p < l->cursor; p++) {
        const int w = wcwidth(*p);
        at += w > 0 ? (size_t)w : w < 0 ? 2 : 0;
        if (*p != L'\n' && at < width) continue;
        rows++;
        at = 0;
    }
    return rows;
}

/* The window has changed: what is being edited is drawn anew, over its old rows as far as they are
 * sure to be its own. */
static void redraw(line_reader *r, unsigned was)
{
    const unsigned now = tty_width();
    const LineInfoW *l = el_wline(r->el);
    const size_t a = rows_above(r, l, was), b = rows_above(r, l, now), up = a < b ? a : b;
    (void)fputc('\r', stdout);
    if (up > 0) (void)fprintf(stdout, "\033[%zuA", up);
    (void)fputs("\033[J", stdout);
    (void)fflush(stdout);
    el_resize(r->el);
    (void)el_wset(r->el, EL_REFRESH);
}

static bool line_before(const LineInfoW *l)
{
    for (const wchar_t *p = l->buffer; p < l->cursor; p++) {
        if (*p == L'\n') return true;
    }
    return false;
}

static bool line_behind(const LineInfoW *l)
{
    for (const wchar_t *p = l->cursor; p < l->lastchar; p++) {
        if (*p == L'\n') return true;
    }
    return false;
}

/* The message is over, with the cursor at its end, whatever becomes of it. */
static wchar_t end_line(bool *why)
{
    *why = true;
    return L'\r';
}

/* What libedit gets for a key; 0: nothing. */
static wchar_t character(line_reader *r, uint32_t key)
{
    enum {
        CTRL_A = 1,
        CTRL_B,
        CTRL_C,
        CTRL_D,
        CTRL_E,
        CTRL_F,
        CTRL_N = 14,
        CTRL_P = 16,
        CTRL_Z = 26
    };
    const unsigned width = tty_width();
    switch (key) {
    case KEY_LEFT: return CTRL_B;
    case KEY_RIGHT: return CTRL_F;
    case KEY_HOME: return CTRL_A;
    case KEY_END: return CTRL_E;
    case KEY_UP: return line_before(el_wline(r->el)) ? CODE_UP : CTRL_P;
    case KEY_DOWN: return line_behind(el_wline(r->el)) ? CODE_DOWN : CTRL_N;
    case KEY_DELETE: return CODE_DELETE;
    case KEY_WORD_LEFT: return CODE_WORD_LEFT;
    case KEY_WORD_RIGHT: return CODE_WORD_RIGHT;
    case KEY_DELETE_WORD: return CODE_DELETE_WORD;
    case KEY_NEWLINE: return CODE_NEWLINE;
    case KEY_PASTE:
        r->failed = r->failed || r->keys.paste.failed;
        fg_buf_put(&r->insert, r->keys.paste.data, r->keys.paste.len);
        return r->keys.paste.len == 0 ? 0 : CODE_INSERT;
    case CTRL_C: return end_line(&r->dropped);
    case CTRL_Z:
        tty_stop();
        redraw(r, width);
        return 0;
    default: return (wchar_t)key;
    }
}

/* Reads what there is, waiting for it.  1: something came; 0: the end of input; -1: time is up. */
static int await(line_reader *r)
{
    enum { LOOK_MS = 200 }; /* a signal may have met another thread */
    const int patience = keys_patience(&r->keys);
    struct pollfd p = {.fd = 0, .events = POLLIN};
    const int ready = poll(&p, 1, patience > 0 ? patience : LOOK_MS);
    if (ready == 0 && patience > 0) keys_expire(&r->keys);
    if (ready <= 0) return -1;
    const ssize_t got = read(0, r->in, sizeof r->in);
    if (got < 0) return errno == EINTR || errno == EAGAIN ? -1 : 0;
    r->at = 0;
    r->n_in = (size_t)got;
    return got > 0;
}

static bool next_byte(line_reader *r, uint8_t *byte)
{
    if (r->n_ahead < r->ahead.len) {
        *byte = r->ahead.data[r->n_ahead++];
    } else if (r->at < r->n_in) {
        *byte = r->in[r->at++];
    } else {
        return false;
    }
    return true;
}

static int read_key(EditLine *el, wchar_t *out)
{
    line_reader *r = reader_of(el);
    unsigned width = tty_width();
    if (r->insert.len > 0) {
        *out = CODE_INSERT;
        return 1;
    }
    for (uint32_t key;;) {
        uint8_t byte;
        if (keys_next(&r->keys, &key)) {
            *out = character(r, key);
            if (*out != 0) return 1;
            continue;
        }
        if (cli_interrupted()) {
            *out = end_line(cli_terminated() ? &r->left : &r->dropped);
            return 1;
        }
        if (tty_moved()) {
            redraw(r, width);
            width = tty_width();
        }
        if (next_byte(r, &byte)) {
            keys_feed(&r->keys, byte);
        } else if (await(r) == 0) {
            r->ended = true;
            return 0;
        }
    }
}

void line_soak(line_reader *r)
{
    uint8_t more[4096];
    if (r == NULL || r->el == NULL) return;
    for (;;) {
        struct pollfd p = {.fd = 0, .events = POLLIN};
        if (poll(&p, 1, 0) <= 0) return;
        const ssize_t got = read(0, more, sizeof more);
        if (got <= 0) return;
        /* Lines that come at once were pasted, and brackets are off: they are one message. */
        uint8_t *end = memchr(more, '\r', (size_t)got);
        const bool many = end != NULL && end + 1 < more + got;
        if (many) fg_buf_put_str(&r->ahead, "\033[200~");
        fg_buf_put(&r->ahead, more, (size_t)got);
        if (many) fg_buf_put_str(&r->ahead, "\033[201~");
    }
}

/* ---- what keys do ---- */

static unsigned char do_insert(EditLine *el, wint_t c)
{
    line_reader *r = reader_of(el);
    (void)c;
    fg_buf text = r->insert;
    r->insert = (fg_buf){0};
    r->failed = r->failed || text.failed;
    insert(el, (const char *)text.data, text.len);
    fg_buf_fini(&text);
    return CC_REFRESH;
}

static unsigned char do_newline(EditLine *el, wint_t c)
{
    (void)c;
    return el_winsertstr(el, L"\n") == 0 ? CC_REFRESH : CC_ERROR;
}

/* To the same column of the line above or below. */
static unsigned char do_up(EditLine *el, wint_t c)
{
    const LineInfoW *l = el_wline(el);
    const wchar_t *head = l->cursor;
    (void)c;
    while (head > l->buffer && head[-1] != L'\n') head--;
    if (head == l->buffer) return CC_ERROR;
    const wchar_t *above = head - 1;
    while (above > l->buffer && above[-1] != L'\n') above--;
    const ptrdiff_t column = l->cursor - head, room = head - 1 - above;
    (void)el_cursor(el, (int)(above + (column < room ? column : room) - l->cursor));
    return CC_CURSOR;
}

static unsigned char do_down(EditLine *el, wint_t c)
{
    const LineInfoW *l = el_wline(el);
    const wchar_t *head = l->cursor, *below = l->cursor;
    (void)c;
    while (head > l->buffer && head[-1] != L'\n') head--;
    while (below < l->lastchar && *below != L'\n') below++;
    if (below == l->lastchar) return CC_ERROR;
    const wchar_t *end = ++below;
    while (end < l->lastchar && *end != L'\n') end++;
    const ptrdiff_t column = l->cursor - head, room = end - below;
    (void)el_cursor(el, (int)(below + (column < room ? column : room) - l->cursor));
    return CC_CURSOR;
}

static unsigned char do_complete(EditLine *el, wint_t c)
{
    line_reader *r = reader_of(el);
    const LineInfoW *l = el_wline(el);
    fg_buf text = {0}, more = {0}, list = {0};
    unsigned char result = CC_REFRESH;
    (void)c;
    narrow(l->buffer, (size_t)(l->cursor - l->buffer), &text);
    const char *before = fg_buf_str(&text);
    if (before == NULL || r->complete == NULL ||
        !r->complete(r->ctx, before, text.len, &more, &list)) {
        result = el_winsertstr(el, L"\t") == 0 ? CC_REFRESH : CC_ERROR;
    } else if (more.len > 0) {
        insert(el, (const char *)more.data, more.len);
    } else if (list.len > 0) {
        (void)fputc('\n', stdout);
        (void)cli_write((const char *)list.data, list.len);
        (void)fflush(stdout);
        (void)el_wset(el, EL_REFRESH);
        result = CC_NORM;
    } else {
        result = CC_ERROR;
    }
    fg_buf_fini(&text);
    fg_buf_fini(&more);
    fg_buf_fini(&list);
    return result;
}

/* ---- opening ---- */

static wchar_t *show_prompt(EditLine *el)
{
    static wchar_t wide[sizeof((line_reader *)0)->shown];
    const line_reader *r = reader_of(el);
    size_t n = 0;
    for (; r->shown[n] != '\0'; n++) wide[n] = (wchar_t)(unsigned char)r->shown[n];
    wide[n] = L'\0';
    return wide;
}

static void bind_keys(EditLine *el)
{
    static const struct {
        const wchar_t *name;
        unsigned char (*fn)(EditLine *, wint_t);
    } own[] = {{L"fulgur-line-up", do_up},
               {L"fulgur-line-down", do_down},
               {L"fulgur-newline", do_newline},
               {L"fulgur-insert", do_insert},
               {L"fulgur-complete", do_complete}};
    static const struct {
        wchar_t code;
        const wchar_t *name;
    } bound[] = {
#define CODE_ROW(id, code, name) {id, name},
        CODES(CODE_ROW)
#undef CODE_ROW
        /* what reads a key of its own would take codes for characters */
        {22, L"ed-unassigned"},
        {17, L"ed-unassigned"},
    };
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) {
        (void)el_wset(el, EL_ADDFN, own[i].name, L"of fulgur", own[i].fn);
    }
    for (wchar_t c = 0xa0; c < 0x100; c++) { /* in a locale that does not know them either */
        (void)el_wset(el, EL_BIND, (wchar_t[]){c, 0}, L"ed-insert", NULL);
    }
    for (size_t i = 0; i < sizeof bound / sizeof bound[0]; i++) {
        (void)el_wset(el, EL_BIND, (wchar_t[]){bound[i].code, 0}, bound[i].name, NULL);
    }
}

static bool edit(line_reader *r)
{
    r->el = el_init("fulgur", stdin, stdout, stderr);
    r->history = history_winit();
    if (r->el == NULL || r->history == NULL) return false;
    HistEventW ev;
    (void)history_w(r->history, &ev, H_SETSIZE, LINE_HISTORY);
    (void)history_w(r->history, &ev, H_SETUNIQUE, 1);
    (void)el_wset(r->el, EL_CLIENTDATA, r);
    (void)el_wset(r->el, EL_PROMPT_ESC, show_prompt, L'\1');
    (void)el_wset(r->el, EL_EDITOR, L"emacs");
    (void)el_wset(r->el, EL_HIST, history_w, r->history);
    (void)el_wset(r->el, EL_SIGNAL, 0);
    (void)el_wset(r->el, EL_GETCFN, read_key);
    /* keys arrive as they are, and none is a signal: what is pasted may have any */
    (void)el_wset(r->el, EL_SETTY, L"-d", L"-isig", L"-icrnl", L"-inlcr", L"-ixon", NULL);
    bind_keys(r->el);
    return true;
}

line_reader *line_open(line_complete_fn *complete, void *ctx)
{
    line_reader *r = fg_mem_zalloc(sizeof *r);
    if (r == NULL) return NULL;
    r->complete = complete;
    r->ctx = ctx;
    const bool terminal = tty_open();
    r->asks = terminal;
    if (!terminal || !cli_is_screen(1)) return r;
    if (edit(r)) return r;
    line_close(r);
    return NULL;
}

void line_close(line_reader *r)
{
    if (r == NULL) return;
    if (r->history != NULL) history_wend(r->history);
    if (r->el != NULL) el_end(r->el);
    tty_close();
    if (r->file != NULL) (void)fclose(r->file);
    for (size_t i = 0; i < r->n_paste; i++) fg_mem_free(r->paste[i].text);
    fg_mem_free(r->paste);
    free(r->plain);
    keys_fini(&r->keys);
    fg_buf_fini(&r->ahead);
    fg_buf_fini(&r->insert);
    fg_buf_fini(&r->text);
    fg_mem_free(r);
}

/* ---- reading ---- */

/* One line with its newline in r->text, behind what is there.  False: none. */
static bool next_edited(line_reader *r)
{
    int count = 0;
    fg_buf line = {0};
    r->dropped = r->left = r->ended = false;
    tty_hush(false); /* libedit shows its prompt before it sets its own modes */
    tty_paste(true);
    const wchar_t *w = el_wgets(r->el, &count);
    tty_paste(false);
    tty_hush(true); /* the model speaks next */
    if (w == NULL || count <= 0) {
        (void)fputc('\n', stdout);
        r->ended = true;
        return false;
    }
    narrow(w, (size_t)count, &line);
    expand(r, (const char *)line.data, line.len, &r->text);
    r->failed = r->failed || line.failed;
    fg_buf_fini(&line);
    return !r->dropped && !r->left;
}

static bool next_plain(line_reader *r)
{
    r->dropped = r->left = r->ended = false;
    if (r->asks) {
        (void)fputs(r->shown, stdout);
        (void)fflush(stdout);
    }
    clearerr(stdin);
    ssize_t got = getline(&r->plain, &r->plain_cap, stdin);
    if (got > 0) {
        const ssize_t bare = got - (r->plain[got - 1] == '\n');
        if (bare > 0 && r->plain[bare - 1] == '\r') { /* as Windows ends a line */
            r->plain[bare - 1] = '\n';
            got = bare;
        }
        fg_buf_put(&r->text, r->plain, (size_t)got);
        return true;
    }
    r->failed = got < 0 && feof(stdin) == 0 && errno == ENOMEM;
    if (cli_terminated()) {
        r->left = true;
    } else if (cli_interrupted()) {
        r->dropped = true;
        if (r->asks) (void)fputc('\n', stdout);
    } else {
        r->ended = true;
        if (r->asks) (void)fputc('\n', stdout);
    }
    return false;
}

static bool ends_with(const fg_buf *b, const char *end)
{
    const size_t n = strlen(end);
    return b->len >= n && memcmp(b->data + b->len - n, end, n) == 0;
}

/* Whether the message goes on in the next line; takes off what says so. */
static bool goes_on(fg_buf *b)
{
    static const char quotes[] = "\"\"\"";
    const size_t n = sizeof quotes - 1;
    if (b->len >= n && memcmp(b->data, quotes, n) == 0) {
        if (b->len < 2 * n || !ends_with(b, quotes)) {
            fg_buf_u8(b, '\n');
            return true;
        }
        b->len -= 2 * n;
        memmove(b->data, b->data + n, b->len);
        while (b->len > 0 && b->data[b->len - 1] == '\n') b->len--;
        if (b->len > 0 && b->data[0] == '\n') memmove(b->data, b->data + 1, --b->len);
        return false;
    }
    if (!ends_with(b, "\\")) return false;
    b->data[b->len - 1] = '\n';
    return true;
}

/* Ctrl-C at the prompt: what was typed is dropped; soon again, and the user wants to leave. */
static line_result drop(line_reader *r)
{
    const uint64_t now = fg_clock_ns();
    const bool again = r->dropped_ns != 0 && now - r->dropped_ns < 1000000000;
    r->dropped_ns = now;
    cli_clear_interrupt();
    if (again) return LINE_LEFT;
    return LINE_DROPPED;
}

static void enter_history(line_reader *r);

line_result line_read(line_reader *r, const char *prompt, bool warns, const char **text, size_t *n)
{
    static const char more[] = "... ";
    r->text.len = 0;
    (void)snprintf(r->shown, sizeof r->shown, warns ? "\1\033[1;31m\1%s\1\033[0m\1" : "%s", prompt);
    for (;;) {
        if (!(r->el == NULL ? next_plain(r) : next_edited(r))) {
            if (r->failed || r->text.failed) return LINE_FAILED;
            if (r->dropped) return drop(r);
            if (r->left || r->text.len == 0) return LINE_LEFT;
            break; /* the last line of a pipe that ends within it */
        }
        if (r->text.len > 0 && r->text.data[r->text.len - 1] == '\n') r->text.len--;
        if (!goes_on(&r->text)) break;
        (void)snprintf(r->shown, sizeof r->shown, "%s", more);
    }
    *text = fg_buf_str(&r->text);
    if (*text == NULL || r->failed) return LINE_FAILED;
    *n = r->text.len;
    r->dropped_ns = 0;
    if (*n > 0) enter_history(r);
    return LINE_TEXT;
}

void line_put_back(line_reader *r, const char *text, size_t n)
{
    if (r == NULL || r->el == NULL) return;
    r->insert.len = 0;
    fg_buf_put(&r->insert, text, n);
}

/* ---- history ---- */

static void add_history(line_reader *r, const char *text, size_t n)
{
    HistEventW ev;
    wchar_t *w = widen(text, n);
    if (w != NULL) (void)history_w(r->history, &ev, H_ENTER, w);
    fg_mem_free(w);
}

/* An entry is a line of the file: line feeds in it are written \n, and \ is \\. */
static void put_entry(fg_buf *b, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\n' || text[i] == '\\') fg_buf_u8(b, '\\');
        fg_buf_u8(b, text[i] == '\n' ? 'n' : (uint8_t)text[i]);
    }
    fg_buf_u8(b, '\n');
}

/* The same back, in place; returns its length. */
static size_t take_entry(char *text, size_t n)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\\' && i + 1 < n) {
            i++;
            text[len++] = text[i] == 'n' ? '\n' : text[i];
        } else {
            text[len++] = text[i];
        }
    }
    return len;
}

enum { ENTRY_MAX = 16384 }; /* what is longer was pasted, and would not be found by browsing */

static void enter_history(line_reader *r)
{
    fg_buf entry = {0};
    if (r->el == NULL || r->text.len > ENTRY_MAX) return;
    add_history(r, (const char *)r->text.data, r->text.len);
    if (r->file == NULL) return;
    put_entry(&entry, (const char *)r->text.data, r->text.len);
    if (!entry.failed) {
        (void)fwrite(entry.data, 1, entry.len, r->file);
        (void)fflush(r->file);
    }
    fg_buf_fini(&entry);
}

/* Entries of the file, the last LINE_HISTORY of them; `kept` gets their lines. */
static void load_history(line_reader *r, char *text, size_t n, fg_buf *kept)
{
    size_t lines = 0, from = n;
    while (from > 0) { /* back to where the last LINE_HISTORY lines begin */
        if (text[from - 1] == '\n' && from < n && ++lines == LINE_HISTORY) break;
        from--;
    }
    fg_buf_put(kept, text + from, n - from);
    for (size_t i = from; i < n;) {
        const char *end = memchr(text + i, '\n', n - i);
        const size_t len = end == NULL ? n - i : (size_t)(end - text) - i;
        const size_t m = take_entry(text + i, len);
        if (m > 0 && m <= ENTRY_MAX) add_history(r, text + i, m);
        i += len + 1;
    }
}

fg_status line_keep(line_reader *r, const char *path, fg_err *err)
{
    enum { FILE_MAX = 64 << 20, FILE_USUAL = 2 << 20 };
    char *text = NULL;
    size_t n = 0;
    if (r->el == NULL) return FG_OK;
    cli_make_folders(path);
    if (fg_io_exists(path)) FG_TRY(fg_io_read_all(path, FILE_MAX, &text, &n, err));
    fg_buf kept = {0};
    load_history(r, text, n, &kept);
    fg_mem_free(text);
    fg_status st = FG_OK;
    if (n > FILE_USUAL || kept.len < n) st = write_buf(&kept, path, err); /* older ones go */
    fg_buf_fini(&kept);
    if (st != FG_OK) return st;
    const int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (fd >= 0) (void)fchmod(fd, S_IRUSR | S_IWUSR);
    r->file = fd < 0 ? NULL : fdopen(fd, "a");
    if (r->file != NULL) return FG_OK;
    const int why = errno;
    if (fd >= 0) (void)close(fd);
    return fg_fail(err, FG_EIO, "%s: %s, expected a file for the history", path, strerror(why));
}
