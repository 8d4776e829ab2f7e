/* SPDX-License-Identifier: MIT
 *
 * v16 for AArch64 NEON: four q registers.  Rules in vec_scalar.h.  vmaxq and vminq return NaN when
 * either operand is, hence the compare and select.
 */
#ifndef FG_SIMD_VEC_NEON_H
#define FG_SIMD_VEC_NEON_H

#include <stddef.h>
#include <stdint.h>

#if defined(__aarch64__) /* else empty, so that the header compiles anywhere */

#include <arm_neon.h>

#define V16_FN static inline __attribute__((always_inline, unused))

enum { V16_TILE = 4 }; /* 16 accumulators, 4 vectors, 4 broadcasts of 32 registers */

typedef struct v16 {
    float32x4_t q0, q1, q2, q3; /* lanes 0-3, 4-7, 8-11, 12-15 */
} v16;
typedef struct v16i {
    int32x4_t q0, q1, q2, q3;
} v16i;

V16_FN v16 v16_load(const float *p)
{
    return (v16){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
V16_FN void v16_store(float *p, v16 a)
{
    vst1q_f32(p, a.q0);
    vst1q_f32(p + 4, a.q1);
    vst1q_f32(p + 8, a.q2);
    vst1q_f32(p + 12, a.q3);
}
V16_FN v16 v16_load_bf16(const uint16_t *p)
{
    const uint16x8_t a = vld1q_u16(p), b = vld1q_u16(p + 8);
    return (v16){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(a), 16)),
                 vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(a), 16)),
                 vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(b), 16)),
                 vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(b), 16))};
}
V16_FN v16 v16_load_f16(const uint16_t *p)
{
    const float16x8_t a = vreinterpretq_f16_u16(vld1q_u16(p));
    const float16x8_t b = vreinterpretq_f16_u16(vld1q_u16(p + 8));
    return (v16){vcvt_f32_f16(vget_low_f16(a)), vcvt_high_f32_f16(a), vcvt_f32_f16(vget_low_f16(b)),
                 vcvt_high_f32_f16(b)};
}
V16_FN v16 v16_load_i32(const int32_t *p)
{
    return (v16){vcvtq_f32_s32(vld1q_s32(p)), vcvtq_f32_s32(vld1q_s32(p + 4)),
                 vcvtq_f32_s32(vld1q_s32(p + 8)), vcvtq_f32_s32(vld1q_s32(p + 12))};
}
V16_FN v16 v16_set1(float x)
{
    const float32x4_t q = vdupq_n_f32(x);
    return (v16){q, q, q, q};
}
V16_FN v16 v16_zero(void)
{
    return v16_set1(0.0f);
}
V16_FN float v16_first(v16 a)
{
    return vgetq_lane_f32(a.q0, 0);
}

V16_FN v16 v16_add(v16 a, v16 b)
{
    return (v16){vaddq_f32(a.q0, b.q0), vaddq_f32(a.q1, b.q1), vaddq_f32(a.q2, b.q2),
                 vaddq_f32(a.q3, b.q3)};
}
V16_FN v16 v16_sub(v16 a, v16 b)
{
    return (v16){vsubq_f32(a.q0, b.q0), vsubq_f32(a.q1, b.q1), vsubq_f32(a.q2, b.q2),
                 vsubq_f32(a.q3, b.q3)};
}
V16_FN v16 v16_mul(v16 a, v16 b)
{
    return (v16){vmulq_f32(a.q0, b.q0), vmulq_f32(a.q1, b.q1), vmulq_f32(a.q2, b.q2),
                 vmulq_f32(a.q3, b.q3)};
}
V16_FN v16 v16_div(v16 a, v16 b)
{
    return (v16){vdivq_f32(a.q0, b.q0), vdivq_f32(a.q1, b.q1), vdivq_f32(a.q2, b.q2),
                 vdivq_f32(a.q3, b.q3)};
}
V16_FN v16 v16_fma(v16 a, v16 b, v16 c)
{
    return (v16){vfmaq_f32(c.q0, a.q0, b.q0), vfmaq_f32(c.q1, a.q1, b.q1),
                 vfmaq_f32(c.q2, a.q2, b.q2), vfmaq_f32(c.q3, a.q3, b.q3)};
}
V16_FN float32x4_t v16_max_quad(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
V16_FN float32x4_t v16_min_quad(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
V16_FN v16 v16_max(v16 a, v16 b)
{
    return (v16){v16_max_quad(a.q0, b.q0), v16_max_quad(a.q1, b.q1), v16_max_quad(a.q2, b.q2),
                 v16_max_quad(a.q3, b.q3)};
}
V16_FN v16 v16_min(v16 a, v16 b)
{
    return (v16){v16_min_quad(a.q0, b.q0), v16_min_quad(a.q1, b.q1), v16_min_quad(a.q2, b.q2),
                 v16_min_quad(a.q3, b.q3)};
}
V16_FN v16 v16_swap(v16 a, int d)
{
    switch (d) {
    case 8: return (v16){a.q2, a.q3, a.q0, a.q1};
    case 4: return (v16){a.q1, a.q0, a.q3, a.q2};
    case 2:
        return (v16){vextq_f32(a.q0, a.q0, 2), vextq_f32(a.q1, a.q1, 2), vextq_f32(a.q2, a.q2, 2),
                     vextq_f32(a.q3, a.q3, 2)};
    default:
        return (v16){vrev64q_f32(a.q0), vrev64q_f32(a.q1), vrev64q_f32(a.q2), vrev64q_f32(a.q3)};
    }
}
V16_FN float v16_sum(v16 a)
{
    const float32x4_t x = vaddq_f32(vaddq_f32(a.q0, a.q2), vaddq_f32(a.q1, a.q3));
    const float32x2_t s = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    return vget_lane_f32(s, 0) + vget_lane_f32(s, 1);
}
V16_FN float v16_hmax(v16 a)
{
    const float32x4_t x = v16_max_quad(v16_max_quad(a.q0, a.q2), v16_max_quad(a.q1, a.q3));
    const float32x2_t l = vget_low_f32(x), h = vget_high_f32(x);
    const float32x2_t s = vbsl_f32(vcgt_f32(l, h), l, h);
    const float s0 = vget_lane_f32(s, 0), s1 = vget_lane_f32(s, 1);
    return s0 > s1 ? s0 : s1;
}
V16_FN float32x4_t v16_pow2_quad(float32x4_t t)
{
    const int32x4_t n = vaddq_s32(vreinterpretq_s32_f32(t), vdupq_n_s32(126));
    return vreinterpretq_f32_s32(vshlq_n_s32(n, 23));
}
V16_FN v16 v16_pow2_below(v16 t)
{
    return (v16){v16_pow2_quad(t.q0), v16_pow2_quad(t.q1), v16_pow2_quad(t.q2),
                 v16_pow2_quad(t.q3)};
}

V16_FN int32x4_t v16i_abs_quad(float32x4_t a)
{
    return vandq_s32(vreinterpretq_s32_f32(a), vdupq_n_s32(0x7fffffff));
}
V16_FN v16i v16i_abs_bits(v16 a)
{
    return (v16i){v16i_abs_quad(a.q0), v16i_abs_quad(a.q1), v16i_abs_quad(a.q2),
                  v16i_abs_quad(a.q3)};
}
V16_FN v16i v16i_from_biased(v16 t)
{
    const int32x4_t b = vdupq_n_s32(0x4b400000);
    return (v16i){
        vsubq_s32(vreinterpretq_s32_f32(t.q0), b), vsubq_s32(vreinterpretq_s32_f32(t.q1), b),
        vsubq_s32(vreinterpretq_s32_f32(t.q2), b), vsubq_s32(vreinterpretq_s32_f32(t.q3), b)};
}
V16_FN v16i v16i_zero(void)
{
    const int32x4_t q = vdupq_n_s32(0);
    return (v16i){q, q, q, q};
}
V16_FN v16i v16i_add(v16i a, v16i b)
{
    return (v16i){vaddq_s32(a.q0, b.q0), vaddq_s32(a.q1, b.q1), vaddq_s32(a.q2, b.q2),
                  vaddq_s32(a.q3, b.q3)};
}
V16_FN v16i v16i_max(v16i a, v16i b)
{
    return (v16i){vmaxq_s32(a.q0, b.q0), vmaxq_s32(a.q1, b.q1), vmaxq_s32(a.q2, b.q2),
                  vmaxq_s32(a.q3, b.q3)};
}
V16_FN int32_t v16i_sum(v16i a)
{
    return vaddvq_s32(vaddq_s32(vaddq_s32(a.q0, a.q1), vaddq_s32(a.q2, a.q3)));
}
V16_FN int32_t v16i_hmax(v16i a)
{
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.q0, a.q1), vmaxq_s32(a.q2, a.q3)));
}
V16_FN void v16i_store_i8(int8_t *p, v16i a)
{
    const int16x8_t lo = vcombine_s16(vmovn_s32(a.q0), vmovn_s32(a.q1));
    const int16x8_t hi = vcombine_s16(vmovn_s32(a.q2), vmovn_s32(a.q3));
    vst1q_s8(p, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
}
V16_FN void v16i_store_i16(int16_t *p, v16i a)
{
    vst1q_s16(p, vcombine_s16(vmovn_s32(a.q0), vmovn_s32(a.q1)));
    vst1q_s16(p + 8, vcombine_s16(vmovn_s32(a.q2), vmovn_s32(a.q3)));
}

#endif
#endif
