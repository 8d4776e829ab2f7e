/* SPDX-License-Identifier: MIT
 *
 * A high-dimensional and incomplete matrix: the entries that are known, in the order in which they
 * came, and on demand an index of them by row and by column.
 */
#ifndef FG_SRC_FACTOR_HDI_H
#define FG_SRC_FACTOR_HDI_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

typedef struct fg_hdi_entry {
    uint32_t row, col;
    float value;
} fg_hdi_entry;

/* The entries of key k (a row or a column) are entry[at[i]], start[k] <= i < start[k + 1], in the
 * matrix's order. */
typedef struct fg_hdi_index {
    uint64_t *start; /* [keys + 1]; NULL: not made */
    uint64_t *at;    /* [n] */
} fg_hdi_index;

/* Zero-initialise; free with fg_hdi_fini. */
typedef struct fg_hdi {
    uint32_t n_row, n_col; /* above all rows and columns of entries; may be larger */
    uint64_t n;
    fg_hdi_entry *entry;
    size_t cap;
    fg_hdi_index by_row, by_col;
} fg_hdi;

void fg_hdi_fini(fg_hdi *h);

/* Appends one; drops the indexes.  n_row and n_col grow with it.  FG_ENOMEM; FG_EINVAL for a value
 * that is not finite; FG_ELIMIT for a row or column of 2^32 - 1. */
fg_status fg_hdi_add(fg_hdi *h, uint32_t row, uint32_t col, float value, fg_err *err);

/* Room for n entries in all, so that adding them takes no more.  FG_ENOMEM. */
fg_status fg_hdi_reserve(fg_hdi *h, uint64_t n, fg_err *err);

/* Makes both indexes, once.  FG_ENOMEM. */
fg_status fg_hdi_make_index(fg_hdi *h, fg_err *err);

/* What becomes of entries of one row and column; the place is that of the last one. */
#define FG_HDI_REPEATS_MAP(X)                                                                      \
    X(FG_HDI_LAST, "last")                                                                         \
    X(FG_HDI_MEAN, "mean")                                                                         \
    X(FG_HDI_REFUSE, "error")
typedef enum fg_hdi_repeats {
#define FG_HDI_REPEATS_ENUM(id, name) id,
    FG_HDI_REPEATS_MAP(FG_HDI_REPEATS_ENUM)
#undef FG_HDI_REPEATS_ENUM
        FG_HDI_REPEATS_COUNT
} fg_hdi_repeats;
const char *fg_hdi_repeats_name(unsigned value);

/* Leaves one entry of each row and column; *n_gone is how many went.  kept, if not NULL: [n], 1 for
 * each entry of before that stayed.  FG_ENOMEM; FG_EINVAL with FG_HDI_REFUSE when there is one. */
fg_status fg_hdi_unite(fg_hdi *h, fg_hdi_repeats how, uint64_t *n_gone, uint8_t *kept, fg_err *err);

#endif
