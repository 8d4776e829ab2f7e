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

/* Values are those of the file.  The list is quant/types.inc; all below is made from it. */
typedef enum fg_qtype {
#define FG_QTYPE(id, name, value, ...) FG_TYPE_##id = (value),
#include "quant/types.inc"
} fg_qtype;

/* A type and, where it has several tables with kernels of their own, which of them: what has a slot
 * of fg_kernels, a rate and a name in recipes.  The first FG_KIND_QUANTIZED are quantized. */
typedef enum fg_qkind {
#define FG_QTYPE(id, ...) FG_KIND_##id,
#define FG_QKIND(id, ...) FG_KIND_##id,
#include "quant/types.inc"
    FG_KIND_COUNT
} fg_qkind;

union fg_qtype_values { /* for its size alone; named, as C++ wants it */
#define FG_QTYPE(id, name, value, ...) char id[(value) + 1];
#include "quant/types.inc"
};

enum {
    FG_KIND_QUANTIZED = 0
#define FG_QTYPE(id, name, value, packing, n_code, ...) +((n_code) > 0)
#define FG_QKIND(id, ...)                               +1
#include "quant/types.inc"
    ,
    FG_QTYPE_COUNT = 0
#define FG_QTYPE(id, ...) +1
#include "quant/types.inc"
    ,
    FG_QTYPE_END = sizeof(union fg_qtype_values), /* largest value + 1 */
};

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

/* Where the codes lie (FORMAT.md 6).  The value is how many bits of memory a weight takes without
 * its scales; a group of a quantized type has as many lines. */
typedef enum fg_packing {
    FG_PACK_NIBBLES = 4,
    FG_PACK_NIBBLES_1 = 5, /* nibbles, then a line of the fifth bits */
    FG_PACK_NIBBLES_2 = 6, /* nibbles, then two lines of the upper two bits */
    FG_PACK_BYTES = 8,
    FG_PACK_BF16 = 16,
    FG_PACK_F32 = 32,
} fg_packing;

/* What code c of n stands for. */
typedef enum fg_value_grid {
    FG_GRID_NONE,   /* floats */
    FG_GRID_TABLE,  /* lut[c] */
    FG_GRID_OFFSET, /* c - n / 2 */
    FG_GRID_INT8,   /* the byte as int8; -128 is not used */
} fg_value_grid;

typedef struct fg_qtype_info {
    const char *name; /* "f32", "q4", ... */
    fg_qtype type;
    fg_qkind kind; /* with any table */
    fg_packing packing;
    fg_value_grid grid;
    uint32_t n_code;        /* 0: floats */
    uint32_t sb_bytes;      /* bytes of one superblock of 16 rows x 128 columns, a multiple of 64 */
    bool quantized;         /* int8 activations, group scales and row scales */
    double bits;            /* bits per weight without row scale */
    float first, last;      /* see types.inc, as the rest */
    const fg_lut *table;    /* what a matrix gets whose table is not chosen; NULL: has no table */
    uint32_t kld, kld_head; /* thousandths */
    uint32_t read_version;
} fg_qtype_info;

/* NULL when `type` is not one of the enumerators (a file may hold anything). */
const fg_qtype_info *fg_qtype_get(uint32_t type);

/* The types in the order of the list; i < FG_QTYPE_COUNT. */
const fg_qtype_info *fg_qtype_at(uint32_t i);

/* False when the name is unknown. */
bool fg_qtype_parse(const char *name, fg_qtype *out);

/* True when the codes of the type stand for entries of a table, which a tensor then carries. */
bool fg_qtype_has_table(uint32_t type);

typedef struct fg_qkind_info {
    const char *name; /* "q4", "q4lin", ... */
    const char *slot; /* field of fg_kernels, "panel_q4" */
    fg_qtype type;
    const fg_lut *lut; /* NULL: has no table */
} fg_qkind_info;
extern const fg_qkind_info fg_qkinds[FG_KIND_COUNT];

/* FG_KIND_COUNT for an unknown type, and for one that has a table when lut is NULL. */
fg_qkind fg_qkind_of(uint32_t type, const fg_lut *lut);

/* For help and errors: "q4, q5, ..." and "q4, q4lin, q5, ...". */
extern const char *const fg_qtype_names;
extern const char *const fg_qkind_names;

/* The packing alone, without a look into memory. */
static inline fg_packing fg_qtype_packing(fg_qtype type)
{
    switch (type) {
/* clang-format off */
#define FG_QTYPE(id, name, value, packing, ...) case FG_TYPE_##id: return FG_PACK_##packing;
#include "quant/types.inc"
        /* clang-format on */
    }
    return FG_PACK_F32;
}

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
/* That of the smallest and of the largest type. */
uint64_t fg_panel_bytes_least(uint64_t n_col);
uint64_t fg_panel_bytes_most(uint64_t n_col);

#endif
