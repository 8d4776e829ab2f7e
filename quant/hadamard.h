/* SPDX-License-Identifier: MIT
 *
 * The rotation of a rotated matrix (src/format/FORMAT.md 6.2).  y = W x = (W R)(R^T x) with R block
 * diagonal over blocks of 128 columns, each block D H / sqrt(128): H the Sylvester Hadamard matrix,
 * D a fixed diagonal of signs.  R mixes every 128 columns evenly, so that outliers among the
 * columns of W, or among the values of x, become a little more of everything, which quantizes
 * better.  Rows of W and vectors x are rotated by the same function, since both are multiplied by
 * R^T from the left (a row w of W as a column).
 *
 * Which rows the flag pays for is a matter of measurement (convert/choose/recipe.h); the run-time
 * half is the kernel quantize_act_rot (simd/kernels.h), which gives the bits of this function.
 */
#ifndef FG_QUANT_HADAMARD_H
#define FG_QUANT_HADAMARD_H

#include <stddef.h>

#include "quant/qtype.h"

/* The diagonal with the factor in it: D[i] * f32(1 / sqrt(128)). */
extern const float fg_hadamard_diag[FG_SB_COLS];

/* x <- R^T x in place, n a multiple of 128, no alignment.  Of each block: x[i] = x[i] * diag[i],
 * then for d = 64, 32, 16, 8, 4, 2, 1 and every pair (a, b) = (x[i], x[i + d]) with (i & d) == 0:
 * x[i] = a + b, x[i + d] = a - b.  One rounding an operation, so the bits are the same everywhere.
 * Magnitudes grow up to sqrt(128)-fold: beyond 3e37 the result may be infinite. */
void fg_hadamard_rotate(float *x, size_t n);

#endif
