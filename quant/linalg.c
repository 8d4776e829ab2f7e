/* SPDX-License-Identifier: MIT */
#include "quant/linalg.h"

#include <cblas.h>

/* LAPACK as Fortran names it: the development package of OpenBLAS has no header for it. */
extern void spotrf_(const char *uplo, const int *n, float *a, const int *lda, int *info);

fg_status fg_linalg_init(fg_err *err)
{
    if (openblas_get_parallel() == OPENBLAS_SEQUENTIAL) {
        return fg_fail(err, FG_ENOTSUP,
                       "OpenBLAS: the single-threaded build, expected one that several threads may "
                       "call; install libopenblas0-pthread");
    }
    openblas_set_num_threads(1);
    return FG_OK;
}

const char *fg_linalg_name(void)
{
    return openblas_get_config(); /* names the kernels' CPU */
}

void fg_linalg_gemm(const fg_gemm *g)
{
    cblas_sgemm(CblasRowMajor, g->a_t ? CblasTrans : CblasNoTrans,
                g->b_t ? CblasTrans : CblasNoTrans, (int)g->m, (int)g->n, (int)g->k, g->alpha, g->a,
                (int)g->lda, g->b, (int)g->ldb, g->beta, g->c, (int)g->ldc);
}

bool fg_linalg_cholesky(float *a, size_t n, size_t lda)
{
    const int size = (int)n, ld = (int)lda;
    int info = 0;
    spotrf_("U", &size, a, &ld, &info); /* column-major upper is row-major lower */
    return info == 0;
}

void fg_linalg_solve_right(const float *l, size_t ldl, float *b, size_t m, size_t n, size_t ldb)
{
    cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (int)m, (int)n,
                1.0f, l, (int)ldl, b, (int)ldb);
}

void fg_linalg_solve_left(const float *l, size_t ldl, float *b, size_t n, size_t m, size_t ldb)
{
    cblas_strsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, (int)n, (int)m,
                1.0f, l, (int)ldl, b, (int)ldb);
}
