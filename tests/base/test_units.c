/* SPDX-License-Identifier: MIT
 *
 * Numbers as texts: memory and files in their own units, three digits, at the borders between two.
 */
#include <string.h>

#include "src/base/units.h"
#include "tests/fg_test.h"

static void check(const char *got, const char *want)
{
    if (strcmp(got, want) != 0) fg_test_fail(__FILE__, __LINE__, "%s, expected %s", got, want);
}

FG_TEST(memory_in_powers_of_1024)
{
    check(fg_text_memory(0).s, "0 B");
    check(fg_text_memory(1023).s, "1023 B");
    check(fg_text_memory(1024).s, "1.00 KiB");
    check(fg_text_memory(0x1p29).s, "512 MiB");
    check(fg_text_memory(512 * 0x1p30).s, "512 GiB"); /* --ram 512G */
    check(fg_text_memory(1000 * 0x1p20).s, "1000 MiB");
    check(fg_text_memory(0x1p30 - 1).s, "1.00 GiB");
    check(fg_text_memory(1.5 * 0x1p40).s, "1.50 TiB");
    check(fg_text_memory(0x1p63).s, "8388608 TiB");
}

FG_TEST(files_in_powers_of_1000)
{
    check(fg_text_bytes(999).s, "999 B");
    check(fg_text_bytes(1000).s, "1.00 kB");
    check(fg_text_bytes(999499999).s, "999 MB");
    check(fg_text_bytes(999999999).s, "1.00 GB");
    check(fg_text_bytes(248600857904).s, "249 GB");
    check(fg_text_bytes(38932016).s, "38.9 MB");
}

FG_TEST(counts)
{
    check(fg_text_count(0).s, "0");
    check(fg_text_count(999).s, "999");
    check(fg_text_count(1000).s, "1,000");
    check(fg_text_count(456089655296).s, "456,089,655,296");
    check(fg_text_count(UINT64_MAX).s, "18,446,744,073,709,551,615");
}

FG_TEST(bits_per_weight)
{
    CHECK(fg_bits_per_weight(17, 32) == 4.25);
    CHECK(fg_bits_per_weight(0, 0) == 0.0);
}
