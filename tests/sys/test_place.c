/* SPDX-License-Identifier: MIT
 *
 * Placement on machines of 1 to 16 nodes, uneven and restricted ones: every worker has a core of
 * its node, the first m workers take equally from all nodes, shares cover everything once with
 * borders on groups.  Then memory: bound, and found where it lies.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/format/format.h"
#include "src/sys/node_rates.h"
#include "src/sys/place.h"
#include "tests/fg_test.h"

/* Made with hwloc from synthetic descriptions, then cut down to what is looked at; what is special
 * in one was written by hand. */
#define RECORDED "tests/sys/topologies/"
#define UNEVEN   RECORDED "uneven.xml" /* nodes of 4, 2 and no cores */

static fg_topo *described(const char *source, const char *cpus)
{
    fg_topo *t;
    fg_err err = {0};
    if (fg_topo_create_from(&t, source, cpus, &err) == FG_OK) return t;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return NULL;
}

static fg_place *placed(const fg_topo *t, uint32_t n_worker, uint32_t pretend_nodes)
{
    const fg_place_opts o = {.n_worker = n_worker, .pretend_nodes = pretend_nodes};
    fg_place *p;
    fg_err err = {0};
    if (fg_place_make(&p, t, &o, &err) == FG_OK) return p;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return NULL;
}

/* ---- topologies ---- */

FG_TEST(cores_belong_to_nodes)
{
    static const struct {
        const char *source, *cpus;
        uint32_t n_node, n_core[4];
    } want[] = {
        {"core:4 pu:2", NULL, 1, {4}},
        {"node:1 core:4 pu:2", NULL, 1, {4}},
        {"node:2 core:8 pu:1", NULL, 2, {8, 8}},
        {"pack:2 node:2 core:4 pu:2", NULL, 4, {4, 4, 4, 4}},
        {"pack:2 [numa] core:4 pu:2", NULL, 2, {4, 4}},
        {"node:2 core:4 pu:1", "0-5", 2, {4, 2}},
        {"node:2 core:4 pu:1", "4-7", 1, {4}}, /* the cpuset of one node */
        {"node:4 core:2 pu:2", "2,12-15", 2, {1, 2}},
        {"node:2 pu:3", NULL, 2, {3, 3}}, /* cores not known */
        {UNEVEN, NULL, 2, {4, 2}},
        {UNEVEN, "4-5", 1, {2}},
        {RECORDED "two-socket.xml", NULL, 2, {4, 4}},
        {RECORDED "two-socket.xml", "0-5,8-9", 2, {3, 1}}, /* threads of a core: one core */
        {RECORDED "nps4.xml", NULL, 8, {2, 2, 2, 2}},
        {RECORDED "nps4.xml", "4-15", 6, {2, 2, 2, 2}},
        {RECORDED "snc.xml", NULL, 4, {3, 3, 3, 3}},
        {RECORDED "hybrid.xml", NULL, 2, {4, 4}},
        {RECORDED "cpuset.xml", NULL, 2, {2, 4}},      /* cores of node 1: to the nearest */
        {RECORDED "cpuset.xml", "0-3", 1, {4}},        /* where that has no core: the other one */
        {RECORDED "no-memory.xml", NULL, 2, {2, 4}},   /* of the node in the middle */
        {RECORDED "memory-only.xml", NULL, 2, {2, 2}}, /* and second nodes of the same cores */
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        uint32_t n_core[FG_MAX_NODE] = {0};
        fg_topo *t = described(want[i].source, want[i].cpus);
        REQUIRE(t != NULL);
        if (fg_topo_n_node(t) != want[i].n_node) {
            fg_test_fail(__FILE__, __LINE__, "%s: %u nodes, expected %u", want[i].source,
                         fg_topo_n_node(t), want[i].n_node);
        }
        for (uint32_t c = 0; c < fg_topo_n_core(t); c++) n_core[fg_topo_node_of(t, c)]++;
        for (uint32_t k = 0; k < 4; k++) CHECK_U64(n_core[k], want[i].n_core[k]);
        CHECK(!fg_topo_bind_self(t, 0)); /* of another machine */
        fg_topo_destroy(t);
    }
}

/* What fg_topo_put must say of each machine: everything that is counted and named. */
FG_TEST(machines_in_words)
{
    static const struct {
        const char *source, *cpus, *text;
    } want[] = {
        {"core:4 pu:2", NULL, "4 cores with 8 threads; node 0: 4 cores, 1.00 GiB"},
        {RECORDED "two-socket.xml", NULL,
         "2 packages, 8 cores with 16 threads, 2 last-level caches of 64.0 MiB in all; node 0: 4 "
         "cores, 256 GiB, distances 10 21; node 1: 4 cores, 256 GiB, distances 21 10"},
        {RECORDED "two-socket.xml", "0-3",
         "1 package, 2 cores with 4 threads, 1 last-level cache of 32.0 MiB in all; node 0: 2 "
         "cores, 256 GiB; node 1: 256 GiB, owns nothing (no CPU that may be used)"},
        {RECORDED "hybrid.xml", NULL,
         "1 package, 8 cores (4 fast); node 0: 4 cores, 32.0 GiB; node 1: 4 cores, 32.0 GiB"},
        {RECORDED "cpuset.xml", NULL,
         "6 cores; node 0: 2 cores, 64.0 GiB, distances 10 20; node 1: 64.0 GiB, owns nothing "
         "(memory not allowed); node 2: 4 cores, 64.0 GiB, distances 20 10; node 3: 64.0 GiB, owns "
         "nothing (no CPU that may be used)"},
        {RECORDED "no-memory.xml", NULL,
         "6 cores; node 0: 2 cores, 64.0 GiB, distances 10 32; node 1: owns nothing (no memory); "
         "node 2: 4 cores, 64.0 GiB, distances 32 10"},
        {RECORDED "memory-only.xml", NULL,
         "2 packages, 4 cores; node 0: 2 cores, 64.0 GiB; node 1: 16.0 GiB, owns nothing (second "
         "of "
         "its CPUs); node 2: 2 cores, 64.0 GiB; node 3: 16.0 GiB, owns nothing (second of its "
         "CPUs); node 4: 128 GiB, owns nothing (memory only)"},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        fg_buf b = {0};
        fg_topo *t = described(want[i].source, want[i].cpus);
        REQUIRE(t != NULL);
        fg_topo_put(t, &b);
        CHECK_STR(fg_buf_str(&b), want[i].text);
        fg_buf_fini(&b);
        fg_topo_destroy(t);
    }
    fg_topo *t = described(RECORDED "memory-only.xml", NULL);
    REQUIRE(t != NULL);
    CHECK_U64(fg_topo_sums(t).n_idle, 3);
    CHECK_U64(fg_topo_node_bytes(t, 1), (uint64_t)64 << 30);
    CHECK_U64(fg_topo_node_at(t, 1), UINT32_MAX); /* owns nothing: none of ours */
    CHECK_U64(fg_topo_node_at(t, 2), 1);
    CHECK_U64(fg_topo_distance(t, 0, 1), 0);
    fg_topo_destroy(t);
    t = described(RECORDED "nps4.xml", "4-15");
    REQUIRE(t != NULL);
    CHECK_U64(fg_topo_distance(t, 0, 1), 12); /* nodes 2, 3 and 4 of the machine */
    CHECK_U64(fg_topo_distance(t, 0, 2), 32);
    fg_topo_destroy(t);
}

/* A node of four slow cores has half of what four fast ones have. */
FG_TEST(slow_cores_weigh_less)
{
    fg_share s;
    fg_topo *t = described(RECORDED "hybrid.xml", NULL);
    fg_place *p = t == NULL ? NULL : placed(t, 8, 0);
    REQUIRE(p != NULL);
    CHECK_U64(p->node[0].weight, 8);
    CHECK_U64(p->node[1].weight, 4);
    fg_place_share(p, 48, 8, &s);
    CHECK_U64(s.begin[1], 32);
    fg_place_destroy(&p);
    fg_topo_destroy(t);
    t = described(RECORDED "hybrid.xml", "4-7"); /* without a fast one all are alike */
    p = t == NULL ? NULL : placed(t, 4, 0);
    REQUIRE(p != NULL);
    CHECK_U64(p->node[0].weight, 4);
    fg_place_destroy(&p);
    fg_topo_destroy(t);
}

FG_TEST(weights_follow_bandwidth)
{
    uint32_t w[4];
    fg_place_weigh((const double[]){100.0, 91.0, 99.0, 95.0}, 4, w); /* noise */
    CHECK(w[0] == 1 && w[1] == 1 && w[2] == 1 && w[3] == 1);
    fg_place_weigh((const double[]){100.0, 200.0, 50.4, 0.0}, 4, w);
    CHECK(w[0] == 50 && w[1] == 100 && w[2] == 25 && w[3] == 0);
    fg_place_weigh((const double[]){100.0, 90.0}, 2, w); /* a tenth: no noise any more */
    CHECK(w[0] == 100 && w[1] == 90);
}

FG_TEST(node_numbers_are_the_systems)
{
    fg_topo *t = described("node:4 core:2 pu:1", "2-3,6-7");
    REQUIRE(t != NULL);
    CHECK_U64(fg_topo_node_at(t, 1), 0);
    CHECK_U64(fg_topo_node_at(t, 3), 1);
    CHECK_U64(fg_topo_node_at(t, 0), UINT32_MAX);
    fg_topo_destroy(t);
}

FG_TEST(bad_topologies)
{
    fg_topo *t;
    fg_err err = {0};
    CHECK(fg_topo_create_from(&t, "no such machine", NULL, &err) == FG_EINVAL && t == NULL);
    CHECK(fg_topo_create_from(&t, "README.md", NULL, &err) == FG_EINVAL);
    CHECK(fg_topo_create_from(&t, "node:2 core:2 pu:1", "x", &err) == FG_EINVAL);
    CHECK(fg_topo_create_from(&t, "node:2 core:2 pu:1", "9", &err) == FG_EINVAL);
    CHECK(fg_topo_create_from(&t, "node:65 core:1 pu:1", NULL, &err) == FG_ELIMIT);
    CHECK(fg_topo_create_from(&t, "60000 60000 pu:1", NULL, &err) == FG_ELIMIT);
    CHECK_OK(fg_topo_create_from(&t, "node:64 core:1 pu:1", NULL, &err), &err);
    fg_topo_destroy(t);
    static const char *const untyped[] = {"2 pu:100", "4 pu:128", "2 8 pu:128", "2 100"};
    for (int i = 0; i < 4; i++) { /* whose types hwloc finds by their places */
        CHECK_OK(fg_topo_create_from(&t, untyped[i], NULL, &err), &err);
        fg_topo_destroy(t);
    }
}

/* ---- seats ---- */

/* What is wrong with the seats of a placement that has the topology's own nodes; NULL: nothing. */
static const char *seat_fault(const fg_topo *t, const fg_place *p)
{
    uint32_t n_here[FG_MAX_NODE] = {0};
    for (uint32_t i = 0; i < p->n_worker; i++) {
        const fg_seat *s = &p->seat[i];
        if (s->node >= p->n_node) return "a seat of no node";
        if (fg_topo_node_of(t, s->core) != s->node) return "a core of another node";
        if (s->idx_in_node != n_here[s->node]++) return "a wrong number in the node";
        for (uint32_t j = 0; j < i && p->n_worker <= fg_topo_n_core(t); j++) {
            if (p->seat[j].core == s->core) return "a core for two";
        }
        /* the first i + 1 workers: equally many of each node that still has free cores */
        for (uint32_t k = 0; k < p->n_node && p->n_worker <= fg_topo_n_core(t); k++) {
            if (n_here[k] < p->node[k].n_core && n_here[k] + 1 < n_here[s->node]) {
                return "more of one node";
            }
        }
    }
    for (uint32_t i = 0; i < p->n_worker; i++) {
        const fg_place_node *node = &p->node[p->seat[i].node];
        if (node->n_worker != n_here[p->seat[i].node]) return "a wrong number of workers";
        if (p->seat[i].alone != (node->n_worker == node->n_core)) return "alone or not";
    }
    return NULL;
}

static void check_seats(const char *source, const char *cpus)
{
    fg_topo *t = described(source, cpus);
    REQUIRE(t != NULL);
    for (uint32_t n = 1; n <= 2 * fg_topo_n_core(t) + 1; n++) {
        fg_place *p = placed(t, n, 0);
        REQUIRE(p != NULL);
        const char *fault = seat_fault(t, p);
        if (fault != NULL) fg_test_fail(__FILE__, __LINE__, "%s, %u workers: %s", source, n, fault);
        fg_place_destroy(&p);
    }
    fg_topo_destroy(t);
}

FG_TEST(workers_sit_on_their_nodes)
{
    char source[64];
    for (int n = 1; n <= 16; n++) {
        (void)snprintf(source, sizeof source, "node:%d core:3 pu:2", n);
        check_seats(source, NULL);
    }
    check_seats("core:4 pu:1", NULL);
    check_seats(UNEVEN, NULL);
    check_seats(RECORDED "two-socket.xml", NULL);
    check_seats(RECORDED "nps4.xml", "0-6,9-15");
    check_seats(RECORDED "snc.xml", NULL);
    check_seats(RECORDED "hybrid.xml", NULL);
    check_seats(RECORDED "cpuset.xml", NULL);
    check_seats(RECORDED "no-memory.xml", NULL);
    check_seats(RECORDED "memory-only.xml", NULL);
    check_seats("node:4 core:4 pu:1", "0,4-7,9-10,15");
}

FG_TEST(seat_check_sees_faults) /* negative control */
{
    fg_topo *t = described("node:2 core:4 pu:1", NULL);
    fg_place *p = t == NULL ? NULL : placed(t, 4, 0);
    REQUIRE(p != NULL && seat_fault(t, p) == NULL);
    const fg_seat first = p->seat[0], third = p->seat[2];
    p->seat[0].core = 4; /* of node 1 */
    CHECK(seat_fault(t, p) != NULL);
    p->seat[0] = first;
    p->seat[2].core = first.core;
    CHECK(seat_fault(t, p) != NULL);
    p->seat[2] = third;
    p->seat[1] = (fg_seat){0, 1, 1, false}; /* two of node 0 before any of node 1 */
    CHECK(seat_fault(t, p) != NULL);
    fg_place_destroy(&p);
    fg_topo_destroy(t);
}

FG_TEST(pretended_nodes_have_real_cores)
{
    static const char *const sources[] = {"core:2 pu:1", "core:6 pu:1", "node:3 core:2 pu:1"};
    for (size_t i = 0; i < 3; i++) {
        fg_topo *t = described(sources[i], NULL);
        REQUIRE(t != NULL);
        for (uint32_t n = 1; n <= 16; n++) {
            fg_place *p = placed(t, 16, n);
            REQUIRE(p != NULL);
            CHECK_U64(p->n_node, n);
            for (uint32_t w = 0; w < p->n_worker; w++) {
                const fg_place_node *node = &p->node[p->seat[w].node];
                CHECK(node->real >> fg_topo_node_of(t, p->seat[w].core) & 1);
                if (w < n) CHECK_U64(p->seat[w].node, w); /* one of each first */
            }
            for (uint32_t k = 0; k < n; k++) CHECK(p->node[k].n_worker >= 16 / n / 2);
            fg_place_destroy(&p);
        }
        fg_topo_destroy(t);
    }
    fg_place *p = placed(NULL, 3, 5); /* without any topology */
    REQUIRE(p != NULL);
    CHECK(p->n_node == 5 && p->seat[2].node == 2);
    fg_place_destroy(&p);
}

FG_TEST(bad_options)
{
    fg_place *p;
    fg_err err = {0};
    static const uint32_t none[2] = {0, 0}, heavy[2] = {1, FG_MAX_NODE_WEIGHT + 1};
    fg_place_opts o = {.n_worker = 0};
    CHECK(fg_place_make(&p, NULL, &o, &err) == FG_EINVAL && p == NULL);
    o = (fg_place_opts){.n_worker = 1, .pretend_nodes = FG_MAX_NODE + 1};
    CHECK(fg_place_make(&p, NULL, &o, &err) == FG_ELIMIT);
    o = (fg_place_opts){.n_worker = 1, .n_node = 2};
    CHECK(fg_place_make(&p, NULL, &o, &err) == FG_EINVAL && p == NULL);
    CHECK(strstr(err.msg, "nodes: 2, expected at most 1") != NULL);
    o = (fg_place_opts){.n_worker = 1, .pretend_nodes = 2, .weight = none};
    CHECK(fg_place_make(&p, NULL, &o, &err) == FG_EINVAL);
    o = (fg_place_opts){.n_worker = 1, .pretend_nodes = 2, .weight = heavy};
    CHECK(fg_place_make(&p, NULL, &o, &err) == FG_EINVAL);
}

/* ---- shares ---- */

/* What is wrong with a share of n items; NULL: nothing. */
static const char *share_fault(const fg_place *p, const fg_share *s, uint64_t n, uint64_t group)
{
    const double n_group = (double)(n / group + (n % group != 0));
    if (s->begin[0] != 0 || s->begin[p->n_node] != n) return "does not cover";
    for (uint32_t k = 0; k < p->n_node; k++) {
        const uint64_t begin = s->begin[k], end = s->begin[k + 1];
        if (end < begin) return "runs backwards";
        if (end % group != 0 && end != n) return "a border off the group";
        const double exact = n_group * p->node[k].weight / (double)p->weight;
        const double has = (double)((end - begin + group - 1) / group);
        if (has < exact - 1.0 || has > exact + 1.0) return "not by weight";
        if (p->node[k].weight == 0 && end != begin) return "a node that is to own nothing";
    }
    return NULL;
}

static const uint64_t counts[] = {0, 1, 2, 7, 16, 63, 64, 65, 384, 576, 1536, 12504, 12503};
static const uint64_t groups[] = {1, 2, 4, 8, 64};

static void check_shares(const fg_place *p)
{
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        for (size_t j = 0; j < sizeof groups / sizeof groups[0]; j++) {
            fg_share s;
            fg_place_share(p, counts[i], groups[j], &s);
            const char *fault = share_fault(p, &s, counts[i], groups[j]);
            if (fault == NULL) continue;
            fg_test_fail(__FILE__, __LINE__, "%u nodes, %llu items by %llu: %s", p->n_node,
                         (unsigned long long)counts[i], (unsigned long long)groups[j], fault);
        }
    }
}

FG_TEST(shares_cover_everything_by_groups)
{
    for (uint32_t n = 1; n <= 16; n++) {
        char source[64];
        (void)snprintf(source, sizeof source, "node:%u core:2 pu:1", n);
        fg_topo *t = described(source, NULL);
        fg_place *own = t == NULL ? NULL : placed(t, 2 * n, 0), *pretended = placed(NULL, 1, n);
        REQUIRE(own != NULL && pretended != NULL);
        check_shares(own);
        check_shares(pretended);
        fg_place_destroy(&own);
        fg_place_destroy(&pretended);
        fg_topo_destroy(t);
    }
}

FG_TEST(equal_nodes_share_as_the_format_says)
{
    for (uint32_t n = 1; n <= 16; n++) {
        fg_place *p = placed(NULL, 1, n);
        REQUIRE(p != NULL);
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            for (size_t j = 0; j < sizeof groups / sizeof groups[0]; j++) {
                fg_share s;
                uint64_t begin, end;
                fg_place_share(p, counts[i], groups[j], &s);
                for (uint32_t k = 0; k < n; k++) {
                    fg_panel_split(counts[i], groups[j], n, k, &begin, &end);
                    CHECK_U64(s.begin[k], begin);
                    CHECK_U64(s.begin[k + 1], end);
                }
            }
        }
        fg_place_destroy(&p);
    }
}

FG_TEST(shares_follow_weights)
{
    static const uint32_t weight[5] = {300, 100, 0, 250, 1};
    fg_err err = {0};
    fg_place *p;
    fg_share s;
    const fg_place_opts o = {.n_worker = 1, .pretend_nodes = 5, .weight = weight};
    REQUIRE_OK(fg_place_make(&p, NULL, &o, &err), &err);
    check_shares(p);
    fg_place_destroy(&p);
    fg_topo *t = described(UNEVEN, NULL); /* by cores: 4 to 2, whatever the workers */
    for (uint32_t n = 1; t != NULL && n <= 6; n++) {
        p = placed(t, n, 0);
        REQUIRE(p != NULL);
        check_shares(p);
        fg_place_share(p, 48, 8, &s);
        CHECK_U64(s.begin[1], 32);
        fg_place_destroy(&p);
    }
    fg_topo_destroy(t);
}

/* The most and the fewest items of a node, of n_matrix matrices of 16 groups. */
static uint64_t spread(const fg_place *p, uint32_t n_matrix, bool in_turn)
{
    uint64_t sum[FG_MAX_NODE] = {0}, most = 0, least = UINT64_MAX;
    uint32_t turn = 0;
    for (uint32_t m = 0; m < n_matrix; m++) {
        fg_share s;
        fg_place_share_in_turn(p, 64, 4, &turn, &s);
        if (!in_turn) turn = 0;
        CHECK(share_fault(p, &s, 64, 4) == NULL);
        for (uint32_t k = 0; k < p->n_node; k++) sum[k] += s.begin[k + 1] - s.begin[k];
    }
    for (uint32_t k = 0; k < p->n_node; k++) {
        if (sum[k] > most) most = sum[k];
        if (sum[k] < least) least = sum[k];
    }
    return most - least;
}

FG_TEST(what_is_left_goes_round)
{
    for (uint32_t n = 1; n <= 16; n++) {
        fg_place *p = placed(NULL, 1, n);
        REQUIRE(p != NULL);
        CHECK(spread(p, 7, true) <= 4);                       /* one group */
        CHECK_U64(spread(p, 7, false), 16 % n == 0 ? 0 : 28); /* always the first nodes */
        fg_place_destroy(&p);
    }
}

FG_TEST(share_check_sees_faults) /* negative control */
{
    fg_place *p = placed(NULL, 1, 4);
    fg_share s;
    REQUIRE(p != NULL);
    fg_place_share(p, 384, 8, &s);
    CHECK(share_fault(p, &s, 384, 8) == NULL);
    s.begin[4] -= 8; /* the last group is nobody's */
    CHECK_STR(share_fault(p, &s, 384, 8), "does not cover");
    s.begin[4] += 8;
    s.begin[2] += 1;
    CHECK_STR(share_fault(p, &s, 384, 8), "a border off the group");
    s.begin[2] -= 1;
    s.begin[1] += 16;
    CHECK_STR(share_fault(p, &s, 384, 8), "not by weight");
    s.begin[1] = 0;
    s.begin[0] = 8;
    CHECK_STR(share_fault(p, &s, 384, 8), "does not cover");
    fg_place_destroy(&p);
}

/* ---- memory ---- */

/* Policy of the page at p (0: the default); -1: the system does not tell. */
static int policy_of(const void *p)
{
    int mode = -1;
    return syscall(SYS_get_mempolicy, &mode, NULL, 0UL, p, 2UL /* MPOL_F_ADDR */) == 0 ? mode : -1;
}

enum { N_PAGE = 8 };

FG_TEST(memory_is_bound_and_found)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    fg_err err = {0};
    fg_audit a = {0};
    fg_topo *t = fg_topo_create();
    REQUIRE(t != NULL);
    fg_place *p = placed(t, 1, 2);
    uint8_t *m = fg_mem_map(N_PAGE * page);
    REQUIRE(p != NULL && m != NULL);
    const fg_owned range[2] = {{0, 3 * page, 0}, {3 * page, 6 * page, 1}};
    if (fg_place_audit(p, m, N_PAGE * page, &a, &err) == FG_ENOTSUP || policy_of(m) < 0) {
        fg_test_skip("the system does not tell where pages are");
    } else if (fg_place_bind(p, m, range, 2, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    } else {
        CHECK_U64(a.absent, N_PAGE); /* not yet touched */
        CHECK(policy_of(m) > 0 && policy_of(m + 5 * page) > 0);
        CHECK(policy_of(m + 6 * page) == 0); /* control: a page of no range */
        memset(m, 1, 7 * page);
        a = (fg_audit){0};
        CHECK_OK(fg_place_audit(p, m, N_PAGE * page - 1, &a, &err), &err);
        uint64_t sum = a.elsewhere;
        for (uint32_t k = 0; k < fg_topo_n_node(t); k++) sum += a.on_node[k];
        CHECK_U64(a.n_page, N_PAGE);
        CHECK_U64(a.absent, 1);
        CHECK_U64(sum, 7);
        CHECK(a.on_node[0] >= 3); /* where node 0, real or pretended, lies */
        if (fg_topo_n_node(t) == 1) CHECK_U64(a.on_node[0], 7);
    }
    fg_mem_unmap(m, N_PAGE * page);
    fg_place_destroy(&p);
    fg_topo_destroy(t);
}

FG_TEST(rates_of_nodes)
{
    fg_node_rates r;
    fg_err err = {0};
    REQUIRE_OK(fg_node_rates_measure(&r, 2, 0, &err), &err);
    fg_topo *t = fg_topo_create();
    REQUIRE(t != NULL);
    CHECK_U64(r.n_node, fg_topo_n_node(t));
    for (uint32_t k = 0; k < r.n_node && k < r.n_thread; k++) CHECK(r.local_gbs[k] > 0.0);
    CHECK((r.remote > 0.0) == (r.n_node > 1));
    fg_topo_destroy(t);
}

FG_TEST(what_cannot_be_bound)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    fg_err err = {0};
    fg_audit a = {0};
    fg_topo *other = described("node:2 core:2 pu:1", NULL), *t = fg_topo_create();
    uint8_t *m = fg_mem_map(N_PAGE * page);
    REQUIRE(other != NULL && t != NULL && m != NULL);
    fg_place *there = placed(other, 1, 0), *here = placed(t, 1, 2), *nowhere = placed(NULL, 1, 2);
    REQUIRE(there != NULL && here != NULL && nowhere != NULL);
    fg_owned r = {0, page, 1};
    CHECK(fg_place_bind(there, m, &r, 1, &err) == FG_ENOTSUP);
    CHECK(fg_place_bind(nowhere, m, &r, 1, &err) == FG_ENOTSUP);
    CHECK(fg_place_bind(here, m + 1, &r, 1, &err) == FG_EINVAL);
    CHECK(fg_place_audit(here, m + 1, page, &a, &err) == FG_EINVAL);
    r.end = page + 1;
    CHECK(fg_place_bind(here, m, &r, 1, &err) == FG_EINVAL);
    r = (fg_owned){page, 0, 1};
    CHECK(fg_place_bind(here, m, &r, 1, &err) == FG_EINVAL);
    r = (fg_owned){0, page, 2};
    CHECK(fg_place_bind(here, m, &r, 1, &err) == FG_EINVAL);
    fg_place_destroy(&there);
    fg_place_destroy(&here);
    fg_place_destroy(&nowhere);
    fg_topo_destroy(other);
    fg_topo_destroy(t);
    fg_mem_unmap(m, N_PAGE * page);
}
