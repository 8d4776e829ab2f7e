/* SPDX-License-Identifier: MIT
 *
 * The option --split DIR1[,DIR2...] of the commands that write a model.
 */
#ifndef FG_SRC_CLI_SPLIT_OPTION_H
#define FG_SRC_CLI_SPLIT_OPTION_H

#include "src/cli/args.h"

enum { SPLIT_MAX_DIR = 15 };

typedef struct split_dirs {
    char text[4096]; /* the folders, each ended by a NUL */
    const char *dir[SPLIT_MAX_DIR];
    uint32_t n;
} split_dirs;

#define SPLIT_OPT(text, more)                                                                      \
    {                                                                                              \
        "split", 0, OPT_STR, &(text), 0, 0, "DIR,...",                                             \
            "spread the experts over OUT and parts in these folders, one a drive; no commas" more  \
    }

/* text NULL: no folders.  False, with a usage error reported, when it names none or too many. */
bool parse_split(const command *c, const char *text, split_dirs *out);

#endif
