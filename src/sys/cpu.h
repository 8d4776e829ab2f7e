/* SPDX-License-Identifier: MIT
 *
 * CPU levels: sets of features that a kernel may require, and the levels a user may force.
 */
#ifndef FG_SRC_SYS_CPU_H
#define FG_SRC_SYS_CPU_H

#include <stdint.h>

#include "src/base/status.h"
#include "src/fulgur.h"

enum {
    FG_CPU_SCALAR = 0,
    FG_CPU_AVX2 = 1 << 0,       /* AVX2, FMA, F16C, BMI2, and the OS saves ymm */
    FG_CPU_AVX512VNNI = 1 << 1, /* AVX-512 F, BW, DQ, VL, VNNI (Ice Lake, Zen 4), zmm saved */
    FG_CPU_AMX = 1 << 2,        /* AMX-TILE, AMX-INT8, AVX-512-VBMI; the OS grants tile state */
    FG_CPU_NEON = 1 << 3,       /* ARMv8 baseline */
    FG_CPU_DOTPROD = 1 << 4,    /* sdot (ARMv8.2) */
    FG_CPU_I8MM = 1 << 5,       /* smmla (ARMv8.6) */
};

/* Features of this machine. */
uint32_t fg_cpu_detect(void);

/* Best level contained in flags. */
fg_cpu_level fg_cpu_level_of(uint32_t flags);

/* What the kernels of a level may use; AUTO: all that there is.  FG_EINVAL: this build has no such
 * level; FG_ENOTSUP: this machine lacks it. */
fg_status fg_cpu_level_flags(fg_cpu_level level, uint32_t *flags, fg_err *err);

#endif
