/* SPDX-License-Identifier: MIT
 *
 * The published controllers, one small function a component, on eight entries at once.  Errors are
 * e = r - r^; the "time" of an entry is the number of its visit, and its state is its own.
 *
 * The papers' full texts could not be had.  fhan, fal and the observer are Han's of 2009 ("From PID
 * to active disturbance rejection control"); how ADS (arXiv 2401.07012) puts them together is known
 * from a review of it, the gains of NPALF (arXiv 2208.02513) are those usual for nonlinear PID.
 *
 * f32 without libm, so that every level gives the same bits.
 */
#ifndef FG_SIMD_FACTOR_MATH_H
#define FG_SIMD_FACTOR_MATH_H

#include "simd/factor_job.h"
#include "simd/v8.h"

/* e^x as in v16_math.h, for |x| <= 87 (clamped); NaN for NaN. */
V8_FN v8 v8_exp(v8 x)
{
    const v8 bias = v8_set1(12582912.0f);
    x = v8_min(v8_set1(87.0f), v8_max(v8_set1(-87.0f), x));
    const v8 t = v8_fma(x, v8_set1(0x1.715476p+0f), bias), n = v8_sub(t, bias);
    v8 r = v8_fma(n, v8_set1(-0x1.62e4p-1f), x);
    r = v8_fma(n, v8_set1(-0x1.7f7d1cp-20f), r);
    v8 p = v8_set1(0x1.6a3fb8p-10f);
    p = v8_fma(p, r, v8_set1(0x1.1239e0p-7f));
    p = v8_fma(p, r, v8_set1(0x1.5558bep-5f));
    p = v8_fma(p, r, v8_set1(0x1.555492p-3f));
    p = v8_fma(p, r, v8_set1(0x1.fffffcp-2f));
    p = v8_fma(p, r, v8_set1(1.0f));
    p = v8_fma(p, r, v8_set1(1.0f));
    return v8_mul(p, v8_pow2(t));
}

/* ln x, x > 0 and normal: k ln 2 + 2 artanh s, s = (m - 1) / (m + 1), m in [1/sqrt 2, sqrt 2]. */
V8_FN v8 v8_log(v8 x)
{
    v8 k, m = v8_frexp(x, &k);
    const v8 root = v8_set1(1.41421356f), one = v8_set1(1.0f);
    k = v8_pick(m, root, v8_add(k, one), k);
    m = v8_pick(m, root, v8_mul(m, v8_set1(0.5f)), m);
    const v8 s = v8_div(v8_sub(m, one), v8_add(m, one)), q = v8_mul(s, s);
    v8 p = v8_set1(2.0f / 9.0f);
    p = v8_fma(p, q, v8_set1(2.0f / 7.0f));
    p = v8_fma(p, q, v8_set1(2.0f / 5.0f));
    p = v8_fma(p, q, v8_set1(2.0f / 3.0f));
    p = v8_fma(p, q, v8_set1(2.0f));
    return v8_fma(k, v8_set1(0.693147181f), v8_mul(p, s));
}

V8_FN v8 v8_sign(v8 x)
{
    const v8 zero = v8_set1(0.0f);
    return v8_pick(x, zero, v8_set1(1.0f), v8_pick(zero, x, v8_set1(-1.0f), zero));
}

/* 2 / (e^x + e^-x) */
V8_FN v8 v8_sech(v8 x)
{
    const v8 t = v8_exp(v8_sub(v8_set1(0.0f), v8_abs(x)));
    return v8_div(v8_add(t, t), v8_fma(t, t, v8_set1(1.0f)));
}

/* m^(alpha - 1), m > 0 and normal */
V8_FN v8 fg_fal_weight(v8 m, float alpha)
{
    return v8_exp(v8_mul(v8_set1(alpha - 1.0f), v8_log(m)));
}

/* fal(e, alpha, delta) = e / delta^(1 - alpha) where |e| <= delta, else |e|^alpha sign e; both are
 * e max(|e|, delta)^(alpha - 1).  `inner` is delta^(alpha - 1) by fg_fal_weight: most groups of
 * some errors need no more. */
V8_FN v8 fg_fal(v8 e, float alpha, float delta, float inner)
{
    const v8 d = v8_set1(delta), m = v8_abs(e);
    if (!v8_any_above(m, d)) return v8_mul(e, v8_set1(inner));
    return v8_mul(e, fg_fal_weight(v8_max(m, d), alpha));
}

/* With alpha 1/2, 1/4 and 3/4, by square roots alone, and by none where |e| <= delta. */
typedef struct fg_fal_roots {
    float delta, half, quarter, three_quarters; /* delta to the -1/2, -3/4, -1/4 */
} fg_fal_roots;
static inline fg_fal_roots fg_fal_roots_of(float delta)
{
    const float q = sqrtf(delta);
    return (fg_fal_roots){delta, 1.0f / q, 1.0f / (q * sqrtf(q)), 1.0f / sqrtf(q)};
}
V8_FN void fg_fal_half_quarter(v8 e, const fg_fal_roots *o, v8 *half, v8 *quarter)
{
    const v8 d = v8_set1(o->delta), m = v8_abs(e);
    *half = v8_mul(e, v8_set1(o->half));
    *quarter = v8_mul(e, v8_set1(o->quarter));
    if (!v8_any_above(m, d)) return;
    const v8 q = v8_sqrt(v8_max(m, d)), outer = v8_div(e, q);
    *half = v8_pick(m, d, outer, *half);
    *quarter = v8_pick(m, d, v8_div(outer, v8_sqrt(q)), *quarter);
}
V8_FN v8 fg_fal_three_quarters(v8 e, const fg_fal_roots *o)
{
    const v8 d = v8_set1(o->delta), m = v8_abs(e), q = v8_sqrt(v8_max(m, d));
    const v8 outer = v8_copysign(v8_mul(q, v8_sqrt(q)), e);
    return v8_pick(m, d, outer, v8_mul(e, v8_set1(o->three_quarters)));
}

/* Han's time-optimal synthesis: the acceleration, at most r0, that brings position x1 and speed x2
 * to rest in steps of h. */
V8_FN v8 fg_fhan(v8 x1, v8 x2, float r0, float h)
{
    const float d1 = r0 * h * h;
    const v8 d = v8_set1(d1), half = v8_set1(0.5f);
    const v8 a0 = v8_mul(v8_set1(h), x2), y = v8_add(x1, a0);
    const v8 a1 = v8_sqrt(v8_mul(d, v8_fma(v8_set1(8.0f), v8_abs(y), d)));
    const v8 a2 = v8_add(a0, v8_mul(v8_sign(y), v8_mul(half, v8_sub(a1, d))));
    const v8 sy = v8_mul(half, v8_sub(v8_sign(v8_add(y, d)), v8_sign(v8_sub(y, d))));
    const v8 a = v8_fma(v8_sub(v8_add(a0, y), a2), sy, a2);
    const v8 sa = v8_mul(half, v8_sub(v8_sign(v8_add(a, d)), v8_sign(v8_sub(a, d))));
    const v8 s = v8_sign(a);
    const v8 inner = v8_fma(v8_sub(v8_div(a, d), s), sa, s);
    return v8_mul(v8_set1(-r0), inner);
}

/* Tracking differentiator: v[0] follows the input r, v[1] is its derivative. */
V8_FN void fg_tracking(v8 r, v8 v[2], float r0, float h)
{
    const v8 fh = fg_fhan(v8_sub(v[0], r), v[1], r0, h);
    v[0] = v8_fma(v8_set1(h), v[1], v[0]);
    v[1] = v8_fma(v8_set1(h), fh, v[1]);
}

/* Extended state observer of the prediction: z[0] follows it, z[1] is its derivative, z[2] what
 * else moves it; u is the last control, weighed by b0. */
typedef struct fg_eso {
    float h, b01, b02, b03, b0;
    fg_fal_roots roots;
} fg_eso;
V8_FN void fg_observe(v8 rh, v8 u, v8 z[3], const fg_eso *o)
{
    const v8 e = v8_sub(z[0], rh), h = v8_set1(o->h);
    v8 half, quarter;
    fg_fal_half_quarter(e, &o->roots, &half, &quarter);
    z[0] = v8_fma(h, v8_fma(v8_set1(-o->b01), e, z[1]), z[0]);
    const v8 push = v8_fma(v8_set1(o->b0), u, v8_fma(v8_set1(-o->b02), half, z[2]));
    z[1] = v8_fma(h, push, z[1]);
    z[2] = v8_fma(v8_mul(h, v8_set1(-o->b03)), quarter, z[2]);
}

/* ---- refined errors: s is [state][8], `first` starts it ---- */

/* What follows from a job's gains, once for many groups. */
typedef struct fg_factor_fixed {
    fg_eso eso;
    float inner1, inner2; /* of both feedbacks' fal */
} fg_factor_fixed;
static inline fg_factor_fixed fg_factor_fixed_of(const fg_factor_job *j)
{
    const fg_factor_gains *g = &j->gain;
    fg_factor_fixed f;
    memset(&f, 0, sizeof f);
    if (j->rule == FG_FACTOR_ADS_CHEAP) {
        f.eso = (fg_eso){1.0f,         g->cheap.b01, g->cheap.b02,
                         g->cheap.b03, 0.0f,         fg_fal_roots_of(g->cheap.delta)};
    } else if (j->rule == FG_FACTOR_ADS) {
        float w[8];
        f.eso = (fg_eso){g->ads.h,   g->ads.b01, g->ads.b02,
                         g->ads.b03, g->ads.b0,  fg_fal_roots_of(g->ads.delta)};
        v8_store(w, fg_fal_weight(v8_set1(g->ads.delta), g->ads.a1));
        f.inner1 = w[0];
        v8_store(w, fg_fal_weight(v8_set1(g->ads.delta), g->ads.a2));
        f.inner2 = w[0];
    }
    return f;
}

/* PSL: PID with the sum and the last of the entry's errors. */
V8_FN v8 fg_refine_psl(v8 e, float *s, const fg_factor_job *j)
{
    const v8 prev = j->first ? e : v8_load(s + 8);
    const v8 sum = j->first ? e : v8_add(v8_load(s), e);
    v8_store(s, sum);
    v8_store(s + 8, e);
    const v8 pi = v8_fma(v8_set1(j->gain.psl.ki), sum, v8_mul(v8_set1(j->gain.psl.kp), e));
    return v8_fma(v8_set1(j->gain.psl.kd), v8_sub(e, prev), pi);
}

/* Gains of the nonlinear PID: kp = ap + bp (1 - sech cp e), ki = ai sech ci e,
 * kd = ad + bd / (1 + cd exp dd e). */
typedef struct fg_npid_gains {
    v8 kp, ki, kd;
} fg_npid_gains;
V8_FN fg_npid_gains fg_npid_at(v8 e, const fg_factor_gains *g)
{
    const v8 one = v8_set1(1.0f);
    const v8 p = v8_sub(one, v8_sech(v8_mul(v8_set1(g->npid.cp), e)));
    const v8 d = v8_exp(v8_mul(v8_set1(g->npid.dd), e));
    return (fg_npid_gains){
        .kp = v8_fma(v8_set1(g->npid.bp), p, v8_set1(g->npid.ap)),
        .ki = v8_mul(v8_set1(g->npid.ai), v8_sech(v8_mul(v8_set1(g->npid.ci), e))),
        .kd = v8_add(v8_set1(g->npid.ad),
                     v8_div(v8_set1(g->npid.bd), v8_fma(v8_set1(g->npid.cd), d, one)))};
}

V8_FN v8 fg_refine_npid(v8 e, float *s, const fg_factor_job *j)
{
    const v8 prev = j->first ? e : v8_load(s + 8);
    const v8 sum = j->first ? e : v8_add(v8_load(s), e);
    v8_store(s, sum);
    v8_store(s + 8, e);
    const fg_npid_gains k = fg_npid_at(e, &j->gain);
    return v8_fma(k.kd, v8_sub(e, prev), v8_fma(k.ki, sum, v8_mul(k.kp, e)));
}

/* ADS: error feedback between the tracked value and the observed prediction and between their
 * derivatives, less what the observer holds for a disturbance. */
V8_FN v8 fg_refine_ads(v8 r, v8 rh, float *s, const fg_factor_job *j, const fg_factor_fixed *f)
{
    const fg_factor_gains *g = &j->gain;
    const v8 zero = v8_set1(0.0f);
    v8 v[2] = {rh, zero}, z[3] = {rh, zero, zero}, u = zero;
    if (!j->first) {
        for (int i = 0; i < 2; i++) v[i] = v8_load(s + 8 * i);
        for (int i = 0; i < 3; i++) z[i] = v8_load(s + 16 + 8 * i);
        u = v8_load(s + 40);
    }
    fg_tracking(r, v, g->ads.r0, g->ads.h);
    fg_observe(rh, u, z, &f->eso);
    const v8 f1 = fg_fal(v8_sub(v[0], z[0]), g->ads.a1, g->ads.delta, f->inner1);
    const v8 f2 = fg_fal(v8_sub(v[1], z[1]), g->ads.a2, g->ads.delta, f->inner2);
    u = v8_fma(v8_set1(g->ads.k2), f2, v8_mul(v8_set1(g->ads.k1), f1));
    u = v8_fma(v8_set1(-g->ads.k3), z[2], u);
    for (int i = 0; i < 2; i++) v8_store(s + 8 * i, v[i]);
    for (int i = 0; i < 3; i++) v8_store(s + 16 + 8 * i, z[i]);
    v8_store(s + 40, u);
    return u;
}

/* The same without tracking (the value is constant, v1 = r, v2 = 0), h = 1, exponent 3/4 and linear
 * in the derivative. */
V8_FN v8 fg_refine_cheap(v8 r, v8 rh, float *s, const fg_factor_job *j, const fg_factor_fixed *f)
{
    const fg_factor_gains *g = &j->gain;
    const v8 zero = v8_set1(0.0f);
    v8 z[3] = {rh, zero, zero};
    if (!j->first) {
        for (int i = 0; i < 3; i++) z[i] = v8_load(s + 8 * i);
    }
    fg_observe(rh, zero, z, &f->eso);
    for (int i = 0; i < 3; i++) v8_store(s + 8 * i, z[i]);
    const v8 f1 = fg_fal_three_quarters(v8_sub(r, z[0]), &f->eso.roots);
    const v8 u = v8_fma(v8_set1(-g->cheap.k2), z[1], v8_mul(v8_set1(g->cheap.k1), f1));
    return v8_fma(v8_set1(-g->cheap.k3), z[2], u);
}

#endif
