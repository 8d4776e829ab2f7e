/* SPDX-License-Identifier: MIT
 *
 * Prints the level that this CPU gets: without it, a test that skips what the CPU lacks could skip
 * everything and pass.
 */
#include <stdio.h>

#include "src/sys/cpu.h"

int main(void)
{
    puts(fg_cpu_level_name(fg_cpu_level_of(fg_cpu_detect())));
    return 0;
}
