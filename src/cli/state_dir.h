/* SPDX-License-Identifier: MIT
 *
 * Where the program keeps what it was asked to keep.
 */
#ifndef FG_SRC_CLI_STATE_DIR_H
#define FG_SRC_CLI_STATE_DIR_H

#include "src/base/status.h"

/* $XDG_STATE_HOME/fulgur/NAME, or, when that is not set (or no absolute path, which its
 * specification says to ignore), ~/.local/state/fulgur/NAME.  Makes nothing.  fg_mem_free.
 * FG_EINVAL: HOME is not set either; FG_ENOMEM. */
fg_status cli_state_path(char **out, const char *name, fg_err *err);

/* Makes the folders above a path, for the user alone; what cannot be made is noticed by whoever
 * opens the file. */
void cli_make_folders(const char *path);

/* The folder $XDG_STATE_HOME/fulgur itself for a process that may come to keep something there, and
 * then has no right any more to make it: made now, for its owner only, and held until the release,
 * which removes it, and what was made above it, if nothing was put there and nobody else holds it.
 * NULL: it cannot be made. */
const char *cli_state_hold(void);
const char *cli_state_above(void); /* the nearest folder that was there before; NULL: not held */
void cli_state_release(void);

#endif
