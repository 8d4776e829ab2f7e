/* SPDX-License-Identifier: MIT */
#include "quant/codes.h"

#include <string.h>

enum { G = FG_GROUP_COLS };

size_t fg_group_bytes(fg_qtype type)
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

/* Writes the 32 codes of row r into the group; all bits of the row's bytes are set. */
void fg_put_codes(fg_qtype type, uint8_t *group, size_t r, const uint8_t *code)
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

void fg_get_codes(fg_qtype type, const uint8_t *group, size_t r, uint8_t *code)
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

void fg_code_map_init(fg_code_map *m, fg_qtype type, const fg_lut *lut)
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
