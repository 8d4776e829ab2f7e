/* SPDX-License-Identifier: MIT
 *
 * A folder on a disk that fails or loses power, for test_saved_power: this header defines the calls
 * that change files.  The n-th of them can fail, or be the last: the process ends there, and the
 * folder is left as a disk may have it then: of each file what it was at its last sync, with any
 * sectors written since, or garbage in their place (its first sector is old or new); names made,
 * unmade or changed since the last sync of their folder there or not.  (tests/format/crash_disk.h
 * is the same for the files of a conversion, whose names are known beforehand.)
 */
#ifndef FG_TESTS_ENGINE_LOSSY_DISK_H
#define FG_TESTS_ENGINE_LOSSY_DISK_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "src/base/rng.h"
#include "tests/fg_test.h"
#include "tests/sectors.h"

enum { DIED = 77, MAX_DISK_FILE = 256, MAX_NAME = 512 };

/* A file, with or without a name. */
typedef struct disk_file {
    ino_t ino;
    bool alive;       /* it has a name: else another file may have its number */
    uint8_t *durable; /* as of its last sync; malloc */
    uint64_t size;
} disk_file;

typedef struct disk_name {
    char path[MAX_NAME];
    int file; /* -1: none */
} disk_name;

static const char *disk_root; /* the folder, whose folders are on the disk at once */
static disk_file disk[MAX_DISK_FILE];
static disk_name known[MAX_DISK_FILE]; /* names as of the last sync of their folders */
static int n_disk, n_known;
static int n_op, fail_at, die_at, fail_from; /* 0: never */
static uint64_t die_seed;
static bool drops_all; /* of what was not synced nothing comes true */
static bool disk_lies; /* syncs do nothing */

static uint8_t *disk_read(const char *path, uint64_t *n)
{
    struct stat sb;
    const int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &sb) != 0) abort();
    uint8_t *p = malloc((size_t)sb.st_size + 1);
    if (p == NULL || read(fd, p, (size_t)sb.st_size) != sb.st_size) abort();
    (void)close(fd);
    *n = (uint64_t)sb.st_size;
    return p;
}

static void disk_write(const char *path, const uint8_t *p, uint64_t n)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, p, (size_t)n) != (ssize_t)n) abort();
    (void)close(fd);
}

static int disk_file_of(const struct stat *sb)
{
    for (int i = 0; i < n_disk; i++) {
        if (disk[i].alive && disk[i].ino == sb->st_ino) return i;
    }
    if (n_disk == MAX_DISK_FILE) abort();
    disk[n_disk] = (disk_file){.ino = sb->st_ino, .alive = true};
    return n_disk++;
}

/* Calls one for each file below a folder. */
static void disk_walk(const char *dir, bool deep,
                      void (*one)(const char *path, const struct stat *))
{
    DIR *d = opendir(dir);
    if (d == NULL) return;
    for (const struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        char path[MAX_NAME];
        struct stat sb;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (snprintf(path, sizeof path, "%s/%s", dir, e->d_name) >= (int)sizeof path) abort();
        if (lstat(path, &sb) != 0) continue;
        if (S_ISREG(sb.st_mode)) one(path, &sb);
        if (S_ISDIR(sb.st_mode) && deep) disk_walk(path, true, one);
    }
    (void)closedir(d);
}

static void note_content(const char *path, const struct stat *sb)
{
    disk_file *f = &disk[disk_file_of(sb)];
    free(f->durable);
    f->durable = disk_read(path, &f->size);
}

static void note_name(const char *path, const struct stat *sb)
{
    if (n_known == MAX_DISK_FILE) abort();
    (void)snprintf(known[n_known].path, MAX_NAME, "%s", path);
    known[n_known++].file = disk_file_of(sb);
}

/* All is on the disk. */
static void disk_note_all(const char *root)
{
    disk_root = root;
    for (int i = 0; i < n_disk; i++) free(disk[i].durable);
    n_disk = n_known = 0;
    disk_walk(root, true, note_content);
    disk_walk(root, true, note_name);
}

/* The path of an open file of the folder, or false. */
static bool disk_path(int fd, char *path)
{
    char link[64];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, path, MAX_NAME - 1);
    if (n < 0 || disk_root == NULL) return false;
    path[n] = '\0';
    return strncmp(path, disk_root, strlen(disk_root)) == 0;
}

static disk_name present[MAX_DISK_FILE];
static int n_present;

static void note_present(const char *path, const struct stat *sb)
{
    (void)snprintf(present[n_present].path, MAX_NAME, "%s", path);
    present[n_present++].file = disk_file_of(sb);
}

static int file_named(const disk_name *name, int n, const char *path)
{
    for (int i = 0; i < n; i++) {
        if (strcmp(name[i].path, path) == 0) return name[i].file;
    }
    return -1;
}

static void power_off(void)
{
    static uint8_t *content[MAX_DISK_FILE];
    static uint64_t size[MAX_DISK_FILE];
    fg_rng r;
    fg_rng_init(&r, die_seed);
    n_op = -1000000; /* what follows is not the program's */
    disk_walk(disk_root, true, note_present);
    for (int i = 0; i < n_present; i++) {
        uint64_t n;
        uint8_t *now = disk_read(present[i].path, &n);
        const int f = present[i].file;
        const uint64_t was = disk[f].durable == NULL ? 0 : disk[f].size;
        if (content[f] == NULL) {
            content[f] = mix_sectors(disk[f].durable, was, now, n, drops_all, &r, &size[f]);
        }
        free(now);
    }
    for (int i = 0; i < n_disk; i++) { /* without a name now, but maybe with one again */
        if (content[i] != NULL || disk[i].durable == NULL) continue;
        content[i] = disk[i].durable;
        size[i] = disk[i].size;
    }
    for (int i = 0; i < n_known; i++) { /* names that are gone */
        if (file_named(present, n_present, known[i].path) >= 0) continue;
        present[n_present] = known[i];
        present[n_present++].file = -1;
    }
    for (int i = 0; i < n_present; i++) {
        const int was = file_named(known, n_known, present[i].path), is = present[i].file;
        const int f = was == is || (!drops_all && fg_rng_u64(&r) % 2 == 0) ? is : was;
        (void)syscall(SYS_unlinkat, AT_FDCWD, present[i].path, 0);
        if (f >= 0) disk_write(present[i].path, content[f], content[f] == NULL ? 0 : size[f]);
    }
    _exit(fg_test_failed() ? 1 : DIED);
}

/* True when the call is to fail. */
static bool disk_step(int error)
{
    n_op++;
    if (n_op == die_at) power_off();
    if (n_op != fail_at && (fail_from == 0 || n_op < fail_from)) return false;
    errno = error;
    return true;
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    if (disk_step(ENOSPC)) return -1;
    if (n_op + 1 == die_at && n > 1) n /= 2; /* dies in the middle of it: the rest is retried */
    return (ssize_t)syscall(SYS_pwrite64, fd, p, n, at);
}

ssize_t pwritev(int fd, const struct iovec *run, int n, off_t at)
{
    if (disk_step(ENOSPC)) return -1;
    if (n_op + 1 == die_at && n > 1) n /= 2;
    return (ssize_t)syscall(SYS_pwritev, fd, run, n, at, 0);
}

static int sync_content(int fd)
{
    char path[MAX_NAME];
    struct stat sb;
    if (disk_step(EIO)) return -1;
    if (!disk_lies && disk_path(fd, path) && fstat(fd, &sb) == 0 && S_ISREG(sb.st_mode) &&
        sb.st_nlink > 0) {
        note_content(path, &sb);
    }
    return 0;
}

int fdatasync(int fd)
{
    return sync_content(fd);
}

int fsync(int fd)
{
    char path[MAX_NAME];
    struct stat sb;
    if (fstat(fd, &sb) != 0 || !S_ISDIR(sb.st_mode)) return sync_content(fd);
    if (disk_step(EIO)) return -1;
    if (disk_lies || !disk_path(fd, path)) return 0;
    const size_t n = strlen(path);
    for (int i = 0; i < n_known;) { /* what was in it, but not below it */
        const char *name = known[i].path;
        if (strncmp(name, path, n) == 0 && name[n] == '/' && strchr(name + n + 1, '/') == NULL) {
            known[i] = known[--n_known];
        } else {
            i++;
        }
    }
    disk_walk(path, false, note_name);
    return 0;
}

int ftruncate(int fd, off_t n)
{
    if (disk_step(EIO)) return -1;
    return (int)syscall(SYS_ftruncate, fd, n);
}

/* A file whose last name goes. */
static void disk_unname(const char *path)
{
    struct stat sb;
    if (lstat(path, &sb) == 0 && S_ISREG(sb.st_mode) && sb.st_nlink == 1) {
        disk[disk_file_of(&sb)].alive = false;
    }
}

int rename(const char *a, const char *b)
{
    if (disk_step(EIO)) return -1;
    disk_unname(b);
    return (int)syscall(SYS_renameat, AT_FDCWD, a, AT_FDCWD, b);
}

int unlink(const char *path)
{
    if (disk_step(EIO)) return -1;
    disk_unname(path);
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

#endif
