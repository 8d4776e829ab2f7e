/* SPDX-License-Identifier: MIT
 *
 * OpenBLAS for a static ARM64 build: Debian's archive wants a Fortran runtime that the cross
 * compiler does not have.  It says that it is the build without threads, which calibration refuses,
 * so nothing else is ever called.
 */
#include <cblas.h>
#include <stdlib.h>

void spotrf_(const char *uplo, const int *n, float *a, const int *lda, int *info);

int openblas_get_parallel(void)
{
    return OPENBLAS_SEQUENTIAL;
}

char *openblas_get_config(void)
{
    static char none[] = "none";
    return none;
}

void openblas_set_num_threads(int n)
{
    (void)n;
}

void cblas_sgemm(OPENBLAS_CONST enum CBLAS_ORDER order, OPENBLAS_CONST enum CBLAS_TRANSPOSE ta,
                 OPENBLAS_CONST enum CBLAS_TRANSPOSE tb, OPENBLAS_CONST blasint m,
                 OPENBLAS_CONST blasint n, OPENBLAS_CONST blasint k, OPENBLAS_CONST float alpha,
                 OPENBLAS_CONST float *a, OPENBLAS_CONST blasint lda, OPENBLAS_CONST float *b,
                 OPENBLAS_CONST blasint ldb, OPENBLAS_CONST float beta, float *c,
                 OPENBLAS_CONST blasint ldc)
{
    (void)order, (void)ta, (void)tb, (void)m, (void)n, (void)k, (void)alpha, (void)a, (void)lda;
    (void)b, (void)ldb, (void)beta, (void)c, (void)ldc;
    abort();
}

void cblas_strsm(OPENBLAS_CONST enum CBLAS_ORDER order, OPENBLAS_CONST enum CBLAS_SIDE side,
                 OPENBLAS_CONST enum CBLAS_UPLO uplo, OPENBLAS_CONST enum CBLAS_TRANSPOSE ta,
                 OPENBLAS_CONST enum CBLAS_DIAG diag, OPENBLAS_CONST blasint m,
                 OPENBLAS_CONST blasint n, OPENBLAS_CONST float alpha, OPENBLAS_CONST float *a,
                 OPENBLAS_CONST blasint lda, float *b, OPENBLAS_CONST blasint ldb)
{
    (void)order, (void)side, (void)uplo, (void)ta, (void)diag, (void)m, (void)n, (void)alpha;
    (void)a, (void)lda, (void)b, (void)ldb;
    abort();
}

void spotrf_(const char *uplo, const int *n, float *a, const int *lda, int *info)
{
    (void)uplo, (void)n, (void)a, (void)lda, (void)info;
    abort();
}
