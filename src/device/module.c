/* SPDX-License-Identifier: MIT */
#include "src/device/module.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "simd/cuda/cuda_image.h"
#include "src/base/io.h"
#include "src/base/mem.h"

#define NAME       "fulgur-cuda.fatbin"
#define MOST_BYTES ((uint64_t)256 << 20)
#ifndef FG_LIBDIR
#define FG_LIBDIR "/usr/local/lib"
#endif

/* The program's folder and `more`; false: not known. */
static bool beside_program(char *out, size_t size, const char *more)
{
    char exe[PATH_MAX];
    const ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0) return false;
    exe[n] = '\0';
    char *slash = strrchr(exe, '/');
    if (slash == NULL) return false;
    *slash = '\0';
    const int len = snprintf(out, size, "%s/%s", exe, more);
    return len > 0 && (size_t)len < size;
}

static bool find_file(char *path, size_t size)
{
    static const char *const more[] = {NAME, "../lib/fulgur/" NAME};
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++) {
        if (beside_program(path, size, more[i]) && fg_io_exists(path)) return true;
    }
    (void)snprintf(path, size, "%s", FG_LIBDIR "/fulgur/" NAME);
    return fg_io_exists(path);
}

fg_status fg_module_open(fg_module_image *out, fg_err *err)
{
    char path[PATH_MAX + 64];
    size_t n;
    *out = (fg_module_image){0};
    n = (size_t)(fg_cuda_image_end - fg_cuda_image);
    if (n > 0) {
        out->fatbin = fg_cuda_image + FG_CUDA_IMAGE_HEADER;
        return fg_cuda_image_check(fg_cuda_image, n, "built-in kernels", &out->driver, err);
    }
    if (!find_file(path, sizeof path)) {
        return fg_fail(err, FG_ENOTSUP,
                       "%s: neither in this program nor beside it, expected the kernels of a card",
                       NAME);
    }
    FG_TRY(fg_io_read_all(path, MOST_BYTES, &out->owned, &n, err));
    const fg_status st = fg_cuda_image_check(out->owned, n, path, &out->driver, err);
    out->fatbin = out->owned + FG_CUDA_IMAGE_HEADER;
    if (st != FG_OK) fg_module_close(out);
    return st;
}

void fg_module_close(fg_module_image *m)
{
    fg_mem_free(m->owned);
    *m = (fg_module_image){0};
}
