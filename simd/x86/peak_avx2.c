/* SPDX-License-Identifier: MIT
 *
 * The integer unit of AVX2: bytes to pairs of int16, which are added.
 */
#if !defined(__AVX2__)
#error "this file is built for AVX2"
#endif

#include <immintrin.h>
#include <string.h>

#include "simd/kernels_decl.h"

enum { CHAINS = 12, MACS = 32 }; /* sums at a time; multiply-adds of one product */

uint64_t fg_peak__avx2(uint64_t rounds)
{
    const __m256i a = _mm256_set1_epi8((char)rounds);
    __m256i sum[CHAINS];
    volatile int32_t seen = 0; /* else nothing would be computed */
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm256_set1_epi8((char)i);
    for (uint64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            sum[i] = _mm256_add_epi16(a, _mm256_maddubs_epi16(a, sum[i]));
    }
    for (int i = 0; i < CHAINS; i++) {
        int32_t first;
        memcpy(&first, &sum[i], sizeof first);
        seen = seen ^ first;
    }
    return rounds * CHAINS * MACS;
}
