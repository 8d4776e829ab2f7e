/* SPDX-License-Identifier: MIT
 *
 * What the tests of the card's kernels share.
 */
#ifndef FG_TESTS_CUDA_CHECK_H
#define FG_TESTS_CUDA_CHECK_H

#include <string.h>

#include "tests/emulate/cuda/cuda_emu.h"

static inline uint32_t bits_of_float(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

#endif
