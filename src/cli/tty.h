/* SPDX-License-Identifier: MIT
 *
 * The terminal on standard input and output during a conversation: how its keys are handled while
 * the model speaks, its size, and that it is left as it was found, whatever ends or stops the
 * program.
 */
#ifndef FG_SRC_CLI_TTY_H
#define FG_SRC_CLI_TTY_H

#include <stdbool.h>

/* Remembers how the terminal was found; from now on Ctrl-Z and a second Ctrl-C leave it so.
 * False: standard input and output are not both one. */
bool tty_open(void);
void tty_close(void);

/* Keys are neither shown nor put into lines.  speaks: Ctrl-C and Ctrl-Z are signals, while the
 * model speaks; else they are keys, as at the prompt, which may be pasted. */
void tty_hush(bool speaks);

/* Whether pasted text comes in brackets. */
void tty_paste(bool brackets);

/* Stops the process as Ctrl-Z does; returns when it goes on. */
void tty_stop(void);

/* True when, since it was last asked, the window has another size or the process was stopped: what
 * was drawn may not be where it was. */
bool tty_moved(void);

/* Columns of the window; 80 where nobody says. */
unsigned tty_width(void);

#endif
