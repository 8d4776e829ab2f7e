/* SPDX-License-Identifier: MIT
 *
 * For a given set of codes q the best scale is s = sum(xq) / sum(qq), and the error it leaves is
 * sum(xx) - gain, gain = sum(xq)^2 / sum(qq); with importances every sum is weighted.  So: try
 * scales that put the extreme weight a little inside or outside the end of the grid, keep the
 * largest gain, then round once more with the fitted scale.  The extreme weight goes to the longer,
 * negative end: on a linear grid the other end never won more than 1 group in 1000, on a table
 * (with two different ends) it wins 4 in 10, so there both are tried.
 *
 * Against an exhaustive search of 1200 scales this loses 0.02 dB (q4) to 0.9 dB (q8, at 46 dB).
 * Sums run in eight lanes, so that a compiler may use vectors without changing a bit.
 */
#include "quant/search.h"

#include <math.h>

enum { N = FG_GROUP_COLS, LANES = 8, N_TRY_LINEAR = 12, N_TRY_TABLE = 10 };

static const float bias = 12582912.0f; /* 1.5 * 2^23: adding it rounds to nearest even */

static float nearest_value(const fg_lut *lut, float u)
{
    int best = 0;
    for (int j = 1; j < 16; j++) {
        if (fabsf((float)lut->v[j] - u) < fabsf((float)lut->v[best] - u)) best = j;
    }
    return (float)lut->v[best];
}

void fg_grid_init(fg_grid *g, fg_qtype type, const fg_lut *lut)
{
    const fg_qtype_info *info = fg_qtype_get((uint32_t)type);
    const float half = (float)(info->n_code / 2);
    *g = (fg_grid){.first = info->first, .last = info->last};
    switch (info->grid) {
    case FG_GRID_OFFSET:
        g->lo = -half;
        g->hi = half - 1.0f;
        return;
    case FG_GRID_INT8:
        g->lo = 1.0f - half;
        g->hi = half - 1.0f;
        return;
    case FG_GRID_TABLE:
        g->table = !fg_lut_is_linear(lut);
        g->lo = (float)lut->v[0];
        g->hi = (float)lut->v[15];
        for (int i = 0; g->table && i < 128; i++) {
            g->nearest[i] = nearest_value(lut, (float)(i - 64) / 2 + 0.25f);
        }
        return;
    case FG_GRID_NONE: return;
    }
}

static inline void round_linear(const fg_grid *g, const float *x, float inv, float *q)
{
    const float lo = g->lo, hi = g->hi;
    for (int i = 0; i < N; i++) {
        float u = x[i] * inv;
        u = u > lo ? u : lo;
        u = u < hi ? u : hi;
        q[i] = (u + bias) - bias;
    }
}

static inline void round_table(const fg_grid *g, const float *x, float inv, float *q)
{
    int32_t at[N];
    const float twice = inv * 2.0f;
    for (int i = 0; i < N; i++) {
        float u = x[i] * twice + 64.0f;
        u = u > 0.0f ? u : 0.0f;
        u = u < 127.0f ? u : 127.0f;
        at[i] = (int32_t)u;
    }
    for (int i = 0; i < N; i++) q[i] = g->nearest[at[i]];
}

static inline __attribute__((always_inline)) void round_to(const fg_grid *g, bool table,
                                                           const float *x, float inv, float *q)
{
    if (table) {
        round_table(g, x, inv, q);
    } else {
        round_linear(g, x, inv, q);
    }
}

static inline float join(const float *lane)
{
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

typedef struct fit {
    float scale, gain;
} fit;

static inline __attribute__((always_inline)) fit
try_inverse(const fg_grid *g, bool table, const float *x, const float *weight, float inv)
{
    float q[N], xq[LANES] = {0}, qq[LANES] = {0};
    round_to(g, table, x, inv, q);
    for (int i = 0; i < N; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            const float wq = weight == NULL ? q[i + l] : weight[i + l] * q[i + l];
            xq[l] += x[i + l] * wq;
            qq[l] += q[i + l] * wq;
        }
    }
    const float sxq = join(xq), sqq = join(qq);
    if (!(sqq > 0.0f)) return (fit){0.0f, 0.0f};
    const float scale = sxq / sqq;
    return (fit){scale, scale * sxq};
}

static inline __attribute__((always_inline)) float
search(const fg_grid *g, bool table, const float *x, const float *weight, float extreme)
{
    const int n_try = table ? N_TRY_TABLE : N_TRY_LINEAR;
    const float step = (g->last - g->first) / (float)(n_try - 1);
    fit best = {0.0f, 0.0f};
    for (int side = 0; side < (table ? 2 : 1); side++) {
        const float end = side == 0 ? g->lo * extreme : g->hi * extreme;
        for (int c = 0; c < n_try; c++) {
            const fit f = try_inverse(g, table, x, weight, end * (g->first + (float)c * step));
            if (f.gain > best.gain) best = f;
        }
    }
    if (best.scale == 0.0f) return 0.0f;
    const fit f = try_inverse(g, table, x, weight, 1.0f / best.scale);
    return f.gain > best.gain ? f.scale : best.scale;
}

static inline __attribute__((always_inline)) float
error_of(const fg_grid *g, bool table, const float *x, const float *weight, float s)
{
    float q[N], e[LANES] = {0};
    round_to(g, table, x, s == 0.0f ? 0.0f : 1.0f / s, q);
    for (int i = 0; i < N; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            const float d = x[i + l] - s * q[i + l];
            e[l] += weight == NULL ? d * d : weight[i + l] * d * d;
        }
    }
    return join(e);
}

static inline __attribute__((always_inline)) int
search_int(const fg_grid *g, bool table, const float *x, const float *weight, float want)
{
    float w = want > -127.0f ? want : -127.0f;
    w = w < 127.0f ? w : 127.0f;
    const int middle = (int)((w + bias) - bias);
    int best = middle;
    float least = error_of(g, table, x, weight, (float)middle);
    for (int s = middle - 1; s <= middle + 1; s += 2) {
        if (s < -127 || s > 127) continue;
        const float e = error_of(g, table, x, weight, (float)s);
        if (e < least) {
            least = e;
            best = s;
        }
    }
    return best;
}

void fg_grid_round(const fg_grid *g, const float *x, float inv, float *q)
{
    round_to(g, g->table, x, inv, q);
}

float fg_search_scale(const fg_grid *g, const float *x, const float *weight, float extreme)
{
    if (weight != NULL) {
        return g->table ? search(g, true, x, weight, extreme)
                        : search(g, false, x, weight, extreme);
    }
    return g->table ? search(g, true, x, NULL, extreme) : search(g, false, x, NULL, extreme);
}

int fg_search_int_scale(const fg_grid *g, const float *x, const float *weight, float want)
{
    if (weight != NULL) {
        return g->table ? search_int(g, true, x, weight, want)
                        : search_int(g, false, x, weight, want);
    }
    return g->table ? search_int(g, true, x, NULL, want) : search_int(g, false, x, NULL, want);
}
