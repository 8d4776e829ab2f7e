/* SPDX-License-Identifier: MIT */
#include "src/sys/place.h"

#include <errno.h>
#include <linux/mempolicy.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/base/mem.h"

const char *fg_numa_name(fg_numa numa)
{
    static const char *const name[FG_NUMA_COUNT] = {
#define NUMA_NAME(id, name) [id] = name,
        FG_NUMA_MAP(NUMA_NAME)
#undef NUMA_NAME
    };
    return (uint32_t)numa < FG_NUMA_COUNT ? name[numa] : NULL;
}

/* ---- seats ---- */

/* A core of a node; rank: its number there. */
typedef struct slot {
    uint32_t node, rank, core;
} slot;

static int by_rank(const void *a, const void *b)
{
    const slot *x = a, *y = b;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    return (x->node > y->node) - (x->node < y->node);
}

/* What a topology says, also where there is none. */
static uint32_t n_core_of(const fg_topo *t)
{
    return t == NULL ? 1 : fg_topo_n_core(t);
}

static uint32_t n_node_of(const fg_topo *t)
{
    return t == NULL ? 1 : fg_topo_n_node(t);
}

/* Nodes of it that are used. */
static uint32_t n_real_of(const fg_topo *t, const fg_place_opts *o)
{
    return o->n_node != 0 ? o->n_node : n_node_of(t);
}

static uint32_t real_of(const fg_topo *t, uint32_t core)
{
    return t == NULL ? 0 : fg_topo_node_of(t, core);
}

/* With more nodes than real ones, those numbered r, r + n_real, ... lie in real node r and are
 * dealt its cores; with fewer, real nodes are put together. */
static size_t deal_cores(fg_place *p, uint32_t n_real, slot *out)
{
    const uint32_t n_core = n_core_of(p->topo), n = p->n_node;
    uint32_t dealt[FG_MAX_NODE] = {0}; /* cores of each real node */
    size_t n_slot = 0;
    for (uint32_t c = 0; c < n_core; c++) {
        const uint32_t r = real_of(p->topo, c);
        if (r >= n_real) continue;
        const uint32_t inside = n < n_real ? 1 : (n - r + n_real - 1) / n_real;
        const uint32_t k = n < n_real ? r % n : r + dealt[r]++ % inside * n_real;
        p->node[k].real |= (uint64_t)1 << r;
        p->node[k].weight += p->topo == NULL ? 1 : fg_topo_worth(p->topo, c);
        out[n_slot++] = (slot){k, p->node[k].n_core++, c};
    }
    for (uint32_t k = 0; k < n; k++) { /* more nodes than cores: they share */
        if (p->node[k].n_core != 0) continue;
        const uint32_t r = k % n_real;
        uint32_t skip = k / n_real % dealt[r], c = 0;
        while (real_of(p->topo, c) != r || skip-- > 0) c++;
        p->node[k].real = (uint64_t)1 << r;
        out[n_slot++] = (slot){k, p->node[k].n_core++, c};
    }
    return n_slot;
}

static fg_status deal_seats(fg_place *p, uint32_t n_real, fg_err *err)
{
    slot *slots = fg_mem_zalloc_array((size_t)n_core_of(p->topo) + p->n_node, sizeof *slots);
    if (slots == NULL) return fg_fail_nomem(err, "placement");
    const size_t n_slot = deal_cores(p, n_real, slots);
    qsort(slots, n_slot, sizeof *slots, by_rank);
    for (uint32_t i = 0; i < p->n_worker; i++) {
        const slot *s = &slots[i % n_slot];
        p->seat[i] = (fg_seat){s->node, p->node[s->node].n_worker++, s->core, false};
    }
    for (uint32_t i = 0; i < p->n_worker; i++) {
        const fg_place_node *node = &p->node[p->seat[i].node];
        p->seat[i].alone = node->n_worker == node->n_core;
    }
    fg_mem_free(slots);
    return FG_OK;
}

static fg_status weigh(fg_place *p, const fg_place_opts *o, fg_err *err)
{
    for (uint32_t k = 0; k < p->n_node; k++) {
        fg_place_node *node = &p->node[k];
        if (o->weight != NULL) node->weight = o->weight[k];
        if (o->weight == NULL && o->pretend_nodes != 0) node->weight = 1;
        if (node->weight > FG_MAX_NODE_WEIGHT) {
            return fg_fail(err, FG_EINVAL, "node %u: weight %u, expected at most %d", k,
                           node->weight, FG_MAX_NODE_WEIGHT);
        }
        p->weight += node->weight;
    }
    if (p->weight != 0) return FG_OK;
    return fg_fail(err, FG_EINVAL, "nodes: all of weight 0, expected one that owns something");
}

/* By weight, each node's turns as far apart as they can be: the next is of the node that has got
 * least for its weight. */
static void set_deal(fg_place *p)
{
    fg_share share;
    bool equal = true;
    for (uint32_t k = 1; k < p->n_node; k++) equal &= p->node[k].weight == p->node[0].weight;
    p->n_deal = equal ? p->n_node : FG_MAX_DEAL;
    fg_place_share(p, p->n_deal, 1, &share);
    for (uint32_t i = 0; i < p->n_deal; i++) {
        uint32_t next = UINT32_MAX;
        for (uint32_t k = 0; k < p->n_node; k++) {
            const uint64_t n = share.begin[k + 1] - share.begin[k], got = p->n_dealt[k];
            if (got == n) continue;
            const uint64_t of = next == UINT32_MAX ? 0 : share.begin[next + 1] - share.begin[next];
            if (next == UINT32_MAX || (2 * got + 1) * of < (2 * p->n_dealt[next] + 1) * n) next = k;
        }
        p->deal[i] = (uint8_t)next;
        p->rank[i] = (uint8_t)p->n_dealt[next]++;
    }
}

fg_status fg_place_make(fg_place **out, const fg_topo *t, const fg_place_opts *o, fg_err *err)
{
    *out = NULL;
    if (o->n_worker == 0) return fg_fail(err, FG_EINVAL, "workers: none, expected at least one");
    if (o->pretend_nodes > FG_MAX_NODE) {
        return fg_fail(err, FG_ELIMIT, "nodes: %u, expected at most %d", o->pretend_nodes,
                       FG_MAX_NODE);
    }
    if (o->n_node > n_node_of(t)) {
        return fg_fail(err, FG_EINVAL, "nodes: %u, expected at most %u, which the machine has",
                       o->n_node, n_node_of(t));
    }
    fg_place *p = fg_mem_zalloc(sizeof *p);
    if (p == NULL) return fg_fail_nomem(err, "placement");
    const uint32_t n_real = n_real_of(t, o);
    p->topo = t;
    p->numa = o->numa;
    p->n_node = o->pretend_nodes != 0 ? o->pretend_nodes : n_real;
    p->n_home = p->n_node;
    if (o->numa == FG_NUMA_INTERLEAVE || o->numa == FG_NUMA_FIRST_TOUCH) p->n_node = 1;
    p->n_worker = o->n_worker;
    p->seat = fg_mem_zalloc_array(p->n_worker, sizeof *p->seat);
    fg_status st = p->seat == NULL ? fg_fail_nomem(err, "placement") : deal_seats(p, n_real, err);
    if (st == FG_OK) st = weigh(p, o, err);
    if (st == FG_OK) {
        set_deal(p);
        *out = p;
    } else {
        fg_place_destroy(&p);
    }
    return st;
}

void fg_place_destroy(fg_place **p)
{
    if (*p == NULL) return;
    fg_mem_free((*p)->seat);
    fg_mem_free(*p);
    *p = NULL;
}

void fg_place_weigh(const double *gbs, uint32_t n_node, uint32_t *weight)
{
    double most = 0.0;
    bool alike = true;
    for (uint32_t k = 0; k < n_node; k++) most = gbs[k] > most ? gbs[k] : most;
    for (uint32_t k = 0; k < n_node; k++) {
        alike &= gbs[k] > 0.9 * most;
        weight[k] = gbs[k] > 0.0 ? (uint32_t)(100.0 * gbs[k] / most + 0.5) : 0;
    }
    for (uint32_t k = 0; k < n_node && alike; k++) weight[k] = 1;
}

/* ---- shares ---- */

/* Hands out the `left` groups that rounding down has not (fewer than nodes); rest: remainders. */
static void give_rest(uint64_t *groups, uint64_t *rest, uint32_t n_node, uint64_t left,
                      uint32_t turn)
{
    for (; left > 0; left--) {
        uint32_t best = turn;
        for (uint32_t i = 1; i < n_node; i++) {
            const uint32_t k = (turn + i) % n_node;
            if (rest[k] > rest[best]) best = k;
        }
        groups[best]++;
        rest[best] = 0;
    }
}

void fg_place_share_in_turn(const fg_place *p, uint64_t n, uint64_t group, uint32_t *turn,
                            fg_share *out)
{
    const uint64_t n_group = n / group + (n % group != 0);
    uint64_t groups[FG_MAX_NODE], rest[FG_MAX_NODE], left = n_group, at = 0;
    out->begin[0] = 0;
    out->begin[1] = n;
    if (p->n_node == 1) return;
    for (uint32_t k = 0; k < p->n_node; k++) {
        /* floor(n_group * w / weight), without a product that overflows */
        const uint64_t w = p->node[k].weight, more = n_group % p->weight * w;
        groups[k] = n_group / p->weight * w + more / p->weight;
        rest[k] = more % p->weight;
        left -= groups[k];
    }
    give_rest(groups, rest, p->n_node, left, *turn);
    *turn = (uint32_t)((*turn + left) % p->n_node);
    for (uint32_t k = 0; k < p->n_node; k++) {
        at += groups[k];
        out->begin[k + 1] = at == n_group ? n : at * group;
    }
}

void fg_place_share(const fg_place *p, uint64_t n, uint64_t group, fg_share *out)
{
    uint32_t turn = 0;
    fg_place_share_in_turn(p, n, group, &turn, out);
}

uint64_t fg_place_n_dealt(const fg_place *p, uint32_t node, uint64_t n)
{
    uint64_t sum = n / p->n_deal * p->n_dealt[node];
    for (uint64_t i = 0; i < n % p->n_deal; i++) sum += p->deal[i] == node;
    return sum;
}

uint64_t fg_place_dealt(const fg_place *p, uint32_t node, uint64_t at)
{
    const uint64_t round = at / p->n_dealt[node], rank = at % p->n_dealt[node];
    uint32_t i = 0;
    while (p->deal[i] != node || p->rank[i] != rank) i++;
    return round * p->n_deal + i;
}

void fg_place_share_dealt(const fg_place *p, uint64_t n, fg_share *out)
{
    out->begin[0] = 0;
    for (uint32_t k = 0; k < p->n_node; k++) {
        out->begin[k + 1] = out->begin[k] + fg_place_n_dealt(p, k, n);
    }
}

/* ---- memory ---- */

uint64_t fg_place_page(void)
{
    const long n = sysconf(_SC_PAGESIZE);
    return n > 0 ? (uint64_t)n : FG_PAGE_BYTES;
}

bool fg_place_binds(const fg_place *p)
{
    return p->topo != NULL && fg_topo_n_memory(p->topo) > 1;
}

fg_status fg_place_bind(const fg_place *p, void *base, const fg_owned *range, size_t n, fg_err *err)
{
    const uint64_t page = fg_place_page();
    if (p->topo == NULL) {
        return fg_fail(err, FG_ENOTSUP, "memory: no topology, expected one to bind it by");
    }
    if ((uintptr_t)base % page != 0) {
        return fg_fail(err, FG_EINVAL, "memory: begins inside a page, expected whole pages");
    }
    for (size_t i = 0; i < n; i++) {
        const fg_owned *r = &range[i];
        if (r->begin % page != 0 || r->end % page != 0 || r->end < r->begin ||
            r->node >= p->n_node) {
            return fg_fail(err, FG_EINVAL,
                           "memory: bytes %llu to %llu for node %u, expected whole pages of %llu "
                           "and a node below %u",
                           (unsigned long long)r->begin, (unsigned long long)r->end, r->node,
                           (unsigned long long)page, p->n_node);
        }
        if (r->begin == r->end || p->numa == FG_NUMA_FIRST_TOUCH) continue;
        FG_TRY(fg_topo_bind_memory(p->topo, p->node[r->node].real, p->numa == FG_NUMA_INTERLEAVE,
                                   (uint8_t *)base + r->begin, (size_t)(r->end - r->begin), err));
    }
    return FG_OK;
}

enum { AUDIT_PAGES = 512 }; /* a call */

static fg_status no_answer(fg_err *err)
{
    return fg_fail(err, errno == ENOSYS ? FG_ENOTSUP : FG_EIO,
                   "memory: nodes of pages: %s, expected the system to tell", strerror(errno));
}

/* The node of the placement's topology with a page; UINT32_MAX: none of ours.  Without a topology
 * all memory is the one node's. */
static uint32_t node_of(const fg_place *p, int os)
{
    if (os < 0) return UINT32_MAX;
    return p->topo == NULL ? 0 : fg_topo_node_at(p->topo, (uint32_t)os);
}

/* Moves those of m pages that are on no node of a set, and asks again.  A page that cannot be moved
 * stays where it is. */
static fg_status move_pages(const fg_place *p, uint64_t real, void **at, int *node, size_t m,
                            fg_audit *out, fg_err *err)
{
    void *page[AUDIT_PAGES];
    int to[AUDIT_PAGES], got[AUDIT_PAGES];
    size_t n = 0;
    const uint32_t target = fg_topo_os_node(p->topo, (uint32_t)__builtin_ctzll(real));
    for (size_t i = 0; i < m; i++) {
        const uint32_t k = node_of(p, node[i]);
        if (node[i] < 0 || (k != UINT32_MAX && (real >> k & 1) != 0)) continue;
        page[n] = at[i];
        to[n++] = (int)target;
    }
    if (n == 0) return FG_OK;
    (void)syscall(SYS_move_pages, 0, (unsigned long)n, page, to, got, MPOL_MF_MOVE);
    if (syscall(SYS_move_pages, 0, (unsigned long)n, page, NULL, got, 0) != 0) {
        return no_answer(err);
    }
    size_t j = 0;
    for (size_t i = 0; i < m && j < n; i++) {
        if (at[i] != page[j]) continue;
        out->moved += got[j] == (int)target;
        node[i] = got[j++];
    }
    return FG_OK;
}

/* real: nodes to which pages elsewhere are moved; 0: none is. */
static fg_status walk_pages(const fg_place *p, uint64_t real, void *base, uint64_t bytes,
                            fg_audit *out, fg_err *err)
{
    const uint64_t page = fg_place_page(), n = bytes / page + (bytes % page != 0);
    void *at[AUDIT_PAGES];
    int node[AUDIT_PAGES];
    if ((uintptr_t)base % page != 0) {
        return fg_fail(err, FG_EINVAL, "memory: begins inside a page, expected whole pages");
    }
    out->n_page += n;
    for (uint64_t first = 0; first < n; first += AUDIT_PAGES) {
        const size_t m = n - first < AUDIT_PAGES ? (size_t)(n - first) : AUDIT_PAGES;
        for (size_t i = 0; i < m; i++) at[i] = (uint8_t *)base + (first + i) * page;
        /* without target nodes it only tells */
        if (syscall(SYS_move_pages, 0, (unsigned long)m, at, NULL, node, 0) != 0) {
            return no_answer(err);
        }
        if (real != 0) FG_TRY(move_pages(p, real, at, node, m, out, err));
        for (size_t i = 0; i < m; i++) {
            const uint32_t k = node_of(p, node[i]);
            out->absent += node[i] < 0;
            out->elsewhere += node[i] >= 0 && k == UINT32_MAX;
            if (k != UINT32_MAX) out->on_node[k]++;
        }
    }
    return FG_OK;
}

fg_status fg_place_audit(const fg_place *p, const void *base, uint64_t bytes, fg_audit *out,
                         fg_err *err)
{
    return walk_pages(p, 0, (void *)(uintptr_t)base, bytes, out, err);
}

fg_status fg_place_mend(const fg_place *p, uint32_t node, void *base, uint64_t bytes, fg_audit *out,
                        fg_err *err)
{
    const bool moves =
        fg_place_binds(p) && p->numa != FG_NUMA_INTERLEAVE && p->numa != FG_NUMA_FIRST_TOUCH;
    return walk_pages(p, moves ? p->node[node].real : 0, base, bytes, out, err);
}

uint64_t fg_place_local(const fg_place *p, uint32_t node, const fg_audit *a)
{
    uint64_t n = 0;
    for (uint32_t k = 0; k < FG_MAX_NODE; k++) {
        if ((p->node[node].real >> k & 1) != 0) n += a->on_node[k];
    }
    return n;
}
