/* SPDX-License-Identifier: MIT
 *
 * What a file may hold after power was lost, for the disks of tests (crash_disk.h, lossy_disk.h).
 */
#ifndef FG_TESTS_SECTORS_H
#define FG_TESTS_SECTORS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"

enum { SECTOR = 512 };

/* Of a file that was was[n_was] at its last sync and is now[n]: a size between both, and sectors
 * that are old, new or, but for the first, neither.  `drops_all`: what it was.  For free(). */
static inline uint8_t *mix_sectors(const uint8_t *was, uint64_t n_was, const uint8_t *now,
                                   uint64_t n, bool drops_all, fg_rng *r, uint64_t *size)
{
    const uint64_t most = n > n_was ? n : n_was, least = n < n_was ? n : n_was;
    *size = least + (most == least ? 0 : fg_rng_u64(r) % (most - least + 1));
    if (drops_all) *size = n_was;
    uint8_t *mix = calloc(1, (size_t)most + 1);
    if (mix == NULL) abort();
    for (uint64_t at = 0; at < most; at += SECTOR) {
        const uint64_t m = most - at < SECTOR ? most - at : SECTOR;
        uint8_t a[SECTOR] = {0}, b[SECTOR] = {0};
        if (at < n_was) memcpy(a, was + at, n_was - at < m ? n_was - at : m);
        if (at < n) memcpy(b, now + at, n - at < m ? n - at : m);
        const uint64_t pick = drops_all ? 0 : fg_rng_u64(r) % (at == 0 ? 4 : 5);
        const bool same = memcmp(a, b, m) == 0;
        memcpy(mix + at, pick < 2 ? a : b, m);
        for (uint64_t k = 0; !same && pick == 4 && k < m; k++) mix[at + k] = (uint8_t)fg_rng_u64(r);
    }
    return mix;
}

#endif
