/* SPDX-License-Identifier: MIT
 *
 * The formulas are in the header.
 */
#include "src/plan/card.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/kv.h"

/* ---- a card that is not here ---- */

enum { H100_SM = 132 };

void fg_gpu_card_assume(fg_gpu_card *c, uint32_t n_sm)
{
    const double n = (double)n_sm / H100_SM;
    c->gemm_gmacs = 120000.0 * n;
    c->fma_gmacs = 22000.0 * n;
    c->attn_gmacs = 65000.0 * n;
    c->light_gmacs = 4400.0 * n;
    c->row_us = 0.75 / n;
    c->unpack_gws = 5800.0 * n;
    c->float_gws = 1200.0 * n;
}

/* A number and a unit of 10^9 or 10^12 bytes: "80GB", "3.3TB/s" with `suffix` "/s". */
static bool take_figure(const char **at, const char *suffix, double *gigabytes)
{
    char *end;
    const double v = strtod(*at, &end);
    if (end == *at || !(v > 0.0) || v > 1e6) return false;
    const bool tera = *end == 'T';
    if (*end != 'T' && *end != 'G') return false;
    end++;
    if (*end != 'B') return false;
    end++;
    if (strncmp(end, suffix, strlen(suffix)) != 0) return false;
    end += strlen(suffix);
    *gigabytes = tera ? v * 1e3 : v;
    *at = end;
    return true;
}

fg_status fg_gpu_card_parse(fg_gpu_card *out, const char *text, fg_err *err)
{
    const char *at = text;
    double memory = 0.0;
    *out = (fg_gpu_card){0};
    if (!take_figure(&at, "", &memory) || *at++ != ',' || !take_figure(&at, "/s", &out->read_gbs) ||
        *at++ != ',' || !take_figure(&at, "/s", &out->copy_gbs) || *at != '\0') {
        return fg_fail(err, FG_EINVAL,
                       "gpu-spec: %.100s, expected memory, its rate and the bus's, such as "
                       "80GB,3.3TB/s,55GB/s",
                       text);
    }
    out->bytes = (uint64_t)(memory * 1e9);
    (void)snprintf(out->name, sizeof out->name, "%.120s", text);
    fg_gpu_card_assume(out, H100_SM);
    return FG_OK;
}

fg_gpu_card_fit fg_gpu_card_fit_default(void)
{
    return (fg_gpu_card_fit){.gemv = 0.96,
                             .cache = 0.63,
                             .layer_us = 34.5,
                             .box_us = 4.4,
                             .few_us = 14.0,
                             .token_us = 240.0};
}

/* ---- time ---- */

typedef struct timing {
    const fg_gpu_card *c;
    const fg_gpu_card_fit *fit;
    const fg_demand *d;
    const fg_rates *r;
    const fg_forecast_opts *o;
    const fg_gpu_memory *m;
    const fg_forecast *f; /* of the host */
} timing;

static double sum_of(const double v[FG_RATE_TYPES])
{
    double sum = 0.0;
    for (uint32_t t = 0; t < FG_RATE_TYPES; t++) sum += v[t];
    return sum;
}

static double seconds_of(const double *amount, const double *rate)
{
    double t = 0.0;
    for (uint32_t i = 0; i < FG_RATE_TYPES; i++) {
        if (amount[i] > 0.0) t += amount[i] / rate[i];
    }
    return t;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

static double inverse(double seconds)
{
    return seconds > 0.0 && isfinite(seconds) ? 1.0 / seconds : 0.0;
}

/* Products of one row: read, or unpacked, whichever takes longer. */
static double products(const timing *x, const fg_part *p)
{
    double t = 0.0;
    for (uint32_t i = 0; i < FG_RATE_TYPES; i++) { /* gmac: of one row, its weights */
        const double unpack = i < FG_KIND_QUANTIZED ? x->c->unpack_gws : x->c->float_gws;
        t += larger(p->bytes[i] * 1e-9 / (x->fit->gemv * x->c->read_gbs), p->gmac[i] / unpack);
    }
    return t;
}

/* Lightning attention of a row, 1e9 multiply-adds: half a chunk of others, and the state twice. */
static double lightning_gmac(const fg_shape *s)
{
    double n = 0.0;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        if (s->attn[l] != FG_ATTN_LIGHTNING) continue;
        n += 2.0 * s->n_head * s->d_head * (s->d_head + FG_LIGHT_CHUNK / 2.0);
    }
    return n * 1e-9;
}

/* Softmax attention of one row behind pos others, 1e9 multiply-adds. */
static double attention_gmac(const fg_shape *s, double pos)
{
    double n = 0.0;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        if (s->attn[l] == FG_ATTN_SOFTMAX) n += 2.0 * s->n_head * s->d_head * (pos + 1.0);
    }
    return n * 1e-9;
}

static double share_of(const fg_gpu_memory *m)
{
    return m->n_expert == 0 ? 0.0 : (double)m->n_resident / (double)m->n_expert;
}

/* Experts of one layer for a token: k of n_used are on the card with a binomial's probability. */
static double layer_with_residents(const timing *x, double host_each, double card_each)
{
    const uint32_t n = x->d->shape.n_used;
    const double f = share_of(x->m), few = x->fit->few_us * 1e-6;
    double p = pow(1.0 - f, n), t = 0.0;
    if (f >= 1.0) return n * card_each + few;
    if (f <= 0.0) return n * host_each;
    for (uint32_t k = 0; k <= n; k++) {
        t += p * larger(k * card_each + few, (n - k) * host_each);
        p *= (double)(n - k) / (k + 1.0) * f / (1.0 - f);
    }
    return t;
}

/* Slots of the host's bound while the card has the dense matrices. */
static double slots(const timing *x)
{
    const uint64_t freed = x->m->attention + x->m->head;
    return (double)x->f->n_slot + (double)(freed / x->d->expert_bytes);
}

/* t, with the reads of what is neither on the card nor in a slot. */
static double with_reads(const timing *x, double t, double experts)
{
    const fg_shape *s = &x->d->shape;
    const double rest = 1.0 - share_of(x->m), others = rest * (double)x->m->n_expert;
    const double q = (double)s->n_used / s->n_expert, uses = (double)s->n_layer * s->n_used;
    if (others < 1.0) return t;
    double hit = fg_forecast_lru(slots(x) / others, q);
    hit += x->o->fit.reuse * (1.0 - hit);
    const double bytes = (1.0 - hit) * rest * uses * (double)x->d->expert_bytes;
    const double read = bytes / (x->r->disk_gbs * 1e9);
    const double unknown = 1.0 - x->o->fit.recall * (s->n_layer - 1.0) / s->n_layer;
    const double hidden = x->o->fit.overlap * smaller(read, experts * rest);
    return larger(read, t + unknown * (read - hidden));
}

static void decode(const timing *x, uint64_t pos, double host_tok_s, fg_gpu_card_speed *out)
{
    const fg_shape *s = &x->d->shape;
    const double R = x->c->read_gbs * 1e9;
    const double lightning = fg_balance_heads_bytes(s);
    const double kv = fg_balance_cache_bytes(s, pos, fg_kv_resolve(x->o->kv, x->d->quantized));
    const double attn =
        larger(kv / (x->fit->cache * R), attention_gmac(s, (double)pos) / x->c->fma_gmacs);
    const double experts = seconds_of(x->d->experts.bytes, x->r->gemv_gbs) * 1e-9 *
                           x->d->experts.imbalance * fg_forecast_away(x->d, x->r) *
                           (1.0 + x->o->fit.other_decode);
    const double uses = (double)s->n_layer * s->n_used;
    *out = (fg_gpu_card_speed){
        .pos = pos,
        .host_tok_s = host_tok_s,
        .card_s = products(x, &x->d->dense) + products(x, &x->d->head) + lightning / R + attn +
                  x->fit->token_us * 1e-6,
        .layers_s = s->n_layer * (x->fit->layer_us + x->fit->box_us) * 1e-6,
        .experts_s = experts,
    };
    const double other = out->card_s + out->layers_s;
    out->tok_s = inverse(other + experts);
    const double each = products(x, &x->d->experts) / uses;
    const double t = other + s->n_layer * layer_with_residents(x, experts / uses, each);
    out->resident_tok_s = inverse(t);
    if (x->f->fits && !x->f->resident && x->r->disk_gbs > 0.0) {
        out->streamed_tok_s = inverse(with_reads(x, t, experts));
    }
}

/* The longer side of a layer's experts: `met`, of which `there` are on the card and x are copied.
 * */
typedef struct sides {
    double met, there, host_each, card_each, copy_each;
    double ahead; /* copies that run while the layer's attention does */
} sides;

static double longer_side(const sides *y, double x)
{
    const double copies = larger(x - y->ahead, 0.0) * y->copy_each;
    const double card = larger(copies, (y->there + x) * y->card_each);
    return larger(card, (y->met - y->there - x) * y->host_each);
}

/* One side grows with x, the other falls: where they meet, or an end. */
static double best_copies(const sides *y)
{
    double lo = 0.0, hi = y->met - y->there;
    for (int i = 0; i < 60; i++) {
        const double x = 0.5 * (lo + hi);
        const double host = (y->met - y->there - x) * y->host_each;
        if (longer_side(y, x) > host)
            hi = x;
        else
            lo = x;
    }
    return lo;
}

static void prefill(const timing *x, uint64_t pos, uint32_t n_batch, double host_tok_s,
                    fg_gpu_card_speed *out)
{
    const fg_shape *s = &x->d->shape;
    const double n = n_batch, R = x->c->read_gbs * 1e9, gemm = x->c->gemm_gmacs;
    const double used = (double)s->n_used / s->n_expert, uses = (double)s->n_layer * s->n_used;
    sides y = {.met = s->n_expert * (1.0 - pow(1.0 - used, n))};
    const double rows = n * s->n_used / y.met, bytes = sum_of(x->d->experts.bytes) / uses;
    const double read = seconds_of(x->d->experts.bytes, x->r->gemv_gbs) * 1e-9 / uses;
    const double macs = seconds_of(x->d->experts.gmac, x->r->expert_gmacs) * rows / uses;
    y.there = y.met * share_of(x->m);
    y.host_each =
        larger(read, macs) * x->d->experts.batch_imbalance * (1.0 + x->o->fit.other_prefill);
    y.card_each = larger(bytes / R, rows * sum_of(x->d->experts.gmac) / uses / gemm);
    y.copy_each = bytes / (x->c->copy_gbs * 1e9);
    const double attn =
        n * (attention_gmac(s, (double)pos + 0.5 * n) / x->c->attn_gmacs +
             lightning_gmac(s) / x->c->light_gmacs + s->n_layer * x->c->row_us * 1e-6);
    *out = (fg_gpu_card_speed){.pos = pos, .host_tok_s = host_tok_s};
    out->card_s = n * sum_of(x->d->dense.gmac) / gemm + attn + sum_of(x->d->head.bytes) / R;
    out->layers_s = s->n_layer * (x->fit->layer_us + x->fit->box_us) * 1e-6;
    const double other = out->card_s + out->layers_s;
    y.ahead = smaller(FG_GPU_SLOTS, other / s->n_layer / y.copy_each);
    y.ahead *= (s->n_layer - 1.0) / s->n_layer; /* the first layer has none before it */
    const bool streams = x->m->streams && (x->f->resident || !x->f->fits);
    if (streams) out->n_copied = best_copies(&y);
    out->experts_s = s->n_layer * longer_side(&y, 0.0);
    out->tok_s = n * inverse(other + out->experts_s);
    out->shared_tok_s = n * inverse(other + s->n_layer * longer_side(&y, out->n_copied));
    if (streams) {
        out->copied_tok_s = n * inverse(other + s->n_layer * longer_side(&y, y.met - y.there));
    }
}

uint32_t fg_gpu_card_batch(const fg_gpu_card *c, const fg_file_plan *p, const fg_demand *d,
                           uint32_t n_thread, const fg_forecast_opts *o)
{
    const fg_gpu_memory_opts mo = {
        .bytes = c->bytes, .n_ctx = o->n_ctx, .kv = fg_kv_resolve(o->kv, d->quantized)};
    const uint32_t most = fg_gpu_memory_rows(p, &d->forms, &mo);
    return most <= o->n_batch ? o->n_batch : fg_forecast_batch(d, n_thread, o, most);
}

fg_status fg_gpu_card_forecast_make(fg_gpu_card_forecast *out, const fg_gpu_card *c,
                                    const fg_gpu_card_fit *fit, const fg_file_plan *p,
                                    const fg_demand *d, const fg_rates *r, const fg_forecast *f,
                                    const fg_forecast_opts *o, uint32_t n_batch, fg_err *err)
{
    *out = (fg_gpu_card_forecast){0};
    const fg_gpu_memory_opts mo = {.bytes = c->bytes,
                                   .n_ctx = o->n_ctx,
                                   .n_batch = n_batch,
                                   .kv = fg_kv_resolve(o->kv, d->quantized)};
    FG_TRY(fg_gpu_memory_make(&out->memory, p, &d->forms, &mo, err));
    const timing x = {.c = c, .fit = fit, .d = d, .r = r, .o = o, .m = &out->memory, .f = f};
    if (!out->memory.fits) return FG_OK;
    for (int i = 0; i < 2; i++) {
        decode(&x, f->decode[i].pos, f->decode[i].resident_tok_s, &out->decode[i]);
        prefill(&x, f->prefill[i].pos, n_batch, f->prefill[i].resident_tok_s, &out->prefill[i]);
    }
    return FG_OK;
}
