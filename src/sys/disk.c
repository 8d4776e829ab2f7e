/* SPDX-License-Identifier: MIT */
#include "src/sys/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/base/units.h"
#include "src/sys/team.h"

enum { WRITE_BYTES = 4 << 20 };

void fg_disk_close(fg_disk *d)
{
    if (d->fd >= 0) (void)close(d->fd);
    *d = FG_DISK_INIT;
}

/* One page at the front tells: some file systems take the flag and refuse the read. */
static bool direct_reads_work(int fd)
{
    void *page = fg_mem_map(FG_PAGE_BYTES);
    const bool ok = page != NULL && pread(fd, page, FG_PAGE_BYTES, 0) == (ssize_t)FG_PAGE_BYTES;
    fg_mem_unmap(page, FG_PAGE_BYTES);
    return ok;
}

/* Opens `name` (the file itself, or its entry in /proc) past the page cache if possible. */
static fg_status open_for_reads(fg_disk *d, const char *name, fg_err *err)
{
    d->fd = fg_io_open(name, O_RDONLY | O_DIRECT | O_CLOEXEC);
    d->direct = d->fd >= 0 && direct_reads_work(d->fd);
    if (d->direct) return FG_OK;
    if (d->fd >= 0) (void)close(d->fd);
    d->fd = fg_io_open(name, O_RDONLY | O_CLOEXEC);
    if (d->fd >= 0) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: %s, expected a readable file", d->path, strerror(errno));
}

fg_status fg_disk_open(fg_disk *d, const char *path, fg_err *err)
{
    struct stat sb;
    *d = FG_DISK_INIT;
    d->path = path;
    fg_status st = open_for_reads(d, path, err);
    if (st == FG_OK && (fstat(d->fd, &sb) != 0 || !S_ISREG(sb.st_mode))) {
        st = fg_fail(err, FG_EIO, "%s: not a regular file, expected one", path);
    }
    if (st == FG_OK) d->bytes = (uint64_t)sb.st_size;
    if (st != FG_OK) fg_disk_close(d);
    return st;
}

/* Random bytes, so that a file system that compresses gains nothing; stops at the time limit. */
static fg_status fill(int fd, const char *path, uint64_t bytes, uint64_t max_ns, uint64_t *done,
                      fg_err *err)
{
    uint64_t *buf = fg_mem_alloc(WRITE_BYTES);
    if (buf == NULL) return fg_fail_nomem(err, path);
    fg_rng rng;
    fg_rng_init(&rng, 1);
    for (size_t i = 0; i < WRITE_BYTES / sizeof *buf; i++) buf[i] = fg_rng_u64(&rng);
    const uint64_t start = fg_clock_ns();
    fg_status st = FG_OK;
    for (*done = 0; st == FG_OK && *done < bytes; *done += WRITE_BYTES) {
        if (*done > 0 && fg_clock_ns() - start > max_ns) break;
        buf[0] = *done; /* no two blocks alike */
        st = fg_io_pwrite(fd, buf, WRITE_BYTES, *done, path, err);
        /* What waits in the page cache would make the sync at the end take as long as it likes. */
        if (st == FG_OK && *done / WRITE_BYTES % 16 == 15) (void)fdatasync(fd);
    }
    fg_mem_free(buf);
    return st;
}

fg_status fg_disk_open_temporary(fg_disk *d, const char *dir, uint64_t bytes, uint64_t max_ns,
                                 fg_err *err)
{
    *d = FG_DISK_INIT;
    d->path = dir;
    const uint64_t room = fg_disk_free_bytes(dir) / 4;
    if (!fg_io_is_dir(dir)) return fg_fail(err, FG_EIO, "%s: not a folder, expected one", dir);
    if (room < WRITE_BYTES) {
        return fg_fail(err, FG_ELIMIT, "%s: %s free, expected at least %s for a temporary file",
                       dir, fg_text_bytes((double)fg_disk_free_bytes(dir)).s,
                       fg_text_bytes(4.0 * WRITE_BYTES).s);
    }
    if (bytes > room) bytes = room / WRITE_BYTES * WRITE_BYTES;
    char *beside = fg_io_join(dir, "fulgur-disk"), name[64];
    int fd = -1;
    if (beside == NULL) return fg_fail_nomem(err, dir);
    fg_status st = fg_io_open_unnamed(&fd, beside, err);
    const uint64_t start = fg_clock_ns();
    if (st == FG_OK) st = fill(fd, dir, bytes, max_ns, &d->bytes, err);
    if (st == FG_OK && fsync(fd) != 0) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected a temporary file to reach the disk", dir,
                     strerror(errno));
    }
    d->seconds = (double)(fg_clock_ns() - start) * 1e-9;
    (void)snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    if (st == FG_OK) st = open_for_reads(d, name, err);
    if (fd >= 0) (void)close(fd);
    fg_mem_free(beside);
    if (st != FG_OK) fg_disk_close(d);
    return st;
}

/* ---- reading ---- */

typedef struct reads {
    const fg_disk *d;
    uint64_t block, n_block, step, start_ns, max_ns;
    uint8_t *buf;        /* [n_flight][block] */
    atomic_ullong next;  /* block to take, before scattering */
    atomic_ullong bytes; /* read so far */
    atomic_int error;    /* errno of a failed read; -1: a short one */
} reads;

static void read_blocks(fg_worker *w, void *arg)
{
    reads *r = arg;
    uint8_t *dst = r->buf + w->idx * r->block;
    do {
        const uint64_t i = atomic_fetch_add(&r->next, 1) * r->step % r->n_block;
        for (uint64_t at = 0; at < r->block;) {
            const ssize_t n =
                pread(r->d->fd, dst + at, (size_t)(r->block - at), (off_t)(i * r->block + at));
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) {
                atomic_store(&r->error, n < 0 ? errno : -1);
                return;
            }
            at += (uint64_t)n;
        }
        atomic_fetch_add(&r->bytes, r->block);
    } while (fg_clock_ns() - r->start_ns < r->max_ns && atomic_load(&r->error) == 0);
}

/* A step of about 0.38 n without a common factor visits all blocks, neighbours far apart. */
static uint64_t scatter_step(uint64_t n)
{
    uint64_t step = n * 3 / 8 + 1;
    for (;; step++) {
        uint64_t a = step, b = n;
        while (b != 0) {
            const uint64_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1) return step;
    }
}

fg_status fg_disk_read(const fg_disk *d, uint64_t block, uint32_t n_flight, uint64_t max_ns,
                       double *gbs, fg_err *err)
{
    *gbs = 0.0;
    if (block == 0 || block % FG_PAGE_BYTES != 0 || block > d->bytes || n_flight < 1 ||
        n_flight > FG_DISK_MAX_FLIGHT) {
        return fg_fail(err, FG_EINVAL,
                       "%s: blocks of %llu bytes, %u in flight, expected a multiple of 4096 up to "
                       "%llu, 1 to %d",
                       d->path, (unsigned long long)block, n_flight, (unsigned long long)d->bytes,
                       FG_DISK_MAX_FLIGHT);
    }
    reads r = {.d = d, .block = block, .n_block = d->bytes / block, .max_ns = max_ns};
    r.step = scatter_step(r.n_block);
    fg_team *team = NULL;
    uint64_t buf_bytes, map_bytes;
    if (!fg_mul_u64(block, n_flight, &buf_bytes) ||
        !fg_add_u64(buf_bytes, FG_HUGE_PAGE_BYTES, &map_bytes)) {
        return fg_fail_nomem(err, d->path);
    }
    uint8_t *map = fg_mem_map((size_t)map_bytes);
    if (map == NULL) return fg_fail_nomem(err, d->path);
    /* huge pages, as the slots that experts are read into: a direct read into small ones is cut
     * into requests of a few pages by some drives (a virtual one was at times half as fast) */
    const uintptr_t at = (uintptr_t)map;
    r.buf = map + (fg_round_up(at, FG_HUGE_PAGE_BYTES) - at);
    (void)madvise(r.buf, (size_t)buf_bytes, MADV_HUGEPAGE);
    memset(r.buf, 1, (size_t)buf_bytes); /* page faults are no part of a read */
    fg_status st = fg_team_create(&team, n_flight, false, err);
    if (st == FG_OK && fg_team_size(team) == n_flight) { /* fewer would be another figure */
        if (!d->direct) (void)posix_fadvise(d->fd, 0, 0, POSIX_FADV_DONTNEED);
        r.start_ns = fg_clock_ns();
        fg_team_run(team, read_blocks, &r);
        *gbs = (double)atomic_load(&r.bytes) / (double)(fg_clock_ns() - r.start_ns + 1);
    }
    const int error = atomic_load(&r.error);
    if (st == FG_OK && error != 0) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected to read %llu bytes", d->path,
                     error < 0 ? "end of file" : strerror(error), (unsigned long long)block);
    }
    fg_team_destroy(&team);
    fg_mem_unmap(map, (size_t)map_bytes);
    return st;
}

/* ---- what there is ---- */

uint64_t fg_disk_free_bytes(const char *path)
{
    struct statvfs v;
    if (statvfs(path, &v) != 0) return 0;
    return (uint64_t)v.f_bavail * (uint64_t)v.f_frsize;
}

bool fg_disk_has_uring(int *why)
{
    static int known = -1; /* errno; a sandbox refuses later on what works */
    if (known < 0) {
        struct io_uring_params p = {0};
        const long fd = syscall(SYS_io_uring_setup, 1, &p);
        known = fd < 0 ? errno : 0;
        if (fd >= 0) (void)close((int)fd);
    }
    *why = known;
    return known == 0;
}

/* A file of the drive's queue: beside a partition's folder, or in the drive's own. */
static bool read_queue(const struct stat *sb, const char *name, char *text, size_t size)
{
    static const char *const where[] = {"", "../"};
    char path[128];
    for (size_t i = 0; i < sizeof where / sizeof where[0]; i++) {
        (void)snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%squeue/%s", major(sb->st_dev),
                       minor(sb->st_dev), where[i], name);
        FILE *f = fopen(path, "re");
        if (f == NULL) continue;
        const bool good = fgets(text, (int)size, f) != NULL;
        (void)fclose(f);
        if (good) return true;
    }
    return false;
}

/* The drive's own name: the last folder but that of a partition. */
static bool name_drive(const struct stat *sb, char *out, size_t size)
{
    char path[128], target[512];
    (void)snprintf(path, sizeof path, "/sys/dev/block/%u:%u", major(sb->st_dev), minor(sb->st_dev));
    const ssize_t n = readlink(path, target, sizeof target - 1);
    if (n <= 0) return false;
    target[n] = '\0';
    (void)snprintf(path, sizeof path, "/sys/dev/block/%u:%u/partition", major(sb->st_dev),
                   minor(sb->st_dev));
    char *slash = strrchr(target, '/');
    if (slash != NULL && access(path, F_OK) == 0) {
        *slash = '\0';
        slash = strrchr(target, '/');
    }
    const char *name = slash == NULL ? target : slash + 1;
    const int len = snprintf(out, size, "%s", name);
    return len > 0 && (size_t)len < size;
}

bool fg_disk_describe_queue(const char *path, fg_disk_queue *q)
{
    struct stat sb;
    char text[128], moving[8];
    *q = (fg_disk_queue){{0}, {0}};
    if (stat(path, &sb) != 0 || !read_queue(&sb, "scheduler", text, sizeof text) ||
        !read_queue(&sb, "rotational", moving, sizeof moving) || moving[0] != '0') {
        return false;
    }
    const char *from = strchr(text, '['); /* none [mq-deadline] kyber */
    const size_t n = from == NULL ? 0 : strcspn(from + 1, "]");
    if (n == 0 || n >= sizeof q->scheduler || !name_drive(&sb, q->drive, sizeof q->drive)) {
        *q = (fg_disk_queue){{0}, {0}};
        return false;
    }
    memcpy(q->scheduler, from + 1, n);
    return true;
}
