/* SPDX-License-Identifier: MIT
 *
 * Placement: which node owns which part of a matrix, and which worker sits where.  fg_place_make
 * and the shares are pure functions of a topology, counts and groups (never of a model's shape), so
 * that machines nobody has can be tested; binding and auditing memory are the two acts.
 *
 * A share gives each node a run of items, a whole number of groups: with the group of FORMAT.md 7
 * no two nodes touch one page.  Shares follow the nodes' weights, not the number of workers, so
 * that what a node owns is the same for every size of team.  They never change a result: work is
 * split by output ranges.
 */
#ifndef FG_SRC_SYS_PLACE_H
#define FG_SRC_SYS_PLACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/sys/topo.h"

enum {
    FG_MAX_NODE_WEIGHT = 1 << 20,
    FG_MAX_DEAL = 64, /* items after which dealing begins anew; at least FG_MAX_NODE */
};

/* The policies: enumerator (src/fulgur.h says what each does), name. */
#define FG_NUMA_MAP(X)                                                                             \
    X(FG_NUMA_SLICE, "slice")                                                                      \
    X(FG_NUMA_STRICT, "strict")                                                                    \
    X(FG_NUMA_INTERLEAVE, "interleave")                                                            \
    X(FG_NUMA_EXPERT, "expert")                                                                    \
    X(FG_NUMA_MIRROR, "mirror")                                                                    \
    X(FG_NUMA_FIRST_TOUCH, "first-touch")

typedef struct fg_place_opts {
    uint32_t n_worker; /* at least 1 */
    uint32_t n_node;   /* nodes of the topology to use, the first ones; 0: all */
    /* Of those policies that do not say whose a page is (interleave, first touch) the nodes are one
     * as far as work is concerned. */
    fg_numa numa;
    /* 0: the topology's nodes.  Else, for proofs on a machine of one node: so many (at most
     * FG_MAX_NODE), to which the cores are dealt; where they are fewer, nodes share them. */
    uint32_t pretend_nodes;
    /* [nodes] what one can do next to the others, such as fg_place_weigh says; 0: owns nothing.
     * NULL: what its cores are worth (fg_topo_worth), or 1 each when the nodes are pretended. */
    const uint32_t *weight;
} fg_place_opts;

typedef struct fg_place_node {
    uint64_t real; /* nodes of the topology that its memory and cores belong to, as a set */
    uint32_t weight, n_core, n_worker;
} fg_place_node;

/* Where a worker sits.  Workers are dealt round the nodes, one core of each in turn, so that the
 * first m of them take equally from every node, for every m. */
typedef struct fg_seat {
    uint32_t node, idx_in_node;
    uint32_t core; /* of the topology */
    bool alone; /* the node has a core for each of its workers: bound to that, else to the node */
} fg_seat;

typedef struct fg_place {
    const fg_topo *topo; /* borrowed; NULL: nothing is bound */
    fg_numa numa;
    uint32_t n_node, n_worker;
    uint32_t n_home; /* nodes that memory comes from: n_node, but where that is 1 by policy */
    uint64_t weight; /* of all nodes */
    fg_place_node node[FG_MAX_NODE];
    fg_seat *seat; /* [n_worker] */
    /* Items that are dealt: item i goes to deal[i % n_deal]. */
    uint32_t n_deal;
    uint8_t deal[FG_MAX_DEAL], rank[FG_MAX_DEAL]; /* rank: among those before it of its node */
    uint32_t n_dealt[FG_MAX_NODE];                /* of each n_deal */
} fg_place;

/* Without a topology (NULL): one core of one node.  Errors: FG_EINVAL (more nodes than there are,
 * among others), FG_ELIMIT, FG_ENOMEM. */
fg_status fg_place_make(fg_place **out, const fg_topo *t, const fg_place_opts *o, fg_err *err);
void fg_place_destroy(fg_place **p); /* accepts NULL */

/* Weights for fg_place_opts from what the cores of each node read of its own memory
 * (node_rates.h), so that all are through with their parts at the same time: whole hundredths of
 * the fastest.  All 1 where none is a tenth below it: such a difference is one of the moment, and
 * equal parts are those of FORMAT.md. */
void fg_place_weigh(const double *gbs, uint32_t n_node, uint32_t *weight);

/* Node k owns items begin[k] .. begin[k + 1] - 1; [n_node + 1] of it are set. */
typedef struct fg_share {
    uint64_t begin[FG_MAX_NODE + 1];
} fg_share;

/* What each node owns of n items; borders fall on multiples of group (> 0; FORMAT.md 7).  Each node
 * gets what its weight comes to, rounded down; the groups that are left go to the largest
 * remainders, ties to the first nodes.  With equal weights that is FORMAT.md's split. */
void fg_place_share(const fg_place *p, uint64_t n, uint64_t group, fg_share *out);
/* The same for the matrices of a phase one after another, so that what is left goes round the
 * nodes: ties go to the nodes from *turn on, which begins with 0 and is moved after those
 * served. */
void fg_place_share_in_turn(const fg_place *p, uint64_t n, uint64_t group, uint32_t *turn,
                            fg_share *out);

/* Items that keep their node when more follow, such as spans of a context: they are dealt round the
 * nodes, by weight.  The node of item i; *at: its number among that node's. */
static inline uint32_t fg_place_deal(const fg_place *p, uint64_t i, uint64_t *at)
{
    const uint64_t round = i / p->n_deal;
    const uint32_t d = (uint32_t)(i % p->n_deal), node = p->deal[d];
    *at = round * p->n_dealt[node] + p->rank[d];
    return node;
}
/* How many of the first n items a node has. */
uint64_t fg_place_n_dealt(const fg_place *p, uint32_t node, uint64_t n);
/* The item that is number `at` of a node's: fg_place_deal the other way. */
uint64_t fg_place_dealt(const fg_place *p, uint32_t node, uint64_t at);
/* The first n items in another order, as a share: those of node 0, then those of node 1, and so on;
 * item i of node k is fg_place_dealt(p, k, i - begin[k]). */
void fg_place_share_dealt(const fg_place *p, uint64_t n, fg_share *out);

/* Bytes of a page of the system, which is what can be bound and asked for: 4 KiB or more. */
uint64_t fg_place_page(void);

/* Whether there is a choice: memory of this machine can come from several nodes. */
bool fg_place_binds(const fg_place *p);

/* Bytes begin .. end - 1 from a base, whole pages of the system, that belong to a node. */
typedef struct fg_owned {
    uint64_t begin, end;
    uint32_t node;
} fg_owned;

/* Binds the ranges of a private mapping, or of one on tmpfs or hugetlbfs, to their nodes; pages
 * come when they are touched, with FG_NUMA_INTERLEAVE from all nodes in turn.  Errors: FG_EINVAL
 * (not whole pages), FG_ENOTSUP (no topology, or not this machine's), FG_EIO. */
fg_status fg_place_bind(const fg_place *p, void *base, const fg_owned *range, size_t n,
                        fg_err *err);

/* Where pages are; the nodes are the topology's, also when others are pretended. */
typedef struct fg_audit {
    uint64_t n_page;
    uint64_t on_node[FG_MAX_NODE];
    uint64_t elsewhere; /* on a node that has none of our cores */
    uint64_t absent;    /* not in memory, or never written */
    uint64_t moved;     /* by fg_place_mend */
} fg_audit;

/* Asks the kernel for the node of each page of base[bytes] (base at the beginning of one), and adds
 * to *out.  Errors:
 * FG_EINVAL, FG_ENOTSUP, FG_EIO. */
fg_status fg_place_audit(const fg_place *p, const void *base, uint64_t bytes, fg_audit *out,
                         fg_err *err);
/* The same after pages that are not on a node of the placement were moved to it, as far as they can
 * be: not those that another process has mapped as well. */
fg_status fg_place_mend(const fg_place *p, uint32_t node, void *base, uint64_t bytes, fg_audit *out,
                        fg_err *err);

/* Pages of an audit on memory of a node of the placement. */
uint64_t fg_place_local(const fg_place *p, uint32_t node, const fg_audit *a);

#endif
