/* SPDX-License-Identifier: MIT */
#include "src/model/device.h"

static fg_status open_none(fg_device **out, const fg_model *m, const fg_device_opts *o, fg_err *err)
{
    (void)m;
    *out = NULL;
    return fg_fail(err, FG_ENOTSUP, "device %u: this build drives none, expected one that does",
                   o->idx);
}

const fg_device_ops fg_device_none = {.name = "none", .open = open_none};
