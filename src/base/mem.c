/* SPDX-License-Identifier: MIT */
#include "src/base/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Counters of the test hooks: relaxed atomics, one increment for each allocation. */
static atomic_ullong alloc_count;
static atomic_ullong alloc_fail_at;

static bool refuse(void)
{
    const unsigned long long k =
        atomic_fetch_add_explicit(&alloc_count, 1, memory_order_relaxed) + 1;
    const unsigned long long at = atomic_load_explicit(&alloc_fail_at, memory_order_relaxed);
    return at != 0 && k == at;
}

void fg_mem_fail_after(uint64_t n)
{
    const unsigned long long now = atomic_load_explicit(&alloc_count, memory_order_relaxed);
    atomic_store_explicit(&alloc_fail_at, n == 0 ? 0 : now + n, memory_order_relaxed);
}

uint64_t fg_mem_count(void)
{
    return atomic_load_explicit(&alloc_count, memory_order_relaxed);
}

void *fg_mem_alloc(size_t bytes)
{
    if (refuse() || bytes > SIZE_MAX - FG_CACHE_LINE) return NULL;
    const size_t rounded = (size_t)fg_round_up(bytes == 0 ? 1 : bytes, FG_CACHE_LINE);
    return aligned_alloc(FG_CACHE_LINE, rounded);
}

void *fg_mem_zalloc(size_t bytes)
{
    void *p = fg_mem_alloc(bytes);
    if (p != NULL) memset(p, 0, bytes);
    return p;
}

void *fg_mem_zalloc_array(size_t n, size_t size)
{
    uint64_t bytes;
    if (!fg_mul_u64(n, size, &bytes)) return NULL;
    return fg_mem_zalloc((size_t)bytes);
}

bool fg_mem_grow(void **p, size_t *cap, size_t want, size_t size)
{
    if (want <= *cap) return true;
    size_t next = *cap < 8 ? 8 : *cap;
    while (next < want) {
        if (next > SIZE_MAX / 2) return false;
        next *= 2;
    }
    uint64_t bytes;
    if (!fg_mul_u64(next, size, &bytes)) return false;
    void *q = fg_mem_alloc((size_t)bytes);
    if (q == NULL) return false;
    if (*cap != 0) memcpy(q, *p, *cap * size);
    fg_mem_free(*p);
    *p = q;
    *cap = next;
    return true;
}

void fg_mem_free(void *p)
{
    free(p);
}

char *fg_mem_strndup(const char *s, size_t n)
{
    char *p = fg_mem_alloc(n + 1);
    if (p == NULL) return NULL;
    memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

void *fg_mem_map(size_t bytes)
{
    if (refuse()) return NULL;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void fg_mem_unmap(void *p, size_t bytes)
{
    if (p != NULL) (void)munmap(p, bytes);
}

bool fg_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

bool fg_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}
