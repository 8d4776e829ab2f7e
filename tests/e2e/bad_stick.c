/* SPDX-License-Identifier: MIT
 *
 * A folder that stands for a stick, and a machine that dies: loaded before the libraries.
 *   STICK=DIR        the folder, as the kernel names it
 *   STICK_BYTES=N    all its files have N bytes at most, and it says so
 *   HOME_BYTES=N     every other folder says that it has room for so many
 *   STICK_ZEROS=N    of the pieces, one behind the other by name, what is at N or behind reads as
 *                    zeros, except from the page cache: a fake stick
 *   STICK_COLD=1     nothing of it is in the page cache
 *   STICK_FILE=N     no file has more bytes
 *   READ_MS=N        a read of its pieces takes so long, by each thread
 *   SYNC_MS=N        a sync of anything takes so long
 *   NO_HOLES=1       no file system can punch
 *   DIE_AT=N         killed before the Nth of the calls that change something on a disk
 *   DIE_COUNT=FILE   their number, at the end
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FD = 1024 };

static char dropped[MAX_FD]; /* from the page cache */
static long n_call;

static long number(const char *name)
{
    const char *s = getenv(name);
    return s == NULL ? -1 : atol(s);
}

static void take(const char *name)
{
    const long ms = number(name);
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    if (ms > 0) (void)nanosleep(&t, NULL);
}

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static void may_die(void)
{
    if (++n_call == number("DIE_AT")) (void)kill(getpid(), SIGKILL);
}

static FILE *count; /* opened before the program gives files away */

__attribute__((constructor)) static void begin(void)
{
    const char *to = getenv("DIE_COUNT");
    if (to != NULL) count = fopen(to, "w");
}

__attribute__((destructor)) static void tell(void)
{
    if (count == NULL) return;
    fprintf(count, "%ld", n_call);
    (void)fclose(count);
}

/* The file's name in the folder, NULL: it is none of its. */
static const char *on_stick(int fd, char *buf, size_t size)
{
    char link[64];
    const char *dir = getenv("STICK");
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, buf, size - 1);
    if (dir == NULL || n < 0) return NULL;
    buf[n] = '\0';
    const size_t len = strlen(dir);
    if (strncmp(buf, dir, len) != 0) return NULL;
    return buf[len] == '/' ? buf + len + 1 : buf[len] == '\0' ? "" : NULL;
}

/* Bytes of the folder's files; of its pieces before `name`, where one is given. */
static long used(const char *name)
{
    long sum = 0;
    char path[4096];
    struct stat sb;
    DIR *d = opendir(getenv("STICK"));
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        (void)snprintf(path, sizeof path, "%s/%s", getenv("STICK"), e->d_name);
        if (name != NULL && (strstr(e->d_name, ".piece") == NULL || strcmp(e->d_name, name) >= 0))
            continue;
        if (e->d_name[0] != '.' && stat(path, &sb) == 0) sum += sb.st_size;
    }
    if (d != NULL) (void)closedir(d);
    return sum;
}

ssize_t pwrite(int fd, const void *buf, size_t n, off_t at)
{
    ssize_t (*real)(int, const void *, size_t, off_t) = next("pwrite");
    char path[4096];
    struct stat sb;
    const long most = number("STICK_BYTES");
    may_die();
    if (number("STICK_FILE") >= 0 && (long)at + (long)n > number("STICK_FILE") &&
        on_stick(fd, path, sizeof path) != NULL) {
        errno = EFBIG;
        return -1;
    }
    if (most >= 0 && on_stick(fd, path, sizeof path) != NULL && fstat(fd, &sb) == 0) {
        const long left = most - used(NULL), grows = (long)at + (long)n - (long)sb.st_size;
        if (grows > left) {
            if ((long)n <= grows - left) {
                errno = ENOSPC;
                return -1;
            }
            n -= (size_t)(grows - left);
        }
    }
    return real(fd, buf, n, at);
}

ssize_t pread(int fd, void *buf, size_t n, off_t at)
{
    ssize_t (*real)(int, void *, size_t, off_t) = next("pread");
    char path[4096];
    const long zeros = number("STICK_ZEROS");
    const ssize_t got = real(fd, buf, n, at);
    const char *name =
        got <= 0 || (zeros < 0 && number("READ_MS") < 0) ? NULL : on_stick(fd, path, sizeof path);
    if (name == NULL || strstr(name, ".piece") == NULL) return got;
    take("READ_MS");
    if (zeros < 0) return got;
    const int cold = number("STICK_COLD") == 1 || (fd < MAX_FD && dropped[fd]) ||
                     (fcntl(fd, F_GETFL) & O_DIRECT) != 0;
    const long begin = used(name) + (long)at;
    if (cold && begin + got > zeros) {
        const long keep = begin > zeros ? 0 : zeros - begin;
        memset((char *)buf + keep, 0, (size_t)(got - keep));
    }
    return got;
}

int fstatvfs(int fd, struct statvfs *v)
{
    int (*real)(int, struct statvfs *) = next("fstatvfs");
    char path[4096];
    const int status = real(fd, v);
    const long most = number("STICK_BYTES"), home = number("HOME_BYTES");
    const int here = on_stick(fd, path, sizeof path) != NULL;
    if (status == 0 && most >= 0 && here) {
        const long left = most - used(NULL);
        v->f_frsize = 1;
        v->f_bavail = left < 0 ? 0 : (fsblkcnt_t)left;
    } else if (status == 0 && home >= 0 && !here) {
        v->f_frsize = 1;
        v->f_bavail = (fsblkcnt_t)home;
    }
    return status;
}

int posix_fadvise(int fd, off_t at, off_t n, int advice)
{
    int (*real)(int, off_t, off_t, int) = next("posix_fadvise");
    if (fd >= 0 && fd < MAX_FD && advice == POSIX_FADV_DONTNEED) dropped[fd] = 1;
    return real(fd, at, n, advice);
}

int close(int fd)
{
    int (*real)(int) = next("close");
    if (fd >= 0 && fd < MAX_FD) dropped[fd] = 0;
    return real(fd);
}

int fallocate(int fd, int mode, off_t at, off_t n)
{
    int (*real)(int, int, off_t, off_t) = next("fallocate");
    if (number("NO_HOLES") == 1) {
        errno = EOPNOTSUPP;
        return -1;
    }
    may_die();
    return real(fd, mode, at, n);
}

int ftruncate(int fd, off_t n)
{
    int (*real)(int, off_t) = next("ftruncate");
    may_die();
    return real(fd, n);
}

int fsync(int fd)
{
    int (*real)(int) = next("fsync");
    may_die();
    take("SYNC_MS");
    return real(fd);
}

int rename(const char *from, const char *to)
{
    int (*real)(const char *, const char *) = next("rename");
    may_die();
    return real(from, to);
}

int renameat(int a, const char *from, int b, const char *to)
{
    int (*real)(int, const char *, int, const char *) = next("renameat");
    may_die();
    return real(a, from, b, to);
}

int unlinkat(int dir, const char *name, int flags)
{
    int (*real)(int, const char *, int) = next("unlinkat");
    may_die();
    return real(dir, name, flags);
}
