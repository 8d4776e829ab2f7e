/* SPDX-License-Identifier: MIT
 *
 * The kernels' file is checked before it is believed; a machine without a driver says so once a
 * card is asked for.
 */
#include <string.h>

#include "simd/cuda/cuda_image.h"
#include "src/base/buf.h"
#include "src/base/hash.h"
#include "src/device/driver.h"
#include "src/device/module.h"
#include "tests/fg_test.h"

static void make_image(fg_buf *b, uint32_t version, uint64_t abi, uint64_t more)
{
    static const char body[] = "what nvcc made";
    fg_buf_put(b, FG_CUDA_IMAGE_MAGIC, 8);
    fg_buf_u32(b, version);
    fg_buf_u32(b, 12000);
    fg_buf_u64(b, abi);
    fg_buf_u64(b, sizeof body + more);
    fg_buf_u64(b, fg_hash64(body, sizeof body));
    for (int i = 0; i < 3; i++) fg_buf_u64(b, 0);
    fg_buf_put(b, body, sizeof body);
}

static fg_status check_image(const fg_buf *b, size_t n, fg_err *err)
{
    fg_module_image m = {0};
    return fg_module_check(&m, b->data, n, "x.fatbin", err);
}

FG_TEST(an_image_is_ours_or_says_why_not)
{
    fg_buf b = {0};
    fg_err err = {0};
    fg_module_image m = {0};
    make_image(&b, FG_CUDA_IMAGE_VERSION, fg_cuda_abi(), 0);
    CHECK(fg_module_check(&m, b.data, b.len, "x.fatbin", &err) == FG_OK);
    CHECK(m.driver == 12000 && m.fatbin == b.data + FG_CUDA_IMAGE_HEAD);
    for (size_t n = 0; n < b.len; n++) {
        CHECK(check_image(&b, n, &err) == FG_EFORMAT && strstr(err.msg, "expected") != NULL);
    }
    for (size_t i = 0; i < b.len; i++) {
        const bool free_to_be = (i >= 12 && i < 16) || (i >= 40 && i < 64); /* no part of a check */
        b.data[i] ^= 1;
        CHECK((check_image(&b, b.len, &err) == FG_OK) == free_to_be);
        b.data[i] ^= 1;
    }
    b.len = 0;
    make_image(&b, FG_CUDA_IMAGE_VERSION + 1, fg_cuda_abi(), 0);
    CHECK(check_image(&b, b.len, &err) == FG_EVERSION);
    b.len = 0;
    make_image(&b, FG_CUDA_IMAGE_VERSION, fg_cuda_abi() + 1, 0);
    CHECK(check_image(&b, b.len, &err) == FG_EVERSION);
    b.len = 0;
    make_image(&b, FG_CUDA_IMAGE_VERSION, fg_cuda_abi(), 1);
    CHECK(check_image(&b, b.len, &err) == FG_EFORMAT);
    fg_buf_fini(&b);
}

FG_TEST(no_driver_is_one_line)
{
    fg_err err = {0};
    fg_gpu *g = NULL;
    fg_gpu_info info;
    if (fg_gpu_count() > 0) {
        fg_test_skip("there is a card here");
        return;
    }
    CHECK(fg_gpu_open(&g, 2, &err) == FG_ENOTSUP && g == NULL);
    CHECK(strncmp(err.msg, "gpu 2: ", 7) == 0 && strstr(err.msg, "try --gpu off") != NULL);
    CHECK(fg_gpu_describe(0, &info, &err) == FG_ENOTSUP);
    fg_gpu_close(&g);
}
