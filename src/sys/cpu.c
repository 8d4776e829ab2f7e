/* SPDX-License-Identifier: MIT */
#include "src/sys/cpu.h"

#include <stdbool.h>
#include <stddef.h>

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

/* Each level contains the ones before it, so that a level's flags say what may be used.  Without a
 * name: of another architecture. */
static const struct {
    const char *name;
    uint32_t flags;
} levels[FG_CPU_LEVEL_COUNT] = {
    [FG_CPU_LEVEL_AUTO] = {"auto", 0}, /* not these flags: what there is */
    [FG_CPU_LEVEL_SCALAR] = {"scalar", FG_CPU_SCALAR},
#if defined(__x86_64__)
    [FG_CPU_LEVEL_AVX2] = {"avx2", FG_CPU_AVX2},
    [FG_CPU_LEVEL_AVX512VNNI] = {"avx512vnni", FG_CPU_AVX2 | FG_CPU_AVX512VNNI},
    [FG_CPU_LEVEL_AMX] = {"amx", FG_CPU_AVX2 | FG_CPU_AVX512VNNI | FG_CPU_AMX},
#elif defined(__aarch64__)
    [FG_CPU_LEVEL_NEON] = {"neon", FG_CPU_NEON},
    [FG_CPU_LEVEL_DOTPROD] = {"dotprod", FG_CPU_NEON | FG_CPU_DOTPROD},
    [FG_CPU_LEVEL_I8MM] = {"i8mm", FG_CPU_NEON | FG_CPU_DOTPROD | FG_CPU_I8MM},
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
            if (__builtin_cpu_supports("avx512vbmi") && amx_granted()) flags |= FG_CPU_AMX;
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

const char *fg_cpu_level_name(fg_cpu_level level)
{
    return (uint32_t)level < FG_CPU_LEVEL_COUNT ? levels[level].name : NULL;
}

fg_cpu_level fg_cpu_level_of(uint32_t flags)
{
    fg_cpu_level best = FG_CPU_LEVEL_SCALAR;
    for (uint32_t i = FG_CPU_LEVEL_SCALAR; i < FG_CPU_LEVEL_COUNT; i++) {
        if (levels[i].name == NULL) continue;
        if ((flags & levels[i].flags) == levels[i].flags) best = (fg_cpu_level)i;
    }
    return best;
}

fg_status fg_cpu_level_flags(fg_cpu_level level, uint32_t *flags, fg_err *err)
{
    const uint32_t have = fg_cpu_detect();
    const char *name = fg_cpu_level_name(level);
    *flags = have;
    if (name == NULL) {
        return fg_fail(err, FG_EINVAL, "cpu: level %u, expected one that this build has",
                       (uint32_t)level);
    }
    if (level == FG_CPU_LEVEL_AUTO) return FG_OK;
    *flags = levels[level].flags;
    if ((levels[level].flags & ~have) == 0) return FG_OK;
    return fg_fail(err, FG_ENOTSUP, "cpu: this machine lacks %s, expected at most %s", name,
                   fg_cpu_level_name(fg_cpu_level_of(have)));
}
