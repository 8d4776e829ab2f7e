/* SPDX-License-Identifier: MIT */
#include "src/base/units.h"

#include <inttypes.h>
#include <stdio.h>

static fg_text in_units(double v, double step, const char *const unit[5])
{
    fg_text t;
    int u = 0;
    /* what would be printed as 1000 MB is 1.00 GB, as 1024 MiB is 1.00 GiB */
    while (v >= step - 0.5 && u < 4) {
        v /= step;
        u++;
    }
    const int digits = u == 0 || v >= 99.95 ? 0 : v >= 9.995 ? 1 : 2;
    (void)snprintf(t.s, sizeof t.s, "%.*f %s", digits, v, unit[u]);
    return t;
}

fg_text fg_text_bytes(double bytes)
{
    static const char *const unit[5] = {"B", "kB", "MB", "GB", "TB"};
    return in_units(bytes, 1000.0, unit);
}

fg_text fg_text_memory(double bytes)
{
    static const char *const unit[5] = {"B", "KiB", "MiB", "GiB", "TiB"};
    return in_units(bytes, 1024.0, unit);
}

fg_text fg_text_count(uint64_t n)
{
    fg_text t;
    char plain[24];
    const int len = snprintf(plain, sizeof plain, "%" PRIu64, n);
    char *to = t.s;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0) *to++ = ',';
        *to++ = plain[i];
    }
    *to = '\0';
    return t;
}

double fg_bits_per_weight(uint64_t bytes, uint64_t weights)
{
    return weights == 0 ? 0.0 : 8.0 * (double)bytes / (double)weights;
}
