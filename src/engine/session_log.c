/* SPDX-License-Identifier: MIT */
#include "src/engine/session_log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"

typedef unsigned long long ull;

enum {
    MAGIC = 0x52534746, /* "FGSR" */
    HEAD = 24,          /* of a record */
    AROUND = HEAD + 8,
    MAX_LOG = 1 << 30, /* bytes; a million tokens, 64 in a group, are 64 MB */
};

static uint64_t chain(uint64_t before, const uint8_t *record, size_t n)
{
    uint8_t le[16];
    const uint64_t own = fg_hash64(record, n);
    for (int i = 0; i < 8; i++) {
        le[i] = (uint8_t)(before >> (8 * i));
        le[8 + i] = (uint8_t)(own >> (8 * i));
    }
    return fg_hash64(le, sizeof le);
}

/* ---- reading ---- */

/* A record of the chain. */
typedef struct record {
    uint32_t type;
    uint64_t seq;
    fg_cursor payload;
} record;

/* The next record behind n_record others; false: it is not whole, or not of this chain. */
static bool next_record(fg_cursor *c, uint64_t n_record, uint64_t *hash, record *out)
{
    const uint8_t *from = c->p;
    if (c->left < AROUND || fg_cursor_u32(c) != MAGIC) return false;
    out->type = fg_cursor_u32(c);
    const uint64_t n = fg_cursor_u64(c);
    out->seq = fg_cursor_u64(c);
    if (out->seq != n_record || n > c->left - 8) return false;
    out->payload = fg_cursor_make(fg_cursor_bytes(c, (size_t)n), (size_t)n);
    const uint64_t want = chain(*hash, from, HEAD + (size_t)n);
    if (fg_cursor_u64(c) != want) return false;
    *hash = want;
    return true;
}

static fg_status refuse(const record *r, const char *name, const char *what, fg_err *err)
{
    return fg_fail(err, FG_EFORMAT, "%s: record %llu of type %u, expected %s", name, (ull)r->seq,
                   r->type, what);
}

static bool grow(void *array, size_t *cap, size_t n, size_t size)
{
    void *p;
    memcpy(&p, array, sizeof p);
    const bool ok = fg_mem_grow(&p, cap, n, size);
    memcpy(array, &p, sizeof p);
    return ok;
}

static fg_status take_open(fg_history *h, record *r, const char *name, fg_err *err)
{
    fg_cursor *c = &r->payload;
    fg_log_open o = {0};
    const uint32_t version = fg_cursor_u32(c);
    if (!c->bad && version != FG_LOG_VERSION) {
        return fg_fail(err, FG_EVERSION, "%s: version %u, expected %d", name, version,
                       (int)FG_LOG_VERSION);
    }
    const uint32_t kv = fg_cursor_u32(c);
    o.model.kv = (fg_kv_type)kv;
    o.model.kv_numerics = fg_cursor_u32(c);
    (void)fg_cursor_u32(c);
    o.model.data_root = fg_cursor_u64(c);
    o.model.tokenizer = fg_cursor_u64(c);
    o.n_ctx = fg_cursor_u64(c);
    o.id = fg_cursor_u64(c);
    o.row_bytes = fg_cursor_u64(c);
    o.image_bytes = fg_cursor_u64(c);
    if (c->bad || kv > FG_KV_F16 || c->left >= sizeof o.model.name ||
        o.row_bytes > INT64_MAX / (64 * FG_LOG_PAGE)) {
        return refuse(r, name, "the head of a log", err);
    }
    memcpy(o.model.name, c->p, c->left);
    h->open = o;
    h->n_mark = h->n_block = 0;
    return FG_OK;
}

/* What an undo leaves alone, wherever it was said. */
static bool is_lasting(const fg_saved_event *e)
{
    return e->kind == FG_SAVED_SETTINGS || e->kind == FG_SAVED_TITLE;
}

/* Who says something where they have said something already, with nothing between, says it in place
 * of that: its tokens were never all in, and nothing was there to be undone. */
static void replace_message(fg_history *h, uint64_t pos, uint8_t role)
{
    size_t from = h->n_event, n;
    for (size_t i = h->n_event; i > 0; i--) {
        const fg_saved_event *e = &h->event[i - 1];
        if (is_lasting(e)) continue;
        if (e->pos != pos) break;
        if (e->kind == FG_SAVED_MESSAGE && e->payload[0] == role) from = i - 1;
    }
    n = from;
    for (size_t i = from; i < h->n_event; i++) {
        if (is_lasting(&h->event[i])) h->event[n++] = h->event[i];
    }
    h->n_event = n;
}

/* u32 why, u32 how many. */
static bool is_forced(const fg_cursor *payload)
{
    fg_cursor c = *payload;
    const uint32_t why = fg_cursor_u32(&c), n = fg_cursor_u32(&c);
    return !c.bad && c.left == 0 && why > FG_FORCED_NOTHING && why <= FG_FORCED_NO_THOUGHT && n > 0;
}

static fg_status take_event(fg_history *h, const record *r, uint64_t pos, fg_saved_kind kind,
                            const char *name, fg_err *err)
{
    const fg_cursor *c = &r->payload;
    if (pos > h->n_id || (kind == FG_SAVED_MESSAGE && (c->left == 0 || c->p[0] > 2))) {
        return refuse(r, name, "a note of a position that there is", err);
    }
    if (kind == FG_SAVED_FORCED && !is_forced(c)) {
        return refuse(r, name, "a reason and a number of tokens", err);
    }
    if (!grow(&h->event, &h->cap_event, h->n_event + 1, sizeof *h->event)) {
        return fg_fail_nomem(err, name);
    }
    if (kind == FG_SAVED_MESSAGE) replace_message(h, pos, c->p[0]);
    h->event[h->n_event++] = (fg_saved_event){kind, pos, c->p, c->left};
    return FG_OK;
}

static fg_status take_ids(fg_history *h, record *r, uint64_t pos, const char *name, fg_err *err)
{
    const size_t n = r->payload.left / 4;
    if (pos != h->n_id || r->payload.left % 4 != 0) {
        return refuse(r, name, "ids behind those before", err);
    }
    if (!grow(&h->id, &h->cap_id, h->n_id + n, sizeof *h->id)) return fg_fail_nomem(err, name);
    for (size_t i = 0; i < n; i++) h->id[h->n_id++] = fg_cursor_u32(&r->payload);
    return FG_OK;
}

static fg_status take_undo(fg_history *h, const record *r, uint64_t pos, const char *name,
                           fg_err *err)
{
    size_t n = 0;
    if (pos > h->n_id) return refuse(r, name, "a position that there is", err);
    h->n_id = (size_t)pos;
    for (size_t i = 0; i < h->n_event; i++) {
        const fg_saved_event *e = &h->event[i];
        const bool ends_here = e->pos == pos && e->kind == FG_SAVED_END;
        if (is_lasting(e) || e->pos < pos || ends_here) h->event[n++] = *e;
    }
    h->n_event = n;
    while (h->n_mark > 0 && h->mark[h->n_mark - 1].pos > pos) h->n_mark--;
    if (h->n_block > pos / 64) h->n_block = (size_t)(pos / 64);
    if (h->state_pos > pos) h->state = NULL;
    return FG_OK;
}

static fg_status take_blocks(fg_history *h, record *r, uint64_t first, const char *name,
                             fg_err *err)
{
    const size_t n = r->payload.left / 8;
    if (first > h->n_block || r->payload.left % 8 != 0 || n > h->n_id / 64 ||
        first + n > h->n_id / 64) {
        return refuse(r, name, "blocks of positions that there are", err);
    }
    if (!grow(&h->block, &h->cap_block, (size_t)first + n, sizeof *h->block)) {
        return fg_fail_nomem(err, name);
    }
    for (size_t i = 0; i < n; i++) h->block[first + i] = fg_cursor_u64(&r->payload);
    h->n_block = (size_t)first + n;
    return FG_OK;
}

static fg_status take_mark(fg_history *h, record *r, uint64_t pos, const char *name, fg_err *err)
{
    fg_log_mark m = {.pos = pos};
    m.number = fg_cursor_u64(&r->payload);
    m.root = fg_cursor_u64(&r->payload);
    m.bytes = fg_cursor_u64(&r->payload);
    if (r->payload.bad || pos > h->n_id || pos / 64 > h->n_block || m.number < h->next_number ||
        m.number >= INT64_MAX) {
        return refuse(r, name, "a snapshot of a position that there is", err);
    }
    if (!grow(&h->mark, &h->cap_mark, h->n_mark + 1, sizeof *h->mark)) {
        return fg_fail_nomem(err, name);
    }
    size_t at = h->n_mark++;
    for (; at > 0 && h->mark[at - 1].pos > pos; at--) h->mark[at] = h->mark[at - 1];
    h->mark[at] = m;
    h->next_number = m.number + 1;
    return FG_OK;
}

static void take_drop(fg_history *h, uint64_t number)
{
    size_t n = 0;
    for (size_t i = 0; i < h->n_mark; i++) {
        if (h->mark[i].number != number) h->mark[n++] = h->mark[i];
    }
    h->n_mark = n;
}

/* One record's change.  Those of one kind have the number in this table. */
static const fg_record record_of[FG_SAVED_KIND_COUNT] = {
    [FG_SAVED_SETTINGS] = FG_RECORD_SETTINGS, [FG_SAVED_MESSAGE] = FG_RECORD_MESSAGE,
    [FG_SAVED_FORCED] = FG_RECORD_FORCED,     [FG_SAVED_END] = FG_RECORD_END,
    [FG_SAVED_TITLE] = FG_RECORD_TITLE,
};

fg_record fg_record_of(fg_saved_kind kind)
{
    return record_of[kind];
}

static fg_status take(fg_history *h, record *r, const char *name, fg_err *err)
{
    if (r->type == FG_RECORD_SYNC) return FG_OK;
    if (r->type == FG_RECORD_OPEN) return take_open(h, r, name, err);
    const uint64_t pos = fg_cursor_u64(&r->payload); /* or another number that comes first */
    if (r->payload.bad || h->open.row_bytes == 0) return refuse(r, name, "another one", err);
    for (uint32_t k = 0; k < FG_SAVED_KIND_COUNT; k++) {
        if (r->type == record_of[k]) return take_event(h, r, pos, (fg_saved_kind)k, name, err);
    }
    switch (r->type) {
    case FG_RECORD_IDS: return take_ids(h, r, pos, name, err);
    case FG_RECORD_UNDO: return take_undo(h, r, pos, name, err);
    case FG_RECORD_BLOCKS: return take_blocks(h, r, pos, name, err);
    case FG_RECORD_MARK: return take_mark(h, r, pos, name, err);
    case FG_RECORD_DROP: take_drop(h, pos); return FG_OK;
    case FG_RECORD_STATE:
        if (pos > h->n_id) return refuse(r, name, "a position that there is", err);
        h->state = r->payload.p;
        h->n_state = r->payload.left;
        h->state_pos = pos;
        return FG_OK;
    default: return refuse(r, name, "a type that there is", err);
    }
}

/* Takes a whole group; *more is false, and nothing changes, when there is none. */
static fg_status take_group(fg_history *h, fg_cursor *c, bool *more, const char *name, fg_err *err)
{
    fg_cursor ahead = *c;
    record r = {0};
    uint64_t hash = h->hash, n = h->n_record;
    *more = false;
    while (r.type != FG_RECORD_SYNC) {
        if (!next_record(&ahead, n++, &hash, &r)) return FG_OK;
    }
    hash = h->hash;
    for (r.type = 0; r.type != FG_RECORD_SYNC;) {
        (void)next_record(c, h->n_record++, &hash, &r);
        FG_TRY(take(h, &r, name, err));
    }
    h->hash = hash;
    *more = true;
    return FG_OK;
}

/* Whether a page behind the end begins a group that is later than the one that should be there. */
static bool has_later(const fg_history *h, const uint8_t *p, size_t n)
{
    for (size_t at = FG_LOG_PAGE; at + AROUND <= n; at += FG_LOG_PAGE) {
        fg_cursor c = fg_cursor_make(p + at, AROUND);
        if (fg_cursor_u32(&c) != MAGIC) continue;
        const uint32_t type = fg_cursor_u32(&c);
        (void)fg_cursor_u64(&c);
        const uint64_t seq = fg_cursor_u64(&c);
        if (type < FG_RECORD_COUNT && seq > h->n_record && seq - h->n_record < n) return true;
    }
    return false;
}

/* What died before its first group, which is a page, was on the disk: it begins with zeros or with
 * ours. */
static bool is_stillborn(const uint8_t *p, size_t n)
{
    fg_cursor c = fg_cursor_make(p, n);
    const size_t sector = n < 512 ? n : 512;
    size_t zero = 0;
    while (zero < sector && p[zero] == 0) zero++;
    return n <= FG_LOG_PAGE && (zero == sector || n < 4 || fg_cursor_u32(&c) == MAGIC);
}

fg_status fg_history_parse(fg_history *h, uint8_t *bytes, size_t n, const char *name, fg_err *err)
{
    fg_cursor c = fg_cursor_make(bytes, n);
    bool more = true;
    *h = (fg_history){.bytes = bytes};
    while (more) {
        FG_TRY(take_group(h, &c, &more, name, err));
        h->is_begun = h->is_begun || more;
        if (more) h->end = (uint64_t)(c.p - bytes);
    }
    h->n_after = n - h->end;
    if (h->is_begun && h->open.row_bytes == 0) {
        return fg_fail(err, FG_EFORMAT, "%s: begins with another record, expected type %d", name,
                       (int)FG_RECORD_OPEN);
    }
    if (!h->is_begun && !is_stillborn(bytes, n)) {
        fg_cursor k = fg_cursor_make(bytes, n);
        const bool ours = fg_cursor_u32(&k) == MAGIC;
        return fg_fail(err, ours ? FG_ECHECKSUM : FG_EFORMAT, "%s: %s, expected a session's log",
                       name, ours ? "its first record is damaged" : "other contents");
    }
    h->goes_on = n > h->end && has_later(h, bytes + h->end, (size_t)h->n_after);
    return FG_OK;
}

fg_status fg_history_read(fg_history *h, const char *path, int fd, fg_err *err)
{
    struct stat sb;
    *h = (fg_history){0};
    if (fstat(fd, &sb) != 0) return fg_fail(err, FG_EIO, "%s: %s", path, strerror(errno));
    if (sb.st_size > MAX_LOG) {
        return fg_fail(err, FG_ELIMIT, "%s: %llu bytes, expected at most %d", path, (ull)sb.st_size,
                       (int)MAX_LOG);
    }
    const size_t n = (size_t)sb.st_size;
    uint8_t *bytes = fg_mem_alloc(n);
    if (bytes == NULL) return fg_fail_nomem(err, path);
    const fg_file f = {.fd = fd, .size = n, .path = (char *)(uintptr_t)path}; /* only read */
    const fg_status st = fg_file_read(&f, bytes, n, 0, err);
    if (st == FG_OK) return fg_history_parse(h, bytes, n, path, err);
    fg_mem_free(bytes);
    return st;
}

void fg_history_fini(fg_history *h)
{
    fg_mem_free(h->bytes);
    fg_mem_free(h->id);
    fg_mem_free(h->event);
    fg_mem_free(h->mark);
    fg_mem_free(h->block);
    *h = (fg_history){0};
}

const fg_saved_event *fg_history_last(const fg_history *h, fg_saved_kind kind)
{
    for (size_t i = h->n_event; i > 0; i--) {
        if (h->event[i - 1].kind == kind) return &h->event[i - 1];
    }
    return NULL;
}

/* ---- writing ---- */

fg_status fg_log_start(fg_log *g, int fd, const char *path, const fg_history *h, fg_err *err)
{
    *g = (fg_log){.fd = fd, .end = h->end, .n_record = h->n_record, .hash = h->hash};
    g->is_torn = h->n_after > 0;
    g->path = fg_mem_strndup(path, strlen(path));
    return g->path == NULL ? fg_fail_nomem(err, path) : FG_OK;
}

bool fg_log_put(fg_log *g, fg_record type, const void *a, size_t na, const void *b, size_t nb)
{
    fg_buf *o = &g->group;
    const size_t from = o->len;
    if (!grow(&o->data, &o->cap, from + AROUND + na + nb, 1)) return false;
    fg_buf_u32(o, MAGIC); /* there is room: none of these fails */
    fg_buf_u32(o, (uint32_t)type);
    fg_buf_u64(o, (uint64_t)na + nb);
    fg_buf_u64(o, g->n_record++);
    fg_buf_put(o, a, na);
    fg_buf_put(o, b, nb);
    g->hash = chain(g->hash, o->data + from, o->len - from);
    fg_buf_u64(o, g->hash);
    return true;
}

/* Of what was put together in b, which is freed. */
static bool put_built(fg_log *g, fg_record type, fg_buf *b, const void *more, size_t n)
{
    const bool ok = !b->failed && fg_log_put(g, type, b->data, b->len, more, n);
    fg_buf_fini(b);
    return ok;
}

bool fg_log_put_u64(fg_log *g, fg_record type, const uint64_t *v, size_t n)
{
    fg_buf le = {0};
    for (size_t i = 0; i < n; i++) fg_buf_u64(&le, v[i]);
    return put_built(g, type, &le, NULL, 0);
}

bool fg_log_put_at(fg_log *g, fg_record type, uint64_t pos, const void *payload, size_t n)
{
    uint8_t le[8];
    for (int i = 0; i < 8; i++) le[i] = (uint8_t)(pos >> (8 * i));
    return fg_log_put(g, type, le, sizeof le, payload, n);
}

bool fg_log_put_ids(fg_log *g, const uint32_t *ids, uint64_t from, uint64_t to)
{
    fg_buf b = {0};
    if (from == to) return true;
    fg_buf_u64(&b, from);
    for (uint64_t i = from; i < to; i++) fg_buf_u32(&b, ids[i]);
    return put_built(g, FG_RECORD_IDS, &b, NULL, 0);
}

bool fg_log_put_open(fg_log *g, const fg_log_open *o)
{
    fg_buf b = {0};
    const uint64_t v[] = {o->model.data_root, o->model.tokenizer, o->n_ctx, o->id,
                          o->row_bytes,       o->image_bytes};
    fg_buf_u32(&b, FG_LOG_VERSION);
    fg_buf_u32(&b, (uint32_t)o->model.kv);
    fg_buf_u32(&b, o->model.kv_numerics);
    fg_buf_u32(&b, 0);
    for (size_t i = 0; i < sizeof v / sizeof v[0]; i++) fg_buf_u64(&b, v[i]);
    return put_built(g, FG_RECORD_OPEN, &b, o->model.name, strlen(o->model.name));
}

static fg_status fail_io(const fg_log *g, const char *wanted, fg_err *err)
{
    return fg_fail(err, FG_EIO, "%s: %s, expected %s", g->path, strerror(errno), wanted);
}

static fg_status write_group(fg_log *g, fg_err *err)
{
    if (g->end + g->group.len > MAX_LOG) {
        return fg_fail(err, FG_ELIMIT, "%s: full, expected at most %d bytes", g->path,
                       (int)MAX_LOG);
    }
    if (g->is_torn && ftruncate(g->fd, (off_t)g->end) != 0) return fail_io(g, "to cut it", err);
    g->is_torn = true;
    FG_TRY(fg_io_pwrite(g->fd, g->group.data, g->group.len, g->end, g->path, err));
    if (fdatasync(g->fd) != 0) return fail_io(g, "it to reach the disk", err);
    g->is_torn = false;
    return FG_OK;
}

fg_status fg_log_commit(fg_log *g, fg_err *err)
{
    static const uint8_t zeros[FG_LOG_PAGE];
    const size_t len = g->group.len;
    const uint64_t n_record = g->n_record, hash = g->hash;
    if (len == 0) return FG_OK;
    const size_t over = (len + AROUND) % FG_LOG_PAGE;
    if (!fg_log_put(g, FG_RECORD_SYNC, zeros, over == 0 ? 0 : FG_LOG_PAGE - over, NULL, 0)) {
        return fg_fail_nomem(err, g->path);
    }
    const fg_status st = write_group(g, err);
    if (st == FG_OK) {
        g->end += g->group.len;
        g->group.len = 0;
    } else { /* the same once more, and what comes till then */
        g->group.len = len;
        g->n_record = n_record;
        g->hash = hash;
    }
    return st;
}

void fg_log_fini(fg_log *g)
{
    if (g->path != NULL && g->fd >= 0) (void)close(g->fd);
    fg_mem_free(g->path);
    fg_buf_fini(&g->group);
    *g = (fg_log){.fd = -1};
}
