/* SPDX-License-Identifier: MIT
 *
 * What is made from the option tables, in every form: the text of --help, the longer one of
 * fulgur help COMMAND, manual pages, completions for bash and zsh.  `fulgur COMMAND --help=FORM`
 * prints one, so that a page is made where the command's own table is.  `make install` runs the
 * built program for the others.
 */
#ifndef FG_SRC_CLI_HELP_H
#define FG_SRC_CLI_HELP_H

#include "src/cli/args.h"
#include "src/cli/topics.h"

/* The forms, and the stem of the functions that print them. */
#define HELP_FORMS(X)                                                                              \
    X(brief) /* --help */                                                                          \
    X(full)  /* fulgur help COMMAND: with the description and all examples */                      \
    X(man)   /* roff, man(7) */                                                                    \
    X(bash)  /* of the program: the whole script; of a command: its part of it */                  \
    X(zsh)   /* likewise */                                                                        \
    X(names) /* names of all commands, one a line */

/* Prints a command's help; form is a name of HELP_FORMS, NULL for brief.  Returns an exit status:
 * EXIT_FAILED, with a message, for a table with a flaw (args_flaw), EXIT_USAGE for an unknown
 * form. */
int help_command(const command *c, const opt *opts, int n_opt, const char *form);

/* The same of the program itself; all holds n commands, without those of two words. */
int help_program(const command *const *all, int n, const char *form);

/* The names of a choice: "red, green (default) or blue" with between ", ", before_last " or " and
 * mark " (default)", which follows the value that it has now. */
void help_join_choice(const opt_choice *c, const char *between, const char *before_last,
                      const char *mark, char *out, size_t size);

/* An option's help; a choice's names are added.  In a static buffer. */
const char *help_text(const opt *o);

/* Words of the size bytes of text, one space between two, from column `at` on, wrapped at 100
 * columns, later lines after `indent`; without backquotes.  Ends the line. */
void help_put(const char *text, size_t size, int at, int indent);

/* Topics that the program's own help and page list (topic_at), and number i of them; NULL: no
 * more. */
void help_set_topics(const topic *(*at)(int i));
const topic *help_topic(int i);

/* The value is the name of a file or folder, or may be one. */
bool help_is_path(const opt *o);

/* Prints the version; an exit status. */
int help_version(void);

/* What every command has, as rows of a table: --model where there is one, --no-sandbox, --quiet,
 * --version and --help.  args.c knows each by its letter, and --no-sandbox by having none. */
enum { HELP_N_COMMON = 5 };
int help_common(const command *c, opt out[HELP_N_COMMON]);

/* The forms, for help.c alone. */
#define HELP_PROTOTYPES(form)                                                                      \
    void form##_command(const command *c, const opt *opts, int n_opt);                             \
    int form##_program(const command *const *all, int n);
HELP_FORMS(HELP_PROTOTYPES)
#undef HELP_PROTOTYPES

#endif
