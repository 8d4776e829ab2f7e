/* SPDX-License-Identifier: MIT */
#include "src/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "src/base/utf8.h"

enum { MAX_WHOLE = 10000 }; /* two paths as long as they may be, and words */

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

/* What is too long is mostly a name, and what was got and expected stands behind it. */
static void cut(char msg[sizeof((fg_err *)0)->msg], const char *whole, size_t n)
{
    const size_t size = sizeof((fg_err *)0)->msg, first = size / 4, rest = size - first - 4;
    if (n < size) return;
    memcpy(msg, whole, first);
    memcpy(msg + first, "...", 3);
    memcpy(msg + first + 3, whole + n - rest, rest + 1);
}

fg_status fg_fail(fg_err *err, fg_status code, const char *fmt, ...)
{
    if (err == NULL) return code;
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    if (n >= (int)sizeof err->msg) {
        char whole[MAX_WHOLE];
        va_start(ap, fmt);
        const int m = vsnprintf(whole, sizeof whole, fmt, ap);
        va_end(ap);
        if (m > 0) cut(err->msg, whole, strlen(whole));
    }
    fg_utf8_clean(err->msg);
    err->code = code;
    return code;
}

fg_status fg_fail_nomem(fg_err *err, const char *what)
{
    return fg_fail(err, FG_ENOMEM, "%s: out of memory, expected to allocate", what);
}
