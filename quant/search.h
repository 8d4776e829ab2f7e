/* SPDX-License-Identifier: MIT
 *
 * Scale search for one group of 32 weights on a grid of integer values.  Pure functions of their
 * input, with the same bits from any compiler: f32 arithmetic in a fixed order.
 */
#ifndef FG_QUANT_SEARCH_H
#define FG_QUANT_SEARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/qtype.h"

/* The values that a code can take.  A table is resolved to half-integer bins, where all the
 * midpoints between its neighbours lie; a weight on a midpoint goes to the upper value. */
typedef struct fg_grid {
    bool table;         /* false: all integers lo..hi, rounded to nearest even */
    float lo, hi;       /* smallest and largest value */
    float first, last;  /* range of |value at the extreme weight| / |lo| worth trying */
    float nearest[128]; /* table: value for u in [(i - 64) / 2, (i - 63) / 2) */
} fg_grid;

/* type: a quantized type; lut: its table, if it has one. */
void fg_grid_init(fg_grid *g, fg_qtype type, const fg_lut *lut);

/* q[i] = grid value nearest to x[i] * inv; 32 elements.  NaN goes to some grid value. */
void fg_grid_round(const fg_grid *g, const float *x, float inv, float *q);

/* Scale s (either sign) that makes sum weight (x - s * q)^2 small.  x: 32 weights whose largest
 * magnitude is `extreme` (signed, |extreme| = 1).  weight: importance of each, >= 0 and of order 1;
 * NULL: all equal. */
float fg_search_scale(const fg_grid *g, const float *x, const float *weight, float extreme);

/* The int8 scale in -127..127 near `want` for which sum weight (x - s * q)^2 is smallest. */
int fg_search_int_scale(const fg_grid *g, const float *x, const float *weight, float want);

#endif
