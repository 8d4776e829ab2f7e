/* SPDX-License-Identifier: MIT */
#include "src/sys/cpu.h"

#include <stddef.h>
#include <string.h>

#if defined(__AVX__)
#error "cpu.c must be built for the baseline: it decides whether AVX may be used"
#endif

static const struct {
    const char *name;
    uint32_t flags;
} levels[] = {
    {"scalar", FG_CPU_SCALAR},
    {"avx2", FG_CPU_AVX2},
};

uint32_t fg_cpu_detect(void)
{
    uint32_t flags = FG_CPU_SCALAR;
#if defined(__x86_64__)
    __builtin_cpu_init(); /* the compiler's own check covers XGETBV */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2")) {
        flags |= FG_CPU_AVX2;
    }
#endif
    return flags;
}

const char *fg_cpu_level_name(uint32_t flags)
{
    const char *best = levels[0].name;
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        if ((flags & levels[i].flags) == levels[i].flags) best = levels[i].name;
    }
    return best;
}

bool fg_cpu_level_parse(const char *name, uint32_t *flags, bool *missing)
{
    const uint32_t have = fg_cpu_detect();
    *missing = false;
    if (strcmp(name, "auto") == 0) {
        *flags = have;
        return true;
    }
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        if (strcmp(levels[i].name, name) != 0) continue;
        *flags = levels[i].flags;
        *missing = (levels[i].flags & ~have) != 0;
        return true;
    }
    return false;
}

const char *fg_cpu_level_names(void)
{
    return "auto, scalar, avx2";
}
