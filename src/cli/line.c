/* SPDX-License-Identifier: MIT */
#include "src/cli/line.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/buf.h"
#include "src/base/mem.h"
#include "src/cli/common.h"

struct line_reader {
    EditLine *el; /* NULL when standard input is no terminal */
    History *history;
    const char *prompt;
    char *plain; /* getline's buffer */
    size_t plain_cap;
    fg_buf text; /* the line handed out */
    bool failed;
};

static char *show_prompt(EditLine *el)
{
    line_reader *r;
    (void)el_get(el, EL_CLIENTDATA, &r);
    return (char *)(uintptr_t)r->prompt;
}

line_reader *line_open(const char *prompt)
{
    line_reader *r = fg_mem_zalloc(sizeof *r);
    if (r == NULL) return NULL;
    r->prompt = prompt;
    if (isatty(0) != 1 || isatty(1) != 1) return r;
    /* libedit moves over characters, not bytes, and drops those that the locale does not have */
    (void)setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0) (void)setlocale(LC_CTYPE, "C.UTF-8");
    r->el = el_init("fulgur", stdin, stdout, stderr);
    r->history = history_init();
    if (r->el == NULL || r->history == NULL) { /* an unknown terminal: plain reading will do */
        line_close(r);
        return NULL;
    }
    HistEvent ev;
    (void)history(r->history, &ev, H_SETSIZE, 1000);
    (void)el_set(r->el, EL_CLIENTDATA, r);
    (void)el_set(r->el, EL_PROMPT, show_prompt);
    (void)el_set(r->el, EL_EDITOR, "emacs");
    (void)el_set(r->el, EL_HIST, history, r->history);
    (void)el_set(r->el, EL_SIGNAL, 0);
    return r;
}

void line_close(line_reader *r)
{
    if (r == NULL) return;
    if (r->history != NULL) history_end(r->history);
    if (r->el != NULL) el_end(r->el);
    free(r->plain);
    fg_buf_fini(&r->text);
    fg_mem_free(r);
}

/* One physical line with its newline, or NULL. */
static const char *next(line_reader *r, size_t *n)
{
    if (r->el == NULL) clearerr(stdin);
    if (r->el != NULL) {
        int count = 0;
        const char *p = el_gets(r->el, &count);
        *n = count > 0 ? (size_t)count : 0;
        return count > 0 ? p : NULL;
    }
    const ssize_t got = getline(&r->plain, &r->plain_cap, stdin);
    r->failed = got < 0 && feof(stdin) == 0 && errno == ENOMEM;
    *n = got > 0 ? (size_t)got : 0;
    return got > 0 ? r->plain : NULL;
}

const char *line_read(line_reader *r, size_t *n)
{
    r->text.len = 0;
    bool any = false;
    for (;;) {
        size_t m;
        const char *p = next(r, &m);
        if (p == NULL && cli_interrupted() &&
            !cli_terminated()) { /* Ctrl-C at the prompt drops the line only */
            cli_clear_interrupt();
            (void)fputc('\n', stdout);
            r->text.len = 0;
            any = false;
            continue;
        }
        if (p == NULL) break;
        any = true;
        if (m > 0 && p[m - 1] == '\n') m--;
        const bool more = m > 0 && p[m - 1] == '\\';
        fg_buf_put(&r->text, p, more ? m - 1 : m);
        if (!more) break;
        fg_buf_u8(&r->text, '\n');
    }
    const char *text = any ? fg_buf_str(&r->text) : NULL;
    r->failed = r->failed || r->text.failed;
    if (text == NULL || r->failed) return NULL;
    *n = r->text.len;
    HistEvent ev;
    if (r->history != NULL && *n > 0) (void)history(r->history, &ev, H_ENTER, text);
    return text;
}

bool line_failed(const line_reader *r)
{
    return r->failed;
}
