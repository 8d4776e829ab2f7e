/* SPDX-License-Identifier: MIT
 *
 * The commands, one file each: cmd_<name>.c.
 */
#ifndef FG_SRC_CLI_COMMANDS_H
#define FG_SRC_CLI_COMMANDS_H

#include "src/cli/args.h"

extern const command cmd_convert, cmd_synth, cmd_run, cmd_chat, cmd_score, cmd_logits, cmd_tokenize,
    cmd_info, cmd_verify, cmd_bench, cmd_sensitivity, cmd_plan, cmd_doctor, cmd_trace;

#endif
