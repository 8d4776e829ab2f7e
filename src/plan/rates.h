/* SPDX-License-Identifier: MIT
 *
 * Rates of this machine that a forecast is made from, measured in a few seconds with the model's
 * own products (fg_multiply) on random weights: the weights of one token streamed from memory, and
 * batches of many.  A plain read loop and a kernel from the cache (bench.h) would say what is
 * possible; this says what is reached, which differs by up to a half either way between machines.
 */
#ifndef FG_SRC_PLAN_RATES_H
#define FG_SRC_PLAN_RATES_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/engine/session.h"

enum { FG_RATE_TYPES = FG_KIND_COUNT }; /* the kinds of quant/types.inc, in its order */

/* All workers of all nodes together. */
typedef struct fg_rates {
    uint32_t n_thread;
    double read_gbs;                    /* plain read loop; GB/s, 1e9 */
    double gemv_gbs[FG_RATE_TYPES];     /* weights of one token */
    double dense_gmacs[FG_RATE_TYPES];  /* a batch; GMAC/s, 1e9 */
    double expert_gmacs[FG_RATE_TYPES]; /* the few tokens of a batch that one expert gets */
    double attn_gmacs;                  /* softmax attention kernel on cached keys and values */
    double sync_us;                     /* barrier of all workers */
    double disk_gbs;                    /* reads of whole experts; 0: unknown */
    /* What cores reach from another node's memory, next to their own; 0: unknown, taken for 1. */
    double remote;
} fg_rates;

typedef struct fg_rates_opts {
    fg_cpu_level cpu;     /* highest kernel level to use */
    uint32_t n_thread;    /* 0: as an engine would take */
    bool decode, prefill; /* what to measure */
    bool type[FG_RATE_TYPES];
    uint32_t n_col;          /* of the matrices; rounded up to 128 */
    uint32_t n_batch, n_few; /* tokens of a batch, and of one expert's part of it */
    uint32_t d_head, group;  /* of the attention; group: query heads of a key-value head */
    fg_kv_choice kv;         /* AUTO: int8 */
} fg_rates_opts;

/* Fields not measured are left alone.  Errors: FG_EINVAL, FG_ENOTSUP (cpu), FG_ENOMEM, FG_EIO. */
fg_status fg_rates_measure(fg_rates *r, const fg_rates_opts *o, fg_err *err);

/* disk_gbs: of a model file, its experts at random by the reader of the expert store; of a folder,
 * a temporary file in pieces of that reader's size.  Some two seconds.  Errors: those of
 * src/sys/disk.h, of opening a model, and of src/expert/drives.h. */
fg_status fg_rates_measure_disk(fg_rates *r, const char *path, fg_err *err);

/* For a machine known by two figures: decode reaches 95 % of read_gbs with every type; a batch
 * 85 %, an expert's part of it 65 %, and attention half of peak_gmacs, the multiply-adds of all
 * cores from cache.  A figure of 0 leaves its fields alone. */
void fg_rates_assume(fg_rates *r, double read_gbs, double peak_gmacs);

#endif
