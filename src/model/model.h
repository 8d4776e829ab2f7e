/* SPDX-License-Identifier: MIT
 *
 * The network's weights as named fields: the file's directory bound to pointers, kernels chosen,
 * tables computed.  Immutable after creation; shared by all sessions.  Pointers into weights are
 * borrowed from the mapping of the model file, or from an expert store, and valid until it closes.
 */
#ifndef FG_SRC_MODEL_MODEL_H
#define FG_SRC_MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "simd/kernels.h"
#include "src/base/status.h"
#include "src/expert/store.h"
#include "src/format/reader.h"
#include "src/model/matrix.h"
#include "src/model/weights.h"

/* int8 forms of an input that the matrices after it take, those of all layers together. */
typedef struct fg_forms {
    bool plain, rotated;
} fg_forms;

/* Forms of all inputs: with the shape, all that the sizes of activations depend on. */
typedef struct fg_model_forms {
    fg_forms in;        /* of the normed input of a sub-layer or lm_head */
    fg_forms attn_out;  /* of the input of `out` */
    fg_forms expert_in; /* of the inputs of an expert's gate and up, gathered from `in` */
    fg_forms hidden;    /* of the input of `down` */
    bool tiles;         /* in the order of a tile unit, too */
} fg_model_forms;

typedef struct fg_expert {
    fg_matrix gate, up, down; /* w1 [d_ff][d_model], w3 [d_ff][d_model], w2 [d_model][d_ff] */
} fg_expert;

typedef struct fg_layer {
    fg_attn_kind kind;
    const float *attn_norm;  /* [d_model] */
    const float *mlp_norm;   /* [d_model] */
    const float *inner_norm; /* [n_head * d_head], lightning */
    fg_matrix qkv, out_gate; /* lightning */
    fg_matrix q, k, v;       /* softmax */
    fg_matrix out;           /* both */
    fg_matrix router;        /* f32 [n_expert][d_model] */
    fg_expert *experts;      /* [n_expert] */
    float *decay;            /* lightning: [n_head][FG_LIGHT_CHUNK + 1], decay[h][i] = lambda^i */
    float alpha_attn, beta_attn;
} fg_layer;

typedef struct fg_model {
    const fg_shape *shape;
    const fg_model_file *file;
    fg_weights *weights; /* where the bytes are; an expert's pointers are those of the mapping */
    fg_kernels k;
    fg_matrix embed, lm_head;
    const float *final_norm; /* [d_model] */
    fg_layer *layers;        /* [n_layer] */
    double *rope_freq;       /* [d_rotary / 2] radians per position */
    float alpha_mlp, beta_mlp;
    bool quantized; /* some matrix takes int8 activations */
    fg_model_forms forms;
    uint64_t token_bytes; /* weight bytes that one decoded token reads */
} fg_model;

/* cpu_flags: src/sys/cpu.h.  `file` is borrowed and must outlive the model. */
fg_status fg_model_create(fg_model **out, const fg_model_file *file, uint32_t cpu_flags,
                          fg_err *err);
/* The same with weights that are elsewhere than in the mapping; borrowed. */
fg_status fg_model_create_on(fg_model **out, const fg_model_file *file, const fg_home *home,
                             uint32_t cpu_flags, fg_err *err);
void fg_model_destroy(fg_model **m); /* accepts NULL */

/* Decay slope of head h in layer l (double, MODEL.md (9), (10)): lambda = exp(-slope). */
double fg_lightning_slope(const fg_shape *s, uint32_t layer, uint32_t head);

/* Row `id` of the embedding, f32[128 * n_sb] (zero-padded). */
void fg_model_embed(const fg_model *m, uint32_t id, float *x);

/* True when row `id` of lm_head is known to be all zero (quantized heads: its row scale is 0): such
 * a row was never trained and its logit of exactly 0 must not be sampled. */
bool fg_model_head_row_is_zero(const fg_model *m, uint32_t id);

#endif
