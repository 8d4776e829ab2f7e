/* SPDX-License-Identifier: MIT
 *
 * Binding only: the reader has already checked that every tensor is there with the right size, so
 * nothing here can fail but memory.
 */
#include "src/model/model.h"

#include "quant/panel.h"
#include "src/base/dmath.h"
#include "src/base/mem.h"

static uint64_t number_of(const fg_model_file *f, const fg_tensor *t)
{
    return (uint64_t)(t - fg_model_file_tensor(f, 0));
}

/* What is looked up or read by everybody, and so is whole on one node. */
static bool is_whole(fg_role role)
{
    return role == FG_ROLE_EMBED || role == FG_ROLE_ROUTER;
}

static fg_matrix bind(fg_model *m, const fg_model_file *f, fg_role role, uint32_t layer,
                      uint32_t expert)
{
    const fg_tensor *t = fg_model_file_find(f, role, layer, expert);
    const fg_qtype type = (fg_qtype)t->type;
    fg_matrix w = {
        .panels = fg_model_file_data(f, t->offset),
        .scales = t->scale_offset == 0
                      ? NULL
                      : (const float *)(const void *)fg_model_file_data(f, t->scale_offset),
        .tensor = number_of(f, t),
        .lut = fg_qtype_has_table(t->type) ? &t->lut : NULL,
        .panel_fn = fg_kernels_panel(&m->k, type, &t->lut),
        .tiles_fn = fg_kernels_tiles(&m->k, type, &t->lut),
        .panel_stride = t->panel_stride,
        .n_row = t->n_row,
        .n_col = t->n_col,
        .n_panel = fg_n_panel(t->n_row),
        .n_sb = fg_n_sb(t->n_col),
        .type = type,
        .quantized = fg_qtype_get(t->type)->quantized,
        .rotated = t->rotated,
    };
    if (is_whole(role)) w.panels = fg_weights_whole(m->weights, w.tensor, &w.scales);
    w.bytes = w.n_panel * fg_panel_bytes(type, t->n_col) +
              (w.scales == NULL ? 0 : w.n_panel * FG_PANEL_ROWS * sizeof(float));
    return w;
}

/* *f grows by what w takes; an absent matrix takes nothing. */
static void add_form(fg_model *m, fg_forms *f, const fg_matrix *w)
{
    f->plain = f->plain || (w->quantized && !w->rotated);
    f->rotated = f->rotated || w->rotated;
    m->quantized = m->quantized || w->quantized;
}

static void add_forms_of(fg_model *m, const fg_layer *y)
{
    const fg_matrix *const in[] = {&y->qkv, &y->out_gate, &y->q, &y->k, &y->v};
    for (size_t i = 0; i < sizeof in / sizeof in[0]; i++) add_form(m, &m->forms.in, in[i]);
    add_form(m, &m->forms.attn_out, &y->out);
    for (uint32_t e = 0; e < m->shape->n_expert; e++) {
        add_form(m, &m->forms.expert_in, &y->experts[e].gate);
        add_form(m, &m->forms.expert_in, &y->experts[e].up);
        add_form(m, &m->forms.hidden, &y->experts[e].down);
    }
    fg_model_forms *f = &m->forms;
    f->in.plain = f->in.plain || f->expert_in.plain;
    f->in.rotated = f->in.rotated || f->expert_in.rotated;
}

static const float *bind_vector(const fg_model *m, const fg_model_file *f, fg_role role,
                                uint32_t layer)
{
    const fg_tensor *t = fg_model_file_find(f, role, layer, FG_NO_LAYER);
    return (const float *)(const void *)fg_weights_whole(m->weights, number_of(f, t), NULL);
}

/* Base slope 2^(-8(h+1)/H).  For H not a power of two the original takes the slopes of the lower
 * power of two P, then every second one of 2P (the ALiBi rule); transformers does not. */
static double base_slope(const fg_shape *s, uint32_t head)
{
    const double ln2 = fg_log(2.0);
    uint32_t p = 1;
    while (p * 2 <= s->n_head) p *= 2;
    if (p == s->n_head || s->slope_form == FG_SLOPE_TRANSFORMERS) {
        return fg_exp(-8.0 * (double)(head + 1) / (double)s->n_head * ln2);
    }
    if (head < p) return fg_exp(-8.0 * (double)(head + 1) / (double)p * ln2);
    return fg_exp(-8.0 * (double)(2 * (head - p) + 1) / (double)(2 * p) * ln2);
}

double fg_lightning_slope(const fg_shape *s, uint32_t layer, uint32_t head)
{
    const double l = (double)layer, last = (double)s->n_layer - 1.0;
    double f;
    if (s->slope_form == FG_SLOPE_TRANSFORMERS) {
        f = 1.0 - l / (last + 1e-5) + 1e-5;
    } else if (s->n_layer == 1) {
        f = 1.0 + 1e-5; /* the original divides by zero; vLLM's value */
    } else {
        f = 1.0 - l / last + 1e-5;
    }
    return base_slope(s, head) * f;
}

static fg_status bind_layer(fg_model *m, const fg_model_file *f, uint32_t l, fg_err *err)
{
    const fg_shape *s = m->shape;
    fg_layer *y = &m->layers[l];
    const uint32_t none = FG_NO_LAYER;
    y->kind = (fg_attn_kind)s->attn[l];
    y->attn_norm = bind_vector(m, f, FG_ROLE_ATTN_NORM, l);
    y->mlp_norm = bind_vector(m, f, FG_ROLE_MLP_NORM, l);
    if (y->kind == FG_ATTN_LIGHTNING) {
        y->inner_norm = bind_vector(m, f, FG_ROLE_LIGHT_NORM, l);
        y->qkv = bind(m, f, FG_ROLE_LIGHT_QKV, l, none);
        y->out_gate = bind(m, f, FG_ROLE_LIGHT_GATE, l, none);
        y->out = bind(m, f, FG_ROLE_LIGHT_OUT, l, none);
        y->alpha_attn = (float)s->alpha_lightning;
        y->beta_attn = (float)s->beta_lightning;
        const size_t n = FG_LIGHT_CHUNK + 1;
        y->decay = fg_mem_zalloc_array(s->n_head, n * sizeof(float));
        if (y->decay == NULL) return fg_fail_nomem(err, "decay tables");
        for (uint32_t h = 0; h < s->n_head; h++) {
            const double slope = fg_lightning_slope(s, l, h);
            for (size_t i = 0; i < n; i++) {
                y->decay[h * n + i] = (float)fg_exp(-slope * (double)i);
            }
        }
    } else {
        y->q = bind(m, f, FG_ROLE_Q, l, none);
        y->k = bind(m, f, FG_ROLE_K, l, none);
        y->v = bind(m, f, FG_ROLE_V, l, none);
        y->out = bind(m, f, FG_ROLE_O, l, none);
        y->alpha_attn = (float)s->alpha_softmax;
        y->beta_attn = (float)s->beta_softmax;
    }
    y->router = bind(m, f, FG_ROLE_ROUTER, l, none);
    y->experts = fg_mem_zalloc_array(s->n_expert, sizeof *y->experts);
    if (y->experts == NULL) return fg_fail_nomem(err, "expert table");
    for (uint32_t e = 0; e < s->n_expert; e++) {
        y->experts[e].gate = bind(m, f, FG_ROLE_EXPERT_GATE, l, e);
        y->experts[e].up = bind(m, f, FG_ROLE_EXPERT_UP, l, e);
        y->experts[e].down = bind(m, f, FG_ROLE_EXPERT_DOWN, l, e);
    }
    add_forms_of(m, y);
    const fg_expert *x = &y->experts[0];
    m->token_bytes += y->qkv.bytes + y->out_gate.bytes + y->q.bytes + y->k.bytes + y->v.bytes +
                      y->out.bytes + y->router.bytes +
                      s->n_used * (x->gate.bytes + x->up.bytes + x->down.bytes);
    return FG_OK;
}

fg_status fg_model_create(fg_model **out, const fg_model_file *file, uint32_t cpu_flags,
                          fg_err *err)
{
    const fg_home home = {.store = NULL};
    return fg_model_create_on(out, file, &home, cpu_flags, err);
}

fg_status fg_model_create_on(fg_model **out, const fg_model_file *file, const fg_home *home,
                             uint32_t cpu_flags, fg_err *err)
{
    *out = NULL;
    fg_model *m = fg_mem_zalloc(sizeof *m);
    if (m == NULL) return fg_fail_nomem(err, "model");
    m->file = file;
    const fg_shape *s = m->shape = fg_model_file_shape(file);
    fg_status st = fg_weights_create(&m->weights, file, home, err);
    if (st != FG_OK) goto fail;
    fg_kernels_init(&m->k, cpu_flags);
    m->forms.tiles = fg_kernels_tiled(cpu_flags);
    m->alpha_mlp = (float)s->alpha_mlp;
    m->beta_mlp = (float)s->beta_mlp;
    m->embed = bind(m, file, FG_ROLE_EMBED, FG_NO_LAYER, FG_NO_LAYER);
    m->lm_head = bind(m, file, FG_ROLE_LM_HEAD, FG_NO_LAYER, FG_NO_LAYER);
    add_form(m, &m->forms.in, &m->lm_head); /* the embedding is looked up, not multiplied */
    m->final_norm = bind_vector(m, file, FG_ROLE_FINAL_NORM, FG_NO_LAYER);
    m->token_bytes = m->lm_head.bytes;
    m->layers = fg_mem_zalloc_array(s->n_layer, sizeof *m->layers);
    m->rope_freq = fg_mem_zalloc_array(s->d_rotary / 2, sizeof *m->rope_freq);
    if (m->layers == NULL || m->rope_freq == NULL) {
        st = fg_fail_nomem(err, "model");
        goto fail;
    }
    for (uint32_t l = 0; l < s->n_layer; l++) {
        st = bind_layer(m, file, l, err);
        if (st != FG_OK) goto fail;
    }
    const double ln_theta = fg_log(s->rope_theta);
    for (uint32_t j = 0; j < s->d_rotary / 2; j++) { /* theta^(-2j/d) */
        m->rope_freq[j] = fg_exp(-2.0 * (double)j / (double)s->d_rotary * ln_theta);
    }
    *out = m;
    return FG_OK;
fail:
    fg_model_destroy(&m);
    return st;
}

void fg_model_destroy(fg_model **m)
{
    if (*m == NULL) return;
    for (uint32_t l = 0; (*m)->layers != NULL && l < (*m)->shape->n_layer; l++) {
        fg_mem_free((*m)->layers[l].decay);
        fg_mem_free((*m)->layers[l].experts);
    }
    fg_weights_destroy(&(*m)->weights);
    fg_mem_free((*m)->layers);
    fg_mem_free((*m)->rope_freq);
    fg_mem_free(*m);
    *m = NULL;
}

void fg_model_embed(const fg_model *m, uint32_t id, float *x)
{
    const fg_matrix *e = &m->embed;
    const uint64_t p = id / FG_PANEL_ROWS;
    fg_panel_decode_row(e->type, e->lut, e->panels + p * e->panel_stride,
                        e->scales == NULL ? NULL : e->scales + p * FG_PANEL_ROWS, e->n_col,
                        id % FG_PANEL_ROWS, x);
}

bool fg_model_head_row_is_zero(const fg_model *m, uint32_t id)
{
    const fg_matrix *h = &m->lm_head;
    const fg_share *share = fg_weights_share(m->weights, h);
    const uint64_t p = id / FG_PANEL_ROWS;
    uint32_t node = 0;
    if (h->scales == NULL) return false;
    while (share != NULL && share->begin[node + 1] <= p) node++;
    const fg_panel_run run = fg_weights_run(m->weights, h, FG_NO_LAYER, node);
    return run.scales[(p - run.first) * FG_PANEL_ROWS + id % FG_PANEL_ROWS] == 0.0f;
}
