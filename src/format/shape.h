/* SPDX-License-Identifier: MIT
 *
 * The dimensions and constants of one MiniMax-M1 architecture instance: everything of the
 * configuration that the forward pass needs, as run-time values, so that tiny models exercise all
 * of it.  The converter fills it, the file stores it (FORMAT.md 4), the model reads it.
 */
#ifndef FG_SRC_FORMAT_SHAPE_H
#define FG_SRC_FORMAT_SHAPE_H

#include <stdint.h>

#include "src/base/status.h"

/* Limits a reader enforces; generous against the release (80, 64, 32, 6144, 9216, 200064). */
enum {
    FG_MAX_LAYER = 1024,
    FG_MAX_HEAD = 1024,
    FG_MAX_EXPERT = 1024,
    FG_MAX_USED = 64,
    FG_MAX_D_HEAD = 1024,
    FG_MAX_D = 1 << 20, /* d_model, d_ff */
    FG_MAX_VOCAB = 1 << 24,
};

typedef enum fg_attn_kind { FG_ATTN_LIGHTNING = 0, FG_ATTN_SOFTMAX = 1 } fg_attn_kind;

/* Two published formulas for the decay of a lightning head (src/model/MODEL.md 4). */
typedef enum fg_slope_form {
    FG_SLOPE_MINIMAX = 0,      /* f = 1 - l/(L-1) + 1e-5; ALiBi fallback for heads not 2^n */
    FG_SLOPE_TRANSFORMERS = 1, /* f = 1 - l/(L-1+1e-5) + 1e-5; plain formula for every head count */
} fg_slope_form;

typedef struct fg_shape {
    uint32_t n_layer;
    uint32_t d_model;   /* hidden_size, multiple of 16 */
    uint32_t n_head;    /* query heads, softmax and lightning layers alike */
    uint32_t n_kv_head; /* divides n_head */
    uint32_t d_head;    /* multiple of 16; n_head * d_head need not equal d_model */
    uint32_t d_rotary;  /* even, <= d_head */
    uint32_t n_expert;
    uint32_t n_used;    /* experts per token, <= n_expert */
    uint32_t d_ff;      /* intermediate_size of one expert, multiple of 16 */
    uint32_t n_vocab;   /* rows of embedding and lm_head */
    uint64_t n_ctx_max; /* max_position_embeddings */
    double rope_theta;
    double norm_eps;                    /* rms_norm_eps */
    double inner_norm_eps;              /* norm of the concatenated lightning heads */
    double alpha_softmax, beta_softmax; /* residual factors after each attention kind and the MoE */
    double alpha_lightning, beta_lightning;
    double alpha_mlp, beta_mlp;
    uint32_t postnorm;          /* 1: the normed input is the residual; 0: the un-normed one */
    uint32_t slope_form;        /* fg_slope_form */
    uint8_t attn[FG_MAX_LAYER]; /* fg_attn_kind of each layer */
} fg_shape;

/* Checks every limit and relation stated above; `name` is the object of the message. */
fg_status fg_shape_check(const fg_shape *s, const char *name, fg_err *err);

#endif
