/* SPDX-License-Identifier: MIT
 *
 * The card's kernels on a CPU: the .cu files compiled as C++ against cuda_emu_kernel.h, the threads
 * of a block as fibres of the calling thread, block after block.  It shows results, reads and
 * writes out of bounds (under a sanitizer, or with guard pages) and, when threads are resumed in
 * random order, most missing barriers; never the memory model, the compiler or the speed of a card.
 */
#ifndef FG_TESTS_CUDA_EMU_H
#define FG_TESTS_CUDA_EMU_H

#include "simd/cuda/ops.h"

/* What the emulated card has. */
enum { FG_EMU_SM = 4, FG_EMU_SHARED = 99 * 1024 };

/* Runs a kernel to its end.  0, or as the driver: 1 (launch that no card accepts: sizes, or args
 * that are not the kernel's), 719 (its threads wait for each other for ever; said on stderr).
 * Any thread may call it, several at a time too: state is per thread. */
int fg_emu_run(fg_cuda_kernel kernel, const uint32_t grid[3], uint32_t block, uint32_t shared,
               const void *args, size_t n_args);

/* Every thread of what this thread ran last has called wait_for_earlier, as those of a kernel that
 * is launched early must. */
bool fg_emu_has_waited(const uint32_t grid[3], uint32_t block);

/* Order in which threads are resumed from now on: 0 by number, else random from this seed, with
 * shared memory full of garbage at the start of a block. */
void fg_emu_order(uint64_t seed);

/* Controls of the tests: from now on multiply-adds round twice, chains (FG_ORDER) run in reverse,
 * or lanes are joined in another order.  0: as it should be. */
#if !defined(FG_EMULATED)
enum { FG_EMU_UNFUSED = 1, FG_EMU_REVERSED = 2, FG_EMU_OTHER_TREE = 4 };
#endif
void fg_emu_break(unsigned what);

/* A queue that runs what it is given at once, and how that went: first error, launches. */
typedef struct fg_emu_log {
    int result;
    fg_cuda_kernel failed;
    uint64_t n_launch;
} fg_emu_log;
fg_cuda_queue fg_emu_queue(fg_emu_log *log);

#endif
