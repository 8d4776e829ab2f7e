/* SPDX-License-Identifier: MIT
 *
 * The emulator itself, by its smallest kernel.
 */
#include "tests/cuda/cuda_check.h"

static void probe(void)
{
    guarded x = guard_alloc(4000), y = guard_alloc(4004);
    uint32_t *in = (uint32_t *)(void *)x.p, *out = (uint32_t *)(void *)y.p;
    for (uint32_t i = 0; i < 1000; i++) in[i] = i * 2654435761u;
    memset(out, 0x55, 4004);
    fg_emu_log log;
    const fg_cuda_queue q = fg_emu_queue(&log);
    fg_cuda_probe_card(&q, &(fg_cuda_probe){in, out, 1000});
    REQUIRE(log.result == 0 && log.n_launch == 1);
    for (uint32_t i = 0; i < 1000; i++) REQUIRE(out[i] == 2 * in[i] + 1);
    CHECK(out[1000] == 0x55555555u);
    guard_free(&x);
    guard_free(&y);
}

FG_TEST(probe_in_order)
{
    probe();
}

FG_TEST(probe_in_random_order)
{
    fg_emu_order(7);
    probe();
    fg_emu_order(0);
}

FG_TEST(a_launch_that_no_card_accepts)
{
    CONTROLS_OF_THE_EMULATOR;
    const uint32_t grid[3] = {1, 1, 1}, none[3] = {1, 0, 1};
    const fg_cuda_probe p = {0};
    CHECK(fg_emu_run(FG_CUDA_probe, grid, 32, 0, &p, sizeof p) == 0);
    CHECK(fg_emu_run(FG_CUDA_probe, grid, 32, 0, &p, sizeof p - 4) == 1);
    CHECK(fg_emu_run(FG_CUDA_probe, grid, 1025, 0, &p, sizeof p) == 1);
    CHECK(fg_emu_run(FG_CUDA_probe, none, 32, 0, &p, sizeof p) == 1);
    CHECK(fg_emu_run(FG_CUDA_probe, grid, 32, FG_EMU_SHARED + 1, &p, sizeof p) == 1);
}

/* The probe does not wait for anybody, so it must not be launched like that. */
FG_TEST(an_early_kernel_that_does_not_wait_is_seen)
{
    CONTROLS_OF_THE_EMULATOR;
    fg_emu_log log;
    const fg_cuda_queue q = fg_emu_queue(&log);
    const fg_cuda_probe p = {0};
    fg_cuda_launch l = {
        .kernel = FG_CUDA_probe, .grid = {1, 1, 1}, .block = 32, .args = &p, .n_args = sizeof p};
    q.launch(q.ctx, &l);
    CHECK(log.result == 0);
    l.early = true;
    q.launch(q.ctx, &l);
    CHECK(log.result != 0);
}
