/* SPDX-License-Identifier: MIT
 *
 * What is a hole stays one: only extents with data are carried, and a receiver's file begins as one
 * hole.  To give room back the sender's file gets holes where blocks have arrived
 * (FALLOC_FL_PUNCH_HOLE); a file system that has no holes takes only the end of a file back, and
 * then the sender begins at the end (pack.c).
 */
#include "src/carry/carry_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/crypto.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/format/reader.h"

typedef unsigned long long ull; /* for %llu */

#define PART ".carry-part"

static const uint64_t extent_unit = 4096; /* holes of less are not worth a line */

fg_status fg_carry_files_init(fg_carry_files *f, const char *path, fg_err *err)
{
    const char *slash = strrchr(path, '/');
    const size_t n = slash == NULL ? 0 : (size_t)(slash - path);
    *f = (fg_carry_files){0};
    for (size_t i = 0; i < FG_CARRY_MAX_FILE; i++) f->fd[i] = f->cold[i] = -1;
    f->path = fg_mem_strndup(path, strlen(path));
    f->folder = slash == NULL ? fg_mem_strndup(".", 1) : fg_mem_strndup(path, n == 0 ? 1 : n);
    if (f->path == NULL || f->folder == NULL) return fg_fail_nomem(err, path);
    f->base = f->path + (slash == NULL ? 0 : n + 1);
    if (strlen(f->base) > FG_CARRY_MAX_NAME || !fg_carry_name_is_valid(f->base)) {
        return fg_fail(err, FG_EINVAL,
                       "%s: expected a name of at most %d letters, digits and ._-, none of ._- "
                       "first as a dot; rename it or link to it",
                       path, FG_CARRY_MAX_NAME);
    }
    (void)snprintf(f->state, sizeof f->state, "%.56s.carry", f->base);
    return FG_OK;
}

void fg_carry_files_close(fg_carry_files *f)
{
    for (size_t i = 0; i < f->n; i++) {
        if (f->fd[i] >= 0) (void)close(f->fd[i]);
        if (f->cold[i] >= 0) (void)close(f->cold[i]);
        fg_mem_free(f->name[i]);
    }
    fg_mem_free(f->path);
    fg_mem_free(f->folder);
    *f = (fg_carry_files){0};
}

/* Path of a file of the list: PATH, PATH.k, PATH.sig, and `more` behind it; NULL: no memory. */
static char *name_of(const fg_carry_files *f, uint32_t ending, const char *more)
{
    const size_t n = strlen(f->path) + strlen(more) + 16;
    char *p = fg_mem_alloc(n);
    if (p == NULL) return NULL;
    if (ending == 0) {
        (void)snprintf(p, n, "%s%s", f->path, more);
    } else if (ending == FG_CARRY_SIG) {
        (void)snprintf(p, n, "%s.sig%s", f->path, more);
    } else {
        (void)snprintf(p, n, "%s.%u%s", f->path, ending, more);
    }
    return p;
}

/* --- what there is --- */

/* Extents of an open file, as the file system has them; all of it where it knows none. */
static fg_status add_extents(fg_carry_list *l, int fd, uint64_t bytes, fg_err *err)
{
    uint64_t at = 0;
    while (at < bytes) {
        const off_t from = lseek(fd, (off_t)at, SEEK_DATA);
        if (from < 0 && errno == ENXIO) return FG_OK; /* a hole to the end */
        uint64_t begin = from < 0 ? at : (uint64_t)from;
        const off_t to = from < 0 ? (off_t)bytes : lseek(fd, from, SEEK_HOLE);
        uint64_t end = to < 0 || (uint64_t)to > bytes ? bytes : (uint64_t)to;
        begin -= begin % extent_unit;
        end += (extent_unit - end % extent_unit) % extent_unit;
        if (begin < at) begin = at;
        if (end > bytes) end = bytes;
        FG_TRY(fg_carry_list_add_extent(l, begin, end - begin, err));
        at = end;
    }
    return FG_OK;
}

/* Adds the file, whose first 8 KiB (all of a signature) tell it from others of its size. */
static fg_status scan_file(const fg_carry_files *f, uint32_t ending, fg_carry_list *l, fg_sha *salt,
                           fg_err *err)
{
    fg_file in;
    fg_stamp stamp;
    uint8_t head[8192];
    char *path = name_of(f, ending, "");
    if (path == NULL) return fg_fail_nomem(err, f->path);
    fg_status st = fg_file_open(&in, path, false, err);
    fg_mem_free(path);
    FG_TRY(st);
    const size_t n = in.size < sizeof head ? (size_t)in.size : sizeof head;
    st = fg_carry_list_add_file(l, ending, in.size, err);
    if (st == FG_OK) st = add_extents(l, in.fd, in.size, err);
    if (st == FG_OK) st = fg_file_read(&in, head, n, 0, err);
    if (st == FG_OK) {
        fg_sha_add(salt, head, n);
        (void)fg_stamp_take(&stamp, in.fd);
        l->file[l->n_file - 1].stamp_s = stamp.modified_s;
        l->file[l->n_file - 1].stamp_ns = stamp.modified_ns;
    }
    fg_file_close(&in);
    return st;
}

fg_status fg_carry_files_scan(const fg_carry_files *f, fg_carry_list *l, fg_err *err)
{
    fg_model_file *m;
    uint8_t sha[FG_SHA256_BYTES];
    FG_TRY(fg_model_file_open(&m, f->path, err));
    const uint32_t n_part = fg_model_file_n_part(m);
    fg_model_file_close(&m);
    fg_sha *salt = fg_sha_create();
    if (salt == NULL) return fg_fail_nomem(err, f->path);
    memcpy(l->name, f->base, strlen(f->base) + 1);
    fg_status st = FG_OK;
    for (uint32_t k = 0; st == FG_OK && k < n_part; k++) st = scan_file(f, k, l, salt, err);
    char *sig = name_of(f, FG_CARRY_SIG, "");
    if (st == FG_OK && sig == NULL) st = fg_fail_nomem(err, f->path);
    if (st == FG_OK && fg_io_is_named(sig)) st = scan_file(f, FG_CARRY_SIG, l, salt, err);
    fg_mem_free(sig);
    if (st == FG_OK && !fg_sha_digest(salt, sha)) st = fg_fail_nomem(err, f->path);
    fg_sha_destroy(salt);
    return st == FG_OK ? fg_carry_list_seal(l, sha, sizeof sha, err) : st;
}

/* What is read once only takes time and memory from others when it goes through the page cache, and
 * what was just written is there, whatever the disk has.  Some file systems know no other way. */
static void open_cold(fg_carry_files *f, size_t i)
{
    struct stat a, b;
    (void)posix_fadvise(f->fd[i], 0, 0, POSIX_FADV_SEQUENTIAL);
    const int fd = open(f->name[i], O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_DIRECT);
    if (fd < 0) return;
    if (fstat(fd, &a) == 0 && fstat(f->fd[i], &b) == 0 && a.st_dev == b.st_dev &&
        a.st_ino == b.st_ino) {
        f->cold[i] = fd;
    } else {
        (void)close(fd); /* another has the name by now */
    }
}

static fg_status open_file(fg_carry_files *f, const fg_carry_list *l, size_t i, bool writable,
                           fg_err *err)
{
    const fg_carry_file *x = &l->file[i];
    struct stat sb;
    f->name[i] = name_of(f, x->ending, "");
    if (f->name[i] == NULL) return fg_fail_nomem(err, f->path);
    f->n = i + 1;
    f->fd[i] = fg_io_open(f->name[i], (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
    if (f->fd[i] < 0 || fstat(f->fd[i], &sb) != 0) {
        return fg_fail(err, FG_EIO, "%s: %s, expected the file that is being carried", f->name[i],
                       strerror(errno));
    }
    const bool same = l->moves
                          ? (uint64_t)sb.st_size <= x->bytes
                          : (uint64_t)sb.st_size == x->bytes && sb.st_mtim.tv_sec == x->stamp_s &&
                                sb.st_mtim.tv_nsec == x->stamp_ns;
    if (S_ISREG(sb.st_mode) && same) {
        open_cold(f, i);
        return FG_OK;
    }
    return fg_fail(err, FG_EIO,
                   "%s: changed since it began to be carried, expected it to stay; delete "
                   "%s/%s to begin anew",
                   f->name[i], f->folder, f->state);
}

fg_status fg_carry_files_open(fg_carry_files *f, const fg_carry_list *l, bool writable, fg_err *err)
{
    for (size_t i = 0; i < l->n_file; i++) FG_TRY(open_file(f, l, i, writable, err));
    if (flock(f->fd[0], LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        return fg_fail(err, FG_EIO, "%s: another process writes or carries it, expected one",
                       f->path);
    }
    return FG_OK;
}

/* --- blocks --- */

/* What is not on whole pages (the end of a file may be so) goes the usual way. */
static fg_status read_run(const fg_carry_files *f, size_t i, uint8_t *buf, size_t n,
                          uint64_t offset, fg_err *err)
{
    const fg_file in = {.fd = f->fd[i], .path = f->name[i]};
    if (f->cold[i] >= 0 && offset % FG_PIECE_ALIGN == 0 && (uintptr_t)buf % FG_PIECE_ALIGN == 0 &&
        fg_stick_read_block(f->cold[i], buf, n, offset))
        return FG_OK;
    return fg_file_read(&in, buf, n, offset, err);
}

static fg_status move_block(const fg_carry_files *f, const fg_carry_list *l, uint64_t block,
                            uint8_t *buf, bool out, fg_err *err)
{
    const fg_carry_file *x = fg_carry_list_file_of(l, block);
    const size_t i = (size_t)(x - l->file);
    uint64_t at = (block - x->first) * FG_BLOCK_BYTES, run;
    for (uint64_t left = fg_carry_list_bytes_of(l, block); left > 0; left -= run) {
        const uint64_t offset = fg_carry_list_place(l, x, at, &run);
        if (run > left) run = left;
        FG_TRY(out ? fg_io_pwrite(f->fd[i], buf, (size_t)run, offset, f->name[i], err)
                   : read_run(f, i, buf, (size_t)run, offset, err));
        buf += run;
        at += run;
    }
    return FG_OK;
}

fg_status fg_carry_read_block(const fg_carry_files *f, const fg_carry_list *l, uint64_t block,
                              uint8_t *buf, fg_err *err)
{
    return move_block(f, l, block, buf, false, err);
}

fg_status fg_carry_write_block(const fg_carry_files *f, const fg_carry_list *l, uint64_t block,
                               const uint8_t *buf, fg_err *err)
{
    return move_block(f, l, block, (uint8_t *)(uintptr_t)buf, true, err);
}

void fg_carry_start_block(const fg_carry_files *f, const fg_carry_list *l, uint64_t block)
{
    const fg_carry_file *x = fg_carry_list_file_of(l, block);
    uint64_t run;
    const uint64_t at = fg_carry_list_place(l, x, (block - x->first) * FG_BLOCK_BYTES, &run);
    if (run > FG_BLOCK_BYTES) run = FG_BLOCK_BYTES;
    (void)sync_file_range(f->fd[x - l->file], (off_t)at, (off_t)run, SYNC_FILE_RANGE_WRITE);
}

/* --- freeing --- */

bool fg_carry_can_punch(const fg_carry_files *f)
{
    struct stat sb;
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    /* behind the end there is nothing to lose */
    return fstat(f->fd[0], &sb) == 0 && fallocate(f->fd[0], mode, sb.st_size, 4096) == 0;
}

static fg_status punch(const fg_carry_files *f, const fg_carry_list *l, const fg_carry_file *x,
                       uint64_t from, uint64_t to, fg_err *err)
{
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    const size_t i = (size_t)(x - l->file);
    for (uint64_t run; from < to; from += run) {
        const uint64_t offset = fg_carry_list_place(l, x, from, &run);
        if (run > to - from) run = to - from;
        if (fallocate(f->fd[i], mode, (off_t)offset, (off_t)run) != 0) {
            return fg_fail(err, FG_EIO, "%s: %s, expected to free %llu bytes", f->name[i],
                           strerror(errno), (ull)run);
        }
    }
    return FG_OK;
}

static fg_status cut(const fg_carry_files *f, const fg_carry_list *l, const fg_carry_file *x,
                     uint64_t from, fg_err *err)
{
    struct stat sb;
    uint64_t run, to = 0;
    const size_t i = (size_t)(x - l->file);
    if (from > 0) { /* behind the last byte that is still wanted */
        const uint64_t offset = fg_carry_list_place(l, x, from - 1, &run);
        to = offset + 1;
    }
    if (fstat(f->fd[i], &sb) != 0 || (uint64_t)sb.st_size <= to) return FG_OK;
    if (ftruncate(f->fd[i], (off_t)to) == 0) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: %s, expected to cut it to %llu bytes", f->name[i],
                   strerror(errno), (ull)to);
}

fg_status fg_carry_free_blocks(const fg_carry_files *f, const fg_carry_list *l, fg_err *err)
{
    const bool holes = fg_carry_can_punch(f);
    for (size_t i = 0; i < l->n_file; i++) {
        const fg_carry_file *x = &l->file[i];
        const uint64_t end = x->first + x->n_block;
        uint64_t last = end;
        while (last > x->first && l->block[last - 1] == FG_BLOCK_HAVE) last--;
        if (!holes) {
            if (last < end) FG_TRY(cut(f, l, x, (last - x->first) * FG_BLOCK_BYTES, err));
            continue;
        }
        for (uint64_t b = x->first, to; b < end; b = to) {
            for (to = b + 1; to < end && l->block[to] == l->block[b];) to++;
            const uint64_t until = (to - x->first) * FG_BLOCK_BYTES;
            if (l->block[b] != FG_BLOCK_HAVE) continue;
            FG_TRY(punch(f, l, x, (b - x->first) * FG_BLOCK_BYTES,
                         until < x->data ? until : x->data, err));
        }
    }
    return FG_OK;
}

/* --- the receiver's --- */

static fg_status open_part(fg_carry_files *f, const fg_carry_list *l, size_t i, bool fresh,
                           fg_err *err)
{
    f->name[i] = name_of(f, l->file[i].ending, PART);
    if (f->name[i] == NULL) return fg_fail_nomem(err, f->path);
    f->n = i + 1;
    FG_TRY(fg_io_open_own(&f->fd[i], f->name[i], fresh, err));
    if (f->fd[i] < 0) return FG_OK; /* has its name already: all was there */
    if (i == 0 && flock(f->fd[i], LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        return fg_fail(err, FG_EIO, "%s: another process writes it, expected one", f->name[i]);
    }
    if (fresh &&
        (ftruncate(f->fd[i], 0) != 0 || ftruncate(f->fd[i], (off_t)l->file[i].bytes) != 0)) {
        const int why = errno;
        (void)unlink(f->name[i]);
        return fg_fail(err, FG_EIO, "%s: %s, expected a file of %llu bytes", f->name[i],
                       strerror(why), (ull)l->file[i].bytes);
    }
    open_cold(f, i);
    return FG_OK;
}

/* Whether a file went its last step in an earlier life, which is when all of the model is there. */
static bool has_its_name(const fg_carry_files *f, const fg_carry_list *l, size_t i)
{
    uint64_t all = 0;
    for (size_t k = 0; k < l->n_file; k++) all += l->file[k].data;
    char *path = name_of(f, l->file[i].ending, "");
    const bool has =
        path != NULL && fg_carry_list_sum(l, FG_BLOCK_HAVE) == all && fg_io_is_named(path);
    fg_mem_free(path);
    return has;
}

fg_status fg_carry_out_open(fg_carry_files *f, const fg_carry_list *l, bool fresh, fg_err *err)
{
    for (size_t i = 0; i < l->n_file; i++) {
        char *path = name_of(f, l->file[i].ending, "");
        if (path == NULL) return fg_fail_nomem(err, f->path);
        const fg_status st =
            fresh && fg_io_is_named(path)
                ? fg_fail(err, FG_EINVAL,
                          "%s: exists already, expected a new name; one that is complete needs no "
                          "more sticks",
                          path)
                : FG_OK;
        fg_mem_free(path);
        FG_TRY(st);
    }
    for (size_t i = 0; i < l->n_file; i++) {
        FG_TRY(open_part(f, l, i, fresh, err));
        if (f->fd[i] < 0 && !has_its_name(f, l, i)) {
            return fg_fail(err, FG_EIO,
                           "%s: missing, expected it beside %s; delete that to begin "
                           "anew",
                           f->name[i], f->state);
        }
    }
    return FG_OK;
}

fg_status fg_carry_out_finish(fg_carry_files *f, const fg_carry_list *l, fg_err *err)
{
    for (size_t i = l->n_file; i-- > 0;) { /* the model last */
        if (f->fd[i] < 0) continue;        /* an earlier life came so far */
        char *path = name_of(f, l->file[i].ending, "");
        if (path == NULL) return fg_fail_nomem(err, f->path);
        fg_status st = FG_OK;
        if (fsync(f->fd[i]) != 0) {
            st = fg_fail(err, FG_EIO, "%s: %s, expected to reach the disk", f->name[i],
                         strerror(errno));
        }
        if (st == FG_OK) st = fg_io_rename(f->fd[i], f->name[i], path, true, err);
        fg_mem_free(path);
        FG_TRY(st);
    }
    return fg_io_sync_parent(f->path, err);
}
