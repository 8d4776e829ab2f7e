/* SPDX-License-Identifier: MIT
 *
 * Steps are found again as src/model makes them: matmul.c shares the matrices of one product list
 * in turn, moe.c shares every expert as the first of its layer, lightning.c heads and softmax.c
 * spans.
 */
#include "src/plan/balance.h"

#include <string.h>

#include "src/base/mem.h"
#include "src/model/forward.h"

const char *fg_balance_name(fg_balance_phase phase)
{
    static const char *const name[FG_BALANCE_PHASES] = {
#define PHASE_NAME(id, name) [id] = name,
        FG_BALANCE_MAP(PHASE_NAME)
#undef PHASE_NAME
    };
    return (uint32_t)phase < FG_BALANCE_PHASES ? name[phase] : NULL;
}

/* ---- one step ---- */

typedef struct load {
    double of[FG_MAX_NODE]; /* bytes */
} load;

static double imbalance_of(const fg_place *p, const load *l)
{
    double sum = 0.0, most = 0.0;
    for (uint32_t k = 0; k < p->n_node; k++) {
        sum += l->of[k];
        if (l->of[k] <= 0.0) continue;
        const double time = l->of[k] / (double)p->node[k].weight;
        if (time > most) most = time;
    }
    return sum <= 0.0 ? 1.0 : most * (double)p->weight / sum;
}

static void add_step(fg_balance *b, fg_balance_phase phase, const fg_place *p, const load *l)
{
    double sum = 0.0;
    for (uint32_t k = 0; k < p->n_node; k++) sum += l->of[k];
    b->phase[phase].bytes += sum;
    b->phase[phase].slowest += sum * imbalance_of(p, l);
}

/* Bytes of a panel with its row scales; of the gate, of a pair. */
static double panel_bytes(const fg_tensor *t)
{
    const uint64_t pair = t->role == FG_ROLE_EXPERT_GATE ? 2 : 1;
    const uint64_t scales = t->scale_offset == 0 ? 0 : FG_PANEL_ROWS * sizeof(float) * pair;
    return (double)(t->panel_stride + scales);
}

/* A matrix whose node k has panels begin[k] and on; read: what a token reads of it. */
static void add_matrix(fg_balance *b, const fg_place *p, const fg_tensor *t, const fg_share *share,
                       double read, load *l)
{
    const uint64_t n_panel = fg_n_panel(t->n_row);
    for (uint32_t k = 0; k < p->n_node; k++) {
        const uint64_t n = share->begin[k + 1] - share->begin[k];
        l->of[k] += read * (double)n * panel_bytes(t);
        b->node_bytes[k] += (p->numa == FG_NUMA_MIRROR ? n_panel : n) * t->panel_stride;
        b->n_shared +=
            share->begin[k] != n_panel && share->begin[k] * t->panel_stride % FG_PAGE_BYTES != 0;
    }
}

/* ---- dense matrices ---- */

enum { MAX_PRODUCTS = 3 };

/* The products of one list (fg_multiply), NULL where a layer has no such matrix. */
static void add_products(fg_balance *b, fg_balance_phase phase, const fg_place *p,
                         const fg_tensor *const *t, size_t n)
{
    load l = {0};
    uint32_t turn = 0;
    for (size_t i = 0; i < n; i++) {
        fg_share share;
        if (t[i] == NULL) continue;
        fg_place_share_in_turn(p, fg_n_panel(t[i]->n_row), fg_panel_group(t[i]->panel_stride),
                               &turn, &share);
        add_matrix(b, p, t[i], &share, 1.0, &l);
    }
    add_step(b, phase, p, &l);
}

/* Rows of it are looked up, not read through: it takes memory alone. */
static void add_embedding(fg_balance *b, const fg_place *p, const fg_tensor *t)
{
    load none = {0};
    fg_share share;
    fg_place_share(p, fg_n_panel(t->n_row), fg_panel_group(t->panel_stride), &share);
    add_matrix(b, p, t, &share, 0.0, &none);
}

/* t: the layer's tensors by role, of the experts the first. */
static void add_dense(fg_balance *b, const fg_place *p, const fg_tensor *const *t)
{
    const fg_tensor *const in[] = {t[FG_ROLE_LIGHT_QKV], t[FG_ROLE_LIGHT_GATE]};
    const fg_tensor *const qkv[] = {t[FG_ROLE_Q], t[FG_ROLE_K], t[FG_ROLE_V]};
    _Static_assert(sizeof qkv / sizeof qkv[0] <= MAX_PRODUCTS, "as in src/model/matmul.c");
    add_products(b, FG_BALANCE_LIGHT_IN, p, in, 2);
    add_products(b, FG_BALANCE_QKV, p, qkv, 3);
    add_products(b, FG_BALANCE_ATTN_OUT, p, &t[FG_ROLE_LIGHT_OUT], 1);
    add_products(b, FG_BALANCE_ATTN_OUT, p, &t[FG_ROLE_O], 1);
    add_products(b, FG_BALANCE_ROUTER, p, &t[FG_ROLE_ROUTER], 1);
}

/* ---- experts ---- */

/* Ways to choose n_used experts of which node k has at most what is through by `time` (num/den, in
 * experts a weight), divided by all ways; binomials as doubles: no ratio of them needs more. */
static double within(const uint64_t *count, const fg_place *p, uint32_t n_used, uint64_t num,
                     uint64_t den)
{
    double ways[FG_MAX_USED + 1] = {1.0}, all[FG_MAX_USED + 1] = {1.0};
    for (uint32_t k = 0; k < p->n_node; k++) {
        double next[FG_MAX_USED + 1] = {0.0}, next_all[FG_MAX_USED + 1] = {0.0}, choose = 1.0;
        for (uint64_t j = 0; j <= count[k] && j <= n_used; j++) {
            const bool fits = j * den <= num * p->node[k].weight;
            for (uint64_t i = 0; i + j <= n_used; i++) {
                if (fits) next[i + j] += ways[i] * choose;
                next_all[i + j] += all[i] * choose;
            }
            choose *= (double)(count[k] - j) / (double)(j + 1);
        }
        memcpy(ways, next, sizeof ways);
        memcpy(all, next_all, sizeof all);
    }
    return all[n_used] > 0.0 ? ways[n_used] / all[n_used] : 1.0;
}

double fg_balance_of_experts(const uint64_t *count, const fg_place *p, uint32_t n_used)
{
    double expected = 0.0, before = 0.0;
    uint64_t num = 0, den = 1; /* the time until now; the next is the least j / w_k above it */
    for (;;) {
        uint64_t next = 0, of = 0;
        for (uint32_t k = 0; k < p->n_node; k++) {
            const uint64_t w = p->node[k].weight;
            if (w == 0 || count[k] == 0) continue;
            const uint64_t j = num * w / den + 1; /* the first load that takes longer */
            if (j > count[k] || j > n_used) continue;
            if (of == 0 || j * of < next * w) {
                next = j;
                of = w;
            }
        }
        if (of == 0) break;
        num = next;
        den = of;
        const double until = within(count, p, n_used, num, den);
        expected += (until - before) * (double)num / (double)den;
        before = until;
    }
    return expected * (double)p->weight / n_used;
}

double fg_balance_of_all(const uint64_t *count, const fg_place *p)
{
    load l = {0};
    for (uint32_t k = 0; k < p->n_node; k++) l.of[k] = (double)count[k];
    return imbalance_of(p, &l);
}

/* An expert's gate (with up) or down; `like`: the same of the layer's first. */
static void add_expert(fg_balance *b, fg_balance_phase phase, const fg_place *p, const fg_shape *s,
                       const fg_tensor *t, const fg_tensor *like, double whole)
{
    fg_share share;
    load l = {0};
    const double read = (double)s->n_used / (double)s->n_expert;
    fg_place_share_expert(p, t->expert, fg_n_panel(t->n_row), fg_panel_group(like->panel_stride),
                          &share);
    add_matrix(b, p, t, &share, read, &l);
    const double bytes = read * (double)fg_n_panel(t->n_row) * panel_bytes(t);
    b->phase[phase].bytes += bytes;
    b->phase[phase].slowest += bytes * (p->numa == FG_NUMA_EXPERT ? whole : imbalance_of(p, &l));
}

/* ---- state ---- */

double fg_balance_of_heads(const fg_place *p, const fg_shape *s)
{
    fg_share share;
    load l = {0};
    fg_place_share(p, s->n_head, 1, &share);
    for (uint32_t k = 0; k < p->n_node; k++) {
        l.of[k] = (double)(share.begin[k + 1] - share.begin[k]);
    }
    return imbalance_of(p, &l);
}

double fg_balance_of_cache(const fg_place *p, const fg_shape *s, uint64_t pos)
{
    load l = {0};
    const uint64_t n_span = pos / FG_ATTN_SPAN, rest = pos % FG_ATTN_SPAN + 1, kv = s->n_kv_head;
    uint64_t at;
    for (uint32_t k = 0; k < p->n_node; k++) {
        l.of[k] = FG_ATTN_SPAN * (double)fg_place_n_dealt(p, k, n_span * kv);
    }
    for (uint64_t i = 0; i < kv; i++) { /* the last span, of each head */
        l.of[fg_place_deal(p, n_span * kv + i, &at)] += (double)rest;
    }
    return imbalance_of(p, &l);
}

double fg_balance_heads_bytes(const fg_shape *s)
{
    const double d = s->d_head;
    double bytes = 0.0;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        bytes += s->attn[l] == FG_ATTN_LIGHTNING ? 4.0 * s->n_head * d * (d + FG_LIGHT_CHUNK) : 0.0;
    }
    return bytes;
}

double fg_balance_cache_bytes(const fg_shape *s, uint64_t pos, fg_kv_type kv)
{
    const double row = fg_kv_bytes(kv) * s->d_head + (kv == FG_KV_INT8 ? sizeof(float) : 0.0);
    double bytes = 0.0;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        bytes +=
            s->attn[l] == FG_ATTN_SOFTMAX ? 2.0 * row * s->n_kv_head * ((double)pos + 1.0) : 0.0;
    }
    return bytes;
}

/* ---- the whole ---- */

/* The first tensor of each role: [layer][role], and those of no layer in row n_layer. */
static const fg_tensor **by_role(const fg_file_plan *f)
{
    const fg_shape *s = fg_file_plan_shape(f);
    const fg_tensor **t = fg_mem_zalloc_array(((size_t)s->n_layer + 1) * FG_ROLE_COUNT, sizeof *t);
    for (uint64_t i = 0; i < fg_file_plan_n_tensor(f) && t != NULL; i++) {
        const fg_tensor *x = fg_file_plan_tensor(f, i);
        const size_t row = x->layer == FG_NO_LAYER ? s->n_layer : x->layer;
        if (t[row * FG_ROLE_COUNT + x->role] == NULL) t[row * FG_ROLE_COUNT + x->role] = x;
    }
    return t;
}

static void add_state(fg_balance *b, const fg_place *p, const fg_shape *s, uint64_t pos,
                      fg_kv_type kv)
{
    b->phase[FG_BALANCE_HEADS].bytes = fg_balance_heads_bytes(s);
    b->phase[FG_BALANCE_CACHE].bytes = fg_balance_cache_bytes(s, pos, kv);
    b->phase[FG_BALANCE_HEADS].slowest =
        b->phase[FG_BALANCE_HEADS].bytes * fg_balance_of_heads(p, s);
    b->phase[FG_BALANCE_CACHE].slowest =
        b->phase[FG_BALANCE_CACHE].bytes * fg_balance_of_cache(p, s, pos);
}

fg_status fg_balance_make(fg_balance *b, const fg_file_plan *f, const fg_place *p, uint64_t pos,
                          fg_kv_type kv, fg_err *err)
{
    const fg_shape *s = fg_file_plan_shape(f);
    const fg_tensor **first = by_role(f);
    uint64_t count[FG_MAX_NODE];
    *b = (fg_balance){0};
    if (first == NULL) return fg_fail_nomem(err, "balance of nodes");
    for (uint32_t k = 0; k < p->n_node; k++) count[k] = fg_place_n_dealt(p, k, s->n_expert);
    const double whole = fg_balance_of_experts(count, p, s->n_used);
    for (uint32_t l = 0; l < s->n_layer; l++) add_dense(b, p, first + (size_t)l * FG_ROLE_COUNT);
    add_products(b, FG_BALANCE_HEAD, p,
                 first + (size_t)s->n_layer * FG_ROLE_COUNT + FG_ROLE_LM_HEAD, 1);
    add_embedding(b, p, first[(size_t)s->n_layer * FG_ROLE_COUNT + FG_ROLE_EMBED]);
    for (uint64_t i = 0; i < fg_file_plan_n_tensor(f); i++) {
        const fg_tensor *t = fg_file_plan_tensor(f, i);
        if (t->role != FG_ROLE_EXPERT_GATE && t->role != FG_ROLE_EXPERT_DOWN) continue;
        add_expert(b, t->role == FG_ROLE_EXPERT_DOWN ? FG_BALANCE_DOWN : FG_BALANCE_GATE_UP, p, s,
                   t, first[(size_t)t->layer * FG_ROLE_COUNT + t->role], whole);
    }
    add_state(b, p, s, pos, kv);
    fg_mem_free(first);
    return FG_OK;
}
