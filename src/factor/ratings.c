/* SPDX-License-Identifier: MIT */
#include "src/factor/ratings.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/hash.h"
#include "src/base/mem.h"
#include "src/base/rng.h"

/* ---- ids ---- */

void fg_id_table_fini(fg_id_table *t)
{
    fg_mem_free(t->text);
    fg_mem_free(t->start);
    fg_mem_free(t->slot);
    *t = (fg_id_table){0};
}

const char *fg_id_text(const fg_id_table *t, uint32_t id)
{
    return t->text + t->start[id];
}

/* The slot that has the id, or the free one where it would be. */
static size_t find_slot(const fg_id_table *t, const char *s, size_t n)
{
    size_t at = (size_t)fg_hash64(s, n) & (t->n_slot - 1);
    while (t->slot[at] != 0) {
        const char *have = fg_id_text(t, t->slot[at] - 1);
        if (strlen(have) == n && memcmp(have, s, n) == 0) break;
        at = (at + 1) & (t->n_slot - 1);
    }
    return at;
}

uint32_t fg_id_find(const fg_id_table *t, const char *s, size_t n)
{
    if (t->n_slot == 0) return UINT32_MAX;
    return t->slot[find_slot(t, s, n)] - 1;
}

static fg_status grow_slots(fg_id_table *t, fg_err *err)
{
    const size_t n = t->n_slot == 0 ? 1024 : 2 * t->n_slot;
    uint32_t *slot = fg_mem_zalloc_array(n, sizeof *slot);
    if (slot == NULL) return fg_fail_nomem(err, "ids");
    fg_mem_free(t->slot);
    t->slot = slot;
    t->n_slot = n;
    for (uint32_t i = 0; i < t->n; i++) {
        const char *s = fg_id_text(t, i);
        slot[find_slot(t, s, strlen(s))] = i + 1;
    }
    return FG_OK;
}

fg_status fg_id_add(fg_id_table *t, const char *s, size_t n, uint32_t *id, fg_err *err)
{
    if (2 * ((size_t)t->n + 1) > t->n_slot) FG_TRY(grow_slots(t, err));
    const size_t at = find_slot(t, s, n);
    if (t->slot[at] != 0) {
        *id = t->slot[at] - 1;
        return FG_OK;
    }
    if (t->n >= UINT32_MAX - 2) return fg_fail(err, FG_ELIMIT, "ids: 2^32, expected fewer");
    if (!fg_mem_grow((void **)&t->text, &t->text_cap, t->n_text + n + 1, 1) ||
        !fg_mem_grow((void **)&t->start, &t->start_cap, (size_t)t->n + 1, sizeof *t->start)) {
        return fg_fail_nomem(err, "ids");
    }
    memcpy(t->text + t->n_text, s, n);
    t->text[t->n_text + n] = '\0';
    t->start[t->n] = t->n_text;
    t->n_text += n + 1;
    *id = t->n++;
    t->slot[at] = *id + 1;
    return FG_OK;
}

/* ---- lines ---- */

void fg_ratings_fini(fg_ratings *r)
{
    fg_hdi_fini(&r->m);
    fg_mem_free(r->time);
    fg_id_table_fini(&r->user);
    fg_id_table_fini(&r->item);
    *r = (fg_ratings){0};
}

enum {
    MAX_FIELD = 4,
    MAX_LINE = 1 << 24, /* bytes; what never ends is no text */
};

typedef struct field {
    const char *s;
    size_t n;
} field;

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static field trim(const char *s, size_t n)
{
    while (n > 0 && is_space(s[n - 1])) n--;
    while (n > 0 && is_space(*s)) s++, n--;
    if (n >= 2 && s[0] == '"' && s[n - 1] == '"') s++, n -= 2;
    return (field){s, n};
}

static bool separates(const char *s, size_t n, size_t at, char separator)
{
    if (separator == ' ') return is_space(s[at]);
    if (separator == ':') return s[at] == ':' && at + 1 < n && s[at + 1] == ':';
    return s[at] == separator;
}

/* Where the field from `at` on ends.  Quotes hold it together when they are around all of it; an
 * inch mark does not. */
static size_t end_of(const char *s, size_t n, size_t at, char separator)
{
    size_t end = at;
    while (end < n && is_space(s[end]) && !separates(s, n, end, separator)) end++;
    if (end < n && s[end] == '"') {
        for (size_t i = end + 1; i < n; i++) {
            if (s[i] != '"') continue;
            for (i++; i < n && is_space(s[i]) && !separates(s, n, i, separator);) i++;
            if (i == n || separates(s, n, i, separator)) return i;
        }
    }
    while (end < n && !separates(s, n, end, separator)) end++;
    return end;
}

/* The first MAX_FIELD fields of a line; how many there are of them. */
static size_t cut(const char *s, size_t n, char separator, field *out)
{
    size_t k = 0, at = 0;
    while (k < MAX_FIELD && at <= n) {
        if (separator == ' ') {
            while (at < n && is_space(s[at])) at++;
            if (at == n) break;
        }
        const size_t end = end_of(s, n, at, separator);
        out[k++] = trim(s + at, end - at);
        at = end + (separator == ':' ? 2 : 1);
    }
    return k;
}

static bool number_of(field f, double *v)
{
    char text[64];
    if (f.n == 0 || f.n >= sizeof text) return false;
    memcpy(text, f.s, f.n);
    text[f.n] = '\0';
    char *end;
    *v = strtod(text, &end);
    const bool hex = strpbrk(text, "xX") != NULL;
    return end == text + f.n && !hex && isfinite(*v) && fabs(*v) <= 1e30;
}

/* What stands where a rating should: a name, not a number that cannot be. */
static bool is_name(field f)
{
    char text[64];
    if (f.n == 0) return false;
    if (f.n >= sizeof text) return true;
    memcpy(text, f.s, f.n);
    text[f.n] = '\0';
    char *end;
    (void)strtod(text, &end); /* nan and inf are numbers to it */
    return end != text + f.n && strchr("+-.0123456789", text[0]) == NULL;
}

/* What stands between fields: "::", a tab, a comma, a semicolon, or a space for any white space.
 * Ids have such characters in them too: the first that gives a number where the rating is, else the
 * first that gives as many fields as are wanted. */
static char separator_of(const char *s, size_t n, size_t wanted)
{
    static const char order[] = ":\t,; ";
    field f[MAX_FIELD];
    char whole = '\0', some = '\0';
    double v;
    for (const char *c = order; *c != '\0'; c++) {
        const size_t k = cut(s, n, *c, f);
        if (k >= wanted && (k < 3 || number_of(f[2], &v))) return *c;
        if (k >= wanted && whole == '\0') whole = *c;
        if (k > 1 && some == '\0') some = *c;
    }
    return whole != '\0' ? whole : some != '\0' ? some : ' ';
}

typedef struct lines {
    fg_ratings *r;
    const char *name;
    uint64_t number; /* of the line */
    char separator;
    bool pairs;
} lines;

static fg_status bad_line(const lines *c, const char *what, field f, const char *wanted,
                          fg_err *err)
{
    return fg_fail(err, FG_EFORMAT, "%s: line %" PRIu64 ": %s%s%.*s, expected %s", c->name,
                   c->number, what, f.n > 0 ? " " : "", (int)(f.n < 40 ? f.n : 40),
                   f.n > 0 ? f.s : "", wanted);
}

static fg_status add_line(lines *c, const char *s, size_t n, fg_err *err)
{
    static const char form[] = "user, item and rating";
    field f[MAX_FIELD];
    double value = 0.0, when = 0.0;
    uint32_t row = 0, col = 0;
    const field all = trim(s, n);
    if (all.n == 0) return FG_OK;
    if (memchr(all.s, '\0', all.n) != NULL) {
        return bad_line(c, "a zero byte", (field){0}, "text", err);
    }
    if (memchr(all.s, '\r', all.n) != NULL) {
        return bad_line(c, "a carriage return", (field){0}, "lines that end with a newline", err);
    }
    const size_t wanted = c->pairs ? 2 : 3;
    if (c->separator == '\0') c->separator = separator_of(s, n, wanted);
    const size_t k = cut(s, n, c->separator, f);
    if (k < wanted) {
        return bad_line(c, k == 2 ? "two fields" : "one field", (field){0},
                        c->pairs ? "user and item"
                        : k == 2 ? "user, item and rating; implicit feedback is out of scope"
                                 : form,
                        err);
    }
    if (f[0].n == 0 || f[1].n == 0) return bad_line(c, "an empty id", (field){0}, form, err);
    if (k > 2 && !number_of(f[2], &value)) {
        if (c->number == 1 && is_name(f[2])) return FG_OK; /* of columns */
        return bad_line(c, "rating", f[2], "a number within 1e30", err);
    }
    FG_TRY(fg_id_add(&c->r->user, f[0].s, f[0].n, &row, err));
    FG_TRY(fg_id_add(&c->r->item, f[1].s, f[1].n, &col, err));
    FG_TRY(fg_hdi_add(&c->r->m, row, col, (float)value, err));
    if (c->r->no_time) return FG_OK;
    const bool timed = k > 3 && number_of(f[3], &when);
    if (!timed && c->r->time == NULL) return FG_OK;
    const size_t had = c->r->time == NULL ? 0 : c->r->m.n - 1;
    if (!fg_mem_grow((void **)&c->r->time, &c->r->time_cap, c->r->m.n, sizeof *c->r->time)) {
        return fg_fail_nomem(err, "times");
    }
    for (size_t i = had; i < c->r->m.n; i++) c->r->time[i] = (double)NAN;
    if (timed) c->r->time[c->r->m.n - 1] = when;
    return FG_OK;
}

static fg_status unite(fg_ratings *r, const char *name, fg_hdi_repeats how, fg_err *err)
{
    const uint64_t n = r->m.n;
    uint64_t gone = 0;
    uint8_t *kept = fg_mem_zalloc((size_t)n + 1);
    if (kept == NULL) return fg_fail_nomem(err, "repeated entries");
    fg_err why = {0};
    const fg_status st = fg_hdi_unite(&r->m, how, &gone, kept, &why);
    if (r->time != NULL) {
        for (uint64_t i = 0, k = 0; i < n; i++) {
            if (kept[i] != 0) r->time[k++] = r->time[i];
        }
    }
    fg_mem_free(kept);
    r->n_repeat += gone;
    return st == FG_OK ? FG_OK : fg_fail(err, st, "%s: %s", name, why.msg);
}

/* The lines that are whole; *used is how many bytes those take.  last: so is what has no end. */
static fg_status add_lines(lines *c, const char *text, size_t n, bool last, size_t *used,
                           fg_err *err)
{
    size_t at = 0;
    if (c->number == 0 && n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) at = 3;
    while (at < n) {
        const char *end = memchr(text + at, '\n', n - at);
        if (end == NULL && !last && n - at < MAX_LINE) break;
        const size_t len = end == NULL ? n - at : (size_t)(end - text) - at;
        c->number++;
        if (len >= MAX_LINE) {
            return fg_fail(err, FG_EFORMAT,
                           "%s: line %" PRIu64 ": %zu bytes and more, expected "
                           "user, item and rating",
                           c->name, c->number, len);
        }
        FG_TRY(add_line(c, text + at, len, err));
        at += len + (end != NULL);
    }
    *used = at;
    return FG_OK;
}

fg_status fg_ratings_parse(fg_ratings *r, const char *text, size_t n, const char *name, bool pairs,
                           fg_hdi_repeats how, fg_err *err)
{
    lines c = {.r = r, .name = name, .pairs = pairs};
    FG_TRY(add_lines(&c, text, n, true, &n, err));
    return pairs ? FG_OK : unite(r, name, how, err);
}

enum { READ_AT_ONCE = 1 << 20 };

/* Room for the lines of a file, so that the array need not grow, which takes it twice. */
static fg_status count_lines(fg_ratings *r, FILE *f, char *text, fg_err *err)
{
    uint64_t n = 1;
    size_t got;
    struct stat sb;
    if (fstat(fileno(f), &sb) != 0 || !S_ISREG(sb.st_mode)) return FG_OK; /* a pipe, a device */
    while ((got = fread(text, 1, READ_AT_ONCE, f)) > 0) {
        for (const char *at = text; (at = memchr(at, '\n', got - (size_t)(at - text))); at++) n++;
    }
    rewind(f);
    return fg_hdi_reserve(&r->m, r->m.n + n, err);
}

static fg_status read_lines(lines *c, FILE *f, fg_err *err)
{
    char *text = NULL;
    size_t cap = 0, n = 0, got;
    if (!fg_mem_grow((void **)&text, &cap, READ_AT_ONCE, 1)) return fg_fail_nomem(err, "lines");
    fg_status st = count_lines(c->r, f, text, err);
    do {
        size_t used = 0;
        if (st != FG_OK) break;
        if (!fg_mem_grow((void **)&text, &cap, n + READ_AT_ONCE, 1)) {
            st = fg_fail_nomem(err, "lines");
            break;
        }
        got = fread(text + n, 1, READ_AT_ONCE, f);
        n += got;
        st = add_lines(c, text, n, got == 0, &used, err);
        if (st == FG_OK) memmove(text, text + used, n -= used);
    } while (st == FG_OK && got > 0);
    if (st == FG_OK && ferror(f)) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected to read it", c->name, strerror(errno));
    }
    fg_mem_free(text);
    return st;
}

fg_status fg_ratings_read(fg_ratings *r, const char *path, bool pairs, fg_hdi_repeats how,
                          fg_err *err)
{
    lines c = {.r = r, .name = path, .pairs = pairs};
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (f == NULL) {
        return fg_fail(err, FG_EIO, "%s: %s, expected a readable file", path, strerror(errno));
    }
    const fg_status st = read_lines(&c, f, err);
    if (f != stdin) (void)fclose(f);
    FG_TRY(st);
    return pairs ? FG_OK : unite(r, path, how, err);
}

fg_status fg_ratings_explicit(const fg_hdi *h, const char *name, fg_err *err)
{
    for (uint64_t i = 1; i < h->n; i++) {
        if (h->entry[i].value != h->entry[0].value) return FG_OK; /* as bits: they came so */
    }
    if (h->n < 2) return FG_OK;
    return fg_fail(err, FG_EINVAL,
                   "%s: each rating is %g, expected ratings that differ; implicit feedback, which "
                   "says what was met and not how it was liked, is out of scope",
                   name, (double)h->entry[0].value);
}

/* ---- parts ---- */

typedef struct dated {
    double time;
    uint64_t at;
} dated;

static int compare_dates(const void *pa, const void *pb)
{
    const dated *a = pa, *b = pb;
    if (a->time != b->time) return a->time < b->time ? -1 : 1;
    return a->at < b->at ? -1 : a->at > b->at;
}

static uint64_t share_of(uint64_t n, double share, double sum)
{
    return (uint64_t)((double)n * share / sum + .5);
}

/* Draws one of n_part parts, each as likely as it has entries left, so that they come out exact. */
static uint32_t draw_part(fg_rng *rng, uint64_t *left, uint32_t n_part, uint64_t n_left)
{
    uint64_t at = (uint64_t)(fg_rng_f64(rng) * (double)n_left);
    uint32_t k = 0;
    while (k + 1 < n_part && at >= left[k]) at -= left[k++];
    left[k]--;
    return k;
}

static void deal_at_random(uint64_t n, const fg_ratings_cut *c, uint8_t *to)
{
    const double sum = c->share[0] + c->share[1] + c->share[2];
    fg_rng rng;
    fg_rng_init(&rng, c->seed);
    const uint64_t first = share_of(n, c->share[0], sum);
    uint64_t left[3] = {first, share_of(n, c->share[0] + c->share[1], sum) - first, 0};
    left[2] = n - left[0] - left[1];
    for (uint64_t i = 0; i < n; i++) to[i] = (uint8_t)draw_part(&rng, left, 3, n - i);
}

/* Every fold draws the same folds, and then parts of what is not its own. */
static void deal_folds(uint64_t n, const fg_ratings_cut *c, uint8_t *to)
{
    uint64_t fold[FG_RATINGS_FOLDS], left[2];
    fg_rng rng, other;
    fg_rng_init(&rng, c->seed);
    fg_rng_init(&other, c->seed + c->fold + 1);
    for (uint64_t k = 0; k < c->n_fold; k++) fold[k] = n * (k + 1) / c->n_fold - n * k / c->n_fold;
    uint64_t rest = n - fold[c->fold];
    left[0] = share_of(rest, c->share[0], c->share[0] + c->share[1]);
    left[1] = rest - left[0];
    for (uint64_t i = 0; i < n; i++) {
        const bool test = draw_part(&rng, fold, c->n_fold, n - i) == c->fold;
        to[i] = test ? 2 : (uint8_t)draw_part(&other, left, 2, rest--);
    }
}

static fg_status deal_by_time(const fg_ratings *r, const fg_ratings_cut *c, uint8_t *to,
                              fg_err *err)
{
    const double sum = c->share[0] + c->share[1] + c->share[2];
    const uint64_t n = r->m.n;
    uint64_t n_timed = 0;
    for (uint64_t i = 0; r->time != NULL && i < n; i++) n_timed += isnan(r->time[i]) ? 0 : 1;
    if (n_timed < n) {
        return fg_fail(err, FG_EINVAL,
                       "split: %" PRIu64 " of %" PRIu64
                       " ratings with a time, expected a number as fourth field of each",
                       n_timed, n);
    }
    dated *d = fg_mem_zalloc_array((size_t)n + 1, sizeof *d);
    if (d == NULL) return fg_fail_nomem(err, "split");
    for (uint64_t i = 0; i < n; i++) d[i] = (dated){r->time[i], i};
    qsort(d, (size_t)n, sizeof *d, compare_dates);
    const uint64_t first = share_of(n, c->share[0], sum);
    const uint64_t second = share_of(n, c->share[0] + c->share[1], sum);
    for (uint64_t i = 0; i < n; i++) to[d[i].at] = (uint8_t)((i >= first) + (i >= second));
    fg_mem_free(d);
    return FG_OK;
}

fg_status fg_ratings_deal(const fg_ratings *r, const fg_ratings_cut *cut, uint8_t *to, fg_err *err)
{
    if (cut->by_time) return deal_by_time(r, cut, to, err);
    if (cut->n_fold > 1) {
        deal_folds(r->m.n, cut, to);
    } else {
        deal_at_random(r->m.n, cut, to);
    }
    return FG_OK;
}

fg_status fg_ratings_parts(fg_ratings *r, const uint8_t *to, bool take, fg_hdi part[3], fg_err *err)
{
    uint64_t n[3] = {0};
    for (uint64_t i = 0; i < r->m.n; i++) n[to[i]]++;
    fg_status st = FG_OK;
    for (int k = 0; k < 3; k++) part[k] = (fg_hdi){.n_row = r->m.n_row, .n_col = r->m.n_col};
    for (int k = take ? 1 : 0; st == FG_OK && k < 3; k++) {
        st = fg_hdi_reserve(&part[k], n[k], err);
    }
    if (st == FG_OK && take) { /* the first goes where it was */
        part[0].entry = r->m.entry;
        part[0].cap = r->m.cap;
        r->m.entry = NULL;
    }
    const fg_hdi_entry *from = take ? part[0].entry : r->m.entry;
    for (uint64_t i = 0; st == FG_OK && i < r->m.n; i++) {
        fg_hdi *h = &part[to[i]];
        h->entry[h->n++] = from[i];
    }
    for (int k = 0; st != FG_OK && k < 3; k++) fg_hdi_fini(&part[k]);
    if (st == FG_OK && take) fg_hdi_fini(&r->m);
    return st;
}
