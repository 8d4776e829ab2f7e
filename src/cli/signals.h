/* SPDX-License-Identifier: MIT
 *
 * What SIGINT, SIGTERM and SIGHUP do: the first sets a flag, which a command looks at between two
 * pieces of its work, so that it ends in order: convert keeps what it has done, every other command
 * removes its unfinished file.  The second kills at once.  The status of a command that was ended
 * so is 128 and the signal's number.
 */
#ifndef FG_SRC_CLI_SIGNALS_H
#define FG_SRC_CLI_SIGNALS_H

#include <stdbool.h>

/* From the first call on.  A SIGHUP or SIGTERM that is ignored (nohup) stays so; SIGINT does not,
 * because shells ignore it for what runs in the background, and whoever sends it there means it. */
void cli_catch_interrupt(void);
bool cli_interrupted(void);
/* Forgets a SIGINT (chat at its prompt). */
void cli_clear_interrupt(void);
/* From now on a further SIGINT is no more than the first: of a conversation, which must not be lost
 * because an answer to Ctrl-C took a moment.  SIGTERM and SIGHUP twice still kill. */
void cli_keep_interrupt(bool keep);
/* What is done before the process is killed or dies of a lost file; async-signal-safe.  NULL:
 * nothing. */
void cli_set_farewell(void (*fn)(void));
void cli_say_farewell(void);
/* True when the process is to end: not for SIGINT, which to run and chat means the reply only. */
bool cli_terminated(void);

/* Of the process, when a command ended with `status`. */
int cli_exit_status(int status);

#endif
