/* SPDX-License-Identifier: MIT */
#include "src/model/quant_unit.h"

const char *fg_quant_unit_class_name(fg_quant_unit_class c)
{
    static const char *const name[FG_QUANT_UNIT_CLASS_COUNT] = {
        [FG_QUANT_UNIT_ATTN_IN] = "attn_in",     [FG_QUANT_UNIT_ATTN_OUT] = "attn_out",
        [FG_QUANT_UNIT_EXPERT_IN] = "expert_in", [FG_QUANT_UNIT_EXPERT_DOWN] = "expert_down",
        [FG_QUANT_UNIT_EMBED] = "embed",         [FG_QUANT_UNIT_LM_HEAD] = "lm_head",
    };
    return name[c];
}

uint32_t fg_quant_unit_count(const fg_shape *s)
{
    return 2 + FG_QUANT_UNIT_LAYER_CLASSES * s->n_layer;
}

fg_quant_unit fg_quant_unit_at(const fg_shape *s, uint32_t idx)
{
    if (idx == 0) return (fg_quant_unit){FG_QUANT_UNIT_EMBED, FG_NO_LAYER};
    if (idx + 1 == fg_quant_unit_count(s))
        return (fg_quant_unit){FG_QUANT_UNIT_LM_HEAD, FG_NO_LAYER};
    return (fg_quant_unit){(fg_quant_unit_class)((idx - 1) % FG_QUANT_UNIT_LAYER_CLASSES),
                           (idx - 1) / FG_QUANT_UNIT_LAYER_CLASSES};
}

/* FG_QUANT_UNIT_CLASS_COUNT: none. */
static fg_quant_unit_class class_of(fg_role role)
{
    switch (role) {
    case FG_ROLE_EMBED: return FG_QUANT_UNIT_EMBED;
    case FG_ROLE_LM_HEAD: return FG_QUANT_UNIT_LM_HEAD;
    case FG_ROLE_LIGHT_QKV:
    case FG_ROLE_LIGHT_GATE:
    case FG_ROLE_Q:
    case FG_ROLE_K:
    case FG_ROLE_V: return FG_QUANT_UNIT_ATTN_IN;
    case FG_ROLE_LIGHT_OUT:
    case FG_ROLE_O: return FG_QUANT_UNIT_ATTN_OUT;
    case FG_ROLE_EXPERT_GATE:
    case FG_ROLE_EXPERT_UP: return FG_QUANT_UNIT_EXPERT_IN;
    case FG_ROLE_EXPERT_DOWN: return FG_QUANT_UNIT_EXPERT_DOWN;
    default: return FG_QUANT_UNIT_CLASS_COUNT;
    }
}

bool fg_quant_unit_of(const fg_shape *s, fg_role role, uint32_t layer, uint32_t *idx)
{
    const fg_quant_unit_class c = class_of(role);
    if (c == FG_QUANT_UNIT_CLASS_COUNT) return false;
    *idx = c == FG_QUANT_UNIT_EMBED     ? 0
           : c == FG_QUANT_UNIT_LM_HEAD ? fg_quant_unit_count(s) - 1
                                        : 1 + FG_QUANT_UNIT_LAYER_CLASSES * layer + (uint32_t)c;
    return true;
}
