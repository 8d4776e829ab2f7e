/* SPDX-License-Identifier: MIT
 *
 * A superblock of a float kind.
 */
#ifndef FG_SIMD_CUDA_FLOATS_CUH
#define FG_SIMD_CUDA_FLOATS_CUH

#include "simd/cuda/primitives.cuh"

FG_DEV float weight_of(uint16_t w)
{
    return f_of((uint32_t)w << 16);
}
FG_DEV float weight_of(float w)
{
    return w;
}

/* Row r of a superblock, in the order of its chain. */
template <class T> FG_DEV void load128(T v[128], const T *w, uint32_t r)
{
#pragma unroll
    for (uint32_t i = 0; i < 128; i++) v[i] = w[16 * FG_ORDER(i, 128) + r];
}
template <class T> FG_DEV float chain_of(const T v[128], const float *x)
{
    float c = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < 128; i++) c = fma_rn(weight_of(v[i]), x[FG_ORDER(i, 128)], c);
    return c;
}

/* The chain over a superblock of row r; U weights on their way at a time. */
template <uint32_t U, class T> FG_DEV float chain128(const T *w, const float *x, uint32_t r)
{
    float c = 0.0f;
    for (uint32_t k = 0; k < 128; k += U) {
        T v[U];
#pragma unroll
        for (uint32_t i = 0; i < U; i++) v[i] = w[16 * FG_ORDER(k + i, 128) + r];
#pragma unroll
        for (uint32_t i = 0; i < U; i++) c = fma_rn(weight_of(v[i]), x[FG_ORDER(k + i, 128)], c);
    }
    return c;
}

#endif
