/* SPDX-License-Identifier: MIT
 *
 * The integer unit of AVX2: bytes to pairs of int16, which are added.
 */
#if !defined(__AVX2__)
#error "this file is built for AVX2"
#endif

#include <immintrin.h>

#include "simd/kernels_decl.h"

enum { CHAINS = 8, MACS = 32 }; /* sums at a time; multiply-adds of one product */

#define KEEP(x) __asm__ volatile("" : "+x"(x)) /* a product of constants is done once */

uint64_t fg_peak__avx2(uint64_t rounds)
{
    __m256i a = _mm256_set1_epi8(1), b = a, sum[CHAINS];
    for (int i = 0; i < CHAINS; i++) sum[i] = a;
    for (uint64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 8
        for (int i = 0; i < CHAINS; i++) {
            KEEP(a);
            sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(a, b));
        }
    }
    for (int i = 0; i < CHAINS; i++) KEEP(sum[i]);
    return rounds * CHAINS * MACS;
}
