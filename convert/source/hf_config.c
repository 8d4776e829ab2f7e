/* SPDX-License-Identifier: MIT
 *
 * Keys are read by name with typed getters that fail on absence and on a wrong type alike; ranges
 * and relations between fields are left to fg_shape_check, which every loader of a shape shares.
 */
#include "convert/source/hf_config.h"

#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/base/mistaken.h"

/* Tens of keys in practice; the duplicate check below is quadratic. */
enum {
    MAX_KEYS = 1024,
};

#define MAX_CONFIG_BYTES ((uint64_t)1 << 20)

typedef struct config {
    const fg_json *root;
    const char *name;
    bool hf; /* transformers dialect */
} config;

static fg_status fail_missing(const config *c, const char *key, const char *wanted, fg_err *err)
{
    return fg_fail(err, FG_EFORMAT, "%s: key %s missing, expected %s", c->name, key, wanted);
}

static fg_status fail_type(const config *c, const char *key, const fg_json *got, const char *wanted,
                           fg_err *err)
{
    char shown[FG_JSON_SHOWN];
    return fg_fail(err, FG_EFORMAT, "%s: %s = %s, expected %s", c->name, key,
                   fg_json_show(got, shown), wanted);
}

static fg_status fail_setting(const config *c, const char *key, const fg_json *got,
                              const char *wanted, fg_err *err)
{
    char shown[FG_JSON_SHOWN];
    return fg_fail(err, FG_ENOTSUP, "%s: %s = %s, expected %s; this setting is not supported",
                   c->name, key, fg_json_show(got, shown), wanted);
}

/* Present and not null. */
static const fg_json *get_set(const config *c, const char *key)
{
    const fg_json *v = fg_json_get(c->root, key);
    return fg_json_is_null(v) ? NULL : v;
}

static fg_status need_u64(const config *c, const char *key, uint64_t max, uint64_t *out,
                          fg_err *err)
{
    const fg_json *v = fg_json_get(c->root, key);
    if (v == NULL) return fail_missing(c, key, "an integer", err);
    if (!fg_json_u64(v, out)) return fail_type(c, key, v, "a non-negative integer", err);
    if (*out > max) {
        return fg_fail(err, FG_ESHAPE, "%s: %s = %llu, expected at most %llu", c->name, key,
                       (unsigned long long)*out, (unsigned long long)max);
    }
    return FG_OK;
}

static fg_status need_u32(const config *c, const char *key, uint32_t max, uint32_t *out,
                          fg_err *err)
{
    uint64_t v = 0;
    FG_TRY(need_u64(c, key, max, &v, err));
    *out = (uint32_t)v;
    return FG_OK;
}

static fg_status need_f64(const config *c, const char *key, double *out, fg_err *err)
{
    const fg_json *v = fg_json_get(c->root, key);
    if (v == NULL) return fail_missing(c, key, "a number", err);
    if (!fg_json_f64(v, out)) return fail_type(c, key, v, "a finite number", err);
    return FG_OK;
}

/* A number with one name in each dialect. */
static fg_status need_factor(const config *c, const char *own, const char *hf, double *out,
                             fg_err *err)
{
    const bool has_own = fg_json_get(c->root, own) != NULL;
    const bool has_hf = fg_json_get(c->root, hf) != NULL;
    if (!has_own && !has_hf) return fail_missing(c, c->hf ? hf : own, "a number", err);
    double a = 0, b = 0;
    if (has_own) FG_TRY(need_f64(c, own, &a, err));
    if (has_hf) FG_TRY(need_f64(c, hf, &b, err));
    if (has_own && has_hf && !(a == b)) {
        return fg_fail(err, FG_EFORMAT, "%s: %s = %g, expected %g as in %s", c->name, hf, b, a,
                       own);
    }
    *out = has_own ? a : b;
    return FG_OK;
}

/* False or absent (or null), else refused. */
static fg_status must_be_false(const config *c, const char *key, fg_err *err)
{
    const fg_json *v = get_set(c, key);
    bool on = false;
    if (v == NULL) return FG_OK;
    if (!fg_json_bool(v, &on)) return fail_type(c, key, v, "false", err);
    return on ? fail_setting(c, key, v, "false", err) : FG_OK;
}

static bool one_of(const char *s, const char *const *list)
{
    for (; *list != NULL; list++) {
        if (strcmp(s, *list) == 0) return true;
    }
    return false;
}

static const char *const own_names[] = {"MiniMaxM1ForCausalLM",
                                        "MiniMaxText01ForCausalLM",
                                        "minimax_m1",
                                        "MiniMaxM1",
                                        "minimax_text_01",
                                        "MiniMaxText01",
                                        NULL};
static const char *const hf_names[] = {"MiniMaxForCausalLM", "minimax", NULL};

/* Decides the dialect for one name; *seen collects what was found so far. */
static fg_status classify(config *c, const char *key, const char *value, bool *seen, fg_err *err)
{
    const bool own = one_of(value, own_names), hf = one_of(value, hf_names);
    if (strstr(value, "M2") != NULL || strstr(value, "_m2") != NULL) {
        return fg_fail(err, FG_ENOTSUP, "%s: %s is \"%.64s\" (MiniMax-M2), expected MiniMax-M1",
                       c->name, key, value);
    }
    if (strstr(value, "VL") != NULL || strstr(value, "_vl") != NULL) {
        return fg_fail(err, FG_ENOTSUP, "%s: %s is \"%.64s\" (a vision model), expected MiniMax-M1",
                       c->name, key, value);
    }
    if (!own && !hf) {
        return fg_fail(err, FG_ENOTSUP,
                       "%s: %s is \"%.64s\", expected MiniMaxM1ForCausalLM or MiniMaxForCausalLM",
                       c->name, key, value);
    }
    if (*seen && c->hf != hf) {
        return fg_fail(err, FG_EFORMAT, "%s: %s is \"%.64s\", expected one that fits architectures",
                       c->name, key, value);
    }
    c->hf = hf;
    *seen = true;
    return FG_OK;
}

static fg_status parse_dialect(config *c, fg_err *err)
{
    const fg_json *list = get_set(c, "architectures"), *type = get_set(c, "model_type");
    const char *s = NULL;
    bool seen = false;
    if (list != NULL) {
        if (!fg_json_is_array(list) || fg_json_size(list) != 1 ||
            !fg_json_str(fg_json_first(list), &s)) {
            return fail_type(c, "architectures", list, "a list of one name", err);
        }
        FG_TRY(classify(c, "architectures", s, &seen, err));
    }
    if (type != NULL) {
        if (!fg_json_str(type, &s)) return fail_type(c, "model_type", type, "a string", err);
        FG_TRY(classify(c, "model_type", s, &seen, err));
    }
    return seen ? FG_OK : fail_missing(c, "architectures", "a list of one name", err);
}

/* Settings that would change the computation.  Early M2 configurations call themselves "minimax";
 * their own keys give them away. */
static fg_status refuse_unsupported(const config *c, fg_err *err)
{
    static const char *const m2_keys[] = {"use_qk_norm", "qk_norm_type", "scoring_func",
                                          "use_routing_bias", "mtp_transformer_layers"};
    static const char *const switches[] = {"attention_bias", "qkv_bias", "use_bias", "mlp_bias",
                                           "tie_word_embeddings"};
    static const char *const objects[] = {"sliding_window", "rope_scaling", "quantization_config",
                                          "vision_config", "text_config"};
    for (size_t i = 0; i < sizeof m2_keys / sizeof m2_keys[0]; i++) {
        const fg_json *v = get_set(c, m2_keys[i]);
        bool on = true;
        if (v == NULL || (fg_json_bool(v, &on) && !on)) continue;
        return fg_fail(err, FG_ENOTSUP,
                       "%s: %s is set, a key of MiniMax-M2, expected a MiniMax-M1 configuration",
                       c->name, m2_keys[i]);
    }
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++) {
        FG_TRY(must_be_false(c, switches[i], err));
    }
    for (size_t i = 0; i < sizeof objects / sizeof objects[0]; i++) {
        const fg_json *v = get_set(c, objects[i]);
        if (v != NULL) return fail_setting(c, objects[i], v, "null", err);
    }
    uint64_t shared = 0;
    const fg_json *v = get_set(c, "shared_intermediate_size");
    if (v != NULL && !fg_json_u64(v, &shared)) {
        return fail_type(c, "shared_intermediate_size", v, "0", err);
    }
    if (shared != 0) {
        return fg_fail(err, FG_ENOTSUP,
                       "%s: shared_intermediate_size = %llu, expected 0; shared experts are not "
                       "supported",
                       c->name, (unsigned long long)shared);
    }
    const char *act = NULL;
    v = fg_json_get(c->root, "hidden_act");
    if (v == NULL) return fail_missing(c, "hidden_act", "\"silu\"", err);
    if (!fg_json_str(v, &act)) return fail_type(c, "hidden_act", v, "\"silu\"", err);
    if (strcmp(act, "silu") != 0) {
        return fg_fail(err, FG_ENOTSUP, "%s: hidden_act is \"%.64s\", expected \"silu\"", c->name,
                       act);
    }
    return FG_OK;
}

/* One list of kinds into s->attn; with `again` it must repeat what is there. */
static fg_status parse_kinds(const config *c, const char *key, const fg_json *list, fg_shape *s,
                             bool again, fg_err *err)
{
    if (!fg_json_is_array(list)) return fail_type(c, key, list, "a list", err);
    if (fg_json_size(list) != s->n_layer) {
        return fg_fail(err, FG_EFORMAT, "%s: %s has %zu entries, expected %u, one for each layer",
                       c->name, key, fg_json_size(list), s->n_layer);
    }
    uint32_t l = 0;
    for (const fg_json *e = fg_json_first(list); e != NULL; e = fg_json_next(e), l++) {
        uint64_t v = 2;
        const char *text = NULL;
        char shown[FG_JSON_SHOWN];
        if (fg_json_str(e, &text)) {
            if (strcmp(text, "linear_attention") == 0) v = FG_ATTN_LIGHTNING;
            if (strcmp(text, "full_attention") == 0) v = FG_ATTN_SOFTMAX;
        } else if (!fg_json_u64(e, &v)) {
            v = 2;
        }
        if (v > FG_ATTN_SOFTMAX) {
            return fg_fail(err, FG_EFORMAT,
                           "%s: %s: layer %u is %s, expected 0 or linear_attention, 1 or "
                           "full_attention",
                           c->name, key, l, fg_json_show(e, shown));
        }
        if (again && s->attn[l] != v) {
            return fg_fail(err, FG_EFORMAT,
                           "%s: %s: layer %u is %s, expected the kind in attn_type_list", c->name,
                           key, l, fg_json_show(e, shown));
        }
        s->attn[l] = (uint8_t)v;
    }
    return FG_OK;
}

static fg_status parse_layers(const config *c, fg_shape *s, fg_err *err)
{
    FG_TRY(need_u32(c, "num_hidden_layers", FG_MAX_LAYER, &s->n_layer, err));
    const fg_json *own = get_set(c, "attn_type_list"), *hf = get_set(c, "layer_types");
    if (own == NULL && hf == NULL) {
        return fail_missing(c, c->hf ? "layer_types" : "attn_type_list", "a list", err);
    }
    if (own != NULL) FG_TRY(parse_kinds(c, "attn_type_list", own, s, false, err));
    if (hf != NULL) FG_TRY(parse_kinds(c, "layer_types", hf, s, own != NULL, err));
    return FG_OK;
}

/* Width: rotary_dim, else partial_rotary_factor of the head, else (transformers, whose class
 * rotates all) the whole head.  Theta: rope_parameters wins over the top level, where files saved
 * by transformers 5 may carry a stale value. */
static fg_status parse_rope(const config *c, fg_shape *s, fg_err *err)
{
    const fg_json *rope = get_set(c, "rope_parameters");
    if (rope != NULL && !fg_json_is_object(rope)) {
        return fail_type(c, "rope_parameters", rope, "an object", err);
    }
    static const char *const type_keys[] = {"rope_type", "type"};
    for (size_t i = 0; i < 2; i++) {
        const fg_json *v = fg_json_get(rope, type_keys[i]);
        const char *type = NULL;
        if (v == NULL || fg_json_is_null(v)) continue;
        if (!fg_json_str(v, &type))
            return fail_type(c, "rope_parameters.rope_type", v, "a text", err);
        if (strcmp(type, "default") != 0) {
            return fg_fail(err, FG_ENOTSUP,
                           "%s: rope_parameters: rope_type is \"%.64s\", expected \"default\"",
                           c->name, type);
        }
    }
    const fg_json *theta = fg_json_get(rope, "rope_theta");
    if (theta == NULL) {
        FG_TRY(need_f64(c, "rope_theta", &s->rope_theta, err));
    } else if (!fg_json_f64(theta, &s->rope_theta)) {
        return fail_type(c, "rope_parameters.rope_theta", theta, "a finite number", err);
    }
    if (get_set(c, "rotary_dim") != NULL) {
        return need_u32(c, "rotary_dim", FG_MAX_D_HEAD, &s->d_rotary, err);
    }
    const fg_json *part = fg_json_get(rope, "partial_rotary_factor");
    if (part == NULL) part = get_set(c, "partial_rotary_factor");
    if (part == NULL) {
        if (!c->hf) return fail_missing(c, "rotary_dim", "an integer", err);
        s->d_rotary = s->d_head;
        return FG_OK;
    }
    double factor;
    if (!fg_json_f64(part, &factor) || !(factor > 0 && factor <= 1)) {
        return fail_type(c, "partial_rotary_factor", part, "a number in (0, 1]", err);
    }
    s->d_rotary = (uint32_t)floor(factor * (double)s->d_head);
    return FG_OK;
}

static fg_status parse_postnorm(const config *c, fg_shape *s, fg_err *err)
{
    const fg_json *v = get_set(c, "postnorm");
    bool on = true; /* the transformers class has no key and always computes this */
    if (v == NULL && !c->hf) return fail_missing(c, "postnorm", "true or false", err);
    if (v != NULL && !fg_json_bool(v, &on))
        return fail_type(c, "postnorm", v, "true or false", err);
    s->postnorm = on ? 1 : 0;
    return FG_OK;
}

static fg_status parse_shape(const config *c, fg_shape *s, fg_err *err)
{
    FG_TRY(parse_layers(c, s, err));
    FG_TRY(need_u32(c, "hidden_size", FG_MAX_D, &s->d_model, err));
    FG_TRY(need_u32(c, "num_attention_heads", FG_MAX_HEAD, &s->n_head, err));
    FG_TRY(need_u32(c, "num_key_value_heads", FG_MAX_HEAD, &s->n_kv_head, err));
    FG_TRY(need_u32(c, "head_dim", FG_MAX_D_HEAD, &s->d_head, err));
    FG_TRY(need_u32(c, "num_local_experts", FG_MAX_EXPERT, &s->n_expert, err));
    FG_TRY(need_u32(c, "num_experts_per_tok", FG_MAX_USED, &s->n_used, err));
    FG_TRY(need_u32(c, "intermediate_size", FG_MAX_D, &s->d_ff, err));
    FG_TRY(need_u32(c, "vocab_size", FG_MAX_VOCAB, &s->n_vocab, err));
    FG_TRY(need_u64(c, "max_position_embeddings", (uint64_t)1 << 31, &s->n_ctx_max, err));
    FG_TRY(need_f64(c, "rms_norm_eps", &s->norm_eps, err));
    FG_TRY(parse_rope(c, s, err));
    FG_TRY(parse_postnorm(c, s, err));
    FG_TRY(need_factor(c, "layernorm_full_attention_alpha", "full_attn_alpha_factor",
                       &s->alpha_softmax, err));
    FG_TRY(need_factor(c, "layernorm_full_attention_beta", "full_attn_beta_factor",
                       &s->beta_softmax, err));
    FG_TRY(need_factor(c, "layernorm_linear_attention_alpha", "linear_attn_alpha_factor",
                       &s->alpha_lightning, err));
    FG_TRY(need_factor(c, "layernorm_linear_attention_beta", "linear_attn_beta_factor",
                       &s->beta_lightning, err));
    FG_TRY(need_factor(c, "layernorm_mlp_alpha", "mlp_alpha_factor", &s->alpha_mlp, err));
    FG_TRY(need_factor(c, "layernorm_mlp_beta", "mlp_beta_factor", &s->beta_mlp, err));
    s->inner_norm_eps = 1e-6; /* constant of both published classes, in no configuration */
    s->slope_form = c->hf ? FG_SLOPE_TRANSFORMERS : FG_SLOPE_MINIMAX;
    return FG_OK;
}

/* JSON leaves the meaning of a repeated key open, and readers differ. */
static fg_status check_keys(const config *c, fg_err *err)
{
    if (!fg_json_is_object(c->root)) {
        return fg_fail(err, FG_EFORMAT, "%s: not a JSON object, expected a configuration", c->name);
    }
    const size_t n = fg_json_size(c->root);
    if (n > MAX_KEYS) {
        return fg_fail(err, FG_ELIMIT, "%s: %zu keys, expected at most %d", c->name, n, MAX_KEYS);
    }
    for (const fg_json *k = fg_json_first(c->root); k != NULL; k = fg_json_next(k)) {
        if (fg_json_get(c->root, fg_json_name(k)) == k) continue;
        return fg_fail(err, FG_EFORMAT, "%s: key %.64s twice, expected once", c->name,
                       fg_json_name(k));
    }
    return FG_OK;
}

fg_status fg_hf_config_parse(fg_shape *out, const char *text, size_t n, const char *name,
                             fg_err *err)
{
    fg_json *root;
    *out = (fg_shape){0};
    FG_TRY(fg_json_parse(&root, text, n, name, err));
    config c = {root, name, false};
    fg_status st = check_keys(&c, err);
    if (st == FG_OK) st = parse_dialect(&c, err);
    if (st == FG_OK) st = refuse_unsupported(&c, err);
    if (st == FG_OK) st = parse_shape(&c, out, err);
    if (st == FG_OK) st = fg_shape_check(out, name, err);
    fg_json_free(root);
    return st;
}

/* Of a missing file: beside it a downloader's cache keeps revisions, which are checkpoints. */
static fg_status explain_missing(fg_status st, const char *path, fg_err *err)
{
    const char *slash = strrchr(path, '/');
    char beside[PATH_MAX];
    const int n = snprintf(beside, sizeof beside, "%.*ssnapshots",
                           slash == NULL ? 0 : (int)(slash + 1 - path), path);
    if (fg_io_is_named(path) || n >= PATH_MAX || !fg_io_is_dir(beside)) return st;
    return fg_fail(err, st,
                   "%s: not there, expected it; of a downloader's cache name a folder in %s", path,
                   beside);
}

fg_status fg_hf_config_load(fg_shape *out, const char *path, char **text, size_t *n, fg_err *err)
{
    char *bytes = NULL;
    size_t len = 0;
    fg_status st = fg_io_read_all(path, MAX_CONFIG_BYTES, &bytes, &len, err);
    if (st == FG_EIO) st = explain_missing(st, path, err);
    if (st == FG_OK) st = fg_hf_config_parse(out, bytes, len, path, err);
    if (st == FG_EFORMAT || st == FG_ELIMIT) {
        st = fg_mistaken_explain(st, path, "a configuration (JSON)", NULL, err);
    }
    if (st != FG_OK || text == NULL) {
        fg_mem_free(bytes);
        return st;
    }
    *text = bytes;
    *n = len;
    return FG_OK;
}
