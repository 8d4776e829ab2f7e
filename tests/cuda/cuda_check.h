/* SPDX-License-Identifier: MIT
 *
 * What the tests of the card's kernels share: after tests/checkasm/checkasm.h.
 *
 * They run in the emulator; with FULGUR_TEST_CARD=N on card N, if the program has kernels and there
 * is one: the memory of guard_alloc is then registered with the driver, so that the card reads and
 * writes the same bytes by the same addresses, and each launch is waited for.  So what a kernel
 * gets comes from guard_alloc.
 */
#ifndef FG_TESTS_CUDA_CHECK_H
#define FG_TESTS_CUDA_CHECK_H

#include <string.h>

#include "tests/checkasm/checkasm.h"
#include "tests/emulate/cuda/cuda_emu.h"

/* True on a card; then what breaks the emulator breaks nothing, and controls are skipped. */
bool check_on_card(void);
/* The queue of the emulator or card; *log as fg_emu_queue has it. */
fg_cuda_queue check_queue(fg_emu_log *log);
void check_share(void *p, size_t bytes);
void check_unshare(void *p, size_t bytes);

#define CONTROLS_OF_THE_EMULATOR                                                                   \
    do {                                                                                           \
        if (check_on_card()) {                                                                     \
            fg_test_skip("a card cannot be told to be wrong");                                     \
            return;                                                                                \
        }                                                                                          \
    } while (0)

static inline guarded check_alloc(size_t bytes)
{
    guarded g = guard_alloc(bytes);
    check_share(g.map, g.map_bytes - 4096);
    return g;
}
static inline void check_free(guarded *g)
{
    check_unshare(g->map, g->map_bytes - 4096);
    guard_free(g);
}
#define guard_alloc  check_alloc
#define guard_free   check_free
#define fg_emu_queue check_queue

static inline uint32_t bits_of_float(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

#endif
