/* SPDX-License-Identifier: MIT
 *
 * fulgur COMMAND ...: finds the command and runs it.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "src/base/io.h"
#include "src/base/status.h"
#include "src/cli/args.h"
#include "src/cli/beside.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/cli/confine.h"
#include "src/cli/help.h"
#include "src/cli/lost.h"
#include "src/cli/nearest.h"
#include "src/cli/signals.h"
#include "src/cli/state_dir.h"
#include "src/cli/topics.h"

static const command *const commands[] = {
#define COMMAND_ROW(name) &cmd_##name,
    COMMANDS(COMMAND_ROW)
#undef COMMAND_ROW
};
enum { N_COMMAND = sizeof commands / sizeof commands[0] };

/* The command that argv begins with, of two words where those are one; *n_word of argv are its
 * name.  NULL: none. */
static const command *find(int argc, char **argv, int *n_word)
{
    for (int i = 0; i < N_COMMAND && argc > 0; i++) {
        const command *c = commands[i];
        if (strcmp(argv[0], c->name) != 0) continue;
        *n_word = 1;
        for (const command *s = argc < 2 ? NULL : c->sub; s != NULL; s = s->sub) {
            if (strcmp(argv[1], s->name + strlen(c->name) + 1) != 0) continue;
            *n_word = 2;
            return s;
        }
        return c;
    }
    return NULL;
}

/* Standard streams that whoever started the program has closed are opened, as what can be neither
 * read nor written: else the model would be file 0 or 1, a chat's questions be read from it and
 * reports written into it. */
static void hold_streams(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) != -1) continue;
        const int held = open("/", O_PATH); /* the lowest free number */
        if (held > fd) (void)close(held);
    }
}

/* Kernels keep their tiles on the stack, and threads have as much of it as the limit says: what is
 * too little for one would end in SIGSEGV somewhere. */
enum { STACK_LEAST = 256, KIB = 1024 };

static bool stack_is_enough(void)
{
    struct rlimit limit;
    char line[120]; /* fprintf would want 8 KiB for one */
    if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur >= STACK_LEAST * KIB) return true;
    const int n = snprintf(line, sizeof line,
                           "fulgur: stack: a limit of %llu KiB, expected at least %d (ulimit -s)\n",
                           (unsigned long long)limit.rlim_cur / KIB, STACK_LEAST);
    (void)!write(STDERR_FILENO, line, (size_t)n);
    return false;
}

/* OpenMP's own limit for its threads must not make it less.  Its library reads the environment
 * before main begins, hence this comes before libraries, and before a sanitizer is ready. */
__attribute__((no_sanitize("address", "thread", "undefined"))) static void
drop_stack_sizes(int argc, char **argv, char **env)
{
    (void)argc;
    (void)argv;
    char **to = env;
    for (; *env != NULL; env++) {
        if (strncmp(*env, "OMP_STACKSIZE=", 14) == 0) continue;
        if (strncmp(*env, "GOMP_STACKSIZE=", 15) == 0) continue;
        *to++ = *env;
    }
    *to = NULL;
}
__attribute__((section(".preinit_array"),
               used)) static void (*const before_libraries)(int, char **,
                                                            char **) = drop_stack_sizes;

static int unknown(const char *name)
{
    fg_err err;
    nearest best = {.least = UINT_MAX};
    for (int i = 0; i < N_COMMAND; i++) nearest_offer(&best, name, strlen(name), commands[i]->name);
    const char *meant = nearest_likely(&best, strlen(name));
    (void)fg_fail(&err, FG_EINVAL,
                  "%.100s: unknown command, expected one of those in fulgur --help%s%s", name,
                  meant == NULL ? "" : ", perhaps ", meant == NULL ? "" : meant);
    fprintf(stderr, "fulgur: %s\n", err.msg);
    return EXIT_USAGE;
}

/* fulgur help [COMMAND], and fulgur --help [COMMAND] */
static int help(int argc, char **argv, const char *form_name)
{
    char form[32];
    int n_word;
    if (argc == 0 || argv[0][0] == '-' || strcmp(argv[0], "help") == 0) {
        return help_program(commands, N_COMMAND, NULL);
    }
    const topic *t = argc == 1 ? topic_find(argv[0]) : NULL;
    if (t != NULL) return topic_print(t);
    const command *c = find(argc, argv, &n_word);
    (void)snprintf(form, sizeof form, "--help=%s", form_name);
    return c == NULL ? unknown(argv[0]) : c->run(2, (char *[]){argv[0], form, NULL});
}

int main(int argc, char **argv)
{
    static const char form[] = "--help=";
    int n_word;
    hold_streams();
    help_set_topics(topic_at);
    if (argc < 2) {
        (void)help_program(commands, N_COMMAND, NULL);
        return EXIT_USAGE;
    }
    const char *first = argv[1];
    if (strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0) {
        return help(argc - 2, argv + 2, "brief");
    }
    if (strncmp(first, form, strlen(form)) == 0) {
        return help_program(commands, N_COMMAND, first + strlen(form));
    }
    if (strcmp(first, "help") == 0) return help(argc - 2, argv + 2, "full");
    if (strcmp(first, "--version") == 0 || strcmp(first, "-V") == 0) return help_version();
    if (!stack_is_enough()) return EXIT_FAILED;
    (void)signal(SIGXFSZ, SIG_IGN); /* a file-size limit is an error line, not a death */
    cli_catch_lost_files();
    beside_find();
    (void)setenv("HWLOC_HIDE_ERRORS", "2", 0); /* what is missing is said in our words */
    args_on_entry(confine);
    fg_io_on_slow(cli_say_slow);
    const command *c = find(argc - 1, argv + 1, &n_word);
    if (c == NULL) return unknown(first);
    const int status = c->run(argc - n_word, argv + n_word);
    cli_state_release();
    return cli_exit_status(status);
}
