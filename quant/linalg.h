/* SPDX-License-Identifier: MIT
 *
 * The dense algebra of calibration, and the only place that knows OpenBLAS.  Calls run on the
 * calling thread alone, so that a caller who splits work into fixed tiles gets the same bits from
 * any number of threads.
 *
 * All matrices are row-major f32 with a leading dimension in elements; sizes below 2^31.
 */
#ifndef FG_QUANT_LINALG_H
#define FG_QUANT_LINALG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

/* Loads OpenBLAS, with no thread of its own, and sees to it that n_caller threads may call it at
 * once.  Before any other call, on one thread at a time; again for more callers.  Errors:
 * FG_ENOTSUP: it is not installed, or built for one thread (it has no locks then and gives wrong
 * results when called from several); FG_ENOMEM: too little address space for its buffers. */
fg_status fg_linalg_init(uint32_t n_caller, fg_err *err);

/* Version and kernels, as far as they show in the bits of a result: "OpenBLAS 0.3.21 ...
 * Haswell". */
const char *fg_linalg_name(void);

/* C[m][n] = alpha op(A) op(B) + beta C, where op(A) is [m][k] and op(B) is [k][n]; a_t, b_t: the
 * operand is stored transposed. */
typedef struct fg_gemm {
    bool a_t, b_t;
    size_t m, n, k;
    float alpha, beta;
    const float *a, *b;
    size_t lda, ldb;
    float *c;
    size_t ldc;
} fg_gemm;
void fg_linalg_gemm(const fg_gemm *g);

/* Lower Cholesky factor in place, A = L L^T; only the lower triangle of a[n][n] is read and
 * written.  False when A is not positive definite. */
bool fg_linalg_cholesky(float *a, size_t n, size_t lda);

/* b[m][n] = b L^-T, L lower triangular [n][n]. */
void fg_linalg_solve_right(const float *l, size_t ldl, float *b, size_t m, size_t n, size_t ldb);

/* b[n][m] = L^-1 b. */
void fg_linalg_solve_left(const float *l, size_t ldl, float *b, size_t n, size_t m, size_t ldb);

#endif
