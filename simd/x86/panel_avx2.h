/* SPDX-License-Identifier: MIT
 *
 * The frame of the AVX2 panels with unsigned codes (all but q8); each panel_<type>_avx2.c supplies
 * how lines become bytes.
 *
 * A line (64 bytes: 16 rows x 4 columns) is two ymm registers h = 0, 1 of eight rows.  Column quad
 * c = 0..7 of a group is columns 4c..4c+3; quads are visited as 0 4 1 5 2 6 3 7, because quads c
 * and c + 4 are the low and high nibbles of one line.  With codes as unsigned bytes:
 *   pairs = maddubs(code, act quad)          int16, `steps` quads added before they could overflow
 *   isum += madd(pairs, (s_g, s_g))          int32: the group scale costs no instruction of its own
 *   isum -= (sum_g s_g * act.sum_g) << shift the offset of the codes, once a superblock
 *   acc   = fma((float)isum, act.d, acc)     f32
 * Overflow: 2 * max code * 127 * steps <= 32767 for act.q in -127..127, hence 8 quads for codes to
 * 15, 4 to 31, 2 to 63.
 *
 * One token decodes in registers (GEMV).  More tokens: a superblock is unpacked once into L1
 * (2 KiB), then tiles of tokens run over it.  The sums are the same integers, so the bits are too.
 */
#ifndef FG_SIMD_X86_PANEL_AVX2_H
#define FG_SIMD_X86_PANEL_AVX2_H

#include <stdbool.h>
#include <string.h>

#include "simd/kernels_decl.h"

#if defined(__AVX2__) && defined(__FMA__)

#include <immintrin.h>

/* Loops over constant trips must dissolve, so that arrays of vectors become registers. */
#if defined(__clang__)
#define UNROLL    _Pragma("clang loop unroll(full)")
#define NO_UNROLL _Pragma("clang loop unroll(disable)")
#else
#define UNROLL    _Pragma("GCC unroll 8")
#define NO_UNROLL _Pragma("GCC unroll 1")
#endif
#define INLINE static inline __attribute__((always_inline, unused))

enum {
    PASS_TOKENS = 64, /* tokens that share an unpacking; their f32 accumulators are 4 KiB */
    /* Software prefetch of a single token.  512 and 768 are as good, 1.5 KiB is worse for q8, 2 and
     * 4 KiB are 15 % slower than none for q6 and q8, all on AMD.  A Xeon reads 91 to 95 % of what a
     * loop reads when asked for the second-level cache from far, 82 to 85 % like this. */
    AHEAD_BYTES = 1024,
    AHEAD_BYTES_INTEL = 4096,
    QUADS = FG_GROUP_COLS / 4,
};

/* Codes of visit n = 0..7, half h, of the group whose first line is p.  `table` is a constant that
 * the type keeps in a register. */
typedef __m256i quad_fn(const uint8_t *p, int n, int h, __m256i table);

typedef struct panel_kind {
    quad_fn *quad;
    size_t group_bytes;
    int steps;  /* quads added in int16: 8, 4 or 2 */
    int shift;  /* the code of value zero is 1 << shift */
    int n_tile; /* tokens of a tile */
} panel_kind;

/* One superblock, unpacked. */
typedef struct panel_work {
    __m256i code[FG_SB_GROUPS][QUADS][2];
    __m256i pair[FG_SB_GROUPS][2]; /* (s_g, s_g) as int16, a row in 32 bits */
    __m256i even[2], odd[2];       /* (s_0, s_2) and (s_1, s_3) */
} panel_work;

INLINE __m256i load256(const void *p)
{
    return _mm256_load_si256((const __m256i *)p);
}

/* Quad of visit n of group g, in all lanes. */
INLINE __m256i act_quad(const fg_act128 *a, int g, int n)
{
    int32_t v;
    memcpy(&v, a->q + FG_GROUP_COLS * g + 4 * (n / 2) + 16 * (n & 1), sizeof v);
    return _mm256_set1_epi32(v);
}

INLINE __m256i scale_even(__m256i line)
{
    return _mm256_srai_epi16(_mm256_slli_epi16(line, 8), 8);
}
INLINE __m256i scale_odd(__m256i line)
{
    return _mm256_srai_epi16(line, 8);
}
INLINE __m256i scale_pair(__m256i even, __m256i odd, int g)
{
    const __m256i x = (g & 1) != 0 ? odd : even;
    return g < 2 ? _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(x, 0xa0), 0xa0)
                 : _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(x, 0xf5), 0xf5);
}

INLINE __m256i both_sums(int16_t low, int16_t high)
{
    return _mm256_set1_epi32((int32_t)((uint32_t)(uint16_t)low | (uint32_t)(uint16_t)high << 16));
}

/* -(sum_g s_g * act.sum_g) << shift for eight rows. */
INLINE __m256i offset_term(__m256i even, __m256i odd, const fg_act128 *a, int shift)
{
    const __m256i e = _mm256_madd_epi16(even, both_sums(a->sum[0], a->sum[2]));
    const __m256i o = _mm256_madd_epi16(odd, both_sums(a->sum[1], a->sum[3]));
    return _mm256_sub_epi32(_mm256_setzero_si256(),
                            _mm256_slli_epi32(_mm256_add_epi32(e, o), shift));
}

/* Asks for what lies AHEAD_BYTES behind p. */
INLINE void fetch_group(const uint8_t *p, size_t n_bytes, bool intel)
{
    if (intel) {
        UNROLL
        for (size_t i = 0; i < n_bytes; i += 64) {
            _mm_prefetch((const char *)p + AHEAD_BYTES_INTEL + i, _MM_HINT_T1);
        }
        return;
    }
    UNROLL
    for (size_t i = 0; i < n_bytes; i += 64) {
        _mm_prefetch((const char *)p + AHEAD_BYTES + i, _MM_HINT_T0);
    }
}

INLINE void panel_gemv(panel_kind kind, __m256i table, const uint8_t *panel, const float *row_scale,
                       const fg_act128 *act, size_t n_sb, float *y)
{
    const bool intel = __builtin_cpu_is("intel");
    __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t i = 0; i < n_sb; i++) {
        const fg_act128 *a = &act[i];
        __m256i even[2], odd[2], isum[2];
        for (int h = 0; h < 2; h++) {
            const __m256i line = load256(panel + 32 * h);
            even[h] = scale_even(line);
            odd[h] = scale_odd(line);
            isum[h] = offset_term(even[h], odd[h], a, kind.shift);
        }
        panel += 64;
        UNROLL
        for (int g = 0; g < FG_SB_GROUPS; g++, panel += kind.group_bytes) {
            fetch_group(panel, kind.group_bytes, intel);
            UNROLL
            for (int n0 = 0; n0 < QUADS; n0 += kind.steps) {
                __m256i pairs[2];
                UNROLL
                for (int m = 0; m < kind.steps; m++) {
                    const int n = n0 + m;
                    const __m256i x = act_quad(a, g, n);
                    UNROLL
                    for (int h = 0; h < 2; h++) {
                        const __m256i p = _mm256_maddubs_epi16(kind.quad(panel, n, h, table), x);
                        pairs[h] = m == 0 ? p : _mm256_add_epi16(pairs[h], p);
                    }
                }
                UNROLL
                for (int h = 0; h < 2; h++) {
                    const __m256i s = scale_pair(even[h], odd[h], g);
                    isum[h] = _mm256_add_epi32(isum[h], _mm256_madd_epi16(pairs[h], s));
                }
            }
        }
        const __m256 d = _mm256_set1_ps(a->d);
        for (int h = 0; h < 2; h++) {
            acc[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum[h]), d, acc[h]);
        }
    }
    for (int h = 0; h < 2; h++) {
        _mm256_storeu_ps(y + 8 * h, _mm256_mul_ps(acc[h], _mm256_loadu_ps(row_scale + 8 * h)));
    }
}

INLINE void panel_unpack(panel_kind kind, __m256i table, const uint8_t *sb, panel_work *w)
{
    for (int h = 0; h < 2; h++) {
        const __m256i line = load256(sb + 32 * h);
        w->even[h] = scale_even(line);
        w->odd[h] = scale_odd(line);
        for (int g = 0; g < FG_SB_GROUPS; g++) {
            w->pair[g][h] = scale_pair(w->even[h], w->odd[h], g);
        }
    }
    sb += 64;
    for (int g = 0; g < FG_SB_GROUPS; g++, sb += kind.group_bytes) {
        UNROLL
        for (int n = 0; n < QUADS; n++) {
            UNROLL
            for (int h = 0; h < 2; h++) w->code[g][n][h] = kind.quad(sb, n, h, table);
        }
    }
}

/* One superblock times nt (a constant at each call) tokens whose blocks are `stride` bytes apart.
 * Eight int16 accumulators live in registers, the int32 ones in L1. */
INLINE void panel_tile(panel_kind kind, int nt, const panel_work *w, const uint8_t *act,
                       size_t stride, __m256 (*acc)[2])
{
    const fg_act128 *a[4];
    __m256i isum[4][2];
    UNROLL
    for (int t = 0; t < nt; t++) {
        a[t] = (const void *)(act + (size_t)t * stride);
        UNROLL
        for (int h = 0; h < 2; h++) {
            isum[t][h] = offset_term(w->even[h], w->odd[h], a[t], kind.shift);
        }
    }
    NO_UNROLL
    for (int g = 0; g < FG_SB_GROUPS; g++) {
        UNROLL
        for (int n0 = 0; n0 < QUADS; n0 += kind.steps) {
            __m256i pairs[4][2];
            UNROLL
            for (int m = 0; m < kind.steps; m++) {
                const int n = n0 + m;
                const __m256i c0 = w->code[g][n][0], c1 = w->code[g][n][1];
                UNROLL
                for (int t = 0; t < nt; t++) {
                    const __m256i x = act_quad(a[t], g, n);
                    const __m256i p0 = _mm256_maddubs_epi16(c0, x);
                    const __m256i p1 = _mm256_maddubs_epi16(c1, x);
                    pairs[t][0] = m == 0 ? p0 : _mm256_add_epi16(pairs[t][0], p0);
                    pairs[t][1] = m == 0 ? p1 : _mm256_add_epi16(pairs[t][1], p1);
                }
            }
            UNROLL
            for (int t = 0; t < nt; t++) {
                UNROLL
                for (int h = 0; h < 2; h++) {
                    const __m256i p = _mm256_madd_epi16(pairs[t][h], w->pair[g][h]);
                    isum[t][h] = _mm256_add_epi32(isum[t][h], p);
                }
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

INLINE void panel_gemm(panel_kind kind, __m256i table, const uint8_t *panel, const float *row_scale,
                       const uint8_t *act, size_t stride, size_t n_tok, size_t n_sb, float *y,
                       size_t y_stride)
{
    panel_work w;
    __m256 acc[PASS_TOKENS][2];
    for (size_t t = 0; t < n_tok; t++) acc[t][0] = acc[t][1] = _mm256_setzero_ps();
    for (size_t i = 0; i < n_sb; i++, act += sizeof(fg_act128)) {
        panel_unpack(kind, table, panel, &w);
        panel += 64 + FG_SB_GROUPS * kind.group_bytes;
        const size_t step = (size_t)kind.n_tile;
        size_t t = 0;
        for (; t + step <= n_tok; t += step) {
            panel_tile(kind, kind.n_tile, &w, act + t * stride, stride, acc + t);
        }
        if (kind.n_tile > 2 && t + 2 <= n_tok) {
            panel_tile(kind, 2, &w, act + t * stride, stride, acc + t);
            t += 2;
        }
        if (t < n_tok) panel_tile(kind, 1, &w, act + t * stride, stride, acc + t);
    }
    for (size_t t = 0; t < n_tok; t++) {
        for (int h = 0; h < 2; h++) {
            _mm256_storeu_ps(y + t * y_stride + 8 * h,
                             _mm256_mul_ps(acc[t][h], _mm256_loadu_ps(row_scale + 8 * h)));
        }
    }
}

INLINE void panel_run(panel_kind kind, __m256i table, const uint8_t *panel, const float *row_scale,
                      const void *act, size_t stride, size_t n_tok, size_t n_sb, float *y,
                      size_t y_stride)
{
    const uint8_t *a = act;
    while (n_tok > 1) {
        const size_t n = n_tok < PASS_TOKENS ? n_tok : PASS_TOKENS;
        panel_gemm(kind, table, panel, row_scale, a, stride, n, n_sb, y, y_stride);
        n_tok -= n;
        a += n * stride;
        y += n * y_stride;
    }
    if (n_tok == 1) panel_gemv(kind, table, panel, row_scale, (const void *)a, n_sb, y);
}

/* Low (n even) or high nibbles of the line of visit n. */
INLINE __m256i nibbles(const uint8_t *p, int n, int h)
{
    const __m256i x = load256(p + 64 * (n / 2) + 32 * h);
    const __m256i mask = _mm256_set1_epi8(15);
    return _mm256_and_si256((n & 1) == 0 ? x : _mm256_srli_epi16(x, 4), mask);
}

#endif
#endif
