/* SPDX-License-Identifier: MIT
 *
 * A library to preload: the n-th call of one kind fails.  FAULT_KIND names the kind, FAULT_N the
 * call (0: none), FAULT_ERRNO the error; the calls of the kind are counted into the file
 * FAULT_COUNT at the end, and FAULT_COUNT.by names the file whose call failed.  What goes to
 * standard error never fails: it is how the program says so.  Both files are open before the
 * program begins, which may give files away.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ERROR_SEEN = 0x20 }; /* glibc's mark of a stream, which ferror asks for */

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

static atomic_long calls;
static long fail_at;
static int error = EIO;
static char kind[32];
static int count_fd = -1, caller_fd = -1;
static atomic_bool ready;

/* Out of the way of the program's own numbers. */
static int open_high(const char *name)
{
    const int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0) return -1;
    const int high = fcntl(fd, F_DUPFD_CLOEXEC, 200);
    (void)close(fd);
    return high;
}

__attribute__((constructor)) static void begin(void)
{
    char name[300];
    const char *k = getenv("FAULT_KIND"), *n = getenv("FAULT_N"), *e = getenv("FAULT_ERRNO"),
               *c = getenv("FAULT_COUNT");
    if (k != NULL) (void)snprintf(kind, sizeof kind, "%s", k);
    if (c != NULL) {
        (void)snprintf(name, sizeof name, "%s.by", c);
        count_fd = open_high(c);
        caller_fd = open_high(name);
    }
    if (n != NULL) fail_at = atol(n);
    if (e != NULL) error = atoi(e);
    ready = true;
}

__attribute__((destructor)) static void end(void)
{
    char text[32];
    ready = false;
    const int n = snprintf(text, sizeof text, "%ld\n", atomic_load(&calls));
    if (count_fd >= 0 && write(count_fd, text, (size_t)n) != n) abort();
}

/* Says in FAULT_COUNT.by which file the call came from, since the process may die of it. */
static void name_caller(const void *from)
{
    Dl_info info;
    if (caller_fd < 0 || dladdr(from, &info) == 0) return;
    if (write(caller_fd, info.dli_fname, strlen(info.dli_fname)) < 0) abort();
}

static bool fails_for(const char *what, const void *from)
{
    if (!ready || strcmp(what, kind) != 0) return false;
    if (atomic_fetch_add(&calls, 1) + 1 != fail_at) return false;
    ready = false;
    name_caller(from);
    ready = true;
    errno = error;
    return true;
}

#define fails(what) fails_for(what, __builtin_return_address(0))

/* The function that stands behind ours. */
#define NEXT(type, name, ...)                                                                      \
    static type (*next)(__VA_ARGS__);                                                              \
    if (next == NULL) *(void **)&next = dlsym(RTLD_NEXT, name)

void *malloc(size_t n)
{
    return fails("malloc") ? (errno = ENOMEM, NULL) : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    return fails("malloc") ? (errno = ENOMEM, NULL) : __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    return fails("malloc") ? (errno = ENOMEM, NULL) : __libc_realloc(p, n);
}

int posix_memalign(void **p, size_t align, size_t n)
{
    *p = fails("memalign") ? NULL : __libc_memalign(align, n);
    return *p == NULL ? ENOMEM : 0;
}

void *aligned_alloc(size_t align, size_t n)
{
    return fails("memalign") ? (errno = ENOMEM, NULL) : __libc_memalign(align, n);
}

void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    NEXT(void *, "mmap", void *, size_t, int, int, int, off_t);
    return fails("mmap") ? (errno = ENOMEM, MAP_FAILED) : next(at, n, prot, flags, fd, offset);
}

int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*run)(void *), void *arg)
{
    NEXT(int, "pthread_create", pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    return fails("pthread_create") ? EAGAIN : next(t, a, run, arg);
}

ssize_t write(int fd, const void *p, size_t n)
{
    NEXT(ssize_t, "write", int, const void *, size_t);
    return fd != 2 && fails("write") ? -1 : next(fd, p, n);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    NEXT(ssize_t, "pwrite", int, const void *, size_t, off_t);
    if (fails("pwrite")) return -1;
    return next(fd, p, n > 1 && fails("short pwrite") ? n / 2 : n, at);
}

ssize_t read(int fd, void *p, size_t n)
{
    NEXT(ssize_t, "read", int, void *, size_t);
    return fails("read") ? -1 : next(fd, p, n);
}

ssize_t pread(int fd, void *p, size_t n, off_t at)
{
    NEXT(ssize_t, "pread", int, void *, size_t, off_t);
    if (fails("pread")) return -1;
    return next(fd, p, n > 1 && fails("short pread") ? n / 2 : n, at);
}

ssize_t preadv(int fd, const struct iovec *v, int n, off_t at)
{
    NEXT(ssize_t, "preadv", int, const struct iovec *, int, off_t);
    return fails("pread") ? -1 : next(fd, v, n, at);
}

int fsync(int fd)
{
    NEXT(int, "fsync", int);
    return fails("fsync") ? -1 : next(fd);
}

int fdatasync(int fd)
{
    NEXT(int, "fdatasync", int);
    return fails("fsync") ? -1 : next(fd);
}

int ftruncate(int fd, off_t n)
{
    NEXT(int, "ftruncate", int, off_t);
    return fails("ftruncate") ? -1 : next(fd, n);
}

int rename(const char *from, const char *to)
{
    NEXT(int, "rename", const char *, const char *);
    return fails("rename") ? -1 : next(from, to);
}

int open(const char *path, int flags, ...)
{
    NEXT(int, "open", const char *, int, ...);
    va_list ap;
    va_start(ap, flags);
    const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return fails("open") ? -1 : next(path, flags, mode);
}

FILE *fopen(const char *path, const char *mode)
{
    NEXT(FILE *, "fopen", const char *, const char *);
    return fails("open") ? NULL : next(path, mode);
}

size_t fwrite(const void *p, size_t size, size_t n, FILE *f)
{
    NEXT(size_t, "fwrite", const void *, size_t, size_t, FILE *);
    if (f == stderr || !fails("fwrite")) return next(p, size, n, f);
    f->_flags |= ERROR_SEEN;
    return 0;
}

int fflush(FILE *f)
{
    NEXT(int, "fflush", FILE *);
    if (f == stderr || !fails("fflush")) return next(f);
    f->_flags |= ERROR_SEEN;
    return -1;
}

int fstat(int fd, struct stat *s)
{
    NEXT(int, "fstat", int, struct stat *);
    return fails("fstat") ? -1 : next(fd, s);
}
