/* SPDX-License-Identifier: MIT
 *
 * OpenBLAS starts a thread for each CPU when it is loaded, and where it gets neither threads nor
 * address space it ends the process or tries for ever.  So it is loaded by the first call of
 * fg_linalg_init, with one thread, and only where there is room for its buffers.  A build with
 * BLAS=link (a static program) has the single-threaded one as any other library; that may be called
 * by one thread at a time, hence a lock.
 */
#include "quant/linalg.h"

#include <cblas.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* LAPACK as Fortran names it: the development package of OpenBLAS has no header for it. */
extern void spotrf_(const char *uplo, const int *n, float *a, const int *lda, int *info);

#define FUNCTIONS(X)                                                                               \
    X(openblas_get_parallel)                                                                       \
    X(openblas_get_config)                                                                         \
    X(openblas_set_num_threads)                                                                    \
    X(cblas_sgemm)                                                                                 \
    X(cblas_strsm)                                                                                 \
    X(spotrf_)

/* Pointers to the functions, under their names. */
static struct {
#define POINTER(f) __typeof__(f) *f;
    FUNCTIONS(POINTER)
#undef POINTER
} blas;

static fg_err failed; /* why loading did */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static bool alone; /* one thread at a time may call */

static void enter(void)
{
    if (alone) (void)pthread_mutex_lock(&turn);
}

static void leave(void)
{
    if (alone) (void)pthread_mutex_unlock(&turn);
}

#ifdef FG_BLAS_LINKED

static void load(void)
{
    alone = openblas_get_parallel() == OPENBLAS_SEQUENTIAL;
#define TAKE(f) blas.f = f;
    FUNCTIONS(TAKE)
#undef TAKE
}

#else

#define SONAME "libopenblas.so.0"

/* Its own threads are wanted by nobody; it has no other way to be told before it starts them. */
static void *open_with_one_thread(void)
{
    static const char name[] = "OPENBLAS_NUM_THREADS";
    const char *was = getenv(name);
    char *kept = was == NULL ? NULL : strdup(was);
    (void)setenv(name, "1", 1);
    void *lib = dlopen(SONAME, RTLD_NOW | RTLD_LOCAL);
    if (kept != NULL) {
        (void)setenv(name, kept, 1);
    } else {
        (void)unsetenv(name);
    }
    free(kept);
    return lib;
}

static void load(void)
{
    void *lib = open_with_one_thread();
    if (lib == NULL) {
        (void)fg_fail(&failed, FG_ENOTSUP,
                      "OpenBLAS: %.200s, expected it for calibration; install libopenblas0-pthread",
                      dlerror());
        return;
    }
#define TAKE(f)                                                                                    \
    *(void **)(void *)&blas.f = dlsym(lib, #f);                                                    \
    if (blas.f == NULL) {                                                                          \
        (void)fg_fail(&failed, FG_ENOTSUP,                                                         \
                      "OpenBLAS: " SONAME " lacks " #f ", expected one with LAPACK; install "      \
                      "libopenblas0-pthread");                                                     \
        return;                                                                                    \
    }
    FUNCTIONS(TAKE)
#undef TAKE
}

#endif

static void start(void)
{
    load();
    if (failed.code != FG_OK) return;
    if (blas.openblas_get_parallel() == OPENBLAS_SEQUENTIAL && !alone) {
        (void)fg_fail(&failed, FG_ENOTSUP,
                      "OpenBLAS: the single-threaded build, expected one that several threads may "
                      "call; install libopenblas0-pthread");
        return;
    }
    blas.openblas_set_num_threads(1);
}

/* A buffer for each thread that calls, mapped at its first call: address space, of which little is
 * ever touched. */
static fg_status check_room(uint32_t n_caller, fg_err *err)
{
    const size_t bytes = ((size_t)n_caller + 1) << 27;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return fg_fail(err, FG_ENOMEM,
                       "OpenBLAS: no address space of %zu MB, expected it for the buffers of %u "
                       "threads; allow more (ulimit -v) or use fewer",
                       bytes / 1000000, n_caller + 1);
    }
    (void)munmap(p, bytes);
    return FG_OK;
}

fg_status fg_linalg_init(uint32_t n_caller, fg_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    FG_TRY(check_room(n_caller, err));
    (void)pthread_once(&once, start);
    if (failed.code == FG_OK) return FG_OK;
    if (err != NULL) *err = failed;
    return failed.code;
}

const char *fg_linalg_name(void)
{
    return blas.openblas_get_config(); /* names the kernels' CPU */
}

void fg_linalg_gemm(const fg_gemm *g)
{
    enter();
    blas.cblas_sgemm(CblasRowMajor, g->a_t ? CblasTrans : CblasNoTrans,
                     g->b_t ? CblasTrans : CblasNoTrans, (int)g->m, (int)g->n, (int)g->k, g->alpha,
                     g->a, (int)g->lda, g->b, (int)g->ldb, g->beta, g->c, (int)g->ldc);
    leave();
}

bool fg_linalg_cholesky(float *a, size_t n, size_t lda)
{
    const int size = (int)n, ld = (int)lda;
    int info = 0;
    enter();
    blas.spotrf_("U", &size, a, &ld, &info); /* column-major upper is row-major lower */
    leave();
    return info == 0;
}

void fg_linalg_solve_right(const float *l, size_t ldl, float *b, size_t m, size_t n, size_t ldb)
{
    enter();
    blas.cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (int)m,
                     (int)n, 1.0f, l, (int)ldl, b, (int)ldb);
    leave();
}

void fg_linalg_solve_left(const float *l, size_t ldl, float *b, size_t n, size_t m, size_t ldb)
{
    enter();
    blas.cblas_strsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, (int)n,
                     (int)m, 1.0f, l, (int)ldl, b, (int)ldb);
    leave();
}
