/* SPDX-License-Identifier: MIT
 *
 * The card's ledger: what its memory goes to, from a file's plan and the options of a run, before
 * anything is allocated.  `plan` prints it for cards that are not here; what the device takes is
 * these sums (tests/device/test_gpu_memory.c holds them together).
 */
#ifndef FG_SRC_DEVICE_GPU_MEMORY_H
#define FG_SRC_DEVICE_GPU_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/format/file_plan.h"
#include "src/model/model.h"
#include "src/model/state.h"

/* Of what a card says that it has, what the driver keeps for itself and its context, and what is
 * left free for passes larger than the first (the device stops adding experts there). */
#define FG_GPU_CONTEXT_BYTES ((uint64_t)1 << 30)
#define FG_GPU_RESERVE_BYTES ((uint64_t)2 << 30)
/* For experts that pass through: one is computed with and one is filled, and as many as a layer's
 * attention leaves time for set out ahead (3: prefill 5 % slower on an H200). */
enum { FG_GPU_SLOTS = 6 };

typedef struct fg_gpu_memory_opts {
    uint64_t bytes;   /* of the card that may be used */
    uint64_t n_ctx;   /* positions of one session */
    uint32_t n_batch; /* rows of a pass at most */
    fg_kv_type kv;
} fg_gpu_memory_opts;

/* Bytes, each buffer rounded up to 256. */
typedef struct fg_gpu_memory {
    uint64_t attention;  /* matrices of all layers but experts and routers, with scales */
    uint64_t head;       /* lm_head */
    uint64_t small;      /* routers, norms, decay tables */
    uint64_t dense;      /* the three together */
    uint64_t lightning;  /* states of a session */
    uint64_t kv;         /* its key-value cache */
    uint64_t work;       /* activations, and the work of attention */
    uint64_t slots;      /* FG_GPU_SLOTS of the largest expert */
    uint64_t table;      /* of experts; and a pass's own */
    uint64_t context;    /* FG_GPU_CONTEXT_BYTES */
    uint64_t reserve;    /* FG_GPU_RESERVE_BYTES, at most what is left */
    uint64_t needed;     /* all but slots and reserve: with less, there is no run */
    uint64_t expert;     /* largest expert */
    uint64_t n_expert;   /* of all layers */
    uint64_t n_resident; /* that fit, all as large as the largest */
    uint64_t resident;   /* bytes of them */
    bool fits;           /* needed <= bytes */
    bool streams;        /* so do the slots */
} fg_gpu_memory;

/* forms: of the activations.  FG_ELIMIT: the context is beyond the model's. */
fg_status fg_gpu_memory_make(fg_gpu_memory *out, const fg_file_plan *p, const fg_model_forms *forms,
                             const fg_gpu_memory_opts *o, fg_err *err);

/* Rows of the largest pass that there is memory for, experts left out: what a session's passes take
 * with a card (most_rows of model/device.h); o->n_batch is not looked at.  0: there is no run. */
uint32_t fg_gpu_memory_rows(const fg_file_plan *p, const fg_model_forms *forms,
                            const fg_gpu_memory_opts *o);

#endif
