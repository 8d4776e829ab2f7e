/* SPDX-License-Identifier: MIT */
#include "src/cli/state_dir.h"

#include <stdio.h>
#include <stdlib.h>

#include "src/base/io.h"

fg_status cli_state_path(char **out, const char *name, fg_err *err)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char tail[128];
    const bool set = state != NULL && state[0] == '/';
    *out = NULL;
    if (!set && (home == NULL || home[0] != '/')) {
        return fg_fail(err, FG_EINVAL, "HOME: %s, expected a folder's absolute path",
                       home == NULL ? "not set" : home);
    }
    (void)snprintf(tail, sizeof tail, "%sfulgur/%s", set ? "" : ".local/state/", name);
    *out = fg_io_join(set ? state : home, tail);
    return *out == NULL ? fg_fail_nomem(err, name) : FG_OK;
}
