/* SPDX-License-Identifier: MIT */
#include "src/engine/session_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"

typedef unsigned long long ull;

enum {
    VERSION = 1,
    WORKERS = 8,   /* more do not make a disk faster */
    RUNS = 512,    /* of a call; below the least IOV_MAX there is */
    AHEAD = 8,     /* units that the system is asked for before they are read */
    HEAD_USED = 40 /* bytes of a header before the zeros */
};

static const char magic[8] = "\x89"
                             "FGSNAP\n";

uint64_t fg_snapshot_bytes(uint64_t n)
{
    return FG_SNAPSHOT_HEAD + n + (n + FG_SNAPSHOT_PIECE - 1) / FG_SNAPSHOT_PIECE * 8;
}

/* ---- one job: units of a file, dealt round the workers ---- */

typedef struct job {
    const fg_bulk *p;
    int fd;
    const char *path;
    bool write;
    uint64_t pos; /* of a snapshot */
    uint64_t first, end, bytes, base;
    uint64_t n; /* units first to end - 1 of `bytes` each, together at most n bytes, from base on */
    uint64_t *hash; /* written: filled; read: what is expected */
    uint8_t *buf;   /* a unit for each worker, or its runs */
    size_t buf_bytes;
    fg_hasher *hasher[WORKERS];
    fg_status (*unit)(struct job *j, uint32_t worker, uint64_t i, fg_err *err);
    _Atomic uint64_t bad, done; /* the first unit that failed; bytes */
    atomic_bool cancelled, told;
    fg_err err;
} job;

/* What fails first in the file's order is what is told: a later unit may have failed before it. */
static void note_bad(job *j, uint64_t i, const fg_err *err)
{
    static atomic_flag busy = ATOMIC_FLAG_INIT;
    while (atomic_flag_test_and_set(&busy)) {}
    if (i < atomic_load(&j->bad)) {
        atomic_store(&j->bad, i);
        j->err = *err;
    }
    atomic_flag_clear(&busy);
}

static void work(fg_worker *w, void *arg)
{
    job *j = arg;
    for (uint64_t i = j->first + w->idx; i < j->end; i += w->n) {
        fg_err err = {0};
        if (i > atomic_load(&j->bad) || atomic_load(&j->cancelled)) break;
        const uint64_t at = j->base + i * j->bytes;
        if (!j->write) {
            (void)posix_fadvise(j->fd, (off_t)(at + AHEAD * j->bytes), (off_t)j->bytes,
                                POSIX_FADV_WILLNEED);
        }
        if (j->unit(j, w->idx, i, &err) != FG_OK) note_bad(j, i, &err);
        /* the disk begins while the rest is being copied; where that is refused it begins later */
        if (j->write) {
            (void)sync_file_range(j->fd, (off_t)at, (off_t)j->bytes, SYNC_FILE_RANGE_WRITE);
        }
        atomic_fetch_add(&j->done, j->bytes);
        if (w->idx > 0 || j->p->progress == NULL) continue;
        const uint64_t total = (j->end - j->first) * j->bytes, done = atomic_load(&j->done);
        if (!j->p->progress(j->p->ctx, done < total ? done : total, total)) {
            atomic_store(&j->cancelled, true);
        }
    }
}

/* Runs it; j->bad and j->err say what failed. */
static fg_status run(job *j, fg_err *err)
{
    const uint32_t size = fg_team_size(j->p->team), n = size < WORKERS ? size : WORKERS;
    bool ok = true;
    atomic_store(&j->bad, UINT64_MAX);
    j->buf = fg_mem_alloc(n * j->buf_bytes);
    for (uint32_t i = 0; i < n; i++) {
        j->hasher[i] = fg_hasher_create();
        ok = ok && j->hasher[i] != NULL;
    }
    ok = ok && j->buf != NULL;
    if (ok) {
        (void)posix_fadvise(j->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
        fg_team_run_n(j->p->team, n, work, j);
    }
    for (uint32_t i = 0; i < n; i++) fg_hasher_destroy(j->hasher[i]);
    fg_mem_free(j->buf);
    if (!ok) return fg_fail_nomem(err, j->path);
    if (!atomic_load(&j->cancelled)) return FG_OK;
    return fg_fail(err, FG_ECANCEL, "%s: cancelled, expected to read it", j->path);
}

/* Synced, and the page cache is the model's again. */
static fg_status sync_file(int fd, const char *path, fg_err *err)
{
    if (fdatasync(fd) != 0) {
        return fg_fail(err, FG_EIO, "%s: %s, expected it to reach the disk", path, strerror(errno));
    }
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return FG_OK;
}

static fg_status check_hash(const char *path, const char *unit, uint64_t i, uint64_t got,
                            uint64_t want, fg_err *err)
{
    if (got == want) return FG_OK;
    return fg_fail(err, FG_ECHECKSUM, "%s: %s %llu has the hash %016llx, expected %016llx", path,
                   unit, (ull)i, (ull)got, (ull)want);
}

/* ---- blocks ---- */

static fg_status transfer(const job *j, struct iovec *run, size_t n_run, uint64_t at, fg_err *err)
{
    while (n_run > 0) {
        const int n = n_run < RUNS ? (int)n_run : RUNS;
        const ssize_t got =
            j->write ? pwritev(j->fd, run, n, (off_t)at) : preadv(j->fd, run, n, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            return fg_fail(err, FG_EIO, "%s: %s at offset %llu, expected to %s a block", j->path,
                           got < 0 ? strerror(errno) : "the end", (ull)at,
                           j->write ? "write" : "read");
        }
        at += (uint64_t)got;
        for (size_t left = (size_t)got; left > 0;) {
            const size_t k = left < run->iov_len ? left : run->iov_len;
            run->iov_base = (uint8_t *)run->iov_base + k;
            run->iov_len -= k;
            left -= k;
            if (run->iov_len > 0) break;
            run++;
            n_run--;
        }
    }
    return FG_OK;
}

static uint64_t hash_runs(fg_hasher *h, const struct iovec *run, size_t n)
{
    fg_hasher_reset(h);
    for (size_t i = 0; i < n; i++) fg_hasher_add(h, run[i].iov_base, run[i].iov_len);
    return fg_hasher_digest(h);
}

static fg_status block(job *j, uint32_t worker, uint64_t i, fg_err *err)
{
    const fg_state *st = j->p->state;
    const size_t n = fg_state_block_runs(j->p->shape, st->kv_type);
    struct iovec *run = (struct iovec *)(void *)(j->buf + worker * j->buf_bytes);
    fg_state_block(st, j->p->shape, i, run);
    if (j->write) j->hash[i - j->first] = hash_runs(j->hasher[worker], run, n);
    FG_TRY(transfer(j, run, n, i * j->bytes, err));
    if (j->write) return FG_OK;
    fg_state_block(st, j->p->shape, i, run);
    return check_hash(j->path, "block", i, hash_runs(j->hasher[worker], run, n), j->hash[i], err);
}

static job blocks(const fg_bulk *p, int fd, const char *path, uint64_t first, uint64_t end)
{
    const fg_kv_type kv = p->state->kv_type;
    return (job){
        .p = p,
        .fd = fd,
        .path = path,
        .first = first,
        .end = end,
        .bytes = FG_STATE_BLOCK * fg_state_row_bytes(p->shape, kv),
        .unit = block,
        .buf_bytes = (fg_state_block_runs(p->shape, kv) + 1) * sizeof(struct iovec),
    };
}

fg_status fg_bulk_write_blocks(const fg_bulk *p, int fd, const char *path, uint64_t first,
                               uint64_t end, uint64_t *hash, fg_err *err)
{
    job j = blocks(p, fd, path, first, end);
    j.write = true;
    j.hash = hash;
    FG_TRY(run(&j, err));
    if (j.err.code != FG_OK) {
        if (err != NULL) *err = j.err;
        return j.err.code;
    }
    return sync_file(fd, path, err);
}

fg_status fg_bulk_read_blocks(const fg_bulk *p, int fd, const char *path, uint64_t n,
                              const uint64_t *hash, uint64_t *good, fg_err *err)
{
    job j = blocks(p, fd, path, 0, n);
    j.hash = (uint64_t *)(uintptr_t)hash; /* only read */
    *good = 0;
    FG_TRY(run(&j, err));
    const uint64_t bad = atomic_load(&j.bad);
    *good = bad < n ? bad : n;
    if (bad < n && err != NULL) *err = j.err;
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return FG_OK;
}

/* ---- snapshots ---- */

static void put_le(uint8_t *p, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++) p[i] = (uint8_t)(v >> (8 * i));
}

static fg_status piece(job *j, uint32_t worker, uint64_t i, fg_err *err)
{
    const uint64_t at = i * j->bytes, rest = j->n - at;
    const size_t n = rest < j->bytes ? (size_t)rest : (size_t)j->bytes;
    uint8_t *buf = j->buf + worker * j->buf_bytes;
    if (j->write) {
        fg_state_image_get(j->p->state, j->p->shape, j->pos, at, buf, n);
        j->hash[i] = fg_hash64(buf, n);
        return fg_io_pwrite(j->fd, buf, n, j->base + at, j->path, err);
    }
    const fg_file f = {.fd = j->fd, .path = (char *)(uintptr_t)j->path}; /* only read */
    FG_TRY(fg_file_read(&f, buf, n, j->base + at, err));
    FG_TRY(check_hash(j->path, "MiB", i, fg_hash64(buf, n), j->hash[i], err));
    fg_state_image_put(j->p->state, j->p->shape, j->pos, at, buf, n);
    return FG_OK;
}

static job pieces(const fg_bulk *p, int fd, const char *path, uint64_t pos, uint64_t n)
{
    return (job){
        .p = p,
        .fd = fd,
        .path = path,
        .pos = pos,
        .end = (n + FG_SNAPSHOT_PIECE - 1) / FG_SNAPSHOT_PIECE,
        .bytes = FG_SNAPSHOT_PIECE,
        .base = FG_SNAPSHOT_HEAD,
        .n = n,
        .unit = piece,
        .buf_bytes = FG_SNAPSHOT_PIECE,
    };
}

static uint64_t hash_table(const uint64_t *hash, size_t n, fg_buf *le)
{
    for (size_t i = 0; i < n; i++) fg_buf_u64(le, hash[i]);
    return le->failed ? 0 : fg_hash64(le->data, le->len);
}

static fg_status write_rest(const job *j, uint64_t *root, fg_err *err)
{
    uint8_t head[FG_SNAPSHOT_HEAD] = {0};
    fg_buf table = {0};
    const uint64_t hash = hash_table(j->hash, (size_t)j->end, &table);
    memcpy(head, magic, sizeof magic);
    put_le(head + 8, VERSION, 4);
    put_le(head + 12, (uint64_t)j->p->state->kv_type, 4);
    put_le(head + 16, j->pos, 8);
    put_le(head + 24, j->n, 8);
    put_le(head + 32, hash, 8);
    *root = fg_hash64(head, sizeof head - 8);
    put_le(head + sizeof head - 8, *root, 8);
    fg_status st = table.failed ? fg_fail_nomem(err, j->path)
                                : fg_io_pwrite(j->fd, table.data, table.len,
                                               FG_SNAPSHOT_HEAD + j->n, j->path, err);
    if (st == FG_OK) st = fg_io_pwrite(j->fd, head, sizeof head, 0, j->path, err);
    fg_buf_fini(&table);
    return st == FG_OK ? sync_file(j->fd, j->path, err) : st;
}

fg_status fg_bulk_write_snapshot(const fg_bulk *p, const char *path, uint64_t pos, uint64_t *root,
                                 fg_err *err)
{
    int fd;
    (void)unlink(path); /* of an earlier life */
    FG_TRY(fg_io_open_own(&fd, path, true, err));
    job j = pieces(p, fd, path, pos, fg_state_image_bytes(p->shape, p->state->kv_type, pos));
    j.write = true;
    j.hash = fg_mem_zalloc_array((size_t)j.end + 1, sizeof *j.hash);
    fg_status st = j.hash == NULL ? fg_fail_nomem(err, path) : run(&j, err);
    if (st == FG_OK && j.err.code != FG_OK) {
        if (err != NULL) *err = j.err;
        st = j.err.code;
    }
    if (st == FG_OK) st = write_rest(&j, root, err);
    fg_mem_free(j.hash);
    (void)close(fd);
    if (st != FG_OK) (void)unlink(path);
    return st;
}

/* A snapshot's file that is to be read. */
typedef struct snapshot {
    fg_file f;
    uint64_t pos, n, n_piece;
    uint32_t kv;
    uint64_t *hash;
} snapshot;

static void snapshot_close(snapshot *s)
{
    fg_mem_free(s->hash);
    fg_file_close(&s->f);
}

static fg_status read_head(snapshot *s, uint64_t root, fg_err *err)
{
    uint8_t head[FG_SNAPSHOT_HEAD];
    const char *path = s->f.path;
    if (s->f.size < sizeof head) {
        return fg_fail(err, FG_EFORMAT, "%s: %llu bytes, expected a snapshot", path,
                       (ull)s->f.size);
    }
    FG_TRY(fg_file_read(&s->f, head, sizeof head, 0, err));
    fg_cursor c = fg_cursor_make(head + 8, HEAD_USED - 8);
    const uint32_t version = fg_cursor_u32(&c);
    FG_TRY(check_hash(path, "header", 0, fg_hash64(head, sizeof head - 8), root, err));
    fg_cursor last = fg_cursor_make(head + sizeof head - 8, 8);
    FG_TRY(check_hash(path, "header", 0, fg_cursor_u64(&last), root, err));
    if (memcmp(head, magic, sizeof magic) != 0 || version != VERSION) {
        return fg_fail(err, FG_EVERSION, "%s: version %u, expected a snapshot of version %d", path,
                       version, (int)VERSION);
    }
    s->kv = fg_cursor_u32(&c);
    s->pos = fg_cursor_u64(&c);
    s->n = fg_cursor_u64(&c);
    const uint64_t table = fg_cursor_u64(&c);
    if (s->n > INT64_MAX / 2 || s->f.size != fg_snapshot_bytes(s->n)) {
        return fg_fail(err, FG_EFORMAT, "%s: %llu bytes, expected %llu", path, (ull)s->f.size,
                       (ull)fg_snapshot_bytes(s->n));
    }
    s->n_piece = (s->n + FG_SNAPSHOT_PIECE - 1) / FG_SNAPSHOT_PIECE;
    s->hash = fg_mem_zalloc_array((size_t)s->n_piece + 1, sizeof *s->hash);
    if (s->hash == NULL) return fg_fail_nomem(err, path);
    uint8_t *le = (uint8_t *)s->hash;
    FG_TRY(fg_file_read(&s->f, le, (size_t)s->n_piece * 8, FG_SNAPSHOT_HEAD + s->n, err));
    FG_TRY(check_hash(path, "table", 0, fg_hash64(le, (size_t)s->n_piece * 8), table, err));
    c = fg_cursor_make(le, (size_t)s->n_piece * 8);
    for (uint64_t i = 0; i < s->n_piece; i++) s->hash[i] = fg_cursor_u64(&c);
    return FG_OK;
}

static fg_status snapshot_open(snapshot *s, const char *path, uint64_t root, fg_err *err)
{
    *s = (snapshot){.f = FG_FILE_INIT};
    FG_TRY(fg_file_open(&s->f, path, false, err));
    const fg_status st = read_head(s, root, err);
    if (st != FG_OK) snapshot_close(s);
    return st;
}

fg_status fg_bulk_read_snapshot(const fg_bulk *p, const char *path, uint64_t pos, uint64_t root,
                                fg_err *err)
{
    snapshot s;
    FG_TRY(snapshot_open(&s, path, root, err));
    const uint64_t n = fg_state_image_bytes(p->shape, p->state->kv_type, pos);
    fg_status st = FG_OK;
    if (s.kv != (uint32_t)p->state->kv_type || s.pos != pos || s.n != n) {
        st = fg_fail(err, FG_EFORMAT,
                     "%s: position %llu, %llu bytes, cache type %u, expected %llu, %llu, %u", path,
                     (ull)s.pos, (ull)s.n, s.kv, (ull)pos, (ull)n, (unsigned)p->state->kv_type);
    } else {
        job j = pieces(p, s.f.fd, path, pos, n);
        j.hash = s.hash;
        st = run(&j, err);
        if (st == FG_OK && j.err.code != FG_OK) {
            if (err != NULL) *err = j.err;
            st = j.err.code;
        }
        (void)posix_fadvise(s.f.fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    snapshot_close(&s);
    return st;
}

/* ---- without a state ---- */

fg_status fg_bulk_check_snapshot(const char *path, uint64_t root, uint8_t *buf,
                                 bool (*progress)(void *ctx, uint64_t bytes), void *ctx,
                                 fg_err *err)
{
    snapshot s;
    FG_TRY(snapshot_open(&s, path, root, err));
    fg_status st = FG_OK;
    for (uint64_t i = 0; i < s.n_piece && st == FG_OK; i++) {
        const uint64_t at = i * FG_SNAPSHOT_PIECE, rest = s.n - at;
        const size_t n = rest < FG_SNAPSHOT_PIECE ? (size_t)rest : (size_t)FG_SNAPSHOT_PIECE;
        st = fg_file_read(&s.f, buf, n, FG_SNAPSHOT_HEAD + at, err);
        if (st == FG_OK) st = check_hash(path, "MiB", i, fg_hash64(buf, n), s.hash[i], err);
        if (st == FG_OK && !progress(ctx, n)) {
            st = fg_fail(err, FG_ECANCEL, "%s: cancelled, expected to read it", path);
        }
    }
    snapshot_close(&s);
    return st;
}

fg_status fg_bulk_check_block(int fd, const char *path, uint64_t b, uint64_t bytes, uint64_t hash,
                              uint8_t *buf, fg_err *err)
{
    const fg_file f = {.fd = fd, .path = (char *)(uintptr_t)path}; /* only read */
    FG_TRY(fg_file_read(&f, buf, (size_t)bytes, b * bytes, err));
    return check_hash(path, "block", b, fg_hash64(buf, (size_t)bytes), hash, err);
}
