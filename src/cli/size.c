/* SPDX-License-Identifier: MIT
 *
 * A letter alone counts in powers of 1024, as everywhere where memory is limited; with a B after
 * it, in powers of 1000, as files do.  In a rate a letter counts in powers of 1000 in both cases:
 * that is what memory and drives are sold by, and what this program prints.
 */
#include "src/cli/size.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Number, then unit; *bare when there is none.  letter: what K alone stands for. */
static bool parse(const char *text, double letter, double *value, bool *bare)
{
    char *end;
    if ((text[0] < '0' || text[0] > '9') && text[0] != '.') return false; /* no sign, inf, nan */
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) return false;
    *value = strtod(text, &end);
    *bare = *end == '\0';
    if (*bare) return isfinite(*value);
    static const char letters[] = "kmgt";
    const char *at = strchr(letters, *end | 0x20);
    double unit = 1.0;
    if (at != NULL) {
        end++;
        const double step = strcasecmp(end, "b") == 0    ? 1000.0
                            : strcasecmp(end, "ib") == 0 ? 1024.0
                                                         : letter;
        for (const char *p = letters; p <= at; p++) unit *= step;
        if (strcasecmp(end, "ib") == 0) end++;
    }
    if (strcasecmp(end, "b") == 0) end++;
    *value *= unit;
    return *end == '\0' && isfinite(*value);
}

bool size_parse(const char *text, uint64_t *bytes)
{
    double v;
    bool bare;
    if (!parse(text, 1024.0, &v, &bare) || v < 1.0 || v >= 0x1p62) return false;
    *bytes = (uint64_t)v;
    return true;
}

bool rate_parse(const char *text, double *gbs)
{
    char copy[32];
    double v;
    bool bare;
    size_t n = strlen(text);
    if (n >= sizeof copy) return false;
    memcpy(copy, text, n + 1);
    if (n > 2 && strcmp(copy + n - 2, "/s") == 0) copy[n -= 2] = '\0';
    if (!parse(copy, 1000.0, &v, &bare)) return false;
    if (!bare) v *= 1e-9;
    if (v <= 1e-6 || v >= 1e6) return false; /* what was there stays */
    *gbs = v;
    return true;
}
