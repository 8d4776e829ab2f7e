/* SPDX-License-Identifier: MIT
 *
 * q8: signed bytes on both sides, which maddubs does not take.  Even and odd bytes are widened to
 * int16 in place (no lane crossing), so that madd of (k0, k2) and of (k1, k3) leaves a row's sum in
 * its own 32 bits; exact for all int8 values.  The group scale is one mullo a group.
 *
 * One token widens in registers; more tokens share weights widened once a superblock (4 KiB) and
 * activations widened once a tile.
 */
#include "simd/x86/panel_avx2.h"

#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "this file is built for AVX2 and FMA, no more and no less"
#endif

enum { GROUP_BYTES = 512, SB_BYTES = 64 + FG_SB_GROUPS * GROUP_BYTES, TILE = 4 };

/* int16 pairs of the even bytes [0] and odd bytes [1]. */
typedef struct q8_work {
    __m256i code[FG_SB_GROUPS * QUADS][2][2]; /* [quad][half][even, odd] */
    __m256i scale[FG_SB_GROUPS][2];           /* int32 */
} q8_work;

/* Activation quads, widened: [quad][even, odd], each a 32-bit pair. */
typedef struct q8_act {
    int32_t pair[2][FG_SB_COLS / 4];
} q8_act;

INLINE __m256i scale_of(__m256i line, int g)
{
    return _mm256_srai_epi32(_mm256_slli_epi32(line, 24 - 8 * g), 24);
}

INLINE void widen_act(const fg_act128 *a, q8_act *out)
{
    for (int i = 0; i < FG_SB_COLS / 32; i++) {
        const __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(a->q + 32 * i));
        _mm256_storeu_si256((__m256i *)(void *)(out->pair[0] + 8 * i), scale_even(x));
        _mm256_storeu_si256((__m256i *)(void *)(out->pair[1] + 8 * i), scale_odd(x));
    }
}

static void q8_gemv(const uint8_t *panel, const float *row_scale, const fg_act128 *act, size_t n_sb,
                    float *y)
{
    const bool intel = __builtin_cpu_is("intel");
    __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t i = 0; i < n_sb; i++, panel += SB_BYTES) {
        __m256i isum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        q8_act a;
        widen_act(&act[i], &a);
        UNROLL
        for (int g = 0; g < FG_SB_GROUPS; g++) {
            __m256i dot[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
            fetch_group(panel + 64 + GROUP_BYTES * g, GROUP_BYTES, intel);
            UNROLL
            for (int c = 0; c < QUADS; c++) {
                const __m256i xe = _mm256_set1_epi32(a.pair[0][QUADS * g + c]);
                const __m256i xo = _mm256_set1_epi32(a.pair[1][QUADS * g + c]);
                UNROLL
                for (int h = 0; h < 2; h++) {
                    const __m256i x = load256(panel + 64 + GROUP_BYTES * g + 64 * c + 32 * h);
                    const __m256i e = _mm256_madd_epi16(scale_even(x), xe);
                    const __m256i o = _mm256_madd_epi16(scale_odd(x), xo);
                    dot[h] = _mm256_add_epi32(dot[h], _mm256_add_epi32(e, o));
                }
            }
            for (int h = 0; h < 2; h++) {
                const __m256i s = scale_of(load256(panel + 32 * h), g);
                isum[h] = _mm256_add_epi32(isum[h], _mm256_mullo_epi32(dot[h], s));
            }
        }
        const __m256 d = _mm256_set1_ps(act[i].d);
        for (int h = 0; h < 2; h++) {
            acc[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum[h]), d, acc[h]);
        }
    }
    for (int h = 0; h < 2; h++) {
        _mm256_storeu_ps(y + 8 * h, _mm256_mul_ps(acc[h], _mm256_loadu_ps(row_scale + 8 * h)));
    }
}

INLINE void q8_unpack(const uint8_t *sb, q8_work *w)
{
    for (int h = 0; h < 2; h++) {
        const __m256i line = load256(sb + 32 * h);
        for (int g = 0; g < FG_SB_GROUPS; g++) w->scale[g][h] = scale_of(line, g);
        for (int c = 0; c < FG_SB_GROUPS * QUADS; c++) {
            const __m256i x = load256(sb + 64 + 64 * c + 32 * h);
            w->code[c][h][0] = scale_even(x);
            w->code[c][h][1] = scale_odd(x);
        }
    }
}

INLINE void q8_tile(int nt, const q8_work *w, const uint8_t *act, size_t stride, __m256 (*acc)[2])
{
    const fg_act128 *a[TILE];
    q8_act wide[TILE];
    __m256i isum[TILE][2];
    UNROLL
    for (int t = 0; t < nt; t++) {
        a[t] = (const void *)(act + (size_t)t * stride);
        widen_act(a[t], &wide[t]);
        isum[t][0] = isum[t][1] = _mm256_setzero_si256();
    }
    NO_UNROLL
    for (int g = 0; g < FG_SB_GROUPS; g++) {
        __m256i dot[TILE][2];
        UNROLL
        for (int t = 0; t < nt; t++) dot[t][0] = dot[t][1] = _mm256_setzero_si256();
        NO_UNROLL
        for (int c = QUADS * g; c < QUADS * (g + 1); c++) {
            UNROLL
            for (int odd = 0; odd < 2; odd++) {
                const __m256i w0 = w->code[c][0][odd], w1 = w->code[c][1][odd];
                UNROLL
                for (int t = 0; t < nt; t++) {
                    const __m256i x = _mm256_set1_epi32(wide[t].pair[odd][c]);
                    dot[t][0] = _mm256_add_epi32(dot[t][0], _mm256_madd_epi16(w0, x));
                    dot[t][1] = _mm256_add_epi32(dot[t][1], _mm256_madd_epi16(w1, x));
                }
            }
        }
        UNROLL
        for (int t = 0; t < nt; t++) {
            UNROLL
            for (int h = 0; h < 2; h++) {
                const __m256i p = _mm256_mullo_epi32(dot[t][h], w->scale[g][h]);
                isum[t][h] = _mm256_add_epi32(isum[t][h], p);
            }
        }
    }
    UNROLL
    for (int t = 0; t < nt; t++) {
        const __m256 d = _mm256_set1_ps(a[t]->d);
        UNROLL
        for (int h = 0; h < 2; h++) {
            acc[t][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum[t][h]), d, acc[t][h]);
        }
    }
}

static void q8_gemm(const uint8_t *panel, const float *row_scale, const uint8_t *act, size_t stride,
                    size_t n_tok, size_t n_sb, float *y, size_t y_stride)
{
    q8_work w;
    __m256 acc[PASS_TOKENS][2];
    for (size_t t = 0; t < n_tok; t++) acc[t][0] = acc[t][1] = _mm256_setzero_ps();
    for (size_t i = 0; i < n_sb; i++, panel += SB_BYTES, act += sizeof(fg_act128)) {
        q8_unpack(panel, &w);
        size_t t = 0;
        for (; t + TILE <= n_tok; t += TILE) q8_tile(TILE, &w, act + t * stride, stride, acc + t);
        for (; t < n_tok; t++) q8_tile(1, &w, act + t * stride, stride, acc + t);
    }
    for (size_t t = 0; t < n_tok; t++) {
        for (int h = 0; h < 2; h++) {
            _mm256_storeu_ps(y + t * y_stride + 8 * h,
                             _mm256_mul_ps(acc[t][h], _mm256_loadu_ps(row_scale + 8 * h)));
        }
    }
}

void fg_panel_q8__avx2(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                       const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                       size_t y_stride)
{
    const uint8_t *a = act;
    (void)lut;
    while (n_tok > 1) {
        const size_t n = n_tok < PASS_TOKENS ? n_tok : PASS_TOKENS;
        q8_gemm(panel, row_scale, a, act_stride, n, n_sb, y, y_stride);
        n_tok -= n;
        a += n * act_stride;
        y += n * y_stride;
    }
    if (n_tok == 1) q8_gemv(panel, row_scale, (const void *)a, n_sb, y);
}
