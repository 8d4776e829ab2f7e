/* SPDX-License-Identifier: MIT
 *
 * What simd/cuda/primitives.cuh needs in place of nvcc: included before a .cu that is compiled as
 * C++ (-include).  Collectives of a warp are for all its threads that have not returned.
 */
#ifndef FG_TESTS_CUDA_EMU_KERNEL_H
#define FG_TESTS_CUDA_EMU_KERNEL_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FG_EMULATED 1
enum { FG_EMU_UNFUSED = 1, FG_EMU_REVERSED = 2, FG_EMU_OTHER_TREE = 4 }; /* as in cuda_emu.h */

struct uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct fg_emu_index {
    unsigned x, y, z;
};
struct fg_emu_lane {
    uint32_t v[6];
};

/* Of the block that runs; the pointer is the thread's own. */
struct fg_emu_now {
    fg_emu_index thread, block, block_dim, grid_dim;
    unsigned char *shared;   /* dynamic */
    fg_emu_lane (*slot)[32]; /* two sets of the current warp's, used in turn */
    uint32_t *turn;          /* of the current thread */
};
extern "C" {
extern __thread struct fg_emu_now *fg_emu_now_;
extern unsigned fg_emu_broken;
extern __thread uint64_t fg_emu_waited; /* threads of this launch that called wait_for_earlier */
void fg_emu_sync_block(void);
void fg_emu_sync_warp(void);
void fg_emu_pause(void);
void *fg_emu_shared(const void *key, size_t bytes);
}
#define threadIdx (fg_emu_now_->thread)
#define blockIdx  (fg_emu_now_->block)
#define blockDim  (fg_emu_now_->block_dim)
#define gridDim   (fg_emu_now_->grid_dim)

#define __device__
#define __forceinline__ inline

/* The kernel by value, as nvcc has it, behind a function that takes the launch's copy; and the size
 * of its parameter. */
#define FG_KERNEL(name, type, threads, blocks)                                                     \
    static void name##_body(const type &a);                                                        \
    extern "C" {                                                                                   \
    void fg_card_##name(const void *p);                                                            \
    void fg_card_##name(const void *p)                                                             \
    {                                                                                              \
        name##_body(*(const type *)p);                                                             \
    }                                                                                              \
    extern const size_t fg_card_args_##name;                                                       \
    const size_t fg_card_args_##name = sizeof(type);                                               \
    }                                                                                              \
    static void name##_body(const type &a)

#define FG_SHARED(type, name)                                                                      \
    using name##_type = type;                                                                      \
    static const char name##_key = 0;                                                              \
    name##_type &name = *(name##_type *)fg_emu_shared(&name##_key, sizeof(name##_type))
#define FG_SHARED_MORE(type, name) type *name = (type *)(void *)fg_emu_now_->shared

static inline void sync_block(void)
{
    fg_emu_sync_block();
}
static inline void sync_warp(void)
{
    fg_emu_sync_warp();
}
static inline void pause_thread(void)
{
    fg_emu_pause();
}

/* Writes this thread's words, waits for the warp, and gives the words of all: they stay until the
 * thread's next collective but one. */
static inline const fg_emu_lane *fg_emu_exchange(const uint32_t *v, int n)
{
    fg_emu_lane *s = fg_emu_now_->slot[(*fg_emu_now_->turn)++ & 1];
    memcpy(s[fg_emu_now_->thread.x % 32].v, v, 4 * (size_t)n);
    fg_emu_sync_warp();
    return s;
}
static inline uint32_t shfl(uint32_t v, unsigned from)
{
    return fg_emu_exchange(&v, 1)[from % 32].v[0];
}
static inline uint32_t shfl_xor(uint32_t v, unsigned mask)
{
    const unsigned lane = threadIdx.x % 32;
    return fg_emu_exchange(&v, 1)[(lane ^ mask) % 32].v[0];
}
static inline uint32_t shfl_down(uint32_t v, unsigned by)
{
    if (__builtin_expect(fg_emu_broken & FG_EMU_OTHER_TREE, 0) && by < 16) by = 8 / by;
    const unsigned lane = threadIdx.x % 32;
    return fg_emu_exchange(&v, 1)[lane + by < 32 ? lane + by : lane].v[0];
}
static inline uint32_t warp_max(uint32_t v)
{
    const fg_emu_lane *s = fg_emu_exchange(&v, 1);
    uint32_t m = 0;
    for (unsigned i = 0; i < 32; i++) m = s[i].v[0] > m ? s[i].v[0] : m;
    return m;
}
static inline int32_t warp_sum(int32_t v)
{
    const uint32_t u = (uint32_t)v;
    const fg_emu_lane *s = fg_emu_exchange(&u, 1);
    uint32_t sum = 0;
    for (unsigned i = 0; i < 32; i++) sum += s[i].v[0];
    return (int32_t)sum;
}

static inline int32_t dp4a(uint32_t a, uint32_t b, int32_t c)
{
    for (int i = 0; i < 32; i += 8) c += (int8_t)(a >> i) * (int8_t)(b >> i);
    return c;
}
/* Two int16 of a times the two lower (upper) int8 of b. */
static inline int32_t dp2a_lo(uint32_t a, uint32_t b, int32_t c)
{
    return c + (int16_t)a * (int8_t)b + (int16_t)(a >> 16) * (int8_t)(b >> 8);
}
static inline int32_t dp2a_hi(uint32_t a, uint32_t b, int32_t c)
{
    return dp2a_lo(a, b >> 16, c);
}
static inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t s)
{
    const uint64_t v = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) {
        const uint32_t n = s >> 4 * i & 15u, byte = (uint32_t)(v >> 8 * (n & 7u)) & 255u;
        r |= ((n & 8u) == 0 ? byte : (byte & 128u) != 0 ? 255u : 0u) << 8 * i;
    }
    return r;
}
/* PTX mma.m16n8k32.s8: a0 (row g, k 4t..), a1 (row g + 8), a2 (row g, k 16 + 4t..), a3 (row g + 8,
 * k 16 + 4t..), b0 (k 4t.., column g), b1 (k 16 + 4t..), d0 (row g, column 2t), d1 (column 2t + 1),
 * d2, d3 (row g + 8); g = lane / 4, t = lane % 4. */
static inline void imma(int32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    const uint32_t own[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const fg_emu_lane *s = fg_emu_exchange(own, 6);
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = i / 2, col = 2 * t + i % 2;
        d[i] = 0;
        for (unsigned u = 0; u < 4; u++) {
            const fg_emu_lane *x = &s[4 * g + u], *y = &s[4 * col + u];
            d[i] = dp4a(x->v[row], y->v[4], d[i]);
            d[i] = dp4a(x->v[2 + row], y->v[5], d[i]);
        }
    }
}

static inline void imma_codes(int32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1,
                              int32_t c0, int32_t c1)
{
    uint32_t low[4], high[4];
    int32_t x[4], y[4];
    for (int i = 0; i < 4; i++) { /* 0 .. 127, and half of 128, of a byte */
        low[i] = a[i] & 0x7f7f7f7fu;
        high[i] = a[i] >> 1 & 0x40404040u;
    }
    imma(x, low, b0, b1);
    imma(y, high, b0, b1);
    for (int i = 0; i < 4; i++) d[i] = x[i] + 2 * y[i] + (i % 2 == 0 ? c0 : c1);
}

static inline void imma_add(int32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    int32_t x[4];
    imma(x, a, b0, b1);
    for (int i = 0; i < 4; i++) d[i] += x[i];
}

static inline uint4 ld16(const void *p)
{
    uint4 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint2 ld8(const void *p)
{
    uint2 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint32_t ld4(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void cp16(void *shared, const void *global)
{
    memcpy(shared, global, 16);
}
static inline void cp_commit(void)
{
}
template <int N> static inline void cp_wait(void)
{
}
static inline void wait_for_earlier(void)
{
    fg_emu_waited++;
}
static inline void let_later_begin(void)
{
}
static inline uint32_t ld_system(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline void st_system(uint32_t *p, uint32_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
static inline void fence_system(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static inline void fence_card(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static inline uint32_t atomic_add(uint32_t *p, uint32_t v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
static inline uint32_t warp_ballot(bool yes)
{
    const uint32_t v = yes;
    const fg_emu_lane *s = fg_emu_exchange(&v, 1);
    uint32_t m = 0;
    for (unsigned i = 0; i < 32; i++) m |= s[i].v[0] << i;
    return m;
}
static inline uint32_t count_bits(uint32_t v)
{
    return (uint32_t)__builtin_popcount(v);
}

static inline float fma_rn(float x, float y, float z)
{
    if (__builtin_expect(fg_emu_broken & FG_EMU_UNFUSED, 0)) return x * y + z;
    return fmaf(x, y, z);
}
static inline float i2f(int32_t x)
{
    return (float)x;
}
static inline int32_t f2i_rn(float x)
{
    return (int32_t)lrintf(x);
}
static inline float sqrt_rn(float x)
{
    return sqrtf(x);
}

#endif
