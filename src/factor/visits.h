/* SPDX-License-Identifier: MIT
 *
 * The order of visits.  Rows and columns are dealt into as many strips, entries into the blocks
 * between them.  An epoch has a round for each strip; the blocks of a round share no row and no
 * column, so that they may be learned at once, by any number of threads, with the same result.
 * Inside a block entries stand in random order, in groups of eight that can be learned together.
 * How many strips there are, and the order, depend on the matrix alone, not on the order in which
 * its entries came.
 */
#ifndef FG_SRC_FACTOR_VISITS_H
#define FG_SRC_FACTOR_VISITS_H

#include "simd/factor_job.h"
#include "src/factor/hdi.h"

enum { FG_VISITS_MAX = 32 };

typedef struct fg_visits {
    uint32_t n_strip;
    uint64_t n_group;
    fg_factor_group *group; /* [n_group] */
    size_t cap;
    uint64_t start[FG_VISITS_MAX * FG_VISITS_MAX + 1]; /* of block [round][row strip] */
} fg_visits;

/* file_order: one block, entries as they stand in h, a group ends where a row or column comes
 * again.  h may be freed after.  FG_ENOMEM. */
fg_status fg_visits_make(fg_visits *g, const fg_hdi *h, uint64_t seed, bool file_order,
                         fg_err *err);
/* The same from h's own memory, if it has room for a few entries more than it has; h is empty
 * after. */
fg_status fg_visits_take(fg_visits *g, fg_hdi *h, uint64_t seed, bool file_order, fg_err *err);
void fg_visits_fini(fg_visits *g);

/* Entries in file order for predictions, where rows and columns may repeat in a group. */
fg_status fg_visits_list(fg_visits *g, const fg_hdi *h, fg_err *err);

#endif
