/* SPDX-License-Identifier: MIT
 *
 * The writer keeps one pass in memory and lets stdio do the rest; the header, which holds the
 * counts and the hash, is written last, so that an unfinished file never opens.  The reader checks
 * every byte once when it opens, and trusts the mapping afterwards.
 */
#include "src/eval/routing_trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/format/shape.h"

enum {
    HEAD_BYTES = 128,
    PASS_BYTES = 8,    /* in front of a pass's layers */
    PASS_BYTES_2 = 20, /* the same with tokens, which come after */
    GUESS_1 = 4,
    GUESS_2 = 8, /* layers, and experts of each, of a guess */
    NOBODY = 0xffff,
    MAX_USED = FG_CACHE_MAX_LOADS / 2,
};
#define MAX_BYTES ((uint64_t)1 << 62)
_Static_assert((int)FG_MAX_EXPERT < (int)NOBODY && (int)FG_PREDICT_AHEAD == (int)GUESS_2 &&
                   (int)FG_PREDICT_WIDTH == (int)GUESS_2,
               "ids and guesses are what the format has");

static const uint8_t magic[8] = {0x89, 'F', 'G', 'T', 'R', 0x0d, 0x0a, 0x1a};

static bool has_ids(const fg_trace_head *h)
{
    return h->n_vocab != 0;
}

/* Layers of a guess. */
static uint32_t guess_ahead(const fg_trace_head *h)
{
    return has_ids(h) ? GUESS_2 : GUESS_1;
}

static uint32_t guess_width(const fg_trace_head *h)
{
    return h->n_expert < guess_ahead(h) ? h->n_expert : guess_ahead(h);
}

/* Bytes in front of a pass's layers. */
static uint64_t front_bytes(const fg_trace_head *h, uint32_t n_tok)
{
    return has_ids(h) ? PASS_BYTES_2 + 4 * (uint64_t)n_tok : PASS_BYTES;
}

/* Bytes of a layer in a pass; no overflow: at most 2^20 * 32 * 2. */
static uint64_t layer_bytes(const fg_trace_head *h, uint32_t n_tok)
{
    const uint64_t guess = n_tok == 1 ? (uint64_t)guess_ahead(h) * guess_width(h) : 0;
    return 2 * ((uint64_t)n_tok * h->n_used + guess);
}

static uint64_t heat_bytes(const fg_trace_head *h)
{
    return 8 * (uint64_t)h->n_layer * h->n_expert;
}

static uint16_t get_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static void put_u16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* ---- header ---- */

typedef struct body_sum {
    uint64_t bytes, hash;
} body_sum;

static void encode_head(fg_buf *b, const fg_trace_head *h, bool has_heat, const body_sum *body)
{
    fg_buf_put(b, magic, sizeof magic);
    fg_buf_u32(b, has_ids(h) ? 2 : 1);
    fg_buf_u32(b, h->n_layer);
    fg_buf_u32(b, h->n_expert);
    fg_buf_u32(b, h->n_used);
    fg_buf_u64(b, h->data_root);
    fg_buf_u64(b, h->dense_bytes);
    fg_buf_u64(b, h->slot_bytes);
    fg_buf_u64(b, h->session_bytes);
    fg_buf_u64(b, h->ram_bytes);
    fg_buf_u32(b, fg_policy_get(h->policy)->stored);
    fg_buf_u32(b, fg_predict_get(h->predict)->stored);
    fg_buf_u32(b, h->ahead);
    fg_buf_u32(b, has_heat);
    fg_buf_u64(b, h->n_pass);
    fg_buf_u64(b, h->n_tok);
    fg_buf_u64(b, body->bytes);
    fg_buf_u64(b, body->hash);
    fg_buf_u32(b, h->n_vocab);
    fg_buf_u32(b, 0);
    fg_buf_u64(b, b->failed ? 0 : fg_hash64(b->data, b->len));
}

/* NULL, or the name of the field that no trace can have. */
static const char *bad_field(const fg_trace_head *h)
{
    if (h->n_layer < 1 || h->n_layer > FG_MAX_LAYER) return "n_layer";
    if (h->n_expert < 1 || h->n_expert > FG_MAX_EXPERT) return "n_expert";
    if (h->n_used < 1 || h->n_used > MAX_USED || h->n_used > h->n_expert) return "n_used";
    if (h->dense_bytes >= MAX_BYTES) return "dense_bytes";
    if (h->slot_bytes < 1 || h->slot_bytes > MAX_BYTES) return "slot_bytes";
    if (h->session_bytes >= MAX_BYTES) return "session_bytes";
    if (!fg_policy_is_live(h->policy)) return "policy";
    if (fg_predict_get(h->predict) == NULL) return "predict";
    if (h->n_vocab > FG_MAX_VOCAB) return "n_vocab";
    if (h->ahead < 1 || h->ahead > guess_ahead(h)) return "ahead";
    return NULL;
}

/* The one with this stored number; COUNT: none. */
static fg_policy policy_of(uint32_t stored)
{
    uint32_t i = 0;
    while (i < FG_POLICY_COUNT &&
           (!fg_policy_is_live((fg_policy)i) || fg_policy_get((fg_policy)i)->stored != stored)) {
        i++;
    }
    return (fg_policy)i;
}

static fg_predict predict_of(uint32_t stored)
{
    uint32_t i = 0;
    while (i < FG_PREDICT_COUNT && fg_predict_get((fg_predict)i)->stored != stored) i++;
    return (fg_predict)i;
}

static fg_status decode_head(const uint8_t *data, uint64_t size, const char *path, fg_trace_head *h,
                             bool *has_heat, body_sum *body, fg_err *err)
{
    if (size < sizeof magic || memcmp(data, magic, sizeof magic) != 0) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: no routing trace, expected a file made by fulgur trace", path);
    }
    if (size < HEAD_BYTES) {
        return fg_fail(err, FG_EFORMAT, "%s: %" PRIu64 " bytes, expected a trace of at least %d",
                       path, size, HEAD_BYTES);
    }
    fg_cursor c = fg_cursor_make(data + sizeof magic, HEAD_BYTES - sizeof magic);
    const uint32_t version = fg_cursor_u32(&c);
    if (version < 1 || version > 2) {
        return fg_fail(err, FG_EVERSION, "%s: trace version %u, expected 1 or 2", path, version);
    }
    h->n_layer = fg_cursor_u32(&c);
    h->n_expert = fg_cursor_u32(&c);
    h->n_used = fg_cursor_u32(&c);
    h->data_root = fg_cursor_u64(&c);
    h->dense_bytes = fg_cursor_u64(&c);
    h->slot_bytes = fg_cursor_u64(&c);
    h->session_bytes = fg_cursor_u64(&c);
    h->ram_bytes = fg_cursor_u64(&c);
    h->policy = policy_of(fg_cursor_u32(&c));
    h->predict = predict_of(fg_cursor_u32(&c));
    h->ahead = fg_cursor_u32(&c);
    const uint32_t heat = fg_cursor_u32(&c);
    h->n_pass = fg_cursor_u64(&c);
    h->n_tok = fg_cursor_u64(&c);
    body->bytes = fg_cursor_u64(&c);
    body->hash = fg_cursor_u64(&c);
    h->n_vocab = fg_cursor_u32(&c);
    const uint32_t reserved = fg_cursor_u32(&c);
    if (fg_cursor_u64(&c) != fg_hash64(data, HEAD_BYTES - 8)) {
        return fg_fail(err, FG_ECHECKSUM,
                       "%s: damaged header, expected the hash it was written with", path);
    }
    const char *bad = bad_field(h);
    if (bad == NULL && (version == 2) != has_ids(h)) bad = "n_vocab";
    if (bad == NULL && heat > 1) bad = "has_heat";
    if (bad == NULL && reserved != 0) bad = "reserved field";
    if (bad != NULL) {
        return fg_fail(err, FG_EFORMAT, "%s: bad %s, expected a value that the format allows", path,
                       bad);
    }
    *has_heat = heat == 1;
    return FG_OK;
}

/* ---- writing ---- */

struct fg_trace_writer {
    fg_trace_head head;
    fg_new_file file;
    fg_hasher *hash;
    body_sum body;
    bool has_heat;
    fg_err err;  /* the first error */
    void *pass;  /* the running one, pass_bytes; 0: none */
    size_t room; /* of pass */
    uint64_t pass_bytes;
    uint32_t n_tok, n_layer; /* of the pass: tokens, layers so far */
    uint64_t pos, next;      /* of its first row; of the next pass, plus 1, 0: the usual */
};

static void write_body(fg_trace_writer *w, const void *bytes, uint64_t n)
{
    if (w->err.code != FG_OK) return;
    errno = 0;
    if (fwrite(bytes, 1, (size_t)n, w->file.f) != n) {
        (void)fg_fail(&w->err, FG_EIO, "%s: %s, expected to write %" PRIu64 " bytes", w->file.path,
                      strerror(errno), n);
    }
    fg_hasher_add(w->hash, bytes, (size_t)n);
    w->body.bytes += n;
}

fg_status fg_trace_create(fg_trace_writer **out, const char *path, const fg_trace_head *head,
                          const uint64_t *heat, fg_err *err)
{
    *out = NULL;
    const char *bad = bad_field(head);
    if (bad != NULL) {
        return fg_fail(err, FG_EINVAL, "%s: bad %s, expected a value that a trace can hold", path,
                       bad);
    }
    fg_trace_writer *w = fg_mem_zalloc(sizeof *w);
    if (w == NULL) return fg_fail_nomem(err, path);
    w->head = *head;
    w->head.n_pass = w->head.n_tok = 0;
    fg_buf b = {0};
    for (uint32_t i = 0; i < HEAD_BYTES; i++) fg_buf_u8(&b, 0); /* no magic till the end */
    w->has_heat = heat != NULL;
    for (uint64_t i = 0; w->has_heat && i < (uint64_t)head->n_layer * head->n_expert; i++) {
        fg_buf_u64(&b, heat[i]);
    }
    w->hash = fg_hasher_create();
    fg_status st = fg_new_file_open(&w->file, path, err);
    if (st == FG_OK && (b.failed || w->hash == NULL)) st = fg_fail_nomem(err, path);
    if (st == FG_OK && fwrite(b.data, 1, HEAD_BYTES, w->file.f) != HEAD_BYTES) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected a writable file", path, strerror(errno));
    }
    if (st == FG_OK) write_body(w, b.data + HEAD_BYTES, b.len - HEAD_BYTES);
    fg_buf_fini(&b);
    if (st != FG_OK) {
        fg_trace_writer_destroy(&w);
        return st;
    }
    *out = w;
    return FG_OK;
}

static void put_u64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(v >> (8 * i));
}

/* next: where the next pass begins. */
static void end_pass(fg_trace_writer *w, uint64_t next)
{
    if (w->pass_bytes == 0) return;
    if (w->err.code == FG_OK && next > w->pos + w->n_tok) {
        (void)fg_fail(&w->err, FG_EINVAL,
                      "%s: a pass at position %" PRIu64 ", expected at most %" PRIu64, w->file.path,
                      next, w->pos + w->n_tok);
    }
    if (has_ids(&w->head)) {
        uint8_t *p = (uint8_t *)w->pass + PASS_BYTES;
        const uint32_t kept = next < w->pos ? 0 : (uint32_t)(next - w->pos);
        put_u64(p, w->pos);
        put_u16(p + 8, kept & 0xffff);
        put_u16(p + 10, kept >> 16);
    }
    if (w->err.code == FG_OK && w->n_layer != w->head.n_layer) {
        (void)fg_fail(&w->err, FG_EINVAL, "%s: a pass of %u layers, expected %u", w->file.path,
                      w->n_layer, w->head.n_layer);
    }
    write_body(w, w->pass, w->pass_bytes);
    w->pass_bytes = 0;
    w->head.n_pass++;
    w->head.n_tok += w->n_tok;
}

/* The layer's place in the pass, or NULL: an error is kept already. */
static uint8_t *layer_at(fg_trace_writer *w, uint32_t layer)
{
    if (w->err.code != FG_OK || w->pass_bytes == 0) return NULL;
    return (uint8_t *)w->pass + front_bytes(&w->head, w->n_tok) +
           layer * layer_bytes(&w->head, w->n_tok);
}

/* Where the next pass begins when nobody says otherwise. */
static uint64_t end_of(const fg_trace_writer *w)
{
    return w->pos + (w->pass_bytes == 0 ? 0 : w->n_tok);
}

void fg_trace_at(fg_trace_writer *w, uint64_t pos)
{
    if (has_ids(&w->head)) w->next = pos + 1;
}

void fg_trace_begin(fg_trace_writer *w, uint32_t n_tok, bool predict_on)
{
    const uint64_t pos = w->next == 0 ? end_of(w) : w->next - 1;
    w->next = 0;
    end_pass(w, pos);
    w->pos = pos;
    if (w->err.code != FG_OK) return;
    if (n_tok < 1 || n_tok > FG_TRACE_MAX_TOK) {
        (void)fg_fail(&w->err, FG_EINVAL, "%s: a pass of %u tokens, expected 1 to %d", w->file.path,
                      n_tok, FG_TRACE_MAX_TOK);
        return;
    }
    const uint64_t front = front_bytes(&w->head, n_tok);
    const uint64_t n = front + w->head.n_layer * layer_bytes(&w->head, n_tok);
    if (!fg_mem_grow(&w->pass, &w->room, (size_t)n, 1)) {
        (void)fg_fail_nomem(&w->err, w->file.path);
        return;
    }
    memset(w->pass, 0xff, (size_t)n); /* guesses that nobody makes */
    uint8_t *p = w->pass;
    memset(p, 0, (size_t)front);
    put_u16(p, n_tok & 0xffff);
    put_u16(p + 2, n_tok >> 16);
    put_u16(p + 4, predict_on);
    w->pass_bytes = n;
    w->n_tok = n_tok;
    w->n_layer = 0;
}

void fg_trace_tokens(fg_trace_writer *w, const uint32_t *ids)
{
    if (w->err.code != FG_OK || w->pass_bytes == 0 || !has_ids(&w->head)) return;
    uint8_t *p = (uint8_t *)w->pass + PASS_BYTES_2;
    for (uint32_t i = 0; i < w->n_tok; i++, p += 4) {
        if (ids[i] >= w->head.n_vocab) {
            (void)fg_fail(&w->err, FG_EINVAL, "%s: token %u, expected less than %u", w->file.path,
                          ids[i], w->head.n_vocab);
            return;
        }
        put_u16(p, ids[i] & 0xffff);
        put_u16(p + 2, ids[i] >> 16);
    }
}

void fg_trace_layer(fg_trace_writer *w, uint32_t layer, const uint32_t *sel)
{
    if (w->err.code == FG_OK && (layer != w->n_layer || layer >= w->head.n_layer)) {
        (void)fg_fail(&w->err, FG_EINVAL, "%s: layer %u of a pass, expected layer %u of %u",
                      w->file.path, layer, w->n_layer, w->head.n_layer);
    }
    uint8_t *p = layer_at(w, layer);
    if (p == NULL) return;
    for (uint64_t i = 0; i < (uint64_t)w->n_tok * w->head.n_used; i++) put_u16(p + 2 * i, sel[i]);
    w->n_layer++;
}

void fg_trace_guess(fg_trace_writer *w, uint32_t layer, const fg_guess *g)
{
    uint8_t *p = layer_at(w, layer);
    if (p == NULL || w->n_tok != 1 || layer >= w->n_layer) return;
    const uint32_t width = guess_width(&w->head), most = guess_ahead(&w->head);
    p += 2 * (uint64_t)w->head.n_used;
    for (uint32_t d = 0; d < g->n_ahead && d < most; d++) {
        for (uint32_t i = 0; i < width; i++, p += 2) put_u16(p, g->id[d][i]);
    }
}

fg_status fg_trace_finish(fg_trace_writer *w, fg_err *err)
{
    end_pass(w, w->next == 0 ? end_of(w) : w->next - 1);
    if (w->err.code == FG_OK && w->head.n_pass == 0) {
        (void)fg_fail(&w->err, FG_EINVAL, "%s: no pass recorded, expected at least one",
                      w->file.path);
    }
    fg_buf b = {0};
    w->body.hash = fg_hasher_digest(w->hash);
    encode_head(&b, &w->head, w->has_heat, &w->body);
    if (b.failed && w->err.code == FG_OK) (void)fg_fail_nomem(&w->err, w->file.path);
    errno = 0;
    if (w->err.code == FG_OK &&
        (fseeko(w->file.f, 0, SEEK_SET) != 0 || fwrite(b.data, 1, b.len, w->file.f) != b.len)) {
        (void)fg_fail(&w->err, FG_EIO, "%s: %s, expected to write %" PRIu64 " bytes", w->file.path,
                      strerror(errno), HEAD_BYTES + w->body.bytes);
    }
    fg_buf_fini(&b);
    if (w->err.code != FG_OK) {
        if (err != NULL) *err = w->err;
        return w->err.code;
    }
    return fg_new_file_commit(&w->file, err);
}

void fg_trace_writer_destroy(fg_trace_writer **writer)
{
    fg_trace_writer *w = *writer;
    if (w == NULL) return;
    fg_new_file_close(&w->file);
    fg_hasher_destroy(w->hash);
    fg_mem_free(w->pass);
    fg_mem_free(w);
    *writer = NULL;
}

/* ---- reading ---- */

struct fg_trace {
    fg_file file;
    fg_trace_head head;
    bool has_heat;
    uint64_t first; /* offset of the first pass */
    uint32_t most_tok;
};

/* The pass at `at`; false when its head, or what it says, goes past the end or is not allowed. */
static bool pass_at(const fg_trace *t, uint64_t at, fg_trace_pass *p)
{
    const uint64_t left = t->file.size - at;
    if (left < PASS_BYTES) return false;
    fg_cursor c = fg_cursor_make(t->file.data + at, PASS_BYTES);
    const uint32_t n_tok = fg_cursor_u32(&c), flags = fg_cursor_u32(&c);
    if (n_tok < 1 || n_tok > FG_TRACE_MAX_TOK || flags > 1) return false;
    const uint64_t front = front_bytes(&t->head, n_tok);
    const uint64_t n = front + t->head.n_layer * layer_bytes(&t->head, n_tok);
    if (n > left) return false;
    const uint64_t pos = p->at == 0 ? 0 : p->pos + p->n_tok;
    *p = (fg_trace_pass){at, at + n, n_tok, flags == 1, n_tok, pos};
    if (!has_ids(&t->head)) return true;
    c = fg_cursor_make(t->file.data + at + PASS_BYTES, (size_t)(front - PASS_BYTES));
    p->pos = fg_cursor_u64(&c);
    p->n_kept = fg_cursor_u32(&c);
    return p->pos < MAX_BYTES && p->n_kept <= n_tok;
}

static const uint8_t *layer_of(const fg_trace *t, const fg_trace_pass *p, uint32_t layer)
{
    return t->file.data + p->at + front_bytes(&t->head, p->n_tok) +
           layer * layer_bytes(&t->head, p->n_tok);
}

/* Tokens are of the vocabulary, and what was kept is what the next pass, at `next`, comes after. */
static bool front_is_good(const fg_trace *t, const fg_trace_pass *p, uint64_t next)
{
    if (!has_ids(&t->head)) return true;
    const uint64_t kept = next < p->pos ? 0 : next - p->pos;
    fg_cursor c = fg_cursor_make(t->file.data + p->at + PASS_BYTES_2, 4 * (size_t)p->n_tok);
    bool ok = kept == p->n_kept;
    for (uint32_t i = 0; i < p->n_tok; i++) ok = fg_cursor_u32(&c) < t->head.n_vocab && ok;
    return ok;
}

/* The ids of a layer are those of experts, the guess's in whole rows, none after an empty one. */
static bool layer_is_good(const fg_trace *t, const fg_trace_pass *p, uint32_t layer)
{
    const fg_trace_head *h = &t->head;
    const uint8_t *at = layer_of(t, p, layer);
    const uint64_t n_sel = (uint64_t)p->n_tok * h->n_used;
    for (uint64_t i = 0; i < n_sel; i++, at += 2) {
        if (get_u16(at) >= h->n_expert) return false;
    }
    if (p->n_tok != 1) return true;
    const uint32_t width = guess_width(h);
    bool open = true;
    for (uint32_t d = 1; d <= guess_ahead(h); d++) {
        open = open && layer + d < h->n_layer && get_u16(at) != NOBODY;
        for (uint32_t i = 0; i < width; i++, at += 2) {
            if (open ? get_u16(at) >= h->n_expert : get_u16(at) != NOBODY) return false;
        }
    }
    return true;
}

static fg_status check_passes(fg_trace *t, fg_err *err)
{
    uint64_t n_pass = 0, n_tok = 0, at = t->first;
    fg_trace_pass p = {0}, next;
    while (at < t->file.size && pass_at(t, at, &p)) {
        next = p;
        if (p.end == t->file.size) {
            next.pos = p.pos + p.n_kept; /* nothing says otherwise */
        } else if (!pass_at(t, p.end, &next)) {
            goto bad;
        }
        if (!front_is_good(t, &p, next.pos)) goto bad;
        for (uint32_t l = 0; l < t->head.n_layer; l++) {
            if (!layer_is_good(t, &p, l)) goto bad;
        }
        if (p.n_tok > t->most_tok) t->most_tok = p.n_tok;
        n_pass++;
        n_tok += p.n_tok;
        at = p.end;
    }
    if (at == t->file.size && n_pass > 0 && n_pass == t->head.n_pass && n_tok == t->head.n_tok) {
        return FG_OK;
    }
bad:
    return fg_fail(err, FG_EFORMAT,
                   "%s: bad pass %" PRIu64 " at byte %" PRIu64 ", expected %" PRIu64
                   " passes of %" PRIu64 " tokens in all",
                   t->file.path, n_pass, at, t->head.n_pass, t->head.n_tok);
}

static fg_status check(fg_trace *t, fg_err *err)
{
    body_sum body = {0, 0};
    const char *path = t->file.path;
    FG_TRY(decode_head(t->file.data, t->file.size, path, &t->head, &t->has_heat, &body, err));
    const uint64_t n = t->file.size - HEAD_BYTES;
    if (body.bytes != n) {
        return fg_fail(err, FG_EFORMAT, "%s: %" PRIu64 " bytes, expected %" PRIu64, path,
                       t->file.size, body.bytes > MAX_BYTES ? body.bytes : HEAD_BYTES + body.bytes);
    }
    if (fg_hash64(t->file.data + HEAD_BYTES, (size_t)n) != body.hash) {
        return fg_fail(err, FG_ECHECKSUM, "%s: damaged, expected the hash it was written with",
                       path);
    }
    const uint64_t heat = t->has_heat ? heat_bytes(&t->head) : 0;
    if (heat > n) {
        return fg_fail(err, FG_EFORMAT, "%s: %" PRIu64 " bytes, expected a heat map of %" PRIu64,
                       path, n, heat);
    }
    t->first = HEAD_BYTES + heat;
    return check_passes(t, err);
}

fg_status fg_trace_open(fg_trace **out, const char *path, fg_err *err)
{
    *out = NULL;
    fg_trace *t = fg_mem_zalloc(sizeof *t);
    if (t == NULL) return fg_fail_nomem(err, path);
    t->file = FG_FILE_INIT;
    fg_status st = fg_file_open(&t->file, path, true, err);
    if (st == FG_OK) st = check(t, err);
    if (st != FG_OK) {
        fg_trace_close(&t);
        return st;
    }
    *out = t;
    return FG_OK;
}

void fg_trace_close(fg_trace **t)
{
    if (*t == NULL) return;
    fg_file_close(&(*t)->file);
    fg_mem_free(*t);
    *t = NULL;
}

bool fg_trace_is_same(const fg_trace *a, const fg_trace *b)
{
    return a->file.size == b->file.size && memcmp(a->file.data, b->file.data, HEAD_BYTES) == 0;
}

const fg_trace_head *fg_trace_get_head(const fg_trace *t)
{
    return &t->head;
}

bool fg_trace_get_heat(const fg_trace *t, uint64_t *heat)
{
    if (!t->has_heat) return false;
    fg_cursor c = fg_cursor_make(t->file.data + HEAD_BYTES, (size_t)heat_bytes(&t->head));
    for (uint64_t i = 0; i < (uint64_t)t->head.n_layer * t->head.n_expert; i++) {
        heat[i] = fg_cursor_u64(&c);
    }
    return true;
}

uint32_t fg_trace_most_tok(const fg_trace *t)
{
    return t->most_tok;
}

bool fg_trace_next(const fg_trace *t, fg_trace_pass *p)
{
    const uint64_t at = p->end == 0 ? t->first : p->end;
    return at < t->file.size && pass_at(t, at, p);
}

bool fg_trace_ids(const fg_trace *t, const fg_trace_pass *p, uint32_t *ids)
{
    if (!has_ids(&t->head)) return false;
    fg_cursor c = fg_cursor_make(t->file.data + p->at + PASS_BYTES_2, 4 * (size_t)p->n_tok);
    for (uint32_t i = 0; i < p->n_tok; i++) ids[i] = fg_cursor_u32(&c);
    return true;
}

void fg_trace_sel(const fg_trace *t, const fg_trace_pass *p, uint32_t layer, uint32_t *sel)
{
    const fg_trace_head *h = &t->head;
    const uint8_t *at = layer_of(t, p, layer);
    for (uint64_t i = 0; i < (uint64_t)p->n_tok * h->n_used; i++) sel[i] = get_u16(at + 2 * i);
}

bool fg_trace_guess_of(const fg_trace *t, const fg_trace_pass *p, uint32_t layer, fg_guess *g)
{
    const fg_trace_head *h = &t->head;
    if (p->n_tok != 1) return false;
    const uint8_t *at = layer_of(t, p, layer);
    const uint32_t width = guess_width(h);
    at += 2 * (uint64_t)h->n_used;
    memset(g->id, 0xff, sizeof g->id); /* FG_NOT_STORED */
    for (g->n_ahead = 0; g->n_ahead < guess_ahead(h) && get_u16(at) != NOBODY; g->n_ahead++) {
        for (uint32_t i = 0; i < width; i++, at += 2) g->id[g->n_ahead][i] = get_u16(at);
    }
    return true;
}
