/* SPDX-License-Identifier: MIT
 *
 * What a model needs of a machine, and how fast it will be there: arithmetic on shape, weight types
 * and measured or assumed rates of the machine (rates.h).  No weight is read.
 *
 * Memory, bytes: fixed = embedding + dense parts of all layers + lm_head + state + scratch +
 * program. With fixed and all experts within the budget everything is resident; else experts live
 * in slots as large as the largest, in what the budget leaves, n_used + 1 at least
 * (src/expert/store.h).
 *
 * Decode, seconds of one token at position p.  B: bytes, R: rate of all nodes together, of the
 * weights by type; imbalance and away: see Nodes:
 *
 *     weights  W = sum_type B / R_gemv(type) * imbalance * away
 *     state    S = (lightning bytes / R_read * imbalance
 *                   + max(KV bytes / R_read * imbalance, attention MACs / R_attn)) * away
 *     rest     O = other_decode * (W + S) + barriers * sync
 *     resident t = W + S + O
 *
 * With slots for a share f of the experts a use finds its expert there with probability
 *
 *     h = lru(f, q) + reuse * (1 - lru(f, q)),    q = n_used / n_expert
 *     lru(f, q) = 1 - (1 - q)^j,    j the largest integer for which that is not above f
 *
 * lru is the hit rate of the least-recently-used policy for independent uniform routing: j tokens
 * in a row use a share of lru(f, q) of all experts, so what was used within them is still there;
 * with slots for less than one token's experts nothing ever is.  (Pinned experts would have h = f.)
 * The default, LFU, finds of such routing .00 to .03 more (10 % of the experts in memory; .01 from
 * 30 % on), since its counts are noise there; of texts it finds more than LRU.
 * `reuse` adds what a router repeats beyond that.  m of a layer's n_used experts are missing with
 * probability binomial(n_used, 1 - h), and reading them takes D(m) = m * expert bytes / R_disk.
 * Until its router has run nothing is known for sure, so that a layer's expert time E (its part of
 * W) is all that its reads can be hidden behind, and they are by `overlap`.  Nothing is read during
 * lm_head, which takes H:
 *
 *     D = layers * sum_m P(m) D(m),    V = layers * sum_m P(m) (D(m) - overlap * min(D(m), E))
 *
 * All layers but the first are hinted (src/expert/predict.h).  Hints are read while nothing else is
 * to be read, in what is left of the computing; `recall` of what they ask for is right, the rest is
 * read for nothing:
 *
 *     A = min(max(0, resident t - H - (D - V)), D * (layers - 1) / layers)
 *     streamed t = resident t + V * (1 - recall * A / D)
 *     disk bytes = expert bytes / D(1) * (D + (1 - recall) * A)
 *
 * Beside it: `serial` (overlap and recall 0) and `bound` (every read known far ahead): max(resident
 * t, sum of D).
 *
 * Prefill, a batch of n tokens after p positions:
 *
 *     W = sum_type MACs / R(type)     dense matrices at n tokens, experts at their share of it
 *     t = (W + attention MACs / R_attn + B(lm_head) / R_gemv) * (1 + other_prefill)
 *     streamed: each expert met is read once unless it is there from the batch before, which lru
 *     says with
 *     the share of experts that a batch meets for q; D in all: t + D - overlap * min(t, D)
 *
 * Nodes: every step ends in a barrier and lasts as long as its slowest node; balance.h counts by
 * how much that is longer than for equal parts, with whole experts on nodes (FG_NUMA_EXPERT) as
 * expected of n_used chosen uniformly.  Mirrored weights are cut alike, and take n times the
 * memory.  Where pages lie anywhere (interleave, first touch), (n - 1) / n of all reads go to
 * another node, at `remote` of the rate of one's own:
 *
 *     away = 1 / n + (n - 1) / n / remote
 *
 * Prefill is arithmetic: away does not count there.
 */
#ifndef FG_SRC_PLAN_FORECAST_H
#define FG_SRC_PLAN_FORECAST_H

#include <stdbool.h>
#include <stdint.h>

#include "src/engine/session.h"
#include "src/format/reader.h"
#include "src/plan/balance.h"
#include "src/plan/rates.h"

/* ---- what the model needs ---- */

/* What one token reads and multiplies in a part of the model, by weight type. */
typedef struct fg_part {
    double bytes[FG_RATE_TYPES]; /* panels and row scales */
    double gmac[FG_RATE_TYPES];  /* 1e9 multiply-adds */
    double imbalance;            /* of nodes, for one token; 1: equal parts */
    double batch_imbalance;      /* for a batch that meets all experts */
} fg_part;

typedef struct fg_demand {
    fg_shape shape;
    uint64_t n_tensor, n_weight;
    uint64_t file_bytes;
    double bits_per_weight; /* fg_bits_per_weight */
    /* Tensors in memory or in the file, padded to pages: */
    uint64_t embed_bytes, dense_bytes, experts_bytes, head_bytes; /* head: with the final norm */
    uint64_t expert_bytes;                                        /* extent of the largest expert */
    fg_part dense, experts, head; /* experts: n_used of each layer, average over the experts */
    double token_bytes;           /* the sum of their bytes */
    const fg_place *place;        /* borrowed; NULL: one node */
    uint32_t n_node;              /* that have weights */
    double imbalance;             /* of all weights of a token; 1: equal parts */
    uint64_t node_bytes;          /* weights of the fullest node, without row scales */
    bool quantized;               /* some matrix takes int8 activations */
    fg_model_forms forms;         /* of the activations */
} fg_demand;

/* From a file, or from the plan of one.  place: the nodes; must outlive *d; NULL: one.
 * FG_ENOMEM. */
fg_status fg_demand_of_file(fg_demand *d, const fg_model_file *f, const fg_place *place,
                            fg_err *err);
fg_status fg_demand_of_plan(fg_demand *d, const fg_file_plan *p, const fg_place *place,
                            fg_err *err);
/* For another level than this machine's best.  FG_ENOTSUP: this machine lacks it. */
fg_status fg_demand_on_level(fg_demand *d, fg_cpu_level level, fg_err *err);

/* ---- forecast ---- */

/* Parameters of the formulas above that no quick measurement gives.  The defaults were chosen to
 * meet the Zen 5 figures of bench/baselines, everything resident; overlap and reuse are not fitted
 * to anything. */
typedef struct fg_forecast_fit {
    double other_decode;  /* norms, router, lightning and waiting, share of the rest; 0.04 */
    double other_prefill; /* the same, with gathering and silu; 0.06 */
    double overlap;       /* of reads with the same layer's experts, 0 to 1; 1 */
    double reuse;         /* see above, 0 to 1; 0 */
    /* See above, 0 to 1; 0.7: nano had 0.67 to 0.69, ten layers of random weights 0.77. */
    double recall;
} fg_forecast_fit;

typedef struct fg_forecast_opts {
    uint64_t ram_bytes; /* budget for all of it */
    uint64_t n_ctx; /* positions of the session; decode and prefill are forecast at 0 and there */
    fg_kv_choice kv;
    uint32_t
        n_batch;     /* tokens of a prefill batch that there is always room for; FG_SESSION_BATCH */
    uint32_t n_long; /* of those that a long prompt gets (fg_forecast_batch); 0: none are larger */
    fg_forecast_fit fit;
} fg_forecast_opts;
fg_forecast_opts fg_forecast_opts_default(void); /* unlimited memory, 4096 positions */

/* lru(share, q) of the formulas above; q: share of the experts that one token, or batch, uses. */
double fg_forecast_lru(double share, double q);

/* Tokens of a batch that a session chooses by itself for a prompt that fills o->n_ctx, in
 * o->ram_bytes: o->n_batch, or more; at most `most`, 0: FG_SESSION_LONG_BATCH. */
uint32_t fg_forecast_batch(const fg_demand *d, uint32_t n_thread, const fg_forecast_opts *o,
                           uint32_t most);

typedef struct fg_speed {
    uint64_t pos;                     /* positions before the token or the batch */
    double tok_s;                     /* the forecast; 0: not possible */
    double resident_tok_s;            /* were all experts in memory */
    double serial_tok_s, bound_tok_s; /* nothing hidden; everything known ahead */
    double state_bytes;               /* read for this token, or by the batch's last one */
    double disk_bytes;                /* expected, of the token or of the batch */
    /* Of a token with all experts in memory, seconds; their sum is 1 / resident_tok_s: */
    double weights_s, state_s, other_s, sync_s;
} fg_speed;

typedef struct fg_forecast {
    uint64_t lightning_bytes, kv_bytes, scratch_bytes;
    uint64_t undo_bytes; /* the mark that run and chat undo a stopped pass from */
    uint64_t long_bytes; /* more scratch, while a long prompt is evaluated; in no sum below */
    uint64_t fixed_bytes;
    uint64_t min_ram_bytes;         /* for streaming */
    uint64_t all_ram_bytes;         /* for everything resident */
    bool resident;                  /* everything fits the budget */
    bool fits;                      /* at least min_ram_bytes */
    uint64_t n_expert, n_slot;      /* experts of all layers; of them in memory at a time */
    double share;                   /* f */
    double hit;                     /* h */
    double misses;                  /* experts read for a decoded token, expected */
    fg_speed decode[2], prefill[2]; /* at position 0, and with the context full */
} fg_forecast;

/* n_thread decides scratch memory only.  Errors: FG_EINVAL, FG_ELIMIT (context), FG_ENOMEM. */
fg_status fg_forecast_make(fg_forecast *f, const fg_demand *d, const fg_rates *r, uint32_t n_thread,
                           const fg_forecast_opts *o, fg_err *err);

/* Terms of the formulas above: barriers of a token, and how much longer reads take because of those
 * that go to other nodes. */
double fg_forecast_syncs(const fg_shape *s);
double fg_forecast_away(const fg_demand *d, const fg_rates *r);

#endif
