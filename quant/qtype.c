/* SPDX-License-Identifier: MIT */
#include "quant/qtype.h"

#include <string.h>

/* Superblock = one line of 16 x 4 group scales + the code lines of four groups. */
static const struct {
    fg_qtype type;
    fg_qtype_info info;
} types[] = {
    {FG_TYPE_F32, {"f32", 16 * 128 * 4, false, 32.0}},
    {FG_TYPE_BF16, {"bf16", 16 * 128 * 2, false, 16.0}},
    {FG_TYPE_Q4, {"q4", 64 + 4 * 256, true, 4.25}},
    {FG_TYPE_Q5, {"q5", 64 + 4 * (256 + 64), true, 5.25}},
    {FG_TYPE_Q6, {"q6", 64 + 4 * (256 + 128), true, 6.25}},
    {FG_TYPE_Q8, {"q8", 64 + 4 * 512, true, 8.25}},
};

const fg_qtype_info *fg_qtype_get(uint32_t type)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if ((uint32_t)types[i].type == type) return &types[i].info;
    }
    return NULL;
}

bool fg_qtype_parse(const char *name, fg_qtype *out)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(types[i].info.name, name) == 0) {
            *out = types[i].type;
            return true;
        }
    }
    return false;
}

const fg_lut fg_lut_linear = {{-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}};

/* Found by coordinate descent on a mix of Gaussian and Student-t6 rows (simd/KERNELS.md). */
const fg_lut fg_lut_grid6 = {{-32, -25, -20, -16, -12, -9, -6, -3, 0, 3, 6, 9, 13, 17, 22, 30}};

bool fg_lut_is_linear(const fg_lut *lut)
{
    return memcmp(lut->v, fg_lut_linear.v, sizeof lut->v) == 0;
}

bool fg_lut_is_valid(const fg_lut *lut)
{
    for (int i = 0; i < 16; i++) {
        if (lut->v[i] < -32 || lut->v[i] > 31) return false;
        if (i > 0 && lut->v[i] <= lut->v[i - 1]) return false;
    }
    return true;
}

uint64_t fg_panel_bytes(fg_qtype type, uint64_t n_col)
{
    const fg_qtype_info *info = fg_qtype_get((uint32_t)type);
    return info == NULL ? 0 : fg_n_sb(n_col) * info->sb_bytes;
}
