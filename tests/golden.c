/* SPDX-License-Identifier: MIT */
#include "tests/golden.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/source/safetensors.h"
#include "src/base/hash.h"
#include "src/model/forward.h"
#include "tests/fg_test.h"

static void *read_at(const char *path, uint64_t offset, uint64_t n)
{
    FILE *f = fopen(path, "rb");
    void *p = malloc((size_t)n + 1);
    if (f == NULL || p == NULL || fseek(f, (long)offset, SEEK_SET) != 0 ||
        fread(p, 1, (size_t)n, f) != n) {
        fg_test_fail(__FILE__, __LINE__, "%s: cannot read", path);
        free(p);
        p = NULL;
    }
    if (f != NULL) fclose(f);
    return p;
}

static const fg_st_tensor *find(const fg_st_shard *s, const char *prefix, const char *name)
{
    char full[64];
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    for (size_t i = 0; i < s->n_tensor; i++) {
        if (strcmp(s->tensor[i].name, full) == 0) return &s->tensor[i];
    }
    return NULL;
}

/* u8 widens to i32. */
static int32_t *take_ints(const fg_st_shard *s, const fg_st_tensor *t)
{
    if (t == NULL) return NULL;
    void *raw = read_at(s->path, t->offset, t->bytes);
    if (raw == NULL || strcmp(t->dtype_text, "U8") != 0) return raw;
    int32_t *p = malloc((size_t)t->bytes * sizeof *p);
    for (uint64_t i = 0; p != NULL && i < t->bytes; i++) p[i] = ((uint8_t *)raw)[i];
    free(raw);
    return p;
}

bool golden_load(golden *g, const char *path, const char *prefix)
{
    fg_st_shard s = {0};
    fg_err err = {0};
    *g = (golden){0};
    if (fg_st_open(&s, path, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        return false;
    }
    const fg_st_tensor *ids = find(&s, prefix, "input_ids"), *logits = find(&s, prefix, "logits"),
                       *hidden = find(&s, prefix, "hidden"), *nll = find(&s, prefix, "nll"),
                       *greedy = find(&s, prefix, "greedy_ids"), *e = find(&s, prefix, "experts");
    g->n_tok = (size_t)ids->dim[0];
    g->n_row = (size_t)logits->dim[0];
    g->n_vocab = (size_t)logits->dim[1];
    g->ids = take_ints(&s, ids);
    g->rows = take_ints(&s, find(&s, prefix, "rows"));
    if (g->rows == NULL) {
        g->rows = malloc(g->n_row * sizeof *g->rows);
        for (size_t i = 0; i < g->n_row; i++) g->rows[i] = (int32_t)i;
    }
    g->logits = read_at(path, logits->offset, logits->bytes);
    if (hidden != NULL) {
        g->n_layer = (size_t)hidden->dim[0];
        g->d = (size_t)hidden->dim[2];
        g->hidden = read_at(path, hidden->offset, hidden->bytes);
    }
    if (e != NULL) {
        g->n_used = (size_t)e->dim[2];
        g->experts = take_ints(&s, e);
    }
    if (nll != NULL) g->nll = read_at(path, nll->offset, nll->bytes);
    if (greedy != NULL) {
        g->n_greedy = (size_t)greedy->dim[0];
        g->greedy = take_ints(&s, greedy);
    }
    fg_st_fini(&s);
    return g->ids != NULL && g->logits != NULL;
}

void golden_free(golden *g)
{
    free(g->ids);
    free(g->rows);
    free(g->logits);
    free(g->hidden);
    free(g->experts);
    free(g->nll);
    free(g->greedy);
    *g = (golden){0};
}

void golden_hash_tokens(uint64_t *out, const float *logits, size_t n_tok, size_t n_vocab)
{
    for (size_t t = 0; t < n_tok; t++) {
        out[t] = fg_hash64(logits + t * n_vocab, n_vocab * sizeof *logits);
    }
}

bool golden_hashes_load(uint64_t *out, size_t n_tok, const char *path)
{
    FILE *f = fopen(path, "r");
    size_t n = 0;
    uint64_t more;
    while (f != NULL && n < n_tok && fscanf(f, "%" SCNx64, &out[n]) == 1) n++;
    const bool good = f != NULL && n == n_tok && fscanf(f, "%" SCNx64, &more) == EOF;
    if (!good) fg_test_fail(__FILE__, __LINE__, "%s: expected %zu hashes", path, n_tok);
    if (f != NULL) (void)fclose(f);
    return good;
}

bool golden_hashes_save(const uint64_t *hashes, size_t n_tok, const char *path)
{
    FILE *f = fopen(path, "w");
    for (size_t t = 0; f != NULL && t < n_tok; t++) {
        (void)fprintf(f, "%016" PRIx64 "\n", hashes[t]);
    }
    return f != NULL && fclose(f) == 0;
}

size_t golden_first_other(const uint64_t *got, const uint64_t *want, size_t n_tok)
{
    size_t t = 0;
    while (t < n_tok && got[t] == want[t]) t++;
    if (t < n_tok) {
        printf("  first other token: %zu of %zu, %016" PRIx64 ", expected %016" PRIx64 "\n", t,
               n_tok, got[t], want[t]);
    }
    return t;
}

/* Row index of token t, or -1. */
static int64_t golden_row(const golden *g, uint64_t t)
{
    for (size_t i = 0; i < g->n_row; i++) {
        if ((uint64_t)g->rows[i] == t) return (int64_t)i;
    }
    return -1;
}

static void on_hidden(void *ctx, int32_t layer, uint64_t pos, uint64_t n, const float *x,
                      size_t stride)
{
    golden_watch *w = ctx;
    const golden *g = w->g;
    if (g->hidden == NULL) return;
    const bool hf = g->n_layer == w->n_layer + 1; /* embedding, layers but the last, final norm */
    if (!hf && (layer < 0 || layer == (int32_t)w->n_layer)) return;
    if (hf && layer == (int32_t)w->n_layer - 1) return;
    const size_t at = !hf                            ? (size_t)layer
                      : layer == (int32_t)w->n_layer ? w->n_layer
                                                     : (size_t)(layer + 1);
    for (uint64_t t = 0; t < n; t++) {
        const int64_t row = golden_row(g, pos + t);
        if (row < 0) continue;
        const float *want = g->hidden + (at * g->n_row + (size_t)row) * g->d;
        double err2 = 0.0, ref2 = 0.0;
        for (size_t i = 0; i < g->d; i++) {
            const double d = (double)x[t * stride + i] - (double)want[i];
            err2 += d * d;
            ref2 += (double)want[i] * (double)want[i];
        }
        const double rel = sqrt(err2 / ref2);
        if (!(rel <= w->worst)) w->worst = rel;
        w->n_hidden++;
    }
}

static void on_experts(void *ctx, uint32_t layer, uint64_t pos, uint64_t n, const uint32_t *sel,
                       const float *weights)
{
    golden_watch *w = ctx;
    const golden *g = w->g;
    (void)weights;
    for (uint64_t t = 0; g->experts != NULL && t < n; t++) {
        const int64_t row = golden_row(g, pos + t);
        if (row < 0) continue;
        const int32_t *want = g->experts + (layer * g->n_row + (size_t)row) * g->n_used;
        for (size_t i = 0; i < g->n_used; i++) { /* as sets: the order of equals is open */
            bool found = false;
            for (size_t j = 0; j < g->n_used; j++)
                found |= sel[t * g->n_used + j] == (uint32_t)want[i];
            w->n_wrong += !found;
            w->n_expert++;
        }
    }
}

void golden_watch_taps(golden_watch *w, fg_taps *taps)
{
    *taps = (fg_taps){.hidden = on_hidden, .experts = on_experts, .ctx = w};
}
