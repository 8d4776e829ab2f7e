/* SPDX-License-Identifier: MIT
 *
 * Parameters of the kernels of rows.cu that are not those of ops.h.
 */
#ifndef FG_SIMD_CUDA_ROWS_ARGS_H
#define FG_SIMD_CUDA_ROWS_ARGS_H

#include "simd/cuda/ops.h"

/* in_shared: bytes of shared memory for the row of a join or gate, and for what it is multiplied
 * by; 0: all of it stays in global memory, for want of room. */
typedef struct fg_join_args {
    fg_cuda_join j;
    uint32_t in_shared;
} fg_join_args;
typedef struct fg_gate_args {
    fg_cuda_gate g;
    uint32_t in_shared;
} fg_gate_args;

/* h = silu(g) * up (g NULL: h as it is), quantized; rows of experts that are not on the card are
 * left out (table NULL: none is). */
typedef struct fg_hidden_args {
    fg_cuda_hidden h;
    const fg_cuda_expert *table;
    const uint32_t *sel;
} fg_hidden_args;

/* count: [FG_ROUTE_FEW] blocks of a row that are done.  post.box NULL: nothing is posted. */
typedef struct fg_route_args {
    fg_cuda_router r;
    uint32_t *count;
    fg_cuda_post post;
} fg_route_args;

enum { FG_ROUTE_FEW = 8 }; /* rows whose router is taken by superblocks */

#endif
