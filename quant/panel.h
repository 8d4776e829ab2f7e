/* SPDX-License-Identifier: MIT
 *
 * One panel: 16 rows to stored bytes and back.  Scalar, the definition of what the bytes mean
 * (FORMAT.md 6); the SIMD kernels are tested against it.
 */
#ifndef FG_QUANT_PANEL_H
#define FG_QUANT_PANEL_H

#include <stddef.h>
#include <stdint.h>

#include "quant/qtype.h"

/* Squared error of a panel, for the evidence in the directory. */
typedef struct fg_panel_error {
    double err2[FG_PANEL_ROWS]; /* sum over columns of (w - stored)^2, per row */
    double ref2[FG_PANEL_ROWS]; /* sum of w^2 */
    float top[FG_PANEL_ROWS];   /* largest |w| */
    double out_err2, out_ref2;  /* calibrated: the same of the outputs W x, sums over rows and
                                    * sample inputs; else 0 */
} fg_panel_error;

/* w: [16][k] row-major with k = 128 * fg_n_sb(n_col), finite, padding rows and columns zero.
 * Writes fg_panel_bytes(type, n_col) bytes to panel, and row_scale[16] for quantized types.
 * lut: table of a type that has one, else ignored.  error may be NULL.  A function of its input. */
void fg_panel_encode(fg_qtype type, const fg_lut *lut, const float *w, size_t n_col, uint8_t *panel,
                     float *row_scale, fg_panel_error *error);

/* The same, minimising sum weight[c] (w - stored)^2: weight[k], >= 0 and of order 1, is how much an
 * error in column c matters (E[x_c^2] of the matrix's input).  NULL: all equal. */
void fg_panel_encode_weighted(fg_qtype type, const fg_lut *lut, const float *w, const float *weight,
                              size_t n_col, uint8_t *panel, float *row_scale,
                              fg_panel_error *error);

/* Above this row scale a decoded value s * v * row_scale (|s| <= 127, |v| <= 128) could overflow;
 * only rows beyond 2e37 meet it, and lose their largest values. */
#define FG_ROW_SCALE_MAX (3.4028234663852886e38 / (127.0 * 128.0 * 1.0001))

/* Element i of a panel of floats, in the order [column][16 rows]. */
void fg_panel_put_float(fg_qtype type, uint8_t *panel, size_t i, float x);

/* Smallest magnitude, as the bits of an f32, that the type cannot hold. */
uint32_t fg_panel_first_refused(fg_qtype type);

/* What an encoded panel lost of w[16][k]. */
void fg_panel_measure(fg_qtype type, const fg_lut *lut, uint8_t *panel, const float *row_scale,
                      const float *w, size_t n_col, fg_panel_error *error);

/* Inverse: fills w[16][k].  row_scale is ignored for f32 and bf16. */
void fg_panel_decode(fg_qtype type, const fg_lut *lut, const uint8_t *panel, const float *row_scale,
                     size_t n_col, float *w);

/* The same for row r (0..15) alone: fills w[k]; equal bits. */
void fg_panel_decode_row(fg_qtype type, const fg_lut *lut, const uint8_t *panel,
                         const float *row_scale, size_t n_col, size_t r, float *w);

#endif
