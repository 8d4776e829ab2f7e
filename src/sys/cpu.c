/* SPDX-License-Identifier: MIT */
#include "src/sys/cpu.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#if defined(__AVX__)
#error "cpu.c must be built for the baseline: it decides whether AVX may be used"
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

/* Each level contains the ones before it, so that a level's flags say what may be used. */
static const struct {
    const char *name;
    uint32_t flags;
} levels[] = {
    {"scalar", FG_CPU_SCALAR},
#if defined(__x86_64__)
    {"avx2", FG_CPU_AVX2},
    {"avx512vnni", FG_CPU_AVX2 | FG_CPU_AVX512VNNI},
    {"amx", FG_CPU_AVX2 | FG_CPU_AVX512VNNI | FG_CPU_AMX},
#elif defined(__aarch64__)
    {"neon", FG_CPU_NEON},
    {"dotprod", FG_CPU_NEON | FG_CPU_DOTPROD},
    {"i8mm", FG_CPU_NEON | FG_CPU_DOTPROD | FG_CPU_I8MM},
#endif
};

#if defined(__x86_64__)
/* Tile data is 8 KiB of state that Linux hands out on request only (arch_prctl, since 5.16). */
static bool amx_granted(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    unsigned a, b, c, d;
    const unsigned amx_tile = 1u << 24, amx_int8 = 1u << 25;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if ((d & amx_tile) == 0 || (d & amx_int8) == 0) return false;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* Not every compiler's __builtin_cpu_supports knows it.  Its registers are those of AVX. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

uint32_t fg_cpu_detect(void)
{
    uint32_t flags = FG_CPU_SCALAR;
#if defined(__x86_64__)
    __builtin_cpu_init(); /* the compiler's own check covers XGETBV */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2") && has_f16c()) {
        flags |= FG_CPU_AVX2;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512vnni")) {
            flags |= FG_CPU_AVX512VNNI;
            if (amx_granted()) flags |= FG_CPU_AMX;
        }
    }
#elif defined(__aarch64__)
    const unsigned long hwcap_asimddp = 1ul << 20, hwcap2_i8mm = 1ul << 13;
    flags |= FG_CPU_NEON;
    if ((getauxval(AT_HWCAP) & hwcap_asimddp) != 0) {
        flags |= FG_CPU_DOTPROD;
        if ((getauxval(AT_HWCAP2) & hwcap2_i8mm) != 0) flags |= FG_CPU_I8MM;
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
#if defined(__x86_64__)
    return "auto, scalar, avx2, avx512vnni, amx";
#elif defined(__aarch64__)
    return "auto, scalar, neon, dotprod, i8mm";
#else
    return "auto, scalar";
#endif
}
