/* SPDX-License-Identifier: MIT
 *
 * A build without a card says so in one line.
 */
#include <string.h>

#include "src/model/device.h"
#include "tests/fg_test.h"

FG_TEST(none_is_an_answer)
{
    fg_err err = {0};
    fg_device *ctx = (fg_device *)&err;
    const fg_device_opts o = {.idx = 3};
    CHECK(fg_device_none.open(&ctx, NULL, &o, &err) == FG_ENOTSUP);
    CHECK(ctx == NULL && err.code == FG_ENOTSUP);
    CHECK(strstr(err.msg, "device 3") != NULL && strstr(err.msg, "expected") != NULL);
}
