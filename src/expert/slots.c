/* SPDX-License-Identifier: MIT */
#include "src/expert/slots.h"

#include <linux/mman.h>
#include <sys/mman.h>

#include "src/base/mem.h"

const char *fg_pages_name(fg_pages pages)
{
    static const char *const name[FG_PAGES_COUNT] = {
#define PAGES_NAME(id, name) [id] = name,
        FG_PAGES_MAP(PAGES_NAME)
#undef PAGES_NAME
    };
    return (uint32_t)pages < FG_PAGES_COUNT ? name[pages] : NULL;
}

/* Reserved huge pages; their address is a multiple of their size. */
static fg_status map_reserved(fg_slots *s, const char *what, fg_err *err)
{
    const uint64_t bytes = fg_round_up(s->n * s->slot_bytes + 1, FG_HUGE_PAGE_BYTES);
    void *p = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB, -1, 0);
    if (p == MAP_FAILED) {
        return fg_fail(err, FG_ENOMEM,
                       "%s: no %llu reserved huge pages of 2 MiB, expected them in "
                       "/proc/sys/vm/nr_hugepages",
                       what, (unsigned long long)(bytes / FG_HUGE_PAGE_BYTES));
    }
    s->p = s->map = p;
    s->map_bytes = bytes;
    return FG_OK;
}

static fg_status map_anonymous(fg_slots *s, fg_pages pages, const char *what, fg_err *err)
{
    const uint64_t bytes = s->n * s->slot_bytes + FG_HUGE_PAGE_BYTES;
    s->map = fg_mem_map((size_t)bytes);
    if (s->map == NULL) {
        return fg_fail(err, FG_ENOMEM, "%s: no %llu bytes, expected memory", what,
                       (unsigned long long)bytes);
    }
    s->map_bytes = bytes;
    const uintptr_t at = (uintptr_t)fg_round_up((uintptr_t)s->map, FG_HUGE_PAGE_BYTES);
    s->p = (uint8_t *)s->map + (at - (uintptr_t)s->map);
    /* refused: only slower, the reads as well: a virtual drive gave 1.4 to 3.6 GB/s into small
     * pages, 3.7 into huge ones */
    (void)madvise(s->p, (size_t)(s->n * s->slot_bytes),
                  pages == FG_PAGES_SMALL ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    return FG_OK;
}

fg_status fg_slots_init(fg_slots *s, uint64_t n, uint64_t slot_bytes, const char *what,
                        const fg_slots_opts *opts, fg_err *err)
{
    const fg_slots_opts o = opts == NULL ? (fg_slots_opts){.place = NULL} : *opts;
    uint64_t bytes;
    *s = (fg_slots){.slot_bytes = slot_bytes, .n = n};
    if (!fg_mul_u64(n, slot_bytes, &bytes) || !fg_add_u64(bytes, FG_HUGE_PAGE_BYTES, &bytes) ||
        bytes > SIZE_MAX) {
        return fg_fail_nomem(err, what);
    }
    s->bare = fg_mem_zalloc_array((size_t)n, sizeof *s->bare);
    if (s->bare == NULL) return fg_fail_nomem(err, what);
    const fg_status st =
        o.pages == FG_PAGES_TLB ? map_reserved(s, what, err) : map_anonymous(s, o.pages, what, err);
    if (st != FG_OK) {
        fg_slots_fini(s);
        return st;
    }
    if (o.place != NULL && fg_place_binds(o.place)) {
        /* a part of a reserved huge page cannot be bound */
        const uint64_t page = s->p == s->map ? FG_HUGE_PAGE_BYTES : fg_place_page();
        const fg_owned all = {0, fg_round_up(n * slot_bytes, page), o.node};
        (void)fg_place_bind(o.place, s->p, &all, 1, NULL);
    }
    /* a fork while a direct read is under way would leave one of the two without its bytes */
    (void)madvise(s->map, (size_t)s->map_bytes, MADV_DONTFORK);
    return FG_OK;
}

void fg_slots_fini(fg_slots *s)
{
    fg_mem_free(s->bare);
    fg_mem_unmap(s->map, (size_t)s->map_bytes);
    *s = (fg_slots){0};
}

/* The huge pages at its ends are shared with its neighbours.  Dropping the slot's part of them is
 * not enough: a later fault in a neighbour brings a whole huge page, and khugepaged completes what
 * is there, so that up to 2 MiB at each end (of an expert smaller than that: all of it) would come
 * back unasked and stand outside the bound.  Where huge pages are forbidden, none can cross. */
void fg_slots_discard(fg_slots *s, uint64_t i)
{
    (void)madvise(fg_slots_at(s, i), (size_t)s->slot_bytes, MADV_NOHUGEPAGE);
    (void)madvise(fg_slots_at(s, i), (size_t)s->slot_bytes, MADV_DONTNEED);
    s->bare[i] = true;
}

void fg_slots_use(fg_slots *s, uint64_t i)
{
    if (!s->bare[i]) return;
    (void)madvise(fg_slots_at(s, i), (size_t)s->slot_bytes, MADV_HUGEPAGE);
    s->bare[i] = false;
}
