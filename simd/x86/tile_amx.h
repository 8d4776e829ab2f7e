/* SPDX-License-Identifier: MIT
 *
 * The AMX instructions that panels, attention and the peak use, or, with FG_AMX_SHIM defined, the
 * same in plain C: few machines have them and no emulator at hand does.  Tile numbers are literals.
 */
#ifndef FG_SIMD_X86_TILE_AMX_H
#define FG_SIMD_X86_TILE_AMX_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

enum { AMX_TILES = 8, AMX_ROWS = 16, AMX_BYTES = 64 };

/* The operand of ldtilecfg. */
typedef struct amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16]; /* of a row, by tile */
    uint8_t rows[16];
} amx_config;
_Static_assert(sizeof(amx_config) == 64, "tile configuration is 64 bytes");

#if defined(FG_AMX_SHIM)

static _Thread_local struct {
    amx_config config;
    uint8_t tile[AMX_TILES][AMX_ROWS][AMX_BYTES];
} amx_shim;

static inline void amx_shim_zero(int t)
{
    memset(amx_shim.tile[t], 0, sizeof amx_shim.tile[t]);
}
static inline void amx_shim_load(int t, const void *p, size_t stride)
{
    amx_shim_zero(t); /* rows and bytes beyond the configuration read as zero */
    for (size_t r = 0; r < amx_shim.config.rows[t]; r++) {
        memcpy(amx_shim.tile[t][r], (const uint8_t *)p + r * stride, amx_shim.config.bytes[t]);
    }
}
static inline void amx_shim_store(int t, void *p, size_t stride)
{
    for (size_t r = 0; r < amx_shim.config.rows[t]; r++) {
        memcpy((uint8_t *)p + r * stride, amx_shim.tile[t][r], amx_shim.config.bytes[t]);
    }
}
/* c[m][n] += sum_k a[m][k] * b[k / 4][4 n + k % 4], a signed, b signed or not; the shapes are those
 * of the configuration. */
static inline void amx_shim_dot(int c, int a, int b, int b_signed)
{
    for (int m = 0; m < amx_shim.config.rows[c]; m++) {
        for (int n = 0; n < amx_shim.config.bytes[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &amx_shim.tile[c][m][4 * n], sizeof sum);
            for (int k = 0; k < amx_shim.config.bytes[a]; k++) {
                const int x = (int8_t)amx_shim.tile[a][m][k];
                const uint8_t w = amx_shim.tile[b][k / 4][4 * n + k % 4];
                sum += x * (b_signed != 0 ? (int)(int8_t)w : (int)w);
            }
            memcpy(&amx_shim.tile[c][m][4 * n], &sum, sizeof sum);
        }
    }
}

#define AMX_CONFIGURE(config_)  ((void)(amx_shim.config = *(config_)))
#define AMX_RELEASE()           memset(&amx_shim, 0, sizeof amx_shim)
#define AMX_ZERO(t)             amx_shim_zero(t)
#define AMX_LOAD(t, p, stride)  amx_shim_load(t, p, stride)
#define AMX_LOAD_ONCE           AMX_LOAD
#define AMX_STORE(t, p, stride) amx_shim_store(t, p, stride)
#define AMX_DOT_SU(c, a, b)     amx_shim_dot(c, a, b, 0)
#define AMX_DOT_SS(c, a, b)     amx_shim_dot(c, a, b, 1)

/* Needs AVX-512-VBMI, which every machine with tiles has. */
#if defined(__AVX512F__)
static inline __m512i amx_shim_look_up(__m512i at, __m512i table)
{
    uint8_t i[64], t[64];
    memcpy(i, &at, sizeof i);
    memcpy(t, &table, sizeof t);
    for (size_t k = 0; k < sizeof i; k++) i[k] = t[i[k] % 64];
    memcpy(&at, i, sizeof i);
    return at;
}
#define AMX_LOOK_UP(at, table) amx_shim_look_up(at, table)
#endif

#elif defined(__AMX_INT8__) || defined(__AMXINT8__) /* gcc, older clang */

/* The compiler's own says that eight bytes are read. */
#define AMX_CONFIGURE(config_)                                                                     \
    do {                                                                                           \
        __asm__ volatile("" : : "r"(config_) : "memory");                                          \
        _tile_loadconfig(config_);                                                                 \
    } while (0)
#define AMX_RELEASE()               _tile_release()
#define AMX_ZERO(t)                 _tile_zero(t)
#define AMX_LOAD(t, p, stride)      _tile_loadd(t, p, stride)
/* Of what is not wanted in the first-level cache. */
#define AMX_LOAD_ONCE(t, p, stride) _tile_stream_loadd(t, p, stride)
#define AMX_STORE(t, p, stride)     _tile_stored(t, p, stride)
#define AMX_DOT_SU(c, a, b)         _tile_dpbsud(c, a, b)
#define AMX_DOT_SS(c, a, b)         _tile_dpbssd(c, a, b)
#define AMX_LOOK_UP(at, table)      _mm512_permutexvar_epi8(at, table)

#endif

/* Compilers do not know what a tile load reads or a tile store writes: to stand between tile
 * instructions and ordinary accesses to the same memory. */
#define AMX_FENCE() __asm__ volatile("" ::: "memory")

#endif
