/* SPDX-License-Identifier: MIT
 *
 * f32 to f16: all halves survive the round trip, and what lies between two of them goes to the
 * nearer one, to the even one from the middle.
 */
#include "src/base/fp.h"

#include <math.h>

#include "tests/fg_test.h"

FG_TEST(all_halves_survive)
{
    for (uint32_t h = 0; h < 65536; h++) {
        const float x = fg_f16_to_f32((uint16_t)h);
        const uint32_t want = isnan(x) ? h | 0x200u : h; /* a NaN becomes a quiet one */
        const uint32_t got = fg_f32_to_f16(x);
        if (got != want) fg_test_fail(__FILE__, __LINE__, "f16 %04x became %04x", h, got);
    }
}

/* Neighbours h and h + 1, up to 65504 and infinity, whose middle is that of 65504 and 65536. */
FG_TEST(rounds_to_nearest_even)
{
    for (uint32_t h = 0; h < 0x7c00u; h++) {
        const float low = fg_f16_to_f32((uint16_t)h);
        const float high = h == 0x7bffu ? 65536.0f : fg_f16_to_f32((uint16_t)(h + 1));
        const float middle = low + (high - low) / 2.0f; /* exact in f32 */
        const uint32_t even = h + (h & 1u);
        for (uint32_t sign = 0; sign < 2; sign++) {
            const float s = sign != 0 ? -1.0f : 1.0f;
            const uint32_t top = sign << 15;
            const uint32_t below = fg_f32_to_f16(s * nextafterf(middle, 0.0f));
            const uint32_t at = fg_f32_to_f16(s * middle);
            const uint32_t above = fg_f32_to_f16(s * nextafterf(middle, INFINITY));
            if (below != (top | h) || at != (top | even) || above != (top | (h + 1))) {
                fg_test_fail(__FILE__, __LINE__, "behind %04x: %04x %04x %04x", top | h, below, at,
                             above);
            }
        }
    }
}

FG_TEST(ends)
{
    CHECK(fg_f32_to_f16(0x1p-149f) == 0);
    CHECK(fg_f32_to_f16(-0x1p-149f) == 0x8000u);
    CHECK(fg_f32_to_f16(65519.996f) == 0x7bffu);
    CHECK(fg_f32_to_f16(65520.0f) == 0x7c00u);
    CHECK(fg_f32_to_f16(3.4e38f) == 0x7c00u);
    CHECK(fg_f32_to_f16(-3.4e38f) == 0xfc00u);
    CHECK(fg_f32_to_f16(INFINITY) == 0x7c00u);
    CHECK(isnan(fg_f16_to_f32(fg_f32_to_f16(fg_f32_from_bits(0x7f800001u)))));
    CHECK(isnan(fg_f16_to_f32(fg_f32_to_f16(fg_f32_from_bits(0xffc00000u)))));
}
