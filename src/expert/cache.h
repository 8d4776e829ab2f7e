/* SPDX-License-Identifier: MIT
 *
 * Which experts are in memory: the directory of the expert store, and its eviction policies.
 *
 * Pure: no I/O, no clock, no threads.  Every answer is a function of the calls made so far, so that
 * a replay of a routing trace through this module meets the hits and misses of the live run
 * exactly.
 *
 * A layer is worked through in waves of experts that fit into the slots together:
 *
 *     fg_cache_begin(c, layer, ids, n);               ids are reordered: present ones first
 *     while ((m = fg_cache_next(c, &loads, &n_load)) > 0) {
 *         read loads[0 .. n_load-1] into their slots;   of this wave and of the next one
 *         compute the next m of ids;                    their slots are pinned until the next call
 *     }
 *     fg_cache_prefetch(c, layer + 1, expert, &load);   a hint; never takes a pinned slot
 *
 * Hints must not cost what they do not show.  Beside a directory that gets them stands another
 * one, with the same requests and none of them: what it holds, hints drove out or have not; what
 * it does not hold goes first.  From that it follows for tokens that are decoded, with every live
 * policy and whatever the hints, that at most one request a hint is read that would have been
 * found without (cache.c, "the bound"): a wrong hint costs its own bytes and one expert more at
 * worst.
 *
 * Few experts (a decoded token) are one wave.  Many (prefill) are a scan: waves of FG_CACHE_WAVE or
 * fewer, each requested while the one before it is computed; what a scan brings in by evicting
 * others is evicted first, so that a prompt, which passes over all layers in turn, does not wash
 * out the cache (LRU alone would then never hit) and each of its chunks finds the same experts.
 */
#ifndef FG_SRC_EXPERT_CACHE_H
#define FG_SRC_EXPERT_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/fulgur.h"

enum {
    FG_CACHE_WAVE = 4,       /* experts of a scan's wave; two waves are in slots at a time */
    FG_CACHE_FEW = 8,        /* so many experts, if they fit, are one wave */
    FG_CACHE_MAX_LOADS = 64, /* most experts used by a token, hence most loads of a call */
};

#define FG_CACHE_NO_SLOT UINT32_MAX

/* What a policy makes of a heat map. */
typedef enum fg_policy_heat {
    FG_POLICY_HEAT_NONE,
    FG_POLICY_HEAT_USED,   /* starts from it where there is one */
    FG_POLICY_HEAT_NEEDED, /* cannot do without; a replay makes one */
} fg_policy_heat;

/* The policies: enumerator (src/fulgur.h says what each does), name, stored number, live, heat.
 * The stored number is the one in routing traces: never changed, never used again; a policy that is
 * not live is in none of them. */
#define FG_POLICY_MAP(X)                                                                           \
    X(FG_POLICY_LRU, "lru", 0, true, FG_POLICY_HEAT_NONE)                                          \
    X(FG_POLICY_LFU, "lfu", 1, true, FG_POLICY_HEAT_USED)                                          \
    X(FG_POLICY_PIN, "pin", 2, true, FG_POLICY_HEAT_NEEDED)                                        \
    X(FG_POLICY_RANDOM, "random", FG_NOT_STORED, false, FG_POLICY_HEAT_NONE)                       \
    X(FG_POLICY_OPTIMAL, "optimal", FG_NOT_STORED, false, FG_POLICY_HEAT_NONE)

#define FG_NOT_STORED UINT32_MAX

typedef struct fg_policy_row {
    const char *name;
    uint32_t stored;
    bool live;
    fg_policy_heat heat;
} fg_policy_row;

/* NULL: no such policy. */
const fg_policy_row *fg_policy_get(fg_policy policy);

typedef struct fg_cache_opts {
    uint32_t n_layer, n_expert;
    uint32_t n_used; /* experts of a token; at most FG_CACHE_MAX_LOADS / 2 */
    uint32_t n_slot; /* at least fg_cache_min_slots, at most n_layer * n_expert */
    fg_policy policy;
    const uint64_t *heat; /* [n_layer * n_expert] requests in some other run; NULL: none.  Read at
                           * creation only: PIN's set, and LFU's first counts */
    /* OPTIMAL: a number that grows with the time of the expert's next request, after those of the
     * running layer; UINT64_MAX: never. */
    uint64_t (*next_use)(void *ctx, uint32_t layer, uint32_t expert);
    void *next_use_ctx;
    uint64_t seed; /* RANDOM */
    bool hinted;   /* a predictor's hints will come: n_alone tells what they change */
} fg_cache_opts;

/* Fewer slots than these cannot run a model: the experts of a token, and one to read ahead, unless
 * the model has no more. */
static inline uint64_t fg_cache_min_slots(uint32_t n_layer, uint32_t n_expert, uint32_t n_used)
{
    const uint64_t all = (uint64_t)n_layer * n_expert, least = (uint64_t)n_used + 1;
    return least < all ? least : all;
}

typedef struct fg_cache_stats {
    uint64_t n_hit; /* requests met by what an earlier request had brought */
    /* Requests that found a prefetch, its first use; found, not read: a store gives up the reads of
     * hints that were wrong, and one that is requested later is read whole then.  n_miss +
     * n_prefetch counts each as one read, which is more than is read, unless many are given up
     * half-way and requested after all. */
    uint64_t n_prefetch_hit;
    uint64_t n_miss;     /* requests that had to be read */
    uint64_t n_prefetch; /* prefetches carried out */
    uint64_t n_wasted;   /* prefetches evicted without a use */
    uint64_t n_evict;
    /* Reads for requests, n_miss + n_prefetch_hit, had there been no hints: the difference is what
     * was read because hints had taken its place.  It may be below 0 for a while: a hint is used
     * that nobody believes in any more.  Without `hinted` the same as n_miss + n_prefetch_hit. */
    uint64_t n_alone;
    uint64_t n_lost; /* misses that would have been found; see above */
} fg_cache_stats;

/* Reads for requests that there would not have been without hints. */
static inline int64_t fg_cache_extra(const fg_cache_stats *s)
{
    return (int64_t)(s->n_miss + s->n_prefetch_hit) - (int64_t)s->n_alone;
}

/* Expert that has to be read into a slot, whose former contents are gone. */
typedef struct fg_cache_load {
    uint32_t layer, expert, slot;
} fg_cache_load;

typedef struct fg_cache fg_cache;

/* Errors: FG_EINVAL (opts), FG_ENOMEM. */
fg_status fg_cache_create(fg_cache **out, const fg_cache_opts *opts, fg_err *err);
void fg_cache_destroy(fg_cache **c); /* accepts NULL */

/* Begins a layer with its n (0 .. n_expert) different experts; ids is borrowed until the layer ends
 * and reordered: those present first, both parts in the given order.  An unfinished layer before
 * it is given up. */
void fg_cache_begin(fg_cache *c, uint32_t layer, uint32_t *ids, uint32_t n);

/* Ends the wave before, requests experts, and returns how many ids the wave has; 0: the layer is
 * done and nothing is pinned.  *loads (borrowed until the next call) are in the order of need. */
uint32_t fg_cache_next(fg_cache *c, const fg_cache_load **loads, uint32_t *n_load);

/* Experts of ids[0..] of the running layer that are pinned: this wave and what was requested
 * ahead. */
uint32_t fg_cache_n_requested(const fg_cache *c);

/* Ends the layer at any point. */
void fg_cache_end(fg_cache *c);

/* Hint.  True when *load is to be read; false when the expert is there already, or no slot may be
 * had: pinned experts, those that the running layer still needs and hints about layers to come are
 * never evicted for it.  A hint that its layer has passed without goes before all others. */
bool fg_cache_prefetch(fg_cache *c, uint32_t layer, uint32_t expert, fg_cache_load *load);

/* Every expert of the layer will be used, as with a prompt: hints the first FG_CACHE_WAVE absent
 * ones, whoever predicts.  Returns how many loads are to be read; room for FG_CACHE_WAVE. */
uint32_t fg_cache_prefetch_scan(fg_cache *c, uint32_t layer, fg_cache_load *loads);

/* A device has this expert, or has it no longer: as long as it does it is not to be read ahead, and
 * a slot with it goes before all others. */
void fg_cache_elsewhere(fg_cache *c, uint32_t layer, uint32_t expert, bool elsewhere);

/* Slot of an expert or FG_CACHE_NO_SLOT. */
uint32_t fg_cache_slot(const fg_cache *c, uint32_t layer, uint32_t expert);

/* Changes how many slots may be in use (within the limits of creation), between layers.  Evicts as
 * the policy says; on_evict (may be NULL) sees each slot that became empty. */
void fg_cache_set_limit(fg_cache *c, uint32_t n_slot, void (*on_evict)(void *ctx, uint32_t slot),
                        void *ctx);
uint32_t fg_cache_limit(const fg_cache *c);
uint32_t fg_cache_n_present(const fg_cache *c); /* experts in slots, or on their way */

fg_cache_stats fg_cache_get_stats(const fg_cache *c);

#endif
