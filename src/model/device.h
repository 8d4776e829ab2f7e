/* SPDX-License-Identifier: MIT
 *
 * What a device (a card) is to the network.  The unit is a sub-layer, never a kernel: the device
 * keeps the dense weights and the state of a sequence, and does a layer's norms, attention,
 * residuals, router, the experts that are resident on it, and the combination; the host does the
 * other experts. Results are those of the host, in every bit (simd/KERNELS.md, numerics contract).
 *
 * One pass, as the host runs it:
 *
 *     begin(d, batch, first, last)
 *     for each layer of first .. last:
 *         routed(d, layer, ids, &n)          waits; ids: experts that are left to the host, whose
 *                                            inputs are in the batch's scratch then
 *         stream(d, layer, expert, where)    instead of computing it: gives the device an expert
 *                                            for this pass
 *         ... the host's experts, their outputs in scratch ...
 *         experts_done(d, layer, status)        a failure is the abort word
 *     logits(d) or nothing, end(d)
 *
 * Implementations are in src/device: none.c always, others where they were built.
 */
#ifndef FG_SRC_MODEL_DEVICE_H
#define FG_SRC_MODEL_DEVICE_H

#include "src/model/stages.h"

typedef struct fg_device_opts {
    uint32_t idx;   /* which card */
    uint64_t bytes; /* of its memory to use at most; 0: what it has */
} fg_device_opts;

typedef struct fg_device_ops {
    const char *name;
    /* *ctx is what the other functions get.  FG_ENOTSUP: there is none, and why. */
    fg_status (*open)(void **ctx, const fg_model *m, const fg_device_opts *o, fg_err *err);
    void (*close)(void *ctx);

    /* ---- state: the bytes of an fg_state ---- */
    fg_status (*copy_in)(void *ctx, const fg_state *st, fg_err *err);
    fg_status (*copy_out)(void *ctx, fg_state *st, fg_err *err);
    bool (*rewind)(void *ctx, uint64_t pos); /* as fg_state_rewind */
    fg_status (*mark)(void *ctx, uint64_t *pos, fg_err *err);

    /* ---- pass ---- */
    fg_status (*begin)(void *ctx, fg_batch *b, uint32_t first_layer, uint32_t last_layer,
                       fg_err *err);
    fg_status (*routed)(void *ctx, uint32_t layer, uint32_t *ids, uint32_t *n, fg_err *err);
    fg_status (*stream)(void *ctx, uint32_t layer, uint32_t expert, const fg_panel_run *where,
                        fg_err *err); /* where: gate, up, down */
    void (*experts_done)(void *ctx, uint32_t layer, fg_status status);
    void (*guess)(void *ctx, uint32_t layer, fg_guess *out);
    fg_status (*logits)(void *ctx, fg_err *err);
    fg_status (*end)(void *ctx, fg_err *err);

    /* Between passes: experts [n] (layer * n_expert + expert) to keep from now on. */
    fg_status (*resident)(void *ctx, const uint64_t *ids, size_t n, fg_err *err);
} fg_device_ops;

/* Answers every open with FG_ENOTSUP, and so needs no other function. */
extern const fg_device_ops fg_device_none;

#endif
