/* SPDX-License-Identifier: MIT
 *
 * Units of quantization: matrices whose type is chosen together, because they share their inputs
 * and their place in the network.  A layer has four (all its experts count as one, so that a choice
 * never depends on which experts a text happened to use); embedding and head are one each.
 * Measured by src/eval/sensitivity.h, chosen by convert/choose/budget.h; the names are those of the
 * sensitivity file.
 */
#ifndef FG_SRC_MODEL_QUANT_UNIT_H
#define FG_SRC_MODEL_QUANT_UNIT_H

#include <stdbool.h>
#include <stdint.h>

#include "src/format/format.h"

typedef enum fg_quant_unit_class {
    FG_QUANT_UNIT_ATTN_IN,     /* qkv and output gate, or q, k and v */
    FG_QUANT_UNIT_ATTN_OUT,    /* output projection */
    FG_QUANT_UNIT_EXPERT_IN,   /* gate and up of all experts */
    FG_QUANT_UNIT_EXPERT_DOWN, /* down of all experts */
    FG_QUANT_UNIT_EMBED,
    FG_QUANT_UNIT_LM_HEAD,
    FG_QUANT_UNIT_CLASS_COUNT,
    FG_QUANT_UNIT_LAYER_CLASSES = FG_QUANT_UNIT_EMBED, /* those that every layer has come first */
} fg_quant_unit_class;

typedef struct fg_quant_unit {
    fg_quant_unit_class class;
    uint32_t layer; /* FG_NO_LAYER for embedding and head */
} fg_quant_unit;

/* "attn_in", "attn_out", "expert_in", "expert_down", "embed", "lm_head". */
const char *fg_quant_unit_class_name(fg_quant_unit_class c);

/* Units are numbered in the order of the forward pass: embedding, four a layer, head. */
uint32_t fg_quant_unit_count(const fg_shape *s);
fg_quant_unit fg_quant_unit_at(const fg_shape *s, uint32_t idx);

/* False for norms and routers, which are in no unit and always f32. */
bool fg_quant_unit_of(const fg_shape *s, fg_role role, uint32_t layer, uint32_t *idx);

#endif
