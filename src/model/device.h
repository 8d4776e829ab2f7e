/* SPDX-License-Identifier: MIT
 *
 * What a device (a card) is to the network.  The unit is a sub-layer, never a kernel: the device
 * keeps the dense weights and the state of a sequence, and does a layer's norms, attention,
 * residuals, router, the experts that it holds, and the combination; the host does the other
 * experts.  Results are those of the host, in every bit (simd/KERNELS.md, numerics contract).
 *
 * One pass, as the host runs it (src/model/hybrid.c); all calls by worker 0:
 *
 *     begin(d, batch)                    rows of x, cos, sin are in the batch's scratch
 *     for each layer:
 *         routed(d, layer)               waits; sel, sel_w and the experts' inputs are in scratch
 *         take(d, layer, rows, mine)     which of the layer's experts the device does, after which
 *                                        scratch has the rows' order (fg_route_sort)
 *         start(d, layer)                it may begin with them
 *         ... the host's experts, their outputs in scratch ...
 *         done(d, layer, status)         a failure is the abort word
 *         hidden(d)                      only for observers: x to scratch
 *     logits(d, rows, n)                 any number of times, to scratch
 *     end(d)                             always, also after a failure
 *
 * The payload of a state (what fg_state_head and fg_state_rows point to) may be newer on the card
 * than in memory, or the other way round; position and `folded` are always the host's.  Whoever
 * reads or writes the payload on the host calls fg_state_fetch first.
 *
 * Implementations are in src/device: none.c always, others where they were built.
 */
#ifndef FG_SRC_MODEL_DEVICE_H
#define FG_SRC_MODEL_DEVICE_H

#include "src/model/stages.h"

typedef struct fg_device_opts {
    uint32_t idx;   /* which card */
    uint64_t bytes; /* of its memory to use at most; 0: what it has */
    /* With bytes done and total of what is copied to it at opening; false cancels. May be NULL. */
    bool (*progress)(void *ctx, uint64_t done, uint64_t total);
    void *progress_ctx;
} fg_device_opts;

/* What it holds and did so far. */
typedef struct fg_device_stats {
    uint64_t dense_bytes, state_bytes, work_bytes; /* of its memory */
    uint64_t n_resident, resident_bytes;           /* experts that stay on it */
    uint64_t n_expert_rows[3]; /* rows of experts: by the host, resident, streamed for a pass */
    uint64_t n_ahead;          /* experts copied before the routing was known */
    uint64_t n_moved;          /* experts that took another one's place on it */
    uint64_t n_graph;          /* tokens that were one graph */
} fg_device_stats;

typedef struct fg_device fg_device;

typedef struct fg_device_ops {
    const char *name;
    /* FG_ENOTSUP: there is none, and why; FG_ENOMEM: too small; FG_EIO; FG_ECANCEL. */
    fg_status (*open)(fg_device **out, const fg_model *m, const fg_device_opts *o, fg_err *err);
    void (*close)(fg_device *d);

    /* A state that passes may be run on, of as many rows as that scratch has, or of more as far as
     * there is memory; detach is called before it goes, by fg_state_destroy. */
    fg_status (*attach)(fg_device *d, fg_state *st, fg_scratch *s, fg_err *err);
    void (*detach)(fg_device *d, fg_state *st);
    /* What is newer on the card comes to memory (fg_state_fetch). */
    fg_status (*fetch)(fg_device *d, fg_state *st, fg_err *err);
    /* All experts that it has room for come to it now, for who measures; passes bring them some at
     * a time.  After the first attach, between passes. */
    fg_status (*fill)(fg_device *d, fg_err *err);
    /* This expert is on it, or will be with the first passes, if memory does not get short. */
    bool (*has)(const fg_device *d, uint32_t layer, uint32_t expert);
    /* Rows of the largest pass that there is memory for. */
    uint32_t (*most_rows)(fg_device *d);
    /* Scratch that a pass used goes; by fg_scratch_destroy. */
    void (*forget)(fg_device *d, fg_scratch *s);

    fg_status (*begin)(fg_device *d, fg_batch *b, fg_err *err);
    fg_status (*routed)(fg_device *d, uint32_t layer, fg_err *err);
    /* n_row [n_expert]: rows that each has; mine [n_expert] is filled. */
    void (*take)(fg_device *d, uint32_t layer, const uint32_t *n_row, bool *mine);
    fg_status (*start)(fg_device *d, uint32_t layer, fg_err *err);
    fg_status (*done)(fg_device *d, uint32_t layer, fg_status status, fg_err *err);
    fg_status (*hidden)(fg_device *d, fg_err *err);
    fg_status (*logits)(fg_device *d, const uint32_t *rows, uint32_t n, fg_err *err);
    fg_status (*end)(fg_device *d, fg_err *err);

    void (*stats)(const fg_device *d, fg_device_stats *out);
} fg_device_ops;

/* The first member of what an implementation calls a device. */
struct fg_device {
    const fg_device_ops *ops;
};

/* Answers every open with FG_ENOTSUP, and so needs no other function. */
extern const fg_device_ops fg_device_none;
/* Cards by CUDA's driver, if there is one. */
extern const fg_device_ops fg_device_cuda;
/* For tests: an expert takes another one's place before every pass, whatever they are worth. */
void fg_device_cuda_restless(fg_device *d);

/* ---- the pass (hybrid.c) ---- */

/* A pass whose dense parts b->device does; of fg_forward. */
void fg_hybrid_pass(fg_worker *w, void *batch);

#endif
