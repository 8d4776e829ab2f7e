/* SPDX-License-Identifier: MIT */
#include "src/cli/common.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/mistaken.h"
#include "src/base/units.h"
#include "src/base/utf8.h"
#include "bench/bench.h"
#include "src/engine/placement.h"
#include "src/engine/session.h"
#include "src/sys/room.h"

int cli_fail(const fg_err *err)
{
    (void)fflush(stdout);
    fprintf(stderr, "fulgur: %s\n", err->msg[0] == '\0' ? fg_status_text(err->code) : err->msg);
    return EXIT_FAILED;
}

fg_status print_buf(fg_buf *b, fg_err *err)
{
    const fg_status st = b->failed ? fg_fail_nomem(err, "text to print") : FG_OK;
    if (st == FG_OK && b->len > 0) {
        (void)(cli_wrote(fwrite(b->data, 1, b->len, stdout) == b->len) && cli_flush());
    }
    fg_buf_fini(b);
    return st;
}

fg_status write_buf(const fg_buf *b, const char *path, fg_err *err)
{
    fg_new_file file = {.f = NULL};
    if (b->failed) return fg_fail_nomem(err, path);
    fg_status st = fg_new_file_open(&file, path, err);
    if (st == FG_OK && fwrite(b->data, 1, b->len, file.f) != b->len) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected a file that can be written", path,
                     strerror(errno));
    }
    if (st == FG_OK) st = fg_new_file_commit(&file, err);
    fg_new_file_close(&file);
    return st;
}

/* Why standard output could not be written first; whatever is asked later has another errno. */
static int stdout_errno;

bool cli_wrote(bool good)
{
    if (!good && stdout_errno == 0) stdout_errno = errno;
    return good;
}

bool cli_flush(void)
{
    return cli_wrote(fflush(stdout) == 0 && !ferror(stdout));
}

int cli_finish_stdout(void)
{
    if (cli_flush()) return EXIT_OK;
    fprintf(stderr, "fulgur: standard output: %s, expected a writable stream\n",
            strerror(stdout_errno));
    return EXIT_FAILED;
}

int cli_finish_made(const char *who, const char *path)
{
    char line[400];
    if (cli_flush()) return EXIT_OK;
    (void)snprintf(line, sizeof line, "%.200s is complete, but its report could not be printed: %s",
                   path, strerror(stdout_errno));
    cli_warn(who, line);
    return EXIT_OK;
}

/* Asked once: a terminal stays one. */
static bool on_terminal(void)
{
    static int is = -1;
    if (is < 0) is = isatty(1) == 1;
    return is == 1;
}

bool cli_write(const char *text, size_t n)
{
    if (!on_terminal()) return cli_wrote(fwrite(text, 1, n, stdout) == n);
    fg_buf b = {0};
    fg_utf8_put_shown(&b, (const uint8_t *)text, n);
    const bool good = !b.failed && cli_wrote(fwrite(b.data, 1, b.len, stdout) == b.len);
    fg_buf_fini(&b);
    return good;
}

const char *cli_shown(const char *s)
{
    static fg_buf text[4];
    static int turn;
    if (!on_terminal()) return s;
    turn = (turn + 1) % 4;
    text[turn].len = 0;
    fg_utf8_put_shown(&text[turn], (const uint8_t *)s, strlen(s));
    const char *shown = fg_buf_str(&text[turn]);
    return shown == NULL ? "?" : shown;
}

const char *cli_policy_name(fg_policy policy)
{
    return fg_policy_is_live(policy) ? fg_policy_name(policy) : NULL;
}

static const char *keep(fg_text t)
{
    static fg_text kept[CLI_KEPT];
    static int turn;
    turn = (turn + 1) % CLI_KEPT;
    kept[turn] = t;
    return kept[turn].s;
}

const char *cli_bytes(double bytes)
{
    return keep(fg_text_bytes(bytes));
}

const char *cli_memory(double bytes)
{
    return keep(fg_text_memory(bytes));
}

const char *cli_count(uint64_t n)
{
    return keep(fg_text_count(n));
}

void cli_note(const char *fmt, ...)
{
    va_list ap;
    if (args_quiet()) return;
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
}

void cli_say_slow(const char *path, uint64_t seconds)
{
    char name[256];
    fg_utf8_file_name(path, name, sizeof name);
    cli_note(
        "fulgur: %s: not open after %llu s, expected at once; waiting (a scanner that reads it "
        "first, or a drive that wakes up)\n",
        name, (unsigned long long)seconds);
}

bool cli_is_screen(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) == 1 && term != NULL && term[0] != '\0' && strcmp(term, "dumb") != 0;
}

bool cli_has_style(int fd)
{
    const char *off = getenv("NO_COLOR");
    return cli_is_screen(fd) && (off == NULL || off[0] == '\0');
}

const char *cli_known_memory(uint64_t bytes)
{
    return bytes == UINT64_MAX ? "unknown" : cli_memory((double)bytes);
}

/* ---- progress ---- */

void progress_start(progress *p, const char *what, const char *unit)
{
    *p = (progress){.what = what, .unit = unit};
    p->start_ns = p->logged_ns = fg_clock_ns();
    p->on = !args_quiet() && cli_is_screen(2);
}

/* What is left, in seconds. */
static double time_left(const progress *p, uint64_t now, uint64_t done, uint64_t total,
                        double *rate)
{
    const double s = (double)(now - p->start_ns) * 1e-9;
    *rate = s > 0.0 ? (double)(done - p->from) / s : 0.0;
    return *rate > 0.0 ? (double)(total - done) / *rate : 0.0;
}

/* "45 MB of 3 GB  2 MB/s" */
static void put_amounts(const progress *p, uint64_t done, uint64_t total, double rate, char *text,
                        size_t size)
{
    if (strcmp(p->unit, "B") == 0) {
        (void)snprintf(text, size, "%s of %s  %s/s", cli_bytes((double)done),
                       cli_bytes((double)total), cli_bytes(rate));
    } else {
        (void)snprintf(text, size, "%s of %s  %.*f %s/s", cli_count(done), cli_count(total),
                       rate < 9.95 ? 1 : 0, rate, p->unit);
    }
}

#define LOG_NS ((uint64_t)600 * 1000000000)

bool progress_log(progress *p, uint64_t now, time_t wall, uint64_t done, uint64_t total, char *text,
                  size_t size)
{
    struct tm t;
    char when[32] = "", amounts[128], left[32] = "unknown";
    double rate;
    if (now - p->logged_ns < LOG_NS) return false;
    p->logged_ns = now;
    if (localtime_r(&wall, &t) != NULL) (void)strftime(when, sizeof when, "%Y-%m-%d %H:%M", &t);
    const double eta = time_left(p, now, done, total, &rate);
    put_amounts(p, done, total, rate, amounts, sizeof amounts);
    if (rate > 0.0) {
        const double minutes = floor(eta / 60.0);
        (void)snprintf(left, sizeof left, "%.0f:%02.0f h", floor(minutes / 60.0),
                       fmod(minutes, 60.0));
    }
    (void)snprintf(text, size, "%s: %s  %.1f %%  %s  ETA %s%s%s", p->what, when,
                   total == 0 ? 100.0 : 100.0 * (double)done / (double)total, amounts, left,
                   p->note[0] == '\0' ? "" : "  ", p->note);
    return true;
}

bool progress_show(void *arg, uint64_t done, uint64_t total)
{
    progress *p = arg;
    const uint64_t now = fg_clock_ns();
    char text[256];
    double rate;
    if (!p->on && !args_quiet() &&
        progress_log(p, now, time(NULL), done, total, text, sizeof text)) {
        fprintf(stderr, "%s\n", text);
    }
    if (!p->on || (now - p->last_ns < 100000000u && done != total)) return !cli_interrupted();
    p->last_ns = now;
    p->drawn = true;
    const double eta = time_left(p, now, done, total, &rate);
    const double percent = total == 0 ? 100.0 : 100.0 * (double)done / (double)total;
    put_amounts(p, done, total, rate, text, sizeof text);
    fprintf(stderr, "\r%s: %5.1f %%  %s", p->what, percent, text);
    if (p->note[0] != '\0') fprintf(stderr, "  %s", p->note);
    fprintf(stderr, "  ETA %.0f:%02.0f\033[K", floor(eta / 60.0), fmod(eta, 60.0));
    (void)fflush(stderr);
    return !cli_interrupted();
}

void progress_end(progress *p)
{
    if (p->drawn) fprintf(stderr, "\r\033[K");
}

/* ---- models ---- */

static void show_note(void *ctx, const char *line)
{
    (void)ctx;
    cli_note("fulgur: %s\n", line);
}

fg_engine_opts cli_engine_opts(void)
{
    fg_engine_opts o = fg_engine_opts_default();
    o.gpu = FG_GPU_AUTO;
    return o;
}

static void show_all_but_cards(void *ctx, const char *line)
{
    if (strncmp(line, "gpu ", 4) != 0) show_note(ctx, line);
}

void cli_gpu_silent(fg_engine_opts *o)
{
    o->note = show_all_but_cards;
}

fg_status open_engine(fg_engine **e, const char *path, const fg_engine_opts *opts, fg_err *err)
{
    fg_engine_opts o = *opts;
    progress p;
    if (access("/sys/devices/system", X_OK) != 0) {
        cli_note(
            "fulgur: /sys: not there, expected a description of this machine; it may have more "
            "CPUs than are used (-t N)\n");
    }
    progress_start(&p, "weights", "B");
    if (o.note == NULL) o.note = show_note;
    o.progress = progress_show;
    o.progress_ctx = &p;
    const fg_status st = fg_engine_open(e, path, &o, err);
    progress_end(&p);
    if (st == FG_OK && fg_engine_placement(*e)->asked) {
        fg_buf b = {0};
        fg_placement_put(fg_engine_placement(*e), &b);
        if (fg_buf_str(&b) != NULL) cli_note("%s\n", fg_buf_str(&b));
        fg_buf_fini(&b);
    }
    return st;
}

fg_status check_engine(fg_engine *e, fg_err *err)
{
    progress p;
    progress_start(&p, "the file was written to; checking", "B");
    const fg_status st = fg_engine_check(e, progress_show, &p, err);
    progress_end(&p);
    return st;
}

void say_memory_limit(void)
{
    fg_room r;
    fg_room_read(&r, "");
    if (r.bytes == FG_ROOM_UNKNOWN || (r.limit >= r.total && r.bytes >= r.available)) return;
    fprintf(stderr, "memory: %s can be had within %s; measuring within that\n",
            cli_memory((double)r.bytes), r.by);
}

void cli_warn(const char *who, const char *text)
{
    char line[600];
    (void)snprintf(line, sizeof line, "%s", text);
    fg_utf8_clean(line); /* names of files may hold anything */
    (void)fflush(stdout);
    fprintf(stderr, "%s%s: warning: %s\n", cli_is_screen(2) ? "\r\033[K" : "", who, line);
}

void cli_tell_utf8(const char *who, const char *name, const char *text, size_t n)
{
    fg_utf8_flaws f;
    char what[160], line[512];
    fg_utf8_judge((const uint8_t *)text, n, &f);
    if (!fg_utf8_describe(&f, what, sizeof what)) return;
    (void)snprintf(line, sizeof line, "%.250s: %s; what is not valid was replaced by U+FFFD", name,
                   what);
    cli_warn(who, line);
}

/* ---- input ---- */

/* Bytes of a text, 60 million tokens: more than anybody scores, less than memory has. */
#define TEXT_MAX ((size_t)1 << 28)

fg_status open_tokenizer(const char *path, fg_tokenizer **owned, fg_err *err)
{
    *owned = NULL;
    if (fg_io_is_dir(path)) {
        char *file = fg_io_join(path, "tokenizer.json"), *json = NULL;
        size_t n;
        fg_status st = file == NULL ? fg_fail_nomem(err, path)
                                    : fg_io_read_all(file, (uint64_t)1 << 30, &json, &n, err);
        if (st == FG_OK) st = fg_tokenizer_create(owned, json, n, file, err);
        if (st == FG_EFORMAT) st = fg_mistaken_explain(st, file, "a tokenizer (JSON)", NULL, err);
        fg_mem_free(json);
        fg_mem_free(file);
        return st;
    }
    fg_model_file *f;
    const char *json;
    size_t n;
    FG_TRY(fg_model_file_open(&f, path, err));
    fg_status st = fg_model_file_meta(f, "tokenizer.json", &json, &n, err);
    if (st == FG_OK && json == NULL) {
        st = fg_fail(err, FG_ENOTSUP,
                     "%s: no tokenizer inside, expected one (convert --only-tokenizer adds it)",
                     path);
    }
    if (st == FG_OK) st = fg_tokenizer_create(owned, json, n, path, err);
    fg_model_file_close(&f);
    return st;
}

/* A pipe or device: read to the end, or until it is clear that there is none. */
static fg_status read_stream(int fd, const char *name, char **text, size_t *n, fg_err *err)
{
    enum { WAIT_MS = 250 };
    void *p = NULL;
    size_t cap = 0, len = 0;
    fg_status st = FG_OK;
    for (ssize_t got = 1; got > 0;) {
        if (!fg_mem_grow(&p, &cap, len + 65536, 1)) {
            st = fg_fail_nomem(err, name);
            break;
        }
        struct pollfd there = {.fd = fd, .events = POLLIN};
        /* read might not end when a signal comes */
        const bool comes = poll(&there, 1, WAIT_MS) > 0;
        if (comes && !cli_interrupted()) got = read(fd, (char *)p + len, 65535);
        if (cli_interrupted()) {
            st = fg_fail(err, FG_ECANCEL, "%s: cancelled after %zu bytes, expected its end", name,
                         len);
            break;
        }
        if (got < 0 && errno != EINTR && errno != EAGAIN) {
            st = fg_fail(err, FG_EIO, "%s: %s, expected a readable stream", name, strerror(errno));
            break;
        }
        if (!comes || got < 0)
            got = 1;
        else
            len += (size_t)got;
        if (len > TEXT_MAX) {
            st =
                fg_fail(err, FG_ELIMIT, "%s: more than %zu bytes, expected a text", name, TEXT_MAX);
            break;
        }
    }
    if (st != FG_OK) {
        fg_mem_free(p);
        return st;
    }
    ((char *)p)[len] = '\0';
    *text = p;
    *n = len;
    return FG_OK;
}

fg_status read_text(const char *path, char **text, size_t *n, fg_err *err)
{
    struct stat sb;
    *text = NULL;
    if (strcmp(path, "-") == 0) return read_stream(0, "standard input", text, n, err);
    if (stat(path, &sb) != 0 || S_ISDIR(sb.st_mode) || (S_ISREG(sb.st_mode) && sb.st_size > 0)) {
        return fg_io_read_all(path, TEXT_MAX, text, n, err);
    }
    /* a FIFO that nobody writes to does not open otherwise, whatever signal comes */
    const int fd = fg_io_open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return fg_fail(err, FG_EIO, "%s: %s, expected a readable file", path, strerror(errno));
    }
    const fg_status st = read_stream(fd, path, text, n, err);
    (void)close(fd);
    return st;
}

bool cli_goes_on(void *ctx)
{
    (void)ctx;
    return !cli_interrupted();
}

fg_status open_encoder(const fg_tokenizer *t, fg_tok_state **s, fg_err *err)
{
    FG_TRY(fg_tok_state_create(s, t, err));
    fg_tok_state_set_poll(*s, cli_goes_on, NULL);
    return FG_OK;
}

fg_status encode_text(const fg_tokenizer *t, const char *text, size_t n, bool special, fg_ids *ids,
                      fg_err *err)
{
    fg_tok_state *s;
    FG_TRY(open_encoder(t, &s, err));
    const fg_status st = fg_tokenizer_encode(t, s, text, n, special, ids, err);
    fg_tok_state_destroy(&s);
    return st;
}

bool is_stream(const char *out)
{
    struct stat sb;
    if (stat(out, &sb) != 0 || S_ISDIR(sb.st_mode)) return false;
    return S_ISCHR(sb.st_mode) || strncmp(out, "/dev/", 5) == 0;
}

fg_status check_output(const char *out, bool force, const char *const *in, size_t n, fg_err *err)
{
    if (out == NULL) return FG_OK;
    FG_TRY(fg_io_check_output(out, err));
    for (size_t i = 0; i < n; i++) {
        if (in[i] != NULL) FG_TRY(fg_io_refuse_input(out, in[i], err));
    }
    return force ? FG_OK : fg_io_refuse_existing(out, err);
}

fg_status parse_ids(const char *text, size_t n, const char *name, fg_ids *ids, fg_err *err)
{
    for (size_t i = 0; i < n;) {
        if (memchr(" \t\r\n,[]", text[i], 7) != NULL) {
            i++;
            continue;
        }
        uint64_t v = 0;
        size_t end = i;
        while (end < n && text[end] >= '0' && text[end] <= '9' && v < UINT32_MAX) {
            v = v * 10 + (uint64_t)(text[end++] - '0');
        }
        const bool ends = end == n || memchr(" \t\r\n,[]", text[end], 7) != NULL;
        if (end == i || !ends || v >= UINT32_MAX) {
            return fg_fail(err, FG_EFORMAT, "%s: '%.*s' at byte %zu, expected a token id", name,
                           (int)(n - i < 16 ? n - i : 16), text + i, i);
        }
        if (!fg_ids_push(ids, (uint32_t)v)) return fg_fail_nomem(err, name);
        i = end;
    }
    return FG_OK;
}

/* ---- generation ---- */

static bool prompt_progress(void *ctx, size_t done, size_t total)
{
    /* a short prompt needs no progress line */
    return total < 2048 ? !cli_interrupted() : progress_show(ctx, done, total);
}

fg_status eval_prompt(fg_session *s, const fg_ids *prompt, fg_err *err)
{
    progress p;
    progress_start(&p, "prompt", "token");
    fg_session_set_progress(s, prompt_progress, &p);
    const fg_status st = fg_session_eval(s, prompt->data, prompt->len, NULL, NULL, err);
    fg_session_set_progress(s, NULL, NULL);
    progress_end(&p);
    return st;
}

static double read_before; /* GB/s; 0: not measured */

void measure_read(fg_engine *e, uint64_t n_predict)
{
    enum { FEW = 32 };
    if (n_predict < FEW || args_quiet() || fg_engine_store_stats(e) != NULL) return;
    if (fg_engine_read_bandwidth(e, &read_before, NULL) != FG_OK) read_before = 0.0;
}

static void print_share(fg_engine *e, double gbs)
{
    double after;
    if (read_before <= 0.0 || fg_engine_read_bandwidth(e, &after, NULL) != FG_OK) return;
    fprintf(stderr, ", %.0f %% of read (%.1f GB/s before, %.1f after%s)",
            200.0 * gbs / (read_before + after), read_before, after,
            fg_bench_unsteady(read_before, after) ? ", not steady" : "");
}

void print_store(fg_engine *e)
{
    const fg_store_stats *s = fg_engine_store_stats(e);
    if (s == NULL || args_quiet()) return;
    const fg_cache_stats *c = &s->cache;
    const uint64_t n_hit = c->n_hit + c->n_prefetch_hit, n = n_hit + c->n_miss;
    const double busy = (double)s->io.busy_ns * 1e-9;
    fprintf(stderr, "experts: room for %s of %s, %s of %s hits (%.1f %%); ", cli_count(s->n_slot),
            cli_count(s->n_total), cli_count(n_hit), cli_count(n),
            n == 0 ? 0.0 : 100.0 * (double)n_hit / (double)n);
    fprintf(stderr, "read %s in all, %.2f GB/s by %s%s\n", cli_bytes((double)s->io.bytes),
            busy > 0.0 ? (double)s->io.bytes * 1e-9 / busy : 0.0, s->io.backend,
            s->io.direct ? "" : " through the page cache");
    /* without one there still are those of a batch that has just used all experts of a layer */
    const bool none = s->predict == FG_PREDICT_NONE;
    if (c->n_prefetch > 0) {
        fprintf(stderr, "read ahead %s%s: %s experts, %.1f %% of them used\n",
                none ? "in batches" : "by ", none ? "" : fg_predict_name(s->predict),
                cli_count(c->n_prefetch),
                100.0 * (double)c->n_prefetch_hit / (double)c->n_prefetch);
    }
    if (none || s->n_single == 0) return;
    fprintf(stderr, "%s was on for %s of %s single tokens", fg_predict_name(s->predict),
            cli_count(s->n_hinted), cli_count(s->n_single));
    if (s->gain != 0.0) {
        fprintf(stderr, "; when last tried, tokens took %.1f %% %s with it", 100.0 * fabs(s->gain),
                s->gain > 0.0 ? "less" : "more");
    }
    const bool untried = s->n_hinted == 0 && s->n_switch == 0;
    fputs(s->predict_trial ? "; it is being tried\n"
          : s->predict_on  ? "\n"
          : untried        ? "; not tried yet\n"
                           : "; it is off\n",
          stderr);
}

static void print_card(const fg_engine *e)
{
    fg_device_stats s;
    if (!fg_engine_device_stats(e, &s) || args_quiet()) return;
    const uint64_t *n = s.n_expert_rows, all = n[0] + n[1] + n[2];
    const double rows = all == 0 ? 1.0 : (double)all;
    fprintf(stderr,
            "card: %s experts on it (%s), which did %.1f %% of all rows; copied ones %.1f %%",
            cli_count(s.n_resident), cli_bytes((double)s.resident_bytes),
            100.0 * (double)n[1] / rows, 100.0 * (double)n[2] / rows);
    fprintf(stderr, "; %s changed places\n", cli_count(s.n_moved));
}

void print_speed(fg_engine *e, const gen_stats *g)
{
    if (args_quiet()) return;
    const double rate = g->reply.n_eval == 0 ? 0.0 : (double)g->reply.n_eval / g->reply.seconds;
    const double bytes = (double)fg_engine_token_bytes(e), gbs = rate * bytes * 1e-9;
    fprintf(stderr, "prompt %s tokens, %.1f tok/s; generated %s tokens, %.1f tok/s; ",
            cli_count(g->n_prompt), (double)g->n_prompt / g->prompt_s, cli_count(g->reply.n_gen),
            rate);
    fprintf(stderr, "%s/token, %.2f GB/s", cli_bytes(bytes), gbs);
    /* with guesses a pass reads more than a token's weights, and gives more than a token */
    if (g->reply.n_eval > 0 && g->more.n_drafted == 0 && g->reply.end != FG_END_CANCEL) {
        print_share(e, gbs);
    }
    const uint32_t prompt = fg_team_n_long(fg_engine_team(e)),
                   decode = fg_team_n_short(fg_engine_team(e));
    fprintf(stderr, "; %u threads", prompt);
    if (decode != prompt) fprintf(stderr, " (%u to generate)", decode);
    fprintf(stderr, ", %s\n", fg_engine_cpu(e));
    const fg_generator_stats *d = &g->more;
    if (d->n_drafted > 0) {
        fprintf(stderr, "guessed %s tokens, %s of them right, gain %.2f\n", cli_count(d->n_drafted),
                cli_count(d->n_accepted), d->gain);
    }
    print_store(e);
    print_card(e);
}
