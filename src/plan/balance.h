/* SPDX-License-Identifier: MIT
 *
 * What each node reads of one token, phase by phase, from the real panel ranges: the shares are
 * those that src/model asks src/sys/place.h for.  Nodes meet at a barrier after each step, so a
 * step lasts as long as its slowest node, and what counts is balance within a step: with b_k bytes
 * on node k of weight w_k out of W, a step's imbalance is
 *
 *     max_k (b_k / w_k) * W / sum_k b_k          1: all are through at the same time
 *
 * What one node's workers take of another's (the last eighth, src/sys/team.h) is not counted.
 */
#ifndef FG_SRC_PLAN_BALANCE_H
#define FG_SRC_PLAN_BALANCE_H

#include <stdint.h>

#include "src/format/file_plan.h"
#include "src/model/state.h"
#include "src/sys/place.h"

/* The phases of a token: enumerator, name. */
#define FG_BALANCE_MAP(X)                                                                          \
    X(FG_BALANCE_LIGHT_IN, "lightning q, k, v, gate")                                              \
    X(FG_BALANCE_HEADS, "lightning state")                                                         \
    X(FG_BALANCE_QKV, "softmax q, k, v")                                                           \
    X(FG_BALANCE_CACHE, "key-value cache")                                                         \
    X(FG_BALANCE_ATTN_OUT, "attention output")                                                     \
    X(FG_BALANCE_ROUTER, "router")                                                                 \
    X(FG_BALANCE_GATE_UP, "experts, gate and up")                                                  \
    X(FG_BALANCE_DOWN, "experts, down")                                                            \
    X(FG_BALANCE_HEAD, "lm_head")

typedef enum fg_balance_phase {
#define FG_BALANCE_ENUM(id, name) id,
    FG_BALANCE_MAP(FG_BALANCE_ENUM)
#undef FG_BALANCE_ENUM
        FG_BALANCE_PHASES
} fg_balance_phase;
const char *fg_balance_name(fg_balance_phase phase);

typedef struct fg_balance {
    struct {
        double bytes;   /* of a token, all nodes together, row scales with their panels */
        double slowest; /* sum over the steps of bytes * imbalance */
    } phase[FG_BALANCE_PHASES];
    uint64_t node_bytes[FG_MAX_NODE]; /* weights in each node's memory (fg_slices_area) */
    uint64_t n_shared; /* borders of shares that lie within a page: 0, unless something is wrong */
} fg_balance;

/* Position pos; kv: of the cache.  Experts are chosen uniformly; with FG_NUMA_EXPERT their
 * imbalance is the expected one, counted exactly.  FG_ENOMEM. */
fg_status fg_balance_make(fg_balance *b, const fg_file_plan *f, const fg_place *p, uint64_t pos,
                          fg_kv_type kv, fg_err *err);

/* Imbalance of the lightning state alone, and of the cache at pos. */
double fg_balance_of_heads(const fg_place *p, const fg_shape *s);
double fg_balance_of_cache(const fg_place *p, const fg_shape *s, uint64_t pos);

/* Whole experts on nodes: n_used different ones of all, chosen uniformly; the expected largest of
 * load_k / w_k, times W / n_used.  count[k]: experts of node k. */
double fg_balance_of_experts(const uint64_t *count, const fg_place *p, uint32_t n_used);

/* The same when every expert is used, as by a large batch. */
double fg_balance_of_all(const uint64_t *count, const fg_place *p);

/* Borders of a share, in panels of `stride` bytes from a page on, that lie within a page. */
uint64_t fg_balance_shared(const fg_share *s, uint32_t n_node, uint64_t n_panel, uint64_t stride);

/* What a token at pos reads of lightning state (with half a chunk), and of cached keys and values
 * in all softmax layers, bytes. */
double fg_balance_heads_bytes(const fg_shape *s);
double fg_balance_cache_bytes(const fg_shape *s, uint64_t pos, fg_kv_type kv);

#endif
