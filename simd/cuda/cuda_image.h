/* SPDX-License-Identifier: MIT
 *
 * The compiled kernels: 64 bytes of head, then what nvcc made (a fatbin), for the driver to load.
 * Built in where nvcc was there when the program was built; else the file fulgur-cuda.fatbin, of
 * the same form.  Little-endian:
 *
 *     0   8 bytes   FG_CUDA_IMAGE_MAGIC
 *     8   u32       FG_CUDA_IMAGE_VERSION
 *    12   u32       the driver's version that it needs at least, 12000 is 12.0
 *    16   u64       fg_cuda_abi() of the sources that it was made of
 *    24   u64       bytes of the fatbin
 *    32   u64       XXH3-64 of them
 *    40   24 bytes  zero
 */
#ifndef FG_SIMD_CUDA_CUDA_IMAGE_H
#define FG_SIMD_CUDA_CUDA_IMAGE_H

#include <stdint.h>

#define FG_CUDA_IMAGE_MAGIC                                                                        \
    "\x89"                                                                                         \
    "FGCUDA\n"
enum { FG_CUDA_IMAGE_VERSION = 1, FG_CUDA_IMAGE_HEAD = 64 };

/* Head and fatbin; 0 bytes: built without nvcc. */
extern const uint8_t fg_cuda_image[];
extern const uint64_t fg_cuda_image_bytes;

/* Of the kernels' names and parameters that this program launches: an image with another number
 * would read its parameters wrongly. */
uint64_t fg_cuda_abi(void);

#endif
