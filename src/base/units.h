/* SPDX-License-Identifier: MIT
 *
 * Numbers as people read them, in every report and error text.  Memory counts in powers of 1024
 * (GiB), as the options that bound it do; files and rates count in powers of 1000 (GB), as disks
 * do.  JSON has plain numbers.
 */
#ifndef FG_SRC_BASE_UNITS_H
#define FG_SRC_BASE_UNITS_H

#include <stdint.h>

/* A short text by value: fg_text_memory(n).s lives to the end of the full expression. */
typedef struct fg_text {
    char s[32];
} fg_text;

/* "1.23 GB", "456 MB", "7 B": of files and, with "/s" behind it, rates. */
fg_text fg_text_bytes(double bytes);

/* "1.23 GiB", "456 MiB", "7 B": of memory, and of options that are given with a letter alone. */
fg_text fg_text_memory(double bytes);

/* "1,234,567". */
fg_text fg_text_count(uint64_t n);

/* The one definition of bits per weight: all that is stored of the tensors, their scales included
 * and padding between them excluded, over the number of their elements (FORMAT.md 6.3). */
double fg_bits_per_weight(uint64_t bytes, uint64_t weights);

#endif
