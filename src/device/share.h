/* SPDX-License-Identifier: MIT
 *
 * Which experts of a layer the card does in a pass of many rows: those that are on it already, and
 * of the others the ones with most rows, copied to it for this pass, until both sides are expected
 * to be through at the same time.  A pure function of counts and rates.
 */
#ifndef FG_SRC_DEVICE_SHARE_H
#define FG_SRC_DEVICE_SHARE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct fg_share_rates {
    double copy;      /* seconds that an expert takes to the card */
    double card_row;  /* seconds of the card for a row of an expert */
    double host_read; /* seconds of the host for an expert's weights */
    double host_row;  /* and for a row; an expert takes the larger */
} fg_share_rates;

/* n_row [n_expert], resident [n_expert]; mine [n_expert] is filled.  streams false: none is copied.
 * Returns how many are. */
uint32_t fg_device_share(const uint32_t *n_row, uint32_t n_expert, const bool *resident,
                         bool streams, const fg_share_rates *r, bool *mine);

#endif
