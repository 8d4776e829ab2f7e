/* SPDX-License-Identifier: MIT */
#include "src/format/shape.h"

#include <math.h>
#include <stddef.h>

static fg_status check_count(const char *name, const char *what, uint64_t v, uint64_t max,
                             uint64_t multiple, fg_err *err)
{
    if (v < 1 || v > max) {
        return fg_fail(err, FG_ESHAPE, "%s: %s = %llu, expected 1 to %llu", name, what,
                       (unsigned long long)v, (unsigned long long)max);
    }
    if (v % multiple != 0) {
        return fg_fail(err, FG_ENOTSUP, "%s: %s = %llu, expected a multiple of %llu", name, what,
                       (unsigned long long)v, (unsigned long long)multiple);
    }
    return FG_OK;
}

static fg_status check_real(const char *name, const char *what, double v, double min, double max,
                            fg_err *err)
{
    if (v >= min && v <= max) return FG_OK; /* false for NaN */
    return fg_fail(err, FG_ESHAPE, "%s: %s = %g, expected %g to %g", name, what, v, min, max);
}

fg_status fg_shape_check(const fg_shape *s, const char *name, fg_err *err)
{
    FG_TRY(check_count(name, "layers", s->n_layer, FG_MAX_LAYER, 1, err));
    FG_TRY(check_count(name, "hidden size", s->d_model, FG_MAX_D, 16, err));
    FG_TRY(check_count(name, "attention heads", s->n_head, FG_MAX_HEAD, 1, err));
    FG_TRY(check_count(name, "key-value heads", s->n_kv_head, s->n_head, 1, err));
    FG_TRY(check_count(name, "head dimension", s->d_head, FG_MAX_D_HEAD, 16, err));
    FG_TRY(check_count(name, "rotary dimension", s->d_rotary, s->d_head, 2, err));
    FG_TRY(check_count(name, "experts", s->n_expert, FG_MAX_EXPERT, 1, err));
    FG_TRY(check_count(name, "experts per token", s->n_used,
                       s->n_expert < FG_MAX_USED ? s->n_expert : FG_MAX_USED, 1, err));
    FG_TRY(check_count(name, "intermediate size", s->d_ff, FG_MAX_D, 16, err));
    FG_TRY(check_count(name, "vocabulary", s->n_vocab, FG_MAX_VOCAB, 1, err));
    FG_TRY(check_count(name, "maximum positions", s->n_ctx_max, (uint64_t)1 << 31, 1, err));
    if (s->n_head % s->n_kv_head != 0) {
        return fg_fail(err, FG_ESHAPE, "%s: %u attention heads, expected a multiple of %u", name,
                       s->n_head, s->n_kv_head);
    }
    FG_TRY(check_real(name, "rope theta", s->rope_theta, 1.0, 1e15, err));
    FG_TRY(check_real(name, "norm epsilon", s->norm_eps, 0.0, 1.0, err));
    FG_TRY(check_real(name, "inner norm epsilon", s->inner_norm_eps, 0.0, 1.0, err));
    const double factors[] = {s->alpha_softmax,  s->beta_softmax, s->alpha_lightning,
                              s->beta_lightning, s->alpha_mlp,    s->beta_mlp};
    for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++) {
        FG_TRY(check_real(name, "residual factor", factors[i], -1e6, 1e6, err));
    }
    if (s->postnorm > 1) {
        return fg_fail(err, FG_ESHAPE, "%s: postnorm = %u, expected 0 or 1", name, s->postnorm);
    }
    if (s->slope_form > FG_SLOPE_TRANSFORMERS) {
        return fg_fail(err, FG_ESHAPE, "%s: slope form %u, expected 0 or 1", name, s->slope_form);
    }
    for (uint32_t l = 0; l < s->n_layer; l++) {
        if (s->attn[l] > FG_ATTN_SOFTMAX) {
            return fg_fail(err, FG_ESHAPE, "%s: attention kind %u of layer %u, expected 0 or 1",
                           name, s->attn[l], l);
        }
    }
    return FG_OK;
}
