/* SPDX-License-Identifier: MIT
 *
 * Scalar, written for the compiler's vectorizer: the converter rotates every weight of a rotated
 * matrix once.
 *
 * The signs are those of the bits of splitmix64 outputs; of the first 2^24 pairs of outputs this is
 * the one whose largest Walsh coefficient is smallest (20; a constant vector has 128, and 11.3
 * would be flat), then the one with the smallest in its halves, quarters and eighths (16, 12, 10):
 * runs of equal values, what plain H would gather in one place, are spread too.  It has 64 signs of
 * each kind.
 */
#include "quant/hadamard.h"

/* f32(1 / sqrt(128)), and its negative. */
#define P 0x1.6a09e6p-4f
#define N (-0x1.6a09e6p-4f)
/* clang-format off */
const float fg_hadamard_diag[FG_SB_COLS] = {
    P, P, N, N, P, N, P, N, N, P, P, N, N, N, P, P,
    P, P, P, P, N, N, P, P, N, N, P, N, P, N, P, P,
    N, P, N, N, P, N, P, N, P, P, N, N, P, N, P, N,
    N, N, N, P, P, N, N, N, P, N, P, N, N, P, N, N,
    P, N, N, P, N, P, N, N, P, N, P, P, P, P, P, P,
    P, N, N, N, N, N, N, P, P, N, P, N, P, P, N, N,
    N, P, P, N, N, P, N, N, P, P, N, P, P, N, P, P,
    P, P, N, P, N, P, P, N, P, P, P, N, P, N, N, N,
};
/* clang-format on */
#undef P
#undef N

void fg_hadamard_rotate(float *x, size_t n)
{
    for (; n >= FG_SB_COLS; n -= FG_SB_COLS, x += FG_SB_COLS) {
        for (size_t i = 0; i < FG_SB_COLS; i++) x[i] = x[i] * fg_hadamard_diag[i];
        for (size_t d = FG_SB_COLS / 2; d > 0; d /= 2) {
            for (size_t b = 0; b < FG_SB_COLS; b += 2 * d) {
                for (size_t i = b; i < b + d; i++) {
                    const float lo = x[i], hi = x[i + d];
                    x[i] = lo + hi;
                    x[i + d] = lo - hi;
                }
            }
        }
    }
}
