/* SPDX-License-Identifier: MIT
 *
 * A machine without a driver says so once a card is asked for.
 */
#include <string.h>

#include "src/device/driver.h"
#include "tests/fg_test.h"

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
