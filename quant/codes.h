/* SPDX-License-Identifier: MIT
 *
 * Where the codes and scales of a panel lie (FORMAT.md 6): the bit packing shared by the encoders
 * and the decoder.
 */
#ifndef FG_QUANT_CODES_H
#define FG_QUANT_CODES_H

#include <stddef.h>
#include <stdint.h>

#include "quant/qtype.h"

/* Bytes of the code lines of one group; 0 for f32 and bf16. */
size_t fg_group_bytes(fg_qtype type);

/* First byte of group g, counted over the panel, and of its int8 scale for row r. */
uint8_t *fg_group_at(fg_qtype type, uint8_t *panel, size_t g);
uint8_t *fg_group_scale_at(fg_qtype type, uint8_t *panel, size_t g, size_t r);

/* The 32 codes of row r of a group; putting sets all bits of the row's bytes. */
void fg_put_codes(fg_qtype type, uint8_t *group, size_t r, const uint8_t *code);
void fg_get_codes(fg_qtype type, const uint8_t *group, size_t r, uint8_t *code);

/* Grid value of each code, and the way back; type: a quantized one. */
typedef struct fg_code_map {
    int8_t value[256];
    uint8_t code[256]; /* indexed by value + 128 */
} fg_code_map;
void fg_code_map_init(fg_code_map *m, fg_qtype type, const fg_lut *lut);

#endif
