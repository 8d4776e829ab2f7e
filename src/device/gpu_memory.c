/* SPDX-License-Identifier: MIT */
#include "src/device/gpu_memory.h"

#include "simd/cuda/ops.h"
#include "src/base/mem.h"
#include "src/device/cuda_impl.h"
#include "src/model/scratch.h"

enum { ALIGN = 256, ROW_STEP = 64 };

static uint64_t up(uint64_t bytes)
{
    return fg_round_up(bytes, ALIGN);
}

/* ---- weights ---- */

static uint64_t tensor_bytes(const fg_tensor *t)
{
    if (fg_role_is_vector((fg_role)t->role)) return up(t->n_col * sizeof(float));
    const uint64_t n_panel = fg_n_panel(t->n_row);
    const uint64_t scales = t->scale_offset == 0 ? 0 : n_panel * FG_PANEL_ROWS * sizeof(float);
    return up((n_panel - 1) * t->panel_stride + fg_panel_bytes((fg_qtype)t->type, t->n_col)) +
           up(scales);
}

/* What the placement gives a tensor of an expert (FORMAT.md 5.2): panels of gate and up are one
 * run, counted with gate. */
static uint64_t placed_bytes(const fg_tensor *t)
{
    const uint64_t n_panel = fg_n_panel(t->n_row);
    uint64_t n = t->scale_offset == 0 ? 0 : n_panel * FG_PANEL_ROWS * sizeof(float);
    n = fg_round_up(n, FG_PAGE_BYTES);
    return t->role == FG_ROLE_EXPERT_UP ? n
                                        : n + fg_round_up(n_panel * t->panel_stride, FG_PAGE_BYTES);
}

static void add_weights(fg_gpu_memory *m, const fg_file_plan *p)
{
    const fg_shape *s = fg_file_plan_shape(p);
    uint64_t expert = 0;
    for (uint64_t i = 0; i < fg_file_plan_n_tensor(p); i++) {
        const fg_tensor *t = fg_file_plan_tensor(p, i);
        if (t->role == FG_ROLE_EMBED) continue;
        if (t->role >= FG_ROLE_EXPERT_GATE) {
            expert = placed_bytes(t) + (t->role == FG_ROLE_EXPERT_GATE ? 0 : expert);
            if (expert > m->expert) m->expert = expert;
        } else if (t->role == FG_ROLE_LM_HEAD) {
            m->head += tensor_bytes(t);
        } else if (fg_role_is_vector((fg_role)t->role) || t->role == FG_ROLE_ROUTER) {
            m->small += tensor_bytes(t);
        } else {
            m->attention += tensor_bytes(t);
        }
    }
    for (uint32_t l = 0; l < s->n_layer; l++) {
        if (s->attn[l] != FG_ATTN_LIGHTNING) continue;
        m->small += up((uint64_t)s->n_head * (FG_LIGHT_CHUNK + 1) * sizeof(float));
    }
    m->dense = m->attention + m->head + m->small;
}

/* ---- a session ---- */

static void add_state(fg_gpu_memory *m, const fg_shape *s, const fg_gpu_memory_opts *o)
{
    const uint64_t d = s->d_head, n_pos = fg_round_up(o->n_ctx, ROW_STEP);
    const uint64_t rows = s->n_kv_head * n_pos;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        if (s->attn[l] == FG_ATTN_LIGHTNING) {
            m->lightning += up(s->n_head * d * d * sizeof(float)) +
                            2 * up(s->n_head * d * FG_LIGHT_CHUNK * sizeof(float));
            continue;
        }
        m->kv += 2 * up(rows * d * fg_kv_bytes(o->kv));
        if (o->kv == FG_KV_INT8) m->kv += 2 * up(rows * sizeof(float));
    }
}

/* ---- a pass ---- */

static uint64_t acts_bytes(uint64_t n_row, uint64_t width, fg_forms forms)
{
    const uint64_t stride = fg_round_up(width, FG_SB_COLS);
    const uint64_t q = up(n_row * (stride / FG_SB_COLS) * sizeof(fg_act128));
    return up(n_row * stride * sizeof(float)) + (forms.plain ? q : 0) + (forms.rotated ? q : 0);
}

static uint64_t attention_bytes(const fg_shape *s, const fg_gpu_memory_opts *o)
{
    const fg_cuda_softmax a = {.n_most = o->n_batch,
                               .pos_most = o->n_ctx,
                               .n_pos = fg_round_up(o->n_ctx, ROW_STEP),
                               .n_head = s->n_head,
                               .n_kv_head = s->n_kv_head,
                               .d = s->d_head,
                               .half = s->d_rotary / 2,
                               .kv_type = (uint32_t)o->kv};
    for (uint32_t l = 0; l < s->n_layer; l++) {
        if (s->attn[l] == FG_ATTN_SOFTMAX) return fg_cuda_softmax_bytes(&a);
    }
    return 0;
}

/* As lay_out of cuda_work.c, with buffers for experts. */
static uint64_t work_bytes(const fg_shape *s, const fg_model_forms *f, uint32_t n_batch)
{
    const fg_forms none = {false, false};
    const uint64_t T = n_batch, L = FG_LOGIT_ROWS, most = T > L ? T : L;
    const uint64_t R = T * s->n_used, width = (uint64_t)s->n_head * s->d_head;
    const uint64_t few = (T < FG_CUDA_FEW ? T : FG_CUDA_FEW) * s->n_used, E = T > few ? T : few;
    uint64_t widest = s->d_model > s->d_ff ? s->d_model : s->d_ff;
    if (width > widest) widest = width;
    uint64_t n = 2 * acts_bytes(T, s->d_model, none); /* x, a */
    n += acts_bytes(most, s->d_model, f->in) + acts_bytes(T, width, f->attn_out);
    n += acts_bytes(T, 3 * width, none) + acts_bytes(T, width, none);
    n += acts_bytes(E, s->d_model, f->expert_in) + 2 * acts_bytes(E, s->d_ff, none);
    n += acts_bytes(E, s->d_ff, f->hidden) + acts_bytes(R, s->d_model, none);
    n += acts_bytes(L, s->n_vocab, none);
    n += 2 * up(T * (s->d_rotary / 2) * sizeof(float));
    n += 3 * up(R * sizeof(float)) + up((R > L ? R : L) * sizeof(uint32_t));
    n += up(fg_cuda_multiply_bytes((uint32_t)most, (uint32_t)fg_n_sb(widest)));
    n += up(fg_cuda_route_bytes(n_batch, s->n_expert, (uint32_t)fg_n_sb(s->d_model)));
    return n + up(fg_cuda_light_bytes(n_batch, s->n_head));
}

/* ---- together ---- */

static void add_experts(fg_gpu_memory *m, uint64_t bytes)
{
    m->fits = m->needed <= bytes;
    if (!m->fits) return;
    uint64_t left = bytes - m->needed;
    m->streams = m->slots <= left;
    if (m->streams) left -= m->slots;
    m->reserve = left < FG_GPU_RESERVE_BYTES ? left : FG_GPU_RESERVE_BYTES;
    left -= m->reserve;
    m->n_resident = m->expert == 0 ? 0 : left / m->expert;
    if (m->n_resident > m->n_expert) m->n_resident = m->n_expert;
    m->resident = m->n_resident * m->expert;
}

fg_status fg_gpu_memory_make(fg_gpu_memory *out, const fg_file_plan *p, const fg_model_forms *forms,
                             const fg_gpu_memory_opts *o, fg_err *err)
{
    const fg_shape *s = fg_file_plan_shape(p);
    *out = (fg_gpu_memory){.n_expert = (uint64_t)s->n_layer * s->n_expert};
    if (o->n_ctx > s->n_ctx_max) {
        return fg_fail(err, FG_ELIMIT, "gpu: a context of %llu, expected at most %llu",
                       (unsigned long long)o->n_ctx, (unsigned long long)s->n_ctx_max);
    }
    add_weights(out, p);
    add_state(out, s, o);
    out->work = work_bytes(s, forms, o->n_batch) + attention_bytes(s, o);
    out->slots = FG_GPU_SLOTS * up(out->expert);
    out->table = out->n_expert * sizeof(fg_cuda_expert) + sizeof(cu_block);
    out->context = FG_GPU_CONTEXT_BYTES;
    out->needed = out->context + out->dense + out->lightning + out->kv + out->work + out->table;
    add_experts(out, o->bytes);
    return FG_OK;
}

uint32_t fg_gpu_memory_rows(const fg_file_plan *p, const fg_model_forms *forms,
                            const fg_gpu_memory_opts *o)
{
    fg_gpu_memory_opts each = *o;
    for (each.n_batch = FG_BATCH_MAX; each.n_batch > 0; each.n_batch /= 2) {
        fg_gpu_memory m;
        if (fg_gpu_memory_make(&m, p, forms, &each, NULL) != FG_OK) return 0;
        const uint64_t others = m.needed - m.work;
        if (others >= o->bytes) return 0;
        const uint64_t room = o->bytes - others;
        if (m.work <= room - room / 16 || (each.n_batch == 1 && m.fits)) return each.n_batch;
    }
    return 0;
}
