/* SPDX-License-Identifier: MIT
 *
 * The observers on the command line: run --taps and --profile.
 */
#ifndef FG_SRC_CLI_OBSERVE_H
#define FG_SRC_CLI_OBSERVE_H

#include <stdio.h>

#include "src/engine/session.h"

typedef struct observe {
    FILE *taps; /* NULL: none */
    const char *path;
    uint32_t d_model, n_used;
    fg_profile profile;
} observe;

/* Observes the session from now on.  path (NULL: none) gets a line of JSON for each layer and
 * token: hash and norm of the hidden state, or the experts with their weights; two runs are
 * compared with diff.  FG_EIO. */
fg_status observe_start(observe *o, fg_session *s, const char *path, bool profile, fg_err *err);

/* Ends it, and prints where the time went, on stderr, when a profile was asked for.  FG_EIO: the
 * file could not be written.  Accepts one that was never started (zeroed). */
fg_status observe_end(observe *o, bool profile, fg_err *err);

#endif
