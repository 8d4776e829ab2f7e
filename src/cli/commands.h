/* SPDX-License-Identifier: MIT
 *
 * The commands, one file each: cmd_<name>.c.
 */
#ifndef FG_SRC_CLI_COMMANDS_H
#define FG_SRC_CLI_COMMANDS_H

#include "src/cli/args.h"

/* In the order of fulgur --help. */
#define COMMANDS(X)                                                                                \
    X(convert)                                                                                     \
    X(synth)                                                                                       \
    X(run)                                                                                         \
    X(chat)                                                                                        \
    X(session)                                                                                     \
    X(score)                                                                                       \
    X(logits)                                                                                      \
    X(tokenize)                                                                                    \
    X(info)                                                                                        \
    X(verify)                                                                                      \
    X(sign)                                                                                        \
    X(key)                                                                                         \
    X(carry)                                                                                       \
    X(bench)                                                                                       \
    X(sensitivity)                                                                                 \
    X(plan)                                                                                        \
    X(doctor)                                                                                      \
    X(numa)                                                                                        \
    X(trace)                                                                                       \
    X(factor)

#define COMMAND_DECLARE(name) extern const command cmd_##name;
COMMANDS(COMMAND_DECLARE)
#undef COMMAND_DECLARE

#endif
