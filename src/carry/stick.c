/* SPDX-License-Identifier: MIT */
#include "src/carry/stick.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "src/base/io.h"
#include "src/base/mem.h"

enum { MAX_NAMES = 1 << 16 };

fg_status fg_stick_open(fg_stick *s, const char *path, fg_err *err)
{
    s->path = path;
    s->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dir >= 0) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: %s, expected a folder", path, strerror(errno));
}

void fg_stick_close(fg_stick *s)
{
    if (s->dir >= 0) (void)close(s->dir);
    s->dir = -1;
}

const char *fg_stick_shown(const fg_stick *s, const char *name, char *buf)
{
    (void)snprintf(buf, FG_STICK_TEXT, "%.400s/%.80s", s->path, name);
    return buf;
}

static fg_status fail(const fg_stick *s, const char *name, const char *wanted, fg_err *err)
{
    char shown[FG_STICK_TEXT];
    const int why = errno;
    return fg_fail(err, FG_EIO, "%s: %s, expected %s", fg_stick_shown(s, name, shown),
                   strerror(why), wanted);
}

/* A file system of FAT's kind knows one name in many cases; whoever copies a stick from there to
 * another kind may have changed it. */
static bool find_folded(const fg_stick *s, const char *name, char *found)
{
    const int fd = openat(s->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    bool is = false;
    if (d == NULL && fd >= 0) (void)close(fd);
    if (d == NULL) return false;
    for (struct dirent *e; !is && (e = readdir(d)) != NULL;) {
        is = strcasecmp(e->d_name, name) == 0;
        if (is) (void)snprintf(found, 65, "%.64s", e->d_name);
    }
    (void)closedir(d);
    return is;
}

fg_status fg_stick_open_file(const fg_stick *s, const char *name, bool cold, int *fd, fg_err *err)
{
    const int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    struct stat sb;
    char shown[FG_STICK_TEXT];
    *fd = -1;
    if (!fg_carry_name_is_valid(name)) {
        return fg_fail(err, FG_EINVAL, "%s: a bad name, expected letters, digits and ._-",
                       fg_stick_shown(s, name, shown));
    }
    char found[65];
    if (faccessat(s->dir, name, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && find_folded(s, name, found))
        name = found;
    *fd = fg_io_open_at(s->dir, name, flags | (cold ? O_DIRECT : 0));
    if (*fd < 0 && cold && errno == EINVAL) *fd = fg_io_open_at(s->dir, name, flags);
    if (*fd < 0) return errno == ENOENT ? FG_OK : fail(s, name, "a regular file", err);
    if (fstat(*fd, &sb) != 0 || !S_ISREG(sb.st_mode)) {
        (void)close(*fd);
        *fd = -1;
        return fg_fail(err, FG_EINVAL, "%s: expected a regular file",
                       fg_stick_shown(s, name, shown));
    }
    if (cold) (void)posix_fadvise(*fd, 0, 0, POSIX_FADV_DONTNEED);
    return FG_OK;
}

fg_status fg_stick_create(const fg_stick *s, const char *name, int *fd, fg_err *err)
{
    if (unlinkat(s->dir, name, 0) != 0 && errno != ENOENT)
        return fail(s, name, "to replace it", err);
    *fd = openat(s->dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    return *fd >= 0 ? FG_OK : fail(s, name, "a new file", err);
}

fg_status fg_stick_remove(const fg_stick *s, const char *name, fg_err *err)
{
    return unlinkat(s->dir, name, 0) == 0 || errno == ENOENT ? FG_OK
                                                             : fail(s, name, "to remove it", err);
}

/* Some file systems (FUSE, network) cannot sync a folder. */
static fg_status sync_folder(const fg_stick *s, fg_err *err)
{
    if (fsync(s->dir) == 0 || errno == EINVAL || errno == ENOSYS || errno == ENOTSUP) return FG_OK;
    return fail(s, ".", "to reach the medium", err);
}

fg_status fg_stick_rename(const fg_stick *s, const char *from, const char *to, fg_err *err)
{
    if (renameat(s->dir, from, s->dir, to) != 0) return fail(s, from, "to rename it", err);
    return sync_folder(s, err);
}

/* A small file that appears whole or not at all, on the medium. */
static fg_status put(const fg_stick *s, const char *name, const void *bytes, size_t n, fg_err *err)
{
    char part[80], shown[FG_STICK_TEXT];
    int fd;
    (void)snprintf(part, sizeof part, "%.64s.new", name);
    FG_TRY(fg_stick_create(s, part, &fd, err));
    fg_status st = fg_io_pwrite(fd, bytes, n, 0, fg_stick_shown(s, part, shown), err);
    if (st == FG_OK && fsync(fd) != 0) st = fail(s, part, "to reach the medium", err);
    (void)close(fd);
    if (st == FG_OK) return fg_stick_rename(s, part, name, err);
    (void)unlinkat(s->dir, part, 0);
    return st;
}

fg_status fg_stick_read_list(const fg_stick *s, const char *name, fg_carry_kind kind,
                             fg_carry_list *l, bool *there, fg_err *err)
{
    char shown[FG_STICK_TEXT];
    struct stat sb;
    int fd;
    *there = false;
    FG_TRY(fg_stick_open_file(s, name, false, &fd, err));
    if (fd < 0) return FG_OK;
    *there = true;
    (void)fg_stick_shown(s, name, shown);
    fg_status st = FG_OK;
    char *text = NULL;
    if (fstat(fd, &sb) != 0 || sb.st_size > FG_CARRY_MAX_TEXT) {
        st = fg_fail(err, FG_ELIMIT, "%s: expected a list of at most %d bytes", shown,
                     FG_CARRY_MAX_TEXT);
    } else {
        const fg_file f = {.fd = fd, .path = shown};
        text = fg_mem_alloc((size_t)sb.st_size + 1);
        st = text == NULL ? fg_fail_nomem(err, shown)
                          : fg_file_read(&f, text, (size_t)sb.st_size, 0, err);
    }
    if (st == FG_OK) st = fg_carry_list_parse(l, kind, text, (size_t)sb.st_size, shown, err);
    fg_mem_free(text);
    (void)close(fd);
    return st;
}

fg_status fg_stick_put_list(const fg_stick *s, const char *name, fg_carry_kind kind,
                            const fg_carry_list *l, fg_err *err)
{
    fg_buf b = {0};
    const fg_status st = fg_carry_list_print(l, kind, &b) ? put(s, name, b.data, b.len, err)
                                                          : fg_fail_nomem(err, name);
    fg_buf_fini(&b);
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

fg_status fg_stick_names(const fg_stick *s, const char *ending, char (**names)[65], size_t *n,
                         fg_err *err)
{
    const int fd = openat(s->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    size_t cap = 0;
    bool grown = true;
    *names = NULL;
    *n = 0;
    if (d == NULL) {
        if (fd >= 0) (void)close(fd);
        return fail(s, ".", "a readable folder", err);
    }
    for (struct dirent *e; grown && *n < MAX_NAMES && (e = readdir(d)) != NULL;) {
        const size_t len = strlen(e->d_name), m = strlen(ending);
        if (!fg_carry_name_is_valid(e->d_name) || len < m ||
            strcasecmp(e->d_name + len - m, ending) != 0)
            continue;
        void *p = *names;
        grown = fg_mem_grow(&p, &cap, *n + 1, sizeof **names);
        *names = p;
        if (grown) memcpy((*names)[(*n)++], e->d_name, len + 1);
    }
    (void)closedir(d);
    if (*n > 1) qsort(*names, *n, sizeof **names, by_name);
    return grown ? FG_OK : fg_fail_nomem(err, s->path);
}

uint64_t fg_stick_room(const fg_stick *s)
{
    struct statvfs v;
    uint64_t n;
    if (fstatvfs(s->dir, &v) != 0) return 0;
    return fg_mul_u64(v.f_bavail, v.f_frsize, &n) ? n : UINT64_MAX;
}

fg_status fg_stick_settle(int fd, const char *name, fg_err *err)
{
    if (fsync(fd) != 0)
        return fg_fail(err, FG_EIO, "%s: %s, expected to reach the medium", name, strerror(errno));
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return FG_OK;
}

bool fg_block_buffer_make(fg_block_buffer *b)
{
    b->base = fg_mem_alloc((size_t)FG_BLOCK_BYTES + FG_PIECE_ALIGN);
    const uintptr_t at = (uintptr_t)b->base;
    b->p = (uint8_t *)b->base + (FG_PIECE_ALIGN - at % FG_PIECE_ALIGN) % FG_PIECE_ALIGN;
    return b->base != NULL;
}

void fg_block_buffer_free(fg_block_buffer *b)
{
    fg_mem_free(b->base);
    *b = (fg_block_buffer){0};
}

/* Direct reads want whole pages: the last one of a file comes short. */
bool fg_stick_read_block(int fd, void *buf, size_t n, uint64_t offset)
{
    const size_t want = (n + FG_PIECE_ALIGN - 1) / FG_PIECE_ALIGN * FG_PIECE_ALIGN;
    for (size_t have = 0; have < n;) {
        const ssize_t got = pread(fd, (uint8_t *)buf + have, want - have, (off_t)(offset + have));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        have += (size_t)got;
        if (have < n && have % FG_PIECE_ALIGN != 0) return false; /* ends inside */
    }
    return true;
}

fg_status fg_piece_read(int fd, fg_carry_piece *p, const char *name, fg_err *err)
{
    struct stat sb;
    if (fstat(fd, &sb) != 0 || sb.st_size == 0)
        return fg_fail(err, FG_EFORMAT, "%s: empty, expected a piece of fulgur carry", name);
    const size_t n = sb.st_size < FG_PIECE_MAX_HEADER ? (size_t)sb.st_size : FG_PIECE_MAX_HEADER;
    fg_block_buffer head;
    size_t need;
    fg_status st = FG_OK;
    if (!fg_block_buffer_make(&head)) {
        st = fg_fail_nomem(err, name);
    } else if (!fg_stick_read_block(fd, head.p, n, 0)) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected to read it", name, strerror(errno));
    }
    if (st == FG_OK) st = fg_piece_decode(p, head.p, n, &need, name, err);
    fg_block_buffer_free(&head);
    return st;
}
