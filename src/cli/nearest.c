/* SPDX-License-Identifier: MIT */
#include "src/cli/nearest.h"

#include <string.h>

/* Edits (insert, delete, replace, exchange of neighbours) that make one of the other. */
static unsigned distance(const char *typed, size_t n, const char *name)
{
    enum { MAX = 24 };
    unsigned d[MAX + 1][MAX + 1];
    const char *a = typed, *b = name;
    const size_t m = strlen(b) < MAX ? strlen(b) : MAX;
    if (strncmp(b, a, n) == 0) return 0;
    if (n > MAX) n = MAX;
    for (size_t i = 0; i <= n; i++) {
        for (size_t j = 0; j <= m; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = (unsigned)(i + j);
                continue;
            }
            const unsigned same = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            const unsigned gone = d[i - 1][j] + 1, more = d[i][j - 1] + 1;
            d[i][j] = same < gone ? same : gone;
            if (more < d[i][j]) d[i][j] = more;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < d[i][j]) {
                d[i][j] = d[i - 2][j - 2] + 1;
            }
        }
    }
    return d[n][m];
}

void nearest_offer(nearest *best, const char *typed, size_t n, const char *name)
{
    const unsigned d = distance(typed, n, name);
    if (d >= best->least) return;
    *best = (nearest){name, d};
}

const char *nearest_likely(const nearest *best, size_t n)
{
    return best->name != NULL && best->least <= n / 3 ? best->name : NULL;
}
