/* SPDX-License-Identifier: MIT
 *
 * Names of a checkpoint's tensors -> role, layer and expert, and the book-keeping that every
 * tensor of the model is given exactly once.
 *
 * Three spellings occur: the release's `block_sparse_moe.experts.E.w1.weight`, the same under
 * `mlp.`, and the fused transformers tensors `mlp.experts.gate_up_proj` [E][2I][H] (rows of w1,
 * then rows of w3) and `mlp.experts.down_proj` [E][H][I].  Four decay buffers that transformers
 * saves are skipped, since the decay is computed here.  Any other name is an error: an unknown
 * tensor means an architecture that we would run wrongly.
 */
#ifndef FG_CONVERT_SOURCE_NAMES_H
#define FG_CONVERT_SOURCE_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/format/format.h"

typedef enum fg_name_kind {
    FG_NAME_UNKNOWN,
    FG_NAME_ONE,     /* one matrix or vector: role, layer, expert */
    FG_NAME_GATE_UP, /* fused gate and up of all experts of `layer` */
    FG_NAME_DOWN,    /* fused down of all experts of `layer` */
    FG_NAME_SKIP,    /* a buffer that is not needed; `layer` is set */
} fg_name_kind;

typedef struct fg_name {
    fg_name_kind kind;
    fg_role role;
    uint32_t layer, expert; /* FG_NO_LAYER where the tensor has none */
} fg_name;

/* Syntax only; numbers are decimal without leading zeros. */
fg_name fg_name_parse(const char *name);

/* Dense numbering of the model's weights: 3 global ones, then 7 + 3 * n_expert a layer. */
uint64_t fg_weight_count(const fg_shape *s);
/* Role, layer and expert must exist in the shape. */
uint64_t fg_weight_index(const fg_shape *s, fg_role role, uint32_t layer, uint32_t expert);
/* Inverse. */
fg_name fg_weight_at(const fg_shape *s, uint64_t idx);

/* Which tensors were seen.  Zero-initialise; free with fg_name_set_fini. */
typedef struct fg_name_set {
    const fg_shape *shape; /* borrowed */
    bool *seen;            /* [fg_weight_count] */
    uint64_t n_skipped;    /* buffers */
} fg_name_set;

fg_status fg_name_set_init(fg_name_set *set, const fg_shape *shape, fg_err *err);
void fg_name_set_fini(fg_name_set *set);

/* Claims what belongs to `name` (all experts for a fused tensor) and tells what it is in *out.
 * FG_EFORMAT: unknown name, layer or expert out of range, a tensor of the other attention kind, or
 * a weight claimed before.  `where` is the file, for the message. */
fg_status fg_name_set_claim(fg_name_set *set, const char *name, const char *where, fg_name *out,
                            fg_err *err);

/* FG_EFORMAT when a weight was never claimed: names the first and their number. */
fg_status fg_name_set_complete(const fg_name_set *set, const char *where, fg_err *err);

#endif
