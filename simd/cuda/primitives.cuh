/* SPDX-License-Identifier: MIT
 *
 * What the card's kernels are written in.  The same .cu is compiled by nvcc for a card and, with
 * tests/emulate/cuda/cuda_emu_kernel.h in front, as C++ for the emulator, so:
 *   - a kernel is FG_KERNEL(name, parameter type, most threads, least blocks a multiprocessor)
 *     { ... }, its parameter `a`, and a line in cuda_kernels.inc; its host side, a C function of
 *     ops.h, fills the parameter (a struct of a header that C and C++ read) and calls q->launch;
 *   - shared memory is FG_SHARED(type, name), an array type too, or FG_SHARED_MORE(type, name):
 *     what the launch asked for; never __shared__;
 *   - blocks are of one dimension: threadIdx.x, blockIdx.x .y .z, gridDim, blockDim.x;
 *   - collectives (sync_block, sync_warp, shfl*, warp_*, imma) are for all threads of the block or
 *     warp that have not returned, and on the same path;
 *   - f32: operators, each rounded by itself (-fmad=false), fma_rn where the contract has fma,
 *     max_of and min_of, never fmaxf; int to f32 by i2f; divisions and sqrt_rn are exact.
 * A test takes `fg_cuda_queue q = fg_emu_queue(&log)` (tests/emulate/cuda/cuda_emu.h), calls the C
 * function on ordinary memory, and looks at log.result: tests/cuda/test_cuda_probe.c.
 */
#ifndef FG_SIMD_CUDA_PRIMITIVES_CUH
#define FG_SIMD_CUDA_PRIMITIVES_CUH

#if !defined(__CUDACC__) && !defined(FG_EMULATED)
#error "compiled by nvcc, or with the emulator's header in front"
#endif

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define _Static_assert static_assert /* C11 headers follow, here and elsewhere */
#define _Alignas alignas
#include "simd/cuda/ops.h"

#define FG_DEV static __device__ __forceinline__

/* Step i of the n of a chain; the emulator can be told to take them in reverse, for the controls of
 * tests. */
#if defined(FG_EMULATED)
#define FG_ORDER(i, n) ((fg_emu_broken & FG_EMU_REVERSED) != 0 ? (n)-1 - (i) : (i))
#else
#define FG_ORDER(i, n) (i)
#endif

#if defined(__CUDACC__)

#define FG_KERNEL(name, type, threads, blocks)                                                     \
    extern "C" __global__ void __launch_bounds__(threads, blocks)                                  \
        fg_card_##name(const __grid_constant__ type a)
#define FG_SHARED(type, name)                                                                      \
    using name##_type = type;                                                                      \
    __shared__ __align__(16) name##_type name
extern __shared__ __align__(128) unsigned char fg_shared_more[];
#define FG_SHARED_MORE(type, name) type *name = (type *)(void *)fg_shared_more

FG_DEV void sync_block(void)
{
    __syncthreads();
}
FG_DEV void sync_warp(void)
{
    __syncwarp();
}
/* In a loop that waits for memory that somebody else writes. */
FG_DEV void pause_thread(void)
{
    __nanosleep(100);
}
FG_DEV uint32_t shfl(uint32_t v, unsigned from)
{
    return __shfl_sync(0xffffffffu, v, (int)from);
}
FG_DEV uint32_t shfl_xor(uint32_t v, unsigned mask)
{
    return __shfl_xor_sync(0xffffffffu, v, (int)mask);
}
/* Lanes without a source get their own. */
FG_DEV uint32_t shfl_down(uint32_t v, unsigned by)
{
    return __shfl_down_sync(0xffffffffu, v, by);
}
FG_DEV uint32_t warp_max(uint32_t v)
{
    return __reduce_max_sync(0xffffffffu, v);
}
FG_DEV int32_t warp_sum(int32_t v)
{
    return __reduce_add_sync(0xffffffffu, v);
}
FG_DEV int32_t dp4a(uint32_t x, uint32_t y, int32_t c)
{
    return __dp4a((int)x, (int)y, c);
}
/* Two int16 of x times the two lower (upper) int8 of y. */
FG_DEV int32_t dp2a_lo(uint32_t x, uint32_t y, int32_t c)
{
    return __dp2a_lo((int)x, (int)y, c);
}
FG_DEV int32_t dp2a_hi(uint32_t x, uint32_t y, int32_t c)
{
    return __dp2a_hi((int)x, (int)y, c);
}
/* Byte i of the result: byte (nibble i of s) & 7 of y:x, its sign only where that nibble has 8. */
FG_DEV uint32_t prmt(uint32_t x, uint32_t y, uint32_t s)
{
    uint32_t r;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(s));
    return r;
}
/* d (16 x 8) = a (16 x 32 s8, row) * b (32 x 8 s8, column); fragments as the PTX manual has them.
 * */
FG_DEV void imma(int32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%10,%10,%10,%10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(0));
}
/* The same of unsigned codes, onto c0 and c1 of the columns 2t and 2t + 1. */
FG_DEV void imma_codes(int32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, int32_t c0,
                       int32_t c1)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%10,%11,%10,%11};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c0), "r"(c1));
}
/* The same, added to d. */
FG_DEV void imma_add(int32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* Loads of what no kernel of the launch writes and nobody needs again soon: weights. */
FG_DEV uint4 ld16(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}
FG_DEV uint2 ld8(const void *p)
{
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];"
                 : "=r"(v.x), "=r"(v.y)
                 : "l"(p));
    return v;
}
FG_DEV uint32_t ld4(const void *p)
{
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
/* 16 bytes from global to shared memory, both 16-byte aligned, on their way until cp_wait<N>: at
 * most N groups that were committed after them are left. */
FG_DEV void cp16(void *shared, const void *global)
{
    const uint32_t s = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(s), "l"(global) : "memory");
}
FG_DEV void cp_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> FG_DEV void cp_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
/* A kernel that was launched early has nothing of the kernels in front of it before this returns;
 * by all its threads.  What it may read before: weights. */
FG_DEV void wait_for_earlier(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/* The next kernel may begin, if it was launched early. */
FG_DEV void let_later_begin(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
/* Words that the host, or another block, writes or reads while the kernel runs. */
FG_DEV uint32_t ld_system(const uint32_t *p)
{
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
FG_DEV void st_system(uint32_t *p, uint32_t v)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
FG_DEV void fence_system(void)
{
    __threadfence_system();
}
FG_DEV void fence_card(void)
{
    __threadfence();
}
/* Integers only: sums of floats have an order. */
FG_DEV uint32_t atomic_add(uint32_t *p, uint32_t v)
{
    return atomicAdd(p, v);
}
/* Bit i: lane i says so. */
FG_DEV uint32_t warp_ballot(bool yes)
{
    return __ballot_sync(0xffffffffu, yes);
}
FG_DEV uint32_t count_bits(uint32_t v)
{
    return (uint32_t)__popc(v);
}
FG_DEV float fma_rn(float x, float y, float z)
{
    return __fmaf_rn(x, y, z);
}
FG_DEV float i2f(int32_t x)
{
    return __int2float_rn(x);
}
FG_DEV int32_t f2i_rn(float x)
{
    return __float2int_rn(x);
}
FG_DEV float sqrt_rn(float x)
{
    return __fsqrt_rn(x);
}

#endif

/* ---- the contract's f32 (simd/vec_scalar.h, simd/v16_math.h) ---- */

FG_DEV float f_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
FG_DEV uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}
FG_DEV float max_of(float x, float y)
{
    return x > y ? x : y;
}
FG_DEV float min_of(float x, float y)
{
    return x < y ? x : y;
}
FG_DEV float shfl_down_f(float v, unsigned by)
{
    return f_of(shfl_down(bits_of(v), by));
}
FG_DEV float shfl_xor_f(float v, unsigned mask)
{
    return f_of(shfl_xor(bits_of(v), mask));
}
FG_DEV float shfl_f(float v, unsigned from)
{
    return f_of(shfl(bits_of(v), from));
}

/* 16-lane sum and maximum: lane i of each half of a warp holds lane i of the vector; good in the
 * first lane of each half. */
FG_DEV float sum_lanes(float v)
{
    v = v + shfl_down_f(v, 8);
    v = v + shfl_down_f(v, 4);
    v = v + shfl_down_f(v, 2);
    return v + shfl_down_f(v, 1);
}
FG_DEV float max_lanes(float v)
{
    v = max_of(v, shfl_down_f(v, 8));
    v = max_of(v, shfl_down_f(v, 4));
    v = max_of(v, shfl_down_f(v, 2));
    return max_of(v, shfl_down_f(v, 1));
}

#define FG_ROUND_BIAS 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, RNE */

FG_DEV float exp_f32(float x)
{
    x = max_of(-87.25f, x);
    x = min_of(89.0f, x);
    const float t = fma_rn(x, 0x1.715476p+0f, FG_ROUND_BIAS), n = t - FG_ROUND_BIAS;
    float r = fma_rn(n, -0x1.62e4p-1f, x);
    r = fma_rn(n, -0x1.7f7d1cp-20f, r);
    float p = 0x1.6a3fb8p-10f;
    p = fma_rn(p, r, 0x1.1239e0p-7f);
    p = fma_rn(p, r, 0x1.5558bep-5f);
    p = fma_rn(p, r, 0x1.555492p-3f);
    p = fma_rn(p, r, 0x1.fffffcp-2f);
    p = fma_rn(p, r, 1.0f);
    p = fma_rn(p, r, 1.0f);
    return (p + p) * f_of((bits_of(t) + 126u) << 23);
}
FG_DEV float one_plus_exp_neg(float x)
{
    return 1.0f + exp_f32(0.0f - x);
}
FG_DEV float silu_f32(float x)
{
    return x / one_plus_exp_neg(x);
}
FG_DEV float sigmoid_f32(float x)
{
    return 1.0f / one_plus_exp_neg(x);
}

/* An IEEE half, exactly. */
FG_DEV float f_of_half(uint32_t h)
{
    const uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31u, fraction = h & 0x3ffu;
    if (exponent == 31) return f_of(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return f_of(sign | (exponent + 112u) << 23 | fraction << 13);
    return f_of(sign | bits_of(i2f((int32_t)fraction) * 0x1p-24f));
}

/* Four floats, 16-byte aligned. */
FG_DEV float4 load_f4(const float *p)
{
    return *(const float4 *)(const void *)p;
}
FG_DEV void store_f4(float *p, float4 x)
{
    *(float4 *)(void *)p = x;
}

/* Signed byte i of a word. */
FG_DEV int32_t byte_of(uint32_t w, unsigned i)
{
    return (int32_t)(int8_t)(w >> (8 * i));
}

#endif
