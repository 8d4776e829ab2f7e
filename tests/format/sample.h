/* SPDX-License-Identifier: MIT
 *
 * A small complete .fulgur file for the tests of this folder: both attention kinds, every weight
 * type, sizes that need padding of rows and columns, gate and up of different types.
 */
#ifndef FG_TESTS_FORMAT_SAMPLE_H
#define FG_TESTS_FORMAT_SAMPLE_H

#include <string.h>

#include "quant/panel.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/format/write/writer.h"

static inline fg_shape sample_shape(void)
{
    fg_shape s = {
        .n_layer = 3,
        .d_model = 64,
        .n_head = 4,
        .n_kv_head = 2,
        .d_head = 48, /* n_head * d_head = 192 is neither d_model nor a multiple of 128 */
        .d_rotary = 16,
        .n_expert = 3,
        .n_used = 2,
        .d_ff = 80,
        .n_vocab = 50, /* not a multiple of 16 */
        .n_ctx_max = 4096,
        .rope_theta = 1e7,
        .norm_eps = 1e-5,
        .inner_norm_eps = 1e-6,
        .alpha_softmax = 3.5565588200778455,
        .beta_softmax = 1.0,
        .alpha_lightning = 3.5565588200778455,
        .beta_lightning = 1.0,
        .alpha_mlp = 3.5565588200778455,
        .beta_mlp = 1.0,
        .postnorm = 1,
        .slope_form = FG_SLOPE_TRANSFORMERS,
    };
    s.attn[1] = FG_ATTN_SOFTMAX;
    return s;
}

static inline fg_tensor_choice sample_choose(void *ctx, fg_role role, uint32_t layer,
                                             uint32_t expert)
{
    static const fg_qtype types[] = {FG_TYPE_Q4, FG_TYPE_Q5,   FG_TYPE_Q6,
                                     FG_TYPE_Q8, FG_TYPE_BF16, FG_TYPE_F32};
    (void)ctx;
    const uint32_t pick = (uint32_t)role + (layer == FG_NO_LAYER ? 0 : layer) +
                          (expert == FG_NO_LAYER ? 0 : 2 * expert);
    return (fg_tensor_choice){
        .type = types[pick % 6],
        .lut = (pick & 1) != 0 ? fg_lut_grid6 : fg_lut_linear,
    };
}

static inline float sample_float(fg_rng *r)
{
    return (float)((fg_rng_f64(r) - 0.5) * (double)(1 + fg_rng_u64(r) % 100));
}

static inline void sample_fill(uint8_t *p, uint64_t n, uint32_t type, fg_rng *r)
{
    const fg_qtype_info *info = fg_qtype_get(type);
    const uint64_t size = (uint64_t)info->packing / 8; /* of a float */
    for (uint64_t i = 0; !info->quantized && i + size <= n; i += size) {
        fg_panel_put_float(info->type, p, (size_t)(i / size), sample_float(r));
    }
    const uint8_t keep = info->packing == FG_PACK_BYTES ? (uint8_t)(info->n_code - 1) : 0xff;
    for (uint64_t i = 0; info->quantized && i < n; i++) {
        p[i] = (uint8_t)(fg_rng_u64(r) >> 32) & keep; /* bits that no code has are zero */
    }
}

/* A writer of what `spec` says, shape and choice being the sample's where it is NULL. */
static inline fg_status sample_writer(fg_writer **out, const char *path, fg_file_spec spec,
                                      const char *const *split_dir, fg_err *err)
{
    const fg_shape shape = sample_shape();
    fg_file_plan *plan;
    *out = NULL;
    if (spec.shape == NULL) spec.shape = &shape;
    if (spec.choose == NULL) spec.choose = sample_choose;
    FG_TRY(fg_file_plan_make(&plan, &spec, path, err));
    const fg_status st = fg_writer_create(out, path, plan, spec.meta, spec.n_meta, split_dir, err);
    fg_file_plan_destroy(&plan);
    return st;
}

/* Data region of a planned writer, random; freed with fg_mem_free.  NULL when out of memory. */
static inline uint8_t *sample_data(const fg_writer *w, uint64_t seed)
{
    uint8_t *data = fg_mem_zalloc((size_t)fg_file_plan_data_bytes(fg_writer_plan(w)));
    fg_rng r;
    fg_rng_init(&r, seed);
    for (uint64_t i = 0; data != NULL && i < fg_file_plan_n_tensor(fg_writer_plan(w)); i++) {
        const fg_tensor *t = fg_file_plan_tensor(fg_writer_plan(w), i);
        uint8_t *at = data + (t->offset - fg_file_plan_data_offset(fg_writer_plan(w)));
        const uint64_t panel = fg_panel_bytes((fg_qtype)t->type, t->n_col);
        if (fg_role_is_vector((fg_role)t->role)) {
            sample_fill(at, 4 * t->n_col, FG_TYPE_F32, &r);
            continue;
        }
        for (uint64_t p = 0; p < fg_n_panel(t->n_row); p++) {
            sample_fill(at + p * t->panel_stride, panel, t->type, &r);
        }
        if (t->scale_offset != 0) {
            sample_fill(data + (t->scale_offset - fg_file_plan_data_offset(fg_writer_plan(w))),
                        64 * fg_n_panel(t->n_row), FG_TYPE_F32, &r);
        }
    }
    return data;
}

static inline fg_status sample_stream(fg_writer *w, const uint8_t *data, uint64_t seed, fg_err *err)
{
    const uint64_t end =
        fg_file_plan_data_offset(fg_writer_plan(w)) + fg_file_plan_data_bytes(fg_writer_plan(w));
    fg_rng r;
    fg_rng_init(&r, seed);
    while (fg_writer_pos(w) < end) { /* pieces of all sizes, up to more than the buffer */
        const uint64_t left = end - fg_writer_pos(w);
        uint64_t n = fg_rng_u64(&r) % ((uint64_t)1 << (fg_rng_u64(&r) % 24));
        if (n > left) n = left;
        FG_TRY(fg_writer_write(
            w, data + (fg_writer_pos(w) - fg_file_plan_data_offset(fg_writer_plan(w))), n, err));
    }
    return FG_OK;
}

static const char sample_config[] = "{\"model_type\": \"minimax_m1\"}\n";

/* Writes the whole file.  *data, when asked for, is the data region (fg_mem_free). */
static inline fg_status sample_write_as(const char *path, uint64_t seed, fg_choose_fn *choose,
                                        void *ctx, uint8_t **data, fg_err *err)
{
    const fg_meta meta[] = {{"recipe", "experts q4", 10},
                            {"empty", NULL, 0},
                            {"config.json", sample_config, sizeof sample_config - 1}};
    fg_writer *w = NULL;
    uint8_t *bytes = NULL;
    const fg_file_spec spec = {.choose = choose, .ctx = ctx, .meta = meta, .n_meta = 3};
    fg_status st = sample_writer(&w, path, spec, NULL, err);
    if (st == FG_OK) {
        bytes = sample_data(w, seed);
        if (bytes == NULL) st = fg_fail_nomem(err, path);
    }
    if (st == FG_OK) st = fg_writer_begin(w, err);
    if (st == FG_OK) st = sample_stream(w, bytes, seed, err);
    const fg_tensor_error e = {0.0625f, 0.125f, 0.03125f, 7.5f};
    if (st == FG_OK) fg_writer_set_error(w, 0, &e);
    if (st == FG_OK) st = fg_writer_set_meta(w, "recipe", "experts q6", 10, err);
    if (st == FG_OK) st = fg_writer_finish(w, err);
    fg_writer_destroy(&w);
    if (data != NULL) {
        *data = bytes;
    } else {
        fg_mem_free(bytes);
    }
    return st;
}

static inline fg_status sample_write(const char *path, uint64_t seed, uint8_t **data, fg_err *err)
{
    return sample_write_as(path, seed, sample_choose, NULL, data, err);
}

#endif
