/* SPDX-License-Identifier: MIT */
#include "src/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/mapping.h"
#include "src/base/mem.h"

/* ---- opening ---- */

static fg_io_slow_fn *on_slow;

void fg_io_on_slow(fg_io_slow_fn *slow)
{
    on_slow = slow;
}

typedef struct opening {
    const char *path;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t over;
    struct timespec begun;
    bool is_over;
} opening;

/* The call itself may be deaf to signals while it waits, hence a thread. */
static void *wait_for_opening(void *arg)
{
    enum { FIRST = 5, THEN = 30 };
    opening *o = arg;
    struct timespec until = o->begun;
    uint64_t waited = FIRST;
    until.tv_sec += FIRST;
    (void)pthread_mutex_lock(&o->lock);
    for (int e = 0; !o->is_over && (e == 0 || e == ETIMEDOUT);) {
        e = pthread_cond_timedwait(&o->over, &o->lock, &until);
        if (e != ETIMEDOUT || o->is_over) continue;
        on_slow(o->path, waited);
        waited += THEN;
        until.tv_sec += THEN;
    }
    (void)pthread_mutex_unlock(&o->lock);
    return NULL;
}

static bool begin_waiting(opening *o)
{
    enum { STACK = 256 << 10 };
    pthread_attr_t attr;
    pthread_condattr_t steady;
    sigset_t all, before;
    if (pthread_attr_init(&attr) != 0) return false;
    (void)pthread_attr_setstacksize(&attr, STACK);
    (void)clock_gettime(CLOCK_MONOTONIC, &o->begun);
    (void)pthread_condattr_init(&steady);
    (void)pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&o->lock, NULL);
    (void)pthread_cond_init(&o->over, &steady);
    (void)sigfillset(&all); /* signals are for the others */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    const bool begun = pthread_create(&o->thread, &attr, wait_for_opening, o) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_condattr_destroy(&steady);
    (void)pthread_attr_destroy(&attr);
    return begun;
}

int fg_io_open(const char *path, int flags)
{
    return fg_io_open_at(AT_FDCWD, path, flags);
}

int fg_io_open_at(int dir, const char *path, int flags)
{
    opening o = {.path = path};
    const bool waits = on_slow != NULL && begin_waiting(&o);
    const int fd = openat(dir, path, flags), why = errno;
    if (waits) {
        (void)pthread_mutex_lock(&o.lock);
        o.is_over = true;
        (void)pthread_cond_signal(&o.over);
        (void)pthread_mutex_unlock(&o.lock);
        (void)pthread_join(o.thread, NULL);
        (void)pthread_cond_destroy(&o.over);
        (void)pthread_mutex_destroy(&o.lock);
    }
    errno = why;
    return fd;
}

fg_status fg_file_open(fg_file *f, const char *path, bool map, fg_err *err)
{
    *f = FG_FILE_INIT;
    fg_status st;
    f->path = fg_mem_strndup(path, strlen(path));
    if (f->path == NULL) return fg_fail_nomem(err, path);
    /* a pipe would otherwise wait for a writer; io_uring takes the flag as a wish to fail */
    f->fd = fg_io_open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat sb;
    if (f->fd < 0) {
        const int why = errno;
        const bool dangles = why == ENOENT && lstat(path, &sb) == 0;
        st = fg_fail(err, FG_EIO, "%s: %s%s, expected a readable file", path,
                     dangles ? "a link to nothing: " : "", strerror(why));
        goto fail;
    }
    if (fstat(f->fd, &sb) != 0) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected a readable file", path, strerror(errno));
        goto fail;
    }
    if (!S_ISREG(sb.st_mode)) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected a regular file", path,
                     S_ISDIR(sb.st_mode) ? "a directory" : "not a regular file");
        goto fail;
    }
    const int flags = fcntl(f->fd, F_GETFL);
    if (flags < 0 || fcntl(f->fd, F_SETFL, flags & ~O_NONBLOCK) != 0) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected a readable file", path, strerror(errno));
        goto fail;
    }
    f->size = (uint64_t)sb.st_size;
    if (map && f->size > 0) {
        f->data = fg_mapping_open(f->fd, f->size, false, f->path);
        if (f->data == NULL) {
            st = fg_fail(err, FG_EIO, "%s: %s, expected to map %llu bytes", path, strerror(errno),
                         (unsigned long long)f->size);
            goto fail;
        }
    }
    return FG_OK;
fail:
    fg_file_close(f);
    return st;
}

void fg_file_close(fg_file *f)
{
    fg_mapping_close(f->data, f->size);
    if (f->fd >= 0) (void)close(f->fd);
    fg_mem_free(f->path);
    *f = FG_FILE_INIT;
}

fg_status fg_file_read(const fg_file *f, void *dst, size_t n, uint64_t offset, fg_err *err)
{
    uint8_t *p = dst;
    const size_t want = n;
    const uint64_t from = offset;
    while (n > 0) {
        const ssize_t got = pread(f->fd, p, n, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            return fg_fail(err, FG_EIO, "%s: %s at offset %llu, expected %zu readable bytes",
                           f->path, strerror(errno), (unsigned long long)from, want);
        }
        if (got == 0) {
            return fg_fail(err, FG_EIO, "%s: ends at byte %llu, expected %zu bytes at offset %llu",
                           f->path, (unsigned long long)offset, want, (unsigned long long)from);
        }
        p += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return FG_OK;
}

bool fg_stamp_take(fg_stamp *s, int fd)
{
    struct stat sb;
    *s = (fg_stamp){0};
    if (fstat(fd, &sb) != 0) return false;
    *s = (fg_stamp){.size = (uint64_t)sb.st_size,
                    .modified_s = sb.st_mtim.tv_sec,
                    .changed_s = sb.st_ctim.tv_sec,
                    .modified_ns = sb.st_mtim.tv_nsec,
                    .changed_ns = sb.st_ctim.tv_nsec};
    return true;
}

bool fg_stamp_moved(const fg_stamp *was, int fd)
{
    fg_stamp now;
    return !fg_stamp_take(&now, fd) || now.size != was->size || now.modified_s != was->modified_s ||
           now.modified_ns != was->modified_ns || now.changed_s != was->changed_s ||
           now.changed_ns != was->changed_ns;
}

static fg_io_full_fn *on_full;
static void *on_full_ctx;

void fg_io_on_full(fg_io_full_fn *full, void *ctx)
{
    on_full = full;
    on_full_ctx = ctx;
}

/* True when the failure `why` was a full disk and it is worth trying again. */
static bool has_room_again(int why, const char *path, uint64_t bytes)
{
    return (why == ENOSPC || why == EDQUOT) && on_full != NULL && on_full(on_full_ctx, path, bytes);
}

fg_status fg_io_pwrite(int fd, const void *src, size_t n, uint64_t offset, const char *path,
                       fg_err *err)
{
    const uint8_t *p = src;
    while (n > 0) {
        const ssize_t put = pwrite(fd, p, n, (off_t)offset);
        const int why = put < 0 ? errno : 0;
        if (why == EINTR || (put < 0 && has_room_again(why, path, n))) continue;
        if (put <= 0) {
            return fg_fail(err, FG_EIO, "%s: %s at offset %llu, expected to write %zu bytes", path,
                           put < 0 ? strerror(why) : "nothing written", (unsigned long long)offset,
                           n);
        }
        p += put;
        n -= (size_t)put;
        offset += (uint64_t)put;
    }
    return FG_OK;
}

fg_status fg_io_read_all(const char *path, uint64_t max_bytes, char **out, size_t *len, fg_err *err)
{
    fg_file f;
    *out = NULL;
    *len = 0;
    FG_TRY(fg_file_open(&f, path, false, err));
    fg_status st = FG_OK;
    char *p = NULL;
    if (f.size > max_bytes) {
        st = fg_fail(err, FG_ELIMIT, "%s: %llu bytes, expected at most %llu", path,
                     (unsigned long long)f.size, (unsigned long long)max_bytes);
        goto done;
    }
    p = fg_mem_alloc((size_t)f.size + 1);
    if (p == NULL) {
        st = fg_fail_nomem(err, path);
        goto done;
    }
    st = fg_file_read(&f, p, (size_t)f.size, 0, err);
    if (st != FG_OK) goto done;
    p[f.size] = '\0';
    *out = p;
    *len = (size_t)f.size;
    p = NULL;
done:
    fg_mem_free(p);
    fg_file_close(&f);
    return st;
}

char *fg_io_join(const char *dir, const char *name)
{
    const size_t a = strlen(dir), b = strlen(name);
    char *p = fg_mem_alloc(a + b + 2);
    if (p == NULL) return NULL;
    memcpy(p, dir, a);
    p[a] = '/';
    memcpy(p + a + 1, name, b + 1);
    return p;
}

bool fg_io_is_dir(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

bool fg_io_exists(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0;
}

bool fg_io_is_named(const char *path)
{
    struct stat sb;
    return lstat(path, &sb) == 0;
}

fg_status fg_io_refuse_input(const char *out, const char *in, fg_err *err)
{
    struct stat sb, part;
    const size_t n = strlen(in) + 16;
    if (stat(out, &sb) != 0) return FG_OK;
    char *name = fg_mem_alloc(n);
    if (name == NULL) return fg_fail_nomem(err, in);
    fg_status st = FG_OK;
    (void)snprintf(name, n, "%s", in);
    for (unsigned k = 1; st == FG_OK && stat(name, &part) == 0; k++) {
        if (part.st_dev == sb.st_dev && part.st_ino == sb.st_ino) {
            st = fg_fail(err, FG_EINVAL, "%s: the same file as the input %s, expected another name",
                         out, name);
        }
        (void)snprintf(name, n, "%s.%u", in, k);
    }
    fg_mem_free(name);
    return st;
}

fg_status fg_io_refuse_existing(const char *out, fg_err *err)
{
    if (!fg_io_is_named(out)) return FG_OK;
    return fg_fail(err, FG_EINVAL,
                   "%s: exists already, expected a new name, or --force to replace it", out);
}

/* The folder of a path; no allocation, which could fail after a rename.  False: it is too long. */
static bool folder_of(const char *path, char dir[static PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    const size_t n = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (n >= PATH_MAX) return false;
    (void)snprintf(dir, PATH_MAX, "%.*s", n == 0 ? 1 : (int)n, n == 0 ? "." : path);
    return true;
}

static fg_status refuse_kind(const char *path, const struct stat *sb, fg_err *err)
{
    const char *what = S_ISLNK(sb->st_mode)   ? "a link"
                       : S_ISDIR(sb->st_mode) ? "a folder"
                                              : "not a regular file";
    return fg_fail(err, FG_EINVAL,
                   "%s: %s, expected a regular file or nothing there; move it away or choose "
                   "another name",
                   path, what);
}

fg_status fg_io_check_output(const char *out, fg_err *err)
{
    struct stat sb;
    char dir[PATH_MAX];
    const size_t n = strlen(out);
    if (n == 0) return fg_fail(err, FG_EINVAL, "output: an empty name, expected a file name");
    if (strcmp(out, "-") == 0) { /* where inputs may be "-" nobody means a file of that name */
        return fg_fail(err, FG_EINVAL, "-: standard output, expected a file name; ./- is one");
    }
    const bool there = lstat(out, &sb) == 0;
    if (there && !S_ISREG(sb.st_mode)) return refuse_kind(out, &sb, err);
    if (!there && errno != ENOENT) { /* too long, or below a file */
        return fg_fail(err, FG_EIO, "%s: %s, expected a file name", out, strerror(errno));
    }
    if (out[n - 1] == '/') {
        return fg_fail(err, FG_EINVAL, "%s: a folder, expected a file name", out);
    }
    if (!folder_of(out, dir)) return fg_fail(err, FG_EIO, "%s: expected a shorter name", out);
    if (access(dir, W_OK) == 0) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: %s: %s, expected a folder to write to", out, dir,
                   strerror(errno));
}

fg_status fg_io_open_unnamed(int *fd, const char *beside, fg_err *err)
{
    const size_t n = strlen(beside);
    char *name = fg_mem_alloc(n + 16);
    if (name == NULL) return fg_fail_nomem(err, beside);
    memcpy(name, beside, n + 1);
    char *slash = strrchr(name, '/');
    if (slash == NULL) {
        memcpy(name, ".", 2);
    } else {
        slash[slash == name ? 1 : 0] = '\0';
    }
    *fd = open(name, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (*fd < 0) { /* not every file system has unnamed files */
        memcpy(name, beside, n);
        memcpy(name + n, ".tmpXXXXXX", 11);
        *fd = mkostemp(name, O_CLOEXEC);
        if (*fd >= 0) (void)unlink(name);
    }
    fg_mem_free(name);
    if (*fd >= 0) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: %s, expected room for a temporary file beside it", beside,
                   strerror(errno));
}

fg_status fg_io_map_unnamed(void **out, size_t bytes, const char *beside, fg_err *err)
{
    int fd = -1;
    *out = NULL;
    FG_TRY(fg_io_open_unnamed(&fd, beside, err));
    int why = posix_fallocate(fd, 0, (off_t)bytes);
    while (why == EINTR || (why != 0 && has_room_again(why, beside, bytes))) {
        why = posix_fallocate(fd, 0, (off_t)bytes);
    }
    if (why == 0) {
        *out = fg_mapping_open(fd, bytes, true, beside);
        why = errno;
    }
    (void)close(fd);
    if (*out == NULL) {
        return fg_fail(err, FG_EIO, "%s: %s, expected %llu bytes for a temporary file beside it",
                       beside, strerror(why), (unsigned long long)bytes);
    }
    return FG_OK;
}

/* Names of new files that are not committed, for a handler of a signal. */
enum { MAX_PENDING = 16 };
static _Atomic(char *) pending[MAX_PENDING];

static void remember(char *part)
{
    for (int i = 0; i < MAX_PENDING; i++) {
        char *none = NULL;
        if (atomic_compare_exchange_strong(&pending[i], &none, part)) return;
    }
}

static void forget(char *part)
{
    for (int i = 0; i < MAX_PENDING && part != NULL; i++) {
        char *mine = part;
        if (atomic_compare_exchange_strong(&pending[i], &mine, NULL)) return;
    }
}

void fg_new_file_drop_all(void)
{
    for (int i = 0; i < MAX_PENDING; i++) {
        const char *part = atomic_exchange(&pending[i], NULL);
        if (part != NULL) (void)unlink(part);
    }
}

/* A name of its own, not path + ".part": that is what an unfinished conversion is called, and it
 * may be a model of the user's.  To refuse it when it exists would have every crash stop the next
 * run, and have users delete by hand what may be hours of work.  O_TMPFILE has no name at all, but
 * linkat cannot replace a file.  mkstemp's mode would need the umask, which threads share. */
static int open_beside(fg_new_file *n)
{
    for (int i = 0; i < 100; i++) {
        const uint32_t v = (uint32_t)fg_clock_ns() ^ (uint32_t)getpid() << 16;
        sprintf(n->part, "%s.tmp%08x", n->path, v);
        const int fd = open(n->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST) return fd;
    }
    return -1;
}

fg_status fg_new_file_open(fg_new_file *n, const char *path, fg_err *err)
{
    const size_t len = strlen(path);
    *n = (fg_new_file){.f = NULL};
    FG_TRY(fg_io_check_output(path, err));
    n->path = fg_mem_strndup(path, len);
    n->part = fg_mem_alloc(len + 16);
    fg_status st = n->path == NULL || n->part == NULL ? fg_fail_nomem(err, path) : FG_OK;
    const int fd = st == FG_OK ? open_beside(n) : -1;
    if (fd >= 0) n->f = fdopen(fd, "w");
    if (st == FG_OK && n->f == NULL) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected a writable file", path, strerror(errno));
    }
    if (st == FG_OK) {
        remember(n->part);
        return FG_OK;
    }
    if (fd >= 0) {
        (void)close(fd);
        (void)unlink(n->part);
    }
    fg_new_file_close(n);
    return st;
}

fg_status fg_new_file_commit(fg_new_file *n, fg_err *err)
{
    if (fflush(n->f) != 0 || fsync(fileno(n->f)) != 0 || rename(n->part, n->path) != 0) {
        return fg_fail(err, FG_EIO, "%s: %s, expected to write it", n->path, strerror(errno));
    }
    forget(n->part);
    (void)fclose(n->f); /* all is on the disk */
    n->f = NULL;
    (void)fg_io_sync_parent(n->path, NULL); /* complete, and under its name */
    return FG_OK;
}

void fg_new_file_close(fg_new_file *n)
{
    if (n->f != NULL) {
        (void)fclose(n->f);
        (void)unlink(n->part);
    }
    forget(n->part);
    fg_mem_free(n->path);
    fg_mem_free(n->part);
    *n = (fg_new_file){.f = NULL};
}

fg_status fg_io_open_own(int *out, const char *path, bool create, fg_err *err)
{
    struct stat sb;
    *out = -1;
    /* looked at first, because opening a device may already do something */
    if (lstat(path, &sb) == 0 && !S_ISREG(sb.st_mode)) return refuse_kind(path, &sb, err);
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (create ? O_CREAT : 0);
    const int fd = open(path, flags, 0666);
    if (fd < 0 && errno == ENOENT && !create) return FG_OK;
    if (fd < 0) {
        if (errno == ELOOP && lstat(path, &sb) == 0) return refuse_kind(path, &sb, err);
        return fg_fail(err, FG_EIO, "%s: %s, expected a file that can be created", path,
                       strerror(errno));
    }
    if (fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode)) {
        (void)close(fd);
        return refuse_kind(path, &sb, err);
    }
    *out = fd;
    return FG_OK;
}

fg_status fg_io_sync_parent(const char *path, fg_err *err)
{
    char dir[PATH_MAX];
    fg_status st = FG_OK;
    if (!folder_of(path, dir)) return fg_fail(err, FG_EIO, "%s: expected a shorter name", path);
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL && errno != ENOSYS && errno != ENOTSUP)) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected to sync the folder", dir, strerror(errno));
    }
    if (fd >= 0) (void)close(fd);
    return st;
}
