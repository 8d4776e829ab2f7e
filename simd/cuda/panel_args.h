/* SPDX-License-Identifier: MIT
 *
 * Parameters of the kernels of panels.cu, read by C and by the kernels.
 */
#ifndef FG_SIMD_CUDA_PANEL_ARGS_H
#define FG_SIMD_CUDA_PANEL_ARGS_H

#include "simd/cuda/ops.h"

/* One matrix of a launch. */
typedef struct fg_card_matrix {
    const uint8_t *panels;
    const float *scales;
    float *y;
    uint64_t panel_stride;
    uint32_t n_panel, y_stride;
} fg_card_matrix;

enum {
    FG_CARD_PRODUCTS = 4, /* matrices of a launch */
    FG_GEMV_WARPS = 20,   /* a block, at most */
    FG_GEMV_WARPS_Q4 = 24,
    FG_GEMV_DEPTH_Q4 = 5, /* superblocks of a warp's ring: 127 to 134 KB of all warps together */
    FG_GEMV_DEPTH_Q5 = 5,
    FG_GEMV_DEPTH_Q6 = 4,
    FG_GEMV_DEPTH_Q8 = 3,
    FG_GEMM_WARPS = 8,      /* panels of a block */
    FG_FLOAT_TOKENS = 16,   /* rows of a block, float kinds */
    FG_FLOAT_THREADS = 256, /* 16 rows of a panel times FG_FLOAT_TOKENS */
};

/* How a block of a GEMV divides its work: superblocks that are staged at a time, panels between two
 * barriers, and how many rounds of them have room: two, or one that is all. */
typedef struct fg_card_split {
    uint32_t piece, round, turns;
} fg_card_split;

typedef struct fg_gemv_args {
    fg_card_matrix m[FG_CARD_PRODUCTS];
    uint32_t n_matrix, n_panel; /* of all */
    uint32_t n_sb;
    fg_card_split split;
    const fg_act128 *x;
    uint8_t lut[16];
} fg_gemv_args;

/* Activations in the order of the tensor units, tiles of 8 rows: f of [tile][superblock][pair of
 * groups][lane][16 bytes], d of [superblock][row]; n_row: rows, with those that fill up. */
typedef struct fg_pack_args {
    const fg_act128 *x;
    uint32_t q_stride, n_tok, n_row, n_sb;
    uint8_t *f;
    float *d;
} fg_pack_args;

typedef struct fg_gemm_args {
    fg_card_matrix m[FG_CARD_PRODUCTS];
    uint32_t n_matrix, n_panel, n_sb, n_tok, n_row;
    const uint8_t *f;
    const float *d;
    uint8_t lut[16];
} fg_gemm_args;

typedef struct fg_floats_args {
    fg_card_matrix m[FG_CARD_PRODUCTS];
    uint32_t n_matrix, n_panel, n_sb, n_tok, x_stride;
    const float *x;
} fg_floats_args;

/* One or two matrices of the experts that are on the card: m has no pointers but y, of slot 0. */
enum { FG_EXPERT_GATE, FG_EXPERT_UP, FG_EXPERT_DOWN };
typedef struct fg_experts_args {
    const fg_cuda_expert *table;
    const uint32_t *sel;
    fg_card_matrix m[2];
    uint32_t part[2];
    uint32_t n_matrix, n_panel; /* of all */
    uint32_t n_sb, n_slot, n_used;
    uint32_t row_of_slot; /* 0: a slot's input is its row's, 1: a row of its own */
    fg_card_split split;
    const fg_act128 *x;
    const float *x_f;
    uint64_t x_stride; /* of what the kind takes */
    uint8_t lut[16];
} fg_experts_args;

#endif
