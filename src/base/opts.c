/* SPDX-License-Identifier: MIT */
#include "src/base/opts.h"

#include <string.h>

void fg_opts_init(void *o, size_t size, const void *defaults, size_t known)
{
    memset(o, 0, size);
    memcpy(o, defaults, size < known ? size : known);
}

fg_status fg_opts_take(void *to, size_t known, const void *from, const char *what, fg_err *err)
{
    size_t size;
    memcpy(&size, from, sizeof size);
    if (size < sizeof size || size > 65536) {
        return fg_fail(err, FG_EINVAL, "%s: size %zu, expected that of the struct", what, size);
    }
    for (size_t i = known; i < size; i++) {
        if (((const unsigned char *)from)[i] == 0) continue;
        return fg_fail(err, FG_EINVAL,
                       "%s: byte %zu is set, expected an option that this version knows", what, i);
    }
    memcpy(to, from, size < known ? size : known);
    memcpy(to, &known, sizeof known);
    return FG_OK;
}
