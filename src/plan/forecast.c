/* SPDX-License-Identifier: MIT
 *
 * The formulas are in the header; sizes of session memory are asked of the code that allocates it.
 */
#include "src/plan/forecast.h"

#include <math.h>

#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/engine/kv.h"
#include "src/expert/cache.h"
#include "src/model/forward.h"
#include "src/engine/memory.h"
#include "src/sys/cpu.h"

enum { LAYER_SYNCS = 11 }; /* barriers of a layer in src/model, of one token */

/* ---- what the model needs ---- */

static uint64_t page_up(uint64_t bytes)
{
    return fg_round_up(bytes, FG_PAGE_BYTES);
}

/* Row scales of a matrix, without padding. */
static uint64_t scale_bytes(const fg_tensor *t)
{
    return t->scale_offset == 0 ? 0 : fg_n_panel(t->n_row) * FG_PANEL_ROWS * sizeof(float);
}

static uint64_t panels_bytes(const fg_tensor *t)
{
    return fg_n_panel(t->n_row) * fg_panel_bytes((fg_qtype)t->type, t->n_col);
}

/* Bytes that the placement gives a tensor (FORMAT.md 5.2).  Panels of gate and up are one run,
 * counted with gate. */
static uint64_t placed_bytes(const fg_tensor *t)
{
    if (fg_role_is_vector((fg_role)t->role)) return page_up(t->n_col * sizeof(float));
    const uint64_t scales = page_up(scale_bytes(t));
    if (t->role == FG_ROLE_EXPERT_UP) return scales;
    return scales + page_up(fg_n_panel(t->n_row) * t->panel_stride);
}

static void note_form(fg_demand *d, const fg_tensor *t)
{
    const bool quantized = fg_qtype_get(t->type)->quantized;
    const bool plain = quantized && !t->rotated, rotated = t->rotated;
    bool *p = &d->forms.in.plain, *r = &d->forms.in.rotated;
    switch ((fg_role)t->role) {
    case FG_ROLE_EMBED: return; /* looked up, not multiplied */
    case FG_ROLE_LIGHT_OUT:
    case FG_ROLE_O: p = &d->forms.attn_out.plain, r = &d->forms.attn_out.rotated; break;
    case FG_ROLE_EXPERT_DOWN: p = &d->forms.hidden.plain, r = &d->forms.hidden.rotated; break;
    case FG_ROLE_EXPERT_GATE:
    case FG_ROLE_EXPERT_UP: /* gathered from the form that `in` has */
        d->forms.expert_in.plain = d->forms.expert_in.plain || plain;
        d->forms.expert_in.rotated = d->forms.expert_in.rotated || rotated;
        break;
    default: break;
    }
    *p = *p || plain;
    *r = *r || rotated;
    d->quantized = d->quantized || quantized;
}

/* `times` of this matrix are used for a token. */
static void add_use(fg_demand *d, fg_part *part, const fg_tensor *t, double times)
{
    const fg_qkind type = fg_qkind_of(t->type, &t->lut);
    const double bytes = (double)(panels_bytes(t) + scale_bytes(t));
    part->bytes[type] += times * bytes;
    part->gmac[type] += times * (double)t->n_row * (double)t->n_col * 1e-9;
    d->token_bytes += times * bytes;
}

static double ratio(const fg_balance *b, fg_balance_phase first, fg_balance_phase last)
{
    double bytes = 0.0, slowest = 0.0;
    for (fg_balance_phase i = first; i <= last; i++) {
        if (i == FG_BALANCE_HEADS || i == FG_BALANCE_CACHE) continue; /* no weights */
        bytes += b->phase[i].bytes;
        slowest += b->phase[i].slowest;
    }
    return bytes > 0.0 ? slowest / bytes : 1.0;
}

static fg_status balance_nodes(fg_demand *d, const fg_file_plan *f, fg_err *err)
{
    fg_balance b;
    const fg_place *p = d->place;
    d->n_node = p == NULL ? 1 : p->n_home;
    d->imbalance = 1.0;
    d->dense.imbalance = d->experts.imbalance = d->head.imbalance = 1.0;
    d->dense.batch_imbalance = d->experts.batch_imbalance = d->head.batch_imbalance = 1.0;
    if (p == NULL || p->n_home == 1) return FG_OK;
    FG_TRY(fg_balance_make(&b, f, p, 0, FG_KV_INT8, err));
    d->imbalance = ratio(&b, 0, FG_BALANCE_HEAD);
    d->dense.imbalance = d->dense.batch_imbalance = ratio(&b, 0, FG_BALANCE_ROUTER);
    d->experts.imbalance = d->experts.batch_imbalance =
        ratio(&b, FG_BALANCE_GATE_UP, FG_BALANCE_DOWN);
    d->head.imbalance = d->head.batch_imbalance = ratio(&b, FG_BALANCE_HEAD, FG_BALANCE_HEAD);
    if (p->numa == FG_NUMA_EXPERT) {
        uint64_t count[FG_MAX_NODE];
        for (uint32_t k = 0; k < p->n_node; k++) {
            count[k] = fg_place_n_dealt(p, k, d->shape.n_expert);
        }
        d->experts.batch_imbalance = fg_balance_of_all(count, p);
    }
    d->node_bytes = 0;
    for (uint32_t k = 0; k < p->n_node; k++) {
        if (b.node_bytes[k] > d->node_bytes) d->node_bytes = b.node_bytes[k];
    }
    if (p->n_node == 1) d->node_bytes = (d->node_bytes + p->n_home - 1) / p->n_home;
    return FG_OK;
}

static fg_status collect(fg_demand *d, const fg_file_plan *p, fg_err *err)
{
    const fg_shape *s = &d->shape;
    const double used = (double)s->n_used / (double)s->n_expert;
    uint64_t expert = 0, stored;
    fg_file_plan_sums(p, &d->n_weight, &stored);
    d->bits_per_weight = fg_bits_per_weight(stored, d->n_weight);
    for (uint64_t i = 0; i < d->n_tensor; i++) {
        const fg_tensor *t = fg_file_plan_tensor(p, i);
        const uint64_t bytes = placed_bytes(t);
        const bool vector = fg_role_is_vector((fg_role)t->role);
        if (!vector) note_form(d, t);
        if (!vector) d->node_bytes += panels_bytes(t);
        if (t->role == FG_ROLE_EMBED) {
            d->embed_bytes += bytes;
        } else if (t->role == FG_ROLE_LM_HEAD || t->role == FG_ROLE_FINAL_NORM) {
            d->head_bytes += bytes;
            if (!vector) add_use(d, &d->head, t, 1.0);
        } else if (t->role < FG_ROLE_EXPERT_GATE) {
            d->dense_bytes += bytes;
            if (!vector) add_use(d, &d->dense, t, 1.0);
        } else {
            expert = t->role == FG_ROLE_EXPERT_GATE ? bytes : expert + bytes;
            d->experts_bytes += bytes;
            if (expert > d->expert_bytes) d->expert_bytes = expert;
            add_use(d, &d->experts, t, used);
        }
    }
    return balance_nodes(d, p, err);
}

fg_status fg_demand_of_plan(fg_demand *d, const fg_file_plan *p, const fg_place *place, fg_err *err)
{
    *d = (fg_demand){
        .shape = *fg_file_plan_shape(p),
        .n_tensor = fg_file_plan_n_tensor(p),
        .place = place,
        .file_bytes = fg_file_plan_file_bytes(p),
        .forms.tiles = fg_kernels_tiled(fg_cpu_detect()),
    };
    return collect(d, p, err);
}

fg_status fg_demand_on_level(fg_demand *d, fg_cpu_level level, fg_err *err)
{
    uint32_t flags;
    FG_TRY(fg_cpu_level_flags(level, &flags, err));
    d->forms.tiles = fg_kernels_tiled(flags);
    return FG_OK;
}

fg_status fg_demand_of_file(fg_demand *d, const fg_model_file *f, const fg_place *place,
                            fg_err *err)
{
    const fg_status st = fg_demand_of_plan(d, fg_model_file_plan(f), place, err);
    d->file_bytes = fg_model_file_size(f); /* with the tail of an interrupted append */
    return st;
}

/* ---- memory ---- */

fg_forecast_opts fg_forecast_opts_default(void)
{
    return (fg_forecast_opts){
        .ram_bytes = UINT64_MAX,
        .n_ctx = 4096,
        .n_batch = FG_SESSION_BATCH,
        .fit = {.other_decode = 0.04,
                .other_prefill = 0.06,
                .overlap = 1.0,
                .reuse = 0.0,
                .recall = 0.7},
    };
}

double fg_forecast_lru(double share, double q)
{
    if (share >= 1.0) return 1.0;
    if (q >= 1.0) return 0.0;
    const double tiny = 1e-9; /* a whole number of tokens must not round to one less */
    return 1.0 - pow(1.0 - q, floor(log(1.0 - share) / log(1.0 - q) + tiny));
}

static fg_status forecast_memory(fg_forecast *f, const fg_demand *d, uint32_t n_thread,
                                 const fg_forecast_opts *o, fg_err *err)
{
    const fg_kv_type kv = fg_kv_resolve(o->kv, d->quantized);
    const fg_memory_opts mo = {
        .n_ctx = o->n_ctx, .n_batch = o->n_batch, .n_thread = n_thread, .kv = kv, .stops = true};
    fg_memory m;
    FG_TRY(fg_memory_of_session(&m, &d->shape, &d->forms, &mo, err));
    f->lightning_bytes = m.lightning;
    f->kv_bytes = m.kv;
    f->scratch_bytes = m.scratch;
    f->undo_bytes = m.undo;
    f->long_bytes = 0;
    if (o->n_long > o->n_batch) {
        f->long_bytes =
            fg_scratch_bytes(&d->shape, &d->forms, o->n_ctx, o->n_long, n_thread) - m.scratch;
    }
    f->fixed_bytes =
        d->embed_bytes + d->dense_bytes + d->head_bytes + m.session + FG_MEMORY_PROGRAM;
    f->n_expert = (uint64_t)d->shape.n_layer * d->shape.n_expert;
    f->all_ram_bytes = f->fixed_bytes + d->experts_bytes;
    f->min_ram_bytes =
        f->fixed_bytes +
        d->expert_bytes * fg_cache_min_slots(d->shape.n_layer, d->shape.n_expert, d->shape.n_used);
    f->resident = f->all_ram_bytes <= o->ram_bytes;
    f->fits = f->resident || f->min_ram_bytes <= o->ram_bytes;
    if (f->resident) {
        f->n_slot = f->n_expert;
    } else if (f->fits) {
        f->n_slot = (o->ram_bytes - f->fixed_bytes) / d->expert_bytes;
        if (f->n_slot > f->n_expert) f->n_slot = f->n_expert;
    }
    f->share = (double)f->n_slot / (double)f->n_expert;
    f->hit = fg_forecast_lru(f->share, (double)d->shape.n_used / (double)d->shape.n_expert);
    f->hit += o->fit.reuse * (1.0 - f->hit);
    f->misses = (1.0 - f->hit) * d->shape.n_layer * d->shape.n_used;
    return FG_OK;
}

uint32_t fg_forecast_batch(const fg_demand *d, uint32_t n_thread, const fg_forecast_opts *o,
                           uint32_t most)
{
    fg_forecast f = {0};
    const fg_status st = forecast_memory(&f, d, n_thread, o, NULL);
    if (st != FG_OK || !f.resident) return o->n_batch;
    const fg_memory_opts mo = {.n_ctx = o->n_ctx,
                               .n_batch = o->n_batch,
                               .n_long = most,
                               .n_thread = n_thread,
                               .stops = true};
    const uint64_t left = o->ram_bytes - f.all_ram_bytes;
    return fg_memory_batch(&d->shape, &d->forms, &mo, o->n_ctx, left / FG_MEMORY_SPARE_SHARE);
}

/* ---- time ---- */

/* Everything that the formulas share. */
typedef struct timing {
    const fg_forecast *f;
    const fg_demand *d;
    const fg_rates *r;
    const fg_forecast_opts *o;
    double experts; /* seconds of one token's experts */
    double away;    /* see the header */
} timing;

/* Seconds for amounts at rates by type; infinite when a rate is missing. */
static double seconds_of(const double *amount, const double *rate)
{
    double t = 0.0;
    for (uint32_t i = 0; i < FG_RATE_TYPES; i++) {
        if (amount[i] > 0.0) t += amount[i] / rate[i];
    }
    return t;
}

static double gemv_seconds(const timing *x, const fg_part *p)
{
    return seconds_of(p->bytes, x->r->gemv_gbs) * 1e-9 * p->imbalance * x->away;
}

static double attn_macs(const fg_shape *s, double n_pos)
{
    double macs = 0.0;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        macs += s->attn[l] == FG_ATTN_SOFTMAX ? 2.0 * s->n_head * s->d_head * n_pos : 0.0;
    }
    return macs;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* What the token at position pos reads of lightning states (with half a chunk) and cached rows. */
static void state_bytes(const timing *x, uint64_t pos, double *lightning, double *kv)
{
    const fg_shape *s = &x->d->shape;
    *lightning = fg_balance_heads_bytes(s);
    *kv = fg_balance_cache_bytes(s, pos, fg_kv_resolve(x->o->kv, x->d->quantized));
}

/* Seconds that it takes, and the arithmetic on it. */
static double state_seconds(const timing *x, uint64_t pos, double lightning, double kv)
{
    const fg_shape *s = &x->d->shape;
    const fg_rates *r = x->r;
    const fg_place *p = x->d->place;
    const double heads = p == NULL ? 1.0 : fg_balance_of_heads(p, s);
    const double cache = p == NULL ? 1.0 : fg_balance_of_cache(p, s, pos);
    const double attn = attn_macs(s, (double)pos + 1.0) / r->attn_gmacs;
    const double read = larger(kv / r->read_gbs * cache * x->away, attn);
    return (lightning / r->read_gbs * heads * x->away + read) * 1e-9;
}

/* Seconds that a layer waits for m missing experts, averaged over m. */
static double expected_wait(const timing *x, double overlap)
{
    const fg_shape *s = &x->d->shape;
    const double miss = 1.0 - x->f->hit, own = x->experts / s->n_layer;
    const double each = (double)x->d->expert_bytes / x->r->disk_gbs * 1e-9;
    double p = pow(x->f->hit, s->n_used), sum = 0.0; /* P(m = 0) */
    if (x->f->hit <= 0.0) p = s->n_used == 0 ? 1.0 : 0.0;
    for (uint32_t m = 1; m <= s->n_used; m++) {
        if (x->f->hit <= 0.0) {
            p = m == s->n_used ? 1.0 : 0.0;
        } else {
            p *= (double)(s->n_used - m + 1) / (double)m * miss / x->f->hit;
        }
        const double read = m * each;
        sum += p * (read - overlap * (read < own ? read : own));
    }
    return sum;
}

static double inverse(double seconds)
{
    return seconds > 0.0 && isfinite(seconds) ? 1.0 / seconds : 0.0;
}

double fg_forecast_syncs(const fg_shape *s)
{
    return (double)LAYER_SYNCS * s->n_layer;
}

double fg_forecast_away(const fg_demand *d, const fg_rates *r)
{
    const fg_place *p = d->place;
    if (p == NULL || p->n_node == p->n_home || r->remote <= 0.0) return 1.0;
    const double n = p->n_home;
    return 1.0 / n + (n - 1.0) / n / r->remote;
}

static void forecast_decode(const timing *x, uint64_t pos, fg_speed *out)
{
    const fg_shape *s = &x->d->shape;
    const fg_rates *r = x->r;
    double lightning, kv;
    state_bytes(x, pos, &lightning, &kv);
    const double w = gemv_seconds(x, &x->d->dense) + gemv_seconds(x, &x->d->head) + x->experts;
    const double state = state_seconds(x, pos, lightning, kv);
    const double other = (w + state) * x->o->fit.other_decode;
    const double sync = fg_forecast_syncs(s) * r->sync_us * 1e-6;
    const double t = w + state + other + sync;
    *out = (fg_speed){.pos = pos,
                      .state_bytes = lightning + kv,
                      .resident_tok_s = inverse(t),
                      .weights_s = w,
                      .state_s = state,
                      .other_s = other,
                      .sync_s = sync};
    out->tok_s = out->serial_tok_s = out->bound_tok_s = x->f->fits ? inverse(t) : 0.0;
    if (x->f->resident || !x->f->fits) return;
    out->disk_bytes = x->f->misses * (double)x->d->expert_bytes;
    const double read = out->disk_bytes / r->disk_gbs * 1e-9;
    const double wait = s->n_layer * expected_wait(x, x->o->fit.overlap);
    const double head = gemv_seconds(x, &x->d->head);
    const double unknown = 1.0 - x->o->fit.recall * (s->n_layer - 1.0) / s->n_layer;
    out->tok_s = inverse(head + larger(read, t - head + unknown * wait));
    out->serial_tok_s = inverse(t + s->n_layer * expected_wait(x, 0.0));
    out->bound_tok_s = inverse(larger(t, read));
}

/* Experts of a layer that a batch of random tokens meets. */
static double experts_met(const fg_shape *s, uint32_t n_tok)
{
    return s->n_expert * (1.0 - pow(1.0 - (double)s->n_used / (double)s->n_expert, n_tok));
}

static uint32_t prefill_batch(const fg_forecast_opts *o)
{
    return o->n_long > o->n_batch ? o->n_long : o->n_batch;
}

static void forecast_prefill(const timing *x, uint64_t pos, fg_speed *out)
{
    const fg_shape *s = &x->d->shape;
    const fg_rates *r = x->r;
    const uint32_t n_batch = prefill_batch(x->o);
    const double n = n_batch;
    double lightning, kv;
    state_bytes(x, pos + n_batch - 1, &lightning, &kv);
    const double w =
        n * (seconds_of(x->d->dense.gmac, r->dense_gmacs) * x->d->dense.batch_imbalance +
             seconds_of(x->d->experts.gmac, r->expert_gmacs) * x->d->experts.batch_imbalance);
    const double attn = n * attn_macs(s, (double)pos + 0.5 * (n + 1.0)) / r->attn_gmacs * 1e-9;
    const double t = (w + attn + gemv_seconds(x, &x->d->head)) * (1.0 + x->o->fit.other_prefill);
    *out = (fg_speed){.pos = pos, .state_bytes = lightning + kv, .resident_tok_s = n * inverse(t)};
    out->tok_s = out->serial_tok_s = out->bound_tok_s = x->f->fits ? n * inverse(t) : 0.0;
    if (x->f->resident || !x->f->fits) return;
    const double met = experts_met(s, n_batch);
    out->disk_bytes = s->n_layer * met * (1.0 - fg_forecast_lru(x->f->share, met / s->n_expert)) *
                      (double)x->d->expert_bytes;
    const double read = out->disk_bytes / r->disk_gbs * 1e-9, both = read < t ? read : t;
    out->tok_s = n * inverse(t + read - x->o->fit.overlap * both);
    out->serial_tok_s = n * inverse(t + read);
    out->bound_tok_s = n * inverse(t + read - both);
}

fg_status fg_forecast_make(fg_forecast *f, const fg_demand *d, const fg_rates *r, uint32_t n_thread,
                           const fg_forecast_opts *o, fg_err *err)
{
    *f = (fg_forecast){0};
    const double share[] = {o->fit.overlap, o->fit.reuse, o->fit.recall};
    for (int i = 0; i < 3; i++) {
        if (share[i] >= 0.0 && share[i] <= 1.0) continue;
        return fg_fail(err, FG_EINVAL, "forecast: overlap %g, reuse %g, recall %g, expected 0 to 1",
                       share[0], share[1], share[2]);
    }
    FG_TRY(forecast_memory(f, d, n_thread, o, err));
    timing x = {.f = f, .d = d, .r = r, .o = o, .away = fg_forecast_away(d, r)};
    x.experts = gemv_seconds(&x, &d->experts);
    const uint32_t n_batch = prefill_batch(o);
    for (int i = 0; i < 2; i++) { /* the last token, and the last batch, that find room */
        const uint64_t room = i == 0 ? 0 : o->n_ctx;
        forecast_decode(&x, room > 0 ? room - 1 : 0, &f->decode[i]);
        forecast_prefill(&x, room > n_batch ? room - n_batch : 0, &f->prefill[i]);
    }
    return FG_OK;
}
