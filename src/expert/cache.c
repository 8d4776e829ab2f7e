/* SPDX-License-Identifier: MIT
 *
 * One record a slot, searched linearly: a few thousand records at most, and a miss costs the read
 * of an expert, four orders of magnitude more than the search.
 *
 * The bound, for layers of one wave.  Let G be what the directory without hints ("alone") has and
 * this one has not; while G is not empty and this one is full, some slots hold what the other has
 * not.  A request that misses here and hits there takes an expert out of G and evicts from those
 * slots: G shrinks.  A request that misses in both, or hits here alone, makes the other one evict
 * an expert, which is then no longer in G, or goes first here: G does not grow.  A hint adds to G
 * what it evicts, one at most (of what the other has and a hint brought back, later: when the
 * other drops it while the hint is still believed in).  So hits there that miss here are at most
 * as many as hints.  (A scan asks for what is there first, which differs between the two, so that
 * it may leave some of G behind.)
 */
#include "src/expert/cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/rng.h"

enum {
    /* LFU: counts halve when every expert could have been asked so often, of 2 of 32 experts every
     * 64 tokens.  With 16 a text that goes on reads .5 to 2.5 % less, and in the 500 tokens after a
     * change of subject up to 18 % more than with LRU; with 4 it is 8 to 21 % less there
     * (src/factor/README.md). */
    DECAY_ROUNDS = 4,
    FIRST_COUNT = 8, /* LFU: count of the hottest expert of a heat map; small, so that it fades */
    PIN_NUM = 3,     /* PIN: at most 3/4 of the slots are for the pinned set */
    PIN_DEN = 4,
};

_Static_assert(2 * FG_CACHE_WAVE <= FG_CACHE_MAX_LOADS && FG_CACHE_FEW <= FG_CACHE_MAX_LOADS,
               "all that a call requests fits into loads");

typedef struct entry {
    uint32_t key;  /* layer * n_expert + expert; NO_KEY: empty */
    bool pinned;   /* in the running wave or the next one */
    bool wanted;   /* the running layer will request it */
    bool cold;     /* goes first: a scan brought it in at another's cost, or a hint was wrong */
    bool unused;   /* prefetched, not requested since */
    bool took;     /* another was evicted for the prefetch */
    uint64_t used; /* number of the last request or prefetch */
} entry;

#define NO_KEY UINT32_MAX

struct fg_cache {
    uint32_t n_layer, n_expert, n_used;
    uint32_t n_slot, limit, n_full; /* slots there are, may be in use, are in use */
    fg_policy policy;
    uint64_t (*next_use)(void *ctx, uint32_t layer, uint32_t expert); /* OPTIMAL */
    void *next_use_ctx;
    fg_rng rng;        /* RANDOM */
    entry *slot;       /* [n_slot] */
    uint32_t *slot_of; /* [n_layer * n_expert] or FG_CACHE_NO_SLOT */
    uint32_t *count;   /* [n_layer * n_expert] LFU */
    bool *elsewhere;   /* [n_layer * n_expert] a device has it */
    uint32_t *rank;    /* [n_layer * n_expert] PIN: place in the heat map, 0 the hottest; or NULL */
    uint64_t clock;    /* requests and prefetches so far */
    uint64_t n_request;
    fg_cache *alone;     /* the same without hints; or NULL */
    uint32_t *alone_ids; /* [n_expert] its running layer's */
    /* the running layer */
    uint32_t layer;
    const uint32_t *ids;
    uint32_t n_id, wave, wave_begin, wave_end, n_requested;
    bool scan;
    bool *missed; /* [n_expert] requests that found nothing */
    fg_cache_load loads[FG_CACHE_MAX_LOADS];
    uint32_t n_load;
    fg_cache_stats stats;
};

/* ---- the list ---- */

static const fg_policy_row policies[FG_POLICY_COUNT] = {
#define POLICY_ROW(id, name, stored, live, heat) [id] = {name, stored, live, heat},
    FG_POLICY_MAP(POLICY_ROW)
#undef POLICY_ROW
};
#define POLICY_ONE(id, name, stored, live, heat) +1
_Static_assert(0 FG_POLICY_MAP(POLICY_ONE) == FG_POLICY_COUNT, "a row a policy");
#undef POLICY_ONE

const fg_policy_row *fg_policy_get(fg_policy policy)
{
    return (uint32_t)policy < FG_POLICY_COUNT ? &policies[policy] : NULL;
}

const char *fg_policy_name(fg_policy policy)
{
    const fg_policy_row *row = fg_policy_get(policy);
    return row == NULL ? NULL : row->name;
}

bool fg_policy_is_live(fg_policy policy)
{
    const fg_policy_row *row = fg_policy_get(policy);
    return row != NULL && row->live;
}

/* ---- heat ---- */

typedef struct heat_key {
    uint64_t heat;
    uint32_t key;
} heat_key;

static int hotter_first(const void *a, const void *b)
{
    const heat_key *x = a, *y = b;
    if (x->heat != y->heat) return x->heat > y->heat ? -1 : 1;
    return x->key < y->key ? -1 : 1; /* ties go to the lower layer and expert */
}

static fg_status take_heat(fg_cache *c, const uint64_t *heat, fg_err *err)
{
    const size_t n = (size_t)c->n_layer * c->n_expert;
    heat_key *h = fg_mem_zalloc_array(n, sizeof *h);
    c->rank = fg_mem_zalloc_array(n, sizeof *c->rank);
    if (h == NULL || c->rank == NULL) {
        fg_mem_free(h);
        return fg_fail_nomem(err, "expert directory");
    }
    for (size_t i = 0; i < n; i++) h[i] = (heat_key){heat[i], (uint32_t)i};
    qsort(h, n, sizeof *h, hotter_first);
    const double top = (double)h[0].heat;
    for (size_t i = 0; i < n; i++) {
        c->rank[h[i].key] = h[i].heat == 0 ? UINT32_MAX : (uint32_t)i;
        if (top > 0.0) c->count[h[i].key] = (uint32_t)((double)h[i].heat / top * FIRST_COUNT);
    }
    fg_mem_free(h);
    return FG_OK;
}

fg_status fg_cache_create(fg_cache **out, const fg_cache_opts *o, fg_err *err)
{
    *out = NULL;
    const uint64_t n_key = (uint64_t)o->n_layer * o->n_expert;
    if (n_key == 0 || n_key >= NO_KEY || o->n_used < 1 || o->n_used > FG_CACHE_MAX_LOADS / 2) {
        return fg_fail(err, FG_EINVAL,
                       "expert directory: %u layers of %u experts, %u used, "
                       "expected at least 1 and at most %d used",
                       o->n_layer, o->n_expert, o->n_used, FG_CACHE_MAX_LOADS / 2);
    }
    const uint64_t least = fg_cache_min_slots(o->n_layer, o->n_expert, o->n_used);
    if (o->n_slot < least || o->n_slot > n_key) {
        return fg_fail(err, FG_EINVAL, "expert directory: %u slots, expected %llu to %llu",
                       o->n_slot, (unsigned long long)least, (unsigned long long)n_key);
    }
    if (fg_policy_get(o->policy) == NULL) {
        return fg_fail(err, FG_EINVAL, "expert directory: policy %u, expected less than %d",
                       (uint32_t)o->policy, FG_POLICY_COUNT);
    }
    if (o->policy == FG_POLICY_OPTIMAL && o->next_use == NULL) {
        return fg_fail(err, FG_EINVAL, "expert directory: no next_use, expected one for optimal");
    }
    fg_cache *c = fg_mem_zalloc(sizeof *c);
    if (c == NULL) return fg_fail_nomem(err, "expert directory");
    c->n_layer = o->n_layer;
    c->n_expert = o->n_expert;
    c->n_used = o->n_used;
    c->n_slot = c->limit = o->n_slot;
    c->policy = o->policy;
    c->next_use = o->next_use;
    c->next_use_ctx = o->next_use_ctx;
    fg_rng_init(&c->rng, o->seed);
    c->slot = fg_mem_zalloc_array(c->n_slot, sizeof *c->slot);
    c->slot_of = fg_mem_zalloc_array((size_t)n_key, sizeof *c->slot_of);
    c->count = fg_mem_zalloc_array((size_t)n_key, sizeof *c->count);
    c->elsewhere = fg_mem_zalloc_array((size_t)n_key, sizeof *c->elsewhere);
    c->missed = fg_mem_zalloc_array(c->n_expert, sizeof *c->missed);
    c->alone_ids = fg_mem_zalloc_array(c->n_expert, sizeof *c->alone_ids);
    const bool whole = c->slot != NULL && c->slot_of != NULL && c->count != NULL &&
                       c->elsewhere != NULL && c->missed != NULL && c->alone_ids != NULL;
    fg_status st = whole ? FG_OK : fg_fail_nomem(err, "expert directory");
    if (st == FG_OK && o->heat != NULL) st = take_heat(c, o->heat, err);
    if (st == FG_OK && o->hinted) {
        fg_cache_opts alone = *o;
        alone.hinted = false;
        st = fg_cache_create(&c->alone, &alone, err);
    }
    if (st != FG_OK) {
        fg_cache_destroy(&c);
        return st;
    }
    for (uint32_t i = 0; i < c->n_slot; i++) c->slot[i].key = NO_KEY;
    for (uint64_t i = 0; i < n_key; i++) c->slot_of[i] = FG_CACHE_NO_SLOT;
    *out = c;
    return FG_OK;
}

void fg_cache_destroy(fg_cache **c)
{
    if (*c == NULL) return;
    fg_mem_free((*c)->slot);
    fg_mem_free((*c)->slot_of);
    fg_mem_free((*c)->count);
    fg_mem_free((*c)->elsewhere);
    fg_mem_free((*c)->missed);
    fg_mem_free((*c)->alone_ids);
    fg_cache_destroy(&(*c)->alone);
    fg_mem_free((*c)->rank);
    fg_mem_free(*c);
    *c = NULL;
}

/* ---- eviction ---- */

static bool stays(const fg_cache *c, const entry *e)
{
    return c->policy == FG_POLICY_PIN && c->rank != NULL && !c->elsewhere[e->key] &&
           c->rank[e->key] < (uint64_t)c->limit * PIN_NUM / PIN_DEN;
}

static uint64_t next_use(const fg_cache *c, uint32_t key)
{
    return c->next_use(c->next_use_ctx, key / c->n_expert, key % c->n_expert);
}

/* True when a goes before b for the policy alone; ties go to the least recently requested. */
static bool is_worse(const fg_cache *c, const entry *a, const entry *b)
{
    switch (c->policy) {
    case FG_POLICY_LFU:
        if (c->count[a->key] != c->count[b->key]) return c->count[a->key] < c->count[b->key];
        break;
    case FG_POLICY_OPTIMAL: {
        const uint64_t at = next_use(c, a->key), bt = next_use(c, b->key);
        if (at != bt) return at > bt;
        break;
    }
    case FG_POLICY_LRU:
    case FG_POLICY_PIN:    /* see stays */
    case FG_POLICY_RANDOM: /* see victim */
    case FG_POLICY_COUNT: break;
    }
    return a->used < b->used; /* never equal */
}

/* What a slot is wanted for. */
typedef enum purpose {
    FOR_REQUEST,
    FOR_LOST, /* a request that would have been found without hints */
    FOR_HINT,
} purpose;

/* A hint that is still believed in: its layer has not passed. */
static bool is_near(const entry *e)
{
    return e->unused && !e->cold;
}

/* Without hints it would not be there. */
static bool is_surplus(const fg_cache *c, const entry *e)
{
    return c->alone != NULL && c->alone->slot_of[e->key] == FG_CACHE_NO_SLOT;
}

/* True when a goes before b. */
static bool goes_before(const fg_cache *c, const entry *a, const entry *b, purpose why)
{
    if (c->policy == FG_POLICY_OPTIMAL) return is_worse(c, a, b); /* it knows all the rest */
    const bool a_surplus = is_surplus(c, a), b_surplus = is_surplus(c, b);
    if (why == FOR_LOST && a_surplus != b_surplus) return a_surplus;
    if (a->wanted != b->wanted) return b->wanted;
    const bool a_spare = a_surplus && !is_near(a), b_spare = b_surplus && !is_near(b);
    if (a_spare != b_spare) return a_spare;
    if (a->cold != b->cold) return a->cold;
    if (is_near(a) != is_near(b)) return is_near(b);
    const bool a_stays = stays(c, a), b_stays = stays(c, b);
    if (a_stays != b_stays) return b_stays;
    return is_worse(c, a, b);
}

/* A hint takes no slot that is in need, and none of another hint whose layer is still to come. */
static bool spared(const fg_cache *c, const entry *e)
{
    return e->wanted || is_near(e) || stays(c, e);
}

/* Slot whose expert goes first, or FG_CACHE_NO_SLOT: all are pinned (a hint: or spared). */
static uint32_t victim(fg_cache *c, purpose why)
{
    uint32_t best = FG_CACHE_NO_SLOT, n = 0;
    for (uint32_t i = 0; i < c->n_slot; i++) {
        const entry *e = &c->slot[i];
        if (e->key == NO_KEY || e->pinned || (why == FOR_HINT && spared(c, e))) continue;
        if (c->policy == FG_POLICY_RANDOM) {
            if (fg_rng_u64(&c->rng) % ++n == 0) best = i; /* the n-th with 1 in n: all alike */
        } else if (best == FG_CACHE_NO_SLOT || goes_before(c, e, &c->slot[best], why)) {
            best = i;
        }
    }
    return best;
}

static void evict(fg_cache *c, uint32_t slot)
{
    entry *e = &c->slot[slot];
    c->slot_of[e->key] = FG_CACHE_NO_SLOT;
    c->stats.n_evict++;
    c->stats.n_wasted += e->unused;
    *e = (entry){.key = NO_KEY};
    c->n_full--;
}

/* An empty slot for `key`, or FG_CACHE_NO_SLOT; *took: another had to go. */
static uint32_t place(fg_cache *c, uint32_t key, purpose why, bool *took)
{
    uint32_t slot = 0;
    *took = c->n_full >= c->limit;
    if (*took) {
        slot = victim(c, why);
        if (slot == FG_CACHE_NO_SLOT) return slot;
        if (why == FOR_HINT && c->policy == FG_POLICY_OPTIMAL &&
            next_use(c, c->slot[slot].key) <= next_use(c, key)) {
            return FG_CACHE_NO_SLOT; /* who knows the future takes no hint that costs a miss */
        }
        evict(c, slot);
    } else {
        while (c->slot[slot].key != NO_KEY) slot++;
    }
    c->slot[slot] = (entry){.key = key, .used = ++c->clock};
    c->slot_of[key] = slot;
    c->n_full++;
    return slot;
}

/* ---- requests ---- */

static void count_request(fg_cache *c, uint32_t key)
{
    const uint64_t n_key = (uint64_t)c->n_layer * c->n_expert;
    if (c->count[key] < UINT32_MAX) c->count[key]++;
    if (++c->n_request % (DECAY_ROUNDS * n_key) != 0) return;
    for (uint64_t i = 0; i < n_key; i++) c->count[i] /= 2;
}

/* Would the request that misses have been found without hints?  In a scan the other directory may
 * be about to make it. */
static bool is_lost(const fg_cache *c, uint32_t key)
{
    return c->alone != NULL && c->alone->slot_of[key] != FG_CACHE_NO_SLOT &&
           !c->alone->missed[key % c->n_expert];
}

/* Pins the expert; there is always a slot, as waves are made to fit. */
static void request(fg_cache *c, uint32_t expert)
{
    const uint32_t key = c->layer * c->n_expert + expert;
    uint32_t slot = c->slot_of[key];
    count_request(c, key);
    if (slot != FG_CACHE_NO_SLOT) {
        entry *e = &c->slot[slot];
        *(e->unused ? &c->stats.n_prefetch_hit : &c->stats.n_hit) += 1;
        e->cold = c->scan && (e->cold || (e->unused && e->took));
        e->unused = e->took = false;
        e->used = ++c->clock;
    } else {
        const bool lost = is_lost(c, key);
        bool took;
        slot = place(c, key, lost ? FOR_LOST : FOR_REQUEST, &took);
        assert(slot != FG_CACHE_NO_SLOT && c->n_load < FG_CACHE_MAX_LOADS);
        c->slot[slot].cold = c->scan && took;
        c->stats.n_miss++;
        c->stats.n_lost += lost;
        c->missed[expert] = true;
        c->loads[c->n_load++] = (fg_cache_load){c->layer, expert, slot};
    }
    c->slot[slot].pinned = true;
    c->slot[slot].wanted = false;
}

void fg_cache_begin(fg_cache *c, uint32_t layer, uint32_t *ids, uint32_t n)
{
    fg_cache_end(c);
    assert(layer < c->n_layer && n <= c->n_expert);
    if (c->alone != NULL) {
        memcpy(c->alone_ids, ids, n * sizeof *ids);
        fg_cache_begin(c->alone, layer, c->alone_ids, n);
    }
    memset(c->missed, 0, c->n_expert * sizeof *c->missed);
    c->layer = layer;
    c->ids = ids;
    c->n_id = n;
    uint32_t n_there = 0;
    for (uint32_t i = 0; i < n; i++) { /* stable partition by insertion; n is small */
        const uint32_t id = ids[i], slot = fg_cache_slot(c, layer, id);
        if (slot == FG_CACHE_NO_SLOT) continue;
        c->slot[slot].wanted = true;
        memmove(ids + n_there + 1, ids + n_there, (i - n_there) * sizeof *ids);
        ids[n_there++] = id;
    }
    const uint32_t few = c->n_used > FG_CACHE_FEW ? c->n_used : FG_CACHE_FEW;
    c->scan = n > few || n > c->limit;
    c->wave = n;
    if (c->scan) c->wave = c->limit / 2 < FG_CACHE_WAVE ? c->limit / 2 : FG_CACHE_WAVE;
}

uint32_t fg_cache_next(fg_cache *c, const fg_cache_load **loads, uint32_t *n_load)
{
    if (c->alone != NULL) (void)fg_cache_next(c->alone, loads, n_load); /* nobody reads these */
    for (uint32_t i = c->wave_begin; i < c->wave_end; i++) {
        c->slot[fg_cache_slot(c, c->layer, c->ids[i])].pinned = false;
    }
    c->wave_begin = c->wave_end;
    c->wave_end = c->n_id - c->wave_begin < c->wave ? c->n_id : c->wave_begin + c->wave;
    c->n_load = 0;
    const uint32_t ahead = c->n_id - c->wave_end < c->wave ? c->n_id : c->wave_end + c->wave;
    while (c->n_requested < ahead) request(c, c->ids[c->n_requested++]);
    *loads = c->loads;
    *n_load = c->n_load;
    const uint32_t n = c->wave_end - c->wave_begin;
    if (n == 0) fg_cache_end(c);
    return n;
}

uint32_t fg_cache_n_requested(const fg_cache *c)
{
    return c->n_requested;
}

void fg_cache_end(fg_cache *c)
{
    if (c->alone != NULL) fg_cache_end(c->alone);
    for (uint32_t i = c->wave_begin; i < c->n_id; i++) {
        const uint32_t slot = fg_cache_slot(c, c->layer, c->ids[i]);
        if (slot != FG_CACHE_NO_SLOT) c->slot[slot].pinned = c->slot[slot].wanted = false;
    }
    /* Hints about this layer that were wrong go first from now on.  Not before: the layer's own
     * requests would take their slots while they are still being read into. */
    for (uint32_t i = 0; c->ids != NULL && i < c->n_slot; i++) {
        entry *e = &c->slot[i];
        if (e->unused && e->key / c->n_expert == c->layer) e->cold = true;
    }
    c->n_id = c->wave_begin = c->wave_end = c->n_requested = 0;
    c->ids = NULL;
}

bool fg_cache_prefetch(fg_cache *c, uint32_t layer, uint32_t expert, fg_cache_load *load)
{
    assert(layer < c->n_layer && expert < c->n_expert);
    const uint32_t key = layer * c->n_expert + expert;
    if (c->elsewhere[key] || c->slot_of[key] != FG_CACHE_NO_SLOT) return false;
    bool took;
    const uint32_t slot = place(c, key, FOR_HINT, &took);
    if (slot == FG_CACHE_NO_SLOT) return false;
    c->slot[slot].unused = true;
    c->slot[slot].took = took;
    c->stats.n_prefetch++;
    *load = (fg_cache_load){layer, expert, slot};
    return true;
}

uint32_t fg_cache_prefetch_scan(fg_cache *c, uint32_t layer, fg_cache_load *loads)
{
    uint32_t n = 0;
    if (c->alone != NULL) (void)fg_cache_prefetch_scan(c->alone, layer, loads); /* nor these */
    for (uint32_t e = 0; e < c->n_expert && n < FG_CACHE_WAVE; e++) {
        n += fg_cache_prefetch(c, layer, e, &loads[n]);
    }
    return n;
}

void fg_cache_elsewhere(fg_cache *c, uint32_t layer, uint32_t expert, bool elsewhere)
{
    const uint32_t slot = fg_cache_slot(c, layer, expert);
    if (c->alone != NULL) fg_cache_elsewhere(c->alone, layer, expert, elsewhere);
    c->elsewhere[layer * c->n_expert + expert] = elsewhere;
    if (elsewhere && slot != FG_CACHE_NO_SLOT) c->slot[slot].cold = true;
}

uint32_t fg_cache_slot(const fg_cache *c, uint32_t layer, uint32_t expert)
{
    return c->slot_of[(uint64_t)layer * c->n_expert + expert];
}

void fg_cache_set_limit(fg_cache *c, uint32_t n_slot, void (*on_evict)(void *ctx, uint32_t slot),
                        void *ctx)
{
    assert(n_slot >= fg_cache_min_slots(c->n_layer, c->n_expert, c->n_used) && n_slot <= c->n_slot);
    fg_cache_end(c);
    if (c->alone != NULL) fg_cache_set_limit(c->alone, n_slot, NULL, NULL);
    c->limit = n_slot;
    while (c->n_full > c->limit) {
        const uint32_t slot = victim(c, FOR_REQUEST);
        evict(c, slot);
        if (on_evict != NULL) on_evict(ctx, slot);
    }
}

uint32_t fg_cache_limit(const fg_cache *c)
{
    return c->limit;
}

uint32_t fg_cache_n_present(const fg_cache *c)
{
    return c->n_full;
}

fg_cache_stats fg_cache_get_stats(const fg_cache *c)
{
    fg_cache_stats s = c->stats;
    const fg_cache_stats *alone = c->alone == NULL ? &s : &c->alone->stats;
    s.n_alone = alone->n_miss + alone->n_prefetch_hit;
    return s;
}
