/* SPDX-License-Identifier: MIT
 *
 * Fills the kernel table from kernels.inc.  The list is in rising order, so a plain pass over it
 * leaves the best permitted variant in each slot; nothing is looked up at run time.
 */
#include "simd/kernels.h"

#include "simd/kernels_decl.h"
#include "src/sys/cpu.h"

#if defined(__AVX__)
#error "dispatch.c must be built for the baseline: it runs before the level is known"
#endif

void fg_kernels_init(fg_kernels *k, uint32_t cpu_flags)
{
    for (size_t i = 0; i < FG_KIND_QUANTIZED; i++) k->tiles[i] = NULL;
    k->pattern = NULL;
#define FG_KERNEL(slot, type, symbol, features)                                                    \
    if ((cpu_flags & (uint32_t)(features)) == (uint32_t)(features)) k->slot = symbol;
#include "simd/kernels.inc"
#undef FG_KERNEL
}

uint32_t fg_kernels_used(uint32_t cpu_flags)
{
    uint32_t used = 0;
#define FG_KERNEL(slot, type, symbol, features)                                                    \
    if ((cpu_flags & (uint32_t)(features)) == (uint32_t)(features)) used |= (uint32_t)(features);
#include "simd/kernels.inc"
#undef FG_KERNEL
    return used;
}

bool fg_kernels_tiled(uint32_t cpu_flags)
{
    fg_kernels k;
    fg_kernels_init(&k, cpu_flags);
    return k.tiles[0] != NULL;
}

/* The compiler finds a type without a scalar kernel; missing levels are found by tests/checkasm. */
#define FG_QTYPE(id, name, ...)                                                                    \
    _Static_assert(sizeof(&fg_panel_##name##__scalar) == sizeof(fg_panel_fn *), #name);
#define FG_QKIND(id, name, ...) FG_QTYPE(id, name, )
#include "quant/types.inc"

fg_panel_fn *fg_kernels_panel(const fg_kernels *k, fg_qtype type, const fg_lut *lut)
{
    const fg_qkind kind = fg_qkind_of((uint32_t)type, lut);
    return kind == FG_KIND_COUNT ? NULL : k->panel[kind];
}

fg_tiles_fn *fg_kernels_tiles(const fg_kernels *k, fg_qtype type, const fg_lut *lut)
{
    const fg_qkind kind = fg_qkind_of((uint32_t)type, lut);
    return (uint32_t)kind < FG_KIND_QUANTIZED ? k->tiles[kind] : NULL;
}
