/* SPDX-License-Identifier: MIT
 *
 * What a bundle has beside the program for machines that lack it: descriptions of terminals and
 * the characters of UTF-8 (share/fulgur/terminfo and locale, scripts/bundle.sh).
 */
#ifndef FG_SRC_CLI_BESIDE_H
#define FG_SRC_CLI_BESIDE_H

/* Has the C library look there after the system's own places, by TERMINFO_DIRS and LOCPATH, unless
 * those are set.  Before there are other threads, and before a sandbox, which opens them. */
void beside_find(void);

#endif
