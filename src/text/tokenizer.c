/* SPDX-License-Identifier: MIT
 *
 * Encoding walks the text once per kind of added token, then hands the gaps to the splitter, which
 * calls back for each word.  Added tokens are found by narrowing the sorted list byte by byte from
 * each possible start, so the cost at a position is bounded by the longest token whatever the file
 * holds.
 */
#include "src/text/tokenizer.h"

#include <string.h>

#include "src/base/mem.h"
#include "src/text/tokenizer_impl.h"
#include "src/base/utf8.h"

struct fg_tok_state {
    fg_pretok_state *split;
    fg_bpe_state *bpe;
    fg_buf repaired;   /* text with U+FFFD for what was not UTF-8 */
    fg_buf normalized; /* one gap */
};

void fg_ids_fini(fg_ids *ids)
{
    fg_mem_free(ids->data);
    *ids = (fg_ids){0};
}

bool fg_ids_push(fg_ids *ids, uint32_t id)
{
    if (ids->len == ids->cap) {
        void *p = ids->data;
        if (!fg_mem_grow(&p, &ids->cap, ids->len + 1, sizeof *ids->data)) return false;
        ids->data = p;
    }
    ids->data[ids->len++] = id;
    return true;
}

fg_status fg_tokenizer_create(fg_tokenizer **out, const char *json, size_t n, const char *name,
                              fg_err *err)
{
    *out = NULL;
    fg_tokenizer *t = fg_mem_zalloc(sizeof *t);
    if (t == NULL) return fg_fail_nomem(err, "a tokenizer");
    t->name = fg_mem_strndup(name, strlen(name));
    const fg_status st =
        t->name == NULL ? fg_fail_nomem(err, "a tokenizer") : fg_tokenizer_load(t, json, n, err);
    if (st != FG_OK) {
        fg_tokenizer_destroy(&t);
        return st;
    }
    *out = t;
    return FG_OK;
}

void fg_tokenizer_destroy(fg_tokenizer **t)
{
    if (*t == NULL) return;
    for (size_t i = 0; i < FG_ADDED_PASSES; i++) fg_mem_free((*t)->added[i].entry);
    fg_buf_fini(&(*t)->added_text);
    fg_pretok_destroy(&(*t)->pretok);
    fg_bpe_fini(&(*t)->bpe);
    fg_vocab_fini(&(*t)->vocab);
    fg_mem_free((*t)->name);
    fg_mem_free(*t);
    *t = NULL;
}

fg_status fg_tok_state_create(fg_tok_state **out, const fg_tokenizer *t, fg_err *err)
{
    (void)t;
    *out = NULL;
    fg_tok_state *s = fg_mem_zalloc(sizeof *s);
    if (s == NULL) return fg_fail_nomem(err, "tokenizer state");
    fg_status st = fg_pretok_state_create(&s->split, err);
    if (st == FG_OK && !fg_bpe_state_create(&s->bpe)) st = fg_fail_nomem(err, "tokenizer state");
    if (st != FG_OK) {
        fg_tok_state_destroy(&s);
        return st;
    }
    *out = s;
    return FG_OK;
}

void fg_tok_state_destroy(fg_tok_state **s)
{
    if (*s == NULL) return;
    fg_pretok_state_destroy(&(*s)->split);
    fg_bpe_state_destroy(&(*s)->bpe);
    fg_buf_fini(&(*s)->repaired);
    fg_buf_fini(&(*s)->normalized);
    fg_mem_free(*s);
    *s = NULL;
}

void fg_tok_state_set_poll(fg_tok_state *s, bool (*poll)(void *ctx), void *ctx)
{
    fg_pretok_state_set_poll(s->split, poll, ctx);
}

/* First entry of [lo, hi) whose byte at depth is >= c; entries in the range share `depth` bytes and
 * are longer than that. */
static size_t narrow(const fg_added_set *set, size_t lo, size_t hi, size_t depth, unsigned c)
{
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (set->entry[mid].text[depth] < c) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

/* Longest entry that the text begins with, or NULL. */
static const fg_added *match_here(const fg_added_set *set, const uint8_t *p, size_t n)
{
    const fg_added *best = NULL;
    size_t lo = 0, hi = set->n;
    for (size_t depth = 0; depth < n && lo < hi; depth++) {
        lo = narrow(set, lo, hi, depth, p[depth]);
        hi = narrow(set, lo, hi, depth, p[depth] + 1u);
        if (lo < hi && set->entry[lo].len == depth + 1) best = &set->entry[lo++];
    }
    return best;
}

/* Next added token at or after *pos; *pos becomes its start, or n without one. */
static const fg_added *next_added(const fg_added_set *set, const uint8_t *p, size_t n, size_t *pos)
{
    for (size_t i = set->n == 0 ? n : *pos; i < n; i++) {
        if (!set->first[p[i]]) continue;
        const fg_added *a = match_here(set, p + i, n - i);
        if (a == NULL) continue;
        *pos = i;
        return a;
    }
    *pos = n;
    return NULL;
}

typedef struct encoder {
    const fg_tokenizer *t;
    fg_tok_state *s;
    bool parse_special;
    fg_ids *ids;
    fg_err *err;
} encoder;

static fg_status encode_word(void *ctx, const uint8_t *word, size_t n, fg_err *err)
{
    encoder *e = ctx;
    return fg_bpe_word(&e->t->bpe, e->s->bpe, word, n, e->ids, err);
}

static fg_status encode_pass(encoder *e, int pass, const uint8_t *p, size_t n);

static fg_status encode_gap(encoder *e, int pass, const uint8_t *p, size_t n)
{
    if (n == 0) return FG_OK;
    if (pass == FG_ADDED_NORMALIZED) {
        return fg_pretok_run(e->t->pretok, e->s->split, p, n, encode_word, e, e->err);
    }
    FG_TRY(fg_pretok_normalize(e->t->pretok, p, n, &e->s->normalized, &p, &n, e->err));
    return encode_pass(e, FG_ADDED_NORMALIZED, p, n);
}

static fg_status encode_pass(encoder *e, int pass, const uint8_t *p, size_t n)
{
    const fg_added_set *set = &e->t->added[pass];
    size_t done = 0, pos = 0;
    const fg_added *a;
    while ((a = next_added(set, p, n, &pos)) != NULL) {
        const size_t end = pos + a->len;
        if (e->parse_special || !fg_tokenizer_is_special(e->t, a->id)) {
            FG_TRY(encode_gap(e, pass, p + done, pos - done));
            if (!fg_ids_push(e->ids, a->id)) return fg_fail_nomem(e->err, "token ids");
            done = end;
        }
        pos = end;
    }
    return encode_gap(e, pass, p + done, n - done);
}

fg_status fg_tokenizer_encode(const fg_tokenizer *t, fg_tok_state *s, const char *text, size_t n,
                              bool parse_special, fg_ids *ids, fg_err *err)
{
    const size_t before = ids->len;
    fg_tok_state *own = NULL;
    if (s == NULL) {
        FG_TRY(fg_tok_state_create(&own, t, err));
        s = own;
    }
    const uint8_t *p = (const uint8_t *)text;
    fg_status st = FG_OK;
    if (fg_utf8_valid(p, n) != n) {
        s->repaired.len = 0;
        fg_utf8_repair(&s->repaired, p, n);
        if (s->repaired.failed) {
            fg_buf_fini(&s->repaired); /* usable again */
            st = fg_fail_nomem(err, "repaired text");
        }
        p = s->repaired.data;
        n = s->repaired.len;
    }
    if (st == FG_OK) {
        encoder e = {t, s, parse_special, ids, err};
        st = encode_pass(&e, FG_ADDED_RAW, p, n);
    }
    if (s->normalized.failed) fg_buf_fini(&s->normalized);
    if (st != FG_OK) ids->len = before;
    fg_tok_state_destroy(&own);
    return st;
}

fg_status fg_tokenizer_decode(const fg_tokenizer *t, const uint32_t *ids, size_t n,
                              bool skip_special, fg_buf *out, fg_err *err)
{
    for (size_t i = 0; i < n; i++) {
        const uint8_t *bytes;
        size_t len;
        if (!fg_tokenizer_token(t, ids[i], &bytes, &len)) {
            return fg_fail(err, FG_EINVAL,
                           "%s: id %u at position %zu, expected one of its %u tokens", t->name,
                           (unsigned)ids[i], i, (unsigned)t->vocab.n_token);
        }
        if (!skip_special || !fg_tokenizer_is_special(t, ids[i])) fg_buf_put(out, bytes, len);
    }
    return out->failed ? fg_fail_nomem(err, "decoded text") : FG_OK;
}

const char *fg_tokenizer_name(const fg_tokenizer *t)
{
    return t->name;
}

uint32_t fg_tokenizer_n_id(const fg_tokenizer *t)
{
    return t->vocab.n_id;
}

uint32_t fg_tokenizer_n_token(const fg_tokenizer *t)
{
    return t->vocab.n_token;
}

static bool has_flag(const fg_tokenizer *t, uint32_t id, uint32_t flag)
{
    return id < t->vocab.n_id && (t->vocab.token[id].flags & flag) != 0;
}

bool fg_tokenizer_has(const fg_tokenizer *t, uint32_t id)
{
    return has_flag(t, id, FG_TOKEN_PRESENT);
}

bool fg_tokenizer_is_special(const fg_tokenizer *t, uint32_t id)
{
    return has_flag(t, id, FG_TOKEN_SPECIAL);
}

bool fg_tokenizer_token(const fg_tokenizer *t, uint32_t id, const uint8_t **bytes, size_t *n)
{
    const bool has = fg_tokenizer_has(t, id);
    *bytes = has ? t->vocab.bytes.data + t->vocab.token[id].begin : NULL;
    *n = has ? t->vocab.token[id].len : 0;
    return has;
}

bool fg_tokenizer_find_added(const fg_tokenizer *t, const char *content, uint32_t *id)
{
    const size_t n = strlen(content);
    for (uint32_t i = 0; i < t->vocab.n_id; i++) {
        const fg_token *k = &t->vocab.token[i];
        if ((k->flags & FG_TOKEN_ADDED) == 0 || k->len != n) continue;
        if (memcmp(t->vocab.bytes.data + k->begin, content, n) != 0) continue;
        *id = i;
        return true;
    }
    return false;
}

bool fg_tokenizer_find_special(const fg_tokenizer *t, const char *text, size_t n, uint32_t *id,
                               size_t *begin, size_t *len)
{
    bool found = false;
    for (int pass = 0; pass < FG_ADDED_PASSES; pass++) {
        const fg_added_set *set = &t->added[pass];
        size_t pos = 0;
        const fg_added *a;
        while ((a = next_added(set, (const uint8_t *)text, n, &pos)) != NULL) {
            if (fg_tokenizer_is_special(t, a->id)) break;
            pos += a->len;
        }
        if (a == NULL || (found && *begin <= pos)) continue;
        found = true;
        *id = a->id;
        *begin = pos;
        *len = a->len;
    }
    return found;
}

void fg_tokenizer_mask(const fg_tokenizer *t, uint64_t *mask, uint32_t n_vocab)
{
    memset(mask, 0, ((size_t)n_vocab + 63) / 64 * sizeof *mask);
    for (uint32_t id = 0; id < n_vocab && id < t->vocab.n_id; id++) {
        if (fg_tokenizer_has(t, id)) mask[id / 64] |= UINT64_C(1) << (id % 64);
    }
}
