/* SPDX-License-Identifier: MIT
 *
 * Memory of slots: what a discarded slot gave back stays away, whatever the system does with huge
 * pages meanwhile.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/expert/slots.h"
#include "tests/fg_test.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Bytes of the region that are in memory. */
static uint64_t resident(const fg_slots *s)
{
    const size_t n = (size_t)(s->n * s->slot_bytes / FG_PAGE_BYTES);
    unsigned char *in = malloc(n);
    uint64_t sum = 0;
    if (in != NULL && mincore(s->p, n * FG_PAGE_BYTES, in) == 0) {
        for (size_t i = 0; i < n; i++) sum += in[i] & 1;
    }
    free(in);
    return sum * FG_PAGE_BYTES;
}

static void fill(const fg_slots *s, uint64_t i)
{
    memset(fg_slots_at(s, i), 7, (size_t)s->slot_bytes);
}

/* What khugepaged does in its own time. */
static void collapse(const fg_slots *s)
{
    const uint64_t end = s->n * s->slot_bytes / FG_HUGE_PAGE_BYTES;
    for (uint64_t k = 0; k < end; k++) {
        (void)madvise(s->p + k * FG_HUGE_PAGE_BYTES, FG_HUGE_PAGE_BYTES, MADV_COLLAPSE);
    }
}

/* Every second slot is discarded, the others are filled anew: bytes above those that were kept.
 * use: the discarded ones may have huge pages again, which is the control. */
static uint64_t creep(uint64_t n, uint64_t slot_bytes, bool use)
{
    fg_slots s;
    fg_err err;
    if (fg_slots_init(&s, n, slot_bytes, "slots", NULL, &err) != FG_OK) return UINT64_MAX;
    for (uint64_t i = 0; i < n; i++) fill(&s, i);
    CHECK_U64(resident(&s), n * slot_bytes);
    for (uint64_t i = 0; i < n; i += 2) fg_slots_discard(&s, i);
    CHECK_U64(resident(&s), n / 2 * slot_bytes);
    for (uint64_t i = 0; i < n && use; i += 2) fg_slots_use(&s, i);
    collapse(&s);
    const uint64_t more = resident(&s) - n / 2 * slot_bytes;
    for (uint64_t i = 0; i < n; i++) { /* zeros, and usable */
        const uint8_t *p = fg_slots_at(&s, i), want = i % 2 == 0 ? 0 : 7;
        CHECK(p[0] == want && p[slot_bytes - 1] == want);
        if (i % 2 == 0) fg_slots_use(&s, i);
        fill(&s, i);
    }
    CHECK_U64(resident(&s), n * slot_bytes);
    fg_slots_fini(&s);
    return more;
}

FG_TEST(discarded_slots_stay_away)
{
    static const struct {
        uint64_t n, bytes;
    } c[] = {{1024, 64 << 10}, {16, (5 << 20) + 4096}, {6, (86 << 20) + 40960}};
    for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
        const uint64_t control = creep(c[i].n, c[i].bytes, true);
        printf("  slots of %.2f MiB: %.2f MiB of a discarded one could come back\n",
               (double)c[i].bytes / 1048576.0, 2.0 * (double)control / (double)c[i].n / 1048576.0);
        CHECK_U64(creep(c[i].n, c[i].bytes, false), 0);
        if (control == 0) fg_test_skip("no huge pages on demand here: nothing that could fail");
    }
}

FG_TEST(slots_that_cannot_be)
{
    fg_slots s;
    fg_err err = {0};
    CHECK(fg_slots_init(&s, UINT64_MAX / 4096, 8192, "much", NULL, &err) == FG_ENOMEM);
    CHECK(strstr(err.msg, "much") != NULL);
    fg_slots_fini(&s);
    fg_slots_fini(&s);
}
