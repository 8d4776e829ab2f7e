/* SPDX-License-Identifier: MIT
 *
 * Shapes of blocks that attn_*.cu and light.cu and their launches (ops_attention.c) agree on:
 * rows, columns, and bytes of dynamic shared memory.
 */
#ifndef FG_SIMD_CUDA_ATTN_SIZES_H
#define FG_SIMD_CUDA_ATTN_SIZES_H

enum {
    FG_LIGHT_WALK_COLS = 32, /* of the state, a block */
    FG_LIGHT_ONE_COLS = 64,
    FG_LIGHT_SCORES_SHARED = 65536,
    FG_LIGHT_WALK_SHARED = 81920,
    FG_LIGHT_ONE_SHARED = 82176, /* and 8 bytes an element of d */

    FG_ATTN_FAST_D = 128,    /* heads that attn_split_i8 and attn_tile_i8 are for */
    FG_ATTN_SPLIT_ROWS = 8,  /* of a block of attn_split_i8 and attn_rows_ */
    FG_ATTN_TILE_ROWS = 64,  /* of attn_tile_i8 */
    FG_ATTN_JOIN_COLS = 128, /* of a block of attn_join */
    FG_ATTN_PARTIAL = 16,    /* floats before the values of a partial result */
    FG_ATTN_TILE_SHARED = 98304,
    FG_ATTN_ROWS_SHARED = 12672, /* and 64 bytes an element of d */
};

#endif
