/* SPDX-License-Identifier: MIT
 *
 * Weight types and the P16x4 panel geometry (src/format/FORMAT.md 6).
 *
 * A matrix W[n_row][n_col] is stored as ceil(n_row/16) panels of 16 rows; a panel is
 * ceil(n_col/128) superblocks of 128 columns.  Padding rows and columns hold weight zero.
 * Every type, f32 included, uses this geometry, so that one loop serves them all.
 */
#ifndef FG_QUANT_QTYPE_H
#define FG_QUANT_QTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FG_PANEL_ROWS = 16, /* rows of a panel */
    FG_SB_COLS = 128,   /* columns of a superblock, and of an activation block */
    FG_GROUP_COLS = 32, /* columns that share one int8 scale */
    FG_SB_GROUPS = FG_SB_COLS / FG_GROUP_COLS,
};

/* Values are those of the file; append only. */
typedef enum fg_qtype {
    FG_TYPE_F32 = 0,
    FG_TYPE_BF16 = 1,
    FG_TYPE_Q4 = 4, /* 4-bit codes into a table of 16 int8 values (fg_lut) */
    FG_TYPE_Q5 = 5, /* value = code - 16 */
    FG_TYPE_Q6 = 6, /* value = code - 32 */
    FG_TYPE_Q8 = 8, /* value = int8, -127..127 */
} fg_qtype;

typedef struct fg_qtype_info {
    const char *name;  /* "f32", "q4", ... */
    uint32_t sb_bytes; /* bytes of one superblock of 16 rows x 128 columns, a multiple of 64 */
    bool quantized;    /* int8 activations, group scales and row scales */
    double bits;       /* bits per weight without row scale */
} fg_qtype_info;

/* NULL when `type` is not one of the enumerators (a file may hold anything). */
const fg_qtype_info *fg_qtype_get(uint32_t type);

/* False when the name is unknown. */
bool fg_qtype_parse(const char *name, fg_qtype *out);

/* Table of q4: value of each code.  `linear` is code - 8; `grid6` is the fixed codebook on a 6-bit
 * grid (simd/KERNELS.md: +0.8 dB on Gaussian to +1.7 dB on heavy-tailed rows).  Every table
 * lies within -32..31, so that value + 32 fits the u8 x s8 instructions, and holds a zero. */
typedef struct fg_lut {
    int8_t v[16];
} fg_lut;
extern const fg_lut fg_lut_linear;
extern const fg_lut fg_lut_grid6;
bool fg_lut_is_linear(const fg_lut *lut);
bool fg_lut_is_valid(const fg_lut *lut); /* range -32..31 and increasing */

/* n_row, n_col in elements; no overflow for values below 2^40 each. */
static inline uint64_t fg_n_panel(uint64_t n_row)
{
    return (n_row + FG_PANEL_ROWS - 1) / FG_PANEL_ROWS;
}
static inline uint64_t fg_n_sb(uint64_t n_col)
{
    return (n_col + FG_SB_COLS - 1) / FG_SB_COLS;
}
/* Bytes of one panel of n_col columns. */
uint64_t fg_panel_bytes(fg_qtype type, uint64_t n_col);

#endif
