/* SPDX-License-Identifier: MIT
 *
 * The whole journal is read into memory: 8 bytes for each MiB of data and some for each tensor, 3
 * MB for the 456 B release.
 */
#include "src/format/write/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/buf.h"
#include "src/base/fp.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"

enum {
    HEADER_BYTES = 32,
    FIXED_BYTES = 32,  /* of a body */
    AROUND_BYTES = 16, /* length before the body, hash after it */
    VERSION = 2,
};
#define MAX_BYTES ((uint64_t)1 << 32) /* larger is none of ours */

static const uint8_t magic[8] = {0x89, 'F', 'G', 'J', 'R', 'N', 'L', '\n'};

struct fg_journal {
    char *path;
    int fd; /* -1: no file */
    uint64_t identity;
    uint64_t end;      /* of the last good record, or of the header */
    uint64_t end_hash; /* what the next record is chained to */
    uint8_t *bytes;    /* what load read; the records point into it */
    fg_checkpoint *record;
    uint64_t *hash; /* [n_record] */
    size_t n_record, cap_record, cap_hash;
};

static fg_status fail_io(const fg_journal *j, const char *wanted, fg_err *err)
{
    return fg_fail(err, FG_EIO, "%s: %s, expected %s", j->path, strerror(errno), wanted);
}

/* --- reading --- */

static bool parse_header(fg_journal *j, fg_cursor *c)
{
    const uint8_t *start = c->p;
    (void)fg_cursor_bytes(c, sizeof magic);
    const uint32_t version = fg_cursor_u32(c), zero = fg_cursor_u32(c);
    const uint64_t identity = fg_cursor_u64(c), hash = fg_cursor_u64(c);
    if (c->bad || version != VERSION || zero != 0 || hash != fg_hash64(start, HEADER_BYTES - 8)) {
        return false;
    }
    j->identity = identity;
    j->end = HEADER_BYTES;
    j->end_hash = hash;
    return true;
}

/* What died before its header was on the disk: the beginning of one, or zeros. */
static bool is_stillborn(const uint8_t *p, size_t n)
{
    size_t zero = 0, same = 0;
    while (zero < n && p[zero] == 0) zero++;
    while (same < n && same < sizeof magic && p[same] == magic[same]) same++;
    return n <= HEADER_BYTES && (zero == n || same == n || same == sizeof magic);
}

/* A file of n bytes (32 at least) whose header is not good. */
static fg_status refuse_header(const fg_journal *j, fg_err *err)
{
    fg_cursor c = fg_cursor_make(j->bytes + sizeof magic, 4);
    const uint32_t version = fg_cursor_u32(&c);
    if (version != VERSION) {
        return fg_fail(err, FG_EVERSION,
                       "%s: journal version %u, expected %d; go on with the program that began it, "
                       "or delete it and the file beside it",
                       j->path, version, (int)VERSION);
    }
    return fg_fail(err, FG_ECHECKSUM,
                   "%s: a damaged header, expected the journal of an unfinished conversion; delete "
                   "it and the file beside it to start again",
                   j->path);
}

static bool parse_body(fg_checkpoint *r, fg_cursor c)
{
    r->n_span = fg_cursor_u64(&c);
    r->n_hash = fg_cursor_u64(&c);
    r->n_result = fg_cursor_u64(&c);
    r->n_payload = fg_cursor_u64(&c);
    if (c.bad || r->n_span > c.left / FG_SPAN_BYTES) return false;
    r->span = fg_cursor_bytes(&c, (size_t)(FG_SPAN_BYTES * r->n_span));
    if (r->n_hash > c.left / 8) return false;
    r->hash = fg_cursor_bytes(&c, (size_t)(8 * r->n_hash));
    if (r->n_result > c.left / FG_RESULT_BYTES) return false;
    r->result = fg_cursor_bytes(&c, (size_t)(FG_RESULT_BYTES * r->n_result));
    if (r->n_payload != c.left) return false;
    r->payload = fg_cursor_bytes(&c, (size_t)r->n_payload);
    return true;
}

static uint64_t chain(uint64_t before, const fg_buf *record)
{
    uint8_t le[16];
    const uint64_t own = fg_hash64(record->data, record->len);
    for (int i = 0; i < 8; i++) {
        le[i] = (uint8_t)(before >> (8 * i));
        le[8 + i] = (uint8_t)(own >> (8 * i));
    }
    return fg_hash64(le, sizeof le);
}

/* The next record; *more is false at the end of what is good. */
static fg_status parse_record(fg_journal *j, fg_cursor *c, bool *more, fg_err *err)
{
    *more = false;
    if (c->left < AROUND_BYTES + FIXED_BYTES) return FG_OK;
    fg_buf whole = {.data = (uint8_t *)(uintptr_t)c->p}; /* borrowed for chain */
    const uint64_t n = fg_cursor_u64(c);
    if (n < FIXED_BYTES || n > c->left - 8) return FG_OK;
    whole.len = 8 + (size_t)n;
    fg_checkpoint r = {.end = j->end + AROUND_BYTES + n};
    const bool good = parse_body(&r, fg_cursor_make(fg_cursor_bytes(c, (size_t)n), (size_t)n));
    const uint64_t hash = chain(j->end_hash, &whole);
    if (!good || fg_cursor_u64(c) != hash) return FG_OK;
    void *p = j->record, *h = j->hash;
    const bool grown = fg_mem_grow(&p, &j->cap_record, j->n_record + 1, sizeof *j->record) &&
                       fg_mem_grow(&h, &j->cap_hash, j->n_record + 1, sizeof *j->hash);
    j->record = p;
    j->hash = h;
    if (!grown) return fg_fail_nomem(err, j->path);
    j->record[j->n_record] = r;
    j->hash[j->n_record++] = j->end_hash = hash;
    j->end = r.end;
    *more = true;
    return FG_OK;
}

static fg_status read_file(fg_journal *j, fg_err *err)
{
    struct stat sb;
    if (fstat(j->fd, &sb) != 0) return fail_io(j, "a readable file", err);
    const uint64_t size = (uint64_t)sb.st_size, head = size < HEADER_BYTES ? size : HEADER_BYTES;
    uint8_t start[HEADER_BYTES];
    const fg_file f = {.fd = j->fd, .size = size, .path = j->path};
    FG_TRY(fg_file_read(&f, start, (size_t)head, 0, err));
    if (size < HEADER_BYTES && is_stillborn(start, (size_t)head)) return FG_OK;
    if (size == HEADER_BYTES && is_stillborn(start, (size_t)head)) {
        fg_cursor c = fg_cursor_make(start, sizeof start);
        (void)parse_header(j, &c);
        return FG_OK;
    }
    if (size < HEADER_BYTES || size > MAX_BYTES || memcmp(start, magic, sizeof magic) != 0) {
        return fg_fail(err, FG_EINVAL,
                       "%s: not a journal, expected one or nothing there; move it away or choose "
                       "another name",
                       j->path);
    }
    j->bytes = fg_mem_alloc((size_t)size);
    if (j->bytes == NULL) return fg_fail_nomem(err, j->path);
    FG_TRY(fg_file_read(&f, j->bytes, (size_t)size, 0, err));
    fg_cursor c = fg_cursor_make(j->bytes, (size_t)size);
    bool more = parse_header(j, &c);
    if (!more) return refuse_header(j, err);
    while (more) FG_TRY(parse_record(j, &c, &more, err));
    return FG_OK;
}

static void forget(fg_journal *j)
{
    fg_mem_free(j->bytes);
    fg_mem_free(j->record);
    fg_mem_free(j->hash);
    j->bytes = NULL;
    j->record = NULL;
    j->hash = NULL;
    j->n_record = j->cap_record = j->cap_hash = 0;
}

fg_status fg_journal_load(fg_journal **out, const char *path, fg_err *err)
{
    *out = NULL;
    fg_journal *j = fg_mem_zalloc(sizeof *j);
    if (j == NULL) return fg_fail_nomem(err, path);
    fg_status st = FG_OK;
    j->fd = -1;
    j->path = fg_mem_strndup(path, strlen(path));
    if (j->path == NULL) {
        st = fg_fail_nomem(err, path);
        goto fail;
    }
    st = fg_io_open_own(&j->fd, path, false, err);
    if (st == FG_OK && j->fd >= 0) st = read_file(j, err);
    if (st != FG_OK) goto fail;
    *out = j;
    return FG_OK;
fail:
    fg_journal_close(&j);
    return st;
}

bool fg_journal_is_begun(const fg_journal *j)
{
    return j->end != 0;
}

uint64_t fg_journal_identity(const fg_journal *j)
{
    return j->identity;
}

size_t fg_journal_n_record(const fg_journal *j)
{
    return j->n_record;
}

const fg_checkpoint *fg_journal_record(const fg_journal *j, size_t i)
{
    return &j->record[i];
}

/* --- writing --- */

static fg_status sync_file(const fg_journal *j, fg_err *err)
{
    return fdatasync(j->fd) == 0 ? FG_OK : fail_io(j, "to reach the disk", err);
}

fg_status fg_journal_start(fg_journal *j, uint64_t identity, fg_err *err)
{
    if (!fg_journal_remove(j)) return fail_io(j, "to remove it", err);
    /* a new file, not the old one emptied: a loss of power must not mix the two */
    j->fd = open(j->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (j->fd < 0) return fail_io(j, "a file that can be created", err);
    fg_buf b = {0};
    fg_buf_put(&b, magic, sizeof magic);
    fg_buf_u32(&b, VERSION);
    fg_buf_u32(&b, 0);
    fg_buf_u64(&b, identity);
    j->end_hash = b.failed ? 0 : fg_hash64(b.data, b.len);
    fg_buf_u64(&b, j->end_hash);
    fg_status st = b.failed ? fg_fail_nomem(err, j->path)
                            : fg_io_pwrite(j->fd, b.data, b.len, 0, j->path, err);
    fg_buf_fini(&b);
    FG_TRY(st);
    j->identity = identity;
    j->end = HEADER_BYTES;
    FG_TRY(sync_file(j, err));
    return fg_io_sync_parent(j->path, err);
}

fg_status fg_journal_keep(fg_journal *j, size_t n, fg_err *err)
{
    j->n_record = n;
    j->end = j->record[n - 1].end;
    j->end_hash = j->hash[n - 1];
    if (ftruncate(j->fd, (off_t)j->end) != 0) return fail_io(j, "to cut it", err);
    return sync_file(j, err);
}

fg_status fg_journal_append(fg_journal *j, const fg_checkpoint *c, fg_err *err)
{
    forget(j);
    fg_buf b = {0};
    fg_buf_u64(&b, FIXED_BYTES + FG_SPAN_BYTES * c->n_span + 8 * c->n_hash +
                       FG_RESULT_BYTES * c->n_result + c->n_payload);
    const uint64_t fixed[] = {c->n_span, c->n_hash, c->n_result, c->n_payload};
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) fg_buf_u64(&b, fixed[i]);
    fg_buf_put(&b, c->span, (size_t)(FG_SPAN_BYTES * c->n_span));
    fg_buf_put(&b, c->hash, (size_t)(8 * c->n_hash));
    fg_buf_put(&b, c->result, (size_t)(FG_RESULT_BYTES * c->n_result));
    fg_buf_put(&b, c->payload, (size_t)c->n_payload);
    const uint64_t hash = b.failed ? 0 : chain(j->end_hash, &b);
    fg_buf_u64(&b, hash);
    fg_status st = b.failed ? fg_fail_nomem(err, j->path)
                            : fg_io_pwrite(j->fd, b.data, b.len, j->end, j->path, err);
    if (st == FG_OK) st = sync_file(j, err);
    if (st == FG_OK) {
        j->end += b.len;
        j->end_hash = hash;
    }
    fg_buf_fini(&b);
    return st;
}

bool fg_journal_remove(fg_journal *j)
{
    forget(j);
    if (j->fd < 0) return true;
    if (unlink(j->path) != 0 && errno != ENOENT) return false;
    (void)close(j->fd);
    j->fd = -1;
    return true;
}

void fg_journal_close(fg_journal **out)
{
    fg_journal *j = *out;
    if (j == NULL) return;
    forget(j);
    if (j->fd >= 0) (void)close(j->fd);
    fg_mem_free(j->path);
    fg_mem_free(j);
    *out = NULL;
}

/* --- spans, results of tensors --- */

void fg_result_encode(uint64_t idx, const fg_tensor *t, uint8_t *out)
{
    const uint32_t v[] = {(uint32_t)idx,           (uint32_t)(idx >> 32),
                          fg_f32_bits(t->err_rms), fg_f32_bits(t->err_max_row),
                          fg_f32_bits(t->err_out), fg_f32_bits(t->peak)};
    for (size_t i = 0; i < sizeof v; i++) out[i] = (uint8_t)(v[i / 4] >> (8 * (i % 4)));
    memcpy(out + sizeof v, t->lut.v, 16);
}

bool fg_checkpoint_results(const fg_checkpoint *c, fg_tensor *tensor, uint64_t n_tensor)
{
    for (int pass = 0; pass < 2; pass++) { /* look first, then set */
        fg_cursor k = fg_cursor_make(c->result, (size_t)(FG_RESULT_BYTES * c->n_result));
        for (uint64_t i = 0; i < c->n_result; i++) {
            const uint64_t idx = fg_cursor_u64(&k);
            const float rms = fg_f32_from_bits(fg_cursor_u32(&k));
            const float max_row = fg_f32_from_bits(fg_cursor_u32(&k));
            const float out = fg_f32_from_bits(fg_cursor_u32(&k));
            const float peak = fg_f32_from_bits(fg_cursor_u32(&k));
            fg_lut lut;
            memcpy(lut.v, fg_cursor_bytes(&k, 16), 16);
            if (idx >= n_tensor) return false;
            fg_tensor *t = &tensor[idx];
            if (fg_qtype_has_table(t->type) && !fg_lut_is_valid(&lut)) return false;
            if (pass == 0) continue;
            t->err_rms = rms;
            t->err_max_row = max_row;
            t->err_out = out;
            t->peak = peak;
            if (fg_qtype_has_table(t->type)) t->lut = lut;
        }
    }
    return true;
}

fg_span fg_checkpoint_span(const fg_checkpoint *c, uint64_t i)
{
    fg_cursor k = fg_cursor_make(c->span + FG_SPAN_BYTES * i, FG_SPAN_BYTES);
    const uint64_t first = fg_cursor_u64(&k);
    return (fg_span){first, fg_cursor_u64(&k)};
}

uint64_t fg_checkpoint_hash(const fg_checkpoint *c, uint64_t i)
{
    fg_cursor k = fg_cursor_make(c->hash + 8 * i, 8);
    return fg_cursor_u64(&k);
}
