/* SPDX-License-Identifier: MIT
 *
 * Fibres of a block.  A fibre runs until it waits for its warp or block; those that may go on are
 * bits of a word a warp, so that a switch costs some ten instructions.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

#include "tests/emulate/cuda/cuda_emu_kernel.h"

#define _Static_assert static_assert
#define _Alignas alignas
extern "C" {
#include "tests/emulate/cuda/cuda_emu.h"
}
#undef _Static_assert
#undef _Alignas

enum { MAX_BLOCK = 1024, WARPS = MAX_BLOCK / 32, STACK = 64 * 1024, MAX_SHARED = 64 };

extern "C" {
#define FG_CUDA_KERNEL(name)                                                                       \
    void fg_card_##name(const void *args);                                                         \
    extern const size_t fg_card_args_##name;
#include "simd/cuda/cuda_kernels.inc"
}

struct kernel_info {
    void (*run)(const void *args);
    const size_t *n_args;
};
static const kernel_info kernels[] = {
#define FG_CUDA_KERNEL(name) {fg_card_##name, &fg_card_args_##name},
#include "simd/cuda/cuda_kernels.inc"
};

struct fibre {
    void *sp;
    uint32_t turn;
#if !defined(__x86_64__) && !defined(__aarch64__)
    ucontext_t context;
#endif
};
/* Threads of a warp by what they wait for: nothing, the warp, the block; live: not returned. */
struct warp {
    uint32_t ready, at_warp, at_block, live;
    fg_emu_lane slot[2][32];
};
struct shared_piece {
    const void *key;
    unsigned char *p;
    size_t bytes;
};
struct emulator {
    fg_emu_now now;
    fibre fib[MAX_BLOCK], home;
    warp w[WARPS];
    uint32_t ready_warps, n_live, n_at_block;
    unsigned n_warp;
    bool stuck;
    unsigned char *stacks, *dynamic;
    shared_piece piece[MAX_SHARED];
    unsigned n_piece;
    void (*run)(const void *);
    const void *args;
    uint64_t seed;
};

__thread fg_emu_now *fg_emu_now_;
static __thread emulator *emu;
unsigned fg_emu_broken;
__thread uint64_t fg_emu_waited;
static uint64_t order_seed;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* ---- switching ---- */

static void fibre_main(void);

#if defined(__x86_64__)
extern "C" void fg_emu_switch(void **save, void *to);
__asm__(".text\n.p2align 4\n.globl fg_emu_switch\n.hidden fg_emu_switch\n"
        ".type fg_emu_switch, @function\nfg_emu_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
        ".size fg_emu_switch, . - fg_emu_switch\n");
static void prepare(fibre *f, unsigned char *top)
{
    void **sp = (void **)(void *)top - 8; /* six registers, the address to return to, none */
    memset(sp, 0, 8 * sizeof *sp);
    void (*const start)(void) = fibre_main;
    memcpy(&sp[6], &start, sizeof start);
    f->sp = sp;
}
static void switch_to(fibre *from, fibre *to)
{
    fg_emu_switch(&from->sp, to->sp);
}
#elif defined(__aarch64__)
extern "C" void fg_emu_switch(void **save, void *to);
__asm__(".text\n.p2align 4\n.globl fg_emu_switch\n.hidden fg_emu_switch\n"
        ".type fg_emu_switch, %function\nfg_emu_switch:\n"
        "sub sp, sp, #160\nstp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\n"
        "stp x25, x26, [sp, #48]\nstp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
        "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\n"
        "stp d14, d15, [sp, #144]\nmov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
        "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\n"
        "ldp x25, x26, [sp, #48]\nldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
        "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\n"
        "ldp d14, d15, [sp, #144]\nadd sp, sp, #160\nret\n"
        ".size fg_emu_switch, . - fg_emu_switch\n");
static void prepare(fibre *f, unsigned char *top)
{
    void **sp = (void **)(void *)top - 20;
    memset(sp, 0, 20 * sizeof *sp);
    void (*const start)(void) = fibre_main;
    memcpy(&sp[11], &start, sizeof start); /* x30 */
    f->sp = sp;
}
static void switch_to(fibre *from, fibre *to)
{
    fg_emu_switch(&from->sp, to->sp);
}
#else
static void prepare(fibre *f, unsigned char *top)
{
    (void)getcontext(&f->context);
    f->context.uc_stack.ss_sp = top - STACK;
    f->context.uc_stack.ss_size = STACK;
    makecontext(&f->context, fibre_main, 0);
}
static void switch_to(fibre *from, fibre *to)
{
    (void)swapcontext(&from->context, &to->context);
}
#endif

/* ---- who runs ---- */

static uint32_t random_word(emulator *e)
{
    e->seed ^= e->seed << 13;
    e->seed ^= e->seed >> 7;
    e->seed ^= e->seed << 17;
    return (uint32_t)(e->seed >> 32);
}

/* A set bit of m, which has one: the next after `after`, or any. */
static unsigned pick(emulator *e, uint32_t m, unsigned after)
{
    if (order_seed != 0) after = random_word(e) % 32;
    const uint32_t above = after >= 31 ? 0 : m & (~0u << (after + 1));
    return (unsigned)__builtin_ctz(above != 0 ? above : m);
}

/* Lets another thread run; returns when this one is resumed.  home: nobody can. */
static void go_on(emulator *e)
{
    const unsigned self = e->now.thread.x;
    unsigned w = self / 32;
    fibre *to = &e->home;
    if (e->ready_warps != 0) {
        if (order_seed != 0 || e->w[w].ready == 0) w = pick(e, e->ready_warps, w);
        const unsigned next = 32 * w + pick(e, e->w[w].ready, self / 32 == w ? self % 32 : 31);
        if (next == self) return;
        to = &e->fib[next];
        e->now.thread.x = next;
        e->now.slot = e->w[w].slot;
        e->now.turn = &to->turn;
    }
    switch_to(&e->fib[self], to);
}

static void set_ready(emulator *e, unsigned w, uint32_t m)
{
    e->w[w].ready = m;
    if (m != 0) {
        e->ready_warps |= 1u << w;
    } else {
        e->ready_warps &= ~(1u << w);
    }
}

static bool release_warp(emulator *e, unsigned w)
{
    warp *x = &e->w[w];
    if (x->at_warp == 0 || x->at_warp != x->live) return false;
    x->at_warp = 0;
    set_ready(e, w, x->live);
    return true;
}

static bool release_block(emulator *e)
{
    if (e->n_live == 0 || e->n_at_block != e->n_live) return false;
    e->n_at_block = 0;
    for (unsigned w = 0; w < e->n_warp; w++) {
        e->w[w].at_block = 0;
        set_ready(e, w, e->w[w].live);
    }
    return true;
}

void fg_emu_sync_warp(void)
{
    emulator *e = emu;
    const unsigned self = e->now.thread.x, w = self / 32;
    set_ready(e, w, e->w[w].ready & ~(1u << self % 32));
    e->w[w].at_warp |= 1u << self % 32;
    if (!release_warp(e, w) || order_seed != 0) go_on(e);
}

void fg_emu_sync_block(void)
{
    emulator *e = emu;
    const unsigned self = e->now.thread.x, w = self / 32;
    set_ready(e, w, e->w[w].ready & ~(1u << self % 32));
    e->w[w].at_block |= 1u << self % 32;
    e->n_at_block++;
    if (!release_block(e) || order_seed != 0) go_on(e);
}

void fg_emu_pause(void)
{
    sched_yield();
    go_on(emu);
}

static void fibre_main(void)
{
    emulator *e = emu;
    e->run(e->args);
    const unsigned self = e->now.thread.x, w = self / 32;
    e->w[w].live &= ~(1u << self % 32);
    set_ready(e, w, e->w[w].ready & ~(1u << self % 32));
    e->n_live--;
    (void)release_warp(e, w);
    (void)release_block(e);
    for (;;) go_on(e); /* is not resumed */
}

/* ---- memory ---- */

void *fg_emu_shared(const void *piece_key, size_t bytes)
{
    emulator *e = emu;
    for (unsigned i = 0; i < e->n_piece; i++) {
        if (e->piece[i].key == piece_key) return e->piece[i].p;
    }
    if (e->n_piece == MAX_SHARED) abort();
    void *p = NULL;
    if (posix_memalign(&p, 128, bytes) != 0) abort();
    memset(p, 0xa5, bytes);
    e->piece[e->n_piece++] = {piece_key, (unsigned char *)p, bytes};
    return p;
}

static void destroy(void *p)
{
    emulator *e = (emulator *)p;
    for (unsigned i = 0; i < e->n_piece; i++) free(e->piece[i].p);
    (void)munmap(e->stacks, (size_t)MAX_BLOCK * STACK);
    free(e->dynamic);
    free(e);
    if (emu == e) emu = NULL;
}

/* A program's last thread ends without its destructors. */
static void destroy_own(void)
{
    if (emu != NULL) destroy(emu);
}

static void make_key(void)
{
    if (pthread_key_create(&key, destroy) != 0) abort();
    (void)atexit(destroy_own);
}

static emulator *own(void)
{
    if (emu != NULL) return emu;
    (void)pthread_once(&once, make_key);
    emu = (emulator *)calloc(1, sizeof *emu);
    if (emu == NULL) abort();
    void *m = mmap(NULL, (size_t)MAX_BLOCK * STACK, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) abort();
    emu->stacks = (unsigned char *)m;
    (void)pthread_setspecific(key, emu);
    return emu;
}

/* ---- launches ---- */

/* Stacks begin at differing places: all at the same one would share few sets of a cache. */
static void start_block(emulator *e, unsigned n)
{
    e->n_live = n;
    e->n_at_block = 0;
    e->n_warp = (n + 31) / 32;
    for (unsigned w = 0; w < e->n_warp; w++) {
        const unsigned left = n - 32 * w;
        e->w[w].live = left >= 32 ? ~0u : (1u << left) - 1;
        e->w[w].at_warp = e->w[w].at_block = 0;
        set_ready(e, w, e->w[w].live);
    }
    for (unsigned i = 0; i < n; i++) {
        e->fib[i].turn = 0;
        prepare(&e->fib[i], e->stacks + (size_t)(i + 1) * STACK - 320 * (i % 64));
    }
    if (order_seed == 0) return;
    for (unsigned i = 0; i < e->n_piece; i++) memset(e->piece[i].p, 0xa5, e->piece[i].bytes);
}

static bool run_block(emulator *e, unsigned n)
{
    start_block(e, n);
    const unsigned first = order_seed != 0 ? random_word(e) % n : 0;
    e->now.thread.x = first;
    e->now.slot = e->w[first / 32].slot;
    e->now.turn = &e->fib[first].turn;
    switch_to(&e->home, &e->fib[first]);
    return e->n_live == 0;
}

int fg_emu_run(fg_cuda_kernel kernel, const uint32_t grid[3], uint32_t block, uint32_t shared,
               const void *args, size_t n_args)
{
    if ((unsigned)kernel >= FG_CUDA_KERNEL_COUNT || block == 0 || block > MAX_BLOCK ||
        shared > FG_EMU_SHARED || n_args != *kernels[kernel].n_args || grid[0] == 0 ||
        grid[1] == 0 || grid[2] == 0 || grid[1] > 65535 || grid[2] > 65535 || grid[0] >> 31 != 0) {
        return 1;
    }
    emulator *e = own();
    alignas(16) unsigned char copy[4096];
    if (n_args > sizeof copy) return 1;
    memcpy(copy, args, n_args);
    void *p = NULL; /* of the very size: a sanitizer sees what is beyond it */
    if (posix_memalign(&p, 128, shared == 0 ? 1 : shared) != 0) return 2;
    free(e->dynamic);
    e->dynamic = (unsigned char *)p;
    memset(p, 0xa5, shared);
    e->now.shared = e->dynamic;
    e->now.block_dim = {block, 1, 1};
    e->now.grid_dim = {grid[0], grid[1], grid[2]};
    fg_emu_waited = 0;
    e->run = kernels[kernel].run;
    e->args = copy;
    e->seed = order_seed + 0x9e3779b97f4a7c15u * (unsigned)(kernel + 1);
    fg_emu_now_ = &e->now;
    for (unsigned z = 0; z < grid[2]; z++) {
        for (unsigned y = 0; y < grid[1]; y++) {
            for (unsigned x = 0; x < grid[0]; x++) {
                e->now.block = {x, y, z};
                if (order_seed != 0) memset(e->dynamic, 0xa5, shared);
                if (run_block(e, block)) continue;
                (void)fprintf(stderr, "emulated %s: block %u: %u of %u threads wait for ever\n",
                              fg_cuda_kernel_name[kernel], x, e->n_live, block);
                return 719;
            }
        }
    }
    return 0;
}

void fg_emu_order(uint64_t seed)
{
    order_seed = seed;
}

void fg_emu_break(unsigned what)
{
    fg_emu_broken = what;
}

bool fg_emu_has_waited(const uint32_t grid[3], uint32_t block)
{
    return fg_emu_waited >= (uint64_t)grid[0] * grid[1] * grid[2] * block;
}

static void launch(void *ctx, const fg_cuda_launch *l)
{
    fg_emu_log *log = (fg_emu_log *)ctx;
    log->n_launch++;
    if (log->result != 0) return;
    log->result = fg_emu_run(l->kernel, l->grid, l->block, l->shared, l->args, l->n_args);
    log->failed = l->kernel;
    if (log->result == 0 && l->early && !fg_emu_has_waited(l->grid, l->block)) log->result = 1;
}

fg_cuda_queue fg_emu_queue(fg_emu_log *log)
{
    *log = {};
    return {launch, log, FG_EMU_SM, FG_EMU_SHARED};
}
