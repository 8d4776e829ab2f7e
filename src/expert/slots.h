/* SPDX-License-Identifier: MIT
 *
 * Memory for weights that are read instead of mapped: anonymous, aligned to huge pages and backed
 * by them where the system allows it, bound to a node, resident only as far as it was filled.
 */
#ifndef FG_SRC_EXPERT_SLOTS_H
#define FG_SRC_EXPERT_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/sys/place.h"

/* The kinds of pages: enumerator (src/fulgur.h says what each is), name. */
#define FG_PAGES_MAP(X)                                                                            \
    X(FG_PAGES_AUTO, "auto")                                                                       \
    X(FG_PAGES_SMALL, "small")                                                                     \
    X(FG_PAGES_HUGE, "huge")                                                                       \
    X(FG_PAGES_TLB, "hugetlb")

/* n equal slots, one behind the other without a gap.  A slot begins at a multiple of 4 KiB, not of
 * 2 MiB: the huge pages belong to the region, and nothing is lost to rounding. */
typedef struct fg_slots {
    uint8_t *p;          /* aligned to 2 MiB */
    uint64_t slot_bytes; /* multiple of 4 KiB */
    uint64_t n;
    void *map;
    uint64_t map_bytes;
    bool *bare; /* [n] discarded, and not used since */
} fg_slots;

typedef struct fg_slots_opts {
    const fg_place *place; /* NULL: bound to no node */
    uint32_t node;         /* of the placement */
    fg_pages pages;        /* FG_PAGES_TLB: slots of no use to fg_slots_discard */
} fg_slots_opts;

/* opts: NULL for memory of any node.  Where the system refuses to bind it, an audit shows where it
 * is.  FG_ENOMEM names `what`.  fg_slots_fini accepts a zeroed object. */
fg_status fg_slots_init(fg_slots *s, uint64_t n, uint64_t slot_bytes, const char *what,
                        const fg_slots_opts *opts, fg_err *err);
void fg_slots_fini(fg_slots *s);

static inline uint8_t *fg_slots_at(const fg_slots *s, uint64_t i)
{
    return s->p + i * s->slot_bytes;
}

/* Gives the slot's memory back to the system, for good: no huge page of a neighbour, made now or
 * later, reaches into it.  Its contents are zero from then on; fg_slots_use comes before the next
 * use. */
void fg_slots_discard(fg_slots *s, uint64_t i);

/* The slot may have huge pages again; costs nothing unless it was discarded. */
void fg_slots_use(fg_slots *s, uint64_t i);

#endif
