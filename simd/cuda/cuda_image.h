/* SPDX-License-Identifier: MIT
 *
 * The card's code: a module for cuModuleLoadData, behind a line of 64 bytes that says what it is
 * for.  It is part of the program when nvcc was there at build time, else a file beside it
 * (build/cuda/fulgur-cuda.fatbin of a build that had one) may be read.
 */
#ifndef FG_SIMD_CUDA_CUDA_IMAGE_H
#define FG_SIMD_CUDA_CUDA_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

/* "fulgur-cuda 1 abi 0123456789abcdef bytes 0123456789abcdef 12000", spaces, a line feed: abi is a
 * hash of the headers that program and module share, bytes (hexadecimal) what follows, the last
 * number the driver that it needs at least (12000 is 12.0). */
enum { FG_CUDA_IMAGE_HEADER = 64 };
extern const char fg_cuda_abi[17];

/* What this program has in itself, header included; empty (both the same) without nvcc. */
extern const uint8_t fg_cuda_image[], fg_cuda_image_end[];

/* FG_OK: the module begins FG_CUDA_IMAGE_HEADER behind p, which is 8-byte aligned.  Else "NAME:
 * ..., expected ...": FG_EFORMAT (no such header, cut), FG_EVERSION (of another build).  *driver:
 * as above; may be NULL. */
fg_status fg_cuda_image_check(const void *p, size_t n_bytes, const char *name, int *driver,
                              fg_err *err);

#endif
