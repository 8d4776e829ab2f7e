/* SPDX-License-Identifier: MIT
 *
 * fulgur COMMAND ...: finds the command and runs it.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "src/cli/args.h"
#include "src/cli/commands.h"
#include "src/engine/engine.h"

static const command *const commands[] = {
    &cmd_convert, &cmd_synth,  &cmd_run,   &cmd_chat,        &cmd_score, &cmd_logits, &cmd_tokenize,
    &cmd_info,    &cmd_verify, &cmd_bench, &cmd_sensitivity, &cmd_plan,  &cmd_doctor, &cmd_trace,
};
enum { N_COMMAND = sizeof commands / sizeof commands[0] };

static void print_help(void)
{
    printf("fulgur %s: MiniMax-M1 on CPUs from one quantized file\n\n"
           "Usage: fulgur COMMAND [options]\n\n",
           FG_VERSION);
    for (int i = 0; i < N_COMMAND; i++) {
        printf("  %-12s %s\n", commands[i]->name, commands[i]->summary);
    }
    printf("\nfulgur COMMAND --help describes a command.\n");
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help();
        return argc < 2 ? EXIT_USAGE : EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("fulgur %s\n", FG_VERSION);
        return EXIT_OK;
    }
    (void)signal(SIGXFSZ, SIG_IGN); /* a file-size limit is an error line, not a death */
    for (int i = 0; i < N_COMMAND; i++) {
        if (strcmp(argv[1], commands[i]->name) == 0) return commands[i]->run(argc - 1, argv + 1);
    }
    fprintf(stderr, "fulgur: %s: unknown command, expected one of those in fulgur --help\n",
            argv[1]);
    return EXIT_USAGE;
}
