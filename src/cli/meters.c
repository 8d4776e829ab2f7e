/* SPDX-License-Identifier: MIT
 *
 * Everything that is shown goes through flush(), under the lock; the thread draws only what can be
 * taken back.  On a terminal without escape sequences there are lines instead of rows that change.
 */
#include "src/cli/meters.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/cli/common.h"
#include "src/cli/screen.h"
#include "src/cli/tty.h"

#define SECOND ((uint64_t)1000000000)

enum { LOOK_MS = 250 };

typedef enum phase { IDLE, BUSY, PROMPT, REPLY } phase;

struct meters {
    pthread_t thread;
    pthread_mutex_t lock;
    bool ends, silent, threaded;
    bool text_screen; /* standard output is a terminal */
    bool rows;        /* what changes in place may be drawn, on standard output */
    FILE *status;     /* where what changes goes; NULL: nowhere */
    bool status_rows; /* it knows escape sequences */
    screen screen;    /* of standard output, or of status where that is standard error */
    phase phase;
    think_mode mode;
    char what[160];
    uint64_t start_ns, shown_ns, moved_ns, thought_ns, thought_end_ns, n_line;
    uint64_t from, done, total;
    bool thinks, spoke;
    progress log; /* of prompts, where nothing can be drawn: a line now and then */
    fg_generator_stats stats;
};

const char *think_mode_name(unsigned mode)
{
    static const char *const names[THINK_COUNT] = {"fold", "show", "hide"};
    return names[mode];
}

static bool flush(meters *m, FILE *to, fg_buf *b)
{
    bool good = !b->failed;
    if (b->len > 0 && fwrite(b->data, 1, b->len, to) != b->len) good = false;
    if (fflush(to) != 0) good = false;
    if (to == stdout) (void)cli_wrote(good);
    fg_buf_fini(b);
    m->shown_ns = fg_clock_ns();
    return good;
}

/* ---- what it is busy with, in a row ---- */

static double seconds(uint64_t from, uint64_t to)
{
    return to > from ? (double)(to - from) * 1e-9 : 0.0;
}

static double rate_of(uint64_t n, double s)
{
    return s > 0.2 ? (double)n / s : 0.0;
}

/* "..., 12 s" */
static void put_since(const char *text, double s, fg_buf *out)
{
    fg_buf_printf(out, "%s, ", text);
    screen_put_time(out, s);
}

static void put_figures(const meters *m, uint64_t now, fg_buf *out)
{
    const double s = seconds(m->start_ns, now);
    if (m->phase == BUSY) {
        put_since(m->what, s, out);
    } else if (m->phase == PROMPT) {
        const double rate = rate_of(m->done - m->from, seconds(m->start_ns, m->moved_ns));
        const double whole = rate > 0.0 ? (double)(m->total - m->done) / rate : 0.0;
        const double left = whole - seconds(m->moved_ns, now);
        screen_put_prompt(out, m->done, m->total, rate, left > 0.0 ? left : 0.0);
        if (rate <= 0.0) put_since("", s, out);
    } else if (m->thinks) {
        screen_put_thinking(out, m->stats.n_thought,
                            rate_of(m->stats.n_gen, seconds(m->start_ns, now)), m->stats.n_budget);
        fg_buf_put_str(out, ", ");
        screen_put_time(out, seconds(m->thought_ns, now));
    } else {
        put_since("waiting for the model", s, out);
    }
}

/* Rows in place, as they are now. */
static void draw(meters *m, uint64_t now)
{
    fg_buf figures = {0}, out = {0};
    put_figures(m, now, &figures);
    const char *text = fg_buf_str(&figures);
    if (text != NULL && m->status_rows) {
        if (tty_moved() || m->screen.width == 0) screen_moved(&m->screen, tty_width(), &out);
        screen_rows(&m->screen, text, &out);
    } else if (text != NULL) {
        fg_buf_printf(&out, "(%s)\n", text);
    }
    (void)flush(m, m->status, &out);
    fg_buf_fini(&figures);
}

/* Whether what it is doing has a row: else text is coming, or has come. */
static bool has_row(const meters *m)
{
    if (m->phase == BUSY || m->phase == PROMPT) return true;
    return m->phase == REPLY && !m->spoke && (!m->thinks || m->mode != THINK_SHOW);
}

static void tick(meters *m)
{
    const uint64_t now = fg_clock_ns(), quiet = now - m->shown_ns;
    if (m->phase == IDLE || m->status == NULL) return;
    if (m->status_rows) {
        const uint64_t patience = m->screen.drawn > 0 || m->screen.tail > 0 ? 1 : 2;
        if (quiet + SECOND / 4 < patience * SECOND) return;
        if (has_row(m)) {
            draw(m, now);
        } else if (m->text_screen && m->status == stdout) {
            fg_buf text = {0}, out = {0};
            fg_buf_put_str(&text, " ... ");
            screen_put_time(&text, (double)((now - m->moved_ns) / SECOND));
            if (fg_buf_str(&text) != NULL) {
                screen_wait(&m->screen, (const char *)text.data, &out);
            }
            (void)flush(m, stdout, &out);
            fg_buf_fini(&text);
        }
    } else if (has_row(m) && quiet + SECOND / 4 >= (m->n_line == 0 ? 2 : 10) * SECOND) {
        m->n_line++; /* a line each time: not too many */
        draw(m, now);
    }
}

static void *watch(void *arg)
{
    meters *m = arg;
    for (;;) {
        const struct timespec nap = {.tv_nsec = LOOK_MS * 1000000L};
        (void)nanosleep(&nap, NULL);
        (void)pthread_mutex_lock(&m->lock);
        const bool ends = m->ends;
        if (!ends) tick(m);
        (void)pthread_mutex_unlock(&m->lock);
        if (ends) return NULL;
    }
}

/* ---- opening ---- */

static void choose_outputs(meters *m, bool silent)
{
    m->text_screen = isatty(1) == 1;
    m->rows = m->text_screen && cli_has_style(1);
    m->screen.dims = m->rows;
    m->screen.width = tty_width();
    m->silent = silent;
    if (silent) return;
    if (m->text_screen) {
        m->status = stdout;
        m->status_rows = m->rows;
    } else if (cli_has_style(2)) { /* text goes elsewhere */
        m->status = stderr;
        m->status_rows = true;
        m->screen.dims = true;
    }
}

meters *meters_open(bool silent)
{
    meters *m = fg_mem_zalloc(sizeof *m);
    sigset_t all, before;
    if (m == NULL) return NULL;
    choose_outputs(m, silent);
    (void)pthread_mutex_init(&m->lock, NULL);
    if (m->status == NULL) return m;
    fg_io_on_slow(NULL);    /* what it is busy with stands in its row */
    (void)sigfillset(&all); /* signals are the main thread's */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    m->threaded = pthread_create(&m->thread, NULL, watch, m) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return m;
}

void meters_close(meters *m)
{
    if (m == NULL) return;
    meters_idle(m);
    (void)pthread_mutex_lock(&m->lock);
    m->ends = true;
    (void)pthread_mutex_unlock(&m->lock);
    if (m->threaded) (void)pthread_join(m->thread, NULL);
    (void)pthread_mutex_destroy(&m->lock);
    screen_fini(&m->screen);
    fg_mem_free(m);
}

bool meters_can_fold(const meters *m)
{
    return m->rows;
}

/* ---- phases ---- */

/* Under the lock. */
static void clear(meters *m)
{
    fg_buf out = {0};
    if (m->screen.drawn == 0 && m->screen.tail == 0 && !m->screen.dim) return;
    screen_clear(&m->screen, &out);
    (void)flush(m, m->status == NULL ? stdout : m->status, &out);
}

static void begin(meters *m, phase p)
{
    clear(m);
    m->phase = p;
    m->start_ns = m->shown_ns = m->moved_ns = fg_clock_ns();
    m->n_line = 0;
    m->screen.width = tty_width();
}

void meters_busy(meters *m, const char *what)
{
    (void)pthread_mutex_lock(&m->lock);
    begin(m, BUSY);
    (void)snprintf(m->what, sizeof m->what, "%s", what);
    (void)pthread_mutex_unlock(&m->lock);
}

void meters_prompt(meters *m, uint64_t done, uint64_t total)
{
    (void)pthread_mutex_lock(&m->lock);
    begin(m, PROMPT);
    m->from = m->done = done;
    m->total = total;
    progress_start(&m->log, "prompt", "token");
    m->log.from = done;
    (void)pthread_mutex_unlock(&m->lock);
}

void meters_progress(meters *m, uint64_t done)
{
    (void)pthread_mutex_lock(&m->lock);
    if (done > m->done && done <= m->total) {
        m->done = done;
        m->moved_ns = fg_clock_ns();
    }
    if (m->status == NULL && !m->silent) (void)progress_show(&m->log, m->done, m->total);
    (void)pthread_mutex_unlock(&m->lock);
}

void meters_reply(meters *m, think_mode mode)
{
    (void)pthread_mutex_lock(&m->lock);
    begin(m, REPLY);
    screen_begin(&m->screen);
    m->mode = mode == THINK_FOLD && !m->rows ? THINK_SHOW : mode;
    m->thinks = m->spoke = false;
    m->stats = (fg_generator_stats){.size = sizeof m->stats};
    m->thought_ns = m->thought_end_ns = 0;
    (void)pthread_mutex_unlock(&m->lock);
}

void meters_idle(meters *m)
{
    (void)pthread_mutex_lock(&m->lock);
    clear(m);
    if (m->phase == PROMPT) progress_end(&m->log);
    m->phase = IDLE;
    (void)pthread_mutex_unlock(&m->lock);
}

void meters_end(meters *m)
{
    fg_buf out = {0};
    meters_idle(m);
    (void)pthread_mutex_lock(&m->lock);
    if (!m->text_screen || m->screen.column > 0) fg_buf_u8(&out, '\n');
    m->screen.column = 0;
    (void)flush(m, stdout, &out);
    (void)pthread_mutex_unlock(&m->lock);
}

double meters_thought_seconds(const meters *m)
{
    if (m->thought_ns == 0) return 0.0;
    return seconds(m->thought_ns, m->thought_end_ns != 0 ? m->thought_end_ns : fg_clock_ns());
}

/* ---- the reply ---- */

static bool say(meters *m, const char *text, size_t n, bool dim)
{
    fg_buf out = {0};
    m->spoke = true;
    if (!m->text_screen) {
        clear(m); /* a row on standard error gives way */
        m->shown_ns = fg_clock_ns();
        return cli_wrote(fwrite(text, 1, n, stdout) == n) && cli_flush();
    }
    if (m->status_rows && tty_moved()) screen_moved(&m->screen, tty_width(), &out);
    screen_say(&m->screen, text, n, dim, &out);
    return flush(m, stdout, &out);
}

/* Of a thought that is not shown as text. */
static void think(meters *m, fg_think_part part, const char *text, size_t n)
{
    if (part == FG_THINK_REASONING && m->mode == THINK_FOLD) screen_think(&m->screen, text, n);
    if (m->status_rows && fg_clock_ns() - m->shown_ns >= SECOND / 10) draw(m, fg_clock_ns());
}

static bool closes(fg_think_part part, const char *text, size_t n)
{
    return part == FG_THINK_TAG && n > 1 && text[1] == '/';
}

bool meters_text(meters *m, fg_think_part part, const char *text, size_t n,
                 const fg_generator_stats *stats)
{
    bool good = true;
    (void)pthread_mutex_lock(&m->lock);
    const uint64_t now = m->moved_ns = fg_clock_ns();
    const bool answers = part == FG_THINK_ANSWER;
    m->stats = *stats;
    if (!answers && m->thought_ns == 0) m->thought_ns = now;
    if (m->thinks && closes(part, text, n)) m->thought_end_ns = now;
    m->thinks = !answers && !closes(part, text, n);
    if (!answers && m->mode != THINK_SHOW) {
        think(m, part, text, n);
    } else {
        /* behind a thought that is not shown there are no empty lines */
        while (answers && m->thought_ns != 0 && m->mode != THINK_SHOW && !m->spoke && n > 0 &&
               (*text == '\n' || *text == '\r')) {
            text++;
            n--;
        }
        if (n > 0) good = say(m, text, n, !answers);
    }
    (void)pthread_mutex_unlock(&m->lock);
    return good;
}

bool meters_line(meters *m, const char *line)
{
    fg_buf out = {0};
    if (m->status == NULL || !m->text_screen) return false;
    (void)pthread_mutex_lock(&m->lock);
    screen_line(&m->screen, line, &out);
    (void)flush(m, stdout, &out);
    (void)pthread_mutex_unlock(&m->lock);
    return true;
}
