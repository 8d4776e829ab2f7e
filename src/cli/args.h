/* SPDX-License-Identifier: MIT
 *
 * Command-line options as a table: one array a command.  Parsing, error texts, --help, the manual
 * page and the shell completions are all made from it (help.h).
 */
#ifndef FG_SRC_CLI_ARGS_H
#define FG_SRC_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/fulgur.h"

/* The kinds of options: enum value, what opt.value points to, and the stem of the functions in
 * args.c that parse a text and say what was wanted. */
#define OPT_KINDS(X)                                                                               \
    X(OPT_FLAG, bool, flag)                                                                        \
    X(OPT_STR, const char *, str)                                                                  \
    X(OPT_LIST, opt_list, list) /* texts, one each time the option is given */                     \
    X(OPT_U32, uint32_t, u32)                                                                      \
    X(OPT_U64, uint64_t, u64)                                                                      \
    X(OPT_F64, double, f64)                                                                        \
    X(OPT_SIZE, uint64_t, size)       /* bytes: 24G, 24GB */                                       \
    X(OPT_RATE, double, rate)         /* 1e9 bytes a second: 3GB/s */                              \
    X(OPT_GPU, int32_t, gpu)          /* a card's number, or FG_GPU_AUTO, FG_GPU_OFF */            \
    X(OPT_DRAFT, int32_t, draft)      /* a number up to max, or FG_DRAFT_AUTO, FG_DRAFT_OFF */     \
    X(OPT_TOKENS, uint64_t, tokens)   /* a number, or thousands: 80k */                            \
    X(OPT_CHOICE, opt_choice, choice) /* an enum, made with CHOICE */

typedef enum opt_kind {
#define OPT_KIND_ENUM(kind, type, stem) kind,
    OPT_KINDS(OPT_KIND_ENUM)
#undef OPT_KIND_ENUM
        OPT_KIND_COUNT
} opt_kind;

/* The value of an OPT_LIST; beyond OPT_LIST_MAX is a usage error. */
enum { OPT_LIST_MAX = 16 };
typedef struct opt_list {
    const char *text[OPT_LIST_MAX]; /* [n] */
    size_t n;
} opt_list;

/* An enum that counts from 0 and the name of each value; a value whose name is NULL or empty is not
 * offered.  The value at the start is the default and marked so. */
typedef struct opt_choice {
    unsigned *value;
    const char *(*name)(unsigned value);
    unsigned n;
} opt_choice;

/* opt.value of an OPT_CHOICE: CHOICE(o.policy, fg_policy_name, FG_POLICY_COUNT).  An enum without
 * negative values is an unsigned int here, and a compiler for which it is not says so. */
#define CHOICE(enum_value, name_of, count)                                                         \
    (&(opt_choice){.value = &(enum_value), .name = (name_of), .n = (count)})

typedef struct opt {
    const char *name; /* long name without dashes */
    char letter;      /* 0: none */
    opt_kind kind;
    void *value;     /* of the kind's type; bytes and rates: a number */
    double min, max; /* integers and OPT_F64 */
    /* "N", "TEXT", "FILE"; NULL for flags.  By FILE, MODEL and the like, or DIR, a shell knows that
     * it completes names of files or folders (completion.c). */
    const char *meta;
    const char *help; /* a choice's names are added to it */
} opt;

typedef struct command {
    const char *name;     /* "convert", "trace replay" */
    const char *summary;  /* one line */
    const char *synopsis; /* operands, e.g. "MODEL TEXT_FILE" */
    const char *example;  /* command lines, a newline between two */
    /* For the manual page and fulgur help COMMAND: paragraphs, a newline between two; what stands
     * in `backquotes` is set in bold. */
    const char *description;
    const struct command *sub; /* a command of two words that begins with this one, and of such
                                  a command the next; NULL: none */
    int (*run)(int argc, char **argv);
} command;

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

enum { MAX_OPT = 64 };

/* Parses argv (argv[0] is the command's name).  Options may stand before or after operands.
 * True with the n_operand operands in operands[0..]; false when the command should return *status
 * (help was printed, or a usage error was reported).  A command whose first operand
 * is a model takes it from -m or, when there is one operand too few, from the environment variable
 * FULGUR_MODEL.  The length of the table is checked where the command is compiled. */
#define args_parse(c, opts, n_opt, argc, argv, operands, n_operand, status)                        \
    args_parse_table(c, opts, ARGS_COUNT_CHECKED(n_opt), argc, argv, operands, n_operand, status)
#define ARGS_COUNT_CHECKED(n)                                                                      \
    ((int)(n) + 0 * (int)sizeof(struct {                                                           \
                    _Static_assert((n) <= MAX_OPT, "more options than MAX_OPT");                   \
                    int unused;                                                                    \
                }))
bool args_parse_table(const command *c, const opt *opts, int n_opt, int argc, char **argv,
                      const char **operands, int n_operand, int *status);

/* Whether an option that writes there was on the command line (of a choice: the enum). */
bool args_given(const void *value);

/* Called when args_parse has understood everything, before the command does anything; operands as
 * it has them.  What it returns but FG_OK ends the command. */
typedef fg_status args_entry_fn(const command *c, const opt *opts, int n_opt,
                                const char *const *operands, int n_operand, fg_err *err);
void args_on_entry(args_entry_fn *entry);

/* Parses one value as an option of this row would; false: `wanted` says what was expected. */
bool args_parse_value(const opt *o, const char *text, char *wanted, size_t size);

/* Reports a usage error: "fulgur: <command>: <message>; see fulgur <command> --help". */
int args_usage(const command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The option -m MODEL is there for commands whose first operand is a model. */
bool args_takes_model(const command *c);

/* --quiet was given: no progress and no notices on standard error. */
bool args_quiet(void);

/* --no-sandbox was given (confine.h). */
bool args_no_sandbox(void);

/* The first mistake in a table (two options of one name or letter, one without help, a choice
 * without names) as a message in text, or NULL.  --help asks it in every form. */
const char *args_flaw(const command *c, const opt *opts, int n_opt, char *text, size_t size);

#endif
