/* SPDX-License-Identifier: MIT
 *
 * The integer unit of AVX-512-VNNI.
 */
#if !defined(__AVX512VNNI__)
#error "this file is built for AVX-512-VNNI"
#endif

#include <immintrin.h>

#include "simd/kernels_decl.h"

enum { CHAINS = 8, MACS = 64 }; /* sums at a time; multiply-adds of one product */

#define KEEP(x) __asm__ volatile("" : "+v"(x)) /* a product of constants is done once */

uint64_t fg_peak__avx512vnni(uint64_t rounds)
{
    __m512i a = _mm512_set1_epi8(1), b = a, sum[CHAINS];
    for (int i = 0; i < CHAINS; i++) sum[i] = a;
    for (uint64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 8
        for (int i = 0; i < CHAINS; i++) {
            KEEP(a);
            sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
        }
    }
    for (int i = 0; i < CHAINS; i++) KEEP(sum[i]);
    return rounds * CHAINS * MACS;
}
