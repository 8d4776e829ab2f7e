/* SPDX-License-Identifier: MIT
 *
 * CPU levels: sets of features that a kernel may require, and the levels a user may force.
 */
#ifndef FG_SRC_SYS_CPU_H
#define FG_SRC_SYS_CPU_H

#include <stdbool.h>
#include <stdint.h>

enum {
    FG_CPU_SCALAR = 0,
    FG_CPU_AVX2 = 1 << 0,       /* AVX2, FMA, F16C, BMI2, and the OS saves ymm */
    FG_CPU_AVX512VNNI = 1 << 1, /* AVX-512 F, BW, DQ, VL, VNNI (Ice Lake, Zen 4), zmm saved */
    FG_CPU_AMX = 1 << 2,        /* AMX-TILE, AMX-INT8, and the OS grants the tile state */
    FG_CPU_NEON = 1 << 3,       /* ARMv8 baseline */
    FG_CPU_DOTPROD = 1 << 4,    /* sdot (ARMv8.2) */
    FG_CPU_I8MM = 1 << 5,       /* smmla (ARMv8.6) */
};

/* Features of this machine. */
uint32_t fg_cpu_detect(void);

/* Name of the best level contained in flags: "scalar", "avx2", ... */
const char *fg_cpu_level_name(uint32_t flags);

/* Level name to flags ("auto" = detected).  False when the name is unknown; *missing is true when
 * this machine lacks the level. */
bool fg_cpu_level_parse(const char *name, uint32_t *flags, bool *missing);

/* Names of all levels known to this build, for messages: "auto, scalar, ...". */
const char *fg_cpu_level_names(void);

#endif
