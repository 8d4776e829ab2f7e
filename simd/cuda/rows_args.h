/* SPDX-License-Identifier: MIT
 *
 * Parameters of the kernels of rows.cu that are not those of ops.h.
 */
#ifndef FG_SIMD_CUDA_ROWS_ARGS_H
#define FG_SIMD_CUDA_ROWS_ARGS_H

#include "simd/cuda/ops.h"

/* The row of a join or gate in shared memory; 0: in global memory, for want of room. */
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

/* Chains of a router's superblocks, [row of n][superblock][row of m], then the selection from
 * n_chain of them, or from logits (n_chain 1). */
typedef struct fg_route_args {
    fg_cuda_router r;
    uint32_t n_chain;
} fg_route_args;

enum {
    FG_ROUTE_FEW = 8,      /* rows whose router is taken by superblocks */
    FG_ROUTE_STAGE = 8192, /* chains of a row that fit into shared memory */
};

#endif
