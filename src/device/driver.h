/* SPDX-License-Identifier: MIT
 *
 * The card's driver: libcuda.so.1, loaded when somebody asks for a card and never before, its
 * functions as a table, and one card opened with the module of simd/cuda loaded on it. Nothing of
 * CUDA is needed to build or to start.
 *
 * Prototypes and numbers are those of the CUDA driver API reference, written down here.
 */
#ifndef FG_SRC_DEVICE_DRIVER_H
#define FG_SRC_DEVICE_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "simd/cuda/ops.h"
#include "src/base/status.h"

typedef struct fg_cu_context_ *fg_cu_context;
typedef struct fg_cu_module_ *fg_cu_module;
typedef struct fg_cu_function_ *fg_cu_function;
typedef struct fg_cu_stream_ *fg_cu_stream;
typedef struct fg_cu_event_ *fg_cu_event;
typedef struct fg_cu_graph_ *fg_cu_graph;
typedef struct fg_cu_graph_exec_ *fg_cu_graph_exec;

/* Results and flags of the driver's that are spoken of here and in src/device. */
enum {
    FG_CU_OUT_OF_MEMORY = 2,
    FG_CU_NO_DEVICE = 100,
    FG_CU_NOT_READY = 600,     /* of stream_query and event_query: no failure */
    FG_CU_HOST_PORTABLE = 1,   /* host_alloc, host_register: for all contexts */
    FG_CU_HOST_MAPPED = 2,     /* seen by the card */
    FG_CU_HOST_READ_ONLY = 8,  /* host_register: the card only reads it */
    FG_CU_STREAM_NO_WAIT = 1,  /* stream_create: does not wait for stream 0 */
    FG_CU_EVENT_NO_TIME = 2,   /* event_create: not for event_time */
    FG_CU_CAPTURE_THREAD = 1,  /* capture_begin: other threads may call what cannot be captured */
    FG_CU_CAPTURE_RELAXED = 2, /* and so may this one */
};

/* A launch and what is said of it besides. */
enum { FG_CU_EARLY = 6 }; /* id: with value 1 it may begin before the kernel in front is done */
typedef struct fg_cu_attribute {
    int id, pad;
    union {
        int value;
        uint64_t all[8];
    };
} fg_cu_attribute;
typedef struct fg_cu_config {
    unsigned grid[3], block[3], shared;
    fg_cu_stream stream;
    const fg_cu_attribute *attribute;
    unsigned n_attribute;
} fg_cu_config;

typedef struct fg_driver {
#define FG_CUDA_FN(member, name, params) int(*member) params;
#include "src/device/driver.inc"
    int version; /* 12080 is 12.8 */
} fg_driver;

/* Whether somebody who did not ask for a card should be told why he has none: a driver is here, and
 * does not itself say that there is no card. */
bool fg_gpu_expected(void);

/* What a card is. */
typedef struct fg_gpu_info {
    char name[128], pci[16];
    int sm; /* 90 is sm_90 */
    uint32_t n_sm, max_shared;
    uint64_t bytes;
    int numa_node;            /* of the host; -1: unknown */
    int pcie_gen, pcie_width; /* 0: unknown */
} fg_gpu_info;
/* How many there are; 0 without a driver, or with one that cannot be used. */
uint32_t fg_gpu_count(void);
/* FG_ENOTSUP: no driver, or no such card.  Needs no module, makes no context. */
fg_status fg_gpu_describe(uint32_t idx, fg_gpu_info *out, fg_err *err);

/* A card in use: its primary context is current for the calling thread from here to fg_gpu_close,
 * and must be used by one thread at a time (fg_gpu_enter makes it current for another).  The
 * probe kernel has run: the module's code is known to run here. */
typedef struct fg_gpu {
    const fg_driver *d;
    int device;
    uint32_t idx;
    fg_gpu_info info;
    fg_cu_context context;
    fg_cu_module module;
    fg_cu_function kernel[FG_CUDA_KERNEL_COUNT];
    bool hangs; /* set by who waited in vain: fg_gpu_close then leaves everything as it is */
} fg_gpu;
/* FG_ENOTSUP: no driver, no such card, none of ours, no module for it; FG_EIO: it does not work, or
 * does not answer within FG_GPU_PROBE_MS. */
enum { FG_GPU_PROBE_MS = 5000 };
fg_status fg_gpu_open(fg_gpu **out, uint32_t idx, fg_err *err);
void fg_gpu_close(fg_gpu **gpu); /* accepts NULL; never waits for a card that hangs */
fg_status fg_gpu_enter(const fg_gpu *gpu, fg_err *err);

/* Polls the stream until all that was put into it is done, at most `ms`.  FG_EIO: a failure on the
 * card, or it does not answer (and gpu->hangs is set). */
fg_status fg_gpu_wait(fg_gpu *gpu, fg_cu_stream stream, uint32_t ms, const char *what, fg_err *err);

/* The status of a driver call: FG_OK for 0, else FG_ENOMEM (out of the card's memory) or FG_EIO,
 * "gpu 0: WHAT: NAME (text), expected no error". */
fg_status fg_gpu_check(const fg_gpu *gpu, int result, const char *what, fg_err *err);

/* A queue of operations on a stream: launch() of an fg_cuda_queue whose ctx is this.  result: of
 * the first launch that failed, whose kernel `failed` is. */
typedef struct fg_gpu_queue {
    const fg_gpu *gpu;
    fg_cu_stream stream;
    int result;
    fg_cuda_kernel failed;
} fg_gpu_queue;
fg_cuda_queue fg_gpu_queue_ops(fg_gpu_queue *q);

#endif
