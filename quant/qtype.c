/* SPDX-License-Identifier: MIT */
#include "quant/qtype.h"

#include <string.h>

/* What a row must hold together. */
#define FG_QTYPE(id, name, value, packing, n_code, grid, first, last, table, kld, kld_head, read)  \
    _Static_assert(((n_code) == 0) == (FG_PACK_##packing >= FG_PACK_BF16), #name ": packing");     \
    _Static_assert(((n_code) == 0) == (FG_GRID_##grid == FG_GRID_NONE), #name ": grid");           \
    _Static_assert((n_code) <= 256 && ((n_code) & ((n_code)-1)) == 0, #name ": codes");            \
    _Static_assert(FG_PACK_##packing >= 16 || (n_code) <= 1 << FG_PACK_##packing, #name ": bits"); \
    _Static_assert(FG_GRID_##grid != FG_GRID_TABLE || (n_code) == sizeof(fg_lut), #name ": lut");  \
    _Static_assert(FG_GRID_##grid != FG_GRID_INT8 ||                                               \
                       ((n_code) == 256 && FG_PACK_##packing == FG_PACK_BYTES),                    \
                   #name ": every byte is a code");                                                \
    _Static_assert(((n_code) > 0) == (FG_KIND_##id < (int)FG_KIND_QUANTIZED), #name ": order");    \
    _Static_assert(((kld) > 0) == ((kld_head) > 0) && ((kld) == 0 || (n_code) > 0), #name ": "     \
                                                                                          "kld");
#include "quant/types.inc"

/* Superblock: the code lines of 4 groups, 128 x 16 weights, and a line of 16 x 4 group scales. */
static const fg_qtype_info infos[FG_QTYPE_END] = {
#define FG_QTYPE(id, name_, value, pack, n, grid_, first_, last_, table_, kld_, head_, read)       \
    [FG_TYPE_##id] = {.name = #name_,                                                              \
                      .type = FG_TYPE_##id,                                                        \
                      .kind = FG_KIND_##id,                                                        \
                      .packing = FG_PACK_##pack,                                                   \
                      .grid = FG_GRID_##grid_,                                                     \
                      .n_code = (n),                                                               \
                      .sb_bytes = 256 * FG_PACK_##pack + ((n) > 0 ? 64 : 0),                       \
                      .quantized = (n) > 0,                                                        \
                      .bits = (double)FG_PACK_##pack + ((n) > 0 ? 0.25 : 0.0),                     \
                      .first = (first_),                                                           \
                      .last = (last_),                                                             \
                      .table = (table_),                                                           \
                      .kld = (kld_),                                                               \
                      .kld_head = (head_),                                                         \
                      .read_version = (read)},
#include "quant/types.inc"
};

static const fg_qtype order[FG_QTYPE_COUNT] = {
#define FG_QTYPE(id, ...) FG_TYPE_##id,
#include "quant/types.inc"
};

const fg_qkind_info fg_qkinds[FG_KIND_COUNT] = {
#define FG_QTYPE(id, name, value, packing, n_code, grid, first, last, table, ...)                  \
    {#name, "panel_" #name, FG_TYPE_##id, table},
#define FG_QKIND(id, name, of, table) {#name, "panel_" #name, FG_TYPE_##of, table},
#include "quant/types.inc"
};

/* Each with ", " before it. */
static const char type_names[] =
#define FG_QTYPE(id, name, ...) ", " #name
#include "quant/types.inc"
    ;
static const char kind_names[] =
#define FG_QTYPE(id, name, ...) ", " #name
#define FG_QKIND(id, name, ...) ", " #name
#include "quant/types.inc"
    ;
const char *const fg_qtype_names = type_names + 2;
const char *const fg_qkind_names = kind_names + 2;

const fg_qtype_info *fg_qtype_get(uint32_t type)
{
    return type < FG_QTYPE_END && infos[type].name != NULL ? &infos[type] : NULL;
}

const fg_qtype_info *fg_qtype_at(uint32_t i)
{
    return &infos[order[i]];
}

bool fg_qtype_parse(const char *name, fg_qtype *out)
{
    for (uint32_t i = 0; i < FG_QTYPE_COUNT; i++) {
        const fg_qtype_info *info = fg_qtype_at(i);
        if (strcmp(info->name, name) == 0) {
            *out = info->type;
            return true;
        }
    }
    return false;
}

bool fg_qtype_has_table(uint32_t type)
{
    const fg_qtype_info *info = fg_qtype_get(type);
    return info != NULL && info->grid == FG_GRID_TABLE;
}

fg_qkind fg_qkind_of(uint32_t type, const fg_lut *lut)
{
    const fg_qtype_info *info = fg_qtype_get(type);
    if (info == NULL || (fg_qtype_has_table(type) && lut == NULL)) return FG_KIND_COUNT;
    for (uint32_t i = 0; i < FG_KIND_COUNT && fg_qtype_has_table(type); i++) {
        const fg_qkind_info *kind = &fg_qkinds[i];
        if (kind->type != info->type || i == (uint32_t)info->kind) continue;
        if (memcmp(kind->lut, lut, sizeof *lut) == 0) return (fg_qkind)i;
    }
    return info->kind;
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

uint64_t fg_panel_bytes_least(uint64_t n_col)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < FG_QTYPE_COUNT; i++) {
        const uint64_t bytes = fg_panel_bytes(order[i], n_col);
        if (bytes < least) least = bytes;
    }
    return least;
}

uint64_t fg_panel_bytes_most(uint64_t n_col)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < FG_QTYPE_COUNT; i++) {
        const uint64_t bytes = fg_panel_bytes(order[i], n_col);
        if (bytes > most) most = bytes;
    }
    return most;
}
