/* SPDX-License-Identifier: MIT
 *
 * The card's code, in the program.
 */
#include "simd/cuda/cuda_image.h"

#include <stdlib.h>
#include <string.h>

/* Of the Makefile: FG_CUDA_ABI, and with nvcc FG_CUDA_FATBIN, a path. */
const char fg_cuda_abi[17] = FG_CUDA_ABI;

__asm__(".section .rodata, \"a\"\n.balign 64\n"
        ".globl fg_cuda_image, fg_cuda_image_end\n.hidden fg_cuda_image, fg_cuda_image_end\n"
        "fg_cuda_image:\n"
#if defined(FG_CUDA_FATBIN)
        ".incbin \"" FG_CUDA_FATBIN "\"\n"
#endif
        "fg_cuda_image_end:\n.byte 0\n.previous\n");

fg_status fg_cuda_image_check(const void *p, size_t n_bytes, const char *name, int *driver,
                              fg_err *err)
{
    static const char magic[] = "fulgur-cuda 1 abi ";
    enum { ABI = sizeof magic - 1, BYTES = ABI + 16 + 7 }; /* " bytes " */
    char h[FG_CUDA_IMAGE_HEADER + 1];
    if (n_bytes < FG_CUDA_IMAGE_HEADER || memcmp(p, magic, ABI) != 0) {
        return fg_fail(err, FG_EFORMAT, "%s: no kernels of this program, expected %s...", name,
                       magic);
    }
    memcpy(h, p, FG_CUDA_IMAGE_HEADER);
    h[FG_CUDA_IMAGE_HEADER] = '\0';
    if (memcmp(h + ABI, fg_cuda_abi, 16) != 0) {
        return fg_fail(err, FG_EVERSION, "%s: kernels of another build (%.16s), expected %s", name,
                       h + ABI, fg_cuda_abi);
    }
    const uint64_t wanted = strtoull(h + BYTES, NULL, 16), have = n_bytes - FG_CUDA_IMAGE_HEADER;
    if (wanted != have) {
        return fg_fail(err, FG_EFORMAT, "%s: %llu bytes of kernels, expected %llu", name,
                       (unsigned long long)have, (unsigned long long)wanted);
    }
    const long least = strtol(h + BYTES + 16, NULL, 10);
    if (least < 1000 || least > 99999) {
        return fg_fail(err, FG_EFORMAT, "%s: driver %ld, expected a version such as 12000", name,
                       least);
    }
    if (driver != NULL) *driver = (int)least;
    return FG_OK;
}
