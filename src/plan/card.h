/* SPDX-License-Identifier: MIT
 *
 * How fast a model will be with a card: arithmetic on demand, rates of the host (forecast.h) and
 * rates of a card that is measured, or only described.
 *
 * Decode, seconds of one token at position p.  B: bytes, R: the card's read rate:
 *
 *     card     D = (B(dense) + B(lm_head)) / (gemv * R) + state B / R
 *     layers   L = layers * (layer_us + box_us)
 *     experts  E = B(experts of a token) / R_gemv of the host * imbalance * away * (1 + other)
 *     on the host           t = D + L + E
 *     with residents        a layer's n_used experts are on the card each with probability f, the
 *                           share that fits (uniform routing); k of them take k c, the others
 *                           (n_used - k) h, at the same time:
 *                           t = D + L + layers * sum_k binomial(k) max(k c, (n_used - k) h)
 *
 *     with --ram            experts that are neither on the card nor in a slot are read; those of
 *                           the card take no slots.  D_disk: of the misses, u: as in forecast.h
 *                           t' = max(D_disk, t + u (D_disk - overlap * min(D_disk, E (1 - f))))
 *
 * Softmax attention takes the longer of its reads and its arithmetic at fma_gmacs.
 *
 * Prefill, a batch of n tokens that meets e experts of a layer, each with its share of rows: those
 * on the card take their arithmetic at gemm_gmacs, one that is copied also B / copy, overlapped
 * with it; one on the host the longer of its read and its arithmetic.  x experts of a layer are
 * copied: as many as make the longer of both sides the shortest; that is the rule of
 * src/device/share.h for equal experts.  With --ram none is copied.
 */
#ifndef FG_SRC_PLAN_CARD_H
#define FG_SRC_PLAN_CARD_H

#include "src/device/driver.h"
#include "src/device/gpu_memory.h"
#include "src/plan/forecast.h"

typedef struct fg_gpu_card {
    char name[128];
    uint64_t bytes;    /* of memory */
    double read_gbs;   /* its memory */
    double copy_gbs;   /* host to card */
    double back_gbs;   /* card to host; 0: not measured */
    double gemm_gmacs; /* int8 products of many rows */
    double fma_gmacs;  /* f32 chains of attention */
} fg_gpu_card;

/* "80GB,3.3TB/s,55GB/s": memory, its rate, the bus; arithmetic is that of an H100.  FG_EINVAL. */
fg_status fg_gpu_card_parse(fg_gpu_card *out, const char *text, fg_err *err);
/* The same for arithmetic, by multiprocessors: 120,000 GMAC/s and 15,000 for 132 of them, which
 * sm_90 was measured to reach. */
void fg_gpu_card_assume(fg_gpu_card *c, uint32_t n_sm);

/* Measures card idx: copies of pinned memory, whole and in pieces of 1 MiB, and reads of its own
 * memory; medians of five, each with an end to its patience; some two seconds.  Errors: those of
 * fg_gpu_open, FG_ENOMEM, FG_EIO. */
typedef struct fg_gpu_card_measured {
    fg_gpu_info info;
    uint64_t free_bytes;
    int driver; /* 13000 is 13.0 */
    double piece_gbs;
} fg_gpu_card_measured;
fg_status fg_gpu_card_measure(fg_gpu_card *out, fg_gpu_card_measured *more, uint32_t idx,
                              fg_err *err);

/* What a card was measured for, or chosen: see above. */
typedef struct fg_gpu_card_fit {
    double gemv;     /* share of the read rate that products of one row reach; 0.8 */
    double layer_us; /* norms, router, launches of a layer; 20 */
    double box_us;   /* card to host and back; 10 */
} fg_gpu_card_fit;
fg_gpu_card_fit fg_gpu_card_fit_default(void);

typedef struct fg_gpu_card_speed {
    uint64_t pos;
    double host_tok_s;                 /* without the card */
    double tok_s;                      /* experts on the host (decode), none copied (prefill) */
    double resident_tok_s;             /* decode: with residents */
    double copied_tok_s, shared_tok_s; /* prefill: all copied; the rule */
    double n_copied;                   /* experts of a layer that the rule copies */
    double card_s, layers_s, experts_s;
    double streamed_tok_s; /* decode, with --ram: the same with residents; 0: all is in memory */
} fg_gpu_card_speed;

typedef struct fg_gpu_card_forecast {
    fg_gpu_memory memory;
    fg_gpu_card_speed decode[2], prefill[2]; /* at position 0, and with the context full */
} fg_gpu_card_forecast;

/* Tokens of the passes that a session with the card makes of a prompt that fills o->n_ctx, as
 * fg_forecast_batch; o->n_batch where there is no room on it for more. */
uint32_t fg_gpu_card_batch(const fg_gpu_card *c, const fg_file_plan *p, const fg_demand *d,
                           uint32_t n_thread, const fg_forecast_opts *o);

/* f: of the host, from the same demand, rates and options.  n_batch: of prefill.  FG_ELIMIT. */
fg_status fg_gpu_card_forecast_make(fg_gpu_card_forecast *out, const fg_gpu_card *c,
                                    const fg_gpu_card_fit *fit, const fg_file_plan *p,
                                    const fg_demand *d, const fg_rates *r, const fg_forecast *f,
                                    const fg_forecast_opts *o, uint32_t n_batch, fg_err *err);

#endif
