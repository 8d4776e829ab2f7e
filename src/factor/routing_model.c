/* SPDX-License-Identifier: MIT
 *
 * The model and its file.
 */
#include "src/factor/routing_model.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "src/base/fp.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"

static const char magic[] = "FGROUTE1";
enum {
    VERSION = 1,
    HEAD = 8 + 8 * 4 + 2 * 8,
    TAIL = 8,
    MAX_COUNT = 65535,
    /* as of traces and model files */
    MAX_LAYER = 1024,
    MAX_EXPERT = 1024,
    MAX_USED = 32,
    MAX_VOCAB = 1 << 24,
};
#define MAX_FILE ((uint64_t)1 << 34)

/* ---- creation ---- */

static bool shape_is_good(const fg_routing_shape *s)
{
    return s->n_layer >= 1 && s->n_layer <= MAX_LAYER && s->n_expert >= 1 &&
           s->n_expert <= MAX_EXPERT && s->n_used >= 1 && s->n_used <= MAX_USED &&
           s->n_used <= s->n_expert && s->n_vocab >= 1 && s->n_vocab <= MAX_VOCAB;
}

fg_status fg_routing_create(fg_routing_model **out, const fg_routing_shape *s, uint32_t rank,
                            fg_err *err)
{
    *out = NULL;
    if (!shape_is_good(s) || rank > FG_FACTOR_MAX_RANK) {
        return fg_fail(err, FG_EINVAL,
                       "routing model: %u layers of %u experts, %u used, %u tokens, rank %u, "
                       "expected sizes that a model has",
                       s->n_layer, s->n_expert, s->n_used, s->n_vocab, rank);
    }
    const size_t n_col = fg_routing_n_col(s), square = (size_t)rank * rank;
    fg_routing_model *m = fg_mem_zalloc(sizeof *m);
    if (m == NULL) return fg_fail_nomem(err, "routing model");
    m->of = *s;
    m->rank = rank;
    m->algo = FG_ALGO_ADS_CHEAP;
    m->use = fg_mem_zalloc_array(n_col, sizeof *m->use);
    m->id = fg_mem_zalloc_array(FG_ROUTING_IDS, sizeof *m->id);
    m->seen = fg_mem_zalloc_array(FG_ROUTING_IDS, sizeof *m->seen);
    m->count = fg_mem_zalloc_array((size_t)FG_ROUTING_IDS * n_col, sizeof *m->count);
    m->w_id = fg_mem_zalloc_array(s->n_layer, sizeof *m->w_id);
    m->w_prev = fg_mem_zalloc_array(s->n_layer, sizeof *m->w_prev);
    m->y = fg_mem_zalloc_array(n_col * rank + 1, sizeof *m->y);
    m->prior = fg_mem_zalloc_array(square + 1, sizeof *m->prior);
    m->solve = fg_mem_zalloc_array(square * (s->n_layer + 1) + 1, sizeof *m->solve);
    m->row_of = fg_mem_zalloc_array(s->n_vocab, sizeof *m->row_of);
    if (m->use == NULL || m->id == NULL || m->seen == NULL || m->count == NULL || m->w_id == NULL ||
        m->w_prev == NULL || m->y == NULL || m->prior == NULL || m->solve == NULL ||
        m->row_of == NULL) {
        fg_routing_destroy(&m);
        return fg_fail_nomem(err, "routing model");
    }
    for (uint32_t i = 0; i < s->n_vocab; i++) m->row_of[i] = FG_ROUTING_NO_ROW;
    for (uint32_t l = 0; l < s->n_layer; l++) { /* until somebody has measured them */
        m->w_id[l] = 0.7f;
        m->w_prev[l] = 0.2f;
    }
    for (int i = 0; i < FG_ROUTING_BINS; i++) {
        const float p = FG_ROUTING_LOW + ((float)i + 0.5f) * (2.0f / FG_ROUTING_BINS);
        m->chance[i] = p < 0.0f ? 0.0f : p > 1.0f ? 1.0f : p;
    }
    *out = m;
    return FG_OK;
}

void fg_routing_destroy(fg_routing_model **model)
{
    fg_routing_model *m = *model;
    if (m == NULL) return;
    fg_mem_free(m->use);
    fg_mem_free(m->id);
    fg_mem_free(m->seen);
    fg_mem_free(m->count);
    fg_mem_free(m->w_id);
    fg_mem_free(m->w_prev);
    fg_mem_free(m->y);
    fg_mem_free(m->prior);
    fg_mem_free(m->solve);
    fg_mem_free(m->row_of);
    fg_mem_free(m);
    *model = NULL;
}

fg_status fg_routing_clone(fg_routing_model **out, const fg_routing_model *m, fg_err *err)
{
    FG_TRY(fg_routing_create(out, &m->of, m->rank, err));
    fg_routing_model *c = *out;
    const fg_routing_shape *s = &m->of;
    const size_t n_col = fg_routing_n_col(s), square = (size_t)m->rank * m->rank;
    c->algo = m->algo;
    c->n_tok = m->n_tok;
    c->n_id = m->n_id;
    c->carry = m->carry;
    memcpy(c->use, m->use, n_col * sizeof *m->use);
    memcpy(c->id, m->id, m->n_id * sizeof *m->id);
    memcpy(c->seen, m->seen, m->n_id * sizeof *m->seen);
    memcpy(c->count, m->count, m->n_id * n_col * sizeof *m->count);
    memcpy(c->w_id, m->w_id, s->n_layer * sizeof *m->w_id);
    memcpy(c->w_prev, m->w_prev, s->n_layer * sizeof *m->w_prev);
    memcpy(c->y, m->y, n_col * m->rank * sizeof *m->y);
    memcpy(c->prior, m->prior, square * sizeof *m->prior);
    memcpy(c->solve, m->solve, square * (s->n_layer + 1) * sizeof *m->solve);
    memcpy(c->row_of, m->row_of, s->n_vocab * sizeof *m->row_of);
    memcpy(c->chance, m->chance, sizeof m->chance);
    memcpy(c->recall, m->recall, sizeof m->recall);
    memcpy(c->router_recall, m->router_recall, sizeof m->router_recall);
    return FG_OK;
}

/* ---- the inverses ---- */

bool fg_routing_invert(double *a, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++) { /* Gauss-Jordan in place; pivots are those of Cholesky */
        const double pivot = a[k * n + k];
        if (!(pivot > 1e-12) || !isfinite(pivot)) return false;
        for (uint32_t j = 0; j < n; j++) a[k * n + j] /= j == k ? 1.0 : pivot;
        a[k * n + k] = 1.0 / pivot;
        for (uint32_t i = 0; i < n; i++) {
            if (i == k) continue;
            const double f = a[i * n + k];
            for (uint32_t j = 0; j < n; j++) {
                a[i * n + j] = j == k ? -f * a[k * n + k] : a[i * n + j] - f * a[k * n + j];
            }
        }
    }
    return true;
}

fg_status fg_routing_prepare(fg_routing_model *m, fg_err *err)
{
    const uint32_t f = m->rank;
    const size_t square = (size_t)f * f;
    if (f == 0) return FG_OK;
    double *sum = fg_mem_zalloc_array(2 * square, sizeof *sum);
    if (sum == NULL) return fg_fail_nomem(err, "routing model");
    double *a = sum + square;
    bool ok = true;
    for (size_t i = 0; i < square; i++) sum[i] = (double)m->prior[i];
    for (uint32_t l = 0; ok && l <= m->of.n_layer; l++) {
        memcpy(a, sum, square * sizeof *a);
        ok = fg_routing_invert(a, f);
        for (size_t i = 0; i < square; i++) m->solve[l * square + i] = (float)a[i];
        if (l == m->of.n_layer) break;
        const float *y = m->y + (size_t)l * m->of.n_expert * f;
        for (uint32_t e = 0; e < m->of.n_expert; e++, y += f) {
            for (uint32_t i = 0; i < f; i++) {
                for (uint32_t j = 0; j < f; j++) sum[i * f + j] += (double)y[i] * (double)y[j];
            }
        }
    }
    fg_mem_free(sum);
    return ok ? FG_OK
              : fg_fail(err, FG_EINVAL,
                        "routing model: a prior that is not positive definite, expected one");
}

/* ---- counts ---- */

uint32_t fg_routing_row_for(fg_routing_model *m, uint32_t id)
{
    if (m->row_of[id] == FG_ROUTING_NO_ROW && m->n_id < FG_ROUTING_IDS) {
        m->row_of[id] = m->n_id;
        m->id[m->n_id++] = id;
    }
    return m->row_of[id];
}

bool fg_routing_count(fg_routing_model *m, uint32_t id, const uint16_t *sel, int by)
{
    const fg_routing_shape *s = &m->of;
    const uint32_t row = fg_routing_row_for(m, id);
    if (row != FG_ROUTING_NO_ROW && by > 0 && m->seen[row] == MAX_COUNT) return false;
    m->n_tok += (uint64_t)(int64_t)by;
    if (row != FG_ROUTING_NO_ROW) m->seen[row] += (uint32_t)by;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        for (uint32_t i = 0; i < s->n_used; i++) {
            const size_t c = (size_t)l * s->n_expert + sel[l * s->n_used + i];
            m->use[c] += (uint64_t)(int64_t)by;
            if (row == FG_ROUTING_NO_ROW) continue;
            uint16_t *n = &m->count[row * fg_routing_n_col(s) + c];
            *n = (uint16_t)(*n + by);
        }
    }
    while (by < 0 && m->n_id > 0 && m->seen[m->n_id - 1] == 0) { /* as if it had not come */
        m->row_of[m->id[--m->n_id]] = FG_ROUTING_NO_ROW;
    }
    return true;
}

float fg_routing_chance(const fg_routing_model *m, float score)
{
    const float at = (score - FG_ROUTING_LOW) * (FG_ROUTING_BINS / 2.0f);
    const int i = !(at > 0.0f) ? 0 : at >= FG_ROUTING_BINS ? FG_ROUTING_BINS - 1 : (int)at;
    return m->chance[i];
}

/* ---- the file ---- */

static void put_f32(fg_buf *b, const float *p, size_t n)
{
    for (size_t i = 0; i < n; i++) fg_buf_u32(b, fg_f32_bits(p[i]));
}

static void encode(fg_buf *b, const fg_routing_model *m)
{
    const fg_routing_shape *s = &m->of;
    const size_t n_col = fg_routing_n_col(s);
    fg_buf_put(b, magic, 8);
    const uint32_t head[8] = {VERSION,    s->n_layer, s->n_expert, s->n_used,
                              s->n_vocab, m->algo,    m->rank,     m->n_id};
    for (int i = 0; i < 8; i++) fg_buf_u32(b, head[i]);
    fg_buf_u64(b, s->data_root);
    fg_buf_u64(b, m->n_tok);
    put_f32(b, &m->carry, 1);
    put_f32(b, m->chance, FG_ROUTING_BINS);
    put_f32(b, m->recall, FG_ROUTING_AHEAD);
    put_f32(b, m->router_recall, FG_ROUTING_AHEAD);
    put_f32(b, m->w_id, s->n_layer);
    put_f32(b, m->w_prev, s->n_layer);
    for (size_t i = 0; i < n_col; i++) fg_buf_u64(b, m->use[i]);
    for (uint32_t i = 0; i < m->n_id; i++) fg_buf_u32(b, m->id[i]);
    for (uint32_t i = 0; i < m->n_id; i++) fg_buf_u32(b, m->seen[i]);
    for (size_t i = 0; i < m->n_id * n_col; i++) {
        fg_buf_u8(b, (uint8_t)m->count[i]);
        fg_buf_u8(b, (uint8_t)(m->count[i] >> 8));
    }
    put_f32(b, m->y, n_col * m->rank);
    put_f32(b, m->prior, (size_t)m->rank * m->rank);
    fg_buf_u64(b, b->failed ? 0 : fg_hash64(b->data, b->len));
}

fg_status fg_routing_save(const char *path, const fg_routing_model *m, fg_err *err)
{
    fg_new_file f = {0};
    fg_buf b = {0};
    encode(&b, m);
    fg_status st = b.failed ? fg_fail_nomem(err, path) : fg_new_file_open(&f, path, err);
    if (st == FG_OK && fwrite(b.data, 1, b.len, f.f) != b.len) {
        st = fg_fail(err, FG_EIO, "%s: not written, expected room for %zu bytes", path, b.len);
    }
    if (st == FG_OK) st = fg_new_file_commit(&f, err);
    fg_new_file_close(&f);
    fg_buf_fini(&b);
    return st;
}

static fg_status damaged(const char *name, const char *what, fg_err *err)
{
    return fg_fail(err, FG_EFORMAT, "%s: %s, expected a model of fulgur factor train --trace", name,
                   what);
}

/* False: a value that is not finite, or outside low .. high. */
static bool take_f32(fg_cursor *c, float *p, size_t n, float low, float high)
{
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        p[i] = fg_f32_from_bits(fg_cursor_u32(c));
        ok = ok && p[i] >= low && p[i] <= high;
    }
    return ok;
}

static bool take_chance(fg_cursor *c, float *p)
{
    bool ok = take_f32(c, p, FG_ROUTING_BINS, 0.0f, 1.0f);
    for (int i = 1; ok && i < FG_ROUTING_BINS; i++) ok = p[i] >= p[i - 1];
    return ok;
}

/* Ids once each; no expert counted more often than its id, nor an id than all tokens. */
static bool take_counts(fg_cursor *c, fg_routing_model *m, uint32_t n_id)
{
    const size_t n_col = fg_routing_n_col(&m->of);
    bool ok = true;
    uint64_t sum = 0;
    for (size_t i = 0; i < n_col; i++) ok = (m->use[i] = fg_cursor_u64(c)) <= m->n_tok && ok;
    for (uint32_t i = 0; ok && i < n_id; i++) {
        const uint32_t id = fg_cursor_u32(c);
        ok = id < m->of.n_vocab && fg_routing_row_for(m, id) == i;
    }
    for (uint32_t i = 0; i < n_id; i++) {
        m->seen[i] = fg_cursor_u32(c);
        ok = ok && m->seen[i] <= MAX_COUNT;
        sum += m->seen[i];
    }
    const uint8_t *p = ok ? fg_cursor_bytes(c, n_id * n_col * 2) : NULL;
    for (size_t i = 0; p != NULL && i < n_id * n_col; i++, p += 2) {
        m->count[i] = (uint16_t)(p[0] | p[1] << 8);
        ok = ok && m->count[i] <= m->seen[i / n_col] && m->count[i] <= m->use[i % n_col];
    }
    return ok && sum <= m->n_tok && (p != NULL || n_id == 0);
}

static fg_status take_model(fg_cursor *c, const char *name, fg_routing_model **out, fg_err *err)
{
    enum { BIG = 1000000 };
    uint32_t head[8];
    for (int i = 0; i < 8; i++) head[i] = fg_cursor_u32(c);
    const uint32_t rank = head[6], n_id = head[7];
    fg_routing_shape s = {head[1], head[2], head[3], head[4], fg_cursor_u64(c)};
    const uint64_t n_tok = fg_cursor_u64(c);
    if (!shape_is_good(&s) || head[5] >= FG_ALGO_COUNT || rank > FG_FACTOR_MAX_RANK ||
        n_id > FG_ROUTING_IDS || n_id > s.n_vocab || n_tok >= (uint64_t)1 << 62) {
        return damaged(name, "sizes that do not fit", err);
    }
    const uint64_t n_col = fg_routing_n_col(&s);
    const uint64_t rest =
        4 * (1 + FG_ROUTING_BINS + 2 * FG_ROUTING_AHEAD + 2 * (uint64_t)s.n_layer) +
        n_col * (8 + 4 * (uint64_t)rank) + n_id * (8 + 2 * n_col) + 4 * (uint64_t)rank * rank;
    if (c->left != rest) return damaged(name, "another length than its sizes give", err);
    FG_TRY(fg_routing_create(out, &s, rank, err));
    fg_routing_model *m = *out;
    m->algo = (fg_factor_algo)head[5];
    m->n_tok = n_tok;
    bool ok = take_f32(c, &m->carry, 1, -1.0f, 1.0f) && take_chance(c, m->chance) &&
              take_f32(c, m->recall, FG_ROUTING_AHEAD, 0.0f, 1.0f) &&
              take_f32(c, m->router_recall, FG_ROUTING_AHEAD, 0.0f, 1.0f) &&
              take_f32(c, m->w_id, s.n_layer, -BIG, BIG) &&
              take_f32(c, m->w_prev, s.n_layer, -BIG, BIG) && take_counts(c, m, n_id) &&
              take_f32(c, m->y, n_col * rank, -BIG, BIG) &&
              take_f32(c, m->prior, (size_t)rank * rank, -BIG, BIG);
    if (!ok || c->bad) return damaged(name, "values that cannot be", err);
    return fg_routing_prepare(m, NULL) == FG_OK
               ? FG_OK
               : damaged(name, "a prior that is not positive definite", err);
}

fg_status fg_routing_read(const void *bytes, size_t n, const char *name, fg_routing_model **m,
                          fg_err *err)
{
    *m = NULL;
    if (n < HEAD + TAIL || memcmp(bytes, magic, 8) != 0) return damaged(name, "another file", err);
    fg_cursor head = fg_cursor_make((const uint8_t *)bytes + 8, 4);
    const uint32_t version = fg_cursor_u32(&head); /* first: others may have another checksum */
    if (version != VERSION) {
        return fg_fail(err, FG_EVERSION, "%s: version %u, expected %d", name, version, VERSION);
    }
    fg_cursor tail = fg_cursor_make((const uint8_t *)bytes + n - TAIL, TAIL);
    if (fg_cursor_u64(&tail) != fg_hash64(bytes, n - TAIL)) {
        return damaged(name, "a wrong checksum", err);
    }
    fg_cursor c = fg_cursor_make((const uint8_t *)bytes + 8, n - TAIL - 8);
    const fg_status st = take_model(&c, name, m, err);
    if (st != FG_OK) fg_routing_destroy(m);
    return st;
}

fg_status fg_routing_load(const char *path, fg_routing_model **m, fg_err *err)
{
    char *bytes = NULL;
    size_t n = 0;
    *m = NULL;
    FG_TRY(fg_io_read_all(path, MAX_FILE, &bytes, &n, err));
    const fg_status st = fg_routing_read(bytes, n, path, m, err);
    fg_mem_free(bytes);
    return st;
}

fg_status fg_routing_check(const fg_routing_model *m, const char *name, const fg_routing_shape *of,
                           fg_err *err)
{
    const fg_routing_shape *s = &m->of;
    if (s->data_root != of->data_root) {
        return fg_fail(err, FG_EINVAL,
                       "%s: trained on weights 0x%016" PRIx64 ", expected 0x%016" PRIx64
                       ", those of the model",
                       name, s->data_root, of->data_root);
    }
    if (s->n_layer == of->n_layer && s->n_expert == of->n_expert && s->n_used == of->n_used &&
        s->n_vocab == of->n_vocab) {
        return FG_OK;
    }
    return fg_fail(err, FG_EINVAL,
                   "%s: %u layers of %u experts, %u used, %u tokens, expected %u, %u, %u, %u", name,
                   s->n_layer, s->n_expert, s->n_used, s->n_vocab, of->n_layer, of->n_expert,
                   of->n_used, of->n_vocab);
}
