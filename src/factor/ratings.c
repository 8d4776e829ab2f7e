/* SPDX-License-Identifier: MIT */
#include "src/factor/ratings.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

enum { MAX_FIELD = 4 };

typedef struct field {
    const char *s;
    size_t n;
} field;

/* What stands between fields: "::", a tab, a comma, a semicolon, or a space for any white space. */
static char separator_of(const char *s, size_t n)
{
    for (size_t i = 0; i + 1 < n; i++) {
        if (s[i] == ':' && s[i + 1] == ':') return ':';
    }
    for (const char *c = "\t,;"; *c != '\0'; c++) {
        if (memchr(s, *c, n) != NULL) return *c;
    }
    return ' ';
}

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

/* The first MAX_FIELD fields of a line; how many there are of them. */
static size_t cut(const char *s, size_t n, char separator, field *out)
{
    size_t k = 0, at = 0;
    while (k < MAX_FIELD && at <= n) {
        size_t end = at;
        bool quoted = false;
        if (separator == ' ') {
            while (at < n && is_space(s[at])) at++;
            if (at == n) break;
            end = at;
        }
        for (; end < n; end++) {
            if (s[end] == '"') quoted = !quoted;
            if (quoted) continue;
            if (separator == ' ' ? is_space(s[end]) : s[end] == separator) {
                if (separator != ':' || (end + 1 < n && s[end + 1] == ':')) break;
            }
        }
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
    return end == text + f.n && isfinite(*v) && fabs(*v) <= 1e30;
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
    if (trim(s, n).n == 0) return FG_OK;
    if (c->separator == '\0') c->separator = separator_of(s, n);
    const size_t k = cut(s, n, c->separator, f);
    if (k < (c->pairs ? 2u : 3u)) {
        return bad_line(c, k == 2 ? "two fields" : "one field", (field){0},
                        c->pairs ? "user and item" : form, err);
    }
    if (f[0].n == 0 || f[1].n == 0) return bad_line(c, "an empty id", (field){0}, form, err);
    if (memchr(f[0].s, '\0', f[0].n) != NULL || memchr(f[1].s, '\0', f[1].n) != NULL) {
        return bad_line(c, "a zero byte", (field){0}, "text", err);
    }
    if (k > 2 && !number_of(f[2], &value)) {
        if (c->number == 1) return FG_OK; /* names of columns */
        return bad_line(c, "rating", f[2], "a number within 1e30", err);
    }
    FG_TRY(fg_id_add(&c->r->user, f[0].s, f[0].n, &row, err));
    FG_TRY(fg_id_add(&c->r->item, f[1].s, f[1].n, &col, err));
    FG_TRY(fg_hdi_add(&c->r->m, row, col, (float)value, err));
    const bool timed = k > 3 && number_of(f[3], &when);
    if (!timed && c->r->time == NULL) return FG_OK;
    const size_t had = c->r->time == NULL ? 0 : c->r->m.n - 1;
    if (!fg_mem_grow((void **)&c->r->time, &c->r->time_cap, c->r->m.n, sizeof *c->r->time)) {
        return fg_fail_nomem(err, "times");
    }
    for (size_t i = had; i < c->r->m.n; i++) c->r->time[i] = 0.0;
    c->r->time[c->r->m.n - 1] = when;
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

fg_status fg_ratings_parse(fg_ratings *r, const char *text, size_t n, const char *name, bool pairs,
                           fg_hdi_repeats how, fg_err *err)
{
    lines c = {.r = r, .name = name, .pairs = pairs};
    if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) text += 3, n -= 3;
    while (n > 0) {
        const char *end = memchr(text, '\n', n);
        const size_t len = end == NULL ? n : (size_t)(end - text);
        c.number++;
        FG_TRY(add_line(&c, text, len, err));
        text += len + (end != NULL);
        n -= len + (end != NULL);
    }
    return pairs ? FG_OK : unite(r, name, how, err);
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

static void shuffle(dated *d, uint64_t n, uint64_t seed)
{
    fg_rng rng;
    fg_rng_init(&rng, seed);
    for (; n > 1; n--) {
        const uint64_t at = (uint64_t)(fg_rng_f64(&rng) * (double)n);
        const dated swap = d[n - 1];
        d[n - 1] = d[at];
        d[at] = swap;
    }
}

fg_status fg_ratings_split(const fg_ratings *r, const double share[3], uint64_t seed, bool by_time,
                           fg_hdi part[3], fg_err *err)
{
    for (int k = 0; k < 3; k++) part[k] = (fg_hdi){.n_row = r->m.n_row, .n_col = r->m.n_col};
    if (by_time && r->time == NULL) {
        return fg_fail(err, FG_EINVAL, "split: no times in the file, expected a fourth field");
    }
    dated *d = fg_mem_zalloc_array((size_t)r->m.n + 1, sizeof *d);
    uint8_t *to = fg_mem_zalloc((size_t)r->m.n + 1);
    fg_status st = d == NULL || to == NULL ? fg_fail_nomem(err, "split") : FG_OK;
    if (st == FG_OK) {
        const double sum = share[0] + share[1] + share[2], n = (double)r->m.n;
        for (uint64_t i = 0; i < r->m.n; i++) d[i] = (dated){by_time ? r->time[i] : 0.0, i};
        if (by_time) {
            qsort(d, (size_t)r->m.n, sizeof *d, compare_dates);
        } else {
            shuffle(d, r->m.n, seed);
        }
        const uint64_t first = (uint64_t)(n * share[0] / sum + .5);
        const uint64_t second = (uint64_t)(n * (share[0] + share[1]) / sum + .5);
        for (uint64_t i = 0; i < r->m.n; i++) to[d[i].at] = (uint8_t)((i >= first) + (i >= second));
    }
    for (uint64_t i = 0; st == FG_OK && i < r->m.n; i++) { /* parts keep the file's order */
        const fg_hdi_entry *e = &r->m.entry[i];
        st = fg_hdi_add(&part[to[i]], e->row, e->col, e->value, err);
    }
    fg_mem_free(d);
    fg_mem_free(to);
    for (int k = 0; st != FG_OK && k < 3; k++) fg_hdi_fini(&part[k]);
    return st;
}
