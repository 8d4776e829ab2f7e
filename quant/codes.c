/* SPDX-License-Identifier: MIT */
#include "quant/codes.h"

#include <string.h>

enum { G = FG_GROUP_COLS };

size_t fg_group_bytes(fg_qtype type)
{
    switch (type) {
#define FG_QTYPE(id, name, value, packing, n_code, ...)                                            \
    case FG_TYPE_##id:                                                                             \
        return (n_code) > 0 ? 64 * (size_t)FG_PACK_##packing : 0;
#include "quant/types.inc"
    }
    return 0;
}

/* First byte of group g, counted over the panel, and of its scale for row r. */
uint8_t *fg_group_at(fg_qtype type, uint8_t *panel, size_t g)
{
    const size_t bytes = fg_group_bytes(type);
    return panel + g / FG_SB_GROUPS * (64 + FG_SB_GROUPS * bytes) + 64 + g % FG_SB_GROUPS * bytes;
}

uint8_t *fg_group_scale_at(fg_qtype type, uint8_t *panel, size_t g, size_t r)
{
    return panel + g / FG_SB_GROUPS * (64 + FG_SB_GROUPS * fg_group_bytes(type)) + 4 * r +
           g % FG_SB_GROUPS;
}

/* row: the bytes of one row in the lines of that part. */
static void put_nibbles(uint8_t *row, const uint8_t *code)
{
    for (size_t k = 0; k < 16; k++) {
        row[64 * (k / 4) + k % 4] = (uint8_t)((code[k] & 15u) | (code[k + 16] & 15u) << 4);
    }
}

static void put_fifth_bits(uint8_t *row, const uint8_t *code)
{
    for (size_t b = 0; b < 4; b++) {
        uint32_t bits = 0;
        for (size_t f = 0; f < 8; f++) bits |= ((uint32_t)code[4 * f + b] >> 4 & 1u) << f;
        row[b] = (uint8_t)bits;
    }
}

static void put_upper_pairs(uint8_t *row, const uint8_t *code)
{
    for (size_t i = 0; i < 8; i++) {
        const size_t h = i / 4, b = i % 4;
        uint32_t bits = 0;
        for (size_t j = 0; j < 4; j++) {
            bits |= ((uint32_t)code[16 * h + 4 * j + b] >> 4 & 3u) << (2 * j);
        }
        row[64 * h + b] = (uint8_t)bits;
    }
}

/* Writes the 32 codes of row r into the group; all bits of the row's bytes are set. */
void fg_put_codes(fg_qtype type, uint8_t *group, size_t r, const uint8_t *code)
{
    uint8_t *row = group + 4 * r;
    switch (fg_qtype_packing(type)) {
    case FG_PACK_NIBBLES: put_nibbles(row, code); return;
    case FG_PACK_NIBBLES_1:
        put_nibbles(row, code);
        put_fifth_bits(row + 256, code);
        return;
    case FG_PACK_NIBBLES_2:
        put_nibbles(row, code);
        put_upper_pairs(row + 256, code);
        return;
    case FG_PACK_BYTES:
        for (size_t k = 0; k < G; k++) row[64 * (k / 4) + k % 4] = code[k];
        return;
    case FG_PACK_BF16:
    case FG_PACK_F32: return;
    }
}

static void get_nibbles(const uint8_t *row, uint8_t *code)
{
    for (size_t k = 0; k < G; k++) {
        const uint32_t byte = row[64 * (k % 16 / 4) + k % 4];
        code[k] = (uint8_t)(k < 16 ? byte & 15u : byte >> 4);
    }
}

void fg_get_codes(fg_qtype type, const uint8_t *group, size_t r, uint8_t *code)
{
    const uint8_t *row = group + 4 * r;
    switch (fg_qtype_packing(type)) {
    case FG_PACK_NIBBLES: get_nibbles(row, code); return;
    case FG_PACK_NIBBLES_1:
        get_nibbles(row, code);
        for (size_t k = 0; k < G; k++) {
            code[k] |= (uint8_t)(((uint32_t)row[256 + k % 4] >> (k / 4) & 1u) << 4);
        }
        return;
    case FG_PACK_NIBBLES_2:
        get_nibbles(row, code);
        for (size_t k = 0; k < G; k++) {
            const uint32_t byte = row[256 + 64 * (k / 16) + k % 4];
            code[k] |= (uint8_t)((byte >> (2 * (k % 16 / 4)) & 3u) << 4);
        }
        return;
    case FG_PACK_BYTES:
        for (size_t k = 0; k < G; k++) code[k] = row[64 * (k / 4) + k % 4];
        return;
    case FG_PACK_BF16:
    case FG_PACK_F32: return;
    }
}

static int value_of(const fg_qtype_info *info, const fg_lut *lut, int c)
{
    switch (info->grid) {
    case FG_GRID_TABLE: return lut->v[c];
    case FG_GRID_OFFSET: return c - (int)info->n_code / 2;
    case FG_GRID_INT8: return c < 128 ? c : c - 256;
    case FG_GRID_NONE: break;
    }
    return 0;
}

void fg_code_map_init(fg_code_map *m, fg_qtype type, const fg_lut *lut)
{
    const fg_qtype_info *info = fg_qtype_get((uint32_t)type);
    memset(m, 0, sizeof *m);
    for (int c = 0; c < (int)info->n_code; c++) {
        const int v = value_of(info, lut, c);
        m->value[c] = (int8_t)v;
        m->code[v + 128] = (uint8_t)c;
    }
}
