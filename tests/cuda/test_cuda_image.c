/* SPDX-License-Identifier: MIT
 *
 * The header in front of the card's code.
 */
#include <stdio.h>
#include <string.h>

#include "simd/cuda/cuda_image.h"
#include "tests/fg_test.h"

static char image[FG_CUDA_IMAGE_HEADER + 100];

static void put(const char *abi, unsigned bytes)
{
    char line[FG_CUDA_IMAGE_HEADER + 1];
    (void)snprintf(line, sizeof line, "fulgur-cuda 1 abi %.16s bytes %016x 12080", abi, bytes);
    const size_t n = strlen(line);
    memset(image, ' ', FG_CUDA_IMAGE_HEADER);
    memcpy(image, line, n);
    image[FG_CUDA_IMAGE_HEADER - 1] = '\n';
}

FG_TEST(headers)
{
    fg_err err;
    put(fg_cuda_abi, 100);
    int driver = 0;
    CHECK_OK(fg_cuda_image_check(image, sizeof image, "x", &driver, &err), &err);
    CHECK(driver == 12080);
    CHECK(fg_cuda_image_check(image, sizeof image - 1, "x", NULL, &err) == FG_EFORMAT);
    CHECK_STR(err.msg, "x: 99 bytes of kernels, expected 100");
    CHECK(fg_cuda_image_check(image, 63, "x", NULL, &err) == FG_EFORMAT);
    put("0123456789abcdef", 100);
    CHECK(fg_cuda_image_check(image, sizeof image, "x", NULL, &err) == FG_EVERSION);
    put(fg_cuda_abi, 100);
    image[58] = '-';
    CHECK(fg_cuda_image_check(image, sizeof image, "x", NULL, &err) == FG_EFORMAT);
    image[0] = 'g';
    CHECK(fg_cuda_image_check(image, sizeof image, "x", NULL, &err) == FG_EFORMAT);
}

FG_TEST(what_is_in_this_program)
{
    fg_err err;
    const size_t n = (size_t)(fg_cuda_image_end - fg_cuda_image);
    if (n == 0) {
        fg_test_skip("built without nvcc");
        return;
    }
    CHECK_OK(fg_cuda_image_check(fg_cuda_image, n, "x", NULL, &err), &err);
    CHECK((uintptr_t)fg_cuda_image % 64 == 0);
    CHECK(n < 2u << 20); /* what the program may grow by */
}
