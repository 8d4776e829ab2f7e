/* SPDX-License-Identifier: MIT */
#include "src/base/status.h"

#include <stdarg.h>
#include <stdio.h>

#include "src/base/utf8.h"

const char *fg_version(void)
{
    return FG_VERSION;
}

const char *fg_status_text(fg_status code)
{
    switch (code) {
#define FG_STATUS_CASE(name, value, text)                                                          \
    case name: return text;
        FG_STATUS_MAP(FG_STATUS_CASE)
#undef FG_STATUS_CASE
    }
    return "unknown status";
}

fg_status fg_fail(fg_err *err, fg_status code, const char *fmt, ...)
{
    if (err == NULL) return code;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    fg_utf8_clean(err->msg);
    err->code = code;
    return code;
}

fg_status fg_fail_nomem(fg_err *err, const char *what)
{
    return fg_fail(err, FG_ENOMEM, "%s: out of memory, expected to allocate", what);
}
