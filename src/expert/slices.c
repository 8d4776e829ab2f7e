/* SPDX-License-Identifier: MIT
 *
 * One function cuts a dense tensor and one an expert; creation keeps the positions they find,
 * fg_slices_pieces the reads.
 */
#include "src/expert/slices.h"

#include <assert.h>

#include "src/base/mem.h"
#include "src/format/layout.h"

/* Of a tensor in a node's part of its extent. */
typedef struct spot {
    uint64_t panels, scales;
} spot;

struct fg_slices {
    const fg_file_plan *plan;
    const fg_place *place;
    const fg_shape *shape;
    bool whole; /* each node has all of every extent */
    uint64_t n_tensor;
    fg_share *shares; /* [n_share], different ones */
    uint32_t n_share;
    uint32_t *share_of;     /* [n_tensor] */
    spot *spot;             /* [n_tensor][n_node] */
    uint64_t *expert_begin; /* [n_layer * n_expert + 1][n_node] in the area */
    uint64_t slot[FG_MAX_NODE];
};

/* ---- order of tensors (FORMAT.md 5.1) ---- */

static uint64_t layer_tensors(const fg_shape *s)
{
    return FG_LAYER_TENSORS + 3 * (uint64_t)s->n_expert;
}

static uint64_t first_dense(const fg_shape *s, uint32_t layer)
{
    return 1 + layer * layer_tensors(s);
}

static uint64_t first_of_expert(const fg_shape *s, uint32_t layer, uint32_t expert)
{
    return first_dense(s, layer) + FG_LAYER_TENSORS + 3 * (uint64_t)expert;
}

static const fg_tensor *tensor(const fg_slices *s, uint64_t idx)
{
    return fg_file_plan_tensor(s->plan, idx);
}

static uint64_t n_item(const fg_tensor *t)
{
    return t->panel_stride == 0 ? t->n_col : fg_n_panel(t->n_row);
}

/* ---- shares ---- */

static void set_share(fg_slices *s, uint64_t idx, const fg_share *share)
{
    const uint32_t n_node = s->place->n_node;
    uint32_t i = 0;
    for (; i < s->n_share; i++) {
        bool same = true;
        for (uint32_t k = 0; k <= n_node; k++) same &= s->shares[i].begin[k] == share->begin[k];
        if (same) break;
    }
    if (i == s->n_share) s->shares[s->n_share++] = *share;
    s->share_of[idx] = i;
}

static void share_whole(fg_slices *s, uint64_t idx, uint32_t node)
{
    fg_share share = {{0}};
    const uint64_t n = n_item(tensor(s, idx));
    for (uint32_t k = node + 1; k <= s->place->n_node; k++) share.begin[k] = n;
    set_share(s, idx, &share);
}

static void share_cut(fg_slices *s, uint64_t idx, uint32_t *turn)
{
    fg_share share;
    const fg_tensor *t = tensor(s, idx);
    fg_place_share_in_turn(s->place, fg_n_panel(t->n_row), fg_panel_group(t->panel_stride), turn,
                           &share);
    set_share(s, idx, &share);
}

bool fg_slices_is_product(fg_role role)
{
    switch (role) {
    case FG_ROLE_LIGHT_QKV:
    case FG_ROLE_LIGHT_GATE:
    case FG_ROLE_LIGHT_OUT:
    case FG_ROLE_Q:
    case FG_ROLE_K:
    case FG_ROLE_V:
    case FG_ROLE_O:
    case FG_ROLE_LM_HEAD: return true;
    case FG_ROLE_EMBED:
    case FG_ROLE_FINAL_NORM:
    case FG_ROLE_ATTN_NORM:
    case FG_ROLE_MLP_NORM:
    case FG_ROLE_LIGHT_NORM:
    case FG_ROLE_ROUTER:
    case FG_ROLE_EXPERT_GATE:
    case FG_ROLE_EXPERT_UP:
    case FG_ROLE_EXPERT_DOWN:
    case FG_ROLE_COUNT: return false;
    }
    return false;
}

/* The products of one step are one list (src/model/lightning.c, softmax.c). */
static void share_dense(fg_slices *s, uint64_t idx, uint32_t *turn)
{
    switch ((fg_role)tensor(s, idx)->role) {
    case FG_ROLE_EMBED:
    case FG_ROLE_FINAL_NORM: share_whole(s, idx, 0); break;
    case FG_ROLE_ATTN_NORM:
    case FG_ROLE_MLP_NORM:
    case FG_ROLE_LIGHT_NORM:
    case FG_ROLE_ROUTER: {
        uint64_t at;
        share_whole(s, idx, fg_place_deal(s->place, tensor(s, idx)->layer, &at));
        break;
    }
    case FG_ROLE_LIGHT_QKV:
    case FG_ROLE_Q:
    case FG_ROLE_LIGHT_OUT:
    case FG_ROLE_O:
    case FG_ROLE_LM_HEAD:
        *turn = tensor(s, idx)->layer == FG_NO_LAYER ? 0 : tensor(s, idx)->layer;
        *turn %= s->place->n_node;
        share_cut(s, idx, turn);
        break;
    case FG_ROLE_LIGHT_GATE:
    case FG_ROLE_K:
    case FG_ROLE_V: share_cut(s, idx, turn); break;
    case FG_ROLE_EXPERT_GATE:
    case FG_ROLE_EXPERT_UP:
    case FG_ROLE_EXPERT_DOWN:
    case FG_ROLE_COUNT: assert(false);
    }
}

static void share_experts(fg_slices *s, uint32_t layer)
{
    const uint32_t n_node = s->place->n_node;
    uint32_t pair = layer % n_node, down = layer % n_node;
    uint64_t at;
    for (uint32_t e = 0; e < s->shape->n_expert; e++) {
        const uint64_t idx = first_of_expert(s->shape, layer, e);
        if (s->place->numa == FG_NUMA_EXPERT) {
            for (uint64_t i = idx; i < idx + 3; i++) {
                share_whole(s, i, fg_place_deal(s->place, layer + e, &at));
            }
            continue;
        }
        share_cut(s, idx, &pair);
        s->share_of[idx + 1] = s->share_of[idx];
        share_cut(s, idx + 2, &down);
    }
}

static void share_all(fg_slices *s)
{
    uint32_t turn = 0;
    share_dense(s, 0, &turn);
    for (uint32_t l = 0; l < s->shape->n_layer; l++) {
        const uint64_t first = first_dense(s->shape, l);
        for (uint64_t i = 0; i < FG_LAYER_TENSORS; i++) share_dense(s, first + i, &turn);
        share_experts(s, l);
    }
    share_dense(s, s->n_tensor - 2, &turn);
    share_dense(s, s->n_tensor - 1, &turn);
}

const fg_share *fg_slices_share(const fg_slices *s, uint64_t idx)
{
    return &s->shares[s->share_of[idx]];
}

bool fg_slices_everywhere(const fg_slices *s, uint64_t idx)
{
    return s->whole || tensor(s, idx)->role == FG_ROLE_ROUTER;
}

/* Items that a node has: its share, or all. */
typedef struct items {
    uint64_t begin, end;
} items;

static items items_of(const fg_slices *s, uint64_t idx, uint32_t node)
{
    const fg_share *share = fg_slices_share(s, idx);
    if (fg_slices_everywhere(s, idx)) return (items){0, share->begin[s->place->n_node]};
    return (items){share->begin[node], share->begin[node + 1]};
}

/* ---- cutting ---- */

/* A node's part while it is laid out. */
typedef struct cut {
    uint32_t node;
    uint64_t at;   /* bytes so far */
    fg_slice *out; /* NULL: not wanted */
    size_t n;      /* pieces so far, and their bytes */
    uint64_t bytes;
    bool kept; /* products have their place, but are no pieces */
} cut;

static void put_piece(cut *c, uint64_t offset, uint64_t bytes, uint64_t at)
{
    if (c->out != NULL) c->out[c->n] = (fg_slice){offset, bytes, at, c->node};
    c->n++;
    c->bytes += bytes;
}

static uint64_t add_piece(cut *c, uint64_t offset, uint64_t bytes)
{
    const uint64_t at = c->at;
    bytes = fg_round_up(bytes, FG_PAGE_BYTES);
    put_piece(c, offset, bytes, at);
    c->at += bytes;
    return at;
}

/* Its panels (of gate and up together: those of both); false: it has none. */
static bool add_panels(const fg_slices *s, cut *c, uint64_t idx, uint64_t *at)
{
    const fg_tensor *t = tensor(s, idx);
    const items own = items_of(s, idx, c->node);
    const uint64_t stride = t->panel_stride == 0 ? sizeof(float) : t->panel_stride;
    if (own.begin == own.end) return false;
    *at = add_piece(c, t->offset + own.begin * stride, (own.end - own.begin) * stride);
    return true;
}

static void cut_dense(const fg_slices *s, cut *c, uint64_t idx, spot *spots)
{
    const fg_tensor *t = tensor(s, idx);
    const items own = items_of(s, idx, c->node);
    spot unwanted, *out = spots == NULL ? &unwanted : &spots[idx];
    if (own.begin == own.end) return;
    if (t->scale_offset != 0) {
        out->scales = add_piece(c, t->scale_offset, t->offset - t->scale_offset) +
                      own.begin * FG_PANEL_ROWS * sizeof(float);
    }
    (void)add_panels(s, c, idx, &out->panels);
}

static void cut_kept(const fg_slices *s, cut *c, uint64_t idx)
{
    cut product = {.node = c->node, .at = c->at};
    if (!fg_slices_is_product((fg_role)tensor(s, idx)->role)) {
        cut_dense(s, c, idx, NULL);
        return;
    }
    cut_dense(s, &product, idx, NULL);
    c->at = product.at;
}

/* Gate, up and down. */
static void cut_expert(const fg_slices *s, cut *c, uint64_t idx, spot *spots)
{
    spot unwanted[3], *out = spots == NULL ? unwanted : &spots[idx];
    const fg_tensor *const t[3] = {tensor(s, idx), tensor(s, idx + 1), tensor(s, idx + 2)};
    const uint64_t begin = fg_file_plan_place(s->plan, idx);
    const uint64_t *own[3];
    bool some = false;
    for (int i = 0; i < 3; i++) {
        own[i] = &fg_slices_share(s, idx + (uint64_t)i)->begin[c->node];
        some |= own[i][0] != own[i][1];
    }
    if (!some) return;
    uint64_t scales = 0;
    if (t[0]->offset > begin) scales = add_piece(c, begin, t[0]->offset - begin);
    for (int i = 0; i < 3; i++) {
        out[i].scales =
            scales + t[i]->scale_offset - begin + own[i][0] * FG_PANEL_ROWS * sizeof(float);
    }
    if (add_panels(s, c, idx, &out[0].panels)) {
        out[1].panels = out[0].panels + (t[1]->offset - t[0]->offset);
    }
    (void)add_panels(s, c, idx + 2, &out[2].panels);
}

/* Tensors first .. last, one extent of the file. */
static void cut_whole(const fg_slices *s, cut *c, uint64_t first, uint64_t last, spot *spots)
{
    const fg_tensor *a = tensor(s, first);
    uint64_t from = a->scale_offset != 0 ? a->scale_offset : a->offset;
    /* the row scales of all three stand first, also where the gate has none */
    if (a->expert != FG_NO_LAYER) from = fg_file_plan_place(s->plan, first);
    const uint64_t at = add_piece(c, from, fg_tensor_end(tensor(s, last)) - from);
    for (uint64_t i = first; spots != NULL && i <= last; i++) {
        const fg_tensor *t = tensor(s, i);
        spots[i] = (spot){at + (t->offset - from), at + (t->scale_offset - from)};
    }
}

/* The same without products: each of the others is a piece. */
static void cut_whole_kept(const fg_slices *s, cut *c, uint64_t first, uint64_t last)
{
    const fg_tensor *a = tensor(s, first);
    const uint64_t from = a->scale_offset != 0 ? a->scale_offset : a->offset, at = c->at;
    for (uint64_t i = first; i <= last; i++) {
        const fg_tensor *t = tensor(s, i);
        const uint64_t begin = t->scale_offset != 0 ? t->scale_offset : t->offset;
        if (fg_slices_is_product((fg_role)t->role)) continue;
        const uint64_t bytes = fg_round_up(fg_tensor_end(t) - begin, FG_PAGE_BYTES);
        put_piece(c, begin, bytes, at + (begin - from));
    }
    c->at = at + fg_round_up(fg_tensor_end(tensor(s, last)) - from, FG_PAGE_BYTES);
}

static void cut_run(const fg_slices *s, cut *c, uint64_t first, uint64_t last, spot *spots)
{
    if (s->whole && c->kept) {
        cut_whole_kept(s, c, first, last);
    } else if (s->whole) {
        cut_whole(s, c, first, last, spots);
    } else {
        for (uint64_t i = first; i <= last; i++) {
            if (c->kept) {
                cut_kept(s, c, i);
            } else {
                cut_dense(s, c, i, spots);
            }
        }
    }
}

/* spots[n_tensor], of which those of the extent are set; NULL: not wanted. */
static void cut_all_dense(const fg_slices *s, cut *c, spot *spots)
{
    cut_run(s, c, 0, 0, spots);
    for (uint32_t l = 0; l < s->shape->n_layer; l++) {
        const uint64_t first = first_dense(s->shape, l);
        cut_run(s, c, first, first + FG_LAYER_TENSORS - 1, spots);
    }
    cut_run(s, c, s->n_tensor - 2, s->n_tensor - 1, spots);
}

static void cut_one_expert(const fg_slices *s, cut *c, uint32_t layer, uint32_t expert, spot *spots)
{
    const uint64_t idx = first_of_expert(s->shape, layer, expert);
    if (s->whole) {
        cut_whole(s, c, idx, idx + 2, spots);
    } else {
        cut_expert(s, c, idx, spots);
    }
}

/* ---- creation ---- */

static fg_status lay_out(fg_slices *s, fg_err *err)
{
    const fg_shape *shape = s->shape;
    const uint32_t n_node = s->place->n_node;
    spot *spots = fg_mem_zalloc_array((size_t)s->n_tensor, sizeof *spots);
    if (spots == NULL) return fg_fail_nomem(err, "slices of weights");
    for (uint32_t k = 0; k < n_node; k++) {
        cut c = {.node = k};
        uint64_t i = 0;
        cut_all_dense(s, &c, spots);
        uint64_t at = c.at;
        for (uint32_t l = 0; l < shape->n_layer; l++) {
            for (uint32_t e = 0; e < shape->n_expert; e++, i++) {
                s->expert_begin[i * n_node + k] = at;
                c = (cut){.node = k};
                cut_one_expert(s, &c, l, e, spots);
                at += c.at;
                if (c.at > s->slot[k]) s->slot[k] = c.at;
            }
        }
        s->expert_begin[i * n_node + k] = at;
        for (uint64_t t = 0; t < s->n_tensor; t++) s->spot[t * n_node + k] = spots[t];
    }
    fg_mem_free(spots);
    return FG_OK;
}

fg_status fg_slices_create(fg_slices **out, const fg_file_plan *plan, const fg_place *place,
                           fg_err *err)
{
    *out = NULL;
    fg_slices *s = fg_mem_zalloc(sizeof *s);
    if (s == NULL) return fg_fail_nomem(err, "slices of weights");
    const fg_shape *shape = fg_file_plan_shape(plan);
    const uint64_t n = fg_file_plan_n_tensor(plan), n_node = place->n_node;
    const uint64_t n_expert = (uint64_t)shape->n_layer * shape->n_expert;
    s->plan = plan;
    s->place = place;
    s->shape = shape;
    s->whole = n_node == 1 || place->numa == FG_NUMA_MIRROR;
    s->n_tensor = n;
    s->shares = fg_mem_zalloc_array((size_t)n, sizeof *s->shares);
    s->share_of = fg_mem_zalloc_array((size_t)n, sizeof *s->share_of);
    s->spot = fg_mem_zalloc_array((size_t)(n * n_node), sizeof *s->spot);
    s->expert_begin = fg_mem_zalloc_array((size_t)((n_expert + 1) * n_node), sizeof(uint64_t));
    fg_status st = FG_OK;
    if (s->shares == NULL || s->share_of == NULL || s->spot == NULL || s->expert_begin == NULL) {
        st = fg_fail_nomem(err, "slices of weights");
    }
    if (st == FG_OK) share_all(s);
    if (st == FG_OK) st = lay_out(s, err);
    if (st != FG_OK) {
        fg_slices_destroy(&s);
        return st;
    }
    *out = s;
    return FG_OK;
}

void fg_slices_destroy(fg_slices **s)
{
    if (*s == NULL) return;
    fg_mem_free((*s)->shares);
    fg_mem_free((*s)->share_of);
    fg_mem_free((*s)->spot);
    fg_mem_free((*s)->expert_begin);
    fg_mem_free(*s);
    *s = NULL;
}

/* ---- answers ---- */

uint32_t fg_slices_n_node(const fg_slices *s)
{
    return s->place->n_node;
}

bool fg_slices_whole(const fg_slices *s)
{
    return s->whole;
}

const fg_place *fg_slices_place(const fg_slices *s)
{
    return s->place;
}

static uint64_t expert_begin(const fg_slices *s, uint64_t i, uint32_t node)
{
    return s->expert_begin[i * s->place->n_node + node];
}

uint64_t fg_slices_begin(const fg_slices *s, uint32_t layer, uint32_t expert, uint32_t node)
{
    if (layer == FG_NO_LAYER) return 0;
    return expert_begin(s, (uint64_t)layer * s->shape->n_expert + expert, node);
}

uint64_t fg_slices_bytes(const fg_slices *s, uint32_t layer, uint32_t expert, uint32_t node)
{
    if (layer == FG_NO_LAYER) return expert_begin(s, 0, node);
    const uint64_t i = (uint64_t)layer * s->shape->n_expert + expert;
    return expert_begin(s, i + 1, node) - expert_begin(s, i, node);
}

uint64_t fg_slices_area(const fg_slices *s, uint32_t node)
{
    return expert_begin(s, (uint64_t)s->shape->n_layer * s->shape->n_expert, node);
}

uint64_t fg_slices_slot(const fg_slices *s, uint32_t node)
{
    return s->slot[node];
}

uint64_t fg_slices_panels(const fg_slices *s, uint64_t idx, uint32_t node)
{
    return s->spot[idx * s->place->n_node + node].panels;
}

uint64_t fg_slices_scales(const fg_slices *s, uint64_t idx, uint32_t node)
{
    return s->spot[idx * s->place->n_node + node].scales;
}

size_t fg_slices_pieces(const fg_slices *s, uint32_t layer, uint32_t expert, uint32_t node,
                        fg_slice *out)
{
    cut c = {.node = node, .out = out};
    if (layer == FG_NO_LAYER) {
        cut_all_dense(s, &c, NULL);
    } else {
        cut_one_expert(s, &c, layer, expert, NULL);
    }
    return c.n;
}

size_t fg_slices_pieces_kept(const fg_slices *s, uint32_t node, fg_slice *out)
{
    cut c = {.node = node, .out = out, .kept = true};
    cut_all_dense(s, &c, NULL);
    return c.n;
}

uint64_t fg_slices_products(const fg_slices *s, uint32_t node)
{
    cut c = {.node = node, .kept = true};
    cut_all_dense(s, &c, NULL);
    return c.at - c.bytes;
}

fg_reach fg_slices_reach(const fg_slices *s, uint64_t idx, uint32_t node, uint64_t last)
{
    const fg_tensor *t = tensor(s, idx);
    const uint64_t kind = (idx - 1) % layer_tensors(s->shape) - FG_LAYER_TENSORS;
    const uint64_t first = idx - kind % 3, begin = fg_file_plan_place(s->plan, first);
    const uint64_t end = (last - 1) * t->panel_stride + fg_panel_bytes((fg_qtype)t->type, t->n_col);
    if (s->whole) return (fg_reach){.bytes = t->offset + end - begin};
    const uint64_t own = fg_slices_share(s, idx)->begin[node];
    const uint64_t *pairs = &fg_slices_share(s, first)->begin[node];
    const bool down = kind % 3 == 2, apart = tensor(s, first)->offset > begin;
    const uint64_t at = down ? t->offset : tensor(s, first)->offset;
    return (fg_reach){.piece = (uint32_t)apart + (uint32_t)(down && pairs[0] != pairs[1]),
                      .bytes = t->offset + end - own * t->panel_stride - at};
}
