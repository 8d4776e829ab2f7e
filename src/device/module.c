/* SPDX-License-Identifier: MIT */
#include "src/device/module.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "simd/cuda/cuda_image.h"
#include "src/base/buf.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"

#define NAME       "fulgur-cuda.fatbin"
#define MOST_BYTES ((uint64_t)256 << 20)
#ifndef FG_LIBDIR
#define FG_LIBDIR "/usr/local/lib"
#endif

fg_status fg_module_check(fg_module_image *out, const void *p, size_t n, const char *path,
                          fg_err *err)
{
    fg_cursor c = fg_cursor_make(p, n);
    const uint8_t *magic = fg_cursor_bytes(&c, 8);
    if (magic == NULL || memcmp(magic, FG_CUDA_IMAGE_MAGIC, 8) != 0) {
        return fg_fail(err, FG_EFORMAT, "%s: another file, expected the kernels of fulgur", path);
    }
    const uint32_t version = fg_cursor_u32(&c);
    out->driver = fg_cursor_u32(&c);
    const uint64_t abi = fg_cursor_u64(&c), bytes = fg_cursor_u64(&c), hash = fg_cursor_u64(&c);
    if (!c.bad && (version != FG_CUDA_IMAGE_VERSION || abi != fg_cuda_abi())) {
        return fg_fail(err, FG_EVERSION,
                       "%s: kernels of another build, expected those that belong to this program",
                       path);
    }
    if (c.bad || n < FG_CUDA_IMAGE_HEAD || bytes == 0 || bytes != n - FG_CUDA_IMAGE_HEAD) {
        return fg_fail(err, FG_EFORMAT, "%s: %zu bytes, expected %d more than its head says", path,
                       n, FG_CUDA_IMAGE_HEAD);
    }
    out->fatbin = (const uint8_t *)p + FG_CUDA_IMAGE_HEAD;
    if (fg_hash64(out->fatbin, bytes) != hash) {
        return fg_fail(err, FG_ECHECKSUM, "%s: damaged kernels, expected the hash in its head",
                       path);
    }
    return FG_OK;
}

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
    if (fg_cuda_image_bytes > 0) {
        return fg_module_check(out, fg_cuda_image, fg_cuda_image_bytes, "built-in kernels", err);
    }
    if (!find_file(path, sizeof path)) {
        return fg_fail(err, FG_ENOTSUP,
                       "%s: neither in this program nor beside it, expected the kernels of a card",
                       NAME);
    }
    FG_TRY(fg_io_read_all(path, MOST_BYTES, &out->owned, &n, err));
    const fg_status st = fg_module_check(out, out->owned, n, path, err);
    if (st != FG_OK) fg_module_close(out);
    return st;
}

void fg_module_close(fg_module_image *m)
{
    fg_mem_free(m->owned);
    *m = (fg_module_image){0};
}
