/* SPDX-License-Identifier: MIT
 *
 * A disk that fails or loses power, for life.h: this header defines the calls that change files.
 * It can make the n-th of them fail, or end the process there and leave what a disk may hold then:
 * of each file, what it was at its last sync, with any sectors written since, or garbage in their
 * place (its first sector is old or new: disks write a sector whole); names made or unmade since
 * the last sync of the folder may be there or not.
 */
#ifndef FG_TESTS_FORMAT_CRASH_DISK_H
#define FG_TESTS_FORMAT_CRASH_DISK_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/base/rng.h"
#include "tests/fg_test.h"
#include "tests/sectors.h"

enum { DIED = 77 };

typedef struct tracked {
    const char *path;
    bool named;       /* in the folder, as of its last sync */
    bool has_content; /* durable is valid */
    uint8_t *durable; /* as of the last sync of the file; malloc */
    uint64_t size;
    uint8_t *removed; /* what it was when its name was taken away, until the folder is synced */
    uint64_t removed_size;
} tracked;

/* Of a split file, two more parts, and the link beside OUT that leads to the first. */
enum { PART, LOG, OUT, PART1, OUT1, PART2, OUT2, LINK1, N_FILE };
static tracked files[N_FILE];
static int n_op, fail_at, die_at; /* 0: never */
static int liar = -1;             /* syncs of this file do nothing */
static uint64_t die_seed, free_bytes = UINT64_MAX;
static int n_unlink, die_at_unlink; /* of files that are not tracked; 0: never */
static bool drops_all;              /* of what was not synced nothing comes true */

static uint64_t slurp(const char *path, uint8_t **bytes)
{
    struct stat sb;
    *bytes = NULL;
    const int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &sb) != 0) return 0;
    *bytes = malloc((size_t)sb.st_size + 1);
    const ssize_t n = *bytes == NULL ? 0 : read(fd, *bytes, (size_t)sb.st_size);
    (void)close(fd);
    return n == sb.st_size ? (uint64_t)n : 0;
}

static void dump(const char *path, const void *bytes, uint64_t n)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const bool good = fd >= 0 && write(fd, bytes, (size_t)n) == (ssize_t)n;
    if (!good) abort();
    (void)close(fd);
}

static bool exists(const char *path)
{
    struct stat sb;
    return lstat(path, &sb) == 0;
}

static int file_of(int fd)
{
    struct stat a, b;
    if (fstat(fd, &a) != 0) return -1;
    for (int i = 0; i < N_FILE; i++) {
        if (files[i].path != NULL && stat(files[i].path, &b) == 0 && a.st_ino == b.st_ino) return i;
    }
    return -1;
}

static void note_content(int i)
{
    free(files[i].durable);
    files[i].size = slurp(files[i].path, &files[i].durable);
    files[i].has_content = true;
}

/* The names in a folder are on the disk. */
static void note_names(const struct stat *folder)
{
    for (int i = 0; i < N_FILE; i++) {
        char dir[4096];
        struct stat sb;
        (void)snprintf(dir, sizeof dir, "%s", files[i].path);
        *strrchr(dir, '/') = '\0';
        if (stat(dir, &sb) == 0 && (folder == NULL || sb.st_ino == folder->st_ino)) {
            files[i].named = exists(files[i].path);
            free(files[i].removed);
            files[i].removed = NULL;
        }
    }
}

/* All is on the disk. */
static void note_all(void)
{
    for (int i = PART; i <= OUT2; i++) {
        if (exists(files[i].path)) note_content(i);
    }
    note_names(NULL);
}

static void lose_content(const tracked *f, fg_rng *r)
{
    uint8_t *now;
    uint64_t size;
    const uint64_t n = slurp(f->path, &now);
    if (now == NULL) abort();
    uint8_t *mix =
        mix_sectors(f->durable, f->has_content ? f->size : 0, now, n, drops_all, r, &size);
    dump(f->path, mix, size);
    free(now);
    free(mix);
}

/* A name that was changed since the last sync of its folder may be the old one. */
static void lose_rename(int from, int to, fg_rng *r)
{
    const bool there = exists(files[to].path) && !exists(files[from].path);
    if (there && !files[to].named && files[from].named && fg_rng_u64(r) % 2 == 0) {
        (void)rename(files[to].path, files[from].path);
    }
}

/* And so one that was made or unmade. */
static void lose_name(int i, fg_rng *r)
{
    const bool there = exists(files[i].path);
    if (there == files[i].named || fg_rng_u64(r) % 2 == 0) return;
    if (there) (void)unlink(files[i].path);
    if (!there && i == LOG) dump(files[i].path, files[i].removed, files[i].removed_size);
}

/* A file made in the place of a removed one may be the removed one still. */
static void lose_removal(int i, fg_rng *r)
{
    if (files[i].removed == NULL || !exists(files[i].path) || fg_rng_u64(r) % 2 == 0) return;
    (void)remove(files[i].path);
    dump(files[i].path, files[i].removed, files[i].removed_size);
}

static void power_off(void)
{
    static const int names[][2] = {{PART, OUT}, {PART1, OUT1}, {PART2, OUT2}};
    fg_rng r;
    fg_rng_init(&r, die_seed);
    n_op = -1000000; /* what follows is not the program's */
    for (int i = PART; i <= OUT2; i++) {
        /* a file that is complete was synced as a whole */
        if (i != OUT && exists(files[i].path)) lose_content(&files[i], &r);
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const int part = names[i][0], out = names[i][1];
        const bool moved = files[part].named || files[out].named;
        lose_rename(part, out, &r);
        lose_rename(out, part, &r);
        if (!moved) lose_name(part, &r);
    }
    lose_name(LOG, &r);
    lose_removal(LOG, &r);
    lose_name(LINK1, &r);
    _exit(fg_test_failed() ? 1 : DIED);
}

/* True when the call is to fail. */
static bool step(int error)
{
    n_op++;
    if (n_op == die_at) power_off();
    if (n_op != fail_at) return false;
    errno = error;
    return true;
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    if (step(ENOSPC)) return -1;
    if (n_op + 1 == die_at && n > 1) n /= 2; /* dies in the middle of it: the rest is retried */
    return (ssize_t)syscall(SYS_pwrite64, fd, p, n, at);
}

int fdatasync(int fd)
{
    if (step(EIO)) return -1;
    const int i = file_of(fd);
    if (i >= 0 && i != liar) note_content(i);
    return 0;
}

int fsync(int fd)
{
    struct stat sb;
    if (step(EIO)) return -1;
    if (fstat(fd, &sb) == 0 && S_ISDIR(sb.st_mode)) {
        note_names(&sb);
        return 0;
    }
    const int i = file_of(fd);
    if (i >= 0 && i != liar) note_content(i);
    return 0;
}

int ftruncate(int fd, off_t n)
{
    if (step(EIO)) return -1;
    return (int)syscall(SYS_ftruncate, fd, n);
}

int rename(const char *a, const char *b)
{
    if (step(EIO)) return -1;
    const int result = (int)syscall(SYS_renameat, AT_FDCWD, a, AT_FDCWD, b);
    int from = -1, to = -1;
    for (int i = 0; i < N_FILE; i++) {
        if (strcmp(files[i].path, a) == 0) from = i;
        if (strcmp(files[i].path, b) == 0) to = i;
    }
    if (result != 0 || from < 0 || to < 0) return result;
    free(files[to].durable); /* what of its content is on the disk goes with it */
    files[to].has_content = files[from].has_content;
    files[to].durable = files[from].durable;
    files[to].size = files[from].size;
    files[from].has_content = false;
    files[from].durable = NULL;
    return 0;
}

int unlink(const char *path)
{
    if (step(EIO)) return -1;
    for (int i = 0; i < N_FILE; i++) {
        if (files[i].path == NULL || strcmp(files[i].path, path) != 0) continue;
        if (i == LOG && files[i].named && files[i].removed == NULL && files[i].has_content) {
            files[i].removed = files[i].durable;
            files[i].removed_size = files[i].size;
            files[i].durable = NULL;
        }
        free(files[i].durable);
        files[i].durable = NULL;
        files[i].has_content = false;
        return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    }
    if (++n_unlink == die_at_unlink) power_off();
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int symlink(const char *to, const char *name)
{
    if (step(EIO)) return -1;
    return (int)syscall(SYS_symlinkat, to, AT_FDCWD, name);
}

int fstatvfs(int fd, struct statvfs *v)
{
    (void)fd;
    *v = (struct statvfs){.f_bavail = free_bytes, .f_frsize = 1};
    return 0;
}

#endif
