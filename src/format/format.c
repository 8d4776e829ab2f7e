/* SPDX-License-Identifier: MIT
 *
 * Facts about roles and panels that reader, writer and model share: one table instead of a switch
 * in each of them.  Names are those of the published checkpoint, so that every message and every
 * listing speaks the language of the model's index file; the container itself stores no names.
 */
#include "src/format/format.h"

#include <assert.h>
#include <stdio.h>

#include "src/base/mem.h"

enum {
    NAME_BYTES = 96, /* the caller's buffer */
};

static const char *const stems[FG_ROLE_COUNT] = {
    [FG_ROLE_EMBED] = "model.embed_tokens.weight",
    [FG_ROLE_LM_HEAD] = "lm_head.weight",
    [FG_ROLE_FINAL_NORM] = "model.norm.weight",
    [FG_ROLE_ATTN_NORM] = "input_layernorm.weight",
    [FG_ROLE_MLP_NORM] = "post_attention_layernorm.weight",
    [FG_ROLE_LIGHT_QKV] = "self_attn.qkv_proj.weight",
    [FG_ROLE_LIGHT_GATE] = "self_attn.output_gate.weight",
    [FG_ROLE_LIGHT_OUT] = "self_attn.out_proj.weight",
    [FG_ROLE_LIGHT_NORM] = "self_attn.norm.weight",
    [FG_ROLE_Q] = "self_attn.q_proj.weight",
    [FG_ROLE_K] = "self_attn.k_proj.weight",
    [FG_ROLE_V] = "self_attn.v_proj.weight",
    [FG_ROLE_O] = "self_attn.o_proj.weight",
    [FG_ROLE_ROUTER] = "block_sparse_moe.gate.weight",
    [FG_ROLE_EXPERT_GATE] = "w1.weight",
    [FG_ROLE_EXPERT_UP] = "w3.weight",
    [FG_ROLE_EXPERT_DOWN] = "w2.weight",
};

bool fg_tensor_may_rotate(const fg_tensor *t)
{
    const fg_qtype_info *type = fg_qtype_get(t->type);
    return type != NULL && type->quantized && t->role != FG_ROLE_EMBED &&
           t->role != FG_ROLE_ROUTER && !fg_role_is_vector((fg_role)t->role) &&
           t->n_col % FG_SB_COLS == 0;
}

void fg_role_dims(fg_role role, const fg_shape *s, uint64_t *n_row, uint64_t *n_col)
{
    const uint64_t d = s->d_model, heads = (uint64_t)s->n_head * s->d_head,
                   kv = (uint64_t)s->n_kv_head * s->d_head;
    uint64_t r = 1, c = d;
    switch (role) {
    case FG_ROLE_EMBED:
    case FG_ROLE_LM_HEAD: r = s->n_vocab; break;
    case FG_ROLE_FINAL_NORM:
    case FG_ROLE_ATTN_NORM:
    case FG_ROLE_MLP_NORM: break;
    case FG_ROLE_LIGHT_QKV: r = 3 * heads; break;
    case FG_ROLE_LIGHT_NORM: c = heads; break;
    case FG_ROLE_LIGHT_GATE:
    case FG_ROLE_Q: r = heads; break;
    case FG_ROLE_K:
    case FG_ROLE_V: r = kv; break;
    case FG_ROLE_LIGHT_OUT:
    case FG_ROLE_O: r = d, c = heads; break;
    case FG_ROLE_ROUTER: r = s->n_expert; break;
    case FG_ROLE_EXPERT_GATE:
    case FG_ROLE_EXPERT_UP: r = s->d_ff; break;
    case FG_ROLE_EXPERT_DOWN: r = d, c = s->d_ff; break;
    case FG_ROLE_COUNT: assert(false); break;
    }
    *n_row = r;
    *n_col = c;
}

bool fg_role_is_vector(fg_role role)
{
    return role == FG_ROLE_FINAL_NORM || role == FG_ROLE_ATTN_NORM || role == FG_ROLE_MLP_NORM ||
           role == FG_ROLE_LIGHT_NORM;
}

void fg_role_name(fg_role role, uint32_t layer, uint32_t expert, char *buf)
{
    if ((uint32_t)role >= FG_ROLE_COUNT) {
        (void)snprintf(buf, NAME_BYTES, "role %u", (unsigned)role);
    } else if (role <= FG_ROLE_FINAL_NORM) {
        (void)snprintf(buf, NAME_BYTES, "%s", stems[role]);
    } else if (role < FG_ROLE_EXPERT_GATE) {
        (void)snprintf(buf, NAME_BYTES, "model.layers.%u.%s", layer, stems[role]);
    } else {
        (void)snprintf(buf, NAME_BYTES, "model.layers.%u.block_sparse_moe.experts.%u.%s", layer,
                       expert, stems[role]);
    }
}

uint64_t fg_panel_group(uint64_t panel_stride)
{
    /* 4096 / gcd(panel_stride, 4096): a power of two divides by its lowest set bit */
    const uint64_t low = panel_stride & (~panel_stride + 1);
    return low >= FG_PAGE_BYTES ? 1 : FG_PAGE_BYTES / low;
}

void fg_panel_split(uint64_t n_panel, uint64_t group, uint32_t n_part, uint32_t part,
                    uint64_t *begin, uint64_t *end)
{
    assert(group > 0 && part < n_part);
    const uint64_t n_group = n_panel / group + (n_panel % group != 0);
    const uint64_t share = n_group / n_part,
                   extra = n_group % n_part; /* first parts get one more */
    const uint64_t b = share * part + (part < extra ? part : extra);
    const uint64_t e = b + share + (part < extra);
    *begin = b >= n_group ? n_panel : b * group;
    *end = e >= n_group ? n_panel : e * group;
}

uint64_t fg_tensor_bytes(const fg_tensor *t)
{
    if (fg_role_is_vector((fg_role)t->role)) return t->n_col * sizeof(float);
    const uint64_t n_panel = fg_n_panel(t->n_row);
    const uint64_t scales = t->scale_offset == 0 ? 0 : n_panel * FG_PANEL_ROWS * sizeof(float);
    return n_panel * fg_panel_bytes((fg_qtype)t->type, t->n_col) + scales;
}
