/* SPDX-License-Identifier: MIT
 *
 * The product of attn_body.h in plain C.
 */
#ifndef FG_SIMD_ATTN_SCALAR_H
#define FG_SIMD_ATTN_SCALAR_H

#include <stddef.h>
#include <stdint.h>

#include "simd/kernels.h"
#include "simd/v16_math.h"

static void products(const int16_t *a, size_t a_stride, size_t n_row, size_t n_k, const int8_t *b,
                     size_t line, size_t group, size_t n_group, int32_t *c, attn_ahead *ahead)
{
    (void)ahead;
    for (size_t r = 0; r < n_row; r++) {
        for (size_t i = 0; i < 16 * n_group; i++) {
            const int8_t *x = b + i / 16 * group + i % 16 * 4;
            int32_t sum = 0;
            for (size_t k = 0; k < n_k; k++) sum += a[r * a_stride + k] * x[k / 4 * line + k % 4];
            c[r * FG_KV_BLOCK + i] = sum;
        }
    }
}

#endif
