/* SPDX-License-Identifier: MIT */
#include "simd/cuda/cuda_image.h"

#include "simd/cuda/ops.h"

const uint8_t fg_cuda_image[1] = {0};
const uint64_t fg_cuda_image_bytes = 0;

uint64_t fg_cuda_abi(void)
{
    return 1;
}
