/* SPDX-License-Identifier: MIT
 *
 * The choice of types under a budget: which of q4, q5, q6 and q8 (those of quant/types.inc whose
 * divergence is measured) each unit (src/model/quant_unit.h) gets so
 * that the file stays within a size and the predicted KL divergence is least.
 *
 * The prediction adds up over units.  A unit's share is its divergence as `fulgur sensitivity`
 * measured it with the unit at one type, times the ratio of the wanted type to that type (budget.c
 * has the ratios and how they were measured).  The choice is greedy: from all q4, the step to a
 * better type that saves most divergence for its bytes is taken while it fits.  On the convex hulls
 * of the units' (bytes, divergence) points this is exact but for the last step: no choice within
 * the budget is better by more than what the first step that did not fit would have saved.
 */
#ifndef FG_CONVERT_CHOOSE_BUDGET_H
#define FG_CONVERT_CHOOSE_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#include "quant/qtype.h"
#include "src/base/buf.h"
#include "src/base/status.h"
#include "src/format/shape.h"

enum { FG_BUDGET_MAX_META = 64 };

/* The types of quant/types.inc whose divergence is measured, by size. */
enum {
    FG_BUDGET_TYPES = 0
#define FG_QTYPE(id, name, value, packing, n_code, grid, first, last, table, kld, ...) +((kld) > 0)
#include "quant/types.inc"
};

typedef struct fg_budget_opts {
    const char *sensitivity_path;
    double bpw; /* bits per weight of all tensors at most, as the report counts; 0: no limit */
    uint64_t file_bytes; /* at most; 0: no limit */
    uint64_t meta_bytes; /* metadata that the file will have besides the recipe, at most */
    uint32_t n_meta;     /* entries that it will have, the recipe among them, at most */
} fg_budget_opts;

/* Appends the choice as recipe text (convert/choose/recipe.h) that covers every matrix.  Errors:
 * FG_EFORMAT (the sensitivity file), FG_ESHAPE (it is of another shape), FG_ELIMIT (the budget is
 * below all q4; the message says what is needed), FG_EIO, FG_ENOMEM. */
fg_status fg_budget_choose(fg_buf *recipe, const fg_shape *s, const fg_budget_opts *opts,
                           fg_err *err);

/* ---- the choice alone, for tests ---- */

typedef struct fg_budget_point {
    uint64_t bytes; /* ascending with the type */
    double kld;
} fg_budget_point;
typedef struct fg_budget_unit {
    fg_budget_point at[FG_BUDGET_TYPES];
} fg_budget_unit;

/* Whether this choice of types (index of the point of each unit) is within the budget; must be
 * monotone: more bytes in a unit never make a choice fit. */
typedef bool fg_budget_fits_fn(void *ctx, const uint8_t *choice);

/* unit[n_unit]; choice[n_unit] begins as all 0, which must fit. */
void fg_budget_solve(const fg_budget_unit *unit, uint32_t n_unit, fg_budget_fits_fn *fits,
                     void *ctx, uint8_t *choice);

#endif
