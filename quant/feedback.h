/* SPDX-License-Identifier: MIT
 *
 * Encoding with error feedback [GPTQ, arXiv 2210.17323, in the order-restricted form that groups of
 * 32 allow]: columns are rounded one after another, and what a column loses is made up for by the
 * columns still to come, so that the product with the inputs of the calibration text changes least:
 * the loss of a row is e H e^T with H = sum x x^T, instead of e e^T.
 */
#ifndef FG_QUANT_FEEDBACK_H
#define FG_QUANT_FEEDBACK_H

#include "quant/panel.h"

enum { FG_FEEDBACK_SAMPLES = 64 };

/* What the encoder knows of a matrix's inputs; k = 128 * fg_n_sb(n_col) columns.  Position p of the
 * rounding order is column order[p]; the 32 columns of a group are neighbours in it. */
typedef struct fg_feedback {
    const float *u;        /* [k][k] upper triangular, in rounding order: H^-1 = U^T U; NULL: no
                            * feedback, only weights */
    const uint32_t *order; /* [k] */
    const float *sample;   /* [n_sample][k] some of the inputs, to measure what the outputs lose */
    size_t n_sample;       /* <= FG_FEEDBACK_SAMPLES */
    const float *weight; /* [k], by column: 1 / U[p][p]^2 relative to the mean of its group; without
                            * U the second moments relative to their mean */
} fg_feedback;

/* Floats of scratch memory that encoding a panel of n_col columns takes. */
size_t fg_feedback_scratch(size_t n_col);

/* As fg_panel_encode for a quantized type, and fills out_err2, out_ref2 of *error.  Bits depend on
 * the kernels that the linear algebra library chooses for the CPU, not on threads. */
void fg_panel_encode_feedback(fg_qtype type, const fg_lut *lut, const float *w,
                              const fg_feedback *f, size_t n_col, uint8_t *panel, float *row_scale,
                              float *scratch, fg_panel_error *error);

#endif
