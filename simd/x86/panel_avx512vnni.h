/* SPDX-License-Identifier: MIT
 *
 * The frame of the AVX-512-VNNI panels.
 *
 * A line is one zmm register, a row to each 32-bit lane.  With codes as unsigned bytes
 * (decode_avx512vnni.h) and act quads broadcast from memory:
 *   isum = -(sum_g s_g * act.sum_g) << shift the offset of the codes, once a superblock
 *   dot  = dpbusd over the eight quads       int32, |dot| <= 255 * 127 * 32 < 2^20
 *   isum += dot * s_g                        |isum| <= 2 * 4 * 128 * 2^20 < 2^31
 *   acc  = fma((float)isum, act.d, acc)      f32
 *
 * A tile is up to TILE_TOKENS tokens that share each decoded line in a register; more tokens are
 * passes over the panel, which then comes from L2.  AMD is limited by loads, one for each dpbusd,
 * so that decoding again costs no more than a buffer of unpacked lines would; Intel by its two
 * ports for vectors, which decoding, offsets and scales want too (KERNELS.md).
 */
#ifndef FG_SIMD_X86_PANEL_AVX512VNNI_H
#define FG_SIMD_X86_PANEL_AVX512VNNI_H

#include <string.h>

#include "simd/kernels_decl.h"
#include "simd/x86/decode_avx512vnni.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)

#if defined(__clang__) /* which runs out of registers beyond */
enum { TILE_TOKENS = 8 };
#else
enum { TILE_TOKENS = 12 };
#endif

enum {
    /* Software prefetch of a single token.  AMD, first-level cache: 1 and 2 KiB gained nothing. */
    AHEAD_BYTES = 4096,
    AHEAD_BYTES_INTEL = 8192, /* second-level cache: 1, 2, 4 KiB are slower on 16 threads */
};

/* Decode streams from memory: asks for n_bytes of what lies ahead of p.  A Xeon is asked a few
 * lines at a time, between the products, and for the second-level cache: a superblock at once is
 * more than its first-level cache has fill buffers for, and the products behind it wait. */
INLINE void ask_ahead(const uint8_t *p, size_t n_bytes, bool intel)
{
    for (size_t i = 0; i < n_bytes; i += 64) {
        if (intel) {
            _mm_prefetch((const char *)p + AHEAD_BYTES_INTEL + i, _MM_HINT_T1);
        } else {
            _mm_prefetch((const char *)p + AHEAD_BYTES + i, _MM_HINT_T0);
        }
    }
}

/* Four bytes in all lanes. */
INLINE __m512i all_lanes(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

/* (s_g, s_g+1) * -(1 << shift) as int16. */
INLINE __m512i offset_pair(__m512i line, int g, int shift)
{
    const __m512i high = _mm512_slli_epi32(scale_of(line, g + 1), 16);
    const __m512i both = _mm512_mask_blend_epi16(0xaaaaaaaau, scale_of(line, g), high);
    return _mm512_mullo_epi16(both, _mm512_set1_epi16((short)-(1 << shift)));
}

/* Group g of the superblock at sb: isum[t] += s_g * dot[t]. */
INLINE void panel_group(panel_kind kind, int nt, __m512i table, const uint8_t *sb, int g,
                        const fg_act128 *const *a, __m512i *isum)
{
    const uint8_t *group = sb + 64 + (size_t)g * kind.group_bytes;
    const __m512i s = scale_of(load512(sb), g);
    __m512i dot[TILE_TOKENS];
    UNROLL
    for (int t = 0; t < nt; t++) dot[t] = _mm512_setzero_si512();
    UNROLL
    for (int n = 0; n < QUADS; n++) {
        const __m512i c = kind.quad(group, n, table);
        const int at = FG_GROUP_COLS * g + 4 * quad_of(n);
        UNROLL
        for (int t = 0; t < nt; t++) {
            dot[t] = _mm512_dpbusd_epi32(dot[t], c, all_lanes(a[t]->q + at));
        }
    }
    UNROLL
    for (int t = 0; t < nt; t++) {
        isum[t] = _mm512_add_epi32(isum[t], _mm512_mullo_epi32(dot[t], s));
    }
}

/* nt (a constant at each call) tokens, whose rows are `stride` bytes apart. */
INLINE void panel_tile(panel_kind kind, int nt, __m512i table, const uint8_t *panel,
                       const float *row_scale, const uint8_t *act, size_t stride, size_t n_sb,
                       float *y, size_t y_stride)
{
    const size_t bytes = 64 + FG_SB_GROUPS * kind.group_bytes;
    const bool intel = nt == 1 && __builtin_cpu_is("intel");
    __m512 acc[TILE_TOKENS];
    UNROLL
    for (int t = 0; t < nt; t++) acc[t] = _mm512_setzero_ps();
    for (size_t i = 0; i < n_sb; i++, act += sizeof(fg_act128)) {
        const fg_act128 *a[TILE_TOKENS];
        __m512i isum[TILE_TOKENS];
        const __m512i low = offset_pair(load512(panel), 0, kind.shift);
        const __m512i high = offset_pair(load512(panel), 2, kind.shift);
        UNROLL
        for (int t = 0; t < nt; t++) {
            const __m512i zero = _mm512_setzero_si512();
            a[t] = (const void *)(act + (size_t)t * stride);
            isum[t] = _mm512_dpwssd_epi32(zero, low, all_lanes(&a[t]->sum[0]));
            isum[t] = _mm512_dpwssd_epi32(isum[t], high, all_lanes(&a[t]->sum[2]));
        }
        UNROLL
        for (int g = 0; g < FG_SB_GROUPS; g++) {
            if (intel) ask_ahead(panel + (size_t)g * kind.group_bytes, kind.group_bytes, true);
            panel_group(kind, nt, table, panel, g, a, isum);
        }
        UNROLL
        for (int t = 0; t < nt; t++) {
            const __m512 d = _mm512_set1_ps(a[t]->d);
            acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(isum[t]), d, acc[t]);
        }
        if (intel) ask_ahead(panel + bytes - 64, 64, true);
        if (nt == 1 && !intel) ask_ahead(panel, bytes, false); /* at once: 95 -> 98 % of a loop */
        panel += bytes;
    }
    const __m512 scale = _mm512_loadu_ps(row_scale);
    UNROLL
    for (int t = 0; t < nt; t++) {
        _mm512_storeu_ps(y + (size_t)t * y_stride, _mm512_mul_ps(acc[t], scale));
    }
}

typedef void tile_fn(__m512i table, const uint8_t *panel, const float *row_scale,
                     const uint8_t *act, size_t stride, size_t n_sb, float *y, size_t y_stride);

/* Tiles of 1..12 tokens as functions of their own (registers are tight: merged by the compiler they
 * lose a quarter of their speed).  kind_ must be a constant. */
#define TILE_FN(kind_, nt)                                                                         \
    __attribute__((noinline)) static void tile_##nt(                                               \
        __m512i table, const uint8_t *panel, const float *row_scale, const uint8_t *act,           \
        size_t stride, size_t n_sb, float *y, size_t y_stride)                                     \
    {                                                                                              \
        panel_tile(kind_, nt, table, panel, row_scale, act, stride, n_sb, y, y_stride);            \
    }
#if defined(__clang__)
#define TILE_FNS_BEYOND_8(kind_)
#define TILES_BEYOND_8
#else
#define TILE_FNS_BEYOND_8(kind_)                                                                   \
    TILE_FN(kind_, 9)                                                                              \
    TILE_FN(kind_, 10)                                                                             \
    TILE_FN(kind_, 11)                                                                             \
    TILE_FN(kind_, 12)
#define TILES_BEYOND_8 , tile_9, tile_10, tile_11, tile_12
#endif
#define TILE_FNS(kind_)                                                                            \
    TILE_FN(kind_, 1)                                                                              \
    TILE_FN(kind_, 2)                                                                              \
    TILE_FN(kind_, 3)                                                                              \
    TILE_FN(kind_, 4)                                                                              \
    TILE_FN(kind_, 5)                                                                              \
    TILE_FN(kind_, 6)                                                                              \
    TILE_FN(kind_, 7)                                                                              \
    TILE_FN(kind_, 8)                                                                              \
    TILE_FNS_BEYOND_8(kind_)                                                                       \
    static tile_fn *const tiles[TILE_TOKENS + 1] = {                                               \
        NULL, tile_1, tile_2, tile_3, tile_4, tile_5, tile_6, tile_7, tile_8 TILES_BEYOND_8};

/* Passes as equal as possible: 13 tokens are 7 + 6, not 12 + 1. */
INLINE void panel_run(tile_fn *const *tile, __m512i table, const uint8_t *panel,
                      const float *row_scale, const void *act, size_t stride, size_t n_tok,
                      size_t n_sb, float *y, size_t y_stride)
{
    const uint8_t *a = act;
    for (size_t pass = (n_tok + TILE_TOKENS - 1) / TILE_TOKENS; pass > 0; pass--) {
        const size_t nt = (n_tok + pass - 1) / pass;
        tile[nt](table, panel, row_scale, a, stride, n_sb, y, y_stride);
        n_tok -= nt;
        a += nt * stride;
        y += nt * y_stride;
    }
}

#endif
#endif
