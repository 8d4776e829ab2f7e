/* SPDX-License-Identifier: MIT
 *
 * The integer unit of AVX-512-VNNI.
 */
#if !defined(__AVX512VNNI__)
#error "this file is built for AVX-512-VNNI"
#endif

#include <immintrin.h>
#include <string.h>

#include "simd/kernels_decl.h"

enum { CHAINS = 12, MACS = 64 }; /* sums at a time; multiply-adds of one product */

uint64_t fg_peak__avx512vnni(uint64_t rounds)
{
    const __m512i a = _mm512_set1_epi8((char)rounds);
    __m512i sum[CHAINS];
    volatile int32_t seen = 0; /* else nothing would be computed */
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_set1_epi8((char)i);
    for (uint64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_dpbusd_epi32(a, sum[i], a);
    }
    for (int i = 0; i < CHAINS; i++) {
        int32_t first;
        memcpy(&first, &sum[i], sizeof first);
        seen = seen ^ first;
    }
    return rounds * CHAINS * MACS;
}
