/* SPDX-License-Identifier: MIT
 *
 * The .fulgur container: what reader and writer share.  FORMAT.md beside this file is normative;
 * numbers here repeat it.
 */
#ifndef FG_SRC_FORMAT_FORMAT_H
#define FG_SRC_FORMAT_FORMAT_H

#include <stdint.h>

#include "quant/qtype.h"
#include "src/format/shape.h"

#define FG_FILE_CHUNK ((uint64_t)1 << 20) /* bytes of a checksummed chunk */

enum {
    FG_READ_VERSION = 3,
    FG_WRITE_VERSION = 2, /* of a file that is not split, which needs no more */
    FG_MAX_PART = 16,     /* files that one may be split into */
};

/* What a tensor is for.  Values are those of the file; append only. */
typedef enum fg_role {
    FG_ROLE_EMBED = 0,      /* [n_vocab][d_model] */
    FG_ROLE_LM_HEAD = 1,    /* [n_vocab][d_model] */
    FG_ROLE_FINAL_NORM = 2, /* [d_model] vector */
    FG_ROLE_ATTN_NORM = 3,  /* input_layernorm, [d_model] vector */
    FG_ROLE_MLP_NORM = 4,   /* post_attention_layernorm, [d_model] vector */
    FG_ROLE_LIGHT_QKV = 5, /* [3 * n_head * d_head][d_model], head h: rows q, k, v of d_head each */
    FG_ROLE_LIGHT_GATE = 6,   /* [n_head * d_head][d_model] */
    FG_ROLE_LIGHT_OUT = 7,    /* [d_model][n_head * d_head] */
    FG_ROLE_LIGHT_NORM = 8,   /* [n_head * d_head] vector */
    FG_ROLE_Q = 9,            /* [n_head * d_head][d_model] */
    FG_ROLE_K = 10,           /* [n_kv_head * d_head][d_model] */
    FG_ROLE_V = 11,           /* [n_kv_head * d_head][d_model] */
    FG_ROLE_O = 12,           /* [d_model][n_head * d_head] */
    FG_ROLE_ROUTER = 13,      /* [n_expert][d_model] */
    FG_ROLE_EXPERT_GATE = 14, /* w1 [d_ff][d_model] */
    FG_ROLE_EXPERT_UP = 15,   /* w3 [d_ff][d_model] */
    FG_ROLE_EXPERT_DOWN = 16, /* w2 [d_model][d_ff] */
    FG_ROLE_COUNT
} fg_role;

#define FG_NO_LAYER UINT32_MAX /* layer/expert of a tensor that belongs to none */

/* Rows and columns that `role` must have in a model of this shape (vectors: 1 row). */
void fg_role_dims(fg_role role, const fg_shape *s, uint64_t *n_row, uint64_t *n_col);

/* True for the norm weights, which are stored as plain f32 vectors. */
bool fg_role_is_vector(fg_role role);

/* Original checkpoint name, e.g. "model.layers.3.block_sparse_moe.experts.7.w1.weight", written to
 * buf (at least 96 bytes). */
void fg_role_name(fg_role role, uint32_t layer, uint32_t expert, char *buf);

/* One tensor of the directory.  Matrix: panel p starts at offset + p * panel_stride; row scales
 * (quantized types) are f32[16 * n_panel] at scale_offset.  Vector: f32[n_col] at offset. */
typedef struct fg_tensor {
    uint32_t role;         /* fg_role */
    uint32_t layer;        /* or FG_NO_LAYER */
    uint32_t expert;       /* or FG_NO_LAYER */
    uint32_t type;         /* fg_qtype; FG_TYPE_F32 for vectors */
    uint64_t n_row, n_col; /* true size, without padding */
    uint64_t offset;       /* absolute file offset, bytes; multiple of 64 */
    uint64_t panel_stride; /* bytes; 0 for vectors */
    uint64_t scale_offset; /* absolute; multiple of 64; 0 when the type has no row scales */
    fg_lut lut;            /* table of a type that has one; zeros otherwise */
    float err_rms;         /* relative RMS error of quantization, 0 for f32; NaN = not measured */
    float err_max_row;     /* the worst row's */
    float err_out; /* calibrated: the same of the outputs on the text; 0 or NaN: not measured */
    float peak;    /* largest |w| / rms of all weights; 0 or NaN: not measured */
    bool rotated;  /* stored as W R (FORMAT.md 6.2), so the input must be rotated too */
} fg_tensor;

/* True for a matrix that may be stored rotated: quantized, multiplied by int8 activations (not
 * looked up, no router), and whole blocks of 128 wide. */
bool fg_tensor_may_rotate(const fg_tensor *t);

/* Splitting a matrix by panels between NUMA nodes (FORMAT.md 7).  A page belongs to one node, so a
 * split may only fall where a panel starts on a 4 KiB page: after every fg_panel_group-th panel,
 * the smallest number of panels whose bytes (panel_stride each, > 0) are a 4 KiB multiple. */
uint64_t fg_panel_group(uint64_t panel_stride);

/* Panels [*begin, *end) of part `part` of n_part (part < n_part, group > 0): contiguous, in order,
 * together all n_panel exactly, boundaries only on multiples of group (and at n_panel), sizes equal
 * to within one group.  Parts may be empty when there are fewer groups than parts. */
void fg_panel_split(uint64_t n_panel, uint64_t group, uint32_t n_part, uint32_t part,
                    uint64_t *begin, uint64_t *end);

/* Bytes of a tensor's panels (or vector) and row scales, without padding between tensors. */
uint64_t fg_tensor_bytes(const fg_tensor *t);

/* Contiguous range read as one: the dense part of a layer or one expert. */
typedef struct fg_extent {
    uint64_t offset; /* 4 KiB multiple; a layer's dense part: 2 MiB multiple */
    uint64_t bytes;  /* 4 KiB multiple */
} fg_extent;

#endif
