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
    FG_CPU_AVX2 = 1 << 0, /* AVX2, FMA, F16C, BMI2, and the OS saves ymm */
};

/* Features of this machine. */
uint32_t fg_cpu_detect(void);

/* Name of the best level contained in flags: "scalar", "avx2". */
const char *fg_cpu_level_name(uint32_t flags);

/* Level name to flags ("auto" = detected).  False when the name is unknown; *missing is true when
 * this machine lacks the level. */
bool fg_cpu_level_parse(const char *name, uint32_t *flags, bool *missing);

/* Names of all levels known to this build, for messages: "auto, scalar, avx2". */
const char *fg_cpu_level_names(void);

#endif
