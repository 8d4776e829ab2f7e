/* SPDX-License-Identifier: MIT */
#include "src/device/share.h"

static double larger(double a, double b)
{
    return a > b ? a : b;
}

uint32_t fg_device_share(const uint32_t *n_row, uint32_t n_expert, const bool *resident,
                         bool streams, const fg_share_rates *r, bool *mine)
{
    double card = 0.0, copied = 0.0, host = 0.0;
    uint32_t n = 0;
    for (uint32_t e = 0; e < n_expert; e++) {
        mine[e] = resident[e] && n_row[e] > 0;
        if (mine[e]) card += n_row[e] * r->card_row;
        if (!mine[e] && n_row[e] > 0) host += larger(r->host_read, n_row[e] * r->host_row);
    }
    while (streams) {
        uint32_t best = n_expert;
        for (uint32_t e = 0; e < n_expert; e++) { /* ties: the lower number */
            if (mine[e] || n_row[e] == 0) continue;
            if (best == n_expert || n_row[e] > n_row[best]) best = e;
        }
        if (best == n_expert) break;
        const double then = larger(copied + r->copy, card + n_row[best] * r->card_row);
        const double left = host - larger(r->host_read, n_row[best] * r->host_row);
        /* with it the card would be the last, and later than the host is without it */
        if (then > left && then > host) break;
        copied += r->copy;
        card += n_row[best] * r->card_row;
        host = left;
        mine[best] = true;
        n++;
    }
    return n;
}
