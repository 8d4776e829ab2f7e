/* SPDX-License-Identifier: MIT
 *
 * The sandbox of each command (src/sys/sandbox.h): one table of what it reads, writes and makes,
 * in words of its command line, which is put in force when that is understood and shown by
 * `fulgur help sandbox`.  A path option that the table does not have may be read.
 */
#ifndef FG_SRC_CLI_CONFINE_H
#define FG_SRC_CLI_CONFINE_H

#include "src/cli/args.h"

/* An args_entry_fn: loads what the command may load, makes its rings, and gives everything else
 * away.  What the kernel has not is a line on stderr, and so is --no-sandbox.  FG_EIO: the rules
 * could not be made for want of open files or memory. */
fg_status confine(const command *c, const opt *opts, int n_opt, const char *const *operands,
                  int n_operand, fg_err *err);

/* The table as text on standard output. */
void confine_print(void);

#endif
