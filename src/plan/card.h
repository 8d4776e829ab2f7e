/* SPDX-License-Identifier: MIT
 *
 * How fast a model will be with a card: arithmetic on demand, rates of the host (forecast.h) and
 * rates of a card that is measured, or only described.
 *
 * Decode, seconds of one token at position p.  B: bytes, W: weights, R: the card's read rate, U:
 * how many weights a second it unpacks, which narrow ones are bound by:
 *
 *     products P(x) = sum over types max(B(x) / (gemv * R), W(x) / U)
 *     card     D = P(dense) + P(lm_head) + state B / R + token_us
 *     layers   L = layers * (layer_us + box_us), what launches take that does not grow with bytes
 *     experts  E = B(experts of a token) / R_gemv of the host * imbalance * away * (1 + other)
 *     on the host           t = D + L + E
 *     with residents        a layer's n_used experts are on the card each with probability f, the
 *                           share that fits (uniform routing); k of them take c(k) = k P + few_us,
 *                           the others (n_used - k) h, at the same time:
 *                           t = D + L + layers * sum_k binomial(k) max(c(k), (n_used - k) h)
 *
 *     with --ram            experts that are neither on the card nor in a slot are read; those of
 *                           the card take no slots, and its dense matrices leave room for more.
 *                           D_disk: of the misses, u: as in forecast.h
 *                           t' = max(D_disk, t + u (D_disk - overlap * min(D_disk, E (1 - f))))
 *
 * Softmax attention of one row takes the longer of its reads, at a share of R, and its arithmetic
 * at fma_gmacs.
 *
 * Prefill, a batch of n tokens that meets e experts of a layer, each with its share of rows: those
 * on the card take their arithmetic at gemm_gmacs, one that is copied also B / copy, overlapped
 * with it; one on the host the longer of its read and its arithmetic.  x experts of a layer are
 * copied: as many as make the longer of both sides the shortest; that is the rule of
 * src/device/share.h for equal experts.  With --ram none is copied.  As many copies as there are
 * slots run while the layer's attention does, as far as that takes so long.  To the products come
 * lightning attention at light_gmacs, softmax attention at attn_gmacs and row_us a row and layer.
 */
#ifndef FG_SRC_PLAN_CARD_H
#define FG_SRC_PLAN_CARD_H

#include "src/device/driver.h"
#include "src/device/gpu_memory.h"
#include "src/plan/forecast.h"
#include "src/sys/place.h"

typedef struct fg_gpu_card {
    char name[128];
    uint64_t bytes;     /* of memory */
    double read_gbs;    /* its memory */
    double copy_gbs;    /* host to card; of several nodes, all with their parts */
    double back_gbs;    /* card to host; 0: not measured */
    double gemm_gmacs;  /* int8 products of many rows */
    double fma_gmacs;   /* f32 chains of attention, one row */
    double attn_gmacs;  /* softmax attention of many rows */
    double light_gmacs; /* lightning attention of many rows */
    double row_us; /* norms, gathering and what else lies between products; of a row and layer */
    double unpack_gws; /* 1e9 quantized weights a second that products of one row unpack */
    double float_gws;  /* the same of others, which are multiplied in f32 */
} fg_gpu_card;

/* "80GB,3.3TB/s,55GB/s": memory, its rate, the bus; arithmetic is that of an H100.  FG_EINVAL. */
fg_status fg_gpu_card_parse(fg_gpu_card *out, const char *text, fg_err *err);
/* The same for arithmetic, by multiprocessors: what 132 of sm_90 were measured to reach. */
void fg_gpu_card_assume(fg_gpu_card *c, uint32_t n_sm);

/* Measures card idx: copies of pinned memory, whole and in pieces of 1 MiB, and reads of its own
 * memory; medians of five, each with an end to its patience; some two seconds.  With a placement of
 * several nodes, memory of each is copied too, and out->copy_gbs is what a copy reaches of which
 * every node has its part; node_gbs are 0 where memory cannot be bound or registered.  place may be
 * NULL.  Errors: those of fg_gpu_open, FG_ENOMEM, FG_EIO. */
typedef struct fg_gpu_card_measured {
    fg_gpu_info info;
    uint64_t free_bytes;
    int driver; /* 13000 is 13.0 */
    double piece_gbs;
    uint32_t n_node; /* 0: not asked */
    double node_gbs[FG_MAX_NODE];
} fg_gpu_card_measured;
fg_status fg_gpu_card_measure(fg_gpu_card *out, fg_gpu_card_measured *more, uint32_t idx,
                              const fg_place *place, fg_err *err);
/* The rate of a copy of which node k has a part of weight place->node[k].weight: the parts go one
 * after another.  0 where a node that has a part has no rate. */
double fg_gpu_card_copy_of_all(const fg_place *place, const double *node_gbs);

/* Parameters of the formulas above.  They are an H200's, of bench/baselines: 80 layers of the dense
 * part by test_cuda_token, four and ten layers with all experts there (tests/plan/test_card.c). */
typedef struct fg_gpu_card_fit {
    double gemv;     /* share of the read rate that products of one row reach under way; 0.96 */
    double cache;    /* the same for cached keys and values; 0.63 */
    double layer_us; /* launches of a layer, norms, routers; 34.5 */
    double box_us;   /* card to host and back; 4.4 */
    double few_us;   /* launches of a token's experts on the card; 14 */
    double token_us; /* a token sets out and its logits come back; 240 */
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
