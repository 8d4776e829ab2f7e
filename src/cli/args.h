/* SPDX-License-Identifier: MIT
 *
 * Command-line options as a table: one array a command, parsed with getopt_long, printed by --help.
 */
#ifndef FG_SRC_CLI_ARGS_H
#define FG_SRC_CLI_ARGS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum opt_kind {
    OPT_FLAG,
    OPT_STR,
    OPT_U32,
    OPT_U64,
    OPT_F64,
    OPT_SIZE,
    /* a name of a list (choices.h); help is followed by the list */
    OPT_CPU,
    OPT_POLICY,
    OPT_PREDICT,
    OPT_IO,
    OPT_KV,
} opt_kind;

typedef struct opt {
    const char *name; /* long name without dashes */
    char letter;      /* 0: none */
    opt_kind kind;
    void *
        value; /* bool *, const char **, uint32_t *, uint64_t *, double *; size: uint64_t *; of a list:
                  * the enum's, as uint32_t *, with the default before parsing */
    double min, max;  /* numbers */
    const char *meta; /* "N", "TEXT"; NULL for flags */
    const char *help;
} opt;

typedef struct command {
    const char *name;
    const char *summary;  /* one line */
    const char *synopsis; /* operands, e.g. "MODEL TEXT_FILE" */
    const char *example;
    int (*run)(int argc, char **argv);
} command;

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* Parses argv (argv[0] is the command's name).  Options may stand before or behind operands.
 * Returns the number of operands, moved to operands[0..], or -1 when the command should return
 * *status (help was printed, or a usage error was reported). */
int args_parse(const command *c, const opt *opts, int n_opt, int argc, char **argv,
               const char **operands, int max_operand, int *status);

/* Reports a usage error: "fulgur <command>: <message>; see fulgur <command> --help". */
int args_usage(const command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
