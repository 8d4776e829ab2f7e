/* SPDX-License-Identifier: MIT
 *
 * Steps are found again as src/model makes them: what one product list of matmul.c has, and moe.c's
 * experts of a token; whose panels are whose is asked of src/expert/slices.h, as they do.
 */
#include "src/plan/balance.h"

#include <string.h>

#include "src/base/mem.h"
#include "src/expert/slices.h"
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

/* What fg_balance_make works on. */
typedef struct work {
    fg_balance *b;
    const fg_file_plan *f;
    const fg_place *p;
    fg_slices *slices;
    const fg_shape *shape;
    uint64_t *first; /* [n_layer + 1][FG_ROLE_COUNT] number of the first tensor of a role, plus 1;
                        those of no layer in row n_layer */
    load *expert;    /* [n_expert] */
} work;

uint64_t fg_balance_shared(const fg_share *s, uint32_t n_node, uint64_t n_panel, uint64_t stride)
{
    uint64_t n = 0;
    for (uint32_t k = 1; k < n_node; k++) {
        const uint64_t at = s->begin[k];
        n += at != 0 && at != n_panel && at * stride % FG_PAGE_BYTES != 0;
    }
    return n;
}

/* Adds tensor number idx of the file. */
static void add_matrix(const work *w, uint64_t idx, load *l)
{
    const fg_tensor *t = fg_file_plan_tensor(w->f, idx);
    const fg_share *share = fg_slices_share(w->slices, idx);
    if (t->role == FG_ROLE_ROUTER) { /* on every node, and shared out among the workers */
        const double all = (double)fg_n_panel(t->n_row) * panel_bytes(t);
        for (uint32_t k = 0; k < w->p->n_node; k++) {
            l->of[k] += all * (double)w->p->node[k].weight / (double)w->p->weight;
        }
        return;
    }
    for (uint32_t k = 0; k < w->p->n_node; k++) {
        const uint64_t begin = share->begin[k], n = share->begin[k + 1] - begin;
        l->of[k] += (double)n * panel_bytes(t);
    }
    w->b->n_shared += fg_balance_shared(share, w->p->n_node, fg_n_panel(t->n_row), t->panel_stride);
}

/* ---- dense matrices ---- */

/* The matrices of one list of products; a layer need not have all. */
static void add_products(const work *w, fg_balance_phase phase, uint32_t layer, const fg_role *role,
                         size_t n)
{
    load l = {0};
    for (size_t i = 0; i < n; i++) {
        const uint64_t idx = w->first[(size_t)layer * FG_ROLE_COUNT + role[i]];
        if (idx != 0) add_matrix(w, idx - 1, &l);
    }
    add_step(w->b, phase, w->p, &l);
}

static void add_dense(const work *w, uint32_t layer)
{
    static const fg_role in[] = {FG_ROLE_LIGHT_QKV, FG_ROLE_LIGHT_GATE},
                         qkv[] = {FG_ROLE_Q, FG_ROLE_K, FG_ROLE_V},
                         out[] = {FG_ROLE_LIGHT_OUT, FG_ROLE_O}, router[] = {FG_ROLE_ROUTER};
    add_products(w, FG_BALANCE_LIGHT_IN, layer, in, 2);
    add_products(w, FG_BALANCE_QKV, layer, qkv, 3);
    add_products(w, FG_BALANCE_ATTN_OUT, layer, out, 2); /* either */
    add_products(w, FG_BALANCE_ROUTER, layer, router, 1);
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

/* Of a layer's experts a token uses n_used: of two every pair is a step, each as likely; of more,
 * every expert by itself, which is no better balanced than several. */
static void add_experts(const work *w, fg_balance_phase phase, uint32_t layer, fg_role role,
                        double whole)
{
    const fg_shape *s = w->shape;
    const uint64_t from = w->first[(size_t)layer * FG_ROLE_COUNT + role] - 1;
    double bytes = 0.0, slowest = 0.0, n = 0.0;
    for (uint32_t e = 0; e < s->n_expert; e++) {
        w->expert[e] = (load){0};
        add_matrix(w, from + 3 * (uint64_t)e, &w->expert[e]);
    }
    for (uint32_t e = 0; e < s->n_expert; e++) {
        for (uint32_t o = s->n_used == 2 ? e + 1 : e; o < s->n_expert; o++) {
            load l = w->expert[e];
            double sum = 0.0;
            for (uint32_t k = 0; k < w->p->n_node; k++) {
                if (o != e) l.of[k] += w->expert[o].of[k];
                sum += l.of[k];
            }
            bytes += sum;
            slowest += sum * imbalance_of(w->p, &l);
            n += o != e ? 2.0 : 1.0;
            if (o == e) break;
        }
    }
    bytes *= s->n_used / n; /* n: experts in all steps that were counted */
    slowest *= s->n_used / n;
    w->b->phase[phase].bytes += bytes;
    w->b->phase[phase].slowest += w->p->numa == FG_NUMA_EXPERT ? bytes * whole : slowest;
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

static void add_state(const work *w, uint64_t pos, fg_kv_type kv)
{
    fg_balance *b = w->b;
    b->phase[FG_BALANCE_HEADS].bytes = fg_balance_heads_bytes(w->shape);
    b->phase[FG_BALANCE_CACHE].bytes = fg_balance_cache_bytes(w->shape, pos, kv);
    b->phase[FG_BALANCE_HEADS].slowest =
        b->phase[FG_BALANCE_HEADS].bytes * fg_balance_of_heads(w->p, w->shape);
    b->phase[FG_BALANCE_CACHE].slowest =
        b->phase[FG_BALANCE_CACHE].bytes * fg_balance_of_cache(w->p, w->shape, pos);
}

static fg_status start(work *w, fg_err *err)
{
    const fg_shape *s = w->shape;
    w->first = fg_mem_zalloc_array(((size_t)s->n_layer + 1) * FG_ROLE_COUNT, sizeof *w->first);
    w->expert = fg_mem_zalloc_array(s->n_expert, sizeof *w->expert);
    if (w->first == NULL || w->expert == NULL) return fg_fail_nomem(err, "balance of nodes");
    for (uint64_t i = 0; i < fg_file_plan_n_tensor(w->f); i++) {
        const fg_tensor *t = fg_file_plan_tensor(w->f, i);
        const size_t row = t->layer == FG_NO_LAYER ? s->n_layer : t->layer;
        uint64_t *first = &w->first[row * FG_ROLE_COUNT + t->role];
        if (*first == 0) *first = i + 1;
    }
    return fg_slices_create(&w->slices, w->f, w->p, err);
}

static void count(const work *w, uint64_t pos, fg_kv_type kv)
{
    static const fg_role head[] = {FG_ROLE_LM_HEAD};
    const fg_shape *s = w->shape;
    uint64_t of[FG_MAX_NODE];
    for (uint32_t k = 0; k < w->p->n_node; k++) {
        of[k] = fg_place_n_dealt(w->p, k, s->n_expert);
        w->b->node_bytes[k] = fg_slices_area(w->slices, k);
    }
    const double whole = fg_balance_of_experts(of, w->p, s->n_used);
    for (uint32_t l = 0; l < s->n_layer; l++) {
        add_dense(w, l);
        add_experts(w, FG_BALANCE_GATE_UP, l, FG_ROLE_EXPERT_GATE, whole);
        add_experts(w, FG_BALANCE_DOWN, l, FG_ROLE_EXPERT_DOWN, whole);
    }
    add_products(w, FG_BALANCE_HEAD, s->n_layer, head, 1);
    add_state(w, pos, kv);
}

fg_status fg_balance_make(fg_balance *b, const fg_file_plan *f, const fg_place *p, uint64_t pos,
                          fg_kv_type kv, fg_err *err)
{
    work w = {.b = b, .f = f, .p = p, .shape = fg_file_plan_shape(f)};
    *b = (fg_balance){0};
    const fg_status st = start(&w, err);
    if (st == FG_OK) count(&w, pos, kv);
    fg_slices_destroy(&w.slices);
    fg_mem_free(w.first);
    fg_mem_free(w.expert);
    return st;
}
