/* SPDX-License-Identifier: MIT
 *
 * A weight matrix as the kernels take it.
 */
#ifndef FG_SRC_MODEL_MATRIX_H
#define FG_SRC_MODEL_MATRIX_H

#include <stdbool.h>
#include <stdint.h>

#include "quant/qtype.h"
#include "simd/kernels.h"

/* W[n_row][n_col] in 16-row panels. */
typedef struct fg_matrix {
    const uint8_t *panels; /* in the mapping of the file; where they are: src/model/weights.h */
    const float *scales;   /* [16 * n_panel], NULL for f32 and bf16; likewise */
    uint64_t tensor;       /* its number in the file */
    const fg_lut *lut;     /* NULL: the type has none */
    fg_panel_fn *panel_fn;
    fg_tiles_fn *tiles_fn; /* NULL: none of this type or level */
    uint64_t panel_stride; /* bytes from panel p to p + 1 */
    uint64_t n_row, n_col, n_panel, n_sb;
    uint64_t bytes; /* weights and scales, what one token reads */
    fg_qtype type;
    bool quantized; /* takes fg_act128 rows, else f32 rows */
    bool rotated;   /* takes fg_act128 rows of the rotated input (quant/hadamard.h) */
} fg_matrix;

#endif
