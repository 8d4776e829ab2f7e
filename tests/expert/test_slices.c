/* SPDX-License-Identifier: MIT
 *
 * Slices of weights: every panel of every matrix belongs to one node, no page to two, and what a
 * node reads puts the bytes of the file where its panels are looked for; for nano, and for M1's
 * dimensions, of which no file exists.
 */
#include <stdlib.h>
#include <string.h>

#include "src/expert/slices.h"
#include "src/format/layout.h"
#include "src/format/reader.h"
#include "tests/fg_test.h"
#include "tests/models.h"

static fg_place *place_of(uint32_t nodes, fg_numa numa, const uint32_t *weight)
{
    const fg_place_opts o = {.n_worker = 2, .pretend_nodes = nodes, .numa = numa, .weight = weight};
    fg_place *p = NULL;
    fg_err err = {0};
    CHECK_OK(fg_place_make(&p, NULL, &o, &err), &err);
    return p;
}

/* The place in a node's part that holds the byte of the file, by its reads; UINT64_MAX: none. */
static uint64_t find(const fg_slice *piece, size_t n, uint64_t offset)
{
    for (size_t i = 0; i < n; i++) {
        if (offset >= piece[i].offset && offset - piece[i].offset < piece[i].bytes) {
            return piece[i].at + (offset - piece[i].offset);
        }
    }
    return UINT64_MAX;
}

/* Faults of a tensor on a node whose part of the extent is read by these. */
static int check_tensor(const fg_slices *s, const fg_file_plan *plan, uint64_t idx, uint32_t node,
                        const fg_slice *piece, size_t n)
{
    const fg_tensor *t = fg_file_plan_tensor(plan, idx);
    const uint64_t *own = &fg_slices_share(s, idx)->begin[node];
    const uint64_t stride = t->panel_stride == 0 ? sizeof(float) : t->panel_stride;
    const uint64_t first = fg_slices_whole(s) ? 0 : own[0];
    const uint64_t last = fg_slices_whole(s) ? fg_slices_share(s, idx)->begin[fg_slices_n_node(s)]
                          : own[1] > own[0]  ? own[1]
                                             : 0;
    if (last == 0) return 0;
    int bad = 0;
    const uint64_t at = fg_slices_panels(s, idx, node);
    bad += find(piece, n, t->offset + first * stride) != at;
    const uint64_t panel =
        t->panel_stride == 0 ? sizeof(float) : fg_panel_bytes((fg_qtype)t->type, t->n_col);
    const uint64_t end = (last - 1) * stride + panel - 4; /* its last four bytes */
    bad += find(piece, n, t->offset + end) != at + end - first * stride;
    if (t->scale_offset == 0) return bad;
    bad += find(piece, n, t->scale_offset + first * 64) != fg_slices_scales(s, idx, node);
    return bad + (find(piece, n, t->scale_offset + last * 64 - 4) !=
                  fg_slices_scales(s, idx, node) + (last - first) * 64 - 4);
}

/* Reads are whole pages, one behind the other, and fill the part. */
static int check_pieces(const fg_slices *s, uint32_t layer, uint32_t expert, uint32_t node,
                        const fg_slice *piece, size_t n)
{
    uint64_t at = 0;
    int bad = 0;
    for (size_t i = 0; i < n; i++) {
        bad += piece[i].at != at || piece[i].node != node || piece[i].bytes == 0 ||
               piece[i].offset % 4096 != 0 || piece[i].bytes % 4096 != 0;
        at += piece[i].bytes;
    }
    return bad + (at != fg_slices_bytes(s, layer, expert, node));
}

/* A page with panels of a matrix has those of one node. */
static int check_shares(const fg_slices *s, const fg_file_plan *plan, uint64_t idx)
{
    const fg_tensor *t = fg_file_plan_tensor(plan, idx);
    const fg_share *share = fg_slices_share(s, idx);
    const uint32_t n = fg_slices_n_node(s);
    const uint64_t all = t->panel_stride == 0 ? t->n_col : fg_n_panel(t->n_row);
    int bad = share->begin[0] != 0 || share->begin[n] != all;
    for (uint32_t k = 0; k < n; k++) {
        bad += share->begin[k] > share->begin[k + 1];
        if (share->begin[k] == 0 || share->begin[k] == all) continue;
        bad += t->panel_stride == 0 || share->begin[k] * t->panel_stride % 4096 != 0;
    }
    return bad;
}

/* Whether reach is enough for the last panel of a node's share, and no more than the part. */
static int check_reach(const fg_slices *s, const fg_file_plan *plan, uint64_t idx, uint32_t node,
                       const fg_slice *piece, size_t n)
{
    const fg_tensor *t = fg_file_plan_tensor(plan, idx);
    const uint64_t *own = &fg_slices_share(s, idx)->begin[node];
    if (own[0] == own[1]) return 0;
    const fg_reach r = fg_slices_reach(s, idx, node, own[1]);
    const uint64_t panel = fg_panel_bytes((fg_qtype)t->type, t->n_col);
    const uint64_t from = fg_slices_whole(s) ? 0 : own[0];
    const uint64_t end =
        fg_slices_panels(s, idx, node) + (own[1] - 1 - from) * t->panel_stride + panel;
    return r.piece >= n || r.bytes > piece[r.piece].bytes || piece[r.piece].at + r.bytes != end;
}

static int check_experts(const fg_slices *s, const fg_file_plan *plan, uint32_t layer,
                         uint32_t node)
{
    const fg_shape *shape = fg_file_plan_shape(plan);
    fg_slice piece[FG_EXPERT_PIECES];
    int bad = 0;
    for (uint32_t e = 0; e < shape->n_expert; e++) {
        const size_t n = fg_slices_pieces(s, layer, e, node, piece);
        const uint64_t first = 1 + layer * (FG_LAYER_TENSORS + 3 * (uint64_t)shape->n_expert) +
                               FG_LAYER_TENSORS + 3 * (uint64_t)e;
        bad += n > FG_EXPERT_PIECES || check_pieces(s, layer, e, node, piece, n) != 0;
        bad += fg_slices_bytes(s, layer, e, node) > fg_slices_slot(s, node);
        for (uint64_t i = first; i < first + 3; i++) {
            bad += check_tensor(s, plan, i, node, piece, n) + check_shares(s, plan, i) +
                   check_reach(s, plan, i, node, piece, n);
        }
    }
    return bad;
}

static int check_dense(const fg_slices *s, const fg_file_plan *plan, uint32_t node)
{
    const size_t n = fg_slices_pieces(s, FG_NO_LAYER, FG_NO_LAYER, node, NULL);
    fg_slice *piece = calloc(n, sizeof *piece);
    if (piece == NULL || fg_slices_pieces(s, FG_NO_LAYER, FG_NO_LAYER, node, piece) != n) {
        free(piece);
        return 1;
    }
    int bad = check_pieces(s, FG_NO_LAYER, FG_NO_LAYER, node, piece, n);
    for (uint64_t i = 0; i < fg_file_plan_n_tensor(plan); i++) {
        if (fg_file_plan_tensor(plan, i)->expert != FG_NO_LAYER) continue;
        bad += check_tensor(s, plan, i, node, piece, n) + check_shares(s, plan, i);
    }
    free(piece);
    return bad;
}

/* What is left without products is where it was, and nothing else. */
static int check_kept(const fg_slices *s, const fg_file_plan *plan, uint32_t node)
{
    const size_t n = fg_slices_pieces_kept(s, node, NULL);
    fg_slice *piece = calloc(n + 1, sizeof *piece);
    if (piece == NULL || fg_slices_pieces_kept(s, node, piece) != n) {
        free(piece);
        return 1;
    }
    uint64_t bytes = 0, products = 0;
    int bad = 0;
    for (size_t i = 0; i < n; i++) bytes += piece[i].bytes;
    for (uint64_t i = 0; i < fg_file_plan_n_tensor(plan); i++) {
        const fg_tensor *t = fg_file_plan_tensor(plan, i);
        if (t->expert != FG_NO_LAYER) continue;
        if (!fg_slices_is_product((fg_role)t->role)) {
            bad += check_tensor(s, plan, i, node, piece, n);
            continue;
        }
        const uint64_t *own = &fg_slices_share(s, i)->begin[node];
        bad += find(piece, n, t->offset) != UINT64_MAX;
        products += (fg_slices_whole(s) ? fg_n_panel(t->n_row) : own[1] - own[0]) * t->panel_stride;
    }
    bad += products > fg_slices_products(s, node);
    bad +=
        bytes + fg_slices_products(s, node) != fg_slices_bytes(s, FG_NO_LAYER, FG_NO_LAYER, node);
    free(piece);
    return bad;
}

static int check_all(const fg_file_plan *plan, uint32_t nodes, fg_numa numa, const uint32_t *weight)
{
    fg_place *place = place_of(nodes, numa, weight);
    fg_slices *s = NULL;
    fg_err err = {0};
    int bad = 0;
    if (place == NULL) return 1;
    CHECK_OK(fg_slices_create(&s, plan, place, &err), &err);
    for (uint32_t k = 0; s != NULL && k < fg_slices_n_node(s); k++) {
        bad += check_dense(s, plan, k) + check_kept(s, plan, k);
        for (uint32_t l = 0; l < fg_file_plan_shape(plan)->n_layer; l++) {
            bad += check_experts(s, plan, l, k);
        }
    }
    bad += s == NULL;
    fg_slices_destroy(&s);
    fg_place_destroy(&place);
    return bad;
}

static const fg_file_plan *nano(const char *type, fg_model_file **f)
{
    const char *path = model_file(NANO_DIR, type);
    fg_err err = {0};
    *f = NULL;
    if (path != NULL) CHECK_OK(fg_model_file_open(f, path, &err), &err);
    return *f == NULL ? NULL : fg_model_file_plan(*f);
}

FG_TEST(nano_on_any_number_of_nodes)
{
    static const char *const type[] = {"bf16", "q4"};
    static const uint32_t weight[] = {5, 0, 1, 3, 3};
    for (size_t i = 0; i < 2; i++) {
        fg_model_file *f;
        const fg_file_plan *plan = nano(type[i], &f);
        REQUIRE(plan != NULL);
        for (uint32_t nodes = 1; nodes <= 16; nodes++) {
            CHECK(check_all(plan, nodes, FG_NUMA_SLICE, NULL) == 0);
        }
        for (uint32_t numa = 0; numa < FG_NUMA_COUNT; numa++) {
            CHECK(check_all(plan, 5, numa, weight) == 0);
        }
        fg_model_file_close(&f);
    }
}

/* Experts of one token on n nodes: the most that a node reads, over the even share. */
FG_TEST(leftovers_go_round)
{
    fg_model_file *f;
    const fg_file_plan *plan = nano("bf16", &f);
    REQUIRE(plan != NULL);
    fg_place *place = place_of(5, FG_NUMA_SLICE, NULL);
    fg_slices *s = NULL;
    fg_err err = {0};
    REQUIRE(place != NULL && fg_slices_create(&s, plan, place, &err) == FG_OK);
    const fg_shape *shape = fg_file_plan_shape(plan);
    const uint64_t first = 1 + FG_LAYER_TENSORS;
    uint64_t most = 0, least = UINT64_MAX;
    for (uint32_t k = 0; k < 5; k++) {
        uint64_t sum = 0;
        for (uint64_t e = 0; e < shape->n_expert; e++) {
            const uint64_t *own = &fg_slices_share(s, first + 3 * e + 2)->begin[k];
            sum += own[1] - own[0];
        }
        most = sum > most ? sum : most;
        least = sum < least ? sum : least;
    }
    CHECK(most - least <= 1); /* of all experts together; each alone differs by one as well */
    fg_slices_destroy(&s);
    fg_place_destroy(&place);
    fg_model_file_close(&f);
}

/* With expert, an expert is on one node, and all nodes have as many; control: slice cuts it. */
FG_TEST(whole_experts)
{
    fg_model_file *f;
    const fg_file_plan *plan = nano("bf16", &f);
    REQUIRE(plan != NULL);
    for (int cut = 0; cut < 2; cut++) {
        fg_place *place = place_of(4, cut ? FG_NUMA_SLICE : FG_NUMA_EXPERT, NULL);
        fg_slices *s = NULL;
        fg_err err = {0};
        REQUIRE(place != NULL && fg_slices_create(&s, plan, place, &err) == FG_OK);
        const uint32_t n = fg_file_plan_shape(plan)->n_expert;
        uint32_t n_whole[4] = {0}, n_cut = 0;
        for (uint32_t e = 0; e < n; e++) {
            uint32_t owners = 0, last = 0;
            for (uint32_t k = 0; k < 4; k++) {
                if (fg_slices_bytes(s, 1, e, k) == 0) continue;
                owners++;
                last = k;
            }
            n_cut += owners > 1;
            n_whole[last] += owners == 1;
        }
        CHECK_U64(n_cut, cut ? n : 0);
        for (uint32_t k = 0; k < 4; k++) CHECK_U64(n_whole[k], cut ? 0 : n / 4);
        fg_slices_destroy(&s);
        fg_place_destroy(&place);
    }
    fg_model_file_close(&f);
}

/* Negative control: reads that go elsewhere are seen. */
FG_TEST(a_wrong_piece_is_seen)
{
    fg_model_file *f;
    const fg_file_plan *plan = nano("bf16", &f);
    REQUIRE(plan != NULL);
    fg_place *place = place_of(3, FG_NUMA_SLICE, NULL);
    fg_slices *s = NULL;
    fg_err err = {0};
    REQUIRE(place != NULL && fg_slices_create(&s, plan, place, &err) == FG_OK);
    fg_slice piece[FG_EXPERT_PIECES];
    const size_t n = fg_slices_pieces(s, 0, 0, 1, piece);
    const uint64_t gate = 1 + FG_LAYER_TENSORS;
    CHECK(n >= 2 && check_pieces(s, 0, 0, 1, piece, n) == 0);
    CHECK(check_tensor(s, plan, gate, 1, piece, n) == 0);
    CHECK(check_tensor(s, plan, gate, 2, piece, n) != 0); /* the next node's reads */
    piece[0].offset += 4096;
    CHECK(check_tensor(s, plan, gate, 1, piece, n) != 0);
    piece[0].bytes += 4096;
    CHECK(check_pieces(s, 0, 0, 1, piece, n) != 0);
    fg_slices_destroy(&s);
    fg_place_destroy(&place);
    fg_model_file_close(&f);
}
