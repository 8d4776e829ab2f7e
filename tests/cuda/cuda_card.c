/* SPDX-License-Identifier: MIT
 *
 * The tests of the card's kernels on a card.
 */
#include "tests/cuda/cuda_check.h"

#include <stdio.h>
#include <stdlib.h>

#include "tests/cuda/cuda_card.h"

#undef fg_emu_queue

static fg_gpu *gpu;
static fg_cu_stream stream;

static void open_card(void)
{
    static bool tried;
    const char *n = getenv("FULGUR_TEST_CARD");
    if (tried || n == NULL) return;
    tried = true;
    fg_err err;
    if (fg_gpu_open(&gpu, (uint32_t)strtoul(n, NULL, 10), &err) != FG_OK ||
        gpu->d->stream_create(&stream, 1) != 0) {
        (void)fprintf(stderr, "FULGUR_TEST_CARD: %s\n", gpu == NULL ? err.msg : "no stream");
        exit(1); /* who asks for a card does not want the emulator */
    }
}

bool check_on_card(void)
{
    open_card();
    return gpu != NULL;
}

const fg_gpu *check_gpu(void)
{
    return gpu;
}

static void launch(void *ctx, const fg_cuda_launch *l)
{
    fg_emu_log *log = ctx;
    log->n_launch++;
    if (log->result != 0) return;
    fg_gpu_queue q = {.gpu = gpu, .stream = stream};
    const fg_cuda_queue ops = fg_gpu_queue_ops(&q);
    ops.launch(ops.ctx, l);
    log->failed = l->kernel;
    log->result = q.result != 0 ? q.result : gpu->d->stream_sync(stream);
}

fg_cuda_queue check_queue(fg_emu_log *log)
{
    if (!check_on_card()) return fg_emu_queue(log);
    *log = (fg_emu_log){0};
    return (fg_cuda_queue){launch, log, gpu->info.n_sm, gpu->info.max_shared};
}

void check_share(void *p, size_t bytes)
{
    if (bytes != 0 && check_on_card() && gpu->d->host_register(p, bytes, 3) != 0) {
        (void)fprintf(stderr, "FULGUR_TEST_CARD: %zu bytes cannot be registered\n", bytes);
        exit(1);
    }
}

void check_unshare(void *p, size_t bytes)
{
    if (bytes != 0 && gpu != NULL) (void)gpu->d->host_unregister(p);
}
