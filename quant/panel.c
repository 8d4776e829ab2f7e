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

#include <float.h>
#include <math.h>
#include <string.h>

#include "quant/search.h"
#include "src/base/fp.h"

enum { G = FG_GROUP_COLS };

/* Above this row scale a decoded value s * v * row_scale (|s| <= 127, |v| <= 128) could overflow;
 * only rows beyond 2e37 meet it, and lose their largest values. */
static const double row_scale_max = (double)FLT_MAX / (127.0 * 128.0 * 1.0001);

static size_t group_bytes(fg_qtype type)
{
    switch (type) {
    case FG_TYPE_Q4: return 256;
    case FG_TYPE_Q5: return 256 + 64;
    case FG_TYPE_Q6: return 256 + 128;
    case FG_TYPE_Q8: return 512;
    case FG_TYPE_F32:
    case FG_TYPE_BF16: break;
    }
    return 0;
}

/* First byte of group g, counted over the panel, and of its scale for row r. */
static uint8_t *group_at(fg_qtype type, uint8_t *panel, size_t g)
{
    const size_t bytes = group_bytes(type);
    return panel + g / FG_SB_GROUPS * (64 + FG_SB_GROUPS * bytes) + 64 + g % FG_SB_GROUPS * bytes;
}

static uint8_t *scale_at(fg_qtype type, uint8_t *panel, size_t g, size_t r)
{
    return panel + g / FG_SB_GROUPS * (64 + FG_SB_GROUPS * group_bytes(type)) + 4 * r +
           g % FG_SB_GROUPS;
}

/* Writes the 32 codes of row r into the group; all bits of the row's bytes are set. */
static void put_codes(fg_qtype type, uint8_t *group, size_t r, const uint8_t *code)
{
    uint8_t *row = group + 4 * r;
    if (type == FG_TYPE_Q8) {
        for (size_t k = 0; k < G; k++) row[64 * (k / 4) + k % 4] = code[k];
        return;
    }
    for (size_t k = 0; k < 16; k++) {
        row[64 * (k / 4) + k % 4] = (uint8_t)((code[k] & 15u) | (code[k + 16] & 15u) << 4);
    }
    row += 256;
    for (size_t b = 0; b < 4; b++) {
        if (type == FG_TYPE_Q5) {
            uint32_t bits = 0;
            for (size_t f = 0; f < 8; f++) bits |= ((uint32_t)code[4 * f + b] >> 4 & 1u) << f;
            row[b] = (uint8_t)bits;
        }
        for (size_t h = 0; h < 2 && type == FG_TYPE_Q6; h++) {
            uint32_t bits = 0;
            for (size_t j = 0; j < 4; j++) {
                bits |= ((uint32_t)code[16 * h + 4 * j + b] >> 4 & 3u) << (2 * j);
            }
            row[64 * h + b] = (uint8_t)bits;
        }
    }
}

static void get_codes(fg_qtype type, const uint8_t *group, size_t r, uint8_t *code)
{
    const uint8_t *row = group + 4 * r;
    if (type == FG_TYPE_Q8) {
        for (size_t k = 0; k < G; k++) code[k] = row[64 * (k / 4) + k % 4];
        return;
    }
    for (size_t k = 0; k < G; k++) {
        const uint32_t byte = row[64 * (k % 16 / 4) + k % 4];
        uint32_t c = k < 16 ? byte & 15u : byte >> 4;
        if (type == FG_TYPE_Q5) {
            c |= ((uint32_t)row[256 + k % 4] >> (k / 4) & 1u) << 4;
        }
        if (type == FG_TYPE_Q6) {
            c |= ((uint32_t)row[256 + 64 * (k / 16) + k % 4] >> (2 * (k % 16 / 4)) & 3u) << 4;
        }
        code[k] = (uint8_t)c;
    }
}

/* Grid value of each code (q8: of the byte), and the way back. */
typedef struct code_map {
    int8_t value[256];
    uint8_t code[256]; /* indexed by value + 128 */
} code_map;

static void code_map_init(code_map *m, fg_qtype type, const fg_lut *lut)
{
    memset(m, 0, sizeof *m);
    const int n = type == FG_TYPE_Q4 ? 16 : type == FG_TYPE_Q5 ? 32 : type == FG_TYPE_Q6 ? 64 : 256;
    for (int c = 0; c < n; c++) {
        const int v = type == FG_TYPE_Q4   ? lut->v[c]
                      : type == FG_TYPE_Q8 ? (c < 128 ? c : c - 256)
                                           : c - n / 2;
        m->value[c] = (int8_t)v;
        m->code[v + 128] = (uint8_t)c;
    }
}

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
static float search_row(fg_qtype type, const fg_grid *grid, const float *w, size_t n_group,
                        double top, uint8_t *panel, size_t r)
{
    float largest = 0.0f;
    for (size_t g = 0; g < n_group; g++) {
        float x[G], scale = 0.0f;
        const float extreme = extreme_of(w + g * G, G);
        if (extreme != 0.0f) {
            const double size = fabs((double)extreme);
            load_scaled(w + g * G, 1.0 / size, x);
            scale = (float)((double)fg_search_scale(grid, x, extreme < 0 ? -1.0f : 1.0f) *
                            (size / top));
        }
        memcpy(group_at(type, panel, g) + 4 * r, &scale, sizeof scale);
        if (fabsf(scale) > largest) largest = fabsf(scale);
    }
    return largest;
}

/* Pass 2 for one group: int8 scale and codes.  rs_inv = 1 / row scale, 0 for a zero row. */
static void encode_group(fg_qtype type, const fg_grid *grid, const code_map *map, const float *w,
                         double top, double rs_inv, uint8_t *panel, size_t g, size_t r)
{
    float x[G], q[G], want;
    uint8_t code[G];
    uint8_t *group = group_at(type, panel, g);
    memcpy(&want, group + 4 * r, sizeof want);
    load_scaled(w, rs_inv, x);
    const float target = (float)((double)want * top * rs_inv);
    const int s = want == 0.0f ? 0 : fg_search_int_scale(grid, x, target);
    if (s == 0) memset(x, 0, sizeof x); /* all codes zero: one form for a group of no weight */
    fg_grid_round(grid, x, s == 0 ? 0.0f : 1.0f / (float)s, q);
    for (size_t i = 0; i < G; i++) code[i] = map->code[(int)q[i] + 128];
    put_codes(type, group, r, code);
    *scale_at(type, panel, g, r) = (uint8_t)s;
}

static float encode_row(fg_qtype type, const fg_grid *grid, const code_map *map, const float *w,
                        size_t n_group, uint8_t *panel, size_t r)
{
    const double top = fabs((double)extreme_of(w, n_group * G));
    float row_scale = 0.0f;
    double rs_inv = 0.0;
    if (top > 0.0) {
        double rs = (double)search_row(type, grid, w, n_group, top, panel, r) * top / 127.0;
        rs = rs < row_scale_max ? rs : row_scale_max;
        row_scale = (float)rs; /* 0 when below the smallest subnormal: the row then is zero */
        if (row_scale > 0.0f) rs_inv = 1.0 / (double)row_scale;
    }
    for (size_t g = 0; g < n_group; g++) {
        if (rs_inv == 0.0) memset(group_at(type, panel, g) + 4 * r, 0, sizeof(float));
        encode_group(type, grid, map, w + g * G, top, rs_inv, panel, g, r);
    }
    return row_scale;
}

/* f32 and bf16: [column][16 rows]. */
static void encode_float(bool bf16, const float *w, size_t n_col, uint8_t *panel)
{
    for (size_t k = 0; k < n_col; k++) {
        for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
            const float x = w[r * n_col + k];
            if (bf16) {
                const uint16_t h = fg_f32_to_bf16(x);
                memcpy(panel + 2 * (FG_PANEL_ROWS * k + r), &h, sizeof h);
            } else {
                memcpy(panel + 4 * (FG_PANEL_ROWS * k + r), &x, sizeof x);
            }
        }
    }
}

static void decode_group(fg_qtype type, const code_map *map, const uint8_t *group, int s,
                         float row_scale, size_t r, float *w)
{
    uint8_t code[G];
    get_codes(type, group, r, code);
    for (size_t i = 0; i < G; i++) w[i] = (float)(s * map->value[code[i]]) * row_scale;
}

static void measure(fg_qtype type, const code_map *map, const float *w, size_t n_group,
                    uint8_t *panel, float row_scale, size_t r, fg_panel_error *error)
{
    double err2 = 0.0, ref2 = 0.0;
    for (size_t g = 0; g < n_group; g++) {
        float v[G];
        if (map != NULL) {
            decode_group(type, map, group_at(type, panel, g), (int8_t)*scale_at(type, panel, g, r),
                         row_scale, r, v);
        }
        for (size_t i = 0; i < G; i++) {
            const float x = w[g * G + i];
            const float y = map != NULL            ? v[i]
                            : type == FG_TYPE_BF16 ? fg_bf16_to_f32(fg_f32_to_bf16(x))
                                                   : x;
            const double e = (double)x - (double)y;
            err2 += e * e;
            ref2 += (double)x * (double)x;
        }
    }
    error->err2[r] = err2;
    error->ref2[r] = ref2;
}

void fg_panel_encode(fg_qtype type, const fg_lut *lut, const float *w, size_t n_col, uint8_t *panel,
                     float *row_scale, fg_panel_error *error)
{
    const size_t k = (size_t)fg_n_sb(n_col) * FG_SB_COLS;
    const bool quantized = group_bytes(type) != 0;
    code_map map;
    if (quantized) {
        fg_grid grid;
        fg_grid_init(&grid, type, lut);
        code_map_init(&map, type, lut);
        for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
            row_scale[r] = encode_row(type, &grid, &map, w + r * k, k / G, panel, r);
        }
    } else {
        encode_float(type == FG_TYPE_BF16, w, k, panel);
    }
    if (error == NULL) return;
    for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
        measure(type, quantized ? &map : NULL, w + r * k, k / G, panel,
                quantized ? row_scale[r] : 1.0f, r, error);
    }
}

static void decode_row(fg_qtype type, const code_map *map, const uint8_t *panel, float row_scale,
                       size_t k, size_t r, float *w)
{
    if (type == FG_TYPE_F32) {
        for (size_t c = 0; c < k; c++) {
            memcpy(&w[c], panel + 4 * (FG_PANEL_ROWS * c + r), sizeof w[c]);
        }
        return;
    }
    if (type == FG_TYPE_BF16) {
        for (size_t c = 0; c < k; c++) {
            uint16_t h;
            memcpy(&h, panel + 2 * (FG_PANEL_ROWS * c + r), sizeof h);
            w[c] = fg_bf16_to_f32(h);
        }
        return;
    }
    const size_t bytes = group_bytes(type);
    for (size_t g = 0; g < k / G; g++) {
        const uint8_t *sb = panel + g / FG_SB_GROUPS * (64 + FG_SB_GROUPS * bytes);
        decode_group(type, map, sb + 64 + g % FG_SB_GROUPS * bytes,
                     (int8_t)sb[4 * r + g % FG_SB_GROUPS], row_scale, r, w + g * G);
    }
}

void fg_panel_decode_row(fg_qtype type, const fg_lut *lut, const uint8_t *panel,
                         const float *row_scale, size_t n_col, size_t r, float *w)
{
    code_map map;
    const bool quantized = group_bytes(type) != 0;
    if (quantized) code_map_init(&map, type, lut);
    decode_row(type, &map, panel, quantized ? row_scale[r] : 1.0f,
               (size_t)fg_n_sb(n_col) * FG_SB_COLS, r, w);
}

void fg_panel_decode(fg_qtype type, const fg_lut *lut, const uint8_t *panel, const float *row_scale,
                     size_t n_col, float *w)
{
    const size_t k = (size_t)fg_n_sb(n_col) * FG_SB_COLS;
    code_map map;
    const bool quantized = group_bytes(type) != 0;
    if (quantized) code_map_init(&map, type, lut);
    for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
        decode_row(type, &map, panel, quantized ? row_scale[r] : 1.0f, k, r, w + r * k);
    }
}
