/* SPDX-License-Identifier: MIT
 *
 * All here runs in the handler of a signal, on whichever thread met it: nothing may be called but
 * what is async-signal-safe.
 */
#include "src/cli/lost.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "src/base/io.h"
#include "src/cli/args.h"
#include "src/cli/signals.h"
#include "src/fulgur.h"

static struct termios terminal;
static bool has_terminal;

/* Control bytes of a name would be obeyed by a terminal. */
static size_t put(char *line, size_t n, size_t cap, const char *text)
{
    for (; *text != '\0' && n < cap; text++) {
        const unsigned char c = (unsigned char)*text;
        line[n++] = c < 0x20 || c == 0x7f ? '?' : *text;
    }
    return n;
}

static void say(int fd, const char *bytes, size_t n)
{
    if (write(fd, bytes, n) < 0) return; /* nobody reads it, and there is nobody to tell */
}

static void on_lost_page(int sig, siginfo_t *info, void *context)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    static const char tail[] = ": cut short or not readable while in use, expected the file as it "
                               "was opened\n";
    static const char undim[] = "\033[0m", clear[] = "\r\033[K";
    char line[4096 + sizeof tail];
    (void)context;
    const char *path = info->si_code > 0 ? fg_mapped_file(info->si_addr) : NULL;
    if (path == NULL) { /* sent by somebody, or a fault that is not a file's */
        (void)signal(sig, SIG_DFL);
        (void)raise(sig);
        return;
    }
    while (atomic_flag_test_and_set(&said)) (void)pause(); /* another thread's line is enough */
    fg_new_file_drop_all();
    cli_say_farewell();
    if (has_terminal) (void)tcsetattr(0, TCSANOW, &terminal);
    if (isatty(1) == 1) say(1, undim, sizeof undim - 1); /* reasoning is dimmed */
    if (isatty(2) == 1) say(2, clear, sizeof clear - 1); /* a line of progress */
    size_t n = put(line, 0, sizeof line, "fulgur: ");
    n = put(line, n, sizeof line - sizeof tail, path);
    memcpy(line + n, tail, sizeof tail - 1);
    say(2, line, n + sizeof tail - 1);
    _exit(EXIT_FAILED);
}

void cli_catch_lost_files(void)
{
    struct sigaction a = {.sa_sigaction = on_lost_page, .sa_flags = SA_SIGINFO};
    has_terminal = tcgetattr(0, &terminal) == 0;
    (void)sigemptyset(&a.sa_mask);
    (void)sigaction(SIGBUS, &a, NULL);
}
