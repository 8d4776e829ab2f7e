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
    "`fulgur key pin` knows or that `--key` names. Metadata is checked first, then every chunk "   \
    "of the weights before the first is used, with `--ram` too: an expert that is found out when " \
    "it comes would end an answer in its middle, and nothing is saved once most were asked for. "  \
    "The file is read once, at the speed of the drive or of SHA-256 on all processors (1 to 2 "    \
    "GB/s each), and a line says how long that took. Metadata that was measured later (quality, "  \
    "heat) is not signed and is named. What is on the disk must stay there: a drive that gives "   \
    "other bytes the second time is not found out. An `--image` is refused: its weights would be " \
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
