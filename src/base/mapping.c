/* SPDX-License-Identifier: MIT
 *
 * A table without locks, since a signal handler reads it: an entry's end is written last and taken
 * back first, and 0 means that the rest is not to be looked at.
 */
#include "src/base/mapping.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>

enum { MAX_MAPPING = 256 }; /* further ones are mapped, and nobody knows whose they are */

typedef struct entry {
    atomic_bool taken;
    atomic_uintptr_t begin, end;
    const char *path;
    fg_mapping_path_fn *fn; /* NULL: path has all */
    const void *ctx;
} entry;

static entry table[MAX_MAPPING];

static void enter(const void *p, uint64_t bytes, const char *path)
{
    for (int i = 0; i < MAX_MAPPING; i++) {
        entry *e = &table[i];
        if (atomic_exchange(&e->taken, true)) continue;
        e->path = path;
        e->fn = NULL;
        atomic_store(&e->begin, (uintptr_t)p);
        atomic_store(&e->end, (uintptr_t)p + (uintptr_t)bytes);
        return;
    }
}

static entry *entry_of(const void *address)
{
    const uintptr_t at = (uintptr_t)address;
    for (int i = 0; i < MAX_MAPPING; i++) {
        entry *e = &table[i];
        if (at < atomic_load(&e->end) && at >= atomic_load(&e->begin)) return e;
    }
    return NULL;
}

static void *map(const void *at, uint64_t bytes, int prot, int fd, uint64_t offset)
{
    void *want = (void *)(uintptr_t)at;
    const int fixed = at == NULL ? 0 : MAP_FIXED;
    void *p = mmap(want, (size_t)bytes, prot, MAP_SHARED | fixed, fd, (off_t)offset);
    if (p == MAP_FAILED && (prot & PROT_WRITE) == 0 && (errno == ENODEV || errno == EINVAL)) {
        p = mmap(want, (size_t)bytes, prot, MAP_PRIVATE | fixed, fd, (off_t)offset);
    }
    return p;
}

void *fg_mapping_open(int fd, uint64_t bytes, bool writable, const char *path)
{
    void *p = map(NULL, bytes, PROT_READ | (writable ? PROT_WRITE : 0), fd, 0);
    if (p == MAP_FAILED) return NULL;
    enter(p, bytes, path);
    return p;
}

bool fg_mapping_put(const void *at, uint64_t bytes, int fd, uint64_t offset)
{
    return map(at, bytes, PROT_READ, fd, offset) != MAP_FAILED;
}

void fg_mapping_close(const void *p, uint64_t bytes)
{
    if (p == NULL) return;
    entry *e = entry_of(p);
    if (e != NULL) {
        atomic_store(&e->end, 0);
        atomic_store(&e->taken, false);
    }
    (void)munmap((void *)(uintptr_t)p, (size_t)bytes);
}

void fg_mapping_set_path(const void *p, fg_mapping_path_fn *fn, const void *ctx)
{
    entry *e = entry_of(p);
    if (e == NULL) return;
    const uintptr_t end = atomic_exchange(&e->end, 0);
    e->ctx = ctx;
    e->fn = fn;
    atomic_store(&e->end, end);
}

const char *fg_mapping_find(const void *address)
{
    const entry *e = entry_of(address);
    if (e == NULL) return NULL;
    if (e->fn == NULL) return e->path;
    return e->fn(e->ctx, (uint64_t)((uintptr_t)address - atomic_load(&e->begin)));
}
