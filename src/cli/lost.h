/* SPDX-License-Identifier: MIT
 *
 * A mapped file that goes away under a command: one line and status 1, as for any other bad file.
 */
#ifndef FG_SRC_CLI_LOST_H
#define FG_SRC_CLI_LOST_H

/* From now on a page of a mapped file that cannot be had (SIGBUS) ends the program so; temporary
 * files are removed, the terminal is as it was at this call.  SIGBUS of another origin kills. */
void cli_catch_lost_files(void);

#endif
