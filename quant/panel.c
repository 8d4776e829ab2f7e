/* SPDX-License-Identifier: MIT
 *
 * Panels to bytes and back.  A row is quantised in two passes: first the best real scale of each
 * group, whose largest magnitude sets the row scale (127 steps), then the int8 group scales and
 * the codes that fit them.  Between the passes a group's real scale waits in its own first code
 * bytes, so that a row of any length needs no memory.
 *
 * Weights are taken relative to the row's largest (pass 1) and to the row scale (pass 2), through
 * double, so that rows at 1e-40 or 1e30 are quantised like any other.
 */
#include "quant/panel.h"

#include <math.h>
#include <string.h>

#include "quant/codes.h"
#include "quant/search.h"
#include "src/base/fp.h"

enum { G = FG_GROUP_COLS };

/* x[i] = w[i] * scale, in double between. */
static void load_scaled(const float *w, double scale, float *x)
{
    for (size_t i = 0; i < G; i++) x[i] = (float)((double)w[i] * scale);
}

/* The weight of largest magnitude among n, the first one if several. */
static float extreme_of(const float *w, size_t n)
{
    float m = 0.0f;
    for (size_t i = 0; i < n; i++) {
        if (fabsf(w[i]) > fabsf(m)) m = w[i];
    }
    return m;
}

/* Pass 1: real scales, relative to |top|, parked in the code bytes.  Returns the largest. */
static float search_row(fg_qtype type, const fg_grid *grid, const float *w, const float *weight,
                        size_t n_group, double top, uint8_t *panel, size_t r)
{
    float largest = 0.0f;
    for (size_t g = 0; g < n_group; g++) {
        float x[G], scale = 0.0f;
        const float extreme = extreme_of(w + g * G, G);
        if (extreme != 0.0f) {
            const double size = fabs((double)extreme);
            load_scaled(w + g * G, 1.0 / size, x);
            scale = (float)((double)fg_search_scale(grid, x, weight == NULL ? NULL : weight + g * G,
                                                    extreme < 0 ? -1.0f : 1.0f) *
                            (size / top));
        }
        memcpy(fg_group_at(type, panel, g) + 4 * r, &scale, sizeof scale);
        if (fabsf(scale) > largest) largest = fabsf(scale);
    }
    return largest;
}

/* Pass 2 for one group: int8 scale and codes.  rs_inv = 1 / row scale, 0 for a zero row. */
static void encode_group(fg_qtype type, const fg_grid *grid, const fg_code_map *map, const float *w,
                         const float *weight, double top, double rs_inv, uint8_t *panel, size_t g,
                         size_t r)
{
    float x[G], q[G], want;
    uint8_t code[G];
    uint8_t *group = fg_group_at(type, panel, g);
    memcpy(&want, group + 4 * r, sizeof want);
    load_scaled(w, rs_inv, x);
    const float target = (float)((double)want * top * rs_inv);
    const int s = want == 0.0f ? 0 : fg_search_int_scale(grid, x, weight, target);
    if (s == 0) memset(x, 0, sizeof x); /* all codes zero: one form for a group of no weight */
    fg_grid_round(grid, x, s == 0 ? 0.0f : 1.0f / (float)s, q);
    for (size_t i = 0; i < G; i++) code[i] = map->code[(int)q[i] + 128];
    fg_put_codes(type, group, r, code);
    *fg_group_scale_at(type, panel, g, r) = (uint8_t)s;
}

static float encode_row(fg_qtype type, const fg_grid *grid, const fg_code_map *map, const float *w,
                        const float *weight, size_t n_group, uint8_t *panel, size_t r)
{
    const double top = fabs((double)extreme_of(w, n_group * G));
    float row_scale = 0.0f;
    double rs_inv = 0.0;
    if (top > 0.0) {
        double rs = (double)search_row(type, grid, w, weight, n_group, top, panel, r) * top / 127.0;
        rs = rs < FG_ROW_SCALE_MAX ? rs : FG_ROW_SCALE_MAX;
        row_scale = (float)rs; /* 0 when below the smallest subnormal: the row then is zero */
        if (row_scale > 0.0f) rs_inv = 1.0 / (double)row_scale;
    }
    for (size_t g = 0; g < n_group; g++) {
        if (rs_inv == 0.0) memset(fg_group_at(type, panel, g) + 4 * r, 0, sizeof(float));
        encode_group(type, grid, map, w + g * G, weight == NULL ? NULL : weight + g * G, top,
                     rs_inv, panel, g, r);
    }
    return row_scale;
}

void fg_panel_put_float(fg_qtype type, uint8_t *panel, size_t i, float x)
{
    uint16_t h;
    switch (fg_qtype_packing(type)) {
    case FG_PACK_F32: memcpy(panel + 4 * i, &x, sizeof x); return;
    case FG_PACK_BF16:
        h = fg_f32_to_bf16(x);
        memcpy(panel + 2 * i, &h, sizeof h);
        return;
    case FG_PACK_NIBBLES:
    case FG_PACK_NIBBLES_1:
    case FG_PACK_NIBBLES_2:
    case FG_PACK_BYTES: return;
    }
}

static float get_float(fg_qtype type, const uint8_t *panel, size_t i)
{
    float x = 0.0f;
    uint16_t h;
    switch (fg_qtype_packing(type)) {
    case FG_PACK_F32: memcpy(&x, panel + 4 * i, sizeof x); break;
    case FG_PACK_BF16:
        memcpy(&h, panel + 2 * i, sizeof h);
        x = fg_bf16_to_f32(h);
        break;
    case FG_PACK_NIBBLES:
    case FG_PACK_NIBBLES_1:
    case FG_PACK_NIBBLES_2:
    case FG_PACK_BYTES: break;
    }
    return x;
}

/* Infinity, and for bf16 what rounds to it. */
uint32_t fg_panel_first_refused(fg_qtype type)
{
    switch (fg_qtype_packing(type)) {
    case FG_PACK_BF16: return 0x7f7f8000u;
    case FG_PACK_F32:
    case FG_PACK_NIBBLES:
    case FG_PACK_NIBBLES_1:
    case FG_PACK_NIBBLES_2:
    case FG_PACK_BYTES: break;
    }
    return 0x7f800000u;
}

static void encode_float(fg_qtype type, const float *w, size_t n_col, uint8_t *panel)
{
    for (size_t k = 0; k < n_col; k++) {
        for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
            fg_panel_put_float(type, panel, FG_PANEL_ROWS * k + r, w[r * n_col + k]);
        }
    }
}

static void decode_group(fg_qtype type, const fg_code_map *map, const uint8_t *group, int s,
                         float row_scale, size_t r, float *w)
{
    uint8_t code[G];
    fg_get_codes(type, group, r, code);
    for (size_t i = 0; i < G; i++) w[i] = (float)(s * map->value[code[i]]) * row_scale;
}

static void measure(fg_qtype type, const fg_code_map *map, const float *w, size_t n_group,
                    uint8_t *panel, float row_scale, size_t r, fg_panel_error *error)
{
    double err2 = 0.0, ref2 = 0.0;
    float top = 0.0f;
    for (size_t g = 0; g < n_group; g++) {
        float v[G];
        if (map != NULL) {
            decode_group(type, map, fg_group_at(type, panel, g),
                         (int8_t)*fg_group_scale_at(type, panel, g, r), row_scale, r, v);
        }
        for (size_t i = 0; i < G; i++) {
            const float x = w[g * G + i];
            const size_t at = FG_PANEL_ROWS * (g * G + i) + r;
            const float y = map != NULL ? v[i] : get_float(type, panel, at);
            const double e = (double)x - (double)y;
            err2 += e * e;
            ref2 += (double)x * (double)x;
            top = fabsf(x) > top ? fabsf(x) : top;
        }
    }
    error->err2[r] = err2;
    error->ref2[r] = ref2;
    error->top[r] = top;
}

void fg_panel_measure(fg_qtype type, const fg_lut *lut, uint8_t *panel, const float *row_scale,
                      const float *w, size_t n_col, fg_panel_error *error)
{
    const size_t k = (size_t)fg_n_sb(n_col) * FG_SB_COLS;
    const bool quantized = fg_group_bytes(type) != 0;
    fg_code_map map;
    if (quantized) fg_code_map_init(&map, type, lut);
    error->out_err2 = error->out_ref2 = 0.0;
    for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
        measure(type, quantized ? &map : NULL, w + r * k, k / G, panel,
                quantized ? row_scale[r] : 1.0f, r, error);
    }
}

void fg_panel_encode_weighted(fg_qtype type, const fg_lut *lut, const float *w, const float *weight,
                              size_t n_col, uint8_t *panel, float *row_scale, fg_panel_error *error)
{
    const size_t k = (size_t)fg_n_sb(n_col) * FG_SB_COLS;
    const bool quantized = fg_group_bytes(type) != 0;
    fg_code_map map;
    if (quantized) {
        fg_grid grid;
        fg_grid_init(&grid, type, lut);
        fg_code_map_init(&map, type, lut);
        for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
            row_scale[r] = encode_row(type, &grid, &map, w + r * k, weight, k / G, panel, r);
        }
    } else {
        encode_float(type, w, k, panel);
    }
    if (error != NULL) fg_panel_measure(type, lut, panel, row_scale, w, n_col, error);
}

void fg_panel_encode(fg_qtype type, const fg_lut *lut, const float *w, size_t n_col, uint8_t *panel,
                     float *row_scale, fg_panel_error *error)
{
    fg_panel_encode_weighted(type, lut, w, NULL, n_col, panel, row_scale, error);
}

static void decode_row(fg_qtype type, const fg_code_map *map, const uint8_t *panel, float row_scale,
                       size_t k, size_t r, float *w)
{
    if (map == NULL) {
        for (size_t c = 0; c < k; c++) {
            w[c] = get_float(type, panel, FG_PANEL_ROWS * c + r);
        }
        return;
    }
    const size_t bytes = fg_group_bytes(type);
    for (size_t g = 0; g < k / G; g++) {
        const uint8_t *sb = panel + g / FG_SB_GROUPS * (64 + FG_SB_GROUPS * bytes);
        decode_group(type, map, sb + 64 + g % FG_SB_GROUPS * bytes,
                     (int8_t)sb[4 * r + g % FG_SB_GROUPS], row_scale, r, w + g * G);
    }
}

void fg_panel_decode_row(fg_qtype type, const fg_lut *lut, const uint8_t *panel,
                         const float *row_scale, size_t n_col, size_t r, float *w)
{
    fg_code_map map;
    const bool quantized = fg_group_bytes(type) != 0;
    if (quantized) fg_code_map_init(&map, type, lut);
    decode_row(type, quantized ? &map : NULL, panel, quantized ? row_scale[r] : 1.0f,
               (size_t)fg_n_sb(n_col) * FG_SB_COLS, r, w);
}

void fg_panel_decode(fg_qtype type, const fg_lut *lut, const uint8_t *panel, const float *row_scale,
                     size_t n_col, float *w)
{
    const size_t k = (size_t)fg_n_sb(n_col) * FG_SB_COLS;
    fg_code_map map;
    const bool quantized = fg_group_bytes(type) != 0;
    if (quantized) fg_code_map_init(&map, type, lut);
    for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
        decode_row(type, quantized ? &map : NULL, panel, quantized ? row_scale[r] : 1.0f, k, r,
                   w + r * k);
    }
}
