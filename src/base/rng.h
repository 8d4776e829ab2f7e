/* SPDX-License-Identifier: MIT
 *
 * Random numbers with explicit state: xoshiro256** seeded by splitmix64 (Blackman, Vigna 2018),
 * the same sequence on every machine.
 */
#ifndef FG_SRC_BASE_RNG_H
#define FG_SRC_BASE_RNG_H

#include <stdint.h>

typedef struct fg_rng {
    uint64_t s[4]; /* not all zero */
} fg_rng;

static inline void fg_rng_init(fg_rng *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        r->s[i] = z ^ (z >> 31);
    }
}

static inline uint64_t fg_rng_u64(fg_rng *r)
{
    uint64_t *s = r->s;
    const uint64_t m = s[1] * 5, result = ((m << 7) | (m >> 57)) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 45) | (s[3] >> 19);
    return result;
}

/* Uniform in [0, 1), 53 bits. */
static inline double fg_rng_f64(fg_rng *r)
{
    return (double)(fg_rng_u64(r) >> 11) * 0x1p-53;
}

#endif
