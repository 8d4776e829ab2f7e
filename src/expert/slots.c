/* SPDX-License-Identifier: MIT */
#include "src/expert/slots.h"

#include <sys/mman.h>

#include "src/base/mem.h"

fg_status fg_slots_init(fg_slots *s, uint64_t n, uint64_t slot_bytes, const char *what, fg_err *err)
{
    uint64_t bytes;
    *s = (fg_slots){.slot_bytes = slot_bytes, .n = n};
    if (!fg_mul_u64(n, slot_bytes, &bytes) || !fg_add_u64(bytes, FG_HUGE_PAGE_BYTES, &bytes) ||
        bytes > SIZE_MAX) {
        return fg_fail_nomem(err, what);
    }
    s->map = fg_mem_map((size_t)bytes);
    if (s->map == NULL) {
        return fg_fail(err, FG_ENOMEM, "%s: no %llu bytes, expected memory", what,
                       (unsigned long long)bytes);
    }
    s->map_bytes = bytes;
    const uintptr_t at = (uintptr_t)fg_round_up((uintptr_t)s->map, FG_HUGE_PAGE_BYTES);
    s->p = (uint8_t *)s->map + (at - (uintptr_t)s->map);
    (void)madvise(s->p, (size_t)(n * slot_bytes), MADV_HUGEPAGE); /* refused: only slower */
    /* a fork while a direct read is under way would leave one of the two without its bytes */
    (void)madvise(s->map, (size_t)bytes, MADV_DONTFORK);
    return FG_OK;
}

void fg_slots_fini(fg_slots *s)
{
    fg_mem_unmap(s->map, (size_t)s->map_bytes);
    *s = (fg_slots){0};
}

void fg_slots_discard(const fg_slots *s, uint64_t i)
{
    (void)madvise(fg_slots_at(s, i), (size_t)s->slot_bytes, MADV_DONTNEED);
}
