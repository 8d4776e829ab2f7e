/* SPDX-License-Identifier: MIT
 *
 * A row on its way: `sum` of the layers known so far, and x folded in from it.
 */
#include "src/factor/routing_row.h"

#include <assert.h>
#include <string.h>

#include "src/base/mem.h"

/* A token that was learned. */
typedef struct learned {
    uint64_t who, pos;
    uint32_t id;
    bool counted;
} learned;

struct fg_routing_row {
    fg_routing_model *m;
    size_t n_sel; /* of a token: n_layer * n_used */
    /* the running pass */
    uint64_t who, pos;
    uint32_t n;        /* tokens, 0: none */
    uint32_t n_known;  /* layers */
    uint32_t n_folded; /* of them that are in sum and x */
    uint32_t *id;      /* [n] */
    uint16_t *sel;     /* [n][n_layer][n_used] */
    size_t id_cap, sel_cap;
    const uint16_t *prev; /* of the token before, in past_sel; NULL: not known */
    /* the running token */
    float m0[FG_FACTOR_MAX_RANK], sum[FG_FACTOR_MAX_RANK], x[FG_FACTOR_MAX_RANK];
    /* what was learned, in order */
    size_t n_past, past_cap, past_sel_cap, past_x_cap;
    learned *past;      /* [n_past] */
    uint16_t *past_sel; /* [n_past][n_layer][n_used] */
    float *past_x;      /* [n_past][rank] */
};

fg_status fg_routing_row_create(fg_routing_row **out, const fg_routing_model *m, fg_err *err)
{
    *out = NULL;
    fg_routing_row *r = fg_mem_zalloc(sizeof *r);
    if (r == NULL) return fg_fail_nomem(err, "routing row");
    r->n_sel = (size_t)m->of.n_layer * m->of.n_used;
    const fg_status st = fg_routing_clone(&r->m, m, err);
    if (st != FG_OK) {
        fg_routing_row_destroy(&r);
        return st;
    }
    *out = r;
    return FG_OK;
}

void fg_routing_row_destroy(fg_routing_row **row)
{
    fg_routing_row *r = *row;
    if (r == NULL) return;
    fg_routing_destroy(&r->m);
    fg_mem_free(r->id);
    fg_mem_free(r->sel);
    fg_mem_free(r->past);
    fg_mem_free(r->past_sel);
    fg_mem_free(r->past_x);
    fg_mem_free(r);
    *row = NULL;
}

const fg_routing_model *fg_routing_row_model(const fg_routing_row *r)
{
    return r->m;
}

/* ---- scores ---- */

/* The score of an expert without the latent part. */
typedef struct base {
    const fg_routing_model *m;
    const uint16_t *prev, *count; /* of the layer; NULL: none */
    const uint64_t *use;
    float each, seen, w_id, w_prev; /* 1 / n_tok */
    uint32_t n_used;
} base;

static base base_of(const fg_routing_row *r, uint32_t layer, unsigned with)
{
    const fg_routing_model *m = r->m;
    const fg_routing_shape *s = &m->of;
    const size_t first = (size_t)layer * s->n_expert;
    const uint32_t row = m->row_of[r->id[0]];
    base b = {.m = m, .use = m->use + first, .n_used = s->n_used};
    b.each = m->n_tok == 0 ? 0.0f : 1.0f / (float)m->n_tok;
    if (row != FG_ROUTING_NO_ROW && m->seen[row] > 0) {
        b.count = m->count + row * fg_routing_n_col(s) + first;
        b.seen = (float)m->seen[row];
        b.w_id = m->w_id[layer];
    }
    if (r->prev != NULL && (with & FG_ROUTING_PREVIOUS) != 0) {
        b.prev = r->prev + (size_t)layer * s->n_used;
        b.w_prev = m->w_prev[layer];
    }
    return b;
}

static float score_of(const base *b, uint32_t e)
{
    const float g = (float)b->use[e] * b->each;
    float s = g;
    if (b->count != NULL) {
        const float share =
            ((float)b->count[e] + FG_ROUTING_SMOOTH * g) / (b->seen + FG_ROUTING_SMOOTH);
        s += b->w_id * (share - g);
    }
    if (b->prev == NULL) return s;
    float was = 0.0f;
    for (uint32_t i = 0; i < b->n_used; i++) was = b->prev[i] == e ? 1.0f : was;
    return s + b->w_prev * (was - g);
}

static float dot(const float *a, const float *b, uint32_t n)
{
    float s[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        for (uint32_t k = 0; k < 4; k++) s[k] += a[i + k] * b[i + k];
    }
    for (; i < n; i++) s[0] += a[i] * b[i];
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* ---- a layer becomes known ---- */

/* sum += y_c (r_c - s_c(m0)) over the layer's columns; x = m0 + solve sum. */
static void fold(fg_routing_row *r, uint32_t layer)
{
    const fg_routing_model *m = r->m;
    const uint32_t n = m->of.n_expert, f = m->rank;
    const uint16_t *sel = r->sel + (size_t)layer * m->of.n_used;
    const base b = base_of(r, layer, FG_ROUTING_ALL);
    const float *y = m->y + (size_t)layer * n * f;
    for (uint32_t e = 0; e < n; e++, y += f) {
        float was = 0.0f;
        for (uint32_t i = 0; i < m->of.n_used; i++) was = sel[i] == e ? 1.0f : was;
        const float left = was - score_of(&b, e) - dot(r->m0, y, f);
        for (uint32_t i = 0; i < f; i++) r->sum[i] += left * y[i];
    }
}

/* x with all layers known so far: only when somebody asks, since most passes of a predictor that is
 * off are asked nothing, and sums, not counts, are what takes time. */
static void fold_known(fg_routing_row *r)
{
    const uint32_t f = r->m->rank;
    if (f == 0 || r->n != 1 || r->n_folded == r->n_known) return;
    while (r->n_folded < r->n_known) fold(r, r->n_folded++);
    const float *a = r->m->solve + (size_t)r->n_known * f * f;
    for (uint32_t i = 0; i < f; i++) r->x[i] = r->m0[i] + dot(a + i * f, r->sum, f);
}

bool fg_routing_row_score(fg_routing_row *r, uint32_t layer, unsigned with, float *score)
{
    const fg_routing_model *m = r->m;
    const uint32_t n = m->of.n_expert, f = m->rank;
    if (r->n != 1) return false;
    if ((with & FG_ROUTING_LATENT) != 0) fold_known(r);
    const base b = base_of(r, layer, with);
    const float *y = m->y + (size_t)layer * n * f;
    for (uint32_t e = 0; e < n; e++) {
        score[e] = score_of(&b, e);
        if (f > 0 && (with & FG_ROUTING_LATENT) != 0) score[e] += dot(r->x, y + e * f, f);
    }
    return true;
}

void fg_routing_row_layer(fg_routing_row *r, uint32_t layer, const uint32_t *sel)
{
    const uint32_t n_used = r->m->of.n_used;
    if (r->n == 0 || layer != r->n_known) return;
    for (uint32_t t = 0; t < r->n; t++) {
        uint16_t *to = r->sel + t * r->n_sel + (size_t)layer * n_used;
        for (uint32_t i = 0; i < n_used; i++) to[i] = (uint16_t)sel[(size_t)t * n_used + i];
    }
    r->n_known++;
}

/* ---- learning ---- */

/* The older half goes, for good. */
static void shorten(fg_routing_row *r)
{
    const size_t half = r->n_past / 2, left = r->n_past - half, f = r->m->rank;
    memmove(r->past, r->past + half, left * sizeof *r->past);
    memmove(r->past_sel, r->past_sel + half * r->n_sel, left * r->n_sel * sizeof *r->past_sel);
    if (f > 0) memmove(r->past_x, r->past_x + half * f, left * f * sizeof *r->past_x);
    r->n_past = left;
}

static void learn(fg_routing_row *r, uint32_t t)
{
    const size_t f = r->m->rank, n = r->n_past + 1;
    const uint16_t *sel = r->sel + t * r->n_sel;
    const bool room =
        fg_mem_grow((void **)&r->past, &r->past_cap, n, sizeof *r->past) &&
        fg_mem_grow((void **)&r->past_sel, &r->past_sel_cap, n * r->n_sel, sizeof *r->past_sel) &&
        fg_mem_grow((void **)&r->past_x, &r->past_x_cap, n * f + 1, sizeof *r->past_x);
    if (!room) return;
    r->past[r->n_past] =
        (learned){r->who, r->pos + t, r->id[t], fg_routing_count(r->m, r->id[t], sel, 1)};
    memcpy(r->past_sel + r->n_past * r->n_sel, sel, r->n_sel * sizeof *sel);
    /* who was asked nothing has folded nothing in, as a pass of several: m0 is as good a guess */
    if (f > 0) memcpy(r->past_x + r->n_past * f, r->n == 1 ? r->x : r->m0, f * sizeof *r->x);
    r->n_past++;
    if (r->n_past == FG_ROUTING_HISTORY) shorten(r);
}

void fg_routing_row_settle(fg_routing_row *r)
{
    const bool whole = r->n_known == r->m->of.n_layer;
    if (r->n_folded > 0) fold_known(r);
    r->n_folded = 0;
    r->prev = NULL;
    for (uint32_t t = 0; whole && t < r->n; t++) learn(r, t);
    r->n = 0;
}

/* The token at pos - 1 of `who`, among the latest; n_past: not there. */
static size_t find_before(const fg_routing_row *r)
{
    enum { LATEST = 64 };
    for (size_t i = r->n_past, k = 0; i > 0 && k < LATEST; i--, k++) {
        const learned *p = &r->past[i - 1];
        if (p->who == r->who && p->pos + 1 == r->pos) return i - 1;
    }
    return r->n_past;
}

void fg_routing_row_begin(fg_routing_row *r, uint64_t who, uint64_t pos, const uint32_t *ids,
                          uint32_t n)
{
    const fg_routing_model *m = r->m;
    const size_t f = m->rank;
    fg_routing_row_settle(r);
    r->who = who;
    r->pos = pos;
    r->n_known = r->n_folded = 0;
    for (uint32_t i = 0; i < n; i++) n = ids[i] < m->of.n_vocab ? n : 0;
    if (!fg_mem_grow((void **)&r->id, &r->id_cap, n, sizeof *r->id) ||
        !fg_mem_grow((void **)&r->sel, &r->sel_cap, n * r->n_sel, sizeof *r->sel)) {
        n = 0;
    }
    if (n > 0) memcpy(r->id, ids, n * sizeof *ids);
    r->n = n;
    memset(r->sum, 0, sizeof r->sum);
    memset(r->m0, 0, sizeof r->m0);
    const size_t before = find_before(r);
    if (before < r->n_past) {
        r->prev = r->past_sel + before * r->n_sel;
        for (size_t i = 0; i < f; i++) r->m0[i] = m->carry * r->past_x[before * f + i];
    }
    memcpy(r->x, r->m0, sizeof r->x);
}

void fg_routing_row_forget(fg_routing_row *r, uint64_t who, uint64_t pos)
{
    const size_t f = r->m->rank;
    if (r->n > 0 && who == r->who && pos < r->pos + r->n) {
        r->n = pos <= r->pos ? 0 : (uint32_t)(pos - r->pos);
        r->prev = NULL;
        if (r->n == 0) r->n_known = r->n_folded = 0;
    }
    size_t kept = 0;
    for (size_t i = 0; i < r->n_past; i++) {
        const learned p = r->past[i];
        const uint16_t *sel = r->past_sel + i * r->n_sel;
        if (p.who == who && p.pos >= pos) {
            if (p.counted) (void)fg_routing_count(r->m, p.id, sel, -1);
            continue;
        }
        if (kept < i) {
            r->past[kept] = p;
            memmove(r->past_sel + kept * r->n_sel, sel, r->n_sel * sizeof *sel);
            if (f > 0) memmove(r->past_x + kept * f, r->past_x + i * f, f * sizeof *r->past_x);
        }
        kept++;
    }
    r->n_past = kept;
}
