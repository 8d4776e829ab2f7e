/* SPDX-License-Identifier: MIT
 *
 * The tutorials are executed by the tests as they stand here (tests/e2e/tutorials.py).
 */
#include "src/cli/topics.h"

#include <stdio.h>
#include <string.h>

#include "src/cli/args.h"
#include "src/cli/common.h"
#include "src/cli/confine.h"
#include "src/cli/help.h"

static const char sandbox_text[] =
    "Before a command reads anything that a stranger may have written, it gives away what it does "
    "not need: files by Landlock, system calls by seccomp. Both hold for every thread, and nobody "
    "gets anything back. A model file that takes over its reader then finds no network, no other "
    "program, and no file but those below.\n"
    "The system's own data may be read in every command (/proc, /sys, locales, time zones, "
    "terminal "
    "descriptions), /dev/null, /dev/zero and /dev/tty be written. Reading experts with io_uring "
    "goes through rings that were made before and can do nothing but read. No command starts a "
    "program or a process, opens a socket, changes owners or modes, or pushes text into the "
    "terminal. OpenBLAS (convert --calib) and the driver of a card are loaded before.\n"
    "A folder is open with all that is in it: with the model in your home folder, `convert` and "
    "`chat` may write there. Give models a folder of their own.\n"
    "With a card (`--gpu`) its driver needs more: devices may be opened and asked, system folders "
    "be read, /tmp and /dev/shm be written, and sockets of this machine be used, as its "
    "services listen there. Other programs and the network stay out of reach; `--gpu off` takes "
    "the rest "
    "away too.\n"
    "`--no-sandbox` leaves all of it, and says so in a line. A kernel without Landlock (before "
    "Linux 5.13, or where it is switched off) or seccomp is a line too, and the command goes on "
    "with the other one. `fulgur doctor` says what this kernel has.\n"
    "What the paths of a command line may be used for; `makes` is create, write, rename and "
    "unlink:";

static const topic topics[] = {
    {"sandbox", "what each command may read, write, make and remove", sandbox_text, confine_print},
};
enum { N_TOPIC = sizeof topics / sizeof topics[0] };

const topic *topic_at(int i)
{
    return i < N_TOPIC ? &topics[i] : NULL;
}

const topic *topic_find(const char *name)
{
    for (int i = 0; i < N_TOPIC; i++) {
        if (strcmp(topics[i].name, name) == 0) return &topics[i];
    }
    return NULL;
}

int topic_print(const topic *t)
{
    printf("fulgur help %s: %s\n\n", t->name, t->summary);
    for (const char *at = t->text; *at != '\0';) {
        const size_t n = strcspn(at, "\n");
        const bool as_it_is = strncmp(at, "  ", 2) == 0;
        if (as_it_is) printf("%.*s\n", (int)n, at);
        if (!as_it_is) help_put(at, n, 0, 0);
        at += n;
        at += *at == '\n';
        if (!as_it_is || strncmp(at, "  ", 2) != 0) (void)putchar('\n');
    }
    if (t->more != NULL) t->more();
    return cli_finish_stdout();
}
