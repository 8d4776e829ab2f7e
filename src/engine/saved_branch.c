/* SPDX-License-Identifier: MIT
 *
 * A second session of one: made beside it under a name that no session has, then renamed, so that
 * it is there whole or not at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/engine/saved_impl.h"

/* The first n bytes of one file to another: shared where the file system can do that, else
 * copied. */
static fg_status copy_bytes(int from, int to, uint64_t n, const char *path, fg_err *err)
{
    uint64_t done = 0;
    uint8_t *buf = NULL;
    fg_status st = FG_OK;
    while (done < n) {
        off_t a = (off_t)done, b = (off_t)done;
        const ssize_t k = copy_file_range(from, &a, to, &b, (size_t)(n - done), 0);
        if (k <= 0) break;
        done += (uint64_t)k;
    }
    if (done < n) buf = fg_mem_alloc(FG_SNAPSHOT_PIECE);
    if (done < n && buf == NULL) return fg_fail_nomem(err, path);
    while (st == FG_OK && done < n) {
        const size_t m = n - done < FG_SNAPSHOT_PIECE ? (size_t)(n - done) : FG_SNAPSHOT_PIECE;
        const fg_file f = {.fd = from, .path = (char *)(uintptr_t)path}; /* only read */
        st = fg_file_read(&f, buf, m, done, err);
        if (st == FG_OK) st = fg_io_pwrite(to, buf, m, done, path, err);
        done += m;
    }
    fg_mem_free(buf);
    if (st == FG_OK && fdatasync(to) != 0) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected it to reach the disk", path, strerror(errno));
    }
    return st;
}

static fg_status copy_file(const char *from, const char *to, fg_err *err)
{
    int fd;
    fg_file f = FG_FILE_INIT;
    FG_TRY(fg_file_open(&f, from, false, err));
    fg_status st = fg_io_open_own(&fd, to, true, err);
    if (st == FG_OK) {
        st = copy_bytes(f.fd, fd, f.size, to, err);
        (void)close(fd);
    }
    fg_file_close(&f);
    return st;
}

/* A snapshot is never written to again, and so both may have the file; the block file is, behind
 * the point where they part. */
static fg_status share_parts(const fg_saved *k, const fg_folder *to, fg_err *err)
{
    const fg_history *h = &k->h;
    fg_status st = FG_OK;
    int fd;
    for (size_t i = 0; st == FG_OK && i < h->n_mark; i++) {
        char *a = fg_folder_snapshot(&k->folder, h->mark[i].number, false),
             *b = fg_folder_snapshot(to, i, false);
        st = a == NULL || b == NULL ? fg_fail_nomem(err, to->path) : FG_OK;
        if (st == FG_OK && link(a, b) != 0) st = copy_file(a, b, err);
        fg_mem_free(a);
        fg_mem_free(b);
    }
    if (st != FG_OK || h->n_block == 0) return st;
    fg_file from = FG_FILE_INIT;
    FG_TRY(fg_file_open(&from, k->folder.kv_path, false, err));
    st = fg_io_open_own(&fd, to->kv_path, true, err);
    if (st == FG_OK) {
        const uint64_t n = h->n_block * FG_STATE_BLOCK * h->open.row_bytes;
        st = copy_bytes(from.fd, fd, n, to->kv_path, err);
        (void)close(fd);
    }
    fg_file_close(&from);
    return st;
}

/* All that is true of the old log, as a group. */
static bool put_all(fg_log *g, const fg_saved *k, const fg_history *old)
{
    fg_log_open o = k->h.open;
    uint64_t at = 0;
    bool ok;
    if (getrandom(&o.id, sizeof o.id, 0) != (ssize_t)sizeof o.id) o.id = fg_clock_ns();
    ok = fg_log_put_open(g, &o);
    for (size_t i = 0; ok && i < old->n_event; i++) {
        const fg_saved_event *e = &old->event[i];
        /* settings and title may be older than an undo, and then of a position behind it */
        const uint64_t pos = e->pos < old->n_id ? e->pos : old->n_id;
        if (pos > at) ok = fg_log_put_ids(g, old->id, at, pos);
        if (pos > at) at = pos;
        ok = ok && fg_log_put_at(g, fg_record_of(e->kind), pos, e->payload, e->n);
    }
    ok = ok && fg_log_put_ids(g, old->id, at, old->n_id);
    if (ok && old->state != NULL && old->state_pos == old->n_id) {
        ok = fg_log_put_at(g, FG_RECORD_STATE, old->state_pos, old->state, old->n_state);
    }
    fg_buf b = {0};
    for (size_t i = 0; i < k->h.n_block; i++) fg_buf_u64(&b, k->h.block[i]);
    ok = ok && !b.failed && fg_log_put_at(g, FG_RECORD_BLOCKS, 0, b.data, b.len);
    fg_buf_fini(&b);
    for (size_t i = 0; ok && i < k->h.n_mark; i++) {
        const fg_log_mark *m = &k->h.mark[i];
        const uint64_t v[] = {m->pos, i, m->root, m->bytes};
        ok = fg_log_put_u64(g, FG_RECORD_MARK, v, 4);
    }
    return ok;
}

static fg_status fill(fg_saved *k, const fg_folder *part, fg_log *g, fg_err *err)
{
    fg_history old = {0}, none = {0};
    int fd;
    if (fg_io_is_dir(part->path)) FG_TRY(fg_folder_empty(part, err)); /* of one that died here */
    FG_TRY(fg_folder_make(part, err));
    FG_TRY(share_parts(k, part, err));
    FG_TRY(fg_folder_lock(part, true, &fd, err));
    fg_status st = fg_log_start(g, fd, part->log_path, &none, err);
    if (st != FG_OK) {
        (void)close(fd);
        return st;
    }
    st = fg_history_read(&old, k->folder.log_path, k->log.fd, err);
    if (st == FG_OK && !put_all(g, k, &old)) st = fg_fail_nomem(err, part->log_path);
    if (st == FG_OK) st = fg_log_commit(g, err);
    fg_history_fini(&old);
    return st == FG_OK ? fg_io_sync_parent(part->log_path, err) : st;
}

/* The folder gets its name, and the session goes on in it. */
static fg_status move_over(fg_saved *k, const fg_folder *part, fg_folder *to, fg_log *g,
                           fg_err *err)
{
    char *path = fg_mem_strndup(to->log_path, strlen(to->log_path));
    if (path == NULL) return fg_fail_nomem(err, to->path);
    fg_status st = FG_OK;
    if (fg_io_is_named(to->path)) {
        st = fg_fail(err, FG_EINVAL, "session %s: there is one, expected a new name", to->name);
    } else if (rename(part->path, to->path) != 0) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected that it can be renamed to %s", part->path,
                     strerror(errno), to->path);
    }
    if (st != FG_OK) {
        fg_mem_free(path);
        return st;
    }
    (void)fg_io_sync_parent(to->path, NULL); /* whole, and under its name */
    fg_mem_free(g->path);
    g->path = path;
    fg_log_fini(&k->log);
    k->log = *g;
    *g = (fg_log){.fd = -1};
    fg_folder_fini(&k->folder);
    k->folder = *to;
    *to = (fg_folder){0};
    if (k->kv_fd >= 0) (void)close(k->kv_fd);
    k->kv_fd = -1; /* opened when it is written to */
    for (size_t i = 0; i < k->h.n_mark; i++) k->h.mark[i].number = i;
    k->h.next_number = k->h.n_mark;
    k->n_gone = 0;
    return FG_OK;
}

fg_status fg_saved_branch(fg_saved *k, const char *name, const void *state, size_t n, fg_err *err)
{
    fg_folder part, to;
    fg_log g = {.fd = -1};
    FG_TRY(fg_saved_save(k, state, n, err));
    FG_TRY(fg_folder_init(&to, k->folder.dir, name, err));
    fg_status st = fg_folder_init_as(&part, k->folder.dir, name, ".branch", err);
    if (st != FG_OK) {
        fg_folder_fini(&to);
        return st;
    }
    if (fg_io_is_named(to.path)) {
        st = fg_fail(err, FG_EINVAL, "session %s: there is one, expected a new name", name);
    } else {
        st = fill(k, &part, &g, err);
        if (st == FG_OK) st = move_over(k, &part, &to, &g, err);
        if (st != FG_OK) (void)fg_folder_remove(&part, NULL);
    }
    fg_log_fini(&g);
    fg_folder_fini(&part);
    fg_folder_fini(&to);
    return st;
}
