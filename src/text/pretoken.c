/* SPDX-License-Identifier: MIT
 *
 * Splitting.  Each pattern is searched from left to right; how matches and gaps become pieces,
 * including matches of length zero, follows the reference.  Splits after the first run on each
 * piece alone, so that a look-ahead sees the end of the piece as the end of the text.
 *
 * NFC.  Almost all text is normalized already, so one scan looks for characters that could change:
 * combining marks, second halves of composed characters, and characters whose own normal form
 * differs.  Only the stretch around such a character, from the last harmless one before it up to
 * the next, goes through decomposition, reordering and composition.  Composition never reaches
 * across a harmless character, so this equals normalizing the whole.  Reordering is ours (a stable
 * counting sort of each run of marks), since utf8proc's takes quadratic time in hostile text.
 */
#include "src/text/pretoken.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

#include "src/base/mem.h"
#include "src/text/regex.h"
#include "src/base/utf8.h"

enum {
    NFC_END = 0x30000, /* no character above has a decomposition or a combining class */
    JIT_STACK_MIN = 32 << 10,
    JIT_STACK_MAX = 16 << 20,
    MAX_PATTERN = 1 << 16,
    SHORT_RUN = 16,    /* marks in a row that are sorted by insertion */
    POLL_EVERY = 1024, /* searches */
    STARTS = 16,       /* bytes in which a match may begin, of a search's first call to PCRE2 */
    MOST_STARTS = 4096,
    POLL_MS = 16,
};

/* Steps of matching, as PCRE2 counts them.  A search begins with few and, when these do not do,
 * gets more out of what the whole text has; so a text takes time in proportion to its length,
 * whatever the pattern.  A run of n characters that is stepped back over takes about n, and at most
 * nine times as many with the trials before; none of the patterns in use takes more than twice
 * that. */
#define FIRST_STEPS   UINT32_C(1024)
#define MORE_STEPS    8
#define TEXT_STEPS(n) ((UINT64_C(1) << 24) + UINT64_C(256) * (n))

/* PCRE2 counts steps anew at each place where a match might begin, and one step may read all that
 * is left of the text, as of (?>a+)+b and a++b|a.  So time counts too: of the processor, not the
 * wall's, and some twenty times what the patterns in use take. */
#define TEXT_NS(n) (UINT64_C(2000000000) + UINT64_C(2000) * (n))
#define HEAP_KIB                                                                                   \
    (UINT32_C(64) << 10) /* of matching without JIT, where each step back has a frame */

struct fg_pretok {
    bool nfc;
    pcre2_general_context *heap;
    pcre2_code *code[FG_PRETOK_MAX_SPLIT];
    fg_cut kind[FG_PRETOK_MAX_SPLIT];
    bool jit[FG_PRETOK_MAX_SPLIT];
    size_t n_split;
};

struct fg_pretok_state {
    pcre2_general_context *heap;
    pcre2_match_context *match;
    pcre2_jit_stack *stack;
    pcre2_match_data *data[FG_PRETOK_MAX_SPLIT]; /* one for each depth of splitting */
    fg_pretok_poll *poll;                        /* NULL: none */
    void *poll_ctx;
    uint64_t n_search; /* since its creation */
    uint64_t steps;    /* that the text at hand has left */
    uint64_t end_ns;   /* on the thread's clock: when its time is over */
    uint64_t poll_ms;  /* when it was last looked at */
};

static void *heap_alloc(size_t n, void *ctx)
{
    (void)ctx;
    return fg_mem_alloc(n);
}

static void heap_free(void *p, void *ctx)
{
    (void)ctx;
    fg_mem_free(p);
}

/* ---- NFC ------------------------------------------------------------------------------------ */

/* Marks (and second halves of compositions) that Unicode has had since its version 10.  The
 * normalizer of the reference does not know them: it neither reorders nor composes them, and so
 * must we, whatever the version of utf8proc. */
static const uint32_t later_marks[][2] = {
    {0x7fd, 0x7fd},     {0x897, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xcf3, 0xcf3},     {0xd3b, 0xd3c},     {0xeba, 0xeba},
    {0xece, 0xece},     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},
    {0xa82c, 0xa82c},   {0x10d24, 0x10d27}, {0x10d69, 0x10d6d}, {0x10eab, 0x10eac},
    {0x10efc, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070},
    {0x11241, 0x11241}, {0x1133b, 0x1133b}, {0x113b8, 0x113c0}, {0x113c2, 0x113c2},
    {0x113c5, 0x113c5}, {0x113c7, 0x113ca}, {0x113cc, 0x113d0}, {0x113d2, 0x113d2},
    {0x113e1, 0x113e2}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x1193d, 0x1193e},
    {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47},
    {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
    {0x11f00, 0x11f01}, {0x11f03, 0x11f03}, {0x11f34, 0x11f3a}, {0x11f3e, 0x11f42},
    {0x11f5a, 0x11f5a}, {0x13440, 0x13440}, {0x13447, 0x13455}, {0x1611e, 0x1612f},
    {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae},
    {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1e5ee, 0x1e5ef}, {0x11930, 0x11930},
    {0x16d67, 0x16d67},
};

static bool is_later_mark(uint32_t cp)
{
    for (size_t i = 0; i < sizeof later_marks / sizeof later_marks[0]; i++) {
        if (cp >= later_marks[i][0] && cp <= later_marks[i][1]) return true;
    }
    return false;
}

static bool is_jamo_tail(uint32_t cp) /* vowels and finals: join the syllable before them */
{
    return (cp >= 0x1161 && cp <= 0x1175) || (cp >= 0x11a8 && cp <= 0x11c2);
}

static bool is_hangul(uint32_t cp)
{
    return cp >= 0xac00 && cp <= 0xd7a3;
}

/* A bit a character: it may change, or change its predecessor.  Filled once, as it takes as long as
 * the rest of a tokenizer. */
static uint64_t unstable[NFC_END / 64];

static void mark_unstable(uint32_t cp)
{
    unstable[cp / 64] |= UINT64_C(1) << (cp % 64);
}

static bool is_unstable(uint32_t cp)
{
    return cp < NFC_END && (unstable[cp / 64] >> (cp % 64) & 1) != 0;
}

/* Full canonical decomposition of one character into 8 places; the longest has 4. */
static size_t decompose(uint32_t cp, utf8proc_int32_t *dst)
{
    int bound = 0;
    const utf8proc_ssize_t n = utf8proc_decompose_char(
        (utf8proc_int32_t)cp, dst, 8, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &bound);
    if (n >= 1 && n <= 8) return (size_t)n;
    dst[0] = (utf8proc_int32_t)cp;
    return 1;
}

static int combining_class(utf8proc_int32_t cp)
{
    const int ccc = utf8proc_get_property(cp)->combining_class;
    return ccc != 0 && is_later_mark((uint32_t)cp) ? 0 : ccc;
}

static void fill_unstable(void)
{
    for (uint32_t cp = 0x80; cp < NFC_END; cp++) {
        if (cp >= 0xd800 && cp <= 0xdfff) continue;
        if (combining_class((utf8proc_int32_t)cp) != 0 || is_jamo_tail(cp)) mark_unstable(cp);
        if (is_hangul(cp)) continue; /* composed, and stable */
        utf8proc_int32_t part[8];
        const size_t n = decompose(cp, part);
        if (n == 1 && part[0] == (utf8proc_int32_t)cp) continue;
        const utf8proc_int32_t second = part[n - 1];
        if (n > 1 && second < NFC_END) mark_unstable((uint32_t)second);
        const utf8proc_ssize_t m =
            utf8proc_normalize_utf32(part, (utf8proc_ssize_t)n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (m != 1 || part[0] != (utf8proc_int32_t)cp) mark_unstable(cp);
    }
    for (size_t i = 0; i < sizeof later_marks / sizeof later_marks[0]; i++) {
        for (uint32_t cp = later_marks[i][0]; cp <= later_marks[i][1]; cp++) {
            unstable[cp / 64] &= ~(UINT64_C(1) << (cp % 64));
        }
    }
}

/* Canonical order: stable sort by class of each run of characters whose class is not 0. */
static bool reorder(utf8proc_int32_t *cp, size_t n)
{
    utf8proc_int32_t *copy = NULL;
    size_t cap = 0;
    for (size_t i = 0; i < n; i++) {
        if (combining_class(cp[i]) == 0) continue;
        size_t end = i + 1;
        while (end < n && combining_class(cp[end]) != 0) end++;
        if (end - i <= SHORT_RUN) {
            for (size_t k = i + 1; k < end; k++) {
                const utf8proc_int32_t x = cp[k];
                size_t at = k;
                for (; at > i && combining_class(cp[at - 1]) > combining_class(x); at--) {
                    cp[at] = cp[at - 1];
                }
                cp[at] = x;
            }
        } else {
            size_t first[257] = {0};
            void *grown = copy;
            if (!fg_mem_grow(&grown, &cap, end - i, sizeof *copy)) {
                fg_mem_free(copy);
                return false;
            }
            copy = grown;
            memcpy(copy, cp + i, (end - i) * sizeof *copy);
            for (size_t k = i; k < end; k++) first[(combining_class(cp[k]) & 0xff) + 1]++;
            for (size_t k = 0; k < 256; k++) first[k + 1] += first[k];
            for (size_t k = 0; k < end - i; k++) {
                cp[i + first[combining_class(copy[k]) & 0xff]++] = copy[k];
            }
        }
        i = end;
    }
    fg_mem_free(copy);
    return true;
}

/* Appends the normal form of a stretch that begins and ends at safe boundaries. */
static bool normalize_stretch(const uint8_t *text, size_t n, fg_buf *out)
{
    utf8proc_int32_t *cp = NULL;
    size_t len = 0, cap = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        i += fg_utf8_next(text + i, n - i, &c);
        void *grown = cp;
        if (!fg_mem_grow(&grown, &cap, len + 8, sizeof *cp)) goto fail;
        cp = grown;
        len += decompose(c, cp + len);
    }
    if (!reorder(cp, len)) goto fail;
    const utf8proc_ssize_t composed =
        utf8proc_normalize_utf32(cp, (utf8proc_ssize_t)len, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < composed; i++) fg_utf8_put(out, (uint32_t)cp[i]);
    fg_mem_free(cp);
    return composed >= 0;
fail:
    fg_mem_free(cp);
    return false;
}

fg_status fg_pretok_normalize(const fg_pretok *p, const uint8_t *text, size_t n, fg_buf *scratch,
                              const uint8_t **out, size_t *n_out, fg_err *err)
{
    *out = text;
    *n_out = n;
    if (!p->nfc) return FG_OK;
    scratch->len = 0;
    size_t done = 0;   /* text before it is in scratch */
    size_t stable = 0; /* start of the last harmless character */
    bool changed = false;
    for (size_t i = 0; i < n;) {
        if (text[i] < 0x80) {
            stable = i++;
            continue;
        }
        uint32_t cp;
        const size_t len = fg_utf8_next(text + i, n - i, &cp);
        if (!is_unstable(cp)) {
            stable = i;
            i += len;
            continue;
        }
        size_t end = i + len;
        for (size_t step; end < n; end += step) {
            step = fg_utf8_next(text + end, n - end, &cp);
            if (!is_unstable(cp)) break;
        }
        fg_buf_put(scratch, text + done, stable - done);
        if (!normalize_stretch(text + stable, end - stable, scratch) || scratch->failed) {
            return fg_fail_nomem(err, "normalized text");
        }
        changed = true;
        done = stable = i = end;
    }
    if (!changed) return FG_OK;
    fg_buf_put(scratch, text + done, n - done);
    if (scratch->failed) return fg_fail_nomem(err, "normalized text");
    *out = scratch->data;
    *n_out = scratch->len;
    return FG_OK;
}

/* ---- patterns ------------------------------------------------------------------------------- */

fg_status fg_pretok_create(fg_pretok **out, bool nfc, fg_err *err)
{
    *out = NULL;
    fg_pretok *p = fg_mem_zalloc(sizeof *p);
    if (p == NULL) return fg_fail_nomem(err, "the text splitter");
    p->nfc = nfc;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (nfc) (void)pthread_once(&once, fill_unstable);
    p->heap = pcre2_general_context_create(heap_alloc, heap_free, NULL);
    if (p->heap == NULL) {
        fg_pretok_destroy(&p);
        return fg_fail_nomem(err, "the text splitter");
    }
    *out = p;
    return FG_OK;
}

void fg_pretok_destroy(fg_pretok **p)
{
    if (*p == NULL) return;
    for (size_t i = 0; i < (*p)->n_split; i++) pcre2_code_free((*p)->code[i]);
    pcre2_general_context_free((*p)->heap);
    fg_mem_free(*p);
    *p = NULL;
}

fg_status fg_pretok_add(fg_pretok *p, const char *pattern, size_t n, bool literal, fg_cut kind,
                        const char *name, fg_err *err)
{
    if (p->n_split == FG_PRETOK_MAX_SPLIT) {
        return fg_fail(err, FG_ELIMIT, "%s: more than %d splits, expected fewer", name,
                       (int)FG_PRETOK_MAX_SPLIT);
    }
    if (n == 0 || n > MAX_PATTERN) {
        return fg_fail(err, FG_ELIMIT, "%s: a pattern of %zu bytes, expected 1 to %d", name, n,
                       (int)MAX_PATTERN);
    }
    fg_buf text = {0};
    pcre2_compile_context *compile = pcre2_compile_context_create(p->heap);
    pcre2_code *code = NULL;
    fg_status st = FG_OK;
    if (compile == NULL) {
        st = fg_fail_nomem(err, "a regular expression");
        goto done;
    }
    (void)pcre2_set_newline(compile, PCRE2_NEWLINE_LF); /* '.': not \n, as in Oniguruma */
    if (literal) {
        fg_buf_put(&text, pattern, n);
        if (text.failed) st = fg_fail_nomem(err, "a regular expression");
    } else {
        st = fg_regex_translate(pattern, n, &text, name, err);
    }
    if (st != FG_OK) goto done;
    int number = 0;
    PCRE2_SIZE offset = 0;
    code = pcre2_compile(text.data, text.len,
                         PCRE2_UTF | PCRE2_USE_OFFSET_LIMIT | (literal ? PCRE2_LITERAL : PCRE2_UCP),
                         &number, &offset, compile);
    if (code == NULL) {
        PCRE2_UCHAR why[128] = {0};
        (void)pcre2_get_error_message(number, why, sizeof why);
        st = number == PCRE2_ERROR_HEAP_FAILED
                 ? fg_fail_nomem(err, "a regular expression")
                 : fg_fail(err, FG_EFORMAT, "%s: \"%.*s\" (%s), expected a regular expression",
                           name, (int)(n < 80 ? n : 80), pattern, (const char *)why);
        goto done;
    }
    /* Without JIT (not built in, or memory may not be made executable) matching is the same. */
    p->jit[p->n_split] = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
    p->kind[p->n_split] = kind;
    p->code[p->n_split++] = code;
done:
    pcre2_compile_context_free(compile);
    fg_buf_fini(&text);
    return st;
}

fg_status fg_pretok_state_create(fg_pretok_state **out, fg_err *err)
{
    *out = NULL;
    fg_pretok_state *s = fg_mem_zalloc(sizeof *s);
    if (s == NULL) return fg_fail_nomem(err, "the text splitter");
    s->heap = pcre2_general_context_create(heap_alloc, heap_free, NULL);
    if (s->heap != NULL) {
        s->match = pcre2_match_context_create(s->heap);
        s->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, s->heap);
    }
    bool ok = s->match != NULL;
    for (size_t i = 0; i < FG_PRETOK_MAX_SPLIT && ok; i++) {
        s->data[i] = pcre2_match_data_create(1, s->heap);
        ok = s->data[i] != NULL;
    }
    if (!ok) {
        fg_pretok_state_destroy(&s);
        return fg_fail_nomem(err, "the text splitter");
    }
    (void)pcre2_set_depth_limit(s->match, UINT32_MAX); /* the heap's is the one that matters */
    (void)pcre2_set_heap_limit(s->match, HEAP_KIB);
    if (s->stack != NULL) pcre2_jit_stack_assign(s->match, NULL, s->stack);
    *out = s;
    return FG_OK;
}

void fg_pretok_state_set_poll(fg_pretok_state *s, fg_pretok_poll *poll, void *ctx)
{
    s->poll = poll;
    s->poll_ctx = ctx;
}

void fg_pretok_state_destroy(fg_pretok_state **s)
{
    if (*s == NULL) return;
    for (size_t i = 0; i < FG_PRETOK_MAX_SPLIT; i++) pcre2_match_data_free((*s)->data[i]);
    pcre2_match_context_free((*s)->match);
    pcre2_jit_stack_free((*s)->stack);
    pcre2_general_context_free((*s)->heap);
    fg_mem_free(*s);
    *s = NULL;
}

/* ---- splitting ------------------------------------------------------------------------------ */

typedef struct run {
    const fg_pretok *p;
    fg_pretok_state *s;
    fg_word_fn *emit;
    void *ctx;
    fg_err *err;
} run;

/* PCRE2's answer with no more steps than that, for matches that begin at most `span` after `from`.
 * */
static int match(const run *r, size_t k, const uint8_t *text, size_t n, size_t from, size_t span,
                 uint32_t steps)
{
    const pcre2_code *code = r->p->code[k];
    pcre2_match_data *data = r->s->data[k];
    (void)pcre2_set_match_limit(r->s->match, steps);
    (void)pcre2_set_offset_limit(r->s->match, n - from > span ? from + span : n);
    int rc = PCRE2_ERROR_JIT_BADOPTION;
    if (r->p->jit[k]) rc = pcre2_jit_match(code, text, n, from, 0, data, r->s->match);
    if (rc == PCRE2_ERROR_JIT_BADOPTION || rc == PCRE2_ERROR_JIT_STACKLIMIT) {
        /* The text is valid UTF-8; checking its rest at each match would take quadratic time. */
        rc = pcre2_match(code, text, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, r->s->match);
    }
    return rc;
}

static uint64_t clock_of(clockid_t id)
{
    struct timespec t = {0};
    (void)clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Around each call to PCRE2, so cheap: whether the text has time left, *stopped when it is not
 * wanted any more. */
static bool has_time(fg_pretok_state *s, bool due, bool *stopped)
{
    const uint64_t now = clock_of(CLOCK_MONOTONIC_COARSE) / 1000000;
    if (!due && now - s->poll_ms < POLL_MS) return true;
    s->poll_ms = now;
    *stopped = s->poll != NULL && !s->poll(s->poll_ctx);
    return clock_of(CLOCK_THREAD_CPUTIME_ID) < s->end_ns;
}

/* After a trial that *steps did not do for: whether there are more.  *tried_ns: when it began, 0
 * for the first one, which is short. */
static bool more_steps(fg_pretok_state *s, uint64_t *steps, uint64_t *tried_ns)
{
    const uint64_t now = clock_of(CLOCK_THREAD_CPUTIME_ID);
    const uint64_t next_ns = *tried_ns == 0 ? 0 : (now - *tried_ns) * MORE_STEPS;
    *tried_ns = now;
    *steps = *steps * MORE_STEPS < UINT32_MAX ? *steps * MORE_STEPS : UINT32_MAX;
    if (*steps > s->steps || now + next_ns > s->end_ns) return false;
    s->steps -= *steps;
    return true;
}

/* Next match of split k at or after `from`: *begin, *end, or *found false. */
static fg_status search(const run *r, size_t k, const uint8_t *text, size_t n, size_t from,
                        bool *found, size_t *begin, size_t *end)
{
    fg_pretok_state *s = r->s;
    bool stopped = false, go = has_time(s, s->n_search++ % POLL_EVERY == 0, &stopped);
    int rc = PCRE2_ERROR_MATCHLIMIT;
    uint64_t steps = FIRST_STEPS, tried_ns = 0;
    for (size_t span = STARTS; go && !stopped; go = go && has_time(s, tried_ns != 0, &stopped)) {
        rc = match(r, k, text, n, from, span, (uint32_t)steps);
        if (rc == PCRE2_ERROR_MATCHLIMIT) {
            go = more_steps(s, &steps, &tried_ns);
        } else if (rc == PCRE2_ERROR_NOMATCH && n - from > span) {
            from += span;
            while (from < n && (text[from] & 0xc0) == 0x80) from++;
            if (span < MOST_STARTS) span *= 2; /* what is slow comes to has_time */
            rc = PCRE2_ERROR_MATCHLIMIT;       /* should the time be over */
        } else {
            go = false;
        }
    }
    if (stopped) return fg_fail(r->err, FG_ECANCEL, "text: cancelled, expected all its tokens");
    if (rc == PCRE2_ERROR_MATCHLIMIT) {
        return fg_fail(r->err, FG_ELIMIT,
                       "text: the tokenizer's pattern takes too many steps at byte %zu, expected a "
                       "time in proportion to the %zu bytes",
                       from, n);
    }
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH) return FG_OK;
    if (rc < 0) {
        PCRE2_UCHAR why[128] = {0};
        (void)pcre2_get_error_message(rc, why, sizeof why);
        return fg_fail(r->err, rc == PCRE2_ERROR_NOMEMORY ? FG_ENOMEM : FG_ELIMIT,
                       "text: splitting failed at byte %zu (%s), expected a match or none", from,
                       (const char *)why);
    }
    const PCRE2_SIZE *pair = pcre2_get_ovector_pointer(s->data[k]);
    *begin = pair[0];
    *end = pair[1];
    if (*begin < from || *end < *begin || *end > n) { /* \K is refused; keep the loop safe anyway */
        return fg_fail(r->err, FG_ENOTSUP, "text: a match that runs backwards, expected forwards");
    }
    return FG_OK;
}

static fg_status split(const run *r, size_t k, const uint8_t *text, size_t n)
{
    if (n == 0) return FG_OK;
    if (k == r->p->n_split) return r->emit(r->ctx, text, n, r->err);
    const bool gaps = r->p->kind[k] == FG_CUT_ISOLATED;
    size_t done = 0, from = 0, last = SIZE_MAX; /* last: end of the last match */
    while (from <= n) {
        bool found = false;
        size_t begin = 0, end = 0;
        FG_TRY(search(r, k, text, n, from, &found, &begin, &end));
        if (!found) break;
        if (begin == end && end == last) { /* the reference skips an empty match after a match */
            uint32_t cp;
            from = from < n ? from + fg_utf8_next(text + from, n - from, &cp) : n + 1;
            continue;
        }
        if (gaps && begin > done) FG_TRY(split(r, k + 1, text + done, begin - done));
        FG_TRY(split(r, k + 1, text + begin, end - begin));
        done = from = last = end;
    }
    return gaps ? split(r, k + 1, text + done, n - done) : FG_OK;
}

fg_status fg_pretok_run(const fg_pretok *p, fg_pretok_state *s, const uint8_t *text, size_t n,
                        fg_word_fn *emit, void *ctx, fg_err *err)
{
    const run r = {p, s, emit, ctx, err};
    s->steps = TEXT_STEPS((uint64_t)n);
    s->end_ns = clock_of(CLOCK_THREAD_CPUTIME_ID) + TEXT_NS((uint64_t)n);
    return split(&r, 0, text, n);
}
