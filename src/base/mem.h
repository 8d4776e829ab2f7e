/* SPDX-License-Identifier: MIT
 *
 * Memory: aligned heap blocks, lazily backed zero pages, overflow-checked size arithmetic, and
 * fault injection for tests.  All heap memory of the library goes through here, so that a test
 * can make the n-th allocation fail for every n.
 */
#ifndef FG_SRC_BASE_MEM_H
#define FG_SRC_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

enum {
    FG_CACHE_LINE = 64,
};
#define FG_PAGE_BYTES      ((uint64_t)4096)    /* alignment unit of the file format */
#define FG_HUGE_PAGE_BYTES ((uint64_t)2 << 20) /* alignment of a layer in the file */

/* 64-byte aligned block of `bytes` (0 is allowed and gives a unique pointer); NULL when out of
 * memory.  Freed with fg_mem_free. */
void *fg_mem_alloc(size_t bytes);

/* The same, filled with zeros. */
void *fg_mem_zalloc(size_t bytes);

/* Zeroed array of n elements of `size` bytes; NULL on overflow as well. */
void *fg_mem_zalloc_array(size_t n, size_t size);

/* Grows an array of *cap elements of `size` bytes to hold at least `want`; contents kept, *p and
 * *cap updated.  False when out of memory (array unchanged). */
bool fg_mem_grow(void **p, size_t *cap, size_t want, size_t size);

/* Accepts NULL. */
void fg_mem_free(void *p);

/* NUL-terminated copy of the n bytes at s; NULL when out of memory. */
char *fg_mem_strndup(const char *s, size_t n);

/* Private anonymous mapping of `bytes` (> 0), zero on first touch, so that the worker which
 * touches a page first owns it.  NULL on failure.  Freed with fg_mem_unmap(p, bytes). */
void *fg_mem_map(size_t bytes);
void fg_mem_unmap(void *p, size_t bytes);

/* Checked arithmetic: false on overflow, *out then unspecified. */
bool fg_mul_u64(uint64_t a, uint64_t b, uint64_t *out);
bool fg_add_u64(uint64_t a, uint64_t b, uint64_t *out);

/* x rounded up to a multiple of `to` (a power of two is not required, to > 0). Caller ensures
 * that x + to does not overflow. */
static inline uint64_t fg_round_up(uint64_t x, uint64_t to)
{
    return (x + to - 1) / to * to;
}

/* Test hook: the n-th allocation from now on (1-based) returns NULL; 0 switches off. */
void fg_mem_fail_after(uint64_t n);

/* Test hook: number of allocations made since the process started. */
uint64_t fg_mem_count(void);

#endif
