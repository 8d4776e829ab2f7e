/* SPDX-License-Identifier: MIT
 *
 * Sizes and rates as people write them.
 */
#ifndef FG_SRC_CLI_SIZE_H
#define FG_SRC_CLI_SIZE_H

#include <stdbool.h>
#include <stdint.h>

/* "24G", "24GiB" (2^30 each), "24GB" (10^9), "1.5T", "512M", "64k", or bytes.  False for anything
 * else, 0 included, and from 2^62 on. */
bool size_parse(const char *text, uint64_t *bytes);

/* "3GB/s", "800M/s" (10^6), "3GiB/s" (2^30) and the like; the "/s" may be left out, and a bare
 * number means GB/s.  *gbs in 1e9 bytes a second. */
bool rate_parse(const char *text, double *gbs);

#endif
