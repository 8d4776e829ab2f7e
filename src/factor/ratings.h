/* SPDX-License-Identifier: MIT
 *
 * Ratings as text: a line "user item rating [time]", with spaces, tabs, "::", commas or semicolons
 * between (the first of these that gives the first line enough fields), ids any text, in quotes
 * where they have such characters in them, a first line without a number as third field taken for
 * names of columns, empty lines skipped.
 */
#ifndef FG_SRC_FACTOR_RATINGS_H
#define FG_SRC_FACTOR_RATINGS_H

#include <stdbool.h>

#include "src/factor/hdi.h"

/* Texts numbered from 0 in the order in which they came.  Zero-initialise. */
typedef struct fg_id_table {
    char *text; /* ids one after the other, each ended by a NUL */
    size_t n_text, text_cap;
    uint64_t *start; /* [n] offset of each */
    size_t start_cap;
    uint32_t n;
    uint32_t *slot; /* [n_slot] 1 + id; 0: free */
    size_t n_slot;
} fg_id_table;

void fg_id_table_fini(fg_id_table *t);
const char *fg_id_text(const fg_id_table *t, uint32_t id);
/* The number of an id; adds it when it is new.  FG_ENOMEM, FG_ELIMIT. */
fg_status fg_id_add(fg_id_table *t, const char *s, size_t n, uint32_t *id, fg_err *err);
/* UINT32_MAX: not there. */
uint32_t fg_id_find(const fg_id_table *t, const char *s, size_t n);

typedef struct fg_ratings {
    fg_hdi m;
    double *time; /* [m.n], NaN where a line has none; NULL when no line has one */
    size_t time_cap;
    fg_id_table user, item;
    uint64_t n_repeat; /* lines of a pair that came again */
    bool no_time;      /* set by the caller: times are not kept */
} fg_ratings;

/* Adds the lines of a text to r, whose ids keep their numbers; `name` is for messages.  pairs:
 * lines "user item" as well, with rating 0.  Then repeats are united as `how` says; pairs keep all.
 * Errors: FG_EFORMAT with line number and reason, FG_EINVAL (repeats), FG_ENOMEM, FG_ELIMIT. */
fg_status fg_ratings_parse(fg_ratings *r, const char *text, size_t n, const char *name, bool pairs,
                           fg_hdi_repeats how, fg_err *err);
void fg_ratings_fini(fg_ratings *r);

/* The same of a file, line by line; "-" is standard input.  FG_EIO as well. */
fg_status fg_ratings_read(fg_ratings *r, const char *path, bool pairs, fg_hdi_repeats how,
                          fg_err *err);

/* Ratings that all have one value say what was met, not how it was liked: FG_EINVAL. */
fg_status fg_ratings_explicit(const fg_hdi *h, const char *name, fg_err *err);

enum { FG_RATINGS_FOLDS = 100 };

/* How entries become three parts: to train, to validate, to test. */
typedef struct fg_ratings_cut {
    double share[3]; /* each above 0 */
    uint64_t seed;
    bool by_time; /* earliest first, instead of at random */
    /* n_fold above 1, at most FG_RATINGS_FOLDS: part 2 is fold `fold` of so many, the others are
     * shared by share[0] and share[1]; each entry is in one fold of a seed.  Not by_time. */
    uint32_t n_fold, fold;
} fg_ratings_cut;

/* to: [r->m.n] the part of each entry.  FG_ENOMEM; FG_EINVAL by_time, when
 * one has no time. */
fg_status fg_ratings_deal(const fg_ratings *r, const fg_ratings_cut *cut, uint8_t *to, fg_err *err);
/* Parts with the dimensions of r->m, in its order.  take: they take r's entries, which are gone.
 * FG_ENOMEM. */
fg_status fg_ratings_parts(fg_ratings *r, const uint8_t *to, bool take, fg_hdi part[3],
                           fg_err *err);

#endif
