/* SPDX-License-Identifier: MIT
 *
 * Tables of exact suffixes instead of patterns: what is not listed is unknown.
 */
#include "convert/source/names.h"

#include <string.h>

#include "src/base/mem.h"

enum {
    N_GLOBAL = 3, /* embedding, head, final norm */
    N_DENSE = 7,  /* two norms, four of the attention, router */
    N_MATRIX = 3, /* of an expert */
};

typedef struct suffix {
    const char *text;
    fg_name_kind kind;
    fg_role role;
} suffix;

static const suffix layer_suffixes[] = {
    {"input_layernorm.weight", FG_NAME_ONE, FG_ROLE_ATTN_NORM},
    {"post_attention_layernorm.weight", FG_NAME_ONE, FG_ROLE_MLP_NORM},
    {"self_attn.qkv_proj.weight", FG_NAME_ONE, FG_ROLE_LIGHT_QKV},
    {"self_attn.output_gate.weight", FG_NAME_ONE, FG_ROLE_LIGHT_GATE},
    {"self_attn.out_proj.weight", FG_NAME_ONE, FG_ROLE_LIGHT_OUT},
    {"self_attn.norm.weight", FG_NAME_ONE, FG_ROLE_LIGHT_NORM},
    {"self_attn.q_proj.weight", FG_NAME_ONE, FG_ROLE_Q},
    {"self_attn.k_proj.weight", FG_NAME_ONE, FG_ROLE_K},
    {"self_attn.v_proj.weight", FG_NAME_ONE, FG_ROLE_V},
    {"self_attn.o_proj.weight", FG_NAME_ONE, FG_ROLE_O},
    {"self_attn.slope_rate", FG_NAME_SKIP, FG_ROLE_COUNT},
    {"self_attn.query_decay", FG_NAME_SKIP, FG_ROLE_COUNT},
    {"self_attn.key_decay", FG_NAME_SKIP, FG_ROLE_COUNT},
    {"self_attn.diagonal_decay", FG_NAME_SKIP, FG_ROLE_COUNT},
};

static const suffix moe_suffixes[] = {
    {"gate.weight", FG_NAME_ONE, FG_ROLE_ROUTER},
    {"experts.gate_up_proj", FG_NAME_GATE_UP, FG_ROLE_EXPERT_GATE},
    {"experts.down_proj", FG_NAME_DOWN, FG_ROLE_EXPERT_DOWN},
};

static const suffix expert_suffixes[] = {
    {"w1.weight", FG_NAME_ONE, FG_ROLE_EXPERT_GATE},
    {"w3.weight", FG_NAME_ONE, FG_ROLE_EXPERT_UP},
    {"w2.weight", FG_NAME_ONE, FG_ROLE_EXPERT_DOWN},
};

static const suffix global_names[] = {
    {"model.embed_tokens.weight", FG_NAME_ONE, FG_ROLE_EMBED},
    {"lm_head.weight", FG_NAME_ONE, FG_ROLE_LM_HEAD},
    {"model.norm.weight", FG_NAME_ONE, FG_ROLE_FINAL_NORM},
};

#define N_OF(a) (sizeof(a) / sizeof(a)[0])

static bool match(const char *s, const suffix *list, size_t n, fg_name *out)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(s, list[i].text) != 0) continue;
        out->kind = list[i].kind;
        out->role = list[i].role;
        return true;
    }
    return false;
}

static bool skip_text(const char **s, const char *prefix)
{
    const size_t n = strlen(prefix);
    if (strncmp(*s, prefix, n) != 0) return false;
    *s += n;
    return true;
}

/* Decimal number and a dot. */
static bool skip_number(const char **s, uint32_t *out)
{
    const char *p = *s;
    uint32_t v = 0;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (p - *s >= 9) return false;
        v = v * 10 + (uint32_t)(*p - '0');
    }
    if (p == *s || *p != '.' || (**s == '0' && p - *s > 1)) return false;
    *s = p + 1;
    *out = v;
    return true;
}

fg_name fg_name_parse(const char *name)
{
    const fg_name unknown = {FG_NAME_UNKNOWN, FG_ROLE_COUNT, FG_NO_LAYER, FG_NO_LAYER};
    fg_name out = unknown;
    const char *s = name;
    if (match(s, global_names, N_OF(global_names), &out)) return out;
    if (!skip_text(&s, "model.layers.") || !skip_number(&s, &out.layer)) return unknown;
    if (match(s, layer_suffixes, N_OF(layer_suffixes), &out)) return out;
    if (!skip_text(&s, "block_sparse_moe.") && !skip_text(&s, "mlp.")) return unknown;
    if (match(s, moe_suffixes, N_OF(moe_suffixes), &out)) return out;
    if (!skip_text(&s, "experts.") || !skip_number(&s, &out.expert)) return unknown;
    return match(s, expert_suffixes, N_OF(expert_suffixes), &out) ? out : unknown;
}

static uint64_t layer_weights(const fg_shape *s)
{
    return N_DENSE + (uint64_t)N_MATRIX * s->n_expert;
}

uint64_t fg_weight_count(const fg_shape *s)
{
    return N_GLOBAL + s->n_layer * layer_weights(s);
}

/* Roles of the dense weights of a layer, by attention kind. */
static const fg_role dense_roles[2][N_DENSE] = {
    {FG_ROLE_ATTN_NORM, FG_ROLE_MLP_NORM, FG_ROLE_LIGHT_QKV, FG_ROLE_LIGHT_GATE, FG_ROLE_LIGHT_OUT,
     FG_ROLE_LIGHT_NORM, FG_ROLE_ROUTER},
    {FG_ROLE_ATTN_NORM, FG_ROLE_MLP_NORM, FG_ROLE_Q, FG_ROLE_K, FG_ROLE_V, FG_ROLE_O,
     FG_ROLE_ROUTER},
};
static const fg_role global_roles[N_GLOBAL] = {FG_ROLE_EMBED, FG_ROLE_LM_HEAD, FG_ROLE_FINAL_NORM};
static const fg_role matrix_roles[N_MATRIX] = {FG_ROLE_EXPERT_GATE, FG_ROLE_EXPERT_UP,
                                               FG_ROLE_EXPERT_DOWN};

uint64_t fg_weight_index(const fg_shape *s, fg_role role, uint32_t layer, uint32_t expert)
{
    for (uint64_t i = 0; i < N_GLOBAL; i++) {
        if (global_roles[i] == role) return i;
    }
    const uint64_t base = N_GLOBAL + layer * layer_weights(s);
    for (uint64_t i = 0; i < N_MATRIX; i++) {
        if (matrix_roles[i] == role) return base + N_DENSE + N_MATRIX * (uint64_t)expert + i;
    }
    const fg_role *dense = dense_roles[s->attn[layer]];
    uint64_t i = 0;
    while (i < N_DENSE - 1 && dense[i] != role) i++;
    return base + i;
}

fg_name fg_weight_at(const fg_shape *s, uint64_t idx)
{
    if (idx < N_GLOBAL) {
        return (fg_name){FG_NAME_ONE, global_roles[idx], FG_NO_LAYER, FG_NO_LAYER};
    }
    const uint32_t layer = (uint32_t)((idx - N_GLOBAL) / layer_weights(s));
    const uint64_t i = (idx - N_GLOBAL) % layer_weights(s);
    if (i < N_DENSE) {
        return (fg_name){FG_NAME_ONE, dense_roles[s->attn[layer]][i], layer, FG_NO_LAYER};
    }
    return (fg_name){FG_NAME_ONE, matrix_roles[(i - N_DENSE) % N_MATRIX], layer,
                     (uint32_t)((i - N_DENSE) / N_MATRIX)};
}

fg_status fg_name_set_init(fg_name_set *set, const fg_shape *shape, fg_err *err)
{
    *set = (fg_name_set){.shape = shape};
    set->seen = fg_mem_zalloc_array(fg_weight_count(shape), sizeof *set->seen);
    return set->seen == NULL ? fg_fail_nomem(err, "tensor list") : FG_OK;
}

void fg_name_set_fini(fg_name_set *set)
{
    fg_mem_free(set->seen);
    *set = (fg_name_set){0};
}

static bool wrong_attention(const fg_shape *s, const fg_name *n)
{
    if (n->kind != FG_NAME_ONE) return false;
    const bool lightning = n->role >= FG_ROLE_LIGHT_QKV && n->role <= FG_ROLE_LIGHT_NORM;
    const bool softmax = n->role >= FG_ROLE_Q && n->role <= FG_ROLE_O;
    return (lightning && s->attn[n->layer] != FG_ATTN_LIGHTNING) ||
           (softmax && s->attn[n->layer] != FG_ATTN_SOFTMAX);
}

static fg_status claim_one(fg_name_set *set, fg_role role, uint32_t layer, uint32_t expert,
                           const char *name, const char *where, fg_err *err)
{
    bool *seen = &set->seen[fg_weight_index(set->shape, role, layer, expert)];
    if (*seen) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: tensor %.128s: given before under another name, expected once", where,
                       name);
    }
    *seen = true;
    return FG_OK;
}

fg_status fg_name_set_claim(fg_name_set *set, const char *name, const char *where, fg_name *out,
                            fg_err *err)
{
    const fg_shape *s = set->shape;
    *out = fg_name_parse(name);
    if (out->kind == FG_NAME_UNKNOWN) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: tensor %.128s: unknown name, expected a tensor of MiniMax-M1", where,
                       name);
    }
    if (out->layer != FG_NO_LAYER && out->layer >= s->n_layer) {
        return fg_fail(err, FG_EFORMAT, "%s: tensor %.128s: layer %u, expected below %u", where,
                       name, out->layer, s->n_layer);
    }
    if (out->expert != FG_NO_LAYER && out->expert >= s->n_expert) {
        return fg_fail(err, FG_EFORMAT, "%s: tensor %.128s: expert %u, expected below %u", where,
                       name, out->expert, s->n_expert);
    }
    if (wrong_attention(s, out)) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: tensor %.128s: attention of the other kind, expected %s attention in "
                       "layer %u",
                       where, name,
                       s->attn[out->layer] == FG_ATTN_LIGHTNING ? "lightning" : "softmax",
                       out->layer);
    }
    if (out->kind == FG_NAME_SKIP) {
        set->n_skipped++;
        return FG_OK;
    }
    if (out->kind == FG_NAME_ONE) {
        return claim_one(set, out->role, out->layer, out->expert, name, where, err);
    }
    for (uint32_t e = 0; e < s->n_expert; e++) {
        FG_TRY(claim_one(set, out->role, out->layer, e, name, where, err));
        if (out->kind == FG_NAME_DOWN) continue;
        FG_TRY(claim_one(set, FG_ROLE_EXPERT_UP, out->layer, e, name, where, err));
    }
    return FG_OK;
}

fg_status fg_name_set_complete(const fg_name_set *set, const char *where, fg_err *err)
{
    const uint64_t n = fg_weight_count(set->shape);
    uint64_t first = n, missing = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (set->seen[i]) continue;
        if (missing++ == 0) first = i;
    }
    if (missing == 0) return FG_OK;
    const fg_name f = fg_weight_at(set->shape, first);
    char name[96];
    fg_role_name(f.role, f.layer, f.expert, name);
    return fg_fail(err, FG_EFORMAT,
                   "%s: %llu tensors missing, the first %s, expected all %llu of the configuration",
                   where, (unsigned long long)missing, name, (unsigned long long)n);
}
