/* SPDX-License-Identifier: MIT
 *
 * Keys of signatures as a user has them: a file named on the command line, or those that were
 * pinned in a folder of the user's own.  Never one that came with the model, unless somebody says
 * so.
 */
#ifndef FG_SRC_CLI_ORIGIN_H
#define FG_SRC_CLI_ORIGIN_H

#include <stdbool.h>

#include "src/cli/common.h"
#include "src/format/signature.h"

/* What a command was told. */
typedef struct origin {
    bool require;    /* --require-signature */
    const char *key; /* --key; NULL: the pinned ones */
    char *pinned;    /* path of these; owned */
} origin;

/* Options of the commands that run a model; paste after STREAM_OPTS. */
#define SIGNED_OPTS(o)                                                                             \
    {"require-signature",                                                                          \
     0,                                                                                            \
     OPT_FLAG,                                                                                     \
     &(o).require,                                                                                 \
     0,                                                                                            \
     0,                                                                                            \
     NULL,                                                                                         \
     "refuse a model that is not signed by a pinned key, or by --key"},                            \
    {                                                                                              \
        "key", 0, OPT_STR, &(o).key, 0, 0, "FILE",                                                 \
            "public key of the signature; implies --require-signature"                             \
    }

/* What the manual pages say of it. */
#define SIGNED_ABOUT                                                                               \
    "\nWith `--require-signature` the model must have a signature, MODEL.sig, by a key that "      \
    "`fulgur key pin` knows or that `--key` names. Metadata and what every token uses are "        \
    "checked at opening, an expert when it is first used: one that is not what was signed "        \
    "ends the answer there, by its name, with status 1; one that nobody uses only `fulgur "        \
    "verify` finds. SHA-256 does 1 to 2 GB/s and processor; lines say how much was checked, "      \
    "and how long it took. With `--residency copy` all is checked at opening. Metadata "           \
    "measured later (quality, heat) is not signed and is named. A drive that gives other "         \
    "bytes the second time is not found out. An `--image` is refused: its weights would be "       \
    "used in place of those that were checked."

/* The file of keys to ask for a signature by, NULL: none was asked for; borrowed till free.  Says
 * on stderr which key of --key is not pinned.  FG_EIO (no key is pinned), FG_ENOMEM, those of
 * fg_keys_read. */
fg_status origin_keys(origin *o, const char **path, fg_err *err);
/* The same for an engine; what it keeps is freed at the end of the process. */
fg_status origin_require(origin *o, fg_engine_opts *eo, fg_err *err);
void origin_free(origin *o);

/* $XDG_CONFIG_HOME/fulgur/keys or that below ~/.config; NULL with FG_EIO when neither is set;
 * freed with fg_mem_free. */
char *origin_pinned_path(fg_err *err);
bool origin_is_pinned(const fg_public_key *k);

#endif
