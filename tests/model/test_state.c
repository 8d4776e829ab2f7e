/* SPDX-License-Identifier: MIT
 *
 * Where the state of a sequence lies: every row once, inside the bytes of the node that has it, the
 * same rows with the same node in a longer context; with one node as if there were none.
 */
#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/model/state.h"
#include "tests/fg_test.h"

/* Two lightning layers around a softmax layer; rows that are no whole pages. */
static fg_shape small_shape(void)
{
    return (fg_shape){.n_layer = 3,
                      .n_head = 12,
                      .n_kv_head = 3,
                      .d_head = 16,
                      .n_ctx_max = 1 << 20,
                      .attn = {FG_ATTN_LIGHTNING, FG_ATTN_SOFTMAX, FG_ATTN_LIGHTNING}};
}

static fg_place *nodes_of(uint32_t n, const uint32_t *weight)
{
    const fg_place_opts o = {.n_worker = n, .pretend_nodes = n, .weight = weight};
    fg_place *p;
    fg_err err = {0};
    if (fg_place_make(&p, NULL, &o, &err) == FG_OK) return p;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return NULL;
}

/* The node whose bytes hold the n at p; UINT32_MAX: no one node's. */
static uint32_t node_of(const fg_state *st, const void *p, uint64_t n)
{
    const uint64_t at = (uint64_t)((const uint8_t *)p - (const uint8_t *)st->map);
    for (uint32_t k = 0; k < st->place.n_node; k++) {
        const uint64_t from = k == 0 ? 0 : st->end[k - 1];
        if (at >= from && at + n <= st->end[k]) return k;
    }
    return UINT32_MAX;
}

/* Marks the bytes, which nobody has marked: counts those that somebody has. */
static uint64_t mark_bytes(const fg_state *st, uint8_t *seen, const void *p, uint64_t n)
{
    uint8_t *s = seen + ((const uint8_t *)p - (const uint8_t *)st->map);
    uint64_t twice = 0;
    for (uint64_t i = 0; i < n; i++) twice += s[i]++ != 0;
    return twice;
}

typedef struct tally {
    uint64_t twice, astray,
        bytes; /* bytes that are two rows', rows outside their node, all bytes */
} tally;

static void tally_row(const fg_state *st, uint8_t *seen, uint64_t h, uint64_t pos, tally *t)
{
    const uint64_t d = st->d_head, size = fg_kv_bytes(st->kv_type);
    const fg_state_cache c = fg_state_rows(st, 1, h, pos);
    uint64_t at;
    const uint32_t owner = fg_place_deal(&st->place, pos / FG_ATTN_SPAN * st->n_kv_head + h, &at);
    for (uint64_t e = 0; e < d; e++) {
        const uint8_t *k = (uint8_t *)c.k + fg_state_key_at(st->kv_type, e) * size,
                      *v = (uint8_t *)c.v + fg_state_value_at(st->kv_type, e) * size;
        t->twice += mark_bytes(st, seen, k, size) + mark_bytes(st, seen, v, size);
        t->astray += node_of(st, k, size) != owner || node_of(st, v, size) != owner;
    }
    t->bytes += 2 * d * size;
    CHECK((c.k_scale != NULL) == (st->kv_type == FG_KV_INT8));
    if (c.k_scale == NULL) return;
    t->twice += mark_bytes(st, seen, c.k_scale, sizeof(float));
    t->twice += mark_bytes(st, seen, c.v_scale, sizeof(float));
    t->astray += node_of(st, c.k_scale, sizeof(float)) != owner;
    t->astray += node_of(st, c.v_scale, sizeof(float)) != owner;
    t->bytes += 2 * sizeof(float);
}

static void tally_heads(const fg_state *st, uint8_t *seen, uint32_t l, tally *t)
{
    const uint64_t d = st->d_head, s = d * d * sizeof(float),
                   c = d * FG_LIGHT_CHUNK * sizeof(float);
    for (uint64_t h = 0; h < 12; h++) {
        const fg_state_light y = fg_state_head(st, l, h);
        uint32_t owner = 0;
        while (h >= st->heads.begin[owner + 1]) owner++;
        t->twice += mark_bytes(st, seen, y.s, s) + mark_bytes(st, seen, y.kt, c) +
                    mark_bytes(st, seen, y.v, c);
        t->astray += node_of(st, y.s, s) != owner || node_of(st, y.kt, c) != owner ||
                     node_of(st, y.v, c) != owner;
        t->bytes += s + 2 * c;
    }
}

static tally tally_of(const fg_place *p, uint64_t n_ctx, fg_kv_type kv)
{
    const fg_shape s = small_shape();
    fg_state *st;
    fg_err err = {0};
    tally t = {0};
    CHECK_OK(fg_state_create(&st, &s, n_ctx, kv, p, &err), &err);
    if (st == NULL) return t;
    uint8_t *seen = calloc(1, (size_t)st->bytes);
    for (uint64_t h = 0; h < s.n_kv_head; h++) {
        /* kernels read up to a multiple of 64 positions */
        for (uint64_t pos = 0; pos < fg_round_up(n_ctx, 64); pos++) tally_row(st, seen, h, pos, &t);
    }
    tally_heads(st, seen, 0, &t);
    tally_heads(st, seen, 2, &t);
    uint64_t bytes;
    CHECK_OK(fg_state_size(&s, n_ctx, kv, p, &bytes, &err), &err);
    CHECK_U64(st->bytes, bytes);
    CHECK_U64(st->end[st->place.n_node - 1], bytes);
    free(seen);
    fg_state_destroy(&st);
    return t;
}

static uint64_t bytes_of(uint64_t n_ctx, fg_kv_type kv)
{
    const uint64_t row = 2 * (16 * fg_kv_bytes(kv) + (kv == FG_KV_INT8 ? sizeof(float) : 0));
    return 3 * fg_round_up(n_ctx, 64) * row +
           2 * 12 * (16 * 16 + 2 * 16 * FG_LIGHT_CHUNK) * sizeof(float);
}

static void check_places(const uint32_t *weight)
{
    static const uint64_t ctx[] = {1, 100, 1024, 1030, 4999};
    for (uint32_t n = 1; n <= 16; n += (uint32_t)fg_test_every(3, 5)) {
        fg_place *p = nodes_of(n, weight);
        for (size_t i = 0; p != NULL && i < sizeof ctx / sizeof ctx[0]; i++) {
            const fg_kv_type kv = (fg_kv_type)((n + i) % 3);
            const tally t = tally_of(p, ctx[i], kv);
            CHECK_U64(t.twice, 0);
            CHECK_U64(t.astray, 0);
            CHECK_U64(t.bytes, bytes_of(ctx[i], kv));
        }
        fg_place_destroy(&p);
    }
}

FG_TEST(every_row_once_and_with_its_node)
{
    static const uint32_t weight[16] = {3, 1, 0, 2, 7, 1, 1, 1, 4, 4, 1, 9, 2, 2, 0, 5};
    check_places(NULL);
    check_places(weight);
}

/* A span keeps its node and its number there when the context is longer, which only puts the arrays
 * further apart. */
FG_TEST(spans_stay_where_they_are)
{
    const fg_shape s = small_shape();
    fg_place *p = nodes_of(5, NULL);
    fg_state *a, *b;
    fg_err err = {0};
    REQUIRE(p != NULL && fg_state_create(&a, &s, 4096, FG_KV_INT8, p, &err) == FG_OK);
    REQUIRE(fg_state_create(&b, &s, 20000, FG_KV_INT8, p, &err) == FG_OK);
    for (uint64_t i = 0; i < 12; i++) {
        const fg_state_cache x = fg_state_rows(a, 1, i % 3, i / 3 * FG_ATTN_SPAN),
                             y = fg_state_rows(b, 1, i % 3, i / 3 * FG_ATTN_SPAN);
        const uint32_t k = node_of(a, x.k, 1);
        CHECK_U64(node_of(b, y.k, 1), k);
        CHECK((uint8_t *)x.k - (uint8_t *)a->part[5 + k].k_cache ==
              (uint8_t *)y.k - (uint8_t *)b->part[5 + k].k_cache);
    }
    fg_state_destroy(&a);
    fg_state_destroy(&b);
    fg_place_destroy(&p);
}

/* [head][position], as wide as the context. */
FG_TEST(one_node_lies_as_if_there_were_none)
{
    const fg_shape s = small_shape();
    fg_place *p = nodes_of(1, NULL);
    fg_state *a, *b;
    fg_err err = {0};
    REQUIRE(p != NULL && fg_state_create(&a, &s, 3001, FG_KV_F32, p, &err) == FG_OK);
    REQUIRE(fg_state_create(&b, &s, 3001, FG_KV_F32, NULL, &err) == FG_OK);
    CHECK_U64(a->bytes, b->bytes);
    for (uint64_t pos = 0; pos < 3001; pos += 7) {
        for (uint64_t h = 0; h < 3; h++) {
            const fg_state_cache x = fg_state_rows(a, 1, h, pos), y = fg_state_rows(b, 1, h, pos);
            CHECK((float *)x.v == (float *)a->part[1].v_cache + (h * 3008 + pos) * 16);
            CHECK((float *)x.k ==
                  (float *)a->part[1].k_cache + (h * 3008 + pos / 16 * 16) * 16 + pos % 16);
            CHECK((uint8_t *)x.k - (uint8_t *)a->map == (uint8_t *)y.k - (uint8_t *)b->map);
        }
    }
    fg_state_destroy(&a);
    fg_state_destroy(&b);
    fg_place_destroy(&p);
}

/* Rows of a state filled by the number of each, and how many of another are like it. */
static uint64_t each_row(const fg_state *st, uint64_t n, bool fill)
{
    uint64_t same = 0;
    for (uint64_t i = 0; i < 3 * n; i++) {
        const fg_state_cache c = fg_state_rows(st, 1, i % 3, i / 3);
        for (uint64_t e = 0; e < 16; e++) {
            int8_t *k = (int8_t *)c.k + fg_state_key_at(FG_KV_INT8, e);
            int8_t *v = (int8_t *)c.v + fg_state_value_at(FG_KV_INT8, e);
            if (fill) *k = (int8_t)(i * 31 + e), *v = (int8_t)(i * 17 + e);
            same += *k == (int8_t)(i * 31 + e) && *v == (int8_t)(i * 17 + e);
        }
        if (fill) *c.k_scale = (float)i, *c.v_scale = -(float)i;
        same += *c.k_scale == (float)i && *c.v_scale == -(float)i;
    }
    return same;
}

FG_TEST(rows_are_copied_between_any_numbers_of_nodes)
{
    static const uint32_t n_node[] = {1, 2, 5, 16};
    enum { ROWS = 2500, ALL = 3 * ROWS * 17 };
    const fg_shape s = small_shape();
    fg_err err = {0};
    for (int i = 0; i < 16; i++) {
        fg_place *p = nodes_of(n_node[i / 4], NULL), *q = nodes_of(n_node[i % 4], NULL);
        fg_state *a, *b;
        REQUIRE(fg_state_create(&a, &s, ROWS, FG_KV_INT8, p, &err) == FG_OK);
        REQUIRE(fg_state_create(&b, &s, ROWS + 600, FG_KV_INT8, q, &err) == FG_OK);
        CHECK_U64(each_row(a, ROWS, true), ALL);
        fg_state_copy_cache(b, a, &s, ROWS);
        CHECK_U64(each_row(b, ROWS, false), ALL);
        *fg_state_rows(a, 1, 2, 1777).v_scale = 0.5f; /* negative control */
        fg_state_copy_cache(b, a, &s, ROWS);
        CHECK_U64(each_row(b, ROWS, false), ALL - 1);
        fg_state_destroy(&a);
        fg_state_destroy(&b);
        fg_place_destroy(&p);
        fg_place_destroy(&q);
    }
}

/* At M1's dimensions: what a token attends to is spread evenly at every length, and few ranges are
 * bound. */
FG_TEST(every_context_is_balanced)
{
    static const uint64_t n_ctx[] = {32768, 131072, 1 << 20};
    for (uint32_t n = 2; n <= 16; n++) {
        fg_place *p = nodes_of(n, NULL);
        REQUIRE(p != NULL);
        for (int i = 0; i < 3; i++) {
            uint64_t most = 0;
            const uint64_t items = n_ctx[i] / FG_ATTN_SPAN * 8;
            for (uint32_t k = 0; k < n; k++) {
                const uint64_t own = fg_place_n_dealt(p, k, items);
                most = own > most ? own : most;
            }
            CHECK(most * n < items + n); /* one item more than the mean at most */
        }
        fg_place_destroy(&p);
    }
}

FG_TEST(pages_are_where_the_audit_says)
{
    const fg_shape s = small_shape();
    fg_topo *t = fg_topo_create();
    if (t == NULL) {
        fg_test_skip("no topology");
        return;
    }
    const fg_place_opts o = {.n_worker = 2, .pretend_nodes = 3};
    fg_place *p;
    fg_state *st;
    fg_err err = {0};
    REQUIRE_OK(fg_place_make(&p, t, &o, &err), &err);
    REQUIRE_OK(fg_state_create(&st, &s, 5000, FG_KV_INT8, p, &err), &err);
    memset(st->map, 1, (size_t)st->bytes);
    uint64_t pages = 0;
    for (uint32_t k = 0; k < 3; k++) {
        fg_audit a = {0};
        if (fg_state_audit(st, k, &a, &err) == FG_ENOTSUP) {
            fg_test_skip("%s", err.msg);
            break;
        }
        uint64_t there = 0;
        for (uint32_t i = 0; i < fg_topo_n_node(t); i++) there += a.on_node[i];
        CHECK_U64(a.absent, 0);
        CHECK_U64(there + a.elsewhere, a.n_page);
        if (fg_topo_n_node(t) >= 3) CHECK_U64(a.on_node[k], a.n_page);
        pages += a.n_page;
    }
    CHECK(pages == 0 || pages * FG_PAGE_BYTES >= st->bytes);
    fg_state_destroy(&st);
    fg_place_destroy(&p);
    fg_topo_destroy(t);
}
