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

#endif
