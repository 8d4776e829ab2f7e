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

/* A q4 matrix without a table has no meaning, so it gets no kernel. */
fg_panel_fn *fg_kernels_panel(const fg_kernels *k, fg_qtype type, const fg_lut *lut)
{
    switch (type) {
    case FG_TYPE_F32: return k->panel_f32;
    case FG_TYPE_BF16: return k->panel_bf16;
    case FG_TYPE_Q4:
        if (lut == NULL) return NULL;
        return fg_lut_is_linear(lut) ? k->panel_q4lin : k->panel_q4;
    case FG_TYPE_Q5: return k->panel_q5;
    case FG_TYPE_Q6: return k->panel_q6;
    case FG_TYPE_Q8: return k->panel_q8;
    }
    return NULL;
}
