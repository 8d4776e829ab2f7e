/* SPDX-License-Identifier: MIT
 *
 * v8, eight f32 lanes, for factor_body.h: ranks of latent factors are small, so that sixteen lanes
 * (vec_scalar.h) would be half empty.  The same rules: each operation rounds once to nearest even;
 * max(a, b) is a > b ? a : b; sums join lane i with i+4, then i+2, i+1.  Plain C is the reference.
 */
#ifndef FG_SIMD_V8_H
#define FG_SIMD_V8_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if (defined(__AVX2__) && defined(__FMA__)) || defined(__aarch64__)
#define V8_FN static inline __attribute__((always_inline, unused))
#else /* the reference need not be fast, and compilers take minutes over it once all is inlined */
#define V8_FN static __attribute__((noinline, unused))
#endif

#if defined(__AVX2__) && defined(__FMA__)

#include <immintrin.h>

typedef __m256 v8;

V8_FN v8 v8_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
V8_FN void v8_store(float *p, v8 a)
{
    _mm256_storeu_ps(p, a);
}
V8_FN v8 v8_set1(float x)
{
    return _mm256_set1_ps(x);
}
V8_FN v8 v8_add(v8 a, v8 b)
{
    return _mm256_add_ps(a, b);
}
V8_FN v8 v8_sub(v8 a, v8 b)
{
    return _mm256_sub_ps(a, b);
}
V8_FN v8 v8_mul(v8 a, v8 b)
{
    return _mm256_mul_ps(a, b);
}
V8_FN v8 v8_div(v8 a, v8 b)
{
    return _mm256_div_ps(a, b);
}
V8_FN v8 v8_fma(v8 a, v8 b, v8 c)
{
    return _mm256_fmadd_ps(a, b, c);
}
V8_FN v8 v8_sqrt(v8 a)
{
    return _mm256_sqrt_ps(a);
}
V8_FN v8 v8_max(v8 a, v8 b)
{
    return _mm256_max_ps(a, b);
}
V8_FN v8 v8_min(v8 a, v8 b)
{
    return _mm256_min_ps(a, b);
}
/* |a|, and |a| with the sign of b. */
V8_FN v8 v8_abs(v8 a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
V8_FN v8 v8_copysign(v8 a, v8 b)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(sign, a), _mm256_and_ps(sign, b));
}
/* a > b ? c : d */
V8_FN v8 v8_pick(v8 a, v8 b, v8 c, v8 d)
{
    return _mm256_blendv_ps(d, c, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}
/* a > b in any lane */
V8_FN int v8_any_above(v8 a, v8 b)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ));
}
/* x > 0 and normal: mantissa in [1, 2) and, as a float, exponent. */
V8_FN v8 v8_frexp(v8 x, v8 *exponent)
{
    const __m256i u = _mm256_castps_si256(x);
    const __m256i k = _mm256_sub_epi32(_mm256_srli_epi32(u, 23), _mm256_set1_epi32(127));
    *exponent = _mm256_cvtepi32_ps(k);
    const __m256i m = _mm256_and_si256(u, _mm256_set1_epi32(0x7fffff));
    return _mm256_castsi256_ps(_mm256_or_si256(m, _mm256_set1_epi32(0x3f800000)));
}
/* t = 1.5 * 2^23 + n with integer n, -126 <= n <= 127: 2^n. */
V8_FN v8 v8_pow2(v8 t)
{
    const __m256i n = _mm256_add_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(n, 23));
}
/* Lane i: the sum of a[i]. */
V8_FN v8 v8_sums(const v8 *a)
{
    __m256 h[4], q[2];
    for (int i = 0; i < 4; i++) {
        h[i] = _mm256_add_ps(_mm256_permute2f128_ps(a[i], a[i + 4], 0x20),
                             _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
    for (int i = 0; i < 2; i++) { /* lanes 0, 1 of h[2i], then of h[2i + 1] */
        q[i] = _mm256_add_ps(_mm256_shuffle_ps(h[2 * i], h[2 * i + 1], 0x44),
                             _mm256_shuffle_ps(h[2 * i], h[2 * i + 1], 0xee));
    }
    return _mm256_add_ps(_mm256_shuffle_ps(q[0], q[1], 0x88), _mm256_shuffle_ps(q[0], q[1], 0xdd));
}

#elif defined(__aarch64__)

#include <arm_neon.h>

typedef struct v8 {
    float32x4_t lo, hi;
} v8;

V8_FN v8 v8_load(const float *p)
{
    return (v8){vld1q_f32(p), vld1q_f32(p + 4)};
}
V8_FN void v8_store(float *p, v8 a)
{
    vst1q_f32(p, a.lo);
    vst1q_f32(p + 4, a.hi);
}
V8_FN v8 v8_set1(float x)
{
    return (v8){vdupq_n_f32(x), vdupq_n_f32(x)};
}
V8_FN v8 v8_add(v8 a, v8 b)
{
    return (v8){vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)};
}
V8_FN v8 v8_sub(v8 a, v8 b)
{
    return (v8){vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)};
}
V8_FN v8 v8_mul(v8 a, v8 b)
{
    return (v8){vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)};
}
V8_FN v8 v8_div(v8 a, v8 b)
{
    return (v8){vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)};
}
V8_FN v8 v8_fma(v8 a, v8 b, v8 c)
{
    return (v8){vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)};
}
V8_FN v8 v8_sqrt(v8 a)
{
    return (v8){vsqrtq_f32(a.lo), vsqrtq_f32(a.hi)};
}
V8_FN v8 v8_pick(v8 a, v8 b, v8 c, v8 d)
{
    return (v8){vbslq_f32(vcgtq_f32(a.lo, b.lo), c.lo, d.lo),
                vbslq_f32(vcgtq_f32(a.hi, b.hi), c.hi, d.hi)};
}
V8_FN int v8_any_above(v8 a, v8 b)
{
    return vmaxvq_u32(vorrq_u32(vcgtq_f32(a.lo, b.lo), vcgtq_f32(a.hi, b.hi))) != 0;
}
V8_FN v8 v8_max(v8 a, v8 b)
{
    return v8_pick(a, b, a, b);
}
V8_FN v8 v8_min(v8 a, v8 b)
{
    return v8_pick(b, a, a, b);
}
V8_FN v8 v8_abs(v8 a)
{
    return (v8){vabsq_f32(a.lo), vabsq_f32(a.hi)};
}
V8_FN v8 v8_copysign(v8 a, v8 b)
{
    const uint32x4_t sign = vdupq_n_u32(0x80000000u);
    return (v8){vbslq_f32(sign, b.lo, a.lo), vbslq_f32(sign, b.hi, a.hi)};
}
V8_FN float32x4_t v8_frexp_quad(float32x4_t x, float32x4_t *exponent)
{
    const uint32x4_t u = vreinterpretq_u32_f32(x);
    const int32x4_t k = vsubq_s32(vreinterpretq_s32_u32(vshrq_n_u32(u, 23)), vdupq_n_s32(127));
    *exponent = vcvtq_f32_s32(k);
    const uint32x4_t m = vandq_u32(u, vdupq_n_u32(0x7fffff));
    return vreinterpretq_f32_u32(vorrq_u32(m, vdupq_n_u32(0x3f800000)));
}
V8_FN v8 v8_frexp(v8 x, v8 *exponent)
{
    v8 m;
    m.lo = v8_frexp_quad(x.lo, &exponent->lo);
    m.hi = v8_frexp_quad(x.hi, &exponent->hi);
    return m;
}
V8_FN float32x4_t v8_pow2_quad(float32x4_t t)
{
    const int32x4_t n = vaddq_s32(vreinterpretq_s32_f32(t), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(n, 23));
}
V8_FN v8 v8_pow2(v8 t)
{
    return (v8){v8_pow2_quad(t.lo), v8_pow2_quad(t.hi)};
}
V8_FN float v8_sum1(v8 a)
{
    const float32x4_t x = vaddq_f32(a.lo, a.hi);
    const float32x2_t s = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    return vget_lane_f32(s, 0) + vget_lane_f32(s, 1);
}
V8_FN v8 v8_sums(const v8 *a)
{
    float s[8];
    for (int i = 0; i < 8; i++) s[i] = v8_sum1(a[i]);
    return v8_load(s);
}

#else

typedef struct v8 {
    float f[8];
} v8;

#define V8_EACH(expr)                                                                              \
    v8 r_;                                                                                         \
    for (int i = 0; i < 8; i++) r_.f[i] = (expr);                                                  \
    return r_

V8_FN v8 v8_load(const float *p)
{
    v8 r;
    memcpy(r.f, p, sizeof r.f);
    return r;
}
V8_FN void v8_store(float *p, v8 a)
{
    memcpy(p, a.f, sizeof a.f);
}
V8_FN v8 v8_set1(float x)
{
    V8_EACH(x);
}
V8_FN v8 v8_add(v8 a, v8 b)
{
    V8_EACH(a.f[i] + b.f[i]);
}
V8_FN v8 v8_sub(v8 a, v8 b)
{
    V8_EACH(a.f[i] - b.f[i]);
}
V8_FN v8 v8_mul(v8 a, v8 b)
{
    V8_EACH(a.f[i] * b.f[i]);
}
V8_FN v8 v8_div(v8 a, v8 b)
{
    V8_EACH(a.f[i] / b.f[i]);
}
V8_FN v8 v8_fma(v8 a, v8 b, v8 c)
{
    V8_EACH(fmaf(a.f[i], b.f[i], c.f[i]));
}
V8_FN v8 v8_sqrt(v8 a)
{
    V8_EACH(sqrtf(a.f[i]));
}
V8_FN v8 v8_max(v8 a, v8 b)
{
    V8_EACH(a.f[i] > b.f[i] ? a.f[i] : b.f[i]);
}
V8_FN v8 v8_min(v8 a, v8 b)
{
    V8_EACH(a.f[i] < b.f[i] ? a.f[i] : b.f[i]);
}
V8_FN v8 v8_abs(v8 a)
{
    V8_EACH(fabsf(a.f[i]));
}
V8_FN v8 v8_copysign(v8 a, v8 b)
{
    V8_EACH(copysignf(a.f[i], b.f[i]));
}
V8_FN v8 v8_pick(v8 a, v8 b, v8 c, v8 d)
{
    V8_EACH(a.f[i] > b.f[i] ? c.f[i] : d.f[i]);
}
V8_FN int v8_any_above(v8 a, v8 b)
{
    int any = 0;
    for (int i = 0; i < 8; i++) any |= a.f[i] > b.f[i];
    return any;
}
V8_FN v8 v8_frexp(v8 x, v8 *exponent)
{
    v8 m;
    for (int i = 0; i < 8; i++) {
        uint32_t u;
        memcpy(&u, &x.f[i], sizeof u);
        exponent->f[i] = (float)((int32_t)(u >> 23) - 127);
        u = (u & 0x7fffffu) | 0x3f800000u;
        memcpy(&m.f[i], &u, sizeof u);
    }
    return m;
}
V8_FN v8 v8_pow2(v8 t)
{
    v8 r;
    for (int i = 0; i < 8; i++) {
        uint32_t u;
        memcpy(&u, &t.f[i], sizeof u);
        u = (u + 127u) << 23;
        memcpy(&r.f[i], &u, sizeof u);
    }
    return r;
}
V8_FN v8 v8_sums(const v8 *a)
{
    v8 r;
    for (int i = 0; i < 8; i++) {
        float s[8];
        memcpy(s, a[i].f, sizeof s);
        for (int w = 4; w > 0; w /= 2) {
            for (int k = 0; k < w; k++) s[k] = s[k] + s[k + w];
        }
        r.f[i] = s[0];
    }
    return r;
}

#undef V8_EACH

#endif
#endif
